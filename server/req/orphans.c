/* SPDX-License-Identifier: Apache-2.0 */
/* orphans.c -- see orphans.h. */
#include "req/orphans.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "io/io.h"
#include "meta/ns_orphan.h"
#include "meta/session_row.h"
#include "req/locks.h"
#include "req/mutation.h"

struct orphans {
	struct store *store;
	pthread_mutex_t lock; /* of owed */
	uint64_t *owed;
	uint32_t owed_count;
	bool has_rows;        /* orphans were there at the start */
	struct task start, end, dead;
	struct io_op timer;
	_Atomic bool is_removing, is_over; /* `dead` is on its way; the grace is */
};

/* ---- removing ---- */

static int orphan_remove(struct store *store, uint64_t id)
{
	int err = -GRANARY_EBUSY;

	for (uint32_t tries = 0; err == -GRANARY_EBUSY && tries < MUTATION_TRIES_MAX; tries++) {
		struct ns_plan *plan = ns_plan_new(store->ns);

		if (plan == NULL) return -GRANARY_ENOMEM;
		err = ns_plan_end_orphan(plan, id);
		if (err == 0) err = ns_plan_finish(plan);
		if (err == 0) {
			err = kv_submit_wait(store->kv, ns_plan_txn(plan));
			ns_plan_committed(plan, err);
		}
		ns_plan_free(&plan);
	}
	return err;
}

/* False: it stays, for now. */
static bool orphan_end(struct store *store, uint64_t id)
{
	int err = orphan_remove(store, id);

	if (err == 0 || err == -GRANARY_ENOTFOUND || err == -GRANARY_ELOCKED) return true;
	if (err != -GRANARY_ESHUTDOWN && err != -GRANARY_EBUSY)
		log_warn("an object that was deleted while it was open cannot be removed yet: %s; object=%016" PRIx64,
			error_text(err), id);
	return false;
}

static void remove_work(struct task *task)
{
	struct orphans *o = container_of(task, struct orphans, dead);
	uint64_t id;

	atomic_store(&o->is_removing, false); /* before: one that dies from here on posts it again */
	while (opens_take_dead(o->store->opens, &id)) {
		if (orphan_end(o->store, id)) continue;
		opens_put_dead(o->store->opens, id);
		return;
	}
}

void orphans_are_dead(void *arg)
{
	struct store *store = arg;
	struct orphans *o = store->orphans;
	struct opens_stats stats;

	if (o == NULL) return;
	opens_get_stats(store->opens, &stats);
	if (stats.dead == 0 || atomic_exchange(&o->is_removing, true)) return;
	workers_post(store->workers, &o->dead);
}

/* ---- after a start ---- */

static bool owes(const struct session_row *row)
{
	return row->has_opens;
}

static int row_found(void *arg, uint64_t id)
{
	(void)arg;
	(void)id;
	return 1;
}

static int ids_push(void *arg, uint64_t id)
{
	opens_put_dead(arg, id);
	return 0;
}

/* Every orphan is looked at: those that somebody has open stay. */
static void end_work(struct task *task)
{
	struct orphans *o = container_of(task, struct orphans, end);
	int err = ns_orphans(o->store->ns, ids_push, o->store->opens);

	if (err < 0 && err != -GRANARY_ESHUTDOWN)
		log_warn("cannot look for objects that were deleted while they were open: %s; the next start does",
			error_text(err));
	orphans_are_dead(o->store);
}

static void grace_end(struct orphans *o)
{
	if (atomic_exchange(&o->is_over, true)) return;
	opens_set_grace(o->store->opens, false);
	locks_grace_end(o->store->locks);
	o->end.fn = end_work;
	workers_post(o->store->workers, &o->end);
}

static void on_late(struct io_op *op)
{
	struct orphans *o = container_of(op, struct orphans, timer);

	pthread_mutex_lock(&o->lock);
	if (!atomic_load(&o->is_over))
		for (uint32_t i = 0; i < o->owed_count; i++)
			log_info("a session did not announce what it had open before the restart; session=%016" PRIx64,
				o->owed[i]);
	pthread_mutex_unlock(&o->lock);
	grace_end(o);
}

static void on_start(struct task *task)
{
	struct orphans *o = container_of(task, struct orphans, start);
	struct io *io = o->store->locals[0].io;

	o->timer.done = on_late;
	io_timer(io, &o->timer, io_now_ns(io) + GRACE_NS);
}

int orphans_open(struct store *store, struct orphans **out)
{
	struct orphans *o = req_alloc(sizeof(*o));
	int err, found;

	memset(o, 0, sizeof(*o));
	o->store = store;
	pthread_mutex_init(&o->lock, NULL);
	o->dead.fn = remove_work;
	err = session_rows_find(o->store->kv, owes, &o->owed, &o->owed_count);
	found = err == 0 ? ns_orphans(store->ns, row_found, NULL) : err;
	o->has_rows = found == 1;
	atomic_init(&o->is_over, o->owed_count == 0 && !o->has_rows);
	opens_set_grace(store->opens, !atomic_load(&o->is_over));
	store->locks = locks_new(!atomic_load(&o->is_over));
	*out = o;
	return found < 0 ? found : store->locks == NULL ? -GRANARY_ENOMEM : 0;
}

void orphans_start(struct orphans *o)
{
	if (atomic_load(&o->is_over)) return;
	if (o->owed_count == 0) { /* nobody is left who could */
		grace_end(o);
		return;
	}
	log_info("waiting for what sessions had open; sessions=%u at_most_s=%u", o->owed_count,
		(unsigned)(GRACE_NS / 1000000000));
	o->start.fn = on_start;
	reactor_post(o->store->reactors[0], &o->start);
}

void orphans_close(struct orphans **op)
{
	struct orphans *o = *op;

	*op = NULL;
	if (o == NULL) return;
	locks_free(&o->store->locks);
	pthread_mutex_destroy(&o->lock);
	free(o->owed);
	free(o);
}

void orphans_announced(struct orphans *o, uint64_t session)
{
	bool is_last = false;

	pthread_mutex_lock(&o->lock);
	for (uint32_t i = 0; i < o->owed_count; i++) {
		if (o->owed[i] != session) continue;
		o->owed[i] = o->owed[--o->owed_count];
		is_last = o->owed_count == 0;
		break;
	}
	pthread_mutex_unlock(&o->lock);
	if (is_last) grace_end(o);
}

bool orphans_take_late(struct orphans *o, uint64_t *session)
{
	bool is_late;

	if (o == NULL || !atomic_load(&o->is_over)) return false;
	pthread_mutex_lock(&o->lock);
	is_late = o->owed_count > 0;
	if (is_late) *session = o->owed[--o->owed_count];
	pthread_mutex_unlock(&o->lock);
	return is_late;
}
