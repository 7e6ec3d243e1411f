/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a mixture keeps its shares at every position, gives repeated sources exactly so many times, in every mode and
 * lane, without gaps; what cannot be mixed is refused by name.
 * With the argument `dump` it prints what test_order.py asks for on standard input. */
#include "common/mix.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/mix_table.h"
#include "common/rand.h"

static struct mix mix_of(struct mix_spec s)
{
	struct mix m;
	char why[200] = "";

	if (mix_init(&m, &s, why, sizeof(why)) < 0)
		fail_msg("%s", why);
	return m;
}

/* |count * sum - items * weight| < sum: within one sample of the share. */
static bool within_one(uint64_t count, uint64_t items, uint64_t weight, uint64_t sum)
{
	uint64_t a = count * sum, b = items * weight;

	return (a > b ? a - b : b - a) < sum;
}

static void check_table(const uint32_t *weights, uint32_t sources)
{
	struct mix_table t;
	uint32_t divisor;
	uint64_t sum = mix_table_reduced_sum(weights, sources, &divisor);

	assert_int_equal(mix_table_init(&t, weights, sources), 0);
	for (uint32_t lane = 0; lane < 5; lane++) {
		uint32_t phase = mix_table_phase(&t, lane);
		assert_true(lane > 0 || phase == 0);
		for (uint64_t k = 0; k <= t.period * 2 + 3; k++)
			for (uint32_t s = 0; s < sources; s++)
				assert_true(within_one(mix_table_count(&t, phase, s, k), k, weights[s] / divisor, sum));
	}
	mix_table_release(&t);
}

static void test_every_prefix_of_a_table_is_within_one_of_its_shares(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 31);
	for (int round = 0; round < 300; round++) {
		uint32_t weights[20], sources = 1 + (uint32_t)rng_below(&rng, 20);
		uint32_t most = (uint32_t)(UINT64_C(2) << rng_below(&rng, 8));
		for (uint32_t s = 0; s < sources; s++)
			weights[s] = (uint32_t)rng_below(&rng, most);
		weights[rng_below(&rng, sources)] = 1 + (uint32_t)rng_below(&rng, most);
		check_table(weights, sources);
	}
	check_table((uint32_t[]){ 3000000000, 1000000000 }, 2);
	check_table((uint32_t[]){ 1, 1, 1, 65533 }, 4);
}

static void test_the_largest_table_is_made_in_time(void **state)
{
	uint32_t weights[MIX_SOURCES_MAX];
	uint64_t start = clock_mono_ns();
	struct mix_table t;

	(void)state;
	for (uint32_t s = 0; s < MIX_SOURCES_MAX; s++)
		weights[s] = s == 0 ? 65536 - 255 * 3 : 3;
	assert_int_equal(mix_table_init(&t, weights, MIX_SOURCES_MAX), 0);
	printf("256 sources, period %u, %u phases: %d ms\n", t.period, t.phases_count,
		(int)((clock_mono_ns() - start) / 1000000));
	mix_table_release(&t);
}

/* Every (lane, item) is some position's place, and items follow mix_count and the order of their source's pass. */
static void check_mix(const struct mix *m)
{
	uint64_t total = 0;
	uint64_t *next = calloc(m->lanes, sizeof(*next));

	for (uint32_t lane = 0; lane < m->lanes; lane++)
		total += mix_lane_items(m, lane);
	assert_true(total == m->order.samples);
	for (uint64_t p = 0; p < m->order.samples; p++) {
		struct order_place at = mix_place(m, p);
		struct mix_item x = mix_at(m, p), y = mix_lane_item(m, at.lane, at.item);
		uint64_t before, items;
		assert_true(at.item == next[at.lane]++);
		assert_true(x.id == y.id && x.source == y.source && x.lane == at.lane);
		before = mix_count(m, at.lane, x.source, at.item);
		assert_true(mix_count(m, at.lane, x.source, at.item + 1) == before + 1);
		items = m->sources[x.source].samples;
		if (m->order.mode == ORDER_BLOCKS) {
			struct order o = mix_source_order(m, x.source, x.pass);
			items = order_lane_items(&o, at.lane);
			assert_true(order_lane_item(&o, at.lane, x.index) == x.id);
		}
		assert_true(x.index < items && before == x.pass * items + x.index);
		assert_true(mix_source_items(m, x.source, at.lane) == items);
		assert_true(mix_lane_find(m, at.lane, x.source, before) == at.item);
		assert_true(at.item >= mix_even_items(m) || p == at.item * m->lanes + at.lane);
	}
	for (uint32_t lane = 0; lane < m->lanes; lane++)
		for (uint32_t s = 0; s < m->sources_count; s++) {
			uint64_t count = mix_count(m, lane, s, mix_lane_items(m, lane));
			assert_true(mix_lane_find(m, lane, s, count) == UINT64_MAX);
		}
	free(next);
}

