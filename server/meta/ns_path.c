/* SPDX-License-Identifier: Apache-2.0 */
/* ns_path.c -- from keys, names and ids to directories: down along `d` rows, up along `i` rows, and the tables first.
 * Invariants: (1) what goes into the tables was read from synced rows under one path stamp; (2) a plan that moved or
 * removed directories asks no table: they know nothing of its own changes; (3) a walk of several rows is no snapshot:
 * who needs one answer for a whole path compares the path stamp before and after. */
#include <assert.h>

#include "common/tlv.h"
#include "meta/ns_priv.h"

enum { DEPTH_MAX = 1 << 20 }; /* of a climb: more directories above each other can only be damage */

static bool may_use_tables(const struct ns_plan *plan)
{
	return plan == NULL || !plan->has_moved_dirs; /* invariant (2) */
}

static bool is_of_engine(const struct ns_plan *plan, struct slice key)
{
	const struct plan_row *row = plan == NULL ? NULL : plan_row_find(plan, key);
	return row == NULL || row->change == ROW_SAME;
}

/* ---- down ---- */

/* "a/b/c/" -> "a/b/"; "a/" -> "". */
static struct slice path_up(struct slice path)
{
	size_t n = path.len;
	do
		n--;
	while (n > 0 && path.p[n - 1] != '/');
	return slice_of(path.p, n);
}

static struct slice path_last(struct slice path)
{
	if (path.len == 0)
		return path;
	size_t from = path_up(path).len;
	return slice_of(path.p + from, path.len - 1 - from);
}

/* The deepest directory of the path that the tables know; at least the root. 1 when a table knew it. */
static int path_walk_cached(struct ns *ns, bool may_use, uint64_t bucket, struct slice path, struct ns_dir *at,
			    size_t *known_len)
{
	struct ns_bucket b;
	*known_len = 0;
	for (struct slice known = path; may_use && known.len > 0; known = path_up(known)) {
		if (!loc_path_find_dir(ns->loc, bucket, known, &at->d))
			continue;
		at->name = path_last(known);
		*known_len = known.len;
		return 1;
	}
	at->name = slice_of(NULL, 0);
	if (may_use && loc_path_find_dir(ns->loc, bucket, slice_of(path.p, 0), &at->d))
		return 1;
	int err = ns_bucket_by_id(ns, bucket, &b);
	if (err < 0)
		return err;
	at->d = (struct loc_dir){ .id = b.root, .bucket = bucket, .parent = 0, .group = bucket };
	return 0;
}

static int dir_value_decode(struct slice value, uint64_t *id, bool *is_dataset)
{
	uint64_t dataset;
	if (!value_u64(value, TAG_ID, 0, id) || *id == 0 || !value_u64(value, TAG_DATASET, 0, &dataset))
		return -GRANARY_ECORRUPT;
	*is_dataset = dataset != 0;
	return 0;
}

int path_walk(struct ns *ns, struct ns_plan *plan, uint64_t bucket, struct slice dir_part, struct ns_dir *at,
	      struct slice *missing)
{
	bool may_use = may_use_tables(plan), may_fill = may_use;
	uint64_t stamp = loc_path_stamp(ns->loc), met = kv_pending_met();
	size_t known_len;
	int err = path_walk_cached(ns, may_use, bucket, dir_part, at, &known_len);
	if (err < 0)
		return err;
	if (may_fill && err == 0)
		loc_path_fill(ns->loc, stamp, slice_of(dir_part.p, 0), &at->d);

	struct slice rest = slice_of(dir_part.p + known_len, dir_part.len - known_len), name;
	*missing = rest;
	while (path_next(&rest, &name)) {
		uint8_t buf[ROW_KEY_MAX];
		struct kv_value value;
		uint64_t id;
		bool is_dataset;
		struct slice key = row_entry(buf, at->d.id, name, true);
		err = row_get(ns, plan, key, &value);
		if (err == -GRANARY_ENOTFOUND)
			return 0;
		if (err < 0)
			return err;
		err = dir_value_decode(value.v, &id, &is_dataset);
		row_release(&value);
		if (err < 0)
			return err;
		at->d = (struct loc_dir){ .id = id, .bucket = bucket, .parent = at->d.id,
					  .group = is_dataset ? id : at->d.group };
		at->name = name;
		*missing = rest;
		may_fill = may_fill && is_of_engine(plan, key) && kv_pending_met() == met; /* what is durable */
		if (may_fill)
			loc_path_fill(ns->loc, stamp, slice_of(dir_part.p, dir_part.len - rest.len), &at->d);
	}
	return 0;
}

