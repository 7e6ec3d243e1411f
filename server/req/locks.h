/* SPDX-License-Identifier: Apache-2.0 */
/* locks.h -- private to req/: locks on open files, in RAM. Any thread; never blocks on I/O.
 *
 *   asked -> granted           at once, or
 *         -> refused           LOCKED (who does not wait), DEADLOCK, or
 *         -> WAITING -> granted, or refused with DEADLOCK     turn() is called, once
 *                    -> withdrawn                             by locks_withdraw(): turn() is not called
 *
 * Invariants: (1) what is granted does not conflict with what others hold; (2) those who wait are looked at, in the
 * order in which they came, whenever something is given back; (3) nobody waits in a circle: a range that would close
 * one is refused; (4) after a start, as long as there is grace (orphans.h), nothing is granted but what is announced;
 * (5) a session has locks only on what it has open: they go with its last open of the file, and with itself. */
#pragma once

#include "common/lock_list.h"

struct locks;
struct lock_wait {
	struct list link, all_link; /* of the file; of all who wait */
	struct lock lock;
	uint64_t id, number;        /* the file; the waiting as its client names it */
	bool is_test, may_wait;
	int result;                 /* with turn() */
	struct lock other;          /* LOCKED: who is in the way */
	void (*turn)(struct lock_wait *w); /* on the thread of whoever gave way, under no lock */
};

struct locks *locks_new(bool is_grace);
void locks_free(struct locks **locks);
/* 0; -GRANARY_ELOCKED and w->other; -GRANARY_EDEADLOCK; -GRANARY_ENOMEM; 1: it waits. w stays the caller's; after 1 it
 * belongs to the table until turn() or locks_withdraw(). is_test: nothing is granted. */
int locks_ask(struct locks *locks, struct lock_wait *w);
bool locks_withdraw(struct locks *locks, struct lock_wait *w); /* false: it does not wait any more, turn() comes */
/* Whoever waits for the session under this number is refused with CANCELED; false: nobody does. */
bool locks_cancel(struct locks *locks, uint64_t session, uint64_t number);
/* Gives back: lock->type is not looked at. */
int locks_give(struct locks *locks, uint64_t id, const struct lock *lock);
void locks_drop(struct locks *locks, uint64_t id, uint64_t session); /* all of the session on the file */
void locks_end_session(struct locks *locks, uint64_t session);
/* Announced: 0 when it has it, or gets it in the grace; -GRANARY_ESTALE: it is lost. */
int locks_announce(struct locks *locks, uint64_t id, const struct lock *lock);
void locks_grace_end(struct locks *locks);
struct cur;
void lock_parse(struct cur *c, struct lock *lock); /* lock.c: PROTOCOL 5.20; all but its session */
struct locks_stats { uint64_t held, waiting; };
void locks_get_stats(struct locks *locks, struct locks_stats *out);
