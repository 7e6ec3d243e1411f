/* SPDX-License-Identifier: Apache-2.0 */
/* options.c -- the options of granary-mount: one table for reading, help and the nearest name of a mistyped one. They
 * may be given as --name=value, or as mount(8) does, after -o. */
#include "fuse/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { FLAG, TEXT, PATH, NUMBER, OCTAL, BYTES, TIME, CHOICE, ACTION, IGNORED };

struct option {
	const char *name;
	enum kind kind;
	size_t at; /* in struct options */
	uint64_t least, most;
	const char *value, *help; /* value: as the help shows it; of a CHOICE: the choices, joined by | */
};

#define AT(member) offsetof(struct options, member)
static const struct option table[] = {
	{ "credentials", PATH, AT(credentials), 0, 0, "FILE",
		"file with access_key= and secret=, readable by its owner alone; else as `granary` finds it" },
	{ "profile", TEXT, AT(profile), 0, 0, "NAME", "the credentials that `granary login --profile NAME` kept" },
	{ "foreground", FLAG, AT(foreground), 0, 0, NULL, "stay in the terminal; Ctrl-C unmounts" },
	{ "allow_other", FLAG, AT(allow_other), 0, 0, NULL,
		"let other users in (as root: always; else /etc/fuse.conf must say user_allow_other)" },
	{ "uid", NUMBER, AT(uid), 0, UINT32_MAX - 1, "N",
		"owner of everything; else of a bucket the files' own, of a snapshot who mounts" },
	{ "gid", NUMBER, AT(gid), 0, UINT32_MAX - 1, "N", "group of everything; else as the owner" },
	{ "umask", OCTAL, AT(umask), 0, 0777, "OCTAL",
		"bits taken from the modes (of a snapshot: 444, of directories 555); 0" },
	{ "memory", BYTES, AT(memory), 64 << 20, UINT64_C(1) << 44, "SIZE",
		"all that the program may use, most of it for contents of files; the kernel's own cache is not in it; "
		"512MiB" },
	{ "deadline", TIME, AT(deadline_ms), 100, 24 * 3600 * 1000, "TIME",
		"a request that the server does not answer ends with an error after this; 30s" },
	{ "hard", FLAG, AT(hard), 0, 0, NULL, "of a bucket: wait for the server for ever; who waits can be killed" },
	{ "close", CHOICE, AT(close_durable), 0, 0, "visible|durable",
		"of a bucket: close returns when all see what was written, or when it is on disk as well" },
	{ "connections", NUMBER, AT(connections), 1, 64, "N", "to the server; 2" },
	{ "threads", NUMBER, AT(threads), 1, 256, "N", "of the classic transport; one a CPU, 2 at least" },
	{ "transport", CHOICE, AT(transport), 0, 0, "auto|uring|classic",
		"how the kernel hands requests over: uring needs Linux 6.14 and fuse.enable_uring=1; auto takes it "
		"where "
		"it is there" },
	{ "io", CHOICE, AT(io), 0, 0, "auto|cached|direct",
		"cached: the kernel keeps what was read, and opens without a request; direct: it does not, which reads "
		"large files that come once twice as fast; auto: direct where most of the bytes are in files of 64 KiB "
		"and more and all of them are more than half of this machine's memory" },
	{ "preset", CHOICE, AT(preset), 0, 0, "consistent|shared|frozen",
		"of a bucket: names and attributes that others change are seen within a second, within ten, or never; "
		"a snapshot is always frozen" },
	{ "cache", PATH, AT(cache), 0, 0, "DIR",
		"keep contents that were read on this machine's flash, in DIR/granary-cache, for the next time and for "
		"all programs that name it" },
	{ "size", BYTES, AT(cache_size), 64 << 20, UINT64_C(1) << 50, "SIZE", "of the cache, never more" },
	{ "dry-run", ACTION, AT(dry_run), 0, 0, NULL, "try everything but the mount itself" },
	{ "print-unit", ACTION, AT(print_unit), 0, 0, NULL, "print a unit of systemd that mounts it with the machine" },
	{ "update-fstab", ACTION, AT(update_fstab), 0, 0, NULL, "mount it, and put its line into /etc/fstab" },
	{ "unmount", ACTION, AT(unmount), 0, 0, NULL, "unmount: granary-mount --unmount DIR" },
	{ "help", ACTION, AT(help), 0, 0, NULL, "print this" },
	{ "version", ACTION, AT(version), 0, 0, NULL, "print the version" },
	/* What fstab and mount(8) add, and what is so anyway. */
	{ "ro", IGNORED, 0, 0, 0, NULL, NULL },
	{ "dev", IGNORED, 0, 0, 0, NULL, NULL },
	{ "suid", IGNORED, 0, 0, 0, NULL, NULL },
	{ "nodev", IGNORED, 0, 0, 0, NULL, NULL },
	{ "nosuid", IGNORED, 0, 0, 0, NULL, NULL },
	{ "noauto", IGNORED, 0, 0, 0, NULL, NULL },
	{ "nofail", IGNORED, 0, 0, 0, NULL, NULL },
	{ "_netdev", IGNORED, 0, 0, 0, NULL, NULL },
	{ "defaults", IGNORED, 0, 0, 0, NULL, NULL },
};
enum { COUNT = sizeof(table) / sizeof(table[0]) };

