/* SPDX-License-Identifier: Apache-2.0 */
/* rebuild.c -- see rebuild.h: which packs are there, what of them the rows do not know, their rows; then object by
 * object. A pack without a row in which no record can be read gets none.
 * Invariants: (1) a pack has one file: that of its `c` row, else one with a footer, else the first; another one is a
 * leftover, and the server removes it; (2) rows of packs are there before rows point into them. */
#include "jobs/rebuild.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/id.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "jobs/rebuild_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "pack/check.h"
#include "tier/packs.h"

#define OFFSET_MAX (UINT64_C(1) << 62) /* in an object */
enum { PATH_SIZE = PACKS_NAME_MAX + 16, OBJECT_RECORDS_MAX = 1 << 20 };

struct pack_file {
	uint64_t id;
	uint32_t place;
	char name[PACKS_NAME_MAX];
};

struct work {
	struct rebuild *r;
	struct scratch *s;
	struct pack_file *files;
	uint32_t count, cap, place; /* place: that is being listed */
	struct rebuild_ids present, groups;
	uint64_t bytes_done, bytes_all;
};

/* ---- sets of ids ---- */

bool ids_have(const struct rebuild_ids *ids, uint64_t id)
{
	return ids->count > 0 && bsearch(&id, ids->at, ids->count, sizeof(id), u64_compare) != NULL;
}

int ids_add(struct rebuild_ids *ids, uint64_t id)
{
	if (ids->count == ids->cap) {
		uint32_t cap = ids->cap ? 2 * ids->cap : 64;
		uint64_t *at = realloc(ids->at, cap * sizeof(*at));
		if (at == NULL) return -GRANARY_ENOMEM;
		ids->at = at;
		ids->cap = cap;
	}
	ids->at[ids->count++] = id;
	return 0;
}

/* ---- the files that are there ---- */

static int file_note(void *arg, const char *dir, const char *name, uint64_t id)
{
	struct work *w = arg;
	struct pack_file *f;

	(void)dir;
	if (w->count == w->cap) {
		uint32_t cap = w->cap ? 2 * w->cap : 256;
		struct pack_file *files = realloc(w->files, cap * sizeof(*files));
		if (files == NULL) return -GRANARY_ENOMEM;
		w->files = files;
		w->cap = cap;
	}
	f = &w->files[w->count++];
	*f = (struct pack_file){ .id = id, .place = w->place };
	snprintf(f->name, sizeof(f->name), "%s", name);
	return 0;
}

static int file_cmp(const void *a, const void *b)
{
	const struct pack_file *x = a, *y = b;

	if (x->id != y->id) return x->id < y->id ? -1 : 1;
	return strcmp(x->name, y->name);
}

static int files_find(struct work *w)
{
	int err = 0;

	for (w->place = 0; err == 0 && w->place < w->r->place_count; w->place++)
		err = packs_each_file(w->r->places[w->place].fs, file_note, w);
	if (w->count > 0) qsort(w->files, w->count, sizeof(*w->files), file_cmp);
	return err;
}

static int file_open(const struct work *w, const struct pack_file *f, struct fs_file **out)
{
	char path[PATH_SIZE];

	snprintf(path, sizeof(path), "packs/%02x/%s", (unsigned)(f->id & 0xff), f->name);
	return fs_open(w->r->places[f->place].fs, path, FS_READ | FS_DIRECT, out);
}

/* Does the `c` row name this file? */
static int file_is_named(const struct work *w, const struct pack_file *f)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_value v;
	struct slice name;
	int err = kv_get(w->r->kv, row_copy(key, w->r->places[f->place].store, f->id), &v);

	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	err = value_bytes(v.v, CTAG_NAME, &name) && slice_eq(name, slice_str(f->name));
	kv_value_release(&v);
	return err;
}

/* ---- records ---- */

struct walk {
	struct work *w;
	const struct pack_file *f;
	uint64_t from;       /* records below are known */
	bool has_footer;
	uint64_t bad_at;     /* of the last problem */
	uint64_t records, bytes, end;
	uint64_t new_records, new_bytes;
};

static void tell_damage(const struct walk *x, uint64_t offset, const char *what)
{
	char text[256];

	x->w->r->damaged++;
	snprintf(text, sizeof(text), "%s offset %" PRIu64 ": %s", x->f->name, offset, what);
	if (x->w->r->lost != NULL) x->w->r->lost(x->w->r->arg, "damage", text);
}

