/* SPDX-License-Identifier: Apache-2.0 */
/* ns_put.c -- planning a put: where it goes, what it replaces, what it may rest on; and mkdir. */
#include <sys/stat.h>

#include "meta/ns_holder.h"

/* The row that the put replaces; o->version == 0: there is none. In a directory that this plan makes, or another one
 * that is at the committer already, nothing stands but what this plan put there. */
static int put_find_old(struct ns_plan *plan, const struct spot *s, struct object *o, struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	const struct plan_dir *pd = plan_dir_find(plan, spot_dir(s));
	struct slice key = row_entry(buf, spot_dir(s), s->name, false);
	*value = (struct kv_value){ .pin = NULL };
	o->version = 0;
	if ((s->missing.len > 0 || (pd != NULL && pd->is_made)) && plan_row_find(plan, key) == NULL)
		return 0;
	int err = entry_get(plan->ns, plan, spot_dir(s), s->name, o, value);
	if (err == -GRANARY_ENOTFOUND)
		o->version = 0;
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

static int put_check(struct ns_plan *plan, const struct ns_put *put, const struct spot *s, const struct object *old)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	if (put->parent != 0 && put->parent != spot_dir(s))
		return -GRANARY_ECHANGED;
	if (put->ref.by == NS_BY_NAME && put->condition != NS_IF_NEWER && s->missing.len == 0 && s->name.len > 0) {
		int err = row_get(plan->ns, plan, row_entry(buf, s->dir.d.id, s->name, true), &value);
		row_release(&value);
		if (err != -GRANARY_ENOTFOUND)
			return err == 0 ? -GRANARY_EISDIR : err;
	}
	if (ids_used() != NULL && ids_used()->is_replay && old->version > put->version)
		return -GRANARY_EPRECONDITION; /* written by somebody else since */
	if (put->condition == NS_IF_ABSENT && old->version != 0)
		return -GRANARY_EPRECONDITION;
	if (put->condition == NS_IF_NEWER && old->version > put->version)
		return -GRANARY_EPRECONDITION;
	if (put->condition == NS_IF_VERSION && (old->version == 0 || old->version != put->if_version))
		return -GRANARY_EPRECONDITION;
	return 0;
}

static int put_extents_outside(struct ns_plan *plan, const struct ns_put *put)
{
	uint8_t buf[ROW_KEY_MAX];
	for (uint32_t i = ROW_EXTENTS_INLINE_MAX; i < put->extent_count; i++) {
		int64_t len = extent_row_encode(&put->extents[i], plan_buf(), PLAN_BUF_SIZE);
		if (len < 0)
			return (int)len;
		plan_put_row(plan, row_extent(buf, put->id, 0, put->extents[i].logical),
			     slice_of(plan_buf(), (size_t)len));
	}
	return plan->error;
}

/* Of an object that a rebuild brings back; any other has none. */
static uint64_t put_holes(const struct ns_put *put)
{
	uint64_t covered = 0;
	for (uint32_t i = 0; i < put->extent_count; i++)
		if ((put->extents[i].flags & EXTENT_HOLE) == 0)
			covered += put->extents[i].length;
	return covered < put->size ? put->size - covered : 0;
}

