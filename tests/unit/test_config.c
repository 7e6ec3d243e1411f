/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what a file says is taken; what is wrong is refused with its place and the nearest name. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "granary/error.h"

static struct config config;
static char why[CONFIG_WHY_MAX];

static int parse(const char *text)
{
	why[0] = '\0';
	return config_parse(&config, "g.yaml", text, strlen(text), why);
}

static void refused(const char *text, const char *want)
{
	struct config *before = malloc(sizeof(*before));

	assert_non_null(before);
	config_init(&config);
	*before = config;
	assert_int_equal(parse(text), -GRANARY_ECONFIG);
	if (!strstr(why, want)) fail_msg("'%s' does not contain '%s'", why, want);
	assert_memory_equal(before, &config, sizeof(config));
	free(before);
}

static void test_defaults_are_as_documented(void **state)
{
	(void)state;
	config_init(&config);
	assert_int_equal(config.values[CONFIG_MEMORY].number, CONFIG_GIB);
	assert_int_equal(config.values[CONFIG_PACK_SIZE].number, 256 * CONFIG_MIB);
	assert_true(config.values[CONFIG_CACHE_SIZE].is_percent);
	assert_int_equal(config.values[CONFIG_CACHE_SIZE].number, 25);
	assert_int_equal(config.values[CONFIG_JOB_INTERVAL].number, UINT64_C(5000000000));
	assert_int_equal(config.listen_count, 1);
	assert_string_equal(config.listen[0], "tcp:127.0.0.1:7420");
}

static void test_every_default_satisfies_its_own_check(void **state)
{
	(void)state;
	config_init(&config);
	for (int i = 0; i < CONFIG_KEYS; i++)
		if (config_keys[i].type != CONFIG_LIST && i != CONFIG_DATA && i != CONFIG_HOT &&
			i != CONFIG_STORES)
			assert_int_equal(config_set_flag(&config, (enum config_key)i,
						 config_keys[i].text, why),
				0);
}

static void test_a_file_sets_values_and_remembers_lines(void **state)
{
	(void)state;
	config_init(&config);
	assert_int_equal(parse("# a comment\n"
			       "data: /srv/granary\n"
			       "listen:\n"
			       "  - 127.0.0.1:0\n"
			       "  - unix:/run/g.sock\n"
			       "  - '[::1]:7421'\n"
			       "cache_size: 4GiB\n"
			       "compact_dead: 40%\n"
			       "job_interval: 10m\n"
			       "log_level: debug\n"),
		0);
	assert_string_equal(config.values[CONFIG_DATA].text, "/srv/granary");
	assert_int_equal(config.listen_count, 3);
	assert_string_equal(config.listen[1], "unix:/run/g.sock");
	assert_string_equal(config.listen[2], "tcp:[::1]:7421");
	assert_int_equal(config.values[CONFIG_CACHE_SIZE].number, 4 * CONFIG_GIB);
	assert_false(config.values[CONFIG_CACHE_SIZE].is_percent);
	assert_int_equal(config.values[CONFIG_CACHE_SIZE].line, 7);
	assert_int_equal(config.values[CONFIG_COMPACT_DEAD].number, 40);
	assert_int_equal(config.values[CONFIG_JOB_INTERVAL].number, UINT64_C(600000000000));
	assert_int_equal(config.values[CONFIG_LOG_LEVEL].number, 3);
	assert_int_equal(config.values[CONFIG_LOG_LEVEL].source, CONFIG_FROM_FILE);
	assert_int_equal(config.values[CONFIG_MEMORY].source, CONFIG_FROM_DEFAULT);
}