/* ---- values ---- */

static bool number_with_unit(const char *text, const char *const *units, const uint64_t *factors, uint64_t *out)
{
	char *end;

	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (end == text || errno != 0 || text[0] == '-') return false;
	for (; *units; units++, factors++)
		if (strcmp(end, *units) == 0) {
			*out = n * *factors;
			return n <= UINT64_MAX / *factors;
		}
	return false;
}

static bool value_read(const struct option *t, const char *text, uint64_t *out)
{
	static const char *const sizes[] = { "", "KiB", "K", "MiB", "M", "GiB", "G", "TiB", "T", NULL };
	static const uint64_t size_factors[] = { 1, 1 << 10, 1 << 10, 1 << 20, 1 << 20, 1 << 30, 1 << 30,
		UINT64_C(1) << 40, UINT64_C(1) << 40 };
	static const char *const times[] = { "ms", "s", "m", "h", NULL };
	static const uint64_t time_factors[] = { 1, 1000, 60000, 3600000 };
	static const char *const none[] = { "", NULL };
	static const uint64_t one[] = { 1 };
	char *end;

	if (t->kind == OCTAL) {
		*out = strtoul(text, &end, 8);
		return *text != '\0' && *end == '\0';
	}
	if (t->kind == BYTES) return number_with_unit(text, sizes, size_factors, out);
	if (t->kind == TIME) return number_with_unit(text, times, time_factors, out);
	return number_with_unit(text, none, one, out);
}

static bool choice_read(const struct option *t, const char *text, uint64_t *out)
{
	const char *at = t->value;
	size_t len = strlen(text);

	for (*out = 0; at; (*out)++) {
		const char *bar = strchr(at, '|');
		size_t n = bar ? (size_t)(bar - at) : strlen(at);
		if (n == len && memcmp(at, text, n) == 0) return true;
		at = bar ? bar + 1 : NULL;
	}
	return false;
}

static void value_put(struct options *o, const struct option *t, uint64_t value)
{
	uint8_t *at = (uint8_t *)o + t->at;
	uint32_t small = (uint32_t)value;
	bool yes = true;

	if (t->kind == BYTES)
		memcpy(at, &value, sizeof(value));
	else if (t->kind == FLAG || t->kind == ACTION)
		memcpy(at, &yes, sizeof(yes));
	else
		memcpy(at, &small, sizeof(small));
}

/* ---- names ---- */

