/* SPDX-License-Identifier: Apache-2.0 */
/* governor.h -- how much of the time work in the background may run, so that reads in the foreground do not notice.
 * Reactors note how long each read of hot bytes took; the mover asks after every piece of work how long to pause.
 *
 * FULL: no reads worth counting: no pauses
 * else:  busy windows (work and short pauses) <-> calm windows (no work at all, now and then): p99 of both is compared
 *
 * Invariants: (1) noting never blocks, allocates or fails; (2) what is compared was measured within the last seconds on
 * this machine under this load: there is no limit in milliseconds to set; (3) however bad reads fare, work goes on at
 * SHARE_MIN of the time: a move ends. */
#pragma once

#include <stdint.h>

struct governor;

enum { GOVERNOR_SLOTS = 256 };

struct governor *governor_new(void); /* NULL: no memory */
void governor_free(struct governor **g);
/* A read of hot bytes took so long. slot: of its reactor, which alone notes there; NULL: nothing. */
void governor_note(struct governor *g, uint32_t slot, uint64_t took_ns);
/* One thread: after a piece of work, which began when the pause that was answered last ended. Nanoseconds to pause. */
uint64_t governor_pause(struct governor *g, uint64_t now_ns);

struct governor_info {
	uint64_t busy_p99_ns, calm_p99_ns; /* 0: too few reads to say */
	uint32_t share_percent;            /* of the time that work takes now */
};
void governor_get_info(struct governor *g, struct governor_info *out); /* any thread */
