/* SPDX-License-Identifier: Apache-2.0 */
/* read_delay.c -- preloaded into a server that runs the `threads` engine: a read of 64 KiB or more takes
 * READ_DELAY_US_PER_MIB microseconds a MiB longer, so that the disk is what everybody waits for. */
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

static void delay(size_t len)
{
	const char *text = getenv("READ_DELAY_US_PER_MIB");
	long us = text && len >= 65536 ? (long)(strtod(text, NULL) * (double)len / 1048576) : 0;
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };
	if (us > 0) nanosleep(&t, NULL);
}

ssize_t pread64(int fd, void *buf, size_t len, off_t offset);
ssize_t __pread64_chk(int fd, void *buf, size_t len, off_t offset, size_t room);

__attribute__((visibility("default"))) ssize_t pread64(int fd, void *buf, size_t len, off_t offset)
{
	static ssize_t (*real)(int, void *, size_t, off_t);
	if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pread64");
	delay(len);
	return real(fd, buf, len, offset);
}

__attribute__((visibility("default"))) ssize_t __pread64_chk(int fd, void *buf, size_t len, off_t offset, size_t room)
{
	(void)room;
	return pread64(fd, buf, len, offset);
}
