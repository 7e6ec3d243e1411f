/* SPDX-License-Identifier: Apache-2.0 */
/* writer_pool.c -- staging memory of all writers: chunks of 1 MiB out of one mapping.
 * Invariants: (1) whoever was refused first is served first: until then others are refused, so a
 * large record cannot starve behind small ones; (2) a refused core is woken by mail whenever chunks
 * come back. */
#include "pack/writer_priv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "io/mem.h"

int staging_init(struct pool *pool, uint64_t budget)
{
	uint64_t n = budget / CHUNK_SIZE;

	if (n < POOL_CHUNKS_MIN)
		n = POOL_CHUNKS_MIN;
	pthread_mutex_init(&pool->lock, NULL);
	pool->count = (uint32_t)n;
	pool->free = malloc(n * sizeof(*pool->free));
	pool->memory = mem_map(n * CHUNK_SIZE);
	if (pool->free == NULL || pool->memory == NULL)
		return -GRANARY_ENOMEM;
	/* A stack: the same few chunks are used again while there is little to do. */
	for (uint32_t i = 0; i < pool->count; i++)
		pool->free[i] = pool->count - 1 - i;
	pool->free_count = pool->count;
	return 0;
}

void staging_release(struct pool *pool)
{
	assert(pool->memory == NULL || pool->free == NULL || pool->free_count == pool->count);
	mem_unmap(pool->memory, (size_t)pool->count * CHUNK_SIZE);
	free(pool->free);
	pthread_mutex_destroy(&pool->lock);
}

bool staging_take(struct writer_core *core, uint32_t *chunks, uint32_t n)
{
	struct pool *pool = &core->writers->pool;
	bool ok;

	pthread_mutex_lock(&pool->lock);
	ok = pool->free_count >= n && (pool->claimant == NULL || pool->claimant == core);
	if (ok) {
		pool->free_count -= n;
		memcpy(chunks, pool->free + pool->free_count, n * sizeof(*chunks));
		if (pool->claimant == core)
			pool->claimant = NULL;
	} else {
		core->starved = true;
		core->claims = true;
		if (pool->claimant == NULL)
			pool->claimant = core;
	}
	pthread_mutex_unlock(&pool->lock);
	return ok;
}

/* Under the pool's lock. */
static void wake_starved(struct writers *writers)
{
	for (uint32_t i = 0; i < writers->o.reactor_count; i++) {
		struct writer_core *core = &writers->cores[i];

		if (!core->starved)
			continue;
		core->starved = false;
		writers_busy(writers, 1);
		reactor_post(core->reactor, &core->wake_task);
	}
}

void pool_unclaim(struct writer_core *core)
{
	struct pool *pool = &core->writers->pool;

	pthread_mutex_lock(&pool->lock);
	core->claims = false;
	core->starved = false;
	if (pool->claimant == core) {
		pool->claimant = NULL;
		wake_starved(core->writers);
	}
	pthread_mutex_unlock(&pool->lock);
}

void staging_give(struct writers *writers, const uint32_t *chunks, uint32_t n)
{
	struct pool *pool = &writers->pool;

	pthread_mutex_lock(&pool->lock);
	memcpy(pool->free + pool->free_count, chunks, n * sizeof(*chunks));
	pool->free_count += n;
	assert(pool->free_count <= pool->count);
	wake_starved(writers);
	pthread_mutex_unlock(&pool->lock);
}
