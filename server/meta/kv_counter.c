/* SPDX-License-Identifier: Apache-2.0 */
/* kv_counter.c -- the committer's cache of rows that counter operations touch: a group's adds on one row are one
 * read at most and one put. Invariants: (1) a cached row is what the engine holds after the group in progress,
 * unless the overlay has a put or delete of it, which drops it here; (2) nothing is evicted inside a group; (3) a
 * group that could not be written clears everything. */
#include "meta/kv_group.h"

#include "common/error.h"
#include "common/log.h"
#include "common/name.h"
#include "common/tlv.h"
#include "meta/rows.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

enum {
	COUNTERS_MAX = 16 * 1024,
	COUNTERS_BYTES_MAX = 8 * 1024 * 1024,
	COUNTERS_BUCKETS = 2 * COUNTERS_MAX,
	COUNTER_TLV_SIZE = 2 + 4 + 8,
};
static_assert((COUNTERS_BUCKETS & (COUNTERS_BUCKETS - 1)) == 0, "masked");

int counters_init(struct counters *cs)
{
	memset(cs, 0, sizeof(*cs));
	cs->buckets = calloc(COUNTERS_BUCKETS, sizeof(*cs->buckets));
	return cs->buckets ? 0 : -GRANARY_ENOMEM;
}

void counters_release(struct counters *cs)
{
	if (cs->buckets != NULL)
		counters_clear(cs);
	free(cs->buckets);
	cs->buckets = NULL;
}

static void use_unlink(struct counters *cs, struct counter *c)
{
	*(c->newer ? &c->newer->older : &cs->newest) = c->older;
	*(c->older ? &c->older->newer : &cs->oldest) = c->newer;
}

static void use_push(struct counters *cs, struct counter *c)
{
	c->newer = NULL;
	c->older = cs->newest;
	*(cs->newest ? &cs->newest->newer : &cs->oldest) = c;
	cs->newest = c;
}

static struct counter **bucket_of(struct counters *cs, uint64_t hash)
{
	return &cs->buckets[hash & (COUNTERS_BUCKETS - 1)];
}

struct counter *counters_find(struct counters *cs, uint64_t hash, struct slice key)
{
	struct counter *c = *bucket_of(cs, hash);

	while (c != NULL && (c->hash != hash || !slice_eq(slice_of(c->key, c->key_len), key)))
		c = c->chain;
	if (c != NULL && c != cs->newest) {
		use_unlink(cs, c);
		use_push(cs, c);
	}
	return c;
}

static bool value_is_sound(struct slice value)
{
	struct cur c = cur_of(value.p, value.len);
	uint16_t tag;
	struct slice v;

	if (cur_u8(&c) != 1)
		return false;
	while (tlv_next(&c, &tag, &v))
		;
	return cur_done(&c);
}

struct counter *counters_add(struct counters *cs, uint64_t hash, struct slice key, const struct slice *value)
{
	uint32_t cap = (uint32_t)(value ? value->len : 1) + 2 * COUNTER_TLV_SIZE;
	struct counter *c = malloc(sizeof(*c) + key.len);

	if (c == NULL)
		return NULL;
	*c = (struct counter){ .hash = hash, .key_len = (uint32_t)key.len, .value_cap = cap, .exists = value != NULL,
		.value = malloc(cap) };
	if (c->value == NULL) {
		free(c);
		return NULL;
	}
	memcpy(c->key, key.p, key.len);
	if (value != NULL && value->len > 0) {
		memcpy(c->value, value->p, value->len);
		c->value_len = (uint32_t)value->len;
	}
	c->is_sound = value == NULL || value_is_sound(*value);
	c->chain = *bucket_of(cs, hash);
	*bucket_of(cs, hash) = c;
	use_push(cs, c);
	cs->count++;
	cs->bytes += sizeof(*c) + key.len + cap;
	return c;
}

