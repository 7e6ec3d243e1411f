/* SPDX-License-Identifier: Apache-2.0 */
/* ns_keys.c -- access keys: rows `k`, all of them unsealed in a table in RAM, sorted by id.
 * Invariants: (1) an entry never changes: it is replaced by none, only removed; (2) the table holds one reference of
 * each entry, every ns_key_ref another; the last to go wipes and frees it; (3) secrets are sealed before they leave
 * this file (FORMAT 7.9), plain copies on the stack are wiped; (4) changes are one at a time (change_lock), looks
 * never wait for a commit. */
#include <assert.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/rand.h"
#include "common/tlv.h"
#include "meta/ns_priv.h"

enum {
	NONCE_SIZE = 12,
	SECRET_SIZE = sizeof(((struct ns_access_key *)0)->secret),
	SEAL_TAG_SIZE = 16,
	SEALED_SIZE = NONCE_SIZE + SECRET_SIZE + SEAL_TAG_SIZE,
	KEY_VALUE_MAX = 32 * 1024,
};
static_assert(NS_GRANTS_MAX * (KEY_LEN_MAX + BUCKET_LEN_MAX + 9) + 512 <= KEY_VALUE_MAX, "all grants fit");

struct key_entry {
	struct ns_access_key key; /* first: a reference to it is one to the entry */
	_Atomic uint32_t refs;
	_Atomic bool is_removed;
};

struct ns_keys {
	pthread_rwlock_t lock; /* guards the table */
	pthread_mutex_t change_lock;
	struct key_entry **entries; /* in id order */
	uint32_t count, cap;
	uint8_t master[32];
};

/* ---- sealing ---- */

/* Both ways of AES-256-GCM with the key's id as associated data; 0 or -GRANARY_EAUTH (a wrong tag). */
static int seal_run(const uint8_t master[32], const uint8_t *nonce, struct slice id, bool encrypt, const uint8_t *in,
		    uint8_t *out, uint8_t *tag)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n = 0;
	if (ctx == NULL)
		return -GRANARY_ENOMEM;
	bool ok = EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, master, nonce, encrypt) == 1 &&
		  EVP_CipherUpdate(ctx, NULL, &n, id.p, (int)id.len) == 1 &&
		  EVP_CipherUpdate(ctx, out, &n, in, SECRET_SIZE) == 1 && n == SECRET_SIZE;
	if (ok && !encrypt)
		ok = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, SEAL_TAG_SIZE, tag) == 1;
	ok = ok && EVP_CipherFinal_ex(ctx, out + SECRET_SIZE, &n) == 1;
	if (ok && encrypt)
		ok = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, SEAL_TAG_SIZE, tag) == 1;
	EVP_CIPHER_CTX_free(ctx);
	return ok ? 0 : -GRANARY_EAUTH;
}

static int secret_seal(const uint8_t master[32], struct slice id, const uint8_t *secret, uint8_t sealed[SEALED_SIZE])
{
	rand_bytes(sealed, NONCE_SIZE);
	return seal_run(master, sealed, id, true, secret, sealed + NONCE_SIZE, sealed + NONCE_SIZE + SECRET_SIZE);
}

static int secret_unseal(const uint8_t master[32], struct slice id, struct slice sealed, uint8_t *secret)
{
	uint8_t tag[SEAL_TAG_SIZE];
	if (sealed.len != SEALED_SIZE)
		return -GRANARY_ECORRUPT;
	memcpy(tag, sealed.p + NONCE_SIZE + SECRET_SIZE, sizeof(tag));
	return seal_run(master, sealed.p, id, false, sealed.p + NONCE_SIZE, secret, tag);
}

/* ---- rows ---- */

static int grant_decode(struct slice v, struct ns_grant *g)
{
	struct cur c = cur_of(v.p, v.len);
	g->actions = cur_u8(&c);
	struct slice bucket = cur_bytes16(&c);
	struct slice prefix = cur_bytes(&c, cur_left(&c));
	if (!cur_done(&c) || bucket.len > BUCKET_LEN_MAX || prefix.len > KEY_LEN_MAX)
		return -GRANARY_ECORRUPT;
	if (bucket.len > 0)
		memcpy(g->bucket, bucket.p, bucket.len);
	if (prefix.len > 0)
		memcpy(g->prefix, prefix.p, prefix.len);
	g->prefix_len = (uint16_t)prefix.len;
	return 0;
}

