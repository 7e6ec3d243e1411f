/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_batch.c -- batches: where each sample of one is to come from, its layout, its filling.
 *
 * new      -> LOCATED  batch_locate()  positions, dense ids, the blocks that hold them
 * LOCATED  -> FILLING  batch_fill()    laid out; what no block will bring is under way, straight to its place
 * FILLING  -> ready    batch_finish()  all came; copied from the blocks; what was bad is read again or replaced
 *
 * (1) a row is drawn from its block once, by the batch that it belongs to; padded rows never draw.
 * (2) a row whose block is not coming yet waits for it, unless the first batches would wait for a whole window and few
 *     are ahead, or there is no room for the block: then it is read by itself. Which way a row came never shows in its
 *     bytes. */
#include "epoch_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/id.h"

enum { SUBSTITUTES_MAX = 16, ERRORS_DEFAULT = 100 };

/* ---- batches ---- */

static size_t align8(size_t n) { return (n + 7) & ~(size_t)7; }

static struct batch *batch_new(const struct granary_epoch *e)
{
	size_t count = e->ranks.spec.batch, rows = count * e->fields;
	struct batch *b = calloc(1, align8(sizeof(*b)) + (2 * rows + 2 * count) * sizeof(uint64_t) +
		count * sizeof(struct row_place) + e->parts_count * sizeof(struct epoch_read) +
		2 * count * sizeof(uint32_t));

	if (!b)
		return NULL;
	list_init(&b->link);
	b->offsets = (uint64_t *)(void *)((char *)b + align8(sizeof(*b)));
	b->sizes = b->offsets + rows;
	b->ids = b->sizes + rows;
	b->positions = b->ids + count;
	b->places = (struct row_place *)(void *)(b->positions + count);
	b->reads = (struct epoch_read *)(void *)(b->places + count);
	b->flags = (uint32_t *)(void *)(b->reads + e->parts_count);
	b->sources = b->flags + count;
	b->parts_count = e->parts_count;
	b->pub = (struct granary_epoch_batch){ .offsets = b->offsets, .sizes = b->sizes, .ids = b->ids,
		.flags = b->flags, .sources = b->sources, .fields = e->fields };
	return b;
}

static void batch_drop(struct granary_epoch *e, struct batch *b)
{
	if (b->data && b->data_lent)
		e->batches_memory.give(e->batches_memory.arg, b->data, b->data_cap);
	else
		mem_put(&e->mem, b->data, b->data_cap);
	b->data = NULL;
	b->data_cap = 0;
}

/* Memory of so many bytes in the place of what it has; false: there is none. The bytes that it has are kept. */
static bool batch_grow(struct granary_epoch *e, struct batch *b, size_t cap)
{
	const struct granary_batch_memory *m = &e->batches_memory;
	uint8_t *data = m->take ? m->take(m->arg, cap) : NULL;
	bool lent = data != NULL;

	if (!data)
		data = mem_get(&e->mem, cap);
	if (!data)
		return false;
	if (b->data)
		memcpy(data, b->data, b->pub.data_size);
	batch_drop(e, b);
	b->pub.data = b->data = data;
	b->data_cap = cap;
	b->data_lent = lent;
	e->filled_bytes += mem_size(cap);
	return true;
}

void batch_free(struct granary_epoch *e, struct batch *b)
{
	for (uint32_t i = 0; i < e->parts_count; i++) {
		read_end(e, &b->reads[i]);
		range_plan_release(&b->reads[i].plan);
	}
	batch_drop(e, b);
	free(b);
}

void batch_recycle(struct granary_epoch *e, struct batch *b)
{
	batch_drop(e, b);
	list_push(&e->spare, &b->link);
}

static struct batch *batch_take(struct granary_epoch *e)
{
	struct list *at = list_pop(&e->spare);
	struct batch *b = at ? container_of(at, struct batch, link) : batch_new(e);

