/* SPDX-License-Identifier: Apache-2.0 */
/* many.h -- operations over an array whose entries are answered one by one in one message: stat, delete, put. */
#pragma once

#include "client_priv.h"

struct many_op {
	struct granary_op op;
	const struct many_kind *kind;
	void *items;            /* the caller's array */
	uint32_t count, next;   /* entries; the first one not asked for yet */
	uint32_t parts_open, flags;
	uint64_t served;
	bool *answered;         /* one an entry */
	void *out;
};

struct many_kind {
	const struct rpc_kind *rpc;
	/* How many entries from `first` on go into one request; 0: the entry at `first` is dealt with otherwise. */
	uint32_t (*part)(const struct many_op *m, uint32_t first);
	/* Reads entry `at` of the answer; returns its status. */
	int (*decode)(struct many_op *m, uint32_t at, struct cur *c);
	void (*status)(struct many_op *m, uint32_t at, int status); /* of an entry that was never answered */
};

struct many_rpc {
	struct rpc rpc;
	uint32_t first, count;
	struct iovec *data; /* put: the contents */
};

static inline struct many_op *many_of(struct granary_op *op) { return container_of(op, struct many_op, op); }
static inline struct many_rpc *many_rpc_of(struct rpc *r) { return container_of(r, struct many_rpc, rpc); }

/* For op_kind and rpc_kind. */
int many_more(struct granary_op *op);
int64_t many_finish(struct granary_op *op, int err);
void many_free(struct granary_op *op);
int many_answer(struct rpc *r, struct slice meta, struct slice data);
void many_rpc_free(struct rpc *r);
int many_part_start(struct many_op *m, uint32_t count);
void many_entry_done(struct many_op *m, uint32_t at, int status);
uint32_t many_part_all(const struct many_op *m, uint32_t first); /* as many as a message takes */
/* A new operation over `count` items; NULL and *err, with the thread's error text. */
struct many_op *many_new(struct granary_client *c, size_t size, const struct op_kind *op_kind,
	const struct many_kind *kind, size_t count, const struct granary_call *call, int *err);
int64_t many_run(struct many_op *m); /* runs and frees it */

/* put_entry.c: one entry of PUT (PROTOCOL 5.3). */
enum { PUT_INLINE_MAX = WIRE_ENTRY_DATA_MAX };
int put_check(struct granary_client *c, const struct granary_put *p);
size_t put_entry_size(const struct granary_put *p, uint64_t size);
void put_entry_encode(struct wr *w, const struct granary_put *p, uint64_t upload, uint64_t size);
int put_entry_decode(struct cur *c, struct granary_put *p); /* returns the status */
/* EXTENT (5.4): one piece of an upload. */
size_t extent_size(const struct granary_ref *ref);
void extent_encode(struct wr *w, const struct granary_ref *ref, uint64_t upload, uint64_t offset, const void *data,
	size_t len);
