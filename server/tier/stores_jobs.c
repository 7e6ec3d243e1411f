/* SPDX-License-Identifier: Apache-2.0 */
/* stores_jobs.c -- threads of cold stores, and who answers when one hangs.
 *
 * job:  QUEUED --a thread takes it--> RUNNING --fetch() is back--> CLAIMED: finish()
 *          |                             |
 *          +--------- deadline ----------+--> LATE: fail() by the watcher; the thread frees it when it is
 *          back
 *
 * Invariants: (1) a job's state changes under its place's jobs_lock; whoever takes it out of QUEUED or
 * RUNNING answers it, so it is answered once; (2) after LATE the thread touches only the job; (3) threads are
 * made when there is work for them; the watcher wakes while jobs exist. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "tier/stores_priv.h"

enum { QUEUED = 1, RUNNING, CLAIMED, LATE, STORE_NICE = 5, WATCH_MS = 20, STOP_S = 5 };

/* ---- lists, under jobs_lock ---- */

static void running_add(struct place *p, struct place_job *job)
{
	job->prev = NULL;
	job->next = p->running;
	if (p->running != NULL) p->running->prev = job;
	p->running = job;
}

static void running_remove(struct place *p, struct place_job *job)
{
	if (job->prev != NULL)
		job->prev->next = job->next;
	else
		p->running = job->next;
	if (job->next != NULL) job->next->prev = job->prev;
}

static void queue_push(struct place *p, struct place_job *job)
{
	job->next = NULL;
	job->prev = p->queue_last;
	if (p->queue_last != NULL)
		p->queue_last->next = job;
	else
		p->queue = job;
	p->queue_last = job;
}

static void queue_remove(struct place *p, struct place_job *job)
{
	if (job->prev != NULL)
		job->prev->next = job->next;
	else
		p->queue = job->next;
	if (job->next != NULL)
		job->next->prev = job->prev;
	else
		p->queue_last = job->prev;
}

/* ---- threads ---- */

static void job_run(struct place *p, struct place_job *job)
{
	int err = job->fetch(job);
	bool late;

	pthread_mutex_lock(&p->jobs_lock);
	running_remove(p, job);
	late = job->state == LATE;
	if (!late) job->state = CLAIMED;
	pthread_mutex_unlock(&p->jobs_lock);
	if (late)
		atomic_fetch_sub(&p->hanging, 1);
	else
		job->finish(job, err);
	job->free(job);
}

static void *place_main(void *arg)
{
	struct place *p = arg;

	setpriority(PRIO_PROCESS, 0, STORE_NICE); /* of this thread alone, on Linux */
	pthread_mutex_lock(&p->jobs_lock);
	for (;;) {
		struct place_job *job = p->queue;

		if (job != NULL) {
			queue_remove(p, job);
			job->state = RUNNING;
			running_add(p, job);
			pthread_mutex_unlock(&p->jobs_lock);
			job_run(p, job);
			pthread_mutex_lock(&p->jobs_lock);
			continue;
		}
		if (p->stop) break;
		p->idle++;
		pthread_cond_wait(&p->work, &p->jobs_lock);
		p->idle--;
	}
	pthread_mutex_unlock(&p->jobs_lock);
	return NULL;
}

/* Under jobs_lock. */
static bool thread_add(struct place *p)
{
	if (p->thread_count >= p->stores->o.threads ||
		pthread_create(&p->threads[p->thread_count], NULL, place_main, p) != 0)
		return p->thread_count > 0;
	pthread_setname_np(p->threads[p->thread_count++], "granary-store");
	return true;
}

/* The watcher said that it sleeps before it looked for jobs the last time: it is woken, or it found this one. */
static void watch_wake(struct stores *stores)
{
	if (!atomic_load(&stores->watch_sleeps)) return;
	pthread_mutex_lock(&stores->watch_lock);
	atomic_store(&stores->watch_sleeps, false);
	pthread_cond_signal(&stores->watch);
	pthread_mutex_unlock(&stores->watch_lock);
}

static void run_here(struct place_job *job)
{
	job->finish(job, job->fetch(job));
	job->free(job);
}