	if (!b)
		return NULL;
	list_init(&b->link);
	for (uint32_t i = 0; i < e->parts_count; i++) {
		range_plan_clear(&b->reads[i].plan);
		b->reads[i].plan.stream = &e->stream;
	}
	b->located = 0;
	b->filling = false;
	b->direct = 0;
	b->bytes_read = b->samples_read = b->checksum = 0;
	b->skipped = 0;
	b->pub.number = epoch_number(e, e->planned);
	b->pub.position = e->ranks.spec.start + b->pub.number * e->ranks.global_batch;
	b->pub.count = order_ranks_rows(&e->ranks, b->pub.number);
	return b;
}

/* ---- locating ---- */

/* Its window will be planned: when there is room, and those that earlier batches draw from are forgotten. */
static bool window_comes(const struct granary_epoch *e, const struct batch *b, uint32_t part)
{
	bool first = e->pipeline.next == &b->link;

	return !hold_fetch_blocked(e) && !(first && gens_full(&e->held_parts[part]));
}

/* False: it must wait for its window to be planned. */
static bool row_locate(struct granary_epoch *e, struct batch *b, uint32_t i)
{
	uint64_t position = order_ranks_position(&e->ranks, b->pub.number, i);
	bool padded = order_ranks_padded(&e->ranks, position), later;

	position = order_ranks_source(&e->ranks, position);
	b->positions[i] = position;
	b->flags[i] = padded ? GRANARY_SAMPLE_PADDED : 0;
	b->places[i] = (struct row_place){ NULL, 0 };
	b->sources[i] = 0;
	if (e->holding && !padded) {
		struct sample_place at = sample_place(e, position);
		struct row_place *p = &b->places[i];
		p->hold = hold_of(e, at, &p->index, &later);
		if (later && window_comes(e, b, at.part))
			return false;
		if (p->hold && p->hold->state != HOLD_GONE) {
			b->sources[i] = at.part;
			b->ids[i] = hold_sample_id(e, p->hold, p->index);
			return true;
		}
		p->hold = NULL;
	}
	b->ids[i] = epoch_at(e, position, &b->sources[i]);
	return true;
}

/* Rows whose block is not coming yet, and of which there is no telling when: in bytes, about. */
static uint64_t rows_unsettled(const struct granary_epoch *e, const struct batch *b)
{
	uint64_t rows = 0;

	for (uint32_t i = 0; i < b->pub.count; i++)
		rows += b->places[i].hold && b->places[i].hold->state == HOLD_PLANNED;
	return rows * e->mean;
}

/* Decides for every row that is not to come from a block. False: it must wait for blocks to be asked for. */
static bool batch_settle(struct granary_epoch *e, struct batch *b)
{
	uint64_t unsettled = rows_unsettled(e, b);

	if (unsettled > 0 && (unsettled > e->early_left || !lead_short(e)) && !hold_fetch_blocked(e))
		return false;
	e->early_left -= unsettled < e->early_left ? unsettled : e->early_left;
	for (uint32_t i = 0; i < b->pub.count; i++) {
		struct row_place *p = &b->places[i];
		if (p->hold && (p->hold->state == HOLD_PLANNED || p->hold->state == HOLD_NEVER)) {
			hold_drawn(e, p->hold);
			p->hold = NULL;
		}
		b->direct += p->hold == NULL;
	}
	return true;
}

/* ---- layout ---- */

static struct granary_snapshot *row_snapshot(const struct granary_epoch *e, const struct batch *b, uint32_t i)
{
	return e->parts[b->sources[i]].snapshot;
}

static int sample_size(struct granary_snapshot *s, uint64_t id, uint64_t *size, uint64_t *sizes)
{
	struct page_cursor c = { .page = NULL };
	int err = range_sample_size(s, &c, id, size, sizes);

	page_cursor_end(s, &c);
	return err;
}

