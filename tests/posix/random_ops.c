/* SPDX-License-Identifier: Apache-2.0 */
/* random_ops.c -- the same random calls on a file of a file system under test and on one of the local disk.
 *
 *   random_ops --local DIR --at DIR [--at DIR]... [--ops N] [--seed N] [--span BYTES]
 *
 * Goal: each call returns the same on both, and after each opening the two files are the same byte by byte. Several
 * --at are several mounts of one tree: whenever the file is closed, the next opening is at any of them (close-to-open).
 * Method: (1) two descriptors and a shared mapping stay open over many calls; after a rename over the file or an unlink
 * they are of one without a name. (2) what a call needs is drawn before it is done on either side, so a seed repeats a
 * run. (3) at the first difference: the seed, the last calls, the place; exit code 1. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { SIDES = 2, TESTED = 0, LOCAL = 1, ATS_MAX = 4, PAGE = 4096, HISTORY = 64, PATH_SIZE = 4200 };

/* What one call is done with. */
struct args {
	uint64_t at, len, to;              /* to: where it is copied to, a new size, a time */
	uint32_t choice;                   /* what kinds of a call there are */
	uint64_t size;                     /* of the file, before */
	const uint8_t *data;               /* len bytes to write */
};

struct side {
	const char *dirs[ATS_MAX];
	uint32_t dirs_count, dir;
	int fd, other;                     /* other: of the same file, or of the one that was replaced; -1 */
	uint8_t *map;                      /* of fd; NULL */
	size_t map_len;                    /* some of it may be behind the end */
	uint8_t *got;                      /* what a call read, 2 * span */
	size_t got_len;
};

struct op {
	const char *name;
	uint32_t weight;
	int64_t (*run)(struct side *s, const struct args *a); /* >= 0, or -errno */
	bool keeps_mtime;
};

static struct side sides[SIDES];
static uint64_t span = 1 << 20, seed = 1, ops_count = 10000, op_number, rng_state;
static bool mtime_is_set;                  /* by utimens, and nothing was written since */
static struct { const char *name; struct args args; int64_t result; } history[HISTORY];