static uint32_t distance(const char *a, size_t n, const char *b)
{
	uint32_t row[64];
	size_t m = strlen(b);

	if (n >= 64 || m >= 64) return UINT32_MAX;
	for (uint32_t j = 0; j <= m; j++) row[j] = j;
	for (uint32_t i = 1; i <= n; i++) {
		uint32_t corner = row[0];
		row[0] = i;
		for (uint32_t j = 1; j <= m; j++) {
			uint32_t change = corner + (a[i - 1] != b[j - 1]), above = row[j] + 1, left = row[j - 1] + 1;
			corner = row[j];
			row[j] = change < above ? change : above;
			row[j] = row[j] < left ? row[j] : left;
		}
	}
	return row[m];
}

static const struct option *option_find(const char *name, size_t len, const char **nearest)
{
	uint32_t best = 4; /* more letters apart is no misspelling */

	*nearest = NULL;
	for (int i = 0; i < COUNT; i++) {
		if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0) return &table[i];
		uint32_t d = distance(name, len, table[i].name);
		if (d < best && table[i].help) {
			best = d;
			*nearest = table[i].name;
		}
	}
	return NULL;
}

/* Keeps what was given, for a unit or a line of fstab: paths from the root on. */
static bool given_add(struct options *o, const struct option *t, const char *value)
{
	size_t at = strlen(o->given), room = sizeof(o->given) - at;
	char *full = t->kind == PATH ? realpath(value, NULL) : NULL;
	int n = snprintf(o->given + at, room, "%s%s%s%s", at > 0 ? "," : "", t->name, value ? "=" : "",
		full ? full : value ? value : "");

	free(full);
	return n >= 0 && (size_t)n < room;
}

/* One `name` or `name=value`, NUL-terminated. */
static int option_take(struct options *o, char *text, char *why, size_t size)
{
	char *value = strchr(text, '=');
	size_t len = value ? (size_t)(value - text) : strlen(text);
	const char *nearest;
	const struct option *t = option_find(text, len, &nearest);
	uint64_t number = 0;

	if (!t) {
		snprintf(why, size, "unknown option '%.*s'%s%s%s", (int)len, text, nearest ? "; did you mean '" : "",
			nearest ? nearest : "", nearest ? "'?" : "; --help lists them");
		return -1;
	}
	if (t->kind == IGNORED) return 0;
	bool bare = t->kind == FLAG || t->kind == ACTION;
	if (bare != (value == NULL)) {
		snprintf(why, size,
			bare ? "option '%s' takes no value" : "option '%s' needs a value: %s=%s", t->name,
			t->name, t->value);
		return -1;
	}
	if (t->kind != ACTION && !given_add(o, t, value ? value + 1 : NULL)) {
		snprintf(why, size, "these options are too long together");
		return -1;
	}
	value = value ? value + 1 : NULL;
	if (t->kind == TEXT || t->kind == PATH) {
		memcpy((uint8_t *)o + t->at, &value, sizeof(value));
		return 0;
	}
	bool good = bare ||
		    (t->kind == CHOICE ? choice_read(t, value, &number)
				       : value_read(t, value, &number) && number >= t->least && number <= t->most);
	if (!good) {
		snprintf(why, size, "option '%s': '%s' is not %s%s", t->name, value,
			t->kind == CHOICE  ? "one of "
			: t->kind == BYTES ? "a size such as 512MiB, 64MiB at least"
			: t->kind == TIME  ? "a time such as 30s, from 100ms to 24h"
					   : "a number in its range",
			t->kind == CHOICE ? t->value : "");
		return -1;
	}
	value_put(o, t, number);
	return 0;
}

/* ---- all of it ---- */

static int list_take(struct options *o, char *list, char *why, size_t size)
{
	int err = 0;

	while (err == 0 && list) {
		char *comma = strchr(list, ',');
		if (comma) *comma++ = '\0';
		if (*list) err = option_take(o, list, why, size);
		list = comma;
	}
	return err;
}

/* More than one a CPU costs more than it gives: a request that waits for the server keeps no thread. */
static uint32_t threads_usual(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	return cpus < 2 ? 2 : cpus > 256 ? 256 : (uint32_t)cpus;
}

