/* SPDX-License-Identifier: Apache-2.0 */
/* mix.c -- positions of a mixture to samples of its sources; docs/ORDER.md 7.
 * Invariants: (1) a lane's items are split among the sources without gaps: index i of a source in a lane is reached by
 * exactly one item; (2) in `exact` and `none` there is one lane, number 0, and item = position; (3) sums of samples
 * stay at or below 2^48, checked in mix_init(). */
#include "common/mix.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/mix_table.h"

__extension__ typedef unsigned __int128 u128; /* a product of two words */
typedef unsigned long long ull;

__attribute__((format(printf, 3, 4))) static int refuse(char *why, size_t cap, const char *format, ...)
{
	va_list args;

	if (cap > 0) {
		va_start(args, format);
		vsnprintf(why, cap, format, args);
		va_end(args);
	}
	return -GRANARY_EINVAL;
}

/* ---- lanes ---- */

/* Items of lane l of a sequence of `samples`: as order.c cuts it. */
static uint64_t cut_items(uint64_t samples, uint32_t lanes, uint32_t lane)
{
	uint64_t even = samples / lanes, longer = samples % lanes;

	return even + (lane + 1) * longer / lanes - lane * longer / lanes;
}

uint64_t mix_source_items(const struct mix *m, uint32_t source, uint32_t lane)
{
	return cut_items(m->sources[source].samples, m->lanes, lane);
}

/* Positions p < end with p mod L = lane. */
static uint64_t dealt_items(const struct mix *m, uint64_t end, uint32_t lane)
{
	return end > lane ? (end - lane - 1) / m->lanes + 1 : 0;
}

/* All sources have repeat: lanes are as long as their sources make them. */
static bool is_sum(const struct mix *m)
{
	return m->tables == NULL && m->weights_sum == 0;
}

uint64_t mix_even_items(const struct mix *m)
{
	return is_sum(m) ? m->even_items : UINT64_MAX;
}

uint64_t mix_lane_items(const struct mix *m, uint32_t lane)
{
	uint64_t items = 0;

	assert(lane < m->lanes);
	if (!is_sum(m))
		return dealt_items(m, m->order.samples, lane);
	for (uint32_t s = 0; s < m->sources_count; s++)
		items += m->sources[s].repeat * mix_source_items(m, s, lane);
	return items;
}

/* Items above even_items of all lanes before `lane`. */
static uint64_t extra_before(const struct mix *m, uint32_t lane)
{
	uint64_t extra = 0;

	for (uint32_t s = 0; s < m->sources_count; s++)
		extra += m->sources[s].repeat * (lane * (m->sources[s].samples % m->lanes) / m->lanes);
	return extra;
}

struct order_place mix_place(const struct mix *m, uint64_t position)
{
	uint32_t low = 0, high = m->lanes;
	uint64_t rest;

	assert(position < m->order.samples);
	if (!is_sum(m) || position / m->lanes < m->even_items)
		return (struct order_place){ (uint32_t)(position % m->lanes), position / m->lanes };
	rest = position - m->even_items * m->lanes; /* what lanes have above that, lane by lane */
	while (high - low > 1) { /* extra_before(low) <= rest < extra_before(high) */
		uint32_t middle = low + (high - low) / 2;
		if (extra_before(m, middle) <= rest)
			low = middle;
		else
			high = middle;
	}
	return (struct order_place){ low, m->even_items + rest - extra_before(m, low) };
}

/* ---- stages of weights ---- */

static uint64_t stage_first(const struct mix *m, uint32_t stage, uint32_t lane)
{
	return stage < m->stages_count ? dealt_items(m, m->tables[stage].from, lane) : mix_lane_items(m, lane);
}

