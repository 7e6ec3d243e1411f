/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: keys sort as FORMAT 6 wants, values come back as they went in, unknown tags survive, damage is refused. */
#include "meta/rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/rand.h"
#include "common/tlv.h"

#include <sys/stat.h>

static const uint8_t crc_bytes[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

static struct object sample(void)
{
	static const uint8_t meta[] = { 1, 0, 'k', 2, 0, 'v', 'w' };
	struct object o = { .id = 11, .version = 22, .size = 4096 + 70000, .mtime_ns = 33, .ctime_ns = 44,
		.mode = S_IFREG | 0640,
		.uid = 55, .gid = 66, .has_hash = true, .hash = { 77, 88 }, .written_ns = 99, .nlink = 1,
			.has_links = true,
		.generation = 3, .extents_outside = 2, .klass = 9, .extent_count = 2 };

	o.meta = slice_of(meta, sizeof(meta));
	o.extents[0] = (struct extent){ .pack = 1, .record = 4096, .skip = 128, .length = 4096,
		.logical = 0, .crc_count = 1,
		.crcs = crc_bytes };
	o.extents[1] = (struct extent){ .pack = 2, .record = UINT64_C(8) * UINT32_MAX, .skip = 64, .length = 70000,
		.logical = 4096, .crc_count = 2, .crcs = crc_bytes + 4 };
	return o;
}

static void test_object_comes_back_as_it_went_in(void **state)
{
	struct object o = sample(), back;
	uint8_t buf[1024];
	int64_t len = object_encode(&o, buf, sizeof(buf));

	(void)state;
	assert_true(len > 0);
	assert_int_equal(buf[0], 1); /* FORMAT 5.1 */
	assert_int_equal(object_decode(slice_of(buf, (size_t)len), &back), 0);
	assert_true(back.id == 11 && back.version == 22 && back.size == o.size && back.mtime_ns == 33 &&
		back.ctime_ns == 44);
	assert_true(back.mode == o.mode && back.uid == 55 && back.gid == 66 && back.written_ns == 99 &&
		back.nlink == 1);
	assert_true(back.has_hash && back.hash.lo == 77 && back.hash.hi == 88 && back.has_links && !back.is_dir);
	assert_true(back.generation == 3 && back.extents_outside == 2 && back.klass == 9 && back.extent_count == 2);
	assert_true(slice_eq(back.meta, o.meta));
	assert_true(back.extents[1].record == o.extents[1].record && back.extents[1].logical == 4096);
	assert_int_equal(extent_crc(&back.extents[1], 1), 0x0c0b0a09);
}

static void test_attributes_of_a_filesystem_come_back_as_they_went_in(void **state)
{
	static const uint8_t pairs[] = { 6, 0, 'u', 's', 'e', 'r', '.', 'a', 2, 0, 'v', 0, 1, 0, 'k', 0, 0 };
	struct object o = { .id = 11, .version = 22, .mode = S_IFLNK | 0777, .nlink = 3, .in_inode = true,
		.has_links = true, .atime_ns = 44, .rdev = 55, .size = 4 }, back;
	uint8_t buf[1024], name[ROW_XATTRS_LEN_MAX + 1];
	struct slice v;

	(void)state;
	o.xattrs = o.tags = slice_of(pairs, sizeof(pairs));
	o.symlink = slice_str("../x");
	int64_t len = object_encode(&o, buf, sizeof(buf));
	assert_true(len > 0);
	assert_int_equal(object_decode(slice_of(buf, (size_t)len), &back), 0);
	assert_true(back.nlink == 3 && back.in_inode && back.atime_ns == 44 && back.rdev == 55 && !back.is_dir);
	assert_true(slice_eq(back.symlink, o.symlink) && slice_eq(back.tags, o.tags));
	assert_true(pairs_find(back.xattrs, slice_str("user.a"), &v) && v.len == 2);
	assert_true(pairs_find(back.xattrs, slice_str("k"), &v) && v.len == 0);
	assert_false(pairs_find(back.xattrs, slice_str("user."), &v));
	assert_false(object_has_bytes(&back));
	for (size_t cut = 1; cut < sizeof(pairs); cut++) /* but where the first pair ends */
		assert_int_equal(pairs_check(slice_of(pairs, cut), 100, NULL), cut == 12 ? 0 : -GRANARY_EINVAL);
	assert_int_equal(pairs_check(slice_of(pairs, sizeof(pairs)), sizeof(pairs) - 1, NULL), -GRANARY_ETOOBIG);
	o.xattrs = slice_of(name, sizeof(name));
	assert_int_equal(object_encode(&o, buf, sizeof(buf)), -GRANARY_ETOOBIG);
}

static void test_directory_comes_back_as_it_went_in(void **state)
{
	struct object o = { .id = 5, .mode = S_IFDIR | 0755, .parent = 4, .name = slice_str("n"),
		.children = 3, .bucket = 2,
		.is_dir = true, .is_dataset = true }, back;
	uint8_t buf[256];
	int64_t len = object_encode(&o, buf, sizeof(buf));

	(void)state;
	assert_int_equal(object_decode(slice_of(buf, (size_t)len), &back), 0);
	assert_true(back.is_dir && back.is_dataset && back.parent == 4 && back.children == 3 && back.bucket == 2);
	assert_true(slice_eq(back.name, o.name));
	assert_int_equal(back.nlink, 1);
}

static void test_unknown_tags_survive_a_rewrite(void **state)
{
	struct object o = sample(), back;
	uint8_t buf[1024], again[1024];
	struct wr w = wr_of(buf, sizeof(buf));
	struct slice v;
	int64_t len = object_encode(&o, buf, sizeof(buf));

	(void)state;
	wr_room(&w, (size_t)len);
	tlv_put(&w, TAG_MD5, slice_of(crc_bytes, 16));
	tlv_put(&w, 60000, slice_str("future"));
	tlv_put(&w, TAG_LABEL, slice_str("a"));
	tlv_put(&w, TAG_LABEL, slice_str("b"));
	assert_int_equal(object_decode(slice_of(buf, wr_len(&w)), &back), 0);
	back.size = 1;
	len = object_encode(&back, again, sizeof(again));
	assert_int_equal(len, wr_len(&w));
	assert_memory_equal(again + (len - 55), buf + (len - 55), 55); /* bytes and order unchanged */
	assert_true(value_bytes(slice_of(again, (size_t)len), 60000, &v) && slice_eq(v, slice_str("future")));
	assert_int_equal(object_decode(slice_of(again, (size_t)len), &back), 0);
	assert_int_equal(back.size, 1);
}

static void test_every_cut_of_an_object_is_refused_or_shorter(void **state)
{
	struct object o = sample(), back;
	uint8_t buf[1024];
	int64_t len = object_encode(&o, buf, sizeof(buf));
	int sound = 0;

	(void)state;
	for (int64_t cut = 0; cut < len; cut++) {
		uint8_t *exact = malloc((size_t)cut + 1);
		memcpy(exact, buf, (size_t)cut);
		sound += object_decode(slice_of(exact, (size_t)cut), &back) == 0;
		free(exact);
	}
	assert_true(sound < 20); /* only where an element ends */
	for (size_t cap = 0; cap < (size_t)len; cap++)
		assert_int_equal(object_encode(&o, buf + 512, cap > 512 ? 512 : cap), -GRANARY_ETOOBIG);
}

static int decode_one(uint16_t tag, const void *p, size_t len, int times)
{
	uint8_t buf[8192];
	struct wr w = wr_of(buf, sizeof(buf));
	struct object o;

	value_begin(&w);
	while (times-- > 0)
		tlv_put(&w, tag, slice_of(p, len));
	return object_decode(slice_of(buf, wr_len(&w)), &o);
}

static void test_wrong_lengths_repeats_and_formats_are_refused(void **state)
{
	static const uint8_t zeros[4096] = { 0 };
	static const uint8_t meta_bad[] = { 9, 0, 'k' };
	struct object o;
	uint8_t extent[40] = { 0 };

	(void)state;
	assert_int_equal(decode_one(TAG_ID, zeros, 8, 1), 0);
	assert_int_equal(decode_one(TAG_ID, zeros, 8, 2), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_ID, zeros, 7, 1), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_MODE, zeros, 8, 1), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_HASH, zeros, 15, 1), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_HAS_LINKS, "\2", 1, 1), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_NAME, zeros, KEY_LEN_MAX + 1, 1), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_META, meta_bad, sizeof(meta_bad), 1), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_EXTENT, extent, 31, 1), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_EXTENT, extent, 34, 1), -GRANARY_ECORRUPT);
	assert_int_equal(decode_one(TAG_EXTENT, extent, 32, 4), 0);
	assert_int_equal(decode_one(TAG_EXTENT, extent, 32, 5), -GRANARY_ECORRUPT); /* a fifth */
	assert_int_equal(decode_one(TAG_EXTENT, extent, 40, 1), -GRANARY_ECORRUPT); /* two crcs for nothing */
	extent[24] = 1;
	assert_int_equal(decode_one(TAG_EXTENT, extent, 32, 1), -GRANARY_ECORRUPT); /* a byte without its crc */
	assert_int_equal(decode_one(TAG_EXTENT, extent, 36, 1), 0);
	assert_int_equal(decode_one(TAG_EXTENT, extent, 36, 2), -GRANARY_ECORRUPT); /* overlap */
	extent[28] = EXTENT_HOLE;
	assert_int_equal(decode_one(TAG_EXTENT, extent, 32, 1), 0);
	memset(extent + 16, 0xff, 8);
	extent[24] = 2;
	assert_int_equal(decode_one(TAG_EXTENT, extent, 32, 1), -GRANARY_ECORRUPT); /* past the end of numbers */
	assert_int_equal(object_decode(slice_of("", 0), &o), -GRANARY_ECORRUPT);
	assert_int_equal(object_decode(slice_of("\2", 1), &o), -GRANARY_ECORRUPT);
}

