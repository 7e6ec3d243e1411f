/* SPDX-License-Identifier: Apache-2.0 */
/* packs_priv.h -- inside of tier/packs: the table, one pack, and what packs.c and packs_files.c
 * share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/list.h"
#include "tier/packs.h"

enum {
	PACKS_SHARDS = 64,
	PACKS_STORE_ID = 1,                        /* the default hot directory */
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
	pthread_mutex_t lock;    /* allocation and opening */
	char name[PACK_NAME_SIZE]; /* of the `c` row; empty: no hot copy */
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
	pthread_mutex_t dirs_lock;
	bool dir_made[256];          /* packs/XX exists and its name is synced */
	pthread_mutex_t hold_lock;   /* before all others */
	pthread_cond_t hold_changed;
	uint32_t holds, changes;
	_Atomic uint64_t space_total, space_available;
	_Atomic uint64_t by_state[PACK_BROKEN + 1];
};

/* packs.c */
struct pack *pack_new(uint64_t id, uint8_t state);
void pack_free(struct pack **pack);
int packs_insert(struct packs *packs, struct pack *pack); /* the table's reference is the caller's first one */
void pack_set_state(struct packs *packs, struct pack *pack, uint8_t state);
struct packs_shard *packs_shard_of(struct packs *packs, uint64_t pack_id);
void packs_make_gone(struct packs *packs, struct pack *pack); /* drops the table's reference; the caller has one */

/* packs_files.c */
void pack_path(const struct pack *pack, char out[PACK_PATH_SIZE]);
bool pack_name_parse(const char *name, uint64_t *id, uint64_t *attempt);
/* Takes the descriptor into the table; other descriptors that nobody references may close. */
void packs_file_add(struct packs *packs, struct pack *pack, struct fs_file *file);
void packs_file_drop(struct packs *packs, struct pack *pack);
