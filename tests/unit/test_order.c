/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the order of an epoch is a bijection for awkward sizes, its lanes, windows and pieces fit together, ranks share
 * it without gaps whatever their number, and it never changes (tests/golden/order.txt).
 * With the argument `dump` it prints what test_order.py asks for on standard input. */
#include "common/order.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/rand.h"

static const uint64_t awkward[] = { 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 97, 127, 128, 129, 255, 256,
	257, 1000, 1023, 1024, 1025, 4095, 4096, 4097, 10007, 65535, 65537 };
enum { AWKWARD_COUNT = sizeof(awkward) / sizeof(awkward[0]) };

static struct order order_of(struct order_spec s)
{
	struct order o;
	char why[200] = "";

	if (order_init(&o, &s, why, sizeof(why)) < 0)
		fail_msg("%s", why);
	return o;
}

static void test_permutations_are_bijections_with_inverses(void **state)
{
	(void)state;
	for (uint64_t n = 1; n < 20000; n = n < 300 ? n + 1 : n + n / 7) {
		uint8_t *seen = calloc(n, 1);
		for (uint64_t x = 0; x < n; x++) {
			uint64_t y = order_permute(n * 77, n, x);
			assert_true(y < n && !seen[y]);
			seen[y] = 1;
			assert_true(order_unpermute(n * 77, n, y) == x);
		}
		free(seen);
	}
}

static void test_large_permutations_have_inverses(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 4);
	for (int i = 0; i < 200000; i++) {
		uint64_t n = 1 + (rng_next(&rng) >> (16 + rng_below(&rng, 48))), key = rng_next(&rng);
		uint64_t x = rng_below(&rng, n), y = order_permute(key, n, x);
		assert_true(y < n && order_unpermute(key, n, y) == x);
	}
	assert_true(order_permute(1, ORDER_SAMPLES_MAX, ORDER_SAMPLES_MAX - 1) < ORDER_SAMPLES_MAX);
}

/* All 24 orders of 4 things come up about equally often over the keys. */
static void test_small_permutations_are_all_reached(void **state)
{
	unsigned counts[256] = { 0 }, reached = 0;

	(void)state;
	for (uint64_t key = 0; key < 24000; key++) {
		unsigned code = 0;
		for (uint64_t x = 0; x < 4; x++)
			code = code * 4 + (unsigned)order_permute(order_key_add(3, key), 4, x);
		counts[code]++;
	}
	for (int i = 0; i < 256; i++) {
		reached += counts[i] > 0;
		assert_true(counts[i] == 0 || (counts[i] > 700 && counts[i] < 1300));
	}
	assert_int_equal(reached, 24);
}

/* Neighbours end up far apart, and where a sample lands looks uniform (chi-square with 255 degrees of freedom). */
static void test_large_permutations_look_random(void **state)
{
	enum { CELLS = 256, N = 1000003 };
	static unsigned cells[2][CELLS], close;
	uint64_t before = 0;

	(void)state;
	for (uint64_t x = 0; x < 100 * CELLS; x++) {
		uint64_t y = order_permute(9, N, x);
		cells[0][y * CELLS / N]++;
		cells[1][(y + N - before) % N * CELLS / N]++;
		close += y - before + 500 < 1000;
		before = y;
	}
	for (int t = 0; t < 2; t++) {
		double chi = 0;
		for (int i = 0; i < CELLS; i++)
			chi += ((double)cells[t][i] - 100) * ((double)cells[t][i] - 100) / 100;
		assert_true(chi > 150 && chi < 380);
	}
	assert_true(close < 60); /* 25.6 expected */
}

/* order_at reaches each id once, order_find undoes it, places and positions are the same thing. */
static void check_whole(const struct order *o)
{
	uint64_t n = o->spec.samples;
	uint8_t *seen = calloc(n, 1);

	for (uint64_t p = 0; p < n; p++) {
		uint64_t id = order_at(o, p);
		assert_true(id < n && !seen[id]);
		seen[id] = 1;
		assert_true(order_find(o, id) == p);
		if (o->spec.mode == ORDER_BLOCKS)
			assert_true(order_position(o, order_place(o, p)) == p);
	}
	free(seen);
}