static void test_hot_directories_have_a_path_and_a_size(void **state)
{
	(void)state;
	config_init(&config);
	assert_int_equal(config.hot_count, 0);
	assert_int_equal(parse("hot:\n  - path: /mnt/a/\n    size: 3TiB\n  - path: /mnt/b\n"), 0);
	assert_int_equal(config.hot_count, 2);
	assert_string_equal(config.hot[0].path, "/mnt/a");
	assert_int_equal(config.hot[0].size, 3 * 1024 * CONFIG_GIB);
	assert_string_equal(config.hot[1].path, "/mnt/b");
	assert_int_equal(config.hot[1].size, 0);
	assert_int_equal(config_set_flag(&config, CONFIG_HOT, "/mnt/c,64MiB", why), 0);
	assert_int_equal(config_set_flag(&config, CONFIG_HOT, "/mnt/d", why), 0);
	assert_int_equal(config.hot_count, 2);
	assert_string_equal(config.hot[0].path, "/mnt/c");
	assert_int_equal(config.hot[0].size, 64 * CONFIG_MIB);
	assert_string_equal(config.hot[1].path, "/mnt/d");
	config_init(&config);
	assert_int_equal(parse("hot: []\n"), 0);
	assert_int_equal(config.hot_count, 0);
	refused("hot: /mnt/a\n", "g.yaml:1:6: hot: a list is needed, one '- path: DIR' a drive");
	refused("hot: [/mnt/a]\n", "g.yaml:1:7: hot: '- path: DIR' is needed");
	refused("hot:\n  - size: 3TiB\n", "a drive needs a path");
	refused("hot:\n  - path: mnt/a\n", "g.yaml:2:11: hot: path: 'mnt/a' is no path");
	refused("hot:\n  - path: /a\n    size: 3TB\n", "g.yaml:3:11: hot: size: '3TB' is not a size");
	refused("hot:\n  - path: /a\n    size: 1MiB\n", "64MiB or more");
	refused("hot:\n  - path: /a\n    path: /b\n", "path is given twice");
	refused("hot:\n  - path: /a\n    class: x\n", "path and size are what a drive has");
	refused("hot:\n  - path: [/a]\n", "one value is needed");
}

static void test_an_empty_file_is_the_defaults(void **state)
{
	(void)state;
	config_init(&config);
	assert_int_equal(parse(""), 0);
	assert_int_equal(parse("# nothing\n"), 0);
	assert_int_equal(config.values[CONFIG_MEMORY].number, CONFIG_GIB);
}

static void test_an_unknown_key_names_its_place_and_the_nearest(void **state)
{
	(void)state;
	refused("data: /x\ncach_size: 1GiB\n",
		"g.yaml:2:1: unknown key 'cach_size'; did you mean 'cache_size'?");
	refused("  datta: /x\n", "g.yaml:1:3: unknown key 'datta'; did you mean 'data'?");
	refused("completely_else: 1\n", "g.yaml:1:1: unknown key 'completely_else'");
	refused("Data: /x\n", "did you mean 'data'?");
}

static void test_a_wrong_type_is_refused_at_its_place(void **state)
{
	(void)state;
	refused("memory: much\n", "g.yaml:1:9: memory: 'much' is not a size");
	refused("memory: 1GB\n", "not a size like 16MiB");
	refused("memory: -1\n", "not a size");
	refused("memory: 99999999999999999999\n", "not a size");
	refused("memory: [1GiB]\n", "g.yaml:1:9: memory: one value is needed");
	refused("memory: {a: b}\n", "one value is needed");
	refused("memory:\n", "memory: no value");
	refused("listen: 127.0.0.1:7420\n", "a list is needed");
	refused("listen: []\n", "the list is empty");
	refused("listen: [[a]]\n", "a list of texts is needed");
	refused("listen:\n  - nowhere\n", "g.yaml:2:5: listen: 'nowhere' is not an address");
	refused("job_interval: 5\n", "not a duration like");
	refused("compact_dead: 30\n", "not a percentage");
	refused("log_level: inf\n", "did you mean 'info'?");
	refused("io_engine: epoll\n", "is not an engine");
	refused("cpus: two\n", "not a number");
}

static void test_a_value_out_of_range_names_the_range(void **state)
{
	(void)state;
	refused("pack_size: 1MiB\n",
		"g.yaml:1:12: pack_size: '1MiB' is out of range; 16MiB to 2GiB");
	refused("cpus: 65\n", "out of range; 0 to 64");
	refused("cache_size: 95%\n", "out of range; 1% to 90%");
	refused("cache_size: 0%\n", "out of range; 1% to 90%");
	refused("job_interval: 2h\n", "out of range; 100ms to 3600s");
	refused("listen: ['a:65536']\n", "is not an address");
}

static void test_what_is_not_plain_yaml_is_refused(void **state)
{
	(void)state;
	refused("data: b: c\n", "g.yaml:1:8: ");
	refused("- data\n", "'key: value' lines are needed");
	refused("just text\n", "'key: value' lines are needed");
	refused("data: &x /a\n", "anchors and aliases are not allowed");
	refused("data: *x\n", "g.yaml:1:7: ");
	refused("data: /a\ndata: /b\n", "g.yaml:2:1: 'data' is given twice, first in line 1");
	refused("data: /a\n---\ndata: /b\n", "one document only");
	refused("? [a]\n: b\n", "a key is needed here");
	refused("data: \"a\\0b\"\n", "no value");
	refused("\xff\xfe\xff", "g.yaml:");
	refused("data: /a\n\tmemory: 1GiB\n", "g.yaml:");
}

