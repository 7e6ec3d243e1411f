/* SPDX-License-Identifier: Apache-2.0 */
/* net.c -- listeners, the hand-over of connections to reactors, and what one reactor does for all of its
 * connections: sending at the end of a turn, the tick of one second, memory, draining and stopping.
 * Invariants: (1) a net_local belongs to its reactor but for `stopped` and the tasks the main thread
 * posts; (2) request_bytes of the store is the sum of all charges, less what the reactors have not yet
 * added (CHARGE_STEP each at most). */
#include "net/net.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "io/sock.h"
#include "net/conn.h"
#include "req/store.h"

enum {
	CHARGE_STEP = 256 * 1024,
	POOL_SHARE = 2,
	FEED_MAX = 16,
	SHARE_MAX = 1 << 20,
	HUNGRY_POLL_NS = 5000000
};
#define POOL_CACHED_MAX (UINT64_C(64) << 20)
#define TICK_NS         UINT64_C(1000000000)

struct listener {
	struct net *net;
	struct io_op op;
	int fd;
	bool accepting; /* reactor 0 */
	char address[NET_ADDRESS_MAX];
};

struct net {
	struct store *store;
	uint32_t listener_count, connections_max;
	struct listener listeners[NET_LISTENERS_MAX];
	struct net_local locals[REACTORS_MAX];
	uint32_t next_reactor; /* reactor 0: who gets the next connection */
	_Atomic uint32_t connections;
	_Atomic uint64_t waiting_ns; /* when somebody was last seen waiting for memory */
	bool started;
	uint64_t full_logged_ns;
};

/* ---- memory ---- */

static void charge_flush(struct net_local *nl)
{
	if (nl->charged > 0)
		atomic_fetch_add_explicit(
			&nl->store->request_bytes, (uint64_t)nl->charged, memory_order_relaxed);
	else if (nl->charged < 0)
		atomic_fetch_sub_explicit(
			&nl->store->request_bytes, (uint64_t)-nl->charged, memory_order_relaxed);
	nl->charged = 0;
}

/* Lets some connections that waited for memory try again. */
static void feed_hungry(struct net_local *nl)
{
	charge_flush(nl);
	for (uint32_t i = 0;
		i < FEED_MAX && !list_empty(&nl->hungry) && local_has_memory(nl, UINT64_MAX / 2, 0);
		i++)
		conn_retry(container_of(nl->hungry.next, struct conn, hungry));
}

void local_charge(struct net_local *nl, int64_t bytes)
{
	nl->charged += bytes;
	if (nl->charged > CHARGE_STEP || nl->charged < -CHARGE_STEP) charge_flush(nl);
	if (bytes < 0 && !list_empty(&nl->hungry)) feed_hungry(nl);
}

/* Above the budget every connection still has a share of a quarter more: who holds little is not made to wait by those
 * who hold much. A single frame may always come in when nothing else is there. */
bool local_has_memory(const struct net_local *nl, uint64_t held, uint64_t bytes)
{
	uint64_t budget = nl->store->options.request_budget, share;
	uint64_t used = atomic_load_explicit(&nl->store->request_bytes, memory_order_relaxed);

	if (nl->charged > 0) used += (uint64_t)nl->charged;
	if (used + bytes <= budget || used <= CHARGE_STEP * (uint64_t)nl->store->reactor_count)
		return true;
	share = budget / 4 /
		(atomic_load_explicit(&nl->net->connections, memory_order_relaxed) + 1);
	return held + bytes <= (share < SHARE_MAX ? share : SHARE_MAX);
}

/* ---- one reactor's connections ---- */

void local_flush(struct task *task)
{
	struct net_local *nl = container_of(task, struct net_local, flush);

	nl->flush_posted = false;
	for (struct conn *c = nl->dirty, *next; c; c = next) {
		next = c->dirty_next;
		if (!next) {
			nl->dirty = NULL;
			nl->dirty_tail = &nl->dirty;
		} else {
			nl->dirty = next;
		}
		c->dirty = false;
		conn_flush(c);
	}
}

