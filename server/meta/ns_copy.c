/* SPDX-License-Identifier: Apache-2.0 */
/* ns_copy.c -- objects that are made of the extents of others.
 * Invariants: (1) every extent of such an object has a `y` row of its record, put and removed with it: so compaction
 * finds the object without its name, through its `o` row; (2) the plan states of every row an extent was read from that
 * nobody touched it since: a record that compaction moves meanwhile would be found by nobody at its new place. */
#include "meta/ns_extents.h"

/* ---- extents ---- */

struct gather {
	struct ns_plan *plan;
	struct extent_list *list;
	uint64_t seen, shift;
};

static int gather_extent(struct gather *g, const struct extent *e)
{
	struct extent_list *l = g->list;
	if (l->count == NS_EXTENTS_MAX)
		return -GRANARY_ETOOBIG;
	if (l->count == l->cap) {
		uint32_t cap = l->cap == 0 ? 16 : 4 * l->cap;
		struct extent *wide = plan_alloc(g->plan, cap * sizeof(*wide));
		if (wide == NULL)
			return -GRANARY_ENOMEM;
		if (l->count > 0)
			memcpy(wide, l->at, l->count * sizeof(*wide));
		l->at = wide;
		l->cap = cap;
	}
	struct extent *copy = &l->at[l->count++];
	*copy = *e;
	copy->logical += g->shift;
	copy->crcs = plan_copy(g->plan, slice_of(e->crcs, 4 * (size_t)e->crc_count)).p;
	return g->plan->error;
}

static int gather_row(void *arg, struct slice key, struct slice value)
{
	struct gather *g = arg;
	struct extent e;
	int err = extent_row_decode(value, &e);
	if (err < 0)
		return err;
	plan_state_unmoved(g->plan, g->seen, key);
	return gather_extent(g, &e);
}

int extents_gather(struct ns_plan *plan, uint64_t seen, uint64_t dir, struct slice name, const struct object *o,
		   uint64_t shift, struct extent_list *list)
{
	uint8_t buf[ROW_KEY_MAX];
	struct gather g = { plan, list, seen, shift };
	int err = 0;
	plan_state_unmoved(plan, seen, object_row(buf, dir, name, o));
	for (uint32_t i = 0; err == 0 && i < o->extent_count; i++)
		err = gather_extent(&g, &o->extents[i]);
	if (err == 0 && o->extents_outside > 0)
		err = plan_scan(plan, row_extent_prefix(buf, o->id, o->generation), gather_row, &g);
	return err;
}

int extents_put(struct ns_plan *plan, struct object *o, const struct extent_list *list)
{
	uint8_t buf[ROW_KEY_MAX];
	o->extent_count = list->count < ROW_EXTENTS_INLINE_MAX ? list->count : ROW_EXTENTS_INLINE_MAX;
	o->extents_outside = list->count - o->extent_count;
	for (uint32_t i = 0; i < list->count; i++) {
		if (i < ROW_EXTENTS_INLINE_MAX) {
			o->extents[i] = list->at[i];
			continue;
		}
		int64_t len = extent_row_encode(&list->at[i], plan_buf(), PLAN_BUF_SIZE);
		if (len < 0)
			return (int)len;
		plan_put_row(plan, row_extent(buf, o->id, o->generation, list->at[i].logical),
			     slice_of(plan_buf(), (size_t)len));
	}
	return plan->error;
}

/* ---- the new object's place ---- */

static int place_check(struct ns_plan *plan, const struct placement *p, const struct spot *s, const struct object *old)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	if (p->ref.by == NS_BY_NAME) {
		int err = row_get(plan->ns, plan, row_entry(buf, s->dir.d.id, s->name, true), &value);
		row_release(&value);
		if (err != -GRANARY_ENOTFOUND)
			return err == 0 ? -GRANARY_EISDIR : err;
	}
	if (p->condition == NS_IF_ABSENT && old->version != 0)
		return -GRANARY_EPRECONDITION;
	if (p->condition == NS_IF_VERSION && (old->version == 0 || old->version != p->if_version))
		return -GRANARY_EPRECONDITION;
	return 0;
}

