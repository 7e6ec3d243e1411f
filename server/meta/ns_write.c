/* SPDX-License-Identifier: Apache-2.0 */
/* ns_write.c -- changing the bytes of an object where it stands: written, punched, cut, copied into by reference, and
 * its small extents merged.
 *
 * What an object's bytes are: its extents, ascending by logical offset and never overlapping; what none covers is
 * zeros, up to its size. At most ROW_EXTENTS_INLINE_MAX of them stand in its row, all of them; else all that a write
 * found or made are `x` rows, and none stands in the row. (Of an object that was put at once the first four stand in
 * the row; its first write takes them out.)
 *
 * Invariants: (1) a change touches the rows of the extents that it overlaps, the row in front of it, and the
 * object's own: a write of a block costs the same in an object of a kibibyte and of a tebibyte; (2) an extent that
 * is overlapped is cut, not copied: what is left of it points into the same record and keeps the checksums of the
 * record's blocks that it touches, so it is read, verified and moved by whole blocks; (3) a batch of changes is one
 * step: the later wins where two overlap; one transaction, one new version; (4) the plan holds the object
 * (plan_take_rewrite) and states its version: of two at once one is refused and plans again, so writes are ordered
 * as they commit, and no record moves between the reading of an `x` row and the commit; (5) the record of new bytes
 * is flushed before the transaction is submitted (its caller's), so after a crash a write is there whole or not at
 * all; (6) bytes that are nobody's any more leave their pack's live bytes in the same transaction; (7) an object
 * that was written has an `o` row: found by its id wherever it is renamed to, though the records only know the name
 * that it had; (8) a merge keeps version and bytes: it states that it, or the extents, are those that were read. */
#include <stdatomic.h>
#include <stdlib.h>

#include "meta/ns_extents.h"

enum { UNBLOCKING_MAX = 256 }; /* extents; what takes longer is not for those who must not block */

struct patch { /* what the bytes [start, end) become */
	uint64_t start, end;
	const struct extent *data; /* its first byte is that of the patch; NULL: zeros */
	uint32_t order;            /* of the change in its batch */
	bool refers;
};

struct base_extent { /* one that is there */
	struct extent e;
	bool is_removed, in_row, refers; /* in_row: of the object, not an `x` row of its own */
};

struct new_extent {
	struct extent e;
	bool refers; /* it has a `y` row */
};

struct writing {
	struct ns_plan *plan;
	uint64_t seen;
	struct object *o;
	struct patch *patches;
	struct base_extent *base;
	struct new_extent *fresh;
	uint32_t patch_count, base_count, base_cap, fresh_count, fresh_cap;
	const struct extent *sources; /* what must be there, where the patches are; NULL: whatever is */
	uint32_t source_count;
	int64_t covered; /* bytes that have an extent now and had none, less those that lost theirs */
	struct kv_iter *it;
	uint64_t next; /* where the first row behind those that were added begins */
	bool has_next; /* next is known */
};

/* ---- changes become patches that do not overlap ---- */

static int patch_cmp(const void *a, const void *b)
{
	const struct patch *x = a, *y = b;
	return x->start != y->start ? (x->start < y->start ? -1 : 1) : (x->order > y->order) - (x->order < y->order);
}

static struct extent patch_extent(const struct patch *p)
{
	uint64_t from = p->start - p->data->logical;
	return extent_part(p->data, (uint32_t)from, (uint32_t)(p->end - p->start));
}

/* Puts into `out` (sorted, disjoint) what of `p` nothing in it covers. */
static uint32_t patch_under(struct patch *out, uint32_t count, struct patch p)
{
	uint32_t at = 0;
	while (p.start < p.end) {
		while (at < count && out[at].end <= p.start)
			at++;
		if (at < count && out[at].start <= p.start) {
			p.start = out[at].end;
			continue;
		}
		struct patch part = p;
		if (at < count && out[at].start < p.end)
			part.end = out[at].start;
		memmove(&out[at + 1], &out[at], (count - at) * sizeof(*out));
		out[at] = part;
		count++;
		p.start = part.end;
	}
	return count;
}

