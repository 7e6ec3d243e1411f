/* SPDX-License-Identifier: Apache-2.0 */
/* kv_own.c -- an iterator below one prefix that lays over the engine's rows what its reader has pending there.
 *
 * Invariants: (1) it stands on the lower of two candidates, the engine's and the reader's own, on its own where both
 * have the key; one that is deleted is passed over; (2) what was pending when the engine's iterator was made is found
 * in one of both: when the pending rows were taken since (they were written), the engine's iterator is made anew and
 * goes to where it stood; (3) whatever is met of others is waited for first, or is EAGAIN for those who must not block
 * (contract C); (4) rows of its own that were put since it was made are shown: who must not see them holds the object
 * whose rows they are. */
#include "meta/kv_pending.h"

#include "common/error.h"
#include "meta/rows.h"

#include <stdatomic.h>
#include <stdlib.h>

struct own_iter {
	struct kv_iter base;
	struct kv *kv;
	struct kv_pending *pending;
	struct kv_engine *from;
	struct kv_iter *engine;
	enum kv_iter_kind kind;
	struct pending_view view;
	struct pending_row own;
	bool has_own, is_own;    /* a candidate; the one that it stands on */
	bool is_back;            /* it went backwards: the candidates are not those that follow */
	bool is_after;           /* on from behind `from_key` */
	struct slice from_key;   /* in buf */
	uint8_t buf[ROW_KEY_MAX], prefix[ROW_KEY_MAX];
};

static struct own_iter *own_of(struct kv_iter *it)
{
	return (struct own_iter *)(void *)it; /* its first member */
}

static void own_fail(struct own_iter *it, int err)
{
	it->base.is_valid = false;
	it->base.err = err;
}

/* The engine's iterator, not older than the pending rows that are there: invariant (2). */
static int own_refresh(struct own_iter *it)
{
	it->view.taken = pending_taken(it->pending);
	kv_iter_free(&it->engine);
	it->engine = it->from->ops->iter_new(it->from, NULL, it->kind);
	return it->engine == NULL ? -GRANARY_ENOMEM : 0;
}

/* Finds the next row of its own. 0; EAGAIN: the engine's iterator is another one now; or an error. */
static int own_find(struct own_iter *it, struct slice key, enum overlay_way way)
{
	int found = pending_seek(it->pending, &it->view, key, way, &it->own), err;

	it->has_own = found == PENDING_PUT;
	if (found == PENDING_PUT || found == PENDING_NONE)
		return 0;
	if (found == PENDING_OTHERS && it->kind == ITER_CACHED)
		return -GRANARY_EBUSY;
	if (found == PENDING_OTHERS)
		kv_sync_wait(it->kv);
	else if (found != -GRANARY_EAGAIN)
		return found;
	err = own_refresh(it);
	return err < 0 ? err : -GRANARY_EAGAIN;
}

static void own_stand(struct own_iter *it, bool is_own)
{
	it->is_own = is_own;
	it->base.is_valid = true;
	it->base.key = is_own ? it->own.key : kv_iter_key(it->engine);
	it->base.value = is_own ? it->own.value : kv_iter_value(it->engine);
}

