/* SPDX-License-Identifier: Apache-2.0 */
/* conn.c -- the life of a connection and its receiving side; conn.h has states and invariants.
 *
 * Idle: io_recv_any(), no memory. Bytes are parsed where they lie; a small frame is copied once, into its request; of a
 * large one the rest is received into its place. When a request may not start (too many run, the queue or the memory
 * is full) the bytes at hand are put aside and nothing is received: TCP tells the sender to wait. */
#include "net/conn.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "io/sock.h"
#include "req/keys.h"
#include "req/store.h"

_Static_assert(sizeof(struct conn) <= 1024, "an idle connection holds less than 1 KiB");
_Static_assert((int)WIRE_PREAUTH_META_MAX <= (int)IO_RECV_BUF_SIZE,
	"a handshake is never received in place");

static void conn_parse(struct conn *c);
static void recv_done(struct io_op *op);
static void conn_turn(struct task *task);

/* ---- memory ---- */

void conn_charge(struct conn *c, int64_t bytes)
{
	c->held += (uint64_t)bytes;
	local_charge(c->nl, bytes);
}

void inbound_free(struct conn *c, struct inbound **in)
{
	struct inbound *b = *in;

	*in = NULL;
	if (!b) return;
	conn_charge(c, -(int64_t)b->charge);
	blocks_give(&c->nl->blocks, b->data, b->data_size);
	blocks_give(&c->nl->blocks, b, b->size);
}

/* Room for the frame whose header is known; false: no memory. */
static bool inbound_open(struct conn *c)
{
	const struct frame *f = &c->framer.frame;
	uint64_t size = sizeof(struct inbound) + f->meta_len;
	struct inbound *b = blocks_take(&c->nl->blocks, size);

	if (!b) return false;
	memset(b, 0, sizeof(*b));
	list_init(&b->node);
	b->size = size;
	b->charge = blocks_class_size(size);
	if (f->data_len > 0) {
		b->data_size = f->data_len;
		b->data = blocks_take(&c->nl->blocks, b->data_size);
		if (!b->data) {
			blocks_give(&c->nl->blocks, b, b->size);
			return false;
		}
		b->charge += blocks_class_size(b->data_size);
	}
	conn_charge(c, (int64_t)b->charge);
	c->in = b;
	framer_body(&c->framer, b->meta, b->data);
	return true;
}

/* ---- life ---- */

struct conn *conn_new(int fd)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c) return NULL;
	c->magic = CONN_MAGIC;
	c->fd = fd;
	list_init(&c->inflight);
	list_init(&c->node);
	list_init(&c->timed);
	list_init(&c->hungry);
	list_init(&c->peer.waiting);
	list_init(&c->peer.parked);
	sendq_init(&c->queue);
	return c;
}

void conn_discard(struct conn **cp)
{
	struct conn *c = *cp;

	*cp = NULL;
	sock_close(c->fd);
	c->magic = 0;
	free(c);
}

static void conn_watch(struct conn *c)
{
	if (list_empty(&c->timed)) list_push(&c->nl->timed, &c->timed);
	c->watch_ns = io_now_ns(c->nl->io);
	c->watch_bytes = 0;
}

static void conn_unwatch(struct conn *c)
{
	if (!list_empty(&c->timed)) list_remove(&c->timed);
}

/* Whole frames are to come at 1 KiB/s or faster; opening and closing have deadlines of their own. */
static void conn_receive(struct conn *c)
{
	struct framer *fr = &c->framer;
	uint8_t *at = NULL;
	size_t room = 0;

	assert(!c->recving && c->input.len == 0);
	c->recv.done = recv_done;
	c->recving = true;
	c->direct = false;
	if (c->state == CONN_OPEN) {
		if (!framer_in_frame(fr))
			conn_unwatch(c);
		else if (list_empty(&c->timed))
			conn_watch(c);
	}
	if (c->state <= CONN_OPEN && c->in && framer_missing(fr) > CONN_RECV_SMALL_MAX) {
		room = framer_room(fr, &at);
		if (room > CONN_RECV_STEP_MAX) room = CONN_RECV_STEP_MAX;
		c->direct = true;
		c->recv_want = room;
		io_recv(c->nl->io, &c->recv, c->fd, at, room);
		return;
	}
	io_recv_any(c->nl->io, &c->recv, c->fd);
}

