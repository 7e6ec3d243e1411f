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
#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "jobs/backup_away.h"
#include "options.h"
#include "req/offline.h"

#define FETCHED "backup.fetched"
enum { PATH_CAP = 4200, WHY_MAX = 1024, EXIT_FAILED = 1, EXIT_WRONG = 2, EXIT_LOST = 3, LOST_SHOWN = 1000 };
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

static const char *lost_text(const char *what)
{
	static const struct {
		const char *what, *text;
	} texts[] = {
		{ "object", "lost, its pack is gone" },
		{ "pack", "pack is gone" },
		{ "unknown-pack", "set aside, no row names it" },
		{ "drive", "hot directory is not there" },
		{ "damage", "damaged" },
		{ "incomplete", "has gaps, which are zeros now" },
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (strcmp(what, texts[i].what) == 0) return texts[i].text;
	return what;
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
	printf("%s: ", lost_text(what));
	text_safe(name);
}

static const char *time_text(uint64_t s, char out[32])
{
	time_t t = (time_t)s;
	struct tm tm;

	if (gmtime_r(&t, &tm) == NULL || strftime(out, 32, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0) snprintf(out, 32, "?");
	return out;
}

static void show_backup(const struct offline *o)
{
	char when[32];

	printf("Metadata of checkpoint %" PRIu64 " of %s, %" PRIu64 " MiB, and %" PRIu64
	       " groups of commits after it.\n",
		o->number, time_text(o->made_s, when), o->bytes >> 20, o->log_records);
	if (o->skipped > 0) printf("%" PRIu64 " newer checkpoints are damaged and were passed over.\n", o->skipped);
	if (o->has_gap) printf("The log ends early: %s. What was committed after that is not there.\n", o->gap);
}

static void show_missing(const struct offline *o)
{
	if (o->packs_missing > 0)
		printf("%" PRIu64 " of %" PRIu64 " packs are gone, and with them %" PRIu64
		       " objects: reads of these fail.\n",
			o->packs_missing, o->packs, o->objects_lost);
	if (o->packs_cold_now > 0)
		printf("%" PRIu64 " packs are read from their copy in a cold store from now on; name that store in the "
		       "settings as before.\n",
			o->packs_cold_now);
	if (o->packs_unknown > 0)
		printf("%" PRIu64 " packs are not in the metadata; they are kept in packs.unknown/ beside the others. "
		       "`granary rebuild` takes what is in them.\n",
			o->packs_unknown);
}

static void show_rebuilt(const struct offline *o)
{
	printf("Read %" PRIu64 " packs (%" PRIu64 " without an end) with %" PRIu64 " records%s: %" PRIu64
	       " objects put in place, %" PRIu64 " have a newer one of their name.\n",
		o->packs_read, o->packs_torn, o->records, o->backup ? " that the backup does not have" : "", o->placed,
		o->superseded);
	if (o->changed + o->moved > 0)
		printf("Of the backup's objects %" PRIu64 " have newer bytes, %" PRIu64 " were found in other packs.\n",
			o->changed, o->moved);
	if (o->damaged > 0) printf("%" PRIu64 " places in packs are damaged.\n", o->damaged);
	if (o->incomplete > 0) printf("%" PRIu64 " objects have gaps.\n", o->incomplete);
	if (o->unplaced > 0)
		printf("Of %" PRIu64 " objects nobody knows the directory: they are in lost+found/.\n", o->unplaced);
	if (o->backup != NULL)
		puts("Lost is what was committed after the end of the backup and stands in no record: deletes (such "
		     "objects are there again), renames, links, attributes, tags, snapshots, keys.");
	else
		puts("Lost is what stands in no record: deletes (such objects are there again, until compaction took "
		     "them), renames, links, symbolic links, attributes that were set later or of large objects, tags, "
		     "copies by reference, empty directories, snapshots, recipes, access keys, quotas.");
}

static void show_text(const struct offline *o, bool is_rebuild)
{
	printf("%s %s.\n", is_rebuild ? "Rebuilt" : "Restored", o->data);
	if (o->backup != NULL) show_backup(o);
	if (is_rebuild) show_rebuilt(o);
	show_missing(o);
	printf("Start the server: granaryd --data %s\n", o->data);
}

static void show_json(const struct offline *o, bool is_rebuild)
{
	printf("{\"%s\":true", is_rebuild ? "rebuilt" : "restored");
	if (o->backup != NULL)
		printf(",\"checkpoint\":%" PRIu64 ",\"made\":%" PRIu64 ",\"bytes\":%" PRIu64
		       ",\"skipped\":%" PRIu64 ",\"log_groups\":%" PRIu64 ",\"gap\":%s",
			o->number, o->made_s, o->bytes, o->skipped, o->log_records, o->has_gap ? "true" : "false");
	if (is_rebuild)
		printf(",\"packs_read\":%" PRIu64 ",\"packs_torn\":%" PRIu64 ",\"records\":%" PRIu64
		       ",\"damaged\":%" PRIu64 ",\"placed\":%" PRIu64 ",\"superseded\":%" PRIu64
		       ",\"incomplete\":%" PRIu64 ",\"unplaced\":%" PRIu64 ",\"changed\":%" PRIu64
		       ",\"moved\":%" PRIu64,
			o->packs_read, o->packs_torn, o->records, o->damaged, o->placed, o->superseded, o->incomplete,
			o->unplaced, o->changed, o->moved);
	printf(",\"packs\":%" PRIu64 ",\"packs_missing\":%" PRIu64 ",\"packs_unknown\":%" PRIu64
	       ",\"packs_cold_now\":%" PRIu64 ",\"objects_lost\":%" PRIu64 ",\"incarnation\":%" PRIu32 "}\n",
		o->packs, o->packs_missing, o->packs_unknown, o->packs_cold_now, o->objects_lost, o->incarnation);
}

static void take_settings(struct offline *o, const struct options *options, const struct config *config)
{
	const char *backup = config->values[CONFIG_BACKUP].text;

	o->data = config->values[CONFIG_DATA].text;
	o->backup = options->restore;
	if (options->mode == MODE_REBUILD && strcmp(backup, "none") != 0) o->backup = backup;
	for (uint32_t i = 0; i < config->hot_count && o->hot_count < OFFLINE_HOT_MAX; i++)
		if (strcmp(config->hot[i].path, o->data) != 0) o->hot[o->hot_count++] = config->hot[i].path;
}

/* From a cold store: the backup is brought into the data directory first, and goes again afterwards. */
static int restore_away(struct offline *o, char *why, size_t cap)
{
	char path[PATH_CAP];
	struct fs *fs = NULL;
	int err = fs_new_kernel(o->data, &fs), gone;

	if (err < 0) {
		snprintf(why, cap, "cannot open %s: %s; make it (mkdir) if it is the one to bring back", o->data,
			error_text(err));
		return err;
	}
	err = fetch_backup(o->backup, fs, FETCHED, o->progress, o->arg, why, cap);
	snprintf(path, sizeof(path), "%s/" FETCHED, o->data);
	o->backup = path;
	if (err == 0) err = offline_restore(o, why, cap);
	gone = fetch_remove(fs, FETCHED);
	if (gone < 0) log_warn("%s cannot be removed: %s; nothing needs it any more", path, error_text(gone));
	o->backup = o->data; /* told of as a restore from a backup */
	fs_free(&fs);
	return err;
}

static int run_offline(struct offline *o, bool is_rebuild, char *why, size_t cap)
{
	if (is_rebuild) return offline_rebuild(o, why, cap);
	return fetch_is_url(o->backup) ? restore_away(o, why, cap) : offline_restore(o, why, cap);
}

int offline_main(const struct options *options, const struct config *config)
{
	struct view v = { .json = options->json, .is_tty = isatty(STDERR_FILENO) != 0 };
	struct offline o = { .progress = progress_show, .lost = lost_show, .arg = &v };
	bool is_rebuild = options->mode == MODE_REBUILD;
	char why[WHY_MAX], *end = NULL;

	take_settings(&o, options, config);
	if (options->checkpoint != NULL) o.checkpoint = strtoull(options->checkpoint, &end, 10);
	if (options->checkpoint != NULL && (*end != '\0' || o.checkpoint == 0)) {
		fprintf(stderr, "granaryd: '%s' is no number of a checkpoint\n", options->checkpoint);
		return EXIT_WRONG;
	}
	log_set_level(LOG_WARN);
	if (run_offline(&o, is_rebuild, why, sizeof(why)) < 0) {
		fprintf(stderr, "%sgranaryd: %s\n", v.has_drawn ? "\n" : "", why);
		return EXIT_FAILED;
	}
	if (v.has_drawn) fputs("\r\033[K", stderr);
	if (options->json)
		show_json(&o, is_rebuild);
	else
		show_text(&o, is_rebuild);
	if (is_rebuild && (o.backup == NULL || o.damaged + o.incomplete + o.unplaced > 0)) return EXIT_LOST;
	return o.has_gap || o.packs_missing > 0 || o.skipped > 0 ? EXIT_LOST : 0;
}
