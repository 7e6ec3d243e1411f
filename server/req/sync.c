/* SPDX-License-Identifier: Apache-2.0 */
/* sync.c -- SYNC (PROTOCOL 5.16): BEGIN -> SYNCED -> ANSWER. All that the session was answered before is durable by
 * then, if the verifier that is told is the one that those answers had; else some of it was lost. */
#include "req/unstable.h"

#include <stdlib.h>

#include "common/error.h"

struct sync_req {
	struct kv_sync sync;
	uint8_t flags;
	int err;
};

static void on_synced(struct task *task)
{
	req_resume(container_of(task, struct req, done));
}

static enum step_result sync_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	uint8_t flags = cur_u8(&c);
	struct sync_req *s;

	if (!cur_done(&c) || (flags & ~(SYNC_REPLAYED | SYNC_LEAVE)) != 0)
		return req_fail(r, -GRANARY_EPROTO, "SYNC does not parse");
	if (r->peer->session == NULL)
		return req_fail(r, -GRANARY_EUNSUPPORTED, "SYNC needs a session");
	s = req_alloc(sizeof(*s));
	*s = (struct sync_req){ .flags = flags };
	r->body = s;
	r->done.fn = on_synced;
	r->step++;
	r->pending++;
	kv_sync(r->store->kv, &s->sync, r->local->reactor, &r->done);
	return STEP_WAIT;
}

static void leave_work(struct req *r)
{
	((struct sync_req *)r->body)->err = session_leave(r->store, r->peer->session);
}

static enum step_result sync_synced(struct req *r)
{
	const struct sync_req *s = r->body;

	if ((s->flags & (SYNC_REPLAYED | SYNC_LEAVE)) != 0)
		replays_done(r->store->replays, session_id(r->peer->session));
	if ((s->flags & SYNC_LEAVE) == 0) return STEP_NEXT;
	r->step++;
	return req_work(r, leave_work);
}

static enum step_result sync_answer(struct req *r)
{
	const struct sync_req *s = r->body;
	struct answer *a;
	struct wr w;

	if (s->err < 0)
		return req_fail(r, s->err, "the row of the session cannot be written: %s", error_text(s->err));
	a = answer_new(r, 8);
	w = wr_of(a->meta, 8);
	wr_u64(&w, store_verifier(r->store, kv_losses(r->store->kv)));
	a->meta_len = (uint32_t)wr_len(&w);
	answer_send(r, a, true);
	return STEP_DONE;
}

static void sync_cleanup(struct req *r)
{
	free(r->body);
	r->body = NULL;
}

static const struct req_step sync_steps[] = {
	{ "begin", sync_begin }, { "synced", sync_synced }, { "answer", sync_answer }
};
const struct req_kind sync_kind = {
	.op = OP_SYNC,
	.name = "sync",
	.steps = sync_steps,
	.step_count = 3,
	.cleanup = sync_cleanup,
};
