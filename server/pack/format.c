/* SPDX-License-Identifier: Apache-2.0 */
/* format.c -- encode and decode of everything in a pack, docs/FORMAT.md 3. Pure functions.
 * Invariants: (1) a decoder never reads past `len` and never trusts a length before it is bounded;
 * (2) what a decoder accepts, the encoder gives back byte for byte (but for reserved bytes, which
 * are zero). */
#include "pack/format.h"

#include <assert.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "meta/rows.h"

enum {
	PACK_VERSION = 1,
	RECORD_CRC_AT = 60,
	HEADER_CRC_AT = 60,
	TRAILER_CRC_AT = 60,
};

static const uint8_t pack_magic[8] = { 'G', 'R', 'N', 'P', 'A', 'C', 'K', 0 };
static const uint8_t foot_magic[8] = { 'G', 'R', 'N', 'F', 'O', 'O', 'T', 0 };
static const uint8_t record_magic[4] = { 'G', 'R', 'E', 'C' };

struct pack_header_disk {              /* FORMAT 3.1 */
	uint8_t magic[8];              /* 00 */
	struct le32 version;           /* 08 */
	struct le32 features_incompat; /* 12 */
	struct le32 features_compat;   /* 16 */
	struct le32 record_align;      /* 20 */
	struct le64 pack_id;           /* 24 */
	struct le64 created_ns;        /* 32 */
	struct le64 group;             /* 40 */
	struct le64 attempt;           /* 48 */
	struct le32 zero;              /* 56 */
	struct le32 crc;               /* 60 */
};
_Static_assert(sizeof(struct pack_header_disk) == PACK_HEADER_SIZE, "FORMAT 3.1");
_Static_assert(offsetof(struct pack_header_disk, crc) == HEADER_CRC_AT, "FORMAT 3.1");

struct record_disk {                   /* FORMAT 3.2 */
	uint8_t magic[4];              /* 00 */
	uint8_t kind;                  /* 04 */
	uint8_t flags;                 /* 05 */
	struct le16 key_len;           /* 06 */
	struct le32 header_len;        /* 08 */
	struct le32 data_len;          /* 12 */
	struct le32 stored_len;        /* 16 */
	struct le16 name_len;          /* 20 */
	struct le16 attr_len;          /* 22 */
	struct le64 object_id;         /* 24 */
	struct le64 version;           /* 32 */
	struct le64 dir_id;            /* 40 */
	struct le64 logical;           /* 48 */
	struct le32 generation;        /* 56 */
	struct le32 crc;               /* 60 */
};
_Static_assert(sizeof(struct record_disk) == PACK_RECORD_HEADER_SIZE, "FORMAT 3.2");
_Static_assert(offsetof(struct record_disk, crc) == RECORD_CRC_AT, "FORMAT 3.2");

struct footer_entry_disk {             /* FORMAT 3.6 */
	struct le64 object_id;         /* 00 */
	struct le64 version;           /* 08 */
	struct le64 dir_id;            /* 16 */
	struct le32 offset_units;      /* 24  of 8 bytes */
	struct le32 data_len;          /* 28 */
	struct le32 header_len;        /* 32 */
	struct le32 crc;               /* 36  the record header's */
};
_Static_assert(sizeof(struct footer_entry_disk) == PACK_FOOTER_ENTRY_SIZE, "FORMAT 3.6");

struct pack_trailer_disk {             /* FORMAT 3.7 */
	uint8_t magic[8];              /* 00 */
	struct le32 version;           /* 08 */
	struct le32 entries;           /* 12 */
	struct le64 pack_id;           /* 16 */
	struct le64 footer_offset;     /* 24 */
	struct le64 data_end;          /* 32 */
	struct le64 object_bytes;      /* 40 */
	struct le32 entries_crc;       /* 48 */
	struct le64 attempt;           /* 52 */
	struct le32 crc;               /* 60 */
};
_Static_assert(sizeof(struct pack_trailer_disk) == PACK_TRAILER_SIZE, "FORMAT 3.7");
_Static_assert(offsetof(struct pack_trailer_disk, attempt) == 52, "FORMAT 3.7");

