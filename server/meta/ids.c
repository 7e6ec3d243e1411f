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

uint64_t ids_object(struct ids *ids) { return take(ids, &ids->object, 1); }
uint64_t ids_pack(struct ids *ids) { return take(ids, &ids->pack, 1); }
uint64_t ids_version(struct ids *ids) { return take(ids, &ids->version, 1); }

uint64_t ids_version_range(struct ids *ids, uint32_t n)
{
	assert(n > 0);
	return take(ids, &ids->version, n);
}

uint32_t ids_incarnation(const struct ids *ids) { return ids->incarnation; }
