/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_mem.c -- memory of blocks and batches, by size class, carved out of slabs of huge pages: a fault for
 * each 2 MiB, not for each 4 KiB. What comes back is kept until the epoch is closed. */
#include "epoch_priv.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { MEM_MIN_SHIFT = 10, MEM_STEPS = 4, MEM_HUGE = 2 * 1024 * 1024, MEM_SLAB = 8 * 1024 * 1024 };

struct slab {
	struct slab *next;
	uint8_t *p;
	size_t size, used;
};

/* Classes are 1 KiB times 1, 1.25, 1.5, 1.75, 2, 2.5 ...: at most a fifth of a block is not used. */
static uint32_t class_of(size_t size, size_t *rounded)
{
	uint32_t shift = MEM_MIN_SHIFT, step = 0;

	while (((size_t)2 << shift) < size)
		shift++;
	while (((size_t)1 << shift) + ((size_t)step << (shift - 2)) < size)
		step++;
	*rounded = ((size_t)1 << shift) + ((size_t)step << (shift - 2));
	return (shift - MEM_MIN_SHIFT) * MEM_STEPS + step;
}

size_t mem_size(size_t size)
{
	size_t rounded;

	class_of(size, &rounded);
	return rounded;
}

/* A block of a larger class, when there is no room for a new one: it comes back as one of the smaller class. */
static uint8_t *take_larger(struct mem *m, uint32_t class)
{
	for (uint32_t i = class; i < MEM_CLASSES; i++) {
		uint8_t *p = m->free[i];
		if (!p)
			continue;
		memcpy(&m->free[i], p, sizeof(void *));
		return p;
	}
	return NULL;
}

/* What the client's epoch before left: its pages are there. */
static struct slab *slab_kept(struct mem *m)
{
	pthread_mutex_lock(&m->client->lock);
	struct slab *slab = m->client->epoch_slabs;
	if (slab)
		m->client->epoch_slabs = slab->next;
	pthread_mutex_unlock(&m->client->lock);
	return slab;
}

static struct slab *slab_new(struct mem *m, size_t size)
{
	struct slab *slab = size == MEM_SLAB ? slab_kept(m) : NULL;
	size_t whole = (size + MEM_HUGE - 1) / MEM_HUGE * MEM_HUGE;

	if (slab) {
		slab->used = 0;
		slab->next = m->slabs;
		m->slabs = slab;
		return slab;
	}
	slab = malloc(sizeof(*slab));
	if (!slab)
		return NULL;
	*slab = (struct slab){ m->slabs, aligned_alloc(MEM_HUGE, whole), whole, 0 };
	if (!slab->p) {
		free(slab);
		return NULL;
	}
	if (madvise(slab->p, whole, MADV_HUGEPAGE) < 0)
		slab->used = 0; /* plain pages do as well */
	m->slabs = slab;
	return slab;
}

/* Carves a block out of the newest slab; a long one has a slab of its own, behind it. */
static uint8_t *carve(struct mem *m, size_t rounded)
{
	struct slab *slab = m->slabs;

	if (!slab || slab->size - slab->used < rounded) {
		slab = slab_new(m, rounded > MEM_SLAB ? rounded : MEM_SLAB);
		if (!slab)
			return NULL;
	}
	uint8_t *p = slab->p + slab->used;
	slab->used += rounded;
	m->carved += rounded;
	return p;
}

uint8_t *mem_get(struct mem *m, size_t size)
{
	size_t rounded;
	uint32_t class = class_of(size, &rounded);
	uint8_t *p;

	if (class >= MEM_CLASSES)
		return NULL;
	if (m->free[class] || m->carved + rounded > m->limit)
		p = take_larger(m, class);
	else
		p = NULL;
	if (!p)
		p = carve(m, rounded);
	if (p)
		m->used += rounded;
	return p;
}

void mem_put(struct mem *m, uint8_t *p, size_t size)
{
	size_t rounded;
	uint32_t class = class_of(size, &rounded);

	if (!p)
		return;
	m->used -= rounded;
	memcpy(p, &m->free[class], sizeof(void *));
	m->free[class] = p;
}

static void slabs_free(struct slab *slab)
{
	while (slab) {
		struct slab *next = slab->next;
		free(slab->p);
		free(slab);
		slab = next;
	}
}

/* The next epoch of the client begins with them; one that does not need them all sets the rest free. */
void mem_release(struct mem *m)
{
	struct slab *others = NULL, *before;

	pthread_mutex_lock(&m->client->lock);
	before = m->client->epoch_slabs;
	m->client->epoch_slabs = NULL;
	while (m->slabs) {
		struct slab *slab = m->slabs;
		struct slab **to = slab->size == MEM_SLAB ? &m->client->epoch_slabs : &others;
		m->slabs = slab->next;
		slab->next = *to;
		*to = slab;
	}
	pthread_mutex_unlock(&m->client->lock);
	slabs_free(others);
	slabs_free(before);
}

void epoch_slabs_free(struct granary_client *c)
{
	slabs_free(c->epoch_slabs);
	c->epoch_slabs = NULL;
}