static int sample_add(struct range_plan *p, struct granary_snapshot *s, uint64_t id, uint8_t *dst)
{
	struct page_cursor c = { .page = NULL };
	int err = range_add_sample(p, s, &c, id, dst);

	page_cursor_end(s, &c);
	return err;
}

static int batch_measure(struct granary_epoch *e, struct batch *b)
{
	uint32_t fields = b->pub.fields;
	uint64_t at = 0, size;

	for (uint32_t i = 0; i < b->pub.count; i++) {
		uint64_t *sizes = b->sizes + (size_t)i * fields;
		const struct row_place *p = &b->places[i];
		int err = p->hold ? 0 : sample_size(row_snapshot(e, b, i), b->ids[i], &size, sizes);
		if (err < 0)
			return err;
		for (uint32_t f = 0; f < fields; f++) {
			if (p->hold)
				sizes[f] = hold_rows(e, p->hold, p->index)[f].size;
			b->offsets[(size_t)i * fields + f] = at;
			at += sizes[f];
		}
	}
	b->pub.data_size = at;
	return 0;
}

static int row_plan(struct granary_epoch *e, struct batch *b, uint32_t i)
{
	struct range_plan *plan = &b->reads[b->sources[i]].plan;
	uint32_t before = plan->units_count;
	int err = sample_add(plan, row_snapshot(e, b, i), b->ids[i],
		b->data + b->offsets[(size_t)i * b->pub.fields]);

	for (uint32_t u = before; u < plan->units_count; u++)
		plan->units[u].tag = i;
	return err;
}

static int batch_start(struct granary_epoch *e, struct batch *b)
{
	int err = 0;

	if (b->direct == 0)
		return 0;
	for (uint32_t i = 0; err == 0 && i < b->pub.count; i++)
		if (!b->places[i].hold)
			err = row_plan(e, b, i);
	for (uint32_t p = 0; err == 0 && p < e->parts_count; p++) {
		struct epoch_read *read = &b->reads[p];
		err = range_merge(&read->plan);
		if (err == 0 && read->plan.wants_count > 0)
			err = read_start(e, read, e->parts[p].snapshot);
		e->bytes_seen += read->plan.bytes;
	}
	return err;
}

/* Rows that are read by themselves may lie in any page of the tables: those that are away are loaded together. */
static int batch_pages(struct granary_epoch *e, const struct batch *b)
{
	uint64_t all[ORDER_BATCH_MAX]; /* part, page */
	uint32_t pages[ORDER_BATCH_MAX], count = 0;
	int err = 0;

	for (uint32_t i = 0; i < b->pub.count && b->direct > 0; i++)
		if (!b->places[i].hold)
			all[count++] = (uint64_t)b->sources[i] << 32 |
				snapshot_page_of(row_snapshot(e, b, i), b->ids[i]);
	qsort(all, count, sizeof(all[0]), u64_compare);
	for (uint32_t i = 0, n = 0; i < count && err == 0; i++) {
		if (n == 0 || pages[n - 1] != (uint32_t)all[i])
			pages[n++] = (uint32_t)all[i];
		if (i + 1 < count && all[i + 1] >> 32 == all[i] >> 32)
			continue;
		err = snapshot_pages_load(e->parts[all[i] >> 32].snapshot, pages, n);
		n = 0;
	}
	return err;
}

static int batch_fill(struct granary_epoch *e, struct batch *b)
{
	int err = batch_pages(e, b);

	if (err == 0)
		err = batch_measure(e, b);
	if (err < 0)
		return err;
	if (!batch_grow(e, b, b->pub.data_size + 64))
		return -GRANARY_ENOMEM;
	b->filling = true;
	return batch_start(e, b);
}

/* Is there room to plan one more? One may always be. */
static bool batch_room(const struct granary_epoch *e)
{
	uint64_t count = e->planned - e->seen_taken, bytes = e->filled_bytes - e->seen_taken_bytes;

	if (count == 0)
		return true;
	return count < e->ahead && count < lead_batches(e) && bytes < (e->holding ? e->memory / 4 : e->memory / 2);
}

