/* SPDX-License-Identifier: Apache-2.0 */
/* session_row.c -- see session_row.h. */
#include "meta/session_row.h"

#include <assert.h>
#include <stdlib.h>

#include "common/error.h"
#include "common/tlv.h"
#include "meta/kv.h"

static void ranges_put(struct wr *w, uint16_t tag, const struct session_ranges *ranges)
{
	assert(ranges->count <= SESSION_RANGES_MAX);
	for (uint32_t i = 0; i < ranges->count; i++) {
		uint8_t *at = tlv_open(w, tag);
		wr_u64(w, ranges->at[i].first);
		wr_u64(w, ranges->at[i].count);
		tlv_close(w, at);
	}
}

size_t session_row_encode(const struct session_row *row, uint8_t value[SESSION_ROW_MAX])
{
	struct wr w = wr_of(value, SESSION_ROW_MAX);
	uint8_t unstable = row->is_unstable, opens = row->has_opens;

	value_begin(&w);
	tlv_put(&w, HTAG_KEY, row->key);
	tlv_put_u64(&w, HTAG_CREATED, row->created_ns);
	ranges_put(&w, HTAG_RANGE, &row->ranges);
	if (unstable)
		tlv_put(&w, HTAG_UNSTABLE, slice_of(&unstable, 1));
	if (opens)
		tlv_put(&w, HTAG_OPENS, slice_of(&opens, 1));
	tlv_put_u64(&w, HTAG_LEASE, row->lease_ns);
	ranges_put(&w, HTAG_GIVEN, &row->given);
	assert(wr_ok(&w));
	return wr_len(&w);
}

static bool range_take(struct session_ranges *ranges, struct slice v)
{
	struct cur c = cur_of(v.p, v.len);
	uint64_t first = cur_u64(&c), count = cur_u64(&c);

	if (!cur_done(&c) || ranges->count == SESSION_RANGES_MAX || first > UINT64_MAX - count)
		return false;
	ranges->at[ranges->count++] = (struct session_range){ first, count };
	return true;
}

int session_row_decode(struct slice value, struct session_row *out)
{
	struct cur c = cur_of(value.p, value.len);
	uint16_t tag;
	struct slice v;

	memset(out, 0, sizeof(*out));
	if (!value_bytes(value, HTAG_KEY, &out->key) || !value_u64(value, HTAG_CREATED, 0, &out->created_ns) ||
	    !value_u64(value, HTAG_LEASE, 0, &out->lease_ns) || cur_u8(&c) != 1)
		return -GRANARY_ECORRUPT;
	while (tlv_next(&c, &tag, &v)) {
		if ((tag == HTAG_RANGE && !range_take(&out->ranges, v)) ||
		    (tag == HTAG_GIVEN && !range_take(&out->given, v)))
			return -GRANARY_ECORRUPT;
		if (tag == HTAG_UNSTABLE)
			out->is_unstable = v.len == 1 && v.p[0] != 0;
		if (tag == HTAG_OPENS)
			out->has_opens = v.len == 1 && v.p[0] != 0;
	}
	return cur_done(&c) ? 0 : -GRANARY_ECORRUPT;
}

bool session_ranges_have(const struct session_ranges *ranges, uint64_t first, uint64_t count)
{
	for (uint32_t i = 0; i < ranges->count; i++) {
		const struct session_range *r = &ranges->at[i];
		if (first >= r->first && first - r->first <= r->count && count <= r->count - (first - r->first))
			return true;
	}
	return false;
}

void session_ranges_add(struct session_ranges *ranges, uint64_t first, uint64_t count)
{
	if (ranges->count == SESSION_RANGES_MAX) {
		memmove(&ranges->at[0], &ranges->at[1], (SESSION_RANGES_MAX - 1) * sizeof(ranges->at[0]));
		ranges->count--;
	}
	ranges->at[ranges->count++] = (struct session_range){ first, count };
}

static int id_add(uint64_t **ids, uint32_t *count, uint64_t id)
{
	uint64_t *wide = realloc(*ids, (*count + 1) * sizeof(*wide));

	if (wide == NULL) return -GRANARY_ENOMEM;
	*ids = wide;
	wide[(*count)++] = id;
	return 0;
}

int session_rows_find(struct kv *kv, bool (*says)(const struct session_row *row), uint64_t **ids, uint32_t *count)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice prefix = slice_of(row_session(buf, 0).p, 1);
	struct kv_iter *it = kv_iter_new_under(kv, prefix);
	int err = it == NULL ? -GRANARY_ENOMEM : 0;

	*ids = NULL;
	*count = 0;
	if (err < 0) return err;
	for (kv_iter_seek(it, prefix); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		struct session_row row;

		if (key.p[0] != prefix.p[0]) break;
		if (key.len != 9 || session_row_decode(kv_iter_value(it), &row) < 0) continue;
		if (says(&row)) err = id_add(ids, count, be64_get(key.p + 1));
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}
