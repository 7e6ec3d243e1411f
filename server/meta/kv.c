/* SPDX-License-Identifier: Apache-2.0 */
/* kv.c -- the queue, the committer and the public face over an engine.
 *
 * Unstable transactions are judged by the committer between two groups, or by whoever submits one while the committer
 * has nothing to do (kv_submit_now); what became pending is written as a group of its own (kv_pending.h).
 *
 * A group, in order: take what is queued -> judge and apply each to the overlay (kv_group.c) -> observer begin ->
 * one write + sync -> seq = the group's number -> observer end -> tell everybody.
 *
 * Invariants: (1) who judges or commits holds turn_lock;
 * (2) seq is the number of the last group whose rows are visible (an unstable transaction that became pending is one,
 * too), so a reader that took it before a read saw all rows of that group, and the group in progress has a higher one;
 * (3) a group that cannot be written fails every
 * transaction that was judged on it; (4) after `done` is posted the transaction is not touched again. */
#include "meta/kv_pending.h"
#include "meta/rows.h"

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	KV_MAGIC = 0x6b763031,
	GROUP_MAX_DEFAULT = 1024,
	GROUP_BYTES_MAX = 8 * 1024 * 1024, /* of transactions; at least one is taken */
	GROUP_TARGETS_MAX = 64,
};

struct kv {
	uint32_t magic;
	bool has_thread;
	bool is_dead; /* a write failed in a way that nobody can know what is on disk */
	struct kv_options options;
	struct kv_engine *engine;
	struct kv_group group;
	_Atomic uint64_t seq; /* release by the committer, acquire in kv_seq */
	pthread_t thread;
	struct kv_pending pending;
	_Atomic bool flush_wanted; /* set under lock; read by kv_hold_released */
	_Atomic uint64_t losses;
	pthread_mutex_t turn_lock;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t wake, flushed;
	struct kv_bundle queue;
	bool is_waiting, is_stopping;
	bool is_poked;             /* look again whether what is pending can be written */
	uint64_t flushes;          /* that are through */
	struct kv_sync *syncs;     /* wait for the next one */
	struct kv_stats stats;
};

/* ---- reads ---- */

/* 0: the engine has the answer; 1: *out is; or an error. *count: of what it shows. */
static int get_pending(struct kv *kv, struct slice key, bool may_block, struct kv_value *out,
		       struct pending_count *count)
{
	int found = pending_get(&kv->pending, key, out, count);

	while (found == PENDING_OTHERS && may_block) {
		kv_sync_wait(kv);
		found = pending_get(&kv->pending, key, out, count);
	}
	switch (found) {
	case PENDING_NONE: return 0;
	case PENDING_PUT: return 1;
	case PENDING_DELETED: return -GRANARY_ENOTFOUND;
	case PENDING_OTHERS: return -GRANARY_EAGAIN;
	default: return found;
	}
}

static void count_free(void *copy) { free(copy); }

/* A copy of the value with the count in it. The count was read before the value: what is written meanwhile is in it. */
static int count_show(const struct pending_count *count, struct kv_value *out)
{
	size_t cap = out->v.len + 16;
	uint8_t *copy;
	int64_t len;

	if (count->tag == 0)
		return 0;
	copy = malloc(cap);
	len = copy == NULL ? -GRANARY_ENOMEM : value_set_u64(out->v, count->tag, count->count, copy, cap);
	kv_value_release(out);
	if (len < 0) {
		free(copy);
		return (int)len;
	}
	*out = (struct kv_value){ .v = slice_of(copy, (size_t)len), .pin = copy, .unpin = count_free };
	return 0;
}

static int get_shown(struct kv *kv, struct slice key, bool may_block, struct kv_value *out)
{
	struct pending_count count;
	int found = get_pending(kv, key, may_block, out, &count);

	if (found == 0 && may_block)
		found = kv->engine->ops->get(kv->engine, key, out);
	else if (found == 0)
		found = kv->engine->ops->get_cached(kv->engine, key, out);
	return found < 0 ? found : count_show(&count, out);
}

