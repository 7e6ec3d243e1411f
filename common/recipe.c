/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.c -- reads and writes the text of recipes; docs/ORDER.md 8.
 * Invariants: (1) what the text says is checked here, what needs the sources' sizes in mix_init(); (2) the arena of
 * strings is as large as the text, and a string never needs more than its quoted form. */
#include "common/recipe.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/json_read.h"
#include "common/mix_table.h"

enum { WEIGHT_MAX = 1000000000 };

struct reading {
	struct json_reader j;
	struct recipe *r;
	char *free; /* in r->strings */
};

const char *recipe_next(const char *string)
{
	return string + strlen(string) + 1;
}

/* ---- reading ---- */

static void read_list(struct reading *x, struct recipe_list *list)
{
	uint32_t index = 0;

	list->first = x->free;
	json_enter(&x->j, '[');
	while (json_next(&x->j, ']', &index)) {
		size_t len = json_push(&x->j, index - 1);
		json_string(&x->j, &x->free, RECIPE_STRING_MAX);
		json_pop(&x->j, len);
	}
	list->count = index;
}

static void read_hash(struct reading *x, struct recipe_source *s)
{
	char *at = x->free;
	const char *text = json_string(&x->j, &at, RECIPE_STRING_MAX); /* not kept */
	uint64_t half[2] = { 0 };

	for (unsigned i = 0; text != NULL && i < 32; i++) {
		const char *digits = "0123456789abcdef", *digit = text[i] ? strchr(digits, text[i]) : NULL;
		if (digit == NULL) {
			json_fail(&x->j, "32 hexadecimal digits, in lower case");
			return;
		}
		half[i / 16] = half[i / 16] << 4 | (uint64_t)(digit - digits);
	}
	if (text != NULL && text[32] != '\0')
		json_fail(&x->j, "32 hexadecimal digits, in lower case");
	s->hash = (struct hash128){ .hi = half[0], .lo = half[1] };
	s->has_hash = true;
}

static void read_source_field(struct reading *x, struct recipe_source *s, int field)
{
	switch (field) {
	case 0: s->snapshot = json_string(&x->j, &x->free, RECIPE_STRING_MAX); break;
	case 1: read_hash(x, s); break;
	case 2: s->weight = (uint32_t)json_u64(&x->j, 1, WEIGHT_MAX); break;
	case 3: s->repeat = (uint32_t)json_u64(&x->j, 1, MIX_REPEAT_MAX); break;
	case 4: read_list(x, &s->include); break;
	case 5: read_list(x, &s->exclude); break;
	case 6: read_list(x, &s->include_keys); break;
	case 7: read_list(x, &s->exclude_keys); break;
	default: break;
	}
}

static void read_source(struct reading *x, struct recipe_source *s)
{
	static const char *const names[] = { "snapshot", "hash", "weight", "repeat", "include", "exclude",
		"include_keys", "exclude_keys", NULL };
	size_t len = strlen(x->j.path);
	uint32_t seen = 0, index = 0;

	*s = (struct recipe_source){ 0 };
	json_enter(&x->j, '{');
	while (json_next(&x->j, '}', &index)) {
		read_source_field(x, s, json_field(&x->j, names, &seen));
		json_pop(&x->j, len);
	}
	if (s->snapshot == NULL)
		json_fail(&x->j, "snapshot: missing");
	if (s->weight > 0 && s->repeat > 0)
		json_fail(&x->j, "weight and repeat exclude each other");
}

static void read_sources(struct reading *x)
{
	uint32_t index = 0;

	json_enter(&x->j, '[');
	while (json_next(&x->j, ']', &index)) {
		size_t len = json_push(&x->j, index - 1);
		if (index > MIX_SOURCES_MAX)
			json_fail(&x->j, "at most %d sources", MIX_SOURCES_MAX);
		else
			read_source(x, &x->r->sources[x->r->sources_count++]);
		json_pop(&x->j, len);
	}
}

