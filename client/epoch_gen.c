/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_gen.c -- the order `blocks`: the windows of blocks that a rank draws from. A gen is the windows of one number
 * of all its lanes in one pass over a part of the epoch: of a snapshot, or of each source of a recipe, whose lane l is
 * what lane l of the mixture takes from it (docs/ORDER.md 7.1). Lanes go forward together, so few gens of a part are
 * drawn from at a time; those of different parts go forward at the pace of their shares.
 *
 * (1) gens of a part are planned, and given back, in the order of their numbers. (2) A window that is not taken to its
 * last sample, because a recipe's epoch begins or ends in it, and all windows where ranks share lanes, are picked:
 * their blocks list the samples that this rank takes. (3) Blocks are fetched in the order in which they are wanted,
 * those of a gen in the order of the disk; it is the same on all ranks of an epoch, but for their lanes. */
#include "epoch_priv.h"

#include <stdlib.h>

enum {
	COUNT_EXACT_MAX = 1 << 20,      /* samples of a window that was begun before: of those it is counted
	                                 * what is left */
	GENS_AHEAD = 4,
	GENS_FEW_MAX = 16, FEW_PARTS = 4, /* a part of more than so many has fewer */
};

uint32_t hold_lane(const struct granary_epoch *e, uint32_t i)
{
	return e->ranks.spec.rank % e->lane_step + i * e->lane_step;
}

static uint32_t common_divisor(uint32_t a, uint32_t b)
{
	while (b > 0) {
		uint32_t rest = a % b;
		a = b;
		b = rest;
	}
	return a;
}

static const struct order *part_order(const struct granary_epoch *e, uint32_t part)
{
	return e->recipe ? &e->mix.orders[part] : &e->order;
}

static uint64_t lane_items(const struct granary_epoch *e, uint32_t lane)
{
	return e->recipe ? mix_lane_items(&e->mix, lane) : order_lane_items(&e->order, lane);
}

/* How many of the first items of a lane of the epoch are of the part. */
static uint64_t lane_drawn(const struct granary_epoch *e, const struct hold_source *s, uint32_t lane, uint64_t items)
{
	uint64_t all = lane_items(e, lane);

	items = items < all ? items : all;
	return e->recipe ? mix_count(&e->mix, lane, s->part, items) : items;
}

/* Items of a lane before a position, as far as all lanes have them. */
static uint64_t items_before(const struct granary_epoch *e, uint64_t position, uint32_t lane)
{
	uint32_t lanes = e->order.spec.lanes;
	uint64_t items = position > lane ? (position - lane - 1) / lanes + 1 : 0;

	return items < e->even_items ? items : e->even_items;
}

static uint64_t part_item(const struct granary_epoch *e, const struct hold_source *s, uint32_t lane, uint64_t pass,
	uint64_t index)
{
	return e->recipe ? mix_lane_find(&e->mix, lane, s->part, pass * order_lane_items(s->order, lane) + index) :
		index;
}

uint64_t gen_item(const struct granary_epoch *e, const struct hold_source *s, const struct gen *g, uint32_t lane,
	uint64_t index)
{
	return part_item(e, s, lane, g->pass, index);
}

bool item_lives(const struct granary_epoch *e, uint32_t lane, uint64_t item)
{
	if (item >= e->even_items)
		return false;
	uint64_t position = item * e->order.spec.lanes + lane;
	return position >= e->ranks.spec.start && position < e->end;
}

/* ---- setting up ---- */

/* How many windows of a lane of a snapshot may be planned at once: those up to the end of a batch from the one before
 * it, of which none can be forgotten before it is ready, and those that are read ahead. Lanes may differ by a block and
 * an item. */
static uint64_t gens_at_once(const struct granary_epoch *e)
{
	const struct order_spec *s = &e->order.spec;
	uint64_t first = e->options.first, step = e->options.step;
	uint64_t batches = (first > step ? first : step) + 1;
	uint64_t items = batches * e->ranks.global_batch / s->lanes + 1 + s->block;

	return items / s->window / s->block + GENS_AHEAD;
}

/* A source of less than a block a lane is read sample by sample: it would be held in more pieces than it has blocks. */
static bool part_wanted(const struct granary_epoch *e, uint32_t part)
{
	return !e->recipe || part_order(e, part)->lane_items >= e->order.spec.block;
}

bool gens_wanted(const struct granary_epoch *e)
{
	if (e->order.spec.mode != ORDER_BLOCKS || e->order.spec.block * e->fields > 1 << 20)
		return false;
	for (uint32_t p = 0; p < e->parts_count && e->recipe; p++)
		if (part_wanted(e, p))
			return true;
	return !e->recipe && gens_at_once(e) <= EPOCH_GENS_MAX;
}

