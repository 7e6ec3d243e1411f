/* SPDX-License-Identifier: Apache-2.0 */
/* config.c -- the table, the YAML file, printing and comparing.
 * A file is read twice: first by libyaml's events, which know line and column, against the table; then, known to be
 * good, by libcyaml into a struct made from the same table. Nothing changes unless both succeed. */
#include "config.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/nearest.h"
#include "config_value.h"
#include "granary/error.h"

const struct config_key_info config_keys[CONFIG_KEYS] = {
#define X(NAME, name_, type_, text_, min_, max_, reload_, help_) \
	[CONFIG_##NAME] = { #name_, text_, help_, type_, min_, max_, reload_ },
	CONFIG_TABLE(X)
#undef X
};

int config_key_find(const char *name)
{
	for (int i = 0; i < CONFIG_KEYS; i++)
		if (strcmp(config_keys[i].name, name) == 0) return i;
	return -1;
}

/* ---- names ---- */

static const char *nearest_key(const char *word)
{
	const char *names[CONFIG_KEYS];

	for (size_t i = 0; i < CONFIG_KEYS; i++) names[i] = config_keys[i].name;
	return nearest_word(word, names, CONFIG_KEYS);
}

/* ---- defaults and flags ---- */

static bool is_list(const struct config_key_info *k)
{
	return k->type == CONFIG_LIST || k->type == CONFIG_DRIVES || k->type == CONFIG_PLACES;
}

static void listen_default(struct config *c)
{
	char why[CONFIG_WHY_MAX];

	(void)config_address_parse(config_keys[CONFIG_LISTEN].text, c->listen[0], why, sizeof(why));
	c->listen_count = 1;
}

void config_init(struct config *c)
{
	char why[CONFIG_WHY_MAX];

	memset(c, 0, sizeof(*c));
	for (int i = 0; i < CONFIG_KEYS; i++)
		if (!is_list(&config_keys[i]))
			(void)config_value_parse((enum config_key)i, config_keys[i].text,
				&c->values[i], why, sizeof(why));
	listen_default(c);
}

/* DIR or DIR,SIZE. */
static int hot_flag(struct config *c, const char *text, char *why)
{
	struct drive_place place = { .size = 0 };
	char path[DRIVE_PATH_MAX];
	const char *comma = strrchr(text, ',');
	int err;

	if (c->values[CONFIG_HOT].source != CONFIG_FROM_FLAG) c->hot_count = 0;
	if (c->hot_count == CONFIG_HOT_MAX) {
		snprintf(why, CONFIG_WHY_MAX, "hot: more than %d directories", CONFIG_HOT_MAX);
		return -GRANARY_ECONFIG;
	}
	snprintf(path, sizeof(path), "%.*s", comma ? (int)(comma - text) : (int)strnlen(text, sizeof(path)), text);
	err = config_hot_path(path, &place, why, CONFIG_WHY_MAX);
	if (err == 0 && comma) err = config_hot_size(comma + 1, &place, why, CONFIG_WHY_MAX);
	if (err < 0) return err;
	c->hot[c->hot_count++] = place;
	c->values[CONFIG_HOT].source = CONFIG_FROM_FLAG;
	return 0;
}

/* NAME,FIELD=VALUE,... */
static int store_flag(struct config *c, const char *text, char *why)
{
	struct store_settings s = { .text = "" };
	char field[CONFIG_TEXT_MAX], what[CONFIG_WHY_MAX / 2];
	size_t len = strcspn(text, ",");
	int err = len < sizeof(s.name) ? 0 : -GRANARY_ECONFIG;

	if (c->values[CONFIG_STORES].source != CONFIG_FROM_FLAG) c->stores_count = 0;
	snprintf(what, sizeof(what), "the name is too long");
	if (err == 0) memcpy(s.name, text, len);
	for (text += len; err == 0 && *text == ',';) {
		len = strcspn(++text, ",");
		snprintf(field, sizeof(field), "%.*s", (int)(len < sizeof(field) ? len : sizeof(field) - 1), text);
		char *value = strchr(field, '=');
		snprintf(what, sizeof(what), "'%.64s' is not FIELD=VALUE", field);
		if (value) *value++ = '\0';
		err = value ? store_setting_add(&s, field, value, what, sizeof(what)) : -GRANARY_ECONFIG;
		text += len;
	}
	if (err == 0) err = store_settings_check(&s, what, sizeof(what));
	if (err == 0 && c->stores_count == STORES_MAX) {
		snprintf(what, sizeof(what), "more than %d stores", STORES_MAX);
		err = -GRANARY_ECONFIG;
	}
	if (err < 0) {
		snprintf(why, CONFIG_WHY_MAX, "stores: %s", what);
		return err;
	}
	c->stores[c->stores_count++] = s;
	c->values[CONFIG_STORES].source = CONFIG_FROM_FLAG;
	return 0;
}

int config_set_flag(struct config *c, enum config_key key, const char *text, char *why)
{
	struct config_value v = { .source = CONFIG_FROM_FLAG };
	int err;

	if (config_keys[key].type == CONFIG_DRIVES) return hot_flag(c, text, why);
	if (config_keys[key].type == CONFIG_PLACES) return store_flag(c, text, why);
	if (config_keys[key].type != CONFIG_LIST) {
		err = config_value_parse(key, text, &v, why, CONFIG_WHY_MAX);
		if (err < 0) return err;
		v.source = CONFIG_FROM_FLAG;
		c->values[key] = v;
		return 0;
	}
	if (c->values[key].source != CONFIG_FROM_FLAG) c->listen_count = 0;
	if (c->listen_count == CONFIG_LISTEN_MAX) {
		snprintf(why, CONFIG_WHY_MAX, "%s: more than %d addresses", config_keys[key].name,
			CONFIG_LISTEN_MAX);
		return -GRANARY_ECONFIG;
	}
	err = config_address_parse(text, c->listen[c->listen_count], why, CONFIG_WHY_MAX);
	if (err < 0) return err;
	c->listen_count++;
	c->values[key].source = CONFIG_FROM_FLAG;
	return 0;
}

/* ---- first reading: places ---- */

struct check {
	const char *name;
	char *why;
	yaml_parser_t parser;
	uint32_t lines[CONFIG_KEYS]; /* 0: not there */
	struct store_settings *stores; /* STORES_MAX */
	uint32_t stores_count;
};

__attribute__((format(printf, 3, 4))) static int check_fail(
	struct check *k, yaml_mark_t at, const char *fmt, ...)
{
	va_list args;
	int n = snprintf(
		k->why, CONFIG_WHY_MAX, "%.200s:%zu:%zu: ", k->name, at.line + 1, at.column + 1);

	va_start(args, fmt);
	if (n > 0 && n < CONFIG_WHY_MAX)
		vsnprintf(k->why + n, (size_t)(CONFIG_WHY_MAX - n), fmt, args);
	va_end(args);
	return -GRANARY_ECONFIG;
}

static int check_next(struct check *k, yaml_event_t *e)
{
	if (yaml_parser_parse(&k->parser, e)) {
		bool anchored =
			(e->type == YAML_SCALAR_EVENT && e->data.scalar.anchor) ||
			e->type == YAML_ALIAS_EVENT ||
			(e->type == YAML_SEQUENCE_START_EVENT && e->data.sequence_start.anchor) ||
			(e->type == YAML_MAPPING_START_EVENT && e->data.mapping_start.anchor);
		if (!anchored) return 0;
		int err = check_fail(k, e->start_mark, "anchors and aliases are not allowed");
		yaml_event_delete(e);
		return err;
	}
	const yaml_parser_t *p = &k->parser;
	yaml_mark_t at = p->problem_mark;
	return check_fail(k, at, "%s%s%s", p->problem ? p->problem : "not YAML",
		p->context ? ", " : "", p->context ? p->context : "");
}

/* Next event must be of this type; its content is dropped. */
static int check_expect(struct check *k, yaml_event_type_t type, const char *what)
{
	yaml_event_t e;
	int err = check_next(k, &e);

	if (err < 0) return err;
	if (e.type != type) err = check_fail(k, e.start_mark, "%s", what);
	yaml_event_delete(&e);
	return err;
}

static const char *scalar_text(const yaml_event_t *e)
{
	const char *text = (const char *)e->data.scalar.value;
	return strlen(text) == e->data.scalar.length ? text : NULL;
}

static int check_list(struct check *k, const char *name)
{
	char address[CONFIG_ADDRESS_MAX], what[CONFIG_WHY_MAX / 2];
	uint32_t count = 0;

	for (;;) {
		yaml_event_t e;
		int err = check_next(k, &e);
		if (err < 0) return err;
		if (e.type == YAML_SEQUENCE_END_EVENT) {
			if (count == 0)
				err = check_fail(k, e.start_mark, "%s: the list is empty", name);
			yaml_event_delete(&e);
			return err;
		}
		if (e.type != YAML_SCALAR_EVENT)
			err = check_fail(k, e.start_mark, "%s: a list of texts is needed", name);
		else if (++count > CONFIG_LISTEN_MAX)
			err = check_fail(k, e.start_mark, "%s: more than %d addresses", name,
				CONFIG_LISTEN_MAX);
		else if (!scalar_text(&e) ||
			 config_address_parse(scalar_text(&e), address, what, sizeof(what)) < 0)
			err = check_fail(k, e.start_mark, "%s: %s", name,
				scalar_text(&e) ? what : "a NUL byte");
		yaml_event_delete(&e);
		if (err < 0) return err;
	}
}

/* One value of a drive. */
static int check_drive_value(struct check *k, const char *name, struct drive_place *place)
{
	char what[CONFIG_WHY_MAX / 2];
	yaml_event_t e;
	int err = check_next(k, &e);

	if (err < 0) return err;
	if (e.type != YAML_SCALAR_EVENT || !scalar_text(&e))
		err = check_fail(k, e.start_mark, "hot: %s: one value is needed", name);
	else if ((strcmp(name, "path") == 0 ? config_hot_path(scalar_text(&e), place, what, sizeof(what))
					    : config_hot_size(scalar_text(&e), place, what, sizeof(what))) < 0)
		err = check_fail(k, e.start_mark, "hot: %s: %s", name, what);
	yaml_event_delete(&e);
	return err;
}

/* The mapping of one drive; its begin was taken. */
static int check_drive(struct check *k, yaml_mark_t at)
{
	static const char *const names[] = { "path", "size" };
	struct drive_place place = { .size = 0 };
	bool given[2] = { false, false };

	for (;;) {
		yaml_event_t e;
		int err = check_next(k, &e);
		if (err < 0) return err;
		bool end = e.type == YAML_MAPPING_END_EVENT;
		const char *name = e.type == YAML_SCALAR_EVENT ? scalar_text(&e) : NULL;
		unsigned i = 0;
		while (name && i < 2 && strcmp(name, names[i]) != 0) i++;
		if (!end && (!name || i == 2))
			err = check_fail(k, e.start_mark, "hot: path and size are what a drive has");
		else if (!end && given[i])
			err = check_fail(k, e.start_mark, "hot: %s is given twice", names[i]);
		yaml_event_delete(&e);
		if (err < 0) return err;
		if (end) return given[0] ? 0 : check_fail(k, at, "hot: a drive needs a path");
		given[i] = true;
		if ((err = check_drive_value(k, names[i], &place)) < 0) return err;
	}
}

static int check_drives(struct check *k)
{
	uint32_t count = 0;

	for (;;) {
		yaml_event_t e;
		int err = check_next(k, &e);
		if (err < 0) return err;
		bool end = e.type == YAML_SEQUENCE_END_EVENT;
		yaml_mark_t at = e.start_mark;
		if (!end && e.type != YAML_MAPPING_START_EVENT)
			err = check_fail(k, at, "hot: '- path: DIR' is needed");
		else if (!end && ++count > CONFIG_HOT_MAX)
			err = check_fail(k, at, "hot: more than %d directories", CONFIG_HOT_MAX);
		yaml_event_delete(&e);
		if (end || err < 0) return err;
		if ((err = check_drive(k, at)) < 0) return err;
	}
}

/* One field of a store. */
static int check_store_value(struct check *k, struct store_settings *s, const char *name)
{
	char what[CONFIG_WHY_MAX / 2];
	yaml_event_t e;
	int err = check_next(k, &e);

	if (err < 0) return err;
	if (e.type != YAML_SCALAR_EVENT || !scalar_text(&e))
		err = check_fail(k, e.start_mark, "stores: %s: %.64s: one value is needed", s->name, name);
	else if (store_setting_add(s, name, scalar_text(&e), what, sizeof(what)) < 0)
		err = check_fail(k, e.start_mark, "stores: %s: %s", s->name, what);
	yaml_event_delete(&e);
	return err;
}

/* The mapping of one store; its begin was taken. */
static int check_store(struct check *k, struct store_settings *s, yaml_mark_t at)
{
	char what[CONFIG_WHY_MAX / 2];

	for (;;) {
		yaml_event_t e;
		int err = check_next(k, &e);
		if (err < 0) return err;
		bool end = e.type == YAML_MAPPING_END_EVENT;
		const char *name = e.type == YAML_SCALAR_EVENT ? scalar_text(&e) : NULL;
		if (!end)
			err = name ? check_store_value(k, s, name)
				   : check_fail(k, e.start_mark, "stores: %s: 'FIELD: VALUE' is needed", s->name);
		yaml_event_delete(&e);
		if (err < 0) return err;
		if (!end) continue;
		if (store_settings_check(s, what, sizeof(what)) == 0) return 0;
		return check_fail(k, at, "stores: %s: %s", s->name, what);
	}
}

static int check_store_name(struct check *k, const yaml_event_t *e)
{
	const char *name = e->type == YAML_SCALAR_EVENT ? scalar_text(e) : NULL;
	struct store_settings *s = &k->stores[k->stores_count];

	if (!name || strlen(name) >= sizeof(s->name))
		return check_fail(k, e->start_mark, "stores: a name of up to %d bytes is needed", STORE_NAME_MAX - 1);
	if (k->stores_count == STORES_MAX) return check_fail(k, e->start_mark, "stores: more than %d", STORES_MAX);
	for (uint32_t i = 0; i < k->stores_count; i++)
		if (strcmp(k->stores[i].name, name) == 0)
			return check_fail(k, e->start_mark, "stores: '%s' is given twice", name);
	*s = (struct store_settings){ .text = "" };
	snprintf(s->name, sizeof(s->name), "%s", name);
	k->stores_count++;
	return 0;
}

static int check_stores(struct check *k)
{
	for (;;) {
		yaml_event_t e;
		int err = check_next(k, &e);
		if (err < 0) return err;
		bool end = e.type == YAML_MAPPING_END_EVENT;
		yaml_mark_t at = e.start_mark;
		if (!end) err = check_store_name(k, &e);
		yaml_event_delete(&e);
		if (end || err < 0) return err;
		err = check_expect(k, YAML_MAPPING_START_EVENT, "stores: fields are needed below the name of a store");
		if (err == 0) err = check_store(k, &k->stores[k->stores_count - 1], at);
		if (err < 0) return err;
	}
}

static int check_value(struct check *k, int key)
{
	const struct config_key_info *info = &config_keys[key];
	struct config_value value;
	char what[CONFIG_WHY_MAX / 2];
	yaml_event_t e;
	int err = check_next(k, &e);

	if (err < 0) return err;
	yaml_event_type_t type = e.type;
	yaml_event_type_t want = info->type == CONFIG_PLACES ? YAML_MAPPING_START_EVENT
				 : is_list(info)             ? YAML_SEQUENCE_START_EVENT
							     : YAML_SCALAR_EVENT;
	if (type != want)
		err = check_fail(k, e.start_mark, "%s: %s", info->name,
			info->type == CONFIG_LIST     ? "a list is needed, one '- ADDRESS' a line"
			: info->type == CONFIG_DRIVES ? "a list is needed, one '- path: DIR' a drive"
			: info->type == CONFIG_PLACES ? "names of stores are needed, their fields below each"
						      : "one value is needed");
	else if (type == YAML_SCALAR_EVENT && (!scalar_text(&e) || *scalar_text(&e) == '\0'))
		err = check_fail(k, e.start_mark, "%s: no value", info->name);
	else if (type == YAML_SCALAR_EVENT &&
		 config_value_parse(
			 (enum config_key)key, scalar_text(&e), &value, what, sizeof(what)) < 0)
		err = check_fail(k, e.start_mark, "%s", what);
	yaml_event_delete(&e);
	if (err == 0 && type == YAML_SEQUENCE_START_EVENT)
		err = info->type == CONFIG_DRIVES ? check_drives(k) : check_list(k, info->name);
	if (err == 0 && type == YAML_MAPPING_START_EVENT) err = check_stores(k);
	return err;
}

static int check_key(struct check *k, const yaml_event_t *e)
{
	const char *name = e->type == YAML_SCALAR_EVENT ? scalar_text(e) : NULL;

	if (!name) return check_fail(k, e->start_mark, "a key is needed here");
	int key = config_key_find(name);
	if (key < 0) {
		const char *near = nearest_key(name);
		return check_fail(k, e->start_mark, "unknown key '%.64s'%s%s%s", name,
			near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
	}
	if (k->lines[key] != 0)
		return check_fail(k, e->start_mark, "'%s' is given twice, first in line %u", name,
			k->lines[key]);
	k->lines[key] = (uint32_t)e->start_mark.line + 1;
	return check_value(k, key);
}

static int check_mapping(struct check *k)
{
	for (;;) {
		yaml_event_t e;
		int err = check_next(k, &e);
		if (err < 0) return err;
		bool end = e.type == YAML_MAPPING_END_EVENT;
		if (!end) err = check_key(k, &e);
		yaml_event_delete(&e);
		if (end || err < 0) return err;
	}
}

/* 1: there are settings; 0: an empty file. */
static int check_file(struct check *k)
{
	yaml_event_t e;
	int err = check_expect(k, YAML_STREAM_START_EVENT, "not YAML");

	if (err < 0 || (err = check_next(k, &e)) < 0) return err;
	bool empty = e.type == YAML_STREAM_END_EVENT;
	yaml_event_delete(&e);
	if (empty) return 0;
	err = check_next(k, &e);
	if (err < 0) return err;
	if (e.type != YAML_MAPPING_START_EVENT)
		err = check_fail(k, e.start_mark,
			"'key: value' lines are needed; see --print-default-config");
	yaml_event_delete(&e);
	if (err < 0 || (err = check_mapping(k)) < 0) return err;
	if ((err = check_expect(k, YAML_DOCUMENT_END_EVENT, "one document only")) < 0 ||
		(err = check_expect(k, YAML_STREAM_END_EVENT, "one document only")) < 0)
		return err;
	return 1;
}

/* ---- second reading: values ---- */

struct config_file_drive {
	char *path, *size;
};
#define FILE_FIELD_CONFIG_DRIVES(name) \
	struct config_file_drive *name; \
	unsigned name##_count;
#define FILE_FIELD_CONFIG_PLACES(name) /* taken by the first reading */
#define FILE_FIELD_CONFIG_LIST(name) \
	char **name; \
	unsigned name##_count;
#define FILE_FIELD_SCALAR(name)    char *name;
#define FILE_FIELD_CONFIG_PATH     FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_COUNT    FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_PRICE    FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_SIZE     FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_SHARE    FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_PERCENT  FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_DURATION FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_LEVEL    FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_ENGINE   FILE_FIELD_SCALAR
#define FILE_FIELD_CONFIG_SWITCH   FILE_FIELD_SCALAR

struct config_file { /* every value as its text; config_value.c reads them */
#define X(NAME, name, type, text, min, max, reload, help) FILE_FIELD_##type(name)
	CONFIG_TABLE(X)
#undef X
};

static const cyaml_schema_value_t text_schema = { CYAML_VALUE_STRING(
	CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED) };

static const cyaml_schema_field_t drive_fields[] = {
	CYAML_FIELD_STRING_PTR("path", CYAML_FLAG_POINTER, struct config_file_drive, path, 0, CYAML_UNLIMITED),
	CYAML_FIELD_STRING_PTR("size", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct config_file_drive, size, 0,
		CYAML_UNLIMITED),
	CYAML_FIELD_END
};
static const cyaml_schema_value_t drive_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_file_drive, drive_fields),
};

