/* SPDX-License-Identifier: Apache-2.0 */
/* out.c -- what the command says: errors with their exit codes, JSON lines, tables, sizes and times for people. Data
 * goes to standard output, all else to standard error. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/name.h"

enum { TABLE_ROWS_HELD = 1000, MESSAGE_MAX = 4096 };

void *must_alloc(void *block)
{
	if (block == NULL) {
		fputs("granary: out of memory\n", stderr);
		exit(CLI_FAILED);
	}
	return block;
}

bool stdout_is_tty(void)
{
	return isatty(STDOUT_FILENO) == 1;
}

bool stderr_is_tty(void)
{
	return isatty(STDERR_FILENO) == 1;
}

const char *shown(const char *name)
{
	enum { BUFFERS = 8 };
	static _Thread_local char buffers[BUFFERS][1200];
	static _Thread_local unsigned next;
	char *buf = buffers[next++ % BUFFERS];

	return name_escape(buf, sizeof(buffers[0]), slice_of(name, strlen(name)));
}

/* ---- errors -------------------------------------------------------------------------------- */

int exit_of(int err)
{
	switch (-err) {
	case 0: return CLI_OK;
	case GRANARY_ENOTFOUND:
	case GRANARY_ENOBUCKET:
	case GRANARY_ESTALE: return CLI_NOTFOUND;
	case GRANARY_EACCESS:
	case GRANARY_EAUTH: return CLI_DENIED;
	case GRANARY_ENAME: return CLI_USAGE;
	default: return CLI_FAILED;
	}
}

int exit_of_errno(int errnum)
{
	switch (errnum) {
	case 0: return CLI_OK;
	case ENOENT: return CLI_NOTFOUND;
	case EACCES:
	case EPERM: return CLI_DENIED;
	default: return CLI_FAILED;
	}
}

/* One line, whole, so that lines of several threads do not mix. */
static void say_error(const char *code_name, const char *text)
{
	bool red = !opts.no_color && stderr_is_tty() && getenv("NO_COLOR") == NULL;
	struct json j;

	flockfile(stderr);
	if (opts.json) {
		json_open(&j, stderr);
		json_text(&j, "error", text);
		if (code_name != NULL) json_text(&j, "code", code_name);
		json_close(&j);
	} else {
		fprintf(stderr, "%s%sgranary: %s%s\n", red ? "\r\033[K" : "", red ? "\033[31m" : "",
			text, red ? "\033[0m" : "");
	}
	funlockfile(stderr);
}

int fail(int code, const char *format, ...)
{
	char text[MESSAGE_MAX];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	say_error(code == CLI_USAGE ? "USAGE" : NULL, text);
	return code;
}

int fail_errno(int errnum, const char *format, ...)
{
	char what[MESSAGE_MAX], text[MESSAGE_MAX + 128], buf[128];
	va_list ap;

	va_start(ap, format);
	vsnprintf(what, sizeof(what), format, ap);
	va_end(ap);
	snprintf(text, sizeof(text), "%s: %s", what, strerror_r(errnum, buf, sizeof(buf)));
	say_error(NULL, text);
	return exit_of_errno(errnum);
}

/* What usually helps, where the library's text cannot know it. */
static const char *hint_of(int err)
{
	switch (-err) {
	case GRANARY_EAUTH:
		return "; give the key's file with --credentials or GRANARY_CREDENTIALS";
	case GRANARY_EACCESS: return "; `granary key ls` shows what a key may do";
	case GRANARY_ENOBUCKET: return "; `granary bucket ls` shows those there are";
	case GRANARY_EUNREACHABLE: return "; is granaryd running there?";
	case GRANARY_EISDIR: return "; try -r";
	default: return "";
	}
}

/* The library says "'NAME': cause" where we have named it already: only the cause is news then. */
static const char *cause_of(const char *own, const char *what)
{
	const char *end = own[0] == '\'' ? strstr(own, "': ") : NULL;
	char name[GRANARY_KEY_LEN_MAX + 1];

	if (end == NULL || (size_t)(end - own) > sizeof(name)) return own;
	snprintf(name, sizeof(name), "%.*s", (int)(end - own - 1), own + 1);
	return strstr(what, name) != NULL ? end + 3 : own;
}