static int key_decode_tag(struct ns_access_key *key, const uint8_t master[32], uint16_t tag, struct slice v,
			  bool *has_secret)
{
	switch (tag) {
	case KTAG_SECRET:
		*has_secret = true;
		return secret_unseal(master, slice_str(key->id), v, key->secret);
	case KTAG_GRANT:
		if (key->grant_count == NS_GRANTS_MAX)
			return -GRANARY_ECORRUPT;
		return grant_decode(v, &key->grants[key->grant_count++]);
	case KTAG_EXPIRES:
		key->expires_ns = tlv_u64(v);
		return 0;
	case KTAG_NOTE:
		memcpy(key->note, v.p, v.len < sizeof(key->note) ? v.len : sizeof(key->note) - 1);
		return 0;
	default:
		return 0;
	}
}

static int key_decode(struct slice row_key_bytes, struct slice value, const uint8_t master[32],
		      struct ns_access_key *key)
{
	struct cur c = cur_of(value.p, value.len);
	struct slice v;
	uint16_t tag;
	bool has_secret = false;
	if (row_key_bytes.len < 2 || row_key_bytes.len - 1 > NS_KEY_ID_MAX || cur_u8(&c) != 1)
		return -GRANARY_ECORRUPT;
	memcpy(key->id, row_key_bytes.p + 1, row_key_bytes.len - 1);
	while (tlv_next(&c, &tag, &v)) {
		int err = key_decode_tag(key, master, tag, v, &has_secret);
		if (err < 0)
			return err;
	}
	return cur_done(&c) && has_secret ? 0 : -GRANARY_ECORRUPT;
}

static int64_t key_encode(const struct ns_access_key *key, const uint8_t master[32], uint64_t now, uint8_t *buf,
			  size_t cap)
{
	uint8_t sealed[SEALED_SIZE];
	struct wr w = wr_of(buf, cap);
	int err = secret_seal(master, slice_str(key->id), key->secret, sealed);
	if (err < 0)
		return err;
	value_begin(&w);
	tlv_put(&w, KTAG_SECRET, slice_of(sealed, sizeof(sealed)));
	for (uint32_t i = 0; i < key->grant_count; i++) {
		const struct ns_grant *g = &key->grants[i];
		uint8_t *at = tlv_open(&w, KTAG_GRANT);
		wr_u8(&w, g->actions);
		wr_bytes16(&w, slice_str(g->bucket));
		wr_bytes(&w, g->prefix, g->prefix_len);
		tlv_close(&w, at);
	}
	tlv_put_u64(&w, KTAG_EXPIRES, key->expires_ns);
	tlv_put_u64(&w, KTAG_CREATED, now);
	tlv_put(&w, KTAG_NOTE, slice_str(key->note));
	return wr_ok(&w) ? (int64_t)wr_len(&w) : -GRANARY_ETOOBIG;
}

/* ---- the table ---- */

static void entry_unref(struct key_entry *e)
{
	if (atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1)
		return;
	explicit_bzero(e, sizeof(*e));
	free(e);
}