enum { OPTIONAL_POINTER = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL };
#define SCHEMA_CONFIG_LIST(name) \
	CYAML_FIELD_SEQUENCE(#name, OPTIONAL_POINTER, struct config_file, name, &text_schema, 0, \
		CONFIG_LISTEN_MAX),
#define SCHEMA_CONFIG_PLACES(name) CYAML_FIELD_IGNORE(#name, CYAML_FLAG_OPTIONAL),
#define SCHEMA_CONFIG_DRIVES(name) \
	CYAML_FIELD_SEQUENCE(#name, OPTIONAL_POINTER, struct config_file, name, &drive_schema, 0, CONFIG_HOT_MAX),
#define SCHEMA_SCALAR(name) \
	CYAML_FIELD_STRING_PTR( \
		#name, OPTIONAL_POINTER, struct config_file, name, 0, CYAML_UNLIMITED),
#define SCHEMA_CONFIG_PATH     SCHEMA_SCALAR
#define SCHEMA_CONFIG_COUNT    SCHEMA_SCALAR
#define SCHEMA_CONFIG_PRICE    SCHEMA_SCALAR
#define SCHEMA_CONFIG_SIZE     SCHEMA_SCALAR
#define SCHEMA_CONFIG_SHARE    SCHEMA_SCALAR
#define SCHEMA_CONFIG_PERCENT  SCHEMA_SCALAR
#define SCHEMA_CONFIG_DURATION SCHEMA_SCALAR
#define SCHEMA_CONFIG_LEVEL    SCHEMA_SCALAR
#define SCHEMA_CONFIG_ENGINE   SCHEMA_SCALAR
#define SCHEMA_CONFIG_SWITCH   SCHEMA_SCALAR

static const cyaml_schema_field_t fields_schema[] = {
#define X(NAME, name, type, text, min, max, reload, help) SCHEMA_##type(name)
	CONFIG_TABLE(X)
#undef X
		CYAML_FIELD_END
};
static const cyaml_schema_value_t file_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config_file, fields_schema),
};

