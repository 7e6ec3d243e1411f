/* SPDX-License-Identifier: Apache-2.0 */
/* powercut.c -- preloaded into granaryd: writes down, in order, every change to the files below one directory
 * (RocksDB's)
 * so that tests/e2e/powercut.py can rebuild that directory as a power cut at any moment could have left it.
 *
 *   POWERCUT_DIR    the directory, absolute; must be empty when the record begins
 *   POWERCUT_PACKS  the directory of packs, absolute: only creations and removals are written down
 *   POWERCUT_LOG    where the record goes: ops.bin, and a hard link of each pack that is removed
 *
 * One lock is held over a call and its record, so the record has the order in which things happened and its
 * time is that
 * of the moment before the call. A record: struct record, then name_len bytes of name, then data_len bytes of data.
 * Only what libc carries is seen: RocksDB writes with write() and pwrite(); packs are flushed through io_uring and
 * keep everything in this test (the simulator cuts them). */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FDS_MAX = 65536, PATH_BYTES = 4096 };

enum kind {
	KIND_OPEN = 1,     /* handle, name; offset 1: made now; length 1: truncated */
	KIND_WRITE = 2,    /* handle, offset, data */
	KIND_TRUNCATE = 3, /* handle, length */
	KIND_SYNC = 4,     /* handle */
	KIND_DIR_SYNC = 5,
	KIND_RENAME = 6,   /* name: from, NUL, to */
	KIND_UNLINK = 7,   /* name */
	KIND_EXTEND = 8,   /* handle, length: the file reaches at least so far, with zeros */
	KIND_PACK_NEW = 9, /* name */
	KIND_PACK_GONE = 10
};