/* Windows cover a lane, pieces cover a window, and an item is the sample of its slot. */
static void check_lane(const struct order *o, uint32_t lane)
{
	uint64_t item = 0, slot, windows = order_lane_windows(o, lane);
	uint64_t *ids = malloc((o->spec.samples + 1) * sizeof(*ids));

	for (uint64_t w = 0; w < windows; w++) {
		struct order_window win = order_window(o, lane, w);
		uint64_t filled = 0;
		assert_true(win.first_item == item && win.blocks <= o->spec.window && win.items > 0);
		for (uint64_t b = 0; b < win.blocks; b++) {
			struct order_piece piece[2];
			unsigned count = order_window_block(o, lane, w, b, piece);
			for (unsigned i = 0; i < count; i++) {
				assert_true(piece[i].first_slot == filled && piece[i].count > 0);
				assert_true(piece[i].count <= o->spec.block);
				for (uint64_t j = 0; j < piece[i].count; j++)
					ids[filled++] = piece[i].first_id + j;
			}
		}
		assert_true(filled == win.items);
		for (uint64_t i = 0; i < win.items; i++, item++) {
			assert_true(order_item_window(o, lane, item, &slot) == w);
			assert_true(order_item_window(o, lane, item, NULL) == w && slot < win.items);
			assert_true(order_lane_item(o, lane, item) == ids[slot]);
		}
	}
	assert_true(item == order_lane_items(o, lane));
	free(ids);
}

static void test_exact_and_none_are_bijections(void **state)
{
	(void)state;
	for (int i = 0; i < AWKWARD_COUNT; i++) {
		struct order e = order_of((struct order_spec){ .mode = ORDER_EXACT, .samples = awkward[i] });
		struct order p = order_of((struct order_spec){ .mode = ORDER_NONE, .samples = awkward[i] });
		check_whole(&e);
		check_whole(&p);
		assert_true(order_at(&p, awkward[i] - 1) == awkward[i] - 1);
	}
}

static void test_blocks_are_a_bijection_for_awkward_sizes(void **state)
{
	static const uint32_t lanes[] = { 1, 2, 3, 4, 7, 12, 24, 60, 100 };
	static const uint64_t windows[] = { 1, 2, 3, 8, 1000 };
	struct rng rng;

	(void)state;
	rng_seed(&rng, 11);
	for (int i = 0; i < 1500; i++) {
		struct order_spec s = { .mode = ORDER_BLOCKS, .samples = awkward[rng_below(&rng, AWKWARD_COUNT - 3)],
			.block = UINT64_C(1) << rng_below(&rng, 9), .window = windows[rng_below(&rng, 5)],
			.lanes = lanes[rng_below(&rng, 9)], .seed = rng_next(&rng), .epoch = rng_below(&rng, 5) };
		struct order o = order_of(s);
		check_whole(&o);
		check_lane(&o, (uint32_t)rng_below(&rng, s.lanes));
	}
}

static void test_large_blocks_orders_have_inverses(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 12);
	for (int i = 0; i < 20000; i++) {
		struct order_spec s = { .mode = ORDER_BLOCKS,
			.samples = 1 + (rng_next(&rng) >> (17 + rng_below(&rng, 20))),
			.block = UINT64_C(1) << rng_below(&rng, 33), .window = 1 + rng_below(&rng, 1 << 20),
			.lanes = 1 + (uint32_t)rng_below(&rng, ORDER_LANES_MAX), .seed = rng_next(&rng) };
		struct order o = order_of(s);
		uint64_t p = i % 3 ? rng_below(&rng, s.samples) : s.samples - 1;
		assert_true(order_find(&o, order_at(&o, p)) == p);
	}
}

static void test_seed_and_epoch_change_the_order_and_nothing_else_does(void **state)
{
	struct order_spec s = { .mode = ORDER_BLOCKS, .samples = 100000, .block = 64, .window = 4,
		.lanes = 24, .seed = 1 };
	struct order a = order_of(s), b, c;
	unsigned same = 0;

	(void)state;
	s.epoch = 1;
	b = order_of(s);
	s.seed = 2;
	c = order_of(s);
	for (uint64_t p = 0; p < s.samples; p++)
		same += (unsigned)(order_at(&a, p) == order_at(&b, p)) + (order_at(&b, p) == order_at(&c, p));
	assert_true(same < 30);
	assert_true(a.rotation != b.rotation && b.rotation != c.rotation);
}

