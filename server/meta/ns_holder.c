/* SPDX-License-Identifier: Apache-2.0 */
/* ns_holder.c -- see ns_holder.h. */
#include "meta/ns_holder.h"

#include <assert.h>

int inode_get(struct ns *ns, struct ns_plan *plan, uint64_t id, struct object *o, struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = row_get_object(ns, plan, row_inode(buf, id), o, value);
	if (err == 0 && (o->is_dir || o->id != id)) {
		row_release(value);
		return -GRANARY_ECORRUPT;
	}
	return err;
}

int entry_get(struct ns *ns, struct ns_plan *plan, uint64_t dir, struct slice name, struct object *o,
	      struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	for (int tries = 0; tries < WALK_TRIES; tries++) {
		int err = row_get_object(ns, plan, row_entry(buf, dir, name, false), o, value);
		if (err < 0 || !o->in_inode)
			return err;
		uint64_t id = o->id;
		row_release(value);
		err = inode_get(ns, plan, id, o, value);
		if (err != -GRANARY_ENOTFOUND) /* else: unlinked in between */
			return err;
	}
	return -GRANARY_ECORRUPT;
}

int spot_get(struct ns *ns, struct ns_plan *plan, const struct spot *s, struct object *o, struct kv_value *value)
{
	return s->orphan != 0 ? inode_get(ns, plan, s->orphan, o, value)
			      : entry_get(ns, plan, s->dir.d.id, s->name, o, value);
}

struct slice object_row(uint8_t *buf, uint64_t dir, struct slice name, const struct object *o)
{
	return o->in_inode || o->is_dir ? row_inode(buf, o->id) : row_entry(buf, dir, name, false);
}

void plan_state_entry(struct ns_plan *plan, uint64_t seen, uint64_t dir, struct slice name, const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	if (o->in_inode && o->nlink > 0)
		plan_state_id(plan, seen, row_entry(buf, dir, name, false), o->id);
	plan_state_version(plan, seen, object_row(buf, dir, name, o), o->version);
}

/* ---- holders ---- */

static int holder_inode(struct ns *ns, struct ns_plan *plan, uint64_t id, struct holder *h)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = row_get_object(ns, plan, row_inode(buf, id), &h->o, &h->value);
	if (err == 0 && !h->o.is_dir) {
		row_release(&h->value);
		err = -GRANARY_ECORRUPT;
	}
	h->is_dir = true;
	return err;
}

static int holder_child_dir(struct ns *ns, struct ns_plan *plan, struct holder *h)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	uint64_t id;
	int err = row_get(ns, plan, row_entry(buf, h->spot.dir.d.id, h->spot.name, true), &value);
	if (err < 0)
		return err;
	bool is_sound = value_u64(value.v, TAG_ID, 0, &id);
	row_release(&value);
	return is_sound ? holder_inode(ns, plan, id, h) : -GRANARY_ECORRUPT;
}

static int holder_file(struct ns *ns, struct ns_plan *plan, struct holder *h)
{
	int err = spot_get(ns, plan, &h->spot, &h->o, &h->value);
	if (err < 0 || plan == NULL)
		return err;
	uint64_t id = h->o.id;
	row_release(&h->value);
	err = plan_take_rewrite(plan, id);
	if (err == 0)
		err = spot_get(ns, plan, &h->spot, &h->o, &h->value); /* invariant (2) */
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
	if (h->o.id == id)
		return 0;
	row_release(&h->value);
	return -GRANARY_EBUSY;
}

int holder_find(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, struct holder *h)
{
	bool has_slash = ref->by == NS_BY_KEY && ref->name.len > 0 && ref->name.p[ref->name.len - 1] == '/';
	h->is_dir = h->sets_mtime = false;
	if (ref->by == NS_BY_NAME && ref->name.len == 0)
		return -GRANARY_EINVAL;
	int err = spot_find_any(ns, plan, ref, true, &h->spot);
	if (ref->by == NS_BY_ID && (err == -GRANARY_EISDIR || (err == 0 && h->spot.is_dir)))
		return holder_inode(ns, plan, ref->id, h);
	if (err < 0)
		return err;
	if (h->spot.missing.len > 0)
		return -GRANARY_ENOTFOUND;
	bool wants_dir = has_slash || (ref->by == NS_BY_KEY && h->spot.name.len == 0);
	err = wants_dir ? -GRANARY_ENOTFOUND : holder_file(ns, plan, h);
	if (err == 0 && ref->by == NS_BY_ID && h->o.id != ref->id) {
		row_release(&h->value);
		return -GRANARY_EBUSY; /* renamed or replaced since it was found */
	}
	return err == -GRANARY_ENOTFOUND && ref->by != NS_BY_ID ? holder_child_dir(ns, plan, h) : err;
}

void holder_release(struct holder *h)
{
	row_release(&h->value);
}

int holder_put(struct ns_plan *plan, uint64_t seen, struct holder *h)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice value, name = h->spot.name;
	uint64_t dir = h->spot.dir.d.id;
	if (h->is_dir) {
		plan_state_version(plan, seen, row_inode(buf, h->o.id), h->o.version);
		h->o.version = ids_version(plan->ns->ids); /* nothing else tells two writers of it apart */
	} else {
		plan_state_entry(plan, seen, dir, name, &h->o);
		plan_touch(plan, dir, name, h->o.id);
	}
	int err = plan_encode(plan, &h->o, &value);
	if (err == 0 && h->is_dir)
		plan_put_dir(plan, row_inode(buf, h->o.id), value, h->sets_mtime);
	else if (err == 0)
		plan_put_row(plan, object_row(buf, dir, name, &h->o), value);
	return err < 0 ? err : plan->error;
}
