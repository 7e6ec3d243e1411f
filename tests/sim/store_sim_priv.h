/* SPDX-License-Identifier: Apache-2.0 */
/* store_sim_priv.h -- shared by store_sim.c (a run: the world, the workload, faults, restarts) and store_sim_check.c
 * (what must hold) only. */
#pragma once

#include "sim/store_model.h"
#include "sim/store_sim.h"

struct client {
	struct lane lane;
	struct peer peer;
	struct call *calls[OP_PIECES_MAX];
	uint32_t call_count, left;
	bool busy, putting; /* an op is under way; its own request, after its pieces */
	bool unknown;       /* it will never be answered */
	bool was_before;    /* the state found after the restart is the one before lane.op */
	struct held {
		bool is_open;
		uint64_t handle;
		struct tree_key k; /* as it was opened */
	} held;            /* what it has open, whatever becomes of its names */
	bool answered; /* lane.op was answered and is settled: a repetition gets the same answer */
};

struct sim_world {
	struct store_run *run;
	struct sim *sim;
	struct world w; /* dir unused */
	struct rng rng;
	bool is_dead, is_verifying;
	bool is_full, was_full; /* the disk is; requests that it met may still be answered */
	uint64_t refused_full;
	struct client clients[LANES];
};

#define CHECK(what) run_check((what), #what, __FILE__, __LINE__)
void run_check(bool ok, const char *what, const char *file, int line);

/* store_sim.c */
bool run_is_off(const struct sim_world *w);     /* no power, or the process ended itself */
bool run_had_faults(const struct sim_world *w); /* I/O failed, or the disk is full */
void run_pump(struct sim_world *w, const bool *done);
struct call *run_call(struct sim_world *w, struct peer *p, uint8_t op, struct msg *m); /* frees m; waits */
void run_jobs(struct sim_world *w);             /* one pass; fails the test when it should not fail */

/* store_sim_opens.c */
void run_open_or_close(struct sim_world *w, struct client *c); /* an idle one */
void run_check_open(struct sim_world *w, struct client *c);    /* it has its bytes */
void run_announce(struct sim_world *w);  /* after a start: all that is open */
void run_close_all(struct sim_world *w);
void run_settle_opens(struct sim_world *w); /* orphans that nobody has open go */

/* store_sim_check.c */
/* The object of this key has the bytes of k, or, while I/O fails, cannot be read. */
void run_check_bytes(struct sim_world *w, const struct tree_key *k, uint64_t version, uint8_t flags);
/* Lists and reads everything: each lane's state, counters, the access key. flags: of READ. */
void run_verify(struct sim_world *w, uint8_t flags);
void run_check_packs(struct sim_world *w);     /* every pack verifies */
void run_check_deletions(struct sim_world *w); /* no delayed deletion of a pack outlives it */
