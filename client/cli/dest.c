/* SPDX-License-Identifier: Apache-2.0 */
/* dest.c -- writes objects below one local directory.
 *
 * Invariants: (1) every directory is opened from its parent's descriptor, one component at a time, and never through a
 * symbolic link, so neither a key nor a link that lies in the way leads out of the target; (2) a file is made new
 * (O_EXCL) under a name of ours and renamed into place when it is whole: nothing half written has its final name, and
 * a link under the final name is replaced, not followed. */
#include "dest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hash.h"

enum { COMPONENT_MAX = 255 };

struct dest {
	int root_fd;
	char dir[GRANARY_KEY_LEN_MAX +
		 2]; /* of the file last created, open in dir_fd; "" is the root */
	int dir_fd;
	int file_fd;
	char leaf[COMPONENT_MAX + 1];
	char temporary[40];
	mode_t umask;
};

static int make_directory(const char *path)
{
	char part[4096];
	size_t len = strlen(path);

	if (len >= sizeof(part)) return -ENAMETOOLONG;
	snprintf(part, sizeof(part), "%s", path);
	for (size_t i = 1; i <= len; i++) {
		if (part[i] != '/' && part[i] != '\0') continue;
		part[i] = '\0';
		if (mkdir(part, 0777) < 0 && errno != EEXIST) return -errno;
		part[i] = path[i];
	}
	return 0;
}

int dest_open(struct dest **out, const char *path, bool make)
{
	struct dest *d = must_alloc(calloc(1, sizeof(*d)));
	int err = 0;

	d->dir_fd = d->file_fd = -1;
	d->umask = umask(0);
	umask(d->umask);
	d->root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->root_fd < 0 && errno == ENOENT && make) {
		err = make_directory(path);
		if (err == 0) d->root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (d->root_fd < 0) {
		if (err == 0 && (make || errno != ENOENT)) err = -errno;
		dest_close(&d);
	}
	*out = d;
	return err;
}

void dest_close(struct dest **dest)
{
	struct dest *d = *dest;

	*dest = NULL;
	if (d == NULL) return;
	dest_abort(d);
	if (d->dir_fd >= 0) close(d->dir_fd);
	if (d->root_fd >= 0) close(d->root_fd);
	free(d);
}

const char *dest_refuses(const char *name)
{
	const char *p = name;

	if (name[0] == '\0') return "the name is empty";
	if (name[0] == '/') return "it is an absolute path";
	while (*p != '\0') {
		size_t len = strcspn(p, "/");
		if (len == 0) return "it has an empty component";
		if (len == 1 && p[0] == '.') return "it has a component '.'";
		if (len == 2 && p[0] == '.' && p[1] == '.') return "it has a component '..'";
		if (len > COMPONENT_MAX) return "it has a component of more than 255 bytes";
		p += len;
		if (*p == '/') p++;
	}
	return NULL;
}

/* One step down. With `make` what is missing is made. Returns a descriptor or -errno. */
static int step_down(int fd, const char *name, bool make)
{
	int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int next = openat(fd, name, flags);

	if (next < 0 && errno == ENOENT && make) {
		if (mkdirat(fd, name, 0777) < 0 && errno != EEXIST) return -errno;
		next = openat(fd, name, flags);
	}
	return next < 0 ? -errno : next;
}

/* Leaves the directory part of `name` open in dir_fd. 0 or -errno. */
static int dest_enter(struct dest *d, const char *name, bool make)
{
	const char *slash = strrchr(name, '/');
	size_t len = slash == NULL ? 0 : (size_t)(slash - name) + 1;
	char component[COMPONENT_MAX + 1];
	int fd;

	if (len >= sizeof(d->dir)) return -ENAMETOOLONG;
	if (d->dir_fd >= 0 && strlen(d->dir) == len && memcmp(d->dir, name, len) == 0) return 0;
	if (d->dir_fd >= 0) close(d->dir_fd);
	d->dir_fd = -1;
	fd = step_down(d->root_fd, ".", false);
	for (size_t at = 0; at < len && fd >= 0;) {
		size_t part = strcspn(name + at, "/");
		int next;
		snprintf(component, sizeof(component), "%.*s", (int)part, name + at);
		next = step_down(fd, component, make);
		close(fd);
		fd = next;
		at += part + 1;
	}
	if (fd < 0) return fd;
	d->dir_fd = fd;
	snprintf(d->dir, sizeof(d->dir), "%.*s", (int)len, name);
	return 0;
}

