/* SPDX-License-Identifier: Apache-2.0 */
/* packs.h -- every pack the store has, where its copies lie, and open descriptors. A table in RAM
 * made from the `p` and `c` rows at start; the only place that turns a pack id into a file. Any
 * thread unless said otherwise.
 *
 * OPEN    -> SEALED   packs_set_sealed()  footer and trailer written and synced, row committed
 * OPEN    -> BROKEN   packs_set_broken()  a flush failed (contract F): nothing more is appended
 * SEALED  -> DYING    packs_retire()      row says dying; no new references; a job removes the name
 * DYING   -> (gone)   last packs_unref()  after the name was removed: descriptor closed
 *
 * Invariants: (1) a path comes from the `c` row's name, never from the id; (2) packs_ref fails for
 * DYING packs: the reader looks the object up once more; (3) at most files_max descriptors are
 * open, least recently used close first, never one that is referenced; (4) `pending` counts appends
 * whose transaction is not settled: a pack with pending appends is neither compacted nor judged;
 * (5) a pack with pins (snapshots that need its bytes) is neither compacted, retired nor removed;
 * while there is a hold no pack is retired or removed and no swap of addresses begins. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "meta/rows.h"

struct drive;
struct copy;
struct drives;
struct fs;
struct fs_file;
struct heat;
struct ids;
struct kv;
struct kv_txn;
struct pack;
struct packs;
struct store_clock;
struct stores;
struct task;

enum { PACKS_STEP = 16 * 1024 * 1024 }; /* space is taken in steps of this many bytes */

struct packs_options {
	struct fs *fs;          /* the data directory: store id 1 */
	struct drives *drives;  /* NULL: the data directory alone; not owned */
	struct stores *stores;  /* cold ones; NULL: none; not owned */
	struct heat *heat;      /* told of reads (pack/reader.c); NULL: none; not owned */
	struct kv *kv;
	struct ids *ids;
	struct store_clock *clock;
	uint64_t pack_size;     /* bytes, 16 MiB..4 GiB - 1 (256 MiB) */
	uint64_t reserve;       /* headroom on the disk below which writes get ENOSPACE (contract H) */
	uint32_t files_max;     /* open descriptors (4,096) */
};
int packs_open(const struct packs_options *options, struct packs **out); /* reads rows; sealed packs are not touched */
void packs_close(struct packs **packs);

struct pack *packs_ref(struct packs *packs, uint64_t pack_id); /* NULL: unknown, dying or gone */
struct pack *packs_ref_any(struct packs *packs, uint64_t pack_id); /* jobs: a DYING one too */
uint32_t packs_refs(const struct pack *pack); /* references now, the caller's own included */
void packs_unref(struct packs *packs, struct pack *pack);
uint64_t pack_id_of(const struct pack *pack);
/* Can it be read without more ado? Else packs_open_file() on a worker first; that says OFFLINE while its drive is. */
bool pack_is_ready(const struct pack *pack);
/* The open descriptor of its hot copy; NULL before it was opened. Valid while the pack is referenced, whatever becomes
 * of its drive. */
struct fs_file *pack_file(const struct pack *pack);
int packs_open_file(struct packs *packs, struct pack *pack); /* worker; OFFLINE / NOTFOUND / BADFORMAT (header) */
/* A descriptor of a sealed pack's file for somebody else: opened anew, read-only, through the page cache. BUSY: it is
 * not sealed; STALE: gone; OFFLINE; UNSUPPORTED: no file of the kernel's. Worker; the caller closes it. */
struct pack_shared {
	int fd;
	uint64_t dev, ino, size;
};
int packs_open_shared(struct packs *packs, uint64_t pack_id, struct pack_shared *out);
uint64_t pack_group(const struct pack *pack); /* its placement group */
struct drive *pack_drive(const struct pack *pack); /* or NULL: unknown */
/* Its cold copy, or NULL; valid while the pack is referenced. */
struct copy *pack_cold(const struct pack *pack);
bool pack_is_hot(const struct pack *pack); /* it has a hot copy */
bool pack_lost_hot(const struct pack *pack); /* but that was found missing, and the cold one serves */
bool pack_may_append(const struct pack *pack); /* its drive takes new data: else its writer ends it */
bool pack_may_write(const struct pack *pack);  /* its drive can be written: sealed, removed */
/* Reading it failed: a task to be posted to a worker, which looks after its drive; NULL: that is under way. */
struct task *pack_suspect(const struct pack *pack);

/* A new pack for a group: file made, preallocated by steps of 16 MiB, header written and synced,
 * directory synced, rows `p` and `c` committed. Blocks: worker. Referenced. -GRANARY_ENOSPACE when
 * the reserve would be touched. */
