/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the three files of a snapshot give back what went in, in every shape, and nothing else passes as one of them.
 * Method: docs/FORMAT.md 8, clause by clause; random rows, names and manifests against plain arrays of them; every byte
 * damaged in turn, and damaged again with the checksums made right. */
#include "common/snap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/rand.h"

enum { HEADER = 64 };

struct file { uint8_t *p; size_t len; struct hash128 hash; };

static uint32_t u32_at(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint64_t u64_at(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static void u32_to(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }

/* Makes both checksums right again after a change. */
static void reseal(uint8_t *p, size_t len)
{
	u32_to(p + 36, crc32c(0, p + HEADER, len - HEADER));
	u32_to(p + 60, crc32c(0, p, 60));
}

/* The same bytes in a block of exactly their size, so that a sanitizer sees a read past the end. */
static uint8_t *exact(const uint8_t *p, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, p, len);
	return copy;
}

/* ---- crc32c_combine ---- */

static void test_combine_equals_the_direct_checksum(void **state)
{
	enum { SIZE = 200 * 1024 };
	uint8_t *data = malloc(SIZE);
	struct rng r;

	(void)state;
	rng_seed(&r, 1);
	for (size_t i = 0; i < SIZE; i++)
		data[i] = (uint8_t)rng_next(&r);
	for (size_t i = 0; i < 3000; i++) {
		size_t total = rng_below(&r, i % 3 ? 300 : SIZE + 1);
		size_t cut = rng_below(&r, total + 1);
		uint32_t a = crc32c(0, data, cut), b = crc32c(0, data + cut, total - cut);
		assert_int_equal(crc32c_combine(a, b, total - cut), crc32c(0, data, total));
	}
	free(data);
}

static void test_combine_of_lengths_no_memory_holds(void **state)
{
	const uint8_t zeros[100] = { 0 };
	struct rng r;

	(void)state;
	assert_int_equal(crc32c_combine(UINT32_MAX, UINT32_MAX, sizeof(zeros)), crc32c(0, zeros, sizeof(zeros)));
	rng_seed(&r, 2);
	for (int i = 0; i < 1000; i++) { /* A(BC) == (AB)C */
		uint32_t a = (uint32_t)rng_next(&r), b = (uint32_t)rng_next(&r), c = (uint32_t)rng_next(&r);
		uint64_t len_b = rng_next(&r) >> (1 + rng_below(&r, 60));
		uint64_t len_c = rng_next(&r) >> (1 + rng_below(&r, 60));
		assert_int_equal(crc32c_combine(crc32c_combine(a, b, len_b), c, len_c),
				 crc32c_combine(a, crc32c_combine(b, c, len_c), len_b + len_c));
	}
}

/* ---- data pages ---- */

struct model_row { struct snap_extent e[8]; uint32_t count; uint8_t flags; };

static void model_random(struct rng *r, struct model_row *m)
{
	uint64_t shape = rng_below(r, 10);

	*m = (struct model_row){ .count = shape == 0 ? 0 : shape < 8 ? 1 : 2 + (uint32_t)rng_below(r, 7) };
	m->flags = (uint8_t)((rng_below(r, 4) == 0 ? SNAP_ROW_PART : 0) |
			     (rng_below(r, 4) == 0 ? SNAP_ROW_UNSUMMED : 0));
	for (uint32_t i = 0; i < m->count; i++) {
		m->e[i].pack = rng_below(r, 3) ? 77 : rng_below(r, 40); /* 0: a hole */
		m->e[i].offset = (uint32_t)rng_next(r);
		m->e[i].length = (uint32_t)rng_below(r, UINT64_C(1) + (UINT32_MAX - m->e[i].offset));
		m->e[i].crc = rng_below(r, 4) ? (uint32_t)rng_next(r) : 0;
		m->e[i].unsummed = (m->flags & SNAP_ROW_UNSUMMED) != 0 && m->e[i].crc == 0;
	}
}

static struct file page_of(const struct model_row *rows, uint32_t samples, uint32_t fields)
{
	struct snap_page_builder *b = snap_page_builder_new(77, fields);
	struct file f;

	for (uint32_t i = 0; i < samples * fields; i++)
		assert_int_equal(snap_page_add(b, rows[i].e, rows[i].count, rows[i].flags), 0);
	assert_int_equal(snap_page_builder_samples(b), samples);
	assert_int_equal(snap_page_finish(b, &f.p, &f.len, &f.hash), 0);
	snap_page_builder_free(&b);
	assert_null(b);
	return f;
}

static void page_compare(const struct snap_page *p, uint64_t i, const struct model_row *m)
{
	struct snap_extent e;
	struct snap_row row;
	uint64_t size = 0;

	assert_int_equal(snap_page_row(p, i, &row), 0);
	assert_int_equal(row.extent_count, m->count);
	assert_int_equal(row.flags & (SNAP_ROW_PART | SNAP_ROW_UNSUMMED), m->flags);
	assert_int_equal(!!(row.flags & SNAP_ROW_EMPTY), m->count == 0);
	assert_int_equal(!!(row.flags & SNAP_ROW_EXTENTS), m->count > 1);
	for (uint32_t k = 0; k < m->count; k++) {
		assert_int_equal(snap_page_extent(p, &row, k, &e), 0);
		assert_true(e.pack == m->e[k].pack && e.offset == m->e[k].offset && e.length == m->e[k].length &&
			    e.crc == m->e[k].crc && e.unsummed == m->e[k].unsummed);
		assert_true(k > 0 || (row.first.pack == e.pack && row.first.offset == e.offset));
		size += e.length;
	}
	assert_true(row.size == size);
	assert_int_equal(snap_page_extent(p, &row, m->count, &e), -GRANARY_ERANGE);
}

static void test_format_8_3_rows_come_back(void **state)
{
	static const uint32_t samples[] = { 0, 1, 2, 15, 16, 17, 255, 1000 }, fields[] = { 1, 2, 3, 63, 64 };
	struct model_row *rows = calloc((size_t)1000 * 64, sizeof(*rows));
	struct rng r;

	(void)state;
	rng_seed(&r, 3);
	for (size_t i = 0; i < 40; i++) {
		uint32_t n = samples[i % 8], k = fields[i / 8];
		struct snap_page page;
		struct file f, again;

		for (uint32_t j = 0; j < n * k; j++)
			model_random(&r, &rows[j]);
		f = page_of(rows, n, k);
		again = page_of(rows, n, k);
		assert_true(f.len == again.len && memcmp(f.p, again.p, f.len) == 0 && f.hash.lo == again.hash.lo);
		assert_int_equal(snap_page_parse(f.p, f.len, &page), 0);
		assert_true(page.pack == 77 && page.fields == k && page.samples == n);
		for (uint32_t j = 0; j < n * k; j++)
			page_compare(&page, j, &rows[j]);
		free(f.p);
		free(again.p);
	}
	free(rows);
}

static struct file page_example(void)
{
	const struct model_row rows[4] = {
		{ .e = { { 77, 4096, 100, 0xaabbccdd, false } }, .count = 1 },
		{ .count = 0 },
		{ .e = { { 5, 8, 9, 10, false }, { 77, 11, 12, 13, false } }, .count = 2, .flags = SNAP_ROW_PART },
		{ .e = { { 0, 0, 4, 0x48674bc7, false } }, .count = 1 },
	};
	return page_of(rows, 2, 2);
}

static void test_format_8_3_bytes(void **state)
{
	struct file f = page_example();
	const uint8_t *rows = f.p + HEADER + 3 * 8, *extents = rows + 4 * 16;

	(void)state;
	assert_int_equal(f.len, HEADER + 3 * 8 + 4 * 16 + 2 * 16);
	assert_memory_equal(f.p, "GRNPAGE\0", 8);
	assert_int_equal(u32_at(f.p + 8), 1);
	assert_true(u32_at(f.p + 20) == 2 && u32_at(f.p + 24) == 2 && u32_at(f.p + 28) == 3 && u32_at(f.p + 32) == 2);
	assert_int_equal(u32_at(f.p + 36), crc32c(0, f.p + HEADER, f.len - HEADER));
	assert_true(u64_at(f.p + 40) == 77);
	assert_int_equal(u32_at(f.p + 60), crc32c(0, f.p, 60));
	assert_true(u64_at(f.p + 64) == 77 && u64_at(f.p + 72) == 5 && u64_at(f.p + 80) == 0);
	assert_true(u32_at(rows) == 4096 && u32_at(rows + 4) == 100 && u32_at(rows + 8) == 0xaabbccdd &&
		    u32_at(rows + 12) == 0);
	assert_true(u64_at(rows + 16) == 0 && u32_at(rows + 24) == 0 && u32_at(rows + 28) == SNAP_ROW_EMPTY);
	assert_true(u32_at(rows + 32) == 0 && u32_at(rows + 36) == 2 && u32_at(rows + 40) == 0);
	assert_int_equal(u32_at(rows + 44), SNAP_ROW_EXTENTS | SNAP_ROW_PART);
	assert_int_equal(u32_at(rows + 60), 2 << 8);
	assert_true(u32_at(extents) == 1 && u32_at(extents + 4) == 8 && u32_at(extents + 8) == 9 &&
		    u32_at(extents + 12) == 10 && u32_at(extents + 16) == 0);
	free(f.p);
}

static void test_format_8_3_builder_refuses(void **state)
{
	struct snap_page_builder *b = snap_page_builder_new(1, 2);
	const struct snap_extent good = { 1, 0, 1, 2, false },
		passes[] = { { 1, 0, 1, 2, false }, { 1, UINT32_MAX, 2, 0, false } };
	struct file f;

	(void)state;
	assert_int_equal(snap_page_add(b, passes, 2, 0), -GRANARY_EINVAL);
	assert_int_equal(snap_page_add(b, &good, 1, SNAP_ROW_EMPTY), -GRANARY_EINVAL);
	assert_int_equal(snap_page_add(b, &good, 1, SNAP_ROW_EXTENTS), -GRANARY_EINVAL);
	assert_int_equal(snap_page_add(b, NULL, 0, SNAP_ROW_EXTENTS), -GRANARY_EINVAL);
	assert_int_equal(snap_page_add(b, NULL, 0, 0x80), -GRANARY_EINVAL);
	assert_int_equal(snap_page_add(b, &good, 1, 0), 0);
	assert_int_equal(snap_page_finish(b, &f.p, &f.len, &f.hash), -GRANARY_EINVAL); /* one field of two */
	assert_int_equal(snap_page_add(b, NULL, 0, SNAP_ROW_EMPTY), 0);
	assert_int_equal(snap_page_finish(b, &f.p, &f.len, &f.hash), 0);
	free(f.p);
	snap_page_builder_free(&b);
}

/* Reads all of a page; 0 or the first error. */
static int page_walk(const uint8_t *p, size_t len)
{
	struct snap_page page;
	struct snap_extent e;
	struct snap_row row;
	int err = snap_page_parse(p, len, &page);

	for (uint64_t i = 0; err == 0 && i < (uint64_t)page.samples * page.fields; i++) {
		err = snap_page_row(&page, i, &row);
		for (uint32_t k = 0; err == 0 && k < row.extent_count; k++)
			err = snap_page_extent(&page, &row, k, &e);
	}
	return err;
}

static void test_format_8_3_refuses_damaged_rows(void **state)
{
	static const struct { size_t at; uint32_t value; } cases[] = {
		{ 20, 0 }, { 20, 65 }, { 20, 1 }, { 24, 3 }, { 24, 1u << 31 }, { 28, 2 }, { 28, 1u << 25 }, { 32, 1 },
		{ 48, 1 },               /* reserved */
		{ 88 + 12, 3 << 8 },     /* a pack past the list */
		{ 88 + 12, 16 },         /* an unknown flag */
		{ 88 + 4, UINT32_MAX },  /* passes 4 GiB */
		{ 88 + 16, 1 }, { 88 + 20, 1 }, { 88 + 24, 1 }, { 88 + 28, SNAP_ROW_EMPTY | 1 << 8 }, { 88 + 28, 3 },
		{ 88 + 32, 1 }, { 88 + 36, 3 }, { 88 + 36, 1 }, { 88 + 36, 0 }, { 88 + 40, 1 }, { 88 + 44, 2 | 1 << 8 },
		{ 152, 3 }, { 152 + 20, UINT32_MAX },
	};
	struct file f = page_example();

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *p = exact(f.p, f.len);

		u32_to(p + cases[i].at, cases[i].value);
		reseal(p, f.len);
		assert_int_equal(page_walk(p, f.len), -GRANARY_ECORRUPT);
		free(p);
	}
	free(f.p);
}

