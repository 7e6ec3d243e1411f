/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: texts come back in the order of their bytes, equal ones in that of their arrival, whether they fit in memory or
 * not. Method: random texts against qsort(), at memories from one run to hundreds. */
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
#include "io/fs.h"
#include "jobs/text_sort.h"

enum { TEXTS = 20000 };

struct text {
	char bytes[48];
	uint32_t len, number;
};
static struct text texts[TEXTS];
static struct fs *fs;
static char root[64];

static int set_up(void **state)
{
	(void)state;
	snprintf(root, sizeof(root), "/tmp/granary-text-sort-XXXXXX");
	assert_non_null(mkdtemp(root));
	return fs_new_kernel(root, &fs);
}

static int tear_down(void **state)
{
	(void)state;
	fs_free(&fs);
	return rmdir(root);
}

static int compare(const void *a, const void *b)
{
	const struct text *x = a, *y = b;
	int order = slice_compare(slice_of(x->bytes, x->len), slice_of(y->bytes, y->len));

	return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

/* Few different letters and short ones too: many are equal, many begin another. */
static void texts_make(uint32_t seed)
{
	srand(seed);
	for (uint32_t i = 0; i < TEXTS; i++) {
		struct text *t = &texts[i];

		t->number = i;
		t->len = (uint32_t)(rand() % (i % 3 == 0 ? 4 : 48));
		for (uint32_t k = 0; k < t->len; k++) t->bytes[k] = (char)(rand() % 3 == 0 ? 0xff : 'a' + rand() % 2);
	}
}

static void run(size_t memory, uint32_t seed)
{
	struct spool_options o = { .fs = fs, .memory = memory };
	struct text_sorter *s = text_sorter_new(&o);
	struct slice got;
	uint64_t value[2];

	assert_non_null(s);
	texts_make(seed);
	for (uint32_t i = 0; i < TEXTS; i++) {
		value[0] = i;
		value[1] = ~(uint64_t)i;
		assert_int_equal(text_sorter_add(s, slice_of(texts[i].bytes, texts[i].len), value), 0);
	}
	assert_int_equal(text_sorter_finish(s), 0);
	qsort(texts, TEXTS, sizeof(texts[0]), compare);
	for (uint32_t i = 0; i < TEXTS; i++) {
		assert_int_equal(text_sorter_next(s, &got, value), 1);
		assert_true(slice_eq(got, slice_of(texts[i].bytes, texts[i].len)));
		assert_int_equal(value[0], texts[i].number);
		assert_int_equal(value[1], ~(uint64_t)texts[i].number);
	}
	assert_int_equal(text_sorter_next(s, &got, value), 0);
	text_sorter_free(&s);
	assert_null(s);
}

static void test_texts_come_sorted_from_memory_and_from_disk(void **state)
{
	(void)state;
	run(64 << 20, 1);
	run(300000, 2);
	run(0, 3);
}

static void test_nothing_gives_nothing_and_what_is_too_long_is_refused(void **state)
{
	static uint8_t large[TEXT_SORT_LEN_MAX + 1];
	struct spool_options o = { .fs = fs };
	struct text_sorter *s = text_sorter_new(&o);
	uint64_t value[2] = { 0, 0 };
	struct slice got;

	(void)state;
	assert_int_equal(text_sorter_add(s, slice_of(large, sizeof(large)), value), -GRANARY_ETOOBIG);
	assert_int_equal(text_sorter_finish(s), 0);
	assert_int_equal(text_sorter_next(s, &got, value), 0);
	text_sorter_free(&s);
	s = text_sorter_new(&o);
	for (int i = 0; i < 5; i++) assert_int_equal(text_sorter_add(s, slice_of(large, TEXT_SORT_LEN_MAX), value), 0);
	assert_int_equal(text_sorter_finish(s), 0);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(text_sorter_next(s, &got, value), 1);
		assert_int_equal(got.len, TEXT_SORT_LEN_MAX);
	}
	assert_int_equal(text_sorter_next(s, &got, value), 0);
	text_sorter_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts_come_sorted_from_memory_and_from_disk),
		cmocka_unit_test(test_nothing_gives_nothing_and_what_is_too_long_is_refused),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
