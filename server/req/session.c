/* SPDX-License-Identifier: Apache-2.0 */
/* session.c -- sessions: which mutations run, which are done and what they answered (PROTOCOL 2.3,
 * 5.1, 5.2).
 *
 * A sequence in a session:
 *   (unknown) -> RUNNING   session_admit() says RUN or LOOK
 *   RUNNING   -> SETTLED   session_settle(): the answer is kept, up to SESSION_RESULTS_MAX of them
 *   RUNNING   -> (unknown) session_settle() with an error of class RETRY: nothing was changed, a
 * retry runs
 *   SETTLED   -> (unknown) the client says it has seen it, or newer ones push it out (its retry row
 * remains)
 *
 * Invariants: (1) a sequence runs at most once at a time; (2) sequences up to `seen` are refused;
 * (3) a mutation that names one to follow runs only after that one is settled; (4) what waits is
 * woken at every settlement of what it waits for, or by the tick after WAIT_MAX_NS; (5) `lock`
 * guards all fields but refs, which the shard's lock guards; (6) a session comes into memory by its
 * row `h` only through the gate, which the sweep closes while it removes such rows; (7) what a session had open and
 * locked ends between two of its mutations, its opens first: one that names the number of before (fence) is refused
 * from then on, so nothing is done under a lock that another session was given. */
#include "req/session.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/tlv.h"
#include "meta/ids.h"
#include "req/locks.h"
#include "req/mutation.h"
#include "req/orphans.h"
#include "req/session_sweep.h"
#include "req/unstable.h"

enum { SHARDS = 64, SEQ_BUCKETS = 64, ROW_TRIES = 1000, ROW_PAUSE_US = 200 };
static const uint64_t WAIT_MAX_NS = 10 * UINT64_C(1000000000), DOUBT_NS = UINT64_C(1000000000);

struct seq {
	struct seq *next; /* in its bucket */
	struct list node; /* settled, oldest first */
	uint64_t sequence;
	bool settled;
	struct result result;
};

#define SESSION_MAGIC 0x53534e53u
struct session {
	uint32_t magic;
	uint32_t refs; /* connections */
	uint64_t id, detached_ns;
	struct session *next; /* in its shard */
	char key_id[NS_KEY_ID_MAX + 1];
	pthread_mutex_t lock;
	_Atomic bool stored; /* row `h` is committed */
	_Atomic uint64_t heard_ns; /* it said that it lives; 0: it never does */
	uint64_t doubt_ns;         /* the tick that first found it silent; 0: it is not */
	uint64_t seen,
		pushed_out; /* highest; settled ones up to pushed_out may be forgotten here */
	uint32_t running, settled_count;
	size_t settled_bytes;
	struct seq **buckets; /* made at the first mutation */
	struct list settled, waiting, uploads;
	uint64_t *rows; /* sequences with a retry row, in the order of their commits */
	uint32_t rows_count, rows_cap;
	uint64_t rows_seen; /* `seen` when none of them was left that may go */
	struct session_row row;      /* as committed, once stored */
	uint64_t ids_next, ids_end;  /* of its last range */
	bool row_busy;               /* it is being written */
};

struct shard {
	pthread_mutex_t lock;
	struct session *first;
};

struct sessions {
	struct store *store;
	struct shard shards[SHARDS];
	pthread_rwlock_t gate; /* read: an attachment by row; write: the sweep of rows `h` */
	struct sweep sweep;    /* the job thread's */
};

/* ---- one session ---- */

static struct session *session_new(uint64_t id, const char *key_id, bool stored)
{
	struct session *s = req_alloc(sizeof(*s));

	memset(s, 0, sizeof(*s));
	s->magic = SESSION_MAGIC;
	s->refs = 1;
	s->id = id;
	memcpy(s->key_id, key_id, strlen(key_id) + 1);
	s->row.key = slice_str(s->key_id);
	pthread_mutex_init(&s->lock, NULL);
	atomic_init(&s->stored, stored);
	list_init(&s->settled);
	list_init(&s->waiting);
	list_init(&s->uploads);
	return s;
}

static void seq_free(struct seq *q)
{
	if (q->result.meta != NULL)
		explicit_bzero(
			q->result.meta, q->result.meta_len); /* it may hold a new key's secret */
	free(q->result.meta);
	free(q);
}

