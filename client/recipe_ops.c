/* SPDX-License-Identifier: Apache-2.0 */
/* recipe_ops.c -- making, listing, showing and removing recipes: PROTOCOL 4.10, 5.11. */
#include "recipe_priv.h"

#include <stdlib.h>

#define RECIPE_RPC(op) \
	{ .wire_op = (op), .body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer }

static const struct rpc_kind create_rpc = RECIPE_RPC(OP_RECIPE_CREATE);
static const struct rpc_kind list_rpc = RECIPE_RPC(OP_RECIPE_LIST);
static const struct rpc_kind remove_rpc = { .wire_op = OP_RECIPE_REMOVE, .final = -GRANARY_EBUSY, /* a job reads it */
	.body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer };
static const struct rpc_kind show_rpc = { .wire_op = OP_RECIPE_SHOW, .own_meta = true, .body_size = simple_body_size,
	.encode = simple_encode, .answer = simple_answer };

/* ---- entries ---- */

/* One entry of PROTOCOL 4.10; its texts go to `text`, which is NULL to skip it. */
static char *entry_decode(struct cur *c, struct granary_recipe_info *e, char *text)
{
	struct slice name = cur_bytes16(c);

	e->created_ns = cur_u64(c);
	e->samples = cur_u64(c);
	e->sources = cur_u32(c);
	struct slice id = cur_bytes(c, sizeof(e->id)), note = cur_bytes16(c);
	if (!text || !cur_ok(c))
		return text;
	memcpy(e->id, id.p, sizeof(e->id));
	e->name = text;
	text = text_put(text, name);
	e->note = text;
	text = text_put(text, note);
	e->text = text - 1;
	return text;
}

static int info_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct granary_recipe_info *info = calloc(1, sizeof(*info) + meta.len + data.len + 8);

	if (!info)
		return -GRANARY_ENOMEM;
	char *text = entry_decode(&c, info, (char *)(info + 1));
	if (!cur_done(&c)) {
		free(info);
		return -GRANARY_EPROTO;
	}
	if (data.len > 0) {
		info->text = text;
		text_put(text, data);
	}
	free(*(struct granary_recipe_info **)s->out);
	*(struct granary_recipe_info **)s->out = info;
	return 0;
}

static int page_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len), scan;
	struct granary_recipe_info skipped;
	uint8_t more = cur_u8(&c);
	uint32_t count = cur_u32(&c);

	(void)data;
	scan = c;
	for (uint32_t i = 0; i < count && cur_ok(&scan); i++)
		entry_decode(&scan, &skipped, NULL);
	if (!cur_done(&scan))
		return -GRANARY_EPROTO;
	struct granary_recipe_page *page = calloc(1, sizeof(*page) + count * sizeof(page->entries[0]) + meta.len + 1);
	if (!page)
		return -GRANARY_ENOMEM;
	*page = (struct granary_recipe_page){ count, more, (struct granary_recipe_info *)(page + 1) };
	char *text = (char *)(page->entries + count);
	for (uint32_t i = 0; i < count; i++)
		text = entry_decode(&c, &page->entries[i], text);
	*(struct granary_recipe_page **)s->out = page;
	return 0;
}

/* ---- requests ---- */

int recipe_request_create(struct granary_client *c, const char *name, const char *note, const char *text, size_t len,
	struct granary_recipe_info **info, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(c, &create_rpc, call, text_size(name) + text_size(note) + 4 + len, &w, &err);

	*info = NULL;
	if (!s)
		return err;
	text_encode(&w, name);
	text_encode(&w, note);
	wr_bytes32(&w, slice_of(text, len));
	s->decode = info_decode;
	s->out = info;
	return (int)simple_run(s, &w);
}

int granary_recipe_list(struct granary_client *client, const char *after, struct granary_recipe_page **page,
	const struct granary_call *call)
{
	struct wr w;
	int err;

	*page = NULL;
	struct simple_op *s = simple_new(client, &list_rpc, call, text_size(after) + 4, &w, &err);
	if (!s)
		return err;
	text_encode(&w, after);
	wr_u32(&w, GRANARY_LIST_MAX);
	s->decode = page_decode;
	s->out = page;
	return (int)simple_run(s, &w);
}

int granary_recipe_show(struct granary_client *client, const char *name, struct granary_recipe_info **out,
	const struct granary_call *call)
{
	struct wr w;
	int err;

	*out = NULL;
	struct simple_op *s = simple_new(client, &show_rpc, call, text_size(name), &w, &err);
	if (!s)
		return err;
	text_encode(&w, name);
	s->decode = info_decode;
	s->out = out;
	return (int)simple_run(s, &w);
}

int granary_recipe_remove(struct granary_client *client, const char *name, uint32_t flags,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &remove_rpc, call, text_size(name) + 1, &w, &err);

	if (!s)
		return err;
	text_encode(&w, name);
	wr_u8(&w, flags & GRANARY_SNAPSHOT_FORCE ? SNAPSHOT_FORCE : 0);
	return (int)simple_run(s, &w);
}
