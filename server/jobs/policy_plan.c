/* SPDX-License-Identifier: Apache-2.0 */
/* policy_plan.c -- what follows for each pack from what the scan found. The table of packs is read before the scan: a
 * pack that appears later is for the next plan, and one that went meanwhile is skipped by the mover. */
#include <stdlib.h>
#include <string.h>

#include "granary/error.h"
#include "jobs/policy_priv.h"
#include "meta/ids.h"
#include "tier/drives.h"

enum { LIST_MAX = 256 };
#define NEEDED_NS UINT64_C(60000000000) /* looked at again after this */

uint32_t plan_rule_index(const struct plan *plan, const struct rule *rule)
{
	return (uint32_t)(rule - rules_at(plan->rules, 0));
}

bool plan_pack_is_hot(const struct plan_pack *p)
{
	return p->info.drive != 0;
}

void plan_free(struct plan *p)
{
	free(p->packs);
	free(p->slots);
	free(p->by_rule);
	kept_free(&p->kept);
	pins_unref(&p->pins);
	*p = (struct plan){ 0 };
}

/* ---- how packs and drives fare ---- */

static void pack_join(struct plan *p, const struct pack_info *info)
{
	struct plan_pack *pack = plan_pack_find(p, info->id);
	struct pack_row row;

	if (!pack) return;
	pack->info = *info;
	pack->known = packs_row(p->policy->o.packs, info->id, &row) == 0;
	if (!pack->known) return;
	pack->live_bytes = row.live_bytes;
	pack->snapshot_pins = row.pins;
	heat_of(p->policy->o.heat, info->id, &pack->heat);
	if (plan_pack_is_hot(pack)) p->hot_bytes += pack->bytes;
	if (info->store) p->cold_bytes += pack->bytes;
	if (!plan_pack_is_hot(pack) || !info->store) {
		p->once_packs++;
		p->once_bytes += pack->bytes;
		if (!p->once_oldest_ns || pack->written_oldest_ns < p->once_oldest_ns)
			p->once_oldest_ns = pack->written_oldest_ns;
	}
}

static int packs_join(struct plan *p)
{
	struct pack_info *infos = malloc(LIST_MAX * sizeof(*infos));
	uint64_t after = 0;
	uint32_t n;

	if (!infos) return -GRANARY_ENOMEM;
	while ((n = packs_list(p->policy->o.packs, after, infos, LIST_MAX)) > 0) {
		for (uint32_t i = 0; i < n; i++) pack_join(p, &infos[i]);
		after = infos[n - 1].id;
	}
	free(infos);
	return 0;
}

/* ---- one pack ---- */

/* One rule over all of it: that rule; NULL with *apart: several, or one over a part. */
static const struct rule *sole(const struct shares *s, bool *apart)
{
	*apart = s->more || s->count > 1;
	return *apart || !s->count ? NULL : s->at[0].rule;
}

static struct plan_rule *sum_of(struct plan *p, const struct rule *rule)
{
	return &p->by_rule[plan_rule_index(p, rule)];
}

static void apart_count(struct plan *p, const struct plan_pack *pack, const struct shares *s)
{
	for (uint8_t i = 0; i < s->count; i++) {
		const struct rule *r = s->at[i].rule;
		if (!r || rule_due_ns(r, pack->written_newest_ns, pack->heat.last_read_ns) > p->now_ns) continue;
		sum_of(p, r)->apart_packs++;
		sum_of(p, r)->apart_bytes += s->at[i].bytes;
	}
}

static void later(struct plan_rule *sum, const struct plan_pack *pack, uint64_t due_ns)
{
	sum->later_packs++;
	sum->later_bytes += pack->bytes;
	if (!sum->next_due_ns || due_ns < sum->next_due_ns) sum->next_due_ns = due_ns;
}

/* How a pack gets where the rule wants it: 0: it is there; -1: not possible now. */
static int move_for(const struct rule *r, const struct plan_pack *p)
{
	bool hot = plan_pack_is_hot(p), cold = p->info.store != 0;

	if (r->action == RULE_DROP_HOT) return !hot ? 0 : cold ? (int)MOVE_EVICT : -1;
	if (r->action == RULE_COPY && cold) return p->info.store == r->store_id ? 0 : -1; /* a pack has one cold copy */
	if (r->action == RULE_COPY) return p->info.state == PACK_SEALED ? (int)MOVE_COPY : -1;
	if (!hot) return 0;
	if (cold) return MOVE_EVICT;
	return p->info.state == PACK_SEALED ? (int)MOVE_DEMOTE : -1;
}

/* An announced epoch is about to use it. */
static bool plan_is_needed(const struct plan *p, const struct plan_pack *pack)
{
	const struct policy_options *o = &p->policy->o;

	return o->needed && o->needed(o->arg, pack->id);
}

