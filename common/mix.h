/* SPDX-License-Identifier: Apache-2.0 */
/* mix.h -- mixtures of sources: which source, and which sample of it, is at a position; docs/ORDER.md 7.
 * Invariants: (1) all is made by mix_init() and constant after it: mix_at() has no state and any thread may call it;
 * (2) a source of `repeat` gives each of its samples exactly so many times an epoch; (3) a source of `weight` is within
 * one sample of its share at every position of a stage (of a lane's stage in `blocks`) where no source has `repeat`;
 * (4) in `blocks` lane l takes from lane l of each source. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/order.h"

enum { MIX_SOURCES_MAX = 256, MIX_STAGES_MAX = 16, MIX_PERIOD_MAX = 65536, MIX_REPEAT_MAX = 65536 };

struct mix_source {
	uint64_t samples;
	uint32_t weight; /* share; 0 where repeat is given, or where stages say the weights */
	uint32_t repeat; /* passes an epoch; 0 where weight is given */
};

struct mix_stage {
	uint64_t from;           /* position; 0 for the first, ascending */
	const uint32_t *weights; /* one a source, 0 allowed, not all */
};

struct mix_spec {
	struct order_spec order; /* samples: of the mixture's epoch; 0: their sum, where all sources have repeat */
	const struct mix_source *sources;
	uint32_t sources_count;
	const struct mix_stage *stages; /* only where no source has repeat */
	uint32_t stages_count;          /* 0: one stage, the weights of the sources */
};

struct mix_table;

struct mix {
	struct order_spec order; /* samples filled in */
	uint32_t lanes;          /* 1 unless `blocks` */
	uint32_t sources_count, stages_count;
	struct mix_source *sources;
	struct order *orders;     /* first pass of each source */
	struct mix_table *tables; /* one a stage; NULL where a source has repeat */
	uint64_t weights_sum;     /* where a source has repeat: of the others */
	uint64_t even_items;      /* where all have repeat: items of the shortest possible lane */
};

/* What is at a position. */
struct mix_item {
	uint32_t source;
	uint32_t lane;
	uint64_t id;    /* dense id in the source */
	uint64_t pass;  /* how often the source (its lane, in `blocks`) has been gone through before */
	uint64_t index; /* position in that pass of the source; in `blocks`, item of its lane */
};

/* 0; -GRANARY_EINVAL with what is wrong in `why`; -GRANARY_ENOMEM. Copies what it needs of the spec. */
int mix_init(struct mix *m, const struct mix_spec *s, char *why, size_t cap);
void mix_release(struct mix *m); /* fine after a failed mix_init() */

struct mix_item mix_at(const struct mix *m, uint64_t position); /* below m->order.samples */
struct order_place mix_place(const struct mix *m, uint64_t position); /* lane 0, item = position, unless `blocks` */
uint64_t mix_lane_items(const struct mix *m, uint32_t lane);
struct mix_item mix_lane_item(const struct mix *m, uint32_t lane, uint64_t item);
struct mix_item mix_lane_rank(const struct mix *m, uint32_t lane, uint64_t item); /* the same without its id */
/* The item of a lane that is number `index` of a source, over all passes; UINT64_MAX: the lane has not so many. */
uint64_t mix_lane_find(const struct mix *m, uint32_t lane, uint32_t source, uint64_t index);
uint64_t mix_source_items(const struct mix *m, uint32_t source, uint32_t lane); /* of one pass */
/* Items before this one are at position item * lanes + lane; in later ones lanes differ (docs/ORDER.md 7.6). */
uint64_t mix_even_items(const struct mix *m);
/* How many of the first `items` items of a lane are of a source. */
uint64_t mix_count(const struct mix *m, uint32_t lane, uint32_t source, uint64_t items);
/* The order of one pass over a source. */
struct order mix_source_order(const struct mix *m, uint32_t source, uint64_t pass);
