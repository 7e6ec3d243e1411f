/* SPDX-License-Identifier: Apache-2.0 */
/* list.c -- listings: a page (PROTOCOL 4.4), and an iterator over pages that reads the next one ahead. */
#include "client_priv.h"

#include <stdlib.h>
#include <sys/stat.h>

static size_t list_body_size(const struct granary_list_query *q)
{
	return text_size(q->prefix) + text_size(q->delimiter) + text_size(q->start_after) + 4 + 1;
}

static void entry_skip(struct cur *c, bool full)
{
	uint8_t kind = cur_u8(c);

	cur_bytes16(c);
	if (kind == LIST_OBJECT)
		cur_bytes(c, 5 * 8 + 4 + 1 + 16 + (full ? STAT_FULL_SIZE : 0));
	else if (kind != LIST_PREFIX)
		c->bad = true;
}

static uint32_t kind_of_mode(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFLNK: return GRANARY_SYMLINK;
	case S_IFIFO: return GRANARY_FIFO;
	case S_IFSOCK: return GRANARY_SOCKET;
	case S_IFCHR: return GRANARY_CHAR;
	case S_IFBLK: return GRANARY_BLOCK;
	default: return GRANARY_FILE;
	}
}

static char *entry_decode(struct cur *c, struct granary_list_entry *e, struct granary_inode *inode, char *text)
{
	uint8_t kind = cur_u8(c);
	struct slice key = cur_bytes16(c), hash;

	memcpy(text, key.p, key.len);
	text[key.len] = '\0';
	*e = (struct granary_list_entry){ .key = text, .kind = GRANARY_PREFIX };
	if (kind == LIST_OBJECT) {
		e->object_id = cur_u64(c);
		e->version = cur_u64(c);
		e->size = cur_u64(c);
		e->mtime_ns = cur_u64(c);
		e->dir_id = cur_u64(c);
		e->mode = cur_u32(c);
		e->has_hash = cur_u8(c);
		hash = cur_bytes(c, sizeof(e->hash));
		memcpy(e->hash, hash.p, sizeof(e->hash));
		e->kind = kind_of_mode(e->mode);
		if (inode)
			inode_decode(c, inode);
	}
	return text + key.len + 1;
}

/* One block: the page, its entries, their texts (each text is shorter than its entry on the wire). */
static int list_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len), scan;
	uint8_t more = cur_u8(&c);
	uint32_t count = cur_u32(&c);

	(void)data;
	scan = c;
	for (uint32_t i = 0; i < count && cur_ok(&scan); i++)
		entry_skip(&scan, s->extra != 0);
	if (!cur_done(&scan))
		return -GRANARY_EPROTO;
	size_t inodes = s->extra != 0 ? count : 0;
	struct granary_list_page *page = malloc(sizeof(*page) + count * sizeof(page->entries[0]) +
		inodes * sizeof(page->inodes[0]) + meta.len);
	if (!page)
		return -GRANARY_ENOMEM;
	page->count = count;
	page->more = more;
	page->entries = (struct granary_list_entry *)(page + 1);
	page->inodes = s->extra != 0 ? (struct granary_inode *)(page->entries + count) : NULL;
	char *text = (char *)(page->entries + count) + inodes * sizeof(page->inodes[0]);
	memset(page->entries + count, 0, inodes * sizeof(page->inodes[0]));
	for (uint32_t i = 0; i < count; i++)
		text = entry_decode(&c, &page->entries[i], page->inodes ? &page->inodes[i] : NULL, text);
	*(struct granary_list_page **)s->out = page;
	return 0;
}

static const struct rpc_kind list_rpc = {
	.wire_op = OP_LIST, .body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer,
};

static struct simple_op *list_new(struct granary_client *c, const struct granary_list_query *query,
	struct granary_list_page **page, const struct granary_call *call, struct wr *w, int *err)
{
	struct granary_list_query q = { .size = 0 };

	*err = client_enter(c);
	if (*err < 0)
		return NULL;
	if (query && query->size < offsetof(struct granary_list_query, delimiter)) {
		*err = error_fail(c, -GRANARY_EINVAL, "granary_list_query.size is not set");
		return NULL;
	}
	if (query)
		memcpy(&q, query, query->size < sizeof(q) ? query->size : sizeof(q));
	if (q.max > GRANARY_LIST_MAX) {
		*err = error_fail(c, -GRANARY_EINVAL, "a page has at most %d entries", GRANARY_LIST_MAX);
		return NULL;
	}
	struct simple_op *s = simple_new(c, &list_rpc, call, list_body_size(&q), w, err);
	if (!s)
		return NULL;
	text_encode(w, q.prefix);
	text_encode(w, q.delimiter);
	text_encode(w, q.start_after);
	wr_u32(w, q.max ? q.max : GRANARY_LIST_MAX);
	if (q.flags & GRANARY_LIST_FULL)
		wr_u8(w, LIST_WANT_FULL);
	s->extra = q.flags & GRANARY_LIST_FULL;
	s->decode = list_decode;
	s->out = page;
	*page = NULL;
	return s;
}

