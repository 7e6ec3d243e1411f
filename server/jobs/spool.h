/* SPDX-License-Identifier: Apache-2.0 */
/* spool.h -- rows of work that need not fit in memory: bytes in order of arrival, and fixed rows
 * given back sorted. What passes the memory given goes to unnamed files of the data directory, gone
 * with the process. Blocking; one thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct aside;
struct fs;
struct spool;
struct sorter;

/* memory: bytes kept before the file is made. May spill: room (may be NULL) is asked before each
 * write to the disk. A sorter with `aside` sorts and spills there while it takes further rows. */
struct spool_options {
	struct fs *fs;
	size_t memory;
	int (*room)(void *arg, uint64_t bytes); /* 0 or -GRANARY_ENOSPACE */
	void *arg;
	struct aside *aside; /* NULL: in the caller's turn */
};
struct spool *spool_new(const struct spool_options *o); /* NULL: no memory */
void spool_free(struct spool **s);
int spool_append(struct spool *s, const void *p, size_t len);
uint64_t spool_size(const struct spool *s);
/* Exactly len bytes from `at`; what was appended before. -GRANARY_EIO past the end. Nearby reads
 * share a buffer. */
int spool_read(struct spool *s, uint64_t at, void *to, size_t len);

struct sort_row {
	uint64_t key[2], value[2];
}; /* sorted by key[0], key[1], value[1] */
struct sorter *sorter_new(const struct spool_options *o);
void sorter_free(struct sorter **s);
int sorter_add(struct sorter *s, const struct sort_row *row);
int sorter_finish(struct sorter *s); /* no more rows: from here on sorter_next() */
int sorter_next(struct sorter *s, struct sort_row *out); /* 1, 0 at the end, or an error */
