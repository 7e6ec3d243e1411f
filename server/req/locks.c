/* SPDX-License-Identifier: Apache-2.0 */
/* locks.c -- see locks.h. One lock guards all: locks are asked for seldom, and looking at a file's takes no time. Turns
 * are called after it was given back. */
#include "req/locks.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/error.h"
#include "common/hash.h"

enum { FILE_SLOTS = 1 << 12, CIRCLE_MAX = 64 /* steps along who waits for whom */ };

struct locked { /* a file */
	struct locked *next; /* in its slot */
	uint64_t id;
	struct list held, waiting;
};

struct locks {
	pthread_mutex_t lock;
	struct locked *slots[FILE_SLOTS];
	struct list waiting, turns; /* all who wait; those whose turn is to be called */
	bool is_grace;
};

struct locks *locks_new(bool is_grace)
{
	struct locks *t = calloc(1, sizeof(*t));

	if (t == NULL) return NULL;
	pthread_mutex_init(&t->lock, NULL);
	list_init(&t->waiting);
	list_init(&t->turns);
	t->is_grace = is_grace;
	return t;
}

static struct locked **slot_of(struct locks *t, uint64_t id) { return &t->slots[hash_u64(id) % FILE_SLOTS]; }

static struct locked *file_find(struct locks *t, uint64_t id)
{
	struct locked *f = *slot_of(t, id);

	while (f != NULL && f->id != id) f = f->next;
	return f;
}

static struct locked *file_make(struct locks *t, uint64_t id)
{
	struct locked **slot = slot_of(t, id), *f = file_find(t, id);

	if (f != NULL) return f;
	f = malloc(sizeof(*f));
	if (f == NULL) return NULL;
	*f = (struct locked){ .next = *slot, .id = id };
	list_init(&f->held);
	list_init(&f->waiting);
	*slot = f;
	return f;
}

static void file_unused(struct locks *t, struct locked *f)
{
	struct locked **at = slot_of(t, f->id);

	if (!list_empty(&f->held) || !list_empty(&f->waiting)) return;
	while (*at != f) at = &(*at)->next;
	*at = f->next;
	free(f);
}