/* Sorts them and lets the later win where two overlap. */
static int patches_resolve(struct writing *w)
{
	struct patch *p = w->patches;
	uint32_t count = 0, n = w->patch_count;
	bool overlaps = false;
	qsort(p, n, sizeof(*p), patch_cmp);
	for (uint32_t i = 1; i < n; i++)
		overlaps |= p[i].start < p[i - 1].end;
	if (!overlaps)
		return 0;
	/* Every border of one may cut another in two. */
	struct patch *out = plan_alloc(w->plan, (2 * (size_t)n + 1) * sizeof(*out));
	if (out == NULL)
		return -GRANARY_ENOMEM;
	for (uint32_t order = n; order-- > 0;)
		for (uint32_t i = 0; i < n; i++)
			if (p[i].order == order)
				count = patch_under(out, count, p[i]);
	w->patches = out;
	w->patch_count = count;
	return 0;
}

/* ---- what is there ---- */

static void *room_for(struct ns_plan *plan, void *at, uint32_t count, uint32_t *cap, size_t size)
{
	if (count < *cap)
		return at;
	uint32_t wide_cap = *cap == 0 ? 16 : 4 * *cap;
	void *wide = plan_alloc(plan, wide_cap * size);
	if (wide == NULL)
		return NULL;
	if (count > 0)
		memcpy(wide, at, count * size);
	*cap = wide_cap;
	return wide;
}

static int base_refers(struct writing *w, struct base_extent *b);

/* One of no bytes (an object that was put empty has it) goes with the first write: its place is another's then. */
static int base_add(struct writing *w, const struct extent *e, bool in_row)
{
	struct ns_plan *plan = w->plan;
	if (plan->may_not_block && w->base_count == UNBLOCKING_MAX)
		return -GRANARY_EAGAIN;
	w->base = room_for(plan, w->base, w->base_count, &w->base_cap, sizeof(*w->base));
	if (w->base == NULL)
		return -GRANARY_ENOMEM;
	struct base_extent *b = &w->base[w->base_count++];
	*b = (struct base_extent){ .e = *e, .in_row = in_row };
	b->e.crcs = plan_copy(plan, slice_of(e->crcs, 4 * (size_t)e->crc_count)).p;
	b->is_removed = e->length == 0;
	int err = b->is_removed ? base_refers(w, b) : 0;
	return err < 0 ? err : plan->error;
}

static uint64_t extent_end(const struct extent *e) { return e->logical + e->length; }

/* The `x` row that the iterator stands on. 1; 0: it is none of the object's, or there is none; or an error. */
static int base_here(struct writing *w, struct extent *e)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = kv_iter_error(w->it);
	if (err < 0 || !kv_iter_valid(w->it) ||
	    !slice_begins(kv_iter_key(w->it), row_extent_prefix(buf, w->o->id, w->o->generation)))
		return err;
	err = extent_row_decode(kv_iter_value(w->it), e);
	return err < 0 ? err : 1;
}

static int base_seek(struct writing *w, uint64_t at, struct extent *e)
{
	uint8_t buf[ROW_KEY_MAX];
	kv_iter_seek(w->it, row_extent(buf, w->o->id, w->o->generation, at));
	return base_here(w, e);
}

/* Adds the row in front of `at` where it reaches beyond. */
static int base_before(struct writing *w, uint64_t at)
{
	uint8_t buf[ROW_KEY_MAX];
	struct extent e;
	kv_iter_seek_back(w->it, row_extent(buf, w->o->id, w->o->generation, at));
	int has = base_here(w, &e);
	return has == 1 && extent_end(&e) > at ? base_add(w, &e, false) : has < 0 ? has : 0;
}

/* Adds the `x` rows that overlap the patch and were not added with the one before it. Going back, and on from there,
 * costs a seek each: it is not done where a row begins with the patch, as in what was written by blocks before. */
