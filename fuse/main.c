/* SPDX-License-Identifier: Apache-2.0 */
/* main.c -- granary-mount: opens the snapshot or the bucket, mounts, serves until it is unmounted.
 *
 * (1) nothing is mounted before the snapshot was opened; what cannot work is said by the command that was typed, not by
 *     a program in the background.
 * (2) the command returns when the mount answers. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "fuse/control.h"
#include "fuse/live.h"
#include "fuse/log.h"
#include "fuse/service.h"
#include "fuse/watch.h"

enum { CODE_FAILED = 1, CODE_USAGE = 2, FETCH_THREADS = 8, HOLD_EVERY_S = 60, HOLD_TIMEOUT_MS = 5000 };
/* Of the memory: an eighth is for the transports, stacks, and the list of the snapshot's pages. */
enum { LIBRARY_SHARE = 4, CONTENTS_SHARE = 5, CONTENTS_OF = 8, REQUESTS_SHARE = 16 };

struct run {
	struct options options;
	struct mount mount;
	struct granary_client *client;
	struct granary_snapshot *snapshot;
	const char *rings_why; /* why there are none */
	char source[512];
	char target[4096];
	int parent; /* where the command that was typed waits for a text; -1: none */
	bool failed;
	pthread_t holder;
	bool holds;                  /* the thread runs */
	pthread_mutex_t hold_lock;
	pthread_cond_t hold_wake;
	bool ended;                  /* hold_lock */
};

static int say(const char *text)
{
	log_say("%s", text);
	return CODE_FAILED;
}

/* To the command that was typed: "" it is mounted; else why not. */
static void tell(struct run *r, const char *text)
{
	if (r->parent < 0) {
		if (*text) say(text);
		return;
	}
	if (write(r->parent, text, strlen(text) + 1) < 0) say(text);
	close(r->parent);
	r->parent = -1;
}

/* ---- opening ---- */

static int snapshot_open(struct run *r, const struct granary_url *url, char *why, size_t size)
{
	struct granary_snapshot_detail detail = GRANARY_INIT(granary_snapshot_detail);

	if (granary_snapshot_open(r->client, url->snapshot, &r->snapshot, NULL) < 0 ||
		granary_snapshot_describe(r->snapshot, &detail) < 0) {
		snprintf(why, size, "%s", granary_last_error(r->client));
		return -1;
	}
	int err = tree_open(&r->mount.tree, r->snapshot, url->path);
	if (err == -GRANARY_ENOTFOUND)
		snprintf(why, size, "snapshot '%.250s' has nothing below '%.800s'", url->snapshot, url->path);
	else if (err < 0)
		snprintf(why, size, "%s", granary_last_error(r->client));
	r->mount.time_ns = detail.created_ns;
	return err < 0 ? -1 : 0;
}

static int source_open(struct run *r, char *why, size_t size)
{
	struct options *o = &r->options;
	struct granary_url url;
	struct granary_options options = GRANARY_INIT(granary_options);

	if (granary_url_parse(o->url, &url, why, size) < 0) return -1;
	if (url.bucket[0] == '\0') {
		snprintf(why, size,
			"'%.300s' names no bucket: granary://HOST/BUCKET is mounted to read and write, "
			"granary://HOST/BUCKET@NAME is a snapshot",
			o->url);
		return -1;
	}
	options.url = o->url;
	options.credentials = o->credentials;
	options.profile = o->profile;
	options.name = "granary-mount";
	options.timeout_ms = o->deadline_ms;
	options.connections = o->connections;
	options.memory_max = o->memory / LIBRARY_SHARE;
	options.cache_dir = o->cache;
	options.cache_size = o->cache_size;
	if (granary_open(&options, &r->client) < 0) {
		snprintf(why, size, "%s", granary_last_error(NULL));
		return -1;
	}
	o->live = url.snapshot[0] == '\0';
	return o->live ? live_open(&r->mount, r->client, url.bucket, url.path, why, size)
		       : snapshot_open(r, &url, why, size);
}

