/* SPDX-License-Identifier: Apache-2.0 */
/* test_client_node_cache.c -- bytes kept on the node's flash: found again by whoever opens the directory, never wrong,
 * never more than the size, and epochs larger than it do not empty it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/node_cache.h"
#include "common/crc32c.h"
#include "common/rand.h"

enum { LEN = 100000 };
#define SIZE NODE_CACHE_LEAST

static char dir[64];
static uint8_t bytes[NODE_CACHE_LEN_MAX], back[NODE_CACHE_LEN_MAX];

static int dir_new(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/granary-node-cache-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static const char *file_name(void)
{
	static char path[96];

	snprintf(path, sizeof(path), "%s/granary-cache", dir);
	return path;
}

static int dir_end(void **state)
{
	(void)state;
	unlink(file_name());
	return rmdir(dir);
}

static struct node_cache *cache_open(void)
{
	char why[600] = "";
	struct node_cache *c = node_cache_open(dir, SIZE, why, sizeof(why));

	if (!c) fail_msg("%s", why);
	return c;
}

/* The bytes of number n, and their key. */
static struct node_cache_key content(uint64_t n, uint32_t len)
{
	uint64_t x = n * UINT64_C(0x9e3779b97f4a7c15) + 1;

	for (uint32_t i = 0; i + 8 <= len; i += 8, x = x * 6364136223846793005u + 1) memcpy(bytes + i, &x, 8);
	return (struct node_cache_key){ .store = { 7 }, .pack = 1 + n / 100, .offset = (uint32_t)(n % 100) * 8192,
		.len = len, .crc = crc32c(0, bytes, len) };
}

static bool has(struct node_cache *c, uint64_t n, uint32_t len)
{
	struct node_cache_key k = content(n, len);

	if (!node_cache_get(c, &k, back)) return false;
	assert_memory_equal(back, bytes, len);
	return true;
}

static void put(struct node_cache *c, uint64_t n, uint32_t len, uint64_t among)
{
	struct node_cache_key k = content(n, len);

	node_cache_put(c, &k, bytes, among);
}

static void test_found_again(void **state)
{
	struct node_cache *c = cache_open(), *other;

	(void)state;
	assert_false(has(c, 1, LEN));
	put(c, 1, LEN, SIZE);
	put(c, 2, 8, SIZE);
	put(c, 3, NODE_CACHE_LEN_MAX, SIZE);
	assert_true(has(c, 1, LEN) && has(c, 2, 8) && has(c, 3, NODE_CACHE_LEN_MAX));
	other = cache_open(); /* as another process does */
	assert_true(has(other, 1, LEN) && has(other, 3, NODE_CACHE_LEN_MAX));
	put(other, 4, LEN, SIZE);
	assert_true(has(c, 4, LEN));
	node_cache_close(c);
	node_cache_close(other);
	c = cache_open();
	assert_true(has(c, 1, LEN) && has(c, 2, 8) && has(c, 3, NODE_CACHE_LEN_MAX) && has(c, 4, LEN));
	node_cache_close(c);
}

/* Another key of the same place, other checksum, other store: not there. */
static void test_others_bytes(void **state)
{
	struct node_cache *c = cache_open();
	struct node_cache_key k = content(1, LEN), other = k;

	(void)state;
	node_cache_put(c, &k, bytes, SIZE);
	other.store[15] = 1;
	assert_false(node_cache_get(c, &other, back));
	other = k;
	other.crc++;
	assert_false(node_cache_get(c, &other, back));
	node_cache_put(c, &k, bytes, SIZE);
	assert_true(node_cache_get(c, &k, back));
	node_cache_close(c);
}

