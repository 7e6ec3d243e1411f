/* SPDX-License-Identifier: Apache-2.0 */
/* s3_sign.h -- AWS Signature Version 4 for S3, as Amazon's "Authenticating Requests (AWS Signature Version 4)"
 * describes it. Pure: no clock, no I/O.
 * A path is the key as it is, encoded once here (A-Z a-z 0-9 - . _ ~ / stay); nothing is normalised, so `//` and `..`
 * are what they are. Queries are given decoded and come out sorted and encoded, `name=` where there is no value: the
 * text that is signed is the text that is sent. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum {
	S3_SIGN_QUERY_MAX = 8,
	S3_SIGN_HEADERS_MAX = 8,
	S3_SIGN_URI_MAX = 4096,
	S3_SIGN_AUTH_MAX = 512,
	S3_SHA256_HEX = 65,
	S3_DATE_SIZE = 17
};

struct s3_pair {
	const char *name, *value; /* value NULL: a query without one, sent as `name=` */
};

struct s3_key {
	char id[129], secret[257], token[2049]; /* token: "" without one */
	char region[65];
};

struct s3_request {
	const char *method, *host; /* host as the Host header has it */
	const char *path;          /* begins with /; not encoded */
	struct s3_pair query[S3_SIGN_QUERY_MAX];
	unsigned queries;
	struct s3_pair headers[S3_SIGN_HEADERS_MAX]; /* lower case, without host and x-amz-date: all are signed */
	unsigned header_count;
	const char *payload_hash; /* hex SHA-256; also sent as x-amz-content-sha256, which must not be in headers */
};

struct s3_signed {
	char uri[S3_SIGN_URI_MAX]; /* path and query, encoded */
	char authorization[S3_SIGN_AUTH_MAX];
	char date[S3_DATE_SIZE]; /* x-amz-date: 20130524T000000Z */
};

/* wall_s: seconds since 1970. -GRANARY_ETOOBIG: path or query too long. */
int s3_sign(const struct s3_request *r, const struct s3_key *key, int64_t wall_s, struct s3_signed *out);
void s3_sha256_hex(const void *data, size_t len, char out[S3_SHA256_HEX]);