static uint64_t tables_count(const struct mix *m, uint32_t lane, uint32_t source, uint64_t items)
{
	uint64_t count = 0, first = 0;

	for (uint32_t i = 0; i < m->stages_count && first < items; i++) {
		uint64_t next = stage_first(m, i + 1, lane);
		next = next < items ? next : items;
		count += mix_table_count(&m->tables[i], mix_table_phase(&m->tables[i], lane), source, next - first);
		first = next;
	}
	return count;
}

static uint64_t tables_item(const struct mix *m, uint32_t lane, uint64_t item, uint32_t *source)
{
	uint32_t stage = 0;
	uint64_t first, rank;

	while (stage + 1 < m->stages_count && stage_first(m, stage + 1, lane) <= item)
		stage++;
	first = stage_first(m, stage, lane);
	rank = mix_table_rank(&m->tables[stage], mix_table_phase(&m->tables[stage], lane), item - first, source);
	return rank + tables_count(m, lane, *source, first);
}

static uint64_t tables_find(const struct mix *m, uint32_t lane, uint32_t source, uint64_t index)
{
	for (uint32_t i = 0; i < m->stages_count; i++) {
		const struct mix_table *t = &m->tables[i];
		uint64_t first = stage_first(m, i, lane), items = stage_first(m, i + 1, lane) - first;
		uint32_t phase = mix_table_phase(t, lane);
		uint64_t count = mix_table_count(t, phase, source, items);
		if (index < count)
			return first + mix_table_find(t, phase, source, index);
		index -= count;
	}
	return UINT64_MAX;
}

/* ---- counts: where a source has repeat ---- */

/* ends[s]: items of the lane that are of sources 0..s. */
static void lane_counts(const struct mix *m, uint32_t lane, uint64_t *ends)
{
	uint64_t fixed = 0, rest, before = 0, sum = 0;

	for (uint32_t s = 0; s < m->sources_count; s++)
		fixed += m->sources[s].repeat * mix_source_items(m, s, lane);
	rest = is_sum(m) ? 0 : dealt_items(m, m->order.samples, lane) - fixed;
	for (uint32_t s = 0; s < m->sources_count; s++) {
		uint64_t w = m->sources[s].weight;
		if (w > 0) {
			sum += (uint64_t)((u128)rest * (before + w) / m->weights_sum) -
				(uint64_t)((u128)rest * before / m->weights_sum);
			before += w;
		} else {
			sum += m->sources[s].repeat * mix_source_items(m, s, lane);
		}
		ends[s] = sum;
	}
}

/* A run of sources [low, high) and how it is cut in two: left(k) of its first k items are of the left half. */
struct split {
	uint32_t low, middle, high, depth;
	uint64_t items, left_items, offset;
};

static struct split split_of(const uint64_t *ends, uint32_t low, uint32_t high, uint32_t depth, uint32_t lane)
{
	struct split c = { low, low + (high - low) / 2, high, depth, 0, 0, 0 };
	uint64_t before = low ? ends[low - 1] : 0, turn = hash_u64((depth + 1) * ORDER_GOLDEN) | 1;

	c.items = ends[high - 1] - before;
	c.left_items = ends[c.middle - 1] - before;
	c.offset = (uint64_t)((u128)(lane * turn + (UINT64_C(1) << 63)) * c.items >> 64);
	return c;
}

static uint64_t split_left(const struct split *c, uint64_t k)
{
	return c->items ? (uint64_t)(((u128)c->left_items * k + c->offset) / c->items) : 0;
}

static uint64_t counts_item(const struct mix *m, uint32_t lane, uint64_t item, uint32_t *source)
{
	uint64_t ends[MIX_SOURCES_MAX], left;
	uint32_t low = 0, high = m->sources_count;

	lane_counts(m, lane, ends);
	for (uint32_t depth = 0; high - low > 1; depth++) {
		struct split c = split_of(ends, low, high, depth, lane);
		left = split_left(&c, item);
		if (split_left(&c, item + 1) > left) {
			high = c.middle;
			item = left;
		} else {
			low = c.middle;
			item -= left;
		}
	}
	*source = low;
	return item;
}

