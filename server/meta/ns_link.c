/* SPDX-License-Identifier: Apache-2.0 */
/* ns_link.c -- several names for one file. From its second name on its attributes and extents stand in its `i` row and
 * its `d` rows hold the id alone; every name has an `o` row. It stays so when one name is left.
 * Invariant: nlink in the `i` row is the number of `d` rows that name it, changed in the same transactions. */
#include "meta/ns_file.h"
#include "meta/ns_holder.h"

static int put_inode(struct ns_plan *plan, const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice value;
	int err = plan_encode(plan, o, &value);
	if (err == 0)
		plan_put_row(plan, row_inode(buf, o->id), value);
	return err < 0 ? err : plan->error;
}

static int put_name(struct ns_plan *plan, uint64_t id, uint64_t dir, struct slice name)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice value;
	struct object linked = { .id = id, .nlink = 1, .in_inode = true };
	int err = plan_encode(plan, &linked, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, row_entry(buf, dir, name, false), value);
	plan_put_row(plan, row_link(buf, id, dir, name), slice_of(NULL, 0));
	return plan->error;
}

/* The first link: what stood in the name's row goes to an inode. */
static int move_to_inode(struct ns_plan *plan, uint64_t seen, struct holder *h)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice name = h->spot.name;
	uint64_t dir = h->spot.dir.d.id;
	plan_state_absent(plan, seen, row_inode(buf, h->o.id));
	h->o.in_inode = h->o.has_links = true;
	h->o.bucket = h->spot.dir.d.bucket;
	kv_txn_touch(plan->txn, dir, name, h->o.id);
	return put_name(plan, h->o.id, dir, name);
}

static int link_rows(struct ns_plan *plan, uint64_t seen, struct holder *from, struct spot *to)
{
	int err = plan_make_dirs(plan, seen, to);
	if (err == 0)
		err = plan_dir_gains(plan, seen, &to->dir);
	if (err == 0)
		err = plan_state_no_name(plan, seen, to);
	if (err < 0)
		return err;
	plan_state_entry(plan, seen, from->spot.dir.d.id, from->spot.name, &from->o);
	if (!from->o.in_inode)
		err = move_to_inode(plan, seen, from);
	if (err < 0)
		return err;
	from->o.nlink++;
	from->o.ctime_ns = plan->now_ns;
	err = put_inode(plan, &from->o);
	return err < 0 ? err : put_name(plan, from->o.id, to->dir.d.id, to->name);
}

int ns_plan_link(struct ns_plan *plan, const struct ns_ref *from, const struct ns_ref *to, uint64_t *id)
{
	struct holder h;
	struct spot s;
	uint64_t seen = kv_seq(plan->ns->kv);
	if (to->by == NS_BY_ID)
		return -GRANARY_EINVAL;
	int err = holder_find(plan->ns, plan, from, &h);
	if (err < 0)
		return err;
	*id = h.o.id;
	if (h.spot.orphan != 0) /* nothing may get a name again */
		err = -GRANARY_ENOTFOUND;
	else
		err = h.is_dir ? -GRANARY_EISDIR : spot_make(plan->ns, plan, to, false, &s);
	if (err == 0 && (s.name.len == 0 || s.dir.d.bucket != h.spot.dir.d.bucket))
		err = -GRANARY_EINVAL;
	if (err == 0 && h.o.nlink >= NS_LINKS_MAX)
		err = -GRANARY_EMLINK;
	if (err == 0)
		err = link_rows(plan, seen, &h, &s);
	holder_release(&h);
	return err;
}

int plan_unlink_inode(struct ns_plan *plan, uint64_t seen, uint64_t bucket, uint64_t dir, struct slice name,
		      uint64_t id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct object o;
	struct kv_value value;
	int err = plan_take_rewrite(plan, id); /* before it is read: its version may stay */
	if (err == 0)
		err = inode_get(plan->ns, plan, id, &o, &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
	plan_state_entry(plan, seen, dir, name, &o);
	if (o.nlink > 1) {
		plan_delete_row(plan, row_link(buf, id, dir, name));
		o.nlink--;
		o.ctime_ns = plan->now_ns;
		err = put_inode(plan, &o);
	} else if (plan_keeps(plan, id)) {
		err = plan_orphan(plan, seen, row_inode(buf, id), bucket, dir, name, &o);
	} else {
		err = plan_release_bytes(plan, seen, row_inode(buf, id), &o);
		plan_account_bucket(plan, bucket, -(int64_t)o.size, -1);
		plan_delete_row(plan, row_inode(buf, id));
	}
	row_release(&value);
	kv_txn_touch(plan->txn, dir, name, id);
	return err < 0 ? err : plan->error;
}
