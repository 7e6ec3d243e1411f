/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c -- see pool.h.
 *
 * (1) a task waits only while all threads are busy: one more is started for a task that finds none idle.
 * (2) without any thread the task runs at once, in the thread that adds it: slow, never lost. */
#include "fuse/pool.h"

#include <pthread.h>
#include <stdlib.h>

struct pool {
	pthread_mutex_t lock; /* all below */
	pthread_cond_t work;
	struct pool_task *first, **last;
	uint32_t queued, idle, count, max;
	bool stop;
	pthread_t threads[];
};

static void *serve(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		struct pool_task *t = p->first;
		if (!t && p->stop) break;
		if (!t) {
			p->idle++;
			pthread_cond_wait(&p->work, &p->lock);
			p->idle--;
			continue;
		}
		p->first = t->next;
		if (!p->first) p->last = &p->first;
		p->queued--;
		pthread_mutex_unlock(&p->lock);
		t->run(t);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

struct pool *pool_new(uint32_t threads_max)
{
	struct pool *p = calloc(1, sizeof(*p) + threads_max * sizeof(p->threads[0]));

	if (!p) return NULL;
	p->max = threads_max;
	p->last = &p->first;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	return p;
}

void pool_add(struct pool *p, struct pool_task *t)
{
	pthread_mutex_lock(&p->lock);
	if (p->queued >= p->idle && p->count < p->max &&
		pthread_create(&p->threads[p->count], NULL, serve, p) == 0)
		p->count++;
	if (p->count == 0) {
		pthread_mutex_unlock(&p->lock);
		t->run(t);
		return;
	}
	t->next = NULL;
	*p->last = t;
	p->last = &t->next;
	p->queued++;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

void pool_free(struct pool *p)
{
	if (!p) return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (uint32_t i = 0; i < p->count; i++) pthread_join(p->threads[i], NULL);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
