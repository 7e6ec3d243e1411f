/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_recipe.c -- see recipe.h. Everything that makes or removes a row is under the snapshots'
 * change_lock, so no source goes while a recipe of it is made. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/recipe.h"
#include "common/tlv.h"
#include "common/wire.h"
#include "jobs/recipe.h"
#include "jobs/snapshot_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "meta/recipe.h"
#include "meta/rows.h"

struct maker {
	struct snapshots *s;
	struct recipe_making *m;
	struct recipe recipe;
	uint64_t buckets[MIX_SOURCES_MAX];
	char *text;
	size_t cap;
};

__attribute__((format(printf, 3, 4))) static int refuse(
	struct maker *k, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(k->text, k->cap, fmt, ap);
	va_end(ap);
	return err;
}

/* ---- sources ---- */

/* BUCKET@NAME in two; false when it is none. */
static bool address_split(const char *address, struct slice *bucket, struct slice *name)
{
	const char *at = strchr(address, '@');

	if (at == NULL) return false;
	*bucket = slice_of(address, (size_t)(at - address));
	*name = slice_str(at + 1);
	return bucket_name_check(*bucket) == 0 && snapshot_name_check(*name) == 0;
}

static int source_check(struct maker *k, uint32_t i)
{
	const struct recipe_source *from = &k->recipe.sources[i];
	const struct recipe_asker *asker = &k->m->asker;
	struct slice bucket_name, name;
	struct snapshot_row row;
	struct kv_value value;
	struct ns_bucket bucket;
	int err;

	if (!address_split(from->snapshot, &bucket_name, &name))
		return refuse(k, -GRANARY_EINVAL, "sources[%u].snapshot: '%.100s' is not BUCKET@NAME", i,
			from->snapshot);
	err = ns_bucket_find(k->s->o.ns, bucket_name, &bucket);
	if (err == 0) err = snapshot_find(k->s->o.kv, bucket.id, name, &row, &value);
	if (err < 0)
		return refuse(k, err == -GRANARY_ENOBUCKET ? -GRANARY_ENOTFOUND : err,
			"sources[%u]: there is no snapshot '%.200s'", i, from->snapshot);
	k->buckets[i] = bucket.id;
	if (!asker->may(asker->arg, bucket_name, row.prefix))
		err = refuse(k, -GRANARY_EACCESS, "sources[%u]: the key may not read '%.200s'", i,
			from->snapshot);
	else if (row.state != SNAPSHOT_READY)
		err = refuse(k, -GRANARY_EBUSY, "sources[%u]: '%.200s' is being made", i, from->snapshot);
	else if (snapshot_row_identity(&row).lo != from->hash.lo || snapshot_row_identity(&row).hi != from->hash.hi)
		err = refuse(k, -GRANARY_ECHANGED,
			"sources[%u]: '%.200s' is another snapshot than the one of that hash", i,
			from->snapshot);
	kv_value_release(&value);
	return err;
}

/* ---- making ---- */

/* The text stands as it would be written, so that its hash is that of its meaning. */
static int canonical_check(struct maker *k)
{
	const struct recipe *r = &k->recipe;
	size_t len = recipe_canonical(r, NULL, 0);
	char *again = malloc(len + 1);
	bool same;

	if (again == NULL) return -GRANARY_ENOMEM;
	recipe_canonical(r, again, len + 1);
	same = slice_eq(slice_of(again, len), k->m->text);
	free(again);
	if (!same) return refuse(k, -GRANARY_EINVAL, "the text is not in canonical form");
	if (r->block == 0 || r->window == 0 || r->lanes == 0)
		return refuse(k, -GRANARY_EINVAL, "block, window, lanes: missing");
	for (uint32_t i = 0; i < r->sources_count; i++)
		if (!r->sources[i].has_hash)
			return refuse(k, -GRANARY_EINVAL, "sources[%u].hash: missing", i);
	return 0;
}

