/* SPDX-License-Identifier: Apache-2.0 */
/* mounted.c -- what a mount does: stats and profile, from the lines `name value` of its .granary/stats; and warm, which
 * reads files through it so that they are near when they are wanted. */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

enum { NAME_CAP = 48, PATH_CAP = 4096, LINES_OF_HEAD = 20, BINS = 32 };

/* ---- counters ------------------------------------------------------------------------------ */

struct counter {
	char name[NAME_CAP];
	uint64_t value;
};
struct counters {
	struct counter *list;
	size_t count, cap;
};

static uint64_t counter(const struct counters *c, const char *name)
{
	for (size_t i = 0; i < c->count; i++)
		if (strcmp(c->list[i].name, name) == 0) return c->list[i].value;
	return 0;
}

static void counters_release(struct counters *c)
{
	free(c->list);
	*c = (struct counters){ .list = NULL };
}

static void counter_add(struct counters *c, const char *name, uint64_t value)
{
	if (c->count == c->cap) {
		c->cap = c->cap > 0 ? 2 * c->cap : 128;
		c->list = must_alloc(realloc(c->list, c->cap * sizeof(*c->list)));
	}
	snprintf(c->list[c->count].name, NAME_CAP, "%s", name);
	c->list[c->count++].value = value;
}

/* The mount that a path lies in: its root, "" when it lies in none. */
static void mount_root(const char *path, char root[PATH_CAP])
{
	char at[PATH_CAP], *full = realpath(path, NULL);

	root[0] = '\0';
	if (full == NULL) return;
	snprintf(root, PATH_CAP, "%s", full);
	free(full);
	for (;;) {
		char *slash = strrchr(root, '/');
		if (snprintf(at, sizeof(at), "%s/.granary/health", root) < (int)sizeof(at) &&
			access(at, F_OK) == 0)
			return;
		if (slash == NULL || root[0] == '\0') break;
		*slash = '\0';
	}
	root[0] = '\0';
}

static int not_mounted(const char *path)
{
	return fail(CLI_NOTFOUND,
		"'%s' is not in a mount of granary, or its program is gone: `granary mount` mounts "
		"one",
		shown(path));
}

/* CLI_OK, or says why not. */
static int counters_read(const char *root, struct counters *c)
{
	char path[PATH_CAP + 32], name[NAME_CAP];
	uint64_t value;

	snprintf(path, sizeof(path), "%s/.granary/stats", root);
	FILE *f = fopen(path, "re");
	if (f == NULL) return fail_errno(errno, "cannot read %s", path);
	while (fscanf(f, "%47s %" SCNu64, name, &value) == 2) counter_add(c, name, value);
	fclose(f);
	return CLI_OK;
}

/* ---- stats --------------------------------------------------------------------------------- */

static void stats_json(const struct counters *c)
{
	struct json j;

	json_open(&j, stdout);
	for (size_t i = 0; i < c->count; i++) json_number(&j, c->list[i].name, c->list[i].value);
	json_close(&j);
	fflush(stdout);
}

static double grown(const struct counters *now, const struct counters *before, const char *name)
{
	return (double)(counter(now, name) - counter(before, name));
}

static double share(double part, double all)
{
	return all > 0 ? 100 * part / all : 0;
}

static void stats_line(
	const struct counters *now, const struct counters *before, double seconds, uint64_t number)
{
	char out[TEXT_SHORT], in[TEXT_SHORT], used[TEXT_SHORT];
	double reads = grown(now, before, "op.READ.count"),
	       hits = grown(now, before, "memory_hits");
	double misses = grown(now, before, "memory_misses"),
	       waited = grown(now, before, "reads_waited");

	if (number % LINES_OF_HEAD == 0)
		printf("%10s %9s %9s %11s %7s %8s %11s %7s %10s %9s\n", "requests/s", "lookups/s",
			"reads/s", "read/s", "memory", "wait", "server/s", "flash", "memory",
			"in flight");
	printf("%10.0f %9.0f %9.0f %11s %6.0f%% %6.1fms %11s %6.0f%% %10s %9" PRIu64 "\n",
		grown(now, before, "requests") / seconds,
		grown(now, before, "op.LOOKUP.count") / seconds, reads / seconds,
		human_bytes(out, (uint64_t)(grown(now, before, "op.READ.bytes") / seconds)),
		share(hits, hits + misses),
		waited > 0 ? grown(now, before, "reads_waited_us") / waited / 1000 : 0,
		human_bytes(in, (uint64_t)(grown(now, before, "server_bytes_received") / seconds)),
		share(grown(now, before, "flash_hits"),
			grown(now, before, "flash_hits") + grown(now, before, "flash_misses")),
		human_bytes(used, counter(now, "memory_used")), counter(now, "in_flight"));
	fflush(stdout);
}

