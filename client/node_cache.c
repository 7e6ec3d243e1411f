/* SPDX-License-Identifier: Apache-2.0 */
/* node_cache.c -- the file: a head of a page, a line of each segment, an index, segments. All but these is mapped.
 *
 *   head      what it is, its sizes, `clock`: bytes that were asked for so far by all processes
 *   segments  of each: the clock when something was found in it last, bytes filled, 64 in all
 *   index     buckets of 8 words: 24 bits of a key's hash, the segment, the place in it in 64 bytes; 0: nothing
 *   data      records: whose bytes, in 64, then the bytes, up to the next multiple of 64
 *
 * What the index says is a guess: the record tells. Numbers are the machine's own: the file is of no use elsewhere. */
#include "node_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/hash.h"

enum {
	PAGE = 4096,
	UNIT = 64,       /* records begin at multiples of it */
	WAYS = 8,        /* words of a bucket */
	MEAN = 4096,     /* bytes a word of the index, about */
	SEGMENT_LEAST = 8 * 1024 * 1024,
	SEGMENT_MOST = 64 * 1024 * 1024,
	SEGMENTS_WANTED = 32,
	SEGMENT_BITS = 20,
	PLACE_BITS = 20,
	LOCK_MAKE = 0,    /* bytes whose locks mean: it is being made; it is used; segment 0, 1... is filled */
	LOCK_USED = 1,
	LOCK_SEGMENTS = PAGE,
};
#define MAGIC UINT64_C(0x314843434e524721)
#define RECORD_MAGIC UINT32_C(0x47524e52)

struct head {
	uint64_t magic, size, segment_size, segments, buckets, data_at;
	_Alignas(UNIT) _Atomic uint64_t clock;
};
struct segment {
	_Alignas(UNIT) _Atomic uint64_t found_at; /* clock */
	_Atomic uint32_t filled;
};
struct record {
	uint32_t magic, crc;
	struct node_cache_key key;
	uint8_t zero[UNIT - 8 - sizeof(struct node_cache_key)];
};
_Static_assert(sizeof(struct record) == UNIT && sizeof(struct segment) == UNIT, "layout");

struct node_cache {
	int fd;
	struct head *head; /* and all that is mapped */
	size_t mapped;
	struct segment *segments;
	_Atomic uint64_t *index;
	pthread_mutex_t lock;
	int64_t open;      /* lock: the segment that this process fills; -1: none */
	uint64_t look_at;  /* lock: no segment was free: not looked for before this clock */
	_Atomic uint64_t hits, misses, hit_bytes;
};

/* ---- the file ---- */

static bool range_lock(int fd, short type, int64_t start, bool wait)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1 };
	int n;

	do {
		n = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &l);
	} while (n < 0 && errno == EINTR);
	return n == 0;
}

static struct head geometry(uint64_t size)
{
	struct head h = { .magic = MAGIC, .size = size, .segment_size = SEGMENT_LEAST, .buckets = 64 };

	while (h.segment_size < SEGMENT_MOST && h.segment_size * SEGMENTS_WANTED < size) h.segment_size *= 2;
	while (h.buckets * WAYS * MEAN < size) h.buckets *= 2;
	uint64_t before = PAGE + size / h.segment_size * sizeof(struct segment) + h.buckets * WAYS * sizeof(uint64_t);
	h.data_at = (before + PAGE - 1) / PAGE * PAGE;
	h.segments = (size - h.data_at) / h.segment_size;
	if (h.segments > UINT64_C(1) << SEGMENT_BITS) h.segments = UINT64_C(1) << SEGMENT_BITS;
	return h;
}

static bool head_is_good(const struct head *h, uint64_t file_size)
{
	struct head g;

	if (h->magic != MAGIC || h->size < NODE_CACHE_LEAST) return false;
	g = geometry(h->size);
	return h->segment_size == g.segment_size && h->segments == g.segments && h->buckets == g.buckets &&
	       h->data_at == g.data_at && file_size >= h->data_at;
}

/* LOCK_MAKE held. 0 or -errno; *made: the file's sizes. */
static int file_ready(int fd, uint64_t size, struct head *made)
{
	struct stat st;
	struct head h = { .magic = 0 };

	if (fstat(fd, &st) < 0) return -errno;
	bool good = pread(fd, &h, sizeof(h), 0) == sizeof(h) && head_is_good(&h, (uint64_t)st.st_size);
	*made = h;
	if (good && (h.size == size || !range_lock(fd, F_WRLCK, LOCK_USED, false))) return 0;
	*made = h = geometry(size);
	/* What is mapped has its room on the disk from now on: a disk that is full is told here, not by a signal. */
	if (ftruncate(fd, 0) < 0) return -errno;
	int err = posix_fallocate(fd, 0, (off_t)h.data_at);
	if (err != 0) return -err;
	return pwrite(fd, &h, sizeof(h), 0) == sizeof(h) ? 0 : -EIO;
}

