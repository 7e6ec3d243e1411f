/* SPDX-License-Identifier: Apache-2.0 */
/* conn_send.c -- the sending side of a connection: answers queue up, and at the end of the reactor's
 * turn one send takes what is there; while it runs the next gathers. */
#include "net/conn.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "io/sock.h"

static void send_done(struct io_op *op);

/* ---- answers of our own ---- */

struct reply {
	struct answer answer;
	uint8_t meta[];
};

static void reply_released(struct answer *a)
{
	free(container_of(a, struct reply, answer));
}

void conn_reply(struct conn *c, uint8_t op, uint64_t request, int err, struct slice meta)
{
	struct reply *r = calloc(1, sizeof(*r) + meta.len);

	if (!r) return;
	if (meta.len > 0) memcpy(r->meta, meta.p, meta.len);
	r->answer = (struct answer){
		.request = request,
		.op = op,
		.flags = FRAME_LAST,
		.status = (uint16_t)-err,
		.meta = r->meta,
		.meta_len = (uint32_t)meta.len,
		.memory = sizeof(*r) + meta.len,
		.released = reply_released,
	};
	conn_answer(c, &r->answer);
}

void conn_reply_error(struct conn *c, uint8_t op, uint64_t request, int err, const char *text)
{
	uint8_t meta[CONN_TEXT_MAX + 2];
	struct wr w = wr_of(meta, sizeof(meta));
	size_t len = strnlen(text, CONN_TEXT_MAX);

	wr_bytes16(&w, slice_of(text, len));
	conn_reply(c, op, request, err, slice_of(meta, wr_len(&w)));
}

/* ---- the queue ---- */

static void conn_mark_dirty(struct conn *c)
{
	struct net_local *nl = c->nl;

	if (c->dirty) return;
	c->dirty = true;
	c->dirty_next = NULL;
	*nl->dirty_tail = c;
	nl->dirty_tail = &c->dirty_next;
	if (nl->flush_posted) return;
	nl->flush_posted = true;
	nl->flush.fn = local_flush;
	reactor_defer(nl->reactor, &nl->flush);
}

/* The data of a READ lies in the cache's memory, which has a budget of its own. */
static int64_t answer_charge(const struct answer *a)
{
	return (int64_t)(a->op == OP_READ && a->memory > a->data_len ? a->memory - a->data_len
								     : a->memory);
}

/* Never released from inside: the request that answers may still look at what it handed over. */
void conn_answer(struct conn *c, struct answer *a)
{
	sendq_push(&c->queue, a);
	conn_charge(c, answer_charge(a));
	if (!c->sending) conn_mark_dirty(c);
}

static void answers_release(struct conn *c, struct answer *list)
{
	while (list) {
		struct answer *a = list;
		list = a->next;
		conn_charge(c, -answer_charge(a));
		a->released(a);
	}
}

void conn_drop_queue(struct conn *c)
{
	answers_release(c, sendq_drop(&c->queue));
}

static struct sendbuf *sendbuf_take(struct net_local *nl)
{
	struct sendbuf *sb = nl->sendbufs;

	if (!sb) return malloc(sizeof(*sb));
	nl->sendbufs = sb->next;
	return sb;
}

static void sendbuf_give(struct conn *c)
{
	if (!c->sb) return;
	c->sb->next = c->nl->sendbufs;
	c->nl->sendbufs = c->sb;
	c->sb = NULL;
}

/* Starts the next send, or drops what nobody will take. */
void conn_flush(struct conn *c)
{
	uint32_t iovs;

	if (c->state == CONN_CLOSED) {
		conn_drop_queue(c);
		conn_post_turn(c);
		return;
	}
	if (c->sending) return;
	if (!c->queue.head) {
		sendbuf_give(c);
		if (c->state == CONN_CLOSING && c->linger)
			sock_end(c->fd);
		else if (c->state == CONN_CLOSING)
			conn_close(c);
		return;
	}
	if (!c->sb) c->sb = sendbuf_take(c->nl);
	if (!c->sb) {
		conn_close(c);
		return;
	}
	iovs = sendq_build(&c->queue, c->sb);
	assert(iovs > 0);
	c->sending = true;
	c->nl->sending_count++;
	c->send.done = send_done;
	c->send_ns = io_now_ns(c->nl->io);
	io_send_passing(c->nl->io, &c->send, c->fd, c->sb->iov, iovs, c->sb->control_len > 0 ? c->sb->control : NULL,
		c->sb->control_len);
}

static void send_done(struct io_op *op)
{
	struct conn *c = container_of(op, struct conn, send);
	bool was_full = c->queue.bytes >= CONN_QUEUE_LOW;

	assert(c->magic == CONN_MAGIC);
	c->sending = false;
	c->nl->sending_count--;
	answers_release(c, sendq_sent(&c->queue));
	if (op->res < 0) conn_close(c);
	if (c->state == CONN_CLOSED) {
		conn_drop_queue(c);
		sendbuf_give(c);
		conn_post_turn(c);
		return;
	}
	conn_flush(c);
	if (was_full && c->queue.bytes < CONN_QUEUE_LOW && !list_empty(&c->peer.waiting))
		req_drained(&c->peer);
	if (c->parked || c->nl->draining) conn_post_turn(c);
}

/* ---- what requests see ---- */

static struct conn *conn_of(const struct req_peer *peer)
{
	return (struct conn *)(uintptr_t)((const char *)peer - offsetof(struct conn, peer));
}

static void peer_answer(struct req_peer *peer, struct answer *a)
{
	struct conn *c = conn_of(peer);

	assert(c->magic == CONN_MAGIC);
	conn_answer(c, a);
}

static uint64_t peer_queued(const struct req_peer *peer)
{
	return conn_of(peer)->queue.bytes;
}

static void peer_finished(struct req_peer *peer, struct req *r)
{
	struct conn *c = conn_of(peer);
	struct inbound *in = r->front;

	assert(c->magic == CONN_MAGIC && c->inflight_count > 0 && &in->req == r);
	list_remove(&in->node);
	c->inflight_count--;
	c->nl->inflight_count--;
	inbound_free(c, &in);
	if (c->parked || c->state == CONN_CLOSED || c->nl->draining) conn_post_turn(c);
}

const struct req_peer_ops conn_peer_ops = {
	.answer = peer_answer,
	.finished = peer_finished,
	.queued = peer_queued,
};
