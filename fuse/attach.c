/* SPDX-License-Identifier: Apache-2.0 */
/* attach.c -- mounting and unmounting: as root by mount(2), else through fusermount3, or a descriptor that someone else
 * mounted (/dev/fd/N as the directory). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuse/mount.h"

static int attach_root(const struct options *o, const char *source, char *why, size_t size)
{
	struct stat st;
	char data[160];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		snprintf(why, size, "/dev/fuse: %s%s", strerror(errno),
			errno == ENOENT
				? "; the kernel has no FUSE (modprobe fuse; a container needs --device /dev/fuse)"
				: "");
		return -1;
	}
	if (stat(o->target, &st) < 0) {
		snprintf(why, size, "%s: %s%s", o->target, strerror(errno),
			errno == ENOTCONN ? "; a mount whose program died: granary umount it first"
			: errno == ENOENT ? "; make the directory first"
					  : "");
		close(fd);
		return -1;
	}
	snprintf(data, sizeof(data), "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions%s,max_read=%d",
		fd, (unsigned)getuid(), (unsigned)getgid(), o->allow_other || getuid() == 0 ? ",allow_other" : "",
		MOUNT_READ_MAX);
	if (mount(source, o->target, "fuse.granary", MS_NOSUID | MS_NODEV | (o->live ? 0 : MS_RDONLY), data) < 0) {
		snprintf(why, size, "cannot mount at %s: %s", o->target, strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}

/* ---- fusermount3: it opens the device, mounts, and sends the descriptor over a socket (its manual page) ---- */

static int descriptor_receive(int socket)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec part = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	int fd = -1;
	ssize_t n;

	do {
		n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	const struct cmsghdr *head = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
		head->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(head), sizeof(fd));
	return fd;
}

static int run(char *const argv[], int keep)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		if (keep >= 0) fcntl(keep, F_SETFD, 0);
		execvp(argv[0], argv);
		_exit(127);
	}
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int attach_user(const struct options *o, const char *source, char *why, size_t size)
{
	int pair[2];
	char number[16], data[256], program[] = "fusermount3", opt[] = "-o", dashes[] = "--";
	char *target = strdup(o->target);

	if (!target || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		free(target);
		snprintf(why, size, "%s", strerror(errno));
		return -1;
	}
	snprintf(number, sizeof(number), "%d", pair[0]);
	setenv("_FUSE_COMMFD", number, 1);
	snprintf(data, sizeof(data),
		"%snosuid,nodev,default_permissions,subtype=granary,fsname=%.100s%s,max_read=%d",
		o->live ? "" : "ro,", source,
		o->allow_other ? ",allow_other" : "", MOUNT_READ_MAX);
	char *argv[] = { program, opt, data, dashes, target, NULL };
	int code = run(argv, pair[0]);
	close(pair[0]);
	int fd = code == 0 ? descriptor_receive(pair[1]) : -1;
	close(pair[1]);
	unsetenv("_FUSE_COMMFD");
	if (code == 127)
		snprintf(why, size, "fusermount3 is not installed (package fuse3); only root mounts without it");
	else if (fd < 0)
		snprintf(why, size, "fusermount3 could not mount at %s%s", target,
			o->allow_other ? "; allow_other needs user_allow_other in /etc/fuse.conf" : "");
	free(target);
	return fd;
}

int attach(const struct options *o, const char *source, char *why, size_t size)
{
	char *end;

	if (strncmp(o->target, "/dev/fd/", 8) == 0) {
		long fd = strtol(o->target + 8, &end, 10);
		if (*end == '\0' && fd >= 0 && fcntl((int)fd, F_GETFD) >= 0) return (int)fd;
		snprintf(why, size, "%s: no such descriptor was passed", o->target);
		return -1;
	}
	return geteuid() == 0 ? attach_root(o, source, why, size) : attach_user(o, source, why, size);
}

int detach(const char *target, bool lazy, char *why, size_t size)
{
	char program[] = "fusermount3", unmount[] = "-u", lazily[] = "-z", dashes[] = "--";
	char *copy = geteuid() == 0 ? NULL : strdup(target);

	if (geteuid() == 0) {
		if (umount2(target, lazy ? MNT_DETACH : 0) == 0) return 0;
		snprintf(why, size, "cannot unmount %s: %s", target, strerror(errno));
		return -1;
	}
	char *argv[] = { program, unmount, lazy ? lazily : dashes, lazy ? dashes : copy, lazy ? copy : NULL, NULL };
	int code = copy ? run(argv, -1) : -1;
	if (code != 0) snprintf(why, size, "fusermount3 could not unmount %s", target);
	free(copy);
	return code == 0 ? 0 : -1;
}