/* Whatever the file holds, wrong bytes are never given. */
static void test_garbage(void **state)
{
	struct node_cache *c = cache_open();
	struct rng rng;
	struct stat st;
	uint64_t found = 0;

	(void)state;
	rng_seed(&rng, 11);
	for (uint64_t n = 0; n < 200; n++) put(c, n, LEN, SIZE);
	int fd = open(file_name(), O_RDWR | O_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	for (int i = 0; i < 300; i++) {
		uint64_t junk = rng_next(&rng), at = 4096 + rng_next(&rng) % ((uint64_t)st.st_size - 8192);
		assert_int_equal(pwrite(fd, &junk, sizeof(junk), (off_t)at), sizeof(junk));
	}
	for (uint64_t n = 0; n < 200; n++) found += has(c, n, LEN); /* has() compares */
	assert_true(found > 0 && found < 200);
	node_cache_close(c);
	assert_int_equal(pwrite(fd, bytes, 4096, 0), 4096); /* its head: made anew */
	close(fd);
	c = cache_open();
	assert_false(has(c, 1, LEN));
	put(c, 1, LEN, SIZE);
	assert_true(has(c, 1, LEN));
	node_cache_close(c);
}

/* Epochs in random order over three times as much: from the second on a good part of a third is found, each time. */
static void test_no_thrash(void **state)
{
	struct node_cache *c = cache_open();
	struct node_cache_numbers n;
	enum { COUNT = 3 * (64 << 20) / LEN };
	uint64_t order[COUNT];
	struct rng rng;
	struct stat st;

	(void)state;
	rng_seed(&rng, 5);
	for (uint64_t i = 0; i < COUNT; i++) order[i] = i;
	for (int epoch = 0; epoch < 4; epoch++) {
		uint64_t found = 0;
		for (uint64_t i = COUNT - 1; i > 0; i--) {
			uint64_t j = rng_next(&rng) % (i + 1), t = order[i];
			order[i] = order[j];
			order[j] = t;
		}
		for (uint64_t i = 0; i < COUNT; i++) {
			if (has(c, order[i], LEN))
				found++;
			else
				put(c, order[i], LEN, (uint64_t)COUNT * LEN);
		}
		if (epoch > 0) assert_true(found > COUNT / 4);
		assert_int_equal(stat(file_name(), &st), 0);
		assert_true((uint64_t)st.st_size <= SIZE && (uint64_t)st.st_blocks * 512 <= SIZE);
	}
	/* Another data set, which fits: after a while it has the place. */
	uint64_t found = 0;
	for (int epoch = 0; epoch < 8; epoch++) {
		found = 0;
		for (uint64_t i = 0; i < COUNT / 5; i++) {
			if (has(c, 100000 + i, LEN))
				found++;
			else
				put(c, 100000 + i, LEN, (uint64_t)COUNT / 5 * LEN);
		}
	}
	assert_int_equal(found, COUNT / 5);
	node_cache_numbers(c, &n);
	assert_true(n.filled <= n.size);
	node_cache_close(c);
}

/* Processes that fill it at once, and are killed in between: what the next one finds is right, and there is room. */
static void test_killed(void **state)
{
	uint64_t found = 0;

	(void)state;
	for (int round = 0; round < 6; round++) {
		pid_t child[2];
		for (uint64_t i = 0; i < 2; i++) {
			child[i] = fork();
			if (child[i] != 0) continue;
			struct node_cache *c = cache_open();
			for (uint64_t n = 0;; n = (n + 1) % 3000)
				if (!has(c, i * 10000 + n, LEN)) put(c, i * 10000 + n, LEN, 6000 * LEN);
		}
		usleep(60000);
		for (int i = 0; i < 2; i++) kill(child[i], SIGKILL);
		for (int i = 0; i < 2; i++) waitpid(child[i], NULL, 0);
		struct node_cache *c = cache_open();
		for (uint64_t n = 0; n < 3000; n++) found += has(c, n, LEN);
		node_cache_close(c);
	}
	assert_true(found > 0);
}

/* Many at once into the same buckets: none takes another one's place in the index. */
enum { PUTTERS = 4, PUTTER_SHARE = 800, PUTTER_LEN = 64 };
struct putter {
	pthread_t thread;
	struct node_cache *cache;
	uint64_t nth;
};

/* The same key and bytes for a number, in memory of the caller's. */
static struct node_cache_key small(uint64_t n, uint8_t data[PUTTER_LEN])
{
	memset(data, (int)(n & 0xff), PUTTER_LEN);
	memcpy(data, &n, sizeof(n));
	return (struct node_cache_key){ .store = { 9 }, .pack = 1 + n / 1000,
		.offset = (uint32_t)(n % 1000) * PUTTER_LEN, .len = PUTTER_LEN, .crc = crc32c(0, data, PUTTER_LEN) };
}

static void *putter_run(void *arg)
{
	const struct putter *p = arg;
	uint8_t data[PUTTER_LEN];

	for (uint64_t i = 0; i < PUTTER_SHARE; i++) { /* all of them at neighbouring numbers */
		struct node_cache_key k = small(i * PUTTERS + p->nth, data);
		node_cache_put(p->cache, &k, data, SIZE);
	}
	return NULL;
}

static void test_many_at_once(void **state)
{
	struct node_cache *c = cache_open();
	struct putter putters[PUTTERS];
	uint8_t data[PUTTER_LEN], found[PUTTER_LEN];

	(void)state;
	for (uint64_t i = 0; i < PUTTERS; i++) {
		putters[i] = (struct putter){ .cache = c, .nth = i };
		assert_int_equal(0, pthread_create(&putters[i].thread, NULL, putter_run, &putters[i]));
	}
	for (int i = 0; i < PUTTERS; i++) pthread_join(putters[i].thread, NULL);
	for (uint64_t n = 0; n < PUTTERS * PUTTER_SHARE; n++) {
		struct node_cache_key k = small(n, data);
		if (!node_cache_get(c, &k, found)) fail_msg("number %d is not there", (int)n);
		assert_memory_equal(data, found, PUTTER_LEN);
	}
	node_cache_close(c);
}

static void test_refused(void **state)
{
	char why[600] = "";

	(void)state;
	assert_null(node_cache_open(dir, 1 << 20, why, sizeof(why)));
	assert_non_null(strstr(why, "64 MiB"));
	assert_null(node_cache_open("/proc/none", SIZE, why, sizeof(why)));
	assert_non_null(strstr(why, "/proc/none"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_found_again, dir_new, dir_end),
		cmocka_unit_test_setup_teardown(test_others_bytes, dir_new, dir_end),
		cmocka_unit_test_setup_teardown(test_garbage, dir_new, dir_end),
		cmocka_unit_test_setup_teardown(test_no_thrash, dir_new, dir_end),
		cmocka_unit_test_setup_teardown(test_killed, dir_new, dir_end),
		cmocka_unit_test_setup_teardown(test_many_at_once, dir_new, dir_end),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
