/* SPDX-License-Identifier: Apache-2.0 */
/* store.h -- everything a server has below its front ends, opened in the right order: data
 * directory, metadata, packs, cache, writers, reactors, jobs. Used by granaryd and, over a
 * simulated disk, by the tests. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/io.h"

struct away;
struct backup;
struct cache;
struct drive_place;
struct drives;
struct fair;
struct fair_local;
struct fs;
struct ids;
struct jobs;
struct locks;
struct kv;
struct loc;
struct linked;
struct links;
struct moves;
struct heat;
struct ns;
struct policy;
struct opens;
struct orphans;
struct packs;
struct reactor;
struct reader;
struct replays;
struct sessions;
struct shares;
struct shares_local;
struct snapshots;
struct store_clock;
struct store_settings;
struct stores;
struct watches;
struct workers;
struct writers;

enum { REACTORS_MAX = 64, STORE_STATUS_MAX = 64 * 1024 };

struct store_options {
	struct fs *fs;             /* the data directory; the store does not own it */
	bool simulated;            /* kv_mem, one reactor without a thread, workers inline */
	struct io_options io;
	uint32_t reactors;         /* 1..REACTORS_MAX */
	uint32_t worker_threads;
	/* bytes */
	/* a third of transient_budget is for what consumers of epochs share */
	uint64_t cache_budget, transient_budget, loc_budget, kv_block_cache, kv_write_buffer, staging_budget;
	uint64_t unstable_budget;  /* bytes of what is answered and not durable yet, without the records; 32 MiB */
	uint64_t request_budget;   /* bytes of requests and answers in memory over all connections */
	uint64_t pack_size, disk_reserve, ballast;
	const char *backup_dir;    /* NULL: no backup */
	struct fs *backup_fs;      /* simulated: instead of backup_dir; not owned */
	uint64_t backup_every_ns;  /* 10 min */
	uint32_t backup_keep;      /* 3 */
	const struct drive_place *hot; /* directories for packs; none: the data directory */
	uint32_t hot_count;
	const struct store_settings *stores; /* cold stores */
	uint32_t stores_count;
	int (*open_fs)(void *arg, const char *path, struct fs **out); /* of a hot directory; NULL: the kernel's */
	void *open_fs_arg;
	bool local_reads;          /* peers of this host get descriptors of packs; true */
	bool jobs;                 /* start background jobs (tests may drive them by hand) */
	uint64_t compact_dead_pct; /* 30 */
	uint64_t drain_rate;       /* bytes a second, 0: no limit */
	uint64_t upload_expire_ns; /* of uploads in parts, since they began; 0: never; 7 d */
	uint64_t job_interval_ns;  /* 5 s */
	uint64_t rules_interval_ns; /* 60 s */
	double hot_price;          /* of a GB-month of flash */
	uint64_t merge_quiet_ns;   /* since an object was last written in place, until its extents are merged: 5 s */
	uint64_t lease_ns;         /* of sessions without a connection, or silent; WIRE_LEASE_S */
	uint64_t slow_request_ns;  /* requests of more are kept for status --slow; 0: none; 200 ms */
	void (*fatal)(void *arg, const char *what); /* metadata sync failed; NULL: one log line and exit status 70 */
	void *fatal_arg;
};
void store_options_default(struct store_options *o); /* all but fs; budgets by DESIGN and the machine's memory */

/* What one reactor has of its own. */
struct store_local {
	struct store *store;
	struct reactor *reactor;
	struct io *io;
	struct reader *reader;
	struct shares_local *shares;
	struct fair_local *fair;
	struct req_stats *stats;
	struct written *written;   /* write.c: what was written lately; or NULL */
	void *net;                 /* the front ends' */
};

struct store {
	struct store_options options;
	struct fs *fs;
	struct fs_file *lock;
	_Atomic bool ballast_gone; /* released on a full disk; made again when there is room */
	uint64_t created_s;
	struct kv *kv;
	struct loc *loc;
	struct ids *ids;
	struct store_clock *clock;
	struct opens *opens;
	struct ns *ns;
	struct drives *drives;
	struct stores *stores;
	struct linked *linked;
	struct packs *packs;
	struct cache *cache;
	struct shares *shares;
	struct fair *fair;
	struct lanes *lanes;
	struct workers *workers;
	struct writers *writers;
	struct sessions *sessions;
	struct replays *replays;
	struct orphans *orphans;
	struct locks *locks;
	struct watches *watches;
	struct snapshots *snapshots;
	struct jobs *jobs;
	struct moves *moves;
	struct links *links;
	struct policy *policy;
	struct ahead *ahead;       /* NULL: without jobs */
	struct heat *heat;
	struct governor *governor;
	struct backup *backup;
	struct away *away; /* or NULL */     /* NULL: none */
	struct slow_ring *slow;
	struct reactor *reactors[REACTORS_MAX];
	struct store_local locals[REACTORS_MAX];
	uint32_t reactor_count;
	uint8_t store_id[16];
	uint64_t boot_id, started_ns;
	uint32_t incarnation;
	_Atomic uint64_t request_bytes; /* in use of request_budget */
	_Atomic bool draining;
	_Atomic uint32_t descriptors_out; /* opened to be passed, not sent yet */
	_Atomic uint64_t corrupt_logged[64]; /* damaged records named in the log already */
};

/* Creates an empty data directory's files (superblock, master.key) when there is none; refuses
 * another format version (VERSION), a locked one (LOCKED), a read-only one, with `why` (cap >= 256)
 * naming the path, the cause and the fix. */
int store_open(const struct store_options *options, struct store **out, char *why, size_t why_cap);
/* Orders that a damaged copy of a pack is made anew out of the other one. Any thread. */
int store_repair(struct store *store, uint64_t pack, bool is_hot, const char *origin);
void store_close(struct store **store); /* flushes, saves the clock, stops threads */
/* Lines "name value" into buf; the STATUS answer (PROTOCOL 4.6). Returns the length. Any thread. */
size_t store_status(struct store *store, char *buf, size_t cap);
