/* SPDX-License-Identifier: Apache-2.0 */
/* seal.c -- writes the footer and trailer of a pack nobody appends to any more (FORMAT 3.6, 3.7).
 * Invariants: (1) what is sealed ends where the writer's durable bytes end, or, for a pack of an
 * earlier incarnation, at the committed end: what lies past it is garbage; (2) the row says
 * `sealed` only after footer, trailer and size are synced; (3) nothing below the end is written, so
 * sealing may be interrupted anywhere and done again; (4) entries leave in pieces as the walk meets
 * them: memory does not grow with the pack; the writer's own list is used only where it was this
 * process that wrote the whole pack. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "pack/check.h"
#include "pack/format.h"
#include "pack/writer.h"
#include "tier/packs.h"

enum { PIECE_SIZE = 1024 * 1024 };

struct sealing {
	struct fs_file *file;
	uint8_t *piece;
	size_t piece_len;
	uint64_t piece_at;      /* offset in the file */
	struct pack_trailer trailer;
	uint64_t problems;
	const struct pack_index *index; /* NULL: walk */
};

/* Bytes go out in whole pieces; only the last one is shorter. */
static int put_bytes(struct sealing *s, const uint8_t *p, size_t len)
{
	while (len > 0) {
		size_t room = PIECE_SIZE - s->piece_len, n = len < room ? len : room;

		memcpy(s->piece + s->piece_len, p, n);
		s->piece_len += n;
		p += n;
		len -= n;
		if (s->piece_len == PIECE_SIZE) {
			int err = fs_write(s->file, s->piece, PIECE_SIZE, s->piece_at);

			if (err < 0)
				return err;
			s->piece_at += PIECE_SIZE;
			s->piece_len = 0;
		}
	}
	return 0;
}

static int each_record(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct sealing *s = arg;
	uint8_t entry[PACK_FOOTER_ENTRY_SIZE];
	struct footer_entry e = { .object_id = r->object_id, .version = r->version, .dir_id = r->dir_id,
		.offset = offset, .data_len = r->data_len, .header_len = r->header_len,
		.header_crc = r->header_crc };

	(void)data;
	footer_entry_encode(&e, entry);
	s->trailer.entries++;
	s->trailer.object_bytes += r->data_len;
	s->trailer.entries_crc = crc32c(s->trailer.entries_crc, entry, sizeof(entry));
	return put_bytes(s, entry, sizeof(entry));
}

static int put_index(struct sealing *s)
{
	size_t len = (size_t)s->index->count * PACK_FOOTER_ENTRY_SIZE;

	s->trailer.entries = s->index->count;
	s->trailer.object_bytes = s->index->object_bytes;
	s->trailer.entries_crc = crc32c(0, s->index->entries, len);
	return put_bytes(s, s->index->entries, len);
}

static void on_problem(void *arg, const struct pack_problem *p)
{
	struct sealing *s = arg;

	s->problems++;
	log_error("damage below the end of a pack that is being sealed: %s; pack=%016" PRIx64 " offset=%" PRIu64,
		p->what, s->trailer.pack_id, p->offset);
}

static int put_trailer(struct sealing *s)
{
	static const uint8_t zeros[PACK_BLOCK];
	uint64_t len = (uint64_t)s->trailer.entries * PACK_FOOTER_ENTRY_SIZE;
	uint64_t pad = footer_size(s->trailer.entries) - len - PACK_TRAILER_SIZE;
	uint8_t trailer[PACK_TRAILER_SIZE];
	int err = put_bytes(s, zeros, (size_t)pad);

	pack_trailer_encode(&s->trailer, trailer);
	if (err == 0)
		err = put_bytes(s, trailer, sizeof(trailer));
	assert(s->piece_len % PACK_BLOCK == 0);
	if (err == 0 && s->piece_len > 0)
		err = fs_write(s->file, s->piece, s->piece_len, s->piece_at);
	if (err == 0)
		err = fs_truncate(s->file, s->piece_at + s->piece_len);
	if (err == 0)
		err = fs_sync(s->file);
	return err;
}

