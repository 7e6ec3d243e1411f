/* SPDX-License-Identifier: Apache-2.0 */
/* retry_row.h -- private to req/: the value of row `l` (FORMAT 6.14): what a mutation answered, for the same request
 * after a restart. Encode and decode, nothing else. */
#pragma once

#include "req/kind.h"

enum { RETRY_ROW_MAX = 8192 };

/* What the answer tells of an entry besides its status. */
enum retry_field {
	RETRY_VERSION,
	RETRY_ID,
	RETRY_DIR,
	RETRY_REPLACED,
	RETRY_SIZE,
	RETRY_FIELDS
};

struct retry_row {
	uint8_t op;
	uint64_t first_version, first_id, written_ns;
	struct slice statuses;            /* a byte an entry */
	struct slice lists[RETRY_FIELDS]; /* u64 each; empty: not in the row */
};

/* Writes the row and as many of the lists as the bound leaves room for, in their order. list(): number of each entry
 * in a field into out (count of them), false when the answer has no such field. Returns the length. */
size_t retry_row_encode(const struct retry_row *row,
	bool (*list)(const struct req *r, enum retry_field field, uint64_t *out),
	const struct req *r, uint8_t value[RETRY_ROW_MAX]);
/* 0 or -GRANARY_ECORRUPT; slices borrow from value. */
int retry_row_decode(struct slice value, struct retry_row *out);
/* The number of entry i in a field; false, and *out as it was, when the row does not tell. */
bool retry_row_get(const struct retry_row *row, enum retry_field field, uint32_t i, uint64_t *out);
/* The entry's result: 0 or -GRANARY_E... */
static inline int retry_row_err(const struct retry_row *row, uint32_t i)
{
	return i < row->statuses.len ? -(int)row->statuses.p[i] : -GRANARY_EPROTO;
}
