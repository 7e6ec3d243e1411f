/* SPDX-License-Identifier: Apache-2.0 */
/* lane.c -- see lane.h. */
#include "req/lane.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/hash.h"

enum { LANE_SLOTS = 1024 };

/* One list a slot, in the order of arrival: objects that share one are told apart by their ids. */
struct lanes {
	pthread_mutex_t lock;
	struct list slots[LANE_SLOTS];
};

struct lanes *lanes_new(void)
{
	struct lanes *lanes = malloc(sizeof(*lanes));

	if (lanes == NULL) return NULL;
	pthread_mutex_init(&lanes->lock, NULL);
	for (int i = 0; i < LANE_SLOTS; i++) list_init(&lanes->slots[i]);
	return lanes;
}

void lanes_free(struct lanes **lanesp)
{
	struct lanes *lanes = *lanesp;

	*lanesp = NULL;
	if (lanes == NULL) return;
	for (int i = 0; i < LANE_SLOTS; i++) assert(list_empty(&lanes->slots[i]));
	pthread_mutex_destroy(&lanes->lock);
	free(lanes);
}

static struct lane_wait *lane_first(struct list *slot, uint64_t id)
{
	list_for(n, slot)
	{
		struct lane_wait *w = container_of(n, struct lane_wait, node);

		if (w->id == id) return w;
	}
	return NULL;
}

bool lane_enter(struct lanes *lanes, struct lane_wait *w, uint64_t id)
{
	struct list *slot = &lanes->slots[hash_u64(id) % LANE_SLOTS];
	bool is_first;

	assert(!w->is_in);
	w->id = id;
	w->is_in = true;
	pthread_mutex_lock(&lanes->lock);
	is_first = lane_first(slot, id) == NULL;
	list_push(slot, &w->node);
	pthread_mutex_unlock(&lanes->lock);
	return is_first;
}

void lane_leave(struct lanes *lanes, struct lane_wait *w)
{
	struct list *slot = &lanes->slots[hash_u64(w->id) % LANE_SLOTS];
	struct lane_wait *next;
	bool was_first;

	if (!w->is_in) return;
	pthread_mutex_lock(&lanes->lock);
	was_first = lane_first(slot, w->id) == w;
	list_remove(&w->node);
	w->is_in = false;
	next = was_first ? lane_first(slot, w->id) : NULL;
	pthread_mutex_unlock(&lanes->lock);
	if (next != NULL) next->turn(next);
}