static int transport_choose(struct run *r, char *why, size_t size)
{
	bool possible = rings_possible(&r->rings_why);

	if (r->options.transport == TRANSPORT_URING && !possible) {
		snprintf(why, size, "transport=uring: %s", r->rings_why);
		return -1;
	}
	if (r->options.transport == TRANSPORT_CLASSIC) r->rings_why = "transport=classic was asked for";
	r->mount.use_rings = possible && r->options.transport != TRANSPORT_CLASSIC;
	return 0;
}

/* Would the kernel's cache be of no use? Most bytes are in files of 64 KiB and more, and they do not fit in memory. */
static bool direct_pays(const struct run *r)
{
	struct granary_snapshot_detail d = GRANARY_INIT(granary_snapshot_detail);
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE), large = 0, all = 0;
	enum { BINS = sizeof(d.histogram) / sizeof(d.histogram[0]), LARGE = 16 /* 64 KiB */ };

	if (granary_snapshot_describe(r->snapshot, &d) < 0) return false;
	for (unsigned i = 0; i < BINS; i++) {
		uint64_t about = d.histogram[i] * ((UINT64_C(3) << i) / 2);
		all += about;
		large += i >= LARGE ? about : 0;
	}
	return d.bytes > memory / 2 && large > all / 2;
}

/* Memory for requests under way: of a snapshot within its share, however many CPUs there are. */
static void sizes_choose(struct run *r)
{
	struct mount *m = &r->mount;
	uint64_t cpus = (uint64_t)sysconf(_SC_NPROCESSORS_CONF), share = r->options.memory / REQUESTS_SHARE;

	m->read_max = MOUNT_READ_MAX;
	m->depth = m->live ? MOUNT_DEPTH_MAX : MOUNT_DEPTH;
	while (!m->live && cpus * m->depth * m->read_max > share && m->depth > 1) m->depth /= 2;
	while (!m->live && cpus * m->depth * m->read_max > share && m->read_max > MOUNT_READ_LEAST) m->read_max /= 2;
}

/* Of a snapshot: where its files' contents come from. */
static int contents_open(struct run *r, char *why, size_t size)
{
	struct mount *m = &r->mount;

	m->direct = r->options.io == IO_DIRECT || (r->options.io == IO_AUTO && direct_pays(r));
	m->cache = cache_new(r->options.memory / CONTENTS_OF * CONTENTS_SHARE);
	m->fetch = m->cache ? fetch_new(&m->tree, m->cache, FETCH_THREADS, r->options.deadline_ms) : NULL;
	if (!m->fetch) snprintf(why, size, "no memory or threads");
	return m->fetch ? 0 : -1;
}

static int mount_open(struct run *r, char *why, size_t size)
{
	struct mount *m = &r->mount;

	m->options = &r->options;
	m->device = -1;
	pthread_mutex_init(&m->lock, NULL);
	m->watch = watch_new();
	if (!m->watch) {
		snprintf(why, size, "no memory");
		return -1;
	}
	if (source_open(r, why, size) < 0 || transport_choose(r, why, size) < 0) return -1;
	m->control = control_new(m, r->client, r->source);
	if (!m->control) {
		snprintf(why, size, "no memory");
		return -1;
	}
	sizes_choose(r);
	if (!m->live && contents_open(r, why, size) < 0) return -1;
	if (r->options.dry_run) return 0;
	m->device = attach(&r->options, r->source, why, size);
	return m->device < 0 ? -1 : 0;
}

/* ---- serving ---- */

/* A file is read in one request up to a MiB instead of 128 KiB at a time; only root may say so. */
static void read_ahead_raise(const char *target, uint32_t bytes)
{
	char line[8192], path[64], device[32], at[4097];
	FILE *f = fopen("/proc/self/mountinfo", "re");

	device[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		char number[32], where[4097];
		if (sscanf(line, "%*d %*d %31s %*s %4096s", number, where) == 2) {
			snprintf(at, sizeof(at), "%s", where);
			if (strcmp(at, target) == 0) snprintf(device, sizeof(device), "%s", number);
		}
	}
	if (f) fclose(f);
	snprintf(path, sizeof(path), "/sys/class/bdi/%s/read_ahead_kb", device);
	f = device[0] ? fopen(path, "we") : NULL;
	if (f) {
		fprintf(f, "%u\n", bytes / 1024);
		fclose(f);
	}
}

