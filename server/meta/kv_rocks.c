/* SPDX-License-Identifier: Apache-2.0 */
/* kv_rocks.c -- RocksDB behind kv_engine.h, through its C API. RocksDB does its own file I/O under fs_root()/dir.
 *
 * Why kv.h's promises hold: a write with sync=1 appends the whole batch to the log as one record, syncs it, and
 * only then inserts into the memtable and moves the visible sequence: readers see synced rows only, and a batch
 * whole or not at all. One thread writes, so a batch is on disk before the next begins, and a torn log can only be
 * torn in its last batch, which nobody was told about.
 *
 * Invariants: (1) `db` is replaced by reopen only, under rw held for writing: every use holds it for reading, or,
 * for iterators, holds the iterator's own lock; (2) an iterator's key and value are copies, so that reopen can take
 * the engine's iterator away at any time; it then ends with -GRANARY_EBUSY; (3) after ENOSPC the batch's fate is
 * read from the sequence number that the reopened database has, never guessed; (4) a failed sync of the log is
 * passed on as -GRANARY_EIO and stops the process (contract F). */
#include "common/error.h"
#include "common/list.h"
#include "common/log.h"
#include "io/fs.h"
#include "meta/kv_engine.h"
#include "meta/kv_wal.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
	ROCKS_MAGIC = 0x726f636b,
	BLOCK_CACHE_SIZE = 128 * 1024 * 1024,
	WRITE_BUFFER_SIZE = 32 * 1024 * 1024,
	WRITE_BUFFERS_MAX = 2,
	TABLE_FILE_SIZE = 32 * 1024 * 1024,
	TABLE_BLOCK_SIZE = 4096,
	OPEN_FILES_MAX = 512,
	SCAN_AHEAD_BYTES = 256 * 1024, /* for each file that a scan has under it */
	SCAN_ROWS = 64, /* copied at a time */
	SCAN_COPY_BYTES = 32 * 1024,
	BACKGROUND_JOBS_MAX = 2,
	SYNC_STEP_BYTES = 1024 * 1024,
	INFO_LOG_SIZE_MAX = 4 * 1024 * 1024,
	INFO_LOGS_MAX = 4,
	BLOOM_BITS = 10,
	REOPEN_TRIES_MAX = 50,
	REOPEN_PAUSE_NS = 200 * 1000 * 1000,
};

struct rocks {
	struct kv_engine base;
	uint32_t magic;
	rocksdb_options_t *options;
	rocksdb_block_based_table_options_t *table;
	rocksdb_cache_t *cache; /* outlives db: pinned values may be released after a reopen */
	rocksdb_readoptions_t *read, *read_cached;
	rocksdb_writeoptions_t *write;
	rocksdb_writebatch_t *batch;
	struct fs *fs;
	char *dir, *path; /* of fs; as RocksDB opens it */
	void (*nospace)(void *arg);
	void *nospace_arg;
	pthread_rwlock_t rw;
	rocksdb_t *db;
	pthread_mutex_t views_lock; /* of the two lists; taken after rw, before an iterator's lock */
	struct list iters, snapshots;
};

struct kv_snapshot {
	struct list link;
	const rocksdb_snapshot_t *snapshot; /* NULL: a reopen took it */
};

struct rocks_iter {
	struct kv_iter base;
	struct list link;
	struct rocks *rocks;
	pthread_mutex_t lock;      /* of it */
	rocksdb_iterator_t *it;    /* NULL: a reopen took it */
	rocksdb_readoptions_t *read;
	uint8_t *copy;             /* of rows[row_next - 1], the one it gives, and those that come next */
	size_t copy_len, copy_cap;
	struct row_at { uint32_t at, key_len, value_len; } rows[SCAN_ROWS];
	uint32_t row_count, row_next, rows_max;
	bool is_cached;
};

static struct rocks *rocks_of(struct kv_engine *e)
{
	struct rocks *r = (struct rocks *)(void *)e;

	assert(r->magic == ROCKS_MAGIC);
	return r;
}

/* ---- errors: RocksDB gives text ---- */

