/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_build.c -- makes the files of one snapshot: a view, a scan of it, then a page a pack in
 * pack order, names pages, the manifest. Invariants: (1) memory: a few fixed tables, one page, a
 * batch of finished ones, 40 bytes a page; (2) a page's rows come in the order of their addresses,
 * so the same rows give the same page. */
#include "jobs/snapshot_build.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/order.h"
#include "common/snap_cut.h"
#include "jobs/aside.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "tier/copy.h"
#include "tier/packs.h"

enum {
	MEMORY_DEFAULT = 16 * 1024 * 1024,
	SPOOL_MEMORY = 1024 * 1024,
	BATCH_BYTES = 8 * 1024 * 1024,
	BATCH_COUNT = 256,
	LIST_EXTENTS_MAX = 1 << 20,
	MIX_BATCH = 256,
};
#define MIX_GOOD 0.9 /* of the directories that a batch in the order `exact` has */

int making_fail(struct snapshot_making *m, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(m->text, sizeof(m->text), fmt, args);
	va_end(args);
	return err;
}

void making_warn(struct snapshot_making *m, const char *fmt, ...)
{
	size_t at = strlen(m->warnings), left = sizeof(m->warnings) - at;
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(m->warnings + at, left, fmt, args);
	va_end(args);
	if (n < 0 || (size_t)n + 1 >= left)
		m->warnings[at] = '\0'; /* no room: left out */
	else
		memcpy(m->warnings + at + n, "\n", 2);
}

/* ---- finished files, put in batches ---- */

struct batch {
	struct snapshots *s;
	struct object_put items[BATCH_COUNT];
	uint32_t count;
	size_t bytes;
};
struct output {
	struct build *b;
	struct batch batches[2]; /* one is put while the other fills */
	uint32_t turn;
	struct sorter *slots; /* key 0: sequence; value: pack, slot */
	struct snap_page_builder *page;
	uint32_t page_pack; /* of build.packs */
	uint64_t page_bytes;
	struct snap_extent *list;
	uint32_t list_cap;
};

static void batch_clear(struct batch *k)
{
	for (uint32_t i = 0; i < k->count; i++) free(k->items[i].bytes);
	k->count = 0;
	k->bytes = 0;
}

static int batch_put(void *arg)
{
	struct batch *k = arg;
	int err = k->count > 0 ? objects_put(k->s, k->items, k->count) : 0;

	batch_clear(k);
	return err;
}

static int batch_flush(struct output *out)
{
	int err = aside_run(out->b->aside, batch_put, &out->batches[out->turn]);

	if (err == 0) out->turn ^= 1;
	return err;
}

/* Takes the bytes over. */
static int batch_add(
	struct output *out, uint8_t *bytes, size_t len, struct hash128 hash, bool is_manifest)
{
	struct batch *k = &out->batches[out->turn];

	k->items[k->count++] = (struct object_put){
		.hash = hash, .bytes = bytes, .len = len, .is_manifest = is_manifest
	};
	k->bytes += len;
	if (atomic_load(&out->b->s->stopping)) return -GRANARY_ESHUTDOWN;
	return k->count == BATCH_COUNT || k->bytes >= BATCH_BYTES ? batch_flush(out) : 0;
}

/* ---- data pages ---- */

