/* SPDX-License-Identifier: Apache-2.0 */
/* net.h -- what the client asks of the kernel about its few sockets: one small table, epoll (net_epoll.c) and
 * io_uring (net_uring.c) behind it. All but opening and closing is called by the client's thread only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct net;
struct passed;

struct net_event {
	void *owner;
	bool readable, writable; /* an error or the end is both */
};

struct net_engine {
	const char *name;
	struct net *(*open)(void); /* NULL, errno says why */
	void (*close)(struct net *net);
	void (*forget)(struct net *net); /* in a forked child: descriptors only */
	/* Readiness of a descriptor for `owner`; level-triggered; again to change `write`. 0 or -GRANARY_E... */
	int (*watch)(struct net *net, int fd, void *owner, bool write, bool again);
	void (*unwatch)(struct net *net, int fd);
	int (*wait)(struct net *net, struct net_event *events, int max, int timeout_ms); /* events */
	/* Bytes, 0 at the end (reading), or -GRANARY_EAGAIN and other codes. */
	/* With a place for them, descriptors that come along are taken, as far as there is room. */
	ssize_t (*readv)(struct net *net, int fd, struct iovec *iov, int count, struct passed *passed);
	ssize_t (*writev)(struct net *net, int fd, struct iovec *iov, int count);
};

extern const struct net_engine net_epoll, net_uring;

/* Opens the engine for `wanted`, an enum granary_engine. 0, or an error with its text in `why`. */
int net_open(uint32_t wanted, const struct net_engine **engine, struct net **net, char *why, size_t why_size);
/* readv and writev by system calls on the socket. */
ssize_t net_readv(struct net *net, int fd, struct iovec *iov, int count, struct passed *passed);
ssize_t net_writev(struct net *net, int fd, struct iovec *iov, int count);
