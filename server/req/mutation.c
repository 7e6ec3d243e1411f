/* SPDX-License-Identifier: Apache-2.0 */
/* mutation.c -- ADMIT -> (the kind's own) -> PLAN -> FINISH, the same for every mutation.
 *
 * Invariants: (1) what session_admit() let in is settled exactly once; (2) the retry row and the
 * row of the session are in the transaction that does the work; (3) a plan is submitted at most
 * once; after a conflict a new one is made, at most MUTATION_TRIES_MAX in all; (4) nothing is
 * answered before the commit is synced (contract A). */
#include "req/mutation.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/id.h"
#include "common/log.h"
#include "common/tlv.h"
#include "meta/ids.h"
#include "req/watch.h"

static struct mutation *mutation_of(const struct req *r)
{
	return r->body;
}

int mutation_begin(struct req *r, struct cur *c, const struct mutation_ops *ops, size_t body_size)
{
	struct mutation *m = req_alloc(body_size);

	memset(m, 0, body_size);
	r->body = m;
	m->r = r;
	m->ops = ops;
	m->session = r->peer->session;
	m->sequence = cur_u64(c);
	m->after = cur_u64(c);
	m->seen = cur_u64(c);
	if ((r->frame.flags & FRAME_FENCED) != 0) m->fence = cur_u64(c);
	m->is_replay = (r->frame.flags & FRAME_REPLAY) != 0;
	m->is_unstable = (r->frame.flags & (FRAME_UNSTABLE | FRAME_REPLAY)) != 0 && m->session != NULL &&
			 ops->run == NULL && r->store->options.unstable_budget > 0;
	m->verifier = store_verifier(r->store, kv_losses(r->store->kv));
	if (m->is_replay) {
		m->ids.id = cur_u64(c);
		m->ids.version = cur_u64(c);
	}
	list_init(&m->wait_node);
	return cur_ok(c) ? 0 : -GRANARY_EPROTO;
}

void mutation_cleanup(struct req *r)
{
	struct mutation *m = mutation_of(r);

	if (m == NULL) return;
	assert(!m->admitted && m->plan == NULL && list_empty(&m->wait_node));
	unstable_release(&m->tail);
	free(m);
	r->body = NULL;
}

void mutation_wake(struct mutation *m)
{
	req_post(m->r);
}

/* ---- answers ---- */

/* What is in the session's memory, or was settled just now. */
static enum step_result answer_result(struct req *r, const struct result *res)
{
	struct answer *a = answer_new(r, res->meta_len);

	if (res->meta_len > 0) memcpy(a->meta, res->meta, res->meta_len);
	a->meta_len = res->meta_len;
	a->status = res->status;
	a->flags = res->flags;
	answer_send(r, a, true);
	return STEP_DONE;
}

static void settle(struct req *r, const struct result *res)
{
	struct mutation *m = mutation_of(r);

	if (m->admitted) session_settle(m->session, m, res, m->has_row);
}

enum step_result mutation_fail(struct req *r)
{
	size_t len = strlen(r->text);
	uint8_t text[2 + sizeof(r->text)];
	struct wr w = wr_of(text, sizeof(text));
	struct result res = { .status = (uint16_t)-r->err, .meta = text };

	wr_bytes16(&w, slice_of(r->text, len));
	res.meta_len = (uint32_t)wr_len(&w);
	settle(r, &res);
	return STEP_DONE;
}

static enum step_result mutation_done(struct req *r)
{
	struct mutation *m = mutation_of(r);
	size_t cap = (m->ops->meta_cap != NULL ? m->ops->meta_cap(r) : 0) + UNSTABLE_TAIL_SIZE;
	struct result res = { .flags = m->relaxed ? FRAME_RELAXED : 0, .verifier = m->verifier };
	struct answer *a = answer_new(r, cap);
	struct wr w = wr_of(a->meta, cap);

