/* SPDX-License-Identifier: Apache-2.0 */
/* snap_page.c -- data pages, FORMAT 8.3: header, list of packs, rows, extent list. */
#include "common/snap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/snap_build.h"

struct page_row {
	struct le32 offset;      /* 00  bytes in the pack; with SNAP_ROW_EXTENTS the index of its first extent */
	struct le32 length;      /* 04  bytes; with SNAP_ROW_EXTENTS the number of its extents, 2 or more      */
	struct le32 crc;         /* 08  of these bytes; with SNAP_ROW_EXTENTS zero                             */
	struct le32 flags_pack;  /* 12  low 8 bits SNAP_ROW_*, high 24 the pack's place in the list            */
};
struct page_extent {
	struct le32 pack;        /* 00  place in the list */
	struct le32 offset;      /* 04  */
	struct le32 length;      /* 08  */
	struct le32 crc;         /* 12  */
};
_Static_assert(sizeof(struct page_row) == 16 && sizeof(struct page_extent) == 16, "FORMAT 8.3");

enum { COUNT_FIELDS, COUNT_SAMPLES, COUNT_PACKS, COUNT_EXTENTS }; /* of the header */
enum { PACK_ID_SIZE = 8, FLAGS_GIVEN = SNAP_ROW_PART | SNAP_ROW_UNSUMMED,
	FLAGS_KNOWN = SNAP_ROW_EMPTY | SNAP_ROW_EXTENTS | FLAGS_GIVEN };

struct snap_page_builder {
	uint64_t pack, rows_count;
	uint32_t fields;
	struct snap_packs packs;
	struct snap_buf rows, extents;
};

/* ---- building ---- */

struct snap_page_builder *snap_page_builder_new(uint64_t pack, uint32_t fields)
{
	struct snap_page_builder *b;

	assert(fields >= 1 && fields <= SNAP_FIELDS_MAX);
	b = calloc(1, sizeof(*b));
	if (b != NULL) {
		b->pack = pack;
		b->fields = fields;
	}
	return b;
}

void snap_page_builder_free(struct snap_page_builder **bp)
{
	struct snap_page_builder *b = *bp;

	*bp = NULL;
	if (b == NULL)
		return;
	snap_packs_free(&b->packs);
	snap_buf_free(&b->rows);
	snap_buf_free(&b->extents);
	free(b);
}

static size_t builder_size(const struct snap_page_builder *b)
{
	return sizeof(struct snap_header) + b->packs.ids.len + b->rows.len + b->extents.len;
}

static bool extent_fits(const struct snap_extent *e)
{
	return (uint64_t)e->offset + e->length <= UINT64_C(1) << 32;
}

static int row_of_one(struct snap_page_builder *b, const struct snap_extent *e, uint8_t flags, struct page_row *row)
{
	uint32_t index;
	int err = snap_packs_index(&b->packs, e->pack, &index);

	if (err < 0)
		return err;
	row->offset = le32_of(e->offset);
	row->length = le32_of(e->length);
	row->crc = le32_of(e->crc);
	row->flags_pack = le32_of(flags | index << 8);
	return 0;
}

static int row_of_many(struct snap_page_builder *b, const struct snap_extent *extents, uint32_t count, uint8_t flags,
		       struct page_row *row)
{
	size_t start = b->extents.len;
	uint32_t index;
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < count; i++) {
		uint8_t *p;

		err = snap_packs_index(&b->packs, extents[i].pack, &index);
		if (err == 0 && (p = snap_buf_room(&b->extents, sizeof(struct page_extent))) == NULL)
			err = -GRANARY_ENOMEM;
		else if (err == 0)
			memcpy(p, &(struct page_extent){ le32_of(index), le32_of(extents[i].offset),
							 le32_of(extents[i].length), le32_of(extents[i].crc) },
			       sizeof(struct page_extent));
	}
	if (err < 0) {
		b->extents.len = start;
		return err;
	}
	row->offset = le32_of((uint32_t)(start / sizeof(struct page_extent)));
	row->length = le32_of(count);
	row->flags_pack = le32_of(flags | SNAP_ROW_EXTENTS);
	return 0;
}

