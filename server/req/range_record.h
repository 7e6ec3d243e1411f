/* SPDX-License-Identifier: Apache-2.0 */
/* range_record.h -- a range of one record, of which who asks has no checksum: a worker reads all of the record and
 * verifies it (pack/by_record.h). */
#pragma once

#include "io/reactor.h"
#include "req/store.h"

struct range_record {
	/* in */
	struct store_local *local;
	uint64_t pack;
	uint32_t offset, len;
	void (*done)(struct range_record *r); /* from the reactor's loop */
	/* out */
	int err;       /* 0, or what by_record_find() gives */
	uint8_t *data; /* len bytes, the caller's to free; NULL on error */
	/* its own */
	struct task task;
};
void range_record_start(struct range_record *r);
