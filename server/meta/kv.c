/* SPDX-License-Identifier: Apache-2.0 */
/* kv.c -- the queue, the committer and the public face over an engine.
 *
 * A group, in order: take what is queued -> judge and apply each to the overlay (kv_group.c) -> observer begin ->
 * one write + sync -> seq = the group's number -> observer end -> tell everybody.
 *
 * Invariants: (1) one thread commits at a time: the committer, or under an engine without one who holds turn_lock;
 * (2) seq is the number of the last group whose rows are visible, so a reader that took it before a read saw all
 * rows of that group, and the group in progress has a higher one; (3) a group that cannot be written fails every
 * transaction that was judged on it; (4) after `done` is posted the transaction is not touched again. */
#include "meta/kv_group.h"

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
	pthread_mutex_t turn_lock;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t wake;
	struct kv_bundle queue;
	bool is_waiting, is_stopping;
	struct kv_stats stats;
};

/* ---- reads ---- */

int kv_get(struct kv *kv, struct slice key, struct kv_value *out) { return kv->engine->ops->get(kv->engine, key, out); }

int kv_get_cached(struct kv *kv, struct slice key, struct kv_value *out)
{
	return kv->engine->ops->get_cached(kv->engine, key, out);
}

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

struct kv_snapshot *kv_snapshot_new(struct kv *kv) { return kv->engine->ops->snapshot_new(kv->engine); }

void kv_snapshot_free(struct kv *kv, struct kv_snapshot **sp)
{
	struct kv_snapshot *s = *sp;

	*sp = NULL;
	if (s != NULL)
		kv->engine->ops->snapshot_free(kv->engine, s);
}

struct kv_iter *kv_iter_new(struct kv *kv, struct kv_snapshot *s)
{
	return kv->engine->ops->iter_new(kv->engine, s, false);
}

struct kv_iter *kv_iter_new_scan(struct kv *kv, struct kv_snapshot *s)
{
	return kv->engine->ops->iter_new(kv->engine, s, true);
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

static int group_write(struct kv *kv, struct kv_stats *delta)
{
	int64_t n = group_ops(&kv->group);
	uint64_t start_ns = clock_mono_ns();
	int err;

	if (n <= 0)
		return (int)n;
	err = kv->engine->ops->write(kv->engine, kv->group.ops, (uint32_t)n);
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
	kv->stats.groups++;
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

static void group_commit(struct kv *kv, struct kv_bundle list)
{
	uint64_t seq = atomic_load_explicit(&kv->seq, memory_order_relaxed) + 1;
	struct kv_stats delta = { .groups = 0 };
	int err;

	group_begin(&kv->group, seq);
	group_judge(kv, &list);
	err = group_write(kv, &delta);
	if (err < 0 && err != -GRANARY_ENOSPACE && err != -GRANARY_ENOMEM)
		err = group_fatal(kv, err);
	group_end(&kv->group, err == 0);
	if (err == 0)
		atomic_store_explicit(&kv->seq, seq, memory_order_release); /* pairs with kv_seq */
	group_settle(kv, &list, err, &delta);
	stats_add(kv, &delta);
	group_tell(&list);
}

static void *committer(void *arg)
{
	struct kv *kv = arg;
	struct kv_bundle list;

	pthread_setname_np(pthread_self(), "committer");
	pthread_mutex_lock(&kv->lock);
	for (;;) {
		while (kv->queue.first == NULL && !kv->is_stopping) {
			kv->is_waiting = true;
			pthread_cond_wait(&kv->wake, &kv->lock);
		}
		if (kv->queue.first == NULL)
			break;
		list = queue_take(kv);
		pthread_mutex_unlock(&kv->lock);
		group_commit(kv, list);
		pthread_mutex_lock(&kv->lock);
	}
	pthread_mutex_unlock(&kv->lock);
	return NULL;
}

uint32_t kv_turn(struct kv *kv)
{
	struct kv_bundle list;
	uint32_t count = 0;

	assert(!kv->has_thread);
	pthread_mutex_lock(&kv->turn_lock);
	pthread_mutex_lock(&kv->lock);
	list = queue_take(kv);
	pthread_mutex_unlock(&kv->lock);
	for (struct kv_txn *t = list.first; t != NULL; t = t->next)
		count++;
	if (count > 0)
		group_commit(kv, list);
	pthread_mutex_unlock(&kv->turn_lock);
	return count;
}

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
	if (group_init(&kv->group, engine) < 0)
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
	kv_release(kv);
}

int kv_reopen(struct kv *kv) { return kv->engine->ops->reopen(kv->engine); }

void kv_get_stats(struct kv *kv, struct kv_stats *out)
{
	pthread_mutex_lock(&kv->lock);
	*out = kv->stats;
	pthread_mutex_unlock(&kv->lock);
}
