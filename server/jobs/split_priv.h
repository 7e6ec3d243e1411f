/* SPDX-License-Identifier: Apache-2.0 */
/* split_priv.h -- shared by split.c and split_tar.c. */
#pragma once

#include "jobs/split.h"

enum { TAR_BLOCK = 512 };

struct tar {
	int state;
	uint64_t left, pad; /* bytes of the state still to come; what follows the data up to the next block */
	uint8_t block[TAR_BLOCK];
	uint32_t fill;
	uint8_t *meta; /* of a header that has data of its own; SPLIT_HEADERS_MAX at most */
	uint32_t meta_len, meta_cap;
	uint8_t meta_type;
	/* the member at hand, and what headers before its own said of it */
	uint64_t data_at, size;
	bool has_name, has_size, is_sparse, name_bad, takes, any, told;
	uint32_t name_len;
	uint8_t name[SPLIT_NAME_MAX];
};

struct split {
	struct split_spec spec;
	struct split_sink sink;
	uint64_t at;           /* bytes fed so far */
	uint64_t begin, taken; /* lines and windows: of the one at hand */
	uint64_t number;
	bool cr; /* the byte before `at` is a CR that was not given yet */
	struct tar tar;
};

void tar_begin(struct tar *t);
int tar_feed(struct split *s, const uint8_t *p, size_t len);
int tar_end(struct split *s);