int packs_create(struct packs *packs, uint64_t group, struct pack **out);
/* The same for compaction, which gives more back than it takes: it and packs_allocate of that pack
 * may use the reserve, but for a quarter that is left to the metadata (contract H). order: of the
 * pack it takes the place of, 0: its own. */
int packs_create_for_job(struct packs *packs, uint64_t group, uint64_t order, struct pack **out);
/* Grows the preallocation to cover `end`; blocks; ENOSPACE. */
int packs_allocate(struct packs *packs, struct pack *pack, uint64_t end);
uint64_t packs_allocated(const struct pack *pack); /* preallocated up to here; 0: not by this process */
void packs_pending(struct pack *pack, int delta);
int64_t packs_pending_count(const struct pack *pack);
/* Those of the pending ones that nobody waits for (pack_append.flushed). */
void packs_lazy(struct pack *pack, int delta);
int64_t packs_lazy_count(const struct pack *pack);
/* Nobody appends to it any more: its records end at `end` (the writer's durable end); pack_seal
 * walks up to there. */
void packs_set_end(struct pack *pack, uint64_t end);
uint64_t packs_end(const struct pack *pack); /* 0: not known in RAM, the row's committed end counts */
/* One sealer at a time. false: somebody else is at it. leave_open: the next job pass tries it
 * again. */
bool packs_seal_begin(struct pack *pack);
void packs_seal_end(struct pack *pack, bool leave_open);
int packs_set_sealed(struct packs *packs, struct pack *pack, uint64_t file_size); /* commits; worker */
int packs_set_broken(struct packs *packs, struct pack *pack);
/* Snapshots. A pin stands in the `p` row (tag 70, kv_add by the transaction that names the snapshot)
 * and here: packs_pin() follows right after that commit, inside a hold when delta is 1. */
void packs_pin(struct packs *packs, uint64_t pack_id, int delta);
uint64_t pack_pins(const struct pack *pack);
/* A hold waits until no swap, retirement or removal is under way; then none begins until the last
 * hold ended. Blocks for as long as one transaction: jobs. */
void packs_hold(struct packs *packs);
void packs_unhold(struct packs *packs);
/* Around what a hold keeps away; false: there is a hold. */
bool packs_change_begin(struct packs *packs);
void packs_change_end(struct packs *packs);
/* A pack's order number, and how much of its file can be read by units that are kept: the size of a
 * sealed one, 0 while it may still grow. */
uint64_t pack_order(const struct pack *pack);
uint64_t pack_fixed_size(const struct pack *pack);
/* BUSY: it is pinned or there is a hold. Commits state dying; worker. A broken pack's row stays
 * `broken` (a state only grows): after a crash it is judged again. */
int packs_retire(struct packs *packs, struct pack *pack);
/* BUSY as packs_retire. Removes the dying pack's name, syncs the directory, deletes its rows. Job,
 * after the second look, with its own reference (packs_ref_any); readers that still hold one keep the bytes through the
 * open descriptor. */
int packs_remove(struct packs *packs, struct pack *pack);
/* A sealed pack goes to another drive: bytes moved; job. ENOSPACE, OFFLINE: no drive has room; BUSY: it is not sealed,
 * its appends are not settled, or its drive takes new data; SHUTDOWN: stopped. */
struct packs_move {
	/* After each piece, of so many bytes read or written: sleeps as it likes; an error ends the move. 0 bytes: it
	 * only looks whether to end. Or NULL. */
	int (*pace)(void *arg, uint64_t bytes);
	uint64_t (*rate)(void *arg); /* bytes a second at most, as of now; 0: no limit. Or NULL */
	void *arg;
	bool brought; /* promote: the hot copy may go again for others (pack_info.brought) */
	bool may_lose; /* promote, of a linked pack: without the objects that were changed since */
};
int packs_move(struct packs *packs, uint64_t pack_id, const struct packs_move *order, uint64_t *bytes);
/* ---- hot and cold (packs_cold.c); moves, one at a time ---- */
/* The cold copy was written, read back and verified: names it. evict: its hot copy goes with the same transaction.
 * BUSY: the pack is not sealed (any more), or has a cold copy. Takes over no reference. */
int packs_add_cold(struct packs *packs, uint64_t pack_id, struct copy *copy, bool evict);
int packs_evict(struct packs *packs, uint64_t pack_id); /* its hot copy goes; INVAL: it has no cold one */
/* Its cold copy goes, later (`g` row of kind 4); INVAL: it has no hot one. */
int packs_drop_cold(struct packs *packs, uint64_t pack_id);
/* A sealed pack whose only copy is objects of a source (pack/linked.h): rows `p` and `c`, with what txn has else, then
 * the table. No row names it before that; it is pending until its objects are named (packs_pending, -1). */
