/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_snap_page.c -- a data page over any bytes, as they are and with their checksums made right: what is handed out
 * lies inside, and a page built again from what was read gives the same rows. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/snap.h"
#include "fuzz_snap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { EXTENTS_MAX = 64, WORK_MAX = 1 << 16 };

/* Adds one row to the builder; false when the page is damaged there. */
static bool row_copy(const struct snap_page *p, uint64_t i, struct snap_page_builder *b)
{
	struct snap_extent e[EXTENTS_MAX];
	struct snap_row row;
	uint64_t size = 0;

	if (snap_page_row(p, i, &row) < 0)
		return false;
	for (uint32_t k = 0; k < row.extent_count && k < EXTENTS_MAX; k++) {
		require(snap_page_extent(p, &row, k, &e[k]) == 0); /* the row was checked */
		require((uint64_t)e[k].offset + e[k].length <= UINT64_C(1) << 32);
		size += e[k].length;
	}
	require(row.extent_count > EXTENTS_MAX || size == row.size);
	require(snap_page_extent(p, &row, row.extent_count, &e[0]) < 0);
	if (row.extent_count <= EXTENTS_MAX)
		require(snap_page_add(b, e, row.extent_count, row.flags & SNAP_ROW_PART) == 0);
	return row.extent_count <= EXTENTS_MAX;
}

static void page_compare(const struct snap_page *p, struct snap_page_builder *b)
{
	struct snap_row x, y;
	struct snap_page again;
	struct hash128 hash;
	uint8_t *bytes;
	size_t len;

	require(snap_page_finish(b, &bytes, &len, &hash) == 0);
	require(snap_page_parse(bytes, len, &again) == 0);
	require(again.samples == p->samples && again.fields == p->fields && again.pack == p->pack);
	for (uint64_t i = 0; i < (uint64_t)p->samples * p->fields; i++) {
		require(snap_page_row(p, i, &x) == 0 && snap_page_row(&again, i, &y) == 0);
		require(x.size == y.size && x.extent_count == y.extent_count && x.flags == y.flags);
		require(x.first.pack == y.first.pack && x.first.offset == y.first.offset && x.first.crc == y.first.crc);
	}
	free(bytes);
}

static void page_run(const uint8_t *data, size_t size)
{
	struct snap_page_builder *b;
	struct snap_page p;
	bool whole = true;
	uint64_t rows;

	if (snap_page_parse(data, size, &p) < 0)
		return;
	rows = (uint64_t)p.samples * p.fields;
	require(rows * 16 <= size);
	if (rows * (p.extent_count + 1) > WORK_MAX) /* rows may name the same extents again and again */
		return;
	b = snap_page_builder_new(p.pack, p.fields);
	for (uint64_t i = 0; i < rows; i++)
		whole = row_copy(&p, i, b) && whole;
	if (whole)
		page_compare(&p, b);
	snap_page_builder_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	page_run(data, size);
	run_resealed(data, size, page_run);
	return 0;
}
