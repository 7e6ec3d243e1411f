/* SPDX-License-Identifier: Apache-2.0 */
/* sock.h -- making listening sockets and addresses; closing. Calls that block for no longer than bind() does. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "tcp:HOST:PORT" ("tcp:[::1]:7420", port 0 = any), "unix:/path", or "fd:N": a descriptor that listens already, from
 * the service manager. Sets TCP_NODELAY on what it accepts.
 * *fd out; text_out (cap >= 128) gets the address really bound, in the same spelling. */
int sock_listen(const char *address, int *fd, char *text_out, size_t cap);
bool sock_address_is_loopback(const char *address); /* unix, 127.0.0.0/8, ::1; an fd by what it is bound to */
void sock_close(int fd);
void sock_shutdown(int fd); /* makes pending ops on it end */
void sock_end(int fd);      /* the peer sees the end after what was sent; receiving goes on */
/* Nanoseconds since something came from the peer; -1: not known (sockets that are not TCP). */
int64_t sock_quiet_ns(int fd);
bool sock_is_unix(int fd);
/* Of a Unix socket's peer, as it connected; false: not known. */
struct sock_peer { int64_t pid; uint32_t uid, gid; };
bool sock_peer_get(int fd, struct sock_peer *out);
/* After accept: options for a connection. */
void sock_prepare(int fd);
