/* SPDX-License-Identifier: Apache-2.0 */
/* read.c -- batch reads: cut into requests, sent, results; the calls for one object are batches of one. */
#include "read_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"

enum {
	PART_BYTES = 32 * 1024 * 1024, /* of one request, as far as sizes can be guessed */
	PART_MIN = 64,                 /* entries: fewer are not worth another connection */
	GUESS_SIZE = 64 * 1024,        /* of an entry, before anything was read */
	LEASE_ALIGN = 64,
};

/* ---- requests ---- */

static size_t read_body_size(struct rpc *r)
{
	const struct read_op *ro = read_op_of(r->op);
	const struct read_rpc *rr = read_rpc_of(r);
	size_t size = 1 + 4;

	for (uint32_t i = 0; i < rr->count; i++)
		size += 1 + ref_size(&ro->entries[rr->index[i]].ref) + 4 * 8;
	return size;
}

static void entry_encode(struct wr *w, const struct granary_entry *e, const struct granary_file *file)
{
	bool range = e->flags & GRANARY_ENTRY_RANGE, version = e->flags & GRANARY_ENTRY_VERSION;

	wr_u8(w, (uint8_t)((range ? READ_ENTRY_RANGE : 0) | (version ? READ_ENTRY_VERSION : 0) |
			   (file ? READ_ENTRY_OPEN : 0)));
	ref_encode(w, &e->ref);
	if (range) {
		wr_u64(w, e->offset);
		wr_u64(w, e->length);
	}
	if (version)
		wr_u64(w, e->version);
	if (file)
		wr_u64(w, file->handle);
}

/* Each attempt asks only for what is not done, from its beginning. */
static int read_encode(struct rpc *r, struct wr *w)
{
	struct read_op *ro = read_op_of(r->op);
	struct read_rpc *rr = read_rpc_of(r);
	uint32_t left = 0;

	for (uint32_t i = 0; i < rr->count; i++)
		if (!ro->slots[rr->index[i]].done)
			rr->index[left++] = rr->index[i];
	rr->count = left;
	if (left == 0) {
		ro->parts_open--;
		return RPC_AGAIN;
	}
	wr_u8(w, (uint8_t)((ro->flags & GRANARY_BATCH_IN_ORDER ? READ_IN_ORDER : 0) | (rr->verify ? READ_VERIFY : 0)));
	wr_u32(w, left);
	for (uint32_t i = 0; i < left; i++) {
		struct read_slot *s = &ro->slots[rr->index[i]];
		s->got = 0;
		s->bad = s->again = false;
		entry_encode(w, &ro->entries[rr->index[i]], ro->file);
	}
	return 0;
}

static const struct rpc_kind read_rpc_kind = {
	.wire_op = OP_READ,
	.body_size = read_body_size,
	.encode = read_encode,
	.plan = read_plan,
	.frame = read_frame,
	.answer = read_answer,
};

static const struct rpc_kind locate_rpc_kind = {
	.wire_op = OP_LOCATE,
	.body_size = read_body_size,
	.encode = read_encode,
	.answer = locate_answer,
	.failed = locate_failed,
};

/* The same, as OPEN goes: behind what is sent again. */
static const struct rpc_kind open_read_rpc_kind = {
	.wire_op = OP_READ,
	.in_order = true,
	.body_size = read_body_size,
	.encode = read_encode,
	.plan = read_plan,
	.frame = read_frame,
	.answer = read_answer,
};

static const struct rpc_kind open_locate_rpc_kind = {
	.wire_op = OP_LOCATE,
	.in_order = true,
	.body_size = read_body_size,
	.encode = read_encode,
	.answer = locate_answer,
	.failed = locate_failed,
};

/* ---- the operation ---- */

static uint64_t mean_size(const struct granary_client *c)
{
	uint64_t mean = atomic_load_explicit(&c->entry_size_mean, memory_order_relaxed);

	return mean ? mean : GUESS_SIZE;
}

static uint32_t part_entries(const struct read_op *ro)
{
	const struct granary_client *c = ro->op.client;
	uint64_t mean = mean_size(c);
	uint32_t most = WIRE_BATCH_MAX, share;

	if (ro->flags & GRANARY_BATCH_IN_ORDER)
		return most;
	if (mean > PART_BYTES / WIRE_BATCH_MAX)
		most = (uint32_t)(PART_BYTES / mean) > PART_MIN ? (uint32_t)(PART_BYTES / mean) : PART_MIN;
	share = (ro->count + c->config.connections - 1) / c->config.connections;
	if (share < most)
		most = share > PART_MIN ? share : PART_MIN;
	return most;
}