void counters_drop(struct counters *cs, struct counter *c)
{
	struct counter **at = bucket_of(cs, c->hash);

	while (*at != c)
		at = &(*at)->chain;
	*at = c->chain;
	use_unlink(cs, c);
	cs->count--;
	cs->bytes -= sizeof(*c) + c->key_len + c->value_cap;
	free(c->value);
	free(c);
}

void counters_trim(struct counters *cs)
{
	while (cs->count > COUNTERS_MAX || cs->bytes > COUNTERS_BYTES_MAX)
		counters_drop(cs, cs->oldest);
}

void counters_clear(struct counters *cs)
{
	while (cs->oldest != NULL)
		counters_drop(cs, cs->oldest);
}

static int counter_reserve(struct counters *cs, struct counter *c, uint32_t need)
{
	uint8_t *value;

	if (need <= c->value_cap)
		return 0;
	value = realloc(c->value, 2 * (size_t)need);
	if (value == NULL)
		return -GRANARY_ENOMEM;
	cs->bytes += 2 * need - c->value_cap;
	c->value = value;
	c->value_cap = 2 * need;
	return 0;
}

/* A number that no longer fits into the short element it had. */
static int counter_widen(struct counters *cs, struct counter *c, uint16_t tag, uint64_t v)
{
	uint32_t cap = c->value_len + COUNTER_TLV_SIZE;
	uint8_t *wide = malloc(cap);
	int64_t len;
	int err;

	if (wide == NULL)
		return -GRANARY_ENOMEM;
	len = value_set_u64(slice_of(c->value, c->value_len), tag, v, wide, cap);
	err = len < 0 ? (int)len : counter_reserve(cs, c, cap);
	if (err == 0) {
		memcpy(c->value, wide, (size_t)len);
		c->value_len = (uint32_t)len;
	}
	free(wide);
	return err;
}

static int counter_append(struct counters *cs, struct counter *c, uint16_t tag, uint64_t v)
{
	int err = counter_reserve(cs, c, c->value_len + 1 + COUNTER_TLV_SIZE);
	struct wr w;

	if (err < 0)
		return err;
	w = wr_of(c->value + c->value_len, c->value_cap - c->value_len);
	if (c->value_len == 0)
		value_begin(&w);
	tlv_put_u64(&w, tag, v);
	assert(wr_ok(&w));
	c->value_len += (uint32_t)wr_len(&w);
	c->exists = true;
	return 0;
}

static uint64_t counter_result(struct counters *cs, const struct kv_rec *r, uint64_t old)
{
	char key[80];

	if (r->kind == REC_MAX)
		return old > r->a ? old : r->a;
	if ((int64_t)r->a >= 0)
		return old + r->a < old ? UINT64_MAX : old + r->a;
	if (old >= -r->a)
		return old + r->a;
	if (cs->clamped++ == 0)
		log_error("counter of row '%s' would go below zero; tag=%u value=%" PRIu64 " add=%" PRId64,
			name_escape(key, sizeof(key), rec_key(r)), r->tag, old, (int64_t)r->a);
	return 0;
}

int counter_apply(struct counters *cs, struct counter *c, const struct kv_rec *r)
{
	struct slice v = { NULL, 0 };
	struct cur cur = cur_of(c->value, c->value_len);
	uint16_t tag = 0;
	uint64_t now;
	bool is_found = false;

	if (!c->is_sound)
		return -GRANARY_ECORRUPT;
	if (c->value_len > 0)
		cur_u8(&cur);
	while (!is_found && tlv_next(&cur, &tag, &v))
		is_found = tag == r->tag;
	if (is_found && (v.len == 0 || v.len > 8))
		return -GRANARY_ECORRUPT;
	if (!is_found && rec_is_known(r))
		return 0;
	now = counter_result(cs, r, is_found ? tlv_u64(v) : 0);
	if (!is_found)
		return counter_append(cs, c, r->tag, now);
	if (v.len < 8 && (now >> (8 * v.len)) != 0)
		return counter_widen(cs, c, r->tag, now);
	memcpy(c->value + (v.p - c->value), &now, v.len);
	return 0;
}
