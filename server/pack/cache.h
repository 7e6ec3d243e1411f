/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h -- RAM cache of record data in huge pages, and the buffers that reads land in.
 *
 * Memory is cut into segments of 2 MiB. A segment is either part of the cache (filled from front to back, its units
 * indexed) or transient (read once, sent, forgotten). References are counted by segment (atomic); bytes under a
 * reference never move or change. Keyed by (pack, offset of the unit in the file): packs are immutable, so never stale.
 *
 * Policy: fill while there is room; once full, keep what is in (a shuffled epoch larger than the cache then hits at
 * payload / data, where LRU would hit at 0). A segment is replaced when nothing in it was hit for `idle` bytes of
 * look-ups (32 times the cache's size), or when a frequency sketch says what misses is asked for more often than what the
 * coldest segment holds (by a margin of 2 within its period: one pass of an epoch never suffices).
 *
 * Index shards have a lock each (held for tens of ns); bump pointers belong to a reactor. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct cache;
struct cache_local; /* one a reactor */
struct cache_segment;
struct io;

enum { CACHE_SEGMENT_SIZE = 2 * 1024 * 1024, CACHE_UNIT_MAX = 1024 * 1024 };

struct cache_buf {            /* a reference: bytes valid until cache_release() */
	uint8_t *p;
	uint32_t len;
	struct cache_segment *segment;
};

struct cache *cache_new(uint64_t budget, uint64_t transient_budget); /* bytes; memory is taken as it is used */
void cache_free(struct cache **cache);
struct cache_local *cache_local_new(struct cache *cache, struct io *io); /* registers areas with io as they appear */
void cache_local_free(struct cache_local **local);

/* Hit: true and a reference to the whole unit. */
bool cache_find(struct cache *cache, uint64_t pack, uint64_t offset, struct cache_buf *out);
void cache_prefetch(struct cache *cache, uint64_t pack, uint64_t offset);
/* Room for a read of len bytes (aligned to 4 KiB), to be kept (admitted by the policy) or transient. `weight` bytes of
 * the read are payload. false: no memory free now: wait for a release (cache_wait). Referenced once. */
bool cache_reserve(struct cache_local *local, uint32_t len, bool keep, struct cache_buf *out);
/* Would the policy keep this unit? Counts the miss in the sketch. */
bool cache_admit(struct cache_local *local, uint64_t pack, uint64_t offset, uint32_t len);
/* Indexes p[0..len) inside a reserved buffer that holds a finished read. No effect when it is there already. */
void cache_insert(struct cache *cache, const struct cache_buf *area, uint64_t pack, uint64_t offset, const uint8_t *p,
		  uint32_t len);
void cache_ref(struct cache_buf *b);
void cache_release(struct cache *cache, struct cache_buf *b);
/* Calls fn(arg) on the reactor of `local`, later, when transient memory was released. */
void cache_wait(struct cache_local *local, void (*fn)(void *arg), void *arg);
void cache_drop_pack(struct cache *cache, uint64_t pack);

struct cache_stats { uint64_t hits, misses, hit_bytes, miss_bytes, payload_bytes, segments, budget, replaced, units; };
void cache_get_stats(struct cache *cache, struct cache_stats *out);