static void *cyaml_memory(void *ctx, void *p, size_t size)
{
	(void)ctx;
	if (size > 0) return realloc(p, size);
	free(p);
	return NULL;
}
static const cyaml_config_t cyaml_options = {
	.mem_fn = cyaml_memory,
	.flags = CYAML_CFG_NO_ALIAS,
};

/* The texts of a file that passed the first reading. */
static void file_take(
	struct config *c, const struct config_file *file, const uint32_t lines[CONFIG_KEYS])
{
#define FILE_TEXT_CONFIG_LIST(name) NULL
#define FILE_TEXT_CONFIG_DRIVES(name) NULL
#define FILE_TEXT_CONFIG_PLACES(name) NULL
#define FILE_TEXT_SCALAR(name)      file->name
#define FILE_TEXT_CONFIG_PATH       FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_COUNT      FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_PRICE      FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_SIZE       FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_SHARE      FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_PERCENT    FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_DURATION   FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_LEVEL      FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_ENGINE     FILE_TEXT_SCALAR
#define FILE_TEXT_CONFIG_SWITCH     FILE_TEXT_SCALAR
	const char *const texts[CONFIG_KEYS] = {
#define X(NAME, name, type, text, min, max, reload, help) [CONFIG_##NAME] = FILE_TEXT_##type(name),
		CONFIG_TABLE(X)
#undef X
	};
	char why[CONFIG_WHY_MAX];

