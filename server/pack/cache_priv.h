/* SPDX-License-Identifier: Apache-2.0 */
/* cache_priv.h -- inside of the RAM cache.
 *
 * segment: FREE -> KEPT       cache_reserve(keep)   filled by one reactor, which holds one reference
 *          FREE -> TRANSIENT  cache_reserve(!keep)
 *          KEPT -> DRAINING   segment_evict()       nobody references it; its units leave the index
 *          DRAINING, TRANSIENT -> FREE              by whoever drops the last reference
 * State and references share one word, so the last reference is seen together with the state it was
 * dropped in. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/rand.h"
#include "io/reactor.h"
#include "pack/cache.h"

enum {
	CACHE_SHARDS = 256,
	SHARD_SLOTS_MIN = 64,
	SHARD_SKETCH = 16,        /* registers of the distinct count; CACHE_SHARDS * SHARD_SKETCH = 4,096 in all */
	UNIT_REF_SIZE = 16,
	GHOST_WAYS = 8,
	AREA_MIN = 32 * 1024 * 1024, /* registered with io in pieces of at least this */
	AREAS_MAX = 512,
	AHEAD_MAX = 256 * 1024 * 1024, /* bytes of memory made ready before they are wanted */
	SEGMENTS_TRANSIENT_MIN = 4,
	VICTIM_SAMPLES = 16,
	POLICY_EVERY = 512,       /* misses of a reactor between two looks at the window */
};

enum segment_state { SEGMENT_FREE, SEGMENT_KEPT, SEGMENT_DRAINING, SEGMENT_TRANSIENT };
enum { SEGMENT_STATE_SHIFT = 28, SEGMENT_REFS_MASK = (1 << SEGMENT_STATE_SHIFT) - 1 };

struct cache_segment {
	_Alignas(64) _Atomic uint32_t word; /* state << 28 | references */
	uint32_t index;
	uint32_t used;            /* bytes from the front; of its owner */
	uint32_t promised;        /* unit_refs at the back that reads in flight may still write */
	uint32_t ref_count;       /* unit_refs at the back; written by its owner, read by who evicts */
	_Atomic uint32_t units;   /* in the index now */
	_Atomic uint32_t hits;    /* since the window began */
	_Atomic uint32_t born;    /* window in which it was taken */
	struct cache_segment *next; /* free list */
};

struct cache_entry {              /* pack 0: an empty slot */
	uint64_t pack, offset;
	uint32_t len, segment, at, spare;
};
_Static_assert(sizeof(struct cache_entry) == 32, "two a cache line");

struct cache_shard {
	_Alignas(128) _Atomic uint32_t lock;
	_Atomic uint32_t mask;    /* slots - 1 */
	_Atomic(struct cache_entry *) slots;
	uint32_t count, slots_max;
	_Atomic uint64_t hits, misses, hit_bytes, payload; /* written under the lock */
	uint8_t sketch[SHARD_SKETCH];
};

struct segment_pool {
	struct cache_segment *free;
	uint32_t free_count, count;
};

struct cache {
	uint64_t budget;
	uint8_t *memory;
	uint64_t memory_len, area_size;
	struct cache_segment *segments; /* kept ones first */
	struct cache_shard *shards;
	pthread_mutex_t lock;     /* pools, locals, stale; before a shard's lock */
	struct segment_pool kept, transient;
	struct cache_local *waiters;
	uint32_t *stale;          /* segments of the kept pool not hit in a whole window */
	uint32_t stale_max;
	_Atomic uint32_t stale_count, kept_free;
	_Atomic bool is_full;     /* the policy is at work; the distinct count runs */
	_Atomic uint32_t window;
	uint64_t window_bytes, window_lookups; /* totals when the window began; under lock */
	struct workers *workers;  /* who make memory ready ahead of use; NULL: nobody does (cache_ahead.c) */
	struct task ahead_task;
	bool ahead_runs;          /* the task is queued or runs; under lock */
	uint64_t filled_end;      /* bytes from the start of which any was ever taken to be kept; under lock */
	_Atomic uint64_t ready_end; /* bytes from the start that are ready or were passed over */
	_Atomic uint64_t miss_bytes, replaced;
	_Atomic uint64_t *ghosts;
	uint64_t ghost_sets;
};

struct cache_local {
	struct cache *cache;
	struct io *io;
	struct reactor *reactor;
	struct cache_segment *kept, *transient; /* being filled */
	struct cache_segment *victim;
	uint32_t threshold;       /* accesses a unit needs to enter `kept`; 0: any */
	uint32_t misses;
	struct rng rng;
	uint64_t registered[AREAS_MAX / 64];
	struct task wait_task;
	void (*wait_fn)(void *arg);
	void *wait_arg;
	bool is_waiting;          /* under the cache's lock */
	struct cache_local *next_waiter;
};

uint64_t unit_hash(uint64_t pack, uint64_t offset);

/* cache_index.c */
int index_init(struct cache *cache, uint64_t budget);
void index_release(struct cache *cache);
bool index_insert(struct cache *cache, uint64_t hash, const struct cache_entry *e); /* false: there, or no room */
bool index_remove(struct cache *cache, uint64_t pack, uint64_t offset, uint32_t segment);
void index_drop_pack(struct cache *cache, uint64_t pack);
/* Totals over the shards. */
void index_totals(struct cache *cache, struct cache_stats *out);
double index_distinct(struct cache *cache); /* units looked up since the last reset */
void index_distinct_reset(struct cache *cache);

/* cache_policy.c */
int policy_init(struct cache *cache, uint64_t ghost_budget);
void policy_release(struct cache *cache);
void policy_full(struct cache *cache);      /* the last free segment was taken */
bool policy_admit(struct cache_local *local, uint64_t hash, uint32_t len, uint32_t least);
struct cache_segment *policy_stale(struct cache *cache); /* one to evict, or NULL */

/* cache_ahead.c */
void ahead_taken(struct cache *cache, const struct cache_segment *s); /* to be kept; under the lock */
bool ahead_ready(const struct cache *cache, uint64_t end); /* bytes from the start */

/* cache.c */
static inline uint8_t *segment_base(const struct cache *cache, const struct cache_segment *s)
{
	return cache->memory + (uint64_t)s->index * CACHE_SEGMENT_SIZE;
}
bool segment_has_room(const struct cache_segment *s, uint32_t len, uint32_t align, uint32_t units);
