/* SPDX-License-Identifier: Apache-2.0 */
/* rules_parse.c -- the text: YAML by libyaml, then one table of fields. What rules mean together is rules_judge.c.
 * A document without `rules` is an error; `stores`, which the server's own settings name, may stand beside it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/nearest.h"
#include "common/quantity.h"
#include "granary/error.h"
#include "jobs/rules_priv.h"

struct parse {
	yaml_document_t doc;
	const struct rules_env *env;
	struct rules *rules;
	struct rule *rule; /* at hand */
	bool has_action, has_when;
	char *why;
	size_t why_cap;
	int err;
};

__attribute__((format(printf, 3, 4))) static bool refuse(
	struct parse *p, const yaml_node_t *at, const char *format, ...)
{
	char what[RULE_WHY_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	if (p->err == 0)
		snprintf(p->why, p->why_cap, "line %zu: %s%s%s%s", at ? at->start_mark.line + 1 : 1,
			p->rule && p->rule->name[0] ? "rule '" : "", p->rule ? p->rule->name : "",
			p->rule && p->rule->name[0] ? "': " : "", what);
	p->err = -GRANARY_ECONFIG;
	return false;
}

static bool no_memory(struct parse *p)
{
	refuse(p, NULL, "out of memory");
	p->err = -GRANARY_ENOMEM;
	return false;
}

/* The text of a scalar without NUL; NULL: refused. */
static const char *scalar(struct parse *p, const yaml_node_t *node, const char *field)
{
	const char *text = (const char *)node->data.scalar.value;

	if (node->type != YAML_SCALAR_NODE) {
		refuse(p, node, "`%s` must be one value", field);
		return NULL;
	}
	if (strlen(text) == node->data.scalar.length) return text;
	refuse(p, node, "`%s` has a NUL in it", field);
	return NULL;
}

/* ---- mappings by table ---- */

typedef bool take_fn(struct parse *p, const yaml_node_t *value, const char *field);
struct field {
	const char *name;
	take_fn *take;
};

static bool mapping_take(struct parse *p, const yaml_node_t *map, const char *what, const struct field *fields)
{
	const char *names[32];
	size_t count = 0;
	uint32_t seen = 0;

	if (map->type != YAML_MAPPING_NODE) return refuse(p, map, "%s must be fields and values", what);
	for (; fields[count].name; count++) names[count] = fields[count].name;
	for (const yaml_node_pair_t *pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top;
		pair++) {
		const yaml_node_t *key = yaml_document_get_node(&p->doc, pair->key);
		const yaml_node_t *value = yaml_document_get_node(&p->doc, pair->value);
		const char *name = scalar(p, key, what);
		size_t i = 0;
		if (!name) return false;
		while (i < count && strcmp(names[i], name) != 0) i++;
		if (i == count) {
			const char *near = nearest_word(name, names, count);
			return refuse(p, key, "%s has no field '%.40s'%s%s%s", what, name,
				near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
		}
		if (seen & (UINT32_C(1) << i)) return refuse(p, key, "`%s` is given twice", name);
		seen |= UINT32_C(1) << i;
		if (!fields[i].take(p, value, name)) return false;
	}
	return true;
}

/* ---- values ---- */

static bool take_number(struct parse *p, const yaml_node_t *v, const char *field,
	bool (*parse)(const char *, uint64_t *), const char *what, uint64_t least, uint64_t most, uint64_t *out)
{
	const char *text = scalar(p, v, field);

	if (!text) return false;
	if (!parse(text, out)) return refuse(p, v, "`%s: %.40s` is not %s", field, text, what);
	if (*out < least || *out > most) return refuse(p, v, "`%s: %.40s` is out of range", field, text);
	return true;
}

static bool take_text(struct parse *p, const yaml_node_t *v, const char *field, size_t max, char **out)
{
	const char *text = scalar(p, v, field);

	if (!text) return false;
	if (!*text || strlen(text) > max)
		return refuse(p, v, "`%s` must have 1 to %zu bytes: leave it out to match anything", field, max);
	free(*out);
	*out = strdup(text);
	return *out || no_memory(p);
}

static bool take_u32(struct parse *p, const yaml_node_t *v, const char *field,
	bool (*parse)(const char *, uint64_t *), const char *what, uint32_t least, uint32_t most, uint32_t *out)
{
	uint64_t n;

	if (!take_number(p, v, field, parse, what, least, most, &n)) return false;
	*out = (uint32_t)n;
	return true;
}

#define DURATION_MAX (UINT64_C(100) * 366 * 86400 * 1000000000)
static bool take_duration(struct parse *p, const yaml_node_t *v, const char *field, uint64_t *out)
{
	return take_number(p, v, field, quantity_duration, "a duration like 5m, 12h or 14d", 1, DURATION_MAX, out);
}

static bool take_true(struct parse *p, const yaml_node_t *v, const char *field)
{
	const char *text = scalar(p, v, field);

	if (!text) return false;
	return strcmp(text, "true") == 0 || refuse(p, v, "`%s` can only be true; leave it out otherwise", field);
}

static bool take_action(struct parse *p, const yaml_node_t *v, enum rule_action action, enum rule_class class)
{
	if (p->has_action)
		return refuse(p, v,
			"a rule has one of `to`, `copy`, `drop_hot`, `delete`, `pin`: `%s` is given already",
			rule_action_name(p->rule->action));
	p->has_action = true;
	p->rule->action = action;
	p->rule->class = class;
	return true;
}

static bool take_store(struct parse *p, const yaml_node_t *v, const char *field)
{
	const char *name = scalar(p, v, field);

	if (!name) return false;
	if (strlen(name) < sizeof(p->rule->store)) {
		snprintf(p->rule->store, sizeof(p->rule->store), "%s", name);
		p->rule->store_id = p->env->store(p->env->arg, name);
	}
	return p->rule->store_id ||
	       refuse(p, v, "there is no store '%.64s': name one of `stores` in the server's settings", name);
}

/* ---- match ---- */

static bool match_bucket(struct parse *p, const yaml_node_t *v, const char *field)
{
	const char *text = scalar(p, v, field);

	if (!text) return false;
	if (!*text || strlen(text) >= sizeof(p->rule->bucket))
		return refuse(p, v, "`bucket: %.70s` names no bucket", text);
	snprintf(p->rule->bucket, sizeof(p->rule->bucket), "%s", text);
	return true;
}
static bool match_prefix(struct parse *p, const yaml_node_t *v, const char *field)
{
	if (!take_text(p, v, field, 1024, &p->rule->prefix)) return false;
	p->rule->prefix_len = strlen(p->rule->prefix);
	return true;
}
static bool match_glob(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_text(p, v, field, 1024, &p->rule->glob);
}
static bool match_size_over(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_number(
		p, v, field, quantity_size, "a size like 64KiB or 4GiB", 1, UINT64_MAX / 2, &p->rule->size_over);
}
static bool match_size_under(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_number(
		p, v, field, quantity_size, "a size like 64KiB or 4GiB", 1, UINT64_MAX / 2, &p->rule->size_under);
}
static bool match_tag(struct parse *p, const yaml_node_t *v, const char *field)
{
	char *equals;

	if (!take_text(p, v, field, 385, &p->rule->tag_name)) return false;
	equals = strchr(p->rule->tag_name, '=');
	if (equals == p->rule->tag_name) return refuse(p, v, "`tag` is NAME or NAME=VALUE");
	if (!equals) return true;
	*equals = '\0';
	p->rule->tag_value = strdup(equals + 1);
	return p->rule->tag_value || no_memory(p);
}

static bool rule_match(struct parse *p, const yaml_node_t *v, const char *field)
{
	static const struct field fields[] = { { "bucket", match_bucket }, { "prefix", match_prefix },
		{ "glob", match_glob }, { "size_over", match_size_over }, { "size_under", match_size_under },
		{ "tag", match_tag }, { 0 } };

	return mapping_take(p, v, field, fields);
}

/* ---- when ---- */

static bool rule_age(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_duration(p, v, field, &p->rule->age_ns);
}
static bool rule_idle(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_duration(p, v, field, &p->rule->idle_ns);
}
static bool when_over(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_u32(p, v, field, quantity_percent, "a share like 85%", 1, 99, &p->rule->over_percent);
}
static bool when_until(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_u32(p, v, field, quantity_percent, "a share like 80%", 1, 98, &p->rule->until_percent);
}
static bool rule_when(struct parse *p, const yaml_node_t *v, const char *field)
{
	static const struct field fields[] = { { "hot_used_over", when_over }, { "until", when_until }, { 0 } };

	if (!mapping_take(p, v, field, fields)) return false;
	if (!p->rule->over_percent || !p->rule->until_percent)
		return refuse(p, v, "`when` needs both `hot_used_over` and `until`");
	p->has_when = true;
	return p->rule->until_percent < p->rule->over_percent ||
	       refuse(p, v, "`until: %u%%` must be less than `hot_used_over: %u%%`", p->rule->until_percent,
		       p->rule->over_percent);
}
static bool rule_keep_last(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_u32(p, v, field, quantity_count, "a number", 1, 1000000, &p->rule->keep_last);
}

/* ---- what ---- */

static bool rule_to(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_action(p, v, RULE_TO, RULE_PLACE) && take_store(p, v, field);
}
static bool copy_within(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_duration(p, v, field, &p->rule->within_ns);
}
static bool rule_copy(struct parse *p, const yaml_node_t *v, const char *field)
{
	static const struct field fields[] = { { "to", take_store }, { "within", copy_within }, { 0 } };

	if (!take_action(p, v, RULE_COPY, RULE_COPIES) || !mapping_take(p, v, field, fields)) return false;
	return p->rule->store_id || refuse(p, v, "`copy` needs a store: copy: { to: NAME }");
}
static bool rule_drop_hot(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_true(p, v, field) && take_action(p, v, RULE_DROP_HOT, RULE_PLACE);
}
static bool rule_delete(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_true(p, v, field) && take_action(p, v, RULE_DELETE, RULE_DELETES);
}
static bool rule_pin(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_true(p, v, field) && take_action(p, v, RULE_PIN, RULE_PINS);
}

/* ---- how ---- */

static bool rule_compress(struct parse *p, const yaml_node_t *v, const char *field)
{
	const char *text = scalar(p, v, field);
	uint64_t level;

	if (!text) return false;
	p->rule->level = 0;
	if (strcmp(text, "none") == 0) return true;
	p->rule->level = RULE_LEVEL_DEFAULT;
	if (strcmp(text, "zstd") == 0) return true;
	if (strncmp(text, "zstd:", 5) != 0 || !quantity_count(text + 5, &level) || level < 1 ||
		level > RULE_LEVEL_MAX)
		return refuse(p, v, "`compress: %.40s` is not none, zstd or zstd:1 to zstd:%d", text, RULE_LEVEL_MAX);
	p->rule->level = (uint32_t)level;
	return true;
}
static bool rule_order(struct parse *p, const yaml_node_t *v, const char *field)
{
	static const char *const names[] = { "coldest", "oldest", "largest" };
	const char *text = scalar(p, v, field);

	if (!text) return false;
	for (unsigned i = 0; i < 3; i++)
		if (strcmp(names[i], text) == 0) {
			p->rule->order = (enum rule_order)i;
			return true;
		}
	return refuse(p, v, "`order: %.40s` is not coldest, oldest or largest", text);
}
static bool rule_weight(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_u32(p, v, field, quantity_count, "a number", 1, 1000, &p->rule->weight);
}
static bool rule_rate(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_number(
		p, v, field, quantity_size, "bytes a second like 100MiB", 65536, UINT64_MAX / 2, &p->rule->rate);
}
static bool rule_window(struct parse *p, const yaml_node_t *v, const char *field)
{
	const char *text = scalar(p, v, field);
	char from[6] = "";

	if (!text) return false;
	if (strlen(text) == 11 && text[5] == '-') snprintf(from, sizeof(from), "%.5s", text);
	if (!from[0] || !quantity_clock(from, &p->rule->window_from) ||
		!quantity_clock(text + 6, &p->rule->window_to))
		return refuse(p, v, "`window: %.40s` is not like \"01:00-06:00\"", text);
	return p->rule->window_from != p->rule->window_to || refuse(p, v, "`window: %s` never opens", text);
}
static bool rule_stop(struct parse *p, const yaml_node_t *v, const char *field)
{
	return take_u32(
		p, v, field, quantity_count, "a number of percent", 1, 100, &p->rule->stop_after_error_percent);
}
static bool rule_name(struct parse *p, const yaml_node_t *v, const char *field)
{
	const char *text = scalar(p, v, field);

	if (!text) return false;
	if (!*text || strlen(text) > RULE_NAME_MAX)
		return refuse(p, v, "`name` must have 1 to %d bytes", RULE_NAME_MAX);
	for (const char *c = text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 127) return refuse(p, v, "`name` has a control character in it");
	snprintf(p->rule->name, sizeof(p->rule->name), "%s", text);
	return true;
}

static const struct field rule_fields[] = { { "name", rule_name }, { "match", rule_match }, { "age", rule_age },
	{ "idle", rule_idle }, { "when", rule_when }, { "keep_last", rule_keep_last }, { "to", rule_to },
	{ "copy", rule_copy }, { "drop_hot", rule_drop_hot }, { "delete", rule_delete }, { "pin", rule_pin },
	{ "compress", rule_compress }, { "order", rule_order }, { "weight", rule_weight }, { "rate", rule_rate },
	{ "window", rule_window }, { "stop_after_error_pct", rule_stop }, { 0 } };

/* ---- what goes together in one rule ---- */

/* Why the rule makes no sense, or NULL. */
static const char *rule_nonsense(const struct parse *p)
{
	const struct rule *r = p->rule;
	bool moves = r->action == RULE_TO || r->action == RULE_COPY;

	if (!r->name[0]) return "a rule needs a `name`";
	if (!p->has_action) return "a rule needs one of `to`, `copy`, `drop_hot`, `delete`, `pin`";
	if (p->has_when && r->action != RULE_TO) return "`when` goes with `to` only";
	if (p->has_when && (r->age_ns || r->idle_ns || r->keep_last))
		return "`when` moves what is coldest whatever its age: leave `age`, `idle` and `keep_last` out";
	if (r->level != RULE_LEVEL_DEFAULT && !moves) return "`compress` goes with `to` and `copy` only";
	if (r->action == RULE_PIN && (r->age_ns || r->idle_ns || r->keep_last || r->rate))
		return "`pin` holds at all times: leave `age`, `idle`, `keep_last` and `rate` out";
	if (r->action == RULE_DELETE && r->idle_ns)
		return "`delete` goes by `age`: a read that was not recorded must not decide what is lost";
	if (r->action == RULE_DELETE && !r->age_ns && !r->keep_last)
		return "`delete` needs `age` or `keep_last`: without one it would delete all at once";
	if (r->action == RULE_COPY && r->idle_ns) return "`copy` goes by `age` or `within`, not by `idle`";
	if (r->keep_last && !r->glob[0]) return "`keep_last` needs a `glob` in `match` that names directories";
	if (r->keep_last && r->glob[strlen(r->glob) - 1] == '/')
		return "the `glob` of `keep_last` names directories: without `/` at its end";
	if (r->size_under && r->size_over >= r->size_under) return "`size_over` must be less than `size_under`";
	return NULL;
}

static bool rule_read(struct parse *p, const yaml_node_t *node)
{
	struct rule *r = &p->rules->at[p->rules->count];

	*r = (struct rule){ .line = (unsigned)node->start_mark.line + 1,
		.level = RULE_LEVEL_DEFAULT,
		.weight = 1,
		.prefix = strdup(""),
		.glob = strdup("") };
	p->rules->count++;
	p->rule = r;
	p->has_action = p->has_when = false;
	if (!r->prefix || !r->glob) return no_memory(p);
	if (!mapping_take(p, node, "a rule", rule_fields)) return false;
	const char *cause = rule_nonsense(p);
	if (cause) return refuse(p, node, "%s", cause);
	if (p->has_when) r->class = RULE_RELIEF;
	p->rule = NULL;
	return true;
}

static bool rules_read(struct parse *p, const yaml_node_t *list, const char *field)
{
	size_t count;

	if (list->type != YAML_SEQUENCE_NODE) return refuse(p, list, "`%s` must be a list", field);
	count = (size_t)(list->data.sequence.items.top - list->data.sequence.items.start);
	if (count > RULES_MAX) return refuse(p, list, "%zu rules; at most %d", count, RULES_MAX);
	p->rules->at = calloc(count + 1, sizeof(*p->rules->at));
	if (!p->rules->at) return no_memory(p);
	for (size_t i = 0; i < count; i++)
		if (!rule_read(p, yaml_document_get_node(&p->doc, list->data.sequence.items.start[i]))) return false;
	return true;
}

static bool stores_pass(struct parse *p, const yaml_node_t *node, const char *field)
{
	return node->type == YAML_MAPPING_NODE || refuse(p, node, "`%s` must be fields and values", field);
}

static void document_read(struct parse *p)
{
	static const struct field fields[] = { { "rules", rules_read }, { "stores", stores_pass }, { 0 } };
	const yaml_node_t *root = yaml_document_get_root_node(&p->doc);

	if (!root)
		refuse(p, NULL, "the file is empty; it needs a list `rules`");
	else if (mapping_take(p, root, "the file", fields) && !p->rules->at)
		refuse(p, root, "there is no list `rules`");
}

int rules_parse(
	const char *text, size_t len, const struct rules_env *env, struct rules **out, char *why, size_t why_cap)
{
	struct parse p = { .env = env, .why = why, .why_cap = why_cap };
	yaml_parser_t yaml;

	*out = NULL;
	if (len > RULES_TEXT_MAX) {
		snprintf(why, why_cap, "more than %d bytes", RULES_TEXT_MAX);
		return -GRANARY_ECONFIG;
	}
	p.rules = calloc(1, sizeof(*p.rules));
	if (!p.rules || !yaml_parser_initialize(&yaml)) {
		free(p.rules);
		snprintf(why, why_cap, "out of memory");
		return -GRANARY_ENOMEM;
	}
	yaml_parser_set_input_string(&yaml, (const unsigned char *)text, len);
	if (!yaml_parser_load(&yaml, &p.doc)) {
		snprintf(why, why_cap, "line %zu: not YAML: %s", yaml.problem_mark.line + 1,
			yaml.problem ? yaml.problem : "it cannot be read");
		p.err = -GRANARY_ECONFIG;
	} else {
		document_read(&p);
		yaml_document_delete(&p.doc);
	}
	yaml_parser_delete(&yaml);
	if (p.err == 0) p.err = rules_index(p.rules);
	if (p.err == 0) p.err = rules_judge(p.rules, why, why_cap);
	if (p.err < 0)
		rules_free(&p.rules);
	else
		*out = p.rules;
	return p.err;
}

void rules_free(struct rules **rp)
{
	struct rules *rules = *rp;

	*rp = NULL;
	if (!rules) return;
	for (uint32_t i = 0; i < rules->count; i++) {
		struct rule *r = &rules->at[i];
		free(r->prefix);
		free(r->glob);
		free(r->tag_name);
		free(r->tag_value);
	}
	for (uint32_t i = 0; i < rules->note_count; i++) free(rules->notes[i]);
	free(rules->at);
	free(rules->sorted);
	free(rules->lengths);
	free(rules);
}

uint32_t rules_count(const struct rules *rules)
{
	return rules->count;
}
const struct rule *rules_at(const struct rules *rules, uint32_t index)
{
	return &rules->at[index];
}
