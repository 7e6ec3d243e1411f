/* SPDX-License-Identifier: Apache-2.0 */
/* op_api.c -- what callers do with operations: poll, wait, cancel, free. */
#include "client_priv.h"

#include <time.h>
#include <unistd.h>

#include "common/clock.h"

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
	if (first && !op->quiet && list_empty(&c->done) && !c->forked && read(c->event_fd, &count, sizeof(count)) < 0)
		count = 0; /* was not readable */
	return first && op->done && !op->dropped;
}

int granary_fd(struct granary_client *client)
{
	int err = client_enter(client);

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

static void op_sleep(struct granary_op *op, uint64_t until_ns)
{
	struct timespec at = { .tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000) };

	op->waiters++;
	if (until_ns == NEVER_NS)
		pthread_cond_wait(&op->cond, &op->client->lock);
	else
		pthread_cond_timedwait(&op->cond, &op->client->lock, &at);
	op->waiters--;
}

int64_t granary_wait(struct granary_op *op, uint32_t timeout_ms)
{
	if (!op_valid(op))
		return error_fail(NULL, -GRANARY_EINVAL, "not an operation");
	struct granary_client *c = op->client;
	uint64_t until = timeout_ms == 0 ? 0 : deadline_after(clock_mono_ns(), timeout_ms);

	pthread_mutex_lock(&c->lock);
	while (!op_is_done(op) && until != 0 && (until == NEVER_NS || clock_mono_ns() < until))
		op_sleep(op, until);
	if (!op_is_done(op)) {
		pthread_mutex_unlock(&c->lock);
		return -GRANARY_EAGAIN;
	}
	bool run = op_collect(c, op);
	pthread_mutex_unlock(&c->lock);
	int64_t result = op->result;
	if (result < 0)
		error_set(c, op->error);
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

/* The lock is held. */
static void op_cancel_locked(struct granary_op *op)
{
	if (op_is_done(op) || op->canceled)
		return;
	op->canceled = true;
	list_push(&op->client->cancels, &op->cancel_link);
	client_wake(op->client);
}

void granary_op_cancel(struct granary_op *op)
{
	if (!op_valid(op))
		return;
	pthread_mutex_lock(&op->client->lock);
	op_cancel_locked(op);
	pthread_mutex_unlock(&op->client->lock);
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
	op_cancel_locked(o);
	while (!op_is_done(o))
		op_sleep(o, NEVER_NS);
	op_collect(c, o);
	pthread_mutex_unlock(&c->lock);
	o->kind->free(o);
}
