/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_config.c -- any bytes as a config file: refused with a place, or taken whole and in range. */
#include "config.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config config;
	char why[CONFIG_WHY_MAX];

	config_init(&config);
	if (config_parse(&config, "fuzz", (const char *)data, size, why) < 0) {
		assert(strncmp(why, "fuzz:", 5) == 0);
		return 0;
	}
	assert(config.listen_count >= 1 && config.listen_count <= CONFIG_LISTEN_MAX);
	assert(config.hot_count <= CONFIG_HOT_MAX);
	for (uint32_t i = 0; i < config.hot_count; i++) assert(config.hot[i].path[0] == '/');
	for (int i = 0; i < CONFIG_KEYS; i++) {
		const struct config_value *v = &config.values[i];
		if (v->source == CONFIG_FROM_FILE && config_keys[i].max > 0 &&
			config_keys[i].type != CONFIG_LIST && config_keys[i].type != CONFIG_DRIVES && !v->is_percent)
			assert(v->number >= config_keys[i].min && v->number <= config_keys[i].max);
	}
	return 0;
}
