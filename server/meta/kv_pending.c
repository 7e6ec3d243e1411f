/* SPDX-License-Identifier: Apache-2.0 */
/* kv_pending.c -- the table of pending rows, and who may see them: kv_pending.h. */
#include "meta/kv_pending.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/error.h"
#include "meta/rows.h"

static _Thread_local uint64_t reads_as, met;

uint64_t kv_read_as(uint64_t owner)
{
	uint64_t before = reads_as;

	reads_as = owner;
	return before;
}

uint64_t kv_reads_as(void) { return reads_as; }

uint64_t kv_pending_met(void) { return met; }

int pending_init(struct kv_pending *p)
{
	pthread_mutex_init(&p->lock, NULL);
	atomic_init(&p->count, 0);
	atomic_init(&p->bytes, 0);
	p->list = (struct kv_bundle){ NULL, NULL };
	p->unflushed = NULL;
	return overlay_init(&p->rows) < 0 ? -GRANARY_ENOMEM : overlay_init(&p->counts);
}

void pending_release(struct kv_pending *p)
{
	overlay_release(&p->rows);
	overlay_release(&p->counts);
	pthread_mutex_destroy(&p->lock);
}

/* ---- for the one who judges; the rows change under the lock only, and by nobody else ---- */

static bool rec_meets(struct kv_pending *p, const struct kv_txn *t, const struct kv_rec *r)
{
	const struct overlay_entry *e;

	if (r->kind == REC_TOUCH)
		return false;
	if (r->kind == REC_COUNTER)
		return true;
	if (r->kind == REC_RANGE)
		return overlay_touches_prefix(&p->rows, r->prefix_hash, rec_key(r));
	e = overlay_find(&p->rows, r->hash, rec_key(r));
	if (e != NULL && e->owner != t->owner)
		return true;
	if (p->counts.count == 0 || (r->kind != REC_PUT && r->kind != REC_DELETE && !rec_is_known(r)))
		return false;
	e = overlay_find(&p->counts, r->hash, rec_key(r));
	return e != NULL && e->owner != t->owner;
}

bool pending_meets(struct kv_pending *p, const struct kv_txn *t)
{
	bool does = false;

	if (p->list.first == NULL)
		return false;
	pthread_mutex_lock(&p->lock); /* looking for a range links entries, as readers do */
	for (const struct kv_rec *r = rec_first(t); r != NULL && !does; r = rec_next(t, r))
		does = rec_meets(p, t, r);
	pthread_mutex_unlock(&p->lock);
	return does;
}

static uint64_t txn_bytes(const struct kv_txn *t)
{
	return sizeof(*t) + t->recs_cap + t->weight + t->ops_count * sizeof(struct overlay_entry);
}

static void row_add(struct kv_pending *p, const struct kv_txn *t, const struct kv_rec *r)
{
	bool is_new;
	struct overlay_entry *e = overlay_touch(&p->rows, r->hash, r->prefix_hash, rec_key(r), &is_new);

	assert(is_new || e->owner == t->owner);
	e->owner = t->owner;
	e->kind = r->kind == REC_PUT ? OVERLAY_PUT : OVERLAY_DELETE;
	e->value = rec_value(r);
}

/* What the tag is after r; the row's other pending changes are in the table. */
static void count_add(struct kv_pending *p, struct kv_group *g, const struct kv_txn *t, const struct kv_rec *r)
{
	const struct overlay_entry *row = overlay_find(&p->rows, r->hash, rec_key(r));
	const struct counter *c = row == NULL ? counters_find(&g->counters, r->hash, rec_key(r)) : NULL;
	struct overlay_entry *e = overlay_find(&p->counts, r->hash, rec_key(r));
	struct slice value = c != NULL && c->exists ? slice_of(c->value, c->value_len) : slice_of(NULL, 0);
	uint64_t base = UINT64_MAX;
	bool is_new;

	if (row != NULL && row->kind == OVERLAY_PUT)
		value = row->value;
	if (e == NULL && (value.len == 0 || !value_u64(value, r->tag, UINT64_MAX, &base) || base == UINT64_MAX))
		return; /* not known */
	e = overlay_touch(&p->counts, r->hash, r->prefix_hash, rec_key(r), &is_new);
	assert(is_new || (e->owner == t->owner && e->tag == r->tag));
	if (is_new)
		e->count = base;
	e->owner = t->owner;
	e->tag = r->tag;
	e->count += r->a;
}

int pending_add(struct kv_pending *p, struct kv_group *g, struct kv_txn *t)
{
	int err;

	assert(t->owner != 0 && !t->is_pending);
	pthread_mutex_lock(&p->lock);
	err = overlay_reserve(&p->rows, t->ops_count + 1);
	if (err == 0)
		err = overlay_reserve(&p->counts, t->ops_count + 1);
	for (const struct kv_rec *r = rec_first(t); err == 0 && r != NULL; r = rec_next(t, r))
		if (r->kind == REC_PUT || r->kind == REC_DELETE)
			row_add(p, t, r);
	for (const struct kv_rec *r = rec_first(t); err == 0 && r != NULL; r = rec_next(t, r))
		if (rec_is_known(r))
			count_add(p, g, t, r);
	pthread_mutex_unlock(&p->lock);
	if (err < 0)
		return err;
	t->is_pending = true;
	t->next = NULL;
	*(p->list.last ? &p->list.last->next : &p->list.first) = t;
	p->list.last = t;
	if (p->unflushed == NULL)
		p->unflushed = t;
	atomic_fetch_add(&p->bytes, txn_bytes(t));
	atomic_fetch_add(&p->count, 1); /* before the answer: whoever hears of it looks here */
	return 0;
}

