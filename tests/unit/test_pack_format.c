/* SPDX-License-Identifier: Apache-2.0 */
/* test_pack_format.c -- docs/FORMAT.md 3, clause by clause: what is written, and what is refused.
 * */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/rand.h"
#include "meta/rows.h"
#include "pack/format.h"

static uint32_t u32_at(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint64_t u64_at(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }

static void test_format_3_1_header_bytes(void **state)
{
	struct pack_header h = { .pack_id = 0x1122334455667788, .created_ns = 9, .group = 10, .attempt = 11 }, back;
	uint8_t b[PACK_HEADER_SIZE];

	(void)state;
	pack_header_encode(&h, b);
	assert_memory_equal(b, "GRNPACK\0", 8);
	assert_int_equal(u32_at(b + 8), 1);
	assert_int_equal(u32_at(b + 20), 8);
	assert_true(u64_at(b + 24) == h.pack_id && u64_at(b + 32) == 9 && u64_at(b + 40) == 10 && u64_at(b + 48) == 11);
	assert_int_equal(u32_at(b + 56), 0);
	assert_int_equal(u32_at(b + 60), crc32c(0, b, 60));
	assert_int_equal(pack_header_decode(b, sizeof(b), &back), 0);
	assert_memory_equal(&back, &h, sizeof(h));
}

static void test_format_3_1_refuses_what_it_does_not_know(void **state)
{
	struct pack_header h = { .pack_id = 1 }, back;
	uint8_t b[PACK_HEADER_SIZE];
	uint32_t crc;

	(void)state;
	pack_header_encode(&h, b);
	assert_int_equal(pack_header_decode(b, 63, &back), -GRANARY_EBADFORMAT);
	b[12] = 1; /* features_incompat */
	assert_int_equal(pack_header_decode(b, 64, &back), -GRANARY_ECORRUPT);
	crc = crc32c(0, b, 60);
	memcpy(b + 60, &crc, 4);
	assert_int_equal(pack_header_decode(b, 64, &back), -GRANARY_EVERSION);
	pack_header_encode(&h, b);
	b[16] = 1; /* features_compat: ignored */
	crc = crc32c(0, b, 60);
	memcpy(b + 60, &crc, 4);
	assert_int_equal(pack_header_decode(b, 64, &back), 0);
	pack_header_encode(&h, b);
	b[8] = 2;
	assert_int_equal(pack_header_decode(b, 64, &back), -GRANARY_EVERSION);
	b[0] = 'X';
	assert_int_equal(pack_header_decode(b, 64, &back), -GRANARY_EBADFORMAT);
}

static uint32_t encode(uint8_t *b, size_t cap, uint32_t data_len)
{
	static uint8_t crcs[4 * EXTENT_CRCS_MAX];
	struct record r = { .kind = RECORD_DATA, .flags = RECORD_WHOLE, .data_len = data_len, .stored_len = data_len,
		.generation = 4, .object_id = 5, .version = 6, .dir_id = 7, .logical = 8,
		.key = slice_str("bucket/a/b"), .name = slice_str("b"), .attrs = slice_str("attrs.."), .crcs = crcs };

	for (uint32_t i = 0; i < sizeof(crcs); i++)
		crcs[i] = (uint8_t)(i * 7);
	assert_int_equal(record_encode(&r, b, cap), 0);
	return record_header_len(r.key.len, r.name.len, r.attrs.len, data_len);
}

static void test_format_3_2_record_bytes(void **state)
{
	static uint8_t b[8192];
	uint32_t len = encode(b, sizeof(b), 200000), need;
	struct record r;

	(void)state;
	assert_int_equal(len, 64 + 10 + 1 + 7 + 4 * 4 + 2); /* rounded up to 4 */
	assert_memory_equal(b, "GREC", 4);
	assert_int_equal(b[4], 1);
	assert_int_equal(b[5], 1);
	assert_int_equal(b[6], 10);
	assert_int_equal(u32_at(b + 8), len);
	assert_int_equal(u32_at(b + 12), 200000);
	assert_int_equal(u32_at(b + 16), 200000);
	assert_int_equal(b[20], 1);
	assert_int_equal(b[22], 7);
	assert_true(u64_at(b + 24) == 5 && u64_at(b + 32) == 6 && u64_at(b + 40) == 7 && u64_at(b + 48) == 8);
	assert_int_equal(u32_at(b + 56), 4);
	assert_int_equal(u32_at(b + 60), crc32c(crc32c(0, b, 60), b + 64, len - 64));
	assert_memory_equal(b + 64, "bucket/a/bbattrs..", 18);
	assert_int_equal(record_decode(b, len, &r, &need), 0);
	assert_int_equal(r.crc_count, 4);
	assert_memory_equal(r.crcs, b + 64 + 18, 16);
	assert_true(slice_eq(r.key, slice_str("bucket/a/b")) && slice_eq(r.name, slice_str("b")));
	assert_true(slice_eq(r.attrs, slice_str("attrs..")));
	assert_int_equal(record_span(&r), (len + 200000 + 7) / 8 * 8);
}

static void test_format_3_2_short_input_says_how_much_is_needed(void **state)
{
	static uint8_t b[8192];
	uint32_t len = encode(b, sizeof(b), 70000), need;
	struct record r;

	(void)state;
	for (uint32_t n = 0; n < len; n++) {
		uint8_t *exact = malloc(n ? n : 1); /* a sanitizer sees a read past it */

		memcpy(exact, b, n);
		assert_int_equal(record_decode(exact, n, &r, &need), -GRANARY_ETOOBIG);
		assert_int_equal(need, n < 64 ? 64 : len);
		free(exact);
	}
}

/* No change of one bit of the header goes unnoticed. */
static void test_format_3_2_every_flipped_bit_is_found(void **state)
{
	static uint8_t b[8192];
	uint32_t len = encode(b, sizeof(b), 1000), need;
	struct record r;

	(void)state;
	for (uint32_t bit = 0; bit < 8 * len; bit++) {
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_not_equal(record_decode(b, len, &r, &need), 0);
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(record_decode(b, len, &r, &need), 0);
}

static void test_format_3_2_too_long_parts_are_refused(void **state)
{
	static uint8_t b[256 * 1024], big[70000];
	struct record r = { .kind = RECORD_DATA, .key = { big, 65536 } };

	(void)state;
	assert_int_equal(record_encode(&r, b, sizeof(b)), -GRANARY_ETOOBIG);
	r.key.len = 65535;
	assert_int_equal(record_encode(&r, b, sizeof(b)), 0);
	assert_int_equal(record_encode(&r, b, 65535 + 63), -GRANARY_ETOOBIG);
	r.data_len = r.stored_len = EXTENT_LEN_MAX + 1;
	assert_int_equal(record_encode(&r, b, sizeof(b)), -GRANARY_ETOOBIG);
}

static void test_format_3_4_fillers_of_every_size(void **state)
{
	uint8_t b[4096];
	struct record r;
	uint32_t need;

	(void)state;
	for (uint32_t n = 64; n <= 4096; n += 8) {
		memset(b, 0xff, sizeof(b));
		filler_encode(b, n);
		assert_int_equal(record_decode(b, n, &r, &need), 0);
		assert_int_equal(r.kind, RECORD_FILLER);
		assert_int_equal(record_span(&r), n);
		assert_true(n == 64 || b[n - 1] == 0);
	}
}

static void test_format_3_6_3_7_footer_bytes(void **state)
{
	struct footer_entry e = { .object_id = 1, .version = 2, .dir_id = 3, .offset = 4096, .data_len = 5,
		.header_len = 6, .header_crc = 7 }, e2;
	struct pack_trailer t = { .pack_id = 8, .footer_offset = 8192, .data_end = 8000, .object_bytes = 9,
		.attempt = 10, .entries = 11, .entries_crc = 12 }, t2;
	uint8_t b[PACK_FOOTER_ENTRY_SIZE], c[PACK_TRAILER_SIZE];

	(void)state;
	footer_entry_encode(&e, b);
	assert_int_equal(u32_at(b + 24), 512);
	assert_int_equal(u32_at(b + 36), 7);
	footer_entry_decode(b, &e2);
	assert_memory_equal(&e, &e2, offsetof(struct footer_entry, header_crc) + 4);
	pack_trailer_encode(&t, c);
	assert_memory_equal(c, "GRNFOOT\0", 8);
	assert_true(u64_at(c + 24) == 8192 && u64_at(c + 32) == 8000 && u64_at(c + 52) == 10);
	assert_int_equal(pack_trailer_decode(c, sizeof(c), &t2), 0);
	assert_memory_equal(&t, &t2, sizeof(t));
	for (uint32_t bit = 0; bit < 8 * sizeof(c); bit++) {
		c[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_not_equal(pack_trailer_decode(c, sizeof(c), &t2), 0);
		c[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(footer_size(0), 4096);
	assert_int_equal(footer_size(100), 4096);
	assert_int_equal(footer_size(101), 8192); /* 4,040 + 64 > 4,096 */
}

static void test_random_bytes_are_never_accepted(void **state)
{
	uint8_t b[512];
	struct record r;
	struct pack_header h;
	struct pack_trailer t;
	struct rng rng;
	uint32_t need;

	(void)state;
	rng_seed(&rng, 4);
	for (uint32_t i = 0; i < 200000; i++) {
		for (uint32_t k = 0; k < sizeof(b); k += 8) {
			uint64_t v = rng_next(&rng);

			memcpy(b + k, &v, 8);
		}
		memcpy(b, i % 3 == 0 ? "GREC\1" : i % 3 == 1 ? "GRNPACK" : "GRNFOOT", i % 3 == 0 ? 5 : 8);
		assert_int_not_equal(record_decode(b, sizeof(b), &r, &need), 0);
		assert_int_not_equal(pack_header_decode(b, sizeof(b), &h), 0);
		assert_int_not_equal(pack_trailer_decode(b, sizeof(b), &t), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_format_3_1_header_bytes),
		cmocka_unit_test(test_format_3_1_refuses_what_it_does_not_know),
		cmocka_unit_test(test_format_3_2_record_bytes),
		cmocka_unit_test(test_format_3_2_short_input_says_how_much_is_needed),
		cmocka_unit_test(test_format_3_2_every_flipped_bit_is_found),
		cmocka_unit_test(test_format_3_2_too_long_parts_are_refused),
		cmocka_unit_test(test_format_3_4_fillers_of_every_size),
		cmocka_unit_test(test_format_3_6_3_7_footer_bytes),
		cmocka_unit_test(test_random_bytes_are_never_accepted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
