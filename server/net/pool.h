/* SPDX-License-Identifier: Apache-2.0 */
/* pool.h -- memory blocks by size class for one reactor: requests come and go by the hundred thousand a second, and
 * their large bodies must not be mapped and cleared by the kernel each time. No locks: one thread. */
#pragma once

#include <stdint.h>

enum { POOL_MIN_SIZE = 512, POOL_CLASSES = 72 };

struct pool_block;
struct pool {
	struct pool_block *free[POOL_CLASSES];
	uint64_t cached, cached_max; /* bytes of blocks that wait for reuse */
};

void pool_init(struct pool *pool, uint64_t cached_max);
void pool_release(struct pool *pool);
/* What a block for `size` bytes really takes: at most a quarter more. */
uint64_t pool_class_size(uint64_t size);
/* 64-byte aligned, content undefined; NULL when there is no memory. Give back with the same size. */
void *pool_take(struct pool *pool, uint64_t size);
void pool_give(struct pool *pool, void *p, uint64_t size);
