/* SPDX-License-Identifier: Apache-2.0 */
/* ns_priv.h -- what the ns_*.c files share: the namespace's own tables, walks over directories, and the inside of a
 * plan. */
#pragma once

#include <pthread.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/list.h"
#include "meta/ids.h"
#include "meta/ns.h"
#include "meta/opens.h"

enum { NS_MAGIC = 0x4e53504b, PLAN_MAGIC = 0x504c414e, WALK_TRIES = 8 };

struct ns_keys;
struct making;
struct rewriting;

struct ns {
	uint32_t magic;
	struct kv *kv;
	struct ids *ids;
	struct loc *loc;
	struct store_clock *clock;
	struct opens *opens;
	pthread_rwlock_t bucket_lock; /* guards the four below */
	struct ns_bucket *buckets;    /* in name order */
	uint32_t *bucket_by_id;       /* indices into buckets, in id order */
	uint32_t bucket_count, bucket_cap;
	struct making *making;
	struct rewriting *rewriting;
	struct ns_keys *keys;
	_Atomic uint64_t writes; /* in place, since it was opened */
};

/* ---- rows ---- */

/* A row seen by a plan: its own changes first (plan may be NULL). Release with row_release. */
int row_get(struct ns *ns, struct ns_plan *plan, struct slice key, struct kv_value *out);
static inline void row_release(struct kv_value *v)
{
	if (v->unpin != NULL)
		kv_value_release(v);
	*v = (struct kv_value){ .pin = NULL };
}
/* kv_get and object_decode in one: -GRANARY_ENOTFOUND, -GRANARY_ECORRUPT; *value is to be released only on 0. */
int row_get_object(struct ns *ns, struct ns_plan *plan, struct slice key, struct object *out, struct kv_value *value);
/* Calls each row whose key begins with `prefix`, in order; stops at and returns the first non-zero. */
int rows_scan(struct ns *ns, struct slice prefix, int (*each)(void *arg, struct slice key, struct slice value),
	      void *arg);

static inline bool slice_begins(struct slice s, struct slice with)
{
	return s.len >= with.len && (with.len == 0 || memcmp(s.p, with.p, with.len) == 0);
}

