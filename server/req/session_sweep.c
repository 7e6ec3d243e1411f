/* SPDX-License-Identifier: Apache-2.0 */
/* session_sweep.c -- removes what sessions left in the metadata: retry rows (`l`) a day after they were written, and
 * rows of sessions (`h`) that nobody will come back to.
 *
 * A sweep goes once through all `l` rows, then once through all `h` rows, over as many job passes as it takes.
 * Invariants: (1) ages are store time, never the wall clock; (2) a row that changed since it was read stays: every
 * deletion has its precondition, and what failed is looked at again; (3) an `h` row goes only while its session is
 * not in memory and cannot come there (the gate that session_attach() passes), and only without `l` rows; (4) row M
 * `sessions` remembers the highest session removed, in the same transaction: who comes back is told; (5) a pass looks
 * at BATCHES * LOOKS_MAX rows at most. */
#include "req/session_sweep.h"

#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/tlv.h"
#include "meta/ids.h"
#include "meta/kv.h"

enum {
	BATCHES = 8,         /* a pass */
	LOOKS_MAX = 8192,    /* rows looked at for one transaction */
	DELETES_MAX = 1000,  /* of one transaction */
	SESSIONS_MAX = 100,  /* of one transaction: each costs the committer a seek */
	RETRY_KEY_LEN = 1 + 8 + 8,
	SESSION_KEY_LEN = 1 + 8,
};
#define HOUR_NS UINT64_C(3600000000000)
#define KEEP_NS (24 * HOUR_NS)

struct batch {
	struct sweep *s;
	struct kv_txn *txn;
	struct kv_iter *rows;  /* of `l`, while `h` is gone through */
	uint64_t seen, now_ns; /* now: store time */
	uint32_t looks, deletes, deletes_max;
};

void sweep_init(struct sweep *s, struct store *store, struct sessions *all)
{
	*s = (struct sweep){
		.store = store, .all = all, .began_ns = store->started_ns, .deletes_max = DELETES_MAX
	};
}

static void sweep_from(struct sweep *s, char kind)
{
	s->kind = (uint8_t)kind;
	s->at[0] = (uint8_t)kind;
	s->at_len = 1;
}

static bool is_old(const struct batch *b, struct slice value, uint16_t tag)
{
	uint64_t ns;

	return value_u64(value, tag, UINT64_MAX - KEEP_NS, &ns) && b->now_ns >= KEEP_NS &&
	       ns <= b->now_ns - KEEP_NS;
}

static void batch_delete(struct batch *b, struct slice key)
{
	kv_pre_untouched(b->txn, b->seen, key);
	kv_delete(b->txn, key);
	b->deletes++;
}

static void retry_look(struct batch *b, struct slice key, struct slice value)
{
	if (key.len == RETRY_KEY_LEN && is_old(b, value, LTAG_WRITTEN)) batch_delete(b, key);
}

static bool has_retries(struct batch *b, struct slice prefix)
{
	struct slice key;

	kv_iter_seek(b->rows, prefix);
	if (!kv_iter_valid(b->rows))
		return kv_iter_error(b->rows) < 0; /* not known: the row stays */
	key = kv_iter_key(b->rows);
	return key.len >= prefix.len && memcmp(key.p, prefix.p, prefix.len) == 0;
}

static void session_look(struct batch *b, struct slice key, struct slice value)
{
	uint8_t retry[ROW_KEY_MAX], mark[ROW_KEY_MAX];
	struct slice retries;
	uint64_t id;

	if (key.len != SESSION_KEY_LEN || !is_old(b, value, HTAG_LEASE)) return;
	id = be64_get(key.p + 1);
	retries = slice_of(row_retry(retry, id, 0).p, SESSION_KEY_LEN);
	if (sessions_knows(b->s->all, id) || has_retries(b, retries)) return;
	batch_delete(b, key);
	kv_pre_range(b->txn, retries, true);
	kv_max(b->txn, row_store(mark, SESSIONS_MARK), SESSIONS_MARK_TAG, id);
}

/* Where the next batch begins. */
static void batch_mark(struct batch *b, struct slice key)
{
	if (key.len > sizeof(b->s->next)) key.len = sizeof(b->s->next);
	memcpy(b->s->next, key.p, key.len);
	b->s->next_len = (uint8_t)key.len;
}

