/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_object.c -- pages and manifests as objects of the system's bucket: put, read and swept
 * from threads that may block. A put goes the way of any other: appended to the bucket's open pack,
 * flushed, named by one transaction. */
#include "jobs/snapshot_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/snap.h"
#include "common/tlv.h"
#include "common/wire.h"
#include "io/reactor.h"
#include "meta/ids.h"
#include "meta/ns.h"
#include "pack/check.h"
#include "pack/writer.h"
#include "tier/packs.h"

enum {
	PLAN_TRIES = 8,
	SIM_TURNS_MAX = 1000000,
	ATTRS_MAX = 64,
	DELETES_A_TXN = 500,
	READ_TRIES = 4
};

void object_key(char key[OBJECT_KEY_MAX], struct hash128 hash, bool is_manifest)
{
	snprintf(key, OBJECT_KEY_MAX, "%s/%02x/%016" PRIx64 "%016" PRIx64,
		is_manifest ? "manifests" : "pages", (unsigned)(hash.hi >> 56), hash.hi, hash.lo);
}

/* ---- appending ---- */

struct batch;
struct piece { /* one record */
	struct pack_append a;
	struct batch *batch;
};

struct item {
	const struct object_put *o;
	char key[OBJECT_KEY_MAX], full[OBJECT_KEY_MAX + sizeof(NS_SYSTEM_BUCKET) + 1];
	uint8_t attrs[ATTRS_MAX];
	size_t attrs_len;
	uint64_t dir, group, id, version;
	struct piece *pieces;
	struct extent *extents;
	uint32_t piece_count;
	uint32_t *crcs;
	bool is_there;
};

struct batch {
	struct snapshots *s;
	struct ns_bucket bucket;
	struct item *items;
	uint32_t count;
	struct pack_append *first;
	struct task start;
	_Atomic uint32_t left;
	sem_t done;
};

static void piece_done(struct task *task)
{
	struct piece *p =
		container_of(container_of(task, struct pack_append, done), struct piece, a);
	struct batch *b = p->batch;

	if (atomic_fetch_sub(&b->left, 1) == 1) sem_post(&b->done);
}

static void batch_start(struct task *task)
{
	struct batch *b = container_of(task, struct batch, start);

	pack_append(b->s->o.writers, b->first);
}

static void batch_wait(struct batch *b)
{
	const struct snapshots_options *o = &b->s->o;

	if (!o->simulated) {
		while (sem_wait(&b->done) != 0) continue;
		return;
	}
	for (uint32_t i = 0; atomic_load(&b->left) > 0; i++) {
		assert(i < SIM_TURNS_MAX);
		workers_turn(o->workers);
		reactor_turn(o->reactors[0], true);
	}
}

static struct ns_ref item_ref(const struct batch *b, const struct item *it)
{
	return (struct ns_ref){
		.by = NS_BY_KEY, .bucket = b->bucket.id, .name = slice_str(it->key)
	};
}

static int item_look(struct batch *b, struct item *it)
{
	struct ns_ref ref = item_ref(b, it);
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;
	int err = ns_lookup(b->s->o.ns, &ref, &place, &o, &value);

	if (err == -GRANARY_ENOTFOUND) return ns_parent(b->s->o.ns, &ref, &it->dir, &it->group);
	if (err < 0) return err;
	it->is_there = true;
	kv_value_release(&value);
	return 0;
}

static void item_attrs(const struct batch *b, struct item *it)
{
	struct wr w = wr_of(it->attrs, sizeof(it->attrs));

	tlv_put_u64(&w, TAG_BUCKET, b->bucket.id);
	tlv_put_u64(&w, TAG_SIZE, it->o->len);
	tlv_put_u32(&w, TAG_MODE, 0100600);
	assert(wr_ok(&w));
	it->attrs_len = wr_len(&w);
}

