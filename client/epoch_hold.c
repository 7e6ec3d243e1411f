/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_hold.c -- the order `blocks`: blocks of a rank's lanes are read in the order of the disk, whole where it owns
 * its lanes, else its own samples of them (epoch_own.c), and held while their samples are drawn; the windows that come
 * next are read while these are consumed.
 *
 * PLANNED -> COMING  hold_fetch_more()  there was room; its range requests are under way, its rows are laid out
 *         -> HERE    hold_collect()     all came, verified; rows that are bad are marked
 *         -> GONE    hold_drawn()       its last sample was drawn, or hold_forget(): its windows are past
 * PLANNED -> NEVER   hold_plan()        not held, because the budget is too small for all: read sample by sample
 *
 * A gen is the windows of one number of all lanes; lanes go forward together, so two gens are drawn from at a time. */
#include "epoch_priv.h"

#include <stdlib.h>

#include "common/clock.h"

enum {
	COMING_MAX = 32 * 1024 * 1024, /* bytes under way: enough for the line, and single samples need not wait long */
	COMING_SHARED = 1024 * 1024,    /* at least, of a rank that shares its lanes */
	FETCH_BYTES = 256 * 1024,       /* of blocks that are asked for together, where a rank has a part of each */
	COMING_FIRST = 2 * 1024 * 1024, /* before the first batch, which comes sample by sample */
	COUNT_EXACT_MAX = 1 << 20,     /* samples of a window that was begun before: of those it is counted
	                                * what is left */
	GENS_AHEAD = 4,
};

static uint64_t gen_bytes(const struct granary_epoch *e)
{
	const struct snap_manifest *m = &e->snapshot->manifest;
	uint64_t mean = m->samples ? m->bytes / m->samples + 1 : 1;

	return mean * e->order.spec.block * e->window_blocks * e->lanes_count / (e->ranks.spec.ranks / e->lane_step);
}

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

/* How many windows of a lane may be planned at once: those up to the end of a batch from the one before it, of which
 * none can be forgotten before it is ready, and those that are read ahead. Lanes may differ by a block and an item. */
uint64_t hold_gens(const struct granary_epoch *e)
{
	const struct order_spec *s = &e->order.spec;
	uint64_t first = e->options.first, step = e->options.step;
	uint64_t batches = (first > step ? first : step) + 1;
	uint64_t items = batches * e->ranks.global_batch / s->lanes + 1 + s->block;

	return items / s->window / s->block + GENS_AHEAD;
}

int hold_setup(struct granary_epoch *e)
{
	const struct order *o = &e->order;
	uint64_t wide, all = e->snapshot->manifest.bytes / e->ranks.spec.ranks;

	e->lane_step = common_divisor(o->spec.lanes, e->ranks.spec.ranks);
	e->sharing = e->lane_step != e->ranks.spec.ranks || e->options.first > 0 || e->options.step > 1;
	e->lanes_count = o->spec.lanes / e->lane_step;
	for (uint32_t i = 0; i < e->lanes_count; i++) {
		uint64_t windows = order_lane_windows(o, hold_lane(e, i));
		e->windows = windows > e->windows ? windows : e->windows;
	}
	wide = (o->lane_items >> o->block_shift) + 3;
	wide = o->spec.window < wide ? o->spec.window : wide;
	e->window_blocks = (uint32_t)wide;
	e->lane_cut = calloc(e->lanes_count, sizeof(*e->lane_cut));
	e->rows = calloc(o->spec.block * e->snapshot->manifest.fields, sizeof(*e->rows));
	if (!e->lane_cut || !e->rows)
		return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < e->lanes_count; i++) {
		struct order_piece piece[2];
		uint32_t lane = hold_lane(e, i);
		if (order_lane_items(o, lane) == 0 || order_window(o, lane, 0).blocks < 2)
			continue;
		uint64_t first = 0;
		for (unsigned n = order_window_block(o, lane, 0, 0, piece); n > 0; n--)
			first += piece[n - 1].count;
		e->lane_cut[i] = (uint32_t)(o->spec.block - first);
	}
	uint64_t two = 2 * gen_bytes(e) + 1;
	two = all + all / 4 < two ? all + all / 4 + 1 : two;
	e->hold_share = e->hold_limit >= two ? 65536 : (uint64_t)((double)e->hold_limit / (double)two * 65536);
	e->early_left = gen_bytes(e) / 32;
	e->gen_first = e->gen_end = e->ranks.spec.start / o->spec.lanes / (o->spec.window << o->block_shift);
	return 0;
}

