/* SPDX-License-Identifier: Apache-2.0 */
/* stat.c -- attributes: PROTOCOL 4.3. */
#include "many.h"

#include <stdlib.h>

static size_t stat_body_size(struct rpc *r)
{
	const struct granary_ref *refs = many_of(r->op)->items;
	const struct many_rpc *part = many_rpc_of(r);
	size_t size = 1 + 4;

	for (uint32_t i = 0; i < part->count; i++)
		size += ref_size(&refs[part->first + i]);
	return size;
}

static int stat_encode(struct rpc *r, struct wr *w)
{
	const struct granary_ref *refs = many_of(r->op)->items;
	const struct many_rpc *part = many_rpc_of(r);

	wr_u8(w, many_of(r->op)->flags & GRANARY_STAT_META ? STAT_WANT_META : 0);
	wr_u32(w, part->count);
	for (uint32_t i = 0; i < part->count; i++)
		ref_encode(w, &refs[part->first + i]);
	return 0;
}

/* User metadata as one block: the pairs, then their texts. */
static int pairs_decode(struct granary_stat *st, struct slice meta)
{
	uint64_t count = 0;

	if (meta.len == 0)
		return 0;
	struct cur c = cur_of(meta.p, meta.len);
	while (cur_left(&c) > 0) {
		cur_bytes16(&c);
		cur_bytes16(&c);
		count++;
	}
	if (!cur_done(&c))
		return -GRANARY_EPROTO;
	st->meta = malloc(count * sizeof(*st->meta) + meta.len); /* two lengths of 2 bytes become two NULs */
	if (!st->meta)
		return -GRANARY_ENOMEM;
	st->meta_count = count;
	char *text = (char *)(st->meta + count);
	c = cur_of(meta.p, meta.len);
	for (uint64_t i = 0; i < 2 * count; i++) {
		struct slice s = cur_bytes16(&c);
		text_copy(text, s.len + 1, s);
		*(i % 2 ? &st->meta[i / 2].value : &st->meta[i / 2].name) = text;
		text += s.len + 1;
	}
	return 0;
}

static int stat_decode(struct many_op *m, uint32_t at, struct cur *c)
{
	struct granary_stat *st = &((struct granary_stat *)m->out)[at];
	uint16_t status = cur_u16(c);
	uint8_t flags;
	int err = 0;

	memset(st, 0, sizeof(*st));
	st->status = -(int32_t)status;
	if (status != 0)
		return st->status;
	st->kind = cur_u8(c);
	flags = cur_u8(c);
	st->object_id = cur_u64(c);
	st->version = cur_u64(c);
	st->size = cur_u64(c);
	st->mtime_ns = cur_u64(c);
	st->dir_id = cur_u64(c);
	st->mode = cur_u32(c);
	st->uid = cur_u32(c);
	st->gid = cur_u32(c);
	struct slice hash = cur_bytes(c, sizeof(st->hash));
	if (hash.len == sizeof(st->hash))
		memcpy(st->hash, hash.p, sizeof(st->hash));
	st->has_hash = (flags & STAT_HAS_HASH) != 0;
	if (flags & STAT_HAS_META)
		err = pairs_decode(st, cur_bytes16(c));
	if (err == -GRANARY_EPROTO)
		c->bad = true;
	return err == -GRANARY_ENOMEM ? err : 0;
}

static void stat_status(struct many_op *m, uint32_t at, int status)
{
	((struct granary_stat *)m->out)[at] = (struct granary_stat){ .status = status };
}

static const struct rpc_kind stat_rpc = {
	.wire_op = OP_STAT, .body_size = stat_body_size, .encode = stat_encode, .answer = many_answer,
		.free = many_rpc_free,
};
static const struct many_kind stat_kind = {
	.rpc = &stat_rpc, .part = many_part_all, .decode = stat_decode, .status = stat_status,
};
static const struct op_kind stat_op = { .more = many_more, .finish = many_finish, .free = many_free };

static struct many_op *stat_new(struct granary_client *c, const struct granary_ref *refs, size_t count, uint32_t flags,
	struct granary_stat *out, const struct granary_call *call, int *err)
{
	*err = client_enter(c);
	if (*err < 0)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		*err = ref_check(&refs[i]);
		if (*err < 0) {
			error_fail(c, *err, "entry %zu does not name an object", i);
			return NULL;
		}
	}
	struct many_op *m = many_new(c, sizeof(*m), &stat_op, &stat_kind, count, call, err);
	if (!m)
		return NULL;
	m->items = (union { const void *c; void *p; }){ refs }.p; /* read only */
	m->flags = flags;
	m->out = out;
	memset(out, 0, count * sizeof(*out));
	return m;
}

int granary_stat_start(struct granary_client *client, const struct granary_ref *refs, size_t count, uint32_t flags,
	struct granary_stat *out, const struct granary_call *call, struct granary_op **op)
{
	int err;
	struct many_op *m = stat_new(client, refs, count, flags, out, call, &err);

	if (op)
		*op = NULL;
	return m ? op_start(&m->op, op) : err;
}

int64_t granary_stat_batch(struct granary_client *client, const struct granary_ref *refs, size_t count, uint32_t flags,
	struct granary_stat *out, const struct granary_call *call)
{
	int err;
	struct many_op *m = stat_new(client, refs, count, flags, out, call, &err);

	return m ? many_run(m) : err;
}

int granary_stat(struct granary_client *client, struct granary_ref ref, struct granary_stat *out,
	const struct granary_call *call)
{
	int64_t result = granary_stat_batch(client, &ref, 1, 0, out, call);

	if (result < 0)
		return (int)result;
	if (out->status < 0)
		error_fail(client, out->status, "'%.300s': %s", ref.name ? ref.name : "(by id)",
			error_text(out->status));
	return out->status;
}
