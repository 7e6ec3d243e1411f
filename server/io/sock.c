/* SPDX-License-Identifier: Apache-2.0 */
#include "io/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "common/loopback.h"

enum { BACKLOG = 4096, HOST_MAX = 256, PORT_MAX = 8, TEXT_MIN = 128 };

struct host_port { char host[HOST_MAX], port[PORT_MAX]; };

/* "HOST:PORT" or "[v6]:PORT". */
static int split_host(const char *s, struct host_port *out)
{
	const char *colon = strrchr(s, ':');
	if (!colon || colon == s || colon[1] == '\0' || strlen(colon + 1) >= PORT_MAX)
		return -GRANARY_EINVAL;
	if (strspn(colon + 1, "0123456789") != strlen(colon + 1) || strtoul(colon + 1, NULL, 10) > 65535)
		return -GRANARY_EINVAL;
	const char *begin = s, *end = colon;
	if (*s == '[') {
		if (colon[-1] != ']')
			return -GRANARY_EINVAL;
		begin++;
		end--;
	} else if (memchr(s, ':', (size_t)(colon - s))) {
		return -GRANARY_EINVAL; /* an IPv6 address needs its brackets */
	}
	size_t len = (size_t)(end - begin);
	if (len == 0 || len >= HOST_MAX)
		return -GRANARY_EINVAL;
	memcpy(out->host, begin, len);
	out->host[len] = '\0';
	snprintf(out->port, sizeof(out->port), "%s", colon + 1);
	return 0;
}

static int bound_text(int fd, char *text, size_t cap)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	char host[HOST_MAX], port[PORT_MAX];
	if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
		return error_from_errno(errno);
	if (getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
		    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return -GRANARY_EINVAL;
	int n = snprintf(text, cap, ss.ss_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
	return n > 0 && (size_t)n < cap ? 0 : -GRANARY_EINVAL;
}

static int listen_one(const struct addrinfo *a)
{
	int one = 1;
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_from_errno(errno);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* accepted sockets inherit it */
	if (address_is_loopback(a->ai_addr)) /* inherited, too; where there is no reno the system's own does as well */
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, LOOPBACK_CONGESTION, sizeof(LOOPBACK_CONGESTION) - 1);
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	int err = errno == EADDRINUSE ? -GRANARY_ELOCKED : error_from_errno(errno);
	close(fd);
	return err;
}

static int listen_tcp(const char *s, int *out, char *text, size_t cap)
{
	struct host_port hp;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *list = NULL;
	int err = split_host(s, &hp);
	if (err < 0)
		return err;
	if (getaddrinfo(hp.host, hp.port, &hints, &list) != 0)
		return -GRANARY_EINVAL;
	int fd = -GRANARY_EINVAL;
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = listen_one(a);
	freeaddrinfo(list);
	if (fd < 0)
		return fd;
	err = bound_text(fd, text, cap);
	if (err < 0) {
		close(fd);
		return err;
	}
	*out = fd;
	return 0;
}

/* Removes a socket file nobody listens on any more; ELOCKED when somebody does. */
static int unix_clear(const struct sockaddr_un *sa)
{
	struct stat st;
	if (lstat(sa->sun_path, &st) != 0)
		return errno == ENOENT ? 0 : error_from_errno(errno);
	if (!S_ISSOCK(st.st_mode))
		return -GRANARY_EEXIST;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_from_errno(errno);
	int res = connect(fd, (const struct sockaddr *)sa, sizeof(*sa));
	bool dead = res != 0 && errno == ECONNREFUSED;
	close(fd);
	if (!dead)
		return -GRANARY_ELOCKED;
	return unlink(sa->sun_path) == 0 || errno == ENOENT ? 0 : error_from_errno(errno);
}

static int listen_unix(const char *path, int *out, char *text, size_t cap)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	size_t len = strlen(path);
	if (path[0] != '/' || len >= sizeof(sa.sun_path))
		return -GRANARY_EINVAL;
	memcpy(sa.sun_path, path, len + 1);
	int err = unix_clear(&sa);
	if (err < 0)
		return err;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_from_errno(errno);
	if (bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) != 0 || listen(fd, BACKLOG) != 0) {
		err = error_from_errno(errno);
		close(fd);
		return err;
	}
	snprintf(text, cap, "unix:%s", path);
	*out = fd;
	return 0;
}

/* The number of "fd:N" when that is a stream socket that listens, and what it is bound to. */
static int inherited(const char *address, char *text, size_t cap)
{
	struct sockaddr_un sa = { .sun_family = AF_UNSPEC };
	int type = 0, listens = 0;
	char *end;
	long fd = strtol(address + 3, &end, 10);
	socklen_t size = sizeof(type), len = sizeof(sa);

	if (end == address + 3 || *end != '\0' || fd < 3 || fd > 65535)
		return -GRANARY_EINVAL;
	if (getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM ||
		getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || !listens)
		return -GRANARY_EINVAL;
	if (getsockname((int)fd, (struct sockaddr *)&sa, &len) == 0 && sa.sun_family == AF_UNIX) {
		int n = snprintf(text, cap, "unix:%.*s", (int)sizeof(sa.sun_path), sa.sun_path);
		return n > 0 && (size_t)n < cap ? (int)fd : -GRANARY_EINVAL;
	}
	int err = bound_text((int)fd, text, cap);
	return err < 0 ? err : (int)fd;
}

static int listen_inherited(const char *address, int *out, char *text, size_t cap)
{
	int one = 1, fd = inherited(address, text, cap);

	if (fd < 0)
		return fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails on Unix sockets, which need it not */
	*out = fd;
	return 0;
}

int sock_listen(const char *address, int *fd, char *text_out, size_t cap)
{
	*fd = -1;
	if (cap < TEXT_MIN)
		return -GRANARY_EINVAL;
	if (strncmp(address, "tcp:", 4) == 0)
		return listen_tcp(address + 4, fd, text_out, cap);
	if (strncmp(address, "unix:", 5) == 0)
		return listen_unix(address + 5, fd, text_out, cap);
	if (strncmp(address, "fd:", 3) == 0)
		return listen_inherited(address, fd, text_out, cap);
	return -GRANARY_EINVAL;
}

bool sock_address_is_loopback(const char *address)
{
	char bound[HOST_MAX];
	struct host_port hp;
	struct in_addr v4;
	struct in6_addr v6;
	if (strncmp(address, "fd:", 3) == 0)
		address = inherited(address, bound, sizeof(bound)) < 0 ? "" : bound;
	if (strncmp(address, "unix:", 5) == 0)
		return true;
	if (strncmp(address, "tcp:", 4) != 0 || split_host(address + 4, &hp) < 0)
		return false;
	if (inet_pton(AF_INET, hp.host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	return inet_pton(AF_INET6, hp.host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

void sock_close(int fd)
{
	if (fd >= 0)
		close(fd);
}

void sock_shutdown(int fd) { shutdown(fd, SHUT_RDWR); }

void sock_end(int fd) { shutdown(fd, SHUT_WR); }

int64_t sock_quiet_ns(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
		return -1;
	return (int64_t)info.tcpi_last_data_recv * 1000000;
}

void sock_prepare(int fd)
{
	int one = 1;
	/* Fail on Unix sockets, where neither is needed. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

bool sock_is_unix(int fd)
{
	int domain = 0;
	socklen_t len = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

bool sock_peer_get(int fd, struct sock_peer *out)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0)
		return false;
	*out = (struct sock_peer){ cred.pid, cred.uid, cred.gid };
	return true;
}
