/* SPDX-License-Identifier: Apache-2.0 */
/* log.c -- formats one event into a fixed line and writes it with one call, so that lines of two
 * threads never mix. "what failed; key=value" becomes msg="what failed" key=value. */
#include "common/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "granary/error.h"

enum { LOG_TEXT_MAX = 2048, LOG_LINE_MAX = 4 * LOG_TEXT_MAX + 128 };

static const char *const log_names[] = {
	[LOG_ERROR] = "error", [LOG_WARN] = "warn", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"
};
static atomic_int log_level_now = LOG_INFO;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_level_now, (int)level, memory_order_relaxed);
}

int log_level_parse(const char *name, enum log_level *out)
{
	for (size_t i = 0; i < sizeof(log_names) / sizeof(log_names[0]); i++) {
		if (strcmp(name, log_names[i]) == 0) {
			*out = (enum log_level)i;
			return 0;
		}
	}
	return -GRANARY_EINVAL;
}

/* Where the key=value part starts: after the last "; " that a name and '=' follow; NULL when there
 * is none. */
static char *log_fields(char *text)
{
	for (char *p = text + strlen(text); p > text; p--) {
		if (p[-1] != ';' || p[0] != ' ')
			continue;
		const char *q = p + 1;
		while (isalnum((unsigned char)*q) || *q == '_')
			q++;
		if (q > p + 1 && *q == '=')
			return p - 1;
	}
	return NULL;
}

/* Appends text to a line, control characters (in msg="" also quotes and backslashes) escaped. */
static size_t log_append(char *line, size_t at, const char *text, bool quoted)
{
	static const char hex[] = "0123456789abcdef";

	for (; *text && at + 4 < LOG_LINE_MAX - 2; text++) {
		unsigned char c = (unsigned char)*text;
		if (c < 0x20 || c == 0x7f) {
			line[at++] = '\\';
			line[at++] = 'x';
			line[at++] = hex[c >> 4];
			line[at++] = hex[c & 15];
			continue;
		}
		if (quoted && (c == '"' || c == '\\'))
			line[at++] = '\\';
		line[at++] = (char)c;
	}
	return at;
}

static size_t log_prefix(char *line, enum log_level level)
{
	struct timespec ts;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	size_t n = strftime(line, 32, "%Y-%m-%dT%H:%M:%S", &tm);
	int more = snprintf(line + n, LOG_LINE_MAX - n, ".%03ldZ level=%s msg=\"",
		ts.tv_nsec / 1000000, log_names[level]);
	return n + (size_t)more;
}

static void log_emit(const char *line, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDERR_FILENO, line, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* nowhere left to say it */
		line += n;
		len -= (size_t)n;
	}
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char text[LOG_TEXT_MAX];
	char line[LOG_LINE_MAX];
	int saved_errno = errno;
	va_list ap;

	if ((int)level > atomic_load_explicit(&log_level_now, memory_order_relaxed))
		return;
	va_start(ap, fmt);
	int len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (len < 0)
		return;
	if ((size_t)len >= sizeof(text))
		memcpy(text + sizeof(text) - 4, "...", 4);

	char *fields = log_fields(text);
	if (fields)
		*fields = '\0';
	size_t at = log_append(line, log_prefix(line, level), text, true);
	line[at++] = '"';
	if (fields)
		at = log_append(line, at, fields + 1, false); /* with its leading space */
	line[at++] = '\n';
	log_emit(line, at);
	errno = saved_errno;
}
