/* SPDX-License-Identifier: Apache-2.0 */
/* subset.c -- the part of a snapshot that a recipe takes: a bit a sample, made by walking names, at most twice over
 * those that the patterns can match, and by looking up each key that is listed. */
#include "recipe_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/glob.h"

enum { SUBSET_GROUP = 32 }; /* words between two sums */

void subset_release(struct subset *s)
{
	free(s->bits);
	free(s->before);
	*s = (struct subset){ .bits = NULL };
}

uint64_t subset_id(const struct subset *s, uint64_t index)
{
	uint64_t low = 0, high = (s->words + SUBSET_GROUP - 1) / SUBSET_GROUP, word;

	if (!s->bits)
		return index;
	while (high - low > 1) { /* before[low] <= index < before[high] */
		uint64_t middle = low + (high - low) / 2;
		if (s->before[middle] <= index)
			low = middle;
		else
			high = middle;
	}
	index -= s->before[low];
	uint64_t at = low * SUBSET_GROUP;
	for (word = s->bits[at]; index >= (uint64_t)__builtin_popcountll(word); word = s->bits[++at])
		index -= (uint64_t)__builtin_popcountll(word);
	for (; index > 0; index--)
		word &= word - 1;
	return at * 64 + (uint64_t)__builtin_ctzll(word);
}

/* ---- making ---- */

struct marking {
	struct subset *subset;
	struct recipe_list globs;
	const char *prefix;  /* that all of the globs begin with */
	size_t prefix_len;
	bool value;          /* what a match sets its bit to */
};

static void bit_set(struct subset *s, uint64_t id, bool value)
{
	uint64_t bit = UINT64_C(1) << (id % 64);

	if (value)
		s->bits[id / 64] |= bit;
	else
		s->bits[id / 64] &= ~bit;
}

static int mark_name(void *arg, const char *key, uint64_t id, uint32_t field)
{
	const struct marking *m = arg;
	const char *glob = m->globs.first;

	(void)field;
	if (strncmp(key, m->prefix, m->prefix_len) != 0)
		return 1; /* past what can match */
	for (uint32_t i = 0; i < m->globs.count; i++, glob = recipe_next(glob))
		if (glob_match(glob, key)) {
			bit_set(m->subset, id, m->value);
			break;
		}
	return 0;
}

/* How much the literal beginnings of all patterns have in common. */
static size_t common_prefix(struct recipe_list globs)
{
	const char *glob = globs.first;
	size_t len = glob_literal(globs.first);

	for (uint32_t i = 1; i < globs.count; i++) {
		size_t literal, same = 0;
		glob = recipe_next(glob);
		literal = glob_literal(glob);
		while (same < len && same < literal && glob[same] == globs.first[same])
			same++;
		len = same;
	}
	return len;
}

static int mark_globs(struct granary_snapshot *s, struct subset *subset, struct recipe_list globs, bool value)
{
	struct marking m = { subset, globs, globs.first, 0, value };
	char from[RECIPE_STRING_MAX + 1];

	if (globs.count == 0)
		return 0;
	m.prefix_len = common_prefix(globs);
	snprintf(from, sizeof(from), "%.*s", (int)m.prefix_len, globs.first);
	int err = granary_snapshot_names(s, from, mark_name, &m);
	return err > 0 ? 0 : err;
}

static int mark_keys(struct granary_snapshot *s, struct subset *subset, struct recipe_list keys, bool value)
{
	const char *key = keys.first;

	for (uint32_t i = 0; i < keys.count; i++, key = recipe_next(key)) {
		uint64_t id;
		int err = granary_snapshot_find(s, key, &id, NULL);
		if (err < 0)
			return err;
		bit_set(subset, id, value);
	}
	return 0;
}

static void subset_count(struct subset *s)
{
	s->samples = 0;
	for (uint64_t i = 0; i < s->words; i++) {
		if (i % SUBSET_GROUP == 0)
			s->before[i / SUBSET_GROUP] = s->samples;
		s->samples += (uint64_t)__builtin_popcountll(s->bits[i]);
	}
}

static void fill_all(struct subset *s, uint64_t samples)
{
	memset(s->bits, 0xff, s->words * sizeof(*s->bits));
	if (samples % 64 != 0)
		s->bits[s->words - 1] = (UINT64_C(1) << (samples % 64)) - 1;
}

int subset_make(struct granary_snapshot *s, const struct recipe_source *from, struct subset *out)
{
	uint64_t samples = s->manifest.samples;
	bool includes = from->include.count + from->include_keys.count > 0;

	*out = (struct subset){ .samples = samples, .words = (samples + 63) / 64 };
	if (!includes && from->exclude.count + from->exclude_keys.count == 0)
		return 0;
	out->bits = calloc(out->words + 1, sizeof(*out->bits));
	out->before = calloc(out->words / SUBSET_GROUP + 2, sizeof(*out->before));
	if (!out->bits || !out->before) {
		subset_release(out);
		return error_fail(s->client, -GRANARY_ENOMEM, "out of memory");
	}
	if (!includes)
		fill_all(out, samples);
	int err = mark_globs(s, out, from->include, true);
	if (err == 0)
		err = mark_keys(s, out, from->include_keys, true);
	if (err == 0)
		err = mark_globs(s, out, from->exclude, false);
	if (err == 0)
		err = mark_keys(s, out, from->exclude_keys, false);
	if (err < 0) {
		subset_release(out);
		return err;
	}
	subset_count(out);
	return 0;
}