int snap_page_add(struct snap_page_builder *b, const struct snap_extent *extents, uint32_t count, uint8_t flags)
{
	struct page_row row = { 0 };
	uint8_t *p;
	int err = 0;

	if (flags & ~FLAGS_GIVEN && (count > 0 || flags & ~(FLAGS_GIVEN | SNAP_ROW_EMPTY)))
		return -GRANARY_EINVAL;
	for (uint32_t i = 0; i < count; i++)
		if (!extent_fits(&extents[i]))
			return -GRANARY_EINVAL;
	/* An extent may bring a pack of its own into the list. */
	if (builder_size(b) + sizeof(row) + (uint64_t)count * (sizeof(struct page_extent) + PACK_ID_SIZE) >=
	    SNAP_FILE_MAX)
		return -GRANARY_ETOOBIG;
	if (count == 0)
		row.flags_pack = le32_of(flags | SNAP_ROW_EMPTY);
	else if (count == 1)
		err = row_of_one(b, extents, flags, &row);
	else
		err = row_of_many(b, extents, count, flags, &row);
	if (err < 0)
		return err;
	p = snap_buf_room(&b->rows, sizeof(row));
	if (p == NULL)
		return -GRANARY_ENOMEM;
	memcpy(p, &row, sizeof(row));
	b->rows_count++;
	return 0;
}

uint32_t snap_page_builder_samples(const struct snap_page_builder *b)
{
	return (uint32_t)(b->rows_count / b->fields);
}

int snap_page_finish(struct snap_page_builder *b, uint8_t **bytes, size_t *len, struct hash128 *hash)
{
	struct snap_header h = { .pack = le64_of(b->pack) };
	size_t size = builder_size(b);
	uint8_t *out, *p;

	if (b->rows_count % b->fields != 0)
		return -GRANARY_EINVAL;
	out = malloc(size);
	if (out == NULL)
		return -GRANARY_ENOMEM;
	h.counts[COUNT_FIELDS] = le32_of(b->fields);
	h.counts[COUNT_SAMPLES] = le32_of(snap_page_builder_samples(b));
	h.counts[COUNT_PACKS] = le32_of(b->packs.count);
	h.counts[COUNT_EXTENTS] = le32_of((uint32_t)(b->extents.len / sizeof(struct page_extent)));
	memcpy(out, &h, sizeof(h));
	p = snap_buf_copy(out + sizeof(h), &b->packs.ids);
	p = snap_buf_copy(p, &b->rows);
	p = snap_buf_copy(p, &b->extents);
	assert(p == out + size);
	snap_header_seal(out, size, SNAP_MAGIC_PAGE);
	*hash = hash_content(out, size);
	*bytes = out;
	*len = size;
	return 0;
}

/* ---- reading ---- */

int snap_page_parse(const uint8_t *bytes, size_t len, struct snap_page *out)
{
	struct snap_header h;
	int err = snap_header_open(bytes, len, SNAP_MAGIC_PAGE, &h);

	return err < 0 ? err : snap_page_parse_known(bytes, len, out);
}

int snap_page_parse_known(const uint8_t *bytes, size_t len, struct snap_page *out)
{
	struct snap_header h;
	struct snap_page p = { .bytes = bytes, .len = len };
	uint64_t rows;
	int err = snap_header_read(bytes, len, SNAP_MAGIC_PAGE, &h);

	if (err < 0)
		return err;
	p.pack = le64_get(h.pack);
	p.fields = le32_get(h.counts[COUNT_FIELDS]);
	p.samples = le32_get(h.counts[COUNT_SAMPLES]);
	p.pack_count = le32_get(h.counts[COUNT_PACKS]);
	p.extent_count = le32_get(h.counts[COUNT_EXTENTS]);
	if (p.fields < 1 || p.fields > SNAP_FIELDS_MAX || p.pack_count > SNAP_PACKS_MAX)
		return -GRANARY_ECORRUPT;
	rows = (uint64_t)p.samples * p.fields; /* below 2^38: no sum here overflows */
	if (sizeof(h) + (uint64_t)p.pack_count * PACK_ID_SIZE + rows * sizeof(struct page_row) +
		    (uint64_t)p.extent_count * sizeof(struct page_extent) != len)
		return -GRANARY_ECORRUPT;
	p.packs = bytes + sizeof(h);
	p.rows = p.packs + (size_t)p.pack_count * PACK_ID_SIZE;
	p.extents = p.rows + (size_t)rows * sizeof(struct page_row);
	*out = p;
	return 0;
}

