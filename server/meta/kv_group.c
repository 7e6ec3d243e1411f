/* SPDX-License-Identifier: Apache-2.0 */
/* kv_group.c -- judges the transactions of one group in order and gathers what they do into one op a row.
 *
 * Invariants: (1) a transaction is judged against engine + overlay, and leaves a trace in the overlay only when all
 * its preconditions held; (2) slots[hash] >= the number of every group that put or deleted a key of that hash, also
 * of a group that failed; counting in a row that is there touches no slot, as no precondition with `seen` rests on
 * a counter; (3) a precondition with seen != 0 and slot <= seen holds without a read: the planner saw it to hold at
 * `seen`, and nothing touched the row since; a group in progress has a number above every `seen`; (4) pointers into
 * transactions and counters are kept to the end of the group only. */
#include "meta/kv_group.h"

#include "common/error.h"
#include "common/log.h"
#include "common/name.h"
#include "meta/rows.h"

#include <assert.h>
#include <stdlib.h>

static_assert((KV_SLOTS_COUNT & (KV_SLOTS_COUNT - 1)) == 0, "masked");

int group_init(struct kv_group *g, struct kv_engine *engine)
{
	memset(g, 0, sizeof(*g));
	g->engine = engine;
	g->slots = calloc(KV_SLOTS_COUNT, sizeof(*g->slots));
	if (g->slots == NULL || counters_init(&g->counters) < 0 || overlay_init(&g->overlay) < 0) {
		group_release(g);
		return -GRANARY_ENOMEM;
	}
	return 0;
}

void group_release(struct kv_group *g)
{
	kv_iter_free(&g->iter);
	overlay_release(&g->overlay);
	counters_release(&g->counters);
	for (uint32_t i = 0; i < KV_WITNESSES_COUNT; i++)
		free(g->witnesses[i].key);
	free(g->slots);
	free(g->undo);
	free(g->ops);
	memset(g, 0, sizeof(*g));
}

void group_begin(struct kv_group *g, uint64_t seq)
{
	assert(seq > g->seq || g->seq == seq); /* the same again after a group that was not written */
	assert(g->overlay.count == 0 && g->iter == NULL);
	g->seq = seq;
}

/* ---- reading rows as they are now: overlay, pending rows, counters, engine ---- */

static int group_engine_get(struct kv_group *g, struct slice key, struct kv_value *pin)
{
	g->pre_reads++;
	return (g->may_not_block ? g->engine->ops->get_cached : g->engine->ops->get)(g->engine, key, pin);
}

static const struct overlay_entry *group_entry(const struct kv_group *g, const struct kv_rec *r)
{
	const struct overlay_entry *e = overlay_find(&g->overlay, r->hash, rec_key(r));

	return e == NULL && g->pending != NULL ? overlay_find(g->pending, r->hash, rec_key(r)) : e;
}

/* Sets *value (no slice when absent) and returns 1 present, 0 absent or an error; `pin` is released by the caller. */
static int group_read(struct kv_group *g, const struct kv_rec *r, struct slice *value, struct kv_value *pin)
{
	const struct overlay_entry *e = group_entry(g, r);
	const struct counter *c = NULL;
	int err;

	pin->unpin = NULL;
	if (e != NULL && e->kind == OVERLAY_DELETE)
		return 0;
	if (e != NULL && e->kind == OVERLAY_PUT) {
		*value = e->value;
		return 1;
	}
	c = e != NULL ? e->counter : counters_find(&g->counters, r->hash, rec_key(r));
	if (c != NULL) {
		*value = slice_of(c->value, c->value_len);
		return c->exists;
	}
	err = group_engine_get(g, rec_key(r), pin);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? 0 : err;
	*value = pin->v;
	return 1;
}

