/* SPDX-License-Identifier: Apache-2.0 */
/* kv_group.h -- the committer's inner parts: transactions as records, the overlay of the group in progress, counters.
 * Everything here but kv_rec belongs to the committer alone. Only kv*.c include this. */
#pragma once

#include "io/reactor.h"
#include "meta/kv_engine.h"

enum kv_rec_kind { REC_PUT = 1, REC_DELETE, REC_ADD, REC_MAX, REC_TOUCH, REC_ABSENT, REC_VERSION, REC_ID, REC_RANGE,
	REC_COUNTER, REC_UNTOUCHED };

/* One op, precondition or touch; they stand back to back in the transaction's arena. */
struct kv_rec {
	uint32_t size; /* with this header, a multiple of 8 */
	uint8_t kind;
	uint8_t flag;  /* REC_ID: or absent; REC_RANGE: empty; REC_ADD: where the tag is known */
	uint16_t tag;  /* of counters; REC_PUT: the one that is raised to the row's, 0: none */
	uint32_t key_len, value_len;
	uint64_t hash;        /* of the key */
	uint64_t prefix_hash; /* of its first KV_PREFIX_LEN bytes, 0 when it is shorter */
	uint64_t seen;
	uint64_t a, b;        /* version, id, delta, value / limit; touch: directory id, object id; REC_PUT: tag kept */
	uint8_t bytes[];      /* key, value */
};

enum {
	KV_PREFIX_LEN = 9, /* kind and directory id: what a range precondition of the namespace names */
	KV_TXN_INLINE_SIZE = 1024,
	KV_TXN_MAGIC = 0x6b767478,
};

struct kv_txn {
	struct kv_txn *next;
	struct kv *kv;
	uint8_t *recs; /* inline_recs, or on the heap */
	uint32_t recs_len, recs_cap;
	uint32_t keyed_at; /* 1 + where in recs the last record with a hash stands; 0: none */
	uint32_t ops_count;
	uint32_t magic;
	int result;
	bool has_range, has_touch, is_short; /* is_short: memory ran out while building */
	bool is_pending;
	struct reactor *to;
	struct task *done;
	uint64_t owner, weight, losses; /* owner: of an unstable one, else 0 */
	struct kv_hold *hold;
	struct task *settled;
	_Alignas(8) uint8_t inline_recs[KV_TXN_INLINE_SIZE];
};

uint64_t kv_key_hash(struct slice key);

static inline struct slice rec_key(const struct kv_rec *r) { return slice_of(r->bytes, r->key_len); }
static inline struct slice rec_value(const struct kv_rec *r)
{
	return slice_of(r->bytes + r->key_len, r->value_len);
}
/* Counters of one row stand in a row: what was found for the one before holds for the next. */
static inline bool rec_has_key_of(const struct kv_rec *r, const struct kv_rec *other)
{
	return other != NULL && r->hash == other->hash && slice_eq(rec_key(r), rec_key(other));
}
/* A put whose value depends on the row that it is put over. */
static inline bool rec_carries(const struct kv_rec *r) { return r->kind == REC_PUT && (r->tag != 0 || r->a != 0); }
static inline bool rec_is_known(const struct kv_rec *r) { return r->kind == REC_ADD && r->flag != 0; }
static inline bool rec_counts(const struct kv_rec *r) { return r->kind == REC_ADD || r->kind == REC_MAX; }
static inline const struct kv_rec *rec_first(const struct kv_txn *t)
{
	return t->recs_len ? (const struct kv_rec *)(const void *)t->recs : NULL;
}
static inline const struct kv_rec *rec_next(const struct kv_txn *t, const struct kv_rec *r)
{
	const uint8_t *p = (const uint8_t *)r + r->size;
	return p < t->recs + t->recs_len ? (const struct kv_rec *)(const void *)p : NULL;
}

/* ---- counters: a bounded cache of rows that kv_add and kv_max touch (kv_counter.c) ---- */

struct counter {
	struct counter *chain;            /* of its bucket */
	struct counter *newer, *older;    /* by last use */
	uint64_t hash;
	uint8_t *value;
	uint32_t value_len, value_cap;
	uint32_t key_len;
	bool exists;                      /* the row is there; else value_len is 0 */
	bool is_sound;                    /* the value can be read to its end */
	uint8_t key[];
};

struct counters {
	struct counter **buckets;
	struct counter *newest, *oldest;
	uint32_t count;
	uint64_t bytes;
	uint64_t clamped;
};

int counters_init(struct counters *cs);
void counters_release(struct counters *cs);
struct counter *counters_find(struct counters *cs, uint64_t hash, struct slice key);
/* Adds a row that is not there yet; NULL value: the row is missing. NULL when memory ran out. */
struct counter *counters_add(struct counters *cs, uint64_t hash, struct slice key, const struct slice *value);
void counters_drop(struct counters *cs, struct counter *c);
void counters_trim(struct counters *cs); /* between groups only: pointers of the group are gone */
void counters_clear(struct counters *cs);
/* The op of r (REC_ADD, REC_MAX) on c. -GRANARY_ECORRUPT, -GRANARY_ENOMEM: c unchanged. */
int counter_apply(struct counters *cs, struct counter *c, const struct kv_rec *r);