void pack_header_encode(const struct pack_header *h, uint8_t out[PACK_HEADER_SIZE])
{
	struct pack_header_disk d = {
		.version = le32_of(PACK_VERSION),
		.record_align = le32_of(PACK_ALIGN),
		.pack_id = le64_of(h->pack_id),
		.created_ns = le64_of(h->created_ns),
		.group = le64_of(h->group),
		.attempt = le64_of(h->attempt),
	};

	memcpy(d.magic, pack_magic, sizeof(d.magic));
	d.crc = le32_of(crc32c(0, &d, HEADER_CRC_AT));
	memcpy(out, &d, sizeof(d));
}

int pack_header_decode(const uint8_t *in, size_t len, struct pack_header *out)
{
	struct pack_header_disk d;

	if (len < sizeof(d))
		return -GRANARY_EBADFORMAT;
	memcpy(&d, in, sizeof(d));
	if (memcmp(d.magic, pack_magic, sizeof(d.magic)) != 0)
		return -GRANARY_EBADFORMAT;
	if (le32_get(d.version) != PACK_VERSION)
		return -GRANARY_EVERSION;
	if (crc32c(0, &d, HEADER_CRC_AT) != le32_get(d.crc))
		return -GRANARY_ECORRUPT;
	if (le32_get(d.features_incompat) != 0)
		return -GRANARY_EVERSION;
	if (le32_get(d.record_align) != PACK_ALIGN)
		return -GRANARY_EBADFORMAT;
	*out = (struct pack_header){
		.pack_id = le64_get(d.pack_id),
		.created_ns = le64_get(d.created_ns),
		.group = le64_get(d.group),
		.attempt = le64_get(d.attempt),
	};
	return 0;
}

/* ---- records, FORMAT 3.2 ----------------------------------------------------------------------
 * */

uint32_t record_header_len(size_t key_len, size_t name_len, size_t attr_len, uint32_t stored_len)
{
	size_t n = PACK_RECORD_HEADER_SIZE + key_len + name_len + attr_len +
		   4 * (size_t)crc_block_count(stored_len);

	return (uint32_t)((n + 3) & ~(size_t)3);
}

uint64_t record_total_len(uint32_t header_len, uint32_t stored_len)
{
	return ((uint64_t)header_len + stored_len + (PACK_ALIGN - 1)) & ~(uint64_t)(PACK_ALIGN - 1);
}

uint64_t record_span(const struct record *r)
{
	return record_total_len(r->header_len, r->kind == RECORD_FILLER ? r->data_len : r->stored_len);
}

/* The crc of a record's header skips itself: bytes 0..59, then 64..header_len - 1. */
static uint32_t record_crc(const uint8_t *p, uint32_t header_len)
{
	uint32_t crc = crc32c(0, p, RECORD_CRC_AT);

	return crc32c(crc, p + PACK_RECORD_HEADER_SIZE, header_len - PACK_RECORD_HEADER_SIZE);
}

static void record_fill(struct record_disk *d, const struct record *r, uint32_t header_len)
{
	*d = (struct record_disk){
		.kind = r->kind,
		.flags = r->flags,
		.key_len = le16_of((uint16_t)r->key.len),
		.header_len = le32_of(header_len),
		.data_len = le32_of(r->data_len),
		.stored_len = le32_of(r->stored_len),
		.name_len = le16_of((uint16_t)r->name.len),
		.attr_len = le16_of((uint16_t)r->attrs.len),
		.object_id = le64_of(r->object_id),
		.version = le64_of(r->version),
		.dir_id = le64_of(r->dir_id),
		.logical = le64_of(r->logical),
		.generation = le32_of(r->generation),
	};
	memcpy(d->magic, record_magic, sizeof(d->magic));
}

