/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c -- bytes of files in the daemon's memory. An entry of the table leads from (row, window of 4 MiB of the file)
 * to bytes: a run has an entry a file and a piece one or two. They lie in the segments, before the bytes they lead to.
 *
 * FREE   -> FILLED  segment_take()  it becomes the one that parts are added to
 * FILLED -> FREE    segment_empty() nobody holds it, and nobody looked at it since the hand passed it last */
#include "fuse/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SEGMENT = 2 * 1024 * 1024, WINDOW_SHIFT = 22, FETCHES_MAX = 64, ALIGN = 64 };

struct part;
struct entry {
	struct entry *next;
	struct part *part;
	uint64_t row, window;
	uint64_t offset, size, file_size; /* in the file */
	const uint8_t *data;
};
struct part {
	struct cache_block *segment;
	uint32_t bytes; /* all of it, up to the next part */
	uint32_t count; /* entries; 0: none is linked yet */
	bool seen;
	struct entry entries[];
};
struct cache_block {
	uint8_t *memory;
	uint32_t filled; /* bytes */
	uint32_t refs;
	bool used; /* looked at since the hand passed */
};
struct cache {
	pthread_mutex_t lock; /* all below */
	pthread_cond_t fetched, put;
	struct entry **table;
	uint64_t mask;
	uint8_t *memory;
	size_t memory_size;
	struct cache_block *segments, *open; /* open: parts are added to it */
	uint32_t count, hand;
	uint64_t fetching[FETCHES_MAX];
	uint32_t fetching_count;
	struct cache_numbers numbers;
};

static bool memory_new(struct cache *c, uint64_t budget)
{
	uint64_t slots = 1024;

	/* Files of 4 KiB on average fill it; smaller ones make longer chains. */
	while (slots < budget / 4096 && slots < (UINT64_C(1) << 26)) slots *= 2;
	c->mask = slots - 1;
	c->table = calloc(slots, sizeof(*c->table));
	c->count = (uint32_t)((budget - slots * sizeof(*c->table)) / SEGMENT);
	c->segments = calloc(c->count, sizeof(*c->segments));
	c->memory_size = ((size_t)c->count + 1) * SEGMENT; /* one more, to begin where a huge page does */
	c->memory = mmap(NULL, c->memory_size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->memory == MAP_FAILED) c->memory = NULL;
	if (!c->table || !c->segments || !c->memory) return false;
	madvise(c->memory, c->memory_size, MADV_HUGEPAGE);
	size_t skip = SEGMENT - (uintptr_t)c->memory % SEGMENT;
	for (uint32_t i = 0; i < c->count; i++) c->segments[i].memory = c->memory + skip + (size_t)i * SEGMENT;
	return true;
}

struct cache *cache_new(uint64_t budget)
{
	struct cache *c = calloc(1, sizeof(*c));
	pthread_mutexattr_t attr;

	assert(budget >= CACHE_LEAST);
	if (!c) return NULL;
	c->numbers.budget = budget;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP); /* it is held for less than a sleep takes */
	pthread_mutex_init(&c->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_cond_init(&c->fetched, NULL);
	pthread_cond_init(&c->put, NULL);
	if (memory_new(c, budget)) return c;
	cache_free(c);
	return NULL;
}

void cache_free(struct cache *c)
{
	if (!c) return;
	if (c->memory) munmap(c->memory, c->memory_size);
	pthread_cond_destroy(&c->fetched);
	pthread_cond_destroy(&c->put);
	pthread_mutex_destroy(&c->lock);
	free(c->segments);
	free(c->table);
	free(c);
}

static struct entry **bucket_of(struct cache *c, uint64_t row, uint64_t window)
{
	uint64_t h = (row * UINT64_C(0x9e3779b97f4a7c15)) ^ (window * UINT64_C(0xc2b2ae3d27d4eb4f));

	return &c->table[(h >> 20) & c->mask];
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
	*out = (struct cache_view){ NULL, NULL, e->offset, e->size, e->file_size, !e->part->seen };
	e->part->seen = true;
	e->part->segment->used = true;
	return e;
}

