/* SPDX-License-Identifier: Apache-2.0 */
/* bundle.c -- bundle: an archive for whoever is to find out what is wrong. The command runs itself for each part, so
 * what is in it is what a person would have seen.
 *
 * Invariant: nothing in it is a secret: values after names that speak of secrets are starred out, and so is every run
 * of 33 or more hexadecimal digits (shorter ones are hashes and ids). Names of objects are in it only where an error
 * names one. */
#include <archive.h>
#include <archive_entry.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include "cli.h"

enum { PART_MAX = 16 << 20, ARGS_MAX = 16, HEX_SECRET = 33 };

struct part {
	const char *name;
	const char *args[4];
};
static const struct part parts[] = {
	{ "version.txt", { "--version" } },
	{ "doctor.txt", { "doctor" } },
	{ "status.json", { "status", "--json" } },
	{ "status.txt", { "status" } },
	{ "slow.txt", { "status", "--slow" } },
	{ "jobs.json", { "jobs", "--json" } },
	{ "buckets.json", { "bucket", "ls", "--json" } },
};
static const char *const files[] = { "/proc/meminfo", "/proc/cpuinfo", "/proc/version", "/proc/mounts",
	"/proc/self/limits", "/proc/sys/kernel/io_uring_disabled", "/sys/kernel/mm/transparent_hugepage/enabled" };

/* ---- redaction ----------------------------------------------------------------------------- */

static void blank(char *from, size_t len)
{
	memset(from, '*', len);
}

/* Values of names such as secret= or "password": to the end of the word. */
static void redact_named(char *text)
{
	static const char *const names[] = { "secret", "password", "token", "access_key", "authorization" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		for (char *at = text; (at = strcasestr(at, names[i])) != NULL;) {
			at += strlen(names[i]);
			at += strspn(at, "\"'_abcdefghijklmnopqrstuvwxyz");
			if (*at != '=' && *at != ':') continue;
			at += strspn(at, "=: \"'");
			size_t len = strcspn(at, " \t\r\n\"',}");
			blank(at, len);
			at += len;
		}
	}
}

static void redact(char *text)
{
	redact_named(text);
	for (char *at = text; *at != '\0';) {
		size_t len = strspn(at, "0123456789abcdefABCDEF");
		if (len >= HEX_SECRET) blank(at, len);
		at += len > 0 ? len : 1;
	}
}

/* ---- parts --------------------------------------------------------------------------------- */

static size_t read_whole(int fd, char *buf, size_t cap)
{
	size_t at = 0;

	while (at < cap) {
		ssize_t got = read(fd, buf + at, cap - at);
		if (got < 0 && errno == EINTR) continue;
		if (got <= 0) break;
		at += (size_t)got;
	}
	return at;
}

/* The command's own output, errors too. */
static size_t run_part(const struct part *p, const char *url, char *buf, size_t cap)
{
	const char *argv[ARGS_MAX] = { "granary" };
	size_t count = 1, got;
	int ends[2];
	pid_t child;

	for (size_t i = 0; i < 4 && p->args[i] != NULL; i++) argv[count++] = p->args[i];
	if (opts.credentials != NULL) {
		argv[count++] = "--credentials";
		argv[count++] = opts.credentials;
	}
	if (opts.profile != NULL) {
		argv[count++] = "--profile";
		argv[count++] = opts.profile;
	}
	if (url != NULL) {
		argv[count++] = "--url";
		argv[count++] = url;
	}
	if (pipe2(ends, O_CLOEXEC) < 0) return 0;
	child = fork();
	if (child == 0) {
		dup2(ends[1], STDOUT_FILENO);
		dup2(ends[1], STDERR_FILENO);
		execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(ends[1]);
	got = child < 0 ? 0 : read_whole(ends[0], buf, cap);
	close(ends[0]);
	if (child > 0) waitpid(child, NULL, 0);
	return got;
}

static int add_member(struct archive *a, const char *name, const char *data, size_t len)
{
	struct archive_entry *e = must_alloc(archive_entry_new());
	char path[256];
	int bad;

	snprintf(path, sizeof(path), "granary-bundle/%s", name);
	archive_entry_set_pathname(e, path);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0600);
	archive_entry_set_size(e, (la_int64_t)len);
	archive_entry_set_mtime(e, time(NULL), 0);
	bad = archive_write_header(a, e) != ARCHIVE_OK || archive_write_data(a, data, len) != (la_ssize_t)len;
	archive_entry_free(e);
	return bad ? -1 : 0;
}

static int add_file(struct archive *a, const char *path, char *buf)
{
	char name[128];
	FILE *file = fopen(path, "re");
	size_t len;

	if (file == NULL) return 0; /* this kernel has none */
	len = read_whole(fileno(file), buf, PART_MAX);
	fclose(file);
	buf[len] = '\0';
	redact(buf);
	snprintf(name, sizeof(name), "machine%s", path);
	return add_member(a, name, buf, strlen(buf));
}

static int add_all(struct archive *a, const char *url)
{
	char *buf = must_alloc(malloc(PART_MAX + 1));
	int bad = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && bad == 0; i++) {
		size_t len = run_part(&parts[i], url, buf, PART_MAX);
		buf[len] = '\0';
		redact(buf);
		bad = add_member(a, parts[i].name, buf, strlen(buf));
	}
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]) && bad == 0; i++) bad = add_file(a, files[i], buf);
	if (bad == 0 && opts.log != NULL) bad = add_file(a, opts.log, buf);
	free(buf);
	return bad;
}

int run_bundle(int count, char **args)
{
	const char *out = opts.output != NULL ? opts.output : "granary-bundle.tar.gz";
	const char *url = count > 0 ? args[0] : opts.url;
	struct archive *a = must_alloc(archive_write_new());
	struct json j;
	int bad;

	archive_write_set_format_pax_restricted(a);
	archive_write_add_filter_gzip(a);
	umask(077);
	bad = strcmp(out, "-") == 0 ? archive_write_open_fd(a, STDOUT_FILENO) : archive_write_open_filename(a, out);
	if (bad == ARCHIVE_OK) bad = add_all(a, url);
	if (bad == 0) bad = archive_write_close(a);
	if (bad != 0) {
		int code = fail(CLI_FAILED, "cannot write '%s': %s", shown(out), archive_error_string(a));
		archive_write_free(a);
		return code;
	}
	archive_write_free(a);
	note("wrote '%s': no secrets are in it, but names of buckets and machines are; look before you send it",
		shown(out));
	if (opts.json && strcmp(out, "-") != 0) {
		json_open(&j, stdout);
		json_text(&j, "file", out);
		json_close(&j);
	}
	return CLI_OK;
}
