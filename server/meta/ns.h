/* SPDX-License-Identifier: Apache-2.0 */
/* ns.h -- the namespace over kv.h: buckets, keys, directories, objects. Reads and plans run on workers and jobs (they
 * may block on the key-value store); only the functions marked "any thread, never blocks" may run on a reactor.
 *
 * A mutation: ns_plan_new -> one ns_plan_* call an entry (each sees the entries planned before it) -> ns_plan_finish
 * -> kv_submit(plan->txn) -> ns_plan_committed. -GRANARY_EBUSY from the commit or from any ns_plan_* (rows changed
 * while they were read): throw the plan away and plan again, at most 8 times. ns_plan_finish right before the submit.
 *
 * Invariants: (1) every child row's directory id has a live row naming it: a create states that its directory's row
 * names its id, a removal under an implicit directory states "range empty" (and removes it, and so on upwards) or
 * "range not empty"; (2) a directory rename states every ancestor of its target, so no loop can form; (3) rows of
 * files change only under kv_pre_version / kv_pre_absent; (4) every change or removal of an object row that existed is
 * announced by kv_txn_touch of its place (a new one is in no table: they keep nothing about absence), directory
 * renames and removals by kv_txn_touch of directory 0, which ns_observe_* turn into loc_path_busy, loc_path_ready. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/hash.h"
#include "common/name.h"
#include "meta/kv.h"
#include "meta/loc.h"
#include "meta/rows.h"

struct ns;
struct ids;
struct opens;
struct store_clock;

struct ns_options {
	struct kv *kv;
	struct ids *ids;
	struct loc *loc;
	struct store_clock *clock;
	struct opens *opens; /* NULL: nothing is ever open */
};
int ns_open(const struct ns_options *options, struct ns **out); /* loads buckets */
void ns_close(struct ns **ns);
/* What the kv observer calls: give these to kv_options before ns exists (arg: struct loc *). */
void ns_observe_begin(void *loc, uint64_t dir_id, struct slice name, uint64_t object_id);
void ns_observe_end(void *loc, uint64_t dir_id, struct slice name, uint64_t object_id);

/* ---- buckets: a table in RAM, all rows loaded at start ---- */
struct ns_bucket {
	uint64_t id, root, quota_bytes, quota_objects, created_ns;
	uint8_t relaxed;
	uint8_t name_len;
	char name[BUCKET_LEN_MAX + 1];
};
int ns_bucket_find(
	struct ns *ns, struct slice name, struct ns_bucket *out); /* any thread, never blocks */
int ns_bucket_by_id(
	struct ns *ns, uint64_t id, struct ns_bucket *out); /* any thread, never blocks */
/* b in name order, after `after`, but those of the system; returns how many (at most max). Any thread, never blocks. */
uint32_t ns_bucket_list(struct ns *ns, struct slice after, struct ns_bucket *out, uint32_t max);
int ns_bucket_create(
	struct ns *ns, struct slice name, struct slice owner_key); /* commits; EXIST, NAME */
int ns_bucket_remove(struct ns *ns, struct slice name);            /* commits; NOTEMPTY, NOBUCKET */
/* The system's own bucket: made when it is not there. No client sees, lists or changes it. Worker or job. */
#define NS_SYSTEM_BUCKET ".granary"
int ns_bucket_system(struct ns *ns, struct ns_bucket *out);
int ns_bucket_usage(struct ns *ns, uint64_t bucket, uint64_t *bytes, uint64_t *objects);

/* ---- addressing ---- */
enum ns_by { NS_BY_KEY = 1, NS_BY_NAME = 2, NS_BY_ID = 3 };
struct ns_ref {
	enum ns_by by;
	uint64_t bucket; /* BY_KEY: bucket id */
	uint64_t dir;    /* BY_NAME: directory id; BY_ID: where the client learnt it, or 0 */
	uint64_t id;     /* BY_ID */
	struct slice
		name; /* BY_KEY: the whole key; BY_NAME: the component; BY_ID: its name as learnt, or empty */
};

/* Any thread, never blocks: 0 and *out, or -GRANARY_EAGAIN (ask ns_lookup on a worker). */
int ns_find_cached(struct ns *ns, const struct ns_ref *ref, struct obj_loc *out);
/* The same for a batch: one step for all its refs, then the next, so that their cache misses overlap. probe_begin is
 * given the probe of the ref before (NULL: none): neighbours are mostly of one directory. The ref must stay. */