/* ---- names pages ---- */

static struct snap_name name_of(uint32_t i, char text[64])
{
	int n = snprintf(text, 64, "train/class-%03u/%06u.%s", i / 997, i * 7, i % 2 ? "jpg" : "cls");

	return (struct snap_name){ slice_of(text, (size_t)n), 1000 + i / 1500, i % 1500, i % 64 };
}

static struct file names_of(uint32_t count)
{
	struct snap_names_builder *b = snap_names_builder_new();
	struct snap_name n;
	struct file f;
	char text[64];

	for (uint32_t i = 0; i < count; i++) {
		n = name_of(i, text);
		assert_int_equal(snap_names_add(b, &n), 0);
	}
	n = (struct snap_name){ .key = slice_str("zz"), .pack = 3 };
	size_t size = snap_names_builder_size(b);
	assert_int_equal(snap_names_finish(b, &f.p, &f.len, &f.hash), 0);
	assert_int_equal(f.len, size);
	assert_int_equal(snap_names_builder_size(b), HEADER); /* empty again */
	assert_int_equal(snap_names_add(b, &n), 0);
	snap_names_builder_free(&b);
	return f;
}

/* seek(key) gives name `want` next, or the end when want is count. */
static void names_expect(const struct snap_names *p, const char *key, uint32_t want, uint32_t count)
{
	struct snap_names_iter it;
	struct snap_name got, m;
	char text[64];

	snap_names_seek(p, slice_str(key), &it);
	assert_int_equal(snap_names_next(&it, &got), want < count);
	assert_int_equal(it.err, 0);
	if (want == count)
		return;
	m = name_of(want, text);
	assert_true(slice_eq(got.key, m.key) && got.pack == m.pack && got.slot == m.slot && got.field == m.field);
}

