/* SPDX-License-Identifier: Apache-2.0 */
/* offline_packs.c -- metadata that was brought back against the packs that are there, in all hot directories. Only
 * names are looked at: what is in the packs is for `granary check`.
 * Invariant: nothing is moved before all names were read without an error. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "req/offline_priv.h"
#include "tier/packs.h"

enum { COLD_ALONE = 2, DEPTH_MAX = 512, PATH_CAP = BUCKET_LEN_MAX + 1 + KEY_LEN_MAX + 1 };

struct missing {
	uint64_t *ids;
	uint32_t count, cap;
}; /* ascending, as the rows are */

static int missing_add(struct missing *m, uint64_t id)
{
	if (m->count == m->cap) {
		uint32_t cap = m->cap ? 2 * m->cap : 64;
		uint64_t *ids = realloc(m->ids, cap * sizeof(*ids));
		if (ids == NULL) return -GRANARY_ENOMEM;
		m->ids = ids;
		m->cap = cap;
	}
	m->ids[m->count++] = id;
	return 0;
}

static bool missing_has(const struct missing *m, uint64_t id)
{
	uint32_t lo = 0, hi = m->count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (m->ids[mid] < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < m->count && m->ids[lo] == id;
}

/* ---- packs that rows name ---- */

/* Its copy in one hot directory: 1: the file is there; 0: it is not, or no row names one. */
static int copy_is_there(struct work *w, const struct rebuild_place *p, uint64_t id, char name[PACKS_NAME_MAX])
{
	uint8_t key[ROW_KEY_MAX];
	char path[PACKS_NAME_MAX + 16];
	struct kv_value v;
	struct slice s;
	int err = kv_get(w->kv, row_copy(key, p->store, id), &v);

	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	err = value_bytes(v.v, CTAG_NAME, &s) && s.len < PACKS_NAME_MAX ? 0 : -GRANARY_ECORRUPT;
	if (err == 0) snprintf(name, PACKS_NAME_MAX, "%.*s", (int)s.len, (const char *)s.p);
	kv_value_release(&v);
	snprintf(path, sizeof(path), "packs/%02x/%s", (unsigned)(id & 0xff), name);
	return err == 0 ? fs_exists(p->fs, path) : err;
}

/* 1: a row says that a cold store has a copy: it is not asked. instead: the hot copy's file that it undid, or empty. */
static int pack_is_cold(struct work *w, uint64_t id, char instead[PACKS_NAME_MAX])
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_iter *it = kv_iter_new(w->kv, NULL);
	struct kv_value v;
	struct slice s;
	int has = it != NULL ? 0 : -GRANARY_ENOMEM;

	instead[0] = '\0';
	if (it == NULL) return has;
	for (kv_iter_seek(it, slice_str("z")); has == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice row = kv_iter_key(it);
		if (row.p[0] != 'z') break;
		if (row.len != 9) continue;
		has = kv_get(w->kv, row_copy(key, be64_get(row.p + 1), id), &v);
		if (has == 0 && value_bytes(v.v, CTAG_INSTEAD, &s) && s.len < PACKS_NAME_MAX)
			snprintf(instead, PACKS_NAME_MAX, "%.*s", (int)s.len, (const char *)s.p);
		if (has == 0) kv_value_release(&v);
		has = has == 0 ? 1 : has == -GRANARY_ENOTFOUND ? 0 : has;
	}
	if (has == 0) has = kv_iter_error(it);
	kv_iter_free(&it);
	return has;
}

/* Hot copies whose file is not there any more, of a pack that a cold store has: the server reads that one. A drive that
 * is not there may come back with them: its rows stay; and so do those that count for nothing since it became cold. */
static int copies_forget(struct work *w, uint64_t id, const char *instead)
{
	struct kv_txn *txn = kv_txn_new(w->kv);
	uint8_t key[ROW_KEY_MAX];
	uint32_t gone = 0;
	int err = txn != NULL ? 0 : -GRANARY_ENOMEM;

	for (uint32_t i = 0; err == 0 && i < w->place_count; i++) {
		struct kv_value v;
		struct slice row = row_copy(key, w->places[i].store, id), name;
		bool is_void;
		if (kv_get(w->kv, row, &v) < 0) continue;
		is_void = value_bytes(v.v, CTAG_NAME, &name) && slice_eq(name, slice_str(instead));
		kv_value_release(&v);
		if (is_void) continue;
		kv_delete(txn, row);
		gone++;
	}
	if (err == 0 && gone > 0) err = kv_submit_wait(w->kv, txn);
	if (txn != NULL) kv_txn_free(&txn);
	w->o->packs_cold_now += gone > 0;
	return err;
}

