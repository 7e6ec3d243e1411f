/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.c -- see snapshot.h. Owns nothing: everything borrows. */
#include "meta/snapshot.h"

#include <assert.h>

#include "common/error.h"
#include "common/tlv.h"
#include "common/wire.h"
#include "meta/kv.h"
#include "meta/rows.h"

static_assert(STAG_PREFIX == 74 && STAG_IDENTITY == 75 && ETAG_HOST == 65, "FORMAT 6.12");
static_assert(1 + 8 + SNAPSHOT_NAME_MAX + 1 + LEASE_JOB_MAX <= ROW_KEY_MAX, "keys fit");

static bool is_name_byte(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

int snapshot_name_check(struct slice name)
{
	bool only_dots = true;

	if (name.len < 1 || name.len > SNAPSHOT_NAME_MAX) return -GRANARY_ENAME;
	for (size_t i = 0; i < name.len; i++) {
		if (!is_name_byte(name.p[i])) return -GRANARY_ENAME;
		only_dots &= name.p[i] == '.';
	}
	return only_dots ? -GRANARY_ENAME : 0;
}

/* ---- values ---- */

static bool hash_take(struct hash128 *hash, bool *has, struct slice v)
{
	if (v.len != 16) return false;
	*has = true;
	memcpy(&hash->lo, v.p, 8);
	memcpy(&hash->hi, v.p + 8, 8);
	return true;
}

static bool row_take(struct snapshot_row *s, uint16_t tag, struct slice v)
{
	switch (tag) {
	case STAG_ID: s->id = tlv_u64(v); return v.len == 8;
	case STAG_STATE: s->state = v.len == 1 ? *v.p : 0; return v.len == 1;
	case STAG_CREATED: s->created_ns = tlv_u64(v); return v.len == 8;
	case STAG_SAMPLES: s->samples = tlv_u64(v); return v.len == 8;
	case STAG_BYTES: s->bytes = tlv_u64(v); return v.len == 8;
	case STAG_EXPIRES: s->expires_ns = tlv_u64(v); return v.len == 8;
	case STAG_OPTIONS: s->options = v; return v.len <= SNAPSHOT_OPTIONS_MAX;
	case STAG_NOTE: s->note = v; return v.len <= SNAPSHOT_NOTE_MAX;
	case STAG_PREFIX: s->prefix = v; return v.len <= KEY_LEN_MAX;
	case STAG_PINS: s->pins = v; return v.len % 8 == 0;
	case STAG_MANIFEST: return hash_take(&s->manifest, &s->has_manifest, v);
	case STAG_IDENTITY: return hash_take(&s->identity, &s->has_identity, v);
	default: return true;
	}
}

int snapshot_row_decode(struct slice value, struct snapshot_row *out)
{
	struct cur c = cur_of(value.p, value.len);
	uint16_t tag;
	struct slice v;

	memset(out, 0, sizeof(*out));
	out->raw = value;
	if (cur_u8(&c) != 1) return -GRANARY_ECORRUPT;
	while (tlv_next(&c, &tag, &v))
		if (!row_take(out, tag, v)) return -GRANARY_ECORRUPT;
	if (!cur_done(&c) || out->id == 0 || out->state < SNAPSHOT_CREATING ||
		out->state > SNAPSHOT_REMOVING)
		return -GRANARY_ECORRUPT;
	return out->state == SNAPSHOT_READY && !out->has_manifest ? -GRANARY_ECORRUPT : 0;
}

size_t snapshot_row_size(const struct snapshot_row *s)
{
	return 256 + s->options.len + s->note.len + s->prefix.len + s->pins.len + s->raw.len;
}

/* What a later version wrote stays (FORMAT 6). */
static void unknown_put(struct wr *w, struct slice raw)
{
	struct cur c = cur_of(raw.p, raw.len);
	uint16_t tag;
	struct slice v;

	cur_u8(&c);
	while (raw.len > 0 && tlv_next(&c, &tag, &v))
		if (tag < STAG_ID || tag > STAG_IDENTITY) tlv_put(w, tag, v);
}

int64_t snapshot_row_encode(const struct snapshot_row *s, void *buf, size_t cap)
{
	struct wr w = wr_of(buf, cap);
	uint64_t manifest[2] = { s->manifest.lo, s->manifest.hi };
	uint64_t identity[2] = { s->identity.lo, s->identity.hi };

	value_begin(&w);
	tlv_put_u64(&w, STAG_ID, s->id);
	tlv_put(&w, STAG_STATE, slice_of(&s->state, 1));
	tlv_put_u64(&w, STAG_CREATED, s->created_ns);
	if (s->has_manifest) tlv_put(&w, STAG_MANIFEST, slice_of(manifest, sizeof(manifest)));
	tlv_put_u64(&w, STAG_SAMPLES, s->samples);
	tlv_put_u64(&w, STAG_BYTES, s->bytes);
	tlv_put(&w, STAG_OPTIONS, s->options);
	tlv_put(&w, STAG_NOTE, s->note);
	tlv_put_u64(&w, STAG_EXPIRES, s->expires_ns);
	tlv_put(&w, STAG_PREFIX, s->prefix);
	tlv_put(&w, STAG_PINS, s->pins);
	if (s->has_identity) tlv_put(&w, STAG_IDENTITY, slice_of(identity, sizeof(identity)));
	unknown_put(&w, s->raw);
	return wr_ok(&w) ? (int64_t)wr_len(&w) : -GRANARY_ETOOBIG;
}

/* ---- keys ---- */

static struct wr key_begin(uint8_t *buf, char kind, uint64_t bucket, struct slice name)
{
	struct wr w = wr_of(buf, ROW_KEY_MAX);

	wr_u8(&w, (uint8_t)kind);
	wr_be64(&w, bucket);
	wr_slice(&w, name);
	return w;
}

static struct slice key_end(const struct wr *w)
{
	assert(wr_ok(w));
	return slice_of(w->start, wr_len(w));
}

struct slice row_snapshot(uint8_t *buf, uint64_t bucket, struct slice name)
{
	struct wr w = key_begin(buf, 's', bucket, name);

	return key_end(&w);
}

struct slice row_snapshot_prefix(uint8_t *buf, uint64_t bucket)
{
	return row_snapshot(buf, bucket, slice_of(NULL, 0));
}

bool row_snapshot_parse(struct slice key, uint64_t *bucket, struct slice *name)
{
	if (key.len < 10 || key.p[0] != 's') return false;
	*bucket = be64_get(key.p + 1);
	*name = slice_of(key.p + 9, key.len - 9);
	return true;
}

struct slice row_lease_prefix(uint8_t *buf, uint64_t bucket, struct slice name)
{
	struct wr w = key_begin(buf, 'e', bucket, name);

	wr_u8(&w, 0);
	return key_end(&w);
}

struct slice row_lease(uint8_t *buf, uint64_t bucket, struct slice name, struct slice job)
{
	struct wr w = key_begin(buf, 'e', bucket, name);

	wr_u8(&w, 0);
	wr_slice(&w, job);
	return key_end(&w);
}

bool row_lease_parse(struct slice key, uint64_t *bucket, struct slice *name, struct slice *job)
{
	const uint8_t *zero =
		key.len < 10 || key.p[0] != 'e' ? NULL : memchr(key.p + 9, 0, key.len - 9);

	if (zero == NULL) return false;
	*bucket = be64_get(key.p + 1);
	*name = slice_of(key.p + 9, (size_t)(zero - key.p) - 9);
	*job = slice_of(zero + 1, (size_t)(key.p + key.len - zero) - 1);
	return true;
}

/* ---- reading ---- */

int snapshot_find(struct kv *kv, uint64_t bucket, struct slice name, struct snapshot_row *out,
	struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = kv_get(kv, row_snapshot(buf, bucket, name), value);

	if (err < 0) return err;
	err = snapshot_row_decode(value->v, out);
	if (err < 0) kv_value_release(value);
	return err;
}

int snapshot_each(struct kv *kv, uint64_t bucket, struct slice after,
	int (*each)(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *s),
	void *arg)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_iter *it = kv_iter_new(kv, NULL);
	int err = 0;

	if (it == NULL) return -GRANARY_ENOMEM;
	kv_iter_seek(it, bucket == 0 ? slice_str("s") : row_snapshot(buf, bucket, after));
	for (; err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct snapshot_row s;
		struct slice name;
		uint64_t of;

		if (!row_snapshot_parse(kv_iter_key(it), &of, &name) ||
			(bucket != 0 && of != bucket))
			break;
		if (bucket != 0 && slice_eq(name, after)) continue;
		err = snapshot_row_decode(kv_iter_value(it), &s);
		if (err == 0) err = each(arg, of, name, &s);
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

int lease_each(struct kv *kv,
	int (*each)(
		void *arg, uint64_t bucket, struct slice name, struct slice job, uint64_t seen_ns),
	void *arg)
{
	struct kv_iter *it = kv_iter_new(kv, NULL);
	int err = 0;

	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, slice_str("e")); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice name, job;
		uint64_t bucket, seen;

		if (!row_lease_parse(kv_iter_key(it), &bucket, &name, &job)) break;
		if (!value_u64(kv_iter_value(it), ETAG_SEEN, 0, &seen))
			err = -GRANARY_ECORRUPT;
		else
			err = each(arg, bucket, name, job, seen);
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}