static void test_format_8_4_every_key_is_found(void **state)
{
	static const uint32_t counts[] = { 0, 1, 2, 15, 16, 17, 32, 33, 1000, 100000 };
	char text[80];

	(void)state;
	for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
		uint32_t count = counts[c];
		struct file f = names_of(count);
		struct snap_names page;

		assert_int_equal(snap_names_parse(f.p, f.len, &page), 0);
		assert_int_equal(page.count, count);
		names_expect(&page, "", 0, count);
		names_expect(&page, "a", 0, count);
		names_expect(&page, "train/class-999/", count, count);
		names_expect(&page, "\xff", count, count);
		for (uint32_t i = 0; i < count; i++) {
			struct snap_name n = name_of(i, text);

			names_expect(&page, text, i, count);
			text[n.key.len] = '!'; /* above it, below the next */
			text[n.key.len + 1] = 0;
			names_expect(&page, text, i + 1, count);
			text[n.key.len - 1] = 0; /* below it, above the one before */
			names_expect(&page, text, i, count);
		}
		free(f.p);
	}
}

static void test_format_8_4_walk_gives_all_in_order(void **state)
{
	enum { COUNT = 5000 };
	struct file f = names_of(COUNT);
	struct snap_names_iter it;
	struct snap_names page;
	struct snap_name got, want;
	char text[64];

	(void)state;
	assert_int_equal(snap_names_parse(f.p, f.len, &page), 0);
	for (uint32_t start = 0; start < COUNT; start += 611) {
		want = name_of(start, text);
		snap_names_seek(&page, want.key, &it);
		for (uint32_t i = start; i < COUNT; i++) {
			want = name_of(i, text);
			assert_true(snap_names_next(&it, &got));
			assert_true(slice_eq(got.key, want.key) && got.slot == want.slot);
		}
		assert_false(snap_names_next(&it, &got));
		assert_int_equal(it.err, 0);
	}
	free(f.p);
}

