/* SPDX-License-Identifier: Apache-2.0 */
/* linked.c -- see linked.h. A read looks at the rows that it touches and at nothing else: no table is kept in memory,
 * however many objects are linked. */
#include "pack/linked.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/log.h"
#include "common/name.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "pack/check.h"
#include "pack/format.h"
#include "pack/writer.h"
#include "tier/copy.h"
#include "tier/stores.h"

enum { WHYS = 64, WHY_MAX = 512, ENTRY_FIXED = 4 + 4 + 4 + 8 + 4 * 8 + 1 + 5 * 2 };

struct linked {
	struct kv *kv;
};

/* ---- what went wrong lately ---- */

struct why {
	uint64_t pack, from, end;
	char text[WHY_MAX];
};
static struct {
	pthread_mutex_t lock;
	uint32_t next;
	struct why all[WHYS];
} whys = { .lock = PTHREAD_MUTEX_INITIALIZER };

bool linked_why(uint64_t pack, uint64_t offset, uint64_t len, char *text, size_t cap)
{
	bool found = false;

	pthread_mutex_lock(&whys.lock);
	for (uint32_t i = 0; i < WHYS && !found; i++) {
		const struct why *w = &whys.all[i];

		found = w->pack == pack && w->from < offset + len && offset < w->end;
		if (found) snprintf(text, cap, "%s", w->text);
	}
	pthread_mutex_unlock(&whys.lock);
	return found;
}

void linked_tell(const struct place *place, uint64_t pack, const struct linked_entry *e)
{
	char key[512], text[WHY_MAX];
	uint64_t from = e->record + e->header_len;

	snprintf(text, sizeof(text), "object '%s' of store '%s' is not the one that was linked any more",
		name_escape(key, sizeof(key) / 2, e->source), place_name(place));
	if (linked_why(pack, from, 1, key, sizeof(key))) return; /* said already */
	log_warn("%s; pack=%016" PRIx64 " offset=%" PRIu64, text, pack, e->record);
	pthread_mutex_lock(&whys.lock);
	whys.all[whys.next] = (struct why){ .pack = pack, .from = from, .end = from + e->data_len };
	memcpy(whys.all[whys.next].text, text, sizeof(text));
	whys.next = (whys.next + 1) % WHYS;
	pthread_mutex_unlock(&whys.lock);
}

/* ---- rows ---- */

static bool is_under(const struct kv_iter *it, struct slice prefix)
{
	struct slice key = kv_iter_key(it);

	return key.len >= prefix.len && memcmp(key.p, prefix.p, prefix.len) == 0;
}

static size_t entry_size(const struct linked_entry *e)
{
	return ENTRY_FIXED + e->source.len + e->tag.len + e->key.len + e->name.len + e->attrs.len;
}

static void entry_put(struct wr *w, const struct linked_entry *e)
{
	uint8_t *open = tlv_open(w, LINKTAG_ENTRY);

	wr_u32(w, (uint32_t)(e->record / PACK_ALIGN));
	wr_u32(w, e->data_len);
	wr_u32(w, e->header_len);
	wr_u64(w, e->source_at);
	wr_u64(w, e->object_id);
	wr_u64(w, e->version);
	wr_u64(w, e->dir_id);
	wr_u64(w, e->logical);
	wr_u8(w, e->is_whole);
	wr_bytes16(w, e->source);
	wr_bytes16(w, e->tag);
	wr_bytes16(w, e->key);
	wr_bytes16(w, e->name);
	wr_bytes16(w, e->attrs);
	tlv_close(w, open);
}

int linked_put(struct kv_txn *txn, uint64_t pack, const struct linked_entry *entries, uint32_t count)
{
	uint8_t key[ROW_KEY_MAX];

	for (uint32_t from = 0, n; from < count; from += n) {
		size_t cap = 1;
		uint8_t *value;
		struct wr w;

		n = count - from < LINKED_ENTRIES ? count - from : LINKED_ENTRIES;
		for (uint32_t i = 0; i < n; i++) cap += 6 + entry_size(&entries[from + i]);
		value = malloc(cap);
		if (value == NULL) return -GRANARY_ENOMEM;
		w = wr_of(value, cap);
		value_begin(&w);
		for (uint32_t i = 0; i < n; i++) entry_put(&w, &entries[from + i]);
		assert(wr_ok(&w));
		kv_put(txn, row_linked(key, pack, entries[from].record), slice_of(value, wr_len(&w)));
		free(value);
	}
	return 0;
}