/* ---- overlay: what the group in progress has done to rows so far (kv_overlay.c) ---- */

enum overlay_kind { OVERLAY_PUT = 1, OVERLAY_DELETE, OVERLAY_COUNTER };

struct overlay_entry {
	uint64_t hash, prefix_hash;
	struct slice key, value;  /* borrowed from the transaction */
	struct counter *counter;  /* OVERLAY_COUNTER */
	uint64_t owner;           /* pending rows */
	uint32_t slot;            /* in table */
	uint32_t prefix_next;     /* index + 1 */
	uint32_t below, above;    /* index + 1: of the tree by key, once sorted */
	uint8_t kind;
	uint16_t tag;             /* counts of pending rows: of which tag, and how much it is */
	uint64_t count;
};

struct overlay {
	struct overlay_entry *entries;
	uint32_t count, cap;
	uint32_t *table;        /* index + 1, open addressing; 0 free */
	uint32_t *prefix_heads; /* index + 1; filled up to linked */
	uint32_t mask;
	uint32_t linked;
	uint32_t root, sorted;  /* the tree has the first `sorted` entries */
};

int overlay_init(struct overlay *o);
void overlay_release(struct overlay *o);
void overlay_reset(struct overlay *o);
/* Room for n more entries, so that overlay_touch cannot fail. */
int overlay_reserve(struct overlay *o, uint32_t n);
struct overlay_entry *overlay_find(const struct overlay *o, uint64_t hash, struct slice key);
struct overlay_entry *overlay_touch(struct overlay *o, uint64_t hash, uint64_t prefix_hash, struct slice key,
	bool *is_new);
void overlay_pop(struct overlay *o, uint32_t count); /* back to so many entries */
/* True when the overlay has a row that begins with prefix. */
bool overlay_has_prefix(struct overlay *o, uint64_t prefix_hash, struct slice prefix);
/* The same of rows that it deleted too. */
bool overlay_touches_prefix(struct overlay *o, uint64_t prefix_hash, struct slice prefix);
enum overlay_way { OVERLAY_FROM, OVERLAY_AFTER, OVERLAY_UP_TO };
/* The next entry in order of keys, deleted ones too: the first >= key, > key, the last <= key; or NULL. The first call
 * after rows were added sorts them in. Entries of an overlay that is asked so are taken away all at once only. */
struct overlay_entry *overlay_seek(struct overlay *o, struct slice key, enum overlay_way way);

/* ---- one group ---- */

enum { KV_SLOTS_COUNT = 1 << 20, KV_WITNESSES_COUNT = 256 };

struct witness { /* a row that was there lately: where to begin to look for "not empty" */
	uint64_t prefix_hash;
	uint32_t len, cap;
	uint8_t *key;
};

struct undo {
	uint32_t index;
	uint8_t kind;
};

struct kv_group {
	struct kv_engine *engine;
	struct overlay *pending; /* while an unstable transaction is judged: its session's rows */
	bool may_not_block;      /* -GRANARY_EAGAIN instead of a read from disk */
	uint64_t seq;            /* of this group: above every `seen` */
	uint64_t *slots;         /* seq of the last group that touched a key of this hash */
	struct overlay overlay;
	struct counters counters;
	struct kv_iter *iter;    /* rows as before the group; made when first needed */
	struct witness witnesses[KV_WITNESSES_COUNT];
	struct undo *undo;
	uint32_t undo_cap;
	struct kv_write_op *ops; /* for the engine */
	uint32_t ops_cap;
	uint64_t pre_reads;
};

int group_init(struct kv_group *g, struct kv_engine *engine);
void group_release(struct kv_group *g);
void group_begin(struct kv_group *g, uint64_t seq);
/* Judges txn and, when all holds, puts its ops into the overlay: 0. Else why not, and no trace. */
int group_add(struct kv_group *g, const struct kv_txn *txn);
/* What is to be written: one op a row, in order of keys. The count, or -GRANARY_ENOMEM. */
int64_t group_ops(struct kv_group *g);
void group_end(struct kv_group *g, bool is_written);
/* Judges an unstable transaction, and touches the slots of what it changes. The overlay is empty and stays so. */
int group_judge_unstable(struct kv_group *g, const struct kv_txn *txn, struct overlay *pending);
/* What was judged then, in the same order. */
int group_add_pending(struct kv_group *g, const struct kv_txn *txn);
void group_touch(struct kv_group *g, const struct kv_txn *txn); /* the slots of the rows it puts and deletes */
uint64_t kv_prefix_hash(struct slice key);
