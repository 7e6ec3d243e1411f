/* SPDX-License-Identifier: Apache-2.0 */
/* mutation.h -- private to req/: what every mutation does around its plan: admission by the
 * session, the plan on a worker, the retry row, the commit, planning again after a conflict, the
 * answer and its memory. */
#pragma once

#include "meta/ids.h"
#include "req/retry_row.h"
#include "req/session.h"
#include "req/unstable.h"

enum { MUTATION_TRIES_MAX = 8, MUTATION_NOTHING = 1 };

struct mutation;
struct mutation_ops {
	/* Worker: fills the plan, statuses entry by entry. 0; MUTATION_NOTHING: no entry changes anything, answer;
	 * ECHANGED: back to step `restart`; another error: the request fails with it (text set). */
	int (*plan)(struct req *r, struct ns_plan *plan);
	/* Few entries: planned on the reactor, as far as memory knows all their rows. May be NULL. */
	bool (*is_short)(const struct req *r);
	/* Instead of plan: worker: commits by itself. Remembered in RAM only. */
	int (*run)(struct req *r);
	/* Reactor, once after the commit or when there will be none (err: its result). May be NULL. */
	void (*settled)(struct req *r, int err);
	/* Reactor: the meta of the success answer into w; meta_cap(r) bytes are there. */
	void (*answer)(struct req *r, struct wr *w);
	size_t (*meta_cap)(const struct req *r);
	/* Worker: makes the entries' results as its retry row says, so that answer() can tell them.
	 * NULL: there are no entries. */
	void (*replay)(struct req *r, const struct retry_row *row);
	/* One status byte an entry; NULL: one byte, 0. Returns how many (at most WIRE_BATCH_MAX). */
	uint32_t (*statuses)(const struct req *r, uint8_t *out);
	/* What else the answer tells of the entries, for the retry row (retry_row.h). NULL: nothing. */
	bool (*list)(const struct req *r, enum retry_field field, uint64_t *out);
	/* How many ids its objects take, besides MUTATION_IDS_MIN. NULL: none. */
	uint32_t (*ids)(const struct req *r);
	uint32_t restart; /* step */
};

/* The first member of such a kind's body: r->body points at it. */
struct mutation {
	struct req *r;
	const struct mutation_ops *ops;
	struct session *session;
	uint64_t sequence, after, seen;
	uint64_t fence; /* the opens_state() under which its client locked the file; 0: it does not rest on a lock */
	uint64_t first_id, first_version; /* for the retry row, set by plan */
	bool relaxed;                     /* the bucket's setting, for the answer's flag */
	bool is_unstable; /* may be answered before it is durable; a kind with appends makes them accordingly */
	bool is_replay;   /* it was answered so, and lost: with the ids that it had */
	struct ids_block ids; /* is_unstable: what it takes its ids and versions from, from the beginning */
	uint32_t ids_taken, versions_taken; /* of them, before the plan */
	struct unstable *tail; /* of a kind with appends, or made when it is submitted */
	/* its own */
	bool is_short_of_ids, has_reserved, is_syncing, is_pending, must_sync;
	uint64_t verifier, losses;
	struct kv_sync sync;
	struct ns_plan *plan;
	uint32_t tries, delete_count, early_step;
	bool admitted, looked_up, submitted, has_row, replayed;
	int err;
	uint64_t wait_for, wait_until_ns;
	struct list wait_node;
	uint64_t deletes[SESSION_DELETES_MAX];
};

/* Parses PROTOCOL 5.1 and makes r->body (body_size bytes, zeroed, a struct mutation first). */
int mutation_begin(struct req *r, struct cur *c, const struct mutation_ops *ops, size_t body_size);
/* Steps, in this order; a kind may have its own after admit and before plan. */
enum step_result mutation_admit(struct req *r);
enum step_result mutation_plan(struct req *r);
enum step_result mutation_finish(struct req *r);
/* In place of the plan step, while r waits and on whatever reactor: the plan as far as memory knows all its rows, or
 * NULL: then the plan step comes in its turn. Who submits the transaction posts r->done, and finish_step goes on. */
struct kv_txn *mutation_plan_early(struct req *r, uint32_t finish_step);
void mutation_drop_early(struct req *r); /* it will not be submitted: as before mutation_plan_early() */
/* A kind's own step ends the request early with r->err set: settles, STEP_DONE. */
enum step_result mutation_fail(struct req *r);
void mutation_cleanup(struct req *r);   /* frees the body */
void mutation_wake(struct mutation *m); /* by the session */
#define MUTATION_STEPS \
	{ "admit", mutation_admit }, { "plan", mutation_plan }, \
	{ \
		"finish", mutation_finish \
	}
