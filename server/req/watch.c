/* SPDX-License-Identifier: Apache-2.0 */
/* watch.c -- WATCH: BEGIN -> COLLECT -> (worker: grants) -> ANSWER; between BEGIN and COLLECT it waits until something
 * was noted that is not of its own session. See watch.h. */
#include "req/watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/rand.h"
#include "io/io.h"

struct event {
	uint64_t session;
	struct ns_changed c; /* c.name points behind */
	char name[];
};

struct watch_wait {
	struct list link;
	struct req *r;
	uint64_t session;
};

struct watches {
	struct store *store;
	pthread_mutex_t lock;
	struct event **ring;  /* WATCH_EVENTS_MAX; number n stands at n % WATCH_EVENTS_MAX */
	uint64_t tail, head;  /* kept: [tail, head) */
	uint64_t bytes, seen_ns; /* when somebody watched last */
	struct list waiting;
	struct task begin;
	struct io_op timer;
	_Atomic bool is_wanted, is_armed;
};

struct watches *watches_new(struct store *store)
{
	struct watches *w = calloc(1, sizeof(*w));
	uint32_t start;

	if (w == NULL) return NULL;
	w->ring = calloc(WATCH_EVENTS_MAX, sizeof(struct event *));
	if (w->ring == NULL) {
		free(w);
		return NULL;
	}
	w->store = store;
	pthread_mutex_init(&w->lock, NULL);
	list_init(&w->waiting);
	rand_bytes(&start, sizeof(start)); /* so that no cursor of an earlier start lies among ours */
	w->tail = w->head = ((uint64_t)start << 31) + 1;
	return w;
}

static void event_drop(struct watches *w)
{
	struct event **e = &w->ring[w->tail++ % WATCH_EVENTS_MAX];

	w->bytes -= sizeof(**e) + (*e)->c.name.len;
	free(*e);
	*e = NULL;
}

static void events_clear(struct watches *w)
{
	while (w->tail < w->head) event_drop(w);
}

void watches_free(struct watches **wp)
{
	struct watches *w = *wp;

	*wp = NULL;
	if (w == NULL) return;
	events_clear(w);
	free(w->ring);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

bool watches_are_wanted(const struct watches *w)
{
	return atomic_load_explicit(&w->is_wanted, memory_order_acquire);
}

/* ---- noting ---- */

struct noting {
	struct watches *w;
	uint64_t session;
};

static int note_one(void *arg, const struct ns_changed *c)
{
	struct noting *n = arg;
	struct watches *w = n->w;
	size_t size = sizeof(struct event) + c->name.len;
	struct event *e = malloc(size);

	if (e == NULL) { /* a hole in what is kept: all cursors are behind it */
		events_clear(w);
		w->tail = ++w->head;
		return 0;
	}
	*e = (struct event){ .session = n->session, .c = *c };
	if (c->name.len > 0) memcpy(e->name, c->name.p, c->name.len);
	e->c.name.p = (const uint8_t *)e->name;
	while (w->tail < w->head && (w->head - w->tail == WATCH_EVENTS_MAX || w->bytes + size > WATCH_BYTES_MAX))
		event_drop(w);
	w->bytes += size;
	w->ring[w->head++ % WATCH_EVENTS_MAX] = e;
	return 0;
}

static void wake_all(struct io_op *op)
{
	struct watches *w = container_of(op, struct watches, timer);

	atomic_store(&w->is_armed, false); /* before: what is noted from here on arms it again */
	pthread_mutex_lock(&w->lock);
	for (struct list *at; (at = list_pop(&w->waiting)) != NULL;) {
		struct watch_wait *one = container_of(at, struct watch_wait, link);

		reactor_post(one->r->local->reactor, &one->r->done); /* it is not ours after this */
	}
	pthread_mutex_unlock(&w->lock);
}

static void timer_start(struct task *task)
{
	struct watches *w = container_of(task, struct watches, begin);
	struct io *io = w->store->locals[0].io;

	w->timer.done = wake_all;
	io_timer(io, &w->timer, io_now_ns(io) + WATCH_DELAY_NS);
}

/* Under the lock. */
static bool is_for_somebody(const struct watches *w, uint64_t session)
{
	list_for (at, &w->waiting)
		if (container_of(at, struct watch_wait, link)->session != session) return true;
	return false;
}

static void arm(struct watches *w)
{
	if (atomic_exchange(&w->is_armed, true)) return;
	w->begin.fn = timer_start;
	reactor_post(w->store->reactors[0], &w->begin);
}

void watches_note(struct watches *w, uint64_t session, const struct ns_plan *plan)
{
	struct noting n = { w, session };
	bool wakes;

	pthread_mutex_lock(&w->lock);
	(void)ns_plan_changes(plan, note_one, &n);
	wakes = is_for_somebody(w, session);
	pthread_mutex_unlock(&w->lock);
	if (wakes) arm(w);
}

void watches_tick(struct watches *w, uint64_t now_ns)
{
	pthread_mutex_lock(&w->lock);
	if (watches_are_wanted(w) && list_empty(&w->waiting) && now_ns > w->seen_ns + WATCH_IDLE_NS) {
		atomic_store(&w->is_wanted, false);
		events_clear(w);
		w->tail = ++w->head; /* what is missed from here on is behind every cursor */
	}
	pthread_mutex_unlock(&w->lock);
}

/* ---- WATCH ---- */

struct watch_req {
	struct watch_wait wait;
	struct auth auth;
	uint64_t cursor;
	uint8_t flags;
	int err;
	struct event **events; /* copies, WATCH_PAGE_MAX at most */
	uint32_t count;
};

static void turn_task(struct task *task)
{
	struct req *r = container_of(task, struct req, done);

	req_unparked(r);
	req_resume(r);
}

static enum step_result watch_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	struct watch_req *q;
	int err;

	if (r->peer->session == NULL) return req_fail(r, -GRANARY_EUNSUPPORTED, "WATCH needs a session");
	q = req_alloc(sizeof(*q));
	memset(q, 0, sizeof(*q));
	r->body = q;
	q->cursor = cur_u64(&c);
	q->wait.r = r;
	q->wait.session = session_id(r->peer->session);
	list_init(&q->wait.link);
	q->events = req_alloc(WATCH_PAGE_MAX * sizeof(struct event *));
	if (!cur_done(&c) || bucket.len == 0) return req_fail(r, -GRANARY_EPROTO, "WATCH does not parse");
	err = auth_begin(r, &q->auth, GRANT_READ, bucket);
	return err < 0 ? req_fail(r, err, "cannot watch this bucket: %s", error_text(err)) : STEP_NEXT;
}