	if (m->ops->answer != NULL) m->ops->answer(r, &w);
	if (m->is_pending) {
		res.flags |= FRAME_UNSTABLE;
		wr_u64(&w, m->verifier);
		wr_u64(&w, m->ids.id);
		wr_u64(&w, m->ids.version);
	}
	assert(wr_ok(&w));
	a->meta_len = res.meta_len = (uint32_t)wr_len(&w);
	a->flags = res.flags;
	res.meta = a->meta;
	settle(r, &res);
	answer_send(r, a, true);
	return STEP_DONE;
}

/* ---- admission ---- */

static int retry_row_read(struct req *r)
{
	struct mutation *m = mutation_of(r);
	uint8_t key[ROW_KEY_MAX];
	struct kv_value value;
	struct retry_row row;
	int err = kv_get(r->store->kv, row_retry(key, session_id(m->session), m->sequence), &value);

	if (err == -GRANARY_ENOTFOUND) return 0;
	if (err < 0) return err;
	err = retry_row_decode(value.v, &row);
	if (err == 0 && row.op != r->kind->op) err = -GRANARY_EPROTO;
	if (err == 0) {
		m->replayed = true;
		m->first_id = row.first_id;
		m->first_version = row.first_version;
		if (m->ops->replay != NULL) m->ops->replay(r, &row);
	}
	kv_value_release(&value);
	return err;
}

/* As a stranger: what it answers is durable. */
static void mutation_look_work(struct req *r)
{
	uint64_t before = kv_read_as(0);

	mutation_of(r)->err = retry_row_read(r);
	kv_read_as(before);
}

static enum step_result mutation_looked(struct req *r)
{
	struct mutation *m = mutation_of(r);

	if (m->err < 0) {
		req_set_error(r, m->err,
			"the row of sequence %llu cannot be read or is of another operation",
			(unsigned long long)m->sequence);
		return mutation_fail(r);
	}
	if (!m->replayed) return STEP_NEXT;
	stat_add(&r->local->stats->retries_answered, 1);
	m->has_row = true;
	return mutation_done(r);
}

static enum step_result mutation_refused(struct req *r, int err)
{
	const struct mutation *m = mutation_of(r);

	if (err == -GRANARY_EBUSY)
		return req_fail(r, err,
			"sequence %llu, or %llu before it, is not settled yet; try again",
			(unsigned long long)m->sequence, (unsigned long long)m->after);
	if (err == -GRANARY_ESTALE)
		return req_fail(r, err, "the session lost its lock: it was silent or away for longer than its lease");
	return req_fail(r, err,
		"sequence %llu (after %llu, seen %llu) does not fit: it was used or seen before, "
		"or is not above both",
		(unsigned long long)m->sequence, (unsigned long long)m->after,
		(unsigned long long)m->seen);
}

/* ---- its ids ---- */

static void mutation_reserve_work(struct req *r) { (void)session_reserve(r->store, mutation_of(r)->session); }

static enum step_result replay_refused(struct req *r)
{
	const struct mutation *m = mutation_of(r);

	req_set_error(r, -GRANARY_ESTALE,
		"sequence %llu was not durable before the restart, and cannot be done again: its ids are not among "
		"those reserved for the session (metadata from an older backup?)", (unsigned long long)m->sequence);
	log_warn("%s; session=%016llx", r->text, (unsigned long long)session_id(m->session));
	return mutation_fail(r);
}

static enum step_result mutation_ids(struct req *r)
{
	struct mutation *m = mutation_of(r);
	uint32_t n = MUTATION_IDS_MIN + (m->ops->ids != NULL ? m->ops->ids(r) : 0);

