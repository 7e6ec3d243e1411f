/* SPDX-License-Identifier: Apache-2.0 */
/* slow.h -- the last requests that took long, with where each spent its time: for `granary status --slow`. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct req;
struct slow_ring;

enum { SLOW_MARKS = 12 };
/* Where a request waited. Filled by the dispatcher, the last place takes what does not fit. */
struct slow_mark {
	uint32_t step;    /* of its kind: the one that waited */
	uint32_t wait_us; /* saturating */
};

struct slow_ring *slow_ring_new(void); /* NULL: no memory */
void slow_ring_free(struct slow_ring **ring);
/* Requests of less are not kept; 0: none is. Any thread. */
void slow_ring_set_limit(struct slow_ring *ring, uint64_t limit_ns);
/* A request that ends now after so long. Its reactor. */
void slow_ring_note(struct slow_ring *ring, const struct req *r, uint64_t took_ns);
/* Lines of `name=value` pairs, the newest first: age_s, ms, op, key, error, entries_bytes, and a pair `at_STEP` in ms
 * for each step that waited. Any thread. Returns bytes written, without the NUL. */
size_t slow_ring_text(struct slow_ring *ring, char *buf, size_t cap);