/* The number of the window that item `drawn` of a lane, over all passes, is in. */
static uint64_t window_number(const struct hold_source *s, uint32_t lane, uint64_t drawn)
{
	uint64_t items = order_lane_items(s->order, lane);

	return drawn / items * s->windows + order_item_window(s->order, lane, drawn % items, NULL);
}

/* Windows up to the end of the epoch; the first one of it. */
static void source_range(const struct granary_epoch *e, struct hold_source *s)
{
	s->gen_first = e->ranks.spec.start > 0 ? UINT64_MAX : 0;
	for (uint32_t i = 0; i < e->lanes_count; i++) {
		uint32_t lane = hold_lane(e, i);
		if (order_lane_items(s->order, lane) == 0)
			continue;
		uint64_t drawn = lane_drawn(e, s, lane, UINT64_MAX), last;
		last = drawn > 0 ? window_number(s, lane, drawn - 1) + 1 : 0;
		s->gens_count = last > s->gens_count ? last : s->gens_count;
		if (s->gen_first == 0)
			continue;
		drawn = lane_drawn(e, s, lane, items_before(e, e->ranks.spec.start, lane));
		last = window_number(s, lane, drawn);
		s->gen_first = last < s->gen_first ? last : s->gen_first;
	}
	s->gen_first = s->gen_first < s->gens_count ? s->gen_first : s->gens_count;
	s->gen_end = s->gen_first;
}

static void source_cuts(const struct granary_epoch *e, struct hold_source *s)
{
	for (uint32_t i = 0; i < e->lanes_count; i++) {
		struct order_piece piece[2];
		uint32_t lane = hold_lane(e, i);
		uint64_t first = 0;
		if (order_lane_items(s->order, lane) == 0 || order_window(s->order, lane, 0).blocks < 2)
			continue;
		for (unsigned n = order_window_block(s->order, lane, 0, 0, piece); n > 0; n--)
			first += piece[n - 1].count;
		s->lane_cut[i] = (uint32_t)(s->order->spec.block - first);
	}
}

/* Which item of the rank's first lane is the first that a gen gives; about, where that lane has no such window. */
static uint64_t gen_begin(const struct granary_epoch *e, const struct hold_source *s, uint64_t number)
{
	uint32_t lane = hold_lane(e, 0);
	uint64_t window = number % s->windows, first = order_lane_items(s->order, lane);
	uint64_t all = lane_items(e, lane), item;

	if (window < order_lane_windows(s->order, lane))
		first = order_window(s->order, lane, window).first_item;
	item = part_item(e, s, lane, number / s->windows, first);
	return item < all ? item : all;
}

static int source_setup(struct granary_epoch *e, uint32_t part)
{
	struct hold_source *s = &e->held_parts[part];
	uint64_t wide;

	*s = (struct hold_source){ .part = part, .order = part_order(e, part) };
	s->gens_max = e->parts_count > FEW_PARTS ? GENS_FEW_MAX : EPOCH_GENS_MAX;
	if (!part_wanted(e, part))
		return 0;
	for (uint32_t i = 0; i < e->lanes_count; i++) {
		uint64_t windows = order_lane_windows(s->order, hold_lane(e, i));
		s->windows = windows > s->windows ? windows : s->windows;
	}
	wide = (s->order->lane_items >> s->order->block_shift) + 3;
	wide = s->order->spec.window < wide ? s->order->spec.window : wide;
	s->window_blocks = (uint32_t)wide;
	s->gens = calloc(s->gens_max, sizeof(*s->gens));
	s->lane_cut = calloc(e->lanes_count, sizeof(*s->lane_cut));
	if (!s->gens || !s->lane_cut)
		return -GRANARY_ENOMEM;
	if (s->windows > 0) {
		source_range(e, s);
		source_cuts(e, s);
		s->next_begin = gen_begin(e, s, s->gen_end);
	}
	if (!e->recipe)
		s->gens_max = (uint32_t)gens_at_once(e);
	return 0;
}

int gens_setup(struct granary_epoch *e)
{
	uint32_t ranks = e->ranks.spec.ranks;
	int err = 0;

	e->lane_step = common_divisor(e->order.spec.lanes, ranks);
	e->sharing = e->lane_step != ranks || e->options.first > 0 || e->options.step > 1;
	e->lanes_count = e->order.spec.lanes / e->lane_step;
	e->even_items = e->recipe ? mix_even_items(&e->mix) : e->order.lane_items;
	e->held_parts = calloc(e->parts_count, sizeof(*e->held_parts));
	if (!e->held_parts)
		return -GRANARY_ENOMEM;
	for (uint32_t p = 0; err == 0 && p < e->parts_count; p++)
		err = source_setup(e, p);
	return err;
}

