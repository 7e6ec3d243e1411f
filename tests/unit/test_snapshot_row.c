/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a row of a snapshot comes back as it was written, and what a later version wrote into it survives a change of
 * its note by this one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/error.h"
#include "common/tlv.h"
#include "common/wire.h"
#include "meta/rows.h"
#include "meta/snapshot.h"

static struct snapshot_row row_of(void)
{
	return (struct snapshot_row){ .id = 7, .created_ns = 8, .samples = 9, .bytes = 10, .state = SNAPSHOT_READY,
		.has_manifest = true, .manifest = { 11, 12 }, .note = slice_str("first"), .prefix = slice_str("train/"),
		.options = slice_str("tag=a=b\n") };
}

static void test_rows_come_back(void **state)
{
	struct snapshot_row row = row_of(), back;
	uint8_t buf[1024];
	int64_t len = snapshot_row_encode(&row, buf, sizeof(buf));

	(void)state;
	assert_true(len > 0);
	assert_int_equal(0, snapshot_row_decode(slice_of(buf, (size_t)len), &back));
	assert_true(back.id == 7 && back.samples == 9 && back.manifest.hi == 12 && !back.has_identity);
	assert_true(slice_eq(back.note, row.note) && slice_eq(back.prefix, row.prefix));
	assert_true(slice_eq(back.options, row.options));
	uint8_t again[1024];
	assert_int_equal(len, snapshot_row_encode(&back, again, sizeof(again)));
	assert_memory_equal(buf, again, (size_t)len);
}

static void test_unknown_tags_survive_a_rewrite(void **state)
{
	struct snapshot_row row = row_of(), back;
	uint8_t buf[1024], out[2048];
	struct wr w = wr_of(buf, sizeof(buf));
	int64_t len = snapshot_row_encode(&row, out, sizeof(out));
	struct slice v;
	uint16_t tag;
	int low = 0, high = 0;

	(void)state;
	wr_u8(&w, 1); /* tags of another version before and behind those of this one */
	tlv_put(&w, 9, slice_str("below"));
	wr_slice(&w, slice_of(out + 1, (size_t)len - 1));
	tlv_put(&w, 4000, slice_str("above"));
	assert_true(wr_ok(&w));
	assert_int_equal(0, snapshot_row_decode(slice_of(buf, wr_len(&w)), &back));
	back.note = slice_str("second");
	back.expires_ns = 99;
	assert_true(snapshot_row_size(&back) <= sizeof(out));
	len = snapshot_row_encode(&back, out, snapshot_row_size(&back));
	assert_true(len > 0);
	struct cur c = cur_of(out, (size_t)len);
	cur_u8(&c);
	while (tlv_next(&c, &tag, &v)) {
		low += tag == 9 && slice_eq(v, slice_str("below"));
		high += tag == 4000 && slice_eq(v, slice_str("above"));
	}
	assert_true(cur_done(&c) && low == 1 && high == 1);
	assert_int_equal(0, snapshot_row_decode(slice_of(out, (size_t)len), &back));
	assert_true(slice_eq(back.note, slice_str("second")) && back.expires_ns == 99 && back.id == 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows_come_back),
		cmocka_unit_test(test_unknown_tags_survive_a_rewrite),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
