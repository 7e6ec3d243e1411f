/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_snap_names.c -- a names page over any bytes, as they are and with their checksums made right: keys ascend, each
 * is found where the walk met it, and a page built again from the entries gives them again. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/snap.h"
#include "fuzz_snap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool name_same(const struct snap_name *a, const struct snap_name *b)
{
	return slice_eq(a->key, b->key) && a->pack == b->pack && a->slot == b->slot && a->field == b->field;
}

/* Walks all into the builder; true when the whole page was good. */
static bool names_copy(const struct snap_names *p, struct snap_names_builder *b)
{
	struct snap_names_iter it;
	struct snap_name n;
	uint32_t count = 0;

	for (snap_names_seek(p, slice_of(NULL, 0), &it); snap_names_next(&it, &n); count++)
		require(snap_names_add(b, &n) == 0); /* it takes ascending keys only */
	return it.err == 0 && count == p->count;
}

static void names_compare(const struct snap_names *p, const struct snap_names *again)
{
	struct snap_names_iter it, other, found;
	struct snap_name a, b, c;

	snap_names_seek(again, slice_of(NULL, 0), &other);
	for (snap_names_seek(p, slice_of(NULL, 0), &it); snap_names_next(&it, &a);) {
		require(snap_names_next(&other, &b) && name_same(&a, &b));
		snap_names_seek(p, a.key, &found);
		require(snap_names_next(&found, &c) && name_same(&a, &c));
	}
	require(!snap_names_next(&other, &b) && other.err == 0);
}

static void names_run(const uint8_t *data, size_t size)
{
	struct snap_names_builder *b;
	struct snap_names p, again;
	struct snap_names_iter it;
	struct snap_name n;
	struct hash128 hash;
	uint8_t *bytes;
	size_t len;
	bool whole;

	if (snap_names_parse(data, size, &p) < 0)
		return;
	snap_names_seek(&p, slice_of(data, size < 70 ? size : 70), &it); /* any key */
	(void)snap_names_next(&it, &n);
	b = snap_names_builder_new();
	whole = names_copy(&p, b);
	require(snap_names_finish(b, &bytes, &len, &hash) == 0);
	require(snap_names_parse(bytes, len, &again) == 0);
	if (whole)
		names_compare(&p, &again);
	free(bytes);
	snap_names_builder_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	names_run(data, size);
	run_resealed(data, size, names_run);
	return 0;
}