int kv_get(struct kv *kv, struct slice key, struct kv_value *out) { return get_shown(kv, key, true, out); }

int kv_get_cached(struct kv *kv, struct slice key, struct kv_value *out) { return get_shown(kv, key, false, out); }

void kv_value_release(struct kv_value *v)
{
	if (v->unpin != NULL)
		v->unpin(v->pin);
	*v = (struct kv_value){ .pin = NULL };
}

/* RocksDB's own multi-get is no faster than this (measured: 1.0 to 1.2 times). */
void kv_multi_get(struct kv *kv, const struct slice *keys, uint32_t n, struct kv_value *out, int *err)
{
	for (uint32_t i = 0; i < n; i++)
		err[i] = kv_get(kv, keys[i], &out[i]);
}

/* Before an iterator or a view is made: kv_pending.h (5). */
static void settle_pending(struct kv *kv)
{
	if (atomic_load(&kv->pending.count) > 0)
		kv_sync_wait(kv);
}

struct kv_snapshot *kv_snapshot_new(struct kv *kv)
{
	settle_pending(kv);
	return kv->engine->ops->snapshot_new(kv->engine);
}

void kv_snapshot_free(struct kv *kv, struct kv_snapshot **sp)
{
	struct kv_snapshot *s = *sp;

	*sp = NULL;
	if (s != NULL)
		kv->engine->ops->snapshot_free(kv->engine, s);
}

struct kv_iter *kv_iter_new_under(struct kv *kv, struct slice prefix)
{
	if (atomic_load(&kv->pending.count) > 0 && kv_reads_as() != 0)
		return own_iter_new(kv, &kv->pending, kv->engine, prefix, ITER_PLAIN);
	while (pending_is_under(&kv->pending, prefix))
		kv_sync_wait(kv);
	return kv->engine->ops->iter_new(kv->engine, NULL, ITER_PLAIN);
}

struct kv_iter *kv_iter_new_cached(struct kv *kv, struct slice prefix)
{
	return own_iter_new(kv, &kv->pending, kv->engine, prefix, ITER_CACHED);
}

struct kv_iter *kv_iter_new(struct kv *kv, struct kv_snapshot *s)
{
	if (s == NULL)
		settle_pending(kv);
	return kv->engine->ops->iter_new(kv->engine, s, ITER_PLAIN);
}

struct kv_iter *kv_iter_new_scan(struct kv *kv, struct kv_snapshot *s)
{
	if (s == NULL)
		settle_pending(kv);
	return kv->engine->ops->iter_new(kv->engine, s, ITER_SCAN);
}

void kv_iter_free(struct kv_iter **itp)
{
	struct kv_iter *it = *itp;

	*itp = NULL;
	if (it != NULL)
		it->ops->free(it);
}

void kv_iter_seek(struct kv_iter *it, struct slice key) { it->ops->seek(it, key); }
void kv_iter_seek_back(struct kv_iter *it, struct slice key) { it->ops->seek_back(it, key); }
void kv_iter_next(struct kv_iter *it)
{
	assert(it->is_valid);
	it->ops->next(it);
}
bool kv_iter_valid(const struct kv_iter *it) { return it->is_valid; }
struct slice kv_iter_key(const struct kv_iter *it) { return it->key; }
struct slice kv_iter_value(const struct kv_iter *it) { return it->value; }
int kv_iter_error(const struct kv_iter *it) { return it->err; }
uint64_t kv_seq(struct kv *kv) { return atomic_load_explicit(&kv->seq, memory_order_acquire); }

/* ---- queue ---- */

static void list_add(struct kv_bundle *l, struct kv_txn *t)
{
	t->next = NULL;
	*(l->last ? &l->last->next : &l->first) = t;
	l->last = t;
}

/* Takes up to one group off the queue; lock held. */
static struct kv_bundle queue_take(struct kv *kv)
{
	struct kv_bundle taken = { NULL, NULL };
	uint64_t bytes = 0;
	uint32_t count = 0;

