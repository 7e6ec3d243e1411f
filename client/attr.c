/* SPDX-License-Identifier: Apache-2.0 */
/* attr.c -- attributes, extended attributes, tags, symbolic links, special files, hard links: PROTOCOL 4.11, 5.12,
 * 5.13. */
#include "client_priv.h"

#include <stdlib.h>
#include <sys/stat.h>

#define ATTR_RPC(op, is_mutation) \
	{ .wire_op = (op), .mutation = (is_mutation), .body_size = simple_body_size, .encode = simple_encode, \
		.answer = simple_answer }

static const struct rpc_kind setattr_rpc = ATTR_RPC(OP_SETATTR, true);
static const struct rpc_kind xattr_rpc = ATTR_RPC(OP_XATTR, true);
static const struct rpc_kind tags_rpc = ATTR_RPC(OP_TAGS, true);
static const struct rpc_kind make_rpc = ATTR_RPC(OP_MAKE, true);
static const struct rpc_kind link_rpc = ATTR_RPC(OP_LINK, true);
static const struct rpc_kind attr_rpc = ATTR_RPC(OP_ATTR, false);

static struct simple_op *ref_op(struct granary_client *c, const struct rpc_kind *kind, const struct granary_call *call,
	const struct granary_ref *ref, size_t more, struct wr *w, int *err)
{
	*err = client_enter(c);
	if (*err < 0)
		return NULL;
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

/* ---- setattr ---- */

static struct simple_op *setattr_new(struct granary_client *c, const struct granary_ref *ref,
	const struct granary_setattr *attributes, const struct granary_call *call, struct wr *w, int *err)
{
	struct granary_setattr a = { .size = 0 };

	if (attributes->size < offsetof(struct granary_setattr, uid)) {
		*err = error_fail(c, -GRANARY_EINVAL, "granary_setattr.size is not set");
		return NULL;
	}
	memcpy(&a, attributes, attributes->size < sizeof(a) ? attributes->size : sizeof(a));
	struct simple_op *s = ref_op(c, &setattr_rpc, call, ref, 1 + 3 * 4 + 2 * 8, w, err);
	if (!s)
		return NULL;
	wr_u8(w, (uint8_t)(a.set & SETATTR_ALL)); /* the same numbers */
	wr_u32(w, a.mode);
	wr_u32(w, a.uid);
	wr_u32(w, a.gid);
	wr_u64(w, a.atime_ns);
	wr_u64(w, a.mtime_ns);
	return s;
}

int granary_setattr_start(struct granary_client *client, struct granary_ref ref,
	const struct granary_setattr *attributes, const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = setattr_new(client, &ref, attributes, call, &w, &err);

	return start(s, &w, err, op);
}

int granary_setattr(struct granary_client *client, struct granary_ref ref, const struct granary_setattr *attributes,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = setattr_new(client, &ref, attributes, call, &w, &err);

	return run(s, &w, err);
}

/* ---- extended attributes ---- */

static struct simple_op *xattr_new(struct granary_client *c, const struct granary_ref *ref, const char *name,
	struct slice value, uint8_t how, const struct granary_call *call, struct wr *w, int *err)
{
	if (!name || name[0] == '\0' || strlen(name) > GRANARY_XATTR_NAME_MAX) {
		*err = error_fail(c, -GRANARY_ENAME, "an attribute's name has 1 to %d bytes", GRANARY_XATTR_NAME_MAX);
		return NULL;
	}
	if (value.len > UINT16_MAX) {
		*err = error_fail(c, -GRANARY_ETOOBIG, "attributes of one object have at most %d bytes",
			GRANARY_XATTRS_LEN_MAX);
		return NULL;
	}
	struct simple_op *s = ref_op(c, &xattr_rpc, call, ref, 1 + text_size(name) + 2 + value.len, w, err);
	if (!s)
		return NULL;
	wr_u8(w, how);
	text_encode(w, name);
	wr_bytes16(w, value);
	return s;
}

static bool xattr_flags(struct granary_client *c, uint32_t flags, int *err)
{
	if (flags <= GRANARY_XATTR_REPLACE)
		return true;
	*err = error_fail(c, -GRANARY_EINVAL, "flags of an extended attribute: 0, CREATE or REPLACE");
	return false;
}

int granary_xattr_set_start(struct granary_client *client, struct granary_ref ref, const char *name, const void *value,
	size_t len, uint32_t flags, const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = !xattr_flags(client, flags, &err) ? NULL
		: xattr_new(client, &ref, name, slice_of(value, len), (uint8_t)flags, call, &w, &err);

	return start(s, &w, err, op);
}

int granary_xattr_set(struct granary_client *client, struct granary_ref ref, const char *name, const void *value,
	size_t len, uint32_t flags, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = !xattr_flags(client, flags, &err) ? NULL
		: xattr_new(client, &ref, name, slice_of(value, len), (uint8_t)flags, call, &w, &err);

	return run(s, &w, err);
}

int granary_xattr_remove(struct granary_client *client, struct granary_ref ref, const char *name,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = xattr_new(client, &ref, name, slice_of(NULL, 0), XATTR_REMOVE, call, &w, &err);

	return run(s, &w, err);
}

/* ---- reading ---- */

struct block {
	void *p;
	uint64_t len;
};

static int block_of(struct block *b, struct slice s)
{
	b->p = malloc(s.len + 1);
	if (!b->p)
		return -GRANARY_ENOMEM;
	if (s.len > 0)
		memcpy(b->p, s.p, s.len);
	((char *)b->p)[s.len] = '\0';
	b->len = s.len;
	return 0;
}

static int value_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);

	(void)data;
	cur_bytes16(&c);
	struct slice value = cur_bytes16(&c);
	return cur_done(&c) ? block_of(s->out, value) : -GRANARY_EPROTO;
}

