/* SPDX-License-Identifier: Apache-2.0 */
/* json_read.h -- a strict reader of small JSON texts: the caller says what it expects, anything else is an error.
 * Invariants: (1) the first error sticks, with its line and the path of the field; after it every call does nothing and
 * gives 0 or false, so loops end; (2) no recursion and no allocation: strings are unescaped into the caller's memory;
 * (3) numbers are whole and not negative. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_PATH_MAX = 96 };

struct json_reader {
	const char *p, *end, *start;
	char path[JSON_PATH_MAX]; /* of the value being read: sources[2].weight */
	bool bad;
	char *why;
	size_t why_cap;
};

void json_reader_init(struct json_reader *j, const char *text, size_t len, char *why, size_t why_cap);
/* Notes the first error; always false. */
__attribute__((format(printf, 2, 3))) bool json_fail(struct json_reader *j, const char *format, ...);
/* Whatever follows the value is an error. */
bool json_end(struct json_reader *j);

/* `open` is '{' or '['. Then json_next() before each element, *index counting them from 0: false at the end. */
bool json_enter(struct json_reader *j, char open);
bool json_next(struct json_reader *j, char close, uint32_t *index);
/* The name of a field, with its colon: its number in names[], which end with NULL. A name that is not there, or whose
 * bit is in *seen already, is an error. Appends it to the path; json_pop() back to where the path was. */
int json_field(struct json_reader *j, const char *const *names, uint32_t *seen);
size_t json_push(struct json_reader *j, uint32_t index); /* appends [index]; gives the length before */
void json_pop(struct json_reader *j, size_t path_len);

uint64_t json_u64(struct json_reader *j, uint64_t least, uint64_t most);
/* 1..max bytes of UTF-8 without NUL into *out, ended by 0, moving *out behind it. NULL: error. Needs no more room than
 * the string takes in the text. */
const char *json_string(struct json_reader *j, char **out, size_t max);
