/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.h -- the text of a recipe, its canonical form and its hash; docs/ORDER.md 8.
 * Invariants: (1) bounded: texts of RECIPE_TEXT_MAX bytes, no recursion, memory in proportion to the text; (2) strict:
 * unknown, repeated and missing fields, fractions and signs are refused, naming the field and the line; (3) parsing the
 * canonical form gives the same canonical form; (4) weights are reduced once parsed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/hash.h"
#include "common/mix.h"
#include "common/name.h"

enum {
	RECIPE_TEXT_MAX = 1 << 20,
	RECIPE_STRING_MAX = 2 * KEY_LEN_MAX + 2 /* a key of bytes behind backslashes, a slash and a star */
};

/* Strings, one after another, each ended by 0. */
struct recipe_list {
	const char *first;
	uint32_t count;
};

struct recipe_source {
	const char *snapshot;     /* BUCKET@NAME */
	bool has_hash;            /* whoever creates the recipe fills it in: names may be used again, hashes not */
	struct hash128 hash;
	uint32_t weight, repeat;  /* as in struct mix_source */
	struct recipe_list include, exclude;           /* globs */
	struct recipe_list include_keys, exclude_keys;
};

struct recipe_stage {
	uint64_t from;
	uint32_t weights[MIX_SOURCES_MAX];
};

struct recipe {
	uint64_t samples;       /* of an epoch; 0: not given */
	uint64_t block, window; /* 0: not given; whoever creates the recipe fills them in */
	uint32_t lanes;
	uint32_t sources_count, stages_count;
	struct recipe_source *sources; /* these three belong to the recipe */
	struct recipe_stage *stages;
	char *strings;
};

/* 0; -GRANARY_EINVAL with line, field and what is wrong in `why`; -GRANARY_ETOOBIG; -GRANARY_ENOMEM. */
int recipe_parse(struct recipe *r, const char *text, size_t len, char *why, size_t cap);
void recipe_release(struct recipe *r); /* fine after a failed recipe_parse() */
/* Writes at most cap bytes, with a terminating 0 where cap > 0; returns the length of the whole, as snprintf does. */
size_t recipe_canonical(const struct recipe *r, char *buf, size_t cap);
/* Content hash of the canonical form. 0 or -GRANARY_ENOMEM. */
int recipe_hash(const struct recipe *r, struct hash128 *out);
/* What mix_init() takes: samples[i] is how many source i has after its filters. The stages borrow from the recipe. */
void recipe_mix(const struct recipe *r, const uint64_t *samples, struct mix_source sources[MIX_SOURCES_MAX],
	struct mix_stage stages[MIX_STAGES_MAX]);
/* The next string of a list: recipe_next(l.first) follows l.first. */
const char *recipe_next(const char *string);