static int error_of(const char *text)
{
	bool is_log_sync = strstr(text, "sync") != NULL && strstr(text, ".log") != NULL;

	if (strstr(text, "No space left") != NULL || strstr(text, "Disk quota exceeded") != NULL)
		return is_log_sync ? -GRANARY_EIO : -GRANARY_ENOSPACE;
	if (strncmp(text, "Corruption", 10) == 0)
		return -GRANARY_ECORRUPT;
	if (strstr(text, "lock ") != NULL && strstr(text, "/LOCK") != NULL)
		return -GRANARY_ELOCKED;
	return -GRANARY_EIO;
}

/* 0, or the error with one log line; frees the text. */
static int error_take(char *text, const char *what)
{
	int err;

	if (text == NULL)
		return 0;
	err = error_of(text);
	log_error("rocksdb cannot %s: %s", what, text);
	rocksdb_free(text);
	return err;
}

/* RocksDB counts every key comparison in thread-local variables unless told not to: half of a write's time. */
static void thread_set_up(void)
{
	static _Thread_local bool is_done;

	if (!is_done)
		rocksdb_set_perf_level(rocksdb_disable);
	is_done = true;
}

/* ---- reads ---- */

static void pin_release(void *pin) { rocksdb_pinnableslice_destroy(pin); }

static int value_take(rocksdb_pinnableslice_t *pin, struct kv_value *out)
{
	size_t len;

	if (pin == NULL)
		return -GRANARY_ENOTFOUND;
	out->v.p = (const uint8_t *)rocksdb_pinnableslice_value(pin, &len);
	out->v.len = len;
	out->pin = pin;
	out->unpin = pin_release;
	return 0;
}

static int rocks_get(struct kv_engine *e, struct slice key, struct kv_value *out)
{
	struct rocks *r = rocks_of(e);
	rocksdb_pinnableslice_t *pin;
	char *text = NULL;
	bool is_open;

	thread_set_up();
	*out = (struct kv_value){ .pin = NULL };
	pthread_rwlock_rdlock(&r->rw);
	is_open = r->db != NULL;
	pin = is_open ? rocksdb_get_pinned(r->db, r->read, (const char *)key.p, key.len, &text) : NULL;
	pthread_rwlock_unlock(&r->rw);
	if (!is_open)
		return -GRANARY_EIO;
	return text != NULL ? error_take(text, "read a row") : value_take(pin, out);
}

/* Any error (it is "incomplete" when a block is not in the cache) leaves the row to who may block. */
static int rocks_get_cached(struct kv_engine *e, struct slice key, struct kv_value *out)
{
	struct rocks *r = rocks_of(e);
	rocksdb_pinnableslice_t *pin = NULL;
	char *text = NULL;
	bool is_open;

	thread_set_up();
	*out = (struct kv_value){ .pin = NULL };
	if (pthread_rwlock_tryrdlock(&r->rw) != 0) /* it is being reopened */
		return -GRANARY_EAGAIN;
	is_open = r->db != NULL;
	if (is_open)
		pin = rocksdb_get_pinned(r->db, r->read_cached, (const char *)key.p, key.len, &text);
	pthread_rwlock_unlock(&r->rw);
	if (is_open && text == NULL)
		return value_take(pin, out);
	rocksdb_free(text);
	return -GRANARY_EAGAIN;
}

static struct kv_snapshot *rocks_snapshot_new(struct kv_engine *e)
{
	struct rocks *r = rocks_of(e);
	struct kv_snapshot *s = malloc(sizeof(*s));

	if (s == NULL)
		return NULL;
	pthread_rwlock_rdlock(&r->rw);
	pthread_mutex_lock(&r->views_lock);
	s->snapshot = r->db ? rocksdb_create_snapshot(r->db) : NULL;
	list_push(&r->snapshots, &s->link);
	pthread_mutex_unlock(&r->views_lock);
	pthread_rwlock_unlock(&r->rw);
	return s;
}

static void rocks_snapshot_free(struct kv_engine *e, struct kv_snapshot *s)
{
	struct rocks *r = rocks_of(e);

	pthread_rwlock_rdlock(&r->rw);
	pthread_mutex_lock(&r->views_lock);
	list_remove(&s->link);
	if (s->snapshot != NULL)
		rocksdb_release_snapshot(r->db, s->snapshot);
	pthread_mutex_unlock(&r->views_lock);
	pthread_rwlock_unlock(&r->rw);
	free(s);
}

