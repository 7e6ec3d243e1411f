/* SPDX-License-Identifier: Apache-2.0 */
/* read_extent.c -- from an object's extents to the pieces that travel: blocks of 64 KiB counted
 * from the start of the record's data, cut where the reader's units end; what no extent covers comes as
 * zeros (PROTOCOL 4.2). */
#include "req/read.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

uint8_t read_zeros[CACHE_UNIT_MAX]; /* never written: one page of zeros in memory */

void read_entry_set_range(struct read_entry *e)
{
	uint64_t size = e->loc.size;

	e->at = 0;
	e->end = size;
	if ((e->flags & READ_ENTRY_VERSION) != 0 && e->version != e->loc.version) {
		e->err = -GRANARY_ECHANGED;
		return;
	}
	if ((e->flags & READ_ENTRY_RANGE) == 0) return;
	if (e->offset > size) {
		e->err = -GRANARY_ERANGE;
		return;
	}
	e->at = e->offset;
	if (e->length < size - e->offset) e->end = e->offset + e->length;
}

/* ---- extents of a row ---- */

struct gather {
	struct read_extents *out;
	uint8_t *crcs;
	uint64_t end; /* they are all that begin below it */
	uint32_t cap;
	size_t crcs_len, crcs_cap;
};

static int gather_extent(void *arg, const struct extent *x)
{
	struct gather *g = arg;
	size_t len = 4 * (size_t)x->crc_count;

	if (x->length == 0) return 0;
	if (g->out->count == READ_EXTENTS_MAX) {
		g->end = x->logical;
		return 1;
	}
	if (g->out->count == g->cap) {
		g->cap *= 2;
		g->out = realloc(g->out, sizeof(*g->out) + g->cap * sizeof(struct extent));
	}
	if (g->crcs_len + len > g->crcs_cap) {
		g->crcs_cap = 2 * (g->crcs_len + len);
		g->crcs = realloc(g->crcs, g->crcs_cap);
	}
	if (g->out == NULL || g->crcs == NULL) return -GRANARY_ENOMEM;
	memcpy(g->crcs + g->crcs_len, x->crcs, len);
	g->out->e[g->out->count++] = *x;
	g->crcs_len += len;
	return 0;
}

/* One block: extents, then their crcs. */
static struct read_extents *gather_finish(struct gather *g)
{
	size_t head = sizeof(*g->out) + g->out->count * sizeof(struct extent);
	struct read_extents *all = req_alloc(head + g->crcs_len);
	uint8_t *crcs = (uint8_t *)all + head;

	memcpy(all, g->out, head);
	if (g->crcs_len > 0) memcpy(crcs, g->crcs, g->crcs_len);
	for (uint32_t i = 0; i < all->count; i++) {
		all->e[i].crcs = crcs;
		crcs += 4 * (size_t)all->e[i].crc_count;
	}
	return all;
}

int read_entry_gather(struct ns *ns, struct read_entry *e, const struct object *o)
{
	struct gather g = { .cap = 8, .end = UINT64_MAX };
	uint64_t from = 0, len = o->size;
	int err;

	if (e->made_first) { /* what follows those that were taken before */
		from = e->at;
		len = e->end - e->at;
	} else if ((e->flags & READ_ENTRY_RANGE) != 0 && e->offset <= o->size) {
		from = e->offset;
		len = e->length < o->size - from ? e->length : o->size - from;
	}
	g.out = req_alloc(sizeof(*g.out) + g.cap * sizeof(struct extent));
	g.out->count = 0;
	err = 0;
	for (uint32_t i = 0; i < o->extent_count && err == 0; i++) {
		const struct extent *x = &o->extents[i];

		if (x->logical < from + len && x->logical + x->length > from) err = gather_extent(&g, x);
	}
	if (err == 0) err = ns_extents(ns, o, from, len, gather_extent, &g); /* those outside the row */
	if (err >= 0) e->extents = gather_finish(&g);
	e->extents_end = g.end;
	e->next_extent = 0;
	free(g.out);
	free(g.crcs);
	return err < 0 ? err : 0;
}

static bool is_simple(const struct object *o)
{
	const struct extent *x = &o->extents[0];

	return o->size == 0 ||
	       (o->extent_count == 1 && o->extents_outside == 0 && x->logical == 0 &&
		       x->length == o->size && (x->flags & (EXTENT_HOLE | EXTENT_UNSUMMED)) == 0 &&
		       !extent_is_cut(x) && x->crc_count <= LOC_CRCS_MAX);
}

int read_entry_take(
	struct ns *ns, struct read_entry *e, const struct ns_place *place, const struct object *o)
{
	struct obj_loc *l = &e->loc;