static void piece_fill(struct batch *b, struct item *it, uint32_t i, const char *leaf)
{
	struct pack_append *a = &it->pieces[i].a;
	uint64_t at = (uint64_t)i * EXTENT_LEN_MAX;

	it->pieces[i].batch = b;
	a->done.fn = piece_done;
	a->notify = b->s->o.reactors[0];
	a->group = it->group;
	a->object_id = it->id;
	a->version = it->version;
	a->dir_id = it->dir;
	a->logical = at;
	a->whole = it->piece_count == 1;
	a->key = slice_str(it->full);
	a->name = slice_str(leaf);
	a->attrs = slice_of(it->attrs, it->attrs_len);
	a->data = it->o->bytes + at;
	a->data_len =
		it->o->len - at < EXTENT_LEN_MAX ? (uint32_t)(it->o->len - at) : EXTENT_LEN_MAX;
	a->crcs = (const uint8_t *)(it->crcs + at / CRC_BLOCK_SIZE);
}

static int item_pieces(struct batch *b, struct item *it, struct pack_append ***last)
{
	const char *leaf = strrchr(it->key, '/') + 1;

	it->piece_count = (uint32_t)((it->o->len + EXTENT_LEN_MAX - 1) / EXTENT_LEN_MAX);
	it->pieces = calloc(it->piece_count, sizeof(*it->pieces));
	it->extents = calloc(it->piece_count, sizeof(*it->extents));
	it->crcs = malloc(4 * (size_t)crc_block_count(it->o->len) + 4);
	if (it->pieces == NULL || it->extents == NULL || it->crcs == NULL) return -GRANARY_ENOMEM;
	crc32c_blocks(it->crcs, it->o->bytes, it->o->len);
	it->id = ids_object(b->s->o.ids);
	it->version = ids_version(b->s->o.ids);
	snprintf(it->full, sizeof(it->full), "%s/%s", NS_SYSTEM_BUCKET, it->key);
	item_attrs(b, it);
	for (uint32_t i = 0; i < it->piece_count; i++) {
		piece_fill(b, it, i, leaf);
		**last = &it->pieces[i].a;
		*last = &it->pieces[i].a.next;
		atomic_fetch_add(&b->left, 1);
	}
	return 0;
}

static int batch_append(struct batch *b)
{
	struct pack_append **last = &b->first;
	uint64_t bytes = 0;
	int err = 0;

	for (uint32_t i = 0; i < b->count && err == 0; i++) {
		struct item *it = &b->items[i];

		object_key(it->key, it->o->hash, it->o->is_manifest);
		err = item_look(b, it);
		for (uint32_t k = 0; k < i; k++) /* the same bytes twice in one batch */
			it->is_there |= strcmp(b->items[k].key, it->key) == 0;
		if (err == 0 && !it->is_there) err = item_pieces(b, it, &last);
		bytes += it->o->len;
	}
	if (err == 0) err = packs_room(b->s->o.packs, bytes);
	if (err < 0 || b->first == NULL) {
		atomic_store(&b->left, 0);
		for (uint32_t i = 0; i < b->count; i++) /* never started: nothing to settle */
			b->items[i].piece_count = 0;
		return err;
	}
	b->start.fn = batch_start;
	reactor_post(b->s->o.reactors[0], &b->start);
	batch_wait(b);
	for (uint32_t i = 0; i < b->count; i++)
		for (uint32_t k = 0; k < b->items[i].piece_count; k++)
			if (b->items[i].pieces[k].a.err < 0) err = b->items[i].pieces[k].a.err;
	return err;
}

/* ---- naming ---- */

static int item_plan(struct batch *b, struct item *it, struct ns_plan *plan)
{
	struct ns_put put = { .ref = item_ref(b, it),
		.condition = NS_IF_ABSENT,
		.parent = it->dir,
		.id = it->id,
		.version = it->version,
		.size = it->o->len,
		.mtime_ns = clock_wall_ns(),
		.mode = 0100600,
		.has_hash = true,
		.hash = it->o->hash,
		.extents = it->extents,
		.extent_count = it->piece_count };
	int err;

	for (uint32_t i = 0; i < it->piece_count; i++) {
		const struct pack_append *a = &it->pieces[i].a;

		it->extents[i] = a->extent;
		writers_account(ns_plan_txn(plan), &a, 1);
	}
	err = ns_plan_put(plan, &put);
	if (err == -GRANARY_ECHANGED) return -GRANARY_EBUSY;
	return err == -GRANARY_EPRECONDITION ? 0 : err; /* another one made it meanwhile */
}