static void iter_stop(struct rocks_iter *it, int err)
{
	it->row_count = it->row_next = 0;
	it->base.is_valid = false;
	it->base.err = err;
}

/* Copies the row that RocksDB's iterator stands on behind those that were. */
static bool row_copy(struct rocks_iter *it)
{
	size_t key_len, value_len;
	const char *key = rocksdb_iter_key(it->it, &key_len), *value = rocksdb_iter_value(it->it, &value_len);
	size_t end = it->copy_len + key_len + value_len;

	if (end > it->copy_cap) {
		uint8_t *copy = realloc(it->copy, 2 * end);
		if (copy == NULL)
			return false;
		it->copy = copy;
		it->copy_cap = 2 * end;
	}
	memcpy(it->copy + it->copy_len, key, key_len);
	if (value_len > 0)
		memcpy(it->copy + it->copy_len + key_len, value, value_len);
	it->rows[it->row_count++] = (struct row_at){ (uint32_t)it->copy_len, (uint32_t)key_len, (uint32_t)value_len };
	it->copy_len = end;
	return true;
}

static void row_give(struct rocks_iter *it)
{
	const struct row_at *row = &it->rows[it->row_next++];

	it->base.key = slice_of(it->copy + row->at, row->key_len);
	it->base.value = slice_of(it->copy + row->at + row->key_len, row->value_len);
}

/* Copies the row the iterator stands on, of a scan those that follow too; its lock is held. RocksDB's iterator is
 * then left on the last row, of a scan behind it. */
static void iter_load(struct rocks_iter *it)
{
	char *text = NULL;

	it->copy_len = it->row_count = it->row_next = 0;
	while (rocksdb_iter_valid(it->it) && it->row_count < it->rows_max && it->copy_len < SCAN_COPY_BYTES) {
		if (!row_copy(it)) {
			iter_stop(it, -GRANARY_ENOMEM);
			return;
		}
		if (it->rows_max > 1)
			rocksdb_iter_next(it->it);
	}
	it->base.is_valid = it->row_count > 0;
	if (it->base.is_valid) {
		row_give(it);
		return;
	}
	rocksdb_iter_get_error(it->it, &text);
	if (it->is_cached && text != NULL) { /* "incomplete": a block is not in the cache */
		rocksdb_free(text);
		it->base.err = -GRANARY_EAGAIN;
		return;
	}
	it->base.err = error_take(text, "scan rows");
}

static void rocks_iter_seek(struct kv_iter *base, struct slice key)
{
	struct rocks_iter *it = (struct rocks_iter *)(void *)base;

	pthread_mutex_lock(&it->lock);
	it->base.err = 0;
	if (it->it == NULL) {
		iter_stop(it, -GRANARY_EBUSY);
	} else {
		rocksdb_iter_seek(it->it, (const char *)key.p, key.len);
		iter_load(it);
	}
	pthread_mutex_unlock(&it->lock);
}

static void rocks_iter_seek_back(struct kv_iter *base, struct slice key)
{
	struct rocks_iter *it = (struct rocks_iter *)(void *)base;

	pthread_mutex_lock(&it->lock);
	it->base.err = 0;
	if (it->it == NULL) {
		iter_stop(it, -GRANARY_EBUSY);
	} else {
		rocksdb_iter_seek_for_prev(it->it, (const char *)key.p, key.len);
		iter_load(it);
	}
	pthread_mutex_unlock(&it->lock);
}

static void rocks_iter_next(struct kv_iter *base)
{
	struct rocks_iter *it = (struct rocks_iter *)(void *)base;

	if (it->row_next < it->row_count) {
		row_give(it);
		return;
	}
	pthread_mutex_lock(&it->lock);
	if (it->it == NULL) {
		iter_stop(it, -GRANARY_EBUSY);
	} else {
		if (it->rows_max == 1)
			rocksdb_iter_next(it->it);
		iter_load(it);
	}
	pthread_mutex_unlock(&it->lock);
}

