/* SPDX-License-Identifier: Apache-2.0 */
/* rules.c -- granary tier plan | apply | rules | explain | cost | pin | unpin | pins: the rules by which packs move
 * between hot and cold, and what they must leave alone. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { RULES_FILE_MAX = 4 * 1024 * 1024 };

/* A whole file, or standard input for "-", ended by 0. */
static int file_read(const char *path, char **text)
{
	FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
	size_t len = 0;

	*text = f ? malloc(RULES_FILE_MAX + 1) : NULL;
	if (f && !*text) return fail(CLI_FAILED, "out of memory");
	if (!f) return fail(CLI_USAGE, "cannot open '%s': %s", path, strerror(errno));
	len = fread(*text, 1, RULES_FILE_MAX + 1, f);
	bool bad = ferror(f) != 0;
	if (f != stdin) fclose(f);
	if (bad || len > RULES_FILE_MAX || memchr(*text, '\0', len)) {
		free(*text);
		*text = NULL;
		return fail(CLI_USAGE, "'%s' is %s", path,
			bad                    ? "not readable"
			: len > RULES_FILE_MAX ? "longer than 4 MiB"
					       : "no text");
	}
	(*text)[len] = '\0';
	return CLI_OK;
}

static int rules_ask(enum granary_rules_verb verb, unsigned flags, const char *text, const char *path,
	const char *url, char **answer)
{
	struct remote r;
	int code = remote_open(&r, url, NEED_NOTHING, 1);

	*answer = NULL;
	if (code != CLI_OK) return code;
	int err = granary_rules(r.client, verb, flags | (opts.json ? GRANARY_RULES_JSON : 0u), text, path, answer,
		GRANARY_CALL(.timeout_ms = GRANARY_FOREVER));
	if (err < 0)
		code = fail_remote(r.client, err, "%s",
			verb == GRANARY_RULES_APPLY     ? "the rules were not applied"
			: verb == GRANARY_RULES_EXPLAIN ? "it cannot be explained"
							: "there is no plan");
	remote_close(&r);
	return code;
}

static int answer_print(int code, char *answer)
{
	if (code == CLI_OK) fputs(answer, stdout);
	granary_free(answer);
	int end = output_close();
	return code != CLI_OK ? code : end;
}

int run_tier_plan(int argc, char **argv)
{
	char *text = NULL, *answer = NULL;
	bool given = argc > 0 && strncmp(argv[0], "granary://", 10) != 0;
	int code = given ? file_read(argv[0], &text) : CLI_OK;

	if (code == CLI_OK)
		code = rules_ask(GRANARY_RULES_PLAN, 0, text, NULL, argc > given ? argv[given] : NULL, &answer);
	free(text);
	return answer_print(code, answer);
}

int run_tier_apply(int argc, char **argv)
{
	char *text = NULL, *answer = NULL;
	int code = file_read(argv[0], &text);

	if (code == CLI_OK)
		code = rules_ask(GRANARY_RULES_APPLY, opts.yes_delete ? GRANARY_RULES_YES_DELETE : 0, text, NULL,
			argc > 1 ? argv[1] : NULL, &answer);
	free(text);
	granary_free(answer);
	if (code == CLI_OK) note("the rules are in force; granary tier status shows what they move");
	return code;
}

int run_tier_rules(int argc, char **argv)
{
	char *answer;
	int code = rules_ask(GRANARY_RULES_SHOW, 0, NULL, NULL, argc > 0 ? argv[0] : NULL, &answer);

	return answer_print(code, answer);
}

int run_tier_cost(int argc, char **argv)
{
	char *answer;
	int code = rules_ask(GRANARY_RULES_COST, 0, NULL, NULL, argc > 0 ? argv[0] : NULL, &answer);

	return answer_print(code, answer);
}

/* URL of one key: its server, and bucket/key. */
int run_tier_explain(int argc, char **argv)
{
	struct remote r;
	char path[2048];
	char *answer = NULL;
	int code = remote_open(&r, argv[0], NEED_PATH, 1);

	(void)argc;
	if (code != CLI_OK) return code;
	snprintf(path, sizeof(path), "%s/%s", r.bucket, r.path);
	int err = granary_rules(
		r.client, GRANARY_RULES_EXPLAIN, opts.json ? GRANARY_RULES_JSON : 0, NULL, path, &answer, NULL);
	if (err < 0) code = fail_remote(r.client, err, "it cannot be explained");
	remote_close(&r);
	return answer_print(code, answer);
}

static int pin_order(const char *url, enum granary_rules_verb verb, const char *done)
{
	struct remote r;
	char path[2048], *answer = NULL;
	int code = remote_open(&r, url, NEED_BUCKET, 1);

	if (code != CLI_OK) return code;
	snprintf(path, sizeof(path), "%s/%s", r.bucket, r.path);
	int err = granary_rules(r.client, verb, 0, NULL, path, &answer, NULL);
	if (err < 0)
		code = fail_remote(r.client, err, "it was not done");
	else
		note("%s", done);
	granary_free(answer);
	remote_close(&r);
	return code;
}

int run_tier_pin(int argc, char **argv)
{
	(void)argc;
	return pin_order(argv[0], GRANARY_RULES_PIN, "it stays on flash; what is cold comes back with the next pass");
}

int run_tier_unpin(int argc, char **argv)
{
	(void)argc;
	return pin_order(argv[0], GRANARY_RULES_UNPIN, "rules decide over it again");
}

int run_tier_pins(int argc, char **argv)
{
	char *answer;
	int code = rules_ask(GRANARY_RULES_PINS, 0, NULL, NULL, argc > 0 ? argv[0] : NULL, &answer);

	return answer_print(code, answer);
}
