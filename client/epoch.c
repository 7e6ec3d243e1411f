/* SPDX-License-Identifier: Apache-2.0 */
/* epoch.c -- the calls of an epoch: opening, taking and giving back batches, closing. Its thread does the rest. */
#include "epoch_priv.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"

static int conds_init(struct granary_epoch *e)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	int failed = pthread_cond_init(&e->wake, &attr) != 0 || pthread_cond_init(&e->ready_cond, &attr) != 0;
	pthread_condattr_destroy(&attr);
	return failed ? -GRANARY_ENOMEM : 0;
}

static int thread_begin(struct granary_epoch *e)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&e->thread, NULL, epoch_main, e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed)
		return error_fail(e->client, -GRANARY_ENOMEM, "cannot start a thread");
	pthread_setname_np(e->thread, "granary-epoch");
	e->thread_runs = true;
	return 0;
}

static void batches_free(struct granary_epoch *e, struct list *batches)
{
	for (struct list *at; (at = list_pop(batches)) != NULL;)
		batch_free(e, container_of(at, struct batch, link));
}

/* The thread has ended, or never ran. */
static void epoch_free(struct granary_epoch *e)
{
	batches_free(e, &e->pipeline);
	batches_free(e, &e->ready);
	batches_free(e, &e->taken);
	batches_free(e, &e->returned);
	batches_free(e, &e->spare);
	hold_release(e);
	granary_op_free(&e->report);
	mem_release(&e->mem);
	mix_release(&e->mix);
	granary_recipe_close(&e->recipe);
	granary_snapshot_close(&e->snapshot);
	free(e->parts);
	pthread_cond_destroy(&e->wake);
	pthread_cond_destroy(&e->ready_cond);
	free(e->skips);
	free(e->job);
	free(e);
}

int granary_epoch_open(struct granary_client *client, const struct granary_epoch_options *options,
	struct granary_epoch **out)
{
	int err = client_enter(client);

	*out = NULL;
	if (err == 0 && (!options || options->size < offsetof(struct granary_epoch_options, last)))
		err = error_fail(client, -GRANARY_EINVAL, "granary_epoch_options.size is not set");
	struct granary_epoch *e = err == 0 ? calloc(1, sizeof(*e)) : NULL;
	if (!e)
		return err < 0 ? err : error_fail(client, -GRANARY_ENOMEM, "out of memory");
	e->client = e->mem.client = client;
	e->generation = client->generation;
	struct list *const lists[] = { &e->pipeline, &e->spare, &e->coming, &e->fetches, &e->ready, &e->taken,
		&e->returned };
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		list_init(lists[i]);
	err = conds_init(e);
	if (err == 0)
		err = epoch_setup(e, options);
	if (err == 0)
		err = thread_begin(e);
	if (err < 0) {
		epoch_free(e);
		return err;
	}
	*out = e;
	return 0;
}

/* The thread is the parent's: nothing here can go on, or be freed safely. */
static bool epoch_forked(const struct granary_epoch *e)
{
	return e->generation != e->client->generation;
}

/* ---- waiting without blocking ---- */

struct ready_op {
	struct granary_op op;
	struct granary_epoch *epoch; /* lock; NULL: it is no longer the epoch's */
	uint64_t began_ns;           /* since when it waits; 0: not yet */
};

static struct ready_op *ready_op_of(struct granary_op *op)
{
	return container_of(op, struct ready_op, op);
}

static int ready_more(struct granary_op *op)
{
	(void)op;
	return 0;
}

static int64_t ready_finish(struct granary_op *op, int err)
{
	(void)op;
	return err;
}

/* Lock held. */
static void ready_forget(struct ready_op *r)
{
	if (r->epoch && r->epoch->ready_op == r)
		r->epoch->ready_op = NULL;
	r->epoch = NULL;
}

static void ready_free(struct granary_op *op)
{
	struct granary_client *c = op->client;

	pthread_mutex_lock(&c->lock);
	ready_forget(ready_op_of(op));
	pthread_mutex_unlock(&c->lock);
	op_release(op);
}

static const struct op_kind ready_kind = { .more = ready_more, .finish = ready_finish, .free = ready_free };

void epoch_tell(struct granary_epoch *e)
{
	struct ready_op *r = e->ready_op;

	pthread_cond_broadcast(&e->ready_cond);
	if (!r || (list_empty(&e->ready) && !e->ended && e->err == 0 && !e->closing))
		return;
	if (r->began_ns)
		e->waited_ns += clock_mono_ns() - r->began_ns;
	ready_forget(r);
	op_settle(&r->op, e->closing ? -GRANARY_ECANCELED : !list_empty(&e->ready) ? 1 : e->err,
		e->closing ? "the epoch was closed" : e->error);
}

int granary_epoch_ready_start(struct granary_epoch *epoch, const struct granary_call *call, struct granary_op **op)
{
	struct granary_client *c = epoch->client;
	int err = epoch_forked(epoch) ? -GRANARY_EFORKED : 0;

	*op = NULL;
	if (err < 0)
		return error_fail(c, err, "the epoch belongs to the process that forked");
	struct ready_op *r = op_new(sizeof(*r), c, &ready_kind, call, &err);
	if (!r)
		return err;
	r->op.deadline_ns = NEVER_NS;
	pthread_mutex_lock(&c->lock);
	if (epoch->ready_op && epoch->ready_op->op.canceled)
		ready_forget(epoch->ready_op);
	err = epoch->ready_op ? -GRANARY_EBUSY : c->closed ? -GRANARY_ECANCELED : 0;
	if (err == 0) {
		r->epoch = epoch;
		epoch->ready_op = r;
		list_push(&c->ops, &r->op.all);
		epoch_tell(epoch);
		r->began_ns = epoch->ready_op ? clock_mono_ns() : 0;
	}
	pthread_mutex_unlock(&c->lock);
	if (err < 0) {
		r->op.state = OP_DONE;
		op_free_quiet(&r->op);
		return error_fail(c, err, "a wait for the next batch is under way");
	}
	*op = &r->op;
	return 0;
}