/* First index whose id is >= id; the caller holds the lock. */
static uint32_t entry_at(const struct ns_keys *k, struct slice id)
{
	uint32_t lo = 0, hi = k->count;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (slice_cmp(slice_str(k->entries[mid]->key.id), id) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct key_entry *entry_find(const struct ns_keys *k, struct slice id)
{
	uint32_t at = entry_at(k, id);
	return at < k->count && slice_eq(slice_str(k->entries[at]->key.id), id) ? k->entries[at] : NULL;
}

static int entry_insert(struct ns_keys *k, struct key_entry *e)
{
	if (k->count == k->cap) {
		uint32_t cap = k->cap == 0 ? 16 : k->cap * 2;
		struct key_entry **entries = realloc(k->entries, cap * sizeof(struct key_entry *));
		if (entries == NULL)
			return -GRANARY_ENOMEM;
		k->entries = entries;
		k->cap = cap;
	}
	uint32_t at = entry_at(k, slice_str(e->key.id));
	memmove(&k->entries[at + 1], &k->entries[at], (k->count - at) * sizeof(struct key_entry *));
	k->entries[at] = e;
	k->count++;
	return 0;
}

static struct key_entry *entry_new(void)
{
	struct key_entry *e = calloc(1, sizeof(*e));
	if (e != NULL)
		atomic_init(&e->refs, 1);
	return e;
}

static int keys_load_row(void *arg, struct slice key, struct slice value)
{
	struct ns_keys *k = arg;
	struct key_entry *e = entry_new();
	if (e == NULL)
		return -GRANARY_ENOMEM;
	int err = key_decode(key, value, k->master, &e->key);
	if (err == 0)
		err = entry_insert(k, e);
	if (err < 0)
		entry_unref(e);
	return err;
}

int ns_keys_open(struct ns *ns, const uint8_t master[32])
{
	assert(ns->keys == NULL);
	struct ns_keys *k = calloc(1, sizeof(*k));
	if (k == NULL)
		return -GRANARY_ENOMEM;
	pthread_rwlock_init(&k->lock, NULL);
	pthread_mutex_init(&k->change_lock, NULL);
	memcpy(k->master, master, sizeof(k->master));
	ns->keys = k;
	return rows_scan(ns, slice_str("k"), keys_load_row, k);
}

void keys_free(struct ns *ns)
{
	struct ns_keys *k = ns->keys;
	ns->keys = NULL;
	if (k == NULL)
		return;
	for (uint32_t i = 0; i < k->count; i++)
		entry_unref(k->entries[i]);
	free(k->entries);
	pthread_rwlock_destroy(&k->lock);
	pthread_mutex_destroy(&k->change_lock);
	explicit_bzero(k, sizeof(*k));
	free(k);
}

/* ---- references ---- */

static struct key_entry *entry_of(const struct ns_access_key *key)
{
	return (struct key_entry *)(uintptr_t)key; /* its first member */
}

bool ns_key_valid(struct ns *ns, const struct ns_access_key *key)
{
	if (atomic_load_explicit(&entry_of(key)->is_removed, memory_order_acquire))
		return false;
	return key->expires_ns == 0 || ns->clock == NULL || store_clock_now(ns->clock) < key->expires_ns;
}

const struct ns_access_key *ns_key_ref(struct ns *ns, struct slice id)
{
	struct ns_keys *k = ns->keys;
	if (k == NULL)
		return NULL;
	pthread_rwlock_rdlock(&k->lock);
	struct key_entry *e = entry_find(k, id);
	if (e != NULL && ns_key_valid(ns, &e->key))
		atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
	else
		e = NULL;
	pthread_rwlock_unlock(&k->lock);
	return e == NULL ? NULL : &e->key;
}

void ns_key_unref(struct ns *ns, const struct ns_access_key *key)
{
	(void)ns;
	if (key != NULL)
		entry_unref(entry_of(key));
}

/* ---- changes ---- */

static int key_check_fields(const struct ns_access_key *key)
{
	size_t len = strnlen(key->id, sizeof(key->id));
	if (len == 0 || len == sizeof(key->id) || strnlen(key->note, sizeof(key->note)) == sizeof(key->note) ||
	    key->grant_count > NS_GRANTS_MAX)
		return -GRANARY_EINVAL;
	for (size_t i = 0; i < len; i++)
		if (key->id[i] <= ' ' || key->id[i] > '~')
			return -GRANARY_EINVAL;
	for (uint32_t i = 0; i < key->grant_count; i++) {
		const struct ns_grant *g = &key->grants[i];
		if (strnlen(g->bucket, sizeof(g->bucket)) == sizeof(g->bucket) || g->prefix_len > KEY_LEN_MAX)
			return -GRANARY_EINVAL;
	}
	return 0;
}

static int key_commit_create(struct ns *ns, const struct ns_access_key *key)
{
	uint8_t buf[ROW_KEY_MAX];
	uint8_t *value = malloc(KEY_VALUE_MAX);
	if (value == NULL)
		return -GRANARY_ENOMEM;
	uint64_t now = ns->clock == NULL ? 0 : store_clock_now(ns->clock);
	int64_t len = key_encode(key, ns->keys->master, now, value, KEY_VALUE_MAX);
	struct kv_txn *txn = len < 0 ? NULL : kv_txn_new(ns->kv);
	int err = len < 0 ? (int)len : -GRANARY_ENOMEM;
	if (txn != NULL) {
		struct slice row = row_key(buf, slice_str(key->id));
		kv_pre_absent(txn, 0, row);
		kv_put(txn, row, slice_of(value, (size_t)len));
		err = kv_submit_wait(ns->kv, txn);
		kv_txn_free(&txn);
	}
	free(value);
	return err == -GRANARY_EBUSY ? -GRANARY_EEXIST : err;
}

int ns_key_create(struct ns *ns, const struct ns_access_key *key)
{
	struct ns_keys *k = ns->keys;
	int err = k == NULL ? -GRANARY_EINVAL : key_check_fields(key);
	if (err < 0)
		return err;
	struct key_entry *e = entry_new();
	if (e == NULL)
		return -GRANARY_ENOMEM;
	e->key = *key;
	pthread_mutex_lock(&k->change_lock);
	err = key_commit_create(ns, key);
	if (err == 0) {
		pthread_rwlock_wrlock(&k->lock);
		err = entry_insert(k, e);
		pthread_rwlock_unlock(&k->lock);
	}
	pthread_mutex_unlock(&k->change_lock);
	if (err < 0)
		entry_unref(e);
	return err;
}

static int key_commit_remove(struct ns *ns, struct slice id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(ns->kv);
	if (txn == NULL)
		return -GRANARY_ENOMEM;
	kv_delete(txn, row_key(buf, id));
	int err = kv_submit_wait(ns->kv, txn);
	kv_txn_free(&txn);
	return err;
}

int ns_key_remove(struct ns *ns, struct slice id)
{
	struct ns_keys *k = ns->keys;
	if (k == NULL)
		return -GRANARY_ENOTFOUND;
	pthread_mutex_lock(&k->change_lock);
	pthread_rwlock_rdlock(&k->lock);
	struct key_entry *e = entry_find(k, id);
	pthread_rwlock_unlock(&k->lock);
	int err = e == NULL ? -GRANARY_ENOTFOUND : key_commit_remove(ns, id);
	if (err == 0) {
		pthread_rwlock_wrlock(&k->lock);
		uint32_t at = entry_at(k, id);
		memmove(&k->entries[at], &k->entries[at + 1], (k->count - at - 1) * sizeof(struct key_entry *));
		k->count--;
		pthread_rwlock_unlock(&k->lock);
		atomic_store_explicit(&e->is_removed, true, memory_order_release);
		entry_unref(e);
	}
	pthread_mutex_unlock(&k->change_lock);
	return err;
}

uint32_t ns_key_list(struct ns *ns, struct slice after, struct ns_access_key *out, uint32_t max)
{
	struct ns_keys *k = ns->keys;
	uint32_t n = 0;
	if (k == NULL)
		return 0;
	pthread_rwlock_rdlock(&k->lock);
	uint32_t at = entry_at(k, after);
	if (at < k->count && slice_eq(slice_str(k->entries[at]->key.id), after))
		at++;
	for (; n < max && at < k->count; n++, at++) {
		out[n] = k->entries[at]->key;
		explicit_bzero(out[n].secret, sizeof(out[n].secret));
	}
	pthread_rwlock_unlock(&k->lock);
	return n;
}

bool ns_key_allows(const struct ns_access_key *key, uint8_t action, struct slice bucket, struct slice object_key)
{
	for (uint32_t i = 0; i < key->grant_count; i++) {
		const struct ns_grant *g = &key->grants[i];
		if ((g->actions & action) != action)
			continue;
		if (g->bucket[0] != '\0' && !slice_eq(slice_str(g->bucket), bucket))
			continue;
		if (slice_begins(object_key, slice_of(g->prefix, g->prefix_len)))
			return true;
	}
	return false;
}
