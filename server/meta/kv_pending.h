/* SPDX-License-Identifier: Apache-2.0 */
/* kv_pending.h -- unstable transactions: judged, ordered and visible to their own session before they are durable.
 *
 *   submitted -> PENDING -> durable     `settled`, result 0
 *             |          -> lost        `settled`, an error; kv_losses() has grown
 *             -> refused, or committed as any other (kv_txn_is_pending() is false)
 *
 * Invariants:
 * (1) Pending rows of different sessions are disjoint, and no transaction that is not pending rests on them: who meets
 *     a pending row of another session, and whoever is not unstable and meets any, is judged after a flush. Meeting is
 *     stating, putting, deleting or counting in a row that a pending transaction puts or deletes, a range that it
 *     changes, putting, deleting or kv_add_known on a row on which it did that last, and a limit on a counter while
 *     anything is pending. So losing what is pending loses nothing else, and sessions can send theirs again
 *     independently.
 * (2) What a pending transaction states about rows that are not pending may change before it is written: whoever
 *     changes them did not meet it, so the order does not matter. What it counts is counted when it is written.
 * (3) A flush takes all that is pending, in the order of judging, in one batch, after all records that it names are
 *     flushed (contract B). From the wish on until it is through nothing becomes pending.
 * (4) Pending is lost as a whole: a record that cannot be flushed, a batch that cannot be written.
 * (5) kv_get shows a pending row to the session that owns it, and so does kv_iter_new_under; any other read of it waits
 *     for a flush. Iterators and views wait for a flush before they are made: of all that is pending,
 *     kv_iter_new_under of what others have pending in its range. So nobody is shown what a crash could take back
 *     (contract C).
 *     What a session counts by kv_add_known is shown to it and waited for by others in the same way.
 * (6) A row is taken out of the table after the engine shows it, so a reader that does not find it here finds it there.
 * (7) The bytes of what is pending stay below pending_max: at half of it a flush begins. */
#pragma once

#include <pthread.h>

#include "meta/kv_group.h"

struct kv_pending {
	pthread_mutex_t lock;  /* rows: written by the one who judges, read by all */
	struct overlay rows, counts; /* counts: rows that kv_add_known was done on, and what the tag is after it */
	uint64_t taken;        /* under the lock: how often it was emptied */
	_Atomic uint64_t count; /* of transactions; 0: nothing to look for */
	struct kv_bundle list;  /* the rest: under the judge's lock */
	struct kv_txn *unflushed; /* the first whose records are not known to be flushed */
	_Atomic uint64_t bytes;
};

int pending_init(struct kv_pending *p);
void pending_release(struct kv_pending *p);
bool pending_meets(struct kv_pending *p, const struct kv_txn *txn); /* invariant (1) */
/* It was judged by g just now. Takes it; -GRANARY_ENOMEM: not. */
int pending_add(struct kv_pending *p, struct kv_group *g, struct kv_txn *txn);
/* 1: all records are flushed; 0: not yet; or the error of one that failed. */
int pending_is_flushed(struct kv_pending *p);
/* Empties it: the transactions, in order. */
struct kv_bundle pending_take(struct kv_pending *p);
enum pending_found { PENDING_NONE, PENDING_OTHERS, PENDING_PUT, PENDING_DELETED };
/* For a reader. PENDING_PUT: *out is a copy to be released. -GRANARY_ENOMEM. With PENDING_PUT and PENDING_NONE: of the
 * row, whoever has it, *count is so much (tag 0: nothing). */
struct pending_count { uint64_t count; uint16_t tag; };
int pending_get(struct kv_pending *p, struct slice key, struct kv_value *out, struct pending_count *count);
bool pending_is_under(struct kv_pending *p, struct slice prefix);
uint64_t pending_taken(struct kv_pending *p);
/* A copy of a row, in memory that is used again. */
struct pending_row {
	uint8_t *bytes;
	size_t cap;
	struct slice key, value;
	bool is_deleted;
};
/* The next row that begins with the prefix (overlay_seek), for the reader `owner`. PENDING_PUT: *out; PENDING_NONE;
 * PENDING_OTHERS: it is another's; EAGAIN: what was pending was taken since pending_taken() was `taken`, so the engine
 * shows it by now; ENOMEM. */
struct pending_view {
	uint64_t owner, taken;
	struct slice prefix;
};
int pending_seek(struct kv_pending *p, const struct pending_view *view, struct slice key, enum overlay_way way,
		 struct pending_row *out);
/* kv_own.c: an iterator over what begins with the prefix, as this reader sees it (invariant (5)). NULL: no memory. */
struct kv_iter *own_iter_new(struct kv *kv, struct kv_pending *p, struct kv_engine *engine, struct slice prefix,
			     enum kv_iter_kind kind);
