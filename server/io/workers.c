/* SPDX-License-Identifier: Apache-2.0 */
/* workers.c -- threads for what blocks, one FIFO between them.
 * Invariants: (1) all fields are under `lock`; (2) at most one thread is being woken at a time: a burst of short tasks
 * is run by the few that are awake; (3) whoever takes a task and leaves others queued sees to it that one more thread
 * is on its way, so a task that blocks holds up nobody. */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/error.h"
#include "io/reactor.h"

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct task *head, **tail;
	uint32_t threads_count, idle_count;
	bool waking, stop;
	pthread_t threads[];
};

static struct task *take(struct workers *w)
{
	struct task *t = w->head;
	if (t) {
		w->head = t->next;
		if (!w->head)
			w->tail = &w->head;
		t->next = NULL;
	}
	return t;
}

/* Under the lock. */
static void wake_one(struct workers *w)
{
	if (w->head == NULL || w->idle_count == 0 || w->waking)
		return;
	w->waking = true;
	pthread_cond_signal(&w->work);
}

static void *worker_main(void *arg)
{
	struct workers *w = arg;
	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct task *t = take(w);
		if (t) {
			wake_one(w);
			pthread_mutex_unlock(&w->lock);
			t->fn(t); /* may free or post itself again */
			pthread_mutex_lock(&w->lock);
			continue;
		}
		if (w->stop)
			break;
		w->idle_count++;
		pthread_cond_wait(&w->work, &w->lock);
		w->idle_count--;
		w->waking = false;
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static int worker_start(struct workers *w)
{
	char name[16];
	uint32_t i = w->threads_count;
	if (pthread_create(&w->threads[i], NULL, worker_main, w) != 0)
		return -GRANARY_ENOMEM;
	snprintf(name, sizeof(name), "granary-w%u", i % 1000);
	pthread_setname_np(w->threads[i], name);
	w->threads_count++;
	return 0;
}

int workers_new(uint32_t threads, struct workers **out)
{
	*out = NULL;
	struct workers *w = calloc(1, sizeof(*w) + threads * sizeof(w->threads[0]));
	if (!w)
		return -GRANARY_ENOMEM;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, NULL);
	w->tail = &w->head;
	while (w->threads_count < threads) {
		int err = worker_start(w);
		if (err < 0) {
			workers_free(&w);
			return err;
		}
	}
	*out = w;
	return 0;
}

void workers_free(struct workers **wp)
{
	struct workers *w = *wp;
	*wp = NULL;
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->work);
	pthread_mutex_unlock(&w->lock);
	for (uint32_t i = 0; i < w->threads_count; i++)
		pthread_join(w->threads[i], NULL);
	while (workers_turn(w) > 0)
		;
	pthread_cond_destroy(&w->work);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

void workers_post(struct workers *w, struct task *task)
{
	pthread_mutex_lock(&w->lock);
	task->next = NULL;
	*w->tail = task;
	w->tail = &task->next;
	wake_one(w);
	pthread_mutex_unlock(&w->lock);
}

uint32_t workers_turn(struct workers *w)
{
	uint32_t ran = 0;
	assert(w->threads_count == 0 || w->stop);
	for (;;) {
		pthread_mutex_lock(&w->lock);
		struct task *t = take(w);
		pthread_mutex_unlock(&w->lock);
		if (!t)
			return ran;
		t->fn(t);
		ran++;
	}
}
