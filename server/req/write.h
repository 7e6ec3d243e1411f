/* SPDX-License-Identifier: Apache-2.0 */
/* write.h -- private to req/: a batch of changes of one object. */
#pragma once

#include "meta/ns_file.h"
#include "pack/writer.h"
#include "req/lane.h"
#include "req/name_req.h"

enum { WRITE_STEP_FIND = 2, WRITE_ATTRS_MAX = 3 * 14 };

struct write_req;

struct write_part { /* what one change needs, where it brings bytes */
	struct pack_append own, *append; /* append: its own, or one that outlives the request (unstable.h) */
	struct write_req *write;
	const uint8_t *data, *crcs;
	bool is_appended;
	uint8_t attrs[WRITE_ATTRS_MAX];
};

struct write_req {
	struct name_req n; /* first: a struct mutation */
	struct req *r;
	struct ns_write write;
	struct ns_change *changes;
	struct write_part *parts; /* one a change */
	uint32_t count, data_count, appending, generation;
	uint64_t dir, group, record_version;
	struct lane_wait lane;
	bool is_verified, is_looked_up; /* is_looked_up: by a worker, so that it is worth remembering */
	int err;
	uint16_t name_len;
	char name[KEY_LEN_MAX];
	uint8_t key[REF_RECORD_KEY_MAX]; /* for the records */
	size_t key_len;
	uint64_t bucket;
};
