/* SPDX-License-Identifier: Apache-2.0 */
/* lock_list.h -- the locks of one file: whole-file locks as of flock(2) and byte ranges as of fcntl(2), which do not
 * see each other. The server keeps such a list a file, and the client one of its own, to tell it again.
 *
 * Invariants: (1) no two locks of one owner and kind overlap; those that touch have different types; (2) locks of
 * different owners of one kind overlap only where all are shared (the caller asks lock_list_conflict first). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"

enum lock_kind { LOCK_WHOLE = 1, LOCK_RANGE = 2 };
enum lock_type { LOCK_NONE = 0, LOCK_SHARED = 1, LOCK_EXCLUSIVE = 2 };
struct lock {
	uint64_t session, owner; /* together: who */
	uint64_t start, end;     /* bytes, both inclusive; LOCK_WHOLE: 0 and UINT64_MAX */
	uint32_t pid;            /* told to who asks; means nothing here */
	uint8_t kind, type;
};
struct lock_item {
	struct list link;
	struct lock lock;
};

static inline bool lock_is_same_owner(const struct lock *a, const struct lock *b)
{
	return a->session == b->session && a->owner == b->owner && a->kind == b->kind;
}
static inline bool lock_overlaps(const struct lock *a, const struct lock *b)
{
	return a->kind == b->kind && a->start <= b->end && b->start <= a->end;
}
static inline bool lock_conflicts(const struct lock *a, const struct lock *b)
{
	return lock_overlaps(a, b) && !lock_is_same_owner(a, b) &&
	       (a->type == LOCK_EXCLUSIVE || b->type == LOCK_EXCLUSIVE);
}
bool lock_is_sound(const struct lock *lock); /* kind, type and range are such as the above says */
/* The first in the list that stands in the way; NULL: none does. */
const struct lock *lock_list_conflict(const struct list *locks, const struct lock *want);
/* Gives the owner this lock in its range, whatever it had there; type LOCK_NONE: nothing. 0, or -GRANARY_ENOMEM:
 * nothing is changed. */
int lock_list_set(struct list *locks, const struct lock *want);
/* Has the owner at least this, all over the range? */
bool lock_list_has(const struct list *locks, const struct lock *want);
void lock_list_clear(struct list *locks, uint64_t session); /* all of a session */