static int entry_parse(struct slice v, struct linked_entry *e)
{
	struct cur c = cur_of(v.p, v.len);

	e->record = (uint64_t)cur_u32(&c) * PACK_ALIGN;
	e->data_len = cur_u32(&c);
	e->header_len = cur_u32(&c);
	e->source_at = cur_u64(&c);
	e->object_id = cur_u64(&c);
	e->version = cur_u64(&c);
	e->dir_id = cur_u64(&c);
	e->logical = cur_u64(&c);
	e->is_whole = cur_u8(&c) != 0;
	e->source = cur_bytes16(&c);
	e->tag = cur_bytes16(&c);
	e->key = cur_bytes16(&c);
	e->name = cur_bytes16(&c);
	e->attrs = cur_bytes16(&c);
	return cur_ok(&c) && e->data_len > 0 && e->data_len <= EXTENT_LEN_MAX && e->source.len <= SOURCE_KEY_MAX &&
			e->tag.len < SOURCE_TAG_MAX &&
			e->header_len == record_header_len(e->key.len, e->name.len, e->attrs.len, e->data_len)
		? 0 : -GRANARY_ECORRUPT;
}

static uint64_t entry_end(const struct linked_entry *e)
{
	return e->record + record_total_len(e->header_len, e->data_len);
}

static int row_each(struct slice value, uint64_t at, int (*each)(void *arg, const struct linked_entry *e), void *arg)
{
	struct cur c = cur_of(value.p, value.len);
	int res = 0;

	cur_u8(&c);
	while (res == 0 && cur_left(&c) > 0) {
		struct linked_entry e;
		uint16_t tag = cur_u16(&c);
		struct slice v = cur_bytes(&c, cur_u32(&c));

		if (!cur_ok(&c)) return -GRANARY_ECORRUPT;
		if (tag != LINKTAG_ENTRY) continue;
		res = entry_parse(v, &e);
		if (res == 0 && entry_end(&e) > at) res = each(arg, &e);
	}
	return res;
}

int linked_each(struct kv *kv, uint64_t pack, uint64_t at, int (*each)(void *arg, const struct linked_entry *e),
	void *arg)
{
	uint8_t key[ROW_KEY_MAX], prefix_buf[ROW_KEY_MAX];
	struct slice prefix = row_linked_prefix(prefix_buf, pack);
	struct kv_iter *it = kv_iter_new(kv, NULL);
	bool any = false;
	int res = it != NULL ? 0 : -GRANARY_ENOMEM;

	if (it == NULL) return res;
	kv_iter_seek_back(it, row_linked(key, pack, at));
	if (!kv_iter_valid(it) || !is_under(it, prefix)) kv_iter_seek(it, prefix);
	for (; res == 0 && kv_iter_valid(it) && is_under(it, prefix); kv_iter_next(it)) {
		any = true;
		res = row_each(kv_iter_value(it), at, each, arg);
	}
	if (res == 0) res = kv_iter_error(it);
	kv_iter_free(&it);
	return res == 0 && !any ? -GRANARY_ENOTFOUND : res;
}

/* ---- reading ---- */

struct reading {
	struct linked *linked;
	const struct copy_info *info;
	uint8_t *buf;
	uint64_t at, end;
	bool exact;
	uint64_t *lost; /* or NULL */
	uint64_t deadline_ns;
};

static int source_get(const struct reading *r, const struct linked_entry *e, uint64_t from, uint8_t *to, size_t len)
{
	char key[SOURCE_KEY_MAX + 1], tag[SOURCE_TAG_MAX];
	int err;

	snprintf(key, sizeof(key), "%.*s", (int)e->source.len, (const char *)e->source.p);
	snprintf(tag, sizeof(tag), "%.*s", (int)e->tag.len, (const char *)e->tag.p);
	err = place_source_get(r->info->place, key, tag, to, len, e->source_at + from, r->deadline_ns);
	if (err == -GRANARY_ESOURCE) linked_tell(r->info->place, r->info->pack_id, e);
	return err;
}