static void test_format_8_4_longest_keys_and_refusals(void **state)
{
	struct snap_names_builder *b = snap_names_builder_new();
	uint8_t key[SNAP_KEY_MAX + 1];
	struct snap_name n = { slice_of(key, SNAP_KEY_MAX), UINT64_MAX, UINT32_MAX, 63 }, got;
	struct snap_names_iter it;
	struct snap_names page;
	struct file f;

	(void)state;
	memset(key, 'k', sizeof(key));
	n.key.len = SNAP_KEY_MAX + 1;
	assert_int_equal(snap_names_add(b, &n), -GRANARY_EINVAL);
	n.key.len = 0;
	assert_int_equal(snap_names_add(b, &n), -GRANARY_EINVAL);
	for (n.key.len = SNAP_KEY_MAX - 40; n.key.len <= SNAP_KEY_MAX; n.key.len++)
		assert_int_equal(snap_names_add(b, &n), 0);
	n.key.len = SNAP_KEY_MAX;
	assert_int_equal(snap_names_add(b, &n), -GRANARY_EINVAL); /* the same again */
	key[0] = 'j';
	assert_int_equal(snap_names_add(b, &n), -GRANARY_EINVAL); /* below */
	key[0] = 'l';
	n.field = 64;
	assert_int_equal(snap_names_add(b, &n), -GRANARY_EINVAL);
	key[0] = 'k';
	assert_int_equal(snap_names_finish(b, &f.p, &f.len, &f.hash), 0);
	assert_int_equal(snap_names_parse(f.p, f.len, &page), 0);
	snap_names_seek(&page, slice_of(key, SNAP_KEY_MAX), &it);
	assert_true(snap_names_next(&it, &got));
	assert_true(got.key.len == SNAP_KEY_MAX && got.pack == UINT64_MAX && got.slot == UINT32_MAX && got.field == 63);
	assert_false(snap_names_next(&it, &got));
	free(f.p);
	snap_names_builder_free(&b);
}

