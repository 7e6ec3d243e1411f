/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_provenance.c -- the log of what jobs were given: a row a rank and opened epoch, rewritten with each
 * report, so that it outlives server and job; told as lines; bounded.
 *
 * Invariants: (1) a row never goes back: what is there and further stays; (2) a job keeps its last
 * PROVENANCE_JOB_MAX rows, the store PROVENANCE_ALL_MAX, each for PROVENANCE_KEEP_NS after its last
 * report: what is beyond goes with a pass, the oldest first. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/provenance.h"
#include "jobs/snapshot_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "meta/provenance.h"
#include "meta/rows.h"

enum { PROVENANCE_JOB_MAX = 16384, PROVENANCE_ALL_MAX = 1 << 20, SWEEP_AFTER = 1024, DELETES_A_TXN = 512 };
#define SECOND             UINT64_C(1000000000)
#define SWEEP_EVERY_NS     (3600 * SECOND)
#define PROVENANCE_KEEP_NS (400 * 24 * 3600 * SECOND)

/* ---- writing ---- */

/* Is there a row that is further? */
static int is_behind(struct snapshots *s, struct slice key, const struct provenance_row *row)
{
	struct provenance_row old;
	struct kv_value value;
	struct token token;
	int err = kv_get(s->o.kv, key, &value);

	if (err == -GRANARY_ENOTFOUND) return 0;
	if (err < 0) return err;
	err = provenance_row_decode(value.v, &old, &token);
	if (err == 0) err = old.ended || old.delivered > row->delivered;
	kv_value_release(&value);
	return err;
}

static int row_commit(struct snapshots *s, struct slice key, const struct provenance_row *row)
{
	size_t cap = provenance_row_size(row);
	uint8_t *value = malloc(cap);
	struct kv_txn *txn = kv_txn_new(s->o.kv);
	int64_t len = value != NULL && txn != NULL ? provenance_row_encode(row, value, cap) : -GRANARY_ENOMEM;
	int err = len < 0 ? (int)len : 0;

	if (err == 0) {
		kv_put(txn, key, slice_of(value, (size_t)len));
		err = kv_submit_wait(s->o.kv, txn);
	}
	if (txn != NULL) kv_txn_free(&txn);
	free(value);
	return err;
}

int provenance_put(struct snapshots *s, const struct snapshot_report *r, uint64_t now)
{
	struct provenance_key key = { r->job, r->begun_ns, r->id, r->bucket };
	struct provenance_row row = { .seen_ns = now,
		.delivered = r->delivered,
		.to = r->position,
		.samples = r->samples,
		.bytes = r->bytes,
		.checksum = r->checksum,
		.skipped = r->skipped,
		.world = r->world,
		.rank = r->rank,
		.batch = r->batch,
		.last = r->last,
		.first = r->first,
		.step = r->step,
		.ended = r->ended,
		.name = r->source,
		.host = r->host,
		.token = r->token,
		.skips = r->skips };
	uint8_t buf[ROW_KEY_MAX];
	struct slice at = row_provenance(buf, &key);
	int err = is_behind(s, at, &row);

	if (err != 0) return err < 0 ? err : 0;
	if (atomic_load(&s->log_rows) + atomic_fetch_add(&s->logged, 1) >= PROVENANCE_ALL_MAX) {
		log_warn("what job '%.*s' was given is not kept: there are %d such rows already", (int)r->job.len,
			(const char *)r->job.p, PROVENANCE_ALL_MAX);
		return 0;
	}
	return row_commit(s, at, &row);
}

/* ---- telling ---- */

static void put_skips(FILE *to, struct slice skips)
{
	struct cur c = cur_of(skips.p, skips.len);

	if (skips.len == 0) return;
	fprintf(to, " skips=");
	for (bool first = true; c.p != c.end; first = false) {
		uint64_t position = cur_u64(&c);
		uint32_t source = cur_u32(&c);
		uint64_t lost = cur_u64(&c), substitute = cur_u64(&c);

		fprintf(to, "%s%" PRIu64 ":%" PRIu32 ":%" PRIu64 ":%" PRIu64, first ? "" : ",", position, source,
			lost, substitute);
	}
}

static void put_line(FILE *to, const struct provenance_key *key, const struct provenance_row *row,
	const struct token *token, const char *bucket, uint64_t now)
{
	char text[TOKEN_TEXT_LEN + 1];
	const char *mode = order_mode_name(token->mode);

	if (token_to_text(token, text, NULL, 0) < 0) text[0] = '\0';
	fprintf(to,
		"job=%.*s begun_ns=%" PRIu64 " %s=%s@%.*s hash=%016" PRIx64 "%016" PRIx64
		" mode=%s seed=%" PRIu64 " epoch=%" PRIu64 " host=%.*s rank=%" PRIu32 " world=%" PRIu32
		" batch=%" PRIu32 " last=%u"
		" first=%" PRIu32 " step=%" PRIu32 " from=%" PRIu64 " to=%" PRIu64 " batches=%" PRIu64
		" samples=%" PRIu64 " bytes=%" PRIu64 " checksum=%016" PRIx64 " skipped=%" PRIu64,
		(int)key->job.len, (const char *)key->job.p, key->begun_ns, token->of_recipe ? "recipe" : "snapshot",
		bucket, (int)row->name.len, (const char *)row->name.p, token->source.hi, token->source.lo,
		mode != NULL ? mode : "", token->seed, token->epoch, (int)row->host.len, (const char *)row->host.p,
		row->rank, row->world, row->batch, row->last,
		row->first, row->step, token->position, row->to, row->delivered, row->samples,
		row->bytes, row->checksum, row->skipped);
	put_skips(to, row->skips);
	fprintf(to, " ended=%d age_s=%" PRIu64 " token=%s\n", row->ended, (now - row->seen_ns) / SECOND, text);
}

