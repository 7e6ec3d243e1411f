/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the error table answers for every number, also those it does not hold; log levels parse. */
#include "common/error.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"

static const int numbers[] = {
#define X(number, name, posix, klass, text) number,
	GRANARY_ERROR_TABLE(X)
#undef X
};
enum { NUMBERS_COUNT = sizeof(numbers) / sizeof(numbers[0]) };

static void test_numbers_ascend_from_1_without_gaps(void **state)
{
	(void)state;
	for (int i = 0; i < NUMBERS_COUNT; i++)
		assert_int_equal(numbers[i], i + 1);
}

static void test_every_error_has_its_own_name_and_a_text_in_lower_case(void **state)
{
	(void)state;
	for (int i = 0; i < NUMBERS_COUNT; i++) {
		const char *text = error_text(-numbers[i]);
		assert_true(strlen(text) > 3 && text[strlen(text) - 1] != '.');
		assert_false(text[0] >= 'A' && text[0] <= 'Z');
		for (int k = 0; k < i; k++)
			assert_string_not_equal(error_name(-numbers[i]), error_name(-numbers[k]));
	}
}

static void test_codes_read_as_the_table_says(void **state)
{
	(void)state;
	assert_string_equal(error_name(-GRANARY_ENOTFOUND), "NOTFOUND");
	assert_string_equal(error_text(-GRANARY_ENOTFOUND), "no such object");
	assert_int_equal(error_errno(-GRANARY_ENOTFOUND), ENOENT);
	assert_int_equal(error_class(-GRANARY_ENOTFOUND), ERROR_FINAL);
	assert_int_equal(error_class(-GRANARY_EBUSY), ERROR_RETRY);
	assert_int_equal(error_class(-GRANARY_ECLOSED), ERROR_UNSURE);
	assert_int_equal(error_errno(0), 0);
	assert_string_equal(error_text(0), "success");
}

static void test_unknown_codes_are_final_io_errors_and_never_null(void **state)
{
	static const int unknown[] = { 1, 38, INT_MAX, INT_MIN, -NUMBERS_COUNT - 1, -1000,
		-INT_MAX };

	(void)state;
	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
		assert_string_equal(error_name(unknown[i]), "UNKNOWN");
		assert_string_equal(error_text(unknown[i]), "unknown error");
		assert_int_equal(error_errno(unknown[i]), EIO);
		assert_int_equal(error_class(unknown[i]), ERROR_FINAL);
	}
}

static void test_every_errno_maps_to_a_code_of_the_table(void **state)
{
	(void)state;
	assert_int_equal(error_from_errno(0), 0);
	for (int posix = 1; posix < 200; posix++) {
		int err = error_from_errno(posix);
		assert_true(err < 0 && err >= -NUMBERS_COUNT);
	}
}

static void test_errnos_nobody_listed_become_io(void **state)
{
	(void)state;
	assert_int_equal(error_from_errno(EXDEV), -GRANARY_EIO);
	assert_int_equal(error_from_errno(99999), -GRANARY_EIO);
	assert_int_equal(error_from_errno(-ENOENT), -GRANARY_EIO); /* no guess at the sign */
}

static void test_errnos_that_drive_decisions_keep_their_meaning(void **state)
{
	(void)state;
	assert_int_equal(error_from_errno(ENOSPC), -GRANARY_ENOSPACE);
	assert_int_equal(error_from_errno(EAGAIN), -GRANARY_EAGAIN);
	assert_int_equal(error_from_errno(EINTR), -GRANARY_EINTR);
	assert_int_equal(error_from_errno(ECANCELED), -GRANARY_ECANCELED);
	assert_int_equal(error_from_errno(ECONNRESET), -GRANARY_ECLOSED);
	assert_int_equal(error_from_errno(ECONNREFUSED), -GRANARY_EUNREACHABLE);
	assert_int_equal(error_from_errno(EIO), -GRANARY_EIO);
}

