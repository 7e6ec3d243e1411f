/* SPDX-License-Identifier: Apache-2.0 */
/* check.c -- walks the records of a pack and verifies them. Blocking; one buffer of 8 MiB, read
 * front to back.
 * Invariants: (1) nothing is taken from bytes that were not read or whose checksum was not
 * compared; (2) after damage the walk goes on where resume() says, else at the next 4 KiB line
 * where a record's header is sound (FORMAT 3.4), and a run of damaged lines is one problem; (3) a sound header
 * with damaged
 * data is a problem, and its length is still trusted (it has its own crc). */
#include "pack/check.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "io/fs.h"
#include "meta/rows.h"

enum { WINDOW_SIZE = 8 * 1024 * 1024 };

struct walker {
	struct fs_file *file;
	const struct pack_walk *walk;
	uint8_t *window;
	uint64_t window_at, window_len; /* what of the file is in `window` */
	uint64_t at;
	uint64_t began_ns, read_bytes;
	bool is_lost; /* damage was met and no record since */
	int err;      /* ends the walk */
};

static void pace(struct walker *w)
{
	uint64_t rate = w->walk->bytes_per_second, due, now = clock_mono_ns();
	struct timespec pause;

	if (rate == 0) return;
	due = w->began_ns + (uint64_t)((double)w->read_bytes * 1e9 / (double)rate);
	if (due <= now) return;
	pause = (struct timespec){ .tv_sec = (time_t)((due - now) / 1000000000u),
		.tv_nsec = (long)((due - now) % 1000000000u) };
	nanosleep(&pause, NULL);
}

static int window_read(struct walker *w, uint64_t from, uint64_t len)
{
	int64_t n = fs_read(w->file, w->window, (size_t)len, from);

	w->window_at = from;
	w->window_len = n < 0 ? 0 : (uint64_t)n;
	if (n < 0) return (int)n;
	w->read_bytes += (uint64_t)n;
	pace(w);
	return 0;
}

/* Brings [at, at + len) into the window as far as the file goes; *have says how much is there. */
static int window_need(
	struct walker *w, uint64_t at, uint64_t len, const uint8_t **p, uint64_t *have)
{
	uint64_t from = at & ~(uint64_t)(PACK_BLOCK - 1);
	uint64_t end = (at + len + PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1);
	uint64_t all = (w->walk->end + PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1);
	int err = 0;

	assert(end - from <= WINDOW_SIZE);
	if (at < w->window_at || at + len > w->window_at + w->window_len) {
		uint64_t want = all > from + WINDOW_SIZE ? WINDOW_SIZE : all - from;

		err = window_read(w, from, want);
		if (err < 0 && want > end - from)
			err = window_read(w, from, end - from); /* the bad place may be behind us */
	}
	if (err < 0) return err;
	*p = w->window + (at - w->window_at);
	*have = w->window_at + w->window_len > at ? w->window_at + w->window_len - at : 0;
	if (*have > len) *have = len;
	return 0;
}

static void problem_at(
	struct walker *w, uint64_t offset, int err, const struct record *r, const char *what)
{
	struct pack_problem p = { .offset = offset, .err = err };

	if (r != NULL) p.record = *r;
	snprintf(p.what, sizeof(p.what), "%s", what);
	if (w->walk->problem == NULL)
		w->err = err;
	else
		w->walk->problem(w->walk->arg, &p);
}

/* No record can be read here: report it, unless it belongs to damage already reported, and go to
 * the next place where one may begin. */
static void lose(struct walker *w, int err, const char *what)
{
	uint64_t next;

	if (!w->is_lost) problem_at(w, w->at, err, NULL, what);
	next = w->walk->resume != NULL ? w->walk->resume(w->walk->arg, w->at) : 0;
	w->is_lost = next == 0; /* a place that is known is not part of the damage before it */
	w->at = next > w->at ? next : (w->at / PACK_BLOCK + 1) * PACK_BLOCK;
}

static bool is_zero(const uint8_t *p, uint64_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, (size_t)len - 1) == 0);
}

