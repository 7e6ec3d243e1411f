/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.h -- brings bytes of a snapshot's files into the cache, in threads of its own, and reads ahead.
 *
 * (1) what is asked for one file at a time is fetched one file at a time; a run of neighbours is fetched as one when a
 *     second one of them is missed soon after the first (or whenever, where the cache can hold the whole snapshot), or
 *     when the run before it was read: so reading in random order costs nothing extra, and reading in the order of the
 *     data costs one request a run.
 * (2) a job is done once: `done` runs in a thread of fetch, with 0 or -errno. A job without `done` reads ahead, and is
 *     dropped when there is more to do than FETCH_AHEAD_MAX. */
#pragma once

#include "fuse/cache.h"
#include "fuse/tree.h"

struct fetch;
struct fetch_job {
	struct fetch_job *next;
	uint64_t id, offset; /* wanted: this byte of this file */
	uint32_t field;
	void (*done)(struct fetch_job *job, int error);
};

enum { FETCH_AHEAD_MAX = 16 };

/* timeout_ms: of one request to the server. NULL: no memory or threads. */
struct fetch *fetch_new(struct tree *tree, struct cache *cache, uint32_t threads, uint32_t timeout_ms);
/* Ends the threads; jobs that were not begun are done with -ESHUTDOWN. */
void fetch_free(struct fetch *f);
/* The caller's until it is done. */
void fetch_start(struct fetch *f, struct fetch_job *job);
/* Someone looked at a block for the first time: what comes after it is read ahead when it looks as if it is wanted. */
void fetch_seen(struct fetch *f, uint64_t id, uint32_t field, const struct cache_view *view);
