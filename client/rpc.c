/* SPDX-License-Identifier: Apache-2.0 */
/* rpc.c -- the life of a request.
 *
 * READY  -> TX      rpc_dispatch()  encoded, has a sequence (mutations), a connection and a slot there
 * TX     -> FLIGHT  tx_flush()      all of it is sent
 * FLIGHT -> (freed) rpc_end()       answered
 * any    -> READY   retry.c         the connection was lost, or the server asked for patience
 * any    -> (freed) rpc_drop()      its operation gave up; one in flight stays, without operation, until it is
 * answered */
#include "file_priv.h"

#include <stdlib.h>

enum { REQUEST_SLOT_BITS = 16 };

static const struct rpc_kind rpc_given_up = { .wire_op = 0 };

void *rpc_new(size_t size, const struct rpc_kind *kind, struct granary_op *op)
{
	struct rpc *r = calloc(1, size);

	if (!r)
		return NULL;
	r->kind = kind;
	r->wire_op = kind->wire_op;
	r->op = op;
	list_init(&r->link);
	list_init(&r->seq_link);
	list_push(&op->rpcs, &r->op_link);
	return r;
}

void rpc_queue(struct rpc *r)
{
	r->state = RPC_READY;
	list_push(&r->op->client->io.ready, &r->link);
}

/* Off its list and its slot. A request half sent leaves a connection that can only be closed. */
static void rpc_detach(struct rpc *r)
{
	struct conn *k = r->conn;

	if (k) {
		if (r->state == RPC_TX && k->tx.next == &r->link && k->tx_at > 0)
			k->broken = true;
		k->slots[(r->request & ((1 << REQUEST_SLOT_BITS) - 1)) - 1] = NULL;
		k->flight_count--;
		rx_abandon(&k->rx, r);
	}
	list_remove(&r->link);
	r->conn = NULL;
	r->state = RPC_IDLE;
}

void rpc_free(struct rpc *r)
{
	if (r->kind->free)
		r->kind->free(r);
	free(r->out);
	free(r->answer);
	free(r->meta);
	free(r);
}

void rpc_end(struct rpc *r)
{
	struct granary_op *op = r->op;

	session_settle(r);
	rpc_detach(r);
	list_remove(&r->op_link);
	rpc_free(r);
	op_advance(op);
}

void rpc_drop(struct rpc *r)
{
	session_settle(r);
	list_remove(&r->op_link);
	if (r->state != RPC_FLIGHT) {
		rpc_detach(r);
		rpc_free(r);
		return;
	}
	rx_abandon(&r->conn->rx, r);
	if (r->kind->free)
		r->kind->free(r);
	r->kind = &rpc_given_up;
	r->op = NULL;
}

/* ---- encoding ---- */

int rpc_encode(struct rpc *r)
{
	struct granary_op *op = r->op;
	size_t cap = WIRE_HEADER_SIZE + 2 + GRANARY_BUCKET_LEN_MAX + 4 * 8 + r->kind->body_size(r);
	int err = r->kind->mutation && op->file ? file_fence(op->file, &r->fence) : 0;

	if (err < 0)
		return err;
	free(r->out);
	r->data = NULL;
	r->data_count = r->data_len = 0;
	r->out = malloc(cap);
	if (!r->out)
		return -GRANARY_ENOMEM;
	struct wr w = wr_of(r->out + WIRE_HEADER_SIZE, cap - WIRE_HEADER_SIZE);
	if (!r->kind->plain)
		wr_bytes16(&w, slice_str(op->bucket));
	if (r->kind->mutation) {
		wr_u64(&w, r->sequence);
		wr_u64(&w, 0);
		wr_u64(&w, session_seen(op->client));
		if (r->fence != 0)
			wr_u64(&w, r->fence);
	}
	err = r->kind->encode(r, &w);
	if (err < 0)
		return err;
	if (!wr_ok(&w))
		return -GRANARY_ENAME;
	r->out_len = WIRE_HEADER_SIZE + wr_len(&w);
	return err;
}

static uint16_t rpc_flags(const struct rpc *r)
{
	if (r->kind->is_replay)
		return FRAME_RESENT | FRAME_REPLAY | FRAME_UNSTABLE;
	if (!r->kind->mutation)
		return 0;
	if (r->fence != 0) /* not sent again long after its lock went: durable when it is answered */
		return (uint16_t)(FRAME_FENCED | (r->was_sent ? FRAME_RESENT : 0));
	return (r->was_sent ? FRAME_RESENT : 0) |
		(r->op->unstable && unstable_may_ask(r->op->client) ? FRAME_UNSTABLE : 0);
}

static void rpc_seal(struct rpc *r)
{
	size_t meta_len = r->out_len - WIRE_HEADER_SIZE;
	struct frame f = {
		.op = r->wire_op,
		.flags = rpc_flags(r),
		.meta_len = (uint32_t)meta_len,
		.data_len = r->data_len,
		.request = r->request,
		.meta_crc = meta_len > 0 ? crc32c(0, r->out + WIRE_HEADER_SIZE, meta_len) : 0,
	};

	frame_encode(&f, r->out);
}

/* ---- handing requests to connections ---- */

static bool conn_has_room(const struct conn *k)
{
	return k->state == CONN_READY && !k->broken && k->flight_count < k->flight_max;
}

static struct conn *conn_for(struct granary_client *c, struct rpc *r)
{
	struct conn *best = NULL;