static void read_weights(struct reading *x, struct recipe_stage *s, uint32_t *count)
{
	json_enter(&x->j, '[');
	while (json_next(&x->j, ']', count)) {
		size_t len = json_push(&x->j, *count - 1);
		if (*count > MIX_SOURCES_MAX)
			json_fail(&x->j, "at most %d weights", MIX_SOURCES_MAX);
		else
			s->weights[*count - 1] = (uint32_t)json_u64(&x->j, 0, WEIGHT_MAX);
		json_pop(&x->j, len);
	}
}

/* `weights_count`: of the first stage, for the others to agree with. */
static void read_stage(struct reading *x, struct recipe_stage *s, uint32_t *weights_count)
{
	static const char *const names[] = { "from", "weights", NULL };
	size_t len = strlen(x->j.path);
	uint32_t seen = 0, index = 0, count = 0;

	*s = (struct recipe_stage){ 0 };
	json_enter(&x->j, '{');
	while (json_next(&x->j, '}', &index)) {
		int field = json_field(&x->j, names, &seen);
		if (field == 0)
			s->from = json_u64(&x->j, 0, ORDER_SAMPLES_MAX);
		else if (field == 1)
			read_weights(x, s, &count);
		json_pop(&x->j, len);
	}
	if (seen != 3)
		json_fail(&x->j, "%s: missing", seen & 1 ? "weights" : "from");
	if (x->r->stages_count > 1 && count != *weights_count)
		json_fail(&x->j, "weights: %u; another stage has %u", count, *weights_count);
	if (x->r->stages_count > 1 ? s->from <= s[-1].from : s->from != 0)
		json_fail(&x->j, "from: the first must be 0, the others ascend");
	*weights_count = count;
}

static void read_stages(struct reading *x, uint32_t *weights_count)
{
	uint32_t index = 0;

	json_enter(&x->j, '[');
	while (json_next(&x->j, ']', &index)) {
		size_t len = json_push(&x->j, index - 1);
		if (index > MIX_STAGES_MAX)
			json_fail(&x->j, "at most %d stages", MIX_STAGES_MAX);
		else
			read_stage(x, &x->r->stages[x->r->stages_count++], weights_count);
		json_pop(&x->j, len);
	}
	if (index == 0)
		json_fail(&x->j, "an empty list");
}

static void read_recipe(struct reading *x, uint32_t *weights_count)
{
	static const char *const names[] = { "samples", "block", "window", "lanes", "sources", "stages", NULL };
	uint32_t seen = 0, index = 0;

	json_enter(&x->j, '{');
	while (json_next(&x->j, '}', &index)) {
		switch (json_field(&x->j, names, &seen)) {
		case 0: x->r->samples = json_u64(&x->j, 1, ORDER_SAMPLES_MAX); break;
		case 1: x->r->block = json_u64(&x->j, 1, ORDER_BLOCK_MAX); break;
		case 2: x->r->window = json_u64(&x->j, 1, UINT64_C(1) << 62); break;
		case 3: x->r->lanes = (uint32_t)json_u64(&x->j, 1, ORDER_LANES_MAX); break;
		case 4: read_sources(x); break;
		case 5: read_stages(x, weights_count); break;
		default: break;
		}
		if ((x->r->block & (x->r->block - 1)) != 0)
			json_fail(&x->j, "it must be a power of two");
		json_pop(&x->j, 0);
	}
	json_end(&x->j);
}

/* ---- the whole ---- */

static void reduce(struct json_reader *j, uint32_t *weights, uint32_t count, const char *what)
{
	uint32_t divisor;
	uint64_t sum = mix_table_reduced_sum(weights, count, &divisor);

	if (sum == 0 || sum > MIX_PERIOD_MAX)
		json_fail(j, "%s: the reduced sum of the weights is %llu; it must be 1 to %d", what,
			(unsigned long long)sum, MIX_PERIOD_MAX);
	for (uint32_t i = 0; i < count && divisor > 0; i++)
		weights[i] /= divisor;
}

