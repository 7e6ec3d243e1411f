/* SPDX-License-Identifier: Apache-2.0 */
/* doctor.c -- doctor: what of this machine and of the server keeps Granary from working, or from being fast, and what
 * to type to mend it. Looks, changes nothing. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

enum verdict { GOOD, REMARK, BAD };
enum { FILES_WANTED = 16384, HEADROOM_PERCENT = 5, PATH_SIZE = 4096 };
#define EXT4_MAGIC  0xef53
#define XFS_MAGIC   0x58465342
#define BTRFS_MAGIC 0x9123683e
#define NFS_MAGIC   0x6969
#define TMPFS_MAGIC 0x01021994

struct doctor {
	uint32_t found[3];
};

__attribute__((format(printf, 5, 6))) static void say(
	struct doctor *d, enum verdict verdict, const char *what, const char *fix, const char *format, ...)
{
	static const char *const words[] = { "ok", "note", "BAD" };
	char text[512];
	struct json j;
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	d->found[verdict]++;
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "check", what);
		json_text(&j, "verdict", verdict == GOOD ? "ok" : verdict == REMARK ? "note" : "bad");
		json_text(&j, "text", text);
		json_text(&j, "fix", verdict != GOOD && fix != NULL ? fix : "");
		json_close(&j);
		return;
	}
	printf("%-5s %-14s %s\n", words[verdict], what, text);
	if (verdict != GOOD && fix != NULL) printf("%-5s %-14s -> %s\n", "", "", fix);
}

/* The first line of a small file; "" when it cannot be read. */
static void first_line(const char *path, char *out, size_t cap)
{
	FILE *file = fopen(path, "re");

	out[0] = '\0';
	if (file == NULL) return;
	if (fgets(out, (int)cap, file) == NULL) out[0] = '\0';
	out[strcspn(out, "\n")] = '\0';
	fclose(file);
}

/* ---- this machine -------------------------------------------------------------------------- */

static void check_kernel(struct doctor *d)
{
	struct utsname u;
	unsigned major = 0, minor = 0;
	char *end;

	if (uname(&u) < 0) return;
	major = (unsigned)strtoul(u.release, &end, 10);
	if (*end == '.') minor = (unsigned)strtoul(end + 1, NULL, 10);
	say(d, major > 6 || (major == 6 && minor >= 1) ? GOOD : REMARK, "kernel",
		"6.1 or later is what Granary is tested on; older ones fall back to slower ways", "Linux %s, %s",
		u.release, u.machine);
}

static void check_uring(struct doctor *d)
{
	uint64_t params[16] = { 0 }; /* struct io_uring_params, 120 bytes */
	long fd = syscall(SYS_io_uring_setup, 4, params);
	char text[32];

	if (fd >= 0) {
		close((int)fd);
		say(d, GOOD, "io_uring", NULL, "may be used");
		return;
	}
	first_line("/proc/sys/kernel/io_uring_disabled", text, sizeof(text));
	say(d, REMARK, "io_uring",
		text[0] != '\0' && text[0] != '0'
			? "sysctl kernel.io_uring_disabled=0 (the server works without it, slower)"
			: "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp "
			  "profile",
		"%s; the server will use threads", strerror(errno));
}

static void check_files(struct doctor *d)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
	say(d, limit.rlim_max >= FILES_WANTED ? GOOD : REMARK, "open files",
		"LimitNOFILE=65536 in the unit, or ulimit -n: packs and connections each take one", "up to %" PRIu64,
		(uint64_t)limit.rlim_max);
}

static void check_memory(struct doctor *d)
{
	char text[128];
	uint64_t pages = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	char bytes[TEXT_SHORT];

	first_line("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text));
	say(d, strstr(text, "[never]") == NULL && text[0] != '\0' ? GOOD : REMARK, "huge pages",
		"echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (reads cost a third less CPU)", "%s",
		text[0] != '\0' ? text : "not in this kernel");
	say(d, pages >= (uint64_t)1 << 30 ? GOOD : REMARK, "memory", "the server's budgets want 1 GiB and its cache",
		"%s, %ld cores", human_bytes(bytes, pages), sysconf(_SC_NPROCESSORS_ONLN));
}

static void check_credentials(struct doctor *d)
{
	char path[PATH_SIZE], fix[PATH_SIZE + 32];
	struct stat st;

	if (!credentials_path(path, sizeof(path)) || stat(path, &st) < 0) {
		say(d, REMARK, "credentials", "granary login URL, or set GRANARY_CREDENTIALS", "none found");
		return;
	}
	snprintf(fix, sizeof(fix), "chmod 600 '%s'", path);
	say(d, (st.st_mode & 077) == 0 ? GOOD : BAD, "credentials", fix, "%s, mode %04o", shown(path),
		(unsigned)(st.st_mode & 07777));
}

/* ---- a data directory ---------------------------------------------------------------------- */

static const char *file_system(const char *path, bool *good)
{
	static const struct {
		uint64_t magic;
		const char *name;
		bool good;
	} known[] = { { EXT4_MAGIC, "ext4", true }, { XFS_MAGIC, "xfs", true }, { BTRFS_MAGIC, "btrfs", false },
		{ NFS_MAGIC, "NFS", false }, { TMPFS_MAGIC, "tmpfs", false } };
	struct statfs fs;

	*good = false;
	if (statfs(path, &fs) < 0) return "?";
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if ((uint64_t)(uint32_t)fs.f_type != known[i].magic) continue;
		*good = known[i].good;
		return known[i].name;
	}
	return "another kind";
}

