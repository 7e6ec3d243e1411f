/* SPDX-License-Identifier: Apache-2.0 */
/* conn.c -- one connection: which host, connecting, and what becomes of its requests when it is lost.
 *
 * DOWN       -> CONNECTING  conn_tick()       requests wait and the pause is over; hosts and their addresses in turn
 * CONNECTING -> HELLO       conn_ready_io()   connected; handshake.c goes on
 * HELLO      -> AUTH -> READY  handshake.c
 * any        -> DOWN        conn_down()       its requests go back to io.ready or fail */
#include "client_priv.h"

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/loopback.h"
#include "net.h"

void conn_init(struct conn *k, struct granary_client *c, uint32_t index)
{
	k->client = c;
	k->index = index;
	k->fd = -1;
	k->state = CONN_DOWN;
	list_init(&k->tx);
	list_init(&k->to_send);
	list_init(&k->flight);
}

/* Only what was given up by its operation can still be in flight here. */
void conn_release(struct conn *k)
{
	for (struct list *at; (at = list_pop(&k->flight)) != NULL;)
		rpc_free(container_of(at, struct rpc, link));
	for (struct list *at; (at = list_pop(&k->tx)) != NULL;)
		rpc_free(container_of(at, struct rpc, link));
	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
	passed_drop(&k->passed);
	rx_release(&k->rx);
}

static const struct granary_host *conn_host(const struct conn *k)
{
	return &k->client->config.hosts[k->host_at];
}

/* ---- addresses ---- */

static bool address_add(struct conn *k, const void *address, size_t len)
{
	enum { ADDRESSES_MAX = sizeof(k->addresses) / sizeof(k->addresses[0]) };

	if (k->addresses_count == ADDRESSES_MAX || len > sizeof(k->addresses[0].bytes))
		return false;
	memcpy(k->addresses[k->addresses_count].bytes, address, len);
	k->addresses[k->addresses_count++].len = (uint32_t)len;
	return true;
}

static int resolve_unix(struct conn *k, const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(un.sun_path))
		return -GRANARY_ENAME;
	memcpy(un.sun_path, path, strlen(path) + 1);
	return address_add(k, &un, sizeof(un)) ? 0 : -GRANARY_ENAME;
}

/* Looking up a name may take as long as the system's resolver takes; it happens when a connection is opened only. */
static int resolve(struct conn *k)
{
	const struct granary_host *h = conn_host(k);
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
	struct addrinfo *found;
	char port[8];

	k->addresses_count = k->address_at = 0;
	if (h->is_unix)
		return resolve_unix(k, h->name);
	snprintf(port, sizeof(port), "%u", h->port);
	int failed = getaddrinfo(h->name, port, &hints, &found);
	if (failed) {
		snprintf(k->why, sizeof(k->why), "cannot look up host '%.200s': %s", h->name, gai_strerror(failed));
		return -GRANARY_EUNREACHABLE;
	}
	for (const struct addrinfo *a = found; a; a = a->ai_next)
		address_add(k, a->ai_addr, a->ai_addrlen);
	freeaddrinfo(found);
	return k->addresses_count > 0 ? 0 : -GRANARY_EUNREACHABLE;
}

/* ---- connecting ---- */

