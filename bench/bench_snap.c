/* SPDX-License-Identifier: Apache-2.0 */
/* bench_snap.c -- how much of a snapshot's table a new version shares with the one before.
 *
 *   bench_snap delta ROWS SAMPLE_BYTES
 *
 * Makes the pages of two versions of a dataset of ROWS files straight through the code that the server makes them with
 * (common/snap_*.c): directories of 1,000 files, imported in the order of their names, which are arbitrary; packs of
 * 256 MiB. In the second version one directory in 1,000 is gone, anywhere, and one in 100 was added behind the others,
 * with names anywhere among them; rows of the first are where they were, as its pins keep compaction away. Prints one
 * JSON object: bytes of the second version's table (data pages, names pages, manifest), and of those that the first
 * one does not have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/rand.h"
#include "common/snap.h"
#include "common/snap_cut.h"

enum {
	DIR_FILES = 1000,
	ADDED = 100,              /* one directory in so many */
	REMOVED = 1000,
	PACK_BYTES = 256 << 20,
	PACK_BEGIN = 4096,
	RECORD_HEADER = 168,      /* of a record with a key of 30 bytes */
	NAME_SIZE = 64,
};

struct dir {
	uint64_t name;
	uint32_t number;          /* in order of arrival */
	uint32_t removed;
	uint64_t row;             /* its first, in order of arrival */
};
struct place { uint32_t pack, slot; }; /* of a directory's first row; its rows may go on in the next pack */
struct table {
	struct hash128 *hashes;
	uint64_t *sizes;
	uint32_t count, cap;
	uint64_t data, names, manifest;
	struct snap_page_ref *pages;
	struct snap_names_ref *refs;
	uint32_t page_count, ref_count;
};
struct world {
	struct dir *dirs;         /* in order of arrival */
	uint32_t first_count, count;
	uint64_t sample, rows_a_pack;
	uint32_t *starts;         /* of the version at hand: by arrival, slot of the first row */
};

static void die(const char *what)
{
	fprintf(stderr, "bench_snap: %s\n", what);
	exit(1);
}

static void *must(void *p)
{
	if (!p) die("out of memory");
	return p;
}

static void table_add(struct table *t, struct hash128 hash, uint64_t size)
{
	if (t->count == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 4096;
		t->hashes = must(realloc(t->hashes, t->cap * sizeof *t->hashes));
		t->sizes = must(realloc(t->sizes, t->cap * sizeof *t->sizes));
	}
	t->hashes[t->count] = hash;
	t->sizes[t->count++] = size;
}

/* ---- data pages ---- */

static void page_end(struct table *t, struct snap_page_builder **page, uint64_t pack, uint64_t sample)
{
	struct snap_page_ref ref = { .pack = pack };
	uint8_t *bytes;
	size_t len;

	ref.samples = snap_page_builder_samples(*page);
	ref.bytes = ref.samples * sample;
	if (ref.samples > 0) {
		if (snap_page_finish(*page, &bytes, &len, &ref.hash) < 0) die("a page");
		free(bytes);
		ref.size = (uint32_t)len;
		t->data += len;
		table_add(t, ref.hash, len);
		t->pages = must(realloc(t->pages, (t->page_count + 1) * sizeof *t->pages));
		t->pages[t->page_count++] = ref;
	}
	snap_page_builder_free(page);
}