	while (kv->queue.first != NULL && count < kv->options.group_max && bytes < GROUP_BYTES_MAX) {
		struct kv_txn *t = kv->queue.first;
		kv->queue.first = t->next;
		if (kv->queue.first == NULL)
			kv->queue.last = NULL;
		list_add(&taken, t);
		bytes += t->recs_len;
		count++;
	}
	return taken;
}

void kv_bundle_add(struct kv_bundle *b, struct kv_txn *t, struct reactor *to, struct task *done)
{
	assert(t->magic == KV_TXN_MAGIC && done != NULL);
	t->to = to;
	t->done = done;
	list_add(b, t);
}

/* Lock held. */
static void bundle_enqueue(struct kv *kv, const struct kv_bundle *b)
{
	for (struct kv_txn *t = b->first, *next; t != NULL; t = next) {
		next = t->next;
		assert(t->kv == kv);
		t->result = kv->is_stopping ? -GRANARY_ESHUTDOWN : 0; /* the committer passes a refusal on */
		list_add(&kv->queue, t);
	}
}

void kv_bundle_submit(struct kv *kv, struct kv_bundle *b)
{
	bool must_wake;

	assert(kv->magic == KV_MAGIC);
	if (b->first == NULL)
		return;
	pthread_mutex_lock(&kv->lock);
	bundle_enqueue(kv, b);
	must_wake = kv->is_waiting;
	kv->is_waiting = false;
	pthread_mutex_unlock(&kv->lock);
	*b = (struct kv_bundle){ NULL, NULL };
	if (must_wake)
		pthread_cond_signal(&kv->wake);
}

void kv_submit(struct kv *kv, struct kv_txn *t, struct reactor *to, struct task *done)
{
	struct kv_bundle b = { NULL, NULL };

	kv_bundle_add(&b, t, to, done);
	kv_bundle_submit(kv, &b);
}

/* The rest of a group that was not judged comes first again. */
static void queue_return(struct kv *kv, struct kv_bundle rest)
{
	if (rest.first == NULL)
		return;
	pthread_mutex_lock(&kv->lock);
	rest.last->next = kv->queue.first;
	if (kv->queue.last == NULL)
		kv->queue.last = rest.last;
	kv->queue.first = rest.first;
	pthread_mutex_unlock(&kv->lock);
}

/* ---- one group ---- */

static void observe(struct kv *kv, const struct kv_txn *t,
	void (*tell)(void *arg, uint64_t dir_id, struct slice name, uint64_t object_id))
{
	if (!t->has_touch || tell == NULL)
		return;
	for (const struct kv_rec *r = rec_first(t); r != NULL; r = rec_next(t, r))
		if (r->kind == REC_TOUCH)
			tell(kv->options.observer.arg, r->a, rec_key(r), r->b);
}

static void group_judge(struct kv *kv, const struct kv_bundle *list)
{
	for (struct kv_txn *t = list->first; t != NULL; t = t->next) {
		if (t->result == 0)
			t->result = kv->is_dead ? -GRANARY_EIO : group_add(&kv->group, t);
		if (t->result == 0)
			observe(kv, t, kv->options.observer.begin);
	}
}

/* May it be judged in a group: it is not unstable and meets nothing that is pending. */
static bool txn_joins(struct kv *kv, const struct kv_txn *t)
{
	return t->owner == 0 && !pending_meets(&kv->pending, t);
}

/* Cuts the list before the first that does not join; returns what was cut off. */
static struct kv_bundle list_cut(struct kv *kv, struct kv_bundle *list)
{
	struct kv_bundle rest = { NULL, NULL };
	struct kv_txn *last = NULL;

	for (struct kv_txn *t = list->first; t != NULL && txn_joins(kv, t); t = t->next)
		last = t;
	if (last == list->last)
		return rest;
	rest = (struct kv_bundle){ last != NULL ? last->next : list->first, list->last };
	if (last != NULL)
		last->next = NULL;
	*list = (struct kv_bundle){ last != NULL ? list->first : NULL, last };
	return rest;
}

