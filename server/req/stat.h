/* SPDX-License-Identifier: Apache-2.0 */
/* stat.h -- private to req/: what STAT tells of an entry (PROTOCOL 4.3), also told by OPEN. */
#pragma once

#include "req/kind.h"

enum { STAT_FIXED_SIZE = 2 + 1 + 1 + 5 * 8 + 3 * 4 + 16 };

struct stat_entry {
	struct ns_ref ref;
	struct obj_loc loc;
	uint8_t *meta; /* malloc'd */
	uint16_t meta_len;
	int16_t err;
	uint8_t is_dir, is_missing;
	uint64_t ctime_ns, atime_ns, rdev, holes; /* STAT_WANT_FULL */
	uint32_t nlink;
};

/* What a look-up found; with_meta: user metadata too. */
void stat_entry_take(struct stat_entry *e, const struct ns_place *place, const struct object *o, bool with_meta);
void stat_entry_write(struct wr *w, const struct stat_entry *e, bool full);
