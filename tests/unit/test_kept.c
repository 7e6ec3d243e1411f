/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what is kept of cold reads is given out as it was put or not at all: over turns of the file, starts, wrong
 * bits, a disk without room; and the file keeps its size. Method: a directory of its own, pieces whose bytes follow
 * from their key. */
#include "tier/kept.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/fs.h"

enum { SIZE = 16 * 1024 * 1024, PIECE = 100 * 1000, THREADS = 4 };

static char root[64];
static struct fs *fs;
static struct kept *kept;

static int set_up(void **state)
{
	(void)state;
	snprintf(root, sizeof(root), "/tmp/granary-kept-XXXXXX");
	assert_non_null(mkdtemp(root));
	assert_int_equal(0, fs_new_kernel(root, &fs));
	assert_int_equal(0, kept_open(fs, "archive", SIZE, 0, &kept));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	kept_close(&kept);
	(void)fs_remove_folder(fs, "kept");
	fs_free(&fs);
	return rmdir(root);
}

static void piece_of(uint64_t key, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++) buf[i] = (uint8_t)(key * 31 + i * (key % 7 + 1) + i / 251);
}

static void put(uint64_t key)
{
	uint8_t buf[PIECE];

	piece_of(key, buf, sizeof(buf));
	kept_put(kept, key, buf, sizeof(buf));
}

/* There, and as it was put. */
static bool has(uint64_t key)
{
	uint8_t got[PIECE], wanted[PIECE];

	if (!kept_get(kept, key, got, sizeof(got))) return false;
	piece_of(key, wanted, sizeof(wanted));
	assert_memory_equal(got, wanted, sizeof(got));
	return true;
}

static uint32_t count(uint64_t from, uint64_t to)
{
	uint32_t n = 0;

	for (; from < to; from++) n += has(from);
	return n;
}

static void reopen(uint64_t size)
{
	kept_close(&kept);
	assert_int_equal(0, kept_open(fs, "archive", size, 0, &kept));
}

static uint64_t file_size(void)
{
	char path[96];
	struct stat st;

	snprintf(path, sizeof(path), "%s/kept/archive", root);
	assert_int_equal(0, stat(path, &st));
	return (uint64_t)st.st_size;
}

static void test_the_latest_are_there_and_the_file_keeps_its_size(void **state)
{
	(void)state;
	assert_false(has(1));
	for (uint64_t key = 1; key <= 1000; key++) {
		put(key);
		assert_true(has(key));
	}
	assert_true(file_size() <= SIZE);
	assert_true(count(901, 1001) == 100);
	assert_true(count(1, 801) == 0);
	put(1000); /* twice is once */
	assert_false(kept_get(kept, 1000, (uint8_t[PIECE]){ 0 }, PIECE - 1));
	kept_forget(kept, 1000);
	assert_false(has(1000));
}

static void test_a_start_finds_what_was_there(void **state)
{
	uint32_t before;

	(void)state;
	for (uint64_t key = 1; key <= 300; key++) put(key);
	before = count(1, 301);
	reopen(SIZE);
	assert_true(count(1, 301) + 50 >= before); /* what was filled took a slot */
	assert_true(count(291, 301) == 10);
	for (uint64_t key = 301; key <= 400; key++) put(key);
	assert_int_equal(100, count(301, 401));
	reopen((uint64_t)SIZE * 2); /* another size: what does not fit its slots is forgotten */
	(void)count(1, 401);
	put(401);
	assert_true(has(401));
}

static void test_wrong_bits_are_not_given_out(void **state)
{
	char path[96];
	FILE *f;

	(void)state;
	for (uint64_t key = 1; key <= 150; key++) put(key);
	kept_close(&kept);
	snprintf(path, sizeof(path), "%s/kept/archive", root);
	f = fopen(path, "r+");
	assert_non_null(f);
	for (long at = 8192; at < (long)file_size(); at += 60000) { /* pieces, heads, tables */
		int byte;

		fseek(f, at, SEEK_SET);
		byte = fgetc(f);
		fseek(f, at, SEEK_SET);
		fputc(byte ^ 4, f);
	}
	fclose(f);
	assert_int_equal(0, kept_open(fs, "archive", SIZE, 0, &kept));
	assert_int_equal(0, count(1, 151)); /* each has a wrong bit; has() compares what it gets */
}

static void test_a_disk_without_room_is_left_alone(void **state)
{
	struct kept_stats stats;

	(void)state;
	kept_close(&kept);
	assert_int_equal(0, kept_open(fs, "archive", SIZE, UINT64_MAX / 2, &kept));
	for (uint64_t key = 1; key <= 200; key++) put(key);
	assert_int_equal(0, file_size());
	kept_get_stats(kept, &stats);
	assert_true(stats.lost > 0);
	assert_true(has(200)); /* in memory */
}

static void test_it_is_wanted_after_so_many(void **state)
{
	(void)state;
	assert_true(kept_wants(kept, 5, 1));
	assert_false(kept_wants(kept, 6, 3));
	assert_false(kept_wants(kept, 6, 3));
	assert_true(kept_wants(kept, 6, 3));
	for (uint64_t key = 0; key < 300000; key++) (void)kept_wants(kept, key * 977, 2); /* counts age */
}

static void *worker(void *arg)
{
	uint64_t first = (uint64_t)(uintptr_t)arg * 1000;

	for (uint64_t key = first; key < first + 200; key++) {
		put(key);
		(void)has(key - key % 10);
		(void)has((key * 7) % 4000);
	}
	return NULL;
}

static void test_from_many_threads(void **state)
{
	pthread_t threads[THREADS];

	(void)state;
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(0, pthread_create(&threads[i], NULL, worker, (void *)i));
	for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_the_latest_are_there_and_the_file_keeps_its_size, set_up,
			tear_down),
		cmocka_unit_test_setup_teardown(test_a_start_finds_what_was_there, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_wrong_bits_are_not_given_out, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_disk_without_room_is_left_alone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_it_is_wanted_after_so_many, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_from_many_threads, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
