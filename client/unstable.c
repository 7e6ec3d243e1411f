/* SPDX-License-Identifier: Apache-2.0 */
/* unstable.c -- changes that were answered before they were durable: kept until a sync says that they are, and sent
 * again, as they were, when the server lost them (PROTOCOL 5.16).
 *
 * Invariants: (1) what is kept is in the order of its numbers, and so is what is sent again; each names the one before
 * as what it follows; (2) while something is sent again no other change is sent, nor a sync; (3) a verifier other than
 * the newest one of this server is a loss; at another start all is; (4) what cannot be done again is told by the next
 * sync, once; (5) all of this belongs to the client's thread; (6) at most keep_max bytes are kept: above that changes
 * are asked for durably, and at half of it a sync is sent by itself. */
#include "client_priv.h"

#include <stdio.h>
#include <stdlib.h>

enum { FIVE_ONE_SIZE = 3 * 8, REPLAY_WINDOW = 64, PUT_ENTRY_SIZE = 2 + 4 * 8, DELETE_ENTRY_SIZE = 2 + 2 * 8 };
static const uint64_t keep_max = 32 * 1024 * 1024;

struct kept {
	struct list link;
	uint64_t sequence, verifier, first_id, first_version, serial;
	uint8_t wire_op;
	bool is_asked;    /* sent again, not answered yet */
	uint8_t *out;     /* header and meta, as they were sent */
	size_t out_len, bytes;
	uint32_t head_len; /* of the bucket's name in meta */
	struct iovec data;
	uint8_t *answer;  /* without its tail */
	size_t answer_len;
};

struct replay_rpc {
	struct rpc rpc;
	struct kept *kept;
	uint64_t after;
};

static struct kept *kept_of(struct list *at) { return container_of(at, struct kept, link); }

static void kept_free(struct granary_client *c, struct kept *k)
{
	list_remove(&k->link);
	c->io.unstable.bytes -= k->bytes;
	free(k->out);
	free(k->data.iov_base);
	free(k->answer);
	free(k);
}

void unstable_init(struct granary_client *c)
{
	struct unstable *u = &c->io.unstable;

	memset(u, 0, sizeof(*u));
	list_init(&u->kept);
	list_init(&u->op.rpcs);
	u->op.client = c;
	u->op.ended = true; /* it never is: nobody owns it */
	u->op.deadline_ns = NEVER_NS;
}

void unstable_release(struct granary_client *c)
{
	struct unstable *u = &c->io.unstable;

	while (!list_empty(&u->op.rpcs))
		rpc_drop(container_of(u->op.rpcs.next, struct rpc, op_link));
	while (!list_empty(&u->kept))
		kept_free(c, kept_of(u->kept.next));
}

uint64_t unstable_first(const struct granary_client *c)
{
	const struct list *kept = &c->io.unstable.kept;

	return list_empty(kept) ? UINT64_MAX : kept_of(kept->next)->sequence;
}

bool unstable_may_ask(const struct granary_client *c) { return c->io.unstable.bytes < keep_max; }

static void lost(struct granary_client *c, int err, const char *what)
{
	struct unstable *u = &c->io.unstable;

	if (u->lost_count++ == 0)
		snprintf(u->lost_text, sizeof(u->lost_text), "%.200s: %.200s", error_text(err), what);
}

void unstable_forgotten(struct granary_client *c)
{
	struct unstable *u = &c->io.unstable;

	while (!list_empty(&u->op.rpcs))
		rpc_drop(container_of(u->op.rpcs.next, struct rpc, op_link));
	while (!list_empty(&u->kept)) {
		lost(c, -GRANARY_ESTALE, "the server forgot the session");
		kept_free(c, kept_of(u->kept.next));
	}
	u->is_replaying = false;
}

static void verifier_is(struct unstable *u, uint64_t verifier)
{
	u->is_changed |= u->verifier != verifier;
	u->verifier = verifier;
}

/* ---- keeping ---- */

static bool data_copy(struct kept *k, const struct rpc *r)
{
	uint8_t *at = malloc(r->data_len > 0 ? r->data_len : 1);

	k->data = (struct iovec){ at, r->data_len };
	for (uint32_t i = 0; at && i < r->data_count; i++) {
		memcpy(at, r->data[i].iov_base, r->data[i].iov_len);
		at += r->data[i].iov_len;
	}
	return k->data.iov_base != NULL;
}

