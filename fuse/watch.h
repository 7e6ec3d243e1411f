/* SPDX-License-Identifier: Apache-2.0 */
/* watch.h -- what the programs that use a mount do, counted: for `granary stats`, `granary profile` and metrics.
 *
 * (1) counting takes no lock and touches no memory that another thread counts in, but for requests that failed or took
 *     long, and one in a millisecond of the others: these are kept as lines, the last WATCH_LINES of them. */
#pragma once

#include <stdint.h>
#include <stdio.h>

#include "fuse/request.h"

enum { WATCH_OPS = 64, WATCH_BINS = 32, WATCH_SHARDS = 16, WATCH_LINES = 1024 };

struct watch;
struct watch_op {
	uint64_t count, errors, bytes, ns, ns_max;
};
struct watch_numbers {
	struct watch_op ops[WATCH_OPS]; /* by opcode */
	uint64_t absent;                /* names looked up that are not there */
	uint64_t waited, waited_ns;     /* READs whose bytes had to come */
	uint64_t sizes[WATCH_BINS];     /* READs by floor(log2(bytes)) */
	uint64_t waits[WATCH_BINS];     /* READs that waited by floor(log2(microseconds)) */
	uint64_t begun, ended;          /* requests: what is under way is the difference */
	uint64_t seconds;               /* since the start */
};

struct watch *watch_new(void);
void watch_free(struct watch *w);
void watch_begin(struct watch *w, struct request *r);
/* It waits for the server, or for another thread that asked it. */
void watch_waits(struct request *r);
void watch_end(struct watch *w, const struct request *r);
void watch_numbers(struct watch *w, struct watch_numbers *out);
/* The lines kept, oldest first. */
void watch_lines(struct watch *w, FILE *to);