static uint64_t counts_count(const struct mix *m, uint32_t lane, uint32_t source, uint64_t items)
{
	uint64_t ends[MIX_SOURCES_MAX], left;
	uint32_t low = 0, high = m->sources_count;

	lane_counts(m, lane, ends);
	for (uint32_t depth = 0; high - low > 1; depth++) {
		struct split c = split_of(ends, low, high, depth, lane);
		left = split_left(&c, items);
		if (source < c.middle) {
			high = c.middle;
			items = left;
		} else {
			low = c.middle;
			items -= left;
		}
	}
	return items;
}

/* The item of a run that is number x of its left half, and of its right half: split_left() turned round. */
static uint64_t split_left_item(const struct split *c, uint64_t x)
{
	return (uint64_t)(((u128)(x + 1) * c->items - c->offset + c->left_items - 1) / c->left_items) - 1;
}

static uint64_t split_right_item(const struct split *c, uint64_t x)
{
	return (uint64_t)(((u128)x * c->items + c->offset) / (c->items - c->left_items));
}

static uint64_t counts_find(const struct mix *m, uint32_t lane, uint32_t source, uint64_t index)
{
	struct split path[8]; /* 2^8 = MIX_SOURCES_MAX */
	uint64_t ends[MIX_SOURCES_MAX];
	uint32_t low = 0, high = m->sources_count, depth = 0;

	lane_counts(m, lane, ends);
	if (index >= ends[source] - (source ? ends[source - 1] : 0))
		return UINT64_MAX;
	for (; high - low > 1; depth++) {
		path[depth] = split_of(ends, low, high, depth, lane);
		if (source < path[depth].middle)
			high = path[depth].middle;
		else
			low = path[depth].middle;
	}
	while (depth-- > 0)
		index = source < path[depth].middle ? split_left_item(&path[depth], index) :
			split_right_item(&path[depth], index);
	return index;
}

/* ---- use ---- */

uint64_t mix_lane_find(const struct mix *m, uint32_t lane, uint32_t source, uint64_t index)
{
	assert(source < m->sources_count && lane < m->lanes);
	return m->tables ? tables_find(m, lane, source, index) : counts_find(m, lane, source, index);
}

uint64_t mix_count(const struct mix *m, uint32_t lane, uint32_t source, uint64_t items)
{
	assert(source < m->sources_count && items <= mix_lane_items(m, lane));
	return m->tables ? tables_count(m, lane, source, items) : counts_count(m, lane, source, items);
}

struct order mix_source_order(const struct mix *m, uint32_t source, uint64_t pass)
{
	struct order o = m->orders[source];
	struct order_spec s = o.spec;
	uint64_t seed = order_key_add(order_key_add(0, m->order.seed), ORDER_KEY_SOURCE);
	int err;

	if (pass == 0)
		return o;
	s.seed = order_key_add(order_key_add(seed, source), pass);
	err = order_init(&o, &s, NULL, 0);
	assert(err == 0);
	return o;
}

struct mix_item mix_lane_rank(const struct mix *m, uint32_t lane, uint64_t item)
{
	struct mix_item x = { .lane = lane };
	uint64_t rank, items;

	assert(item < mix_lane_items(m, lane));
	rank = m->tables ? tables_item(m, lane, item, &x.source) : counts_item(m, lane, item, &x.source);
	items = mix_source_items(m, x.source, lane);
	x.pass = rank / items;
	x.index = rank % items;
	return x;
}

struct mix_item mix_lane_item(const struct mix *m, uint32_t lane, uint64_t item)
{
	struct mix_item x = mix_lane_rank(m, lane, item);
	struct order o = mix_source_order(m, x.source, x.pass);

	x.id = m->order.mode == ORDER_BLOCKS ? order_lane_item(&o, lane, x.index) : order_at(&o, x.index);
	return x;
}

struct mix_item mix_at(const struct mix *m, uint64_t position)
{
	struct order_place at = mix_place(m, position);

