/* SPDX-License-Identifier: Apache-2.0 */
/* rebuild_place.c -- gives objects that were made of records their names, and the metadata's own what is newer of them.
 * Invariants: (1) a directory gets the id that records name for its path, if they name one: then a record leads to the
 * name of its object; (2) a plan that meets somebody else's change is made again: the batch stays until it is
 * committed. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/tlv.h"
#include "jobs/rebuild_priv.h"
#include "meta/ids.h"
#include "meta/ns_file.h"

enum { BATCH_OBJECTS = 512, BATCH_BYTES = 8 * 1024 * 1024, TRIES = 8 };
#define UNPLACED_DIR    "lost+found"
#define UNPLACED_BUCKET "lost-found"

struct placer {
	struct rebuild *r;
	struct scratch *s;
	struct ns *ns;
	const struct rebuild_ids *present, *groups;
	struct object_records batch[BATCH_OBJECTS];
	uint32_t count;
	size_t bytes;
	struct rebuild_ids with_gaps; /* objects that wait until all others have their names */
	bool is_with_gaps;            /* it is their turn */
};

/* What became of the objects of one plan: counted when it is committed. */
struct outcome {
	uint64_t placed, superseded, incomplete, unplaced;
};

int placer_open(struct rebuild *r, struct scratch *s, const struct rebuild_ids *present,
	const struct rebuild_ids *groups, struct placer **out)
{
	struct ns_options o = { .kv = r->kv, .ids = r->ids, .loc = r->loc, .clock = r->clock };
	struct placer *p = calloc(1, sizeof(*p));

	*out = p;
	if (p == NULL) return -GRANARY_ENOMEM;
	p->r = r;
	p->s = s;
	p->present = present;
	p->groups = groups;
	return ns_open(&o, &p->ns);
}

void placer_close(struct placer **pp)
{
	struct placer *p = *pp;

	*pp = NULL;
	if (p == NULL) return;
	for (uint32_t i = 0; i < BATCH_OBJECTS; i++) records_free(&p->batch[i]);
	if (p->ns != NULL) ns_close(&p->ns);
	free(p->with_gaps.at);
	free(p);
}

static void tell(const struct placer *p, const char *what, struct slice name)
{
	char text[BUCKET_LEN_MAX + 2 * KEY_LEN_MAX + 64];

	if (p->r->lost != NULL) p->r->lost(p->r->arg, what, name_escape(text, sizeof(text), name));
}

/* ---- buckets and directories that are not there ---- */

static int bucket_ensure(struct placer *p, const struct scratch_dir *d, struct ns_bucket *b)
{
	struct slice name = slice_str(d->bucket_name);
	uint64_t root = 0, id = d->bucket;
	int err = ns_bucket_find(p->ns, name, b);

	if (err != -GRANARY_ENOBUCKET) return err;
	err = scratch_path_get(p->s, d->bucket_name, slice_of(NULL, 0), &root);
	if (err < 0 && err != -GRANARY_ENOTFOUND) return err;
	if (id != 0 && ns_bucket_by_id(p->ns, id, b) == 0) id = 0; /* it had another name once */
	err = ns_bucket_adopt(p->ns, name, id, root);
	return err < 0 ? err : ns_bucket_find(p->ns, name, b);
}

static int adopt_one(struct placer *p, struct ns_plan *plan, uint64_t bucket, const struct scratch_dir *d, size_t len)
{
	struct slice path = slice_of(d->path, len);
	uint64_t id;
	int err = scratch_path_get(p->s, d->bucket_name, path, &id);

	if (err == 0) err = ns_plan_adopt_dir(plan, bucket, path, id, ids_have(p->groups, id));
	return err == -GRANARY_ENOTFOUND || err == -GRANARY_EEXIST ? 0 : err;
}

/* The directory and those above it, as far as records name them. */
static int adopt_path(struct placer *p, struct ns_plan *plan, uint64_t bucket, const struct scratch_dir *d)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < d->path_len; i++)
		if (d->path[i] == '/') err = adopt_one(p, plan, bucket, d, i + 1);
	return err;
}

/* ---- one object ---- */

struct putting {
	struct placer *p;
	struct ns_plan *plan;
	const struct kept *newest;
	struct made_object *made;
	struct outcome *out;
	char key[2 * KEY_LEN_MAX + 64];
};

static int put_as(struct putting *x, enum ns_by by, uint64_t where, struct slice name)
{
	struct ns_put *put = &x->made->put;

	put->ref = (struct ns_ref){ .by = by, .name = name };
	if (by == NS_BY_KEY)
		put->ref.bucket = where;
	else
		put->ref.dir = where;
	put->condition = x->made->is_complete ? NS_IF_NEWER : NS_IF_ABSENT;
	return ns_plan_put(x->plan, put);
}