static int say_remote(int err, const char *own, const char *what)
{
	char text[2 * MESSAGE_MAX];
	const char *cause = own[0] != '\0' ? cause_of(own, what) : granary_strerror(err);
	bool is_bare = strcmp(cause, granary_strerror(err)) == 0; /* else it has its own advice */

	snprintf(text, sizeof(text), "%s: %s%s", what, cause, is_bare ? hint_of(err) : "");
	say_error(granary_error_name(err), text);
	return exit_of(err);
}

int fail_remote(struct granary_client *client, int err, const char *format, ...)
{
	char what[MESSAGE_MAX];
	va_list ap;

	va_start(ap, format);
	vsnprintf(what, sizeof(what), format, ap);
	va_end(ap);
	return say_remote(err, granary_last_error(client), what);
}

int fail_text(int err, const char *text, const char *format, ...)
{
	char what[MESSAGE_MAX];
	va_list ap;

	va_start(ap, format);
	vsnprintf(what, sizeof(what), format, ap);
	va_end(ap);
	return say_remote(err, text, what);
}

void note(const char *format, ...)
{
	char text[MESSAGE_MAX];
	va_list ap;

	if (opts.quiet || opts.json) return;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	fprintf(stderr, "%s\n", text);
}

int ask(const char *format, ...)
{
	char text[MESSAGE_MAX], answer[16];
	va_list ap;

	if (opts.yes) return CLI_OK;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	if (isatty(STDIN_FILENO) != 1) {
		return fail(CLI_USAGE,
			"%s? nobody can be asked here: say --yes, or --dry-run to see what it "
			"would do",
			text);
	}
	fprintf(stderr, "%s? [y/N] ", text);
	if (fgets(answer, sizeof(answer), stdin) != NULL && (answer[0] == 'y' || answer[0] == 'Y'))
		return CLI_OK;
	return fail(CLI_FAILED, "not done");
}

int output_close(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout)) return CLI_OK;
	return fail_errno(errno, "cannot write standard output");
}

/* ---- JSON ---------------------------------------------------------------------------------- */

/* Writes a JSON string; bytes that are no UTF-8 become U+FFFD. */
static void json_string(FILE *file, const char *text)
{
	const unsigned char *p = (const unsigned char *)text;

	fputc('"', file);
	while (*p != '\0') {
		size_t len = *p < 0x80 ? 1 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4;
		if (*p == '"' || *p == '\\') {
			fprintf(file, "\\%c", *p);
		} else if (*p < 0x20 || *p == 0x7f) {
			fprintf(file, "\\u%04x", *p);
		} else if (strnlen((const char *)p, len) < len || !utf8_valid(slice_of(p, len))) {
			fputs("\\ufffd", file);
			len = 1;
		} else {
			fwrite(p, 1, len, file);
		}
		p += len;
	}
	fputc('"', file);
}

static void json_name(struct json *j, const char *name)
{
	if (!j->first) fputc(',', j->file);
	j->first = false;
	json_string(j->file, name);
	fputc(':', j->file);
}

void json_open(struct json *j, FILE *file)
{
	j->file = file;
	j->first = true;
	fputc('{', file);
}

void json_close(struct json *j)
{
	fputs("}\n", j->file);
}

void json_text(struct json *j, const char *name, const char *value)
{
	json_name(j, name);
	json_string(j->file, value);
}

void json_number(struct json *j, const char *name, uint64_t value)
{
	json_name(j, name);
	fprintf(j->file, "%" PRIu64, value);
}

void json_real(struct json *j, const char *name, double value)
{
	json_name(j, name);
	fprintf(j->file, "%.6f", value);
}

void json_flag(struct json *j, const char *name, bool value)
{
	json_name(j, name);
	fputs(value ? "true" : "false", j->file);
}

void json_time(struct json *j, const char *name, uint64_t ns)
{
	time_t seconds = (time_t)(ns / 1000000000u);
	char day[40];
	struct tm tm;

	json_name(j, name);
	if (ns == 0 || gmtime_r(&seconds, &tm) == NULL) {
		fputs("null", j->file);
		return;
	}
	strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
	fprintf(j->file, "\"%s.%09" PRIu64 "Z\"", day, ns % 1000000000u);
}

void json_array(struct json *j, const char *name)
{
	json_name(j, name);
	fputc('[', j->file);
	j->first = true;
}

void json_item(struct json *j, const char *value)
{
	if (!j->first) fputc(',', j->file);
	j->first = false;
	json_string(j->file, value);
}

void json_array_end(struct json *j)
{
	fputc(']', j->file);
	j->first = false;
}

/* ---- tables -------------------------------------------------------------------------------- */