static int names_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct block *b = s->out;
	char *at;

	(void)data;
	at = b->p = malloc(meta.len + 1); /* a length of 2 bytes becomes a NUL */
	if (!at)
		return -GRANARY_ENOMEM;
	while (cur_left(&c) > 0 && cur_ok(&c)) {
		struct slice name = cur_bytes16(&c);
		if (!cur_ok(&c))
			break;
		memcpy(at, name.p, name.len);
		at += name.len;
		*at++ = '\0';
	}
	b->len = (uint64_t)(at - (char *)b->p);
	if (cur_done(&c))
		return 0;
	free(b->p);
	b->p = NULL;
	return -GRANARY_EPROTO;
}

static int tags_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct block *b = s->out;

	(void)data;
	return pairs_decode(meta, (struct granary_pair **)&b->p, &b->len);
}

static int target_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	(void)data;
	return block_of(s->out, meta);
}

static int look(struct granary_client *c, const struct granary_ref *ref, uint8_t what, const char *name,
	int (*decode)(struct simple_op *s, struct slice meta, struct slice data), struct block *out,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = ref_op(c, &attr_rpc, call, ref, 1 + text_size(name), &w, &err);

	*out = (struct block){ NULL, 0 };
	if (!s)
		return err;
	wr_u8(&w, what);
	text_encode(&w, name);
	s->decode = decode;
	s->out = out;
	return (int)simple_run(s, &w);
}

int granary_xattr_get(struct granary_client *client, struct granary_ref ref, const char *name, void **value,
	size_t *len, const struct granary_call *call)
{
	struct block b = { NULL, 0 };
	int err = !name || name[0] == '\0' ? error_fail(client, -GRANARY_ENAME, "an attribute's name is not given")
		: look(client, &ref, ATTR_XATTRS, name, value_decode, &b, call);

	*value = b.p;
	*len = b.len;
	return err;
}

int granary_xattr_list(struct granary_client *client, struct granary_ref ref, char **names, size_t *len,
	const struct granary_call *call)
{
	struct block b;
	int err = look(client, &ref, ATTR_XATTR_NAMES, NULL, names_decode, &b, call);

	*names = b.p;
	*len = b.len;
	return err;
}