static void local_try_stop(struct net_local *nl)
{
	if (!nl->stopping || nl->conn_count > 0 || nl->tick_armed) return;
	assert(!nl->flush_posted); /* only a connection posts it, and is not freed before it ran */
	charge_flush(nl);
	blocks_release(&nl->blocks);
	while (nl->sendbufs) {
		struct sendbuf *sb = nl->sendbufs;
		nl->sendbufs = sb->next;
		free(sb);
	}
	atomic_store_explicit(
		&nl->stopped, true, memory_order_release); /* net_stop() frees from here on */
}

void local_conn_gone(struct net_local *nl)
{
	atomic_fetch_sub(&nl->net->connections, 1);
	local_try_stop(nl);
}

static void tick_done(struct io_op *op);

static void tick_arm(struct net_local *nl)
{
	uint64_t wait = list_empty(&nl->hungry) ? TICK_NS : HUNGRY_POLL_NS;

	nl->tick_armed = true;
	nl->tick.done = tick_done;
	io_timer(nl->io, &nl->tick, io_now_ns(nl->io) + wait);
}

/* Answers that nobody takes hold memory, also the cache's, for which requests of others may wait. Whoever waits, on any
 * reactor, makes all of them drop those who have not taken anything for 5 s. */
static void tick_stalled(struct net_local *nl, uint64_t now)
{
	bool waiting = !list_empty(&nl->hungry);

	list_for (n, &nl->conns)
		waiting = waiting || conn_is_waiting(container_of(n, struct conn, node), now);
	if (waiting) atomic_store_explicit(&nl->net->waiting_ns, now, memory_order_relaxed);
	if (atomic_load_explicit(&nl->net->waiting_ns, memory_order_relaxed) + 2 * TICK_NS < now)
		return;
	list_for_safe (n, tmp, &nl->conns) {
		struct conn *c = container_of(n, struct conn, node);
		if (conn_is_stalled(c, now)) conn_drop_stalled(c);
	}
}

/* Hungry connections are also fed from here: another reactor may have freed the memory. */
static void tick_done(struct io_op *op)
{
	struct net_local *nl = container_of(op, struct net_local, tick);
	uint64_t now = io_now_ns(nl->io);

	nl->tick_armed = false;
	if (nl->stopping) {
		local_try_stop(nl);
		return;
	}
	list_for_safe (n, tmp, &nl->timed) conn_tick(container_of(n, struct conn, timed), now);
	if (now - nl->stalled_ns >= TICK_NS && (nl->sending_count > 0 || nl->inflight_count > 0)) {
		nl->stalled_ns = now;
		tick_stalled(nl, now);
	}
	feed_hungry(nl);
	tick_arm(nl);
}

static void local_begin(struct task *task)
{
	struct net_local *nl = container_of(task, struct net_local, begin);

	nl->io = reactor_io(nl->reactor);
	tick_arm(nl);
}

static void local_init(struct net *net, uint32_t i)
{
	struct net_local *nl = &net->locals[i];
	struct store *store = net->store;
	uint64_t cached = store->options.request_budget / POOL_SHARE / store->reactor_count;

	nl->net = net;
	nl->store = store;
	nl->local = &store->locals[i];
	nl->reactor = store->reactors[i];
	list_init(&nl->conns);
	list_init(&nl->timed);
	list_init(&nl->hungry);
	nl->dirty_tail = &nl->dirty;
	nl->begin.fn = local_begin;
	blocks_init(&nl->blocks, cached < POOL_CACHED_MAX ? cached : POOL_CACHED_MAX);
	store->locals[i].net = nl;
}

/* ---- accepting, on reactor 0 ---- */

static void adopt_mail(struct task *task)
{
	struct conn *c = container_of(task, struct conn, task);
	struct net_local *nl = c->nl;

	if (nl->stopping) {
		conn_discard(&c);
		atomic_fetch_sub(&nl->net->connections, 1);
		return;
	}
	conn_adopt(nl, c);
}

