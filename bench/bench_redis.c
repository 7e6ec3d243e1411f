/* SPDX-License-Identifier: Apache-2.0 */
/* bench_redis.c -- the same batch from Redis: MGET of BATCH random 4 KiB values, INFLIGHT commands pipelined.
 *
 *   bench_redis PORT COUNT SIZE BATCH INFLIGHT SECONDS     loads COUNT values once, then measures
 *
 * Prints one JSON object. Without hiredis at build time it says so and exits 77. */
#include <stdio.h>

#ifdef HAVE_HIREDIS
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/rand.h"

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
	fprintf(stderr, "bench_redis: %s\n", what);
	exit(1);
}

static void load_values(redisContext *c, uint64_t count, size_t size)
{
	char *value = malloc(size), key[32];
	redisReply *r;
	memset(value, 'v', size);
	for (uint64_t i = 0; i < count; i++) {
		int n = snprintf(key, sizeof key, "s%08llu", (unsigned long long)i);
		redisAppendCommand(c, "SET %b %b", key, (size_t)n, value, size);
		if (i % 256 == 255 || i + 1 == count)
			for (uint64_t k = 0; k <= i % 256; k++) {
				if (redisGetReply(c, (void **)&r) != REDIS_OK)
					die("SET failed");
				freeReplyObject(r);
			}
	}
	free(value);
}

static void ask(redisContext *c, struct rng *rng, uint64_t count, int batch, char (*keys)[32], const char **argv,
		size_t *lens)
{
	argv[0] = "MGET";
	lens[0] = 4;
	for (int i = 0; i < batch; i++) {
		lens[i + 1] = (size_t)snprintf(keys[i], 32, "s%08llu", (unsigned long long)rng_below(rng, count));
		argv[i + 1] = keys[i];
	}
	if (redisAppendCommandArgv(c, batch + 1, argv, lens) != REDIS_OK)
		die("MGET failed");
}

int main(int argc, char **argv)
{
	if (argc != 7) {
		fprintf(stderr, "usage: bench_redis PORT COUNT SIZE BATCH INFLIGHT SECONDS\n");
		return 2;
	}
	uint64_t count = strtoull(argv[2], NULL, 10), done = 0;
	int batch = (int)strtol(argv[4], NULL, 10), inflight = (int)strtol(argv[5], NULL, 10);
	redisContext *c = redisConnect("127.0.0.1", (int)strtol(argv[1], NULL, 10));
	redisReply *r;
	struct rng rng;
	if (!c || c->err)
		die(c ? c->errstr : "out of memory");
	rng_seed(&rng, 1);
	char(*keys)[32] = calloc((size_t)batch, sizeof *keys);
	const char **args = calloc((size_t)batch + 1, sizeof *args);
	size_t *lens = calloc((size_t)batch + 1, sizeof *lens);
	r = redisCommand(c, "DBSIZE");
	if (r && (uint64_t)r->integer < count)
		load_values(c, count, strtoull(argv[3], NULL, 10));
	freeReplyObject(r);
	double start = now(), end = start + strtod(argv[6], NULL);
	for (int i = 0; i < inflight; i++)
		ask(c, &rng, count, batch, keys, args, lens);
	for (int open = inflight; open > 0;) {
		if (redisGetReply(c, (void **)&r) != REDIS_OK || r->elements != (size_t)batch)
			die("MGET failed");
		freeReplyObject(r);
		done += (uint64_t)batch;
		if (now() < end)
			ask(c, &rng, count, batch, keys, args, lens);
		else
			open--;
	}
	printf("{\"per_s\": %.1f, \"samples\": %llu}\n", (double)done / (now() - start), (unsigned long long)done);
	return 0;
}
#else
int main(void)
{
	fprintf(stderr, "bench_redis: built without libhiredis-dev; tools/deps --bench installs it\n");
	return 77;
}
#endif