/* Behind the last record of a pack without a footer is nothing but what a crash tore: told only when a record
 * follows. */
static void on_problem(void *arg, const struct pack_problem *p)
{
	struct walk *x = arg;

	x->bad_at = p->offset;
	if (x->has_footer) tell_damage(x, p->offset, p->what);
}

static bool is_of_later(const struct walk *x, const struct record *r)
{
	uint32_t ours = ids_incarnation(x->w->r->ids);

	return id_incarnation(r->object_id) >= ours || id_incarnation(r->version) >= ours ||
	       id_incarnation(r->dir_id) >= ours;
}

static int on_record(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct walk *x = arg;
	bool is_bad = x->bad_at == offset;
	struct kept k = { .object = r->object_id,
		.logical = r->logical,
		.version = r->version,
		.pack = x->f->id,
		.offset = offset,
		.dir = r->dir_id,
		.header_len = r->header_len,
		.data_len = r->data_len,
		.is_whole = (r->flags & RECORD_WHOLE) != 0,
		.is_damaged = is_bad,
		.name = r->name,
		.key = r->key,
		.attrs = r->attrs,
		.crcs = slice_of(r->crcs, 4 * (size_t)r->crc_count) };

	if (is_bad && !x->has_footer) return 0;
	if (!x->has_footer && x->bad_at >= x->end) tell_damage(x, x->bad_at, "no record can be read there");
	x->bad_at = 0;
	x->end = offset + record_total_len(r->header_len, r->stored_len);
	x->records++;
	x->bytes += x->end - offset;
	if (offset < x->from || r->dir_id == 0) return 0; /* known; or the samples of a repacked snapshot */
	x->new_records++;
	x->new_bytes += x->end - offset;
	if (is_of_later(x, r) || r->object_id == 0 || r->logical > OFFSET_MAX) {
		tell_damage(x, offset, "a record of ids or of an offset that cannot be");
		return 0;
	}
	if (k.is_whole && !is_bad) k.hash = hash_content(data, r->data_len);
	return scratch_add(x->w->s, &k);
}

/* ---- one pack ---- */

/* Its group; 0: the header is damaged. */
static int header_group(struct fs_file *file, uint64_t id, uint64_t *group)
{
	uint8_t *block = aligned_alloc(PACK_BLOCK, PACK_BLOCK);
	struct pack_header h;
	int64_t n = block != NULL ? fs_read(file, block, PACK_BLOCK, 0) : -GRANARY_ENOMEM;
	int err = n < 0 ? (int)n : pack_header_decode(block, (size_t)n, &h);

	free(block);
	*group = err == 0 && h.pack_id == id ? h.group : 0;
	return err == -GRANARY_EIO || err == -GRANARY_ENOMEM ? err : 0;
}

static int pack_read(struct walk *x, struct fs_file *file, struct pack_trailer *trailer)
{
	struct pack_walk walk = { .pack_id = x->f->id,
		.verify_data = true,
		.want_data = true,
		.each = on_record,
		.problem = on_problem,
		.arg = x };
	int64_t size = fs_size(file);
	int err;

	if (size < 0) return (int)size;
	x->has_footer = pack_footer_read(file, x->f->id, trailer, NULL, NULL) == 0;
	x->end = PACK_DATA_START;
	walk.end = (uint64_t)size;
	err = x->has_footer ? pack_check_sealed(file, &walk) : pack_walk(file, &walk);
	if (x->has_footer) x->end = trailer->data_end;
	x->w->r->packs_read++;
	x->w->r->packs_torn += !x->has_footer && x->records > 0;
	x->w->r->records += x->new_records;
	x->w->bytes_done += (uint64_t)size;
	if (x->w->r->progress != NULL) x->w->r->progress(x->w->r->arg, "packs", x->w->bytes_done, x->w->bytes_all);
	return err;
}