static void socket_options(int fd)
{
	int on = 1, idle_s = 10, interval_s = 5, count = 3;
	unsigned unacked_ms = 30000;

	/* Unix sockets know none of these: that is fine. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked_ms, sizeof(unacked_ms));
}

static int connect_try(struct conn *k)
{
	union { struct sockaddr any; struct sockaddr_storage storage; } a;
	struct io *io = &k->client->io;
	uint32_t len = k->addresses[k->address_at].len;

	memcpy(&a, k->addresses[k->address_at].bytes, len);
	k->fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (k->fd < 0)
		return errno;
	socket_options(k->fd);
	if (address_is_loopback(&a.any))
		setsockopt(k->fd, IPPROTO_TCP, TCP_CONGESTION, LOOPBACK_CONGESTION, sizeof(LOOPBACK_CONGESTION) - 1);
	if (connect(k->fd, &a.any, len) < 0 && errno != EINPROGRESS)
		return errno;
	if (io->engine->watch(io->net, k->fd, k, true, false) < 0)
		return ENOMEM;
	k->want_write = true;
	k->state = CONN_CONNECTING;
	return 0;
}

static void connect_failed(struct conn *k, int posix)
{
	const struct granary_host *h = conn_host(k);
	char port[8] = "";

	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
	k->state = CONN_DOWN;
	if (++k->address_at < k->addresses_count) {
		k->next_try_ns = k->client->io.now_ns;
		return;
	}
	if (!h->is_unix)
		snprintf(port, sizeof(port), ":%u", h->port);
	conn_down(k, -GRANARY_EUNREACHABLE, "cannot connect to '%.200s%s': %s", h->name, port, strerror(posix));
}

static void connect_begin(struct conn *k)
{
	struct granary_client *c = k->client;
	int posix;

	if (c->io.conns[0].state == CONN_READY)
		k->host_at = c->io.conns[0].host_at; /* one session, one server */
	if (k->address_at >= k->addresses_count) {
		int err = resolve(k);
		if (err < 0) {
			conn_down(k, err, "%s", k->why[0] ? k->why : "the path of the Unix socket is too long");
			return;
		}
		k->deadline_ns = deadline_after(c->io.now_ns, c->config.connect_timeout_ms);
	}
	k->generation = ++c->io.generation;
	k->broken = false;
	posix = connect_try(k);
	if (posix != 0)
		connect_failed(k, posix);
}

static void connect_done(struct conn *k)
{
	int posix = 0;
	socklen_t len = sizeof(posix);

	if (getsockopt(k->fd, SOL_SOCKET, SO_ERROR, &posix, &len) < 0)
		posix = errno;
	if (posix != 0) {
		k->client->io.engine->unwatch(k->client->io.net, k->fd);
		connect_failed(k, posix);
		return;
	}
	int err = rx_init(&k->rx);
	if (err == 0)
		err = handshake_start(k);
	if (err < 0)
		conn_down(k, err, "cannot begin to talk: %s", error_text(err));
}

/* There is work, and this connection may help: the first one makes the session, the others join it. */
static bool conn_wanted(const struct conn *k)
{
	const struct granary_client *c = k->client;
	/* A server that was restarted waits for what is kept, or open. */
	bool work = !list_empty(&c->io.ready) || c->io.unstable.is_used || files_are_used(c);

	for (uint32_t i = 0; i < c->config.connections && !work; i++)
		work = c->io.conns[i].flight_count > 0;
	return work && (k->index == 0 || c->io.session.id != 0);
}

uint64_t conn_next_ns(const struct conn *k)
{
	if (k->state == CONN_DOWN)
		return conn_wanted(k) ? k->next_try_ns : NEVER_NS;
	return k->state == CONN_READY ? NEVER_NS : k->deadline_ns;
}

void conn_tick(struct conn *k)
{
	struct io *io = &k->client->io;

	if (k->broken && k->state != CONN_DOWN)
		conn_down(k, -GRANARY_ECLOSED, "the connection was given up");
	else if (k->state == CONN_DOWN && conn_wanted(k) && k->next_try_ns <= io->now_ns)
		connect_begin(k);
	else if (k->state != CONN_DOWN && k->state != CONN_READY && k->deadline_ns <= io->now_ns)
		conn_down(k, -GRANARY_EUNREACHABLE, "'%.200s' did not answer within %u ms", conn_host(k)->name,
			k->client->config.connect_timeout_ms);
}

/* ---- losing it ---- */

static void conn_give_back(struct conn *k, int err)
{
	struct io *io = &k->client->io;
	struct list lost, later;

	list_init(&lost);
	list_init(&later);
	list_for(at, &k->flight)
		container_of(at, struct rpc, link)->was_sent = true;
	if (!list_empty(&k->tx) && k->tx_at > 0)
		container_of(k->tx.next, struct rpc, link)->was_sent = true;
	list_splice(&lost, &k->flight);
	list_splice(&lost, &k->tx);
	list_for(at, &lost) {
		struct rpc *r = container_of(at, struct rpc, link);
		r->conn = NULL;
		r->state = RPC_IDLE;
	}
	memset(k->slots, 0, sizeof(k->slots));
	k->flight_count = 0;
	k->tx_at = 0;
	list_splice(&later, &io->ready); /* what was first stays first */
	for (struct list *at; (at = list_pop(&lost)) != NULL;)
		rpc_lost(container_of(at, struct rpc, link), err, k->why);
	list_splice(&io->ready, &later);
}

