/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: answers leave whole and in order however sends cut them; small ones together, large ones alone. And the pool:
 * classes waste at most a quarter and never hand out less than asked for. */
#include "net/sendq.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/rand.h"
#include "net/blocks.h"
#include "req/req.h"

enum { DATA_MAX = 4 << 20 };
static uint8_t data[DATA_MAX];
static struct sendbuf sb;
static uint8_t *out; /* what the peer would see */
static size_t out_len;

static struct answer *answer_make(
	uint64_t request, uint32_t meta_len, uint32_t pieces, uint32_t piece)
{
	struct answer *a = calloc(1, sizeof(*a));

	assert_non_null(a);
	a->request = request;
	a->op = OP_READ;
	a->flags = FRAME_LAST;
	a->meta = data + request % 100;
	a->meta_len = meta_len;
	a->iov = calloc(pieces + 1, sizeof(struct iovec));
	assert_non_null(a->iov);
	a->iov_count = pieces;
	a->data_len = pieces * piece;
	for (uint32_t i = 0; i < pieces; i++)
		a->iov[i] = (struct iovec){ data + (size_t)i * 7, piece };
	return a;
}

static void answer_unmake(struct answer *a)
{
	free(a->iov);
	free(a);
}

static uint32_t answers_unmake(struct answer *list, uint64_t *expect)
{
	uint32_t n = 0;

	while (list) {
		struct answer *a = list;
		list = a->next;
		if (expect) assert_int_equal(a->request, (*expect)++);
		answer_unmake(a);
		n++;
	}
	return n;
}

static uint64_t send_one(struct sendq *q)
{
	uint32_t iovs = sendq_build(q, &sb);
	uint64_t len = 0;

	assert_true(iovs <= SEND_IOV_MAX);
	for (uint32_t i = 0; i < iovs; i++) {
		assert_true(sb.iov[i].iov_len > 0);
		memcpy(out + out_len, sb.iov[i].iov_base, sb.iov[i].iov_len);
		out_len += sb.iov[i].iov_len;
		len += sb.iov[i].iov_len;
	}
	assert_int_equal(len, q->sending);
	return len;
}

/* Reads the frame at `at` back and compares it with what answer_make() put in. */
static size_t check_frame(
	size_t at, uint64_t request, uint32_t meta_len, uint32_t pieces, uint32_t piece)
{
	struct frame f;

	assert_int_equal(frame_decode(out + at, &f), 0);
	assert_int_equal(f.request, request);
	assert_int_equal(f.meta_len, meta_len);
	assert_int_equal(f.data_len, pieces * piece);
	assert_int_equal(f.flags, FRAME_RESPONSE | FRAME_LAST);
	at += WIRE_HEADER_SIZE;
	assert_int_equal(f.meta_crc, meta_len ? crc32c(0, out + at, meta_len) : 0);
	if (meta_len) assert_memory_equal(out + at, data + request % 100, meta_len);
	at += meta_len;
	for (uint32_t i = 0; i < pieces; i++, at += piece)
		assert_memory_equal(out + at, data + (size_t)i * 7, piece);
	return at;
}

static void test_random_answers_arrive_whole_and_in_order(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 100, 4096, 16384, 16385, 65536, 114688, 300000,
		1048576 };
	struct {
		uint32_t meta_len, pieces, piece;
	} shapes[32];
	struct rng rng;
	struct sendq q;

	(void)state;
	rng_seed(&rng, 42);
	for (int round = 0; round < 60; round++) {
		uint64_t released = 1, want = 0;
		size_t at = 0;
		sendq_init(&q);
		out_len = 0;
		for (uint32_t i = 0; i < 32; i++) {
			shapes[i].piece = sizes[rng_below(&rng, 10)];
			shapes[i].pieces =
				shapes[i].piece > 65536 ? 1 : (uint32_t)rng_below(&rng, 30);
			if (shapes[i].piece <= 100) shapes[i].pieces *= 100;
			shapes[i].meta_len =
				rng_below(&rng, 8) == 0 ? 1200000 : (uint32_t)rng_below(&rng, 300);
			sendq_push(&q, answer_make(i + 1, shapes[i].meta_len, shapes[i].pieces,
					       shapes[i].piece));
			want += 32 + shapes[i].meta_len + shapes[i].pieces * shapes[i].piece;
		}
		assert_int_equal(q.bytes, want);
		while (q.head) {
			assert_true(send_one(&q) > 0);
			answers_unmake(sendq_sent(&q), &released);
		}
		assert_int_equal(q.bytes, 0);
		assert_int_equal(released, 33);
		for (uint32_t i = 0; i < 32; i++)
			at = check_frame(
				at, i + 1, shapes[i].meta_len, shapes[i].pieces, shapes[i].piece);
		assert_int_equal(at, out_len);
	}
}

static void test_small_answers_share_a_send(void **state)
{
	struct sendq q;

	(void)state;
	sendq_init(&q);
	out_len = 0;
	for (uint32_t i = 0; i < 128; i++) sendq_push(&q, answer_make(i + 1, 80, 1, 4096));
	assert_int_equal(send_one(&q), 128 * (32 + 80 + 4096));
	answers_unmake(sendq_sent(&q), NULL);
	assert_null(q.head);
	/* One frame of many small pieces, as READ makes them: one send too. */
	sendq_push(&q, answer_make(1, 9000, 128, 4096));
	assert_int_equal(send_one(&q), 32 + 9000 + 128 * 4096);
	answers_unmake(sendq_sent(&q), NULL);
}

