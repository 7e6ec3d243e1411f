/* SPDX-License-Identifier: Apache-2.0 */
/* backup_priv.h -- shared by backup.c (thread, log, schedule) and backup_copy.c (files, what is kept) only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "io/fs.h"
#include "jobs/backup.h"
#include "jobs/backup_format.h"

#define BACKUP_TITLE     "granary.backup"
#define BACKUP_KEY       "master.key"
#define BACKUP_FILES     "files"
#define BACKUP_MANIFESTS "checkpoint-"
#define BACKUP_LOGS      "log-"
#define BACKUP_MADE      "meta.checkpoint" /* in the data directory, while it is copied */
enum { BACKUP_PATH_MAX = 256, BACKUP_WHY_MAX = 200 };

struct backup {
	struct backup_options o;
	struct kv *kv;
	struct store_clock *clock;
	uint8_t store_id[16];
	uint32_t incarnation;
	uint64_t attached_position;

	/* the thread's own */
	struct fs *to;
	struct fs_file *dir_lock;
	bool owns_to, is_ready, is_unwell;
	struct fs_file *log;
	uint64_t log_at, log_end; /* bytes written; position its records lead to */
	uint64_t next_number, retry_ns, log_turn_ns;
	struct backup_manifest last; /* the newest complete checkpoint; number 0: none */
	uint8_t *piece;

	pthread_mutex_t lock; /* of all below */
	pthread_cond_t wake;
	uint8_t *buf, *spare; /* records not written yet */
	size_t len, cap, spare_cap;
	bool is_collecting, has_gap, is_asked, is_stopping;

	/* status */
	bool is_running, is_failing;
	char why[BACKUP_WHY_MAX];
	uint32_t in_row; /* failures since it last worked */
	uint64_t made, failures, gaps, copied_bytes, linked_bytes, total_bytes, done_bytes;
	uint64_t log_bytes, log_groups, done_ns, begun_ns, took_ns, log_synced_ns, log_position;

	pthread_t thread;
	bool has_thread;
	_Atomic bool stopping;
};

/* backup.c */
/* Writes and syncs what the committer handed over. */
int backup_log_write(struct backup *b);
/* The same when the last time is a second ago: between two pieces of a copy. */
int backup_log_tick(struct backup *b);
int backup_fail(struct backup *b, int err, const char *what);

/* backup_copy.c */
/* Copies the files of BACKUP_MADE; m gets their list. */
int backup_copy_files(struct backup *b, struct backup_manifest *m);
int backup_manifest_put(struct backup *b, const struct backup_manifest *m);
int backup_sweep(struct backup *b); /* removes what is not kept */

/* backup_dir.c: reading a backup directory, also by the restore. */
struct backup_numbers {
	uint64_t *at;
	uint32_t count, cap;
}; /* ascending */
/* Of all files `prefix` + 16 hex digits. */
int backup_numbers_read(struct fs *fs, const char *prefix, struct backup_numbers *out);
void backup_numbers_release(struct backup_numbers *n);
void backup_path(char out[BACKUP_PATH_MAX], const char *prefix, uint64_t number);
int backup_manifest_read(struct fs *fs, uint64_t number, struct backup_manifest *out);
/* 1: it is this store's (store_id filled when it is not NULL); 0: there is no title; or an error. */
int backup_title_read(struct fs *fs, uint8_t store_id[16]);
int backup_title_write(struct fs *fs, const uint8_t store_id[16]);