/* Mostly behind the last. */
static void kept_insert(struct unstable *u, struct kept *k)
{
	struct list *at = u->kept.prev;

	while (at != &u->kept && kept_of(at)->sequence > k->sequence)
		at = at->prev;
	list_insert(at, &k->link);
}

static int kept_new(struct granary_client *c, struct rpc *r, struct slice answer, struct kept **out)
{
	struct kept *k = calloc(1, sizeof(*k));

	*out = k;
	if (!k)
		return -GRANARY_ENOMEM;
	list_init(&k->link);
	k->answer = malloc(answer.len > 0 ? answer.len : 1);
	if (!k->answer || !data_copy(k, r)) {
		kept_free(c, k);
		return -GRANARY_ENOMEM;
	}
	memcpy(k->answer, answer.p, answer.len);
	k->answer_len = answer.len;
	return 0;
}

int unstable_keep(struct rpc *r, struct slice *meta)
{
	struct granary_client *c = r->op->client;
	struct unstable *u = &c->io.unstable;
	struct kept *k;

	if (meta->len < UNSTABLE_TAIL_SIZE)
		return -GRANARY_EPROTO;
	meta->len -= UNSTABLE_TAIL_SIZE;
	int err = kept_new(c, r, *meta, &k);
	if (err < 0)
		return err;
	struct cur tail = cur_of(meta->p + meta->len, UNSTABLE_TAIL_SIZE);
	k->verifier = cur_u64(&tail);
	k->first_id = cur_u64(&tail);
	k->first_version = cur_u64(&tail);
	k->sequence = r->sequence;
	k->wire_op = r->kind->wire_op;
	k->head_len = 2 + (uint32_t)strlen(r->op->bucket);
	k->out = r->out;
	k->out_len = r->out_len;
	r->out = NULL;
	k->serial = ++u->serial;
	k->bytes = sizeof(*k) + k->out_len + k->data.iov_len + k->answer_len;
	u->bytes += k->bytes;
	u->is_used = true;
	verifier_is(u, k->verifier);
	kept_insert(u, k);
	return 0;
}

void unstable_durable(struct granary_client *c, uint64_t verifier, uint64_t up_to)
{
	struct unstable *u = &c->io.unstable;

	verifier_is(u, verifier);
	list_for_safe(at, next, &u->kept)
		if (kept_of(at)->serial <= up_to && kept_of(at)->verifier == verifier)
			kept_free(c, kept_of(at));
}

/* ---- syncs: one of a caller, or our own ---- */

static struct sync_rpc *sync_of(struct rpc *r) { return container_of(r, struct sync_rpc, rpc); }

static size_t sync_body_size(struct rpc *r)
{
	(void)r;
	return 1;
}

static int sync_encode(struct rpc *r, struct wr *w)
{
	sync_of(r)->up_to = r->op->client->io.unstable.serial;
	wr_u8(w, sync_of(r)->flags);
	return 0;
}

/* Something that is kept was lost, and is to be sent again first. */
static bool is_behind(const struct granary_client *c)
{
	const struct unstable *u = &c->io.unstable;

	list_for(at, &u->kept)
		if (kept_of(at)->verifier != u->verifier)
			return true;
	return false;
}

static int sync_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct granary_client *c = r->op->client;
	struct cur in = cur_of(meta.p, meta.len);
	uint64_t verifier = cur_u64(&in);

	(void)data;
	if (!cur_done(&in))
		return -GRANARY_EPROTO;
	unstable_durable(c, verifier, sync_of(r)->up_to);
	if (r->op != &c->io.unstable.op)
		return is_behind(c) ? RPC_REPEAT : 0;
	c->io.unstable.is_syncing = false;
	if (sync_of(r)->flags & SYNC_REPLAYED)
		c->io.unstable.is_replaying = false;
	return 0;
}

const struct rpc_kind sync_rpc_kind = {
	.wire_op = OP_SYNC, .plain = true, .in_order = true, .body_size = sync_body_size, .encode = sync_encode,
	.answer = sync_answer,
};

