/* SPDX-License-Identifier: Apache-2.0 */
/* read.h -- private to req/read*.c: a batch read. Entries are resolved to extents, extents cut into
 * pieces (a part of one unit of the reader), pieces gathered into frames.
 *
 * An entry:  NEW -> LOOKING (a worker has it) -> FOUND -> (all pieces made) STARTED
 *            FOUND -> LOOKING again where its extents are too many to be had at once: for the next of them
 * A piece:   made -> started (cached: ready at once) -> ready -> in a frame -> released
 *
 * Invariants: (1) pieces of an entry leave in order of logical offset; with READ_IN_ORDER entries
 * in order too;
 * (2) bytes of pieces made and not released count in peer->ahead_bytes: at most READ_AHEAD_BYTES of
 * them, or one piece; (3) the body outlives the request: every frame holds a reference, as its
 * pieces may lie in the body; (4) the reactor touches no entry in state LOOKING and no piece that a
 * job has. */
#pragma once

#include "pack/reader.h"
#include "req/kind.h"

enum {
	READ_CHUNK = 64, /* entries whose cache misses overlap */
	READ_LINES_AHEAD = 4, /* of a sample, fetched before it is sent */
	READ_AHEAD_BYTES = 8 * 1024 * 1024,
	READ_RETRIES_MAX = 3,
	READ_AHEAD_ENTRIES = 1024,
	READ_FRAME_PIECES = 512,
	READ_LARGE = 64 * 1024 * 1024, /* an object */
	READ_FRAME_EARLY = 128 * 1024,
	READ_EXTENTS_MAX = 4096, /* of one entry at a time; those that follow are looked up when these are in frames */
};

enum read_state { READ_NEW, READ_LOOKING, READ_FOUND, READ_STARTED };

struct read_entry;
struct read;

struct read_piece {
	struct pack_read read;
	struct read_entry *entry;
	struct read_piece *next; /* in its queue, then in its frame */
	uint64_t logical;
	uint64_t record, extent_at; /* of read.pack: its record, and the logical offset of that one's extent */
	const uint8_t
		*crcs; /* crc_count little-endian u32, in the entry's memory; of zeros: none */
	uint8_t *own;  /* bytes that are not the cache's: verified ones */
	uint32_t len;
	uint32_t cut_from, cut_len; /* which of its bytes are the object's, where not all are: cut_len > 0 */
	uint16_t crc_count;
	int16_t err;
	uint8_t retries; /* looked up again, as its pack was compacted away: READ_RETRIES_MAX times at most */
	bool first, last, ready, zeros;
	bool located;      /* LOCATE: its address travels, not its bytes */
	bool held, inside; /* read_release() is due; it is the entry's own */
	bool unsummed;     /* no row has its checksums: they are made of the bytes that came (EXTENT_UNSUMMED) */
	uint8_t *made;     /* those */
};

struct read_extents {
	uint32_t count;
	struct extent e[];
}; /* crcs behind them */

struct read_queue {
	struct read_piece *head, **tail;
};

struct read_entry {
	struct read *read;
	struct ns_ref ref;
	uint64_t offset, length, version; /* asked for */
	uint64_t handle;                  /* READ_ENTRY_OPEN */
	uint64_t at, end;                 /* next byte to make a piece of; where it ends */
	struct obj_loc loc;
	struct read_extents *extents; /* NULL: loc has the only one */
	struct read_queue queue;      /* when it has several pieces */
	uint64_t extents_end;         /* behind it they are not known yet */
	uint32_t next_extent, unframed; /* unframed: pieces that are made and not in a frame */
	int16_t err;
	uint8_t state, flags;
	bool made_first, several;
	char *text;
	struct read_piece piece;
};

struct read {
	struct req *r;
	struct store_local *local;
	struct req_peer *peer;
	uint32_t refs;              /* the request and every frame */
	uint32_t count, next, left; /* entries; next to start; whose last piece is not in a frame */
	uint32_t inflight;          /* pieces at the reader or with a job */
	uint32_t in_order, verify;
	bool looking, scheduled, waiting;
	struct task run, look;
	struct auth *look_auth; /* the worker's copy */
	uint32_t *look_list, look_count; /* entries in state LOOKING */
	struct read_queue queue;                /* in order: all pieces */
	struct read_piece *small, **small_tail; /* ready, gathered for a frame */
	uint32_t small_count, small_bytes;
	struct auth auth;
	struct read_entry entries[];
};

/* read_open.c: READ_ENTRY_OPEN; open.c's invariants hold. */
/* The location was found in the tables: opens it, and sees that it still is what stands there. 0; EAGAIN: a worker has
 * to; or an error, and it is not open. */
int read_open_found(struct read *b, struct read_entry *e);
/* Worker. From here on the entry is read by its id. */
int read_open_look(struct read *b, struct auth *a, struct read_entry *e);

/* read_extent.c */
/* Sets what pieces are made of: the range that is asked for, checked. Any thread. */
void read_entry_set_range(struct read_entry *e);
/* Takes an object row into the entry. Worker. */
int read_entry_take(
	struct ns *ns, struct read_entry *e, const struct ns_place *place, const struct object *o);
/* The extents of its range, or of what is left of it, into the entry. Worker. */
int read_entry_gather(struct ns *ns, struct read_entry *e, const struct object *o);
/* The piece that begins with byte `from` of the extent, up to `end` or where its unit ends. */
void piece_of_extent(struct read_piece *p, const struct extent *x, uint64_t from, uint64_t end);
/* The entry's next piece; false when there is none. Not for entries with an error. */
bool read_piece_make(struct read_entry *e, struct read_piece *p);
extern uint8_t read_zeros[CACHE_UNIT_MAX];

/* read_send.c */
void read_queue_init(struct read_queue *q);
void read_queue_push(struct read_queue *q, struct read_piece *p);
void read_piece_ready(struct read *b, struct read_piece *p); /* sends what may be sent */
void read_flush(struct read *b);                             /* the gathered small ones */
void read_body_unref(struct read **b);

/* Has the worker to look at it whatever the cache says? Those that nobody knows the checksums of, once they are on a
 * disk of ours: the record there has them. */
bool read_piece_by_record(struct read *b, const struct read_piece *p);

/* read_job.c: what a worker does for one piece */
void read_piece_verify(struct read *b, struct read_piece *p); /* READ_VERIFY: past the cache */
void read_piece_retry(
	struct read *b, struct read_piece *p); /* its pack is gone: where is it now? */
void read_piece_explain(struct read *b,
	struct read_piece *p); /* the text of an error that needs one; logs it once */

size_t read_piece_meta_len(const struct read_piece *p);
uint8_t *read_piece_put(uint8_t *to, const struct read *b, const struct read_piece *p); /* what follows so many bytes */

/* read.c: steps that batch reads and read_locate.c share */
enum step_result read_parse(struct req *r);
enum step_result read_find(struct req *r);
void read_cleanup(struct req *r);
void read_entry_found(struct read_entry *e, int err); /* it was looked up */
void read_schedule(struct read *b);
void read_piece_start(struct read *b, struct read_piece *p);
