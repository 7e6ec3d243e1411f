/* SPDX-License-Identifier: Apache-2.0 */
/* split.h -- where the samples lie in the bytes of one object: lines, members of a tar archive, windows of a fixed
 * length. A scanner is given the object's bytes in order, in pieces of any length, and tells its sink what is a part.
 * No I/O. What it makes of the bytes does not depend on how they were cut into pieces.
 *
 * lines  A part is a line without its newline, which is LF or CR LF; the last one needs none. Lines of no bytes are no
 *        parts. Lines are numbered from 1, all of them.
 * tar    A part is the data of a regular file: ustar, pax (path and size), GNU long names and base-256 sizes, v7. What
 *        else an archive has, and what cannot be trusted, is a problem (below) and no part; after a header that is
 *        damaged nothing more is taken, for nobody can tell where the next one is. It ends at the first block of zeros.
 * fixed  A part is `width` bytes; windows are numbered from 0. The rest at the end is no part. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"

enum split_kind { SPLIT_NONE, SPLIT_LINES, SPLIT_TAR, SPLIT_FIXED };
enum { SPLIT_NAME_MAX = 4096, SPLIT_HEADERS_MAX = 1 << 20, SPLIT_WIDTH_MAX = 1 << 30 };

enum split_problem {
	SPLIT_EMPTY_LINE,  /* and what follows is counted, not an error of the object */
	SPLIT_REST,        /* fixed: bytes at the end that fill no window */
	SPLIT_DAMAGED,     /* no tar, or a header whose checksum or fields are wrong: the rest is left out */
	SPLIT_TRUNCATED,   /* it ends inside a member */
	SPLIT_UNENDED,     /* no block of zeros at its end: it may be cut short */
	SPLIT_AFTER_END,   /* bytes behind the end of the archive */
	SPLIT_BAD_NAME,    /* empty, absolute, with .., no UTF-8, or too long */
	SPLIT_SPARSE,
	SPLIT_LINK,
	SPLIT_SPECIAL,     /* a device, a pipe, or of a kind that is not known */
	SPLIT_HUGE,        /* a header of more than SPLIT_HEADERS_MAX bytes: the rest is left out */
	SPLIT_TWICE,       /* not by the scanner: a member whose name another one has */
	SPLIT_PROBLEMS
};
const char *split_problem_text(enum split_problem p); /* what there is so many of */

struct split_spec {
	enum split_kind kind;
	uint32_t width; /* of SPLIT_FIXED */
};
/* "lines", "tar", "fixed:BYTES" (1..SPLIT_WIDTH_MAX). */
bool split_spec_parse(const char *text, struct split_spec *out);

struct split_part {
	uint64_t at;       /* where it begins in the object */
	uint64_t number;   /* of a line or window */
	struct slice name; /* of a member: without "." and empty components; valid during the call */
};
/* An error from one of them ends the scan and is returned. */
struct split_sink {
	void *arg;
	/* The part at hand goes on with these bytes, which stand at `at` of the object: in order, without gaps. */
	int (*bytes)(void *arg, uint64_t at, const uint8_t *p, size_t len);
	int (*part)(void *arg, const struct split_part *part); /* it ended, and is one */
	int (*drop)(void *arg);                                /* what bytes() gave is none after all */
	/* name: of the member, or empty */
	int (*problem)(void *arg, enum split_problem what, uint64_t at, struct slice name);
};

struct split;
struct split *split_new(const struct split_spec *spec, const struct split_sink *sink); /* NULL: no memory */
void split_free(struct split **s);
void split_begin(struct split *s); /* the next object */
int split_feed(struct split *s, const uint8_t *p, size_t len);
int split_end(struct split *s); /* the object has no more bytes */
