/* SPDX-License-Identifier: Apache-2.0 */
/* cache_ahead.c -- makes pages of the cache's memory be there before a reactor fills them. The kernel clears a page at
 * its first touch, and where the machine is a virtual one its host finds memory for it: 10 us to 150 us for a sample of
 * 112 KiB. A worker does that on another core while the reactor reads and sends.
 *
 * Invariants: (1) memory is made ready in the order of addresses, in which the free segments are taken first; (2) never
 * more ahead than was ever taken, nor more than AHEAD_MAX: a server that is not used takes no memory; (3) what a
 * reactor has begun to fill is passed over: its reads make the pages, and the worker goes on ahead of it. */
#include "io/mem.h"
#include "pack/cache_priv.h"

enum { AHEAD_STEP = 2 * 1024 * 1024 };

/* Under the lock. Where to stop. */
static uint64_t ahead_end(const struct cache *cache)
{
	uint64_t kept = (uint64_t)cache->kept.count * CACHE_SEGMENT_SIZE, taken = cache->filled_end;
	uint64_t end = taken + (taken < AHEAD_MAX ? taken : AHEAD_MAX);

	return end < kept ? end : kept;
}

/* The next bytes; false: there are enough. */
static bool ahead_next(struct cache *cache, uint64_t *at)
{
	bool more;

	pthread_mutex_lock(&cache->lock);
	*at = atomic_load(&cache->ready_end);
	if (*at < cache->filled_end)
		*at = cache->filled_end;
	more = cache->workers != NULL && *at < ahead_end(cache);
	cache->ahead_runs = more;
	pthread_mutex_unlock(&cache->lock);
	return more;
}

static void ahead_run(struct task *task)
{
	struct cache *cache = (struct cache *)(void *)((char *)task - offsetof(struct cache, ahead_task));
	uint64_t at;

	while (ahead_next(cache, &at)) {
		if (mem_populate(cache->memory + at, AHEAD_STEP)) {
			atomic_store(&cache->ready_end, at + AHEAD_STEP);
			continue;
		}
		pthread_mutex_lock(&cache->lock);
		cache->workers = NULL; /* reactors do it as they go */
		pthread_mutex_unlock(&cache->lock);
		atomic_store(&cache->ready_end, UINT64_MAX);
	}
}

void ahead_taken(struct cache *cache, const struct cache_segment *s)
{
	uint64_t end = (uint64_t)(s->index + 1) * CACHE_SEGMENT_SIZE;

	if (end <= cache->filled_end)
		return;
	cache->filled_end = end;
	if (cache->workers == NULL || cache->ahead_runs || atomic_load(&cache->ready_end) >= ahead_end(cache))
		return;
	cache->ahead_runs = true;
	cache->ahead_task.fn = ahead_run;
	workers_post(cache->workers, &cache->ahead_task);
}

bool ahead_ready(const struct cache *cache, uint64_t end)
{
	/* The transient segments, behind those that are kept, are few and used again and again. */
	uint64_t kept = (uint64_t)cache->kept.count * CACHE_SEGMENT_SIZE;

	return end > kept || end <= atomic_load_explicit(&cache->ready_end, memory_order_relaxed);
}

void cache_ahead(struct cache *cache, struct workers *workers)
{
	cache->workers = workers;
	atomic_store(&cache->ready_end, 0);
}