static int base_load(struct writing *w, const struct patch *p)
{
	const struct extent *last = w->base_count > 0 ? &w->base[w->base_count - 1].e : NULL;
	uint64_t reached = last != NULL && extent_end(last) > p->start ? extent_end(last) : p->start;
	struct extent e;
	if (reached >= p->end || (w->has_next && p->end <= w->next))
		return 0; /* all that is there was added */
	if (w->has_next && reached < w->next)
		reached = w->next;
	int has = base_seek(w, reached, &e);
	if (has >= 0 && reached == p->start && (has == 0 || e.logical > reached)) {
		uint64_t next = has == 1 ? e.logical : UINT64_MAX;
		int err = base_before(w, reached);
		has = err < 0 ? err : next < p->end ? base_seek(w, next, &e) : 0;
		w->next = next;
	} else {
		w->next = UINT64_MAX;
	}
	w->has_next = true;
	for (; has == 1; has = base_here(w, &e)) {
		w->next = e.logical;
		if (e.logical >= p->end)
			return 0;
		int err = base_add(w, &e, false);
		w->has_next = extent_end(&e) < p->end;
		if (err < 0 || !w->has_next)
			return err; /* it reaches the end: what begins behind it is not looked up */
		w->next = UINT64_MAX;
		kv_iter_next(w->it);
	}
	return has;
}

static int base_gather(struct writing *w)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice prefix;
	int err = 0;
	for (uint32_t i = 0; err == 0 && i < w->o->extent_count; i++)
		err = base_add(w, &w->o->extents[i], true);
	if (err < 0 || w->o->extents_outside == 0)
		return err;
	prefix = row_extent_prefix(buf, w->o->id, w->o->generation);
	w->it = w->plan->may_not_block ? kv_iter_new_cached(w->plan->ns->kv, prefix)
				       : kv_iter_new_under(w->plan->ns->kv, prefix);
	if (w->it == NULL)
		return -GRANARY_ENOMEM;
	for (uint32_t i = 0; err == 0 && i < w->patch_count; i++)
		err = base_load(w, &w->patches[i]);
	kv_iter_free(&w->it);
	return err;
}

/* ---- the sweep ---- */

static int fresh_add(struct writing *w, const struct extent *e, bool refers)
{
	w->fresh = room_for(w->plan, w->fresh, w->fresh_count, &w->fresh_cap, sizeof(*w->fresh));
	if (w->fresh == NULL)
		return -GRANARY_ENOMEM;
	w->fresh[w->fresh_count++] = (struct new_extent){ *e, refers };
	return 0;
}

/* Whether the extent has a `y` row: what is left of it needs one then. */
static int base_refers(struct writing *w, struct base_extent *b)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	if (!w->o->refers || (b->e.flags & EXTENT_HOLE) != 0)
		return 0;
	int err = row_get(w->plan->ns, w->plan, row_reference(buf, b->e.pack, b->e.record, w->o->id, b->e.logical),
			  &value);
	row_release(&value);
	b->refers = err == 0;
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

struct sweep {
	struct writing *w;
	uint32_t next; /* base extent behind the one at hand */
	struct base_extent *b;
	struct extent left; /* of b: what no patch so far touched */
};

static int sweep_flush(struct sweep *s)
{
	struct base_extent *b = s->b;
	s->b = NULL;
	return b->is_removed ? fresh_add(s->w, &s->left, b->refers) : 0;
}

/* b and the patch overlap: its head stays, its tail is left for the next patch. */
static int sweep_cut(struct sweep *s, const struct patch *p)
{
	struct extent e = s->left, head;
	int err = 0;
	if (!s->b->is_removed)
		err = base_refers(s->w, s->b);
	s->b->is_removed = true;
	if (err == 0 && e.logical < p->start) {
		head = extent_part(&e, 0, (uint32_t)(p->start - e.logical));
		err = fresh_add(s->w, &head, s->b->refers);
	}
	if (extent_end(&e) > p->end) {
		uint32_t from = (uint32_t)(p->end - e.logical);
		s->left = extent_part(&e, from, e.length - from);
	} else {
		s->b = NULL;
	}
	return err;
}

static int sweep_patch(struct sweep *s, const struct patch *p)
{
	struct writing *w = s->w;
	int err = 0;
	while (err == 0 && (s->b != NULL || s->next < w->base_count)) {
		if (s->b == NULL) {
			s->b = &w->base[s->next++];
			s->left = s->b->e;
		}
		if (s->left.length == 0) {
			s->b = NULL;
			continue;
		}
		if (extent_end(&s->left) <= p->start) {
			err = sweep_flush(s);
			continue;
		}
		if (s->left.logical >= p->end)
			break;
		err = sweep_cut(s, p);
		if (s->b != NULL)
			break; /* its tail lies behind the patch */
	}
	if (err == 0 && p->data != NULL) {
		struct extent e = patch_extent(p);
		err = fresh_add(w, &e, p->refers);
	}
	return err;
}

