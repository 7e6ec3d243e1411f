/* SPDX-License-Identifier: Apache-2.0 */
/* rebuild_scratch.c -- records of packs, sorted by object, and paths of directories, in a metadata store of their own.
 * Invariant: of the paths that keys name for a directory, and of the directories that they name for a path, the one of
 * the highest version is found. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "jobs/rebuild_priv.h"
#include "jobs/restore.h"
#include "meta/kv.h"

enum {
	BATCH_BYTES = 4 * 1024 * 1024,
	VALUE_MAX = 256 * 1024, /* name, key, attributes are below 64 KiB each */
	DIRS_CACHED = 4096,
	RECORD_KEY_LEN = 1 + 5 * 8,
	PATH_KEY_MAX = 1 + BUCKET_LEN_MAX + 1 + KEY_LEN_MAX + 1 + 16,
	FLAG_WHOLE = 1,
	FLAG_DAMAGED = 2,
};

struct dir_seen {
	uint64_t dir, version;
	struct scratch_dir at;
};

struct scratch {
	struct rebuild *r;
	struct kv *kv;
	struct kv_txn *txn;
	size_t txn_bytes;
	uint8_t *value;
	struct dir_seen *dirs; /* DIRS_CACHED, by id; what is pushed out is written */
};

struct kv *scratch_kv(struct scratch *s)
{
	return s->kv;
}

static int begin_txn(struct scratch *s)
{
	s->txn = kv_txn_new(s->kv);
	s->txn_bytes = 0;
	return s->txn != NULL ? 0 : -GRANARY_ENOMEM;
}

int scratch_open(struct rebuild *r, struct scratch **out)
{
	struct scratch *s = calloc(1, sizeof(*s));
	struct kv_options o = { .write_buffer_size = 32 * 1024 * 1024,
		.block_cache_size = 32 * 1024 * 1024,
		.fatal = restore_write_failed };
	int err;

	*out = s;
	if (s == NULL) return -GRANARY_ENOMEM;
	s->r = r;
	s->value = malloc(VALUE_MAX);
	s->dirs = calloc(DIRS_CACHED, sizeof(*s->dirs));
	err = s->value != NULL && s->dirs != NULL ? fs_remove_folder(r->fs, REBUILD_SCRATCH) : -GRANARY_ENOMEM;
	if (err == 0) err = fs_mkdir(r->fs, REBUILD_SCRATCH);
	if (err == 0)
		err = r->simulated ? kv_open_mem(r->fs, REBUILD_SCRATCH, &o, &s->kv)
				   : kv_open_rocks(r->fs, REBUILD_SCRATCH, &o, &s->kv);
	if (err == 0) err = begin_txn(s);
	return err;
}

void scratch_close(struct scratch **sp)
{
	struct scratch *s = *sp;

	*sp = NULL;
	if (s == NULL) return;
	if (s->txn != NULL) kv_txn_free(&s->txn);
	kv_close(&s->kv);
	(void)fs_remove_folder(s->r->fs, REBUILD_SCRATCH);
	free(s->value);
	free(s->dirs);
	free(s);
}

static int commit(struct scratch *s)
{
	int err = s->txn_bytes > 0 ? kv_submit_wait(s->kv, s->txn) : 0;

	kv_txn_free(&s->txn);
	return err < 0 ? err : begin_txn(s);
}

static int put(struct scratch *s, const uint8_t *key, size_t key_len, size_t value_len)
{
	kv_put(s->txn, slice_of(key, key_len), slice_of(s->value, value_len));
	s->txn_bytes += key_len + value_len + 1;
	return s->txn_bytes >= BATCH_BYTES ? commit(s) : 0;
}

/* ---- directories ---- */

/* 'P' bucket '/' path NUL, ~version, dir: the newest of a path stands first. */
static size_t path_key(uint8_t key[PATH_KEY_MAX], const char *bucket, struct slice path)
{
	struct wr w = wr_of(key, PATH_KEY_MAX);

	wr_u8(&w, 'P');
	wr_slice(&w, slice_str(bucket));
	wr_u8(&w, '/');
	wr_slice(&w, path);
	wr_u8(&w, 0);
	assert(wr_ok(&w));
	return wr_len(&w);
}