bool cache_find(struct cache *c, uint64_t row, uint64_t offset, struct cache_view *out)
{
	pthread_mutex_lock(&c->lock);
	struct entry *e = entry_use(c, row, offset, out);
	if (e) {
		out->block = e->part->segment;
		out->data = e->data;
		out->block->refs++;
	}
	pthread_mutex_unlock(&c->lock);
	return e != NULL; /* the segment is held, but e is the lock's */
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
	if (--b->refs == 0) pthread_cond_signal(&c->put);
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

/* ---- segments; lock held ---- */

static void segment_empty(struct cache *c, struct cache_block *b)
{
	for (uint32_t at = 0; at < b->filled;) {
		const struct part *p = (const struct part *)(const void *)(b->memory + at);
		for (uint32_t i = 0; i < p->count; i++) {
			struct entry **from = bucket_of(c, p->entries[i].row, p->entries[i].window);
			while (*from != &p->entries[i]) from = &(*from)->next;
			*from = p->entries[i].next;
		}
		at += p->bytes;
	}
	b->filled = 0;
	c->numbers.used -= SEGMENT;
	c->numbers.evicted++;
}

/* A free one, if need be by emptying that which was not looked at for longest; waits while all are held. */
static struct cache_block *segment_take(struct cache *c)
{
	for (;;) {
		for (uint32_t turns = 2 * c->count; turns > 0; turns--) {
			struct cache_block *b = &c->segments[c->hand];
			c->hand = (c->hand + 1) % c->count;
			if (b->filled == 0) return b;
			if (b->refs == 0 && !b->used && b != c->open) {
				segment_empty(c, b);
				return b;
			}
			b->used = false; /* a second chance */
		}
		pthread_cond_wait(&c->put, &c->lock);
	}
}

/* ---- adding ---- */

static size_t round_up(size_t size)
{
	return (size + ALIGN - 1) / ALIGN * ALIGN;
}

/* Room for a part with so many entries and bytes, held until it is linked. */
static struct part *part_new(struct cache *c, uint32_t entries, uint64_t size, uint8_t **data)
{
	size_t head = round_up(sizeof(struct part) + entries * sizeof(struct entry)), all = head + round_up(size);
	struct part *p;

	assert(all <= SEGMENT);
	pthread_mutex_lock(&c->lock);
	while (!c->open || c->open->filled + all > SEGMENT) {
		struct cache_block *b = segment_take(c);
		if (c->open && c->open->filled + all <= SEGMENT) break; /* another thread was faster while it waited */
		c->open = b;
		if (b->filled == 0) c->numbers.used += SEGMENT;
	}
	p = (struct part *)(void *)(c->open->memory + c->open->filled);
	*p = (struct part){ .segment = c->open, .bytes = (uint32_t)all };
	c->open->filled += (uint32_t)all;
	c->open->refs++;
	c->open->used = true;
	pthread_mutex_unlock(&c->lock);
	*data = (uint8_t *)p + head;
	return p;
}

/* Its entries and bytes are in place. */
static void part_link(struct cache *c, struct part *p, uint32_t entries)
{
	pthread_mutex_lock(&c->lock);
	p->count = entries;
	for (uint32_t i = 0; i < entries; i++) {
		struct entry **at = bucket_of(c, p->entries[i].row, p->entries[i].window);
		p->entries[i].next = *at;
		*at = &p->entries[i];
	}
	if (--p->segment->refs == 0) pthread_cond_signal(&c->put);
	pthread_mutex_unlock(&c->lock);
}

void cache_add_run(struct cache *c, uint64_t first_row, uint32_t count, const void *data, const uint64_t *offsets)
{
	uint8_t *to;
	struct part *p = part_new(c, count, offsets[count], &to);

	memcpy(to, data, offsets[count]);
	for (uint32_t i = 0; i < count; i++)
		p->entries[i] = (struct entry){ .part = p,
			.row = first_row + i,
			.size = offsets[i + 1] - offsets[i],
			.file_size = offsets[i + 1] - offsets[i],
			.data = to + offsets[i] };
	part_link(c, p, count);
}

void cache_add_piece(
	struct cache *c, uint64_t row, const void *data, uint64_t offset, uint64_t size, uint64_t file_size)
{
	for (uint64_t at = 0; at < size; at += CACHE_PIECE) {
		uint64_t len = size - at < CACHE_PIECE ? size - at : CACHE_PIECE;
		uint64_t first = (offset + at) >> WINDOW_SHIFT, last = (offset + at + len - 1) >> WINDOW_SHIFT;
		uint8_t *to;
		struct part *p = part_new(c, (uint32_t)(last - first + 1), len, &to);
		memcpy(to, (const uint8_t *)data + at, len);
		for (uint64_t w = first; w <= last; w++)
			p->entries[w - first] = (struct entry){ .part = p,
				.row = row,
				.window = w,
				.offset = offset + at,
				.size = len,
				.file_size = file_size,
				.data = to };
		part_link(c, p, (uint32_t)(last - first + 1));
	}
}

void cache_numbers(struct cache *c, struct cache_numbers *out)
{
	pthread_mutex_lock(&c->lock);
	*out = c->numbers;
	pthread_mutex_unlock(&c->lock);
}
