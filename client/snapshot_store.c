/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_store.c -- pages of snapshots, shared by all processes of a user on one machine: a file in memory for each,
 * named by its hash, mapped read-only by everyone.
 *
 * (1) a file appears under its name whole: written under another name, then renamed.
 * (2) whoever opens a file verifies length and hash before it is used: what another process left is not trusted.
 * (3) the folder is the user's own, closed to others; where there is none, pages live in the process alone.
 * (4) the folder keeps at most STORE_MAX bytes: what was not opened for longest goes; mappings of it live on. */
#include "snapshot_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STORE_MAX ((uint64_t)1 << 30)
enum { STORE_PATH_MAX = 512, STORE_NAME_LEN = 32 };

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

static void store_name(struct hash128 hash, char out[STORE_NAME_LEN + 1])
{
	snprintf(out, STORE_NAME_LEN + 1, "%016" PRIx64 "%016" PRIx64, hash.hi, hash.lo);
}

static bool hash_is(struct hash128 a, struct hash128 b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

static bool map_file(int fd, size_t len, struct stored *out)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != len || len == 0)
		return false;
	void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return false;
	*out = (struct stored){ p, len, true };
	return true;
}

bool stored_open(struct hash128 hash, size_t len, struct stored *out)
{
	char name[STORE_NAME_LEN + 1];
	int folder = store_folder();

	*out = (struct stored){ .p = NULL };
	if (folder < 0)
		return false;
	store_name(hash, name);
	int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool found = fd >= 0 && map_file(fd, len, out);
	bool good = found && hash_is(hash_content(out->p, len), hash);
	if (found && !good)
		stored_close(out);
	if (fd >= 0 && !good)
		unlinkat(folder, name, 0);
	if (good)
		futimens(fd, NULL); /* used now; it is only a hint for (4) */
	if (fd >= 0)
		close(fd);
	close(folder);
	return good;
}

struct victim {
	char name[STORE_NAME_LEN + 1];
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

static size_t store_list(int folder, struct victim *out, size_t cap, uint64_t *total)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	size_t count = 0;
	struct stat st;

	*total = 0;
	if (!dir && fd >= 0)
		close(fd);
	for (const struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
		if (e->d_name[0] == '.' || strlen(e->d_name) > STORE_NAME_LEN || count == cap ||
			fstatat(folder, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		struct victim *v = &out[count++];
		snprintf(v->name, sizeof(v->name), "%.*s", STORE_NAME_LEN, e->d_name);
		v->used = st.st_mtim;
		v->size = (uint64_t)st.st_size;
		*total += v->size;
	}
	if (dir)
		closedir(dir);
	return count;
}

static void store_trim(int folder, size_t room)
{
	enum { FILES_MAX = 16384 };
	struct victim *files = malloc(FILES_MAX * sizeof(*files));
	uint64_t total;

	if (!files)
		return;
	size_t count = store_list(folder, files, FILES_MAX, &total);
	if (total + room > STORE_MAX)
		qsort(files, count, sizeof(*files), victim_order);
	for (size_t i = 0; i < count && total + room > STORE_MAX; i++) {
		total -= files[i].size;
		unlinkat(folder, files[i].name, 0);
	}
	free(files);
}

static bool write_all(int fd, const uint8_t *p, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, p, len);
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

void stored_keep(struct hash128 hash, uint8_t *block, size_t len, struct stored *out)
{
	static _Atomic uint32_t count;
	char name[STORE_NAME_LEN + 1], temporary[64];
	int folder = store_folder();

	*out = (struct stored){ block, len, false };
	if (folder < 0 || len > STORE_MAX / 4) {
		if (folder >= 0)
			close(folder);
		return;
	}
	store_name(hash, name);
	snprintf(temporary, sizeof(temporary), ".%ld.%u", (long)getpid(), atomic_fetch_add(&count, 1));
	store_trim(folder, len);
	int fd = openat(folder, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	struct stored mapped;
	if (fd >= 0 && write_all(fd, block, len) && map_file(fd, len, &mapped)) {
		if (renameat(folder, temporary, folder, name) < 0)
			unlinkat(folder, temporary, 0); /* ours alone */
		free(block);
		*out = mapped;
	} else if (fd >= 0) {
		unlinkat(folder, temporary, 0);
	}
	if (fd >= 0)
		close(fd);
	close(folder);
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
