/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: rules are taken whole or refused with the line, the cause and the fix; which rule decides is what a
 * plain reading of the file says, for random rules and objects; many rules cost little. */
#include "jobs/rules.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/glob.h"
#include "common/rand.h"
#include "granary/error.h"

#define DAY UINT64_C(86400000000000)

static uint64_t store_id(void *arg, const char *name)
{
	(void)arg;
	return strcmp(name, "archive") == 0 ? 7 : strcmp(name, "attic") == 0 ? 8 : 0;
}

static int parse(const char *text, struct rules **out, char *why)
{
	const struct rules_env env = { store_id, NULL };

	return rules_parse(text, strlen(text), &env, out, why, RULE_WHY_MAX);
}

static struct rules *taken(const char *text)
{
	struct rules *rules;
	char why[RULE_WHY_MAX];

	if (parse(text, &rules, why) < 0) fail_msg("refused: %s\n%s", why, text);
	return rules;
}

static const char example[] = "stores:\n"
			      "  archive: { type: directory, path: /mnt/hdd }\n"
			      "rules:\n"
			      "  - name: keep recent\n"
			      "    match: { bucket: vision, prefix: raw/ }\n"
			      "    idle: 14d                      # last read\n"
			      "    to: archive\n"
			      "    compress: zstd:9\n"
			      "  - name: second copy\n"
			      "    match: { bucket: vision }\n"
			      "    copy: { to: archive, within: 5m }\n"
			      "  - name: watermark\n"
			      "    when: { hot_used_over: 85%, until: 80% }\n"
			      "    to: archive\n"
			      "    order: coldest\n"
			      "  - name: scratch\n"
			      "    match: { prefix: tmp/, size_under: 1MiB }\n"
			      "    age: 30d\n"
			      "    delete: true\n";

static const struct rule *decides(
	const struct rules *rules, enum rule_class class, const char *bucket, const char *key, uint64_t size)
{
	struct rule_scope scope = { 0 };
	struct rule_object o = { bucket, key, size, NULL };
	const char *slash = strrchr(key, '/');
	char dir[256];

	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - key + 1) : 0, key);
	assert_int_equal(0, rule_scope_open(&scope, rules, bucket, dir));
	const struct rule *r = rule_decide(&scope, class, &o);
	rule_scope_close(&scope);
	return r;
}

static void test_the_example(void **state)
{
	struct rules *rules = taken(example);
	const char *const *notes;

	(void)state;
	assert_int_equal(4, rules_count(rules));
	assert_int_equal(0, rules_notes(rules, &notes));
	assert_true(rules_delete_anything(rules));
	const struct rule *r = decides(rules, RULE_PLACE, "vision", "raw/a/b.png", 5);
	assert_ptr_equal(rules_at(rules, 0), r);
	assert_int_equal(9, r->level);
	assert_true(rule_due_ns(r, 5, 0) == 14 * DAY + 5);
	assert_true(rule_due_ns(r, 5, 100) == 14 * DAY + 100);
	struct rule by_age = { .age_ns = DAY };
	assert_true(rule_due_ns(&by_age, 5, 3 * DAY) == DAY + 5); /* read a moment ago */
	assert_null(decides(rules, RULE_PLACE, "vision", "cooked/a", 5));
	assert_null(decides(rules, RULE_PLACE, "other", "raw/a", 5));
	assert_ptr_equal(rules_at(rules, 1), decides(rules, RULE_COPIES, "vision", "x", 5));
	assert_ptr_equal(rules_at(rules, 2), decides(rules, RULE_RELIEF, "any", "x", 5));
	assert_ptr_equal(rules_at(rules, 3), decides(rules, RULE_DELETES, "any", "tmp/x", 1048575));
	assert_null(decides(rules, RULE_DELETES, "any", "tmp/x", 1048576));
	rules_free(&rules);
}