static int page_end(struct output *out)
{
	struct snap_manifest *m = &out->b->manifest;
	struct snap_page_ref ref = { .pack = out->b->packs[out->page_pack].id,
		.bytes = out->page_bytes };
	uint8_t *bytes;
	size_t len;
	int err;

	if (out->page == NULL) return 0;
	if (m->page_count == out->b->page_cap) {
		uint32_t cap = out->b->page_cap ? 2 * out->b->page_cap : 64;
		struct snap_page_ref *wide = realloc(m->pages, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		m->pages = wide;
		out->b->page_cap = cap;
	}
	ref.samples = snap_page_builder_samples(out->page);
	err = snap_page_finish(out->page, &bytes, &len, &ref.hash);
	snap_page_builder_free(&out->page);
	if (err < 0) return err;
	ref.size = (uint32_t)len;
	m->pages[m->page_count++] = ref;
	return batch_add(out, bytes, len, ref.hash, false);
}

static int page_begin(struct output *out, uint32_t pack)
{
	int err = page_end(out);

	if (err < 0) return err;
	out->page_pack = pack;
	out->page_bytes = 0;
	out->page = snap_page_builder_new(out->b->packs[pack].id, out->b->manifest.fields);
	return out->page != NULL ? 0 : -GRANARY_ENOMEM;
}

static struct snap_extent extent_of(const struct build *b, const struct row_extent *e)
{
	return (struct snap_extent){ e->pack == HOLE ? 0 : b->packs[e->pack].id, e->offset,
		e->length, e->crc, e->unsummed != 0 };
}

static int list_room(struct output *out, uint32_t count)
{
	struct snap_extent *wide;

	if (count <= out->list_cap) return 0;
	if (count > LIST_EXTENTS_MAX) return -GRANARY_ECORRUPT;
	wide = realloc(out->list, count * sizeof(*wide));
	if (wide == NULL) return -GRANARY_ENOMEM;
	out->list = wide;
	out->list_cap = count;
	return 0;
}

/* One field out of `lists`. */
static int field_add(struct output *out, uint64_t *at)
{
	struct build *b = out->b;
	uint32_t count;
	uint8_t flags = b->split != NULL ? SNAP_ROW_PART : 0;
	int err = spool_read(b->lists, *at, &count, sizeof(count));

	*at += sizeof(count);
	if (err == 0) err = list_room(out, count);
	for (uint32_t i = 0; i < count && err == 0; i++, *at += sizeof(struct row_extent)) {
		struct row_extent e;

		err = spool_read(b->lists, *at, &e, sizeof(e));
		out->list[i] = extent_of(b, &e);
		if (e.unsummed) flags |= SNAP_ROW_UNSUMMED;
		out->page_bytes += e.length;
	}
	return err < 0 ? err
		       : snap_page_add(out->page, out->list, count, flags);
}

/* Its number in the page goes where its names are found. */
static int slot_add(struct output *out, const struct sort_row *row, uint64_t names_at, uint32_t slot)
{
	struct build *b = out->b;
	uint64_t pack = b->packs[row->key[1] >> 32].id;
	struct sort_row by_sequence = { .key = { row->value[1] & ~ROW_LISTED }, .value = { pack, slot } };

	if (b->split != NULL) return build_split_slot(b, names_at, pack, slot);
	return sorter_add(out->slots, &by_sequence);
}

static int sample_add(struct output *out, const struct sort_row *row)
{
	struct build *b = out->b;
	uint32_t slot = snap_page_builder_samples(out->page);
	uint64_t at = row->value[0];
	int err = 0;

	if ((row->value[1] & ROW_LISTED) == 0) {
		struct snap_extent e = { b->packs[row->key[1] >> 32].id, (uint32_t)row->key[1],
			(uint32_t)(at >> 32), (uint32_t)at, false };

		out->page_bytes += e.length;
		err = snap_page_add(out->page, &e, 1, 0);
		return err < 0 ? err : slot_add(out, row, 0, slot);
	}
	for (uint32_t i = 0; i < b->manifest.fields && err == 0; i++) err = field_add(out, &at);
	return err < 0 ? err : slot_add(out, row, at, slot);
}

static int pages_write(struct output *out)
{
	struct build *b = out->b;
	struct sort_row row;
	uint32_t dir, last_dir = UINT32_MAX;
	int more, err = sorter_finish(b->rows);

	while (err == 0 && (more = sorter_next(b->rows, &row)) != 0) {
		uint32_t pack = (uint32_t)(row.key[1] >> 32);

		err = more;
		if (err > 0)
			err = out->page == NULL || pack != out->page_pack ? page_begin(out, pack)
									  : 0;
		if (err < 0) break;
		dir = (uint32_t)row.value[1] & ((1u << DIR_BITS) - 1);
		b->dir_runs += dir != last_dir;
		last_dir = dir;
		err = sample_add(out, &row);
	}
	if (err == 0) err = page_end(out);
	sorter_free(&b->rows);
	return err;
}

/* ---- names pages ---- */

struct names_cut {
	struct snap_cut cut;
	uint32_t entries;
	struct slice first;
};

static int names_end(struct output *out, struct snap_names_builder *nb, struct names_cut *c)
{
	struct snap_manifest *m = &out->b->manifest;
	struct snap_names_ref ref = { .entries = c->entries, .first = c->first };
	uint8_t *bytes;
	size_t len;
	int err;

	if (c->entries == 0) return 0;
	if (m->names_count == out->b->names_cap) {
		uint32_t cap = out->b->names_cap ? 2 * out->b->names_cap : 64;
		struct snap_names_ref *wide = realloc(m->names, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		m->names = wide;
		out->b->names_cap = cap;
	}
	err = snap_names_finish(nb, &bytes, &len, &ref.hash);
	if (err < 0) return err;
	ref.size = (uint32_t)len;
	m->names[m->names_count++] = ref;
	c->first = slice_of(NULL, 0);
	c->entries = 0;
	return batch_add(out, bytes, len, ref.hash, false);
}

static int name_read(struct build *b, uint64_t *at)
{
	uint16_t lens[2];
	int err = spool_read(b->names, *at, lens, sizeof(lens));

	if (err < 0 || lens[0] + lens[1] > KEY_LEN_MAX) return err < 0 ? err : -GRANARY_EIO;
	err = spool_read(b->names, *at + sizeof(lens), b->last_key + lens[0], lens[1]);
	b->last_key_len = lens[0] + lens[1];
	*at += sizeof(lens) + lens[1];
	return err;
}

static int name_put(struct output *out, struct snap_names_builder *nb, struct names_cut *c,
	const struct snap_name *n)
{
	struct slice by = out->b->split != NULL ? build_split_path(out->b, n->key) : n->key;
	int err = 0;

	if (c->entries > 0 && n->field == 0 && snap_cut_before(&c->cut, by, snap_names_builder_size(nb)))
		err = names_end(out, nb, c);
	if (err < 0) return err;
	if (c->entries == 0) {
		uint8_t *first = malloc(n->key.len);

		if (first == NULL) return -GRANARY_ENOMEM;
		memcpy(first, n->key.p, n->key.len);
		c->first = slice_of(first, n->key.len);
	}
	snap_cut_pass(&c->cut, by, snap_names_builder_size(nb));
	c->entries++;
	return snap_names_add(nb, n);
}

/* Names of parts come sorted by themselves. */
static int names_of_parts(struct output *out, struct snap_names_builder *nb, struct names_cut *c)
{
	struct build *b = out->b;
	struct snap_name n;
	int more = 0, err = build_split_sort(b);

	while (err == 0 && (more = build_split_name(b, &n)) > 0) {
		if (n.field == 0) build_count_directory(b, n.key);
		err = name_put(out, nb, c, &n);
	}
	return err < 0 ? err : more;
}

static int names_of_files(struct output *out, struct snap_names_builder *nb, struct names_cut *c)
{
	struct build *b = out->b;
	struct sort_row row;
	uint64_t at = 0;
	int more = 0, err = sorter_finish(out->slots);

	while (err == 0 && (more = sorter_next(out->slots, &row)) > 0)
		for (uint32_t i = 0; i < b->manifest.fields && err == 0; i++) {
			struct snap_name n = {
				.pack = row.value[0], .slot = (uint32_t)row.value[1], .field = i
			};

			err = name_read(b, &at);
			n.key = slice_of(b->last_key, b->last_key_len);
			if (err == 0) err = name_put(out, nb, c, &n);
		}
	return err < 0 ? err : more;
}

static int names_write(struct output *out)
{
	struct snap_names_builder *nb = snap_names_builder_new();
	struct names_cut *c = calloc(1, sizeof(*c));
	int err = nb != NULL && c != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0) err = out->b->split != NULL ? names_of_parts(out, nb, c) : names_of_files(out, nb, c);
	if (err == 0) err = names_end(out, nb, c);
	if (c != NULL) free((void *)(uintptr_t)c->first.p);
	free(c);
	snap_names_builder_free(&nb);
	return err;
}

/* ---- the manifest ---- */

/* How many of n equal things are met by so many draws. */
static double distinct(double n, double draws)
{
	double missed = 1;

	for (; draws >= 1; draws--) missed *= 1 - 1 / n;
	return n * (1 - missed);
}

/* A batch of `blocks` draws from the blocks of one window of all lanes, or takes all of several. What it meets there is
 * stretches of neighbours that share a directory, most of them each another one when there are few for a directory. */
static void warn_of_neighbours(struct build *b)
{
	const struct snap_manifest *m = &b->manifest;
	uint64_t all = (m->samples + m->block - 1) / m->block, window = m->window * m->lanes;
	double a_block = (double)m->block * (double)b->dir_runs / (double)m->samples, stretches, exact, mixed;

	if (m->mode != ORDER_BLOCKS || m->directories < 2 || window >= all) return;
	stretches = (double)window * (a_block < 1 ? 1 : a_block);
	if (window * m->block > MIX_BATCH)
		stretches = distinct(stretches, MIX_BATCH);
	else
		stretches *= MIX_BATCH / (double)(window * m->block);
	exact = distinct((double)m->directories, MIX_BATCH);
	mixed = b->dir_runs < 2 * m->directories ? stretches : distinct((double)m->directories, stretches);
	if (mixed >= MIX_GOOD * exact) return;
	making_warn(b->m,
		"neighbours share a directory and the window does not mix them: a batch of %d has samples of about "
		"%.0f directories, in the order exact of %.0f; use a larger --window, more --lanes, or --mode exact",
		MIX_BATCH, mixed, exact);
}

/* In a store of ours alone. What is linked is read object by object, whatever the order. */
static bool is_cold(struct packs *packs, uint64_t id)
{
	struct pack *pack = packs_ref(packs, id);
	bool cold = pack != NULL && !pack_is_hot(pack) && pack_cold(pack) != NULL && !copy_is_linked(pack_cold(pack));

	if (pack != NULL) packs_unref(packs, pack);
	return cold;
}

static bool is_mostly_cold(const struct build *b)
{
	uint64_t cold = 0;

	for (uint32_t i = 0; i < b->manifest.page_count; i++)
		if (is_cold(b->s->o.packs, b->manifest.pages[i].pack)) cold += b->manifest.pages[i].bytes;
	return cold > b->manifest.bytes / 2;
}

static void choose_order(struct build *b)
{
	struct snap_manifest *m = &b->manifest;
	uint64_t mean = m->bytes / m->samples;
	bool cold = is_mostly_cold(b);

	m->mode = b->o->mode != 0 ? b->o->mode : (uint8_t)order_auto(mean, cold);
	order_defaults(m->samples, mean, cold, &m->block, &m->lanes, &m->window);
	if (b->o->block > 0) m->block = b->o->block;
	if (b->o->lanes > 0) m->lanes = b->o->lanes;
	if (b->o->window > 0) m->window = b->o->window;
	warn_of_neighbours(b);
}

static int manifest_write(struct output *out)
{
	struct build *b = out->b;
	struct snap_manifest *m = &b->manifest;
	uint8_t *bytes;
	size_t len;
	int err;

	m->created_ns = b->m->created_ns;
	m->prefix = b->m->prefix;
	m->options = b->m->options;
	choose_order(b);
	err = snap_manifest_encode(m, &bytes, &len, &b->m->manifest);
	if (err == 0) err = batch_add(out, bytes, len, b->m->manifest, true);
	b->m->samples = m->samples;
	b->m->bytes = m->bytes;
	if (err == 0) err = batch_flush(out);
	return err < 0 ? err : aside_wait(b->aside);
}

/* ---- all of it ---- */

static int u64_compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Every pack met is pinned, also one whose samples were left out: the scan does not look back. */
static int result_pins(const struct build *b, struct build_result *out)
{
	out->pins = malloc((b->pack_count + 1) * sizeof(*out->pins));
	if (out->pins == NULL) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < b->pack_count; i++)
		if (b->packs[i].id != 0) out->pins[out->pin_count++] = b->packs[i].id;
	if (out->pin_count > 1) qsort(out->pins, out->pin_count, sizeof(*out->pins), u64_compare);
	return 0;
}

