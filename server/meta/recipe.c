/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.c -- see recipe.h. Owns nothing: everything borrows. */
#include "meta/recipe.h"

#include <assert.h>

#include "common/error.h"
#include "common/recipe.h"
#include "common/tlv.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "meta/snapshot.h"

enum { NOTE_KIND_HOLD = 2 };

static_assert(WTAG_ID == 86, "FORMAT 6.12c");
static_assert(2 + 8 + SNAPSHOT_NAME_MAX + 1 + 8 + SNAPSHOT_NAME_MAX <= ROW_KEY_MAX, "keys fit");

/* ---- values ---- */

static bool hash_take(struct slice v, struct hash128 *out)
{
	if (v.len != 16) return false;
	memcpy(&out->lo, v.p, 8);
	memcpy(&out->hi, v.p + 8, 8);
	return true;
}

static bool row_take(struct recipe_row *r, uint16_t tag, struct slice v)
{
	switch (tag) {
	case WTAG_TEXT: r->text = v; return v.len <= RECIPE_TEXT_MAX;
	case WTAG_HASH: return hash_take(v, &r->hash);
	case WTAG_CREATED: r->created_ns = tlv_u64(v); return v.len == 8;
	case WTAG_BUCKETS: r->buckets = v; return v.len % 8 == 0 && v.len <= 8 * MIX_SOURCES_MAX;
	case WTAG_SAMPLES: r->samples = tlv_u64(v); return v.len == 8;
	case WTAG_NOTE: r->note = v; return v.len <= RECIPE_NOTE_MAX;
	case WTAG_ID: r->id = tlv_u64(v); return v.len == 8;
	default: return true;
	}
}

int recipe_row_decode(struct slice value, struct recipe_row *out)
{
	struct cur c = cur_of(value.p, value.len);
	uint16_t tag;
	struct slice v;

	memset(out, 0, sizeof(*out));
	if (cur_u8(&c) != 1) return -GRANARY_ECORRUPT;
	while (tlv_next(&c, &tag, &v))
		if (!row_take(out, tag, v)) return -GRANARY_ECORRUPT;
	return cur_done(&c) && out->id != 0 && out->text.len > 0 ? 0 : -GRANARY_ECORRUPT;
}

size_t recipe_row_size(const struct recipe_row *r)
{
	return 256 + r->text.len + r->note.len + r->buckets.len;
}

int64_t recipe_row_encode(const struct recipe_row *r, void *buf, size_t cap)
{
	struct wr w = wr_of(buf, cap);
	uint64_t hash[2] = { r->hash.lo, r->hash.hi };

	value_begin(&w);
	tlv_put_u64(&w, WTAG_ID, r->id);
	tlv_put_u64(&w, WTAG_CREATED, r->created_ns);
	tlv_put(&w, WTAG_HASH, slice_of(hash, sizeof(hash)));
	tlv_put_u64(&w, WTAG_SAMPLES, r->samples);
	tlv_put(&w, WTAG_NOTE, r->note);
	tlv_put(&w, WTAG_BUCKETS, r->buckets);
	tlv_put(&w, WTAG_TEXT, r->text);
	return wr_ok(&w) ? (int64_t)wr_len(&w) : -GRANARY_ETOOBIG;
}

/* ---- keys ---- */

static struct slice key_end(const struct wr *w)
{
	assert(wr_ok(w));
	return slice_of(w->start, wr_len(w));
}

struct slice row_recipe(uint8_t *buf, uint64_t bucket, struct slice name)
{
	struct wr w = wr_of(buf, ROW_KEY_MAX);

	wr_u8(&w, 'w');
	wr_be64(&w, bucket);
	wr_slice(&w, name);
	return key_end(&w);
}

struct slice row_recipe_prefix(uint8_t *buf, uint64_t bucket)
{
	return row_recipe(buf, bucket, slice_of(NULL, 0));
}