static int group_write(struct kv *kv, struct kv_stats *delta)
{
	int64_t n = group_ops(&kv->group);
	uint64_t start_ns = clock_mono_ns(), before;
	int err;

	if (n <= 0)
		return (int)n;
	before = kv->options.tap.group ? kv->engine->ops->position(kv->engine) : 0;
	err = kv->engine->ops->write(kv->engine, kv->group.ops, (uint32_t)n);
	if (err == 0 && kv->options.tap.group != NULL)
		kv->options.tap.group(kv->options.tap.arg, before, kv->engine->ops->position(kv->engine),
			kv->group.ops, (uint32_t)n);
	delta->sync_ns += clock_mono_ns() - start_ns;
	for (int64_t i = 0; err == 0 && i < n; i++)
		*(kv->group.ops[i].is_delete ? &delta->deletes : &delta->puts) += 1;
	return err;
}

/* Nobody knows what is on disk: contract F. */
static int group_fatal(struct kv *kv, int err)
{
	log_error("cannot write metadata, stopping: %s", error_text(err));
	kv->is_dead = true;
	if (kv->options.fatal != NULL)
		kv->options.fatal(kv->options.fatal_arg, "metadata write");
	else
		_exit(1);
	return -GRANARY_EIO;
}

/* The observer's end for all that began; what was judged on a group that failed has failed too. */
static void group_settle(struct kv *kv, const struct kv_bundle *list, int err, struct kv_stats *delta)
{
	for (struct kv_txn *t = list->first; t != NULL; t = t->next) {
		if (t->result == 0)
			observe(kv, t, kv->options.observer.end);
		if (err < 0 && (t->result == 0 || t->result == -GRANARY_EQUOTA))
			t->result = err;
		delta->txns++;
		delta->conflicts += t->result == -GRANARY_EBUSY;
	}
}

static void stats_add(struct kv *kv, const struct kv_stats *delta)
{
	pthread_mutex_lock(&kv->lock);
	kv->stats.groups += delta->unstable == 0;
	kv->stats.unstable += delta->unstable;
	kv->stats.flushes += delta->flushes;
	kv->stats.txns += delta->txns;
	kv->stats.conflicts += delta->conflicts;
	kv->stats.puts += delta->puts;
	kv->stats.deletes += delta->deletes;
	kv->stats.sync_ns += delta->sync_ns;
	kv->stats.pre_reads = kv->group.pre_reads;
	kv->stats.clamped = kv->group.counters.clamped;
	if (kv->has_thread)
		kv->stats.committer_cpu_ns = clock_thread_cpu_ns();
	pthread_mutex_unlock(&kv->lock);
}

/* One post a reactor: its tasks in order of submission. */
struct targets {
	uint32_t count;
	struct target { struct reactor *to; struct task *first, *last; } at[GROUP_TARGETS_MAX];
};

static void targets_flush(struct targets *ts)
{
	for (uint32_t i = 0; i < ts->count; i++)
		reactor_post_list(ts->at[i].to, ts->at[i].first, ts->at[i].last);
	ts->count = 0;
}

static void targets_add(struct targets *ts, struct reactor *to, struct task *task)
{
	uint32_t i = 0;

	task->next = NULL;
	while (i < ts->count && ts->at[i].to != to)
		i++;
	if (i < ts->count) {
		ts->at[i].last->next = task;
		ts->at[i].last = task;
		return;
	}
	if (ts->count == GROUP_TARGETS_MAX)
		targets_flush(ts);
	ts->at[ts->count++] = (struct target){ to, task, task };
}

/* A task may free its transaction: all of `next`, `to`, `done` is read before. */
static void group_tell(const struct kv_bundle *list)
{
	struct targets ts = { .count = 0 };
	struct kv_txn *next;

	for (struct kv_txn *t = list->first; t != NULL; t = next) {
		next = t->next;
		if (t->to != NULL)
			targets_add(&ts, t->to, t->done);
		else
			t->done->fn(t->done);
	}
	targets_flush(&ts);
}

