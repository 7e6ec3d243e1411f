/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: answers of S3 services are read whole or refused; key files say what is wrong with them; the breaker opens,
 * tries and closes as its head says. */
#include "tier/s3_answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "granary/error.h"
#include "tier/s3_breaker.h"
#include "tier/s3_key_file.h"

static char listed[512];

static int note(void *arg, const char *key, uint64_t len)
{
	size_t at = strlen(listed);

	(void)arg;
	snprintf(listed + at, sizeof(listed) - at, "%s:%llu;", key, (unsigned long long)len);
	return strcmp(key, "stop") == 0 ? 7 : 0;
}

static int list(const char *xml, char *token)
{
	struct s3_listing l = { .each = note };
	int err = s3_read_list(xml, strlen(xml), &l);

	snprintf(token, S3_TOKEN_MAX, "%s", l.token);
	return err;
}

static void test_lists(void **state)
{
	char token[S3_TOKEN_MAX];

	(void)state;
	listed[0] = '\0';
	assert_int_equal(
		0, list("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
			"<IsTruncated>true</IsTruncated><Contents><Key>a%2Fb+c</Key><Size>12</Size><Owner><ID>x</ID>"
			"</Owner></Contents><Contents><Size>0</Size><Key>d&amp;</Key></Contents>"
			"<NextContinuationToken>more</NextContinuationToken></ListBucketResult>",
			   token));
	assert_string_equal("a/b c:12;d&:0;", listed);
	assert_string_equal("more", token);
	assert_int_equal(0, list("<ListBucketResult/>", token));
	assert_string_equal("", token);
	assert_int_equal(
		7, list("<ListBucketResult><Contents><Key>stop</Key><Size>1</Size></Contents></ListBucketResult>",
			   token));
}

static int note_upload(void *arg, const char *key, const char *upload)
{
	size_t at = strlen(listed);

	(void)arg;
	snprintf(listed + at, sizeof(listed) - at, "%s=%s;", key, upload);
	return strcmp(key, "stop") == 0 ? 7 : 0;
}

static int uploads(const char *xml, struct s3_uploads *u)
{
	u->each = note_upload;
	listed[0] = '\0';
	return s3_read_uploads(xml, strlen(xml), u);
}

static void test_unfinished_uploads(void **state)
{
	struct s3_uploads u = { 0 };

	(void)state;
	assert_int_equal(
		0, uploads("<ListMultipartUploadsResult xmlns=\"x\"><Bucket>b</Bucket><IsTruncated>true</IsTruncated>"
			   "<Upload><Key>a%2Fb</Key><UploadId>2~x</UploadId><Initiator><ID>i</ID></Initiator></Upload>"
			   "<Upload><UploadId>y</UploadId><Key>c</Key></Upload><NextKeyMarker>c</NextKeyMarker>"
			   "<NextUploadIdMarker>y</NextUploadIdMarker></ListMultipartUploadsResult>",
			   &u));
	assert_string_equal("a/b=2~x;c=y;", listed);
	assert_true(u.more);
	assert_string_equal("c", u.key_marker);
	assert_string_equal("y", u.upload_marker);
	assert_int_equal(0, uploads("<ListMultipartUploadsResult/>", &u));
	assert_false(u.more);
	assert_string_equal("", u.key_marker);
	assert_int_equal(7, uploads("<ListMultipartUploadsResult><Upload><Key>stop</Key><UploadId>u</UploadId></Upload>"
				    "</ListMultipartUploadsResult>",
				    &u));
	/* An upload without its id or key, another answer, more of it and not where, a key that is no encoding. */
	assert_int_equal(-GRANARY_ECORRUPT, uploads("<ListMultipartUploadsResult><Upload><Key>k</Key></Upload>"
						    "</ListMultipartUploadsResult>",
						    &u));
	assert_int_equal(-GRANARY_ECORRUPT, uploads("<ListMultipartUploadsResult><Upload><UploadId>k</UploadId>"
						    "</Upload></ListMultipartUploadsResult>",
						    &u));
	assert_int_equal(-GRANARY_ECORRUPT, uploads("<ListBucketResult/>", &u));
	assert_int_equal(-GRANARY_ECORRUPT, uploads("<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>"
						    "</ListMultipartUploadsResult>",
						    &u));
	assert_int_equal(-GRANARY_ECORRUPT, uploads("<ListMultipartUploadsResult><Upload><Key>%0</Key>"
						    "<UploadId>u</UploadId></Upload></ListMultipartUploadsResult>",
						    &u));
}

