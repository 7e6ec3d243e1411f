/* SPDX-License-Identifier: Apache-2.0 */
/* upload.h -- many local files into the store; known.c tells what is there already. */
#pragma once

#include "scan.h"
#include "sender.h"

struct known; /* keys below a prefix with size and time */
/* Lists what lies below the prefix. CLI_OK, or says what failed. */
int known_list(struct known **out, struct remote *r, const char *prefix);
/* Is an object of this key there, and is it the same by size and time? */
enum known_state { KNOWN_ABSENT, KNOWN_OTHER, KNOWN_SAME };
bool known_has(const struct known *k, const char *key); /* false: no need to ask for the size */
enum known_state known_state(
	const struct known *k, const char *key, uint64_t size, uint64_t mtime_ns);
size_t known_count(const struct known *k);
void known_free(struct known **known);

/* Writes all files of the scan (started) below `prefix` ("" or ending in a slash), in the scan's order. With
 * --dry-run only counts. Returns CLI_OK; CLI_PARTIAL or another code after naming what failed. */
int upload_run(struct remote *r, struct scan *scan, const char *prefix, const char *what,
	struct upload_totals *totals);
/* What was done, for people, or as the first fields of a JSON object. */
void upload_summary(const struct upload_totals *t, const char *what, double seconds);
void upload_summary_json(struct json *j, const struct upload_totals *t, const char *what);
/* The closing lines, or the JSON object. */
void upload_report(
	const struct upload_totals *t, const struct scan *scan, const char *what, double seconds);

/* "mtime" of a local file as the store keeps it. */
struct stat;
uint64_t stat_mtime_ns(const struct stat *st);
/* One open file of any size into one object, streamed. 0 or -GRANARY_E... with `errnum` set when reading failed. */
int upload_stream(
	struct remote *r, int fd, struct granary_put *put, int *errnum, struct progress *progress);