int run_stats(int count, char **args)
{
	char root[PATH_CAP];
	struct counters now = { .list = NULL }, before = { .list = NULL };
	int code = CLI_OK;

	(void)count;
	mount_root(args[0], root);
	if (root[0] == '\0') return not_mounted(args[0]);
	for (uint64_t n = 0; code == CLI_OK && (opts.count == 0 || n < opts.count); n++) {
		if (n > 0) sleep(1);
		code = counters_read(root, &now);
		if (code != CLI_OK) break;
		double seconds = n > 0 ? 1
				       : (double)counter(&now, "uptime_s") +
						 1; /* the first line is since the mount began */
		if (opts.json)
			stats_json(&now);
		else
			stats_line(&now, &before, seconds, n);
		counters_release(&before);
		before = now;
		now = (struct counters){ .list = NULL };
	}
	counters_release(&now);
	counters_release(&before);
	return code == CLI_OK ? output_close() : code;
}

/* ---- profile ------------------------------------------------------------------------------- */

static void profile_ops(const struct counters *c)
{
	struct table t;

	table_init(&t, 5, 0x1e);
	table_row(&t, (const char *[]){ "request", "count", "mean", "longest", "errors" });
	for (size_t i = 0; i < c->count; i++) {
		char op[32], name[NAME_CAP], number[TEXT_SHORT], mean[TEXT_SHORT], most[TEXT_SHORT],
			errors[TEXT_SHORT];
		if (sscanf(c->list[i].name, "op.%31[^.]", op) != 1 ||
			strstr(c->list[i].name, ".count") == NULL)
			continue;
		snprintf(name, sizeof(name), "op.%s.us", op);
		snprintf(mean, sizeof(mean), "%.1f us",
			(double)counter(c, name) / (double)c->list[i].value);
		snprintf(name, sizeof(name), "op.%s.us_max", op);
		snprintf(most, sizeof(most), "%.1f ms", (double)counter(c, name) / 1000);
		snprintf(name, sizeof(name), "op.%s.errors", op);
		table_row(&t, (const char *[]){ op, human_count(number, c->list[i].value), mean,
				      most, human_count(errors, counter(c, name)) });
	}
	table_end(&t);
}

/* The bin that so much of a histogram lies up to; -1: it is empty. */
static int quantile(const struct counters *c, const char *name, double part)
{
	uint64_t bins[BINS], all = 0, sum = 0;
	char one[NAME_CAP];

	for (int i = 0; i < BINS; i++) {
		snprintf(one, sizeof(one), "%s_%d", name, i);
		bins[i] = counter(c, one);
		all += bins[i];
	}
	for (int i = 0; i < BINS && all > 0; i++) {
		sum += bins[i];
		if ((double)sum >= part * (double)all) return i;
	}
	return -1;
}

static void profile_reads(const struct counters *c)
{
	char bytes[TEXT_SHORT], half[TEXT_SHORT], server[TEXT_SHORT];
	uint64_t reads = counter(c, "op.READ.count"), waited = counter(c, "reads_waited");
	int size = quantile(c, "read_size_log2", 0.5), p50 = quantile(c, "read_wait_us_log2", 0.5);
	int p99 = quantile(c, "read_wait_us_log2", 0.99);

	if (reads == 0) {
		printf("Nothing was read through it, or the kernel had it.\n");
		return;
	}
	printf("The kernel asked for %s in reads of up to %s mostly; %.0f%% of them waited for "
	       "bytes, %s came from the server.\n",
		human_bytes(bytes, counter(c, "op.READ.bytes")),
		human_bytes(half, UINT64_C(2) << (size < 0 ? 0 : size)),
		share((double)waited, (double)reads),
		human_bytes(server, counter(c, "server_bytes_received")));
	if (p50 >= 0)
		printf("Who waited did so for up to %.1f ms mostly, 1 in 100 for more than %.1f "
		       "ms.\n",
			(double)(UINT64_C(2) << p50) / 1000, (double)(UINT64_C(1) << p99) / 1000);
}