/* The row of a counter op is brought into the cache before anything is applied. */
static int group_load_counter(struct kv_group *g, const struct kv_rec *r)
{
	const struct overlay_entry *e = group_entry(g, r);
	struct counter *c = NULL;
	struct kv_value pin;
	int err;

	if (e != NULL && e->kind != OVERLAY_COUNTER)
		return 0;
	c = e != NULL ? e->counter : counters_find(&g->counters, r->hash, rec_key(r));
	if (c != NULL)
		return c->is_sound ? 0 : -GRANARY_ECORRUPT;
	err = group_engine_get(g, rec_key(r), &pin);
	if (err < 0 && err != -GRANARY_ENOTFOUND)
		return err;
	c = counters_add(&g->counters, r->hash, rec_key(r), err == 0 ? &pin.v : NULL);
	if (err == 0)
		kv_value_release(&pin);
	if (c == NULL)
		return -GRANARY_ENOMEM;
	return c->is_sound ? 0 : -GRANARY_ECORRUPT;
}

/* ---- point preconditions ---- */

static bool is_untouched(const struct kv_group *g, uint64_t hash, uint64_t seen)
{
	return seen != 0 && g->slots[hash & (KV_SLOTS_COUNT - 1)] <= seen;
}

static int judge_tag(const struct kv_rec *r, struct slice value, uint16_t tag)
{
	uint64_t v;

	if (!value_u64(value, tag, 0, &v))
		return -GRANARY_ECORRUPT;
	return v == r->a ? 0 : -GRANARY_EBUSY;
}

static int judge_counter(const struct kv_rec *r, struct slice value, bool is_present)
{
	uint64_t v = 0;

	if (is_present && !value_u64(value, r->tag, 0, &v))
		return -GRANARY_ECORRUPT;
	return r->a <= r->b && v <= r->b - r->a ? 0 : -GRANARY_EQUOTA;
}

static int judge_row(const struct kv_rec *r, struct slice value, bool is_present)
{
	switch (r->kind) {
	case REC_ABSENT: return is_present ? -GRANARY_EBUSY : 0;
	case REC_VERSION: return is_present ? judge_tag(r, value, TAG_VERSION) : -GRANARY_EBUSY;
	case REC_ID: return is_present ? judge_tag(r, value, TAG_ID) : r->flag ? 0 : -GRANARY_EBUSY;
	default: return judge_counter(r, value, is_present);
	}
}

static int judge_point(struct kv_group *g, const struct kv_rec *r)
{
	struct slice value = { NULL, 0 };
	struct kv_value pin;
	int err;

	if (is_untouched(g, r->hash, r->seen))
		return 0;
	err = r->kind == REC_COUNTER ? group_load_counter(g, r) : 0;
	if (err < 0)
		return err;
	err = group_read(g, r, &value, &pin);
	if (err >= 0)
		err = judge_row(r, value, err == 1);
	kv_value_release(&pin);
	return err;
}

static int judge_points(struct kv_group *g, const struct kv_txn *t)
{
	const struct kv_rec *counted = NULL; /* its row is loaded */

	for (const struct kv_rec *r = rec_first(t); r != NULL; r = rec_next(t, r)) {
		int err = 0;
		if (rec_counts(r) && rec_has_key_of(r, counted))
			continue;
		if (rec_counts(r))
			counted = r;
		if (r->kind == REC_ABSENT || r->kind == REC_VERSION || r->kind == REC_ID || r->kind == REC_COUNTER)
			err = judge_point(g, r);
		else if (rec_counts(r) || rec_carries(r))
			err = group_load_counter(g, r);
		else if (r->kind == REC_UNTOUCHED)
			err = is_untouched(g, r->hash, r->seen) ? 0 : -GRANARY_EBUSY;
		if (err < 0)
			return err;
	}
	return 0;
}

/* ---- range preconditions: with the transaction's own ops laid over for the time of the check ---- */

static struct witness *witness_of(struct kv_group *g, uint64_t prefix_hash)
{
	return &g->witnesses[prefix_hash & (KV_WITNESSES_COUNT - 1)];
}

static void witness_keep(struct witness *w, uint64_t prefix_hash, struct slice key)
{
	if (key.len > w->cap) {
		uint8_t *p = realloc(w->key, key.len);
		if (p == NULL)
			return; /* the old one stays: it is a hint */
		w->key = p;
		w->cap = (uint32_t)key.len;
	}
	memcpy(w->key, key.p, key.len);
	w->len = (uint32_t)key.len;
	w->prefix_hash = prefix_hash;
}

static bool has_prefix(struct slice key, struct slice prefix)
{
	return key.len >= prefix.len && memcmp(key.p, prefix.p, prefix.len) == 0;
}