/* Bytes a sample of the part. */
static uint64_t part_mean(const struct granary_epoch *e, uint32_t part)
{
	const struct snap_manifest *m = &e->parts[part].snapshot->manifest;

	return m->samples ? m->bytes / m->samples + 1 : 1;
}

static uint64_t source_bytes(const struct granary_epoch *e, const struct hold_source *s)
{
	if (!s->gens)
		return 0;
	return part_mean(e, s->part) * e->order.spec.block * s->window_blocks * e->lanes_count /
		(e->ranks.spec.ranks / e->lane_step);
}

uint64_t gens_window_bytes(const struct granary_epoch *e)
{
	uint64_t bytes = 0;

	for (uint32_t p = 0; p < e->parts_count; p++)
		bytes += source_bytes(e, &e->held_parts[p]);
	return bytes;
}

/* Two windows, one drawn from, one coming; at most all there is, which is held twice where passes follow each other. */
uint64_t gens_need(const struct granary_epoch *e)
{
	uint64_t need = 0;

	for (uint32_t p = 0; p < e->parts_count; p++) {
		const struct hold_source *s = &e->held_parts[p];
		uint64_t two = 2 * source_bytes(e, s) + 1, all;
		if (!s->gens)
			continue;
		all = part_mean(e, p) * s->order->spec.samples / e->ranks.spec.ranks;
		all += all / 4 + 1;
		all *= s->gens_count > s->windows ? 2 : 1;
		need += two < all ? two : all;
	}
	return need;
}

static void gen_free(struct granary_epoch *e, const struct hold_source *s, struct gen *g)
{
	for (uint32_t i = 0; g->holds && i < e->lanes_count * s->window_blocks; i++)
		hold_abandon(e, &g->holds[i]);
	free(g->holds);
	free(g->sorted);
	free(g->own);
	free(g->gone);
	*g = (struct gen){ .holds = NULL };
}

void gens_release(struct granary_epoch *e)
{
	for (uint32_t p = 0; e->held_parts && p < e->parts_count; p++) {
		struct hold_source *s = &e->held_parts[p];
		for (uint64_t n = s->gen_first; n < s->gen_end; n++)
			gen_free(e, s, &s->gens[n % s->gens_max]);
		free(s->gens);
		free(s->lane_cut);
	}
	free(e->held_parts);
}

/* ---- planning ---- */

static void hold_plan(const struct granary_epoch *e, const struct gen *g, struct hold *h, uint32_t lane, uint64_t block)
{
	struct order_piece piece[2];
	unsigned n = order_window_block(&g->order, lane, g->window, block, piece);

	h->first_id = piece[0].first_id;
	h->count_first = h->count = (uint32_t)piece[0].count;
	if (n == 2)
		h->count += (uint32_t)piece[1].count;
	h->left = h->count;
	/* Which are held is a matter of luck, so that the others are spread over the window. */
	h->state = (hash_u64(h->first_id + 1) & 65535) < e->hold_share ? HOLD_PLANNED : HOLD_NEVER;
}

static int by_first_id(const void *a, const void *b, void *arg)
{
	const struct hold *holds = arg;
	uint64_t x = holds[*(const uint32_t *)a].first_id, y = holds[*(const uint32_t *)b].first_id;

	return x < y ? -1 : x > y;
}

/* Of a window of a snapshot that was begun before the epoch was resumed, what is left of each block. */
static void gen_count_left(struct granary_epoch *e, struct hold_source *s, struct gen *g)
{
	uint64_t start = e->ranks.spec.start / e->order.spec.lanes;
	uint64_t span = e->order.spec.window << e->order.block_shift;
	bool later;

	if (e->recipe || e->sharing || e->ranks.spec.start == 0 || g->window > start / span + 1 ||
		span * e->lanes_count > COUNT_EXACT_MAX)
		return;
	for (uint32_t i = 0; i < e->lanes_count; i++) {
		uint32_t lane = hold_lane(e, i), index;
		if (g->window >= order_lane_windows(s->order, lane))
			continue;
		struct order_window w = order_window(s->order, lane, g->window);
		for (uint64_t item = w.first_item; item < w.first_item + w.items; item++) {
			if (order_position(s->order, (struct order_place){ lane, item }) >= e->ranks.spec.start)
				break;
			struct hold *h = hold_of(e, (struct sample_place){ .lane = lane, .index = item }, &index,
				&later);
			if (h && h->left > 0 && --h->left == 0)
				h->state = HOLD_GONE;
		}
	}
}

