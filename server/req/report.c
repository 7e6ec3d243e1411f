/* SPDX-License-Identifier: Apache-2.0 */
/* report.c -- consumers of snapshots tell what they do, which is their lease, and who asks gets the
 * list (PROTOCOL 4.9). */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/provenance.h"
#include "common/token.h"
#include "jobs/ahead.h"
#include "jobs/recipe.h"
#include "jobs/snapshot.h"
#include "meta/provenance.h"
#include "meta/snapshot.h"
#include "req/kind.h"
#include "tier/heat.h"

struct report_req {
	struct auth auth;
	struct snapshot_report report;
	struct provenance_page page;
	struct token token; /* of the order that it goes through */
	bool has_order;
	uint64_t share;
	char *text;
	size_t len;
	int err;
};

static void body_free(struct req *r)
{
	struct report_req *b = r->body;

	r->body = NULL;
	if (b != NULL) free(b->text);
	if (b != NULL) free(b->page.text);
	free(b);
}

static struct report_req *body_new(struct req *r)
{
	struct report_req *b = req_alloc(sizeof(*b));

	memset(b, 0, sizeof(*b));
	r->body = b;
	return b;
}

static bool is_visible(struct slice s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.p[i] <= ' ' || s.p[i] >= 127) return false;
	return true;
}

/* Jobs and hosts stand in lines of name=value pairs. */
static bool is_word(struct slice s)
{
	return s.len > 0 && s.len <= LEASE_JOB_MAX && is_visible(s);
}

/* NAME/PREFIX is a part of snapshot NAME, which the lease is on. */
static void source_split(struct snapshot_report *p)
{
	const uint8_t *slash = memchr(p->source.p, '/', p->source.len);

	if (slash != NULL) p->name.len = (size_t)(slash - p->source.p);
}

/* ---- report ---- */

static bool may_read(void *arg, struct slice bucket_name, struct slice prefix)
{
	const struct req *r = arg;

	return ns_key_allows(r->peer->key, GRANT_READ, bucket_name, prefix);
}

/* A snapshot or a recipe, all of which the key may read. */
static int judge(struct req *r)
{
	struct report_req *b = r->body;
	struct snapshots *s = r->store->snapshots;
	struct recipe_asker asker = { may_read, r };
	struct snapshot_open *o;
	int err = snapshot_ref(s, b->report.bucket, b->report.name, &o);

	if (err == -GRANARY_ENOTFOUND)
		return recipes_judge_name(s, b->report.bucket, b->report.name, &asker);
	if (err < 0) return err;
	if (!auth_key(&b->auth, slice_of(o->prefix, o->prefix_len))) err = -GRANARY_EACCESS;
	snapshot_unref(s, &o);
	return err;
}

/* Packs that its order needs come up from cold stores before it needs them. */
static void announce(const struct req *r)
{
	const struct report_req *b = r->body;
	const struct snapshot_report *p = &b->report;
	const struct ahead_report a = { .bucket = p->bucket, .name = p->name, .job = p->job, .host = p->host,
		.rank = p->rank, .token = b->token, .position = p->position, .of = p->of, .elapsed_ns = p->elapsed_ns,
		.ended = p->ended };

	if (r->store->ahead != NULL) ahead_report(r->store->ahead, &a);
}

static void report_work(struct req *r)
{
	struct report_req *b = r->body;

	b->err = judge(r);
	if (b->err == 0) b->err = snapshots_report(r->store->snapshots, &b->report, &b->share);
	if (b->err == 0 && b->has_order) announce(r);
	if (b->err == 0)
		heat_name_job(r->store->heat, hash_content(b->report.job.p, b->report.job.len).lo,
			(const char *)b->report.job.p, b->report.job.len);
}

