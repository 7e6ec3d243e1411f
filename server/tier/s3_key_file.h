/* SPDX-License-Identifier: Apache-2.0 */
/* s3_key_file.h -- access keys as everybody's tools keep them: sections in brackets, `aws_access_key_id = ...`,
 * `aws_secret_access_key = ...`, `aws_session_token = ...`; `#` and `;` begin comments. */
#pragma once

#include <stddef.h>

#include "tier/s3_sign.h"

/* Id, secret and token of a section into *key; region stays. -GRANARY_ECONFIG and why: the line, what is missing. */
int s3_key_parse(const char *text, size_t len, const char *profile, struct s3_key *key, char *why, size_t why_cap);
/* From a file that nobody but its owner may read, or from the environment's AWS_ACCESS_KEY_ID,
 * AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN when path is "". */
int s3_key_load(const char *path, const char *profile, struct s3_key *key, char *why, size_t why_cap);
