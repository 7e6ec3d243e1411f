/* SPDX-License-Identifier: Apache-2.0 */
/* offline.h -- brings a store back while no server runs: its metadata from a backup (restore), or from a backup and
 * what packs hold beyond it, or from packs alone (rebuild).
 *
 * Invariants: (1) metadata that is there is never touched: the new one is made in `meta.restore` and gets its name
 * last, whole; interrupted anywhere, the same command again begins anew; (2) superblock and master key are there
 * before the metadata has its name; a server refuses to start in between; (3) the superblock says an incarnation that
 * is above everything that metadata, backup, superblocks and pack names tell, so no id is used twice; (4) a pack that
 * restored metadata does not know is kept: a server would take it for a leftover and remove it; (5) packs are never
 * written; (6) all hot directories are looked at: the data directory, those that are given and those that rows name. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct fs;

enum { OFFLINE_HOT_MAX = 64 };

struct offline {
	const char *data, *backup; /* directories; NULL: fs and from. A rebuild needs no backup */
	struct fs *fs, *from;      /* tests; not owned */
	const char *hot[OFFLINE_HOT_MAX]; /* further hot directories */
	uint32_t hot_count;
	int (*open_fs)(void *arg, const char *path, struct fs **out); /* of hot directories; NULL: the kernel's */
	void *open_arg;
	bool simulated;
	uint64_t checkpoint; /* 0: the newest, and the log */
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
	/* A line about something that is lost or was set aside: what kind, and its name. May be NULL. */
	void (*lost)(void *arg, const char *what, const char *name);
	void *arg; /* of both */

	/* out */
	uint64_t number, made_s, bytes, skipped, log_records, position;
	bool has_gap;
	char gap[256];
	uint32_t incarnation;
	/* cold_now: their hot copy is gone, they are read from the cold one from now on */
	uint64_t packs, packs_missing, packs_unknown, packs_cold_now;
	uint64_t objects, objects_lost;
	/* of a rebuild: jobs/rebuild.h */
	uint64_t packs_read, packs_torn, records, damaged, placed, superseded, incomplete, unplaced, changed, moved;
};
/* On failure `why` (cap >= 512) names the path, the cause and the fix. */
int offline_restore(struct offline *o, char *why, size_t cap);
int offline_rebuild(struct offline *o, char *why, size_t cap);
