/* SPDX-License-Identifier: Apache-2.0 */
/* text_sort.c -- see text_sort.h. Invariants: (1) an entry is u16 length, two u64, the bytes; (2) runs stand back to
 * back in the spool, each ascending, in the order of arrival of what they hold, so that of equal heads the one of the
 * earlier run comes first; (3) if everything fitted into memory there is no run. */
#include "jobs/text_sort.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

enum { HEAD = 2 + 16, RUN_BUFFERS = 32 * 1024 * 1024, RUN_BUFFER_MAX = 256 * 1024, RUN_BUFFER_MIN = 16 * 1024 };
_Static_assert(RUN_BUFFER_MIN > HEAD + TEXT_SORT_LEN_MAX, "an entry fits");

struct run {
	uint64_t at, end;  /* in the spool: what was not read yet */
	uint8_t *buffer;
	uint32_t next, fill;
};

struct text_sorter {
	struct spool_options o;
	struct spool *spool;
	uint8_t *bytes; /* entries of the run being filled */
	uint32_t len, cap, *index, count, index_cap, next;
	bool sorted;
	struct run *runs;
	uint32_t run_count, run_cap, run_size, *heap, heap_count;
	uint8_t given[TEXT_SORT_LEN_MAX];
};

static struct slice text_of(const uint8_t *entry)
{
	uint16_t len;

	memcpy(&len, entry, sizeof(len));
	return slice_of(entry + HEAD, len);
}

struct text_sorter *text_sorter_new(const struct spool_options *o)
{
	struct text_sorter *s = calloc(1, sizeof(*s));

	if (s == NULL) return NULL;
	s->o = *o;
	s->sorted = true;
	if (s->o.memory < 2 * (HEAD + TEXT_SORT_LEN_MAX)) s->o.memory = 2 * (HEAD + TEXT_SORT_LEN_MAX);
	if (s->o.memory > UINT32_MAX / 2) s->o.memory = UINT32_MAX / 2;
	return s;
}

void text_sorter_free(struct text_sorter **sp)
{
	struct text_sorter *s = *sp;

	*sp = NULL;
	if (s == NULL) return;
	for (uint32_t i = 0; i < s->run_count; i++) free(s->runs[i].buffer);
	free(s->runs);
	free(s->heap);
	free(s->bytes);
	free(s->index);
	spool_free(&s->spool);
	free(s);
}

/* ---- runs ---- */

/* Merges index[0..half) and index[half..count), both ascending; room: half entries. */
static void index_merge(const struct text_sorter *s, uint32_t *index, uint32_t half, uint32_t count, uint32_t *room)
{
	uint32_t left = 0, right = half, to = 0;

	if (slice_compare(text_of(s->bytes + index[half - 1]), text_of(s->bytes + index[half])) <= 0) return;
	memcpy(room, index, half * sizeof(*room));
	while (left < half && right < count)
		index[to++] = slice_compare(text_of(s->bytes + room[left]), text_of(s->bytes + index[right])) <= 0
				      ? room[left++]
				      : index[right++];
	memcpy(index + to, room + left, (half - left) * sizeof(*room));
}

static void index_sort(const struct text_sorter *s, uint32_t *index, uint32_t count, uint32_t *room)
{
	uint32_t half = count / 2;

	if (count < 2) return;
	index_sort(s, index, half, room);
	index_sort(s, index + half, count - half, room);
	index_merge(s, index, half, count, room);
}

static int entries_sort(struct text_sorter *s)
{
	uint32_t *room;

	if (s->sorted) return 0;
	room = malloc((s->count / 2 + 1) * sizeof(*room));
	if (room == NULL) return -GRANARY_ENOMEM;
	index_sort(s, s->index, s->count, room);
	free(room);
	s->sorted = true;
	return 0;
}

static int run_add(struct text_sorter *s, const struct run *run)
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

static int run_spill(struct text_sorter *s)
{
	struct spool_options o = s->o;
	struct run run;
	int err = entries_sort(s);

	o.memory = RUN_BUFFER_MAX;
	if (s->spool == NULL) s->spool = spool_new(&o);
	if (s->spool == NULL) return -GRANARY_ENOMEM;
	run = (struct run){ .at = spool_size(s->spool) };
	for (uint32_t i = 0; i < s->count && err == 0; i++) {
		const uint8_t *entry = s->bytes + s->index[i];

		err = spool_append(s->spool, entry, HEAD + text_of(entry).len);
	}
	run.end = spool_size(s->spool);
	s->len = s->count = 0;
	return err < 0 ? err : run_add(s, &run);
}

