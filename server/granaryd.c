/* SPDX-License-Identifier: Apache-2.0 */
/* granaryd.c -- the server: settings, the process's own limits, start, signals, stop.
 * Order of the start: settings checked -> limits -> data directory -> store -> listeners bound ->
 * first key -> accept -> ready. Nothing of a wrong setting touches the disk. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/log.h"
#include "credentials.h"
#include "io/fs.h"
#include "io/sock.h"
#include "jobs/jobs.h"
#include "jobs/snapshot.h"
#include "meta/ns.h"
#include "net/net.h"
#include "offline_main.h"
#include "options.h"
#include "req/slow.h"
#include "req/store.h"

enum { EXIT_FAILED = 1, EXIT_WRONG_SETTINGS = 2, WHY_MAX = CONFIG_WHY_MAX };
enum { FIRST_INHERITED_FD = 3, QUICKSTART_PORTS = 64, FILES_OF_OUR_OWN = 4096 + 1024, CONNECTIONS_MIN = 64 };
#define DRAIN_NS          UINT64_C(10000000000)
#define STOP_NS           UINT64_C(5000000000)
#define QUICKSTART_BUCKET "demo"

struct daemon {
	struct options options;
	char quickstart_dir[CONFIG_TEXT_MAX]; /* absolute; "" when not asked for */
	struct config config;
	struct store_options store_options;
	struct fs *fs;
	struct store *store;
	struct net *net;
	char url[CREDENTIALS_URL_MAX];
	uint64_t started_ns;
};

static struct daemon d;

static int fail(const char *why)
{
	log_error("%s", why);
	return EXIT_FAILED;
}

/* ---- the service manager: sd_notify(3) without its library ---- */

static void notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	size_t len = path ? strlen(path) : 0;

	if (len < 2 || len >= sizeof(sa.sun_path) || (path[0] != '/' && path[0] != '@')) return;
	memcpy(sa.sun_path, path, len);
	if (path[0] == '@') sa.sun_path[0] = '\0';
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0) return;
	if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&sa,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		log_warn("cannot tell the service manager '%s': %s", text, strerror(errno));
	close(fd);
}

/* Sockets that the service manager listens on for us, sd_listen_fds(3): they take the place of `listen`. */
static int take_sockets(char *why)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	unsigned long count = fds ? strtoul(fds, NULL, 10) : 0;

	if (!pid || count == 0 || strtoul(pid, NULL, 10) != (unsigned long)getpid()) return 0;
	if (count > CONFIG_LISTEN_MAX) {
		snprintf(why, WHY_MAX, "the service manager hands over %lu sockets, more than the %d that can be",
			count, CONFIG_LISTEN_MAX);
		return -GRANARY_ECONFIG;
	}
	for (unsigned i = 0; i < count; i++) {
		snprintf(d.config.listen[i], CONFIG_ADDRESS_MAX, "fd:%u", FIRST_INHERITED_FD + i);
		fcntl((int)(FIRST_INHERITED_FD + i), F_SETFD, FD_CLOEXEC);
	}
	d.config.listen_count = (uint32_t)count;
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	return 0;
}

static void notify_reloading(void)
{
	char text[96];
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu",
		(unsigned long long)(clock_mono_ns() / 1000));
	notify(text);
}

/* ---- the process ---- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

/* No secret in a core or in another process's hands; as many files as we may have; memory that goes back. */
static void process_prepare(void)
{
	struct rlimit files, none = { 0, 0 };

	umask(077);
#ifndef SANITIZED /* the leak check attaches to its own process */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
	setrlimit(RLIMIT_CORE, &none);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	mallopt(M_MMAP_THRESHOLD, 1 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 22);
	signal(SIGPIPE, SIG_IGN);
}

