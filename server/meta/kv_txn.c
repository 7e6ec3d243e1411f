/* SPDX-License-Identifier: Apache-2.0 */
/* kv_txn.c -- builds a transaction: records back to back in one arena, keys hashed here and not by the committer.
 * Invariant: a transaction belongs to one thread until kv_submit, to kv until done. */
#include "meta/kv_group.h"

#include "common/error.h"
#include "common/hash.h"
#include "meta/rows.h"

#include <assert.h>
#include <stdlib.h>

static_assert(sizeof(struct kv_rec) % 8 == 0, "records are aligned to 8 bytes");

struct kv_txn *kv_txn_new(struct kv *kv)
{
	struct kv_txn *t = malloc(sizeof(*t));

	if (t == NULL)
		return NULL;
	memset(t, 0, offsetof(struct kv_txn, inline_recs));
	t->kv = kv;
	t->recs = t->inline_recs;
	t->recs_cap = KV_TXN_INLINE_SIZE;
	t->magic = KV_TXN_MAGIC;
	return t;
}

void kv_txn_free(struct kv_txn **tp)
{
	struct kv_txn *t = *tp;

	*tp = NULL;
	if (t == NULL)
		return;
	assert(t->magic == KV_TXN_MAGIC);
	t->magic = 0;
	if (t->recs != t->inline_recs)
		free(t->recs);
	free(t);
}

static bool txn_grow(struct kv_txn *t, uint64_t need)
{
	uint64_t cap = t->recs_cap;
	uint8_t *recs;

	while (cap < need)
		cap *= 2;
	if (cap > UINT32_MAX / 2)
		return false;
	recs = realloc(t->recs == t->inline_recs ? NULL : t->recs, (size_t)cap);
	if (recs == NULL)
		return false;
	if (t->recs == t->inline_recs)
		memcpy(recs, t->inline_recs, t->recs_len);
	t->recs = recs;
	t->recs_cap = (uint32_t)cap;
	return true;
}

/* Hashes are keyed with fixed numbers: who aims for collisions in the overlay of one group, or in the slots, gains
 * one more read for himself at the most. Tables that outlive a group and hold clients' names (loc.c) are keyed at
 * random. */
uint64_t kv_key_hash(struct slice key) { return hash_keyed(0, 0, key.p, key.len).lo; }

uint64_t kv_prefix_hash(struct slice key)
{
	uint64_t id;

	if (key.len < KV_PREFIX_LEN)
		return 0;
	memcpy(&id, key.p + 1, 8);
	return hash_u64(id ^ hash_u64(key.p[0])) | 1;
}

/* A record with key and value copied; NULL when memory ran out (the transaction then fails whole). */
static struct kv_rec *txn_add(struct kv_txn *t, enum kv_rec_kind kind, struct slice key, struct slice value)
{
	size_t size = (sizeof(struct kv_rec) + key.len + value.len + 7) & ~(size_t)7;
	struct kv_rec *r;

	assert(t->magic == KV_TXN_MAGIC);
	if (t->is_short || (t->recs_len + size > t->recs_cap && !txn_grow(t, t->recs_len + size))) {
		t->is_short = true;
		return NULL;
	}
	r = (struct kv_rec *)(void *)(t->recs + t->recs_len);
	t->recs_len += (uint32_t)size;
	*r = (struct kv_rec){ .size = (uint32_t)size, .kind = (uint8_t)kind, .key_len = (uint32_t)key.len,
		.value_len = (uint32_t)value.len };
	if (key.len)
		memcpy(r->bytes, key.p, key.len);
	if (value.len)
		memcpy(r->bytes + key.len, value.p, value.len);
	return r;
}

static struct kv_rec *txn_add_keyed(struct kv_txn *t, enum kv_rec_kind kind, struct slice key, struct slice value)
{
	struct kv_rec *r = txn_add(t, kind, key, value);
	const struct kv_rec *last;

	if (r == NULL)
		return NULL;
	last = t->keyed_at > 0 ? (const struct kv_rec *)(const void *)(t->recs + t->keyed_at - 1) : NULL;
	t->keyed_at = 1 + (uint32_t)((const uint8_t *)r - t->recs);
	if (last != NULL && slice_eq(rec_key(last), key)) {
		r->hash = last->hash;
		r->prefix_hash = last->prefix_hash;
	} else {
		r->hash = kv_key_hash(key);
		r->prefix_hash = kv_prefix_hash(key);
	}
	return r;
}

static const struct slice none;

void kv_put(struct kv_txn *t, struct slice key, struct slice value)
{
	txn_add_keyed(t, REC_PUT, key, value);
	t->ops_count++;
}

void kv_put_raising(struct kv_txn *t, struct slice key, struct slice value, uint16_t tag)
{
	struct kv_rec *r = txn_add_keyed(t, REC_PUT, key, value);

	assert(tag != TAG_ID && tag != TAG_VERSION);
	t->ops_count++;
	if (r != NULL)
		r->tag = tag;
}

