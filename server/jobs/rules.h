/* SPDX-License-Identifier: Apache-2.0 */
/* rules.h -- what admins say about where bytes lie: parsed, checked and judged. No clock, no I/O: plans and
 * moves ask.
 *
 * What a rule does, and which of several decides (docs/TIERS.md has it for people):
 *   PINS     pin                  wins over all others: neither moved from flash nor deleted by rules
 *   PLACE    to, drop_hot         the first in the file that matches decides, also while its time has not come
 *   DELETES  delete               the same, among rules that delete
 *   COPIES   copy                 the same, among rules that copy
 *   RELIEF   to, with `when`      a watermark: picks among what is on flash, whatever PLACE decides
 *
 * Invariants: (1) a text is taken whole or refused, naming line, field, cause and fix; (2) what is taken can
 * be carried out: fields that do not go together, stores that do not exist, rules that can never decide are
 * refused; (3) which rule decides depends on bucket, key, size and tags alone; age and idle time say when; (4)
 * all times are store time, but for `window`, which is the machine's local time and opens nothing that was not
 * due. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	RULES_MAX = 16384,
	RULES_TEXT_MAX = 4 * 1024 * 1024,
	RULE_NAME_MAX = 64,
	RULE_WHY_MAX = 512,
	RULES_NOTES_MAX = 64,
	RULE_LEVEL_DEFAULT = 3,
	RULE_LEVEL_MAX = 19
};

enum rule_action { RULE_TO, RULE_DROP_HOT, RULE_PIN, RULE_DELETE, RULE_COPY };
enum rule_class { RULE_PINS, RULE_PLACE, RULE_DELETES, RULE_COPIES, RULE_RELIEF, RULE_CLASSES };
enum rule_order { RULE_COLDEST, RULE_OLDEST, RULE_LARGEST };

struct rule {
	char name[RULE_NAME_MAX + 1];
	unsigned line;
	enum rule_class class;
	enum rule_action action;

	/* What it matches; "" and 0: anything. */
	char bucket[64];
	char *prefix, *glob; /* not NULL */
	size_t prefix_len;
	char *tag_name, *tag_value;     /* NULL: any; value NULL: any of that name */
	uint64_t size_over, size_under; /* over <= size < under */
	uint32_t keep_last; /* of the directories that the glob names, below each parent: all but so many */

	/* When. */
	uint64_t age_ns, idle_ns, within_ns;
	uint32_t over_percent, until_percent; /* RELIEF */

	/* How. */
	char store[64];
	uint64_t store_id;
	uint32_t level; /* 0: as it is */
	enum rule_order order;
	uint32_t weight;                   /* of those with work, higher ones first; 1 by itself */
	uint64_t rate;                     /* bytes a second; 0: what the foreground leaves */
	uint32_t window_from, window_to;   /* minutes of the day; equal: always; from > to: over midnight */
	uint32_t stop_after_error_percent; /* 0: never */
};

/* The id of a cold store; 0: there is none of that name. */
typedef uint64_t rules_store_fn(void *arg, const char *name);
struct rules_env {
	rules_store_fn *store;
	void *arg;
};

struct rules;
/* -GRANARY_ECONFIG and why. */
int rules_parse(
	const char *text, size_t len, const struct rules_env *env, struct rules **out, char *why, size_t why_cap);
void rules_free(struct rules **rules);
uint32_t rules_count(const struct rules *rules);
const struct rule *rules_at(const struct rules *rules, uint32_t index);
/* Overlaps, for people, a line each; the last says how many more there are. */
uint32_t rules_notes(const struct rules *rules, const char *const **notes);
bool rules_delete_anything(const struct rules *rules);

struct rule_object {
	const char *bucket, *key;
	uint64_t size;
	const char *tags; /* "name=value" strings, each ended by 0, all by an empty one; NULL: none */
};

/* The rules that may match below one directory, so that a scan of many files looks at few. dir: "" or ends with '/'.
 * Objects with that prefix alone may be judged by it. A scope is reused by calling open again. */
struct rule_scope {
	const struct rules *rules;
	uint32_t *candidates; /* in the order of the file */
	uint32_t count, cap;
};
int rule_scope_open(struct rule_scope *scope, const struct rules *rules, const char *bucket, const char *dir);
void rule_scope_close(struct rule_scope *scope);
/* The rule that decides, or NULL. */
const struct rule *rule_decide(
	const struct rule_scope *scope, enum rule_class class, const struct rule_object *object);

bool rule_matches(const struct rule *rule, const struct rule_object *object);
/* Store time from which a rule holds for bytes written and last read (0: never) at these. */
uint64_t rule_due_ns(const struct rule *rule, uint64_t written_ns, uint64_t read_ns);
/* Of a rule with keep_last: how much of the key is the directory that its glob names; 0: none. As many components as
 * the glob has. */
size_t rule_kept_dir(const struct rule *rule, const char *key);
bool rule_window_open(const struct rule *rule, uint32_t minute_of_day);
const char *rule_action_name(enum rule_action action);
