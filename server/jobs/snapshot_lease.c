/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_lease.c -- who reads which snapshot: reports of consumers in RAM, a row a job so that a
 * restart does not forget that a snapshot is in use. Times are store time. */
#include "jobs/snapshot_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/tlv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"

enum { LEASES_MAX = 65536, LINE_MAX = 1024, SHARE_ONE = 65536 };
#define SECOND            UINT64_C(1000000000)
#define ROW_EVERY_NS      (60 * SECOND)
#define ACTIVE_NS         (150 * SECOND) /* missed two reports */
#define AUTOMATIC_KEEP_NS (24 * 3600 * SECOND)

static void copy(char *to, size_t cap, struct slice s)
{
	size_t n = s.len < cap - 1 ? s.len : cap - 1;

	if (n > 0) memcpy(to, s.p, n);
	to[n] = '\0';
}

static bool is_of(const struct lease *l, uint64_t bucket, struct slice name)
{
	return l->bucket == bucket && slice_eq(slice_str(l->name), name);
}

/* ---- rows ---- */

static int load_row(
	void *arg, uint64_t bucket, struct slice name, struct slice job, uint64_t seen_ns)
{
	struct snapshots *s = arg;
	struct lease *l = calloc(1, sizeof(*l));

	if (l == NULL) return -GRANARY_ENOMEM;
	l->bucket = bucket;
	l->seen_ns = l->row_ns = seen_ns;
	l->from_row = true;
	copy(l->name, sizeof(l->name), name);
	copy(l->job, sizeof(l->job), job);
	list_push(&s->leases, &l->node);
	s->lease_count++;
	return 0;
}

int leases_load(struct snapshots *s)
{
	return lease_each(s->o.kv, load_row, s);
}

static void lease_drop(struct snapshots *s, struct lease *l)
{
	list_remove(&l->node);
	s->lease_count--;
	free(l);
}

void leases_free(struct snapshots *s)
{
	while (!list_empty(&s->leases))
		lease_drop(s, container_of(s->leases.next, struct lease, node));
}

static int row_put(struct snapshots *s, const struct snapshot_report *r, uint64_t now)
{
	uint8_t key[ROW_KEY_MAX], value[64 + LEASE_JOB_MAX];
	struct wr w = wr_of(value, sizeof(value));
	struct kv_txn *txn = kv_txn_new(s->o.kv);
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	value_begin(&w);
	tlv_put_u64(&w, ETAG_SEEN, now);
	tlv_put(&w, ETAG_HOST, r->host);
	kv_put(txn, row_lease(key, r->bucket, r->name, r->job), slice_of(value, wr_len(&w)));
	if (snapshot_is_automatic(
		    r->name)) /* kept until a day after its last use; a row that is gone stays so */
		kv_pre_range(txn, row_snapshot(key, r->bucket, r->name), false);
	err = kv_submit_wait(s->o.kv, txn);
	kv_txn_free(&txn);
	if (err == 0 && snapshot_is_automatic(r->name)) {
		struct snapshot_row row;
		struct kv_value v;

		err = snapshot_find(s->o.kv, r->bucket, r->name, &row, &v);
		if (err == 0) {
			char note[SNAPSHOT_NOTE_MAX];
			size_t len = row.note.len;

			if (len > 0) memcpy(note, row.note.p, len);
			kv_value_release(&v);
			err = snapshots_note(s, r->bucket, r->name, slice_of(note, len),
				now + AUTOMATIC_KEEP_NS);
		}
	}
	return err;
}

static void row_delete(struct snapshots *s, uint64_t bucket, struct slice name, struct slice job)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(s->o.kv);

	if (txn == NULL) return; /* a later pass finds it */
	kv_delete(txn, row_lease(key, bucket, name, job));
	if (kv_submit_wait(s->o.kv, txn) < 0)
		log_warn(
			"cannot delete the row of a lease; a later pass tries it again; job='%.*s'",
			(int)job.len, (const char *)job.p);
	kv_txn_free(&txn);
}

/* ---- reports ---- */

static struct lease *find(
	struct snapshots *s, const struct snapshot_report *r, uint64_t *row_ns, bool *others)
{
	struct lease *found = NULL;

	*row_ns = 0;
	*others = false;
	for (struct list *n = s->leases.next; n != &s->leases; n = n->next) {
		struct lease *l = container_of(n, struct lease, node);

		if (!is_of(l, r->bucket, r->name) || !slice_eq(slice_str(l->job), r->job)) continue;
		*row_ns = l->row_ns > *row_ns ? l->row_ns : *row_ns;
		if (!l->from_row && l->rank == r->rank && slice_eq(slice_str(l->host), r->host))
			found = l;
		else if (!l->from_row)
			*others = true;
	}
	return found;
}

