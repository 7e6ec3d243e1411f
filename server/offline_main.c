/* SPDX-License-Identifier: Apache-2.0 */
/* offline_main.c -- see offline_main.h. Text: what is lost, a line each, then what was done. JSON: one object a line
 * for each lost thing, and one for the whole at the end. Progress goes to standard error. */
#include "offline_main.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "options.h"
#include "req/offline.h"

enum { WHY_MAX = 1024, EXIT_FAILED = 1, EXIT_WRONG = 2, EXIT_LOST = 3, LOST_SHOWN = 1000 };
#define PROGRESS_NS UINT64_C(500000000)

struct view {
	bool json, is_tty, has_drawn;
	uint64_t told_ns, shown;
};

static void progress_show(void *arg, const char *what, uint64_t done, uint64_t total)
{
	struct view *v = arg;
	uint64_t now = clock_mono_ns();

	if (v->json || now - v->told_ns < (v->is_tty ? PROGRESS_NS : 10 * PROGRESS_NS)) return;
	v->told_ns = now;
	v->has_drawn = v->is_tty;
	fprintf(stderr, "%s%s: %" PRIu64 " of %" PRIu64 " MiB%s", v->is_tty ? "\r" : "", what, done >> 20, total >> 20,
		v->is_tty ? "\033[K" : "\n");
}

static void json_text(const char *s)
{
	putchar('"');
	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 32)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void text_safe(const char *s)
{
	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;
		if (c < 32 || c == 127)
			printf("\\x%02x", c);
		else
			putchar(c);
	}
	putchar('\n');
}

static void lost_show(void *arg, const char *what, const char *name)
{
	struct view *v = arg;

	if (v->json) {
		printf("{\"lost\":\"%s\",\"name\":", what);
		json_text(name);
		puts("}");
		return;
	}
	if (v->has_drawn) fputs("\r\033[K", stderr);
	v->has_drawn = false;
	v->shown++;
	if (v->shown == LOST_SHOWN + 1) puts("... and more; --json names all of them");
	if (v->shown > LOST_SHOWN) return;
	printf("%s: ", strcmp(what, "object") == 0 ? "lost, its pack is gone"
		       : strcmp(what, "pack") == 0 ? "pack is gone"
						   : "set aside, no row names it");
	text_safe(name);
}

static const char *time_text(uint64_t s, char out[32])
{
	time_t t = (time_t)s;
	struct tm tm;

	if (gmtime_r(&t, &tm) == NULL || strftime(out, 32, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0) snprintf(out, 32, "?");
	return out;
}

static void show_text(const struct offline *o)
{
	char when[32];

	printf("Restored %s: checkpoint %" PRIu64 " of %s, %" PRIu64 " MiB, and %" PRIu64
	       " groups of commits after it.\n",
		o->data, o->number, time_text(o->made_s, when), o->bytes >> 20, o->log_records);
	if (o->skipped > 0) printf("%" PRIu64 " newer checkpoints are damaged and were passed over.\n", o->skipped);
	if (o->has_gap) printf("The log ends early: %s. What was committed after that is not there.\n", o->gap);
	if (o->packs_missing > 0)
		printf("%" PRIu64 " of %" PRIu64 " packs are gone, and with them %" PRIu64
		       " objects: reads of these fail.\n",
			o->packs_missing, o->packs, o->objects_lost);
	if (o->packs_unknown > 0)
		printf("%" PRIu64 " packs are newer than the backup; they are kept in %s/packs.unknown.\n",
			o->packs_unknown, o->data);
	printf("Start the server: granaryd --data %s\n", o->data);
}

static void show_json(const struct offline *o)
{
	printf("{\"restored\":true,\"checkpoint\":%" PRIu64 ",\"made\":%" PRIu64 ",\"bytes\":%" PRIu64
	       ",\"skipped\":%" PRIu64 ",\"log_groups\":%" PRIu64 ",\"gap\":%s,\"packs\":%" PRIu64
	       ",\"packs_missing\":%" PRIu64 ",\"packs_unknown\":%" PRIu64 ",\"objects_lost\":%" PRIu64
	       ",\"incarnation\":%" PRIu32 "}\n",
		o->number, o->made_s, o->bytes, o->skipped, o->log_records, o->has_gap ? "true" : "false", o->packs,
		o->packs_missing, o->packs_unknown, o->objects_lost, o->incarnation);
}

int offline_main(const struct options *options, const char *data)
{
	struct view v = { .json = options->json, .is_tty = isatty(STDERR_FILENO) != 0 };
	struct offline o = { .data = data,
		.backup = options->restore,
		.progress = progress_show,
		.progress_arg = &v,
		.lost = lost_show,
		.lost_arg = &v };
	char why[WHY_MAX], *end = NULL;

	if (options->checkpoint != NULL) o.checkpoint = strtoull(options->checkpoint, &end, 10);
	if (options->checkpoint != NULL && (*end != '\0' || o.checkpoint == 0)) {
		fprintf(stderr, "granaryd: '%s' is no number of a checkpoint\n", options->checkpoint);
		return EXIT_WRONG;
	}
	log_set_level(LOG_WARN);
	if (offline_restore(&o, why, sizeof(why)) < 0) {
		fprintf(stderr, "%sgranaryd: %s\n", v.has_drawn ? "\n" : "", why);
		return EXIT_FAILED;
	}
	if (v.has_drawn) fputs("\r\033[K", stderr);
	if (options->json)
		show_json(&o);
	else
		show_text(&o);
	return o.has_gap || o.packs_missing > 0 || o.skipped > 0 ? EXIT_LOST : 0;
}
