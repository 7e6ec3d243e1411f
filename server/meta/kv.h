/* SPDX-License-Identifier: Apache-2.0 */
/* kv.h -- an ordered transactional key-value store. A transaction is data: preconditions, puts, deletes and
 * commutative counter operations; submitted without blocking; one committer checks transactions in order, applies
 * hundreds as one write batch, syncs once. Engines: RocksDB (kv_rocks.c), an ordered map with a redo log through
 * io/fs (kv_mem.c: sim and tests).
 *
 * Invariants: (1) a transaction applies whole or not at all; (2) it is done only after its batch is synced (or it
 * failed); (3) readers see synced transactions only; (4) a precondition is judged against the state that all earlier
 * transactions left, range preconditions after the transaction's own puts and deletes; (5) a failed sync stops the
 * process (contract F); ENOSPC closes and reopens the engine and fails the batch with -GRANARY_ENOSPACE (contract H);
 * (6) kv_get, kv_iter and kv_snapshot may block: workers and jobs only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"

struct kv;
struct kv_txn;
struct kv_iter;
struct kv_snapshot;
struct reactor;
struct task;
struct fs;

/* Told by the committer about every invalidation a transaction carries (kv_txn_touch): begin before the batch is
 * written, end after it is synced (or failed), both before done. Called on the committer thread. */
struct kv_observer {
	void (*begin)(void *arg, uint64_t dir_id, struct slice name, uint64_t object_id);
	void (*end)(void *arg, uint64_t dir_id, struct slice name, uint64_t object_id);
	void *arg;
};

struct kv_write_op {
	struct slice key;
	struct slice value;
	bool is_delete;
};

/* Told by the committer what each synced group wrote, in order of keys: it led from position `before` to `after`.
 * Must be quick: the committer waits. Slices are borrowed for the call. */
struct kv_tap {
	void (*group)(void *arg, uint64_t before, uint64_t after, const struct kv_write_op *ops, uint32_t n);
	void *arg;
};

struct kv_options {
	uint64_t block_cache_size;   /* bytes; RocksDB (128 MiB) */
	uint64_t write_buffer_size;  /* bytes; RocksDB memtable (32 MiB), two at most */
	uint32_t group_max;          /* transactions a batch (1,024) */
	struct kv_observer observer;
	struct kv_tap tap;           /* group NULL: none */
	bool must_exist;             /* -GRANARY_ENOTFOUND instead of making an empty one */
	void (*fatal)(void *arg, const char *what); /* a sync failed: must not return in the product (it exits) */
	void *fatal_arg;
	/* Unstable transactions (kv_pending.h). pending_max: bytes of them, 0: none may be submitted. flush_records:
	 * records that they name are to be flushed now. pending_began: there is one where there was none: who called
	 * calls kv_flush_start within a second. pump: lets time go on while a reader waits; engines without a thread
	 * only. Any thread; may be NULL. */
	uint64_t pending_max;
	void (*flush_records)(void *arg);
	void (*pending_began)(void *arg);
	void (*pump)(void *arg);
	void *pending_arg;
	/* The disk is full: the engine is closed and about to be opened again; release the ballast here. May be NULL.
	 * Called on the committer thread, again before every further try. */
	void (*nospace)(void *arg);
	void *nospace_arg;
};

int kv_open_rocks(struct fs *fs, const char *dir, const struct kv_options *options, struct kv **out);
/* Log and snapshot files under dir of `fs`; no thread: transactions run in kv_turn(). */
int kv_open_mem(struct fs *fs, const char *dir, const struct kv_options *options, struct kv **out);
void kv_close(struct kv **kv);                 /* commits what is queued first */
uint32_t kv_turn(struct kv *kv);               /* kv_mem only: commits one group; returns transactions done */
/* Closes and opens the engine again; RocksDB. The committer does it by itself after ENOSPC. Iterators and snapshots
 * that are open then end with -GRANARY_EBUSY: read again. */
int kv_reopen(struct kv *kv);

/* ---- backup ---- */

/* A number that grows with every synced group, also over restarts: two stores of the same history that have the same
 * position have the same rows. */
uint64_t kv_position(struct kv *kv);
/* Makes the folder `dir` (which must not exist; its parent is on the same filesystem) with files that the engine opens
 * as a store of one position, which is at or past that at the call. Commits go on. Files in it do not change, and those
 * that the engine itself keeps as they are are hard links of its own (fs_identity). Blocks: jobs. */
int kv_checkpoint(struct kv *kv, const char *dir);
const char *kv_engine_name(struct kv *kv);

