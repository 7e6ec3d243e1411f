/* SPDX-License-Identifier: Apache-2.0 */
/* ns_move.c -- what compaction asks: who points at a record, and to point it elsewhere. */
#include "meta/ns_holder.h"

static bool points_at(const struct extent *e, uint64_t pack, uint64_t record)
{
	return e->pack == pack && e->record == record && (e->flags & EXTENT_HOLE) == 0;
}

/* The same bytes of the same record at the same place of the object. */
static bool is_same(const struct extent *a, const struct extent *b)
{
	return points_at(a, b->pack, b->record) && a->logical == b->logical && a->skip == b->skip &&
		a->length == b->length;
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
		if (!is_same(e, &m->from))
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
	bool is_it = is_same(&e, &m->from);
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
	if (m->is_reference) {
		plan_delete_row(plan, row_reference(buf, m->from.pack, m->from.record, m->id, m->from.logical));
		plan_put_row(plan, row_reference(buf, m->to.pack, m->to.record, m->id, m->from.logical),
			     slice_of(NULL, 0));
	}
	plan_account_pack(plan, &m->from, -1);
	plan_account_pack(plan, &m->to, 1);
	plan_touch(plan, s->dir.d.id, s->name, o->id);
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
	err = spot_get(plan->ns, plan, &s, &o, &value);
	if (err < 0)
		return err;
	err = o.id == m->id ? move_apply(plan, seen, &s, &o, m) : -GRANARY_ENOTFOUND;
	row_release(&value);
	return err;
}

/* ---- owners ---- */

struct owners {
	struct ns *ns;
	const struct ns_record *r;
	int (*each)(void *arg, const struct ns_owner *owner);
	void *arg;
	struct ns_owner owner;
	uint64_t from, span; /* logical offsets of the object where extents of the record may begin */
};

/* An extent of the object that the record names, where the record says it is: found by that, it has no `y` row. */
static bool is_own(const struct owners *s, const struct extent *e)
{
	return s->owner.object->id == s->r->object_id && e->logical == s->r->logical + e->cut_before;
}

static int owner_extent(struct owners *s, const struct extent *e)
{
	if (!points_at(e, s->r->pack, s->r->record) || e->logical - s->from >= s->span ||
	    is_own(s, e) == s->owner.is_reference)
		return 0;
	s->owner.extent = e;
	return s->each(s->arg, &s->owner);
}

static int owner_extents_outside(struct owners *s, const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX], prefix_buf[ROW_KEY_MAX];
	struct slice prefix = row_extent_prefix(prefix_buf, o->id, o->generation);
	struct kv_iter *it = o->extents_outside == 0 ? NULL : kv_iter_new_under(s->ns->kv, prefix);
	int err = 0;
	if (it == NULL)
		return o->extents_outside == 0 ? 0 : -GRANARY_ENOMEM;
	kv_iter_seek(it, row_extent(buf, o->id, o->generation, s->from));
	while (err == 0 && kv_iter_valid(it) && slice_begins(kv_iter_key(it), prefix)) {
		struct extent e;
		err = extent_row_decode(kv_iter_value(it), &e);
		if (err == 0 && e.logical - s->from >= s->span)
			break;
		if (err == 0)
			err = owner_extent(s, &e);
		kv_iter_next(it);
	}
	if (err == 0)
		err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

/* The object with this id, if it exists, where it points at the record. */
static int owner_of_id(struct owners *s, const struct ns_ref *ref, uint64_t from, uint64_t span, bool by_reference)
{
	struct object o;
	struct kv_value value;
	int err = ns_lookup(s->ns, ref, &s->owner.place, &o, &value);
	if (err < 0)
		return err == -GRANARY_ESTALE || err == -GRANARY_ENOTFOUND ? 0 : err;
	s->owner.object = &o;
	s->owner.is_reference = by_reference;
	s->from = from;
	s->span = span;
	for (uint32_t i = 0; err == 0 && !o.is_dir && i < o.extent_count; i++)
		err = owner_extent(s, &o.extents[i]);
	if (err == 0 && !o.is_dir)
		err = owner_extents_outside(s, &o);
	row_release(&value);
	return err;
}

static int owner_by_reference(void *arg, struct slice key, struct slice value)
{
	struct owners *s = arg;
	struct ns_ref ref = { .by = NS_BY_ID };
	uint64_t logical;
	(void)value;
	if (!row_reference_parse(key, &ref.id, &logical))
		return -GRANARY_ECORRUPT;
	return owner_of_id(s, &ref, logical, 1, true);
}

int ns_record_owners(struct ns *ns, const struct ns_record *r, int (*each)(void *arg, const struct ns_owner *owner),
		     void *arg)
{
	uint8_t buf[ROW_KEY_MAX];
	struct owners s = { .ns = ns, .r = r, .each = each, .arg = arg };
	struct ns_ref ref = { .by = NS_BY_ID, .id = r->object_id, .dir = r->dir, .name = r->name };
	int err = owner_of_id(&s, &ref, r->logical, r->length > 0 ? r->length : 1, false);
	if (err != 0)
		return err;
	return rows_scan(ns, row_reference_prefix(buf, r->pack, r->record), owner_by_reference, &s);
}
