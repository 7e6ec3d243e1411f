/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: integers have the byte order the formats name; the cursor never reads and the writer never
 * writes past the end, and both keep saying so; tag-length-value blocks cut anywhere are refused.
 */
#include "common/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/id.h"
#include "common/rand.h"
#include "common/tlv.h"

static void test_integers_have_the_byte_order_of_the_formats(void **state)
{
	struct le32 v32 = le32_of(0x01020304);
	struct le64 v64 = le64_of(0x0102030405060708);
	struct le16 v16 = le16_of(0x0102);
	uint8_t be[8];

	(void)state;
	assert_memory_equal(v16.b, "\x02\x01", 2);
	assert_memory_equal(v32.b, "\x04\x03\x02\x01", 4);
	assert_memory_equal(v64.b, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
	assert_int_equal(le16_get(v16), 0x0102);
	assert_int_equal(le32_get(v32), 0x01020304);
	assert_true(le64_get(v64) == 0x0102030405060708);
	be64_put(be, 0x0102030405060708);
	assert_memory_equal(be, "\x01\x02\x03\x04\x05\x06\x07\x08", 8);
	assert_true(be64_get(be) == 0x0102030405060708);
	be32_put(be, 0x01020304);
	assert_memory_equal(be, "\x01\x02\x03\x04", 4);
	assert_int_equal(be32_get(be), 0x01020304);
}

static void test_big_endian_keys_sort_as_their_numbers(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 5);
	for (int i = 0; i < 10000; i++) {
		uint64_t a = rng_next(&rng) >> rng_below(&rng, 64),
			 b = rng_next(&rng) >> rng_below(&rng, 64);
		uint8_t ka[8], kb[8];
		be64_put(ka, a);
		be64_put(kb, b);
		assert_int_equal(memcmp(ka, kb, 8) < 0, a < b);
	}
}

static void test_the_cursor_refuses_to_read_past_the_end(void **state)
{
	uint8_t buf[7] = { 1, 2, 3, 4, 5, 6, 7 };

	(void)state;
	for (size_t len = 0; len < sizeof(buf); len++) {
		uint8_t *exact = malloc(len ? len : 1); /* a sanitizer sees one byte too many */
		assert_non_null(exact);
		memcpy(exact, buf, len);
		struct cur c = cur_of(exact, len);
		assert_true(cur_u64(&c) == 0);
		assert_false(cur_ok(&c));
		assert_int_equal(cur_left(&c), 0);
		c = cur_of(exact, len);
		assert_null(cur_bytes(&c, len + 1).p);
		assert_false(cur_ok(&c));
		free(exact);
	}
}

static void test_the_cursor_refuses_lengths_that_would_wrap(void **state)
{
	uint8_t buf[8] = { 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4 };
	struct cur c = cur_of(buf, sizeof(buf));

	(void)state;
	assert_null(cur_bytes32(&c).p);
	assert_false(cur_ok(&c));
	c = cur_of(buf, sizeof(buf));
	assert_null(cur_bytes16(&c).p);
	c = cur_of(buf, sizeof(buf));
	assert_null(cur_take(&c, SIZE_MAX));
	assert_false(cur_ok(&c));
}

static void test_a_cursor_error_sticks(void **state)
{
	uint8_t buf[4] = { 1, 2, 3, 4 };
	struct cur c = cur_of(buf, sizeof(buf));

	(void)state;
	assert_true(cur_u64(&c) == 0);
	assert_int_equal(cur_u8(&c), 0); /* would fit, but the decoder has gone wrong before */
	assert_int_equal(cur_u16(&c), 0);
	assert_null(cur_bytes(&c, 0).p);
	assert_false(cur_done(&c));
}

static void test_done_refuses_bytes_left_over(void **state)
{
	uint8_t buf[3] = { 1, 2, 3 };
	struct cur c = cur_of(buf, sizeof(buf));

	(void)state;
	assert_int_equal(cur_u16(&c), 0x0201);
	assert_false(cur_done(&c));
	assert_true(cur_ok(&c));
	assert_int_equal(cur_u8(&c), 3);
	assert_true(cur_done(&c));
}

static void test_what_the_writer_wrote_the_cursor_reads(void **state)
{
	uint8_t buf[64];
	struct wr w = wr_of(buf, sizeof(buf));

	(void)state;
	wr_u8(&w, 1);
	wr_u16(&w, 2);
	wr_u32(&w, 3);
	wr_u64(&w, 4);
	wr_bytes16(&w, slice_str("abc"));
	wr_bytes32(&w, slice_str(""));
	assert_true(wr_ok(&w));
	struct cur c = cur_of(buf, wr_len(&w));
	assert_int_equal(cur_u8(&c), 1);
	assert_int_equal(cur_u16(&c), 2);
	assert_int_equal(cur_u32(&c), 3);
	assert_true(cur_u64(&c) == 4);
	assert_true(slice_eq(cur_bytes16(&c), slice_str("abc")));
	assert_int_equal(cur_bytes32(&c).len, 0);
	assert_true(cur_done(&c));
}

static void test_the_writer_refuses_overflow_and_keeps_what_follows_untouched(void **state)
{
	uint8_t buf[8];

	(void)state;
	for (size_t cap = 0; cap < 4; cap++) {
		memset(buf, 0x55, sizeof(buf));
		struct wr w = wr_of(buf, cap);
		wr_u32(&w, 0);
		assert_false(wr_ok(&w));
		wr_u8(&w, 0); /* would fit, but an overflow sticks */
		assert_false(wr_ok(&w));
		for (size_t i = 0; i < sizeof(buf); i++)
			assert_int_equal(buf[i], 0x55);
	}
}