static void session_free(struct session *s)
{
	assert(s->magic == SESSION_MAGIC && s->running == 0 && list_empty(&s->waiting));
	uploads_drop(&s->uploads);
	for (uint32_t i = 0; s->buckets != NULL && i < SEQ_BUCKETS; i++) {
		while (s->buckets[i] != NULL) {
			struct seq *q = s->buckets[i];

			s->buckets[i] = q->next;
			seq_free(q);
		}
	}
	free(s->buckets);
	free(s->rows);
	pthread_mutex_destroy(&s->lock);
	s->magic = 0;
	free(s);
}

static struct seq **seq_place(struct session *s, uint64_t sequence)
{
	struct seq **at;

	if (s->buckets == NULL) {
		s->buckets = req_alloc(SEQ_BUCKETS * sizeof(*s->buckets));
		memset(s->buckets, 0, SEQ_BUCKETS * sizeof(*s->buckets));
	}
	at = &s->buckets[sequence % SEQ_BUCKETS];
	while (*at != NULL && (*at)->sequence != sequence) at = &(*at)->next;
	return at;
}

static void seq_remove(struct session *s, struct seq *q)
{
	struct seq **at = seq_place(s, q->sequence);

	assert(*at == q);
	*at = q->next;
	if (q->settled) {
		list_remove(&q->node);
		s->settled_count--;
		s->settled_bytes -= q->result.meta_len;
	}
	seq_free(q);
}

/* Settled ones the client has: `seen` has moved. */
static void session_trim(struct session *s)
{
	list_for_safe (n, tmp, &s->settled) {
		struct seq *q = container_of(n, struct seq, node);

		if (q->sequence <= s->seen) seq_remove(s, q);
	}
}

/* The oldest past the limits. */
static void session_push_out(struct session *s)
{
	while (s->settled_count > SESSION_RESULTS_MAX || s->settled_bytes > SESSION_RESULT_BYTES_MAX) {
		struct seq *q = container_of(s->settled.next, struct seq, node);

		if (q->sequence > s->pushed_out && q->sequence > s->seen) s->pushed_out = q->sequence;
		seq_remove(s, q);
	}
}

static int result_copy(struct result *to, const struct result *from)
{
	*to = *from;
	to->meta = NULL;
	if (from->meta_len > 0) {
		to->meta = req_alloc(from->meta_len);
		memcpy(to->meta, from->meta, from->meta_len);
	}
	return ADMIT_ANSWERED;
}

static int session_wait(struct session *s, struct mutation *m, uint64_t for_sequence)
{
	uint64_t now = clock_mono_ns();

	if (m->wait_until_ns == 0) m->wait_until_ns = now + WAIT_MAX_NS;
	if (now >= m->wait_until_ns) return -GRANARY_EBUSY;
	m->wait_for = for_sequence;
	list_push(&s->waiting, &m->wait_node);
	return ADMIT_WAIT;
}

static void session_wake(struct session *s, uint64_t sequence, uint64_t now_ns)
{
	list_for_safe (n, tmp, &s->waiting) {
		struct mutation *m = container_of(n, struct mutation, wait_node);

		if (m->wait_for != sequence && m->wait_for > s->seen && m->wait_until_ns > now_ns)
			continue;
		list_remove(&m->wait_node);
		mutation_wake(m);
	}
}

/* Is what m must follow settled? */
static bool session_may_follow(struct session *s, uint64_t after)
{
	const struct seq *q;

	if (after <= s->seen) return true;
	q = *seq_place(s, after);
	return q != NULL ? q->settled : after <= s->pushed_out;
}

static int session_check(const struct session *s, const struct mutation *m)
{
	if (m->sequence == 0 || m->after >= m->sequence || m->seen >= m->sequence)
		return -GRANARY_EPROTO;
	return m->sequence <= s->seen ? -GRANARY_EPROTO : 0;
}