void conn_adopt(struct net_local *nl, struct conn *c)
{
	c->nl = nl;
	c->task.fn = conn_turn;
	c->peer.ops = &conn_peer_ops;
	c->peer.local = nl->local;
	list_push(&nl->conns, &c->node);
	nl->conn_count++;
	stat_count(&nl->local->stats->connections, 1);
	stat_count(&nl->local->stats->connections_total, 1);
	sock_prepare(c->fd);
	c->peer.is_local = sock_is_unix(c->fd);
	conn_watch(c);
	if (nl->draining) {
		conn_refuse(c, -GRANARY_ESHUTDOWN, "the server is stopping");
		return;
	}
	conn_receive(c);
}

static void input_release(struct conn *c)
{
	if (c->recv_buf) io_recv_give(c->nl->io, c->recv_buf);
	free(c->stash);
	c->recv_buf = NULL;
	c->stash = NULL;
	c->input = slice_of(NULL, 0);
}

void conn_post_turn(struct conn *c)
{
	if (c->turn_posted) return;
	c->turn_posted = true;
	reactor_defer(c->nl->reactor, &c->task);
}

static void conn_drop_input(struct conn *c)
{
	input_release(c);
	c->parked = false;
	list_remove(&c->hungry);
	if (!c->direct || !c->recving)
		inbound_free(c, &c->in); /* else the kernel may still write there */
}

void conn_close(struct conn *c)
{
	if (c->state == CONN_CLOSED) return;
	c->state = CONN_CLOSED;
	c->peer.gone = true;
	conn_unwatch(c);
	conn_drop_input(c);
	sock_shutdown(c->fd);
	conn_drop_queue(c);
	if (!list_empty(&c->peer.waiting)) req_drained(&c->peer); /* they see that nobody listens */
	req_unpark(&c->peer);
	conn_post_turn(c);
}

void conn_refuse(struct conn *c, int err, const char *text)
{
	if (c->state >= CONN_CLOSING) return;
	conn_drop_input(c);
	conn_reply_error(c, OP_GOODBYE, 0, err, text);
	c->state = CONN_CLOSING;
	c->linger = err != -GRANARY_ESHUTDOWN;
	c->peer.gone = true;
	conn_watch(c);
	if (!list_empty(&c->peer.waiting)) req_drained(&c->peer);
	req_unpark(&c->peer);
	if (!c->recving)
		conn_receive(
			c); /* what still comes is thrown away: a reset would take our words with it */
}

/* True when c was freed. */
static bool conn_try_free(struct conn *c)
{
	struct net_local *nl = c->nl;

	if (c->recving || c->sending) return false;
	if (c->fd >= 0) {
		sock_close(c->fd);
		c->fd = -1;
		inbound_free(c, &c->in);
	}
	if (c->dirty || c->inflight_count > 0 || c->state != CONN_CLOSED) return false;
	if (c->opening && c->opening->conn) /* a worker has it */
		return false;
	conn_opening_free(c);
	assert(!c->in && !c->sb && !c->queue.head && !c->turn_posted);
	if (c->peer.session) session_detach(nl->store->sessions, &c->peer.session);
	if (c->peer.key) keys_unref(nl->store, c->peer.key);
	list_remove(&c->node);
	nl->conn_count--;
	stat_count(&nl->local->stats->connections, -1);
	c->magic = 0;
	free(c);
	local_conn_gone(nl);
	return true;
}

/* The loop calls it after something changed: frees what is finished, goes on parsing what was parked. */
static void conn_turn(struct task *task)
{
	struct conn *c = container_of(task, struct conn, task);

	assert(c->magic == CONN_MAGIC);
	c->turn_posted = false;
	if (c->state == CONN_CLOSED) {
		(void)conn_try_free(c);
		return;
	}
	if (c->state < CONN_CLOSING && (c->input.len > 0 || c->parked)) conn_parse(c);
	if (c->nl->draining) conn_drain(c);
}