static void check_direct(struct doctor *d, const char *path)
{
	char name[PATH_SIZE + 32];
	int fd;

	snprintf(name, sizeof(name), "%s/.granary-doctor", path);
	fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
	if (fd >= 0) {
		close(fd);
		unlink(name);
		say(d, GOOD, "direct I/O", NULL, "works");
	} else if (errno == EINVAL) {
		unlink(name);
		say(d, REMARK, "direct I/O", "use a file system that has O_DIRECT, as ext4 and xfs",
			"not here: reads go through the page cache");
	} else {
		say(d, BAD, "writing", "the server's user must own the directory (chown)", "cannot write to %s: %s",
			shown(path), strerror(errno));
	}
}

static void check_data(struct doctor *d, const char *path)
{
	struct statvfs fs;
	char bytes[TEXT_SHORT], total[TEXT_SHORT];
	bool good;
	const char *kind = file_system(path, &good);
	uint64_t share;

	if (statvfs(path, &fs) < 0) {
		say(d, BAD, "data directory", "mkdir it, or correct `data` in the config", "%s: %s", shown(path),
			strerror(errno));
		return;
	}
	say(d, good ? GOOD : REMARK, "file system", "ext4 and xfs are what crash safety is tested on", "%s", kind);
	share = fs.f_blocks > 0 ? (uint64_t)fs.f_bavail * 100 / fs.f_blocks : 0;
	say(d, share >= HEADROOM_PERCENT ? GOOD : BAD, "space",
		"remove something or add space: writes stop before it is full", "%s of %s free (%" PRIu64 " %%)",
		human_bytes(bytes, (uint64_t)fs.f_bavail * fs.f_frsize),
		human_bytes(total, (uint64_t)fs.f_blocks * fs.f_frsize), share);
	check_direct(d, path);
}

/* ---- the server ---------------------------------------------------------------------------- */

static void check_version(struct doctor *d, struct remote *r)
{
	struct granary_info info = GRANARY_INIT(granary_info);

	if (granary_client_info(r->client, &info) < 0) return;
	say(d, strcmp(info.server_version, granary_version_string()) == 0 ? GOOD : REMARK, "version",
		"bring the older one up to date", "server %s, command %s", info.server_version,
		granary_version_string());
}

static void check_status(struct doctor *d, struct remote *r)
{
	char *text = NULL;
	int err = granary_status(r->client, &text, NULL);

	if (err < 0) {
		say(d, BAD, "status", "the server's log says more", "%s", granary_last_error(r->client));
		return;
	}
	for (char *line = text, *next; line != NULL; line = next) {
		char *value;
		next = strchr(line, '\n');
		if (next != NULL) *next++ = '\0';
		value = strchr(line, ' ');
		if (value == NULL) continue;
		*value++ = '\0';
		if (strcmp(line, "engine") == 0)
			say(d, strcmp(value, "uring") == 0 ? GOOD : REMARK, "engine",
				"run granary doctor on the server's machine: it says why", "%s", value);
		if (strstr(line, "corrupt") != NULL && strcmp(value, "0") != 0)
			say(d, BAD, "damage", "granary check lists it; look at the drive", "%s %s", line, value);
		if (strcmp(line, "packs_broken") == 0 && strcmp(value, "0") != 0)
			say(d, BAD, "packs", "granary check; look at the drive", "%s broken", value);
	}
	granary_free(text);
}

static void check_server(struct doctor *d, const char *url)
{
	struct granary_options options = GRANARY_INIT(granary_options);
	struct remote r = { .client = NULL };
	int err;

	options.url = url != NULL ? url : opts.url;
	options.credentials = opts.credentials;
	options.profile = opts.profile;
	err = granary_open(&options, &r.client);
	if (err < 0) {
		say(d, url != NULL ? BAD : REMARK, "server", "granary login URL, or give the server's address", "%s",
			granary_last_error(NULL));
		return;
	}
	err = granary_ping(r.client, GRANARY_CALL(.timeout_ms = 5000));
	if (err < 0) {
		say(d, BAD, "server", "is granaryd running (systemctl status granaryd), is the port open?", "%s",
			granary_last_error(r.client));
	} else {
		say(d, GOOD, "server", NULL, "answers");
		check_version(d, &r);
		check_status(d, &r);
	}
	granary_close(&r.client);
}

int run_doctor(int count, char **args)
{
	struct doctor d = { .found = { 0 } };

	check_kernel(&d);
	check_uring(&d);
	check_files(&d);
	check_memory(&d);
	if (opts.data != NULL) check_data(&d, opts.data);
	check_credentials(&d);
	check_server(&d, count > 0 ? args[0] : NULL);
	if (!opts.json)
		printf("%s\n", d.found[BAD] > 0      ? "Something must be mended first."
			       : d.found[REMARK] > 0 ? "It works; the notes say what would be better."
						     : "All is well.");
	return d.found[BAD] > 0 ? CLI_FAILED : CLI_OK;
}
