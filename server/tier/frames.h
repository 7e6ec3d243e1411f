/* SPDX-License-Identifier: Apache-2.0 */
/* frames.h -- the format of a compressed cold copy (FORMAT 4): head with the dictionary, frames, tail, seek
 * table; and the index of its frames as it is kept on flash (FORMAT 4.5) and in memory. No I/O. Decoders take
 * any bytes.
 *
 * The frames decode, one after the other, to exactly the pack's file: an address in the pack is an address
 * here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	FRAMES_HEAD_SIZE = 8 + 64, /* and the dictionary */
	FRAMES_TAIL_SIZE = 8 + 64,
	FRAMES_RAW_MAX = 4 * 1024 * 1024, /* bytes that a frame decodes to */
	FRAMES_COUNT_MAX = 64 * 1024 * 1024,
	FRAMES_DICT_MAX = 1024 * 1024,
};

/* ---- writing ---- */

struct frames_info {
	uint64_t pack_id, attempt, raw_len;
	uint32_t raw_crc; /* crc32c of the pack's bytes */
};

struct frames_writer {
	struct frames_info info;
	uint32_t *sizes; /* of each frame, head and tail apart: compressed, raw */
	uint32_t count, cap, head_len;
	uint64_t comp, raw;
};
/* out: FRAMES_HEAD_SIZE + dict_len bytes. Returns them. */
size_t frames_head(struct frames_writer *w, const void *dict, uint32_t dict_len, uint8_t *out);
int frames_add(struct frames_writer *w, uint32_t comp_len, uint32_t raw_len); /* NOMEM, TOOBIG */
/* Tail and seek table, allocated: after info.raw_crc is known. */
int frames_end(struct frames_writer *w, uint8_t **out, size_t *len);
void frames_writer_release(struct frames_writer *w);
/* A frame of raw blocks: what does not compress. Returns its length; out has frames_stored_bound(len). */
size_t frames_stored(const uint8_t *in, size_t len, uint8_t *out);
size_t frames_stored_bound(size_t len);

/* ---- reading ---- */

struct frames; /* immutable, counted */
struct frames *frames_ref(struct frames *f);
void frames_unref(struct frames **f);
const struct frames_info *frames_info(const struct frames *f);
uint32_t frames_count(const struct frames *f);
size_t frames_weight(const struct frames *f); /* bytes of memory */
uint64_t frames_file_len(const struct frames *f);
uint32_t frames_head_len(const struct frames *f); /* with the dictionary */

/* Of the last `len` bytes of a copy of file_len bytes. *need: bytes that are enough, where len is not
 * (TOOBIG). BADFORMAT, VERSION, CORRUPT. */
int frames_parse(const uint8_t *end, size_t len, uint64_t file_len, uint64_t *need, struct frames **out);
/* head: the first frames_head_len() bytes of the copy. */
int frames_take_head(struct frames *f, const uint8_t *head, size_t len);
/* The index on flash. */
int frames_index_encode(const struct frames *f, uint8_t **out, size_t *len);
int frames_index_parse(const uint8_t *in, size_t len, struct frames **out);

/* Where the bytes [at, at + len) of the pack stand in the copy: [*from, *from + *comp_len). RANGE: not in the
 * pack. */
int frames_range(const struct frames *f, uint64_t at, size_t len, uint64_t *from, size_t *comp_len);
/* The frame that holds byte `at` of the pack; where the bytes of a frame stand in the copy. */
uint32_t frames_first(const struct frames *f, uint64_t at);
void frames_piece(const struct frames *f, uint32_t i, uint64_t *from, uint32_t *comp_len);
/* Decodes them, given exactly those bytes. CORRUPT; NOMEM. */
int frames_decode(const struct frames *f, const uint8_t *comp, size_t comp_len, uint64_t at, size_t len, uint8_t *out);
/* The dictionary and its length; NULL: none. */
const uint8_t *frames_dict(const struct frames *f, uint32_t *len);
