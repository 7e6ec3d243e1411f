/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every engine gives CRC-32C, for every length, alignment and way to cut the data.
 * Method: published vectors, then random data against one bit-by-bit computation; engines the
 * machine lacks are named and left out. */
#include "common/crc32c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/crc32c_engines.h"
#include "common/rand.h"

enum { DATA_SIZE = 300 * 1024 };

static uint8_t *data;

static uint32_t crc_by_bits(const uint8_t *p, size_t len)
{
	uint32_t v = UINT32_MAX;

	for (; len > 0; p++, len--) {
		v ^= *p;
		for (int i = 0; i < 8; i++)
			v = (v >> 1) ^ (v & 1 ? 0x82f63b78 : 0);
	}
	return ~v;
}

static uint32_t crc_with(const struct crc_impl *impl, const uint8_t *p, size_t len)
{
	return ~impl->run(UINT32_MAX, p, len);
}

static int data_new(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 1);
	data = malloc(DATA_SIZE);
	if (!data)
		return -1;
	for (size_t i = 0; i < DATA_SIZE; i++)
		data[i] = (uint8_t)rng_next(&rng);
	crc_init();
	return 0;
}

static int data_free(void **state)
{
	(void)state;
	free(data);
	return 0;
}

static void test_known_vectors_of_rfc_3720(void **state)
{
	uint8_t zeros[32] = { 0 }, ones[32], up[32], down[32];

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	for (int i = 0; i < 32; i++) {
		up[i] = (uint8_t)i;
		down[i] = (uint8_t)(31 - i);
	}
	assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aa);
	assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
	assert_int_equal(crc32c(0, up, 32), 0x46dd794e);
	assert_int_equal(crc32c(0, down, 32), 0x113fdb5c);
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(0, "", 0), 0);
}

static void test_every_engine_agrees_for_lengths_0_to_5000(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 2);
	for (size_t len = 0; len <= 5000; len++) {
		const uint8_t *p = data + rng_below(&rng, 4096);
		uint32_t want = crc_by_bits(p, len);
		for (size_t i = 0; i < crc_impls_count; i++)
			if (crc_impls[i].usable())
				assert_int_equal(crc_with(&crc_impls[i], p, len), want);
	}
}

static void test_every_engine_agrees_for_every_alignment(void **state)
{
	static const size_t lens[] = { 1, 63, 64, 255, 256, 257, 543, 544, 545, 4079, 4080, 4096,
		65536, 32640 };

	(void)state;
	for (size_t align = 0; align < 64; align++)
		for (size_t l = 0; l < sizeof(lens) / sizeof(lens[0]); l++) {
			uint32_t want =
				crc_with(&crc_impls[crc_impls_count - 1], data + align, lens[l]);
			for (size_t i = 0; i < crc_impls_count; i++)
				if (crc_impls[i].usable())
					assert_int_equal(
						crc_with(&crc_impls[i], data + align, lens[l]),
						want);
		}
}

static void test_the_table_engine_agrees_with_bits_on_long_data(void **state)
{
	(void)state;
	assert_int_equal(crc_with(&crc_impls[crc_impls_count - 1], data, DATA_SIZE),
		crc_by_bits(data, DATA_SIZE));
}

static void test_a_split_anywhere_gives_the_crc_of_the_whole(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 3);
	for (int round = 0; round < 2000; round++) {
		size_t len = rng_below(&rng, 20000), cut = rng_below(&rng, len + 1);
		const uint8_t *p = data + rng_below(&rng, 64);
		uint32_t whole = crc32c(0, p, len);
		assert_int_equal(crc32c(crc32c(0, p, cut), p + cut, len - cut), whole);
		for (size_t i = 0; i < crc_impls_count; i++) {
			if (!crc_impls[i].usable())
				continue;
			uint32_t mid = crc_impls[i].run(UINT32_MAX, p, cut);
			assert_int_equal(~crc_impls[i].run(mid, p + cut, len - cut), whole);
		}
	}
}

static void test_any_flipped_bit_changes_the_crc(void **state)
{
	uint8_t copy[5000];
	struct rng rng;

	(void)state;
	rng_seed(&rng, 4);
	memcpy(copy, data, sizeof(copy));
	uint32_t good = crc32c(0, copy, sizeof(copy));
	for (int round = 0; round < 5000; round++) {
		size_t bit = rng_below(&rng, sizeof(copy) * 8);
		uint8_t mask = (uint8_t)(1u << (bit % 8));
		copy[bit / 8] ^= mask;
		assert_int_not_equal(crc32c(0, copy, sizeof(copy)), good);
		copy[bit / 8] ^= mask;
	}
}

static void test_zeros_before_and_after_data_are_not_free(void **state)
{
	uint8_t buf[96] = { 0 };

	(void)state;
	memcpy(buf + 32, data, 32);
	assert_int_not_equal(crc32c(0, buf + 32, 32), crc32c(0, buf + 32, 64));
	assert_int_not_equal(crc32c(0, buf + 32, 32), crc32c(0, buf, 64));
	assert_int_not_equal(crc32c(0, buf, 8), crc32c(0, buf, 9));
}

