/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a token comes back as it went in, as bytes and as text; every flipped bit, every cut and every other version is
 * refused with its own words; the bytes of version 1 never change. */
#include "common/token.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "common/error.h"

static const char golden_text[] =
	"AQIGAAAPAADv3HdmVTMRAIirze8BI0VnBAAAAAAAAAAqAAAAAAAAAAMAAAAAAAAA0gKWSQAAAABWwL09";

static struct token sample(void)
{
	return (struct token){ .mode = ORDER_BLOCKS, .source = { .lo = 0x001133556677dcef, .hi = 0x67452301efcdab88 },
		.block = 64, .window = 4, .lanes = 3840, .seed = 42, .epoch = 3, .position = 1234567890 };
}

static bool same(const struct token *a, const struct token *b)
{
	return a->mode == b->mode && a->of_recipe == b->of_recipe && a->source.lo == b->source.lo &&
		a->source.hi == b->source.hi && a->block == b->block && a->window == b->window &&
		a->lanes == b->lanes && a->seed == b->seed && a->epoch == b->epoch && a->position == b->position;
}

static void comes_back(struct token t)
{
	uint8_t raw[TOKEN_SIZE];
	char text[TOKEN_TEXT_LEN + 1], why[200];
	struct token back;

	assert_int_equal(token_encode(&t, raw, why, sizeof(why)), 0);
	assert_int_equal(token_decode(&back, raw, sizeof(raw), why, sizeof(why)), 0);
	assert_true(same(&t, &back));
	assert_int_equal(token_to_text(&t, text, why, sizeof(why)), 0);
	assert_int_equal(strlen(text), TOKEN_TEXT_LEN);
	assert_int_equal(token_from_text(&back, text, strlen(text), why, sizeof(why)), 0);
	assert_true(same(&t, &back));
}

static void test_tokens_come_back_as_they_went_in(void **state)
{
	struct token t = sample();

	(void)state;
	comes_back(t);
	t.of_recipe = true, comes_back(t);
	t.position = ORDER_SAMPLES_MAX, t.seed = t.epoch = UINT64_MAX, comes_back(t);
	t.block = ORDER_BLOCK_MAX, t.window = UINT64_C(1) << 30, t.lanes = ORDER_LANES_MAX, comes_back(t);
	comes_back((struct token){ .mode = ORDER_EXACT });
	comes_back((struct token){ .mode = ORDER_NONE, .position = 7 });
}

static void test_the_bytes_of_version_1_stay(void **state)
{
	struct token t = sample(), back;
	char text[TOKEN_TEXT_LEN + 1], why[200];

	(void)state;
	assert_int_equal(token_to_text(&t, text, why, sizeof(why)), 0);
	assert_string_equal(text, golden_text);
	assert_int_equal(token_from_text(&back, golden_text, TOKEN_TEXT_LEN, why, sizeof(why)), 0);
	assert_true(same(&t, &back));
}