static uint32_t connections_max(const struct config *c)
{
	struct rlimit files;
	uint64_t n = c->values[CONFIG_CONNECTIONS].number;

	if (n > 0) return (uint32_t)n;
	if (getrlimit(RLIMIT_NOFILE, &files) != 0 ||
		files.rlim_cur < FILES_OF_OUR_OWN + CONNECTIONS_MIN)
		return CONNECTIONS_MIN;
	n = files.rlim_cur - FILES_OF_OUR_OWN;
	return n > 1000000 ? 1000000 : (uint32_t)n;
}

static void signals_block(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	pthread_sigmask(
		SIG_BLOCK, set, NULL); /* inherited by every thread: only sigwait takes them */
}

static void exit_at_once(int sig)
{
	static const char text[] = "level=warn msg=\"second signal: stopping at once\"\n";
	ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);
	(void)sig;
	_exit(n < 0 ? EXIT_FAILED + 1 : EXIT_FAILED);
}

static void second_signal_exits(void)
{
	struct sigaction sa = { .sa_handler = exit_at_once };
	sigset_t set;

	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- start ---- */

/* Makes the directory if it is missing, and its absolute name. */
static int quickstart_prepare(char *why)
{
	const char *dir = d.options.quickstart;

	if (!dir) return 0;
	if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
		snprintf(why, WHY_MAX, "cannot make '%.200s': %s", dir, strerror(errno));
		return -GRANARY_EIO;
	}
	char *full = realpath(dir, NULL);
	if (!full || strlen(full) >= sizeof(d.quickstart_dir)) {
		snprintf(why, WHY_MAX, "cannot use '%.200s': %s", dir,
			full ? "the path is too long" : strerror(errno));
		free(full);
		return -GRANARY_EIO;
	}
	snprintf(d.quickstart_dir, sizeof(d.quickstart_dir), "%s", full);
	free(full);
	return 0;
}

static int store_start(char *why)
{
	const char *dir = d.config.values[CONFIG_DATA].text;
	int err = fs_new_kernel(dir, &d.fs);

	if (err < 0) {
		snprintf(why, WHY_MAX, "cannot open the data directory '%.200s': %s", dir,
			err == -GRANARY_ENOTFOUND
				? "it does not exist; make it (mkdir), or use --quickstart"
				: error_text(err));
		return err;
	}
	config_apply(&d.config, &d.store_options);
	d.store_options.fs = d.fs;
	config_print_budgets(&d.config, &d.store_options);
	return store_open(&d.store_options, &d.store, why, WHY_MAX);
}

static int net_bind(char *why)
{
	const char *addresses[CONFIG_LISTEN_MAX];
	struct net_options options = {
		.addresses = addresses,
		.address_count = d.config.listen_count,
		.connections_max = connections_max(&d.config),
	};
	bool may_move = d.options.quickstart &&
			d.config.values[CONFIG_LISTEN].source == CONFIG_FROM_DEFAULT;
	char address[CONFIG_ADDRESS_MAX];
	int err;

	for (uint32_t i = 0; i < d.config.listen_count; i++) addresses[i] = d.config.listen[i];
	for (unsigned port = 0;; port++) {
		err = net_open(d.store, &options, &d.net, why, WHY_MAX);
		if (err != -GRANARY_ELOCKED || !may_move || port == QUICKSTART_PORTS) return err;
		snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", 7421 + port);
		addresses[0] = address;
	}
}

/* Anybody may knock on an address off loopback: not before there is a key to ask for. */
static int exposure_check(char *why)
{
	for (uint32_t i = 0; i < d.config.listen_count; i++) {
		if (sock_address_is_loopback(d.config.listen[i]) || credentials_any_key(d.store))
			continue;
		snprintf(why, WHY_MAX,
			"refusing to listen on '%s' without any access key; start once on loopback "
			"(--listen 127.0.0.1:7420): that makes the first key",
			d.config.listen[i]);
		return -GRANARY_EACCESS;
	}
	return 0;
}

static int quickstart_bucket(char *why)
{
	if (!d.options.quickstart) return 0;
	int err = ns_bucket_create(d.store->ns, slice_str(QUICKSTART_BUCKET), slice_of("", 0));
	if (err == 0 || err == -GRANARY_EEXIST) return 0;
	snprintf(why, WHY_MAX, "cannot make the bucket '%s': %s", QUICKSTART_BUCKET,
		error_text(err));
	return err;
}

