/* SPDX-License-Identifier: Apache-2.0 */
/* ns_bucket.c -- buckets: rows `b`, all of them in a table in RAM, sorted by name, with a second order by id.
 * Invariants: (1) the table holds exactly the committed rows, but for the moment between a commit and its entry here;
 * (2) a bucket is removed only while its root directory has no row: every create in a root states that the bucket's
 * row names its id. */
#include <assert.h>
#include <stdlib.h>

#include "common/tlv.h"
#include "meta/ns_priv.h"
#include "meta/recipe.h"
#include "meta/snapshot.h"

enum { BUCKET_ROW_MAX = 1024 };

/* ---- the table (the caller holds bucket_lock) ---- */

static struct slice bucket_name(const struct ns_bucket *b)
{
	return slice_of(b->name, b->name_len);
}

/* First index whose name is >= name. */
static uint32_t bucket_at(const struct ns *ns, struct slice name)
{
	uint32_t lo = 0, hi = ns->bucket_count;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (slice_cmp(bucket_name(&ns->buckets[mid]), name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static const struct ns_bucket *bucket_of_id(const struct ns *ns, uint64_t id)
{
	uint32_t lo = 0, hi = ns->bucket_count;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (ns->buckets[ns->bucket_by_id[mid]].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == ns->bucket_count || ns->buckets[ns->bucket_by_id[lo]].id != id)
		return NULL;
	return &ns->buckets[ns->bucket_by_id[lo]];
}

static int bucket_grow(struct ns *ns)
{
	if (ns->bucket_count < ns->bucket_cap)
		return 0;
	uint32_t cap = ns->bucket_cap == 0 ? 16 : ns->bucket_cap * 2;
	struct ns_bucket *buckets = realloc(ns->buckets, cap * sizeof(*buckets));
	if (buckets == NULL)
		return -GRANARY_ENOMEM;
	ns->buckets = buckets;
	uint32_t *by_id = realloc(ns->bucket_by_id, cap * sizeof(*by_id));
	if (by_id == NULL)
		return -GRANARY_ENOMEM;
	ns->bucket_by_id = by_id;
	ns->bucket_cap = cap;
	return 0;
}

static void bucket_order_by_id(struct ns *ns)
{
	for (uint32_t i = 0; i < ns->bucket_count; i++) { /* insertion sort: changes are rare,
		the order nearly right */
		uint32_t j = i;
		for (; j > 0 && ns->buckets[ns->bucket_by_id[j - 1]].id > ns->buckets[i].id; j--)
			ns->bucket_by_id[j] = ns->bucket_by_id[j - 1];
		ns->bucket_by_id[j] = i;
	}
}

static int bucket_insert(struct ns *ns, const struct ns_bucket *b)
{
	int err = bucket_grow(ns);
	if (err < 0)
		return err;
	uint32_t at = bucket_at(ns, bucket_name(b));
	memmove(&ns->buckets[at + 1], &ns->buckets[at], (ns->bucket_count - at) * sizeof(*b));
	ns->buckets[at] = *b;
	ns->bucket_count++;
	bucket_order_by_id(ns);
	return 0;
}

static void bucket_erase(struct ns *ns, struct slice name, uint64_t id)
{
	uint32_t at = bucket_at(ns, name);
	if (at == ns->bucket_count || ns->buckets[at].id != id)
		return;
	memmove(&ns->buckets[at], &ns->buckets[at + 1], (ns->bucket_count - at - 1) * sizeof(*ns->buckets));
	ns->bucket_count--;
	bucket_order_by_id(ns);
}

/* ---- rows ---- */

static int bucket_decode(struct slice key, struct slice value, struct ns_bucket *b)
{
	uint64_t relaxed;
	memset(b, 0, sizeof(*b));
	if (key.len < 1 || key.len - 1 > BUCKET_LEN_MAX)
		return -GRANARY_ECORRUPT;
	b->name_len = (uint8_t)(key.len - 1);
	memcpy(b->name, key.p + 1, b->name_len);
	if (!value_u64(value, TAG_ID, 0, &b->id) || !value_u64(value, BTAG_ROOT, 0, &b->root) ||
	    !value_u64(value, BTAG_QUOTA_BYTES, 0, &b->quota_bytes) ||
	    !value_u64(value, BTAG_QUOTA_OBJECTS, 0, &b->quota_objects) ||
	    !value_u64(value, BTAG_DURABILITY, 0, &relaxed) || !value_u64(value, BTAG_CREATED, 0, &b->created_ns) ||
	    b->id == 0 || b->root == 0)
		return -GRANARY_ECORRUPT;
	b->relaxed = relaxed != 0;
	return 0;
}

static int bucket_load_row(void *arg, struct slice key, struct slice value)
{
	struct ns_bucket b;
	int err = bucket_decode(key, value, &b);
	return err < 0 ? err : bucket_insert(arg, &b);
}

int buckets_load(struct ns *ns)
{
	return rows_scan(ns, slice_str("b"), bucket_load_row, ns);
}

void buckets_free(struct ns *ns)
{
	free(ns->buckets);
	free(ns->bucket_by_id);
	ns->buckets = NULL;
	ns->bucket_by_id = NULL;
	ns->bucket_count = ns->bucket_cap = 0;
}

/* ---- look-ups ---- */

int ns_bucket_find(struct ns *ns, struct slice name, struct ns_bucket *out)
{
	pthread_rwlock_rdlock(&ns->bucket_lock);
	uint32_t at = bucket_at(ns, name);
	bool found = at < ns->bucket_count && slice_eq(bucket_name(&ns->buckets[at]), name);
	if (found)
		*out = ns->buckets[at];
	pthread_rwlock_unlock(&ns->bucket_lock);
	return found ? 0 : -GRANARY_ENOBUCKET;
}

int ns_bucket_by_id(struct ns *ns, uint64_t id, struct ns_bucket *out)
{
	pthread_rwlock_rdlock(&ns->bucket_lock);
	const struct ns_bucket *b = bucket_of_id(ns, id);
	if (b != NULL)
		*out = *b;
	pthread_rwlock_unlock(&ns->bucket_lock);
	return b != NULL ? 0 : -GRANARY_ENOBUCKET;
}

uint32_t ns_bucket_list(struct ns *ns, struct slice after, struct ns_bucket *out, uint32_t max)
{
	uint32_t n = 0;
	pthread_rwlock_rdlock(&ns->bucket_lock);
	uint32_t at = bucket_at(ns, after);
	if (at < ns->bucket_count && slice_eq(bucket_name(&ns->buckets[at]), after))
		at++;
	for (; n < max && at < ns->bucket_count; at++)
		if (ns->buckets[at].name[0] != '.') /* FORMAT 1.5: the system's own */
			out[n++] = ns->buckets[at];
	pthread_rwlock_unlock(&ns->bucket_lock);
	return n;
}

/* ---- changes ---- */

static struct slice bucket_encode(const struct ns_bucket *b, struct slice owner_key, uint8_t *buf, size_t cap)
{
	struct wr w = wr_of(buf, cap);
	value_begin(&w);
	tlv_put_u64(&w, TAG_ID, b->id);
	tlv_put_u64(&w, BTAG_ROOT, b->root);
	tlv_put(&w, BTAG_OWNER, owner_key);
	tlv_put_u64(&w, BTAG_QUOTA_BYTES, b->quota_bytes);
	tlv_put_u64(&w, BTAG_QUOTA_OBJECTS, b->quota_objects);
	tlv_put(&w, BTAG_DURABILITY, slice_of(&b->relaxed, 1));
	tlv_put_u64(&w, BTAG_CREATED, b->created_ns);
	return slice_of(buf, wr_ok(&w) ? wr_len(&w) : 0);
}

static int bucket_commit_create(struct ns *ns, const struct ns_bucket *b, struct slice owner_key)
{
	uint8_t key_buf[ROW_KEY_MAX], value_buf[BUCKET_ROW_MAX];
	struct slice value = bucket_encode(b, owner_key, value_buf, sizeof(value_buf));
	struct object root = { .id = b->root, .version = ids_version(ns->ids), .mode = 040755, .bucket = b->id,
		.nlink = DIR_LINKS,
			       .mtime_ns = clock_wall_ns(), .written_ns = b->created_ns, .is_dir = true };
	uint8_t root_buf[512];
	int64_t root_len = object_encode(&root, root_buf, sizeof(root_buf));
	if (value.len == 0 || root_len < 0)
		return -GRANARY_EINVAL;
	struct kv_txn *txn = kv_txn_new(ns->kv);
	if (txn == NULL)
		return -GRANARY_ENOMEM;
	struct slice key = row_bucket(key_buf, bucket_name(b));
	kv_pre_absent(txn, 0, key);
	kv_put(txn, key, value);
	kv_put(txn, row_inode(key_buf, b->root), slice_of(root_buf, (size_t)root_len));
	int err = kv_submit_wait(ns->kv, txn);
	kv_txn_free(&txn);
	return err;
}

/* id, root: 0: new ones. */
static int bucket_make(struct ns *ns, struct slice name, struct slice owner_key, uint64_t id, uint64_t root)
{
	struct ns_bucket b = { 0 };
	int err;
	if (ns_bucket_find(ns, name, &b) == 0)
		return -GRANARY_EEXIST;
	memset(&b, 0, sizeof(b));
	b.id = id != 0 ? id : ids_object(ns->ids);
	b.root = root != 0 ? root : ids_object(ns->ids);
	b.created_ns = ns->clock == NULL ? 0 : store_clock_now(ns->clock);
	b.name_len = (uint8_t)name.len;
	memcpy(b.name, name.p, name.len);
	err = bucket_commit_create(ns, &b, owner_key);
	if (err == -GRANARY_EBUSY)
		return -GRANARY_EEXIST; /* its only precondition: somebody else was first */
	if (err < 0)
		return err;
	pthread_rwlock_wrlock(&ns->bucket_lock);
	err = bucket_insert(ns, &b);
	pthread_rwlock_unlock(&ns->bucket_lock);
	return err;
}

int ns_bucket_create(struct ns *ns, struct slice name, struct slice owner_key)
{
	int err = bucket_name_check(name);
	return err < 0 ? err : bucket_make(ns, name, owner_key, 0, 0);
}

int ns_bucket_adopt(struct ns *ns, struct slice name, uint64_t id, uint64_t root)
{
	int err = bucket_name_check(name);
	return err < 0 ? err : bucket_make(ns, name, slice_of(NULL, 0), id, root);
}

int ns_bucket_system(struct ns *ns, struct ns_bucket *out)
{
	struct slice name = slice_str(NS_SYSTEM_BUCKET);
	for (int tries = 0; tries < WALK_TRIES; tries++) {
		if (ns_bucket_find(ns, name, out) == 0)
			return 0;
		int err = bucket_make(ns, name, slice_of(NULL, 0), 0, 0);
		if (err < 0 && err != -GRANARY_EEXIST)
			return err;
	}
	return -GRANARY_EBUSY;
}

static int bucket_commit_remove(struct ns *ns, const struct ns_bucket *b)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(ns->kv);
	if (txn == NULL)
		return -GRANARY_ENOMEM;
	struct slice key = row_bucket(buf, bucket_name(b));
	kv_pre_id(txn, 0, key, b->id, false);
	kv_delete(txn, key);
	kv_pre_range(txn, row_entry_prefix(buf, b->root), true);
	kv_pre_range(txn, row_snapshot_prefix(buf, b->id), true);
	kv_pre_range(txn, row_upload_prefix(buf, b->id), true);
	kv_pre_range(txn, row_recipe_prefix(buf, b->id), true);
	kv_delete(txn, row_inode(buf, b->root));
	kv_delete(txn, row_quota(buf, b->id));
	kv_txn_touch(txn, 0, slice_of(NULL, 0), 0);
	int err = kv_submit_wait(ns->kv, txn);
	kv_txn_free(&txn);
	return err;
}

static int bucket_found_row(void *arg, struct slice key, struct slice value)
{
	(void)arg, (void)key, (void)value;
	return 1;
}

int ns_bucket_remove(struct ns *ns, struct slice name)
{
	for (int tries = 0; tries < WALK_TRIES; tries++) {
		struct ns_bucket b;
		uint8_t buf[ROW_KEY_MAX];
		int err = ns_bucket_find(ns, name, &b);
		if (err < 0)
			return err;
		err = rows_scan(ns, row_entry_prefix(buf, b.root), bucket_found_row, NULL);
		if (err == 0)
			err = rows_scan(ns, row_snapshot_prefix(buf, b.id), bucket_found_row, NULL);
		if (err == 0)
			err = rows_scan(ns, row_upload_prefix(buf, b.id), bucket_found_row, NULL);
		if (err == 0)
			err = rows_scan(ns, row_recipe_prefix(buf, b.id), bucket_found_row, NULL);
		if (err != 0)
			return err < 0 ? err : -GRANARY_ENOTEMPTY;
		err = bucket_commit_remove(ns, &b);
		if (err == -GRANARY_EBUSY)
			continue; /* something came into it, or it is another bucket now */
		if (err < 0)
			return err;
		pthread_rwlock_wrlock(&ns->bucket_lock);
		bucket_erase(ns, name, b.id);
		pthread_rwlock_unlock(&ns->bucket_lock);
		return 0;
	}
	return -GRANARY_EBUSY;
}

int ns_bucket_usage(struct ns *ns, uint64_t bucket, uint64_t *bytes, uint64_t *objects)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	*bytes = *objects = 0;
	int err = kv_get(ns->kv, row_quota(buf, bucket), &value);
	if (err == -GRANARY_ENOTFOUND)
		return 0;
	if (err < 0)
		return err;
	if (!value_u64(value.v, QTAG_BYTES, 0, bytes) || !value_u64(value.v, QTAG_OBJECTS, 0, objects))
		err = -GRANARY_ECORRUPT;
	kv_value_release(&value);
	return err;
}
