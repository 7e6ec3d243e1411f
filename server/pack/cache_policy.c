/* SPDX-License-Identifier: Apache-2.0 */
/* cache_policy.c -- what enters a full cache, and what leaves for it.
 *
 * A shuffled epoch over D bytes looks each unit up once; the next epoch in another order. With a
 * cache of C < D bytes the best is to keep what is in: every epoch then hits what is held, held /
 * D. LRU would hit nothing. So a full cache changes only on evidence that no sequence of shuffled
 * epochs can give. Evidence is gathered in windows of look-ups: S bytes looked up since the window
 * began, F bytes of distinct units among them (a distinct count, error 2 %).
 *
 * (1) Stale: a window ends when S >= 3.5 F and S >= 2 C. If a window of shuffled epochs held no
 *     whole epoch, it would be parts of two, S <= 2 F. So it holds one, and a segment not hit in it
 *     is no part of what is read: it may go.
 * (2) Hotter: over any window of epochs, whole or partial, a unit is looked up at most S/D + 2
 *     times and any other at least S/D - 1 times (and 0). A miss enters if it was asked for more
 *     than 2 c + 3 times in this window, where c is the mean number of hits of a unit in a segment
 *     that was there when the window began: S/D + 2 > 2 (S/D - 1) + 3 is never true for S >= D, and
 *     for S < D no unit is asked for more than twice. Misses are counted in a table of ghosts that
 *     can forget, never invent (but for a 40-bit tag that collides). */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "pack/cache_priv.h"

enum { GHOST_COUNT_MAX = 255 };

/* A ghost: tag << 24 | window << 8 | count. */
static uint64_t ghost_make(uint64_t tag, uint32_t window, uint32_t count)
{
	return tag << 24 | (uint64_t)(window & 0xffff) << 8 | count;
}
static uint64_t ghost_tag(uint64_t g) { return g >> 24; }
static uint32_t ghost_count(uint64_t g, uint32_t window)
{
	return ((g >> 8) & 0xffff) == (window & 0xffff) ? (uint32_t)(g & 0xff) : 0;
}

/* Counts a miss; returns how often the unit was missed in this window, as far as the table
 * remembers. */
static uint32_t ghost_miss(struct cache *cache, uint64_t hash)
{
	uint32_t window = atomic_load_explicit(&cache->window, memory_order_relaxed), least = UINT32_MAX;
	_Atomic uint64_t *set = cache->ghosts + (hash % cache->ghost_sets) * GHOST_WAYS, *victim = set;
	uint64_t tag = hash >> 24;

	for (uint32_t i = 0; i < GHOST_WAYS; i++) {
		uint64_t g = atomic_load_explicit(&set[i], memory_order_relaxed);
		uint32_t count = ghost_count(g, window);

		if (ghost_tag(g) == tag && count > 0) {
			count += count < GHOST_COUNT_MAX;
			atomic_store_explicit(&set[i], ghost_make(tag, window, count), memory_order_relaxed);
			return count;
		}
		if (count < least) {
			least = count;
			victim = &set[i];
		}
	}
	if (least > 1) { /* whoever was asked for more often stays a little longer */
		uint64_t g = atomic_load_explicit(victim, memory_order_relaxed);

		atomic_store_explicit(victim, ghost_make(ghost_tag(g), window, least - 1), memory_order_relaxed);
		return 1;
	}
	atomic_store_explicit(victim, ghost_make(tag, window, 1), memory_order_relaxed);
	return 1;
}

/* ---- windows ---- */

/* Under the cache's lock. */
static void window_begin(struct cache *cache)
{
	struct cache_stats now = { 0 };

	index_totals(cache, &now);
	cache->window_bytes = now.hit_bytes + atomic_load(&cache->miss_bytes);
	cache->window_lookups = now.hits + now.misses;
	index_distinct_reset(cache);
	for (uint32_t i = 0; i < cache->kept.count; i++)
		atomic_store_explicit(&cache->segments[i].hits, 0, memory_order_relaxed);
	atomic_fetch_add(&cache->window, 1);
}

static bool is_kept(const struct cache_segment *s)
{
	return atomic_load_explicit(&s->word, memory_order_relaxed) >> SEGMENT_STATE_SHIFT == SEGMENT_KEPT;
}

static bool is_old(const struct cache *cache, const struct cache_segment *s)
{
	return is_kept(s) && atomic_load_explicit(&s->born, memory_order_relaxed) !=
		atomic_load_explicit(&cache->window, memory_order_relaxed);
}

