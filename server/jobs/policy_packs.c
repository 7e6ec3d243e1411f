/* SPDX-License-Identifier: Apache-2.0 */
/* policy_packs.c -- what the table of packs alone tells, without a look at names: what exists in one place only. */
#include <stdlib.h>

#include "granary/error.h"
#include "jobs/policy_priv.h"

enum { LIST_MAX = 256 };

static void once_add(struct policy *p, const struct pack_info *info, struct policy_stats *sum)
{
	struct pack_row row;

	if (info->state == PACK_DYING || (info->drive && info->store)) return;
	if (packs_row(p->o.packs, info->id, &row) < 0 || !row.live_bytes) return;
	sum->once_packs++;
	sum->once_bytes += row.live_bytes;
	if (!sum->once_oldest_ns || row.created < sum->once_oldest_ns) sum->once_oldest_ns = row.created;
}

int policy_count_once(struct policy *p)
{
	struct pack_info *infos = malloc(LIST_MAX * sizeof(*infos));
	struct policy_stats sum = { 0 };
	uint64_t after = 0;
	uint32_t n;

	if (!infos) return -GRANARY_ENOMEM;
	while ((n = packs_list(p->o.packs, after, infos, LIST_MAX)) > 0) {
		for (uint32_t i = 0; i < n; i++) once_add(p, &infos[i], &sum);
		after = infos[n - 1].id;
	}
	free(infos);
	pthread_mutex_lock(&p->lock);
	p->stats.once_packs = sum.once_packs;
	p->stats.once_bytes = sum.once_bytes;
	p->stats.once_oldest_ns = sum.once_oldest_ns;
	pthread_mutex_unlock(&p->lock);
	return 0;
}