/* The gen's blocks in the order of the disk: those of which this rank takes something. */
static void gen_sort(struct granary_epoch *e, const struct hold_source *s, struct gen *g)
{
	for (uint32_t i = 0; i < e->lanes_count * s->window_blocks; i++) {
		struct hold *h = &g->holds[i];
		if (g->picked)
			h->left = h->own_count;
		if (h->left > 0)
			g->sorted[g->count++] = i;
	}
	qsort_r(g->sorted, g->count, sizeof(*g->sorted), by_first_id, g->holds);
}

/* Is some sample of the gen nobody's in this epoch? Ends of recipes are seldom those of windows. */
static bool gen_is_cut(const struct granary_epoch *e, const struct hold_source *s, const struct gen *g)
{
	for (uint32_t i = 0; i < e->lanes_count; i++) {
		uint32_t lane = hold_lane(e, i);
		if (g->window >= order_lane_windows(s->order, lane))
			continue;
		struct order_window w = order_window(s->order, lane, g->window);
		if (!item_lives(e, lane, gen_item(e, s, g, lane, w.first_item)) ||
			!item_lives(e, lane, gen_item(e, s, g, lane, w.first_item + w.items - 1)))
			return true;
	}
	return false;
}

static void gen_init(const struct granary_epoch *e, struct hold_source *s, struct gen *g)
{
	*g = (struct gen){ .number = s->gen_end, .pass = s->gen_end / s->windows, .window = s->gen_end % s->windows,
		.order = *s->order, .begin = s->next_begin, .end = gen_begin(e, s, s->gen_end + 1),
		.stream = e->stream };
	if (e->recipe) {
		const uint64_t own[] = { e->stream.tag, s->part, g->pass };
		g->order = mix_source_order(&e->mix, s->part, g->pass);
		g->stream.tag = hash_content(own, sizeof(own)).lo;
	}
	g->picked = e->sharing || (e->recipe && gen_is_cut(e, s, g));
}

static int gen_plan(struct granary_epoch *e, struct hold_source *s)
{
	struct gen *g = &s->gens[s->gen_end % s->gens_max];
	size_t most = (size_t)e->lanes_count * s->window_blocks;

	gen_init(e, s, g);
	g->holds = calloc(most, sizeof(*g->holds));
	g->sorted = calloc(most, sizeof(*g->sorted));
	for (uint32_t i = 0; g->holds && i < e->lanes_count; i++) {
		uint32_t lane = hold_lane(e, i);
		if (g->window >= order_lane_windows(s->order, lane))
			continue;
		struct order_window w = order_window(s->order, lane, g->window);
		for (uint32_t b = 0; b < w.blocks; b++)
			hold_plan(e, g, &g->holds[i * s->window_blocks + b], lane, b);
	}
	for (size_t i = 0; g->holds && i < most; i++)
		g->holds[i].part = (uint16_t)s->part;
	if (!g->holds || !g->sorted || (g->picked && own_plan(e, s, g) < 0)) {
		gen_free(e, s, g);
		return -GRANARY_ENOMEM;
	}
	gen_sort(e, s, g);
	s->next_begin = g->end;
	s->gen_end++;
	gen_count_left(e, s, g);
	return 0;
}

/* ---- what is fetched next ---- */

static struct gen *gen_last(const struct hold_source *s)
{
	return s->gen_end > s->gen_first ? &s->gens[(s->gen_end - 1) % s->gens_max] : NULL;
}

bool gens_full(const struct hold_source *s)
{
	return s->gen_end - s->gen_first >= s->gens_max;
}

/* When block number `next` of a gen, in the order of fetching, is to be there, in items of the rank's first lane. */
static double gen_when(const struct gen *g, uint32_t next)
{
	return (double)g->begin + (double)(g->end - g->begin) * next / g->count;
}

/* May what is wanted at `when` be fetched? While one window is consumed the next one is fetched, at the same pace. */
static bool window_due(const struct granary_epoch *e, uint64_t length, double when)
{
	uint64_t taken = e->ranks.spec.start + epoch_number(e, e->seen_taken) * e->ranks.global_batch;

	return when <= (double)(items_before(e, taken, hold_lane(e, 0)) + length) + lead_items(e);
}

