/* SPDX-License-Identifier: Apache-2.0 */
/* oracle.h -- a client that writes down what it asked for and what it was told, outside the store, and judges the store
 * by it after a crash.
 *
 * Each worker is sequential and alone owns the names below its own directory (w00/, w01/, ...), so it knows what each
 * answer must be, and at any moment at most one operation of a worker is unanswered. What a crash may leave of a worker
 * is then exactly two states: that of its last answer, or that with the unanswered operation done.
 *
 * The log is lines of text, one write(2) each. Times are CLOCK_MONOTONIC in ns.
 *   I WORKER PATH SEED SIZE               what was there when this log begins (a path that ends in `/`: a directory)
 *   N WORKER NUMBER                       the next operation number of a worker
 *   S NS WORKER NUMBER KIND COUNT (PATH SEED SIZE EFFECT)...    before sending; EFFECT 0: must be refused
 *   A NS WORKER NUMBER COUNT STATUS...    the answer, one status an entry
 *   V NS TEXT                             an answer or a read that cannot be right
 * Content is made from SEED and SIZE alone; its first 16 bytes tell them, so that a reader can tell content that is
 * whole but of another write from content that is torn. */
#pragma once

#include <granary/granary.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/rand.h"

enum {
	ORACLE_PATH_MAX = 96,
	ENTRIES_MAX = 48,      /* of one operation */
	WORKERS_MAX = 64,
	CLIENTS_MAX = 16,
	DIRS_COUNT = 5,        /* w00/d0 .. d4 */
	SUBDIRS_COUNT = 2,     /* w00/d0/s0, s1 */
	SMALL_MAX = 400000,    /* bytes of an object in a batch */
	LARGE_MAX = 9 << 20,   /* bytes of the largest object, and of a batch */
	STATUS_NONE = 1 << 20  /* not answered */
};

struct item {
	char path[ORACLE_PATH_MAX]; /* a directory's ends in `/` */
	uint64_t seed, size;
	uint64_t version; /* 0: not known */
};
struct model {
	struct item *items;
	size_t count, cap;
};

enum op_kind {
	OP_PUT = 'p', OP_BATCH_PUT = 'P', OP_UPLOAD = 'u', OP_DELETE = 'd', OP_BATCH_DELETE = 'D', OP_RENAME = 'r',
	OP_MKDIR = 'm', OP_RMDIR = 'k', OP_EXCHANGE = 'x'
};
static inline bool has_two_names(enum op_kind kind) { return kind == OP_RENAME || kind == OP_EXCHANGE; }
/* What one operation does to one name; a rename and an exchange have two: from, to. */
struct op_entry {
	char path[ORACLE_PATH_MAX];
	uint64_t seed, size, version;
	uint32_t flags;   /* enum granary_put_flag */
	int32_t expected; /* status that the model predicts */
	int32_t status;
};
struct op {
	uint32_t worker, count;
	uint64_t number;
	enum op_kind kind;
	struct op_entry entries[ENTRIES_MAX];
};

/* ---- model.c ---- */
struct item *model_find(struct model *m, const char *path);
void model_set(struct model *m, const char *path, uint64_t seed, uint64_t size, uint64_t version);
void model_remove(struct model *m, const char *path);
bool model_dir_exists(const struct model *m, const char *dir); /* "w00/d1/"; explicit, or something lies below */
bool model_dir_is_bare(const struct model *m, const char *dir); /* nothing lies below */
void model_copy(struct model *to, const struct model *from);
void model_free(struct model *m);
/* Applies the entries whose status is 0 (of a rename: the first entry's). */
void model_apply(struct model *m, const struct op *op);
void content_fill(void *buf, uint64_t seed, size_t size);
enum content { CONTENT_RIGHT, CONTENT_OTHER, CONTENT_TORN };
enum content content_judge(const void *data, size_t len, uint64_t seed, uint64_t size);

/* ---- log.c ---- */
/* What a log says: per worker the state of the last answer and the one operation not answered, if any. */
struct worker_state {
	struct model model;
	struct op pending;
	bool has_pending;
	uint64_t next_number;
};
struct history {
	struct worker_state workers[WORKERS_MAX];
	uint32_t workers_count; /* 1 + the highest seen */
	uint64_t answered, violations;
};
/* Reads it; lines after `until_ns` count as not written. 0, or -1 after printing what is wrong. */
int history_read(struct history *h, const char *path, uint64_t until_ns);
int history_write(const struct history *h, const char *path); /* without pending ones */
void history_free(struct history *h);
void log_begin(int fd);
void log_started(const struct op *op);
void log_answered(const struct op *op);
__attribute__((format(printf, 1, 2))) void log_violation(const char *fmt, ...);
uint64_t log_violations(void);
uint64_t now_ns(void);

/* ---- options, of all verbs ---- */
struct oracle_options {
	const char *url, *credentials, *bucket, *log, *state_out;
	int log_fd;
	uint64_t seed, ops_max, until_ns, size_max;
	uint32_t workers, clients, files, seconds, timeout_ms, large_per_mille;
	uint32_t leave_percent; /* of the objects: only deletes others, then ends; 100: off */
	uint32_t unstable_percent; /* of the operations: answered before they are durable, then synced */
	bool quiet, no_renames;
};
int client_open(const struct oracle_options *o, struct granary_client **out); /* prints why it cannot */
int oracle_write(const struct oracle_options *o); /* write.c; exit code */
int oracle_check(const struct oracle_options *o); /* check.c; exit code */
