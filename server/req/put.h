/* SPDX-License-Identifier: Apache-2.0 */
/* put.h -- private to req/put*.c: a batch of puts, from the bytes that came to the records that are
 * flushed. */
#pragma once

#include "req/mutation.h"
#include "req/upload.h"

enum { PUT_STEP_CHECK = 2, PUT_STEP_FINISH = 6 };

struct put;

struct put_entry {
	struct ns_ref ref;
	uint8_t condition, flags;
	bool appended, again; /* its record is flushed or failed; its parent changed since */
	int err;              /* for good: 0 while it may succeed */
	int planned;          /* of the last plan */
	uint64_t if_version, upload_number, size, mtime_ns;
	uint32_t mode, uid, gid;
	struct slice meta;
	const uint8_t *crcs, *data;
	uint64_t dir, group, id, version, replaced;
	struct hash128 hash;
	struct upload *upload;
	struct pack_append *append; /* own, or of the mutation's tail */
	struct pack_append own;
	struct put *put;
};

struct put {
	struct mutation m;
	struct auth auth;
	struct req *r;
	uint32_t count, appending;
	bool checked;
	struct put_entry *entries;
	uint8_t *texts; /* keys and attributes of the records */
};

/* put_parse.c */
int put_parse(struct req *r, struct put *p, struct cur *c); /* text set */
/* Verifies what came against its checksums and hashes it. Any thread. */
void put_verify(struct put *p);
/* put_append.c: starts the appends of all entries that want one; how many. */
uint32_t put_append(struct req *r, struct put *p);
