/* SPDX-License-Identifier: Apache-2.0 */
/* service.c -- a unit of systemd (systemd.mount(5), names as systemd-escape(1) makes them), a line of fstab(5). */
#include "fuse/service.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_CAP = 4096 };

/* Of a path: its slashes become dashes, what is no letter, digit, colon, dot or underscore \xNN; "-" for the root. */
static void print_unit_name(FILE *to, const char *path)
{
	const char *at = path + strspn(path, "/");

	if (*at == '\0') fputc('-', to);
	for (const char *c = at; *c; c++) {
		if (*c == '/')
			fputs(c[1] && c[1] != '/' ? "-" : "", to);
		else if (isalnum((unsigned char)*c) || *c == ':' || *c == '_' || (*c == '.' && c > at))
			fputc(*c, to);
		else
			fprintf(to, "\\x%02x", (unsigned char)*c);
	}
	fputs(".mount", to);
}

/* A % begins a specifier. */
static void print_unit_text(FILE *to, const char *text)
{
	for (; *text; text++) fprintf(to, *text == '%' ? "%%%%" : "%c", *text);
}

void service_unit(const struct options *o, const char *target)
{
	printf("# /etc/systemd/system/");
	print_unit_name(stdout, target);
	printf(" -- then: systemctl daemon-reload && systemctl enable --now ");
	print_unit_name(stdout, target);
	printf("\n[Unit]\nDescription=Granary ");
	print_unit_text(stdout, o->url);
	printf("\nWants=network-online.target\nAfter=network-online.target\nBefore=remote-fs.target\n\n[Mount]\nWhat=");
	print_unit_text(stdout, o->url);
	printf("\nWhere=");
	print_unit_text(stdout, target);
	printf("\nType=granary\nOptions=_netdev%s", o->given[0] ? "," : "");
	print_unit_text(stdout, o->given);
	printf("\n\n[Install]\nWantedBy=remote-fs.target\n");
}

/* ---- fstab ---- */

static void print_fstab_text(FILE *to, const char *text)
{
	for (; *text; text++) {
		if (strchr(" \t\n\\#", *text))
			fprintf(to, "\\%03o", (unsigned char)*text);
		else
			fputc(*text, to);
	}
}

/* Is it the line of this directory? */
static bool line_is_of(const char *line, const char *target)
{
	char *word = NULL;
	FILE *f = NULL;
	size_t size = 0;
	bool same = false;
	const char *at = line + strspn(line, " \t");

	if (*at == '#' || *at == '\n' || *at == '\0') return false;
	at += strcspn(at, " \t");
	at += strspn(at, " \t");
	f = open_memstream(&word, &size);
	if (!f) return false;
	print_fstab_text(f, target);
	fclose(f);
	same = strcspn(at, " \t\n") == size && memcmp(at, word, size) == 0;
	free(word);
	return same;
}

/* Copies what stays, and adds the line. */
static bool fstab_write(FILE *from, FILE *to, const struct options *o, const char *target)
{
	char *line = NULL;
	size_t cap = 0;
	bool ends = true;

	while (from && getline(&line, &cap, from) > 0) {
		if (line_is_of(line, target)) continue;
		fputs(line, to);
		ends = line[strlen(line) - 1] == '\n';
	}
	free(line);
	if (!ends) fputc('\n', to);
	print_fstab_text(to, o->url);
	fputc(' ', to);
	print_fstab_text(to, target);
	fputs(" granary _netdev,nofail", to);
	if (o->given[0]) fputc(',', to);
	print_fstab_text(to, o->given);
	fputs(" 0 0\n", to);
	return !(from && ferror(from)) && fflush(to) == 0 && !ferror(to) && fsync(fileno(to)) == 0;
}

int service_fstab(const struct options *o, const char *target, char *why, size_t why_size)
{
	const char *named = getenv("LIBMOUNT_FSTAB"), *path = named && *named ? named : "/etc/fstab";
	char part[PATH_CAP];
	struct stat st = { .st_mode = 0644 };
	FILE *from = fopen(path, "re");
	int fd = -1;

	if (!from && errno != ENOENT) {
		snprintf(why, why_size, "cannot read %.300s: %s", path, strerror(errno));
		return -1;
	}
	if (from) fstat(fileno(from), &st);
	if (snprintf(part, sizeof(part), "%s.granary", path) < (int)sizeof(part))
		fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, st.st_mode & 0777);
	FILE *to = fd >= 0 ? fdopen(fd, "w") : NULL;
	bool good = to && fstab_write(from, to, o, target);
	int error = errno;
	if (to) fclose(to);
	if (from) fclose(from);
	if (good && rename(part, path) == 0) return 0;
	error = good ? errno : error;
	if (fd >= 0) unlink(part);
	snprintf(why, why_size, "cannot write %.300s: %s", path, strerror(error));
	return -1;
}
