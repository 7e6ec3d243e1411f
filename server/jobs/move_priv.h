/* SPDX-License-Identifier: Apache-2.0 */
/* move_priv.h -- shared by move*.c only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "jobs/move.h"

struct move_task {
	struct move_task *next; /* in the order of their begin */
	struct move_progress p;
	uint64_t *packs;        /* NULL once it ended */
	uint32_t count, at;     /* at: the next one */
	uint32_t pauses;        /* in a row */
	uint64_t not_before_ns; /* monotonic, while it is PAUSED */
	bool cancel;
};

struct moves {
	struct moves_options o;
	pthread_t thread;
	bool has_thread;
	pthread_mutex_t lock; /* all below but what is atomic */
	pthread_cond_t wake;
	struct move_task *first, **last;
	uint32_t count;
	bool stop, paused, busy;
	_Atomic bool stopping;
	uint64_t swept_stores;      /* a bit a store of the table, once its leftovers were looked for */
	uint64_t rate_from_ns, rate_bytes; /* the mover's own */
	_Atomic uint64_t done[MOVE_KINDS], bytes_in, bytes_out, failed, swept, removed;
};

/* move_pack.c: one pack, as the order says. 1: done; 0: nothing to do; BUSY: not now; or an error. */
struct move_step {
	struct moves *m;
	const struct move_order *order;
	uint64_t pack;
	uint64_t bytes_in, bytes_out; /* out */
};
int move_pack_run(struct move_step *s);
