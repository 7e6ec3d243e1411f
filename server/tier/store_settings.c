/* SPDX-License-Identifier: Apache-2.0 */
/* store_settings.c -- what the settings say about stores, and the table of their types.
 * Invariants: (1) a field is known to all stores or to its type, else the store is refused; (2) values have
 * no newline: a line is a field. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/quantity.h"
#include "tier/store.h"

static const struct cold_type *const types[] = { &cold_directory, &cold_s3 };
enum { TYPES = sizeof(types) / sizeof(types[0]), VALUE_MAX = 1100 };

/* Of every store: see tier/stores.h. */
static const char *const common_fields[] = { "type", "backup", "promote", "promote_after", "promote_space",
	"read_timeout",
	"price_gb_month",
	"price_1000_requests", "price_gb_egress", "use", NULL };

const struct cold_type *cold_type_find(const char *type)
{
	for (size_t i = 0; i < TYPES; i++)
		if (strcmp(types[i]->type, type) == 0) return types[i];
	return NULL;
}

/* The line of a field: its value, up to `*end`; NULL: there is none. */
static const char *line_of(const struct store_settings *s, const char *field, const char **end)
{
	size_t len = strlen(field);

	for (const char *p = s->text; *p != '\0';) {
		const char *nl = strchr(p, '\n');

		*end = nl != NULL ? nl : p + strlen(p);
		if (strncmp(p, field, len) == 0 && p[len] == '=') return p + len + 1;
		p = nl != NULL ? nl + 1 : *end;
	}
	return NULL;
}

bool store_setting(const struct store_settings *s, const char *field, char *buf, size_t cap)
{
	const char *end = NULL, *value = line_of(s, field, &end);

	if (cap > 0) buf[0] = '\0';
	if (value == NULL) return false;
	snprintf(buf, cap, "%.*s", (int)(end - value), value);
	return true;
}

int store_setting_add(struct store_settings *s, const char *field, const char *value, char *why, size_t why_cap)
{
	size_t len = strlen(s->text), left = sizeof(s->text) - len;
	const char *end;

	if (strpbrk(value, "\n\r") != NULL || strpbrk(field, "=\n\r") != NULL)
		snprintf(why, why_cap, "%s: a value has no line breaks", field);
	else if (line_of(s, field, &end) != NULL)
		snprintf(why, why_cap, "%s is given twice", field);
	else if (strlen(value) >= VALUE_MAX || (size_t)snprintf(s->text + len, left, "%s=%s\n", field,
		value) >= left) {
		s->text[len] = '\0';
		snprintf(why, why_cap, "%s: too long", field);
	} else
		return 0;
	return -GRANARY_ECONFIG;
}

static bool is_among(const char *const *names, const char *name, size_t len)
{
	for (; *names != NULL; names++)
		if (strlen(*names) == len && memcmp(*names, name, len) == 0) return true;
	return false;
}

static int fields_check(const struct store_settings *s, const struct cold_type *type, char *why, size_t why_cap)
{
	for (const char *p = s->text; *p != '\0'; p = strchr(p, '\n') + 1) {
		size_t len = strcspn(p, "=");
		size_t at = 0;

		if (is_among(common_fields, p, len) || is_among(type->fields, p, len)) continue;
		at = (size_t)snprintf(why, why_cap, "a store of type %s has no field '%.*s'; it has", type->type,
			(int)(len < 40 ? len : 40), p);
		for (const char *const *f = type->fields; *f != NULL && at < why_cap; f++)
			at += (size_t)snprintf(why + at, why_cap - at, " %s", *f);
		for (const char *const *f = common_fields; *f != NULL && at < why_cap; f++)
			at += (size_t)snprintf(why + at, why_cap - at, " %s", *f);
		return -GRANARY_ECONFIG;
	}
	return 0;
}

static int name_check(const char *name, char *why, size_t why_cap)
{
	size_t len = strlen(name);

	if (len > 0 && len < STORE_NAME_MAX && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == len)
		return 0;
	snprintf(why, why_cap, "'%.70s' is no name of a store: up to %d of a-z 0-9 - _", name, STORE_NAME_MAX - 1);
	return -GRANARY_ECONFIG;
}

static bool promotes_samples(const struct store_settings *s)
{
	char text[VALUE_MAX];

	return store_setting(s, "promote", text, sizeof(text)) && strcmp(text, "sample") == 0;
}

