/* SPDX-License-Identifier: Apache-2.0 */
/* lock_list.c -- see lock_list.h. */
#include "common/lock_list.h"

#include <stdlib.h>

#include "common/error.h"

static struct lock_item *item_of(struct list *at) { return container_of(at, struct lock_item, link); }

bool lock_is_sound(const struct lock *l)
{
	if (l->type > LOCK_EXCLUSIVE || l->start > l->end)
		return false;
	return l->kind == LOCK_RANGE || (l->kind == LOCK_WHOLE && l->start == 0 && l->end == UINT64_MAX);
}

const struct lock *lock_list_conflict(const struct list *locks, const struct lock *want)
{
	for (struct list *at = locks->next; at != locks; at = at->next)
		if (lock_conflicts(&item_of(at)->lock, want))
			return &item_of(at)->lock;
	return NULL;
}

/* What is left of it outside of [start, end]; false: nothing. *tail: a part behind as well. */
static bool cut(struct lock *l, const struct lock *by, struct lock *tail, bool *has_tail)
{
	*tail = *l;
	*has_tail = l->end > by->end;
	if (*has_tail)
		tail->start = by->end + 1;
	if (l->start < by->start) {
		l->end = by->start - 1;
		return true;
	}
	if (!*has_tail)
		return false;
	*l = *tail;
	*has_tail = false;
	return true;
}

/* Takes in what touches it and is of its type. */
static void merge(struct list *locks, struct lock_item *fresh)
{
	list_for_safe (at, next, locks) {
		struct lock_item *other = item_of(at);
		struct lock *a = &fresh->lock, *b = &other->lock;

		if (other == fresh || !lock_is_same_owner(a, b) || a->type != b->type)
			continue;
		if ((b->end == UINT64_MAX || b->end + 1 != a->start) &&
		    (a->end == UINT64_MAX || a->end + 1 != b->start))
			continue;
		a->start = b->start < a->start ? b->start : a->start;
		a->end = b->end > a->end ? b->end : a->end;
		list_remove(at);
		free(other);
	}
}

int lock_list_set(struct list *locks, const struct lock *want)
{
	struct lock_item *fresh = NULL, *spare = malloc(sizeof(*spare)); /* one lock at most is cut in two */
	if (want->type != LOCK_NONE)
		fresh = malloc(sizeof(*fresh));
	if (spare == NULL || (want->type != LOCK_NONE && fresh == NULL)) {
		free(spare);
		free(fresh);
		return -GRANARY_ENOMEM;
	}
	list_for_safe (at, next, locks) {
		struct lock_item *item = item_of(at);
		struct lock tail;
		bool has_tail;

		if (!lock_is_same_owner(&item->lock, want) || !lock_overlaps(&item->lock, want))
			continue;
		if (!cut(&item->lock, want, &tail, &has_tail)) {
			list_remove(at);
			free(item);
		} else if (has_tail) {
			spare->lock = tail;
			list_insert(at, &spare->link);
			spare = NULL;
			break; /* it covered all of the range */
		}
	}
	free(spare);
	if (fresh != NULL) {
		fresh->lock = *want;
		list_push(locks, &fresh->link);
		merge(locks, fresh);
	}
	return 0;
}

bool lock_list_has(const struct list *locks, const struct lock *want)
{
	uint64_t from = want->start;

	for (struct list *at = locks->next; at != locks;) {
		const struct lock *l = &item_of(at)->lock;

		at = at->next;
		if (!lock_is_same_owner(l, want) || l->type < want->type || l->start > from || l->end < from)
			continue;
		if (l->end >= want->end)
			return true;
		from = l->end + 1;
		at = locks->next;
	}
	return false;
}

void lock_list_clear(struct list *locks, uint64_t session)
{
	list_for_safe (at, next, locks) {
		if (item_of(at)->lock.session != session)
			continue;
		list_remove(at);
		free(item_of(at));
	}
}
