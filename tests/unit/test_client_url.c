/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: addresses and credentials mean one thing each, and what is refused is said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "granary/granary.h"

static struct granary_url url;

static void test_address_with_everything(void **state)
{
	(void)state;
	assert_int_equal(0, granary_url_parse("granary://a:1,b,[::1]:9/vision@v1/train/x@y/%41/", &url, NULL, 0));
	assert_int_equal(3, url.hosts_count);
	assert_string_equal("a", url.hosts[0].name);
	assert_int_equal(1, url.hosts[0].port);
	assert_int_equal(GRANARY_PORT, url.hosts[1].port);
	assert_string_equal("::1", url.hosts[2].name);
	assert_int_equal(9, url.hosts[2].port);
	assert_string_equal("vision", url.bucket);
	assert_string_equal("v1", url.snapshot);
	assert_string_equal("train/x@y/%41/", url.path); /* taken literally */
}

static void test_address_without_bucket_or_path(void **state)
{
	(void)state;
	assert_int_equal(0, granary_url_parse("granary://localhost", &url, NULL, 0));
	assert_string_equal("", url.bucket);
	assert_int_equal(0, granary_url_parse("granary://localhost/", &url, NULL, 0));
	assert_string_equal("", url.bucket);
	assert_int_equal(0, granary_url_parse("granary://localhost/abc/", &url, NULL, 0));
	assert_string_equal("abc", url.bucket);
	assert_string_equal("", url.path);
	assert_int_equal(0, granary_url_parse("granary://localhost/abc//x", &url, NULL, 0));
	assert_string_equal("/x", url.path);
}

static void test_address_of_a_unix_socket(void **state)
{
	(void)state;
	assert_int_equal(0, granary_url_parse("granary://%2Frun%2Fg%20x.sock/abc/k", &url, NULL, 0));
	assert_string_equal("/run/g x.sock", url.hosts[0].name);
	assert_int_equal(1, url.hosts[0].is_unix);
	assert_int_equal(0, url.hosts[0].port);
}

static void test_addresses_that_are_refused(void **state)
{
	static const char *const bad[] = {
		"", "granary:/a/b", "http://a/b", "granary://", "granary:///abc", "granary://,a/abc",
			"granary://a,/abc",
		"granary://a:/abc", "granary://a:0/abc", "granary://a:65536/abc", "granary://a:x/abc",
			"granary://::1/abc",
		"granary://[::1/abc", "granary://[]/abc", "granary://[::1]x/abc", "granary://[::1]:/abc",
			"granary://a%2/abc",
		"granary://a%zz/abc", "granary://a%00/abc", "granary://%2Fx:1/abc", "granary://a/AB", "granary://a/ab",
		"granary://a/abc@", "granary://a/abc@/x", "granary://a/@v1", "granary://a/1.2.3.4",
		"granary://a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a/abc",
	};
	char why[256], text[2048];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		why[0] = '\0';
		if (granary_url_parse(bad[i], &url, why, sizeof(why)) != -GRANARY_EINVAL)
			fail_msg("accepted: %s", bad[i]);
		assert_true(why[0]);
	}
	assert_int_equal(-GRANARY_EINVAL, granary_url_parse(NULL, &url, why, sizeof(why)));
	snprintf(text, sizeof(text), "granary://a/abc/%01024d", 1);
	assert_int_equal(0, granary_url_parse(text, &url, NULL, 0));
	snprintf(text, sizeof(text), "granary://a/abc/%01025d", 1);
	assert_int_equal(-GRANARY_EINVAL, granary_url_parse(text, &url, NULL, 0));
	snprintf(text, sizeof(text), "granary://%0256d/abc", 1);
	assert_int_equal(-GRANARY_EINVAL, granary_url_parse(text, &url, NULL, 0));
}

/* ---- credentials ---- */

#define SECRET "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
static char path[] = "/tmp/granary-credentials-XXXXXX";

static int open_with(const char *text, mode_t mode)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_client *c;
	FILE *f = fopen(path, "w");

	fputs(text, f);
	fclose(f);
	chmod(path, mode);
	o.credentials = path;
	int err = granary_open(&o, &c);
	granary_close(&c);
	return err;
}

static void test_credentials_file(void **state)
{
	(void)state;
	unsetenv("GRANARY_URL");
	assert_int_equal(0,
		open_with("# me\n access_key=K\r\nsecret=" SECRET "\n\nurl=granary://localhost/abc\nlater=1", 0600));
	assert_int_equal(-GRANARY_EACCESS, open_with("access_key=K\nsecret=" SECRET "\nurl=granary://a/abc\n", 0640));
	assert_non_null(strstr(granary_last_error(NULL), "chmod 600"));
	assert_int_equal(-GRANARY_EACCESS, open_with("access_key=K\nsecret=" SECRET "\nurl=granary://a/abc\n", 0604));
	assert_int_equal(-GRANARY_EINVAL, open_with("access_key=K\nsecret=" SECRET "\n", 0600));
	assert_int_equal(-GRANARY_EINVAL, open_with("access_key=K\nurl=granary://a/abc\n", 0600));
	assert_int_equal(-GRANARY_EINVAL, open_with("access_key=K\nsecret=12\nurl=granary://a/abc\n", 0600));
	assert_int_equal(-GRANARY_EINVAL, open_with("access_key K\n", 0600));
	assert_non_null(strstr(granary_last_error(NULL), "line 1"));
	unlink(path);
}

static void test_options_out_of_range(void **state)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_client *c;

	(void)state;
	unsetenv("GRANARY_CREDENTIALS");
	o.url = "granary://localhost/abc";
	assert_int_equal(-GRANARY_EAUTH, granary_open(&o, &c));
	assert_null(c);
	o.access_key = "K";
	assert_int_equal(-GRANARY_EINVAL, granary_open(&o, &c));
	o.secret = SECRET;
	o.memory_max = 1;
	assert_int_equal(-GRANARY_EINVAL, granary_open(&o, &c));
	o.memory_max = 0;
	o.connections = 1000;
	assert_int_equal(-GRANARY_EINVAL, granary_open(&o, &c));
	o.connections = 0;
	o.size = 0;
	assert_int_equal(-GRANARY_EINVAL, granary_open(&o, &c));
	o.size = sizeof(o);
	o.credentials = "/nonexistent/x";
	assert_int_equal(0, granary_open(&o, &c)); /* keys given: no file is read */
	assert_string_equal("abc", granary_bucket(c));
	granary_close(&c);
	o.access_key = o.secret = NULL;
	assert_int_equal(-GRANARY_ENOTFOUND, granary_open(&o, &c));
}

static void test_texts_of_errors(void **state)
{
	(void)state;
	assert_string_equal("no such object", granary_strerror(-GRANARY_ENOTFOUND));
	assert_string_equal("NOTFOUND", granary_error_name(-GRANARY_ENOTFOUND));
	assert_string_equal("UNKNOWN", granary_error_name(-9999));
	assert_string_equal("UNKNOWN", granary_error_name(5));
	assert_int_equal(GRANARY_VERSION, granary_version());
	assert_string_equal(GRANARY_VERSION_STRING, granary_version_string());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_address_with_everything),
		cmocka_unit_test(test_address_without_bucket_or_path),
		cmocka_unit_test(test_address_of_a_unix_socket),
		cmocka_unit_test(test_addresses_that_are_refused),
		cmocka_unit_test(test_credentials_file),
		cmocka_unit_test(test_options_out_of_range),
		cmocka_unit_test(test_texts_of_errors),
	};

	close(mkstemp(path));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