static int part_start(struct read_op *ro, uint32_t count)
{
	bool locates = read_locates(ro->op.client);
	const struct rpc_kind *kind = ro->file ? locates ? &open_locate_rpc_kind : &open_read_rpc_kind
				      : locates ? &locate_rpc_kind : &read_rpc_kind;
	struct read_rpc *rr = rpc_new(sizeof(*rr) + count * sizeof(rr->index[0]), kind, &ro->op);

	if (!rr)
		return -GRANARY_ENOMEM;
	rr->count = count;
	for (uint32_t i = 0; i < count; i++)
		rr->index[i] = ro->next++;
	ro->parts_open++;
	rpc_queue(&rr->rpc);
	return 0;
}

int read_rest(struct read_op *ro, const struct read_rpc *located, bool verify)
{
	struct read_rpc *rr = rpc_new(sizeof(*rr) + located->count * sizeof(rr->index[0]),
		ro->file ? &open_read_rpc_kind : &read_rpc_kind, &ro->op);

	if (!rr)
		return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < located->count; i++)
		if (!ro->slots[located->index[i]].done)
			rr->index[rr->count++] = located->index[i];
	rr->verify = verify;
	rpc_queue(&rr->rpc);
	return 0;
}

/* In order means one request after the other: answers of different requests come in any order. */
static int read_more(struct granary_op *op)
{
	struct read_op *ro = read_op_of(op);
	uint32_t window = ro->flags & GRANARY_BATCH_IN_ORDER ? 1 : PARTS_WINDOW * op->client->config.connections;
	uint32_t most = part_entries(ro);
	int err = 0;

	while (err == 0 && ro->next < ro->count && ro->parts_open < window)
		err = part_start(ro, ro->count - ro->next < most ? ro->count - ro->next : most);
	return err;
}

/* Failures that the server has no words for. */
static void entry_note(struct read_op *ro, const struct granary_entry *e, int status)
{
	char text[ERROR_TEXT_SIZE];

	if (ro->op.error[0] || ro->op.err < 0)
		return;
	snprintf(text, sizeof(text), "'%.300s': %s", e->ref.name ? e->ref.name : "(by id)", error_text(status));
	op_note(&ro->op, slice_str(text));
}

void read_entry_done(struct read_op *ro, uint32_t at, int status)
{
	struct granary_entry *e = &ro->entries[at];
	struct read_slot *s = &ro->slots[at];

	s->done = true;
	e->status = status;
	e->data = status == 0 ? s->dst : NULL;
	e->data_len = status == 0 ? (size_t)s->want : 0;
	if (status == 0) {
		ro->served++;
		ro->bytes += s->want;
		if (ro->file) {
			file_take(ro->file, e->object_id, e->dir_id);
			*ro->file_out = ro->file;
			ro->file = NULL;
		}
	} else {
		entry_note(ro, e, status);
		if (e->flags & GRANARY_ENTRY_MALLOC)
			free(s->dst);
	}
	if (ro->each)
		ro->each(e, ro->each_arg);
}

static void mean_learn(struct granary_client *c, uint64_t bytes, uint64_t entries)
{
	uint64_t mean = atomic_load_explicit(&c->entry_size_mean, memory_order_relaxed), now;

	if (entries == 0)
		return;
	now = bytes / entries + 1;
	atomic_store_explicit(&c->entry_size_mean, mean ? (3 * mean + now) / 4 : now, memory_order_relaxed);
}

static int64_t read_finish(struct granary_op *op, int err)
{
	struct read_op *ro = read_op_of(op);

	for (uint32_t i = 0; err < 0 && i < ro->count; i++)
		if (!ro->slots[i].done)
			read_entry_done(ro, i, err);
	mean_learn(op->client, ro->bytes, ro->served);
	return err < 0 ? err : (int64_t)ro->served;
}

static void read_free(struct granary_op *op)
{
	if (read_op_of(op)->file)
		file_give_up(read_op_of(op)->file, !op->sent);
	free(read_op_of(op)->slots);
	op_release(op);
}

static const struct op_kind read_kind = { .more = read_more, .finish = read_finish, .free = read_free };

/* ---- starting one ---- */

