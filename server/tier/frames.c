/* SPDX-License-Identifier: Apache-2.0 */
/* frames.c -- see frames.h; the bytes are FORMAT 4.
 * Invariants: (1) nothing is believed before its checksum was compared; (2) sums of sizes are checked against
 * the two lengths that are known from elsewhere (the copy's, the pack's), so a frame never leads outside; (3)
 * a frame that decodes to another length than the table says is damage. Offsets are 32 bits: packs and copies
 * are below 4 GiB. */
#include "tier/frames.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/error.h"

enum {
	MAGIC_HEAD = 0x184D2A50,
	MAGIC_TAIL = 0x184D2A51,
	MAGIC_TABLE = 0x184D2A5E,
	MAGIC_ZSTD = (int)0xFD2FB528,
	VERSION = 1,
	TABLE_FOOTER = 9,
	BLOCK_MAX = 128 * 1024,
	INDEX_HEADER = 80,
};
#define MAGIC_SEEKABLE UINT32_C(0x8F92EAB1)

struct frames {
	_Atomic uint32_t refs;
	struct frames_info info;
	uint64_t file_len;
	uint32_t count, head_len, dict_len;
	uint32_t *raw_at, *comp_at; /* count + 1 each */
	uint8_t *dict;              /* or NULL */
	ZSTD_DDict *ddict;
};

/* ---- writing ---- */

size_t frames_head(struct frames_writer *w, const void *dict, uint32_t dict_len, uint8_t *out)
{
	struct wr wr = wr_of(out, FRAMES_HEAD_SIZE);

	w->head_len = FRAMES_HEAD_SIZE + dict_len;
	w->comp = w->head_len;
	wr_u32(&wr, MAGIC_HEAD);
	wr_u32(&wr, 64 + dict_len);
	wr_bytes(&wr, "GRNCOLD", 8);
	wr_u32(&wr, VERSION);
	wr_u32(&wr, 0);
	wr_u64(&wr, w->info.pack_id);
	wr_u64(&wr, w->info.attempt);
	wr_u64(&wr, w->info.raw_len);
	wr_u32(&wr, dict_len);
	wr_u32(&wr, crc32c(0, dict, dict_len));
	wr_u64(&wr, 0);
	wr_u32(&wr, 0);
	wr_u32(&wr, crc32c(0, out + 8, 60));
	assert(wr_ok(&wr) && wr_len(&wr) == FRAMES_HEAD_SIZE);
	if (dict_len > 0) memcpy(out + FRAMES_HEAD_SIZE, dict, dict_len);
	return w->head_len;
}

