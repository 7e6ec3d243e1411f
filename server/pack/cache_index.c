/* SPDX-License-Identifier: Apache-2.0 */
/* cache_index.c -- (pack, offset) to bytes in a segment: open addressing with linear probing in
 * shards, each under a spin lock held for tens of ns (growing: longer, a shard at a time).
 * Invariants: (1) an entry's segment holds its bytes as long as the entry stands: a reference is taken under the lock;
 * (2) the slots of a shard grow by doubling and stop at the index's share of the budget: then
 * nothing is added. */
#include <assert.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/hash.h"
#include "pack/cache_priv.h"

enum { SPINS_MAX = 200 };

uint64_t unit_hash(uint64_t pack, uint64_t offset)
{
	return hash_u64(pack * UINT64_C(0x9e3779b97f4a7c15) + offset + 1);
}

static struct cache_shard *shard_of(struct cache *cache, uint64_t hash) { return &cache->shards[hash >> 56]; }
_Static_assert(CACHE_SHARDS == 1 << 8, "the hash's top byte chooses the shard");

static void shard_lock(struct cache_shard *s)
{
	uint32_t spins = 0;

	while (atomic_exchange_explicit(&s->lock, 1, memory_order_acquire) != 0)
		while (atomic_load_explicit(&s->lock, memory_order_relaxed) != 0)
			if (++spins > SPINS_MAX) {
				sched_yield(); /* its holder lost the CPU */
				spins = 0;
			}
}

static void shard_unlock(struct cache_shard *s) { atomic_store_explicit(&s->lock, 0, memory_order_release); }

static void add(_Atomic uint64_t *counter, uint64_t n) /* under the lock: no other writer */
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
		memory_order_relaxed);
}

static struct cache_entry *slots_of(const struct cache_shard *s)
{
	return atomic_load_explicit(&s->slots, memory_order_relaxed);
}

static uint32_t mask_of(const struct cache_shard *s)
{
	return atomic_load_explicit(&s->mask, memory_order_relaxed);
}

/* The entry's slot, or the empty one where it would stand. */
static struct cache_entry *slot_find(const struct cache_shard *s, uint64_t hash, uint64_t pack, uint64_t offset)
{
	struct cache_entry *slots = slots_of(s);
	uint32_t mask = mask_of(s), i = (uint32_t)hash & mask;

	while (slots[i].pack != 0 && (slots[i].offset != offset || slots[i].pack != pack))
		i = (i + 1) & mask;
	return &slots[i];
}

static void sketch_add(struct cache_shard *s, uint64_t hash)
{
	uint8_t *reg = &s->sketch[(hash >> 52) & (SHARD_SKETCH - 1)];
	uint8_t rank = (uint8_t)(__builtin_clzll(hash << 12 | UINT64_C(1) << 11) + 1);

	if (*reg < rank)
		*reg = rank;
}

bool cache_find(struct cache *cache, uint64_t pack, uint64_t offset, struct cache_buf *out)
{
	uint64_t hash = unit_hash(pack, offset);
	struct cache_shard *s = shard_of(cache, hash);
	bool is_full = atomic_load_explicit(&cache->is_full, memory_order_relaxed);
	struct cache_entry *e;
	bool is_hit;

	shard_lock(s);
	if (is_full)
		sketch_add(s, hash);
	e = slot_find(s, hash, pack, offset);
	is_hit = e->pack != 0;
	if (is_hit) {
		struct cache_segment *seg = &cache->segments[e->segment];

		atomic_fetch_add_explicit(&seg->word, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&seg->hits, 1, memory_order_relaxed);
		*out = (struct cache_buf){ .p = segment_base(cache, seg) + e->at, .len = e->len, .segment = seg };
		add(&s->hits, 1);
		add(&s->hit_bytes, e->len);
	} else {
		add(&s->misses, 1);
	}
	shard_unlock(s);
	return is_hit;
}

/* A stale address is harmless: a prefetch does not fault. */
void cache_prefetch(struct cache *cache, uint64_t pack, uint64_t offset)
{
	uint64_t hash = unit_hash(pack, offset);
	struct cache_shard *s = shard_of(cache, hash);

	__builtin_prefetch(&slots_of(s)[(uint32_t)hash & mask_of(s)]);
	__builtin_prefetch(s, 1);
}

/* Under the lock. The old slots stay readable for nobody: readers of slots hold the lock. */
static bool shard_grow(struct cache_shard *s)
{
	uint32_t old_slots = mask_of(s) + 1, slots = 2 * old_slots;
	struct cache_entry *old = slots_of(s), *wide;

	if (slots > s->slots_max)
		return false;
	wide = calloc(slots, sizeof(*wide));
	if (wide == NULL)
		return false;
	atomic_store_explicit(&s->slots, wide, memory_order_relaxed);
	atomic_store_explicit(&s->mask, slots - 1, memory_order_relaxed);
	for (uint32_t i = 0; i < old_slots; i++)
		if (old[i].pack != 0)
			*slot_find(s, unit_hash(old[i].pack, old[i].offset), old[i].pack, old[i].offset) = old[i];
	free(old);
	return true;
}