	for (int i = 0; i < CONFIG_KEYS; i++) {
		if (!texts[i]) continue;
		(void)config_value_parse(
			(enum config_key)i, texts[i], &c->values[i], why, sizeof(why));
		c->values[i].source = CONFIG_FROM_FILE;
		c->values[i].line = lines[i];
	}
	if (lines[CONFIG_HOT] != 0) {
		c->hot_count = 0;
		for (unsigned i = 0; i < file->hot_count; i++) {
			struct drive_place *place = &c->hot[c->hot_count++];

			place->size = 0;
			(void)config_hot_path(file->hot[i].path, place, why, sizeof(why));
			if (file->hot[i].size) (void)config_hot_size(file->hot[i].size, place, why, sizeof(why));
		}
		c->values[CONFIG_HOT].source = CONFIG_FROM_FILE;
		c->values[CONFIG_HOT].line = lines[CONFIG_HOT];
	}
	if (!file->listen) return;
	c->listen_count = 0;
	for (unsigned i = 0; i < file->listen_count; i++)
		(void)config_address_parse(
			file->listen[i], c->listen[c->listen_count++], why, sizeof(why));
	c->values[CONFIG_LISTEN].source = CONFIG_FROM_FILE;
	c->values[CONFIG_LISTEN].line = lines[CONFIG_LISTEN];
}