static void put_copy_row(struct work *w, const struct pack_file *f, uint64_t size, struct kv_txn *txn)
{
	uint8_t key[ROW_KEY_MAX], value[256];
	struct wr v = wr_of(value, sizeof(value));

	for (uint32_t i = 0; i < w->r->place_count; i++) kv_delete(txn, row_copy(key, w->r->places[i].store, f->id));
	value_begin(&v);
	tlv_put(&v, CTAG_NAME, slice_str(f->name));
	tlv_put(&v, CTAG_CODEC, slice_of("\0", 1));
	tlv_put_u64(&v, CTAG_LENGTH, size);
	tlv_put_u32(&v, CTAG_CRC, 0);
	tlv_put(&v, CTAG_STATE, slice_of("\2", 1));
	tlv_put(&v, CTAG_SPARSE, slice_of("\0", 1));
	kv_put(txn, row_copy(key, w->r->places[f->place].store, f->id), slice_of(value, wr_len(&v)));
}

static int put_pack_row(struct work *w, const struct walk *x, const struct pack_row *row, struct kv_txn *txn)
{
	uint8_t key[ROW_KEY_MAX], value[512];
	int64_t len = pack_row_encode(row, slice_of("", 0), value, sizeof(value));

	if (len < 0) return (int)len;
	kv_put(txn, row_pack(key, x->f->id), slice_of(value, (size_t)len));
	put_copy_row(w, x->f, row->file_size, txn);
	return 0;
}

/* A pack that no row knows. */
static int pack_take(struct work *w, struct walk *x, struct fs_file *file, struct kv_txn *txn)
{
	struct pack_row row = { .state = PACK_OPEN, .order = x->f->id, .created = store_clock_now(w->r->clock) };
	struct pack_trailer trailer;
	int err = header_group(file, x->f->id, &row.group);

	if (err == 0) err = pack_read(x, file, &trailer);
	if (err == 0 && x->has_footer) row.state = PACK_SEALED;
	if (err == 0 && x->has_footer) row.file_size = (uint64_t)fs_size(file);
	if (err == 0 && x->records == 0 && !x->has_footer) return 0; /* begun, and nothing was ever flushed to it */
	if (err == 0 && row.group == 0) tell_damage(x, 0, "the header cannot be read");
	if (err == 0 && row.group == 0) row.state = PACK_BROKEN; /* what lives is copied out */
	row.committed_end = x->end;
	row.total_bytes = x->bytes;
	row.records = x->records;
	if (err == 0 && row.group != 0) err = ids_add(&w->groups, row.group);
	return err < 0 ? err : put_pack_row(w, x, &row, txn);
}

/* One that a row knows: what came after its committed end, and where its file is now. */
static int pack_renew(struct work *w, struct walk *x, struct fs_file *file, const struct pack_row *row,
	struct kv_txn *txn)
{
	uint8_t key[ROW_KEY_MAX];
	struct pack_trailer trailer;
	int named = file_is_named(w, x->f), err = named < 0 ? named : 0;

	if (err == 0 && row->state == PACK_OPEN) {
		x->from = row->committed_end;
		err = pack_read(x, file, &trailer);
		kv_add(txn, row_pack(key, x->f->id), PTAG_TOTAL, (int64_t)x->new_bytes);
		kv_add(txn, row_pack(key, x->f->id), PTAG_RECORDS, (int64_t)x->new_records);
		kv_max(txn, row_pack(key, x->f->id), PTAG_END, x->end);
	}
	if (err == 0 && named == 0) put_copy_row(w, x->f, row->file_size, txn);
	return err;
}

static int pack_look(struct work *w, const struct pack_file *f)
{
	uint8_t key[ROW_KEY_MAX];
	struct walk x = { .w = w, .f = f };
	struct fs_file *file = NULL;
	struct kv_txn *txn = kv_txn_new(w->r->kv);
	struct pack_row row;
	struct kv_value v;
	int err = txn != NULL ? file_open(w, f, &file) : -GRANARY_ENOMEM, has = 0;

	if (err == 0) has = kv_get(w->r->kv, row_pack(key, f->id), &v);
	if (err == 0 && has == 0) {
		err = pack_row_decode(v.v, &row);
		kv_value_release(&v);
		if (err == 0) err = pack_renew(w, &x, file, &row, txn);
	} else if (err == 0) {
		err = has == -GRANARY_ENOTFOUND ? pack_take(w, &x, file, txn) : has;
	}
	fs_close(&file);
	if (err == 0 && kv_txn_ops(txn) > 0) err = kv_submit_wait(w->r->kv, txn);
	if (txn != NULL) kv_txn_free(&txn);
	if (err < 0) snprintf(w->r->why, sizeof(w->r->why), "cannot read the pack %s: %s", f->name, error_text(err));
	return err < 0 ? err : ids_add(&w->present, f->id);
}