static int batch_check(struct granary_client *c, const struct granary_batch *b)
{
	if (b->count > UINT32_MAX - WIRE_BATCH_MAX || (b->count > 0 && !b->entries))
		return error_fail(c, -GRANARY_EINVAL, "the batch has no entries, or too many");
	if (b->align > GRANARY_ALIGN_MAX || (b->align & (b->align - 1)) != 0)
		return error_fail(c, -GRANARY_EINVAL, "align must be a power of two up to %d", GRANARY_ALIGN_MAX);
	for (size_t i = 0; i < b->count; i++) {
		int err = ref_check(&b->entries[i].ref);
		if (err < 0)
			return error_fail(c, err, "entry %zu does not name an object", i);
	}
	return 0;
}

static bool entry_is_leased(const struct granary_batch *b, const struct granary_entry *e)
{
	return !b->slab && !e->buf && !(e->flags & GRANARY_ENTRY_MALLOC);
}

/* Bytes that the leased entries may need. */
static uint64_t lease_guess(const struct granary_client *c, const struct granary_batch *b)
{
	uint64_t mean = mean_size(c), sum = 0, leased = 0;

	for (size_t i = 0; i < b->count; i++) {
		const struct granary_entry *e = &b->entries[i];
		if (!entry_is_leased(b, e))
			continue;
		bool known = (e->flags & GRANARY_ENTRY_RANGE) && e->length < c->config.memory_max;
		sum += known ? e->length : mean;
		leased++;
	}
	return leased > 0 && b->bytes_hint ? b->bytes_hint + leased * LEASE_ALIGN : sum + leased * LEASE_ALIGN;
}

static void entries_reset(struct granary_entry *entries, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct granary_entry *e = &entries[i];
		e->status = -GRANARY_EAGAIN;
		e->flags &= ~(uint32_t)GRANARY_ENTRY_HASH;
		e->data = NULL;
		e->data_len = 0;
		e->object_id = e->dir_id = e->size = e->mtime_ns = 0;
	}
}

static struct read_op *read_new(struct granary_client *c, struct granary_batch *b, const struct granary_call *call,
	int *err)
{
	struct granary_batch all = { .size = 0 };

	*err = client_enter(c);
	if (*err == 0 && (!b || b->size < offsetof(struct granary_batch, flags)))
		*err = error_fail(c, -GRANARY_EINVAL, "granary_batch.size is not set");
	if (*err == 0)
		memcpy(&all, b, b->size < sizeof(all) ? b->size : sizeof(all));
	if (*err == 0)
		*err = batch_check(c, &all);
	struct read_op *ro = *err == 0 ? op_new(sizeof(*ro), c, &read_kind, call, err) : NULL;
	if (!ro)
		return NULL;
	ro->slots = calloc(all.count ? all.count : 1, sizeof(*ro->slots));
	if (!ro->slots) {
		op_free_quiet(&ro->op);
		*err = error_fail(c, -GRANARY_ENOMEM, "out of memory");
		return NULL;
	}
	ro->entries = all.entries;
	ro->count = (uint32_t)all.count;
	ro->flags = all.flags;
	ro->slab = all.slab;
	ro->slab_size = all.slab_size;
	ro->align = all.align ? all.align : all.slab ? 1 : LEASE_ALIGN;
	ro->each = all.each;
	ro->each_arg = all.each_arg;
	ro->expect = lease_guess(c, &all);
	entries_reset(all.entries, all.count);
	return ro;
}

int granary_read_batch_start(struct granary_client *client, struct granary_batch *batch,
	const struct granary_call *call, struct granary_op **op)
{
	int err;
	struct read_op *ro = read_new(client, batch, call, &err);

	if (op)
		*op = NULL;
	if (!ro)
		return err;
	if (ro->expect > 0 && lease_reserve(client, &ro->op.lease, ro->expect) < 0) {
		op_free_quiet(&ro->op);
		return error_fail(client, -GRANARY_EBUSY, "memory_max is used up by leases that are not freed");
	}
	return op_start(&ro->op, op);
}

