/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_hold.c -- the order `blocks`: blocks of a rank's windows (epoch_gen.c) are read in the order of the disk, whole
 * where it takes all of them, else its own samples of them (epoch_own.c), and held while their samples are drawn; the
 * windows that come next are read while these are consumed.
 *
 * PLANNED -> COMING  hold_fetch_more()  there was room; its range requests are under way, its rows are laid out
 *         -> HERE    hold_collect()     all came, verified; rows that are bad are marked
 *         -> GONE    hold_drawn()       its last sample was drawn, or hold_forget(): its windows are past
 * PLANNED -> NEVER   hold_plan()        not held, because the budget is too small for all: read sample by sample
 */
#include "epoch_priv.h"

#include <stdlib.h>

#include "common/clock.h"

enum {
	COMING_MAX = 32 * 1024 * 1024, /* bytes under way: enough for the line, and single samples need not wait long */
	COMING_SHARED = 1024 * 1024,    /* at least, of a rank that shares its lanes */
	FETCH_BYTES = 256 * 1024,       /* of blocks that are asked for together, where a rank has a part of each */
	COMING_FIRST = 2 * 1024 * 1024, /* before the first batch, which comes sample by sample */
};

int hold_setup(struct granary_epoch *e)
{
	uint64_t need = gens_need(e) + 1;

	e->rows = calloc(e->order.spec.block * e->fields, sizeof(*e->rows));
	if (!e->rows)
		return -GRANARY_ENOMEM;
	e->hold_share = e->hold_limit >= need ? 65536 : (uint64_t)((double)e->hold_limit / (double)need * 65536);
	e->early_left = gens_window_bytes(e) / 32;
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

void hold_abandon(struct granary_epoch *e, struct hold *h)
{
	if (h->fetch) {
		read_end(e, &h->fetch->read);
		e->coming_bytes -= h->fetch->bytes;
		fetch_spare(e, h->fetch);
	}
	hold_drop(e, h);
}

void hold_release(struct granary_epoch *e)
{
	gens_release(e);
	for (struct list *at; (at = list_pop(&e->fetches)) != NULL;) {
		struct fetch *f = container_of(at, struct fetch, link);
		range_plan_release(&f->read.plan);
		free(f);
	}
	free(e->rows);
	free(e->own_parts);
}

/* ---- fetching ---- */

static struct granary_snapshot *hold_snapshot(const struct granary_epoch *e, const struct hold *h)
{
	return e->parts[h->part].snapshot;
}

uint64_t block_sample_id(const struct granary_epoch *e, const struct hold *h, uint32_t sample)
{
	const struct subset *subset = e->parts[h->part].subset;
	uint64_t id = sample < h->count_first ? h->first_id + sample : sample - h->count_first;

	return subset ? subset_id(subset, id) : id;
}

uint64_t hold_sample_id(const struct granary_epoch *e, const struct hold *h, uint32_t index)
{
	return block_sample_id(e, h, h->own ? h->own[index] : index);
}

const struct hold_row *hold_rows(const struct granary_epoch *e, const struct hold *h, uint32_t index)
{
	return (const struct hold_row *)(const void *)h->mem + (size_t)index * e->fields;
}

static int64_t hold_measure_rows(struct granary_epoch *e, const struct hold *h, struct range_plan *plan, bool *plain,
	struct page_cursor *c)
{
	uint32_t fields = e->fields, at = 0;
	uint64_t sum = 0;
	struct snap_row row;

	*plain = true;
	for (uint32_t i = 0; i < h->count; i++) {
		uint64_t id = hold_sample_id(e, h, i);
		int err = page_cursor_to(hold_snapshot(e, h), c, id);
		if (err < 0)
			return err;
		for (uint32_t f = 0; f < fields; f++, at++) {
			err = range_row(hold_snapshot(e, h), c->page, id - c->first, f, &row);
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

	page_cursor_end(hold_snapshot(e, h), &c);
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
	uint32_t fields = e->fields;
	struct hold_row *rows = (struct hold_row *)(void *)h->mem;
	struct page_cursor c = { .page = NULL };
	int err = 0;

	range_plan_clear(plan);
	for (uint32_t i = 0; i < h->count * fields; i++)
		rows[i].offset += (uint32_t)rows_size;
	for (uint32_t i = 0; err == 0 && i < h->count; i++) {
		uint32_t before = plan->units_count;
		err = range_add_sample(plan, hold_snapshot(e, h), &c, hold_sample_id(e, h, i),
			h->mem + rows[(size_t)i * fields].offset);
		for (uint32_t u = before; u < plan->units_count; u++)
			plan->units[u].tag = i * fields;
	}
	page_cursor_end(hold_snapshot(e, h), &c);
	return err < 0 ? err : range_merge(plan);
}

static int hold_prepare(struct granary_epoch *e, struct hold *h, struct range_plan *plan)
{
	size_t rows_size = (size_t)h->count * e->fields * sizeof(struct hold_row);
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

static struct fetch *fetch_new(struct granary_epoch *e, const struct gen *g)
{
	struct list *at = list_pop(&e->fetches);
	struct fetch *f = at ? container_of(at, struct fetch, link) : calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	list_init(&f->link);
	range_plan_clear(&f->read.plan);
	f->read.plan.stream = &g->stream;
	f->read.op = NULL;
	f->holds_count = 0;
	return f;
}

static size_t hold_guess(const struct granary_epoch *e, const struct hold *h)
{
	const struct snap_manifest *m = &hold_snapshot(e, h)->manifest;

	return (size_t)(m->bytes / m->samples + 1 + 16 * m->fields) * (h->own ? h->own_count : h->count);
}

static int fetch_add(struct granary_epoch *e, struct fetch *f, struct hold *h)
{
	uint32_t number = f->holds_count++;

	f->holds[number] = h;
	h->fetch = f;
	h->state = HOLD_COMING;
	return h->own ? own_prepare(e, h, &f->read.plan, number) : hold_prepare(e, h, &f->read.plan);
}

static bool hold_has_room(const struct granary_epoch *e, const struct hold *h)
{
	return e->held + mem_size(hold_guess(e, h)) <= e->hold_limit;
}

/* More blocks of the gen, up to as many bytes as are worth a request. */
static int fetch_fill(struct granary_epoch *e, struct fetch *f, struct gen *g)
{
	uint64_t bytes = f->holds[0]->size;
	int err = 0;

	for (; err == 0 && g->next < g->count && f->holds_count < FETCH_HOLDS_MAX && bytes < FETCH_BYTES &&
		gen_due(e, &e->held_parts[f->holds[0]->part], g); g->next++) {
		struct hold *h = &g->holds[g->sorted[g->next]];
		if (h->state != HOLD_PLANNED)
			continue;
		if (!hold_has_room(e, h))
			break;
		err = fetch_add(e, f, h);
		bytes += h->size;
	}
	return err < 0 ? err : range_merge(&f->read.plan);
}

static int hold_fetch(struct granary_epoch *e, struct gen *g, struct hold *h)
{
	struct fetch *f = fetch_new(e, g);

	if (!f)
		return -GRANARY_ENOMEM;
	int err = fetch_add(e, f, h);
	if (err == 0 && g->picked)
		err = fetch_fill(e, f, g);
	if (err == 0)
		err = read_start(e, &f->read, hold_snapshot(e, h));
	if (err < 0) {
		fetch_spare(e, f);
		return err;
	}
	f->bytes = f->read.plan.bytes;
	e->coming_bytes += f->bytes;
	list_push(&e->coming, &f->link);
	return 0;
}

bool hold_fetch_blocked(const struct granary_epoch *e)
{
	return e->hold_full && list_empty(&e->coming);
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
		struct gen *g;
		int err;
		struct hold *h = hold_next(e, &g, &err);
		if (err < 0)
			epoch_fail(e, err, "cannot plan a window: %s", error_text(err));
		e->hold_full = h && !hold_has_room(e, h);
		if (!h || e->hold_full)
			break;
		err = hold_fetch(e, g, h);
		if (err < 0) {
			epoch_fail(e, err, "cannot read block at sample %llu of '%s@%s': %s",
				(unsigned long long)h->first_id,
				hold_snapshot(e, h)->bucket, hold_snapshot(e, h)->name, granary_last_error(e->client));
			break;
		}
		moved = true;
	}
	return moved;
}

/* ---- arriving, being drawn ---- */

static void hold_arrived(struct granary_epoch *e, struct fetch *f, int64_t result)
{
	for (uint32_t u = 0; result > 0 && u < f->read.plan.units_count; u++)
		if (f->read.plan.units[u].bad)
			own_bad(f, f->read.plan.units[u].tag);
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
		int err;
		if (!read_came(&f->read) || read_goes_on(e, &f->read, hold_snapshot(e, f->holds[0]), &err))
			continue;
		int64_t result = err < 0 ? err : read_result(&f->read);
		if (result < 0)
			epoch_fail(e, (int)result, "cannot read samples of '%s@%s': %s",
				hold_snapshot(e, f->holds[0])->bucket, hold_snapshot(e, f->holds[0])->name,
				read_error(e, &f->read));
		granary_op_free(&f->read.op);
		if (result >= 0) {
			range_keep(&f->read.plan, hold_snapshot(e, f->holds[0]));
			hold_arrived(e, f, result);
		} else {
			hold_lost(e, f);
		}
		moved = true;
	}
	return moved;
}

void hold_drawn(struct granary_epoch *e, struct hold *h)
{
	bool comes = h->state == HOLD_COMING || (h->state == HOLD_PLANNED && e->sharing); /* others count on it */

	if (h->left > 0 && --h->left == 0 && !comes)
		hold_drop(e, h);
}