static void test_shares_hold_at_every_position_of_every_stage(void **state)
{
	const struct mix_source sources[] = { { 50, 0, 0 }, { 1000, 0, 0 }, { 77, 0, 0 } };
	const uint32_t w0[] = { 3, 1, 0 }, w1[] = { 10, 5, 7 }, w2[] = { 0, 1, 100 };
	const struct mix_stage stages[] = { { 0, w0 }, { 501, w1 }, { 1200, w2 } };

	(void)state;
	for (uint8_t mode = ORDER_EXACT; mode <= ORDER_NONE; mode++) {
		struct mix m = mix_of((struct mix_spec){ { .mode = mode, .samples = 3001, .block = 4, .window = 2,
			.lanes = 7, .seed = 3 }, sources, 3, stages, 3 });
		check_mix(&m);
		for (uint32_t lane = 0; lane < m.lanes; lane++)
			for (uint32_t s = 0, st; s < 3; s++) {
				uint64_t first = 0, i = 0, base = 0;
				for (st = 0; i <= mix_lane_items(&m, lane); i++) {
					if (st < 2 && i * m.lanes + lane >= stages[st + 1].from)
						st++, first = i, base = mix_count(&m, lane, s, i);
					assert_true(within_one(mix_count(&m, lane, s, i) - base, i - first,
						stages[st].weights[s], st == 0 ? 4 : st == 1 ? 22 : 101));
				}
			}
		mix_release(&m);
	}
}

/* The lanes do not move in step: batches are mixed too. */
static void test_a_batch_of_all_lanes_is_mixed(void **state)
{
	const struct mix_source by_weight[] = { { 100000, 3, 0 }, { 100000, 1, 0 } };
	const struct mix_source by_repeat[] = { { 150000, 0, 1 }, { 25000, 0, 2 } };

	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		struct mix m = mix_of((struct mix_spec){ { .mode = ORDER_BLOCKS,
			.samples = kind ? 0 : 100000, .block = 16,
			.window = 2, .lanes = 960 }, kind ? by_repeat : by_weight, 2, NULL, 0 });
		for (uint64_t step = 0; step < 300; step++)
			for (uint64_t stride = 1; stride <= 8; stride *= 8) {
				unsigned first = 0;
				for (uint64_t i = 0; i < 100; i++)
					first += mix_at(&m, step * 256 + i * stride).source == 0;
				assert_in_range(first, 66, 84); /* 75 expected */
			}
		mix_release(&m);
	}
}

static void test_repeated_sources_come_exactly_so_often(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 33);
	for (int round = 0; round < 200; round++) {
		struct mix_source sources[7];
		uint32_t count = 1 + (uint32_t)rng_below(&rng, 7);
		struct mix_spec s = { { .mode = (uint8_t)(1 + rng_below(&rng, 3)), .block = 8, .window = 2,
			.lanes = 1 + (uint32_t)rng_below(&rng, 30), .seed = 5, .epoch = 6 }, sources, count, NULL, 0 };
		uint8_t *seen[7];
		struct mix m;
		for (uint32_t i = 0; i < count; i++) {
			sources[i] = (struct mix_source){ 1 + rng_below(&rng, 400), 0,
				1 + (uint32_t)rng_below(&rng, 3) };
			seen[i] = calloc(sources[i].samples, 1);
		}
		if (round % 2 && count > 1) { /* one by weight takes what is left */
			sources[0] = (struct mix_source){ 400, 2, 0 };
			for (uint32_t i = 1; i < count; i++)
				s.order.samples += sources[i].samples * sources[i].repeat;
			s.order.samples += rng_below(&rng, 300) + 100;
			free(seen[0]);
			seen[0] = calloc(400, 1);
		}
		s.order.samples += s.order.samples ? 40 * (uint64_t)s.order.lanes : 0; /* each lane has room */
		m = mix_of(s);
		check_mix(&m);
		for (uint64_t p = 0; p < m.order.samples; p++) {
			struct mix_item x = mix_at(&m, p);
			seen[x.source][x.id]++;
		}
		for (uint32_t i = 0; i < count; i++) {
			for (uint64_t id = 0; id < sources[i].samples && sources[i].repeat; id++)
				assert_int_equal(seen[i][id], sources[i].repeat);
			free(seen[i]);
		}
		mix_release(&m);
	}
}

/* A repeated source is near its share at every position: within one sample up to four sources, and never further than
 * half a sample for each time the sources are halved. */
