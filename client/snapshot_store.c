/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_store.c -- pages of snapshots, shared by all processes of a user on one machine: a file in memory for each,
 * named by its hash, mapped read-only by everyone.
 *
 * (1) a file appears under its name whole and verified: it is filled as `.HASH` by who holds the lock of that file,
 *     then renamed. Who dies in between leaves a `.HASH` that nobody has locked: the next one fills it again, or it
 *     goes.
 * (2) whoever opens a file verifies length and hash once: what another process left is not trusted.
 * (3) the folder is the user's own, closed to others; where there is none, pages live in the process alone.
 * (4) the folder keeps about STORE_MAX bytes at most, and half of its file system, and nothing that was not opened for
 *     a day: what was not opened for longest goes; mappings of it live on, so whoever uses a page loses nothing. */
#include "snapshot_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

#define STORE_MAX ((uint64_t)1 << 30)
#define TRIM_BYTES ((uint64_t)16 << 20)
#define TRIM_NS UINT64_C(1000000000)
enum {
	STORE_PATH_MAX = 512,
	STORE_NAME_LEN = 32,
	STORE_UNUSED_S = 24 * 3600, /* a page that nobody opened for so long goes */
	STORE_LEFT_S = 60,          /* and one that is not whole, if nobody is at it */
	VERIFY_PIECE = 128 * 1024,
};

/* A folder that is ours and nobody else's; the descriptor, or -1. */
static int store_folder(void)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char path[STORE_PATH_MAX];
	struct stat st;
	int n;

	if (runtime && runtime[0] == '/')
		n = snprintf(path, sizeof(path), "%s/granary", runtime);
	else
		n = snprintf(path, sizeof(path), "/dev/shm/granary-%u", (unsigned)geteuid());
	if (n >= (int)sizeof(path) || (mkdir(path, 0700) < 0 && errno != EEXIST))
		return -1;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* out[1..] is the name of a page, all of it the name while it is being filled. */
static void store_name(struct hash128 hash, char out[STORE_NAME_LEN + 2])
{
	snprintf(out, STORE_NAME_LEN + 2, ".%016" PRIx64 "%016" PRIx64, hash.hi, hash.lo);
}

static bool hash_is(struct hash128 a, struct hash128 b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

/* ---- reading ---- */

static bool map_file(int fd, size_t len, int access, struct stored *out)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != len || len == 0)
		return false;
	void *p = mmap(NULL, len, access, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return false;
	*out = (struct stored){ p, len, true };
	return true;
}

/* Reads instead of looking through a mapping: what is not used of a page then never counts as memory of ours. */
static bool file_has_hash(int fd, size_t len, struct hash128 hash)
{
	struct hash_stream *h = hash_stream_new();
	uint8_t *piece = malloc(VERIFY_PIECE);
	size_t at = 0;

	while (h && piece && at < len) {
		ssize_t n = pread(fd, piece, len - at < VERIFY_PIECE ? len - at : VERIFY_PIECE, (off_t)at);
		if (n <= 0)
			break;
		hash_stream_add(h, piece, (size_t)n);
		at += (size_t)n;
	}
	bool good = h && piece && at == len && hash_is(hash_stream_get(h), hash);
	free(piece);
	hash_stream_free(&h);
	return good;
}