/* 1 when a row of the engine with this prefix, at or after `from`, is not deleted by the group; 0; or an error. */
static int engine_has_prefix(struct kv_group *g, const struct kv_rec *r, struct slice from)
{
	struct slice prefix = rec_key(r);

	if (g->iter == NULL && (g->iter = g->engine->ops->iter_new(g->engine, NULL, ITER_PLAIN)) == NULL)
		return -GRANARY_ENOMEM;
	g->pre_reads++;
	kv_iter_seek(g->iter, from);
	for (; kv_iter_valid(g->iter); kv_iter_next(g->iter)) {
		struct slice key = kv_iter_key(g->iter);
		const struct overlay_entry *e;
		if (!has_prefix(key, prefix))
			return 0;
		e = overlay_find(&g->overlay, kv_key_hash(key), key);
		if (e == NULL || e->kind != OVERLAY_DELETE) {
			witness_keep(witness_of(g, r->prefix_hash), r->prefix_hash, key);
			return 1;
		}
	}
	return kv_iter_error(g->iter);
}

/* A directory that is emptied name by name has its first rows deleted: a scan from the prefix would walk over all
 * of their tombstones each time. So we begin at the row found last time, and from the prefix only if nothing
 * follows it. */
static int range_is_there(struct kv_group *g, const struct kv_rec *r)
{
	const struct witness *w = witness_of(g, r->prefix_hash);
	int found;

	if (overlay_has_prefix(&g->overlay, r->prefix_hash, rec_key(r)))
		return 1;
	if (w->prefix_hash == r->prefix_hash && has_prefix(slice_of(w->key, w->len), rec_key(r))) {
		found = engine_has_prefix(g, r, slice_of(w->key, w->len));
		if (found != 0)
			return found;
	}
	return engine_has_prefix(g, r, rec_key(r));
}

static int judge_range(struct kv_group *g, const struct kv_rec *r)
{
	int found;

	if (is_untouched(g, r->prefix_hash, r->seen))
		return 0;
	found = range_is_there(g, r);
	if (found < 0)
		return found;
	return (found == 0) == (r->flag != 0) ? 0 : -GRANARY_EBUSY;
}

/* Lays the transaction's ops over the group's, remembering the old kinds. Only kinds count for a range. */
static uint32_t lay_over(struct kv_group *g, const struct kv_txn *t)
{
	uint32_t n = 0;

	for (const struct kv_rec *r = rec_first(t); r != NULL; r = rec_next(t, r)) {
		struct overlay_entry *e;
		bool is_new;
		if (r->kind > REC_MAX)
			continue;
		e = overlay_touch(&g->overlay, r->hash, r->prefix_hash, rec_key(r), &is_new);
		if (!is_new)
			g->undo[n++] = (struct undo){ (uint32_t)(e - g->overlay.entries), e->kind };
		e->kind = r->kind == REC_DELETE ? OVERLAY_DELETE : OVERLAY_PUT;
	}
	return n;
}

static int judge_ranges(struct kv_group *g, const struct kv_txn *t)
{
	uint32_t count = g->overlay.count;
	uint32_t undo_count;
	int err = 0;

	if (t->ops_count > g->undo_cap) {
		struct undo *undo = realloc(g->undo, t->ops_count * sizeof(*undo));
		if (undo == NULL)
			return -GRANARY_ENOMEM;
		g->undo = undo;
		g->undo_cap = t->ops_count;
	}
	undo_count = lay_over(g, t);
	for (const struct kv_rec *r = rec_first(t); r != NULL && err == 0; r = rec_next(t, r))
		if (r->kind == REC_RANGE)
			err = judge_range(g, r);
	while (undo_count-- > 0)
		g->overlay.entries[g->undo[undo_count].index].kind = g->undo[undo_count].kind;
	overlay_pop(&g->overlay, count);
	return err;
}

/* ---- applying: cannot fail ---- */

static void slots_touch(struct kv_group *g, const struct kv_rec *r)
{
	g->slots[r->hash & (KV_SLOTS_COUNT - 1)] = g->seq;
	if (r->key_len >= KV_PREFIX_LEN && r->bytes[0] == 'd')
		g->slots[r->prefix_hash & (KV_SLOTS_COUNT - 1)] = g->seq;
}

