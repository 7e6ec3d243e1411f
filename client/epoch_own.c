/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_own.c -- the order `blocks` where ranks share lanes, or an epoch takes but a part of a window: of each block a
 * rank fetches its own samples only, while the others fetch theirs, and the server reads the block once for all. So
 * that it can, all ranks ask in the same order, that of the disk, and name the same spans: stretches of a pack that
 * hold samples of one block, with what all ranks together take of them.
 *
 * (1) spans depend on the block and on what is left of it when the epoch begins, never on the rank, its memory or
 *     what it has fetched. (2) what is taken through spans is each sample once: padded rows, those of the last round
 *     and those that a small budget does not hold are read by themselves. */
#include "epoch_priv.h"

#include <stdlib.h>

enum {
	SPAN_MAX = 512 * 1024,     /* the protocol's cap */
	SPAN_GAP_MAX = 32 * 1024,  /* that nobody wants, read through */
	GONE_EXACT_MAX = 1 << 22,  /* samples of a window of which is found out who is left */
	ROW_BITS = 20,             /* of a unit's tag; the rest: which block of the fetch */
};

/* ---- whose samples: lists of (block of the gen, sample of the block) ---- */

struct picks {
	uint64_t *v;
	size_t count, cap;
	bool failed;
};

static void pick(const struct granary_epoch *e, const struct hold_source *s, const struct gen *g, struct picks *p,
	uint32_t lane, uint64_t index_of_lane)
{
	uint64_t slot;

	order_item_window(&g->order, hold_lane(e, lane), index_of_lane, &slot);
	if (p->count == p->cap) {
		size_t cap = p->cap ? 2 * p->cap : 1024;
		uint64_t *v = realloc(p->v, cap * sizeof(*v));
		p->failed = p->failed || !v;
		if (!v)
			return;
		p->v = v;
		p->cap = cap;
	}
	uint32_t index, at = hold_slot(s, lane, g->window, slot, &index);
	p->v[p->count++] = (uint64_t)at << 32 | index;
}

static int pick_order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Sorted by block and sample; in place, the samples alone. */
static uint32_t *picks_sort(struct picks *p)
{
	uint32_t *samples = malloc((p->count + 1) * sizeof(*samples));

	if (!samples)
		return NULL;
	if (p->count > 0)
		qsort(p->v, p->count, sizeof(*p->v), pick_order);
	for (size_t i = 0; i < p->count; i++)
		samples[i] = (uint32_t)p->v[i];
	return samples;
}

/* Of those that share this lane, is it ours? */
static bool item_mine(const struct granary_epoch *e, uint32_t lane, uint64_t item)
{
	uint64_t position = item * e->order.spec.lanes + lane;
	uint64_t number = (position - e->ranks.spec.start) / e->ranks.global_batch;

	return position % e->ranks.spec.ranks == e->ranks.spec.rank && number >= e->options.first &&
		(number - e->options.first) % e->options.step == 0;
}

static void pick_own(struct granary_epoch *e, const struct hold_source *s, const struct gen *g, struct picks *p,
	uint32_t i)
{
	uint32_t lane = hold_lane(e, i), ranks = e->ranks.spec.ranks, step = e->recipe ? 1 : ranks / e->lane_step;
	struct order_window w = order_window(&g->order, lane, g->window);
	uint64_t index = w.first_item;

	while (!e->recipe && (index * e->order.spec.lanes + lane) % ranks != e->ranks.spec.rank)
		index++;
	for (; index < w.first_item + w.items; index += step) {
		uint64_t item = gen_item(e, s, g, lane, index);
		if (item_lives(e, lane, item) && item_mine(e, lane, item))
			pick(e, s, g, p, i, index);
	}
}

static void pick_gone(struct granary_epoch *e, const struct hold_source *s, const struct gen *g, struct picks *p,
	uint32_t i)
{
	uint32_t lane = hold_lane(e, i);
	struct order_window w = order_window(&g->order, lane, g->window);
	uint64_t first = w.first_item, last = w.first_item + w.items;

	if (w.items * e->lanes_count > GONE_EXACT_MAX)
		return;
	for (; first < last && !item_lives(e, lane, gen_item(e, s, g, lane, first)); first++)
		pick(e, s, g, p, i, first);
	for (; last > first && !item_lives(e, lane, gen_item(e, s, g, lane, last - 1)); last--)
		pick(e, s, g, p, i, last - 1);
}

