/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: frames come out of a stream the same however it is cut; nothing above the caps or damaged gets through. */
#include "net/framer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct framer_caps caps = { 4096, 65536 };
static uint8_t stream[8192], meta[4096], data[65536];

static size_t frame_put(
	uint8_t *out, struct frame f, const void *meta_bytes, const void *data_bytes)
{
	f.meta_crc = f.meta_len ? crc32c(0, meta_bytes, f.meta_len) : 0;
	frame_encode(&f, out);
	if (f.meta_len) memcpy(out + WIRE_HEADER_SIZE, meta_bytes, f.meta_len);
	if (f.data_len) memcpy(out + WIRE_HEADER_SIZE + f.meta_len, data_bytes, f.data_len);
	return (size_t)WIRE_HEADER_SIZE + f.meta_len + f.data_len;
}

static struct frame frame_of(uint32_t meta_len, uint32_t data_len)
{
	return (struct frame){
		.op = OP_PUT, .request = 7, .meta_len = meta_len, .data_len = data_len
	};
}

/* Feeds `len` bytes in pieces of `step`; returns how many whole frames came, or the error. */
static int feed(size_t len, size_t step)
{
	struct framer fr;
	int frames = 0;

	framer_reset(&fr);
	for (size_t at = 0; at < len; at += step) {
		struct slice in = slice_of(stream + at, step < len - at ? step : len - at);
		for (;;) {
			if (!fr.has_body) {
				int res = framer_header(&fr, &in, &caps);
				if (res < 0) return res;
				if (res == 0) break;
				framer_body(&fr, meta, data);
			}
			if (!framer_fill(&fr, &in)) break;
			if (framer_check(&fr) < 0) return framer_check(&fr);
			frames++;
			framer_reset(&fr);
		}
	}
	assert_int_equal(framer_in_frame(&fr), 0);
	return frames;
}

static void test_frames_are_the_same_however_the_stream_is_cut(void **state)
{
	size_t len = 0;

	(void)state;
	len += frame_put(stream + len, frame_of(5, 3), "hello", "abc");
	len += frame_put(stream + len, frame_of(0, 0), NULL, NULL);
	len += frame_put(stream + len, frame_of(0, 4), NULL, "data");
	len += frame_put(stream + len, frame_of(4, 0), "meta", NULL);
	for (size_t step = 1; step <= len; step++) assert_int_equal(feed(len, step), 4);
	assert_memory_equal(meta, "meta", 4);
}

static void test_the_rest_of_a_body_may_be_received_in_place(void **state)
{
	struct framer fr;
	uint8_t *at;
	size_t len = frame_put(stream, frame_of(4, 6), "meta", "direct");
	struct slice in = slice_of(stream, WIRE_HEADER_SIZE + 2);

	(void)state;
	framer_reset(&fr);
	assert_int_equal(framer_header(&fr, &in, &caps), 1);
	framer_body(&fr, meta, data);
	assert_false(framer_fill(&fr, &in));
	assert_int_equal(framer_missing(&fr), 8);
	assert_int_equal(framer_room(&fr, &at), 2);
	assert_ptr_equal(at, meta + 2);
	memcpy(at, stream + WIRE_HEADER_SIZE + 2, 2);
	framer_received(&fr, 2);
	assert_int_equal(framer_room(&fr, &at), 6);
	assert_ptr_equal(at, data);
	memcpy(at, stream + len - 6, 6);
	framer_received(&fr, 6);
	assert_int_equal(framer_room(&fr, &at), 0);
	assert_true(framer_fill(&fr, &in));
	assert_int_equal(framer_check(&fr), 0);
}

static int header_result(struct frame f, size_t flip)
{
	struct framer fr;
	uint8_t head[WIRE_HEADER_SIZE];
	struct slice in = slice_of(head, sizeof(head));

	frame_encode(&f, head);
	if (flip < sizeof(head)) head[flip] ^= 1;
	framer_reset(&fr);
	return framer_header(&fr, &in, &caps);
}

static void test_lengths_above_the_caps_are_refused_before_any_room(void **state)
{
	(void)state;
	assert_int_equal(header_result(frame_of(caps.meta_max, caps.data_max), 99), 1);
	assert_int_equal(header_result(frame_of(caps.meta_max + 1, 0), 99), -GRANARY_ETOOBIG);
	assert_int_equal(header_result(frame_of(0, caps.data_max + 1), 99), -GRANARY_ETOOBIG);
	assert_int_equal(header_result(frame_of(UINT32_MAX, UINT32_MAX), 99), -GRANARY_ETOOBIG);
}

static void test_every_flipped_byte_of_a_header_is_noticed(void **state)
{
	(void)state;
	for (size_t i = 0; i < WIRE_HEADER_SIZE; i++)
		assert_int_equal(header_result(frame_of(5, 5), i), -GRANARY_EPROTO);
}

static void test_other_versions_and_request_id_zero_are_refused(void **state)
{
	struct framer fr;
	uint8_t head[WIRE_HEADER_SIZE];
	struct slice in = slice_of(head, sizeof(head));
	struct frame f = frame_of(0, 0);
	uint32_t crc;

	(void)state;
	frame_encode(&f, head);
	head[2] = 2;
	crc = crc32c(0, head, 28);
	memcpy(head + 28, &crc, 4);
	framer_reset(&fr);
	assert_int_equal(framer_header(&fr, &in, &caps), -GRANARY_EVERSION);
	f.request = 0;
	assert_int_equal(header_result(f, 99), -GRANARY_EPROTO);
	f.op = OP_GOODBYE;
	assert_int_equal(header_result(f, 99), 1);
	f = frame_of(0, 0);
	f.flags = FRAME_RESPONSE;
	assert_int_equal(header_result(f, 99), -GRANARY_EPROTO);
}

static void test_a_request_with_a_status_or_unknown_flags_fails_alone(void **state)
{
	struct frame f = frame_of(4, 0);

	(void)state;
	f.status = 1;
	assert_int_equal(feed(frame_put(stream, f, "meta", NULL), 100), -GRANARY_EPROTO);
	f = frame_of(4, 0);
	f.flags = FRAME_RELAXED;
	assert_int_equal(feed(frame_put(stream, f, "meta", NULL), 100), -GRANARY_EPROTO);
	f.flags = FRAME_RESENT;
	assert_int_equal(feed(frame_put(stream, f, "meta", NULL), 100), 1);
}

static void test_a_damaged_meta_fails_alone(void **state)
{
	size_t len = frame_put(stream, frame_of(4, 0), "meta", NULL);

	(void)state;
	stream[WIRE_HEADER_SIZE + 1] ^= 0x10;
	assert_int_equal(feed(len, len), -GRANARY_EPROTO);
	struct frame f = frame_of(0, 0);
	f.meta_crc = 1; /* of no meta it must be 0 */
	frame_encode(&f, stream);
	assert_int_equal(feed(WIRE_HEADER_SIZE, 100), -GRANARY_EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames_are_the_same_however_the_stream_is_cut),
		cmocka_unit_test(test_the_rest_of_a_body_may_be_received_in_place),
		cmocka_unit_test(test_lengths_above_the_caps_are_refused_before_any_room),
		cmocka_unit_test(test_every_flipped_byte_of_a_header_is_noticed),
		cmocka_unit_test(test_other_versions_and_request_id_zero_are_refused),
		cmocka_unit_test(test_a_request_with_a_status_or_unknown_flags_fails_alone),
		cmocka_unit_test(test_a_damaged_meta_fails_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