static void test_repeated_sources_are_spread_evenly(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 34);
	for (int round = 0; round < 60; round++) {
		struct mix_source sources[16];
		uint32_t count = (uint32_t)(UINT64_C(1) << rng_below(&rng, 5)), halvings = 0;
		struct mix m;
		for (uint32_t i = 0; i < count; i++)
			sources[i] = (struct mix_source){ 1 + rng_below(&rng, 500), 0,
			1 + (uint32_t)rng_below(&rng, 2) };
		for (uint32_t i = 1; i < count; i *= 2)
			halvings++;
		m = mix_of((struct mix_spec){ { .mode = ORDER_EXACT }, sources, count, NULL, 0 });
		for (uint64_t k = 0; k <= m.order.samples; k++)
			for (uint32_t s = 0; s < count; s++) {
				double share = (double)(sources[s].samples * sources[s].repeat) * (double)k /
					(double)m.order.samples;
				double off = (double)mix_count(&m, 0, s, k) - share;
				assert_true(off <= halvings / 2.0 + 1e-6 && -off <= halvings / 2.0 + 1e-6);
			}
		mix_release(&m);
	}
}

static void test_another_pass_has_another_order(void **state)
{
	const struct mix_source sources[] = { { 1000, 0, 2 }, { 1000, 0, 1 } };
	struct mix m = mix_of((struct mix_spec){ { .mode = ORDER_EXACT }, sources, 2, NULL, 0 });
	struct order a = mix_source_order(&m, 0, 0), b = mix_source_order(&m, 0, 1), c = mix_source_order(&m, 1, 0);
	unsigned same = 0;

	(void)state;
	for (uint64_t i = 0; i < 1000; i++)
		same += (unsigned)(order_at(&a, i) == order_at(&b, i)) + (order_at(&a, i) == order_at(&c, i));
	assert_true(same < 20);
	mix_release(&m);
}

static void refused(struct mix_spec s, const char *text)
{
	struct mix m;
	char why[200] = "";

	assert_int_equal(mix_init(&m, &s, why, sizeof(why)), -GRANARY_EINVAL);
	if (strstr(why, text) == NULL)
		fail_msg("'%s' does not say '%s'", why, text);
	assert_int_equal(mix_init(&m, &s, NULL, 0), -GRANARY_EINVAL);
}

static void test_what_cannot_be_mixed_is_refused_by_name(void **state)
{
	const struct order_spec o = { .mode = ORDER_EXACT, .samples = 100 };
	const struct order_spec blocks = { .mode = ORDER_BLOCKS, .samples = 100, .block = 4, .window = 1, .lanes = 12 };
	const struct mix_source weight = { 10, 1, 0 }, repeat = { 10, 0, 2 };
	const uint32_t ones[] = { 1, 1 }, zeros[] = { 0, 0 }, big[] = { 65536, 1 };

	(void)state;
	refused((struct mix_spec){ o, &weight, 0, NULL, 0 }, "sources: 0");
	refused((struct mix_spec){ o, &weight, 257, NULL, 0 }, "sources: 257");
	refused((struct mix_spec){ o, &(struct mix_source){ 10, 0, 0 }, 1, NULL, 0 }, "weight");
	refused((struct mix_spec){ o, &(struct mix_source){ 10, 1, 1 }, 1, NULL, 0 }, "exclude each other");
	refused((struct mix_spec){ o, &(struct mix_source){ 0, 1, 0 }, 1, NULL, 0 }, "0 samples");
	refused((struct mix_spec){ o, &repeat, 1, NULL, 0 }, "come to 20");
	refused((struct mix_spec){ { .mode = ORDER_EXACT }, &weight, 1, NULL, 0 }, "needs a length");
	refused((struct mix_spec){ { .mode = 7, .samples = 5 }, &weight, 1, NULL, 0 }, "mode");
	refused((struct mix_spec){ blocks, &weight, 1, NULL, 0 }, "fewer than the 12 lanes");
	refused((struct mix_spec){ { .mode = ORDER_BLOCKS, .samples = 5, .block = 4, .window = 1 }, &weight,
		1, NULL, 0 },
		"lanes");
	refused((struct mix_spec){ o, (struct mix_source[]){ { 10, 1, 0 }, { 60, 0, 2 } }, 2, NULL, 0 }, "too few");
	refused((struct mix_spec){ o, &repeat, 1, &(struct mix_stage){ 0, ones }, 1 }, "combined with stages");
	refused((struct mix_spec){ o, &weight, 1, &(struct mix_stage){ 5, ones }, 1 }, "stage 0: from");
	refused((struct mix_spec){ o, &weight, 1, (struct mix_stage[]){ { 0, ones }, { 100, ones } }, 2 },
		"stage 1: from");
	refused((struct mix_spec){ o, &weight, 1, (struct mix_stage[]){ { 0, ones }, { 0, ones } }, 2 },
		"stage 1: from");
	refused((struct mix_spec){ o, &weight, 1, &(struct mix_stage){ 0, zeros }, 1 }, "stage 0: weights");
	refused((struct mix_spec){ o, (struct mix_source[]){ weight, weight }, 2, &(struct mix_stage){ 0, big }, 1 },
		"stage 0: weights");
	refused((struct mix_spec){ o, &weight, 1, &(struct mix_stage){ 0, ones }, 17 }, "stages: 17");
	refused((struct mix_spec){ { .mode = ORDER_EXACT }, &(struct mix_source){ ORDER_SAMPLES_MAX, 0, 2 },
		1, NULL, 0 },
		"2^48");
}

