/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: globs mean what docs/ORDER.md 8.3 says, byte by byte, and take steps in proportion to pattern times key. */
#include "common/glob.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_what_matches_and_what_does_not(void **state)
{
	static const struct { const char *pattern, *key; bool matches; } cases[] = {
		{ "", "", true }, { "", "a", false }, { "a", "", false }, { "a", "a", true }, { "a", "ab", false },
		{ "*", "", true }, { "*", "a/b/c", true }, { "train/*", "train/a/b.png", true },
		{ "train/*", "train/", true }, { "train/*", "train", false }, { "*.jpg", "a/b.jpg", true },
		{ "*.jpg", "a/b.jpg2", false }, { "a*b*c", "aXbXbXc", true }, { "a*b*c", "aXbXbX", false },
		{ "?", "a", true }, { "?", "/", true }, { "?", "", false }, { "??", "\xc3\xa9", true },
		{ "?", "\xc3\xa9", false }, { "[abc]", "b", true }, { "[abc]", "d", false }, { "[a-c]x", "bx", true },
		{ "[!a-c]", "d", true }, { "[^a-c]", "b", false }, { "[]]", "]", true }, { "[!]]", "]", false },
		{ "[a-]", "-", true }, { "[]-a]", "^", true }, { "[", "[", true }, { "[abc", "[abc", true },
		{ "[abc", "a", false }, { "\\*", "*", true }, { "\\*", "a", false }, { "[\\]]", "]", true },
		{ "a\\", "a\\", true }, { "a\\", "a", false }, { "*a", "aaab", false }, { "**", "x", true },
		{ "*[0-9].txt", "s0007.txt", true }, { "[\x80-\xff]", "\xc3", true },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (glob_match(cases[i].pattern, cases[i].key) != cases[i].matches)
			fail_msg("'%s' and '%s'", cases[i].pattern, cases[i].key);
}

static void test_what_is_literal(void **state)
{
	(void)state;
	assert_int_equal(6, glob_literal("train/*"));
	assert_int_equal(0, glob_literal("*.jpg"));
	assert_int_equal(2, glob_literal("ab\\*"));
	assert_int_equal(3, glob_literal("abc"));
	assert_int_equal(1, glob_literal("a[b]"));
}

/* A matcher that tries all ways would not end. */
static void test_stars_do_not_multiply(void **state)
{
	char pattern[1025], key[1025];

	(void)state;
	for (int i = 0; i < 1024; i += 2)
		memcpy(pattern + i, "*a", 2);
	memset(key, 'a', 1024);
	pattern[1024] = key[1024] = '\0';
	assert_true(glob_match(pattern, key));
	key[1023] = 'b';
	assert_false(glob_match(pattern, key));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_matches_and_what_does_not),
		cmocka_unit_test(test_what_is_literal),
		cmocka_unit_test(test_stars_do_not_multiply),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
