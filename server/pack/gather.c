/* SPDX-License-Identifier: Apache-2.0 */
/* gather.c -- see gather.h. Extents are read in the order of the disk, each block of a record once where several lie in
 * it. */
#include "pack/gather.h"

#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "io/fs.h"
#include "pack/check.h"
#include "pack/format.h"
#include "tier/copy.h"
#include "tier/packs.h"

struct gather {
	struct packs *packs;
	struct pack *pack; /* that is read at the moment */
	uint8_t *buf;
	size_t buf_size;
	uint64_t at, end;  /* of its file: what buf has and is verified; nothing when they are equal */
	const uint8_t *bytes; /* of `at` */
};

static int extent_order(const void *a, const void *b)
{
	const struct extent *x = *(const struct extent *const *)a, *y = *(const struct extent *const *)b;

	if (x->pack != y->pack) return x->pack < y->pack ? -1 : 1;
	if (x->record != y->record) return x->record < y->record ? -1 : 1;
	return (x->cut_before > y->cut_before) - (x->cut_before < y->cut_before);
}

static void gather_close(struct gather *g)
{
	if (g->pack != NULL) packs_unref(g->packs, g->pack);
	g->pack = NULL;
	g->at = g->end = 0;
}

static int gather_open(struct gather *g, uint64_t pack)
{
	int err;

	if (g->pack != NULL && pack_id_of(g->pack) == pack) return 0;
	gather_close(g);
	g->pack = packs_ref(g->packs, pack);
	if (g->pack == NULL) return -GRANARY_ESTALE;
	err = packs_open_file(g->packs, g->pack);
	if (err < 0) gather_close(g);
	return err == -GRANARY_ENOTFOUND ? -GRANARY_ESTALE : err;
}

static bool is_sound(const struct extent *e, const uint8_t *bytes, uint64_t len)
{
	uint32_t crcs[EXTENT_CRCS_MAX + 1];

	if (crc_block_count(len) != e->crc_count || e->crc_count > EXTENT_CRCS_MAX) return false;
	crc32c_blocks(crcs, bytes, len);
	return memcmp(crcs, e->crcs, 4 * (size_t)e->crc_count) == 0;
}

/* The blocks of the record's data that e touches, into the buffer. */
static int gather_blocks(struct gather *g, const struct extent *e)
{
	uint64_t data = e->record + extent_header(e), stored = extent_stored(e);
	uint64_t first = e->cut_before / CRC_BLOCK_SIZE * (uint64_t)CRC_BLOCK_SIZE;
	uint64_t last = e->cut_before + (uint64_t)e->length + CRC_BLOCK_SIZE - 1;
	uint64_t end = last - last % CRC_BLOCK_SIZE < stored ? last - last % CRC_BLOCK_SIZE : stored;
	bool is_linked = copy_file_is_linked(pack_file(g->pack));
	uint64_t at = data + first, from = is_linked ? at : at - at % PACK_BLOCK, to = data + end;
	int64_t n;

	if (!is_linked) to = (to + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK;
	if (g->end > g->at && at >= g->at && data + end <= g->end) return 0;
	g->at = g->end = 0;
	if (end <= first || to - from > g->buf_size) return -GRANARY_ECORRUPT;
	n = fs_read(pack_file(g->pack), g->buf, to - from, from);
	if (n < 0) return (int)n;
	if ((uint64_t)n < data + end - from || !is_sound(e, g->buf + (at - from), end - first))
		return -GRANARY_ECORRUPT;
	g->at = at;
	g->end = data + end;
	g->bytes = g->buf + (at - from);
	return 0;
}

/* The source says whose bytes it gives. */
static int gather_linked(struct gather *g, const struct extent *e, uint8_t *to)
{
	int64_t n = fs_read(pack_file(g->pack), to, e->length, e->record + extent_header(e) + e->cut_before);

	return n < 0 ? (int)n : n < e->length ? -GRANARY_ECORRUPT : 0;
}

/* Nobody has its checksums but the record itself. */
static int gather_unsummed(struct gather *g, const struct extent *e, uint8_t *to)
{
	uint8_t *data = malloc(EXTENT_LEN_MAX);
	uint32_t len = 0;
	int err = data != NULL ? pack_record_verify_into(pack_file(g->pack), e->record, 0, data, EXTENT_LEN_MAX, &len)
			       : -GRANARY_ENOMEM;

	if (err == 0 && e->cut_before + (uint64_t)e->length > len) err = -GRANARY_ECORRUPT;
	if (err == 0) memcpy(to, data + e->cut_before, e->length);
	free(data);
	return err;
}

static int gather_one(struct gather *g, const struct extent *e, uint8_t *to)
{
	int err = gather_open(g, e->pack);

	if (err == 0 && !extent_is_summed(e))
		return copy_file_is_linked(pack_file(g->pack)) ? gather_linked(g, e, to) : gather_unsummed(g, e, to);
	if (err == 0) err = gather_blocks(g, e);
	if (err < 0) return err;
	memcpy(to, g->bytes + (e->record + extent_header(e) + e->cut_before - g->at), e->length);
	return 0;
}

int pack_gather(struct packs *packs, const struct extent *extents, uint32_t count, uint64_t from, uint8_t *out)
{
	struct gather g = { .packs = packs };
	const struct extent **order = malloc((count + 1) * sizeof(*order));
	uint32_t n = 0, longest = 0;
	int err;

	for (uint32_t i = 0; order != NULL && i < count; i++) {
		if ((extents[i].flags & EXTENT_HOLE) != 0 || extents[i].length == 0) continue;
		order[n++] = &extents[i];
		if (extents[i].length > longest) longest = extents[i].length;
	}
	/* The blocks of its record that an extent touches, from line to line of the file. */
	g.buf_size = ((size_t)longest + 2 * CRC_BLOCK_SIZE + 3 * PACK_BLOCK) / PACK_BLOCK * PACK_BLOCK;
	g.buf = aligned_alloc(PACK_BLOCK, g.buf_size);
	err = g.buf != NULL && order != NULL ? 0 : -GRANARY_ENOMEM;
	if (n > 1) qsort(order, n, sizeof(*order), extent_order);
	for (uint32_t i = 0; err == 0 && i < n; i++) err = gather_one(&g, order[i], out + (order[i]->logical - from));
	gather_close(&g);
	free(order);
	free(g.buf);
	return err;
}
