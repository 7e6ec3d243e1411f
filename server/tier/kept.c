/* SPDX-License-Identifier: Apache-2.0 */
/* kept.c -- see kept.h; the file is FORMAT 4.8.
 *
 * segment n:  FILLING in memory --full--> WRITING (others read it from memory) --> STORED in slot n mod slots
 *             --n + slots is written there--> gone
 * An entry of the table is as good as its segment; where the set of four that a key falls into is full, the entry of
 * the oldest segment is left. */
#include "tier/kept.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/log.h"
#include "io/fs.h"

enum {
	BLOCK = 4096, /* the head's; direct I/O */
	ROW = 20,
	ROWS_MAX = 32768, /* of a segment */
	WAYS = 4,
	SLOTS_MIN = 4,
	SKETCH = 65536,
	SKETCH_SUM = 4 * SKETCH, /* counts are halved after so many */
	NAME_MAX_LEN = 100,
};
#define MAGIC "GRNKEPT"

struct entry {
	uint64_t key;
	uint32_t segment, at, len, crc; /* segment 0: free */
};

struct kept {
	pthread_mutex_t lock;
	struct fs *fs;
	struct fs_file *file;
	uint64_t spare;
	uint32_t slots, *stored;    /* of each slot the segment that can be read there; 0: none */
	uint8_t *filling, *writing; /* a segment each */
	uint32_t number, used, rows; /* of the one that is filled */
	uint32_t writing_number, writing_rows; /* 0: none is written */
	struct entry *table;
	uint32_t table_mask;        /* sets of WAYS */
	uint8_t sketch[SKETCH];
	uint32_t sketch_sum;
	struct kept_stats stats;
};

/* ---- the table, under lock ---- */

static bool entry_is_good(const struct kept *k, const struct entry *e)
{
	return e->segment != 0 && (e->segment == k->number || e->segment == k->writing_number ||
		k->stored[e->segment % k->slots] == e->segment);
}

static struct entry *entry_set(const struct kept *k, uint64_t key)
{
	return &k->table[(size_t)(hash_u64(key) & k->table_mask) * WAYS];
}

static struct entry *entry_find(const struct kept *k, uint64_t key)
{
	struct entry *set = entry_set(k, key);

	for (int i = 0; i < WAYS; i++)
		if (set[i].key == key && entry_is_good(k, &set[i])) return &set[i];
	return NULL;
}

static void entry_add(struct kept *k, const struct entry *e)
{
	struct entry *set = entry_set(k, e->key), *to = &set[0];

	for (int i = 0; i < WAYS; i++) {
		if (!entry_is_good(k, &set[i])) {
			to = &set[i];
			break;
		}
		if (set[i].segment < to->segment) to = &set[i];
	}
	*to = *e;
}

/* ---- segments ---- */

static void rows_put(uint8_t *segment, uint32_t rows, const struct entry *e)
{
	struct wr w = wr_of(segment + KEPT_SEGMENT - (size_t)ROW * (rows + 1), ROW); /* from the end down */

	wr_u64(&w, e->key);
	wr_u32(&w, e->at);
	wr_u32(&w, e->len);
	wr_u32(&w, e->crc);
	assert(wr_ok(&w));
}

static void head_put(uint8_t *segment, uint32_t number, uint32_t rows)
{
	size_t table = (size_t)ROW * rows;
	struct wr w = wr_of(segment, BLOCK);

	memset(segment, 0, BLOCK);
	wr_bytes(&w, MAGIC, 8);
	wr_u32(&w, 1);
	wr_u32(&w, number);
	wr_u32(&w, rows);
	wr_u32(&w, crc32c(0, segment + KEPT_SEGMENT - table, table));
	wr_u32(&w, crc32c(0, segment, 24));
	assert(wr_ok(&w));
}

/* Of the head of a slot; false: none of ours. */
static bool head_get(const uint8_t *head, uint32_t *number, uint32_t *rows, uint32_t *crc)
{
	struct cur c = cur_of(head, BLOCK);
	const uint8_t *magic = cur_take(&c, 8);
	uint32_t version = cur_u32(&c);

	*number = cur_u32(&c);
	*rows = cur_u32(&c);
	*crc = cur_u32(&c);
	return memcmp(magic, MAGIC, 8) == 0 && cur_u32(&c) == crc32c(0, head, 24) && version == 1 &&
	       *number > 0 && *rows > 0 && *rows <= ROWS_MAX;
}

static bool has_room_for(const struct kept *k, uint64_t end)
{
	uint64_t total, available;
	int64_t size = fs_size(k->file);

	if (size >= 0 && end <= (uint64_t)size) return true;
	return fs_space(k->fs, &total, &available) == 0 && available >= k->spare + KEPT_SEGMENT;
}