static void test_every_flipped_bit_is_found(void **state)
{
	struct token t = sample(), back;
	uint8_t raw[TOKEN_SIZE];
	char text[TOKEN_TEXT_LEN + 1], why[200];

	(void)state;
	assert_int_equal(token_encode(&t, raw, why, sizeof(why)), 0);
	for (int bit = 0; bit < TOKEN_SIZE * 8; bit++) {
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(token_decode(&back, raw, sizeof(raw), why, sizeof(why)), -GRANARY_ECORRUPT);
		assert_non_null(strstr(why, "damaged"));
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(token_to_text(&t, text, why, sizeof(why)), 0);
	for (int i = 0; i < TOKEN_TEXT_LEN; i++) {
		char old = text[i];
		text[i] = old == 'x' ? 'y' : 'x';
		assert_int_equal(token_from_text(&back, text, TOKEN_TEXT_LEN, why, sizeof(why)), -GRANARY_ECORRUPT);
		text[i] = '=';
		assert_int_equal(token_from_text(&back, text, TOKEN_TEXT_LEN, why, sizeof(why)), -GRANARY_ECORRUPT);
		assert_non_null(strstr(why, "character"));
		text[i] = old;
	}
}

static void test_every_cut_is_found(void **state)
{
	struct token t = sample(), back;
	uint8_t raw[TOKEN_SIZE_MAX + 36] = { 0 };
	char text[TOKEN_TEXT_LEN + 1], why[200];

	(void)state;
	assert_int_equal(token_encode(&t, raw, why, sizeof(why)), 0);
	for (size_t len = 0; len < sizeof(raw); len++)
		if (len != TOKEN_SIZE) {
			assert_int_equal(token_decode(&back, raw, len, why, sizeof(why)), -GRANARY_ECORRUPT);
			assert_non_null(strstr(why, "truncated"));
		}
	assert_int_equal(token_to_text(&t, text, why, sizeof(why)), 0);
	for (size_t len = 0; len < TOKEN_TEXT_LEN; len++)
		assert_int_equal(token_from_text(&back, text, len, why, sizeof(why)), -GRANARY_ECORRUPT);
	assert_int_equal(token_from_text(&back, NULL, 0, NULL, 0), -GRANARY_ECORRUPT);
}

static void sign(uint8_t *raw, size_t len)
{
	uint32_t crc = crc32c(0, raw, len - 4);

	memcpy(raw + len - 4, &crc, 4);
}

static void test_another_version_is_named(void **state)
{
	struct token t = sample(), back;
	uint8_t raw[TOKEN_SIZE_MAX] = { 0 };
	char why[200];

	(void)state;
	for (size_t len = 8; len <= TOKEN_SIZE_MAX; len++) {
		assert_int_equal(token_encode(&t, raw, why, sizeof(why)), 0);
		raw[0] = 2;
		sign(raw, len);
		assert_int_equal(token_decode(&back, raw, len, why, sizeof(why)), -GRANARY_EVERSION);
		assert_non_null(strstr(why, "version 2"));
	}
}

static void test_fields_out_of_range_are_refused_both_ways(void **state)
{
	static const struct { int at; uint8_t value; } wrong[] = { { 1, 0 }, { 1, 4 }, { 2, 33 }, { 2, 254 },
		{ 2, 255 }, { 3, 2 }, { 7, 1 }, { 31, 0xff }, { 55, 1 } };
	struct token t = sample(), back;
	uint8_t raw[TOKEN_SIZE];
	char why[200];

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(token_encode(&t, raw, why, sizeof(why)), 0);
		raw[wrong[i].at] = wrong[i].value;
		sign(raw, sizeof(raw));
		assert_int_equal(token_decode(&back, raw, sizeof(raw), why, sizeof(why)), -GRANARY_EINVAL);
	}
	t = sample(), t.mode = 9, assert_int_equal(token_encode(&t, raw, why, sizeof(why)), -GRANARY_EINVAL);
	t = sample(), t.block = 3, assert_int_equal(token_encode(&t, raw, why, sizeof(why)), -GRANARY_EINVAL);
	t = sample(), t.block = 0, assert_int_equal(token_encode(&t, raw, why, sizeof(why)), -GRANARY_EINVAL);
	t = sample(), t.lanes = 0, assert_int_equal(token_encode(&t, raw, why, sizeof(why)), -GRANARY_EINVAL);
	t = sample(), t.window = 0, assert_int_equal(token_encode(&t, raw, NULL, 0), -GRANARY_EINVAL);
}

static void test_a_token_belongs_to_one_source(void **state)
{
	struct token t = sample();
	struct hash128 other = { .lo = t.source.lo, .hi = 1 };
	char why[200];

	(void)state;
	assert_int_equal(token_check(&t, t.source, false, t.position, why, sizeof(why)), 0);
	assert_int_equal(token_check(&t, other, false, t.position, why, sizeof(why)), -GRANARY_EINVAL);
	assert_non_null(strstr(why, "another snapshot"));
	assert_int_equal(token_check(&t, t.source, true, t.position, why, sizeof(why)), -GRANARY_EINVAL);
	assert_non_null(strstr(why, "made for a snapshot"));
	assert_int_equal(token_check(&t, t.source, false, t.position - 1, why, sizeof(why)), -GRANARY_EINVAL);
	assert_non_null(strstr(why, "position"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tokens_come_back_as_they_went_in),
		cmocka_unit_test(test_the_bytes_of_version_1_stay),
		cmocka_unit_test(test_every_flipped_bit_is_found),
		cmocka_unit_test(test_every_cut_is_found),
		cmocka_unit_test(test_another_version_is_named),
		cmocka_unit_test(test_fields_out_of_range_are_refused_both_ways),
		cmocka_unit_test(test_a_token_belongs_to_one_source),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