static void print_quickstart(void)
{
	const char *dir = d.quickstart_dir;

	if (!d.options.quickstart) return;
	printf("Granary %s runs.\n\n  endpoint     %s\n", GRANARY_VERSION_STRING, d.url);
	for (uint32_t i = 1; i < net_address_count(d.net); i++) {
		char url[CREDENTIALS_URL_MAX];
		credentials_url(net_address(d.net, i), url);
		printf("               %s\n", url);
	}
	printf("  credentials  %s/%s\n  bucket       %s\n\n", dir, CREDENTIALS_FILE,
		QUICKSTART_BUCKET);
	printf("Read an object from C (cc x.c $(pkg-config --cflags --libs granary), #include "
	       "<granary/granary.h>):\n\n"
	       "  struct granary_options o = GRANARY_INIT(granary_options); struct granary_client "
	       "*c; void *data; size_t len;\n"
	       "  o.url = \"%s/%s\"; o.credentials = \"%s/%s\";\n"
	       "  if (granary_open(&o, &c) == 0 && granary_get(c, \"hello.txt\", &data, &len, "
	       "NULL) == 0)\n"
	       "      fwrite(data, 1, len, stdout);\n\n",
		d.url, QUICKSTART_BUCKET, dir, CREDENTIALS_FILE);
	printf("Next:\n\n  export GRANARY_CREDENTIALS=%s/%s\n"
	       "  echo hello | granary cp - %s/%s/hello.txt && granary cat %s/%s/hello.txt\n"
	       "  granary import ~/pictures %s/%s/pictures\n"
	       "  granary status %s\n\n",
		dir, CREDENTIALS_FILE, d.url, QUICKSTART_BUCKET, d.url, QUICKSTART_BUCKET, d.url,
		QUICKSTART_BUCKET, d.url);
}

static void print_ready(void)
{
	print_quickstart();
	printf("ready");
	for (uint32_t i = 0; i < net_address_count(d.net); i++)
		printf(" address=%s", net_address(d.net, i));
	printf(" ms=%llu\n", (unsigned long long)((clock_mono_ns() - d.started_ns) / 1000000));
	fflush(stdout);
	log_info("ready; address=%s version=%s engine=%s crc32c=%s", net_address(d.net, 0),
		GRANARY_VERSION_STRING, io_engine_name(io_engine_of(d.store->locals[0].io)),
		crc32c_engine());
	notify("READY=1\nSTATUS=serving");
}

static int start(char *why)
{
	bool made = false;
	int err = store_start(why);

	if (err < 0 || (err = exposure_check(why)) < 0 || (err = net_bind(why)) < 0) return err;
	credentials_url(net_address(d.net, 0), d.url);
	if ((err = credentials_ensure(d.store, d.url, &made, why, WHY_MAX)) < 0 ||
		(err = quickstart_bucket(why)) < 0)
		return err;
	if (made)
		log_info("made the first access key; file=%s/%s", fs_root(d.fs), CREDENTIALS_FILE);
	err = net_start(d.net);
	if (err < 0) snprintf(why, WHY_MAX, "cannot accept connections: %s", error_text(err));
	return err;
}

/* ---- running and stopping ---- */

static void reload(void)
{
	static struct config fresh;
	char why[WHY_MAX], restart[256];

	notify_reloading();
	int err = options_config(
		&d.options, d.options.quickstart ? d.quickstart_dir : NULL, &fresh, why);
	if (err < 0) {
		log_error("reload: keeping the old settings: %s", why);
	} else {
		uint32_t applied = config_reload(&d.config, &fresh, restart, sizeof(restart));
		log_set_level((enum log_level)d.config.values[CONFIG_LOG_LEVEL].number);
		slow_ring_set_limit(d.store->slow, d.config.values[CONFIG_SLOW_REQUEST].number);
		if (d.store->jobs) jobs_set_drain_rate(d.store->jobs, d.config.values[CONFIG_DRAIN_RATE].number);
		log_info("reload: done; applied=%u needs_restart=\"%s\"", applied, restart);
	}
	notify("READY=1");
}

