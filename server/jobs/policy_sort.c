/* SPDX-License-Identifier: Apache-2.0 */
/* policy_sort.c -- packs that one rule wants to move and another, a pin, or none wants to keep: compaction puts what
 * the rule is about into a pack of its own, which a later plan moves.
 *
 * Only what is due is worth it, and only packs that compaction may take: sealed, on flash alone, needed by no
 * snapshot. Which objects they are is read from the names again, for a few packs a pass. What changed until compaction
 * comes to it does no harm: an object is in the one pack or in the other, and the next plan judges both. */
#include <stdlib.h>

#include "common/error.h"
#include "common/id.h"
#include "jobs/jobs.h"
#include "jobs/policy_priv.h"
#include "meta/ids.h"

enum { PARTS_MAX = 8, IDS_MAX = 4 * 1024 * 1024 };
#define PART_MIN UINT64_C(1048576) /* bytes: for less no pack is written anew */

struct part {
	uint64_t pack;
	const struct rule *rule;
	uint64_t *ids;
	uint32_t count, cap;
};

struct parts {
	struct part at[PARTS_MAX];
	uint32_t count;
};

const struct rule *plan_due_part(const struct plan *plan, const struct plan_pack *p)
{
	if (!p->known || !plan_pack_is_hot(p) || p->info.store || p->snapshot_pins) return NULL;
	if (p->verdict != APART && (p->verdict != PINNED || p->pinned_bytes == p->bytes)) return NULL;
	for (uint8_t i = 0; i < p->place.count; i++) {
		const struct rule *r = p->place.at[i].rule;
		if (!r || r->action != RULE_TO || r->keep_last || p->place.at[i].bytes < PART_MIN) continue;
		if (rule_due_ns(r, p->written_newest_ns, p->heat.last_read_ns) <= plan->now_ns) return r;
	}
	return NULL;
}

static void parts_choose(const struct plan *plan, struct parts *parts)
{
	const struct policy_options *o = &plan->policy->o;

	for (uint32_t i = 0; i < plan->count && parts->count < PARTS_MAX; i++) {
		const struct plan_pack *p = &plan->packs[i];
		const struct rule *r = p->info.state == PACK_SEALED ? plan_due_part(plan, p) : NULL;
		if (r && !(o->needed && o->needed(o->arg, p->id)))
			parts->at[parts->count++] = (struct part){ .pack = p->id, .rule = r };
	}
}

static int on_extent(void *arg, uint64_t pack, uint64_t object, const struct rule *place)
{
	struct parts *parts = arg;

	for (uint32_t i = 0; i < parts->count; i++) {
		struct part *part = &parts->at[i];
		if (part->pack != pack || part->rule != place || part->count == IDS_MAX) continue;
		if (part->count == part->cap) {
			uint32_t cap = part->cap ? 2 * part->cap : 1024;
			uint64_t *wide = realloc(part->ids, cap * sizeof(*wide));
			if (!wide) return -GRANARY_ENOMEM;
			part->ids = wide;
			part->cap = cap;
		}
		part->ids[part->count++] = object;
	}
	return 0;
}

int policy_sort(struct policy *p, const struct plan *plan)
{
	struct parts parts = { .count = 0 };
	struct plan again = { .policy = p, .rules = plan->rules, .now_ns = plan->now_ns, .on_extent = on_extent,
		.arg = &parts };
	int err = 0;

	parts_choose(plan, &parts);
	if (parts.count > 0) {
		again.pins = policy_pins(p);
		err = plan_read_names(&again);
		plan_free(&again);
	}
	for (uint32_t i = 0; i < parts.count; i++) {
		struct part *part = &parts.at[i];
		if (err == 0 && part->count > 0) {
			qsort(part->ids, part->count, sizeof(part->ids[0]), u64_compare);
			(void)jobs_sort(p->o.jobs, part->pack, part->ids, part->count); /* BUSY: the next pass */
			part->ids = NULL;
		}
		free(part->ids);
	}
	return err;
}
