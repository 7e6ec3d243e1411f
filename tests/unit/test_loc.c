/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: loc.h's promises: what was filled is found, what was touched is not, a fill that raced with a write is
 * refused, the budget is kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/name.h"
#include "meta/loc.h"

static struct slice S(const char *s) { return slice_str(s); }

static int set_up(void **state)
{
	*state = loc_new(4 << 20);
	return *state == NULL;
}

static int tear_down(void **state)
{
	struct loc *loc = *state;
	loc_free(&loc);
	assert_null(loc);
	return 0;
}

static void fill(struct loc *loc, uint64_t dir, struct slice name, uint64_t id)
{
	struct obj_loc o = { .id = id, .version = id * 10, .dir_id = dir, .size = id + 1 };
	loc_fill(loc, loc_stamp(loc, dir, name), dir, name, &o);
}

static void test_finds_what_was_filled_by_name_and_by_id(void **state)
{
	struct loc *loc = *state;
	struct obj_loc o;
	fill(loc, 7, S("a"), 100);
	struct loc_probe probe;
	loc_probe_name(loc, 7, S("a"), &probe);
	loc_probe_next(loc, &probe);
	assert_true(loc_probe_end(loc, &probe, &o));
	loc_probe_id(loc, 100, &probe);
	loc_probe_next(loc, &probe);
	assert_true(loc_probe_end(loc, &probe, &o));
	loc_probe_name(loc, 7, S("b"), &probe);
	loc_probe_next(loc, &probe);
	assert_false(loc_probe_end(loc, &probe, &o));
	assert_true(loc_find_name(loc, 7, S("a"), &o));
	assert_int_equal(o.version, 1000);
	assert_true(loc_find_id(loc, 100, &o));
	assert_int_equal(o.size, 101);
	assert_false(loc_find_name(loc, 8, S("a"), &o));
	assert_false(loc_find_name(loc, 7, S("b"), &o));
	assert_false(loc_find_name(loc, 7, S(""), &o));
	assert_false(loc_find_id(loc, 101, &o));
	assert_false(loc_find_id(loc, 0, &o));
}

static void test_busy_drops_name_and_id_and_ready_does_not_bring_them_back(void **state)
{
	struct loc *loc = *state;
	struct obj_loc o;
	fill(loc, 7, S("a"), 100);
	loc_busy(loc, 7, S("a"), 100);
	assert_false(loc_find_name(loc, 7, S("a"), &o));
	assert_false(loc_find_id(loc, 100, &o));
	loc_ready(loc, 7, S("a"), 100);
	assert_false(loc_find_name(loc, 7, S("a"), &o));
	fill(loc, 7, S("a"), 101);
	assert_true(loc_find_name(loc, 7, S("a"), &o));
	assert_int_equal(o.id, 101);
}

static void test_touch_of_another_place_of_an_object_drops_its_id(void **state)
{
	struct loc *loc = *state;
	struct obj_loc o;
	fill(loc, 7, S("a"), 100);
	loc_busy(loc, 8, S("other"), 100);
	loc_ready(loc, 8, S("other"), 100);
	assert_false(loc_find_id(loc, 100, &o));
	assert_false(loc_find_name(loc, 7, S("a"), &o)); /* a name without its id entry is no answer */
}

static void test_fill_is_refused_when_a_write_began_or_ended_since_the_stamp(void **state)
{
	struct loc *loc = *state;
	struct obj_loc o = { .id = 5 }, out;
	uint64_t stamp = loc_stamp(loc, 7, S("a"));
	loc_busy(loc, 7, S("a"), 0);
	loc_fill(loc, stamp, 7, S("a"), &o);
	assert_false(loc_find_name(loc, 7, S("a"), &out));
	assert_false(loc_find_id(loc, 5, &out));
	stamp = loc_stamp(loc, 7, S("a")); /* taken while busy */
	loc_fill(loc, stamp, 7, S("a"), &o);
	assert_false(loc_find_name(loc, 7, S("a"), &out));
	loc_ready(loc, 7, S("a"), 0);
	loc_fill(loc, stamp, 7, S("a"), &o);
	assert_false(loc_find_name(loc, 7, S("a"), &out));
	loc_fill(loc, loc_stamp(loc, 7, S("a")), 7, S("a"), &o);
	assert_true(loc_find_name(loc, 7, S("a"), &out));
}