void granary_epoch_close(struct granary_epoch **epoch)
{
	struct granary_epoch *e = epoch ? *epoch : NULL;

	if (!e)
		return;
	*epoch = NULL;
	if (epoch_forked(e))
		return;
	pthread_mutex_lock(&e->client->lock);
	e->closing = true;
	pthread_cond_broadcast(&e->wake);
	epoch_tell(e);
	pthread_mutex_unlock(&e->client->lock);
	if (e->thread_runs)
		pthread_join(e->thread, NULL);
	epoch_free(e);
}

/* ---- batches ---- */

/* The lock is held. Waits until the next batch is there, the epoch is over or has failed. */
static void next_wait(struct granary_epoch *e)
{
	uint64_t began = clock_mono_ns();

	if (!list_empty(&e->ready) || e->ended || e->err < 0)
		return;
	while (list_empty(&e->ready) && !e->ended && e->err == 0 && !e->closing)
		pthread_cond_wait(&e->ready_cond, &e->client->lock);
	e->waited_ns += clock_mono_ns() - began;
}

/* The lock is held. */
static struct batch *next_take(struct granary_epoch *e)
{
	struct batch *b = container_of(list_pop(&e->ready), struct batch, link);

	list_push(&e->taken, &b->link);
	e->taken_count++;
	e->taken_bytes += mem_size(b->data_cap);
	e->delivered++;
	e->samples_read += b->samples_read;
	e->bytes_read += b->bytes_read;
	e->checksum += b->checksum;
	e->skipped += b->skipped;
	pthread_cond_signal(&e->wake);
	return b;
}

static int next_of(struct granary_epoch *e, uint64_t room, uint64_t *need, struct batch **out)
{
	char text[ERROR_TEXT_SIZE];
	int result = 1;

	*out = NULL;
	if (epoch_forked(e))
		return error_fail(e->client, -GRANARY_EFORKED, "the epoch belongs to the process that forked");
	pthread_mutex_lock(&e->client->lock);
	next_wait(e);
	const struct batch *first = list_empty(&e->ready) ? NULL : container_of(e->ready.next, struct batch, link);
	if (need)
		*need = first ? first->pub.data_size : 0;
	if (first && first->pub.data_size > room)
		result = -GRANARY_ETOOBIG;
	else if (first)
		*out = next_take(e);
	else
		result = e->err < 0 ? e->err : e->closing ? -GRANARY_ECANCELED : 0;
	memcpy(text, e->error, sizeof(text));
	pthread_mutex_unlock(&e->client->lock);
	if (result == -GRANARY_ETOOBIG && first)
		return error_fail(e->client, result, "the batch has more bytes than there is room for");
	if (result < 0)
		error_of_request(e->error_request);
	return result < 0 ? error_fail(e->client, result, "%s", text) : result;
}

int granary_epoch_next(struct granary_epoch *epoch, const struct granary_epoch_batch **batch)
{
	struct batch *b;
	int result = next_of(epoch, UINT64_MAX, NULL, &b);

	*batch = b ? &b->pub : NULL;
	return result;
}

int granary_epoch_next_into(struct granary_epoch *epoch, void *buf, size_t size,
	const struct granary_epoch_batch **batch, uint64_t *need)
{
	struct batch *b;
	int result = next_of(epoch, size, need, &b);

	if (b && b->pub.data_size > 0)
		memcpy(buf, b->data, b->pub.data_size);
	if (b)
		b->pub.data = buf;
	*batch = b ? &b->pub : NULL;
	return result;
}

void granary_epoch_release(struct granary_epoch *epoch, const struct granary_epoch_batch **batch)
{
	union { const struct granary_epoch_batch *c; struct granary_epoch_batch *p; } pub = { batch ? *batch : NULL };

	if (!epoch || !pub.c || epoch_forked(epoch))
		return;
	*batch = NULL;
	struct batch *b = container_of(pub.p, struct batch, pub);
	pthread_mutex_lock(&epoch->client->lock);
	list_remove(&b->link);
	list_push(&epoch->returned, &b->link);
	pthread_mutex_unlock(&epoch->client->lock);
}

/* ---- looking ---- */

int granary_epoch_info(struct granary_epoch *e, struct granary_epoch_info *info)
{
	struct granary_epoch_info all = { .bucket = e->bucket, .snapshot = e->name,
		.samples = e->order.spec.samples, .batches = e->batches, .seed = e->order.spec.seed,
		.epoch = e->order.spec.epoch, .memory = e->memory, .mode = e->order.spec.mode,
		.rank = e->ranks.spec.rank,
		.world = e->ranks.spec.ranks, .batch = e->ranks.spec.batch,
		.is_recipe = e->recipe != NULL, .sources = e->parts_count };

	if (!info || info->size < offsetof(struct granary_epoch_info, samples))
		return -GRANARY_EINVAL;
	pthread_mutex_lock(&e->client->lock);
	all.delivered = e->delivered;
	all.position = epoch_position(e);
	all.samples_read = e->samples_read;
	all.bytes_read = e->bytes_read;
	all.waited_ns = e->waited_ns;
	all.skipped = e->skipped;
	all.memory_used = e->memory_used;
	all.bytes_fetched = e->bytes_fetched;
	pthread_mutex_unlock(&e->client->lock);
	all.size = info->size;
	memcpy(info, &all, info->size < sizeof(all) ? info->size : sizeof(all));
	return 0;
}