static int extent_make(const struct snap_page *p, uint32_t index, struct snap_extent *e)
{
	if (index >= p->pack_count || !extent_fits(e))
		return -GRANARY_ECORRUPT;
	memcpy(&e->pack, p->packs + (size_t)index * PACK_ID_SIZE, sizeof(e->pack));
	return 0;
}

static int extent_at(const struct snap_page *p, uint64_t at, struct snap_extent *out)
{
	struct page_extent e;

	if (at >= p->extent_count)
		return -GRANARY_ECORRUPT;
	memcpy(&e, p->extents + (size_t)at * sizeof(e), sizeof(e));
	out->offset = le32_get(e.offset);
	out->length = le32_get(e.length);
	out->crc = le32_get(e.crc);
	return extent_make(p, le32_get(e.pack), out);
}

static bool is_unsummed(const struct snap_row *row, const struct snap_extent *e)
{
	return (row->flags & SNAP_ROW_UNSUMMED) != 0 && e->crc == 0;
}

static int row_many(const struct snap_page *p, const struct page_row *r, struct snap_row *out)
{
	struct snap_extent e;
	int err;

	out->extents_at = le32_get(r->offset);
	out->extent_count = le32_get(r->length);
	if (out->extent_count < 2 || le32_get(r->crc) != 0 || le32_get(r->flags_pack) >> 8 != 0 ||
	    (uint64_t)out->extents_at + out->extent_count > p->extent_count)
		return -GRANARY_ECORRUPT;
	for (uint32_t i = 0; i < out->extent_count; i++) {
		err = extent_at(p, (uint64_t)out->extents_at + i, &e);
		if (err < 0)
			return err;
		e.unsummed = is_unsummed(out, &e);
		out->size += e.length;
		if (i == 0)
			out->first = e;
	}
	return 0;
}

void snap_page_fetch(const struct snap_page *p, uint64_t row)
{
	__builtin_prefetch(p->rows + (size_t)row * sizeof(struct page_row));
}

int snap_page_row(const struct snap_page *p, uint64_t row, struct snap_row *out)
{
	struct page_row r;
	uint32_t index;

	assert(row < (uint64_t)p->samples * p->fields);
	memcpy(&r, p->rows + (size_t)row * sizeof(r), sizeof(r));
	*out = (struct snap_row){ .flags = (uint8_t)le32_get(r.flags_pack) };
	index = le32_get(r.flags_pack) >> 8;
	if (out->flags & ~FLAGS_KNOWN)
		return -GRANARY_ECORRUPT;
	if (out->flags & SNAP_ROW_EMPTY)
		return out->flags & SNAP_ROW_EXTENTS || index != 0 || le32_get(r.offset) != 0 ||
		       le32_get(r.length) != 0 || le32_get(r.crc) != 0 ? -GRANARY_ECORRUPT : 0;
	if (out->flags & SNAP_ROW_EXTENTS)
		return row_many(p, &r, out);
	out->first.offset = le32_get(r.offset);
	out->first.length = le32_get(r.length);
	out->first.crc = le32_get(r.crc);
	out->first.unsummed = is_unsummed(out, &out->first);
	out->size = out->first.length;
	out->extent_count = 1;
	return extent_make(p, index, &out->first);
}

int snap_page_extent(const struct snap_page *p, const struct snap_row *row, uint32_t i, struct snap_extent *out)
{
	if (i >= row->extent_count)
		return -GRANARY_ERANGE;
	if (!(row->flags & SNAP_ROW_EXTENTS)) {
		*out = row->first;
		return 0;
	}
	int err = extent_at(p, (uint64_t)row->extents_at + i, out);
	out->unsummed = err == 0 && is_unsummed(row, out);
	return err;
}
