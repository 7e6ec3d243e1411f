/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: keys, components and bucket names are accepted and refused as the format says; splitting
 * and escaping lose nothing. */
#include "common/name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/error.h"
#include "common/rand.h"

#define LIT(s) slice_of(s, sizeof(s) - 1)

static void test_keys_that_are_text_are_taken(void **state)
{
	char longest[KEY_LEN_MAX];

	(void)state;
	memset(longest, 'k', sizeof(longest));
	assert_int_equal(key_check(LIT("a")), 0);
	assert_int_equal(key_check(LIT("a/")), 0);
	assert_int_equal(key_check(LIT("//")), 0);
	assert_int_equal(key_check(LIT("./../.")), 0);
	assert_int_equal(key_check(LIT("\n\x7f\x01")), 0);
	assert_int_equal(key_check(LIT("\xc3\xa9/\xe2\x82\xac/\xf0\x9f\x8c\xbe")), 0);
	assert_int_equal(key_check(slice_of(longest, sizeof(longest))), 0);
}

static void test_keys_refuse_empty_too_long_and_nul(void **state)
{
	char too_long[KEY_LEN_MAX + 1];

	(void)state;
	memset(too_long, 'k', sizeof(too_long));
	assert_int_equal(key_check(slice_of(NULL, 0)), -GRANARY_ENAME);
	assert_int_equal(key_check(LIT("")), -GRANARY_ENAME);
	assert_int_equal(key_check(slice_of(too_long, sizeof(too_long))), -GRANARY_ENAME);
	assert_int_equal(key_check(LIT("\0")), -GRANARY_ENAME);
	assert_int_equal(key_check(LIT("a\0b")), -GRANARY_ENAME);
	assert_int_equal(key_check(LIT("ab\0")), -GRANARY_ENAME);
}