static void test_what_is_refused(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{ "", "needs a list `rules`" },
		{ "rules", "must be fields" },
		{ "rules: 5", "line 1: `rules` must be a list" },
		{ "a: [", "not YAML" },
		{ "rulez: []", "did you mean 'rules'" },
		{ "stores: {}", "there is no list `rules`" },
		{ "rules: []\nrules: []", "line 2: `rules` is given twice" },
		{ "rules:\n - nmae: x", "line 2: a rule has no field 'nmae'; did you mean 'name'" },
		{ "rules: [{ to: archive }]", "needs a `name`" },
		{ "rules: [{ name: '', to: archive }]", "`name` must have" },
		{ "rules: [{ name: x }]", "rule 'x': a rule needs one of" },
		{ "rules: [{ name: x, to: nowhere }]", "no store 'nowhere'" },
		{ "rules: [{ name: x, to: archive, delete: true }]", "`to` is given already" },
		{ "rules: [{ name: x, to: [archive] }]", "one value" },
		{ "rules: [{ name: x, to: archive, idle: 14 }]", "a duration like" },
		{ "rules: [{ name: x, to: archive, idle: 0s }]", "out of range" },
		{ "rules: [{ name: x, to: archive, idle: 99999d }]", "out of range" },
		{ "rules: [{ name: x, to: archive, compress: zstd:20 }]", "zstd:1 to zstd:19" },
		{ "rules: [{ name: x, to: archive, compress: lz4 }]", "zstd" },
		{ "rules: [{ name: x, to: archive, order: newest }]", "coldest" },
		{ "rules: [{ name: x, to: archive, weight: 0 }]", "out of range" },
		{ "rules: [{ name: x, to: archive, rate: fast }]", "bytes a second" },
		{ "rules: [{ name: x, to: archive, window: '1-6' }]", "01:00-06:00" },
		{ "rules: [{ name: x, to: archive, window: '01:00-24:00' }]", "01:00-06:00" },
		{ "rules: [{ name: x, to: archive, window: '01:00-01:00' }]", "never opens" },
		{ "rules: [{ name: x, to: archive, stop_after_error_pct: 101 }]", "out of range" },
		{ "rules: [{ name: x, to: archive, match: { size: 4 } }]", "match has no field 'size'" },
		{ "rules: [{ name: x, to: archive, match: { prefix: '' } }]", "leave it out" },
		{ "rules: [{ name: x, to: archive, match: { bucket: '' } }]", "no bucket" },
		{ "rules: [{ name: x, to: archive, match: { tag: '=a' } }]", "NAME=VALUE" },
		{ "rules: [{ name: x, to: archive, match: { size_over: 2MiB, size_under: 1MiB } }]", "must be less" },
		{ "rules: [{ name: x, to: archive, when: { hot_used_over: 80%, until: 80% } }]", "must be less" },
		{ "rules: [{ name: x, to: archive, when: { hot_used_over: 80% } }]", "needs both" },
		{ "rules: [{ name: x, to: archive, when: { hot_used_over: 80, until: 70% } }]", "a share like" },
		{ "rules: [{ name: x, delete: true, when: { hot_used_over: 80%, until: 70% } }]", "`to` only" },
		{ "rules: [{ name: x, to: archive, idle: 1d, when: { hot_used_over: 80%, until: 70% } }]",
			"coldest" },
		{ "rules: [{ name: x, delete: true }]", "would delete all at once" },
		{ "rules: [{ name: x, delete: true, idle: 5d }]", "goes by `age`" },
		{ "rules: [{ name: x, delete: yes, age: 5d }]", "only be true" },
		{ "rules: [{ name: x, pin: true, age: 5d }]", "holds at all times" },
		{ "rules: [{ name: x, drop_hot: true, compress: zstd }, { name: y, drop_hot: true, compress: zstd:5 "
		  "}]",
			"goes with" },
		{ "rules: [{ name: x, copy: { within: 5m } }]", "needs a store" },
		{ "rules: [{ name: x, copy: archive }]", "must be fields" },
		{ "rules: [{ name: x, to: archive, keep_last: 3 }]", "needs a `glob`" },
		{ "rules: [{ name: x, to: archive, keep_last: 3, match: { glob: 'a/*/' } }]", "names directories" },
		{ "rules: [{ name: x, to: archive }, { name: x, to: attic, match: { prefix: a } }]",
			"stands at line" },
		{ "rules:\n - { name: x, to: archive }\n - { name: y, to: attic, match: { prefix: a } }",
			"line 3: rule 'y' can never decide: 'x' (line 2)" },
		{ "rules:\n - { name: x, to: archive, match: { prefix: a/b } }\n - { name: y, pin: true, match: { "
		  "prefix: a } }",
			"pins all" },
		{ "rules:\n - { name: x, to: archive, idle: 5d }\n - { name: y, copy: { to: attic, within: 5m } }",
			"line 3: rule 'y' copies to 'attic' what 'x' (line 2) moves to 'archive'" },
		{ "rules:\n - { name: y, copy: { to: attic, within: 5m } }\n"
		  " - { name: w, to: archive, when: { hot_used_over: 80%, until: 70% } }",
			"one cold copy" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char why[RULE_WHY_MAX] = "";
		struct rules *rules;
		if (parse(cases[i].text, &rules, why) != -GRANARY_ECONFIG) fail_msg("taken: %s", cases[i].text);
		assert_null(rules);
		if (!strstr(why, cases[i].says)) fail_msg("%s\nsays: %s\nnot: %s", cases[i].text, why, cases[i].says);
	}
}

