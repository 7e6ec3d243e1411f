/* SPDX-License-Identifier: Apache-2.0 */
/* op.c -- the life of an operation.
 *
 * new -> UNDER WAY   op_submit()    the client's thread has it; it makes requests through kind->more()
 *     -> ended       op_end()       no request is left; kind->finish() gave the result; the caller's memory is safe
 *     -> DONE        op_announce()  seen by its owner; unless quiet, in the client's done list until collected
 *     -> freed       granary_op_free() */
#include "file_priv.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "futex.h"

static int op_read_call(struct granary_op *op, const struct granary_call *call)
{
	struct granary_call all = { .size = 0 };
	const char *bucket = op->client->config.bucket;

	if (call && call->size < offsetof(struct granary_call, done))
		return error_fail(op->client, -GRANARY_EINVAL, "granary_call.size is not set: use GRANARY_CALL()");
	if (call)
		memcpy(&all, call, call->size < sizeof(all) ? call->size : sizeof(all));
	if (all.flags & ~(GRANARY_UNSTABLE | GRANARY_AT_ONCE))
		return error_fail(op->client, -GRANARY_EINVAL, "granary_call.flags has bits that mean nothing");
	op->unstable = all.flags & GRANARY_UNSTABLE;
	if (op->unstable)
		atomic_store_explicit(&op->client->uses_unstable, true, memory_order_relaxed);
	op->at_once = all.flags & GRANARY_AT_ONCE && all.done;
	op->done = all.done;
	op->file = all.file;
	op->arg = all.arg;
	op->timeout_ms = all.timeout_ms ? all.timeout_ms : op->client->config.timeout_ms;
	bucket = all.bucket ? all.bucket : bucket;
	if (strlen(bucket) >= sizeof(op->bucket))
		return error_fail(op->client, -GRANARY_ENAME, "the bucket's name is longer than %d characters",
			GRANARY_BUCKET_LEN_MAX);
	memcpy(op->bucket, bucket, strlen(bucket) + 1);
	return 0;
}

void *op_new(size_t size, struct granary_client *c, const struct op_kind *kind, const struct granary_call *call,
	int *err)
{
	struct granary_op *op;

	*err = client_enter(c);
	if (*err < 0)
		return NULL;
	op = calloc(1, size);
	if (!op) {
		*err = error_fail(c, -GRANARY_ENOMEM, "out of memory");
		return NULL;
	}
	op->client = c;
	*err = op_read_call(op, call);
	if (*err < 0) {
		free(op);
		return NULL;
	}
	op->magic = OP_MAGIC;
	op->kind = kind;
	if (op->file)
		file_ref(op->file);
	list_init(&op->all);
	list_init(&op->link);
	list_init(&op->cancel_link);
	list_init(&op->rpcs);
	lease_init(&op->lease);
	client_ref(c);
	return op;
}

void op_release(struct granary_op *op)
{
	struct granary_client *c = op->client;

	lease_release(c, &op->lease);
	if (op->file)
		file_unref(op->file);
	op->magic = 0;
	free(op);
	client_unref(c);
}

void op_free_quiet(struct granary_op *op)
{
	if (op)
		op->kind->free(op);
}

/* The lock is held. The thread takes no signal: those are the application's. */
static int thread_start(struct granary_client *c)
{
	sigset_t all, before;

	if (c->thread_runs)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&c->thread, NULL, io_main, c);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed)
		return -GRANARY_ENOMEM;
	pthread_setname_np(c->thread, "granary-io");
	c->thread_runs = true;
	return 0;
}

