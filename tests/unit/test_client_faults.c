/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what goes wrong between client and server is repeated where that is safe, and otherwise said; no wrong byte is
 * handed over; deadlines hold.
 * Method: a peer that fails on demand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "granary/granary.h"
#include "test_client_peer.h"

static struct peer *peer;
static struct granary_client *client;

static struct granary_client *open_client(const char *url, uint32_t retries_max)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_client *c;

	o.url = url;
	o.access_key = PEER_KEY;
	o.secret = PEER_SECRET;
	o.timeout_ms = 10000;
	o.retries_max = retries_max;
	assert_int_equal(0, granary_open(&o, &c));
	return c;
}

static int setup(void **state)
{
	(void)state;
	peer = peer_start();
	client = open_client(peer->url, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	granary_close(&client);
	peer_stop(peer);
	return 0;
}

static void assert_reads(const char *key, size_t size)
{
	uint8_t *expected = malloc(size + 8);
	void *data;
	size_t len;

	peer_fill(key, expected, size);
	assert_int_equal(0, granary_get(client, key, &data, &len, NULL));
	assert_int_equal(size, len);
	assert_memory_equal(expected, data, len);
	granary_free(data);
	free(expected);
}

/* ---- checksums ---- */

static void test_wrong_checksum_is_asked_for_again_and_verified(void **state)
{
	struct granary_info info = GRANARY_INIT(granary_info);

	(void)state;
	peer_add(peer, "a", 200000);
	PEER_SET(peer, corrupt, 1);
	assert_reads("a", 200000);
	assert_int_equal(1, peer->verifies);
	granary_client_info(client, &info);
	assert_int_equal(1, info.crc_errors);
}

static void test_corrupt_when_no_copy_is_good(void **state)
{
	struct granary_entry e[3] = { { .ref = granary_ref_key("a") }, { .ref = granary_ref_key("b") },
		{ .ref = granary_ref_key("c") } };
	struct granary_batch b = GRANARY_INIT(granary_batch);
	struct granary_op *op;

	(void)state;
	peer_add(peer, "a", 100);
	peer_add(peer, "b", 100);
	peer_add(peer, "c", 100);
	PEER_SET(peer, corrupt, 1);
	PEER_SET(peer, corrupt_verify, 1); /* the first one, both times */
	b.entries = e;
	b.count = 3;
	assert_int_equal(2, granary_read_batch(client, &b, NULL, &op));
	assert_int_equal(-GRANARY_ECORRUPT, e[0].status);
	assert_null(e[0].data);
	assert_int_equal(0, e[1].status);
	assert_non_null(strstr(granary_op_error(op), "'a'"));
	granary_op_free(&op);
}

/* ---- connections ---- */

static void test_read_goes_on_after_a_lost_connection(void **state)
{
	(void)state;
	peer_add(peer, "a", 3000000);
	PEER_SET(peer, drop_requests, 2);
	assert_reads("a", 3000000);
	PEER_SET(peer, drop_midway, 2);
	assert_reads("a", 3000000);
	assert_int_equal(5, peer->logins);
	assert_int_equal(1, peer->next_session); /* the same session */
}

static void test_mutation_is_resent_under_its_sequence(void **state)
{
	(void)state;
	assert_int_equal(0, granary_put(client, "a", "1", 1, NULL));
	PEER_SET(peer, drop_requests, 1);
	assert_int_equal(0, granary_put(client, "a", "2", 1, NULL));
	assert_int_equal(2, peer->last_sequence);
	assert_int_equal(1, peer->resent);
	assert_int_equal(0, granary_put(client, "a", "3", 1, NULL));
	assert_int_equal(3, peer->last_sequence);
	assert_int_equal(1, peer->resent);
}

static void test_mutation_is_not_resent_into_a_new_session(void **state)
{
	(void)state;
	assert_int_equal(0, granary_put(client, "a", "1", 1, NULL));
	PEER_SET(peer, forget_sessions, true);
	PEER_SET(peer, drop_requests, 1);
	assert_int_equal(-GRANARY_ECLOSED, granary_put(client, "a", "2", 1, NULL));
	assert_int_equal(0, granary_put(client, "a", "3", 1, NULL));
	assert_int_equal(1, peer->last_sequence); /* the new session's first */
}

static void test_a_session_refused_at_the_log_in_is_begun_anew(void **state)
{
	(void)state;
	assert_int_equal(0, granary_put(client, "a", "1", 1, NULL));
	PEER_SET(peer, stale_session, peer->last_session);
	PEER_SET(peer, drop_requests, 1);
	assert_int_equal(-GRANARY_ECLOSED, granary_put(client, "a", "2", 1, NULL));
	assert_int_equal(0, granary_put(client, "a", "3", 1, NULL));
	assert_int_equal(1, peer->last_sequence);
	assert_true(peer->last_session != peer->stale_session);
}

static void test_busy_is_repeated_under_a_new_sequence(void **state)
{
	(void)state;
	PEER_SET(peer, busy, 3);
	assert_int_equal(0, granary_put(client, "a", "1", 1, NULL));
	assert_int_equal(4, peer->last_sequence);
	assert_int_equal(0, peer->resent);
	granary_close(&client);
	client = open_client(peer->url, 2);
	PEER_SET(peer, busy, 3);
	assert_int_equal(-GRANARY_EBUSY, granary_ping(client, NULL));
	assert_string_equal("busy", granary_last_error(client));
}

static void test_upload_goes_on_after_a_lost_connection(void **state)
{
	size_t size = 30000000;
	uint8_t *bytes = malloc(size + 8);

	(void)state;
	peer_fill("a", bytes, size);
	assert_int_equal(0, granary_ping(client, NULL));
	struct granary_put p = { .ref = granary_ref_key("a"), .data = bytes, .size = size };
	struct granary_op *op;
	assert_int_equal(0, granary_put_batch_start(client, &p, 1, NULL, &op));
	for (int i = 0; i < 5 && !granary_op_done(op); i++) {
		granary_wait(op, 3);
		PEER_SET(peer, drop_requests, 1);
	}
	assert_int_equal(1, granary_wait(op, GRANARY_FOREVER));
	granary_op_free(&op);
	PEER_SET(peer, drop_requests, 0);
	assert_reads("a", size);
	free(bytes);
}

/* ---- log-in ---- */

static void test_refused_login_is_final(void **state)
{
	(void)state;
	PEER_SET(peer, refuse_auth, true);
	uint64_t before = clock_mono_ns();
	assert_int_equal(-GRANARY_EAUTH, granary_ping(client, NULL));
	assert_non_null(strstr(granary_last_error(client), "unknown access key"));
	assert_true(clock_mono_ns() - before < 2000000000);
}

static void test_server_that_does_not_know_the_secret_is_refused(void **state)
{
	(void)state;
	PEER_SET(peer, wrong_proof, true);
	assert_int_equal(-GRANARY_EAUTH, granary_ping(client, NULL));
	assert_non_null(strstr(granary_last_error(client), "does not know"));
}

static void test_unreachable_says_what_was_tried(void **state)
{
	struct granary_client *c = open_client("granary://%2Fnonexistent%2Fsocket/abc", 1);

	(void)state;
	assert_int_equal(-GRANARY_EUNREACHABLE, granary_ping(c, NULL));
	assert_non_null(strstr(granary_last_error(c), "/nonexistent/socket"));
	granary_close(&c);
	c = open_client("granary://%2Fnonexistent%2Fsocket/abc", 0);
	assert_int_equal(-GRANARY_EUNREACHABLE, granary_ping(c, GRANARY_CALL(.timeout_ms = 100)));
	granary_close(&c);
}

static void test_hosts_are_tried_in_turn(void **state)
{
	char url[256];

	(void)state;
	snprintf(url, sizeof(url), "granary://%%2Fnonexistent,127.0.0.1:1,%s", peer->url + strlen("granary://"));
	struct granary_client *c = open_client(url, 0);
	assert_int_equal(0, granary_ping(c, NULL));
	granary_close(&c);
}

/* ---- deadlines ---- */

static void test_deadline_holds_against_a_silent_server(void **state)
{
	struct granary_entry e = { .ref = granary_ref_key("a") };
	struct granary_batch b = GRANARY_INIT(granary_batch);
	static uint8_t buf[100];

	(void)state;
	PEER_SET(peer, silent, true);
	e.buf = buf;
	e.buf_size = sizeof(buf);
	b.entries = &e;
	b.count = 1;
	uint64_t before = clock_mono_ns();
	assert_int_equal(-GRANARY_ETIMEDOUT, granary_read_batch(client, &b, GRANARY_CALL(.timeout_ms = 100), NULL));
	uint64_t took = clock_mono_ns() - before;
	assert_true(took >= 100000000 && took < 1000000000);
	assert_int_equal(-GRANARY_ETIMEDOUT, e.status);
	PEER_SET(peer, silent, false);
	assert_int_equal(0, granary_ping(client, NULL)); /* the connection is still good */
	assert_int_equal(1, peer->logins);
}

static void answer_late(struct peer *p, int fd, const struct frame *f)
{
	(void)p;
	usleep(200000);
	static uint8_t data[64];
	uint8_t meta[128];
	struct wr w = wr_of(meta, sizeof(meta));
	wr_u16(&w, 1);
	wr_u32(&w, 0); wr_u16(&w, 0); wr_u8(&w, PIECE_LAST); wr_u8(&w, 0);
	wr_u64(&w, 1); wr_u64(&w, 1); wr_u64(&w, 64); wr_u64(&w, 1); wr_u64(&w, 1); wr_u64(&w, 0);
	wr_u32(&w, 64); wr_u16(&w, 1); wr_u32(&w, crc32c(0, data, 64));
	peer_frame(fd, f, FRAME_LAST, 0, slice_of(meta, wr_len(&w)), slice_of(data, 64));
}

static void test_nothing_is_written_after_the_deadline(void **state)
{
	uint8_t *buf = malloc(64);

	(void)state;
	PEER_SET(peer, bad_answers, 1);
	PEER_SET(peer, bad_answer, answer_late);
	assert_int_equal(-GRANARY_ETIMEDOUT, granary_read(client, "a", 0, buf, 64, GRANARY_CALL(.timeout_ms = 50)));
	free(buf); /* a write now is a use after free */
	assert_int_equal(0, granary_ping(client, NULL));
	assert_int_equal(1, peer->logins);
}

/* ---- answers that make no sense: never a crash, never bytes, and the next call works ---- */

enum { BAD_MAGIC, BAD_VERSION, BAD_HEADER_CRC, BAD_META_CRC, BAD_DATA_HUGE, BAD_META_HUGE, BAD_REQUEST, BAD_OP,
	BAD_GARBAGE,
	BAD_KINDS };
static int bad_kind;

static void answer_bad_frame(struct peer *p, int fd, const struct frame *f)
{
	uint8_t head[WIRE_HEADER_SIZE], meta[16] = { 1, 2, 3 };
	struct frame a = { .op = f->op, .flags = FRAME_RESPONSE | FRAME_LAST, .request = f->request, .meta_len = 16,
		.meta_crc = crc32c(0, meta, 16) };

	(void)p;
	a.request += bad_kind == BAD_REQUEST;
	a.op = (uint8_t)(a.op + (bad_kind == BAD_OP));
	a.meta_crc ^= bad_kind == BAD_META_CRC;
	a.data_len = bad_kind == BAD_DATA_HUGE ? UINT32_MAX : 0;
	a.meta_len = bad_kind == BAD_META_HUGE ? UINT32_MAX : 16;
	frame_encode(&a, head);
	head[0] = bad_kind == BAD_MAGIC ? 'X' : head[0];
	head[28] ^= bad_kind == BAD_HEADER_CRC;
	if (bad_kind == BAD_VERSION) {
		head[2] = 9;
		uint32_t crc = crc32c(0, head, 28);
		memcpy(head + 28, &crc, 4);
	}
	peer_send(fd, head, sizeof(head));
	peer_send(fd, meta, 16);
}

static void test_frames_that_make_no_sense(void **state)
{
	(void)state;
	peer_add(peer, "a", 100);
	for (bad_kind = 0; bad_kind < BAD_KINDS; bad_kind++) {
		PEER_SET(peer, bad_answer, answer_bad_frame);
		PEER_SET(peer, bad_answers, 1);
		granary_close(&client);
		client = open_client(peer->url, UINT32_MAX);
		void *data;
		size_t len;
		int err = granary_get(client, "a", &data, &len, NULL);
		if (err >= 0)
			fail_msg("kind %d was taken for an answer", bad_kind);
		assert_non_null(granary_last_error(client)[0] ? "" : NULL);
		assert_reads("a", 100);
	}
}

/* One piece with a field out of line. */
struct bad_piece { uint32_t index, status, flags, len, crcs; uint64_t size, offset; uint16_t pieces; bool wrong_sum; };
static const struct bad_piece *bad_piece;

static void answer_bad_piece(struct peer *p, int fd, const struct frame *f)
{
	static const uint8_t data[200000];
	uint8_t meta[512];
	struct wr w = wr_of(meta, sizeof(meta));

	(void)p;
	wr_u16(&w, bad_piece->pieces);
	wr_u32(&w, bad_piece->index);
	wr_u16(&w, (uint16_t)bad_piece->status);
	wr_u8(&w, (uint8_t)bad_piece->flags);
	wr_u8(&w, 0);
	wr_u64(&w, 1); wr_u64(&w, 1); wr_u64(&w, bad_piece->size); wr_u64(&w, 1); wr_u64(&w, 1); wr_u64(&w,
		bad_piece->offset);
	wr_u32(&w, bad_piece->len);
	wr_u16(&w, (uint16_t)bad_piece->crcs);
	for (uint32_t i = 0; i < bad_piece->crcs && i < 8; i++)
		wr_u32(&w, crc32c(0, data, bad_piece->len < CRC_BLOCK_SIZE ? bad_piece->len : CRC_BLOCK_SIZE));
	peer_frame(fd, f, FRAME_LAST, 0, slice_of(meta, wr_len(&w)), slice_of(data,
		bad_piece->len + bad_piece->wrong_sum));
}

static void test_pieces_that_make_no_sense(void **state)
{
	static const struct bad_piece bad[] = {
		{ .index = 1, .flags = PIECE_LAST, .len = 10, .crcs = 1, .size = 10, .pieces = 1 },
		{ .index = UINT32_MAX, .flags = PIECE_LAST, .len = 10, .crcs = 1, .size = 10, .pieces = 1 },
		{ .flags = PIECE_LAST, .len = 10, .crcs = 1, .size = 20, .pieces = 1 },                  /* short */
		{ .flags = PIECE_LAST, .len = 10, .crcs = 0, .size = 10, .pieces = 1 },
		{ .flags = PIECE_LAST, .len = 10, .crcs = 2, .size = 10, .pieces = 1 },
		{ .flags = PIECE_LAST, .len = 10, .crcs = 60000, .size = 10, .pieces = 1 },
		{ .flags = PIECE_LAST, .len = 10, .crcs = 1, .size = 10, .pieces = 2 },
		{ .flags = PIECE_LAST, .len = 10, .crcs = 1, .size = 10, .pieces = 0 },
		{ .flags = PIECE_LAST, .len = 10, .crcs = 1, .size = 10, .pieces = 1, .wrong_sum = true },
		{ .flags = PIECE_LAST, .len = 10, .crcs = 1, .size = 100, .offset = 50, .pieces = 1 },   /* a gap */
		{ .flags = PIECE_LAST, .len = 10, .crcs = 1, .size = 10, .offset = UINT64_MAX, .pieces = 1 },
		/* never ends */
		{ .flags = 0, .len = 10, .crcs = 1, .size = 10, .pieces = 1 },
		{ .flags = PIECE_LAST | PIECE_HASH, .len = 10, .crcs = 1, .size = 10, .pieces = 1 },
		{ .flags = PIECE_LAST | PIECE_TEXT, .len = 10, .crcs = 1, .size = 10, .pieces = 1 },
		{ .flags = PIECE_LAST, .status = 1, .len = 10, .crcs = 1, .size = 10, .pieces = 1 },
		{ .flags = PIECE_LAST, .status = 65535, .pieces = 1 },
	};

	(void)state;
	peer_add(peer, "a", 100);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		void *data;
		size_t len;
		bad_piece = &bad[i];
		PEER_SET(peer, bad_answer, answer_bad_piece);
		PEER_SET(peer, bad_answers, 1);
		granary_close(&client);
		client = open_client(peer->url, UINT32_MAX);
		if (granary_get(client, "a", &data, &len, NULL) >= 0)
			fail_msg("piece %zu was taken for an answer", i);
		assert_null(data);
		assert_reads("a", 100);
	}
}