int granary_file_open_read_start(struct granary_client *client, struct granary_entry *entry, struct granary_file **file,
	const struct granary_call *call, struct granary_op **op)
{
	struct granary_batch batch = GRANARY_INIT(granary_batch);
	int err;

	*file = NULL;
	if (op)
		*op = NULL;
	batch.entries = entry;
	batch.count = 1;
	struct read_op *ro = read_new(client, &batch, call, &err);
	if (!ro)
		return err;
	ro->file = ro->expect == 0 ? file_new(client, &entry->ref, GRANARY_OPEN_READ) : NULL;
	ro->file_out = file;
	if (ro->file)
		return op_start(&ro->op, op);
	err = ro->expect > 0 ? error_fail(client, -GRANARY_EINVAL, "what is opened is read into a buffer or a block")
			     : error_fail(client, -GRANARY_ENOMEM, "out of memory");
	op_free_quiet(&ro->op);
	return err;
}

/* A blocking call waits for memory as for everything else, within its deadline. */
static int64_t read_run(struct read_op *ro)
{
	struct granary_op *op = &ro->op;

	op->deadline_ns = deadline_after(clock_mono_ns(), op->timeout_ms);
	if (ro->expect > 0 && lease_reserve_wait(op->client, &op->lease, ro->expect, op->deadline_ns) < 0) {
		op->state = OP_DONE;
		return error_fail(op->client, -GRANARY_EBUSY, "memory_max is used up by leases that are not freed");
	}
	return op_run(op);
}

int64_t granary_read_batch(struct granary_client *client, struct granary_batch *batch, const struct granary_call *call,
	struct granary_op **op)
{
	int err;
	struct read_op *ro = read_new(client, batch, call, &err);

	if (op)
		*op = NULL;
	if (!ro)
		return err;
	if (!op && ro->expect > 0) {
		op_free_quiet(&ro->op);
		return error_fail(client, -GRANARY_EINVAL,
			"entries without a buffer need a place for the operation that holds them");
	}
	int64_t result = read_run(ro);
	if (op)
		*op = &ro->op;
	else
		op_free_quiet(&ro->op);
	return result;
}

int64_t granary_read_batch_into(struct granary_client *client, struct granary_entry *entries, size_t count, void *slab,
	size_t slab_size, uint32_t align, const struct granary_call *call)
{
	static char nowhere;
	struct granary_batch batch = GRANARY_INIT(granary_batch);

	batch.entries = entries;
	batch.count = count;
	batch.flags = GRANARY_BATCH_IN_ORDER;
	batch.align = align;
	batch.slab = slab ? slab : &nowhere;
	batch.slab_size = slab ? slab_size : 0;
	return granary_read_batch(client, &batch, call, NULL);
}

/* ---- one object ---- */

/* Reads one entry; the text of its failure is the operation's, which begins with the server's. */
static int read_one(struct granary_client *c, struct granary_entry *e, const struct granary_call *call)
{
	struct granary_batch batch = GRANARY_INIT(granary_batch);
	int err;

	batch.entries = e;
	batch.count = 1;
	struct read_op *ro = read_new(c, &batch, call, &err);
	if (!ro)
		return err;
	int64_t result = read_run(ro);
	if (result >= 0 && e->status < 0) {
		error_set(c, ro->op.error[0] ? ro->op.error : error_text(e->status));
		error_of_request(ro->op.request);
	}
	op_free_quiet(&ro->op);
	return result < 0 ? (int)result : e->status;
}

int64_t granary_read(struct granary_client *client, const char *key, uint64_t offset, void *buf, size_t len,
	const struct granary_call *call)
{
	static char nowhere;
	struct granary_entry e = { .ref = granary_ref_key(key), .flags = GRANARY_ENTRY_RANGE, .offset = offset };

	if (len > GRANARY_READ_SIZE_MAX || (len > 0 && !buf))
		return error_fail(client, -GRANARY_EINVAL, "a read needs a buffer of at most 1 TiB");
	e.length = len;
	e.buf = buf ? buf : &nowhere;
	e.buf_size = len;
	int err = read_one(client, &e, call);
	return err < 0 ? err : (int64_t)e.data_len;
}

int granary_get(struct granary_client *client, const char *key, void **data, size_t *len,
	const struct granary_call *call)
{
	struct granary_entry e = { .ref = granary_ref_key(key), .flags = GRANARY_ENTRY_MALLOC };

	if (data)
		*data = NULL;
	if (len)
		*len = 0;
	if (!data || !len)
		return error_fail(client, -GRANARY_EINVAL, "granary_get() needs places for the block and its length");
	int err = read_one(client, &e, call);
	if (err < 0)
		return err;
	union { const void *c; void *p; } block = { e.data }; /* ours until now */
	*data = block.p;
	*len = e.data_len;
	return 0;
}