void table_init(struct table *t, uint32_t columns, uint32_t right)
{
	memset(t, 0, sizeof(*t));
	t->columns = columns;
	t->right = right;
}

/* Columns a text takes: its characters, not its bytes. */
static uint32_t text_width(const char *text)
{
	uint32_t width = 0;

	for (; *text != '\0'; text++) width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

static void table_print(struct table *t)
{
	for (uint32_t i = 0; i < t->rows; i++) {
		uint32_t last = t->columns; /* no blanks at the end of a line */
		while (last > 1 && t->cells[i * t->columns + last - 1][0] == '\0') last--;
		for (uint32_t c = 0; c < t->columns; c++) {
			char *cell = t->cells[i * t->columns + c];
			int pad = (int)(t->width[c] - text_width(cell));
			if (c > 0 && c < last) fputs("  ", stdout);
			if (t->right >> c & 1 && c < last)
				printf("%*s%s", pad, "", cell);
			else if (c + 1 < last)
				printf("%s%*s", cell, pad, "");
			else if (c < last)
				fputs(cell, stdout);
			free(cell);
		}
		fputc('\n', stdout);
	}
	t->rows = 0;
}

void table_row(struct table *t, const char *const *cells)
{
	if (t->rows == TABLE_ROWS_HELD) table_print(t);
	if (t->rows == t->cap) {
		t->cap = t->cap == 0 ? 32 : t->cap * 2;
		t->cells = must_alloc(
			realloc(t->cells, (size_t)t->cap * t->columns * sizeof(*t->cells)));
	}
	for (uint32_t c = 0; c < t->columns; c++) {
		uint32_t width = text_width(cells[c]);
		t->cells[t->rows * t->columns + c] = must_alloc(strdup(cells[c]));
		if (width > t->width[c]) t->width[c] = width;
	}
	t->rows++;
}

void table_end(struct table *t)
{
	table_print(t);
	free(t->cells);
	t->cells = NULL;
}

/* ---- for people ---------------------------------------------------------------------------- */

const char *human_bytes(char buf[TEXT_SHORT], uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	unsigned u = 0;

	while (value >= 999.5 && u < 6) {
		value /= 1024;
		u++;
	}
	snprintf(buf, TEXT_SHORT, u > 0 && value < 99.95 ? "%.1f %s" : "%.0f %s", value, units[u]);
	return buf;
}

const char *human_count(char buf[TEXT_SHORT], uint64_t count)
{
	char digits[24];
	int len = snprintf(digits, sizeof(digits), "%" PRIu64, count), at = 0;

	for (int i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0) buf[at++] = ',';
		buf[at++] = digits[i];
	}
	buf[at] = '\0';
	return buf;
}

const char *human_time(char buf[TEXT_SHORT], uint64_t ns)
{
	time_t seconds = (time_t)(ns / 1000000000u);
	struct tm tm;

	if (ns == 0 || localtime_r(&seconds, &tm) == NULL ||
		strftime(buf, TEXT_SHORT, "%Y-%m-%d %H:%M", &tm) == 0)
		snprintf(buf, TEXT_SHORT, "-");
	return buf;
}

const char *human_seconds(char buf[TEXT_SHORT], double seconds)
{
	uint64_t s = seconds < 0 || seconds > 1e15 ? 0 : (uint64_t)seconds;

	if (seconds < 10)
		snprintf(buf, TEXT_SHORT, "%.1fs", seconds);
	else if (s < 60)
		snprintf(buf, TEXT_SHORT, "%" PRIu64 "s", s);
	else if (s < 3600)
		snprintf(buf, TEXT_SHORT, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(buf, TEXT_SHORT, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
	else
		snprintf(buf, TEXT_SHORT, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s / 3600 % 24);
	return buf;
}

const char *kind_text(uint32_t kind, char *letter)
{
	static const char *const names[] = { "?", "file", "dir", "dir", "symlink", "fifo", "socket", "char device",
		"block device" };
	static const char letters[] = "?-ddlpscb";

	if (kind > GRANARY_BLOCK) kind = 0;
	*letter = letters[kind];
	return names[kind];
}

const char *mode_text(char buf[TEXT_SHORT], char kind, uint32_t mode)
{
	static const char letters[] = "rwxrwxrwx";

	buf[0] = kind;
	for (unsigned i = 0; i < 9; i++) buf[1 + i] = mode >> (8 - i) & 1 ? letters[i] : '-';
	buf[10] = '\0';
	return buf;
}
