/* SPDX-License-Identifier: Apache-2.0 */
/* heat.c -- the table: open addressing, a slot is taken by one compare-and-swap of its pack and kept until the
 * store is opened again. `fresh` counters are added to by readers and taken by the job; what was saved is the
 * job's, under a lock. */
#include "tier/heat.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/hash.h"
#include "common/tlv.h"
#include "granary/error.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"

enum { ATAG_READS = 64, ATAG_BYTES = 65, ATAG_GETS = 66, ATAG_GOT = 67, PROBES = 64, ROW_SIZE = 1 + 8 + 8,
	DELETES_MAX = 4096, ADDS_MAX = 1024 };
#define HOUR_NS     UINT64_C(3600000000000)
#define HALF_LIFE_H 24.0

struct counts {
	uint64_t reads, bytes, gets, got;
};

struct slot {
	_Atomic uint64_t pack; /* 0: free */
	_Atomic uint64_t fresh_reads, fresh_bytes, fresh_gets, fresh_got;
	_Atomic uint64_t last_read_ns;
	struct counts saved;   /* under lock */
	double sum;            /* of reads, decayed to sum_hour; under lock */
	uint64_t sum_hour;
};

struct job_slot {
	_Atomic uint64_t job; /* 0: free */
	_Atomic uint64_t hot_reads, hot_bytes, cold_reads, cold_bytes;
	char name[HEAT_JOB_NAME]; /* under lock */
};

struct heat {
	struct kv *kv;
	struct store_clock *clock;
	_Atomic uint64_t forgotten;
	pthread_mutex_t lock;
	uint64_t saved_ns;
	struct slot slots[HEAT_PACKS];
	struct job_slot jobs[HEAT_JOBS];
};

static struct slot *slot_of(struct heat *h, uint64_t pack, bool take)
{
	uint64_t at = hash_u64(pack);

	for (unsigned i = 0; i < PROBES; i++) {
		struct slot *s = &h->slots[(at + i) % HEAT_PACKS];
		uint64_t there = atomic_load_explicit(&s->pack, memory_order_acquire);
		if (there == pack) return s;
		if (there != 0) continue;
		if (!take) return NULL;
		if (atomic_compare_exchange_strong(&s->pack, &there, pack) || there == pack) return s;
	}
	return NULL;
}

void heat_note(struct heat *h, uint64_t pack, uint64_t reads, uint64_t bytes)
{
	struct slot *s = h && pack ? slot_of(h, pack, true) : NULL;

	if (!s) {
		if (h && pack) atomic_fetch_add_explicit(&h->forgotten, reads, memory_order_relaxed);
		return;
	}
	atomic_fetch_add_explicit(&s->fresh_reads, reads, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->fresh_bytes, bytes, memory_order_relaxed);
}

void heat_note_get(struct heat *h, uint64_t pack, uint64_t bytes)
{
	struct slot *s = h && pack ? slot_of(h, pack, true) : NULL;

	if (!s) return;
	atomic_fetch_add_explicit(&s->fresh_gets, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->fresh_got, bytes, memory_order_relaxed);
}

/* ---- rows ---- */

static struct slice row_heat(uint8_t buf[ROW_SIZE], uint64_t hour, uint64_t pack)
{
	buf[0] = 'a';
	be64_put(buf + 1, hour);
	be64_put(buf + 9, pack);
	return slice_of(buf, ROW_SIZE);
}

static bool row_parse(struct slice key, uint64_t *hour, uint64_t *pack)
{
	if (key.len != ROW_SIZE || key.p[0] != 'a') return false;
	*hour = be64_get(key.p + 1);
	*pack = be64_get(key.p + 9);
	return true;
}

static struct counts value_parse(struct slice value)
{
	struct cur c = cur_of(value.p, value.len);
	struct counts n = { 0 };
	struct slice v;
	uint16_t tag;

	(void)cur_u8(&c); /* the format */
	while (tlv_next(&c, &tag, &v)) {
		if (tag == ATAG_READS) n.reads = tlv_u64(v);
		if (tag == ATAG_BYTES) n.bytes = tlv_u64(v);
		if (tag == ATAG_GETS) n.gets = tlv_u64(v);
		if (tag == ATAG_GOT) n.got = tlv_u64(v);
	}
	return n;
}

