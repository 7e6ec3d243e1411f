/* SPDX-License-Identifier: Apache-2.0 */
/* clock_jump.c -- preloaded: wall-clock time is off by as many seconds as the file named by CLOCK_JUMP_FILE says, which
 * may change while the process runs. Monotonic and boot time are untouched, as when somebody sets the clock; boot time
 * is off by what the file named by CLOCK_JUMP_BOOT_FILE says, as when that time went by. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SYMBOL(name) __asm__(#name) __attribute__((visibility("default")))

static int64_t jump_s(const char *name)
{
	const char *path = getenv(name);
	char text[32] = "";
	int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return 0;
	long n = syscall(SYS_read, fd, text, sizeof(text) - 1);
	syscall(SYS_close, fd);
	return n > 0 ? strtoll(text, NULL, 10) : 0;
}

int cj_clock_gettime(clockid_t id, struct timespec *t) SYMBOL(clock_gettime);
int cj_clock_gettime(clockid_t id, struct timespec *t)
{
	int res = (int)syscall(SYS_clock_gettime, id, t);

	if (res == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI))
		t->tv_sec += jump_s("CLOCK_JUMP_FILE");
	if (res == 0 && id == CLOCK_BOOTTIME)
		t->tv_sec += jump_s("CLOCK_JUMP_BOOT_FILE");
	return res;
}

int cj_gettimeofday(struct timeval *t, void *zone) SYMBOL(gettimeofday);
int cj_gettimeofday(struct timeval *t, void *zone)
{
	struct timespec now;
	int res = cj_clock_gettime(CLOCK_REALTIME, &now);

	(void)zone;
	*t = (struct timeval){ now.tv_sec, now.tv_nsec / 1000 };
	return res;
}

time_t cj_time(time_t *out) SYMBOL(time);
time_t cj_time(time_t *out)
{
	struct timespec now;

	cj_clock_gettime(CLOCK_REALTIME, &now);
	if (out != NULL)
		*out = now.tv_sec;
	return now.tv_sec;
}
