/* SPDX-License-Identifier: Apache-2.0 */
/* policy_text.c -- plans and explanations, for people and as JSON. Money is what the settings' prices are in. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "jobs/policy_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "tier/stores.h"

/* ---- small words ---- */

const char *policy_bytes_text(uint64_t n, char buf[32])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double v = (double)n;
	unsigned u = 0;

	for (; v >= 1024 && u < 5; u++) v /= 1024;
	snprintf(buf, 32, u == 0 || v >= 100 ? "%.0f %s" : "%.1f %s", v, units[u]);
	return buf;
}

const char *policy_span_text(uint64_t ns, char buf[32])
{
	uint64_t s = ns / 1000000000;

	if (s >= 2 * 86400)
		snprintf(buf, 32, "%" PRIu64 " days", s / 86400);
	else if (s >= 7200)
		snprintf(buf, 32, "%" PRIu64 " hours", s / 3600);
	else if (s >= 120)
		snprintf(buf, 32, "%" PRIu64 " minutes", s / 60);
	else
		snprintf(buf, 32, "%" PRIu64 " seconds", s);
	return buf;
}

void policy_json_text(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < ' ' || c == 127)
			fprintf(f, "\\u%04x", c);
		else
			fputc(c, f);
	}
	fputc('"', f);
}

/* What a rule does, in its own words. */
static void rule_text(FILE *f, const struct rule *r)
{
	fprintf(f, "%s%s%s", rule_action_name(r->action), r->store[0] ? " " : "", r->store);
	if (r->class == RULE_RELIEF) fprintf(f, " over %u%% until %u%%", r->over_percent, r->until_percent);
}

/* ---- the plan ---- */

static void rule_line(FILE *f, const struct plan *plan, const struct rule *r)
{
	const struct plan_rule *s = &plan->by_rule[plan_rule_index(plan, r)];
	char a[32], b[32];

	fprintf(f, "%-24.24s ", r->name);
	rule_text(f, r);
	fprintf(f, "\n");
	if (r->action == RULE_DELETE)
		fprintf(f, "    now    %" PRIu64 " objects, %s\n", s->deletes, policy_bytes_text(s->delete_bytes, a));
	else if (r->action != RULE_PIN)
		fprintf(f, "    now    %" PRIu64 " packs, %s\n", s->packs, policy_bytes_text(s->bytes, a));
	if (s->later_packs)
		fprintf(f, "    later  %" PRIu64 " packs, %s; the first in %s\n", s->later_packs,
			policy_bytes_text(s->later_bytes, a), policy_span_text(s->next_due_ns - plan->now_ns, b));
	if (s->apart_packs)
		fprintf(f,
			"    apart  %" PRIu64
			" packs hold %s of this rule's and others' objects: they stay until sorted\n",
			s->apart_packs, policy_bytes_text(s->apart_bytes, a));
	if (s->impossible_packs)
		fprintf(f,
			"    not possible now for %" PRIu64
			" packs: open, without a second copy, or with one in another store\n",
			s->impossible_packs);
	if (s->held_bytes)
		fprintf(f, "    snapshots keep %s of that on disk after the keys are gone\n",
			policy_bytes_text(s->held_bytes, a));
}

static void rule_json(FILE *f, const struct plan *plan, const struct rule *r)
{
	const struct plan_rule *s = &plan->by_rule[plan_rule_index(plan, r)];

	fprintf(f, "{\"name\":");
	policy_json_text(f, r->name);
	fprintf(f, ",\"action\":\"%s\",\"store\":", rule_action_name(r->action));
	policy_json_text(f, r->store);
	fprintf(f,
		",\"packs\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"later_packs\":%" PRIu64 ",\"later_bytes\":%" PRIu64
		",\"next_due_s\":%" PRIu64 ",\"apart_packs\":%" PRIu64 ",\"apart_bytes\":%" PRIu64
		",\"impossible_packs\":%" PRIu64 ",\"delete_objects\":%" PRIu64 ",\"delete_bytes\":%" PRIu64
		",\"held_by_snapshots_bytes\":%" PRIu64 "}",
		s->packs, s->bytes, s->later_packs, s->later_bytes,
		s->next_due_ns > plan->now_ns ? (s->next_due_ns - plan->now_ns) / 1000000000 : 0, s->apart_packs,
		s->apart_bytes, s->impossible_packs, s->deletes, s->delete_bytes, s->held_bytes);
}

/* What leaves flash, and what is left there. */
static uint64_t freed_bytes(const struct plan *plan)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < plan->count; i++)
		if (plan->packs[i].verdict == MOVES && plan->packs[i].kind != MOVE_COPY)
			sum += plan->packs[i].info.file_size;
	return sum;
}