struct packs_linked {
	uint64_t store, id, group, end, total, file_size, records, created_ns; /* id: of ids_pack() */
};
int packs_add_linked(struct packs *packs, struct kv_txn *txn, const struct packs_linked *l);
/* A hot copy is made of the cold one, and verified against the checksum of the whole pack. Errors as packs_move(). */
int packs_promote(struct packs *packs, uint64_t pack_id, const struct packs_move *order, uint64_t *bytes);
/* Its hot copy was brought up by reads or an epoch, and is to stay now. 1: it was; 0: there was nothing to do. */
int packs_keep_hot(struct packs *packs, uint64_t pack_id);
/* The hot copy is made anew out of the cold one, and takes the old one's place. INVAL: it has not both. */
int packs_repair_hot(struct packs *packs, uint64_t pack_id, const struct packs_move *order, uint64_t *bytes);
/* The cold copy of a pack whose file is its hot one, as a file, to be closed: bytes that are wrong there may be right
 * here. NOTFOUND: there is no other copy. */
int pack_open_other(const struct pack *pack, struct fs_file **out);
/* Removes files of hot copies that were let go `delay` ago (store time). Job. */
int packs_remove_left(struct packs *packs, uint64_t delay_ns);
uint32_t packs_left_on(struct packs *packs, const struct drive *drive); /* how many are left there */
/* The same of a cold object that a `g` row of kind 4 names: blocks as long as its store likes. Moves. */
int packs_remove_cold(struct packs *packs, uint64_t pack_id, struct slice value);
/* Objects of a cold store without a row whose attempt is of an earlier incarnation are removed, at most max; how
 * many. Moves. */
int packs_sweep_cold(struct packs *packs, uint64_t store, uint32_t max, uint64_t deadline_ns);
/* Removes the file that a `g` row of kind 3 names (its value), after a look that no row does. OFFLINE: not now. Job. */
int packs_remove_moved(struct packs *packs, uint64_t pack_id, struct slice value);
/* Snapshot of the table for jobs: up to max ids above `after` in id order with their RAM state. */
struct pack_info {
	uint64_t id, group, order, file_size;
	uint8_t state;
	bool mine; /* open and still written by this process */
	bool brought; /* its hot copy is here for a while */
	bool may_read, may_write; /* so far as its drive or store goes */
	uint64_t drive, store;    /* of its hot and of its cold copy; 0: none */
	uint64_t cold_length;
	bool is_linked; /* its cold copy is objects of a source (pack/linked.h) */
};
uint32_t packs_list(struct packs *packs, uint64_t after, struct pack_info *out, uint32_t max);
int packs_row(struct packs *packs, uint64_t pack_id, struct pack_row *out); /* worker: as committed now */
/* 1: no row of a pack or of a copy has this id any more; 0: there is one; or an error. Worker. */
int packs_is_gone(struct packs *packs, uint64_t pack_id);
/* Removes files of packs/ without a `c` row whose attempt is of an earlier incarnation, at most
 * max; returns how many (dry: would be), or an error: then nothing was concluded. */
int packs_sweep_orphans(struct packs *packs, uint32_t max, bool dry);
/* Is there room for `bytes` more, on some drive? 0, ENOSPACE, OFFLINE. Cheap: a cached figure refreshed by jobs and by
 * packs_create. */
int packs_room(struct packs *packs, uint64_t bytes);
int packs_room_data(struct packs *packs, uint64_t bytes); /* in the data directory */
/* Looks after every drive, and lets go of files of those that went or were opened anew. Job. true: some health
 * changed. */
bool packs_probe(struct packs *packs);
struct drives *packs_drives(struct packs *packs);
/* Of one drive: packs that lie there, by state, and their bytes. */
struct packs_of_drive { uint64_t packs, open_packs, bytes, groups_count; uint64_t groups[64]; };
void packs_count_drive(struct packs *packs, const struct drive *drive, struct packs_of_drive *out);
int packs_refresh_space(struct packs *packs); /* worker or job */
/* Highest incarnation among pack names, 0 when there is none (FORMAT 1.2). Before packs_open. */
int packs_highest_incarnation(struct drives *drives, uint32_t *out);
int packs_incarnation_in(struct fs *fs, uint32_t *out); /* of one directory */
enum { PACKS_NAME_MAX = 64 };
bool packs_name_parse(const char *name, uint64_t *id); /* a pack file's */
/* Every pack file of a directory, before packs_open; dir: packs/XX. Stops at and returns the first non-zero. */
int packs_each_file(struct fs *fs, int (*each)(void *arg, const char *dir, const char *name, uint64_t id), void *arg);
struct packs_stats {
	uint64_t packs, open_packs, sealed, broken, dying, files_open, space_total, space_available;
	uint64_t cold_copies, cold_only; /* packs with a cold copy; of these without a hot one */
};
void packs_get_stats(struct packs *packs, struct packs_stats *out);
uint64_t packs_size(const struct packs *packs);
struct heat *packs_heat(const struct packs *packs);
