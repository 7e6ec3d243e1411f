/* SPDX-License-Identifier: Apache-2.0 */
/* net.c -- which engine a client runs on, and the system calls that all engines share. */
#include "net.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"
#include "common/wire.h"
#include "granary/granary.h"
#include "local.h"

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

/* More than there is room for are nobody's. */
static void passed_keep(struct passed *passed, struct msghdr *msg)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
		size_t len = h->cmsg_len - CMSG_LEN(0);
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; at + sizeof(int) <= len; at += sizeof(int)) {
			int got;
			memcpy(&got, CMSG_DATA(h) + at, sizeof(got));
			if (passed->count < PASSED_MAX)
				passed->fds[passed->count++] = got;
			else
				close(got);
		}
	}
}

ssize_t net_readv(struct net *net, int fd, struct iovec *iov, int count, struct passed *passed)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)count };
	ssize_t n;

	(void)net;
	if (passed) {
		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
	}
	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -GRANARY_EAGAIN : error_from_errno(errno);
	if (passed && msg.msg_controllen > 0)
		passed_keep(passed, &msg);
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
