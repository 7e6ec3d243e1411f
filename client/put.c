/* SPDX-License-Identifier: Apache-2.0 */
/* put.c -- puts of what lies in memory. Small objects travel together; one above 4 MiB goes in pieces (several
 * in flight, in order, on one connection) and is then named by a PUT of its own. One such object at a time,
 * beside the small ones. */
#include "many.h"

#include <stdlib.h>

enum {
	PUT_PART_BYTES = 8 * 1024 * 1024, /* data of one request, one commit */
	PUT_PART_META = 2 * 1024 * 1024,
	EXTENTS_WINDOW = 4,
	RESTARTS_MAX = 3,
};

struct big {
	bool active, committing;
	uint32_t at;              /* which entry */
	uint32_t open, restarts;  /* pieces in flight; times begun anew */
	uint64_t number, offset;
	int err;
	struct upload_pin pin;
};

struct put_op {
	struct many_op many;
	struct big big;
};

struct extent_rpc {
	struct rpc rpc;
	uint64_t offset;
	uint32_t len;
	struct iovec data;
};

static struct put_op *put_of(struct granary_op *op)
{
	return container_of(many_of(op), struct put_op, many);
}

static const struct granary_put *put_item(struct rpc *r, uint32_t at)
{
	return &((const struct granary_put *)many_of(r->op)->items)[at];
}

/* ---- small ones ---- */

static uint32_t put_part(const struct many_op *m, uint32_t first)
{
	const struct granary_put *puts = m->items;
	uint64_t bytes = 0;
	size_t meta = 0;
	uint32_t n = 0;

	for (; first + n < m->count && n < WIRE_BATCH_MAX; n++) {
		const struct granary_put *p = &puts[first + n];
		bytes += p->size;
		meta += put_entry_size(p, p->size);
		if (p->size > PUT_INLINE_MAX || (n > 0 && (bytes > PUT_PART_BYTES || meta > PUT_PART_META)))
			break;
	}
	return n;
}

static size_t put_body_size(struct rpc *r)
{
	const struct many_rpc *part = many_rpc_of(r);
	size_t size = 4;

	for (uint32_t i = 0; i < part->count; i++)
		size += put_entry_size(put_item(r, part->first + i), put_item(r, part->first + i)->size);
	return size;
}

static int put_encode(struct rpc *r, struct wr *w)
{
	struct many_rpc *part = many_rpc_of(r);

	if (!part->data)
		part->data = calloc(part->count, sizeof(*part->data));
	if (!part->data)
		return -GRANARY_ENOMEM;
	wr_u32(w, part->count);
	for (uint32_t i = 0; i < part->count; i++) {
		const struct granary_put *p = put_item(r, part->first + i);
		put_entry_encode(w, p, 0, p->size);
		if (p->size == 0)
			continue;
		void *data = (union { const void *c; void *p; }){ p->data }.p; /* sent, not written to */
		part->data[r->data_count++] = (struct iovec){ data, (size_t)p->size };
		r->data_len += (uint32_t)p->size;
	}
	r->data = part->data;
	return 0;
}

static int put_decode(struct many_op *m, uint32_t at, struct cur *c)
{
	return put_entry_decode(c, &((struct granary_put *)m->items)[at]);
}

static void put_status(struct many_op *m, uint32_t at, int status)
{
	((struct granary_put *)m->items)[at].status = status;
}

static const struct rpc_kind put_rpc = {
	.wire_op = OP_PUT, .mutation = true, .body_size = put_body_size, .encode = put_encode, .answer = many_answer,
	.free = many_rpc_free,
};

/* ---- a big one ---- */

static struct extent_rpc *extent_of(struct rpc *r)
{
	return container_of(r, struct extent_rpc, rpc);
}

static size_t extent_body_size(struct rpc *r)
{
	return extent_size(&put_item(r, put_of(r->op)->big.at)->ref);
}

static int extent_encode_rpc(struct rpc *r, struct wr *w)
{
	struct extent_rpc *x = extent_of(r);
	const struct big *b = &put_of(r->op)->big;

	extent_encode(w, &put_item(r, b->at)->ref, b->number, x->offset, x->data.iov_base, x->len);
	r->data = &x->data;
	r->data_count = 1;
	r->data_len = x->len;
	return 0;
}

static int extent_answer(struct rpc *r, struct slice meta, struct slice data)
{
	(void)meta;
	(void)data;
	put_of(r->op)->big.open--;
	return 0;
}

static bool extent_failed(struct rpc *r, int err)
{
	struct big *b = &put_of(r->op)->big;

	b->err = b->err ? b->err : err;
	b->open--;
	rpc_end(r);
	return true;
}

static const struct rpc_kind extent_rpc = {
	.wire_op = OP_EXTENT, .body_size = extent_body_size, .encode = extent_encode_rpc, .answer = extent_answer,
	.failed = extent_failed,
};

static int extent_start(struct put_op *po, const struct granary_put *p)
{
	struct big *b = &po->big;
	struct extent_rpc *x = rpc_new(sizeof(*x), &extent_rpc, &po->many.op);
	uint64_t left = p->size - b->offset;

	if (!x)
		return -GRANARY_ENOMEM;
	x->offset = b->offset;
	x->len = left < WIRE_ENTRY_DATA_MAX ? (uint32_t)left : WIRE_ENTRY_DATA_MAX;
	uint8_t *data = (union { const void *c; uint8_t *p; }){ p->data }.p;
	x->data = (struct iovec){ data + b->offset, x->len };
	x->rpc.pin = &b->pin;
	b->offset += x->len;
	b->open++;
	rpc_queue(&x->rpc);
	return 0;
}