static void test_two_writers_of_one_place_both_have_to_end(void **state)
{
	struct loc *loc = *state;
	struct obj_loc out;
	loc_busy(loc, 7, S("a"), 0);
	loc_busy(loc, 7, S("a"), 0);
	loc_ready(loc, 7, S("a"), 0);
	fill(loc, 7, S("a"), 9);
	assert_false(loc_find_name(loc, 7, S("a"), &out));
	loc_ready(loc, 7, S("a"), 0);
	fill(loc, 7, S("a"), 9);
	assert_true(loc_find_name(loc, 7, S("a"), &out));
}

static void test_evicts_within_the_budget_and_keeps_what_is_hit(void **state)
{
	struct loc *loc = *state;
	struct loc_stats stats;
	struct obj_loc o;
	char name[32];
	uint64_t hot_found = 0;
	for (uint64_t i = 1; i <= 200000; i++) {
		snprintf(name, sizeof(name), "n%llu", (unsigned long long)i);
		fill(loc, 1, S(name), i);
		if (i > 1000 && i % 16 == 0) { /* keep asking for the first hundred */
			snprintf(name, sizeof(name), "n%llu", (unsigned long long)(i / 16 % 100 + 1));
			(void)loc_find_name(loc, 1, S(name), &o);
		}
	}
	for (uint64_t i = 1; i <= 100; i++)
		hot_found += loc_find_id(loc, i, &o);
	loc_get_stats(loc, &stats);
	assert_true(stats.entries > 10000);
	assert_true(stats.bytes <= 4 << 20);
	assert_true(hot_found > 60);
}

static struct loc_dir dir_of(uint64_t bucket, uint64_t id, uint64_t parent)
{
	return (struct loc_dir){ .id = id, .bucket = bucket, .parent = parent, .group = bucket };
}

static void test_paths_are_found_both_ways_until_a_rename_begins(void **state)
{
	struct loc *loc = *state;
	char path[KEY_LEN_MAX + 1];
	uint64_t dir, bucket;
	size_t len;
	struct loc_dir d = dir_of(3, 44, 40), out;
	d.group = 40;
	loc_path_fill(loc, loc_path_stamp(loc), S("a/b/"), &d);
	assert_true(loc_path_find(loc, 3, S("a/b/"), &dir));
	assert_int_equal(dir, 44);
	assert_true(loc_path_find_dir(loc, 3, S("a/b/"), &out));
	assert_true(out.parent == 40 && out.group == 40 && out.bucket == 3);
	assert_true(loc_dir_find(loc, 44, &bucket, path, sizeof(path), &len));
	assert_true(bucket == 3 && len == 4);
	assert_string_equal(path, "a/b/");
	assert_false(loc_path_find(loc, 4, S("a/b/"), &dir));
	assert_false(loc_path_find(loc, 3, S("a/"), &dir));
	loc_path_busy(loc);
	assert_false(loc_path_find(loc, 3, S("a/b/"), &dir));
	assert_false(loc_dir_find(loc, 44, &bucket, path, sizeof(path), &len));
	loc_path_ready(loc);
	assert_false(loc_path_find(loc, 3, S("a/b/"), &dir));
}

