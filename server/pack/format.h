/* SPDX-License-Identifier: Apache-2.0 */
/* format.h -- the bytes of a pack: docs/FORMAT.md 3. Encode and decode, no I/O. Decoders take any
 * bytes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"

enum {
	PACK_HEADER_SIZE = 64, PACK_DATA_START = 4096, PACK_RECORD_HEADER_SIZE = 64, PACK_TRAILER_SIZE = 64,
	PACK_FOOTER_ENTRY_SIZE = 40, PACK_BLOCK = 4096, PACK_ALIGN = 8,
	RECORD_DATA = 1, RECORD_FILLER = 2, RECORD_WHOLE = 1,
};

struct pack_header { uint64_t pack_id, created_ns, group, attempt; };
void pack_header_encode(const struct pack_header *h, uint8_t out[PACK_HEADER_SIZE]);
int pack_header_decode(const uint8_t *in, size_t len, struct pack_header *out); /* BADFORMAT, VERSION, CORRUPT */

struct record {
	uint8_t kind, flags;
	uint32_t header_len, data_len, stored_len, generation, header_crc;
	uint64_t object_id, version, dir_id, logical;
	struct slice key, name, attrs;
	const uint8_t *crcs;
	uint32_t crc_count;
};
/* header_len of a record with these parts: 64 + key + name + attrs + crcs, rounded up to 4. */
uint32_t record_header_len(size_t key_len, size_t name_len, size_t attr_len, uint32_t stored_len);
/* Total length in the file, rounded up to 8. */
uint64_t record_total_len(uint32_t header_len, uint32_t stored_len);
/* From this record's start to where the next may begin; a filler's data_len counts, though it
 * stores nothing. */
uint64_t record_span(const struct record *r);
/* Writes header, key, name, attributes, block crcs: header_len bytes. 0 or -GRANARY_ETOOBIG. */
int record_encode(const struct record *r, uint8_t *out, size_t cap);
uint32_t record_header_crc(const uint8_t *encoded); /* as record_encode wrote it */
/* Decodes a record's header at in: needs header_len bytes there (TOOBIG when len is less: *need
 * says how much).
 * BADFORMAT: no record's magic there; CORRUPT: a length out of range or a wrong crc. */
int record_decode(const uint8_t *in, size_t len, struct record *out, uint32_t *need);
void filler_encode(uint8_t *out, uint32_t total_len); /* >= 64 */
void filler_header_encode(uint8_t *out, uint64_t total_len); /* its first 64 bytes: the others may be anything */

struct footer_entry { uint64_t object_id, version, dir_id, offset; uint32_t data_len, header_len, header_crc; };
void footer_entry_encode(const struct footer_entry *e, uint8_t out[PACK_FOOTER_ENTRY_SIZE]);
void footer_entry_decode(const uint8_t in[PACK_FOOTER_ENTRY_SIZE], struct footer_entry *out);
/* Bytes of a footer with its trailer: the entries, zeros, the trailer at the end of a 4 KiB line.
 * */
uint64_t footer_size(uint32_t entries);
struct pack_trailer {
	uint64_t pack_id, footer_offset, data_end, object_bytes, attempt;
	uint32_t entries, entries_crc;
};
void pack_trailer_encode(const struct pack_trailer *t, uint8_t out[PACK_TRAILER_SIZE]);
int pack_trailer_decode(const uint8_t *in, size_t len, struct pack_trailer *out);