static void test_user_metadata_is_checked(void **state)
{
	static const uint8_t good[] = { 1, 0, 'a', 0, 0, 1, 0, 'b', 1, 0, 'c' };
	static const uint8_t no_name[] = { 0, 0, 1, 0, 'c' };
	uint8_t big[ROW_META_LEN_MAX + 1] = { 0 };

	(void)state;
	assert_int_equal(meta_check(slice_of(good, 0)), 0);
	assert_int_equal(meta_check(slice_of(good, sizeof(good))), 0);
	assert_int_equal(meta_check(slice_of(good, sizeof(good) - 1)), -GRANARY_EINVAL);
	assert_int_equal(meta_check(slice_of(good, 3)), -GRANARY_EINVAL);
	assert_int_equal(meta_check(slice_of(no_name, sizeof(no_name))), -GRANARY_EINVAL);
	assert_int_equal(meta_check(slice_of(big, sizeof(big))), -GRANARY_ETOOBIG);
}

static void test_keys_are_as_the_format_says(void **state)
{
	uint8_t b[ROW_KEY_MAX], name_max[KEY_LEN_MAX];
	struct slice k, name;
	uint64_t dir;
	bool is_dir;

	(void)state;
	k = row_entry(b, 0x0102030405060708, slice_str("n"), true);
	assert_int_equal(k.len, 11);
	assert_memory_equal(k.p, "d\1\2\3\4\5\6\7\10n/", 11);
	assert_true(row_entry_parse(k, &dir, &name, &is_dir));
	assert_true(dir == 0x0102030405060708 && is_dir && slice_eq(name, slice_str("n")));
	k = row_entry(b, 1, slice_str(""), false);
	assert_true(row_entry_parse(k, &dir, &name, &is_dir) && !is_dir && name.len == 0);
	k = row_entry(b, 1, slice_str(""), true); /* a directory of empty name: "//" in a key */
	assert_true(row_entry_parse(k, &dir, &name, &is_dir) && is_dir && name.len == 0);
	assert_false(row_entry_parse(slice_of(b, 8), &dir, &name, &is_dir));
	assert_false(row_entry_parse(row_inode(b, 1), &dir, &name, &is_dir));
	memset(name_max, 'n', sizeof(name_max));
	assert_int_equal(row_link(b, 1, 2, slice_of(name_max, sizeof(name_max))).len, 17 + KEY_LEN_MAX);
	assert_memory_equal(row_extent(b, 1, 2, 3).p, "x\0\0\0\0\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0\3", 21);
	assert_memory_equal(row_reference(b, 1, 16, 3, 4).p, "y\0\0\0\0\0\0\0\1\0\0\0\2", 13);
	assert_int_equal(row_reference(b, 1, 16, 3, 4).len, 29);
	assert_memory_equal(row_deletion(b, 1, 2, 3).p, "g\0\0\0\0\0\0\0\1\2\0\0\0\0\0\0\0\3", 18);
	assert_memory_equal(row_store(b, "clock").p, "Mclock", 6);
}