/* Rows in the order of arrival; `starts` gets where each directory begins. */
static void pages_make(struct world *w, struct table *t, uint32_t dirs, int version)
{
	struct snap_page_builder *page = NULL;
	uint64_t pack = 0;

	for (uint32_t d = 0; d < dirs; d++) {
		if (version == 2 && w->dirs[d].removed) continue;
		for (uint32_t i = 0; i < DIR_FILES; i++) {
			uint64_t row = w->dirs[d].row + i;
			struct snap_extent e = { 1 + row / w->rows_a_pack,
				(uint32_t)(PACK_BEGIN + row % w->rows_a_pack * (w->sample + RECORD_HEADER)),
				(uint32_t)w->sample, (uint32_t)hash_u64(row + 1), false };
			if (!page || e.pack != pack) {
				if (page) page_end(t, &page, pack, w->sample);
				pack = e.pack;
				page = must(snap_page_builder_new(pack, 1));
			}
			if (i == 0) w->starts[d] = snap_page_builder_samples(page);
			if (snap_page_add(page, &e, 1, 0) < 0) die("a row");
		}
	}
	if (page) page_end(t, &page, pack, w->sample);
}

/* ---- names pages ---- */

static int by_name(const void *a, const void *b)
{
	const struct dir *const *x = a, *const *y = b;
	return (*x)->name < (*y)->name ? -1 : (*x)->name > (*y)->name;
}

static int by_name_plain(const void *a, const void *b)
{
	const struct dir *x = a, *y = b;
	return x->name < y->name ? -1 : x->name > y->name;
}

static void names_end(struct table *t, struct snap_names_builder *b, struct snap_names_ref *ref)
{
	uint8_t *bytes;
	size_t len;

	if (ref->entries == 0) return;
	if (snap_names_finish(b, &bytes, &len, &ref->hash) < 0) die("a names page");
	free(bytes);
	ref->size = (uint32_t)len;
	t->names += len;
	table_add(t, ref->hash, len);
	t->refs = must(realloc(t->refs, (t->ref_count + 1) * sizeof *t->refs));
	t->refs[t->ref_count++] = *ref;
	*ref = (struct snap_names_ref){ 0 };
}

static void dir_names(struct world *w, struct table *t, const struct dir *d, struct snap_names_builder *b,
	struct snap_cut *cut, struct snap_names_ref *ref)
{
	uint64_t pack = 1 + d->row / w->rows_a_pack;
	uint32_t slot = w->starts[d->number];

	for (uint32_t i = 0; i < DIR_FILES; i++, slot++) {
		char key[NAME_SIZE];
		int n = snprintf(key, sizeof key, "train/%08llx/%08llx_%u.jpg", (unsigned long long)d->name,
			(unsigned long long)d->name, 10000 + i);
		struct snap_name name = { .key = slice_of(key, (size_t)n), .pack = 1 + (d->row + i) / w->rows_a_pack };
		if (name.pack != pack) slot = 0;
		pack = name.pack;
		name.slot = slot;
		if (ref->entries > 0 && snap_cut_before(cut, name.key, snap_names_builder_size(b)))
			names_end(t, b, ref);
		if (ref->entries++ == 0)
			ref->first = slice_of(memcpy(must(malloc((size_t)n)), key, (size_t)n), (size_t)n);
		snap_cut_pass(cut, name.key, snap_names_builder_size(b));
		if (snap_names_add(b, &name) < 0) die("a name");
	}
}

static void names_make(struct world *w, struct table *t, uint32_t dirs, int version)
{
	const struct dir **order = must(calloc(dirs, sizeof *order));
	struct snap_names_builder *b = must(snap_names_builder_new());
	struct snap_cut cut = { .dir_len = 0 };
	struct snap_names_ref ref = { .entries = 0 };

	for (uint32_t d = 0; d < dirs; d++) order[d] = &w->dirs[d];
	qsort(order, dirs, sizeof(struct dir *), by_name);
	for (uint32_t d = 0; d < dirs; d++)
		if (version == 1 || !order[d]->removed) dir_names(w, t, order[d], b, &cut, &ref);
	names_end(t, b, &ref);
	snap_names_builder_free(&b);
	free(order);
}

/* ---- a version ---- */