/* What [at, end) has of bytes that stand at `from` of the pack. */
static void part_copy(const struct reading *r, const uint8_t *bytes, uint64_t from, uint64_t len)
{
	uint64_t lo = from > r->at ? from : r->at, hi = from + len < r->end ? from + len : r->end;

	if (lo < hi) memcpy(r->buf + (lo - r->at), bytes + (lo - from), (size_t)(hi - lo));
}

/* Then zeros stand for the record, until linked_finish() puts a filler there. */
static bool is_lost(const struct reading *r, int err)
{
	if (err != -GRANARY_ESOURCE || r->lost == NULL) return false;
	(*r->lost)++;
	return true;
}

/* Header and data: its checksums are of bytes that came for it. */
static int record_make(const struct reading *r, const struct linked_entry *e)
{
	struct record rec = { .kind = RECORD_DATA, .flags = e->is_whole ? RECORD_WHOLE : 0, .header_len = e->header_len,
		.data_len = e->data_len, .stored_len = e->data_len, .object_id = e->object_id, .version = e->version,
		.dir_id = e->dir_id, .logical = e->logical, .key = e->key, .name = e->name, .attrs = e->attrs,
		.crc_count = crc_block_count(e->data_len) };
	uint32_t crcs[EXTENT_CRCS_MAX + 1];
	uint8_t *all = malloc((size_t)e->header_len + e->data_len);
	int err = all != NULL ? source_get(r, e, 0, all + e->header_len, e->data_len) : -GRANARY_ENOMEM;

	if (is_lost(r, err)) {
		free(all);
		return 0;
	}
	if (err == 0) {
		crc32c_blocks(crcs, all + e->header_len, e->data_len);
		rec.crcs = (const uint8_t *)crcs;
		err = record_encode(&rec, all, e->header_len);
	}
	if (err == 0) part_copy(r, all, e->record, (uint64_t)e->header_len + e->data_len);
	free(all);
	return err;
}

static int read_entry(void *arg, const struct linked_entry *e)
{
	struct reading *r = arg;
	uint64_t data = e->record + e->header_len, end = data + e->data_len;
	uint64_t lo = data > r->at ? data : r->at, hi = end < r->end ? end : r->end;
	int err;

	if (e->record >= r->end) return 1;
	if (r->exact && e->record < r->end && r->at < data) return record_make(r, e);
	if (lo >= hi) return 0;
	err = source_get(r, e, lo - data, r->buf + (lo - r->at), (size_t)(hi - lo));
	if (!is_lost(r, err)) return err;
	memset(r->buf + (lo - r->at), 0, (size_t)(hi - lo)); /* what came was not its */
	return 0;
}

static int head_make(const struct reading *r)
{
	struct pack_header h = { .pack_id = r->info->pack_id, .attempt = r->info->pack_id };
	uint8_t key[ROW_KEY_MAX], head[PACK_HEADER_SIZE];
	struct pack_row row;
	struct kv_value v;
	int err = kv_get(r->linked->kv, row_pack(key, r->info->pack_id), &v);

	if (err < 0) return err;
	err = pack_row_decode(v.v, &row);
	kv_value_release(&v);
	h.group = err == 0 ? row.group : 0;
	pack_header_encode(&h, head);
	part_copy(r, head, 0, sizeof(head));
	return err;
}

/* Zeroed memory. Of a footer nothing is made: it is in the file that the pack is loaded into. */
static int linked_read(void *arg, const struct copy_info *info, uint8_t *buf, size_t len, uint64_t at, bool exact,
	uint64_t *lost, uint64_t deadline_ns)
{
	struct reading r = { .linked = arg, .info = info, .buf = buf, .at = at, .end = at + len, .exact = exact,
		.lost = lost, .deadline_ns = deadline_ns };
	int err = exact && at < PACK_HEADER_SIZE ? head_make(&r) : 0;

	if (err == 0) err = linked_each(r.linked->kv, info->pack_id, at, read_entry, &r);
	return err > 0 ? 0 : err;
}

