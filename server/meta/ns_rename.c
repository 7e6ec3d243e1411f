/* SPDX-License-Identifier: Apache-2.0 */
/* ns_rename.c -- moving an entry: one row for a file (and its `o` row), one row and the `i` row for a directory.
 * Invariants: (1) a directory's move states every ancestor of its target, so of two moves that would make a loop the
 * second is refused; (2) a file keeps its version: who else rewrites it under that version (compaction) is kept out by
 * plan_take_rewrite, and the row is read after that; (3) a directory's `i` row gets a new version with every rewrite.
 * */
#include "meta/ns_holder.h"

struct rename {
	struct ns_plan *plan;
	uint64_t seen;
	struct spot from, to;
	bool from_slash, to_slash; /* by key and with a slash at the end: directories only */
	bool no_replace;
};

static bool ends_with_slash(const struct ns_ref *ref)
{
	return ref->by == NS_BY_KEY && ref->name.len > 0 && ref->name.p[ref->name.len - 1] == '/';
}

static int row_exists(struct rename *r, struct slice key)
{
	struct kv_value value;
	int err = row_get(r->plan->ns, r->plan, key, &value);
	row_release(&value);
	return err == 0 ? 1 : err == -GRANARY_ENOTFOUND ? 0 : err;
}

/* Target directory and its row are ready to take the new name. */
static int rename_enter(struct rename *r)
{
	struct spot *to = &r->to;
	int err = plan_make_dirs(r->plan, r->seen, to);
	return err < 0 ? err : plan_dir_gains(r->plan, r->seen, &to->dir);
}

/* ---- files ---- */

/* What stands where the file goes: replaced, or a refusal. */
static int rename_file_target(struct rename *r, struct object *old, struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	old->version = 0;
	*value = (struct kv_value){ .pin = NULL };
	if (r->to_slash)
		return -GRANARY_ENOTDIR;
	if (r->to.missing.len > 0)
		return 0;
	int err = row_exists(r, row_entry(buf, r->to.dir.d.id, r->to.name, true));
	if (err != 0)
		return err < 0 ? err : r->no_replace ? -GRANARY_EEXIST : -GRANARY_EISDIR;
	err = entry_get(r->plan->ns, r->plan, r->to.dir.d.id, r->to.name, old, value);
	if (err == -GRANARY_ENOTFOUND) {
		old->version = 0;
		return 0;
	}
	if (err == 0 && r->no_replace) {
		row_release(value);
		return -GRANARY_EEXIST;
	}
	return err;
}

static int rename_file_rows(struct rename *r, const struct object *o, const struct object *old)
{
	uint8_t from_buf[ROW_KEY_MAX], to_buf[ROW_KEY_MAX], link_buf[ROW_KEY_MAX];
	struct ns_plan *plan = r->plan;
	struct slice value, from_key = row_entry(from_buf, r->from.dir.d.id, r->from.name, false);
	int err = rename_enter(r);
	if (err < 0)
		return err;
	uint64_t to_dir = r->to.dir.d.id;
	struct slice to_key = row_entry(to_buf, to_dir, r->to.name, false);
	if (o->in_inode) /* the name alone moves */
		plan_state_id(plan, r->seen, from_key, o->id);
	else
		plan_state_version(plan, r->seen, from_key, o->version);
	plan_state_absent(plan, r->seen, row_entry(link_buf, to_dir, r->to.name, true));
	if (old->version == 0) {
		plan_state_absent(plan, r->seen, to_key);
	} else {
		plan_state_entry(plan, r->seen, to_dir, r->to.name, old);
		err = plan_release_object(plan, r->seen, r->to.dir.d.bucket, to_dir, r->to.name, old);
		if (err < 0)
			return err;
	}
	struct object moved = *o;
	moved.has_links = !o->in_inode;
	if (o->in_inode)
		kv_max(plan->txn, row_inode(link_buf, o->id), TAG_CTIME, plan->now_ns);
	else
		moved.ctime_ns = plan->now_ns;
	err = plan_encode(plan, &moved, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, to_key, value);
	plan_delete_row(plan, from_key);
	if (o->has_links || o->in_inode)
		plan_delete_row(plan, row_link(link_buf, o->id, r->from.dir.d.id, r->from.name));
	plan_put_row(plan, row_link(link_buf, o->id, to_dir, r->to.name), slice_of(NULL, 0));
	kv_txn_touch(plan->txn, r->from.dir.d.id, r->from.name, o->id);
	kv_txn_touch(plan->txn, to_dir, r->to.name, o->id);
	return plan_dir_loses(plan, r->seen, &r->from.dir);
}

