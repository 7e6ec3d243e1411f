/* SPDX-License-Identifier: Apache-2.0 */
/* backup.c -- backup: a checkpoint now; restore, rebuild: the metadata back out of one, or out of packs. The server's
 * own program does that, as it alone knows the metadata; it stands beside this one, or is on the PATH. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { POLL_MS = 100, PATH_CAP = 4096, SERVER_ARGS_MAX = 80 };

struct state {
	bool is_running, is_failing;
	uint64_t checkpoints, number, took_ms, total, done, copied, failures;
	char why[256];
};

static void state_line(struct state *s, const char *name, const char *value)
{
	struct {
		const char *name;
		uint64_t *at;
	} fields[] = { { "backup_checkpoints", &s->checkpoints }, { "backup_number", &s->number },
		{ "backup_took_ms", &s->took_ms }, { "backup_total_bytes", &s->total },
		{ "backup_done_bytes", &s->done }, { "backup_copied_bytes", &s->copied },
		{ "backup_failures", &s->failures } };

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (strcmp(name, fields[i].name) == 0 && parse_number(value, fields[i].at) < 0) *fields[i].at = 0;
	if (strcmp(name, "backup_running") == 0) s->is_running = strcmp(value, "0") != 0;
	if (strcmp(name, "backup_failing") == 0) s->is_failing = strcmp(value, "0") != 0;
	if (strcmp(name, "backup_error") == 0) snprintf(s->why, sizeof(s->why), "%s", value);
}

static int state_ask(struct remote *r, struct state *s)
{
	char *text = NULL;
	int err = granary_task(r->client, "backup-status", NULL, &text, NULL);

	if (err < 0) return err;
	*s = (struct state){ .number = 0 };
	for (char *line = text; *line != '\0';) {
		size_t len = strcspn(line, "\n");
		char *next = line + len + (line[len] == '\n'), *value;
		line[len] = '\0';
		value = strchr(line, ' ');
		if (value != NULL) *value++ = '\0';
		if (value != NULL) state_line(s, line, value);
		line = next;
	}
	granary_free(text);
	return 0;
}

/* Until the checkpoint that was asked for is made, or one has failed since. */
static int backup_wait(struct remote *r, struct state *s, struct progress *p)
{
	struct timespec pause = { .tv_nsec = POLL_MS * 1000000l };
	uint64_t failures;
	char *text = NULL;
	int err = state_ask(r, s);

	failures = s->failures;
	if (err == 0) err = granary_task(r->client, "backup", NULL, &text, NULL);
	granary_free(text);
	if (err == 0) err = state_ask(r, s);
	while (err == 0 && s->is_running && s->failures == failures) {
		atomic_store(&p->bytes, s->done);
		atomic_store(&p->bytes_total, s->total);
		nanosleep(&pause, NULL);
		err = state_ask(r, s);
	}
	return err;
}

static void backup_show(const struct state *s)
{
	char copied[TEXT_SHORT], total[TEXT_SHORT], took[TEXT_SHORT];
	struct json j;

	if (!opts.json) {
		printf("checkpoint %" PRIu64 ": %s of metadata, %s of it new, in %s\n", s->number,
			human_bytes(total, s->total), human_bytes(copied, s->copied),
			human_seconds(took, (double)s->took_ms / 1e3));
		return;
	}
	json_open(&j, stdout);
	json_number(&j, "checkpoint", s->number);
	json_number(&j, "bytes", s->total);
	json_number(&j, "copied_bytes", s->copied);
	json_number(&j, "ms", s->took_ms);
	json_close(&j);
}

int run_backup(int count, char **args)
{
	struct state s = { .number = 0 };
	struct progress p;
	struct remote r;
	int err, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	progress_start(&p, "copying metadata");
	err = backup_wait(&r, &s, &p);
	progress_stop(&p);
	if (err < 0)
		code = fail_remote(r.client, err, "cannot make a backup");
	else if (s.is_failing)
		code = fail(CLI_FAILED, "the backup failed: %s", s.why);
	else
		backup_show(&s);
	remote_close(&r);
	return code;
}

/* ---- restore, rebuild ---------------------------------------------------------------------- */

/* granaryd beside this program, or the one that is found by name. */
static const char *server_program(char out[PATH_CAP])
{
	ssize_t len = readlink("/proc/self/exe", out, PATH_CAP - sizeof("granaryd"));
	char *slash;

	if (len <= 0) return "granaryd";
	out[len] = '\0';
	slash = strrchr(out, '/');
	if (slash == NULL) return "granaryd";
	memcpy(slash + 1, "granaryd", sizeof("granaryd"));
	return access(out, X_OK) == 0 ? out : "granaryd";
}

/* Becomes granaryd with these options; args: data directory, then further hot directories. */
static int run_server(const char *mode, const char *backup, int count, char **args)
{
	char path[PATH_CAP], number[TEXT_SHORT], *argv[SERVER_ARGS_MAX + 1];
	const char *program = server_program(path), *first[] = { program, mode, backup, "--data" };
	int n = 0;

	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++)
		if (first[i] != NULL) argv[n++] = (char *)(uintptr_t)first[i];
	argv[n++] = args[0];
	for (int i = 1; i < count; i++) {
		argv[n++] = (char *)(uintptr_t) "--hot";
		argv[n++] = args[i];
	}
	snprintf(number, sizeof(number), "%" PRIu64, opts.checkpoint);
	if (opts.checkpoint > 0) argv[n++] = (char *)(uintptr_t) "--checkpoint";
	if (opts.checkpoint > 0) argv[n++] = number;
	if (opts.json) argv[n++] = (char *)(uintptr_t) "--json";
	argv[n] = NULL;
	fflush(NULL);
	execvp(program, argv);
	return fail_errno(errno, "cannot run %s, which restores", program);
}

int run_restore(int count, char **args)
{
	char backup[PATH_CAP];
	bool is_s3 = strncmp(args[0], "s3+", 3) == 0 && opts.credentials != NULL;
	const char *first = strchr(args[0], '?') == NULL ? "?" : "&";

	if (snprintf(backup, sizeof(backup), "--restore=%s%s%s%s", args[0], is_s3 ? first : "",
		    is_s3 ? "credentials=" : "", is_s3 ? opts.credentials : "") >= (int)sizeof(backup))
		return fail(CLI_USAGE, "'%.100s...' is longer than a path may be", args[0]);
	return run_server(backup, NULL, count - 1, args + 1);
}

int run_rebuild(int count, char **args)
{
	char backup[PATH_CAP];

	if (opts.backup == NULL) return run_server("--rebuild", "--backup=none", count, args);
	if (snprintf(backup, sizeof(backup), "--backup=%s", opts.backup) >= (int)sizeof(backup))
		return fail(CLI_USAGE, "'%.100s...' is longer than a path may be", opts.backup);
	return run_server("--rebuild", backup, count, args);
}
