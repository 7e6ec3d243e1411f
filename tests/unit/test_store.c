/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a data directory is opened, or refused in words that help and left as it was; ids never
 * repeat. */
#include "harness_store.h"

#include "meta/ids.h"
#include "req/store.h"

static struct world world;

static int set_up(void **state)
{
	(void)state;
	world_new(&world);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	if (world.store != NULL)
		world_free(&world);
	else
		remove_tree(world.dir);
	return 0;
}

static void stop(void)
{
	world_stop(&world);
}

static void super_put(const char *text)
{
	struct fs *fs;

	assert_int_equal(fs_new_kernel(world.dir, &fs), 0);
	assert_int_equal(fs_put_file(fs, "granary.super", text, strlen(text)), 0);
	fs_free(&fs);
}

static size_t super_get(char buf[512])
{
	struct fs *fs;
	size_t len;

	assert_int_equal(fs_new_kernel(world.dir, &fs), 0);
	assert_int_equal(fs_get_file(fs, "granary.super", buf, 511, &len), 0);
	buf[len] = '\0';
	fs_free(&fs);
	return len;
}

static void assert_refused(int err, const char *cause)
{
	struct store *store = NULL;
	struct store_options o;
	struct fs *fs;
	char why[256] = "", before[512], after[512];

	super_get(before);
	assert_int_equal(fs_new_kernel(world.dir, &fs), 0);
	o = world_options(fs);
	assert_int_equal(store_open(&o, &store, why, sizeof(why)), err);
	assert_null(store);
	if (strstr(why, cause) == NULL || strstr(why, world.dir) == NULL)
		fail_msg("'%s' does not say '%s'", why, cause);
	fs_free(&fs);
	super_get(after);
	assert_string_equal(before, after);
}

static void test_a_second_server_is_refused(void **state)
{
	(void)state;
	assert_refused(-GRANARY_ELOCKED, "in use by another granaryd");
}

static void test_another_format_is_refused(void **state)
{
	(void)state;
	stop();
	super_put("format=2\nstore=00112233445566778899aabbccddeeff\nincarnation=1\ncreated=1\n");
	assert_refused(-GRANARY_EVERSION, "has format 2");
}

static void test_a_damaged_superblock_is_refused(void **state)
{
	static const char *const wrong[] = {
		"",
		"format\n",
		"format=one\n",
		"format=1\n",
		"format=1\nstore=12\nincarnation=1\ncreated=1\n",
		"format=1\nstore=00112233445566778899aabbccddeeff\nincarnation=99999999\ncreated=1\n",
		"format=1\nstore=00112233445566778899aabbccddeeff\nincarnation=1\n",
	};

	(void)state;
	stop();
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		super_put(wrong[i]);
		assert_refused(-GRANARY_EBADFORMAT, "damaged");
	}
}

static void test_metadata_of_another_store_is_refused(void **state)
{
	(void)state;
	stop();
	super_put("format=1\nstore=00112233445566778899aabbccddeeff\nincarnation=77\ncreated=1\n");
	struct store *store = NULL;
	struct store_options o;
	struct fs *fs;
	char why[256] = "";

	assert_int_equal(fs_new_kernel(world.dir, &fs), 0);
	o = world_options(fs);
	assert_int_equal(store_open(&o, &store, why, sizeof(why)), -GRANARY_EBADFORMAT);
	assert_non_null(strstr(why, "another store"));
	fs_free(&fs);
}

static void test_a_lost_superblock_or_key_is_said(void **state)
{
	struct store *store = NULL;
	struct store_options o;
	struct fs *fs;
	char why[256] = "";

	(void)state;
	stop();
	assert_int_equal(fs_new_kernel(world.dir, &fs), 0);
	o = world_options(fs);
	assert_int_equal(fs_rename(fs, "master.key", "elsewhere"), 0);
	assert_int_equal(store_open(&o, &store, why, sizeof(why)), -GRANARY_ENOTFOUND);
	assert_non_null(strstr(why, "master.key"));
	assert_int_equal(fs_rename(fs, "elsewhere", "master.key"), 0);
	assert_int_equal(fs_unlink(fs, "granary.super"), 0);
	assert_int_equal(store_open(&o, &store, why, sizeof(why)), -GRANARY_EBADFORMAT);
	assert_non_null(strstr(why, "no granary.super"));
	fs_free(&fs);
}

static void test_every_start_takes_a_higher_incarnation(void **state)
{
	uint32_t before = world.store->incarnation;
	uint64_t id = ids_object(world.store->ids);
	char super[512], line[64];

	(void)state;
	world_restart(&world);
	assert_true(world.store->incarnation > before);
	assert_true(ids_object(world.store->ids) > id);
	before = world.store->incarnation;
	super_get(super);
	snprintf(line, sizeof(line), "incarnation=%u\n", before);
	assert_non_null(strstr(super, line));
	/* an old superblock, as from a backup: the rows know better */
	stop();
	*strstr(super, "incarnation=") = '\0';
	snprintf(
		super + strlen(super), sizeof(super) - strlen(super), "incarnation=1\ncreated=1\n");
	super_put(super);
	world_start(&world);
	assert_true(world.store->incarnation > before);
}

static void test_status_says_what_is_there(void **state)
{
	char *buf = malloc(STORE_STATUS_MAX);
	size_t len = store_status(world.store, buf, STORE_STATUS_MAX);

	(void)state;
	assert_int_equal(strlen(buf), len);
	assert_true(len < STORE_STATUS_MAX / 2);
	assert_non_null(strstr(buf, "\nreactors 2\n"));
	assert_non_null(strstr(buf, "\ncache_hits 0\n"));
	assert_non_null(strstr(buf, "\npacks 0\n"));
	for (size_t cap = 1; cap < 200; cap++) { /* never past the end */
		memset(buf, '#', 256);
		assert_true(store_status(world.store, buf, cap) < cap);
		assert_int_equal(buf[cap], '#');
	}
	free(buf);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_a_second_server_is_refused),
		T(test_another_format_is_refused),
		T(test_a_damaged_superblock_is_refused),
		T(test_metadata_of_another_store_is_refused),
		T(test_a_lost_superblock_or_key_is_said),
		T(test_every_start_takes_a_higher_incarnation),
		T(test_status_says_what_is_there),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
