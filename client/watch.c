/* SPDX-License-Identifier: Apache-2.0 */
/* watch.c -- what other clients changed: PROTOCOL 5.20, granary/open.h. */
#include "client_priv.h"

#include <stdlib.h>

static const struct rpc_kind watch_rpc = {
	.wire_op = OP_WATCH, .body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer,
};

/* One block: the page, its changes, their names. */
static int page_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len), scan;
	uint64_t cursor = cur_u64(&c);
	uint8_t flags = cur_u8(&c);
	uint32_t count = cur_u32(&c);
	size_t names = 0;

	(void)data;
	scan = c;
	if (!cur_ok(&c) || count > cur_left(&c))
		return -GRANARY_EPROTO;
	for (uint32_t i = 0; i < count; i++) {
		cur_bytes(&scan, 1 + 8 + 8);
		names += cur_bytes16(&scan).len + 1;
	}
	if (!cur_done(&scan))
		return -GRANARY_EPROTO;
	struct granary_changes *page = malloc(sizeof(*page) + count * sizeof(struct granary_changed) + names);
	if (!page)
		return -GRANARY_ENOMEM;
	*page = (struct granary_changes){ .cursor = cursor, .count = count, .all = flags & WATCH_ALL };
	page->changes = (struct granary_changed *)(page + 1);
	char *text = (char *)(page->changes + count);
	for (uint32_t i = 0; i < count; i++) {
		struct granary_changed *x = &page->changes[i];

		*x = (struct granary_changed){ .kind = cur_u8(&c), .name = text };
		x->dir_id = cur_u64(&c);
		x->object_id = cur_u64(&c);
		struct slice name = cur_bytes16(&c);
		memcpy(text, name.p, name.len);
		text[name.len] = '\0';
		text += name.len + 1;
	}
	*(struct granary_changes **)s->out = page;
	return 0;
}

static struct simple_op *watch_new(struct granary_client *c, uint64_t cursor, struct granary_changes **page,
	const struct granary_call *call, struct wr *w, int *err)
{
	*page = NULL;
	*err = client_enter(c);
	struct simple_op *s = *err < 0 ? NULL : simple_new(c, &watch_rpc, call, 8, w, err);
	if (!s)
		return NULL;
	wr_u64(w, cursor);
	s->decode = page_decode;
	s->out = page;
	return s;
}

int granary_watch_start(struct granary_client *client, uint64_t cursor, struct granary_changes **page,
	const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = watch_new(client, cursor, page, call, &w, &err);

	if (op)
		*op = NULL;
	return s ? simple_start(s, &w, op) : err;
}

int granary_watch(struct granary_client *client, uint64_t cursor, struct granary_changes **page,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = watch_new(client, cursor, page, call, &w, &err);

	return s ? (int)simple_run(s, &w) : err;
}