/* The snapshot cannot be removed by mistake while it is mounted. A server that is away is asked again in a minute. */
static void hold(struct run *r, bool end)
{
	char name[129] = "mount:";
	size_t len = strlen(name);

	for (const char *at = r->target; *at && len < sizeof(name) - 1; at++)
		name[len++] = *at > ' ' && *at < 127 ? *at : '_';
	name[len] = '\0';
	if (granary_snapshot_hold(r->snapshot, name, end, GRANARY_CALL(.timeout_ms = HOLD_TIMEOUT_MS)) ==
	    -GRANARY_ENOTFOUND && !end)
		say("the snapshot was removed while it is mounted: only what is held here can still be read");
}

static void *hold_run(void *arg)
{
	struct run *r = arg;
	struct timespec until;

	pthread_mutex_lock(&r->hold_lock);
	while (!r->ended) {
		pthread_mutex_unlock(&r->hold_lock);
		hold(r, false);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += HOLD_EVERY_S;
		pthread_mutex_lock(&r->hold_lock);
		if (!r->ended)
			pthread_cond_timedwait(&r->hold_wake, &r->hold_lock, &until);
	}
	pthread_mutex_unlock(&r->hold_lock);
	hold(r, true);
	return NULL;
}

static void hold_end(struct run *r)
{
	pthread_mutex_lock(&r->hold_lock);
	r->ended = true;
	pthread_cond_signal(&r->hold_wake);
	pthread_mutex_unlock(&r->hold_lock);
	if (r->holds)
		pthread_join(r->holder, NULL);
}

static void *signals_run(void *arg)
{
	struct run *r = arg;
	char why[600];
	sigset_t set;
	int number;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	for (;;) {
		sigwait(&set, &number);
		if (detach(r->target, true, why, sizeof(why)) == 0) return NULL;
		say(why);
	}
}

static void served(void *arg)
{
	struct run *r = arg;
	struct mount *m = &r->mount;
	char text[900];

	if (m->use_rings) {
		m->rings = rings_start(m, &r->rings_why);
		if (!m->rings) {
			snprintf(text, sizeof(text),
				"cannot start the io_uring transport: %s; transport=classic does without",
				r->rings_why);
			r->failed = true;
			detach(r->target, true, text + 700, 200);
			tell(r, text);
			return;
		}
	}
	read_ahead_raise(r->target, m->live ? MOUNT_AHEAD_MAX : m->read_max);
	r->holds = !m->live && pthread_create(&r->holder, NULL, hold_run, r) == 0;
	if (m->use_rings)
		snprintf(text, sizeof(text), "%.400s is mounted at %.400s; transport io_uring", r->source, r->target);
	else
		snprintf(text, sizeof(text), "%.300s is mounted at %.300s; transport classic (%s)", r->source,
			r->target, r->rings_why);
	if (r->options.foreground) say(text);
	if (r->options.io == IO_DIRECT && !m->direct)
		say("io=direct: this kernel could not map such files (Linux 6.6 and up can); they are read as with "
		    "io=cached");
	tell(r, "");
	if (!r->options.foreground && chdir("/") < 0) say("cannot leave the directory it was started in");
	if (!r->options.foreground) log_detach();
}

static void mount_release(struct run *r)
{
	live_free(r->mount.live);
	fetch_free(r->mount.fetch);
	rings_free(r->mount.rings);
	cache_free(r->mount.cache);
	control_free(r->mount.control);
	watch_free(r->mount.watch);
	granary_snapshot_close(&r->snapshot);
	if (r->client) granary_close(&r->client);
}

/* All but the mount itself. */
static int try_out(struct run *r)
{
	char why[1200] = "";
	int err = mount_open(r, why, sizeof(why));

	if (err == 0)
		printf("%s can be mounted at %s: transport %s, io %s\n", r->source, r->target,
			r->mount.use_rings ? "io_uring" : "classic", r->mount.direct ? "direct" : "cached");
	mount_release(r);
	return err < 0 ? say(why) : 0;
}

