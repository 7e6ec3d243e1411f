/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c -- four classes a doubling from 512 bytes up; blocks above the last class go straight to malloc.
 * Invariants: (1) every block in free[i] is class_size(i) bytes; (2) cached is their sum and <= cached_max. */
#include "net/pool.h"

#include <stddef.h>
#include <stdlib.h>

enum { POOL_ALIGN = 64, POOL_MIN_BITS = 9, POOL_STEP_BITS = 2 };

struct pool_block { struct pool_block *next; };

/* Index of the smallest class that holds size; *size_out its bytes. */
static uint32_t class_of(uint64_t size, uint64_t *size_out)
{
	if (size <= POOL_MIN_SIZE) {
		*size_out = POOL_MIN_SIZE;
		return 0;
	}
	uint32_t bits = 63u - (uint32_t)__builtin_clzll(size - 1); /* 2^bits < size <= 2^(bits+1) */
	uint64_t step = UINT64_C(1) << (bits - POOL_STEP_BITS);
	uint64_t steps = (size - (UINT64_C(1) << bits) + step - 1) / step; /* 1..4 */

	*size_out = (UINT64_C(1) << bits) + steps * step;
	return (bits - POOL_MIN_BITS) * 4 + (uint32_t)steps;
}

void pool_init(struct pool *pool, uint64_t cached_max)
{
	*pool = (struct pool){ .cached_max = cached_max };
}

void pool_release(struct pool *pool)
{
	for (uint32_t i = 0; i < POOL_CLASSES; i++) {
		while (pool->free[i]) {
			struct pool_block *b = pool->free[i];
			pool->free[i] = b->next;
			free(b);
		}
	}
	pool->cached = 0;
}

uint64_t pool_class_size(uint64_t size)
{
	uint64_t bytes;
	(void)class_of(size, &bytes);
	return bytes;
}

void *pool_take(struct pool *pool, uint64_t size)
{
	uint64_t bytes;
	uint32_t i = class_of(size, &bytes);

	if (i < POOL_CLASSES && pool->free[i]) {
		struct pool_block *b = pool->free[i];
		pool->free[i] = b->next;
		pool->cached -= bytes;
		return b;
	}
	return aligned_alloc(POOL_ALIGN, (size_t)bytes);
}

void pool_give(struct pool *pool, void *p, uint64_t size)
{
	struct pool_block *b = p;
	uint64_t bytes;
	uint32_t i = class_of(size, &bytes);

	if (!b)
		return;
	if (i >= POOL_CLASSES || pool->cached + bytes > pool->cached_max) {
		free(b);
		return;
	}
	b->next = pool->free[i];
	pool->free[i] = b;
	pool->cached += bytes;
}
