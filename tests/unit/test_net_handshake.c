/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: HELLO is refused unless every field is in range; only the right secret over the right bytes is a proof. */
#include "net/handshake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

static uint8_t bytes[8192];

struct fields {
	uint16_t low, high;
	uint32_t cap;
	uint8_t kind;
	size_t binding_len, key_len, client_len;
};
static const struct fields good = { 1, 1, 16 << 20, 0, 0, 8, 4 };

static struct slice hello_put(struct fields f)
{
	static const uint8_t zeros[1024];
	char name[512];
	struct wr w = wr_of(bytes, sizeof(bytes));

	memset(name, 'k', sizeof(name));
	wr_u16(&w, f.low);
	wr_u16(&w, f.high);
	wr_u32(&w, f.cap);
	wr_bytes(&w, zeros, WIRE_NONCE_SIZE);
	wr_u64(&w, 77);
	wr_u8(&w, f.kind);
	wr_bytes16(&w, slice_of(zeros, f.binding_len));
	wr_bytes16(&w, slice_of(name, f.key_len));
	wr_bytes16(&w, slice_of(name, f.client_len));
	assert_true(wr_ok(&w));
	return slice_of(bytes, wr_len(&w));
}

static int hello_result(struct fields f)
{
	struct hello h;
	const char *why = NULL;
	int err = hello_parse(hello_put(f), &h, &why);
	assert_non_null(why);
	return err;
}

static void test_hello_is_parsed(void **state)
{
	struct hello h;
	const char *why;

	(void)state;
	assert_int_equal(hello_parse(hello_put(good), &h, &why), 0);
	assert_int_equal(h.session, 77);
	assert_int_equal(h.key_id.len, 8);
	assert_int_equal(h.client.len, 4);
	assert_int_equal(h.data_cap, 16 << 20);
}

static void test_hello_out_of_range_is_refused(void **state)
{
	struct fields f;

	(void)state;
	f = good;
	f.low = 2;
	f.high = 3;
	assert_int_equal(hello_result(f), -GRANARY_EVERSION);
	f = good;
	f.low = 0;
	f.high = 0;
	assert_int_equal(hello_result(f), -GRANARY_EVERSION);
	f = good;
	f.low = 0;
	f.high = 9;
	assert_int_equal(hello_result(f), 0);
	f = good;
	f.low = 2;
	f.high = 1;
	assert_int_equal(hello_result(f), -GRANARY_EPROTO);
	f = good;
	f.cap = (1 << 20) - 1;
	assert_int_equal(hello_result(f), -GRANARY_EPROTO);
	f = good;
	f.kind = 1;
	assert_int_equal(hello_result(f), -GRANARY_EUNSUPPORTED);
	f = good;
	f.binding_len = 1;
	assert_int_equal(hello_result(f), -GRANARY_EPROTO);
	f = good;
	f.key_len = HELLO_KEY_ID_MAX + 1;
	assert_int_equal(hello_result(f), -GRANARY_EPROTO);
	f = good;
	f.client_len = HELLO_CLIENT_NAME_MAX + 1;
	assert_int_equal(hello_result(f), -GRANARY_EPROTO);
}

static void test_a_cut_or_padded_hello_is_refused(void **state)
{
	struct hello h;
	const char *why;
	struct slice s = hello_put(good);

	(void)state;
	for (size_t len = 0; len < s.len; len++)
		assert_int_equal(hello_parse(slice_of(bytes, len), &h, &why), -GRANARY_EPROTO);
	bytes[s.len] = 0;
	assert_int_equal(hello_parse(slice_of(bytes, s.len + 1), &h, &why), -GRANARY_EPROTO);
}

static void test_the_answer_of_hello_fits_its_buffer(void **state)
{
	uint8_t id[16] = { 1 }, out[HELLO_ANSWER_MAX];
	struct hello_answer a = {
		.store_id = id, .boot_id = 5, .store_time_ns = 6, .server = "granaryd 0.1.0"
	};

	(void)state;
	assert_int_equal(hello_answer_encode(&a, out), 2 + 4 + 4 + 4 + 32 + 16 + 8 + 8 + 2 + 14);
}

static void test_only_the_right_secret_is_a_proof(void **state)
{
	uint8_t secret[WIRE_SECRET_SIZE] = { 1, 2, 3 }, other[WIRE_SECRET_SIZE] = { 1, 2, 4 };
	uint8_t proof[WIRE_HMAC_SIZE], answer[AUTH_ANSWER_SIZE], want[WIRE_HMAC_SIZE];
	static const char client[] = "granary client 1hello-meta answer-meta";
	uint8_t server[sizeof(client) - 1 + 8];
	struct transcript t;
	unsigned len;
	uint64_t session = 0x1122334455667788;

	(void)state;
	assert_int_equal(
		transcript_init(&t, slice_str("hello-meta "), slice_str("answer-meta")), 0);
	HMAC(EVP_sha256(), secret, sizeof(secret), (const uint8_t *)client, sizeof(client) - 1,
		proof, &len);
	assert_true(transcript_client_proof(&t, secret, proof));
	assert_false(transcript_client_proof(&t, other, proof));
	assert_false(transcript_client_proof(&t, NULL, proof));
	for (size_t i = 0; i < sizeof(proof); i++) {
		proof[i] ^= 1;
		assert_false(transcript_client_proof(&t, secret, proof));
		proof[i] ^= 1;
	}
	assert_int_equal(transcript_auth_answer(&t, secret, session, 60, answer), 0);
	memcpy(server, client, sizeof(client) - 1);
	memcpy(server, "granary server 1", 16);
	memcpy(server + sizeof(client) - 1, &session, 8);
	HMAC(EVP_sha256(), secret, sizeof(secret), server, sizeof(server), want, &len);
	assert_memory_equal(answer, &session, 8);
	assert_memory_equal(answer + 12, want, sizeof(want));
	transcript_release(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_is_parsed),
		cmocka_unit_test(test_hello_out_of_range_is_refused),
		cmocka_unit_test(test_a_cut_or_padded_hello_is_refused),
		cmocka_unit_test(test_the_answer_of_hello_fits_its_buffer),
		cmocka_unit_test(test_only_the_right_secret_is_a_proof),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