static void refuse_full(struct net *net, int fd)
{
	uint64_t now = clock_mono_ns();

	sock_close(fd);
	if (net->full_logged_ns != 0 && now - net->full_logged_ns < TICK_NS) return;
	net->full_logged_ns = now;
	log_warn("refusing connections: the limit is reached; limit=%u", net->connections_max);
}

static void accept_done(struct io_op *op)
{
	struct listener *l = container_of(op, struct listener, op);
	struct net *net = l->net;

	if (op->res < 0) { /* the last one: cancelled, or the listener broke */
		l->accepting = false;
		if (op->res != -GRANARY_ECANCELED)
			log_error(
				"cannot accept on '%s': %s", l->address, error_text((int)op->res));
		sock_close(l->fd);
		l->fd = -1;
		return;
	}
	if (atomic_fetch_add(&net->connections, 1) >= net->connections_max) {
		atomic_fetch_sub(&net->connections, 1);
		refuse_full(net, (int)op->res);
		return;
	}
	struct conn *c = conn_new((int)op->res);
	if (!c) {
		atomic_fetch_sub(&net->connections, 1);
		sock_close((int)op->res);
		return;
	}
	c->nl = &net->locals[net->next_reactor];
	net->next_reactor = (net->next_reactor + 1) % net->store->reactor_count;
	c->task.fn = adopt_mail;
	reactor_post(c->nl->reactor, &c->task);
}

struct order { /* from the main thread to one reactor, awaited */
	struct task task;
	struct net *net;
	_Atomic bool done;
};

static void pause_ms(void)
{
	struct timespec ts = { .tv_nsec = 1000000 };
	nanosleep(&ts, NULL);
}

static void order_run(struct net *net, struct reactor *to, void (*fn)(struct task *))
{
	struct order o = { .task = { .fn = fn }, .net = net };

	reactor_post(to, &o.task);
	while (!atomic_load_explicit(&o.done, memory_order_acquire)) pause_ms();
}

static struct net *order_take(struct task *task)
{
	return container_of(task, struct order, task)->net;
}
static void order_finish(struct task *task)
{
	atomic_store_explicit(
		&container_of(task, struct order, task)->done, true, memory_order_release);
}

static void accept_order(struct task *task)
{
	struct net *net = order_take(task);
	struct io *io = reactor_io(net->store->reactors[0]);

	for (uint32_t i = 0; i < net->listener_count; i++) {
		struct listener *l = &net->listeners[i];
		l->accepting = true;
		l->op.done = accept_done;
		io_accept(io, &l->op, l->fd);
	}
	order_finish(task);
}

static void accept_stop_order(struct task *task)
{
	struct net *net = order_take(task);
	struct io *io = reactor_io(net->store->reactors[0]);

	for (uint32_t i = 0; i < net->listener_count; i++)
		if (net->listeners[i].accepting) io_cancel(io, &net->listeners[i].op);
	order_finish(task);
}

static void accept_idle_order(struct task *task)
{
	struct net *net = order_take(task);
	bool idle = true;

	for (uint32_t i = 0; i < net->listener_count; i++)
		idle = idle && !net->listeners[i].accepting;
	if (idle)
		order_finish(task);
	else
		reactor_defer(net->store->reactors[0], task);
}

/* ---- opening ---- */

static void listeners_close(struct net *net)
{
	for (uint32_t i = 0; i < net->listener_count; i++) sock_close(net->listeners[i].fd);
}

static int listen_all(struct net *net, const struct net_options *o, char *why, size_t why_cap)
{
	for (uint32_t i = 0; i < o->address_count; i++) {
		struct listener *l = &net->listeners[i];
		int err = sock_listen(o->addresses[i], &l->fd, l->address, sizeof(l->address));
		if (err < 0) {
			snprintf(why, why_cap, "cannot listen on '%s': %s", o->addresses[i],
				err == -GRANARY_ELOCKED
					? "another process does; stop it or choose another address"
				: err == -GRANARY_EINVAL
					? "not an address: HOST:PORT, [IPV6]:PORT or unix:/PATH"
					: error_text(err));
			return err;
		}
		l->net = net;
		net->listener_count++;
	}
	return 0;
}

