/* SPDX-License-Identifier: Apache-2.0 */
/* conn_dispatch.c -- what a whole frame means: the two messages that open a connection, ping, goodbye, requests. */
#include "net/conn.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/name.h"
#include "common/rand.h"
#include "io/sock.h"
#include "req/keys.h"
#include "req/store.h"

static void frame_free(struct conn *c)
{
	inbound_free(c, &c->in);
	framer_reset(&c->framer);
}

/* The answer to an opening message, then the end. */
static void conn_fail_opening(
	struct conn *c, uint8_t op, uint64_t request, int err, const char *text)
{
	conn_reply_error(c, op, request, err, text);
	conn_refuse(c, err, text);
}

void conn_opening_free(struct conn *c)
{
	struct opening *o = c->opening;

	if (!o) return;
	transcript_release(&o->transcript);
	if (o->session) session_detach(c->nl->store->sessions, &o->session);
	if (o->key) keys_unref(c->nl->store, o->key);
	free(o);
	c->opening = NULL;
}

/* ---- HELLO ---- */

static void hello_handle(struct conn *c, const struct frame *f, struct slice meta)
{
	struct store *store = c->nl->store;
	struct hello hello;
	struct hello_answer answer = { .store_id = store->store_id, .boot_id = store->boot_id };
	uint8_t bytes[HELLO_ANSWER_MAX];
	const char *why;
	int err = hello_parse(meta, &hello, &why);

	if (err < 0) {
		conn_fail_opening(c, OP_HELLO, f->request, err, why);
		return;
	}
	rand_bytes(answer.nonce, sizeof(answer.nonce));
	answer.store_time_ns = keys_store_time(store);
	answer.server = "granaryd " GRANARY_VERSION_STRING;
	struct slice reply = slice_of(bytes, hello_answer_encode(&answer, bytes));
	struct opening *o = calloc(1, sizeof(*o));
	c->opening = o;
	if (!o || transcript_init(&o->transcript, meta, reply) < 0) {
		conn_fail_opening(c, OP_HELLO, f->request, -GRANARY_ENOMEM, "out of memory");
		return;
	}
	o->session_id = hello.session;
	o->data_cap = hello.data_cap < WIRE_DATA_MAX ? hello.data_cap : WIRE_DATA_MAX;
	o->key = keys_ref(store, hello.key_id);
	c->state = CONN_AUTH;
	conn_reply(c, OP_HELLO, f->request, 0, reply);
}

/* ---- AUTH ---- */

static void auth_failed(struct conn *c, uint64_t request)
{
	struct net_local *nl = c->nl;
	uint64_t now = io_now_ns(nl->io);

	stat_count(&nl->local->stats->auth_failures, 1);
	nl->auth_unlogged++;
	if (nl->auth_logged_ns == 0 || now - nl->auth_logged_ns >= UINT64_C(1000000000)) {
		log_warn(
			"authentication failed: unknown access key or wrong secret; times=%" PRIu32,
			nl->auth_unlogged);
		nl->auth_logged_ns = now;
		nl->auth_unlogged = 0;
	}
	conn_fail_opening(
		c, OP_AUTH, request, -GRANARY_EAUTH, "unknown access key or wrong secret");
}

/* Who came over a Unix socket, as the kernel says it. */
static void peer_log(const struct conn *c)
{
	struct sock_peer peer;

	if (c->peer.is_local && sock_peer_get(c->fd, &peer))
		log_info("a process of this host logged in; key=%s pid=%" PRId64 " uid=%" PRIu32 " gid=%" PRIu32,
			keys_id(c->peer.key), peer.pid, peer.uid, peer.gid);
}

