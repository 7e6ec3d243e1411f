/* SPDX-License-Identifier: Apache-2.0 */
/* delete.c -- PROTOCOL 5.5. */
#include "many.h"

static size_t delete_body_size(struct rpc *r)
{
	const struct granary_delete *items = many_of(r->op)->items;
	const struct many_rpc *part = many_rpc_of(r);
	size_t size = 4;

	for (uint32_t i = 0; i < part->count; i++)
		size += ref_size(&items[part->first + i].ref) + 1 + 8;
	return size;
}

static int delete_encode(struct rpc *r, struct wr *w)
{
	const struct granary_delete *items = many_of(r->op)->items;
	const struct many_rpc *part = many_rpc_of(r);

	wr_u32(w, part->count);
	for (uint32_t i = 0; i < part->count; i++) {
		const struct granary_delete *d = &items[part->first + i];
		ref_encode(w, &d->ref);
		wr_u8(w, d->flags & GRANARY_DELETE_IF_VERSION ? PUT_IF_VERSION : PUT_ANY);
		wr_u64(w, d->flags & GRANARY_DELETE_IF_VERSION ? d->if_version : 0);
	}
	return 0;
}

static int delete_decode(struct many_op *m, uint32_t at, struct cur *c)
{
	struct granary_delete *d = &((struct granary_delete *)m->items)[at];

	d->status = -(int32_t)cur_u16(c);
	d->version = cur_u64(c);
	d->size = cur_u64(c);
	return d->status;
}

static void delete_status(struct many_op *m, uint32_t at, int status)
{
	((struct granary_delete *)m->items)[at].status = status;
}

static const struct rpc_kind delete_rpc = {
	.wire_op = OP_DELETE, .mutation = true, .body_size = delete_body_size, .encode = delete_encode,
		.answer = many_answer,
	.free = many_rpc_free,
};
static const struct many_kind delete_kind = {
	.rpc = &delete_rpc, .part = many_part_all, .decode = delete_decode, .status = delete_status,
};
static const struct op_kind delete_op = { .more = many_more, .finish = many_finish, .free = many_free };

static struct many_op *delete_new(struct granary_client *c, struct granary_delete *deletes, size_t count,
	const struct granary_call *call, int *err)
{
	*err = client_enter(c);
	for (size_t i = 0; *err == 0 && i < count; i++) {
		*err = ref_check(&deletes[i].ref);
		if (*err < 0)
			error_fail(c, *err, "entry %zu does not name an object", i);
		deletes[i].status = -GRANARY_EAGAIN;
	}
	struct many_op *m = *err == 0 ? many_new(c, sizeof(*m), &delete_op, &delete_kind, count, call, err) : NULL;
	if (m)
		m->items = deletes;
	return m;
}

int granary_delete_start(struct granary_client *client, struct granary_delete *deletes, size_t count,
	const struct granary_call *call, struct granary_op **op)
{
	int err;
	struct many_op *m = delete_new(client, deletes, count, call, &err);

	if (op)
		*op = NULL;
	return m ? op_start(&m->op, op) : err;
}

int64_t granary_delete_batch(struct granary_client *client, struct granary_delete *deletes, size_t count,
	const struct granary_call *call)
{
	int err;
	struct many_op *m = delete_new(client, deletes, count, call, &err);

	return m ? many_run(m) : err;
}

int granary_delete(struct granary_client *client, const char *key, const struct granary_call *call)
{
	struct granary_delete d = { .ref = granary_ref_key(key) };
	int64_t result = granary_delete_batch(client, &d, 1, call);

	if (result < 0)
		return (int)result;
	if (d.status < 0)
		error_fail(client, d.status, "'%.300s': %s", key, error_text(d.status));
	return d.status;
}
