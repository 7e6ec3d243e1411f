/* SPDX-License-Identifier: Apache-2.0 */
/* many.c -- cuts an array into requests and counts what was answered. */
#include "many.h"

#include <stdlib.h>

void many_rpc_free(struct rpc *r)
{
	free(many_rpc_of(r)->data);
	many_rpc_of(r)->data = NULL;
}

int many_part_start(struct many_op *m, uint32_t count)
{
	struct many_rpc *r = rpc_new(sizeof(*r), m->kind->rpc, &m->op);

	if (!r)
		return -GRANARY_ENOMEM;
	r->first = m->next;
	r->count = count;
	m->next += count;
	m->parts_open++;
	rpc_queue(&r->rpc);
	return 0;
}

int many_more(struct granary_op *op)
{
	struct many_op *m = many_of(op);
	int err = 0;

	while (err == 0 && m->next < m->count && m->parts_open < PARTS_WINDOW * op->client->config.connections) {
		uint32_t count = m->kind->part(m, m->next);
		if (count == 0)
			break;
		err = many_part_start(m, count);
	}
	return err;
}

uint32_t many_part_all(const struct many_op *m, uint32_t first)
{
	return m->count - first < WIRE_BATCH_MAX ? m->count - first : WIRE_BATCH_MAX;
}

void many_entry_done(struct many_op *m, uint32_t at, int status)
{
	m->answered[at] = true;
	m->served += status == 0;
	if (status < 0)
		op_note(&m->op, slice_str(error_text(status)));
}

int many_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct many_op *m = many_of(r->op);
	const struct many_rpc *part = many_rpc_of(r);
	struct cur c = cur_of(meta.p, meta.len);

	(void)data;
	if (cur_u32(&c) != part->count)
		return -GRANARY_EPROTO;
	for (uint32_t i = 0; i < part->count && cur_ok(&c); i++) {
		int status = m->kind->decode(m, part->first + i, &c);
		if (status == -GRANARY_ENOMEM)
			return status;
		many_entry_done(m, part->first + i, status);
	}
	if (!cur_done(&c))
		return -GRANARY_EPROTO;
	m->parts_open--;
	return 0;
}

int64_t many_finish(struct granary_op *op, int err)
{
	struct many_op *m = many_of(op);

	for (uint32_t i = 0; err < 0 && i < m->count; i++)
		if (!m->answered[i])
			m->kind->status(m, i, err);
	return err < 0 ? err : (int64_t)m->served;
}

void many_free(struct granary_op *op)
{
	free(many_of(op)->answered);
	op_release(op);
}

struct many_op *many_new(struct granary_client *c, size_t size, const struct op_kind *op_kind,
	const struct many_kind *kind, size_t count, const struct granary_call *call, int *err)
{
	struct many_op *m = op_new(size, c, op_kind, call, err);

	if (!m)
		return NULL;
	m->answered = count <= UINT32_MAX - WIRE_BATCH_MAX ? calloc(count ? count : 1, sizeof(*m->answered)) : NULL;
	if (!m->answered) {
		op_free_quiet(&m->op);
		*err = error_fail(c, -GRANARY_ENOMEM, "out of memory, or too many entries");
		return NULL;
	}
	m->kind = kind;
	m->count = (uint32_t)count;
	return m;
}

int64_t many_run(struct many_op *m)
{
	int64_t result = op_run(&m->op);

	op_free_quiet(&m->op);
	return result;
}