/* On the reactor: the session is known, or not. */
static void attach_done(struct conn *c)
{
	struct opening *o = c->opening;
	uint8_t bytes[AUTH_ANSWER_SIZE];
	int err = o->err;

	if (c->state != CONN_ATTACHING) { /* closed meanwhile */
		conn_post_turn(c);
		return;
	}
	if (err == 0)
		err = transcript_auth_answer(
			&o->transcript, keys_secret(o->key), session_id(o->session),
			(uint32_t)(c->nl->store->options.lease_ns / UINT64_C(1000000000)), bytes);
	if (err < 0) {
		conn_fail_opening(c, OP_AUTH, o->request, err,
			err == -GRANARY_EACCESS  ? "the session belongs to another access key"
			: err == -GRANARY_ESTALE ? "the session is not known any more; begin a new one"
						 : error_text(err));
		return;
	}
	c->peer.key = o->key;
	c->peer.session = o->session;
	c->peer.data_cap = o->data_cap;
	o->key = NULL;
	o->session = NULL;
	c->state = CONN_OPEN;
	c->key_checked_ns = io_now_ns(c->nl->io);
	peer_log(c);
	if (!framer_in_frame(&c->framer)) list_remove(&c->timed);
	conn_reply(c, OP_AUTH, o->request, 0, slice_of(bytes, sizeof(bytes)));
	conn_opening_free(c);
	conn_post_turn(c);
}

static void attach_mail(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);
	struct conn *c = o->conn;

	o->conn = NULL;
	attach_done(c);
}

static void attach_work(struct task *task)
{
	struct opening *o = container_of(task, struct opening, task);
	struct net_local *nl = o->conn->nl;

	o->err = session_attach(nl->store->sessions, o->key, o->session_id, true, &o->session);
	o->task.fn = attach_mail;
	reactor_post(nl->reactor, &o->task);
}

static void auth_handle(struct conn *c, const struct frame *f, struct slice meta)
{
	struct opening *o = c->opening;
	const uint8_t *secret = o->key ? keys_secret(o->key) : NULL;

	if (meta.len != WIRE_HMAC_SIZE) {
		conn_fail_opening(c, OP_AUTH, f->request, -GRANARY_EPROTO,
			"the meta of AUTH is not 32 bytes");
		return;
	}
	if (!transcript_client_proof(&o->transcript, secret, meta.p) ||
		!keys_valid(c->nl->store, o->key)) {
		auth_failed(c, f->request);
		return;
	}
	o->request = f->request;
	c->state = CONN_ATTACHING;
	o->err = session_attach(c->nl->store->sessions, o->key, o->session_id, false, &o->session);
	if (o->err != -GRANARY_EAGAIN) {
		attach_done(c);
		return;
	}
	o->conn = c;
	o->task.fn = attach_work;
	workers_post(c->nl->store->workers, &o->task);
}

/* One frame before authentication. */
static void opening_handle(struct conn *c, const struct frame *f, struct slice meta)
{
	if (f->op == OP_HELLO && c->state == CONN_HELLO)
		hello_handle(c, f, meta);
	else if (f->op == OP_AUTH && c->state == CONN_AUTH)
		auth_handle(c, f, meta);
	else if (f->op == OP_HELLO || f->op == OP_AUTH)
		conn_refuse(c, -GRANARY_EPROTO, "HELLO, then AUTH, once each");
	else
		conn_refuse(c, -GRANARY_EAUTH, "authenticate first: HELLO, then AUTH");
}

/* ---- requests ---- */

static bool is_duplicate(struct conn *c, uint64_t request)
{
	if (request > c->request_newest) { /* the usual way to choose them: no search */
		c->request_newest = request;
		return false;
	}
	list_for (n, &c->inflight)
		if (container_of(n, struct inbound, node)->req.frame.request == request)
			return true;
	return false;
}

/* A key that was removed or expired stops working within a second. */
static bool key_still_valid(struct conn *c)
{
	uint64_t now = io_now_ns(c->nl->io);

	if (now - c->key_checked_ns < CONN_KEY_CHECK_NS) return true;
	c->key_checked_ns = now;
	return keys_valid(c->nl->store, c->peer.key);
}

