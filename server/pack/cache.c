/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c -- segments: taken, filled, referenced, given back. The index is in cache_index.c, what
 * may enter in cache_policy.c, the states in cache_priv.h.
 * Invariants: (1) bytes of a segment do not change while it is referenced or indexed, but past
 * `used`; (2) a segment is filled by one reactor, which holds one reference meanwhile; (3) a unit
 * is in the index only with its unit_ref at the back of its segment, so an eviction finds all of
 * them; (4) index, ghosts and kept segments share the one budget. */
#include "pack/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "io/io.h"
#include "io/mem.h"
#include "pack/cache_priv.h"

struct unit_ref { uint64_t pack, offset; };
_Static_assert(sizeof(struct unit_ref) == UNIT_REF_SIZE, "counted by segment_has_room()");

/* ---- segments ---- */

static uint32_t word_of(enum segment_state state, uint32_t refs)
{
	return (uint32_t)state << SEGMENT_STATE_SHIFT | refs;
}

static bool is_transient(const struct cache *cache, const struct cache_segment *s)
{
	return s->index >= cache->kept.count;
}

static void wake_waiters(struct cache *cache) /* under the lock */
{
	while (cache->waiters != NULL) {
		struct cache_local *local = cache->waiters;

		cache->waiters = local->next_waiter;
		local->is_waiting = false;
		reactor_post(local->reactor, &local->wait_task);
	}
}

static void segment_give(struct cache *cache, struct cache_segment *s)
{
	bool transient = is_transient(cache, s);
	struct segment_pool *pool = transient ? &cache->transient : &cache->kept;

	pthread_mutex_lock(&cache->lock);
	atomic_store(&s->word, word_of(SEGMENT_FREE, 0));
	s->next = pool->free;
	pool->free = s;
	pool->free_count++;
	if (transient)
		wake_waiters(cache);
	else
		atomic_store(&cache->kept_free, pool->free_count);
	pthread_mutex_unlock(&cache->lock);
}

static void segment_unref(struct cache *cache, struct cache_segment *s)
{
	uint32_t old = atomic_fetch_sub_explicit(&s->word, 1, memory_order_acq_rel);

	assert((old & SEGMENT_REFS_MASK) > 0);
	if (old == word_of(SEGMENT_DRAINING, 1) || old == word_of(SEGMENT_TRANSIENT, 1))
		segment_give(cache, s);
}

static struct cache_segment *segment_take(struct cache *cache, bool keep)
{
	struct segment_pool *pool = keep ? &cache->kept : &cache->transient;
	struct cache_segment *s;

	pthread_mutex_lock(&cache->lock);
	s = pool->free;
	if (s != NULL) {
		pool->free = s->next;
		pool->free_count--;
		s->used = s->promised = s->ref_count = 0;
		atomic_store(&s->units, 0);
		atomic_store(&s->hits, 0);
		atomic_store(&s->born, atomic_load(&cache->window));
		atomic_store(&s->word, word_of(keep ? SEGMENT_KEPT : SEGMENT_TRANSIENT, 1));
		if (keep) {
			atomic_store(&cache->kept_free, pool->free_count);
			ahead_taken(cache, s);
		}
	}
	if (keep && pool->free_count == 0)
		policy_full(cache);
	pthread_mutex_unlock(&cache->lock);
	return s;
}

static struct unit_ref *unit_ref_at(const struct cache *cache, const struct cache_segment *s, uint32_t i)
{
	uint8_t *end = segment_base(cache, s) + CACHE_SEGMENT_SIZE;

	return (struct unit_ref *)(void *)(end - (size_t)(i + 1) * UNIT_REF_SIZE);
}

/* Takes its units out of the index; it is free once the last reader is done. false: in use. */
static bool segment_evict(struct cache *cache, struct cache_segment *s)
{
	uint32_t expected = word_of(SEGMENT_KEPT, 0);

	if (!atomic_compare_exchange_strong(&s->word, &expected, word_of(SEGMENT_DRAINING, 1)))
		return false;
	for (uint32_t i = 0; i < s->ref_count; i++) {
		struct unit_ref u = *unit_ref_at(cache, s, i);

		(void)index_remove(cache, u.pack, u.offset, s->index);
	}
	atomic_fetch_add(&cache->replaced, 1);
	segment_unref(cache, s);
	return true;
}

bool segment_has_room(const struct cache_segment *s, uint32_t len, uint32_t align, uint32_t units)
{
	uint64_t at = ((uint64_t)s->used + align - 1) & ~(uint64_t)(align - 1);
	uint64_t back = (uint64_t)(s->ref_count + s->promised + units) * UNIT_REF_SIZE;

	return at + len + back <= CACHE_SEGMENT_SIZE;
}

/* ---- reserving ---- */

