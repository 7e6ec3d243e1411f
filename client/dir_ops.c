/* SPDX-License-Identifier: Apache-2.0 */
/* dir_ops.c -- ping, mkdir, rmdir, rename: PROTOCOL 2.4, 5.6. */
#include "client_priv.h"

#define SIMPLE_RPC(op, is_mutation, is_plain) \
	{ .wire_op = (op), .mutation = (is_mutation), .plain = (is_plain), .body_size = simple_body_size, \
		.encode = simple_encode, .answer = simple_answer }

static const struct rpc_kind ping_rpc = SIMPLE_RPC(OP_PING, false, true);
static const struct rpc_kind mkdir_rpc = SIMPLE_RPC(OP_MKDIR, true, false);
static const struct rpc_kind rmdir_rpc = SIMPLE_RPC(OP_RMDIR, true, false);
static const struct rpc_kind rename_rpc = SIMPLE_RPC(OP_RENAME, true, false);

static struct simple_op *named_new(struct granary_client *c, const struct rpc_kind *kind,
	const struct granary_call *call, const struct granary_ref *ref, size_t more, struct wr *w, int *err)
{
	*err = ref_check(ref);
	if (*err < 0) {
		error_fail(c, *err, "no name given, or too long a one");
		return NULL;
	}
	struct simple_op *s = simple_new(c, kind, call, ref_size(ref) + more, w, err);
	if (s)
		ref_encode(w, ref);
	return s;
}

static int start(struct simple_op *s, struct wr *w, int err, struct granary_op **op)
{
	if (op)
		*op = NULL;
	return s ? simple_start(s, w, op) : err;
}

static int run(struct simple_op *s, struct wr *w, int err)
{
	return s ? (int)simple_run(s, w) : err;
}

int granary_ping_start(struct granary_client *client, const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &ping_rpc, call, 0, &w, &err);

	return start(s, &w, err, op);
}

int granary_ping(struct granary_client *client, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &ping_rpc, call, 0, &w, &err);

	return run(s, &w, err);
}

static int mkdir_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	uint64_t id = cur_u64(&c);

	(void)data;
	if (!cur_done(&c))
		return -GRANARY_EPROTO;
	if (s->out)
		*(uint64_t *)s->out = id;
	return 0;
}

static struct simple_op *mkdir_new(struct granary_client *c, const struct granary_ref *ref, uint32_t mode,
	uint32_t flags, uint64_t *dir_id, const struct granary_call *call, struct wr *w, int *err)
{
	struct simple_op *s = named_new(c, &mkdir_rpc, call, ref, 4 + 1, w, err);

	if (!s)
		return NULL;
	wr_u32(w, mode);
	wr_u8(w, (uint8_t)((flags & GRANARY_MKDIR_PARENTS ? MKDIR_PARENTS : 0) |
		(flags & GRANARY_MKDIR_DATASET ? MKDIR_DATASET : 0)));
	s->decode = mkdir_decode;
	s->out = dir_id;
	return s;
}

int granary_mkdir_start(struct granary_client *client, struct granary_ref ref, uint32_t mode, uint32_t flags,
	uint64_t *dir_id, const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = mkdir_new(client, &ref, mode, flags, dir_id, call, &w, &err);

	return start(s, &w, err, op);
}

int granary_mkdir(struct granary_client *client, struct granary_ref ref, uint32_t mode, uint32_t flags,
	uint64_t *dir_id, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = mkdir_new(client, &ref, mode, flags, dir_id, call, &w, &err);

	return run(s, &w, err);
}

int granary_rmdir_start(struct granary_client *client, struct granary_ref ref, const struct granary_call *call,
	struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = named_new(client, &rmdir_rpc, call, &ref, 0, &w, &err);

	return start(s, &w, err, op);
}

int granary_rmdir(struct granary_client *client, struct granary_ref ref, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = named_new(client, &rmdir_rpc, call, &ref, 0, &w, &err);

	return run(s, &w, err);
}

static struct simple_op *rename_new(struct granary_client *c, const struct granary_ref *from,
	const struct granary_ref *to, uint32_t flags, const struct granary_call *call, struct wr *w, int *err)
{
	*err = ref_check(to);
	if (*err < 0) {
		error_fail(c, *err, "no new name given, or too long a one");
		return NULL;
	}
	if ((flags & GRANARY_RENAME_NO_REPLACE) && (flags & GRANARY_RENAME_EXCHANGE)) {
		*err = -GRANARY_EINVAL;
		error_fail(c, *err, "an exchange replaces nothing: EXCHANGE and NO_REPLACE exclude each other");
		return NULL;
	}
	struct simple_op *s = named_new(c, &rename_rpc, call, from, ref_size(to) + 1, w, err);
	if (!s)
		return NULL;
	ref_encode(w, to);
	wr_u8(w, (uint8_t)((flags & GRANARY_RENAME_NO_REPLACE ? RENAME_NO_REPLACE : 0) |
		(flags & GRANARY_RENAME_EXCHANGE ? RENAME_SWAP : 0)));
	return s;
}

int granary_rename_start(struct granary_client *client, struct granary_ref from, struct granary_ref to, uint32_t flags,
	const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = rename_new(client, &from, &to, flags, call, &w, &err);

	return start(s, &w, err, op);
}

int granary_rename(struct granary_client *client, struct granary_ref from, struct granary_ref to, uint32_t flags,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = rename_new(client, &from, &to, flags, call, &w, &err);

	return run(s, &w, err);
}
