/* SPDX-License-Identifier: Apache-2.0 */
/* spool.c -- see spool.h.
 * Invariants: (1) a spool's bytes are file[0..written) and then buffer[0..fill); (2) a sorter's
 * runs stand back to back in its spool, each ascending, and the last run, if it fits, stays in
 * memory; rows that come sorted are never compared twice. */
#include "jobs/spool.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "io/fs.h"
#include "jobs/aside.h"

enum {
	WINDOW = 256 * 1024,
	WINDOW_MIN = 16 * 1024,
	RUN_BUFFERS = 32 * 1024 * 1024,
	MEMORY_MIN = 4096,
	FEW_ROWS = 16 /* sorted by insertion */
};

struct spool {
	struct spool_options o;
	struct fs_file *file;
	uint64_t written;
	uint8_t *buffer;
	size_t fill, cap;
	uint8_t *window; /* of reads */
	uint64_t window_at;
	size_t window_len;
};

struct spool *spool_new(const struct spool_options *o)
{
	struct spool *s = calloc(1, sizeof(*s));

	if (s == NULL) return NULL;
	s->o = *o;
	if (s->o.memory < MEMORY_MIN) s->o.memory = MEMORY_MIN;
	return s;
}

void spool_free(struct spool **sp)
{
	struct spool *s = *sp;

	*sp = NULL;
	if (s == NULL) return;
	if (s->file != NULL) fs_close(&s->file);
	free(s->buffer);
	free(s->window);
	free(s);
}

uint64_t spool_size(const struct spool *s)
{
	return s->written + s->fill;
}

/* Its name is gone before anything is written; one that an earlier process left is taken over. */
static int file_make(struct spool *s)
{
	static _Atomic uint32_t number;
	char path[32];
	int err;

	snprintf(path, sizeof(path), "spool-%u", atomic_fetch_add(&number, 1));
	err = fs_open(s->o.fs, path, FS_CREATE_NEW, &s->file);
	if (err == -GRANARY_EEXIST) {
		err = fs_unlink(s->o.fs, path);
		if (err == 0) err = fs_open(s->o.fs, path, FS_CREATE_NEW, &s->file);
	}
	return err < 0 ? err : fs_unlink(s->o.fs, path);
}

static int spill(struct spool *s)
{
	int err = s->o.room != NULL ? s->o.room(s->o.arg, s->fill) : 0;

	if (err == 0 && s->file == NULL) err = file_make(s);
	if (err == 0) err = fs_write(s->file, s->buffer, s->fill, s->written);
	if (err < 0) return err;
	s->written += s->fill;
	s->fill = 0;
	return 0;
}

static int buffer_grow(struct spool *s, size_t want)
{
	size_t cap = s->cap ? s->cap : MEMORY_MIN;
	uint8_t *wide;

	while (cap < want && cap < s->o.memory) cap *= 2;
	if (cap > s->o.memory) cap = s->o.memory;
	if (cap <= s->cap) return 0;
	wide = realloc(s->buffer, cap);
	if (wide == NULL) return -GRANARY_ENOMEM;
	s->buffer = wide;
	s->cap = cap;
	return 0;
}

int spool_append(struct spool *s, const void *p, size_t len)
{
	const uint8_t *from = p;

	while (len > 0) {
		int err = s->fill + len > s->cap ? buffer_grow(s, s->fill + len) : 0;
		size_t n;

		if (err == 0 && s->fill == s->cap) err = spill(s);
		if (err < 0) return err;
		n = len < s->cap - s->fill ? len : s->cap - s->fill;
		memcpy(s->buffer + s->fill, from, n);
		s->fill += n;
		from += n;
		len -= n;
	}
	return 0;
}

static int window_fill(struct spool *s, uint64_t at)
{
	size_t len = s->written - at < WINDOW ? (size_t)(s->written - at) : WINDOW;
	int64_t n;

	if (s->window == NULL) s->window = malloc(WINDOW);
	if (s->window == NULL) return -GRANARY_ENOMEM;
	n = fs_read(s->file, s->window, len, at);
	s->window_at = at;
	s->window_len = n < 0 ? 0 : (size_t)n;
	if (n < 0) return (int)n;
	return (size_t)n == len ? 0 : -GRANARY_EIO;
}

int spool_read(struct spool *s, uint64_t at, void *to, size_t len)
{
	uint8_t *out = to;

	if (at > spool_size(s) || len > spool_size(s) - at) return -GRANARY_EIO;
	while (len > 0 && at < s->written) {
		size_t n;

		if (at < s->window_at || at >= s->window_at + s->window_len) {
			int err = window_fill(s, at);

			if (err < 0) return err;
		}
		n = s->window_len - (size_t)(at - s->window_at);
		n = len < n ? len : n;
		memcpy(out, s->window + (at - s->window_at), n);
		out += n;
		at += n;
		len -= n;
	}
	if (len > 0) memcpy(out, s->buffer + (at - s->written), len);
	return 0;
}