/* Without the lock: `writing` is this thread's until writing_number is 0. */
static void segment_write(struct kept *k)
{
	uint32_t slot = k->writing_number % k->slots;
	uint64_t at = (uint64_t)slot * KEPT_SEGMENT;
	int err;

	head_put(k->writing, k->writing_number, k->writing_rows);
	err = has_room_for(k, at + KEPT_SEGMENT) ? fs_write(k->file, k->writing, KEPT_SEGMENT, at) : -GRANARY_ENOSPACE;
	if (err < 0 && err != -GRANARY_ENOSPACE)
		log_warn("what was read of a cold store cannot be kept on flash: %s", error_text(err));
	pthread_mutex_lock(&k->lock);
	k->stored[slot] = err == 0 ? k->writing_number : 0;
	k->stats.lost += err < 0 ? k->writing_rows : 0;
	k->writing_number = 0;
	pthread_mutex_unlock(&k->lock);
}

/* The next one is filled; false: the one before is still being written. Under lock. */
static bool segment_turn(struct kept *k)
{
	uint8_t *full = k->filling;

	if (k->writing_number != 0) return false;
	k->filling = k->writing;
	k->writing = full;
	k->writing_number = k->number++;
	k->writing_rows = k->rows;
	k->stored[k->writing_number % k->slots] = 0; /* what was there is about to be written over */
	k->used = BLOCK;
	k->rows = 0;
	return true;
}

/* ---- pieces ---- */

static bool read_stored(struct kept *k, const struct entry *e, void *buf)
{
	uint64_t at = (uint64_t)(e->segment % k->slots) * KEPT_SEGMENT + e->at, from = at & ~(uint64_t)(BLOCK - 1);
	size_t room = (size_t)((at + e->len + BLOCK - 1) / BLOCK * BLOCK - from);
	uint8_t *wide = aligned_alloc(BLOCK, room);
	bool good = wide != NULL && fs_read(k->file, wide, room, from) == (int64_t)room;

	if (good) memcpy(buf, wide + (at - from), e->len);
	free(wide);
	return good;
}

bool kept_get(struct kept *k, uint64_t key, void *buf, size_t len)
{
	struct entry e = { .segment = 0 };
	const struct entry *found;
	bool good = false;

	pthread_mutex_lock(&k->lock);
	found = entry_find(k, key);
	if (found != NULL) e = *found;
	if (e.segment != 0 && e.len == len && (e.segment == k->number || e.segment == k->writing_number)) {
		memcpy(buf, (e.segment == k->number ? k->filling : k->writing) + e.at, len);
		good = true;
	}
	pthread_mutex_unlock(&k->lock);
	if (e.segment == 0 || e.len != len) return false;
	/* It may be written over meanwhile: the checksum says so. */
	if (!good) good = read_stored(k, &e, buf);
	if (!good || crc32c(0, buf, len) != e.crc) return false;
	pthread_mutex_lock(&k->lock);
	k->stats.hits++;
	pthread_mutex_unlock(&k->lock);
	return true;
}

void kept_forget(struct kept *k, uint64_t key)
{
	struct entry *e;

	pthread_mutex_lock(&k->lock);
	e = entry_find(k, key);
	if (e != NULL) e->segment = 0;
	pthread_mutex_unlock(&k->lock);
}

bool kept_wants(struct kept *k, uint64_t key, uint32_t after)
{
	uint8_t *count = &k->sketch[hash_u64(key ^ 1) % SKETCH];
	bool wants;

	if (after <= 1) return true;
	pthread_mutex_lock(&k->lock);
	if (*count < UINT8_MAX) ++*count;
	wants = *count >= (after < UINT8_MAX ? after : UINT8_MAX);
	if (++k->sketch_sum >= SKETCH_SUM) {
		for (uint32_t i = 0; i < SKETCH; i++) k->sketch[i] /= 2;
		k->sketch_sum /= 2;
	}
	pthread_mutex_unlock(&k->lock);
	return wants;
}

void kept_put(struct kept *k, uint64_t key, const void *buf, size_t len)
{
	struct entry e = { .key = key, .len = (uint32_t)len, .crc = crc32c(0, buf, len) };
	bool fits, full = false;

	if (len == 0 || len > KEPT_PIECE_MAX) return;
	pthread_mutex_lock(&k->lock);
	fits = entry_find(k, key) == NULL;
	if (fits && (k->used + len + (size_t)ROW * (k->rows + 1) > KEPT_SEGMENT || k->rows == ROWS_MAX))
		fits = full = segment_turn(k);
	if (fits) {
		e.segment = k->number;
		e.at = k->used;
		memcpy(k->filling + k->used, buf, len);
		rows_put(k->filling, k->rows++, &e);
		k->used += (uint32_t)len;
		entry_add(k, &e);
		k->stats.puts++;
	}
	pthread_mutex_unlock(&k->lock);
	if (full) segment_write(k);
}

void kept_get_stats(struct kept *k, struct kept_stats *out)
{
	pthread_mutex_lock(&k->lock);
	*out = k->stats;
	pthread_mutex_unlock(&k->lock);
}

