/* SPDX-License-Identifier: Apache-2.0 */
/* bucket.c -- buckets: list, create, remove (PROTOCOL 4.5, 5.7). Create and remove commit by
 * themselves and are remembered for retries in RAM only. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "meta/recipe.h"
#include "meta/snapshot.h"
#include "req/mutation.h"

/* ---- list ---- */

enum { BUCKETS_A_PAGE = 256, BUCKET_ENTRY_MAX = 2 + BUCKET_LEN_MAX + 7 * 8 + 1 };

struct bucket_page {
	struct slice after;
	uint32_t max, count;
	bool more;
	int err;
	struct ns_bucket buckets[BUCKETS_A_PAGE + 1];
	uint64_t bytes[BUCKETS_A_PAGE], objects[BUCKETS_A_PAGE];
};

static void drop_hidden(const struct ns_access_key *key, struct bucket_page *p, uint32_t from)
{
	uint32_t kept = from;

	for (uint32_t i = from; i < p->count; i++)
		if (auth_any_in(
			    key, UINT8_MAX, slice_of(p->buckets[i].name, p->buckets[i].name_len)))
			p->buckets[kept++] = p->buckets[i];
	p->count = kept;
}

static void bucket_list_work(struct req *r)
{
	struct bucket_page *p = r->body;
	struct ns *ns = r->store->ns;
	struct ns_bucket last;
	struct slice after = p->after;

	while (p->count <= p->max) { /* those the key may not see make no page short */
		uint32_t from = p->count, want = p->max + 1 - from;
		uint32_t n = ns_bucket_list(ns, after, p->buckets + from, want);

		if (n == 0) break;
		last = p->buckets[from + n - 1];
		after = slice_of(last.name, last.name_len);
		p->count += n;
		drop_hidden(r->peer->key, p, from);
		if (n < want) break;
	}
	p->more = p->count > p->max;
	if (p->more) p->count = p->max;
	for (uint32_t i = 0; i < p->count && p->err == 0; i++)
		p->err = ns_bucket_usage(ns, p->buckets[i].id, &p->bytes[i], &p->objects[i]);
}

static enum step_result bucket_list_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct bucket_page *p = req_alloc(sizeof(*p));

	memset(p, 0, sizeof(*p));
	r->body = p;
	p->after = cur_bytes16(&c);
	p->max = cur_u32(&c);
	if (!cur_done(&c) || p->max == 0)
		return req_fail(r, -GRANARY_EPROTO, "BUCKET_LIST does not parse");
	if (p->max > BUCKETS_A_PAGE) p->max = BUCKETS_A_PAGE;
	r->step++;
	return req_work(r, bucket_list_work);
}

static enum step_result bucket_list_answer(struct req *r)
{
	const struct bucket_page *p = r->body;
	size_t cap = 5 + (size_t)p->count * BUCKET_ENTRY_MAX;
	struct answer *a;
	struct wr w;

	if (p->err < 0) return req_fail(r, p->err, "cannot list buckets: %s", error_text(p->err));
	a = answer_new(r, cap);
	w = wr_of(a->meta, cap);
	wr_u8(&w, p->more);
	wr_u32(&w, p->count);
	for (uint32_t i = 0; i < p->count; i++) {
		const struct ns_bucket *b = &p->buckets[i];

		wr_bytes16(&w, slice_of(b->name, b->name_len));
		wr_u64(&w, b->id);
		wr_u64(&w, b->root);
		wr_u64(&w, b->created_ns);
		wr_u64(&w, p->bytes[i]);
		wr_u64(&w, p->objects[i]);
		wr_u64(&w, b->quota_bytes);
		wr_u64(&w, b->quota_objects);
		wr_u8(&w, b->relaxed);
	}
	a->meta_len = (uint32_t)wr_len(&w);
	answer_send(r, a, true);
	return STEP_DONE;
}

static void body_free(struct req *r)
{
	free(r->body);
	r->body = NULL;
}

static const struct req_step bucket_list_steps[] = { { "parse", bucket_list_parse },
	{ "answer", bucket_list_answer } };
const struct req_kind bucket_list_kind = {
	.op = OP_BUCKET_LIST,
	.name = "bucket_list",
	.steps = bucket_list_steps,
	.step_count = 2,
	.cleanup = body_free,
};

/* ---- create, remove ---- */

struct bucket_req {
	struct mutation m;
	struct slice name;
};