int record_encode(const struct record *r, uint8_t *out, size_t cap)
{
	uint32_t header_len, crc_len = 4 * crc_block_count(r->stored_len);
	struct record_disk d;
	struct wr w;

	if (r->key.len > UINT16_MAX || r->name.len > UINT16_MAX || r->attrs.len > UINT16_MAX ||
	    r->data_len > EXTENT_LEN_MAX || r->stored_len > EXTENT_LEN_MAX)
		return -GRANARY_ETOOBIG;
	header_len = record_header_len(r->key.len, r->name.len, r->attrs.len, r->stored_len);
	if (cap < header_len)
		return -GRANARY_ETOOBIG;
	record_fill(&d, r, header_len);
	w = wr_of(out, header_len);
	wr_bytes(&w, &d, sizeof(d));
	wr_slice(&w, r->key);
	wr_slice(&w, r->name);
	wr_slice(&w, r->attrs);
	wr_bytes(&w, r->crcs, crc_len);
	memset(w.p, 0, (size_t)(w.end - w.p));
	assert(wr_ok(&w) && w.end - w.p < 4);
	d.crc = le32_of(record_crc(out, header_len));
	memcpy(out + RECORD_CRC_AT, &d.crc, sizeof(d.crc));
	return 0;
}

uint32_t record_header_crc(const uint8_t *encoded)
{
	struct le32 crc;

	memcpy(&crc, encoded + RECORD_CRC_AT, sizeof(crc));
	return le32_get(crc);
}

/* Lengths that can be judged before anything past the fixed 64 bytes is read. */
static int record_check_lengths(const struct record_disk *d)
{
	uint32_t data_len = le32_get(d->data_len), stored_len = le32_get(d->stored_len);
	uint32_t header_len = le32_get(d->header_len);
	uint16_t key_len = le16_get(d->key_len), name_len = le16_get(d->name_len);
	uint16_t attr_len = le16_get(d->attr_len);

	if (data_len > EXTENT_LEN_MAX || stored_len > EXTENT_LEN_MAX)
		return -GRANARY_ECORRUPT;
	if (d->kind == RECORD_FILLER && (key_len | name_len | attr_len | stored_len) != 0)
		return -GRANARY_ECORRUPT;
	if (d->kind != RECORD_DATA && d->kind != RECORD_FILLER)
		return -GRANARY_ECORRUPT;
	if (header_len != record_header_len(key_len, name_len, attr_len, stored_len))
		return -GRANARY_ECORRUPT;
	return 0;
}

static void record_borrow(const uint8_t *in, const struct record_disk *d, struct record *out)
{
	struct cur c = cur_of(in, le32_get(d->header_len));

	*out = (struct record){
		.kind = d->kind,
		.flags = d->flags,
		.header_len = le32_get(d->header_len),
		.data_len = le32_get(d->data_len),
		.stored_len = le32_get(d->stored_len),
		.generation = le32_get(d->generation),
		.header_crc = le32_get(d->crc),
		.object_id = le64_get(d->object_id),
		.version = le64_get(d->version),
		.dir_id = le64_get(d->dir_id),
		.logical = le64_get(d->logical),
		.crc_count = crc_block_count(le32_get(d->stored_len)),
	};
	cur_take(&c, PACK_RECORD_HEADER_SIZE);
	out->key = cur_bytes(&c, le16_get(d->key_len));
	out->name = cur_bytes(&c, le16_get(d->name_len));
	out->attrs = cur_bytes(&c, le16_get(d->attr_len));
	out->crcs = cur_take(&c, 4 * (size_t)out->crc_count);
	assert(cur_ok(&c)); /* record_check_lengths() */
}

int record_decode(const uint8_t *in, size_t len, struct record *out, uint32_t *need)
{
	struct record_disk d;
	uint32_t header_len;
	int err;

	*need = PACK_RECORD_HEADER_SIZE;
	if (len < sizeof(d))
		return -GRANARY_ETOOBIG;
	memcpy(&d, in, sizeof(d));
	if (memcmp(d.magic, record_magic, sizeof(d.magic)) != 0)
		return -GRANARY_EBADFORMAT;
	err = record_check_lengths(&d);
	if (err < 0)
		return err;
	header_len = le32_get(d.header_len);
	*need = header_len;
	if (len < header_len)
		return -GRANARY_ETOOBIG;
	if (record_crc(in, header_len) != le32_get(d.crc))
		return -GRANARY_ECORRUPT;
	record_borrow(in, &d, out);
	return 0;
}

