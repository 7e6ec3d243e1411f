/* SPDX-License-Identifier: Apache-2.0 */
/* rows.h -- keys and values of every row, docs/FORMAT.md 5 and 6: encode and decode, nothing else. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/hash.h"
#include "common/name.h"

enum {
	ROW_KEY_MAX = 1 + 8 + 8 + KEY_LEN_MAX + 1 + 16,
	ROW_EXTENTS_INLINE_MAX = 4,
	DIR_LINKS = 2, /* nlink of a directory that has no other in it; 1: of before they were counted */
	ROW_META_LEN_MAX = 2048,
	ROW_XATTR_NAME_MAX = 255,
	ROW_XATTRS_LEN_MAX = 65536, /* of one object, with 4 bytes a pair */
	ROW_TAGS_MAX = 10,
	ROW_TAG_NAME_MAX = 512,
	ROW_TAG_VALUE_MAX = 1024,
	ROW_TAGS_LEN_MAX = ROW_TAGS_MAX * (4 + ROW_TAG_NAME_MAX + ROW_TAG_VALUE_MAX),
	ROW_SYMLINK_LEN_MAX = 4095,
	EXTENT_LEN_MAX = 4 * 1024 * 1024,
	EXTENT_CRCS_MAX = EXTENT_LEN_MAX / CRC_BLOCK_SIZE + 1,
};

enum row_tag { /* FORMAT 5.2 */
	TAG_ID = 1, TAG_VERSION, TAG_SIZE, TAG_MTIME, TAG_CTIME, TAG_MODE, TAG_UID, TAG_GID, TAG_HASH, TAG_EXTENT,
	TAG_WRITTEN, TAG_META, TAG_HAS_LINKS, TAG_NLINK, TAG_PARENT, TAG_NAME, TAG_CHILDREN, TAG_BUCKET,
	TAG_GENERATION, TAG_EXTENTS_OUTSIDE, TAG_MD5, TAG_DATASET, TAG_SYMLINK, TAG_RDEV, TAG_CLASS,
	TAG_CHECKSUM = 32, TAG_PARTS, TAG_TAG, TAG_LABEL, TAG_RETENTION, TAG_HOLD, TAG_STORAGE_CLASS,
	TAG_ENCRYPTION, TAG_XATTR, TAG_IN_INODE, TAG_ATIME, TAG_REFERS,
	TAG_UPLOAD_KEY, TAG_HOLES, TAG_ROW = 64 /* 64 + n: by the row's own clause */
};

struct extent {
	uint64_t pack;
	uint64_t record;   /* bytes, a multiple of 8 */
	uint32_t skip;     /* bytes from the record's start to the first byte of the extent */
	uint32_t length;
	uint64_t logical;
	uint32_t flags;    /* EXTENT_HOLE, EXTENT_UNSUMMED */
	uint32_t cut_before, cut_after; /* bytes of the record's data that are not the extent's, before and behind it */
	uint32_t crc_count;
	const uint8_t *crcs; /* crc_count little-endian u32, borrowed: of the record's blocks that it touches */
};
/* What an extent adds to its pack's live bytes (FORMAT 6.8a): the whole record, with header and padding, as the pack's
 * total counts it; else a pack of small records looks dead while all of it lives. The header goes with the first byte:
 * what is left of a record that was cut weighs no more than it did. */
static inline uint64_t extent_weight(const struct extent *e)
{
	return ((uint64_t)(e->cut_before == 0 ? e->skip : 0) + e->length + 7) & ~UINT64_C(7);
}
/* Bytes from the record's start to its data; of the record's data. */
static inline uint32_t extent_header(const struct extent *e) { return e->skip - e->cut_before; }
static inline uint32_t extent_stored(const struct extent *e) { return e->cut_before + e->length + e->cut_after; }
static inline bool extent_is_cut(const struct extent *e) { return e->cut_before != 0 || e->cut_after != 0; }
/* UNSUMMED: of a record whose bytes nobody has read yet (pack/linked.h): the checksums are zeros, and known once the
 * record is in a file. */
enum { EXTENT_HOLE = 1, EXTENT_UNSUMMED = 4 };
static inline bool extent_is_summed(const struct extent *e) { return (e->flags & EXTENT_UNSUMMED) == 0; }
static inline uint32_t extent_crc(const struct extent *e, uint32_t i)
{
	uint32_t v;

	memcpy(&v, e->crcs + (size_t)4 * i, 4);
	return v;
}

/* The part [from, from + length) of e (from: bytes from its first) as an extent of its own; crcs borrowed from e's. */
struct extent extent_part(const struct extent *e, uint32_t from, uint32_t length);

