/* SPDX-License-Identifier: Apache-2.0 */
/* footer.c -- reading a sealed pack's footer, and checking a sealed pack against it: the walk alone
 * cannot tell a missing or exchanged record (FORMAT 3.6, 3.7).
 * Invariants: (1) no entry is handed out before the crc of all of them was compared; (2) entries
 * are read in pieces of
 * PIECE_SIZE: memory does not grow with the pack. */
#include "pack/check.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "io/fs.h"

/* A piece holds whole entries and whole 4 KiB blocks. */
enum { PIECE_ENTRIES = 6 * PACK_BLOCK, PIECE_SIZE = PIECE_ENTRIES * PACK_FOOTER_ENTRY_SIZE };
_Static_assert(PIECE_SIZE % PACK_BLOCK == 0, "pieces are read by O_DIRECT");

struct footer_cursor {
	struct fs_file *file;
	struct pack_trailer trailer;
	uint8_t *piece;
	uint32_t piece_at, piece_count; /* entries [piece_at, piece_at + piece_count) are in `piece` */
	uint32_t next;
};

static int cursor_load(struct footer_cursor *c)
{
	uint32_t left = c->trailer.entries - c->next;
	uint32_t count = left < PIECE_ENTRIES ? left : PIECE_ENTRIES;
	size_t len = ((size_t)count * PACK_FOOTER_ENTRY_SIZE + PACK_BLOCK - 1) & ~(size_t)(PACK_BLOCK - 1);
	int64_t n = fs_read(c->file, c->piece, len, c->trailer.footer_offset +
		(uint64_t)c->next * PACK_FOOTER_ENTRY_SIZE);

	if (n < 0)
		return (int)n;
	if ((size_t)n < len)
		return -GRANARY_ECORRUPT;
	c->piece_at = c->next;
	c->piece_count = count;
	return 0;
}

/* 1 and the next entry, 0 at the end, or an error. */
static int cursor_next(struct footer_cursor *c, struct footer_entry *out)
{
	int err;

	if (c->next == c->trailer.entries)
		return 0;
	if (c->next >= c->piece_at + c->piece_count) {
		err = cursor_load(c);
		if (err < 0)
			return err;
	}
	footer_entry_decode(c->piece + (size_t)(c->next - c->piece_at) * PACK_FOOTER_ENTRY_SIZE, out);
	c->next++;
	return 1;
}

static int cursor_check_crc(struct footer_cursor *c)
{
	uint32_t crc = 0;
	int err;

	for (c->next = 0; c->next < c->trailer.entries; c->next += c->piece_count) {
		err = cursor_load(c);
		if (err < 0)
			return err;
		crc = crc32c(crc, c->piece, (size_t)c->piece_count * PACK_FOOTER_ENTRY_SIZE);
	}
	c->next = c->piece_at = c->piece_count = 0;
	return crc == c->trailer.entries_crc ? 0 : -GRANARY_ECORRUPT;
}

static int cursor_check_order(struct footer_cursor *c)
{
	uint64_t at = PACK_DATA_START;
	struct footer_entry e;
	int got;

	while ((got = cursor_next(c, &e)) == 1) {
		if (e.offset < at || e.offset + e.header_len > c->trailer.data_end)
			return -GRANARY_ECORRUPT;
		at = e.offset + e.header_len;
	}
	c->next = c->piece_at = c->piece_count = 0;
	return got;
}

static int trailer_read(struct fs_file *file, uint64_t pack_id, uint8_t *block, struct pack_trailer *out)
{
	int64_t size = fs_size(file), n;
	int err;

	if (size < 0)
		return (int)size;
	if (size < 2 * PACK_BLOCK || size % PACK_BLOCK != 0)
		return -GRANARY_ECORRUPT;
	n = fs_read(file, block, PACK_BLOCK, (uint64_t)size - PACK_BLOCK);
	if (n < 0)
		return (int)n;
	if (n < PACK_BLOCK)
		return -GRANARY_ECORRUPT;
	err = pack_trailer_decode(block + PACK_BLOCK - PACK_TRAILER_SIZE, PACK_TRAILER_SIZE, out);
	if (err < 0)
		return err;
	if (out->pack_id != pack_id || out->footer_offset > (uint64_t)size ||
	    footer_size(out->entries) != (uint64_t)size - out->footer_offset)
		return -GRANARY_ECORRUPT;
	return 0;
}

