/* SPDX-License-Identifier: Apache-2.0 */
#include "config_value.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/nearest.h"
#include "common/quantity.h"
#include "granary/error.h"

static const char *const levels[] = { "error", "warn", "info", "debug", NULL };
static const char *const switches[] = { "off", "on", NULL };
static const char *const engines[] = { "auto", "uring", "threads", NULL };

static int word_parse(const char *text, const char *const *words, const char *what, uint64_t *out,
	char *why, size_t cap)
{
	size_t count = 0;

	for (; words[count]; count++) {
		if (strcmp(text, words[count]) == 0) {
			*out = count;
			return 0;
		}
	}
	const char *near = nearest_word(text, words, count);
	snprintf(why, cap, "'%.64s' is not %s%s%s%s", text, what, near ? "; did you mean '" : "",
		near ? near : "", near ? "'?" : "");
	return -GRANARY_ECONFIG;
}

static void limit_text(enum config_type type, uint64_t n, char *out, size_t cap)
{
	if (type == CONFIG_DURATION && n % UINT64_C(1000000000) == 0)
		snprintf(out, cap, "%" PRIu64 "s", n / UINT64_C(1000000000));
	else if (type == CONFIG_DURATION)
		snprintf(out, cap, "%" PRIu64 "ms", n / 1000000);
	else if (type == CONFIG_PERCENT)
		snprintf(out, cap, "%" PRIu64 "%%", n);
	else if (type != CONFIG_COUNT && n >= CONFIG_GIB && n % CONFIG_GIB == 0)
		snprintf(out, cap, "%" PRIu64 "GiB", n / CONFIG_GIB);
	else if (type != CONFIG_COUNT && n >= CONFIG_MIB && n % CONFIG_MIB == 0)
		snprintf(out, cap, "%" PRIu64 "MiB", n / CONFIG_MIB);
	else
		snprintf(out, cap, "%" PRIu64, n);
}

static int range_check(
	const struct config_key_info *k, const char *text, uint64_t n, char *why, size_t cap)
{
	char low[32], high[32];

	if (n >= k->min && n <= k->max) return 0;
	limit_text(k->type, k->min, low, sizeof(low));
	limit_text(k->type, k->max, high, sizeof(high));
	snprintf(why, cap, "%s: '%.64s' is out of range; %s to %s", k->name, text, low, high);
	return -GRANARY_ECONFIG;
}

static int unit_parse(const struct config_key_info *k, const char *text, struct config_value *out,
	char *why, size_t cap)
{
	static const struct {
		bool (*parse)(const char *text, uint64_t *out);
		const char *what;
	} kinds[] = {
		[CONFIG_COUNT] = { quantity_count, "a number" },
		[CONFIG_PRICE] = { quantity_price, "a price like 0.023 or 12" },
		[CONFIG_SIZE] = { quantity_size, "a size like 16MiB or 4GiB" },
		[CONFIG_SHARE] = { quantity_size, "a size like 4GiB or a share like 25%" },
		[CONFIG_PERCENT] = { quantity_percent, "a percentage like 30%" },
		[CONFIG_DURATION] = { quantity_duration, "a duration like 500ms, 5s or 10m" },
	};

	if (k->type == CONFIG_SHARE && quantity_percent(text, &out->number)) {
		out->is_percent = true;
		if (out->number >= 1 && out->number <= 90) return 0;
		snprintf(why, cap, "%s: '%.64s' is out of range; 1%% to 90%%", k->name, text);
		return -GRANARY_ECONFIG;
	}
	if (kinds[k->type].parse(text, &out->number))
		return range_check(k, text, out->number, why, cap);
	snprintf(why, cap, "%s: '%.64s' is not %s", k->name, text, kinds[k->type].what);
	return -GRANARY_ECONFIG;
}

int config_value_parse(
	enum config_key key, const char *text, struct config_value *out, char *why, size_t cap)
{
	const struct config_key_info *k = &config_keys[key];
	size_t len = strlen(text);

	memset(out, 0, sizeof(*out));
	if (len >= CONFIG_TEXT_MAX) {
		snprintf(why, cap, "%s: longer than %d bytes", k->name, CONFIG_TEXT_MAX - 1);
		return -GRANARY_ECONFIG;
	}
	memcpy(out->text, text, len + 1);
	switch (k->type) {
	case CONFIG_PATH:
		if (len > 0) return 0;
		snprintf(why, cap, "%s: an empty path", k->name);
		return -GRANARY_ECONFIG;
	case CONFIG_LEVEL:
		return word_parse(text, levels, "a log level: error, warn, info, debug",
			&out->number, why, cap);
	case CONFIG_ENGINE:
		return word_parse(
			text, engines, "an engine: auto, uring, threads", &out->number, why, cap);
	case CONFIG_SWITCH: return word_parse(text, switches, "on or off", &out->number, why, cap);
	case CONFIG_DRIVES:
		snprintf(why, cap, "%s: a list is needed, one '- path: DIR' a drive", k->name);
		return -GRANARY_ECONFIG;
	case CONFIG_PLACES:
		snprintf(why, cap, "%s: names of stores are needed, their fields below each", k->name);
		return -GRANARY_ECONFIG;
	case CONFIG_LIST:
		snprintf(why, cap, "%s: a list is needed, one '- ADDRESS' a line", k->name);
		return -GRANARY_ECONFIG;
	default: return unit_parse(k, text, out, why, cap);
	}
}

int config_hot_path(const char *text, struct drive_place *out, char *why, size_t cap)
{
	size_t len = strlen(text);

	if (text[0] != '/' || len >= sizeof(out->path)) {
		snprintf(why, cap, "'%.64s' is no path of a directory: absolute, up to %zu bytes", text,
			sizeof(out->path) - 1);
		return -GRANARY_ECONFIG;
	}
	while (len > 1 && text[len - 1] == '/') len--;
	memcpy(out->path, text, len);
	out->path[len] = '\0';
	return 0;
}

int config_hot_size(const char *text, struct drive_place *out, char *why, size_t cap)
{
	if (quantity_size(text, &out->size) && (out->size == 0 || out->size >= 64 * CONFIG_MIB)) return 0;
	snprintf(why, cap, "'%.64s' is not a size of 64MiB or more, like 3TiB (0: all of the drive)", text);
	return -GRANARY_ECONFIG;
}

/* HOST:PORT or [IPV6]:PORT. */
static bool host_port_ok(const char *s)
{
	const char *colon = strrchr(s, ':');
	uint64_t port;

	if (!colon || colon == s || !quantity_count(colon + 1, &port) || port > 65535)
		return false;
	if (*s == '[') return colon[-1] == ']' && colon - s > 2;
	return memchr(s, ':', (size_t)(colon - s)) == NULL;
}

int config_address_parse(const char *text, char out[CONFIG_ADDRESS_MAX], char *why, size_t cap)
{
	const char *rest = text;
	bool is_unix = strncmp(text, "unix:", 5) == 0;

	if (is_unix || strncmp(text, "tcp:", 4) == 0) rest = strchr(text, ':') + 1;
	if (is_unix ? rest[0] == '/' && strlen(rest) < 108
		    : host_port_ok(rest) && strlen(rest) < 100) {
		snprintf(out, CONFIG_ADDRESS_MAX, "%s:%s", is_unix ? "unix" : "tcp", rest);
		return 0;
	}
	snprintf(why, cap,
		"'%.64s' is not an address: HOST:PORT, [IPV6]:PORT or unix:/PATH (up to 107 bytes)",
		text);
	return -GRANARY_ECONFIG;
}