static void apply_row(struct kv_group *g, const struct kv_rec *r)
{
	bool is_new;
	struct overlay_entry *e = overlay_touch(&g->overlay, r->hash, r->prefix_hash, rec_key(r), &is_new);
	struct counter *c = is_new ? counters_find(&g->counters, r->hash, rec_key(r)) : e->counter;

	if (c != NULL)
		counters_drop(&g->counters, c);
	e->counter = NULL;
	e->kind = r->kind == REC_PUT ? OVERLAY_PUT : OVERLAY_DELETE;
	e->value = rec_value(r);
	slots_touch(g, r);
}

static struct counter *apply_count(struct kv_group *g, struct counter *c, const struct kv_rec *r)
{
	char key[80];
	int err = counter_apply(&g->counters, c, r);

	if (err < 0)
		log_error("cannot count in row '%s': %s; tag=%u", name_escape(key, sizeof(key), rec_key(r)),
			error_text(err), r->tag);
	return c;
}

/* The row's counter, for the records on the same row that follow. */
static struct counter *apply_counter(struct kv_group *g, const struct kv_rec *r)
{
	bool is_new;
	struct overlay_entry *e = overlay_touch(&g->overlay, r->hash, r->prefix_hash, rec_key(r), &is_new);
	struct counter *c = is_new ? counters_find(&g->counters, r->hash, rec_key(r)) : e->counter;

	if (c == NULL) /* put or deleted in this group */
		c = counters_add(&g->counters, r->hash, rec_key(r), e->kind == OVERLAY_PUT ? &e->value : NULL);
	assert(c != NULL); /* out of memory for 200 bytes in mid-group: stopping is the one answer that is not a lie */
	if (!c->exists)
		slots_touch(g, r);
	e->kind = OVERLAY_COUNTER;
	e->counter = c;
	return apply_count(g, c, r);
}

/* The row's tag as it is before the put; false: there is no row, or it does not have it. */
static bool row_tag(struct kv_group *g, const struct kv_rec *r, uint64_t tag, uint64_t *v)
{
	const struct overlay_entry *e = overlay_find(&g->overlay, r->hash, rec_key(r));
	const struct counter *c = e != NULL ? e->counter : counters_find(&g->counters, r->hash, rec_key(r));
	struct slice value = { NULL, 0 };

	if (tag == 0 || (e != NULL && e->kind == OVERLAY_DELETE))
		return false;
	if (e != NULL && e->kind == OVERLAY_PUT)
		value = e->value;
	else if (c != NULL && c->exists)
		value = slice_of(c->value, c->value_len);
	return value.len > 0 && value_u64(value, (uint16_t)tag, UINT64_MAX, v) && *v != UINT64_MAX;
}

/* Of the value that was put: the tag becomes v. */
static void put_tag(struct kv_group *g, const struct kv_rec *r, uint64_t tag, uint64_t v)
{
	uint64_t has = 0;
	struct kv_rec add = { .kind = REC_ADD, .tag = (uint16_t)tag };
	struct slice value = rec_value(r);
	struct overlay_entry *e;
	bool is_new;

	e = overlay_touch(&g->overlay, r->hash, r->prefix_hash, rec_key(r), &is_new);
	if (e->kind == OVERLAY_COUNTER)
		value = slice_of(e->counter->value, e->counter->value_len);
	if (!value_u64(value, (uint16_t)tag, 0, &has) || has == v)
		return;
	if (e->kind != OVERLAY_COUNTER) {
		e->kind = OVERLAY_COUNTER;
		e->counter = counters_add(&g->counters, r->hash, rec_key(r), &value);
		assert(e->counter != NULL); /* as in apply_counter() */
	}
	add.a = v - has;
	(void)apply_count(g, e->counter, &add);
}

static void apply_put(struct kv_group *g, const struct kv_rec *r)
{
	uint64_t raised = 0, kept = 0, own = 0;
	bool raises = row_tag(g, r, r->tag, &raised), keeps = row_tag(g, r, r->a, &kept);

	apply_row(g, r);
	if (raises && value_u64(rec_value(r), r->tag, 0, &own) && raised > own)
		put_tag(g, r, r->tag, raised);
	if (keeps)
		put_tag(g, r, r->a, kept);
}

