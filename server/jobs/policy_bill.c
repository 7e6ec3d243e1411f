/* SPDX-License-Identifier: Apache-2.0 */
/* policy_bill.c -- what a month costs: as it is, all on flash, with the plan. Money is what the settings' prices are
 * in.
 *
 * Requests and egress are the recorded reads of packs that lie in a store alone, as if a month went on like the
 * records: of packs that would go there, those reads that the flash copy was asked for. What such a copy will weigh is
 * known from other packs of its group, or from a part of one that is compressed here. What it takes to move them (parts
 * written, all read back) is paid once, and stands apart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "jobs/policy_priv.h"
#include "meta/ids.h"
#include "pack/cold_write.h"
#include "tier/stores.h"

#define HOURS_A_MONTH 730.0
#define GB            1e9
#define PART          (8.0 * 1024 * 1024) /* of an upload, and of what is read back */
enum { RATIOS_MAX = 256, ESTIMATES_MAX = 8, MOVE_REQUESTS = 6 /* of a pack, besides its parts */ };

/* ---- prices ---- */

struct prices {
	double gb_month, request, gb_egress; /* request: of one */
};

static double price_of(const struct place *place, const char *field)
{
	char text[64];

	return place && store_setting(place_settings(place), field, text, sizeof(text)) ? strtod(text, NULL) : 0;
}

static struct prices prices_of(struct stores *stores, uint64_t store)
{
	const struct place *place = stores && store ? stores_find(stores, store) : NULL;

	return (struct prices){ price_of(place, "price_gb_month"), price_of(place, "price_1000_requests") / 1000,
		price_of(place, "price_gb_egress") };
}

double bill_sum(const struct bill *b)
{
	return b->flash + b->cold + b->requests + b->egress;
}

double bill_hits(const struct bill *b)
{
	return b->reads ? (double)b->hot_reads / (double)b->reads : 1;
}

/* ---- what a copy will weigh ---- */

struct ratios {
	const struct plan *plan;
	struct {
		uint64_t group;
		uint32_t level;
		double ratio;
	} at[RATIOS_MAX];
	uint32_t count, estimates;
};

static uint64_t pack_bytes(const struct plan_pack *p)
{
	return p->info.file_size ? p->info.file_size : p->bytes;
}

/* Of the copies that the group has; 0: it has none. group 0: of all. */
static double ratio_of_copies(const struct plan *plan, uint64_t group)
{
	double raw = 0, stored = 0;

	for (uint32_t i = 0; i < plan->count; i++) {
		const struct plan_pack *p = &plan->packs[i];
		if ((group && p->info.group != group) || !p->info.store || p->info.is_linked) continue;
		raw += (double)pack_bytes(p);
		stored += (double)p->info.cold_length;
	}
	return raw > 0 ? stored / raw : 0;
}

static double ratio_by_trying(const struct plan *plan, const struct plan_pack *p, uint32_t level)
{
	struct packs *packs = plan->policy->o.packs;
	struct pack *pack = packs_ref(packs, p->id);
	struct cold_write w = { .pack_id = p->id, .size = pack_bytes(p), .level = (int)level };
	double ratio = 0;

	if (pack && p->info.state == PACK_SEALED && packs_open_file(packs, pack) == 0) {
		w.from = pack_file(pack);
		if (cold_estimate(&w, &ratio) < 0) ratio = 0;
	}
	if (pack) packs_unref(packs, pack);
	return ratio;
}

static double ratio_for(struct ratios *r, const struct plan_pack *p, uint32_t level)
{
	double ratio;

	if (!level) return 1;
	for (uint32_t i = 0; i < r->count; i++)
		if (r->at[i].group == p->info.group && r->at[i].level == level) return r->at[i].ratio;
	ratio = ratio_of_copies(r->plan, p->info.group);
	if (ratio <= 0 && r->estimates++ < ESTIMATES_MAX) ratio = ratio_by_trying(r->plan, p, level);
	if (ratio <= 0) ratio = ratio_of_copies(r->plan, 0);
	if (ratio <= 0) ratio = 1;
	if (r->count < RATIOS_MAX) {
		r->at[r->count].group = p->info.group;
		r->at[r->count].level = level;
		r->at[r->count++].ratio = ratio;
	}
	return ratio;
}

/* ---- the bill ---- */

/* The rule by which a pack gets a copy with the plan; NULL: it gets none. */
static const struct rule *copies_by(const struct plan_pack *p)
{
	if (p->info.store) return NULL;
	if (p->verdict == MOVES && p->kind == MOVE_DEMOTE) return p->rule;
	return p->copy_verdict == MOVES ? p->copy_rule : NULL;
}

