/* SPDX-License-Identifier: Apache-2.0 */
/* upload.h -- private to req/: an object whose bytes come before its name. Lives in the memory of
 * its session; the session's lock guards it. Every flushed extent keeps its pack from being judged
 * until it is settled.
 *
 * OPEN  -> TAKEN  a PUT names it            upload_take()
 * TAKEN -> OPEN   that PUT failed           upload_give_back()
 * TAKEN -> (gone) that PUT is committed     upload_done()
 * OPEN  -> (gone) ABORT, or the session's end; an upload in use goes with its last user */
#pragma once

#include "pack/writer.h"
#include "req/session.h"

struct upload_extent {
	struct pack_append append;
	struct req *r; /* while it is being appended */
	bool done;     /* append.err is known */
	uint32_t crc_count;
	uint8_t crcs[];
};

struct upload {
	struct list node;
	uint64_t number, id, version, dir, group, bucket;
	uint64_t next_offset; /* where the next extent begins */
	struct hash_stream *hash;
	struct upload_extent **extents;
	uint32_t extent_count, extent_cap, done_count;
	uint32_t busy;    /* requests that use it */
	bool taken, gone; /* gone: not in the session's list any more */
	int err;          /* the first failed extent's */
	uint16_t name_len;
	char name[KEY_LEN_MAX];
};

/* For a PUT of `size` bytes: 0 and *out; STALE: unknown (a restart, another parent); INVAL: another
 * size or extents that are not answered yet; else the error an extent failed with. */
int upload_take(struct session *s, uint64_t number, uint64_t size, uint64_t dir, struct slice name,
	struct upload **out);
void upload_give_back(struct session *s, struct upload **upload);
void upload_done(
	struct session *s, struct upload **upload); /* its PUT is committed: settled and gone */