static void manifest_make(const struct world *w, struct table *t)
{
	struct snap_manifest m = { .fields = 1, .page_count = t->page_count, .names_count = t->ref_count,
		.pages = t->pages, .names = t->refs, .smallest = w->sample, .largest = w->sample, .mode = 2,
		.block = 64, .window = 1, .lanes = 1, .prefix = slice_str("train/") };
	struct hash128 hash;
	uint8_t *bytes;
	size_t len;

	for (uint32_t i = 0; i < t->page_count; i++) m.samples += t->pages[i].samples;
	m.bytes = m.samples * w->sample;
	m.histogram[63 - __builtin_clzll(w->sample)] = m.samples;
	if (snap_manifest_encode(&m, &bytes, &len, &hash) < 0) die("a manifest");
	free(bytes);
	t->manifest = len;
}

static void version_make(struct world *w, struct table *t, int version)
{
	uint32_t dirs = version == 1 ? w->first_count : w->count;

	pages_make(w, t, dirs, version);
	names_make(w, t, dirs, version);
	manifest_make(w, t);
}

static void world_make(struct world *w, uint64_t rows)
{
	struct rng r;

	w->first_count = (uint32_t)(rows / DIR_FILES);
	w->count = w->first_count + w->first_count / ADDED;
	w->rows_a_pack = (PACK_BYTES - PACK_BEGIN) / (w->sample + RECORD_HEADER);
	w->dirs = must(calloc(w->count, sizeof *w->dirs));
	w->starts = must(calloc(w->count, sizeof *w->starts));
	rng_seed(&r, 7);
	for (uint32_t d = 0; d < w->count; d++) /* a bijection of 32 bits: names differ */
		w->dirs[d].name = (uint32_t)((d + 1) * UINT32_C(2654435761));
	qsort(w->dirs, w->first_count, sizeof *w->dirs, by_name_plain);
	for (uint32_t d = 0; d < w->count; d++) {
		w->dirs[d].number = d;
		w->dirs[d].row = (uint64_t)d * DIR_FILES;
	}
	for (uint32_t gone = 0; gone < w->first_count / REMOVED;) {
		struct dir *d = &w->dirs[rng_below(&r, w->first_count)];
		gone += !d->removed;
		d->removed = 1;
	}
}

static int by_hash(const void *a, const void *b)
{
	const struct hash128 *x = a, *y = b;
	return x->hi != y->hi ? (x->hi < y->hi ? -1 : 1) : x->lo < y->lo ? -1 : x->lo > y->lo;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
	struct world w = { .dirs = NULL };
	struct table one = { .hashes = NULL }, two = { .hashes = NULL };
	uint64_t data = 0, names = 0;
	double start = now();

	if (argc != 4 || strcmp(argv[1], "delta") != 0) {
		fprintf(stderr, "usage: bench_snap delta ROWS SAMPLE_BYTES\n");
		return 2;
	}
	w.sample = strtoull(argv[3], NULL, 10);
	world_make(&w, strtoull(argv[2], NULL, 10));
	version_make(&w, &one, 1);
	version_make(&w, &two, 2);
	qsort(one.hashes, one.count, sizeof *one.hashes, by_hash);
	for (uint32_t i = 0; i < two.count; i++) {
		if (bsearch(&two.hashes[i], one.hashes, one.count, sizeof *one.hashes, by_hash)) continue;
		*(i < two.page_count ? &data : &names) += two.sizes[i];
	}
	printf("{\"table\": %llu, \"fetched\": %llu, \"pages\": %u, \"names_pages\": %u, \"data\": %llu, "
	       "\"data_new\": %llu, \"names\": %llu, \"names_new\": %llu, \"manifest\": %llu, \"seconds\": %.1f}\n",
		(unsigned long long)(two.data + two.names + two.manifest),
		(unsigned long long)(data + names + two.manifest), two.page_count, two.ref_count,
		(unsigned long long)two.data, (unsigned long long)data, (unsigned long long)two.names,
		(unsigned long long)names, (unsigned long long)two.manifest, now() - start);
	return 0;
}
