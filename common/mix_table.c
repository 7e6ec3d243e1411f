/* SPDX-License-Identifier: Apache-2.0 */
/* mix_table.c -- Tijdeman's chairman assignment in integers, and the phases from which it is as even as from its start.
 * Invariants: (1) all deviations are kept times T: |x * T - t * w| < T; (2) products stay below 2^42. */
#include "common/mix_table.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/mix.h"

__extension__ typedef unsigned __int128 u128; /* a product of two words */

static uint32_t weight_of(const struct mix_table *t, uint32_t source)
{
	return t->starts[source + 1] - t->starts[source];
}

uint64_t mix_table_reduced_sum(const uint32_t *weights, uint32_t sources_count, uint32_t *divisor)
{
	uint64_t sum = 0;
	uint32_t gcd = 0;

	for (uint32_t s = 0; s < sources_count; s++) {
		uint32_t a = gcd, b = weights[s];
		while (b != 0) {
			uint32_t rest = a % b;
			a = b;
			b = rest;
		}
		gcd = a;
		sum += weights[s];
	}
	*divisor = gcd;
	return gcd ? sum / gcd : 0;
}

/* Of the sources whose deficit k * w - x * T is at least T / (2S - 2): the one with the earliest deadline, the first of
 * equals. Some source always qualifies (Tijdeman 1980). S counts the sources with a weight. */
static uint32_t choose(const struct mix_table *t, const int64_t *deficits, int64_t used_count)
{
	int64_t period = t->period, scale = 2 * used_count - 2, best_top = 0, best_weight = 0;
	uint32_t best = UINT32_MAX;

	for (uint32_t s = 0; s < t->sources_count; s++) {
		int64_t w = weight_of(t, s), top = period * (scale - 1) - deficits[s] * scale;
		if (w == 0 || deficits[s] * scale < period)
			continue;
		if (best == UINT32_MAX || top * best_weight < best_top * w) {
			best = s;
			best_top = top;
			best_weight = w;
		}
	}
	assert(best != UINT32_MAX);
	return best;
}

static void fill_slots(struct mix_table *t)
{
	int64_t deficits[MIX_SOURCES_MAX] = { 0 };
	uint32_t counts[MIX_SOURCES_MAX] = { 0 };
	uint32_t used_count = 0, only = 0;

	for (uint32_t s = 0; s < t->sources_count; s++)
		if (weight_of(t, s) > 0) {
			used_count++;
			only = s;
		}
	for (uint32_t slot = 0; slot < t->period; slot++) {
		uint32_t s;
		for (s = 0; s < t->sources_count; s++)
			deficits[s] += weight_of(t, s);
		s = used_count == 1 ? only : choose(t, deficits, used_count);
		deficits[s] -= t->period;
		t->source_at[slot] = s;
		t->rank_at[slot] = counts[s];
		t->slots[t->starts[s] + counts[s]++] = slot;
	}
}

/* One walk along the period, with the deviations x * T - k * w before each slot: finds their bounds, or, once those are
 * known, collects the slots from which no deviation changes by T or more. */
static void walk(struct mix_table *t, int64_t *least, int64_t *most, bool collect)
{
	int64_t deviations[MIX_SOURCES_MAX] = { 0 };

	for (uint32_t slot = 0; slot < t->period; slot++) {
		bool even = true;
		for (uint32_t s = 0; s < t->sources_count; s++) {
			int64_t d = deviations[s];
			if (collect) {
				even = even && most[s] - d < t->period && d - least[s] < t->period;
			} else {
				least[s] = d < least[s] ? d : least[s];
				most[s] = d > most[s] ? d : most[s];
			}
			deviations[s] -= weight_of(t, s);
		}
		deviations[t->source_at[slot]] += t->period;
		if (collect && even)
			t->phases[t->phases_count++] = slot;
	}
}

static void find_phases(struct mix_table *t)
{
	int64_t least[MIX_SOURCES_MAX] = { 0 }, most[MIX_SOURCES_MAX] = { 0 };

	walk(t, least, most, false);
	walk(t, least, most, true);
	assert(t->phases_count > 0 && t->phases[0] == 0);
}

int mix_table_init(struct mix_table *t, const uint32_t *weights, uint32_t sources_count)
{
	uint32_t divisor;
	uint64_t period = mix_table_reduced_sum(weights, sources_count, &divisor);

	assert(sources_count <= MIX_SOURCES_MAX && period > 0 && period <= MIX_PERIOD_MAX);
	*t = (struct mix_table){ .period = (uint32_t)period, .sources_count = sources_count };
	t->starts = malloc((sources_count + 1 + 4 * period) * sizeof(*t->starts));
	if (t->starts == NULL)
		return -GRANARY_ENOMEM;
	t->slots = t->starts + sources_count + 1;
	t->source_at = t->slots + period;
	t->rank_at = t->source_at + period;
	t->phases = t->rank_at + period;
	t->starts[0] = 0;
	for (uint32_t s = 0; s < sources_count; s++)
		t->starts[s + 1] = t->starts[s] + weights[s] / divisor;
	fill_slots(t);
	find_phases(t);
	return 0;
}

void mix_table_release(struct mix_table *t)
{
	free(t->starts);
	*t = (struct mix_table){ 0 };
}

uint32_t mix_table_phase(const struct mix_table *t, uint32_t lane)
{
	return t->phases[(uint32_t)((u128)(lane * ORDER_GOLDEN) * t->phases_count >> 64)];
}

/* Slots of a source before slot `end`, end < T. */
static uint32_t slots_before(const struct mix_table *t, uint32_t source, uint32_t end)
{
	uint32_t low = t->starts[source], high = end == 0 ? low : t->starts[source + 1];

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (t->slots[middle] < end)
			low = middle + 1;
		else
			high = middle;
	}
	return low - t->starts[source];
}

uint64_t mix_table_rank(const struct mix_table *t, uint32_t phase, uint64_t item, uint32_t *source)
{
	uint64_t at = phase + item;
	uint32_t slot = (uint32_t)(at % t->period), s = t->source_at[slot];

	*source = s;
	return at / t->period * weight_of(t, s) + t->rank_at[slot] - slots_before(t, s, phase);
}

uint64_t mix_table_count(const struct mix_table *t, uint32_t phase, uint32_t source, uint64_t items)
{
	uint64_t end = phase + items;

	return end / t->period * weight_of(t, source) + slots_before(t, source, (uint32_t)(end % t->period)) -
		slots_before(t, source, phase);
}

uint64_t mix_table_find(const struct mix_table *t, uint32_t phase, uint32_t source, uint64_t index)
{
	uint32_t weight = weight_of(t, source);
	uint64_t rank = slots_before(t, source, phase) + index;

	return rank / weight * t->period + t->slots[t->starts[source] + rank % weight] - phase;
}
