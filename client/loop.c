/* SPDX-License-Identifier: Apache-2.0 */
/* loop.c -- the client's thread: take what was submitted, hand requests to connections, look at clocks,
 * announce what is done, sleep until a socket or a submission wakes it. Nothing of a caller runs here but
 * granary_entry_fn.
 *
 * A blocking call that finds the client with nothing to do runs the loop itself: two switches of threads cost as much
 * as a small request. The thread parks for that: LOOP_FREE.
 *
 *   THREAD -> FREE     io_park()      nothing is under way, the last was a blocking call
 *   FREE   -> CALLER   op_submit()    of a blocking call
 *   FREE   -> THREAD   client_wake()  another submission, the end; io_park(): nobody came for PARK_NS
 *   CALLER -> FREE     io_drive()     its operation is done, nothing else is under way
 *   CALLER -> THREAD   io_drive()     something else is, or the client is closing
 *
 * So sockets are unwatched for PARK_NS at most. */
#include "client_priv.h"

#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "futex.h"
#include "net.h"

enum { EVENTS_PER_TURN = 32, PARK_NS = 2 * 1000 * 1000 };

int io_init(struct granary_client *c)
{
	struct io *io = &c->io;
	uint64_t seed;
	int err;

	memset(io, 0, sizeof(*io));
	err = net_open(c->config.engine, &io->engine, &io->net, io->why, sizeof(io->why));
	if (err < 0)
		return err;
	list_init(&io->ready);
	list_init(&io->to_send);
	list_init(&io->finished);
	list_init(&io->session.open);
	io->session.next_sequence = 1;
	unstable_init(c);
	groups_init(c);
	files_init(c);
	list_init(&io->own.rpcs);
	io->own.client = c;
	io->own.ended = true;
	io->own.deadline_ns = NEVER_NS;
	io->next_deadline_ns = NEVER_NS;
	rand_bytes(&seed, sizeof(seed));
	rng_seed(&io->rng, seed);
	io->conns = calloc(c->config.connections, sizeof(*io->conns));
	err = io->conns ? io->engine->watch(io->net, c->wake_fd, c, false, false) : -GRANARY_ENOMEM;
	if (err < 0) {
		io->engine->close(io->net);
		free(io->conns);
		io->conns = NULL;
		io->net = NULL;
		return err;
	}
	for (uint32_t i = 0; i < c->config.connections; i++)
		conn_init(&io->conns[i], c, i);
	return 0;
}

void io_release(struct granary_client *c)
{
	struct io *io = &c->io;

	if (io->conns) {
		groups_release(c);
		unstable_release(c);
		files_release(c);
		while (!list_empty(&io->own.rpcs))
			rpc_drop(container_of(io->own.rpcs.next, struct rpc, op_link));
	}
	if (io->conns)
		for (uint32_t i = 0; i < c->config.connections; i++)
			conn_release(&io->conns[i]);
	rx_release(&io->local_rx);
	free(io->conns);
	if (io->net)
		io->engine->close(io->net);
	io->conns = NULL;
	io->net = NULL;
}

/* The parent's thread may have been in the middle of any of this: only descriptors are closed. */
void io_forget(struct granary_client *c)
{
	struct io *io = &c->io;

	if (io->conns)
		for (uint32_t i = 0; i < c->config.connections; i++) {
			if (io->conns[i].fd >= 0)
				close(io->conns[i].fd);
			passed_drop(&io->conns[i].passed);
		}
	if (io->net)
		io->engine->forget(io->net);
	io->conns = NULL;
	io->net = NULL;
}

/* Takes submissions and cancellations; false when the client is closing. */
static bool io_take(struct granary_client *c, struct list *fresh, struct list *canceled)
{
	struct list released;

	list_init(&released);
	pthread_mutex_lock(&c->lock);
	list_splice(&released, &c->released);
	bool stopping = c->stopping;
	list_splice(fresh, &c->submitted);
	list_splice(canceled, &c->cancels);
	pthread_mutex_unlock(&c->lock);
	files_take(c, &released);
	return !stopping;
}

static int timeout_ms(const struct granary_client *c)
{
	const struct io *io = &c->io;
	uint64_t at = io->next_deadline_ns < io->next_retry_ns ? io->next_deadline_ns : io->next_retry_ns;
	uint64_t lease = local_next_ns(c);

	at = lease < at ? lease : at;
	at = files_next_ns(c) < at ? files_next_ns(c) : at;
	for (uint32_t i = 0; i < c->config.connections; i++) {
		uint64_t next = conn_next_ns(&io->conns[i]);
		at = next < at ? next : at;
	}
	if (at == NEVER_NS)
		return -1;
	if (at <= io->now_ns)
		return 0;
	uint64_t ms = (at - io->now_ns + 999999) / 1000000;
	return ms > 60000 ? 60000 : (int)ms;
}

