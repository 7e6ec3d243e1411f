/* SPDX-License-Identifier: Apache-2.0 */
/* snap_build.h -- what the three files of a snapshot share (private to common/snap_*.c): the 64-byte header of
 * FORMAT 8.2, bytes that grow, and the list of packs with its index. */
#pragma once

#include "common/bytes.h"

struct snap_header {
	uint8_t     magic[8];          /* 00  one of the three                     */
	struct le32 version;           /* 08  SNAP_VERSION                         */
	struct le32 features_incompat; /* 12  unknown bit: refuse the file         */
	struct le32 features_compat;   /* 16  unknown bit: ignore it               */
	struct le32 counts[4];         /* 20  by the kind of file, zero if unused  */
	struct le32 body_crc;          /* 36  of all after the header              */
	struct le64 pack;              /* 40  data pages; else zero                */
	uint8_t     reserved[12];      /* 48  zero                                 */
	struct le32 crc;               /* 60  of bytes 0..59                       */
};
_Static_assert(sizeof(struct snap_header) == 64 && offsetof(struct snap_header, counts) == 20 &&
	       offsetof(struct snap_header, pack) == 40 && offsetof(struct snap_header, crc) == 60, "FORMAT 8.2");

enum { SNAP_FEATURE_IDENTITY = 1 }; /* of a manifest, FORMAT 8.5 */
#define SNAP_MAGIC_PAGE "GRNPAGE"
#define SNAP_MAGIC_NAMES "GRNNAME"
#define SNAP_MAGIC_MANIFEST "GRNSNAP"

/* Fills magic, version and both checksums of a file of `len` bytes, whose other header fields and body are final. */
void snap_header_seal(uint8_t *bytes, size_t len, const char magic[8]);
/* Header and checksums of a file; 0, -GRANARY_ECORRUPT, -GRANARY_EVERSION. */
int snap_header_read(const uint8_t *bytes, size_t len, const char magic[8], struct snap_header *out); /* not the body */
int snap_header_open(const uint8_t *bytes, size_t len, const char magic[8], struct snap_header *out);

struct snap_buf { uint8_t *p; size_t len, cap; };
void snap_buf_free(struct snap_buf *b);
/* Room for n more bytes, already counted in len; NULL: no memory. Amortised: the capacity doubles. */
uint8_t *snap_buf_room(struct snap_buf *b, size_t n);
/* Copies all of b to `to`; returns where it ends. */
uint8_t *snap_buf_copy(uint8_t *to, const struct snap_buf *b);

/* Packs in the order of their first use. */
struct snap_packs {
	struct snap_buf ids;    /* u64 each */
	uint32_t count;
	uint32_t *slots;        /* open addressing: index + 1, 0 free; at most half full */
	uint32_t slot_count;    /* a power of two */
	uint64_t last;          /* the pack asked for last, and its index */
	uint32_t last_index;
};
enum { SNAP_PACKS_MAX = 1 << 24 };
void snap_packs_free(struct snap_packs *p);
/* Index of a pack in the list, which it joins when it is new. -GRANARY_ENOMEM, -GRANARY_ETOOBIG. */
int snap_packs_index(struct snap_packs *p, uint64_t pack, uint32_t *index);
