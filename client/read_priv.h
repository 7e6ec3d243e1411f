/* SPDX-License-Identifier: Apache-2.0 */
/* read_priv.h -- a batch read, shared by read.c (requests, results), read_place.c (where bytes go), read_rx.c
 * (answers). */
#pragma once

#include "client_priv.h"
#include "file_priv.h"

/* What the library remembers of an entry; all 0 to begin with. */
struct read_slot {
	uint8_t *dst;  /* placed: where its bytes go */
	uint64_t cap;  /* bytes there */
	uint64_t want; /* bytes that the caller gets */
	uint64_t got;  /* of those, laid out in this attempt */
	int16_t fail;  /* cannot be placed: its bytes are thrown away and this is its status */
	bool done, placed;
	bool bad;      /* a checksum of this attempt was wrong */
	bool again;    /* the server asked for patience */
};

struct read_op {
	struct granary_op op;
	struct granary_entry *entries;
	struct read_slot *slots;
	uint32_t count, next; /* entries; the first one not asked for yet */
	uint32_t parts_open;
	uint32_t flags, align;
	uint8_t *slab;
	size_t slab_size, slab_used;
	uint64_t expect; /* bytes that are still to come into leased memory, by guess */
	granary_entry_fn *each;
	void *each_arg;
	uint64_t served, bytes;
	struct granary_file *file; /* of one entry that is opened as well; NULL: it was handed over, or there is none */
	struct granary_file **file_out;
};

struct read_rpc {
	struct rpc rpc;
	uint32_t count;
	bool verify;      /* asks the server to verify and repair */
	uint32_t index[]; /* entries */
};

static inline struct read_op *read_op_of(struct granary_op *op) { return container_of(op, struct read_op, op); }
static inline struct read_rpc *read_rpc_of(struct rpc *r) { return container_of(r, struct read_rpc, rpc); }

/* Of an answer to READ or LOCATE. */
struct read_piece {
	uint32_t index;
	uint16_t status;
	uint8_t flags;
	uint64_t object_id, version, size, mtime_ns, dir_id, offset;
	uint32_t len, cut_from, cut_len; /* the object's bytes of it begin at cut_from; `offset` is theirs */
	uint64_t pack, address; /* LOCATE: where its bytes are; pack 0: it has none */
	struct cur crcs;
	struct slice hash, text;
};

/* read_place.c: gives the slot room for slot->want bytes, or sets slot->fail. */
void read_place(struct read_op *ro, uint32_t at);
/* read_rx.c */
int read_plan(struct rpc *r, struct slice meta, struct rx *rx);
int read_frame(struct rpc *r, struct rx *rx);
int read_answer(struct rpc *r, struct slice meta, struct slice data);
bool read_piece_decode(struct cur *c, struct read_piece *p);
/* Lays out its data: blocks and a piece of rx. */
int read_piece_plan(struct read_op *ro, const struct read_rpc *rr, struct rx *rx, struct read_piece *p);
/* read_local.c: is the next part to be read by descriptor, as far as that goes? */
bool read_locates(struct granary_client *c);
bool locate_failed(struct rpc *r, int err);
int locate_answer(struct rpc *r, struct slice meta, struct slice data);
/* read.c */
void read_entry_done(struct read_op *ro, uint32_t at, int status);
int read_rest(struct read_op *ro, const struct read_rpc *rr, bool verify); /* READ for what of it is not done */
