/* SPDX-License-Identifier: Apache-2.0 */
/* lock.c -- LOCK (PROTOCOL 5.20): ASK -> ANSWER; between them it may wait for as long as others hold what it wants, or
 * until its connection ends. Nothing here leaves the reactor. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "req/kind.h"
#include "req/locks.h"

struct lock_req {
	struct lock_wait wait;
	struct req *r;
	uint64_t handle, state; /* state: opens_state(), before it is asked for */
	uint8_t action;
	int result;
};

void lock_parse(struct cur *c, struct lock *lock)
{
	lock->kind = cur_u8(c);
	lock->type = cur_u8(c);
	lock->owner = cur_u64(c);
	lock->start = cur_u64(c);
	lock->end = cur_u64(c);
	lock->pid = cur_u32(c);
}

static int ask_parse(struct req *r, struct lock_req *l)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct lock *lock = &l->wait.lock;

	l->action = cur_u8(&c);
	l->handle = cur_u64(&c);
	l->wait.number = cur_u64(&c);
	lock_parse(&c, lock);
	lock->session = session_id(r->peer->session);
	if (!cur_done(&c) || l->action < LOCK_SET || l->action > LOCK_CANCEL || !lock_is_sound(lock))
		return -GRANARY_EPROTO;
	return lock->type == LOCK_NONE && l->action <= LOCK_TEST ? -GRANARY_EPROTO : 0;
}

/* The file of the handle, as long as the session may lock it so. */
static int lock_file(struct req *r, struct lock_req *l)
{
	const struct lock *lock = &l->wait.lock;
	uint8_t access;

	l->state = opens_state(r->store->opens, lock->session);
	if (!opens_find(r->store->opens, lock->session, l->handle, &l->wait.id, &access)) return -GRANARY_ESTALE;
	return lock->kind == LOCK_RANGE && lock->type == LOCK_EXCLUSIVE && (access & OPEN_FOR_WRITE) == 0 &&
			       l->action <= LOCK_WAIT
		       ? -GRANARY_EACCESS : 0;
}

static void on_turn(struct lock_wait *w)
{
	struct lock_req *l = container_of(w, struct lock_req, wait);

	l->result = w->result;
	reactor_post(l->r->local->reactor, &l->r->done);
}

static void turn_task(struct task *task)
{
	struct req *r = container_of(task, struct req, done);

	req_unparked(r);
	req_resume(r);
}

/* Nobody listens any more, or the server is to stop. */
static bool lock_withdraw(struct req *r)
{
	struct lock_req *l = r->body;

	if (!locks_withdraw(r->store->locks, &l->wait)) return false;
	l->result = atomic_load(&r->store->draining) ? -GRANARY_ESHUTDOWN : -GRANARY_ECLOSED;
	return true;
}

static enum step_result lock_wait_or_go(struct req *r, struct lock_req *l)
{
	int res;

	l->wait.turn = on_turn;
	l->wait.may_wait = l->action == LOCK_WAIT;
	l->wait.is_test = l->action == LOCK_TEST;
	r->done.fn = turn_task;
	r->step++;
	r->pending++; /* before: the turn may come at once */
	res = locks_ask(r->store->locks, &l->wait);
	if (res == 1) { /* its turn may have come on another thread: it is taken on this one, later */
		if (req_park(r) || !lock_withdraw(r)) return STEP_WAIT;
	} else {
		l->result = res;
	}
	r->pending--;
	r->step--;
	return STEP_NEXT;
}

static enum step_result lock_ask(struct req *r)
{
	struct lock_req *l;
	int err;

	if (r->peer->session == NULL) return req_fail(r, -GRANARY_EUNSUPPORTED, "LOCK needs a session");
	l = req_alloc(sizeof(*l));
	memset(l, 0, sizeof(*l));
	l->r = r;
	r->body = l;
	if (ask_parse(r, l) < 0) return req_fail(r, -GRANARY_EPROTO, "LOCK does not parse");
	err = lock_file(r, l);
	if (err < 0)
		return req_fail(r, err, "lock: %s", err == -GRANARY_ESTALE ? "the file is not open (any more)"
								 : "an exclusive lock needs a file open for writing");
	if (l->action <= LOCK_TEST) return lock_wait_or_go(r, l);
	if (l->action == LOCK_UNSET || !locks_cancel(r->store->locks, l->wait.lock.session, l->wait.number))
		l->result = locks_give(r->store->locks, l->wait.id, &l->wait.lock);
	return STEP_NEXT;
}

static void lock_answer_test(struct req *r, const struct lock_req *l)
{
	enum { CAP = 1 + 1 + 3 * 8 + 4 };
	struct answer *a = answer_new(r, CAP);
	struct wr w = wr_of(a->meta, CAP);
	const struct lock *other = &l->wait.other;
	bool is_free = l->result == 0;

	wr_u8(&w, is_free ? LOCK_NONE : other->type);
	wr_u8(&w, !is_free && other->session == l->wait.lock.session);
	wr_u64(&w, is_free ? 0 : other->owner);
	wr_u64(&w, is_free ? 0 : other->start);
	wr_u64(&w, is_free ? 0 : other->end);
	wr_u32(&w, is_free ? 0 : other->pid);
	a->meta_len = (uint32_t)wr_len(&w);
	answer_send(r, a, true);
}

/* The number that changes made under this lock name. */
static void lock_answer_granted(struct req *r, const struct lock_req *l)
{
	struct answer *a = answer_new(r, 8);
	struct wr w = wr_of(a->meta, 8);

	wr_u64(&w, l->state);
	a->meta_len = (uint32_t)wr_len(&w);
	answer_send(r, a, true);
}

static enum step_result lock_answer(struct req *r)
{
	struct lock_req *l = r->body;
	uint64_t id;
	uint8_t access;

	if (l->action == LOCK_TEST && (l->result == 0 || l->result == -GRANARY_ELOCKED)) {
		lock_answer_test(r, l);
		return STEP_DONE;
	}
	if (l->result == 0 && l->action <= LOCK_WAIT &&
		!opens_find(r->store->opens, l->wait.lock.session, l->handle, &id, &access)) {
		locks_give(r->store->locks, l->wait.id, &l->wait.lock); /* closed meanwhile */
		l->result = -GRANARY_ESTALE;
	}
	if (l->result < 0) return req_fail(r, l->result, "lock: %s", error_text(l->result));
	if (l->action <= LOCK_WAIT)
		lock_answer_granted(r, l);
	else
		answer_empty(r);
	return STEP_DONE;
}

static void lock_cleanup(struct req *r)
{
	free(r->body);
	r->body = NULL;
}

static const struct req_step lock_steps[] = { { "ask", lock_ask }, { "answer", lock_answer } };
const struct req_kind lock_kind = {
	.op = OP_LOCK,
	.name = "lock",
	.steps = lock_steps,
	.step_count = 2,
	.cleanup = lock_cleanup,
	.withdraw = lock_withdraw,
};