/* Lists of all blocks of a gen: own and gone samples. */
int own_plan(struct granary_epoch *e, const struct hold_source *s, struct gen *g)
{
	struct picks own = { .v = NULL }, gone = { .v = NULL };

	for (uint32_t i = 0; i < e->lanes_count; i++) {
		if (g->window >= order_lane_windows(&g->order, hold_lane(e, i)))
			continue;
		pick_own(e, s, g, &own, i);
		pick_gone(e, s, g, &gone, i);
	}
	g->own = picks_sort(&own);
	g->gone = picks_sort(&gone);
	bool failed = own.failed || gone.failed || !g->own || !g->gone;
	for (size_t i = 0; !failed && i < own.count; i++) {
		struct hold *h = &g->holds[own.v[i] >> 32];
		if (h->own_count++ == 0)
			h->own = g->own + i;
	}
	for (size_t i = 0; !failed && i < gone.count; i++) {
		struct hold *h = &g->holds[gone.v[i] >> 32];
		if (h->gone_count++ == 0)
			h->gone = g->gone + i;
	}
	free(own.v);
	free(gone.v);
	return failed ? -GRANARY_ENOMEM : 0;
}

bool own_find(const struct hold *h, uint32_t sample, uint32_t *index)
{
	uint32_t lo = 0, hi = h->own_count;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		if (h->own[mid] < sample)
			lo = mid + 1;
		else
			hi = mid;
	}
	*index = lo;
	return lo < h->own_count && h->own[lo] == sample;
}

/* ---- spans ---- */

static bool part_add(struct granary_epoch *e, struct own_part part)
{
	if (e->own_parts_count == e->own_parts_cap) {
		uint32_t cap = e->own_parts_cap ? 2 * e->own_parts_cap : 256;
		struct own_part *parts = realloc(e->own_parts, cap * sizeof(*parts));
		if (!parts)
			return false;
		e->own_parts = parts;
		e->own_parts_cap = cap;
	}
	e->own_parts[e->own_parts_count++] = part;
	return true;
}

/* One sample's extents; own: which of the own ones it is, else UINT32_MAX. */
static int sample_parts(struct granary_epoch *e, const struct granary_snapshot *s, const struct snap_page *page,
	uint64_t slot, uint32_t own, uint64_t *sum)
{
	uint32_t fields = e->fields;
	struct snap_row row;
	int err = 0;

	for (uint32_t f = 0; err == 0 && f < fields; f++) {
		uint64_t at = *sum;
		err = range_row(s, page, slot, f, &row);
		for (uint32_t i = 0; err == 0 && i < row.extent_count; i++) {
			struct own_part part = { .row = own == UINT32_MAX ? own : own * fields + f, .at = at };
			err = snap_page_extent(page, &row, i, &part.extent);
			at += part.extent.length;
			if (err == 0 && (own != UINT32_MAX || part.extent.pack != 0) && !part_add(e, part))
				err = -GRANARY_ENOMEM;
		}
		if (err < 0 || own == UINT32_MAX)
			continue;
		e->rows[own * fields + f] = (struct hold_row){ (uint32_t)*sum, (uint32_t)row.size };
		*sum += row.size;
		if (*sum >= UINT32_MAX / 2)
			err = -GRANARY_ETOOBIG;
	}
	return err;
}

/* All extents of a block that somebody takes; the bytes of the own ones. */
static int64_t block_parts(struct granary_epoch *e, const struct hold *h)
{
	struct granary_snapshot *snapshot = e->parts[h->part].snapshot;
	struct page_cursor c = { .page = NULL };
	uint64_t sum = 0;
	uint32_t own = 0, gone = 0;
	int err = 0;

	e->own_parts_count = 0;
	for (uint32_t i = 0; err == 0 && i < h->count; i++) {
		uint64_t id = block_sample_id(e, h, i);
		if (gone < h->gone_count && h->gone[gone] == i) {
			gone++;
			continue;
		}
		bool mine = own < h->own_count && h->own[own] == i;
		err = page_cursor_to(snapshot, &c, id);
		if (err == 0)
			err = sample_parts(e, snapshot, c.page, id - c.first, mine ? own : UINT32_MAX, &sum);
		own += mine;
	}
	page_cursor_end(snapshot, &c);
	return err < 0 ? err : (int64_t)sum;
}