/* Of our own. A server that does not answer it is no server: it is asked for ever. */
static bool own_failed(struct rpc *r, int err)
{
	struct granary_client *c = r->op->client;

	(void)err;
	c->io.unstable.is_syncing = c->io.unstable.is_replaying = false; /* and begun again, if need be */
	rpc_end(r);
	return true;
}

static const struct rpc_kind own_sync_kind = {
	.wire_op = OP_SYNC, .plain = true, .is_patient = true, .body_size = sync_body_size, .encode = sync_encode,
	.answer = sync_answer, .failed = own_failed,
};

static void own_sync(struct granary_client *c, uint8_t flags)
{
	struct sync_rpc *s = rpc_new(sizeof(*s), &own_sync_kind, &c->io.unstable.op);

	if (!s)
		return;
	s->flags = flags;
	c->io.unstable.is_syncing = true;
	rpc_queue(&s->rpc);
}

/* ---- sending again ---- */

static struct replay_rpc *replay_of(struct rpc *r) { return container_of(r, struct replay_rpc, rpc); }

static size_t replay_body_size(struct rpc *r) { return replay_of(r)->kept->out_len + 16; }

static int replay_encode(struct rpc *r, struct wr *w)
{
	const struct replay_rpc *p = replay_of(r);
	const struct kept *k = p->kept;
	const uint8_t *meta = k->out + WIRE_HEADER_SIZE;
	size_t at = k->head_len + FIVE_ONE_SIZE;

	wr_bytes(w, meta, k->head_len);
	wr_u64(w, k->sequence);
	wr_u64(w, p->after);
	wr_u64(w, session_seen(r->op->client));
	wr_u64(w, k->first_id);
	wr_u64(w, k->first_version);
	wr_bytes(w, meta + at, k->out_len - WIRE_HEADER_SIZE - at);
	if (k->data.iov_len > 0) {
		r->data = &k->data;
		r->data_count = 1;
		r->data_len = (uint32_t)k->data.iov_len;
	}
	return 0;
}

/* An entry that was done and cannot be done again: its error; 0: none. */
static int entries_lost(const struct kept *k, struct slice now)
{
	size_t size = k->wire_op == OP_PUT ? PUT_ENTRY_SIZE : k->wire_op == OP_DELETE ? DELETE_ENTRY_SIZE : 0;

	if (size == 0)
		return 0;
	for (size_t at = 4; at + size <= k->answer_len; at += size) {
		struct cur then = cur_of(k->answer + at, 2);
		struct cur again = cur_of(now.p + (at + 2 <= now.len ? at : now.len), at + 2 <= now.len ? 2 : 0);
		int err = -(int)cur_u16(&again);
		if (cur_u16(&then) == 0 && (err < 0 || !cur_ok(&again)))
			return err < 0 ? err : -GRANARY_EPROTO;
	}
	return 0;
}

static int replay_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct granary_client *c = r->op->client;
	struct kept *k = replay_of(r)->kept;
	bool unstable = r->is_unstable;

	(void)data;
	if (unstable) {
		if (meta.len < UNSTABLE_TAIL_SIZE)
			return -GRANARY_EPROTO;
		meta.len -= UNSTABLE_TAIL_SIZE;
		struct cur tail = cur_of(meta.p + meta.len, UNSTABLE_TAIL_SIZE);
		k->verifier = cur_u64(&tail);
		verifier_is(&c->io.unstable, k->verifier);
	}
	int err = entries_lost(k, meta);
	if (err < 0)
		lost(c, err, "a change that was answered before it was durable could not be done again");
	k->is_asked = false;
	k->serial = ++c->io.unstable.serial;
	if (!unstable || err < 0)
		kept_free(c, k);
	replay_of(r)->kept = NULL;
	return 0;
}

static bool replay_failed(struct rpc *r, int err)
{
	struct granary_client *c = r->op->client;

	lost(c, err, "a change that was answered before it was durable could not be done again");
	kept_free(c, replay_of(r)->kept);
	rpc_end(r);
	return true;
}

static const struct rpc_kind replay_kind = { /* the operation is that of what is kept */
	.plain = true, .is_patient = true, .is_replay = true, .body_size = replay_body_size,
	.encode = replay_encode, .answer = replay_answer, .failed = replay_failed,
};