static int admit_locked(struct session *s, struct mutation *m, bool resent, struct result *out)
{
	struct seq **at = seq_place(s, m->sequence);
	struct seq *q = *at;

	if (session_check(s, m) < 0) return -GRANARY_EPROTO;
	if (m->seen > s->seen) {
		s->seen = m->seen;
		session_trim(s);
		session_wake(s, s->seen, 0);
		at = seq_place(s, m->sequence);
		q = *at;
	}
	if (q != NULL && !resent) return -GRANARY_EPROTO;
	if (q != NULL && q->settled && (q->result.flags & FRAME_UNSTABLE) != 0 && q->result.verifier != m->verifier) {
		seq_remove(s, q); /* it was lost meanwhile */
		at = seq_place(s, m->sequence);
		q = *at;
	}
	if (q != NULL)
		return q->settled ? result_copy(out, &q->result) : session_wait(s, m, m->sequence);
	if (!session_may_follow(s, m->after)) return session_wait(s, m, m->after);
	if (m->fence != 0 && m->fence != opens_state(m->r->store->opens, s->id)) return -GRANARY_ESTALE;
	q = req_alloc(sizeof(*q));
	memset(q, 0, sizeof(*q));
	q->sequence = m->sequence;
	list_init(&q->node);
	*at = q;
	s->running++;
	m->admitted = true;
	return resent ? ADMIT_LOOK : ADMIT_RUN;
}

int session_admit(struct session *s, struct mutation *m, bool resent, struct result *out)
{
	int res;

	assert(s->magic == SESSION_MAGIC && !m->admitted);
	pthread_mutex_lock(&s->lock);
	res = admit_locked(s, m, resent, out);
	pthread_mutex_unlock(&s->lock);
	return res;
}

static void rows_push(struct session *s, uint64_t sequence)
{
	if (s->rows_count == SESSION_ROWS_MAX) return;
	if (s->rows_count == s->rows_cap) {
		s->rows_cap = s->rows_cap == 0 ? 16 : 2 * s->rows_cap;
		s->rows = realloc(s->rows, s->rows_cap * sizeof(*s->rows));
		assert(s->rows != NULL);
	}
	s->rows[s->rows_count++] = sequence;
}

void session_settle(
	struct session *s, struct mutation *m, const struct result *result, bool has_row)
{
	struct seq *q;

	assert(m->admitted);
	pthread_mutex_lock(&s->lock);
	q = *seq_place(s, m->sequence);
	assert(q != NULL && !q->settled && s->running > 0);
	s->running--;
	m->admitted = false;
	if (has_row) rows_push(s, m->sequence);
	if (result->status != 0 && error_class(-(int)result->status) == ERROR_RETRY) {
		seq_remove(s, q);
		session_wake(s, m->sequence, 0); /* duplicates take their turn; followers wait on */
	} else {
		result_copy(&q->result, result);
		q->settled = true;
		list_push(&s->settled, &q->node);
		s->settled_count++;
		s->settled_bytes += q->result.meta_len;
		session_wake(s, m->sequence, 0);
		if (m->sequence <= s->seen) seq_remove(s, q);
		session_push_out(s);
	}
	pthread_mutex_unlock(&s->lock);
}

uint32_t session_take_deletes(struct session *s, uint64_t *out, uint32_t max)
{
	uint32_t n = 0, kept = 0;

	pthread_mutex_lock(&s->lock);
	if (s->rows_seen == s->seen) {
		pthread_mutex_unlock(&s->lock);
		return 0;
	}
	for (uint32_t i = 0; i < s->rows_count; i++) {
		if (n < max && s->rows[i] <= s->seen)
			out[n++] = s->rows[i];
		else
			s->rows[kept++] = s->rows[i];
	}
	s->rows_count = kept;
	if (n < max) s->rows_seen = s->seen;
	pthread_mutex_unlock(&s->lock);
	return n;
}

void session_return_deletes(struct session *s, const uint64_t *sequences, uint32_t n)
{
	pthread_mutex_lock(&s->lock);
	for (uint32_t i = 0; i < n; i++) rows_push(s, sequences[i]);
	if (n > 0) s->rows_seen = UINT64_MAX; /* no number is: they are looked through again */
	pthread_mutex_unlock(&s->lock);
}

bool session_stored(const struct session *s)
{
	return atomic_load(&s->stored);
}
void session_set_stored(struct session *s)
{
	atomic_store(&s->stored, true);
}
struct slice session_key_id(const struct session *s)
{
	return slice_str(s->key_id);
}
uint64_t session_id(const struct session *s)
{
	return s->id;
}
void session_lock(struct session *s)
{
	pthread_mutex_lock(&s->lock);
}
void session_unlock(struct session *s)
{
	pthread_mutex_unlock(&s->lock);
}
struct list *session_uploads(struct session *s)
{
	return &s->uploads;
}

