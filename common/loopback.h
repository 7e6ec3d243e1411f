/* SPDX-License-Identifier: Apache-2.0 */
/* loopback.h -- does a socket address lead back to this machine? */
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>

/* There is no network to share there, and a congestion control that paces its packets (bbr) costs a timer a packet: a
 * sixth of what a hot 4 KiB sample costs. Pacing once begun stays, so this is for sockets that listen or are about to
 * connect. A system without it keeps its own. */
#define LOOPBACK_CONGESTION "reno"

static inline bool address_is_loopback(const struct sockaddr *a)
{
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;

	if (a->sa_family == AF_INET) {
		memcpy(&v4, a, sizeof(v4));
		return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
	}
	if (a->sa_family != AF_INET6)
		return false;
	memcpy(&v6, a, sizeof(v6));
	return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}