static int sweep_all(struct writing *w)
{
	struct sweep s = { .w = w };
	int err = 0;
	for (uint32_t i = 0; err == 0 && i < w->patch_count; i++)
		err = sweep_patch(&s, &w->patches[i]);
	return err == 0 && s.b != NULL ? sweep_flush(&s) : err;
}

/* ---- rows ---- */

static void account(struct writing *w, const struct extent *e, bool refers, int sign)
{
	uint8_t buf[ROW_KEY_MAX];
	if ((e->flags & EXTENT_HOLE) != 0)
		return;
	w->covered += sign * (int64_t)e->length;
	plan_account_pack(w->plan, e, sign);
	if (!refers)
		return;
	struct slice key = row_reference(buf, e->pack, e->record, w->o->id, e->logical);
	if (sign < 0)
		plan_delete_row(w->plan, key);
	else
		plan_put_row(w->plan, key, slice_of(NULL, 0));
}

static int extent_row_put(struct writing *w, const struct extent *e)
{
	uint8_t buf[ROW_KEY_MAX];
	int64_t len = extent_row_encode(e, plan_buf(), PLAN_BUF_SIZE);
	if (len < 0)
		return (int)len;
	plan_put_row(w->plan, row_extent(buf, w->o->id, w->o->generation, e->logical),
		     slice_of(plan_buf(), (size_t)len));
	return w->plan->error;
}

static int extents_in_row(struct writing *w)
{
	struct extent all[ROW_EXTENTS_INLINE_MAX];
	uint32_t n = 0, f = 0;
	for (uint32_t i = 0; i < w->base_count; i++) {
		if (w->base[i].is_removed)
			continue;
		while (f < w->fresh_count && w->fresh[f].e.logical < w->base[i].e.logical)
			all[n++] = w->fresh[f++].e;
		all[n++] = w->base[i].e;
	}
	while (f < w->fresh_count)
		all[n++] = w->fresh[f++].e;
	for (uint32_t i = 0; i < n; i++)
		w->o->extents[i] = all[i];
	w->o->extent_count = n;
	return 0;
}

/* Rows that go, but where another one is put in their place; those that stood in the object's row; the new ones. */
static int extents_in_rows(struct writing *w)
{
	uint8_t buf[ROW_KEY_MAX];
	struct object *o = w->o;
	uint32_t f = 0;
	int err = 0;
	for (uint32_t i = 0; err == 0 && i < w->base_count; i++) {
		struct base_extent *b = &w->base[i];
		while (f < w->fresh_count && w->fresh[f].e.logical < b->e.logical)
			f++;
		if (b->in_row && !b->is_removed)
			err = extent_row_put(w, &b->e);
		else if (!b->in_row && b->is_removed && (f == w->fresh_count || w->fresh[f].e.logical != b->e.logical))
			plan_delete_row(w->plan, row_extent(buf, o->id, o->generation, b->e.logical));
	}
	for (f = 0; err == 0 && f < w->fresh_count; f++)
		err = extent_row_put(w, &w->fresh[f].e);
	o->extent_count = 0;
	return err;
}

static int rows_change(struct writing *w)
{
	struct object *o = w->o;
	uint64_t total = (uint64_t)o->extent_count + o->extents_outside + w->fresh_count;
	for (uint32_t i = 0; i < w->base_count; i++) {
		struct base_extent *b = &w->base[i];
		if (!b->is_removed)
			continue;
		account(w, &b->e, b->refers, -1);
		total--;
	}
	for (uint32_t i = 0; i < w->fresh_count; i++) {
		account(w, &w->fresh[i].e, w->fresh[i].refers, 1);
		o->refers |= w->fresh[i].refers;
	}
	if (total > UINT32_MAX)
		return -GRANARY_ETOOBIG;
	if (o->extents_outside == 0 && total <= ROW_EXTENTS_INLINE_MAX)
		return extents_in_row(w);
	o->extents_outside = (uint32_t)total;
	return extents_in_rows(w);
}

