/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_scan.c -- from the namespace as one view has it to rows of samples: where their bytes
 * are, and their names. Invariants: (1) all that is read comes from build.view; (2) a sample's
 * sequence number is its place in key order, which is the order of `names`; (3) no allocation a
 * file. */
#include "jobs/snapshot_build.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "io/fs.h"
#include "meta/kv.h"
#include "pack/format.h"
#include "tier/packs.h"

enum { EXTENTS_MAX = 1 << 20, HOLE_MAX = 1 << 30, LOOK_EVERY = 4096 };

static void *grow(void *p, uint32_t count, uint32_t *cap, size_t size)
{
	uint32_t wide = *cap ? 2 * *cap : 64;

	if (count < *cap) return p;
	p = realloc(p, wide * size);
	if (p != NULL) *cap = wide;
	return p;
}

/* ---- packs ---- */

static uint32_t slot_of(const struct build *b, uint64_t id)
{
	uint32_t i = (uint32_t)hash_u64(id + 1) & (b->slot_count - 1);

	while (b->slots[i] != 0 && b->packs[b->slots[i] - 1].id != id)
		i = (i + 1) & (b->slot_count - 1);
	return i;
}

static int slots_grow(struct build *b)
{
	uint32_t count = b->slot_count ? 2 * b->slot_count : 1024;

	if (2 * (b->pack_count + 1) <= b->slot_count) return 0;
	free(b->slots);
	b->slots = calloc(count, sizeof(*b->slots));
	if (b->slots == NULL) return -GRANARY_ENOMEM;
	b->slot_count = count;
	for (uint32_t i = 0; i < b->pack_count; i++) b->slots[slot_of(b, b->packs[i].id)] = i + 1;
	return 0;
}

static int pack_add(struct build *b, uint64_t id, uint32_t *out)
{
	struct pack *pack = id == 0 ? NULL : packs_ref(b->s->o.packs, id);
	struct build_pack *wide = grow(b->packs, b->pack_count, &b->pack_cap, sizeof(*wide));

	if (wide != NULL) {
		b->packs = wide;
		b->packs[b->pack_count] =
			(struct build_pack){ id, pack != NULL ? pack_order(pack) : 0 };
		b->slots[slot_of(b, id)] = ++b->pack_count;
		*out = b->pack_count - 1;
	}
	if (pack != NULL)
		packs_unref(b->s->o.packs, pack);
	else if (id != 0)
		return -GRANARY_ECORRUPT; /* a row names a pack that there is none of */
	return wide != NULL ? 0 : -GRANARY_ENOMEM;
}

static int pack_index(struct build *b, uint64_t id, uint32_t *out)
{
	int err;

	if (b->pack_count > 0 && b->packs[b->last_pack].id == id) {
		*out = b->last_pack;
		return 0;
	}
	err = slots_grow(b);
	if (err < 0) return err;
	*out = b->slots[slot_of(b, id)];
	if (*out > 0)
		*out -= 1;
	else
		err = pack_add(b, id, out);
	if (err == 0) b->last_pack = *out;
	return err;
}

/* ---- extents ---- */

int build_extent_add(struct build *b, const struct row_extent *e)
{
	struct row_extent *wide;

	if (b->extent_count >= EXTENTS_MAX) return -GRANARY_ETOOBIG;
	wide = grow(b->extents, b->extent_count, &b->extent_cap, sizeof(*wide));
	if (wide == NULL) return -GRANARY_ENOMEM;
	b->extents = wide;
	b->extents[b->extent_count++] = *e;
	return 0;
}

static int hole_add(struct build *b, uint64_t len)
{
	int err = 0;

	while (err == 0 && len > 0) {
		uint32_t n = len < HOLE_MAX ? (uint32_t)len : HOLE_MAX;

		err = build_extent_add(b, &(struct row_extent){ HOLE, 0, n,
					    crc32c_combine(UINT32_MAX, UINT32_MAX, n), 0 });
		len -= n;
	}
	return err;
}