int options_read(int argc, char **argv, struct options *o, char *why, size_t size)
{
	int err = 0;

	*o = (struct options){ .uid = OWNER_NONE,
		.gid = OWNER_NONE,
		.deadline_ms = 30000,
		.threads = threads_usual(),
		.connections = 2,
		.memory = UINT64_C(512) << 20 };
	for (int i = 1; err == 0 && i < argc; i++) {
		char *arg = argv[i];
		if (strcmp(arg, "-h") == 0)
			o->help = true;
		else if (strcmp(arg, "-t") == 0 || strcmp(arg, "-N") == 0)
			i++; /* mount(8) adds these with a word each, and flags: be quiet, keep no table */
		else if (arg[0] == '-' && arg[1] != '\0' && strspn(arg + 1, "snv") == strlen(arg + 1))
			continue;
		else if (strncmp(arg, "-o", 2) == 0 && (arg[2] || i + 1 < argc))
			err = list_take(o, arg[2] ? arg + 2 : argv[++i], why, size);
		else if (strncmp(arg, "--", 2) == 0)
			err = option_take(o, arg + 2, why, size);
		else if (arg[0] == '-') {
			snprintf(why, size, "unknown option '%s'; --help lists them", arg);
			err = -1;
		} else if (!o->url)
			o->url = arg;
		else if (!o->target)
			o->target = arg;
		else {
			snprintf(why, size, "'%s': one address and one directory are wanted", arg);
			err = -1;
		}
	}
	if (err == 0 && !o->help && !o->version && !(o->unmount ? o->url : o->target)) {
		snprintf(why, size,
			"usage: granary-mount granary://HOST/BUCKET[@SNAPSHOT][/PATH] DIR [-o OPTION,...]; "
			"--help lists options");
		err = -1;
	}
	return err;
}

/* In lines of 80 columns. */
static void help_line(const char *left, const char *text)
{
	enum { LEFT = 33, LINE = 80 };
	size_t at = (size_t)printf("  %-30s", left);

	while (*text) {
		size_t len = strcspn(text, " ");
		if (at + 1 + len > LINE) {
			printf("\n%*s", LEFT - 1, "");
			at = LEFT - 1;
		}
		printf(" %.*s", (int)len, text);
		at += 1 + len;
		text += len + strspn(text + len, " ");
	}
	printf("\n");
}

uint32_t options_uid(const struct options *o) { return o->uid != OWNER_NONE ? o->uid : (uint32_t)getuid(); }
uint32_t options_gid(const struct options *o) { return o->gid != OWNER_NONE ? o->gid : (uint32_t)getgid(); }

uint64_t options_valid_s(const struct options *o)
{
	static const uint64_t seconds[] = { 1, 10, UINT64_C(1) << 40 };

	return seconds[o->preset];
}

unsigned options_count(void)
{
	unsigned count = 0;

	for (int i = 0; i < COUNT; i++) count += table[i].kind != ACTION && table[i].kind != IGNORED;
	return count;
}

void options_help(void)
{
	printf("granary-mount URL DIR [-o OPTION[,OPTION...]] [--OPTION...]\n"
	       "Mounts a bucket, granary://HOST/BUCKET, or, read-only, a snapshot, granary://HOST/BUCKET@NAME, or a\n"
	       "directory of one. `granary mount` and `mount -t granary URL DIR` do the same.\n\n");
	for (int i = 0; i < COUNT; i++) {
		char left[64];
		if (!table[i].help) continue;
		if (table[i].kind == ACTION && table[i - 1].kind != ACTION) printf("\nWith -- only:\n");
		snprintf(left, sizeof(left), "%s%s%s", table[i].name, table[i].value ? "=" : "",
			table[i].value ? table[i].value : "");
		help_line(left, table[i].help);
	}
	printf("\nUnmount: granary umount DIR, or umount DIR.\n"
	       "Exit codes: 0 mounted, 1 could not, 2 wrong usage.\n");
}