int granary_tags_get(struct granary_client *client, struct granary_ref ref, struct granary_pair **tags, uint64_t *count,
	const struct granary_call *call)
{
	struct block b;
	int err = look(client, &ref, ATTR_TAGS, NULL, tags_decode, &b, call);

	*tags = b.p;
	*count = b.len;
	return err;
}

int granary_readlink(struct granary_client *client, struct granary_ref ref, char **target,
	const struct granary_call *call)
{
	struct block b;
	int err = look(client, &ref, ATTR_TARGET, NULL, target_decode, &b, call);

	*target = b.p;
	return err;
}

/* ---- tags ---- */

int granary_tags_set(struct granary_client *client, struct granary_ref ref, const struct granary_pair *tags,
	size_t count, const struct granary_call *call)
{
	size_t len = 0;
	struct wr w;
	int err;

	for (size_t i = 0; i < count; i++)
		len += text_size(tags[i].name) + text_size(tags[i].value);
	if (count > GRANARY_TAGS_MAX || len > UINT16_MAX)
		return error_fail(client, -GRANARY_ETOOBIG, "an object has at most %d tags", GRANARY_TAGS_MAX);
	struct simple_op *s = ref_op(client, &tags_rpc, call, &ref, 2 + len, &w, &err);
	if (!s)
		return err;
	wr_u16(&w, (uint16_t)len);
	for (size_t i = 0; i < count; i++) {
		text_encode(&w, tags[i].name);
		text_encode(&w, tags[i].value);
	}
	return (int)simple_run(s, &w);
}

/* ---- names without bytes, hard links ---- */

static int id_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	uint64_t id = cur_u64(&c);

	(void)data;
	if (!cur_ok(&c))
		return -GRANARY_EPROTO;
	if (s->out)
		*(uint64_t *)s->out = id;
	return 0;
}

static int make(struct granary_client *client, const struct granary_ref *ref, uint32_t mode, uint64_t rdev,
	uint32_t uid, uint32_t gid, const char *target, uint64_t *object_id, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = ref_op(client, &make_rpc, call, ref, 3 * 4 + 8 + text_size(target), &w, &err);

	if (!s)
		return err;
	wr_u32(&w, mode);
	wr_u32(&w, uid);
	wr_u32(&w, gid);
	wr_u64(&w, rdev);
	text_encode(&w, target);
	s->decode = id_decode;
	s->out = object_id;
	return (int)simple_run(s, &w);
}

int granary_symlink(struct granary_client *client, const char *target, struct granary_ref ref, uint64_t *object_id,
	const struct granary_call *call)
{
	if (!target || target[0] == '\0' || strlen(target) > GRANARY_SYMLINK_LEN_MAX)
		return error_fail(client, -GRANARY_EINVAL, "the target of a symbolic link has 1 to %d bytes",
			GRANARY_SYMLINK_LEN_MAX);
	return make(client, &ref, S_IFLNK | 0777, 0, 0, 0, target, object_id, call);
}

int granary_mknod(struct granary_client *client, struct granary_ref ref, uint32_t mode, uint64_t rdev, uint32_t uid,
	uint32_t gid, uint64_t *object_id, const struct granary_call *call)
{
	return make(client, &ref, mode, rdev, uid, gid, NULL, object_id, call);
}

int granary_link(struct granary_client *client, struct granary_ref from, struct granary_ref to, uint64_t *object_id,
	const struct granary_call *call)
{
	struct wr w;
	int err = ref_check(&to);

	if (err < 0)
		return error_fail(client, err, "no new name given, or too long a one");
	struct simple_op *s = ref_op(client, &link_rpc, call, &from, ref_size(&to), &w, &err);
	if (!s)
		return err;
	ref_encode(&w, &to);
	s->decode = id_decode;
	s->out = object_id;
	return (int)simple_run(s, &w);
}