static bool is_same_extent(const struct extent *a, const struct extent *b)
{
	return a->logical == b->logical && a->length == b->length && a->pack == b->pack && a->record == b->record &&
		a->cut_before == b->cut_before && a->flags == b->flags;
}

static int base_check(const struct writing *w)
{
	if (w->sources == NULL)
		return 0;
	uint32_t n = 0;
	for (uint32_t i = 0, p = 0; i < w->base_count; i++) {
		const struct extent *e = &w->base[i].e;
		while (p < w->patch_count && w->patches[p].end <= e->logical)
			p++;
		if (e->length == 0 || p == w->patch_count || extent_end(e) <= w->patches[p].start)
			continue; /* of the row, and elsewhere */
		if (n == w->source_count || !is_same_extent(e, &w->sources[n++]))
			return -GRANARY_ENOTFOUND;
	}
	return n == w->source_count ? 0 : -GRANARY_ENOTFOUND;
}

/* The object's bytes as the patches say; its row is the caller's. */
static int extents_change(struct writing *w)
{
	int err = patches_resolve(w);
	if (err == 0)
		err = base_gather(w);
	if (err == 0)
		err = base_check(w);
	if (err == 0)
		err = sweep_all(w);
	return err == 0 ? rows_change(w) : err;
}

/* Saturates: of a file with holes that nobody counted. */
static void holes_count(struct object *o, uint64_t size, int64_t covered)
{
	int64_t stored = (int64_t)o->size - (int64_t)o->holes + covered;
	if (stored < 0)
		stored = 0;
	o->size = size;
	o->holes = size > (uint64_t)stored ? size - (uint64_t)stored : 0;
}

/* ---- writes ---- */

static int change_check(const struct ns_change *c)
{
	if (c->offset > INT64_MAX || c->length > INT64_MAX - c->offset)
		return -GRANARY_ETOOBIG;
	switch (c->kind) {
	case NS_CHANGE_DATA:
		if (c->length == 0 || c->length != c->extent.length || c->offset != c->extent.logical)
			return -GRANARY_EINVAL;
		return 0;
	case NS_CHANGE_ZEROS:
	case NS_CHANGE_PUNCH: return c->length > 0 ? 0 : -GRANARY_EINVAL;
	case NS_CHANGE_TRUNCATE: return c->length == 0 ? 0 : -GRANARY_EINVAL;
	default: return -GRANARY_EINVAL;
	}
}

/* The patches of the changes, in their order; *size as they leave it. */
static int patches_make(struct writing *w, const struct ns_change *changes, uint32_t count, uint64_t *size)
{
	w->patches = plan_alloc(w->plan, (count + 1) * sizeof(*w->patches));
	if (w->patches == NULL)
		return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		const struct ns_change *c = &changes[i];
		struct patch p = { c->offset, c->offset + c->length, NULL, w->patch_count, c->refers };
		int err = change_check(c);
		if (err < 0)
			return err;
		if (c->kind == NS_CHANGE_DATA)
			p.data = &c->extent;
		if (c->kind == NS_CHANGE_TRUNCATE) {
			p.end = UINT64_MAX;
			*size = p.start;
		} else if (c->kind != NS_CHANGE_PUNCH && p.end > *size) {
			*size = p.end;
		}
		w->patches[w->patch_count++] = p;
	}
	return 0;
}

static int put_object(struct ns_plan *plan, const struct holder *h, struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	uint64_t dir = h->spot.dir.d.id;
	struct slice value;
	if (!o->has_links) { /* invariant (7) */
		o->has_links = true;
		plan_put_row(plan, row_link(buf, o->id, dir, h->spot.name), slice_of(NULL, 0));
	}
	int err = plan_encode(plan, o, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, object_row(buf, dir, h->spot.name, o), value);
	plan_touch(plan, dir, h->spot.name, o->id);
	return plan->error;
}

/* A plan reads the rows of extents as they were before it. */
static int written_before(struct ns_plan *plan, const struct holder *h)
{
	uint8_t buf[ROW_KEY_MAX];
	const struct plan_row *row = plan_row_find(plan, object_row(buf, h->spot.dir.d.id, h->spot.name, &h->o));
	return row != NULL && row->change != ROW_SAME ? -GRANARY_EINVAL : 0;
}

