/* SPDX-License-Identifier: Apache-2.0 */
/* admin_ops.c -- buckets, access keys, status, tasks: PROTOCOL 4.5, 4.6, 5.7 to 5.9. */
#include "client_priv.h"

#include <stdlib.h>

#define SIMPLE_RPC(op, is_mutation, is_plain) \
	{ .wire_op = (op), .mutation = (is_mutation), .plain = (is_plain), .body_size = simple_body_size, \
		.encode = simple_encode, .answer = simple_answer }

static const struct rpc_kind bucket_create_rpc = SIMPLE_RPC(OP_BUCKET_CREATE, true, false);
static const struct rpc_kind bucket_remove_rpc = SIMPLE_RPC(OP_BUCKET_REMOVE, true, false);
static const struct rpc_kind bucket_list_rpc = SIMPLE_RPC(OP_BUCKET_LIST, false, true);
static const struct rpc_kind key_create_rpc = SIMPLE_RPC(OP_KEY_CREATE, true, false);
static const struct rpc_kind key_remove_rpc = SIMPLE_RPC(OP_KEY_REMOVE, true, false);
static const struct rpc_kind key_list_rpc = SIMPLE_RPC(OP_KEY_LIST, false, true);
static const struct rpc_kind status_rpc = SIMPLE_RPC(OP_STATUS, false, true);
static const struct rpc_kind task_rpc = SIMPLE_RPC(OP_TASK, false, true);
static const struct rpc_kind rules_rpc = SIMPLE_RPC(OP_RULES, false, true);

/* The same call with another bucket. */
static struct granary_call call_with(const struct granary_call *call, const char *bucket)
{
	struct granary_call mine = { .size = sizeof(mine), .bucket = bucket };

	if (call && call->size > offsetof(struct granary_call, timeout_ms))
		mine.timeout_ms = call->timeout_ms;
	return mine;
}

static char *text_put(char *at, struct slice s)
{
	memcpy(at, s.p, s.len);
	at[s.len] = '\0';
	return at + s.len + 1;
}

/* ---- buckets ---- */

static int bucket_change(struct granary_client *c, const struct rpc_kind *kind, const char *bucket,
	const struct granary_call *call)
{
	struct granary_call mine = call_with(call, bucket ? bucket : "");
	struct wr w;
	int err;
	struct simple_op *s = simple_new(c, kind, &mine, 0, &w, &err);

	return s ? (int)simple_run(s, &w) : err;
}

int granary_bucket_create(struct granary_client *client, const char *bucket, const struct granary_call *call)
{
	return bucket_change(client, &bucket_create_rpc, bucket, call);
}

int granary_bucket_remove(struct granary_client *client, const char *bucket, const struct granary_call *call)
{
	return bucket_change(client, &bucket_remove_rpc, bucket, call);
}

enum { BUCKET_FIXED = 7 * 8 + 1 };

static int buckets_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len), scan;
	uint8_t more = cur_u8(&c);
	uint32_t count = cur_u32(&c);

	(void)data;
	scan = c;
	for (uint32_t i = 0; i < count && cur_ok(&scan); i++) {
		cur_bytes16(&scan);
		cur_bytes(&scan, BUCKET_FIXED);
	}
	if (!cur_done(&scan))
		return -GRANARY_EPROTO;
	struct granary_bucket_page *page = malloc(sizeof(*page) + count * sizeof(page->entries[0]) + meta.len);
	if (!page)
		return -GRANARY_ENOMEM;
	*page = (struct granary_bucket_page){ count, more, (struct granary_bucket_entry *)(page + 1) };
	char *text = (char *)(page->entries + count);
	for (uint32_t i = 0; i < count; i++) {
		struct granary_bucket_entry *e = &page->entries[i];
		*e = (struct granary_bucket_entry){ .name = text };
		text = text_put(text, cur_bytes16(&c));
		e->id = cur_u64(&c);
		e->root_dir_id = cur_u64(&c);
		e->created_ns = cur_u64(&c);
		e->bytes = cur_u64(&c);
		e->objects = cur_u64(&c);
		e->quota_bytes = cur_u64(&c);
		e->quota_objects = cur_u64(&c);
		e->durability = cur_u8(&c);
	}
	*(struct granary_bucket_page **)s->out = page;
	return 0;
}

/* BUCKET_LIST and KEY_LIST ask alike. */
static int page_run(struct granary_client *c, const struct rpc_kind *kind, const char *after, void *page,
	int (*decode)(struct simple_op *, struct slice, struct slice), const struct granary_call *call)
{
	struct granary_call mine = call_with(call, "");
	struct wr w;
	int err;
	struct simple_op *s = simple_new(c, kind, &mine, text_size(after) + 4, &w, &err);

	if (!s)
		return err;
	text_encode(&w, after);
	wr_u32(&w, GRANARY_LIST_MAX);
	s->decode = decode;
	s->out = page;
	return (int)simple_run(s, &w);
}

int granary_bucket_list(struct granary_client *client, const char *after, struct granary_bucket_page **page,
	const struct granary_call *call)
{
	*page = NULL;
	return page_run(client, &bucket_list_rpc, after, page, buckets_decode, call);
}

/* ---- access keys ---- */

static int key_created(struct simple_op *s, struct slice meta, struct slice data)
{
	struct granary_key_secret *out = s->out;
	struct cur c = cur_of(meta.p, meta.len);
	struct slice id = cur_bytes16(&c), secret = cur_bytes16(&c);

	(void)data;
	if (!cur_done(&c) || id.len >= sizeof(out->access_key) || secret.len >= sizeof(out->secret))
		return -GRANARY_EPROTO;
	text_copy(out->access_key, sizeof(out->access_key), id);
	text_copy(out->secret, sizeof(out->secret), secret);
	return 0;
}