static bool leaves_flash(const struct plan_pack *p)
{
	return p->verdict == MOVES && (p->kind == MOVE_DEMOTE || p->kind == MOVE_EVICT);
}

static void pack_bill(struct ratios *r, const struct plan_pack *p, enum placement how, double months, struct bill *b)
{
	const struct rule *by = how == AS_PLANNED ? copies_by(p) : NULL;
	bool hot = how == ALL_HOT || (plan_pack_is_hot(p) && !(how == AS_PLANNED && leaves_flash(p)));
	double raw = (double)pack_bytes(p);
	double stored = how != ALL_HOT && p->info.store ? (double)p->info.cold_length : 0;
	struct prices prices = prices_of(r->plan->policy->o.stores, by ? by->store_id : p->info.store);

	if (by) {
		stored = raw * ratio_for(r, p, by->level);
		b->moves += (stored / PART + raw / PART + MOVE_REQUESTS) * prices.request;
		b->moves += stored / GB * prices.gb_egress;
	}
	if (hot) b->flash += raw / GB * r->plan->policy->o.hot_price;
	b->cold += stored / GB * prices.gb_month;
	b->reads += p->heat.reads;
	b->hot_reads += hot ? p->heat.reads : 0;
	if (hot || months <= 0) return;
	b->requests += (double)p->heat.gets / months * prices.request;
	b->egress += (double)p->heat.got_bytes * (raw > 0 ? stored / raw : 1) / GB / months * prices.gb_egress;
}

static int first_hour(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes)
{
	(void)pack, (void)reads, (void)bytes;
	*(uint64_t *)arg = hour;
	return 1;
}

/* How long accesses were recorded. */
static double months_recorded(const struct plan *plan)
{
	uint64_t hour = 0, now = plan->now_ns / (3600 * UINT64_C(1000000000));

	if (heat_each(plan->policy->o.heat, first_hour, &hour) != 1) return 0;
	return (double)(now - hour + 1) / HOURS_A_MONTH;
}

void bills_make(const struct plan *plan, struct bill bills[3])
{
	struct ratios *r = calloc(1, sizeof(*r));
	double months = months_recorded(plan);

	memset(bills, 0, 3 * sizeof(*bills));
	if (!r) return;
	r->plan = plan;
	for (uint32_t i = 0; i < plan->count; i++)
		for (int how = 0; how < 3; how++)
			pack_bill(r, &plan->packs[i], (enum placement)how, months, &bills[how]);
	free(r);
}

/* ---- for people, and as JSON ---- */

static void cost_people(FILE *f, const struct plan *plan, const struct bill bills[3])
{
	static const char *const names[] = { "as it is", "all on flash", "with the plan" };

	(void)plan;
	fprintf(f, "%-14s %10s %10s %10s %10s %10s %8s\n", "a month", "flash", "cold", "requests", "egress", "sum",
		"hits");
	for (int i = 0; i < 3; i++)
		fprintf(f, "%-14s %10.2f %10.2f %10.2f %10.2f %10.2f %7.1f%%\n", names[i], bills[i].flash,
			bills[i].cold, bills[i].requests, bills[i].egress, bill_sum(&bills[i]),
			100 * bill_hits(&bills[i]));
	if (bills[AS_PLANNED].moves > 0) fprintf(f, "once, to move it there: %.2f\n", bills[AS_PLANNED].moves);
}

static void cost_json(FILE *f, const struct plan *plan, const struct bill bills[3])
{
	static const char *const names[] = { "now", "all_hot", "planned" };

	(void)plan;
	fputc('{', f);
	for (int i = 0; i < 3; i++)
		fprintf(f,
			"%s\"%s\":{\"flash\":%.6f,\"cold\":%.6f,\"requests\":%.6f,\"egress\":%.6f,\"sum\":%.6f,"
			"\"moves\":%.6f,\"hit_rate\":%.4f}",
			i ? "," : "", names[i], bills[i].flash, bills[i].cold, bills[i].requests, bills[i].egress,
			bill_sum(&bills[i]), bills[i].moves, bill_hits(&bills[i]));
	fprintf(f, "}\n");
}

/* Without rules the plan is to leave all as it is. */
int policy_cost(struct policy *p, bool json, char **out, char *why, size_t why_cap)
{
	char *text;
	int err = policy_rules_text(p, &text);

	if (err < 0) return err;
	err = policy_planned(p, *text ? text : NO_RULES, strlen(*text ? text : NO_RULES),
		json ? cost_json : cost_people, out, why, why_cap);
	free(text);
	return err;
}