static void group_tell_one(struct kv *kv, struct kv_txn *t)
{
	struct kv_stats delta = { .txns = 1, .unstable = t->is_pending, .conflicts = t->result == -GRANARY_EBUSY };
	struct reactor *to = t->to;
	struct task *done = t->done;

	stats_add(kv, &delta);
	if (to != NULL)
		reactor_post(to, done);
	else
		done->fn(done);
}

static int group_put(struct kv *kv, uint64_t seq, struct kv_stats *delta)
{
	int err = group_write(kv, delta);

	if (err < 0 && err != -GRANARY_ENOSPACE && err != -GRANARY_ENOMEM)
		err = group_fatal(kv, err);
	group_end(&kv->group, err == 0);
	if (err == 0)
		atomic_store_explicit(&kv->seq, seq, memory_order_release); /* pairs with kv_seq */
	return err;
}

static uint64_t group_next(const struct kv *kv)
{
	return atomic_load_explicit(&kv->seq, memory_order_relaxed) + 1;
}

static void group_commit(struct kv *kv, struct kv_bundle list)
{
	uint64_t seq = group_next(kv);
	struct kv_stats delta = { .groups = 0 };
	int err;

	group_begin(&kv->group, seq);
	group_judge(kv, &list);
	err = group_put(kv, seq, &delta);
	group_settle(kv, &list, err, &delta);
	stats_add(kv, &delta);
	group_tell(&list);
}

/* ---- unstable transactions: turn_lock held ---- */

static void want_flush(struct kv *kv)
{
	bool is_new;

	pthread_mutex_lock(&kv->lock);
	is_new = !atomic_exchange(&kv->flush_wanted, true);
	kv->is_poked |= is_new;
	pthread_mutex_unlock(&kv->lock);
	if (is_new && kv->options.flush_records != NULL)
		kv->options.flush_records(kv->options.pending_arg);
	pthread_cond_signal(&kv->wake);
}

/* It takes its place among what is pending, or is refused. It meets nothing of others. */
static int unstable_judge(struct kv *kv, struct kv_txn *t)
{
	bool was_empty = kv->pending.list.first == NULL;
	uint64_t seq = group_next(kv);
	int err;

	if (kv->is_dead)
		return -GRANARY_EIO;
	group_begin(&kv->group, seq);
	err = group_judge_unstable(&kv->group, t, &kv->pending.rows);
	t->losses = atomic_load(&kv->losses);
	if (err == 0)
		err = pending_add(&kv->pending, &kv->group, t);
	group_end(&kv->group, true);
	if (err < 0)
		return err;
	atomic_store_explicit(&kv->seq, seq, memory_order_release); /* who reads now sees its rows, or waits */
	observe(kv, t, kv->options.observer.begin);
	if (was_empty && kv->options.pending_began != NULL)
		kv->options.pending_began(kv->options.pending_arg);
	if (atomic_load(&kv->pending.bytes) > kv->options.pending_max / 2)
		want_flush(kv);
	return 0;
}

static void syncs_tell(struct kv_sync *sync)
{
	struct targets ts = { .count = 0 };

	for (struct kv_sync *next; sync != NULL; sync = next) {
		next = sync->next;
		if (sync->to != NULL)
			targets_add(&ts, sync->to, sync->done);
		else
			sync->done->fn(sync->done);
	}
	targets_flush(&ts);
}

/* All who wait asked for what was pending by now: nothing became pending since flush_wanted was set. */
static void flush_through(struct kv *kv, struct kv_stats *delta)
{
	struct kv_sync *syncs;

	delta->flushes++;
	stats_add(kv, delta);
	pthread_mutex_lock(&kv->lock);
	syncs = kv->syncs;
	kv->syncs = NULL;
	kv->flushes++;
	atomic_store(&kv->flush_wanted, false);
	pthread_cond_broadcast(&kv->flushed);
	pthread_mutex_unlock(&kv->lock);
	syncs_tell(syncs);
}