static void area_register(struct cache_local *local, const struct cache_segment *s)
{
	struct cache *cache = local->cache;
	uint64_t area = (uint64_t)s->index * CACHE_SEGMENT_SIZE / cache->area_size;
	uint64_t at = area * cache->area_size, left = cache->memory_len - at;
	uint64_t bit = UINT64_C(1) << (area % 64);

	assert(area < AREAS_MAX);
	if (local->io == NULL || (local->registered[area / 64] & bit))
		return;
	if (!ahead_ready(cache, at + (left < cache->area_size ? left : cache->area_size)))
		return; /* it would make the whole area's pages here; until they are there reads do without */
	local->registered[area / 64] |= bit;
	(void)io_register_memory(local->io, cache->memory + at,
		(size_t)(left < cache->area_size ? left : cache->area_size));
}

static struct cache_segment *kept_next(struct cache_local *local)
{
	struct cache *cache = local->cache;
	struct cache_segment *s = segment_take(cache, true), *old;

	for (uint32_t i = 0; s == NULL && i < VICTIM_SAMPLES; i++) {
		old = policy_stale(cache);
		if (old != NULL)
			local->threshold = 0;
		else
			old = local->victim;
		local->victim = NULL;
		if (old == NULL)
			return NULL;
		if (segment_evict(cache, old))
			s = segment_take(cache, true);
	}
	return s;
}

/* The segment this reactor fills, with room. NULL: none to be had now. */
static struct cache_segment *segment_for(struct cache_local *local, uint32_t len, uint32_t align, uint32_t units,
	bool keep)
{
	struct cache_segment **at = keep ? &local->kept : &local->transient;
	struct cache_segment *s = *at, *next;

	if (s != NULL && !keep && atomic_load(&s->word) == word_of(SEGMENT_TRANSIENT, 1))
		s->used = 0; /* all that was in it was released */
	if (s != NULL && segment_has_room(s, len, align, units))
		return s;
	if (s != NULL && !keep) { /* given back as soon as its readers are done: that may be what we wait for */
		*at = NULL;
		segment_unref(local->cache, s);
	}
	next = keep ? kept_next(local) : segment_take(local->cache, false);
	if (next == NULL)
		return NULL; /* a kept one goes on with what fits */
	if (s != NULL && keep)
		segment_unref(local->cache, s);
	*at = next;
	return next;
}

bool cache_reserve(struct cache_local *local, const struct cache_want *want, struct cache_buf *out)
{
	uint32_t units = want->keep ? want->units : 0;
	struct cache_segment *s;
	uint32_t at;

	assert(want->len <= CACHE_READ_MAX && want->align <= 4096 && (want->align & (want->align - 1)) == 0);
	s = segment_for(local, want->len, want->align, units, want->keep);
	if (s == NULL || !segment_has_room(s, want->len, want->align, units))
		return false;
	area_register(local, s);
	at = (s->used + want->align - 1) & ~(want->align - 1);
	s->used = at + want->len;
	s->promised += units;
	atomic_fetch_add_explicit(&s->word, 1, memory_order_relaxed);
	*out = (struct cache_buf){ .p = segment_base(local->cache, s) + at, .len = want->len, .segment = s };
	return true;
}

bool cache_admit(struct cache_local *local, uint64_t pack, uint64_t offset, uint32_t len, uint32_t least)
{
	atomic_fetch_add_explicit(&local->cache->miss_bytes, len, memory_order_relaxed);
	return local->cache->kept.count > 0 && least > 0 && policy_admit(local, unit_hash(pack, offset), len, least);
}

void cache_insert(struct cache *cache, const struct cache_buf *area, uint64_t pack, uint64_t offset, const uint8_t *p,
		  uint32_t len)
{
	struct cache_segment *s = area->segment;
	struct cache_entry e = { .pack = pack, .offset = offset, .len = len, .segment = s->index,
		.at = (uint32_t)(p - segment_base(cache, s)) };

	assert(!is_transient(cache, s) && p >= area->p && p + len <= area->p + area->len && s->promised > 0);
	s->promised--;
	/* The unit_ref first: an entry without one could not be evicted. */
	*unit_ref_at(cache, s, s->ref_count) = (struct unit_ref){ pack, offset };
	s->ref_count++;
	atomic_fetch_add_explicit(&s->units, 1, memory_order_relaxed);
	if (index_insert(cache, unit_hash(pack, offset), &e))
		return;
	s->ref_count--;
	atomic_fetch_sub_explicit(&s->units, 1, memory_order_relaxed);
}

void cache_insert_none(struct cache_buf *area, uint32_t units)
{
	assert(area->segment->promised >= units);
	area->segment->promised -= units;
}

bool cache_buf_kept(const struct cache *cache, const struct cache_buf *b)
{
	return b->segment != NULL && !is_transient(cache, b->segment);
}

void cache_ref(struct cache_buf *b) { atomic_fetch_add_explicit(&b->segment->word, 1, memory_order_relaxed); }

void cache_release(struct cache *cache, struct cache_buf *b)
{
	struct cache_segment *s = b->segment;

	b->segment = NULL;
	b->p = NULL;
	segment_unref(cache, s);
}