static int batch_commit_once(struct batch *b)
{
	struct ns_plan *plan = ns_plan_new(b->s->o.ns);
	int err = plan != NULL ? 0 : -GRANARY_ENOMEM;

	for (uint32_t i = 0; i < b->count && err == 0; i++)
		if (b->items[i].piece_count > 0) err = item_plan(b, &b->items[i], plan);
	if (err == 0) err = ns_plan_finish(plan);
	if (err == 0) {
		err = kv_submit_wait(b->s->o.kv, ns_plan_txn(plan));
		ns_plan_committed(plan, err);
	}
	if (plan != NULL) ns_plan_free(&plan);
	return err;
}

static void batch_release(struct batch *b, bool appended)
{
	for (uint32_t i = 0; i < b->count; i++) {
		struct item *it = &b->items[i];

		for (uint32_t k = 0; appended && k < it->piece_count; k++)
			if (it->pieces[k].a.err == 0) pack_append_settled(&it->pieces[k].a);
		free(it->pieces);
		free(it->extents);
		free(it->crcs);
	}
	free(b->items);
	sem_destroy(&b->done);
}

int objects_put(struct snapshots *s, const struct object_put *list, uint32_t count)
{
	struct batch b = { .s = s, .count = count, .items = calloc(count + 1, sizeof(*b.items)) };
	int err = ns_bucket_system(s->o.ns, &b.bucket);

	if (b.items == NULL) return -GRANARY_ENOMEM;
	sem_init(&b.done, 0, 0);
	for (uint32_t i = 0; i < count; i++) b.items[i].o = &list[i];
	if (err == 0) err = batch_append(&b);
	if (err == 0 && b.first != NULL) {
		err = -GRANARY_EBUSY;
		for (int tries = 0; err == -GRANARY_EBUSY && tries < PLAN_TRIES; tries++)
			err = batch_commit_once(&b);
	}
	batch_release(&b, b.first != NULL);
	return err;
}

/* ---- reading ---- */

struct reading {
	struct snapshots *s;
	uint64_t id, offset, len;
	uint8_t *to, *record; /* EXTENT_LEN_MAX */
};

static int read_extent(void *arg, const struct extent *e)
{
	struct reading *r = arg;
	uint64_t from = e->logical > r->offset ? e->logical : r->offset;
	uint64_t end = e->logical + e->length < r->offset + r->len ? e->logical + e->length
								   : r->offset + r->len;
	struct packs *packs = r->s->o.packs;
	struct pack *pack;
	uint32_t got = 0;
	uint8_t *to = r->to + (from - r->offset);
	bool whole = from == e->logical && end - from == e->length; /* straight to its place */
	int err;

	if (from >= end) return 0;
	pack = packs_ref(packs, e->pack);
	if (pack == NULL) return -GRANARY_ESTALE;
	err = packs_open_file(packs, pack);
	if (err == 0)
		err = pack_record_verify_into(pack_file(pack), e->record, r->id,
			whole ? to : r->record, whole ? e->length : EXTENT_LEN_MAX, &got);
	packs_unref(packs, pack);
	if (err == 0 && got < e->length) err = -GRANARY_ECORRUPT;
	if (err == 0 && !whole)
		memcpy(to, r->record + (from - e->logical), (size_t)(end - from));
	return err;
}

static int read_object(struct reading *r, const struct object *o)
{
	int err = 0;

	r->id = o->id;
	for (uint32_t i = 0; i < o->extent_count && err == 0; i++)
		err = read_extent(r, &o->extents[i]);
	return err < 0 ? err : ns_extents(r->s->o.ns, o, r->offset, r->len, read_extent, r);
}

static int64_t read_once(struct reading *r, const struct ns_ref *ref, size_t cap, uint64_t *size)
{
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;
	int err = ns_lookup(r->s->o.ns, ref, &place, &o, &value);

	if (err < 0) return err;
	*size = o.size;
	r->len = r->offset > o.size ? 0 : o.size - r->offset < cap ? o.size - r->offset : cap;
	err = r->len == 0 ? 0 : read_object(r, &o);
	kv_value_release(&value);
	return err < 0 ? err : (int64_t)r->len;
}