static void test_overlaps_are_noted(void **state)
{
	struct rules *rules = taken("rules:\n - { name: a, to: archive, match: { prefix: x/y } }\n"
				    " - { name: b, to: attic, match: { prefix: x } }\n"
				    " - { name: c, to: attic, match: { prefix: z } }\n"
				    " - { name: d, copy: { to: attic } }\n");
	const char *const *notes;

	(void)state;
	assert_int_equal(2, rules_notes(rules, &notes));
	assert_non_null(strstr(notes[0], "rule 'b' and rule 'a' (line 2)"));
	assert_non_null(strstr(notes[1], "rule 'd' copies to 'attic' what rule 'a' (line 2) may move to 'archive'"));
	rules_free(&rules);
}

static void test_windows(void **state)
{
	struct rules *rules = taken("rules:\n - { name: a, to: archive, window: '01:00-06:00' }\n"
				    " - { name: b, copy: { to: archive }, window: '22:30-02:00' }\n");
	const struct rule *day = rules_at(rules, 0), *night = rules_at(rules, 1);

	(void)state;
	assert_false(rule_window_open(day, 59));
	assert_true(rule_window_open(day, 60));
	assert_false(rule_window_open(day, 360));
	assert_true(rule_window_open(night, 23 * 60));
	assert_true(rule_window_open(night, 0));
	assert_false(rule_window_open(night, 120));
	rules_free(&rules);
}

static void test_directories_that_are_kept(void **state)
{
	struct rules *rules =
		taken("rules: [{ name: a, delete: true, keep_last: 2, match: { glob: 'runs/*/step-*' } }]");
	const struct rule *r = rules_at(rules, 0);

	(void)state;
	assert_int_equal(strlen("runs/7/step-10"), rule_kept_dir(r, "runs/7/step-10/rank0.pt"));
	assert_int_equal(strlen("runs/7/step-10"), rule_kept_dir(r, "runs/7/step-10/deep/er"));
	assert_int_equal(0, rule_kept_dir(r, "runs/7/step-10"));
	assert_int_equal(0, rule_kept_dir(r, "runs/7/log/x"));
	assert_int_equal(0, rule_kept_dir(r, "runs/7/8/step-1/x"));
	assert_ptr_equal(r, decides(rules, RULE_DELETES, "any", "runs/7/step-10/rank0.pt", 5));
	assert_null(decides(rules, RULE_DELETES, "any", "runs/7/log/x", 5)); /* nobody's */
	rules_free(&rules);
}

/* ---- random rules against a plain reading ---- */

static const char *const words[] = { "a/", "b/", "aa/", "ab/", "a", "x.png" };

static void random_path(struct rng *rng, char *out, size_t cap, uint64_t parts)
{
	out[0] = '\0';
	for (uint64_t i = 0; i < parts; i++) {
		size_t len = strlen(out);
		snprintf(out + len, cap - len, "%s", words[rng_below(rng, 6)]);
	}
}

static size_t random_rule(struct rng *rng, char *out, size_t cap, int number)
{
	static const char *const actions[] = { "to: archive, idle: 1d", "to: attic", "delete: true, age: 2d",
		"pin: true", "drop_hot: true", "copy: { to: archive }",
		"to: attic, when: { hot_used_over: 9%, until: 5% }" };
	char prefix[64];
	size_t n = (size_t)snprintf(out, cap, " - { name: r%d, %s, match: { bucket: b%d", number,
		actions[rng_below(rng, 7)], (int)rng_below(rng, 2));

	random_path(rng, prefix, sizeof(prefix), rng_below(rng, 3));
	if (prefix[0]) n += (size_t)snprintf(out + n, cap - n, ", prefix: '%s'", prefix);
	if (rng_below(rng, 4) == 0)
		n += (size_t)snprintf(out + n, cap - n, ", glob: '*%s'", words[rng_below(rng, 6)]);
	if (rng_below(rng, 4) == 0)
		n += (size_t)snprintf(out + n, cap - n, ", size_over: %d", (int)rng_below(rng, 9) + 1);
	if (rng_below(rng, 4) == 0)
		n += (size_t)snprintf(out + n, cap - n, ", size_under: %d", (int)rng_below(rng, 9) + 10);
	if (rng_below(rng, 6) == 0) n += (size_t)snprintf(out + n, cap - n, ", tag: k=%d", (int)rng_below(rng, 2));
	return n + (size_t)snprintf(out + n, cap - n, " } }\n");
}

