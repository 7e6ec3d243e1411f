/* SPDX-License-Identifier: Apache-2.0 */
/* kv_engine.h -- what kv.c asks of an engine: ordered rows, views that do not move, one durable batch at a time.
 * Only kv*.c include this. */
#pragma once

#include "meta/kv.h"

struct kv_engine;

struct kv_iter_ops {
	void (*seek)(struct kv_iter *it, struct slice key);
	void (*seek_back)(struct kv_iter *it, struct slice key);
	void (*next)(struct kv_iter *it);
	void (*free)(struct kv_iter *it);
};

/* Base of an engine's iterator; seek, seek_back and next leave key, value, is_valid, err set. */
struct kv_iter {
	const struct kv_iter_ops *ops;
	struct slice key, value;
	bool is_valid;
	int err;
};

enum kv_iter_kind {
	ITER_PLAIN,
	ITER_SCAN,   /* reads ahead, leaves the cache alone */
	ITER_CACHED, /* never blocks: its error is EAGAIN instead */
};

struct kv_engine_ops {
	const char *name;
	bool has_committer; /* a thread of its own commits; else kv_turn() */
	int (*get)(struct kv_engine *e, struct slice key, struct kv_value *out);
	int (*get_cached)(struct kv_engine *e, struct slice key, struct kv_value *out); /* never blocks; or EAGAIN */
	struct kv_snapshot *(*snapshot_new)(struct kv_engine *e);
	void (*snapshot_free)(struct kv_engine *e, struct kv_snapshot *s);
	struct kv_iter *(*iter_new)(struct kv_engine *e, struct kv_snapshot *s, enum kv_iter_kind kind);
	/* Keys differ. 0: durable, and visible to readers from before the return on, never before it was synced.
	 * -GRANARY_ENOSPACE: nothing of it is or will be visible, the engine works. Anything else: unknown, stop. */
	int (*write)(struct kv_engine *e, const struct kv_write_op *ops, uint32_t n);
	int (*reopen)(struct kv_engine *e);
	uint64_t (*position)(struct kv_engine *e); /* kv_position(); the committer's own thread or any */
	int (*checkpoint)(struct kv_engine *e, const char *dir);
	void (*close)(struct kv_engine *e); /* frees e */
};

struct kv_engine {
	const struct kv_engine_ops *ops;
};

/* Takes the engine over, also on failure. */
int kv_new(struct kv_engine *engine, const struct kv_options *options, struct kv **out);
