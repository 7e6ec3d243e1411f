/* SPDX-License-Identifier: Apache-2.0 */
/* link.c -- tasks that link: kept in rows `t` until they are through, run one at a time on a thread that may hang with
 * a source. Invariants: link.h's, and: (1) a task's row is committed before it is answered and goes when it ended; (2)
 * the row `n` 3 of a place says what it is linked to, and is committed with the first order about it. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/tlv.h"
#include "jobs/link_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "tier/stores.h"

enum { TASK_KIND_LINK = 2, LINKS_NICE = 10, WAIT_S = 1, STOP_S = 10, PAUSES_MAX = 6, TRIES_MAX = 5,
	VALUE_MAX = 4 * KEY_LEN_MAX, PLACE_ROW = 3 };

bool link_is_over(struct links *l, const struct link_task *t)
{
	bool over = atomic_load(&l->stopping);

	pthread_mutex_lock(&l->lock);
	over |= t->cancel;
	pthread_mutex_unlock(&l->lock);
	return over;
}

/* ---- rows ---- */

static void order_put(struct wr *w, const struct link_order *o)
{
	wr_u8(w, o->kind);
	wr_u8(w, o->takes_source);
	wr_u64(w, o->store);
	wr_bytes16(w, slice_str(o->prefix));
	wr_bytes16(w, slice_str(o->target));
}

static int order_take(struct slice v, struct link_order *o)
{
	struct cur c = cur_of(v.p, v.len);
	struct slice prefix, target;

	*o = (struct link_order){ .kind = cur_u8(&c) };
	o->takes_source = cur_u8(&c) != 0;
	o->store = cur_u64(&c);
	prefix = cur_bytes16(&c);
	target = cur_bytes16(&c);
	if (!cur_ok(&c) || o->kind < LINK_LINK || o->kind > LINK_VERIFY || prefix.len >= sizeof(o->prefix) ||
		target.len >= sizeof(o->target))
		return -GRANARY_ECORRUPT;
	memcpy(o->prefix, prefix.p, prefix.len);
	memcpy(o->target, target.p, target.len);
	return 0;
}

/* `n` 3 BUCKET/dir/: by its name: a bucket that is made again under the same one is linked anew by who does that. */
static struct slice place_row(uint8_t *buf, const char *target)
{
	struct wr w = wr_of(buf, VALUE_MAX);

	wr_u8(&w, 'n');
	wr_u8(&w, PLACE_ROW);
	wr_slice(&w, slice_str(target));
	return slice_of(buf, wr_len(&w));
}