int granary_list_start(struct granary_client *client, const struct granary_list_query *query,
	struct granary_list_page **page, const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = list_new(client, query, page, call, &w, &err);

	if (op)
		*op = NULL;
	return s ? simple_start(s, &w, op) : err;
}

int granary_list(struct granary_client *client, const struct granary_list_query *query, struct granary_list_page **page,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = list_new(client, query, page, call, &w, &err);

	return s ? (int)simple_run(s, &w) : err;
}

/* ---- an iterator ---- */

struct granary_iter {
	struct granary_client *client;
	char *prefix, *delimiter, *start_after, *bucket;
	uint32_t max;
	struct granary_call call;
	struct granary_list_page *page, *next; /* being read out; being fetched */
	uint32_t at;
	struct granary_op *op;
	bool ended;
};

static bool text_keep(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to;
}

static bool iter_keep(struct granary_iter *it, const struct granary_list_query *q, const struct granary_call *call)
{
	it->max = q->max;
	it->call.size = sizeof(it->call);
	it->call.timeout_ms = call ? call->timeout_ms : 0;
	if (!text_keep(&it->bucket, call ? call->bucket : NULL))
		return false;
	it->call.bucket = it->bucket;
	return text_keep(&it->prefix, q->prefix) && text_keep(&it->delimiter, q->delimiter) &&
		text_keep(&it->start_after, q->start_after);
}

static int iter_fetch(struct granary_iter *it)
{
	struct granary_list_query q = GRANARY_INIT(granary_list_query);

	q.prefix = it->prefix;
	q.delimiter = it->delimiter;
	q.start_after = it->start_after;
	q.max = it->max;
	return granary_list_start(it->client, &q, &it->next, &it->call, &it->op);
}

int granary_iter_open(struct granary_client *client, const struct granary_list_query *query,
	const struct granary_call *call, struct granary_iter **out)
{
	struct granary_list_query q = { .size = 0 };

	*out = NULL;
	if (query)
		memcpy(&q, query, query->size < sizeof(q) ? query->size : sizeof(q));
	struct granary_iter *it = calloc(1, sizeof(*it));
	if (!it || !iter_keep(it, &q, call)) {
		granary_iter_close(&it);
		return error_fail(client, -GRANARY_ENOMEM, "out of memory");
	}
	it->client = client;
	int err = iter_fetch(it);
	if (err < 0) {
		granary_iter_close(&it);
		return err;
	}
	*out = it;
	return 0;
}

/* The page that was fetched becomes the one that is read; the next one is asked for. */
static int iter_turn(struct granary_iter *it)
{
	int err = it->op ? 0 : iter_fetch(it);

	if (err == 0)
		err = (int)granary_wait(it->op, GRANARY_FOREVER);
	granary_op_free(&it->op);
	if (err < 0)
		return err;
	free(it->page);
	it->page = it->next;
	it->next = NULL;
	it->at = 0;
	it->ended = !it->page->more || it->page->count == 0;
	if (it->ended)
		return 0;
	free(it->start_after);
	if (!text_keep(&it->start_after, it->page->entries[it->page->count - 1].key))
		return error_fail(it->client, -GRANARY_ENOMEM, "out of memory");
	return iter_fetch(it);
}

int granary_iter_next(struct granary_iter *iter, const struct granary_list_entry **entry)
{
	while (!iter->page || iter->at == iter->page->count) {
		if (iter->ended)
			return 0;
		int err = iter_turn(iter);
		if (err < 0)
			return err;
	}
	*entry = &iter->page->entries[iter->at++];
	return 1;
}

void granary_iter_close(struct granary_iter **iter)
{
	struct granary_iter *it = iter ? *iter : NULL;

	if (!it)
		return;
	*iter = NULL;
	granary_op_free(&it->op);
	free(it->page);
	free(it->next);
	free(it->prefix);
	free(it->delimiter);
	free(it->start_after);
	free(it->bucket);
	free(it);
}