static void refused(struct order_spec s, const char *text)
{
	struct order o;
	char why[200] = "";

	assert_int_equal(order_init(&o, &s, why, sizeof(why)), -GRANARY_EINVAL);
	assert_non_null(strstr(why, text));
	assert_int_equal(order_init(&o, &s, NULL, 0), -GRANARY_EINVAL);
}

static void test_wrong_specs_are_refused_by_name(void **state)
{
	const struct order_spec ok = { .mode = ORDER_BLOCKS, .samples = 100, .block = 4, .window = 1, .lanes = 1 };
	struct order_spec s;

	(void)state;
	s = ok, s.mode = 0, refused(s, "mode");
	s = ok, s.mode = 4, refused(s, "mode");
	s = ok, s.samples = 0, refused(s, "samples");
	s = ok, s.samples = ORDER_SAMPLES_MAX + 1, refused(s, "samples");
	s = ok, s.block = 0, refused(s, "block");
	s = ok, s.block = 3, refused(s, "block");
	s = ok, s.block = UINT64_C(1) << 40, refused(s, "block");
	s = ok, s.lanes = 0, refused(s, "lanes");
	s = ok, s.lanes = ORDER_LANES_MAX + 1, refused(s, "lanes");
	s = ok, s.window = 0, refused(s, "window");
	s = ok, s.window = UINT64_MAX, refused(s, "window");
	order_of((struct order_spec){ .mode = ORDER_EXACT, .samples = 1 }); /* needs no block, window, lanes */
}

static void defaults_are(uint64_t samples, uint64_t mean, bool cold, uint64_t block, uint32_t lanes, uint64_t window)
{
	uint64_t n, g;
	uint32_t l;

	order_defaults(samples, mean, cold, &n, &l, &g);
	assert_int_equal(n, block);
	assert_int_equal(l, lanes);
	assert_int_equal(g, window);
	order_of((struct order_spec){ .mode = ORDER_BLOCKS, .samples = samples, .block = n, .lanes = l, .window = g });
}

static void test_defaults_are_as_the_text_says(void **state)
{
	(void)state;
	defaults_are(10000000, 4096, false, 64, 3840, 2);            /* 38 GiB: a window of 1 GiB, rounded up */
	defaults_are(1000000, 112 * 1024, false, 2, 3840, 3);        /* 107 GiB: 1.67 GiB, rounded up */
	defaults_are(UINT64_C(1) << 32, 4096, false, 64, 3840, 273); /* 16 TiB: 256 GiB, rounded down */
	defaults_are(1000, 4096, false, 64, 1, 18);                  /* less than a window: one window a lane */
	defaults_are(100000, 4096, false, 64, 60, 28);
	defaults_are(10000000, 4096, true, 2048, 240, 1);            /* cold: blocks of 8 MiB, a window of 1.9 GiB */
	defaults_are(10, UINT64_C(1) << 40, false, 1, 1, 1);         /* a sample larger than block and window */
	defaults_are(1, 0, false, 262144, 1, 3);
	assert_int_equal(order_auto(65536, false), ORDER_EXACT);
	assert_int_equal(order_auto(65535, false), ORDER_BLOCKS);
	assert_int_equal(order_auto(1 << 20, true), ORDER_BLOCKS);
}

/* ---- ranks ---- */

static struct order_ranks ranks_of(struct order_ranks_spec s)
{
	struct order_ranks k;
	char why[200] = "";

	if (order_ranks_init(&k, &s, why, sizeof(why)) < 0)
		fail_msg("%s", why);
	return k;
}

