/* SPDX-License-Identifier: Apache-2.0 */
/* ns_lookup.c -- finding an entry: in the tables without blocking, else in the rows, filling the tables.
 * Invariants: (1) a key is answered only if no directory was renamed or removed between the walk and the row (the path
 * stamp), so the answer was true of one moment; (2) a location is filled under the stamp of the place it was read
 * from, taken before the read, and never with what is pending (kv_pending.h). */
#include "meta/ns_holder.h"

bool obj_loc_of(const struct object *o, uint64_t dir, struct obj_loc *out)
{
	const struct extent *e = &o->extents[0];
	bool is_whole = o->extent_count == 1 && e->logical == 0 && e->length == o->size &&
		(e->flags & (EXTENT_HOLE | EXTENT_UNSUMMED)) == 0 && !extent_is_cut(e) && e->crc_count <= LOC_CRCS_MAX;
	bool is_empty = o->extent_count == 0 && o->size == 0;
	if (o->is_dir || o->in_inode || !object_has_bytes(o) || o->extents_outside > 0 || (!is_whole && !is_empty))
		return false;
	memset(out, 0, sizeof(*out));
	out->id = o->id;
	out->version = o->version;
	out->size = o->size;
	out->mtime_ns = o->mtime_ns;
	out->dir_id = dir;
	out->hash = o->hash;
	out->mode = o->mode;
	out->uid = o->uid;
	out->gid = o->gid;
	out->has_hash = o->has_hash;
	out->has_meta = o->meta.len > 0;
	if (is_whole) {
		out->pack = e->pack;
		out->record = e->record;
		out->skip = e->skip;
		out->crc_count = (uint8_t)e->crc_count;
		memcpy(out->crcs, e->crcs, 4 * (size_t)e->crc_count);
	}
	return true;
}

void ns_probe_begin(struct ns *ns, const struct ns_ref *ref, const struct ns_probe *before, struct ns_probe *probe)
{
	struct slice name;
	*probe = (struct ns_probe){ .ref = ref };
	switch (ref->by) {
	case NS_BY_KEY:
		key_split(ref->name, &probe->dir_part, &name);
		probe->stamp = loc_path_stamp(ns->loc);
		if (before != NULL && before->ref->by == NS_BY_KEY && before->ref->bucket == ref->bucket &&
		    before->stamp == probe->stamp && slice_eq(before->dir_part, probe->dir_part))
			probe->dir = before->dir;
		else if (!loc_path_find(ns->loc, ref->bucket, probe->dir_part, &probe->dir))
			probe->dir = 0;
		if (probe->dir != 0)
			loc_probe_name(ns->loc, probe->dir, name, &probe->loc);
		break;
	case NS_BY_NAME:
		loc_probe_name(ns->loc, ref->dir, ref->name, &probe->loc);
		break;
	case NS_BY_ID:
		loc_probe_id(ns->loc, ref->id, &probe->loc);
		break;
	}
}

/* Not inline: a compiler that sees that nothing comes of it leaves it out. */
void ns_probes_fetch(const struct ns_probe *probes, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		for (int line = 0; line < 3; line++)
			__builtin_prefetch(probes[i].loc.lines[line]);
}

void ns_probe_next(struct ns *ns, struct ns_probe *probe)
{
	loc_probe_next(ns->loc, &probe->loc);
}

int ns_probe_end(struct ns *ns, const struct ns_probe *probe, struct obj_loc *out)
{
	bool found = loc_probe_end(ns->loc, &probe->loc, out);
	if (probe->ref->by == NS_BY_KEY) /* invariant (1) */
		found = found && probe->dir != 0 && loc_path_stamp(ns->loc) == probe->stamp;
	return found ? 0 : -GRANARY_EAGAIN;
}

int ns_find_cached(struct ns *ns, const struct ns_ref *ref, struct obj_loc *out)
{
	struct ns_probe probe;
	ns_probe_begin(ns, ref, NULL, &probe);
	ns_probe_next(ns, &probe);
	return ns_probe_end(ns, &probe, out);
}

/* A directory's inode as an entry. */
static int lookup_dir(struct ns *ns, uint64_t id, struct ns_place *place, struct object *out, struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = row_get_object(ns, NULL, row_inode(buf, id), out, value);
	if (err < 0)
		return err;
	if (!out->is_dir) {
		row_release(value);
		return -GRANARY_ENOTFOUND;
	}
	place->bucket = out->bucket;
	place->orphan = 0;
	place->dir = out->parent;
	place->name = out->name;
	return 0;
}

static int lookup_name_dir(struct ns *ns, const struct spot *s, struct ns_place *place, struct object *out,
			   struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	uint64_t id;
	int err = row_get(ns, NULL, row_entry(buf, s->dir.d.id, s->name, true), value);
	if (err < 0)
		return err;
	bool is_sound = value_u64(value->v, TAG_ID, 0, &id);
	row_release(value);
	return is_sound ? lookup_dir(ns, id, place, out, value) : -GRANARY_ECORRUPT;
}

