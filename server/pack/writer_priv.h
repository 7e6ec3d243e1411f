/* SPDX-License-Identifier: Apache-2.0 */
/* writer_priv.h -- inside of the pack writer: staging memory, groups, the open pack of a group,
 * writers of a core.
 *
 * A core is a reactor's share: everything in it belongs to that thread, but for the pool, which has
 * a lock.
 *
 * append:  QUEUED (writer->queue) -> PLACED (in a struct flush, copied, pending counted) -> done
 *          PLACED -> QUEUED again when its flush failed, on a new pack, at most NEW_PACKS_MAX times
 * flush:   GATHERING (writer->open) -> CLOSED (padded; waits) -> FLYING (writes) -> written
 *          -> syncing (a sync may cover several) -> freed
 * wpack:   CURRENT -> RETIRED (no new flushes) -> handed to a worker when the last flush is
 * through: sealed, or, if a
 *          flush failed, set broken */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/list.h"
#include "io/io.h"
#include "pack/format.h"
#include "pack/writer.h"

struct fs_file;

enum {
	CHUNK_SIZE = 1024 * 1024,        /* one write; a multiple of PACK_BLOCK */
	FLUSH_CHUNKS_MAX = 8,            /* more than the largest record needs */
	POOL_CHUNKS_MIN = 2 * FLUSH_CHUNKS_MAX,
	FLIGHT_MIN = 256 * 1024,         /* bytes, to be launched while another flies */
	FLIGHTS_MAX = 3,                 /* flushes of one writer under way */
	GATHER_NS = 200 * 1000,          /* a small flush waits that long for company, where there was some lately */
	NEW_PACKS_MAX = 3,               /* after a failed flush */
	ALLOCATE_AHEAD = 8 * 1024 * 1024,
	WRITER_BUCKETS = 1024,
	INDEX_SHARE = 8,                 /* of the budget: 1/8 holds footers to be, the rest staging memory */
	INDEX_ENTRIES_MIN = 256,
	SCRATCH_SIZE = 64 + 3 * 65536 + 4 * 65, /* the longest record header */
};

struct writer;
struct writer_core;

struct pool {
	pthread_mutex_t lock;
	uint8_t *memory;
	uint32_t *free;          /* chunk numbers */
	uint32_t free_count, count;
	struct writer_core *claimant; /* was refused first: others are refused until it was served */
};

/* The open pack of a writer. */
struct wpack {
	struct writer *writer;   /* NULL once retired */
	struct writer_core *core;
	struct pack *pack;       /* referenced */
	struct fs_file *file;
	uint64_t end;            /* where the next record may begin: reserved */
	uint64_t durable, allocated, padding;
	uint32_t flushes;        /* not through yet */
	bool retired, broken, allocating, allocate_waited, ahead_failed;
	int allocate_err;
	int allocate_result;     /* the worker's, while allocating */
	uint64_t allocate_to;
	struct pack_index index; /* of all records laid out */
	struct task task;
};

struct flush_op {
	struct io_op op;
	struct flush *flush;
};

struct flush {
	struct flush *next;
	struct writer *writer;
	struct wpack *wpack;
	uint64_t base;           /* offset in the file, on a 4 KiB line */
	uint32_t len;
	uint32_t chunk_count;
	uint32_t chunks[FLUSH_CHUNKS_MAX];
	struct pack_append *first, *last;
	uint32_t count;          /* of them, as laid out */
	uint32_t lazy_count;     /* of those: nobody waits for them */
	uint64_t opened_ns;      /* when the first was */
	uint32_t ops_pending;
	bool is_written, is_syncing;
	bool is_told;            /* its appends were told of their places */
	struct flush_op ops[FLUSH_CHUNKS_MAX];
};

struct writer {
	struct writer *chain;
	struct writer_core *core;
	struct list use;         /* core->writers, least recently used first */
	struct list ready;       /* core->ready */
	uint64_t group, last_ns;
	struct wpack *current, *next;
	struct flush *flushes, *flushes_last; /* in order; the first may fly, the last may be `open` */
	struct flush *open;
	struct io_op gather_op;  /* a timer: ends the wait of the open flush for more */
	bool gathering;
	uint32_t peak;           /* appends of its packs that were outstanding at once, lately */
	uint32_t flying;         /* flushes at the head that were launched, of one pack */
	uint32_t ops_pending;    /* their writes and the sync */
	bool syncing, creating, create_waited, ahead_failed, wants_memory;
	bool is_hurried;         /* what is open is to be flushed although nobody waits for it: writers_flush */
	struct pack_append *queue, *queue_last;
	struct task create_task;
	struct pack *created;    /* the worker's, while creating */
	int create_result;
	int create_err;
};

struct writer_core {
	struct writers *writers;
	struct reactor *reactor;
	struct list writers_list, ready;
	struct writer *buckets[WRITER_BUCKETS];
	struct task turn_task, wake_task, tell_task, hurry_task;
	_Atomic bool hurry_posted;
	bool turn_posted, tell_posted, registered;
	bool claims;             /* was refused memory since it last gave up its claim */
	bool starved;            /* under the pool's lock: to be woken */
	uint8_t *scratch;
	struct flush *spare;
};

struct writers {
	struct writers_options o;
	struct pool pool;
	_Atomic bool stopping;
	_Atomic uint64_t busy;   /* appends not done, tasks under way: 0 = idle */
	_Atomic uint32_t open_count;
	_Atomic uint64_t index_bytes;
	uint64_t index_budget;
	struct writer_core cores[];
};

/* writer_pool.c */
int staging_init(struct pool *pool, uint64_t budget);
void staging_release(struct pool *pool);
bool staging_take(struct writer_core *core, uint32_t *chunks, uint32_t n); /* all or none; none: woken later */
void pool_unclaim(struct writer_core *core); /* nobody here wants memory any more */
void staging_give(struct writers *writers, const uint32_t *chunks, uint32_t n);

/* writer_flush.c */
uint8_t *flush_at(struct flush *f, uint32_t offset);
struct flush *flush_open(struct writer *w, struct wpack *wp);
void flush_close(struct writer *w);
void writer_launch(struct writer *w);
void append_finish(struct writers *writers, struct pack_append *a, int err); /* posts done */
void core_tell(struct task *task); /* of what was launched: while it is on its way */

/* writer_pack.c */
void wpack_create(struct writer *w);
void wpack_allocate(struct wpack *wp, uint64_t end, bool waited);
void wpack_retire(struct wpack *wp);
void wpack_unused(struct wpack *wp); /* after its last flush, if retired: hands it over */
void wpack_index_add(struct wpack *wp, const struct footer_entry *e);
void wpack_index_release(struct wpack *wp);
void wpack_release(struct wpack **wp); /* at stop: not sealed */

/* writer.c */
void writer_ready(struct writer *w);
void writer_queue_first(struct writer *w, struct pack_append *first, struct pack_append *last);
void writers_busy(struct writers *writers, int64_t delta);
