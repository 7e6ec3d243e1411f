/* SPDX-License-Identifier: Apache-2.0 */
/* net.c -- which engine a client runs on, and the system calls that all engines share. */
#include "net.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/error.h"
#include "granary/granary.h"

static int open_failed(const struct net_engine *engine, char *why, size_t why_size)
{
	int posix = errno;
	bool forbidden = posix == ENOSYS || posix == EPERM || posix == EACCES || posix == EINVAL || posix == EOPNOTSUPP;

	snprintf(why, why_size, "engine %s: %s%s", engine->name, strerror(posix),
		engine == &net_uring && forbidden ? "; this kernel has no io_uring that this process may use: "
		"choose GRANARY_ENGINE_AUTO or GRANARY_ENGINE_EPOLL" : "");
	return engine == &net_uring && forbidden ? -GRANARY_EUNSUPPORTED : error_from_errno(posix);
}

int net_open(uint32_t wanted, const struct net_engine **engine, struct net **net, char *why, size_t why_size)
{
	*engine = wanted == GRANARY_ENGINE_URING ? &net_uring : &net_epoll;
	*net = (*engine)->open();
	return *net ? 0 : open_failed(*engine, why, why_size);
}

ssize_t net_readv(struct net *net, int fd, struct iovec *iov, int count)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)count };
	ssize_t n;

	(void)net;
	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -GRANARY_EAGAIN : error_from_errno(errno);
	return n;
}

ssize_t net_writev(struct net *net, int fd, struct iovec *iov, int count)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)count };
	ssize_t n;

	(void)net;
	do
		n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -GRANARY_EAGAIN : error_from_errno(errno);
	return n;
}
