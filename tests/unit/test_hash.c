/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: content hashes are XXH3-128 however the bytes arrive; keyed hashes depend on seed, a and
 * every byte; random numbers repeat for a seed and stay in range. */
#include "common/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/rand.h"

static bool same(struct hash128 a, struct hash128 b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

static void test_the_empty_content_has_the_published_hash(void **state)
{
	struct hash128 h = hash_content("", 0);

	(void)state;
	assert_true(h.hi == 0x99aa06d3014798d8 && h.lo == 0x6001c324468d497f);
}

static void test_content_in_pieces_hashes_as_the_whole(void **state)
{
	static uint8_t data[5000];
	struct rng rng;

	(void)state;
	rng_seed(&rng, 8);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)rng_next(&rng);
	for (int round = 0; round < 500; round++) {
		size_t len = rng_below(&rng, sizeof(data) + 1);
		struct hash_stream *h = hash_stream_new();
		assert_non_null(h);
		for (size_t at = 0, n; at < len; at += n) {
			n = 1 + rng_below(&rng, len - at);
			hash_stream_add(h, data + at, n);
			hash_stream_add(h, NULL, 0);
		}
		assert_true(same(hash_stream_get(h), hash_content(data, len)));
		assert_true(same(hash_stream_get(h), hash_content(data, len))); /* asked twice */
		hash_stream_free(&h);
		assert_null(h);
	}
}

static void test_content_of_other_length_or_bytes_hashes_differently(void **state)
{
	uint8_t zeros[300] = { 0 };

	(void)state;
	for (size_t len = 0; len < sizeof(zeros); len++)
		assert_false(same(hash_content(zeros, len), hash_content(zeros, len + 1)));
	struct hash128 before = hash_content(zeros, sizeof(zeros));
	for (size_t i = 0; i < sizeof(zeros) * 8; i++) {
		zeros[i / 8] ^= (uint8_t)(1u << (i % 8));
		assert_false(same(hash_content(zeros, sizeof(zeros)), before));
		zeros[i / 8] ^= (uint8_t)(1u << (i % 8));
	}
}

static void test_keyed_hashes_differ_by_seed_and_by_a(void **state)
{
	static const size_t lens[] = { 0, 1, 2, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1024 };
	uint8_t name[1024];

	(void)state;
	memset(name, 'n', sizeof(name));
	for (size_t l = 0; l < sizeof(lens) / sizeof(lens[0]); l++) {
		struct hash128 h = hash_keyed(1, 1, name, lens[l]);
		assert_true(same(h, hash_keyed(1, 1, name, lens[l])));
		assert_false(same(h, hash_keyed(2, 1, name, lens[l])));
		assert_false(same(h, hash_keyed(1, 2, name, lens[l])));
		assert_false(same(h, hash_keyed(1, 0, name, lens[l])));
		assert_false(same(h, hash_keyed(0, 1, name, lens[l])));
	}
	assert_false(same(hash_keyed(5, 9, name, 3), hash_keyed(9, 5, name, 3)));
}

static int by_lo(const void *a, const void *b)
{
	uint64_t x = ((const struct hash128 *)a)->lo, y = ((const struct hash128 *)b)->lo;

	return x < y ? -1 : x > y;
}

/* Directory ids and short names as a real table meets them: neighbours. */
static void test_keyed_hashes_of_neighbours_never_meet_in_64_bits(void **state)
{
	enum { DIRS_COUNT = 400, NAMES_COUNT = 500, COUNT = DIRS_COUNT * NAMES_COUNT };
	struct hash128 *h = calloc(COUNT, sizeof(*h));

	(void)state;
	assert_non_null(h);
	for (uint64_t dir = 0; dir < DIRS_COUNT; dir++)
		for (unsigned name = 0; name < NAMES_COUNT; name++) {
			char text[3] = { (char)('a' + name % 26), (char)('a' + name / 26 % 26), 0 };
			h[dir * NAMES_COUNT + name] = hash_keyed(42, dir, text, 2);
		}
	qsort(h, COUNT, sizeof(*h), by_lo);
	for (size_t i = 1; i < COUNT; i++)
		assert_true(h[i].lo != h[i - 1].lo);
	free(h);
}

static void test_keyed_hashes_fill_buckets_evenly(void **state)
{
	enum { BUCKETS_COUNT = 256, PER_BUCKET = 400 };
	unsigned low[BUCKETS_COUNT] = { 0 }, high[BUCKETS_COUNT] = { 0 };

	(void)state;
	for (unsigned i = 0; i < BUCKETS_COUNT * PER_BUCKET; i++) {
		struct hash128 h = hash_keyed(3, 7, &i, sizeof(i));
		low[h.lo % BUCKETS_COUNT]++;
		high[h.hi >> 56]++;
	}
	for (int i = 0; i < BUCKETS_COUNT; i++) { /* seven standard deviations */
		assert_in_range(low[i], PER_BUCKET - 140, PER_BUCKET + 140);
		assert_in_range(high[i], PER_BUCKET - 140, PER_BUCKET + 140);
	}
}

static void test_random_numbers_repeat_for_a_seed_and_differ_between_seeds(void **state)
{
	struct rng a, b, c;

	(void)state;
	rng_seed(&a, 0);
	rng_seed(&b, 0);
	rng_seed(&c, 1);
	unsigned equal = 0;
	for (int i = 0; i < 1000; i++) {
		uint64_t v = rng_next(&a);
		assert_true(v == rng_next(&b));
		equal += v == rng_next(&c);
	}
	assert_int_equal(equal, 0);
}

static void test_random_numbers_stay_below_their_limit(void **state)
{
	static const uint64_t limits[] = { 1, 2, 3, 10, 1000, UINT64_C(1) << 33, UINT64_MAX };
	unsigned seen[3] = { 0 };
	struct rng rng;

	(void)state;
	rng_seed(&rng, 9);
	for (size_t l = 0; l < sizeof(limits) / sizeof(limits[0]); l++)
		for (int i = 0; i < 10000; i++)
			assert_true(rng_below(&rng, limits[l]) < limits[l]);
	for (int i = 0; i < 30000; i++)
		seen[rng_below(&rng, 3)]++;
	for (int i = 0; i < 3; i++)
		assert_in_range(seen[i], 9400, 10600);
}

static void test_kernel_randomness_fills_the_whole_buffer_and_no_more(void **state)
{
	uint8_t a[64] = { 0 }, b[64] = { 0 };
	unsigned zeros = 0;

	(void)state;
	rand_bytes(a, 60);
	rand_bytes(b, 60);
	rand_bytes(b, 0);
	assert_memory_not_equal(a, b, 60);
	for (int i = 0; i < 60; i++)
		zeros += a[i] == 0;
	assert_true(zeros < 10);
	assert_memory_equal(a + 60, "\0\0\0\0", 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_empty_content_has_the_published_hash),
		cmocka_unit_test(test_content_in_pieces_hashes_as_the_whole),
		cmocka_unit_test(test_content_of_other_length_or_bytes_hashes_differently),
		cmocka_unit_test(test_keyed_hashes_differ_by_seed_and_by_a),
		cmocka_unit_test(test_keyed_hashes_of_neighbours_never_meet_in_64_bits),
		cmocka_unit_test(test_keyed_hashes_fill_buckets_evenly),
		cmocka_unit_test(test_random_numbers_repeat_for_a_seed_and_differ_between_seeds),
		cmocka_unit_test(test_random_numbers_stay_below_their_limit),
		cmocka_unit_test(test_kernel_randomness_fills_the_whole_buffer_and_no_more),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
