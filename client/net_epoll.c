/* SPDX-License-Identifier: Apache-2.0 */
/* net_epoll.c -- the engine that runs everywhere. */
#include "net.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/error.h"

enum { EVENTS_MAX = 64 };

struct net {
	int fd;
	struct epoll_event events[EVENTS_MAX];
};

static struct net *epoll_open(void)
{
	struct net *net = calloc(1, sizeof(*net));

	if (!net)
		return NULL;
	net->fd = epoll_create1(EPOLL_CLOEXEC);
	if (net->fd < 0) {
		free(net);
		return NULL;
	}
	return net;
}

static void epoll_close(struct net *net)
{
	close(net->fd);
	free(net);
}

static int epoll_watch(struct net *net, int fd, void *owner, bool write, bool again)
{
	struct epoll_event ev = { .events = EPOLLIN | (write ? EPOLLOUT : 0u), .data.ptr = owner };

	return epoll_ctl(net->fd, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev) < 0 ? error_from_errno(errno) : 0;
}

static void epoll_unwatch(struct net *net, int fd)
{
	epoll_ctl(net->fd, EPOLL_CTL_DEL, fd, NULL);
}

static int epoll_sleep(struct net *net, struct net_event *events, int max, int timeout_ms)
{
	int n = epoll_wait(net->fd, net->events, max < EVENTS_MAX ? max : EVENTS_MAX, timeout_ms);

	for (int i = 0; i < n; i++) {
		uint32_t e = net->events[i].events;
		events[i] = (struct net_event){
			.owner = net->events[i].data.ptr,
			.readable = e & (EPOLLIN | EPOLLERR | EPOLLHUP),
			.writable = e & (EPOLLOUT | EPOLLERR | EPOLLHUP),
		};
	}
	return n < 0 ? 0 : n;
}

const struct net_engine net_epoll = {
	.name = "epoll",
	.open = epoll_open,
	.close = epoll_close,
	.forget = epoll_close,
	.watch = epoll_watch,
	.unwatch = epoll_unwatch,
	.wait = epoll_sleep,
	.readv = net_readv,
	.writev = net_writev,
};
