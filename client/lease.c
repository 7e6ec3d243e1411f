/* SPDX-License-Identifier: Apache-2.0 */
/* lease.c -- memory that the library lends to callers, within the client's memory_max.
 *
 * (1) pool.used is the sum of all leases' `reserved`; it never exceeds memory_max.
 * (2) a lease's chunks are at most its `reserved`.
 * (3) chunks of POOL_CHUNK bytes are kept when they come back: their pages are there, which saves a fault each
 * 4 KiB. */
#include "client_priv.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "common/clock.h"

enum { POOL_CHUNK = 4 * 1024 * 1024, HUGE_PAGE = 2 * 1024 * 1024, CHUNK_MIN = 16 * 1024, PAGE = 4096 };

void lease_init(struct lease *lease)
{
	list_init(&lease->chunks);
	lease->reserved = lease->held = 0;
}

static void chunk_free(struct chunk *chunk)
{
	free(chunk->p);
	free(chunk);
}

void pool_release(struct pool *pool)
{
	for (struct list *at; (at = list_pop(&pool->free)) != NULL;)
		chunk_free(container_of(at, struct chunk, link));
	pool->free_size = 0;
}

/* The lock is held. What lies idle makes room. */
static bool reserve_locked(struct granary_client *c, struct lease *lease, uint64_t size)
{
	struct pool *pool = &c->pool;

	if (size > c->config.memory_max - pool->used)
		return false;
	while (pool->free_size > 0 && pool->used + size + pool->free_size > c->config.memory_max) {
		chunk_free(container_of(list_pop(&pool->free), struct chunk, link));
		pool->free_size -= POOL_CHUNK;
	}
	pool->used += size;
	lease->reserved += size;
	return true;
}

static uint64_t reserve_size(const struct granary_client *c, uint64_t size)
{
	return size < c->config.memory_max ? size : c->config.memory_max;
}

int lease_reserve(struct granary_client *c, struct lease *lease, uint64_t size)
{
	pthread_mutex_lock(&c->lock);
	bool fits = reserve_locked(c, lease, reserve_size(c, size));
	pthread_mutex_unlock(&c->lock);
	return fits ? 0 : -GRANARY_EBUSY;
}

int lease_reserve_wait(struct granary_client *c, struct lease *lease, uint64_t size, uint64_t deadline_ns)
{
	struct timespec at = { .tv_sec = (time_t)(deadline_ns / 1000000000),
		.tv_nsec = (long)(deadline_ns % 1000000000) };
	bool fits;

	pthread_mutex_lock(&c->lock);
	while (!(fits = reserve_locked(c, lease, reserve_size(c, size))) && clock_mono_ns() < deadline_ns) {
		if (deadline_ns == NEVER_NS)
			pthread_cond_wait(&c->room, &c->lock);
		else
			pthread_cond_timedwait(&c->room, &c->lock, &at);
	}
	pthread_mutex_unlock(&c->lock);
	return fits ? 0 : -GRANARY_EBUSY;
}

static struct chunk *chunk_new(size_t size)
{
	struct chunk *chunk = malloc(sizeof(*chunk));
	size_t align = size >= HUGE_PAGE ? HUGE_PAGE : PAGE;

	if (!chunk)
		return NULL;
	*chunk = (struct chunk){ .size = size };
	list_init(&chunk->link);
	chunk->p = aligned_alloc(align, (size + align - 1) / align * align);
	if (!chunk->p) {
		free(chunk);
		return NULL;
	}
	if (size >= HUGE_PAGE && madvise(chunk->p, size, MADV_HUGEPAGE) < 0)
		return chunk; /* plain pages do as well */
	return chunk;
}

/* A chunk of at least `size` bytes within the budget, or NULL. */
static struct chunk *chunk_get(struct granary_client *c, struct lease *lease, size_t size)
{
	struct chunk *chunk = NULL;
	struct list *idle = NULL;

	pthread_mutex_lock(&c->lock);
	if (size == POOL_CHUNK && !list_empty(&c->pool.free)) {
		idle = list_pop(&c->pool.free);
		c->pool.free_size -= POOL_CHUNK;
	}
	uint64_t total = lease->held + size;
	bool fits = total <= lease->reserved || reserve_locked(c, lease, total - lease->reserved);
	pthread_mutex_unlock(&c->lock);
	if (idle)
		chunk = container_of(idle, struct chunk, link);
	else if (fits)
		chunk = chunk_new(size);
	if (!fits && chunk) {
		chunk_free(chunk);
		return NULL;
	}
	if (!chunk)
		return NULL;
	chunk->used = 0;
	lease->held += size;
	list_push(&lease->chunks, &chunk->link);
	return chunk;
}

static size_t chunk_size_for(size_t size, size_t expect)
{
	size_t want = expect > size ? expect : size;

	if (want > POOL_CHUNK)
		want = size > POOL_CHUNK ? size : POOL_CHUNK;
	if (want > POOL_CHUNK / 4 && want < POOL_CHUNK)
		want = POOL_CHUNK;
	return want < CHUNK_MIN ? CHUNK_MIN : want;
}

static uint8_t *chunk_take(struct chunk *chunk, size_t size, size_t align)
{
	size_t at = (chunk->used + align - 1) / align * align;

	if (at > chunk->size || size > chunk->size - at)
		return NULL;
	chunk->used = at + size;
	return chunk->p + at;
}

uint8_t *lease_take(struct granary_client *c, struct lease *lease, size_t size, size_t align, size_t expect)
{
	uint8_t *p = NULL;

	if (!list_empty(&lease->chunks))
		p = chunk_take(container_of(lease->chunks.prev, struct chunk, link), size, align);
	if (p)
		return p;
	struct chunk *chunk = chunk_get(c, lease, chunk_size_for(size, expect));
	if (!chunk && expect > size) /* less would do */
		chunk = chunk_get(c, lease, chunk_size_for(size, size));
	return chunk ? chunk_take(chunk, size, align) : NULL;
}

void lease_release(struct granary_client *c, struct lease *lease)
{
	struct list freed;

	if (lease->reserved == 0 && list_empty(&lease->chunks))
		return;
	list_init(&freed);
	pthread_mutex_lock(&c->lock);
	c->pool.used -= lease->reserved;
	for (struct list *at; (at = list_pop(&lease->chunks)) != NULL;) {
		struct chunk *chunk = container_of(at, struct chunk, link);
		bool keep = chunk->size == POOL_CHUNK && !c->closed &&
			c->pool.used + c->pool.free_size + POOL_CHUNK <= c->config.memory_max;
		list_push(keep ? &c->pool.free : &freed, at);
		c->pool.free_size += keep ? POOL_CHUNK : 0;
	}
	lease->reserved = lease->held = 0;
	pthread_cond_broadcast(&c->room);
	pthread_mutex_unlock(&c->lock);
	for (struct list *at; (at = list_pop(&freed)) != NULL;)
		chunk_free(container_of(at, struct chunk, link));
}
