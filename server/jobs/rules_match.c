/* SPDX-License-Identifier: Apache-2.0 */
/* rules_match.c -- which rule decides. A scope finds its candidates by search: for each length that a prefix has, the
 * rules with just that beginning of the directory; and those whose prefixes begin with the directory, which are
 * neighbours. So a directory costs the logarithm of the rules and what fits, not all of them. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/glob.h"
#include "granary/error.h"
#include "jobs/rules_priv.h"

/* ---- one rule ---- */

static bool tag_matches(const struct rule *r, const char *tags)
{
	size_t len = r->tag_name ? strlen(r->tag_name) : 0;

	if (!r->tag_name) return true;
	for (const char *p = tags; p && *p; p += strlen(p) + 1)
		if (strncmp(p, r->tag_name, len) == 0 && p[len] == '=' &&
			(!r->tag_value || strcmp(p + len + 1, r->tag_value) == 0))
			return true;
	return false;
}

bool rule_matches(const struct rule *r, const struct rule_object *o)
{
	if (r->bucket[0] && strcmp(r->bucket, o->bucket) != 0) return false;
	if (strncmp(r->prefix, o->key, r->prefix_len) != 0) return false;
	if (o->size < r->size_over || (r->size_under && o->size >= r->size_under)) return false;
	if (!tag_matches(r, o->tags)) return false;
	if (r->keep_last) return rule_kept_dir(r, o->key) > 0;
	return !r->glob[0] || glob_match(r->glob, o->key);
}

static uint64_t later(uint64_t a, uint64_t add)
{
	uint64_t sum;

	return __builtin_add_overflow(a, add, &sum) ? UINT64_MAX : sum;
}

uint64_t rule_due_ns(const struct rule *r, uint64_t written_ns, uint64_t read_ns)
{
	uint64_t due = later(written_ns, r->age_ns);
	uint64_t idle = later(read_ns > written_ns ? read_ns : written_ns, r->idle_ns);

	return r->idle_ns && idle > due ? idle : due; /* by age alone, reads delay nothing */
}

bool rule_window_open(const struct rule *r, uint32_t minute)
{
	if (r->window_from == r->window_to) return true;
	if (r->window_from < r->window_to) return minute >= r->window_from && minute < r->window_to;
	return minute >= r->window_from || minute < r->window_to;
}

const char *rule_action_name(enum rule_action action)
{
	static const char *const names[] = { [RULE_TO] = "to",
		[RULE_DROP_HOT] = "drop_hot",
		[RULE_PIN] = "pin",
		[RULE_DELETE] = "delete",
		[RULE_COPY] = "copy" };

	return names[action];
}

/* ---- the index ---- */

static int place_compare(const void *a, const void *b, void *arg)
{
	uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
	const struct rule *at = arg;
	int order = strcmp(at[i].bucket, at[k].bucket);

	if (order == 0) order = strcmp(at[i].prefix, at[k].prefix);
	return order ? order : i < k ? -1 : i > k;
}

static int number_compare(const void *a, const void *b)
{
	return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

int rules_index(struct rules *rules)
{
	uint32_t n = rules->count, kept = 0;

	rules->sorted = malloc((n + 1) * sizeof(*rules->sorted));
	rules->lengths = malloc((n + 1) * sizeof(*rules->lengths));
	if (!rules->sorted || !rules->lengths) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		rules->sorted[i] = i;
		rules->lengths[i] = (uint16_t)rules->at[i].prefix_len;
	}
	if (n > 0) {
		qsort_r(rules->sorted, n, sizeof(*rules->sorted), place_compare, rules->at);
		qsort(rules->lengths, n, sizeof(*rules->lengths), number_compare);
	}
	for (uint32_t i = 0; i < n; i++)
		if (kept == 0 || rules->lengths[kept - 1] != rules->lengths[i])
			rules->lengths[kept++] = rules->lengths[i];
	rules->length_count = kept;
	return 0;
}

/* The order of a rule's bucket and the first len bytes of its prefix (all with len SIZE_MAX) against a place. */
static int rule_against(const struct rule *r, const char *bucket, const char *prefix, size_t prefix_len, bool whole)
{
	int order = strcmp(r->bucket, bucket);

	if (order) return order;
	order = strncmp(r->prefix, prefix, prefix_len);
	return order || !whole ? order : r->prefix_len > prefix_len;
}

/* The first rule in the sorted order that is not before (bucket, prefix). */
static uint32_t search(const struct rules *rules, const char *bucket, const char *prefix, size_t len)
{
	uint32_t low = 0, high = rules->count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		if (rule_against(&rules->at[rules->sorted[mid]], bucket, prefix, len, true) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int candidate_add(struct rule_scope *s, uint32_t index)
{
	if (s->count == s->cap) {
		uint32_t cap = s->cap ? 2 * s->cap : 16;
		uint32_t *grown = realloc(s->candidates, cap * sizeof(*grown));
		if (!grown) return -GRANARY_ENOMEM;
		s->candidates = grown;
		s->cap = cap;
	}
	s->candidates[s->count++] = index;
	return 0;
}

/* Rules whose prefix is just the first len bytes of dir, or (whole false) begins with them. */
static int candidates_take(struct rule_scope *s, const char *bucket, const char *dir, size_t len, bool whole)
{
	const struct rules *rules = s->rules;
	uint32_t i = search(rules, bucket, dir, len);

	for (int err; i < rules->count; i++) {
		if (rule_against(&rules->at[rules->sorted[i]], bucket, dir, len, whole) != 0) break;
		err = candidate_add(s, rules->sorted[i]);
		if (err < 0) return err;
	}
	return 0;
}

static int index_compare(const void *a, const void *b)
{
	uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;

	return i < k ? -1 : i > k;
}

int rule_scope_open(struct rule_scope *s, const struct rules *rules, const char *bucket, const char *dir)
{
	size_t dir_len = strlen(dir);
	const char *const buckets[] = { bucket, "" };
	int err = 0;

	s->rules = rules;
	s->count = 0;
	for (unsigned b = 0; b < 2; b++) {
		for (uint32_t i = 0; err == 0 && i < rules->length_count && rules->lengths[i] < dir_len; i++)
			err = candidates_take(s, buckets[b], dir, rules->lengths[i], true);
		if (err == 0) err = candidates_take(s, buckets[b], dir, dir_len, false);
	}
	if (err == 0 && s->count > 0) qsort(s->candidates, s->count, sizeof(*s->candidates), index_compare);
	return err;
}

void rule_scope_close(struct rule_scope *s)
{
	free(s->candidates);
	*s = (struct rule_scope){ 0 };
}

const struct rule *rule_decide(const struct rule_scope *s, enum rule_class class, const struct rule_object *o)
{
	for (uint32_t i = 0; i < s->count; i++) {
		const struct rule *r = &s->rules->at[s->candidates[i]];
		if (r->class == class && rule_matches(r, o)) return r;
	}
	return NULL;
}

size_t rule_kept_dir(const struct rule *r, const char *key)
{
	char dir[1025];
	size_t slashes = 0, len = 0;

	for (const char *p = r->glob; *p; p++) slashes += *p == '/';
	for (; key[len]; len++) {
		if (key[len] != '/' || slashes-- > 0) continue;
		if (len >= sizeof(dir)) return 0;
		memcpy(dir, key, len);
		dir[len] = '\0';
		return glob_match(r->glob, dir) ? len : 0;
	}
	return 0;
}