static void test_the_writer_refuses_a_string_its_length_field_cannot_tell(void **state)
{
	static uint8_t big[UINT16_MAX + 1], out[UINT16_MAX + 100];
	struct wr w = wr_of(out, sizeof(out));

	(void)state;
	wr_bytes16(&w, slice_of(big, UINT16_MAX));
	assert_true(wr_ok(&w));
	w = wr_of(out, sizeof(out));
	wr_bytes16(&w, slice_of(big, UINT16_MAX + 1));
	assert_false(wr_ok(&w));
	assert_int_equal(wr_len(&w), 0);
}

static size_t tlv_example(uint8_t *buf, size_t cap)
{
	struct wr w = wr_of(buf, cap);

	tlv_put_u64(&w, 1, 0x1122334455667788);
	tlv_put_u32(&w, 2, 7);
	uint8_t *at = tlv_open(&w, 3);
	wr_u8(&w, 9);
	wr_u8(&w, 8);
	tlv_close(&w, at);
	tlv_put(&w, 4, slice_str("hello"));
	return wr_ok(&w) ? wr_len(&w) : 0;
}

static void test_tlv_elements_come_back_in_order(void **state)
{
	uint8_t buf[128];
	struct cur c = cur_of(buf, tlv_example(buf, sizeof(buf)));
	struct slice v = { NULL, 0 };
	uint16_t tag = 0;

	(void)state;
	assert_true(tlv_next(&c, &tag, &v));
	assert_int_equal(tag, 1);
	assert_true(tlv_u64(v) == 0x1122334455667788);
	assert_true(tlv_next(&c, &tag, &v));
	assert_true(tag == 2 && tlv_u64(v) == 7);
	assert_true(tlv_next(&c, &tag, &v));
	assert_true(tag == 3 && slice_eq(v, slice_of("\x09\x08", 2)));
	assert_true(tlv_next(&c, &tag, &v));
	assert_true(tag == 4 && slice_eq(v, slice_str("hello")));
	assert_false(tlv_next(&c, &tag, &v));
	assert_true(cur_done(&c));
}

static void test_tlv_cut_anywhere_but_between_elements_is_refused(void **state)
{
	uint8_t buf[128];
	size_t whole = tlv_example(buf, sizeof(buf)), intact = 0;

	(void)state;
	assert_true(whole > 0);
	for (size_t len = 0; len <= whole; len++) {
		uint8_t *exact = malloc(len ? len : 1);
		struct slice v = { NULL, 0 };
		uint16_t tag = 0;
		assert_non_null(exact);
		memcpy(exact, buf, len);
		struct cur c = cur_of(exact, len);
		while (tlv_next(&c, &tag, &v))
			;
		intact += cur_done(&c);
		free(exact);
	}
	assert_int_equal(intact, 5); /* after 0, 1, 2, 3 and 4 elements */
}

static void test_tlv_integers_longer_than_8_bytes_read_as_0(void **state)
{
	(void)state;
	assert_true(tlv_u64(slice_of("\x01\x02\x03\x04\x05\x06\x07\x08\x09", 9)) == 0);
	assert_true(tlv_u64(slice_of("\x01", 1)) == 1);
}

static void test_tlv_in_too_small_a_buffer_is_refused(void **state)
{
	uint8_t buf[128];
	size_t whole = tlv_example(buf, sizeof(buf));

	(void)state;
	for (size_t cap = 0; cap < whole; cap++)
		assert_int_equal(tlv_example(buf, cap), 0);
	assert_int_equal(tlv_example(buf, whole), whole);
}

static void test_ids_keep_incarnation_and_counter_apart(void **state)
{
	uint64_t id = id_make(ID_INCARNATION_MAX, ID_COUNTER_MAX);

	(void)state;
	assert_int_equal(id_incarnation(id), ID_INCARNATION_MAX);
	assert_true(id_counter(id) == ID_COUNTER_MAX);
	assert_true(id_make(2, 0) > id_make(1, ID_COUNTER_MAX));
	assert_int_equal(id_incarnation(id_make(1, ID_COUNTER_MAX + 1)), 1); /* no bleeding over */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_integers_have_the_byte_order_of_the_formats),
		cmocka_unit_test(test_big_endian_keys_sort_as_their_numbers),
		cmocka_unit_test(test_the_cursor_refuses_to_read_past_the_end),
		cmocka_unit_test(test_the_cursor_refuses_lengths_that_would_wrap),
		cmocka_unit_test(test_a_cursor_error_sticks),
		cmocka_unit_test(test_done_refuses_bytes_left_over),
		cmocka_unit_test(test_what_the_writer_wrote_the_cursor_reads),
		cmocka_unit_test(test_the_writer_refuses_overflow_and_keeps_what_follows_untouched),
		cmocka_unit_test(test_the_writer_refuses_a_string_its_length_field_cannot_tell),
		cmocka_unit_test(test_tlv_elements_come_back_in_order),
		cmocka_unit_test(test_tlv_cut_anywhere_but_between_elements_is_refused),
		cmocka_unit_test(test_tlv_integers_longer_than_8_bytes_read_as_0),
		cmocka_unit_test(test_tlv_in_too_small_a_buffer_is_refused),
		cmocka_unit_test(test_ids_keep_incarnation_and_counter_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
