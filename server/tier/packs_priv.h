/* SPDX-License-Identifier: Apache-2.0 */
/* packs_priv.h -- inside of tier/packs: the table, one pack, and what packs.c and packs_files.c
 * share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/list.h"
#include "tier/copy.h"
#include "tier/drives.h"
#include "tier/packs.h"

enum {
	PACKS_SHARDS = 64,
	PACK_NAME_SIZE = 16 + 1 + 16 + 5 + 1,      /* FORMAT 2.2 and a NUL */
	PACK_PATH_SIZE = 6 + 3 + PACK_NAME_SIZE,   /* packs/XX/NAME */
	PACK_MAGIC = 0x1ac4ed01,
	PACKS_MAGIC = 0x1ac45ed2,
};

struct pack {
	uint32_t magic;
	_Atomic uint8_t state;   /* enum pack_state */
	_Atomic bool mine;       /* open and still written by this process */
	_Atomic bool used;       /* referenced since the descriptor clock's hand passed */
	_Atomic bool sealing;
	bool for_job;            /* written by compaction: may use the reserve */
	bool gone;               /* under the shard's lock: name removed, no new references at all */
	_Atomic int64_t refs;    /* the table holds one until the pack is gone */
	_Atomic int64_t pending, lazy;
	_Atomic int64_t pins;    /* of its row, as committed */
	_Atomic(struct fs_file *) file; /* set under files_lock; cleared under files_lock and the shard's lock */
	_Atomic uint64_t end, allocated, file_size;
	uint64_t id, group, order;
	struct pack *chain;      /* in its bucket */
	struct list file_node;   /* in packs->files while `file` is set */
	struct drive *drive;     /* where its copy lies; NULL: nobody knows that drive any more */
	_Atomic uint32_t generation; /* of the drive when `file` was opened */
	_Atomic int64_t charged; /* bytes that it takes of its drive */
	_Atomic bool counted;    /* among the packs that are being written there */
	pthread_mutex_t lock;    /* allocation and opening */
	char name[PACK_NAME_SIZE]; /* of the `c` row; empty: no hot copy */
	_Atomic bool brought;    /* its hot copy: by reads or an epoch; it goes again when others need the room */
	_Atomic bool hot_lost;   /* its hot file is not there or no pack, its drive is: the cold copy serves */
	uint64_t void_store;     /* where a `c` row of its former hot copy stands that the cold one's undoes; or 0 */
	_Atomic(struct copy *) cold; /* its cold copy, or NULL; set once, before or while it is in the table */
};

/* The file of a hot copy that was let go. No row: after a crash the sweep finds it. */
struct packs_left {
	struct drive *drive;
	uint64_t id, since_ns;
	char name[PACK_NAME_SIZE];
};

struct packs_shard {
	pthread_mutex_t lock;
	struct pack **buckets;
	uint32_t bucket_count, count;
	char pad[64];
};

struct packs {
	uint32_t magic;
	struct packs_options o;
	struct packs_shard shards[PACKS_SHARDS];
	pthread_rwlock_t index_lock; /* ids: every pack of the table, ascending */
	uint64_t *ids;
	uint32_t ids_count, ids_cap;
	pthread_mutex_t files_lock;  /* before a shard's lock */
	struct list files;           /* open descriptors, the clock's order */
	uint32_t files_open;
	struct fs_file **stale;      /* under files_lock: of drives that were opened anew, and still referenced then */
	uint32_t stale_count, stale_cap;
	pthread_mutex_t dirs_lock;
	uint64_t written_ns;         /* the jobs': when drives were last probed by a write */
	struct drives *own_drives;   /* where the options named none */
	pthread_mutex_t hold_lock;
	pthread_cond_t hold_changed;
	uint32_t holds, changes;
	pthread_mutex_t copies_lock; /* one change of copies or of a sealed pack's state at a time; before hold_lock */
	struct packs_left *left;     /* under copies_lock: files that hot copies were, to be removed */
	uint32_t left_count, left_cap;
	_Atomic uint64_t cold_only, cold_copies;
	_Atomic uint64_t by_state[PACK_BROKEN + 1];
};

/* packs.c */
struct pack *pack_new(uint64_t id, uint8_t state);
void pack_free(struct pack **pack);
int packs_insert(struct packs *packs, struct pack *pack); /* the table's reference is the caller's first one */
void pack_set_state(struct packs *packs, struct pack *pack, uint8_t state);
struct packs_shard *packs_shard_of(struct packs *packs, uint64_t pack_id);
/* fresh: the same pack elsewhere; takes the old one's place in the table, and its pins. */
void packs_replace(struct packs *packs, struct pack *old, struct pack *fresh);
/* The hot copy of this name went when the cold one came. */
bool packs_is_undone(struct packs *packs, uint64_t pack_id, struct slice name);
void packs_make_gone(struct packs *packs, struct pack *pack); /* drops the table's reference; the caller has one */

/* What it takes of its drive is so much now; and whether it counts as being written there. */
void pack_charge(struct pack *pack, uint64_t bytes);
void pack_count(struct pack *pack, bool is_written);

/* packs_cold.c */
bool pack_is_of_table(struct packs *packs, const struct pack *pack); /* false: gone, or another struct took its place */
struct kv_txn;
int packs_txn_drop_cold(struct packs *packs, struct kv_txn *txn, const struct pack *pack); /* its cold copy, if any */
void pack_set_cold(struct packs *packs, struct pack *pack, struct copy *copy); /* takes the reference */

/* packs_move.c: the same pack, elsewhere; its cold copy too. drive NULL: no hot copy. */
struct pack *pack_twin(struct packs *packs, const struct pack *old, struct drive *drive, bool with_cold);

/* 1: the `c` row names this file or object; 0, also where the cold copy's row undoes it; or an error. */
int packs_names_still(struct packs *packs, uint64_t store, uint64_t pack_id, struct slice name);

/* packs_files.c */
void pack_path(const struct pack *pack, char out[PACK_PATH_SIZE]);
bool pack_name_parse(const char *name, uint64_t *id, uint64_t *attempt);
/* Takes the descriptor into the table; other descriptors that nobody references may close. */
void packs_file_add(struct packs *packs, struct pack *pack, struct fs_file *file);
void packs_file_drop(struct packs *packs, struct pack *pack);
int packs_dir_make(struct packs *packs, struct drive *drive, struct fs *fs, uint64_t pack_id); /* packs/XX, synced */
void packs_file_unmake(struct pack *pack, struct fs_file **file);