/* 1: the end of this kind was reached; 0; or an error. */
static int batch_fill(struct batch *b)
{
	struct sweep *s = b->s;
	struct kv_iter *it = kv_iter_new(s->store->kv, NULL);
	bool has_ended = false;
	int err;

	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, slice_of(s->at, s->at_len));; kv_iter_next(it)) {
		struct slice key;

		has_ended = !kv_iter_valid(it);
		if (has_ended) break;
		key = kv_iter_key(it);
		has_ended = key.p[0] != s->kind;
		if (has_ended) break;
		batch_mark(b, key);
		if (b->looks++ >= LOOKS_MAX || b->deletes >= b->deletes_max) break;
		if (s->kind == 'l')
			retry_look(b, key, kv_iter_value(it));
		else
			session_look(b, key, kv_iter_value(it));
	}
	err = kv_iter_error(it);
	kv_iter_free(&it);
	return err < 0 ? err : has_ended;
}

static int batch_commit(struct batch *b)
{
	return b->deletes > 0 ? kv_submit_wait(b->s->store->kv, b->txn) : 0;
}

/* A conflict may be another row of the same hash: fewer at once, and again. */
static void batch_settle(struct batch *b, int err, bool has_ended)
{
	struct sweep *s = b->s;

	if (err == -GRANARY_EBUSY) s->deletes_max = (s->deletes_max + 3) / 4;
	if (err < 0) return;
	s->deletes_max = DELETES_MAX;
	if (s->kind == 'l')
		s->retries += b->deletes;
	else
		s->sessions += b->deletes;
	if (has_ended) {
		s->is_running = s->kind == 'l';
		sweep_from(s, 'h');
	} else {
		memcpy(s->at, s->next, s->next_len);
		s->at_len = s->next_len;
	}
}

static int batch_run(struct batch *b)
{
	int has_ended = batch_fill(b), err;

	if (has_ended < 0) return has_ended;
	err = batch_commit(b);
	batch_settle(b, err, has_ended);
	return err;
}

static int sweep_step(struct sweep *s)
{
	struct kv *kv = s->store->kv;
	bool of_sessions = s->kind == 'h';
	uint32_t most = of_sessions ? SESSIONS_MAX : DELETES_MAX;
	struct batch b = { .s = s,
		.txn = kv_txn_new(kv),
		.seen = kv_seq(kv),
		.now_ns = store_clock_now(s->store->clock),
		.deletes_max = s->deletes_max < most ? s->deletes_max : most };
	int err = b.txn != NULL ? 0 : -GRANARY_ENOMEM;

	if (of_sessions) {
		b.rows = kv_iter_new(kv, NULL);
		if (b.rows == NULL) err = -GRANARY_ENOMEM;
		sessions_gate_close(s->all);
	}
	if (err == 0) err = batch_run(&b);
	if (of_sessions) {
		sessions_gate_open(s->all);
		if (b.rows != NULL) kv_iter_free(&b.rows);
	}
	if (b.txn != NULL) kv_txn_free(&b.txn);
	return err;
}

static bool sweep_is_due(struct sweep *s, uint64_t now_ns)
{
	if (s->is_running) return true;
	if (now_ns < s->began_ns + HOUR_NS) return false;
	s->began_ns = now_ns;
	s->is_running = true;
	s->retries = s->sessions = 0;
	sweep_from(s, 'l');
	return true;
}

void sweep_pass(struct sweep *s, uint64_t now_ns)
{
	int err = 0;

	if (!sweep_is_due(s, now_ns)) return;
	for (uint32_t i = 0; i < BATCHES && s->is_running; i++) {
		err = sweep_step(s);
		if (err < 0 && err != -GRANARY_EBUSY) break;
	}
	if (err < 0 && err != -GRANARY_ESHUTDOWN)
		log_warn("cannot remove old rows of sessions: %s; the next job pass goes on",
			error_text(err));
	if (!s->is_running && s->retries + s->sessions > 0)
		log_info("removed what old sessions left; retry_rows=%llu sessions=%llu",
			(unsigned long long)s->retries, (unsigned long long)s->sessions);
}