	free(e->extents);
	e->extents = NULL;
	e->extents_end = UINT64_MAX;
	memset(l, 0, sizeof(*l));
	l->id = o->id;
	l->version = o->version;
	l->mtime_ns = o->mtime_ns;
	l->dir_id = place->dir;
	if (o->is_dir) /* the key "a/" of a directory that was made: an empty object, as S3 has it */
		return e->ref.by == NS_BY_KEY ? 0 : -GRANARY_EISDIR;
	if (!object_has_bytes(o)) return -GRANARY_ENOTFILE;
	l->size = o->size;
	l->hash = o->hash;
	l->has_hash = o->has_hash;
	if (!is_simple(o)) return read_entry_gather(ns, e, o);
	if (o->size > 0) {
		l->pack = o->extents[0].pack;
		l->record = o->extents[0].record;
		l->skip = o->extents[0].skip;
		l->crc_count = (uint8_t)o->extents[0].crc_count;
		memcpy(l->crcs, o->extents[0].crcs, 4 * (size_t)l->crc_count);
	}
	return 0;
}

/* ---- pieces ---- */

static struct extent only_extent(const struct read_entry *e)
{
	return (struct extent){ .pack = e->loc.pack,
		.record = e->loc.record,
		.skip = e->loc.skip,
		.length = (uint32_t)e->loc.size,
		.crc_count = e->loc.crc_count,
		.crcs = (const uint8_t *)e->loc.crcs };
}

static void piece_of_zeros(struct read_piece *p, uint64_t from, uint64_t end)
{
	uint64_t len = end - from;

	p->zeros = true;
	p->logical = from;
	p->len = len < CACHE_UNIT_MAX ? (uint32_t)len : CACHE_UNIT_MAX;
	p->crc_count = (uint16_t)crc_block_count(p->len);
}

/* Blocks and units are counted in the record's data, of which the extent may be a part. */
void piece_of_extent(
	struct read_piece *p, const struct extent *x, uint64_t from, uint64_t end)
{
	uint64_t ext_end = x->logical + x->length, stored = extent_stored(x);
	uint64_t to = end < ext_end ? end : ext_end;
	uint64_t rel = x->cut_before + (from - x->logical), rel_end = x->cut_before + (to - x->logical);
	uint64_t at = rel & ~(uint64_t)(CRC_BLOCK_SIZE - 1);
	uint64_t unit = at - at % CACHE_UNIT_MAX;
	uint64_t unit_end = unit + CACHE_UNIT_MAX < stored ? unit + CACHE_UNIT_MAX : stored;
	uint64_t at_end = (rel_end + CRC_BLOCK_SIZE - 1) & ~(uint64_t)(CRC_BLOCK_SIZE - 1);
	uint32_t block = (uint32_t)(at / CRC_BLOCK_SIZE) - x->cut_before / CRC_BLOCK_SIZE;

	if (at_end > unit_end) at_end = unit_end;
	p->len = (uint32_t)(at_end - at);
	p->logical = x->logical + at - x->cut_before;
	if (extent_is_cut(x)) {
		uint64_t lo = at > x->cut_before ? at : x->cut_before;
		uint64_t hi = x->cut_before + (uint64_t)x->length;

		if (hi > at_end) hi = at_end;
		p->cut_from = (uint32_t)(lo - at);
		p->cut_len = (uint32_t)(hi - lo);
		p->logical = x->logical + lo - x->cut_before;
	}
	p->crc_count = (uint16_t)crc_block_count(p->len);
	p->crcs = x->crcs + 4 * (size_t)block;
	p->unsummed = !extent_is_summed(x);
	if (block + p->crc_count > x->crc_count)
		p->err = -GRANARY_ECORRUPT; /* a row that says less than its length */
	p->record = x->record;
	p->extent_at = x->logical;
	p->read.pack = x->pack;
	p->read.unit_offset = x->record + extent_header(x) + unit;
	p->read.unit_len = (uint32_t)(unit_end - unit);
	p->read.want_offset = (uint32_t)(at - unit);
	p->read.want_len = p->len;
}

/* The extent that covers e->at, or the next one; NULL: none. */
static const struct extent *extent_at(struct read_entry *e)
{
	const struct read_extents *all = e->extents;

	while (e->next_extent < all->count) {
		const struct extent *x = &all->e[e->next_extent];

		if (x->logical + x->length > e->at) return x;
		e->next_extent++;
	}
	return NULL;
}

bool read_piece_make(struct read_entry *e, struct read_piece *p)
{
	struct extent only;
	const struct extent *x = &only;
	uint64_t end = e->end < e->extents_end ? e->end : e->extents_end;

	if (e->made_first && e->at >= end) return false;
	p->entry = e;
	p->first = !e->made_first;
	p->read.large = e->loc.size >= READ_LARGE;
	e->made_first = true;
	p->logical = e->at;
	if (e->at >= e->end) { /* an empty object, or an empty range */
		p->zeros = p->last = true;
		return true;
	}
	if (e->extents != NULL)
		x = extent_at(e);
	else
		only = only_extent(e);
	if (x == NULL || x->logical > e->at)
		piece_of_zeros(p, e->at, x == NULL || x->logical > end ? end : x->logical);
	else if ((x->flags & EXTENT_HOLE) != 0)
		piece_of_zeros(p, e->at,
			x->logical + x->length < end ? x->logical + x->length : end);
	else
		piece_of_extent(p, x, e->at, end);
	e->at = p->logical + (p->cut_len > 0 ? p->cut_len : p->len);
	p->last = e->at >= e->end;
	return true;
}
