/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_recipe.c -- recipes of any bytes: refused with a text, or written in a canonical form that is read as the same
 * and can be mixed or is refused with a text. */
#include "common/recipe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_mix(const struct recipe *r)
{
	static struct mix_source sources[MIX_SOURCES_MAX];
	static struct mix_stage stages[MIX_STAGES_MAX];
	static uint64_t samples[MIX_SOURCES_MAX];
	struct mix_spec spec = { .sources = sources, .sources_count = r->sources_count, .stages = stages,
		.stages_count = r->stages_count };
	char why[200] = "";
	struct mix m;

	for (uint32_t i = 0; i < r->sources_count; i++)
		samples[i] = 1000 + i * 77;
	recipe_mix(r, samples, sources, stages);
	spec.order = (struct order_spec){ .mode = ORDER_BLOCKS, .samples = r->samples, .block = r->block,
		.window = r->window, .lanes = r->lanes };
	if (mix_init(&m, &spec, why, sizeof(why)) < 0) {
		assert(why[0] != '\0');
		return;
	}
	for (uint64_t i = 0; i < 16; i++)
		mix_at(&m, m.order.samples / 16 * i + (i == 15 ? m.order.samples % 16 : 0));
	mix_release(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char why[200] = "", *text, *again;
	struct recipe r, back;
	size_t len;

	if (recipe_parse(&r, (const char *)data, size, why, sizeof(why)) < 0) {
		assert(why[0] != '\0');
		return 0;
	}
	len = recipe_canonical(&r, NULL, 0);
	text = malloc(len + 1);
	again = malloc(len + 1);
	assert(recipe_canonical(&r, text, len + 1) == len);
	assert(recipe_parse(&back, text, len, why, sizeof(why)) == 0);
	assert(recipe_canonical(&back, again, len + 1) == len && memcmp(text, again, len + 1) == 0);
	recipe_release(&back);
	try_mix(&r);
	recipe_release(&r);
	free(text);
	free(again);
	return 0;
}