int frames_add(struct frames_writer *w, uint32_t comp_len, uint32_t raw_len)
{
	if (raw_len > FRAMES_RAW_MAX || w->count >= FRAMES_COUNT_MAX || w->comp + comp_len >= UINT32_MAX / 2 ||
		w->raw + raw_len >= UINT32_MAX)
		return -GRANARY_ETOOBIG;
	if (w->count == w->cap) {
		uint32_t cap = w->cap > 0 ? 2 * w->cap : 4096;
		uint32_t *wide = realloc(w->sizes, (size_t)cap * 2 * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		w->sizes = wide;
		w->cap = cap;
	}
	w->sizes[2 * w->count] = comp_len;
	w->sizes[2 * w->count + 1] = raw_len;
	w->count++;
	w->comp += comp_len;
	w->raw += raw_len;
	return 0;
}

static void table_put(struct wr *wr, const struct frames_writer *w)
{
	wr_u32(wr, MAGIC_TABLE);
	wr_u32(wr, 8 * (w->count + 2) + TABLE_FOOTER);
	wr_u32(wr, w->head_len);
	wr_u32(wr, 0);
	for (uint32_t i = 0; i < 2 * w->count; i++) wr_u32(wr, w->sizes[i]);
	wr_u32(wr, FRAMES_TAIL_SIZE);
	wr_u32(wr, 0);
	wr_u32(wr, w->count + 2);
	wr_u8(wr, 0);
	wr_u32(wr, MAGIC_SEEKABLE);
}

int frames_end(struct frames_writer *w, uint8_t **out, size_t *len)
{
	size_t table = 8 + 8 * ((size_t)w->count + 2) + TABLE_FOOTER;
	uint8_t *buf = malloc(FRAMES_TAIL_SIZE + table);
	struct wr wr;

	*out = NULL;
	if (buf == NULL) return -GRANARY_ENOMEM;
	assert(w->raw == w->info.raw_len);
	wr = wr_of(buf + FRAMES_TAIL_SIZE, table);
	table_put(&wr, w);
	assert(wr_ok(&wr) && wr_len(&wr) == table);
	wr = wr_of(buf, FRAMES_TAIL_SIZE);
	wr_u32(&wr, MAGIC_TAIL);
	wr_u32(&wr, 64);
	wr_bytes(&wr, "GRNCEND", 8);
	wr_u32(&wr, VERSION);
	wr_u32(&wr, w->count);
	wr_u64(&wr, w->info.pack_id);
	wr_u64(&wr, w->info.raw_len);
	wr_u32(&wr, w->info.raw_crc);
	wr_u32(&wr, crc32c(0, buf + FRAMES_TAIL_SIZE, table));
	wr_u64(&wr, w->info.attempt);
	wr_u32(&wr, w->head_len);
	wr_u64(&wr, 0);
	wr_u32(&wr, crc32c(0, buf + 8, 60));
	assert(wr_ok(&wr) && wr_len(&wr) == FRAMES_TAIL_SIZE);
	*out = buf;
	*len = FRAMES_TAIL_SIZE + table;
	return 0;
}

void frames_writer_release(struct frames_writer *w)
{
	free(w->sizes);
	w->sizes = NULL;
}

size_t frames_stored_bound(size_t len)
{
	return len + 4 + 1 + 8 + 3 * (len / BLOCK_MAX + 1);
}

/* RFC 8878: magic, a descriptor (single segment, content size in 4 bytes), raw blocks. */
size_t frames_stored(const uint8_t *in, size_t len, uint8_t *out)
{
	struct wr wr = wr_of(out, frames_stored_bound(len));
	size_t at = 0;

	wr_u32(&wr, (uint32_t)MAGIC_ZSTD);
	wr_u8(&wr, 2 << 6 | 1 << 5);
	wr_u32(&wr, (uint32_t)len);
	do {
		size_t n = len - at < BLOCK_MAX ? len - at : BLOCK_MAX;
		uint32_t head = (uint32_t)n << 3 | (at + n == len);

		wr_u8(&wr, (uint8_t)head);
		wr_u16(&wr, (uint16_t)(head >> 8));
		wr_bytes(&wr, in + at, n);
		at += n;
	} while (at < len);
	assert(wr_ok(&wr));
	return wr_len(&wr);
}

/* ---- one that is read ---- */

static struct frames *frames_new(uint32_t count)
{
	struct frames *f = calloc(1, sizeof(*f));

	if (f == NULL) return NULL;
	atomic_init(&f->refs, 1);
	f->count = count;
	f->raw_at = calloc((size_t)count + 1, sizeof(*f->raw_at));
	f->comp_at = calloc((size_t)count + 1, sizeof(*f->comp_at));
	if (f->raw_at == NULL || f->comp_at == NULL) frames_unref(&f);
	return f;
}

struct frames *frames_ref(struct frames *f)
{
	atomic_fetch_add(&f->refs, 1);
	return f;
}

void frames_unref(struct frames **fp)
{
	struct frames *f = *fp;

	*fp = NULL;
	if (f == NULL || atomic_fetch_sub(&f->refs, 1) > 1) return;
	free(f->raw_at);
	free(f->comp_at);
	free(f->dict);
	ZSTD_freeDDict(f->ddict);
	free(f);
}

const struct frames_info *frames_info(const struct frames *f)
{
	return &f->info;
}
uint32_t frames_count(const struct frames *f)
{
	return f->count;
}
uint64_t frames_file_len(const struct frames *f)
{
	return f->file_len;
}
uint32_t frames_head_len(const struct frames *f)
{
	return f->head_len;
}

size_t frames_weight(const struct frames *f)
{
	size_t tables = 8 * ((size_t)f->count + 1) + f->dict_len;

	return sizeof(*f) + tables + (f->ddict != NULL ? ZSTD_sizeof_DDict(f->ddict) : 0);
}

const uint8_t *frames_dict(const struct frames *f, uint32_t *len)
{
	*len = f->dict_len;
	return f->dict;
}

/* One more frame: false when it leads outside of what the lengths allow. */
static bool frame_take(struct frames *f, uint32_t i, uint32_t comp, uint32_t raw)
{
	uint64_t comp_end = (uint64_t)f->comp_at[i] + comp, raw_end = (uint64_t)f->raw_at[i] + raw;

	if (comp == 0 || raw == 0 || raw > FRAMES_RAW_MAX || comp_end > f->file_len || raw_end > f->info.raw_len)
		return false;
	f->comp_at[i + 1] = (uint32_t)comp_end;
	f->raw_at[i + 1] = (uint32_t)raw_end;
	return true;
}

static int dict_take(struct frames *f, const uint8_t *dict)
{
	if (f->dict_len == 0) return 0;
	f->dict = malloc(f->dict_len);
	if (f->dict == NULL) return -GRANARY_ENOMEM;
	memcpy(f->dict, dict, f->dict_len);
	f->ddict = ZSTD_createDDict(f->dict, f->dict_len);
	return f->ddict != NULL ? 0 : -GRANARY_ENOMEM;
}

/* ---- from the copy ---- */

struct tail {
	struct frames_info info;
	uint32_t count, table_crc, head_len;
};

static int tail_parse(const uint8_t *p, struct tail *out)
{
	struct cur c = cur_of(p, FRAMES_TAIL_SIZE);
	uint32_t magic = cur_u32(&c), len = cur_u32(&c), version;
	const uint8_t *name = cur_take(&c, 8);

	version = cur_u32(&c);
	out->count = cur_u32(&c);
	out->info.pack_id = cur_u64(&c);
	out->info.raw_len = cur_u64(&c);
	out->info.raw_crc = cur_u32(&c);
	out->table_crc = cur_u32(&c);
	out->info.attempt = cur_u64(&c);
	out->head_len = cur_u32(&c);
	if (magic != MAGIC_TAIL || len != 64 || memcmp(name, "GRNCEND", 8) != 0) return -GRANARY_EBADFORMAT;
	if (crc32c(0, p + 8, 60) != le32_get(*(const struct le32 *)(const void *)(p + 68))) return -GRANARY_ECORRUPT;
	if (version != VERSION) return -GRANARY_EVERSION;
	if (out->count > FRAMES_COUNT_MAX || out->info.raw_len >= UINT32_MAX || out->head_len < FRAMES_HEAD_SIZE ||
		out->head_len > FRAMES_HEAD_SIZE + FRAMES_DICT_MAX)
		return -GRANARY_ECORRUPT;
	return 0;
}

static int table_parse(struct frames *f, const uint8_t *table)
{
	struct cur c = cur_of(table + 8, 8 * ((size_t)f->count + 2));
	uint32_t comp = cur_u32(&c), raw = cur_u32(&c);
	uint64_t end;

	f->comp_at[0] = f->head_len;
	if (comp != f->head_len || raw != 0) return -GRANARY_ECORRUPT;
	for (uint32_t i = 0; i < f->count; i++) {
		comp = cur_u32(&c);
		raw = cur_u32(&c);
		if (!frame_take(f, i, comp, raw)) return -GRANARY_ECORRUPT;
	}
	comp = cur_u32(&c);
	raw = cur_u32(&c);
	end = f->comp_at[f->count] + FRAMES_TAIL_SIZE + 8 + 8 * ((uint64_t)f->count + 2) + TABLE_FOOTER;
	if (comp != FRAMES_TAIL_SIZE || raw != 0 || f->raw_at[f->count] != f->info.raw_len || end != f->file_len)
		return -GRANARY_ECORRUPT;
	return 0;
}

/* How long the table is, by its last bytes. */
static int footer_parse(const uint8_t *end, size_t len, uint64_t file_len, size_t *table)
{
	struct cur c;
	uint32_t count, magic;
	uint8_t descriptor;

	if (len < FRAMES_TAIL_SIZE + TABLE_FOOTER || file_len < len || file_len >= UINT32_MAX)
		return -GRANARY_EBADFORMAT;
	c = cur_of(end + len - TABLE_FOOTER, TABLE_FOOTER);
	count = cur_u32(&c);
	descriptor = cur_u8(&c);
	magic = cur_u32(&c);
	if (magic != MAGIC_SEEKABLE || descriptor != 0 || count < 2 || count - 2 > FRAMES_COUNT_MAX)
		return -GRANARY_EBADFORMAT;
	*table = 8 + 8 * (size_t)count + TABLE_FOOTER;
	return *table + FRAMES_TAIL_SIZE <= file_len ? 0 : -GRANARY_ECORRUPT;
}

int frames_parse(const uint8_t *end, size_t len, uint64_t file_len, uint64_t *need, struct frames **out)
{
	size_t table;
	struct tail tail;
	struct frames *f;
	int err = footer_parse(end, len, file_len, &table);

	*out = NULL;
	*need = len;
	if (err < 0) return err;
	*need = table + FRAMES_TAIL_SIZE;
	if (*need > len) return -GRANARY_ETOOBIG;
	err = tail_parse(end + len - *need, &tail);
	if (err < 0) return err;
	if (8 * ((size_t)tail.count + 2) + 8 + TABLE_FOOTER != table ||
		crc32c(0, end + len - table, table) != tail.table_crc)
		return -GRANARY_ECORRUPT;
	f = frames_new(tail.count);
	if (f == NULL) return -GRANARY_ENOMEM;
	f->info = tail.info;
	f->file_len = file_len;
	f->head_len = tail.head_len;
	err = table_parse(f, end + len - table);
	if (err < 0)
		frames_unref(&f);
	*out = f;
	return err;
}

int frames_take_head(struct frames *f, const uint8_t *head, size_t len)
{
	struct cur c = cur_of(head, len);
	uint32_t magic = cur_u32(&c), size = cur_u32(&c), version, incompat, dict_len, dict_crc;
	const uint8_t *name = cur_take(&c, 8);
	uint64_t pack_id, attempt, raw_len;

	version = cur_u32(&c);
	incompat = cur_u32(&c);
	pack_id = cur_u64(&c);
	attempt = cur_u64(&c);
	raw_len = cur_u64(&c);
	dict_len = cur_u32(&c);
	dict_crc = cur_u32(&c);
	cur_take(&c, 12);
	if (cur_u32(&c) != crc32c(0, head + 8, cur_ok(&c) ? 60 : 0) || !cur_ok(&c)) return -GRANARY_ECORRUPT;
	if (magic != MAGIC_HEAD || memcmp(name, "GRNCOLD", 8) != 0) return -GRANARY_EBADFORMAT;
	if (version != VERSION || incompat != 0) return -GRANARY_EVERSION;
	if (len != f->head_len || size != 64 + dict_len || dict_len != f->head_len - FRAMES_HEAD_SIZE ||
		pack_id != f->info.pack_id || attempt != f->info.attempt || raw_len != f->info.raw_len ||
		crc32c(0, head + FRAMES_HEAD_SIZE, dict_len) != dict_crc || f->dict != NULL)
		return -GRANARY_ECORRUPT;
	f->dict_len = dict_len;
	return dict_take(f, head + FRAMES_HEAD_SIZE);
}

/* ---- the index on flash ---- */

static void varint_put(uint8_t **p, uint32_t v)
{
	for (; v >= 0x80; v >>= 7) *(*p)++ = (uint8_t)(v | 0x80);
	*(*p)++ = (uint8_t)v;
}

static uint32_t varint_get(struct cur *c)
{
	uint64_t v = 0;
	uint8_t b = 0x80;

	for (unsigned i = 0; i < 5 && (b & 0x80) != 0; i++) {
		b = cur_u8(c);
		v |= (uint64_t)(b & 0x7f) << (7 * i);
	}
	if ((b & 0x80) != 0 || v > UINT32_MAX) c->bad = true;
	return (uint32_t)v;
}

int frames_index_encode(const struct frames *f, uint8_t **out, size_t *len)
{
	uint8_t *buf = malloc(INDEX_HEADER + 10 * (size_t)f->count + f->dict_len), *p = buf + INDEX_HEADER;
	struct wr wr;

	*out = buf;
	if (buf == NULL) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < f->count; i++) {
		varint_put(&p, f->comp_at[i + 1] - f->comp_at[i]);
		varint_put(&p, f->raw_at[i + 1] - f->raw_at[i]);
	}
	if (f->dict_len > 0) memcpy(p, f->dict, f->dict_len);
	p += f->dict_len;
	*len = (size_t)(p - buf);
	wr = wr_of(buf, INDEX_HEADER);
	wr_bytes(&wr, "GRNCIDX", 8);
	wr_u32(&wr, VERSION);
	wr_u32(&wr, f->count);
	wr_u64(&wr, f->info.pack_id);
	wr_u64(&wr, f->info.attempt);
	wr_u64(&wr, f->info.raw_len);
	wr_u64(&wr, f->file_len);
	wr_u32(&wr, f->info.raw_crc);
	wr_u32(&wr, f->dict_len);
	wr_u32(&wr, crc32c(0, buf + INDEX_HEADER, *len - INDEX_HEADER));
	wr_u64(&wr, 0);
	wr_u64(&wr, 0);
	wr_u32(&wr, crc32c(0, buf, 76));
	assert(wr_ok(&wr) && wr_len(&wr) == INDEX_HEADER);
	return 0;
}