static int slice_order(struct slice a, struct slice b)
{
	int c = memcmp(a.p, b.p, a.len < b.len ? a.len : b.len);

	return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

static void from_set(struct own_iter *it, struct slice key, bool is_after)
{
	size_t len = key.len < sizeof(it->buf) ? key.len : sizeof(it->buf);

	memmove(it->buf, key.p, len);
	it->from_key = slice_of(it->buf, len);
	it->is_after = is_after;
}

/* From both candidates on, to what is there. 0, or as own_find: then on from from_key. */
static int own_settle(struct own_iter *it)
{
	for (;;) {
		bool has_engine = kv_iter_valid(it->engine);
		int err, order = !it->has_own ? -1 : 1;

		if (it->has_own && has_engine)
			order = slice_order(kv_iter_key(it->engine), it->own.key);
		it->base.err = kv_iter_error(it->engine);
		if (it->base.err < 0 || (!has_engine && !it->has_own)) {
			it->base.is_valid = false;
			return 0;
		}
		if (order == 0)
			kv_iter_next(it->engine);
		if (order < 0 || !it->own.is_deleted) {
			own_stand(it, order >= 0);
			return 0;
		}
		from_set(it, it->own.key, true);
		err = own_find(it, it->from_key, OVERLAY_AFTER);
		if (err < 0)
			return err;
	}
}

/* To the first row from from_key on. */
static void own_go(struct own_iter *it)
{
	int err;

	do {
		err = own_find(it, it->from_key, it->is_after ? OVERLAY_AFTER : OVERLAY_FROM);
		if (err < 0)
			continue;
		kv_iter_seek(it->engine, it->from_key);
		if (it->is_after && kv_iter_valid(it->engine) && slice_eq(kv_iter_key(it->engine), it->from_key))
			kv_iter_next(it->engine);
		err = own_settle(it);
	} while (err == -GRANARY_EAGAIN);
	it->is_back = false;
	if (err < 0)
		own_fail(it, err == -GRANARY_EBUSY ? -GRANARY_EAGAIN : err);
}

static void own_seek(struct kv_iter *base, struct slice key)
{
	struct own_iter *it = own_of(base);

	from_set(it, key, false);
	own_go(it);
}

/* from_key becomes a key below it, and above all others that are. */
static void from_before(struct own_iter *it, struct slice key)
{
	from_set(it, key, false);
	if (it->buf[key.len - 1]-- != 0) {
		memset(it->buf + key.len, 0xff, sizeof(it->buf) - key.len);
		it->from_key.len = sizeof(it->buf);
	} else {
		it->from_key.len = key.len - 1;
	}
}

/* To the last row up to from_key. 0, or as own_find: once more. */
static int own_back(struct own_iter *it)
{
	for (;;) {
		int err = own_find(it, it->from_key, OVERLAY_UP_TO);
		bool has_engine;

		if (err < 0)
			return err;
		kv_iter_seek_back(it->engine, it->from_key);
		it->base.err = kv_iter_error(it->engine);
		has_engine = kv_iter_valid(it->engine);
		if (it->base.err < 0 || (!has_engine && !it->has_own)) {
			it->base.is_valid = false;
			return 0;
		}
		if (!it->has_own || (has_engine && slice_order(kv_iter_key(it->engine), it->own.key) > 0)) {
			own_stand(it, false);
			return 0;
		}
		if (!it->own.is_deleted) {
			own_stand(it, true);
			return 0;
		}
		from_before(it, it->own.key);
	}
}

static void own_seek_back(struct kv_iter *base, struct slice key)
{
	struct own_iter *it = own_of(base);
	int err;

	from_set(it, key, false);
	do
		err = own_back(it);
	while (err == -GRANARY_EAGAIN);
	it->is_back = true;
	if (err < 0)
		own_fail(it, err == -GRANARY_EBUSY ? -GRANARY_EAGAIN : err);
}

static void own_next(struct kv_iter *base)
{
	struct own_iter *it = own_of(base);
	int err = 0;

	from_set(it, it->base.key, true);
	if (it->is_back) {
		own_go(it);
		return;
	}
	if (it->is_own)
		err = own_find(it, it->from_key, OVERLAY_AFTER);
	else
		kv_iter_next(it->engine);
	if (err == 0)
		err = own_settle(it);
	if (err == -GRANARY_EAGAIN)
		own_go(it);
	else if (err < 0)
		own_fail(it, err == -GRANARY_EBUSY ? -GRANARY_EAGAIN : err);
}

static void own_free(struct kv_iter *base)
{
	struct own_iter *it = own_of(base);

	if (it->engine != NULL)
		kv_iter_free(&it->engine);
	free(it->own.bytes);
	free(it);
}

static const struct kv_iter_ops own_iter_ops = { own_seek, own_seek_back, own_next, own_free };

struct kv_iter *own_iter_new(struct kv *kv, struct kv_pending *p, struct kv_engine *engine, struct slice prefix,
			     enum kv_iter_kind kind)
{
	struct own_iter *it = malloc(sizeof(*it));

	if (it == NULL)
		return NULL;
	memset(it, 0, offsetof(struct own_iter, buf));
	it->base.ops = &own_iter_ops;
	it->kv = kv;
	it->pending = p;
	it->from = engine;
	it->kind = kind;
	memcpy(it->prefix, prefix.p, prefix.len);
	it->view = (struct pending_view){ .owner = kv_reads_as(), .prefix = slice_of(it->prefix, prefix.len) };
	if (own_refresh(it) == 0)
		return &it->base;
	free(it);
	return NULL;
}