static int rename_file(struct rename *r, uint64_t id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct object o, old;
	struct kv_value value, old_value;
	int err = plan_take_rewrite(r->plan, id); /* invariant (2) */
	if (err < 0)
		return err;
	err = row_get_object(r->plan->ns, r->plan, row_entry(buf, r->from.dir.d.id, r->from.name, false), &o, &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
	err = o.id == id ? rename_file_target(r, &old, &old_value) : -GRANARY_EBUSY;
	if (err == 0) {
		bool is_same = old.version != 0 && old.id == id; /* two names of one file: nothing to do */
		err = is_same ? 0 : rename_file_rows(r, &o, &old);
		row_release(&old_value);
	}
	row_release(&value);
	return err;
}

/* ---- directories ---- */

int plan_state_ancestors(struct ns_plan *plan, uint64_t seen, uint64_t id, uint64_t moved)
{
	uint8_t buf[ROW_KEY_MAX];
	for (;;) {
		struct object o;
		struct kv_value value;
		if (id == moved)
			return -GRANARY_ELOOP;
		int err = row_get_object(plan->ns, plan, row_inode(buf, id), &o, &value);
		if (err < 0)
			return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
		struct ns_dir dir = { .d = { .id = id, .bucket = o.bucket, .parent = o.parent }, .name = o.name };
		err = plan_state_dir(plan, seen, &dir);
		id = o.parent;
		row_release(&value);
		if (err < 0 || id == 0)
			return err;
	}
}

/* What stands where the directory goes: a bare directory is removed. */
static int rename_dir_target(struct rename *r)
{
	uint8_t buf[ROW_KEY_MAX];
	struct ns_plan *plan = r->plan;
	struct kv_value value;
	uint64_t id;
	bool has_marker;
	if (r->to.missing.len > 0)
		return 0;
	int err = r->to.name.len == 0 ? 0 : row_exists(r, row_entry(buf, r->to.dir.d.id, r->to.name, false));
	if (err != 0)
		return err < 0 ? err : r->no_replace ? -GRANARY_EEXIST : -GRANARY_ENOTDIR;
	err = row_get(plan->ns, plan, row_entry(buf, r->to.dir.d.id, r->to.name, true), &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? 0 : err;
	bool is_sound = value_u64(value.v, TAG_ID, 0, &id);
	row_release(&value);
	if (!is_sound || r->no_replace)
		return is_sound ? -GRANARY_EEXIST : -GRANARY_ECORRUPT;
	err = plan_dir_is_bare(plan, id, &has_marker);
	if (err <= 0)
		return err < 0 ? err : -GRANARY_ENOTEMPTY;
	struct ns_dir replaced = { .name = r->to.name };
	replaced.d = (struct loc_dir){ .id = id, .bucket = r->to.dir.d.bucket, .parent = r->to.dir.d.id };
	return plan_remove_dir(plan, r->seen, &replaced);
}

int plan_move_dir(struct ns_plan *plan, uint64_t seen, uint64_t id, uint64_t parent, struct slice name)
{
	uint8_t buf[ROW_KEY_MAX];
	struct object o;
	struct kv_value value;
	struct slice encoded, key = row_inode(buf, id);
	int err = row_get_object(plan->ns, plan, key, &o, &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
	plan_state_version(plan, seen, key, o.version);
	o.version = ids_version(plan->ns->ids); /* invariant (3) */
	plan_dir_links(plan, o.parent, -1);
	plan_dir_links(plan, parent, 1);
	o.parent = parent;
	o.name = name;
	o.ctime_ns = plan->now_ns;
	err = plan_encode(plan, &o, &encoded);
	if (err == 0)
		plan_put_dir(plan, key, encoded, false);
	row_release(&value);
	if (err < 0)
		return err;
	plan->has_moved_dirs = plan->bumps_paths = true;
	struct plan_dir *pd = plan_dir_find(plan, id);
	if (pd != NULL) {
		pd->d.parent = parent;
		pd->name = plan_copy(plan, name);
	}
	return plan->error;
}

static int rename_dir(struct rename *r, uint64_t id, struct slice row_value)
{
	uint8_t buf[ROW_KEY_MAX];
	struct ns_plan *plan = r->plan;
	int err = plan_state_ancestors(plan, r->seen, r->to.dir.d.id, id);
	if (err == 0)
		err = rename_dir_target(r);
	if (err == 0)
		err = rename_enter(r);
	if (err == 0)
		err = plan_move_dir(plan, r->seen, id, r->to.dir.d.id, r->to.name);
	if (err < 0)
		return err;

	struct slice key = row_entry(buf, r->from.dir.d.id, r->from.name, true);
	plan_state_id(plan, r->seen, key, id);
	plan_delete_row(plan, key);
	if (r->to.name.len > 0)
		plan_state_absent(plan, r->seen, row_entry(buf, r->to.dir.d.id, r->to.name, false));
	key = row_entry(buf, r->to.dir.d.id, r->to.name, true);
	plan_state_absent(plan, r->seen, key);
	plan_put_row(plan, key, row_value);
	return plan_dir_loses(plan, r->seen, &r->from.dir);
}

/* ---- both ---- */

static int rename_places(struct rename *r, const struct ns_ref *from, const struct ns_ref *to)
{
	struct ns *ns = r->plan->ns;
	if (to->by == NS_BY_ID)
		return -GRANARY_EINVAL;
	int err = spot_find(ns, r->plan, from, true, &r->from);
	if (err < 0)
		return err == -GRANARY_EISDIR ? -GRANARY_EINVAL : err; /* a root */
	if (r->from.missing.len > 0)
		return -GRANARY_ENOTFOUND;
	err = spot_make(ns, r->plan, to, true, &r->to);
	if (err < 0)
		return err;
	r->from_slash = ends_with_slash(from) || r->from.name.len == 0 || r->from.is_dir;
	r->to_slash = ends_with_slash(to);
	if (r->from.dir.d.bucket != r->to.dir.d.bucket || (r->to.name.len == 0 && !r->to_slash))
		return -GRANARY_EINVAL;
	return 0;
}

int ns_plan_rename(struct ns_plan *plan, const struct ns_ref *from, const struct ns_ref *to, bool no_replace)
{
	uint8_t buf[ROW_KEY_MAX];
	struct rename r = { .plan = plan, .no_replace = no_replace };
	struct kv_value value;
	uint64_t id;
	r.seen = kv_seq(plan->ns->kv);
	int err = rename_places(&r, from, to);
	if (err < 0)
		return err;
	bool is_dir = r.from_slash;
	err = -GRANARY_ENOTFOUND;
	if (!is_dir)
		err = row_get(plan->ns, plan, row_entry(buf, r.from.dir.d.id, r.from.name, false), &value);
	if (err == -GRANARY_ENOTFOUND) {
		is_dir = true;
		err = row_get(plan->ns, plan, row_entry(buf, r.from.dir.d.id, r.from.name, true), &value);
	}
	if (err < 0)
		return err;
	bool is_same = r.to.missing.len == 0 && r.from.dir.d.id == r.to.dir.d.id && slice_eq(r.from.name, r.to.name);
	if (!value_u64(value.v, TAG_ID, 0, &id))
		err = -GRANARY_ECORRUPT;
	else if (is_same)
		err = no_replace ? -GRANARY_EEXIST : !is_dir && r.to_slash ? -GRANARY_ENOTDIR : 0;
	else
		err = is_dir ? rename_dir(&r, id, value.v) : rename_file(&r, id);
	row_release(&value);
	return err < 0 ? err : plan->error;
}