/* Counts every position that any rank takes; equal says whether all must have the same number of batches. */
static void check_ranks(struct order_ranks_spec s, uint8_t *seen, size_t seen_size)
{
	uint64_t first = 0, end = s.samples, total = 0;

	memset(seen, 0, seen_size);
	for (s.rank = 0; s.rank < s.ranks; s.rank++) {
		struct order_ranks k = ranks_of(s);
		first = s.rank == 0 ? k.batches : first;
		if (s.last != ORDER_LAST_KEEP)
			assert_true(k.batches == first);
		if (s.last == ORDER_LAST_PAD)
			end = s.start + k.batches * k.global_batch;
		if (s.last == ORDER_LAST_DROP)
			end = s.start + k.batches * k.global_batch;
		for (uint64_t b = 0; b < k.batches; b++)
			for (uint32_t i = 0; i < order_ranks_rows(&k, b); i++, total++) {
				uint64_t p = order_ranks_position(&k, b, i);
				assert_true((p - s.start) / k.global_batch == b);
				assert_true(p % s.ranks == s.rank && p < seen_size && !seen[p]++);
				assert_true(order_ranks_padded(&k, p) == (p >= s.samples));
				assert_true(order_ranks_source(&k, p) == p % s.samples);
			}
	}
	assert_true(total == end - s.start);
	for (uint64_t p = s.start; p < end; p++)
		assert_true(seen[p]);
}

static void test_ranks_share_all_positions_once(void **state)
{
	static uint8_t seen[8192];
	struct rng rng;

	(void)state;
	rng_seed(&rng, 21);
	for (int i = 0; i < 3000; i++) {
		struct order_ranks_spec s = { .ranks = 1 + (uint32_t)rng_below(&rng, 9),
			.batch = 1 + (uint32_t)rng_below(&rng, 9), .last = (uint8_t)rng_below(&rng, 3) };
		uint64_t global = s.ranks * s.batch;
		s.samples = global * (1 + rng_below(&rng, 20)) + 1 - rng_below(&rng, 3);
		s.samples += s.samples == 0;
		s.start = rng_below(&rng, s.samples + 1);
		check_ranks(s, seen, sizeof(seen));
	}
}

/* A step is a set of positions that depends on the global batch alone. */
static void test_step_k_is_the_same_for_every_number_of_ranks(void **state)
{
	static const uint32_t worlds[] = { 1, 2, 3, 4, 6, 8, 12, 24 };

	(void)state;
	for (int w = 0; w < 8; w++)
		for (uint32_t r = 0; r < worlds[w]; r++) {
			struct order_ranks k = ranks_of((struct order_ranks_spec){ .samples = 1001, .start = 48,
				.ranks = worlds[w], .rank = r, .batch = 24 / worlds[w] });
			assert_int_equal(k.batches, 40);
			for (uint64_t b = 0; b < k.batches; b++)
				for (uint32_t i = 0; i < k.spec.batch; i++)
					assert_int_equal((order_ranks_position(&k, b, i) - 48) / 24, b);
			assert_int_equal(order_ranks_resume(&k, 7), 48 + 7 * 24);
			assert_int_equal(order_ranks_resume(&k, 40), 1001);
			assert_int_equal(order_ranks_resume(&k, UINT64_MAX), 1001);
		}
}

static void test_extreme_ranks_do_not_overflow(void **state)
{
	struct order_ranks k = ranks_of((struct order_ranks_spec){ .samples = ORDER_SAMPLES_MAX,
		.start = ORDER_SAMPLES_MAX - 1, .ranks = ORDER_RANKS_MAX, .rank = 7, .batch = ORDER_BATCH_MAX });

	(void)state;
	assert_int_equal(k.batches, 1);
	assert_int_equal(order_ranks_position(&k, 0, ORDER_BATCH_MAX - 1) % ORDER_RANKS_MAX, 7);
	assert_int_equal(order_ranks_source(&k, ORDER_SAMPLES_MAX), 0);
}

static void ranks_refused(struct order_ranks_spec s, const char *text)
{
	struct order_ranks k;
	char why[200] = "";

	assert_int_equal(order_ranks_init(&k, &s, why, sizeof(why)), -GRANARY_EINVAL);
	assert_non_null(strstr(why, text));
	assert_int_equal(order_ranks_init(&k, &s, NULL, 0), -GRANARY_EINVAL);
}

static void test_wrong_ranks_are_refused_by_name(void **state)
{
	const struct order_ranks_spec ok = { .samples = 10, .ranks = 2, .batch = 1 };
	struct order_ranks_spec s;

	(void)state;
	s = ok, s.ranks = 0, ranks_refused(s, "world size is 0");
	s = ok, s.ranks = ORDER_RANKS_MAX + 1, ranks_refused(s, "world size");
	s = ok, s.rank = 2, ranks_refused(s, "rank: 2");
	s = ok, s.batch = 0, ranks_refused(s, "batch size is 0");
	s = ok, s.batch = ORDER_BATCH_MAX + 1, ranks_refused(s, "batch size");
	s = ok, s.samples = 0, ranks_refused(s, "samples");
	s = ok, s.start = 11, ranks_refused(s, "start");
	s = ok, s.last = 3, ranks_refused(s, "last");
}

