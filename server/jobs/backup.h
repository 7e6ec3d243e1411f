/* SPDX-License-Identifier: Apache-2.0 */
/* backup.h -- keeps a copy of the metadata in another directory: checkpoints, and the log of what was committed since.
 *
 * A *checkpoint* is the engine's own files as of one position (kv_checkpoint): links, made in a moment, then copied
 * through direct I/O by a thread of low priority. Tables that an earlier checkpoint has already (same name, size and
 * identity: they are immutable) are not copied again. Its manifest, with a checksum of every file, is put last and
 * whole: a checkpoint without one does not exist.
 * The *log* is our own, of committed groups as the committer wrote them (kv_tap): a memcpy for the committer, which
 * waits for nothing; written and synced once a second by the thread here, also while it copies. Every record says from
 * which position to which it leads, so a reader knows whether one is missing, over restarts too. Where the thread does
 * not keep up (32 MiB not written yet), or the directory fails, the log has a gap, the next checkpoint is due at once,
 * and the service goes on.
 *
 * Invariants: (1) the committer and requests wait for nothing here; (2) what a manifest names is synced before the
 * manifest has its name; (3) log N begins before the files of checkpoint N are made, so checkpoint N and the logs from
 * N on lead to the newest state; (4) nothing that a kept manifest or a log after the oldest kept one needs is removed,
 * and nothing is removed when one of them cannot be read; (5) a file is never written again after a failed write or
 * sync: another one takes its place; numbers are never used again; (6) one server at a time writes into a backup, and
 * only the store that began it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meta/kv.h"

struct backup;
struct fs;
struct store_clock;

struct backup_options {
	struct fs *fs;     /* data directory: its master.key goes along */
	const char *dir;   /* where to; must exist. NULL: `to` */
	struct fs *to;     /* tests: instead of dir; not owned */
	uint64_t every_ns; /* between checkpoints (10 min) */
	uint32_t keep;     /* checkpoints kept (3) */
	bool thread;       /* false: backup_turn() is called by hand */
};
/* Before the metadata is opened: kv_options.tap is backup_tap(b). Never fails for want of the directory: it is tried
 * again and again, and status and log say so. */
int backup_new(const struct backup_options *options, struct backup **out);
struct kv_tap backup_tap(struct backup *b);
/* Right after the metadata was opened, before the first commit. */
void backup_attach(struct backup *b, struct kv *kv, const uint8_t store_id[16]);
/* When the store serves. */
int backup_run(struct backup *b, uint32_t incarnation, struct store_clock *clock);
/* Ends the thread. While the metadata is still open. */
void backup_stop(struct backup *b);
void backup_free(struct backup **b); /* after the metadata was closed: writes the log to its end */

/* Without a thread: writes the log; a checkpoint when one is due. 0 or the error that status shows. */
int backup_turn(struct backup *b);
void backup_ask(struct backup *b); /* a checkpoint now, also while one is made (then another one) */
/* Lines "name value": the answer of the task backup-status, and part of status. */
size_t backup_status(struct backup *b, char *buf, size_t cap);
