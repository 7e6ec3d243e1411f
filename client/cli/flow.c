/* SPDX-License-Identifier: Apache-2.0 */
/* flow.c -- linked sources: orders, how they go, what they found different. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { POLL_MS = 100, ARGUMENT_MAX = 1400, TASK_TEXT_MAX = 32 };

static void report_show(struct remote *r, const char *task)
{
	char *text = NULL;

	if (granary_task(r->client, "flow-report", task, &text, NULL) < 0) return;
	if (!opts.json) fputs(text, stdout);
	granary_free(text);
}

/* What it found is no failure of the command, but for who asked whether both sides are the same. */
static int task_end(struct remote *r, const char *task, const char *line)
{
	uint64_t new = line_number(line, "new"), changed = line_number(line, "changed"),
		 conflict = line_number(line, "conflict"), gone = line_number(line, "gone"),
		 refused = line_number(line, "refused"), same = line_number(line, "same");
	char state[LINE_VALUE_MAX], why[LINE_VALUE_MAX], kind[LINE_VALUE_MAX], bytes[TEXT_SHORT];
	bool verifies = strcmp(line_pair(line, "kind", kind), "verify") == 0;

	report_show(r, task);
	if (opts.json) line_json(line);
	line_pair(line, "state", state);
	if (strcmp(state, "done") != 0) return fail(CLI_PARTIAL, "the task %s: %s", state, line_pair(line, "why", why));
	if (!opts.json)
		note("%" PRIu64 " listed: %" PRIu64 " new, %" PRIu64 " changed, %" PRIu64 " the same, %" PRIu64
		     " conflicts, %" PRIu64 " gone, %" PRIu64 " refused; %" PRIu64 " only here%s%s",
			line_number(line, "listed"), new, changed, same, conflict, gone, refused,
			line_number(line, "local"), verifies ? "" : "; linked ",
			verifies ? "" : human_bytes(bytes, line_number(line, "bytes")));
	if (verifies && new + changed + conflict + gone + refused > 0)
		return fail(CLI_PARTIAL, "the source and what is here differ; granary flow refresh takes what it has");
	return refused > 0 ? fail(CLI_PARTIAL, "%" PRIu64 " objects have no name here", refused) : CLI_OK;
}

static int task_wait(struct remote *r, const char *task)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000L };
	char line[4 * LINE_VALUE_MAX], state[LINE_VALUE_MAX], why[LINE_VALUE_MAX], told[LINE_VALUE_MAX] = "";
	int err;

	for (;;) {
		if (!task_line(r, "flow-tasks", task, line, sizeof(line), &err))
			return err < 0 ? fail_remote(r->client, err, "cannot follow the task")
				       : fail(CLI_FAILED, "the task %s is not known any more", task);
		line_pair(line, "state", state);
		line_pair(line, "why", why);
		if (strcmp(state, "waiting") != 0 && strcmp(state, "running") != 0 && strcmp(state, "paused") != 0)
			return task_end(r, task, line);
		if (strcmp(state, "paused") == 0 && strcmp(why, told) != 0) {
			note("waits: %s; it goes on by itself", why);
			memcpy(told, why, sizeof(told));
		}
		nanosleep(&pause, NULL);
	}
}

/* head: what stands before BUCKET/DIR in the argument. */
static int order(const char *url, const char *verb, const char *head)
{
	char argument[ARGUMENT_MAX], *text = NULL, task[TASK_TEXT_MAX] = "";
	struct remote r;
	int err, code = remote_open(&r, url, NEED_BUCKET, 1);

	if (code != CLI_OK) return code;
	if ((size_t)snprintf(argument, sizeof(argument), "%s%s/%s", head, r.bucket, r.path) >= sizeof(argument)) {
		remote_close(&r);
		return fail(CLI_USAGE, "source and URL are too long");
	}
	err = granary_task(r.client, verb, argument, &text, NULL);
	if (err < 0) code = fail_remote(r.client, err, "the server did not begin it");
	if (err == 0 && sscanf(text, "task %31s", task) != 1) task[0] = '\0';
	granary_free(text);
	if (err == 0 && opts.background)
		note("task %s; granary flow status shows how far it is", task);
	else if (err == 0)
		code = task_wait(&r, task);
	remote_close(&r);
	return code;
}

static const char *policy(void)
{
	return opts.take_source ? "source\t" : "keep\t";
}

int run_link(int count, char **args)
{
	char head[ARGUMENT_MAX];

	(void)count;
	if (strpbrk(args[0], "\t\n") != NULL || strlen(args[0]) > ARGUMENT_MAX - 64)
		return fail(CLI_USAGE, "SOURCE is s3://BUCKET[/PREFIX], a path, or NAME[/PREFIX] of a store");
	snprintf(head, sizeof(head), "%s\t%s", args[0], policy());
	return order(args[1], "flow-link", head);
}

int run_flow_refresh(int count, char **args)
{
	(void)count;
	return order(args[0], "flow-refresh", policy());
}

int run_flow_verify(int count, char **args)
{
	(void)count;
	return order(args[0], "flow-verify", "");
}

int run_flow_preload(int count, char **args)
{
	(void)count;
	return order_move(args[0], "tier-pull");
}

int run_flow_evict(int count, char **args)
{
	(void)count;
	return order_move(args[0], "flow-evict");
}

/* ---- status, cancel ---- */

static void task_row(struct table *t, const char *line)
{
	static const char *const counts[] = { "listed", "new", "changed", "same", "conflict" };
	char task[LINE_VALUE_MAX], kind[LINE_VALUE_MAX], target[LINE_VALUE_MAX], state[LINE_VALUE_MAX],
		why[LINE_VALUE_MAX], more[LINE_VALUE_MAX], n[5][TEXT_SHORT];

	line_pair(line, "state", state);
	line_pair(line, "why", why);
	snprintf(more, sizeof(more), "%.32s%s%.500s", state, why[0] != '\0' ? ": " : "", why);
	for (int i = 0; i < 5; i++) human_count(n[i], line_number(line, counts[i]));
	table_row(t, (const char *[]){ line_pair(line, "task", task), line_pair(line, "kind", kind), n[0], n[1], n[2],
		n[3],
			     n[4], line_pair(line, "target", target), more });
}

static int task_verb(const char *verb, const char *argument, const char *url, char **text)
{
	struct remote r;
	int err, code = remote_open(&r, url, NEED_NOTHING, 1);

	*text = NULL;
	if (code != CLI_OK) return code;
	err = granary_task(r.client, verb, argument, text, NULL);
	if (err < 0) code = fail_remote(r.client, err, "the server did not do it");
	remote_close(&r);
	return code;
}

int run_flow_status(int count, char **args)
{
	static const char *const heads[] = { "TASK", "KIND", "LISTED", "NEW", "CHANGED", "SAME", "CONFLICT", "TARGET",
		"STATE" };
	char *text, *rest, *line;
	struct table t;
	int code = task_verb("flow-tasks", NULL, count > 0 ? args[0] : NULL, &text);

	if (code != CLI_OK) return code;
	table_init(&t, 9, 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6);
	if (!opts.json && stdout_is_tty()) table_row(&t, heads);
	for (rest = text; (line = line_next(&rest)) != NULL;)
		if (opts.json)
			line_json(line);
		else
			task_row(&t, line);
	table_end(&t);
	granary_free(text);
	return CLI_OK;
}

int run_flow_cancel(int count, char **args)
{
	char *text;
	int code = task_verb("flow-cancel", args[0], count > 1 ? args[1] : NULL, &text);

	if (code == CLI_OK) note("it ends after the page at hand");
	granary_free(text);
	return code;
}