static void test_items_take_little_time(void **state)
{
	const struct mix_source sources[] = { { 4000000, 5, 0 }, { 900000, 2, 0 }, { 1000000, 1, 0 } };

	(void)state;
	for (uint8_t mode = ORDER_EXACT; mode <= ORDER_BLOCKS; mode++) {
		struct mix m = mix_of((struct mix_spec){ { .mode = mode, .samples = 10000000, .block = 64, .window = 2,
			.lanes = 960 }, sources, 3, NULL, 0 });
		uint64_t start = clock_mono_ns(), sum = 0;
		for (uint64_t p = 0; p < 200000; p++)
			sum += mix_at(&m, p * 49).id;
		printf("mix_at, %s: %d ns (%d)\n", order_mode_name(mode), (int)((clock_mono_ns() - start) / 200000),
			(int)(sum & 1));
		mix_release(&m);
	}
}

/* ---- dump ---- */

static bool read_u64(uint64_t *v)
{
	return scanf("%" SCNu64, v) == 1;
}

/* One mixture: mode N n G L seed epoch, S then S times (samples weight repeat), stages then (from, S weights) each,
 * from step count. Prints "source pass id" of the positions asked for. */
static int dump_one(uint64_t mode)
{
	static uint32_t weights[MIX_STAGES_MAX][MIX_SOURCES_MAX];
	struct mix_source sources[MIX_SOURCES_MAX];
	struct mix_stage stages[MIX_STAGES_MAX];
	uint64_t v[6] = { 0 }, count = 0, stages_count = 0, a[3] = { 0 };
	bool ok = true;
	struct mix m;

	for (int i = 0; i < 6; i++)
		ok = ok && read_u64(&v[i]);
	ok = ok && read_u64(&count) && count <= MIX_SOURCES_MAX;
	for (uint64_t i = 0; ok && i < count; i++) {
		ok = read_u64(&a[0]) && read_u64(&a[1]) && read_u64(&a[2]);
		sources[i] = (struct mix_source){ a[0], (uint32_t)a[1], (uint32_t)a[2] };
	}
	ok = ok && read_u64(&stages_count) && stages_count <= MIX_STAGES_MAX;
	for (uint64_t i = 0; ok && i < stages_count; i++) {
		ok = read_u64(&stages[i].from);
		stages[i].weights = weights[i];
		for (uint64_t s = 0; ok && s < count; s++) {
			ok = read_u64(&a[0]);
			weights[i][s] = (uint32_t)a[0];
		}
	}
	if (!ok || !read_u64(&a[0]) || !read_u64(&a[1]) || !read_u64(&a[2]))
		return 2;
	m = mix_of((struct mix_spec){ { (uint8_t)mode, v[0], v[1], v[2], (uint32_t)v[3], v[4], v[5] }, sources,
		(uint32_t)count, stages, (uint32_t)stages_count });
	for (uint64_t i = 0; i < a[2]; i++) {
		struct mix_item x = mix_at(&m, a[0] + i * a[1]);
		printf("%" PRIu32 " %" PRIu64 " %" PRIu64 "\n", x.source, x.pass, x.id);
	}
	mix_release(&m);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_prefix_of_a_table_is_within_one_of_its_shares),
		cmocka_unit_test(test_the_largest_table_is_made_in_time),
		cmocka_unit_test(test_shares_hold_at_every_position_of_every_stage),
		cmocka_unit_test(test_a_batch_of_all_lanes_is_mixed),
		cmocka_unit_test(test_repeated_sources_come_exactly_so_often),
		cmocka_unit_test(test_repeated_sources_are_spread_evenly),
		cmocka_unit_test(test_another_pass_has_another_order),
		cmocka_unit_test(test_what_cannot_be_mixed_is_refused_by_name),
		cmocka_unit_test(test_items_take_little_time),
	};
	uint64_t mode;
	int err = 0;

	if (argc > 1 && strcmp(argv[1], "dump") == 0) {
		while (err == 0 && read_u64(&mode))
			err = dump_one(mode);
		return err;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