/* ---- up ---- */

struct climb {
	uint8_t path[KEY_LEN_MAX]; /* filled from the end */
	size_t from;
	bool is_long;     /* longer than a key may be */
	bool is_of_engine;
};

static void climb_prepend(struct climb *c, struct slice name)
{
	if (c->is_long || name.len + 1 > c->from) {
		c->is_long = true;
		return;
	}
	c->path[--c->from] = '/';
	c->from -= name.len;
	if (name.len > 0)
		memcpy(c->path + c->from, name.p, name.len);
}

/* One directory on the way up: *id becomes its parent. */
static int climb_step(struct ns *ns, struct ns_plan *plan, uint64_t *id, struct climb *c, struct ns_dir *out)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	struct object o;
	struct slice key = row_inode(buf, *id);
	int err = row_get_object(ns, plan, key, &o, &value);
	if (err < 0)
		return err;
	if (!o.is_dir || o.bucket == 0 || o.parent == *id) {
		row_release(&value);
		return -GRANARY_ENOTFOUND; /* a file's inode */
	}
	c->is_of_engine = c->is_of_engine && is_of_engine(plan, key);
	if (out->d.id == 0) { /* the one that was asked for */
		out->d = (struct loc_dir){ .id = *id, .bucket = o.bucket, .parent = o.parent };
		if (o.name.len > 0)
			memcpy(out->buf, o.name.p, o.name.len);
		out->name = slice_of(out->buf, o.name.len);
	}
	if (out->d.group == 0 && o.is_dataset)
		out->d.group = *id;
	if (o.parent != 0)
		climb_prepend(c, o.name);
	if (o.upload_key.len > 0) { /* parts are judged by the key of the object to be; no table may lead here */
		climb_prepend(c, o.upload_key);
		c->is_of_engine = false;
	}
	*id = o.parent;
	row_release(&value);
	return 0;
}

static int climb_once(struct ns *ns, struct ns_plan *plan, uint64_t id, struct climb *c, struct ns_dir *out)
{
	c->from = sizeof(c->path);
	c->is_long = false;
	c->is_of_engine = true;
	out->d = (struct loc_dir){ 0 };
	for (uint32_t depth = 0; id != 0; depth++) {
		int err = depth == DEPTH_MAX ? -GRANARY_ECORRUPT : climb_step(ns, plan, &id, c, out);
		if (err < 0)
			return err;
	}
	if (out->d.id == 0)
		return -GRANARY_ENOTFOUND;
	if (out->d.group == 0)
		out->d.group = out->d.bucket;
	return 0;
}

/* To the root, with nothing renamed meanwhile. */
static int climb(struct ns *ns, struct ns_plan *plan, uint64_t id, struct climb *c, struct ns_dir *out)
{
	for (int tries = 0;; tries++) {
		uint64_t stamp = loc_path_stamp(ns->loc), met = kv_pending_met();
		int err = climb_once(ns, plan, id, c, out);
		c->is_of_engine = c->is_of_engine && kv_pending_met() == met;
		if (loc_path_stamp(ns->loc) != stamp && tries < WALK_TRIES)
			continue;
		if (err == 0 && !c->is_long && c->is_of_engine && may_use_tables(plan))
			loc_path_fill(ns->loc, stamp, slice_of(c->path + c->from, sizeof(c->path) - c->from), &out->d);
		return err;
	}
}

int dir_by_id(struct ns *ns, struct ns_plan *plan, uint64_t id, struct ns_dir *out)
{
	char path[KEY_LEN_MAX + 1];
	size_t len;
	if (may_use_tables(plan) && loc_dir_find_dir(ns->loc, id, &out->d, path, sizeof(path), &len)) {
		struct slice name = path_last(slice_of(path, len));
		if (name.len > 0)
			memcpy(out->buf, name.p, name.len);
		out->name = slice_of(out->buf, name.len);
		return 0;
	}
	struct climb c;
	return climb(ns, plan, id, &c, out);
}