static int promote_check(const struct store_settings *s, char *why, size_t why_cap)
{
	char text[VALUE_MAX], *end;
	uint64_t bytes;

	if (store_setting(s, "use", text, sizeof(text)) && strcmp(text, "packs") != 0 && strcmp(text, "source") != 0) {
		snprintf(why, why_cap, "use: '%.40s' is neither packs nor source", text);
		return -GRANARY_ECONFIG;
	}
	if (store_setting(s, "promote", text, sizeof(text)) && strcmp(text, "none") != 0 &&
		strcmp(text, "sample") != 0 && strcmp(text, "pack") != 0) {
		snprintf(why, why_cap, "promote: '%.40s' is none of none, sample, pack", text);
		return -GRANARY_ECONFIG;
	}
	if (promotes_samples(s) && store_setting(s, "use", text, sizeof(text)) && strcmp(text, "source") == 0) {
		snprintf(why, why_cap, "promote: sample, but of a store with use: source whole packs are loaded");
		return -GRANARY_ECONFIG;
	}
	if (store_setting(s, "promote_space", text, sizeof(text)) &&
		(!promotes_samples(s) || !quantity_size(text, &bytes) || bytes < UINT64_C(16) << 20 ||
			bytes > UINT64_C(64) << 40)) {
		snprintf(why, why_cap, "promote_space: '%.40s' is not 16MiB to 64TiB, or promote is not sample", text);
		return -GRANARY_ECONFIG;
	}
	if (store_setting(s, "backup", text, sizeof(text)) && strcmp(text, "on") != 0 && strcmp(text, "off") != 0) {
		snprintf(why, why_cap, "backup: '%.40s' is neither on nor off", text);
		return -GRANARY_ECONFIG;
	}
	if (store_setting(s, "backup", text, sizeof(text)) && strcmp(text, "on") == 0 &&
		store_setting(s, "use", text, sizeof(text)) && strcmp(text, "source") == 0) {
		snprintf(why, why_cap, "backup: on, but a store with use: source is never written to");
		return -GRANARY_ECONFIG;
	}
	if (store_setting(s, "promote_after", text, sizeof(text)) &&
		(text[strspn(text, "0123456789")] != '\0' || strtoul(text, NULL, 10) - 1 > 999999 ||
			strlen(text) > 7)) {
		snprintf(why, why_cap, "promote_after: '%.40s' is no number of reads from 1 to 1000000", text);
		return -GRANARY_ECONFIG;
	}
	if (store_setting(s, "read_timeout", text, sizeof(text)) &&
		(strtod(text, &end) < 0.1 || strtod(text, &end) > 3600 || strcmp(end, "s") != 0)) {
		snprintf(why, why_cap, "read_timeout: '%.40s' is not 0.1s to 3600s", text);
		return -GRANARY_ECONFIG;
	}
	return 0;
}

static int prices_check(const struct store_settings *s, char *why, size_t why_cap)
{
	static const char *const names[] = { "price_gb_month", "price_1000_requests", "price_gb_egress" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char text[VALUE_MAX], *end = text;
		double v = store_setting(s, names[i], text, sizeof(text)) ? strtod(text, &end) : 0;

		if (*end == '\0' && v >= 0 && v < 1e9) continue;
		snprintf(why, why_cap, "%s: '%.40s' is no price: a number like 0.023", names[i], text);
		return -GRANARY_ECONFIG;
	}
	return 0;
}

int store_settings_check(const struct store_settings *s, char *why, size_t why_cap)
{
	const struct cold_type *type;
	char text[VALUE_MAX];
	struct cold *cold;
	int err = name_check(s->name, why, why_cap);

	if (err < 0) return err;
	if (!store_setting(s, "type", text, sizeof(text))) {
		snprintf(why, why_cap, "a store needs a type: directory or s3");
		return -GRANARY_ECONFIG;
	}
	type = cold_type_find(text);
	if (type == NULL) {
		snprintf(why, why_cap, "'%.40s' is no type of store that this server has", text);
		return -GRANARY_ECONFIG;
	}
	err = fields_check(s, type, why, why_cap);
	if (err == 0) err = promote_check(s, why, why_cap);
	if (err == 0) err = prices_check(s, why, why_cap);
	if (err < 0) return err;
	err = type->open(s, NULL, &cold, why, why_cap);
	if (err == 0) cold->ops->close(cold);
	return err;
}