static int rows_put(struct links *l, uint64_t task, const struct link_order *o)
{
	uint8_t key[VALUE_MAX], value[VALUE_MAX], *open;
	struct kv_txn *txn = kv_txn_new(l->o.kv);
	struct wr w = wr_of(value, sizeof(value));
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	value_begin(&w);
	tlv_put(&w, TTAG_KIND, slice_of(&(uint8_t){ TASK_KIND_LINK }, 1));
	open = tlv_open(&w, TTAG_ARGUMENTS);
	order_put(&w, o);
	tlv_close(&w, open);
	assert(wr_ok(&w));
	kv_put(txn, row_task(key, task), slice_of(value, wr_len(&w)));
	if (o->kind == LINK_LINK) kv_put(txn, place_row(key, o->target), slice_of(value, wr_len(&w)));
	err = kv_submit_wait(l->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

static int row_delete(struct links *l, uint64_t task)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(l->o.kv);
	int err = txn != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0) kv_delete(txn, row_task(key, task));
	if (err == 0) err = kv_submit_wait(l->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

int links_source(struct links *l, const char *target, struct link_order *out)
{
	uint8_t key[VALUE_MAX];
	struct slice arguments;
	struct kv_value v;
	int err = kv_get(l->o.kv, place_row(key, target), &v);

	if (err < 0) return err;
	err = value_bytes(v.v, TTAG_ARGUMENTS, &arguments) ? order_take(arguments, out) : -GRANARY_ECORRUPT;
	kv_value_release(&v);
	return err;
}

/* ---- tasks ---- */

static bool has_ended(const struct link_task *t)
{
	return t->p.state >= LINK_DONE;
}

static void task_free(struct link_task *t)
{
	free(t->report);
	free(t);
}

static struct link_task *task_new(uint64_t id, const struct link_order *o)
{
	struct link_task *t = calloc(1, sizeof(*t));

	if (t != NULL) t->report = calloc(1, LINK_REPORT_MAX);
	if (t == NULL || t->report == NULL) {
		free(t);
		return NULL;
	}
	t->p.task = id;
	t->p.order = *o;
	t->p.state = LINK_WAITING;
	t->p.began_ns = clock_mono_ns();
	return t;
}

/* Under the lock. The oldest that ended make room. */
static void task_add(struct links *l, struct link_task *t)
{
	struct link_task **at = &l->first;

	while (l->count >= LINKS_MAX && *at != NULL) {
		struct link_task *old = *at;

		if (!has_ended(old)) {
			at = &old->next;
			continue;
		}
		*at = old->next;
		if (old->next == NULL) l->last = at;
		task_free(old);
		l->count--;
	}
	t->next = NULL;
	*l->last = t;
	l->last = &t->next;
	l->count++;
}

static struct link_task *task_find(struct links *l, uint64_t task)
{
	struct link_task *t = l->first;

	while (t != NULL && t->p.task != task) t = t->next;
	return t;
}

static bool has_room(struct links *l)
{
	uint32_t busy = 0;

	pthread_mutex_lock(&l->lock);
	for (struct link_task *t = l->first; t != NULL; t = t->next) busy += !has_ended(t);
	pthread_mutex_unlock(&l->lock);
	return busy < LINKS_MAX;
}

int links_start(struct links *l, const struct link_order *order, uint64_t *task)
{
	const struct place *place = stores_find(l->o.stores, order->store);
	struct link_task *t;
	int err;

	if (place == NULL) return -GRANARY_ENOTFOUND;
	if (!place_is_source(place)) return -GRANARY_EINVAL;
	if (!has_room(l)) return -GRANARY_EBUSY;
	t = task_new(ids_object(l->o.ids), order);
	err = t != NULL ? rows_put(l, t->p.task, order) : -GRANARY_ENOMEM;
	if (err < 0) {
		if (t != NULL) task_free(t);
		return err;
	}
	*task = t->p.task;
	pthread_mutex_lock(&l->lock);
	task_add(l, t);
	pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
	return 0;
}

int links_cancel(struct links *l, uint64_t task)
{
	struct link_task *t;

	pthread_mutex_lock(&l->lock);
	t = task_find(l, task);
	if (t != NULL) t->cancel = true;
	pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
	return t != NULL ? 0 : -GRANARY_ENOTFOUND;
}

uint32_t links_list(struct links *l, struct link_progress *out, uint32_t max)
{
	uint32_t n = 0, skip;

	pthread_mutex_lock(&l->lock);
	skip = l->count > max ? l->count - max : 0;
	for (struct link_task *t = l->first; t != NULL; t = t->next) {
		if (skip > 0)
			skip--;
		else
			out[n++] = t->p;
	}
	pthread_mutex_unlock(&l->lock);
	return n;
}

int links_report(struct links *l, uint64_t task, char *buf, size_t cap)
{
	struct link_task *t;

	pthread_mutex_lock(&l->lock);
	t = task_find(l, task);
	if (t != NULL) snprintf(buf, cap, "%s", t->report);
	pthread_mutex_unlock(&l->lock);
	return t != NULL ? 0 : -GRANARY_ENOTFOUND;
}

/* ---- running ---- */

static struct link_task *task_next(struct links *l, uint64_t now)
{
	for (struct link_task *t = l->first; t != NULL; t = t->next)
		if (!has_ended(t) && (t->cancel || t->p.state != LINK_PAUSED || now >= t->not_before_ns)) return t;
	return NULL;
}

static void task_end(struct links *l, struct link_task *t, enum link_state state, int err)
{
	const uint64_t *n = t->p.counts;
	int gone = row_delete(l, t->p.task);

	if (gone < 0) log_warn("cannot remove the row of a task: %s; task=%016" PRIx64, error_text(gone), t->p.task);
	pthread_mutex_lock(&l->lock);
	t->p.state = (uint8_t)state;
	t->p.err = err;
	t->p.ended_ns = clock_mono_ns();
	pthread_mutex_unlock(&l->lock);
	log_info("a task ended; task=%016" PRIx64 " kind=%s target='%s' err='%s' listed=%" PRIu64 " new=%" PRIu64
		 " same=%" PRIu64 " changed=%" PRIu64 " conflict=%" PRIu64 " gone=%" PRIu64 " local=%" PRIu64
		 " refused=%" PRIu64,
		t->p.task, t->p.order.kind == LINK_LINK ? "link" : "verify", t->p.order.target,
		err < 0 ? error_text(err) : "", t->p.listed, n[LINK_NEW], n[LINK_SAME], n[LINK_CHANGED],
		n[LINK_CONFLICT], n[LINK_GONE], n[LINK_LOCAL], n[LINK_REFUSED]);
}

/* The source, or for a while everything: it goes on by itself. */
static bool is_worth_waiting(const struct link_task *t, int err)
{
	return err == -GRANARY_EOFFLINE || err == -GRANARY_ETIMEDOUT || err == -GRANARY_EACCESS ||
	       err == -GRANARY_ENOSPACE || (t->pauses < TRIES_MAX && err != -GRANARY_ENOTFOUND && err !=
		-GRANARY_EINVAL && err != -GRANARY_ENOBUCKET && err != -GRANARY_EQUOTA);
}

static void task_pause(struct links *l, struct link_task *t, int err)
{
	uint32_t shift = t->pauses < PAUSES_MAX ? t->pauses : PAUSES_MAX;

	pthread_mutex_lock(&l->lock);
	if (t->p.state != LINK_PAUSED || t->p.err != err)
		log_warn("a task waits: %s; task=%016" PRIx64 " target='%s'", error_text(err), t->p.task,
			t->p.order.target);
	t->pauses++;
	t->p.state = LINK_PAUSED;
	t->p.err = err;
	t->not_before_ns = clock_mono_ns() + (l->o.retry_ns << shift);
	pthread_mutex_unlock(&l->lock);
}

static int task_run(struct links *l, struct link_task *t)
{
	int err = -GRANARY_ECANCELED;

	if (!t->cancel) {
		if (t->p.state != LINK_PAUSED) {
			pthread_mutex_lock(&l->lock);
			t->p.state = LINK_RUNNING;
			pthread_mutex_unlock(&l->lock);
		}
		err = link_walk(l, t);
	}
	if (t->cancel)
		task_end(l, t, LINK_CANCELED, -GRANARY_ECANCELED);
	else if (atomic_load(&l->stopping))
		return 0;
	else if (err < 0 && is_worth_waiting(t, err))
		task_pause(l, t, err);
	else
		task_end(l, t, err < 0 ? LINK_FAILED : LINK_DONE, err);
	return t->cancel ? 0 : err;
}

int links_turn(struct links *l)
{
	int first = 0;

	for (;;) {
		struct link_task *t;
		int err;

		pthread_mutex_lock(&l->lock);
		t = task_next(l, clock_mono_ns());
		pthread_mutex_unlock(&l->lock);
		if (t == NULL || atomic_load(&l->stopping)) return first;
		err = task_run(l, t);
		if (err < 0 && first == 0) first = err;
	}
}

static void *links_main(void *arg)
{
	struct links *l = arg;

	setpriority(PRIO_PROCESS, 0, LINKS_NICE); /* of this thread alone, on Linux */
	pthread_mutex_lock(&l->lock);
	while (!l->stop) {
		pthread_mutex_unlock(&l->lock);
		(void)links_turn(l);
		pthread_mutex_lock(&l->lock);
		if (!l->stop && task_next(l, clock_mono_ns()) == NULL) {
			struct timespec until;

			clock_gettime(CLOCK_MONOTONIC, &until);
			until.tv_sec += WAIT_S;
			(void)pthread_cond_timedwait(&l->wake, &l->lock, &until);
		}
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* ---- opening ---- */

static int load_task(struct links *l, struct slice key, struct slice value)
{
	struct link_order order;
	struct slice arguments;
	struct link_task *t;
	uint64_t kind;

	if (key.len != 9 || !value_u64(value, TTAG_KIND, 0, &kind) || kind != TASK_KIND_LINK) return 0;
	if (!value_bytes(value, TTAG_ARGUMENTS, &arguments) || order_take(arguments, &order) < 0) {
		log_error("the row of a task is damaged, it is left alone; task=%016" PRIx64, be64_get(key.p + 1));
		return 0;
	}
	t = task_new(be64_get(key.p + 1), &order);
	if (t == NULL) return -GRANARY_ENOMEM;
	task_add(l, t);
	return 0;
}

static int rows_load(struct links *l)
{
	struct kv_iter *it = kv_iter_new(l->o.kv, NULL);
	int err = it != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0) kv_iter_seek(it, slice_str("t"));
	for (; err == 0 && kv_iter_valid(it) && kv_iter_key(it).p[0] == 't'; kv_iter_next(it))
		err = load_task(l, kv_iter_key(it), kv_iter_value(it));
	if (err == 0) err = kv_iter_error(it);
	if (it != NULL) kv_iter_free(&it);
	return err;
}

int links_open(const struct links_options *options, struct links **out)
{
	struct links *l = calloc(1, sizeof(*l));
	pthread_condattr_t attr;
	int err;

	*out = NULL;
	if (l == NULL) return -GRANARY_ENOMEM;
	l->o = *options;
	if (l->o.timeout_ns == 0) l->o.timeout_ns = UINT64_C(60000000000);
	if (l->o.retry_ns == 0) l->o.retry_ns = UINT64_C(500000000);
	l->last = &l->first;
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->wake, &attr);
	pthread_condattr_destroy(&attr);
	err = rows_load(l);
	if (err == 0 && l->o.thread) {
		err = pthread_create(&l->thread, NULL, links_main, l) == 0 ? 0 : -GRANARY_ENOMEM;
		l->has_thread = err == 0;
		if (l->has_thread) pthread_setname_np(l->thread, "granary-link");
	}
	if (err < 0) (void)links_close(&l);
	*out = l;
	return err;
}

bool links_close(struct links **lp)
{
	struct links *l = *lp;
	struct timespec until;

	*lp = NULL;
	if (l == NULL) return true;
	atomic_store(&l->stopping, true);
	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_cond_broadcast(&l->wake);
	pthread_mutex_unlock(&l->lock);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STOP_S;
	if (l->has_thread && pthread_timedjoin_np(l->thread, NULL, &until) != 0) {
		log_warn("a task hangs in a source: the stop goes on without it");
		return false;
	}
	for (struct link_task *t = l->first, *next; t != NULL; t = next) {
		next = t->next;
		task_free(t);
	}
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->wake);
	free(l);
	return true;
}