/* ---- row `h`: what is reserved, and whether something may be unstable ---- */

bool session_take_ids(struct session *s, uint32_t n, uint64_t *first)
{
	bool is_there;

	pthread_mutex_lock(&s->lock);
	is_there = s->row.is_unstable && s->ids_end - s->ids_next >= n;
	if (is_there) {
		*first = s->ids_next;
		s->ids_next += n;
	}
	pthread_mutex_unlock(&s->lock);
	return is_there;
}

bool session_is_marked(struct session *s)
{
	bool is_marked;

	pthread_mutex_lock(&s->lock);
	is_marked = s->row.is_unstable;
	pthread_mutex_unlock(&s->lock);
	return is_marked;
}

bool session_owns_ids(struct session *s, uint64_t first, uint32_t n)
{
	bool owns;

	pthread_mutex_lock(&s->lock);
	owns = session_ranges_have(&s->row.ranges, first, n);
	pthread_mutex_unlock(&s->lock);
	return owns;
}

static int row_write(struct store *store, struct session *s, const struct session_row *row)
{
	uint8_t key[ROW_KEY_MAX], value[SESSION_ROW_MAX];
	struct kv_txn *txn = kv_txn_new(store->kv);
	size_t len = session_row_encode(row, value);
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	if (!session_stored(s)) kv_pre_absent(txn, 0, row_session(key, s->id));
	kv_put(txn, row_session(key, s->id), slice_of(value, len));
	err = kv_submit_wait(store->kv, txn);
	kv_txn_free(&txn);
	if (err == -GRANARY_EBUSY) session_set_stored(s); /* a mutation was faster */
	return err;
}

/* One writer at a time; the row as it is. */
static int row_begin(struct store *store, struct session *s, struct session_row *row)
{
	uint64_t now = store_clock_now(store->clock);
	int err;

	pthread_mutex_lock(&s->lock);
	err = s->row_busy ? -GRANARY_EBUSY : 0;
	if (err == 0) s->row_busy = true;
	*row = s->row;
	pthread_mutex_unlock(&s->lock);
	if (row->created_ns == 0) row->created_ns = now;
	row->lease_ns = now + WIRE_LEASE_S * UINT64_C(1000000000);
	return err;
}

static int row_end(struct store *store, struct session *s, const struct session_row *row)
{
	int err = row_write(store, s, row);

	if (err == -GRANARY_EBUSY) err = row_write(store, s, row);
	pthread_mutex_lock(&s->lock);
	s->row_busy = false;
	if (err == 0) s->row = *row;
	pthread_mutex_unlock(&s->lock);
	if (err == 0) session_set_stored(s);
	return err;
}