static void replay_start(struct granary_client *c, struct kept *k, uint64_t after)
{
	struct replay_rpc *p = rpc_new(sizeof(*p), &replay_kind, &c->io.unstable.op);

	if (!p)
		return;
	p->kept = k;
	p->after = after;
	p->rpc.wire_op = k->wire_op;
	k->is_asked = true;
	rpc_queue(&p->rpc);
}

/* Up to a window of those that are behind, in order. */
static void replay_more(struct granary_client *c)
{
	struct unstable *u = &c->io.unstable;
	uint32_t asked = 0;
	uint64_t after = 0;

	list_for(at, &u->kept) {
		struct kept *k = kept_of(at);
		if (k->verifier == u->verifier && !k->is_asked)
			continue;
		if (asked++ == REPLAY_WINDOW)
			break;
		if (!k->is_asked)
			replay_start(c, k, after);
		after = k->sequence;
	}
	if (asked == 0 && !u->is_syncing)
		own_sync(c, SYNC_REPLAYED);
}

void unstable_hello(struct granary_client *c, uint64_t boot_id)
{
	struct unstable *u = &c->io.unstable;

	if (u->boot_id == boot_id)
		return;
	u->boot_id = u->verifier = boot_id;
	if (!u->is_used)
		return;
	while (!list_empty(&u->op.rpcs)) /* what was under way is begun anew */
		rpc_drop(container_of(u->op.rpcs.next, struct rpc, op_link));
	list_for(at, &u->kept)
		kept_of(at)->is_asked = false;
	u->is_syncing = false;
	u->is_replaying = true; /* also when nothing is kept: the server waits to hear it */
}

void unstable_turn(struct granary_client *c)
{
	struct unstable *u = &c->io.unstable;

	if (!u->is_used)
		return;
	if (u->is_changed) {
		u->is_changed = false;
		u->is_replaying = u->is_replaying || is_behind(c);
	}
	if (u->is_replaying)
		replay_more(c);
	else if (u->bytes > keep_max / 2 && !u->is_syncing)
		own_sync(c, 0);
}

/* ---- granary_sync ---- */

struct sync_op {
	struct granary_op op;
	bool asked;
	uint8_t flags;
};

static int sync_more(struct granary_op *op)
{
	struct sync_op *s = container_of(op, struct sync_op, op);

	if (s->asked)
		return 0;
	s->asked = true;
	struct sync_rpc *r = rpc_new(sizeof(*r), &sync_rpc_kind, op);
	if (!r)
		return -GRANARY_ENOMEM;
	r->flags = s->flags;
	rpc_queue(&r->rpc);
	return 0;
}

static int64_t sync_finish(struct granary_op *op, int err)
{
	struct unstable *u = &op->client->io.unstable;

	if (err < 0 || u->lost_count == 0)
		return err;
	op_note(op, slice_str(u->lost_text));
	u->lost_count = 0;
	return -GRANARY_EIO;
}

static void sync_free(struct granary_op *op) { op_release(op); }

static const struct op_kind sync_op_kind = { .more = sync_more, .finish = sync_finish, .free = sync_free };

int granary_sync_start(struct granary_client *client, const struct granary_call *call, struct granary_op **op)
{
	int err;
	struct sync_op *s = op_new(sizeof(*s), client, &sync_op_kind, call, &err);

	if (op)
		*op = NULL;
	return s ? op_start(&s->op, op) : err;
}

static int64_t sync_run(struct granary_client *c, const struct granary_call *call, uint8_t flags)
{
	int err;
	struct sync_op *s = op_new(sizeof(*s), c, &sync_op_kind, call, &err);

	if (!s)
		return err;
	s->flags = flags;
	int64_t result = op_run(&s->op);
	op_free_quiet(&s->op);
	return result;
}

int granary_sync(struct granary_client *client, const struct granary_call *call)
{
	return (int)sync_run(client, call, 0);
}

void unstable_leave(struct granary_client *c)
{
	enum { LEAVE_MS = 5000 };

	if (atomic_load(&c->uses_unstable))
		(void)sync_run(c, GRANARY_CALL(.timeout_ms = LEAVE_MS), SYNC_LEAVE);
}
