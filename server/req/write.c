/* SPDX-License-Identifier: Apache-2.0 */
/* write.c -- changes of an object in place (PROTOCOL 5.17): PARSE -> ADMIT -> FIND -> APPEND -> TURN -> PLAN
 * -> FINISH.
 *
 * Invariants: (1) all records are flushed before the transaction that names them is submitted (contract B),
 * or, of one that may be answered before, they are placed, and flushed before it is written; (2) every append
 * without an error is settled exactly once; (3) the changes of a request are one commit, in their order; (4)
 * requests for one object are planned one after the other, in the order in which their records were flushed or
 * placed; (5) an object that has the name no more is found again, and what was appended for it is appended anew. */
#include "req/write.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/tlv.h"
#include "meta/ids.h"
#include "tier/packs.h"

static struct write_req *write_of(const struct req *r)
{
	return r->body;
}

static const struct mutation_ops write_ops;

/* ---- parse ---- */

static int change_parse(struct req *r, struct cur *c, struct write_part *p, struct ns_change *x, uint64_t *at)
{
	x->kind = (enum ns_change_kind)cur_u8(c);
	x->offset = cur_u64(c);
	x->length = cur_u64(c);
	if (!cur_ok(c) || x->kind < NS_CHANGE_DATA || x->kind > NS_CHANGE_TRUNCATE) return -GRANARY_EPROTO;
	if (x->kind != NS_CHANGE_DATA) return 0;
	if (x->length == 0 || x->length > WIRE_ENTRY_DATA_MAX || x->length > r->frame.data_len - *at)
		return -GRANARY_EPROTO;
	p->data = r->data + *at;
	p->crcs = cur_bytes(c, 4 * (size_t)crc_block_count(x->length)).p;
	*at += x->length;
	return 0;
}

static int changes_parse(struct req *r, struct cur *c, struct write_req *w)
{
	uint64_t at = 0;

	if (!cur_ok(c) || w->count == 0 || w->count > WIRE_BATCH_MAX) return -GRANARY_EPROTO;
	w->parts = req_alloc(w->count * sizeof(*w->parts));
	w->changes = req_alloc(w->count * sizeof(*w->changes));
	memset(w->parts, 0, w->count * sizeof(*w->parts));
	memset(w->changes, 0, w->count * sizeof(*w->changes));
	for (uint32_t i = 0; i < w->count; i++) {
		int err = change_parse(r, c, &w->parts[i], &w->changes[i], &at);

		if (err < 0) return err;
		w->parts[i].write = w;
		w->data_count += w->parts[i].data != NULL;
	}
	return at == r->frame.data_len ? 0 : -GRANARY_EPROTO;
}

