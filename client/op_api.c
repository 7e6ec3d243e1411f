/* SPDX-License-Identifier: Apache-2.0 */
/* op_api.c -- what callers do with operations: poll, wait, cancel, free. */
#include "client_priv.h"

#include <errno.h>
#include <unistd.h>

#include "common/clock.h"
#include "futex.h"

static bool op_valid(const struct granary_op *op)
{
	return op && op->magic == OP_MAGIC;
}

static bool op_is_done(const struct granary_op *op)
{
	return atomic_load_explicit(&op->state, memory_order_acquire) == OP_DONE;
}

/* The lock is held: the operation is collected, now or before. True when its callback is to run. */
static bool op_collect(struct granary_client *c, struct granary_op *op)
{
	uint64_t count;
	bool first = !op->collected;

	op->collected = true;
	list_remove(&op->link);
	if (first && !op->quiet && c->watched && list_empty(&c->done) && !c->forked &&
		read(c->event_fd, &count, sizeof(count)) < 0)
		count = 0; /* was not readable */
	return first && op->done && !op->dropped;
}

int granary_fd(struct granary_client *client)
{
	int err = client_enter(client);
	uint64_t one = 1;

	if (err < 0)
		return err;
	pthread_mutex_lock(&client->lock);
	if (!client->watched && !list_empty(&client->done) && write(client->event_fd, &one, sizeof(one)) < 0)
		err = error_from_errno(errno);
	client->watched = true;
	pthread_mutex_unlock(&client->lock);
	return err < 0 ? err : client->event_fd;
}

int granary_poll(struct granary_client *client, uint32_t max)
{
	int collected = client_enter(client);

	while (collected >= 0 && (max == 0 || (uint32_t)collected < max)) {
		pthread_mutex_lock(&client->lock);
		if (list_empty(&client->done)) {
			pthread_mutex_unlock(&client->lock);
			break;
		}
		struct granary_op *op = container_of(client->done.next, struct granary_op, link);
		bool run = op_collect(client, op);
		pthread_mutex_unlock(&client->lock);
		collected++;
		if (run)
			op->done(op, op->result, op->arg);
	}
	return collected;
}

/* Until it is done, or a time. Without the lock. */
static void op_sleep(struct granary_op *op, uint64_t until_ns)
{
	atomic_fetch_add(&op->waiters, 1); /* before `state` is read: op_hand_over() has it the other way round */
	while (atomic_load(&op->state) != OP_DONE && (until_ns == NEVER_NS || clock_mono_ns() < until_ns))
		futex_wait(&op->state, OP_UNDER_WAY, until_ns);
	atomic_fetch_sub(&op->waiters, 1);
}

int64_t granary_wait(struct granary_op *op, uint32_t timeout_ms)
{
	if (!op_valid(op))
		return error_fail(NULL, -GRANARY_EINVAL, "not an operation");
	struct granary_client *c = op->client;
	uint64_t until = timeout_ms == 0 ? 0 : deadline_after(clock_mono_ns(), timeout_ms);

	if (!op_is_done(op) && until != 0)
		op_sleep(op, until);
	if (!op_is_done(op))
		return -GRANARY_EAGAIN;
	pthread_mutex_lock(&c->lock);
	bool run = op_collect(c, op);
	pthread_mutex_unlock(&c->lock);
	int64_t result = op->result;
	if (result < 0) {
		error_set(c, op->error);
		error_of_request(op->request);
	}
	if (run)
		op->done(op, result, op->arg);
	return result;
}

int granary_op_done(const struct granary_op *op)
{
	return op_valid(op) && op_is_done(op);
}

int64_t granary_op_result(const struct granary_op *op)
{
	if (!op_valid(op))
		return -GRANARY_EINVAL;
	return op_is_done(op) ? op->result : -GRANARY_EAGAIN;
}

const char *granary_op_error(const struct granary_op *op)
{
	return op_valid(op) && op_is_done(op) ? op->error : "";
}

uint64_t granary_op_request(const struct granary_op *op)
{
	return op_valid(op) && op_is_done(op) ? op->request : 0;
}

/* The lock is held. client_wake_now() is due. */
static enum wake op_cancel_locked(struct granary_op *op)
{
	if (op_is_done(op) || op->canceled)
		return WAKE_NOT;
	op->canceled = true;
	list_push(&op->client->cancels, &op->cancel_link);
	return client_wake(op->client);
}

void granary_op_cancel(struct granary_op *op)
{
	if (!op_valid(op))
		return;
	struct granary_client *c = op->client;
	pthread_mutex_lock(&c->lock);
	enum wake wake = op_cancel_locked(op);
	pthread_mutex_unlock(&c->lock);
	client_wake_now(c, wake);
}

void granary_op_free(struct granary_op **op)
{
	struct granary_op *o = op ? *op : NULL;

	if (!op_valid(o))
		return;
	*op = NULL;
	struct granary_client *c = o->client;
	pthread_mutex_lock(&c->lock);
	o->dropped = true;
	if (!op_is_done(o)) {
		enum wake wake = op_cancel_locked(o);
		pthread_mutex_unlock(&c->lock);
		client_wake_now(c, wake);
		op_sleep(o, NEVER_NS);
		pthread_mutex_lock(&c->lock);
	}
	op_collect(c, o);
	pthread_mutex_unlock(&c->lock);
	o->kind->free(o);
}