static void plan_holds(struct maker *k, struct kv_txn *txn)
{
	for (uint32_t i = 0; i < k->recipe.sources_count; i++) {
		const struct recipe_source *from = &k->recipe.sources[i];
		uint64_t hash[2] = { from->hash.lo, from->hash.hi };
		uint8_t key[ROW_KEY_MAX], value[32];
		struct slice bucket, name;
		struct wr w = wr_of(value, sizeof(value));

		address_split(from->snapshot, &bucket, &name);
		value_begin(&w);
		tlv_put(&w, WTAG_HASH, slice_of(hash, sizeof(hash)));
		kv_put(txn, row_hold(key, k->buckets[i], name, k->m->bucket, k->m->name),
			slice_of(value, wr_len(&w)));
	}
}

static int row_commit(struct maker *k)
{
	struct recipe_making *m = k->m;
	struct kv *kv = k->s->o.kv;
	struct recipe_row row = { .id = ids_object(k->s->o.ids),
		.created_ns = m->created_ns,
		.samples = m->samples,
		.hash = m->hash,
		.text = m->text,
		.note = m->note,
		.buckets = slice_of(k->buckets, 8 * (size_t)k->recipe.sources_count) };
	size_t cap = recipe_row_size(&row);
	uint8_t *value = malloc(cap), key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(kv);
	struct ns_bucket bucket;
	int err = value != NULL && txn != NULL ? ns_bucket_by_id(k->s->o.ns, m->bucket, &bucket)
					       : -GRANARY_ENOMEM;

	if (err == 0) {
		int64_t len = recipe_row_encode(&row, value, cap);

		assert(len > 0);
		kv_put(txn, row_recipe(key, m->bucket, m->name), slice_of(value, (size_t)len));
		plan_holds(k, txn);
		kv_pre_absent(txn, 0, row_recipe(key, m->bucket, m->name));
		kv_pre_absent(txn, 0, row_snapshot(key, m->bucket, m->name));
		kv_pre_id(txn, 0, row_bucket(key, slice_of(bucket.name, bucket.name_len)),
			bucket.id, false);
		err = kv_submit_wait(kv, txn);
	}
	if (txn != NULL) kv_txn_free(&txn);
	free(value);
	if (err == -GRANARY_EBUSY)
		return refuse(k, -GRANARY_EEXIST,
			"there is a snapshot or recipe of that name already, or the bucket was removed");
	return err;
}

static int make(struct maker *k)
{
	int err = canonical_check(k);

	if (err < 0) return err;
	k->m->hash = hash_content(k->m->text.p, k->m->text.len);
	k->m->samples = k->recipe.samples;
	k->m->sources = k->recipe.sources_count;
	k->m->created_ns = store_clock_now(k->s->o.clock);
	pthread_mutex_lock(&k->s->change_lock);
	for (uint32_t i = 0; i < k->recipe.sources_count && err == 0; i++) err = source_check(k, i);
	if (err == 0) err = row_commit(k);
	pthread_mutex_unlock(&k->s->change_lock);
	return err;
}

int recipes_make(struct snapshots *s, struct recipe_making *m, char *text, size_t cap)
{
	struct maker *k = calloc(1, sizeof(*k));
	int err;

	if (k == NULL) return -GRANARY_ENOMEM;
	k->s = s;
	k->m = m;
	k->text = text;
	k->cap = cap;
	err = recipe_parse(&k->recipe, (const char *)m->text.p, m->text.len, text, cap);
	if (err == 0) {
		err = make(k);
		recipe_release(&k->recipe);
	}
	free(k);
	return err;
}

/* ---- finding ---- */

int recipes_judge(struct snapshots *s, const struct recipe_row *r, const struct recipe_asker *asker)
{
	struct recipe recipe;
	char why[128];
	int err = recipe_parse(&recipe, (const char *)r->text.p, r->text.len, why, sizeof(why));

	if (err < 0) return err == -GRANARY_ENOMEM ? err : -GRANARY_ECORRUPT;
	for (uint32_t i = 0; err == 0 && i < recipe.sources_count; i++) {
		struct slice bucket_name, name, prefix = slice_of(NULL, 0);
		struct snapshot_row row;
		struct kv_value value;
		uint64_t bucket;

		if (!address_split(recipe.sources[i].snapshot, &bucket_name, &name) ||
			r->buckets.len < 8 * ((size_t)i + 1)) {
			err = -GRANARY_ECORRUPT;
			break;
		}
		memcpy(&bucket, r->buckets.p + 8 * (size_t)i, 8);
		if (snapshot_find(s->o.kv, bucket, name, &row, &value) < 0) continue;
		prefix = row.prefix;
		if (!asker->may(asker->arg, bucket_name, prefix)) err = -GRANARY_EACCESS;
		kv_value_release(&value);
	}
	recipe_release(&recipe);
	return err;
}