static int put_row(struct ns_plan *plan, const struct ns_put *put, const struct spot *s)
{
	uint8_t key_buf[ROW_KEY_MAX], link_buf[ROW_KEY_MAX];
	struct slice key = row_entry(key_buf, s->dir.d.id, s->name, false);
	struct ns *ns = plan->ns;
	uint32_t inline_count = put->extent_count < ROW_EXTENTS_INLINE_MAX
		? put->extent_count : ROW_EXTENTS_INLINE_MAX;
	struct object o = {
		.id = put->id, .version = put->version, .size = put->size, .mtime_ns = put->mtime_ns,
		.ctime_ns = plan->now_ns, .written_ns = ns->clock == NULL ? 0 : store_clock_now(ns->clock),
		.mode = put->mode, .uid = put->uid, .gid = put->gid, .has_hash = put->has_hash, .hash = put->hash,
		.meta = put->meta, .nlink = 1, .has_links = put->is_linked, .extent_count = inline_count,
		.extents_outside = put->extent_count - inline_count,
	};
	for (uint32_t i = 0; i < inline_count; i++)
		o.extents[i] = put->extents[i];
	o.holes = put_holes(put);
	struct slice value;
	int err = plan_encode(plan, &o, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, key, value);
	if (put->is_linked)
		plan_put_row(plan, row_link(link_buf, put->id, s->dir.d.id, s->name), slice_of(NULL, 0));
	for (uint32_t i = 0; i < put->extent_count; i++)
		if ((put->extents[i].flags & EXTENT_HOLE) == 0)
			plan_account_pack(plan, &put->extents[i], 1);
	return put_extents_outside(plan, put);
}

/* From here on rows change: whatever can be refused was. */
static int put_apply(struct ns_plan *plan, uint64_t seen, const struct ns_put *put, struct spot *s,
		     const struct object *old)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice key;
	int err = old->version == 0 || s->missing.len > 0 ? plan_make_dirs(plan, seen, s) : 0;
	if (err < 0)
		return err;
	key = row_entry(buf, s->dir.d.id, s->name, false);
	if (old->version == 0) {
		err = plan_dir_gains(plan, seen, &s->dir);
		plan_state_absent(plan, seen, key);
	} else { /* a directory with a child is there: nothing to state about it */
		plan_state_entry(plan, seen, s->dir.d.id, s->name, old);
		err = plan_release_object(plan, seen, s->dir.d.bucket, s->dir.d.id, s->name, old);
	}
	if (err == 0)
		err = put_row(plan, put, s);
	plan_account_bucket(plan, s->dir.d.bucket, (int64_t)put->size, 1);
	return err < 0 ? err : plan->error;
}

int ns_plan_put(struct ns_plan *plan, struct ns_put *put)
{
	struct spot s;
	struct object old;
	struct kv_value value;
	uint64_t seen = kv_seq(plan->ns->kv);
	put->replaced_version = 0;
	if (put->ref.by == NS_BY_ID || S_ISDIR(put->mode))
		return -GRANARY_EINVAL;
	int err = spot_make(plan->ns, plan, &put->ref, false, &s);
	if (err < 0)
		return err;
	if (s.name.len == 0 && s.missing.len == 0 && dir_is_root(&s.dir))
		return -GRANARY_ENAME; /* its key would have no byte */
	err = put_find_old(plan, &s, &old, &value);
	if (err < 0)
		return err;
	err = put_check(plan, put, &s, &old);
	if (err == 0)
		err = put_apply(plan, seen, put, &s, &old);
	if (err == 0)
		put->replaced_version = old.version;
	row_release(&value);
	return err;
}

/* ---- mkdir ---- */