void place_start(struct place *p, struct place_job *job)
{
	bool refused;

	if (!job->local && place_is_away(p)) {
		job->fail(job, -GRANARY_EOFFLINE);
		job->free(job);
		return;
	}
	if (p->stores->o.inline_jobs) {
		run_here(job);
		return;
	}
	pthread_mutex_lock(&p->jobs_lock);
	refused = p->stop || (p->idle == 0 && !thread_add(p));
	if (!refused) {
		job->state = QUEUED;
		queue_push(p, job);
		pthread_cond_signal(&p->work);
	}
	pthread_mutex_unlock(&p->jobs_lock);
	if (refused) {
		job->fail(job, -GRANARY_ENOMEM);
		job->free(job);
		return;
	}
	watch_wake(p->stores);
}

/* ---- the watcher ---- */

/* One job that is late is answered; false: there is none. busy: there are jobs. A job of the queue is freed
 * here, one that runs by its thread; it stays valid while it is answered because its thread cannot end it
 * without the lock. */
static bool answer_one(struct place *p, uint64_t now, bool *busy)
{
	struct place_job *job;
	bool queued = true;

	pthread_mutex_lock(&p->jobs_lock);
	*busy |= p->queue != NULL || p->running != NULL;
	for (job = p->queue; job != NULL && now < job->deadline_ns; job = job->next) continue;
	if (job == NULL) {
		queued = false;
		for (job = p->running; job != NULL && (job->state == LATE ||
			now < job->deadline_ns); job = job->next) continue;
	}
	if (job != NULL && queued) queue_remove(p, job);
	if (job != NULL && !queued) {
		job->state = LATE;
		atomic_fetch_add(&p->hanging, 1);
		job->fail(job, -GRANARY_ETIMEDOUT);
	}
	pthread_mutex_unlock(&p->jobs_lock);
	if (job == NULL) return false;
	if (queued) {
		job->fail(job, -GRANARY_ETIMEDOUT);
		job->free(job);
	}
	place_failed(p, -GRANARY_ETIMEDOUT);
	return true;
}

/* Under watch_lock. */
static void watch_wait(struct stores *stores, bool busy)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WATCH_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	if (busy)
		(void)pthread_cond_timedwait(&stores->watch, &stores->watch_lock, &until);
	else
		while (atomic_load(&stores->watch_sleeps) && !stores->stop)
			pthread_cond_wait(&stores->watch, &stores->watch_lock);
	atomic_store(&stores->watch_sleeps, false);
}

/* Are there jobs? Those that are late are answered. */
static bool watch_look(struct stores *stores)
{
	bool busy = false;

	for (uint32_t i = 0; i < stores->count; i++)
		while (answer_one(stores->all[i], clock_mono_ns(), &busy)) continue;
	return busy;
}

static void *watch_main(void *arg)
{
	struct stores *stores = arg;

	pthread_mutex_lock(&stores->watch_lock);
	while (!stores->stop) {
		bool busy;

		pthread_mutex_unlock(&stores->watch_lock);
		busy = watch_look(stores);
		if (!busy) { /* said first, then looked: no job comes between */
			atomic_store(&stores->watch_sleeps, true);
			busy = watch_look(stores);
		}
		pthread_mutex_lock(&stores->watch_lock);
		if (!stores->stop) watch_wait(stores, busy);
	}
	pthread_mutex_unlock(&stores->watch_lock);
	return NULL;
}

int jobs_table_start(struct stores *stores)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&stores->watch, &attr);
	pthread_condattr_destroy(&attr);
	if (stores->o.inline_jobs || stores->count == 0) return 0;
	if (pthread_create(&stores->watcher, NULL, watch_main, stores) != 0) return -GRANARY_ENOMEM;
	pthread_setname_np(stores->watcher, "granary-watch");
	stores->has_watcher = true;
	return 0;
}

static bool threads_stop(struct place *p)
{
	struct timespec until;
	bool all = true;

	pthread_mutex_lock(&p->jobs_lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->jobs_lock);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STOP_S;
	for (uint32_t i = 0; i < p->thread_count; i++)
		if (pthread_timedjoin_np(p->threads[i], NULL, &until) != 0) all = false;
	if (!all) log_warn("a call into store '%s' hangs: the stop goes on without it", p->settings.name);
	return all;
}

bool jobs_table_stop(struct stores *stores)
{
	bool all = true;

	for (uint32_t i = 0; i < stores->count; i++) all &= threads_stop(stores->all[i]);
	pthread_mutex_lock(&stores->watch_lock);
	stores->stop = true;
	pthread_cond_signal(&stores->watch);
	pthread_mutex_unlock(&stores->watch_lock);
	if (stores->has_watcher) pthread_join(stores->watcher, NULL);
	return all;
}
