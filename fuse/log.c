/* SPDX-License-Identifier: Apache-2.0 */
/* log.c -- what granary-mount says. */
#include "fuse/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <syslog.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048 };
static atomic_bool detached;

void log_say(const char *format, ...)
{
	char line[LINE_MAX_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (atomic_load(&detached))
		syslog(LOG_WARNING, "%s", line);
	else
		fprintf(stderr, "granary-mount: %s\n", line);
}

void log_detach(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	openlog("granary-mount", LOG_PID, LOG_DAEMON);
	atomic_store(&detached, true);
	for (int fd = 0; null >= 0 && fd <= 2; fd++)
		if (dup2(null, fd) < 0) return;
	if (null > 2) close(null);
}