/* mkdir over a directory that is there: an implicit one becomes explicit, a plain one a dataset; else EXIST. */
static int mkdir_over(struct ns_plan *plan, uint64_t seen, const struct spot *s, uint64_t dir, struct slice dir_value,
		      uint32_t mode, bool dataset)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	struct object o;
	struct slice encoded;
	bool has_marker, was_dataset;
	int err = row_get(plan->ns, plan, row_entry(buf, dir, slice_of(NULL, 0), false), &value);
	row_release(&value);
	if (err < 0 && err != -GRANARY_ENOTFOUND)
		return err;
	has_marker = err == 0;

	err = object_decode(dir_value, &o);
	if (err < 0)
		return err;
	was_dataset = o.is_dataset;
	if (has_marker && (!dataset || was_dataset))
		return -GRANARY_EEXIST;
	struct slice key = row_entry(buf, s->dir.d.id, s->name, true);
	plan_state_id(plan, seen, key, dir);
	if (dataset && !was_dataset) {
		o.is_dataset = true;
		err = plan_encode(plan, &o, &encoded);
		if (err < 0)
			return err;
		plan_put_row(plan, key, encoded);
		plan->has_moved_dirs = plan->bumps_paths = true; /* its group is another now */
	}
	if (!has_marker)
		err = plan_put_marker(plan, seen, s->dir.d.bucket, dir, mode);
	if (err < 0)
		return err;

	err = row_get_object(plan->ns, plan, row_inode(buf, dir), &o, &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
	key = row_inode(buf, dir);
	plan_state_version(plan, seen, key, o.version); /* directories' inodes are rewritten by renames too */
	o.version = ids_version(plan->ns->ids);
	o.is_dataset = o.is_dataset || dataset;
	o.ctime_ns = plan->now_ns;
	if (!has_marker)
		o.mode = S_IFDIR | (mode & 07777);
	err = plan_encode(plan, &o, &encoded);
	if (err == 0)
		plan_put_dir(plan, key, encoded, false);
	row_release(&value);
	return err < 0 ? err : plan->error;
}

static int mkdir_new(struct ns_plan *plan, uint64_t seen, struct spot *s, uint32_t mode, bool dataset, uint64_t *id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct ns *ns = plan->ns;
	int err = plan_make_dirs(plan, seen, s);
	if (err == 0)
		err = plan_dir_gains(plan, seen, &s->dir);
	if (err < 0)
		return err;
	*id = making_id(ns->making, ns->ids, s->dir.d.id, s->name, making_erased(ns->making));
	if (*id == 0)
		return -GRANARY_EBUSY;
	plan_state_absent(plan, seen, row_entry(buf, s->dir.d.id, s->name, true));
	if (s->name.len > 0)
		plan_state_absent(plan, seen,
				  row_entry(buf, s->dir.d.id, s->name, false)); /* nor a file of that name */
	err = plan_state_unmade(plan, seen, *id);
	if (err < 0)
		return err;
	struct dir_attributes a = { .mode = S_IFDIR | (mode & 07777), .is_dataset = dataset };
	err = plan_new_dir(plan, s->dir.d.bucket, s->dir.d.id, s->name, *id, &a);
	return err < 0 ? err : plan_put_marker(plan, seen, s->dir.d.bucket, *id, mode);
}

int ns_plan_mkdir(struct ns_plan *plan, const struct ns_ref *ref, uint32_t mode, bool parents, bool dataset,
		  uint64_t *id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct spot s;
	struct kv_value value;
	uint64_t seen = kv_seq(plan->ns->kv), dir;
	*id = 0;
	if (ref->by == NS_BY_ID)
		return -GRANARY_EINVAL;
	int err = spot_make(plan->ns, plan, ref, true, &s);
	if (err < 0)
		return err;
	if (s.missing.len > 0)
		return parents ? mkdir_new(plan, seen, &s, mode, dataset, id) : -GRANARY_ENOTFOUND;

	if (s.name.len > 0) { /* the file row of the empty name is the parent's own entry */
		err = row_get(plan->ns, plan, row_entry(buf, s.dir.d.id, s.name, false), &value);
		row_release(&value);
		if (err != -GRANARY_ENOTFOUND)
			return err == 0 ? -GRANARY_EEXIST : err;
	}
	err = row_get(plan->ns, plan, row_entry(buf, s.dir.d.id, s.name, true), &value);
	if (err == -GRANARY_ENOTFOUND)
		return mkdir_new(plan, seen, &s, mode, dataset, id);
	if (err < 0)
		return err;
	if (!value_u64(value.v, TAG_ID, 0, &dir))
		err = -GRANARY_ECORRUPT;
	else
		err = mkdir_over(plan, seen, &s, dir, value.v, mode, dataset);
	if (err == 0 || err == -GRANARY_EEXIST)
		*id = dir;
	row_release(&value);
	return err;
}
