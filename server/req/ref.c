/* SPDX-License-Identifier: Apache-2.0 */
/* ref.c -- refs as they come over the wire, and whether the peer's key may touch what they name
 * (PROTOCOL 3).
 *
 * Grants are judged on the key string. A ref by name is judged by the path its directory has now;
 * one by id by the path of the directory where the object was found, never by what the client
 * claims: an id alone opens nothing. */
#include "req/kind.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool grant_in(const struct ns_grant *g, struct slice bucket)
{
	return g->bucket[0] == '\0' || slice_eq(slice_str(g->bucket), bucket);
}

bool auth_whole(const struct ns_access_key *key, uint8_t action, struct slice bucket)
{
	for (uint32_t i = 0; i < key->grant_count; i++) {
		const struct ns_grant *g = &key->grants[i];

		if ((g->actions & action) != 0 && g->prefix_len == 0 && grant_in(g, bucket))
			return true;
	}
	return false;
}

bool auth_any_in(const struct ns_access_key *key, uint8_t actions, struct slice bucket)
{
	for (uint32_t i = 0; i < key->grant_count; i++)
		if ((key->grants[i].actions & actions) != 0 && grant_in(&key->grants[i], bucket))
			return true;
	return false;
}

bool auth_any(const struct ns_access_key *key, uint8_t actions)
{
	for (uint32_t i = 0; i < key->grant_count; i++)
		if ((key->grants[i].actions & actions) != 0) return true;
	return false;
}

/* Every bit of `actions` on its own: they may come from different grants. */
static bool allows(const struct ns_access_key *key, uint8_t actions, struct slice bucket,
	struct slice object_key)
{
	for (uint8_t bit = 1; bit != 0 && bit <= actions; bit = (uint8_t)(bit << 1))
		if ((actions & bit) != 0 && !ns_key_allows(key, bit, bucket, object_key))
			return false;
	return true;
}

static bool whole(const struct ns_access_key *key, uint8_t actions, struct slice bucket)
{
	for (uint8_t bit = 1; bit != 0 && bit <= actions; bit = (uint8_t)(bit << 1))
		if ((actions & bit) != 0 && !auth_whole(key, bit, bucket)) return false;
	return true;
}

int auth_begin(const struct req *r, struct auth *a, uint8_t actions, struct slice bucket)
{
	memset(a, 0, offsetof(struct auth, dir_bucket_name));
	a->store = r->store;
	a->key = r->peer->key;
	a->session = r->peer->session != NULL ? session_id(r->peer->session) : 0;
	a->actions = actions;
	a->everything = whole(a->key, actions, slice_of(NULL, 0));
	if (bucket.len == 0) return 0;
	if (bucket.len > BUCKET_LEN_MAX) return -GRANARY_ENAME;
	if (bucket.p[0] == '.') return -GRANARY_EACCESS; /* the system's own */
	if (!auth_any_in(a->key, actions,
		    bucket)) /* before NOBUCKET: names of others' buckets are not told */
		return -GRANARY_EACCESS;
	a->whole_bucket = whole(a->key, actions, bucket);
	a->has_bucket = true;
	return ns_bucket_find(a->store->ns, bucket, &a->bucket);
}

struct auth *auth_copy(const struct auth *a)
{
	struct auth *copy = req_alloc(sizeof(*copy));

	*copy = *a;
	copy->dir = 0;
	return copy;
}

struct slice ref_bucket_name(const struct auth *a)
{
	return slice_of(a->bucket.name, a->bucket.name_len);
}

bool auth_key(struct auth *a, struct slice key)
{
	return a->whole_bucket || allows(a->key, a->actions, ref_bucket_name(a), key);
}

static int auth_load_dir(struct auth *a, uint64_t dir, bool may_block)
{
	struct ns *ns = a->store->ns;
	struct ns_bucket b;
	int err;

	if (a->dir == dir) return 0;
	a->dir = 0;
	err = ns_dir_path_cached(ns, dir, &a->dir_bucket, a->path, sizeof(a->path), &a->path_len);
	if (err == -GRANARY_EAGAIN && may_block)
		err = ns_dir_path(ns, dir, &a->dir_bucket, a->path, sizeof(a->path), &a->path_len);
	if (err == 0) err = ns_bucket_by_id(ns, a->dir_bucket, &b);
	if (err < 0) return err;
	memcpy(a->dir_bucket_name, b.name, sizeof(a->dir_bucket_name));
	a->dir_whole = allows(
		a->key, a->actions, slice_of(b.name, b.name_len), slice_of(a->path, a->path_len));
	a->dir = dir;
	return 0;
}

int auth_entry(struct auth *a, uint64_t dir, struct slice name, bool may_block)
{
	char full[2 * KEY_LEN_MAX + 1];
	int err;

	if (a->everything && (a->actions & ~(GRANT_READ | GRANT_LIST)) == 0) return 0;
	if (dir == 0) return a->everything ? 0 : -GRANARY_ENOTFOUND;
	err = auth_load_dir(a, dir, may_block);
	if (err < 0) return a->everything && err != -GRANARY_EAGAIN ? 0 : err; /* what follows tells it better */
	if (a->dir_bucket_name[0] == '.') return -GRANARY_EACCESS;             /* the system's own */
	if (a->dir_whole || a->everything) return 0;
	if (name.p == NULL || name.len > KEY_LEN_MAX)
		return may_block ? -GRANARY_EACCESS : -GRANARY_EAGAIN;
	memcpy(full, a->path, a->path_len);
	memcpy(full + a->path_len, name.p, name.len);
	return allows(a->key, a->actions, slice_str(a->dir_bucket_name),
		       slice_of(full, a->path_len + name.len))
		       ? 0
		       : -GRANARY_EACCESS;
}

