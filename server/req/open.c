/* SPDX-License-Identifier: Apache-2.0 */
/* open.c -- OPEN and CLOSE (PROTOCOL 5.20): a session has an object open, so that the object stays when its last name
 * goes. OPEN: PARSE -> WORK -> ANSWER.
 *
 * Invariants: (1) nothing is answered before the session's row says that it may have something open; (2) what is
 * answered was looked up after the open was there, with no removal under way (opens.h); (3) an open that is refused
 * leaves nothing behind. */
#include "req/open.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "meta/ns_orphan.h"
#include "req/locks.h"
#include "req/orphans.h"

enum { OPEN_TRIES = 100, OPEN_PAUSE_US = 200 };

uint8_t open_actions(uint8_t access)
{
	return (uint8_t)(((access & OPEN_FOR_READ) != 0 ? GRANT_READ : 0) |
			 ((access & OPEN_FOR_WRITE) != 0 ? GRANT_WRITE : 0));
}

/* ---- one object ---- */

/* What the session was allowed when the last name went. Where nobody knows who had it open (it went after a start,
 * before all had announced theirs): what it may do where that name was. */
static int orphan_auth(struct auth *a, const struct open_ask *ask, uint64_t id)
{
	struct ns *ns = a->store->ns;
	struct ns_orphan row;
	int err;

	if (opens_allow(a->store->opens, a->session, id, ask->access)) return 0;
	if (!ask->is_announced) return -GRANARY_ESTALE;
	err = ns_orphan_holder(ns, id, a->session, &row);
	if (err == 0) return (ask->access & ~row.access) == 0 ? 0 : -GRANARY_EACCESS;
	err = ns_orphan_holder(ns, id, 0, &row);
	return err < 0 ? err : auth_entry(a, row.dir, row.name, true);
}

/* *id: of what stands there now. */
static int open_look(struct auth *a, const struct open_ask *ask, struct stat_entry *e, bool *is_orphan)
{
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;
	int err = auth_ref(a, &ask->ref, true);

	if (err == 0) err = ns_lookup(a->store->ns, &ask->ref, &place, &o, &value);
	if (err < 0) return err;
	*is_orphan = place.orphan != 0;
	if (ask->ref.by == NS_BY_ID)
		err = *is_orphan ? orphan_auth(a, ask, place.orphan) : auth_place(a, &place);
	if (err == 0 && o.is_dir) err = -GRANARY_EISDIR;
	if (err == 0 && !object_has_bytes(&o)) err = -GRANARY_ENOTFILE;
	if (err == 0) stat_entry_take(e, &place, &o, false);
	kv_value_release(&value);
	return err;
}

void open_close(struct store *store, uint64_t session, uint64_t handle)
{
	uint64_t left;

	if (opens_close(store->opens, session, handle, &left) && left != 0) locks_drop(store->locks, left, session);
}

/* 0; EBUSY: once more; or an error. Not open then. */
static int open_once(struct auth *a, const struct open_ask *ask, struct stat_entry *e)
{
	struct opens *opens = a->store->opens;
	bool is_orphan;
	uint64_t id;
	int err = open_look(a, ask, e, &is_orphan);

	if (err < 0) return err;
	id = e->loc.id;
	err = opens_add(opens, a->session, ask->handle, id, ask->access);
	if (err < 0) return err;
	err = opens_is_removing(opens, id) ? -GRANARY_EBUSY : open_look(a, ask, e, &is_orphan);
	if (err == 0 && e->loc.id != id) err = -GRANARY_EBUSY;
	if (err == 0 && is_orphan) opens_set_orphan(opens, id);
	if (err < 0) open_close(a->store, a->session, ask->handle);
	return err;
}

int open_object(struct req *r, struct auth *auth, const struct open_ask *ask, struct stat_entry *e)
{
	int err = session_mark_opens(r->store, r->peer->session, true);

	if (err < 0) return err;
	err = open_once(auth, ask, e);
	for (uint32_t tries = 1; err == -GRANARY_EBUSY && tries < OPEN_TRIES; tries++) {
		usleep(OPEN_PAUSE_US); /* a removal's commit */
		err = open_once(auth, ask, e);
	}
	return err;
}

/* ---- OPEN ---- */

struct open_req {
	struct auth auth;
	struct open_ask ask;
	struct stat_entry e;
	int err;
};

