/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.h -- rows of snapshots (`s`) and of the jobs that use them (`e`), docs/FORMAT.md 6.12:
 * encode, decode, find, list. Blocks: workers and jobs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/hash.h"

struct kv;
struct kv_snapshot;
struct kv_value;

enum {
	SNAPSHOT_NAME_MAX = 128,
	SNAPSHOT_NOTE_MAX = 1024,
	SNAPSHOT_OPTIONS_MAX = 4096,
	LEASE_JOB_MAX = 128
};
enum {
	STAG_ID = 64,
	STAG_STATE,
	STAG_CREATED,
	STAG_MANIFEST,
	STAG_SAMPLES,
	STAG_BYTES,
	STAG_OPTIONS,
	STAG_NOTE,
	STAG_EXPIRES,
	STAG_PINS,
	STAG_PREFIX,
	STAG_IDENTITY
};
enum { ETAG_SEEN = 64, ETAG_HOST };

/* 1..128 of [A-Za-z0-9._-], not "." or "..". One that begins with '.' is automatic: made by a
 * stream that was opened without a name. 0 or -GRANARY_ENAME. */
int snapshot_name_check(struct slice name);
static inline bool snapshot_is_automatic(struct slice name)
{
	return name.len > 0 && name.p[0] == '.';
}

struct snapshot_row { /* slices borrow from the row */
	uint64_t id, created_ns, expires_ns, samples,
		bytes; /* times: store time, expires 0 never */
	uint8_t state; /* SNAPSHOT_* of common/wire.h */
	bool has_manifest, has_identity;
	struct hash128 manifest;
	struct hash128 identity; /* of one that was repacked: the hash of its first manifest */
	struct slice options, note, prefix;
	struct slice pins; /* little-endian u64 each, ascending */
	struct slice raw; /* of a row that was decoded, all of it: tags that are not known here survive a rewrite */
};
/* What tokens and recipes name it by. */
static inline struct hash128 snapshot_row_identity(const struct snapshot_row *s)
{
	return s->has_identity ? s->identity : s->manifest;
}
int snapshot_row_decode(struct slice value, struct snapshot_row *out); /* 0 or -GRANARY_ECORRUPT */
size_t snapshot_row_size(const struct snapshot_row *s); /* bytes that encoding takes, at most */
int64_t snapshot_row_encode(const struct snapshot_row *s, void *buf, size_t cap);

struct slice row_snapshot(uint8_t *buf, uint64_t bucket, struct slice name);
struct slice row_snapshot_prefix(uint8_t *buf, uint64_t bucket);
bool row_snapshot_parse(struct slice key, uint64_t *bucket, struct slice *name);
struct slice row_lease(uint8_t *buf, uint64_t bucket, struct slice name, struct slice job);
struct slice row_lease_prefix(uint8_t *buf, uint64_t bucket, struct slice name);
bool row_lease_parse(struct slice key, uint64_t *bucket, struct slice *name, struct slice *job);

/* 0 or -GRANARY_ENOTFOUND; the row borrows from *value (release it). */
int snapshot_find(struct kv *kv, uint64_t bucket, struct slice name, struct snapshot_row *out,
	struct kv_value *value);
/* Rows of one bucket (0: of all) behind `after` (of that bucket), in order; non-zero from each()
 * stops and is returned. */
int snapshot_each(struct kv *kv, uint64_t bucket, struct slice after,
	int (*each)(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *s),
	void *arg);
int lease_each(struct kv *kv,
	int (*each)(
		void *arg, uint64_t bucket, struct slice name, struct slice job, uint64_t seen_ns),
	void *arg);