static void test_format_8_4_bytes(void **state)
{
	struct snap_names_builder *b = snap_names_builder_new();
	const struct snap_name names[2] = { { slice_str("a/bc"), 9, 300, 1 }, { slice_str("a/bd"), 9, 0, 0 } };
	static const uint8_t entries[] = { 0, 4, 0, 0xac, 2, 1, 'a', '/', 'b', 'c', 3, 1, 0, 0, 0, 'd' };
	struct file f;

	(void)state;
	assert_int_equal(snap_names_add(b, &names[0]), 0);
	assert_int_equal(snap_names_add(b, &names[1]), 0);
	assert_int_equal(snap_names_finish(b, &f.p, &f.len, &f.hash), 0);
	assert_int_equal(f.len, HEADER + 8 + sizeof(entries) + 4);
	assert_memory_equal(f.p, "GRNNAME\0", 8);
	assert_true(u32_at(f.p + 20) == 2 && u32_at(f.p + 24) == 1 && u32_at(f.p + 28) == 1);
	assert_int_equal(u32_at(f.p + 32), sizeof(entries));
	assert_true(u64_at(f.p + 64) == 9);
	assert_memory_equal(f.p + 72, entries, sizeof(entries));
	assert_int_equal(u32_at(f.p + 72 + sizeof(entries)), 0);
	free(f.p);
	snap_names_builder_free(&b);
}

/* Reads all of a names page, each key twice; 0 or the first error. Whatever the bytes are, keys ascend. */
static int names_walk(const uint8_t *p, size_t len)
{
	uint8_t last[SNAP_KEY_MAX];
	size_t last_len = 0;
	struct snap_names_iter it, second;
	struct snap_names page;
	struct snap_name n, m;
	int err = snap_names_parse(p, len, &page);

	if (err < 0)
		return err;
	for (snap_names_seek(&page, slice_str(""), &it); snap_names_next(&it, &n);) {
		int order = memcmp(last, n.key.p, last_len < n.key.len ? last_len : n.key.len);

		assert_true(order < 0 || (order == 0 && last_len < n.key.len));
		memcpy(last, n.key.p, n.key.len);
		last_len = n.key.len;
		snap_names_seek(&page, n.key, &second);
		if (snap_names_next(&second, &m))
			assert_true(m.key.len > 0);
	}
	return it.err;
}