int op_submit(struct granary_op *op)
{
	struct granary_client *c = op->client;
	enum wake wake = WAKE_NOT;
	int err;

	op->started_ns = clock_mono_ns();
	if (op->deadline_ns == 0)
		op->deadline_ns = deadline_after(op->started_ns, op->timeout_ms);
	pthread_mutex_lock(&c->lock);
	err = c->closed ? -GRANARY_ECANCELED : thread_start(c);
	if (err == 0) {
		op->drives = op->drives && atomic_load(&c->loop) == LOOP_FREE && list_empty(&c->ops);
		list_push(&c->ops, &op->all);
		list_push(&c->submitted, &op->link);
		if (op->drives) {
			atomic_store(&c->loop, LOOP_CALLER);
			c->drives++;
		} else {
			wake = client_wake(c);
		}
	}
	pthread_mutex_unlock(&c->lock);
	client_wake_now(c, wake);
	return err < 0 ? error_fail(c, err, "cannot start an operation: %s", error_text(err)) : 0;
}

int op_start(struct granary_op *op, struct granary_op **out)
{
	int err = out ? op_submit(op) : error_fail(op->client, -GRANARY_EINVAL, "no place for the operation");

	if (err < 0)
		op_free_quiet(op);
	if (out)
		*out = err < 0 ? NULL : op;
	return err;
}

int64_t op_run(struct granary_op *op)
{
	op->quiet = op->drives = true;
	int64_t result = op_submit(op);
	if (result == 0 && op->drives)
		io_drive(op->client, op);
	if (result < 0) /* never begun: nothing else sets it */
		op->state = OP_DONE;
	else
		result = granary_wait(op, GRANARY_FOREVER);
	return result;
}

/* ---- the client's thread ---- */

void op_note(struct granary_op *op, struct slice text)
{
	if (op->error[0] == '\0')
		text_copy(op->error, sizeof(op->error), text);
}

static void op_end(struct granary_op *op)
{
	op->ended = true;
	op->result = op->kind->finish(op, op->err);
	if (op->result < 0 && op->error[0] == '\0')
		op_note(op, slice_str(error_text((int)op->result)));
	list_push(&op->client->io.finished, &op->link);
}

void op_begin(struct granary_op *op)
{
	struct io *io = &op->client->io;

	list_init(&op->link);
	if (op->deadline_ns < io->next_deadline_ns)
		io->next_deadline_ns = op->deadline_ns;
	op_advance(op);
}

void op_advance(struct granary_op *op)
{
	if (op->ended)
		return;
	int err = op->kind->more(op);
	if (err < 0)
		op_fail(op, err, "%s", error_text(err));
	else if (!op->ended && list_empty(&op->rpcs))
		op_end(op);
}

void op_fail(struct granary_op *op, int err, const char *fmt, ...)
{
	char text[ERROR_TEXT_SIZE];
	va_list ap;

	if (op->ended)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	op->error[0] = '\0';
	op_note(op, slice_str(text[0] ? text : error_text(err)));
	op->err = err;
	while (!list_empty(&op->rpcs))
		rpc_drop(container_of(op->rpcs.next, struct rpc, op_link));
	op_end(op);
}

/* Who is to be told of operations that are done, once the lock is free: woken with it held, they would only wait for
 * it. */
struct telling {
	bool signal; /* the eventfd */
	struct list *at_once; /* whose callbacks are due; NULL: there cannot be any */
	uint32_t count;
	_Atomic uint32_t *states[16];
};

static void telling_add(struct telling *t, _Atomic uint32_t *state)
{
	if (t->count == sizeof(t->states) / sizeof(t->states[0]))
		futex_wake(state);
	else
		t->states[t->count++] = state;
}

/* Its owner may free an operation that is done as soon as the lock is free: the addresses are names only. */
static void telling_tell(struct granary_client *c, const struct telling *t)
{
	uint64_t one = 1;

	for (uint32_t i = 0; i < t->count; i++)
		futex_wake(t->states[i]);
	if (t->signal && write(c->event_fd, &one, sizeof(one)) < 0)
		return; /* its counter is full: it is readable */
}

