/* SPDX-License-Identifier: Apache-2.0 */
/* handshake.h -- HELLO and AUTH (PROTOCOL 2.1, 2.2): parsing, answers, proofs. No I/O, no look-ups. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/wire.h"

enum { HELLO_KEY_ID_MAX = 64, HELLO_CLIENT_NAME_MAX = 256, HELLO_DATA_CAP_MIN = 1024 * 1024 };
enum { HELLO_ANSWER_MAX = 256, AUTH_ANSWER_SIZE = 8 + 4 + WIRE_HMAC_SIZE };

struct hello {
	uint16_t version_low, version_high;
	uint32_t data_cap;
	const uint8_t *nonce; /* WIRE_NONCE_SIZE bytes, borrowed */
	uint64_t session;
	uint8_t binding_kind;
	struct slice binding, key_id, client; /* borrowed */
};
/* 0; -GRANARY_EPROTO; -GRANARY_EVERSION (no version in common); -GRANARY_EUNSUPPORTED (channel binding);
 * *why then says what. */
int hello_parse(struct slice meta, struct hello *out, const char **why);

struct hello_answer {
	uint8_t nonce[WIRE_NONCE_SIZE];
	const uint8_t *store_id; /* 16 bytes */
	uint64_t boot_id, store_time_ns;
	const char *server;
};
size_t hello_answer_encode(const struct hello_answer *a, uint8_t out[HELLO_ANSWER_MAX]);

/* What both sides sign: kept from HELLO to AUTH. */
struct transcript {
	uint8_t *
		bytes; /* label, meta of the HELLO request, meta of its answer, room for the session id */
	size_t len; /* without the session id */
};
int transcript_init(
	struct transcript *t, struct slice hello, struct slice answer); /* 0 or -GRANARY_ENOMEM */
void transcript_release(struct transcript *t);
/* Is this the client's proof? Constant time. A NULL secret does the same work and is never right. */
bool transcript_client_proof(
	struct transcript *t, const uint8_t *secret, const uint8_t proof[WIRE_HMAC_SIZE]);
/* The server's own, into the answer of AUTH. */
int transcript_auth_answer(struct transcript *t, const uint8_t *secret, uint64_t session,
	uint32_t lease_s, uint8_t out[AUTH_ANSWER_SIZE]);