int64_t object_read(struct snapshots *s, struct hash128 hash, bool is_manifest, uint64_t offset,
	uint8_t *buf, size_t len, uint64_t *size)
{
	struct reading r = {
		.s = s, .offset = offset, .to = buf, .record = malloc(EXTENT_LEN_MAX)
	};
	struct ns_bucket bucket;
	char key[OBJECT_KEY_MAX];
	struct ns_ref ref = { .by = NS_BY_KEY };
	int64_t n = -GRANARY_ESTALE;

	object_key(key, hash, is_manifest);
	ref.name = slice_str(key);
	if (r.record == NULL) return -GRANARY_ENOMEM;
	if (ns_bucket_find(s->o.ns, slice_str(NS_SYSTEM_BUCKET), &bucket) < 0)
		n = -GRANARY_ENOTFOUND;
	else
		ref.bucket = bucket.id;
	for (int tries = 0; n == -GRANARY_ESTALE && tries < READ_TRIES;
		tries++) /* compacted away: where is it now? */
		n = read_once(&r, &ref, len, size);
	free(r.record);
	return n;
}

int object_read_all(
	struct snapshots *s, struct hash128 hash, bool is_manifest, uint8_t **bytes, size_t *len)
{
	uint64_t size = 0;
	int64_t n = object_read(s, hash, is_manifest, 0, NULL, 0, &size);

	*bytes = NULL;
	*len = 0;
	if (n < 0) return (int)n;
	if (size > SNAP_FILE_MAX) return -GRANARY_ECORRUPT;
	*bytes = malloc((size_t)size + 1);
	if (*bytes == NULL) return -GRANARY_ENOMEM;
	n = object_read(s, hash, is_manifest, 0, *bytes, (size_t)size, &size);
	if (n >= 0)
		*len = (size_t)n;
	else
		free(*bytes);
	return n < 0 ? (int)n : 0;
}

/* ---- sweeping: mark what all snapshots use, delete the rest ---- */

struct sweep {
	struct snapshots *s;
	struct ns_bucket bucket;
	struct hash128 *used;
	size_t used_count, used_cap;
	char (*keys)[OBJECT_KEY_MAX];
	uint32_t key_count;
	uint64_t deleted;
};

