/* SPDX-License-Identifier: Apache-2.0 */
/* delete.c -- batch delete: entries succeed or fail one by one, one commit (PROTOCOL 5.5). */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "req/mutation.h"

struct delete_entry {
	struct ns_ref ref;
	uint8_t condition;
	int err, planned;
	uint64_t if_version;
	struct ns_deleted out;
};

struct delete_req {
	struct mutation m;
	struct auth auth;
	uint32_t count;
	struct delete_entry *entries;
};

static struct delete_req *delete_of(const struct req *r)
{
	return r->body;
}

static const struct mutation_ops delete_ops;

static int entry_parse(struct delete_req *d, struct delete_entry *e, struct cur *c)
{
	e->err = ref_parse(c, &d->auth, &e->ref);
	if (e->err == -GRANARY_EPROTO) return e->err;
	e->condition = cur_u8(c);
	e->if_version = cur_u64(c);
	return cur_ok(c) && e->condition <= PUT_IF_VERSION ? 0 : -GRANARY_EPROTO;
}

static enum step_result delete_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	struct delete_req *d;
	uint32_t count;
	int err;

	if (mutation_begin(r, &c, &delete_ops, sizeof(*d)) < 0)
		return req_fail(r, -GRANARY_EPROTO, "DELETE does not parse");
	d = delete_of(r);
	err = auth_begin(r, &d->auth, GRANT_DELETE, bucket);
	if (err < 0) return req_fail(r, err, "cannot delete from this bucket: %s", error_text(err));
	d->m.relaxed = d->auth.bucket.relaxed != 0;
	count = cur_u32(&c);
	if (!cur_ok(&c) || count == 0 || count > WIRE_BATCH_MAX)
		return req_fail(
			r, -GRANARY_EPROTO, "DELETE: 1 to %d entries a request", WIRE_BATCH_MAX);
	d->entries = req_alloc(count * sizeof(*d->entries));
	memset(d->entries, 0, count * sizeof(*d->entries));
	for (; d->count < count; d->count++)
		if (entry_parse(d, &d->entries[d->count], &c) < 0)
			return req_fail(
				r, -GRANARY_EPROTO, "DELETE: entry %u does not parse", d->count);
	return cur_done(&c) ? STEP_NEXT
			    : req_fail(r, -GRANARY_EPROTO, "DELETE: bytes follow the last entry");
}

/* ---- plan (worker) ---- */

static int entry_plan(struct delete_req *d, struct delete_entry *e, struct ns_plan *plan)
{
	char name[KEY_LEN_MAX];
	struct ns_ref ref = e->ref;
	int err = auth_ref_found(&d->auth, &ref, name);

	if (err == 0)
		err = ns_plan_delete(
			plan, &ref, (enum ns_condition)e->condition, e->if_version, &e->out);
	return err;
}

static int delete_plan(struct req *r, struct ns_plan *plan)
{
	struct delete_req *d = delete_of(r);
	uint32_t done = 0;

	for (uint32_t i = 0; i < d->count; i++) {
		struct delete_entry *e = &d->entries[i];

		if (e->err < 0) continue;
		e->planned = entry_plan(d, e, plan);
		if (e->planned == -GRANARY_EBUSY) return e->planned;
		done += e->planned == 0;
	}
	return done == 0 ? MUTATION_NOTHING : 0;
}

/* ---- the end ---- */

static int entry_result(const struct delete_entry *e)
{
	return e->err < 0 ? e->err : e->planned;
}

static size_t delete_meta_cap(const struct req *r)
{
	return 4 + (size_t)delete_of(r)->count * (2 + 8 + 8);
}

static void delete_answer(struct req *r, struct wr *w)
{
	const struct delete_req *d = delete_of(r);

	wr_u32(w, d->count);
	for (uint32_t i = 0; i < d->count; i++) {
		const struct delete_entry *e = &d->entries[i];
		int err = entry_result(e);

		wr_u16(w, (uint16_t)-err);
		wr_u64(w, err == 0 ? e->out.version : 0);
		wr_u64(w, err == 0 ? e->out.size : 0);
	}
	stat_add(&r->local->stats->entries[OP_DELETE], d->count);
}

static uint32_t delete_statuses(const struct req *r, uint8_t *out)
{
	const struct delete_req *d = delete_of(r);

	for (uint32_t i = 0; i < d->count; i++) out[i] = (uint8_t)-entry_result(&d->entries[i]);
	return d->count;
}

static bool delete_list(const struct req *r, enum retry_field field, uint64_t *out)
{
	const struct delete_req *d = delete_of(r);

	if (field != RETRY_VERSION && field != RETRY_SIZE) return false;
	for (uint32_t i = 0; i < d->count; i++) {
		const struct ns_deleted *was = &d->entries[i].out;

		out[i] = field == RETRY_VERSION ? was->version : was->size;
	}
	return true;
}

/* What was deleted is gone: what the row of a large batch does not tell is answered as 0. */
static void delete_replay(struct req *r, const struct retry_row *row)
{
	struct delete_req *d = delete_of(r);

	for (uint32_t i = 0; i < d->count; i++) {
		struct delete_entry *e = &d->entries[i];

		e->err = retry_row_err(row, i);
		e->out = (struct ns_deleted){ 0 };
		(void)retry_row_get(row, RETRY_VERSION, i, &e->out.version);
		(void)retry_row_get(row, RETRY_SIZE, i, &e->out.size);
	}
}

static void delete_cleanup(struct req *r)
{
	if (r->body != NULL) free(delete_of(r)->entries);
	mutation_cleanup(r);
}

static const struct mutation_ops delete_ops = {
	.plan = delete_plan,
	.answer = delete_answer,
	.meta_cap = delete_meta_cap,
	.replay = delete_replay,
	.statuses = delete_statuses,
	.list = delete_list,
};
static const struct req_step delete_steps[] = { { "parse", delete_begin }, MUTATION_STEPS };
const struct req_kind delete_kind = {
	.op = OP_DELETE,
	.name = "delete",
	.action = GRANT_DELETE,
	.mutation = true,
	.steps = delete_steps,
	.step_count = 4,
	.cleanup = delete_cleanup,
};
