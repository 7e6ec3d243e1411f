/* SPDX-License-Identifier: Apache-2.0 */
/* watch.h -- private to req/: what changed, for sessions that keep copies (PROTOCOL 5.20). Any thread; no I/O.
 *
 * Invariants: (1) a change is noted after it is visible, before it is answered: who is told and looks sees it; (2)
 * while nobody watches, nothing is noted and nothing costs more than one look at a flag; (3) a cursor is a place in
 * the order of what was noted since this start: one that is not among what is kept, of before this start also, means
 * that anything may have changed; (4) who waits is woken within WATCH_DELAY_NS of a change by another session. */
#pragma once

#include "req/kind.h"

static const uint64_t WATCH_DELAY_NS = 20 * UINT64_C(1000000), WATCH_IDLE_NS = 60 * UINT64_C(1000000000);
enum { WATCH_EVENTS_MAX = 1 << 16, WATCH_BYTES_MAX = 8 << 20 /* kept */, WATCH_PAGE_MAX = 1024 };

struct watches;
struct watches *watches_new(struct store *store);
void watches_free(struct watches **watches);
bool watches_are_wanted(const struct watches *watches);
/* What the plan, committed just now, changed. */
void watches_note(struct watches *watches, uint64_t session, const struct ns_plan *plan);
void watches_tick(struct watches *watches, uint64_t now_ns); /* a job pass: nobody watches any more? */