typedef int row_fn(void *arg, uint64_t hour, uint64_t pack, const struct counts *n);

static int rows_each(struct heat *h, row_fn *each, void *arg)
{
	struct kv_iter *it = kv_iter_new_under(h->kv, slice_of("a", 1));
	uint64_t hour, pack;
	int err = it ? 0 : -GRANARY_ENOMEM;

	if (it) kv_iter_seek(it, slice_of("a", 1));
	for (; err == 0 && kv_iter_valid(it) && row_parse(kv_iter_key(it), &hour, &pack); kv_iter_next(it)) {
		struct counts n = value_parse(kv_iter_value(it));
		err = each(arg, hour, pack, &n);
	}
	if (err == 0 && it) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

/* ---- sums ---- */

static double decay(double sum, uint64_t from_hour, uint64_t to_hour)
{
	return to_hour > from_hour ? sum * exp2(-(double)(to_hour - from_hour) / HALF_LIFE_H) : sum;
}

static void slot_add(struct slot *s, uint64_t hour, const struct counts *n)
{
	s->sum = decay(s->sum, s->sum_hour, hour) + (double)n->reads;
	if (hour > s->sum_hour) s->sum_hour = hour;
	s->saved.reads += n->reads;
	s->saved.bytes += n->bytes;
	s->saved.gets += n->gets;
	s->saved.got += n->got;
}

static int row_load(void *arg, uint64_t hour, uint64_t pack, const struct counts *n)
{
	struct heat *h = arg;
	struct slot *s = slot_of(h, pack, true);
	uint64_t last = hour * HOUR_NS; /* its beginning: early, never late */

	if (!s) {
		atomic_fetch_add(&h->forgotten, n->reads);
		return 0;
	}
	slot_add(s, hour, n);
	if (last > atomic_load(&s->last_read_ns)) atomic_store(&s->last_read_ns, last);
	return 0;
}

int heat_open(struct kv *kv, struct store_clock *clock, struct heat **out)
{
	struct heat *h = calloc(1, sizeof(*h));
	int err;

	if (!h) return -GRANARY_ENOMEM;
	h->kv = kv;
	h->clock = clock;
	h->saved_ns = store_clock_now(clock);
	pthread_mutex_init(&h->lock, NULL);
	err = rows_each(h, row_load, h);
	if (err < 0) {
		pthread_mutex_destroy(&h->lock);
		free(h);
		return err;
	}
	*out = h;
	return 0;
}

void heat_close(struct heat **hp)
{
	struct heat *h = *hp;

	*hp = NULL;
	if (!h) return;
	(void)heat_save(h, true); /* what is lost is what a crash would lose */
	pthread_mutex_destroy(&h->lock);
	free(h);
}

/* ---- saving ---- */

struct old_rows {
	struct kv_txn *txn;
	uint64_t before;
	unsigned count;
	struct old_row {
		uint64_t pack;
		struct counts n;
	} *rows; /* DELETES_MAX; NULL: none yet */
};

static int row_expire(void *arg, uint64_t hour, uint64_t pack, const struct counts *n)
{
	struct old_rows *old = arg;
	uint8_t buf[ROW_SIZE];

	if (hour >= old->before || old->count == DELETES_MAX) return 1; /* rows go by hour: the rest is younger */
	if (!old->rows) old->rows = calloc(DELETES_MAX, sizeof(*old->rows));
	if (!old->rows) return -GRANARY_ENOMEM;
	kv_delete(old->txn, row_heat(buf, hour, pack));
	old->rows[old->count++] = (struct old_row){ pack, *n };
	return 0;
}

/* What is no longer recorded does not count any more. Under lock. */
static void slot_subtract(struct heat *h, const struct old_row *row)
{
	struct slot *s = slot_of(h, row->pack, false);

	if (!s) return;
	s->saved.reads -= row->n.reads < s->saved.reads ? row->n.reads : s->saved.reads;
	s->saved.bytes -= row->n.bytes < s->saved.bytes ? row->n.bytes : s->saved.bytes;
	s->saved.gets -= row->n.gets < s->saved.gets ? row->n.gets : s->saved.gets;
	s->saved.got -= row->n.got < s->saved.got ? row->n.got : s->saved.got;
}

static int expire(struct heat *h, uint64_t hour)
{
	struct old_rows old = { .txn = kv_txn_new(h->kv), .before = hour > HEAT_KEEP_H ? hour - HEAT_KEEP_H : 0 };
	int err = old.txn ? rows_each(h, row_expire, &old) : -GRANARY_ENOMEM;

	if (err >= 0 && old.count > 0) {
		err = kv_submit_wait(h->kv, old.txn);
		for (unsigned i = 0; err == 0 && i < old.count; i++) slot_subtract(h, &old.rows[i]);
	}
	kv_txn_free(&old.txn);
	free(old.rows);
	return err < 0 ? err : 0;
}

/* One transaction of slots from *at on. What cannot be saved goes back into the counters. */
static int save_some(struct heat *h, uint64_t hour, uint32_t *at)
{
	struct {
		struct slot *slot;
		struct counts n;
	} taken[ADDS_MAX];
	struct kv_txn *txn = kv_txn_new(h->kv);
	unsigned count = 0;
	uint8_t buf[ROW_SIZE];

	if (!txn) return -GRANARY_ENOMEM;
	for (; *at < HEAT_PACKS && count < ADDS_MAX; (*at)++) {
		struct slot *s = &h->slots[*at];
		if (!atomic_load_explicit(&s->fresh_reads, memory_order_relaxed)) continue;
		taken[count].slot = s;
		atomic_store(&s->last_read_ns, store_clock_now(h->clock));
		struct counts n = { atomic_exchange(&s->fresh_reads, 0), atomic_exchange(&s->fresh_bytes, 0),
			atomic_exchange(&s->fresh_gets, 0), atomic_exchange(&s->fresh_got, 0) };
		struct slice key = row_heat(buf, hour, atomic_load(&s->pack));
		kv_add(txn, key, ATAG_READS, (int64_t)n.reads);
		kv_add(txn, key, ATAG_BYTES, (int64_t)n.bytes);
		if (n.gets) kv_add(txn, key, ATAG_GETS, (int64_t)n.gets);
		if (n.got) kv_add(txn, key, ATAG_GOT, (int64_t)n.got);
		taken[count++].n = n;
	}
	int err = count > 0 ? kv_submit_wait(h->kv, txn) : 0;
	for (unsigned i = 0; i < count; i++) {
		if (err == 0) {
			slot_add(taken[i].slot, hour, &taken[i].n);
			continue;
		}
		atomic_fetch_add(&taken[i].slot->fresh_reads, taken[i].n.reads);
		atomic_fetch_add(&taken[i].slot->fresh_bytes, taken[i].n.bytes);
		atomic_fetch_add(&taken[i].slot->fresh_gets, taken[i].n.gets);
		atomic_fetch_add(&taken[i].slot->fresh_got, taken[i].n.got);
	}
	kv_txn_free(&txn);
	return err;
}

int heat_save(struct heat *h, bool now)
{
	uint64_t now_ns = store_clock_now(h->clock), hour = now_ns / HOUR_NS;
	int err = 0;

	pthread_mutex_lock(&h->lock);
	if (now || now_ns - h->saved_ns >= HEAT_SAVE_S * UINT64_C(1000000000)) {
		for (uint32_t at = 0; err == 0 && at < HEAT_PACKS;) err = save_some(h, hour, &at);
		if (err == 0) err = expire(h, hour);
		h->saved_ns = now_ns;
	}
	pthread_mutex_unlock(&h->lock);
	return err;
}

/* Of its row, an empty one, a start learns when it was read last. */
void heat_follow(struct heat *h, uint64_t from, uint64_t to)
{
	struct slot *a = h ? slot_of(h, from, false) : NULL, *b = a ? slot_of(h, to, true) : NULL;
	struct kv_txn *txn = b ? kv_txn_new(h->kv) : NULL;
	uint8_t buf[ROW_SIZE];

	if (!txn) return;
	pthread_mutex_lock(&h->lock);
	uint64_t last = atomic_load(&a->fresh_reads) ? store_clock_now(h->clock) : atomic_load(&a->last_read_ns);
	if (last > atomic_load(&b->last_read_ns)) atomic_store(&b->last_read_ns, last);
	b->sum = a->sum + (double)atomic_load(&a->fresh_reads);
	b->sum_hour = a->sum_hour;
	pthread_mutex_unlock(&h->lock);
	if (last > 0) {
		kv_add(txn, row_heat(buf, last / HOUR_NS, to), ATAG_READS, 0);
		(void)kv_submit_wait(h->kv, txn);
	}
	kv_txn_free(&txn);
}

/* ---- asking ---- */

void heat_of(struct heat *h, uint64_t pack, struct pack_heat *out)
{
	struct slot *s = slot_of(h, pack, false);
	uint64_t hour = store_clock_now(h->clock) / HOUR_NS;

	*out = (struct pack_heat){ 0 };
	if (!s) return;
	pthread_mutex_lock(&h->lock);
	out->last_read_ns = atomic_load(&s->fresh_reads) ? store_clock_now(h->clock) : atomic_load(&s->last_read_ns);
	out->reads = s->saved.reads + atomic_load(&s->fresh_reads);
	out->bytes = s->saved.bytes + atomic_load(&s->fresh_bytes);
	out->gets = s->saved.gets + atomic_load(&s->fresh_gets);
	out->got_bytes = s->saved.got + atomic_load(&s->fresh_got);
	out->rate = (decay(s->sum, s->sum_hour, hour) + (double)atomic_load(&s->fresh_reads)) * 0.6931 / HALF_LIFE_H;
	pthread_mutex_unlock(&h->lock);
}

struct caller {
	int (*each)(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes);
	void *arg;
};

static int row_tell(void *arg, uint64_t hour, uint64_t pack, const struct counts *n)
{
	const struct caller *c = arg;

	return c->each(c->arg, hour, pack, n->reads, n->bytes);
}

int heat_each(struct heat *h, int (*each)(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes),
	void *arg)
{
	struct caller c = { each, arg };
	int err = heat_save(h, true);

	return err < 0 ? err : rows_each(h, row_tell, &c);
}

uint64_t heat_forgotten(const struct heat *h)
{
	return atomic_load(&h->forgotten);
}

/* ---- by job ---- */

static struct job_slot *job_slot(struct heat *h, uint64_t job)
{
	for (uint64_t i = 0; i < PROBES; i++) {
		struct job_slot *s = &h->jobs[(job + i) % HEAT_JOBS];
		uint64_t there = atomic_load_explicit(&s->job, memory_order_acquire);
		if (there == job) return s;
		if (there != 0) continue;
		if (atomic_compare_exchange_strong(&s->job, &there, job) || there == job) return s;
	}
	return NULL;
}

void heat_note_job(struct heat *h, uint64_t job, bool hot, uint64_t bytes)
{
	struct job_slot *s = h && job ? job_slot(h, job) : NULL;

	if (!s) return;
	atomic_fetch_add_explicit(hot ? &s->hot_reads : &s->cold_reads, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(hot ? &s->hot_bytes : &s->cold_bytes, bytes, memory_order_relaxed);
}

void heat_name_job(struct heat *h, uint64_t job, const char *name, size_t len)
{
	struct job_slot *s = h && job ? job_slot(h, job) : NULL;

	if (!s || len >= sizeof(s->name)) return;
	pthread_mutex_lock(&h->lock);
	memcpy(s->name, name, len);
	s->name[len] = '\0';
	pthread_mutex_unlock(&h->lock);
}

uint32_t heat_jobs(struct heat *h, struct heat_job *out, uint32_t max)
{
	uint32_t n = 0;

	pthread_mutex_lock(&h->lock);
	for (uint32_t i = 0; i < HEAT_JOBS && n < max; i++) {
		struct job_slot *s = &h->jobs[i];
		struct heat_job j = { atomic_load(&s->job), atomic_load(&s->hot_reads), atomic_load(&s->hot_bytes),
			atomic_load(&s->cold_reads), atomic_load(&s->cold_bytes), "" };
		if (!j.hot_reads && !j.cold_reads) continue;
		memcpy(j.name, s->name, sizeof(j.name));
		out[n++] = j;
	}
	pthread_mutex_unlock(&h->lock);
	return n;
}
