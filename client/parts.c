/* SPDX-License-Identifier: Apache-2.0 */
/* parts.c -- copies by reference, objects out of parts: PROTOCOL 4.13, 5.14, 5.15. */
#include "many.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define PARTS_RPC(op, is_mutation) \
	{ .wire_op = (op), .mutation = (is_mutation), .body_size = simple_body_size, .encode = simple_encode, \
		.answer = simple_answer }

static const struct rpc_kind copy_rpc = PARTS_RPC(OP_COPY, true);
static const struct rpc_kind create_rpc = PARTS_RPC(OP_UPLOAD_CREATE, true);
static const struct rpc_kind complete_rpc = PARTS_RPC(OP_UPLOAD_COMPLETE, true);
static const struct rpc_kind abort_rpc = PARTS_RPC(OP_UPLOAD_ABORT, true);
static const struct rpc_kind part_list_rpc = PARTS_RPC(OP_PART_LIST, false);
static const struct rpc_kind upload_list_rpc = PARTS_RPC(OP_UPLOAD_LIST, false);

static int options_take(struct granary_client *c, const struct granary_copy *options, struct granary_copy *out)
{
	*out = (struct granary_copy){ .size = 0 };
	if (!options)
		return 0;
	if (options->size < offsetof(struct granary_copy, from_version))
		return error_fail(c, -GRANARY_EINVAL, "granary_copy.size is not set");
	memcpy(out, options, options->size < sizeof(*out) ? options->size : sizeof(*out));
	if (out->condition > GRANARY_PUT_IF_VERSION)
		return error_fail(c, -GRANARY_EINVAL, "condition %u is none", out->condition);
	return 0;
}

static int placed_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct granary_placed p;

	(void)data;
	p.object_id = cur_u64(&c);
	p.version = cur_u64(&c);
	p.dir_id = cur_u64(&c);
	p.replaced_version = cur_u64(&c);
	p.size = cur_u64(&c);
	if (!cur_done(&c))
		return -GRANARY_EPROTO;
	if (s->out)
		*(struct granary_placed *)s->out = p;
	return 0;
}

int granary_copy(struct granary_client *client, struct granary_ref from, struct granary_ref to,
	const struct granary_copy *options, struct granary_placed *out, const struct granary_call *call)
{
	struct granary_copy o;
	struct wr w;
	int err = refs_enter(client, &from, &to);

	if (err == 0)
		err = options_take(client, options, &o);
	if (err < 0)
		return err;
	size_t size = ref_size(&from) + 8 + text_size(o.to_bucket) + ref_size(&to) + 1 + 8;
	struct simple_op *s = simple_new(client, &copy_rpc, call, size, &w, &err);
	if (!s)
		return err;
	ref_encode(&w, &from);
	wr_u64(&w, o.from_version);
	text_encode(&w, o.to_bucket);
	ref_encode(&w, &to);
	wr_u8(&w, (uint8_t)o.condition);
	wr_u64(&w, o.if_version);
	s->decode = placed_decode;
	s->out = out;
	return (int)simple_run(s, &w);
}

/* ---- an upload ---- */

static int id_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);

	(void)data;
	*(uint64_t *)s->out = cur_u64(&c);
	return cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

int granary_parts_begin(struct granary_client *client, const struct granary_put *put, uint64_t *upload,
	const struct granary_call *call)
{
	struct granary_put checked = *put;
	size_t meta = 0;
	struct wr w;
	int err = client_enter(client);

	*upload = 0;
	if (err < 0)
		return err;
	checked.data = NULL;
	checked.size = 0;
	err = put_check(client, &checked);
	if (err < 0)
		return err;
	for (uint32_t i = 0; i < put->meta_count; i++)
		meta += text_size(put->meta[i].name) + text_size(put->meta[i].value);
	if (meta > GRANARY_META_LEN_MAX)
		return error_fail(client, -GRANARY_ETOOBIG, "metadata of one object has at most %d bytes",
			GRANARY_META_LEN_MAX);
	struct simple_op *s = simple_new(client, &create_rpc, call, ref_size(&put->ref) + 3 * 4 + 2 + meta, &w, &err);
	if (!s)
		return err;
	ref_encode(&w, &put->ref);
	wr_u32(&w, put->flags & GRANARY_PUT_MODE ? put->mode : 0644);
	wr_u32(&w, put->uid);
	wr_u32(&w, put->gid);
	wr_u16(&w, (uint16_t)meta);
	for (uint32_t i = 0; i < put->meta_count; i++) {
		text_encode(&w, put->meta[i].name);
		text_encode(&w, put->meta[i].value);
	}
	s->decode = id_decode;
	s->out = upload;
	return (int)simple_run(s, &w);
}

struct granary_ref granary_part_ref(uint64_t upload, uint32_t number, char name[GRANARY_PART_NAME_SIZE])
{
	snprintf(name, GRANARY_PART_NAME_SIZE, "%05u", (unsigned)(number % (GRANARY_PART_NUMBER_MAX + 1)));
	return granary_ref_name(upload, name);
}

