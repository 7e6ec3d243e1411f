/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_split.c -- the scanners of lines, windows and tar archives over any bytes: what they take lies inside, in order,
 * without overlap, and does not depend on how the bytes were cut into pieces. The first byte says which scanner and how
 * the pieces are cut; for archives the sums of all blocks are made right in a second run, else nearly every input ends
 * at its first header. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "fuzz_snap.h"
#include "jobs/split.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BLOCK = 512, SUM_AT = 148, SUM_LEN = 8 };

struct sum { /* of all that a scan told */
	const uint8_t *data;
	size_t size;
	uint64_t end; /* of the part before, then of the bytes taken */
	uint64_t begin, taken, parts, problems;
	struct hash128 told;
};

static void mix(struct sum *s, uint64_t a, uint64_t b, struct slice text)
{
	uint64_t head[3] = { s->told.lo, a, b };

	s->told = hash_content(head, sizeof(head));
	if (text.len > 0) s->told.lo ^= hash_content(text.p, text.len).lo;
}

static int on_bytes(void *arg, uint64_t at, const uint8_t *p, size_t len)
{
	struct sum *s = arg;

	require(len > 0 && at >= s->end && at + len <= s->size && memcmp(s->data + at, p, len) == 0);
	require(s->taken == 0 || at == s->end);
	if (s->taken == 0) s->begin = at;
	s->taken += len;
	s->end = at + len;
	return 0;
}

static int on_part(void *arg, const struct split_part *part)
{
	struct sum *s = arg;

	require(part->at <= s->size && (s->taken == 0 || part->at == s->begin) && part->name.len <= SPLIT_NAME_MAX);
	for (size_t i = 0; i + 1 < part->name.len; i++)
		require(part->name.p[i] != 0 && !(part->name.p[i] == '/' && part->name.p[i + 1] == '/'));
	require(part->name.len == 0 || part->name.p[0] != '/');
	mix(s, part->at, s->taken ^ part->number << 32, part->name);
	s->parts++;
	s->taken = 0;
	return 0;
}

static int on_drop(void *arg)
{
	struct sum *s = arg;

	s->taken = 0;
	return 0;
}

static int on_problem(void *arg, enum split_problem what, uint64_t at, struct slice name)
{
	struct sum *s = arg;

	require(what < SPLIT_PROBLEMS && at <= s->size && split_problem_text(what) != NULL);
	mix(s, what, what == SPLIT_AFTER_END ? 0 : at, name); /* where in a piece is not told to the byte */
	s->problems++;
	return 0;
}

static struct sum scan(const struct split_spec *spec, const uint8_t *data, size_t size, size_t piece)
{
	struct sum sum = { .data = data, .size = size };
	struct split_sink sink = { &sum, on_bytes, on_part, on_drop, on_problem };
	struct split *s = split_new(spec, &sink);

	require(s != NULL);
	for (int pass = 0; pass < 2; pass++) { /* one scanner, several objects */
		sum = (struct sum){ .data = data, .size = size };
		split_begin(s);
		for (size_t at = 0; at < size; at += piece) {
			size_t n = size - at < piece ? size - at : piece;
			uint8_t *copy = malloc(n); /* exactly its size */

			require(copy != NULL);
			memcpy(copy, data + at, n);
			require(split_feed(s, copy, n) == 0);
			free(copy);
		}
		require(split_end(s) == 0);
		require(sum.taken == 0);
	}
	split_free(&s);
	return sum;
}

static void run(const struct split_spec *spec, const uint8_t *data, size_t size, size_t piece)
{
	struct sum whole = scan(spec, data, size, size + 1), cut = scan(spec, data, size, piece);

	require(whole.parts == cut.parts && whole.problems == cut.problems);
	require(whole.told.lo == cut.told.lo && whole.told.hi == cut.told.hi);
}

static void sums_make(uint8_t *data, size_t size)
{
	for (size_t at = 0; at + BLOCK <= size; at += BLOCK) {
		unsigned sum = 0;
		char text[SUM_LEN + 1];

		if (data[at] == 0) continue;
		memset(data + at + SUM_AT, ' ', SUM_LEN);
		for (size_t i = 0; i < BLOCK; i++) sum += data[at + i];
		snprintf(text, sizeof(text), "%06o", sum);
		memcpy(data + at + SUM_AT, text, SUM_LEN - 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t widths[] = { 1, 7, 512, 8192 };
	struct split_spec spec = { .kind = SPLIT_TAR };
	size_t piece;
	uint8_t *copy;

	if (size < 1) return 0;
	piece = 1 + (size_t)(data[0] >> 2) * 13;
	if ((data[0] & 3) == 0) spec.kind = SPLIT_LINES;
	if ((data[0] & 3) == 1) spec = (struct split_spec){ SPLIT_FIXED, widths[data[0] >> 6] };
	run(&spec, data + 1, size - 1, piece);
	if (spec.kind != SPLIT_TAR) return 0;
	copy = malloc(size);
	require(copy != NULL);
	memcpy(copy, data + 1, size - 1);
	sums_make(copy, size - 1);
	run(&spec, copy, size - 1, piece);
	free(copy);
	return 0;
}
