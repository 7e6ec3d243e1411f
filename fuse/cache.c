/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c -- bytes of files in the daemon's memory. Runs and pieces are in one table: an entry of it leads from (row,
 * window of 4 MiB of the file) to the block, so a run has an entry a row and a piece one or two. */
#include "fuse/cache.h"

#include <granary/granary.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW_SHIFT = 22, FETCHES_MAX = 64 };

struct entry {
	struct entry *next;
	struct cache_block *block;
	uint64_t row, window;
	uint64_t offset, size; /* in the file */
	uint64_t file_size;
	const uint8_t *data;
};
struct cache_block {
	struct cache_block *newer, *older;
	void *data;
	uint64_t bytes;
	uint32_t refs, count; /* entries */
	bool seen, used;      /* looked at once; since it was at the end of the order last */
	bool dropped;         /* no entry leads to it, it goes with its last reference */
	struct entry entries[];
};
struct cache {
	pthread_mutex_t lock; /* all below */
	pthread_cond_t fetched;
	struct cache_block *newest, *oldest;
	struct entry **table;
	uint64_t mask;
	uint64_t fetching[FETCHES_MAX];
	uint32_t fetching_count;
	struct cache_numbers numbers;
};

struct cache *cache_new(uint64_t budget)
{
	struct cache *c = calloc(1, sizeof(*c));
	uint64_t slots = 1024;

	/* Files of 4 KiB on average fill it; smaller ones make longer chains. */
	while (slots < budget / 4096 && slots < (UINT64_C(1) << 26)) slots *= 2;
	if (!c) return NULL;
	c->table = calloc(slots, sizeof(*c->table));
	c->mask = slots - 1;
	c->numbers.budget = budget;
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP); /* it is held for less than a sleep takes */
	pthread_mutex_init(&c->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_cond_init(&c->fetched, NULL);
	if (!c->table) {
		cache_free(c);
		return NULL;
	}
	return c;
}

static void block_free(struct cache_block *b)
{
	granary_free(b->data);
	free(b);
}

void cache_free(struct cache *c)
{
	if (!c) return;
	while (c->newest) {
		struct cache_block *b = c->newest;
		c->newest = b->older;
		block_free(b);
	}
	pthread_cond_destroy(&c->fetched);
	pthread_mutex_destroy(&c->lock);
	free(c->table);
	free(c);
}

static struct entry **bucket_of(struct cache *c, uint64_t row, uint64_t window)
{
	uint64_t h = (row * UINT64_C(0x9e3779b97f4a7c15)) ^ (window * UINT64_C(0xc2b2ae3d27d4eb4f));

	return &c->table[(h >> 20) & c->mask];
}

/* ---- order of use; lock held ---- */

static void order_remove(struct cache *c, struct cache_block *b)
{
	*(b->newer ? &b->newer->older : &c->newest) = b->older;
	*(b->older ? &b->older->newer : &c->oldest) = b->newer;
}

static void order_front(struct cache *c, struct cache_block *b)
{
	b->newer = NULL;
	b->older = c->newest;
	*(c->newest ? &c->newest->newer : &c->oldest) = b;
	c->newest = b;
}

static void block_drop(struct cache *c, struct cache_block *b)
{
	for (uint32_t i = 0; i < b->count; i++) {
		struct entry **at = bucket_of(c, b->entries[i].row, b->entries[i].window);
		while (*at != &b->entries[i]) at = &(*at)->next;
		*at = b->entries[i].next;
	}
	order_remove(c, b);
	c->numbers.blocks--;
	b->dropped = true;
	if (b->refs == 0) {
		c->numbers.used -= b->bytes;
		block_free(b);
	}
}

static void trim(struct cache *c, uint64_t coming)
{
	uint64_t turns = 2 * c->numbers.blocks;

	while (c->oldest && c->numbers.used + coming > c->numbers.budget && turns-- > 0) {
		struct cache_block *b = c->oldest;
		if (b->refs == 0 && !b->used) {
			c->numbers.evicted++;
			block_drop(c, b);
			continue;
		}
		b->used = false; /* a second chance */
		order_remove(c, b);
		order_front(c, b);
	}
}

/* ---- finding ---- */

/* Lock held. */
static struct entry *entry_find(struct cache *c, uint64_t row, uint64_t offset)
{
	struct entry *e = *bucket_of(c, row, offset >> WINDOW_SHIFT);

	while (e && !(e->row == row && offset >= e->offset && offset - e->offset < e->size)) e = e->next;
	return e;
}

bool cache_has(struct cache *c, uint64_t row, uint64_t offset)
{
	pthread_mutex_lock(&c->lock);
	bool has = entry_find(c, row, offset) != NULL;
	pthread_mutex_unlock(&c->lock);
	return has;
}

/* Lock held. The entry looked at, counted; NULL: not here. */
static struct entry *entry_use(struct cache *c, uint64_t row, uint64_t offset, struct cache_view *out)
{
	struct entry *e = entry_find(c, row, offset);

