/* SPDX-License-Identifier: Apache-2.0 */
/* rebuild_priv.h -- shared by rebuild*.c only. rebuild.c reads packs into the scratch, rebuild_scratch.c knows its
 * rows, rebuild_object.c makes one object of its records, rebuild_place.c gives it a name. */
#pragma once

#include "common/bytes.h"
#include "common/hash.h"
#include "jobs/rebuild.h"
#include "meta/ns.h"
#include "pack/format.h"

/* A record as it stands in the scratch. Slices borrow from there, or from an object's memory. */
struct kept {
	uint64_t object, logical, version, pack, offset, dir;
	uint32_t header_len, data_len;
	bool is_whole, is_damaged;
	struct hash128 hash; /* of a whole one */
	struct slice name, key, attrs, crcs;
};
static inline bool kept_is_later(const struct kept *a, const struct kept *b)
{
	if (a->version != b->version) return a->version > b->version;
	return a->pack != b->pack ? a->pack > b->pack : a->offset > b->offset;
}
static inline uint64_t kept_end(const struct kept *k) { return k->logical + k->data_len; }

/* ---- rebuild.c ---- */

struct rebuild_ids {
	uint64_t *at;
	uint32_t count, cap;
}; /* ascending */
bool ids_have(const struct rebuild_ids *ids, uint64_t id);
int ids_add(struct rebuild_ids *ids, uint64_t id); /* at the end: 0 or -GRANARY_ENOMEM */

/* ---- rebuild_scratch.c ---- */

struct scratch;
int scratch_open(struct rebuild *r, struct scratch **out);
void scratch_close(struct scratch **s); /* and removes it */
/* Notes the record, and what its key says of its directory. */
int scratch_add(struct scratch *s, const struct kept *k);
int scratch_flush(struct scratch *s); /* what was added can be read then */
struct kv *scratch_kv(struct scratch *s);
/* Keys of records: by object, then offset in it. */
enum { SCRATCH_RECORD = 'R' };
bool kept_decode(struct slice key, struct slice value, struct kept *out);
/* Where a directory was last seen: the path ends with '/', or is empty. 0 or -GRANARY_ENOTFOUND. */
struct scratch_dir {
	uint64_t bucket; /* id; 0: not known */
	char bucket_name[BUCKET_LEN_MAX + 1];
	uint8_t path[KEY_LEN_MAX];
	size_t path_len;
};
int scratch_dir_get(struct scratch *s, uint64_t dir, struct scratch_dir *out);
/* The directory that was last seen at a path. */
int scratch_path_get(struct scratch *s, const char *bucket_name, struct slice path, uint64_t *dir);

struct object_records;
int scratch_object_get(struct scratch *s, uint64_t object, struct object_records *o); /* its records, added to o */

/* ---- rebuild_object.c ---- */

struct object_records { /* of one object, ascending by offset; owns what they borrow */
	struct kept *at;
	uint32_t count, cap;
	uint8_t *bytes;
	size_t len, bytes_cap;
};
int records_add(struct object_records *o, const struct kept *k);
void records_clear(struct object_records *o);
void records_free(struct object_records *o);
const struct kept *records_newest(const struct object_records *o);

struct made_object { /* as its records say; owns the extents, borrows the rest from them */
	struct ns_put put; /* without a ref */
	struct extent *extents;
	bool is_complete;
};
int object_make(const struct object_records *o, struct made_object *out);
struct extent kept_extent(const struct kept *k); /* of all its data */

/* ---- rebuild_place.c ---- */

struct placer;
/* present: the packs that are there. groups: of the packs; a directory that is one is a dataset. */
int placer_open(struct rebuild *r, struct scratch *s, const struct rebuild_ids *present,
	const struct rebuild_ids *groups, struct placer **out);
int placer_add(struct placer *p, struct object_records *o); /* takes what is in o */
int placer_end(struct placer *p);
int placer_with_gaps(struct placer *p, struct object_records *o); /* after it; o is used */
void placer_close(struct placer **p);