int pending_is_flushed(struct kv_pending *p)
{
	for (; p->unflushed != NULL; p->unflushed = p->unflushed->next) {
		int err = atomic_load(&p->unflushed->hold->err);
		if (err < 0)
			return err;
		if (atomic_load(&p->unflushed->hold->left) > 0)
			return 0;
	}
	return 1;
}

struct kv_bundle pending_take(struct kv_pending *p)
{
	struct kv_bundle taken = p->list;

	pthread_mutex_lock(&p->lock);
	p->taken++;
	overlay_reset(&p->rows);
	overlay_reset(&p->counts);
	if ((p->rows.table == NULL && overlay_reserve(&p->rows, 1) < 0) ||
	    (p->counts.table == NULL && overlay_reserve(&p->counts, 1) < 0))
		abort(); /* for 8 KiB, which were given back just now */
	pthread_mutex_unlock(&p->lock);
	p->list = (struct kv_bundle){ NULL, NULL };
	p->unflushed = NULL;
	atomic_store(&p->bytes, 0);
	atomic_store(&p->count, 0);
	return taken;
}

/* ---- for readers ---- */

static void copy_free(void *copy) { free(copy); }

/* The lock is held. */
static int row_show(const struct overlay_entry *e, struct kv_value *out)
{
	void *copy;

	if (e->owner != reads_as || reads_as == 0)
		return PENDING_OTHERS;
	met++;
	if (e->kind == OVERLAY_DELETE)
		return PENDING_DELETED;
	copy = malloc(e->value.len > 0 ? e->value.len : 1);
	if (copy == NULL)
		return -GRANARY_ENOMEM;
	if (e->value.len > 0)
		memcpy(copy, e->value.p, e->value.len);
	*out = (struct kv_value){ .v = slice_of(copy, e->value.len), .pin = copy, .unpin = copy_free };
	return PENDING_PUT;
}

int pending_get(struct kv_pending *p, struct slice key, struct kv_value *out, struct pending_count *count)
{
	const struct overlay_entry *e, *counted;
	int found = PENDING_NONE;
	uint64_t hash;

	count->tag = 0;
	if (atomic_load(&p->count) == 0)
		return PENDING_NONE;
	hash = kv_key_hash(key);
	pthread_mutex_lock(&p->lock);
	e = overlay_find(&p->rows, hash, key);
	counted = p->counts.count > 0 ? overlay_find(&p->counts, hash, key) : NULL;
	if (e != NULL)
		found = row_show(e, out);
	else if (counted != NULL && (counted->owner != reads_as || reads_as == 0))
		found = PENDING_OTHERS;
	if (counted != NULL && (found == PENDING_NONE || found == PENDING_PUT)) {
		*count = (struct pending_count){ counted->count, counted->tag };
		met++;
	}
	pthread_mutex_unlock(&p->lock);
	return found;
}

bool pending_is_under(struct kv_pending *p, struct slice prefix)
{
	bool found;

	if (atomic_load(&p->count) == 0)
		return false;
	pthread_mutex_lock(&p->lock);
	found = overlay_touches_prefix(&p->rows, kv_prefix_hash(prefix), prefix);
	pthread_mutex_unlock(&p->lock);
	return found;
}

uint64_t pending_taken(struct kv_pending *p)
{
	uint64_t taken;

	pthread_mutex_lock(&p->lock);
	taken = p->taken;
	pthread_mutex_unlock(&p->lock);
	return taken;
}

static int found_copy(const struct overlay_entry *e, struct pending_row *out)
{
	size_t len = e->key.len + e->value.len;

	if (len > out->cap) {
		uint8_t *bytes = realloc(out->bytes, 2 * len);
		if (bytes == NULL)
			return -GRANARY_ENOMEM;
		out->bytes = bytes;
		out->cap = 2 * len;
	}
	memcpy(out->bytes, e->key.p, e->key.len);
	if (e->value.len > 0)
		memcpy(out->bytes + e->key.len, e->value.p, e->value.len);
	out->key = slice_of(out->bytes, e->key.len);
	out->value = slice_of(out->bytes + e->key.len, e->value.len);
	out->is_deleted = e->kind == OVERLAY_DELETE;
	met++;
	return PENDING_PUT;
}

int pending_seek(struct kv_pending *p, const struct pending_view *view, struct slice key, enum overlay_way way,
		 struct pending_row *out)
{
	const struct overlay_entry *e = NULL;
	int found;

	pthread_mutex_lock(&p->lock);
	found = p->taken == view->taken ? PENDING_NONE : -GRANARY_EAGAIN;
	if (found == PENDING_NONE)
		e = overlay_seek(&p->rows, key, way);
	if (e != NULL && e->key.len >= view->prefix.len &&
	    memcmp(e->key.p, view->prefix.p, view->prefix.len) == 0)
		found = e->owner == view->owner ? found_copy(e, out) : PENDING_OTHERS;
	pthread_mutex_unlock(&p->lock);
	return found;
}
