/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h -- RAM cache of record data in huge pages, and the buffers that reads land in.
 *
 * Memory is cut into segments of 2 MiB. A segment is either part of the cache (filled from front to
 * back, its units indexed) or transient (read once, sent, forgotten). References are counted by
 * segment (atomic); bytes under a reference never move or change. Keyed by (pack, offset of the
 * unit in the file): packs are immutable, so never stale.
 *
 * Policy: fill while there is room; once full, keep what is in (a shuffled epoch larger than the
 * cache then hits at payload / data, where LRU would hit at 0). A full cache changes only on
 * evidence that shuffled epochs cannot give: a segment that nothing hit during look-ups that must
 * have held a whole pass over all that is read is replaced by what misses; and a unit asked for
 * more than 2 c + 3 times while the units of an old segment were hit c times on average replaces
 * that segment. cache_policy.c has the argument. Whoever asks may be stricter (`least`).
 *
 * The budget covers the index and the policy's table too. Index shards have a lock each (held for
 * tens of ns); what a reactor fills belongs to it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct cache;
struct cache_local; /* one a reactor */
struct cache_segment;
struct io;
struct reactor;

enum {
	CACHE_SEGMENT_SIZE = 2 * 1024 * 1024,
	CACHE_UNIT_MAX = 15 * 64 * 1024,    /* whole crc blocks; two of them and their slack fill a segment */
	CACHE_READ_MAX = CACHE_UNIT_MAX + 16 * 1024, /* one reservation: two leave room for the segment's own table */
};

struct cache_buf {            /* a reference: bytes valid until cache_release() */
	uint8_t *p;
	uint32_t len;
	struct cache_segment *segment;
};

struct cache *cache_new(uint64_t budget, uint64_t transient_budget); /* bytes; memory is taken as it is used */
/* From now on workers make its memory ready ahead of use. */
struct workers;
void cache_ahead(struct cache *cache, struct workers *workers);
/* Not before every io that its memory was registered with is done with reads (it is never used for
 * reads again). */
void cache_free(struct cache **cache);
/* Registers areas with io as they appear. io and reactor may be NULL (tests of the policy): then
 * nothing waits. */
struct cache_local *cache_local_new(struct cache *cache, struct io *io, struct reactor *reactor);
void cache_local_free(struct cache_local **local);

/* Hit: true and a reference to the whole unit. */
bool cache_find(struct cache *cache, uint64_t pack, uint64_t offset, struct cache_buf *out);
void cache_prefetch(struct cache *cache, uint64_t pack, uint64_t offset);
/* Room for a read, to be kept (admitted by the policy) or transient. false: no memory free now: for
 * transient memory wait for a release (cache_wait). Referenced once. */
struct cache_want {
	uint32_t len;    /* bytes, at most CACHE_READ_MAX */
	uint32_t align;  /* of the address: a power of two, at most 4,096 */
	uint32_t units;  /* cache_insert() calls that will follow, at most; those that do not: cache_insert_none() */
	bool keep;
};
bool cache_reserve(struct cache_local *local, const struct cache_want *want, struct cache_buf *out);
/* Would the policy keep this unit? Counts the miss in the sketch. `least`: not before it was missed so often in this
 * window, this time included; 0: never, and it is no miss of its own. */
bool cache_admit(struct cache_local *local, uint64_t pack, uint64_t offset, uint32_t len, uint32_t least);
/* Indexes p[0..len) inside a reserved buffer that holds a finished read. No effect when it is there
 * already. */
void cache_insert(struct cache *cache, const struct cache_buf *area, uint64_t pack, uint64_t offset, const uint8_t *p,
		  uint32_t len);
void cache_insert_none(struct cache_buf *area, uint32_t units);
/* Part of the cache: whoever holds it keeps no read from running, as transient memory does. */
bool cache_buf_kept(const struct cache *cache, const struct cache_buf *b);
void cache_ref(struct cache_buf *b);
void cache_release(struct cache *cache, struct cache_buf *b);
/* Calls fn(arg) on the reactor of `local`, later, when transient memory was released. */
void cache_wait(struct cache_local *local, void (*fn)(void *arg), void *arg);
void cache_drop_pack(struct cache *cache, uint64_t pack);

struct cache_stats { uint64_t hits, misses, hit_bytes, miss_bytes, payload_bytes, segments, budget, replaced, units; };
void cache_get_stats(struct cache *cache, struct cache_stats *out);
