/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: tools/granary-fsck, written from the text of docs/FORMAT.md 8, reads the files of snapshots as the library.
 * Method: files of every kind, good, damaged, and damaged under right checksums; both print what they hold, and the
 * prints are equal. With a folder as argument the files are written there and kept (seeds for tests/fuzz/corpus). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/rand.h"
#include "common/snap.h"

enum { HEADER = 64, FILES_GOOD = 6, FILES_DAMAGED = 150, PATH_SIZE = 256 };

struct file { uint8_t *p; size_t len; };

/* ---- files ---- */

static struct file page_make(struct rng *r)
{
	uint32_t fields = 1 + (uint32_t)rng_below(r, 3), samples = (uint32_t)rng_below(r, 12);
	struct snap_page_builder *b = snap_page_builder_new(7, fields);
	struct snap_extent e[4];
	struct hash128 hash;
	struct file f;

	for (uint32_t i = 0; i < samples * fields; i++) {
		uint32_t count = rng_below(r, 3) ? 1 : (uint32_t)rng_below(r, 5);

		for (uint32_t k = 0; k < count; k++)
			e[k] = (struct snap_extent){ rng_below(r, 2) ? 7 : rng_next(r) % 4, (uint32_t)rng_next(r) >> 1,
						     (uint32_t)rng_next(r) >> 1,
						     rng_below(r, 3) ? (uint32_t)rng_next(r) : 0,
						     false };
		assert_int_equal(snap_page_add(b, e, count, (uint8_t)(rng_below(r, 4) << 2)), 0);
	}
	assert_int_equal(snap_page_finish(b, &f.p, &f.len, &hash), 0);
	snap_page_builder_free(&b);
	return f;
}

static struct file names_make(struct rng *r)
{
	struct snap_names_builder *b = snap_names_builder_new();
	uint32_t count = (uint32_t)rng_below(r, 70);
	struct hash128 hash;
	struct file f;
	char key[64];

	for (uint32_t i = 0; i < count; i++) {
		int n = snprintf(key, sizeof(key), "d\\\xc3\xa9/%04u %u", i * 3, (unsigned)rng_below(r, 1000));
		struct snap_name name = { slice_of(key, (size_t)n), rng_next(r) % 5,
					  (uint32_t)rng_next(r) >> rng_below(r, 32), (uint32_t)rng_below(r, 64) };

		assert_int_equal(snap_names_add(b, &name), 0);
	}
	assert_int_equal(snap_names_finish(b, &f.p, &f.len, &hash), 0);
	snap_names_builder_free(&b);
	return f;
}

static struct file manifest_make(struct rng *r)
{
	static const char *const first[] = { "a/0", "a/0 1", "b\\/\x01" };
	struct snap_page_ref pages[5];
	struct snap_names_ref names[3];
	struct snap_manifest m = { .fields = 1 + (uint32_t)rng_below(r, 2), .directories = rng_next(r), .incomplete = 3,
		.created_ns = rng_next(r), .mode = 2, .block = 262144, .window = rng_next(r), .lanes = 8, .smallest = 1,
		.largest = rng_next(r) | 1, .prefix = slice_str("train/\n"), .options = slice_str("group=basename\n"),
		.page_count = (uint32_t)rng_below(r, 6), .names_count = (uint32_t)rng_below(r, 4), .pages = pages,
		.names = names };
	struct hash128 hash;
	struct file f;

	m.has_identity = rng_below(r, 2) == 1;
	m.identity = (struct hash128){ rng_next(r), 7 };
	m.field_names = m.fields == 2 ? slice_of("\3jpg\3cls", 8) : slice_of(NULL, 0);
	for (uint32_t i = 0; i < m.page_count; i++) {
		pages[i] = (struct snap_page_ref){ { rng_next(r), rng_next(r) }, rng_next(r), rng_next(r) >> 9,
						   i + 3, 99 };
		m.samples += pages[i].samples;
		m.bytes += pages[i].bytes;
	}
	m.histogram[rng_below(r, SNAP_HISTOGRAM)] = m.samples;
	for (uint32_t i = 0; i < m.names_count; i++)
		names[i] = (struct snap_names_ref){ { rng_next(r), i }, i + 1, (uint32_t)rng_next(r),
						    slice_str(first[i]) };
	assert_int_equal(snap_manifest_encode(&m, &f.p, &f.len, &hash), 0);
	return f;
}

/* ---- what they hold, as granary-fsck prints it ---- */

static void text_print(FILE *out, struct slice s)
{
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] > ' ' && s.p[i] < 0x7f && s.p[i] != '\\')
			fputc(s.p[i], out);
		else
			fprintf(out, "\\x%02x", s.p[i]);
	}
}

