/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_s3_answer.c -- what an S3 service may say: the first byte chooses the reader, the rest is the text.
 * What is taken keeps its bounds. */
#include "tier/s3_answer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tier/s3_key_file.h"

static int each_upload(void *arg, const char *key, const char *upload)
{
	(void)arg;
	assert(key[0] && strlen(key) <= S3_KEY_MAX && upload[0]);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int each(void *arg, const char *key, uint64_t len)
{
	(void)len;
	assert(key[0] && strlen(key) <= S3_KEY_MAX);
	return ++*(int *)arg > 1000;
}

static void headers(const char *text, size_t len)
{
	char value[S3_TEXT_MAX];
	uint64_t first, last, total;

	if (len >= sizeof(value)) return;
	memcpy(value, text, len);
	value[len] = '\0';
	if (s3_read_content_range(value, &first, &last, &total)) assert(first <= last && last < total);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct s3_listing listing;
	struct s3_key key = { 0 };
	struct s3_error error;
	struct s3_uploads uploads = { .each = each_upload, .arg = NULL };
	char id[32], why[64];
	int count = 0;

	if (size < 1) return 0;
	const char *text = (const char *)data + 1;
	switch (data[0] % 6) {
	case 0:
		listing.each = each;
		listing.arg = &count;
		if (s3_read_list(text, size - 1, &listing) == 0) assert(strlen(listing.token) < S3_TOKEN_MAX);
		if (s3_read_uploads(text, size - 1, &uploads) == 0) assert(!uploads.more || uploads.key_marker[0]);
		break;
	case 1:
		if (s3_read_error(text, size - 1, &error)) assert(error.code[0]);
		break;
	case 2:
		if (s3_read_upload_id(text, size - 1, id, sizeof(id)) == 0) assert(id[0]);
		break;
	case 3:
		if (s3_read_complete(text, size - 1, &error) == 0) assert(!error.code[0]);
		break;
	case 4: headers(text, size - 1); break;
	default:
		if (s3_key_parse(text, size - 1, "default", &key, why, sizeof(why)) == 0)
			assert(key.id[0] && key.secret[0]);
	}
	return 0;
}
