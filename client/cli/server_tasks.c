/* SPDX-License-Identifier: Apache-2.0 */
/* server_tasks.c -- small orders to the running server: slow requests, log level, clock. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Has the server do it; its text, or NULL after saying why not. */
static char *task_text(struct remote *r, const char *verb, const char *argument, int *code)
{
	char *text = NULL;
	int err = granary_task(r->client, verb, argument, &text, NULL);

	*code = err < 0 ? fail_remote(r->client, err, "the server did not do it") : CLI_OK;
	return text;
}

/* The number of a line "name N"; 0 when it is not there. */
static uint64_t number_of(const char *text, const char *name)
{
	size_t len = strlen(name);

	for (const char *line = text; line != NULL && *line != '\0';) {
		if (strncmp(line, name, len) == 0 && line[len] == ' ') return strtoull(line + len + 1, NULL, 10);
		line = strchr(line, '\n');
		if (line != NULL) line++;
	}
	return 0;
}

/* ---- slow requests ------------------------------------------------------------------------- */

static void json_slow(char *line)
{
	struct json j;

	json_open(&j, stdout);
	for (char *word = line; *word != '\0';) {
		size_t len = strcspn(word, " ");
		char *next = word + len + (word[len] == ' '), *value, *end;
		word[len] = '\0';
		value = strchr(word, '=');
		if (value != NULL) {
			*value++ = '\0';
			double number = strtod(value, &end);
			if (*end == '\0' && end != value && strcmp(word, "key") != 0)
				json_real(&j, word, number);
			else
				json_text(&j, word, value);
		}
		word = next;
	}
	json_close(&j);
}

int show_slow(struct remote *r)
{
	uint32_t count = 0;
	int code;
	char *text = task_text(r, "slow", NULL, &code);

	if (text == NULL) return code;
	for (char *line = text; *line != '\0'; count++) {
		size_t len = strcspn(line, "\n");
		char *next = line + len + (line[len] == '\n');
		line[len] = '\0';
		if (opts.json)
			json_slow(line);
		else
			printf("%s\n", line);
		line = next;
	}
	if (count == 0) note("no request took longer than the setting slow_request");
	granary_free(text);
	return CLI_OK;
}

/* ---- clock --------------------------------------------------------------------------------- */

static int clock_ask(struct remote *r, const char *verb, uint64_t *store_ns, uint64_t *held_ns)
{
	int code;
	char *text = task_text(r, verb, NULL, &code);

	if (text == NULL) return code;
	*store_ns = number_of(text, "store_time_ns");
	*held_ns = number_of(text, "held_back_ns");
	granary_free(text);
	return CLI_OK;
}

static int clock_show(const char *what, uint64_t store_ns, uint64_t held_ns, bool accepted)
{
	char text[TEXT_SHORT];
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_number(&j, "store_time_ns", store_ns);
		json_number(&j, "held_back_ns", held_ns);
		json_flag(&j, "accepted", accepted);
		json_close(&j);
	} else {
		printf("%s %s\n", what, human_seconds(text, (double)held_ns / 1e9));
	}
	return CLI_OK;
}

int run_clock_status(int count, char **args)
{
	uint64_t store_ns, held_ns;
	struct remote r;
	int code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code == CLI_OK) code = clock_ask(&r, "clock-status", &store_ns, &held_ns);
	if (code == CLI_OK) code = clock_show("not counted of stops:", store_ns, held_ns, false);
	remote_close(&r);
	return code;
}

int run_clock_accept(int count, char **args)
{
	uint64_t store_ns, held_ns, ignored;
	char text[TEXT_SHORT];
	struct remote r;
	int code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code == CLI_OK) code = clock_ask(&r, "clock-status", &store_ns, &held_ns);
	if (code == CLI_OK && held_ns == 0)
		code = clock_show("nothing to accept: not counted of stops:", store_ns, 0, false);
	else if (code == CLI_OK && opts.dry_run)
		code = clock_show("would count", store_ns, held_ns, false);
	else if (code == CLI_OK) {
		code = ask("let everything in the store become %s older", human_seconds(text, (double)held_ns / 1e9));
		if (code == CLI_OK) code = clock_ask(&r, "clock-accept", &ignored, &ignored);
		if (code == CLI_OK) code = clock_show("counted", store_ns + held_ns, held_ns, true);
	}
	remote_close(&r);
	return code;
}

/* ---- log ----------------------------------------------------------------------------------- */

int run_log_level(int count, char **args)
{
	struct remote r;
	int code = remote_open(&r, count > 1 ? args[1] : NULL, NEED_NOTHING, 1);

	if (code == CLI_OK) granary_free(task_text(&r, "log-level", args[0], &code));
	remote_close(&r);
	return code;
}
