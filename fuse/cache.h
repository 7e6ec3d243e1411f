/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h -- bytes of files in the daemon's memory, within a budget; what was not used for long goes first.
 *
 * (1) all of it lies in segments of 2 MiB of one piece of memory, in huge pages where there are any; one is filled
 *     from its beginning and emptied as a whole: so nothing is ever above the budget, and nothing is split up.
 * (2) a part of a segment is all bytes of some samples with neighbouring numbers (a run), or up to a MiB of one file.
 *     Its bytes never change, and were verified by the library when they came.
 * (3) a segment that someone got stays until it is put, which must not wait for what others put in: that waits for it.
 * (4) of what two ask for at the same time one is fetched; the other waits for it. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cache;
struct cache_block; /* a segment that is held */

struct cache_view { /* bytes of one file, lent by a block */
	struct cache_block *block;
	const uint8_t *data;
	uint64_t offset, size; /* in the file, of data */
	uint64_t file_size;
	bool first; /* nobody had looked at this part before */
};
enum {
	CACHE_COPY_MAX = 8 * 1024,
	CACHE_PIECE = 1024 * 1024,
	CACHE_RUN_FILES_MAX = 1024,
	CACHE_RUN_BYTES_MAX = 1536 * 1024,
	CACHE_LEAST = 16 * 1024 * 1024,
};

struct cache *cache_new(uint64_t budget); /* bytes, CACHE_LEAST at least; NULL: no memory */
void cache_free(struct cache *c);
/* A view of the byte at `offset` of a file; false: not here. */
bool cache_find(struct cache *c, uint64_t row, uint64_t offset, struct cache_view *out);
/* Copies up to `size` bytes, CACHE_COPY_MAX at most, from a byte of a file on: cheaper than a view for so few. How
 * many; 0: not here. The view has no block and no data. */
size_t cache_copy(struct cache *c, uint64_t row, uint64_t offset, void *to, size_t size, struct cache_view *out);
/* Is it here? Changes nothing. */
bool cache_has(struct cache *c, uint64_t row, uint64_t offset);
/* Takes the right to fetch `what` (a number of the caller's); false: another thread had it, and is done with it now. */
bool cache_begin(struct cache *c, uint64_t what);
void cache_end(struct cache *c, uint64_t what);
/* Copies what came into the cache. Files side by side: rows first_row and up, count of them (CACHE_RUN_FILES_MAX, and
 * CACHE_RUN_BYTES_MAX bytes at most), row i the bytes offsets[i] up to offsets[i + 1]. */
void cache_add_run(struct cache *c, uint64_t first_row, uint32_t count, const void *data, const uint64_t *offsets);
/* `size` bytes at `offset` of a file of file_size, in parts of CACHE_PIECE. */
void cache_add_piece(
	struct cache *c, uint64_t row, const void *data, uint64_t offset, uint64_t size, uint64_t file_size);
void cache_put(struct cache *c, struct cache_block *block);

struct cache_numbers {
	uint64_t budget, used, hits, misses, evicted; /* evicted: segments */
};
void cache_numbers(struct cache *c, struct cache_numbers *out);
