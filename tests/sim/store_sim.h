/* SPDX-License-Identifier: Apache-2.0 */
/* store_sim.h -- a whole store on a simulated disk, several clients that change it at once, and an oracle that knows
 * what must be there after a restart. One run: start, work, (a fault or a power cut), restart, verify.
 *
 * What is verified after a restart: (1) each lane's names and bytes are those before or after its unanswered
 * mutation, whole; (2) that mutation, sent again with its sequence, is done once; the last answered one gets its
 * old answer; (3) the bucket's counters and the packs' live counters are what the rows sum up to; (4) every pack
 * verifies; (5) the access key, which has an expiry, still opens the door; (6) all of this again after compaction
 * and removal; (7) no delayed deletion of a pack outlives it; (8) what a client had open has its bytes, though its
 * names may be gone, until it is closed, and then nothing of it is left. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "sim/sim.h"

enum { LANES = 6 };

struct store_run {
	uint64_t seed;      /* of the workload and the disk */
	uint32_t ops;       /* a lane */
	uint64_t cut;       /* power cut at this write of the workload; 0: none */
	uint64_t cut_again; /* and at this write of the recovery; 0: none */
	uint64_t fail_at;   /* this I/O of the workload fails; 0: none */
	int fail_error;     /* as sim_options */
	unsigned fail_classes;
	bool fail_persist;
	bool fills;       /* the disk is full for a while */
	bool clock_jumps; /* the wall clock jumps by a year either way, all the time */
	/* out */
	bool hit;  /* the cut or the fault was reached */
	bool dead; /* the metadata could not be synced */
	uint64_t writes, reads, answered, unanswered, refused, sealed, compacted, removed;
};

/* Ends the test (cmocka) at the first thing that is wrong. */
void store_run(struct store_run *run);

/* Runs one(arg, n) for n = 0, 1, ... as GRANARY_SIM_SEEDS says (`usual` by default, `lengthy` with
 * GRANARY_TEST_LONG=1), or for GRANARY_SIM_SEED alone; it prints the n of a run that fails. */
void store_seeds(uint64_t usual, uint64_t lengthy, void (*one)(void *arg, uint64_t n), void *arg);
int store_teardown(void **state); /* of the cmocka test: says which run failed */
/* Parameters of the run under way, printed when it fails. */
void store_run_print(const struct store_run *run);