static bool window_is_over(struct cache *cache)
{
	struct cache_stats now = { 0 };
	uint64_t bytes, lookups;

	index_totals(cache, &now);
	bytes = now.hit_bytes + atomic_load(&cache->miss_bytes) - cache->window_bytes;
	lookups = now.hits + now.misses - cache->window_lookups;
	if (lookups == 0 || bytes < 2 * (uint64_t)cache->kept.count * CACHE_SEGMENT_SIZE)
		return false;
	/* In units: S / F is look-ups over distinct units, of one mean length. */
	return (double)lookups >= 3.5 * index_distinct(cache);
}

static void window_look(struct cache *cache)
{
	uint32_t n = 0;

	if (pthread_mutex_trylock(&cache->lock) != 0)
		return; /* somebody else looks */
	if (window_is_over(cache)) {
		for (uint32_t i = 0; i < cache->kept.count; i++)
			if (is_old(cache, &cache->segments[i]) && atomic_load(&cache->segments[i].hits) == 0)
				cache->stale[n++] = i;
		atomic_store(&cache->stale_count, n);
		window_begin(cache);
	}
	pthread_mutex_unlock(&cache->lock);
}

void policy_full(struct cache *cache)
{
	if (atomic_exchange(&cache->is_full, true))
		return;
	window_begin(cache);
}

struct cache_segment *policy_stale(struct cache *cache)
{
	struct cache_segment *found = NULL;
	uint32_t n;

	pthread_mutex_lock(&cache->lock);
	for (n = atomic_load(&cache->stale_count); n > 0 && found == NULL; n--) {
		struct cache_segment *s = &cache->segments[cache->stale[n - 1]];

		/* It may have been hit since: then it is not stale. */
		if (is_old(cache, s) && atomic_load(&s->hits) == 0)
			found = s;
	}
	atomic_store(&cache->stale_count, n);
	pthread_mutex_unlock(&cache->lock);
	return found;
}

/* ---- admission ---- */

/* The coldest of some old segments; *need is how often a unit must be asked for to enter in its
 * place. */
static struct cache_segment *coldest(struct cache_local *local, uint32_t *need)
{
	struct cache *cache = local->cache;
	struct cache_segment *best = NULL;
	double best_mean = 0;

	for (uint32_t i = 0; i < VICTIM_SAMPLES; i++) {
		struct cache_segment *s = &cache->segments[rng_below(&local->rng, cache->kept.count)];
		uint32_t units = atomic_load_explicit(&s->units, memory_order_relaxed);
		double mean;

		if (!is_old(cache, s))
			continue;
		mean = units ? (double)atomic_load_explicit(&s->hits, memory_order_relaxed) / units : 0;
		if (best == NULL || mean < best_mean) {
			best = s;
			best_mean = mean;
		}
	}
	*need = best != NULL ? (uint32_t)(2 * best_mean + 3) + 1 : UINT32_MAX;
	return best;
}

bool policy_admit(struct cache_local *local, uint64_t hash, uint32_t len, uint32_t least)
{
	struct cache *cache = local->cache;
	uint32_t count, need;
	struct cache_segment *victim;

	if (!atomic_load_explicit(&cache->is_full, memory_order_relaxed))
		return least <= 1 || ghost_miss(cache, hash) >= least;
	if (++local->misses % POLICY_EVERY == 0)
		window_look(cache);
	count = ghost_miss(cache, hash);
	if (count < least)
		return false;
	if (atomic_load_explicit(&cache->kept_free, memory_order_relaxed) > 0 ||
	    atomic_load_explicit(&cache->stale_count, memory_order_relaxed) > 0)
		return true;
	if (local->kept != NULL && segment_has_room(local->kept, len, 512, 1))
		return count >= local->threshold;
	if (count <= 3)
		return false;
	victim = coldest(local, &need);
	if (victim == NULL || count < need)
		return false;
	local->victim = victim;
	local->threshold = need;
	return true;
}

int policy_init(struct cache *cache, uint64_t ghost_budget)
{
	cache->ghost_sets = ghost_budget / (GHOST_WAYS * sizeof(*cache->ghosts));
	if (cache->ghost_sets < 64)
		cache->ghost_sets = 64;
	cache->ghosts = calloc(cache->ghost_sets * GHOST_WAYS, sizeof(*cache->ghosts));
	cache->stale = calloc(cache->kept.count ? cache->kept.count : 1, sizeof(*cache->stale));
	return cache->ghosts != NULL && cache->stale != NULL ? 0 : -GRANARY_ENOMEM;
}

void policy_release(struct cache *cache)
{
	free(cache->ghosts);
	free(cache->stale);
}
