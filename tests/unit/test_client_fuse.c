/* SPDX-License-Identifier: Apache-2.0 */
/* test_client_fuse.c -- parts of granary-mount that need no kernel: requests, options, the cache of contents. */
#include "fuse/cache.h"
#include "fuse/options.h"
#include "fuse/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- requests ---- */

struct message {
	struct fuse_in_header header;
	uint8_t body[256];
};

static size_t message_make(struct message *m, uint32_t opcode, const void *body, size_t len)
{
	memset(m, 0, sizeof(*m));
	m->header = (struct fuse_in_header){
		.len = (uint32_t)(sizeof(m->header) + len), .opcode = opcode, .unique = 5, .nodeid = 1
	};
	memcpy(m->body, body, len);
	return m->header.len;
}

static void test_requests(void **state)
{
	struct message m;
	struct request r;
	struct fuse_read_in in = { .offset = 4096, .size = 100 };
	const char *what;

	(void)state;
	size_t len = message_make(&m, FUSE_LOOKUP, "name", 5);
	assert_int_equal(request_decode_run(&m, len, &r, &what), 0);
	assert_int_equal(r.name_len, 4);
	assert_memory_equal(r.name, "name", 4);
	assert_null(r.arg);
	len = message_make(&m, FUSE_READ, &in, sizeof(in));
	assert_int_equal(request_decode_run(&m, len, &r, &what), 0);
	assert_int_equal(((const struct fuse_read_in *)r.arg)->offset, 4096);
	len = message_make(&m, FUSE_FORGET, &in, 8);
	assert_int_equal(request_decode_run(&m, len, &r, &what), 0);
	assert_true(r.silent);
}

static void test_bad_requests(void **state)
{
	struct message m;
	struct request r;
	struct fuse_read_in in = { .size = 1 };
	const char *what;

	(void)state;
	assert_int_equal(request_decode_run(&m, 39, &r, &what), -EINVAL);
	size_t len = message_make(&m, FUSE_LOOKUP, "name", 4);
	assert_int_equal(request_decode_run(&m, len, &r, &what), -EINVAL);
	assert_string_equal(what, "a name without an end");
	len = message_make(&m, FUSE_LOOKUP, "", 1);
	assert_int_equal(request_decode_run(&m, len, &r, &what), -EINVAL);
	len = message_make(&m, FUSE_LOOKUP, "a/b", 4);
	assert_int_equal(request_decode_run(&m, len, &r, &what), -EINVAL);
	len = message_make(&m, FUSE_READ, &in, sizeof(in) - 1);
	assert_int_equal(request_decode_run(&m, len, &r, &what), -EINVAL);
	len = message_make(&m, FUSE_READ, &in, sizeof(in));
	m.header.len++;
	assert_int_equal(request_decode_run(&m, len, &r, &what), -EINVAL);
	assert_int_equal(r.unique, 5); /* it can still be refused by its number */
	len = message_make(&m, 4711, "", 0);
	assert_int_equal(request_decode_run(&m, len, &r, &what), 0); /* a handler refuses it */
	assert_string_equal(request_name(4711), "?");
}

/* ---- options ---- */

static int read_words(struct options *o, char why[300], int count, const char *const *words)
{
	static char copies[8][200];
	char *argv[9] = { copies[0] };

	for (int i = 0; i < count; i++) {
		snprintf(copies[i], sizeof(copies[i]), "%s", words[i]);
		argv[i + 1] = copies[i];
	}
	argv[0] = copies[7];
	return options_read(count + 1, argv, o, why, 300);
}
#define READ(o, why, ...) \
	read_words(o, why, sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *), (const char *[]){ __VA_ARGS__ })

static void test_options(void **state)
{
	struct options o;
	char why[300];

	(void)state;
	assert_int_equal(
		READ(&o, why, "URL", "DIR", "-o", "memory=1GiB,,uid=7,_netdev,ro", "--deadline=5s", "--umask=027"),
		0);
	assert_string_equal(o.url, "URL");
	assert_string_equal(o.target, "DIR");
	assert_int_equal(o.memory, 1 << 30);
	assert_int_equal(o.uid, 7);
	assert_int_equal(o.deadline_ms, 5000);
	assert_int_equal(o.umask, 027);
	assert_int_equal(READ(&o, why, "URL", "DIR", "-otransport=classic,foreground"), 0);
	assert_int_equal(o.transport, TRANSPORT_CLASSIC);
	assert_true(o.foreground);
	assert_int_equal(READ(&o, why, "--unmount", "DIR"), 0);
	/* As mount(8) calls mount.granary. */
	assert_int_equal(READ(&o, why, "URL", "DIR", "-sn", "-o", "ro,uid=3", "-t", "granary"), 0);
	assert_int_equal(o.uid, 3);
}

/* What a person has to know is little. */
static void test_options_count(void **state)
{
	(void)state;
	assert_true(options_count() <= 20);
}