static void test_what_is_no_list(void **state)
{
	static const char *const bad[] = {
		"",
		"x",
		"<a/>",
		"<ListBucketResult>",
		"<ListBucketResult></a>",
		"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
		"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Size>18446744073709551616</Size></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Key>a%0</Key><Size>1</Size></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Key>a%00</Key><Size>1</Size></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Key></Key><Size>1</Size></Contents></ListBucketResult>",
		"<!DOCTYPE l [<!ENTITY a 'b'>]><ListBucketResult/>",
		"<ListBucketResult><a><b><c><d><e><f><g><h/></g></f></e></d></c></b></a></ListBucketResult>",
		"<Error><Code>NoSuchBucket</Code></Error>",
	};
	char token[S3_TOKEN_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (list(bad[i], token) != -GRANARY_ECORRUPT) fail_msg("taken: %s", bad[i]);
}

static void test_uploads_and_errors(void **state)
{
	static const char begun[] = "<InitiateMultipartUploadResult><Bucket>b</Bucket><UploadId>2~x</UploadId>"
				    "</InitiateMultipartUploadResult>";
	static const char done[] =
		"<CompleteMultipartUploadResult><ETag>&quot;1-2&quot;</ETag></CompleteMultipartUploadResult>";
	static const char failed[] = "<Error><Code>InternalError</Code><Message>later</Message></Error>";
	struct s3_error error;
	char id[8];

	(void)state;
	assert_int_equal(0, s3_read_upload_id(begun, strlen(begun), id, sizeof(id)));
	assert_string_equal("2~x", id);
	assert_int_equal(-GRANARY_ECORRUPT, s3_read_upload_id(begun, strlen(begun), id, 3));
	assert_int_equal(-GRANARY_ECORRUPT, s3_read_upload_id(failed, strlen(failed), id, sizeof(id)));
	assert_int_equal(0, s3_read_complete(done, strlen(done), &error));
	assert_int_equal(-GRANARY_EIO, s3_read_complete(failed, strlen(failed), &error));
	assert_string_equal("InternalError", error.code);
	assert_int_equal(-GRANARY_ECORRUPT, s3_read_complete(begun, strlen(begun), &error));
	assert_true(s3_read_error(failed, strlen(failed), &error));
	assert_string_equal("later", error.message);
	assert_false(s3_read_error(done, strlen(done), &error));
}

static void test_content_range(void **state)
{
	static const char *const bad[] = { "", "bytes", "bytes 1-2", "bytes 2-1/9", "bytes 0-9/9", "bytes 0-1/*",
		"bytes */9", "bytes 0-1/2x", "bytes 99999999999999999999-1/2" };
	uint64_t first, last, total;

	(void)state;
	assert_true(s3_read_content_range("bytes 3-9/10", &first, &last, &total));
	assert_true(first == 3 && last == 9 && total == 10);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (s3_read_content_range(bad[i], &first, &last, &total)) fail_msg("taken: %s", bad[i]);
}

static void test_key_files(void **state)
{
	static const char text[] = "# mine\n[other]\naws_access_key_id = no\n\n[ default ]\naws_access_key_id=ID\r\n"
				   "region = x\naws_secret_access_key =  se/cr+et= \n[last]\naws_session_token=t\n";
	struct s3_key key = { .region = "here" };
	char why[256];

	(void)state;
	assert_int_equal(0, s3_key_parse(text, strlen(text), "default", &key, why, sizeof(why)));
	assert_string_equal("ID", key.id);
	assert_string_equal("se/cr+et=", key.secret);
	assert_string_equal("", key.token);
	assert_string_equal("here", key.region);
	assert_int_equal(-GRANARY_ECONFIG, s3_key_parse(text, strlen(text), "none", &key, why, sizeof(why)));
	assert_string_equal("it has no section [none]", why);
	assert_int_equal(-GRANARY_ECONFIG, s3_key_parse(text, strlen(text), "other", &key, why, sizeof(why)));
	assert_string_equal("section [other] lacks aws_secret_access_key", why);
	assert_int_equal(
		-GRANARY_ECONFIG, s3_key_parse("[a]\naws_access_key_id=\n", 23, "a", &key, why, sizeof(why)));
	assert_non_null(strstr(why, "line 2"));
}

static void test_a_key_file_that_others_may_read_is_refused(void **state)
{
	char path[] = "/tmp/granary-test-key-XXXXXX", why[512];
	int fd = mkstemp(path);
	struct s3_key key;
	static const char text[] = "[default]\naws_access_key_id=a\naws_secret_access_key=b\n";

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(strlen(text), write(fd, text, strlen(text)));
	assert_int_equal(0, s3_key_load(path, "default", &key, why, sizeof(why)));
	assert_int_equal(0, fchmod(fd, 0644));
	assert_int_equal(-GRANARY_ECONFIG, s3_key_load(path, "default", &key, why, sizeof(why)));
	assert_non_null(strstr(why, "chmod 600"));
	close(fd);
	unlink(path);
	assert_true(s3_key_load(path, "default", &key, why, sizeof(why)) < 0);
	assert_non_null(strstr(why, path));
}

static void test_the_breaker(void **state)
{
	struct breaker b;
	uint64_t now = 1;

	(void)state;
	breaker_init(&b);
	for (int i = 1; i < BREAKER_FAILURES; i++) {
		assert_true(breaker_enter(&b, now));
		assert_false(breaker_failed(&b, now));
	}
	assert_true(breaker_enter(&b, now));
	assert_true(breaker_failed(&b, now)); /* opens */
	assert_false(breaker_enter(&b, now));
	now += b.pause_ns;
	assert_true(breaker_enter(&b, now)); /* one tries */
	assert_false(breaker_enter(&b, now));
	uint64_t pause = b.pause_ns;
	assert_false(breaker_failed(&b, now));
	assert_true(b.pause_ns > pause);
	assert_false(breaker_enter(&b, now + pause));
	now += b.pause_ns;
	assert_true(breaker_enter(&b, now));
	assert_true(breaker_answered(&b)); /* closes */
	assert_true(breaker_enter(&b, now));
	assert_false(breaker_answered(&b));
	breaker_destroy(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_unfinished_uploads),
		cmocka_unit_test(test_what_is_no_list),
		cmocka_unit_test(test_uploads_and_errors),
		cmocka_unit_test(test_content_range),
		cmocka_unit_test(test_key_files),
		cmocka_unit_test(test_a_key_file_that_others_may_read_is_refused),
		cmocka_unit_test(test_the_breaker),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