static void flush_settle(struct kv *kv, int err)
{
	struct kv_bundle list;
	struct targets ts = { .count = 0 };

	for (struct kv_txn *t = kv->pending.list.first; t != NULL && err < 0; t = t->next)
		group_touch(&kv->group, t); /* what was concluded from its rows does not hold */
	if (err < 0)
		atomic_fetch_add(&kv->losses, 1);
	list = pending_take(&kv->pending);
	for (struct kv_txn *t = list.first, *next; t != NULL; t = next) {
		next = t->next;
		observe(kv, t, kv->options.observer.end);
		t->result = err;
		if (t->to != NULL)
			targets_add(&ts, t->to, t->settled);
		else
			t->settled->fn(t->settled);
	}
	targets_flush(&ts);
}

/* Writes what is pending. False: its records are not flushed yet. */
static bool flush_commit(struct kv *kv)
{
	struct kv_stats delta = { .groups = 0 };
	uint64_t seq = group_next(kv);
	int err = pending_is_flushed(&kv->pending);

	if (err == 0)
		return false;
	if (kv->pending.list.first == NULL) {
		flush_through(kv, &delta);
		return true;
	}
	if (kv->is_dead)
		err = -GRANARY_EIO;
	group_begin(&kv->group, seq);
	for (struct kv_txn *t = kv->pending.list.first; err >= 0 && t != NULL; t = t->next)
		err = group_add_pending(&kv->group, t);
	if (err >= 0)
		err = group_put(kv, seq, &delta);
	else
		group_end(&kv->group, false);
	if (err < 0)
		log_error("changes that were answered before they were durable are lost: %s; transactions=%llu; their "
			"clients send them again", error_text(err),
			(unsigned long long)atomic_load(&kv->pending.count));
	flush_settle(kv, err);
	flush_through(kv, &delta);
	return true;
}

bool kv_submit_now(struct kv *kv, struct kv_txn *t, struct reactor *to)
{
	bool is_free, is_judged = false;

	assert(t->owner != 0 && !t->is_pending && kv->options.pending_max > 0);
	if (pthread_mutex_trylock(&kv->turn_lock) != 0)
		return false;
	pthread_mutex_lock(&kv->lock);
	is_free = kv->queue.first == NULL && !kv->is_stopping && !atomic_load(&kv->flush_wanted);
	pthread_mutex_unlock(&kv->lock);
	if (is_free && !pending_meets(&kv->pending, t)) {
		t->to = to;
		kv->group.may_not_block = true;
		t->result = unstable_judge(kv, t);
		kv->group.may_not_block = false;
		is_judged = t->result != -GRANARY_EAGAIN;
	}
	if (is_judged) {
		pthread_mutex_lock(&kv->lock);
		kv->stats.txns++;
		kv->stats.unstable += t->is_pending;
		kv->stats.conflicts += t->result == -GRANARY_EBUSY;
		pthread_mutex_unlock(&kv->lock);
	}
	pthread_mutex_unlock(&kv->turn_lock);
	return is_judged;
}

/* The first of the list is unstable, or meets what is pending. True: it is dealt with. */
static bool unstable_turn(struct kv *kv, struct kv_txn *t)
{
	if (pending_meets(&kv->pending, t)) {
		want_flush(kv);
		return false;
	}
	assert(t->owner != 0);
	t->next = NULL;
	if (t->result == 0)
		t->result = unstable_judge(kv, t);
	group_tell_one(kv, t);
	return true;
}

/* Those at the head of the list that do not join a group; how many were dealt with. */
static uint32_t unstable_run(struct kv *kv, struct kv_bundle *list)
{
	uint32_t count = 0;

	while (list->first != NULL && !atomic_load(&kv->flush_wanted) && !txn_joins(kv, list->first)) {
		struct kv_txn *t = list->first, *next = t->next;
		if (!unstable_turn(kv, t))
			break;
		list->first = next;
		count++;
	}
	return count;
}

