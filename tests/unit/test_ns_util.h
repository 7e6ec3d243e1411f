/* SPDX-License-Identifier: Apache-2.0 */
/* test_ns_util.h -- a namespace in a temporary folder on either engine, mutations with their retries, and a check of
 * all rows against each other. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <inttypes.h>
#include <string.h>

#include "common/error.h"
#include "common/rand.h"
#include "meta/ids.h"
#include "meta/ns_file.h"
#include "unit/test_kv_util.h"

struct world {
	struct store store;
	struct loc *loc;
	struct ids *ids;
	struct store_clock *clock;
	struct ns *ns;
	uint32_t incarnation;
	struct ns_bucket bucket;
};

static const uint8_t world_crcs[4] = { 1, 2, 3, 4 };
enum { WORLD_TRIES = 8, WORLD_PACK = 77 };

static inline void world_open(struct world *w)
{
	assert_int_equal(w->store.open(w->store.fs, "meta", &w->store.options, &w->store.kv), 0);
	w->ids = ids_new(++w->incarnation);
	assert_int_equal(store_clock_open(w->store.kv, &w->clock), 0);
	struct ns_options o = { .kv = w->store.kv, .ids = w->ids, .loc = w->loc, .clock = w->clock };
	assert_int_equal(ns_open(&o, &w->ns), 0);
}

static inline void world_close(struct world *w)
{
	ns_close(&w->ns);
	store_clock_free(&w->clock);
	ids_free(&w->ids);
	kv_close(&w->store.kv);
}

static inline struct world *world_new(bool is_mem)
{
	struct world *w = calloc(1, sizeof(*w));
	const char *tmp = getenv("TMPDIR");
	w->loc = loc_new(8 << 20);
	w->store.is_mem = is_mem;
	w->store.open = is_mem ? kv_open_mem : kv_open_rocks;
	w->store.options.fatal = store_fatal;
	w->store.options.observer = (struct kv_observer){ ns_observe_begin, ns_observe_end, w->loc };
	snprintf(w->store.root, sizeof(w->store.root), "%s/granary-ns-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(w->store.root));
	assert_int_equal(fs_new_kernel(w->store.root, &w->store.fs), 0);
	world_open(w);
	assert_int_equal(ns_bucket_create(w->ns, slice_str("data"), slice_str("owner")), 0);
	assert_int_equal(ns_bucket_find(w->ns, slice_str("data"), &w->bucket), 0);
	return w;
}

static inline void world_free(struct world *w)
{
	world_close(w);
	fs_free(&w->store.fs);
	nftw(w->store.root, store_remove_one, 16, FTW_DEPTH | FTW_PHYS);
	loc_free(&w->loc);
	free(w);
}

static inline int world_set_up_mem(void **state) { *state = world_new(true); return 0; }
static inline int world_set_up_rocks(void **state) { *state = world_new(false); return 0; }
static inline int world_tear_down(void **state) { world_free(*state); return 0; }

/* ---- mutations ---- */

static inline struct ns_ref by_key_slice(const struct world *w, struct slice key)
{
	return (struct ns_ref){ .by = NS_BY_KEY, .bucket = w->bucket.id, .name = key };
}
static inline struct ns_ref by_key(const struct world *w, const char *key) { return by_key_slice(w, slice_str(key)); }
static inline struct ns_ref by_name(uint64_t dir, const char *name)
{
	return (struct ns_ref){ .by = NS_BY_NAME, .dir = dir, .name = slice_str(name) };
}
static inline struct ns_ref by_id(uint64_t id) { return (struct ns_ref){ .by = NS_BY_ID, .id = id }; }

enum mutation_kind { M_PUT = 1, M_DELETE, M_MKDIR, M_RMDIR, M_RENAME, M_SETATTR, M_XATTR, M_TAGS, M_MAKE, M_LINK,
	M_COPY, M_UPLOAD, M_FINISH, M_ABORT, M_WRITE, M_COPY_RANGE, M_MERGE };