static void check_sources(struct reading *x)
{
	uint32_t weights[MIX_SOURCES_MAX], used = 0;
	struct recipe *r = x->r;

	for (uint32_t i = 0; i < r->sources_count; i++) {
		struct recipe_source *s = &r->sources[i];
		weights[i] = s->weight;
		used += s->weight > 0;
		if (r->stages_count > 0 && (s->weight > 0 || s->repeat > 0))
			json_fail(&x->j, "sources[%u]: the stages say the weights: no weight, no repeat", i);
		if (r->stages_count == 0 && s->weight == 0 && s->repeat == 0)
			json_fail(&x->j, "sources[%u]: weight or repeat: missing", i);
	}
	if (used > 0)
		reduce(&x->j, weights, r->sources_count, "sources");
	for (uint32_t i = 0; i < r->sources_count; i++)
		r->sources[i].weight = weights[i];
	if (r->samples == 0 && (used > 0 || r->stages_count > 0))
		json_fail(&x->j, "samples: missing; an epoch of weights needs a length");
}

static void check_recipe(struct reading *x, uint32_t weights_count)
{
	struct recipe *r = x->r;

	if (r->sources_count == 0)
		json_fail(&x->j, "sources: missing or empty");
	if (r->stages_count > 0 && weights_count != r->sources_count)
		json_fail(&x->j, "stages[0]: weights: %u; there are %u sources", weights_count, r->sources_count);
	if (x->j.bad)
		return;
	for (uint32_t i = 0; i < r->stages_count; i++) {
		char what[24];
		snprintf(what, sizeof(what), "stages[%u]", i);
		reduce(&x->j, r->stages[i].weights, r->sources_count, what);
		if (r->stages[i].from >= r->samples && r->samples > 0)
			json_fail(&x->j, "stages[%u]: from: beyond the samples of the epoch", i);
	}
	check_sources(x);
}

int recipe_parse(struct recipe *r, const char *text, size_t len, char *why, size_t cap)
{
	struct reading x = { .r = r };
	uint32_t weights_count = 0;

	*r = (struct recipe){ 0 };
	json_reader_init(&x.j, text, len, why, cap);
	if (len > RECIPE_TEXT_MAX) {
		json_fail(&x.j, "%zu bytes; a recipe has at most %d", len, RECIPE_TEXT_MAX);
		return -GRANARY_ETOOBIG;
	}
	r->sources = malloc(MIX_SOURCES_MAX * sizeof(*r->sources));
	r->stages = malloc(MIX_STAGES_MAX * sizeof(*r->stages));
	r->strings = malloc(len + 1);
	if (r->sources == NULL || r->stages == NULL || r->strings == NULL) {
		json_fail(&x.j, "out of memory");
		recipe_release(r);
		return -GRANARY_ENOMEM;
	}
	x.free = r->strings;
	read_recipe(&x, &weights_count);
	check_recipe(&x, weights_count);
	assert(x.free <= r->strings + len + 1);
	if (!x.j.bad && recipe_canonical(r, NULL, 0) > RECIPE_TEXT_MAX)
		json_fail(&x.j, "its canonical form is above %d bytes", RECIPE_TEXT_MAX);
	if (!x.j.bad)
		return 0;
	recipe_release(r);
	return -GRANARY_EINVAL;
}

void recipe_release(struct recipe *r)
{
	free(r->sources);
	free(r->stages);
	free(r->strings);
	*r = (struct recipe){ 0 };
}

/* ---- writing ---- */

struct writing {
	char *buf;
	size_t cap, len;
	bool first; /* no comma before the next field */
};

static void put_char(struct writing *w, char c)
{
	if (w->len < w->cap)
		w->buf[w->len] = c;
	w->len++;
}

__attribute__((format(printf, 2, 3))) static void put(struct writing *w, const char *format, ...)
{
	char text[128];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (const char *p = text; *p; p++)
		put_char(w, *p);
}