static int index_body(struct frames *f, struct cur *c)
{
	uint32_t dict_len = f->head_len - FRAMES_HEAD_SIZE;

	f->comp_at[0] = f->head_len;
	for (uint32_t i = 0; i < f->count; i++) {
		uint32_t comp = varint_get(c), raw = varint_get(c);

		if (!cur_ok(c) || !frame_take(f, i, comp, raw)) return -GRANARY_ECORRUPT;
	}
	if (cur_left(c) != dict_len || f->raw_at[f->count] != f->info.raw_len) return -GRANARY_ECORRUPT;
	f->dict_len = dict_len;
	return dict_take(f, c->p);
}

int frames_index_parse(const uint8_t *in, size_t len, struct frames **out)
{
	struct cur c = cur_of(in, len);
	const uint8_t *magic = cur_take(&c, 8);
	uint32_t version = cur_u32(&c), count = cur_u32(&c), dict_len, crc;
	struct frames_info info = { 0 };
	uint64_t file_len;
	struct frames *f;
	int err;

	*out = NULL;
	info.pack_id = cur_u64(&c);
	info.attempt = cur_u64(&c);
	info.raw_len = cur_u64(&c);
	file_len = cur_u64(&c);
	info.raw_crc = cur_u32(&c);
	dict_len = cur_u32(&c);
	crc = cur_u32(&c);
	cur_take(&c, 16);
	if (cur_u32(&c) != crc32c(0, in, cur_ok(&c) ? 76 : 0) || !cur_ok(&c) || memcmp(magic, "GRNCIDX", 8) != 0)
		return -GRANARY_EBADFORMAT;
	if (version != VERSION) return -GRANARY_EVERSION;
	if (count > FRAMES_COUNT_MAX || count > len || dict_len > FRAMES_DICT_MAX || file_len >= UINT32_MAX ||
		info.raw_len >= UINT32_MAX || crc32c(0, c.p, cur_left(&c)) != crc)
		return -GRANARY_ECORRUPT;
	f = frames_new(count);
	if (f == NULL) return -GRANARY_ENOMEM;
	f->info = info;
	f->file_len = file_len;
	f->head_len = FRAMES_HEAD_SIZE + dict_len;
	err = index_body(f, &c);
	if (err < 0)
		frames_unref(&f);
	*out = f;
	return err;
}