static int place_rows(struct ns_plan *plan, const struct spot *s, struct object *o, const struct extent_list *list)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice value;
	int err = extents_put(plan, o, list);
	if (err == 0)
		err = plan_encode(plan, o, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, row_entry(buf, s->dir.d.id, s->name, false), value);
	plan_put_row(plan, row_link(buf, o->id, s->dir.d.id, s->name), slice_of(NULL, 0));
	for (uint32_t i = 0; i < list->count; i++) {
		const struct extent *e = &list->at[i];
		if ((e->flags & EXTENT_HOLE) != 0)
			continue;
		plan_account_pack(plan, e, 1);
		plan_put_row(plan, row_reference(buf, e->pack, e->record, o->id, e->logical), slice_of(NULL, 0));
	}
	plan_account_bucket(plan, s->dir.d.bucket, (int64_t)o->size, 1);
	return plan->error;
}

static int place_over(struct ns_plan *plan, uint64_t seen, struct spot *s, const struct object *old)
{
	uint8_t buf[ROW_KEY_MAX];
	if (old->version != 0) { /* a directory with a child is there: nothing to state about it */
		plan_state_entry(plan, seen, s->dir.d.id, s->name, old);
		return plan_release_object(plan, seen, s->dir.d.bucket, s->dir.d.id, s->name, old);
	}
	int err = plan_make_dirs(plan, seen, s);
	if (err == 0)
		err = plan_dir_gains(plan, seen, &s->dir);
	if (err == 0)
		plan_state_absent(plan, seen, row_entry(buf, s->dir.d.id, s->name, false));
	return err;
}

int plan_place(struct ns_plan *plan, uint64_t seen, struct placement *p, struct object *o,
	       const struct extent_list *list)
{
	struct spot s;
	struct object old = { .version = 0 };
	struct kv_value value = { .pin = NULL };
	if (p->ref.by == NS_BY_ID)
		return -GRANARY_EINVAL;
	int err = spot_make(plan->ns, plan, &p->ref, false, &s);
	if (err == 0 && (s.name.len == 0 || (p->bucket != 0 && p->bucket != s.dir.d.bucket)))
		err = -GRANARY_EINVAL;
	if (err == 0 && s.missing.len == 0)
		err = entry_get(plan->ns, plan, s.dir.d.id, s.name, &old, &value);
	if (err == -GRANARY_ENOTFOUND && s.missing.len == 0) {
		old.version = 0;
		err = 0;
	}
	if (err < 0)
		return err;
	err = place_check(plan, p, &s, &old);
	if (err == 0)
		err = place_over(plan, seen, &s, &old);
	if (err == 0)
		err = place_rows(plan, &s, o, list);
	p->dir = s.dir.d.id;
	p->replaced = old.version;
	row_release(&value);
	return err;
}

/* ---- copy ---- */

static int copy_found(struct ns_plan *plan, uint64_t seen, struct ns_copy *c, struct holder *h)
{
	struct extent_list list = { .count = 0 };
	struct placement p = { .ref = c->to, .condition = c->condition, .if_version = c->if_version };
	struct object o = h->o;
	uint64_t dir = h->spot.dir.d.id;
	if (h->is_dir)
		return -GRANARY_EISDIR;
	if (c->from_version != 0 && c->from_version != o.version)
		return -GRANARY_ECHANGED;
	plan_state_entry(plan, seen, dir, h->spot.name, &o);
	int err = extents_gather(plan, seen, dir, h->spot.name, &o, 0, &list);
	if (err < 0)
		return err;
	o.id = c->id = ids_object(plan->ns->ids);
	o.version = c->version = ids_version(plan->ns->ids);
	o.ctime_ns = plan->now_ns;
	o.written_ns = plan->ns->clock == NULL ? 0 : store_clock_now(plan->ns->clock);
	o.generation = 0;
	o.nlink = 1;
	o.in_inode = false;
	o.bucket = 0;
	o.has_links = true;
	o.refers = list.count > 0;
	err = plan_place(plan, seen, &p, &o, &list);
	c->dir = p.dir;
	c->replaced = p.replaced;
	return err;
}

int ns_plan_copy(struct ns_plan *plan, struct ns_copy *c)
{
	struct holder h;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = holder_find(plan->ns, plan, &c->from, &h);
	if (err < 0)
		return err;
	err = copy_found(plan, seen, c, &h);
	holder_release(&h);
	return err;
}