void filler_header_encode(uint8_t *out, uint64_t total_len)
{
	struct record r = { .kind = RECORD_FILLER, .data_len = (uint32_t)(total_len - PACK_RECORD_HEADER_SIZE) };
	int err;

	assert(total_len >= PACK_RECORD_HEADER_SIZE && total_len <= PACK_RECORD_HEADER_SIZE + (uint64_t)EXTENT_LEN_MAX);
	assert(total_len % PACK_ALIGN == 0);
	err = record_encode(&r, out, PACK_RECORD_HEADER_SIZE);
	assert(err == 0);
	(void)err;
}

void filler_encode(uint8_t *out, uint32_t total_len)
{
	memset(out, 0, total_len);
	filler_header_encode(out, total_len);
}

/* ---- footer and trailer, FORMAT 3.6, 3.7 -------------------------------------------------------
 * */

void footer_entry_encode(const struct footer_entry *e, uint8_t out[PACK_FOOTER_ENTRY_SIZE])
{
	struct footer_entry_disk d = {
		.object_id = le64_of(e->object_id),
		.version = le64_of(e->version),
		.dir_id = le64_of(e->dir_id),
		.offset_units = le32_of((uint32_t)(e->offset / PACK_ALIGN)),
		.data_len = le32_of(e->data_len),
		.header_len = le32_of(e->header_len),
		.crc = le32_of(e->header_crc),
	};

	assert(e->offset % PACK_ALIGN == 0 && e->offset / PACK_ALIGN <= UINT32_MAX);
	memcpy(out, &d, sizeof(d));
}

void footer_entry_decode(const uint8_t in[PACK_FOOTER_ENTRY_SIZE], struct footer_entry *out)
{
	struct footer_entry_disk d;

	memcpy(&d, in, sizeof(d));
	*out = (struct footer_entry){
		.object_id = le64_get(d.object_id),
		.version = le64_get(d.version),
		.dir_id = le64_get(d.dir_id),
		.offset = (uint64_t)le32_get(d.offset_units) * PACK_ALIGN,
		.data_len = le32_get(d.data_len),
		.header_len = le32_get(d.header_len),
		.header_crc = le32_get(d.crc),
	};
}

uint64_t footer_size(uint32_t entries)
{
	uint64_t n = (uint64_t)entries * PACK_FOOTER_ENTRY_SIZE + PACK_TRAILER_SIZE;

	return (n + PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1);
}

void pack_trailer_encode(const struct pack_trailer *t, uint8_t out[PACK_TRAILER_SIZE])
{
	struct pack_trailer_disk d = {
		.version = le32_of(PACK_VERSION),
		.entries = le32_of(t->entries),
		.pack_id = le64_of(t->pack_id),
		.footer_offset = le64_of(t->footer_offset),
		.data_end = le64_of(t->data_end),
		.object_bytes = le64_of(t->object_bytes),
		.entries_crc = le32_of(t->entries_crc),
		.attempt = le64_of(t->attempt),
	};

	memcpy(d.magic, foot_magic, sizeof(d.magic));
	d.crc = le32_of(crc32c(0, &d, TRAILER_CRC_AT));
	memcpy(out, &d, sizeof(d));
}

int pack_trailer_decode(const uint8_t *in, size_t len, struct pack_trailer *out)
{
	struct pack_trailer_disk d;

	if (len < sizeof(d))
		return -GRANARY_EBADFORMAT;
	memcpy(&d, in, sizeof(d));
	if (memcmp(d.magic, foot_magic, sizeof(d.magic)) != 0)
		return -GRANARY_EBADFORMAT;
	if (le32_get(d.version) != PACK_VERSION)
		return -GRANARY_EVERSION;
	if (crc32c(0, &d, TRAILER_CRC_AT) != le32_get(d.crc))
		return -GRANARY_ECORRUPT;
	*out = (struct pack_trailer){
		.pack_id = le64_get(d.pack_id),
		.footer_offset = le64_get(d.footer_offset),
		.data_end = le64_get(d.data_end),
		.object_bytes = le64_get(d.object_bytes),
		.attempt = le64_get(d.attempt),
		.entries = le32_get(d.entries),
		.entries_crc = le32_get(d.entries_crc),
	};
	return out->data_end <= out->footer_offset && out->footer_offset % PACK_BLOCK == 0 &&
			       out->data_end >= PACK_DATA_START
		       ? 0
		       : -GRANARY_ECORRUPT;
}