static int room_make(struct text_sorter *s, size_t need)
{
	if (s->len + need > s->o.memory) {
		int err = run_spill(s);

		if (err < 0) return err;
	}
	if (s->len + need > s->cap) {
		size_t cap = 2 * (size_t)s->cap + need + 4096;
		uint8_t *wide;

		if (cap > s->o.memory) cap = s->o.memory;
		wide = realloc(s->bytes, cap);
		if (wide == NULL) return -GRANARY_ENOMEM;
		s->bytes = wide;
		s->cap = (uint32_t)cap;
	}
	if (s->count == s->index_cap) {
		uint32_t cap = s->index_cap ? 2 * s->index_cap : 1024;
		uint32_t *wide = realloc(s->index, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		s->index = wide;
		s->index_cap = cap;
	}
	return 0;
}

int text_sorter_add(struct text_sorter *s, struct slice text, const uint64_t value[2])
{
	uint16_t len = (uint16_t)text.len;
	uint8_t *entry;
	int err;

	if (text.len > TEXT_SORT_LEN_MAX) return -GRANARY_ETOOBIG;
	err = room_make(s, HEAD + text.len);
	if (err < 0) return err;
	entry = s->bytes + s->len;
	memcpy(entry, &len, sizeof(len));
	memcpy(entry + 2, value, 16);
	if (text.len > 0) memcpy(entry + HEAD, text.p, text.len);
	if (s->count == 0)
		s->sorted = true;
	else if (s->sorted)
		s->sorted = slice_compare(text_of(s->bytes + s->index[s->count - 1]), text_of(entry)) <= 0;
	s->index[s->count++] = s->len;
	s->len += (uint32_t)(HEAD + text.len);
	return 0;
}

/* ---- merging ---- */

/* Makes the whole next entry of a run stand in its buffer. 1; 0: it is used up. */
static int run_fill(struct text_sorter *s, struct run *run)
{
	uint32_t have = run->fill - run->next, n;
	int err;

	if (have >= HEAD && have >= HEAD + text_of(run->buffer + run->next).len) return 1;
	if (run->at == run->end) return have == 0 ? 0 : -GRANARY_EIO;
	memmove(run->buffer, run->buffer + run->next, have);
	n = s->run_size - have < run->end - run->at ? s->run_size - have : (uint32_t)(run->end - run->at);
	err = spool_read(s->spool, run->at, run->buffer + have, n);
	run->at += n;
	run->next = 0;
	run->fill = have + n;
	return err < 0 ? err : 1;
}

static bool is_before(const struct text_sorter *s, uint32_t a, uint32_t b)
{
	const struct run *x = &s->runs[a], *y = &s->runs[b];
	int order = slice_compare(text_of(x->buffer + x->next), text_of(y->buffer + y->next));

	return order != 0 ? order < 0 : a < b;
}

static void heap_down(struct text_sorter *s, uint32_t at)
{
	for (;;) {
		uint32_t least = at, keep;

		for (uint32_t i = 2 * at + 1; i < 2 * at + 3 && i < s->heap_count; i++)
			if (is_before(s, s->heap[i], s->heap[least])) least = i;
		if (least == at) return;
		keep = s->heap[at];
		s->heap[at] = s->heap[least];
		s->heap[least] = keep;
		at = least;
	}
}

int text_sorter_finish(struct text_sorter *s)
{
	uint32_t each;
	int err = s->run_count > 0 ? run_spill(s) : entries_sort(s);

	s->next = 0;
	if (err < 0 || s->run_count == 0) return err;
	each = RUN_BUFFERS / s->run_count;
	s->run_size = each > RUN_BUFFER_MAX ? RUN_BUFFER_MAX : each < RUN_BUFFER_MIN ? RUN_BUFFER_MIN : each;
	free(s->bytes);
	s->bytes = NULL;
	s->cap = 0;
	s->heap = malloc(s->run_count * sizeof(*s->heap));
	if (s->heap == NULL) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < s->run_count; i++) {
		s->runs[i].buffer = malloc(s->run_size);
		if (s->runs[i].buffer == NULL) return -GRANARY_ENOMEM;
		err = run_fill(s, &s->runs[i]);
		if (err < 0) return err;
		if (err > 0) s->heap[s->heap_count++] = i;
	}
	for (uint32_t i = s->heap_count; i > 0; i--) heap_down(s, i - 1);
	return 0;
}

static void entry_give(struct text_sorter *s, const uint8_t *entry, struct slice *text, uint64_t value[2])
{
	struct slice t = text_of(entry);

	memcpy(value, entry + 2, 16);
	memcpy(s->given, t.p, t.len);
	*text = slice_of(s->given, t.len);
}

int text_sorter_next(struct text_sorter *s, struct slice *text, uint64_t value[2])
{
	struct run *run;
	int err;

	if (s->run_count == 0) {
		if (s->next == s->count) return 0;
		entry_give(s, s->bytes + s->index[s->next++], text, value);
		return 1;
	}
	if (s->heap_count == 0) return 0;
	run = &s->runs[s->heap[0]];
	entry_give(s, run->buffer + run->next, text, value);
	run->next += (uint32_t)(HEAD + text->len);
	err = run_fill(s, run);
	if (err < 0) return err;
	if (err == 0) s->heap[0] = s->heap[--s->heap_count];
	heap_down(s, 0);
	return 1;
}