/* 1: in some hot directory; COLD_ALONE: only cold; 0: neither. */
static int pack_is_there(struct work *w, uint64_t id, char name[PACKS_NAME_MAX], char instead[PACKS_NAME_MAX])
{
	int there = 0;

	snprintf(name, PACKS_NAME_MAX, "%016" PRIx64, id);
	for (uint32_t i = 0; there == 0 && i < w->place_count; i++)
		there = copy_is_there(w, &w->places[i], id, name);
	if (there != 0) return there;
	there = pack_is_cold(w, id, instead);
	return there == 1 ? COLD_ALONE : there;
}

static int pack_row_look(struct work *w, struct missing *m, struct slice key, struct slice value)
{
	char name[PACKS_NAME_MAX], instead[PACKS_NAME_MAX];
	struct pack_row row;
	int there = pack_row_decode(value, &row);

	if (there < 0) return there;
	w->o->packs++;
	if (row.state == PACK_DYING) return 0; /* its removal goes on */
	there = pack_is_there(w, be64_get(key.p + 1), name, instead);
	if (there == COLD_ALONE) return copies_forget(w, be64_get(key.p + 1), instead);
	if (there != 0) return there < 0 ? there : 0;
	w->o->packs_missing++;
	tell_lost(w, "pack", name);
	return missing_add(m, be64_get(key.p + 1));
}

static int find_missing(struct work *w, struct missing *m)
{
	struct kv_iter *it = kv_iter_new_scan(w->kv, NULL);
	int err = it ? 0 : -GRANARY_ENOMEM;

	if (it == NULL) return err;
	for (kv_iter_seek(it, slice_str("p")); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (key.len != 9 || key.p[0] != 'p') break;
		err = pack_row_look(w, m, key, kv_iter_value(it));
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

/* ---- objects that lie in packs that are missing ---- */

static int bucket_name(struct work *w, uint64_t bucket, char out[BUCKET_LEN_MAX + 1])
{
	struct kv_iter *it = kv_iter_new(w->kv, NULL);
	uint64_t id;

	snprintf(out, BUCKET_LEN_MAX + 1, "?");
	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, slice_str("b")); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (key.p[0] != 'b') break;
		if (value_u64(kv_iter_value(it), TAG_ID, 0, &id) && id == bucket && key.len <= BUCKET_LEN_MAX + 1)
			snprintf(out, BUCKET_LEN_MAX + 1, "%.*s", (int)(key.len - 1), (const char *)key.p + 1);
	}
	kv_iter_free(&it);
	return 0;
}

/* Climbs to the root; `out` is filled from its end. Returns the start, or NULL: a directory on the way is damaged. */
static char *path_climb(struct work *w, uint64_t dir, struct slice name, char *out, size_t cap, uint64_t *bucket)
{
	uint8_t key[ROW_KEY_MAX];
	char *at = out + cap - 1;
	struct kv_value v;
	struct object o;

	*at = '\0';
	for (uint32_t depth = 0; depth < DEPTH_MAX; depth++) {
		uint64_t parent;
		if ((size_t)(at - out) < name.len + 1) return NULL;
		at -= name.len;
		if (name.len > 0) memcpy(at, name.p, name.len);
		if (kv_get(w->kv, row_inode(key, dir), &v) < 0) return NULL;
		if (object_decode(v.v, &o) < 0) o.parent = 0;
		parent = o.parent;
		*bucket = o.bucket;
		if (parent != 0 && (size_t)(at - out) > o.name.len + 1) {
			*--at = '/';
			at -= o.name.len;
			memcpy(at, o.name.p, o.name.len);
		}
		kv_value_release(&v);
		if (parent == 0) return at;
		dir = parent;
		name = slice_of(NULL, 0);
	}
	return NULL;
}

static void object_is_lost(struct work *w, uint64_t dir, struct slice name)
{
	char path[KEY_LEN_MAX + 1], bucket[BUCKET_LEN_MAX + 1], text[PATH_CAP];
	uint64_t id = 0;
	char *at = path_climb(w, dir, name, path, sizeof(path), &id);

	w->o->objects_lost++;
	(void)bucket_name(w, id, bucket);
	if (at != NULL)
		snprintf(text, sizeof(text), "%s/%s", bucket, at);
	else
		snprintf(text, sizeof(text), "directory %016" PRIx64 "/%.*s", dir, (int)name.len, (const char *)name.p);
	tell_lost(w, "object", text);
}