struct record {
	uint64_t ns;
	uint32_t kind, name_len;
	uint64_t handle, offset, length, data_len;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char dir[PATH_BYTES], packs[PATH_BYTES], side[PATH_BYTES];
static size_t dir_len, packs_len;
static int log_fd = -1;
static uint64_t handles[FDS_MAX]; /* by descriptor; 0: not ours; UINT64_MAX: the directory itself */
static uint64_t next_handle;

static void die(const char *what)
{
	char text[256];
	int n = snprintf(text, sizeof(text), "powercut: %s: %s\n", what, strerror(errno));
	ssize_t res = syscall(SYS_write, 2, text, (size_t)n);
	(void)res;
	_exit(99);
}

static size_t copy_env(const char *name, char *out)
{
	const char *text = getenv(name);
	snprintf(out, PATH_BYTES, "%s", text ? text : "");
	return strlen(out);
}

__attribute__((constructor)) static void begin(void)
{
	char path[PATH_BYTES + 16];

	dir_len = copy_env("POWERCUT_DIR", dir);
	packs_len = copy_env("POWERCUT_PACKS", packs);
	if (dir_len == 0 || copy_env("POWERCUT_LOG", side) == 0) return;
	snprintf(path, sizeof(path), "%s/ops.bin", side);
	int fd = (int)syscall(
		SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	log_fd = fd < 0 ? -1 : (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 1000);
	if (log_fd < 0) die("cannot open ops.bin");
	syscall(SYS_close, fd);
	next_handle = ((uint64_t)getpid() << 32) + 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void put(const void *buf, size_t len)
{
	const char *p = buf;
	while (len > 0) {
		long n = syscall(SYS_write, log_fd, p, len);
		if (n < 0 && errno != EINTR) die("cannot write ops.bin");
		p += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
}

/* One write a record: a kill between two writes would leave half of one. */
static void note(
	struct record r, const void *name, size_t name_len, const void *data, size_t data_len)
{
	size_t len = sizeof(r) + name_len + data_len;
	char *whole = malloc(len);
	int saved = errno;

	if (whole == NULL) die("out of memory");
	r.name_len = (uint32_t)name_len;
	r.data_len = data_len;
	memcpy(whole, &r, sizeof(r));
	if (name_len > 0) memcpy(whole + sizeof(r), name, name_len);
	if (data_len > 0) memcpy(whole + sizeof(r) + name_len, data, data_len);
	put(whole, len);
	free(whole);
	errno = saved;
}

static void *real(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);
	if (f == NULL) die(name);
	return f;
}

/* The absolute path of (dirfd, path). */
static void absolute(int at, const char *path, char *out)
{
	char link[64], base[PATH_BYTES];

	if (path[0] == '/') {
		snprintf(out, PATH_BYTES, "%s", path);
		return;
	}
	if (at == AT_FDCWD)
		snprintf(link, sizeof(link), "/proc/self/cwd");
	else
		snprintf(link, sizeof(link), "/proc/self/fd/%d", at);
	ssize_t n = readlink(link, base, sizeof(base) - 1);
	base[n > 0 ? n : 0] = '\0';
	snprintf(out, PATH_BYTES, "%.2000s/%.2000s", base, path);
}

/* Path below a directory, or NULL. RocksDB writes double slashes. */
static const char *below(const char *path, const char *base, size_t base_len)
{
	if (base_len == 0 || strncmp(path, base, base_len) != 0 ||
		(path[base_len] != '/' && path[base_len] != '\0'))
		return NULL;
	path += base_len;
	while (*path == '/') path++;
	return path;
}

static bool is_pack(const char *name)
{
	size_t len = name ? strlen(name) : 0;
	return len > 5 && strcmp(name + len - 5, ".pack") == 0;
}

/* ---- open and close ---- */

static void after_open(int fd, const char *name, int flags, bool existed)
{
	if (fd >= FDS_MAX) die("too many descriptors");
	handles[fd] = 0;
	if (flags & O_DIRECTORY || *name == '\0') {
		handles[fd] = *name == '\0' ? UINT64_MAX : 0;
		return;
	}
	if ((flags & O_ACCMODE) == O_RDONLY) return;
	handles[fd] = next_handle++;
	note((struct record){ .ns = now_ns(),
		     .kind = KIND_OPEN,
		     .handle = handles[fd],
		     .offset = !existed,
		     .length = (flags & O_TRUNC) != 0 },
		name, strlen(name), NULL, 0);
}

static int open_any(int at, const char *path, int flags, mode_t mode)
{
	static int (*next)(int, const char *, int, ...);
	char full[PATH_BYTES];
	struct stat st;

	if (!next) *(void **)&next = real("openat");
	if (log_fd < 0) return next(at, path, flags, mode);
	absolute(at, path, full);
	const char *name = below(full, dir, dir_len), *pack = below(full, packs, packs_len);
	if (!name && !(is_pack(pack) && flags & O_CREAT)) {
		int fd = next(at, path, flags, mode);
		if (fd >= 0 && fd < FDS_MAX) handles[fd] = 0;
		return fd;
	}
	pthread_mutex_lock(&lock);
	bool existed = stat(full, &st) == 0;
	int fd = next(at, path, flags, mode);
	if (fd >= 0 && name && (!existed || !S_ISDIR(st.st_mode) || *name == '\0'))
		after_open(fd, name, flags, existed);
	else if (fd >= 0 && pack && !existed)
		note((struct record){ .ns = now_ns(), .kind = KIND_PACK_NEW }, pack, strlen(pack),
			NULL, 0);
	pthread_mutex_unlock(&lock);
	return fd;
}

/* The names below are the symbols that libraries ask for; with 64-bit offsets C's own names mean others. */
#define SYMBOL(name) __asm__(#name) __attribute__((visibility("default")))

#define OPEN_BODY(at) \
	mode_t mode = 0; \
	if (flags & (O_CREAT | O_TMPFILE)) { \
		va_list ap; \
		va_start(ap, flags); \
		mode = va_arg(ap, mode_t); \
		va_end(ap); \
	} \
	return open_any(at, path, flags, mode)

int pc_open(const char *path, int flags, ...) SYMBOL(open);
int pc_open64(const char *path, int flags, ...) SYMBOL(open64);
int pc_openat(int at, const char *path, int flags, ...) SYMBOL(openat);
int pc_openat64(int at, const char *path, int flags, ...) SYMBOL(openat64);
int pc_open(const char *path, int flags, ...)
{
	OPEN_BODY(AT_FDCWD);
}
int pc_open64(const char *path, int flags, ...)
{
	OPEN_BODY(AT_FDCWD);
}
int pc_openat(int at, const char *path, int flags, ...)
{
	OPEN_BODY(at);
}
int pc_openat64(int at, const char *path, int flags, ...)
{
	OPEN_BODY(at);
}

int pc_close(int fd) SYMBOL(close);
int pc_close(int fd)
{
	static int (*next)(int);
	if (!next) *(void **)&next = real("close");
	if (fd >= 0 && fd < FDS_MAX) handles[fd] = 0;
	return next(fd);
}

/* ---- writing ---- */

static uint64_t handle_of(int fd)
{
	return log_fd >= 0 && fd >= 0 && fd < FDS_MAX ? handles[fd] : 0;
}

static ssize_t write_any(int fd, const void *buf, size_t len, int64_t offset)
{
	static ssize_t (*next_write)(int, const void *, size_t);
	static ssize_t (*next_pwrite)(int, const void *, size_t, off_t);
	uint64_t handle = handle_of(fd);

	if (!next_write) {
		*(void **)&next_pwrite = real("pwrite64");
		*(void **)&next_write = real("write");
	}
	if (handle == 0 || handle == UINT64_MAX)
		return offset < 0 ? next_write(fd, buf, len) : next_pwrite(fd, buf, len, offset);
	pthread_mutex_lock(&lock);
	uint64_t ns = now_ns();
	ssize_t n = offset < 0 ? next_write(fd, buf, len) : next_pwrite(fd, buf, len, offset);
	if (n > 0) {
		uint64_t at =
			offset < 0 ? (uint64_t)(lseek(fd, 0, SEEK_CUR) - n) : (uint64_t)offset;
		note(
			(struct record){
				.ns = ns, .kind = KIND_WRITE, .handle = handle, .offset = at },
			NULL, 0, buf, (size_t)n);
	}
	pthread_mutex_unlock(&lock);
	return n;
}

ssize_t pc_write(int fd, const void *buf, size_t len) SYMBOL(write);
ssize_t pc_pwrite(int fd, const void *buf, size_t len, off_t offset) SYMBOL(pwrite);
ssize_t pc_pwrite64(int fd, const void *buf, size_t len, off_t offset) SYMBOL(pwrite64);
ssize_t pc_write(int fd, const void *buf, size_t len)
{
	return write_any(fd, buf, len, -1);
}
ssize_t pc_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	return write_any(fd, buf, len, offset);
}
ssize_t pc_pwrite64(int fd, const void *buf, size_t len, off_t offset)
{
	return write_any(fd, buf, len, offset);
}

/* Not used on these files today: one that comes unseen would make the test blind. */
ssize_t pc_writev(int fd, const struct iovec *iov, int count) SYMBOL(writev);
ssize_t pc_writev(int fd, const struct iovec *iov, int count)
{
	static ssize_t (*next)(int, const struct iovec *, int);
	if (!next) *(void **)&next = real("writev");
	if (handle_of(fd) != 0) die("writev on a recorded file is not known");
	return next(fd, iov, count);
}

ssize_t pc_pwritev(int fd, const struct iovec *iov, int count, off_t offset) SYMBOL(pwritev64);
ssize_t pc_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
	static ssize_t (*next)(int, const struct iovec *, int, off_t);
	if (!next) *(void **)&next = real("pwritev64");
	if (handle_of(fd) != 0) die("pwritev on a recorded file is not known");
	return next(fd, iov, count, offset);
}

static int truncate_any(int fd, off_t length)
{
	static int (*next)(int, off_t);
	uint64_t handle = handle_of(fd);

	if (!next) *(void **)&next = real("ftruncate64");
	if (handle == 0) return next(fd, length);
	pthread_mutex_lock(&lock);
	uint64_t ns = now_ns();
	int res = next(fd, length);
	if (res == 0)
		note((struct record){ .ns = ns,
			     .kind = KIND_TRUNCATE,
			     .handle = handle,
			     .length = (uint64_t)length },
			NULL, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return res;
}

int pc_ftruncate(int fd, off_t length) SYMBOL(ftruncate);
int pc_ftruncate64(int fd, off_t length) SYMBOL(ftruncate64);
int pc_ftruncate(int fd, off_t length)
{
	return truncate_any(fd, length);
}
int pc_ftruncate64(int fd, off_t length)
{
	return truncate_any(fd, length);
}

static int allocate_any(int fd, int mode, off_t offset, off_t len)
{
	static int (*next)(int, int, off_t, off_t);
	uint64_t handle = handle_of(fd);

	if (!next) *(void **)&next = real("fallocate64");
	if (handle == 0 || mode == FALLOC_FL_KEEP_SIZE) return next(fd, mode, offset, len);
	if (mode != 0) die("fallocate with a mode that is not known");
	pthread_mutex_lock(&lock);
	uint64_t ns = now_ns();
	int res = next(fd, mode, offset, len);
	if (res == 0)
		note((struct record){ .ns = ns,
			     .kind = KIND_EXTEND,
			     .handle = handle,
			     .length = (uint64_t)(offset + len) },
			NULL, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return res;
}

int pc_fallocate(int fd, int mode, off_t offset, off_t len) SYMBOL(fallocate);
int pc_fallocate64(int fd, int mode, off_t offset, off_t len) SYMBOL(fallocate64);
int pc_fallocate(int fd, int mode, off_t offset, off_t len)
{
	return allocate_any(fd, mode, offset, len);
}
int pc_fallocate64(int fd, int mode, off_t offset, off_t len)
{
	return allocate_any(fd, mode, offset, len);
}

/* ---- syncing: sync_file_range() promises nothing and is not recorded ---- */

static int sync_any(int fd, int (*next)(int))
{
	uint64_t handle = handle_of(fd);

	if (handle == 0) return next(fd);
	pthread_mutex_lock(&lock);
	uint64_t ns = now_ns();
	int res = next(fd);
	if (res == 0)
		note((struct record){ .ns = ns,
			     .kind = handle == UINT64_MAX ? KIND_DIR_SYNC : KIND_SYNC,
			     .handle = handle },
			NULL, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return res;
}

int pc_fsync(int fd) SYMBOL(fsync);
int pc_fsync(int fd)
{
	static int (*next)(int);
	if (!next) *(void **)&next = real("fsync");
	return sync_any(fd, next);
}

int pc_fdatasync(int fd) SYMBOL(fdatasync);
int pc_fdatasync(int fd)
{
	static int (*next)(int);
	if (!next) *(void **)&next = real("fdatasync");
	return sync_any(fd, next);
}

/* ---- names ---- */

static int rename_any(int from_at, const char *from, int to_at, const char *to)
{
	static int (*next)(int, const char *, int, const char *);
	char from_full[PATH_BYTES], to_full[PATH_BYTES], both[2 * PATH_BYTES];

	if (!next) *(void **)&next = real("renameat");
	if (log_fd < 0) return next(from_at, from, to_at, to);
	absolute(from_at, from, from_full);
	absolute(to_at, to, to_full);
	const char *a = below(from_full, dir, dir_len), *b = below(to_full, dir, dir_len);
	if (!a && !b) return next(from_at, from, to_at, to);
	if (!a || !b) die("rename into or out of the recorded directory");
	pthread_mutex_lock(&lock);
	uint64_t ns = now_ns();
	int res = next(from_at, from, to_at, to);
	if (res == 0) {
		int n = snprintf(both, sizeof(both), "%s", a);
		n += snprintf(both + n + 1, sizeof(both) - (size_t)n - 1, "%s", b) + 1;
		note((struct record){ .ns = ns, .kind = KIND_RENAME }, both, (size_t)n, NULL, 0);
	}
	pthread_mutex_unlock(&lock);
	return res;
}

int pc_rename(const char *from, const char *to) SYMBOL(rename);
int pc_renameat(int from_at, const char *from, int to_at, const char *to) SYMBOL(renameat);
int pc_rename(const char *from, const char *to)
{
	return rename_any(AT_FDCWD, from, AT_FDCWD, to);
}
int pc_renameat(int from_at, const char *from, int to_at, const char *to)
{
	return rename_any(from_at, from, to_at, to);
}

/* A removed pack is kept in the side directory: a cut before its removal still has it. */
static void keep_pack(const char *full, const char *pack)
{
	char kept[2 * PATH_BYTES];
	const char *base = strrchr(pack, '/');

	snprintf(kept, sizeof(kept), "%s/%s", side, base ? base + 1 : pack);
	if (link(full, kept) != 0 && errno != EEXIST) die("cannot keep a removed pack");
}

static int unlink_any(int at, const char *path, int flags)
{
	static int (*next)(int, const char *, int);
	char full[PATH_BYTES];

	if (!next) *(void **)&next = real("unlinkat");
	if (log_fd < 0) return next(at, path, flags);
	absolute(at, path, full);
	const char *name = below(full, dir, dir_len), *pack = below(full, packs, packs_len);
	if (!name && !is_pack(pack)) return next(at, path, flags);
	pthread_mutex_lock(&lock);
	uint64_t ns = now_ns();
	if (!name) keep_pack(full, pack);
	int res = next(at, path, flags);
	if (res == 0 && name)
		note((struct record){ .ns = ns, .kind = KIND_UNLINK }, name, strlen(name), NULL, 0);
	else if (res == 0)
		note((struct record){ .ns = ns, .kind = KIND_PACK_GONE }, pack, strlen(pack), NULL,
			0);
	pthread_mutex_unlock(&lock);
	return res;
}

int pc_unlink(const char *path) SYMBOL(unlink);
int pc_unlinkat(int at, const char *path, int flags) SYMBOL(unlinkat);
int pc_unlink(const char *path)
{
	return unlink_any(AT_FDCWD, path, 0);
}
int pc_unlinkat(int at, const char *path, int flags)
{
	return unlink_any(at, path, flags);
}
