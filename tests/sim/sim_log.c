/* SPDX-License-Identifier: Apache-2.0 */
/* sim_log.c -- common/log.h for simulations. */
#include "sim/sim_log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"

enum { LINES = 64, LINE_SIZE = 300 };

static char lines[LINES][LINE_SIZE];
static unsigned next_line;
static bool is_kept;

void sim_log_keep(void)
{
	is_kept = true;
}
void sim_log_clear(void)
{
	next_line = 0;
}

void sim_log_print(void)
{
	for (unsigned i = next_line > LINES ? next_line - LINES : 0; i < next_line; i++)
		fprintf(stderr, "  log: %s\n", lines[i % LINES]);
}

void log_set_level(enum log_level level)
{
	(void)level;
}

int log_level_parse(const char *name, enum log_level *out)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };

	for (int i = 0; i < 4; i++)
		if (strcmp(name, names[i]) == 0) {
			*out = (enum log_level)i;
			return 0;
		}
	return -GRANARY_EINVAL;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	if (level > LOG_WARN) return;
	va_start(ap, fmt);
	vsnprintf(lines[next_line % LINES], LINE_SIZE, fmt, ap);
	va_end(ap);
	if (!is_kept) fprintf(stderr, "%s\n", lines[next_line % LINES]);
	next_line++;
}