/* One step of what is to be done; returns how many transactions were dealt with. turn_lock held, lock not. */
static uint32_t kv_step(struct kv *kv)
{
	struct kv_bundle list, rest;
	uint32_t count = 0;

	if (atomic_load(&kv->flush_wanted))
		return flush_commit(kv);
	pthread_mutex_lock(&kv->lock);
	list = queue_take(kv);
	pthread_mutex_unlock(&kv->lock);
	rest = list_cut(kv, &list);
	for (struct kv_txn *t = list.first; t != NULL; t = t->next)
		count++;
	if (count > 0)
		group_commit(kv, list);
	else
		count = unstable_run(kv, &rest);
	queue_return(kv, rest);
	return count;
}

/* Lock held. */
static bool kv_has_work(const struct kv *kv)
{
	return atomic_load(&kv->flush_wanted) ? kv->is_poked : kv->queue.first != NULL;
}

static void *committer(void *arg)
{
	struct kv *kv = arg;

	pthread_setname_np(pthread_self(), "committer");
	pthread_mutex_lock(&kv->lock);
	for (;;) {
		while (!kv_has_work(kv) && !(kv->is_stopping && kv->queue.first == NULL)) {
			kv->is_waiting = true;
			pthread_cond_wait(&kv->wake, &kv->lock);
		}
		if (!kv_has_work(kv))
			break;
		kv->is_poked = false;
		pthread_mutex_unlock(&kv->lock);
		pthread_mutex_lock(&kv->turn_lock);
		kv_step(kv);
		pthread_mutex_unlock(&kv->turn_lock);
		pthread_mutex_lock(&kv->lock);
	}
	pthread_mutex_unlock(&kv->lock);
	return NULL;
}

uint32_t kv_turn(struct kv *kv)
{
	uint32_t count;

	assert(!kv->has_thread);
	pthread_mutex_lock(&kv->turn_lock);
	count = kv_step(kv);
	pthread_mutex_unlock(&kv->turn_lock);
	return count;
}

/* ---- flushing, as others ask for it ---- */

void kv_hold_released(struct kv *kv)
{
	if (!atomic_load(&kv->flush_wanted))
		return;
	pthread_mutex_lock(&kv->lock);
	kv->is_poked = true;
	pthread_mutex_unlock(&kv->lock);
	pthread_cond_signal(&kv->wake);
}

void kv_flush_start(struct kv *kv)
{
	if (atomic_load(&kv->pending.count) > 0)
		want_flush(kv);
}

void kv_sync(struct kv *kv, struct kv_sync *sync, struct reactor *to, struct task *done)
{
	*sync = (struct kv_sync){ .to = to, .done = done };
	pthread_mutex_lock(&kv->lock);
	sync->next = kv->syncs;
	kv->syncs = sync;
	pthread_mutex_unlock(&kv->lock);
	want_flush(kv);
}

void kv_sync_wait(struct kv *kv)
{
	uint64_t flushes;

	pthread_mutex_lock(&kv->lock);
	flushes = kv->flushes;
	pthread_mutex_unlock(&kv->lock);
	want_flush(kv);
	pthread_mutex_lock(&kv->lock);
	while (kv->flushes == flushes) {
		if (kv->has_thread) {
			pthread_cond_wait(&kv->flushed, &kv->lock);
			continue;
		}
		pthread_mutex_unlock(&kv->lock);
		if (kv->options.pump != NULL)
			kv->options.pump(kv->options.pending_arg);
		kv_turn(kv);
		pthread_mutex_lock(&kv->lock);
	}
	pthread_mutex_unlock(&kv->lock);
}

uint64_t kv_losses(struct kv *kv) { return atomic_load(&kv->losses); }

struct waiter {
	struct task task;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool is_done;
};

static void waiter_done(struct task *task)
{
	struct waiter *w = (struct waiter *)(void *)task; /* its first member */

	pthread_mutex_lock(&w->lock);
	w->is_done = true;
	pthread_cond_signal(&w->cond); /* under the lock: the waiter's memory is gone right after it */
	pthread_mutex_unlock(&w->lock);
}