static void plan_people(FILE *f, const struct plan *plan, const struct bill bills[3])
{
	uint64_t freed = freed_bytes(plan), used = plan->hot_used > freed ? plan->hot_used - freed : 0;
	double total = plan->hot_total ? (double)plan->hot_total : 1;
	const char *const *notes;
	uint32_t count = rules_notes(plan->rules, &notes);
	char a[32], b[32];

	fprintf(f, "%" PRIu64 " objects, %s, in %u packs; read in %.1f s\n\n", plan->objects,
		policy_bytes_text(plan->bytes, a), plan->count, (double)plan->scan_ns / 1e9);
	for (uint32_t i = 0; i < rules_count(plan->rules); i++) rule_line(f, plan, rules_at(plan->rules, i));
	fprintf(f, "\nflash    %s of %s used (%.0f%%), %.0f%% with the plan\n", policy_bytes_text(plan->hot_used, a),
		policy_bytes_text(plan->hot_total, b), 100 * (double)plan->hot_used / total,
		100 * (double)used / total);
	fprintf(f, "once     %s in %" PRIu64 " packs exist in one place only\n", policy_bytes_text(plan->once_bytes, a),
		plan->once_packs);
	if (plan->pinned_packs)
		fprintf(f, "pinned   %s in %" PRIu64 " packs; %" PRIu64 " packs of them come back to flash\n",
			policy_bytes_text(plan->pinned_bytes, a), plan->pinned_packs, plan->pinned_cold_packs);
	fprintf(f, "hits     %.1f%% of recorded reads were of packs that are on flash; %.1f%% with the plan\n",
		100 * bill_hits(&bills[AS_IT_IS]), 100 * bill_hits(&bills[AS_PLANNED]));
	fprintf(f, "a month  %.2f now, %.2f all on flash, %.2f with the plan\n", bill_sum(&bills[AS_IT_IS]),
		bill_sum(&bills[ALL_HOT]), bill_sum(&bills[AS_PLANNED]));
	for (uint32_t i = 0; i < count; i++) fprintf(f, "note     %s\n", notes[i]);
}

static void plan_json(FILE *f, const struct plan *plan, const struct bill bills[3])
{
	const char *const *notes;
	uint32_t count = rules_notes(plan->rules, &notes);

	fprintf(f, "{\"objects\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"packs\":%u,\"scan_ms\":%" PRIu64 ",\"rules\":[",
		plan->objects, plan->bytes, plan->count, plan->scan_ns / 1000000);
	for (uint32_t i = 0; i < rules_count(plan->rules); i++) {
		if (i) fputc(',', f);
		rule_json(f, plan, rules_at(plan->rules, i));
	}
	fprintf(f,
		"],\"flash_total\":%" PRIu64 ",\"flash_used\":%" PRIu64 ",\"freed\":%" PRIu64
		",\"once_bytes\":%" PRIu64 ",\"once_packs\":%" PRIu64 ",\"pinned_bytes\":%" PRIu64
		",\"pinned_packs\":%" PRIu64 ",\"pinned_cold_packs\":%" PRIu64
		",\"hit_rate\":%.4f,\"hit_rate_planned\":%.4f,\"month\":%.6f,\"month_all_hot\":%.6f,"
		"\"month_planned\":%.6f,\"moves_planned\":%.6f,\"notes\":[",
		plan->hot_total, plan->hot_used, freed_bytes(plan), plan->once_bytes, plan->once_packs,
		plan->pinned_bytes, plan->pinned_packs, plan->pinned_cold_packs, bill_hits(&bills[AS_IT_IS]),
		bill_hits(&bills[AS_PLANNED]), bill_sum(&bills[AS_IT_IS]),
		bill_sum(&bills[ALL_HOT]), bill_sum(&bills[AS_PLANNED]), bills[AS_PLANNED].moves);
	for (uint32_t i = 0; i < count; i++) {
		if (i) fputc(',', f);
		policy_json_text(f, notes[i]);
	}
	fprintf(f, "]}\n");
}

/* Rules of a text, or those in force. */
static int rules_for(struct policy *p, const char *text, size_t len, struct rules **rules, char *why, size_t why_cap)
{
	char *copy = NULL;
	int err = text ? 0 : policy_rules_text(p, &copy);

	if (err == 0 && !text && !*copy) {
		snprintf(why, why_cap, "no rules are in force: granary tier apply FILE");
		err = -GRANARY_ENOTFOUND;
	}
	if (err == 0) err = policy_parse(p, text ? text : copy, text ? len : strlen(copy), rules, why, why_cap);
	free(copy);
	return err;
}

