/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: recipes are read strictly, errors name line and field, the canonical form is one for all ways of writing the
 * same thing and never changes, and what is read can be mixed. */
#include "common/recipe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/error.h"

#define SOURCE "{\"snapshot\":\"a@1\",\"weight\":1}"
#define WITH(fields) "{\"samples\":5,\"sources\":[{\"snapshot\":\"a@1\"," fields "}]}"
#define STAGED(stages) "{\"samples\":5,\"sources\":[" BARE "],\"stages\":" stages "}"
#define BARE "{\"snapshot\":\"a@1\"}"

static struct recipe recipe_of(const char *text)
{
	struct recipe r;
	char why[300] = "";

	if (recipe_parse(&r, text, strlen(text), why, sizeof(why)) < 0)
		fail_msg("%s", why);
	return r;
}

static void canonical_is(const char *text, const char *expected)
{
	struct recipe r = recipe_of(text);
	char buf[2000], small[10];

	assert_int_equal(recipe_canonical(&r, buf, sizeof(buf)), strlen(expected));
	assert_string_equal(buf, expected);
	assert_int_equal(recipe_canonical(&r, small, sizeof(small)), strlen(expected));
	assert_memory_equal(small, expected, sizeof(small) - 1);
	recipe_release(&r);
}

static void test_the_canonical_form_is_one_and_stays(void **state)
{
	const char *canonical =
		"{\"samples\":100,\"block\":64,\"window\":2,\"lanes\":12,\"sources\":[{\"snapshot\":\"vision@v1\","
		"\"hash\":\"0123456789abcdeffedcba9876543210\",\"weight\":3,\"include\":[\"a/*\",\"b\\\"\\u000a\"],"
		"\"exclude\":[\"c\"],\"include_keys\":[\"\xc3\xa9\xf0\x9f\x98\x80\"],\"exclude_keys\":[\"k\"]},"
		"{\"snapshot\":\"t@2\",\"weight\":1}]}";

	(void)state;
	canonical_is(canonical, canonical);
	canonical_is(" {\n\t\"sources\" : [ { \"weight\" : 300, \"exclude\":[\"c\"] , \"exclude_keys\":[\"k\"],"
		"\"include_keys\":[\"\\u00e9\\ud83d\\ude00\"], \"include\":[\"a\\/*\",\"b\\\"\\n\"],"
		"\"hash\":\"0123456789abcdeffedcba9876543210\", \"snapshot\":\"vision@v1\" },"
		"{\"snapshot\":\"t@2\",\"weight\":100,\"include\":[]}],\r\n"
		"\"lanes\":12,\"window\":2,\"block\":64,\"samples\":100}\n", canonical);
	canonical_is("{\"sources\":[{\"snapshot\":\"a@1\",\"repeat\":2}]}",
		"{\"sources\":[{\"snapshot\":\"a@1\",\"repeat\":2}]}");
	canonical_is("{\"samples\":9,\"sources\":[" BARE "," BARE "],\"stages\":[{\"from\":0,\"weights\":[2,0]},"
		"{\"weights\":[4,6],\"from\":5}]}",
		"{\"samples\":9,\"sources\":[" BARE "," BARE "],\"stages\":[{\"from\":0,\"weights\":[1,0]},"
		"{\"from\":5,\"weights\":[2,3]}]}");
}

static void test_the_hash_is_that_of_the_canonical_form(void **state)
{
	struct recipe a = recipe_of("{\"samples\":5,\"sources\":[{\"snapshot\":\"a@1\",\"weight\":7}]}");
	const char *text = "{\"samples\":5,\"sources\":[" SOURCE "]}";
	struct hash128 hash, expected = hash_content(text, strlen(text));

	(void)state;
	assert_int_equal(recipe_hash(&a, &hash), 0);
	assert_true(hash.lo == expected.lo && hash.hi == expected.hi);
	recipe_release(&a);
}

