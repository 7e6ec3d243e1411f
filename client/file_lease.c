/* SPDX-License-Identifier: Apache-2.0 */
/* file_lease.c -- locks that are lost are known to be: PROTOCOL 5.20.
 *
 * Invariants: (1) from its first lock on, a client tells the server at least every quarter of a lease that it lives;
 * (2) a change that rests on a file that was locked names the server's state of when its locks were granted, or were
 * announced: where that is another by now the server refuses it, whenever it comes, and the file is lost; (3) a state
 * that is another one than it was is a loss of all that was open, as a lost connection is; (4) whether the server knows
 * of all this is asked of each start of it before anything that rests on a lock is sent; (5) all of this belongs to the
 * client's thread. */
#include "file_priv.h"

/* The server had forgotten, with its connections up: it did not hear of us for a lease. */
void files_state_is(struct granary_client *c, uint64_t state)
{
	struct files *f = &c->io.files;
	bool is_another = f->state != 0 && state != f->state;

	f->state = state;
	if (is_another)
		files_lost(c);
}

void files_granted(struct granary_file *file, struct slice meta)
{
	struct files *f = &file->client->io.files;
	struct cur in = cur_of(meta.p, meta.len);
	uint64_t state = cur_u64(&in);

	if (!cur_done(&in))
		return; /* a server that fences nothing */
	if (f->lease != LEASE_KEPT)
		f->ping_ns = 0;
	f->lease = LEASE_KEPT;
	f->has_locked = true;
	file->fence = state;
	files_state_is(file->client, state);
}

int file_fence(const struct granary_file *f, uint64_t *fence)
{
	*fence = f->client->io.files.lease == LEASE_KEPT ? f->fence : 0;
	return file_is_forked(f) ? -GRANARY_EFORKED : atomic_load(&f->status);
}

void file_was_fenced(struct granary_file *f) { file_is_lost(f, -GRANARY_ESTALE); }

static size_t ping_size(struct rpc *r)
{
	(void)r;
	return 1;
}

static int ping_encode(struct rpc *r, struct wr *w)
{
	(void)r;
	wr_u8(w, PING_LEASE);
	return 0;
}

static int ping_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct granary_client *c = r->op->client;
	struct cur in = cur_of(meta.p, meta.len);
	uint64_t state = cur_u64(&in);

	(void)data;
	if (!cur_done(&in))
		return -GRANARY_EPROTO;
	c->io.files.is_pinging = false;
	c->io.files.lease = LEASE_KEPT;
	files_state_is(c, state);
	return 0;
}

/* A server that does not know of it. */
static bool ping_failed(struct rpc *r, int err)
{
	(void)err;
	r->op->client->io.files.is_pinging = false;
	r->op->client->io.files.lease = LEASE_NONE;
	rpc_end(r);
	return true;
}

static const struct rpc_kind ping_rpc = {
	.wire_op = OP_PING, .plain = true, .is_patient = true, .is_first = true, .body_size = ping_size,
	.encode = ping_encode, .answer = ping_answer, .failed = ping_failed,
};

uint64_t files_next_ns(const struct granary_client *c)
{
	const struct files *f = &c->io.files;

	return f->has_locked && f->lease == LEASE_KEPT && !f->is_pinging ? f->ping_ns : NEVER_NS;
}

void files_live(struct granary_client *c)
{
	struct files *f = &c->io.files;
	bool is_due = f->lease == LEASE_UNKNOWN || (f->lease == LEASE_KEPT && c->io.now_ns >= f->ping_ns);
	struct rpc *r;

	if (!f->has_locked || f->is_pinging || !is_due)
		return;
	f->ping_ns = c->io.now_ns + f->lease_ns / 4;
	r = rpc_new(sizeof(*r), &ping_rpc, &f->op);
	if (!r)
		return;
	f->is_pinging = true;
	rpc_queue(r);
}