	if (r->pin && r->pin->conn && r->pin->generation == r->pin->conn->generation &&
		r->pin->conn->state == CONN_READY && !r->pin->conn->broken)
		return conn_has_room(r->pin->conn) ? r->pin->conn : NULL;
	for (uint32_t i = 0; i < c->config.connections && (!best || best->flight_count > 0); i++) {
		struct conn *k = &c->io.conns[(c->io.conn_hint + i) % c->config.connections];
		if (conn_has_room(k) && (!best || k->flight_count < best->flight_count))
			best = k;
	}
	if (best && r->pin) {
		r->pin->conn = best;
		r->pin->generation = best->generation;
	}
	return best;
}

static void rpc_take_slot(struct rpc *r, struct conn *k)
{
	while (k->slots[k->slot_hint])
		k->slot_hint = (k->slot_hint + 1) % CONN_FLIGHT_MAX;
	k->slots[k->slot_hint] = r;
	k->flight_count++;
	k->client->io.conn_hint = k->index + 1;
	if (list_empty(&k->to_send))
		list_push(&k->client->io.to_send, &k->to_send);
	k->requests_count++;
	r->request = k->requests_count << REQUEST_SLOT_BITS | (k->slot_hint + 1);
	r->conn = k;
	if (!r->op->error[0])
		r->op->request = r->request;
	r->state = RPC_TX;
	list_remove(&r->link);
	list_push(&k->tx, &r->link);
}

static void rpc_give(struct granary_client *c, struct rpc *r, struct conn *k)
{
	if (r->kind->mutation && r->sequence == 0)
		session_assign(c, r);
	int err = rpc_encode(r);
	if (err == 0 && (r->out_len - WIRE_HEADER_SIZE > k->meta_max || r->data_len > k->data_max))
		err = -GRANARY_ETOOBIG;
	if (err == RPC_AGAIN) { /* nothing is left to ask */
		rpc_end(r);
		return;
	}
	if (err < 0) {
		rpc_failed(r, err, slice_of(NULL, 0));
		return;
	}
	rpc_take_slot(r, k);
	rpc_seal(r);
	r->op->sent = true;
	atomic_fetch_add_explicit(&c->counters.requests, 1, memory_order_relaxed);
}

void rpc_dispatch(struct granary_client *c)
{
	struct io *io = &c->io;
	struct list waiting;

	groups_turn(c);
	unstable_turn(c);
	files_turn(c);
	local_turn(c);
	io->next_retry_ns = NEVER_NS;
	list_init(&waiting);
	for (struct list *at; (at = list_pop(&io->ready)) != NULL;) {
		struct rpc *r = container_of(at, struct rpc, link);
		bool held = ((r->kind->mutation || r->kind->in_order) && io->unstable.is_replaying) ||
			    files_hold(c, r);
		struct conn *k = r->not_before_ns <= io->now_ns && !held ? conn_for(c, r) : NULL;
		if (r->not_before_ns > io->now_ns && r->not_before_ns < io->next_retry_ns)
			io->next_retry_ns = r->not_before_ns;
		if (k)
			rpc_give(c, r, k);
		else
			list_push(&waiting, &r->link);
	}
	list_splice(&io->ready, &waiting);
	for (struct list *at; (at = list_pop(&io->to_send)) != NULL;) {
		struct conn *k = container_of(at, struct conn, to_send);
		if (k->state == CONN_READY && !list_empty(&k->tx) && !k->want_write && !k->broken) {
			int err = tx_flush(k);
			if (err < 0)
				conn_down(k, err, "sending failed: %s", error_text(err));
		}
	}
}

/* ---- answers ---- */

static void rpc_again(struct rpc *r, int how)
{
	rpc_detach(r);
	if (how == RPC_REPEAT)
		rpc_queue(r);
	else
		rpc_failed(r, -GRANARY_EAGAIN, slice_of(NULL, 0));
}

void rpc_answered(struct rpc *r, const struct frame *f, struct slice meta)
{
	bool last = f->flags & FRAME_LAST;

	if (!r->op) {
		if (last) {
			rpc_detach(r);
			rpc_free(r);
		}
		return;
	}
	if (f->status != 0) {
		r->op->request = r->request;
		if (r->fence != 0 && -(int)f->status == -GRANARY_ESTALE)
			file_was_fenced(r->op->file);
		rpc_detach(r);
		rpc_failed(r, -(int)f->status, error_meta(meta));
		return;
	}
	struct conn *k = r->conn;
	r->is_unstable = f->flags & FRAME_UNSTABLE;
	bool failed = r->op->error[0] != '\0';
	int err = r->kind->frame ? r->kind->frame(r, &k->rx) : 0;
	if (err == 0 && last && r->is_unstable && r->kind->mutation)
		err = unstable_keep(r, &meta);
	if (err == 0 && last)
		err = r->kind->answer(r, meta, slice_of(r->answer, r->answer_len));
	if (err < 0 || (!failed && r->op->error[0]))
		r->op->request = r->request;
	if (err < 0) {
		k->broken = k->broken || err == -GRANARY_EPROTO;
		if (last)
			rpc_detach(r);
		if (r->kind->is_patient) {
			r->kind->failed(r, err);
			return;
		}
		op_fail(r->op, err, "the server's answer to a request of kind %u makes no sense", f->op);
	} else if (err > 0) {
		rpc_again(r, err);
	} else if (last) {
		rpc_end(r);
	}
}
