/* SPDX-License-Identifier: Apache-2.0 */
/* drive.c -- the hot directories of a store: ls, add, drain. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char *line_pair(const char *line, const char *name, char out[LINE_VALUE_MAX])
{
	size_t len = strlen(name);

	out[0] = '\0';
	for (const char *p = line; *p != '\0'; p += strcspn(p, "\t"), p += *p == '\t')
		if (strncmp(p, name, len) == 0 && p[len] == '=')
			snprintf(out, LINE_VALUE_MAX, "%.*s", (int)strcspn(p + len + 1, "\t"), p + len + 1);
	return out;
}

uint64_t line_number(const char *line, const char *name)
{
	char text[LINE_VALUE_MAX];

	return strtoull(line_pair(line, name, text), NULL, 10);
}

void line_json(const char *line)
{
	struct json j;

	json_open(&j, stdout);
	for (const char *p = line; *p != '\0'; p += strcspn(p, "\t"), p += *p == '\t') {
		char name[64], value[LINE_VALUE_MAX];
		uint64_t number;
		size_t len = strcspn(p, "=\t");
		if (p[len] != '=') continue;
		snprintf(name, sizeof(name), "%.*s", (int)len, p);
		snprintf(value, sizeof(value), "%.*s", (int)strcspn(p + len + 1, "\t"), p + len + 1);
		if (strcmp(name, "drive") != 0 && strcmp(name, "path") != 0 && strcmp(name, "task") != 0 &&
			strcmp(name, "store") != 0 && parse_number(value, &number) == 0)
			json_number(&j, name, number);
		else
			json_text(&j, name, value);
	}
	json_close(&j);
}

/* "draining 12/40, 3m20s left", "online", "read-only: ...". */
static void drive_state(const char *line, char out[LINE_VALUE_MAX])
{
	char state[LINE_VALUE_MAX], health[LINE_VALUE_MAX], more[LINE_VALUE_MAX], eta[TEXT_SHORT];

	line_pair(line, "state", state);
	line_pair(line, "health", health);
	if (strcmp(state, "draining") == 0 && line_pair(line, "drain_waits", more)[0] != '\0')
		snprintf(out, LINE_VALUE_MAX, "draining, %" PRIu64 " packs left, waits: %.500s",
			line_number(line, "drain_left"), more);
	else if (strcmp(state, "draining") == 0)
		snprintf(out, LINE_VALUE_MAX, "draining, %" PRIu64 " of %" PRIu64 " packs left%s%s",
			line_number(line, "drain_left"), line_number(line, "drain_packs"),
			line_number(line, "drain_eta_s") > 0 ? ", about " : "",
			line_number(line, "drain_eta_s") > 0
				? human_seconds(eta, (double)line_number(line, "drain_eta_s"))
				: "");
	else if (strcmp(state, "drained") == 0)
		snprintf(out, LINE_VALUE_MAX, "drained");
	else if (strcmp(health, "online") != 0)
		snprintf(out, LINE_VALUE_MAX, "%.32s: %.500s", health, line_pair(line, "why", more));
	else
		snprintf(out, LINE_VALUE_MAX, "%s",
			line_number(line, "placed") ? "online" : "online, takes no new packs");
}

static void drive_row(struct table *t, const char *line)
{
	char path[LINE_VALUE_MAX], state[LINE_VALUE_MAX], buckets[LINE_VALUE_MAX];
	char packs[TEXT_SHORT], bytes[TEXT_SHORT], room[TEXT_SHORT], total[TEXT_SHORT];
	uint64_t size = line_number(line, "size");

	drive_state(line, state);
	table_row(t, (const char *[]){ line_pair(line, "path", path), human_count(packs, line_number(line, "packs")),
			     human_bytes(bytes, line_number(line, "bytes")),
			     human_bytes(room, line_number(line, "available")),
			     human_bytes(total, size > 0 ? size : line_number(line, "total")), state,
			     line_pair(line, "buckets", buckets) });
}

char *line_next(char **text)
{
	char *line = *text;
	size_t len = strcspn(line, "\n");

	if (*line == '\0') return NULL;
	*text = line + len + (line[len] != '\0');
	line[len] = '\0';
	return line;
}

bool task_line(struct remote *r, const char *verb, const char *task, char *out, size_t cap, int *err)
{
	char *text = NULL, *rest, *line, id[LINE_VALUE_MAX];
	bool found = false;

	*err = granary_task(r->client, verb, NULL, &text, NULL);
	if (*err < 0) return false;
	for (rest = text; !found && (line = line_next(&rest)) != NULL;) {
		found = strcmp(line_pair(line, "task", id), task) == 0;
		if (found) snprintf(out, cap, "%s", line);
	}
	granary_free(text);
	return found;
}

int run_drive_ls(int count, char **args)
{
	char *text = NULL, *rest, *line;
	struct table t;
	struct remote r;
	int err, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	err = granary_task(r.client, "drive-ls", NULL, &text, NULL);
	if (err < 0) {
		code = fail_remote(r.client, err, "cannot list the drives");
		remote_close(&r);
		return code;
	}
	rest = text;
	table_init(&t, 7, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4);
	if (!opts.json && stdout_is_tty())
		table_row(&t, (const char *[]){ "PATH", "PACKS", "BYTES", "FREE", "SIZE", "STATE", "BUCKETS" });
	while ((line = line_next(&rest)) != NULL)
		if (opts.json)
			line_json(line);
		else
			drive_row(&t, line);
	table_end(&t);
	granary_free(text);
	remote_close(&r);
	return CLI_OK;
}

static int drive_order(const char *verb, const char *argument, const char *url)
{
	char *text = NULL;
	struct remote r;
	int code = remote_open(&r, url, NEED_NOTHING, 1);

	if (code == CLI_OK) {
		int err = granary_task(r.client, verb, argument, &text, NULL);
		if (err < 0) code = fail_remote(r.client, err, "the server did not do it");
		granary_free(text);
	}
	remote_close(&r);
	return code;
}

int run_drive_add(int count, char **args)
{
	char *argument = must_alloc(malloc(strlen(args[0]) + 32));
	int code;

	snprintf(argument, strlen(args[0]) + 32, "%s\t%" PRIu64, args[0], opts.capacity);
	code = drive_order("drive-add", argument, count > 1 ? args[1] : NULL);
	if (code == CLI_OK) note("new packs may lie in '%s' from now on", shown(args[0]));
	free(argument);
	return code;
}

int run_drive_drain(int count, char **args)
{
	int code = drive_order(opts.cancel ? "drive-cancel" : "drive-drain", args[0], count > 1 ? args[1] : NULL);

	if (code == CLI_OK && opts.cancel)
		note("'%s' is in use as before; what was moved stays where it is now", shown(args[0]));
	else if (code == CLI_OK)
		note("the packs in '%s' move to other drives; granary drive ls shows how far it is", shown(args[0]));
	return code;
}