static void test_log_levels_parse_by_name_and_nothing_else_does(void **state)
{
	static const char *const wrong[] = { "", "INFO", "information", "warning", " info", "4" };
	enum log_level level = LOG_ERROR;

	(void)state;
	assert_int_equal(log_level_parse("debug", &level), 0);
	assert_int_equal(level, LOG_DEBUG);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(log_level_parse(wrong[i], &level), -GRANARY_EINVAL);
		assert_int_equal(level, LOG_DEBUG);
	}
}

/* Standard error goes to a file while one line is written; the assertions wait until it is back. */
static FILE *caught_file;
static int caught_saved;
static char caught_text[16384];

static void catch_start(void)
{
	caught_file = tmpfile();
	assert_non_null(caught_file);
	caught_saved = dup(STDERR_FILENO);
	dup2(fileno(caught_file), STDERR_FILENO);
}

/* What came, without the time; "" when nothing did. */
static const char *catch_done(void)
{
	dup2(caught_saved, STDERR_FILENO);
	close(caught_saved);
	rewind(caught_file);
	caught_text[fread(caught_text, 1, sizeof(caught_text) - 1, caught_file)] = '\0';
	fclose(caught_file);
	const char *p = strstr(caught_text, "level=");
	return p ? p : "";
}

static void test_a_log_line_has_a_message_and_fields(void **state)
{
	(void)state;
	catch_start();
	log_error("cannot read '%s'; pack=%d x=y", "a", 7);
	assert_string_equal(catch_done(), "level=error msg=\"cannot read 'a'\" pack=7 x=y\n");
	catch_start();
	log_warn("a; b c");
	assert_string_equal(catch_done(), "level=warn msg=\"a; b c\"\n");
}

static void test_a_log_line_cannot_be_forged_by_what_it_quotes(void **state)
{
	(void)state;
	catch_start();
	log_error("a\"b\nlevel=x");
	assert_string_equal(catch_done(), "level=error msg=\"a\\\"b\\x0alevel=x\"\n");
	catch_start();
	log_error("bad name; key=a\nb");
	assert_string_equal(catch_done(), "level=error msg=\"bad name\" key=a\\x0ab\n");
}

static void test_a_log_line_too_long_is_cut_with_dots(void **state)
{
	char big[9000];

	(void)state;
	memset(big, '\n', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	catch_start();
	log_error("%s", big);
	const char *line = catch_done();
	assert_non_null(strstr(line, "...\"\n"));
	assert_string_equal(strchr(line, '\n'), "\n");
}

static void test_a_log_line_below_the_level_is_not_written(void **state)
{
	(void)state;
	catch_start();
	log_debug("not at this level");
	assert_string_equal(catch_done(), "");
	log_set_level(LOG_DEBUG);
	catch_start();
	log_debug("now");
	log_set_level(LOG_INFO);
	assert_string_equal(catch_done(), "level=debug msg=\"now\"\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers_ascend_from_1_without_gaps),
		cmocka_unit_test(test_every_error_has_its_own_name_and_a_text_in_lower_case),
		cmocka_unit_test(test_codes_read_as_the_table_says),
		cmocka_unit_test(test_unknown_codes_are_final_io_errors_and_never_null),
		cmocka_unit_test(test_every_errno_maps_to_a_code_of_the_table),
		cmocka_unit_test(test_errnos_nobody_listed_become_io),
		cmocka_unit_test(test_errnos_that_drive_decisions_keep_their_meaning),
		cmocka_unit_test(test_log_levels_parse_by_name_and_nothing_else_does),
		cmocka_unit_test(test_a_log_line_has_a_message_and_fields),
		cmocka_unit_test(test_a_log_line_cannot_be_forged_by_what_it_quotes),
		cmocka_unit_test(test_a_log_line_too_long_is_cut_with_dots),
		cmocka_unit_test(test_a_log_line_below_the_level_is_not_written),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