static enum step_result write_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct write_req *w;
	int err, err_changes;

	if (name_begin(r, &c, &write_ops, sizeof(*w), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	w = write_of(r);
	w->r = r;
	err = ref_parse(&c, &w->n.auth, &w->n.ref);
	w->write.if_version = cur_u64(&c);
	w->write.mtime_ns = cur_u64(&c);
	w->count = cur_u32(&c);
	err_changes = changes_parse(r, &c, w);
	return name_parsed(r, &c, err_changes < 0 ? err_changes : err);
}

/* ---- find: which object it is, where it is packed; its bytes against their checksums ---- */

static int bytes_verify(struct write_req *w)
{
	uint32_t crcs[EXTENT_CRCS_MAX];

	for (uint32_t i = 0; i < w->count && !w->is_verified; i++) {
		const struct write_part *p = &w->parts[i];

		if (p->data == NULL) continue;
		crc32c_blocks(crcs, p->data, w->changes[i].length);
		if (memcmp(crcs, p->crcs, 4 * (size_t)crc_block_count(w->changes[i].length)) != 0)
			return -GRANARY_ECORRUPT;
	}
	w->is_verified = true;
	return 0;
}

/* Objects that requests of this reactor wrote lately, by their ids: a name may be another object's by now, and
 * a record that says so would mislead a rebuild. It may be out of date: the plan sees whether the object is
 * still there, and then it is looked up; that its record carries the name it had is no harm (ns_write.c,
 * invariant 7). */
enum { WRITTEN_COUNT = 16, VERIFY_INLINE_MAX = 128 * 1024, SHORT_MAX = 4 };
struct written {
	uint64_t id, dir, group; /* id 0: none */
	uint32_t generation;
	uint16_t name_len;
	char name[KEY_LEN_MAX];
};

static void written_note(struct req *r, const struct write_req *w)
{
	struct written *at;

	if (w->dir == 0 || w->n.ref.by != NS_BY_ID) return; /* it has no name */
	if (r->local->written == NULL) {
		r->local->written = req_alloc(WRITTEN_COUNT * sizeof(struct written));
		for (int i = 0; i < WRITTEN_COUNT; i++) r->local->written[i].id = 0;
	}
	at = &r->local->written[hash_u64(w->write.id) % WRITTEN_COUNT];
	at->id = w->write.id;
	at->dir = w->dir;
	at->group = w->group;
	at->generation = w->generation;
	at->name_len = w->name_len;
	memcpy(at->name, w->name, w->name_len);
}

/* On the reactor, the first time. */
static bool written_find(struct req *r, struct write_req *w)
{
	struct written *at = r->local->written;

	if (at == NULL || w->n.ref.by != NS_BY_ID) return false;
	at += hash_u64(w->n.ref.id) % WRITTEN_COUNT;
	if (at->id == w->n.ref.id && w->n.m.tries > 0) at->id = 0; /* it is not what it was */
	if (at->id != w->n.ref.id) return false;
	if (auth_entry(&w->n.auth, at->dir, slice_of(at->name, at->name_len), false) < 0) return false;
	w->write.id = at->id;
	w->dir = at->dir;
	w->group = at->group;
	w->generation = at->generation;
	w->name_len = at->name_len;
	memcpy(w->name, at->name, at->name_len);
	return true;
}

static int object_find(struct req *r, struct write_req *w)
{
	struct kv_value value = { 0 };
	struct ns_place place;
	struct ns_ref by_name;
	struct object o;
	int err = auth_ref(&w->n.auth, &w->n.ref, true);

	if (err == 0) err = ns_lookup(r->store->ns, &w->n.ref, &place, &o, &value);
	if (err < 0) return err;
	w->write.id = o.id;
	w->generation = o.generation;
	err = o.is_dir ? -GRANARY_EISDIR : object_has_bytes(&o) ? 0 : -GRANARY_ENOTFILE;
	if (err == 0 && w->n.ref.by == NS_BY_ID) err = auth_place(&w->n.auth, &place);
	kv_value_release(&value);
	if (err < 0) return err;
	w->name_len = (uint16_t)place.name.len;
	w->dir = place.dir;
	w->group = place.bucket;
	if (place.orphan != 0) return 0; /* it has no name */
	memcpy(w->name, place.name.p, place.name.len);
	by_name = (struct ns_ref){ .by = NS_BY_NAME, .dir = place.dir, .name = slice_of(w->name, w->name_len) };
	err = ns_parent_cached(r->store->ns, &by_name, &w->dir, &w->group);
	return err == -GRANARY_EAGAIN ? ns_parent(r->store->ns, &by_name, &w->dir, &w->group) : err;
}

static void find_work(struct req *r)
{
	struct write_req *w = write_of(r);

	w->err = bytes_verify(w);
	if (w->err == 0) w->err = object_find(r, w);
	w->is_looked_up = w->err == 0;
}

static void parts_settle(struct write_req *w)
{
	for (uint32_t i = 0; i < w->count; i++) {
		struct write_part *p = &w->parts[i];

		if (p->is_appended && p->append->err == 0 && w->n.m.tail == NULL) pack_append_settled(p->append);
		p->is_appended = false;
	}
}

static enum step_result write_failed(struct req *r, int err)
{
	struct write_req *w = write_of(r);

	parts_settle(w);
	lane_leave(r->store->lanes, &w->lane);
	if (r->err == 0) (void)name_failed(r, &w->n.auth, &w->n.ref, err);
	if (r->err == 0) req_set_error(r, err, "write: %s", error_text(err));
	r->err = err;
	return mutation_fail(r);
}

static enum step_result write_find(struct req *r)
{
	struct write_req *w = write_of(r);

	parts_settle(w); /* of an object that was found before and has the name no more */
	unstable_release(&w->n.m.tail);
	lane_leave(r->store->lanes, &w->lane);
	if (r->frame.data_len <= VERIFY_INLINE_MAX && written_find(r, w)) {
		w->err = bytes_verify(w);
		return STEP_NEXT;
	}
	r->step++;
	return req_work(r, find_work);
}

/* ---- append ---- */

static void append_done(struct task *task)
{
	struct write_part *p = container_of(task, struct write_part, own.done);

	assert(p->write->appending > 0);
	if (--p->write->appending == 0) req_resume(p->write->r);
}

/* It is placed, or failed. */
static void append_done_unstable(struct task *task)
{
	struct pack_append *a = container_of(task, struct pack_append, done);
	struct write_req *w = ((struct unstable *)a->user)->context;

	if (a->err < 0) unstable_append_failed(a->user);
	assert(w->appending > 0);
	if (--w->appending == 0) req_resume(w->r);
}

/* FORMAT 3.2, 6.9b; size: so far. */
static struct slice part_attrs(const struct write_req *w, struct write_part *p, uint64_t size)
{
	struct wr t = wr_of(p->attrs, sizeof(p->attrs));

	if (w->bucket != 0) tlv_put_u64(&t, TAG_BUCKET, w->bucket);
	tlv_put_u64(&t, TAG_SIZE, size);
	tlv_put_u64(&t, TAG_MTIME, w->write.mtime_ns != 0 ? w->write.mtime_ns : clock_wall_ns());
	assert(wr_ok(&t));
	return slice_of(p->attrs, wr_len(&t));
}

static struct pack_append *append_fill(struct req *r, struct write_req *w, uint32_t i, uint32_t nth)
{
	struct write_part *p = &w->parts[i];
	struct unstable *tail = w->n.m.tail;
	struct pack_append *a = tail != NULL ? &tail->appends[nth] : &p->own;

	memset(a, 0, sizeof(*a));
	if (tail != NULL) unstable_append_begin(tail, a);
	a->done.fn = tail != NULL ? append_done_unstable : append_done;
	a->notify = r->local->reactor;
	a->group = w->group;
	a->object_id = w->write.id;
	a->version = w->record_version;
	a->dir_id = w->dir;
	a->logical = w->changes[i].offset;
	a->generation = w->generation;
	a->key = slice_of(w->key, w->key_len);
	a->name = slice_of(w->name, w->name_len);
	a->attrs = part_attrs(w, p, w->changes[i].offset + w->changes[i].length);
	a->crcs = p->crcs;
	a->data = p->data;
	a->data_len = (uint32_t)w->changes[i].length;
	p->append = a;
	p->is_appended = true;
	return a;
}

/* The first version of those that it may take, and the same when it is done again. */
static void record_version_take(struct req *r, struct write_req *w)
{
	w->record_version = w->n.m.is_unstable ? w->n.m.ids.version : ids_version(r->store->ids);
	w->n.m.versions_taken = 1;
	if (!w->n.m.is_unstable) return;
	w->n.m.tail = unstable_new(r->local, w->data_count);
	w->n.m.tail->context = w;
}

static enum step_result write_append(struct req *r)
{
	struct write_req *w = write_of(r);
	struct pack_append *first = NULL, **last = &first;
	struct ns_ref at = { .by = NS_BY_NAME, .dir = w->dir, .name = slice_of(w->name, w->name_len) };
	struct wr key = wr_of(w->key, sizeof(w->key));

	if (w->is_looked_up) written_note(r, w);
	w->is_looked_up = false;
	if (w->err == 0) w->err = packs_room(r->store->packs, r->frame.data_len);
	if (w->err < 0) return write_failed(r, w->err);
	if (w->data_count == 0) return STEP_NEXT;
	record_version_take(r, w);
	w->key_len = ref_record_key(&w->n.auth, &at, &key, &w->bucket).len;
	for (uint32_t i = 0; i < w->count; i++) {
		if (w->parts[i].data == NULL) continue;
		*last = append_fill(r, w, i, w->appending);
		last = &(*last)->next;
		w->appending++;
	}
	r->step++;
	r->pending++;
	pack_append(r->store->writers, first); /* the request is the writers' after this line */
	return STEP_WAIT;
}

/* ---- its turn ---- */

static void lane_turn(struct lane_wait *lane)
{
	struct req *r = container_of(lane, struct write_req, lane)->r;

	req_post(r);
}

static enum step_result write_turn(struct req *r)
{
	struct write_req *w = write_of(r);

	for (uint32_t i = 0; i < w->count; i++) {
		struct write_part *p = &w->parts[i];

		if (!p->is_appended) continue;
		if (p->append->err < 0) return write_failed(r, p->append->err);
		w->changes[i].extent = p->append->extent;
	}
	w->lane.turn = lane_turn;
	r->step++;
	r->pending++; /* before: the turn may come at once */
	if (!lane_enter(r->store->lanes, &w->lane, w->write.id)) return STEP_WAIT;
	r->pending--;
	r->step--;
	return STEP_NEXT;
}

/* ---- plan ---- */

static int write_plan(struct req *r, struct ns_plan *plan)
{
	struct write_req *w = write_of(r);
	struct ns_write *x = &w->write;
	int err;

	x->ref = w->n.ref;
	x->changes = w->changes;
	x->count = w->count;
	x->generation = w->generation;
	err = ns_plan_write(plan, x);
	if (err == -GRANARY_EAGAIN) return err; /* a worker plans it */
	if (err < 0) return name_failed(r, &w->n.auth, &w->n.ref, err);
	for (uint32_t i = 0; i < w->count; i++) {
		const struct pack_append *a = w->parts[i].append;

		if (w->parts[i].is_appended) writers_account(ns_plan_txn(plan), &a, 1);
	}
	w->n.m.first_id = x->object;
	w->n.m.first_version = x->version;
	return 0;
}

static void write_settled(struct req *r, int err)
{
	struct write_req *w = write_of(r);

	(void)err;
	parts_settle(w);
	lane_leave(r->store->lanes, &w->lane);
}

static size_t write_meta_cap(const struct req *r)
{
	(void)r;
	return 3 * 8;
}

static void write_answer(struct req *r, struct wr *out)
{
	const struct write_req *w = write_of(r);

	wr_u64(out, w->n.m.first_id);
	wr_u64(out, w->n.m.first_version);
	wr_u64(out, w->write.size);
	stat_add(&r->local->stats->entries[OP_WRITE], w->count);
}

static bool write_list(const struct req *r, enum retry_field field, uint64_t *out)
{
	if (field != RETRY_SIZE) return false;
	out[0] = write_of(r)->write.size;
	return true;
}

static void write_replay(struct req *r, const struct retry_row *row)
{
	(void)retry_row_get(row, RETRY_SIZE, 0, &write_of(r)->write.size);
}

static void write_cleanup(struct req *r)
{
	struct write_req *w = write_of(r);

	if (w != NULL) {
		assert(!w->lane.is_in);
		free(w->parts);
		free(w->changes);
	}
	mutation_cleanup(r);
}

static bool write_is_short(const struct req *r)
{
	return write_of(r)->count <= SHORT_MAX;
}

static const struct mutation_ops write_ops = { .plan = write_plan,
	.is_short = write_is_short,
	.settled = write_settled,
	.answer = write_answer,
	.meta_cap = write_meta_cap,
	.list = write_list,
	.replay = write_replay,
	.restart = WRITE_STEP_FIND };
static const struct req_step write_steps[] = {
	{ "parse", write_begin },
	{ "admit", mutation_admit },
	[WRITE_STEP_FIND] = { "find", write_find },
	{ "append", write_append },
	{ "turn", write_turn },
	{ "plan", mutation_plan },
	{ "finish", mutation_finish },
};
const struct req_kind write_kind = {
	.op = OP_WRITE,
	.name = "write",
	.action = GRANT_WRITE,
	.mutation = true,
	.steps = write_steps,
	.step_count = 7,
	.cleanup = write_cleanup,
};
