/* SPDX-License-Identifier: Apache-2.0 */
/* session_row.h -- the value of row `h` (FORMAT 6.13): whose a session is, the ids reserved for it, whether it may have
 * answers that are not durable, or something open. */
#pragma once

#include "meta/rows.h"

struct kv;

enum { SESSION_RANGES_MAX = 4, SESSION_ROW_MAX = 512 };

struct session_row {
	struct slice key; /* access key id; borrowed */
	uint64_t created_ns, lease_ns;
	bool is_unstable;
	bool has_opens; /* it may have something open, or locked */
	/* ranges: what mutations take; given: what the session was told to use as it likes (IDS) */
	struct session_ranges {
		uint32_t count;
		struct session_range { uint64_t first, count; } at[SESSION_RANGES_MAX]; /* oldest first */
	} ranges, given;
};

size_t session_row_encode(const struct session_row *row, uint8_t value[SESSION_ROW_MAX]);
int session_row_decode(struct slice value, struct session_row *out); /* 0 or -GRANARY_ECORRUPT */
/* Is all of [first, first + count) among them? */
bool session_ranges_have(const struct session_ranges *ranges, uint64_t first, uint64_t count);
/* Adds a range; the oldest goes when there is no room. */
void session_ranges_add(struct session_ranges *ranges, uint64_t first, uint64_t count);

/* The sessions whose rows say so, as an array to be freed (NULL: none). Rows that are damaged are passed over: the
 * check tells. Blocks: start-up. */
int session_rows_find(struct kv *kv, bool (*says)(const struct session_row *row), uint64_t **ids, uint32_t *count);
