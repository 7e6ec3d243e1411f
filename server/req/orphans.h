/* SPDX-License-Identifier: Apache-2.0 */
/* orphans.h -- private to req/: the end of objects without a name that nobody has open any more, and the wait, after a
 * start, for what sessions had open and locked (PROTOCOL 5.20).
 *
 * Invariants: (1) a session's row `h` says that it may have something open before its first open is answered; (2) after
 * a start there is grace until every session whose row says so has announced what it had open, at most GRACE_NS:
 * meanwhile whatever is removed becomes an orphan, and no new lock is granted; (3) at its end, orphans that nobody has
 * open are removed. */
#pragma once

#include "req/kind.h"

static const uint64_t GRACE_NS = 10 * UINT64_C(1000000000);

struct orphans;
int orphans_open(struct store *store, struct orphans **out); /* reads the rows `h` and `j` */
void orphans_start(struct orphans *orphans);                 /* reactors run */
void orphans_close(struct orphans **orphans);
void orphans_announced(struct orphans *orphans, uint64_t session); /* all that it had */
/* One that did not announce itself in time: its row is to say that it has nothing. */
bool orphans_take_late(struct orphans *orphans, uint64_t *session);
void orphans_are_dead(void *store); /* of opens_new: some are to be removed. Any thread; also to try again */

/* Writes into the session's row whether it may have something open. Worker; at once where it says so already. */
int session_mark_opens(struct store *store, struct session *s, bool has_opens);
bool session_has_opens(struct session *s);
