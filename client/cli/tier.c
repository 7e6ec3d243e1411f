/* SPDX-License-Identifier: Apache-2.0 */
/* tier.c -- hot and cold: which stores there are, what goes there or comes back, how it goes. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { POLL_MS = 200, ARGUMENT_MAX = 1400, TASK_TEXT_MAX = 32, LEVEL = 3 };

static int server_ask(const char *verb, const char *argument, const char *url, char **text)
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

/* ---- ls, status ---- */

static void store_row(struct table *t, const char *line)
{
	char name[LINE_VALUE_MAX], where[LINE_VALUE_MAX], health[LINE_VALUE_MAX], why[LINE_VALUE_MAX],
		state[LINE_VALUE_MAX];
	char packs[TEXT_SHORT], only[TEXT_SHORT], bytes[TEXT_SHORT], stored[TEXT_SHORT];

	line_pair(line, "health", health);
	line_pair(line, "why", why);
	snprintf(state, sizeof(state), "%.32s%s%.500s", health, why[0] != '\0' ? ": " : "", why);
	table_row(t, (const char *[]){ line_pair(line, "store", name), human_count(packs, line_number(line, "packs")),
			     human_count(only, line_number(line, "cold_only")), human_bytes(bytes, line_number(line,
				"bytes")),
			     human_bytes(stored, line_number(line, "stored")), state, line_pair(line, "where",
				where) });
}

static void task_row(struct table *t, const char *line)
{
	char task[LINE_VALUE_MAX], kind[LINE_VALUE_MAX], state[LINE_VALUE_MAX], why[LINE_VALUE_MAX],
		more[LINE_VALUE_MAX];
	char origin[LINE_VALUE_MAX], packs[TEXT_SHORT], bytes[TEXT_SHORT], rate[TEXT_SHORT], eta[TEXT_SHORT] = "";

	line_pair(line, "state", state);
	line_pair(line, "why", why);
	snprintf(more, sizeof(more), "%.32s%s%.500s", state, why[0] != '\0' ? ": " : "", why);
	snprintf(packs, sizeof(packs), "%" PRIu64 "/%" PRIu64,
		line_number(line, "done") + line_number(line, "skipped") + line_number(line, "failed"),
		line_number(line, "packs"));
	if (strcmp(state, "running") == 0) human_seconds(eta, (double)line_number(line, "eta_s"));
	table_row(t, (const char *[]){ line_pair(line, "task", task), line_pair(line, "kind", kind), packs,
			     human_bytes(bytes, line_number(line, "bytes")), human_bytes(rate, line_number(line,
				"rate")), eta,
			     line_pair(line, "origin", origin), more });
}

static int show(const char *verb, const char *url, const char *const *heads, uint32_t columns, uint64_t right,
	void (*row)(struct table *t, const char *line))
{
	char *text, *rest, *line;
	struct table t;
	int code = server_ask(verb, NULL, url, &text);

	if (code != CLI_OK) return code;
	rest = text;
	table_init(&t, columns, (uint32_t)right);
	if (!opts.json && stdout_is_tty()) table_row(&t, heads);
	while ((line = line_next(&rest)) != NULL)
		if (opts.json)
			line_json(line);
		else
			row(&t, line);
	table_end(&t);
	granary_free(text);
	return CLI_OK;
}

int run_tier_ls(int count, char **args)
{
	static const char *const heads[] = { "STORE", "PACKS", "ONLY THERE", "BYTES", "STORED", "STATE", "WHERE" };

	return show("tier-stores", count > 0 ? args[0] : NULL, heads, 7, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4,
		store_row);
}

int run_tier_status(int count, char **args)
{
	static const char *const heads[] = { "TASK", "KIND", "PACKS", "BYTES", "BYTES/S", "LEFT", "BY", "STATE" };

	return show("tier-tasks", count > 0 ? args[0] : NULL, heads, 8, 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5,
		task_row);
}

/* ---- push, pull ---- */

static int task_end(const char *line)
{
	char state[LINE_VALUE_MAX], why[LINE_VALUE_MAX], bytes[TEXT_SHORT], stored[TEXT_SHORT];

	line_pair(line, "state", state);
	if (opts.json)
		line_json(line);
	else
		note("%" PRIu64 " packs moved, %" PRIu64 " needed nothing, %" PRIu64 " failed; %s, %s stored",
			line_number(line, "done"), line_number(line, "skipped"), line_number(line, "failed"),
			human_bytes(bytes, line_number(line, "bytes")), human_bytes(stored, line_number(line,
				"stored")));
	if (strcmp(state, "done") == 0) return CLI_OK;
	return fail(CLI_PARTIAL, "the task %s: %s", state, line_pair(line, "why", why));
}

