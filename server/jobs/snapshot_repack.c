/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_repack.c -- gives a snapshot packs of its own: its samples are copied in their dense order, its pages and
 * names made again, and one transaction changes its row and the pins of both sides.
 *
 * Invariants: (1) a byte is copied only after it was compared with the checksum of its row, and a row is written only
 * after its record was flushed and read back; (2) samples, their order and their number stay, and so does the identity:
 * the new manifest has that of the old one in it; (3) until the transaction nothing points at what was made, and after
 * it nothing of the snapshot points at the old: whatever moment it is stopped at, one of both is whole; (4) new packs
 * have a pin in RAM as long as no row has one; when there will be none they are dead and go like others. */
#include "jobs/snapshot_repack.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/snap.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "io/mem.h"
#include "jobs/pack_source.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "pack/format.h"
#include "pack/writer.h"
#include "tier/packs.h"

enum { ATTRS_MAX = 32, RECORD_ROWS_MAX = 64 * 1024, HEADER_MAX = 64 * 1024, BATCH_BYTES = 16 * 1024 * 1024 };
enum { RECORD_ROOM = EXTENT_LEN_MAX + HEADER_MAX };

struct piece { /* of a row */
	struct snap_extent at; /* pack 0: a hole; while it is not placed, offset is that in the record's data */
	bool placed;
};
struct moved_row {
	uint32_t first, count, field; /* pieces */
	uint8_t flags;
	bool ended;
};

struct repack {
	struct snapshots *s;
	struct snapshot_making *m;
	uint64_t id; /* of the snapshot: group and object of the records */
	uint64_t bucket, logical;
	uint8_t *bytes; /* of the old manifest */
	struct snap_manifest old, fresh;
	struct pack_source *source;
	/* the record being filled, then written: header and data */
	uint8_t *data, *out, *back; /* EXTENT_LEN_MAX; RECORD_ROOM */
	uint32_t fill;
	struct piece *pieces;
	uint32_t piece_count, piece_cap;
	struct moved_row *rows;
	uint32_t row_count, row_cap;
	/* the pack being filled */
	struct pack *target;
	uint64_t target_end, records, total;
	uint64_t *pins; /* packs made, in their order, which is that of their ids */
	uint32_t pin_count, pin_cap;
	/* the page being filled */
	struct snap_page_builder *page;
	uint64_t page_pack, page_bytes;
	uint32_t page_cap;
	struct snap_extent *list;
	uint32_t list_cap;
	struct object_put puts[64];
	uint32_t put_count;
	size_t put_bytes;
	uint64_t *old_first, *new_first; /* dense number of each page's first sample */
	uint32_t *by_pack;               /* old pages in the order of their packs' ids */
};

static void *room(void *p, uint32_t count, uint32_t *cap, size_t size)
{
	uint32_t wide = *cap > 0 ? 2 * *cap : 256;

	if (count < *cap) return p;
	p = realloc(p, wide * size);
	if (p != NULL) *cap = wide;
	return p;
}

/* ---- finished files ---- */

static int puts_flush(struct repack *r)
{
	int err = r->put_count > 0 ? objects_put(r->s, r->puts, r->put_count) : 0;

	for (uint32_t i = 0; i < r->put_count; i++) free(r->puts[i].bytes);
	r->put_count = 0;
	r->put_bytes = 0;
	return err;
}

static int put_add(struct repack *r, uint8_t *bytes, size_t len, struct hash128 hash, bool is_manifest)
{
	r->puts[r->put_count++] =
		(struct object_put){ .hash = hash, .bytes = bytes, .len = len, .is_manifest = is_manifest };
	r->put_bytes += len;
	if (r->put_count < sizeof(r->puts) / sizeof(r->puts[0]) && r->put_bytes < BATCH_BYTES) return 0;
	return puts_flush(r);
}

/* ---- new packs ---- */