bool stored_open(struct hash128 hash, size_t len, bool known, struct stored *out)
{
	char name[STORE_NAME_LEN + 2];
	int folder = store_folder();

	*out = (struct stored){ .p = NULL };
	if (folder < 0)
		return false;
	store_name(hash, name);
	int fd = openat(folder, name + 1, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool good = fd >= 0 && map_file(fd, len, PROT_READ, out) && (known || file_has_hash(fd, len, hash));
	if (!good && out->p)
		stored_close(out);
	if (fd >= 0 && !good)
		unlinkat(folder, name + 1, 0);
	if (good)
		futimens(fd, NULL); /* used now; it is only a hint for (4), and may not be allowed */
	if (fd >= 0)
		close(fd);
	close(folder);
	return good;
}

void stored_close(struct stored *s)
{
	union { const void *c; void *p; } block = { s->p };

	if (s->mapped)
		munmap(block.p, s->len);
	else
		free(block.p);
	*s = (struct stored){ .p = NULL };
}

/* ---- what goes ---- */

struct victim {
	char name[STORE_NAME_LEN + 2];
	struct timespec used;
	uint64_t size;
};

static int victim_order(const void *a, const void *b)
{
	const struct victim *x = a, *y = b;

	if (x->used.tv_sec != y->used.tv_sec)
		return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
	return x->used.tv_nsec < y->used.tv_nsec ? -1 : x->used.tv_nsec > y->used.tv_nsec;
}

struct victims { struct victim *all; size_t count, cap; uint64_t total; };

static bool victim_add(struct victims *v, const char *name, const struct stat *st)
{
	if (v->count == v->cap) {
		size_t cap = v->cap ? 2 * v->cap : 256;
		void *wide = realloc(v->all, cap * sizeof(*v->all));
		if (!wide)
			return false;
		v->all = wide;
		v->cap = cap;
	}
	struct victim *to = &v->all[v->count++];
	snprintf(to->name, sizeof(to->name), "%s", name);
	to->used = st->st_mtim;
	to->size = (uint64_t)st->st_size;
	v->total += to->size;
	return true;
}

/* A file being filled, by one who may be gone. */
static void left_remove(int folder, const char *name)
{
	int fd = openat(folder, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		unlinkat(folder, name, 0);
	if (fd >= 0)
		close(fd);
}

/* Lists whole pages; what nobody will use goes at once. */
static void store_list(int folder, struct victims *v)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	time_t now = time(NULL);
	struct stat st;

	if (!dir && fd >= 0)
		close(fd);
	for (const struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
		const char *name = e->d_name;
		if (strlen(name) > STORE_NAME_LEN + 1 || fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			!S_ISREG(st.st_mode))
			continue;
		if (name[0] == '.' && now - st.st_mtime > STORE_LEFT_S)
			left_remove(folder, name);
		else if (name[0] != '.' && now - st.st_mtime > STORE_UNUSED_S)
			unlinkat(folder, name, 0);
		else if (name[0] != '.' && !victim_add(v, name, &st))
			break;
	}
	if (dir)
		closedir(dir);
}

static uint64_t store_limit(int folder)
{
	struct statvfs fs;

	if (fstatvfs(folder, &fs) < 0)
		return STORE_MAX;
	uint64_t half = (uint64_t)fs.f_blocks * fs.f_frsize / 2;
	return half < STORE_MAX ? half : STORE_MAX;
}

/* Looking at all files for each that comes would take longer than the files: once for so many bytes or seconds. */
static bool trim_is_due(uint64_t limit, size_t room)
{
	static _Atomic uint64_t since_bytes, since_ns;
	uint64_t step = limit / 8 < TRIM_BYTES ? limit / 8 : TRIM_BYTES, now = clock_mono_ns();
	uint64_t bytes = atomic_fetch_add(&since_bytes, room) + room;

	if (bytes < step && now - atomic_load(&since_ns) < TRIM_NS)
		return false;
	atomic_store(&since_bytes, 0);
	atomic_store(&since_ns, now);
	return true;
}

/* False: there is no room for so much. */
static bool store_trim(int folder, size_t room)
{
	struct victims v = { .all = NULL };
	uint64_t limit = store_limit(folder);

	if (room > limit || !trim_is_due(limit, room))
		return room <= limit;
	store_list(folder, &v);
	if (v.total + room > limit)
		qsort(v.all, v.count, sizeof(*v.all), victim_order);
	for (size_t i = 0; i < v.count && v.total + room > limit; i++) {
		v.total -= v.all[i].size;
		unlinkat(folder, v.all[i].name, 0);
	}
	free(v.all);
	return true;
}

/* ---- writing ---- */

/* The file that is filled, locked; -GRANARY_EAGAIN: another process is at it; -GRANARY_EIO: it cannot be. */
static int fill_file(int folder, const char *name)
{
	struct stat ours, named;
	int fd = openat(folder, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -GRANARY_EIO;
	bool locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
	/* Renamed before we had the lock, it is a page: not to be touched. */
	bool same = locked && fstat(fd, &ours) == 0 && fstatat(folder, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
		ours.st_ino == named.st_ino;
	if (same)
		return fd;
	close(fd);
	return -GRANARY_EAGAIN;
}

/* Room in the file, taken before anything is written: a file system that is full is told here, not by a signal. */
static bool fill_map(struct storing *s, size_t len)
{
	struct stored map;

	if (ftruncate(s->fd, 0) < 0 || posix_fallocate(s->fd, 0, (off_t)len) != 0 ||
		!map_file(s->fd, len, PROT_READ | PROT_WRITE, &map))
		return false;
	union { const uint8_t *c; uint8_t *p; } room = { map.p };
	s->p = room.p;
	return true;
}

int storing_begin(struct hash128 hash, size_t len, bool alone, struct storing *s)
{
	char name[STORE_NAME_LEN + 2];

	*s = (struct storing){ .hash = hash, .len = len, .fd = -1, .folder = alone ? -1 : store_folder() };
	if (s->folder >= 0) {
		store_name(hash, name);
		s->fd = store_trim(s->folder, len) ? fill_file(s->folder, name) : -GRANARY_EIO;
		if (s->fd >= 0 && fill_map(s, len))
			return 0;
		bool busy = s->fd == -GRANARY_EAGAIN;
		if (s->fd >= 0) {
			unlinkat(s->folder, name, 0);
			close(s->fd);
		}
		close(s->folder);
		s->folder = s->fd = -1;
		if (busy)
			return -GRANARY_EAGAIN;
	}
	s->p = malloc(len > 0 ? len : 1);
	return s->p ? 0 : -GRANARY_ENOMEM;
}

void storing_end(struct storing *s, struct stored *out)
{
	char name[STORE_NAME_LEN + 2];
	struct stored again;

	*out = (struct stored){ s->p, s->len, s->folder >= 0 };
	if (s->folder < 0)
		return;
	store_name(s->hash, name);
	fchmod(s->fd, 0400);
	if (renameat(s->folder, name, s->folder, name + 1) < 0)
		unlinkat(s->folder, name, 0); /* ours alone */
	/* What was written counts as our memory as long as it is mapped here; another mapping has only what is read. */
	if (map_file(s->fd, s->len, PROT_READ, &again)) {
		munmap(s->p, s->len);
		*out = again;
	}
	close(s->fd);
	close(s->folder);
}

void storing_abandon(struct storing *s)
{
	char name[STORE_NAME_LEN + 2];

	if (s->folder < 0) {
		free(s->p);
		return;
	}
	store_name(s->hash, name);
	unlinkat(s->folder, name, 0);
	munmap(s->p, s->len);
	close(s->fd);
	close(s->folder);
}
