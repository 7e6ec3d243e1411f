/* SPDX-License-Identifier: Apache-2.0 */
/* reactor.c -- the loop: submit, reap, take mail, run.
 * Invariants: (1) `mail` is a stack any thread pushes on; only the owner takes all of it and turns it round, so one
 * poster's order is kept; (2) who pushes on an empty stack wakes the owner (io_engine.h has the ordering); (3) a task
 * may be freed or posted again by its fn: it is not touched after the call; (4) the rest belongs to the owner. */
#include "io/reactor.h"

#include <assert.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "io/io_engine.h"

enum { COMPLETIONS_MAX = 256, MAIL_MAX = 1024, STOP_TURNS_MAX = 1000 };

struct task_list { struct task *head, **tail; };

struct reactor {
	_Atomic(struct task *) mail; /* a stack, newest first */
	char pad[64 - sizeof(void *)];
	struct io *io;
	struct task_list inbox;    /* mail taken, oldest first */
	struct task_list deferred;
	uint32_t index;
	struct io_options options;
	_Atomic bool stop;
	_Atomic bool running; /* the thread exists: its CPU clock may be read */
	_Atomic uint64_t cpu_ns; /* after it ended */
	bool joinable;
	int start_err;
	sem_t ready;
	pthread_t thread;
};

static _Thread_local struct reactor *self;

static void list_reset(struct task_list *l) { l->head = NULL; l->tail = &l->head; }

static struct task *list_take(struct task_list *l)
{
	struct task *t = l->head;
	if (t) {
		l->head = t->next;
		if (!l->head)
			l->tail = &l->head;
		t->next = NULL;
	}
	return t;
}

int reactor_new(uint32_t index, const struct io_options *options, struct reactor **out)
{
	*out = NULL;
	struct reactor *r = calloc(1, sizeof(*r));
	if (!r)
		return -GRANARY_ENOMEM;
	r->index = index;
	r->options = *options;
	list_reset(&r->inbox);
	list_reset(&r->deferred);
	sem_init(&r->ready, 0, 0);
	if (options->engine == IO_ENGINE_SIM) {
		int err = io_new(options, &r->io);
		if (err < 0) {
			reactor_free(&r);
			return err;
		}
	}
	*out = r;
	return 0;
}

struct io *reactor_io(struct reactor *r) { return r->io; }
uint32_t reactor_index(const struct reactor *r) { return r->index; }
struct reactor *reactor_self(void) { return self; }

/* ---- mail ---- */

void reactor_post_list(struct reactor *to, struct task *first, struct task *last)
{
	/* Our link order is oldest first, the stack's newest first: turn the list round. */
	struct task *newest = NULL, *t = first;
	last->next = NULL;
	while (t) {
		struct task *next = t->next;
		t->next = newest;
		newest = t;
		t = next;
	}
	struct task *old = atomic_load(&to->mail);
	do
		first->next = old;
	while (!atomic_compare_exchange_weak(&to->mail, &old, newest));
	if (!old && to != self && to->io)
		io_wake(to->io);
}

void reactor_post(struct reactor *to, struct task *task) { reactor_post_list(to, task, task); }

void reactor_defer(struct reactor *r, struct task *task)
{
	assert(r == self || !atomic_load(&r->running));
	task->next = NULL;
	*r->deferred.tail = task;
	r->deferred.tail = &task->next;
}

static void take_mail(struct reactor *r)
{
	struct task *newest = atomic_exchange(&r->mail, NULL), *oldest = NULL, *last = newest;
	while (newest) {
		struct task *next = newest->next;
		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	if (!oldest)
		return;
	*r->inbox.tail = oldest;
	r->inbox.tail = &last->next;
}

static uint32_t run_mail(struct reactor *r)
{
	uint32_t ran = 0;
	take_mail(r);
	for (struct task *t; ran < MAIL_MAX && (t = list_take(&r->inbox)); ran++)
		t->fn(t);
	return ran;
}

/* What is deferred meanwhile waits for the next turn, which then does not sleep. */
static uint32_t run_deferred(struct reactor *r)
{
	uint32_t ran = 0;
	struct task *head = r->deferred.head;
	list_reset(&r->deferred);
	for (struct task *t = head, *next; t; t = next, ran++) {
		next = t->next;
		t->next = NULL;
		t->fn(t);
	}
	return ran;
}

uint32_t reactor_turn(struct reactor *r, bool may_wait)
{
	struct reactor *outer = self;
	self = r;
	bool busy = r->inbox.head || r->deferred.head || atomic_load(&r->mail) || atomic_load(&r->stop);
	io_submit_and_wait(r->io, may_wait && !busy ? UINT64_MAX : 0);
	uint32_t ran = io_run(r->io, COMPLETIONS_MAX);
	ran += run_mail(r);
	ran += run_deferred(r);
	self = outer;
	return ran;
}

/* ---- the thread ---- */

static void *reactor_main(void *arg)
{
	struct reactor *r = arg;
	self = r;
	r->start_err = io_new(&r->options, &r->io);
	if (r->start_err < 0) {
		sem_post(&r->ready);
		return NULL;
	}
	atomic_store(&r->running, true);
	sem_post(&r->ready);
	while (!atomic_load(&r->stop))
		reactor_turn(r, true);
	/* Mail posted before the stop is still run; bounded, in case a task posts itself for ever. */
	for (uint32_t i = 0; i < STOP_TURNS_MAX && reactor_turn(r, false) > 0; i++)
		;
	io_drain(r->io);
	atomic_store(&r->cpu_ns, clock_thread_cpu_ns());
	atomic_store(&r->running, false);
	return NULL;
}

int reactor_start(struct reactor *r)
{
	char name[16];
	if (pthread_create(&r->thread, NULL, reactor_main, r) != 0)
		return -GRANARY_ENOMEM;
	snprintf(name, sizeof(name), "granary-r%u", r->index % 1000);
	pthread_setname_np(r->thread, name);
	r->joinable = true;
	while (sem_wait(&r->ready) != 0)
		;
	if (r->start_err < 0)
		reactor_stop(r);
	return r->start_err;
}

void reactor_stop(struct reactor *r)
{
	if (!r->joinable)
		return;
	atomic_store(&r->stop, true);
	if (r->io)
		io_wake(r->io);
	pthread_join(r->thread, NULL);
	r->joinable = false;
}

void reactor_free(struct reactor **rp)
{
	struct reactor *r = *rp;
	*rp = NULL;
	if (!r)
		return;
	reactor_stop(r);
	io_free(&r->io);
	sem_destroy(&r->ready);
	free(r);
}

uint64_t reactor_cpu_ns(struct reactor *r)
{
	clockid_t id;
	struct timespec ts;
	if (!atomic_load(&r->running) || pthread_getcpuclockid(r->thread, &id) != 0 || clock_gettime(id, &ts) != 0)
		return atomic_load(&r->cpu_ns);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}