static void test_values_are_set_in_place(void **state)
{
	uint8_t a[128], b[128];
	uint64_t v;
	int64_t len = value_set_u64(slice_of(NULL, 0), 64, 5, a, sizeof(a));

	(void)state;
	assert_int_equal(len, 15);
	len = value_set_u64(slice_of(a, (size_t)len), 65, 6, b, sizeof(b));
	len = value_set_u64(slice_of(b, (size_t)len), 64, 7, a, sizeof(a));
	assert_int_equal(len, 29);
	assert_true(value_u64(slice_of(a, (size_t)len), 64, 0, &v) && v == 7);
	assert_true(value_u64(slice_of(a, (size_t)len), 65, 0, &v) && v == 6);
	assert_true(value_u64(slice_of(a, (size_t)len), 66, 42, &v) && v == 42);
	assert_false(value_u64(slice_of(a, (size_t)len - 1), 66, 42, &v));
	assert_int_equal(value_set_u64(slice_of(a, (size_t)len - 1), 65, 1, b, sizeof(b)), -GRANARY_ECORRUPT);
	assert_int_equal(value_set_u64(slice_of(a, (size_t)len), 99, 1, b, 30), -GRANARY_ETOOBIG);
}

static void test_pack_row_keeps_what_it_does_not_know(void **state)
{
	struct pack_row p = { .order = 1, .committed_end = 2, .live_bytes = 3, .total_bytes = 4, .group = 5, .pins = 6,
		.file_size = 7, .records = 8, .live_records = 9, .created = 10, .state = PACK_SEALED }, back;
	uint8_t a[512], b[512];
	struct wr w = wr_of(a, sizeof(a));
	struct slice v;
	int64_t len = pack_row_encode(&p, slice_of(NULL, 0), a, sizeof(a));

	(void)state;
	wr_room(&w, (size_t)len);
	tlv_put(&w, 200, slice_str("later"));
	assert_int_equal(pack_row_decode(slice_of(a, wr_len(&w)), &back), 0);
	assert_true(back.state == PACK_SEALED && back.created == 10 && back.live_records == 9 && back.file_size == 7);
	len = pack_row_encode(&back, slice_of(a, wr_len(&w)), b, sizeof(b));
	assert_int_equal(len, wr_len(&w));
	assert_true(value_bytes(slice_of(b, (size_t)len), 200, &v));
	a[7] = 9; /* state */
	assert_int_equal(pack_row_decode(slice_of(a, wr_len(&w)), &back), -GRANARY_ECORRUPT);
}