int dir_row(struct ns *ns, const struct ns_dir *dir, uint8_t *buf, struct slice *key, uint64_t *names_id)
{
	if (!dir_is_root(dir)) {
		*key = row_entry(buf, dir->d.parent, dir->name, true);
		*names_id = dir->d.id;
		return 0;
	}
	struct ns_bucket b;
	int err = ns_bucket_by_id(ns, dir->d.bucket, &b);
	if (err < 0)
		return err;
	if (b.root != dir->d.id) { /* an upload: its inode says that it goes on */
		*key = row_inode(buf, dir->d.id);
		*names_id = dir->d.id;
		return 0;
	}
	*key = row_bucket(buf, slice_of(b.name, b.name_len));
	*names_id = b.id;
	return 0;
}

/* ---- places ---- */

void key_strip_slash(struct slice *key)
{
	if (key->len > 0 && key->p[key->len - 1] == '/')
		key->len--;
}

struct link_search {
	struct ns *ns;
	struct ns_plan *plan;
	uint64_t id;
	struct spot *out;
	bool has_rows;
};

/* The row (dir, name) is a file with this id: 1 and *out. */
static int spot_try(struct ns *ns, struct ns_plan *plan, uint64_t id, uint64_t dir, struct slice name,
		    struct spot *out)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	uint64_t row_id;
	if (name.len > KEY_LEN_MAX)
		return 0;
	int err = row_get(ns, plan, row_entry(buf, dir, name, false), &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? 0 : err;
	bool is_sound = value_u64(value.v, TAG_ID, 0, &row_id);
	row_release(&value);
	if (!is_sound)
		return -GRANARY_ECORRUPT;
	if (row_id != id)
		return 0;
	err = dir_by_id(ns, plan, dir, &out->dir);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? 0 : err;
	if (name.len > 0)
		memmove(out->buf, name.p, name.len);
	out->name = slice_of(out->buf, name.len);
	return 1;
}

static int spot_try_link(void *arg, struct slice key, struct slice value)
{
	struct link_search *s = arg;
	(void)value;
	if (key.len < 17)
		return -GRANARY_ECORRUPT;
	s->has_rows = true;
	return spot_try(s->ns, s->plan, s->id, be64_get(key.p + 9), slice_of(key.p + 17, key.len - 17), s->out);
}

int spot_of_id(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, struct spot *out)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	struct object o;
	out->missing = slice_of(NULL, 0);
	out->new_dir = out->orphan = 0;
	out->is_dir = false;
	int found = ref->dir == 0 ? 0 : spot_try(ns, plan, ref->id, ref->dir, ref->name, out);
	if (found != 0)
		return found < 0 ? found : 0;

	int err = row_get_object(ns, plan, row_inode(buf, ref->id), &o, &value);
	if (err == 0) {
		uint64_t parent = o.parent;
		out->is_dir = o.is_dir;
		if (o.is_dir && o.name.len > 0)
			memcpy(out->buf, o.name.p, o.name.len);
		out->name = slice_of(out->buf, o.is_dir ? o.name.len : 0);
		if (!o.is_dir && o.nlink == 0) {
			out->orphan = ref->id;
			out->dir.d = (struct loc_dir){ .bucket = o.bucket, .group = o.bucket };
		}
		row_release(&value);
		if (out->orphan != 0)
			return 0;
		if (out->is_dir)
			return parent == 0 ? -GRANARY_EISDIR : dir_by_id(ns, plan, parent, &out->dir);
	} else if (err != -GRANARY_ENOTFOUND) {
		return err;
	}
	struct link_search search = { ns, plan, ref->id, out, false };
	struct slice prefix = row_link_prefix(buf, ref->id);
	found = plan == NULL ? rows_scan(ns, prefix, spot_try_link, &search) : plan_scan(plan, prefix, spot_try_link,
		&search);
	if (found < 0)
		return found;
	if (found == 0 && search.has_rows)
		return -GRANARY_EBUSY; /* renamed between its `o` row and the name: it is not gone */
	return found == 1 ? 0 : -GRANARY_ESTALE;
}

