/* SPDX-License-Identifier: Apache-2.0 */
/* order.h -- the order of an epoch as arithmetic; docs/ORDER.md defines every step, so anyone can recompute it.
 * Invariants: (1) order_at() is a bijection of [0, samples) onto the dense ids [0, samples); (2) it depends on the spec
 * alone, never on ranks, batches, memory or where bytes lie; (3) the same spec gives the same order in every version
 * (tests/golden/order.txt); (4) integers only, no allocation, no globals: a struct order may be copied and shared. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum order_mode { ORDER_EXACT = 1, ORDER_BLOCKS = 2, ORDER_NONE = 3 };
enum order_last { ORDER_LAST_PAD = 0, ORDER_LAST_DROP = 1, ORDER_LAST_KEEP = 2 };

enum { ORDER_LANES_MAX = 32768, ORDER_RANKS_MAX = 65536, ORDER_BATCH_MAX = 4096 };
#define ORDER_SAMPLES_MAX (UINT64_C(1) << 48)
#define ORDER_BLOCK_MAX (UINT64_C(1) << 32)

struct order_spec {
	uint8_t mode;     /* enum order_mode */
	uint64_t samples; /* N, 1..ORDER_SAMPLES_MAX */
	uint64_t block;   /* n: samples a block, a power of two; this and the next two: ORDER_BLOCKS only */
	uint64_t window;  /* G: blocks a window of one lane */
	uint32_t lanes;   /* L, 1..ORDER_LANES_MAX */
	uint64_t seed, epoch;
};

/* ---- keyed permutations ---- */

#define ORDER_GOLDEN UINT64_C(0x9e3779b97f4a7c15)

/* What a key is for; part of the definition, never renumbered. */
enum order_purpose { ORDER_KEY_EXACT = 1, ORDER_KEY_ROTATION = 2, ORDER_KEY_BLOCKS = 3, ORDER_KEY_WINDOW = 4,
	ORDER_KEY_SOURCE = 5 };

/* A key from a key and a value: a bijection of the value for each key. */
uint64_t order_key_add(uint64_t key, uint64_t value);
uint64_t order_key(uint64_t seed, uint64_t epoch, enum order_purpose purpose);
/* Permutation of [0, n), 1 <= n <= ORDER_SAMPLES_MAX, x < n; and its inverse. */
uint64_t order_permute(uint64_t key, uint64_t n, uint64_t x);
uint64_t order_unpermute(uint64_t key, uint64_t n, uint64_t y);

/* ---- the order of one epoch ---- */

struct order {
	struct order_spec spec;
	uint64_t exact_key, blocks_key, window_key;
	uint64_t rotation;     /* in samples, below N */
	uint64_t blocks;       /* whole blocks: N / n */
	uint64_t lane_items;   /* N / L: items of a shorter lane */
	uint32_t longer_lanes; /* N mod L: lanes with one item more */
	uint8_t block_shift;   /* log2 n */
};

/* 0, or -GRANARY_EINVAL with what is wrong in `why` (cap bytes, always terminated; NULL, 0: not wanted). */
int order_init(struct order *o, const struct order_spec *s, char *why, size_t cap);
/* Dense id at a position below samples. */
uint64_t order_at(const struct order *o, uint64_t position);
/* Position of a dense id: order_find(o, order_at(o, p)) == p. */
uint64_t order_find(const struct order *o, uint64_t id);

/* ---- lanes and windows, ORDER_BLOCKS only ---- */

struct order_place {
	uint32_t lane;
	uint64_t item;
};

struct order_window {
	uint64_t first_item; /* of the lane */
	uint64_t items;      /* at most n * G */
	uint64_t blocks;     /* at most G; the first and last may be cut by the lane's borders */
};

/* Consecutive dense ids. A window's samples, before they are permuted, are numbered by slot: 0..items-1. */
struct order_piece {
	uint64_t first_id;
	uint64_t count;
	uint64_t first_slot;
};

struct order_place order_place(const struct order *o, uint64_t position);
uint64_t order_position(const struct order *o, struct order_place at); /* inverse of order_place() */
uint64_t order_lane_items(const struct order *o, uint32_t lane);
uint64_t order_lane_item(const struct order *o, uint32_t lane, uint64_t item); /* dense id */
uint64_t order_lane_windows(const struct order *o, uint32_t lane);
/* The window that an item is in; *slot (may be NULL): which of the window's slots it takes. */
uint64_t order_item_window(const struct order *o, uint32_t lane, uint64_t item, uint64_t *slot);
struct order_window order_window(const struct order *o, uint32_t lane, uint64_t window);
/* The ids of block 0..blocks-1 of a window: 1 piece, or 2 for the block that holds both the last and the first id. */
unsigned order_window_block(const struct order *o, uint32_t lane, uint64_t window, uint64_t block,
	struct order_piece out[2]);

/* ---- defaults ---- */

/* n, L and G for a snapshot of so many samples; recorded in it when it is made. */
void order_defaults(uint64_t samples, uint64_t mean_bytes, bool mostly_cold, uint64_t *block, uint32_t *lanes,
	uint64_t *window);
/* What `auto` takes. */
enum order_mode order_auto(uint64_t mean_bytes, bool mostly_cold);
const char *order_mode_name(uint8_t mode); /* "exact", ...; NULL for no mode */

/* ---- ranks and batches ---- */

struct order_ranks_spec {
	uint64_t samples;
	uint64_t start; /* first position to deliver, 0..samples */
	uint32_t ranks; /* W, 1..ORDER_RANKS_MAX */
	uint32_t rank;  /* r, below W */
	uint32_t batch; /* B: samples a batch of one rank, 1..ORDER_BATCH_MAX */
	uint8_t last;   /* enum order_last */
};

struct order_ranks {
	struct order_ranks_spec spec;
	uint64_t global_batch; /* W * B */
	uint64_t batches;      /* of this rank, from start; the same for all ranks unless ORDER_LAST_KEEP */
	uint32_t offset;       /* of this rank's first position from start */
};

int order_ranks_init(struct order_ranks *k, const struct order_ranks_spec *s, char *why, size_t cap);
/* Rows of a batch: B, but fewer in the last one of ORDER_LAST_KEEP. */
uint32_t order_ranks_rows(const struct order_ranks *k, uint64_t batch);
/* Position of row `index` of a batch; at or above samples: padded. */
uint64_t order_ranks_position(const struct order_ranks *k, uint64_t batch, uint32_t index);
bool order_ranks_padded(const struct order_ranks *k, uint64_t position);
/* Position whose sample fills a row: itself, or for a padded one, position mod samples. */
uint64_t order_ranks_source(const struct order_ranks *k, uint64_t position);
/* Where a run that has delivered `batches` global batches goes on: at most samples. */
uint64_t order_ranks_resume(const struct order_ranks *k, uint64_t batches);
