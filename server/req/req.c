/* SPDX-License-Identifier: Apache-2.0 */
/* req.c -- the table of kinds and the dispatcher that runs a request's steps.
 *
 * STARTED -> RUNNING   first turn after req_start(): never from inside it
 * RUNNING -> WAITING   a step said WAIT: pending > 0, something will call req_resume()
 * WAITING -> RUNNING   req_resume() and pending == 0: the step that r->step names runs (again)
 * RUNNING -> FINISHED  a step said DONE: exactly one answer with FRAME_LAST went out; the front end
 * frees it
 *
 * Invariants: (1) a request runs on its peer's reactor only; (2) `task` is used for one thing at a
 * time; (3) a step that waits for a worker touches nothing of the request until it is resumed. */
#include "req/req.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/error.h"
#include "req/kind.h"
#include "tier/governor.h"

enum { MARK_MIN_US = 100 };

static enum step_result unknown_step(struct req *r)
{
	return req_fail(r, -GRANARY_EUNSUPPORTED,
		"operation %u is not known to this server; use a newer server or an older client",
		r->frame.op);
}
static const struct req_step unknown_steps[] = { { "unknown", unknown_step } };
static const struct req_kind unknown_kind = {
	.op = 0, .name = "unknown", .steps = unknown_steps, .step_count = 1
};

static const struct req_kind *const kinds[REQ_OPS] = {
	[OP_READ] = &read_kind,
	[OP_STAT] = &stat_kind,
	[OP_LIST] = &list_kind,
	[OP_BUCKET_LIST] = &bucket_list_kind,
	[OP_STATUS] = &status_kind,
	[OP_SNAPSHOT_LIST] = &snapshot_list_kind,
	[OP_SNAPSHOT_SHOW] = &snapshot_show_kind,
	[OP_SNAPSHOT_PAGE] = &snapshot_page_kind,
	[OP_RANGE] = &range_kind,
	[OP_STREAM_REPORT] = &stream_report_kind,
	[OP_STREAM_LIST] = &stream_list_kind,
	[OP_RECIPE_LIST] = &recipe_list_kind,
	[OP_RECIPE_SHOW] = &recipe_show_kind,
	[OP_PROVENANCE] = &provenance_kind,
	[OP_PUT] = &put_kind,
	[OP_EXTENT] = &extent_kind,
	[OP_ABORT] = &abort_kind,
	[OP_DELETE] = &delete_kind,
	[OP_MKDIR] = &mkdir_kind,
	[OP_RMDIR] = &rmdir_kind,
	[OP_RENAME] = &rename_kind,
	[OP_BUCKET_CREATE] = &bucket_create_kind,
	[OP_BUCKET_REMOVE] = &bucket_remove_kind,
	[OP_ATTR] = &attr_kind,
	[OP_SETATTR] = &setattr_kind,
	[OP_XATTR] = &xattr_kind,
	[OP_TAGS] = &tags_kind,
	[OP_MAKE] = &make_kind,
	[OP_LINK] = &link_kind,
	[OP_COPY] = &copy_kind,
	[OP_WRITE] = &write_kind,
	[OP_COPY_RANGE] = &range_copy_kind,
	[OP_MAP] = &map_kind,
	[OP_LOCATE] = &locate_kind,
	[OP_DESCRIPTORS] = &descriptors_kind,
	[OP_PART_LIST] = &part_list_kind,
	[OP_UPLOAD_LIST] = &upload_list_kind,
	[OP_UPLOAD_CREATE] = &upload_create_kind,
	[OP_UPLOAD_COMPLETE] = &upload_complete_kind,
	[OP_UPLOAD_ABORT] = &upload_abort_kind,
	[OP_KEY_CREATE] = &key_create_kind,
	[OP_KEY_REMOVE] = &key_remove_kind,
	[OP_KEY_LIST] = &key_list_kind,
	[OP_TASK] = &task_kind,
	[OP_RULES] = &rules_kind,
	[OP_SNAPSHOT_CREATE] = &snapshot_create_kind,
	[OP_SNAPSHOT_REMOVE] = &snapshot_remove_kind,
	[OP_SNAPSHOT_NOTE] = &snapshot_note_kind,
	[OP_SNAPSHOT_TAGS] = &snapshot_tags_kind,
	[OP_SNAPSHOT_REPACK] = &snapshot_repack_kind,
	[OP_RECIPE_CREATE] = &recipe_create_kind,
	[OP_RECIPE_REMOVE] = &recipe_remove_kind,
	[OP_SYNC] = &sync_kind,
	[OP_READDIR] = &readdir_kind,
	[OP_IDS] = &ids_kind,
	[OP_OPEN] = &open_kind,
	[OP_CLOSE] = &close_kind,
	[OP_ANNOUNCE] = &announce_kind,
	[OP_LOCK] = &lock_kind,
	[OP_WATCH] = &watch_kind,
};

