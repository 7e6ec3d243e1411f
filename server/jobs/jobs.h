/* SPDX-License-Identifier: Apache-2.0 */
/* jobs.h -- long work in the background, on one thread of its own: sealing packs left open, compaction, delayed removal
 * of dead packs, scrub, expiry of sessions in RAM, saving the clock, refreshing free space. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cache;
struct ids;
struct jobs;
struct kv;
struct loc;
struct ns;
struct packs;
struct reactor;
struct store_clock;
struct workers;
struct writers;

struct jobs_options {
	struct kv *kv;
	struct ids *ids;
	struct ns *ns;
	struct loc *loc;
	struct packs *packs;
	struct writers *writers;
	struct cache *cache;
	struct store_clock *clock;
	uint64_t interval_ns;      /* between passes (5 s) */
	uint32_t compact_dead_pct; /* 30 */
	uint64_t drain_rate;       /* bytes a second at most; 0: no limit */
	uint64_t upload_expire_ns; /* store time since an upload in parts began, until it is ended; 0 never */
	uint64_t removal_delay_ns; /* store time between dying and removal (10 s) */
	uint64_t merge_quiet_ns;   /* store time since the last write, until its extents are merged (5 s) */
	struct workers *workers;
	struct reactor **reactors;
	bool simulated;            /* no threads: what is appended is appended in the caller's turn */
	bool thread;               /* false: jobs_pass() is called by hand (tests, sim) */
	void (*extra)(
		void *arg); /* called once a pass: what layers above want done (expiry of sessions) */
	void *extra_arg;
	/* One of two copies of a pack is damaged, the other is whole: order that it be made anew. May be NULL. */
	void (*repair)(void *arg, uint64_t pack_id, bool is_hot);
	void *repair_arg;
};
int jobs_open(const struct jobs_options *options, struct jobs **out);
void jobs_close(struct jobs *
		*jobs); /* stops at the next safe point; interrupted work is found again at start */
/* One pass of everything now, on the caller (must not be a reactor). Returns 0 or the first error. */
int jobs_pass(struct jobs *jobs);
/* Asks the thread for a pass now and waits for it; worker. Lines "name value" about it into buf. */
int jobs_compact_now(struct jobs *jobs, char *buf, size_t cap);
int jobs_check_start(struct jobs *jobs); /* scrub of everything; BUSY when one runs */
int jobs_check_status(struct jobs *jobs, char *buf, size_t cap);
/* How a drain goes, since this process began it. drive: its id. */
struct drain_progress {
	uint64_t drive, began_ns, packs, bytes; /* drive 0: free */
	int err;                                /* of the last try; 0: it went well */
};

void jobs_set_drain_rate(struct jobs *jobs, uint64_t bytes_per_second); /* any thread; also of a drain under way */
void jobs_drain_begin(struct jobs *jobs, uint64_t drive);
void jobs_drain_progress(struct jobs *jobs, uint64_t drive, struct drain_progress *out);
void jobs_wake(struct jobs *jobs); /* a pass soon */
/* What rules want of a part of a pack is not what they want of the rest: with the next pass the objects of these ids go
 * to a pack of their own, the others to another. ids: ascending, allocated; taken over in any case. BUSY: there is
 * enough to do, or the pack is among it. Any thread. */
int jobs_sort(struct jobs *jobs, uint64_t pack_id, uint64_t *ids, uint32_t count);
struct jobs_stats {
	uint64_t passes, sealed, compacted, moved_records, moved_bytes, removed_packs, aborted,
		sorted, scrubbed_bytes, problems, check_running, merged_extents, merged_bytes;
};
void jobs_get_stats(struct jobs *jobs, struct jobs_stats *out);