static int target_close(struct repack *r)
{
	struct packs *packs = r->s->o.packs;
	uint64_t id;
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn;
	int err;

	if (r->target == NULL) return 0;
	id = pack_id_of(r->target);
	txn = kv_txn_new(r->s->o.kv);
	if (txn != NULL) {
		kv_add(txn, row_pack(key, id), PTAG_RECORDS, (int64_t)r->records);
		kv_add(txn, row_pack(key, id), PTAG_TOTAL, (int64_t)r->total);
		kv_max(txn, row_pack(key, id), PTAG_END, r->target_end);
	}
	err = snapshot_row_commit(r->s, txn);
	packs_pending(r->target, -1);
	packs_unref(packs, r->target);
	r->target = NULL;
	return err < 0 ? err : pack_seal(packs, id, NULL);
}

static int target_open(struct repack *r)
{
	uint64_t *wide = room(r->pins, r->pin_count, &r->pin_cap, sizeof(*wide));
	int err;

	if (wide == NULL) return -GRANARY_ENOMEM;
	r->pins = wide;
	err = packs_create(r->s->o.packs, r->id, &r->target);
	if (err < 0) return err;
	packs_pending(r->target, 1);
	packs_pin(r->s->o.packs, pack_id_of(r->target), 1); /* nobody knows it yet: no hold is needed */
	r->pins[r->pin_count++] = pack_id_of(r->target);
	r->target_end = PACK_DATA_START;
	r->records = r->total = 0;
	return packs_open_file(r->s->o.packs, r->target);
}

