/* SPDX-License-Identifier: Apache-2.0 */
/* cold_write.c -- see cold_write.h.
 * Invariants: (1) frames are cut where records begin, so a small record is one frame and never shares one; they
 * decode to all of the pack's file, its header, padding and footer too; (2) a name is tried once: after any
 * failure the object is removed, or is left for the sweep; (3) nothing is told to the caller before every byte
 * was read back from the store, decoded, and its checksum compared with that of what was read from the hot
 * copy; (4) memory: a window of the pack, one of the copy, the dictionary's samples. */
#include "pack/cold_write.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#define ZDICT_STATIC_LINKING_ONLY
#include <zdict.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "io/fs.h"
#include "pack/check.h"
#include "tier/frames.h"
#include "tier/stores.h"

enum {
	SMALL_MAX = 16 * 1024,          /* records below are one frame each, with the dictionary */
	FRAME_MAX = 256 * 1024,         /* larger ones are cut so */
	WINDOW = 8 * 1024 * 1024,       /* of the pack, at a time */
	OUT = 4 * 1024 * 1024,
	PACED = 1024 * 1024,            /* work between two looks at how the foreground fares */
	DICT_MAX = 112 * 1024,
	SAMPLES_MAX = 6 * 1024 * 1024,  /* bytes that the dictionary is made of */
	SAMPLES_MIN = 64 * 1024,
	SAMPLE_WINDOW = 512 * 1024,
	PROBE = 16 * 1024,
	GAIN_MIN_PCT = 3,
};

struct cut { uint32_t at, len; bool small; };

struct work {
	struct cold_write *w;
	struct cut *cuts;
	uint32_t cut_count, cut_cap;
	uint64_t covered; /* the cuts reach up to here */
	struct footer_entry last;
	bool has_last;
	uint8_t *window, *out, *frame;
	uint64_t window_at, window_len;
	size_t out_len;
	uint8_t *dict;
	size_t dict_len;
	ZSTD_CCtx *ctx;
	ZSTD_CDict *cdict;
	struct cold_put *put;
	struct frames_writer frames;
	uint64_t stored_len;
	uint32_t stored_crc, raw_crc;
	char path[COPY_PATH_MAX];
};

static uint64_t deadline(const struct work *k)
{
	return clock_mono_ns() + k->w->timeout_ns;
}

static int pace(const struct work *k, uint64_t bytes)
{
	return k->w->pace != NULL ? k->w->pace(k->w->arg, bytes) : 0;
}

/* ---- where frames begin ---- */