static void provenance_parse(struct snapshot_report *p, struct cur *c)
{
	p->elapsed_ns = cur_u64(c);
	p->begun_ns = cur_u64(c);
	p->id = cur_u64(c);
	p->token = cur_bytes16(c);
	p->batch = cur_u32(c);
	p->last = cur_u8(c);
	p->first = cur_u32(c);
	p->step = cur_u32(c);
	p->delivered = cur_u64(c);
	p->checksum = cur_u64(c);
	p->skipped = cur_u64(c);
	uint16_t count = cur_u16(c);
	if (count > PROVENANCE_SKIPS_MAX) c->bad = true;
	p->skips = cur_bytes(c, (size_t)count * PROVENANCE_SKIP_SIZE);
}

static enum step_result report_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct report_req *b = body_new(r);
	struct snapshot_report *p = &b->report;
	char why[128];
	uint8_t flags;
	int err;

	p->bucket_name = cur_bytes16(&c);
	p->source = p->name = cur_bytes16(&c);
	p->job = cur_bytes16(&c);
	p->host = cur_bytes16(&c);
	p->rank = cur_u32(&c);
	p->world = cur_u32(&c);
	p->weight = cur_u32(&c);
	p->epoch = cur_u64(&c);
	p->position = cur_u64(&c);
	p->of = cur_u64(&c);
	p->samples = cur_u64(&c);
	p->bytes = cur_u64(&c);
	p->waited_ns = cur_u64(&c);
	flags = cur_flags(&c, STREAM_ENDED | STREAM_PROVENANCE | STREAM_ELAPSED | STREAM_ORDER);
	p->ended = (flags & STREAM_ENDED) != 0;
	p->has_provenance = (flags & STREAM_PROVENANCE) != 0;
	if (p->has_provenance)
		provenance_parse(p, &c);
	else if ((flags & STREAM_ELAPSED) != 0)
		p->elapsed_ns = cur_u64(&c);
	if ((flags & STREAM_ORDER) != 0) p->token = cur_bytes16(&c);
	b->has_order = p->has_provenance || (flags & STREAM_ORDER) != 0;
	if (!cur_done(&c) || p->bucket_name.len == 0)
		return req_fail(r, -GRANARY_EPROTO, "STREAM_REPORT does not parse");
	if (b->has_order && token_decode(&b->token, p->token.p, p->token.len, why, sizeof(why)) < 0)
		return req_fail(r, -GRANARY_EINVAL, "STREAM_REPORT: the token where it begins: %s", why);
	source_split(p);
	if (p->source.len > PROVENANCE_NAME_MAX || !is_visible(p->source))
		return req_fail(r, -GRANARY_EINVAL, "STREAM_REPORT: the directory behind the snapshot's name");
	if (snapshot_name_check(p->name) < 0 || !is_word(p->job) || !is_word(p->host))
		return req_fail(r, -GRANARY_EINVAL,
			"job and host are 1 to %d visible ASCII characters without spaces",
			LEASE_JOB_MAX);
	err = auth_begin(r, &b->auth, GRANT_READ, p->bucket_name);
	if (err < 0) return req_fail(r, err, "cannot report: %s", error_text(err));
	p->bucket = b->auth.bucket.id;
	r->step++;
	return req_work(r, report_work);
}

static enum step_result report_answer(struct req *r)
{
	struct report_req *b = r->body;
	struct answer *a;
	struct wr w;

	if (b->err < 0)
		return req_fail(r, b->err, "cannot keep the report: %s", error_text(b->err));
	a = answer_new(r, 8);
	w = wr_of(a->meta, 8);
	wr_u64(&w, b->share);
	a->meta_len = 8;
	answer_send(r, a, true);
	return STEP_DONE;
}

/* ---- provenance ---- */

static bool may_list(void *arg, struct slice bucket)
{
	const struct req *r = arg;

	return auth_any_in(r->peer->key, GRANT_READ, bucket);
}

static void provenance_work(struct req *r)
{
	struct report_req *b = r->body;

	b->err = snapshots_provenance(r->store->snapshots, &b->page);
}

