/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_token.c -- tokens of any bytes, as they are, with the checksum repaired, and as text: what is accepted is
 * written again as the same bytes. */
#include "common/token.h"

#include <assert.h>
#include <string.h>

#include "common/crc32c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_bytes(const uint8_t *data, size_t size)
{
	uint8_t again[TOKEN_SIZE];
	char text[TOKEN_TEXT_LEN + 1], why[200] = "";
	struct token t, back;
	struct order o;
	struct order_spec s;

	if (token_decode(&t, data, size, why, sizeof(why)) < 0) {
		assert(why[0] != '\0');
		return;
	}
	assert(size == TOKEN_SIZE && token_encode(&t, again, why, sizeof(why)) == 0);
	assert(memcmp(data, again, TOKEN_SIZE) == 0);
	assert(token_to_text(&t, text, why, sizeof(why)) == 0 && strlen(text) == TOKEN_TEXT_LEN);
	assert(token_from_text(&back, text, TOKEN_TEXT_LEN, why, sizeof(why)) == 0);
	assert(token_encode(&back, again, why, sizeof(why)) == 0 && memcmp(data, again, TOKEN_SIZE) == 0);
	s = token_order(&t, t.position + 1);
	if (order_init(&o, &s, why, sizeof(why)) == 0) /* whatever it names, its position has a sample */
		assert(order_at(&o, t.position) <= t.position);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t copy[TOKEN_SIZE_MAX];
	struct token t;

	try_bytes(data, size);
	token_from_text(&t, (const char *)data, size, NULL, 0);
	if (size >= 4 && size <= sizeof(copy)) {
		uint32_t crc = crc32c(0, data, size - 4);
		memcpy(copy, data, size);
		memcpy(copy + size - 4, &crc, 4);
		try_bytes(copy, size);
	}
	return 0;
}