/* Takes c->in over. */
static void request_start(struct conn *c, const struct req_kind *kind)
{
	struct inbound *in = c->in;
	struct req *r = &in->req;

	r->magic = REQ_MAGIC;
	r->kind = kind;
	r->peer = &c->peer;
	r->store = c->nl->store;
	r->local = c->nl->local;
	r->frame = c->framer.frame;
	r->meta = in->meta;
	r->data = in->data;
	r->front = in;
	list_init(&r->node);
	list_push(&c->inflight, &in->node);
	c->inflight_count++;
	c->nl->inflight_count++;
	in->began_ns = io_now_ns(c->nl->io);
	c->in = NULL;
	framer_reset(&c->framer);
	req_start(r);
}

static void request_handle(struct conn *c, const struct frame *f)
{
	const struct req_kind *kind = req_kind_of(f->op);
	int err = framer_check(&c->framer);
	const char *text = "wrong checksum of the meta, or status or flags in a request";

	if (err == 0 && !kind) {
		err = -GRANARY_EUNSUPPORTED;
		text = "this server does not know this op";
	} else if (err == 0 && f->data_len > 0 && f->op != OP_PUT && f->op != OP_EXTENT && f->op != OP_WRITE) {
		err = -GRANARY_EPROTO;
		text = "this op takes no data";
	} else if (err == 0 && (atomic_load(&c->nl->store->draining) || c->nl->draining)) {
		err = -GRANARY_ESHUTDOWN;
		text = "the server is stopping";
	}
	if (is_duplicate(c, f->request)) {
		conn_refuse(c, -GRANARY_EPROTO, "a request id that is in flight already");
		return;
	}
	if (err < 0) {
		conn_reply_error(c, f->op, f->request, err, text);
		frame_free(c);
		return;
	}
	request_start(c, kind);
}

/* Empty; or the session says that it lives, and is told what the server remembers of its opens. */
static void ping_handle(struct conn *c, const struct frame *f)
{
	struct cur in = cur_of(c->in->meta, f->meta_len);
	uint8_t buf[8];
	struct wr w = wr_of(buf, sizeof(buf));
	int err = framer_check(&c->framer);

	if (err == 0 && f->meta_len > 0 && (cur_flags(&in, PING_LEASE) == 0 || !cur_done(&in))) err = -GRANARY_EPROTO;
	if (err == 0 && f->data_len > 0) err = -GRANARY_EPROTO;
	if (err < 0) {
		conn_reply_error(c, OP_PING, f->request, err, "PING is empty, or one byte of known flags");
		return;
	}
	if (f->meta_len > 0) wr_u64(&w, session_hear(c->nl->store, c->peer.session, clock_mono_ns()));
	conn_reply(c, OP_PING, f->request, 0, slice_of(buf, wr_len(&w)));
}

static void open_handle(struct conn *c, const struct frame *f)
{
	if (!key_still_valid(c)) {
		conn_refuse(c, -GRANARY_EAUTH, "the access key was removed or has expired");
		return;
	}
	if (f->op == OP_HELLO || f->op == OP_AUTH) {
		conn_refuse(c, -GRANARY_EPROTO, "the connection is authenticated already");
		return;
	}
	if (f->op != OP_PING) {
		request_handle(c, f);
		return;
	}
	ping_handle(c, f);
	frame_free(c);
}

void conn_dispatch(struct conn *c)
{
	struct frame f = c->framer.frame;

	assert(c->in && framer_missing(&c->framer) == 0);
	if (f.op == OP_GOODBYE) {
		conn_close(c);
		return;
	}
	if (c->state == CONN_OPEN) {
		open_handle(c, &f);
		return;
	}
	if (framer_check(&c->framer) < 0)
		conn_refuse(c, -GRANARY_EPROTO,
			"wrong checksum of the meta, or status or flags in a request");
	else
		opening_handle(c, &f, slice_of(c->in->meta, f.meta_len));
	if (c->state < CONN_CLOSING) frame_free(c);
}