static void test_bad_options(void **state)
{
	static const struct {
		const char *word, *says;
	} bad[] = {
		{ "memori=1GiB", "did you mean 'memory'?" },
		{ "memory", "needs a value: memory=SIZE" },
		{ "memory=1", "64MiB at least" },
		{ "memory=12XB", "a size such as" },
		{ "foreground=1", "takes no value" },
		{ "uid=-1", "a number in its range" },
		{ "uid=4294967295", "a number in its range" },
		{ "umask=9", "a number in its range" },
		{ "transport=x", "one of auto|uring|classic" },
		{ "deadline=1ms", "from 100ms" },
		{ "quite_another_thing", "--help lists them" },
		{ "memory=99999999999999999999GiB", "a size such as" },
	};
	struct options o;
	char why[300];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(READ(&o, why, "URL", "DIR", "-o", bad[i].word), -1);
		if (!strstr(why, bad[i].says)) fail_msg("'%s' says '%s'", bad[i].word, why);
	}
	assert_int_equal(READ(&o, why, "URL"), -1);
	assert_int_equal(READ(&o, why, "URL", "DIR", "MORE"), -1);
	assert_int_equal(READ(&o, why, "-x", "URL", "DIR"), -1);
}

/* ---- cache ---- */

static uint8_t bytes[1 << 20];

static void test_cache(void **state)
{
	struct cache *c = cache_new(CACHE_LEAST);
	struct cache_view view, held;
	const uint64_t offsets[] = { 0, 100, 100, 350 };
	struct cache_numbers n;
	uint8_t copy[4096];

	(void)state;
	memset(bytes, 1, sizeof(bytes));
	cache_add_run(c, 10, 3, bytes, offsets);
	assert_true(cache_find(c, 10, 99, &view));
	assert_int_equal(view.size, 100);
	assert_true(view.first);
	cache_put(c, view.block);
	assert_false(cache_find(c, 10, 100, &view));
	assert_false(cache_find(c, 11, 0, &view)); /* an empty file has no byte */
	assert_int_equal(cache_copy(c, 12, 10, copy, sizeof(copy), &view), 240);
	assert_int_equal(cache_copy(c, 11, 0, copy, sizeof(copy), &view), 0);
	assert_int_equal(cache_copy(c, 12, 0, copy, 7, &view), 7);
	assert_false(view.first);
	/* A piece that lies in two windows of 4 MiB. */
	memset(bytes, 2, sizeof(bytes));
	cache_add_piece(c, 20, bytes, (4 << 20) - 100000, 300000, 9 << 20);
	assert_true(cache_has(c, 20, (4 << 20) - 100000));
	assert_true(cache_has(c, 20, (4 << 20) + 199999));
	assert_false(cache_has(c, 20, (4 << 20) + 200000));
	/* What is in use stays; the rest goes, what was not looked at first. */
	assert_true(cache_find(c, 20, 4 << 20, &held));
	assert_int_equal(held.file_size, 9 << 20);
	for (uint64_t row = 100; row < 400; row++) {
		memset(bytes, (int)row, 100000);
		cache_add_piece(c, row, bytes, 0, 100000, 100000);
		assert_int_equal(cache_copy(c, 100, 5, copy, 1, &view), 1); /* it is looked at again and again */
	}
	assert_true(cache_has(c, 20, 4 << 20));
	assert_int_equal(held.data[0], 2);
	assert_true(cache_has(c, 100, 0));
	assert_false(cache_has(c, 140, 0));
	for (uint64_t row = 100; row < 400; row++)
		if (cache_copy(c, row, 99999, copy, 1, &view)) assert_int_equal(copy[0], (uint8_t)row);
	assert_true(cache_has(c, 399, 0));
	cache_numbers(c, &n);
	assert_true(n.used <= n.budget && n.evicted > 0);
	cache_put(c, held.block);
	cache_free(c);
}

enum { RACERS = 4, RACE_ROWS = 600, RACE_SIZE = 70000 };

/* All adds and finds at once, in a cache that holds a third of it: bytes are always those of their row. */
static void *race(void *arg)
{
	struct cache *c = arg;
	struct cache_view view;
	uint8_t *own = malloc(RACE_SIZE);

	for (uint64_t i = 0; own && i < 4 * RACE_ROWS; i++) {
		uint64_t row = i * 7919 % RACE_ROWS;
		if (cache_find(c, row, 0, &view)) {
			assert_int_equal(view.data[0], (uint8_t)row);
			assert_int_equal(view.data[view.size - 1], (uint8_t)row);
			cache_put(c, view.block);
			continue;
		}
		memset(own, (int)row, RACE_SIZE);
		cache_add_piece(c, row, own, 0, RACE_SIZE, RACE_SIZE);
	}
	free(own);
	return NULL;
}

static void test_cache_race(void **state)
{
	struct cache *c = cache_new(CACHE_LEAST);
	pthread_t threads[RACERS];

	(void)state;
	for (int i = 0; i < RACERS; i++) assert_int_equal(pthread_create(&threads[i], NULL, race, c), 0);
	for (int i = 0; i < RACERS; i++) pthread_join(threads[i], NULL);
	cache_free(c);
}

static void test_fetch_rights(void **state)
{
	struct cache *c = cache_new(CACHE_LEAST);

	(void)state;
	assert_true(cache_begin(c, 1));
	assert_true(cache_begin(c, 2));
	cache_end(c, 1);
	assert_true(cache_begin(c, 1));
	cache_end(c, 1);
	cache_end(c, 2);
	cache_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_bad_requests),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_options_count),
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_cache),
		cmocka_unit_test(test_cache_race),
		cmocka_unit_test(test_fetch_rights),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
