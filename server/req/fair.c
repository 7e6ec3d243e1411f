/* SPDX-License-Identifier: Apache-2.0 */
/* fair.c -- who goes next: the request whose job had least, divided by its weight.
 *
 * A turn in which no request came, nothing was read and nothing sent is idle: then who is ahead waits only for those
 * who wait as well, not for those who could ask and do not.
 *
 * Invariants: (1) a job's `had` never falls behind that of the jobs that are at work when it comes back: what it did
 * not ask for is gone; (2) a request waits on the reactor that runs it, which gives permissions in a task of its own;
 * (3) whoever waits is looked at again in the reactor's next turn, or, where too much is being read, when some of it
 * came; (4) jobs and `contended` are guarded by the lock; `contended` is read without it. */
#include "req/fair.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/clock.h"

enum {
	TURN_BYTES = 1024 * 1024,           /* of permissions in a turn */
	READING_MAX = 4 * 1024 * 1024,
	AHEAD_MAX = FAIR_QUANTUM,           /* of had, over that of another job */
	REACTORS = 64,
};
static const uint64_t idle_ns = 1000000000; /* a job that was not there for so long is none */

struct job {
	uint64_t id;
	uint32_t weight;
	uint32_t open;            /* requests */
	uint32_t waiting;         /* of them, for a permission */
	uint64_t had;             /* bytes * 1,024 / weight */
	uint64_t seen_ns;
};

struct fair {
	pthread_mutex_t lock;
	struct job jobs[FAIR_JOBS_MAX]; /* the first: requests without a job */
	struct fair_local *locals[REACTORS];
	uint32_t locals_count;
	_Atomic bool contended;
	_Atomic bool held;        /* some reactor's is */
	_Atomic uint64_t reading;
};

struct fair_local {
	struct fair *fair;
	struct reactor *reactor;
	struct task turn, poke;   /* turn: its own; poke: another's, while `poked` */
	bool turning;
	bool poked, held;         /* under the lock; held: somebody waits here for what is being read */
	uint64_t activity, seen;
	struct list waiters[FAIR_JOBS_MAX];
	uint32_t waiters_count;
};

/* ---- jobs; under the lock ---- */

static bool is_active(const struct job *j, uint64_t now)
{
	return j->open > 0 || (j->seen_ns > 0 && now - j->seen_ns < idle_ns);
}

static void contended_set(struct fair *fair, uint64_t now)
{
	uint32_t active = 0;

	for (uint32_t i = 0; i < FAIR_JOBS_MAX; i++)
		active += is_active(&fair->jobs[i], now);
	atomic_store_explicit(&fair->contended, active > 1, memory_order_relaxed);
}

static uint32_t job_find(struct fair *fair, uint64_t id, uint64_t now)
{
	uint32_t free = 0;

	for (uint32_t i = 1; id != 0 && i < FAIR_JOBS_MAX; i++) {
		if (fair->jobs[i].id == id)
			return i;
		if (free == 0 && !is_active(&fair->jobs[i], now))
			free = i;
	}
	if (free > 0)
		fair->jobs[free] = (struct job){ .id = id };
	return free;
}

/* The least that a job with open requests had; waiting: one that waits for a permission, on any reactor. */
static uint64_t least_had(const struct fair *fair, bool waiting)
{
	uint64_t least = UINT64_MAX;

	for (uint32_t i = 0; i < FAIR_JOBS_MAX; i++)
		if ((waiting ? fair->jobs[i].waiting : fair->jobs[i].open) > 0 && fair->jobs[i].had < least)
			least = fair->jobs[i].had;
	return least;
}

static void job_wake(struct fair *fair, struct job *j, uint64_t now)
{
	uint64_t least = UINT64_MAX;

	if (is_active(j, now))
		return;
	for (uint32_t i = 0; i < FAIR_JOBS_MAX; i++)
		if (&fair->jobs[i] != j && is_active(&fair->jobs[i], now) && fair->jobs[i].had < least)
			least = fair->jobs[i].had;
	if (least != UINT64_MAX && j->had < least)
		j->had = least;
}