/* Value of an `x` row: tag 10 alone. 0 or -GRANARY_ECORRUPT; length or -GRANARY_ETOOBIG. */
int extent_row_decode(struct slice value, struct extent *out);
int64_t extent_row_encode(const struct extent *e, void *buf, size_t cap);

/* A decoded object or directory value. Slices and crcs borrow from the row. Values of 0 are not written (but the
 * id); a new file has nlink 1, which is not written either. is_dir is read from the mode, a parent, a children
 * counter or the dataset mark: the bare `d` row of a directory shows it in its key only. */
struct object {
	uint64_t id, version, size, mtime_ns, ctime_ns, written_ns;
	uint64_t parent, children, bucket, klass;
	uint64_t atime_ns;   /* 0: never set, as mtime */
	uint64_t rdev;
	uint64_t holes;      /* bytes below `size` that no extent covers; of a file written before there was it: 0 */
	uint32_t mode, uid, gid, nlink, generation, extents_outside;
	struct hash128 hash;
	bool has_hash, has_links, is_dataset, is_dir;
	bool in_inode;       /* of a `d` row: only the id stands here, all else in the `i` row; and of that row */
	uint32_t extent_count;
	struct slice meta;   /* user metadata as it is in tag 12 (one element: the concatenated pairs), empty = none */
	struct slice xattrs, tags; /* pairs as meta's */
	bool refers;          /* `y` rows exist for extents of it */
	bool drops_sums;      /* the bytes are others now: object_encode leaves out what sums raw has of them */
	struct slice symlink; /* target */
	struct slice upload_key; /* of the directory that holds the parts of an upload: the key of the object to be */
	struct slice name;
	struct slice raw;    /* the whole value: tags without a field are copied from it on a rewrite; empty = none */
	struct extent extents[ROW_EXTENTS_INLINE_MAX]; /* last: the first extent_count are set, the others are not */
};
/* A regular file: not a symbolic link, pipe, socket or device. A mode without a type is a regular file's. */
static inline bool object_has_bytes(const struct object *o)
{
	return (o->mode & 0170000) == 0 || (o->mode & 0170000) == 0100000;
}
int object_decode(struct slice value, struct object *out);           /* 0 or -GRANARY_ECORRUPT */
/* Writes format byte and TLVs; unknown tags of o->raw are kept. Returns the length, or -GRANARY_ETOOBIG. */
int64_t object_encode(const struct object *o, void *buf, size_t cap);
/* User metadata block (u16 name, u16 value pairs): 0 or -GRANARY_EINVAL / -GRANARY_ETOOBIG. */
int meta_check(struct slice meta);
/* The same for any block of pairs of at most `max` bytes; *count of them. */
int pairs_check(struct slice pairs, size_t max, uint32_t *count);
/* The value of a name in a sound block. */
bool pairs_find(struct slice pairs, struct slice name, struct slice *value);

/* Keys into buf (ROW_KEY_MAX); the slice returned borrows from it. */
struct slice row_bucket(uint8_t *buf, struct slice name);
struct slice row_entry(uint8_t *buf, uint64_t dir, struct slice name, bool is_dir);  /* `d` */
struct slice row_entry_prefix(uint8_t *buf, uint64_t dir);
struct slice row_inode(uint8_t *buf, uint64_t id);                                   /* `i` */
struct slice row_link(uint8_t *buf, uint64_t id, uint64_t dir, struct slice name);   /* `o` */
struct slice row_link_prefix(uint8_t *buf, uint64_t id);
struct slice row_extent(uint8_t *buf, uint64_t id, uint32_t generation, uint64_t logical); /* `x` */
struct slice row_extent_prefix(uint8_t *buf, uint64_t id, uint32_t generation);
struct slice row_pack(uint8_t *buf, uint64_t pack);                                  /* `p` */
struct slice row_copy(uint8_t *buf, uint64_t store, uint64_t pack);                  /* `c` */
struct slice row_reference(uint8_t *buf, uint64_t pack, uint64_t record, uint64_t id, uint64_t logical); /* `y` */
struct slice row_reference_prefix(uint8_t *buf, uint64_t pack, uint64_t record);
/* Object id and logical offset of a `y` row's key; false when it is none. */
bool row_reference_parse(struct slice key, uint64_t *id, uint64_t *logical);
struct slice row_upload(uint8_t *buf, uint64_t bucket, struct slice key, uint64_t upload);  /* `u`, part 0 */
struct slice row_upload_prefix(uint8_t *buf, uint64_t bucket);
bool row_upload_parse(struct slice row, struct slice *key, uint64_t *upload);
struct slice row_session(uint8_t *buf, uint64_t session);                            /* `h` */
struct slice row_retry(uint8_t *buf, uint64_t session, uint64_t sequence);           /* `l` */
struct slice row_key(uint8_t *buf, struct slice access_key);                         /* `k` */
struct slice row_quota(uint8_t *buf, uint64_t bucket);                               /* `q` */
struct slice row_deletion(uint8_t *buf, uint64_t written_ns, uint8_t kind, uint64_t id); /* `g` */
struct slice row_orphan(uint8_t *buf, uint64_t id, uint64_t session);                /* `j` */
struct slice row_orphan_prefix(uint8_t *buf, uint64_t id);
struct slice row_drive(uint8_t *buf, uint64_t store);                                /* `f` */
struct slice row_task(uint8_t *buf, uint64_t task);                                  /* `t` */
struct slice row_cold(uint8_t *buf, uint64_t store);                                 /* `z` */
struct slice row_store(uint8_t *buf, const char *what);                              /* `M` */
struct slice row_linked(uint8_t *buf, uint64_t pack, uint64_t record);               /* `m` */
struct slice row_linked_prefix(uint8_t *buf, uint64_t pack);

