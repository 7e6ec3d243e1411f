/* SPDX-License-Identifier: Apache-2.0 */
/* kv_mem.c -- an ordered map in memory with a redo log through io/fs, for the simulation and tests: it has no
 * threads, so a seed decides everything. Views are real: a snapshot shares chunks with the map, which copies what
 * it changes.
 *
 * Files under dir, for generation n: `map.n`, the whole map when the generation began, and `log.n`, one record a
 * batch since. Both are made of records: magic, length, generation, number of the record, crc32c, ops. A record
 * begins at a multiple of 4 KiB, so an unfinished write cannot harm the sector of a synced one. The number in map.n is
 * the position (kv_position) at which it was made.
 *
 * Invariants: (1) a batch is in the log and synced before it is in the map; (2) map.n is complete, synced and named
 * before anything is written to log.n, and generation n - 1 is removed after; (3) replay ends at the first record
 * that is not whole: only the last batch can be torn, as each is synced before the next; (4) chunks and rows are
 * changed only while nobody else holds them. */
#include "common/crc32c.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/log.h"
#include "io/fs.h"
#include "meta/kv_engine.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	MEM_MAGIC = 0x6d656d31,
	RECORD_MAGIC = 0x4c56474b,
	RECORD_ALIGN = 4096,
	CHUNK_ROWS_MAX = 64,
	LOG_SIZE_MAX = 4 * 1024 * 1024,
	PATH_SIZE = 512,
};

struct record_header {
	struct le32 magic;
	struct le32 crc;        /* of all after this field, up to length */
	struct le32 length;     /* of the ops */
	struct le32 zero;
	struct le64 generation;
	struct le64 number;     /* 0, 1, ... in its file */
};
static_assert(sizeof(struct record_header) == 32, "RECORD_ALIGN holds it");

struct row {
	uint32_t refs, key_len, value_len;
	uint8_t bytes[];
};

struct chunk { /* sorted rows; never empty */
	uint32_t refs, count;
	struct row *rows[CHUNK_ROWS_MAX];
};

struct map {
	uint32_t refs, count, cap;
	struct chunk **chunks;
};

struct mem {
	struct kv_engine base;
	uint32_t magic;
	struct fs *fs;
	char *dir;
	pthread_mutex_t lock; /* of all: tests may read from several threads */
	struct map *map;
	struct fs_file *log;
	uint64_t generation, log_end, log_records;
	uint64_t log_base; /* position at which log.n begins */
};

struct kv_snapshot { struct map *map; };

struct mem_iter {
	struct kv_iter base;
	struct mem *mem;
	struct map *map;
	uint32_t chunk, row;
};

static struct mem *mem_of(struct kv_engine *e)
{
	struct mem *m = (struct mem *)(void *)e;

	assert(m->magic == MEM_MAGIC);
	return m;
}

/* A test engine that is out of memory stops: nothing is promised beyond. */
static void *must(void *p)
{
	if (p == NULL)
		abort();
	return p;
}

/* ---- the map: chunks shared between views ---- */

static struct slice row_key_of(const struct row *r) { return slice_of(r->bytes, r->key_len); }

static struct row *row_new(struct slice key, struct slice value)
{
	struct row *r = must(malloc(sizeof(*r) + key.len + value.len));

	*r = (struct row){ .refs = 1, .key_len = (uint32_t)key.len, .value_len = (uint32_t)value.len };
	if (key.len)
		memcpy(r->bytes, key.p, key.len);
	if (value.len)
		memcpy(r->bytes + key.len, value.p, value.len);
	return r;
}

static void row_unref(struct row *r)
{
	if (--r->refs == 0)
		free(r);
}

static void chunk_unref(struct chunk *c)
{
	if (--c->refs > 0)
		return;
	for (uint32_t i = 0; i < c->count; i++)
		row_unref(c->rows[i]);
	free(c);
}

static struct map *map_new(uint32_t cap)
{
	struct map *m = must(calloc(1, sizeof(*m)));

	m->refs = 1;
	m->cap = cap;
	m->chunks = must(calloc(cap, sizeof(struct chunk *)));
	return m;
}

static void map_unref(struct map *m)
{
	if (m == NULL || --m->refs > 0)
		return;
	for (uint32_t i = 0; i < m->count; i++)
		chunk_unref(m->chunks[i]);
	free(m->chunks);
	free(m);
}

/* A map that only the caller holds. */
static struct map *map_own(struct map *m)
{
	struct map *own;