/* Nobody could be reached: each request that waits has one try less; an error that will not go away fails them all. */
static void conn_tell_waiting(struct conn *k, int err)
{
	struct io *io = &k->client->io;
	struct list waiting;

	list_init(&waiting);
	list_splice(&waiting, &io->ready);
	for (struct list *at; (at = list_pop(&waiting)) != NULL;) {
		struct rpc *r = container_of(at, struct rpc, link);
		if (!r->kind->is_patient &&
			(error_class(err) == ERROR_FINAL || r->attempts >= k->client->config.retries_max)) {
			op_fail(r->op, err, "%s", k->why);
			continue;
		}
		r->attempts++;
		list_push(&io->ready, &r->link);
	}
}

static void conn_schedule(struct conn *k, int err, bool was_ready)
{
	struct granary_client *c = k->client;

	k->address_at = k->addresses_count = 0;
	k->next_try_ns = c->io.now_ns;
	if (was_ready) {
		k->hosts_tried = 0;
		return;
	}
	k->host_at = (k->host_at + 1) % c->config.hosts_count;
	if (++k->hosts_tried < c->config.hosts_count && error_class(err) != ERROR_FINAL)
		return;
	k->hosts_tried = 0;
	k->next_try_ns += backoff_ns(&c->io.rng, k->backoff++);
	bool others = false;
	for (uint32_t i = 0; i < c->config.connections; i++)
		others = others || c->io.conns[i].state == CONN_READY;
	if (!others)
		conn_tell_waiting(k, err);
}

void conn_down(struct conn *k, int err, const char *fmt, ...)
{
	struct granary_client *c = k->client;
	bool was_ready = k->state == CONN_READY;
	char why[ERROR_TEXT_SIZE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	if (k->fd >= 0) {
		if (k->state != CONN_DOWN)
			c->io.engine->unwatch(c->io.net, k->fd);
		close(k->fd);
	}
	k->fd = -1;
	k->state = CONN_DOWN;
	k->want_write = k->broken = false;
	memcpy(k->why, why, sizeof(k->why));
	memcpy(c->io.why, why, sizeof(c->io.why));
	rx_reset(&k->rx);
	passed_drop(&k->passed);
	local_lost(c);
	if (was_ready)
		atomic_fetch_add_explicit(&c->counters.reconnects, 1, memory_order_relaxed);
	conn_give_back(k, err);
	conn_schedule(k, err, was_ready);
}

/* ---- readiness ---- */

void conn_want_write(struct conn *k, bool on)
{
	if (k->want_write == on || k->fd < 0)
		return;
	k->want_write = on;
	k->client->io.engine->watch(k->client->io.net, k->fd, k, on, true);
}

static int conn_receive(struct conn *k)
{
	int err = rx_read(k);

	if (err == -GRANARY_EAGAIN)
		return 0;
	if (err < 0 && k->state != CONN_DOWN && k->fd >= 0)
		conn_down(k, err, "%s", k->why[0] ? k->why : error_text(err));
	return err;
}

void conn_ready_io(struct conn *k, bool readable, bool writable)
{
	int err = 0;

	if (k->state == CONN_DOWN)
		return;
	if (k->state == CONN_CONNECTING) {
		if (writable)
			connect_done(k);
		return;
	}
	k->why[0] = '\0';
	if (readable)
		err = conn_receive(k);
	if (err < 0 || k->state == CONN_DOWN)
		return;
	if (writable || !list_empty(&k->tx))
		err = k->broken ? 0 : tx_flush(k);
	if (err < 0)
		conn_down(k, err, "sending failed: %s", error_text(err));
}
