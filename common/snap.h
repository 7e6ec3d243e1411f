/* SPDX-License-Identifier: Apache-2.0 */
/* snap.h -- the files of a snapshot, FORMAT 8: a manifest that lists pages, data pages (one a pack: where every
 * sample's bytes are) and names pages (key -> pack and slot). Written by the server, read by clients and by tools;
 * pure: no I/O.
 *
 * Invariants: (1) a page depends on the rows of its pack alone, in the order of their addresses, so versions of a
 * dataset share the pages of packs that did not change; pages are named by the content hash of their bytes; (2) dense
 * id = samples of the pages before + slot in its page; (3) a parser checks lengths, counts, order and checksum of all
 * it hands out before it hands it out, and never reads past the bytes it was given; (4) integers are little-endian and
 * unaligned access is never assumed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/hash.h"

enum {
	SNAP_VERSION = 1,
	SNAP_FIELDS_MAX = 64,       /* K: files of one sample */
	SNAP_PAGES_MAX = 1 << 24,   /* of a manifest */
	SNAP_HISTOGRAM = 48,        /* samples by floor(log2(size)), size 0 in the first */
	SNAP_OPTIONS_MAX = 4096,
	SNAP_PREFIX_MAX = 1024,
	SNAP_KEY_MAX = 1100,        /* of a names page: a key, and room to name a part of the object */
	SNAP_FILE_MAX = 1 << 30,    /* a page, a names page and a manifest are shorter than this */
};

/* ---- data pages ---- */

/* UNSUMMED: where the crc of an extent is 0, nobody knew it when the snapshot was made: the bytes are a linked source's
 * (FORMAT 4.7), whose tag the server checks. */
enum { SNAP_ROW_EMPTY = 1, SNAP_ROW_EXTENTS = 2, SNAP_ROW_PART = 4, SNAP_ROW_UNSUMMED = 8 };
/* One piece of a row: `length` bytes at `offset` of pack `pack`, with the CRC-32C of exactly those bytes. Pack 0: a
 * hole, that many zero bytes (offset 0; their crc is crc32c_combine(UINT32_MAX, UINT32_MAX, length)). */
struct snap_extent { uint64_t pack; uint32_t offset, length, crc; bool unsummed; };
/* A row: sample * K + field. Most have one extent. */
struct snap_row {
	uint64_t size;              /* bytes of the row: the sum of its extents */
	uint32_t extent_count;      /* 0 when the field is missing */
	uint8_t flags;
	struct snap_extent first;   /* the only one unless SNAP_ROW_EXTENTS */
	uint32_t extents_at;        /* for snap_page_extent() */
};

struct snap_page_builder;
/* Page of `pack` with K fields a sample. NULL: no memory. */
struct snap_page_builder *snap_page_builder_new(uint64_t pack, uint32_t fields);
void snap_page_builder_free(struct snap_page_builder **b);
/* The next row (rows come in order of sample, then field). count 0: a missing field; an object of no bytes is one
 * extent of length 0. Of the flags only SNAP_ROW_PART and SNAP_ROW_UNSUMMED are the caller's (SNAP_ROW_EMPTY may be
 * given with count 0). Extents that touch in one pack are not merged. 0; -GRANARY_EINVAL (an extent that passes 4 GiB,
 * other flags): nothing was added; -GRANARY_ETOOBIG (a page is under 1 GiB): likewise; -GRANARY_ENOMEM: only free the
 * builder. */
int snap_page_add(struct snap_page_builder *b, const struct snap_extent *extents, uint32_t count, uint8_t flags);
uint32_t snap_page_builder_samples(const struct snap_page_builder *b);
/* The page's bytes (malloc; the caller frees) and their hash; the builder keeps its rows. -GRANARY_EINVAL when the last
 * sample has not all its fields; -GRANARY_ENOMEM. */
int snap_page_finish(struct snap_page_builder *b, uint8_t **bytes, size_t *len, struct hash128 *hash);

struct snap_page { /* borrows the bytes */
	const uint8_t *bytes, *rows, *packs, *extents;
	size_t len;
	uint64_t pack;
	uint32_t fields, samples, pack_count, extent_count;
};
/* 0 or -GRANARY_ECORRUPT, -GRANARY_EVERSION. */
int snap_page_parse(const uint8_t *bytes, size_t len, struct snap_page *out);
/* The same for bytes of which the caller compared the hash: reads the header alone, and its checksum. */
int snap_page_parse_known(const uint8_t *bytes, size_t len, struct snap_page *out);
void snap_page_fetch(const struct snap_page *p, uint64_t row); /* its bytes are wanted soon */
/* row < samples * fields; rows were not checked one by one at parse: ECORRUPT when this one is damaged. */
int snap_page_row(const struct snap_page *p, uint64_t row, struct snap_row *out);
/* Extent i of a row that snap_page_row() gave; -GRANARY_ERANGE past its last, -GRANARY_ECORRUPT. */
int snap_page_extent(const struct snap_page *p, const struct snap_row *row, uint32_t i, struct snap_extent *out);