bool index_insert(struct cache *cache, uint64_t hash, const struct cache_entry *e)
{
	struct cache_shard *s = shard_of(cache, hash);
	struct cache_entry *slot;
	bool ok;

	assert(e->pack != 0);
	shard_lock(s);
	if (s->count >= (mask_of(s) + 1) / 4 * 3)
		(void)shard_grow(s);
	slot = slot_find(s, hash, e->pack, e->offset);
	ok = slot->pack == 0 && s->count < (mask_of(s) + 1) / 8 * 7;
	if (ok) {
		*slot = *e;
		s->count++;
		add(&s->payload, e->len);
	}
	shard_unlock(s);
	return ok;
}

/* Under the lock: empties a slot and moves back what probed past it. */
static void slot_clear(struct cache_shard *s, struct cache_entry *slot)
{
	struct cache_entry *slots = slots_of(s);
	uint32_t mask = mask_of(s), hole = (uint32_t)(slot - slots);

	add(&s->payload, -(uint64_t)slot->len);
	s->count--;
	for (uint32_t i = (hole + 1) & mask; slots[i].pack != 0; i = (i + 1) & mask) {
		uint32_t home = (uint32_t)unit_hash(slots[i].pack, slots[i].offset) & mask;

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			slots[hole] = slots[i];
			hole = i;
		}
	}
	memset(&slots[hole], 0, sizeof(slots[hole]));
}

bool index_remove(struct cache *cache, uint64_t pack, uint64_t offset, uint32_t segment)
{
	uint64_t hash = unit_hash(pack, offset);
	struct cache_shard *s = shard_of(cache, hash);
	struct cache_entry *slot;
	bool ok;

	shard_lock(s);
	slot = slot_find(s, hash, pack, offset);
	ok = slot->pack != 0 && slot->segment == segment;
	if (ok)
		slot_clear(s, slot);
	shard_unlock(s);
	return ok;
}

void index_drop_pack(struct cache *cache, uint64_t pack)
{
	for (uint32_t i = 0; i < CACHE_SHARDS; i++) {
		struct cache_shard *s = &cache->shards[i];

		shard_lock(s);
		for (uint32_t k = 0; k <= mask_of(s);) {
			struct cache_entry *slot = &slots_of(s)[k];

			if (slot->pack != pack) {
				k++;
				continue;
			}
			atomic_fetch_sub_explicit(&cache->segments[slot->segment].units, 1, memory_order_relaxed);
			slot_clear(s, slot); /* another may have moved here: look again */
		}
		shard_unlock(s);
	}
}

void index_totals(struct cache *cache, struct cache_stats *out)
{
	for (uint32_t i = 0; i < CACHE_SHARDS; i++) {
		struct cache_shard *s = &cache->shards[i];

		out->hits += atomic_load_explicit(&s->hits, memory_order_relaxed);
		out->misses += atomic_load_explicit(&s->misses, memory_order_relaxed);
		out->hit_bytes += atomic_load_explicit(&s->hit_bytes, memory_order_relaxed);
		out->payload_bytes += atomic_load_explicit(&s->payload, memory_order_relaxed);
	}
}

/* HyperLogLog over all shards' registers; few distinct units are counted by the registers still
 * empty. */
double index_distinct(struct cache *cache)
{
	const double m = CACHE_SHARDS * SHARD_SKETCH;
	double sum = 0, zeros = 0, estimate;

	for (uint32_t i = 0; i < CACHE_SHARDS; i++) {
		struct cache_shard *s = &cache->shards[i];

		shard_lock(s);
		for (uint32_t k = 0; k < SHARD_SKETCH; k++) {
			sum += 1.0 / (double)(UINT64_C(1) << s->sketch[k]);
			zeros += s->sketch[k] == 0;
		}
		shard_unlock(s);
	}
	estimate = 0.7213 / (1 + 1.079 / m) * m * m / sum;
	return estimate < 2.5 * m && zeros > 0 ? m * log(m / zeros) : estimate;
}

void index_distinct_reset(struct cache *cache)
{
	for (uint32_t i = 0; i < CACHE_SHARDS; i++) {
		struct cache_shard *s = &cache->shards[i];

		shard_lock(s);
		memset(s->sketch, 0, sizeof(s->sketch));
		shard_unlock(s);
	}
}

int index_init(struct cache *cache, uint64_t budget)
{
	uint64_t slots_max = SHARD_SLOTS_MIN;

	while (2 * slots_max * CACHE_SHARDS * sizeof(struct cache_entry) <= budget)
		slots_max *= 2;
	cache->shards = aligned_alloc(128, CACHE_SHARDS * sizeof(*cache->shards));
	if (cache->shards == NULL)
		return -GRANARY_ENOMEM;
	memset(cache->shards, 0, CACHE_SHARDS * sizeof(*cache->shards));
	for (uint32_t i = 0; i < CACHE_SHARDS; i++) {
		struct cache_shard *s = &cache->shards[i];
		struct cache_entry *slots = calloc(SHARD_SLOTS_MIN, sizeof(*slots));

		if (slots == NULL)
			return -GRANARY_ENOMEM;
		atomic_init(&s->slots, slots);
		atomic_init(&s->mask, SHARD_SLOTS_MIN - 1);
		s->slots_max = slots_max > UINT32_MAX / 2 ? UINT32_C(1) << 31 : (uint32_t)slots_max;
	}
	return 0;
}

void index_release(struct cache *cache)
{
	for (uint32_t i = 0; cache->shards != NULL && i < CACHE_SHARDS; i++)
		free(slots_of(&cache->shards[i]));
	free(cache->shards);
}