static void answer_noise(struct peer *p, int fd, const struct frame *f)
{
	uint8_t meta[300];

	rand_bytes(meta, sizeof(meta));
	meta[1] = meta[2] = meta[3] = meta[4] = 0;
	peer_frame(fd, f, FRAME_LAST, 0, slice_of(meta, p->requests % sizeof(meta)), slice_of(NULL, 0));
}

static void test_answers_of_noise(void **state)
{
	struct granary_ref ref = granary_ref_key("a");
	struct granary_stat st;
	struct granary_list_page *page;
	struct granary_bucket_page *buckets;
	struct granary_key_page *access_keys;
	struct granary_key_secret secret;
	struct granary_grant grant = { .actions = GRANARY_MAY_READ };
	uint64_t id;

	(void)state;
	PEER_SET(peer, bad_answer, answer_noise);
	PEER_SET(peer, bad_answers, UINT32_MAX);
	granary_close(&client);
	client = open_client(peer->url, 3);
	for (int i = 0; i < 30; i++) { /* any result but a crash or a leak */
		if (granary_stat_batch(client, &ref, 1, GRANARY_STAT_META, &st, NULL) == 1)
			granary_free(st.meta);
		if (granary_list(client, NULL, &page, NULL) == 0)
			granary_free(page);
		if (granary_bucket_list(client, NULL, &buckets, NULL) == 0)
			granary_free(buckets);
		if (granary_key_list(client, NULL, &access_keys, NULL) == 0)
			granary_free(access_keys);
		assert_true(granary_key_create(client, &grant, 1, 0, NULL, &secret, NULL) <= 0);
		assert_true(granary_mkdir(client, ref, 0755, 0, &id, NULL) <= 0);
		assert_true(granary_put(client, "a", "x", 1, NULL) <= 0);
		assert_true(granary_delete(client, "a", NULL) <= 0);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_wrong_checksum_is_asked_for_again_and_verified),
		TEST(test_corrupt_when_no_copy_is_good),
		TEST(test_read_goes_on_after_a_lost_connection),
		TEST(test_mutation_is_resent_under_its_sequence),
		TEST(test_mutation_is_not_resent_into_a_new_session),
		TEST(test_a_session_refused_at_the_log_in_is_begun_anew),
		TEST(test_busy_is_repeated_under_a_new_sequence),
		TEST(test_upload_goes_on_after_a_lost_connection),
		TEST(test_refused_login_is_final),
		TEST(test_server_that_does_not_know_the_secret_is_refused),
		TEST(test_unreachable_says_what_was_tried),
		TEST(test_hosts_are_tried_in_turn),
		TEST(test_deadline_holds_against_a_silent_server),
		TEST(test_nothing_is_written_after_the_deadline),
		TEST(test_frames_that_make_no_sense),
		TEST(test_pieces_that_make_no_sense),
		TEST(test_answers_of_noise),
	};

	if (peer_engine_missing())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
