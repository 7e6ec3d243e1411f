/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_priv.h -- a stream of batches, shared by epoch.c (the calls), epoch_open.c (from options to an order),
 * epoch_run.c (its thread), epoch_lead.c (how far ahead), epoch_batch.c (batches), epoch_gen.c (windows of blocks),
 * epoch_hold.c (blocks held in memory), epoch_own.c (own samples of blocks), epoch_read.c (where bytes come from),
 * epoch_mem.c (their memory).
 *
 * (1) what is under "run" belongs to the epoch's thread, what is under "lock" to whoever holds the client's
 *     lock, the rest never changes after granary_epoch_open().
 * (2) batches are handed out in their order; a batch on the ready list is whole and verified.
 * (3) memory of a batch or a hold is written by the client's thread only while its operation is not done. */
#pragma once

#include "client_priv.h"
#include "common/order.h"
#include "range.h"
#include "recipe_priv.h"

enum {
	EPOCH_GENS_MAX = 64,
	FETCH_HOLDS_MAX = 64,
	MEM_CLASSES = 256,
};

/* ---- memory (epoch_mem.c): blocks by size class, kept when they come back: their pages are there ---- */

struct mem {
	uint64_t used, carved;        /* bytes handed out; ever taken from slabs */
	uint64_t limit;               /* beyond it a larger block that is free serves as well */
	struct granary_client *client;
	struct slab *slabs;
	void *free[MEM_CLASSES];
};
size_t mem_size(size_t size);     /* what a request of so many bytes takes */
uint8_t *mem_get(struct mem *m, size_t size);
void mem_put(struct mem *m, uint8_t *p, size_t size); /* the size it was asked with */
void mem_release(struct mem *m);

/* ---- blocks held while their samples are drawn (epoch_gen.c, epoch_hold.c) ---- */

enum hold_state { HOLD_PLANNED, HOLD_NEVER, HOLD_COMING, HOLD_HERE, HOLD_GONE };
struct hold_row { uint32_t offset, size; };  /* in its memory; offset HOLD_BAD: to be read again */
#define HOLD_BAD UINT32_MAX
struct fetch;
struct hold {
	uint64_t first_id;
	uint32_t count, count_first;  /* samples; those before the ids go on at 0 */
	uint32_t left;                /* samples still to be drawn */
	/* Of a gen that is picked: of its samples, ascending, this rank's, and those that nobody takes. */
	const uint32_t *own, *gone;
	uint32_t own_count, gone_count, own_data;
	uint16_t part;
	uint8_t state;
	uint8_t *mem;                 /* rows, then bytes */
	size_t size;
	struct fetch *fetch;          /* HOLD_COMING */
};
/* The windows with one number of all lanes of this rank, in one pass over a part of the epoch. */
struct gen {
	uint64_t number;              /* pass * windows of a pass + window */
	uint64_t pass, window;
	struct order order;           /* of the pass */
	uint64_t begin, end;          /* items of the rank's first lane, about: when its samples are drawn */
	bool picked;                  /* holds list which samples are taken: others are another's, or nobody's */
	uint32_t past;                /* lanes of this rank of which all is drawn */
	struct hold *holds;           /* lane index * blocks of a window + block */
	uint32_t *sorted;             /* holds by first_id */
	uint32_t count, next;         /* of it; the first not looked at for fetching */
	uint32_t *own, *gone;
	struct range_stream stream;
};
/* What is held of a part of the epoch. */
struct hold_source {
	struct gen *gens;             /* a ring; NULL: nothing */
	uint32_t part, gens_max;
	uint64_t gen_first, gen_end;  /* windows that have a gen */
	uint64_t gens_count;          /* of the epoch */
	uint64_t windows;             /* of a pass over the longest lane */
	uint64_t next_begin;          /* when gen_end would be drawn from */
	uint64_t wanted;              /* batches that are planned draw from windows before this one */
	uint32_t window_blocks;
	const struct order *order;    /* of the first pass; lanes and windows are cut alike in all */
	uint32_t *lane_cut;           /* of each lane of this rank: how much of the first block belongs to others */
};
struct sample_place {
	uint32_t part, lane;
	uint64_t pass, index;         /* of the lane's items in one pass over the part */
};
struct own_part {                     /* an extent of a block; row UINT32_MAX: of another rank's sample */
	struct snap_extent extent;
	uint32_t row;
	uint64_t at;                  /* in this rank's bytes of the block */
};
/* What is read together: here, from the page cache or the disk (local_cold.c), or from the server. */
struct epoch_read {
	struct range_plan plan;
	struct cold_read cold;
	struct granary_op *op;        /* NULL: the server is not asked */
};
struct fetch {
	struct list link;             /* run: coming, or spare */
	struct hold *holds[FETCH_HOLDS_MAX];
	uint32_t holds_count;
	struct epoch_read read;
	uint64_t bytes;
};

/* ---- batches (epoch_batch.c) ---- */

