/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.h -- rows of recipes and of what they hold (FORMAT 6.12c): keys, values, looking up. Owns
 * nothing. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/hash.h"

struct kv;
struct kv_value;

enum { RECIPE_NOTE_MAX = 1024, HOLD_KEY_BUCKETS = 2 };
enum { WTAG_TEXT = 80, WTAG_HASH, WTAG_CREATED, WTAG_BUCKETS, WTAG_SAMPLES, WTAG_NOTE, WTAG_ID };

struct recipe_row { /* slices borrow from the row */
	uint64_t id, created_ns, samples;
	struct hash128 hash;
	struct slice text, note;
	struct slice buckets; /* little-endian u64 each: where each source's snapshot is */
};
int recipe_row_decode(struct slice value, struct recipe_row *out); /* 0 or -GRANARY_ECORRUPT */
/* Length, or -GRANARY_ETOOBIG; needs at most recipe_row_size(). */
size_t recipe_row_size(const struct recipe_row *r);
int64_t recipe_row_encode(const struct recipe_row *r, void *buf, size_t cap);

struct slice row_recipe(uint8_t *buf, uint64_t bucket, struct slice name); /* `w` */
struct slice row_recipe_prefix(uint8_t *buf, uint64_t bucket);

/* `n` 2: a snapshot (bucket, name) is a source of a recipe (bucket, name). Its value has the hash. */
struct slice row_hold(uint8_t *buf, uint64_t bucket, struct slice snapshot, uint64_t of_bucket,
	struct slice recipe);
struct slice row_hold_prefix(uint8_t *buf, uint64_t bucket, struct slice snapshot);
bool row_hold_parse(struct slice key, uint64_t *of_bucket, struct slice *recipe);

/* 0 or -GRANARY_ENOTFOUND; the row borrows from *value (release it). */
int recipe_find(struct kv *kv, uint64_t bucket, struct slice name, struct recipe_row *out,
	struct kv_value *value);
/* Rows of one bucket behind `after`, in order; non-zero from each() stops and is returned. */
int recipe_each(struct kv *kv, uint64_t bucket, struct slice after,
	int (*each)(void *arg, struct slice name, const struct recipe_row *r), void *arg);
/* A recipe that is made of the snapshot with this manifest: 1, 0, or an error. */
int hold_find(struct kv *kv, uint64_t bucket, struct slice snapshot, struct hash128 manifest,
	uint64_t *of_bucket, char *recipe, size_t cap);