static enum step_result open_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	struct open_req *o;
	int err, err_ref;

	if (r->peer->session == NULL) return req_fail(r, -GRANARY_EUNSUPPORTED, "OPEN needs a session");
	o = req_alloc(sizeof(*o));
	memset(o, 0, sizeof(*o));
	r->body = o;
	o->ask.handle = cur_u64(&c);
	o->ask.access = cur_flags(&c, OPEN_FOR_ALL);
	if (!cur_ok(&c) || o->ask.access == 0) return req_fail(r, -GRANARY_EPROTO, "OPEN does not parse");
	err = auth_begin(r, &o->auth, open_actions(o->ask.access), bucket);
	err_ref = err < 0 && err != -GRANARY_EACCESS ? 0 : ref_parse(&c, &o->auth, &o->ask.ref);
	if (err < 0) return req_fail(r, err, "cannot open in this bucket: %s", error_text(err));
	if (err_ref == -GRANARY_EPROTO || !cur_done(&c)) return req_fail(r, -GRANARY_EPROTO, "OPEN does not parse");
	if (err_ref == 0) return STEP_NEXT;
	return req_fail(r, err_ref, "invalid key or name: 1 to %d bytes of UTF-8 without NUL", KEY_LEN_MAX);
}

static void open_work(struct req *r)
{
	struct open_req *o = r->body;

	o->err = open_object(r, &o->auth, &o->ask, &o->e);
}

static enum step_result open_look_up(struct req *r)
{
	r->step++;
	return req_work(r, open_work);
}

static enum step_result open_answer(struct req *r)
{
	struct open_req *o = r->body;
	enum { CAP = 8 + STAT_FIXED_SIZE + STAT_FULL_SIZE };
	char name[160];
	struct answer *a;
	struct wr w;

	if (o->err < 0)
		return req_fail(r, o->err, "open '%s': %s", ref_text(&o->auth, &o->ask.ref, name, sizeof(name)),
			error_text(o->err));
	a = answer_new(r, CAP);
	w = wr_of(a->meta, CAP);
	wr_u64(&w, opens_state(r->store->opens, o->auth.session));
	stat_entry_write(&w, &o->e, true);
	a->meta_len = (uint32_t)wr_len(&w);
	answer_send(r, a, true);
	return STEP_DONE;
}

static void body_free(struct req *r)
{
	free(r->body);
	r->body = NULL;
}

static const struct req_step open_steps[] = { { "parse", open_parse }, { "look", open_look_up },
	{ "answer", open_answer } };
const struct req_kind open_kind = {
	.op = OP_OPEN,
	.sees_own = true,
	.name = "open",
	.steps = open_steps,
	.step_count = 3,
	.cleanup = body_free,
};

/* ---- CLOSE ---- */

/* It has closed all: the next start need not wait for it. */
static void left_work(struct req *r)
{
	struct session *s = r->peer->session;

	(void)session_mark_opens(r->store, s, false); /* else it does */
	if (opens_state(r->store->opens, session_id(s)) != 0)
		(void)session_mark_opens(r->store, s, true); /* another one was opened meanwhile */
}

static enum step_result close_run(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	uint32_t count = cur_u32(&c);
	uint64_t session;

	if (r->peer->session == NULL) return req_fail(r, -GRANARY_EUNSUPPORTED, "CLOSE needs a session");
	if (!cur_ok(&c) || count > WIRE_BATCH_MAX || cur_left(&c) != 8 * (size_t)count)
		return req_fail(r, -GRANARY_EPROTO, "CLOSE does not parse, or has more than %d handles",
			WIRE_BATCH_MAX);
	session = session_id(r->peer->session);
	for (uint32_t i = 0; i < count; i++) open_close(r->store, session, cur_u64(&c));
	stat_add(&r->local->stats->entries[OP_CLOSE], count);
	if (count > 0) return STEP_NEXT;
	opens_end_session(r->store->opens, session);
	locks_end_session(r->store->locks, session);
	if (!session_has_opens(r->peer->session)) return STEP_NEXT;
	r->step++;
	return req_work(r, left_work);
}

static enum step_result close_answer(struct req *r)
{
	answer_empty(r);
	return STEP_DONE;
}

static const struct req_step close_steps[] = { { "close", close_run }, { "answer", close_answer } };
const struct req_kind close_kind = { .op = OP_CLOSE, .name = "close", .steps = close_steps, .step_count = 2 };