static enum step_result bucket_begin(struct req *r, const struct mutation_ops *ops)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice name = cur_bytes16(&c);
	char text[128];
	int err;

	if (mutation_begin(r, &c, ops, sizeof(struct bucket_req)) < 0 || !cur_done(&c))
		return req_fail(r, -GRANARY_EPROTO, "%s does not parse", r->kind->name);
	((struct bucket_req *)r->body)->name = name;
	err = bucket_name_check(name);
	if (err < 0)
		return req_fail(r, err,
			"'%s' is no bucket name: 3 to 63 of a-z, 0-9, '.' and '-', first and last "
			"a letter or "
			"digit",
			name_escape(text, sizeof(text), name));
	if (!auth_whole(r->peer->key, GRANT_ADMIN, name))
		return req_fail(r, -GRANARY_EACCESS, "the key has no admin grant on bucket '%s'",
			name_escape(text, sizeof(text), name));
	return STEP_NEXT;
}

static int bucket_result(struct req *r, int err)
{
	const struct bucket_req *b = r->body;
	char text[128];

	if (err < 0)
		req_set_error(r, err, "%s '%s': %s", r->kind->name,
			name_escape(text, sizeof(text), b->name), error_text(err));
	return err;
}

static int bucket_create_run(struct req *r)
{
	const struct bucket_req *b = r->body;

	return bucket_result(
		r, ns_bucket_create(r->store->ns, b->name, slice_str(r->peer->key->id)));
}

static int first_snapshot(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	struct slice *out = arg;

	(void)bucket;
	(void)row;
	memcpy((void *)(uintptr_t)out->p, name.p, name.len);
	out->len = name.len;
	return 1;
}

static int first_recipe(void *arg, struct slice name, const struct recipe_row *row)
{
	(void)row;
	return first_snapshot(arg, 0, name, NULL);
}

/* A bucket without objects may still have snapshots or recipes: names one. */
static int bucket_not_empty(struct req *r)
{
	const struct bucket_req *b = r->body;
	struct ns_bucket bucket;
	char snapshot[SNAPSHOT_NAME_MAX], text[128];
	struct slice name = slice_of(snapshot, 0);
	const char *what = "snapshot";

	if (ns_bucket_find(r->store->ns, b->name, &bucket) < 0) return bucket_result(r, -GRANARY_ENOTEMPTY);
	if (recipe_each(r->store->kv, bucket.id, slice_of(NULL, 0), first_recipe, &name) == 1)
		what = "recipe";
	else if (snapshot_each(r->store->kv, bucket.id, slice_of(NULL, 0), first_snapshot, &name) != 1)
		return bucket_result(r, -GRANARY_ENOTEMPTY);
	req_set_error(r, -GRANARY_ENOTEMPTY, "bucket_remove '%s': it has %s '%.*s'; remove its %ss first",
		name_escape(text, sizeof(text), b->name), what, (int)name.len, snapshot, what);
	return -GRANARY_ENOTEMPTY;
}

static int bucket_remove_run(struct req *r)
{
	const struct bucket_req *b = r->body;
	int err = ns_bucket_remove(r->store->ns, b->name);

	return err == -GRANARY_ENOTEMPTY ? bucket_not_empty(r) : bucket_result(r, err);
}

static const struct mutation_ops create_ops = { .run = bucket_create_run };
static const struct mutation_ops remove_ops = { .run = bucket_remove_run };
static enum step_result create_begin(struct req *r)
{
	return bucket_begin(r, &create_ops);
}
static enum step_result remove_begin(struct req *r)
{
	return bucket_begin(r, &remove_ops);
}
static const struct req_step create_steps[] = { { "parse", create_begin }, MUTATION_STEPS };
static const struct req_step remove_steps[] = { { "parse", remove_begin }, MUTATION_STEPS };
const struct req_kind bucket_create_kind = {
	.op = OP_BUCKET_CREATE,
	.name = "bucket_create",
	.action = GRANT_ADMIN,
	.mutation = true,
	.steps = create_steps,
	.step_count = 4,
	.cleanup = mutation_cleanup,
};
const struct req_kind bucket_remove_kind = {
	.op = OP_BUCKET_REMOVE,
	.name = "bucket_remove",
	.action = GRANT_ADMIN,
	.mutation = true,
	.steps = remove_steps,
	.step_count = 4,
	.cleanup = mutation_cleanup,
};
