/* SPDX-License-Identifier: Apache-2.0 */
/* bench_local.c -- reads of a process on the server's own machine, and their limit: memcpy out of mapped files on one
 * core. GRANARY_URL names a Unix socket of the server, GRANARY_CREDENTIALS the key; everything is in the page cache.
 *
 *   bench_local copy FILES SIZE BATCH SECONDS               FILES: paths with ':' between them. Random pieces of
 *                                                           SIZE bytes, at offsets as records have them, BATCH of
 *                                                           them into one block, then the next BATCH over them
 *   bench_local snapshot BUCKET@NAME BATCH SECONDS          random samples of a snapshot, whose addresses are known
 *   bench_local live BUCKET PREFIX COUNT SIZE BATCH SECONDS random keys of samples as bench_client makes them; each
 *                                                           batch asks for addresses
 *
 * Prints one JSON object: per_s (samples), cpu_us (of this process, a sample), local (the part of the samples' bytes
 * that came by descriptor). */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/rand.h"
#include "granary/granary.h"

enum { FILES_MAX = 1024, RECORD_ALIGN = 8, WARM_ROUNDS = 64, BATCH_MAX = 4096, DIR_SAMPLES = 1000, KEY_SIZE = 128 };

static void die(const char *what, struct granary_client *c, int64_t err)
{
	fprintf(stderr, "bench_local: %s: %s (%s)\n", what, granary_strerror((int)err), c ? granary_last_error(c) : "");
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double own_cpu(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

struct meter { double began, cpu; uint64_t local; };

static uint64_t local_bytes(struct granary_client *c)
{
	struct granary_info info = GRANARY_INIT(granary_info);
	if (c && granary_client_info(c, &info) < 0) die("info", c, -GRANARY_EINVAL);
	return info.local_bytes;
}

static struct meter meter_start(struct granary_client *c)
{
	return (struct meter){ now(), own_cpu(), local_bytes(c) };
}

static void meter_report(const struct meter *m, struct granary_client *c, const char *what, double samples,
	double bytes)
{
	double seconds = now() - m->began, local = (double)(local_bytes(c) - m->local);
	printf("{\"what\": \"%s\", \"per_s\": %.1f, \"cpu_us\": %.3f, \"local\": %.4f}\n", what, samples / seconds,
		(own_cpu() - m->cpu) / samples * 1e6, c ? local / bytes : 1.0);
}

/* ---- the limit ---- */

struct mapped { const uint8_t *p; size_t len; };

static uint32_t map_all(char *files, struct mapped *out)
{
	uint32_t count = 0;
	char *rest = NULL;
	for (char *path = strtok_r(files, ":", &rest); path && count < FILES_MAX; path = strtok_r(NULL, ":", &rest)) {
		struct stat st;
		int fd = open(path, O_RDONLY);
		if (fd < 0 || fstat(fd, &st) < 0) die(path, NULL, -GRANARY_EIO);
		out[count].len = (size_t)st.st_size;
		out[count].p = mmap(NULL, out[count].len, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
		close(fd);
		if (out[count++].p == MAP_FAILED) die(path, NULL, -GRANARY_ENOMEM);
	}
	return count;
}

static void run_copy(char *files, size_t size, uint32_t batch, double seconds)
{
	static struct mapped maps[FILES_MAX];
	uint32_t count = map_all(files, maps);
	uint8_t *block = malloc(size * batch);
	struct rng rng;
	double samples = 0;
	if (count == 0 || !block) die("copy", NULL, -GRANARY_EINVAL);
	rng_seed(&rng, 1);
	memset(block, 1, size * batch);
	struct meter m = meter_start(NULL);
	for (; now() - m.began < seconds; samples += batch)
		for (uint32_t i = 0; i < batch; i++) {
			const struct mapped *f = &maps[rng_below(&rng, count)];
			size_t at = rng_below(&rng, (f->len - size) / RECORD_ALIGN) * RECORD_ALIGN;
			memcpy(block + i * size, f->p + at, size);
		}
	meter_report(&m, NULL, "copy", samples, 0);
}

/* ---- ours ---- */

static struct granary_client *open_client(void)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_client *c = NULL;
	o.memory_max = (uint64_t)1 << 30;
	int err = granary_open(&o, &c);
	if (err < 0) die("open", NULL, err);
	return c;
}

static double snapshot_batch(struct granary_client *c, struct granary_snapshot *s, struct rng *rng, uint32_t batch)
{
	uint64_t ids[BATCH_MAX], offsets[BATCH_MAX + 1];
	void *data;
	for (uint32_t i = 0; i < batch; i++) ids[i] = rng_below(rng, granary_snapshot_samples(s));
	int err = granary_snapshot_read_batch(s, ids, batch, &data, offsets, NULL);
	if (err < 0) die("read", c, err);
	granary_free(data);
	return (double)offsets[batch];
}

static void run_snapshot(char *name, uint32_t batch, double seconds)
{
	struct granary_client *c = open_client();
	struct granary_snapshot *s;
	char *at = strchr(name, '@');
	struct rng rng;
	double samples = 0, bytes = 0;
	if (!at) die("BUCKET@NAME", NULL, -GRANARY_EINVAL);
	*at = '\0';
	int err = granary_snapshot_open(c, at + 1, &s, GRANARY_CALL(.bucket = name));
	if (err < 0) die("snapshot", c, err);
	rng_seed(&rng, 1);
	for (uint32_t i = 0; i < WARM_ROUNDS; i++) snapshot_batch(c, s, &rng, batch); /* descriptors come meanwhile */
	struct meter m = meter_start(c);
	for (; now() - m.began < seconds; samples += batch) bytes += snapshot_batch(c, s, &rng, batch);
	meter_report(&m, c, "snapshot", samples, bytes);
	granary_snapshot_close(&s);
	granary_close(&c);
}

struct live {
	const char *bucket, *prefix;
	uint64_t count;
	uint32_t batch;
	struct granary_entry *entries;
	char (*keys)[KEY_SIZE];
	void *slab;
	size_t slab_size;
};

static double live_batch(struct granary_client *c, struct live *l, struct rng *rng)
{
	struct granary_batch b = GRANARY_INIT(granary_batch);
	for (uint32_t i = 0; i < l->batch; i++) {
		uint64_t n = rng_below(rng, l->count);
		snprintf(l->keys[i], KEY_SIZE, "%s/d%04llu/s%08llu", l->prefix, (unsigned long long)(n / DIR_SAMPLES),
			(unsigned long long)n);
		l->entries[i] = (struct granary_entry){ .ref = granary_ref_key(l->keys[i]) };
	}
	b.entries = l->entries;
	b.count = l->batch;
	b.slab = l->slab;
	b.slab_size = l->slab_size;
	int64_t got = granary_read_batch(c, &b, GRANARY_CALL(.bucket = l->bucket), NULL);
	if (got != l->batch) die("read", c, got < 0 ? got : -GRANARY_ENOTFOUND);
	return (double)l->batch;
}

static void run_live(struct live *l, uint64_t size, double seconds)
{
	struct granary_client *c = open_client();
	struct rng rng;
	double samples = 0;
	l->slab_size = l->batch * size;
	l->slab = malloc(l->slab_size);
	l->entries = calloc(l->batch, sizeof(*l->entries));
	l->keys = calloc(l->batch, sizeof(*l->keys));
	if (!l->slab || !l->entries || !l->keys) die("memory", NULL, -GRANARY_ENOMEM);
	rng_seed(&rng, 1);
	for (uint32_t i = 0; i < WARM_ROUNDS; i++) live_batch(c, l, &rng);
	struct meter m = meter_start(c);
	while (now() - m.began < seconds) samples += live_batch(c, l, &rng);
	meter_report(&m, c, "live", samples, samples * (double)size);
	granary_close(&c);
	free(l->slab);
	free(l->entries);
	free(l->keys);
}

static uint32_t batch_of(const char *text)
{
	uint64_t n = strtoull(text, NULL, 10);
	if (n == 0 || n > BATCH_MAX) die("BATCH", NULL, -GRANARY_EINVAL);
	return (uint32_t)n;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	if (argc == 6 && strcmp(mode, "copy") == 0) {
		run_copy(argv[2], strtoull(argv[3], NULL, 10), batch_of(argv[4]), strtod(argv[5], NULL));
	} else if (argc == 5 && strcmp(mode, "snapshot") == 0) {
		run_snapshot(argv[2], batch_of(argv[3]), strtod(argv[4], NULL));
	} else if (argc == 8 && strcmp(mode, "live") == 0) {
		struct live l = { .bucket = argv[2], .prefix = argv[3], .count = strtoull(argv[4], NULL, 10),
			.batch = batch_of(argv[6]) };
		run_live(&l, strtoull(argv[5], NULL, 10), strtod(argv[7], NULL));
	} else {
		fprintf(stderr, "bench_local: see the head of bench/bench_local.c\n");
		return 2;
	}
	return 0;
}