/* What would help; false: nothing that can be told. */
static bool profile_advice(const struct counters *c, const char *config)
{
	double reads = (double)counter(c, "op.READ.count"),
	       lookups = (double)counter(c, "op.LOOKUP.count");
	double waited = (double)counter(c, "reads_waited"),
	       absent = (double)counter(c, "lookups_absent");
	double flash = (double)(counter(c, "flash_hits") + counter(c, "flash_misses"));
	uint64_t in = counter(c, "server_bytes_received"), budget = counter(c, "memory_budget");
	const char *bytes = strstr(config, "\nbytes ");
	uint64_t all = bytes ? strtoull(bytes + 7, NULL, 10) : 0;
	bool any = false;

#define ADVISE(when, text) \
	if (when) any = printf("- %s\n", text) > 0
	ADVISE(all > 0 && in > all + all / 4 && counter(c, "flash_size") == 0,
		"the snapshot came from the server more than once: keep it on this machine's "
		"flash, cache=DIR,size=...");
	ADVISE(flash > 0 && share((double)counter(c, "flash_hits"), flash) < 50 &&
			all > counter(c, "flash_size"),
		"the cache on the flash is smaller than the snapshot: with size= as large, later "
		"epochs need no server");
	ADVISE(counter(c, "memory_evicted") > 0 && waited > reads / 4 && budget < all,
		"bytes left the program's memory before they were wanted again: memory=... larger, "
		"if the machine has it");
	ADVISE(waited > reads / 2 && reads > 1000,
		"most reads wait, one file each: read in the order of the data, more files at a "
		"time, or run `granary warm` first");
	ADVISE(lookups > 100 && absent > lookups / 4,
		"the program looks for names that are not there, again and again: shorten its "
		"search paths");
	ADVISE(strstr(config, "transport classic") != NULL,
		"FUSE over io_uring is not in use; Linux 6.14 and up: echo 1 > "
		"/sys/module/fuse/parameters/enable_uring, and "
		"mount again");
	ADVISE(strstr(config, "io direct") != NULL && all > 0 && in > all + all / 4,
		"files are read past the kernel's cache: if this machine has the memory, io=cached "
		"keeps them there");
	ADVISE(counter(c, "checksum_errors") > 0,
		"bytes came with wrong checksums and were fetched again: look at the server's log "
		"and `granary check`");
	ADVISE(counter(c, "server_reconnects") > 2,
		"the connection to the server was lost repeatedly: look at the network");
#undef ADVISE
	return any;
}

int run_profile(int count, char **args)
{
	char root[PATH_CAP], path[PATH_CAP + 32], config[8192] = "", took[TEXT_SHORT];
	struct counters c = { .list = NULL };

	(void)count;
	mount_root(args[0], root);
	if (root[0] == '\0') return not_mounted(args[0]);
	int code = counters_read(root, &c);
	if (code != CLI_OK) return code;
	if (opts.json) {
		stats_json(&c);
		counters_release(&c);
		return output_close();
	}
	snprintf(path, sizeof(path), "%s/.granary/config", root);
	FILE *f = fopen(path, "re");
	if (f != NULL) {
		config[fread(config, 1, sizeof(config) - 1, f)] = '\0';
		fclose(f);
	}
	printf("%s, mounted for %s\n\n", root,
		human_seconds(took, (double)counter(&c, "uptime_s")));
	profile_ops(&c);
	printf("\n");
	profile_reads(&c);
	printf("\nWhat would help:\n");
	if (!profile_advice(&c, config)) printf("- nothing that can be seen from here\n");
	counters_release(&c);
	return output_close();
}

/* ---- warm ---------------------------------------------------------------------------------- */

enum { QUEUE = 256, READERS = 8, ROOM = 1024 * 1024 };

struct warming {
	struct progress progress;
	pthread_mutex_t lock;
	pthread_cond_t more, room;
	char *queue[QUEUE]; /* lock */
	uint32_t head, count;
	bool ended;
	uint64_t failed;
	bool counting; /* the first turn: nothing is read */
};

static void warm_read(struct warming *w, const char *path, void *room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), error = errno;
	ssize_t n = fd >= 0 ? 1 : -1;

	while (n > 0 && (n = read(fd, room, ROOM)) > 0) progress_add(&w->progress, 0, (uint64_t)n);
	if (n < 0) error = fd >= 0 ? errno : error;
	if (fd >= 0) close(fd);
	progress_add(&w->progress, 1, 0);
	if (n >= 0) return;
	fail_errno(error, "cannot read '%s'", shown(path));
	pthread_mutex_lock(&w->lock);
	w->failed++;
	pthread_mutex_unlock(&w->lock);
}