static int file_open(struct node_cache *c, const char *path, uint64_t size)
{
	struct head made = { .magic = 0 };

	c->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (c->fd < 0 || !range_lock(c->fd, F_WRLCK, LOCK_MAKE, true)) return -errno;
	int err = file_ready(c->fd, size, &made);
	if (err == 0 && !range_lock(c->fd, F_RDLCK, LOCK_USED, false)) err = -EBUSY;
	if (err == 0) {
		c->mapped = made.data_at;
		c->head = mmap(NULL, c->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
		if (c->head == MAP_FAILED) {
			c->head = NULL;
			err = -errno;
		}
	}
	range_lock(c->fd, F_UNLCK, LOCK_MAKE, false);
	return err;
}

struct node_cache *node_cache_open(const char *dir, uint64_t size, char *why, size_t why_size)
{
	struct node_cache *c = calloc(1, sizeof(*c));
	char path[NODE_CACHE_NAME_MAX + 32];
	int err = c ? 0 : -ENOMEM;

	if (c) c->fd = -1;
	if (size < NODE_CACHE_LEAST || strlen(dir) > NODE_CACHE_NAME_MAX) {
		snprintf(why, why_size, "a cache in '%.200s' needs a size of 64 MiB at least, and a shorter name", dir);
		node_cache_close(c);
		return NULL;
	}
	if (err == 0 && mkdir(dir, 0700) < 0 && errno != EEXIST) err = -errno;
	snprintf(path, sizeof(path), "%s/granary-cache", dir);
	if (err == 0) err = file_open(c, path, size);
	if (err < 0) {
		snprintf(why, why_size, "the cache '%.300s' cannot be used: %s", path, strerror(-err));
		node_cache_close(c);
		return NULL;
	}
	uint8_t *at = (uint8_t *)c->head + PAGE;
	c->segments = (struct segment *)(void *)at;
	c->index = (_Atomic uint64_t *)(void *)(at + c->head->size / c->head->segment_size * sizeof(struct segment));
	c->open = -1;
	pthread_mutex_init(&c->lock, NULL);
	return c;
}

void node_cache_close(struct node_cache *c)
{
	if (!c) return;
	if (c->head) {
		munmap(c->head, c->mapped);
		pthread_mutex_destroy(&c->lock);
	}
	if (c->fd >= 0) close(c->fd); /* locks end with it */
	free(c);
}

/* ---- the index ---- */

static uint64_t key_hash(const struct node_cache_key *k)
{
	return hash_keyed(k->pack, (uint64_t)k->offset << 32 | k->len, k->store, sizeof(k->store)).lo;
}

static _Atomic uint64_t *bucket_of(const struct node_cache *c, uint64_t hash)
{
	return c->index + (hash & (c->head->buckets - 1)) * WAYS;
}

static uint64_t tag_of(uint64_t hash)
{
	return (hash >> 40 | 1) << (SEGMENT_BITS + PLACE_BITS); /* never 0 */
}

static uint64_t place_of(uint64_t word)
{
	return (word & ((UINT64_C(1) << PLACE_BITS) - 1)) * UNIT;
}

static uint64_t segment_of(uint64_t word)
{
	return word >> PLACE_BITS & ((UINT64_C(1) << SEGMENT_BITS) - 1);
}

/* Where a word goes: the place of the same tag, else a free one, else one by chance; *seen: what is there. */
static _Atomic uint64_t *index_place(struct node_cache *c, uint64_t hash, uint64_t *seen)
{
	_Atomic uint64_t *bucket = bucket_of(c, hash), *at = &bucket[hash >> 37 & (WAYS - 1)];
	uint64_t tag = tag_of(hash) >> (SEGMENT_BITS + PLACE_BITS);

	*seen = atomic_load_explicit(at, memory_order_relaxed);
	for (int i = WAYS - 1; i >= 0; i--) {
		uint64_t word = atomic_load_explicit(&bucket[i], memory_order_relaxed);
		if (word != 0 && word >> (SEGMENT_BITS + PLACE_BITS) != tag) continue;
		at = &bucket[i];
		*seen = word;
		if (word != 0) break;
	}
	return at;
}

/* Others add to the same bucket: none takes the place that another one has just taken. */
static void index_add(struct node_cache *c, uint64_t hash, uint64_t segment, uint64_t place)
{
	uint64_t word = tag_of(hash) | segment << PLACE_BITS | place / UNIT, seen;

	for (int tries = 0; tries < WAYS; tries++) {
		_Atomic uint64_t *at = index_place(c, hash, &seen);
		if (atomic_compare_exchange_strong(at, &seen, word)) return;
	}
}

/* ---- reading ---- */

static bool record_read(struct node_cache *c, uint64_t word, const struct node_cache_key *key, void *to)
{
	const struct head *h = c->head;
	struct record r;
	struct iovec parts[2] = { { &r, sizeof(r) }, { to, key->len } };
	uint64_t segment = segment_of(word), place = place_of(word);

	if (segment >= h->segments || place + sizeof(r) + key->len > h->segment_size) return false;
	ssize_t n = preadv(c->fd, parts, 2, (off_t)(h->data_at + segment * h->segment_size + place));
	return n == (ssize_t)(sizeof(r) + key->len) && r.magic == RECORD_MAGIC &&
	       memcmp(&r.key, key, sizeof(*key)) == 0 && crc32c(0, to, key->len) == key->crc;
}

bool node_cache_get(struct node_cache *c, const struct node_cache_key *key, void *to)
{
	uint64_t hash = key_hash(key), tag = tag_of(hash) >> (SEGMENT_BITS + PLACE_BITS);
	uint64_t now = atomic_fetch_add_explicit(&c->head->clock, key->len, memory_order_relaxed);
	_Atomic uint64_t *bucket = bucket_of(c, hash);

	for (int i = 0; i < WAYS; i++) {
		uint64_t word = atomic_load_explicit(&bucket[i], memory_order_relaxed);
		if (word == 0 || word >> (SEGMENT_BITS + PLACE_BITS) != tag) continue;
		if (record_read(c, word, key, to)) {
			atomic_store_explicit(&c->segments[segment_of(word)].found_at, now, memory_order_relaxed);
			atomic_fetch_add_explicit(&c->hits, 1, memory_order_relaxed);
			atomic_fetch_add_explicit(&c->hit_bytes, key->len, memory_order_relaxed);
			return true;
		}
		atomic_compare_exchange_strong(&bucket[i], &word, 0); /* of a segment that was filled anew */
	}
	atomic_fetch_add_explicit(&c->misses, 1, memory_order_relaxed);
	return false;
}

/* ---- writing ---- */

/* A place in segments: the bytes of a record; how many were asked for in vain when a segment is of no use (3). */
struct wish { uint64_t need, patience; };

/* Lock held. It has room (and nobody fills it), or everything in it is of no use any more. */
static bool segment_try(struct node_cache *c, uint64_t i, struct wish w, bool stale)
{
	struct segment *s = &c->segments[i];
	uint64_t now = atomic_load_explicit(&c->head->clock, memory_order_relaxed);
	bool room = atomic_load(&s->filled) + w.need <= c->head->segment_size;
	bool unused = now - atomic_load(&s->found_at) > w.patience;

	if (!(stale ? unused : room) || !range_lock(c->fd, F_WRLCK, LOCK_SEGMENTS + (int64_t)i, false)) return false;
	/* Between the look and the lock another process may have filled it. */
	room = atomic_load(&s->filled) + w.need <= c->head->segment_size;
	unused = now - atomic_load(&s->found_at) > w.patience;
	if (!(stale ? unused : room)) {
		range_lock(c->fd, F_UNLCK, LOCK_SEGMENTS + (int64_t)i, false);
		return false;
	}
	if (stale) atomic_store(&s->filled, 0);
	atomic_store(&s->found_at, now);
	c->open = (int64_t)i;
	return true;
}

/* Lock held. */
static bool segment_take(struct node_cache *c, struct wish w)
{
	uint64_t now = atomic_load_explicit(&c->head->clock, memory_order_relaxed);

	if (c->open >= 0) range_lock(c->fd, F_UNLCK, LOCK_SEGMENTS + c->open, false);
	c->open = -1;
	if (now < c->look_at) return false;
	for (int stale = 0; stale < 2; stale++)
		for (uint64_t i = 0; i < c->head->segments; i++)
			if (segment_try(c, i, w, stale)) return true;
	c->look_at = now + c->head->segment_size; /* looking at all for each record would cost more than it gives */
	return false;
}

void node_cache_put(struct node_cache *c, const struct node_cache_key *key, const void *bytes, uint64_t among)
{
	uint64_t need = (sizeof(struct record) + (uint64_t)key->len + UNIT - 1) / UNIT * UNIT, place = 0;
	struct record r = { .magic = RECORD_MAGIC, .key = *key };
	union { const void *c; void *p; } from = { bytes };
	struct iovec parts[2] = { { &r, sizeof(r) }, { from.p, key->len } };

	if (key->len == 0 || key->len > NODE_CACHE_LEN_MAX) return;
	pthread_mutex_lock(&c->lock);
	bool room = c->open >= 0 && atomic_load(&c->segments[c->open].filled) + need <= c->head->segment_size;
	uint64_t patience = 2 * (among > c->head->size ? among : c->head->size);
	room = room || segment_take(c, (struct wish){ need, patience });
	uint64_t segment = (uint64_t)c->open;
	if (room) place = atomic_fetch_add(&c->segments[segment].filled, (uint32_t)need);
	pthread_mutex_unlock(&c->lock);
	if (!room) return;
	off_t at = (off_t)(c->head->data_at + segment * c->head->segment_size + place);
	/* A disk that is full: it is not there, that is all. */
	if (pwritev(c->fd, parts, 2, at) == (ssize_t)(sizeof(r) + key->len))
		index_add(c, key_hash(key), segment, place);
}

void node_cache_numbers(struct node_cache *c, struct node_cache_numbers *out)
{
	*out = (struct node_cache_numbers){ .hits = atomic_load(&c->hits), .misses = atomic_load(&c->misses),
		.hit_bytes = atomic_load(&c->hit_bytes), .size = c->head->size };
	for (uint64_t i = 0; i < c->head->segments; i++) out->filled += atomic_load(&c->segments[i].filled);
}