static void test_flags_come_before_the_file(void **state)
{
	(void)state;
	config_init(&config);
	assert_int_equal(parse("cpus: 2\nlisten: ['127.0.0.1:1']\n"), 0);
	assert_int_equal(config_set_flag(&config, CONFIG_CPUS, "3", why), 0);
	assert_int_equal(config.values[CONFIG_CPUS].number, 3);
	assert_int_equal(config_set_flag(&config, CONFIG_LISTEN, "127.0.0.1:5", why), 0);
	assert_int_equal(config_set_flag(&config, CONFIG_LISTEN, "unix:/a", why), 0);
	assert_int_equal(config.listen_count, 2);
	assert_string_equal(config.listen[0], "tcp:127.0.0.1:5");
	assert_int_equal(config_set_flag(&config, CONFIG_CPUS, "x", why), -GRANARY_ECONFIG);
	assert_int_equal(config.values[CONFIG_CPUS].number, 3);
	for (int i = 2; i < CONFIG_LISTEN_MAX; i++)
		assert_int_equal(config_set_flag(&config, CONFIG_LISTEN, "unix:/b", why), 0);
	assert_int_equal(config_set_flag(&config, CONFIG_LISTEN, "unix:/c", why), -GRANARY_ECONFIG);
}

static void test_a_reload_applies_what_it_can_and_names_the_rest(void **state)
{
	static struct config fresh;
	char restart[128];

	(void)state;
	config_init(&config);
	config_init(&fresh);
	assert_int_equal(config_reload(&config, &fresh, restart, sizeof(restart)), 0);
	assert_string_equal(restart, "");
	assert_int_equal(config_set_flag(&fresh, CONFIG_LOG_LEVEL, "warn", why), 0);
	assert_int_equal(config_set_flag(&fresh, CONFIG_MEMORY, "2GiB", why), 0);
	assert_int_equal(config_set_flag(&fresh, CONFIG_LISTEN, "unix:/a", why), 0);
	assert_int_equal(config_reload(&config, &fresh, restart, sizeof(restart)), 1);
	assert_string_equal(restart, "listen, memory");
	assert_int_equal(config.values[CONFIG_LOG_LEVEL].number, 1);
	assert_int_equal(config.values[CONFIG_MEMORY].number, CONFIG_GIB);
}

/* Goal: what --print-default-config and --print-effective-config print can be read again. */
static void test_printed_settings_are_valid_files(void **state)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	assert_non_null(f);
	config_print_default(f);
	fflush(f);
	config_init(&config);
	if (config_parse(&config, "printed", text, len, why) != 0) fail_msg("%s", why);
	assert_int_equal(config_set_flag(&config, CONFIG_DATA, "/srv/x", why), 0);
	rewind(f);
	config_print_effective(&config, f);
	fclose(f);
	if (config_parse(&config, "printed", text, strlen(text), why) != 0)
		fail_msg("%s: %s", why, text);
	assert_string_equal(config.values[CONFIG_DATA].text, "/srv/x");
	assert_int_equal(config.values[CONFIG_CPUS].source, CONFIG_FROM_FILE);
	free(text);
}

static void test_a_missing_or_huge_file_is_refused(void **state)
{
	(void)state;
	config_init(&config);
	assert_int_equal(config_load(&config, "/nonexistent/g.yaml", why), -GRANARY_ECONFIG);
	assert_non_null(strstr(why, "cannot read '/nonexistent/g.yaml'"));
	assert_int_equal(config_load(&config, "/dev/zero", why), -GRANARY_ECONFIG);
	assert_non_null(strstr(why, "larger than 64 KiB"));
	assert_int_equal(config_load(&config, "/", why), -GRANARY_ECONFIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults_are_as_documented),
		cmocka_unit_test(test_every_default_satisfies_its_own_check),
		cmocka_unit_test(test_a_file_sets_values_and_remembers_lines),
		cmocka_unit_test(test_hot_directories_have_a_path_and_a_size),
		cmocka_unit_test(test_an_empty_file_is_the_defaults),
		cmocka_unit_test(test_an_unknown_key_names_its_place_and_the_nearest),
		cmocka_unit_test(test_a_wrong_type_is_refused_at_its_place),
		cmocka_unit_test(test_a_value_out_of_range_names_the_range),
		cmocka_unit_test(test_what_is_not_plain_yaml_is_refused),
		cmocka_unit_test(test_flags_come_before_the_file),
		cmocka_unit_test(test_a_reload_applies_what_it_can_and_names_the_rest),
		cmocka_unit_test(test_printed_settings_are_valid_files),
		cmocka_unit_test(test_a_missing_or_huge_file_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
