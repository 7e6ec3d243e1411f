/* SPDX-License-Identifier: Apache-2.0 */
/* ns_exchange.c -- two names change places: each is put where the other was, in one transaction.
 * Invariants: (1) as of a rename (ns_rename.c), for both: ancestors are stated both ways, files are held, versions
 * stay; (2) both rows are deleted before both are put: one key is the other's where both are of one kind. */
#include "meta/ns_holder.h"

struct side {
	struct spot spot;
	bool is_dir;
	uint64_t id;
	struct object o;        /* of a file: its row */
	struct kv_value value;  /* of its row */
};

static struct slice side_key(uint8_t *buf, const struct side *at, bool is_dir)
{
	return row_entry(buf, at->spot.dir.d.id, at->spot.name, is_dir);
}

static int side_spot(struct ns_plan *plan, const struct ns_ref *ref, struct side *s)
{
	bool has_slash = ref->by == NS_BY_KEY && ref->name.len > 0 && ref->name.p[ref->name.len - 1] == '/';
	int err = spot_find(plan->ns, plan, ref, true, &s->spot);
	if (err < 0)
		return err == -GRANARY_EISDIR ? -GRANARY_EINVAL : err; /* a root */
	if (s->spot.missing.len > 0)
		return -GRANARY_ENOTFOUND;
	s->is_dir = has_slash || s->spot.is_dir;
	return s->spot.name.len == 0 ? -GRANARY_EINVAL : 0;
}

/* Its row and id. The caller releases value after 0. */
static int side_row(struct ns_plan *plan, struct side *s)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = row_get(plan->ns, plan, side_key(buf, s, s->is_dir), &s->value);
	if (err == -GRANARY_ENOTFOUND && !s->is_dir) {
		s->is_dir = true;
		err = row_get(plan->ns, plan, side_key(buf, s, true), &s->value);
	}
	if (err < 0)
		return err;
	bool is_sound = value_u64(s->value.v, TAG_ID, 0, &s->id);
	if (is_sound && !s->is_dir)
		is_sound = object_decode(s->value.v, &s->o) == 0;
	if (is_sound)
		return 0;
	row_release(&s->value);
	return -GRANARY_ECORRUPT;
}

static int side_find(struct ns_plan *plan, const struct ns_ref *ref, struct side *s)
{
	int err = side_spot(plan, ref, s);
	if (err == 0)
		err = side_row(plan, s);
	if (err < 0 || s->is_dir)
		return err;
	uint64_t id = s->id;
	row_release(&s->value);
	err = plan_take_rewrite(plan, id);
	if (err == 0)
		err = side_row(plan, s);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
	if (s->id == id && !s->is_dir)
		return 0;
	row_release(&s->value);
	return -GRANARY_EBUSY;
}

/* What the exchange rests on of one side, and that it does not go below itself. */
static int side_state(struct ns_plan *plan, uint64_t seen, const struct side *s, const struct side *to)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	struct slice key = side_key(buf, s, !s->is_dir);
	int err = row_get(plan->ns, plan, key, &value);
	row_release(&value);
	if (err != -GRANARY_ENOTFOUND)
		return err < 0 ? err : -GRANARY_EEXIST;
	plan_state_absent(plan, seen, key);
	key = side_key(buf, s, s->is_dir);
	if (s->is_dir || s->o.in_inode)
		plan_state_id(plan, seen, key, s->id);
	else
		plan_state_version(plan, seen, key, s->o.version);
	return s->is_dir ? plan_state_ancestors(plan, seen, to->spot.dir.d.id, s->id) : 0;
}

static void side_leave(struct ns_plan *plan, const struct side *s)
{
	uint8_t buf[ROW_KEY_MAX];
	plan_delete_row(plan, side_key(buf, s, s->is_dir));
	if (s->is_dir)
		return;
	if (s->o.has_links || s->o.in_inode)
		plan_delete_row(plan, row_link(buf, s->id, s->spot.dir.d.id, s->spot.name));
	kv_txn_touch(plan->txn, s->spot.dir.d.id, s->spot.name, s->id);
}

static int side_enter_dir(struct ns_plan *plan, uint64_t seen, const struct side *s, const struct side *to)
{
	uint8_t buf[ROW_KEY_MAX];
	plan_put_row(plan, side_key(buf, to, true), s->value.v);
	return plan_move_dir(plan, seen, s->id, to->spot.dir.d.id, to->spot.name);
}

static int side_enter_file(struct ns_plan *plan, const struct side *s, const struct side *to)
{
	uint8_t buf[ROW_KEY_MAX];
	struct object moved = s->o;
	struct slice value;
	moved.has_links = !s->o.in_inode;
	if (s->o.in_inode)
		kv_max(plan->txn, row_inode(buf, s->id), TAG_CTIME, plan->now_ns);
	else
		moved.ctime_ns = plan->now_ns;
	int err = plan_encode(plan, &moved, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, side_key(buf, to, false), value);
	plan_put_row(plan, row_link(buf, s->id, to->spot.dir.d.id, to->spot.name), slice_of(NULL, 0));
	kv_txn_touch(plan->txn, to->spot.dir.d.id, to->spot.name, s->id);
	return plan->error;
}

static int side_enter(struct ns_plan *plan, uint64_t seen, const struct side *s, const struct side *to)
{
	int err = s->is_dir ? side_enter_dir(plan, seen, s, to) : side_enter_file(plan, s, to);
	return err < 0 ? err : plan_dir_gains(plan, seen, &to->spot.dir);
}

static int exchange(struct ns_plan *plan, uint64_t seen, const struct side *a, const struct side *b)
{
	if (a->spot.dir.d.bucket != b->spot.dir.d.bucket)
		return -GRANARY_EINVAL;
	if (a->id == b->id) /* one name, or two of one file */
		return 0;
	int err = side_state(plan, seen, a, b);
	if (err == 0)
		err = side_state(plan, seen, b, a);
	if (err < 0)
		return err;
	side_leave(plan, a);
	side_leave(plan, b);
	err = side_enter(plan, seen, a, b);
	return err < 0 ? err : side_enter(plan, seen, b, a);
}

int ns_plan_exchange(struct ns_plan *plan, const struct ns_ref *ref_a, const struct ns_ref *ref_b)
{
	struct side a, b;
	uint64_t seen = kv_seq(plan->ns->kv);
	if (ref_b->by == NS_BY_ID)
		return -GRANARY_EINVAL;
	int err = side_find(plan, ref_a, &a);
	if (err < 0)
		return err;
	err = side_find(plan, ref_b, &b);
	if (err == 0) {
		err = exchange(plan, seen, &a, &b);
		row_release(&b.value);
	}
	row_release(&a.value);
	return err < 0 ? err : plan->error;
}