int granary_parts_finish(struct granary_client *client, struct granary_ref ref, uint64_t upload,
	const struct granary_part *parts, size_t count, const struct granary_copy *options, struct granary_placed *out,
	const struct granary_call *call)
{
	struct granary_copy o;
	struct wr w;
	int err = refs_enter(client, &ref, NULL);

	if (err == 0)
		err = options_take(client, options, &o);
	if (err == 0 && (count == 0 || count > GRANARY_PARTS_MAX))
		err = error_fail(client, -GRANARY_EINVAL, "an object has 1 to %d parts", GRANARY_PARTS_MAX);
	if (err < 0)
		return err;
	struct simple_op *s = simple_new(client, &complete_rpc, call, ref_size(&ref) + 8 + 1 + 8 + 4 + 12 * count, &w,
		&err);
	if (!s)
		return err;
	ref_encode(&w, &ref);
	wr_u64(&w, upload);
	wr_u8(&w, (uint8_t)o.condition);
	wr_u64(&w, o.if_version);
	wr_u32(&w, (uint32_t)count);
	for (size_t i = 0; i < count; i++) {
		wr_u32(&w, parts[i].number);
		wr_u64(&w, parts[i].version);
	}
	s->decode = placed_decode;
	s->out = out;
	return (int)simple_run(s, &w);
}

int granary_parts_abort(struct granary_client *client, uint64_t upload, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &abort_rpc, call, 8, &w, &err);

	if (!s)
		return err;
	wr_u64(&w, upload);
	return (int)simple_run(s, &w);
}

/* ---- listings ---- */

struct part_page {
	void *entries;
	uint32_t count, more;
};

static int parts_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct part_page *page = s->out;
	struct cur c = cur_of(meta.p, meta.len);
	uint32_t more = cur_u8(&c), count = cur_u32(&c);
	struct granary_part *parts = !cur_ok(&c) || count > GRANARY_LIST_MAX ? NULL : calloc(count + 1, sizeof(*parts));

	(void)data;
	if (!parts)
		return cur_ok(&c) && count <= GRANARY_LIST_MAX ? -GRANARY_ENOMEM : -GRANARY_EPROTO;
	for (uint32_t i = 0; i < count; i++) {
		parts[i].number = cur_u32(&c);
		parts[i].version = cur_u64(&c);
		parts[i].size = cur_u64(&c);
		parts[i].mtime_ns = cur_u64(&c);
		parts[i].has_hash = cur_u8(&c);
		struct slice hash = cur_bytes(&c, sizeof(parts[i].hash));
		if (hash.len == sizeof(parts[i].hash))
			memcpy(parts[i].hash, hash.p, hash.len);
	}
	if (!cur_done(&c)) {
		free(parts);
		return -GRANARY_EPROTO;
	}
	*page = (struct part_page){ parts, count, more };
	return 0;
}

int granary_parts_list(struct granary_client *client, uint64_t upload, uint32_t after, uint32_t max,
	struct granary_part **parts, uint32_t *count, uint32_t *more, const struct granary_call *call)
{
	struct part_page page = { NULL, 0, 0 };
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &part_list_rpc, call, 8 + 4 + 4, &w, &err);

	if (s) {
		wr_u64(&w, upload);
		wr_u32(&w, after);
		wr_u32(&w, max);
		s->decode = parts_decode;
		s->out = &page;
		err = (int)simple_run(s, &w);
	}
	*parts = page.entries;
	*count = page.count;
	*more = page.more;
	return err;
}

/* One block: the entries, then their keys. */
static int uploads_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct part_page *page = s->out;
	struct cur c = cur_of(meta.p, meta.len);
	uint32_t more = cur_u8(&c), count = cur_u32(&c);
	struct granary_upload_entry *entries;

	(void)data;
	if (!cur_ok(&c) || count > GRANARY_LIST_MAX)
		return -GRANARY_EPROTO;
	entries = malloc((count + 1) * sizeof(*entries) + meta.len);
	if (!entries)
		return -GRANARY_ENOMEM;
	char *text = (char *)(entries + count);
	for (uint32_t i = 0; i < count && cur_ok(&c); i++) {
		struct slice key = cur_bytes16(&c);
		if (key.len > 0)
			memcpy(text, key.p, key.len);
		text[key.len] = '\0';
		entries[i].key = text;
		text += key.len + 1;
		entries[i].upload = cur_u64(&c);
		entries[i].created_ns = cur_u64(&c);
	}
	if (!cur_done(&c)) {
		free(entries);
		return -GRANARY_EPROTO;
	}
	*page = (struct part_page){ entries, count, more };
	return 0;
}

int granary_uploads_list(struct granary_client *client, const char *prefix, const char *after, uint64_t after_upload,
	uint32_t max, struct granary_upload_entry **uploads, uint32_t *count, uint32_t *more,
	const struct granary_call *call)
{
	struct part_page page = { NULL, 0, 0 };
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &upload_list_rpc, call, text_size(prefix) + text_size(after) + 8 + 4,
		&w, &err);

	if (s) {
		text_encode(&w, prefix);
		text_encode(&w, after);
		wr_u64(&w, after_upload);
		wr_u32(&w, max);
		s->decode = uploads_decode;
		s->out = &page;
		err = (int)simple_run(s, &w);
	}
	*uploads = page.entries;
	*count = page.count;
	*more = page.more;
	return err;
}