int session_reserve(struct store *store, struct session *s)
{
	struct session_row row;
	uint64_t first = ids_object_range(store->ids, SESSION_IDS_COUNT);
	int err = row_begin(store, s, &row);

	if (err < 0) return err;
	row.is_unstable = true;
	session_ranges_add(&row.ranges, first, SESSION_IDS_COUNT);
	err = row_end(store, s, &row);
	if (err < 0) return err;
	pthread_mutex_lock(&s->lock);
	s->ids_next = first;
	s->ids_end = first + SESSION_IDS_COUNT;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

bool session_was_given(struct session *s, uint64_t id)
{
	bool was_given;

	pthread_mutex_lock(&s->lock);
	was_given = session_ranges_have(&s->row.given, id, 1);
	pthread_mutex_unlock(&s->lock);
	return was_given;
}

int session_give_ids(struct store *store, struct session *s, uint32_t n, uint64_t *first)
{
	struct session_row row;
	int err = row_begin(store, s, &row);

	if (err < 0) return err;
	*first = ids_object_range(store->ids, n);
	session_ranges_add(&row.given, *first, n);
	return row_end(store, s, &row);
}

bool session_has_opens(struct session *s)
{
	bool has_opens;

	pthread_mutex_lock(&s->lock);
	has_opens = s->row.has_opens;
	pthread_mutex_unlock(&s->lock);
	return has_opens;
}

int session_mark_opens(struct store *store, struct session *s, bool has_opens)
{
	struct session_row row;
	int err = 0;

	for (uint32_t tries = 0; session_has_opens(s) != has_opens && tries < ROW_TRIES; tries++) {
		err = row_begin(store, s, &row);
		if (err == -GRANARY_EBUSY) { /* another request is at it: a commit */
			usleep(ROW_PAUSE_US);
			continue;
		}
		row.has_opens = has_opens;
		err = row_end(store, s, &row);
		if (err < 0 && err != -GRANARY_EBUSY) break;
	}
	return session_has_opens(s) == has_opens ? 0 : err;
}

int session_leave(struct store *store, struct session *s)
{
	struct session_row row;
	int err = row_begin(store, s, &row);

	if (err < 0) return err;
	if (!row.is_unstable) {
		pthread_mutex_lock(&s->lock);
		s->row_busy = false;
		pthread_mutex_unlock(&s->lock);
		return 0;
	}
	pthread_mutex_lock(&s->lock);
	s->row.is_unstable = false; /* from here on ids are reserved anew */
	pthread_mutex_unlock(&s->lock);
	row.is_unstable = false;
	err = row_end(store, s, &row);
	if (err < 0) {
		pthread_mutex_lock(&s->lock);
		s->row.is_unstable = true;
		pthread_mutex_unlock(&s->lock);
	}
	return err;
}

/* ---- all of them ---- */

int sessions_open(struct store *store, struct sessions **out)
{
	struct sessions *all = req_alloc(sizeof(*all));

	all->store = store;
	pthread_rwlock_init(&all->gate, NULL);
	sweep_init(&all->sweep, store, all);
	for (uint32_t i = 0; i < SHARDS; i++) {
		pthread_mutex_init(&all->shards[i].lock, NULL);
		all->shards[i].first = NULL;
	}
	*out = all;
	return 0;
}

void sessions_close(struct sessions **allp)
{
	struct sessions *all = *allp;

	*allp = NULL;
	if (all == NULL) return;
	for (uint32_t i = 0; i < SHARDS; i++) {
		while (all->shards[i].first != NULL) {
			struct session *s = all->shards[i].first;

			all->shards[i].first = s->next;
			session_free(s);
		}
		pthread_mutex_destroy(&all->shards[i].lock);
	}
	pthread_rwlock_destroy(&all->gate);
	free(all);
}

static struct shard *shard_of(struct sessions *all, uint64_t id)
{
	return &all->shards[hash_u64(id) % SHARDS];
}

/* 0 and a reference; NOTFOUND; ACCESS. */
static int session_ref_known(
	struct sessions *all, uint64_t id, const char *key_id, struct session **out)
{
	struct shard *shard = shard_of(all, id);
	struct session *s;
	int err = -GRANARY_ENOTFOUND;

	pthread_mutex_lock(&shard->lock);
	for (s = shard->first; s != NULL && s->id != id; s = s->next) continue;
	if (s != NULL) {
		err = strcmp(s->key_id, key_id) == 0 ? 0 : -GRANARY_EACCESS;
		if (err == 0) {
			s->refs++;
			*out = s;
		}
	}
	pthread_mutex_unlock(&shard->lock);
	return err;
}

/* False when another connection was faster: s is not taken then. */
static bool session_insert(struct sessions *all, struct session *s)
{
	struct shard *shard = shard_of(all, s->id);
	const struct session *other;

	pthread_mutex_lock(&shard->lock);
	for (other = shard->first; other != NULL && other->id != s->id; other = other->next)
		continue;
	if (other == NULL) {
		s->next = shard->first;
		shard->first = s;
	}
	pthread_mutex_unlock(&shard->lock);
	return other == NULL;
}

bool sessions_knows(struct sessions *all, uint64_t id)
{
	struct shard *shard = shard_of(all, id);
	const struct session *s;

	pthread_mutex_lock(&shard->lock);
	for (s = shard->first; s != NULL && s->id != id; s = s->next) continue;
	pthread_mutex_unlock(&shard->lock);
	return s != NULL;
}

void sessions_gate_close(struct sessions *all)
{
	pthread_rwlock_wrlock(&all->gate);
}
void sessions_gate_open(struct sessions *all)
{
	pthread_rwlock_unlock(&all->gate);
}

/* No row: it never changed anything, or its row was removed long ago; then what it did is not known any more. */
static int session_forgotten(struct sessions *all, uint64_t id)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_value value;
	uint64_t highest;
	int err = kv_get(all->store->kv, row_store(key, SESSIONS_MARK), &value);

	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	if (!value_u64(value.v, SESSIONS_MARK_TAG, 0, &highest))
		err = -GRANARY_ECORRUPT;
	else if (id <= highest)
		err = -GRANARY_ESTALE;
	kv_value_release(&value);
	return err;
}