int granary_key_create(struct granary_client *client, const struct granary_grant *grants, size_t count,
	uint64_t expires_s, const char *note, struct granary_key_secret *out, const struct granary_call *call)
{
	struct granary_call mine = call_with(call, "");
	size_t size = 8 + text_size(note) + 2;
	struct wr w;
	int err;

	for (size_t i = 0; i < count; i++)
		size += 1 + text_size(grants[i].bucket) + text_size(grants[i].prefix);
	struct simple_op *s = simple_new(client, &key_create_rpc, &mine, size, &w, &err);
	if (!s)
		return err;
	wr_u64(&w, expires_s);
	text_encode(&w, note);
	w.bad = w.bad || count > UINT16_MAX;
	wr_u16(&w, (uint16_t)count);
	for (size_t i = 0; i < count; i++) {
		wr_u8(&w, (uint8_t)grants[i].actions);
		text_encode(&w, grants[i].bucket);
		text_encode(&w, grants[i].prefix);
	}
	memset(out, 0, sizeof(*out));
	s->decode = key_created;
	s->out = out;
	return (int)simple_run(s, &w);
}

int granary_key_remove(struct granary_client *client, const char *access_key, const struct granary_call *call)
{
	struct granary_call mine = call_with(call, "");
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &key_remove_rpc, &mine, text_size(access_key), &w, &err);

	if (!s)
		return err;
	text_encode(&w, access_key);
	return (int)simple_run(s, &w);
}

/* Counts keys and grants; false when the answer does not parse. */
static bool keys_scan(struct cur c, uint32_t count, size_t *grants)
{
	*grants = 0;
	for (uint32_t i = 0; i < count && cur_ok(&c); i++) {
		cur_bytes16(&c);
		cur_u64(&c);
		cur_bytes16(&c);
		uint16_t n = cur_u16(&c);
		*grants += n;
		for (uint16_t g = 0; g < n && cur_ok(&c); g++) {
			cur_u8(&c);
			cur_bytes16(&c);
			cur_bytes16(&c);
		}
	}
	return cur_done(&c);
}

struct keys_out {
	struct granary_grant *grant;
	char *text;
};

static void key_decode(struct cur *c, struct granary_key_entry *e, struct keys_out *out)
{
	*e = (struct granary_key_entry){ .access_key = out->text, .grants = out->grant };
	out->text = text_put(out->text, cur_bytes16(c));
	e->expires_ns = cur_u64(c);
	e->note = out->text;
	out->text = text_put(out->text, cur_bytes16(c));
	e->grants_count = cur_u16(c);
	for (uint64_t i = 0; i < e->grants_count; i++) {
		struct granary_grant *g = out->grant++;
		*g = (struct granary_grant){ .actions = cur_u8(c), .bucket = out->text };
		out->text = text_put(out->text, cur_bytes16(c));
		g->prefix = out->text;
		out->text = text_put(out->text, cur_bytes16(c));
	}
}

static int keys_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	uint8_t more = cur_u8(&c);
	uint32_t count = cur_u32(&c);
	size_t grants;

	(void)data;
	if (!keys_scan(c, count, &grants))
		return -GRANARY_EPROTO;
	struct granary_key_page *page = malloc(sizeof(*page) + count * sizeof(page->entries[0]) +
		grants * sizeof(struct granary_grant) + meta.len);
	if (!page)
		return -GRANARY_ENOMEM;
	*page = (struct granary_key_page){ count, more, (struct granary_key_entry *)(page + 1) };
	struct keys_out out = { .grant = (struct granary_grant *)(page->entries + count) };
	out.text = (char *)(out.grant + grants);
	for (uint32_t i = 0; i < count; i++)
		key_decode(&c, &page->entries[i], &out);
	*(struct granary_key_page **)s->out = page;
	return 0;
}

int granary_key_list(struct granary_client *client, const char *after, struct granary_key_page **page,
	const struct granary_call *call)
{
	*page = NULL;
	return page_run(client, &key_list_rpc, after, page, keys_decode, call);
}

/* ---- the server ---- */

static int text_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	char *text = malloc(data.len + 1);

	(void)meta;
	if (!text)
		return -GRANARY_ENOMEM;
	if (data.len > 0)
		memcpy(text, data.p, data.len);
	text[data.len] = '\0';
	*(char **)s->out = text;
	return 0;
}

int granary_status(struct granary_client *client, char **text, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &status_rpc, call, 0, &w, &err);

	*text = NULL;
	if (!s)
		return err;
	s->decode = text_decode;
	s->out = text;
	return (int)simple_run(s, &w);
}

int granary_task(struct granary_client *client, const char *verb, const char *argument, char **text,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &task_rpc, call, text_size(verb) + text_size(argument), &w, &err);

	*text = NULL;
	if (!s)
		return err;
	text_encode(&w, verb);
	text_encode(&w, argument);
	s->decode = text_decode;
	s->out = text;
	return (int)simple_run(s, &w);
}

int granary_rules(struct granary_client *client, enum granary_rules_verb verb, unsigned flags, const char *text,
	const char *path, char **answer, const struct granary_call *call)
{
	struct wr w;
	int err;
	size_t text_len = text ? strlen(text) : 0;
	struct simple_op *s = simple_new(client, &rules_rpc, call, 2 + text_size(path) + 4 + text_len, &w, &err);

	*answer = NULL;
	if (!s)
		return err;
	wr_u8(&w, (uint8_t)verb);
	wr_u8(&w, (uint8_t)(flags | (text ? RULES_GIVEN : 0)));
	text_encode(&w, path);
	wr_bytes32(&w, slice_of(text ? text : "", text_len));
	s->decode = text_decode;
	s->out = answer;
	return (int)simple_run(s, &w);
}