/* Splits an `d` key: directory id, name without a trailing '/', is_dir. False when it is none. */
bool row_entry_parse(struct slice key, uint64_t *dir, struct slice *name, bool *is_dir);

/* Generic value building: format byte first, then tlv_put*() of common/tlv.h. */
static inline void value_begin(struct wr *w) { wr_u8(w, 1); }
/* First value of a tag as u64 (1 to 8 bytes are read); `otherwise` when the tag or the value is missing; false when
 * the value is damaged. */
bool value_u64(struct slice value, uint16_t tag, uint64_t otherwise, uint64_t *out);
bool value_bytes(struct slice value, uint16_t tag, struct slice *out); /* false when missing or damaged */
/* Rewrites value with the u64 tag set (one that was shorter stays so if v fits: a u8 state); returns the new length
 * or -GRANARY_ETOOBIG / ECORRUPT. Empty value = new. */
int64_t value_set_u64(struct slice value, uint16_t tag, uint64_t v, void *buf, size_t cap);

enum pack_state { PACK_OPEN = 1, PACK_SEALED, PACK_DYING, PACK_BROKEN };
struct pack_row {
	uint64_t order, committed_end, live_bytes, total_bytes, group, pins, file_size, records, live_records, created;
	uint8_t state;
};
enum { PTAG_STATE = 64, PTAG_ORDER, PTAG_END, PTAG_LIVE, PTAG_TOTAL, PTAG_GROUP, PTAG_PINS, PTAG_SIZE,
       PTAG_RECORDS, PTAG_CREATED, PTAG_LIVE_RECORDS };
int pack_row_decode(struct slice value, struct pack_row *out);
int64_t pack_row_encode(const struct pack_row *p, struct slice old, void *buf, size_t cap);

enum { CTAG_NAME = 64, CTAG_CODEC, CTAG_LENGTH, CTAG_CRC, CTAG_STATE, CTAG_SPARSE, CTAG_BROUGHT, CTAG_INSTEAD };
enum { CODEC_INSTEAD = 0x80 }; /* added to CTAG_CODEC where CTAG_INSTEAD is: who does not know it must not go on */
enum { COPY_BROUGHT = 1, COPY_KEPT = 2 }; /* of CTAG_BROUGHT, which only grows */
enum { DELETION_PACK = 1, DELETION_EXTENTS, DELETION_MOVED, DELETION_COLD };
enum { GTAG_STORE = 64, GTAG_NAME };
enum { JTAG_ACCESS = 64, JTAG_DIR, JTAG_NAME };
enum { FTAG_PATH = 64, FTAG_SIZE, FTAG_STATE, FTAG_PACKS };
enum { TTAG_KIND = 64, TTAG_STATE, TTAG_ARGUMENTS, TTAG_PACKS };
enum { MTAG_PAUSED = 64 };
enum { ZTAG_NAME = 64, ZTAG_MARKED };
enum { LINKTAG_ENTRY = 64 };
enum { QTAG_BYTES = 64, QTAG_OBJECTS };
enum { BTAG_ROOT = 64, BTAG_OWNER, BTAG_QUOTA_BYTES, BTAG_QUOTA_OBJECTS, BTAG_DURABILITY, BTAG_CREATED };
enum { LTAG_VERSION = 64, LTAG_ID, LTAG_STATUS, LTAG_OP, LTAG_WRITTEN, LTAG_VERSIONS,
       LTAG_IDS, LTAG_DIRS, LTAG_REPLACED, LTAG_SIZES };
enum { HTAG_KEY = 64, HTAG_CREATED, HTAG_RANGE, HTAG_UNSTABLE, HTAG_OPENS, HTAG_LEASE, HTAG_GIVEN };
enum { KTAG_SECRET = 64, KTAG_GRANT, KTAG_EXPIRES, KTAG_CREATED, KTAG_NOTE };