/* Per second, of the time since the report before; without the time that takes from the consumer: 0. */
static void rates(struct lease *l, const struct snapshot_report *r)
{
	bool again = r->elapsed_ns > l->elapsed_ns && r->samples >= l->samples && r->bytes >= l->bytes &&
		     r->position >= l->position;
	double seconds = (double)(r->elapsed_ns - (again ? l->elapsed_ns : 0)) / 1e9;
	double steps = (double)(r->position - (again ? l->position : 0));

	if (seconds <= 0) return;
	l->samples_s = (uint64_t)((double)(r->samples - (again ? l->samples : 0)) / seconds);
	l->bytes_s = (uint64_t)((double)(r->bytes - (again ? l->bytes : 0)) / seconds);
	l->eta_s = r->of > r->position && steps > 0
			   ? (uint64_t)((double)(r->of - r->position) / steps * seconds)
			   : 0;
}

static void fill(struct lease *l, const struct snapshot_report *r, uint64_t now)
{
	rates(l, r);
	l->elapsed_ns = r->elapsed_ns;
	l->bucket = r->bucket;
	l->rank = r->rank;
	l->world = r->world;
	l->weight = r->weight > 0 ? r->weight : 1;
	l->epoch = r->epoch;
	l->position = r->position;
	l->of = r->of;
	l->samples = r->samples;
	l->bytes = r->bytes;
	l->waited_ns = r->waited_ns;
	l->seen_ns = now;
	copy(l->bucket_name, sizeof(l->bucket_name), r->bucket_name);
	copy(l->name, sizeof(l->name), r->name);
	copy(l->job, sizeof(l->job), r->job);
	copy(l->host, sizeof(l->host), r->host);
}

/* Each of a job's ranks stands for its part of the job's weight. */
static uint64_t share_of(struct snapshots *s, struct slice job, uint64_t now)
{
	uint64_t sum = 0, mine = 0;

	for (struct list *n = s->leases.next; n != &s->leases; n = n->next) {
		const struct lease *l = container_of(n, struct lease, node);
		uint64_t part = ((uint64_t)l->weight << 20) / (l->world > 0 ? l->world : 1);

		if (l->from_row || now - l->seen_ns > ACTIVE_NS) continue;
		sum += part;
		if (slice_eq(slice_str(l->job), job)) mine += part;
	}
	return sum == 0 || mine == 0 ? SHARE_ONE
				     : (uint64_t)((double)mine / (double)sum * SHARE_ONE);
}

static int keep(struct snapshots *s, const struct snapshot_report *r, uint64_t now, bool *write_row,
	bool *last)
{
	uint64_t row_ns;
	bool others;
	struct lease *l = find(s, r, &row_ns, &others);

	*write_row = !r->ended && (row_ns == 0 || now - row_ns >= ROW_EVERY_NS);
	*last = r->ended && !others;
	if (r->ended) {
		if (l != NULL) lease_drop(s, l);
		return 0;
	}
	if (l == NULL) {
		if (s->lease_count >= LEASES_MAX) return -GRANARY_EBUSY;
		l = calloc(1, sizeof(*l));
		if (l == NULL) return -GRANARY_ENOMEM;
		list_push(&s->leases, &l->node);
		s->lease_count++;
	}
	fill(l, r, now);
	l->row_ns = *write_row ? now : row_ns;
	return 0;
}

static void drop_job(
	struct snapshots *s, uint64_t bucket, struct slice name, struct slice job, bool rows_only)
{
	for (struct list *n = s->leases.next, *next; n != &s->leases; n = next) {
		struct lease *l = container_of(n, struct lease, node);

		next = n->next;
		if (is_of(l, bucket, name) && (job.p == NULL || slice_eq(slice_str(l->job), job)) &&
			(!rows_only || l->from_row))
			lease_drop(s, l);
	}
}

int snapshots_report(struct snapshots *s, const struct snapshot_report *r, uint64_t *share)
{
	uint64_t now = store_clock_now(s->o.clock);
	bool write_row, last;
	int err;

	pthread_mutex_lock(&s->lock);
	err = keep(s, r, now, &write_row, &last);
	if (last) drop_job(s, r->bucket, r->name, r->job, true);
	*share = share_of(s, r->job, now);
	pthread_mutex_unlock(&s->lock);
	if (err == 0 && write_row) err = row_put(s, r, now);
	if (err == 0 && r->has_provenance) err = provenance_put(s, r, now);
	if (err == 0 && last) row_delete(s, r->bucket, r->name, r->job);
	return err;
}

/* ---- asking ---- */