/* Value borrowed until kv_value_release. -GRANARY_ENOTFOUND when absent. */
struct kv_value { struct slice v; void *pin; void (*unpin)(void *pin); };
int kv_get(struct kv *kv, struct slice key, struct kv_value *out);
/* The same where it needs no disk, for those who must not block: -GRANARY_EAGAIN when memory does not know. */
int kv_get_cached(struct kv *kv, struct slice key, struct kv_value *out);
void kv_value_release(struct kv_value *v);
/* n gets; out[i] as kv_get's, err[i] 0 or -GRANARY_E...; order kept. */
void kv_multi_get(struct kv *kv, const struct slice *keys, uint32_t n, struct kv_value *out, int *err);

/* One consistent view for several iterators (a list page). NULL snapshot: the state as of kv_iter_new. */
struct kv_snapshot *kv_snapshot_new(struct kv *kv);
void kv_snapshot_free(struct kv *kv, struct kv_snapshot **s);
struct kv_iter *kv_iter_new(struct kv *kv, struct kv_snapshot *s);
/* The same for one that stays among the keys that begin with `prefix`: waits only for what others have pending there,
 * and shows what the session has that this thread reads for (kv_read_as), also what it adds meanwhile. */
struct kv_iter *kv_iter_new_under(struct kv *kv, struct slice prefix);
/* The same for those who must not block: its error is -GRANARY_EAGAIN where memory does not know. */
struct kv_iter *kv_iter_new_cached(struct kv *kv, struct slice prefix);
/* For one that goes through millions of rows in order: reads ahead, and leaves what others read in the cache. */
struct kv_iter *kv_iter_new_scan(struct kv *kv, struct kv_snapshot *s);
void kv_iter_free(struct kv_iter **it);
void kv_iter_seek(struct kv_iter *it, struct slice key); /* first key >= key */
void kv_iter_seek_back(struct kv_iter *it, struct slice key); /* last key <= key */
void kv_iter_next(struct kv_iter *it);
bool kv_iter_valid(const struct kv_iter *it);
struct slice kv_iter_key(const struct kv_iter *it);   /* borrowed until the next move */
struct slice kv_iter_value(const struct kv_iter *it);
int kv_iter_error(const struct kv_iter *it);          /* 0, or why it stopped: always ask before trusting an end */

/* A number that grows with every synced group. Take it before reading the rows a precondition rests on and give it
 * as `seen`: the committer then knows without reading that nothing touched the row since. 0: always read.
 * Contract: give `seen` only with a precondition that those reads showed to hold: it is taken at its word. */
uint64_t kv_seq(struct kv *kv);

struct kv_txn *kv_txn_new(struct kv *kv);
void kv_txn_free(struct kv_txn **txn);         /* only when not submitted, or after done */
/* Keys and values are copied. The order of ops on one key counts: the last put or delete wins. */
void kv_put(struct kv_txn *txn, struct slice key, struct slice value);
/* The same, but the value's u64 tag is raised to what the row says when the transaction is applied: a kv_max of
 * another one in between is not lost. */
void kv_put_raising(struct kv_txn *txn, struct slice key, struct slice value, uint16_t tag);
/* The same, and the value's u64 tag `kept` is what the row says then, where it has it: a kv_add_known in between is not
 * lost. raised: as above, or 0. */
void kv_put_keeping(struct kv_txn *txn, struct slice key, struct slice value, uint16_t kept, uint16_t raised);
void kv_delete(struct kv_txn *txn, struct slice key);
void kv_add(struct kv_txn *txn, struct slice key, uint16_t tag, int64_t delta);  /* FORMAT 6.20; never below 0 */
void kv_max(struct kv_txn *txn, struct slice key, uint16_t tag, uint64_t value); /* on the value's u64 tag */
/* kv_add, but to nothing where the row does not have the tag: there it is not known. A session is shown what it has
 * pending of these as it is shown its rows. Of one tag of a row. */
void kv_add_known(struct kv_txn *txn, struct slice key, uint16_t tag, int64_t delta);
/* All keep the width of a tag that is there (a u8 state) while the number fits, and make it 8 bytes else. Tags 1
 * and 2 (id, version) are not counters. */
void kv_txn_touch(struct kv_txn *txn, uint64_t dir_id, struct slice name, uint64_t object_id); /* see kv_observer */

void kv_pre_absent(struct kv_txn *txn, uint64_t seen, struct slice key);
void kv_pre_version(struct kv_txn *txn, uint64_t seen, struct slice key, uint64_t version); /* tag 2 equals */
void kv_pre_id(struct kv_txn *txn, uint64_t seen, struct slice key, uint64_t id, bool or_absent); /* tag 1 equals */
/* Nobody put or deleted the row since `seen` (not 0): for sums over what it said, which a version that stays while a
 * record moves does not protect. Now and then it fails without cause (another row of the same hash). */