struct ns_probe {
	const struct ns_ref *ref;
	struct slice dir_part;
	uint64_t dir, stamp; /* dir 0: not known */
	struct loc_probe loc;
};
/* Between two steps: fetches what the next one reads. */
void ns_probes_fetch(const struct ns_probe *probes, uint32_t count);
void ns_probe_begin(struct ns *ns, const struct ns_ref *ref, const struct ns_probe *before, struct ns_probe *probe);
void ns_probe_next(struct ns *ns, struct ns_probe *probe);
int ns_probe_end(struct ns *ns, const struct ns_probe *probe, struct obj_loc *out);

/* Where an entry lives. name borrows from the ref, from the row, or from buf: do not copy the struct. */
struct ns_place {
	uint64_t bucket, dir;
	uint64_t orphan; /* BY_ID, of an object without a name (ns_orphan.h): its id; then dir is 0. Else 0 */
	struct slice name;
	uint8_t buf[KEY_LEN_MAX];
};
/* Worker. The entry of a ref: row decoded into *out borrowing from *value (release it). Directories: is_dir, from
 * their `i` row. Fills the tables. -GRANARY_ENOTFOUND; -GRANARY_ESTALE for an id that names nothing;
 * BY_KEY "a/": the directory's entry of empty name (an implicit directory is NOTFOUND); "a" is never the directory.
 * BY_NAME: where a file and a directory have the same name, the file. A root directory (BY_ID): place is bucket, 0,
 * "". */
int ns_lookup(struct ns *ns, const struct ns_ref *ref, struct ns_place *place, struct object *out,
	struct kv_value *value);
/* Worker. Reads extents past those in the row, in order of logical offset: calls each() with at least those that
 * overlap [offset, offset+len). */
int ns_extents(struct ns *ns, const struct object *o, uint64_t offset, uint64_t len,
	int (*each)(void *arg, const struct extent *e), void *arg);
/* Directory id -> bucket and path "a/b/", for grants. Cached: any thread, never blocks, EAGAIN; else worker. */
int ns_dir_path_cached(
	struct ns *ns, uint64_t dir, uint64_t *bucket, char *path, size_t cap, size_t *len);
int ns_dir_path(struct ns *ns, uint64_t dir, uint64_t *bucket, char *path, size_t cap, size_t *len);

/* The directory a new entry goes to, before anything is planned (its id stands in the pack record). By key: missing
 * directories are given ids now, shared with every other request that is creating the same ones. Cached: any thread,
 * EAGAIN; else worker. group: placement group (the nearest dataset directory's id, or the bucket id). */
int ns_parent_cached(struct ns *ns, const struct ns_ref *ref, uint64_t *dir, uint64_t *group);
int ns_parent(struct ns *ns, const struct ns_ref *ref, uint64_t *dir, uint64_t *group);

/* ---- plans ---- */
struct ns_plan;
struct ns_plan *ns_plan_new(struct ns *ns);
/* Every ns_plan_... of it and ns_plan_finish answer -GRANARY_EAGAIN rather than block: free it then and plan on a
 * worker. */
void ns_plan_set_unblocking(struct ns_plan *plan);
void ns_plan_free(struct ns_plan **plan);
struct kv_txn *ns_plan_txn(struct ns_plan *plan); /* for the retry row, pack counters, kv_submit */
struct kv_txn *ns_plan_take_txn(struct ns_plan *plan); /* after ns_plan_committed: it is the caller's */
/* Adds what must be judged over the whole plan (emptied directories, quota); call once, before submitting. */
int ns_plan_finish(struct ns_plan *plan);
/* Called once after the commit, with its result: path counters, bucket table, ids being shared. */
void ns_plan_committed(struct ns_plan *plan, int result);

/* NS_IF_NEWER: what is there has a lower version than the one that is put. */
/* Each entry that the plan put or took, each inode that it put: of a directory, or of a file that stands in its own.
 * Between the plan's last ns_plan_... and its end. Non-zero from each() stops. Slices are borrowed for the call. */
enum ns_changed_kind { NS_CHANGED_ENTRY = 1, NS_CHANGED_GONE = 2, NS_CHANGED_INODE = 3 };
struct ns_changed {
	enum ns_changed_kind kind;
	uint64_t dir, id, bucket; /* bucket: of an inode. id: not of what is gone */
	struct slice name;
};
int ns_plan_changes(const struct ns_plan *plan, int (*each)(void *arg, const struct ns_changed *c), void *arg);

