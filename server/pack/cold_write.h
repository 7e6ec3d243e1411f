/* SPDX-License-Identifier: Apache-2.0 */
/* cold_write.h -- a sealed pack's bytes become an object of a cold store, compressed (FORMAT 4) or as they are, and are
 * read back from there and verified. Blocks, on a thread that may hang with the store. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tier/copy.h"

struct frames;
struct fs_file;

struct cold_write {
	/* in */
	struct fs_file *from;
	uint64_t pack_id, size, attempt; /* size: of the pack's file; attempt: never used before (FORMAT 4.6) */
	struct place *place;
	int level;                                 /* 1..19; 0: as it is */
	int (*pace)(void *arg,
		uint64_t bytes);    /* called every few MiB read or written: sleeps; an error ends it */
	void *arg;
	uint64_t timeout_ns;                       /* of each call into the store */
	/* out */
	struct copy_info info;
	struct frames *frames; /* a reference, or NULL: it is raw */
	uint64_t frames_stored; /* frames that were kept as they are */
};
/* 0: the object is there, durable, and was read back whole: its bytes decode to the pack's. Else nothing of it
 * counts, and what can be removed of it was. CORRUPT: what was read back is wrong, or the pack's own footer is;
 * the errors of store.h; pace()'s. */
int cold_write(struct cold_write *w);
/* What a copy would be as a share of the pack, by compressing about 6 MiB of it; of w: from, pack_id, size, level.
 * Touches no store. Worker or job. */
int cold_estimate(struct cold_write *w, double *ratio);