void conn_drain(struct conn *c)
{
	bool open = c->state == CONN_OPEN;

	if (c->state >= CONN_CLOSING || c->state == CONN_ATTACHING) return;
	req_unpark(&c->peer);
	if (open && (c->inflight_count > 0 || c->queue.bytes > 0 || c->in)) return;
	conn_refuse(c, -GRANARY_ESHUTDOWN, "the server is stopping");
}

/* ---- time ---- */

/* Judges the window that ends now; true: the next one began. */
static bool watch_judge(struct conn *c)
{
	if (c->watch_bytes >= CONN_PROGRESS_BYTES_S * (CONN_PROGRESS_NS / UINT64_C(1000000000))) {
		conn_watch(c);
		return true;
	}
	conn_refuse(c, -GRANARY_ETIMEDOUT, "a frame came slower than 1 KiB/s for 30 s");
	return false;
}

/* A recv into the body tells nothing before all of it came, up to CONN_RECV_STEP_MAX: TCP knows when the last bytes
 * came, and after a window it is cancelled to see how many there are. */
static void tick_in_frame(struct conn *c, uint64_t now)
{
	bool direct = c->recving && c->direct;

	if (c->probing || now - c->watch_ns < CONN_QUIET_NS) return;
	if (direct && sock_quiet_ns(c->fd) >= (int64_t)CONN_PROGRESS_NS) {
		conn_refuse(c, -GRANARY_ETIMEDOUT, "nothing came for 30 s in the middle of a frame");
	} else if (now - c->watch_ns < CONN_PROGRESS_NS) {
		return;
	} else if (direct) {
		c->probing = true;
		io_cancel(c->nl->io, &c->recv);
	} else {
		(void)watch_judge(c);
	}
}

void conn_tick(struct conn *c, uint64_t now)
{
	if (c->state >= CONN_CLOSING) {
		if (now - c->watch_ns >= CONN_CLOSING_NS) conn_close(c);
	} else if (c->state < CONN_OPEN) {
		if (c->state != CONN_ATTACHING && now - c->watch_ns >= CONN_HANDSHAKE_NS)
			conn_refuse(c, -GRANARY_ETIMEDOUT, "authentication took longer than 10 s");
	} else if (c->parked) {
		conn_watch(c); /* it waits for us */
	} else {
		tick_in_frame(c, now);
	}
}

bool conn_is_stalled(const struct conn *c, uint64_t now)
{
	return c->sending && c->state != CONN_CLOSED && now - c->send_ns >= CONN_STALLED_NS;
}

bool conn_is_waiting(const struct conn *c, uint64_t now)
{
	if (c->sending) return false;
	list_for (n, &c->inflight) {
		const struct inbound *oldest = container_of(n, struct inbound, node);
		if (!oldest->req.is_parked) return now - oldest->began_ns >= CONN_WAITING_NS;
	}
	return false;
}

void conn_drop_stalled(struct conn *c)
{
	log_warn("closing a connection that takes no answers while others wait for memory; key=%s",
		c->peer.key ? keys_id(c->peer.key) : "");
	conn_close(c);
}

/* ---- receiving ---- */

/* May the request whose header is known not begin yet? */
static bool must_wait(struct conn *c)
{
	const struct frame *f = &c->framer.frame;
	bool hungry;

	if (c->state == CONN_ATTACHING) return true;
	if (c->state != CONN_OPEN) return false;
	if (c->inflight_count >= WIRE_INFLIGHT_MAX || c->queue.bytes >= CONN_QUEUE_MAX) return true;
	hungry = !local_has_memory(
		c->nl, c->held, (uint64_t)f->meta_len + f->data_len + sizeof(struct inbound));
	if (hungry && list_empty(&c->hungry)) list_push(&c->nl->hungry, &c->hungry);
	return hungry;
}

/* Puts the input aside, so that io's buffer serves others. */
static void conn_park(struct conn *c)
{
	c->parked = true;
	if (!c->recv_buf) return;
	if (c->input.len > 0) {
		uint8_t *stash = malloc(c->input.len);
		if (!stash) {
			conn_close(c);
			return;
		}
		memcpy(stash, c->input.p, c->input.len);
		c->stash = stash;
		c->input.p = stash;
	}
	io_recv_give(c->nl->io, c->recv_buf);
	c->recv_buf = NULL;
}