/* ---- opening ---- */

/* The rows of a stored segment, whose head is good. */
static bool rows_load(struct kept *k, uint32_t slot, uint32_t number, uint32_t rows, uint32_t crc)
{
	size_t table = (size_t)ROW * rows, wide = (table + BLOCK - 1) / BLOCK * BLOCK;
	uint64_t end = (uint64_t)(slot + 1) * KEPT_SEGMENT;
	uint8_t *buf = aligned_alloc(BLOCK, wide);
	bool good = buf != NULL && fs_read(k->file, buf, wide, end - wide) == (int64_t)wide &&
		    crc32c(0, buf + wide - table, table) == crc;

	if (good) k->stored[slot] = number;
	for (uint32_t i = 0; good && i < rows; i++) {
		struct cur c = cur_of(buf + wide - (size_t)ROW * (i + 1), ROW);
		struct entry e = { .key = cur_u64(&c), .segment = number };

		e.at = cur_u32(&c);
		e.len = cur_u32(&c);
		e.crc = cur_u32(&c);
		if (e.len > 0 && e.len <= KEPT_PIECE_MAX && e.at >= BLOCK && e.at <= KEPT_SEGMENT - e.len)
			entry_add(k, &e);
	}
	free(buf);
	return good;
}

static void slots_load(struct kept *k)
{
	int64_t size = fs_size(k->file);
	uint8_t *head = aligned_alloc(BLOCK, BLOCK);
	uint32_t number, rows, crc, there = size > 0 ? (uint32_t)((uint64_t)size / KEPT_SEGMENT) : 0;

	for (uint32_t slot = 0; head != NULL && slot < k->slots && slot < there; slot++) {
		if (fs_read(k->file, head, BLOCK, (uint64_t)slot * KEPT_SEGMENT) != BLOCK) continue;
		if (!head_get(head, &number, &rows, &crc) || number % k->slots != slot || number >= UINT32_MAX / 2)
			continue;
		if (rows_load(k, slot, number, rows, crc) && number >= k->number) k->number = number + 1;
	}
	free(head);
}

static int file_open(struct kept *k, const char *name, uint64_t size)
{
	char path[NAME_MAX_LEN];
	int err = fs_mkdir(k->fs, "kept");

	snprintf(path, sizeof(path), "kept/%s", name);
	if (err == -GRANARY_EEXIST) err = 0;
	if (err == 0) err = fs_open(k->fs, path, FS_WRITE | FS_DIRECT, &k->file);
	if (err == -GRANARY_ENOTFOUND) err = fs_open(k->fs, path, FS_CREATE_NEW | FS_DIRECT, &k->file);
	if (err == 0 && fs_size(k->file) > (int64_t)size) err = fs_truncate(k->file, size);
	return err;
}

int kept_open(struct fs *fs, const char *name, uint64_t size, uint64_t spare, struct kept **out)
{
	struct kept *k = calloc(1, sizeof(*k));
	uint64_t slots = size / KEPT_SEGMENT, sets = 256;
	int err;

	*out = NULL;
	if (k == NULL) return -GRANARY_ENOMEM;
	while (sets * WAYS * 64 * sizeof(struct entry) < size) sets *= 2;
	pthread_mutex_init(&k->lock, NULL);
	k->fs = fs;
	k->spare = spare;
	k->slots = slots < SLOTS_MIN ? SLOTS_MIN : slots < UINT32_MAX / 4 ? (uint32_t)slots : UINT32_MAX / 4;
	k->number = 1;
	k->used = BLOCK;
	k->table_mask = (uint32_t)sets - 1;
	k->stored = calloc(k->slots, sizeof(*k->stored));
	k->table = calloc(sets * WAYS, sizeof(*k->table));
	k->filling = aligned_alloc(BLOCK, KEPT_SEGMENT);
	k->writing = aligned_alloc(BLOCK, KEPT_SEGMENT);
	err = k->stored && k->table && k->filling && k->writing ? 0 : -GRANARY_ENOMEM;
	if (err == 0) {
		memset(k->filling, 0, KEPT_SEGMENT); /* what is between pieces and rows is written, too */
		memset(k->writing, 0, KEPT_SEGMENT);
		err = file_open(k, name, (uint64_t)k->slots * KEPT_SEGMENT);
	}
	if (err == 0)
		slots_load(k);
	else
		kept_close(&k);
	*out = k;
	return err;
}

void kept_close(struct kept **kp)
{
	struct kept *k = *kp;

	*kp = NULL;
	if (k == NULL) return;
	if (k->file != NULL && k->rows > 0 && segment_turn(k)) segment_write(k);
	fs_close(&k->file);
	pthread_mutex_destroy(&k->lock);
	free(k->stored);
	free(k->table);
	free(k->filling);
	free(k->writing);
	free(k);
}