static void test_path_fill_is_refused_around_a_rename(void **state)
{
	struct loc *loc = *state;
	struct loc_dir d = dir_of(3, 44, 40);
	uint64_t dir, before = loc_path_stamp(loc);
	loc_path_busy(loc);
	uint64_t within = loc_path_stamp(loc);
	loc_path_fill(loc, before, S("a/"), &d);
	loc_path_fill(loc, within, S("a/"), &d);
	assert_false(loc_path_find(loc, 3, S("a/"), &dir));
	loc_path_ready(loc);
	loc_path_fill(loc, within, S("a/"), &d);
	assert_false(loc_path_find(loc, 3, S("a/"), &dir));
	loc_path_fill(loc, loc_path_stamp(loc), S("a/"), &d);
	assert_true(loc_path_find(loc, 3, S("a/"), &dir));
}

static void test_long_and_many_paths_stay_in_the_ring(void **state)
{
	struct loc *loc = *state;
	char path[KEY_LEN_MAX + 1], got[KEY_LEN_MAX + 1];
	uint64_t bucket, found = 0;
	size_t len;
	memset(path, 'x', sizeof(path));
	for (uint64_t i = 1; i <= 20000; i++) {
		size_t n = (size_t)(i * 37 % KEY_LEN_MAX) + 1;
		memcpy(path, &i, sizeof(i) < n ? sizeof(i) : n);
		struct loc_dir d = dir_of(3, i, 1);
		loc_path_fill(loc, loc_path_stamp(loc), slice_of(path, n), &d);
		assert_true(loc_dir_find(loc, i, &bucket, got, sizeof(got), &len));
		assert_int_equal(len, n);
		assert_memory_equal(got, path, n);
	}
	for (uint64_t i = 1; i <= 20000; i++)
		found += loc_dir_find(loc, i, &bucket, got, sizeof(got), &len);
	assert_true(found >= 20 && found < 20000);
}

static void test_find_takes_well_under_a_microsecond(void **state)
{
	struct loc *loc = loc_new(64 << 20);
	char name[32];
	struct obj_loc o;
	uint64_t n = 200000, found = 0;
	(void)state;
	for (uint64_t i = 1; i <= n; i++) {
		int len = snprintf(name, sizeof(name), "%08llu.jpg", (unsigned long long)i);
		fill(loc, 1, slice_of(name, (size_t)len), i);
	}
	uint64_t t0 = clock_thread_cpu_ns();
	for (uint64_t base = 0; base < n; base += 64) {
		struct loc_probe probes[64];
		char names[64][16];
		for (uint64_t j = 0; j < 64; j++) {
			uint64_t i = (base + j) * 2654435761u % n + 1;
			for (int k = 7; k >= 0; k--, i /= 10)
				names[j][k] = (char)('0' + i % 10);
			memcpy(names[j] + 8, ".jpg", 4);
			loc_probe_name(loc, 1, slice_of(names[j], 12), &probes[j]);
		}
		for (uint64_t j = 0; j < 64; j++)
			loc_probe_next(loc, &probes[j]);
		for (uint64_t j = 0; j < 64; j++)
			found += loc_probe_end(loc, &probes[j], &o);
	}
	uint64_t ns_each = (clock_thread_cpu_ns() - t0) / n;
	print_message("%llu of %llu found, %llu ns each\n", (unsigned long long)found, (unsigned long long)n,
		      (unsigned long long)ns_each);
	assert_true(found > n * 95 / 100);
	loc_free(&loc);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_finds_what_was_filled_by_name_and_by_id),
		T(test_busy_drops_name_and_id_and_ready_does_not_bring_them_back),
		T(test_touch_of_another_place_of_an_object_drops_its_id),
		T(test_fill_is_refused_when_a_write_began_or_ended_since_the_stamp),
		T(test_two_writers_of_one_place_both_have_to_end),
		T(test_evicts_within_the_budget_and_keeps_what_is_hit),
		T(test_paths_are_found_both_ways_until_a_rename_begins),
		T(test_path_fill_is_refused_around_a_rename),
		T(test_long_and_many_paths_stay_in_the_ring),
		T(test_find_takes_well_under_a_microsecond),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