static bool batch_plan_one(struct granary_epoch *e, struct batch *b)
{
	for (; b->located < b->pub.count; b->located++)
		if (!row_locate(e, b, b->located))
			return false;
	if (e->holding && !batch_settle(e, b))
		return false;
	b->direct = e->holding ? b->direct : b->pub.count;
	int err = batch_fill(e, b);
	if (err < 0)
		epoch_fail(e, err, "cannot read batch %llu of '%s@%s': %s", (unsigned long long)b->pub.number,
			e->bucket, e->name, granary_last_error(e->client));
	return err == 0;
}

bool batch_plan_more(struct granary_epoch *e)
{
	bool moved = false;

	while (e->err == 0) {
		struct batch *last = list_empty(&e->pipeline) ? NULL :
			container_of(e->pipeline.prev, struct batch, link);
		if (!last || last->filling) {
			if (e->planned == e->batches || !batch_room(e))
				break;
			last = batch_take(e);
			if (!last) {
				epoch_fail(e, -GRANARY_ENOMEM, "out of memory");
				break;
			}
			e->planned++;
			list_push(&e->pipeline, &last->link);
		}
		if (!batch_plan_one(e, last))
			break;
		moved = true;
	}
	return moved;
}

/* ---- samples that could not be read ---- */

/* Reads row i by itself, to where it is to be; past the server's cache, which may be what is wrong. */
static int row_read(struct granary_epoch *e, struct batch *b, uint32_t i)
{
	struct granary_snapshot *snapshot = row_snapshot(e, b, i);
	struct range_plan plan = { .stream = &e->stream, .past_cache = true };
	int err = sample_add(&plan, snapshot, b->ids[i], b->data + b->offsets[(size_t)i * b->pub.fields]);

	if (err == 0)
		err = range_run(&plan, snapshot, e->options.stall_timeout_ms);
	e->read_status = 0;
	for (uint32_t w = 0; w < plan.wants_count && e->read_status == 0; w++)
		e->read_status = plan.wants[w].status;
	e->bytes_seen += plan.bytes;
	range_plan_release(&plan);
	return err;
}

/* Which sample takes the place of one that cannot be read: of the position and a number, nothing else
 * (docs/ORDER.md 4.4). */
static uint64_t substitute_id(const struct granary_epoch *e, uint64_t position, uint32_t part, uint32_t number)
{
	const struct order_spec *s = &e->order.spec;
	uint64_t key = order_key_add(order_key_add(order_key_add(1, s->seed), s->epoch), position);

	key = order_key_add(key, number);
	return e->recipe ? subset_id(e->parts[part].subset, key % e->parts[part].subset->samples) :
		order_at(&e->order, key % s->samples);
}

/* The bytes of row i lie elsewhere from now on: behind what there is, in a larger block. */
static int batch_replace(struct granary_epoch *e, struct batch *b, uint32_t i, uint64_t id)
{
	uint64_t *sizes = b->sizes + (size_t)i * b->pub.fields, *offsets = b->offsets + (size_t)i * b->pub.fields, size;
	int err = sample_size(row_snapshot(e, b, i), id, &size, sizes);

	if (err < 0)
		return err;
	e->filled_bytes -= mem_size(b->data_cap);
	if (!batch_grow(e, b, b->pub.data_size + size + 64))
		return -GRANARY_ENOMEM;
	uint64_t at = b->pub.data_size;
	for (uint32_t f = 0; f < b->pub.fields; f++) {
		offsets[f] = at;
		at += sizes[f];
	}
	b->ids[i] = id;
	err = row_read(e, b, i);
	b->pub.data_size += err == 0 ? size : 0;
	return err;
}

