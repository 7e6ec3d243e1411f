/* SPDX-License-Identifier: Apache-2.0 */
/* fs.c -- checks paths and hands over to the disk behind a struct fs; whole small files on top of that. */
#include "io/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/error.h"
#include "io/fs_ops.h"

/* Relative, no empty, "." or ".." component; "" only where the root itself may be meant. */
static int path_check(const char *path, bool root_ok)
{
	if (*path == '\0')
		return root_ok ? 0 : -GRANARY_EINVAL;
	if (strlen(path) >= PATH_MAX)
		return -GRANARY_EINVAL;
	for (const char *p = path;;) {
		size_t n = strcspn(p, "/");
		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return -GRANARY_EINVAL;
		if (p[n] == '\0')
			return 0;
		p += n + 1;
	}
}

const char *fs_root(const struct fs *fs) { return fs->root; }

void fs_free(struct fs **fsp)
{
	struct fs *fs = *fsp;
	*fsp = NULL;
	if (fs)
		fs->ops->free(fs);
}

int fs_open(struct fs *fs, const char *path, unsigned flags, struct fs_file **out)
{
	*out = NULL;
	int err = path_check(path, false);
	return err < 0 ? err : fs->ops->open(fs, path, flags, out);
}

void fs_close(struct fs_file **fp)
{
	struct fs_file *f = *fp;
	*fp = NULL;
	if (f)
		f->ops->close(f);
}

uint32_t fs_file_align(const struct fs_file *f) { return f->align; }
int fs_file_fd(const struct fs_file *f) { return f->fd; }
int64_t fs_read(struct fs_file *f, void *buf, size_t len, uint64_t at) { return f->ops->read(f, buf, len, at); }
int fs_write(struct fs_file *f, const void *buf, size_t len, uint64_t at) { return f->ops->write(f, buf, len, at); }
int fs_datasync(struct fs_file *f) { return f->ops->sync(f, true); }
int fs_sync(struct fs_file *f) { return f->ops->sync(f, false); }

void fs_write_out(struct fs_file *f, uint64_t offset, uint64_t len)
{
	int fd = fs_file_fd(f);

	if (fd >= 0)
		sync_file_range(fd, (off_t)offset, (off_t)len, SYNC_FILE_RANGE_WRITE);
}

void fs_forget(struct fs_file *f)
{
	int fd = fs_file_fd(f);

	if (fd >= 0)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

int fs_allocate(struct fs_file *f, uint64_t offset, uint64_t len) { return f->ops->allocate(f, offset, len); }
int fs_truncate(struct fs_file *f, uint64_t size) { return f->ops->truncate(f, size); }
int64_t fs_size(struct fs_file *f) { return f->ops->size(f); }

int fs_file_share(struct fs_file *f, int *fd, uint64_t *dev, uint64_t *ino)
{
	struct stat st;

	*fd = -1;
	if (f->fd < 0)
		return -GRANARY_EUNSUPPORTED;
	if (fstat(f->fd, &st) != 0)
		return error_from_errno(errno);
	*fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
	if (*fd < 0)
		return error_from_errno(errno);
	*dev = st.st_dev;
	*ino = st.st_ino;
	return 0;
}

uint64_t fs_identity(struct fs_file *f) { return f->ops->identity(f); }

int fs_mkdir(struct fs *fs, const char *path)
{
	int err = path_check(path, false);
	return err < 0 ? err : fs->ops->mkdir(fs, path);
}

int fs_rename(struct fs *fs, const char *from, const char *to)
{
	int err = path_check(from, false);
	if (err == 0)
		err = path_check(to, false);
	return err < 0 ? err : fs->ops->rename(fs, from, to);
}

int fs_unlink(struct fs *fs, const char *path)
{
	int err = path_check(path, false);
	return err < 0 ? err : fs->ops->unlink(fs, path);
}

int fs_rmdir(struct fs *fs, const char *path)
{
	int err = path_check(path, false);
	return err < 0 ? err : fs->ops->rmdir(fs, path);
}

int fs_sync_dir(struct fs *fs, const char *path)
{
	int err = path_check(path, true);
	return err < 0 ? err : fs->ops->sync_dir(fs, path);
}

int fs_list(struct fs *fs, const char *path, int (*each)(void *arg, const char *name), void *arg)
{
	int err = path_check(path, true);
	return err < 0 ? err : fs->ops->list(fs, path, each, arg);
}

int fs_exists(struct fs *fs, const char *path)
{
	int err = path_check(path, true);
	return err < 0 ? err : fs->ops->exists(fs, path);
}

int fs_space(struct fs *fs, uint64_t *total, uint64_t *available) { return fs->ops->space(fs, total, available); }

int fs_lock(struct fs *fs, const char *path, struct fs_file **out)
{
	*out = NULL;
	int err = path_check(path, false);
	return err < 0 ? err : fs->ops->lock(fs, path, out);
}

int fs_get_file(struct fs *fs, const char *path, void *buf, size_t cap, size_t *len)
{
	struct fs_file *f;
	*len = 0;
	int err = fs_open(fs, path, FS_READ, &f);
	if (err < 0)
		return err;
	int64_t size = fs_size(f), got = size;
	if (size > 0 && (uint64_t)size > cap)
		got = -GRANARY_ETOOBIG;
	else if (size > 0)
		got = fs_read(f, buf, (size_t)size, 0);
	fs_close(&f);
	if (got < 0)
		return (int)got;
	*len = (size_t)got;
	return 0;
}

static int write_new(struct fs *fs, const char *path, const void *buf, size_t len)
{
	struct fs_file *f;
	int err = fs_open(fs, path, FS_CREATE_NEW, &f);
	if (err < 0)
		return err;
	if (len > 0)
		err = fs_write(f, buf, len, 0);
	if (err == 0)
		err = fs_sync(f);
	fs_close(&f);
	return err;
}

int fs_put_file(struct fs *fs, const char *path, const void *buf, size_t len)
{
	char tmp[PATH_MAX], dir[PATH_MAX];
	int err = path_check(path, false);
	if (err < 0)
		return err;
	if ((size_t)snprintf(tmp, sizeof(tmp), "%s.tmp", path) >= sizeof(tmp))
		return -GRANARY_EINVAL;
	const char *slash = strrchr(path, '/');
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) : 0, path);
	err = fs_unlink(fs, tmp); /* left over from a crash */
	if (err < 0 && err != -GRANARY_ENOTFOUND)
		return err;
	err = write_new(fs, tmp, buf, len);
	if (err == 0)
		err = fs_rename(fs, tmp, path);
	if (err < 0) {
		fs_unlink(fs, tmp); /* as well as it goes: the next put removes it too */
		return err;
	}
	return fs_sync_dir(fs, dir);
}

struct emptying { struct fs *fs; const char *path; };

static int empty_one(void *arg, const char *name)
{
	const struct emptying *e = arg;
	char path[PATH_MAX];
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", e->path, name) >= sizeof(path))
		return -GRANARY_EINVAL;
	int err = fs_unlink(e->fs, path);
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

int fs_remove_folder(struct fs *fs, const char *path)
{
	struct emptying e = { fs, path };
	int err = fs_list(fs, path, empty_one, &e);
	if (err == -GRANARY_ENOTFOUND)
		return 0;
	return err < 0 ? err : fs_rmdir(fs, path);
}