static int put_by_key(struct putting *x, uint64_t bucket, struct slice path)
{
	struct slice name = x->newest->name;
	size_t len = path.len + name.len;

	if (len > KEY_LEN_MAX || len == 0) return -GRANARY_ENAME;
	if (path.len > 0) memcpy(x->key, path.p, path.len);
	if (name.len > 0) memcpy(x->key + path.len, name.p, name.len);
	x->made->put.is_linked = true; /* the records name another directory */
	return put_as(x, NS_BY_KEY, bucket, slice_of(x->key, len));
}

/* The bucket that the record names, if it is known; else one of its own. */
static int unplaced_bucket(struct putting *x, struct ns_bucket *b)
{
	struct cur c = cur_of(x->newest->attrs.p, x->newest->attrs.len);
	struct scratch_dir d = { .bucket_name = UNPLACED_BUCKET };
	struct slice v;
	uint16_t tag;

	while (tlv_next(&c, &tag, &v))
		if (tag == TAG_BUCKET && ns_bucket_by_id(x->p->ns, tlv_u64(v), b) == 0) return 0;
	return bucket_ensure(x->p, &d, b);
}

static int put_unplaced(struct putting *x)
{
	struct slice name = x->newest->name;
	struct ns_bucket b;
	int err = unplaced_bucket(x, &b), n;

	if (err < 0) return err;
	n = snprintf(x->key, sizeof(x->key), UNPLACED_DIR "/%016" PRIx64 "/", x->newest->dir);
	if ((size_t)n + name.len > KEY_LEN_MAX || component_check(name) < 0) name.len = 0;
	if (name.len > 0) memcpy(x->key + n, name.p, name.len);
	if (name.len == 0) n += snprintf(x->key + n, sizeof(x->key) - (size_t)n, "%016" PRIx64, x->newest->object);
	x->made->put.is_linked = true;
	x->out->unplaced++;
	return put_as(x, NS_BY_KEY, b.id, slice_of(x->key, (size_t)n + name.len));
}

static bool is_system(const struct scratch_dir *d)
{
	return d->bucket_name[0] == '.';
}

/* The directory is not in the metadata: by the path that it was last seen at. */
static int put_by_path(struct putting *x)
{
	struct placer *p = x->p;
	struct scratch_dir d;
	struct ns_bucket b;
	uint64_t at;
	int err = scratch_dir_get(p->s, x->newest->dir, &d);

	if (err == -GRANARY_ENOTFOUND) return put_unplaced(x);
	if (err == 0 && is_system(&d)) return -GRANARY_EPRECONDITION; /* a page of a snapshot: its row is lost */
	if (err == 0) err = bucket_ensure(p, &d, &b);
	if (err == 0) err = adopt_path(p, x->plan, b.id, &d);
	if (err == 0) err = scratch_path_get(p->s, d.bucket_name, slice_of(d.path, d.path_len), &at);
	if (err < 0) return err;
	if (at == x->newest->dir) { /* no other one was seen there later */
		err = put_as(x, NS_BY_NAME, x->newest->dir, x->newest->name);
		if (err != -GRANARY_ENOTFOUND) return err;
	}
	return put_by_key(x, b.id, slice_of(d.path, d.path_len));
}

static bool records_agree(const struct object_records *o, const struct kept *newest)
{
	for (uint32_t i = 0; i < o->count; i++)
		if (o->at[i].dir != newest->dir || !slice_eq(o->at[i].name, newest->name)) return false;
	return true;
}

/* Ids come in ascending order, again when a plan is made again. */
static int with_gaps_add(struct placer *p, uint64_t id)
{
	const struct rebuild_ids *ids = &p->with_gaps;

	return ids->count > 0 && ids->at[ids->count - 1] >= id ? 0 : ids_add(&p->with_gaps, id);
}

static int place_one(struct placer *p, struct ns_plan *plan, const struct object_records *o, struct outcome *out)
{
	struct made_object made;
	struct putting x = { .p = p, .plan = plan, .newest = records_newest(o), .made = &made, .out = out };
	int err = object_make(o, &made);

	made.put.is_linked = !records_agree(o, x.newest);
	if (err == 0 && !made.is_complete && !p->is_with_gaps) {
		free(made.extents);
		return with_gaps_add(p, made.put.id);
	}
	if (err == 0) /* NAME: one that cannot be */
		err = put_as(&x, NS_BY_NAME, x.newest->dir, x.newest->name);
	if (err == -GRANARY_ENOTFOUND) err = put_by_path(&x);
	if (err == -GRANARY_ENAME) err = put_unplaced(&x);
	if (err == 0) {
		out->placed += made.put.replaced_version == 0;
		out->superseded += made.put.replaced_version != 0; /* the one that was there */
		out->incomplete += !made.is_complete;
		if (!made.is_complete) tell(p, "incomplete", x.newest->key.len > 0 ? x.newest->key : x.newest->name);
	} else if (err == -GRANARY_EPRECONDITION || err == -GRANARY_EISDIR) {
		out->superseded++;
		err = 0;
	}
	free(made.extents);
	return err;
}