	if (!m->is_unstable) return STEP_NEXT;
	if (m->is_replay) {
		if (!session_owns_ids(m->session, m->ids.id, n) ||
			id_incarnation(m->ids.version) != id_incarnation(m->ids.id))
			return replay_refused(r);
		if (!session_is_marked(m->session)) { /* it was given up after the start */
			if (m->has_reserved) m->must_sync = true;
			if (!m->has_reserved) {
				m->has_reserved = true;
				return req_work(r, mutation_reserve_work);
			}
		}
	} else if (session_take_ids(m->session, n, &m->ids.id)) {
		m->ids.version = ids_version_range(r->store->ids, n);
	} else if (!m->has_reserved) {
		m->has_reserved = true;
		return req_work(r, mutation_reserve_work);
	} else {
		m->is_unstable = false; /* as any other */
		return STEP_NEXT;
	}
	m->ids.id_first = m->ids.id;
	m->ids.id_end = m->ids.id + n;
	m->ids.version_end = m->ids.version + n;
	m->ids.is_replay = m->is_replay;
	return STEP_NEXT;
}

enum step_result mutation_admit(struct req *r)
{
	struct mutation *m = mutation_of(r);
	struct result res = { 0 };
	enum step_result step;
	int got;

	if (m->admitted && !m->looked_up) return mutation_ids(r);
	if (m->looked_up) {
		step = mutation_looked(r);
		return step == STEP_NEXT ? mutation_ids(r) : step;
	}
	r->pending++; /* before: the wake may come at once */
	if (replays_wait(r->store->replays, m)) return STEP_WAIT;
	r->pending--;
	if (m->session == NULL) /* a front end without sessions */
		return STEP_NEXT;
	r->pending++;
	got = session_admit(m->session, m, (r->frame.flags & FRAME_RESENT) != 0, &res);
	if (got == ADMIT_WAIT) return STEP_WAIT;
	r->pending--;
	switch (got) {
	case ADMIT_RUN: return mutation_ids(r);
	case ADMIT_LOOK: m->looked_up = true; return req_work(r, mutation_look_work);
	case ADMIT_ANSWERED:
		stat_add(&r->local->stats->retries_answered, 1);
		step = answer_result(r, &res);
		if (res.meta != NULL) explicit_bzero(res.meta, res.meta_len);
		free(res.meta);
		return step;
	default: return mutation_refused(r, got);
	}
}

/* ---- plan and commit ---- */

static void put_retry_row(struct req *r, struct kv_txn *txn)
{
	struct mutation *m = mutation_of(r);
	uint8_t key[ROW_KEY_MAX], value[RETRY_ROW_MAX], statuses[WIRE_BATCH_MAX] = { 0 };
	uint32_t n = m->ops->statuses != NULL ? m->ops->statuses(r, statuses) : 1;
	struct retry_row row = {
		.op = r->kind->op,
		.first_version = m->first_version,
		.first_id = m->first_id,
		.written_ns = store_clock_now(r->store->clock),
		.statuses = slice_of(statuses, n),
	};
	size_t len = retry_row_encode(&row, m->ops->list, r, value);

	kv_put(txn, row_retry(key, session_id(m->session), m->sequence), slice_of(value, len));
}

static void put_session_row(struct req *r, struct kv_txn *txn)
{
	struct session *s = mutation_of(r)->session;
	uint64_t now = store_clock_now(r->store->clock);
	uint8_t key[ROW_KEY_MAX], value[SESSION_ROW_MAX];
	struct session_row row = { .key = session_key_id(s),
		.created_ns = now,
		.lease_ns = now + WIRE_LEASE_S * UINT64_C(1000000000) };

	kv_pre_absent(txn, 0, row_session(key, session_id(s)));
	kv_put(txn, row_session(key, session_id(s)), slice_of(value, session_row_encode(&row, value)));
}

static void plan_session_rows(struct req *r, struct kv_txn *txn)
{
	struct mutation *m = mutation_of(r);
	uint8_t key[ROW_KEY_MAX];
	struct kv_value value;

	if (m->session == NULL) return;
	put_retry_row(r, txn);
	if (m->tries > 1 && kv_get_cached(r->store->kv, row_session(key, session_id(m->session)), &value) == 0) {
		session_set_stored(m->session); /* another mutation was faster */
		kv_value_release(&value);
	}
	if (!session_stored(m->session)) put_session_row(r, txn);
	if (m->delete_count == 0)
		m->delete_count = session_take_deletes(m->session, m->deletes, SESSION_DELETES_MAX);
	for (uint32_t i = 0; i < m->delete_count; i++)
		kv_delete(txn, row_retry(key, session_id(m->session), m->deletes[i]));
}