/* What is done again after it was lost does not change what others changed meanwhile. */
static bool is_newer_than_replay(const struct object *o, uint64_t version)
{
	return ids_used() != NULL && ids_used()->is_replay && o->version > version;
}

static int write_found(struct ns_plan *plan, uint64_t seen, struct ns_write *x, struct holder *h)
{
	struct object *o = &h->o;
	struct writing w = { .plan = plan, .seen = seen, .o = o };
	uint64_t size = o->size;
	if (h->is_dir)
		return -GRANARY_EISDIR;
	if (!object_has_bytes(o))
		return -GRANARY_ENOTFILE;
	if (x->id != 0 && (o->id != x->id || o->generation != x->generation))
		return -GRANARY_ECHANGED;
	if (x->if_version != 0 && o->version != x->if_version)
		return -GRANARY_EPRECONDITION;
	x->version = ids_version(plan->ns->ids);
	if (is_newer_than_replay(o, x->version))
		return -GRANARY_EPRECONDITION;
	int err = written_before(plan, h);
	if (err == 0 && h->spot.orphan != 0 && plan_state_bucket(plan, h->spot.dir.d.bucket) < 0)
		err = -GRANARY_ESTALE; /* nobody is left who pays for its bytes */
	if (err == 0)
		err = patches_make(&w, x->changes, x->count, &size);
	if (err < 0)
		return err;
	plan_state_entry(plan, seen, h->spot.dir.d.id, h->spot.name, o);
	err = extents_change(&w);
	if (err < 0)
		return err;
	plan_account_bucket(plan, h->spot.dir.d.bucket, (int64_t)size - (int64_t)o->size, 0);
	holes_count(o, size, w.covered);
	x->size = size;
	o->version = x->version;
	o->mtime_ns = x->mtime_ns != 0 ? x->mtime_ns : plan->now_ns;
	o->ctime_ns = plan->now_ns;
	o->written_ns = plan->ns->clock == NULL ? 0 : store_clock_now(plan->ns->clock);
	o->has_hash = false;
	o->drops_sums = true;
	x->object = o->id;
	x->dir = h->spot.dir.d.id;
	return put_object(plan, h, o);
}

int ns_plan_write(struct ns_plan *plan, struct ns_write *x)
{
	struct holder h;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = holder_find(plan->ns, plan, &x->ref, &h);
	if (err < 0)
		return err;
	err = write_found(plan, seen, x, &h);
	holder_release(&h);
	if (err == 0)
		atomic_fetch_add_explicit(&plan->ns->writes, 1, memory_order_relaxed);
	return err;
}

uint64_t ns_writes(struct ns *ns)
{
	return atomic_load_explicit(&ns->writes, memory_order_relaxed);
}

/* ---- merging ---- */

static int merge_found(struct ns_plan *plan, uint64_t seen, const struct ns_merge *m, struct holder *h)
{
	struct writing w = { .plan = plan, .seen = seen, .o = &h->o, .patch_count = m->count };
	if (h->is_dir || !object_has_bytes(&h->o) || (m->version != 0 && h->o.version != m->version))
		return -GRANARY_ENOTFOUND;
	if (m->source_count > 0) {
		w.sources = m->sources;
		w.source_count = m->source_count;
	}
	int err = written_before(plan, h);
	if (err < 0)
		return err;
	plan_state_entry(plan, seen, h->spot.dir.d.id, h->spot.name, &h->o);
	w.patches = plan_alloc(plan, (m->count + 1) * sizeof(*w.patches));
	if (w.patches == NULL)
		return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < m->count; i++)
		w.patches[i] = (struct patch){ m->extents[i].logical, extent_end(&m->extents[i]), &m->extents[i], i,
					       false };
	err = extents_change(&w);
	holes_count(&h->o, h->o.size, w.covered);
	return err < 0 ? err : put_object(plan, h, &h->o);
}

int ns_plan_merge(struct ns_plan *plan, const struct ns_merge *m)
{
	struct holder h;
	struct ns_ref ref = { .by = NS_BY_ID, .id = m->id };
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = holder_find(plan->ns, plan, &ref, &h);
	if (err < 0)
		return err == -GRANARY_ESTALE ? -GRANARY_ENOTFOUND : err;
	err = merge_found(plan, seen, m, &h);
	holder_release(&h);
	return err;
}