/* Of several the one that was heard last. */
bool lease_holder(struct snapshots *s, uint64_t bucket, struct slice name, char *text, size_t cap)
{
	uint64_t now = store_clock_now(s->o.clock);
	const struct lease *last = NULL;

	pthread_mutex_lock(&s->lock);
	for (struct list *n = s->leases.next; n != &s->leases; n = n->next) {
		const struct lease *l = container_of(n, struct lease, node);

		if (is_of(l, bucket, name) && now - l->seen_ns < SNAPSHOT_LEASE_NS &&
			(last == NULL || l->seen_ns >= last->seen_ns))
			last = l;
	}
	if (last != NULL) snprintf(text, cap, "%s", last->job);
	pthread_mutex_unlock(&s->lock);
	return last != NULL;
}

static void forget_rows(struct snapshots *s, uint64_t bucket, struct slice name)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice prefix = row_lease_prefix(buf, bucket, name);
	struct kv_iter *it = kv_iter_new(s->o.kv, NULL);
	struct kv_txn *txn = kv_txn_new(s->o.kv);

	if (it != NULL && txn != NULL) {
		for (kv_iter_seek(it, prefix); kv_iter_valid(it); kv_iter_next(it)) {
			struct slice key = kv_iter_key(it);

			if (key.len < prefix.len || memcmp(key.p, prefix.p, prefix.len) != 0) break;
			kv_delete(txn, key);
		}
		if (kv_txn_ops(txn) > 0 && kv_submit_wait(s->o.kv, txn) < 0)
			log_warn("cannot delete the rows of leases; they end by themselves");
	}
	if (it != NULL) kv_iter_free(&it);
	if (txn != NULL) kv_txn_free(&txn);
}

void leases_forget(struct snapshots *s, uint64_t bucket, struct slice name)
{
	pthread_mutex_lock(&s->lock);
	drop_job(s, bucket, name, slice_of(NULL, 0), false);
	pthread_mutex_unlock(&s->lock);
	forget_rows(s, bucket, name);
}

struct old_rows {
	struct snapshots *s;
	uint64_t now;
	struct kv_txn *txn;
};

static int old_row(
	void *arg, uint64_t bucket, struct slice name, struct slice job, uint64_t seen_ns)
{
	struct old_rows *o = arg;
	uint8_t key[ROW_KEY_MAX];

	if (o->now - seen_ns >= SNAPSHOT_LEASE_NS + ROW_EVERY_NS)
		kv_delete(o->txn, row_lease(key, bucket, name, job));
	return 0;
}

void leases_tick(struct snapshots *s)
{
	struct old_rows o = { s, store_clock_now(s->o.clock), kv_txn_new(s->o.kv) };

	provenance_tick(s, o.now);
	pthread_mutex_lock(&s->lock);
	for (struct list *n = s->leases.next, *next; n != &s->leases; n = next) {
		struct lease *l = container_of(n, struct lease, node);

		next = n->next;
		if (o.now - l->seen_ns >= SNAPSHOT_LEASE_NS) lease_drop(s, l);
	}
	pthread_mutex_unlock(&s->lock);
	if (o.txn == NULL) return;
	if (lease_each(s->o.kv, old_row, &o) == 0 && kv_txn_ops(o.txn) > 0 &&
		kv_submit_wait(s->o.kv, o.txn) < 0)
		log_warn("cannot delete the rows of old leases; the next pass tries it again");
	kv_txn_free(&o.txn);
}

char *snapshots_consumers(struct snapshots *s, uint64_t bucket,
	bool (*may)(void *arg, struct slice bucket_name), void *arg, size_t *len)
{
	uint64_t now = store_clock_now(s->o.clock);
	size_t cap;
	char *out;

	pthread_mutex_lock(&s->lock);
	cap = (size_t)s->lease_count * LINE_MAX + 1;
	out = malloc(cap);
	*len = 0;
	for (struct list *n = s->leases.next; out != NULL && n != &s->leases; n = n->next) {
		const struct lease *l = container_of(n, struct lease, node);

		if (l->from_row ||
			(bucket != 0 ? l->bucket != bucket : !may(arg, slice_str(l->bucket_name))))
			continue;
		*len += (size_t)snprintf(out + *len, cap - *len,
			"job=%s snapshot=%s@%s host=%s rank=%u world=%u weight=%u epoch=%llu "
			"position=%llu of=%llu samples=%llu "
			"bytes=%llu waited_ns=%llu elapsed_ns=%llu samples_s=%llu bytes_s=%llu eta_s=%llu "
			"age_s=%llu\n",
			l->job, l->bucket_name, l->name, l->host, l->rank, l->world, l->weight,
			(unsigned long long)l->epoch, (unsigned long long)l->position,
			(unsigned long long)l->of, (unsigned long long)l->samples,
			(unsigned long long)l->bytes, (unsigned long long)l->waited_ns,
			(unsigned long long)l->elapsed_ns, (unsigned long long)l->samples_s,
			(unsigned long long)l->bytes_s, (unsigned long long)l->eta_s,
			(unsigned long long)((now - l->seen_ns) / SECOND));
	}
	pthread_mutex_unlock(&s->lock);
	return out;
}