static void *warm_run(void *arg)
{
	struct warming *w = arg;
	void *room = must_alloc(malloc(ROOM));

	pthread_mutex_lock(&w->lock);
	while (w->count > 0 || !w->ended) {
		if (w->count == 0) {
			pthread_cond_wait(&w->more, &w->lock);
			continue;
		}
		char *path = w->queue[w->head++ % QUEUE];
		w->count--;
		pthread_cond_signal(&w->room);
		pthread_mutex_unlock(&w->lock);
		warm_read(w, path, room);
		free(path);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	free(room);
	return NULL;
}

static void warm_file(struct warming *w, const char *path, const struct stat *st)
{
	if (w->counting) {
		w->progress.files_total++;
		w->progress.bytes_total += (uint64_t)st->st_size;
		return;
	}
	pthread_mutex_lock(&w->lock);
	while (w->count == QUEUE) pthread_cond_wait(&w->room, &w->lock);
	w->queue[(w->head + w->count++) % QUEUE] = must_alloc(strdup(path));
	pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
}

/* All files of a path. */
static int warm_walk(struct warming *w, char *path)
{
	char *roots[] = { path, NULL };
	FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	int code = CLI_OK;

	if (walk == NULL) return fail_errno(errno, "cannot walk '%s'", shown(path));
	for (FTSENT *e; (e = fts_read(walk)) != NULL;) {
		if (e->fts_info == FTS_F)
			warm_file(w, e->fts_path, e->fts_statp);
		else if (e->fts_info == FTS_ERR || e->fts_info == FTS_NS || e->fts_info == FTS_DNR)
			code = fail_errno(e->fts_errno, "cannot look at '%s'", shown(e->fts_path));
	}
	fts_close(walk);
	return code;
}

/* Paths of a list, one a line; the list is read twice. */
static int warm_list(struct warming *w, const char *list)
{
	FILE *f = fopen(list, "re");
	char *line = NULL;
	size_t cap = 0;
	int code = CLI_OK;

	if (f == NULL) return fail_errno(errno, "cannot open '%s'", shown(list));
	for (ssize_t n; (n = getline(&line, &cap, f)) > 0;) {
		line[n - 1] = line[n - 1] == '\n' ? '\0' : line[n - 1];
		if (line[0] == '\0') continue;
		int one = warm_walk(w, line);
		code = one != CLI_OK ? one : code;
	}
	free(line);
	fclose(f);
	return code;
}

static int warm_all(struct warming *w, int count, char **args)
{
	char root[PATH_CAP];
	int code = CLI_OK;

	for (int i = 0; i < count; i++) {
		mount_root(args[i], root);
		if (root[0] == '\0') return not_mounted(args[i]);
		int one = warm_walk(w, opts.snapshot ? root : args[i]);
		code = one != CLI_OK ? one : code;
	}
	if (opts.file != NULL) {
		int one = warm_list(w, opts.file);
		code = one != CLI_OK ? one : code;
	}
	return code;
}

int run_warm(int count, char **args)
{
	static struct warming w = { .lock = PTHREAD_MUTEX_INITIALIZER,
		.more = PTHREAD_COND_INITIALIZER,
		.room = PTHREAD_COND_INITIALIZER };
	pthread_t threads[64];
	uint64_t readers = opts.jobs > 0 ? opts.jobs : READERS;
	char bytes[TEXT_SHORT], files[TEXT_SHORT], took[TEXT_SHORT];

	if (count == 0 && opts.file == NULL)
		return fail(CLI_USAGE, "warm needs a PATH, or a list of them: -f LIST");
	progress_start(&w.progress, "warm");
	w.counting = true;
	int code = warm_all(&w, count, args);
	w.counting = false;
	for (uint64_t i = 0; i < readers; i++)
		if (pthread_create(&threads[i], NULL, warm_run, &w) != 0) readers = i;
	if (code == CLI_OK && readers > 0) code = warm_all(&w, count, args);
	pthread_mutex_lock(&w.lock);
	w.ended = true;
	pthread_cond_broadcast(&w.more);
	pthread_mutex_unlock(&w.lock);
	for (uint64_t i = 0; i < readers; i++) pthread_join(threads[i], NULL);
	progress_stop(&w.progress);
	if (code != CLI_OK) return code;
	note("read %s files, %s, in %s", human_count(files, atomic_load(&w.progress.files)),
		human_bytes(bytes, atomic_load(&w.progress.bytes)),
		human_seconds(took, progress_seconds(&w.progress)));
	return w.failed > 0 ? CLI_PARTIAL : CLI_OK;
}
