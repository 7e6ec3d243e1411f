/* SPDX-License-Identifier: Apache-2.0 */
/* ahead_order.c -- an order's positions as times at which pages of a snapshot are used. In `none` and `blocks` by the
 * arithmetic of the order itself, to a window; in `exact` every page is used all the time. */
#include "jobs/ahead.h"

static void use_add(struct page_use *u, uint64_t first, uint64_t last, uint64_t samples)
{
	if (first < u->first) u->first = first;
	if (last > u->last) u->last = last;
	u->left += samples;
}

/* The page that has id. */
static uint32_t page_of(const uint64_t *starts, uint32_t count, uint64_t id)
{
	uint32_t lo = 0, hi = count;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (starts[mid] <= id)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

struct span { uint64_t first, last; };

static void ids_use(const struct order_piece *piece, struct span when, const uint64_t *starts, uint32_t count,
	struct page_use *out)
{
	uint64_t id = piece->first_id, end = id + piece->count;

	for (uint32_t p = page_of(starts, count, id); id < end && p < count; p++) {
		uint64_t to = starts[p + 1] < end ? starts[p + 1] : end;

		if (to > id) use_add(&out[p], when.first, when.last, to - id);
		id = to > id ? to : id;
	}
}

static void window_uses(const struct order *o, uint32_t lane, uint64_t number, uint64_t position,
	const uint64_t *starts, uint32_t count, struct page_use *out)
{
	struct order_window w = order_window(o, lane, number);
	struct span when = { w.first_item * o->spec.lanes, (w.first_item + w.items) * o->spec.lanes };

	if (when.first < position) when.first = position;
	if (when.last > o->spec.samples) when.last = o->spec.samples;
	if (when.first > when.last) when.first = when.last;
	for (uint64_t b = 0; b < w.blocks; b++) {
		struct order_piece pieces[2];
		unsigned n = order_window_block(o, lane, number, b, pieces);

		for (unsigned i = 0; i < n; i++) ids_use(&pieces[i], when, starts, count, out);
	}
}

static void blocks_uses(const struct order *o, uint64_t position, const uint64_t *starts, uint32_t count,
	struct page_use *out)
{
	for (uint32_t lane = 0; lane < o->spec.lanes; lane++) {
		uint64_t items = order_lane_items(o, lane), windows;
		uint64_t item = position > lane ? (position - lane - 1) / o->spec.lanes + 1 : 0;

		if (item >= items) continue;
		windows = order_lane_windows(o, lane);
		for (uint64_t w = order_item_window(o, lane, item, NULL); w < windows; w++)
			window_uses(o, lane, w, position, starts, count, out);
	}
}

void ahead_order_uses(const struct order *o, uint64_t position, const uint64_t *starts, uint32_t count,
	struct page_use *out)
{
	uint64_t samples = o->spec.samples;

	for (uint32_t p = 0; p < count; p++) out[p] = (struct page_use){ .first = UINT64_MAX };
	if (position >= samples || count == 0) return;
	if (o->spec.mode == ORDER_BLOCKS) {
		blocks_uses(o, position, starts, count, out);
		return;
	}
	for (uint32_t p = 0; p < count; p++) {
		uint64_t from = starts[p], to = starts[p + 1];

		if (o->spec.mode == ORDER_EXACT) {
			double part = (double)(samples - position) / (double)samples;

			use_add(&out[p], position, samples, (uint64_t)((double)(to - from) * part + 0.5));
			continue;
		}
		if (from < position) from = position;
		if (to > from) use_add(&out[p], from, to, to - from);
	}
}