void kv_pre_untouched(struct kv_txn *txn, uint64_t seen, struct slice key);
void kv_pre_range(struct kv_txn *txn, struct slice prefix, bool empty); /* any key with this prefix? after own ops */
/* The same with `seen`, for the prefix of one directory (row_entry_prefix); for any other prefix seen is not used.
 * The reads that `seen` stands for must have shown that it holds after the transaction's own puts and deletes. */
void kv_pre_range_seen(struct kv_txn *txn, uint64_t seen, struct slice prefix, bool empty);
void kv_pre_counter(struct kv_txn *txn, struct slice key, uint16_t tag, uint64_t n, uint64_t limit); /* ctr+n<=limit */

/* Submits; txn belongs to kv until `done` runs: on reactor `to` (reactor_post), or on the committer thread when `to`
 * is NULL. Then kv_txn_result: 0; -GRANARY_EBUSY when a precondition failed (read again, plan again);
 * -GRANARY_EQUOTA (kv_pre_counter); -GRANARY_ENOSPACE; -GRANARY_ESHUTDOWN; -GRANARY_EIO; -GRANARY_ECORRUPT (a row it
 * needs is damaged); -GRANARY_ENOMEM. All but 0 mean: nothing was or will be applied. */
void kv_submit(struct kv *kv, struct kv_txn *txn, struct reactor *to, struct task *done);
int kv_txn_result(const struct kv_txn *txn);
/* Several, handed over in order and in one go: one wake-up, one group. Zero it before the first use. */
struct kv_bundle { struct kv_txn *first, *last; };
void kv_bundle_add(struct kv_bundle *b, struct kv_txn *txn, struct reactor *to, struct task *done);
void kv_bundle_submit(struct kv *kv, struct kv_bundle *b); /* empties it; nothing for an empty one */
int kv_submit_wait(struct kv *kv, struct kv_txn *txn); /* workers and jobs; under kv_mem commits at once */
uint32_t kv_txn_ops(const struct kv_txn *txn);

/* ---- unstable transactions: see kv_pending.h for what is promised ---- */

/* Records that a transaction names and that are on their way to a pack. Owned by who submits, until `settled`. */
struct kv_hold {
	_Atomic uint32_t left;
	_Atomic int err; /* of the first that failed */
};
/* The transaction may be done before it is durable: `done` says that it was judged, kv_txn_is_pending that it was also
 * put among the pending rows, and then `settled` is posted to its reactor when it is durable (result 0) or was lost
 * (an error). Until then it belongs to kv. owner: the session, not 0. weight: bytes that it keeps besides itself. */
void kv_txn_set_unstable(struct kv_txn *txn, uint64_t owner, struct kv_hold *hold, uint64_t weight,
			 struct task *settled);
bool kv_txn_is_unstable(const struct kv_txn *txn);
bool kv_txn_is_pending(const struct kv_txn *txn);
uint64_t kv_txn_losses(const struct kv_txn *txn); /* kv_losses() as it was when it became pending */
/* Judges an unstable transaction on this thread when that takes no waiting: true, and kv_txn_result holds; `done` is
 * not posted. False: submit it. Never blocks. */
bool kv_submit_now(struct kv *kv, struct kv_txn *txn, struct reactor *to);
void kv_hold_released(struct kv *kv); /* a hold fell to 0, or one failed. Any thread */
/* Writes what is pending, as soon as its records are flushed. Any thread, never blocks. */
void kv_flush_start(struct kv *kv);
/* `done` is posted when all that is pending now is durable or lost. */
struct kv_sync { struct kv_sync *next; struct reactor *to; struct task *done; };
void kv_sync(struct kv *kv, struct kv_sync *sync, struct reactor *to, struct task *done);
void kv_sync_wait(struct kv *kv); /* workers and jobs */
/* Grows by one with each time that pending transactions were lost. */
uint64_t kv_losses(struct kv *kv);
/* On whose behalf this thread reads from here on: kv_get shows a session its own pending rows. 0: nobody's. Returns
 * what it was. */
uint64_t kv_read_as(uint64_t owner);
uint64_t kv_reads_as(void);
/* How many pending rows this thread was shown so far: what was read between two equal numbers is durable. */
uint64_t kv_pending_met(void);

struct kv_stats {
	uint64_t pending, pending_bytes; /* now */
	uint64_t unstable, flushes, losses;
	uint64_t groups, txns, conflicts, puts, deletes; /* puts and deletes: rows written */
	uint64_t sync_ns;          /* in write + sync */
	uint64_t committer_cpu_ns; /* of the committer thread */
	uint64_t pre_reads;        /* engine reads for preconditions and counters */
	uint64_t clamped;          /* kv_add that would have gone below 0: a bug of the caller, logged */
};
void kv_get_stats(struct kv *kv, struct kv_stats *out);