const struct req_kind *req_kind_of(uint8_t op)
{
	return op < REQ_OPS ? kinds[op] : NULL;
}

static void req_finish(struct req *r)
{
	struct req_stats *stats = r->local->stats;
	struct req_peer *peer = r->peer;
	uint8_t op = r->kind->op;
	uint64_t took_ns = clock_mono_ns() - r->started_ns;

	assert(r->err == 0 || !r->answered);
	if (r->err != 0) answer_error(r, r->err, r->text);
	assert(r->answered);
	stat_add(&stats->requests[op], 1);
	stat_add(&stats->errors[op], r->err != 0);
	stat_add(&stats->bytes_in[op], (uint64_t)r->frame.meta_len + r->frame.data_len);
	stat_add(&stats->ns_total[op], took_ns);
	if (r->kind->is_judged && r->err == 0 && !r->is_cold)
		governor_note(r->store->governor, (uint32_t)(r->local - r->store->locals), took_ns);
	if (r->kind->withdraw == NULL) slow_ring_note(r->store->slow, r, took_ns); /* else it waits for others */
	if (r->kind->cleanup) r->kind->cleanup(r);
	r->magic = 0;
	peer->ops->finished(peer, r);
}

/* It waited for its present step: when that took a while it is noted, in the last place when there are many. */
static void req_mark(struct req *r)
{
	uint64_t wait_us = (clock_mono_ns() - r->waits_ns) / 1000;
	uint32_t last = r->mark_count > 0 ? r->mark_count - 1 : 0;

	r->waits_ns = 0;
	if (wait_us < MARK_MIN_US) return;
	if (r->mark_count == 0 || (r->marks[last].step != r->step && r->mark_count < SLOW_MARKS)) {
		last = r->mark_count++;
		r->marks[last] = (struct slow_mark){ .step = r->step };
	}
	wait_us += r->marks[last].wait_us;
	r->marks[last].wait_us = wait_us > UINT32_MAX ? UINT32_MAX : (uint32_t)wait_us;
}

static uint64_t req_reads_as(const struct req *r)
{
	return (r->kind->mutation || r->kind->sees_own) && r->peer->session != NULL ? session_id(r->peer->session) : 0;
}

static void req_run(struct req *r)
{
	uint64_t before = kv_read_as(req_reads_as(r));
	enum step_result res;

	assert(r->magic == REQ_MAGIC && !r->running);
	r->running = true;
	if (r->waits_ns != 0) req_mark(r);
	do {
		r->resumed = false;
		assert(r->step < r->kind->step_count);
		res = r->kind->steps[r->step].run(r);
		if (res == STEP_NEXT) r->step++;
	} while (res == STEP_NEXT || (res == STEP_WAIT && r->resumed));
	r->running = false;
	kv_read_as(before);
	if (res == STEP_DONE) {
		req_finish(r);
	} else {
		assert(r->pending > 0);
		r->waits_ns = clock_mono_ns();
	}
}

