/* SPDX-License-Identifier: Apache-2.0 */
/* s3_http.h -- signed requests to one bucket, over libcurl, repeated until they are through or cannot be.
 * Invariants: (1) every request is one that may be done twice; (2) what goes out is signed with its own bytes'
 * hash, so a service refuses what the network changed; (3) no secret reaches a log line, an error text or a
 * URL; (4) no call lasts past its deadline; (5) once the service failed BREAKER_FAILURES times in a row, calls
 * fail at once, and one call at a time tries again after a growing pause. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tier/s3_answer.h"
#include "tier/s3_sign.h"

struct s3;

enum { S3_HOST_MAX = 256, S3_BUCKET_MAX = 64, S3_PREFIX_MAX = 512, S3_PATH_MAX = 1024, S3_ETAG_MAX = 128 };

struct s3_settings {
	char name[64];          /* of the store, for log lines */
	bool tls, virtual_host; /* bucket in the host name, else in the path */
	char host[S3_HOST_MAX]; /* with the port unless it is the default one */
	char bucket[S3_BUCKET_MAX], prefix[S3_PREFIX_MAX], region[65];
	char credentials[S3_PATH_MAX], profile[64]; /* "": from the environment */
	char ca[S3_PATH_MAX];                       /* "": the machine's */
};

int s3_new(const struct s3_settings *settings, struct s3 **out); /* touches nothing but memory */
void s3_free(struct s3 **s);                                     /* nobody is inside any more */

struct s3_call {
	const char *method;
	const char *key; /* below the prefix; NULL: the bucket */
	struct s3_pair query[S3_SIGN_QUERY_MAX];
	unsigned queries;
	const char *range; /* "bytes=0-9", or NULL */
	const char *if_match; /* an ETag with its quotes, or NULL */
	const void *body;  /* not copied */
	size_t body_len;
	/* The body of a 2xx answer: into buf, at most cap (more is -GRANARY_ECORRUPT); with text, a block of its own.
	 * */
	void *buf;
	size_t cap;
	bool text;

	/* answers */
	unsigned status;
	size_t len;             /* bytes in buf or text_out */
	char *text_out;         /* ended by 0; freed by s3_call_end() */
	char etag[S3_ETAG_MAX]; /* with its quotes */
	char content_range[S3_TEXT_MAX];
	struct s3_error error; /* of the last try that was refused */
};

/* 0 for 2xx. NOTFOUND (the object), OFFLINE, TIMEDOUT, BUSY, ACCESS, NOSPACE, CORRUPT, INVAL, RANGE (416), SOURCE
 * (412), STALE (an upload that does not exist). deadline_ns of clock_mono_ns(). Blocks. */
int s3_call(struct s3 *s, struct s3_call *call, uint64_t deadline_ns);
void s3_call_end(struct s3_call *call);
/* For another try after a failure that only its caller sees (a complete that says <Error>): waits, or the
 * error to give. */
int s3_pause(struct s3 *s, unsigned tries, uint64_t deadline_ns);