static void put_string(struct writing *w, const char *s)
{
	put_char(w, '"');
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			put(w, "\\%c", *s);
		else if ((unsigned char)*s < 0x20)
			put(w, "\\u%04x", (unsigned)*s);
		else
			put_char(w, *s);
	}
	put_char(w, '"');
}

static void put_name(struct writing *w, const char *name)
{
	put(w, "%s\"%s\":", w->first ? "" : ",", name);
	w->first = false;
}

static void put_number(struct writing *w, const char *name, uint64_t v)
{
	if (v == 0)
		return;
	put_name(w, name);
	put(w, "%llu", (unsigned long long)v);
}

static void put_list(struct writing *w, const char *name, struct recipe_list list)
{
	const char *s = list.first;

	if (list.count == 0)
		return;
	put_name(w, name);
	for (uint32_t i = 0; i < list.count; i++, s = recipe_next(s)) {
		put_char(w, i == 0 ? '[' : ',');
		put_string(w, s);
	}
	put_char(w, ']');
}

static void put_source(struct writing *w, const struct recipe_source *s)
{
	put_char(w, '{');
	w->first = true;
	put_name(w, "snapshot");
	put_string(w, s->snapshot);
	if (s->has_hash) {
		put_name(w, "hash");
		put(w, "\"%016llx%016llx\"", (unsigned long long)s->hash.hi, (unsigned long long)s->hash.lo);
	}
	put_number(w, "weight", s->weight);
	put_number(w, "repeat", s->repeat);
	put_list(w, "include", s->include);
	put_list(w, "exclude", s->exclude);
	put_list(w, "include_keys", s->include_keys);
	put_list(w, "exclude_keys", s->exclude_keys);
	put_char(w, '}');
}

size_t recipe_canonical(const struct recipe *r, char *buf, size_t cap)
{
	struct writing w = { .buf = buf, .cap = cap, .first = true };

	put_char(&w, '{');
	put_number(&w, "samples", r->samples);
	put_number(&w, "block", r->block);
	put_number(&w, "window", r->window);
	put_number(&w, "lanes", r->lanes);
	put_name(&w, "sources");
	for (uint32_t i = 0; i < r->sources_count; i++) {
		put_char(&w, i == 0 ? '[' : ',');
		put_source(&w, &r->sources[i]);
	}
	put_char(&w, ']');
	w.first = false;
	if (r->stages_count > 0)
		put_name(&w, "stages");
	for (uint32_t i = 0; i < r->stages_count; i++) {
		put(&w, "%s{\"from\":%llu,\"weights\":", i == 0 ? "[" : ",", (unsigned long long)r->stages[i].from);
		for (uint32_t s = 0; s < r->sources_count; s++)
			put(&w, "%c%u", s == 0 ? '[' : ',', r->stages[i].weights[s]);
		put(&w, "]}");
	}
	put(&w, "%s}", r->stages_count > 0 ? "]" : "");
	if (cap > 0)
		buf[w.len < cap ? w.len : cap - 1] = '\0';
	return w.len;
}

int recipe_hash(const struct recipe *r, struct hash128 *out)
{
	size_t len = recipe_canonical(r, NULL, 0);
	char *buf = malloc(len + 1);

	if (buf == NULL)
		return -GRANARY_ENOMEM;
	recipe_canonical(r, buf, len + 1);
	*out = hash_content(buf, len);
	free(buf);
	return 0;
}

void recipe_mix(const struct recipe *r, const uint64_t *samples, struct mix_source sources[MIX_SOURCES_MAX],
	struct mix_stage stages[MIX_STAGES_MAX])
{
	for (uint32_t i = 0; i < r->sources_count; i++)
		sources[i] = (struct mix_source){ samples[i], r->sources[i].weight, r->sources[i].repeat };
	for (uint32_t i = 0; i < r->stages_count; i++)
		stages[i] = (struct mix_stage){ r->stages[i].from, r->stages[i].weights };
}