static void hold_drop(struct granary_epoch *e, struct hold *h)
{
	if (h->mem) {
		mem_put(&e->mem, h->mem, h->size);
		e->held -= mem_size(h->size);
	}
	h->mem = NULL;
	h->state = HOLD_GONE;
}

static void fetch_spare(struct granary_epoch *e, struct fetch *f)
{
	list_remove(&f->link);
	list_push(&e->fetches, &f->link);
	for (uint32_t i = 0; i < f->holds_count; i++)
		f->holds[i]->fetch = NULL;
	f->holds_count = 0;
}

static void gen_free(struct granary_epoch *e, struct gen *g)
{
	for (uint32_t i = 0; g->holds && i < e->lanes_count * e->window_blocks; i++) {
		struct hold *h = &g->holds[i];
		if (h->fetch) {
			granary_op_free(&h->fetch->op);
			e->coming_bytes -= h->fetch->bytes;
			fetch_spare(e, h->fetch);
		}
		hold_drop(e, h);
	}
	free(g->holds);
	free(g->order);
	free(g->own);
	free(g->gone);
	*g = (struct gen){ .holds = NULL };
}

void hold_release(struct granary_epoch *e)
{
	for (uint64_t w = e->gen_first; w < e->gen_end; w++)
		gen_free(e, &e->gens[w % EPOCH_GENS_MAX]);
	for (struct list *at; (at = list_pop(&e->fetches)) != NULL;) {
		struct fetch *f = container_of(at, struct fetch, link);
		range_plan_release(&f->plan);
		free(f);
	}
	free(e->lane_cut);
	free(e->rows);
	free(e->own_parts);
}

/* ---- planning a gen ---- */