static int sample_corrupt(struct granary_epoch *e, struct granary_snapshot *s, uint64_t id, const char *what)
{
	char key[GRANARY_KEY_LEN_MAX + 1] = "";

	if (snapshot_key_of(s, id, key, sizeof(key)) < 0)
		snprintf(key, sizeof(key), "(key not known)");
	epoch_fail(e, -GRANARY_ECORRUPT, "sample %llu of '%s@%s', '%.200s': %s%s%s", (unsigned long long)id, s->bucket,
		s->name, key, e->read_status ? "the server cannot read it: " : "wrong checksum, also when read again",
		e->read_status ? error_text(e->read_status) : "", what);
	return -GRANARY_ECORRUPT;
}

/* In the order of positions: rows of one batch are repaired in any order. */
static void skip_note(struct granary_epoch *e, struct provenance_skip skip)
{
	uint32_t at = e->skips_count;

	if (at == PROVENANCE_SKIPS_MAX)
		return;
	for (; at > 0 && e->skips[at - 1].position > skip.position; at--)
		e->skips[at] = e->skips[at - 1];
	e->skips[at] = skip;
	e->skips_count++;
}

static int row_skip(struct granary_epoch *e, struct batch *b, uint32_t i)
{
	uint32_t most = e->options.max_errors ? e->options.max_errors : ERRORS_DEFAULT;
	struct granary_snapshot *snapshot = row_snapshot(e, b, i);
	uint64_t lost = b->ids[i];
	bool padded = b->flags[i] & GRANARY_SAMPLE_PADDED; /* it is counted where it stands */
	int err = -GRANARY_ECORRUPT;

	if (!padded && e->replaced >= most)
		return sample_corrupt(e, snapshot, lost, "; more than max_errors samples were replaced");
	for (uint32_t n = 0; err == -GRANARY_ECORRUPT && n < SUBSTITUTES_MAX; n++)
		err = batch_replace(e, b, i, substitute_id(e, b->positions[i], b->sources[i], n));
	if (err == -GRANARY_ECORRUPT)
		return sample_corrupt(e, snapshot, lost, ", and so are those that could replace it");
	if (err < 0)
		return err;
	b->flags[i] |= GRANARY_SAMPLE_SKIPPED;
	b->skipped += !padded;
	e->replaced += !padded;
	if (!padded)
		skip_note(e, (struct provenance_skip){ b->positions[i], b->sources[i], lost, b->ids[i] });
	return 0;
}

/* A row that did not come whole: asked for again, then on_error. */
static int row_repair(struct granary_epoch *e, struct batch *b, uint32_t i)
{
	int err = row_read(e, b, i);

	if (err == -GRANARY_ECORRUPT && e->options.on_error == GRANARY_ERROR_SKIP)
		err = row_skip(e, b, i);
	else if (err == -GRANARY_ECORRUPT)
		err = sample_corrupt(e, row_snapshot(e, b, i), b->ids[i], "");
	if (err < 0)
		epoch_fail(e, err, "cannot read sample %llu of '%s@%s': %s", (unsigned long long)b->ids[i],
			row_snapshot(e, b, i)->bucket, row_snapshot(e, b, i)->name, granary_last_error(e->client));
	return err;
}

/* ---- finishing ---- */

bool batch_came(const struct batch *b)
{
	for (uint32_t p = 0; p < b->parts_count; p++)
		if (!read_came(&b->reads[p]))
			return false;
	for (uint32_t i = 0; i < b->pub.count; i++)
		if (b->places[i].hold && b->places[i].hold->state == HOLD_COMING)
			return false;
	return true;
}

/* Copies a row out of its block; false when it is bad there. */
static bool row_copy(struct granary_epoch *e, struct batch *b, uint32_t i)
{
	struct row_place *p = &b->places[i];
	const struct hold_row *rows = hold_rows(e, p->hold, p->index);
	bool good = true;

	for (uint32_t f = 0; f < b->pub.fields; f++) {
		good = good && rows[f].offset != HOLD_BAD;
		if (good && rows[f].size > 0)
			memcpy(b->data + b->offsets[(size_t)i * b->pub.fields + f], p->hold->mem + rows[f].offset,
				rows[f].size);
	}
	return good;
}