/* Each at every offset of a word, so that the eight-bytes-at-a-time path meets it everywhere. */
static void test_utf8_refuses_what_rfc_3629_forbids(void **state)
{
	static const struct { const char *bytes; size_t len;
	} wrong[] = {
		{ "\x80", 1 },
		{ "\xbf", 1 }, /* a continuation alone */
		{ "\xc0\x80", 2 },
		{ "\xc1\xbf", 2 }, /* overlong, 2 bytes */
		{ "\xe0\x80\x80", 3 },
		{ "\xe0\x9f\xbf", 3 }, /* overlong, 3 bytes */
		{ "\xf0\x80\x80\x80", 4 },
		{ "\xf0\x8f\xbf\xbf", 4 }, /* overlong, 4 bytes */
		{ "\xed\xa0\x80", 3 },
		{ "\xed\xbf\xbf", 3 }, /* surrogates */
		{ "\xf4\x90\x80\x80", 4 },
		{ "\xf5\x80\x80\x80", 4 }, /* past U+10FFFF */
		{ "\xf8\x88\x80\x80\x80", 5 },
		{ "\xfe", 1 },
		{ "\xff", 1 },
		{ "\xc3", 1 },
		{ "\xe2\x82", 2 },
		{ "\xf0\x9f\x8c", 3 }, /* cut short */
		{ "\xc3\x28", 2 },
		{ "\xe2\x28\xa1", 3 },
		{ "\xe2\x82\x28", 3 },
		{ "\xf0\x9f\x28\xbe", 4 },
		{ "\xf0\x9f\x8c\x28", 4 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		for (size_t before = 0; before <= 17; before++)
			for (size_t after = 0; after <= 9; after++) {
				char key[64];
				memset(key, 'x', sizeof(key));
				memcpy(key + before, wrong[i].bytes, wrong[i].len);
				struct slice s = slice_of(key, before + wrong[i].len + after);
				assert_false(utf8_valid(s));
				assert_int_equal(key_check(s), -GRANARY_ENAME);
				assert_int_equal(component_check(s), -GRANARY_ENAME);
			}
}

static void test_utf8_takes_the_borders_of_each_length(void **state)
{
	(void)state;
	assert_true(utf8_valid(LIT("")));
	assert_true(utf8_valid(LIT("\x7f\xc2\x80\xdf\xbf")));
	assert_true(utf8_valid(LIT("\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf")));
	assert_true(utf8_valid(LIT("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf")));
}

static void test_components_refuse_a_slash_nul_and_excess_length(void **state)
{
	char name[KEY_LEN_MAX + 1];

	(void)state;
	memset(name, 'n', sizeof(name));
	assert_int_equal(component_check(LIT("")), 0);
	assert_int_equal(component_check(LIT("..")), 0);
	assert_int_equal(component_check(slice_of(name, KEY_LEN_MAX)), 0);
	assert_int_equal(component_check(slice_of(name, KEY_LEN_MAX + 1)), -GRANARY_ENAME);
	assert_int_equal(component_check(LIT("/")), -GRANARY_ENAME);
	assert_int_equal(component_check(LIT("a/b")), -GRANARY_ENAME);
	assert_int_equal(component_check(LIT("a\0")), -GRANARY_ENAME);
}

static void test_bucket_names_refuse_what_s3_refuses(void **state)
{
	static const char *const wrong[] = {
		"", "a", "ab", "-abc", "abc-", ".abc", "abc.", "a..b", "Abc", "aBc", "a_b", "a b",
		"a/b", "abc\n", "b\xc3\xa9", "127.0.0.1", "999.999.999.999", "1.2.3.4", "a*b",
		"a@b", "a:b", ".system",
		"a123456789012345678901234567890123456789012345678901234567890123", /* 64 */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(bucket_name_check(slice_str(wrong[i])), -GRANARY_ENAME);
	assert_int_equal(bucket_name_check(LIT("a\0b")), -GRANARY_ENAME);
}

static void test_bucket_names_take_what_s3_takes(void **state)
{
	static const char *const right[] = {
		"abc", "a-b", "a.b", "1.2.3", "1.2.3.4.5", "1.2.3.x", "000", "my-data.2024",
		"a12345678901234567890123456789012345678901234567890123456789012", /* 63 */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++)
		assert_int_equal(bucket_name_check(slice_str(right[i])), 0);
}

static void check_split(const char *key, const char *dir, const char *leaf)
{
	struct slice d, l;

	key_split(slice_str(key), &d, &l);
	assert_true(slice_eq(d, slice_str(dir)));
	assert_true(slice_eq(l, slice_str(leaf)));
}

static void test_keys_split_at_the_last_slash(void **state)
{
	(void)state;
	check_split("a/b/c", "a/b/", "c");
	check_split("a/", "a/", "");
	check_split("x", "", "x");
	check_split("/", "/", "");
	check_split("//x", "//", "x");
	check_split("", "", "");
}

static void check_walk(const char *path, const char *joined)
{
	struct slice rest = slice_str(path), name;
	char got[64] = "";
	size_t at = 0;

	while (path_next(&rest, &name)) {
		memcpy(got + at, name.p, name.len);
		at += name.len;
		got[at++] = '|';
	}
	got[at] = '\0';
	assert_string_equal(got, joined);
}

static void test_paths_walk_component_by_component_empty_ones_too(void **state)
{
	(void)state;
	check_walk("", "");
	check_walk("a/", "a|");
	check_walk("a/b/", "a|b|");
	check_walk("a//b/", "a||b|");
	check_walk("a//", "a||");
	check_walk("/", "|");
	check_walk("a/b", "a|b|");
}

static void check_escape(struct slice s, size_t cap, const char *want)
{
	char out[128];

	memset(out, '#', sizeof(out));
	assert_ptr_equal(name_escape(out, cap, s), out);
	assert_string_equal(out, want);
	assert_int_equal(out[cap], '#');
}

static void test_escaping_shows_controls_quotes_and_bad_utf8(void **state)
{
	(void)state;
	check_escape(LIT("plain-\xc3\xa9"), 100, "plain-\xc3\xa9");
	check_escape(LIT("a\nb\x7f\0c"), 100, "a\\x0ab\\x7f\\x00c");
	check_escape(LIT("\"'\\"), 100, "\\x22\\x27\\x5c");
	check_escape(LIT("\xff\xc3"), 100, "\\xff\\xc3");
	check_escape(LIT("\xc2\x9b" "31m"), 100, "\\xc2\\x9b31m"); /* a C1 control in UTF-8 */
	check_escape(slice_of(NULL, 0), 1, "");
}

static void test_escaping_cuts_with_dots_and_never_inside_a_character(void **state)
{
	(void)state;
	check_escape(LIT("abcdef"), 7, "abcdef");
	check_escape(LIT("abcdefg"), 7, "abc...");
	check_escape(LIT("\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"), 7, "\xc3\xa9...");
	check_escape(LIT("a\n\n\n"), 9, "a\\x0a...");
	check_escape(LIT("abc"), 3, "..");
	check_escape(LIT("abc"), 1, "");
}

static void test_escaped_random_bytes_are_valid_and_fit(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 7);
	for (int round = 0; round < 20000; round++) {
		uint8_t in[32];
		char out[64];
		size_t len = rng_below(&rng, sizeof(in) + 1),
		       cap = 1 + rng_below(&rng, sizeof(out));
		for (size_t i = 0; i < len; i++)
			in[i] = (uint8_t)rng_next(&rng);
		name_escape(out, cap, slice_of(in, len));
		assert_true(strlen(out) < cap);
		assert_true(utf8_valid(slice_str(out)));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys_that_are_text_are_taken),
		cmocka_unit_test(test_keys_refuse_empty_too_long_and_nul),
		cmocka_unit_test(test_utf8_refuses_what_rfc_3629_forbids),
		cmocka_unit_test(test_utf8_takes_the_borders_of_each_length),
		cmocka_unit_test(test_components_refuse_a_slash_nul_and_excess_length),
		cmocka_unit_test(test_bucket_names_refuse_what_s3_refuses),
		cmocka_unit_test(test_bucket_names_take_what_s3_takes),
		cmocka_unit_test(test_keys_split_at_the_last_slash),
		cmocka_unit_test(test_paths_walk_component_by_component_empty_ones_too),
		cmocka_unit_test(test_escaping_shows_controls_quotes_and_bad_utf8),
		cmocka_unit_test(test_escaping_cuts_with_dots_and_never_inside_a_character),
		cmocka_unit_test(test_escaped_random_bytes_are_valid_and_fit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