enum ns_condition { NS_ANY = 0, NS_IF_ABSENT = 1, NS_IF_VERSION = 2, NS_IF_NEWER = 3 };
struct ns_put {
	struct ns_ref ref; /* BY_KEY or BY_NAME */
	enum ns_condition condition;
	uint64_t if_version;
	uint64_t parent;      /* as ns_parent gave it, 0: do not check. -GRANARY_ECHANGED when it is
					    another now (append anew) */
	uint64_t id, version; /* of the new object */
	uint64_t size, mtime_ns;
	uint32_t mode, uid, gid;
	bool has_hash;
	struct hash128 hash;
	bool is_linked; /* its records name another place: it gets an `o` row */
	struct slice meta;
	const struct extent *extents;
	uint32_t extent_count; /* any number: the plan spills to `x` rows */
	/* out */
	uint64_t replaced_version; /* 0 when there was none */
};
/* The plan accounts live bytes in `p` rows (total, records and committed end are the pack writer's: kv_add/kv_max by
 * the request), quota counters, the old object's extents. 0; PRECONDITION; ISDIR (a BY_NAME put over a directory);
 * NAME; ECHANGED; NOTFOUND (BY_NAME: no such directory); INVAL. An entry that is refused leaves the plan as it was. */
int ns_plan_put(struct ns_plan *plan, struct ns_put *put);

/* ---- what a rebuild brings back under its old id (ns_adopt.c); nothing serves meanwhile ---- */
/* A bucket; id and root 0: new ones. Commits. EXIST; NAME. */
int ns_bucket_adopt(struct ns *ns, struct slice name, uint64_t id, uint64_t root);
/* A directory "a/b/" that is not there, an implicit one; missing ones above it get new ids. EXIST: the path, or the id,
 * is there already. */
int ns_plan_adopt_dir(struct ns_plan *plan, uint64_t bucket, struct slice path, uint64_t id, bool dataset);
void ns_plan_set_unlimited(struct ns_plan *plan); /* quotas do not hold: what is brought back was there */

struct ns_deleted {
	uint64_t version, size;
};
int ns_plan_delete(struct ns_plan *plan, const struct ns_ref *ref, enum ns_condition condition,
	uint64_t if_version, struct ns_deleted *out); /* ISDIR unless it is the key "a/" */
/* mkdir ("a/b" or "a/b/"): parents must exist (BY_NAME) or are made (BY_KEY with parents = true). dataset: marks it a
 * group. An implicit directory becomes explicit; dataset on a directory that is none yet marks it, also an explicit
 * one. *id is also set with EXIST when it is a directory that exists. */
int ns_plan_mkdir(struct ns_plan *plan, const struct ns_ref *ref, uint32_t mode, bool parents,
	bool dataset, uint64_t *id); /* EXIST (file or explicit directory) */
/* The directory is no dataset any more: what it holds stays, what comes is packed with what lies above. NOTFOUND: it is
 * none, or not there. */
int ns_plan_dataset_end(struct ns_plan *plan, const struct ns_ref *ref);
/* Every dataset of a bucket (0: of all), path "a/b/"; non-zero from each() stops and is returned. Worker. */
int ns_dataset_each(struct ns *ns, uint64_t bucket,
	int (*each)(void *arg, uint64_t bucket, struct slice path, uint64_t id), void *arg);
int ns_plan_rmdir(struct ns_plan *plan, const struct ns_ref *ref); /* NOTEMPTY, NOTDIR, NOTFOUND */
/* Rename of a file or a directory within a bucket; replaces a file, or an empty directory by a directory, unless
 * no_replace. By key "a/" is the directory a, "a" the file and, where there is none, the directory; missing parents of
 * the target are made. One row (and the `i` row) for a directory. LOOP; NOTEMPTY; ISDIR; NOTDIR; EXIST; NOTFOUND;
 * INVAL (another bucket; the empty name). */
int ns_plan_rename(
	struct ns_plan *plan, const struct ns_ref *from, const struct ns_ref *to, bool no_replace);
/* What has one name has the other from then on, files or directories or one of each, within a bucket (ns_exchange.c).
 * LOOP: one is below the other; NOTFOUND: one is not there; EXIST: of a name there is a file and a directory; INVAL. */
int ns_plan_exchange(struct ns_plan *plan, const struct ns_ref *a, const struct ns_ref *b);
/* Compaction: the object's extent `from`, as it was found, is `to` now; the version stays. */
struct ns_move {
	uint64_t dir;
	struct slice name;
	uint64_t id;
	struct extent from, to;
	bool is_reference; /* the records name another object: the `y` row goes along */
};
int ns_plan_move_extent(
	struct ns_plan *plan, const struct ns_move *m); /* ENOTFOUND: it points elsewhere now */