/* ---- golden values, speed, dump ---- */

static bool spec_read(const char *line, struct order_spec *s, int *used)
{
	return sscanf(line, "%" SCNu8 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu32 " %" SCNu64 " %" SCNu64 "%n",
		&s->mode, &s->samples, &s->block, &s->window, &s->lanes, &s->seed, &s->epoch, used) == 7;
}

static void test_golden_values_hold(void **state)
{
	const char *src = getenv("GRANARY_SRC");
	char path[4096], line[256];
	unsigned lines = 0;
	FILE *f;

	(void)state;
	snprintf(path, sizeof(path), "%s/tests/golden/order.txt", src ? src : "../..");
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		struct order_spec s = { 0 };
		uint64_t position, id;
		struct order o;
		int used;
		if (line[0] == '#')
			continue;
		assert_true(spec_read(line, &s, &used));
		assert_int_equal(sscanf(line + used, "%" SCNu64 " %" SCNu64, &position, &id), 2);
		o = order_of(s);
		assert_int_equal(order_at(&o, position), id);
		lines++;
	}
	fclose(f);
	assert_true(lines >= 100);
}

static void test_positions_take_little_time(void **state)
{
	(void)state;
	for (uint8_t mode = ORDER_EXACT; mode <= ORDER_BLOCKS; mode++) {
		struct order o = order_of((struct order_spec){ .mode = mode, .samples = 10000019,
			.block = 64, .window = 4, .lanes = 3840, .seed = 5 });
		uint64_t start = clock_mono_ns(), sum = 0;
		for (uint64_t p = 0; p < 300000; p++)
			sum += order_at(&o, p * 33);
		printf("order_at, %s: %d ns (%d)\n", order_mode_name(mode), (int)((clock_mono_ns() - start) / 300000),
			(int)(sum & 1));
	}
}

/* Lines "mode N n G L seed epoch from step count": prints the ids of positions from, from + step, ... */
static int dump(void)
{
	char line[256];

	while (fgets(line, sizeof(line), stdin)) {
		struct order_spec s = { 0 };
		uint64_t from, step, count;
		struct order o;
		char why[200];
		int used;
		if (!spec_read(line, &s, &used) ||
			sscanf(line + used, "%" SCNu64 " %" SCNu64 " %" SCNu64, &from, &step, &count) != 3)
			return 2;
		if (order_init(&o, &s, why, sizeof(why)) < 0) {
			fprintf(stderr, "%s\n", why);
			return 2;
		}
		for (uint64_t i = 0; i < count; i++)
			printf("%" PRIu64 "\n", order_at(&o, from + i * step));
	}
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_permutations_are_bijections_with_inverses),
		cmocka_unit_test(test_large_permutations_have_inverses),
		cmocka_unit_test(test_small_permutations_are_all_reached),
		cmocka_unit_test(test_large_permutations_look_random),
		cmocka_unit_test(test_exact_and_none_are_bijections),
		cmocka_unit_test(test_blocks_are_a_bijection_for_awkward_sizes),
		cmocka_unit_test(test_large_blocks_orders_have_inverses),
		cmocka_unit_test(test_seed_and_epoch_change_the_order_and_nothing_else_does),
		cmocka_unit_test(test_wrong_specs_are_refused_by_name),
		cmocka_unit_test(test_defaults_are_as_the_text_says),
		cmocka_unit_test(test_ranks_share_all_positions_once),
		cmocka_unit_test(test_step_k_is_the_same_for_every_number_of_ranks),
		cmocka_unit_test(test_extreme_ranks_do_not_overflow),
		cmocka_unit_test(test_wrong_ranks_are_refused_by_name),
		cmocka_unit_test(test_golden_values_hold),
		cmocka_unit_test(test_positions_take_little_time),
	};

	if (argc > 1 && strcmp(argv[1], "dump") == 0)
		return dump();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