static void serve(const sigset_t *signals)
{
	for (;;) {
		int sig = 0;
		if (sigwait(signals, &sig) != 0) continue;
		if (sig != SIGHUP) {
			log_info("stopping; signal=%s", sig == SIGTERM ? "TERM" : "INT");
			return;
		}
		reload();
	}
}

static int stop(void)
{
	second_signal_exits();
	notify("STOPPING=1");
	if (d.store) snapshots_abort(d.store->snapshots);
	if (d.net && net_drain(d.net, DRAIN_NS) < 0)
		log_warn("some connections did not end within 10 s: closing them");
	if (net_stop(&d.net, STOP_NS) < 0) {
		/* Requests still hold parts of the store. What was acknowledged is safe: leave as after a crash. */
		log_error("some requests did not end: leaving without closing the store");
		_exit(EXIT_FAILED);
	}
	if (d.store) store_close(&d.store);
	if (d.fs) fs_free(&d.fs);
	log_info("stopped");
	return 0;
}

static int run(void)
{
	char why[WHY_MAX] = "";
	sigset_t signals;

	d.started_ns = clock_mono_ns();
	log_set_level((enum log_level)d.config.values[CONFIG_LOG_LEVEL].number);
	signals_block(&signals);
	int err = take_sockets(why);
	if (err == 0) err = start(why);
	if (err < 0) {
		int res = fail(why);
		(void)stop();
		return res;
	}
	print_ready();
	serve(&signals);
	return stop();
}

static int settings_read(int argc, char **argv)
{
	char why[WHY_MAX];

	if (options_read(argc, argv, &d.options, why) < 0) {
		fprintf(stderr, "granaryd: %s\n", why);
		return EXIT_WRONG_SETTINGS;
	}
	if (d.options.mode == MODE_VERSION || d.options.mode == MODE_HELP ||
		d.options.mode == MODE_PRINT_DEFAULT)
		return 0;
	/* Judged before the directory is made: a wrong setting touches nothing. */
	if (options_config(&d.options, NULL, &d.config, why) < 0) {
		fprintf(stderr, "granaryd: %s\n", why);
		return EXIT_WRONG_SETTINGS;
	}
	if (d.options.mode != MODE_RUN && d.options.mode != MODE_RESTORE && d.options.mode != MODE_REBUILD) return 0;
	if (!d.options.quickstart && d.config.values[CONFIG_DATA].text[0] == '\0') {
		fprintf(stderr, "granaryd: no data directory; give --data DIR, `data` in --config "
				"FILE, or --quickstart DIR\n");
		return EXIT_WRONG_SETTINGS;
	}
	if (quickstart_prepare(why) < 0) return fail(why);
	if (d.options.quickstart &&
		options_config(&d.options, d.quickstart_dir, &d.config, why) < 0) {
		fprintf(stderr, "granaryd: %s\n", why);
		return EXIT_WRONG_SETTINGS;
	}
	return 0;
}

int main(int argc, char **argv)
{
	process_prepare();
	int res = settings_read(argc, argv);

	if (res != 0) return res;
	switch (d.options.mode) {
	case MODE_HELP: options_help(stdout); return 0;
	case MODE_VERSION: printf("granaryd %s\n", GRANARY_VERSION_STRING); return 0;
	case MODE_PRINT_DEFAULT: config_print_default(stdout); return 0;
	case MODE_PRINT_EFFECTIVE: config_print_effective(&d.config, stdout); return 0;
	case MODE_CHECK_CONFIG:
		printf("%s: the settings are valid\n",
			d.options.config_file ? d.options.config_file : "command line");
		return 0;
	case MODE_RESTORE:
	case MODE_REBUILD: return offline_main(&d.options, &d.config);
	case MODE_RUN: break;
	}
	return run();
}
