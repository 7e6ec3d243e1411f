/* SPDX-License-Identifier: Apache-2.0 */
/* read_flip.c -- damages what a process reads by descriptor: every READ_FLIP_EVERY-th preadv2() of more than one byte
 * that succeeds has a bit of its first byte flipped. The file is as it was. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/uio.h>

ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags);

static _Atomic unsigned long calls;

__attribute__((visibility("default")))
ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
	static ssize_t (*real)(int, const struct iovec *, int, off64_t, int);
	const char *every = getenv("READ_FLIP_EVERY");

	if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "preadv64v2");
	ssize_t n = real(fd, iov, count, offset, flags);
	if (n > 1 && every != NULL && ++calls % strtoul(every, NULL, 10) == 0) *(unsigned char *)iov[0].iov_base ^= 1;
	return n;
}
