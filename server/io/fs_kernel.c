/* SPDX-License-Identifier: Apache-2.0 */
/* fs_kernel.c -- struct fs on the kernel: everything by openat and its kin beneath one directory descriptor. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "io/fs_ops.h"

#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x2000u
#endif

enum { ALIGN_MIN = 512, ALIGN_UNKNOWN = 4096, STEP_MAX = 1 << 30, EINTR_MAX = 64 };
/* stx_dio_mem_align, stx_dio_offset_align: their place in struct statx is kernel ABI; older libcs lack the names. */
enum { STX_DIO_MEM_AT = 0x98, STX_DIO_OFFSET_AT = 0x9c };
_Static_assert(sizeof(struct statx) == 0x100, "struct statx is kernel ABI");

static const struct fs_ops kernel_ops;

struct fs_kernel {
	struct fs base;
	int dir_fd;
};

static int dir_of(struct fs *fs) { return ((struct fs_kernel *)(void *)fs)->dir_fd; }
static int fail(void) { return error_from_errno(errno); }

int fs_new_kernel(const char *root, struct fs **out)
{
	*out = NULL;
	struct fs_kernel *k = calloc(1, sizeof(*k));
	if (!k)
		return -GRANARY_ENOMEM;
	k->base.ops = &kernel_ops;
	k->base.root = strdup(root);
	k->dir_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int err = !k->base.root ? -GRANARY_ENOMEM : k->dir_fd < 0 ? fail() : 0;
	if (err < 0) {
		if (k->dir_fd >= 0)
			close(k->dir_fd);
		free(k->base.root);
		free(k);
		return err;
	}
	*out = &k->base;
	return 0;
}

static void kernel_free(struct fs *fs)
{
	close(dir_of(fs));
	free(fs->root);
	free(fs);
}

/* ---- files ---- */

static uint32_t direct_align(int fd)
{
	struct statx sx;
	uint32_t mem, offset;
	memset(&sx, 0, sizeof(sx));
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) != 0 || !(sx.stx_mask & STATX_DIOALIGN))
		return ALIGN_UNKNOWN;
	memcpy(&mem, (const char *)&sx + STX_DIO_MEM_AT, sizeof(mem));
	memcpy(&offset, (const char *)&sx + STX_DIO_OFFSET_AT, sizeof(offset));
	uint32_t align = mem > offset ? mem : offset;
	if (align == 0 || (align & (align - 1)) != 0)
		return ALIGN_UNKNOWN;
	return align < ALIGN_MIN ? ALIGN_MIN : align;
}

static int file_make(int fd, bool direct, struct fs_file **out)
{
	struct fs_file *f = calloc(1, sizeof(*f));
	if (!f) {
		close(fd);
		return -GRANARY_ENOMEM;
	}
	*f = (struct fs_file){ &kernel_ops, fd, direct ? direct_align(fd) : ALIGN_MIN, direct };
	*out = f;
	return 0;
}

static void warn_buffered(const struct fs *fs)
{
	static atomic_flag told = ATOMIC_FLAG_INIT;
	if (!atomic_flag_test_and_set(&told))
		log_warn("no direct I/O under '%s': using the page cache, which costs CPU", fs->root);
}

static int kernel_open(struct fs *fs, const char *path, unsigned flags, struct fs_file **out)
{
	int mode = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
	bool direct = (flags & FS_DIRECT) != 0;
	if (flags & FS_CREATE_NEW)
		mode |= O_RDWR | O_CREAT | O_EXCL;
	else
		mode |= flags & FS_WRITE ? O_RDWR : O_RDONLY;
	int fd = openat(dir_of(fs), path, mode | (direct ? O_DIRECT : 0), 0600);
	if (fd < 0 && errno == EINVAL && direct) {
		direct = false;
		warn_buffered(fs);
		/* The refused open may have made the file already. */
		if (flags & FS_CREATE_NEW)
			mode &= ~O_EXCL;
		fd = openat(dir_of(fs), path, mode, 0600);
	}
	if (fd < 0)
		/* a symbolic link is no file, as other special ones */
		return errno == ELOOP ? -GRANARY_EINVAL : fail();
	struct stat st;
	int err = fstat(fd, &st) != 0 ? fail() : 0;
	if (err == 0 && !S_ISREG(st.st_mode))
		err = S_ISDIR(st.st_mode) ? -GRANARY_EISDIR : -GRANARY_EINVAL;
	if (err == 0 && fcntl(fd, F_SETFL, direct ? O_DIRECT : 0) != 0) /* O_NONBLOCK was for opening only */
		err = fail();
	if (err < 0) {
		close(fd);
		return err;
	}
	return file_make(fd, direct, out);
}

static void kernel_close(struct fs_file *f)
{
	close(f->fd);
	free(f);
}

static int64_t kernel_read(struct fs_file *f, void *buf, size_t len, uint64_t offset)
{
	size_t done = 0;
	for (unsigned interrupted = 0; done < len;) {
		size_t want = len - done < STEP_MAX ? len - done : STEP_MAX;
		ssize_t n = pread(f->fd, (char *)buf + done, want, (off_t)(offset + done));
		if (n < 0 && errno == EINTR && interrupted++ < EINTR_MAX)
			continue;
		if (n < 0)
			return fail();
		if (n == 0)
			break;
		done += (size_t)n;
		if (f->direct && done % f->align != 0) /* inside a block: the end of the file */
			break;
	}
	return (int64_t)done;
}

