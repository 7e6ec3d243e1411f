/* SPDX-License-Identifier: Apache-2.0 */
/* s3_answer.h -- what S3 services say in XML and in headers, read with expat; never trusted: an answer has at most
 * S3_ANSWER_MAX bytes, DEPTH_MAX elements in each other, no document type, and is read whole or refused.
 * Source: Amazon S3 API reference (ListObjectsV2, ListMultipartUploads, CreateMultipartUpload,
 * CompleteMultipartUpload, error responses). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { S3_ANSWER_MAX = 2 * 1024 * 1024, S3_TOKEN_MAX = 2048, S3_CODE_MAX = 64, S3_TEXT_MAX = 256, S3_KEY_MAX = 1024,
	S3_UPLOAD_ID_MAX = 1024 };

struct s3_error {
	char code[S3_CODE_MAX];    /* NoSuchKey; "" if there was none */
	char message[S3_TEXT_MAX]; /* cut */
};

/* <Error>; false: the text is none. */
bool s3_read_error(const char *xml, size_t len, struct s3_error *out);
/* The <UploadId> of an <InitiateMultipartUploadResult>. */
int s3_read_upload_id(const char *xml, size_t len, char *out, size_t cap);
/* A <CompleteMultipartUploadResult>: 0; an <Error> in an answer of status 200: -GRANARY_EIO and *error. */
int s3_read_complete(const char *xml, size_t len, struct s3_error *error);

/* Each <Contents> of a <ListBucketResult>; stops at and returns the first non-zero of each. *token: where the next page
 * begins; "" at the last one. Keys are decoded (encoding-type=url). -GRANARY_ECORRUPT: no such answer, or one that says
 * that there is more and not where. */
struct s3_listing {
	int (*each)(void *arg, const char *key, uint64_t len);
	void *arg;
	char token[S3_TOKEN_MAX];
	/* of the key at hand, for each(): its ETag without quotes ("": none), seconds since 1970 (0: none) */
	char etag[S3_TEXT_MAX];
	int64_t modified_s;
};
int s3_read_list(const char *xml, size_t len, struct s3_listing *l);

/* Each <Upload> of a <ListMultipartUploadsResult>, the same way; *key_marker, *upload_marker: where the next page
 * begins. */
struct s3_uploads {
	int (*each)(void *arg, const char *key, const char *upload);
	void *arg;
	char key_marker[S3_KEY_MAX + 1], upload_marker[S3_UPLOAD_ID_MAX];
	bool more;
};
int s3_read_uploads(const char *xml, size_t len, struct s3_uploads *u);

/* "bytes 0-9/100": false unless whole and possible. */
bool s3_read_content_range(const char *value, uint64_t *first, uint64_t *last, uint64_t *total);