static enum verdict judge(struct plan *p, struct plan_pack *pack, const struct shares *shares,
	const struct rule **rule, uint64_t *due_ns, uint8_t *kind)
{
	bool apart;

	*rule = sole(shares, &apart);
	if (apart) {
		apart_count(p, pack, shares);
		return APART;
	}
	if (!*rule) return STAYS;
	struct plan_rule *sum = sum_of(p, *rule);
	int move = move_for(*rule, pack);
	*due_ns = pack->kept_bytes && (*rule)->keep_last
			  ? UINT64_MAX
			  : rule_due_ns(*rule, pack->written_newest_ns, pack->heat.last_read_ns);
	if (move == 0) return STAYS;
	if (*due_ns <= p->now_ns && (*rule)->action != RULE_COPY && plan_is_needed(p, pack))
		*due_ns = p->now_ns + NEEDED_NS;
	if (*due_ns > p->now_ns) {
		if (*due_ns < UINT64_MAX) later(sum, pack, *due_ns);
		return LATER;
	}
	if (move < 0) {
		sum->impossible_packs++;
		return IMPOSSIBLE;
	}
	sum->packs++;
	sum->bytes += pack->bytes;
	*kind = (uint8_t)move;
	return MOVES;
}

static void pack_judge(struct plan *p, struct plan_pack *pack)
{
	uint8_t copy_kind = 0;

	if (!pack->known || pack->info.state == PACK_DYING) return;
	pack->copy_verdict = judge(p, pack, &pack->copies, &pack->copy_rule, &pack->copy_due_ns, &copy_kind);
	if (pack->pinned_bytes) {
		pack->verdict = PINNED;
		p->pinned_packs++;
		p->pinned_bytes += pack->bytes;
		p->pinned_cold_packs += !plan_pack_is_hot(pack);
		return;
	}
	pack->verdict = judge(p, pack, &pack->place, &pack->rule, &pack->due_ns, &pack->kind);
	if (pack->verdict == MOVES) pack->copy_verdict = STAYS; /* a demotion makes the copy */
}

/* ---- watermarks ---- */

static double coldness(const struct plan *p, const struct plan_pack *pack, const struct rule *r)
{
	uint64_t read_ns = pack->heat.last_read_ns, written_ns = pack->written_newest_ns;
	uint64_t seen = read_ns > written_ns ? read_ns : written_ns;
	uint64_t idle = p->now_ns > seen ? p->now_ns - seen : 0;

	switch (r->order) {
	case RULE_OLDEST: return (double)(UINT64_MAX - pack->written_newest_ns);
	case RULE_LARGEST: return (double)pack->bytes;
	default: return (double)idle / (1.0 + pack->heat.rate);
	}
}

struct candidate {
	uint32_t index;
	double coldness;
};

static int coldest_first(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->coldness != y->coldness) return x->coldness > y->coldness ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* The first watermark that matches is that of an object; a pack is relieved by the one that all of it has. */
static bool may_relieve(const struct plan_pack *pack, const struct rule *r)
{
	bool apart;

	return sole(&pack->relief, &apart) == r && pack->known && plan_pack_is_hot(pack) && !pack->pinned_bytes &&
	       pack->verdict != MOVES && (pack->info.store || pack->info.state == PACK_SEALED);
}

static int relieve(struct plan *p, const struct rule *r, uint64_t *freed)
{
	uint64_t over = p->hot_total / 100 * r->over_percent, until = p->hot_total / 100 * r->until_percent;
	uint64_t used = p->hot_used > *freed ? p->hot_used - *freed : 0;
	struct candidate *all = used > over ? malloc((p->count + 1) * sizeof(*all)) : NULL;
	uint32_t n = 0;

	if (used <= over) return 0;
	if (!all) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < p->count; i++)
		if (may_relieve(&p->packs[i], r)) all[n++] = (struct candidate){ i, coldness(p, &p->packs[i], r) };
	qsort(all, n, sizeof(*all), coldest_first);
	for (uint32_t i = 0; i < n && used > until; i++) {
		struct plan_pack *pack = &p->packs[all[i].index];
		struct plan_rule *sum = sum_of(p, r);
		pack->verdict = MOVES;
		pack->rule = r;
		pack->due_ns = p->now_ns;
		pack->kind = pack->info.store ? MOVE_EVICT : MOVE_DEMOTE;
		pack->copy_verdict = STAYS;
		sum->packs++;
		sum->bytes += pack->bytes;
		*freed += pack->info.file_size;
		used = used > pack->info.file_size ? used - pack->info.file_size : 0;
	}
	free(all);
	return 0;
}

int plan_make(struct policy *policy, const struct rules *rules, struct plan *plan)
{
	uint64_t freed = 0;
	int err;

	plan->policy = policy;
	plan->rules = rules;
	plan->pins = policy_pins(policy);
	plan->now_ns = store_clock_now(policy->o.clock);
	plan->by_rule = calloc(rules_count(rules) + 1, sizeof(*plan->by_rule));
	if (!plan->by_rule) return -GRANARY_ENOMEM;
	err = plan_read_names(plan);
	if (err == 0) err = packs_join(plan);
	if (err < 0) return err;
	drives_use(packs_drives(policy->o.packs), &plan->hot_total, &plan->hot_used);
	for (uint32_t i = 0; i < plan->count; i++) pack_judge(plan, &plan->packs[i]);
	for (uint32_t i = 0; i < plan->count; i++)
		if (plan->packs[i].verdict == MOVES && plan->packs[i].kind != MOVE_COPY)
			freed += plan->packs[i].info.file_size;
	for (uint32_t i = 0; err == 0 && i < rules_count(rules); i++)
		if (rules_at(rules, i)->class == RULE_RELIEF) err = relieve(plan, rules_at(rules, i), &freed);
	return err;
}
