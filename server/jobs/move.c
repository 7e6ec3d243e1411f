/* SPDX-License-Identifier: Apache-2.0 */
/* move.c -- tasks of moves: kept in rows `t`, run one pack at a time, paused while a store is away.
 * Invariants: move.h's, and: (1) a task's row is committed before it is answered and goes when the task ended:
 * what a start finds is not through, and is run again from its first pack, where what is done costs a look; (2)
 * one pack at a time, on one thread, which alone changes a task's `at`; (3) cold objects whose rows went are
 * removed by this thread too: it may hang with a store, nobody else does. */
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
#include "jobs/move_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "tier/packs.h"
#include "tier/stores.h"

enum { MOVES_NICE = 19, TASK_KIND_MOVE = 1, WAIT_MS = 1000, DELETIONS_A_TURN = 256, SWEEP_MAX = 1000, PAUSES_MAX = 6,
	BUSY_TRIES = 30, IO_TRIES = 5, STOP_S = 10 };

#define RETRY_NS UINT64_C(500000000)

static const char *const kind_names[] = { [MOVE_COPY] = "copy", [MOVE_EVICT] = "evict", [MOVE_DEMOTE] = "demote",
	[MOVE_PROMOTE] = "promote", [MOVE_DROP] = "drop", [MOVE_REPAIR_HOT] = "repair-hot",
		[MOVE_REPAIR_COLD] = "repair-cold", [MOVE_FETCH] = "fetch" };

/* ---- rows ---- */

static size_t row_room(uint32_t count)
{
	return 256 + 8 * (size_t)count;
}

static int row_put(struct moves *m, const struct move_task *t)
{
	uint8_t key[ROW_KEY_MAX], *value = malloc(row_room(t->count)), *open;
	struct kv_txn *txn = kv_txn_new(m->o.kv);
	struct wr w;
	int err = -GRANARY_ENOMEM;

	if (value != NULL && txn != NULL) {
		w = wr_of(value, row_room(t->count));
		value_begin(&w);
		tlv_put(&w, TTAG_KIND, slice_of("\1", 1));
		open = tlv_open(&w, TTAG_ARGUMENTS);
		wr_u8(&w, t->p.order.kind);
		wr_u8(&w, t->p.order.level);
		wr_u64(&w, t->p.order.store);
		wr_u64(&w, t->p.order.rate);
		wr_bytes16(&w, slice_str(t->p.order.origin));
		tlv_close(&w, open);
		open = tlv_open(&w, TTAG_PACKS);
		for (uint32_t i = 0; i < t->count; i++) wr_u64(&w, t->packs[i]);
		tlv_close(&w, open);
		assert(wr_ok(&w));
		kv_put(txn, row_task(key, t->p.task), slice_of(value, wr_len(&w)));
		err = kv_submit_wait(m->o.kv, txn);
	}
	kv_txn_free(&txn);
	free(value);
	return err;
}

