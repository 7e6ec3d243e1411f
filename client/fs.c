/* SPDX-License-Identifier: Apache-2.0 */
/* fs.c -- directories by id, with all attributes; ids for files to come: PROTOCOL 4.15, 5.19. */
#include "client_priv.h"

#include <stdlib.h>

/* Every entry of an answer is at least as long as what follows its name. */
enum { ENTRY_FIXED = 1 + 1 + 5 * 8 + 3 * 4 + 16 + STAT_FULL_SIZE };

static const struct rpc_kind readdir_rpc = {
	.wire_op = OP_READDIR, .body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer,
};
static const struct rpc_kind ids_rpc = {
	.wire_op = OP_IDS, .plain = true, .in_order = true, .body_size = simple_body_size, .encode = simple_encode,
	.answer = simple_answer,
};

static char *text_put(char *at, struct slice text)
{
	memcpy(at, text.p, text.len);
	at[text.len] = '\0';
	return at + text.len + 1;
}

static char *entry_take(struct cur *c, struct granary_dir_entry *e, char *text)
{
	struct granary_stat *st = &e->stat;
	struct slice name = cur_bytes16(c);
	uint8_t kind = cur_u8(c), flags = cur_u8(c);

	*e = (struct granary_dir_entry){ .name = text };
	if (name.len > 0 && name.p[name.len - 1] == '/')
		name.len--;
	text = text_put(text, name);
	st->kind = kind >= STAT_SYMLINK ? kind + 1u : kind;
	st->object_id = cur_u64(c);
	st->version = cur_u64(c);
	st->size = cur_u64(c);
	st->mtime_ns = cur_u64(c);
	st->dir_id = cur_u64(c);
	st->mode = cur_u32(c);
	st->uid = cur_u32(c);
	st->gid = cur_u32(c);
	hash_take(c, flags, st, &e->inode);
	inode_decode(c, &e->inode);
	return text;
}

/* One block: the page, its entries, their texts, and the name of the last row once more. */
static int page_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len), scan;
	uint8_t more = cur_u8(&c);
	uint32_t count = cur_u32(&c);
	struct slice last = slice_of(NULL, 0);

	(void)data;
	scan = c;
	for (uint32_t i = 0; i < count && cur_ok(&scan); i++) {
		last = cur_bytes16(&scan);
		cur_bytes(&scan, ENTRY_FIXED);
	}
	if (!cur_done(&scan))
		return -GRANARY_EPROTO;
	size_t size = sizeof(struct granary_dir_page) + count * sizeof(struct granary_dir_entry);
	struct granary_dir_page *page = malloc(size + meta.len + last.len + 1);
	if (!page)
		return -GRANARY_ENOMEM;
	page->count = count;
	page->more = more;
	page->entries = (struct granary_dir_entry *)(page + 1);
	char *text = (char *)(page->entries + count);
	for (uint32_t i = 0; i < count; i++)
		text = entry_take(&c, &page->entries[i], text);
	page->next = text;
	if (last.len > 0)
		memcpy(text, last.p, last.len);
	text[last.len] = '\0';
	*(struct granary_dir_page **)s->out = page;
	return 0;
}

int granary_readdir(struct granary_client *client, uint64_t dir_id, const char *after, uint32_t max,
	struct granary_dir_page **page, const struct granary_call *call)
{
	struct wr w;
	int err = client_enter(client);

	*page = NULL;
	if (err == 0 && max > GRANARY_LIST_MAX)
		err = error_fail(client, -GRANARY_EINVAL, "a page has at most %d entries", GRANARY_LIST_MAX);
	if (err < 0)
		return err;
	struct simple_op *s = simple_new(client, &readdir_rpc, call, 8 + text_size(after) + 4, &w, &err);
	if (!s)
		return err;
	wr_u64(&w, dir_id);
	text_encode(&w, after);
	wr_u32(&w, max ? max : GRANARY_LIST_MAX);
	s->decode = page_decode;
	s->out = page;
	return (int)simple_run(s, &w);
}

static int ids_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	uint64_t first = cur_u64(&c);

	(void)data;
	if (!cur_done(&c))
		return -GRANARY_EPROTO;
	*(uint64_t *)s->out = first;
	return 0;
}

int granary_ids(struct granary_client *client, uint32_t count, uint64_t *first, const struct granary_call *call)
{
	struct wr w;
	int err = client_enter(client);

	if (err == 0 && (count == 0 || count > GRANARY_IDS_MAX))
		err = error_fail(client, -GRANARY_EINVAL, "1 to %d ids a call", GRANARY_IDS_MAX);
	if (err < 0)
		return err;
	struct simple_op *s = simple_new(client, &ids_rpc, call, 4, &w, &err);
	if (!s)
		return err;
	wr_u32(&w, count);
	s->decode = ids_decode;
	s->out = first;
	return (int)simple_run(s, &w);
}
