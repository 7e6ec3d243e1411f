/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_priv.h -- shared by jobs/snapshot*.c only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/list.h"
#include "common/name.h"
#include "jobs/snapshot.h"
#include "jobs/split.h"
#include "meta/snapshot.h"

enum { OPEN_BUCKETS = 256, OPEN_IDLE_MAX = 64 };

struct lease { /* one consumer, under `lock` */
	struct list node;
	uint64_t bucket, epoch, position, of, samples, bytes, waited_ns, elapsed_ns;
	uint64_t samples_s, bytes_s, eta_s; /* of the time between its last two reports */
	uint64_t seen_ns, row_ns; /* store time; row_ns: as its job's row says, 0 none */
	uint32_t rank, world, weight;
	bool from_row; /* read at start: of a job, host and rank are not known */
	char bucket_name[BUCKET_LEN_MAX + 1], name[SNAPSHOT_NAME_MAX + 1], job[LEASE_JOB_MAX + 1],
		host[LEASE_JOB_MAX + 1];
};

struct snapshots {
	struct snapshots_options o;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t making;      /* under lock */
	bool sweeping, dirty; /* under lock; dirty: there may be pages without a snapshot */
	_Atomic bool stopping;
	pthread_mutex_t change_lock;              /* removals, one after the other; before `lock` */
	struct snapshot_open *open[OPEN_BUCKETS]; /* under lock */
	uint32_t open_count;
	struct list leases;
	uint32_t lease_count;
	_Atomic uint32_t log_rows; /* of provenance, when they were last looked over */
	_Atomic uint32_t logged;   /* and written since */
	uint64_t logs_swept_ns;  /* store time; the job thread's */
};

/* snapshot.c: parts of transactions; txn may be NULL (no memory) */
struct kv_txn;
int snapshot_row_put(
	struct kv_txn *txn, uint64_t bucket, struct slice name, const struct snapshot_row *row);
int snapshot_row_commit(struct snapshots *s, struct kv_txn *txn); /* and frees it */
int snapshot_row_delete(struct snapshots *s, uint64_t bucket, struct slice name);
void snapshot_plan_pins(struct kv_txn *txn, const uint64_t *pins, size_t count, int delta);
void snapshot_open_drop(struct snapshots *s, uint64_t bucket, struct slice name); /* its row changed */
void snapshots_set_dirty(struct snapshots *s); /* there may be pages without a snapshot */

/* snapshot_object.c: objects of the system's bucket, from a thread that may block */
struct object_put {
	struct hash128 hash;
	uint8_t *bytes;
	size_t len;
	bool is_manifest;
};
enum { OBJECT_KEY_MAX = 64 };
void object_key(char key[OBJECT_KEY_MAX], struct hash128 hash, bool is_manifest);
/* Those that are not there yet, flushed and committed. */
int objects_put(struct snapshots *s, const struct object_put *list, uint32_t count);
int64_t object_read(struct snapshots *s, struct hash128 hash, bool is_manifest, uint64_t offset,
	uint8_t *buf, size_t len, uint64_t *size);
int object_read_all(
	struct snapshots *s, struct hash128 hash, bool is_manifest, uint8_t **bytes, size_t *len);
/* Hashes of all pages that a manifest lists, sorted; malloc'd. */
int object_pages_of(
	struct snapshots *s, struct hash128 manifest, struct hash128 **pages, uint32_t *count);
bool object_hash_in(const struct hash128 *sorted, uint32_t count, struct hash128 hash);
/* Deletes pages and manifests that no snapshot uses. */
int objects_sweep(struct snapshots *s);

/* snapshot_options.c: lines "name=value" */
enum { GLOBS_MAX = 64 };
struct build_options {
	char text[SNAPSHOT_OPTIONS_MAX + 1]; /* what the pointers below point into */
	bool group;
	uint8_t mode; /* 0: auto */
	struct split_spec split;
	const char *note, *includes[GLOBS_MAX], *excludes[GLOBS_MAX];
	uint32_t include_count, exclude_count, lanes;
	uint64_t block, window, expire_ns, keep_last; /* 0: as DESIGN has it; never; all */
};
/* 0, or -GRANARY_EINVAL, -GRANARY_EUNSUPPORTED with the text in m. */
int build_options_parse(struct snapshot_making *m, struct build_options *out);
bool build_options_want(const struct build_options *o, const char *key_below_prefix);
bool build_options_exclude(const struct build_options *o, const char *key_below_prefix);

/* snapshot_build.c: everything between the hold and the transaction */
struct build_result {
	uint64_t *pins; /* ascending, malloc'd */
	uint32_t pin_count;
	bool held; /* in: there is a hold; false after the packs that were met got pins in RAM instead */
};
int snapshot_build(struct snapshots *s, struct snapshot_making *m, const struct build_options *o,
	struct build_result *out);
__attribute__((format(printf, 3, 4))) int making_fail(
	struct snapshot_making *m, int err, const char *fmt, ...);
__attribute__((format(printf, 2, 3))) void making_warn(
	struct snapshot_making *m, const char *fmt, ...);

/* snapshot_lease.c */
int leases_load(struct snapshots *s);
void leases_free(struct snapshots *s);
void leases_tick(struct snapshots *s);
/* true: a job has a lease; its name in text. */
bool lease_holder(struct snapshots *s, uint64_t bucket, struct slice name, char *text, size_t cap);
void leases_forget(struct snapshots *s, uint64_t bucket, struct slice name);

/* snapshot_provenance.c */
int provenance_put(struct snapshots *s, const struct snapshot_report *r, uint64_t now);
void provenance_tick(struct snapshots *s, uint64_t now);