static void op_hand_over(struct granary_client *c, struct granary_op *op, struct telling *t)
{
	list_remove(&op->all);
	list_remove(&op->cancel_link);
	c->parks = op->quiet; /* mostly */
	if (op->result < 0)
		memcpy(c->last_error, op->error, sizeof(c->last_error));
	if (op->at_once && t->at_once && !op->dropped) {
		op->collected = true;
		list_push(t->at_once, &op->link);
	} else if (!op->quiet && !op->dropped) {
		t->signal = c->watched;
		list_push(&c->done, &op->link);
	}
	atomic_store(&op->state, OP_DONE); /* before `waiters` is read: op_sleep() has it the other way round */
	if (atomic_load(&op->waiters) > 0)
		telling_add(t, &op->state);
	if (op->watch)
		pthread_cond_signal(op->watch);
}

void op_settle(struct granary_op *op, int64_t result, const char *text)
{
	struct telling t = { .count = 0 };

	if (op->canceled || op->client->stopping || op->state == OP_DONE)
		return;
	op->ended = true;
	op->result = result;
	if (result < 0)
		op_note(op, slice_str(text));
	op_hand_over(op->client, op, &t);
	telling_tell(op->client, &t);
}

void op_announce(struct granary_client *c)
{
	struct list at_once;
	struct telling t = { .count = 0, .at_once = &at_once };

	if (list_empty(&c->io.finished))
		return;
	list_init(&at_once);
	pthread_mutex_lock(&c->lock);
	for (struct list *at; (at = list_pop(&c->io.finished)) != NULL;) {
		struct granary_op *op = container_of(at, struct granary_op, link);
		if (op->is_internal)
			op->kind->free(op);
		else
			op_hand_over(c, op, &t);
	}
	pthread_mutex_unlock(&c->lock);
	telling_tell(c, &t);
	for (struct list *at; (at = list_pop(&at_once)) != NULL;) { /* theirs from here on */
		struct granary_op *op = container_of(at, struct granary_op, link);
		op->done(op, op->result, op->arg);
	}
}

/* A connection on which nothing came for long is given up with the operation that waited for it. */
static void op_doubt_connections(const struct granary_op *op)
{
	static const uint64_t silence_ns = 5000000000;

	for (struct list *at = op->rpcs.next; at != &op->rpcs; at = at->next) {
		struct rpc *r = container_of(at, struct rpc, op_link);
		const struct granary_op *group = group_op_of(r);
		if (group)
			op_doubt_connections(group);
		uint64_t since = r->conn && r->conn->last_rx_ns > r->sent_ns ? r->conn->last_rx_ns : r->sent_ns;
		if (r->state == RPC_FLIGHT && op->client->io.now_ns - since > silence_ns)
			r->conn->broken = true;
	}
}

static void op_time_out(struct granary_op *op)
{
	const struct granary_client *c = op->client;

	if (!op->sent && c->io.why[0]) {
		op_fail(op, -GRANARY_EUNREACHABLE, "no server within %u ms; the last failure was: %s",
			op->timeout_ms, c->io.why);
		return;
	}
	op_doubt_connections(op);
	op_fail(op, -GRANARY_ETIMEDOUT, "no answer within %u ms", op->timeout_ms);
}

void op_expire(struct granary_client *c)
{
	uint64_t next = NEVER_NS;
	struct list late;

	list_init(&late);
	pthread_mutex_lock(&c->lock);
	list_for(at, &c->ops) {
		struct granary_op *op = container_of(at, struct granary_op, all);
		if (op->ended)
			continue;
		if (op->deadline_ns <= c->io.now_ns) {
			list_remove(&op->cancel_link);
			list_push(&late, &op->cancel_link);
		} else if (op->deadline_ns < next) {
			next = op->deadline_ns;
		}
	}
	pthread_mutex_unlock(&c->lock);
	c->io.next_deadline_ns = next;
	for (struct list *at; (at = list_pop(&late)) != NULL;)
		op_time_out(container_of(at, struct granary_op, cancel_link));
}