static void test_extent_row_comes_back(void **state)
{
	struct object o = sample();
	struct extent back;
	uint8_t buf[128];
	int64_t len = extent_row_encode(&o.extents[1], buf, sizeof(buf));

	(void)state;
	assert_int_equal(extent_row_decode(slice_of(buf, (size_t)len), &back), 0);
	assert_true(back.pack == 2 && back.length == 70000 && back.crc_count == 2);
	assert_int_equal(extent_row_decode(slice_of(buf, (size_t)len - 1), &back), -GRANARY_ECORRUPT);
	assert_int_equal(extent_row_encode(&o.extents[1], buf, 20), -GRANARY_ETOOBIG);
}

static void test_decoding_takes_little_time(void **state)
{
	struct object o = sample(), back;
	uint8_t buf[1024];
	int64_t len = object_encode(&o, buf, sizeof(buf));
	uint64_t start = clock_mono_ns();

	(void)state;
	for (int i = 0; i < 200000; i++)
		assert_int_equal(object_decode(slice_of(buf, (size_t)len), &back), 0);
	printf("object_decode: %d ns\n", (int)((clock_mono_ns() - start) / 200000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_object_comes_back_as_it_went_in),
		cmocka_unit_test(test_attributes_of_a_filesystem_come_back_as_they_went_in),
		cmocka_unit_test(test_directory_comes_back_as_it_went_in),
		cmocka_unit_test(test_unknown_tags_survive_a_rewrite),
		cmocka_unit_test(test_every_cut_of_an_object_is_refused_or_shorter),
		cmocka_unit_test(test_wrong_lengths_repeats_and_formats_are_refused),
		cmocka_unit_test(test_user_metadata_is_checked),
		cmocka_unit_test(test_keys_are_as_the_format_says),
		cmocka_unit_test(test_values_are_set_in_place),
		cmocka_unit_test(test_pack_row_keeps_what_it_does_not_know),
		cmocka_unit_test(test_extent_row_comes_back),
		cmocka_unit_test(test_decoding_takes_little_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