	return mix_lane_item(m, at.lane, at.item);
}

/* ---- making ---- */

static int source_check(const struct mix_spec *s, uint32_t i, char *why, size_t cap)
{
	const struct mix_source *a = &s->sources[i];

	if (a->samples == 0 || a->samples > ORDER_SAMPLES_MAX)
		return refuse(why, cap, "source %u: %llu samples; it must be 1 to 2^48", i, (ull)a->samples);
	if (a->repeat > MIX_REPEAT_MAX)
		return refuse(why, cap, "source %u: repeat: %u; at most %d", i, a->repeat, MIX_REPEAT_MAX);
	if (s->stages_count > 0 && a->repeat > 0)
		return refuse(why, cap, "source %u: repeat cannot be combined with stages", i);
	if (a->repeat > 0 && a->weight > 0)
		return refuse(why, cap, "source %u: weight and repeat exclude each other", i);
	if (s->stages_count == 0 && a->repeat == 0 && a->weight == 0)
		return refuse(why, cap, "source %u: weight: it must be above 0", i);
	if (s->order.mode == ORDER_BLOCKS && a->repeat == 0 && a->samples < s->order.lanes)
		return refuse(why, cap,
			"source %u: %llu samples, fewer than the %u lanes: take fewer lanes, or exact", i,
			(ull)a->samples, s->order.lanes);
	return 0;
}

static int stages_check(const struct mix_spec *s, char *why, size_t cap)
{
	for (uint32_t i = 0; i < s->stages_count; i++) {
		uint32_t divisor;
		uint64_t sum = mix_table_reduced_sum(s->stages[i].weights, s->sources_count, &divisor);
		if (i == 0 ? s->stages[i].from != 0 : s->stages[i].from <= s->stages[i - 1].from)
			return refuse(why, cap, "stage %u: from: the first must be 0, the others ascend", i);
		if (s->stages[i].from >= s->order.samples)
			return refuse(why, cap, "stage %u: from: %llu; the epoch has %llu samples", i,
				(ull)s->stages[i].from, (ull)s->order.samples);
		if (sum == 0 || sum > MIX_PERIOD_MAX)
			return refuse(why, cap, "stage %u: weights: their reduced sum is %llu; it must be 1 to %d", i,
				(ull)sum, MIX_PERIOD_MAX);
	}
	return 0;
}

static int tables_init(struct mix *m, const struct mix_stage *stages, uint32_t count)
{
	m->tables = calloc(count, sizeof(*m->tables));
	if (m->tables == NULL)
		return -GRANARY_ENOMEM;
	m->stages_count = count;
	for (uint32_t i = 0; i < count; i++) {
		int err = mix_table_init(&m->tables[i], stages[i].weights, m->sources_count);
		if (err < 0)
			return err;
		m->tables[i].from = stages[i].from;
	}
	return 0;
}

/* No source has repeat: the stages, or one made of the sources' weights. */
static int weights_init(struct mix *m, const struct mix_spec *s, char *why, size_t cap)
{
	uint32_t weights[MIX_SOURCES_MAX];
	struct mix_stage one = { 0, weights };
	struct mix_spec with = *s;
	int err;

	if (m->order.samples == 0)
		return refuse(why, cap, "samples: 0; an epoch of weights needs a length");
	for (uint32_t i = 0; i < s->sources_count; i++)
		weights[i] = s->sources[i].weight;
	if (s->stages_count == 0) {
		with.stages = &one;
		with.stages_count = 1;
	}
	err = stages_check(&with, why, cap);
	return err < 0 ? err : tables_init(m, with.stages, with.stages_count);
}

