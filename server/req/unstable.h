/* SPDX-License-Identifier: Apache-2.0 */
/* unstable.h -- private to req/: mutations that are answered before they are durable (PROTOCOL 5.16).
 *
 * Invariants: (1) a session's row `h` says that it may have such answers, and which ids it may use, before the first of
 * them is given; (2) the answer tells a verifier, which names this run of the server and how often it lost what was
 * pending, and the first id and version that the mutation took: with these it can be done again, as it was; (3) after
 * a start, mutations wait until every session whose row says so has sent what it had again (or has said that there is
 * nothing), at most REPLAY_WAIT_NS: only what those sessions send again runs; (4) what is pending is written within a
 * second; (5) what is left of a mutation after its answer is a struct unstable; it belongs to one reactor. */
#pragma once

#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/session_row.h"
#include "pack/writer.h"
#include "req/kind.h"

enum { SESSION_IDS_COUNT = 1 << 16, MUTATION_IDS_MIN = 8 };
static const uint64_t REPLAY_WAIT_NS = 10 * UINT64_C(1000000000), PENDING_MAX_NS = UINT64_C(1000000000);

/* ---- what is left of a mutation ---- */

struct unstable {
	struct store_local *local;
	struct kv_txn *txn;     /* while it is pending */
	struct kv_hold hold;
	struct task settled;
	bool is_owned, is_flying; /* by its mutation; by kv */
	bool is_settled;        /* before its mutation went on */
	void *context;          /* the kind's own, while it is owned */
	uint32_t count;
	struct pack_append appends[];
};
struct unstable *unstable_new(struct store_local *local, uint32_t appends);
/* Before pack_append: counts it as not flushed. */
void unstable_append_begin(struct unstable *u, struct pack_append *a);
void unstable_append_failed(struct unstable *u); /* done with an error: it will not be flushed */
/* The mutation has done with it: without a pending transaction its appends are settled. */
void unstable_release(struct unstable **u);

/* ---- the ids of a session (session.c) ---- */

/* n ids out of what is reserved. False: session_reserve first. */
bool session_take_ids(struct session *s, uint32_t n, uint64_t *first);
bool session_is_marked(struct session *s); /* its row says that it may have unstable answers */
bool session_owns_ids(struct session *s, uint64_t first, uint32_t n);
/* n ids for the client to use as it likes, of the last so many that it was given: worker; BUSY: another is at it. */
int session_give_ids(struct store *store, struct session *s, uint32_t n, uint64_t *first);
bool session_was_given(struct session *s, uint64_t id);
int session_reserve(struct store *store, struct session *s); /* worker; BUSY: another request is at it */
/* Writes to its row that nothing is unstable any more. Worker or job; BUSY. */
int session_leave(struct store *store, struct session *s);

/* ---- after a start, and all the time ---- */

struct replays;
int replays_open(struct store *store, struct replays **out); /* reads the rows `h` */
void replays_start(struct replays *replays);                 /* reactors run */
void replays_close(struct replays **replays);
/* True: m waits, and will be woken (mutation_wake). */
struct mutation;
bool replays_wait(struct replays *replays, struct mutation *m);
void replays_done(struct replays *replays, uint64_t session); /* it has sent all again */
bool replays_take_late(struct replays *replays, uint64_t *session); /* one that did not come in time */
/* kv_options.pending_began and flush_records; arg: the store. */
void unstable_began(void *store);
void unstable_flush_records(void *store);
uint64_t store_verifier(const struct store *store, uint64_t losses);
