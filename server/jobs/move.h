/* SPDX-License-Identifier: Apache-2.0 */
/* move.h -- packs between hot and cold: tasks of one order over a list of packs, run one pack at a time on a
 * thread of low priority.
 *
 * A pack:  hot --COPY--> hot+cold --EVICT--> cold --PROMOTE--> hot+cold --DROP--> hot;  DEMOTE is COPY, then
 * EVICT.
 *
 * FETCH is PROMOTE of what reads or an announced epoch want: the hot copy is here for a while (jobs/ahead.h).
 * REPAIR_HOT, REPAIR_COLD: the copy that is damaged is made anew out of the other one.
 *
 * Invariants: (1) no copy goes before another one was read back whole and verified; (2) each pack is a few
 * transactions of its own: a crash or a stop between leaves nothing to undo, and the task goes on after a
 * start by the state of its packs, which it looks at anew; (3) what is already as ordered costs nothing; (4)
 * a store that is away, full or refuses pauses its tasks, which try again with growing pauses; nothing is
 * deleted meanwhile. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cache;
struct governor;
struct ids;
struct kv;
struct linked;
struct moves;
struct ns;
struct packs;
struct store_clock;
struct stores;

struct moves_options {
	struct kv *kv;
	struct ids *ids;
	struct ns *ns;         /* of linked packs: rows that point at what was loaded */
	struct linked *linked; /* NULL: none are */
	struct cache *cache;   /* NULL: none */
	struct packs *packs;
	struct stores *stores;
	struct store_clock *clock;
	struct governor *governor; /* what it leaves to reads; NULL: nothing; not owned */
	uint64_t removal_delay_ns; /* store time between a cold copy's end and the removal of its object (10 s) */
	uint64_t timeout_ns;       /* of a call into a store (60 s) */
	uint64_t retry_ns;         /* first pause of a task whose store is away, doubled up to 64 times (500 ms) */
	bool thread;               /* false: moves_turn() is called by hand (tests, sim) */
};
/* Takes up the tasks that an earlier process left. */
int moves_open(const struct moves_options *options, struct moves **out);
/* After the step at hand, which a store that hangs may keep: then its thread is left behind, with what it uses:
 * false. */
bool moves_close(struct moves **moves);
/* Without a thread: all that can be done now. The first error of a pack, or 0. */
int moves_turn(struct moves *moves);

enum move_kind { MOVE_COPY = 1, MOVE_EVICT, MOVE_DEMOTE, MOVE_PROMOTE, MOVE_DROP, MOVE_REPAIR_HOT, MOVE_REPAIR_COLD,
	MOVE_FETCH };
enum { MOVE_KINDS = MOVE_FETCH + 1 };
enum move_state { MOVE_WAITING = 1, MOVE_RUNNING, MOVE_PAUSED, MOVE_DONE, MOVE_FAILED, MOVE_CANCELED };

/* Tasks of this origin go before others. */
#define MOVES_AHEAD "ahead"
struct move_order {
	uint8_t kind;     /* enum move_kind */
	uint8_t level;    /* of zstd, 1..19; 0: stored as it is */
	uint64_t store;   /* id of the cold store (stores.h): COPY, DEMOTE, DROP (0: any); 0 else */
	uint64_t rate;    /* bytes a second at most; 0: what the foreground leaves */
	char origin[64];  /* who ordered it: "push", a rule's name */
};

struct move_progress {
	uint64_t task, packs, packs_done, packs_skipped, packs_failed, bytes_in, bytes_out, began_ns, ended_ns;
	uint8_t state;      /* enum move_state */
	int err;            /* of the last pack that failed, or why it is paused */
	uint64_t err_pack;
	struct move_order order;
};

/* A task over these packs (any state; those that cannot be moved are skipped and counted). Committed before
 * it returns: it survives a restart. Worker or job. -GRANARY_EBUSY: MOVES_MAX tasks are not through. */
enum { MOVES_MAX = 256, MOVE_PACKS_MAX = 65536 };
int moves_start(struct moves *m, const struct move_order *order, const uint64_t *packs, uint32_t count,
	uint64_t *task);
int moves_cancel(struct moves *m, uint64_t task); /* after the pack at hand; NOTFOUND */
/* Of one; NOTFOUND. Those that ended are kept for a while, the last MOVES_MAX. */
int moves_get(struct moves *m, uint64_t task, struct move_progress *out);
uint32_t moves_list(struct moves *m, struct move_progress *out, uint32_t max); /* newest last */
/* All stop after the pack at hand and none begins, or they go on. Kept over a restart (row `M`moves). */
int moves_pause(struct moves *m, bool paused);
struct moves_stats { uint64_t packs[MOVE_KINDS], bytes_in, bytes_out, failed, swept, removed,
	tasks; bool paused; };
void moves_get_stats(struct moves *m, struct moves_stats *out);
