/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_lead.c -- how far an epoch reads ahead of what is taken from it. What was read ahead is lost when a run stops
 * and goes on elsewhere, has been in the way of other ranks, and has displaced what they share in the server's memory.
 *
 * (1) Ahead is what the disk and the line need, at most so much for all ranks together, and a small part of what the
 *     rank takes of the epoch, but always a batch; it grows by a part of what was taken: so what a run loses when it
 *     stops is a small part of what it used. (2) In the order `blocks` a window more is read ahead (epoch_gen.c): none
 *     can be drawn from before it is there. (3) Before the first batch only two are planned, and samples whose block is
 *     not there yet are read one by one for two batches at a time: each may cost the server a unit of 256 KiB.
 * (4) Within that, never more than the budgets allow. */
#include "epoch_priv.h"

enum {
	LEAD_MOST = 64 * 1024 * 1024, /* bytes of all ranks together, before any was taken */
	LEAD_PART = 32,               /* of the epoch, and of what was taken: a so many-th */
	LEAD_FIRST = 2,               /* batches */
};

static uint64_t batch_bytes(const struct granary_epoch *e)
{
	return e->mean * e->ranks.spec.batch;
}

/* Processes that share a rank count as ranks. */
static uint64_t takers(const struct granary_epoch *e)
{
	return (uint64_t)e->ranks.spec.ranks * e->options.step;
}

void lead_setup(struct granary_epoch *e)
{
	uint64_t ranks = takers(e), least = LEAD_MOST / ranks;
	uint64_t part = (e->end - e->ranks.spec.start) / ranks * e->mean / LEAD_PART;
	uint64_t asked = e->options.read_ahead * batch_bytes(e);

	least = least < part ? least : part;
	least = least > asked ? least : asked;
	e->lead_least = least > batch_bytes(e) ? least : batch_bytes(e);
}

static uint64_t lead_bytes(const struct granary_epoch *e)
{
	return e->lead_least + e->seen_taken * batch_bytes(e) / LEAD_PART;
}

uint64_t lead_batches(const struct granary_epoch *e)
{
	return e->begun ? lead_bytes(e) / batch_bytes(e) + 1 : LEAD_FIRST;
}

bool lead_short(const struct granary_epoch *e)
{
	return e->planned - e->seen_taken <= LEAD_FIRST;
}

double lead_items(const struct granary_epoch *e)
{
	/* Of an item of all lanes each takes lanes / takers samples. */
	return (double)lead_bytes(e) / (double)e->mean * (double)takers(e) / e->order.spec.lanes;
}