static void rocks_iter_free(struct kv_iter *base)
{
	struct rocks_iter *it = (struct rocks_iter *)(void *)base;
	struct rocks *r = it->rocks;

	pthread_mutex_lock(&r->views_lock);
	list_remove(&it->link);
	if (it->it != NULL)
		rocksdb_iter_destroy(it->it);
	pthread_mutex_unlock(&r->views_lock);
	rocksdb_readoptions_destroy(it->read);
	pthread_mutex_destroy(&it->lock);
	free(it->copy);
	free(it);
}

static const struct kv_iter_ops rocks_iter_ops = {
	rocks_iter_seek, rocks_iter_seek_back, rocks_iter_next, rocks_iter_free
};

static struct kv_iter *rocks_iter_new(struct kv_engine *e, struct kv_snapshot *s, enum kv_iter_kind kind)
{
	struct rocks *r = rocks_of(e);
	struct rocks_iter *it = calloc(1, sizeof(*it));

	if (it == NULL)
		return NULL;
	thread_set_up();
	it->base.ops = &rocks_iter_ops;
	it->rocks = r;
	it->rows_max = kind == ITER_SCAN ? SCAN_ROWS : 1;
	pthread_mutex_init(&it->lock, NULL);
	it->read = rocksdb_readoptions_create();
	rocksdb_readoptions_set_verify_checksums(it->read, 1);
	it->is_cached = kind == ITER_CACHED;
	if (it->is_cached)
		rocksdb_readoptions_set_read_tier(it->read, 1); /* kBlockCacheTier */
	if (kind == ITER_SCAN) {
		rocksdb_readoptions_set_fill_cache(it->read, 0);
		rocksdb_readoptions_set_readahead_size(it->read, SCAN_AHEAD_BYTES);
	}
	if (!it->is_cached)
		pthread_rwlock_rdlock(&r->rw);
	else if (pthread_rwlock_tryrdlock(&r->rw) != 0) { /* it is being reopened */
		rocksdb_readoptions_destroy(it->read);
		pthread_mutex_destroy(&it->lock);
		free(it);
		return NULL;
	}
	pthread_mutex_lock(&r->views_lock);
	if (s != NULL)
		rocksdb_readoptions_set_snapshot(it->read, s->snapshot);
	if (r->db != NULL && (s == NULL || s->snapshot != NULL))
		it->it = rocksdb_create_iterator(r->db, it->read);
	list_push(&r->iters, &it->link);
	pthread_mutex_unlock(&r->views_lock);
	pthread_rwlock_unlock(&r->rw);
	return &it->base;
}

/* ---- open and reopen ---- */

static int rocks_open_db(struct rocks *r)
{
	char *text = NULL;
	rocksdb_t *db = rocksdb_open(r->options, r->path, &text);
	int err = error_take(text, "open the metadata");

	if (err == -GRANARY_ECORRUPT && kv_wal_is_torn_at_end(r->fs, r->dir)) {
		log_warn("the last metadata batch was torn by a power cut and is dropped; nobody was told it was done");
		rocksdb_options_set_wal_recovery_mode(r->options, rocksdb_point_in_time_recovery);
		text = NULL;
		db = rocksdb_open(r->options, r->path, &text);
		err = error_take(text, "open the metadata");
		rocksdb_options_set_wal_recovery_mode(r->options, rocksdb_tolerate_corrupted_tail_records_recovery);
	}
	if (err == 0)
		r->db = db;
	return err;
}

/* Iterators and snapshots are taken away from whoever holds them. rw is held for writing. */
static void rocks_close_db(struct rocks *r)
{
	pthread_mutex_lock(&r->views_lock);
	list_for(pos, &r->iters) {
		struct rocks_iter *it = container_of(pos, struct rocks_iter, link);
		pthread_mutex_lock(&it->lock);
		if (it->it != NULL)
			rocksdb_iter_destroy(it->it);
		it->it = NULL;
		pthread_mutex_unlock(&it->lock);
	}
	list_for(pos, &r->snapshots) {
		struct kv_snapshot *s = container_of(pos, struct kv_snapshot, link);
		if (s->snapshot != NULL)
			rocksdb_release_snapshot(r->db, s->snapshot);
		s->snapshot = NULL;
	}
	pthread_mutex_unlock(&r->views_lock);
	if (r->db != NULL)
		rocksdb_close(r->db);
	r->db = NULL;
}