struct row_place {
	struct hold *hold;            /* NULL: read by itself */
	uint32_t index;               /* of the sample in it */
};
struct batch {
	struct granary_epoch_batch pub; /* first: what callers have is a pointer to it */
	struct list link;
	uint64_t *offsets, *sizes, *ids, *positions;
	uint32_t *flags, *sources;
	struct row_place *places;
	uint8_t *data;
	size_t data_cap;
	bool data_lent;               /* the caller's memory */
	uint32_t located;             /* rows that are */
	bool filling;
	uint32_t direct;              /* rows read by themselves */
	uint64_t bytes_read, samples_read, checksum;
	uint32_t skipped;
	struct epoch_read *reads;     /* one a part of the epoch: what is read by itself */
	uint32_t parts_count;
};

/* ---- the epoch ---- */

/* Where samples come from: a snapshot, or a part of one. */
struct epoch_part {
	struct granary_snapshot *snapshot;
	const struct subset *subset;  /* NULL: all of it */
};

struct granary_epoch {
	struct granary_client *client;
	struct granary_snapshot *snapshot; /* NULL: a recipe is streamed */
	struct granary_recipe *recipe;
	struct mix mix;               /* of the recipe */
	struct epoch_part *parts;
	uint32_t parts_count;
	const char *bucket, *name;    /* of the snapshot or recipe */
	struct hash128 source;        /* its hash */
	uint64_t mean, largest;       /* bytes a sample, at least 1; at most */
	uint32_t fields;
	uint32_t generation;          /* of the client, when it was opened: forks */
	struct order order;
	struct order_ranks ranks;
	struct granary_epoch_options options; /* texts are ours or NULL */
	struct granary_batch_memory batches_memory; /* take NULL: none of the caller's */
	char *job;                    /* NULL: it has none, and no log */
	char lease[132];              /* the name under which it holds what it reads: its job's, or its own */
	char host[64];
	uint64_t begun_ns, begun_wall_ns, log_id; /* of its log */
	uint64_t memory, ahead;
	uint64_t batches;             /* of this handle: its part of the rank's */
	bool begun;                   /* run: a batch was ready */
	bool holding;                 /* this rank holds blocks of its lanes */
	bool sharing;                 /* of them only its own samples: others have the rest */
	struct range_stream stream;
	uint64_t end;                 /* of the positions that are delivered */
	pthread_t thread;
	bool thread_runs;

	/* run */
	struct mem mem;
	struct list pipeline;         /* batches being planned and filled, in order */
	struct list spare;
	uint64_t planned;             /* batches put into the pipeline */
	uint64_t filled_bytes;        /* memory of all batches ever laid out */
	uint64_t seen_taken, seen_taken_bytes;
	struct hold_source *held_parts; /* parts_count */
	uint32_t lanes_count;
	uint32_t lane_step;           /* its lanes are congruent to its rank modulo this */
	uint64_t even_items;          /* before it an item of a lane is at position item * lanes + lane */
	bool hold_full;               /* the next block has no room */
	bool hold_wanted;             /* a window was found to be wanted */
	uint64_t lead_least;          /* bytes: epoch_lead.c */
	uint64_t hold_share;          /* in 1/65,536: how many blocks are held at all */
	uint64_t hold_limit, held, coming_bytes;
	uint64_t early_left;          /* bytes that may be read by themselves although their block will come */
	struct list coming, fetches;
	struct hold_row *rows;        /* scratch, of one block */
	struct own_part *own_parts;   /* likewise */
	uint32_t own_parts_count, own_parts_cap;
	uint64_t progress_ns, report_ns, bytes_seen;
	uint64_t report_taken;        /* batches, when it reported last */
	struct granary_op *report;
	struct provenance_skip *skips; /* PROVENANCE_SKIPS_MAX; the first ones, in the order of batches */
	uint32_t skips_count;
	uint64_t replaced;            /* samples, in all batches that were finished */
	int read_status;              /* of the row last read by itself: why the server could not, or 0 */

	/* lock */
	pthread_cond_t wake;          /* for its thread */
	pthread_cond_t ready_cond;    /* for the caller */
	struct list ready, taken, returned;
	uint64_t taken_count, taken_bytes; /* ever handed out */
	struct ready_op *ready_op;    /* granary_epoch_ready_start() */
	bool closing, ended;
	int err;
	char error[ERROR_TEXT_SIZE];
	uint64_t error_request;
	uint64_t delivered, samples_read, bytes_read, waited_ns, skipped, bytes_fetched, memory_used;
	uint64_t checksum;            /* of checksums, of what was handed out: docs/ORDER.md 9 */
};