/* ---- copying a range by reference ---- */

struct range_copy {
	struct ns_plan *plan;
	uint64_t seen, from, end, to;
	struct ns_change *changes;
	uint32_t count, cap;
};

/* What of e lies in the range, at its new place. */
static int range_extent(void *arg, const struct extent *e)
{
	struct range_copy *r = arg;
	uint64_t lo = e->logical > r->from ? e->logical : r->from;
	uint64_t hi = extent_end(e) < r->end ? extent_end(e) : r->end;
	if (lo >= hi || (e->flags & EXTENT_HOLE) != 0)
		return 0;
	if (r->count == NS_EXTENTS_MAX)
		return -GRANARY_ETOOBIG;
	r->changes = room_for(r->plan, r->changes, r->count, &r->cap, sizeof(*r->changes));
	if (r->changes == NULL)
		return -GRANARY_ENOMEM;
	struct extent part = extent_part(e, (uint32_t)(lo - e->logical), (uint32_t)(hi - lo));
	part.logical = r->to + (lo - r->from);
	part.crcs = plan_copy(r->plan, slice_of(part.crcs, 4 * (size_t)part.crc_count)).p;
	r->changes[r->count++] = (struct ns_change){ .kind = NS_CHANGE_DATA, .offset = part.logical,
						     .length = part.length, .extent = part, .refers = true };
	return r->plan->error;
}

/* The source's extents, and that none of them is moved until the commit: its rows are read after it was held, or, where
 * it is the target itself, it is held anyway. */
static int range_gather(struct range_copy *r, struct ns_copy_range *c, struct holder *h)
{
	const struct object *o = &h->o;
	if (h->is_dir)
		return -GRANARY_EISDIR;
	if (!object_has_bytes(o))
		return -GRANARY_ENOTFILE;
	if (c->from_version != 0 && c->from_version != o->version)
		return -GRANARY_ECHANGED;
	if (ids_used() != NULL && is_newer_than_replay(o, ids_used()->version))
		return -GRANARY_EPRECONDITION;
	if (c->from_offset > o->size)
		return -GRANARY_ERANGE;
	c->copied = c->length < o->size - c->from_offset ? c->length : o->size - c->from_offset;
	r->from = c->from_offset;
	r->end = c->from_offset + c->copied;
	r->to = c->to_offset;
	if (c->to_offset > INT64_MAX - c->copied)
		return -GRANARY_ETOOBIG;
	/* First zeros over all of it: what is a hole in the source is one in the target. */
	r->changes = room_for(r->plan, NULL, 0, &r->cap, sizeof(*r->changes));
	if (r->changes == NULL)
		return -GRANARY_ENOMEM;
	if (c->copied > 0)
		r->changes[r->count++] = (struct ns_change){ .kind = NS_CHANGE_ZEROS, .offset = c->to_offset,
							     .length = c->copied };
	plan_state_entry(r->plan, r->seen, h->spot.dir.d.id, h->spot.name, o);
	int err = 0;
	for (uint32_t i = 0; err == 0 && i < o->extent_count; i++)
		err = range_extent(r, &o->extents[i]);
	return err == 0 ? ns_extents(r->plan->ns, o, r->from, c->copied, range_extent, r) : err;
}

int ns_plan_copy_range(struct ns_plan *plan, struct ns_copy_range *c)
{
	struct range_copy r = { .plan = plan, .seen = kv_seq(plan->ns->kv) };
	struct holder h;
	int err = plan->may_not_block ? -GRANARY_EAGAIN : holder_find(plan->ns, plan, &c->from, &h);
	if (err < 0)
		return err;
	err = range_gather(&r, c, &h);
	if (err < 0) {
		holder_release(&h);
		return err;
	}
	struct ns_write x = { .ref = c->to, .if_version = c->if_version, .changes = r.changes, .count = r.count };
	err = ns_plan_write(plan, &x);
	holder_release(&h);
	c->object = x.object;
	c->version = x.version;
	c->size = x.size;
	c->dir = x.dir;
	return err;
}
