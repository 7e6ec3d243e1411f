/* SPDX-License-Identifier: Apache-2.0 */
/* put.c -- batch put: PARSE -> ADMIT -> CHECK -> APPEND -> APPENDED -> PLAN -> FINISH.
 *
 * Invariants: (1) a record is flushed before the transaction that names it is submitted (contract
 * B); (2) every append without an error is settled exactly once, after the transaction or when
 * there will be none; (3) an entry succeeds or fails alone; the request is one commit; (4) an entry
 * whose parent changed is appended anew, so that the directory in its record is the one its row
 * stands in. */
#include "req/put.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "meta/ids.h"
#include "tier/packs.h"

enum { VERIFY_INLINE_MAX = 128 * 1024, PUT_SHORT_MAX = 4 };

static struct put *put_of(const struct req *r)
{
	return r->body;
}

static const struct mutation_ops put_ops;

static enum step_result put_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	struct put *p;
	int err;

	if (mutation_begin(r, &c, &put_ops, sizeof(*p)) < 0)
		return req_fail(r, -GRANARY_EPROTO, "PUT does not parse");
	p = put_of(r);
	err = auth_begin(r, &p->auth, GRANT_WRITE, bucket);
	if (err < 0) return req_fail(r, err, "cannot write to this bucket: %s", error_text(err));
	p->m.relaxed = p->auth.bucket.relaxed != 0;
	if (put_parse(r, p, &c) < 0) return STEP_DONE;
	for (uint32_t i = 0; i < p->count; i++)
		if ((p->entries[i].flags & PUT_UPLOAD) != 0)
			p->m.is_unstable = false; /* its bytes cannot be sent again */
	return STEP_NEXT;
}

/* ---- check: grants, parents, bytes ---- */

/* Batches come in the order of directories: the parent of the entry before, just found, is most often
 * this one's. */
static bool same_parent(const struct put_entry *before, const struct put_entry *e)
{
	struct slice a, b, leaf;

	if (before == NULL || before->ref.by != NS_BY_KEY || e->ref.by != NS_BY_KEY) return false;
	key_split(before->ref.name, &a, &leaf);
	key_split(e->ref.name, &b, &leaf);
	return slice_eq(a, b);
}

static int entry_parent(struct put *p, struct put_entry *e, const struct put_entry *before, bool may_block)
{
	struct ns *ns = p->auth.store->ns;
	int err = auth_ref(&p->auth, &e->ref, may_block);

	if (err == 0 && same_parent(before, e)) {
		e->dir = before->dir;
		e->group = before->group;
		return 0;
	}
	if (err == 0) err = ns_parent_cached(ns, &e->ref, &e->dir, &e->group);
	if (err == -GRANARY_EAGAIN && may_block) err = ns_parent(ns, &e->ref, &e->dir, &e->group);
	return err;
}

/* Returns whether a worker has to go on. */
static bool put_parents(struct put *p, bool may_block)
{
	const struct put_entry *before = NULL; /* found in this pass */
	bool is_missing = false;

	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];
		int err;

		if (e->err < 0 || e->dir != 0) continue;
		err = entry_parent(p, e, before, may_block);
		if (err == 0) before = e;
		if (err == -GRANARY_EAGAIN && !may_block)
			is_missing = true;
		else
			e->err = err;
	}
	return is_missing;
}

static void put_check_work(struct req *r)
{
	struct put *p = put_of(r);

	if (!p->checked) put_verify(p);
	put_parents(p, true);
}

/* Entries whose parent changed begin anew; nobody else sees their old records. */
static void put_again(struct put *p)
{
	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];

		if (!e->again) continue;
		e->again = false;
		e->dir = 0;
		if (p->m.tail != NULL) continue;
		if (e->appended && e->append->err == 0) pack_append_settled(e->append);
		e->appended = false;
	}
}

/* Of what nobody waits for all is placed anew. */
static void put_again_unstable(struct put *p)
{
	if (p->m.tail == NULL) return;
	unstable_release(&p->m.tail);
	for (uint32_t i = 0; i < p->count; i++) p->entries[i].appended = false;
}

static enum step_result put_check(struct req *r)
{
	struct put *p = put_of(r);

	put_again(p);
	put_again_unstable(p);
	if (!p->checked && r->frame.data_len <= VERIFY_INLINE_MAX) put_verify(p);
	if (!put_parents(p, false) && p->checked) return STEP_NEXT;
	r->step++;
	return req_work(r, put_check_work);
}

/* ---- append ---- */

/* One that the client chose is of those that are reserved for its session. */
static void put_id(struct req *r, struct put_entry *e)
{
	bool is_given = (e->flags & PUT_HAS_ID) != 0;

	if (!is_given)
		e->id = ids_object(r->store->ids);
	else if (r->peer->session == NULL || !session_was_given(r->peer->session, e->id))
		e->err = e->err < 0 ? e->err : -GRANARY_ESTALE;
}