static const char *refusal_text(int err, const struct conn *c)
{
	if (err == -GRANARY_EVERSION)
		return "a frame of another protocol version; this server speaks version 1";
	if (err != -GRANARY_ETOOBIG)
		return "not a frame of this protocol: wrong magic, header checksum, request id or "
		       "flags";
	return c->state < CONN_OPEN
		       ? "a frame above the cap before authentication: meta 4,096 bytes, no data"
		       : "a frame above the caps of HELLO: meta 8 MiB, data 16 MiB";
}

/* Header known and allowed, body room there: true. False: more bytes, parked, or refused. */
static bool conn_frame_begin(struct conn *c)
{
	static const struct framer_caps before = { WIRE_PREAUTH_META_MAX, 0 };
	static const struct framer_caps after = { WIRE_META_MAX, WIRE_DATA_MAX };
	int res =
		framer_header(&c->framer, &c->input, c->state < CONN_ATTACHING ? &before : &after);

	if (res == 0) return false;
	if (res < 0) {
		conn_refuse(c, res, refusal_text(res, c));
		return false;
	}
	if (must_wait(c)) {
		conn_park(c);
		return false;
	}
	if (!inbound_open(c)) {
		conn_refuse(c, -GRANARY_ENOMEM, "out of memory for a frame");
		return false;
	}
	return true;
}

static void conn_parse(struct conn *c)
{
	uint32_t frames = 0;

	c->parked = false;
	list_remove(&c->hungry);
	while (c->state < CONN_CLOSING) {
		if (!c->in) {
			if (c->input.len > 0 && frames++ == CONN_FRAMES_A_TURN) {
				conn_post_turn(c);
				return;
			}
			if (!conn_frame_begin(c)) break;
		}
		if (!framer_fill(&c->framer, &c->input)) break;
		conn_dispatch(c);
	}
	if (c->state >= CONN_CLOSING || c->parked) return;
	input_release(c);
	conn_receive(c);
}

void conn_retry(struct conn *c)
{
	list_remove(&c->hungry);
	conn_post_turn(c);
}

/* Nothing is wanted any more; what comes is read and thrown away until the peer closes or time is up. */
static void recv_after_end(struct conn *c, const struct io_op *op, bool probed)
{
	if (op->recv_buf) io_recv_give(c->nl->io, op->recv_buf);
	inbound_free(c, &c->in);
	if (c->state == CONN_CLOSING && (op->res > 0 || probed)) {
		conn_receive(c);
		return;
	}
	conn_close(c);
	conn_post_turn(c);
}

/* What came of a recv into the body that was cancelled to know just that. Too little, or lost by the kernel, ends the
 * connection; else the body goes on where it is. */
static void recv_probed(struct conn *c, const struct io_op *op)
{
	c->watch_bytes = op->done_len;
	if (!watch_judge(c)) return;
	framer_received(&c->framer, op->done_len);
	conn_parse(c);
}

static void recv_done(struct io_op *op)
{
	struct conn *c = container_of(op, struct conn, recv);
	bool direct = c->direct, probed = c->probing && op->res == -GRANARY_ECANCELED;

	assert(c->magic == CONN_MAGIC);
	c->recving = false;
	c->direct = false;
	c->probing = false;
	if (c->state >= CONN_CLOSING) {
		recv_after_end(c, op, probed);
		return;
	}
	if (probed) {
		recv_probed(c, op);
		return;
	}
	if (op->res <= 0 ||
		(direct && (size_t)op->res < c->recv_want)) { /* gone, perhaps in mid-frame */
		if (op->recv_buf) io_recv_give(c->nl->io, op->recv_buf);
		conn_close(c);
		return;
	}
	c->watch_bytes += (uint64_t)op->res;
	if (direct) {
		framer_received(&c->framer, (size_t)op->res);
		conn_watch(c);
	} else {
		c->recv_buf = op->recv_buf;
		c->input = slice_of(op->recv_buf, (size_t)op->res);
	}
	conn_parse(c);
}