int config_parse(struct config *c, const char *name, const char *text, size_t len, char *why)
{
	struct store_settings stores[STORES_MAX];
	struct check k = { .name = name, .why = why, .stores = stores };
	struct config_file *file = NULL;

	if (!yaml_parser_initialize(&k.parser)) {
		snprintf(why, CONFIG_WHY_MAX, "out of memory");
		return -GRANARY_ECONFIG;
	}
	yaml_parser_set_input_string(&k.parser, (const unsigned char *)text, len);
	int res = check_file(&k);
	yaml_parser_delete(&k.parser);
	if (res < 0) return res;
	if (res == 1) {
		cyaml_err_t err = cyaml_load_data((const uint8_t *)text, len, &cyaml_options,
			&file_schema, (cyaml_data_t **)&file, NULL);
		if (err != CYAML_OK) {
			snprintf(why, CONFIG_WHY_MAX, "%.200s: %s", name, cyaml_strerror(err));
			return -GRANARY_ECONFIG;
		}
		file_take(c, file, k.lines);
		if (k.lines[CONFIG_STORES] != 0) {
			memcpy(c->stores, stores, sizeof(stores[0]) * k.stores_count);
			c->stores_count = k.stores_count;
			c->values[CONFIG_STORES].source = CONFIG_FROM_FILE;
			c->values[CONFIG_STORES].line = k.lines[CONFIG_STORES];
		}
		cyaml_free(&cyaml_options, &file_schema, file, 0);
	}
	snprintf(c->file, sizeof(c->file), "%s", name);
	return 0;
}