/* The file read from its top. */
static const struct rule *plainly(const struct rules *rules, enum rule_class class, const struct rule_object *o)
{
	for (uint32_t i = 0; i < rules_count(rules); i++) {
		const struct rule *r = rules_at(rules, i);
		bool tagged = !r->tag_name ||
			      (o->tags && strncmp(o->tags, "k=", 2) == 0 && strcmp(o->tags + 2, r->tag_value) == 0);
		if (r->class == class && (!r->bucket[0] || strcmp(r->bucket, o->bucket) == 0) &&
			strncmp(o->key, r->prefix, strlen(r->prefix)) == 0 &&
			(!r->glob[0] || glob_match(r->glob, o->key)) && o->size >= r->size_over &&
			(!r->size_under || o->size < r->size_under) && tagged)
			return r;
	}
	return NULL;
}

static void compare_random(struct rng *rng, const struct rules *rules, struct rule_scope *scope)
{
	static const char *const tags[] = { NULL, "k=0\0", "k=1\0" };
	char key[128], dir[128];
	const char *bucket = rng_below(rng, 2) ? "b0" : "b1";

	random_path(rng, dir, sizeof(dir), rng_below(rng, 3));
	while (dir[0] && dir[strlen(dir) - 1] != '/') dir[strlen(dir) - 1] = '\0';
	assert_int_equal(0, rule_scope_open(scope, rules, bucket, dir));
	for (int i = 0; i < 8; i++) {
		char name[64];
		random_path(rng, name, sizeof(name), 1 + rng_below(rng, 2));
		snprintf(key, sizeof(key), "%s%s", dir, name);
		struct rule_object o = { bucket, key, rng_below(rng, 20), tags[rng_below(rng, 3)] };
		for (int c = 0; c < RULE_CLASSES; c++)
			assert_ptr_equal(
				plainly(rules, (enum rule_class)c, &o), rule_decide(scope, (enum rule_class)c, &o));
	}
}

static void test_the_first_that_matches_decides(void **state)
{
	struct rule_scope scope = { 0 };
	struct rng rng;
	char text[8192], why[RULE_WHY_MAX];
	int taken_count = 0;

	(void)state;
	rng_seed(&rng, 11);
	for (int round = 0; round < 4000; round++) {
		struct rules *rules;
		size_t n = (size_t)snprintf(text, sizeof(text), "rules:\n");
		int count = 1 + (int)rng_below(&rng, 12);
		for (int i = 0; i < count; i++) n += random_rule(&rng, text + n, sizeof(text) - n, i);
		if (parse(text, &rules, why) < 0) {
			/* and nothing else is wrong with them */
			assert_true(strstr(why, "can never decide") || strstr(why, "one cold copy"));
			continue;
		}
		taken_count++;
		for (int i = 0; i < 20; i++) compare_random(&rng, rules, &scope);
		rules_free(&rules);
	}
	rule_scope_close(&scope);
	assert_true(taken_count > 400);
}

static void test_ten_thousand_rules(void **state)
{
	enum { COUNT = 10000 };
	size_t cap = COUNT * 100, n;
	char *text = malloc(cap);

	(void)state;
	assert_non_null(text);
	n = (size_t)snprintf(text, cap, "rules:\n");
	for (int i = 0; i < COUNT; i++)
		n += (size_t)snprintf(
			text + n, cap - n, " - { name: r%d, to: archive, match: { prefix: 'p%05d/' } }\n", i, i);
	struct rules *rules = taken(text);
	assert_int_equal(COUNT, rules_count(rules));
	assert_ptr_equal(rules_at(rules, 7654), decides(rules, RULE_PLACE, "any", "p07654/x/y", 1));
	assert_null(decides(rules, RULE_PLACE, "any", "q/x", 1));
	rules_free(&rules);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_example),
		cmocka_unit_test(test_what_is_refused),
		cmocka_unit_test(test_overlaps_are_noted),
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_directories_that_are_kept),
		cmocka_unit_test(test_the_first_that_matches_decides),
		cmocka_unit_test(test_ten_thousand_rules),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
