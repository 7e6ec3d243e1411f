/* SPDX-License-Identifier: Apache-2.0 */
/* announce.c -- ANNOUNCE (PROTOCOL 5.20): after a lost connection or a restart of the server a session says what it has
 * open. What the server knows already stays; the rest is opened again where it can be. PARSE -> WORK -> ANSWER. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "req/open.h"
#include "req/orphans.h"

struct announced {
	struct open_ask ask;
	int16_t err;
};

struct announce_req {
	struct slice bucket;
	uint8_t flags;
	uint32_t count;
	struct announced *opens;
};

static int announced_parse(struct cur *c, const struct auth *a, struct announced *x)
{
	x->ask.handle = cur_u64(c);
	x->ask.access = cur_flags(c, OPEN_FOR_ALL);
	x->ask.is_announced = true;
	x->err = (int16_t)ref_parse(c, a, &x->ask.ref);
	return cur_ok(c) && x->ask.access != 0 && x->err != -GRANARY_EPROTO && x->ask.ref.by == NS_BY_ID
		       ? 0 : -GRANARY_EPROTO;
}

static enum step_result announce_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct announce_req *n;
	struct auth auth;
	uint32_t count;

	if (r->peer->session == NULL) return req_fail(r, -GRANARY_EUNSUPPORTED, "ANNOUNCE needs a session");
	n = req_alloc(sizeof(*n));
	memset(n, 0, sizeof(*n));
	r->body = n;
	(void)auth_begin(r, &auth, GRANT_READ, slice_of(NULL, 0)); /* refs by id need no bucket */
	n->flags = cur_flags(&c, ANNOUNCE_LAST);
	count = cur_u32(&c);
	if (!cur_ok(&c) || count > WIRE_BATCH_MAX)
		return req_fail(r, -GRANARY_EPROTO, "ANNOUNCE does not parse, or has more than %d opens",
			WIRE_BATCH_MAX);
	n->opens = req_alloc((count + 1) * sizeof(*n->opens));
	memset(n->opens, 0, (count + 1) * sizeof(*n->opens));
	for (; n->count < count; n->count++)
		if (announced_parse(&c, &auth, &n->opens[n->count]) < 0)
			return req_fail(r, -GRANARY_EPROTO, "ANNOUNCE: open %u does not parse", n->count);
	return cur_done(&c) ? STEP_NEXT : req_fail(r, -GRANARY_EPROTO, "ANNOUNCE: bytes follow the last open");
}

static void announce_work(struct req *r)
{
	struct announce_req *n = r->body;
	struct stat_entry e;
	struct auth auth;

	for (uint32_t i = 0; i < n->count; i++) {
		struct announced *x = &n->opens[i];

		if (x->err == 0)
			x->err = (int16_t)auth_begin(r, &auth, open_actions(x->ask.access), slice_of(NULL, 0));
		if (x->err == 0) x->err = (int16_t)open_object(r, &auth, &x->ask, &e);
	}
}

static enum step_result announce_look(struct req *r)
{
	r->step++;
	return req_work(r, announce_work);
}

static enum step_result announce_answer(struct req *r)
{
	const struct announce_req *n = r->body;
	uint64_t session = session_id(r->peer->session);
	size_t cap = 8 + 4 + 2 * (size_t)n->count;
	struct answer *a = answer_new(r, cap);
	struct wr w = wr_of(a->meta, cap);

	if ((n->flags & ANNOUNCE_LAST) != 0) orphans_announced(r->store->orphans, session);
	wr_u64(&w, opens_state(r->store->opens, session));
	wr_u32(&w, n->count);
	for (uint32_t i = 0; i < n->count; i++) wr_u16(&w, (uint16_t)-n->opens[i].err);
	a->meta_len = (uint32_t)wr_len(&w);
	stat_add(&r->local->stats->entries[OP_ANNOUNCE], n->count);
	answer_send(r, a, true);
	return STEP_DONE;
}

static void announce_cleanup(struct req *r)
{
	if (r->body != NULL) free(((struct announce_req *)r->body)->opens);
	free(r->body);
	r->body = NULL;
}

static const struct req_step announce_steps[] = { { "parse", announce_parse }, { "look", announce_look },
	{ "answer", announce_answer } };
const struct req_kind announce_kind = {
	.op = OP_ANNOUNCE,
	.sees_own = true,
	.name = "announce",
	.steps = announce_steps,
	.step_count = 3,
	.cleanup = announce_cleanup,
};