/* ---- permissions ---- */

static void turn_schedule(struct fair_local *local)
{
	if (local->turning || local->waiters_count == 0)
		return;
	local->turning = true;
	reactor_defer(local->reactor, &local->turn);
}

/* Of those who wait here, the one whose job had least; NULL: it had too much. Under the lock. */
static struct fair_req *next_of(struct fair_local *local, bool idle)
{
	struct fair *fair = local->fair;
	uint32_t best = FAIR_JOBS_MAX;

	for (uint32_t i = 0; i < FAIR_JOBS_MAX; i++)
		if (!list_empty(&local->waiters[i]) &&
			(best == FAIR_JOBS_MAX || fair->jobs[i].had < fair->jobs[best].had))
			best = i;
	if (best == FAIR_JOBS_MAX || fair->jobs[best].had > least_had(fair, idle) + (uint64_t)AHEAD_MAX * 1024)
		return NULL;
	return container_of(list_pop(&local->waiters[best]), struct fair_req, node);
}

static void charge(struct job *j, uint64_t bytes) { j->had += bytes * 1024 / (j->weight > 0 ? j->weight : 1); }

/* Others who wait for what is being read. Under the lock. */
static void poke_others(struct fair_local *local)
{
	atomic_store_explicit(&local->fair->held, local->held, memory_order_relaxed);
	for (uint32_t i = 0; i < local->fair->locals_count; i++) {
		struct fair_local *other = local->fair->locals[i];

		if (other == local || !other->held || other->poked)
			continue;
		other->held = false;
		other->poked = true;
		reactor_post(other->reactor, &other->poke);
	}
}

static void turn_run(struct task *task)
{
	struct fair_local *local = container_of(task, struct fair_local, turn);
	struct fair *fair = local->fair;
	struct fair_req *r;
	uint64_t bytes = 0;
	struct list go;
	bool full, idle = local->activity == local->seen;

	local->seen = local->activity;
	local->turning = false;
	list_init(&go);
	pthread_mutex_lock(&fair->lock);
	while (bytes < TURN_BYTES && atomic_load_explicit(&fair->reading, memory_order_relaxed) < READING_MAX &&
		(r = next_of(local, idle)) != NULL) {
		local->waiters_count--;
		fair->jobs[r->job].waiting--;
		charge(&fair->jobs[r->job], FAIR_QUANTUM);
		r->waits = false;
		r->left = FAIR_QUANTUM;
		bytes += FAIR_QUANTUM;
		list_push(&go, &r->node);
	}
	full = atomic_load_explicit(&fair->reading, memory_order_relaxed) >= READING_MAX;
	local->held = full && local->waiters_count > 0;
	if (local->held)
		atomic_store_explicit(&fair->held, true, memory_order_relaxed);
	pthread_mutex_unlock(&fair->lock);
	for (struct list *n; (n = list_pop(&go)) != NULL;) {
		r = container_of(n, struct fair_req, node);
		r->go(r);
	}
	if (!full)
		turn_schedule(local);
}

static void poke_run(struct task *task)
{
	struct fair_local *local = container_of(task, struct fair_local, poke);

	pthread_mutex_lock(&local->fair->lock);
	local->poked = false;
	pthread_mutex_unlock(&local->fair->lock);
	turn_schedule(local);
}

bool fair_may(struct fair_local *local, struct fair_req *r)
{
	struct fair *fair = local->fair;

	if (r->left > 0 || !atomic_load_explicit(&fair->contended, memory_order_relaxed))
		return true;
	if (r->waits)
		return false;
	pthread_mutex_lock(&fair->lock);
	r->waits = true;
	fair->jobs[r->job].waiting++;
	list_remove(&r->node); /* a turn may be about to let it go, and it went already */
	list_push(&local->waiters[r->job], &r->node);
	local->waiters_count++;
	pthread_mutex_unlock(&fair->lock);
	turn_schedule(local);
	return false;
}