/* What every kind needs before its first step. */
static bool req_may_run(struct req *r)
{
	if (atomic_load_explicit(&r->store->draining, memory_order_relaxed)) {
		req_set_error(r, -GRANARY_ESHUTDOWN,
			"the server is stopping; try again after its restart");
		return false;
	}
	if (!ns_key_valid(r->store->ns, r->peer->key)) {
		req_set_error(r, -GRANARY_EAUTH,
			"access key %s was removed or has expired; use another one",
			r->peer->key->id);
		return false;
	}
	if (r->kind->action != 0 && !auth_any(r->peer->key, r->kind->action)) {
		req_set_error(r, -GRANARY_EACCESS,
			"access key %s has no grant to %s anything; ask an administrator for one",
			r->peer->key->id, r->kind->name);
		return false;
	}
	return true;
}

static void req_first_run(struct task *task)
{
	struct req *r = container_of(task, struct req, task);

	if (req_may_run(r))
		req_run(r);
	else
		req_finish(r);
}

void req_start(struct req *r)
{
	const struct req_kind *kind = req_kind_of(r->frame.op);

	r->magic = REQ_MAGIC;
	r->kind = kind != NULL ? kind : &unknown_kind;
	r->local = r->peer->local;
	r->store = r->local->store;
	r->started_ns = clock_mono_ns();
	list_init(&r->wait_node);
	r->task.fn = req_first_run;
	reactor_defer(r->local->reactor, &r->task);
}

void req_resume(struct req *r)
{
	assert(r->magic == REQ_MAGIC && r->pending > 0);
	r->pending--;
	if (r->pending > 0) return;
	if (r->running)
		r->resumed = true;
	else
		req_run(r);
}

static void req_resume_task(struct task *task)
{
	req_resume(container_of(task, struct req, task));
}

void req_post(struct req *r)
{
	r->task.fn = req_resume_task;
	reactor_post(r->local->reactor, &r->task);
}

static void req_work_task(struct task *task)
{
	struct req *r = container_of(task, struct req, task);
	uint64_t before = kv_read_as(req_reads_as(r));

	r->work(r);
	kv_read_as(before);
	req_post(r);
}

enum step_result req_work(struct req *r, void (*work)(struct req *r))
{
	r->pending++;
	r->work = work;
	r->task.fn = req_work_task;
	workers_post(r->store->workers, &r->task);
	return STEP_WAIT;
}

bool req_park(struct req *r)
{
	if (r->peer->gone) return false;
	r->is_parked = true;
	list_push(&r->peer->parked, &r->wait_node);
	return true;
}

void req_unparked(struct req *r)
{
	r->is_parked = false;
	list_remove(&r->wait_node);
}

void req_unpark(struct req_peer *peer)
{
	list_for_safe (n, tmp, &peer->parked) {
		struct req *r = container_of(n, struct req, wait_node);

		if (!r->kind->withdraw(r)) continue;
		req_unparked(r);
		r->task.fn = req_resume_task;
		reactor_defer(r->local->reactor, &r->task);
	}
}

static void req_wake_task(struct task *task)
{
	struct req *r = container_of(task, struct req, task);

	r->waking = false;
	assert(r->pending > 0); /* a request does not end while it is being woken */
	req_resume(r);
}

void req_drained(struct req_peer *peer)
{
	struct list *n;

	while ((n = list_pop(&peer->waiting)) != NULL) {
		struct req *r = container_of(n, struct req, wait_node);

		if (r->waking) continue; /* it ran before its turn came, and waits again: its task is in the list */
		r->waking = true;
		r->task.fn = req_wake_task;
		reactor_defer(r->local->reactor, &r->task);
	}
}

static void set_error(struct req *r, int err, const char *fmt, va_list args)
{
	assert(err < 0);
	r->err = err;
	vsnprintf(r->text, sizeof(r->text), fmt, args);
}

void req_set_error(struct req *r, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	set_error(r, err, fmt, args);
	va_end(args);
}

enum step_result req_fail(struct req *r, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	set_error(r, err, fmt, args);
	va_end(args);
	return STEP_DONE;
}