/* What was met has pins in RAM from here on, so others need not wait any longer. */
static void hold_end(struct build *b, struct build_result *out)
{
	for (uint32_t i = 0; i < out->pin_count; i++) packs_pin(b->s->o.packs, out->pins[i], 1);
	packs_unhold(b->s->o.packs);
	out->held = false;
}

static int room(void *arg, uint64_t bytes)
{
	struct snapshots *s = arg;

	return packs_room(s->o.packs, bytes);
}

static int write_all(struct build *b, const struct spool_options *table)
{
	struct output *out = calloc(1, sizeof(*out));
	int err = -GRANARY_ENOMEM;

	if (out == NULL) return err;
	out->b = b;
	out->batches[0].s = out->batches[1].s = b->s;
	out->slots = sorter_new(table);
	if (out->slots != NULL) err = pages_write(out);
	if (err == 0) err = names_write(out);
	if (err == 0) err = manifest_write(out);
	(void)aside_wait(b->aside); /* after an error: it is the one that is known */
	batch_clear(&out->batches[0]);
	batch_clear(&out->batches[1]);
	snap_page_builder_free(&out->page);
	sorter_free(&out->slots);
	free(out->list);
	free(out);
	return err;
}

static void build_release(struct build *b)
{
	for (uint32_t i = 0; i < b->manifest.names_count; i++)
		free((void *)(uintptr_t)b->manifest.names[i].first.p);
	free(b->manifest.names);
	free(b->manifest.pages);
	sorter_free(&b->rows);
	aside_free(&b->aside);
	spool_free(&b->lists);
	spool_free(&b->names);
	build_group_free(b);
	build_split_free(b);
	free(b->packs);
	free(b->slots);
	free(b->extents);
	free(b);
}

