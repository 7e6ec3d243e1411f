/* SPDX-License-Identifier: Apache-2.0 */
/* token.h -- where a stream stands, in 60 bytes or 80 characters; docs/ORDER.md 6.
 * Invariants: (1) equal on all ranks and valid for any number of them; (2) with the snapshot or recipe it names it
 * gives the same samples for ever; (3) decode accepts exactly what encode makes; (4) the last 4 bytes of every version
 * are the checksum of those before, so damage is told from another version. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/hash.h"
#include "common/order.h"

enum { TOKEN_VERSION = 1, TOKEN_SIZE = 60, TOKEN_SIZE_MAX = 64, TOKEN_TEXT_LEN = 80 };

struct token {
	uint8_t mode;          /* enum order_mode */
	bool of_recipe;        /* what `source` names: a recipe, else a snapshot */
	struct hash128 source; /* content hash of the snapshot or recipe */
	uint64_t block;        /* n, a power of two; n, G, L may be 0 where the mode does not use them */
	uint64_t window;       /* G */
	uint32_t lanes;        /* L */
	uint64_t seed, epoch;
	uint64_t position;     /* the first sample not yet delivered; 0..samples */
};

/* All return 0, or with what is wrong in `why` (cap bytes, always terminated; NULL, 0: not wanted):
 * -GRANARY_EINVAL   a field is out of its range, or the token belongs to something else
 * -GRANARY_EVERSION intact, but of a version that this code does not know
 * -GRANARY_ECORRUPT damaged or truncated */
int token_encode(const struct token *t, uint8_t out[TOKEN_SIZE], char *why, size_t cap);
int token_decode(struct token *t, const void *buf, size_t len, char *why, size_t cap);
/* The same as text: base64url without padding, 80 characters and a terminating 0. */
int token_to_text(const struct token *t, char out[TOKEN_TEXT_LEN + 1], char *why, size_t cap);
int token_from_text(struct token *t, const char *text, size_t len, char *why, size_t cap);
/* Does it belong to this snapshot or recipe, of so many samples? */
int token_check(const struct token *t, struct hash128 source, bool of_recipe, uint64_t samples, char *why, size_t cap);
/* The order that it names. */
struct order_spec token_order(const struct token *t, uint64_t samples);
