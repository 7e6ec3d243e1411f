/* SPDX-License-Identifier: Apache-2.0 */
/* ns_delete.c -- removing objects and directories: what hangs on an object's row goes in the same transaction. */
#include <assert.h>

#include "meta/ns_holder.h"

struct release {
	struct ns_plan *plan;
	uint64_t seen, refers; /* id of the object, when it has `y` rows */
};

static void release_extent(struct release *r, const struct extent *e)
{
	uint8_t buf[ROW_KEY_MAX];
	if ((e->flags & EXTENT_HOLE) != 0)
		return;
	plan_account_pack(r->plan, e, -1);
	if (r->refers != 0) /* also where it is its own record: then there is no such row */
		plan_delete_row(r->plan, row_reference(buf, e->pack, e->record, r->refers, e->logical));
}

static int release_extent_row(void *arg, struct slice key, struct slice value)
{
	struct release *r = arg;
	struct extent e;
	int err = extent_row_decode(value, &e);
	if (err < 0)
		return err;
	release_extent(r, &e);
	plan_state_unmoved(r->plan, r->seen, key);
	plan_delete_row(r->plan, key);
	return r->plan->error;
}

static int delete_found_row(void *arg, struct slice key, struct slice value)
{
	struct ns_plan *plan = arg;
	(void)value;
	plan_delete_row(plan, key);
	return plan->error;
}

int plan_delete_under(struct ns_plan *plan, struct slice prefix)
{
	return plan_scan(plan, prefix, delete_found_row, plan);
}

/* A move keeps the version: without the statements here a record that compaction moves meanwhile would be taken off the
 * pack it lay in a second time, and never off the one it lies in. */
int plan_release_bytes(struct ns_plan *plan, uint64_t seen, struct slice key, const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	struct release r = { plan, seen, o->refers ? o->id : 0 };
	int err = 0;
	if (o->extent_count > 0)
		plan_state_unmoved(plan, seen, key);
	for (uint32_t i = 0; i < o->extent_count; i++)
		release_extent(&r, &o->extents[i]);
	if (o->extents_outside > 0)
		err = plan_scan(plan, row_extent_prefix(buf, o->id, o->generation), release_extent_row, &r);
	if (err == 0 && o->has_links)
		err = plan_delete_under(plan, row_link_prefix(buf, o->id));
	return err < 0 ? err : plan->error;
}

int plan_release_object(struct ns_plan *plan, uint64_t seen, uint64_t bucket, uint64_t dir, struct slice name,
			const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	if (o->in_inode)
		return plan_unlink_inode(plan, seen, bucket, dir, name, o->id);
	if (plan_keeps(plan, o->id))
		return plan_orphan(plan, seen, row_entry(buf, dir, name, false), bucket, dir, name, o);
	int err = plan_release_bytes(plan, seen, row_entry(buf, dir, name, false), o);
	plan_account_bucket(plan, bucket, -(int64_t)o->size, -1);
	kv_txn_touch(plan->txn, dir, name, o->id);
	return err < 0 ? err : plan->error;
}

int plan_drop_object(struct ns_plan *plan, uint64_t seen, uint64_t bucket, uint64_t dir, struct slice name,
		     const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	plan_state_entry(plan, seen, dir, name, o);
	int err = plan_release_object(plan, seen, bucket, dir, name, o);
	plan_delete_row(plan, row_entry(buf, dir, name, false));
	return err < 0 ? err : plan->error;
}

/* A row of this id stands at the spot, or it is a directory: what a delete answers when there is no file. */
static int delete_missing(struct ns_plan *plan, const struct ns_ref *ref, const struct spot *s)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	if (ref->by != NS_BY_NAME)
		return -GRANARY_ENOTFOUND;
	int err = row_get(plan->ns, plan, row_entry(buf, s->dir.d.id, s->name, true), &value);
	if (err < 0)
		return err;
	row_release(&value);
	return -GRANARY_EISDIR;
}