static int dir_decode(struct slice value, struct scratch_dir *out)
{
	struct cur c = cur_of(value.p, value.len);
	struct slice bucket, path;

	out->bucket = cur_u64(&c);
	bucket = cur_bytes16(&c);
	path = cur_bytes16(&c);
	if (!cur_done(&c) || bucket.len > BUCKET_LEN_MAX || path.len > KEY_LEN_MAX) return -GRANARY_ECORRUPT;
	memcpy(out->bucket_name, bucket.p, bucket.len);
	out->bucket_name[bucket.len] = '\0';
	if (path.len > 0) memcpy(out->path, path.p, path.len);
	out->path_len = path.len;
	return 0;
}

/* 'D' dir ~version: the newest of a directory stands first. */
static int dir_write(struct scratch *s, const struct dir_seen *d)
{
	uint8_t key[PATH_KEY_MAX];
	struct slice path = slice_of(d->at.path, d->at.path_len);
	struct wr w = wr_of(s->value, VALUE_MAX);
	size_t len;
	int err;

	if (d->dir == 0) return 0;
	len = path_key(key, d->at.bucket_name, path);
	be64_put(key + len, ~d->version);
	be64_put(key + len + 8, d->dir);
	err = put(s, key, len + 16, 0);
	key[0] = 'D';
	be64_put(key + 1, d->dir);
	be64_put(key + 9, ~d->version);
	wr_u64(&w, d->at.bucket);
	wr_bytes16(&w, slice_str(d->at.bucket_name));
	wr_bytes16(&w, path);
	return err < 0 ? err : put(s, key, 17, wr_len(&w));
}

/* "bucket/a/b/name" of a record; false: it has no key, or one that cannot be. */
static bool key_parts(const struct kept *k, struct slice *bucket, struct slice *path)
{
	const uint8_t *slash = k->key.len > 0 ? memchr(k->key.p, '/', k->key.len) : NULL;
	struct slice key, name;

	if (slash == NULL) return false;
	*bucket = slice_of(k->key.p, (size_t)(slash - k->key.p));
	key = slice_of(slash + 1, k->key.len - bucket->len - 1);
	if (key_check(key) < 0) return false;
	key_split(key, path, &name);
	return slice_eq(name, k->name) &&
	       (bucket_name_check(*bucket) == 0 || slice_eq(*bucket, slice_str(NS_SYSTEM_BUCKET)));
}

static uint64_t bucket_of(const struct kept *k)
{
	struct cur c = cur_of(k->attrs.p, k->attrs.len);
	struct slice v;
	uint64_t id = 0;
	uint16_t tag;

	while (tlv_next(&c, &tag, &v))
		if (tag == TAG_BUCKET) id = tlv_u64(v);
	return cur_ok(&c) ? id : 0;
}

static bool is_same_path(const struct dir_seen *d, struct slice bucket, struct slice path)
{
	return slice_eq(slice_str(d->at.bucket_name), bucket) && slice_eq(slice_of(d->at.path, d->at.path_len), path);
}

/* A directory has one path at a time, and its versions tell the times apart. */
static int dir_note(struct scratch *s, const struct kept *k)
{
	struct dir_seen *d = &s->dirs[hash_u64(k->dir) % DIRS_CACHED];
	struct slice bucket, path;
	int err = 0;

	if (!key_parts(k, &bucket, &path)) return 0;
	if (d->dir == k->dir && is_same_path(d, bucket, path)) {
		if (k->version > d->version) d->version = k->version;
		return 0;
	}
	err = dir_write(s, d);
	d->dir = k->dir;
	d->version = k->version;
	d->at.bucket = bucket_of(k);
	memcpy(d->at.bucket_name, bucket.p, bucket.len);
	d->at.bucket_name[bucket.len] = '\0';
	if (path.len > 0) memcpy(d->at.path, path.p, path.len);
	d->at.path_len = path.len;
	return err;
}

/* The first row whose key begins with the prefix. */
static int first_under(struct scratch *s, struct slice prefix, struct kv_iter **it)
{
	int err;

	*it = kv_iter_new(s->kv, NULL);
	if (*it == NULL) return -GRANARY_ENOMEM;
	kv_iter_seek(*it, prefix);
	err = kv_iter_error(*it);
	if (err < 0) return err;
	if (!kv_iter_valid(*it) || kv_iter_key(*it).len < prefix.len) return -GRANARY_ENOTFOUND;
	return memcmp(kv_iter_key(*it).p, prefix.p, prefix.len) == 0 ? 0 : -GRANARY_ENOTFOUND;
}