static void put_ids(struct req *r, struct put *p)
{
	struct ids *ids = r->store->ids;
	struct ids_block block = p->m.ids, *before = NULL;

	if (p->m.first_version != 0) return;
	if (p->m.is_unstable) before = ids_use(&block);
	p->m.first_version = ids_version_range(ids, p->count);
	for (uint32_t i = 0; i < p->count; i++) {
		p->entries[i].version = p->m.first_version + i;
		put_id(r, &p->entries[i]);
	}
	p->m.first_id = p->entries[0].id;
	if (!p->m.is_unstable) return;
	ids_use(before);
	p->m.ids_taken = p->m.versions_taken = p->count;
}

static void put_take_upload(struct req *r, struct put *p, struct put_entry *e)
{
	struct slice leaf = e->ref.name, dir;

	if (e->ref.by == NS_BY_KEY) key_split(e->ref.name, &dir, &leaf);
	e->err = r->peer->session == NULL ? -GRANARY_ESTALE
					  : upload_take(r->peer->session, e->upload_number, e->size,
						    e->dir, leaf, &e->upload);
	if (e->err < 0) return;
	e->id = e->upload->id;
	e->version = e->upload->version;
	e->hash = hash_stream_get(e->upload->hash);
	if (p->count == 1) {
		p->m.first_version = e->version;
		p->m.first_id = e->id;
	}
}

static void put_release(struct req *r, struct put *p, int err)
{
	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];

		if (e->appended && e->append->err == 0 && p->m.tail == NULL) pack_append_settled(e->append);
		e->appended = false;
		if (e->upload == NULL) continue;
		if (err == 0 && e->err == 0 && e->planned == 0)
			upload_done(r->peer->session, &e->upload);
		else
			upload_give_back(r->peer->session, &e->upload);
	}
}

static enum step_result put_append_step(struct req *r)
{
	struct put *p = put_of(r);
	int err = packs_room(r->store->packs, r->frame.data_len);

	if (err < 0) {
		req_set_error(r, err,
			"no space left in the store for %u bytes; free some or add a drive",
			r->frame.data_len);
		put_release(r, p, err);
		return mutation_fail(r);
	}
	put_ids(r, p);
	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];

		if (e->err == 0 && (e->flags & PUT_UPLOAD) != 0 && e->upload == NULL)
			put_take_upload(r, p, e);
	}
	r->step++; /* before: the writer's reactor may go on with it at once */
	if (put_append(r, p) > 0) return STEP_WAIT;
	r->step--;
	return STEP_NEXT;
}

static enum step_result put_appended(struct req *r)
{
	struct put *p = put_of(r);

	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];

		if (!e->appended || e->append->err == 0) continue;
		e->err = e->append->err;
		if (error_class(e->err) != ERROR_RETRY) continue;
		req_set_error(r, e->err, "the record cannot be stored now: %s", error_text(e->err));
		put_release(r, p, e->err);
		return mutation_fail(r);
	}
	return STEP_NEXT;
}

/* ---- plan (worker) ---- */

static int entry_plan(struct put_entry *e, struct ns_plan *plan)
{
	struct extent *extents = &e->append->extent; /* not used of an upload */
	struct ns_put put = {
		.ref = e->ref,
		.condition = (enum ns_condition)e->condition,
		.if_version = e->if_version,
		.parent = e->dir,
		.id = e->id,
		.version = e->version,
		.size = e->size,
		.mtime_ns = e->mtime_ns,
		.mode = e->mode,
		.uid = e->uid,
		.gid = e->gid,
		.has_hash = true,
		.hash = e->hash,
		.meta = e->meta,
		.extents = extents,
		.extent_count = 1,
	};
	int err;

	if (e->upload != NULL) {
		put.extent_count = e->upload->extent_count;
		extents = req_alloc((put.extent_count + 1) * sizeof(*extents));
		for (uint32_t i = 0; i < put.extent_count; i++)
			extents[i] = e->upload->extents[i]->append.extent;
		put.extents = extents;
	}
	err = ns_plan_put(plan, &put);
	e->replaced = put.replaced_version;
	if (e->upload != NULL) free(extents);
	return err;
}

static void put_account(struct put *p, struct kv_txn *txn)
{
	for (uint32_t i = 0; i < p->count; i++) {
		const struct put_entry *e = &p->entries[i];
		const struct pack_append *a = e->append;

		if (e->appended && a->err == 0) writers_account(txn, &a, 1);
		for (uint32_t x = 0;
			e->upload != NULL && e->planned == 0 && x < e->upload->extent_count; x++) {
			a = &e->upload->extents[x]->append;
			writers_account(txn, &a, 1);
		}
	}
}