/* A session of before a restart, or one whose lease ended: its row `h` says whose it is. */
static int session_owner(struct sessions *all, uint64_t id, const char *key_id, bool *stored, struct session_row *row)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_value value;
	int err = kv_get(all->store->kv, row_session(key, id), &value);

	*stored = err == 0;
	if (err == -GRANARY_ENOTFOUND) return session_forgotten(all, id);
	if (err < 0) return err;
	err = session_row_decode(value.v, row);
	if (err == 0 && !slice_eq(row->key, slice_str(key_id))) err = -GRANARY_EACCESS;
	row->key = slice_of(NULL, 0); /* it is the value's */
	kv_value_release(&value);
	return err;
}

/* 1: another connection was faster. */
static int session_make(struct sessions *all, uint64_t id, const char *key_id, const struct session_row *row,
	struct session **out)
{
	*out = session_new(id, key_id, row != NULL);
	if (row != NULL) {
		(*out)->row = *row;
		(*out)->row.key = slice_str((*out)->key_id);
	}
	if (session_insert(all, *out)) return 0;
	session_free(*out);
	*out = NULL;
	return 1;
}

static int session_make_by_row(
	struct sessions *all, uint64_t id, const char *key_id, struct session **out)
{
	struct session_row row = { .lease_ns = 0 };
	bool stored;
	int err;

	pthread_rwlock_rdlock(&all->gate);
	err = session_owner(all, id, key_id, &stored, &row);
	if (err == 0) err = session_make(all, id, key_id, stored ? &row : NULL, out);
	pthread_rwlock_unlock(&all->gate);
	return err;
}

int session_attach(struct sessions *all, const struct ns_access_key *key, uint64_t id,
	bool may_block, struct session **out)
{
	int err;

	*out = NULL;
	do {
		if (id == 0) {
			err = session_make(all, ids_object(all->store->ids), key->id, NULL, out);
			continue;
		}
		err = session_ref_known(all, id, key->id, out);
		if (err != -GRANARY_ENOTFOUND) return err;
		if (!may_block) return -GRANARY_EAGAIN;
		err = session_make_by_row(all, id, key->id, out);
	} while (err > 0);
	return err;
}

void session_detach(struct sessions *all, struct session **sp)
{
	struct session *s = *sp;
	struct shard *shard;

	*sp = NULL;
	if (s == NULL) return;
	shard = shard_of(all, s->id);
	pthread_mutex_lock(&shard->lock);
	assert(s->magic == SESSION_MAGIC && s->refs > 0);
	s->refs--;
	s->detached_ns = clock_mono_ns();
	pthread_mutex_unlock(&shard->lock);
}

uint64_t session_hear(struct store *store, struct session *s, uint64_t now_ns)
{
	atomic_store(&s->heard_ns, now_ns);
	return opens_state(store->opens, s->id);
}

/* It has connections, and was not heard of for longer than its lease: invariant (7). Looked at twice: if it was this
 * process that stood still, what came meanwhile is read before the second time. */
static void session_lapse(struct sessions *all, struct session *s, uint64_t now_ns)
{
	struct store *store = all->store;
	uint64_t heard = atomic_load(&s->heard_ns);
	bool is_silent;

	if (heard == 0 || now_ns < heard + store->options.lease_ns) {
		s->doubt_ns = 0;
		return;
	}
	if (s->doubt_ns == 0) s->doubt_ns = now_ns;
	if (now_ns < s->doubt_ns + DOUBT_NS) return;
	pthread_mutex_lock(&s->lock);
	is_silent = s->running == 0 && atomic_compare_exchange_strong(&s->heard_ns, &heard, 0);
	if (is_silent && opens_state(store->opens, s->id) != 0) {
		opens_end_session(store->opens, s->id); /* first: from here on what it locked before is refused */
		locks_end_session(store->locks, s->id);
		log_warn("session %016llx was silent for longer than its lease: what it had open and locked is "
			 "given up",
			(unsigned long long)s->id);
	}
	pthread_mutex_unlock(&s->lock);
}