static int kernel_write(struct fs_file *f, const void *buf, size_t len, uint64_t offset)
{
	unsigned stuck = 0;
	for (size_t done = 0; done < len;) {
		size_t want = len - done < STEP_MAX ? len - done : STEP_MAX;
		ssize_t n = pwrite(f->fd, (const char *)buf + done, want, (off_t)(offset + done));
		if ((n == 0 || (n < 0 && errno == EINTR)) && stuck++ < EINTR_MAX)
			continue;
		if (n <= 0)
			return n < 0 ? fail() : -GRANARY_EIO;
		done += (size_t)n;
	}
	return 0;
}

static int kernel_sync(struct fs_file *f, bool data_only)
{
	int res = data_only ? fdatasync(f->fd) : fsync(f->fd);
	return res == 0 ? 0 : fail();
}

static int64_t kernel_size(struct fs_file *f)
{
	struct stat st;
	return fstat(f->fd, &st) != 0 ? fail() : (int64_t)st.st_size;
}

/* Inode numbers are used again, but not with the same time and size as well. */
static uint64_t kernel_identity(struct fs_file *f)
{
	struct stat st;
	if (fstat(f->fd, &st) != 0)
		return 0;
	uint64_t id = (uint64_t)st.st_ino * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)st.st_mtim.tv_nsec;
	id = (id ^ id >> 29) * UINT64_C(0xbf58476d1ce4e5b9) ^ (uint64_t)st.st_mtim.tv_sec;
	id = (id ^ id >> 32) * UINT64_C(0x94d049bb133111eb) ^ (uint64_t)st.st_size;
	return id ? id : 1;
}

static int kernel_truncate(struct fs_file *f, uint64_t size)
{
	return ftruncate(f->fd, (off_t)size) == 0 ? 0 : fail();
}

static int kernel_allocate(struct fs_file *f, uint64_t offset, uint64_t len)
{
	int res;
	do
		res = fallocate(f->fd, 0, (off_t)offset, (off_t)len);
	while (res != 0 && errno == EINTR);
	if (res == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return fail();
	int64_t size = kernel_size(f); /* no preallocation here: at least the size */
	if (size < 0 || (uint64_t)size >= offset + len)
		return size < 0 ? (int)size : 0;
	return kernel_truncate(f, offset + len);
}

/* ---- names ---- */

static int kernel_mkdir(struct fs *fs, const char *path)
{
	return mkdirat(dir_of(fs), path, 0700) == 0 ? 0 : fail();
}

static int kernel_rename(struct fs *fs, const char *from, const char *to)
{
	return renameat(dir_of(fs), from, dir_of(fs), to) == 0 ? 0 : fail();
}

static int kernel_unlink(struct fs *fs, const char *path)
{
	return unlinkat(dir_of(fs), path, 0) == 0 ? 0 : fail();
}

static int kernel_rmdir(struct fs *fs, const char *path)
{
	return unlinkat(dir_of(fs), path, AT_REMOVEDIR) == 0 ? 0 : fail();
}

static int open_dir(struct fs *fs, const char *path)
{
	int fd = openat(dir_of(fs), *path ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? fail() : fd;
}

static int kernel_sync_dir(struct fs *fs, const char *path)
{
	int fd = open_dir(fs, path);
	if (fd < 0)
		return fd;
	int err = fsync(fd) == 0 ? 0 : fail();
	close(fd);
	return err;
}

static int kernel_list(struct fs *fs, const char *path, int (*each)(void *arg, const char *name), void *arg)
{
	int fd = open_dir(fs, path), res = 0;
	if (fd < 0)
		return fd;
	DIR *dir = fdopendir(fd);
	if (!dir) {
		res = fail();
		close(fd);
		return res;
	}
	while (res == 0) {
		errno = 0;
		const struct dirent *e = readdir(dir);
		if (!e) {
			res = errno ? fail() : 0;
			break;
		}
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			res = each(arg, e->d_name);
	}
	closedir(dir);
	return res;
}

static int kernel_exists(struct fs *fs, const char *path)
{
	struct stat st;
	if (fstatat(dir_of(fs), *path ? path : ".", &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT || errno == ENOTDIR ? 0 : fail();
}

static int kernel_space(struct fs *fs, uint64_t *total, uint64_t *available)
{
	struct statvfs v;
	if (fstatvfs(dir_of(fs), &v) != 0)
		return fail();
	*total = (uint64_t)v.f_blocks * v.f_frsize;
	*available = (uint64_t)v.f_bavail * v.f_frsize;
	return 0;
}

/* ---- the lock ---- */

static void tell_holder(const struct fs *fs, const char *path, int fd)
{
	char text[32];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	log_error("cannot lock '%s/%s': process %ld holds it", fs->root, path, strtol(text, NULL, 10));
}

static int kernel_lock(struct fs *fs, const char *path, struct fs_file **out)
{
	char text[32];
	int fd = openat(dir_of(fs), path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail();
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		int err = errno == EWOULDBLOCK ? -GRANARY_ELOCKED : fail();
		if (err == -GRANARY_ELOCKED)
			tell_holder(fs, path, fd);
		close(fd);
		return err;
	}
	int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n)
		log_warn("cannot write the process number into '%s/%s': %s", fs->root, path, strerror(errno));
	return file_make(fd, false, out);
}

static const struct fs_ops kernel_ops = {
	.free = kernel_free,
	.open = kernel_open,
	.lock = kernel_lock,
	.close = kernel_close,
	.read = kernel_read,
	.write = kernel_write,
	.sync = kernel_sync,
	.allocate = kernel_allocate,
	.truncate = kernel_truncate,
	.size = kernel_size,
	.identity = kernel_identity,
	.mkdir = kernel_mkdir,
	.rename = kernel_rename,
	.unlink = kernel_unlink,
	.rmdir = kernel_rmdir,
	.sync_dir = kernel_sync_dir,
	.list = kernel_list,
	.exists = kernel_exists,
	.space = kernel_space,
};
