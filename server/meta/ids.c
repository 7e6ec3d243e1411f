/* SPDX-License-Identifier: Apache-2.0 */
/* ids.c -- three counters over one incarnation, FORMAT 1.2. Nothing is saved: the incarnation is synced in the
 * superblock before the first id is taken and never used by another start, so a counter may begin at 1 each time. */
#include "meta/ids.h"

#include "common/id.h"

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { IDS_MAGIC = 0x1d5c0de1, CACHE_LINE_SIZE = 64 };

struct counter {
	alignas(CACHE_LINE_SIZE) _Atomic uint64_t next; /* relaxed: only uniqueness counts */
};

struct ids {
	struct counter object, pack, version;
	uint32_t magic;
	uint32_t incarnation;
};

struct ids *ids_new(uint32_t incarnation)
{
	struct ids *ids = aligned_alloc(CACHE_LINE_SIZE, sizeof(*ids));

	assert(incarnation > 0 && incarnation <= ID_INCARNATION_MAX);
	if (ids == NULL)
		return NULL;
	atomic_init(&ids->object.next, 1);
	atomic_init(&ids->pack.next, 1);
	atomic_init(&ids->version.next, 1);
	ids->magic = IDS_MAGIC;
	ids->incarnation = incarnation;
	return ids;
}

void ids_free(struct ids **idsp)
{
	struct ids *ids = *idsp;

	*idsp = NULL;
	if (ids == NULL)
		return;
	assert(ids->magic == IDS_MAGIC);
	ids->magic = 0;
	free(ids);
}

static uint64_t take(const struct ids *ids, struct counter *c, uint32_t n)
{
	uint64_t first = atomic_fetch_add_explicit(&c->next, n, memory_order_relaxed);

	assert(ids->magic == IDS_MAGIC);
	assert(first + n <= ID_COUNTER_MAX); /* 10^12 in one run; another start begins again */
	return id_make(ids->incarnation, first);
}

static _Thread_local struct ids_block *block;

struct ids_block *ids_use(struct ids_block *b)
{
	struct ids_block *before = block;

	block = b;
	return before;
}

const struct ids_block *ids_used(void) { return block; }

void ids_note(uint64_t id)
{
	if (block != NULL && (id < block->id_first || id >= block->id))
		block->is_short = true;
}

/* The next n out of the block, or 0. */
static uint64_t block_take(uint64_t *next, uint64_t end, uint32_t n)
{
	uint64_t first = *next;

	if (end - first < n) {
		block->is_short = true;
		return 0;
	}
	*next += n;
	return first;
}

uint64_t ids_object(struct ids *ids)
{
	uint64_t id = block != NULL ? block_take(&block->id, block->id_end, 1) : 0;

	return id != 0 ? id : take(ids, &ids->object, 1);
}

uint64_t ids_pack(struct ids *ids) { return take(ids, &ids->pack, 1); }
uint64_t ids_version(struct ids *ids) { return ids_version_range(ids, 1); }

uint64_t ids_version_range(struct ids *ids, uint32_t n)
{
	uint64_t first = 0;

	assert(n > 0);
	if (block != NULL)
		first = block_take(&block->version, block->version_end, n);
	return first != 0 ? first : take(ids, &ids->version, n);
}

uint64_t ids_object_range(struct ids *ids, uint32_t n)
{
	assert(n > 0);
	return take(ids, &ids->object, n);
}

uint32_t ids_incarnation(const struct ids *ids) { return ids->incarnation; }