/* Those in force, or none: pins count without rules. */
static int rules_or_none(struct policy *p, struct rules **rules, char *why, size_t why_cap)
{
	char *text;
	int err = policy_rules_text(p, &text);

	if (err < 0) return err;
	err = policy_parse(p, *text ? text : NO_RULES, strlen(*text ? text : NO_RULES), rules, why, why_cap);
	free(text);
	return err;
}

int policy_planned(struct policy *p, const char *text, size_t len, plan_write_fn *write, char **out, char *why,
	size_t why_cap)
{
	struct rules *rules = NULL;
	struct plan plan = { 0 };
	struct bill bills[3];
	size_t size = 0;
	int err = rules_for(p, text, len, &rules, why, why_cap);

	*out = NULL;
	if (err < 0) return err;
	err = plan_make(p, rules, &plan);
	if (err == 0) {
		bills_make(&plan, bills);
		FILE *f = open_memstream(out, &size);
		if (f) write(f, &plan, bills);
		if (!f || fclose(f) != 0) err = -GRANARY_ENOMEM;
	} else {
		snprintf(why, why_cap, "the plan could not be made: %s", error_text(err));
	}
	plan_free(&plan);
	rules_free(&rules);
	return err;
}

int policy_plan(struct policy *p, const char *text, size_t len, bool json, char **out, char *why, size_t why_cap)
{
	return policy_planned(p, text, len, json ? plan_json : plan_people, out, why, why_cap);
}

/* ---- one key ---- */

struct explained {
	const struct rule *by_class[RULE_CLASSES];
	struct object object;
	struct pack_info pack;
	struct pack_heat heat;
	char *pin; /* of the pins by hand; NULL: none covers it */
	bool has_pack;
	uint64_t now_ns;
};

static int object_find(
	struct policy *p, const char *bucket, const char *key, struct explained *e, struct kv_value *value)
{
	struct ns_bucket b;
	struct ns_place place;
	int err = ns_bucket_find(p->o.ns, slice_str(bucket), &b);
	struct ns_ref ref = { .by = NS_BY_KEY, .bucket = b.id, .name = slice_str(key) };

	if (err == 0) err = ns_lookup(p->o.ns, &ref, &place, &e->object, value);
	if (err < 0) return err;
	struct pins *pins = policy_pins(p);
	const char *pin = pins_cover(pins, b.id, key);
	e->pin = pin ? strdup(pin) : NULL;
	pins_unref(&pins);
	return 0;
}

static void pack_find(struct policy *p, struct explained *e)
{
	uint64_t id = e->object.extent_count ? e->object.extents[0].pack : 0;

	if (!id || packs_list(p->o.packs, id - 1, &e->pack, 1) != 1 || e->pack.id != id) return;
	e->has_pack = true;
	heat_of(p->o.heat, id, &e->heat);
}

static const char *place_text(const struct policy *p, const struct explained *e, char buf[128])
{
	struct place *place = e->has_pack && e->pack.store ? stores_find(p->o.stores, e->pack.store) : NULL;
	bool hot = e->has_pack && e->pack.drive;

	snprintf(buf, 128, "%s%s%s", hot ? "on flash" : "",
		hot && place ? " and in "
		: place      ? "in "
			     : "",
		place ? place_name(place) : "");
	return e->has_pack ? buf : "no bytes";
}

static void due_people(FILE *f, const struct explained *e, const struct rule *r)
{
	uint64_t due = rule_due_ns(r, e->object.written_ns, e->heat.last_read_ns);
	char buf[32];

	if (r->class == RULE_RELIEF)
		fprintf(f, "when flash is over %u%%, if its pack is then among the first by `order`\n",
			r->over_percent);
	else if (r->class == RULE_PINS)
		fprintf(f, "stays on flash, and is not deleted by rules\n");
	else if (r->keep_last)
		fprintf(f, "all but the last %u directories of its pattern\n", r->keep_last);
	else if (due <= e->now_ns)
		fprintf(f, "due; with its whole pack, at the next pass\n");
	else
		fprintf(f, "in %s, unless it is read or written before\n", policy_span_text(due - e->now_ns, buf));
}