/* ---- the file of a loaded pack ---- */

struct finishing {
	struct fs_file *file;
	uint8_t *data; /* NULL: every record is whole */
	uint64_t pack, end;
	uint32_t whole; /* records */
};

/* The header of a filler, in a file of whole blocks. */
static int filler_put(struct fs_file *file, uint64_t at, uint64_t total)
{
	uint64_t from = at & ~(uint64_t)(PACK_BLOCK - 1);
	uint8_t *blocks = aligned_alloc(PACK_BLOCK, 2 * PACK_BLOCK);
	size_t len = at - from + PACK_RECORD_HEADER_SIZE > PACK_BLOCK ? 2 * PACK_BLOCK : PACK_BLOCK;
	int64_t n = blocks != NULL ? fs_read(file, blocks, len, from) : -GRANARY_ENOMEM;
	int err = n < 0 ? (int)n : (size_t)n < len ? -GRANARY_ECORRUPT : 0;

	if (err == 0) {
		filler_header_encode(blocks + (at - from), total);
		err = fs_write(file, blocks, len, from);
	}
	free(blocks);
	return err;
}

/* A filler is no longer than a record's data may be. */
static int fillers_put(struct fs_file *file, const struct linked_entry *e)
{
	uint64_t total = entry_end(e) - e->record;
	uint64_t first = total > EXTENT_LEN_MAX ? total / 2 / PACK_ALIGN * PACK_ALIGN : total;
	int err = filler_put(file, e->record, first);

	return err == 0 && first < total ? filler_put(file, e->record + first, total - first) : err;
}

static int finish_entry(void *arg, const struct linked_entry *e)
{
	struct finishing *f = arg;
	uint32_t len;
	int err;

	f->end = entry_end(e);
	f->whole++;
	if (f->data == NULL) return 0;
	err = pack_record_verify(f->file, f->pack, e->record, e->object_id, f->data, &len, NULL);
	if (err != -GRANARY_ECORRUPT && err != -GRANARY_EBADFORMAT) return err;
	f->whole--;
	return fillers_put(f->file, e);
}

static int linked_finish(void *arg, uint64_t pack_id, struct fs_file *file, uint64_t size, bool lost)
{
	struct linked *l = arg;
	struct finishing f = { .file = file, .pack = pack_id, .end = PACK_DATA_START,
		.data = lost ? malloc(EXTENT_LEN_MAX) : NULL };
	int err = lost && f.data == NULL ? -GRANARY_ENOMEM : linked_each(l->kv, pack_id, 0, finish_entry, &f);

	free(f.data);
	return err < 0 ? err : pack_footer_write(file, pack_id, f.end, f.whole, size);
}

/* ---- is it all there? ---- */

struct verifying {
	struct linked *linked;
	struct place *place;
	uint64_t pack, timeout_ns, object;
};

static int verify_entry(void *arg, const struct linked_entry *e)
{
	const struct verifying *v = arg;
	struct copy_info info = { .place = v->place, .pack_id = v->pack };
	struct reading r = { .linked = v->linked, .info = &info, .deadline_ns = clock_mono_ns() + v->timeout_ns };
	uint8_t byte;

	return e->source_at == 0 || e->record == PACK_DATA_START ? source_get(&r, e, 0, &byte, 1) : 0;
}

int linked_verify(struct linked *linked, struct place *place, uint64_t pack, uint64_t timeout_ns)
{
	struct verifying v = { .linked = linked, .place = place, .pack = pack, .timeout_ns = timeout_ns };

	return linked_each(linked->kv, pack, 0, verify_entry, &v);
}

/* ---- the object ---- */

struct linked *linked_new(struct kv *kv, struct stores *stores)
{
	struct linked *l = calloc(1, sizeof(*l));

	if (l == NULL) return NULL;
	l->kv = kv;
	stores_set_linked(stores, &(struct stores_linked){ .read = linked_read, .finish = linked_finish, .arg = l });
	return l;
}

void linked_free(struct linked **l)
{
	free(*l);
	*l = NULL;
}
