/* SPDX-License-Identifier: Apache-2.0 */
/* provenance.c -- see provenance.h. Owns nothing: everything borrows. */
#include "meta/provenance.h"

#include <assert.h>

#include "common/error.h"
#include "common/provenance.h"
#include "common/tlv.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "meta/snapshot.h"

enum { NOTE_KIND_PROVENANCE = 1 };

static_assert(NTAG_STEP == 81, "FORMAT 6.12f");
static_assert(2 + LEASE_JOB_MAX + 1 + 3 * 8 <= ROW_KEY_MAX, "keys fit");

static bool row_take(struct provenance_row *r, uint16_t tag, struct slice v)
{
	uint64_t n = tlv_u64(v);

	switch (tag) {
	case NTAG_SEEN: r->seen_ns = n; return v.len == 8;
	case NTAG_NAME: r->name = v; return v.len <= PROVENANCE_NAME_MAX;
	case NTAG_HOST: r->host = v; return v.len <= LEASE_JOB_MAX;
	case NTAG_TOKEN: r->token = v; return v.len <= TOKEN_SIZE_MAX;
	case NTAG_WORLD: r->world = (uint32_t)n; return v.len == 4;
	case NTAG_RANK: r->rank = (uint32_t)n; return v.len == 4;
	case NTAG_BATCH: r->batch = (uint32_t)n; return v.len == 4;
	case NTAG_LAST: r->last = (uint8_t)n; return v.len == 1;
	case NTAG_DELIVERED: r->delivered = n; return v.len == 8;
	case NTAG_TO: r->to = n; return v.len == 8;
	case NTAG_SAMPLES: r->samples = n; return v.len == 8;
	case NTAG_BYTES: r->bytes = n; return v.len == 8;
	case NTAG_CHECKSUM: r->checksum = n; return v.len == 8;
	case NTAG_SKIPPED: r->skipped = n; return v.len == 8;
	case NTAG_SKIPS: r->skips = v; return v.len % PROVENANCE_SKIP_SIZE == 0;
	case NTAG_FIRST: r->first = (uint32_t)n; return v.len == 4;
	case NTAG_STEP: r->step = (uint32_t)n; return v.len == 4;
	case NTAG_ENDED: r->ended = n != 0; return v.len == 1;
	default: return true;
	}
}

int provenance_row_decode(struct slice value, struct provenance_row *out, struct token *token)
{
	struct cur c = cur_of(value.p, value.len);
	uint16_t tag;
	struct slice v;

	memset(out, 0, sizeof(*out));
	if (cur_u8(&c) != 1) return -GRANARY_ECORRUPT;
	while (tlv_next(&c, &tag, &v))
		if (!row_take(out, tag, v)) return -GRANARY_ECORRUPT;
	if (!cur_done(&c) || out->world == 0) return -GRANARY_ECORRUPT;
	return token_decode(token, out->token.p, out->token.len, NULL, 0) < 0 ? -GRANARY_ECORRUPT : 0;
}

size_t provenance_row_size(const struct provenance_row *r)
{
	return 512 + r->name.len + r->host.len + r->token.len + r->skips.len;
}

int64_t provenance_row_encode(const struct provenance_row *r, void *buf, size_t cap)
{
	struct wr w = wr_of(buf, cap);
	uint8_t ended = r->ended;

	value_begin(&w);
	tlv_put_u64(&w, NTAG_SEEN, r->seen_ns);
	tlv_put(&w, NTAG_NAME, r->name);
	tlv_put(&w, NTAG_HOST, r->host);
	tlv_put(&w, NTAG_TOKEN, r->token);
	tlv_put_u32(&w, NTAG_WORLD, r->world);
	tlv_put_u32(&w, NTAG_RANK, r->rank);
	tlv_put_u32(&w, NTAG_BATCH, r->batch);
	tlv_put(&w, NTAG_LAST, slice_of(&r->last, 1));
	tlv_put_u32(&w, NTAG_FIRST, r->first);
	tlv_put_u32(&w, NTAG_STEP, r->step);
	tlv_put_u64(&w, NTAG_DELIVERED, r->delivered);
	tlv_put_u64(&w, NTAG_TO, r->to);
	tlv_put_u64(&w, NTAG_SAMPLES, r->samples);
	tlv_put_u64(&w, NTAG_BYTES, r->bytes);
	tlv_put_u64(&w, NTAG_CHECKSUM, r->checksum);
	tlv_put_u64(&w, NTAG_SKIPPED, r->skipped);
	tlv_put(&w, NTAG_SKIPS, r->skips);
	tlv_put(&w, NTAG_ENDED, slice_of(&ended, 1));
	return wr_ok(&w) ? (int64_t)wr_len(&w) : -GRANARY_ETOOBIG;
}

/* ---- keys ---- */

static struct wr key_begin(uint8_t *buf, struct slice job)
{
	struct wr w = wr_of(buf, ROW_KEY_MAX);

	wr_u8(&w, 'n');
	wr_u8(&w, NOTE_KIND_PROVENANCE);
	wr_slice(&w, job);
	if (job.len > 0) wr_u8(&w, 0);
	return w;
}

static struct slice key_end(const struct wr *w)
{
	assert(wr_ok(w));
	return slice_of(w->start, wr_len(w));
}

struct slice row_provenance_prefix(uint8_t *buf, struct slice job)
{
	struct wr w = key_begin(buf, job);

	return key_end(&w);
}

struct slice row_provenance(uint8_t *buf, const struct provenance_key *k)
{
	struct wr w = key_begin(buf, k->job);

	wr_be64(&w, k->begun_ns);
	wr_be64(&w, k->id);
	wr_be64(&w, k->bucket);
	return key_end(&w);
}

bool row_provenance_parse(struct slice key, struct provenance_key *out)
{
	const uint8_t *zero = key.len < 4 || key.p[0] != 'n' || key.p[1] != NOTE_KIND_PROVENANCE
				      ? NULL
				      : memchr(key.p + 2, 0, key.len - 2);
	size_t at = zero != NULL ? (size_t)(zero - key.p) + 1 : 0;

	if (zero == NULL || key.len != at + 24) return false;
	out->job = slice_of(key.p + 2, at - 3);
	out->begun_ns = be64_get(key.p + at);
	out->id = be64_get(key.p + at + 8);
	out->bucket = be64_get(key.p + at + 16);
	return true;
}

int provenance_each(struct kv *kv, struct slice prefix, struct slice after,
	int (*each)(void *arg, struct slice key, struct slice value), void *arg)
{
	struct kv_iter *it = kv_iter_new(kv, NULL);
	int err = 0;

	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, after.len > 0 ? after : prefix); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);

		if (key.len < prefix.len || memcmp(key.p, prefix.p, prefix.len) != 0) break;
		if (!slice_eq(key, after)) err = each(arg, key, kv_iter_value(it));
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}
