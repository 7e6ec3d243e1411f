/* SPDX-License-Identifier: Apache-2.0 */
/* kept.h -- what reads brought out of a cold store is kept on flash by itself (`promote: sample`): a file of a fixed
 * size, written round and round in segments, and an index in memory. A cache: nothing names what is in it, addresses
 * of samples do not change by it, and all of it may be lost at any time.
 *
 * Invariants: (1) a piece is known by a name that is never used for other bytes (a frame of a copy: FORMAT 4.6), and
 * is given out only if its checksum is right; (2) the file never grows past its size, and not at all where less than
 * `spare` would be left free on its disk; (3) memory is fixed at opening: two segments, and a table of
 * 1/64 to 1/32 of the size; (4) nobody waits for a write but who filled the segment. Any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fs;
struct kept;

enum { KEPT_SEGMENT = 4 * 1024 * 1024, KEPT_PIECE_MAX = KEPT_SEGMENT / 4 };

/* name: of its file in kept/. size: bytes, at least four segments count. */
int kept_open(struct fs *fs, const char *name, uint64_t size, uint64_t spare, struct kept **out);
void kept_close(struct kept **kept); /* what is in memory is written first */
/* Exactly len bytes; false: it is not there. */
bool kept_get(struct kept *kept, uint64_t key, void *buf, size_t len);
void kept_forget(struct kept *kept, uint64_t key);
/* Asked for so often now, about, that it is worth its place? Counts. */
bool kept_wants(struct kept *kept, uint64_t key, uint32_t after);
void kept_put(struct kept *kept, uint64_t key, const void *buf, size_t len);
struct kept_stats { uint64_t hits, puts, lost; }; /* lost: pieces of segments that could not be written */
void kept_get_stats(struct kept *kept, struct kept_stats *out);
