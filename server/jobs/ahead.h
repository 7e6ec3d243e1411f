/* SPDX-License-Identifier: Apache-2.0 */
/* ahead.h -- what comes up from cold stores because it is wanted, and what of that goes again. Two speak for a pack: an
 * announced epoch, whose order is known to its end (docs/ORDER.md), so that it is known when each pack is needed first
 * and last; and reads that missed it often enough (field `promote` of its store).
 *
 * cold --wanted, and there is room--> hot+cold, marked `brought` --others need the room--> cold
 *
 * The room is what packs may take on flash up to UNTIL_PERCENT, or to the lowest `until` of the rules' watermarks.
 * Within it packs come up in the order of their need. For one that does not fit goes the one whose next use is farthest
 * away (Belady), and only if that is later than the last use of the one that comes: nothing is brought up to be taken
 * down again before it was used. Of packs that no epoch speaks for the one that was read longest ago goes first.
 *
 * Invariants: (1) only copies that were brought up go, and only while another is named; (2) what an epoch will use is
 * not moved away by rules meanwhile (ahead_needs); (3) nothing is remembered over a restart but the mark in the hot
 * copy's row: consumers report again; (4) it orders, the mover moves. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/order.h"
#include "common/token.h"

struct ahead;
struct heat;
struct moves;
struct packs;
struct snapshots;
struct store_clock;
struct stores;

struct ahead_options {
	struct packs *packs;
	struct stores *stores;
	struct moves *moves;
	struct snapshots *snapshots;
	struct heat *heat;
	struct store_clock *clock;
	bool thread; /* false: ahead_turn() is called by hand */
};
int ahead_open(const struct ahead_options *options, struct ahead **out);
void ahead_close(struct ahead **ahead);

/* A consumer of a snapshot: where it is in which order. Any thread; slices are copied. */
struct ahead_report {
	uint64_t bucket;
	struct slice name, job, host;
	uint32_t rank;
	struct token token; /* of its order; its position does not matter */
	uint64_t position, of, elapsed_ns;
	bool ended;
};
void ahead_report(struct ahead *a, const struct ahead_report *r);
/* Will an announced epoch use this pack? Any thread. */
bool ahead_needs(struct ahead *a, uint64_t pack);
/* The lowest `until` of the rules' watermarks; 0: there are none. Any thread. */
void ahead_set_until(struct ahead *a, uint32_t percent);
int ahead_turn(struct ahead *a);

struct ahead_stats { uint64_t orders, packs, fetched, let_go; };
void ahead_get_stats(struct ahead *a, struct ahead_stats *out);

/* ---- ahead_order.c: no state ---- */

/* When the samples of a page are used from a position on. */
struct page_use {
	uint64_t first, last; /* positions, about; first UINT64_MAX: not any more */
	uint64_t left;        /* samples still to be used, about */
};
/* starts: dense id at which each of `count` pages begins, and the end. */
void ahead_order_uses(const struct order *o, uint64_t position, const uint64_t *starts, uint32_t count,
	struct page_use *out);

/* ---- ahead_choose.c: no state ---- */

enum ahead_verdict { AHEAD_STAYS, AHEAD_COMES, AHEAD_GOES };
struct ahead_pack {
	uint64_t id, size, left;  /* left: bytes that will be used */
	double next_s, last_s;    /* from now; INFINITY: nobody says so */
	double idle_s;            /* since it was read */
	bool hot, cold, brought, wanted; /* wanted: by reads that missed it */
	enum ahead_verdict verdict;
};
/* room: bytes; below 0: there is too much already. At most comes_max come. */
void ahead_choose(struct ahead_pack *packs, uint32_t count, int64_t room, uint32_t comes_max);