static int page_rows_print(FILE *out, const struct snap_page *p)
{
	struct snap_row row;
	struct snap_extent e;

	for (uint64_t i = 0; i < (uint64_t)p->samples * p->fields; i++) {
		int err = snap_page_row(p, i, &row);

		if (err < 0)
			return err;
		fprintf(out, "%llu.%llu flags=%u size=%llu", (unsigned long long)(i / p->fields),
			(unsigned long long)(i % p->fields), row.flags, (unsigned long long)row.size);
		for (uint32_t k = 0; k < row.extent_count; k++) {
			err = snap_page_extent(p, &row, k, &e);
			if (err < 0)
				return err;
			fprintf(out, " %016llx:%u+%u:%08x", (unsigned long long)e.pack, e.offset, e.length, e.crc);
		}
		fputc('\n', out);
	}
	return 0;
}

static int page_print(FILE *out, const uint8_t *bytes, size_t len)
{
	struct snap_page p;
	int err = snap_page_parse(bytes, len, &p);

	if (err < 0)
		return err;
	fprintf(out, "page pack=%016llx fields=%u samples=%u packs=%u extents=%u\n", (unsigned long long)p.pack,
		p.fields, p.samples, p.pack_count, p.extent_count);
	return page_rows_print(out, &p);
}

static int names_print(FILE *out, const uint8_t *bytes, size_t len)
{
	struct snap_names p;
	struct snap_names_iter it;
	struct snap_name n;
	int err = snap_names_parse(bytes, len, &p);

	if (err < 0)
		return err;
	fprintf(out, "names entries=%u packs=%u restarts=%u\n", p.count, p.pack_count, p.restarts);
	for (snap_names_seek(&p, slice_of(NULL, 0), &it); snap_names_next(&it, &n);) {
		text_print(out, n.key);
		fprintf(out, " pack=%016llx slot=%u field=%u\n", (unsigned long long)n.pack, n.slot, n.field);
	}
	return it.err;
}

static void manifest_numbers_print(FILE *out, const struct snap_manifest *m)
{
	const struct { const char *name; uint64_t value; } numbers[] = {
		{ "samples", m->samples }, { "bytes", m->bytes }, { "directories", m->directories },
		{ "incomplete", m->incomplete }, { "created", m->created_ns }, { "smallest", m->smallest },
		{ "largest", m->largest }, { "block", m->block }, { "window", m->window }, { "lanes", m->lanes },
		{ "mode", m->mode },
	};

	fprintf(out, "manifest fields=%u pages=%u names=%u\n", m->fields, m->page_count, m->names_count);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		fprintf(out, "%s %llu\n", numbers[i].name, (unsigned long long)numbers[i].value);
	for (unsigned i = 0; i < SNAP_HISTOGRAM; i++)
		if (m->histogram[i] != 0)
			fprintf(out, "histogram %u %llu\n", i, (unsigned long long)m->histogram[i]);
}

static void manifest_texts_print(FILE *out, const struct snap_manifest *m)
{
	struct cur c = cur_of(m->field_names.p, m->field_names.len);

	fputs("prefix ", out);
	text_print(out, m->prefix);
	fputs("\noptions ", out);
	text_print(out, m->options);
	while (!cur_done(&c)) {
		fputs("\nfield ", out);
		text_print(out, cur_bytes(&c, cur_u8(&c)));
	}
	if (m->has_identity)
		fprintf(out, "\nidentity %016llx%016llx", (unsigned long long)m->identity.hi,
			(unsigned long long)m->identity.lo);
	fputc('\n', out);
}

static int manifest_print(FILE *out, const uint8_t *bytes, size_t len)
{
	struct snap_manifest m;
	int err = snap_manifest_decode(bytes, len, &m);

	if (err < 0)
		return err;
	manifest_numbers_print(out, &m);
	for (uint32_t i = 0; i < m.page_count; i++)
		fprintf(out, "page %016llx%016llx pack=%016llx bytes=%llu samples=%u size=%u\n",
			(unsigned long long)m.pages[i].hash.hi, (unsigned long long)m.pages[i].hash.lo,
			(unsigned long long)m.pages[i].pack, (unsigned long long)m.pages[i].bytes, m.pages[i].samples,
			m.pages[i].size);
	for (uint32_t i = 0; i < m.names_count; i++) {
		fprintf(out, "names %016llx%016llx entries=%u size=%u first=", (unsigned long long)m.names[i].hash.hi,
			(unsigned long long)m.names[i].hash.lo, m.names[i].entries, m.names[i].size);
		text_print(out, m.names[i].first);
		fputc('\n', out);
	}
	manifest_texts_print(out, &m);
	snap_manifest_release(&m);
	return 0;
}

/* ---- both over the same files ---- */

static const struct kind {
	const char *name;
	struct file (*make)(struct rng *r);
	int (*print)(FILE *out, const uint8_t *bytes, size_t len);
} kinds[] = {
	{ "page", page_make, page_print },
	{ "names", names_make, names_print },
	{ "manifest", manifest_make, manifest_print },
};

static char folder[PATH_SIZE];

