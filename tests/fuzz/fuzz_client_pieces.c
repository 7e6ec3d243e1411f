/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_client_pieces.c -- the meta of an answer to READ (u16 pieces) or LOCATE (u32 pieces, PROTOCOL 4.2, 4.16) as the
 * library decodes it; the first byte says which. What is decoded keeps its promises. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "client/read_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void piece_check(const struct read_piece *p, const struct cur *c)
{
	assert(c->p <= c->end);
	assert(p->cut_from <= p->len && p->cut_len <= p->len - p->cut_from);
	assert(p->hash.len == 0 || p->hash.len == 16);
	assert((p->flags & PIECE_ADDRESS) != 0 || p->pack == 0);
	if (p->status != 0)
		assert(p->len == 0 && (p->flags & PIECE_LAST) && p->status <= INT16_MAX);
	else
		assert((size_t)(p->crcs.end - p->crcs.p) == 4 * (size_t)crc_block_count(p->len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct read_piece p;

	if (size == 0)
		return 0;
	struct cur c = cur_of(data + 1, size - 1);
	uint32_t pieces = data[0] & 1 ? cur_u32(&c) : cur_u16(&c);
	for (uint32_t i = 0; i < pieces && read_piece_decode(&c, &p); i++)
		piece_check(&p, &c);
	return 0;
}
