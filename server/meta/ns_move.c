/* SPDX-License-Identifier: Apache-2.0 */
/* ns_move.c -- what compaction asks: who points at a record, and to point it elsewhere. */
#include "meta/ns_holder.h"

static bool points_at(const struct extent *e, uint64_t pack, uint64_t record)
{
	return e->pack == pack && e->record == record && (e->flags & EXTENT_HOLE) == 0;
}

/* The `x` row of an object at this logical offset. -GRANARY_ENOTFOUND. */
static int extent_row_get(struct ns *ns, struct ns_plan *plan, const struct object *o, uint64_t logical,
			  struct extent *e,
			  struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	if (o->extents_outside == 0)
		return -GRANARY_ENOTFOUND;
	int err = row_get(ns, plan, row_extent(buf, o->id, o->generation, logical), value);
	if (err < 0)
		return err;
	err = extent_row_decode(value->v, e);
	if (err < 0)
		row_release(value);
	return err;
}

/* ---- moving ---- */

static int move_inline(struct ns_plan *plan, struct slice key, struct object *o, const struct ns_move *m)
{
	struct slice encoded;
	for (uint32_t i = 0; i < o->extent_count; i++) {
		struct extent *e = &o->extents[i];
		if (e->logical != m->from.logical || !points_at(e, m->from.pack, m->from.record))
			continue;
		*e = m->to;
		e->logical = m->from.logical;
		int err = plan_encode(plan, o, &encoded);
		if (err == 0)
			plan_put_row(plan, key, encoded);
		return err;
	}
	return -GRANARY_ENOTFOUND;
}

static int move_outside(struct ns_plan *plan, const struct object *o, const struct ns_move *m)
{
	uint8_t buf[ROW_KEY_MAX];
	struct extent e, moved = m->to;
	struct kv_value value;
	int err = extent_row_get(plan->ns, plan, o, m->from.logical, &e, &value);
	if (err < 0)
		return err;
	bool is_it = points_at(&e, m->from.pack, m->from.record);
	row_release(&value);
	if (!is_it)
		return -GRANARY_ENOTFOUND;
	moved.logical = m->from.logical;
	int64_t len = extent_row_encode(&moved, plan_buf(), PLAN_BUF_SIZE);
	if (len < 0)
		return (int)len;
	plan_put_row(plan, row_extent(buf, o->id, o->generation, moved.logical), slice_of(plan_buf(), (size_t)len));
	return 0;
}

static int move_apply(struct ns_plan *plan, uint64_t seen, const struct spot *s, struct object *o,
		      const struct ns_move *m)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice key = object_row(buf, s->dir.d.id, s->name, o);
	plan_state_version(plan, seen, key, o->version);
	int err = move_inline(plan, key, o, m);
	if (err == -GRANARY_ENOTFOUND)
		err = move_outside(plan, o, m);
	if (err < 0)
		return err;
	plan_account_pack(plan, &m->from, -1);
	plan_account_pack(plan, &m->to, 1);
	kv_txn_touch(plan->txn, s->dir.d.id, s->name, o->id);
	return plan->error;
}

int ns_plan_move_extent(struct ns_plan *plan, const struct ns_move *m)
{
	struct spot s;
	struct object o;
	struct kv_value value;
	struct ns_ref ref = { .by = NS_BY_ID, .dir = m->dir, .id = m->id, .name = m->name };
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = plan_take_rewrite(plan, m->id); /* before the row is read: its version will stay */
	if (err < 0)
		return err;
	err = spot_of_id(plan->ns, plan, &ref, &s);
	if (err < 0)
		return err == -GRANARY_ESTALE || err == -GRANARY_EISDIR ? -GRANARY_ENOTFOUND : err;
	if (s.is_dir)
		return -GRANARY_ENOTFOUND;
	err = entry_get(plan->ns, plan, s.dir.d.id, s.name, &o, &value);
	if (err < 0)
		return err;
	err = o.id == m->id && o.version == m->version ? move_apply(plan, seen, &s, &o, m) : -GRANARY_ENOTFOUND;
	row_release(&value);
	return err;
}

/* ---- owners ---- */

/* 1 when the object points at the record. */
static int object_holds(struct ns *ns, const struct object *o, const struct ns_record *r, uint64_t logical)
{
	struct extent e;
	struct kv_value value;
	for (uint32_t i = 0; i < o->extent_count; i++)
		if (points_at(&o->extents[i], r->pack, r->record))
			return 1;
	int err = extent_row_get(ns, NULL, o, logical, &e, &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? 0 : err;
	bool is_it = points_at(&e, r->pack, r->record);
	row_release(&value);
	return is_it;
}

/* 1, *place and *out when the object with this id exists and points at the record. */
static int owner_by_id(struct ns *ns, const struct ns_record *r, uint64_t id, bool with_hint, uint64_t logical,
		       struct ns_place *place, struct object *out, struct kv_value *value)
{
	struct ns_ref ref = { .by = NS_BY_ID, .id = id };
	if (with_hint) {
		ref.dir = r->dir;
		ref.name = r->name;
	}
	int err = ns_lookup(ns, &ref, place, out, value);
	if (err < 0)
		return err == -GRANARY_ESTALE || err == -GRANARY_ENOTFOUND ? 0 : err;
	err = out->is_dir ? 0 : object_holds(ns, out, r, logical);
	if (err <= 0)
		row_release(value);
	return err;
}

struct references {
	struct ns *ns;
	const struct ns_record *r;
	struct ns_place *place;
	struct object *out;
	struct kv_value *value;
};

static int owner_by_reference(void *arg, struct slice key, struct slice value)
{
	struct references *s = arg;
	(void)value;
	if (key.len != 1 + 8 + 4 + 8 + 8)
		return -GRANARY_ECORRUPT;
	return owner_by_id(s->ns, s->r, be64_get(key.p + 13), false, be64_get(key.p + 21), s->place, s->out, s->value);
}

int ns_record_owner(struct ns *ns, const struct ns_record *r, struct ns_place *place, struct object *out,
		    struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = owner_by_id(ns, r, r->object_id, true, r->logical, place, out, value);
	if (err != 0)
		return err;
	struct references s = { ns, r, place, out, value };
	return rows_scan(ns, row_reference_prefix(buf, r->pack, r->record), owner_by_reference, &s);
}