static int part_order(const void *a, const void *b)
{
	const struct snap_extent *x = &((const struct own_part *)a)->extent, *y = &((const struct own_part *)b)->extent;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int span_units(struct granary_epoch *e, struct hold *h, struct range_plan *plan, uint32_t tag, uint32_t first,
	uint32_t last)
{
	uint32_t from = e->own_parts[first].extent.offset, wanted = 0;
	uint64_t end = (uint64_t)e->own_parts[last - 1].extent.offset + e->own_parts[last - 1].extent.length;
	bool shared = e->sharing && end - from <= SPAN_MAX && last - first > 1;

	for (uint32_t i = first; i < last; i++)
		wanted += e->own_parts[i].extent.unsummed ? 0 : e->own_parts[i].extent.length;
	for (uint32_t i = first; i < last; i++) {
		const struct own_part *p = &e->own_parts[i];
		uint32_t before = plan->units_count;
		if (p->row == UINT32_MAX)
			continue;
		int err = range_add_unit(plan, &p->extent, h->mem + h->own_data + p->at, tag | p->row);
		if (err < 0)
			return err;
		if (plan->units_count > before && shared && !p->extent.unsummed) {
			struct range_unit *u = &plan->units[before];
			u->span_offset = from;
			u->span_length = (uint32_t)(end - from);
			u->wanted = wanted;
		}
	}
	return 0;
}

static bool span_goes_on(const struct own_part *first, const struct own_part *before, const struct own_part *next)
{
	uint64_t end = (uint64_t)before->extent.offset + before->extent.length;
	const struct snap_extent *n = &next->extent;

	return n->pack == first->extent.pack && n->offset >= end && n->offset - end <= SPAN_GAP_MAX &&
		(uint64_t)n->offset + n->length - first->extent.offset <= SPAN_MAX;
}

static int block_spans(struct granary_epoch *e, struct hold *h, struct range_plan *plan, uint32_t tag)
{
	int err = 0;

	qsort(e->own_parts, e->own_parts_count, sizeof(*e->own_parts), part_order);
	for (uint32_t first = 0, last; err == 0 && first < e->own_parts_count; first = last) {
		last = first + 1;
		if (e->own_parts[first].extent.pack == 0) { /* a hole */
			memset(h->mem + h->own_data + e->own_parts[first].at, 0, e->own_parts[first].extent.length);
			continue;
		}
		while (last < e->own_parts_count &&
			span_goes_on(&e->own_parts[first], &e->own_parts[last - 1], &e->own_parts[last]))
			last++;
		err = span_units(e, h, plan, tag, first, last);
	}
	return err;
}

int own_prepare(struct granary_epoch *e, struct hold *h, struct range_plan *plan, uint32_t number)
{
	size_t rows = (size_t)h->own_count * e->fields;
	int64_t sum = block_parts(e, h);

	if (sum < 0)
		return (int)sum;
	h->own_data = (uint32_t)(rows * sizeof(struct hold_row));
	h->size = h->own_data + (size_t)sum;
	h->mem = mem_get(&e->mem, h->size);
	if (!h->mem)
		return -GRANARY_ENOMEM;
	e->held += mem_size(h->size);
	struct hold_row *to = (struct hold_row *)(void *)h->mem;
	for (size_t i = 0; i < rows; i++)
		to[i] = (struct hold_row){ h->own_data + e->rows[i].offset, e->rows[i].size };
	return block_spans(e, h, plan, number << ROW_BITS);
}

/* A unit of a fetch did not come whole. */
void own_bad(struct fetch *f, uint32_t tag)
{
	struct hold_row *rows = (struct hold_row *)(void *)f->holds[tag >> ROW_BITS]->mem;

	rows[tag & ((1u << ROW_BITS) - 1)].offset = HOLD_BAD;
}