static void deletes_return(struct mutation *m)
{
	if (m->delete_count > 0) session_return_deletes(m->session, m->deletes, m->delete_count);
	m->delete_count = 0;
}

static int plan_fill(struct req *r, bool may_block)
{
	struct mutation *m = mutation_of(r);
	int err;

	m->plan = ns_plan_new(r->store->ns);
	if (m->plan == NULL) return -GRANARY_ENOMEM;
	if (!may_block) ns_plan_set_unblocking(m->plan);
	err = m->ops->plan(r, m->plan);
	if (err != 0) return err;
	plan_session_rows(r, ns_plan_txn(m->plan));
	return ns_plan_finish(m->plan);
}

/* Sees what its session has pending, and takes its ids from its own. */
static int plan_make(struct req *r, bool may_block)
{
	struct mutation *m = mutation_of(r);
	struct ids_block ids = m->ids, *ids_before = NULL;
	uint64_t read_before = kv_read_as(m->session != NULL ? session_id(m->session) : 0);
	int err;

	if (m->is_unstable) {
		ids.id += m->ids_taken;
		ids.version += m->versions_taken;
		ids_before = ids_use(&ids);
	}
	err = plan_fill(r, may_block);
	if (m->is_unstable) ids_use(ids_before);
	kv_read_as(read_before);
	m->is_short_of_ids = ids.is_short;
	return err;
}

static void commit_done(struct task *task)
{
	req_resume(container_of(task, struct req, done));
}

/* True: it was judged here and now, nothing will be posted. */
static bool plan_submit(struct req *r)
{
	struct mutation *m = mutation_of(r);
	struct kv_txn *txn = ns_plan_txn(m->plan);

	m->submitted = true;
	r->done.fn = commit_done;
	if (m->is_unstable) {
		if (m->tail == NULL) m->tail = unstable_new(r->local, 0);
		kv_txn_set_unstable(txn, session_id(m->session), &m->tail->hold,
			m->tail->count * sizeof(struct pack_append), &m->tail->settled);
		m->tail->is_flying = true; /* before: it may be settled at once */
		if (kv_submit_now(r->store->kv, txn, r->local->reactor)) return true;
	}
	kv_submit(r->store->kv, txn, r->local->reactor, &r->done);
	return false;
}

static void mutation_plan_task(struct task *task)
{
	struct req *r = container_of(task, struct req, task);
	struct mutation *m = mutation_of(r);

	if (m->ops->run != NULL)
		m->err = m->ops->run(r);
	else
		m->err = plan_make(r, true);
	if (m->err != 0 || m->ops->run != NULL || plan_submit(r)) req_post(r);
}

/* Two switches of threads cost more than a short plan. */
static bool mutation_plan_here(struct req *r)
{
	struct mutation *m = mutation_of(r);

	if (m->ops->is_short == NULL || !m->ops->is_short(r)) return false;
	m->err = plan_make(r, false);
	if (m->err != 0 && m->plan != NULL) ns_plan_free(&m->plan);
	return m->err == 0 || m->err == -GRANARY_ECHANGED;
}

struct kv_txn *mutation_plan_early(struct req *r, uint32_t finish_step)
{
	struct mutation *m = mutation_of(r);

	m->err = plan_make(r, false);
	if (m->err != 0) { /* its turn comes */
		if (m->plan != NULL) ns_plan_free(&m->plan);
		deletes_return(m);
		return NULL;
	}
	m->tries++;
	m->submitted = true;
	m->early_step = r->step;
	r->step = finish_step;
	r->done.fn = commit_done;
	return ns_plan_txn(m->plan);
}

void mutation_drop_early(struct req *r)
{
	struct mutation *m = mutation_of(r);

	m->tries--;
	m->submitted = false;
	r->step = m->early_step;
	deletes_return(m);
	ns_plan_free(&m->plan);
}