	if (m->refs == 1)
		return m;
	own = map_new(m->count + 8);
	own->count = m->count;
	for (uint32_t i = 0; i < m->count; i++) {
		own->chunks[i] = m->chunks[i];
		own->chunks[i]->refs++;
	}
	map_unref(m);
	return own;
}

static struct chunk *chunk_own(struct chunk **at)
{
	struct chunk *c = *at;
	struct chunk *own;

	if (c->refs == 1)
		return c;
	own = must(malloc(sizeof(*own)));
	*own = *c;
	own->refs = 1;
	for (uint32_t i = 0; i < own->count; i++)
		own->rows[i]->refs++;
	chunk_unref(c);
	return *at = own;
}

/* The place of the first row >= key: chunk (count of chunks at the end) and row in it. True when it is the key. */
static bool map_seek(const struct map *m, struct slice key, uint32_t *chunk, uint32_t *row)
{
	uint32_t lo = 0, hi = m->count;

	while (lo < hi) { /* the first chunk whose last row is >= key */
		uint32_t mid = lo + (hi - lo) / 2;
		const struct chunk *c = m->chunks[mid];
		if (slice_compare(row_key_of(c->rows[c->count - 1]), key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	*chunk = lo;
	*row = 0;
	if (lo == m->count)
		return false;
	hi = m->chunks[lo]->count;
	for (uint32_t from = 0; from < hi; *row = from) {
		uint32_t mid = from + (hi - from) / 2;
		if (slice_compare(row_key_of(m->chunks[lo]->rows[mid]), key) < 0)
			from = mid + 1;
		else
			hi = mid;
	}
	return slice_eq(row_key_of(m->chunks[lo]->rows[*row]), key);
}

static void map_insert_chunk(struct map *m, uint32_t at, struct chunk *c)
{
	if (m->count == m->cap) {
		m->cap = 2 * m->cap + 8;
		m->chunks = must(realloc(m->chunks, m->cap * sizeof(struct chunk *)));
	}
	memmove(&m->chunks[at + 1], &m->chunks[at], (m->count - at) * sizeof(struct chunk *));
	m->chunks[at] = c;
	m->count++;
}

static void chunk_split(struct map *m, uint32_t at)
{
	struct chunk *c = m->chunks[at];
	struct chunk *upper = must(calloc(1, sizeof(*upper)));
	uint32_t half = c->count / 2;

	upper->refs = 1;
	upper->count = c->count - half;
	memcpy(upper->rows, &c->rows[half], upper->count * sizeof(struct row *));
	c->count = half;
	map_insert_chunk(m, at + 1, upper);
}

static void map_put(struct map *m, struct slice key, struct slice value)
{
	uint32_t at, i;
	bool is_there = map_seek(m, key, &at, &i);
	struct chunk *c;

	if (at == m->count && m->count == 0) {
		map_insert_chunk(m, 0, must(calloc(1, sizeof(struct chunk))));
		m->chunks[0]->refs = 1;
	} else if (at == m->count) { /* behind all: the end of the last chunk */
		at--;
		i = m->chunks[at]->count;
	}
	c = chunk_own(&m->chunks[at]);
	if (is_there) {
		row_unref(c->rows[i]);
		c->rows[i] = row_new(key, value);
		return;
	}
	memmove(&c->rows[i + 1], &c->rows[i], (c->count - i) * sizeof(struct row *));
	c->rows[i] = row_new(key, value);
	if (++c->count == CHUNK_ROWS_MAX)
		chunk_split(m, at);
}

static void map_delete(struct map *m, struct slice key)
{
	uint32_t at, i;
	struct chunk *c;

	if (!map_seek(m, key, &at, &i))
		return;
	c = chunk_own(&m->chunks[at]);
	row_unref(c->rows[i]);
	memmove(&c->rows[i], &c->rows[i + 1], (c->count - i - 1) * sizeof(struct row *));
	if (--c->count > 0)
		return;
	chunk_unref(c);
	m->count--;
	memmove(&m->chunks[at], &m->chunks[at + 1], (m->count - at) * sizeof(struct chunk *));
}

/* ---- reads ---- */

static int mem_get(struct kv_engine *e, struct slice key, struct kv_value *out)
{
	struct mem *m = mem_of(e);
	uint32_t at, i;
	bool is_there;

	*out = (struct kv_value){ .pin = NULL };
	pthread_mutex_lock(&m->lock);
	is_there = map_seek(m->map, key, &at, &i);
	if (is_there) {
		const struct row *r = m->map->chunks[at]->rows[i];
		out->pin = must(malloc(r->value_len + 1u));
		memcpy(out->pin, r->bytes + r->key_len, r->value_len);
		out->v = slice_of(out->pin, r->value_len);
		out->unpin = free;
	}
	pthread_mutex_unlock(&m->lock);
	return is_there ? 0 : -GRANARY_ENOTFOUND;
}

/* All is in memory; some rows say that they are not, so that callers' other way is walked too. */
static int mem_get_cached(struct kv_engine *e, struct slice key, struct kv_value *out)
{
	*out = (struct kv_value){ .pin = NULL };
	return hash_content(key.p, key.len).lo % 4 == 0 ? -GRANARY_EAGAIN : mem_get(e, key, out);
}

static struct kv_snapshot *mem_snapshot_new(struct kv_engine *e)
{
	struct mem *m = mem_of(e);
	struct kv_snapshot *s = must(malloc(sizeof(*s)));

	pthread_mutex_lock(&m->lock);
	s->map = m->map;
	s->map->refs++;
	pthread_mutex_unlock(&m->lock);
	return s;
}

static void mem_snapshot_free(struct kv_engine *e, struct kv_snapshot *s)
{
	struct mem *m = mem_of(e);

	pthread_mutex_lock(&m->lock);
	map_unref(s->map);
	pthread_mutex_unlock(&m->lock);
	free(s);
}

/* Rows of the iterator's own map do not move: no lock. */
static void iter_load(struct mem_iter *it)
{
	const struct row *r;

	if (it->chunk < it->map->count && it->row >= it->map->chunks[it->chunk]->count) {
		it->chunk++;
		it->row = 0;
	}
	it->base.is_valid = it->chunk < it->map->count;
	if (!it->base.is_valid)
		return;
	r = it->map->chunks[it->chunk]->rows[it->row];
	it->base.key = row_key_of(r);
	it->base.value = slice_of(r->bytes + r->key_len, r->value_len);
}

static void mem_iter_seek(struct kv_iter *base, struct slice key)
{
	struct mem_iter *it = (struct mem_iter *)(void *)base;

	map_seek(it->map, key, &it->chunk, &it->row);
	iter_load(it);
}

static void mem_iter_seek_back(struct kv_iter *base, struct slice key)
{
	struct mem_iter *it = (struct mem_iter *)(void *)base;

	mem_iter_seek(base, key);
	if (base->is_valid && slice_eq(base->key, key))
		return;
	if (it->row > 0) {
		it->row--;
	} else if (it->chunk > 0) {
		it->chunk--;
		it->row = it->map->chunks[it->chunk]->count - 1;
	} else {
		base->is_valid = false;
		return;
	}
	iter_load(it);
}

static void mem_iter_next(struct kv_iter *base)
{
	struct mem_iter *it = (struct mem_iter *)(void *)base;

	it->row++;
	iter_load(it);
}

static void mem_iter_free(struct kv_iter *base)
{
	struct mem_iter *it = (struct mem_iter *)(void *)base;

	pthread_mutex_lock(&it->mem->lock);
	map_unref(it->map);
	pthread_mutex_unlock(&it->mem->lock);
	free(it);
}

static const struct kv_iter_ops mem_iter_ops = { mem_iter_seek, mem_iter_seek_back, mem_iter_next, mem_iter_free };

static struct kv_iter *mem_iter_new(struct kv_engine *e, struct kv_snapshot *s, enum kv_iter_kind kind)
{
	struct mem *m = mem_of(e);
	struct mem_iter *it = must(calloc(1, sizeof(*it)));

	(void)kind; /* all of it is memory */
	it->base.ops = &mem_iter_ops;
	it->mem = m;
	pthread_mutex_lock(&m->lock);
	it->map = s ? s->map : m->map;
	it->map->refs++;
	pthread_mutex_unlock(&m->lock);
	return &it->base;
}

/* ---- records ---- */

static void op_encode(struct wr *w, const struct kv_write_op *op)
{
	wr_u8(w, op->is_delete);
	wr_bytes32(w, op->key);
	wr_bytes32(w, op->value);
}

static size_t op_size(const struct kv_write_op *op) { return 1 + 4 + op->key.len + 4 + op->value.len; }

static size_t align_up(size_t n) { return (n + RECORD_ALIGN - 1) & ~(size_t)(RECORD_ALIGN - 1); }

static uint32_t record_crc(const uint8_t *record, size_t ops_len)
{
	return crc32c(0, record + 8, sizeof(struct record_header) - 8 + ops_len);
}

/* Fills in the header of a record whose ops stand behind it. */
static void record_seal(uint8_t *record, uint64_t generation, uint64_t number, size_t ops_len)
{
	struct record_header h = { .magic = le32_of(RECORD_MAGIC), .length = le32_of((uint32_t)ops_len),
		.generation = le64_of(generation), .number = le64_of(number) };

	memcpy(record, &h, sizeof(h));
	h.crc = le32_of(record_crc(record, ops_len));
	memcpy(record, &h, sizeof(h));
}

/* The ops of the record at the start of buf; false when it is not whole. */
static bool record_open(const uint8_t *buf, size_t len, uint64_t generation, uint64_t number, struct slice *ops)
{
	struct record_header h;

	if (len < sizeof(h))
		return false;
	memcpy(&h, buf, sizeof(h));
	*ops = slice_of(buf + sizeof(h), le32_get(h.length));
	return le32_get(h.magic) == RECORD_MAGIC && le64_get(h.generation) == generation &&
		le64_get(h.number) == number && ops->len <= len - sizeof(h) &&
		le32_get(h.crc) == record_crc(buf, ops->len);
}

static uint64_t record_number(const uint8_t *buf, size_t len)
{
	struct record_header h;

	if (len < sizeof(h))
		return 0;
	memcpy(&h, buf, sizeof(h));
	return le64_get(h.number);
}

static int ops_apply(struct map *map, struct slice ops)
{
	struct cur c = cur_of(ops.p, ops.len);

	while (cur_left(&c) > 0) {
		bool is_delete = cur_u8(&c) != 0;
		struct slice key = cur_bytes32(&c);
		struct slice value = cur_bytes32(&c);
		if (!cur_ok(&c))
			return -GRANARY_ECORRUPT;
		if (is_delete)
			map_delete(map, key);
		else
			map_put(map, key, value);
	}
	return cur_done(&c) ? 0 : -GRANARY_ECORRUPT;
}

/* Several records would be needed above 4 GiB: a test engine never gets there. */
static uint8_t *map_encode(const struct map *m, uint64_t generation, uint64_t position, size_t *len)
{
	size_t ops_len = 0;
	uint8_t *record;
	struct wr w;

	for (uint32_t i = 0; i < m->count; i++)
		for (uint32_t j = 0; j < m->chunks[i]->count; j++)
			ops_len += 9u + m->chunks[i]->rows[j]->key_len + m->chunks[i]->rows[j]->value_len;
	assert(ops_len <= UINT32_MAX);
	*len = align_up(sizeof(struct record_header) + ops_len);
	record = must(calloc(1, *len));
	w = wr_of(record + sizeof(struct record_header), ops_len);
	for (uint32_t i = 0; i < m->count; i++) {
		for (uint32_t j = 0; j < m->chunks[i]->count; j++) {
			const struct row *r = m->chunks[i]->rows[j];
			op_encode(&w, &(struct kv_write_op){ .key = row_key_of(r),
				.value = slice_of(r->bytes + r->key_len, r->value_len) });
		}
	}
	assert(wr_ok(&w) && wr_len(&w) == ops_len);
	record_seal(record, generation, position, ops_len);
	return record;
}

/* ---- files ---- */

static const char *mem_path(const struct mem *m, char *buf, const char *what, uint64_t generation)
{
	snprintf(buf, PATH_SIZE, "%s/%s.%" PRIu64, m->dir, what, generation);
	return buf;
}

static int file_read_whole(struct fs *fs, const char *path, uint8_t **buf, size_t *len)
{
	struct fs_file *f = NULL;
	int64_t got = fs_open(fs, path, FS_READ, &f);
	int64_t size = got < 0 ? got : fs_size(f);

	*buf = NULL;
	*len = 0;
	if (size >= 0) {
		*buf = must(malloc((size_t)size + 1));
		got = fs_read(f, *buf, (size_t)size, 0);
		*len = got > 0 ? (size_t)got : 0;
	}
	fs_close(&f);
	return size < 0 ? (int)size : got < 0 ? (int)got : 0;
}

static int unlink_if_there(struct fs *fs, const char *path)
{
	int err = fs_unlink(fs, path);

	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

/* Begins generation n + 1: log first (empty, named), then the map under its name, then the old files go. */
static int mem_checkpoint(struct mem *m)
{
	char path[PATH_SIZE];
	uint64_t next = m->generation + 1;
	struct fs_file *log = NULL;
	size_t len;
	uint8_t *record = map_encode(m->map, next, m->log_base + m->log_records, &len);
	int err = unlink_if_there(m->fs, mem_path(m, path, "log", next)); /* left by an attempt that did not end */

	if (err == 0)
		err = fs_open(m->fs, path, FS_CREATE_NEW, &log);
	if (err == 0)
		err = fs_sync(log);
	if (err == 0)
		err = fs_sync_dir(m->fs, m->dir);
	if (err == 0)
		err = fs_put_file(m->fs, mem_path(m, path, "map", next), record, len);
	free(record);
	if (err < 0) {
		fs_close(&log);
		/* the old generation goes on: a new map must not be found instead of it */
		if (unlink_if_there(m->fs, mem_path(m, path, "map", next)) < 0 || fs_sync_dir(m->fs, m->dir) < 0)
			return -GRANARY_EIO;
		return err;
	}
	fs_close(&m->log);
	m->log = log;
	m->log_base += m->log_records;
	m->log_end = m->log_records = 0;
	unlink_if_there(m->fs, mem_path(m, path, "log", m->generation)); /* a leftover is removed at the next open */
	unlink_if_there(m->fs, mem_path(m, path, "map", m->generation));
	m->generation = next;
	return 0;
}

struct newest { uint64_t generation; };

static int find_newest(void *arg, const char *name)
{
	struct newest *n = arg;
	char *end;
	uint64_t generation;

	if (strncmp(name, "map.", 4) != 0)
		return 0;
	generation = strtoull(name + 4, &end, 10);
	if (*end == '\0' && generation > n->generation) /* not a temporary name */
		n->generation = generation;
	return 0;
}

static int mem_replay(struct mem *m)
{
	char path[PATH_SIZE];
	uint8_t *buf;
	struct slice ops;
	size_t len, at = 0;
	int err = file_read_whole(m->fs, mem_path(m, path, "map", m->generation), &buf, &len);

	if (err == 0)
		err = record_open(buf, len, m->generation, record_number(buf, len), &ops) ? ops_apply(m->map, ops)
										    : -GRANARY_ECORRUPT;
	m->log_base = err == 0 ? record_number(buf, len) : 0;
	free(buf);
	if (err < 0)
		return err;
	err = file_read_whole(m->fs, mem_path(m, path, "log", m->generation), &buf, &len);
	for (uint64_t number = 0; err == 0 && at < len; number++) {
		if (!record_open(buf + at, len - at, m->generation, number, &ops))
			break;
		err = ops_apply(m->map, ops);
		m->log_records++;
		at += align_up(sizeof(struct record_header) + ops.len);
	}
	free(buf);
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

struct sweep { struct mem *mem; };

/* Files of other generations: what a crash left. */
static int sweep_file(void *arg, const char *name)
{
	struct mem *m = ((struct sweep *)arg)->mem;
	char path[PATH_SIZE], keep[2][PATH_SIZE];

	snprintf(path, sizeof(path), "%s/%s", m->dir, name);
	if (strcmp(path, mem_path(m, keep[0], "map", m->generation)) != 0 &&
		strcmp(path, mem_path(m, keep[1], "log", m->generation)) != 0)
		unlink_if_there(m->fs, path);
	return 0;
}

static int mem_recover(struct mem *m, bool must_exist)
{
	struct newest n = { 0 };
	struct sweep s = { m };
	int err = fs_list(m->fs, m->dir, find_newest, &n);

	if (err == 0 && n.generation == 0 && must_exist)
		return -GRANARY_ENOTFOUND;
	if (err == 0 && n.generation > 0) {
		m->generation = n.generation;
		err = mem_replay(m);
	}
	if (err == 0)
		err = mem_checkpoint(m);
	if (err == 0)
		err = fs_list(m->fs, m->dir, sweep_file, &s);
	return err;
}

/* ---- write ---- */

/* A record that could not be written must not be found by a later replay. */
static int log_undo(struct mem *m, int why)
{
	if (fs_truncate(m->log, m->log_end) < 0 || fs_datasync(m->log) < 0)
		return -GRANARY_EIO;
	return why;
}

static int log_append(struct mem *m, const struct kv_write_op *ops, uint32_t n)
{
	size_t ops_len = 0, len;
	uint8_t *record;
	struct wr w;
	int err;

	for (uint32_t i = 0; i < n; i++)
		ops_len += op_size(&ops[i]);
	len = align_up(sizeof(struct record_header) + ops_len);
	record = must(calloc(1, len));
	w = wr_of(record + sizeof(struct record_header), ops_len);
	for (uint32_t i = 0; i < n; i++)
		op_encode(&w, &ops[i]);
	assert(wr_ok(&w) && wr_len(&w) == ops_len);
	record_seal(record, m->generation, m->log_records, ops_len);
	err = fs_write(m->log, record, len, m->log_end);
	free(record);
	if (err < 0)
		return err == -GRANARY_ENOSPACE ? log_undo(m, err) : err;
	err = fs_datasync(m->log);
	if (err < 0)
		return -GRANARY_EIO; /* contract F: whatever the kernel called it */
	m->log_end += len;
	m->log_records++;
	return 0;
}

static int mem_write(struct kv_engine *e, const struct kv_write_op *ops, uint32_t n)
{
	struct mem *m = mem_of(e);
	int err;

	pthread_mutex_lock(&m->lock);
	err = log_append(m, ops, n);
	if (err == 0) {
		m->map = map_own(m->map);
		for (uint32_t i = 0; i < n; i++) {
			if (ops[i].is_delete)
				map_delete(m->map, ops[i].key);
			else
				map_put(m->map, ops[i].key, ops[i].value);
		}
		if (m->log_end > LOG_SIZE_MAX)
			err = mem_checkpoint(m);
		if (err == -GRANARY_ENOSPACE)
			err = 0; /* the batch is safe in the old log, which grows on */
	}
	pthread_mutex_unlock(&m->lock);
	return err;
}

/* ---- open, close ---- */

static int mem_reopen(struct kv_engine *e)
{
	(void)e;
	return 0;
}

static uint64_t mem_position(struct kv_engine *e)
{
	struct mem *m = mem_of(e);
	uint64_t position;

	pthread_mutex_lock(&m->lock);
	position = m->log_base + m->log_records;
	pthread_mutex_unlock(&m->lock);
	return position;
}

/* A map alone, of generation 1. */
static int mem_make_copy(struct kv_engine *e, const char *dir)
{
	struct mem *m = mem_of(e);
	char path[PATH_SIZE];
	size_t len;
	uint8_t *record;
	int err = fs_mkdir(m->fs, dir);

	pthread_mutex_lock(&m->lock);
	record = map_encode(m->map, 1, m->log_base + m->log_records, &len);
	pthread_mutex_unlock(&m->lock);
	snprintf(path, sizeof(path), "%s/map.1", dir);
	if (err == 0)
		err = fs_put_file(m->fs, path, record, len);
	free(record);
	return err;
}

static void mem_close(struct kv_engine *e)
{
	struct mem *m = mem_of(e);

	fs_close(&m->log);
	map_unref(m->map);
	pthread_mutex_destroy(&m->lock);
	free(m->dir);
	m->magic = 0;
	free(m);
}

static const struct kv_engine_ops mem_ops = { .name = "memory", .has_committer = false, .get = mem_get,
	.get_cached = mem_get_cached,
	.snapshot_new = mem_snapshot_new, .snapshot_free = mem_snapshot_free, .iter_new = mem_iter_new,
	.write = mem_write, .reopen = mem_reopen, .position = mem_position, .checkpoint = mem_make_copy,
	.close = mem_close };

/* The folder's own name is synced in its parent. */
static int folder_make(struct fs *fs, const char *dir)
{
	char parent[PATH_SIZE];
	const char *slash = strrchr(dir, '/');
	int err = fs_mkdir(fs, dir);

	if (err < 0 && err != -GRANARY_EEXIST)
		return err;
	snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - dir) : 0, dir);
	return fs_sync_dir(fs, parent);
}

int kv_open_mem(struct fs *fs, const char *dir, const struct kv_options *options, struct kv **out)
{
	struct mem *m = must(calloc(1, sizeof(*m)));
	int err;

	*out = NULL;
	m->base.ops = &mem_ops;
	m->magic = MEM_MAGIC;
	m->fs = fs;
	m->dir = must(strdup(dir));
	m->map = map_new(8);
	pthread_mutex_init(&m->lock, NULL);
	err = options->must_exist ? 0 : folder_make(fs, dir);
	if (err == 0)
		err = mem_recover(m, options->must_exist);
	if (err < 0) {
		mem_close(&m->base);
		return err;
	}
	return kv_new(&m->base, options, out);
}