/* A permission was charged when it was given; without one, what was made is charged now. */
void fair_made(struct fair_local *local, struct fair_req *r, uint64_t bytes)
{
	struct fair *fair = local->fair;
	uint64_t paid = r->left < bytes ? r->left : bytes;

	r->left -= paid;
	if (paid == bytes || !atomic_load_explicit(&fair->contended, memory_order_relaxed))
		return;
	pthread_mutex_lock(&fair->lock);
	charge(&fair->jobs[r->job], bytes - paid);
	pthread_mutex_unlock(&fair->lock);
}

void fair_reading(struct fair_local *local, uint64_t bytes)
{
	atomic_fetch_add_explicit(&local->fair->reading, bytes, memory_order_relaxed);
}

void fair_came(struct fair_local *local, uint64_t bytes)
{
	struct fair *fair = local->fair;

	local->activity++;
	atomic_fetch_sub_explicit(&fair->reading, bytes, memory_order_relaxed);
	turn_schedule(local);
	if (!atomic_load_explicit(&fair->held, memory_order_relaxed))
		return;
	pthread_mutex_lock(&fair->lock);
	poke_others(local);
	pthread_mutex_unlock(&fair->lock);
}

void fair_sent(struct fair_local *local) { local->activity++; }

/* ---- requests ---- */

void fair_enter(struct fair_local *local, struct fair_req *r, uint64_t job, uint32_t weight)
{
	struct fair *fair = local->fair;
	uint64_t now = clock_mono_ns();

	list_init(&r->node);
	local->activity++;
	pthread_mutex_lock(&fair->lock);
	r->job = job_find(fair, job, now);
	struct job *j = &fair->jobs[r->job];
	job_wake(fair, j, now);
	j->weight = r->job == 0 || weight == 0 ? 1 : weight < FAIR_WEIGHT_MAX ? weight : FAIR_WEIGHT_MAX;
	j->seen_ns = now;
	j->open++;
	r->entered = true;
	contended_set(fair, now);
	pthread_mutex_unlock(&fair->lock);
}

void fair_leave(struct fair_local *local, struct fair_req *r)
{
	struct fair *fair = local->fair;

	if (!r->entered)
		return;
	r->entered = false;
	pthread_mutex_lock(&fair->lock);
	struct job *j = &fair->jobs[r->job];
	list_remove(&r->node); /* also of those that a turn is about to let go */
	if (r->waits) {
		local->waiters_count--;
		j->waiting--;
	}
	r->waits = false;
	j->had -= r->left * 1024 / j->weight < j->had ? r->left * 1024 / j->weight : j->had; /* not used */
	j->open--;
	pthread_mutex_unlock(&fair->lock);
}

/* ---- start and stop ---- */

struct fair *fair_new(void)
{
	struct fair *fair = calloc(1, sizeof(*fair));

	if (fair != NULL)
		pthread_mutex_init(&fair->lock, NULL);
	return fair;
}

void fair_free(struct fair **fp)
{
	if (*fp != NULL)
		pthread_mutex_destroy(&(*fp)->lock);
	free(*fp);
	*fp = NULL;
}

struct fair_local *fair_local_new(struct fair *fair, struct reactor *reactor)
{
	struct fair_local *local = calloc(1, sizeof(*local));

	if (local == NULL)
		return NULL;
	local->fair = fair;
	local->reactor = reactor;
	local->turn.fn = turn_run;
	local->poke.fn = poke_run;
	for (uint32_t i = 0; i < FAIR_JOBS_MAX; i++)
		list_init(&local->waiters[i]);
	pthread_mutex_lock(&fair->lock);
	fair->locals[fair->locals_count++] = local;
	pthread_mutex_unlock(&fair->lock);
	return local;
}

void fair_local_free(struct fair_local **local)
{
	free(*local);
	*local = NULL;
}