struct mutation {
	enum mutation_kind kind;
	struct ns_ref ref, to;
	enum ns_condition condition;
	uint64_t if_version;
	bool parents, dataset, no_replace, exchange;
	uint32_t size;
	uint64_t pack;
	struct ns_setattr set;
	enum ns_xattr_mode xattr_mode;
	struct slice name, value;
	struct ns_make make;
	struct ns_copy copy;
	struct ns_upload_start upload;
	struct ns_upload_finish finish;
	struct ns_write write;
	struct ns_copy_range range;
	struct ns_merge merge;
	/* out */
	uint64_t id, version, replaced;
	struct ns_deleted deleted;
	uint32_t tries;
};

static inline int mutation_plan_put(struct world *w, struct ns_plan *plan, struct mutation *m)
{
	struct extent e = { .pack = m->pack ? m->pack : WORLD_PACK, .record = 4096, .skip = 100, .length = m->size,
			    .crc_count = 1, .crcs = world_crcs };
	struct ns_put put = { .ref = m->ref, .condition = m->condition, .if_version = m->if_version,
			      .id = ids_object(w->ids), .version = ids_version(w->ids), .size = m->size, .mtime_ns = 5,
			      .mode = 0100644, .extents = &e, .extent_count = m->size > 0 };
	uint64_t group;
	int err = ns_parent_cached(w->ns, &m->ref, &put.parent, &group);
	if (err == -GRANARY_EAGAIN)
		err = ns_parent(w->ns, &m->ref, &put.parent, &group);
	if (err < 0)
		return err;
	err = ns_plan_put(plan, &put);
	m->id = put.id;
	m->version = put.version;
	m->replaced = put.replaced_version;
	return err == -GRANARY_ECHANGED ? -GRANARY_EBUSY : err; /* nothing was appended in a test: as good as busy */
}

static inline int mutation_plan(struct world *w, struct ns_plan *plan, struct mutation *m)
{
	switch (m->kind) {
	case M_PUT: return mutation_plan_put(w, plan, m);
	case M_DELETE: return ns_plan_delete(plan, &m->ref, m->condition, m->if_version, &m->deleted);
	case M_MKDIR: return ns_plan_mkdir(plan, &m->ref, 0755, m->parents, m->dataset, &m->id);
	case M_RMDIR: return ns_plan_rmdir(plan, &m->ref);
	case M_RENAME:
		return m->exchange ? ns_plan_exchange(plan, &m->ref, &m->to)
				   : ns_plan_rename(plan, &m->ref, &m->to, m->no_replace);
	case M_SETATTR: return ns_plan_setattr(plan, &m->ref, &m->set);
	case M_XATTR: return ns_plan_xattr(plan, &m->ref, m->xattr_mode, m->name, m->value);
	case M_TAGS: return ns_plan_tags(plan, &m->ref, m->value);
	case M_MAKE: m->make.ref = m->ref; return ns_plan_make(plan, &m->make);
	case M_LINK: return ns_plan_link(plan, &m->ref, &m->to, &m->id);
	case M_COPY: return ns_plan_copy(plan, &m->copy);
	case M_UPLOAD: return ns_plan_upload_start(plan, &m->upload);
	case M_FINISH: return ns_plan_upload_finish(plan, &m->finish);
	case M_WRITE: m->write.ref = m->ref; return ns_plan_write(plan, &m->write);
	case M_COPY_RANGE: return ns_plan_copy_range(plan, &m->range);
	case M_MERGE: return ns_plan_merge(plan, &m->merge);
	case M_ABORT: return ns_plan_upload_abort(plan, m->id);
	}
	return -GRANARY_EINVAL;
}

static inline int mutate_once(struct world *w, struct mutation *m)
{
	struct ns_plan *plan = ns_plan_new(w->ns);
	int err = mutation_plan(w, plan, m);
	if (err == 0)
		err = ns_plan_finish(plan);
	if (err == 0) {
		err = kv_submit_wait(w->store.kv, ns_plan_txn(plan));
		ns_plan_committed(plan, err);
	}
	ns_plan_free(&plan);
	return err;
}

/* As a request does it: 8 tries, then BUSY. */
static inline int mutate(struct world *w, struct mutation *m)
{
	int err = -GRANARY_EBUSY;
	for (m->tries = 0; m->tries < WORLD_TRIES && err == -GRANARY_EBUSY; m->tries++)
		err = mutate_once(w, m);
	return err;
}