static void test_large_samples_go_one_a_send(void **state)
{
	struct sendq q;

	(void)state;
	sendq_init(&q);
	out_len = 0;
	sendq_push(&q, answer_make(1, 90, 1, 100));
	sendq_push(&q, answer_make(2, 90, 1, 114688));
	sendq_push(&q, answer_make(3, 90, 1, 114688));
	sendq_push(&q, answer_make(4, 90, 1, 1048576));
	assert_int_equal(send_one(&q), 32 + 90 + 100);
	answers_unmake(sendq_sent(&q), NULL);
	assert_int_equal(send_one(&q), 32 + 90 + 114688);
	answers_unmake(sendq_sent(&q), NULL);
	assert_int_equal(send_one(&q), 32 + 90 + 114688);
	answers_unmake(sendq_sent(&q), NULL);
	for (int i = 0; i < 8; i++) {
		uint64_t n = send_one(&q);
		assert_true(n <= SEND_CHUNK_MAX && n >= 32 * 1024);
		assert_int_equal(answers_unmake(sendq_sent(&q), NULL), i == 7);
	}
}

static void test_a_drop_keeps_what_a_send_in_flight_touches(void **state)
{
	struct sendq q;

	(void)state;
	sendq_init(&q);
	out_len = 0;
	sendq_push(&q, answer_make(1, 90, 1, 1048576));
	sendq_push(&q, answer_make(2, 0, 1, 10));
	sendq_push(&q, answer_make(3, 0, 1, 10));
	send_one(&q);
	assert_int_equal(answers_unmake(sendq_drop(&q), NULL), 2);
	assert_int_equal(answers_unmake(sendq_sent(&q), NULL), 0);
	assert_int_equal(answers_unmake(sendq_drop(&q), NULL), 1);
	assert_int_equal(q.bytes, 0);
	sendq_push(&q, answer_make(4, 0, 1, 10)); /* usable again */
	assert_int_equal(send_one(&q), 42);
	answers_unmake(sendq_sent(&q), NULL);
}

static void test_pool_classes_hold_what_was_asked_for(void **state)
{
	struct blocks pool;
	uint64_t size = 0;

	(void)state;
	blocks_init(&pool, 1 << 20);
	for (size = 1; size < (UINT64_C(32) << 20); size += 1 + size / 7) {
		uint64_t c = blocks_class_size(size);
		assert_true(c >= size && c % 64 == 0);
		assert_true(size < 512 || c <= size + size / 4 + 64);
	}
	void *a = blocks_take(&pool, 700), *b = blocks_take(&pool, 700);
	assert_non_null(a);
	assert_int_equal((uintptr_t)b % 64, 0);
	memset(a, 1, blocks_class_size(700));
	blocks_give(&pool, a, 700);
	assert_int_equal(pool.cached, blocks_class_size(700));
	assert_ptr_equal(blocks_take(&pool, 720), a); /* the same class */
	blocks_give(&pool, a, 720);
	blocks_give(&pool, b, 700);
	blocks_give(&pool, blocks_take(&pool, 2 << 20), 2 << 20); /* above the limit: freed */
	assert_true(pool.cached <= pool.cached_max);
	blocks_give(&pool, blocks_take(&pool, UINT64_C(200) << 20), UINT64_C(200) << 20);
	blocks_release(&pool);
}

/* With its first byte, and with nothing else that has descriptors. */
static void test_descriptors_go_with_the_first_byte_of_their_answer(void **state)
{
	static const int fds[2][3] = { { 7, 8, 9 }, { 10, 11, 12 } };
	uint64_t next = 1;
	struct sendq q;

	(void)state;
	sendq_init(&q);
	out_len = 0;
	for (uint64_t i = 0; i < 4; i++) { /* plain, descriptors, descriptors, plain */
		struct answer *a = answer_make(i + 1, 100, 0, 0);
		if (i == 1 || i == 2) {
			a->fds = fds[i - 1];
			a->fd_count = 3;
		}
		sendq_push(&q, a);
	}
	for (int sends = 0; q.head; sends++) {
		struct cmsghdr *h = (struct cmsghdr *)(void *)sb.control;
		bool passes = sends == 1 || sends == 2;

		assert_true(sends < 4);
		assert_int_equal(q.head->request, (uint64_t)sends + 1);
		send_one(&q);
		assert_int_equal(sb.control_len, passes ? CMSG_SPACE(sizeof(fds[0])) : 0);
		if (passes) {
			assert_int_equal(h->cmsg_type, SCM_RIGHTS);
			assert_int_equal(h->cmsg_len, CMSG_LEN(sizeof(fds[0])));
			assert_memory_equal(CMSG_DATA(h), fds[sends - 1], sizeof(fds[0]));
		}
		answers_unmake(sendq_sent(&q), &next);
	}
	assert_int_equal(next, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_answers_arrive_whole_and_in_order),
		cmocka_unit_test(test_small_answers_share_a_send),
		cmocka_unit_test(test_large_samples_go_one_a_send),
		cmocka_unit_test(test_descriptors_go_with_the_first_byte_of_their_answer),
		cmocka_unit_test(test_a_drop_keeps_what_a_send_in_flight_touches),
		cmocka_unit_test(test_pool_classes_hold_what_was_asked_for),
	};
	struct rng rng;

	rng_seed(&rng, 1);
	for (size_t i = 0; i < DATA_MAX; i++) data[i] = (uint8_t)rng_next(&rng);
	out = malloc(UINT64_C(256) << 20);
	return out ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
