/* SPDX-License-Identifier: Apache-2.0 */
/* offline.h -- brings a store back while no server runs: its metadata from a backup (restore), and what packs hold that
 * the metadata does not know.
 *
 * Invariants: (1) metadata that is there is never touched: the new one is made in `meta.restore` and gets its name
 * last, whole; interrupted anywhere, the same command again begins anew; (2) superblock and master key are there
 * before the metadata has its name; a server refuses to start in between; (3) the superblock says an incarnation that
 * is above everything that metadata, backup, superblock and pack names tell, so no id is used twice; (4) a pack that
 * the new metadata does not know is kept: a server would take it for a leftover and remove it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct fs;

struct offline {
	const char *data, *backup; /* directories; NULL: fs and from */
	struct fs *fs, *from;      /* tests; not owned */
	bool simulated;
	uint64_t checkpoint; /* 0: the newest, and the log */
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
	void *progress_arg;
	/* A line about something that is lost or was set aside: what kind, and its name. May be NULL. */
	void (*lost)(void *arg, const char *what, const char *name);
	void *lost_arg;

	/* out */
	uint64_t number, made_s, bytes, skipped, log_records, position;
	bool has_gap;
	char gap[256];
	uint32_t incarnation;
	uint64_t packs, packs_missing, packs_unknown;
	uint64_t objects, objects_lost;
};
/* On failure `why` (cap >= 512) names the path, the cause and the fix. */
int offline_restore(struct offline *o, char *why, size_t cap);