/* Some sources have repeat: they are given in full, the others share what is left. */
static int counts_init(struct mix *m, char *why, size_t cap)
{
	u128 sum = 0;

	for (uint32_t s = 0; s < m->sources_count; s++) {
		sum += (u128)m->sources[s].samples * m->sources[s].repeat;
		m->weights_sum += m->sources[s].weight;
		m->even_items += m->sources[s].samples / m->lanes * m->sources[s].repeat;
	}
	if (sum > ORDER_SAMPLES_MAX)
		return refuse(why, cap, "repeat: the sources come to more than 2^48 samples");
	if (m->weights_sum == 0 && m->order.samples != 0 && m->order.samples != sum)
		return refuse(why, cap, "samples: %llu; the repeated sources come to %llu", (ull)m->order.samples,
			(ull)sum);
	if (m->weights_sum == 0)
		m->order.samples = (uint64_t)sum;
	for (uint32_t lane = 0; lane < m->lanes && m->weights_sum > 0; lane++) {
		uint64_t fixed = 0;
		for (uint32_t s = 0; s < m->sources_count; s++)
			fixed += m->sources[s].repeat * mix_source_items(m, s, lane);
		if (fixed > dealt_items(m, m->order.samples, lane))
			return refuse(why, cap, "samples: %llu; too few for the repeated sources, which come to %llu",
				(ull)m->order.samples, (ull)sum);
	}
	return 0;
}

static int orders_init(struct mix *m, char *why, size_t cap)
{
	uint64_t seed = order_key_add(order_key_add(0, m->order.seed), ORDER_KEY_SOURCE);

	for (uint32_t i = 0; i < m->sources_count; i++) {
		struct order_spec s = m->order;
		int err;
		s.samples = m->sources[i].samples;
		s.seed = order_key_add(order_key_add(seed, i), 0);
		err = order_init(&m->orders[i], &s, why, cap);
		if (err < 0)
			return err;
	}
	return 0;
}

static int parts_init(struct mix *m, const struct mix_spec *s, char *why, size_t cap)
{
	bool repeat = false;
	int err = 0;

	for (uint32_t i = 0; i < s->sources_count && err == 0; i++) {
		err = source_check(s, i, why, cap);
		repeat = repeat || s->sources[i].repeat > 0;
	}
	if (err < 0)
		return err;
	m->sources = malloc(s->sources_count * sizeof(*m->sources));
	m->orders = malloc(s->sources_count * sizeof(*m->orders));
	if (m->sources == NULL || m->orders == NULL)
		return -GRANARY_ENOMEM;
	memcpy(m->sources, s->sources, s->sources_count * sizeof(*m->sources));
	err = orders_init(m, why, cap);
	if (err == 0)
		err = repeat ? counts_init(m, why, cap) : weights_init(m, s, why, cap);
	return err;
}

int mix_init(struct mix *m, const struct mix_spec *s, char *why, size_t cap)
{
	int err;

	*m = (struct mix){ .order = s->order, .sources_count = s->sources_count };
	m->lanes = s->order.mode == ORDER_BLOCKS && s->order.lanes > 0 ? s->order.lanes : 1;
	if (s->sources_count == 0 || s->sources_count > MIX_SOURCES_MAX)
		return refuse(why, cap, "sources: %u; there must be 1 to %d", s->sources_count, MIX_SOURCES_MAX);
	if (s->stages_count > MIX_STAGES_MAX)
		return refuse(why, cap, "stages: %u; at most %d", s->stages_count, MIX_STAGES_MAX);
	if (s->order.samples > ORDER_SAMPLES_MAX)
		return refuse(why, cap, "samples: %llu; at most 2^48", (ull)s->order.samples);
	err = parts_init(m, s, why, cap);
	if (err == -GRANARY_ENOMEM)
		refuse(why, cap, "out of memory for the tables of a mixture");
	if (err < 0)
		mix_release(m);
	return err;
}

void mix_release(struct mix *m)
{
	for (uint32_t i = 0; i < m->stages_count; i++)
		mix_table_release(&m->tables[i]);
	free(m->tables);
	free(m->orders);
	free(m->sources);
	*m = (struct mix){ 0 };
}
