/* SPDX-License-Identifier: Apache-2.0 */
/* mix_table.h -- one period of a stage: slot to source by Tijdeman's rule; docs/ORDER.md 7.4. For mix.c.
 * Invariants: (1) in the first t slots every source is within one of t * weight / period; (2) that holds from every
 * phase too; (3) phase 0 is one of them, and they ascend. */
#pragma once

#include <stdint.h>

struct mix_table {
	uint64_t from;         /* position where the stage begins */
	uint32_t period;       /* T, the sum of the weights */
	uint32_t sources_count;
	uint32_t phases_count;
	uint32_t *starts;      /* [sources + 1] of each source in slots; its weight is the difference */
	uint32_t *slots;       /* [T] slots of source 0, ascending, then of source 1, ... */
	uint32_t *source_at;   /* [T] source of a slot */
	uint32_t *rank_at;     /* [T] slots of that source before it */
	uint32_t *phases;      /* [T], phases_count used */
};

/* Weights need not be reduced; their reduced sum must be 1..MIX_PERIOD_MAX. 0 or -GRANARY_ENOMEM. */
int mix_table_init(struct mix_table *t, const uint32_t *weights, uint32_t sources_count);
void mix_table_release(struct mix_table *t);
/* Sum of the weights divided by what divides all; 0: all are 0. */
uint64_t mix_table_reduced_sum(const uint32_t *weights, uint32_t sources_count, uint32_t *divisor);
uint32_t mix_table_phase(const struct mix_table *t, uint32_t lane);
/* Source of an item counted from a phase on, and how many before it are of that source. */
uint64_t mix_table_rank(const struct mix_table *t, uint32_t phase, uint64_t item, uint32_t *source);
/* How many of `items` slots from a phase on are of a source. */
uint64_t mix_table_count(const struct mix_table *t, uint32_t phase, uint32_t source, uint64_t items);
/* The item, counted from a phase on, that is number `index` of a source; its weight is not 0. */
uint64_t mix_table_find(const struct mix_table *t, uint32_t phase, uint32_t source, uint64_t index);
