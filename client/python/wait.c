/* SPDX-License-Identifier: Apache-2.0 */
/* wait.c -- waiting without the interpreter, in slices, so that Ctrl-C is heard and slow things are named. */
#include "native.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct patience {
	uint64_t began_ms, next_ms; /* when the next notice is due */
};

/* After 2 s, 20 s, 200 s: one line of what is waited for. False with an exception set. */
static bool patience_spend(struct patience *p, struct owner_client *c, const char *what)
{
	struct granary_info info = GRANARY_INIT(granary_info);
	char text[700];
	uint64_t waited = now_ms() - p->began_ms;

	if (PyErr_CheckSignals() < 0) return false;
	if (waited < p->next_ms) return true;
	p->next_ms *= 10;
	if (c == NULL || granary_client_info(c->client, &info) < 0) info.retries = info.reconnects = 0;
	snprintf(text, sizeof(text),
		"waiting for %.200s from %.200s for %llu s (%llu retries, %llu reconnects so far)", what,
		c != NULL ? c->endpoint : "the server", (unsigned long long)(waited / 1000),
		(unsigned long long)info.retries, (unsigned long long)info.reconnects);
	return notice(text);
}

static _Thread_local uint64_t asked; /* of the operation that this thread waited for last */

int64_t op_wait(struct granary_op *op, struct owner_client *client, const char *what)
{
	struct patience patience = { now_ms(), NOTICE_AFTER_MS };
	int64_t result = granary_op_done(op) ? granary_wait(op, 0) : -GRANARY_EAGAIN;

	while (result == -GRANARY_EAGAIN && !granary_op_done(op)) {
		Py_BEGIN_ALLOW_THREADS result = granary_wait(op, WAIT_SLICE_MS);
		Py_END_ALLOW_THREADS if (result == -GRANARY_EAGAIN && !patience_spend(&patience, client, what))
		{
			granary_op_cancel(op);
			return INTERRUPTED;
		}
	}
	result = result == -GRANARY_EAGAIN ? granary_wait(op, 0) : result;
	asked = granary_op_request(op);
	return result;
}

uint64_t op_waited(void)
{
	return asked;
}

/* ---- jobs ---- */

void *job_new(size_t size, struct owner_client *client, void (*run)(struct job *), void (*drop)(struct job *))
{
	struct job *job = calloc(1, size);
	pthread_condattr_t attr;

	if (job == NULL) {
		PyErr_NoMemory();
		return NULL;
	}
	job->run = run;
	job->drop = drop;
	job->client = owner_client_ref(client);
	pthread_mutex_init(&job->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&job->ended, &attr);
	pthread_condattr_destroy(&attr);
	return job;
}

void job_drop(struct job *job)
{
	struct owner_client *client = job->client;

	pthread_mutex_destroy(&job->lock);
	pthread_cond_destroy(&job->ended);
	job->drop(job);
	owner_client_unref(client);
}

void job_error(struct job *job, int64_t result)
{
	job->result = result;
	if (result >= 0) return;
	snprintf(job->error, sizeof(job->error), "%s", granary_last_error(job->client->client));
	job->request = granary_last_request(job->client->client);
}

static void *job_main(void *arg)
{
	struct job *job = arg;

	job->run(job);
	pthread_mutex_lock(&job->lock);
	job->done = true;
	bool mine = job->given_up;
	pthread_cond_signal(&job->ended);
	pthread_mutex_unlock(&job->lock);
	if (mine) job_drop(job);
	return NULL;
}

static bool job_start(struct job *job)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int failed = pthread_create(&thread, &attr, job_main, job);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed == 0;
}

/* One slice; true when it has ended. */
static bool job_slice(struct job *job)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WAIT_SLICE_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&job->lock);
	if (!job->done) pthread_cond_timedwait(&job->ended, &job->lock, &until);
	bool done = job->done;
	pthread_mutex_unlock(&job->lock);
	return done;
}

int job_run(struct job *job, const char *what)
{
	struct patience patience = { now_ms(), NOTICE_AFTER_MS };
	bool done = false;

	if (!job_start(job)) {
		job_drop(job);
		PyErr_SetString(PyExc_RuntimeError, "cannot start a thread");
		return -1;
	}
	for (;;) {
		Py_BEGIN_ALLOW_THREADS done = job_slice(job);
		Py_END_ALLOW_THREADS if (done) return 0;
		if (!patience_spend(&patience, job->client, what)) break;
	}
	pthread_mutex_lock(&job->lock);
	job->given_up = true;
	done = job->done;
	pthread_mutex_unlock(&job->lock);
	if (done) job_drop(job);
	return -1;
}