int auth_in_bucket(struct auth *a, uint64_t dir, struct slice name)
{
	int err = auth_load_dir(a, dir, true);

	if (err < 0) return err == -GRANARY_ESTALE ? -GRANARY_ENOTFOUND : err;
	return a->dir_bucket == a->bucket.id ? auth_entry(a, dir, name, true) : -GRANARY_ENOTFOUND;
}

/* What an open must be for, to do this to an object without a name. */
static uint8_t open_access_of(uint8_t actions)
{
	return (uint8_t)(((actions & GRANT_READ) != 0 ? OPENS_READ : 0) |
			 ((actions & (GRANT_WRITE | GRANT_DELETE)) != 0 ? OPENS_WRITE : 0));
}

int auth_place(struct auth *a, const struct ns_place *place)
{
	struct ns_bucket b;
	int err;

	if (place->orphan != 0)
		return opens_allow(a->store->opens, a->session, place->orphan, open_access_of(a->actions))
			       ? 0 : -GRANARY_ESTALE;
	if (place->dir != 0) return auth_entry(a, place->dir, place->name, true);
	err = ns_bucket_by_id(a->store->ns, place->bucket, &b); /* a bucket's root */
	if (err < 0) return err;
	if (b.name[0] == '.') return -GRANARY_EACCESS;
	return allows(a->key, a->actions, slice_of(b.name, b.name_len), slice_of(NULL, 0)) ? 0 : -GRANARY_EACCESS;
}

int auth_ref(struct auth *a, const struct ns_ref *ref, bool may_block)
{
	switch (ref->by) {
	case NS_BY_KEY: return auth_key(a, ref->name) ? 0 : -GRANARY_EACCESS;
	case NS_BY_NAME: return auth_entry(a, ref->dir, ref->name, may_block);
	default: return 0;
	}
}

int auth_ref_found(struct auth *a, struct ns_ref *ref, char name_buf[KEY_LEN_MAX])
{
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;
	int err;

	if (ref->by != NS_BY_ID) return auth_ref(a, ref, true);
	err = ns_lookup(a->store->ns, ref, &place, &o, &value);
	if (err < 0) return err;
	assert(place.name.len <= KEY_LEN_MAX);
	memcpy(name_buf, place.name.p, place.name.len);
	ref->dir = place.dir;
	ref->name = slice_of(name_buf, place.name.len);
	err = auth_place(a, &place);
	kv_value_release(&value);
	return err;
}

struct slice ref_record_key(struct auth *a, const struct ns_ref *ref, struct wr *w, uint64_t *bucket)
{
	uint8_t *start = w->p;

	*bucket = 0;
	if (ref->by == NS_BY_KEY) {
		*bucket = ref->bucket;
		wr_slice(w, ref_bucket_name(a));
		wr_u8(w, '/');
	} else if (ref->by == NS_BY_NAME && auth_load_dir(a, ref->dir, false) == 0) {
		*bucket = a->dir_bucket;
		if (a->path_len + ref->name.len > KEY_LEN_MAX) return slice_of(start, 0);
		wr_slice(w, slice_str(a->dir_bucket_name));
		wr_u8(w, '/');
		wr_bytes(w, a->path, a->path_len);
	} else {
		return slice_of(start, 0);
	}
	wr_slice(w, ref->name);
	return slice_of(start, (size_t)(w->p - start));
}

int ref_parse(struct cur *c, const struct auth *a, struct ns_ref *ref)
{
	memset(ref, 0, sizeof(*ref));
	switch (cur_u8(c)) {
	case REF_KEY:
		ref->by = NS_BY_KEY;
		ref->bucket = a->bucket.id;
		ref->name = cur_bytes16(c);
		if (!cur_ok(c) || !a->has_bucket) return -GRANARY_EPROTO;
		return key_check(ref->name);
	case REF_NAME:
		ref->by = NS_BY_NAME;
		ref->dir = cur_u64(c);
		ref->name = cur_bytes16(c);
		if (!cur_ok(c)) return -GRANARY_EPROTO;
		return component_check(ref->name);
	case REF_ID:
		ref->by = NS_BY_ID;
		ref->id = cur_u64(c);
		ref->dir = cur_u64(c);
		ref->name = cur_bytes16(c);
		if (!cur_ok(c)) return -GRANARY_EPROTO;
		return component_check(ref->name);
	default: return -GRANARY_EPROTO;
	}
}

char *ref_text(struct auth *a, const struct ns_ref *ref, char *buf, size_t cap)
{
	char full[BUCKET_LEN_MAX + 2 * KEY_LEN_MAX + 64];
	int n;

	if (ref->by == NS_BY_KEY)
		n = snprintf(full, sizeof(full), "%s/%.*s", a->bucket.name, (int)ref->name.len,
			(const char *)ref->name.p);
	else if (auth_load_dir(a, ref->dir, false) == 0)
		n = snprintf(full, sizeof(full), "%s/%.*s%.*s", a->dir_bucket_name,
			(int)a->path_len, a->path, (int)ref->name.len, (const char *)ref->name.p);
	else if (ref->by == NS_BY_NAME)
		n = snprintf(full, sizeof(full), "directory %016" PRIx64 "/%.*s", ref->dir,
			(int)ref->name.len, (const char *)ref->name.p);
	else
		n = snprintf(full, sizeof(full), "object %016" PRIx64, ref->id);
	return name_escape(buf, cap, slice_of(full, (size_t)n));
}