static int batch_copy(struct granary_epoch *e, struct batch *b)
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < b->pub.count; i++) {
		struct hold *h = b->places[i].hold;
		bool good = !h || row_copy(e, b, i);
		b->places[i].hold = NULL;
		if (h)
			hold_drawn(e, h);
		if (!good)
			err = row_repair(e, b, i);
	}
	return err;
}

static int read_done(struct granary_epoch *e, struct batch *b, uint32_t part)
{
	struct epoch_read *read = &b->reads[part];
	int64_t bad = read_result(read);
	int err = bad < 0 ? (int)bad : 0;
	uint32_t last = UINT32_MAX;

	if (err < 0)
		epoch_fail(e, err, "cannot read samples of '%s@%s': %s", e->parts[part].snapshot->bucket,
			e->parts[part].snapshot->name, read_error(e, read));
	granary_op_free(&read->op);
	if (err == 0)
		range_keep(&read->plan, e->parts[part].snapshot);
	for (uint32_t u = 0; err == 0 && bad > 0 && u < read->plan.units_count; u++) {
		uint32_t row = read->plan.units[u].tag;
		if (!read->plan.units[u].bad || row == last)
			continue;
		last = row;
		err = row_repair(e, b, row);
	}
	return err;
}

static int batch_direct_done(struct granary_epoch *e, struct batch *b)
{
	int err = 0;

	for (uint32_t p = 0; err == 0 && p < e->parts_count; p++)
		err = read_done(e, b, p);
	return err;
}

static void batch_ready(struct granary_epoch *e, struct batch *b)
{
	uint64_t sum;

	for (uint32_t i = 0; i < b->pub.count; i++) {
		if (b->flags[i] & GRANARY_SAMPLE_PADDED)
			continue;
		if (e->job && range_sample_checksum(row_snapshot(e, b, i), b->ids[i], b->positions[i], &sum) == 0)
			b->checksum += sum;
		b->samples_read++;
		for (uint32_t f = 0; f < b->pub.fields; f++)
			b->bytes_read += b->sizes[(size_t)i * b->pub.fields + f];
	}
	if (e->holding)
		hold_forget(e, b->pub.position + e->ranks.global_batch);
	e->progress_ns = clock_mono_ns();
	e->begun = true;
	pthread_mutex_lock(&e->client->lock);
	list_remove(&b->link);
	list_push(&e->ready, &b->link);
	e->bytes_fetched = e->bytes_seen;
	e->memory_used = e->mem.carved;
	epoch_tell(e);
	pthread_mutex_unlock(&e->client->lock);
}

/* Of one that came: something is asked for again. */
static bool batch_goes_on(struct granary_epoch *e, struct batch *b, int *err)
{
	bool goes_on = false;

	*err = 0;
	for (uint32_t p = 0; *err == 0 && p < e->parts_count; p++)
		goes_on = read_goes_on(e, &b->reads[p], e->parts[p].snapshot, err) || goes_on;
	if (*err < 0)
		epoch_fail(e, *err, "cannot read batch %llu of '%s@%s': %s", (unsigned long long)b->pub.number,
			e->bucket, e->name, granary_last_error(e->client));
	return goes_on;
}

bool batch_finish_more(struct granary_epoch *e)
{
	bool moved = false;

	while (e->err == 0 && !list_empty(&e->pipeline)) {
		struct batch *b = container_of(e->pipeline.next, struct batch, link);
		int err;
		if (!b->filling || !batch_came(b) || batch_goes_on(e, b, &err))
			break;
		/* Rows are copied first: what is read again may move the bytes. */
		if (err == 0)
			err = batch_copy(e, b);
		if (err == 0)
			err = batch_direct_done(e, b);
		if (err < 0)
			break;
		batch_ready(e, b);
		moved = true;
	}
	return moved;
}
