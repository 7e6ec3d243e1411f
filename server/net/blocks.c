/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c -- four classes a doubling from 512 bytes up; blocks above the last class go straight to malloc.
 * Invariants: (1) every block in free[i] is class_size(i) bytes; (2) cached is their sum and <= cached_max. */
#include "net/blocks.h"

#include <stddef.h>
#include <stdlib.h>

enum { BLOCKS_ALIGN = 64, BLOCKS_MIN_BITS = 9, BLOCKS_STEP_BITS = 2 };

struct block {
	struct block *next;
};

/* Index of the smallest class that holds size; *size_out its bytes. */
static uint32_t class_of(uint64_t size, uint64_t *size_out)
{
	if (size <= BLOCKS_MIN_SIZE) {
		*size_out = BLOCKS_MIN_SIZE;
		return 0;
	}
	uint32_t bits = 63u - (uint32_t)__builtin_clzll(size - 1); /* 2^bits < size <= 2^(bits+1) */
	uint64_t step = UINT64_C(1) << (bits - BLOCKS_STEP_BITS);
	uint64_t steps = (size - (UINT64_C(1) << bits) + step - 1) / step; /* 1..4 */

	*size_out = (UINT64_C(1) << bits) + steps * step;
	return (bits - BLOCKS_MIN_BITS) * 4 + (uint32_t)steps;
}

void blocks_init(struct blocks *blocks, uint64_t cached_max)
{
	*blocks = (struct blocks){ .cached_max = cached_max };
}

void blocks_release(struct blocks *blocks)
{
	for (uint32_t i = 0; i < BLOCKS_CLASSES; i++) {
		while (blocks->free[i]) {
			struct block *b = blocks->free[i];
			blocks->free[i] = b->next;
			free(b);
		}
	}
	blocks->cached = 0;
}

uint64_t blocks_class_size(uint64_t size)
{
	uint64_t bytes;
	(void)class_of(size, &bytes);
	return bytes;
}

void *blocks_take(struct blocks *blocks, uint64_t size)
{
	uint64_t bytes;
	uint32_t i = class_of(size, &bytes);

	if (i < BLOCKS_CLASSES && blocks->free[i]) {
		struct block *b = blocks->free[i];
		blocks->free[i] = b->next;
		blocks->cached -= bytes;
		return b;
	}
	return aligned_alloc(BLOCKS_ALIGN, (size_t)bytes);
}

void blocks_give(struct blocks *blocks, void *p, uint64_t size)
{
	struct block *b = p;
	uint64_t bytes;
	uint32_t i = class_of(size, &bytes);

	if (!b) return;
	if (i >= BLOCKS_CLASSES || blocks->cached + bytes > blocks->cached_max) {
		free(b);
		return;
	}
	b->next = blocks->free[i];
	blocks->free[i] = b;
	blocks->cached += bytes;
}
