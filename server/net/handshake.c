/* SPDX-License-Identifier: Apache-2.0 */
/* handshake.c -- the two messages that open a connection, PROTOCOL 2.1 and 2.2.
 * Invariants: (1) no branch or time depends on the secret; (2) an unknown key costs what a wrong secret costs; (3) the
 * transcript is the exact bytes that went over the wire. */
#include "net/handshake.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "common/name.h"

enum { LABEL_SIZE = sizeof(WIRE_CLIENT_LABEL) - 1, SESSION_SIZE = 8, BINDING_NONE = 0 };
_Static_assert(
	sizeof(WIRE_CLIENT_LABEL) == sizeof(WIRE_SERVER_LABEL), "one place for either label");

static int hello_judge(const struct hello *h, const char **why)
{
	*why = "the lowest version is above the highest";
	if (h->version_low > h->version_high) return -GRANARY_EPROTO;
	*why = "this server speaks protocol version 1 only";
	if (h->version_low > WIRE_VERSION || h->version_high < WIRE_VERSION)
		return -GRANARY_EVERSION;
	*why = "channel binding is not supported by this server; send kind 0";
	if (h->binding_kind != BINDING_NONE) return -GRANARY_EUNSUPPORTED;
	*why = "channel binding bytes without a kind";
	if (h->binding.len > 0) return -GRANARY_EPROTO;
	*why = "the client's cap for the data of a frame is below 1 MiB";
	if (h->data_cap < HELLO_DATA_CAP_MIN) return -GRANARY_EPROTO;
	*why = "the access key id is longer than 64 bytes";
	if (h->key_id.len > HELLO_KEY_ID_MAX) return -GRANARY_EPROTO;
	*why = "the client name is longer than 256 bytes or not UTF-8";
	if (h->client.len > HELLO_CLIENT_NAME_MAX || !utf8_valid(h->client)) return -GRANARY_EPROTO;
	return 0;
}

int hello_parse(struct slice meta, struct hello *out, const char **why)
{
	struct cur c = cur_of(meta.p, meta.len);

	out->version_low = cur_u16(&c);
	out->version_high = cur_u16(&c);
	out->data_cap = cur_u32(&c);
	out->nonce = cur_take(&c, WIRE_NONCE_SIZE);
	out->session = cur_u64(&c);
	out->binding_kind = cur_u8(&c);
	out->binding = cur_bytes16(&c);
	out->key_id = cur_bytes16(&c);
	out->client = cur_bytes16(&c);
	*why = "the meta of HELLO does not parse";
	return cur_done(&c) ? hello_judge(out, why) : -GRANARY_EPROTO;
}

size_t hello_answer_encode(const struct hello_answer *a, uint8_t out[HELLO_ANSWER_MAX])
{
	struct wr w = wr_of(out, HELLO_ANSWER_MAX);

	wr_u16(&w, WIRE_VERSION);
	wr_u32(&w, WIRE_META_MAX);
	wr_u32(&w, WIRE_DATA_MAX);
	wr_u32(&w, WIRE_INFLIGHT_MAX);
	wr_bytes(&w, a->nonce, WIRE_NONCE_SIZE);
	wr_bytes(&w, a->store_id, 16);
	wr_u64(&w, a->boot_id);
	wr_u64(&w, a->store_time_ns);
	wr_bytes16(&w, slice_str(a->server));
	return wr_ok(&w) ? wr_len(&w) : 0;
}

int transcript_init(struct transcript *t, struct slice hello, struct slice answer)
{
	t->len = LABEL_SIZE + hello.len + answer.len;
	t->bytes = malloc(t->len + SESSION_SIZE);
	if (!t->bytes) return -GRANARY_ENOMEM;
	memcpy(t->bytes + LABEL_SIZE, hello.p, hello.len);
	memcpy(t->bytes + LABEL_SIZE + hello.len, answer.p, answer.len);
	return 0;
}

void transcript_release(struct transcript *t)
{
	free(t->bytes);
	*t = (struct transcript){ 0 };
}

static bool hmac(const uint8_t *secret, const uint8_t *p, size_t len, uint8_t out[WIRE_HMAC_SIZE])
{
	unsigned out_len = WIRE_HMAC_SIZE;
	return HMAC(EVP_sha256(), secret, WIRE_SECRET_SIZE, p, len, out, &out_len) &&
	       out_len == WIRE_HMAC_SIZE;
}

bool transcript_client_proof(
	struct transcript *t, const uint8_t *secret, const uint8_t proof[WIRE_HMAC_SIZE])
{
	static const uint8_t dummy[WIRE_SECRET_SIZE] = { 0x5a };
	uint8_t want[WIRE_HMAC_SIZE] = { 0 };

	memcpy(t->bytes, WIRE_CLIENT_LABEL, LABEL_SIZE);
	bool made = hmac(secret ? secret : dummy, t->bytes, t->len, want);
	bool same = CRYPTO_memcmp(want, proof, WIRE_HMAC_SIZE) == 0;
	explicit_bzero(want, sizeof(want));
	return made & same & (secret != NULL);
}

int transcript_auth_answer(struct transcript *t, const uint8_t *secret, uint64_t session,
	uint32_t lease_s, uint8_t out[AUTH_ANSWER_SIZE])
{
	struct wr w = wr_of(out, AUTH_ANSWER_SIZE);

	memcpy(t->bytes, WIRE_SERVER_LABEL, LABEL_SIZE);
	memcpy(t->bytes + t->len, &session, SESSION_SIZE);
	wr_u64(&w, session);
	wr_u32(&w, lease_s);
	uint8_t *proof = wr_room(&w, WIRE_HMAC_SIZE);
	return hmac(secret, t->bytes, t->len + SESSION_SIZE, proof) ? 0 : -GRANARY_ENOMEM;
}