int kv_submit_wait(struct kv *kv, struct kv_txn *t)
{
	struct waiter w = { .task = { .fn = waiter_done } };

	pthread_mutex_init(&w.lock, NULL);
	pthread_cond_init(&w.cond, NULL);
	kv_submit(kv, t, NULL, &w.task);
	if (!kv->has_thread)
		kv_turn(kv); /* if another thread's turn took ours, it is done below */
	pthread_mutex_lock(&w.lock);
	while (!w.is_done) {
		if (kv->has_thread) {
			pthread_cond_wait(&w.cond, &w.lock);
			continue;
		}
		pthread_mutex_unlock(&w.lock); /* more than a group was queued before us */
		kv_turn(kv);
		pthread_mutex_lock(&w.lock);
	}
	pthread_mutex_unlock(&w.lock);
	pthread_cond_destroy(&w.cond);
	pthread_mutex_destroy(&w.lock);
	return t->result;
}

/* ---- open, close ---- */

static void kv_release(struct kv *kv)
{
	group_release(&kv->group);
	pending_release(&kv->pending);
	pthread_cond_destroy(&kv->flushed);
	if (kv->engine != NULL)
		kv->engine->ops->close(kv->engine);
	pthread_cond_destroy(&kv->wake);
	pthread_mutex_destroy(&kv->lock);
	pthread_mutex_destroy(&kv->turn_lock);
	kv->magic = 0;
	free(kv);
}

int kv_new(struct kv_engine *engine, const struct kv_options *options, struct kv **out)
{
	struct kv *kv = calloc(1, sizeof(*kv));

	*out = NULL;
	if (kv == NULL) {
		engine->ops->close(engine);
		return -GRANARY_ENOMEM;
	}
	kv->magic = KV_MAGIC;
	kv->options = *options;
	if (kv->options.group_max == 0)
		kv->options.group_max = GROUP_MAX_DEFAULT;
	kv->engine = engine;
	atomic_init(&kv->seq, 1); /* 0 is "always read" */
	pthread_mutex_init(&kv->turn_lock, NULL);
	pthread_mutex_init(&kv->lock, NULL);
	pthread_cond_init(&kv->wake, NULL);
	pthread_cond_init(&kv->flushed, NULL);
	atomic_init(&kv->flush_wanted, false);
	atomic_init(&kv->losses, 0);
	if (pending_init(&kv->pending) < 0 || group_init(&kv->group, engine) < 0)
		goto fail;
	if (engine->ops->has_committer && pthread_create(&kv->thread, NULL, committer, kv) != 0)
		goto fail;
	kv->has_thread = engine->ops->has_committer;
	*out = kv;
	return 0;
fail:
	kv_release(kv);
	return -GRANARY_ENOMEM;
}

void kv_close(struct kv **kvp)
{
	struct kv *kv = *kvp;

	*kvp = NULL;
	if (kv == NULL)
		return;
	assert(kv->magic == KV_MAGIC);
	pthread_mutex_lock(&kv->lock);
	kv->is_stopping = true;
	kv->is_waiting = false;
	pthread_mutex_unlock(&kv->lock);
	pthread_cond_signal(&kv->wake);
	if (kv->has_thread)
		pthread_join(kv->thread, NULL);
	else
		while (kv_turn(kv) > 0)
			;
	if (kv->pending.list.first != NULL && !flush_commit(kv))
		flush_settle(kv, -GRANARY_ESHUTDOWN); /* its records will never be flushed */
	kv_release(kv);
}

uint64_t kv_position(struct kv *kv) { return kv->engine->ops->position(kv->engine); }
int kv_checkpoint(struct kv *kv, const char *dir) { return kv->engine->ops->checkpoint(kv->engine, dir); }
const char *kv_engine_name(struct kv *kv) { return kv->engine->ops->name; }

int kv_reopen(struct kv *kv) { return kv->engine->ops->reopen(kv->engine); }

void kv_get_stats(struct kv *kv, struct kv_stats *out)
{
	pthread_mutex_lock(&kv->lock);
	*out = kv->stats;
	out->pending = atomic_load(&kv->pending.count);
	out->pending_bytes = atomic_load(&kv->pending.bytes);
	out->losses = atomic_load(&kv->losses);
	pthread_mutex_unlock(&kv->lock);
}