/* Under the lock: copies what others did since the cursor; 0: nothing. */
static uint32_t collect(struct watches *w, struct watch_req *q)
{
	if (q->cursor < w->tail || q->cursor > w->head) {
		q->flags = q->cursor == 0 ? 0 : WATCH_ALL;
		q->cursor = w->head;
		return 1;
	}
	for (; q->cursor < w->head && q->count < WATCH_PAGE_MAX; q->cursor++) {
		const struct event *e = w->ring[q->cursor % WATCH_EVENTS_MAX];
		size_t size = sizeof(*e) + e->c.name.len;

		if (e->session == q->wait.session) continue;
		q->events[q->count] = req_alloc(size);
		memcpy(q->events[q->count], e, size);
		q->events[q->count]->c.name.p = (const uint8_t *)q->events[q->count]->name;
		q->count++;
	}
	return q->count;
}

static bool watch_withdraw(struct req *r)
{
	struct watch_req *q = r->body;
	struct watches *w = r->store->watches;
	bool waited;

	pthread_mutex_lock(&w->lock);
	waited = !list_empty(&q->wait.link);
	if (waited) list_remove(&q->wait.link);
	pthread_mutex_unlock(&w->lock);
	if (waited) q->err = atomic_load(&r->store->draining) ? -GRANARY_ESHUTDOWN : -GRANARY_ECLOSED;
	return waited;
}

static enum step_result watch_collect(struct req *r)
{
	struct watch_req *q = r->body;
	struct watches *w = r->store->watches;
	bool waits;

	if (q->err < 0) return req_fail(r, q->err, "the watch ends: %s", error_text(q->err));
	pthread_mutex_lock(&w->lock);
	w->seen_ns = clock_mono_ns();
	atomic_store(&w->is_wanted, true); /* before the cursor is taken: what is done from here on is noted */
	waits = collect(w, q) == 0;
	if (waits) {
		r->done.fn = turn_task;
		r->pending++;
		list_push(&w->waiting, &q->wait.link);
	}
	pthread_mutex_unlock(&w->lock);
	if (!waits) return STEP_NEXT;
	if (req_park(r) || !watch_withdraw(r)) return STEP_WAIT; /* then this step once more */
	r->pending--;
	return req_fail(r, q->err, "the watch ends: %s", error_text(q->err));
}

/* Names are told to those who may read there. Where a directory is gone, what its parent tells says it all. */
static bool may_know(struct watch_req *q, const struct event *e)
{
	uint64_t bucket = e->c.bucket;

	if (e->c.kind == NS_CHANGED_INODE) return bucket == q->auth.bucket.id;
	return auth_in_bucket(&q->auth, e->c.dir, e->c.name) == 0;
}

static void judge_work(struct req *r)
{
	struct watch_req *q = r->body;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < q->count; i++) {
		if (may_know(q, q->events[i]))
			q->events[kept++] = q->events[i];
		else
			free(q->events[i]);
	}
	q->count = kept;
}

static enum step_result watch_judge(struct req *r)
{
	const struct watch_req *q = r->body;

	if (q->count == 0) return STEP_NEXT;
	r->step++;
	return req_work(r, judge_work);
}

static enum step_result watch_answer(struct req *r)
{
	const struct watch_req *q = r->body;
	size_t cap = 8 + 1 + 4;
	struct answer *a;
	struct wr w;

	for (uint32_t i = 0; i < q->count; i++) cap += 1 + 8 + 8 + 2 + q->events[i]->c.name.len;
	a = answer_new(r, cap);
	w = wr_of(a->meta, cap);
	wr_u64(&w, q->cursor);
	wr_u8(&w, q->flags);
	wr_u32(&w, q->count);
	for (uint32_t i = 0; i < q->count; i++) {
		const struct ns_changed *c = &q->events[i]->c;

		wr_u8(&w, (uint8_t)c->kind);
		wr_u64(&w, c->dir);
		wr_u64(&w, c->id);
		wr_bytes16(&w, c->name);
	}
	a->meta_len = (uint32_t)wr_len(&w);
	stat_add(&r->local->stats->entries[OP_WATCH], q->count);
	answer_send(r, a, true);
	return STEP_DONE;
}

static void watch_cleanup(struct req *r)
{
	struct watch_req *q = r->body;

	r->body = NULL;
	if (q == NULL) return;
	for (uint32_t i = 0; i < q->count; i++) free(q->events[i]);
	free(q->events);
	free(q);
}

static const struct req_step watch_steps[] = { { "parse", watch_begin }, { "collect", watch_collect },
	{ "judge", watch_judge }, { "answer", watch_answer } };
const struct req_kind watch_kind = {
	.op = OP_WATCH,
	.name = "watch",
	.action = GRANT_READ,
	.steps = watch_steps,
	.step_count = 4,
	.cleanup = watch_cleanup,
	.withdraw = watch_withdraw,
};