static inline int put_size(struct world *w, const char *key, uint32_t size)
{
	return mutate(w, &(struct mutation){ .kind = M_PUT, .ref = by_key(w, key), .size = size });
}
static inline int put_key(struct world *w, const char *key) { return put_size(w, key, 10); }
static inline int delete_key(struct world *w, const char *key)
{
	return mutate(w, &(struct mutation){ .kind = M_DELETE, .ref = by_key(w, key) });
}
static inline int mkdir_key(struct world *w, const char *key)
{
	return mutate(w, &(struct mutation){ .kind = M_MKDIR, .ref = by_key(w, key), .parents = true });
}
static inline int rmdir_key(struct world *w, const char *key)
{
	return mutate(w, &(struct mutation){ .kind = M_RMDIR, .ref = by_key(w, key) });
}
static inline int rename_key(struct world *w, const char *from, const char *to)
{
	return mutate(w, &(struct mutation){ .kind = M_RENAME, .ref = by_key(w, from), .to = by_key(w, to) });
}
static inline int rename_new(struct world *w, const char *from, const char *to)
{
	return mutate(w, &(struct mutation){ .kind = M_RENAME, .ref = by_key(w, from), .to = by_key(w, to),
					     .no_replace = true });
}

static inline int exchange_keys(struct world *w, const char *a, const char *b)
{
	return mutate(w, &(struct mutation){ .kind = M_RENAME, .ref = by_key(w, a), .to = by_key(w, b),
					     .exchange = true });
}

/* ---- looking ---- */

struct found { uint64_t id, version, size, dir, bucket; bool is_dir; char name[KEY_LEN_MAX + 1]; };

static inline int look_up(struct world *w, struct ns_ref ref, struct found *out)
{
	struct ns_place place;
	struct object o;
	struct kv_value value;
	struct found ignored;
	out = out != NULL ? out : &ignored;
	int err = ns_lookup(w->ns, &ref, &place, &o, &value);
	if (err < 0)
		return err;
	*out = (struct found){ .id = o.id, .version = o.version, .size = o.size, .dir = place.dir, .is_dir = o.is_dir,
			       .bucket = place.bucket };
	if (place.name.len > 0)
		memcpy(out->name, place.name.p, place.name.len);
	kv_value_release(&value);
	return 0;
}
static inline int look_up_key(struct world *w, const char *key) { return look_up(w, by_key(w, key), NULL); }

/* Whether somebody points at the record; name: NULL, or that of the first who does. */
struct record_owner { bool found; char name[KEY_LEN_MAX + 1]; };
static inline int record_owner_take(void *arg, const struct ns_owner *owner)
{
	struct record_owner *o = arg;
	o->found = true;
	if (owner->place.name.len > 0)
		memcpy(o->name, owner->place.name.p, owner->place.name.len);
	return 1;
}
static inline bool record_owner(struct world *w, const struct ns_record *r, struct record_owner *out)
{
	struct record_owner ignored;
	out = out != NULL ? out : &ignored;
	*out = (struct record_owner){ false };
	int err = ns_record_owners(w->ns, r, record_owner_take, out);
	assert_int_equal(err, out->found);
	return out->found;
}

/* Id of a directory that exists, by its path "a/b/". */
static inline uint64_t dir_id(struct world *w, const char *path)
{
	char key[KEY_LEN_MAX + 8];
	uint64_t dir, group;
	snprintf(key, sizeof(key), "%sx", path);
	struct ns_ref ref = by_key(w, key);
	assert_int_equal(ns_parent(w->ns, &ref, &dir, &group), 0);
	return dir;
}

/* ---- all rows against each other ---- */

struct tally {
	uint64_t files, names_of_inodes, inodes, dirs, bytes, quota_bytes, quota_objects, live, live_records, weight;
	uint64_t extents, links, references, uploads, stored, covered;
};

