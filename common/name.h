/* SPDX-License-Identifier: Apache-2.0 */
/* name.h -- what a bucket name and a key may be (FORMAT 1.5), and how a key splits into components. */
#pragma once

#include <stdbool.h>

#include "common/bytes.h"

enum { KEY_LEN_MAX = 1024, BUCKET_LEN_MIN = 3, BUCKET_LEN_MAX = 63 };

/* 0, or -GRANARY_ENAME: 1..1,024 bytes of UTF-8 (RFC 3629: no surrogates, no overlong forms) without NUL. */
int key_check(struct slice key);
/* 0, or -GRANARY_ENAME: 3..63 of a-z 0-9 . -, first and last a letter or digit, no "..", not like an IPv4 address
 * (the S3 rules). System buckets begin with "." and are refused here. */
int bucket_name_check(struct slice name);
/* 0, or -GRANARY_ENAME: one component: 0..1,024 bytes of UTF-8 without NUL or '/'. */
int component_check(struct slice name);

/* Splits at the last '/': "a/b/c" -> dir "a/b/", leaf "c"; "a/" -> dir "a/", leaf ""; "x" -> dir "", leaf "x". */
void key_split(struct slice key, struct slice *dir, struct slice *leaf);
/* Walks "a/b/" component by component: returns false at the end; *name is "a", then "b". Empty components count:
 * "a//b" walks "a", "" for dir part "a//". */
bool path_next(struct slice *rest, struct slice *name);
/* Writes bytes with control characters, quotes and invalid UTF-8 escaped (\xNN) for logs and errors; always
 * NUL-terminated, cut with "..." when cap is small. Returns dst. */
char *name_escape(char *dst, size_t cap, struct slice s);
bool utf8_valid(struct slice s);
