/* SPDX-License-Identifier: Apache-2.0 */
/* retry_row.c -- see retry_row.h and FORMAT 6.14.
 *
 * A list is as short as its numbers let it be, so that a usual batch fits: one number alone stands for all,
 * versions and ids then grow by one an entry, the others are the same. */
#include "req/retry_row.h"

#include <assert.h>
#include <string.h>

#include "common/error.h"
#include "common/tlv.h"
#include "meta/rows.h"

enum { FIRST_VERSION_AT = 1 + 2 + 4 }; /* behind the format byte and its tag and length */

static const uint16_t tags[RETRY_FIELDS] = {
	[RETRY_VERSION] = LTAG_VERSIONS,
	[RETRY_ID] = LTAG_IDS,
	[RETRY_DIR] = LTAG_DIRS,
	[RETRY_REPLACED] = LTAG_REPLACED,
	[RETRY_SIZE] = LTAG_SIZES,
};
/* From one entry to the next, when one number stands for all. */
static const uint64_t steps[RETRY_FIELDS] = { [RETRY_VERSION] = 1, [RETRY_ID] = 1 };

/* How many of the count numbers have to be written. Those of failed entries do not count: they become what fits. */
static uint32_t list_shorten(
	const struct retry_row *row, enum retry_field field, uint64_t *list, uint32_t count)
{
	uint64_t first = 0;
	uint32_t done = 0;

	for (uint32_t i = 0; i < count; i++) {
		if (row->statuses.p[i] != 0) {
			list[i] = 0;
			continue;
		}
		if (done++ == 0) first = list[i] - i * steps[field];
		if (list[i] - i * steps[field] != first) return count;
	}
	list[0] = first;
	return done > 0 ? 1 : 0;
}

/* Numbers that are what the row says already. */
static bool list_is_known(
	const struct retry_row *row, enum retry_field field, const uint64_t *list, uint32_t n)
{
	if (n == 0) return true;
	if (n > 1) return false;
	return field == RETRY_VERSION ? list[0] == row->first_version
				      : field == RETRY_REPLACED && list[0] == 0;
}

/* False: there is no room for it. */
static bool list_put(struct wr *w, uint16_t tag, const uint64_t *list, uint32_t n)
{
	if (wr_len(w) + 6 + 8 * (size_t)n > RETRY_ROW_MAX) return false;
	wr_u16(w, tag);
	wr_u32(w, 8 * n);
	for (uint32_t i = 0; i < n; i++) wr_u64(w, list[i]);
	return true;
}

size_t retry_row_encode(const struct retry_row *row,
	bool (*list)(const struct req *r, enum retry_field field, uint64_t *out),
	const struct req *r, uint8_t value[RETRY_ROW_MAX])
{
	struct wr w = wr_of(value, RETRY_ROW_MAX);
	uint32_t count = (uint32_t)row->statuses.len;
	uint64_t *numbers = list != NULL ? req_alloc(count * sizeof(*numbers)) : NULL;

	assert(count > 0 && count <= WIRE_BATCH_MAX);
	value_begin(&w);
	tlv_put_u64(&w, LTAG_VERSION, row->first_version);
	tlv_put_u64(&w, LTAG_ID, row->first_id);
	tlv_put(&w, LTAG_STATUS, row->statuses);
	tlv_put(&w, LTAG_OP, slice_of(&row->op, 1));
	tlv_put_u64(&w, LTAG_WRITTEN, row->written_ns);
	for (int f = 0; numbers != NULL && f < RETRY_FIELDS; f++) {
		enum retry_field field = (enum retry_field)f;
		uint32_t n;

		if (!list(r, field, numbers)) continue;
		n = list_shorten(row, field, numbers, count);
		if (list_is_known(row, field, numbers, n)) continue;
		if (!list_put(&w, tags[f], numbers, n) && field == RETRY_VERSION)
			memset(value + FIRST_VERSION_AT, 0, 8); /* they do not follow it: not known */
	}
	free(numbers);
	assert(wr_ok(&w));
	return wr_len(&w);
}

int retry_row_decode(struct slice value, struct retry_row *out)
{
	uint64_t op;

	memset(out, 0, sizeof(*out));
	if (!value_u64(value, LTAG_OP, 0, &op) || !value_u64(value, LTAG_ID, 0, &out->first_id) ||
		!value_u64(value, LTAG_VERSION, 0, &out->first_version) ||
		!value_u64(value, LTAG_WRITTEN, 0, &out->written_ns) ||
		!value_bytes(value, LTAG_STATUS, &out->statuses))
		return -GRANARY_ECORRUPT;
	out->op = (uint8_t)op;
	for (int f = 0; f < RETRY_FIELDS; f++) {
		struct slice *s = &out->lists[f];

		if (!value_bytes(value, tags[f], s)) *s = slice_of(NULL, 0);
		if (s->len != 0 && s->len != 8 && s->len != 8 * out->statuses.len)
			return -GRANARY_ECORRUPT;
	}
	return 0;
}

bool retry_row_get(const struct retry_row *row, enum retry_field field, uint32_t i, uint64_t *out)
{
	struct slice list = row->lists[field];
	uint64_t v;

	if (list.len == 0) {
		if (field != RETRY_VERSION || row->first_version == 0) return false;
		*out = row->first_version + i;
		return true;
	}
	if (list.len == 8) {
		memcpy(&v, list.p, 8);
		*out = v + i * steps[field];
		return true;
	}
	if (i >= list.len / 8) return false;
	memcpy(&v, list.p + (size_t)8 * i, 8);
	*out = v;
	return true;
}