static enum step_result provenance_ask(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct report_req *b = body_new(r);
	struct provenance_page *p = &b->page;
	struct slice bucket = cur_bytes16(&c);
	int err;

	p->job = cur_bytes16(&c);
	p->after = cur_bytes16(&c);
	p->max = cur_u32(&c);
	if (!cur_done(&c) || p->max == 0 || p->max > WIRE_LIST_MAX || p->after.len > PROVENANCE_CURSOR_MAX)
		return req_fail(r, -GRANARY_EPROTO, "PROVENANCE does not parse");
	if (!is_word(p->job))
		return req_fail(r, -GRANARY_EINVAL, "a job is 1 to %d visible ASCII characters without spaces",
			LEASE_JOB_MAX);
	err = auth_begin(r, &b->auth, GRANT_READ, bucket);
	if (err < 0) return req_fail(r, err, "cannot list what a job was given: %s", error_text(err));
	p->bucket = bucket.len > 0 ? b->auth.bucket.id : 0;
	p->cap = r->peer->data_cap / 2; /* a line is shorter than the other half */
	p->may = may_list;
	p->arg = r;
	r->step++;
	return req_work(r, provenance_work);
}

static enum step_result provenance_answer(struct req *r)
{
	struct report_req *b = r->body;
	struct provenance_page *p = &b->page;
	uint8_t meta[1 + 4 + 2 + PROVENANCE_CURSOR_MAX];
	struct wr w = wr_of(meta, sizeof(meta));

	if (b->err < 0)
		return req_fail(r, b->err, "cannot list what a job was given: %s", error_text(b->err));
	wr_u8(&w, p->more);
	wr_u32(&w, p->count);
	wr_bytes16(&w, slice_of(p->cursor, p->cursor_len));
	answer_data(r, &w, (uint8_t *)p->text, p->len);
	p->text = NULL;
	return STEP_DONE;
}

/* ---- list ---- */

static void list_work(struct req *r)
{
	struct report_req *b = r->body;

	b->text = snapshots_consumers(r->store->snapshots, b->report.bucket, may_list, r, &b->len);
}

static enum step_result list_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct report_req *b = body_new(r);
	int err;

	b->report.bucket_name = cur_bytes16(&c);
	if (!cur_done(&c)) return req_fail(r, -GRANARY_EPROTO, "STREAM_LIST does not parse");
	err = auth_begin(r, &b->auth, GRANT_READ, b->report.bucket_name);
	if (err < 0) return req_fail(r, err, "cannot list streams: %s", error_text(err));
	b->report.bucket = b->report.bucket_name.len > 0 ? b->auth.bucket.id : 0;
	r->step++;
	return req_work(r, list_work);
}

static enum step_result list_answer(struct req *r)
{
	struct report_req *b = r->body;

	if (b->text == NULL)
		return req_fail(r, -GRANARY_ENOMEM, "no memory for the list of streams");
	answer_text(r, b->text, b->len < r->peer->data_cap ? b->len : r->peer->data_cap);
	return STEP_DONE;
}

static const struct req_step report_steps[] = { { "parse", report_parse },
	{ "answer", report_answer } };
static const struct req_step provenance_steps[] = { { "parse", provenance_ask }, { "answer", provenance_answer } };
const struct req_kind provenance_kind = {
	.op = OP_PROVENANCE,
	.name = "provenance",
	.action = GRANT_READ,
	.steps = provenance_steps,
	.step_count = 2,
	.cleanup = body_free,
};
static const struct req_step list_steps[] = { { "parse", list_parse }, { "answer", list_answer } };
const struct req_kind stream_report_kind = {
	.op = OP_STREAM_REPORT,
	.name = "stream_report",
	.action = GRANT_READ,
	.steps = report_steps,
	.step_count = 2,
	.cleanup = body_free,
};
const struct req_kind stream_list_kind = {
	.op = OP_STREAM_LIST,
	.name = "stream_list",
	.action = GRANT_READ,
	.steps = list_steps,
	.step_count = 2,
	.cleanup = body_free,
};
