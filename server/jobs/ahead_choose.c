/* SPDX-License-Identifier: Apache-2.0 */
/* ahead_choose.c -- which packs come up and which go, of all there are. See ahead.h for what is wanted of it. */
#include <math.h>
#include <stdlib.h>

#include "jobs/ahead.h"

enum { REREAD_S = 600 }; /* read within this time: it is not let go for one that reads alone want */

static int soonest_first(const void *a, const void *b)
{
	const struct ahead_pack *x = *(struct ahead_pack *const *)a, *y = *(struct ahead_pack *const *)b;

	if (x->next_s != y->next_s) return x->next_s < y->next_s ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Those that nobody speaks for, read longest ago, then those used latest. */
static int farthest_first(const void *a, const void *b)
{
	const struct ahead_pack *x = *(struct ahead_pack *const *)a, *y = *(struct ahead_pack *const *)b;

	if (x->next_s != y->next_s) return x->next_s > y->next_s ? -1 : 1;
	if (x->idle_s != y->idle_s) return x->idle_s > y->idle_s ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Less than half of it would be used: its samples are read one by one. */
static bool may_come(const struct ahead_pack *p)
{
	return !p->hot && p->cold && (p->wanted || (p->next_s < INFINITY && p->left >= p->size / 2));
}

static bool may_go(const struct ahead_pack *p)
{
	return p->hot && p->cold && p->brought;
}

static bool goes_for(const struct ahead_pack *p, const struct ahead_pack *comes)
{
	if (comes->next_s == INFINITY) return p->next_s == INFINITY && p->idle_s > REREAD_S;
	return p->next_s > comes->last_s;
}

static void choose(struct ahead_pack **ups, uint32_t up_count, struct ahead_pack **downs, uint32_t down_count,
	int64_t room, uint32_t comes_max)
{
	uint32_t d = 0, comes = 0;

	for (; room < 0 && d < down_count && downs[d]->next_s == INFINITY; d++) {
		downs[d]->verdict = AHEAD_GOES;
		room += (int64_t)downs[d]->size;
	}
	for (uint32_t u = 0; u < up_count && comes < comes_max; u++) {
		int64_t size = (int64_t)ups[u]->size, there = room;
		uint32_t until = d;

		for (; there < size && until < down_count && goes_for(downs[until], ups[u]); until++)
			there += (int64_t)downs[until]->size;
		if (there < size) return;
		for (; d < until; d++) downs[d]->verdict = AHEAD_GOES;
		ups[u]->verdict = AHEAD_COMES;
		room = there - size;
		comes++;
	}
}

void ahead_choose(struct ahead_pack *packs, uint32_t count, int64_t room, uint32_t comes_max)
{
	struct ahead_pack **ups = calloc((size_t)count + 1, sizeof(*ups));
	struct ahead_pack **downs = calloc((size_t)count + 1, sizeof(*downs));
	uint32_t up_count = 0, down_count = 0;

	for (uint32_t i = 0; i < count; i++) {
		packs[i].verdict = AHEAD_STAYS;
		if (ups == NULL || downs == NULL) continue;
		if (may_come(&packs[i])) ups[up_count++] = &packs[i];
		if (may_go(&packs[i])) downs[down_count++] = &packs[i];
	}
	if (up_count > 0) qsort(ups, up_count, sizeof(ups[0]), soonest_first);
	if (down_count > 0) qsort(downs, down_count, sizeof(downs[0]), farthest_first);
	choose(ups, up_count, downs, down_count, room, comes_max);
	free(ups);
	free(downs);
}
