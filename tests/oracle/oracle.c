/* SPDX-License-Identifier: Apache-2.0 */
/* oracle.c -- `oracle write` and `oracle check`: see oracle.h. Uses the public header and common/ only.
 *
 *   oracle write --log FILE [--log-fd N]   changes and reads objects until SIGTERM, --seconds, --ops, or an outage
 *   oracle check --log FILE                reads everything back and judges it
 *
 * Exit codes: 0 well, 1 something is lost, torn or wrong, 2 it could not be found out. */
#include "oracle.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage_text[] =
	"oracle write|check --log FILE [OPTIONS]\n"
	"  --url URL --credentials FILE   the server (GRANARY_URL, GRANARY_CREDENTIALS)\n"
	"  --bucket NAME        (oracle)\n"
	"  --timeout-ms N       of one operation (2000)\n"
	"write:\n"
	"  --log-fd N           append to this descriptor instead of opening the log\n"
	"  --seed N --workers N --clients N --files N --size-max BYTES --large-per-mille N "
	"--no-renames\n"
	"  --seconds N --ops N  when to end (never)\n"
	"  --leave-percent N    only deletes, until so much of the objects is left\n"
	"  --unstable-percent N so many operations are answered before they are durable, and synced\n"
	"check:\n"
	"  --until NS           lines of the log after this time do not count\n"
	"  --state-out FILE     a log to go on with: what is there now\n"
	"  --quiet              counts only\n";

int client_open(const struct oracle_options *o, struct granary_client **out)
{
	struct granary_options options = GRANARY_INIT(granary_options);
	char url[512];
	int err;

	snprintf(url, sizeof(url), "%s/%s", o->url, o->bucket);
	options.url = url;
	options.credentials = o->credentials;
	options.timeout_ms = o->timeout_ms;
	options.name = "oracle";
	err = granary_open(&options, out);
	if (err < 0) fprintf(stderr, "oracle: %s\n", granary_last_error(NULL));
	return err;
}

enum {
	OPT_URL = 256,
	OPT_CREDENTIALS,
	OPT_BUCKET,
	OPT_TIMEOUT,
	OPT_LOG,
	OPT_LOG_FD,
	OPT_SEED,
	OPT_WORKERS,
	OPT_CLIENTS,
	OPT_LEAVE,
	OPT_FILES,
	OPT_SIZE_MAX,
	OPT_LARGE,
	OPT_SECONDS,
	OPT_OPS,
	OPT_UNTIL,
	OPT_STATE_OUT,
	OPT_UNSTABLE,
	OPT_QUIET,
	OPT_NO_RENAMES
};

static const struct option option_table[] = { { "url", 1, NULL, OPT_URL },
	{ "credentials", 1, NULL, OPT_CREDENTIALS }, { "bucket", 1, NULL, OPT_BUCKET },
	{ "timeout-ms", 1, NULL, OPT_TIMEOUT }, { "log", 1, NULL, OPT_LOG },
	{ "log-fd", 1, NULL, OPT_LOG_FD }, { "seed", 1, NULL, OPT_SEED },
	{ "workers", 1, NULL, OPT_WORKERS }, { "clients", 1, NULL, OPT_CLIENTS },
	{ "files", 1, NULL, OPT_FILES }, { "leave-percent", 1, NULL, OPT_LEAVE },
	{ "size-max", 1, NULL, OPT_SIZE_MAX }, { "large-per-mille", 1, NULL, OPT_LARGE },
	{ "seconds", 1, NULL, OPT_SECONDS }, { "ops", 1, NULL, OPT_OPS },
	{ "unstable-percent", 1, NULL, OPT_UNSTABLE }, { "until", 1, NULL, OPT_UNTIL },
	{ "state-out", 1, NULL, OPT_STATE_OUT }, { "quiet", 0, NULL, OPT_QUIET },
	{ "no-renames", 0, NULL, OPT_NO_RENAMES },
	{ NULL, 0, NULL, 0 } };

static void set_text(struct oracle_options *o, int option, const char *text)
{
	if (option == OPT_URL)
		o->url = text;
	else if (option == OPT_CREDENTIALS)
		o->credentials = text;
	else if (option == OPT_BUCKET)
		o->bucket = text;
	else if (option == OPT_LOG)
		o->log = text;
	else if (option == OPT_STATE_OUT)
		o->state_out = text;
}

static void set_number(struct oracle_options *o, int option, uint64_t value)
{
	switch (option) {
	case OPT_TIMEOUT: o->timeout_ms = (uint32_t)value; break;
	case OPT_LOG_FD: o->log_fd = (int)value; break;
	case OPT_SEED: o->seed = value; break;
	case OPT_WORKERS: o->workers = (uint32_t)value; break;
	case OPT_CLIENTS: o->clients = (uint32_t)value; break;
	case OPT_LEAVE: o->leave_percent = (uint32_t)value; break;
	case OPT_FILES: o->files = (uint32_t)value; break;
	case OPT_SIZE_MAX: o->size_max = value; break;
	case OPT_LARGE: o->large_per_mille = (uint32_t)value; break;
	case OPT_SECONDS: o->seconds = (uint32_t)value; break;
	case OPT_OPS: o->ops_max = value; break;
	case OPT_UNSTABLE: o->unstable_percent = (uint32_t)value; break;
	case OPT_UNTIL: o->until_ns = value; break;
	default: break;
	}
}

static int parse(struct oracle_options *o, int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "", option_table, NULL)) >= 0) {
		char *end;
		if (option == '?') return -1;
		if (option == OPT_QUIET) {
			o->quiet = true;
		} else if (option == OPT_NO_RENAMES) {
			o->no_renames = true;
		} else if (option == OPT_URL || option == OPT_CREDENTIALS || option == OPT_BUCKET ||
			   option == OPT_LOG || option == OPT_STATE_OUT) {
			set_text(o, option, optarg);
		} else {
			uint64_t value = strtoull(optarg, &end, 10);
			if (*optarg == '\0' || *end != '\0') return -1;
			set_number(o, option, value);
		}
	}
	if (o->log == NULL || o->url == NULL || optind != argc - 1) return -1;
	if (o->workers < 1 || o->workers > WORKERS_MAX || o->clients < 1 ||
		o->clients > CLIENTS_MAX || o->files < 1 || o->size_max > SMALL_MAX)
		return -1;
	return 0;
}

int main(int argc, char **argv)
{
	struct oracle_options o = { .url = getenv("GRANARY_URL"),
		.credentials = getenv("GRANARY_CREDENTIALS"),
		.bucket = "oracle",
		.log_fd = -1,
		.seed = 1,
		.until_ns = UINT64_MAX,
		.size_max = SMALL_MAX,
		.workers = 16,
		.clients = 4,
		.files = 6,
		.timeout_ms = 2000,
		.large_per_mille = 3,
		.leave_percent = 100 };

	if (parse(&o, argc, argv) < 0) {
		fputs(usage_text, stderr);
		return 2;
	}
	if (strcmp(argv[optind], "check") == 0) return oracle_check(&o);
	if (strcmp(argv[optind], "write") != 0) {
		fputs(usage_text, stderr);
		return 2;
	}
	if (o.log_fd < 0) o.log_fd = open(o.log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (o.log_fd < 0) {
		fprintf(stderr, "oracle: cannot open '%s': %s\n", o.log, strerror(errno));
		return 2;
	}
	return oracle_write(&o);
}
