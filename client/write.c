/* SPDX-License-Identifier: Apache-2.0 */
/* write.c -- changing bytes in place, copying ranges by reference, where an object has bytes: PROTOCOL 4.14, 5.17,
 * 5.18. */
#include "client_priv.h"

#include <stdlib.h>

enum { JOINS_MAX = 32 * 1024 }; /* bytes of a call that may travel with others' */

#define WRITE_RPC(op, is_mutation) \
	{ .wire_op = (op), .mutation = (is_mutation), .body_size = simple_body_size, .encode = simple_encode, \
		.answer = simple_answer }

static const struct rpc_kind write_rpc = WRITE_RPC(OP_WRITE, true);
static const struct rpc_kind copy_range_rpc = WRITE_RPC(OP_COPY_RANGE, true);
static const struct rpc_kind map_rpc = WRITE_RPC(OP_MAP, false);

static void written_take(struct cur *c, struct granary_written *out)
{
	struct granary_written w;

	w.object_id = cur_u64(c);
	w.version = cur_u64(c);
	w.object_size = cur_u64(c);
	if (out)
		*out = w;
}

static int written_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);

	(void)data;
	written_take(&c, s->out);
	return cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

/* ---- changes ---- */

/* Bytes of them all, how many carry any, checksums. */
struct weight {
	uint64_t bytes;
	uint32_t carriers, crcs, parts;
};

static int changes_check(struct granary_client *c, const struct granary_change *changes, uint32_t count,
	struct weight *w)
{
	*w = (struct weight){ .bytes = 0 };
	if (count == 0 || count > GRANARY_CHANGES_MAX)
		return error_fail(c, -GRANARY_EINVAL, "1 to %d changes a call", GRANARY_CHANGES_MAX);
	for (uint32_t i = 0; i < count; i++) {
		const struct granary_change *x = &changes[i];
		bool is_data = x->kind == GRANARY_CHANGE_DATA;

		if (x->kind < GRANARY_CHANGE_DATA || x->kind > GRANARY_CHANGE_TRUNCATE ||
			(x->length == 0) != (x->kind == GRANARY_CHANGE_TRUNCATE) || (is_data && !x->data))
			return error_fail(c, -GRANARY_EINVAL, "change %u: no such kind, no data, or no length", i);
		if (x->length > INT64_MAX || x->offset > (uint64_t)INT64_MAX - x->length)
			return error_fail(c, -GRANARY_ETOOBIG, "change %u reaches behind the largest offset", i);
		if (!is_data)
			continue;
		if (x->length > GRANARY_WRITE_MAX - w->bytes)
			return error_fail(c, -GRANARY_ETOOBIG, "at most %d bytes a call", GRANARY_WRITE_MAX);
		w->bytes += x->length;
		w->carriers++;
		w->crcs += crc_block_count(x->length);
		w->parts += (uint32_t)((x->length - 1) / WIRE_ENTRY_DATA_MAX); /* beyond the first */
	}
	if (count + w->parts > GRANARY_CHANGES_MAX)
		return error_fail(c, -GRANARY_ETOOBIG, "changes of more than %d bytes count as several",
			WIRE_ENTRY_DATA_MAX);
	return 0;
}

static void change_encode(struct wr *w, const struct granary_change *x)
{
	const uint8_t *data = x->data;
	uint64_t done = 0;

	do { /* an entry carries no more than a record holds */
		uint32_t crcs[WIRE_ENTRY_DATA_MAX / CRC_BLOCK_SIZE];
		bool is_data = x->kind == GRANARY_CHANGE_DATA;
		uint64_t n = x->length - done;

		if (is_data && n > WIRE_ENTRY_DATA_MAX)
			n = WIRE_ENTRY_DATA_MAX;
		wr_u8(w, (uint8_t)x->kind); /* the same numbers */
		wr_u64(w, x->offset + done);
		wr_u64(w, n);
		if (is_data) {
			crc32c_blocks(crcs, data + done, n);
			wr_bytes(w, crcs, 4 * (size_t)crc_block_count(n));
		}
		done += n;
	} while (done < x->length);
}