/* ---- a batch ---- */

static int plan_commit(struct placer *p, struct ns_plan *plan)
{
	int err = ns_plan_finish(plan);

	if (err < 0) return err;
	err = kv_submit_wait(p->r->kv, ns_plan_txn(plan));
	ns_plan_committed(plan, err);
	return err;
}

static int batch_once(struct placer *p, struct outcome *out)
{
	struct ns_plan *plan = ns_plan_new(p->ns);
	int err = plan != NULL ? 0 : -GRANARY_ENOMEM;

	memset(out, 0, sizeof(*out));
	if (err == 0) ns_plan_set_unlimited(plan);
	for (uint32_t i = 0; err == 0 && i < p->count; i++) err = place_one(p, plan, &p->batch[i], out);
	if (err == 0) err = plan_commit(p, plan);
	if (plan != NULL) ns_plan_free(&plan);
	return err;
}

int placer_end(struct placer *p)
{
	struct outcome out;
	int err = p->count > 0 ? -GRANARY_EBUSY : 0;

	for (int tries = 0; err == -GRANARY_EBUSY && tries < TRIES; tries++) err = batch_once(p, &out);
	if (err < 0 || p->count == 0) return err;
	p->r->placed += out.placed;
	p->r->superseded += out.superseded;
	p->r->incomplete += out.incomplete;
	p->r->unplaced += out.unplaced;
	for (uint32_t i = 0; i < p->count; i++) records_clear(&p->batch[i]);
	p->count = 0;
	p->bytes = 0;
	return 0;
}

static int batch_add(struct placer *p, struct object_records *o)
{
	struct object_records empty = p->batch[p->count];

	p->batch[p->count++] = *o;
	*o = empty;
	p->bytes += p->batch[p->count - 1].len;
	return p->count == BATCH_OBJECTS || p->bytes >= BATCH_BYTES ? placer_end(p) : 0;
}

/* ---- objects that the metadata has ---- */

struct known {
	struct placer *p;
	const struct object_records *o;
	uint64_t version, dir;
	struct slice name;
	struct extent *missing; /* extents in packs that are not there */
	uint32_t count, cap;
};

static int missing_note(void *arg, const struct extent *e)
{
	struct known *k = arg;

	if ((e->flags & EXTENT_HOLE) != 0 || ids_have(k->p->present, e->pack)) return 0;
	if (k->count == k->cap) {
		uint32_t cap = k->cap ? 2 * k->cap : 16;
		struct extent *missing = realloc(k->missing, cap * sizeof(*missing));
		if (missing == NULL) return -GRANARY_ENOMEM;
		k->missing = missing;
		k->cap = cap;
	}
	k->missing[k->count] = *e;
	k->missing[k->count++].crcs = NULL;
	return 0;
}

/* The latest record that has all bytes of the extent, and is not newer than the row. */
static const struct kept *record_for(const struct known *k, const struct extent *e)
{
	const struct kept *best = NULL;

	for (uint32_t i = 0; i < k->o->count && k->o->at[i].logical <= e->logical; i++) {
		const struct kept *r = &k->o->at[i];

		if (r->version > k->version || kept_end(r) < e->logical + e->length) continue;
		if (best == NULL || kept_is_later(r, best)) best = r;
	}
	return best;
}

static int plan_moves(struct known *k, struct ns_plan *plan, uint32_t *moved)
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < k->count; i++) {
		const struct extent *e = &k->missing[i];
		const struct kept *r = record_for(k, e);
		struct ns_move m = { .dir = k->dir, .name = k->name, .id = k->o->at[0].object, .from = *e };

		if (r == NULL) continue;
		m.to = kept_extent(r);
		if (e->length != r->data_len) m.to = extent_part(&m.to, (uint32_t)(e->logical - r->logical), e->length);
		err = ns_plan_move_extent(plan, &m);
		++*moved;
	}
	return err;
}