/* ---- sorting ---- */

struct run {                   /* of rows still to be given */
	uint64_t at, end;      /* in the spool */
	struct sort_row *rows; /* buffered */
	uint32_t next, count, cap;
};

struct sorter {
	struct spool_options o;
	struct spool *spool;
	struct sort_row *rows; /* the run being filled */
	uint32_t count, cap, rows_max;
	uint8_t sorted; /* rows[] is ascending so far */
	struct sort_row *full; /* the run before, being spilled; two take turns */
	uint32_t full_count, full_cap;
	uint8_t full_sorted;
	struct sort_row *merge; /* half a run */
	struct run *runs;
	uint32_t run_count, run_cap;
	uint32_t *heap, heap_count; /* indices of runs, the smallest head first */
};

static int row_compare(const void *a, const void *b)
{
	const struct sort_row *x = a, *y = b;

	if (x->key[0] != y->key[0]) return x->key[0] < y->key[0] ? -1 : 1;
	if (x->key[1] != y->key[1]) return x->key[1] < y->key[1] ? -1 : 1;
	return x->value[1] < y->value[1] ? -1 : x->value[1] > y->value[1];
}

struct sorter *sorter_new(const struct spool_options *o)
{
	struct sorter *s = calloc(1, sizeof(*s));

	if (s == NULL) return NULL;
	s->o = *o;
	s->sorted = 1;
	s->rows_max = (uint32_t)(o->memory / 5 * 2 / sizeof(struct sort_row)); /* two runs and a half */
	if (s->rows_max < 16) s->rows_max = 16;
	return s;
}

void sorter_free(struct sorter **sp)
{
	struct sorter *s = *sp;

	*sp = NULL;
	if (s == NULL) return;
	if (s->o.aside != NULL && s->full != NULL) (void)aside_wait(s->o.aside);
	for (uint32_t i = 0; i < s->run_count; i++)
		if (s->runs[i].rows != s->rows) free(s->runs[i].rows);
	free(s->runs);
	free(s->rows);
	free(s->full);
	free(s->merge);
	free(s->heap);
	spool_free(&s->spool);
	free(s);
}