/* No magic here: zeros up to the next line are padding, but never from a line's start (a flush
 * begins there). */
static void step_padding(struct walker *w)
{
	uint64_t line = (w->at / PACK_BLOCK + 1) * PACK_BLOCK, have;
	uint64_t len = (line < w->walk->end ? line : w->walk->end) - w->at;
	const uint8_t *p;
	int err = window_need(w, w->at, len, &p, &have);

	if (err < 0)
		lose(w, err, "cannot be read");
	else if (have < len)
		lose(w, -GRANARY_ECORRUPT, "the file ends here");
	else if (!is_zero(p, len))
		lose(w, -GRANARY_ECORRUPT, "neither a record nor padding");
	else if (w->at % PACK_BLOCK == 0)
		lose(w, -GRANARY_ECORRUPT, "zeros where a record should begin");
	else
		w->at = line;
}

static void verify_blocks(struct walker *w, const struct record *r, const uint8_t *data)
{
	char what[96];

	for (uint32_t i = 0; i < r->crc_count; i++) {
		uint32_t at = i * CRC_BLOCK_SIZE, want;
		uint32_t len =
			r->stored_len - at < CRC_BLOCK_SIZE ? r->stored_len - at : CRC_BLOCK_SIZE;

		memcpy(&want, r->crcs + 4 * (size_t)i, sizeof(want));
		if (crc32c(0, data + at, len) == want) continue;
		snprintf(what, sizeof(what),
			"data block %" PRIu32 " of %" PRIu32 " fails its checksum", i,
			r->crc_count);
		problem_at(w, w->at, -GRANARY_ECORRUPT, r, what);
		return;
	}
}

/* A record with a sound header of `need` bytes stands at w->at. */
static void step_record(struct walker *w, struct record *r)
{
	const struct pack_walk *walk = w->walk;
	uint64_t span = record_span(r), have;
	bool wants_all = walk->verify_data || walk->want_data;
	const uint8_t *p = NULL;
	uint32_t need;
	int err = 0;

	if (w->at + r->header_len + (r->kind == RECORD_DATA ? r->stored_len : 0) > walk->end) {
		lose(w, -GRANARY_ECORRUPT, "the record passes the end");
		return;
	}
	w->is_lost = false;
	if (r->kind == RECORD_DATA && wants_all) {
		err = window_need(w, w->at, (uint64_t)r->header_len + r->stored_len, &p, &have);
		if (err == 0 && have < (uint64_t)r->header_len + r->stored_len)
			err = -GRANARY_ECORRUPT;
		if (err == 0)
			err = record_decode(
				p, r->header_len, r, &need); /* the window may have moved */
		if (err < 0)
			problem_at(w, w->at, err, NULL, "the record's data cannot be read");
		else if (walk->verify_data)
			verify_blocks(w, r, p + r->header_len);
	}
	if (err == 0 && w->err == 0 && r->kind == RECORD_DATA && walk->each != NULL)
		w->err =
			walk->each(walk->arg, w->at, r, walk->want_data ? p + r->header_len : NULL);
	w->at += span;
}

static void step(struct walker *w)
{
	uint64_t left = w->walk->end - w->at, have;
	uint64_t len = left < PACK_RECORD_HEADER_SIZE ? left : PACK_RECORD_HEADER_SIZE;
	const uint8_t *p;
	struct record r;
	uint32_t need;
	int err = window_need(w, w->at, len, &p, &have);

	if (err < 0) {
		lose(w, err, "cannot be read");
		return;
	}
	if (have < len) {
		lose(w, -GRANARY_ECORRUPT, "the file ends here");
		w->at = w->walk->end;
		return;
	}
	err = record_decode(p, len, &r, &need);
	if (err == -GRANARY_ETOOBIG && need > len && need <= left) {
		err = window_need(w, w->at, need, &p, &have);
		if (err == 0) err = record_decode(p, have, &r, &need);
	}
	if (err == 0)
		step_record(w, &r);
	else if (err == -GRANARY_EBADFORMAT || len < PACK_RECORD_HEADER_SIZE)
		step_padding(w);
	else
		lose(w, err == -GRANARY_ETOOBIG ? -GRANARY_ECORRUPT : err,
			"the record's header is damaged");
}

