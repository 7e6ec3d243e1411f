/* SPDX-License-Identifier: Apache-2.0 */
/* order_ranks.c -- which positions a rank takes; docs/ORDER.md 4.
 * Invariants: (1) rank r takes positions congruent to r mod W, wherever a run starts; (2) global batch k is the range
 * [start + k * W * B, start + (k + 1) * W * B): the same for every W and B of one product; (3) with pad and drop every
 * rank has the same number of batches; (4) nothing overflows: W * B <= 2^28, positions < 2^48 + 2^28. */
#include "common/order.h"

#include <assert.h>
#include <stdio.h>

#include "common/error.h"

typedef unsigned long long ull;

static uint64_t div_up(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

static int ranks_check(const struct order_ranks_spec *s, char *why, size_t cap)
{
	char none[1];

	if (cap == 0) {
		why = none;
		cap = sizeof(none);
	}
	if (s->ranks == 0 || s->ranks > ORDER_RANKS_MAX)
		snprintf(why, cap, "ranks: the world size is %u; it must be 1 to %d", s->ranks, ORDER_RANKS_MAX);
	else if (s->rank >= s->ranks)
		snprintf(why, cap, "rank: %u; the world size is %u, so it must be 0 to %u", s->rank, s->ranks,
			s->ranks - 1);
	else if (s->batch == 0 || s->batch > ORDER_BATCH_MAX)
		snprintf(why, cap, "batch: the batch size is %u; it must be 1 to %d", s->batch, ORDER_BATCH_MAX);
	else if (s->samples == 0 || s->samples > ORDER_SAMPLES_MAX)
		snprintf(why, cap, "samples: %llu; it must be 1 to 2^48", (ull)s->samples);
	else if (s->start > s->samples)
		snprintf(why, cap, "start: position %llu lies behind the last of %llu samples", (ull)s->start,
			(ull)s->samples);
	else if (s->last > ORDER_LAST_KEEP)
		snprintf(why, cap, "last: %u is none of pad (0), drop (1), keep (2)", s->last);
	else
		return 0;
	return -GRANARY_EINVAL;
}

/* Positions of [start, samples) that are this rank's. */
static uint64_t own_positions(const struct order_ranks *k)
{
	uint64_t left = k->spec.samples - k->spec.start;

	return left > k->offset ? div_up(left - k->offset, k->spec.ranks) : 0;
}

int order_ranks_init(struct order_ranks *k, const struct order_ranks_spec *s, char *why, size_t cap)
{
	uint64_t left;
	int err = ranks_check(s, why, cap);

	*k = (struct order_ranks){ .spec = *s };
	if (err < 0)
		return err;
	left = s->samples - s->start;
	k->global_batch = (uint64_t)s->ranks * s->batch;
	k->offset = (uint32_t)((s->rank + s->ranks - s->start % s->ranks) % s->ranks);
	if (s->last == ORDER_LAST_PAD)
		k->batches = div_up(left, k->global_batch);
	else if (s->last == ORDER_LAST_DROP)
		k->batches = left / k->global_batch;
	else
		k->batches = div_up(own_positions(k), s->batch);
	return 0;
}

uint32_t order_ranks_rows(const struct order_ranks *k, uint64_t batch)
{
	uint64_t rows = k->spec.batch;

	assert(batch < k->batches);
	if (k->spec.last == ORDER_LAST_KEEP && own_positions(k) - batch * k->spec.batch < rows)
		rows = own_positions(k) - batch * k->spec.batch;
	return (uint32_t)rows;
}

uint64_t order_ranks_position(const struct order_ranks *k, uint64_t batch, uint32_t index)
{
	assert(index < order_ranks_rows(k, batch));
	return k->spec.start + batch * k->global_batch + (uint64_t)index * k->spec.ranks + k->offset;
}

bool order_ranks_padded(const struct order_ranks *k, uint64_t position)
{
	return position >= k->spec.samples;
}

uint64_t order_ranks_source(const struct order_ranks *k, uint64_t position)
{
	return position % k->spec.samples;
}

uint64_t order_ranks_resume(const struct order_ranks *k, uint64_t batches)
{
	uint64_t left = k->spec.samples - k->spec.start;

	return batches < div_up(left, k->global_batch) ? k->spec.start + batches * k->global_batch : k->spec.samples;
}
