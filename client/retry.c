/* SPDX-License-Identifier: Apache-2.0 */
/* retry.c -- what happens to a request that failed, by the class of its error (granary/error.h), and the numbers that
 * make repeating a mutation safe (PROTOCOL 5.1, 5.2).
 *
 * FINAL   the operation fails
 * RETRY   nothing was changed: again after a pause, a mutation under a new number
 * UNSURE  it may have happened: again after a pause, a mutation under the same number and marked as sent before
 * The pause is a random part of 10 ms, 20 ms, 40 ms ... 1 s, so that clients who failed together do not come
 * together. */
#include "client_priv.h"

#include <stdlib.h>

static const uint64_t pause_first_ns = 10000000, pause_max_ns = 1000000000;

uint64_t backoff_ns(struct rng *rng, uint32_t attempt)
{
	uint64_t most = attempt < 8 ? pause_first_ns << attempt : pause_max_ns;

	return rng_below(rng, most < pause_max_ns ? most : pause_max_ns);
}

uint64_t session_seen(const struct granary_client *c)
{
	const struct session *s = &c->io.session;
	uint64_t first = s->next_sequence, kept = unstable_first(c);

	if (!list_empty(&s->open))
		first = container_of(s->open.next, struct rpc, seq_link)->sequence;
	return (kept < first ? kept : first) - 1;
}

void session_assign(struct granary_client *c, struct rpc *r)
{
	struct session *s = &c->io.session;

	r->sequence = s->next_sequence++;
	r->was_sent = false;
	list_push(&s->open, &r->seq_link);
}

void session_settle(struct rpc *r)
{
	if (r->sequence == 0)
		return;
	list_remove(&r->seq_link);
	r->sequence = 0;
	r->was_sent = false;
}

/* The server does not know our session any more: what was sent under its numbers cannot be asked for again. */
void session_changed(struct granary_client *c)
{
	struct session *s = &c->io.session;
	struct list lost;

	list_init(&lost);
	list_splice(&lost, &s->open);
	s->next_sequence = 1;
	unstable_forgotten(c);
	files_lost(c);
	for (struct list *at; (at = list_pop(&lost)) != NULL;) {
		struct rpc *r = container_of(at, struct rpc, seq_link);
		r->sequence = 0;
		if (r->was_sent)
			op_fail(r->op, -GRANARY_ECLOSED, "the server forgot the session; "
				"the change may or may not have happened");
	}
}

static bool rpc_may_repeat(struct rpc *r)
{
	struct granary_client *c = r->op->client;

	if (r->attempts >= c->config.retries_max && !r->kind->is_patient)
		return false;
	r->attempts++;
	atomic_fetch_add_explicit(&c->counters.retries, 1, memory_order_relaxed);
	free(r->answer);
	r->answer = NULL;
	r->answer_len = 0;
	return true;
}

void rpc_failed(struct rpc *r, int err, struct slice text)
{
	struct granary_op *op = r->op;
	struct io *io = &op->client->io;
	enum error_class class = error_class(err);
	char copy[ERROR_TEXT_SIZE];

	if (class != ERROR_FINAL && err != r->kind->final && rpc_may_repeat(r)) {
		if (class == ERROR_RETRY)
			session_settle(r);
		r->not_before_ns = io->now_ns + backoff_ns(&io->rng, r->attempts - 1);
		if (r->not_before_ns < io->next_retry_ns)
			io->next_retry_ns = r->not_before_ns;
		list_remove(&r->link);
		rpc_queue(r);
		return;
	}
	if (r->kind->failed && r->kind->failed(r, err))
		return;
	text_copy(copy, sizeof(copy), text);
	op_fail(op, err, "%s", copy);
}

/* Its connection is lost, it is in no list. */
void rpc_lost(struct rpc *r, int err, const char *why)
{
	if (!r->op) {
		rpc_free(r);
		return;
	}
	struct io *io = &r->op->client->io;
	if (!rpc_may_repeat(r)) {
		op_fail(r->op, err, "%s", why);
		return;
	}
	r->not_before_ns = io->now_ns + (r->attempts > 1 ? backoff_ns(&io->rng, r->attempts - 2) : 0);
	r->state = RPC_READY;
	list_push(&io->ready, &r->link);
}