int ns_plan_delete(struct ns_plan *plan, const struct ns_ref *ref, enum ns_condition condition, uint64_t if_version,
		   struct ns_deleted *out)
{
	struct spot s;
	struct object o;
	struct kv_value value;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = spot_find(plan->ns, plan, ref, false, &s);
	if (err < 0)
		return err;
	if (s.is_dir)
		return -GRANARY_EISDIR;
	if (s.missing.len > 0)
		return -GRANARY_ENOTFOUND;
	err = entry_get(plan->ns, plan, s.dir.d.id, s.name, &o, &value);
	if (err == -GRANARY_ENOTFOUND)
		return delete_missing(plan, ref, &s);
	if (err < 0)
		return err;
	if (ref->by == NS_BY_ID && o.id != ref->id)
		err = -GRANARY_EBUSY; /* replaced since it was found */
	else if (condition == NS_IF_ABSENT || (condition == NS_IF_VERSION && o.version != if_version))
		err = -GRANARY_EPRECONDITION;
	if (err == 0) {
		if (out != NULL)
			*out = (struct ns_deleted){ o.version, o.size };
		err = plan_drop_object(plan, seen, s.dir.d.bucket, s.dir.d.id, s.name, &o);
	}
	if (err == 0)
		err = plan_dir_loses(plan, seen, &s.dir);
	row_release(&value);
	return err;
}

/* ---- directories ---- */

struct bare {
	bool has_marker;
};

static int bare_row(void *arg, struct slice key, struct slice value)
{
	struct bare *b = arg;
	(void)value;
	if (key.len != 9)
		return 1; /* a child with a name */
	b->has_marker = true;
	return 0;
}

int plan_dir_is_bare(struct ns_plan *plan, uint64_t dir, bool *marker)
{
	uint8_t buf[ROW_KEY_MAX];
	struct bare b = { false };
	int err = plan_scan(plan, row_entry_prefix(buf, dir), bare_row, &b);
	*marker = b.has_marker;
	return err < 0 ? err : err == 0;
}

static int plan_drop_marker(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice no_name = slice_of(NULL, 0);
	struct object o;
	struct kv_value value;
	int err = row_get_object(plan->ns, plan, row_entry(buf, dir->d.id, no_name, false), &o, &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? 0 : err;
	err = plan_drop_object(plan, seen, dir->d.bucket, dir->d.id, no_name, &o);
	row_release(&value);
	return err;
}

int plan_remove_dir(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir)
{
	uint8_t buf[ROW_KEY_MAX];
	assert(!dir_is_root(dir));
	int err = plan_state_dir(plan, seen, dir);
	if (err < 0)
		return err;
	struct plan_dir *pd = plan_dir_get(plan, dir->d.id);
	if (pd == NULL)
		return -GRANARY_ENOMEM;
	pd->is_removed = true;
	err = plan_drop_marker(plan, seen, dir);
	if (err < 0)
		return err;
	plan_delete_row(plan, row_entry(buf, dir->d.parent, dir->name, true));
	plan_delete_row(plan, row_inode(buf, dir->d.id));
	plan_dir_links(plan, dir->d.parent, -1);
	plan->has_moved_dirs = plan->bumps_paths = true;

	struct ns_dir parent;
	err = dir_by_id(plan->ns, plan, dir->d.parent, &parent);
	if (err == -GRANARY_ENOTFOUND)
		return -GRANARY_EBUSY; /* moved under our feet: the commit would be refused */
	return err < 0 ? err : plan_dir_loses(plan, seen, &parent);
}

int ns_plan_rmdir(struct ns_plan *plan, const struct ns_ref *ref)
{
	uint8_t buf[ROW_KEY_MAX];
	struct spot s;
	struct kv_value value;
	uint64_t id;
	bool has_marker;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = spot_find(plan->ns, plan, ref, true, &s);
	if (err < 0)
		return err;
	if (s.missing.len > 0)
		return -GRANARY_ENOTFOUND;
	struct ns_dir dir = { .name = s.name };
	err = row_get(plan->ns, plan, row_entry(buf, s.dir.d.id, s.name, true), &value);
	if (err == -GRANARY_ENOTFOUND && s.name.len > 0) {
		err = row_get(plan->ns, plan, row_entry(buf, s.dir.d.id, s.name, false), &value);
		row_release(&value);
		return err == 0 ? -GRANARY_ENOTDIR : err;
	}
	if (err < 0)
		return err;
	bool is_sound = value_u64(value.v, TAG_ID, 0, &id);
	row_release(&value);
	if (!is_sound)
		return -GRANARY_ECORRUPT;
	dir.d = (struct loc_dir){ .id = id, .bucket = s.dir.d.bucket, .parent = s.dir.d.id, .group = s.dir.d.group };
	err = plan_dir_is_bare(plan, id, &has_marker);
	if (err <= 0)
		return err < 0 ? err : -GRANARY_ENOTEMPTY;
	return plan_remove_dir(plan, seen, &dir);
}