static int carriers_set(struct simple_op *s, const struct granary_change *changes, uint32_t count, uint32_t carriers)
{
	s->many = malloc((carriers + 1) * sizeof(*s->many));
	if (!s->many)
		return error_fail(s->op.client, -GRANARY_ENOMEM, "out of memory");
	for (uint32_t i = 0; i < count; i++) {
		union { const void *in; void *out; } data = { .in = changes[i].data };
		if (changes[i].kind == GRANARY_CHANGE_DATA)
			s->many[s->many_count++] = (struct iovec){ data.out, (size_t)changes[i].length };
	}
	return 0;
}

static struct simple_op *change_new(struct granary_client *client, const struct granary_ref *ref,
	const struct granary_change *changes, uint32_t count, const struct granary_write *options,
	struct granary_written *out, const struct granary_call *call, struct wr *w, int *err)
{
	struct granary_write o = { .size = 0 };
	struct weight weight = { .bytes = 0 };

	*err = refs_enter(client, ref, NULL);
	if (*err == 0)
		*err = changes_check(client, changes, count, &weight);
	if (*err == 0 && options && options->size < offsetof(struct granary_write, mtime_ns))
		*err = error_fail(client, -GRANARY_EINVAL, "granary_write.size is not set");
	if (*err < 0)
		return NULL;
	if (options)
		memcpy(&o, options, options->size < sizeof(o) ? options->size : sizeof(o));
	size_t size = ref_size(ref) + 2 * 8 + 4 + (count + (size_t)weight.parts) * 17 + 4 * (size_t)weight.crcs;
	struct simple_op *s = simple_new(client, &write_rpc, call, size, w, err);
	if (!s)
		return NULL;
	ref_encode(w, ref);
	s->joins.ref_len = wr_len(w);
	wr_u64(w, o.if_version);
	wr_u64(w, o.mtime_ns);
	wr_u32(w, count + weight.parts);
	s->joins.changes_at = wr_len(w);
	s->joins.bytes = weight.bytes;
	for (uint32_t i = 0; i < count; i++)
		change_encode(w, &changes[i]);
	s->decode = written_decode;
	s->out = out;
	*err = carriers_set(s, changes, count, weight.carriers);
	if (*err == 0)
		return s;
	op_free_quiet(&s->op);
	return NULL;
}

int granary_change_start(struct granary_client *client, struct granary_ref ref, const struct granary_change *changes,
	uint32_t count, const struct granary_write *options, struct granary_written *out,
	const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = change_new(client, &ref, changes, count, options, out, call, &w, &err);

	if (op)
		*op = NULL;
	if (s && s->op.unstable && !s->op.file && !options && s->joins.bytes <= JOINS_MAX)
		s->joins.count = count;
	return s ? simple_start(s, &w, op) : err;
}

int granary_change(struct granary_client *client, struct granary_ref ref, const struct granary_change *changes,
	uint32_t count, const struct granary_write *options, struct granary_written *out,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = change_new(client, &ref, changes, count, options, out, call, &w, &err);

	return s ? (int)simple_run(s, &w) : err;
}

int granary_write(struct granary_client *client, struct granary_ref ref, uint64_t offset, const void *data, size_t len,
	struct granary_written *out, const struct granary_call *call)
{
	int err = len > 0 ? 0 : error_fail(client, -GRANARY_EINVAL, "no bytes to write");

	for (size_t done = 0; err == 0 && done < len;) {
		size_t n = len - done < GRANARY_WRITE_MAX ? len - done : GRANARY_WRITE_MAX;
		struct granary_change x = { .kind = GRANARY_CHANGE_DATA, .offset = offset + done, .length = n,
			.data = (const uint8_t *)data + done };
		err = granary_change(client, ref, &x, 1, NULL, out, call);
		done += n;
	}
	return err;
}

