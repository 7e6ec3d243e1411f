/* SPDX-License-Identifier: Apache-2.0 */
/* drive.c -- the hot directories of a store: ls, add, drain. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_LEN_MAX = 2048 };

/* The value of `name=` in a line of pairs separated by tabs; "" without it. */
static const char *pair(const char *line, const char *name, char out[VALUE_LEN_MAX])
{
	size_t len = strlen(name);

	out[0] = '\0';
	for (const char *p = line; *p != '\0'; p += strcspn(p, "\t"), p += *p == '\t')
		if (strncmp(p, name, len) == 0 && p[len] == '=')
			snprintf(out, VALUE_LEN_MAX, "%.*s", (int)strcspn(p + len + 1, "\t"), p + len + 1);
	return out;
}

static uint64_t pair_number(const char *line, const char *name)
{
	char text[VALUE_LEN_MAX];

	return strtoull(pair(line, name, text), NULL, 10);
}

static void drive_json(const char *line)
{
	struct json j;

	json_open(&j, stdout);
	for (const char *p = line; *p != '\0'; p += strcspn(p, "\t"), p += *p == '\t') {
		char name[64], value[VALUE_LEN_MAX];
		uint64_t number;
		size_t len = strcspn(p, "=\t");
		if (p[len] != '=') continue;
		snprintf(name, sizeof(name), "%.*s", (int)len, p);
		snprintf(value, sizeof(value), "%.*s", (int)strcspn(p + len + 1, "\t"), p + len + 1);
		if (strcmp(name, "drive") != 0 && strcmp(name, "path") != 0 && parse_number(value, &number) == 0)
			json_number(&j, name, number);
		else
			json_text(&j, name, value);
	}
	json_close(&j);
}

/* "draining 12/40, 3m20s left", "online", "read-only: ...". */
static void drive_state(const char *line, char out[VALUE_LEN_MAX])
{
	char state[VALUE_LEN_MAX], health[VALUE_LEN_MAX], more[VALUE_LEN_MAX], eta[TEXT_SHORT];

	pair(line, "state", state);
	pair(line, "health", health);
	if (strcmp(state, "draining") == 0 && pair(line, "drain_waits", more)[0] != '\0')
		snprintf(out, VALUE_LEN_MAX, "draining, %" PRIu64 " packs left, waits: %.500s",
			pair_number(line, "drain_left"), more);
	else if (strcmp(state, "draining") == 0)
		snprintf(out, VALUE_LEN_MAX, "draining, %" PRIu64 " of %" PRIu64 " packs left%s%s",
			pair_number(line, "drain_left"), pair_number(line, "drain_packs"),
			pair_number(line, "drain_eta_s") > 0 ? ", about " : "",
			pair_number(line, "drain_eta_s") > 0
				? human_seconds(eta, (double)pair_number(line, "drain_eta_s"))
				: "");
	else if (strcmp(state, "drained") == 0)
		snprintf(out, VALUE_LEN_MAX, "drained");
	else if (strcmp(health, "online") != 0)
		snprintf(out, VALUE_LEN_MAX, "%.32s: %.500s", health, pair(line, "why", more));
	else
		snprintf(out, VALUE_LEN_MAX, "%s",
			pair_number(line, "placed") ? "online" : "online, takes no new packs");
}

static void drive_row(struct table *t, const char *line)
{
	char path[VALUE_LEN_MAX], state[VALUE_LEN_MAX], buckets[VALUE_LEN_MAX];
	char packs[TEXT_SHORT], bytes[TEXT_SHORT], room[TEXT_SHORT], total[TEXT_SHORT];
	uint64_t size = pair_number(line, "size");

	drive_state(line, state);
	table_row(t, (const char *[]){ pair(line, "path", path), human_count(packs, pair_number(line, "packs")),
			     human_bytes(bytes, pair_number(line, "bytes")),
			     human_bytes(room, pair_number(line, "available")),
			     human_bytes(total, size > 0 ? size : pair_number(line, "total")), state,
			     pair(line, "buckets", buckets) });
}

static char *next_line(char **text)
{
	char *line = *text;
	size_t len = strcspn(line, "\n");

	if (*line == '\0') return NULL;
	*text = line + len + (line[len] != '\0');
	line[len] = '\0';
	return line;
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
	while ((line = next_line(&rest)) != NULL)
		if (opts.json)
			drive_json(line);
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
