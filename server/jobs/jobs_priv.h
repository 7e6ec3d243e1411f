/* SPDX-License-Identifier: Apache-2.0 */
/* jobs_priv.h -- shared by the files of jobs/ only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "jobs/jobs.h"
#include "meta/ns.h"
#include "meta/rows.h"
#include "tier/drives.h"
#include "tier/packs.h"

enum { JOBS_RETRY_MAX = 256, JOBS_SORTS_MAX = 16, CHECK_PROBLEMS_MAX = 100, CHECK_LINE_MAX = 256 };

/* A pack whose compaction or sealing failed: left alone until `not_before_ns` (monotonic). */
struct job_backoff { uint64_t pack_id, not_before_ns; };

struct check_state {
	pthread_mutex_t lock;
	bool requested, running, ever;
	uint64_t packs, packs_total, bytes, records, rows, problems, started_ns, seconds;
	uint32_t line_count;
	char lines[CHECK_PROBLEMS_MAX][CHECK_LINE_MAX];
};

/* A pack whose objects are to be separated: those of these ids, and the others. */
struct job_sort {
	uint64_t pack_id, *ids;
	uint32_t count;
};

struct merge_state { /* merge.c */
	uint8_t cursor[1 + 8 + 4 + 8]; /* key of an `x` row */
	uint64_t writes_seen;          /* 1 + as many as there were when the scan began; 0: none began yet */
	uint64_t not_before_ns;
	bool is_scanning, has_busy;    /* has_busy: some object was being written */
};

struct jobs {
	struct jobs_options o;
	pthread_t thread;
	bool has_thread;
	pthread_mutex_t lock;
	pthread_cond_t wake, passed;
	bool stop;                    /* under lock; also read by long work through jobs_stopping() */
	_Atomic bool stopping;
	_Atomic uint64_t drain_rate;
	uint64_t passes_asked, passes_done; /* under lock */
	int last_result;              /* under lock: of the last pass */
	uint64_t clock_saved_ns;
	bool orphans_swept, has_more;
	struct job_backoff backoff[JOBS_RETRY_MAX];
	uint32_t backoff_count;
	struct job_sort sorts[JOBS_SORTS_MAX]; /* under lock */
	uint32_t sorts_count;
	struct check_state check;
	struct drain_progress drains[DRIVES_MAX]; /* under lock */
	struct merge_state merge;
	_Atomic uint64_t merged_extents, merged_bytes;
	_Atomic uint64_t sealed, compacted, sorted, moved_records, moved_bytes, removed, aborted, scrubbed_bytes;
};

static inline bool jobs_stopping(const struct jobs *j) { return atomic_load(&j->stopping); }

/* compact.c: copies the live records of a sealed or broken pack, in order, to a new pack, reads them back, swaps their
 * addresses in transactions of at most 1,000 objects, looks a second time, and retires the source. Any error aborts and
 * leaves the source as it was. 1: dying now; 0: nothing done (in use, pinned); or an error. */
int compact_pack(struct jobs *jobs, uint64_t pack_id);
/* The same into two packs: records of the objects of these ids, and the others. */
int compact_apart(struct jobs *jobs, const struct job_sort *sort);
/* 1 when some row still points into the pack, 0 when none does, or an error (then nothing may be concluded). */
int pack_has_owner(struct jobs *jobs, struct pack *pack, uint64_t end);

/* drain.c: moves packs off draining drives for a while, removes what was moved away. more: there is more to move. */
int drain_pass(struct jobs *jobs, bool *more);

/* merge.c: puts small extents together, for a while. more: there are rows left to look at. */
int merge_pass(struct jobs *jobs, bool *more);

/* uploads.c: ends uploads in parts that are older than the setting. */
int uploads_sweep(struct jobs *jobs);

/* scrub.c: one whole check; problems go to jobs->check. */
void check_run(struct jobs *jobs);