static int header_read(struct sealing *s)
{
	struct pack_header h;
	int64_t n = fs_read(s->file, s->piece, PACK_BLOCK, 0);
	int err = n < 0 ? (int)n : pack_header_decode(s->piece, (size_t)n, &h);

	if (err == 0 && h.pack_id != s->trailer.pack_id)
		err = -GRANARY_EBADFORMAT;
	s->trailer.attempt = err == 0 ? h.attempt : 0;
	return err;
}

static int seal_file(struct packs *packs, struct pack *pack, struct sealing *s)
{
	struct pack_walk walk = { .pack_id = s->trailer.pack_id, .end = s->trailer.data_end, .each = each_record,
		.problem = on_problem, .arg = s };
	int err = header_read(s);

	if (err == 0)
		err = s->index != NULL ? put_index(s) : pack_walk(s->file, &walk);
	if (err == 0 && s->problems > 0) {
		(void)packs_set_broken(packs, pack); /* its live records are copied out; both say why in the log */
		return -GRANARY_ECORRUPT;
	}
	if (err == 0)
		err = put_trailer(s);
	if (err == 0)
		err = packs_set_sealed(packs, pack, s->trailer.footer_offset + footer_size(s->trailer.entries));
	return err;
}

/* Where the records end: what RAM knows of a pack written by this process, else what the row says.
 * */
static int data_end(struct packs *packs, const struct pack *pack, struct sealing *s)
{
	uint64_t *out = &s->trailer.data_end;
	struct pack_row row;
	int err = packs_row(packs, pack_id_of(pack), &row);

	if (err < 0)
		return err;
	if (row.state != PACK_OPEN)
		return -GRANARY_EINVAL;
	if (packs_end(pack) < row.committed_end)
		s->index = NULL;
	*out = packs_end(pack) > row.committed_end ? packs_end(pack) : row.committed_end;
	if (*out < PACK_DATA_START)
		*out = PACK_DATA_START;
	return 0;
}

static int seal_one(struct packs *packs, struct pack *pack, const struct pack_index *index)
{
	struct sealing s = { .trailer.pack_id = pack_id_of(pack), .index = index };
	int err = data_end(packs, pack, &s);

	if (err == 0)
		err = packs_open_file(packs, pack);
	if (err < 0)
		return err;
	s.trailer.footer_offset = (s.trailer.data_end + PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1);
	s.piece_at = s.trailer.footer_offset;
	s.file = pack_file(pack);
	s.piece = aligned_alloc(PACK_BLOCK, PIECE_SIZE);
	if (s.piece == NULL)
		return -GRANARY_ENOMEM;
	err = seal_file(packs, pack, &s);
	free(s.piece);
	return err;
}

int pack_footer_write(struct fs_file *file, uint64_t pack_id, uint64_t end, uint32_t entries, uint64_t size)
{
	struct sealing s = { .file = file, .trailer = { .pack_id = pack_id, .data_end = end } };
	struct pack_walk walk = { .pack_id = pack_id, .end = end, .each = each_record, .arg = &s };
	int err;

	s.trailer.footer_offset = size - footer_size(entries);
	s.piece_at = s.trailer.footer_offset;
	s.piece = aligned_alloc(PACK_BLOCK, PIECE_SIZE);
	if (s.piece == NULL)
		return -GRANARY_ENOMEM;
	err = header_read(&s);
	if (err == 0)
		err = pack_walk(file, &walk);
	if (err == 0 && s.trailer.entries != entries)
		err = -GRANARY_ECORRUPT;
	if (err == 0)
		err = put_trailer(&s);
	free(s.piece);
	return err;
}

int pack_seal(struct packs *packs, uint64_t pack_id, const struct pack_index *index)
{
	struct pack *pack = packs_ref(packs, pack_id);
	int err;

	if (pack == NULL)
		return -GRANARY_ENOTFOUND;
	if (packs_seal_begin(pack)) {
		err = seal_one(packs, pack, index);
		packs_seal_end(pack, err < 0);
	} else {
		err = -GRANARY_EBUSY;
	}
	packs_unref(packs, pack);
	return err;
}