static inline void check_dir_row(struct world *w, uint64_t parent, struct slice name, struct slice value)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value v;
	struct object o;
	uint64_t id;
	assert_true(value_u64(value, TAG_ID, 0, &id));
	assert_int_equal(kv_get(w->store.kv, row_inode(buf, id), &v), 0);
	assert_int_equal(object_decode(v.v, &o), 0);
	assert_true(o.is_dir && o.id == id && o.parent == parent && slice_eq(o.name, name));
	bool is_dataset = o.is_dataset;
	kv_value_release(&v);
	struct kv_iter *it = kv_iter_new(w->store.kv,
					 NULL); /* an empty directory is an explicit one: has a child row */
	struct slice prefix = row_entry_prefix(buf, id);
	kv_iter_seek(it, prefix);
	bool has_child = kv_iter_valid(it) && kv_iter_key(it).len >= 9 && memcmp(kv_iter_key(it).p, prefix.p, 9) == 0;
	assert_true(has_child || is_dataset);
	kv_iter_free(&it);
}

/* The directory leads to a root through inodes whose entries name them; no directory above itself. */
static inline void check_reaches_root(struct world *w, uint64_t id)
{
	uint8_t buf[ROW_KEY_MAX];
	for (int depth = 0;; depth++) {
		struct kv_value v;
		struct object o;
		uint64_t row_id;
		assert_true(depth < 4096);
		assert_int_equal(kv_get(w->store.kv, row_inode(buf, id), &v), 0);
		assert_int_equal(object_decode(v.v, &o), 0);
		uint64_t parent = o.parent;
		struct slice key = row_entry(buf, parent, o.name, true);
		kv_value_release(&v);
		if (parent == 0)
			return;
		assert_int_equal(kv_get(w->store.kv, key, &v), 0);
		assert_true(value_u64(v.v, TAG_ID, 0, &row_id));
		kv_value_release(&v);
		assert_int_equal(row_id, id);
		id = parent;
	}
}

/* An extent with a `y` row: so each such row is that of an extent. */
static inline void check_reference(struct world *w, struct tally *t, uint64_t id, const struct extent *e)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value v;
	if (kv_get(w->store.kv, row_reference(buf, e->pack, e->record, id, e->logical), &v) < 0)
		return;
	kv_value_release(&v);
	t->references++;
}

static inline void check_object(struct world *w, struct tally *t, const struct object *o)
{
	assert_false(o->is_dir);
	assert_true(o->id != 0 && o->version != 0);
	t->bytes += o->size;
	assert_true(o->holes <= o->size);
	t->stored += object_has_bytes(o) ? o->size - o->holes : 0;
	for (uint32_t i = 0; i < o->extent_count; i++)
		if ((o->extents[i].flags & EXTENT_HOLE) == 0) {
			t->extents++;
			t->covered += o->extents[i].length;
			t->weight += extent_weight(&o->extents[i]);
			check_reference(w, t, o->id, &o->extents[i]);
		}
	t->extents += o->extents_outside;
}

static inline void check_file_row(struct world *w, struct tally *t, uint64_t dir, struct slice name,
				  struct slice value)
{
	uint8_t buf[ROW_KEY_MAX];
	struct object o;
	struct kv_value v;
	assert_int_equal(object_decode(value, &o), 0);
	t->files++;
	if (o.in_inode) { /* the id alone */
		assert_true(o.version == 0 && o.mode == 0 && o.extent_count == 0);
		assert_int_equal(kv_get(w->store.kv, row_inode(buf, o.id), &v), 0);
		kv_value_release(&v);
		t->names_of_inodes++;
	} else {
		check_object(w, t, &o);
	}
	if (o.has_links || o.in_inode) {
		assert_int_equal(kv_get(w->store.kv, row_link(buf, o.id, dir, name), &v), 0);
		kv_value_release(&v);
		t->links++;
	}
}