/* Tells the last sequence number of the database as it was opened. */
static int rocks_cycle(struct rocks *r, bool is_full, uint64_t *sequence)
{
	const struct timespec pause = { .tv_nsec = REOPEN_PAUSE_NS };
	int err = -GRANARY_EIO;

	pthread_rwlock_wrlock(&r->rw);
	rocks_close_db(r);
	for (uint32_t i = 0; i < REOPEN_TRIES_MAX; i++) {
		if (is_full && r->nospace != NULL)
			r->nospace(r->nospace_arg);
		err = rocks_open_db(r);
		if (err != -GRANARY_ENOSPACE)
			break;
		is_full = true;
		nanosleep(&pause, NULL);
	}
	*sequence = err == 0 ? rocksdb_get_latest_sequence_number(r->db) : 0;
	pthread_rwlock_unlock(&r->rw);
	return err;
}

static int rocks_reopen(struct kv_engine *e)
{
	uint64_t sequence;

	return rocks_cycle(rocks_of(e), false, &sequence);
}

/* ---- write ---- */

static int rocks_write_batch(struct rocks *r, uint64_t *sequence)
{
	char *text = NULL;
	int err = -GRANARY_EIO;

	pthread_rwlock_rdlock(&r->rw);
	if (r->db != NULL) {
		*sequence = rocksdb_get_latest_sequence_number(r->db);
		rocksdb_write(r->db, r->write, r->batch, &text);
		err = error_take(text, "write a batch");
		if (err == -GRANARY_ECORRUPT)
			err = -GRANARY_EIO;
	}
	pthread_rwlock_unlock(&r->rw);
	return err;
}

/* The disk is full (contract H). RocksDB refuses writes until it is opened again; the record of this batch may or may
 * not stand complete in its log, so the reopened database tells: it has the batch when its sequence moved. */
static int rocks_recover_space(struct rocks *r, uint64_t before)
{
	uint64_t now;
	int err = rocks_cycle(r, true, &now);

	if (err < 0)
		return -GRANARY_EIO; /* also when there is still no room to open: a restart is needed */
	log_warn("metadata ran out of space and was opened again; batch_kept=%d", now > before);
	return now > before ? 0 : -GRANARY_ENOSPACE;
}

static int rocks_write(struct kv_engine *e, const struct kv_write_op *ops, uint32_t n)
{
	struct rocks *r = rocks_of(e);
	uint64_t before = 0;
	int err;

	thread_set_up();
	rocksdb_writebatch_clear(r->batch);
	for (uint32_t i = 0; i < n; i++) {
		const char *key = (const char *)ops[i].key.p, *value = (const char *)ops[i].value.p;
		if (ops[i].is_delete)
			rocksdb_writebatch_delete(r->batch, key, ops[i].key.len);
		else
			rocksdb_writebatch_put(r->batch, key, ops[i].key.len, value, ops[i].value.len);
	}
	err = rocks_write_batch(r, &before);
	return err == -GRANARY_ENOSPACE ? rocks_recover_space(r, before) : err;
}

/* ---- backup ---- */

static uint64_t rocks_position(struct kv_engine *e)
{
	struct rocks *r = rocks_of(e);
	uint64_t position;

	pthread_rwlock_rdlock(&r->rw);
	position = r->db ? rocksdb_get_latest_sequence_number(r->db) : 0;
	pthread_rwlock_unlock(&r->rw);
	return position;
}

static char *path_join(const char *root, const char *dir)
{
	size_t size = strlen(root) + strlen(dir) + 2;
	char *path = malloc(size);

	if (path != NULL)
		snprintf(path, size, "%s/%s", root, dir);
	return path;
}

/* The memtable is written to a table first, so that the log in the checkpoint is short: the tables are links. */
static int rocks_checkpoint(struct kv_engine *e, const char *dir)
{
	struct rocks *r = rocks_of(e);
	char *path = path_join(fs_root(r->fs), dir), *text = NULL;
	rocksdb_checkpoint_t *checkpoint = NULL;
	int err = path ? -GRANARY_EIO : -GRANARY_ENOMEM;

	thread_set_up();
	pthread_rwlock_rdlock(&r->rw);
	if (path != NULL && r->db != NULL) {
		checkpoint = rocksdb_checkpoint_object_create(r->db, &text);
		if (checkpoint != NULL)
			rocksdb_checkpoint_create(checkpoint, path, 0, &text);
		err = error_take(text, "make a checkpoint");
	}
	if (checkpoint != NULL)
		rocksdb_checkpoint_object_destroy(checkpoint);
	pthread_rwlock_unlock(&r->rw);
	free(path);
	return err;
}