static int row_delete(struct moves *m, uint64_t task)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(m->o.kv);
	int err = txn != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0) kv_delete(txn, row_task(key, task));
	if (err == 0) err = kv_submit_wait(m->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

static int row_decode(struct slice value, struct move_task *t)
{
	struct slice arguments, packs, origin;
	struct cur c;

	if (!value_bytes(value, TTAG_ARGUMENTS, &arguments) || !value_bytes(value, TTAG_PACKS, &packs) ||
		packs.len % 8 != 0 || packs.len / 8 > MOVE_PACKS_MAX)
		return -GRANARY_ECORRUPT;
	c = cur_of(arguments.p, arguments.len);
	t->p.order.kind = cur_u8(&c);
	t->p.order.level = cur_u8(&c);
	t->p.order.store = cur_u64(&c);
	t->p.order.rate = cur_u64(&c);
	origin = cur_bytes16(&c);
	if (!cur_ok(&c) || origin.len >= sizeof(t->p.order.origin) || t->p.order.kind < MOVE_COPY ||
		t->p.order.kind >= MOVE_KINDS)
		return -GRANARY_ECORRUPT;
	memcpy(t->p.order.origin, origin.p, origin.len);
	t->count = (uint32_t)(packs.len / 8);
	t->packs = malloc(packs.len + 8);
	if (t->packs == NULL) return -GRANARY_ENOMEM;
	memcpy(t->packs, packs.p, packs.len);
	return 0;
}

/* ---- tasks ---- */

static bool is_over(const struct move_task *t)
{
	return t->p.state >= MOVE_DONE;
}

static void task_free(struct move_task *t)
{
	free(t->packs);
	free(t);
}

/* Under the lock. The oldest that are over make room. */
static void task_add(struct moves *m, struct move_task *t)
{
	struct move_task **at = &m->first;

	while (m->count >= MOVES_MAX && *at != NULL) {
		struct move_task *old = *at;

		if (!is_over(old)) {
			at = &old->next;
			continue;
		}
		*at = old->next;
		if (old->next == NULL) m->last = at;
		task_free(old);
		m->count--;
	}
	t->next = NULL;
	*m->last = t;
	m->last = &t->next;
	m->count++;
}

static struct move_task *task_find(struct moves *m, uint64_t task)
{
	struct move_task *t = m->first;

	while (t != NULL && t->p.task != task) t = t->next;
	return t;
}

static struct move_task *task_new(uint64_t id)
{
	struct move_task *t = calloc(1, sizeof(*t));

	if (t == NULL) return NULL;
	t->p.task = id;
	t->p.state = MOVE_WAITING;
	t->p.began_ns = clock_mono_ns();
	return t;
}

/* Is there room for one more that is not through? */
static bool has_room(struct moves *m)
{
	uint32_t busy = 0;

	pthread_mutex_lock(&m->lock);
	for (struct move_task *t = m->first; t != NULL; t = t->next) busy += !is_over(t);
	pthread_mutex_unlock(&m->lock);
	return busy < MOVES_MAX;
}

static int order_check(struct moves *m, const struct move_order *o)
{
	bool to_store = o->kind == MOVE_COPY || o->kind == MOVE_DEMOTE;

	if (o->kind < MOVE_COPY || o->kind >= MOVE_KINDS || o->level > 19) return -GRANARY_EINVAL;
	if (to_store && stores_find(m->o.stores, o->store) == NULL) return -GRANARY_ENOTFOUND;
	return 0;
}

int moves_start(struct moves *m, const struct move_order *order, const uint64_t *packs, uint32_t count,
	uint64_t *task)
{
	struct move_task *t = task_new(ids_object(m->o.ids));
	int err = t != NULL ? order_check(m, order) : -GRANARY_ENOMEM;

	if (err == 0 && count > MOVE_PACKS_MAX) err = -GRANARY_ETOOBIG;
	if (err == 0 && !has_room(m)) err = -GRANARY_EBUSY;
	if (err == 0) {
		t->p.order = *order;
		t->p.order.origin[sizeof(t->p.order.origin) - 1] = '\0';
		t->p.packs = t->count = count;
		t->packs = malloc(8 * (size_t)count + 8);
		err = t->packs != NULL ? 0 : -GRANARY_ENOMEM;
	}
	if (err == 0) {
		memcpy(t->packs, packs, 8 * (size_t)count);
		err = row_put(m, t);
	}
	if (err < 0) {
		if (t != NULL) task_free(t);
		return err;
	}
	*task = t->p.task;
	pthread_mutex_lock(&m->lock);
	task_add(m, t);
	pthread_cond_signal(&m->wake);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

int moves_cancel(struct moves *m, uint64_t task)
{
	struct move_task *t;

	pthread_mutex_lock(&m->lock);
	t = task_find(m, task);
	if (t != NULL) t->cancel = true;
	pthread_cond_signal(&m->wake);
	pthread_mutex_unlock(&m->lock);
	return t != NULL ? 0 : -GRANARY_ENOTFOUND;
}

int moves_get(struct moves *m, uint64_t task, struct move_progress *out)
{
	struct move_task *t;

	pthread_mutex_lock(&m->lock);
	t = task_find(m, task);
	if (t != NULL) *out = t->p;
	pthread_mutex_unlock(&m->lock);
	return t != NULL ? 0 : -GRANARY_ENOTFOUND;
}

uint32_t moves_list(struct moves *m, struct move_progress *out, uint32_t max)
{
	uint32_t n = 0, skip;

	pthread_mutex_lock(&m->lock);
	skip = m->count > max ? m->count - max : 0;
	for (struct move_task *t = m->first; t != NULL; t = t->next) {
		if (skip > 0)
			skip--;
		else
			out[n++] = t->p;
	}
	pthread_mutex_unlock(&m->lock);
	return n;
}

int moves_pause(struct moves *m, bool paused)
{
	uint8_t key[ROW_KEY_MAX], value[32];
	struct kv_txn *txn = kv_txn_new(m->o.kv);
	struct wr w = wr_of(value, sizeof(value));
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	value_begin(&w);
	tlv_put_u64(&w, MTAG_PAUSED, paused);
	kv_put(txn, row_store(key, "moves"), slice_of(value, wr_len(&w)));
	err = kv_submit_wait(m->o.kv, txn);
	kv_txn_free(&txn);
	if (err < 0) return err;
	pthread_mutex_lock(&m->lock);
	m->paused = paused;
	pthread_cond_signal(&m->wake);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

void moves_get_stats(struct moves *m, struct moves_stats *out)
{
	*out = (struct moves_stats){ .bytes_in = atomic_load(&m->bytes_in), .bytes_out = atomic_load(&m->bytes_out),
		.failed = atomic_load(&m->failed), .swept = atomic_load(&m->swept),
			.removed = atomic_load(&m->removed) };
	for (uint32_t i = 0; i < MOVE_KINDS; i++) out->packs[i] = atomic_load(&m->done[i]);
	pthread_mutex_lock(&m->lock);
	for (struct move_task *t = m->first; t != NULL; t = t->next) out->tasks += !is_over(t);
	out->paused = m->paused;
	pthread_mutex_unlock(&m->lock);
}

/* ---- running ---- */

/* The store, not the pack: all wait until it is back. */
static bool is_of_store(int err)
{
	return err == -GRANARY_EOFFLINE || err == -GRANARY_ETIMEDOUT || err == -GRANARY_ENOSPACE ||
		err == -GRANARY_EACCESS;
}

/* It may go better next time, but not for ever. */
static bool is_worth_a_try(const struct move_task *t, int err)
{
	return (err == -GRANARY_EBUSY && t->pauses < BUSY_TRIES) ||
	       ((err == -GRANARY_EIO || err == -GRANARY_ENOMEM) && t->pauses < IO_TRIES);
}

/* Somebody is about to read what it brings. */
static bool is_urgent(const struct move_task *t)
{
	return strcmp(t->p.order.origin, MOVES_AHEAD) == 0;
}

/* Under the lock: the one to go on with. */
static struct move_task *task_next(struct moves *m, uint64_t now)
{
	struct move_task *best = NULL;

	for (struct move_task *t = m->first; t != NULL; t = t->next) {
		bool may = !is_over(t) && (t->cancel || (!m->paused && (t->p.state != MOVE_PAUSED ||
			now >= t->not_before_ns)));

		if (may && (best == NULL || (is_urgent(t) && !is_urgent(best)))) best = t;
	}
	return best;
}

static void task_end(struct moves *m, struct move_task *t, enum move_state state)
{
	int err = row_delete(m, t->p.task);

	/* It stays, and is found through by the next start. */
	if (err < 0) log_warn("cannot remove the row of a task: %s; task=%016" PRIx64, error_text(err), t->p.task);
	pthread_mutex_lock(&m->lock);
	t->p.state = (uint8_t)state;
	t->p.ended_ns = clock_mono_ns();
	free(t->packs);
	t->packs = NULL;
	pthread_mutex_unlock(&m->lock);
	log_info("a task ended; task=%016" PRIx64 " kind=%s origin='%s' state=%s packs=%" PRIu64 " skipped=%" PRIu64
		 " failed=%" PRIu64 " bytes=%" PRIu64 " stored=%" PRIu64,
		t->p.task, kind_names[t->p.order.kind], t->p.order.origin,
		state == MOVE_DONE       ? "done"
		: state == MOVE_CANCELED ? "canceled"
					 : "failed",
		t->p.packs_done, t->p.packs_skipped, t->p.packs_failed, t->p.bytes_in, t->p.bytes_out);
}

static void task_pause(struct moves *m, struct move_task *t, int err, uint64_t pack)
{
	uint32_t shift = t->pauses < PAUSES_MAX ? t->pauses : PAUSES_MAX;

	pthread_mutex_lock(&m->lock);
	if (err != -GRANARY_EBUSY && (t->p.state != MOVE_PAUSED || t->p.err != err))
		log_warn("a task waits: %s; task=%016" PRIx64 " kind=%s pack=%016" PRIx64, error_text(err), t->p.task,
			kind_names[t->p.order.kind], pack);
	t->pauses++;
	t->p.state = MOVE_PAUSED;
	t->p.err = err;
	t->p.err_pack = pack;
	t->not_before_ns = clock_mono_ns() + (m->o.retry_ns << shift);
	pthread_mutex_unlock(&m->lock);
}

static void pack_count(struct moves *m, struct move_task *t, const struct move_step *s, int res)
{
	pthread_mutex_lock(&m->lock);
	t->at++;
	t->pauses = 0;
	if (t->p.state == MOVE_PAUSED)
		t->p.err = 0; /* what it waited for is over; of packs that failed the last is kept */
	t->p.state = MOVE_RUNNING;
	t->p.packs_done += res > 0;
	t->p.packs_skipped += res == 0;
	t->p.packs_failed += res < 0;
	t->p.bytes_in += s->bytes_in;
	t->p.bytes_out += s->bytes_out;
	if (res < 0) {
		t->p.err = res;
		t->p.err_pack = s->pack;
	}
	pthread_mutex_unlock(&m->lock);
	atomic_fetch_add(&m->done[t->p.order.kind], res > 0);
	atomic_fetch_add(&m->failed, res < 0);
	atomic_fetch_add(&m->bytes_in, s->bytes_in);
	atomic_fetch_add(&m->bytes_out, s->bytes_out);
}

/* The next pack of a task. An error, or 0; *waits: the task does, its pack is to be tried again. */
static int task_step(struct moves *m, struct move_task *t, bool *waits)
{
	struct move_step s = { .m = m, .order = &t->p.order };
	int res;

	*waits = false;
	if (t->cancel || t->at == t->count) {
		task_end(m, t, t->cancel ? MOVE_CANCELED : t->p.packs_failed > 0 ? MOVE_FAILED : MOVE_DONE);
		return 0;
	}
	s.pack = t->packs[t->at];
	res = move_pack_run(&s);
	if (res == -GRANARY_ESHUTDOWN) return 0;
	if (is_of_store(res) || is_worth_a_try(t, res)) {
		task_pause(m, t, res, s.pack);
		*waits = true;
		return res == -GRANARY_EBUSY ? 0 : res;
	}
	if (res == -GRANARY_EBUSY) res = 0; /* still written to, or changing for long: not now */
	if (res < 0)
		log_error("cannot move a pack: %s; task=%016" PRIx64 " kind=%s pack=%016" PRIx64, error_text(res),
			t->p.task,
			kind_names[t->p.order.kind], s.pack);
	pack_count(m, t, &s, res);
	return res < 0 ? res : 0;
}

/* ---- what rows no longer name ---- */

/* Of those that wait longest: g rows stand in the order of time. */
static int remove_cold(struct moves *m)
{
	struct kv_iter *it = kv_iter_new(m->o.kv, NULL);
	struct kv_txn *txn = kv_txn_new(m->o.kv);
	uint64_t now = store_clock_now(m->o.clock);
	int err = it != NULL && txn != NULL ? 0 : -GRANARY_ENOMEM;
	uint32_t n = 0;

	if (err == 0) kv_iter_seek(it, slice_str("g"));
	for (; err == 0 && kv_iter_valid(it) && n < DELETIONS_A_TURN &&
		!atomic_load(&m->stopping); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);

		if (key.len != 18 || key.p[0] != 'g' || now < be64_get(key.p + 1) + m->o.removal_delay_ns) break;
		if (key.p[9] != DELETION_COLD) continue;
		if (packs_remove_cold(m->o.packs, be64_get(key.p + 10), kv_iter_value(it)) < 0) continue;
		kv_delete(txn, key);
		n++;
	}
	if (err == 0) err = kv_iter_error(it);
	if (it != NULL) kv_iter_free(&it);
	if (err == 0 && n > 0) err = kv_submit_wait(m->o.kv, txn);
	kv_txn_free(&txn);
	if (err == 0) atomic_fetch_add(&m->removed, n);
	return err;
}

/* Once a start and store, as soon as it answers. */
static void sweep_stores(struct moves *m)
{
	for (uint32_t i = 0; i < stores_count(m->o.stores) && !atomic_load(&m->stopping); i++) {
		struct place *place = stores_at(m->o.stores, i);
		int n;

		if ((m->swept_stores & UINT64_C(1) << i) != 0 || place_is_away(place)) continue;
		n = packs_sweep_cold(m->o.packs, place_id(place), SWEEP_MAX, clock_mono_ns() + m->o.timeout_ns);
		if (n < 0) continue;
		atomic_fetch_add(&m->swept, (uint64_t)n);
		if (n < SWEEP_MAX) m->swept_stores |= UINT64_C(1) << i;
	}
}

static int keep_house(struct moves *m)
{
	int err = remove_cold(m);

	sweep_stores(m);
	return err;
}

/* ---- the thread ---- */

int moves_turn(struct moves *m)
{
	int first = keep_house(m), err;
	uint64_t now = clock_mono_ns(); /* stands while tasks only begin to wait: none is tried twice in a row */

	for (;;) {
		struct move_task *t;
		bool waits;

		pthread_mutex_lock(&m->lock);
		t = task_next(m, now);
		pthread_mutex_unlock(&m->lock);
		if (t == NULL || atomic_load(&m->stopping)) return first;
		err = task_step(m, t, &waits);
		if (!waits) now = clock_mono_ns();
		if (err < 0 && first == 0) first = err;
	}
}

static void wait_for_work(struct moves *m)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WAIT_MS % 1000 * 1000000L;
	until.tv_sec += WAIT_MS / 1000 + until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	(void)pthread_cond_timedwait(&m->wake, &m->lock, &until);
}

static void *moves_main(void *arg)
{
	struct moves *m = arg;

	setpriority(PRIO_PROCESS, 0, MOVES_NICE); /* of this thread alone, on Linux */
	pthread_mutex_lock(&m->lock);
	while (!m->stop) {
		pthread_mutex_unlock(&m->lock);
		(void)moves_turn(m);
		pthread_mutex_lock(&m->lock);
		if (!m->stop && task_next(m, clock_mono_ns()) == NULL) wait_for_work(m);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

/* ---- opening ---- */

static int load_task(struct moves *m, struct slice key, struct slice value)
{
	struct move_task *t;
	uint64_t kind;
	int err;

	if (key.len != 9 || !value_u64(value, TTAG_KIND, 0, &kind) || kind != TASK_KIND_MOVE) return 0;
	t = task_new(be64_get(key.p + 1));
	if (t == NULL) return -GRANARY_ENOMEM;
	err = row_decode(value, t);
	t->p.packs = t->count;
	if (err < 0) {
		log_error("the row of a task is damaged, it is left alone; task=%016" PRIx64, t->p.task);
		task_free(t);
		return err == -GRANARY_ECORRUPT ? 0 : err;
	}
	task_add(m, t);
	return 0;
}

static int rows_load(struct moves *m)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_iter *it = kv_iter_new(m->o.kv, NULL);
	struct kv_value v;
	uint64_t paused = 0;
	int err = it != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0) kv_iter_seek(it, slice_str("t"));
	for (; err == 0 && kv_iter_valid(it) && kv_iter_key(it).p[0] == 't'; kv_iter_next(it))
		err = load_task(m, kv_iter_key(it), kv_iter_value(it));
	if (err == 0) err = kv_iter_error(it);
	if (it != NULL) kv_iter_free(&it);
	if (err < 0) return err;
	err = kv_get(m->o.kv, row_store(key, "moves"), &v);
	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	if (value_u64(v.v, MTAG_PAUSED, 0, &paused)) m->paused = paused != 0;
	kv_value_release(&v);
	return 0;
}

int moves_open(const struct moves_options *options, struct moves **out)
{
	struct moves *m = calloc(1, sizeof(*m));
	pthread_condattr_t attr;
	int err;

	*out = NULL;
	if (m == NULL) return -GRANARY_ENOMEM;
	m->o = *options;
	if (m->o.retry_ns == 0) m->o.retry_ns = RETRY_NS;
	m->last = &m->first;
	pthread_mutex_init(&m->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->wake, &attr);
	pthread_condattr_destroy(&attr);
	err = rows_load(m);
	if (err == 0 && m->o.thread) {
		err = pthread_create(&m->thread, NULL, moves_main, m) == 0 ? 0 : -GRANARY_ENOMEM;
		m->has_thread = err == 0;
		if (m->has_thread) pthread_setname_np(m->thread, "granary-moves");
	}
	if (err < 0) (void)moves_close(&m);
	*out = m;
	return err;
}

bool moves_close(struct moves **mp)
{
	struct moves *m = *mp;
	struct timespec until;

	*mp = NULL;
	if (m == NULL) return true;
	atomic_store(&m->stopping, true);
	pthread_mutex_lock(&m->lock);
	m->stop = true;
	pthread_cond_broadcast(&m->wake);
	pthread_mutex_unlock(&m->lock);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STOP_S;
	if (m->has_thread && pthread_timedjoin_np(m->thread, NULL, &until) != 0) {
		log_warn("a move hangs in a cold store: the stop goes on without it");
		return false;
	}
	for (struct move_task *t = m->first, *next; t != NULL; t = next) {
		next = t->next;
		task_free(t);
	}
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->wake);
	free(m);
	return true;
}
