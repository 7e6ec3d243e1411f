/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: sizes, durations, shares and times of day are taken whole or not at all; mistyped words find their
 * neighbour. */
#include "common/quantity.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "common/nearest.h"

static void test_what_is_taken(void **state)
{
	uint64_t n;
	uint32_t minutes;

	(void)state;
	assert_true(quantity_size("3MiB", &n) && n == UINT64_C(3) << 20);
	assert_true(quantity_size("18446744073709551615", &n) && n == UINT64_MAX);
	assert_true(quantity_duration("14d", &n) && n == UINT64_C(14) * 86400 * 1000000000);
	assert_true(quantity_duration("500ms", &n) && n == 500000000);
	assert_true(quantity_percent("85%", &n) && n == 85);
	assert_true(quantity_count("0", &n) && n == 0);
	assert_true(quantity_price("0.023", &n) && n == 23000);
	assert_true(quantity_price("12", &n) && n == 12000000);
	assert_true(quantity_clock("23:59", &minutes) && minutes == 23 * 60 + 59);
}

static void test_what_is_not(void **state)
{
	static const char *const bad[] = { "", "MiB", "-1MiB", "1 MiB", "1mib", "1.5GiB", "18446744073709551616",
		"1MiBx", "16777216TiB", " 1" };
	static const char *const prices[] = { "", ".5", "5.", "1.2.3", "0.0000001", "-1", "1e3", "99999999999999" };
	static const char *const clocks[] = { "", "1:00", "24:00", "12:60", "12:5", "12-30", "12:300", "ab:cd" };
	uint64_t n;
	uint32_t minutes;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) assert_false(quantity_size(bad[i], &n));
	for (size_t i = 0; i < sizeof(clocks) / sizeof(clocks[0]); i++)
		assert_false(quantity_clock(clocks[i], &minutes));
	for (size_t i = 0; i < sizeof(prices) / sizeof(prices[0]); i++) assert_false(quantity_price(prices[i], &n));
	assert_false(quantity_duration("5", &n));
	assert_false(quantity_duration("99999999999d", &n));
	assert_false(quantity_percent("85", &n));
}

static void test_neighbours(void **state)
{
	static const char *const words[] = { "prefix", "bucket", "idle" };

	(void)state;
	assert_string_equal("prefix", nearest_word("prefxi", words, 3));
	assert_string_equal("bucket", nearest_word("buckets", words, 3));
	assert_null(nearest_word("watermark", words, 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_taken),
		cmocka_unit_test(test_what_is_not),
		cmocka_unit_test(test_neighbours),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