static bool session_is_over(const struct sessions *all, struct session *s, uint64_t now_ns)
{
	bool is_over;

	if (s->refs > 0 || now_ns < s->detached_ns + all->store->options.lease_ns)
		return false;
	pthread_mutex_lock(&s->lock);
	is_over = s->running == 0 && list_empty(&s->waiting) && !uploads_busy(&s->uploads);
	pthread_mutex_unlock(&s->lock);
	return is_over;
}

/* The row of a session that is not in memory, and does not come there meanwhile: nothing is to be sent again.
 * has_opens: but it may have something open. */
static void row_leave(struct sessions *all, uint64_t id, bool has_opens)
{
	uint8_t key[ROW_KEY_MAX], buf[SESSION_ROW_MAX];
	struct store *store = all->store;
	struct kv_txn *txn = NULL;
	struct kv_value value;
	struct session_row row;
	int err = kv_get(store->kv, row_session(key, id), &value);

	if (err < 0) return;
	err = session_row_decode(value.v, &row);
	has_opens = has_opens && row.has_opens;
	if (err == 0 && (row.is_unstable || row.has_opens != has_opens)) txn = kv_txn_new(store->kv);
	if (txn != NULL) {
		row.is_unstable = false;
		row.has_opens = has_opens;
		kv_put(txn, row_session(key, id), slice_of(buf, session_row_encode(&row, buf)));
		err = kv_submit_wait(store->kv, txn);
		kv_txn_free(&txn);
	}
	kv_value_release(&value);
	if (err < 0 && err != -GRANARY_ESHUTDOWN)
		log_warn("cannot write that session %016llx has nothing to send again: %s; the next start waits for it",
			(unsigned long long)id, error_text(err));
}

void sessions_leave(struct sessions *all)
{
	for (uint32_t i = 0; i < SHARDS; i++)
		for (struct session *s = all->shards[i].first; s != NULL; s = s->next)
			if (s->row.is_unstable) row_leave(all, s->id, true);
}

/* It ended; what it had pending was written long ago, what it had open is not open any more. */
static void session_is_left(struct sessions *all, uint64_t id)
{
	sessions_gate_close(all);
	if (!sessions_knows(all, id)) {
		opens_end_session(all->store->opens, id);
		locks_end_session(all->store->locks, id);
		row_leave(all, id, false);
	}
	sessions_gate_open(all);
}

void sessions_tick(struct sessions *all, uint64_t now_ns)
{
	uint64_t late;

	while (replays_take_late(all->store->replays, &late) || orphans_take_late(all->store->orphans, &late))
		session_is_left(all, late);
	for (uint32_t i = 0; i < SHARDS; i++) {
		struct shard *shard = &all->shards[i];
		struct session *over = NULL;

		pthread_mutex_lock(&shard->lock);
		for (struct session **at = &shard->first; *at != NULL;) {
			struct session *s = *at;

			pthread_mutex_lock(&s->lock);
			session_wake(s, 0, now_ns);
			pthread_mutex_unlock(&s->lock);
			session_lapse(all, s, now_ns);
			if (!session_is_over(all, s, now_ns)) {
				at = &s->next;
				continue;
			}
			*at = s->next;
			s->next = over;
			over = s;
		}
		pthread_mutex_unlock(&shard->lock);
		while (over != NULL) {
			struct session *s = over;

			over = s->next;
			if (s->row.is_unstable || s->row.has_opens) session_is_left(all, s->id);
			session_free(s);
		}
	}
}

void sessions_sweep(struct sessions *all, uint64_t now_ns)
{
	sweep_pass(&all->sweep, now_ns);
}

uint64_t sessions_count(struct sessions *all)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < SHARDS; i++) {
		pthread_mutex_lock(&all->shards[i].lock);
		for (struct session *s = all->shards[i].first; s != NULL; s = s->next) n++;
		pthread_mutex_unlock(&all->shards[i].lock);
	}
	return n;
}