static void refused(const char *text, const char *says)
{
	struct recipe r;
	char why[300] = "";

	assert_int_equal(recipe_parse(&r, text, strlen(text), why, sizeof(why)), -GRANARY_EINVAL);
	if (strstr(why, says) == NULL)
		fail_msg("%s: '%s' does not say '%s'", text, why, says);
	assert_int_equal(recipe_parse(&r, text, strlen(text), NULL, 0), -GRANARY_EINVAL);
}

static void test_fields_are_refused_by_name(void **state)
{
	(void)state;
	refused(WITH("\"weight\":0"), "sources[0].weight: out of range");
	refused("{\"samples\":5,\n\"sources\":[" SOURCE ",{\"snapshot\":\"a@1\",\n\"weight\":-1}]}",
		"line 3: sources[1].weight: negative");
	refused(WITH("\"weight\":1.5"), "sources[0].weight: a fraction");
	refused(WITH("\"weight\":1e3"), "a fraction");
	refused(WITH("\"weight\":\"1\""), "expected a whole number");
	refused(WITH("\"weight\":01"), "leading 0");
	refused(WITH("\"weight\":1,\"wait\":1"), "sources[0]: unknown field 'wait'");
	refused(WITH("\"weight\":1,\"weight\":1"), "given twice");
	refused("{\"samples\":5,\"sources\":[{\"weight\":1}]}", "sources[0]: snapshot: missing");
	refused("{\"samples\":5,\"sources\":[" BARE "]}", "weight or repeat: missing");
	refused(WITH("\"weight\":1,\"repeat\":1"), "exclude each other");
	refused("{\"samples\":5,\"sources\":[]}", "sources: missing or empty");
	refused("{\"samples\":5}", "sources: missing or empty");
	refused("{\"sources\":[" SOURCE "]}", "samples: missing");
	refused("{\"samples\":99999999999999999999,\"sources\":[" SOURCE "]}", "samples: out of range");
	refused("{\"samples\":5,\"block\":6,\"sources\":[" SOURCE "]}", "block: it must be a power of two");
	refused("{\"samples\":5,\"seed\":6,\"sources\":[" SOURCE "]}", "unknown field 'seed'");
	refused(WITH("\"weight\":1,\"hash\":\"12\""), "32 hexadecimal");
	refused(WITH("\"weight\":1,\"include\":[\"\"]"), "include[0]: 0 bytes");
	refused(WITH("\"weight\":65536},{\"snapshot\":\"a@1\",\"weight\":1"),
		"65537; it must be 1 to 65536");
}

static void test_stages_are_checked(void **state)
{
	(void)state;
	refused("{\"samples\":5,\"sources\":[" SOURCE "],\"stages\":[{\"from\":0,\"weights\":[1]}]}", "the stages say");
	refused(STAGED("[]"), "stages: an empty list");
	refused(STAGED("[{\"weights\":[1]}]"), "stages[0]: from: missing");
	refused(STAGED("[{\"from\":0}]"), "stages[0]: weights: missing");
	refused(STAGED("[{\"from\":1,\"weights\":[1]}]"), "the first must be 0");
	refused(STAGED("[{\"from\":0,\"weights\":[1,2]}]"), "there are 1 sources");
	refused(STAGED("[{\"from\":0,\"weights\":[0]}]"), "stages[0]: the reduced sum");
	refused(STAGED("[{\"from\":0,\"weights\":[-1]}]"),
		"stages[0].weights[0]: negative");
	refused(STAGED("[{\"from\":0,\"weights\":[1]},{\"from\":5,\"weights\":[1]}]"),
		"stages[1]: from: beyond");
	refused(STAGED("[{\"from\":0,\"weights\":[1]},{\"from\":0,\"weights\":[1]}]"),
		"ascend");
	refused("{\"sources\":[" BARE "],\"stages\":[{\"from\":0,\"weights\":[1]}]}", "samples: missing");
}