/* Flushed, and read back as it was written. */
static int target_write(struct repack *r, uint32_t len)
{
	uint32_t whole = (len + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK;
	struct fs_file *file = pack_file(r->target);
	int err = packs_allocate(r->s->o.packs, r->target, r->target_end + whole);
	int64_t n;

	if (err < 0) return err;
	memset(r->out + len, 0, whole - len);
	err = fs_write(file, r->out, whole, r->target_end);
	if (err == 0) err = fs_datasync(file);
	if (err < 0) {
		packs_set_broken(r->s->o.packs, r->target);
		return err;
	}
	n = fs_read(file, r->back, whole, r->target_end);
	if (n < 0) return (int)n;
	if ((uint64_t)n != whole || memcmp(r->back, r->out, whole) != 0) return -GRANARY_ECORRUPT;
	r->records++;
	r->total += len;
	r->target_end += whole;
	return 0;
}

/* ---- pages ---- */

static int page_end(struct repack *r)
{
	struct snap_page_ref ref = { .pack = r->page_pack, .bytes = r->page_bytes }, *wide;
	uint8_t *bytes;
	size_t len;
	int err;

	if (r->page == NULL) return 0;
	wide = room(r->fresh.pages, r->fresh.page_count, &r->page_cap, sizeof(*wide));
	if (wide == NULL) return -GRANARY_ENOMEM;
	r->fresh.pages = wide;
	ref.samples = snap_page_builder_samples(r->page);
	err = snap_page_finish(r->page, &bytes, &len, &ref.hash);
	snap_page_builder_free(&r->page);
	if (err < 0) return err;
	ref.size = (uint32_t)len;
	r->fresh.pages[r->fresh.page_count++] = ref;
	return put_add(r, bytes, len, ref.hash, false);
}

/* The pack of the sample that begins with this row: of its first bytes that are anywhere. */
static uint64_t pack_of_sample(const struct repack *r, uint32_t row)
{
	const struct moved_row *last = &r->rows[row + r->old.fields - 1];

	for (uint32_t i = r->rows[row].first; i < last->first + last->count; i++)
		if (r->pieces[i].at.pack != 0) return r->pieces[i].at.pack;
	return 0;
}

static int row_emit(struct repack *r, const struct moved_row *row)
{
	if (row->count > r->list_cap) {
		struct snap_extent *wide = realloc(r->list, row->count * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		r->list = wide;
		r->list_cap = row->count;
	}
	for (uint32_t i = 0; i < row->count; i++) {
		r->list[i] = r->pieces[row->first + i].at;
		r->page_bytes += r->list[i].length;
	}
	return snap_page_add(r->page, r->list, row->count, row->flags & SNAP_ROW_PART);
}

static int sample_emit(struct repack *r, uint32_t at)
{
	uint64_t pack = pack_of_sample(r, at);
	int err = r->page != NULL && r->page_pack != pack ? page_end(r) : 0;

	if (err == 0 && r->page == NULL) {
		r->page = snap_page_builder_new(pack, r->old.fields);
		r->page_pack = pack;
		r->page_bytes = 0;
		if (r->page == NULL) err = -GRANARY_ENOMEM;
	}
	for (uint32_t i = 0; i < r->old.fields && err == 0; i++) err = row_emit(r, &r->rows[at + i]);
	return err;
}

/* Samples all of whose pieces are placed go to their page; what is left moves to the front. */
static int rows_emit(struct repack *r)
{
	uint32_t whole = r->row_count, fields = r->old.fields, from, first;
	int err = 0;

	if (whole > 0 && !r->rows[whole - 1].ended) whole--;
	whole -= whole % fields;
	for (uint32_t i = 0; i < whole && err == 0; i += fields) err = sample_emit(r, i);
	if (err < 0) return err;
	from = whole;
	first = from < r->row_count ? r->rows[from].first : r->piece_count;
	for (uint32_t i = from; i < r->row_count; i++) {
		r->rows[i - from] = r->rows[i];
		r->rows[i - from].first -= first;
	}
	memmove(r->pieces, r->pieces + first, (r->piece_count - first) * sizeof(*r->pieces));
	r->row_count -= from;
	r->piece_count -= first;
	return 0;
}

/* ---- records ---- */

static uint32_t record_make(struct repack *r, uint32_t *header_len)
{
	uint32_t crcs[EXTENT_LEN_MAX / CRC_BLOCK_SIZE + 1];
	uint8_t attrs[ATTRS_MAX];
	struct wr w = wr_of(attrs, sizeof(attrs));
	struct record rec = { .kind = RECORD_DATA, .data_len = r->fill, .stored_len = r->fill, .object_id = r->id,
		.version = r->id, .logical = r->logical, .crcs = (const uint8_t *)crcs,
		.crc_count = crc_block_count(r->fill) };
	uint64_t total;
	int err;

	tlv_put_u64(&w, TAG_BUCKET, r->bucket);
	crc32c_blocks(crcs, r->data, r->fill);
	rec.attrs = slice_of(attrs, wr_len(&w));
	rec.header_len = *header_len = record_header_len(0, 0, rec.attrs.len, r->fill);
	total = record_total_len(rec.header_len, r->fill);
	err = record_encode(&rec, r->out, HEADER_MAX);
	assert(err == 0 && total <= RECORD_ROOM - PACK_BLOCK);
	(void)err;
	memcpy(r->out + rec.header_len, r->data, r->fill);
	memset(r->out + rec.header_len + r->fill, 0, (size_t)(total - rec.header_len - r->fill));
	return (uint32_t)total;
}

static bool has_unplaced(const struct repack *r)
{
	for (uint32_t i = 0; i < r->piece_count; i++)
		if (!r->pieces[i].placed) return true;
	return false;
}

static int record_flush(struct repack *r)
{
	uint32_t len, header_len;
	uint64_t at;
	int err = 0;

	if (atomic_load(&r->s->stopping)) return -GRANARY_ESHUTDOWN;
	if (r->fill == 0 && !has_unplaced(r)) return rows_emit(r);
	if (r->fill == 0) r->data[r->fill++] = 0; /* rows of no bytes need a place too */
	len = record_make(r, &header_len);
	if (r->target != NULL && r->target_end + len + 2 * PACK_BLOCK > packs_size(r->s->o.packs))
		err = target_close(r);
	if (err == 0 && r->target == NULL) err = target_open(r);
	if (err < 0) return err;
	at = r->target_end + header_len;
	err = target_write(r, len);
	for (uint32_t i = 0; i < r->piece_count && err == 0; i++) {
		struct piece *p = &r->pieces[i];

		if (p->placed) continue;
		p->at.pack = pack_id_of(r->target);
		p->at.offset += (uint32_t)at;
		p->placed = true;
	}
	r->logical += r->fill;
	r->fill = 0;
	return err < 0 ? err : rows_emit(r);
}

/* ---- rows ---- */

static struct piece *piece_add(struct repack *r)
{
	struct piece *wide = room(r->pieces, r->piece_count, &r->piece_cap, sizeof(*wide));

	if (wide == NULL) return NULL;
	r->pieces = wide;
	r->rows[r->row_count - 1].count++;
	return memset(&r->pieces[r->piece_count++], 0, sizeof(*wide));
}

/* The row goes on with these bytes. */
static int bytes_add(struct repack *r, const uint8_t *p, uint32_t len)
{
	int err = 0;

	do {
		struct moved_row *row = &r->rows[r->row_count - 1];
		struct piece *last = row->count > 0 ? &r->pieces[r->piece_count - 1] : NULL;
		uint32_t n = EXTENT_LEN_MAX - r->fill < len ? EXTENT_LEN_MAX - r->fill : len;

		if (last == NULL || last->placed) {
			last = piece_add(r);
			if (last == NULL) return -GRANARY_ENOMEM;
			last->at.offset = r->fill;
		}
		if (n > 0) memcpy(r->data + r->fill, p, n);
		last->at.crc = crc32c(last->at.crc, p, n);
		last->at.length += n;
		r->fill += n;
		p += n;
		len -= n;
		if (len > 0) err = record_flush(r);
	} while (err == 0 && len > 0);
	return err;
}

static int extent_copy(struct repack *r, const struct snap_extent *e)
{
	int64_t (*read)(struct pack_source *s, uint64_t pack, uint64_t offset, size_t len, const uint8_t **p) =
		e->unsummed ? pack_source_read_unsummed : pack_source_read;
	uint32_t crc = 0;
	int err = 0;

	if (e->pack == 0) {
		struct piece *p = piece_add(r);

		if (p == NULL) return -GRANARY_ENOMEM;
		*p = (struct piece){ *e, true };
		return 0;
	}
	if (e->length == 0) return bytes_add(r, NULL, 0);
	for (uint32_t at = 0; err == 0 && at < e->length;) {
		const uint8_t *p;
		int64_t n = read(r->source, e->pack, (uint64_t)e->offset + at, e->length - at, &p);

		if (n < 0) return (int)n;
		crc = crc32c(crc, p, (size_t)n);
		at += (uint32_t)n;
		err = bytes_add(r, p, (uint32_t)n);
	}
	return err == 0 && !e->unsummed && crc != e->crc ? -GRANARY_ECORRUPT : err;
}

static int row_move(struct repack *r, const struct snap_page *page, uint64_t at)
{
	struct moved_row *wide = room(r->rows, r->row_count, &r->row_cap, sizeof(*wide));
	struct snap_row row;
	struct snap_extent e;
	int err = snap_page_row(page, at, &row);

	if (wide == NULL) return -GRANARY_ENOMEM;
	r->rows = wide;
	if (err == 0 && (r->row_count >= RECORD_ROWS_MAX ||
				(row.size <= EXTENT_LEN_MAX && r->fill + row.size > EXTENT_LEN_MAX)))
		err = record_flush(r);
	if (err < 0) return err;
	r->rows[r->row_count++] = (struct moved_row){ .first = r->piece_count, .flags = row.flags };
	for (uint32_t i = 0; i < row.extent_count && err == 0; i++) {
		err = snap_page_extent(page, &row, i, &e);
		if (err == 0) err = extent_copy(r, &e);
	}
	r->rows[r->row_count - 1].ended = true;
	return err;
}

static int page_copy(struct repack *r, uint32_t index)
{
	struct snap_page page;
	uint8_t *bytes;
	size_t len;
	int err = object_read_all(r->s, r->old.pages[index].hash, false, &bytes, &len);

	if (err < 0) return err;
	err = snap_page_parse(bytes, len, &page);
	if (err == 0 && (page.fields != r->old.fields || page.samples != r->old.pages[index].samples))
		err = -GRANARY_ECORRUPT;
	for (uint64_t i = 0; err == 0 && i < (uint64_t)page.samples * page.fields; i++) err = row_move(r, &page, i);
	free(bytes);
	if (err < 0 && err != -GRANARY_ESHUTDOWN && r->m->text[0] == '\0')
		making_fail(r->m, err, "cannot copy the samples of page %u of %u: %s; nothing was changed", index,
			r->old.page_count, error_text(err));
	return err;
}

static int samples_copy(struct repack *r)
{
	int err = 0;

	for (uint32_t i = 0; i < r->old.page_count && err == 0; i++) err = page_copy(r, i);
	if (err == 0) err = record_flush(r);
	if (err == 0) err = rows_emit(r);
	if (err == 0) err = page_end(r);
	return err < 0 ? err : target_close(r);
}

/* ---- names ---- */

static int firsts_make(const struct snap_manifest *m, uint64_t **out)
{
	uint64_t *first = malloc(((size_t)m->page_count + 1) * sizeof(*first));

	*out = first;
	if (first == NULL) return -GRANARY_ENOMEM;
	first[0] = 0;
	for (uint32_t i = 0; i < m->page_count; i++) first[i + 1] = first[i] + m->pages[i].samples;
	return 0;
}

static int pack_compare(const void *a, const void *b, void *arg)
{
	const struct snap_page_ref *pages = arg;
	uint64_t x = pages[*(const uint32_t *)a].pack, y = pages[*(const uint32_t *)b].pack;

	return (x > y) - (x < y);
}

/* Where a name leads now. */
static int name_move(const struct repack *r, struct snap_name *n)
{
	uint32_t low = 0, high = r->old.page_count;
	uint64_t dense;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (r->old.pages[r->by_pack[middle]].pack < n->pack)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == r->old.page_count || r->old.pages[r->by_pack[low]].pack != n->pack ||
		n->slot >= r->old.pages[r->by_pack[low]].samples)
		return -GRANARY_ECORRUPT;
	dense = r->old_first[r->by_pack[low]] + n->slot;
	for (low = 0, high = r->fresh.page_count; high - low > 1;) {
		uint32_t middle = low + (high - low) / 2;

		if (r->new_first[middle] <= dense)
			low = middle;
		else
			high = middle;
	}
	n->pack = r->fresh.pages[low].pack;
	n->slot = (uint32_t)(dense - r->new_first[low]);
	return 0;
}

static int names_copy(struct repack *r, struct snap_names_builder *nb, uint32_t index)
{
	struct snap_names_ref *ref = &r->fresh.names[index];
	struct snap_names page;
	struct snap_names_iter it;
	struct snap_name n;
	uint8_t *bytes;
	size_t len;
	int err = object_read_all(r->s, r->old.names[index].hash, false, &bytes, &len);

	if (err < 0) return err;
	err = snap_names_parse(bytes, len, &page);
	if (err == 0) snap_names_seek(&page, slice_of(NULL, 0), &it);
	while (err == 0 && snap_names_next(&it, &n)) {
		err = name_move(r, &n);
		if (err == 0) err = snap_names_add(nb, &n);
	}
	if (err == 0) err = it.err;
	free(bytes);
	if (err < 0) return err;
	*ref = r->old.names[index]; /* entries and first key stay */
	err = snap_names_finish(nb, &bytes, &len, &ref->hash);
	ref->size = (uint32_t)len;
	return err < 0 ? err : put_add(r, bytes, len, ref->hash, false);
}

static int names_make(struct repack *r)
{
	struct snap_names_builder *nb = snap_names_builder_new();
	int err = firsts_make(&r->old, &r->old_first);

	if (err == 0) err = firsts_make(&r->fresh, &r->new_first);
	r->fresh.names = calloc((size_t)r->old.names_count + 1, sizeof(*r->fresh.names));
	r->by_pack = malloc(((size_t)r->old.page_count + 1) * sizeof(*r->by_pack));
	if (nb == NULL || r->fresh.names == NULL || r->by_pack == NULL) err = -GRANARY_ENOMEM;
	for (uint32_t i = 0; err == 0 && i < r->old.page_count; i++) r->by_pack[i] = i;
	if (err == 0) qsort_r(r->by_pack, r->old.page_count, sizeof(*r->by_pack), pack_compare, r->old.pages);
	for (uint32_t i = 0; i < r->old.names_count && err == 0; i++) err = names_copy(r, nb, i);
	r->fresh.names_count = err == 0 ? r->old.names_count : 0;
	snap_names_builder_free(&nb);
	return err;
}

/* ---- all of it ---- */

static int manifest_make(struct repack *r, struct hash128 was)
{
	struct snap_page_ref *pages = r->fresh.pages;
	struct snap_names_ref *names = r->fresh.names;
	uint32_t page_count = r->fresh.page_count, names_count = r->fresh.names_count;
	uint8_t *bytes;
	size_t len;
	int err;

	r->fresh = r->old;
	r->fresh.pages = pages;
	r->fresh.names = names;
	r->fresh.page_count = page_count;
	r->fresh.names_count = names_count;
	if (!r->old.has_identity) r->fresh.identity = was;
	r->fresh.has_identity = true;
	err = snap_manifest_encode(&r->fresh, &bytes, &len, &r->m->manifest);
	if (err == 0) err = put_add(r, bytes, len, r->m->manifest, true);
	return err < 0 ? err : puts_flush(r);
}

static int repack_begin(struct repack *r, const struct snapshot_row *row)
{
	size_t len;
	int err = object_read_all(r->s, row->manifest, true, &r->bytes, &len);

	if (err == 0) err = snap_manifest_decode(r->bytes, len, &r->old);
	if (err < 0) return err;
	r->fresh.fields = r->old.fields;
	err = packs_room(r->s->o.packs, r->old.bytes);
	if (err < 0)
		return making_fail(r->m, err, "there is no room for another %llu bytes; free some, or add some",
			(unsigned long long)r->old.bytes);
	r->source = pack_source_new(r->s->o.packs, r->s->o.kv);
	r->data = malloc(EXTENT_LEN_MAX);
	r->out = mem_map(RECORD_ROOM);
	r->back = mem_map(RECORD_ROOM);
	return r->source != NULL && r->data != NULL && r->out != NULL && r->back != NULL ? 0 : -GRANARY_ENOMEM;
}

static void repack_release(struct repack *r)
{
	if (r->target != NULL) { /* not sealed: the next pass does */
		packs_pending(r->target, -1);
		packs_seal_end(r->target, true);
		packs_unref(r->s->o.packs, r->target);
	}
	for (uint32_t i = 0; i < r->put_count; i++) free(r->puts[i].bytes);
	snap_page_builder_free(&r->page);
	pack_source_free(&r->source);
	if (r->out != NULL) mem_unmap(r->out, RECORD_ROOM);
	if (r->back != NULL) mem_unmap(r->back, RECORD_ROOM);
	free(r->fresh.pages);
	free(r->fresh.names);
	snap_manifest_release(&r->old);
	free(r->data);
	free(r->bytes);
	free(r->pieces);
	free(r->rows);
	free(r->list);
	free(r->old_first);
	free(r->new_first);
	free(r->by_pack);
	free(r);
}

int snapshot_repack_build(
	struct snapshots *s, struct snapshot_making *m, const struct snapshot_row *row, struct build_result *out)
{
	struct repack *r = calloc(1, sizeof(*r));
	int err;

	if (r == NULL) return -GRANARY_ENOMEM;
	r->s = s;
	r->m = m;
	r->id = row->id;
	r->bucket = m->bucket;
	err = repack_begin(r, row);
	if (err == 0) err = samples_copy(r);
	if (err == 0) err = names_make(r);
	if (err == 0) err = manifest_make(r, row->manifest);
	if (err == 0 && (r->fresh.samples != r->old.samples || r->fresh.bytes != r->old.bytes)) err = -GRANARY_ECORRUPT;
	out->pins = r->pins;
	out->pin_count = r->pin_count;
	repack_release(r);
	return err;
}