void cache_drop_pack(struct cache *cache, uint64_t pack)
{
	index_drop_pack(cache, pack);
	/* Segments that held nothing else are free again; one that is read or filled now goes by
	 * the policy later. */
	for (uint32_t i = 0; i < cache->kept.count; i++) {
		struct cache_segment *s = &cache->segments[i];

		if (atomic_load(&s->word) == word_of(SEGMENT_KEPT, 0) && atomic_load(&s->units) == 0)
			(void)segment_evict(cache, s);
	}
}

static void on_wait(struct task *task)
{
	struct cache_local *local = (struct cache_local *)(void *)((char *)task - offsetof(struct cache_local,
		wait_task));

	local->wait_fn(local->wait_arg);
}

void cache_wait(struct cache_local *local, void (*fn)(void *arg), void *arg)
{
	struct cache *cache = local->cache;

	pthread_mutex_lock(&cache->lock);
	if (!local->is_waiting) {
		local->wait_fn = fn;
		local->wait_arg = arg;
		local->wait_task.fn = on_wait;
		local->is_waiting = true;
		local->next_waiter = cache->waiters;
		cache->waiters = local;
	}
	if (cache->transient.free_count > 0)
		wake_waiters(cache);
	pthread_mutex_unlock(&cache->lock);
}

/* ---- start and stop ---- */

struct cache_local *cache_local_new(struct cache *cache, struct io *io, struct reactor *reactor)
{
	struct cache_local *local = calloc(1, sizeof(*local));

	if (local == NULL)
		return NULL;
	local->cache = cache;
	local->io = io;
	local->reactor = reactor;
	rng_seed(&local->rng, (uint64_t)(uintptr_t)local);
	return local;
}

void cache_local_free(struct cache_local **lp)
{
	struct cache_local *local = *lp;

	*lp = NULL;
	if (local == NULL)
		return;
	if (local->kept != NULL)
		segment_unref(local->cache, local->kept);
	if (local->transient != NULL)
		segment_unref(local->cache, local->transient);
	free(local);
}

static void pool_fill(struct cache *cache, struct segment_pool *pool, uint32_t first)
{
	/* Taken in order of address, so that memory is touched as it is used. */
	for (uint32_t i = pool->count; i > 0; i--) {
		struct cache_segment *s = &cache->segments[first + i - 1];

		s->next = pool->free;
		pool->free = s;
	}
	pool->free_count = pool->count;
}

static int segments_init(struct cache *cache)
{
	uint64_t n = (uint64_t)cache->kept.count + cache->transient.count;

	cache->memory_len = n * CACHE_SEGMENT_SIZE;
	cache->area_size = AREA_MIN;
	while (cache->area_size * AREAS_MAX < cache->memory_len)
		cache->area_size *= 2;
	cache->memory = mem_map(cache->memory_len);
	cache->segments = aligned_alloc(64, n * sizeof(*cache->segments));
	if (cache->memory == NULL || cache->segments == NULL)
		return -GRANARY_ENOMEM;
	memset(cache->segments, 0, n * sizeof(*cache->segments));
	for (uint32_t i = 0; i < n; i++)
		cache->segments[i].index = i;
	pool_fill(cache, &cache->kept, 0);
	pool_fill(cache, &cache->transient, cache->kept.count);
	atomic_store(&cache->kept_free, cache->kept.free_count);
	return 0;
}

struct cache *cache_new(uint64_t budget, uint64_t transient_budget)
{
	struct cache *cache = calloc(1, sizeof(*cache));
	uint64_t index_share = budget / 16, ghost_share = budget / 256, transient;

	if (cache == NULL)
		return NULL;
	cache->budget = budget;
	atomic_store(&cache->ready_end, UINT64_MAX); /* until cache_ahead() */
	cache->kept.count = (uint32_t)((budget - index_share - ghost_share) / CACHE_SEGMENT_SIZE);
	transient = transient_budget / CACHE_SEGMENT_SIZE;
	cache->transient.count = transient < SEGMENTS_TRANSIENT_MIN ? SEGMENTS_TRANSIENT_MIN : (uint32_t)transient;
	pthread_mutex_init(&cache->lock, NULL);
	if (segments_init(cache) < 0 || index_init(cache, index_share) < 0 || policy_init(cache, ghost_share) < 0)
		cache_free(&cache);
	return cache;
}

void cache_free(struct cache **cp)
{
	struct cache *cache = *cp;

	*cp = NULL;
	if (cache == NULL)
		return;
	policy_release(cache);
	index_release(cache);
	mem_unmap(cache->memory, cache->memory_len);
	free(cache->segments);
	pthread_mutex_destroy(&cache->lock);
	free(cache);
}

void cache_get_stats(struct cache *cache, struct cache_stats *out)
{
	*out = (struct cache_stats){ .budget = cache->budget, .miss_bytes = atomic_load(&cache->miss_bytes),
		.replaced = atomic_load(&cache->replaced),
		.segments = cache->kept.count - atomic_load(&cache->kept_free) };
	index_totals(cache, out);
	for (uint32_t i = 0; i < cache->kept.count; i++)
		out->units += atomic_load_explicit(&cache->segments[i].units, memory_order_relaxed);
}