static struct wr hold_begin(uint8_t *buf, uint64_t bucket, struct slice snapshot)
{
	struct wr w = wr_of(buf, ROW_KEY_MAX);

	wr_u8(&w, 'n');
	wr_u8(&w, NOTE_KIND_HOLD);
	wr_be64(&w, bucket);
	wr_slice(&w, snapshot);
	wr_u8(&w, 0);
	return w;
}

struct slice row_hold_prefix(uint8_t *buf, uint64_t bucket, struct slice snapshot)
{
	struct wr w = hold_begin(buf, bucket, snapshot);

	return key_end(&w);
}

struct slice row_hold(uint8_t *buf, uint64_t bucket, struct slice snapshot, uint64_t of_bucket,
	struct slice recipe)
{
	struct wr w = hold_begin(buf, bucket, snapshot);

	wr_be64(&w, of_bucket);
	wr_slice(&w, recipe);
	return key_end(&w);
}

bool row_hold_parse(struct slice key, uint64_t *of_bucket, struct slice *recipe)
{
	const uint8_t *zero = key.len < 12 || key.p[0] != 'n' || key.p[1] != NOTE_KIND_HOLD
				      ? NULL
				      : memchr(key.p + 10, 0, key.len - 10);
	size_t at = zero != NULL ? (size_t)(zero - key.p) + 1 : 0;

	if (zero == NULL || key.len < at + 9) return false;
	*of_bucket = be64_get(key.p + at);
	*recipe = slice_of(key.p + at + 8, key.len - at - 8);
	return true;
}

/* ---- reading ---- */

int recipe_find(struct kv *kv, uint64_t bucket, struct slice name, struct recipe_row *out,
	struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = kv_get(kv, row_recipe(buf, bucket, name), value);

	if (err < 0) return err;
	err = recipe_row_decode(value->v, out);
	if (err < 0) kv_value_release(value);
	return err;
}

static bool key_begins(struct slice key, struct slice prefix)
{
	return key.len >= prefix.len && memcmp(key.p, prefix.p, prefix.len) == 0;
}

int recipe_each(struct kv *kv, uint64_t bucket, struct slice after,
	int (*each)(void *arg, struct slice name, const struct recipe_row *r), void *arg)
{
	uint8_t buf[ROW_KEY_MAX], first[ROW_KEY_MAX];
	struct slice prefix = row_recipe_prefix(buf, bucket);
	struct kv_iter *it = kv_iter_new(kv, NULL);
	int err = 0;

	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, row_recipe(first, bucket, after)); err == 0 && kv_iter_valid(it);
		kv_iter_next(it)) {
		struct slice key = kv_iter_key(it), name;
		struct recipe_row r;

		if (!key_begins(key, prefix)) break;
		name = slice_of(key.p + prefix.len, key.len - prefix.len);
		if (slice_eq(name, after)) continue;
		err = recipe_row_decode(kv_iter_value(it), &r);
		if (err == 0) err = each(arg, name, &r);
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

int hold_find(struct kv *kv, uint64_t bucket, struct slice snapshot, struct hash128 manifest,
	uint64_t *of_bucket, char *recipe, size_t cap)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice prefix = row_hold_prefix(buf, bucket, snapshot);
	struct kv_iter *it = kv_iter_new(kv, NULL);
	int found = 0;

	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, prefix); found == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it), name, v;
		struct hash128 hash;

		if (!key_begins(key, prefix)) break;
		if (!row_hold_parse(key, of_bucket, &name) ||
			!value_bytes(kv_iter_value(it), WTAG_HASH, &v) || !hash_take(v, &hash)) {
			found = -GRANARY_ECORRUPT;
		} else if (hash.lo == manifest.lo && hash.hi == manifest.hi) {
			size_t n = name.len < cap - 1 ? name.len : cap - 1;
			memcpy(recipe, name.p, n);
			recipe[n] = '\0';
			found = 1;
		}
	}
	if (found == 0) found = kv_iter_error(it);
	kv_iter_free(&it);
	return found;
}