int scratch_dir_get(struct scratch *s, uint64_t dir, struct scratch_dir *out)
{
	uint8_t key[9] = { 'D' };
	struct kv_iter *it;
	int err;

	be64_put(key + 1, dir);
	err = first_under(s, slice_of(key, sizeof(key)), &it);
	if (err == 0) err = dir_decode(kv_iter_value(it), out);
	if (it != NULL) kv_iter_free(&it);
	return err;
}

int scratch_path_get(struct scratch *s, const char *bucket_name, struct slice path, uint64_t *dir)
{
	uint8_t key[PATH_KEY_MAX];
	struct slice prefix = slice_of(key, path_key(key, bucket_name, path)), found;
	struct kv_iter *it;
	int err = first_under(s, prefix, &it);

	if (err == 0) {
		found = kv_iter_key(it);
		err = found.len == prefix.len + 16 ? 0 : -GRANARY_ECORRUPT;
		if (err == 0) *dir = be64_get(found.p + prefix.len + 8);
	}
	if (it != NULL) kv_iter_free(&it);
	return err;
}

/* ---- records ---- */

int scratch_object_get(struct scratch *s, uint64_t object, struct object_records *o)
{
	uint8_t key[9] = { SCRATCH_RECORD };
	struct kv_iter *it;
	struct kept k;
	int err;

	be64_put(key + 1, object);
	err = first_under(s, slice_of(key, sizeof(key)), &it);
	for (; err == 0 && kv_iter_valid(it) && memcmp(kv_iter_key(it).p, key, sizeof(key)) == 0; kv_iter_next(it))
		err = kept_decode(kv_iter_key(it), kv_iter_value(it), &k) ? records_add(o, &k) : -GRANARY_ECORRUPT;
	if (err == 0) err = kv_iter_error(it);
	if (it != NULL) kv_iter_free(&it);
	return err;
}

int scratch_add(struct scratch *s, const struct kept *k)
{
	const uint64_t parts[5] = { k->object, k->logical, ~k->version, k->pack, k->offset };
	uint8_t key[RECORD_KEY_LEN] = { SCRATCH_RECORD };
	struct wr w = wr_of(s->value, VALUE_MAX);
	int err = dir_note(s, k);

	for (int i = 0; i < 5; i++) be64_put(key + 1 + 8 * i, parts[i]);
	wr_u64(&w, k->dir);
	wr_u32(&w, k->header_len);
	wr_u32(&w, k->data_len);
	wr_u8(&w, (uint8_t)((k->is_whole ? FLAG_WHOLE : 0) | (k->is_damaged ? FLAG_DAMAGED : 0)));
	wr_u64(&w, k->hash.lo);
	wr_u64(&w, k->hash.hi);
	wr_bytes16(&w, k->name);
	wr_bytes16(&w, k->key);
	wr_bytes32(&w, k->attrs);
	wr_bytes32(&w, k->crcs);
	assert(wr_ok(&w));
	return err < 0 ? err : put(s, key, sizeof(key), wr_len(&w));
}

int scratch_flush(struct scratch *s)
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < DIRS_CACHED; i++) err = dir_write(s, &s->dirs[i]);
	return err < 0 ? err : commit(s);
}

bool kept_decode(struct slice key, struct slice value, struct kept *k)
{
	struct cur c = cur_of(value.p, value.len);
	uint8_t flags;

	if (key.len != RECORD_KEY_LEN) return false;
	*k = (struct kept){ .object = be64_get(key.p + 1),
		.logical = be64_get(key.p + 9),
		.version = ~be64_get(key.p + 17),
		.pack = be64_get(key.p + 25),
		.offset = be64_get(key.p + 33) };
	k->dir = cur_u64(&c);
	k->header_len = cur_u32(&c);
	k->data_len = cur_u32(&c);
	flags = cur_u8(&c);
	k->is_whole = (flags & FLAG_WHOLE) != 0;
	k->is_damaged = (flags & FLAG_DAMAGED) != 0;
	k->hash.lo = cur_u64(&c);
	k->hash.hi = cur_u64(&c);
	k->name = cur_bytes16(&c);
	k->key = cur_bytes16(&c);
	k->attrs = cur_bytes32(&c);
	k->crcs = cur_bytes32(&c);
	return cur_done(&c);
}
