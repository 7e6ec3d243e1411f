/* SPDX-License-Identifier: Apache-2.0 */
/* stat.c -- attributes: PROTOCOL 4.3. */
#include "many.h"

#include <stdlib.h>

struct stat_op {
	struct many_op many;
	struct granary_inode *inodes; /* NULL: not wanted */
};

static struct granary_inode *inodes_of(struct many_op *m) { return container_of(m, struct stat_op, many)->inodes; }

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

	wr_u8(w, (uint8_t)((many_of(r->op)->flags & GRANARY_STAT_META ? STAT_WANT_META : 0) |
		(inodes_of(many_of(r->op)) ? STAT_WANT_FULL : 0)));
	wr_u32(w, part->count);
	for (uint32_t i = 0; i < part->count; i++)
		ref_encode(w, &refs[part->first + i]);
	return 0;
}

/* One block: the pairs, then their texts. */
int pairs_decode(struct slice meta, struct granary_pair **pairs, uint64_t *pairs_count)
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
	struct granary_pair *out = malloc(count * sizeof(*out) + meta.len); /* two lengths of 2 bytes become two NULs */
	if (!out)
		return -GRANARY_ENOMEM;
	*pairs = out;
	*pairs_count = count;
	char *text = (char *)(out + count);
	c = cur_of(meta.p, meta.len);
	for (uint64_t i = 0; i < 2 * count; i++) {
		struct slice s = cur_bytes16(&c);
		text_copy(text, s.len + 1, s);
		*(i % 2 ? &out[i / 2].value : &out[i / 2].name) = text;
		text += s.len + 1;
	}
	return 0;
}

static uint32_t kind_of_wire(uint8_t kind)
{
	return kind >= STAT_SYMLINK ? kind + 1u : kind; /* 3 of enum granary_kind is the prefix of a listing */
}

void inode_decode(struct cur *c, struct granary_inode *inode)
{
	inode->ctime_ns = cur_u64(c);
	inode->atime_ns = cur_u64(c);
	inode->rdev = cur_u64(c);
	inode->nlink = cur_u32(c);
}

void hash_take(struct cur *c, uint8_t flags, struct granary_stat *st, struct granary_inode *inode)
{
	struct cur holes = *c;
	struct slice hash = cur_bytes(c, sizeof(st->hash));

	st->has_hash = (flags & STAT_HAS_HASH) != 0;
	if (st->has_hash && hash.len == sizeof(st->hash))
		memcpy(st->hash, hash.p, sizeof(st->hash));
	if (inode)
		inode->holes = flags & STAT_HAS_HOLES ? cur_u64(&holes) : 0;
}

int stat_take(struct cur *c, struct granary_stat *st, struct granary_inode *inode)
{
	uint16_t status = cur_u16(c);
	uint8_t flags;
	int err = 0;

	memset(st, 0, sizeof(*st));
	st->status = -(int32_t)status;
	if (status != 0)
		return st->status;
	st->kind = kind_of_wire(cur_u8(c));
	flags = cur_u8(c);
	st->object_id = cur_u64(c);
	st->version = cur_u64(c);
	st->size = cur_u64(c);
	st->mtime_ns = cur_u64(c);
	st->dir_id = cur_u64(c);
	st->mode = cur_u32(c);
	st->uid = cur_u32(c);
	st->gid = cur_u32(c);
	hash_take(c, flags, st, inode);
	if (inode)
		inode_decode(c, inode);
	if (flags & STAT_HAS_META)
		err = pairs_decode(cur_bytes16(c), &st->meta, &st->meta_count);
	if (err == -GRANARY_EPROTO)
		c->bad = true;
	return err == -GRANARY_ENOMEM ? err : 0;
}

static int stat_decode(struct many_op *m, uint32_t at, struct cur *c)
{
	struct granary_inode *inodes = inodes_of(m);

	return stat_take(c, &((struct granary_stat *)m->out)[at], inodes ? &inodes[at] : NULL);
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
	struct granary_stat *out, struct granary_inode *inodes, const struct granary_call *call, int *err)
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
	struct many_op *m = many_new(c, sizeof(struct stat_op), &stat_op, &stat_kind, count, call, err);
	if (!m)
		return NULL;
	m->items = (union { const void *c; void *p; }){ refs }.p; /* read only */
	m->flags = flags;
	m->out = out;
	container_of(m, struct stat_op, many)->inodes = inodes;
	memset(out, 0, count * sizeof(*out));
	if (inodes)
		memset(inodes, 0, count * sizeof(*inodes));
	return m;
}

int granary_stat_start(struct granary_client *client, const struct granary_ref *refs, size_t count, uint32_t flags,
	struct granary_stat *out, const struct granary_call *call, struct granary_op **op)
{
	int err;
	struct many_op *m = stat_new(client, refs, count, flags, out, NULL, call, &err);

	if (op)
		*op = NULL;
	return m ? op_start(&m->op, op) : err;
}

int64_t granary_stat_batch(struct granary_client *client, const struct granary_ref *refs, size_t count, uint32_t flags,
	struct granary_stat *out, const struct granary_call *call)
{
	int err;
	struct many_op *m = stat_new(client, refs, count, flags, out, NULL, call, &err);

	return m ? many_run(m) : err;
}

int granary_stat_full_start(struct granary_client *client, const struct granary_ref *refs, size_t count, uint32_t flags,
	struct granary_stat *out, struct granary_inode *inodes, const struct granary_call *call, struct granary_op **op)
{
	int err;
	struct many_op *m = stat_new(client, refs, count, flags, out, inodes, call, &err);

	if (op)
		*op = NULL;
	return m ? op_start(&m->op, op) : err;
}

int64_t granary_stat_full(struct granary_client *client, const struct granary_ref *refs, size_t count, uint32_t flags,
	struct granary_stat *out, struct granary_inode *inodes, const struct granary_call *call)
{
	int err;
	struct many_op *m = stat_new(client, refs, count, flags, out, inodes, call, &err);

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
