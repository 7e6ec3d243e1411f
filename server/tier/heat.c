/* SPDX-License-Identifier: Apache-2.0 */
/* heat.c -- the table: open addressing, a slot is taken by one compare-and-swap of its pack and kept until the
 * store is opened again. `fresh` counters are added to by readers and taken by the job; what was saved is the
 * job's, under a lock. */
#include "tier/heat.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/hash.h"
#include "common/tlv.h"
#include "granary/error.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"

enum { ATAG_READS = 64, ATAG_BYTES = 65, PROBES = 64, ROW_SIZE = 1 + 8 + 8, DELETES_MAX = 4096, ADDS_MAX = 1024 };
#define HOUR_NS     UINT64_C(3600000000000)
#define HALF_LIFE_H 24.0

struct slot {
	_Atomic uint64_t pack; /* 0: free */
	_Atomic uint64_t fresh_reads, fresh_bytes;
	_Atomic uint64_t last_read_ns;
	uint64_t reads, bytes; /* saved; under lock */
	double sum;            /* of reads, decayed to sum_hour; under lock */
	uint64_t sum_hour;
};

struct heat {
	struct kv *kv;
	struct store_clock *clock;
	_Atomic uint64_t forgotten;
	pthread_mutex_t lock;
	uint64_t saved_ns;
	struct slot slots[HEAT_PACKS];
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

static void value_parse(struct slice value, uint64_t *reads, uint64_t *bytes)
{
	struct cur c = cur_of(value.p, value.len);
	struct slice v;
	uint16_t tag;

	*reads = *bytes = 0;
	(void)cur_u8(&c); /* the format */
	while (tlv_next(&c, &tag, &v)) {
		if (tag == ATAG_READS) *reads = tlv_u64(v);
		if (tag == ATAG_BYTES) *bytes = tlv_u64(v);
	}
}

static int rows_each(struct heat *h,
	int (*each)(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes), void *arg)
{
	struct kv_iter *it = kv_iter_new_under(h->kv, slice_of("a", 1));
	uint64_t hour, pack, reads, bytes;
	int err = it ? 0 : -GRANARY_ENOMEM;

	if (it) kv_iter_seek(it, slice_of("a", 1));
	for (; err == 0 && kv_iter_valid(it) && row_parse(kv_iter_key(it), &hour, &pack); kv_iter_next(it)) {
		value_parse(kv_iter_value(it), &reads, &bytes);
		err = each(arg, hour, pack, reads, bytes);
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

static void slot_add(struct slot *s, uint64_t hour, uint64_t reads, uint64_t bytes)
{
	s->sum = decay(s->sum, s->sum_hour, hour) + (double)reads;
	if (hour > s->sum_hour) s->sum_hour = hour;
	s->reads += reads;
	s->bytes += bytes;
}

static int row_load(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes)
{
	struct heat *h = arg;
	struct slot *s = slot_of(h, pack, true);
	uint64_t last = hour * HOUR_NS; /* its beginning: early, never late */

	if (!s) {
		atomic_fetch_add(&h->forgotten, reads);
		return 0;
	}
	slot_add(s, hour, reads, bytes);
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
};

static int row_expire(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes)
{
	struct old_rows *old = arg;
	uint8_t buf[ROW_SIZE];

	(void)reads, (void)bytes;
	if (hour >= old->before || old->count == DELETES_MAX) return 1; /* rows go by hour: the rest is younger */
	kv_delete(old->txn, row_heat(buf, hour, pack));
	old->count++;
	return 0;
}

static int expire(struct heat *h, uint64_t hour)
{
	struct old_rows old = { .txn = kv_txn_new(h->kv), .before = hour > HEAT_KEEP_H ? hour - HEAT_KEEP_H : 0 };
	int err = old.txn ? rows_each(h, row_expire, &old) : -GRANARY_ENOMEM;

	if (err >= 0 && old.count > 0) err = kv_submit_wait(h->kv, old.txn);
	kv_txn_free(&old.txn);
	return err < 0 ? err : 0;
}

/* One transaction of slots from *at on. What cannot be saved goes back into the counters. */
static int save_some(struct heat *h, uint64_t hour, uint32_t *at)
{
	struct {
		struct slot *slot;
		uint64_t reads, bytes;
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
		taken[count].reads = atomic_exchange(&s->fresh_reads, 0);
		taken[count].bytes = atomic_exchange(&s->fresh_bytes, 0);
		struct slice key = row_heat(buf, hour, atomic_load(&s->pack));
		kv_add(txn, key, ATAG_READS, (int64_t)taken[count].reads);
		kv_add(txn, key, ATAG_BYTES, (int64_t)taken[count].bytes);
		count++;
	}
	int err = count > 0 ? kv_submit_wait(h->kv, txn) : 0;
	for (unsigned i = 0; i < count; i++) {
		if (err == 0) {
			slot_add(taken[i].slot, hour, taken[i].reads, taken[i].bytes);
			continue;
		}
		atomic_fetch_add(&taken[i].slot->fresh_reads, taken[i].reads);
		atomic_fetch_add(&taken[i].slot->fresh_bytes, taken[i].bytes);
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

/* ---- asking ---- */

void heat_of(struct heat *h, uint64_t pack, struct pack_heat *out)
{
	struct slot *s = slot_of(h, pack, false);
	uint64_t hour = store_clock_now(h->clock) / HOUR_NS;

	*out = (struct pack_heat){ 0 };
	if (!s) return;
	pthread_mutex_lock(&h->lock);
	out->last_read_ns = atomic_load(&s->fresh_reads) ? store_clock_now(h->clock) : atomic_load(&s->last_read_ns);
	out->reads = s->reads + atomic_load(&s->fresh_reads);
	out->bytes = s->bytes + atomic_load(&s->fresh_bytes);
	out->rate = (decay(s->sum, s->sum_hour, hour) + (double)atomic_load(&s->fresh_reads)) * 0.6931 / HALF_LIFE_H;
	pthread_mutex_unlock(&h->lock);
}

int heat_each(struct heat *h, int (*each)(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes),
	void *arg)
{
	int err = heat_save(h, true);

	return err < 0 ? err : rows_each(h, each, arg);
}

uint64_t heat_forgotten(const struct heat *h)
{
	return atomic_load(&h->forgotten);
}