static void explain_people(
	FILE *f, const struct policy *p, const struct explained *e, const char *bucket, const char *key)
{
	static const char *const names[] = { "pin", "place", "delete", "copy", "watermark" };
	char where[128], size[32], ago[32];

	fprintf(f, "%s/%s: %s, %s, written %s ago", bucket, key, policy_bytes_text(e->object.size, size),
		place_text(p, e, where), policy_span_text(e->now_ns - e->object.written_ns, ago));
	if (e->heat.last_read_ns)
		fprintf(f, ", its pack read %s ago",
			policy_span_text(policy_since(e->now_ns, e->heat.last_read_ns), ago));
	fputc('\n', f);
	if (e->pin)
		fprintf(f, "%-10s by hand, of %s/%s: stays on flash, and is not deleted by rules\n", "pin", bucket,
			e->pin);
	for (int c = 0; c < RULE_CLASSES; c++) {
		const struct rule *r = e->by_class[c];
		if (!r) continue;
		fprintf(f, "%-10s rule '%s' (line %u): ", names[c], r->name, r->line);
		rule_text(f, r);
		fprintf(f, ": ");
		due_people(f, e, r);
	}
}

static void explain_json(
	FILE *f, const struct policy *p, const struct explained *e, const char *bucket, const char *key)
{
	static const char *const names[] = { "pin", "place", "delete", "copy", "watermark" };
	struct place *place = e->has_pack && e->pack.store ? stores_find(p->o.stores, e->pack.store) : NULL;

	fprintf(f, "{\"bucket\":");
	policy_json_text(f, bucket);
	fprintf(f, ",\"key\":");
	policy_json_text(f, key);
	fprintf(f, ",\"size\":%" PRIu64 ",\"hot\":%s,\"store\":", e->object.size,
		e->has_pack && e->pack.drive ? "true" : "false");
	policy_json_text(f, place ? place_name(place) : "");
	if (e->pin) {
		fprintf(f, ",\"pinned_by\":");
		policy_json_text(f, e->pin);
	}
	fprintf(f, ",\"pack\":%" PRIu64 ",\"written_s_ago\":%" PRIu64 ",\"rules\":{", e->pack.id,
		(e->now_ns - e->object.written_ns) / 1000000000);
	bool any = false;
	for (int c = 0; c < RULE_CLASSES; c++) {
		const struct rule *r = e->by_class[c];
		if (!r) continue;
		uint64_t due = rule_due_ns(r, e->object.written_ns, e->heat.last_read_ns);
		fprintf(f, "%s\"%s\":{\"name\":", any ? "," : "", names[c]);
		policy_json_text(f, r->name);
		fprintf(f, ",\"due_in_s\":%" PRIu64 "}", due > e->now_ns ? (due - e->now_ns) / 1000000000 : 0);
		any = true;
	}
	fprintf(f, "}}\n");
}

static int rules_decide(struct rules *rules, const char *bucket, const char *key, struct explained *e)
{
	struct rule_scope scope = { 0 };
	struct rule_object o = { .bucket = bucket, .key = key, .size = e->object.size };
	const char *slash = strrchr(key, '/');
	char *dir = strndup(key, slash ? (size_t)(slash - key) + 1 : 0), tags[8192] = "";
	int err = dir ? rule_scope_open(&scope, rules, bucket, dir) : -GRANARY_ENOMEM;

	if (err == 0 && e->object.tags.len) {
		err = plan_tags_text(e->object.tags.p, e->object.tags.len, tags, sizeof(tags));
		o.tags = tags;
	}
	for (int c = 0; err == 0 && c < RULE_CLASSES; c++)
		e->by_class[c] = rule_decide(&scope, (enum rule_class)c, &o);
	rule_scope_close(&scope);
	free(dir);
	return err;
}

int policy_explain(
	struct policy *p, const char *bucket, const char *key, bool json, char **out, char *why, size_t why_cap)
{
	struct explained *e = calloc(1, sizeof(*e));
	struct kv_value value = { 0 };
	struct rules *rules = NULL;
	size_t size = 0;
	int err = e ? object_find(p, bucket, key, e, &value) : -GRANARY_ENOMEM;
	bool found = err == 0;

	*out = NULL;
	if (err < 0) snprintf(why, why_cap, "'%s/%.200s': %s", bucket, key, error_text(err));
	if (err == 0) err = rules_or_none(p, &rules, why, why_cap);
	if (err == 0) {
		e->now_ns = store_clock_now(p->o.clock);
		pack_find(p, e);
		err = rules_decide(rules, bucket, key, e);
	}
	if (err == 0) {
		FILE *f = open_memstream(out, &size);
		if (f) (json ? explain_json : explain_people)(f, p, e, bucket, key);
		if (!f || fclose(f) != 0) err = -GRANARY_ENOMEM;
	}
	if (found) kv_value_release(&value);
	rules_free(&rules);
	if (e) free(e->pin);
	free(e);
	return err;
}