static void file_path(char path[2 * PATH_SIZE], const struct kind *k, unsigned i)
{
	snprintf(path, 2 * PATH_SIZE, "%s/%s.%03u", folder, k->name, i);
}

static void file_write(const struct kind *k, unsigned i, const struct file *f)
{
	char path[2 * PATH_SIZE];
	FILE *out;

	file_path(path, k, i);
	out = fopen(path, "wb");
	assert_non_null(out);
	assert_int_equal(fwrite(f->p, 1, f->len, out), f->len);
	assert_int_equal(fclose(out), 0);
}

/* Changes up to three bytes, or the length; two of three times the checksums are made right again. */
static void file_damage(struct file *f, struct rng *r)
{
	uint64_t bytes = 1 + rng_below(r, 3);
	uint32_t crc;

	if (rng_below(r, 12) == 0)
		f->len = rng_below(r, f->len);
	for (uint64_t i = 0; i < bytes && f->len > 0; i++)
		f->p[rng_below(r, f->len)] ^= (uint8_t)(1u << rng_below(r, 8));
	if (f->len < HEADER || rng_below(r, 3) == 0)
		return;
	crc = crc32c(0, f->p + HEADER, f->len - HEADER);
	memcpy(f->p + 36, &crc, 4);
	crc = crc32c(0, f->p, 60);
	memcpy(f->p + 60, &crc, 4);
}

/* What the C reader says of a file: all of it, or one word. */
static void file_expect(const struct kind *k, const struct file *f, FILE *out)
{
	char *text = NULL;
	size_t len = 0;
	FILE *memory = open_memstream(&text, &len);
	int err;

	assert_non_null(memory);
	err = k->print(memory, f->p, f->len);
	assert_int_equal(fclose(memory), 0);
	if (err == 0)
		fwrite(text, 1, len, out);
	else
		fputs(err == -GRANARY_EVERSION ? "unsupported\n" : "damaged\n", out);
	free(text);
}

static void fsck_compare(const struct kind *k, FILE *expected)
{
	const char *source = getenv("GRANARY_SRC");
	char command[3 * PATH_SIZE], want[4096], got[4096];
	unsigned line = 0;
	FILE *fsck;

	snprintf(command, sizeof(command), "python3 %s/tools/granary-fsck %s %s/%s.??? 2>/dev/null",
		 source ? source : ".", k->name, folder, k->name);
	fsck = popen(command, "r");
	assert_non_null(fsck);
	rewind(expected);
	while (fgets(want, sizeof(want), expected)) {
		line++;
		if (!fgets(got, sizeof(got), fsck))
			fail_msg("%s line %u: granary-fsck ends, wanted %s", k->name, line, want);
		if (strcmp(want, got) != 0)
			fail_msg("%s line %u: granary-fsck says %s instead of %s", k->name, line, got, want);
	}
	assert_null(fgets(got, sizeof(got), fsck));
	pclose(fsck);
	assert_true(line > FILES_GOOD + FILES_DAMAGED);
}

static void kind_run(const struct kind *k)
{
	FILE *expected = tmpfile();
	struct rng r;

	assert_non_null(expected);
	rng_seed(&r, 11);
	for (unsigned i = 0; i < FILES_GOOD + FILES_DAMAGED; i++) {
		struct file f = k->make(&r);
		char path[2 * PATH_SIZE];

		if (i >= FILES_GOOD)
			file_damage(&f, &r);
		file_write(k, i, &f);
		file_path(path, k, i);
		fprintf(expected, "%s:\n", path);
		file_expect(k, &f, expected);
		free(f.p);
	}
	fsck_compare(k, expected);
	fclose(expected);
}

static void test_fsck_reads_pages_as_the_library_does(void **state) { (void)state; kind_run(&kinds[0]); }
static void test_fsck_reads_names_as_the_library_does(void **state) { (void)state; kind_run(&kinds[1]); }
static void test_fsck_reads_manifests_as_the_library_does(void **state) { (void)state; kind_run(&kinds[2]); }

static int folder_remove(void **state)
{
	char path[2 * PATH_SIZE];

	(void)state;
	for (unsigned k = 0; k < 3; k++) {
		for (unsigned i = 0; i < FILES_GOOD + FILES_DAMAGED; i++) {
			file_path(path, &kinds[k], i);
			unlink(path);
		}
	}
	return rmdir(folder);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fsck_reads_pages_as_the_library_does),
		cmocka_unit_test(test_fsck_reads_names_as_the_library_does),
		cmocka_unit_test(test_fsck_reads_manifests_as_the_library_does),
	};

	snprintf(folder, sizeof(folder), "%s", argc > 1 ? argv[1] : "/tmp/granary-snap-XXXXXX");
	if (argc > 1)
		return cmocka_run_group_tests(tests, NULL, NULL);
	if (mkdtemp(folder) == NULL)
		return 1;
	return cmocka_run_group_tests(tests, NULL, folder_remove);
}
