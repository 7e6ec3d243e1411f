/* SPDX-License-Identifier: Apache-2.0 */
/* share.h -- bytes that several consumers of one epoch take in parts: read once, kept until all have taken theirs.
 *
 * A span is a stretch of a pack, at most SHARE_SPAN_MAX long, of which all consumers with one tag together take
 * `wanted` bytes, each byte once. Who asks first starts the read, whoever asks meanwhile joins it, on any reactor;
 * with the last of the wanted bytes taken it goes.
 *
 * share:  COMING -> HERE     read, through the cache; what is not part of it is copied into the ring
 *         COMING -> (gone)   the read failed: all who joined are told; the next one tries again
 *         HERE   -> (gone)   `wanted` bytes were taken, or it was dropped for room
 *
 * Memory is one ring of a fixed size, in which a share that lies in the cache has a place too, for its references keep
 * what they point to. When it is full, whoever wants a new span waits for the slowest consumer of the
 * oldest one; one that nobody took from for SHARE_PATIENCE_NS is dropped, and for a while those of its tag after it at
 * once: consumers that lag behind then read again. Where even that gives no room (answers that the network has not
 * taken) the caller is told to read for itself alone.
 *
 * Nobody who holds memory of a share waits for memory of the ring, so waiting always ends. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/reactor.h"

struct reader;
struct share;
struct shares;
struct shares_local; /* one a reactor */

enum { SHARE_SPAN_MAX = 512 * 1024 };
#define SHARE_PATIENCE_NS UINT64_C(1000000000)

struct shares *shares_new(uint64_t memory); /* bytes of the ring, at least 4 MiB; taken as it is used */
void shares_free(struct shares **shares);   /* nothing is taken from it any more */
struct shares_local *shares_local_new(struct shares *shares, struct reader *reader, struct reactor *reactor);
void shares_local_free(struct shares_local **local);

struct share_span {
	uint64_t tag;            /* of the epoch */
	uint64_t pack;
	uint32_t offset, length; /* in the pack's file; 1 to SHARE_SPAN_MAX */
	uint32_t wanted;         /* bytes that all consumers take; at most length */
};
struct share_take {
	/* in */
	struct share_span span;
	uint64_t fixed;          /* size of the pack's file if it grows no more, else 0 */
	uint32_t at, len;        /* the part that is taken, from the span's first byte */
	void (*done)(struct share_take *take); /* from the loop of the reactor that asked */
	/* out */
	int err;                 /* 0, or what a pack_read gives */
	const uint8_t *data;     /* len bytes until share_release() */
	/* its own */
	struct share *share;
	uint8_t *own;            /* a copy: it lay in two places */
	struct share_take *next;
	struct shares_local *local;
	struct task task;
};
struct share_wait {
	struct task task;        /* in: posted once, when it is worth to ask again */
	struct shares_local *local;
	struct share_wait *next;
};
enum share_answer {
	SHARE_TAKEN,             /* data is there */
	SHARE_COMING,            /* done() will be called */
	SHARE_FULL,              /* no room now: `wait` will be posted, unless it is NULL */
	SHARE_ALONE,             /* no room: read it as if there were no shares */
};
enum share_answer share_take(struct shares_local *local, struct share_take *take, struct share_wait *wait);
void share_release(struct share_take *take);

struct shares_stats {
	uint64_t made, taken_bytes, dropped, alone; /* dropped: before all was taken */
	uint64_t used, size;                        /* bytes of the ring */
};
void shares_get_stats(struct shares *shares, struct shares_stats *out);