static int cut_add(struct work *k, uint64_t end, bool small)
{
	if (end <= k->covered) return 0;
	if (end - k->covered > FRAMES_RAW_MAX || end > k->w->size) return -GRANARY_ECORRUPT;
	if (k->cut_count == k->cut_cap) {
		uint32_t cap = k->cut_cap > 0 ? 2 * k->cut_cap : 1024;
		struct cut *wide = realloc(k->cuts, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		k->cuts = wide;
		k->cut_cap = cap;
	}
	k->cuts[k->cut_count++] = (struct cut){ (uint32_t)k->covered, (uint32_t)(end - k->covered), small };
	k->covered = end;
	return 0;
}

/* Frames of at most FRAME_MAX up to `end`. */
static int cut_to(struct work *k, uint64_t end)
{
	int err = 0;

	while (err == 0 && k->covered < end)
		err = cut_add(k, end - k->covered < FRAME_MAX ? end : k->covered + FRAME_MAX, false);
	return err;
}

/* The record before is known to end where the next begins: padding and fillers go with it. */
static int record_cut(struct work *k, uint64_t next)
{
	const struct footer_entry *e = &k->last;
	uint64_t span = next - e->offset;

	if (!k->has_last) return cut_to(k, next);
	if (next < e->offset || e->offset < k->covered) return -GRANARY_ECORRUPT;
	if (e->data_len < SMALL_MAX && span <= FRAME_MAX) return cut_add(k, next, true);
	/* The first piece takes the record's header along: pieces of data begin at whole multiples. */
	if (span > (uint64_t)e->header_len + FRAME_MAX) {
		int err = cut_add(k, e->offset + e->header_len + FRAME_MAX, false);

		return err < 0 ? err : cut_to(k, next);
	}
	return cut_add(k, next, false);
}

static int each_entry(void *arg, const struct footer_entry *e)
{
	struct work *k = arg;
	int err = record_cut(k, e->offset);

	k->last = *e;
	k->has_last = true;
	return err;
}

static int cuts_make(struct work *k)
{
	struct pack_trailer trailer;
	int err = pack_footer_read(k->w->from, k->w->pack_id, &trailer, each_entry, k);

	if (err == 0) err = record_cut(k, trailer.footer_offset);
	if (err == 0) err = cut_to(k, k->w->size);
	return err;
}

/* ---- the pack's bytes ---- */

/* [at, at + len) in the window. */
static int window_need(struct work *k, uint64_t at, size_t len, const uint8_t **p)
{
	uint64_t from = at & ~(uint64_t)(PACK_BLOCK - 1);
	uint64_t want = k->w->size - from < WINDOW ? k->w->size - from : WINDOW;
	int64_t n;

	if (at < k->window_at || at + len > k->window_at + k->window_len) {
		n = fs_read(k->w->from, k->window, (size_t)want, from);
		if (n < 0 || (uint64_t)n < want) return n < 0 ? (int)n : -GRANARY_ECORRUPT;
		k->window_at = from;
		k->window_len = want;
	}
	assert(at + len <= k->window_at + k->window_len);
	*p = k->window + (at - k->window_at);
	return 0;
}

/* ---- dictionary ---- */

/* Of a few places all over the pack, SAMPLES_MAX bytes of it about: runs of neighbours, each of which costs one
 * read. */
static bool is_picked(const struct work *k, uint32_t cut)
{
	uint64_t step = k->w->size / SAMPLES_MAX + 1, run = k->cut_count / (16 * step) + 1;

	return cut / (run < 64 ? run : 64) % step == 0;
}

/* Small records of these places, into buf; sizes of each. */
static int samples_take(struct work *k, uint8_t *buf, size_t *sizes, unsigned *count, size_t *len)
{
	int err = 0;

	*count = 0;
	*len = 0;
	for (uint32_t i = 0; err == 0 && i < k->cut_count; i++) {
		const struct cut *c = &k->cuts[i];
		const uint8_t *p;

		if (!is_picked(k, i) || !c->small || *len + c->len > SAMPLES_MAX) continue;
		err = window_need(k, c->at, c->len, &p);
		if (err < 0) break;
		memcpy(buf + *len, p, c->len);
		*len += c->len;
		sizes[(*count)++] = c->len;
	}
	return err;
}

static size_t compressed_len(struct work *k, const uint8_t *p, size_t len, bool with_dict)
{
	size_t n;

	ZSTD_CCtx_refCDict(k->ctx, with_dict ? k->cdict : NULL);
	n = ZSTD_compress2(k->ctx, k->frame, ZSTD_compressBound(FRAMES_RAW_MAX), p, len);
	return ZSTD_isError(n) || n > len ? len : n;
}

/* Does it gain? By a few of the samples. */
static bool dict_gains(struct work *k, const uint8_t *buf, const size_t *sizes, unsigned count)
{
	size_t plain = 0, with = k->dict_len / 16, at = 0;
	unsigned step = count / 256 + 1;

	for (unsigned i = 0; i < count; at += sizes[i], i++) {
		if (i % step != 0) continue;
		plain += compressed_len(k, buf + at, sizes[i], false);
		with += compressed_len(k, buf + at, sizes[i], true);
	}
	return with + with * GAIN_MIN_PCT / 100 < plain;
}

static int dict_make(struct work *k)
{
	ZDICT_fastCover_params_t params = { .k = 512, .d = 8, .f = 18, .accel = 5,
		.zParams = { .compressionLevel = k->w->level } };
	uint8_t *buf = malloc(k->w->size < SAMPLES_MAX ? k->w->size : SAMPLES_MAX);
	size_t *sizes = calloc(k->cut_count + 1, sizeof(*sizes)), len = 0;
	unsigned count = 0;
	int err = buf != NULL && sizes != NULL ? samples_take(k, buf, sizes, &count, &len) : -GRANARY_ENOMEM;

	k->dict = malloc(DICT_MAX);
	if (err == 0 && k->dict == NULL) err = -GRANARY_ENOMEM;
	if (err == 0 && len >= SAMPLES_MIN && count >= 16) {
		size_t room = len / 8 < DICT_MAX ? len / 8 : DICT_MAX;
		size_t n = ZDICT_trainFromBuffer_fastCover(k->dict, room, buf, sizes, count, params);

		if (!ZDICT_isError(n)) k->dict_len = n;
		if (k->dict_len > 0) k->cdict = ZSTD_createCDict(k->dict, k->dict_len, k->w->level);
		if (k->cdict == NULL || !dict_gains(k, buf, sizes, count)) k->dict_len = 0;
	}
	free(buf);
	free(sizes);
	return err;
}

/* ---- writing ---- */

static int out_flush(struct work *k)
{
	int err = k->out_len > 0 ? place_put_write(k->w->place, k->put, k->out, k->out_len, deadline(k)) : 0;

	k->stored_crc = crc32c(k->stored_crc, k->out, k->out_len);
	k->stored_len += k->out_len;
	k->out_len = 0;
	return err;
}

static int out_put(struct work *k, const uint8_t *p, size_t len)
{
	int err = 0;

	while (err == 0 && len > 0) {
		size_t n = OUT - k->out_len < len ? OUT - k->out_len : len;

		memcpy(k->out + k->out_len, p, n);
		k->out_len += n;
		p += n;
		len -= n;
		if (k->out_len == OUT) err = out_flush(k);
	}
	return err;
}

/* Probably nothing to gain: a piece of its middle does not shrink. */
static bool looks_dense(struct work *k, const uint8_t *p, size_t len)
{
	size_t n;

	if (len < 2 * PROBE) return false;
	n = ZSTD_compress(k->frame, ZSTD_compressBound(PROBE), p + len / 2, PROBE, 1);
	return ZSTD_isError(n) || n * 100 > (size_t)PROBE * (100 - GAIN_MIN_PCT);
}

/* In k->frame: *n bytes. */
static int frame_make(struct work *k, const struct cut *c, const uint8_t **p, size_t *n)
{
	int err = window_need(k, c->at, c->len, p);

	if (err < 0) return err;
	*n = looks_dense(k, *p, c->len) ? c->len : compressed_len(k, *p, c->len, c->small && k->dict_len > 0);
	if (*n * 100 > (uint64_t)c->len * (100 - GAIN_MIN_PCT)) {
		*n = frames_stored(*p, c->len, k->frame);
		k->w->frames_stored++;
	}
	return 0;
}

static int frame_put(struct work *k, const struct cut *c)
{
	const uint8_t *p;
	size_t n;
	int err = frame_make(k, c, &p, &n);

	if (err < 0) return err;
	k->raw_crc = crc32c(k->raw_crc, p, c->len);
	err = frames_add(&k->frames, (uint32_t)n, c->len);
	return err < 0 ? err : out_put(k, k->frame, n);
}

static int frames_put(struct work *k)
{
	uint64_t since = 0;
	uint8_t *buf;
	size_t len;
	int err;

	k->frames.info = (struct frames_info){
		.pack_id = k->w->pack_id, .attempt = k->w->attempt, .raw_len = k->w->size
	};
	buf = malloc(FRAMES_HEAD_SIZE + DICT_MAX);
	if (buf == NULL) return -GRANARY_ENOMEM;
	len = frames_head(&k->frames, k->dict, (uint32_t)k->dict_len, buf);
	err = out_put(k, buf, len);
	free(buf);
	for (uint32_t i = 0; err == 0 && i < k->cut_count; i++) {
		err = frame_put(k, &k->cuts[i]);
		since += k->cuts[i].len;
		if (err < 0 || since < PACED) continue;
		err = pace(k, since);
		since = 0;
	}
	k->frames.info.raw_crc = k->raw_crc;
	if (err == 0) err = frames_end(&k->frames, &buf, &len);
	if (err == 0) {
		err = out_put(k, buf, len);
		free(buf);
	}
	return err;
}

static int raw_put(struct work *k)
{
	int err = 0;

	for (uint64_t at = 0; err == 0 && at < k->w->size; at += OUT) {
		size_t len = k->w->size - at < OUT ? (size_t)(k->w->size - at) : OUT;
		const uint8_t *p;

		err = window_need(k, at, len, &p);
		if (err == 0) err = out_put(k, p, len);
		if (err == 0) err = pace(k, len);
	}
	k->raw_crc = k->stored_crc;
	return err;
}

/* ---- reading back ---- */

static int get_exactly(struct work *k, uint8_t *buf, size_t len, uint64_t at)
{
	int64_t n = place_get(k->w->place, k->path, buf, len, at, deadline(k));

	return n < 0 ? (int)n : (size_t)n == len ? 0 : -GRANARY_ECORRUPT;
}

static int raw_verify(struct work *k)
{
	uint32_t crc = 0;
	int err = 0;

	for (uint64_t at = 0; err == 0 && at < k->stored_len; at += OUT) {
		size_t len = k->stored_len - at < OUT ? (size_t)(k->stored_len - at) : OUT;

		err = get_exactly(k, k->out, len, at);
		crc = crc32c(crc, k->out, len);
		if (err == 0) err = pace(k, len);
	}
	return err < 0 ? err : crc == k->stored_crc ? 0 : -GRANARY_ECORRUPT;
}

/* Its end and head as the store gives them. */
static int frames_read(struct work *k, uint32_t *crc_of_end)
{
	size_t table = FRAMES_TAIL_SIZE + 8 + 8 * ((size_t)k->frames.count + 2) + 9, head = k->frames.head_len;
	uint8_t *buf = malloc(table > head ? table : head);
	uint64_t need;
	int err = buf != NULL ? get_exactly(k, buf, table, k->stored_len - table) : -GRANARY_ENOMEM;

	if (err == 0) {
		*crc_of_end = crc32c(0, buf, table);
		err = frames_parse(buf, table, k->stored_len, &need, &k->w->frames);
	}
	if (err == 0) err = get_exactly(k, buf, head, 0);
	if (err == 0) err = frames_take_head(k->w->frames, buf, head);
	if (err == 0 && frames_info(k->w->frames)->raw_crc != k->raw_crc) err = -GRANARY_ECORRUPT;
	free(buf);
	return err;
}

static int frames_verify(struct work *k)
{
	uint32_t crc = 0, crc_of_end;
	int err = frames_read(k, &crc_of_end);
	uint8_t *stored = NULL;
	size_t room = 0;

	k->window_len = 0;
	for (uint64_t at = 0; err == 0 && at < k->w->size; at += WINDOW) {
		size_t len = k->w->size - at < WINDOW ? (size_t)(k->w->size - at) : WINDOW, comp_len;
		uint64_t from;

		err = frames_range(k->w->frames, at, len, &from, &comp_len);
		if (err == 0 && comp_len > room) {
			free(stored);
			room = comp_len + comp_len / 4;
			stored = malloc(room);
			if (stored == NULL) err = -GRANARY_ENOMEM;
		}
		if (err == 0) err = get_exactly(k, stored, comp_len, from);
		if (err == 0) err = frames_decode(k->w->frames, stored, comp_len, at, len, k->window);
		if (err == 0) crc = crc32c(crc, k->window, len);
		if (err == 0) err = pace(k, len);
	}
	free(stored);
	return err < 0 ? err : crc == k->raw_crc ? 0 : -GRANARY_ECORRUPT;
}

/* ---- all of it ---- */

static int once(struct work *k, bool raw)
{
	int err;

	copy_name(k->w->pack_id, k->w->attempt, k->w->info.name);
	copy_path(k->w->pack_id, k->w->info.name, k->path);
	err = place_put_begin(k->w->place, k->path, k->w->size + k->w->size / 64 + DICT_MAX + 4096, deadline(k),
		&k->put);
	if (err == 0) err = raw ? raw_put(k) : frames_put(k);
	if (err == 0) err = out_flush(k);
	if (err == 0 && raw) k->raw_crc = k->stored_crc;
	if (err == 0) err = place_put_finish(k->w->place, &k->put, deadline(k));
	place_put_abort(&k->put);
	if (err == 0) err = raw ? raw_verify(k) : frames_verify(k);
	if (err < 0) {
		frames_unref(&k->w->frames);
		(void)place_remove(k->w->place, k->path, deadline(k));
	}
	return err;
}

/* A pack that gains too little is kept raw: judged by pieces from all over it, at a cheap level. */
static int is_dense(struct work *k)
{
	uint64_t step = k->w->size / 32 & ~(uint64_t)(PACK_BLOCK - 1), all = 0, left = 0;
	int err = 0;

	if (step < SAMPLE_WINDOW / 4) step = SAMPLE_WINDOW / 4;
	for (uint64_t at = PACK_DATA_START; err == 0 && at + PROBE * 4 <= k->w->size; at += step) {
		int64_t got = fs_read(k->w->from, k->window, PROBE * 4, at);
		size_t n;

		if (got < PROBE * 4) return got < 0 ? (int)got : -GRANARY_ECORRUPT;
		n = ZSTD_compress(k->frame, ZSTD_compressBound(PROBE * 4), k->window, PROBE * 4, 1);
		all += PROBE * 4;
		left += ZSTD_isError(n) ? PROBE * 4 : n;
	}
	k->window_len = 0;
	return all > 0 && left * 100 > all * (100 - GAIN_MIN_PCT);
}

static int work_open(struct work *k)
{
	size_t window = ((size_t)k->w->size | (PROBE * 4 - 1)) + 1;

	k->window = aligned_alloc(PACK_BLOCK, window < WINDOW ? window : WINDOW);
	k->out = malloc(OUT);
	k->frame = malloc(ZSTD_compressBound(FRAMES_RAW_MAX) + frames_stored_bound(0));
	k->ctx = ZSTD_createCCtx();
	if (k->window == NULL || k->out == NULL || k->frame == NULL || k->ctx == NULL) return -GRANARY_ENOMEM;
	ZSTD_CCtx_setParameter(k->ctx, ZSTD_c_compressionLevel, k->w->level > 0 ? k->w->level : 1);
	ZSTD_CCtx_setParameter(k->ctx, ZSTD_c_dictIDFlag, 0);
	return 0;
}

static void work_release(struct work *k)
{
	free(k->cuts);
	free(k->window);
	free(k->out);
	free(k->frame);
	free(k->dict);
	ZSTD_freeCCtx(k->ctx);
	ZSTD_freeCDict(k->cdict);
	frames_writer_release(&k->frames);
}

int cold_write(struct cold_write *w)
{
	struct work k = { .w = w };
	int err = work_open(&k), raw = w->level == 0;

	w->frames = NULL;
	w->frames_stored = 0;
	if (err == 0 && raw == 0) {
		raw = is_dense(&k);
		if (raw < 0) err = raw;
	}
	if (err == 0 && raw == 0) err = cuts_make(&k);
	if (err == 0 && raw == 0) err = dict_make(&k);
	if (err == 0) err = once(&k, raw != 0);
	if (err == 0) {
		w->info.place = w->place;
		w->info.pack_id = w->pack_id;
		w->info.length = k.stored_len;
		w->info.raw_len = w->size;
		w->info.crc = k.stored_crc;
		w->info.codec = raw != 0 ? CODEC_RAW : CODEC_ZSTD;
	}
	work_release(&k);
	return err;
}

int cold_estimate(struct cold_write *w, double *ratio)
{
	struct work k = { .w = w };
	uint64_t raw = 0, stored = 0;
	int err = work_open(&k), dense = w->level == 0;

	if (err == 0 && dense == 0) dense = is_dense(&k);
	if (err == 0 && dense < 0) err = dense;
	if (err == 0 && dense == 0) err = cuts_make(&k);
	if (err == 0 && dense == 0) err = dict_make(&k);
	for (uint32_t i = 0; err == 0 && dense == 0 && i < k.cut_count; i++) {
		const uint8_t *p;
		size_t n = 0;

		if (!is_picked(&k, i)) continue;
		err = frame_make(&k, &k.cuts[i], &p, &n);
		raw += k.cuts[i].len;
		stored += n + 8; /* and its line of the seek table */
	}
	*ratio = raw == 0 ? 1 : (double)stored / (double)raw + (double)k.dict_len / (double)w->size;
	work_release(&k);
	return err;
}
