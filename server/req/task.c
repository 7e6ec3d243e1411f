/* SPDX-License-Identifier: Apache-2.0 */
/* task.c -- orders to the background jobs, and the server's status (PROTOCOL 5.9, 4.6). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "jobs/backup.h"
#include "jobs/jobs.h"
#include "pack/writer.h"
#include "req/dataset.h"
#include "req/drive.h"
#include "req/flow.h"
#include "req/tier.h"
#include "tier/drives.h"
#include "meta/ids.h"
#include "req/kind.h"

enum { TEXT_MAX = 64 * 1024, ARGUMENT_MAX = 1400 };

struct task_req {
	int (*run)(struct req *r, char *buf, size_t cap);
	char argument[ARGUMENT_MAX];
	int err;
	char text[TEXT_MAX];
};

/* ---- task ---- */

static int run_check(struct req *r, char *buf, size_t cap)
{
	int err = jobs_check_start(r->store->jobs);

	snprintf(buf, cap, "check started\n");
	return err;
}

static int run_check_status(struct req *r, char *buf, size_t cap)
{
	return jobs_check_status(r->store->jobs, buf, cap);
}

static int run_compact(struct req *r, char *buf, size_t cap)
{
	return jobs_compact_now(r->store->jobs, buf, cap);
}

static int run_rotate(struct req *r, char *buf, size_t cap)
{
	writers_rotate(r->store->writers, true);
	snprintf(buf, cap, "rotate started\n");
	return 0;
}

static int run_slow(struct req *r, char *buf, size_t cap)
{
	slow_ring_text(r->store->slow, buf, cap);
	return 0;
}

static int run_log_level(struct req *r, char *buf, size_t cap)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };
	const struct task_req *t = r->body;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(t->argument, names[i]) != 0) continue;
		log_set_level((enum log_level)i);
		log_info("log level changed; level=%s key=%s", names[i], r->peer->key->id);
		snprintf(buf, cap, "log_level %s\n", names[i]);
		return 0;
	}
	snprintf(buf, cap, "'%s' is no log level; there are error, warn, info, debug", t->argument);
	return -GRANARY_EINVAL;
}

static int run_clock_status(struct req *r, char *buf, size_t cap)
{
	snprintf(buf, cap, "store_time_ns %" PRIu64 "\nheld_back_ns %" PRIu64 "\n", store_clock_now(r->store->clock),
		store_clock_held(r->store->clock));
	return 0;
}

static int run_clock_accept(struct req *r, char *buf, size_t cap)
{
	uint64_t accepted_ns;
	int err = store_clock_accept(r->store->clock, r->store->kv, &accepted_ns);

	log_info("clock accepted; key=%s seconds=%" PRIu64, r->peer->key->id, accepted_ns / 1000000000u);
	snprintf(buf, cap, "accepted_ns %" PRIu64 "\n", accepted_ns);
	return err;
}

static int no_backup(char *buf, size_t cap)
{
	snprintf(buf, cap, "this server has no backup directory; set `backup: DIR` and start it again");
	return -GRANARY_EUNSUPPORTED;
}

static int run_backup(struct req *r, char *buf, size_t cap)
{
	if (r->store->backup == NULL) return no_backup(buf, cap);
	backup_ask(r->store->backup);
	snprintf(buf, cap, "backup started\n");
	return 0;
}

static int run_backup_status(struct req *r, char *buf, size_t cap)
{
	if (r->store->backup == NULL) return no_backup(buf, cap);
	backup_status(r->store->backup, buf, cap);
	return 0;
}

static int run_drive_ls(struct req *r, char *buf, size_t cap)
{
	drive_list(r->store, buf, cap);
	return 0;
}

