/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_mem.c -- memory of blocks and batches: taken from the system by size class and kept when it comes back. */
#include "epoch_priv.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { MEM_MIN_SHIFT = 14, MEM_STEPS = 4, MEM_HUGE = 2 * 1024 * 1024, MEM_PAGE = 4096 };

/* Classes are 16 KiB times 1, 1.25, 1.5, 1.75, 2, 2.5 ...: at most a fifth of a block is not used. */
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

static void mem_drop(struct mem *m, uint32_t class, size_t rounded)
{
	void *p = m->free[class];

	memcpy(&m->free[class], p, sizeof(void *));
	m->idle -= rounded;
	free(p);
}

static size_t class_size(uint32_t class)
{
	uint32_t shift = MEM_MIN_SHIFT + class / MEM_STEPS, step = class % MEM_STEPS;

	return ((size_t)1 << shift) + ((size_t)step << (shift - 2));
}

uint8_t *mem_get(struct mem *m, size_t size)
{
	size_t rounded;
	uint32_t class = class_of(size, &rounded);
	uint8_t *p = m->free[class];

	if (class >= MEM_CLASSES)
		return NULL;
	if (p) {
		memcpy(&m->free[class], p, sizeof(void *));
		m->idle -= rounded;
	}
	for (uint32_t i = 0; !p && i < MEM_CLASSES && m->idle > 0 && m->used + m->idle + rounded > m->limit; i++)
		while (m->free[i] && m->used + m->idle + rounded > m->limit)
			mem_drop(m, i, class_size(i));
	if (!p)
		p = aligned_alloc(rounded >= MEM_HUGE ? MEM_HUGE : MEM_PAGE,
			rounded >= MEM_HUGE ? (rounded + MEM_HUGE - 1) / MEM_HUGE * MEM_HUGE : rounded);
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
	m->idle += rounded;
}

void mem_release(struct mem *m)
{
	for (uint32_t i = 0; i < MEM_CLASSES; i++)
		while (m->free[i])
			mem_drop(m, i, class_size(i));
}
