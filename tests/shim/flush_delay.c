/* SPDX-License-Identifier: Apache-2.0 */
/* flush_delay.c -- preloaded: every fsync and fdatasync of the process takes FLUSH_DELAY_US microseconds
 * longer, as on a
 * drive without power-loss protection. io_uring's flushes do not pass here: server/io has its own delay. */
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void delay(void)
{
	const char *text = getenv("FLUSH_DELAY_US");
	long us = text ? strtol(text, NULL, 10) : 0;
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };
	if (us > 0) nanosleep(&t, NULL);
}

__attribute__((visibility("default"))) int fsync(int fd)
{
	static int (*real)(int);
	if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fsync");
	delay();
	return real(fd);
}

__attribute__((visibility("default"))) int fdatasync(int fd)
{
	static int (*real)(int);
	if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
	delay();
	return real(fd);
}
