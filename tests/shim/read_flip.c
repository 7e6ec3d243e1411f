/* SPDX-License-Identifier: Apache-2.0 */
/* read_flip.c -- damages what a process reads by descriptor: every READ_FLIP_EVERY-th preadv2() made through syscall()
 * that reads more than one byte has a bit of its first byte flipped. The file is as it was. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>

long syscall(long number, ...);

static _Atomic unsigned long calls;

__attribute__((visibility("default"))) long syscall(long number, ...)
{
	static long (*real)(long, long, long, long, long, long, long);
	const char *every = getenv("READ_FLIP_EVERY");
	long args[6];
	va_list ap;

	if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "syscall");
	va_start(ap, number);
	for (int i = 0; i < 6; i++) args[i] = va_arg(ap, long);
	va_end(ap);
	long n = real(number, args[0], args[1], args[2], args[3], args[4], args[5]);
	if (number == SYS_preadv2 && n > 1 && every != NULL && ++calls % strtoul(every, NULL, 10) == 0)
		*(unsigned char *)((const struct iovec *)args[1])->iov_base ^= 1;
	return n;
}