/* ---- set-up ---- */

static void rocks_close(struct kv_engine *e)
{
	struct rocks *r = rocks_of(e);

	assert(list_empty(&r->iters) && list_empty(&r->snapshots)); /* a caller forgot one */
	if (r->db != NULL)
		rocksdb_close(r->db);
	rocksdb_writebatch_destroy(r->batch);
	rocksdb_writeoptions_destroy(r->write);
	rocksdb_readoptions_destroy(r->read);
	rocksdb_readoptions_destroy(r->read_cached);
	rocksdb_options_destroy(r->options);
	rocksdb_block_based_options_destroy(r->table);
	rocksdb_cache_destroy(r->cache);
	pthread_mutex_destroy(&r->views_lock);
	pthread_rwlock_destroy(&r->rw);
	free(r->path);
	free(r->dir);
	r->magic = 0;
	free(r);
}

static const struct kv_engine_ops rocks_ops = { .name = "rocksdb", .has_committer = true, .get = rocks_get,
	.get_cached = rocks_get_cached,
	.snapshot_new = rocks_snapshot_new, .snapshot_free = rocks_snapshot_free, .iter_new = rocks_iter_new,
	.write = rocks_write, .reopen = rocks_reopen, .position = rocks_position, .checkpoint = rocks_checkpoint,
	.close = rocks_close };

/* Index and filter blocks live in the block cache, so that its size is all the memory reads take. */
static void table_set_up(struct rocks *r, uint64_t cache_size)
{
	r->cache = rocksdb_cache_create_lru((size_t)(cache_size ? cache_size : BLOCK_CACHE_SIZE));
	r->table = rocksdb_block_based_options_create();
	rocksdb_block_based_options_set_block_cache(r->table, r->cache);
	rocksdb_block_based_options_set_block_size(r->table, TABLE_BLOCK_SIZE);
	rocksdb_block_based_options_set_format_version(r->table, 5);
	rocksdb_block_based_options_set_filter_policy(r->table, rocksdb_filterpolicy_create_bloom_full(BLOOM_BITS));
	rocksdb_block_based_options_set_whole_key_filtering(r->table, 1);
	rocksdb_block_based_options_set_data_block_index_type(r->table,
		rocksdb_block_based_table_data_block_index_type_binary_search_and_hash);
	rocksdb_block_based_options_set_cache_index_and_filter_blocks(r->table, 1);
	rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(r->table, 1);
	rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(r->table, 1);
	rocksdb_options_set_block_based_table_factory(r->options, r->table);
}

/* A batch comes sorted: with a hint for each kind of row (the first byte of a key) an insert begins where the last
 * one of its kind ended and not at the head of the memtable: a third less time. A filter over whole keys answers for
 * rows that are not there, which every plan of a new name asks for. The C API has no function for either. */
static int options_set_memtable(rocksdb_options_t *options)
{
	rocksdb_options_t *plain = rocksdb_options_create();
	char *text = NULL;

	rocksdb_get_options_from_string(plain, "memtable_insert_with_hint_prefix_extractor=fixed:1;"
					       "memtable_whole_key_filtering=true;"
					       "memtable_prefix_bloom_size_ratio=0.02", options, &text);
	rocksdb_options_destroy(plain);
	return error_take(text, "set its options");
}

/* Log recovery: kTolerateCorruptedTailRecords. A record that ends early at the end of a log is an unfinished batch
 * and is dropped; any other damage refuses to open. kPointInTime would instead end silently at the first damaged
 * record, also where acknowledged batches follow it. What a power cut can do beyond a short last record (a hole in
 * the pages of the last batch) is told apart from such damage by kv_wal.c. */