static void io_events(struct granary_client *c, int timeout)
{
	struct net_event events[EVENTS_PER_TURN];
	uint64_t woken;
	int n = c->io.engine->wait(c->io.net, events, EVENTS_PER_TURN, timeout);

	atomic_store(&c->sleeping, false); /* what is submitted from now on is taken without being woken for */
	c->io.now_ns = clock_mono_ns();
	for (int i = 0; i < n; i++) {
		if (events[i].owner != c)
			conn_ready_io(events[i].owner, events[i].readable, events[i].writable);
		else if (read(c->wake_fd, &woken, sizeof(woken)) < 0)
			continue; /* taken before */
	}
}

static void io_sleep(struct granary_client *c)
{
	int timeout = timeout_ms(c);

	pthread_mutex_lock(&c->lock);
	c->sleeping = list_empty(&c->submitted) && list_empty(&c->cancels) && list_empty(&c->released) &&
		      !c->stopping;
	if (!c->sleeping)
		timeout = 0;
	pthread_mutex_unlock(&c->lock);
	io_events(c, timeout);
}

static void io_stop(struct granary_client *c)
{
	pthread_mutex_lock(&c->lock);
	struct list all;
	list_init(&all);
	list_for(at, &c->ops) {
		struct granary_op *op = container_of(at, struct granary_op, all);
		list_remove(&op->cancel_link);
		list_push(&all, &op->cancel_link);
	}
	list_init(&c->submitted);
	pthread_mutex_unlock(&c->lock);
	for (struct list *at; (at = list_pop(&all)) != NULL;)
		op_fail(container_of(at, struct granary_op, cancel_link), -GRANARY_ECANCELED, "the client was closed");
	op_announce(c);
	for (uint32_t i = 0; i < c->config.connections; i++) {
		handshake_goodbye(&c->io.conns[i]);
		if (c->io.conns[i].state != CONN_DOWN)
			c->io.engine->unwatch(c->io.net, c->io.conns[i].fd);
	}
}

static void io_turn(struct granary_client *c, struct list *fresh, struct list *canceled)
{
	for (struct list *at; (at = list_pop(fresh)) != NULL;)
		op_begin(container_of(at, struct granary_op, link));
	for (struct list *at; (at = list_pop(canceled)) != NULL;)
		op_fail(container_of(at, struct granary_op, cancel_link), -GRANARY_ECANCELED, "canceled by the caller");
	if (c->io.next_deadline_ns <= c->io.now_ns)
		op_expire(c);
	rpc_dispatch(c);
	for (uint32_t i = 0; i < c->config.connections; i++)
		conn_tick(&c->io.conns[i]);
	op_announce(c);
}

/* Lock held: the lists are taken, so that nobody may be forgotten. */
static bool io_is_idle(const struct granary_client *c)
{
	return list_empty(&c->ops) && list_empty(&c->submitted) && list_empty(&c->cancels) && !c->stopping;
}

/* False: the thread has to go on. Else it has the loop again, or anew. */
static bool io_park(struct granary_client *c)
{
	uint32_t state = LOOP_FREE;
	uint64_t drives;

	pthread_mutex_lock(&c->lock);
	bool parks = c->parks && c->io.engine == &net_epoll && io_is_idle(c);
	if (parks)
		atomic_store(&c->loop, LOOP_FREE);
	drives = c->drives;
	pthread_mutex_unlock(&c->lock);
	while (parks && state != LOOP_THREAD) {
		futex_wait(&c->loop, state, clock_mono_ns() + PARK_NS);
		pthread_mutex_lock(&c->lock);
		state = atomic_load(&c->loop);
		if (state == LOOP_FREE && c->drives == drives) {
			state = LOOP_THREAD;
			atomic_store(&c->loop, LOOP_THREAD);
			c->parks = false;
		}
		drives = c->drives;
		pthread_mutex_unlock(&c->lock);
	}
	c->io.now_ns = clock_mono_ns();
	return parks;
}

void io_drive(struct granary_client *c, const struct granary_op *op)
{
	struct list fresh, canceled;
	int cancel;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	list_init(&fresh);
	list_init(&canceled);
	c->io.now_ns = clock_mono_ns();
	while (io_take(c, &fresh, &canceled)) {
		io_turn(c, &fresh, &canceled);
		if (atomic_load(&op->state) == OP_DONE)
			break;
		io_sleep(c);
	}
	pthread_mutex_lock(&c->lock);
	list_splice(&c->submitted, &fresh);
	list_splice(&c->cancels, &canceled);
	bool is_idle = io_is_idle(c);
	atomic_store(&c->loop, is_idle ? LOOP_FREE : LOOP_THREAD);
	pthread_mutex_unlock(&c->lock);
	if (!is_idle)
		futex_wake(&c->loop);
	pthread_setcancelstate(cancel, NULL);
}

void *io_main(void *client)
{
	struct granary_client *c = client;
	struct list fresh, canceled;

	list_init(&fresh);
	list_init(&canceled);
	c->io.now_ns = clock_mono_ns();
	while (io_take(c, &fresh, &canceled)) {
		io_turn(c, &fresh, &canceled);
		if (!io_park(c))
			io_sleep(c);
	}
	io_stop(c);
	return NULL;
}
