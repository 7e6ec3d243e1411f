/* SPDX-License-Identifier: Apache-2.0 */
/* unstable.c -- what is left of a mutation that was answered before it was durable, the timer that writes what is
 * pending, and the wait for what clients send again after a start: unstable.h. */
#include "req/unstable.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "io/io.h"
#include "req/mutation.h"

uint64_t store_verifier(const struct store *store, uint64_t losses) { return store->boot_id + losses; }

/* ---- what is left of a mutation: all on its reactor ---- */

static void unstable_unused(struct unstable *u)
{
	if (!u->is_owned && !u->is_flying && atomic_load(&u->hold.left) == 0)
		free(u);
}

static void unstable_settle_appends(struct unstable *u)
{
	for (uint32_t i = 0; i < u->count; i++)
		if (u->appends[i].pack != NULL) /* placed, and not lost */
			pack_append_settled(&u->appends[i]);
}

static void on_settled(struct task *task)
{
	struct unstable *u = container_of(task, struct unstable, settled);

	assert(u->is_flying);
	u->is_settled = true;
	unstable_settle_appends(u);
	kv_txn_free(&u->txn);
	u->is_flying = false;
	unstable_unused(u);
}

struct unstable *unstable_new(struct store_local *local, uint32_t appends)
{
	size_t size = sizeof(struct unstable) + appends * sizeof(struct pack_append);
	struct unstable *u = req_alloc(size);

	memset(u, 0, size);
	u->local = local;
	u->settled.fn = on_settled;
	u->count = appends;
	u->is_owned = true;
	return u;
}

static void on_flushed(struct pack_append *a, int err)
{
	struct unstable *u = a->user;
	struct kv *kv = u->local->store->kv;

	if (err < 0) atomic_store(&u->hold.err, err);
	atomic_fetch_sub(&u->hold.left, 1);
	unstable_unused(u);
	kv_hold_released(kv);
}

void unstable_append_begin(struct unstable *u, struct pack_append *a)
{
	a->user = u;
	a->flushed = on_flushed;
	atomic_fetch_add(&u->hold.left, 1);
}

void unstable_append_failed(struct unstable *u) { atomic_fetch_sub(&u->hold.left, 1); }

void unstable_release(struct unstable **up)
{
	struct unstable *u = *up;

	*up = NULL;
	if (u == NULL) return;
	if (!u->is_flying) unstable_settle_appends(u);
	u->is_owned = false;
	unstable_unused(u);
}

/* ---- after a start ---- */

struct replays {
	struct store *store;
	pthread_mutex_t lock;
	_Atomic bool is_waiting; /* cleared under the lock, once */
	uint64_t *owed;
	uint32_t owed_count;
	struct list mutations;
	struct task start, began;
	struct io_op timer, writer;
	_Atomic bool armed;      /* the writer's timer runs, or is about to */
};

static bool owes(const struct session_row *row)
{
	return row->is_unstable;
}

static void replays_end(struct replays *r)
{
	struct list *at;

	atomic_store(&r->is_waiting, false);
	while ((at = list_pop(&r->mutations)) != NULL) mutation_wake(container_of(at, struct mutation, wait_node));
}

static void on_late(struct io_op *op)
{
	struct replays *r = container_of(op, struct replays, timer);

	pthread_mutex_lock(&r->lock);
	if (atomic_load(&r->is_waiting)) {
		for (uint32_t i = 0; i < r->owed_count; i++)
			log_warn("a session did not send again what it had not synced before the restart; what it "
				 "sends from now on is judged as it comes; session=%016" PRIx64, r->owed[i]);
		replays_end(r);
	}
	pthread_mutex_unlock(&r->lock);
}

static void on_start(struct task *task)
{
	struct replays *r = container_of(task, struct replays, start);
	struct io *io = r->store->locals[0].io;

	r->timer.done = on_late;
	io_timer(io, &r->timer, io_now_ns(io) + REPLAY_WAIT_NS);
}

int replays_open(struct store *store, struct replays **out)
{
	struct replays *r = req_alloc(sizeof(*r));
	int err;

	memset(r, 0, sizeof(*r));
	r->store = store;
	pthread_mutex_init(&r->lock, NULL);
	list_init(&r->mutations);
	err = session_rows_find(r->store->kv, owes, &r->owed, &r->owed_count);
	atomic_init(&r->is_waiting, err == 0 && r->owed_count > 0);
	*out = r;
	return err;
}

void replays_start(struct replays *r)
{
	if (!atomic_load(&r->is_waiting)) return;
	log_info("waiting for what sessions had not synced; sessions=%u at_most_s=%u", r->owed_count,
		(unsigned)(REPLAY_WAIT_NS / 1000000000));
	r->start.fn = on_start;
	reactor_post(r->store->reactors[0], &r->start);
}

void replays_close(struct replays **rp)
{
	struct replays *r = *rp;

	*rp = NULL;
	if (r == NULL) return;
	pthread_mutex_destroy(&r->lock);
	free(r->owed);
	free(r);
}

static bool is_owed(const struct replays *r, uint64_t session)
{
	for (uint32_t i = 0; i < r->owed_count; i++)
		if (r->owed[i] == session) return true;
	return false;
}

bool replays_wait(struct replays *r, struct mutation *m)
{
	bool waits;

	if (r == NULL || !atomic_load(&r->is_waiting)) return false;
	pthread_mutex_lock(&r->lock);
	waits = atomic_load(&r->is_waiting) &&
		!(m->is_replay && m->session != NULL && is_owed(r, session_id(m->session)));
	if (waits) list_push(&r->mutations, &m->wait_node);
	pthread_mutex_unlock(&r->lock);
	return waits;
}

void replays_done(struct replays *r, uint64_t session)
{
	pthread_mutex_lock(&r->lock);
	for (uint32_t i = 0; i < r->owed_count; i++) {
		if (r->owed[i] != session) continue;
		r->owed[i] = r->owed[--r->owed_count];
		if (r->owed_count == 0 && atomic_load(&r->is_waiting)) {
			log_info("all sessions have sent again what they had not synced");
			replays_end(r);
		}
		break;
	}
	pthread_mutex_unlock(&r->lock);
}

bool replays_take_late(struct replays *r, uint64_t *session)
{
	bool is_late;

	if (r == NULL) return false;
	pthread_mutex_lock(&r->lock);
	is_late = !atomic_load(&r->is_waiting) && r->owed_count > 0;
	if (is_late) *session = r->owed[--r->owed_count];
	pthread_mutex_unlock(&r->lock);
	return is_late;
}

/* ---- what is pending is written within a second ---- */

static void on_second(struct io_op *op)
{
	struct replays *r = container_of(op, struct replays, writer);

	atomic_store(&r->armed, false); /* before: what becomes pending from here on arms it again */
	kv_flush_start(r->store->kv);
}

static void on_began(struct task *task)
{
	struct replays *r = container_of(task, struct replays, began);
	struct io *io = r->store->locals[0].io;

	r->writer.done = on_second;
	io_timer(io, &r->writer, io_now_ns(io) + PENDING_MAX_NS * 9 / 10);
}

void unstable_began(void *arg)
{
	struct store *store = arg;

	if (store->replays == NULL || atomic_exchange(&store->replays->armed, true)) return;
	store->replays->began.fn = on_began;
	reactor_post(store->reactors[0], &store->replays->began);
}

void unstable_flush_records(void *arg)
{
	struct store *store = arg;

	if (store->writers != NULL) writers_flush(store->writers);
}
