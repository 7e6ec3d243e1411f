/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: rows come back sorted and bytes as they were, whether they fit in memory or not, and no
 * file stays. Method: a temporary directory, a few rows of memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/rand.h"
#include "io/fs.h"
#include "jobs/aside.h"
#include "jobs/spool.h"

static char dir[64];
static struct fs *fs;

static int set_up(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/granary-spool-XXXXXX");
	assert_non_null(mkdtemp(dir));
	return fs_new_kernel(dir, &fs);
}

static int count_name(void *arg, const char *name)
{
	(void)name;
	++*(int *)arg;
	return 0;
}

static int tear_down(void **state)
{
	int names = 0;

	(void)state;
	assert_int_equal(fs_list(fs, "", count_name, &names), 0);
	assert_int_equal(names, 0);
	fs_free(&fs);
	return rmdir(dir);
}

static void sort_rows_with(uint32_t count, size_t memory, uint64_t spread, struct aside *aside)
{
	struct spool_options o = { .fs = fs, .memory = memory, .aside = aside };
	struct sorter *s = sorter_new(&o);
	struct sort_row row, last = { .key = { 0, 0 } };
	uint64_t sum = 0, got = 0;
	struct rng rng;

	rng_seed(&rng, count + spread);
	for (uint32_t i = 0; i < count; i++) {
		row = (struct sort_row){ .key = { rng_below(&rng, spread),
						 rng_below(&rng, spread) },
			.value = { i * 3, i } };
		sum += row.key[0] * 31 + row.key[1] * 7 + row.value[0];
		assert_int_equal(sorter_add(s, &row), 0);
	}
	assert_int_equal(sorter_finish(s), 0);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(sorter_next(s, &row), 1);
		assert_true(row.key[0] > last.key[0] ||
			    (row.key[0] == last.key[0] && row.key[1] >= last.key[1]));
		if (i > 0 && row.key[0] == last.key[0] && row.key[1] == last.key[1])
			assert_true(row.value[1] > last.value[1]);
		got += row.key[0] * 31 + row.key[1] * 7 + row.value[0];
		last = row;
	}
	assert_int_equal(sorter_next(s, &row), 0);
	assert_int_equal(sum, got);
	sorter_free(&s);
}

static void sort_rows(uint32_t count, size_t memory, uint64_t spread)
{
	struct aside *aside = aside_new(true);

	sort_rows_with(count, memory, spread, NULL);
	sort_rows_with(count, memory, spread, aside);
	aside_free(&aside);
}

/* As they arrive: ascending, but for neighbours that overtook each other. */
static void test_rows_nearly_in_order_come_back_sorted(void **state)
{
	struct spool_options o = { .fs = fs, .memory = 1 << 18 };
	struct sorter *s = sorter_new(&o);
	struct sort_row row;
	const uint32_t count = 1 << 16;

	(void)state;
	for (uint32_t i = 0; i < count; i++) {
		row = (struct sort_row){ .key = { 7, i ^ 0x35 }, .value = { 0, i } };
		assert_int_equal(sorter_add(s, &row), 0);
	}
	assert_int_equal(sorter_finish(s), 0);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(sorter_next(s, &row), 1);
		assert_int_equal(row.key[1], i);
		assert_int_equal(row.value[1], i ^ 0x35);
	}
	assert_int_equal(sorter_next(s, &row), 0);
	sorter_free(&s);
}

static int no_room(void *arg, uint64_t bytes)
{
	(void)arg;
	(void)bytes;
	return -GRANARY_ENOSPACE;
}

/* What fails aside is told by the call that comes next, or at the end. */
static void test_a_full_disk_aside_is_told(void **state)
{
	struct aside *aside = aside_new(true);
	struct spool_options o = { .fs = fs, .memory = 4096, .room = no_room, .aside = aside };
	struct sorter *s = sorter_new(&o);
	struct sort_row row = { .key = { 0, 0 } };
	int err = 0;

	(void)state;
	for (uint32_t i = 0; i < 100000 && err == 0; i++) {
		row.key[1] = i;
		err = sorter_add(s, &row);
	}
	assert_int_equal(err, -GRANARY_ENOSPACE);
	sorter_free(&s);
	aside_free(&aside);
}

static void test_rows_come_back_sorted(void **state)
{
	(void)state;
	sort_rows(0, 1 << 20, 10);
	sort_rows(1, 1 << 20, 10);
	sort_rows(1000, 1 << 20, 10);
	sort_rows(100000, 1 << 16, 1000000);
	sort_rows(100000, 1 << 12, 3);
	sort_rows(5000, 0, 100);
}

static void test_bytes_come_back_as_they_were(void **state)
{
	struct spool_options o = { .fs = fs, .memory = 5000 };
	struct spool *s = spool_new(&o);
	uint8_t *all = malloc(1 << 20), piece[3000];
	struct rng rng;
	size_t at = 0;

	(void)state;
	rng_seed(&rng, 9);
	while (at < (1 << 20) - 3000) {
		size_t n = rng_below(&rng, 3000);

		for (size_t i = 0; i < n; i++) all[at + i] = (uint8_t)rng_next(&rng);
		assert_int_equal(spool_append(s, all + at, n), 0);
		at += n;
	}
	assert_int_equal(spool_size(s), at);
	for (int i = 0; i < 1000; i++) {
		size_t n = rng_below(&rng, 3000), from = rng_below(&rng, at - n + 1);

		assert_int_equal(spool_read(s, from, piece, n), 0);
		assert_memory_equal(piece, all + from, n);
	}
	assert_int_equal(spool_read(s, at, piece, 1), -GRANARY_EIO);
	spool_free(&s);
	free(all);
}

static void test_a_full_disk_is_told(void **state)
{
	struct spool_options o = { .fs = fs, .memory = 4096, .room = no_room };
	struct spool *s = spool_new(&o);
	uint8_t bytes[4096] = { 0 };

	(void)state;
	assert_int_equal(spool_append(s, bytes, 4096), 0);
	assert_int_equal(spool_append(s, bytes, 1), -GRANARY_ENOSPACE);
	spool_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_rows_come_back_sorted, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			test_rows_nearly_in_order_come_back_sorted, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_full_disk_aside_is_told, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			test_bytes_come_back_as_they_were, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_full_disk_is_told, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