static int serve(struct run *r)
{
	char why[1200] = "";
	pthread_t signals;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL); /* for all threads to come */
	signal(SIGPIPE, SIG_IGN);
	int err = mount_open(r, why, sizeof(why));
	if (err == 0 && pthread_create(&signals, NULL, signals_run, r) == 0) {
		pthread_detach(signals);
		err = device_run(&r->mount, r->options.threads, served, r);
		hold_end(r);
		close(r->mount.device);
		if (err < 0)
			snprintf(why, sizeof(why), "%.900s: %s", r->target,
				err == -EPROTO ? "the kernel's FUSE is older than Linux 5.17" : strerror(-err));
	}
	if (err < 0) tell(r, why);
	mount_release(r);
	return err < 0 || r->failed ? CODE_FAILED : 0;
}

/* ---- the command ---- */

/* The child serves; the parent waits for its word. */
static int serve_in_background(struct run *r)
{
	char text[1200];
	size_t got = 0;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0) return say(strerror(errno));
	pid_t child = fork();
	if (child < 0) return say(strerror(errno));
	if (child == 0) {
		close(ends[0]);
		setsid();
		r->parent = ends[1];
		_exit(serve(r));
	}
	close(ends[1]);
	for (ssize_t n = 1; n > 0 && got<sizeof(text) - 1; got += n> 0 ? (size_t)n : 0)
		n = read(ends[0], text + got, sizeof(text) - 1 - got);
	text[got] = '\0';
	if (got == 0) return say("it ended before it was mounted");
	return *text ? say(text) : 0;
}

static int unmount(const struct options *o)
{
	char why[600];

	return detach(o->url, false, why, sizeof(why)) < 0 ? say(why) : 0;
}

/* Is there an empty directory to mount at? What is in it would be hidden. */
static bool target_is_good(const char *target, char *why, size_t size)
{
	DIR *dir = opendir(target);
	int entries = 0;

	if (!dir) {
		snprintf(why, size, "%.200s: %s; the mount point must be a directory", target, strerror(errno));
		return false;
	}
	while (entries < 3 && readdir(dir)) entries++;
	closedir(dir);
	if (entries < 3) return true; /* . and .. */
	snprintf(why, size, "%.200s: %s; it would be hidden: mount at an empty directory", target, strerror(ENOTEMPTY));
	return false;
}

/* The directory is looked at first: what is wrong with it is said at once. */
static int mount_named(struct run *r, char *why, size_t size)
{
	struct statfs fs; /* of a mount whose program died the kernel still knows names, but asks for this */

	if (strncmp(r->options.target, "/dev/fd/", 8) == 0)
		snprintf(r->target, sizeof(r->target), "%s", r->options.target);
	else if (statfs(r->options.target, &fs) < 0 || !realpath(r->options.target, r->target)) {
		snprintf(why, size, "%.200s: %s%s", r->options.target, strerror(errno),
			errno == ENOENT     ? "; make the directory first"
			: errno == ENOTCONN ? "; its mount's program died: `granary umount` it first"
					    : "");
		return say(why);
	}
	snprintf(r->source, sizeof(r->source), "%s", r->options.url);
	if (r->options.print_unit) {
		service_unit(&r->options, r->target);
		return fflush(stdout) == 0 ? 0 : CODE_FAILED;
	}
	if (strncmp(r->target, "/dev/fd/", 8) != 0 && !target_is_good(r->target, why, size)) return say(why);
	r->options.target = r->target;
	if (r->options.dry_run) return try_out(r);
	int code = r->options.foreground ? serve(r) : serve_in_background(r);
	if (code != 0 || !r->options.update_fstab) return code;
	return service_fstab(&r->options, r->target, why, size) < 0 ? say(why) : 0;
}

int main(int argc, char **argv)
{
	static struct run r = { .parent = -1, .hold_lock = PTHREAD_MUTEX_INITIALIZER,
		.hold_wake = PTHREAD_COND_INITIALIZER };
	char why[300];

	if (options_read(argc, argv, &r.options, why, sizeof(why)) < 0) {
		say(why);
		return CODE_USAGE;
	}
	if (r.options.help || r.options.version) {
		if (r.options.help)
			options_help();
		else
			printf("granary-mount %s\n", granary_version_string());
		return fflush(stdout) == 0 ? 0 : CODE_FAILED;
	}
	if (r.options.unmount) return unmount(&r.options);
	return mount_named(&r, why, sizeof(why));
}