/* Opened at the first entry; everything about the footer itself is verified. */
static int cursor_open(struct footer_cursor *c, struct fs_file *file, uint64_t pack_id)
{
	int err;

	*c = (struct footer_cursor){ .file = file, .piece = aligned_alloc(PACK_BLOCK, PIECE_SIZE) };
	if (c->piece == NULL)
		return -GRANARY_ENOMEM;
	err = trailer_read(file, pack_id, c->piece, &c->trailer);
	if (err == 0)
		err = cursor_check_crc(c);
	if (err == 0)
		err = cursor_check_order(c);
	if (err < 0) {
		free(c->piece);
		c->piece = NULL;
	}
	return err;
}

int pack_footer_read(struct fs_file *file, uint64_t pack_id, struct pack_trailer *trailer,
		     int (*each)(void *arg, const struct footer_entry *e), void *arg)
{
	struct footer_cursor c;
	struct footer_entry e;
	int err = cursor_open(&c, file, pack_id);

	if (err < 0)
		return err;
	*trailer = c.trailer;
	while (each != NULL && (err = cursor_next(&c, &e)) == 1) {
		err = each(arg, &e);
		if (err != 0)
			break;
	}
	free(c.piece);
	return err;
}

/* ---- a sealed pack: walk and footer must say the same ---- */

struct sealed_check {
	struct footer_cursor c;
	const struct pack_walk *walk;
	struct footer_entry entry;
	int has_entry;           /* 1: `entry` is the next one not met yet */
	int err;
};

static void sealed_problem(struct sealed_check *s, uint64_t offset, const struct footer_entry *e, const char *what)
{
	struct pack_problem p = { .offset = offset, .err = -GRANARY_ECORRUPT };

	if (e != NULL) {
		p.record.object_id = e->object_id;
		p.record.version = e->version;
		p.record.dir_id = e->dir_id;
		p.record.data_len = e->data_len;
		p.record.header_len = e->header_len;
	}
	snprintf(p.what, sizeof(p.what), "%s", what);
	if (s->walk->problem == NULL)
		s->err = p.err;
	else
		s->walk->problem(s->walk->arg, &p);
}

static void sealed_next(struct sealed_check *s)
{
	s->has_entry = cursor_next(&s->c, &s->entry);
	if (s->has_entry < 0)
		s->err = s->has_entry;
}

/* Entries below `offset` name records that the walk did not find. */
static void sealed_missing(struct sealed_check *s, uint64_t offset)
{
	while (s->err == 0 && s->has_entry == 1 && s->entry.offset < offset) {
		sealed_problem(s, s->entry.offset, &s->entry, "the footer names a record that is not there");
		sealed_next(s);
	}
}

static int sealed_each(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct sealed_check *s = arg;
	const struct footer_entry *e = &s->entry;

	sealed_missing(s, offset);
	if (s->err != 0)
		return s->err;
	if (s->has_entry != 1 || e->offset != offset)
		sealed_problem(s, offset, NULL, "a record that the footer does not name");
	else if (e->header_crc != r->header_crc || e->object_id != r->object_id || e->version != r->version ||
		 e->dir_id != r->dir_id || e->data_len != r->data_len || e->header_len != r->header_len)
		sealed_problem(s, offset, e, "not the record that the footer names");
	if (s->has_entry == 1 && e->offset == offset)
		sealed_next(s);
	if (s->err == 0 && s->walk->each != NULL)
		s->err = s->walk->each(s->walk->arg, offset, r, data);
	return s->err;
}

static void sealed_walk_problem(void *arg, const struct pack_problem *p)
{
	struct sealed_check *s = arg;

	if (s->walk->problem != NULL)
		s->walk->problem(s->walk->arg, p);
	else if (s->err == 0)
		s->err = p->err;
}

/* The next record that the footer names; one that begins at `offset` was reported by the walk. */
static uint64_t sealed_resume(void *arg, uint64_t offset)
{
	struct sealed_check *s = arg;

	sealed_missing(s, offset);
	if (s->err == 0 && s->has_entry == 1 && s->entry.offset == offset)
		sealed_next(s);
	return s->err == 0 && s->has_entry == 1 ? s->entry.offset : 0;
}

int pack_check_sealed(struct fs_file *file, const struct pack_walk *walk)
{
	struct sealed_check s = { .walk = walk };
	struct pack_walk inner = *walk;
	int err = cursor_open(&s.c, file, walk->pack_id);

	if (err < 0)
		return err;
	inner.end = s.c.trailer.data_end;
	inner.each = sealed_each;
	inner.problem = sealed_walk_problem;
	inner.resume = sealed_resume;
	inner.arg = &s;
	sealed_next(&s);
	err = s.err != 0 ? s.err : pack_walk(file, &inner);
	if (err == 0 && s.err == 0)
		sealed_missing(&s, UINT64_MAX);
	free(s.c.piece);
	return err != 0 ? err : s.err;
}
