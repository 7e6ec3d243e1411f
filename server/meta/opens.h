/* SPDX-License-Identifier: Apache-2.0 */
/* opens.h -- which objects sessions have open: a table in RAM, asked by every plan that removes an object. Any thread;
 * never blocks on I/O.
 *
 * An open is known by its session and a number that the session chose (its handle).
 *
 * Invariants: (1) whoever opens adds the open first and looks the object up after that; whoever removes an object
 * begins with opens_remove_begin() and asks opens_has() after that; so of the two at least one sees the other: the
 * remover keeps what is open, the opener waits while opens_is_removing() and looks again; (2) an object whose last
 * name went while it was open is an orphan (FORMAT 6.3b): when its last open goes, its id comes into the list of
 * opens_take_dead(), whatever of both came first; (3) while `grace` is set opens are not all known yet: every object
 * that is removed is taken for an open one. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { OPENS_READ = 1, OPENS_WRITE = 2, OPENS_ALL = 3 }; /* access; as OPEN_FOR_... on the wire */

enum { OPENS_SESSION_MAX = 1 << 20 }; /* opens of one session */

struct opens;
/* on_dead: there is a dead one more. Any thread, under no lock. May be NULL. */
struct opens *opens_new(void (*on_dead)(void *arg), void *arg);
void opens_free(struct opens **opens);

/* ---- opening and closing ---- */

/* 0, also when the same open is there already; -GRANARY_EINVAL: the handle has another object open;
 * -GRANARY_ETOOBIG; -GRANARY_ENOMEM. access: OPENS_... bits. */
int opens_add(struct opens *opens, uint64_t session, uint64_t handle, uint64_t id, uint8_t access);
/* False: there is no such open. *left: the object when the session has it open no more, else 0. */
bool opens_close(struct opens *opens, uint64_t session, uint64_t handle, uint64_t *left);
/* The object of a handle, and what it was opened for. False: there is no such open. */
bool opens_find(struct opens *opens, uint64_t session, uint64_t handle, uint64_t *id, uint8_t *access);
void opens_end_session(struct opens *opens, uint64_t session); /* all of its opens */
/* Has the session the object open with all of these bits? */
bool opens_allow(struct opens *opens, uint64_t session, uint64_t id, uint8_t access);
/* A number that names what the server remembers of the session's opens; another one: they were lost in between. 0:
 * nothing is remembered. */
uint64_t opens_state(struct opens *opens, uint64_t session);
bool opens_is_removing(struct opens *opens, uint64_t id);

/* ---- removing ---- */

void opens_remove_begin(struct opens *opens, uint64_t id);
void opens_remove_end(struct opens *opens, uint64_t id);
bool opens_has(struct opens *opens, uint64_t id); /* an open, or grace */
/* Each session that has it open, once, with the bits of all its opens. Under the table's lock. */
void opens_each_holder(struct opens *opens, uint64_t id, void (*each)(void *arg, uint64_t session, uint8_t access),
		       void *arg);
void opens_set_orphan(struct opens *opens, uint64_t id); /* it is one now: invariant (2) */
bool opens_take_dead(struct opens *opens, uint64_t *id);
void opens_put_dead(struct opens *opens, uint64_t id); /* it could not be removed: later. on_dead is not called */

void opens_set_grace(struct opens *opens, bool is_grace);
bool opens_is_grace(const struct opens *opens);

struct opens_stats { uint64_t opens, objects, orphans, dead; };
void opens_get_stats(struct opens *opens, struct opens_stats *out);