static size_t name_body_size(struct rpc *r)
{
	return 4 + put_entry_size(put_item(r, put_of(r->op)->big.at), 0);
}

static int name_encode(struct rpc *r, struct wr *w)
{
	const struct big *b = &put_of(r->op)->big;

	wr_u32(w, 1);
	put_entry_encode(w, put_item(r, b->at), b->number, put_item(r, b->at)->size);
	return 0;
}

static void big_begin(struct put_op *po, uint32_t at)
{
	struct big *b = &po->big;
	uint32_t restarts = b->active ? b->restarts + 1 : 0;

	*b = (struct big){ .active = true, .at = at, .restarts = restarts };
	b->number = 1 + atomic_fetch_add(&po->many.op.client->uploads_count, 1);
}

/* The server was restarted and has forgotten the pieces: they are still here. */
static void big_end(struct put_op *po, int status)
{
	struct big *b = &po->big;

	if (status == -GRANARY_ESTALE && b->restarts < RESTARTS_MAX) {
		big_begin(po, b->at);
		return;
	}
	if (status < 0)
		put_status(&po->many, b->at, status);
	many_entry_done(&po->many, b->at, status);
	b->active = false;
}

static int name_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct put_op *po = put_of(r->op);
	struct cur c = cur_of(meta.p, meta.len);

	(void)data;
	if (cur_u32(&c) != 1)
		return -GRANARY_EPROTO;
	int status = put_entry_decode(&c, &((struct granary_put *)po->many.items)[po->big.at]);
	if (!cur_done(&c))
		return -GRANARY_EPROTO;
	big_end(po, status);
	return 0;
}

static bool name_failed(struct rpc *r, int err)
{
	if (err != -GRANARY_ESTALE)
		return false;
	big_end(put_of(r->op), err);
	rpc_end(r);
	return true;
}

static const struct rpc_kind name_rpc = {
	.wire_op = OP_PUT, .mutation = true, .body_size = name_body_size, .encode = name_encode, .answer = name_answer,
	.failed = name_failed,
};

static int big_more(struct put_op *po)
{
	struct big *b = &po->big;
	const struct granary_put *p = &((const struct granary_put *)po->many.items)[b->at];
	int err = 0;

	if (b->err && b->open == 0)
		big_end(po, b->err);
	while (err == 0 && b->active && !b->err && b->offset < p->size && b->open < EXTENTS_WINDOW)
		err = extent_start(po, p);
	if (err < 0 || !b->active || b->err || b->open > 0 || b->committing)
		return err;
	struct rpc *r = rpc_new(sizeof(*r), &name_rpc, &po->many.op);
	if (!r)
		return -GRANARY_ENOMEM;
	b->committing = true;
	rpc_queue(r);
	return 0;
}

/* ---- the operation ---- */

static int put_more(struct granary_op *op)
{
	struct put_op *po = put_of(op);
	struct many_op *m = &po->many;
	const struct granary_put *puts = m->items;
	int err;

	do {
		err = po->big.active ? big_more(po) : 0;
		if (err == 0)
			err = many_more(op);
		if (err < 0 || po->big.active || m->next == m->count || puts[m->next].size <= PUT_INLINE_MAX)
			return err;
		big_begin(po, m->next++);
	} while (true);
}

static const struct many_kind put_kind = {
	.rpc = &put_rpc, .part = put_part, .decode = put_decode, .status = put_status,
};
static const struct op_kind put_op = { .more = put_more, .finish = many_finish, .free = many_free };

static struct many_op *put_new(struct granary_client *c, struct granary_put *puts, size_t count,
	const struct granary_call *call, int *err)
{
	*err = client_enter(c);
	for (size_t i = 0; *err == 0 && i < count; i++) {
		*err = put_check(c, &puts[i]);
		puts[i].status = -GRANARY_EAGAIN;
	}
	struct many_op *m = *err == 0 ? many_new(c, sizeof(struct put_op), &put_op, &put_kind, count, call, err) : NULL;
	if (m)
		m->items = puts;
	return m;
}

int granary_put_batch_start(struct granary_client *client, struct granary_put *puts, size_t count,
	const struct granary_call *call, struct granary_op **op)
{
	int err;
	struct many_op *m = put_new(client, puts, count, call, &err);

	if (op)
		*op = NULL;
	return m ? op_start(&m->op, op) : err;
}

int64_t granary_put_batch(struct granary_client *client, struct granary_put *puts, size_t count,
	const struct granary_call *call)
{
	int err;
	struct many_op *m = put_new(client, puts, count, call, &err);

	return m ? many_run(m) : err;
}

int granary_put(struct granary_client *client, const char *key, const void *data, size_t len,
	const struct granary_call *call)
{
	struct granary_put p = { .ref = granary_ref_key(key), .data = data, .size = len };
	int64_t result = granary_put_batch(client, &p, 1, call);

	if (result < 0)
		return (int)result;
	if (p.status < 0)
		error_fail(client, p.status, "'%.300s': %s", key, error_text(p.status));
	return p.status;
}