static void place_of_spot(struct ns_place *place, const struct ns_ref *ref, const struct spot *s)
{
	place->bucket = s->dir.d.bucket;
	place->orphan = s->orphan;
	place->dir = s->dir.d.id;
	place->name = s->name;
	if (ref->by == NS_BY_ID) { /* the spot will be gone */
		if (s->name.len > 0)
			memcpy(place->buf, s->name.p, s->name.len);
		place->name = slice_of(place->buf, s->name.len);
	}
}

static int lookup_once(struct ns *ns, const struct ns_ref *ref, struct ns_place *place, struct object *out,
		       struct kv_value *value)
{
	struct spot s;
	struct obj_loc loc;
	uint64_t met = kv_pending_met();
	int err = spot_find_any(ns, NULL, ref, false, &s);
	if (ref->by == NS_BY_ID && (err == -GRANARY_EISDIR || (err == 0 && s.is_dir)))
		return lookup_dir(ns, ref->id, place, out, value);
	if (err < 0)
		return err;
	if (s.missing.len > 0)
		return -GRANARY_ENOTFOUND;
	uint64_t stamp = loc_stamp(ns->loc, s.dir.d.id, s.name); /* invariant (2) */
	err = spot_get(ns, NULL, &s, out, value);
	if (err == -GRANARY_ENOTFOUND && ref->by == NS_BY_NAME)
		return lookup_name_dir(ns, &s, place, out, value);
	if (err == 0 && ref->by == NS_BY_ID && out->id != ref->id) {
		row_release(value);
		err = -GRANARY_ENOTFOUND; /* renamed or replaced since: once more */
	}
	if (err < 0)
		return err;
	place_of_spot(place, ref, &s);
	if (kv_pending_met() == met && obj_loc_of(out, s.dir.d.id, &loc))
		loc_fill(ns->loc, stamp, s.dir.d.id, s.name, &loc);
	return 0;
}

int ns_lookup(struct ns *ns, const struct ns_ref *ref, struct ns_place *place, struct object *out,
	      struct kv_value *value)
{
	for (int tries = 0;; tries++) {
		uint64_t stamp = loc_path_stamp(ns->loc);
		*value = (struct kv_value){ .pin = NULL };
		int err = lookup_once(ns, ref, place, out, value);
		bool is_torn = loc_path_stamp(ns->loc) != stamp ||
			(ref->by == NS_BY_ID && (err == -GRANARY_ENOTFOUND || err == -GRANARY_EBUSY));
		if (!is_torn || tries == WALK_TRIES)
			return ref->by == NS_BY_ID && err == -GRANARY_ENOTFOUND ? -GRANARY_ESTALE : err;
		if (err == 0)
			row_release(value);
	}
}

/* ---- extents past those in the row ---- */

struct extents_wanted { uint64_t from, offset, end; };

static int extents_scan(struct ns *ns, struct kv_snapshot *view, const struct object *o, const struct extents_wanted *w,
			int (*each)(void *arg, const struct extent *e), void *arg)
{
	uint8_t buf[ROW_KEY_MAX], prefix_buf[ROW_KEY_MAX];
	struct slice prefix = row_extent_prefix(prefix_buf, o->id, o->generation);
	struct kv_iter *it = view != NULL ? kv_iter_new(ns->kv, view) : kv_iter_new_under(ns->kv, prefix);
	int err = 0;
	if (it == NULL)
		return -GRANARY_ENOMEM;
	kv_iter_seek(it, row_extent(buf, o->id, o->generation, w->from));
	while (err == 0 && kv_iter_valid(it) && slice_begins(kv_iter_key(it), prefix)) {
		struct extent e;
		err = extent_row_decode(kv_iter_value(it), &e);
		if (err == 0 && e.logical >= w->end)
			break;
		if (err == 0 && e.logical + e.length > w->offset)
			err = each(arg, &e);
		kv_iter_next(it);
	}
	if (err == 0)
		err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

int ns_extents(struct ns *ns, const struct object *o, uint64_t offset, uint64_t len,
	       int (*each)(void *arg, const struct extent *e), void *arg)
{
	struct extents_wanted w = {
		.from = offset < EXTENT_LEN_MAX ? 0 : offset - EXTENT_LEN_MAX, /* the first that may reach to offset */
		.offset = offset, .end = len > UINT64_MAX - offset ? UINT64_MAX : offset + len,
	};
	if (o->extents_outside == 0 || len == 0)
		return 0;
	return extents_scan(ns, NULL, o, &w, each, arg);
}

int ns_extents_in(struct ns *ns, struct kv_snapshot *view, const struct object *o,
		  int (*each)(void *arg, const struct extent *e), void *arg)
{
	struct extents_wanted w = { .end = UINT64_MAX };
	return o->extents_outside == 0 ? 0 : extents_scan(ns, view, o, &w, each, arg);
}