int spot_find(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, bool strip, struct spot *out)
{
	int err = spot_find_any(ns, plan, ref, strip, out);
	return err == 0 && out->orphan != 0 ? -GRANARY_ESTALE : err;
}

int spot_find_any(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, bool strip, struct spot *out)
{
	struct slice key = ref->name, dir_part;
	int err;
	out->missing = slice_of(NULL, 0);
	out->new_dir = out->orphan = 0;
	out->is_dir = false;
	switch (ref->by) {
	case NS_BY_KEY:
		err = key_check(key);
		if (err < 0)
			return err;
		if (strip)
			key_strip_slash(&key);
		key_split(key, &dir_part, &out->name);
		return path_walk(ns, plan, ref->bucket, dir_part, &out->dir, &out->missing);
	case NS_BY_NAME:
		err = component_check(ref->name);
		out->name = ref->name;
		return err < 0 ? err : dir_by_id(ns, plan, ref->dir, &out->dir);
	case NS_BY_ID:
		return spot_of_id(ns, plan, ref, out);
	}
	return -GRANARY_EINVAL;
}

int spot_name_missing(struct ns *ns, struct spot *s, uint64_t erased_before)
{
	struct slice rest = s->missing, name;
	uint64_t parent = s->dir.d.id;
	while (path_next(&rest, &name)) {
		parent = making_id(ns->making, ns->ids, parent, name, erased_before);
		if (parent == 0)
			return -GRANARY_EAGAIN;
	}
	s->new_dir = parent;
	return 0;
}

int spot_make(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, bool strip, struct spot *out)
{
	for (int tries = 0; tries < WALK_TRIES; tries++) {
		uint64_t erased = making_erased(ns->making);
		int err = spot_find(ns, plan, ref, strip, out);
		if (err < 0)
			return err;
		err = spot_name_missing(ns, out, erased);
		if (err != -GRANARY_EAGAIN)
			return err;
	}
	return -GRANARY_EBUSY;
}

/* ---- public ---- */

int ns_parent_cached(struct ns *ns, const struct ns_ref *ref, uint64_t *dir, uint64_t *group)
{
	struct loc_dir d;
	struct slice dir_part, name;
	bool found = false;
	if (ref->by == NS_BY_KEY) {
		key_split(ref->name, &dir_part, &name);
		found = loc_path_find_dir(ns->loc, ref->bucket, dir_part, &d);
	} else if (ref->by == NS_BY_NAME) {
		found = loc_dir_find_dir(ns->loc, ref->dir, &d, NULL, 0, NULL);
	}
	if (!found)
		return -GRANARY_EAGAIN;
	*dir = d.id;
	*group = d.group;
	return 0;
}

int ns_parent(struct ns *ns, const struct ns_ref *ref, uint64_t *dir, uint64_t *group)
{
	struct spot s;
	int err = spot_make(ns, NULL, ref, false, &s);
	if (err < 0)
		return err;
	*dir = spot_dir(&s);
	*group = s.dir.d.group;
	return 0;
}

int ns_dir_path_cached(struct ns *ns, uint64_t dir, uint64_t *bucket, char *path, size_t cap, size_t *len)
{
	return loc_dir_find(ns->loc, dir, bucket, path, cap, len) ? 0 : -GRANARY_EAGAIN;
}

int ns_dir_path(struct ns *ns, uint64_t dir, uint64_t *bucket, char *path, size_t cap, size_t *len)
{
	struct climb c;
	struct ns_dir d;
	if (loc_dir_find(ns->loc, dir, bucket, path, cap, len))
		return 0;
	int err = climb(ns, NULL, dir, &c, &d);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_ESTALE : err;
	*len = sizeof(c.path) - c.from;
	*bucket = d.d.bucket;
	if (c.is_long || *len + 1 > cap)
		return -GRANARY_ETOOBIG;
	memcpy(path, c.path + c.from, *len);
	path[*len] = '\0';
	return 0;
}
