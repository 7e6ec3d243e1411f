/* SPDX-License-Identifier: Apache-2.0 */
/* restore.h -- makes a metadata folder out of a backup: a checkpoint, and then the log as far as it leads on without a
 * gap. Nothing serves meanwhile.
 *
 * Invariants: (1) every file of the checkpoint has the size and checksum of its manifest, or an older checkpoint is
 * taken; (2) a record of the log is applied only where it begins at the position that was reached: never one twice,
 * never one behind a gap; (3) the folder may be half made when it fails: the caller removes it, and gives it its
 * name only when it is whole. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct fs;
struct kv;

struct restore {
	struct fs *from; /* the backup directory */
	struct fs *to;
	const char *dir;     /* folder to be made in `to`: must not exist */
	bool simulated;      /* kv_mem */
	uint64_t checkpoint; /* this one and none of the log; 0: the newest that is sound, and the log */
	/* Now and then; done and total in bytes. May be NULL. */
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
	void *progress_arg;

	/* out */
	uint8_t store_id[16];
	uint32_t incarnation;    /* the highest that any file of the backup names */
	uint64_t number, made_s; /* of the checkpoint */
	uint64_t bytes, skipped; /* of its files; newer checkpoints that are damaged */
	uint64_t position;       /* where the rows are now */
	uint64_t log_records, log_rows;
	bool has_gap;  /* the log goes on behind a gap, or is damaged: what follows is not in the rows */
	char why[256]; /* when it fails, and what the gap is */
};
/* The metadata is open then; kv_close writes it out. -GRANARY_ENOTFOUND: no backup, or no checkpoint in it;
 * CORRUPT: none that is sound. */
int restore_metadata(struct restore *r, struct kv **out);

/* kv_options.fatal of metadata that is being made: it is thrown away, and who writes gets -GRANARY_EIO. */
void restore_write_failed(void *arg, const char *what);
