/* SPDX-License-Identifier: Apache-2.0 */
/* rules_judge.c -- rules against each other: one that can never decide, because an earlier one of its class takes all
 * that it matches, is refused; two that may meet and want different things are a note for people. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "granary/error.h"
#include "jobs/rules_priv.h"

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

/* All that b matches, a matches too (never says so when it is not; may not see it behind two different globs). */
static bool covers(const struct rule *a, const struct rule *b)
{
	if (a->bucket[0] && strcmp(a->bucket, b->bucket) != 0) return false;
	if (a->prefix_len > b->prefix_len || memcmp(a->prefix, b->prefix, a->prefix_len) != 0) return false;
	if (a->size_over > b->size_over) return false;
	if (a->size_under && (!b->size_under || a->size_under < b->size_under)) return false;
	if (a->tag_name &&
		(!same_text(a->tag_name, b->tag_name) || (a->tag_value && !same_text(a->tag_value, b->tag_value))))
		return false;
	return !a->glob[0] || (strcmp(a->glob, b->glob) == 0 && !a->keep_last == !b->keep_last);
}

/* Nothing can match both (says so only when sure). */
static bool apart(const struct rule *a, const struct rule *b)
{
	size_t shared = a->prefix_len < b->prefix_len ? a->prefix_len : b->prefix_len;

	if (a->bucket[0] && b->bucket[0] && strcmp(a->bucket, b->bucket) != 0) return true;
	if (memcmp(a->prefix, b->prefix, shared) != 0) return true;
	if (a->size_under && a->size_under <= b->size_over) return true;
	return b->size_under && b->size_under <= a->size_over;
}

static bool want_the_same(const struct rule *a, const struct rule *b)
{
	return a->action == b->action && a->store_id == b->store_id && a->level == b->level &&
	       a->age_ns == b->age_ns && a->idle_ns == b->idle_ns && a->keep_last == b->keep_last;
}

/* keep_last takes only part of what its glob names. */
static bool takes_all_it_matches(const struct rule *r)
{
	return !r->keep_last;
}

static int name_compare(const void *a, const void *b, void *arg)
{
	const struct rule *at = arg;

	return strcmp(at[*(const uint32_t *)a].name, at[*(const uint32_t *)b].name);
}

static int names_check(const struct rules *rules, char *why, size_t why_cap)
{
	uint32_t *order = malloc((rules->count + 1) * sizeof(*order));
	int err = 0;

	if (!order) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < rules->count; i++) order[i] = i;
	if (rules->count > 1) qsort_r(order, rules->count, sizeof(*order), name_compare, rules->at);
	for (uint32_t i = 1; err == 0 && i < rules->count; i++) {
		const struct rule *a = &rules->at[order[i - 1]], *b = &rules->at[order[i]];
		if (strcmp(a->name, b->name) != 0) continue;
		snprintf(why, why_cap, "line %u: a rule '%s' stands at line %u already: name them apart",
			a->line > b->line ? a->line : b->line, a->name, a->line > b->line ? b->line : a->line);
		err = -GRANARY_ECONFIG;
	}
	free(order);
	return err;
}

__attribute__((format(printf, 2, 3))) static int note_text(struct rules *rules, const char *format, ...)
{
	char text[RULE_WHY_MAX];
	va_list args;

	if (rules->note_count == RULES_NOTES_MAX) {
		rules->notes_left_out++;
		return 0;
	}
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	rules->notes[rules->note_count] = strdup(text);
	return rules->notes[rules->note_count] && ++rules->note_count ? 0 : -GRANARY_ENOMEM;
}

static int note(struct rules *rules, const struct rule *a, const struct rule *b)
{
	return note_text(rules,
		"line %u: rule '%s' and rule '%s' (line %u) may match the same objects: '%s' decides, it stands first",
		b->line, b->name, a->name, a->line, a->name);
}

/* One pins, wherever it stands, and the other moves or deletes all of it. */
static int pin_check(const struct rule *a, const struct rule *b, char *why, size_t why_cap)
{
	const struct rule *pin = a->class == RULE_PINS ? a : b, *other = pin == a ? b : a;

	if (pin->class != RULE_PINS || other->class == RULE_COPIES || !covers(pin, other)) return 0;
	snprintf(why, why_cap, "line %u: rule '%s' can never decide: '%s' (line %u) pins all that it matches",
		other->line, other->name, pin->name, pin->line);
	return -GRANARY_ECONFIG;
}

/* A pack has one cold copy: what one rule copies to a store and another moves to a second one cannot be had. */
static int stores_check(struct rules *rules, const struct rule *a, const struct rule *b, char *why, size_t why_cap)
{
	const struct rule *copy = a->class == RULE_COPIES ? a : b, *to = copy == a ? b : a;

	if (copy->class != RULE_COPIES || to->action != RULE_TO || copy->store_id == to->store_id || apart(a, b))
		return 0;
	if (!covers(to, copy) || !takes_all_it_matches(to))
		return note_text(rules,
			"line %u: rule '%s' copies to '%s' what rule '%s' (line %u) may move to '%s': a pack has one "
			"cold copy, in the store that it went to first",
			copy->line, copy->name, copy->store, to->name, to->line, to->store);
	snprintf(why, why_cap,
		"line %u: rule '%s' copies to '%s' what '%s' (line %u) moves to '%s', and a pack has one cold copy: "
		"name one store in both",
		copy->line, copy->name, copy->store, to->name, to->line, to->store);
	return -GRANARY_ECONFIG;
}

static int pair_check(struct rules *rules, const struct rule *a, const struct rule *b, char *why, size_t why_cap)
{
	int err = stores_check(rules, a, b, why, why_cap);

	if (err < 0) return err;
	if (a->class == RULE_RELIEF || b->class == RULE_RELIEF || apart(a, b)) return 0;
	if (a->class != b->class) return pin_check(a, b, why, why_cap);
	if (covers(a, b) && takes_all_it_matches(a)) {
		snprintf(why, why_cap,
			"line %u: rule '%s' can never decide: '%s' (line %u) matches all that it matches and stands "
			"before it; "
			"put the narrower rule first",
			b->line, b->name, a->name, a->line);
		return -GRANARY_ECONFIG;
	}
	return want_the_same(a, b) ? 0 : note(rules, a, b);
}

int rules_judge(struct rules *rules, char *why, size_t why_cap)
{
	char text[64];
	int err = names_check(rules, why, why_cap);

	for (uint32_t b = 1; err == 0 && b < rules->count; b++)
		for (uint32_t a = 0; err == 0 && a < b; a++)
			err = pair_check(rules, &rules->at[a], &rules->at[b], why, why_cap);
	if (err < 0 || rules->notes_left_out == 0) return err;
	snprintf(text, sizeof(text), "and %u more", rules->notes_left_out);
	rules->notes[rules->note_count] = strdup(text);
	return rules->notes[rules->note_count] && ++rules->note_count ? 0 : -GRANARY_ENOMEM;
}

uint32_t rules_notes(const struct rules *rules, const char *const **notes)
{
	*notes = (const char *const *)rules->notes;
	return rules->note_count;
}

bool rules_delete_anything(const struct rules *rules)
{
	for (uint32_t i = 0; i < rules->count; i++)
		if (rules->at[i].action == RULE_DELETE) return true;
	return false;
}