int config_load(struct config *c, const char *path, char *why)
{
	FILE *f = fopen(path, "re");

	if (!f) {
		snprintf(why, CONFIG_WHY_MAX, "cannot read '%.200s': %s", path, strerror(errno));
		return -GRANARY_ECONFIG;
	}
	char *text = malloc(CONFIG_FILE_MAX + 1);
	size_t len = text ? fread(text, 1, CONFIG_FILE_MAX + 1, f) : 0;
	bool failed = !text || ferror(f);
	int err = -GRANARY_ECONFIG;
	fclose(f);
	if (failed)
		snprintf(why, CONFIG_WHY_MAX, "cannot read '%.200s': %s", path, strerror(errno));
	else if (len > CONFIG_FILE_MAX)
		snprintf(why, CONFIG_WHY_MAX, "'%.200s' is larger than 64 KiB", path);
	else
		err = config_parse(c, path, text, len, why);
	free(text);
	return err;
}

/* ---- printing and comparing ---- */

static void print_help(const char *help, FILE *out)
{
	while (help) {
		const char *end = strchr(help, '\n');
		fprintf(out, "# %.*s\n", end ? (int)(end - help) : (int)strlen(help), help);
		help = end ? end + 1 : NULL;
	}
}

void config_print_default(FILE *out)
{
	fprintf(out, "# Settings of granaryd. Every key, its default commented out. Sizes: 16MiB, "
		     "4GiB; durations: 500ms, 5s,\n"
		     "# 10m. All but drain_rate, log_level and\n# slow_request need a restart.\n");
	for (int i = 0; i < CONFIG_KEYS; i++) {
		const struct config_key_info *k = &config_keys[i];
		fprintf(out, "\n");
		print_help(k->help, out);
		if (k->type == CONFIG_DRIVES)
			fprintf(out, "#%s:\n#  - path: /mnt/nvme0\n#    size: 3TiB\n", k->name);
		else if (k->type == CONFIG_PLACES)
			fprintf(out, "#%s:\n#  archive:\n#    type: directory\n#    path: /mnt/hdd\n", k->name);
		else if (k->type == CONFIG_LIST)
			fprintf(out, "#%s:\n#  - %s\n", k->name, k->text);
		else
			fprintf(out, "#%s: %s\n", k->name, *k->text ? k->text : "/var/lib/granary");
	}
}

