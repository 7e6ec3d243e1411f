/* SPDX-License-Identifier: Apache-2.0 */
/* net.h -- what the client asks of the kernel about its few sockets: one small table, so that another engine can stand
 * beside epoll. All of it is called by the client's thread only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct net;

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
	ssize_t (*readv)(struct net *net, int fd, struct iovec *iov, int count);
	ssize_t (*writev)(struct net *net, int fd, struct iovec *iov, int count);
};

extern const struct net_engine net_epoll;