static int hash_compare(const void *a, const void *b)
{
	const struct hash128 *x = a, *y = b;

	if (x->hi != y->hi) return x->hi < y->hi ? -1 : 1;
	return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static int use(struct sweep *w, struct hash128 hash)
{
	if (w->used_count == w->used_cap) {
		size_t cap = w->used_cap ? 2 * w->used_cap : 1024;
		struct hash128 *wide = realloc(w->used, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		w->used = wide;
		w->used_cap = cap;
	}
	w->used[w->used_count++] = hash;
	return 0;
}

static int mark_manifest(struct sweep *w, const uint8_t *bytes, size_t len)
{
	struct snap_manifest m;
	int err = snap_manifest_decode(bytes, len, &m);

	if (err < 0) return err;
	for (uint32_t i = 0; i < m.page_count && err == 0; i++) err = use(w, m.pages[i].hash);
	for (uint32_t i = 0; i < m.names_count && err == 0; i++) err = use(w, m.names[i].hash);
	snap_manifest_release(&m);
	return err;
}

static int mark_of(struct sweep *w, struct hash128 manifest)
{
	uint8_t *bytes;
	size_t len;
	int err = object_read_all(w->s, manifest, true, &bytes, &len);

	if (err < 0) return err;
	err = mark_manifest(w, bytes, len);
	free(bytes);
	return err;
}

int object_pages_of(
	struct snapshots *s, struct hash128 manifest, struct hash128 **pages, uint32_t *count)
{
	struct sweep w = { .s = s };
	int err = mark_of(&w, manifest);

	if (err < 0) {
		free(w.used);
		return err;
	}
	if (w.used_count > 0) qsort(w.used, w.used_count, sizeof(*w.used), hash_compare);
	*pages = w.used;
	*count = (uint32_t)w.used_count;
	return 0;
}

bool object_hash_in(const struct hash128 *sorted, uint32_t count, struct hash128 hash)
{
	return count > 0 && bsearch(&hash, sorted, count, sizeof(hash), hash_compare) != NULL;
}

static int mark(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	struct sweep *w = arg;
	int err;

	(void)bucket;
	if (!row->has_manifest) return 0;
	err = use(w, row->manifest);
	if (err == 0) err = mark_of(w, row->manifest);
	if (err < 0)
		log_error("cannot read the manifest of snapshot '%.*s': %s; no page is removed",
			(int)name.len, (const char *)name.p, error_text(err));
	return err;
}

static bool key_hash(struct slice key, struct hash128 *out)
{
	char hex[33];

	if (key.len < 33 || key.p[key.len - 33] != '/') return false;
	memcpy(hex, key.p + key.len - 32, 32);
	hex[32] = '\0';
	return sscanf(hex, "%16" SCNx64 "%16" SCNx64, &out->hi, &out->lo) == 2;
}

static int sweep_delete(struct sweep *w)
{
	struct ns_plan *plan = NULL;
	int err = -GRANARY_EBUSY;

	for (int tries = 0; err == -GRANARY_EBUSY && tries < PLAN_TRIES; tries++) {
		plan = ns_plan_new(w->s->o.ns);
		err = plan != NULL ? 0 : -GRANARY_ENOMEM;
		for (uint32_t i = 0; i < w->key_count && err == 0; i++) {
			struct ns_ref ref = { .by = NS_BY_KEY,
				.bucket = w->bucket.id,
				.name = slice_str(w->keys[i]) };
			struct ns_deleted deleted;

			err = ns_plan_delete(plan, &ref, NS_ANY, 0, &deleted);
			err = err == -GRANARY_ENOTFOUND ? 0 : err;
		}
		if (err == 0) err = ns_plan_finish(plan);
		if (err == 0) {
			err = kv_submit_wait(w->s->o.kv, ns_plan_txn(plan));
			ns_plan_committed(plan, err);
		}
		if (plan != NULL) ns_plan_free(&plan);
	}
	if (err == 0) w->deleted += w->key_count;
	w->key_count = 0;
	return err;
}

static int sweep_object(void *arg, struct slice key, const struct object *o)
{
	struct sweep *w = arg;
	struct hash128 hash;

	(void)o;
	if (atomic_load(&w->s->stopping)) return -GRANARY_ESHUTDOWN;
	if (key.len >= OBJECT_KEY_MAX || !key_hash(key, &hash) ||
		object_hash_in(w->used, (uint32_t)w->used_count, hash))
		return 0;
	memcpy(w->keys[w->key_count], key.p, key.len);
	w->keys[w->key_count++][key.len] = '\0';
	return w->key_count == DELETES_A_TXN ? sweep_delete(w) : 0;
}

static int sweep_all(struct sweep *w)
{
	struct kv_snapshot *view;
	int err = snapshot_each(w->s->o.kv, 0, slice_of(NULL, 0), mark, w);

	if (err < 0) return err;
	if (w->used_count > 0) qsort(w->used, w->used_count, sizeof(*w->used), hash_compare);
	view = kv_snapshot_new(w->s->o.kv);
	if (view == NULL) return -GRANARY_ENOMEM;
	err = ns_scan(w->s->o.ns, view, w->bucket.id, slice_of(NULL, 0), sweep_object, w);
	kv_snapshot_free(w->s->o.kv, &view);
	return err == 0 && w->key_count > 0 ? sweep_delete(w) : err;
}

int objects_sweep(struct snapshots *s)
{
	struct sweep w = { .s = s };
	int err;

	if (ns_bucket_find(s->o.ns, slice_str(NS_SYSTEM_BUCKET), &w.bucket) < 0) return 0;
	w.keys = malloc(DELETES_A_TXN * sizeof(*w.keys));
	err = w.keys != NULL ? sweep_all(&w) : -GRANARY_ENOMEM;
	if (w.deleted > 0)
		log_info("removed pages that no snapshot uses; pages=%" PRIu64, w.deleted);
	free(w.keys);
	free(w.used);
	return err;
}