void locks_free(struct locks **tp)
{
	struct locks *t = *tp;

	*tp = NULL;
	if (t == NULL) return;
	assert(list_empty(&t->waiting));
	for (uint32_t i = 0; i < FILE_SLOTS; i++) {
		while (t->slots[i] != NULL) {
			struct locked *f = t->slots[i];

			for (struct list *at; (at = list_pop(&f->held)) != NULL;)
				free(container_of(at, struct lock_item, link));
			file_unused(t, f);
		}
	}
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* ---- turns ---- */

/* Who waited goes on with this result, when the table's lock is given back. */
static void turn_add(struct locks *t, struct lock_wait *w, int result)
{
	list_remove(&w->link);
	list_remove(&w->all_link);
	w->result = result;
	list_push(&t->turns, &w->all_link);
}

static void unlock_and_turn(struct locks *t)
{
	struct list turns;

	list_init(&turns);
	list_splice(&turns, &t->turns);
	pthread_mutex_unlock(&t->lock);
	for (struct list *at; (at = list_pop(&turns)) != NULL;) {
		struct lock_wait *w = container_of(at, struct lock_wait, all_link);

		w->turn(w); /* it is not ours after this */
	}
}

/* ---- circles ---- */

static bool is_who(const struct lock *a, const struct lock *b)
{
	return a->session == b->session && a->owner == b->owner;
}

/* Does who holds `held`, or anybody whom he waits for, wait for `who`? */
static bool waits_for(struct locks *t, const struct lock *held, const struct lock *who, uint32_t *steps)
{
	if (is_who(held, who)) return true;
	list_for (at, &t->waiting) {
		const struct lock_wait *w = container_of(at, struct lock_wait, all_link);
		const struct locked *f;

		if (!is_who(&w->lock, held) || w->is_test) continue;
		f = file_find(t, w->id);
		list_for (n, &f->held) {
			const struct lock *other = &container_of(n, struct lock_item, link)->lock;

			if (!lock_conflicts(other, &w->lock)) continue;
			if (++*steps > CIRCLE_MAX || waits_for(t, other, who, steps)) return true;
		}
	}
	return false;
}

static bool closes_circle(struct locks *t, const struct locked *f, const struct lock *want)
{
	uint32_t steps = 0;

	if (want->kind != LOCK_RANGE) return false; /* flock(2) does not look either */
	list_for (n, &f->held) {
		const struct lock *held = &container_of(n, struct lock_item, link)->lock;

		if (lock_conflicts(held, want) && waits_for(t, held, want, &steps)) return true;
	}
	return false;
}

/* ---- asking ---- */

static void wait_add(struct locks *t, struct locked *f, struct lock_wait *w)
{
	list_push(&f->waiting, &w->link);
	list_push(&t->waiting, &w->all_link);
}

/* 0; LOCKED; DEADLOCK; NOMEM; 1: to be waited for. Not yet in a list. */
static int judge(struct locks *t, struct locked *f, struct lock_wait *w)
{
	const struct lock *other = lock_list_conflict(&f->held, &w->lock);

	if (other == NULL) return w->is_test ? 0 : lock_list_set(&f->held, &w->lock);
	w->other = *other;
	if (!w->may_wait || w->is_test) return -GRANARY_ELOCKED;
	return closes_circle(t, f, &w->lock) ? -GRANARY_EDEADLOCK : 1;
}

/* Something was given back, or the grace has ended. */
static void look_again(struct locks *t, struct locked *f)
{
	if (t->is_grace) return;
	list_for_safe (at, next, &f->waiting) {
		struct lock_wait *w = container_of(at, struct lock_wait, link);
		int res = judge(t, f, w);

		if (res <= 0) turn_add(t, w, res);
	}
}

int locks_ask(struct locks *t, struct lock_wait *w)
{
	struct locked *f;
	int res;

	list_init(&w->link);
	list_init(&w->all_link);
	pthread_mutex_lock(&t->lock);
	f = file_make(t, w->id);
	res = f == NULL ? -GRANARY_ENOMEM : t->is_grace ? 1 : judge(t, f, w);
	if (res == 1) wait_add(t, f, w);
	if (res == 0 && !w->is_test) look_again(t, f); /* it may have become less than it was */
	if (f != NULL) file_unused(t, f);
	unlock_and_turn(t);
	return res;
}

bool locks_withdraw(struct locks *t, struct lock_wait *w)
{
	bool waited;

	pthread_mutex_lock(&t->lock);
	waited = !list_empty(&w->link);
	if (waited) {
		list_remove(&w->link);
		list_remove(&w->all_link);
		file_unused(t, file_find(t, w->id));
	}
	pthread_mutex_unlock(&t->lock);
	return waited;
}

bool locks_cancel(struct locks *t, uint64_t session, uint64_t number)
{
	bool found = false;

	pthread_mutex_lock(&t->lock);
	list_for_safe (at, next, &t->waiting) {
		struct lock_wait *w = container_of(at, struct lock_wait, all_link);
		struct locked *f;

		if (w->lock.session != session || w->number != number) continue;
		f = file_find(t, w->id);
		turn_add(t, w, -GRANARY_ECANCELED);
		file_unused(t, f);
		found = true;
		break;
	}
	unlock_and_turn(t);
	return found;
}

/* ---- giving back ---- */

int locks_give(struct locks *t, uint64_t id, const struct lock *lock)
{
	struct lock none = *lock;
	struct locked *f;
	int err = 0;

	none.type = LOCK_NONE;
	pthread_mutex_lock(&t->lock);
	f = file_find(t, id);
	if (f != NULL) {
		err = lock_list_set(&f->held, &none);
		if (err == 0) look_again(t, f);
		file_unused(t, f);
	}
	unlock_and_turn(t);
	return err;
}

static void drop_waits(struct locks *t, struct locked *f, uint64_t session)
{
	list_for_safe (at, next, &f->waiting) {
		struct lock_wait *w = container_of(at, struct lock_wait, link);

		if (w->lock.session == session) turn_add(t, w, -GRANARY_ESTALE);
	}
}

static void drop(struct locks *t, struct locked *f, uint64_t session)
{
	lock_list_clear(&f->held, session);
	drop_waits(t, f, session);
	look_again(t, f);
	file_unused(t, f);
}

void locks_drop(struct locks *t, uint64_t id, uint64_t session)
{
	struct locked *f;

	pthread_mutex_lock(&t->lock);
	f = file_find(t, id);
	if (f != NULL) drop(t, f, session);
	unlock_and_turn(t);
}

void locks_end_session(struct locks *t, uint64_t session)
{
	pthread_mutex_lock(&t->lock);
	for (uint32_t i = 0; i < FILE_SLOTS; i++) {
		for (struct locked *f = t->slots[i], *next; f != NULL; f = next) {
			next = f->next;
			drop(t, f, session);
		}
	}
	unlock_and_turn(t);
}

/* ---- after a start ---- */

int locks_announce(struct locks *t, uint64_t id, const struct lock *lock)
{
	struct locked *f;
	int err = -GRANARY_ESTALE;

	pthread_mutex_lock(&t->lock);
	f = file_make(t, id);
	if (f == NULL)
		err = -GRANARY_ENOMEM;
	else if (lock_list_has(&f->held, lock))
		err = 0;
	else if (t->is_grace && lock_list_conflict(&f->held, lock) == NULL)
		err = lock_list_set(&f->held, lock);
	if (f != NULL) file_unused(t, f);
	pthread_mutex_unlock(&t->lock);
	return err;
}

void locks_grace_end(struct locks *t)
{
	pthread_mutex_lock(&t->lock);
	t->is_grace = false;
	for (uint32_t i = 0; i < FILE_SLOTS; i++) {
		for (struct locked *f = t->slots[i], *next; f != NULL; f = next) {
			next = f->next;
			look_again(t, f);
			file_unused(t, f);
		}
	}
	unlock_and_turn(t);
}

void locks_get_stats(struct locks *t, struct locks_stats *out)
{
	*out = (struct locks_stats){ 0 };
	pthread_mutex_lock(&t->lock);
	for (uint32_t i = 0; i < FILE_SLOTS; i++)
		for (const struct locked *f = t->slots[i]; f != NULL; f = f->next)
			list_for (at, &f->held) out->held++;
	list_for (at, &t->waiting) out->waiting++;
	pthread_mutex_unlock(&t->lock);
}
