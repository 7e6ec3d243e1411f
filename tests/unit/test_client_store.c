/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: pages that processes of a node share are whole, verified, made once, and go when nobody uses them; a process
 * that dies at any moment leaves nothing that another would take for a page. Method: a folder of our own, the functions
 * of client/snapshot_store.c, children that die with a page half made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/snapshot_priv.h"

enum { PAGE_LEN = 100000 };

static char root[64], folder[80];

static int set_up(void **state)
{
	(void)state;
	snprintf(root, sizeof(root), "/tmp/granary-store-XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(folder, sizeof(folder), "%s/granary", root);
	return setenv("XDG_RUNTIME_DIR", root, 1);
}

/* Removes what is in the folder; how many files that were. */
static int folder_clear(void)
{
	DIR *dir = opendir(folder);
	int count = 0;

	for (const struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		count++;
		assert_int_equal(unlinkat(dirfd(dir), e->d_name, 0), 0);
	}
	if (dir)
		closedir(dir);
	return count;
}

static int tear_down(void **state)
{
	(void)state;
	folder_clear();
	rmdir(folder);
	return rmdir(root);
}

static struct hash128 page_fill(uint8_t *p, size_t len, uint8_t with)
{
	memset(p, with, len);
	return hash_content(p, len);
}

static struct hash128 hash_of(uint8_t with)
{
	static uint8_t page[PAGE_LEN];

	return page_fill(page, sizeof(page), with);
}

static void page_make(uint8_t with)
{
	struct storing s;
	struct stored file;

	assert_int_equal(storing_begin(hash_of(with), PAGE_LEN, false, &s), 0);
	page_fill(s.p, PAGE_LEN, with);
	storing_end(&s, &file);
	assert_true(file.mapped);
	assert_int_equal(file.p[PAGE_LEN - 1], with);
	stored_close(&file);
}

static void long_page_make(uint8_t with)
{
	const size_t len = 17 << 20;
	uint8_t *page = malloc(len);
	struct hash128 hash = page_fill(page, len, with);
	struct storing s;
	struct stored file;

	assert_int_equal(storing_begin(hash, len, false, &s), 0);
	memcpy(s.p, page, len);
	storing_end(&s, &file);
	stored_close(&file);
	free(page);
}

static bool is_there(uint8_t with)
{
	struct stored file;
	bool there = stored_open(hash_of(with), PAGE_LEN, false, &file);

	if (there) {
		assert_int_equal(file.p[0], with);
		stored_close(&file);
	}
	return there;
}

static void file_path(uint8_t with, const char *before, char out[160])
{
	struct hash128 h = hash_of(with);

	snprintf(out, 160, "%s/%s%016" PRIx64 "%016" PRIx64, folder, before, h.hi, h.lo);
}

static void file_age(const char *path, time_t seconds)
{
	struct timespec times[2] = { { .tv_sec = time(NULL) - seconds }, { .tv_sec = time(NULL) - seconds } };

	assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void test_a_page_is_there_for_the_next_one(void **state)
{
	struct stored file;

	(void)state;
	assert_false(is_there(1));
	page_make(1);
	assert_true(is_there(1));
	assert_false(stored_open(hash_of(1), PAGE_LEN - 1, false, &file)); /* another length is another page */
	assert_int_equal(folder_clear(), 0); /* and what is in its place goes */
}

static void test_a_damaged_page_is_not_taken(void **state)
{
	char path[160];

	(void)state;
	page_make(2);
	file_path(2, "", path);
	assert_int_equal(chmod(path, 0600), 0);
	int fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, "x", 1, PAGE_LEN / 2), 1);
	close(fd);
	assert_false(is_there(2));
	assert_int_equal(access(path, F_OK), -1);
	page_make(2);
	assert_true(is_there(2));
}