/* The inode of a file: as many names as it says, each of which names it. */
static inline void check_file_inode(struct world *w, struct tally *t, uint64_t id, const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX], entry[ROW_KEY_MAX];
	struct slice prefix = row_link_prefix(buf, id);
	struct kv_iter *it = kv_iter_new(w->store.kv, NULL);
	uint32_t names = 0;
	assert_true(o->in_inode && o->has_links && o->id == id);
	check_object(w, t, o);
	for (kv_iter_seek(it, prefix); kv_iter_valid(it); kv_iter_next(it), names++) {
		struct slice key = kv_iter_key(it);
		struct kv_value v;
		uint64_t named;
		if (key.len < 17 || memcmp(key.p, prefix.p, prefix.len) != 0)
			break;
		struct slice name = slice_of(key.p + 17, key.len - 17);
		assert_int_equal(kv_get(w->store.kv, row_entry(entry, be64_get(key.p + 9), name, false), &v), 0);
		assert_true(value_u64(v.v, TAG_ID, 0, &named) && named == id);
		kv_value_release(&v);
	}
	kv_iter_free(&it);
	assert_int_equal(names, o->nlink);
	t->inodes++;
}

/* 2 and the directories in it. */
static inline void check_dir_links(struct world *w, uint64_t id, uint32_t nlink)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice prefix = row_entry_prefix(buf, id);
	struct kv_iter *it = kv_iter_new(w->store.kv, NULL);
	uint32_t links = DIR_LINKS;
	for (kv_iter_seek(it, prefix); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (key.len < prefix.len || memcmp(key.p, prefix.p, prefix.len) != 0)
			break;
		links += key.len > prefix.len && key.p[key.len - 1] == '/';
	}
	kv_iter_free(&it);
	assert_int_equal(nlink, links);
}

/* Goal: no child without a parent, no loop, no empty implicit directory, counters equal to what they count. */
static inline struct tally check_rows(struct world *w)
{
	struct tally t = { 0 };
	uint64_t references = 0, upload_rows = 0, links = 0, inodes = 0;
	uint64_t roots = ns_bucket_list(w->ns, slice_str(""), (struct ns_bucket[64]){ 0 }, 64);
	struct kv_iter *it = kv_iter_new(w->store.kv, NULL);
	for (kv_iter_seek(it, slice_str("b")); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it), value = kv_iter_value(it), name;
		uint64_t dir, n;
		bool is_dir;
		if (row_entry_parse(key, &dir, &name, &is_dir)) {
			check_reaches_root(w, dir);
			if (is_dir)
				check_dir_row(w, dir, name, value), t.dirs++;
			else
				check_file_row(w, &t, dir, name, value);
		}
		if (key.p[0] == 'x') {
			struct extent e;
			assert_int_equal(extent_row_decode(value, &e), 0);
			t.covered += e.length;
			t.weight += extent_weight(&e);
			check_reference(w, &t, be64_get(key.p + 1), &e);
		}
		links += key.p[0] == 'o';
		references += key.p[0] == 'y';
		upload_rows += key.p[0] == 'u';
		inodes += key.p[0] == 'i';
		if (key.p[0] == 'i') {
			struct object o;
			assert_int_equal(object_decode(value, &o), 0);
			t.uploads += o.upload_key.len > 0;
			if (!o.is_dir)
				check_file_inode(w, &t, be64_get(key.p + 1), &o);
			else if (o.upload_key.len == 0)
				check_dir_links(w, be64_get(key.p + 1), o.nlink);
		}
		if (key.p[0] == 'q') {
			assert_true(value_u64(value, QTAG_BYTES, 0, &n));
			t.quota_bytes += n;
			assert_true(value_u64(value, QTAG_OBJECTS, 0, &n));
			t.quota_objects += n;
		} else if (key.p[0] == 'p') {
			assert_true(value_u64(value, PTAG_LIVE, 0, &n));
			t.live += n;
			assert_true(value_u64(value, PTAG_LIVE_RECORDS, 0, &n));
			t.live_records += n;
		}
	}
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
	assert_int_equal(t.quota_objects, t.files - t.names_of_inodes + t.inodes);
	assert_int_equal(t.quota_bytes, t.bytes);
	assert_int_equal(t.stored, t.covered);
	assert_int_equal(t.live, t.weight);
	assert_int_equal(t.live_records, t.extents);
	assert_int_equal(links, t.links);
	assert_int_equal(inodes, t.dirs + roots + t.inodes + t.uploads);
	assert_int_equal(references, t.references);
	assert_int_equal(upload_rows, t.uploads);
	return t;
}