static void apply_all(struct kv_group *g, const struct kv_txn *t)
{
	const struct kv_rec *counted = NULL;
	struct counter *c = NULL;

	for (const struct kv_rec *r = rec_first(t); r != NULL; r = rec_next(t, r)) {
		if (r->kind == REC_PUT || r->kind == REC_DELETE) {
			if (r->kind == REC_PUT)
				apply_put(g, r);
			else
				apply_row(g, r);
			counted = NULL;
		} else if (rec_counts(r)) {
			c = rec_has_key_of(r, counted) ? apply_count(g, c, r) : apply_counter(g, r);
			counted = r;
		}
	}
}

int group_add(struct kv_group *g, const struct kv_txn *t)
{
	int err = t->is_short ? -GRANARY_ENOMEM : overlay_reserve(&g->overlay, t->ops_count + 1);

	if (err == 0)
		err = judge_points(g, t);
	if (err == 0 && t->has_range)
		err = judge_ranges(g, t);
	if (err < 0)
		return err;
	apply_all(g, t);
	return 0;
}

/* ---- unstable transactions ---- */

void group_touch(struct kv_group *g, const struct kv_txn *t)
{
	for (const struct kv_rec *r = rec_first(t); r != NULL; r = rec_next(t, r))
		if (r->kind == REC_PUT || r->kind == REC_DELETE)
			slots_touch(g, r);
}

int group_judge_unstable(struct kv_group *g, const struct kv_txn *t, struct overlay *pending)
{
	int err = t->is_short ? -GRANARY_ENOMEM : overlay_reserve(&g->overlay, t->ops_count + 1);

	assert(g->overlay.count == 0);
	g->pending = pending;
	if (err == 0)
		err = judge_points(g, t);
	if (err == 0 && t->has_range) /* nothing is pending where it looks: pending_meets() */
		err = g->may_not_block ? -GRANARY_EAGAIN : judge_ranges(g, t);
	g->pending = NULL;
	if (err == 0)
		group_touch(g, t);
	return err;
}

/* Its preconditions were judged; since then others changed nothing that it had read through pending rows, and what
 * else they changed it does not touch. */
int group_add_pending(struct kv_group *g, const struct kv_txn *t)
{
	int err = overlay_reserve(&g->overlay, t->ops_count + 1);

	for (const struct kv_rec *r = rec_first(t); err == 0 && r != NULL; r = rec_next(t, r))
		if (rec_counts(r) || rec_carries(r))
			err = group_load_counter(g, r);
	if (err == 0)
		apply_all(g, t);
	return err;
}

static int op_compare(const void *a, const void *b)
{
	struct slice x = ((const struct kv_write_op *)a)->key, y = ((const struct kv_write_op *)b)->key;
	int order = memcmp(x.p, y.p, x.len < y.len ? x.len : y.len);

	return order != 0 ? order : (x.len > y.len) - (x.len < y.len);
}

/* Sorted: engines insert neighbours faster. */
int64_t group_ops(struct kv_group *g)
{
	uint32_t n = g->overlay.count;

	if (n > g->ops_cap) {
		struct kv_write_op *ops = realloc(g->ops, 2 * (size_t)n * sizeof(*ops));
		if (ops == NULL)
			return -GRANARY_ENOMEM;
		g->ops = ops;
		g->ops_cap = 2 * n;
	}
	for (uint32_t i = 0; i < n; i++) {
		const struct overlay_entry *e = &g->overlay.entries[i];
		g->ops[i] = (struct kv_write_op){ .key = e->key, .value = e->value };
		g->ops[i].is_delete = e->kind == OVERLAY_DELETE;
		if (e->kind == OVERLAY_COUNTER)
			g->ops[i].value = slice_of(e->counter->value, e->counter->value_len);
	}
	if (n > 1)
		qsort(g->ops, n, sizeof(*g->ops), op_compare);
	return n;
}

void group_end(struct kv_group *g, bool is_written)
{
	overlay_reset(&g->overlay);
	kv_iter_free(&g->iter);
	if (is_written)
		counters_trim(&g->counters);
	else
		counters_clear(&g->counters);
}
