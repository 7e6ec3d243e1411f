/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_rules.c -- any text as a file of rules: taken or refused with a reason; what is taken judges objects, and the
 * index agrees with each rule's own word. */
#include "jobs/rules.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t store_id(void *arg, const char *name)
{
	(void)arg;
	return strcmp(name, "archive") == 0;
}

static void judge(const struct rules *rules, const char *bucket, const char *dir, const char *key)
{
	struct rule_scope scope = { 0 };
	struct rule_object o = { bucket, key, 4096, "k=v\0" };

	if (rule_scope_open(&scope, rules, bucket, dir) == 0) {
		for (int c = 0; c < RULE_CLASSES; c++) {
			const struct rule *first = NULL, *r = rule_decide(&scope, (enum rule_class)c, &o);
			for (uint32_t i = 0; !first && i < rules_count(rules); i++)
				if ((int)rules_at(rules, i)->class == c && rule_matches(rules_at(rules, i), &o))
					first = rules_at(rules, i);
			assert(r == first);
		}
	}
	rule_scope_close(&scope);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct rules_env env = { store_id, NULL };
	struct rules *rules;
	char why[RULE_WHY_MAX] = "";

	if (rules_parse((const char *)data, size, &env, &rules, why, sizeof(why)) < 0) {
		assert(why[0] && !rules);
		return 0;
	}
	judge(rules, "vision", "raw/", "raw/a.png");
	judge(rules, "b", "", "a");
	if (rules_count(rules) > 0) {
		const struct rule *r = rules_at(rules, 0);
		judge(rules, r->bucket, r->prefix, r->prefix);
		(void)rule_kept_dir(r, "runs/1/step-2/x");
	}
	rules_free(&rules);
	return 0;
}