static void test_format_8_4_refuses_damaged_entries(void **state)
{
	static const struct { size_t at; uint8_t value; } cases[] = {
		{ 20, 3 }, { 20, 17 }, { 24, 0 }, { 28, 0 }, { 28, 2 }, { 32, 15 }, { 40, 1 }, { 48, 1 },
		{ 72, 1 },      /* a restart shares nothing */
		{ 73, 0 },      /* an empty key */
		{ 73, 200 },    /* a length that is cut short */
		{ 74, 1 },      /* a pack past the list */
		{ 76, 0 },      /* a varint that is not the shortest */
		{ 77, 64 },     /* a field past K */
		{ 81, 'd' },    /* the next key is not above this one */
		{ 82, 5 },      /* shares more than there is */
		{ 83, 0 }, { 83, 2 }, { 88, 1 },
	};
	struct snap_names_builder *b = snap_names_builder_new();
	const struct snap_name names[2] = { { slice_str("a/bc"), 9, 300, 1 }, { slice_str("a/bd"), 9, 0, 0 } };
	struct file f;

	(void)state;
	assert_int_equal(snap_names_add(b, &names[0]), 0);
	assert_int_equal(snap_names_add(b, &names[1]), 0);
	assert_int_equal(snap_names_finish(b, &f.p, &f.len, &f.hash), 0);
	assert_int_equal(names_walk(f.p, f.len), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *p = exact(f.p, f.len);

		p[cases[i].at] = cases[i].value;
		reseal(p, f.len);
		if (names_walk(p, f.len) != -GRANARY_ECORRUPT)
			fail_msg("byte %zu = %u passed", cases[i].at, cases[i].value);
		free(p);
	}
	free(f.p);
	snap_names_builder_free(&b);
}

/* ---- manifests ---- */

struct manifest_model {
	struct snap_manifest m;
	struct snap_page_ref pages[40];
	struct snap_names_ref names[40];
	char first[40][16];
};

static void manifest_fill(struct manifest_model *x, struct rng *r, uint32_t fields, uint32_t pages, uint32_t names)
{
	static const uint8_t suffixes[64 * 4] = { 3, 'j', 'p', 'g', 3, 'c', 'l', 's' };

	*x = (struct manifest_model){ .m = { .fields = fields, .directories = rng_next(r), .incomplete = rng_next(r),
		.created_ns = rng_next(r), .mode = (uint8_t)rng_next(r), .block = rng_next(r), .window = rng_next(r),
		.lanes = (uint32_t)rng_next(r), .smallest = 5, .largest = UINT64_MAX - rng_below(r, 100),
		.prefix = slice_str("train/"), .options = slice_str("group=basename\n"), .page_count = pages,
		.names_count = names, .field_names = slice_of(suffixes, fields == 2 ? 8 : 0) } };
	x->m.has_identity = rng_below(r, 3) == 0;
	if (x->m.has_identity)
		x->m.identity = (struct hash128){ rng_next(r), rng_next(r) };
	x->m.pages = x->pages;
	x->m.names = x->names;
	for (uint32_t i = 0; i < pages; i++) {
		x->pages[i] = (struct snap_page_ref){ { rng_next(r), rng_next(r) }, rng_next(r), rng_next(r) >> 8,
						      (uint32_t)rng_next(r), (uint32_t)rng_next(r) };
		x->m.samples += x->pages[i].samples;
		x->m.bytes += x->pages[i].bytes;
		x->m.histogram[rng_below(r, SNAP_HISTOGRAM)] += x->pages[i].samples;
	}
	for (uint32_t i = 0; i < names; i++) {
		int n = snprintf(x->first[i], sizeof(x->first[i]), "train/%u", 1000 + i);

		x->names[i] = (struct snap_names_ref){ { rng_next(r), rng_next(r) }, 1 + (uint32_t)rng_below(r, 9),
						       (uint32_t)rng_next(r), slice_of(x->first[i], (size_t)n) };
	}
}

static struct file manifest_file(const struct snap_manifest *m)
{
	struct file f;

	assert_int_equal(snap_manifest_encode(m, &f.p, &f.len, &f.hash), 0);
	return f;
}