/* ---- addresses and bytes ---- */

/* The frame that holds byte `at` of the pack. */
static uint32_t frame_at(const struct frames *f, uint64_t at)
{
	uint32_t lo = 0, hi = f->count;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (f->raw_at[mid] <= at)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

uint32_t frames_first(const struct frames *f, uint64_t at)
{
	return frame_at(f, at);
}

void frames_piece(const struct frames *f, uint32_t i, uint64_t *from, uint32_t *comp_len)
{
	assert(i < f->count);
	*from = f->comp_at[i];
	*comp_len = f->comp_at[i + 1] - f->comp_at[i];
}

int frames_range(const struct frames *f, uint64_t at, size_t len, uint64_t *from, size_t *comp_len)
{
	uint32_t first, last;

	if (len == 0 || at >= f->info.raw_len || len > f->info.raw_len - at) return -GRANARY_ERANGE;
	first = frame_at(f, at);
	last = frame_at(f, at + len - 1);
	*from = f->comp_at[first];
	*comp_len = f->comp_at[last + 1] - f->comp_at[first];
	return 0;
}

/* A decoder and room for a frame of which a part is wanted, one a thread. */
struct decoder {
	ZSTD_DCtx *ctx;
	uint8_t *frame;
};
static pthread_key_t decoder_key;
static pthread_once_t decoder_once = PTHREAD_ONCE_INIT;

static void decoder_free(void *arg)
{
	struct decoder *d = arg;

	ZSTD_freeDCtx(d->ctx);
	free(d->frame);
	free(d);
}

static void decoder_key_make(void)
{
	(void)pthread_key_create(&decoder_key, decoder_free);
}

static struct decoder *decoder_get(void)
{
	struct decoder *d;

	(void)pthread_once(&decoder_once, decoder_key_make);
	d = pthread_getspecific(decoder_key);
	if (d != NULL) return d;
	d = calloc(1, sizeof(*d));
	if (d == NULL) return NULL;
	d->ctx = ZSTD_createDCtx();
	d->frame = malloc(FRAMES_RAW_MAX);
	if (d->ctx == NULL || d->frame == NULL || pthread_setspecific(decoder_key, d) != 0) {
		decoder_free(d);
		return NULL;
	}
	return d;
}

static bool frame_decode(const struct frames *f, struct decoder *d, const uint8_t *in, uint32_t i, uint8_t *out)
{
	size_t raw = f->raw_at[i + 1] - f->raw_at[i], comp = f->comp_at[i + 1] - f->comp_at[i];
	size_t n = f->ddict != NULL ? ZSTD_decompress_usingDDict(d->ctx, out, raw, in, comp, f->ddict)
				    : ZSTD_decompressDCtx(d->ctx, out, raw, in, comp);

	return n == raw;
}

int frames_decode(const struct frames *f, const uint8_t *comp, size_t comp_len, uint64_t at, size_t len, uint8_t *out)
{
	struct decoder *d = decoder_get();
	uint64_t from, end = at + len;
	size_t need;
	int err = frames_range(f, at, len, &from, &need);

	if (err < 0 || d == NULL) return err < 0 ? err : -GRANARY_ENOMEM;
	if (need != comp_len) return -GRANARY_ECORRUPT;
	for (uint32_t i = frame_at(f, at); i < f->count && f->raw_at[i] < end; i++) {
		const uint8_t *in = comp + (f->comp_at[i] - from);
		uint64_t lo = f->raw_at[i] > at ? f->raw_at[i] : at;
		uint64_t hi = f->raw_at[i + 1] < end ? f->raw_at[i + 1] : end;
		bool whole = lo == f->raw_at[i] && hi == f->raw_at[i + 1];

		if (!frame_decode(f, d, in, i, whole ? out + (lo - at) : d->frame)) return -GRANARY_ECORRUPT;
		if (!whole) memcpy(out + (lo - at), d->frame + (lo - f->raw_at[i]), (size_t)(hi - lo));
	}
	return 0;
}
