/* SPDX-License-Identifier: Apache-2.0 */
/* announce.c -- ANNOUNCE (PROTOCOL 5.20): after a lost connection or a restart of the server a session says what it has
 * open. What the server knows already stays; the rest is opened again where it can be. PARSE -> WORK -> ANSWER. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "req/locks.h"
#include "req/open.h"
#include "req/orphans.h"

struct announced {
	struct open_ask ask;
	int16_t err;
};

struct announced_lock {
	struct lock lock;
	uint64_t handle;
	int16_t err;
};

struct announce_req {
	uint8_t flags;
	uint32_t count, lock_count;
	uint64_t state; /* opens_state() before the locks were looked at */
	struct announced *opens;
	struct announced_lock *locks;
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

static int locks_parse(struct req *r, struct cur *c, struct announce_req *n)
{
	uint32_t count = cur_u32(c);

	if (!cur_ok(c) || count > WIRE_BATCH_MAX) return -GRANARY_EPROTO;
	n->locks = req_alloc((count + 1) * sizeof(*n->locks));
	for (; n->lock_count < count; n->lock_count++) {
		struct announced_lock *x = &n->locks[n->lock_count];

		memset(x, 0, sizeof(*x));
		x->handle = cur_u64(c);
		x->lock.session = session_id(r->peer->session);
		lock_parse(c, &x->lock);
		if (!cur_ok(c) || !lock_is_sound(&x->lock) || x->lock.type == LOCK_NONE) return -GRANARY_EPROTO;
	}
	return 0;
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
	if (locks_parse(r, &c, n) < 0 || !cur_done(&c))
		return req_fail(r, -GRANARY_EPROTO, "ANNOUNCE: its locks do not parse");
	return STEP_NEXT;
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
	n->state = opens_state(r->store->opens, session_id(r->peer->session));
	for (uint32_t i = 0; i < n->lock_count; i++) {
		struct announced_lock *x = &n->locks[i];
		uint8_t access;
		uint64_t id;

		x->err = opens_find(r->store->opens, x->lock.session, x->handle, &id, &access)
				 ? (int16_t)locks_announce(r->store->locks, id, &x->lock) : -GRANARY_ESTALE;
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
	size_t cap = 8 + 4 + 2 * (size_t)n->count + 4 + 2 * (size_t)n->lock_count;
	struct answer *a = answer_new(r, cap);
	struct wr w = wr_of(a->meta, cap);

	if ((n->flags & ANNOUNCE_LAST) != 0) orphans_announced(r->store->orphans, session);
	wr_u64(&w, n->state);
	wr_u32(&w, n->count);
	for (uint32_t i = 0; i < n->count; i++) wr_u16(&w, (uint16_t)-n->opens[i].err);
	wr_u32(&w, n->lock_count);
	for (uint32_t i = 0; i < n->lock_count; i++) wr_u16(&w, (uint16_t)-n->locks[i].err);
	a->meta_len = (uint32_t)wr_len(&w);
	stat_add(&r->local->stats->entries[OP_ANNOUNCE], n->count);
	answer_send(r, a, true);
	return STEP_DONE;
}

static void announce_cleanup(struct req *r)
{
	struct announce_req *n = r->body;

	if (n != NULL) {
		free(n->opens);
		free(n->locks);
	}
	free(n);
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