static int options_set_up(struct rocks *r, const struct kv_options *o)
{
	uint64_t buffer = o->write_buffer_size ? o->write_buffer_size : WRITE_BUFFER_SIZE;

	r->options = rocksdb_options_create();
	if (options_set_memtable(r->options) < 0)
		return -GRANARY_EIO;
	rocksdb_options_set_create_if_missing(r->options, 1);
	rocksdb_options_set_paranoid_checks(r->options, 1);
	rocksdb_options_set_wal_recovery_mode(r->options, rocksdb_tolerate_corrupted_tail_records_recovery);
	rocksdb_options_set_compression(r->options, rocksdb_no_compression);
	rocksdb_options_set_write_buffer_size(r->options, (size_t)buffer);
	rocksdb_options_set_max_write_buffer_number(r->options, WRITE_BUFFERS_MAX);
	rocksdb_options_set_max_total_wal_size(r->options, 2 * WRITE_BUFFERS_MAX * buffer);
	rocksdb_options_set_target_file_size_base(r->options, TABLE_FILE_SIZE);
	rocksdb_options_set_level_compaction_dynamic_level_bytes(r->options, 1);
	rocksdb_options_set_max_open_files(r->options, OPEN_FILES_MAX);
	rocksdb_options_set_max_background_jobs(r->options, BACKGROUND_JOBS_MAX);
	rocksdb_options_set_bytes_per_sync(r->options, SYNC_STEP_BYTES);
	rocksdb_options_set_allow_mmap_reads(r->options, 0);
	rocksdb_options_set_allow_mmap_writes(r->options, 0);
	rocksdb_options_set_allow_concurrent_memtable_write(r->options, 0); /* one writer */
	rocksdb_options_set_enable_write_thread_adaptive_yield(r->options, 0);
	rocksdb_options_set_info_log_level(r->options, 2); /* warnings */
	rocksdb_options_set_max_log_file_size(r->options, INFO_LOG_SIZE_MAX);
	rocksdb_options_set_keep_log_file_num(r->options, INFO_LOGS_MAX);
	rocksdb_options_set_stats_dump_period_sec(r->options, 0);
	rocksdb_options_set_stats_persist_period_sec(r->options, 0);
	table_set_up(r, o->block_cache_size);
	r->read = rocksdb_readoptions_create();
	rocksdb_readoptions_set_verify_checksums(r->read, 1);
	r->read_cached = rocksdb_readoptions_create();
	rocksdb_readoptions_set_read_tier(r->read_cached, 1); /* kBlockCacheTier */
	r->write = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(r->write, 1);
	r->batch = rocksdb_writebatch_create();
	return 0;
}

/* RocksDB syncs what is in its folder; the folder's own name is synced here. */
static int folder_make(struct fs *fs, const char *dir)
{
	char parent[1024];
	const char *slash = strrchr(dir, '/');
	int err = fs_mkdir(fs, dir);

	if (err == -GRANARY_EEXIST)
		return 0;
	if (err < 0)
		return err;
	snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - dir) : 0, dir);
	return fs_sync_dir(fs, parent);
}

int kv_open_rocks(struct fs *fs, const char *dir, const struct kv_options *options, struct kv **out)
{
	char current[1024];
	struct rocks *r;
	int err;

	*out = NULL;
	snprintf(current, sizeof(current), "%s/CURRENT", dir);
	if (options->must_exist && (err = fs_exists(fs, current)) != 1)
		return err < 0 ? err : -GRANARY_ENOTFOUND;
	err = folder_make(fs, dir);
	if (err < 0)
		return err;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return -GRANARY_ENOMEM;
	r->base.ops = &rocks_ops;
	r->magic = ROCKS_MAGIC;
	r->nospace = options->nospace;
	r->nospace_arg = options->nospace_arg;
	list_init(&r->iters);
	list_init(&r->snapshots);
	pthread_rwlock_init(&r->rw, NULL);
	pthread_mutex_init(&r->views_lock, NULL);
	err = options_set_up(r, options);
	r->fs = fs;
	r->dir = strdup(dir);
	r->path = path_join(fs_root(fs), dir);
	if (err == 0)
		err = r->dir && r->path ? rocks_open_db(r) : -GRANARY_ENOMEM;
	if (err < 0) {
		rocks_close(&r->base);
		return err;
	}
	return kv_new(&r->base, options, out);
}