static int build_run(struct build *b, struct build_result *out)
{
	struct snapshots *s = b->s;
	struct spool_options table = { .fs = s->o.fs,
		.memory = s->o.memory > 0 ? s->o.memory : MEMORY_DEFAULT,
		.room = room,
		.arg = s }, text = table;
	int err;

	b->aside = table.aside = aside_new(!s->o.simulated);
	if (b->aside == NULL) return -GRANARY_ENOMEM;
	text.memory = table.memory < SPOOL_MEMORY ? table.memory : SPOOL_MEMORY;
	b->rows = sorter_new(&table);
	b->lists = spool_new(&text);
	b->names = spool_new(&text);
	b->view = kv_snapshot_new(s->o.kv);
	if (b->rows == NULL || b->lists == NULL || b->names == NULL || b->view == NULL)
		return -GRANARY_ENOMEM;
	err = b->o->split.kind != SPLIT_NONE ? build_split_new(b, &table) : 0;
	if (err == 0) err = build_scan(b);
	kv_snapshot_free(s->o.kv, &b->view);
	if (err == 0) err = result_pins(b, out);
	if (err == 0) hold_end(b, out);
	if (err == 0 && b->split != NULL) err = build_split_read(b);
	if (err == 0 && b->manifest.samples == 0)
		return making_fail(b->m, -GRANARY_ENOTFOUND, "%s", b->split != NULL
			? "no file is below the prefix, or none has a sample"
			: "no file is below the prefix, or none is wanted");
	b->last_key_len = 0;
	return err < 0 ? err : write_all(b, &table);
}

int snapshot_build(struct snapshots *s, struct snapshot_making *m, const struct build_options *o,
	struct build_result *out)
{
	struct build *b = calloc(1, sizeof(*b));
	int err;

	if (b == NULL) return -GRANARY_ENOMEM;
	b->s = s;
	b->m = m;
	b->o = o;
	b->manifest.fields = 1;
	err = build_run(b, out);
	if (b->view != NULL) kv_snapshot_free(s->o.kv, &b->view);
	build_release(b);
	return err;
}