/* A record as its header says: (dir, name) as of its write. */
struct ns_record {
	uint64_t pack, record, object_id, dir, version, logical;
	uint32_t generation, length;
	struct slice name;
};
/* Who points at it now: every extent that does, of the object that it names (through `d`, `o`, `i`, `x`) and of those
 * that refer to it (`y`). Everything given is borrowed for the call; non-zero from each() stops and is returned. 0 and
 * no call: dead. An error: not known. Worker. */
struct ns_owner {
	struct ns_place place;
	const struct object *object;
	const struct extent *extent;
	bool is_reference;
};
int ns_record_owners(struct ns *ns, const struct ns_record *r, int (*each)(void *arg, const struct ns_owner *owner),
	void *arg);

/* ---- listing (worker) ---- */
enum { NS_LIST_MAX = 1000 };
struct ns_list {
	uint64_t bucket;
	struct slice prefix, delimiter,
		start_after; /* byte order of UTF-8; start_after exclusive */
	uint32_t max;        /* 1..NS_LIST_MAX */
};
/* One snapshot. each() gets keys in order: o == NULL for a common prefix; o->parent is the directory
 * of the entry. Keys and common prefixes alike are given only when they lie behind start_after (so the last item of a
 * page is the next page's start_after). Non-zero from each() stops. *more: whether there is at least one
 * further entry. BY directory: prefix "a/b/" with delimiter "/"
 * lists one directory. */
int ns_list(struct ns *ns, const struct ns_list *l,
	int (*each)(void *arg, struct slice key, const struct object *o), void *arg, bool *more);

/* A page of one directory, in the order of its rows. name: a directory's with its slash; o borrowed. */
struct ns_dir_page {
	struct slice after; /* the last row of the page before: its name, a directory's with its slash; empty: none */
	uint32_t max;
	int (*each)(void *arg, struct slice name, bool is_dir, const struct object *o); /* not 0 ends with an error */
	void (*take_back)(void *arg); /* what was given last is not shown: a directory has its name */
	void *arg;
};
/* *more: there is another row. STALE: no such directory. Blocks. */
int ns_readdir(struct ns *ns, uint64_t dir, const struct ns_dir_page *page, bool *more);

/* Every file below the prefix as `view` has it, in key order, without a limit; non-zero from each() stops and is
 * returned. Blocks for as long as it takes: jobs. */
int ns_scan(struct ns *ns, struct kv_snapshot *view, uint64_t bucket, struct slice prefix,
	int (*each)(void *arg, struct slice key, const struct object *o), void *arg);
/* As ns_extents, all of them, as `view` has them (NULL: now). */
int ns_extents_in(struct ns *ns, struct kv_snapshot *view, const struct object *o,
	int (*each)(void *arg, const struct extent *e), void *arg);

/* ---- access keys: a table in RAM, all rows loaded at start ---- */
enum { NS_ACT_READ = 1, NS_ACT_LIST = 2, NS_ACT_WRITE = 4, NS_ACT_DELETE = 8, NS_ACT_ADMIN = 16 };
enum { NS_KEY_ID_MAX = 32, NS_GRANTS_MAX = 16 };
struct ns_grant {
	uint8_t actions;
	char bucket[BUCKET_LEN_MAX + 1];
	uint16_t prefix_len;
	char prefix[KEY_LEN_MAX];
};
struct ns_access_key {
	char id[NS_KEY_ID_MAX + 1];
	uint8_t secret[32];
	uint64_t expires_ns; /* store time, 0 never */
	uint32_t grant_count;
	struct ns_grant grants[NS_GRANTS_MAX];
	char note[64];
};
/* master: the 32 bytes of master.key. Loads and unseals. */
int ns_keys_open(struct ns *ns, const uint8_t master[32]);
/* Any thread, never blocks. A counted reference; NULL when unknown, expired or removed. */
const struct ns_access_key *ns_key_ref(struct ns *ns, struct slice id);
void ns_key_unref(struct ns *ns, const struct ns_access_key *key);
bool ns_key_valid(
	struct ns *ns, const struct ns_access_key *key); /* not removed, not expired since */
int ns_key_create(struct ns *ns, const struct ns_access_key *key); /* commits */
int ns_key_remove(struct ns *ns, struct slice id);
uint32_t ns_key_list(struct ns *ns, struct slice after, struct ns_access_key *out,
	uint32_t max); /* secrets zeroed */
/* Any thread. May this key do `action` on this key string of this bucket (prefixes; admin implies nothing else) */
bool ns_key_allows(const struct ns_access_key *key, uint8_t action, struct slice bucket,
	struct slice object_key);
