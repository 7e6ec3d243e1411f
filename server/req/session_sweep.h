/* SPDX-License-Identifier: Apache-2.0 */
/* session_sweep.h -- private to req/session*.c: the removal of old rows of sessions (FORMAT 6.13, 6.14). */
#pragma once

#include "req/session.h"

/* Row M that remembers the highest session whose row was removed (FORMAT 6.18). */
#define SESSIONS_MARK "sessions"
enum { SESSIONS_MARK_TAG = 64 };

struct sweep {
	struct store *store;
	struct sessions *all;
	uint64_t began_ns; /* monotonic: the newest sweep; before the first: the start */
	bool is_running;
	uint8_t kind, at_len, next_len;  /* of the rows it goes through */
	uint8_t at[17], next[17];        /* the row to go on with; after the batch under way */
	uint32_t deletes_max;            /* of the next transaction */
	uint64_t retries, sessions;      /* removed by this sweep */
};

void sweep_init(struct sweep *s, struct store *store, struct sessions *all);
/* Jobs only. Begins a sweep an hour of monotonic time after the one before (or the start), goes on with one that
 * runs. Errors are logged; the next pass goes on. */
void sweep_pass(struct sweep *s, uint64_t now_ns);

/* session.c: is it in memory? While the gate is closed none comes there but by a new id. */
bool sessions_knows(struct sessions *all, uint64_t id);
void sessions_gate_close(struct sessions *all);
void sessions_gate_open(struct sessions *all);