static int run_add(struct sorter *s, const struct run *run)
{
	if (s->run_count == s->run_cap) {
		uint32_t cap = s->run_cap ? 2 * s->run_cap : 16;
		struct run *wide = realloc(s->runs, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		s->runs = wide;
		s->run_cap = cap;
	}
	s->runs[s->run_count++] = *run;
	return 0;
}

/* The first of rows[from..to) that is above `row`. */
static uint32_t rows_above(const struct sort_row *rows, uint32_t from, uint32_t to, const struct sort_row *row)
{
	while (from < to) {
		uint32_t middle = from + (to - from) / 2;

		if (row_compare(&rows[middle], row) > 0)
			to = middle;
		else
			from = middle + 1;
	}
	return from;
}

/* Two ascending halves become one. What arrives is nearly in order, so halves overlap little: only
 * from the first row of the left that the right one's first is below, and up to the last of the
 * right that is below the left one's last. */
static void rows_merge(struct sort_row *rows, uint32_t middle, uint32_t count, struct sort_row *room)
{
	uint32_t left = rows_above(rows, 0, middle, &rows[middle]), right = middle, to = left;
	uint32_t end, taken = 0, kept = middle - left;

	if (kept == 0) return;
	end = rows_above(rows, middle, count, &rows[middle - 1]);
	memcpy(room, &rows[left], kept * sizeof(*rows));
	while (taken < kept && right < end)
		rows[to++] = row_compare(&room[taken], &rows[right]) <= 0 ? room[taken++] : rows[right++];
	memcpy(&rows[to], &room[taken], (kept - taken) * sizeof(*rows));
}

static void rows_sort(struct sort_row *rows, uint32_t count, struct sort_row *room)
{
	uint32_t middle = count / 2;

	if (count > FEW_ROWS) {
		rows_sort(rows, middle, room);
		rows_sort(rows + middle, count - middle, room);
		rows_merge(rows, middle, count, room);
		return;
	}
	for (uint32_t i = 1; i < count; i++) {
		struct sort_row row = rows[i];
		uint32_t to = i;

		for (; to > 0 && row_compare(&rows[to - 1], &row) > 0; to--) rows[to] = rows[to - 1];
		rows[to] = row;
	}
}

static int run_sort(struct sorter *s, struct sort_row *rows, uint32_t count, bool sorted)
{
	if (sorted) return 0;
	if (s->merge == NULL) s->merge = malloc((s->rows_max / 2 + 1) * sizeof(*s->merge));
	if (s->merge == NULL) return -GRANARY_ENOMEM;
	rows_sort(rows, count, s->merge);
	return 0;
}

/* Aside: the sorter's spool, runs and `full` are its own until it is done. */
static int run_spill(void *arg)
{
	struct sorter *s = arg;
	struct spool_options o = s->o;
	struct run run;
	int err = run_sort(s, s->full, s->full_count, s->full_sorted);

	o.memory = WINDOW;
	if (s->spool == NULL) s->spool = spool_new(&o);
	if (err < 0 || s->spool == NULL) return -GRANARY_ENOMEM;
	run = (struct run){ .at = spool_size(s->spool) };
	err = spool_append(s->spool, s->full, s->full_count * sizeof(*s->full));
	run.end = spool_size(s->spool);
	return err < 0 ? err : run_add(s, &run);
}

static int run_full(struct sorter *s)
{
	struct sort_row *rows = s->rows;
	uint32_t cap = s->cap;
	int err = s->o.aside != NULL ? aside_wait(s->o.aside) : 0;

	if (err < 0) return err;
	s->rows = s->full;
	s->cap = s->full_cap;
	s->full = rows;
	s->full_cap = cap;
	s->full_count = s->count;
	s->full_sorted = s->sorted;
	s->count = 0;
	s->sorted = 1;
	return s->o.aside != NULL ? aside_run(s->o.aside, run_spill, s) : run_spill(s);
}

static int rows_grow(struct sorter *s)
{
	uint32_t cap = s->cap ? 2 * s->cap : 1024;
	struct sort_row *wide;

	cap = cap < s->rows_max ? cap : s->rows_max;
	if (cap == s->cap) {
		int err = run_full(s);

		if (err < 0 || s->cap > 0) return err;
		cap = s->rows_max;
	}
	wide = realloc(s->rows, cap * sizeof(*wide));
	if (wide == NULL) return -GRANARY_ENOMEM;
	s->rows = wide;
	s->cap = cap;
	return 0;
}

int sorter_add(struct sorter *s, const struct sort_row *row)
{
	int err = s->count == s->cap ? rows_grow(s) : 0;

	if (err < 0) return err;
	if (s->count > 0 && s->sorted && row_compare(&s->rows[s->count - 1], row) > 0)
		s->sorted = 0;
	s->rows[s->count++] = *row;
	return 0;
}

/* 1: run has a head; 0: it is used up. */
static int run_fill(struct sorter *s, struct run *run)
{
	uint64_t left = (run->end - run->at) / sizeof(struct sort_row);
	int err;

	if (run->next < run->count) return 1;
	if (left == 0) return 0;
	run->count = left < run->cap ? (uint32_t)left : run->cap;
	run->next = 0;
	err = spool_read(s->spool, run->at, run->rows, run->count * sizeof(*run->rows));
	run->at += run->count * sizeof(*run->rows);
	return err < 0 ? err : 1;
}

static const struct sort_row *head(const struct sorter *s, uint32_t heap_at)
{
	const struct run *run = &s->runs[s->heap[heap_at]];

	return &run->rows[run->next];
}

static void heap_down(struct sorter *s, uint32_t at)
{
	for (;;) {
		uint32_t least = at, child = 2 * at + 1, keep;

		for (uint32_t i = child; i < child + 2 && i < s->heap_count; i++)
			if (row_compare(head(s, i), head(s, least)) < 0) least = i;
		if (least == at) return;
		keep = s->heap[at];
		s->heap[at] = s->heap[least];
		s->heap[least] = keep;
		at = least;
	}
}

int sorter_finish(struct sorter *s)
{
	size_t each;
	struct run last = { .rows = s->rows, .count = s->count };
	int err = s->o.aside != NULL ? aside_wait(s->o.aside) : 0;

	if (err == 0) err = run_sort(s, s->rows, s->count, s->sorted);
	free(s->full);
	free(s->merge);
	s->full = s->merge = NULL;
	if (err < 0) return err;
	each = s->run_count > 0 ? RUN_BUFFERS / s->run_count : 0;
	each = each > WINDOW ? WINDOW : each < WINDOW_MIN ? WINDOW_MIN : each;
	for (uint32_t i = 0; i < s->run_count; i++) {
		s->runs[i].cap = (uint32_t)(each / sizeof(struct sort_row));
		s->runs[i].rows = malloc(each);
		if (s->runs[i].rows == NULL) return -GRANARY_ENOMEM;
	}
	err = run_add(s, &last);
	s->heap = malloc(s->run_count * sizeof(*s->heap));
	if (err < 0 || s->heap == NULL) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < s->run_count; i++) {
		err = run_fill(s, &s->runs[i]);
		if (err < 0) return err;
		if (err > 0) s->heap[s->heap_count++] = i;
	}
	for (uint32_t i = s->heap_count; i > 0; i--) heap_down(s, i - 1);
	return 0;
}

int sorter_next(struct sorter *s, struct sort_row *out)
{
	struct run *run;
	int err;

	if (s->heap_count == 0) return 0;
	run = &s->runs[s->heap[0]];
	*out = run->rows[run->next++];
	err = run_fill(s, run);
	if (err < 0) return err;
	if (err == 0) s->heap[0] = s->heap[--s->heap_count];
	heap_down(s, 0);
	return 1;
}