static void hold_plan(const struct granary_epoch *e, struct hold *h, uint32_t lane, uint64_t window, uint64_t block)
{
	struct order_piece piece[2];
	unsigned n = order_window_block(&e->order, lane, window, block, piece);

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

/* Of a window that was begun before the epoch was resumed, what is left of each block. */
static void gen_count_left(struct granary_epoch *e, struct gen *g)
{
	uint64_t start = e->ranks.spec.start / e->order.spec.lanes;
	uint64_t span = e->order.spec.window << e->order.block_shift;

	if (e->sharing || e->ranks.spec.start == 0 || g->window > start / span + 1 ||
		span * e->lanes_count > COUNT_EXACT_MAX)
		return;
	for (uint32_t i = 0; i < e->lanes_count; i++) {
		uint32_t lane = hold_lane(e, i), index;
		if (g->window >= order_lane_windows(&e->order, lane))
			continue;
		struct order_window w = order_window(&e->order, lane, g->window);
		for (uint64_t item = w.first_item; item < w.first_item + w.items; item++) {
			if (order_position(&e->order, (struct order_place){ lane, item }) >= e->ranks.spec.start)
				break;
			struct hold *h = hold_of(e, (struct order_place){ lane, item }, &index);
			if (h && h->left > 0 && --h->left == 0)
				h->state = HOLD_GONE;
		}
	}
}

/* The gen's blocks in the order of the disk: those of which this rank takes something. */
static void gen_order(struct granary_epoch *e, struct gen *g)
{
	for (uint32_t i = 0; i < e->lanes_count * e->window_blocks; i++) {
		struct hold *h = &g->holds[i];
		if (e->sharing)
			h->left = h->own_count;
		if (h->left > 0)
			g->order[g->count++] = i;
	}
	qsort_r(g->order, g->count, sizeof(*g->order), by_first_id, g->holds);
}

static int gen_plan(struct granary_epoch *e)
{
	struct gen *g = &e->gens[e->gen_end % EPOCH_GENS_MAX];
	size_t most = (size_t)e->lanes_count * e->window_blocks;

	*g = (struct gen){ .window = e->gen_end };
	g->holds = calloc(most, sizeof(*g->holds));
	g->order = calloc(most, sizeof(*g->order));
	for (uint32_t i = 0; g->holds && i < e->lanes_count; i++) {
		uint32_t lane = hold_lane(e, i);
		if (g->window >= order_lane_windows(&e->order, lane))
			continue;
		struct order_window w = order_window(&e->order, lane, g->window);
		for (uint32_t b = 0; b < w.blocks; b++)
			hold_plan(e, &g->holds[i * e->window_blocks + b], lane, g->window, b);
	}
	if (!g->holds || !g->order || (e->sharing && own_plan(e, g) < 0)) {
		gen_free(e, g);
		return -GRANARY_ENOMEM;
	}
	gen_order(e, g);
	e->gen_end++;
	gen_count_left(e, g);
	return 0;
}

/* ---- fetching ---- */

uint64_t hold_sample_id(const struct granary_epoch *e, const struct hold *h, uint32_t index)
{
	if (e->sharing)
		index = h->own[index];
	return index < h->count_first ? h->first_id + index : index - h->count_first;
}

const struct hold_row *hold_rows(const struct granary_epoch *e, const struct hold *h, uint32_t index)
{
	return (const struct hold_row *)(const void *)h->mem + (size_t)index * e->snapshot->manifest.fields;
}

static int64_t hold_measure_rows(struct granary_epoch *e, const struct hold *h, struct range_plan *plan, bool *plain,
	struct page_cursor *c)
{
	uint32_t fields = e->snapshot->manifest.fields, at = 0;
	uint64_t sum = 0;
	struct snap_row row;

	*plain = true;
	for (uint32_t i = 0; i < h->count; i++) {
		uint64_t id = hold_sample_id(e, h, i);
		int err = page_cursor_to(e->snapshot, c, id);
		if (err < 0)
			return err;
		for (uint32_t f = 0; f < fields; f++, at++) {
			err = snap_page_row(c->page, (id - c->first) * fields + f, &row);
			if (err < 0)
				return err;
			e->rows[at] = (struct hold_row){ (uint32_t)sum, (uint32_t)row.size };
			sum += row.size;
			if (sum >= UINT32_MAX)
				return -GRANARY_ETOOBIG;
			*plain = *plain && (row.extent_count == 0 || (row.extent_count == 1 && row.first.pack != 0));
			if (*plain && row.extent_count == 1)
				err = range_add_unit(plan, &row.first, NULL, at);
			if (err < 0)
				return err;
		}
	}
	return (int64_t)sum;
}

/* Sizes of all rows; adds a unit for each, as long as every row is one plain extent. The sum of sizes, or an error. */
static int64_t hold_measure(struct granary_epoch *e, const struct hold *h, struct range_plan *plan, bool *plain)
{
	struct page_cursor c = { .page = NULL };
	int64_t sum = hold_measure_rows(e, h, plan, plain, &c);

	page_cursor_end(e->snapshot, &c);
	return sum;
}

/* Ranges as they lie in the packs, one after the other, gaps and all: few places to receive into. */
static void hold_lay_out(struct granary_epoch *e, struct hold *h, struct range_plan *plan, size_t rows_size)
{
	uint8_t *to = h->mem + rows_size;

	(void)e;
	for (uint32_t i = 0; i < plan->wants_count; i++) {
		struct range_want *w = &plan->wants[i];
		w->base = to;
		for (uint32_t u = w->first; u < w->first + w->count; u++) {
			struct range_unit *unit = &plan->units[u];
			struct hold_row *row = (struct hold_row *)(void *)h->mem + unit->tag;
			unit->dst = to + (unit->offset - w->offset);
			row->offset = (uint32_t)(unit->dst - h->mem);
		}
		to += w->length;
	}
}

/* Samples of several extents, or with holes: packed, gaps thrown away. */
static int hold_pack(struct granary_epoch *e, struct hold *h, struct range_plan *plan, size_t rows_size)
{
	uint32_t fields = e->snapshot->manifest.fields;
	struct hold_row *rows = (struct hold_row *)(void *)h->mem;
	int err = 0;

	range_plan_clear(plan);
	for (uint32_t i = 0; i < h->count * fields; i++)
		rows[i].offset += (uint32_t)rows_size;
	for (uint32_t i = 0; err == 0 && i < h->count; i++) {
		uint32_t before = plan->units_count;
		err = range_add_sample(plan, e->snapshot, hold_sample_id(e, h, i),
			h->mem + rows[(size_t)i * fields].offset);
		for (uint32_t u = before; u < plan->units_count; u++)
			plan->units[u].tag = i * fields;
	}
	return err < 0 ? err : range_merge(plan);
}

static int hold_prepare(struct granary_epoch *e, struct hold *h, struct range_plan *plan)
{
	size_t rows_size = (size_t)h->count * e->snapshot->manifest.fields * sizeof(struct hold_row);
	bool plain;
	int64_t sum = hold_measure(e, h, plan, &plain);
	int err = sum < 0 ? (int)sum : range_merge(plan);

	if (err < 0)
		return err;
	plain = plain && plan->bytes <= (uint64_t)sum + (uint64_t)sum / 4 + 65536;
	h->size = rows_size + (plain ? plan->bytes : (uint64_t)sum);
	h->mem = h->size < UINT32_MAX ? mem_get(&e->mem, h->size) : NULL;
	if (!h->mem)
		return -GRANARY_ENOMEM;
	e->held += mem_size(h->size);
	memcpy(h->mem, e->rows, rows_size);
	if (plain)
		hold_lay_out(e, h, plan, rows_size);
	return plain ? 0 : hold_pack(e, h, plan, rows_size);
}

static struct fetch *fetch_new(struct granary_epoch *e)
{
	struct list *at = list_pop(&e->fetches);
	struct fetch *f = at ? container_of(at, struct fetch, link) : calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	list_init(&f->link);
	range_plan_clear(&f->plan);
	f->plan.stream = &e->stream;
	f->op = NULL;
	f->holds_count = 0;
	return f;
}

/* The next block to fetch, its gen planned; NULL: there is none yet. */
static struct hold *hold_next(struct granary_epoch *e, int *err)
{
	*err = 0;
	for (;;) {
		struct gen *g = e->gen_end > e->gen_first ? &e->gens[(e->gen_end - 1) % EPOCH_GENS_MAX] : NULL;
		while (g && g->next < g->count) {
			struct hold *h = &g->holds[g->order[g->next]];
			if (h->state == HOLD_PLANNED)
				return h;
			g->next++;
		}
		if (e->gen_end == e->windows || e->gen_end - e->gen_first >= hold_gens(e))
			return NULL;
		*err = gen_plan(e);
		if (*err < 0)
			return NULL;
	}
}

static size_t hold_guess(const struct granary_epoch *e, const struct hold *h)
{
	const struct snap_manifest *m = &e->snapshot->manifest;

	return (size_t)(m->bytes / m->samples + 1 + 16 * m->fields) * (e->sharing ? h->own_count : h->count);
}

static int fetch_add(struct granary_epoch *e, struct fetch *f, struct hold *h)
{
	uint32_t number = f->holds_count++;

	f->holds[number] = h;
	h->fetch = f;
	h->state = HOLD_COMING;
	return e->sharing ? own_prepare(e, h, &f->plan, number) : hold_prepare(e, h, &f->plan);
}

static bool hold_has_room(const struct granary_epoch *e, const struct hold *h)
{
	return e->held + mem_size(hold_guess(e, h)) <= e->hold_limit;
}

/* More blocks of the gen, up to as many bytes as are worth a request. */
static int fetch_fill(struct granary_epoch *e, struct fetch *f)
{
	struct gen *g = &e->gens[(e->gen_end - 1) % EPOCH_GENS_MAX];
	uint64_t bytes = f->holds[0]->size;
	int err = 0;

	for (; err == 0 && g->next < g->count && f->holds_count < FETCH_HOLDS_MAX && bytes < FETCH_BYTES; g->next++) {
		struct hold *h = &g->holds[g->order[g->next]];
		if (h->state != HOLD_PLANNED)
			continue;
		if (!hold_has_room(e, h))
			break;
		err = fetch_add(e, f, h);
		bytes += h->size;
	}
	return err < 0 ? err : range_merge(&f->plan);
}

static int hold_fetch(struct granary_epoch *e, struct hold *h)
{
	struct fetch *f = fetch_new(e);

	if (!f)
		return -GRANARY_ENOMEM;
	int err = fetch_add(e, f, h);
	if (err == 0 && e->sharing)
		err = fetch_fill(e, f);
	if (err == 0)
		err = range_start(&f->plan, e->snapshot, GRANARY_FOREVER, &e->wake, &f->op);
	if (err < 0) {
		fetch_spare(e, f);
		return err;
	}
	f->bytes = f->plan.bytes;
	e->coming_bytes += f->bytes;
	list_push(&e->coming, &f->link);
	return 0;
}

bool hold_fetch_blocked(const struct granary_epoch *e)
{
	size_t block = (size_t)(gen_bytes(e) / e->window_blocks / e->lanes_count);

	return e->held + mem_size(block + block / 8) > e->hold_limit && list_empty(&e->coming);
}

/* Bytes that may be under way. */
static uint64_t coming_most(const struct granary_epoch *e)
{
	uint64_t most = e->begun ? COMING_MAX : COMING_FIRST;

	most /= e->ranks.spec.ranks / e->lane_step;
	return e->sharing && most < COMING_SHARED ? COMING_SHARED : most;
}

bool hold_fetch_more(struct granary_epoch *e)
{
	bool moved = false;

	while (e->coming_bytes < coming_most(e)) {
		int err;
		struct hold *h = hold_next(e, &err);
		if (err < 0)
			epoch_fail(e, err, "cannot plan a window: %s", error_text(err));
		if (!h || !hold_has_room(e, h))
			break;
		err = hold_fetch(e, h);
		if (err < 0) {
			epoch_fail(e, err, "cannot read block at sample %llu of '%s@%s': %s",
				(unsigned long long)h->first_id,
				e->snapshot->bucket, e->snapshot->name, granary_last_error(e->client));
			break;
		}
		moved = true;
	}
	return moved;
}

/* ---- arriving, being drawn ---- */

static void hold_arrived(struct granary_epoch *e, struct fetch *f, int64_t result)
{
	for (uint32_t u = 0; result > 0 && u < f->plan.units_count; u++)
		if (f->plan.units[u].bad && e->sharing)
			own_bad(f, f->plan.units[u].tag);
		else if (f->plan.units[u].bad)
			((struct hold_row *)(void *)f->holds[0]->mem)[f->plan.units[u].tag].offset = HOLD_BAD;
	for (uint32_t i = 0; i < f->holds_count; i++) {
		f->holds[i]->state = HOLD_HERE;
		if (f->holds[i]->left == 0)
			hold_drop(e, f->holds[i]);
	}
	e->coming_bytes -= f->bytes;
	e->bytes_seen += f->bytes;
	fetch_spare(e, f);
}

static void hold_lost(struct granary_epoch *e, struct fetch *f)
{
	for (uint32_t i = 0; i < f->holds_count; i++)
		hold_drop(e, f->holds[i]);
	e->coming_bytes -= f->bytes;
	fetch_spare(e, f);
}

bool hold_collect(struct granary_epoch *e)
{
	bool moved = false;

	for (struct list *at = e->coming.next, *next; at != &e->coming; at = next) {
		struct fetch *f = container_of(at, struct fetch, link);
		next = at->next;
		if (!granary_op_done(f->op))
			continue;
		int64_t result = granary_wait(f->op, 0);
		if (result < 0)
			epoch_fail(e, (int)result, "cannot read samples of '%s@%s': %s", e->snapshot->bucket,
				e->snapshot->name, granary_op_error(f->op));
		granary_op_free(&f->op);
		if (result >= 0)
			hold_arrived(e, f, result);
		else
			hold_lost(e, f);
		moved = true;
	}
	return moved;
}

uint32_t hold_slot(const struct granary_epoch *e, uint32_t i, uint64_t window, uint64_t slot, uint32_t *sample)
{
	uint32_t cut = window == 0 ? e->lane_cut[i] : 0, n_shift = e->order.block_shift;
	uint64_t block = (slot + cut) >> n_shift;

	*sample = (uint32_t)(block == 0 ? slot : slot + cut - (block << n_shift));
	return i * e->window_blocks + (uint32_t)block;
}

struct hold *hold_of(struct granary_epoch *e, struct order_place at, uint32_t *index)
{
	uint32_t sample;
	uint64_t slot, window;

	if (at.lane % e->lane_step != e->ranks.spec.rank % e->lane_step)
		return NULL; /* of the last round */
	window = order_item_window(&e->order, at.lane, at.item, &slot);
	if (window < e->gen_first || window >= e->gen_end)
		return NULL;
	struct hold *holds = e->gens[window % EPOCH_GENS_MAX].holds;
	struct hold *h = &holds[hold_slot(e, at.lane / e->lane_step, window, slot, &sample)];
	*index = sample;
	return !e->sharing || own_find(h, sample, index) ? h : NULL;
}

bool hold_planned(const struct granary_epoch *e, uint64_t position)
{
	uint64_t span = e->order.spec.window << e->order.block_shift;

	/* In some lanes a window begins up to a block earlier than in others. */
	return e->gen_end == e->windows ||
		(position / e->order.spec.lanes + e->order.spec.block) / span < e->gen_end;
}

void hold_drawn(struct granary_epoch *e, struct hold *h)
{
	bool comes = h->state == HOLD_COMING || (h->state == HOLD_PLANNED && e->sharing); /* others count on it */

	if (h->left > 0 && --h->left == 0 && !comes)
		hold_drop(e, h);
}

void hold_forget(struct granary_epoch *e, uint64_t position)
{
	uint64_t span = e->order.spec.window << e->order.block_shift;

	while (e->gen_first < e->gen_end && position / e->order.spec.lanes >= (e->gen_first + 1) * span) {
		gen_free(e, &e->gens[e->gen_first % EPOCH_GENS_MAX]);
		e->gen_first++;
	}
}