struct telling {
	struct snapshots *s;
	struct provenance_page *p;
	FILE *to;
	uint64_t now;
};

static int tell_row(void *arg, struct slice at, struct slice value)
{
	struct telling *t = arg;
	struct provenance_page *p = t->p;
	struct provenance_row row;
	struct provenance_key key;
	struct ns_bucket bucket;
	struct token token;
	int err;

	if (p->count == p->max || (size_t)ftell(t->to) > p->cap) {
		p->more = true;
		return 1;
	}
	memcpy(p->cursor, at.p, at.len);
	p->cursor_len = at.len;
	if (!row_provenance_parse(at, &key)) return -GRANARY_ECORRUPT;
	if ((p->bucket != 0 && key.bucket != p->bucket) || ns_bucket_by_id(t->s->o.ns, key.bucket, &bucket) < 0 ||
		!p->may(p->arg, slice_of(bucket.name, bucket.name_len)))
		return 0;
	err = provenance_row_decode(value, &row, &token);
	if (err < 0) return err;
	bucket.name[bucket.name_len] = '\0';
	put_line(t->to, &key, &row, &token, bucket.name, t->now);
	p->count++;
	return 0;
}

int snapshots_provenance(struct snapshots *s, struct provenance_page *p)
{
	struct telling t = { s, p, open_memstream(&p->text, &p->len), store_clock_now(s->o.clock) };
	uint8_t buf[ROW_KEY_MAX];
	int err;

	_Static_assert(2 + LEASE_JOB_MAX + 1 + 24 <= PROVENANCE_CURSOR_MAX, "a key is a cursor");
	if (t.to == NULL) return -GRANARY_ENOMEM;
	err = provenance_each(s->o.kv, row_provenance_prefix(buf, p->job), p->after, tell_row, &t);
	if (fclose(t.to) != 0) err = -GRANARY_ENOMEM;
	return err < 0 ? err : 0;
}

/* ---- what is too much or too old ---- */

struct sweep {
	struct snapshots *s;
	struct kv_txn *txn;
	uint64_t now;
	uint64_t of_job; /* rows of this job met */
	uint32_t all, deleted;
	char job[LEASE_JOB_MAX + 1];
	struct recent { uint16_t len; uint8_t key[PROVENANCE_CURSOR_MAX]; } *recent; /* its last rows, a ring */
};

static void sweep_delete(struct sweep *w, struct slice key)
{
	kv_delete(w->txn, key);
	w->deleted++;
}

static int sweep_row(void *arg, struct slice at, struct slice value)
{
	struct sweep *w = arg;
	struct provenance_key key;
	struct ns_bucket bucket;
	uint64_t seen = 0;
	struct recent *r;

	if (w->deleted >= DELETES_A_TXN || atomic_load(&w->s->stopping)) return 1;
	if (!row_provenance_parse(at, &key) || key.job.len > LEASE_JOB_MAX) return -GRANARY_ECORRUPT;
	if (!slice_eq(slice_str(w->job), key.job)) {
		memcpy(w->job, key.job.p, key.job.len);
		w->job[key.job.len] = '\0';
		w->of_job = 0;
	}
	if (!value_u64(value, NTAG_SEEN, 0, &seen) || w->now - seen > PROVENANCE_KEEP_NS ||
		ns_bucket_by_id(w->s->o.ns, key.bucket, &bucket) < 0) {
		sweep_delete(w, at);
		return 0;
	}
	r = &w->recent[w->of_job % PROVENANCE_JOB_MAX];
	if (w->of_job >= PROVENANCE_JOB_MAX) sweep_delete(w, slice_of(r->key, r->len));
	memcpy(r->key, at.p, at.len);
	r->len = (uint16_t)at.len;
	w->of_job++;
	w->all++;
	return 0;
}

static int sweep_rows(struct sweep *w)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = provenance_each(
		w->s->o.kv, row_provenance_prefix(buf, slice_of(NULL, 0)), slice_of(NULL, 0), sweep_row, w);

	if (err < 0) return err;
	if (err == 0) atomic_store(&w->s->log_rows, w->all);
	return kv_txn_ops(w->txn) > 0 ? kv_submit_wait(w->s->o.kv, w->txn) : 0;
}

void provenance_tick(struct snapshots *s, uint64_t now)
{
	struct sweep w = { .s = s, .now = now };
	int err = -GRANARY_ENOMEM;

	if (now - s->logs_swept_ns < SWEEP_EVERY_NS && atomic_load(&s->logged) < SWEEP_AFTER) return;
	atomic_store(&s->logged, 0);
	s->logs_swept_ns = now;
	w.recent = malloc(PROVENANCE_JOB_MAX * sizeof(*w.recent));
	w.txn = kv_txn_new(s->o.kv);
	if (w.recent != NULL && w.txn != NULL) err = sweep_rows(&w);
	if (w.deleted >= DELETES_A_TXN) s->logs_swept_ns = 0; /* there is more */
	if (err < 0)
		log_warn("cannot look over what jobs were given: %s; a later pass does", error_text(err));
	if (w.txn != NULL) kv_txn_free(&w.txn);
	free(w.recent);
}
