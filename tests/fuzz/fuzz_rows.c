/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_rows.c -- values of rows with any bytes: decoders stay inside them, and what they accept is written again with
 * the same meaning. */
#include "meta/rows.h"

#include "common/error.h"
#include "meta/provenance.h"
#include "meta/recipe.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_object(struct slice value)
{
	static uint8_t a[1 << 20], b[1 << 20];
	struct object o, back;
	int64_t len, again;
	uint64_t sum = 0;

	if (value.len > sizeof(a) / 2 || object_decode(value, &o) < 0)
		return;
	for (uint32_t i = 0; i < o.extent_count; i++)
		for (uint32_t j = 0; j < o.extents[i].crc_count; j++)
			sum += extent_crc(&o.extents[i], j);
	len = object_encode(&o, a, sizeof(a));
	assert(len > 0 && sum < UINT64_MAX);
	assert(object_decode(slice_of(a, (size_t)len), &back) == 0);
	assert(back.id == o.id && back.version == o.version && back.size == o.size &&
		back.extent_count == o.extent_count);
	assert(back.mode == o.mode && slice_eq(back.meta, o.meta) && slice_eq(back.name, o.name));
	again = object_encode(&back, b, sizeof(b));
	assert(again == len && memcmp(a, b, (size_t)len) == 0); /* once written, it stays as it is */
}

static void try_pack(struct slice value)
{
	uint8_t buf[4096], again[4096];
	struct pack_row p, back;
	int64_t len;

	if (pack_row_decode(value, &p) < 0)
		return;
	if (p.state == 0)
		p.state = PACK_OPEN;
	len = pack_row_encode(&p, value, buf, sizeof(buf));
	if (len == -GRANARY_ETOOBIG)
		return;
	assert(len > 0 && pack_row_decode(slice_of(buf, (size_t)len), &back) == 0);
	assert(pack_row_encode(&back, slice_of(buf, (size_t)len), again, sizeof(again)) == len);
	assert(memcmp(buf, again, (size_t)len) == 0);
}

static void try_recipe(struct slice value)
{
	struct recipe_row row, back;
	struct slice name;
	uint8_t *buf;
	uint64_t of;
	int64_t len;

	row_hold_parse(value, &of, &name);
	if (recipe_row_decode(value, &row) < 0)
		return;
	buf = malloc(recipe_row_size(&row));
	len = recipe_row_encode(&row, buf, recipe_row_size(&row));
	assert(len > 0 && recipe_row_decode(slice_of(buf, (size_t)len), &back) == 0);
	assert(back.id == row.id && slice_eq(back.text, row.text) && slice_eq(back.buckets, row.buckets));
	free(buf);
}

static void try_provenance(struct slice value)
{
	uint8_t key[ROW_KEY_MAX], *buf;
	struct provenance_row row, back;
	struct provenance_key k;
	struct token token;
	int64_t len;

	if (value.len < ROW_KEY_MAX && row_provenance_parse(value, &k) && k.job.len > 0)
		assert(slice_eq(row_provenance(key, &k), value));
	if (provenance_row_decode(value, &row, &token) < 0)
		return;
	buf = malloc(provenance_row_size(&row));
	len = provenance_row_encode(&row, buf, provenance_row_size(&row));
	assert(len > 0 && provenance_row_decode(slice_of(buf, (size_t)len), &back, &token) == 0);
	assert(back.checksum == row.checksum && back.to == row.to && slice_eq(back.skips, row.skips));
	free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t buf[8192], key[ROW_KEY_MAX];
	struct slice value = slice_of(data, size), name;
	struct extent e;
	uint64_t v, dir;
	int64_t len;
	bool is_dir;

	try_object(value);
	try_pack(value);
	try_recipe(value);
	try_provenance(value);
	extent_row_decode(value, &e);
	meta_check(value);
	len = value_set_u64(value, 64, 7, buf, sizeof(buf));
	if (len > 0)
		assert(value_u64(slice_of(buf, (size_t)len), 64, 0, &v) && v == 7);
	if (row_entry_parse(value, &dir, &name, &is_dir) && size <= KEY_LEN_MAX)
		assert(slice_eq(row_entry(key, dir, name, is_dir), value));
	return 0;
}