static int later_cmp(const void *a, const void *b)
{
	const struct kept *x = *(const struct kept *const *)a, *y = *(const struct kept *const *)b;

	return kept_is_later(x, y) - kept_is_later(y, x);
}

/* The object's version is that of the last record: what was put under its name later stays later. */
static int write_as(struct ns_plan *plan, struct ns_write *w, uint64_t version)
{
	struct ids_block block = { .version = version, .version_end = version + 1 };
	struct ids_block *before = ids_use(&block);
	int err = ns_plan_write(plan, w);

	(void)ids_use(before);
	return err;
}

/* Records that are newer than the row: the bytes were changed since, in this order. */
static int plan_changes(struct known *k, struct ns_plan *plan, uint32_t *changed)
{
	const struct kept **newer = malloc((k->o->count + 1) * sizeof(const struct kept *));
	struct ns_change *changes = calloc(k->o->count + 1, sizeof(*changes));
	struct ns_write w = { .ref = { .by = NS_BY_ID, .id = k->o->at[0].object, .dir = k->dir, .name = k->name },
		.id = k->o->at[0].object,
		.changes = changes };
	int err = newer != NULL && changes != NULL ? 0 : -GRANARY_ENOMEM;

	for (uint32_t i = 0; err == 0 && i < k->o->count; i++)
		if (k->o->at[i].version > k->version && k->o->at[i].data_len > 0) newer[w.count++] = &k->o->at[i];
	if (w.count > 0) qsort(newer, w.count, sizeof(const struct kept *), later_cmp);
	for (uint32_t i = 0; i < w.count; i++)
		changes[i] = (struct ns_change){ .kind = NS_CHANGE_DATA,
			.offset = newer[i]->logical,
			.length = newer[i]->data_len,
			.extent = kept_extent(newer[i]) };
	if (err == 0 && w.count > 0) err = write_as(plan, &w, newer[w.count - 1]->version);
	*changed += w.count;
	free(newer);
	free(changes);
	return err;
}

static int known_plan(struct known *k, int (*fill)(struct known *, struct ns_plan *, uint32_t *), uint64_t *count)
{
	int err = -GRANARY_EBUSY;

	for (int tries = 0; err == -GRANARY_EBUSY && tries < TRIES; tries++) {
		struct ns_plan *plan = ns_plan_new(k->p->ns);
		uint32_t n = 0;

		if (plan == NULL) return -GRANARY_ENOMEM;
		ns_plan_set_unlimited(plan);
		err = fill(k, plan, &n);
		if (err == 0 && n > 0) err = plan_commit(k->p, plan);
		if (err == 0 && n > 0) ++*count;
		ns_plan_free(&plan);
	}
	return err;
}

/* 1: the metadata has this object, and has all that is newer of it now. */
static int place_known(struct placer *p, const struct object_records *o)
{
	const struct kept *newest = records_newest(o);
	struct ns_ref ref = { .by = NS_BY_ID, .id = newest->object, .dir = newest->dir, .name = newest->name };
	struct known k = { .p = p, .o = o };
	struct kv_value value = { .pin = NULL };
	struct ns_place place;
	struct object row;
	int err = ns_lookup(p->ns, &ref, &place, &row, &value);

	if (err < 0) return err == -GRANARY_ESTALE || err == -GRANARY_ENOTFOUND ? 0 : err;
	k.version = row.version;
	k.dir = place.dir;
	k.name = place.name;
	err = row.is_dir ? -GRANARY_ECORRUPT : 0;
	for (uint32_t i = 0; err == 0 && i < row.extent_count; i++) err = missing_note(&k, &row.extents[i]);
	if (err == 0) err = ns_extents_in(p->ns, NULL, &row, missing_note, &k);
	if (err == 0 && k.count > 0) err = known_plan(&k, plan_moves, &p->r->moved);
	if (err == 0) err = known_plan(&k, plan_changes, &p->r->changed);
	if (value.unpin != NULL) kv_value_release(&value);
	free(k.missing);
	return err < 0 ? err : 1;
}

/* The latest first: none takes a name that another one has. */
int placer_with_gaps(struct placer *p, struct object_records *o)
{
	int err = 0;

	p->is_with_gaps = true;
	for (uint32_t i = p->with_gaps.count; err == 0 && i-- > 0;) {
		err = scratch_object_get(p->s, p->with_gaps.at[i], o);
		if (err == 0) err = batch_add(p, o);
	}
	return err < 0 ? err : placer_end(p);
}

int placer_add(struct placer *p, struct object_records *o)
{
	int res = p->r->has_metadata ? place_known(p, o) : 0;

	if (res == 0) return batch_add(p, o);
	records_clear(o);
	return res < 0 ? res : 0;
}