/* ---- names pages: sorted by key bytes; a page ends at a directory's border where it can ---- */

struct snap_name {
	struct slice key;
	uint64_t pack;
	uint32_t slot;              /* sample in the pack's page */
	uint32_t field;
};
struct snap_names_builder;
struct snap_names_builder *snap_names_builder_new(void);
void snap_names_builder_free(struct snap_names_builder **b);
/* Keys of 1..SNAP_KEY_MAX bytes, each above the one before, else -GRANARY_EINVAL; -GRANARY_ETOOBIG: nothing was added;
 * -GRANARY_ENOMEM: only free the builder. */
int snap_names_add(struct snap_names_builder *b, const struct snap_name *n);
size_t snap_names_builder_size(const struct snap_names_builder *b); /* bytes so far: the caller cuts pages, ~256 KiB */
/* As snap_page_finish(), and empties the builder for the next page. -GRANARY_ENOMEM. */
int snap_names_finish(struct snap_names_builder *b, uint8_t **bytes, size_t *len, struct hash128 *hash);

struct snap_names { /* borrows the bytes */
	const uint8_t *bytes, *packs, *entries, *restart_table;
	size_t len;
	uint32_t count, restarts, pack_count;
};
int snap_names_parse(const uint8_t *bytes, size_t len, struct snap_names *out);
struct snap_names_iter {
	const struct snap_names *page;
	size_t at;                  /* of the entry that comes next */
	uint32_t index;             /* its number */
	uint8_t key[SNAP_KEY_MAX];  /* the key before it */
	uint32_t key_len;
	int err;
};
/* To the first key >= `key`. */
void snap_names_seek(const struct snap_names *p, struct slice key, struct snap_names_iter *it);
/* To entry number `index`; at or past the last: to the end. */
void snap_names_at(const struct snap_names *p, uint32_t index, struct snap_names_iter *it);
/* The key borrows from *it until the next call. false: the end, or it->err (-GRANARY_ECORRUPT). */
bool snap_names_next(struct snap_names_iter *it, struct snap_name *out);

/* ---- the manifest: what a snapshot is; its hash is the snapshot's identity ---- */

struct snap_page_ref {
	struct hash128 hash;
	uint64_t pack, bytes;       /* of its rows */
	uint32_t samples, size;     /* of the page itself */
};
struct snap_names_ref {
	struct hash128 hash;
	uint32_t entries, size;
	struct slice first;         /* its first key */
};
struct snap_manifest {
	uint32_t fields;
	uint64_t samples, bytes, directories, incomplete; /* incomplete: groups left out for a missing field */
	uint64_t created_ns;        /* store time */
	uint8_t mode;               /* what `auto` means: ORDER_* of common/order.h */
	uint64_t block, window; uint32_t lanes;
	uint64_t smallest, largest;
	uint64_t histogram[SNAP_HISTOGRAM];
	bool has_identity;          /* it was repacked: */
	struct hash128 identity;    /* the hash of its first manifest, by which tokens and recipes name it */
	struct slice prefix, options; /* as given at creation; options: lines "name=value" */
	struct slice field_names;   /* K suffixes, each u8 length and bytes; empty when K is 1 */
	uint32_t page_count, names_count;
	struct snap_page_ref *pages;   /* in pack order */
	struct snap_names_ref *names;  /* in key order */
};
/* -GRANARY_EINVAL: what a decoder would refuse (limits of SNAP_*; sums of the pages other than samples and bytes;
 * histogram that does not add up to samples; smallest above largest; first keys not ascending; a names page of no
 * entries; field names not K). -GRANARY_ENOMEM, -GRANARY_ETOOBIG. */
int snap_manifest_encode(const struct snap_manifest *m, uint8_t **bytes, size_t *len, struct hash128 *hash);
/* Arrays are malloc'ed, slices borrow from bytes. -GRANARY_ECORRUPT, -GRANARY_EVERSION, -GRANARY_ENOMEM: nothing to
 * release. */
int snap_manifest_decode(const uint8_t *bytes, size_t len, struct snap_manifest *out);
void snap_manifest_release(struct snap_manifest *m);

/* CRC-32C of the concatenation of A and B from theirs and the length of B. */
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b);