static void test_blocks_are_64_kib_each_and_the_last_is_short(void **state)
{
	static const size_t lens[] = { 1, 4096, 65535, 65536, 65537, 114688, 131072, 200000 };

	(void)state;
	for (size_t l = 0; l < sizeof(lens) / sizeof(lens[0]); l++) {
		uint32_t crcs[8];
		uint32_t count = crc_block_count(lens[l]);
		memset(crcs, 0xaa, sizeof(crcs));
		crc32c_blocks(crcs, data, lens[l]);
		for (uint32_t i = 0; i < count; i++) {
			size_t at = (size_t)i * CRC_BLOCK_SIZE, left = lens[l] - at;
			assert_int_equal(
				crcs[i], crc32c(0, data + at,
						 left < CRC_BLOCK_SIZE ? left : CRC_BLOCK_SIZE));
		}
		assert_int_equal(crcs[count], 0xaaaaaaaa); /* nothing written past the last */
	}
}

#ifdef __x86_64__
#include <cpuid.h>

enum { STATE_OF_YMM = 1 << 2, STATE_OF_ZMM = 1 << 6 }; /* upper halves of the registers 0 to 15 */

/* Of the vector registers, what is not in its initial state (XGETBV with ECX = 1); false: the processor cannot tell. */
static bool registers_in_use(uint32_t *in_use)
{
	uint32_t a, b, c, d;

	if (!__builtin_cpu_supports("avx") || !__get_cpuid_count(13, 1, &a, &b, &c, &d) || !(a & 1 << 2))
		return false;
	__asm__ volatile("xgetbv" : "=a"(*in_use), "=d"(d) : "c"(1));
	return true;
}

static void test_no_engine_leaves_upper_halves_of_registers_in_use(void **state)
{
	static const size_t lens[] = { 0, 24, 255, 256, 257, 1000, 4096, 65536 };
	uint32_t in_use;

	(void)state;
	if (!registers_in_use(&in_use))
		skip();
	for (size_t l = 0; l < sizeof(lens) / sizeof(lens[0]); l++)
		for (size_t i = 0; i < crc_impls_count; i++) {
			if (!crc_impls[i].usable())
				continue;
			__asm__ volatile("vzeroupper" ::: "xmm0");
			uint32_t crc = crc_with(&crc_impls[i], data, lens[l]);
			assert_true(registers_in_use(&in_use));
			assert_int_equal(in_use & (STATE_OF_YMM | STATE_OF_ZMM), 0);
			assert_int_equal(crc, crc_with(&crc_impls[crc_impls_count - 1], data, lens[l]));
		}
}
#endif

static void test_no_bytes_are_no_blocks(void **state)
{
	uint32_t untouched = 7;

	(void)state;
	assert_int_equal(crc_block_count(0), 0);
	crc32c_blocks(&untouched, data, 0);
	assert_int_equal(untouched, 7);
}

/* Prints, asserts nothing: a figure of this machine at this moment. */
static void test_speed_is_printed(void **state)
{
	static const size_t lens[] = { 4096, 65536, 112 * 1024 };

	(void)state;
	printf("chosen engine: %s\n", crc32c_engine());
	for (size_t i = 0; i < crc_impls_count; i++) {
		if (!crc_impls[i].usable()) {
			printf("  %-13s not on this processor\n", crc_impls[i].name);
			continue;
		}
		printf("  %-13s", crc_impls[i].name);
		for (size_t l = 0; l < sizeof(lens) / sizeof(lens[0]); l++) {
			uint64_t rounds = (20u << 20) / lens[l] + 1, best = UINT64_MAX;
			uint32_t sum = 0;
			for (int try = 0; try < 5; try++) {
				uint64_t start = clock_mono_ns();
				for (uint64_t r = 0; r < rounds; r++)
					sum ^= crc_with(&crc_impls[i], data + 64, lens[l]);
				uint64_t took = clock_mono_ns() - start;
				best = took < best ? took : best;
			}
			printf("  %6zu B %6.1f GB/s%s", lens[l],
				(double)(rounds * lens[l]) / (double)best, sum == 1 ? " " : "");
		}
		printf("\n");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_vectors_of_rfc_3720),
		cmocka_unit_test(test_every_engine_agrees_for_lengths_0_to_5000),
		cmocka_unit_test(test_every_engine_agrees_for_every_alignment),
		cmocka_unit_test(test_the_table_engine_agrees_with_bits_on_long_data),
		cmocka_unit_test(test_a_split_anywhere_gives_the_crc_of_the_whole),
		cmocka_unit_test(test_any_flipped_bit_changes_the_crc),
		cmocka_unit_test(test_zeros_before_and_after_data_are_not_free),
		cmocka_unit_test(test_blocks_are_64_kib_each_and_the_last_is_short),
#ifdef __x86_64__
		cmocka_unit_test(test_no_engine_leaves_upper_halves_of_registers_in_use),
#endif
		cmocka_unit_test(test_no_bytes_are_no_blocks),
		cmocka_unit_test(test_speed_is_printed),
	};
	return cmocka_run_group_tests(tests, data_new, data_free);
}