bool gen_due(const struct granary_epoch *e, const struct hold_source *s, const struct gen *g)
{
	return g->number < s->wanted || window_due(e, g->end - g->begin, gen_when(g, g->next));
}

/* When the next block of the part is wanted; false: there is none yet. */
static bool source_when(const struct granary_epoch *e, const struct hold_source *s, double *when)
{
	struct gen *g = s->gens ? gen_last(s) : NULL;

	if (!s->gens)
		return false;
	while (g && g->next < g->count && g->holds[g->sorted[g->next]].state != HOLD_PLANNED)
		g->next++;
	if (g && g->next < g->count) {
		*when = gen_when(g, g->next);
		return gen_due(e, s, g);
	}
	*when = (double)s->next_begin;
	return s->gen_end < s->gens_count && !gens_full(s) &&
		(!g || s->gen_end < s->wanted || window_due(e, g->end - g->begin, *when));
}

struct hold *hold_next(struct granary_epoch *e, struct gen **gen, int *err)
{
	for (*err = 0; *err == 0;) {
		struct hold_source *best = NULL;
		double least = 0, when;
		for (uint32_t p = 0; p < e->parts_count; p++)
			if (source_when(e, &e->held_parts[p], &when) && (!best || when < least)) {
				best = &e->held_parts[p];
				least = when;
			}
		if (!best)
			return NULL;
		*gen = gen_last(best);
		if (*gen && (*gen)->next < (*gen)->count)
			return &(*gen)->holds[(*gen)->sorted[(*gen)->next]];
		*err = gen_plan(e, best);
	}
	return NULL;
}

/* ---- finding, forgetting ---- */

uint32_t hold_slot(const struct hold_source *s, uint32_t i, uint64_t window, uint64_t slot, uint32_t *sample)
{
	uint32_t cut = window == 0 ? s->lane_cut[i] : 0, n_shift = s->order->block_shift;
	uint64_t block = (slot + cut) >> n_shift;

	*sample = (uint32_t)(block == 0 ? slot : slot + cut - (block << n_shift));
	return i * s->window_blocks + (uint32_t)block;
}

struct sample_place sample_place(const struct granary_epoch *e, uint64_t position)
{
	if (!e->recipe) {
		struct order_place at = order_place(&e->order, position);
		return (struct sample_place){ .lane = at.lane, .index = at.item };
	}
	struct order_place at = mix_place(&e->mix, position);
	struct mix_item x = mix_lane_rank(&e->mix, at.lane, at.item);
	return (struct sample_place){ x.source, at.lane, x.pass, x.index };
}

struct hold *hold_of(struct granary_epoch *e, struct sample_place at, uint32_t *index, bool *later)
{
	struct hold_source *s = &e->held_parts[at.part];
	uint32_t sample;
	uint64_t slot, number;

	*later = false;
	if (!s->gens || at.lane % e->lane_step != e->ranks.spec.rank % e->lane_step)
		return NULL; /* of the last round */
	number = at.pass * s->windows + order_item_window(s->order, at.lane, at.index, NULL);
	if (number >= s->wanted) {
		s->wanted = number + 1;
		e->hold_wanted = true;
	}
	*later = number >= s->gen_end && number < s->gens_count;
	if (number < s->gen_first || number >= s->gen_end)
		return NULL;
	struct gen *g = &s->gens[number % s->gens_max];
	order_item_window(&g->order, at.lane, at.index, &slot);
	struct hold *h = &g->holds[hold_slot(s, at.lane / e->lane_step, g->window, slot, &sample)];
	*index = sample;
	return !g->picked || own_find(h, sample, index) ? h : NULL;
}

static bool gen_is_past(const struct granary_epoch *e, const struct hold_source *s, struct gen *g, uint64_t position)
{
	for (; g->past < e->lanes_count; g->past++) {
		uint32_t lane = hold_lane(e, g->past);
		if (g->window >= order_lane_windows(s->order, lane))
			continue;
		struct order_window w = order_window(s->order, lane, g->window);
		uint64_t end = g->pass * order_lane_items(s->order, lane) + w.first_item + w.items;
		if (lane_drawn(e, s, lane, items_before(e, position, lane)) < end)
			return false;
	}
	return true;
}

void hold_forget(struct granary_epoch *e, uint64_t position)
{
	for (uint32_t p = 0; p < e->parts_count; p++) {
		struct hold_source *s = &e->held_parts[p];
		for (; s->gen_first < s->gen_end; s->gen_first++) {
			struct gen *g = &s->gens[s->gen_first % s->gens_max];
			if (!gen_is_past(e, s, g, position))
				break;
			gen_free(e, s, g);
		}
	}
}
