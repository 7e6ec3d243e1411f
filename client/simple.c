/* SPDX-License-Identifier: Apache-2.0 */
/* simple.c -- operations that are one request, encoded when they are started. */
#include "client_priv.h"

#include <stdlib.h>


static struct simple_op *simple_of(struct granary_op *op)
{
	return container_of(op, struct simple_op, op);
}

static int simple_more(struct granary_op *op)
{
	struct simple_op *s = simple_of(op);

	if (s->asked)
		return 0;
	s->asked = true;
	if (s->joins.count > 0 && groups_join(s))
		return 0;
	struct rpc *r = rpc_new(sizeof(*r), s->rpc_kind, op);
	if (!r)
		return -GRANARY_ENOMEM;
	r->pin = s->pin;
	rpc_queue(r);
	return 0;
}

static int64_t simple_finish(struct granary_op *op, int err)
{
	(void)op;
	return err;
}

static void simple_free(struct granary_op *op)
{
	if (simple_of(op)->drop)
		simple_of(op)->drop(simple_of(op));
	free(simple_of(op)->body);
	free(simple_of(op)->many);
	op_release(op);
}

static const struct op_kind simple_kind = { .more = simple_more, .finish = simple_finish, .free = simple_free };

size_t simple_body_size(struct rpc *r)
{
	return simple_of(r->op)->body_len;
}

int simple_encode(struct rpc *r, struct wr *w)
{
	struct simple_op *s = simple_of(r->op);

	wr_bytes(w, s->body, s->body_len);
	if (s->data.iov_len > 0) {
		r->data = &s->data;
		r->data_count = 1;
		r->data_len = (uint32_t)s->data.iov_len;
	}
	if (s->many_count > 0) {
		r->data = s->many;
		r->data_count = s->many_count;
		r->data_len = 0;
		for (uint32_t i = 0; i < s->many_count; i++)
			r->data_len += (uint32_t)s->many[i].iov_len;
	}
	return 0;
}

int simple_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct simple_op *s = simple_of(r->op);

	return s->decode ? s->decode(s, meta, data) : 0;
}

struct simple_op *simple_new(struct granary_client *c, const struct rpc_kind *kind, const struct granary_call *call,
	size_t body_size, struct wr *w, int *err)
{
	struct simple_op *s = op_new(sizeof(*s), c, &simple_kind, call, err);

	if (!s)
		return NULL;
	s->rpc_kind = kind;
	s->body = malloc(body_size > 0 ? body_size : 1);
	if (!s->body) {
		op_free_quiet(&s->op);
		*err = error_fail(c, -GRANARY_ENOMEM, "out of memory");
		return NULL;
	}
	*w = wr_of(s->body, body_size);
	return s;
}

static int simple_seal(struct simple_op *s, const struct wr *w)
{
	s->body_len = wr_len(w);
	return wr_ok(w) ? 0 : error_fail(s->op.client, -GRANARY_ENAME, "a name or text is too long for a message");
}

int simple_start(struct simple_op *s, struct wr *w, struct granary_op **out)
{
	int err = simple_seal(s, w);

	if (err < 0) {
		op_free_quiet(&s->op);
		if (out)
			*out = NULL;
		return err;
	}
	return op_start(&s->op, out);
}

int64_t simple_run(struct simple_op *s, struct wr *w)
{
	int64_t result = simple_seal(s, w);

	if (result == 0)
		result = op_run(&s->op);
	op_free_quiet(&s->op);
	return result;
}