static int put_plan(struct req *r, struct ns_plan *plan)
{
	struct put *p = put_of(r);
	uint32_t done = 0;
	bool is_again = false;

	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];

		if (e->err < 0) continue;
		e->planned = entry_plan(e, plan);
		if (e->planned == -GRANARY_EBUSY || e->planned == -GRANARY_EAGAIN) return e->planned;
		if (e->planned == -GRANARY_ECHANGED && e->upload != NULL)
			e->planned = -GRANARY_ESTALE;
		e->again = e->planned == -GRANARY_ECHANGED;
		is_again |= e->again;
		done += e->planned == 0;
	}
	if (is_again) return -GRANARY_ECHANGED;
	if (done == 0) return MUTATION_NOTHING;
	put_account(p, ns_plan_txn(plan));
	return 0;
}

static bool put_is_short(const struct req *r)
{
	return put_of(r)->count <= PUT_SHORT_MAX;
}

/* ---- the end ---- */

static int entry_result(const struct put_entry *e)
{
	return e->err < 0 ? e->err : e->planned;
}

static void put_settled(struct req *r, int err)
{
	put_release(r, put_of(r), err);
}

static uint32_t put_id_count(const struct req *r)
{
	return put_of(r)->count;
}

static size_t put_meta_cap(const struct req *r)
{
	return 4 + (size_t)put_of(r)->count * (2 + 4 * 8);
}

static void put_answer(struct req *r, struct wr *w)
{
	struct put *p = put_of(r);

	wr_u32(w, p->count);
	for (uint32_t i = 0; i < p->count; i++) {
		const struct put_entry *e = &p->entries[i];
		int err = entry_result(e);

		wr_u16(w, (uint16_t)-err);
		wr_u64(w, err == 0 ? e->id : 0);
		wr_u64(w, err == 0 ? e->version : 0);
		wr_u64(w, err == 0 ? e->dir : 0);
		wr_u64(w, err == 0 ? e->replaced : 0);
	}
	stat_add(&r->local->stats->entries[OP_PUT], p->count);
}

static uint32_t put_statuses(const struct req *r, uint8_t *out)
{
	const struct put *p = put_of(r);

	for (uint32_t i = 0; i < p->count; i++) out[i] = (uint8_t)-entry_result(&p->entries[i]);
	return p->count;
}

static bool put_list(const struct req *r, enum retry_field field, uint64_t *out)
{
	const struct put *p = put_of(r);

	for (uint32_t i = 0; i < p->count; i++) {
		const struct put_entry *e = &p->entries[i];

		switch (field) {
		case RETRY_VERSION: out[i] = e->version; break;
		case RETRY_ID: out[i] = e->id; break;
		case RETRY_DIR: out[i] = e->dir; break;
		case RETRY_REPLACED: out[i] = e->replaced; break;
		default: return false;
		}
	}
	return true;
}

/* What a row does not tell can be looked up while the object still is that version. */
static void entry_look_up(struct ns *ns, struct put_entry *e)
{
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;

	if (ns_lookup(ns, &e->ref, &place, &o, &value) < 0) return;
	if (o.version == e->version) {
		e->id = o.id;
		e->dir = place.dir;
	}
	kv_value_release(&value);
}

static void put_replay(struct req *r, const struct retry_row *row)
{
	struct put *p = put_of(r);

	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];
		bool is_told;

		e->err = retry_row_err(row, i);
		(void)retry_row_get(row, RETRY_VERSION, i, &e->version);
		(void)retry_row_get(row, RETRY_REPLACED, i, &e->replaced);
		is_told = retry_row_get(row, RETRY_ID, i, &e->id);
		is_told &= retry_row_get(row, RETRY_DIR, i, &e->dir);
		if (e->err == 0 && !is_told) entry_look_up(r->store->ns, e);
	}
}

static void put_cleanup(struct req *r)
{
	struct put *p = put_of(r);

	if (p != NULL) {
		free(p->entries);
		free(p->texts);
	}
	mutation_cleanup(r);
}

static const struct mutation_ops put_ops = {
	.plan = put_plan,
	.is_short = put_is_short,
	.settled = put_settled,
	.answer = put_answer,
	.meta_cap = put_meta_cap,
	.replay = put_replay,
	.statuses = put_statuses,
	.list = put_list,
	.ids = put_id_count,
	.restart = PUT_STEP_CHECK,
};
static const struct req_step put_steps[] = {
	{ "parse", put_begin },
	{ "admit", mutation_admit },
	[PUT_STEP_CHECK] = { "check", put_check },
	{ "append", put_append_step },
	{ "appended", put_appended },
	{ "plan", mutation_plan },
	[PUT_STEP_FINISH] = { "finish", mutation_finish },
};
const struct req_kind put_kind = {
	.op = OP_PUT,
	.name = "put",
	.action = GRANT_WRITE,
	.mutation = true,
	.steps = put_steps,
	.step_count = 7,
	.cleanup = put_cleanup,
};