/* epoch.c; lock held: tells who waits for a batch */
void epoch_tell(struct granary_epoch *e);
/* The sample at a position below the epoch's; *part: where it is from. */
uint64_t epoch_at(const struct granary_epoch *e, uint64_t position, uint32_t *part);
/* Which of the rank's batches is number `index` of this handle. */
static inline uint64_t epoch_number(const struct granary_epoch *e, uint64_t index)
{
	return e->options.first + index * e->options.step;
}
/* Lock held: of the epoch, behind the last batch handed out. */
static inline uint64_t epoch_position(const struct granary_epoch *e)
{
	return order_ranks_resume(&e->ranks, e->delivered > 0 ? epoch_number(e, e->delivered - 1) + 1 : 0);
}
/* epoch_open.c */
int epoch_setup(struct granary_epoch *e, const struct granary_epoch_options *options);
/* The token of a position. */
int epoch_token_at(const struct granary_epoch *e, uint64_t position, uint8_t out[TOKEN_SIZE], char *why, size_t cap);
/* epoch_run.c */
void *epoch_main(void *epoch);
void epoch_fail(struct granary_epoch *e, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void epoch_report(struct granary_epoch *e, bool ended);
/* epoch_lead.c (run) */
void lead_setup(struct granary_epoch *e);
uint64_t lead_batches(const struct granary_epoch *e); /* that may be planned and not taken */
bool lead_short(const struct granary_epoch *e);       /* few are: worth reading samples one by one */
double lead_items(const struct granary_epoch *e);     /* likewise, of each lane */
/* epoch_batch.c (run); true: something moved */
bool batch_plan_more(struct granary_epoch *e);
bool batch_finish_more(struct granary_epoch *e);
bool batch_came(const struct batch *b); /* of one that is being filled: nothing of it is under way */
void batch_free(struct granary_epoch *e, struct batch *b);
void batch_recycle(struct granary_epoch *e, struct batch *b);
/* epoch_gen.c (run) */
bool gens_wanted(const struct granary_epoch *e); /* worth it, and windows are few enough at a time */
int gens_setup(struct granary_epoch *e);
void gens_release(struct granary_epoch *e);
uint64_t gens_window_bytes(const struct granary_epoch *e); /* of this rank, in one window of all that is held */
uint64_t gens_need(const struct granary_epoch *e);  /* bytes to hold all that may be held at a time */
uint32_t hold_lane(const struct granary_epoch *e, uint32_t i); /* this rank's i-th lane */
/* The item of a lane of the epoch that is number `index` in the gen's pass; UINT64_MAX: none. */
uint64_t gen_item(const struct granary_epoch *e, const struct hold_source *s, const struct gen *g, uint32_t lane,
	uint64_t index);
/* Positions from the start to the end are delivered; what is behind even_items is read by itself. */
bool item_lives(const struct granary_epoch *e, uint32_t lane, uint64_t item);
/* Where a slot of a window of its i-th lane is: number of the hold in its gen, sample of the block. */
uint32_t hold_slot(const struct hold_source *s, uint32_t i, uint64_t window, uint64_t slot, uint32_t *sample);
struct sample_place sample_place(const struct granary_epoch *e, uint64_t position);
/* NULL: it is not held, or (*later) its window is not planned yet but will be. */
struct hold *hold_of(struct granary_epoch *e, struct sample_place at, uint32_t *index, bool *later);
bool gens_full(const struct hold_source *s); /* none can be planned before one is forgotten */
/* The block to be fetched next, its gen planned; NULL: there is none yet. */
bool gen_due(const struct granary_epoch *e, const struct hold_source *s, const struct gen *g); /* its next block */
struct hold *hold_next(struct granary_epoch *e, struct gen **gen, int *err);
void hold_forget(struct granary_epoch *e, uint64_t position); /* all before it is drawn */
/* epoch_read.c (run) */
int read_start(struct granary_epoch *e, struct epoch_read *r, struct granary_snapshot *s);
bool read_came(const struct epoch_read *r);  /* nothing of it is under way */
/* Of one that came: what could not be read here is asked for, and is under way now. *err: it could not be. */
bool read_goes_on(struct granary_epoch *e, struct epoch_read *r, struct granary_snapshot *s, int *err);
/* Of one that came and does not go on: how many units are bad, or an error, which says why. */
int64_t read_result(const struct epoch_read *r);
const char *read_error(struct granary_epoch *e, const struct epoch_read *r);
void read_end(struct granary_epoch *e, struct epoch_read *r); /* wherever it is; the plan stays */
/* epoch_hold.c (run) */
int hold_setup(struct granary_epoch *e);
void hold_release(struct granary_epoch *e);
bool hold_fetch_more(struct granary_epoch *e);
bool hold_collect(struct granary_epoch *e);
bool hold_fetch_blocked(const struct granary_epoch *e); /* no room for the next block */
uint64_t hold_sample_id(const struct granary_epoch *e, const struct hold *h, uint32_t index);
/* The sample of the block, before it is known whose it is. */
uint64_t block_sample_id(const struct granary_epoch *e, const struct hold *h, uint32_t sample);
const struct hold_row *hold_rows(const struct granary_epoch *e, const struct hold *h, uint32_t index);
void hold_drawn(struct granary_epoch *e, struct hold *h);
void hold_abandon(struct granary_epoch *e, struct hold *h); /* whatever state it is in */
/* epoch_own.c (run) */
int own_plan(struct granary_epoch *e, const struct hold_source *s, struct gen *g);
bool own_find(const struct hold *h, uint32_t sample, uint32_t *index);
/* Memory and units of a block, the fetch's number `number`. */
int own_prepare(struct granary_epoch *e, struct hold *h, struct range_plan *plan, uint32_t number);
void own_bad(struct fetch *f, uint32_t tag);