static uint64_t draw(void)
{
	uint64_t x = rng_state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t below(uint64_t n) { return n > 0 ? draw() % n : 0; }

static void failed(const char *what)
{
	for (uint64_t i = op_number > HISTORY - 1 ? op_number - (HISTORY - 1) : 0; i <= op_number; i++) {
		const struct args *a = &history[i % HISTORY].args;
		printf("  %" PRIu64 ": %s at=%" PRIu64 " len=%" PRIu64 " to=%" PRIu64 " choice=%u size=%" PRIu64
		       " gave %" PRId64 "\n", i, history[i % HISTORY].name, a->at, a->len, a->to, a->choice, a->size,
			history[i % HISTORY].result);
	}
	printf("FAIL seed=%" PRIu64 " call %" PRIu64 ": %s\n", seed, op_number, what);
	exit(1);
}

static const char *path_of(const struct side *s, const char *end)
{
	static char paths[2][PATH_SIZE];
	static unsigned next;
	char *path = paths[next++ % 2];

	snprintf(path, PATH_SIZE, "%s/file-%" PRIu64 "%s", s->dirs[s->dir], seed, end);
	return path;
}

static int64_t result_of(int64_t n) { return n < 0 ? -errno : n; }

static int fd_of(const struct side *s, const struct args *a)
{
	return a->choice & 1 && s->other >= 0 ? s->other : s->fd;
}

/* ---- reading and writing ---- */

static int64_t run_read(struct side *s, const struct args *a)
{
	size_t part = a->len / 3;
	struct iovec parts[3] = { { s->got, part }, { s->got + part, part }, { s->got + 2 * part, a->len - 2 * part } };
	int64_t n = result_of(a->choice & 2 ? preadv(fd_of(s, a), parts, 3, (off_t)a->at)
					    : pread(fd_of(s, a), s->got, a->len, (off_t)a->at));

	s->got_len = n > 0 ? (size_t)n : 0;
	return n;
}

static int64_t run_write(struct side *s, const struct args *a)
{
	size_t part = a->len / 3;
	uint8_t *from = (uint8_t *)(uintptr_t)a->data;
	struct iovec parts[3] = { { from, part }, { from + part, part }, { from + 2 * part, a->len - 2 * part } };

	return result_of(a->choice & 2 ? pwritev(fd_of(s, a), parts, 3, (off_t)a->at)
				       : pwrite(fd_of(s, a), from, a->len, (off_t)a->at));
}

/* The same file through a descriptor of its own. */
static int again_open(const struct side *s, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
	return open(path, flags | O_CLOEXEC);
}

static int64_t run_direct(struct side *s, const struct args *a)
{
	uint64_t at = a->at / PAGE * PAGE, len = a->len / PAGE * PAGE;
	int fd = again_open(s, O_RDWR | O_DIRECT);
	bool writes = a->choice & 1;

	if (fd < 0) return -errno;
	int64_t n = result_of(writes ? pwrite(fd, a->data, len, (off_t)at) : pread(fd, s->got, len, (off_t)at));
	s->got_len = n > 0 && !writes ? (size_t)n : 0;
	close(fd);
	return n;
}

static int64_t run_append(struct side *s, const struct args *a)
{
	bool by_path = a->choice & 1;
	int fd = by_path ? open(path_of(s, ""), O_WRONLY | O_APPEND | O_CLOEXEC) : again_open(s, O_WRONLY | O_APPEND);

	if (fd < 0) return -errno;
	if (a->size > 2 * span - a->len) {
		close(fd);
		return 0;
	}
	int64_t n = result_of(pwrite(fd, a->data, a->len, 0)); /* wherever: it goes to the end */
	close(fd);
	return n;
}

/* ---- mappings ---- */

static int64_t map_range(struct side *s, const struct args *a, uint64_t *at, uint64_t *len)
{
	if (!s->map) {
		s->map_len = 2 * span;
		s->map = mmap(NULL, s->map_len, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
		if (s->map == MAP_FAILED) {
			s->map = NULL;
			return -errno;
		}
	}
	uint64_t end = a->size < s->map_len ? a->size : s->map_len;
	*at = a->at < end ? a->at : end;
	*len = a->len < end - *at ? a->len : end - *at;
	return (int64_t)*len;
}

static void map_end(struct side *s)
{
	if (s->map) munmap(s->map, s->map_len);
	s->map = NULL;
}

static int64_t run_map_read(struct side *s, const struct args *a)
{
	uint64_t at = 0, len = 0;
	int64_t n = map_range(s, a, &at, &len);

	if (n <= 0) return n;
	memcpy(s->got, s->map + at, len);
	s->got_len = len;
	return n;
}

static int64_t run_map_write(struct side *s, const struct args *a)
{
	uint64_t at = 0, len = 0;
	int64_t n = map_range(s, a, &at, &len);

	if (n <= 0) return n;
	memcpy(s->map + at, a->data, len);
	if (a->choice % 8 == 0) return result_of(msync(s->map, s->map_len, s == &sides[LOCAL] ? MS_ASYNC : MS_SYNC));
	if (a->choice & 1) map_end(s);
	return n;
}

/* What lies behind the end in the last page is never written out. (The page has to be written out before the file
 * grows: of one that is dirty then Linux writes all, on every FUSE file system.) */
static int64_t run_map_tail(struct side *s, const struct args *a)
{
	uint64_t at = 0, len = 0, end = (a->size + PAGE - 1) / PAGE * PAGE;
	int64_t n = map_range(s, a, &at, &len);

	if (n < 0 || end > s->map_len) return n < 0 ? n : 0;
	if (a->len >= end - a->size) memcpy(s->map + a->size, a->data, end - a->size);
	map_end(s);
	return result_of(ftruncate(s->fd, (off_t)(end + 1)));
}

static int64_t run_map_private(struct side *s, const struct args *a)
{
	uint64_t from = a->at / PAGE * PAGE, end = from + a->len < a->size ? from + a->len : a->size;

	if (from >= end) return 0;
	uint8_t *map = mmap(NULL, end - from, PROT_READ | PROT_WRITE, MAP_PRIVATE, s->fd, (off_t)from);
	if (map == MAP_FAILED) return -errno;
	memcpy(map + (end - from) / 2, a->data, (end - from) / 4);
	memcpy(s->got, map, end - from);
	s->got_len = end - from;
	munmap(map, end - from);
	return (int64_t)s->got_len;
}

/* ---- lengths and holes ---- */

static int64_t run_truncate(struct side *s, const struct args *a)
{
	return result_of(a->choice & 1 ? truncate(path_of(s, ""), (off_t)a->to) : ftruncate(s->fd, (off_t)a->to));
}

static int64_t run_allocate(struct side *s, const struct args *a)
{
	static const int modes[] = { FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE };

	return result_of(fallocate(fd_of(s, a), modes[a->choice / 2 % (sizeof(modes) / sizeof(modes[0]))], (off_t)a->at,
		(off_t)a->len));
}

static int64_t run_copy(struct side *s, const struct args *a)
{
	int from = fd_of(s, a), to = a->choice & 2 && s->other >= 0 ? s->other : s->fd;
	uint64_t done = 0;

	while (done < a->len) {
		off_t in = (off_t)(a->at + done), out = (off_t)(a->to % span + done);
		ssize_t n = copy_file_range(from, &in, to, &out, a->len - done, 0);
		if (n < 0) return -errno;
		if (n == 0) break;
		done += (uint64_t)n;
	}
	return (int64_t)done;
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
	return len == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
}

/* How large holes are is a file system's own business: what is passed over has to be zero. (What is mapped is
 * written out before: Linux asks FUSE file systems without doing so.) */
static int64_t run_seek(struct side *s, const struct args *a)
{
	bool data = a->choice & 1;

	map_end(s);
	int64_t to = result_of(lseek(s->fd, (off_t)a->at, data ? SEEK_DATA : SEEK_HOLE));
	uint64_t end = to >= 0 ? (uint64_t)to : a->size;
	bool good = to >= 0 ? end >= a->at && end <= a->size : to == -ENXIO && (data || a->at >= a->size);

	if (good && data && end > a->at)
		good = pread(s->fd, s->got, end - a->at, (off_t)a->at) == (int64_t)(end - a->at) &&
		       is_zero(s->got, end - a->at);
	if (good && !data && end < a->size && to >= 0) good = pread(s->fd, s->got, 1, to) == 1 && s->got[0] == 0;
	return good ? 0 : to;
}

/* ---- names ---- */

static void close_all(struct side *s)
{
	map_end(s);
	if (s->fd >= 0) close(s->fd);
	if (s->other >= 0) close(s->other);
	s->fd = s->other = -1;
}

static int64_t open_all(struct side *s, int flags)
{
	s->fd = open(path_of(s, ""), O_RDWR | O_CREAT | O_CLOEXEC | flags, 0644);
	if (s->fd < 0) return -errno;
	int64_t n = result_of(pread(s->fd, s->got, 2 * span, 0));
	s->got_len = n > 0 ? (size_t)n : 0;
	return n;
}

static int64_t run_reopen(struct side *s, const struct args *a)
{
	close_all(s);
	s->dir = a->choice / 64 % s->dirs_count;
	return open_all(s, a->choice % 64 == 0 ? O_TRUNC : a->choice % 64 == 1 && s == &sides[TESTED] ? O_SYNC : 0);
}

static int64_t run_open_other(struct side *s, const struct args *a)
{
	if (s->other >= 0) close(s->other);
	s->other = a->choice & 1 ? again_open(s, O_RDWR) : open(path_of(s, ""), O_RDWR | O_CLOEXEC);
	return s->other < 0 ? -errno : 0;
}

static int64_t run_close_other(struct side *s, const struct args *a)
{
	(void)a;
	if (s->other < 0) return 1;
	int64_t n = result_of(close(s->other));
	s->other = -1;
	return n;
}

static int64_t run_replace(struct side *s, const struct args *a)
{
	int fd = open(path_of(s, ".new"), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	bool is_closed = a->choice & 1;

	if (fd < 0) return -errno;
	if (write(fd, a->data, a->len) != (ssize_t)a->len) return -errno;
	if (is_closed) close(fd);
	if (rename(path_of(s, ".new"), path_of(s, "")) < 0) return -errno;
	map_end(s);
	if (s->other >= 0) close(s->other);
	s->other = s->fd;
	s->fd = is_closed ? open(path_of(s, ""), O_RDWR | O_CLOEXEC) : fd;
	return s->fd < 0 ? -errno : 0;
}

static int64_t run_unlink(struct side *s, const struct args *a)
{
	(void)a;
	return result_of(unlink(path_of(s, "")));
}

/* Under another name and back, or under two names for a while. */
static int64_t run_rename(struct side *s, const struct args *a)
{
	if (a->choice & 1 && rename(path_of(s, ""), path_of(s, ".away")) < 0) return -errno;
	if (!(a->choice & 1) && link(path_of(s, ""), path_of(s, ".away")) < 0) return -errno;
	if (!(a->choice & 1) && unlink(path_of(s, "")) < 0) return -errno;
	if (a->choice & 2 && pwrite(s->fd, a->data, a->len, (off_t)a->at) < 0) return -errno;
	return result_of(rename(path_of(s, ".away"), path_of(s, "")));
}

/* ---- attributes ---- */

struct seen { uint64_t size, links, mode, mtime_ns; };

static int64_t run_stat(struct side *s, const struct args *a)
{
	struct stat st;
	struct seen seen;

	if ((a->choice & 1 ? stat(path_of(s, ""), &st) : fstat(fd_of(s, a), &st)) < 0) return -errno;
	seen = (struct seen){ (uint64_t)st.st_size, st.st_nlink, st.st_mode,
		mtime_is_set ? (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec : 0 };
	if (a->choice & 1 || fd_of(s, a) != s->fd) seen.mtime_ns = 0; /* maybe another file */
	memcpy(s->got, &seen, sizeof(seen));
	s->got_len = sizeof(seen);
	return 0;
}

static int64_t run_times(struct side *s, const struct args *a)
{
	struct timespec times[2] = { { .tv_sec = (time_t)(a->at % 1000000), .tv_nsec = 5 },
		{ .tv_sec = (time_t)a->to, .tv_nsec = (long)(a->len % 1000000000) } };

	map_end(s); /* which would change them later */
	return result_of(futimens(s->fd, times));
}

static int64_t run_mode(struct side *s, const struct args *a)
{
	return result_of(fchmod(s->fd, (mode_t)(0600 | (a->choice & 0177))));
}

static int64_t run_xattr(struct side *s, const struct args *a)
{
	size_t len = a->len % 200;

	if (a->choice & 1) return result_of(fsetxattr(s->fd, "user.random", a->data, len, 0));
	int64_t n = result_of(fgetxattr(s->fd, "user.random", s->got, 2 * span));
	s->got_len = n > 0 ? (size_t)n : 0;
	return n;
}

static int64_t run_sync(struct side *s, const struct args *a)
{
	if (s == &sides[LOCAL]) return 0;
	return result_of(a->choice & 1 ? fsync(s->fd) : fdatasync(s->fd));
}

static int64_t run_forget(struct side *s, const struct args *a)
{
	(void)a;
	return -posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static const struct op ops[] = {
	{ "read", 140, run_read, true }, { "write", 160, run_write, false }, { "direct", 40, run_direct, false },
	{ "append", 40, run_append, false }, { "map read", 50, run_map_read, true },
	{ "map write", 60, run_map_write, false }, { "map tail", 10, run_map_tail, false },
	{ "private map", 30, run_map_private, true },
	{ "truncate", 50, run_truncate, false }, { "fallocate", 80, run_allocate, false },
	{ "copy", 50, run_copy, false }, { "seek", 30, run_seek, true }, { "reopen", 40, run_reopen, true },
	{ "open other", 30, run_open_other, true },
	{ "close other", 15, run_close_other, true }, { "replace", 15, run_replace, false },
	{ "unlink", 5, run_unlink, true }, { "rename", 15, run_rename, false }, { "stat", 40, run_stat, true },
	{ "times", 20, run_times, true }, { "mode", 10, run_mode, true }, { "xattr", 15, run_xattr, true },
	{ "sync", 15, run_sync, true }, { "forget", 20, run_forget, true },
};
enum { OPS = sizeof(ops) / sizeof(ops[0]) };

/* ---- the loop ---- */

static const struct op *op_draw(void)
{
	static uint64_t all;
	size_t i = 0;

	if (all == 0)
		for (size_t k = 0; k < OPS; k++) all += ops[k].weight;
	for (uint64_t left = below(all); left >= ops[i].weight; i++) left -= ops[i].weight;
	return &ops[i];
}

static void args_draw(struct args *a, uint8_t *room)
{
	static const uint64_t lengths[] = { 1, 100, PAGE, 3 * PAGE, 70000, 400000 };
	struct stat st;

	a->size = fstat(sides[LOCAL].fd, &st) == 0 ? (uint64_t)st.st_size : 0;
	a->at = below(span);
	if (below(3) == 0) a->at = a->at / PAGE * PAGE;
	if (below(4) == 0) a->at = (a->size + below(200)) % span;
	a->len = 1 + below(2 * lengths[below(sizeof(lengths) / sizeof(lengths[0]))]);
	if (below(3) == 0) a->len = (a->len + PAGE - 1) / PAGE * PAGE;
	if (a->len > span - a->at) a->len = span - a->at;
	a->to = below(2 * span);
	a->choice = (uint32_t)draw();
	uint64_t start = below(span / 2) / PAGE * PAGE; /* of bytes that were drawn once, but for their beginning */
	memcpy(room + start, &op_number, sizeof(op_number));
	a->data = room + start;
}

static void sides_compare(int64_t tested, int64_t local)
{
	char text[200];
	const struct side *t = &sides[TESTED], *l = &sides[LOCAL];
	size_t i = 0;

	snprintf(text, sizeof(text), "gave %" PRId64 ", and %" PRId64 " on the local disk", tested, local);
	if (tested != local || t->got_len != l->got_len) failed(text);
	while (i < t->got_len && t->got[i] == l->got[i]) i++;
	snprintf(text, sizeof(text), "byte %zu of %zu is %02x, and %02x on the local disk", i, t->got_len, t->got[i],
		l->got[i]);
	if (i < t->got_len) failed(text);
}

static void step(uint8_t *room)
{
	const struct op *op = op_draw();
	struct args a;
	int64_t results[SIDES];

	args_draw(&a, room);
	history[op_number % HISTORY].name = op->name;
	history[op_number % HISTORY].args = a;
	for (int i = 0; i < SIDES; i++) {
		sides[i].got_len = 0;
		results[i] = op->run(&sides[i], &a);
	}
	history[op_number % HISTORY].result = results[TESTED];
	sides_compare(results[TESTED], results[LOCAL]);
	if (!op->keeps_mtime) mtime_is_set = false;
	if (op->run == run_times && results[TESTED] == 0) mtime_is_set = true;
	if (op->run == run_reopen && results[TESTED] == 0) mtime_is_set = false; /* it was made anew */
	if (sides[TESTED].fd < 0) failed("it cannot be opened");
}

static void usage(void)
{
	fprintf(stderr, "random_ops --local DIR --at DIR [--at DIR]... [--ops N] [--seed N] [--span BYTES]\n");
	exit(2);
}

static void words_read(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		const char *word = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
		if (strcmp(word, "--local") == 0)
			sides[LOCAL].dirs[sides[LOCAL].dirs_count++ % ATS_MAX] = value;
		else if (strcmp(word, "--at") == 0)
			sides[TESTED].dirs[sides[TESTED].dirs_count++ % ATS_MAX] = value;
		else if (strcmp(word, "--ops") == 0)
			ops_count = strtoull(value, NULL, 10);
		else if (strcmp(word, "--seed") == 0)
			seed = strtoull(value, NULL, 10);
		else if (strcmp(word, "--span") == 0)
			span = strtoull(value, NULL, 10);
		else
			usage();
	}
	if (sides[LOCAL].dirs_count != 1 || sides[TESTED].dirs_count - 1 >= ATS_MAX || span < 16 * PAGE) usage();
}

int main(int argc, char **argv)
{
	uint8_t *room;

	setvbuf(stdout, NULL, _IOLBF, 0);
	words_read(argc, argv);
	rng_state = seed;
	room = mmap(NULL, 2 * span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED) failed("no memory");
	for (uint64_t i = 0; i < 2 * span; i++) room[i] = (uint8_t)(1 + below(255));
	for (int i = 0; i < SIDES; i++) {
		sides[i].fd = sides[i].other = -1;
		sides[i].got = mmap(NULL, 2 * span + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (sides[i].got == MAP_FAILED || open_all(&sides[i], O_TRUNC) < 0) failed("cannot make the files");
	}
	for (op_number = 0; op_number < ops_count; op_number++) step(room);
	for (int i = 0; i < SIDES; i++) {
		close_all(&sides[i]);
		unlink(path_of(&sides[i], ""));
	}
	printf("seed=%" PRIu64 ": %" PRIu64 " calls\n", seed, ops_count);
	return 0;
}