static void test_wrong_json_is_refused(void **state)
{
	static const char *const texts[] = { "", " ", "[]", "{", "{\"", "{\"samples", "{\"samples\"", "{\"samples\":",
		"{\"samples\":1", "{\"samples\":1,", "{\"samples\":1,}",
		"{,}", "{\"samples\" 1}", "{\"samples\":1}x", "{samples:1}",
		"nul",
		"{\"sources\":{}}",
		"{\"sources\":[" SOURCE ",]}", "{\"sources\":[\"a\"]}", "{\"sources\":[{\"snapshot\":\"a\\x\"}]}",
		"{\"sources\":[{\"snapshot\":\"a\\u12\"}]}", "{\"sources\":[{\"snapshot\":\"\\u0000\"}]}",
		"{\"sources\":[{\"snapshot\":\"\\ud800\"}]}", "{\"sources\":[{\"snapshot\":\"\\ud800\\u0041\"}]}",
		"{\"sources\":[{\"snapshot\":\"\\udc00\"}]}", "{\"sources\":[{\"snapshot\":\"\xff\"}]}",
		"{\"sources\":[{\"snapshot\":\"a\nb\"}]}",
		"{\"sources\":[{\"snapshot\":\"a\\" };

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		refused(texts[i], "line ");
}

static void test_every_cut_of_a_recipe_is_refused(void **state)
{
	const char *text = "{\"samples\":9,\"sources\":[{\"snapshot\":\"a@1\",\"weight\":2,\"include\":[\"x\\u00e9\"]},"
		"{\"snapshot\":\"b@1\",\"repeat\":3}]}";
	struct recipe r;

	(void)state;
	for (size_t len = 0; len < strlen(text); len++) {
		char *cut = malloc(len + 1); /* as large as the text, so that a sanitizer sees a read past it */
		memcpy(cut, text, len);
		assert_int_equal(recipe_parse(&r, cut, len, NULL, 0), -GRANARY_EINVAL);
		free(cut);
	}
	r = recipe_of(text);
	recipe_release(&r);
}

static void test_too_much_is_refused(void **state)
{
	static char text[RECIPE_TEXT_MAX + 2];
	struct recipe r;
	char *p = text;

	(void)state;
	memset(text, ' ', sizeof(text));
	assert_int_equal(recipe_parse(&r, text, sizeof(text), NULL, 0), -GRANARY_ETOOBIG);
	p += snprintf(p, 100, "{\"samples\":5,\"sources\":[");
	for (int i = 0; i < 257; i++)
		p += snprintf(p, 100, "%s" SOURCE, i ? "," : "");
	snprintf(p, 100, "]}");
	refused(text, "at most 256 sources");
	p = text + snprintf(text, 100, "{\"samples\":5,\"sources\":[{\"snapshot\":\"");
	memset(p, 'a', RECIPE_STRING_MAX + 1);
	snprintf(p + RECIPE_STRING_MAX + 1, 100, "\",\"weight\":1}]}");
	refused(text, "2051 bytes");
}

static void test_a_recipe_can_be_mixed(void **state)
{
	struct recipe r = recipe_of("{\"samples\":900,\"sources\":[" BARE "," BARE "],\"stages\":[{\"from\":0,"
		"\"weights\":[2,0]},{\"from\":300,\"weights\":[4,6]}]}");
	const uint64_t samples[] = { 100, 200 };
	struct mix_source sources[MIX_SOURCES_MAX];
	struct mix_stage stages[MIX_STAGES_MAX];
	struct mix_spec spec = { { .mode = ORDER_EXACT, .samples = r.samples }, sources, r.sources_count, stages,
		r.stages_count };
	struct mix m;
	char why[200];

	(void)state;
	recipe_mix(&r, samples, sources, stages);
	assert_int_equal(mix_init(&m, &spec, why, sizeof(why)), 0);
	assert_int_equal(mix_count(&m, 0, 0, 900), 300 + 240);
	mix_release(&m);
	recipe_release(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_canonical_form_is_one_and_stays),
		cmocka_unit_test(test_the_hash_is_that_of_the_canonical_form),
		cmocka_unit_test(test_fields_are_refused_by_name),
		cmocka_unit_test(test_stages_are_checked),
		cmocka_unit_test(test_wrong_json_is_refused),
		cmocka_unit_test(test_every_cut_of_a_recipe_is_refused),
		cmocka_unit_test(test_too_much_is_refused),
		cmocka_unit_test(test_a_recipe_can_be_mixed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