static inline int slice_cmp(struct slice a, struct slice b)
{
	size_t n = a.len < b.len ? a.len : b.len;
	int c = n == 0 ? 0 : memcmp(a.p, b.p, n);
	return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

/* ---- buckets (ns_bucket.c) ---- */
int buckets_load(struct ns *ns);
void buckets_free(struct ns *ns);

/* ---- directories (ns_path.c) ---- */

/* A live directory. name borrows from where it was found, or from buf. */
struct ns_dir {
	struct loc_dir d;
	struct slice name;          /* in its parent; empty for a root (parent 0) */
	uint8_t buf[KEY_LEN_MAX];
};
static inline bool dir_is_root(const struct ns_dir *dir) { return dir->d.parent == 0; }
static inline bool dir_is_dataset(const struct ns_dir *dir) { return dir->d.group == dir->d.id; }

/* Walks dir_part ("a/b/") as far as its directories exist: *at is the deepest one, *missing what is left ("" = all
 * there). -GRANARY_ENOBUCKET. at->name borrows from dir_part. */
int path_walk(struct ns *ns, struct ns_plan *plan, uint64_t bucket, struct slice dir_part, struct ns_dir *at,
	      struct slice *missing);
/* By id, from the tables or by climbing the `i` rows. -GRANARY_ENOTFOUND. */
int dir_by_id(struct ns *ns, struct ns_plan *plan, uint64_t id, struct ns_dir *out);
/* The row of a directory in its parent (or its bucket's row), into buf (ROW_KEY_MAX). */
int dir_row(struct ns *ns, const struct ns_dir *dir, uint8_t *buf, struct slice *key, uint64_t *names_id);
/* "a" and "a/" name the same directory; *dir_part and *name as for a file. */
void key_strip_slash(struct slice *key);

/* Where an entry is or would be. */
struct spot {
	struct ns_dir dir;    /* the deepest directory that exists */
	struct slice missing; /* directories below it that do not: "c/d/" */
	uint64_t new_dir;     /* id of the last of `missing`, once spot_name_missing() gave them ids */
	struct slice name;    /* component; borrows from the ref or buf */
	bool is_dir;          /* BY_ID: the id is a directory's */
	uint64_t orphan;      /* BY_ID, of an object without a name: its id; dir tells its bucket alone. Else 0 */
	uint8_t buf[KEY_LEN_MAX];
};
static inline uint64_t spot_dir(const struct spot *s) { return s->missing.len > 0 ? s->new_dir : s->dir.d.id; }

/* BY_KEY, BY_NAME, BY_ID (a file's place: hint, `o` rows; a directory's). strip: "a/" means the directory a.
 * -GRANARY_ENAME, NOBUCKET, NOTFOUND (BY_NAME: no such directory), ESTALE. Missing directories are no error. */
int spot_find(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, bool strip, struct spot *out);
/* The same where what has no name will do: an orphan, which is ESTALE above. */
int spot_find_any(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, bool strip, struct spot *out);
/* Gives the missing directories ids that others who are making them get as well. -GRANARY_EAGAIN: find again. */
int spot_name_missing(struct ns *ns, struct spot *s, uint64_t erased_before);
/* spot_find and spot_name_missing until both agree. */
int spot_make(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, bool strip, struct spot *out);
/* The place of an object id through hint and `o` rows. */
int spot_of_id(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, struct spot *out);

/* ---- directories being made (ns_making.c): (parent, name) -> id, so that all who make one agree ---- */
struct making *making_new(void);
void making_free(struct making **m);
uint64_t making_erased(struct making *m); /* grows with each erase: take it before reading that a row is missing */
/* The id for (parent, name). 0 when none is kept and something was erased since `erased_before`: read the row again.
 * */
uint64_t making_id(struct making *m, struct ids *ids, uint64_t parent, struct slice name, uint64_t erased_before);
/* A plan that makes it is about to be submitted / was (committed: the row exists now, the id is not given out again).
 * */
void making_submit(struct making *m, uint64_t parent, struct slice name, uint64_t id);
void making_done(struct making *m, uint64_t parent, struct slice name, uint64_t id, bool was_submitted,
		 bool committed);
/* Whether a plan that makes it with this id was submitted and is not done: its rows need no second writer. */
bool making_is_submitted(struct making *m, uint64_t parent, struct slice name, uint64_t id);

/* ---- objects being rewritten under the same version (ns_making.c): renamed, moved by compaction. A version cannot
 * tell two such writers apart, so only one plan at a time may hold an object. ---- */
struct rewriting *rewriting_new(void);
void rewriting_free(struct rewriting **r);
bool rewriting_take(struct rewriting *r, uint64_t id); /* false: another plan has it */
void rewriting_give(struct rewriting *r, uint64_t id);

/* ---- the inside of a plan (ns_plan.c) ---- */
struct chunk { /* of a plan's memory */
	struct chunk *next;
	size_t used, cap;
	uint8_t bytes[];
};

enum row_change { ROW_SAME, ROW_PUT, ROW_DELETED };
struct plan_row { /* what the plan did to a row, or states of it */
	struct plan_row *next;
	uint64_t hash;
	struct slice key, value;
	uint8_t change;
	bool is_stated;
};
struct plan_dir { /* a directory whose children change */
	struct plan_dir *next; /* of its slot */
	struct plan_dir *older;
	struct loc_dir d;
	struct slice name;
	uint64_t seen;             /* taken before it was found */
	uint32_t puts;             /* child rows the plan put and did not delete */
	int32_t subdirs;           /* directories that came, less those that went */
	bool is_made;              /* by this plan */
	bool has_gained, has_lost; /* children */
	bool is_removed;
	bool is_loaded;            /* d and name are known */
	bool is_judged;            /* not emptied by what was lost so far */
	bool needs_child;          /* and that rests on rows that others may remove */
	struct slice last_deleted; /* key of its highest child row the plan deleted */
};
struct plan_made { struct plan_made *next; uint64_t parent, id; struct slice name; bool is_submitted; };
struct plan_pack { struct plan_pack *next; uint64_t pack; int64_t bytes, records; };
struct plan_bucket { struct plan_bucket *next; uint64_t bucket; int64_t bytes, objects; };
struct plan_rewrite { struct plan_rewrite *next; uint64_t id; };
struct plan_removal { struct plan_removal *next; uint64_t id; bool is_orphan; };

enum { PLAN_BUF_SIZE = 64 * 1024, PLAN_DIR_SLOTS = 256 };
struct ns_plan {
	uint32_t magic;
	struct ns *ns;
	struct kv_txn *txn;
	struct chunk *chunks;
	struct plan_row **rows;
	uint32_t row_slots, row_count; /* slots: a power of two */
	struct plan_dir *dirs[PLAN_DIR_SLOTS], *newest_dir;
	struct plan_made *made;
	struct plan_pack *packs;
	struct plan_bucket *buckets;
	struct plan_rewrite *rewrites;
	struct plan_removal *removals; /* objects whose last name it takes: opens.h */
	uint64_t now_ns;         /* wall clock, for mtime and ctime of directories */
	int error;               /* sticky: out of memory */
	bool has_moved_dirs;     /* a directory row was put over, moved or removed by this plan: caches do not know */
	bool bumps_paths;        /* the transaction renames or removes a directory, or changes its group */
	bool may_not_block;      /* on a reactor: EAGAIN instead of a read from disk or a scan */
	bool is_unlimited;       /* by quotas */
	bool is_finished, is_committed;
};

/* PLAN_BUF_SIZE bytes of this thread: what is encoded there is copied into the plan at once. */
uint8_t *plan_buf(void);

void *plan_alloc(struct ns_plan *plan, size_t size); /* NULL: plan->error is set */
struct slice plan_copy(struct ns_plan *plan, struct slice s);
struct plan_row *plan_row_find(const struct ns_plan *plan, struct slice key);
void plan_put_row(struct ns_plan *plan, struct slice key, struct slice value);
/* The `i` row of a directory, rewritten: how many directories are in it is counted by others meanwhile, and its mtime,
 * unless the caller sets it, is not taken back behind a child that came. */
void plan_put_dir(struct ns_plan *plan, struct slice key, struct slice value, bool sets_mtime);
/* A directory came to `dir` (1), or went (-1): its link count. */
void plan_dir_links(struct ns_plan *plan, uint64_t dir, int32_t delta);
void plan_delete_row(struct ns_plan *plan, struct slice key);
/* States once a row; nothing for rows this plan changed already (they were stated first). */
void plan_state_absent(struct ns_plan *plan, uint64_t seen, struct slice key);
void plan_state_version(struct ns_plan *plan, uint64_t seen, struct slice key, uint64_t version);
void plan_state_id(struct ns_plan *plan, uint64_t seen, struct slice key, uint64_t id);
/* That no record the row names was moved since; nothing for rows this plan changed already. */
void plan_state_unmoved(struct ns_plan *plan, uint64_t seen, struct slice key);
/* That the directory's row names it. */
int plan_state_dir(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir);
/* All rows with the prefix as the plan sees them; no order between engine's and plan's. */
int plan_scan(struct ns_plan *plan, struct slice prefix, int (*each)(void *arg, struct slice key, struct slice value),
	      void *arg);
struct plan_dir *plan_dir_get(struct ns_plan *plan, uint64_t id);  /* makes one; NULL: out of memory */
struct plan_dir *plan_dir_find(struct ns_plan *plan, uint64_t id); /* or NULL */
/* dir gains or loses a child: mtime, and at the end whether it is emptied. */
int plan_dir_gains(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir);
int plan_dir_loses(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir);
/* Puts the rows of the spot's missing directories, states what they rest on; spot->dir is the parent afterwards and
 * has gained a child. Where none are missing: states that the directory is there. */
int plan_make_dirs(struct ns_plan *plan, uint64_t seen, struct spot *s);
/* That no directory has this id. -GRANARY_EBUSY when one has. */
int plan_state_unmade(struct ns_plan *plan, uint64_t seen, uint64_t id);
/* Rows of one new directory; has_marker: puts the entry of empty name too. */
struct dir_attributes { uint32_t mode, uid, gid; bool is_dataset; };
int plan_new_dir(struct ns_plan *plan, uint64_t bucket, uint64_t parent, struct slice name, uint64_t id,
		 const struct dir_attributes *a);
int plan_put_marker(struct ns_plan *plan, uint64_t seen, uint64_t bucket, uint64_t dir, uint32_t mode);
/* +1: points there now, -1: no longer */
void plan_account_pack(struct ns_plan *plan, const struct extent *e, int sign);
void plan_account_bucket(struct ns_plan *plan, uint64_t bucket, int64_t bytes, int64_t objects);
int plan_encode(struct ns_plan *plan, const struct object *o, struct slice *out); /* into plan_buf() */
int plan_take_rewrite(struct ns_plan *plan, uint64_t id);                         /* -GRANARY_EBUSY */

/* ns_delete.c: what an object's row takes with it: live bytes, quota, `x` and `o` rows, the tables' entries. The row
 * itself is deleted by plan_drop_object, or put over by the caller after plan_release_object. */
int plan_release_object(struct ns_plan *plan, uint64_t seen, uint64_t bucket, uint64_t dir, struct slice name,
			const struct object *o);
int plan_drop_object(struct ns_plan *plan, uint64_t seen, uint64_t bucket, uint64_t dir, struct slice name,
		     const struct object *o);
int plan_delete_under(struct ns_plan *plan, struct slice prefix); /* all rows with the prefix */
/* What hangs on the object, whose row is `key`: live bytes, `x` and `o` rows. */
int plan_release_bytes(struct ns_plan *plan, uint64_t seen, struct slice key, const struct object *o);
/* ns_link.c: the name goes from a file that stands in its inode, and with the last name the file. The name's row is
 * the caller's, as of plan_release_object. */
int plan_unlink_inode(struct ns_plan *plan, uint64_t seen, uint64_t bucket, uint64_t dir, struct slice name,
		      uint64_t id);
/* ns_orphan.c: the plan takes the last name of this object. True: somebody has it open (opens.h), so it has to become
 * an orphan. */
bool plan_keeps(struct ns_plan *plan, uint64_t id);
/* It does: o, whose attributes stood in the row `key` (stated by the caller), has its inode with nlink 0 instead. */
int plan_orphan(struct ns_plan *plan, uint64_t seen, struct slice key, uint64_t bucket, uint64_t dir, struct slice name,
		const struct object *o);
void plan_end_removals(struct ns_plan *plan, bool committed);
/* That the bucket is there. -GRANARY_ENOTFOUND. */
int plan_state_bucket(struct ns_plan *plan, uint64_t bucket);
/* kv_txn_touch of an object's place; an orphan has none. */
void plan_touch(struct ns_plan *plan, uint64_t dir, struct slice name, uint64_t id);
/* ns_rename.c: states the directory `id` and all above it. -GRANARY_ELOOP when `moved` is one of them. */
int plan_state_ancestors(struct ns_plan *plan, uint64_t seen, uint64_t id, uint64_t moved);
/* The inode of a directory, which is (parent, name) from now on. */
int plan_move_dir(struct ns_plan *plan, uint64_t seen, uint64_t id, uint64_t parent, struct slice name);
/* ns_attr.c: that neither a file nor a directory has the name. -GRANARY_EEXIST. */
int plan_state_no_name(struct ns_plan *plan, uint64_t seen, const struct spot *s);
/* 1: no child but perhaps its own entry of empty name; 0: has others; or an error. *marker: that entry exists. */
int plan_dir_is_bare(struct ns_plan *plan, uint64_t dir, bool *marker);
/* Removes the rows of a bare directory (and its marker). dir's parent loses a child. */
int plan_remove_dir(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir);

/* ns_lookup.c */
bool obj_loc_of(const struct object *o, uint64_t dir, struct obj_loc *out); /* false: not a thing the tables hold */

/* ns_keys.c */
void keys_free(struct ns *ns);
