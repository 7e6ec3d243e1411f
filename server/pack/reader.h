/* SPDX-License-Identifier: Apache-2.0 */
/* reader.h -- reads of record data for one reactor: cache first; misses sorted by (pack, offset),
 * neighbours merged up to CACHE_READ_MAX (gaps of up to 16 KiB are read through), O_DIRECT into
 * registered memory, up to `depth` reads in flight.
 *
 * A unit is what the cache holds: an extent's data cut at multiples of CACHE_UNIT_MAX from the
 * extent's first byte. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "pack/cache.h"

struct packs;
struct pack_read;
struct reactor;
struct reader;
struct workers;

struct reader_options {
	struct packs *packs;
	struct cache *cache;
	struct reactor *reactor;
	struct workers *workers;
	uint32_t depth;
};
struct reader *reader_new(const struct reader_options *options); /* on its reactor's thread */
void reader_free(struct reader **reader);

struct pack_read {
	/* in: one unit, and the part of it that is wanted (whole blocks or all of it) */
	uint64_t pack, unit_offset;     /* offset in the file */
	uint32_t unit_len, want_offset, want_len; /* inside the unit */
	bool bypass;                    /* read the disk, do not look at or fill the cache */
	bool large;                     /* of a large object: in the cache only from the second time on */
	bool alone;                     /* the reader's: not with its neighbours, of which one failed */
	void (*done)(struct pack_read *read); /* from the loop, never from inside read_start */
	void *arg;                      /* whoever reads: its own */
	/* out */
	/* 0; STALE: the pack is gone, look the object up once more; CORRUPT (short file); EIO; OFFLINE;
	 * TIMEDOUT (cold) */
	int err;
	bool is_cold;                   /* it came, or did not, out of a cold copy */
	const uint8_t *data;            /* want_len bytes until read_release() */
	struct cache_buf buf;
	void *own;                      /* or a copy of its own */
	/* the reader's own */
	struct pack_read *next;
	void *run;
};
/* Ranges of a pack's file are cut where units of READ_CUT bytes from k * READ_CUT + 1 on end. Data of records lies at
 * even offsets and is cached by them, so the two never meet; ranges in one unit share one place in the cache. Of a pack
 * that may still grow (fixed 0) exactly what is asked for is read, past the cache: what a unit holds must never change.
 * Sets the unit around byte x >= 1 and what is wanted of it, at most `left` bytes, which it returns; x and what is
 * wanted lie below fixed. */
enum { READ_CUT = 256 * 1024 };
uint32_t read_cut(struct pack_read *read, uint64_t fixed, uint64_t x, uint32_t left);
/* Cache only: true when served (data and buf set, done is not called). */
bool read_cached(struct reader *reader, struct pack_read *read);
void read_prefetch(struct reader *reader, const struct pack_read *read);
/* All of these missed (or bypass): they complete one by one, in the order that the disk gives. */
void read_start(struct reader *reader, struct pack_read **reads, uint32_t n);
void read_release(struct reader *reader, struct pack_read *read);
struct cache *reader_cache(const struct reader *reader);
struct reader_stats { uint64_t reads, merged, bytes_read, bytes_wanted; };
void reader_get_stats(const struct reader *reader, struct reader_stats *out);