/* Until it ended. What it waits for is said once. */
static int task_wait(struct remote *r, const char *task)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000L };
	char line[2 * LINE_VALUE_MAX], state[LINE_VALUE_MAX], why[LINE_VALUE_MAX], told[LINE_VALUE_MAX] = "";
	int err;

	for (;;) {
		if (!task_line(r, "tier-tasks", task, line, sizeof(line), &err))
			return err < 0 ? fail_remote(r->client, err, "cannot follow the task")
				       : fail(CLI_FAILED, "the task %s is not known any more", task);
		line_pair(line, "state", state);
		line_pair(line, "why", why);
		if (strcmp(state, "waiting") != 0 && strcmp(state, "running") != 0 && strcmp(state, "paused") != 0)
			return task_end(line);
		if (strcmp(state, "paused") == 0 && strncmp(why, "the server is shedding", 22) != 0 && strcmp(why,
			told) != 0) {
			note("waits: %s; it goes on by itself", why);
			memcpy(told, why, sizeof(told));
		}
		nanosleep(&pause, NULL);
	}
}

static int order(struct remote *r, const char *verb, const char *argument)
{
	char *text = NULL, task[TASK_TEXT_MAX] = "";
	int err = granary_task(r->client, verb, argument, &text, NULL);

	if (err < 0) return fail_remote(r->client, err, "the server did not begin it");
	if (sscanf(text, "task %31s", task) != 1) task[0] = '\0';
	granary_free(text);
	if (opts.background) {
		note("task %s; granary tier status shows how far it is", task);
		return CLI_OK;
	}
	return task_wait(r, task);
}

int run_tier_push(int count, char **args)
{
	char argument[ARGUMENT_MAX];
	struct remote r;
	int code;

	(void)count;
	if (opts.to == NULL) return fail(CLI_USAGE, "--to STORE is needed; granary tier ls shows the stores");
	code = remote_open(&r, args[0], NEED_BUCKET, 1);
	if (code != CLI_OK) return code;
	snprintf(argument, sizeof(argument), "%s\t%" PRIu64 "\t%s\t%s/%s", opts.to,
		opts.level_given ? opts.level : (uint64_t)LEVEL,
		opts.copy ? "copy" : "demote", r.bucket, r.path);
	code = order(&r, "tier-push", argument);
	remote_close(&r);
	return code;
}

int order_move(const char *url, const char *verb)
{
	char argument[ARGUMENT_MAX];
	struct remote r;
	int code = remote_open(&r, url, NEED_BUCKET, 1);

	if (code != CLI_OK) return code;
	snprintf(argument, sizeof(argument), "%s/%s", r.bucket, r.path);
	code = order(&r, verb, argument);
	remote_close(&r);
	return code;
}

int run_tier_pull(int count, char **args)
{
	char argument[ARGUMENT_MAX];
	struct remote r;
	int code = remote_open(&r, args[0], NEED_BUCKET, 1);

	(void)count;
	if (code != CLI_OK) return code;
	snprintf(argument, sizeof(argument), "%s/%s", r.bucket, r.path);
	code = order(&r, "tier-pull", argument);
	if (code == CLI_OK && opts.drop && !opts.background) code = order(&r, "tier-drop", argument);
	remote_close(&r);
	return code;
}

static int plain_order(const char *verb, const char *argument, const char *url, const char *done)
{
	char *text;
	int code = server_ask(verb, argument, url, &text);

	if (code == CLI_OK) note("%s", done);
	granary_free(text);
	return code;
}

int run_tier_cancel(int count, char **args)
{
	return plain_order("tier-cancel", args[0], count > 1 ? args[1] : NULL, "it ends after the pack at hand");
}

int run_tier_pause(int count, char **args)
{
	return plain_order("tier-pause", NULL, count > 0 ? args[0] : NULL,
		"moves wait from now on; granary tier resume");
}

int run_tier_resume(int count, char **args)
{
	return plain_order("tier-resume", NULL, count > 0 ? args[0] : NULL, "moves go on");
}
