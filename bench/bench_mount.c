/* SPDX-License-Identifier: Apache-2.0 */
/* bench_mount.c -- reads files as programs do, in several threads or processes at once.
 *
 *   bench_mount MODE DIR LIST SIZE WORKERS SECONDS
 *
 * MODE: read (open, read all, close), stat, direct (O_DIRECT reads of 4 KiB at random places of open files); with a `p`
 * behind it the workers are processes, else threads. LIST: names below DIR, one a line. SECONDS 0: every name
 * once, shared out in turn; else names at random for so long. Every file must have SIZE bytes. Prints JSON. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS_MAX = 64, PIECE = 4096, OPEN_MAX = 256 };

struct shared {
	atomic_uint ready, failed;
	atomic_bool go, stop;
	atomic_ullong done[WORKERS_MAX];
};
struct job {
	const char *mode;
	int dir;
	char **names;
	size_t count, size;
	unsigned workers;
	double seconds;
	struct shared *shared;
};
struct worker { const struct job *job; unsigned number; pthread_t thread; pid_t process; };

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool fail(const char *what, const char *name)
{
	fprintf(stderr, "bench_mount: %s: %s: %s\n", name, what, strerror(errno));
	return false;
}

static bool read_one(const struct job *j, const char *name, char *room)
{
	size_t got = 0;
	ssize_t n = 1;
	int fd = openat(j->dir, name, O_RDONLY);

	if (fd < 0) return fail("open", name);
	while (got < j->size && (n = read(fd, room + got, j->size - got)) > 0) got += (size_t)n;
	close(fd);
	return got == j->size ? true : fail("read", name);
}

static bool stat_one(const struct job *j, const char *name)
{
	struct stat st;

	if (fstatat(j->dir, name, &st, 0) < 0) return fail("stat", name);
	return (size_t)st.st_size == j->size ? true : fail("size", name);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void wait_for_go(const struct job *j)
{
	atomic_fetch_add(&j->shared->ready, 1);
	while (!atomic_load(&j->shared->go)) usleep(100);
}

static bool files_run(const struct job *j, unsigned number, char *room)
{
	bool stat = j->mode[0] == 's', good = true;
	uint64_t state = number * UINT64_C(0x9e3779b97f4a7c15) + UINT64_C(88172645463325252), n = 0;

	wait_for_go(j);
	for (size_t i = number; good && !atomic_load_explicit(&j->shared->stop, memory_order_relaxed); n++) {
		if (j->seconds <= 0 && i >= j->count) break;
		const char *name = j->names[j->seconds <= 0 ? i : next_random(&state) % j->count];
		good = stat ? stat_one(j, name) : read_one(j, name, room);
		i += j->workers;
	}
	atomic_store(&j->shared->done[number], n);
	return good;
}

static bool direct_run(const struct job *j, unsigned number, char *room)
{
	uint64_t state = number * UINT64_C(0x9e3779b97f4a7c15) + UINT64_C(88172645463325252), n = 0;
	size_t count = j->count < OPEN_MAX ? j->count : OPEN_MAX;
	int fds[OPEN_MAX];
	bool good = true;

	for (size_t i = 0; i < count; i++) {
		fds[i] = openat(j->dir, j->names[i], O_RDONLY | O_DIRECT);
		if (fds[i] < 0) return fail("open", j->names[i]);
	}
	wait_for_go(j);
	while (good && !atomic_load_explicit(&j->shared->stop, memory_order_relaxed)) {
		size_t file = next_random(&state) % count, at = next_random(&state) % (j->size / PIECE) * PIECE;
		good = pread(fds[file], room, PIECE, (off_t)at) == PIECE || fail("pread", j->names[file]);
		n++;
	}
	atomic_store(&j->shared->done[number], n);
	for (size_t i = 0; i < count; i++) close(fds[i]);
	return good;
}

static void *worker_run(void *arg)
{
	const struct worker *w = arg;
	void *room = NULL;
	bool good = posix_memalign(&room, PIECE, w->job->size + PIECE) == 0;

	if (good) memset(room, 1, w->job->size);
	good = good && (w->job->mode[0] == 'd' ? direct_run : files_run)(w->job, w->number, room);
	if (!good) {
		atomic_fetch_add(&w->job->shared->failed, 1);
		atomic_fetch_add(&w->job->shared->ready, WORKERS_MAX);
	}
	free(room);
	return NULL;
}

static bool names_read(const char *path, struct job *j)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t room = 0, cap = 0;
	ssize_t n;

	while (f && (n = getline(&line, &room, f)) > 0) {
		if (line[n - 1] == '\n') line[n - 1] = '\0';
		if (j->count == cap) {
			cap = cap ? 2 * cap : 1024;
			j->names = realloc(j->names, cap * sizeof(*j->names));
			if (!j->names) abort();
		}
		j->names[j->count++] = strdup(line);
	}
	free(line);
	if (f) fclose(f);
	return j->count > 0;
}

static double cpu_s(int who)
{
	struct rusage r;

	getrusage(who, &r);
	return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
	       (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static double workers_run(const struct job *j, bool processes)
{
	struct worker workers[WORKERS_MAX];

	for (unsigned i = 0; i < j->workers; i++) {
		workers[i] = (struct worker){ .job = j, .number = i };
		struct worker *w = &workers[i];
		if (!processes && pthread_create(&w->thread, NULL, worker_run, w) != 0) abort();
		if (!processes) continue;
		if ((workers[i].process = fork()) == 0) {
			worker_run(&workers[i]);
			_exit(0);
		}
	}
	while (atomic_load(&j->shared->ready) < j->workers) usleep(100);
	double start = now_s();
	atomic_store(&j->shared->go, true);
	if (j->seconds > 0) usleep((useconds_t)(j->seconds * 1e6));
	if (j->seconds > 0) atomic_store(&j->shared->stop, true);
	for (unsigned i = 0; i < j->workers; i++) {
		if (processes)
			waitpid(workers[i].process, NULL, 0);
		else
			pthread_join(workers[i].thread, NULL);
	}
	return now_s() - start;
}

int main(int argc, char **argv)
{
	struct job j = { .mode = "" };

	if (argc != 7) {
		fprintf(stderr, "usage: bench_mount read|stat|direct[p] DIR LIST SIZE WORKERS SECONDS\n");
		return 2;
	}
	j.mode = argv[1];
	j.dir = open(argv[2], O_RDONLY | O_DIRECTORY);
	j.size = strtoull(argv[4], NULL, 10);
	j.workers = (unsigned)strtoul(argv[5], NULL, 10);
	j.seconds = strtod(argv[6], NULL);
	j.shared = mmap(NULL, sizeof(*j.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (j.dir < 0 || !names_read(argv[3], &j) || j.workers < 1 || j.workers > WORKERS_MAX ||
		j.shared == MAP_FAILED) {
		fprintf(stderr, "bench_mount: cannot use %s, %s: %s\n", argv[2], argv[3], strerror(errno));
		return 1;
	}
	double seconds = workers_run(&j, j.mode[strlen(j.mode) - 1] == 'p');
	unsigned long long done = 0;
	for (unsigned i = 0; i < j.workers; i++) done += atomic_load(&j.shared->done[i]);
	printf("{\"per_s\": %.1f, \"count\": %llu, \"seconds\": %.4f, \"cpu_us\": %.3f}\n", (double)done / seconds,
		done, seconds, (cpu_s(RUSAGE_SELF) + cpu_s(RUSAGE_CHILDREN)) / (double)done * 1e6);
	return atomic_load(&j.shared->failed) ? 1 : 0;
}