static void print_source(const struct config *c, int key, FILE *out)
{
	const struct config_value *v = &c->values[key];

	if (v->source == CONFIG_FROM_FILE)
		fprintf(out, "  # %s:%u\n", c->file, v->line);
	else
		fprintf(out, "  # %s\n",
			v->source == CONFIG_FROM_FLAG ? "command line" : "default");
}

static void print_stores(const struct config *c, int key, FILE *out)
{
	fprintf(out, "%s:%s", config_keys[key].name, c->stores_count ? "" : " {}");
	print_source(c, key, out);
	for (uint32_t i = 0; i < c->stores_count; i++) {
		fprintf(out, "  %s:\n", c->stores[i].name);
		for (const char *line = c->stores[i].text; *line; line = strchr(line, '\n') + 1) {
			size_t field = strcspn(line, "="), all = strcspn(line, "\n");
			fprintf(out, "    %.*s: \"", (int)field, line);
			for (const char *p = line + field + 1; p < line + all; p++)
				fprintf(out, *p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
			fprintf(out, "\"\n");
		}
	}
}

void config_print_effective(const struct config *c, FILE *out)
{
	for (int i = 0; i < CONFIG_KEYS; i++) {
		if (config_keys[i].type == CONFIG_PLACES) {
			print_stores(c, i, out);
			continue;
		}
		if (config_keys[i].type == CONFIG_DRIVES) {
			fprintf(out, "%s:%s", config_keys[i].name, c->hot_count ? "" : " []");
			print_source(c, i, out);
			for (uint32_t n = 0; n < c->hot_count; n++)
				fprintf(out, "  - path: \"%s\"\n    size: %" PRIu64 "\n", c->hot[n].path,
					c->hot[n].size);
			continue;
		}
		if (config_keys[i].type != CONFIG_LIST) {
			const char *quote = config_keys[i].type == CONFIG_PATH ? "\"" : "";
			fprintf(out, "%s: %s%s%s", config_keys[i].name, quote, c->values[i].text,
				quote);
			print_source(c, i, out);
			continue;
		}
		fprintf(out, "%s:", config_keys[i].name);
		print_source(c, i, out);
		for (uint32_t n = 0; n < c->listen_count; n++)
			fprintf(out, "  - \"%s\"\n", c->listen[n]);
	}
}

static bool value_differs(const struct config *a, const struct config *b, int key)
{
	if (config_keys[key].type == CONFIG_DRIVES) {
		bool same = a->hot_count == b->hot_count;
		for (uint32_t i = 0; same && i < a->hot_count; i++)
			same = strcmp(a->hot[i].path, b->hot[i].path) == 0 && a->hot[i].size == b->hot[i].size;
		return !same;
	}
	if (config_keys[key].type == CONFIG_PLACES) {
		bool same = a->stores_count == b->stores_count;
		for (uint32_t i = 0; same && i < a->stores_count; i++)
			same = strcmp(a->stores[i].name, b->stores[i].name) == 0 &&
			       strcmp(a->stores[i].text, b->stores[i].text) == 0;
		return !same;
	}
	if (config_keys[key].type != CONFIG_LIST)
		return strcmp(a->values[key].text, b->values[key].text) != 0;
	if (a->listen_count != b->listen_count) return true;
	for (uint32_t i = 0; i < a->listen_count; i++)
		if (strcmp(a->listen[i], b->listen[i]) != 0) return true;
	return false;
}

uint32_t config_reload(struct config *old, const struct config *fresh, char *restart, size_t cap)
{
	uint32_t applied = 0;
	size_t len = 0;

	restart[0] = '\0';
	for (int i = 0; i < CONFIG_KEYS; i++) {
		if (!value_differs(old, fresh, i)) continue;
		if (config_keys[i].reload) {
			old->values[i] = fresh->values[i];
			applied++;
		} else if (len < cap) {
			int n = snprintf(restart + len, cap - len, "%s%s", len ? ", " : "",
				config_keys[i].name);
			len += n > 0 ? (size_t)n : 0;
		}
	}
	return applied;
}
