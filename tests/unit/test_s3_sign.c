/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: signatures are those of the examples in Amazon's "Signature Calculations for the Authorization Header" (S3 API
 * reference), and paths and queries are encoded once, as they are sent. */
#include "tier/s3_sign.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "granary/error.h"

enum { EXAMPLE_TIME = 1369353600 }; /* 2013-05-24T00:00:00Z */
static const char EMPTY[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

static struct s3_key example_key(void)
{
	return (struct s3_key){ .id = "AKIAIOSFODNN7EXAMPLE",
		.secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
		.region = "us-east-1" };
}

static void check(const struct s3_request *r, const char *uri, const char *signature)
{
	struct s3_key key = example_key();
	struct s3_signed out;

	assert_int_equal(0, s3_sign(r, &key, EXAMPLE_TIME, &out));
	assert_string_equal("20130524T000000Z", out.date);
	assert_string_equal(uri, out.uri);
	const char *got = strstr(out.authorization, "Signature=");
	assert_non_null(got);
	assert_string_equal(signature, got + strlen("Signature="));
}

static void test_examples_of_the_reference(void **state)
{
	char hash[S3_SHA256_HEX];
	static const char body[] = "Welcome to Amazon S3.";
	struct s3_request r = { .method = "GET",
		.host = "examplebucket.s3.amazonaws.com",
		.path = "/test.txt",
		.headers = { { "range", "bytes=0-9" } },
		.header_count = 1,
		.payload_hash = EMPTY };

	(void)state;
	check(&r, "/test.txt", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");

	s3_sha256_hex(body, strlen(body), hash);
	r = (struct s3_request){ .method = "PUT",
		.host = "examplebucket.s3.amazonaws.com",
		.path = "/test$file.text",
		.headers = { { "x-amz-storage-class", "REDUCED_REDUNDANCY" },
			{ "date", "Fri, 24 May 2013 00:00:00 GMT" } },
		.header_count = 2,
		.payload_hash = hash };
	check(&r, "/test%24file.text", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");

	r = (struct s3_request){ .method = "GET",
		.host = "examplebucket.s3.amazonaws.com",
		.path = "/",
		.query = { { "lifecycle", NULL } },
		.queries = 1,
		.payload_hash = EMPTY };
	check(&r, "/?lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");

	r = (struct s3_request){ .method = "GET",
		.host = "examplebucket.s3.amazonaws.com",
		.path = "/",
		.query = { { "prefix", "J" }, { "max-keys", "2" } },
		.queries = 2,
		.payload_hash = EMPTY };
	check(&r, "/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void test_what_is_signed_is_what_is_sent(void **state)
{
	struct s3_key key = example_key();
	struct s3_signed out;
	struct s3_request r = { .method = "GET",
		.host = "h",
		.path = "/b/a+b=c,d(e)*f//../\xc3\xa9 %",
		.query = { { "prefix", "a b/+&=%" }, { "list-type", "2" } },
		.queries = 2,
		.payload_hash = EMPTY };

	(void)state;
	assert_int_equal(0, s3_sign(&r, &key, EXAMPLE_TIME, &out));
	assert_string_equal(
		"/b/a%2Bb%3Dc%2Cd%28e%29%2Af//../%C3%A9%20%25?list-type=2&prefix=a%20b%2F%2B%26%3D%25", out.uri);
}

static void test_a_token_is_signed_too(void **state)
{
	struct s3_key key = example_key();
	struct s3_signed out;
	struct s3_request r = { .method = "GET", .host = "h", .path = "/", .payload_hash = EMPTY };

	(void)state;
	snprintf(key.token, sizeof(key.token), "token");
	assert_int_equal(0, s3_sign(&r, &key, EXAMPLE_TIME, &out));
	assert_non_null(strstr(out.authorization, "x-amz-date;x-amz-security-token,"));
	assert_null(strstr(out.authorization, key.secret));
}

static void test_too_long_is_refused(void **state)
{
	static char path[S3_SIGN_URI_MAX + 2];
	struct s3_key key = example_key();
	struct s3_signed out;
	struct s3_request r = { .method = "GET", .host = "h", .path = path, .payload_hash = EMPTY };

	(void)state;
	memset(path, '/', S3_SIGN_URI_MAX);
	assert_int_equal(-GRANARY_ETOOBIG, s3_sign(&r, &key, EXAMPLE_TIME, &out));
	memset(path, '\xff', S3_SIGN_URI_MAX / 3 + 1);
	path[0] = '/';
	path[S3_SIGN_URI_MAX / 3 + 1] = '\0';
	assert_int_equal(-GRANARY_ETOOBIG, s3_sign(&r, &key, EXAMPLE_TIME, &out));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_examples_of_the_reference),
		cmocka_unit_test(test_what_is_signed_is_what_is_sent),
		cmocka_unit_test(test_a_token_is_signed_too),
		cmocka_unit_test(test_too_long_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