void kv_put_keeping(struct kv_txn *t, struct slice key, struct slice value, uint16_t kept, uint16_t raised)
{
	struct kv_rec *r = txn_add_keyed(t, REC_PUT, key, value);

	assert(kept != TAG_ID && kept != TAG_VERSION && raised != TAG_ID && raised != TAG_VERSION);
	t->ops_count++;
	if (r == NULL)
		return;
	r->tag = raised;
	r->a = kept;
}

void kv_delete(struct kv_txn *t, struct slice key)
{
	txn_add_keyed(t, REC_DELETE, key, none);
	t->ops_count++;
}

static void txn_count(struct kv_txn *t, struct slice key, uint16_t tag, int64_t delta, bool is_known)
{
	struct kv_rec *r = txn_add_keyed(t, REC_ADD, key, none);

	assert(tag != TAG_ID && tag != TAG_VERSION);
	t->ops_count++;
	if (r == NULL)
		return;
	r->tag = tag;
	r->flag = is_known;
	r->a = (uint64_t)delta;
}

void kv_add(struct kv_txn *t, struct slice key, uint16_t tag, int64_t delta) { txn_count(t, key, tag, delta, false); }

void kv_add_known(struct kv_txn *t, struct slice key, uint16_t tag, int64_t delta)
{
	txn_count(t, key, tag, delta, true);
}

void kv_max(struct kv_txn *t, struct slice key, uint16_t tag, uint64_t value)
{
	struct kv_rec *r = txn_add_keyed(t, REC_MAX, key, none);

	assert(tag != TAG_ID && tag != TAG_VERSION);
	t->ops_count++;
	if (r == NULL)
		return;
	r->tag = tag;
	r->a = value;
}

void kv_txn_touch(struct kv_txn *t, uint64_t dir_id, struct slice name, uint64_t object_id)
{
	struct kv_rec *r = txn_add(t, REC_TOUCH, name, none);

	t->has_touch = true;
	if (r == NULL)
		return;
	r->a = dir_id;
	r->b = object_id;
}

void kv_pre_absent(struct kv_txn *t, uint64_t seen, struct slice key)
{
	struct kv_rec *r = txn_add_keyed(t, REC_ABSENT, key, none);

	if (r != NULL)
		r->seen = seen;
}

void kv_pre_version(struct kv_txn *t, uint64_t seen, struct slice key, uint64_t version)
{
	struct kv_rec *r = txn_add_keyed(t, REC_VERSION, key, none);

	if (r == NULL)
		return;
	r->seen = seen;
	r->a = version;
}

void kv_pre_id(struct kv_txn *t, uint64_t seen, struct slice key, uint64_t id, bool or_absent)
{
	struct kv_rec *r = txn_add_keyed(t, REC_ID, key, none);

	if (r == NULL)
		return;
	r->seen = seen;
	r->a = id;
	r->flag = or_absent;
}

void kv_pre_untouched(struct kv_txn *t, uint64_t seen, struct slice key)
{
	struct kv_rec *r = txn_add_keyed(t, REC_UNTOUCHED, key, none);

	assert(seen != 0);
	if (r != NULL)
		r->seen = seen;
}

void kv_pre_range_seen(struct kv_txn *t, uint64_t seen, struct slice prefix, bool empty)
{
	struct kv_rec *r = txn_add_keyed(t, REC_RANGE, prefix, none);

	t->has_range = true;
	if (r == NULL)
		return;
	r->seen = prefix.len == KV_PREFIX_LEN && prefix.p[0] == 'd' ? seen : 0;
	r->flag = empty;
}

void kv_pre_range(struct kv_txn *t, struct slice prefix, bool empty)
{
	kv_pre_range_seen(t, 0, prefix, empty);
}

void kv_pre_counter(struct kv_txn *t, struct slice key, uint16_t tag, uint64_t n, uint64_t limit)
{
	struct kv_rec *r = txn_add_keyed(t, REC_COUNTER, key, none);

	if (r == NULL)
		return;
	r->tag = tag;
	r->a = n;
	r->b = limit;
}

void kv_txn_set_unstable(struct kv_txn *t, uint64_t owner, struct kv_hold *hold, uint64_t weight, struct task *settled)
{
	assert(owner != 0 && settled != NULL && hold != NULL);
	t->owner = owner;
	t->hold = hold;
	t->weight = weight;
	t->settled = settled;
}

bool kv_txn_is_unstable(const struct kv_txn *t) { return t->owner != 0; }
bool kv_txn_is_pending(const struct kv_txn *t) { return t->is_pending; }
uint64_t kv_txn_losses(const struct kv_txn *t) { return t->losses; }
int kv_txn_result(const struct kv_txn *t) { return t->result; }
uint32_t kv_txn_ops(const struct kv_txn *t) { return t->ops_count; }
