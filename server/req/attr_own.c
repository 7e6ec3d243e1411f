/* SPDX-License-Identifier: Apache-2.0 */
/* attr_own.c -- see attr_own.h. */
#include "req/attr_own.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/wire.h"
#include "jobs/policy.h"
#include "meta/ns_file.h"
#include "tier/packs.h"

#define OWN "user.granary."

bool own_is(struct slice name) { return name.len >= sizeof(OWN) - 1 && memcmp(name.p, OWN, sizeof(OWN) - 1) == 0; }

static bool own_is_this(struct slice name, const char *what)
{
	return slice_eq(slice_of(name.p + sizeof(OWN) - 1, name.len - (sizeof(OWN) - 1)), slice_str(what));
}

/* ---- where its first bytes lie ---- */

struct first { struct extent e; };

static int first_take(void *arg, const struct extent *e)
{
	struct first *f = arg;

	if ((e->flags & EXTENT_HOLE) != 0 || e->length == 0) return 0;
	f->e = *e;
	f->e.crcs = NULL;
	return 1;
}

static int first_extent(struct store *store, const struct object *o, struct extent *out)
{
	struct first f = { .e = { .length = 0 } };
	int err = 0;

	for (uint32_t i = 0; err == 0 && !o->is_dir && i < o->extent_count; i++) err = first_take(&f, &o->extents[i]);
	if (err == 0 && o->extents_outside > 0) err = ns_extents(store->ns, o, 0, o->size, first_take, &f);
	*out = f.e;
	return err < 0 ? err : err == 1 ? 0 : -GRANARY_ENOATTR;
}

static int64_t pack_text(struct store *store, const struct object *o, char *out)
{
	struct extent e;
	int err = first_extent(store, o, &e);

	if (err < 0) return err;
	return snprintf(out, OWN_VALUE_MAX, "%" PRIx64 ":%" PRIu64 "+%" PRIu32, e.pack, e.record + e.skip, e.length);
}

static int64_t tier_text(struct store *store, const struct object *o, char *out)
{
	struct pack_info info;
	struct extent e;
	int err = first_extent(store, o, &e);

	if (err < 0) return err;
	if (packs_list(store->packs, e.pack - 1, &info, 1) != 1 || info.id != e.pack) return -GRANARY_ENOATTR;
	return snprintf(out, OWN_VALUE_MAX, "%s", info.drive == 0 ? "cold" : info.store == 0 ? "hot" : "hot+cold");
}

static int64_t etag_text(const struct object *o, char *out)
{
	if (o->is_dir || !object_has_bytes(o)) return -GRANARY_ENOATTR;
	if (!o->has_hash) return snprintf(out, OWN_VALUE_MAX, "%016" PRIx64 "-1", o->version);
	return snprintf(out, OWN_VALUE_MAX, "%016" PRIx64 "%016" PRIx64 "-1", o->hash.hi, o->hash.lo);
}

/* ---- the pin ---- */

/* BUCKET/PATH of the ref, without a slash at the end. */
static int path_text(struct store *store, const struct ns_ref *ref, uint64_t root_bucket, char out[OWN_VALUE_MAX])
{
	char dir[KEY_LEN_MAX + 1] = "";
	uint64_t bucket = ref->by == NS_BY_KEY ? ref->bucket : root_bucket;
	struct ns_bucket b;
	size_t dir_len = 0;
	int err = 0, len;

	if (ref->by != NS_BY_KEY && ref->dir != 0)
		err = ns_dir_path(store->ns, ref->dir, &bucket, dir, sizeof(dir), &dir_len);
	if (err == 0) err = ns_bucket_by_id(store->ns, bucket, &b);
	if (err < 0) return err;
	len = snprintf(out, OWN_VALUE_MAX, "%s/%.*s%.*s", b.name, (int)dir_len, dir, (int)ref->name.len,
		ref->name.len > 0 ? (const char *)ref->name.p : "");
	while (len > 0 && out[len - 1] == '/') out[--len] = '\0';
	return 0;
}

/* The pin that covers a path: its line, without its end; "": none. */
static int pin_over(struct store *store, const char *path, char out[OWN_VALUE_MAX])
{
	char why[RULE_WHY_MAX], *text = NULL;
	int err = policy_pins_text(store->policy, path, false, &text, why, sizeof(why));

	if (err == 0) snprintf(out, OWN_VALUE_MAX, "%.*s", (int)strcspn(text, "\n"), text);
	free(text);
	return err;
}

static int64_t pin_text(struct store *store, const struct ns_ref *ref, const struct object *o, char *out)
{
	char path[OWN_VALUE_MAX];
	int err = store->policy == NULL ? -GRANARY_EUNSUPPORTED : path_text(store, ref, o->bucket, path);

	if (err == 0) err = pin_over(store, path, out);
	if (err < 0) return err;
	return out[0] != '\0' ? (int64_t)strlen(out) : -GRANARY_ENOATTR;
}

int64_t own_get(struct store *store, const struct ns_ref *ref, const struct object *o, struct slice name,
	char out[OWN_VALUE_MAX])
{
	if (own_is_this(name, "pack")) return pack_text(store, o, out);
	if (own_is_this(name, "tier")) return tier_text(store, o, out);
	if (own_is_this(name, "etag")) return etag_text(o, out);
	return own_is_this(name, "pin") ? pin_text(store, ref, o, out) : -GRANARY_ENOATTR;
}

/* The bucket of a root: it has no directory above it. */
static int root_bucket(struct store *store, const struct ns_ref *ref, uint64_t *bucket)
{
	struct kv_value value = { 0 };
	struct object o;
	int err;

	*bucket = 0;
	if (ref->by != NS_BY_ID || ref->dir != 0) return 0;
	err = ns_file_find(store->ns, ref, &o, &value);
	if (err < 0) return err;
	*bucket = o.bucket;
	kv_value_release(&value);
	return o.is_dir ? 0 : -GRANARY_ENOTFOUND; /* it has no name any more */
}

int own_set(struct store *store, const struct ns_ref *ref, struct slice name, struct slice value, uint8_t how)
{
	char path[OWN_VALUE_MAX], over[OWN_VALUE_MAX], why[RULE_WHY_MAX];
	bool there = slice_eq(value, slice_str("1"));
	uint64_t bucket;
	int err;

	if (!own_is_this(name, "pin") || store->policy == NULL) return -GRANARY_EUNSUPPORTED;
	if (how != XATTR_REMOVE && !there && !slice_eq(value, slice_str("0"))) return -GRANARY_EINVAL;
	err = root_bucket(store, ref, &bucket);
	if (err == 0) err = path_text(store, ref, bucket, path);
	if (err == 0) err = pin_over(store, path, over);
	if (err < 0) return err;
	if (how == XATTR_CREATE && over[0] != '\0') return -GRANARY_EEXIST;
	if ((how == XATTR_REPLACE || how == XATTR_REMOVE) && over[0] == '\0') return -GRANARY_ENOATTR;
	return policy_pin(store->policy, path, how != XATTR_REMOVE && there, why, sizeof(why));
}
