/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.h -- memory blocks by size class for one reactor: requests come and go by the hundred thousand a second, and
 * their large bodies must not be mapped and cleared by the kernel each time. No locks: one thread. */
#pragma once

#include <stdint.h>

enum { BLOCKS_MIN_SIZE = 512, BLOCKS_CLASSES = 72 };

struct block;
struct blocks {
	struct block *free[BLOCKS_CLASSES];
	uint64_t cached, cached_max; /* bytes of blocks that wait for reuse */
};

void blocks_init(struct blocks *blocks, uint64_t cached_max);
void blocks_release(struct blocks *blocks);
/* What a block for `size` bytes really takes: at most a quarter more. */
uint64_t blocks_class_size(uint64_t size);
/* 64-byte aligned, content undefined; NULL when there is no memory. Give back with the same size. */
void *blocks_take(struct blocks *blocks, uint64_t size);
void blocks_give(struct blocks *blocks, void *p, uint64_t size);