/* One block of a record, `at` bytes into its data, verified: the disk is asked, past every cache. */
static int block_read(struct build *b, const struct extent *e, uint32_t at, uint32_t len, uint8_t *buf, uint8_t **out)
{
	uint64_t place = e->record + extent_header(e) + at, from = place & ~(uint64_t)(PACK_BLOCK - 1);
	size_t want = ((size_t)(place - from) + len + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK;
	struct packs *packs = b->s->o.packs;
	struct pack *pack = packs_ref(packs, e->pack);
	int64_t n = pack != NULL ? 0 : -GRANARY_ESTALE;

	if (n == 0 && pack_file(pack) == NULL) n = packs_open_file(packs, pack);
	if (n == 0) n = fs_read(pack_file(pack), buf, want, from);
	if (pack != NULL) packs_unref(packs, pack);
	if (n < 0) return (int)n;
	*out = buf + (place - from);
	return (uint64_t)n < place - from + len ? -GRANARY_ECORRUPT : 0;
}

/* The crc of what an extent has of one block: known of all of it, else made of the block's bytes. */
static int block_crc(struct build *b, const struct extent *e, uint32_t i, uint32_t *crc, uint32_t *len)
{
	uint32_t at = (e->cut_before / CRC_BLOCK_SIZE + i) * (uint32_t)CRC_BLOCK_SIZE, stored = extent_stored(e);
	uint32_t end = stored - at < CRC_BLOCK_SIZE ? stored : at + (uint32_t)CRC_BLOCK_SIZE;
	uint32_t lo = at > e->cut_before ? at : e->cut_before;
	uint32_t hi = end < e->cut_before + e->length ? end : e->cut_before + e->length;
	uint8_t *buf, *bytes = NULL;
	int err;

	*len = hi - lo;
	*crc = extent_crc(e, i);
	if (lo == at && hi == end) return 0;
	buf = aligned_alloc(PACK_BLOCK, CRC_BLOCK_SIZE + 2 * PACK_BLOCK);
	if (buf == NULL) return -GRANARY_ENOMEM;
	err = block_read(b, e, at, end - at, buf, &bytes);
	if (err == 0 && crc32c(0, bytes, end - at) != *crc) err = -GRANARY_ECORRUPT;
	if (err == 0) *crc = crc32c(0, bytes + (lo - at), hi - lo);
	free(buf);
	return err;
}

static int whole_crc(struct build *b, const struct extent *e, uint32_t *out)
{
	uint32_t crc, len;
	int err = 0;

	*out = 0;
	for (uint32_t i = 0; i < e->crc_count && err == 0; i++) {
		err = block_crc(b, e, i, &crc, &len);
		if (err == 0) *out = i == 0 ? crc : crc32c_combine(*out, crc, len);
	}
	return err;
}

struct taking {
	struct build *b;
	uint64_t at;
};

static int take_extent(void *arg, const struct extent *e)
{
	struct taking *t = arg;
	uint64_t offset = e->record + e->skip;
	struct row_extent r = { .offset = (uint32_t)offset, .length = e->length };
	int err = e->logical < t->at ? -GRANARY_ECORRUPT : hole_add(t->b, e->logical - t->at);

	if (err < 0) return err;
	t->at = e->logical + e->length;
	if (e->flags & EXTENT_HOLE) return hole_add(t->b, e->length);
	if (offset + e->length > UINT32_MAX) return -GRANARY_ECORRUPT;
	err = pack_index(t->b, e->pack, &r.pack);
	if (err < 0) return err;
	r.unsummed = !extent_is_summed(e);
	if (!r.unsummed) err = whole_crc(t->b, e, &r.crc);
	return err < 0 ? err : build_extent_add(t->b, &r);
}

static int take_all(struct taking *t, const struct object *o)
{
	int err = 0;

	for (uint32_t i = 0; i < o->extent_count && err == 0; i++)
		err = take_extent(t, &o->extents[i]);
	if (err == 0) err = ns_extents_in(t->b->s->o.ns, t->b->view, o, take_extent, t);
	if (err == 0 && t->at > o->size) err = -GRANARY_ECORRUPT;
	return err < 0 ? err : hole_add(t->b, o->size - t->at);
}

int build_take_extents(
	struct build *b, struct slice key, const struct object *o, struct build_field *out)
{
	struct taking t = { .b = b };
	char text[256];
	int err;

	out->first = b->extent_count;
	err = take_all(&t, o);
	if (err == 0 && b->extent_count == out->first) { /* nothing of it is anywhere */
		struct row_extent none = { 0 };

		err = pack_index(b, 0, &none.pack);
		if (err == 0) err = build_extent_add(b, &none);
	}
	out->count = b->extent_count - out->first;
	if (err < 0 && b->m->text[0] == '\0')
		making_fail(b->m, err, "'%s': %s", name_escape(text, sizeof(text), key),
			error_text(err));
	return err;
}

/* ---- samples ---- */

static int name_add(struct build *b, struct slice key)
{
	uint16_t lens[2] = { 0, 0 };
	int err;

	while (lens[0] < b->last_key_len && lens[0] < key.len &&
		b->last_key[lens[0]] == key.p[lens[0]])
		lens[0]++;
	lens[1] = (uint16_t)(key.len - lens[0]);
	err = spool_append(b->names, lens, sizeof(lens));
	if (err == 0) err = spool_append(b->names, key.p + lens[0], lens[1]);
	memcpy(b->last_key + lens[0], key.p + lens[0], lens[1]);
	b->last_key_len = (uint32_t)key.len;
	return err;
}

static int list_add(struct build *b)
{
	int err = 0;

	for (uint32_t i = 0; i < b->manifest.fields && err == 0; i++) {
		const struct build_field *f = &b->fields[i];

		err = spool_append(b->lists, &f->count, sizeof(f->count));
		if (err == 0)
			err = spool_append(
				b->lists, &b->extents[f->first], f->count * sizeof(*b->extents));
	}
	return err;
}

static void count_sample(struct build *b)
{
	struct snap_manifest *m = &b->manifest;
	uint64_t size = 0;

	for (uint32_t i = 0; i < b->extent_count; i++) size += b->extents[i].length;
	m->samples++;
	m->bytes += size;
	m->histogram[size == 0 ? 0 : 63 - __builtin_clzll(size)]++;
	if (size < m->smallest || m->samples == 1) m->smallest = size;
	if (size > m->largest) m->largest = size;
}

/* By its first bytes that are anywhere. */
int build_place(struct build *b, const struct row_extent *list, uint32_t count, struct sort_row *row)
{
	const struct row_extent *first = NULL;
	uint32_t pack;
	int err = 0;

	for (uint32_t i = 0; i < count && first == NULL; i++)
		if (list[i].pack != HOLE) first = &list[i];
	if (first != NULL)
		pack = first->pack;
	else
		err = pack_index(b, 0, &pack);
	if (err < 0) return err;
	row->key[0] = b->packs[pack].order;
	row->key[1] = (uint64_t)pack << 32 | (first != NULL ? first->offset : 0);
	return 0;
}

int build_sample(struct build *b, const struct slice *keys)
{
	struct sort_row row = { .value = { 0, b->manifest.samples << DIR_BITS | b->dir_hash } };
	const struct row_extent *first = b->extents;
	int err = build_place(b, b->extents, b->extent_count, &row);

	if (err < 0) return err;
	if (b->split == NULL && b->manifest.fields == 1 && b->extent_count == 1 && first->pack != HOLE &&
		!first->unsummed) {
		row.value[0] = (uint64_t)first->length << 32 | first->crc;
	} else {
		row.value[0] = spool_size(b->lists);
		row.value[1] |= ROW_LISTED;
		err = list_add(b);
	}
	if (err == 0 && b->split != NULL) err = build_split_names(b, keys);
	for (uint32_t i = 0; i < b->manifest.fields && b->split == NULL && err == 0; i++)
		err = name_add(b, keys[i]);
	if (err == 0) err = sorter_add(b->rows, &row);
	count_sample(b);
	b->extent_count = 0;
	return err;
}

void build_note_directory(struct build *b, struct slice dir)
{
	b->dir_hash = (uint32_t)(hash_content(dir.p, dir.len).lo & ((1u << DIR_BITS) - 1));
}

/* Keys come depth first: a directory was met before if its path is still among those above. */
void build_count_directory(struct build *b, struct slice key)
{
	struct slice dir, leaf;
	uint32_t common = 0;

	key_split(key, &dir, &leaf);
	if (b->dir_depth > 0 && dir.len == b->dir_len &&
		(dir.len == 0 || memcmp(dir.p, b->dir_key, dir.len) == 0) &&
		b->dir_lens[b->dir_depth - 1] == b->dir_len)
		return;
	while (common < b->dir_len && common < dir.len && b->dir_key[common] == dir.p[common])
		common++;
	while (b->dir_depth > 0 && b->dir_lens[b->dir_depth - 1] > common) b->dir_depth--;
	if (b->dir_depth == 0 || b->dir_lens[b->dir_depth - 1] != dir.len) {
		b->dir_lens[b->dir_depth++] = (uint32_t)dir.len;
		b->manifest.directories++;
	}
	memcpy(b->dir_key + common, dir.p + common, dir.len - common);
	b->dir_len = (uint32_t)dir.len;
	build_note_directory(b, dir);
}

/* ---- the walk ---- */

/* The entry of empty name that a directory has which was made by name: no sample. */
bool build_is_marker(struct slice key, const struct object *o)
{
	return o->is_dir || (o->size == 0 && key.len > 0 && key.p[key.len - 1] == '/');
}

static bool is_wanted(const struct build *b, struct slice key)
{
	char text[KEY_LEN_MAX + 1];
	size_t from = b->m->prefix.len;

	if (b->o->include_count == 0 && b->o->exclude_count == 0) return true;
	memcpy(text, key.p + from, key.len - from);
	text[key.len - from] = '\0';
	return build_options_want(b->o, text);
}

static int visit(void *arg, struct slice key, const struct object *o)
{
	struct build *b = arg;
	int err;

	if (++b->scanned % LOOK_EVERY == 0 &&
		atomic_load_explicit(&b->s->stopping, memory_order_relaxed))
		return -GRANARY_ESHUTDOWN;
	if (build_is_marker(key, o) || !object_has_bytes(o) || !is_wanted(b, key)) return 0;
	if (b->split != NULL) return build_split_file(b, key, o);
	if (b->o->group) return build_group_file(b, key, o);
	err = build_take_extents(b, key, o, &b->fields[0]);
	if (err < 0) return err;
	build_count_directory(b, key);
	return build_sample(b, &key);
}

int build_scan(struct build *b)
{
	bool groups = b->o->group && b->split == NULL;
	int err = groups ? build_group_begin(b) : 0;

	if (err == 0) err = ns_scan(b->s->o.ns, b->view, b->m->bucket, b->m->prefix, visit, b);
	if (err == 0 && groups) err = build_group_end(b);
	return err;
}