int pack_walk(struct fs_file *file, const struct pack_walk *walk)
{
	struct walker w = {
		.file = file, .walk = walk, .at = PACK_DATA_START, .began_ns = clock_mono_ns()
	};

	assert(fs_file_align(file) <= PACK_BLOCK);
	w.window = aligned_alloc(PACK_BLOCK, WINDOW_SIZE);
	if (w.window == NULL) return -GRANARY_ENOMEM;
	while (w.err == 0 && w.at < walk->end) step(&w);
	free(w.window);
	return w.err;
}

/* ---- one record ---- */

struct one {
	uint8_t *data;
	uint32_t *data_len, *header_len;
	uint64_t offset, object_id;
	uint32_t room;
};

static int one_check(struct one *one, struct fs_file *file, uint8_t *buf, size_t cap)
{
	uint64_t from = one->offset & ~(uint64_t)(PACK_BLOCK - 1);
	size_t skip = (size_t)(one->offset - from);
	struct record r;
	uint32_t need;
	int64_t n = fs_read(file, buf, 64 * 1024, from);
	int err;

	if (n < 0) return (int)n;
	err = (size_t)n > skip ? record_decode(buf + skip, (size_t)n - skip, &r, &need)
			       : -GRANARY_ECORRUPT;
	if (err == -GRANARY_ETOOBIG ||
		(err == 0 && (size_t)n < skip + r.header_len + r.stored_len)) {
		size_t all = err == 0 ? skip + r.header_len + r.stored_len : cap;

		all = (all + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK;
		n = fs_read(file, buf, all < cap ? all : cap, from);
		if (n < 0) return (int)n;
		err = (size_t)n > skip ? record_decode(buf + skip, (size_t)n - skip, &r, &need)
				       : -GRANARY_ECORRUPT;
	}
	if (err < 0 || r.kind != RECORD_DATA || r.stored_len > one->room ||
		(one->object_id != 0 && r.object_id != one->object_id) ||
		(size_t)n < skip + r.header_len + r.stored_len)
		return -GRANARY_ECORRUPT;
	for (uint32_t i = 0; i < r.crc_count; i++) {
		uint32_t at = i * CRC_BLOCK_SIZE, want;
		uint32_t len =
			r.stored_len - at < CRC_BLOCK_SIZE ? r.stored_len - at : CRC_BLOCK_SIZE;

		memcpy(&want, r.crcs + 4 * (size_t)i, sizeof(want));
		if (crc32c(0, buf + skip + r.header_len + at, len) != want)
			return -GRANARY_ECORRUPT;
	}
	memcpy(one->data, buf + skip + r.header_len, r.stored_len);
	*one->data_len = r.stored_len;
	if (one->header_len != NULL) *one->header_len = r.header_len;
	return 0;
}

static int one_read(struct one *one, struct fs_file *file)
{
	size_t cap = EXTENT_LEN_MAX + 256 * 1024;
	uint8_t *buf = aligned_alloc(PACK_BLOCK, cap);
	int err;

	if (buf == NULL) return -GRANARY_ENOMEM;
	err = one_check(one, file, buf, cap);
	free(buf);
	return err;
}

int pack_record_verify_into(struct fs_file *file, uint64_t offset, uint64_t object_id, uint8_t *data, uint32_t room,
	uint32_t *data_len)
{
	struct one one = { .data = data,
		.data_len = data_len,
		.offset = offset,
		.object_id = object_id,
		.room = room };

	return one_read(&one, file);
}

int pack_record_verify(struct fs_file *file, uint64_t pack_id, uint64_t offset, uint64_t object_id,
	uint8_t *data, uint32_t *data_len, uint32_t *header_len)
{
	struct one one = { .data = data,
		.data_len = data_len,
		.header_len = header_len,
		.offset = offset,
		.object_id = object_id,
		.room = EXTENT_LEN_MAX };

	(void)pack_id; /* the file is the pack's; its header was compared when it was opened */
	return one_read(&one, file);
}