	c->numbers.hits += e != NULL;
	c->numbers.misses += e == NULL;
	if (!e) return NULL;
	*out = (struct cache_view){ NULL, NULL, e->offset, e->size, e->file_size, !e->block->seen };
	e->block->seen = e->block->used = true;
	return e;
}

bool cache_find(struct cache *c, uint64_t row, uint64_t offset, struct cache_view *out)
{
	pthread_mutex_lock(&c->lock);
	struct entry *e = entry_use(c, row, offset, out);
	if (e) {
		out->block = e->block;
		out->data = e->data;
		e->block->refs++;
	}
	pthread_mutex_unlock(&c->lock);
	return e != NULL; /* the block is held, but e is the lock's */
}

size_t cache_copy(struct cache *c, uint64_t row, uint64_t offset, void *to, size_t size, struct cache_view *out)
{
	size_t take = 0;

	pthread_mutex_lock(&c->lock);
	struct entry *e = entry_use(c, row, offset, out);
	if (e) {
		uint64_t left = e->offset + e->size - offset;
		take = left < size ? (size_t)left : size;
		memcpy(to, e->data + (offset - e->offset), take);
	}
	pthread_mutex_unlock(&c->lock);
	return take;
}

void cache_put(struct cache *c, struct cache_block *b)
{
	pthread_mutex_lock(&c->lock);
	if (--b->refs == 0 && b->dropped) {
		c->numbers.used -= b->bytes;
		block_free(b);
	}
	pthread_mutex_unlock(&c->lock);
}

/* ---- fetching ---- */

static bool fetching_has(const struct cache *c, uint64_t what)
{
	for (uint32_t i = 0; i < c->fetching_count; i++)
		if (c->fetching[i] == what) return true;
	return false;
}

bool cache_begin(struct cache *c, uint64_t what)
{
	bool mine = true;

	pthread_mutex_lock(&c->lock);
	while (fetching_has(c, what) || c->fetching_count == FETCHES_MAX) {
		mine = !fetching_has(c, what);
		pthread_cond_wait(&c->fetched, &c->lock);
	}
	if (mine) c->fetching[c->fetching_count++] = what;
	pthread_mutex_unlock(&c->lock);
	return mine;
}

void cache_end(struct cache *c, uint64_t what)
{
	pthread_mutex_lock(&c->lock);
	for (uint32_t i = 0; i < c->fetching_count; i++)
		if (c->fetching[i] == what) {
			c->fetching[i] = c->fetching[--c->fetching_count];
			break;
		}
	pthread_cond_broadcast(&c->fetched);
	pthread_mutex_unlock(&c->lock);
}

/* ---- adding ---- */

static void block_add(struct cache *c, struct cache_block *b)
{
	b->bytes += sizeof(*b) + b->count * sizeof(b->entries[0]);
	pthread_mutex_lock(&c->lock);
	trim(c, b->bytes);
	for (uint32_t i = 0; i < b->count; i++) {
		struct entry **at = bucket_of(c, b->entries[i].row, b->entries[i].window);
		b->entries[i].next = *at;
		*at = &b->entries[i];
	}
	order_front(c, b);
	c->numbers.used += b->bytes;
	c->numbers.blocks++;
	pthread_mutex_unlock(&c->lock);
}

static struct cache_block *block_new(void *data, uint64_t bytes, uint32_t entries)
{
	struct cache_block *b = calloc(1, sizeof(*b) + entries * sizeof(b->entries[0]));

	if (!b) {
		granary_free(data); /* it is fetched again when it is wanted */
		return NULL;
	}
	b->data = data;
	b->bytes = bytes;
	return b;
}

void cache_add_run(struct cache *c, uint64_t first_row, uint32_t count, void *data, const uint64_t *offsets)
{
	struct cache_block *b = block_new(data, offsets[count], count);

	for (uint32_t i = 0; b && i < count; i++)
		b->entries[b->count++] = (struct entry){ .block = b,
			.row = first_row + i,
			.size = offsets[i + 1] - offsets[i],
			.file_size = offsets[i + 1] - offsets[i],
			.data = (const uint8_t *)data + offsets[i] };
	if (b) block_add(c, b);
}

void cache_add_piece(struct cache *c, uint64_t row, void *data, uint64_t offset, uint64_t size, uint64_t file_size)
{
	uint64_t first = offset >> WINDOW_SHIFT, last = (offset + size - 1) >> WINDOW_SHIFT;
	struct cache_block *b = block_new(data, size, (uint32_t)(last - first + 1));

	for (uint64_t w = first; b && w <= last; w++)
		b->entries[b->count++] = (struct entry){ .block = b,
			.row = row,
			.window = w,
			.offset = offset,
			.size = size,
			.file_size = file_size,
			.data = data };
	if (b) block_add(c, b);
}

void cache_numbers(struct cache *c, struct cache_numbers *out)
{
	pthread_mutex_lock(&c->lock);
	*out = c->numbers;
	pthread_mutex_unlock(&c->lock);
}