int recipes_judge_name(struct snapshots *s, uint64_t bucket, struct slice name,
	const struct recipe_asker *asker)
{
	struct recipe_row row;
	struct kv_value value;
	int err = recipe_find(s->o.kv, bucket, name, &row, &value);

	if (err < 0) return err;
	err = recipes_judge(s, &row, asker);
	kv_value_release(&value);
	return err;
}

int recipes_list(struct snapshots *s, uint64_t bucket, struct slice after,
	int (*each)(void *arg, struct slice name, const struct recipe_row *r), void *arg)
{
	return recipe_each(s->o.kv, bucket, after, each, arg);
}

int recipes_hold(struct snapshots *s, uint64_t bucket, struct slice snapshot,
	struct hash128 manifest, char *text, size_t cap)
{
	char recipe[SNAPSHOT_NAME_MAX + 1];
	struct ns_bucket of = { 0 };
	uint64_t of_bucket;
	int found = hold_find(s->o.kv, bucket, snapshot, manifest, &of_bucket, recipe, sizeof(recipe));

	if (found < 0) snprintf(text, cap, "%s", error_text(found));
	if (found <= 0) return found;
	if (ns_bucket_by_id(s->o.ns, of_bucket, &of) < 0) return 0; /* gone with its bucket */
	snprintf(text, cap, "recipe '%.*s@%s' is made of it; remove that first, or use force",
		of.name_len, of.name, recipe);
	return -GRANARY_EBUSY;
}

/* ---- removing ---- */

static int remove_row(
	struct snapshots *s, uint64_t bucket, struct slice name, const struct recipe_row *row)
{
	struct kv_txn *txn = kv_txn_new(s->o.kv);
	struct recipe recipe;
	uint8_t key[ROW_KEY_MAX];
	char why[128];
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	err = recipe_parse(&recipe, (const char *)row->text.p, row->text.len, why, sizeof(why));
	for (uint32_t i = 0; err == 0 && i < recipe.sources_count && row->buckets.len >= 8 * (i + 1u); i++) {
		struct slice bucket_name, source;
		uint64_t of;

		memcpy(&of, row->buckets.p + 8 * (size_t)i, 8);
		if (address_split(recipe.sources[i].snapshot, &bucket_name, &source))
			kv_delete(txn, row_hold(key, of, source, bucket, name));
	}
	if (err == 0) recipe_release(&recipe);
	kv_delete(txn, row_recipe(key, bucket, name));
	err = err == -GRANARY_ENOMEM ? err : kv_submit_wait(s->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

int recipes_remove(struct snapshots *s, uint64_t bucket, struct slice name, bool force, char *text,
	size_t cap)
{
	struct recipe_row row;
	struct kv_value value;
	char job[LEASE_JOB_MAX + 1], shown[160];
	int err;

	name_escape(shown, sizeof(shown), name);
	pthread_mutex_lock(&s->change_lock);
	err = recipe_find(s->o.kv, bucket, name, &row, &value);
	if (err == -GRANARY_ENOTFOUND) snprintf(text, cap, "there is no recipe '%s'", shown);
	if (err == 0) {
		if (!force && lease_holder(s, bucket, name, job, sizeof(job))) {
			snprintf(text, cap,
				"job '%s' reads it; wait until an hour after its last read, or use force", job);
			err = -GRANARY_EBUSY;
		} else {
			err = remove_row(s, bucket, name, &row);
		}
		kv_value_release(&value);
	}
	pthread_mutex_unlock(&s->change_lock);
	if (err == 0) leases_forget(s, bucket, name);
	return err;
}