static void manifest_compare(const struct snap_manifest *a, const struct snap_manifest *b)
{
	assert_true(a->fields == b->fields && a->samples == b->samples && a->bytes == b->bytes);
	assert_true(a->directories == b->directories && a->incomplete == b->incomplete && a->mode == b->mode);
	assert_true(a->created_ns == b->created_ns && a->block == b->block && a->window == b->window);
	assert_true(a->lanes == b->lanes && a->smallest == b->smallest && a->largest == b->largest);
	assert_memory_equal(a->histogram, b->histogram, sizeof(a->histogram));
	assert_true(slice_eq(a->prefix, b->prefix) && slice_eq(a->options, b->options));
	assert_true(slice_eq(a->field_names, b->field_names) && a->has_identity == b->has_identity);
	assert_true(!a->has_identity || (a->identity.lo == b->identity.lo && a->identity.hi == b->identity.hi));
	assert_true(a->page_count == b->page_count && a->names_count == b->names_count);
	for (uint32_t i = 0; i < a->page_count; i++)
		assert_memory_equal(&a->pages[i], &b->pages[i], sizeof(a->pages[i]));
	for (uint32_t i = 0; i < a->names_count; i++) {
		const struct snap_names_ref *x = &a->names[i], *y = &b->names[i];

		assert_true(slice_eq(x->first, y->first) && x->hash.lo == y->hash.lo && x->hash.hi == y->hash.hi);
		assert_true(x->entries == y->entries && x->size == y->size);
	}
}

static void test_format_8_5_manifests_come_back(void **state)
{
	struct manifest_model x;
	struct rng r;

	(void)state;
	rng_seed(&r, 5);
	for (uint32_t i = 0; i < 200; i++) {
		struct snap_manifest back;
		struct hash128 direct;
		struct file f;

		manifest_fill(&x, &r, 1 + i % 2, i % 41, i % 37);
		f = manifest_file(&x.m);
		direct = hash_content(f.p, f.len);
		assert_true(direct.lo == f.hash.lo && direct.hi == f.hash.hi);
		assert_int_equal(snap_manifest_decode(f.p, f.len, &back), 0);
		manifest_compare(&back, &x.m);
		snap_manifest_release(&back);
		snap_manifest_release(&back);
		free(f.p);
	}
}

static void test_format_8_5_encoder_refuses(void **state)
{
	struct manifest_model x, good;
	struct rng r;
	struct file f;
	char big[SNAP_OPTIONS_MAX + 1] = { 0 };

	(void)state;
	rng_seed(&r, 6);
	manifest_fill(&good, &r, 2, 3, 3);
#define REFUSED(change) do { \
		x = good; \
		x.m.pages = x.pages; \
		x.m.names = x.names; \
		change; \
		assert_int_equal(snap_manifest_encode(&x.m, &f.p, &f.len, &f.hash), -GRANARY_EINVAL); \
	} while (0)
	REFUSED(x.m.fields = 0);
	REFUSED(x.m.fields = 65);
	REFUSED(x.m.fields = 1);
	REFUSED(x.m.fields = 3);
	REFUSED(x.m.samples++);
	REFUSED(x.m.bytes--);
	REFUSED(x.m.histogram[4]++);
	REFUSED(x.m.smallest = UINT64_MAX);
	REFUSED(x.pages[0].bytes = UINT64_MAX);
	REFUSED(x.m.page_count = SNAP_PAGES_MAX + 1);
	REFUSED(x.names[1].first = x.names[0].first);
	REFUSED(x.names[2].first = slice_str("a"));
	REFUSED(x.names[0].first.len = 0);
	REFUSED(x.names[0].entries = 0);
	REFUSED(x.m.options = slice_of(big, SNAP_OPTIONS_MAX + 1));
	REFUSED(x.m.prefix = slice_of(big, SNAP_PREFIX_MAX + 1));
#undef REFUSED
}

static int manifest_walk(const uint8_t *p, size_t len)
{
	struct snap_manifest m;
	int err = snap_manifest_decode(p, len, &m);

	if (err == 0)
		snap_manifest_release(&m);
	return err;
}

/* ---- every byte of every kind ---- */

struct kind { struct file f; int (*walk)(const uint8_t *p, size_t len); };

static void kinds_make(struct kind k[3])
{
	struct manifest_model x;
	struct rng r;

	rng_seed(&r, 7);
	manifest_fill(&x, &r, 2, 3, 2);
	k[0] = (struct kind){ page_example(), page_walk };
	k[1] = (struct kind){ names_of(40), names_walk };
	k[2] = (struct kind){ manifest_file(&x.m), manifest_walk };
}

