/* SPDX-License-Identifier: Apache-2.0 */
/* local_cold.c -- packs of this host that are not in the page cache: ranges that a stream wants, which are large and
 * many are known at once, are read into it and out of it by a few threads, without the server.
 *
 * NONE -> QUEUED   cold_start()   not all of it is in the page cache; its plan belongs to the threads
 * QUEUED -> BUSY   cold_main()    first, before any is read, the kernel is told of all: the disk has much to do at once
 *        -> QUEUED                then they are read, in the order in which they were asked for
 * BUSY -> DONE                    read and verified, but for what the server is to be asked for
 * any -> NONE      cold_end()     the plan is the owner's again
 *
 * Invariants: (1) a stream reads so only while the machine has memory that nobody uses; (2) whoever is told of the
 * end, under the client's lock, is told before cold_end() returns; (3) a client that closes reads nothing more: what is
 * queued is done, with all of it left. */
#include <fcntl.h>
#include <signal.h>

#include "client_priv.h"
#include "range.h"

enum { COLD_NONE, COLD_QUEUED, COLD_BUSY, COLD_DONE };
enum { COLD_LEAST = 16 * 1024 }; /* bytes a range, on average: smaller ones the server reads in fewer steps */

static void cold_advise(const struct range_plan *p, struct granary_client *c)
{
	for (uint32_t i = 0; i < p->wants_count; i++) {
		struct local_file *f = p->wants[i].done ? NULL : local_get_cold(c, p->wants[i].pack);
		if (f)
			posix_fadvise(f->fd, p->wants[i].offset, p->wants[i].length, POSIX_FADV_WILLNEED);
		local_put(c, f);
	}
}

static struct cold_read *cold_take(struct list *from)
{
	struct cold_read *r = container_of(list_pop(from), struct cold_read, link);

	list_init(&r->link);
	r->state = COLD_BUSY;
	return r;
}

static void cold_finish(struct granary_client *c, struct cold_read *r)
{
	pthread_mutex_lock(&c->lock);
	pthread_mutex_lock(&c->local.lock);
	r->state = COLD_DONE;
	pthread_cond_signal(r->watch);
	pthread_cond_broadcast(&c->local.cold_idle);
	pthread_mutex_unlock(&c->local.lock);
	pthread_mutex_unlock(&c->lock);
}

static void *cold_main(void *client)
{
	struct granary_client *c = client;
	struct local *l = &c->local;

	pthread_mutex_lock(&l->lock);
	while (!l->stopping || !list_empty(&l->to_advise) || !list_empty(&l->to_read)) {
		bool advise = !list_empty(&l->to_advise), stopping = l->stopping;
		if (!advise && list_empty(&l->to_read)) {
			pthread_cond_wait(&l->cold_wake, &l->lock);
			continue;
		}
		struct cold_read *r = cold_take(advise ? &l->to_advise : &l->to_read);
		pthread_mutex_unlock(&l->lock);
		if (advise && !stopping)
			cold_advise(r->plan, c);
		if (!advise) {
			r->left = stopping ? r->plan->wants_count : range_cold(r->plan, c);
			cold_finish(c, r);
		}
		pthread_mutex_lock(&l->lock);
		if (!advise)
			continue;
		r->state = COLD_QUEUED;
		list_push(&l->to_read, &r->link);
		pthread_cond_broadcast(&l->cold_idle);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* Lock held. Fewer than asked for do as well. */
static bool cold_threads(struct granary_client *c)
{
	struct local *l = &c->local;
	sigset_t all, before;

	if (l->cold_threads > 0)
		return true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (; l->cold_threads < COLD_THREADS; l->cold_threads++) {
		if (pthread_create(&l->cold[l->cold_threads], NULL, cold_main, c) != 0)
			break;
		pthread_setname_np(l->cold[l->cold_threads], "granary-cold");
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return l->cold_threads > 0;
}

/* There are descriptors for most of it; the server is asked for the rest later. */
static bool cold_is_for(const struct range_plan *p, struct granary_client *c)
{
	struct local_file *f = NULL;
	uint64_t pack = 0, here = 0;

	if (p->past_cache || c->node_cache || p->bytes < (uint64_t)COLD_LEAST * p->wants_count)
		return false;
	for (uint32_t i = 0; i < p->wants_count; i++) {
		if (p->wants[i].pack != pack) {
			local_put(c, f);
			pack = p->wants[i].pack;
			f = local_get_cold(c, pack);
		}
		here += f ? p->wants[i].length : 0;
	}
	local_put(c, f);
	return here > p->bytes / 2 && local_memory_is_free();
}

bool cold_start(struct cold_read *r, struct range_plan *p, struct granary_client *c, pthread_cond_t *watch)
{
	struct local *l = &c->local;

	if (!cold_is_for(p, c))
		return false;
	*r = (struct cold_read){ .plan = p, .watch = watch };
	list_init(&r->link);
	p->is_suspect = false;
	r->left = range_local(p, c, false);
	if (r->left == 0)
		return true;
	pthread_mutex_lock(&l->lock);
	bool starts = !l->stopping && cold_threads(c);
	if (starts) {
		r->state = COLD_QUEUED;
		list_push(&l->to_advise, &r->link);
		pthread_cond_signal(&l->cold_wake);
	}
	pthread_mutex_unlock(&l->lock);
	return starts;
}

bool cold_came(const struct cold_read *r)
{
	return r->state == COLD_NONE || r->state == COLD_DONE;
}

uint32_t cold_end(struct cold_read *r, struct granary_client *c)
{
	struct local *l = &c->local;

	if (r->state == COLD_NONE)
		return 0;
	pthread_mutex_lock(&l->lock);
	while (r->state == COLD_BUSY)
		pthread_cond_wait(&l->cold_idle, &l->lock);
	list_remove(&r->link);
	r->state = COLD_NONE;
	pthread_mutex_unlock(&l->lock);
	return r->left;
}

void local_cold_stop(struct granary_client *c)
{
	struct local *l = &c->local;

	pthread_mutex_lock(&l->lock);
	l->stopping = true;
	pthread_cond_broadcast(&l->cold_wake);
	pthread_mutex_unlock(&l->lock);
	for (; l->cold_threads > 0; l->cold_threads--)
		pthread_join(l->cold[l->cold_threads - 1], NULL);
}