int net_open(struct store *store, const struct net_options *options, struct net **out, char *why,
	size_t why_cap)
{
	*out = NULL;
	assert(options->address_count > 0 && options->address_count <= NET_LISTENERS_MAX);
	struct net *net = calloc(1, sizeof(*net));
	if (!net) {
		snprintf(why, why_cap, "out of memory");
		return -GRANARY_ENOMEM;
	}
	net->store = store;
	net->connections_max = options->connections_max;
	int err = listen_all(net, options, why, why_cap);
	if (err < 0) {
		listeners_close(net);
		free(net);
		return err;
	}
	for (uint32_t i = 0; i < store->reactor_count; i++) local_init(net, i);
	*out = net;
	return 0;
}

uint32_t net_address_count(const struct net *net)
{
	return net->listener_count;
}

const char *net_address(const struct net *net, uint32_t i)
{
	assert(i < net->listener_count);
	return net->listeners[i].address;
}

int net_start(struct net *net)
{
	assert(!net->started);
	for (uint32_t i = 0; i < net->store->reactor_count; i++)
		reactor_post(net->locals[i].reactor, &net->locals[i].begin);
	net->started = true;
	order_run(net, net->store->reactors[0], accept_order);
	return 0;
}

/* ---- draining and stopping ---- */

static void drain_mail(struct task *task)
{
	struct net_local *nl = container_of(task, struct net_local, drain);

	nl->draining = true;
	list_for_safe (n, tmp, &nl->conns) conn_drain(container_of(n, struct conn, node));
}

static void stop_mail(struct task *task)
{
	struct net_local *nl = container_of(task, struct net_local, stop);

	nl->stopping = true;
	list_for_safe (n, tmp, &nl->conns) conn_close(container_of(n, struct conn, node));
	if (nl->tick_armed) io_cancel(nl->io, &nl->tick);
	local_try_stop(nl);
}

static void accept_stop(struct net *net)
{
	if (!net->started) return;
	order_run(net, net->store->reactors[0], accept_stop_order);
	order_run(net, net->store->reactors[0], accept_idle_order);
}

int net_drain(struct net *net, uint64_t timeout_ns)
{
	uint64_t deadline = clock_mono_ns() + timeout_ns;

	accept_stop(net);
	atomic_store(&net->store->draining, true);
	for (uint32_t i = 0; i < net->store->reactor_count; i++) {
		net->locals[i].drain.fn = drain_mail;
		reactor_post(net->locals[i].reactor, &net->locals[i].drain);
	}
	while (atomic_load(&net->connections) > 0) {
		if (clock_mono_ns() >= deadline) return -GRANARY_ETIMEDOUT;
		pause_ms();
	}
	return 0;
}

static bool all_stopped(const struct net *net)
{
	for (uint32_t i = 0; i < net->store->reactor_count; i++)
		if (!atomic_load_explicit(&net->locals[i].stopped, memory_order_acquire))
			return false;
	return true;
}

int net_stop(struct net **np, uint64_t timeout_ns)
{
	struct net *net = *np;
	uint64_t deadline = clock_mono_ns() + timeout_ns;

	if (!net) return 0;
	if (!net->started) {
		listeners_close(net);
	} else {
		accept_stop(net);
		for (uint32_t i = 0; i < net->store->reactor_count; i++) {
			net->locals[i].stop.fn = stop_mail;
			reactor_post(net->locals[i].reactor, &net->locals[i].stop);
		}
		while (!all_stopped(net) || atomic_load(&net->connections) > 0) {
			if (clock_mono_ns() >= deadline) return -GRANARY_ETIMEDOUT;
			pause_ms();
		}
	}
	free(net);
	*np = NULL;
	return 0;
}