static void test_format_8_2_any_changed_byte_is_found(void **state)
{
	struct kind k[3];

	(void)state;
	kinds_make(k);
	for (int i = 0; i < 3; i++) {
		uint8_t *p = exact(k[i].f.p, k[i].f.len);

		assert_int_equal(k[i].walk(p, k[i].f.len), 0);
		for (size_t at = 0; at < k[i].f.len; at++) {
			for (unsigned change = 1; change < 256; change = change * 2 + 1) {
				p[at] ^= (uint8_t)change;
				assert_int_equal(k[i].walk(p, k[i].f.len),
						 at >= 8 && at < 12 ? -GRANARY_EVERSION : -GRANARY_ECORRUPT);
				p[at] ^= (uint8_t)change;
			}
		}
		free(p);
		free(k[i].f.p);
	}
}

static void test_format_8_2_any_changed_byte_under_right_checksums_is_found_or_harmless(void **state)
{
	struct kind k[3];

	(void)state;
	kinds_make(k);
	for (int i = 0; i < 3; i++) {
		for (size_t at = 0; at < k[i].f.len; at++) {
			for (unsigned change = 1; change < 256; change++) {
				uint8_t *p = exact(k[i].f.p, k[i].f.len);
				int err;

				p[at] ^= (uint8_t)change;
				reseal(p, k[i].f.len);
				err = k[i].walk(p, k[i].f.len);
				assert_true(err == 0 || err == -GRANARY_ECORRUPT || err == -GRANARY_EVERSION);
				free(p);
			}
		}
		free(k[i].f.p);
	}
}

static void test_format_8_2_any_other_length_is_refused(void **state)
{
	struct kind k[3];

	(void)state;
	kinds_make(k);
	for (int i = 0; i < 3; i++) {
		for (size_t len = 0; len <= k[i].f.len + 20; len++) {
			uint8_t *p = calloc(1, len ? len : 1);

			memcpy(p, k[i].f.p, len < k[i].f.len ? len : k[i].f.len);
			if (len != k[i].f.len) {
				assert_int_equal(k[i].walk(p, len), -GRANARY_ECORRUPT);
				if (len >= HEADER) {
					reseal(p, len);
					assert_int_equal(k[i].walk(p, len), -GRANARY_ECORRUPT);
				}
			}
			free(p);
		}
		free(k[i].f.p);
	}
}

static void test_format_8_2_versions_features_and_kinds(void **state)
{
	struct kind k[3];

	(void)state;
	kinds_make(k);
	for (int i = 0; i < 3; i++) {
		uint8_t *p = k[i].f.p;
		size_t len = k[i].f.len;

		assert_int_equal(k[(i + 1) % 3].walk(p, len), -GRANARY_ECORRUPT);
		u32_to(p + 16, 1); /* features_compat: ignored */
		reseal(p, len);
		assert_int_equal(k[i].walk(p, len), 0);
		u32_to(p + 12, 2); /* features_incompat: refused when not known */
		reseal(p, len);
		assert_int_equal(k[i].walk(p, len), -GRANARY_EVERSION);
		u32_to(p + 8, 2); /* another version: whatever follows */
		assert_int_equal(k[i].walk(p, len), -GRANARY_EVERSION);
	}
	for (int i = 0; i < 3; i++)
		free(k[i].f.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_combine_equals_the_direct_checksum),
		cmocka_unit_test(test_combine_of_lengths_no_memory_holds),
		cmocka_unit_test(test_format_8_3_rows_come_back),
		cmocka_unit_test(test_format_8_3_bytes),
		cmocka_unit_test(test_format_8_3_builder_refuses),
		cmocka_unit_test(test_format_8_3_refuses_damaged_rows),
		cmocka_unit_test(test_format_8_4_every_key_is_found),
		cmocka_unit_test(test_format_8_4_walk_gives_all_in_order),
		cmocka_unit_test(test_format_8_4_longest_keys_and_refusals),
		cmocka_unit_test(test_format_8_4_bytes),
		cmocka_unit_test(test_format_8_4_refuses_damaged_entries),
		cmocka_unit_test(test_format_8_5_manifests_come_back),
		cmocka_unit_test(test_format_8_5_encoder_refuses),
		cmocka_unit_test(test_format_8_2_any_changed_byte_is_found),
		cmocka_unit_test(test_format_8_2_any_changed_byte_under_right_checksums_is_found_or_harmless),
		cmocka_unit_test(test_format_8_2_any_other_length_is_refused),
		cmocka_unit_test(test_format_8_2_versions_features_and_kinds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