/* 1 when an extent in an `x` row of the object lies in a missing pack. */
static int outside_is_missing(struct work *w, const struct missing *m, const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice prefix = row_extent_prefix(buf, o->id, o->generation);
	struct kv_iter *it = kv_iter_new(w->kv, NULL);
	struct extent e;
	int found = it ? 0 : -GRANARY_ENOMEM;

	if (it == NULL) return found;
	for (kv_iter_seek(it, prefix); found == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (key.len < prefix.len || memcmp(key.p, prefix.p, prefix.len) != 0) break;
		found = extent_row_decode(kv_iter_value(it), &e);
		if (found == 0 && (e.flags & EXTENT_HOLE) == 0) found = missing_has(m, e.pack);
	}
	if (found == 0) found = kv_iter_error(it);
	kv_iter_free(&it);
	return found;
}

static int object_is_missing(struct work *w, const struct missing *m, const struct object *o)
{
	for (uint32_t i = 0; i < o->extent_count; i++)
		if ((o->extents[i].flags & EXTENT_HOLE) == 0 && missing_has(m, o->extents[i].pack)) return 1;
	return o->extents_outside > 0 ? outside_is_missing(w, m, o) : 0;
}

static int entry_look(struct work *w, const struct missing *m, struct slice key, struct slice value)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value v = { .pin = NULL };
	struct object o;
	struct slice name;
	uint64_t dir;
	bool is_dir;
	int found;

	if (!row_entry_parse(key, &dir, &name, &is_dir) || is_dir) return 0;
	found = object_decode(value, &o);
	if (found == 0 && o.in_inode) {
		found = kv_get(w->kv, row_inode(buf, o.id), &v);
		if (found == 0) found = object_decode(v.v, &o);
	}
	if (found == 0) found = object_is_missing(w, m, &o);
	kv_value_release(&v);
	if (found == 1) object_is_lost(w, dir, name);
	return found < 0 ? found : 0;
}

static int find_objects(struct work *w, const struct missing *m)
{
	struct kv_iter *it = m->count > 0 ? kv_iter_new_scan(w->kv, NULL) : NULL;
	int err = 0;

	if (it == NULL) return m->count > 0 ? -GRANARY_ENOMEM : 0;
	for (kv_iter_seek(it, slice_str("d")); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		if (kv_iter_key(it).p[0] != 'd') break;
		err = entry_look(w, m, kv_iter_key(it), kv_iter_value(it));
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

/* ---- packs that no row names ---- */

struct files {
	struct work *w;
	const struct rebuild_place *place;
	uint64_t moved;
};

static int file_look(void *arg, const char *dir, const char *name, uint64_t id)
{
	struct files *f = arg;
	struct fs *fs = f->place->fs;
	char from[PACKS_NAME_MAX + 16], to[PACKS_NAME_MAX + 32], named[PACKS_NAME_MAX] = "", told[1200];
	int err = copy_is_there(f->w, f->place, id, named);

	if (err < 0 || (err == 1 && strcmp(named, name) == 0)) return err < 0 ? err : 0;
	err = fs_mkdir(fs, OFFLINE_UNKNOWN);
	snprintf(from, sizeof(from), "%s/%s", dir, name);
	snprintf(to, sizeof(to), OFFLINE_UNKNOWN "/%s", name);
	if (err == 0 || err == -GRANARY_EEXIST) err = fs_rename(fs, from, to);
	if (err == 0) err = fs_sync_dir(fs, dir);
	if (err < 0) return err;
	f->moved++;
	snprintf(told, sizeof(told), "%.1000s/%s", fs_root(fs), to);
	tell_lost(f->w, "unknown-pack", f->place->fs == f->w->fs ? to : told);
	return 0;
}

static int set_aside(struct work *w)
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < w->place_count; i++) {
		struct files f = { .w = w, .place = &w->places[i] };
		err = packs_each_file(f.place->fs, file_look, &f);
		if (err == 0 && f.moved > 0) err = fs_sync_dir(f.place->fs, OFFLINE_UNKNOWN);
		w->o->packs_unknown += f.moved;
	}
	return err;
}

int offline_check_packs(struct work *w)
{
	struct missing m = { .count = 0 };
	int err = find_missing(w, &m);

	if (err == 0) err = find_objects(w, &m);
	if (err == 0) err = set_aside(w);
	free(m.ids);
	if (err < 0)
		snprintf(w->why, w->cap, "cannot compare the metadata with the packs in %s: %s", fs_root(w->fs),
			error_text(err));
	return err;
}