static bool has_footer(const struct work *w, const struct pack_file *f)
{
	struct pack_trailer t;
	struct fs_file *file = NULL;
	bool has = file_open(w, f, &file) == 0 && pack_footer_read(file, f->id, &t, NULL, NULL) == 0;

	fs_close(&file);
	return has;
}

/* Invariant (1), among files of one pack. */
static int file_choose(const struct work *w, uint32_t from, uint32_t to, uint32_t *out)
{
	*out = from;
	if (to == from + 1) return 0;
	for (uint32_t i = from; i < to; i++) {
		int named = file_is_named(w, &w->files[i]);
		if (named < 0) return named;
		if (named == 1) *out = i;
		if (named == 1) return 0;
	}
	for (uint32_t i = from; i < to; i++) {
		if (!has_footer(w, &w->files[i])) continue;
		*out = i;
		break;
	}
	return 0;
}

static int packs_look(struct work *w)
{
	int err = 0;

	for (uint32_t i = 0; i < w->count; i++) {
		struct fs_file *file = NULL;
		if (file_open(w, &w->files[i], &file) == 0 && fs_size(file) > 0)
			w->bytes_all += (uint64_t)fs_size(file);
		fs_close(&file);
	}
	for (uint32_t i = 0, to, chosen; err == 0 && i < w->count; i = to) {
		for (to = i + 1; to < w->count && w->files[to].id == w->files[i].id; to++) continue;
		err = file_choose(w, i, to, &chosen);
		if (err == 0) err = pack_look(w, &w->files[chosen]);
	}
	if (w->present.count > 0) qsort(w->present.at, w->present.count, sizeof(uint64_t), u64_compare);
	if (w->groups.count > 0) qsort(w->groups.at, w->groups.count, sizeof(uint64_t), u64_compare);
	return err;
}

/* ---- objects ---- */

static int objects_read(struct work *w, struct kv_iter *it, struct placer *p, struct object_records *o)
{
	const uint8_t first = SCRATCH_RECORD;
	uint64_t done = 0;
	struct kept k;
	int err = 0;

	for (kv_iter_seek(it, slice_of(&first, 1)); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		if (!kept_decode(kv_iter_key(it), kv_iter_value(it), &k)) return -GRANARY_ECORRUPT;
		if (o->count > 0 && o->at[0].object != k.object) err = placer_add(p, o);
		if (err == 0 && o->count == OBJECT_RECORDS_MAX) err = -GRANARY_ETOOBIG;
		if (err == 0) err = records_add(o, &k);
		if (++done % 4096 == 0 && w->r->progress != NULL)
			w->r->progress(w->r->arg, "records", done, w->r->records);
	}
	if (err == 0) err = kv_iter_error(it);
	if (err == 0 && o->count > 0) err = placer_add(p, o);
	if (err == 0) err = placer_end(p);
	return err < 0 ? err : placer_with_gaps(p, o);
}

static int objects_place(struct work *w)
{
	struct object_records o = { .count = 0 };
	struct kv_iter *it = kv_iter_new_scan(scratch_kv(w->s), NULL);
	struct placer *p = NULL;
	int err = it != NULL ? placer_open(w->r, w->s, &w->present, &w->groups, &p) : -GRANARY_ENOMEM;

	if (err == 0) err = objects_read(w, it, p, &o);
	placer_close(&p);
	records_free(&o);
	if (it != NULL) kv_iter_free(&it);
	if (err < 0) snprintf(w->r->why, sizeof(w->r->why), "cannot put the objects in place: %s", error_text(err));
	return err;
}

int rebuild_packs(struct rebuild *r)
{
	struct work w = { .r = r };
	int err = scratch_open(r, &w.s);

	if (err == 0) err = files_find(&w);
	if (err == 0) err = packs_look(&w);
	if (err == 0) err = scratch_flush(w.s);
	if (err == 0) err = objects_place(&w);
	scratch_close(&w.s);
	free(w.files);
	free(w.present.at);
	free(w.groups.at);
	if (err < 0 && r->why[0] == '\0')
		snprintf(r->why, sizeof(r->why), "cannot read the packs: %s", error_text(err));
	return err;
}