static int run_drive_add(struct req *r, char *buf, size_t cap)
{
	return drive_add(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_drive_drain(struct req *r, char *buf, size_t cap)
{
	return drive_drain(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_drive_cancel(struct req *r, char *buf, size_t cap)
{
	return drive_cancel(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_dataset_ls(struct req *r, char *buf, size_t cap)
{
	return dataset_list(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_dataset_rm(struct req *r, char *buf, size_t cap)
{
	return dataset_end(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_tier_stores(struct req *r, char *buf, size_t cap)
{
	return tier_stores(r->store, buf, cap);
}

static int run_tier_push(struct req *r, char *buf, size_t cap)
{
	return tier_push(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_tier_pull(struct req *r, char *buf, size_t cap)
{
	return tier_pull(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_tier_drop(struct req *r, char *buf, size_t cap)
{
	return tier_drop(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_tier_tasks(struct req *r, char *buf, size_t cap)
{
	return tier_tasks(r->store, buf, cap);
}

static int run_tier_cancel(struct req *r, char *buf, size_t cap)
{
	return tier_cancel(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_tier_pause(struct req *r, char *buf, size_t cap)
{
	return tier_pause(r->store, 1, buf, cap);
}

static int run_tier_resume(struct req *r, char *buf, size_t cap)
{
	return tier_pause(r->store, 0, buf, cap);
}

static int run_flow_link(struct req *r, char *buf, size_t cap)
{
	return flow_link(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_flow_refresh(struct req *r, char *buf, size_t cap)
{
	return flow_refresh(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_flow_verify(struct req *r, char *buf, size_t cap)
{
	return flow_verify(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_flow_evict(struct req *r, char *buf, size_t cap)
{
	return flow_evict(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_flow_tasks(struct req *r, char *buf, size_t cap)
{
	return flow_tasks(r->store, buf, cap);
}

static int run_flow_report(struct req *r, char *buf, size_t cap)
{
	return flow_report(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static int run_flow_cancel(struct req *r, char *buf, size_t cap)
{
	return flow_cancel(r->store, ((const struct task_req *)r->body)->argument, buf, cap);
}

static const struct {
	const char *verb;
	int (*run)(struct req *r, char *buf, size_t cap);
} verbs[] = {
	{ "check", run_check },
	{ "check-status", run_check_status },
	{ "compact", run_compact },
	{ "rotate", run_rotate },
	{ "slow", run_slow },
	{ "log-level", run_log_level },
	{ "clock-status", run_clock_status },
	{ "clock-accept", run_clock_accept },
	{ "backup", run_backup },
	{ "backup-status", run_backup_status },
	{ "drive-ls", run_drive_ls },
	{ "drive-add", run_drive_add },
	{ "drive-drain", run_drive_drain },
	{ "drive-cancel", run_drive_cancel },
	{ "dataset-ls", run_dataset_ls },
	{ "dataset-rm", run_dataset_rm },
	{ "tier-stores", run_tier_stores },
	{ "tier-push", run_tier_push },
	{ "tier-pull", run_tier_pull },
	{ "tier-drop", run_tier_drop },
	{ "tier-tasks", run_tier_tasks },
	{ "tier-cancel", run_tier_cancel },
	{ "tier-pause", run_tier_pause },
	{ "tier-resume", run_tier_resume },
	{ "flow-link", run_flow_link },
	{ "flow-refresh", run_flow_refresh },
	{ "flow-verify", run_flow_verify },
	{ "flow-evict", run_flow_evict },
	{ "flow-tasks", run_flow_tasks },
	{ "flow-report", run_flow_report },
	{ "flow-cancel", run_flow_cancel },
};

static void task_work(struct req *r)
{
	struct task_req *t = r->body;

	t->err = t->run(r, t->text, sizeof(t->text));
}

static enum step_result task_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice verb = cur_bytes16(&c), argument = cur_bytes16(&c);
	struct task_req *t;
	char text[64];

	if (!cur_done(&c)) return req_fail(r, -GRANARY_EPROTO, "TASK does not parse");
	if (!auth_whole(r->peer->key, GRANT_ADMIN, slice_of(NULL, 0)))
		return req_fail(r, -GRANARY_EACCESS,
			"access key %s has no admin grant on all buckets", r->peer->key->id);
	if (r->store->jobs == NULL)
		return req_fail(r, -GRANARY_EUNSUPPORTED, "this server runs no background jobs");
	t = req_alloc(sizeof(*t));
	memset(t, 0, sizeof(*t));
	r->body = t;
	if (argument.len < sizeof(t->argument)) memcpy(t->argument, argument.p, argument.len);
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (slice_eq(verb, slice_str(verbs[i].verb))) t->run = verbs[i].run;
	if (t->run == NULL)
		return req_fail(r, -GRANARY_EUNSUPPORTED,
			"'%s' is no task; there are check, check-status, compact, rotate, slow, log-level, "
			"clock-status, clock-accept, backup, backup-status, drive-ls, drive-add, drive-drain, "
			"drive-cancel, dataset-ls, dataset-rm, "
			"tier-stores, tier-push, tier-pull, tier-drop, tier-tasks, "
			"tier-cancel, tier-pause, tier-resume, flow-link, flow-refresh, flow-verify, flow-evict, "
			"flow-tasks, flow-report, flow-cancel",
			name_escape(text, sizeof(text), verb));
	r->step++;
	return req_work(r, task_work);
}

static enum step_result task_answer(struct req *r)
{
	const struct task_req *t = r->body;

	if (t->err < 0)
		return req_fail(r, t->err, "the task failed: %s", t->text[0] != '\0' ? t->text : error_text(t->err));
	answer_text(r, t->text, strnlen(t->text, sizeof(t->text)));
	return STEP_DONE;
}

static void body_free(struct req *r)
{
	free(r->body);
	r->body = NULL;
}

static const struct req_step task_steps[] = { { "parse", task_parse }, { "answer", task_answer } };
const struct req_kind task_kind = {
	.op = OP_TASK,
	.name = "task",
	.action = GRANT_ADMIN,
	.steps = task_steps,
	.step_count = 2,
	.cleanup = body_free,
};

/* ---- status ---- */

static void status_work(struct req *r)
{
	struct task_req *t = r->body;

	store_status(r->store, t->text, sizeof(t->text));
}

static enum step_result status_begin(struct req *r)
{
	struct task_req *t = req_alloc(sizeof(*t));

	t->err = 0;
	t->text[0] = '\0';
	r->body = t;
	if (r->frame.meta_len != 0)
		return req_fail(r, -GRANARY_EPROTO, "STATUS is an empty request");
	r->step++;
	return req_work(r, status_work);
}

static const struct req_step status_steps[] = { { "begin", status_begin },
	{ "answer", task_answer } };
const struct req_kind status_kind = {
	.op = OP_STATUS,
	.name = "status",
	.steps = status_steps,
	.step_count = 2,
	.cleanup = body_free,
};