static void test_one_fills_a_page_and_others_leave_it_to_him(void **state)
{
	struct storing first, second;
	struct stored file;

	(void)state;
	assert_int_equal(storing_begin(hash_of(3), PAGE_LEN, false, &first), 0);
	assert_int_equal(storing_begin(hash_of(3), PAGE_LEN, false, &second), -GRANARY_EAGAIN);
	assert_false(is_there(3)); /* half a page is none */
	assert_int_equal(storing_begin(hash_of(3), PAGE_LEN, true, &second), 0); /* alone */
	page_fill(second.p, PAGE_LEN, 3);
	storing_end(&second, &file);
	assert_false(file.mapped);
	stored_close(&file);
	storing_abandon(&first);
	assert_int_equal(storing_begin(hash_of(3), PAGE_LEN, false, &second), 0);
	page_fill(second.p, PAGE_LEN, 3);
	storing_end(&second, &file);
	stored_close(&file);
	assert_true(is_there(3));
}

static void test_who_dies_while_filling_is_followed_by_another(void **state)
{
	char path[160];
	int status;

	(void)state;
	for (size_t done = 0; done <= PAGE_LEN; done += PAGE_LEN / 4) {
		pid_t child = fork();
		if (child == 0) {
			struct storing s;
			if (storing_begin(hash_of(4), PAGE_LEN, false, &s) == 0)
				memset(s.p, 4, done);
			_exit(0);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		file_path(4, ".", path);
		assert_int_equal(access(path, F_OK), 0);
		assert_false(is_there(4));
		page_make(4);
		assert_true(is_there(4));
		assert_int_equal(access(path, F_OK), -1);
		assert_int_equal(folder_clear(), 1);
	}
}

static void test_what_nobody_uses_goes(void **state)
{
	struct storing begun;
	char path[160];

	(void)state;
	page_make(5);
	page_make(6);
	file_path(5, "", path);
	file_age(path, 25 * 3600);
	if (fork() == 0) { /* leaves a page half made */
		struct storing s;
		_exit(storing_begin(hash_of(7), PAGE_LEN, false, &s) == 0 ? 0 : 1);
	}
	wait(NULL);
	file_path(7, ".", path);
	file_age(path, 100);
	assert_int_equal(storing_begin(hash_of(8), PAGE_LEN, false, &begun), 0);
	file_path(8, ".", path);
	file_age(path, 100); /* slow, but at it */
	long_page_make(9); /* the folder is looked through for each 16 MiB that come */
	assert_false(is_there(5));
	assert_true(is_there(6));
	assert_int_equal(access(path, F_OK), 0);
	file_path(7, ".", path);
	assert_int_equal(access(path, F_OK), -1);
	storing_abandon(&begun);
}

static void test_a_mapped_page_outlives_its_file(void **state)
{
	struct stored file;

	(void)state;
	page_make(10);
	assert_true(stored_open(hash_of(10), PAGE_LEN, false, &file));
	folder_clear();
	assert_int_equal(file.p[PAGE_LEN - 1], 10);
	stored_close(&file);
}

static void test_a_folder_of_others_is_not_used(void **state)
{
	struct storing s;
	struct stored file;

	(void)state;
	page_make(11);
	assert_int_equal(chmod(folder, 0755), 0);
	assert_false(is_there(11));
	assert_int_equal(storing_begin(hash_of(12), PAGE_LEN, false, &s), 0);
	page_fill(s.p, PAGE_LEN, 12);
	storing_end(&s, &file);
	assert_false(file.mapped);
	stored_close(&file);
	assert_int_equal(chmod(folder, 0700), 0);
	assert_false(is_there(12));
	assert_true(is_there(11));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_page_is_there_for_the_next_one, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_damaged_page_is_not_taken, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_one_fills_a_page_and_others_leave_it_to_him, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_who_dies_while_filling_is_followed_by_another, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_what_nobody_uses_goes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_mapped_page_outlives_its_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_folder_of_others_is_not_used, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