enum step_result mutation_plan(struct req *r)
{
	struct mutation *m = mutation_of(r);

	m->tries++;
	m->submitted = false;
	r->step++;
	r->pending++;
	if (mutation_plan_here(r)) {
		if (m->err == 0 && !plan_submit(r)) return STEP_WAIT;
		r->pending--;
		r->step--;
		return STEP_NEXT;
	}
	r->task.fn = mutation_plan_task;
	workers_post(r->store->workers, &r->task);
	return STEP_WAIT;
}

/* The transaction goes on by itself when it is pending. */
static void plan_hand_over(struct mutation *m)
{
	struct kv_txn *txn = ns_plan_txn(m->plan);

	if (!kv_txn_is_unstable(txn)) return; /* made early, and submitted with its records */
	m->is_pending = kv_txn_is_pending(txn);
	if (!m->is_pending) {
		m->tail->is_flying = false;
		return;
	}
	m->losses = kv_txn_losses(txn);
	m->verifier = store_verifier(m->r->store, m->losses);
	if (!m->tail->is_settled) m->tail->txn = ns_plan_take_txn(m->plan);
}

static int plan_settle(struct req *r)
{
	struct mutation *m = mutation_of(r);
	int err = m->submitted ? kv_txn_result(ns_plan_txn(m->plan)) : m->err;

	if (m->plan != NULL) {
		if (m->submitted) ns_plan_committed(m->plan, err);
		if (m->submitted && err == 0 && watches_are_wanted(m->r->store->watches))
			watches_note(m->r->store->watches, m->session != NULL ? session_id(m->session) : 0, m->plan);
		if (m->submitted && m->is_unstable) plan_hand_over(m);
		ns_plan_free(&m->plan);
	}
	return err;
}

static enum step_result mutation_failed(struct req *r, int err)
{
	struct mutation *m = mutation_of(r);

	deletes_return(m);
	if (m->ops->settled != NULL) m->ops->settled(r, err);
	if (r->err == 0)
		req_set_error(r, err,
			err == -GRANARY_EBUSY
				? "%s: other requests kept changing the same names; try again"
				: "%s: the commit failed",
			r->kind->name);
	r->err = err;
	return mutation_fail(r);
}

/* It is pending, and may not be answered so: what it made could not be made again under the same ids. */
static enum step_result mutation_sync(struct req *r)
{
	struct mutation *m = mutation_of(r);

	m->is_syncing = true;
	r->pending++;
	r->done.fn = commit_done;
	kv_sync(r->store->kv, &m->sync, r->local->reactor, &r->done);
	return STEP_WAIT;
}

static enum step_result mutation_synced(struct req *r)
{
	struct mutation *m = mutation_of(r);

	m->is_pending = false;
	if (kv_losses(r->store->kv) != m->losses) return mutation_failed(r, -GRANARY_EBUSY);
	if (m->ops->settled != NULL) m->ops->settled(r, 0);
	return mutation_done(r);
}

enum step_result mutation_finish(struct req *r)
{
	struct mutation *m = mutation_of(r);
	int err;

	if (m->is_syncing) return mutation_synced(r);
	err = plan_settle(r);

	if ((err == -GRANARY_EBUSY || err == -GRANARY_ECHANGED) && m->tries < MUTATION_TRIES_MAX) {
		r->err = 0;
		r->step = (err == -GRANARY_ECHANGED ? m->ops->restart : r->step - 1) -
			  1; /* NEXT adds one */
		return STEP_NEXT;
	}
	if (err == -GRANARY_ECHANGED) err = -GRANARY_EBUSY;
	if (err < 0) return mutation_failed(r, err);
	if (m->submitted && m->session != NULL) {
		m->has_row = true;
		m->delete_count = 0;
		session_set_stored(m->session);
	} else if (m->session != NULL) {
		deletes_return(m);
	}
	if (m->is_pending && (m->is_short_of_ids || m->must_sync)) return mutation_sync(r);
	if (m->ops->settled != NULL) m->ops->settled(r, 0);
	return mutation_done(r);
}