int granary_truncate(struct granary_client *client, struct granary_ref ref, uint64_t size, struct granary_written *out,
	const struct granary_call *call)
{
	struct granary_change x = { .kind = GRANARY_CHANGE_TRUNCATE, .offset = size };

	return granary_change(client, ref, &x, 1, NULL, out, call);
}

/* ---- ranges by reference ---- */

struct copied {
	struct granary_written *out;
	uint64_t *copied;
};

static int copied_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	const struct copied *to = s->out;
	uint64_t copied;

	(void)data;
	written_take(&c, to->out);
	copied = cur_u64(&c);
	if (to->copied)
		*to->copied = copied;
	return cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

int granary_copy_range(struct granary_client *client, struct granary_ref from, uint64_t from_offset,
	struct granary_ref to, uint64_t to_offset, uint64_t length, const struct granary_copy *options,
	uint64_t *copied, struct granary_written *out, const struct granary_call *call)
{
	struct granary_copy o = { .size = 0 };
	struct copied result = { out, copied };
	struct wr w;
	int err = refs_enter(client, &from, &to);

	if (err == 0 && options && options->size < offsetof(struct granary_copy, from_version))
		err = error_fail(client, -GRANARY_EINVAL, "granary_copy.size is not set");
	if (err < 0)
		return err;
	if (options)
		memcpy(&o, options, options->size < sizeof(o) ? options->size : sizeof(o));
	size_t size = ref_size(&from) + 2 * 8 + text_size(o.to_bucket) + ref_size(&to) + 3 * 8;
	struct simple_op *s = simple_new(client, &copy_range_rpc, call, size, &w, &err);
	if (!s)
		return err;
	ref_encode(&w, &from);
	wr_u64(&w, o.from_version);
	wr_u64(&w, from_offset);
	text_encode(&w, o.to_bucket);
	ref_encode(&w, &to);
	wr_u64(&w, to_offset);
	wr_u64(&w, length);
	wr_u64(&w, o.if_version);
	s->decode = copied_decode;
	s->out = &result;
	return (int)simple_run(s, &w);
}

/* ---- where an object has bytes ---- */

struct map_out {
	struct granary_stretch *found;
	uint32_t max, count;
	int *more;
	struct granary_written *out;
};

static int map_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct map_out *to = s->out;
	uint8_t more;

	(void)data;
	written_take(&c, to->out);
	more = cur_u8(&c);
	to->count = cur_u32(&c);
	if (!cur_ok(&c) || to->count > to->max)
		return -GRANARY_EPROTO;
	for (uint32_t i = 0; i < to->count; i++) {
		to->found[i].offset = cur_u64(&c);
		to->found[i].length = cur_u64(&c);
	}
	if (to->more)
		*to->more = more;
	return cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

int64_t granary_map(struct granary_client *client, struct granary_ref ref, uint64_t version, uint64_t offset,
	struct granary_stretch *found, uint32_t max, int *more, struct granary_written *out,
	const struct granary_call *call)
{
	struct map_out to = { found, max, 0, more, out };
	struct wr w;
	int err = refs_enter(client, &ref, NULL);

	if (err == 0 && (max == 0 || max > GRANARY_MAP_MAX))
		err = error_fail(client, -GRANARY_EINVAL, "1 to %d stretches a call", GRANARY_MAP_MAX);
	if (err < 0)
		return err;
	struct simple_op *s = simple_new(client, &map_rpc, call, ref_size(&ref) + 2 * 8 + 4, &w, &err);
	if (!s)
		return err;
	ref_encode(&w, &ref);
	wr_u64(&w, version);
	wr_u64(&w, offset);
	wr_u32(&w, max);
	s->decode = map_decode;
	s->out = &to;
	int64_t result = simple_run(s, &w);
	return result < 0 ? result : to.count;
}