static const char *leaf_name(const char *name)
{
	const char *slash = strrchr(name, '/');

	return slash == NULL ? name : slash + 1;
}

bool dest_has(struct dest *d, const char *name, uint64_t size, uint64_t mtime_ns)
{
	struct stat st;

	if (dest_enter(d, name, false) < 0 ||
		fstatat(d->dir_fd, leaf_name(name), &st, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	return S_ISREG(st.st_mode) && (uint64_t)st.st_size == size && st.st_mtim.tv_sec >= 0 &&
	       (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec == mtime_ns;
}

int dest_mkdir(struct dest *d, const char *name)
{
	char path[GRANARY_KEY_LEN_MAX + 2];
	size_t len = strlen(name);

	snprintf(path, sizeof(path), "%s%s", name, len > 0 && name[len - 1] == '/' ? "" : "/");
	return dest_enter(d, path, true);
}

int dest_create(struct dest *d, const char *name)
{
	int err = dest_enter(d, name, true);

	if (err < 0) return err;
	snprintf(d->leaf, sizeof(d->leaf), "%s", leaf_name(name));
	/* The same name for the same file: what a stopped run left behind is taken over by the next. */
	snprintf(d->temporary, sizeof(d->temporary), ".granary-%016" PRIx64,
		hash_keyed(1, 0, name, strlen(name)).lo);
	if (unlinkat(d->dir_fd, d->temporary, 0) < 0 && errno != ENOENT) return -errno;
	d->file_fd = openat(d->dir_fd, d->temporary,
		O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return d->file_fd < 0 ? -errno : 0;
}

int dest_write(struct dest *d, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		ssize_t done = write(d->file_fd, p, len);
		if (done < 0 && errno == EINTR) continue;
		if (done < 0) return -errno;
		p += done;
		len -= (size_t)done;
	}
	return 0;
}

int dest_commit(struct dest *d, uint32_t mode, uint64_t mtime_ns)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_NOW },
		{ .tv_sec = (time_t)(mtime_ns / 1000000000u),
			.tv_nsec = (long)(mtime_ns % 1000000000u) } };
	/* Never set-uid or set-gid from elsewhere; a mode nobody gave is what a new file gets here. */
	mode_t bits = (mode & 0777) != 0 ? (mode_t)(mode & 0777) : 0666 & ~d->umask;
	int err = 0;

	if (fchmod(d->file_fd, bits) < 0 || (mtime_ns != 0 && futimens(d->file_fd, times) < 0))
		err = -errno;
	if (close(d->file_fd) < 0 && err == 0) err = -errno;
	d->file_fd = -1;
	if (err == 0 && renameat(d->dir_fd, d->temporary, d->dir_fd, d->leaf) < 0) err = -errno;
	if (err < 0) unlinkat(d->dir_fd, d->temporary, 0);
	return err;
}

void dest_abort(struct dest *d)
{
	if (d->file_fd < 0) return;
	close(d->file_fd);
	d->file_fd = -1;
	unlinkat(d->dir_fd, d->temporary, 0);
}

int dest_remove(struct dest *d, const char *name, bool directory)
{
	char path[GRANARY_KEY_LEN_MAX + 2];
	size_t len = (size_t)snprintf(path, sizeof(path), "%s", name);
	int err;

	if (dest_refuses(name) != NULL || len >= sizeof(path)) return -EINVAL;
	if (path[len - 1] == '/') path[len - 1] = '\0';
	err = dest_enter(d, path, false);
	if (err < 0) return err;
	return unlinkat(d->dir_fd, leaf_name(path), directory ? AT_REMOVEDIR : 0) < 0 ? -errno : 0;
}

int dest_symlink(struct dest *d, const char *name, const char *target)
{
	int err = dest_enter(d, name, true);

	if (err < 0) return err;
	if (unlinkat(d->dir_fd, leaf_name(name), 0) < 0 && errno != ENOENT) return -errno;
	return symlinkat(target, d->dir_fd, leaf_name(name)) < 0 ? -errno : 0;
}
