/* SPDX-License-Identifier: Apache-2.0 */
/* aside.c -- see aside.h. */
#include "jobs/aside.h"

#include <pthread.h>
#include <stdlib.h>

struct aside {
	bool has_thread;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int (*fn)(void *arg); /* lock: NULL: nothing runs */
	void *arg;
	int err;
	bool is_ending;
};

static void *aside_main(void *arg)
{
	struct aside *a = arg;

	pthread_setname_np(pthread_self(), "granary-aside");
	pthread_mutex_lock(&a->lock);
	for (;;) {
		int err;

		while (a->fn == NULL && !a->is_ending) pthread_cond_wait(&a->changed, &a->lock);
		if (a->fn == NULL) break;
		pthread_mutex_unlock(&a->lock);
		err = a->fn(a->arg);
		pthread_mutex_lock(&a->lock);
		a->err = err;
		a->fn = NULL;
		pthread_cond_broadcast(&a->changed);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

struct aside *aside_new(bool has_thread)
{
	struct aside *a = calloc(1, sizeof(*a));

	if (a == NULL) return NULL;
	a->has_thread = has_thread;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	if (has_thread && pthread_create(&a->thread, NULL, aside_main, a) != 0) {
		a->has_thread = false;
		aside_free(&a);
	}
	return a;
}

void aside_free(struct aside **ap)
{
	struct aside *a = *ap;

	*ap = NULL;
	if (a == NULL) return;
	if (a->has_thread) {
		pthread_mutex_lock(&a->lock);
		a->is_ending = true;
		pthread_cond_broadcast(&a->changed);
		pthread_mutex_unlock(&a->lock);
		pthread_join(a->thread, NULL);
	}
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

int aside_wait(struct aside *a)
{
	int err;

	pthread_mutex_lock(&a->lock);
	while (a->fn != NULL) pthread_cond_wait(&a->changed, &a->lock);
	err = a->err;
	a->err = 0;
	pthread_mutex_unlock(&a->lock);
	return err;
}

int aside_run(struct aside *a, int (*fn)(void *arg), void *arg)
{
	int err = aside_wait(a);

	if (err < 0) return err;
	if (!a->has_thread) return fn(arg);
	pthread_mutex_lock(&a->lock);
	a->fn = fn;
	a->arg = arg;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	return 0;
}
