/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c -- encode and decode of rows, docs/FORMAT.md 5 and 6. Owns nothing: everything borrows.
 *
 * Invariants: (1) a decoder reads only inside its slice, whatever the bytes are; (2) what object_decode accepts,
 * object_encode writes again with the same meaning; (3) tags a struct has no field for survive: they are copied from
 * the old value after the ones we write (FORMAT 1.3); (4) a tag whose clause does not say "repeats" stands once. */
#include "meta/rows.h"

#include "common/error.h"
#include "common/tlv.h"

#include <assert.h>
#include <sys/stat.h>

enum {
	VALUE_FORMAT = 1,
	EXTENT_CUT = 2, /* FORMAT 5.3: two more fields follow the flags */
	EXTENT_FIXED_SIZE = 8 + 4 + 4 + 8 + 4 + 4, /* FORMAT 5.3 before the crcs */
	RECORD_UNIT = 8,
};

static_assert(TAG_CLASS == 25 && TAG_CHECKSUM == 32 && TAG_XATTR == 40, "FORMAT 5.2");
static_assert(TAG_ATIME == 42 && TAG_ROW == 64, "FORMAT 5.2");
static_assert(PTAG_LIVE_RECORDS == 74 && CTAG_SPARSE == 69 && LTAG_SIZES == 73, "FORMAT 6");
static_assert(HTAG_LEASE == 69 && KTAG_NOTE == 68 && BTAG_CREATED == 69, "FORMAT 6");

#define TAG_BIT(tag) (UINT64_C(1) << (tag))

/* Tags that struct object has fields for. */
static const uint64_t object_tags = TAG_BIT(TAG_ID) | TAG_BIT(TAG_VERSION) | TAG_BIT(TAG_SIZE) | TAG_BIT(TAG_MTIME) |
	TAG_BIT(TAG_CTIME) | TAG_BIT(TAG_MODE) | TAG_BIT(TAG_UID) | TAG_BIT(TAG_GID) | TAG_BIT(TAG_HASH) |
	TAG_BIT(TAG_EXTENT) | TAG_BIT(TAG_WRITTEN) | TAG_BIT(TAG_META) | TAG_BIT(TAG_HAS_LINKS) | TAG_BIT(TAG_NLINK) |
	TAG_BIT(TAG_PARENT) | TAG_BIT(TAG_NAME) | TAG_BIT(TAG_CHILDREN) | TAG_BIT(TAG_BUCKET) |
	TAG_BIT(TAG_GENERATION) | TAG_BIT(TAG_EXTENTS_OUTSIDE) | TAG_BIT(TAG_DATASET) | TAG_BIT(TAG_CLASS) |
	TAG_BIT(TAG_SYMLINK) | TAG_BIT(TAG_RDEV) | TAG_BIT(TAG_TAG) | TAG_BIT(TAG_XATTR) | TAG_BIT(TAG_IN_INODE) |
	TAG_BIT(TAG_ATIME) | TAG_BIT(TAG_REFERS) | TAG_BIT(TAG_UPLOAD_KEY) | TAG_BIT(TAG_HOLES);

/* What says something about all of the bytes and has no field. */
static const uint64_t sum_tags = TAG_BIT(TAG_MD5) | TAG_BIT(TAG_CHECKSUM) | TAG_BIT(TAG_PARTS);

/* ---- extents, FORMAT 5.3 ---- */

static uint32_t extent_blocks(const struct extent *e)
{
	if (e->length == 0)
		return 0;
	return (e->cut_before + e->length - 1) / CRC_BLOCK_SIZE - e->cut_before / CRC_BLOCK_SIZE + 1;
}

struct extent extent_part(const struct extent *e, uint32_t from, uint32_t length)
{
	struct extent part = *e;

	assert(length > 0 && from + length <= e->length);
	part.logical += from;
	part.length = length;
	if ((e->flags & EXTENT_HOLE) != 0)
		return part;
	part.skip += from;
	part.cut_before += from;
	part.cut_after += e->length - from - length;
	part.crcs += 4 * ((size_t)part.cut_before / CRC_BLOCK_SIZE - (size_t)e->cut_before / CRC_BLOCK_SIZE);
	part.crc_count = extent_blocks(&part);
	return part;
}

static int extent_decode(struct slice v, struct extent *e)
{
	struct cur c = cur_of(v.p, v.len);
	bool is_cut;

	e->pack = cur_u64(&c);
	e->record = (uint64_t)cur_u32(&c) * RECORD_UNIT;
	e->skip = cur_u32(&c);
	e->logical = cur_u64(&c);
	e->length = cur_u32(&c);
	e->flags = cur_u32(&c);
	is_cut = (e->flags & EXTENT_CUT) != 0;
	e->flags &= ~(uint32_t)EXTENT_CUT;
	e->cut_before = is_cut ? cur_u32(&c) : 0;
	e->cut_after = is_cut ? cur_u32(&c) : 0;
	if (!cur_ok(&c) || cur_left(&c) % 4 != 0 || e->logical + e->length < e->logical)
		return -GRANARY_ECORRUPT;
	e->crc_count = (uint32_t)(cur_left(&c) / 4);
	e->crcs = c.p;
	if (e->flags & EXTENT_HOLE)
		return e->crc_count <= EXTENT_CRCS_MAX ? 0 : -GRANARY_ECORRUPT;
	if (e->length > EXTENT_LEN_MAX || e->cut_before > EXTENT_LEN_MAX || e->cut_after > EXTENT_LEN_MAX ||
	    extent_stored(e) > EXTENT_LEN_MAX || e->cut_before > e->skip || e->crc_count != extent_blocks(e))
		return -GRANARY_ECORRUPT;
	return 0;
}

static void extent_put(struct wr *w, const struct extent *e)
{
	assert(e->record % RECORD_UNIT == 0 && e->record / RECORD_UNIT <= UINT32_MAX);
	assert(e->crc_count <= EXTENT_CRCS_MAX);
	bool is_cut = extent_is_cut(e);

	wr_u16(w, TAG_EXTENT);
	wr_u32(w, EXTENT_FIXED_SIZE + (is_cut ? 8u : 0u) + 4 * e->crc_count);
	wr_u64(w, e->pack);
	wr_u32(w, (uint32_t)(e->record / RECORD_UNIT));
	wr_u32(w, e->skip);
	wr_u64(w, e->logical);
	wr_u32(w, e->length);
	wr_u32(w, e->flags | (is_cut ? (uint32_t)EXTENT_CUT : 0));
	if (is_cut) {
		wr_u32(w, e->cut_before);
		wr_u32(w, e->cut_after);
	}
	wr_bytes(w, e->crcs, 4 * (size_t)e->crc_count);
}

int extent_row_decode(struct slice value, struct extent *out)
{
	struct slice v;

	if (!value_bytes(value, TAG_EXTENT, &v))
		return -GRANARY_ECORRUPT;
	return extent_decode(v, out);
}

int64_t extent_row_encode(const struct extent *e, void *buf, size_t cap)
{
	struct wr w = wr_of(buf, cap);

	value_begin(&w);
	extent_put(&w, e);
	return wr_ok(&w) ? (int64_t)wr_len(&w) : -GRANARY_ETOOBIG;
}

/* ---- objects and directories, FORMAT 5.2 ---- */

static int object_add_extent(struct object *o, struct slice v)
{
	struct extent *e = &o->extents[o->extent_count];

	if (o->extent_count == ROW_EXTENTS_INLINE_MAX || extent_decode(v, e) < 0)
		return -GRANARY_ECORRUPT;
	if (o->extent_count > 0 && e->logical < e[-1].logical + e[-1].length)
		return -GRANARY_ECORRUPT;
	o->extent_count++;
	return 0;
}

static bool take_u64(struct slice v, uint64_t *out)
{
	if (v.len != 8)
		return false;
	memcpy(out, v.p, 8);
	return true;
}

static bool take_u32(struct slice v, uint32_t *out)
{
	if (v.len != 4)
		return false;
	memcpy(out, v.p, 4);
	return true;
}

static bool take_flag(struct slice v, bool *out)
{
	if (v.len != 1 || *v.p > 1)
		return false;
	*out = *v.p == 1;
	return true;
}

static bool object_take(struct object *o, uint16_t tag, struct slice v)
{
	switch (tag) {
	case TAG_ID: return take_u64(v, &o->id);
	case TAG_VERSION: return take_u64(v, &o->version);
	case TAG_SIZE: return take_u64(v, &o->size);
	case TAG_MTIME: return take_u64(v, &o->mtime_ns);
	case TAG_CTIME: return take_u64(v, &o->ctime_ns);
	case TAG_MODE: return take_u32(v, &o->mode);
	case TAG_UID: return take_u32(v, &o->uid);
	case TAG_GID: return take_u32(v, &o->gid);
	case TAG_HASH:
		o->has_hash = v.len == 16;
		return o->has_hash && take_u64(slice_of(v.p, 8), &o->hash.lo) &&
			take_u64(slice_of(v.p + 8, 8), &o->hash.hi);
	case TAG_EXTENT: return object_add_extent(o, v) == 0;
	case TAG_WRITTEN: return take_u64(v, &o->written_ns);
	case TAG_META: o->meta = v; return meta_check(v) == 0;
	case TAG_HAS_LINKS: return take_flag(v, &o->has_links);
	case TAG_NLINK: return take_u32(v, &o->nlink);
	case TAG_PARENT: return take_u64(v, &o->parent);
	case TAG_NAME: o->name = v; return v.len <= KEY_LEN_MAX;
	case TAG_CHILDREN: return take_u64(v, &o->children);
	case TAG_BUCKET: return take_u64(v, &o->bucket);
	case TAG_GENERATION: return take_u32(v, &o->generation);
	case TAG_EXTENTS_OUTSIDE: return take_u32(v, &o->extents_outside);
	case TAG_DATASET: return take_flag(v, &o->is_dataset);
	case TAG_CLASS: return take_u64(v, &o->klass);
	case TAG_SYMLINK: o->symlink = v; return v.len <= ROW_SYMLINK_LEN_MAX;
	case TAG_RDEV: return take_u64(v, &o->rdev);
	case TAG_TAG: o->tags = v; return pairs_check(v, ROW_TAGS_LEN_MAX, NULL) == 0;
	case TAG_XATTR: o->xattrs = v; return pairs_check(v, ROW_XATTRS_LEN_MAX, NULL) == 0;
	case TAG_IN_INODE: return take_flag(v, &o->in_inode);
	case TAG_ATIME: return take_u64(v, &o->atime_ns);
	case TAG_REFERS: return take_flag(v, &o->refers);
	case TAG_HOLES: return take_u64(v, &o->holes);
	case TAG_UPLOAD_KEY: o->upload_key = v; return v.len <= KEY_LEN_MAX;
	default: return true;
	}
}

/* All but the extents, of which only the used ones are written: a row is decoded in the time of a few cache misses. */
static void object_clear(struct object *o)
{
	memset(o, 0, offsetof(struct object, extents));
	o->nlink = 1;
}

int object_decode(struct slice value, struct object *out)
{
	struct cur c = cur_of(value.p, value.len);
	uint64_t seen = 0;
	uint16_t tag;
	struct slice v;

	object_clear(out);
	if (cur_u8(&c) != VALUE_FORMAT)
		return -GRANARY_ECORRUPT;
	while (tlv_next(&c, &tag, &v)) {
		uint64_t bit = tag < 64 ? TAG_BIT(tag) & object_tags : 0;
		if ((seen & bit & ~TAG_BIT(TAG_EXTENT)) != 0 || (bit != 0 && !object_take(out, tag, v)))
			return -GRANARY_ECORRUPT;
		seen |= bit;
	}
	if (!cur_done(&c))
		return -GRANARY_ECORRUPT;
	out->is_dir = S_ISDIR(out->mode) || (seen & (TAG_BIT(TAG_PARENT) | TAG_BIT(TAG_CHILDREN))) || out->is_dataset;
	out->raw = value;
	return 0;
}

/* Copies the elements of `old` that no bit of `known` (tags below 64) or [row_first, row_last] names. */
static bool tlv_copy_others(struct wr *w, struct slice old, uint64_t known, uint16_t row_first, uint16_t row_last)
{
	struct cur c = cur_of(old.p, old.len);
	uint16_t tag;
	struct slice v;

	if (old.len == 0)
		return true;
	if (cur_u8(&c) != VALUE_FORMAT)
		return false;
	while (tlv_next(&c, &tag, &v)) {
		if ((tag < 64 && (TAG_BIT(tag) & known)) || (tag >= row_first && tag <= row_last))
			continue;
		tlv_put(w, tag, v);
	}
	return cur_done(&c);
}

static void put_u64(struct wr *w, uint16_t tag, uint64_t v) { if (v != 0) tlv_put_u64(w, tag, v); }
static void put_u32(struct wr *w, uint16_t tag, uint32_t v) { if (v != 0) tlv_put_u32(w, tag, v); }
static void put_flag(struct wr *w, uint16_t tag, bool v) { if (v) tlv_put(w, tag, slice_of("\1", 1)); }

static void object_put_attributes(struct wr *w, const struct object *o)
{
	tlv_put_u64(w, TAG_ID, o->id);
	put_u64(w, TAG_VERSION, o->version);
	put_u64(w, TAG_SIZE, o->size);
	put_u64(w, TAG_MTIME, o->mtime_ns);
	put_u64(w, TAG_CTIME, o->ctime_ns);
	put_u32(w, TAG_MODE, o->mode);
	put_u32(w, TAG_UID, o->uid);
	put_u32(w, TAG_GID, o->gid);
	if (o->has_hash) {
		wr_u16(w, TAG_HASH);
		wr_u32(w, 16);
		wr_u64(w, o->hash.lo);
		wr_u64(w, o->hash.hi);
	}
	put_u64(w, TAG_WRITTEN, o->written_ns);
}

static void object_put_links(struct wr *w, const struct object *o)
{
	put_flag(w, TAG_HAS_LINKS, o->has_links);
	if (o->is_dir ? o->nlink >= DIR_LINKS : o->nlink != 1)
		tlv_put_u32(w, TAG_NLINK, o->nlink);
	put_u64(w, TAG_PARENT, o->parent);
	if (o->name.len > 0)
		tlv_put(w, TAG_NAME, o->name);
	put_u64(w, TAG_CHILDREN, o->children);
	put_u64(w, TAG_BUCKET, o->bucket);
	put_u32(w, TAG_GENERATION, o->generation);
	put_u32(w, TAG_EXTENTS_OUTSIDE, o->extents_outside);
	put_flag(w, TAG_DATASET, o->is_dataset);
	put_u64(w, TAG_CLASS, o->klass);
	put_flag(w, TAG_IN_INODE, o->in_inode);
}

static void put_bytes(struct wr *w, uint16_t tag, struct slice v) { if (v.len > 0) tlv_put(w, tag, v); }

static void object_put_file(struct wr *w, const struct object *o)
{
	put_u64(w, TAG_ATIME, o->atime_ns);
	put_u64(w, TAG_RDEV, o->rdev);
	put_bytes(w, TAG_SYMLINK, o->symlink);
	put_bytes(w, TAG_TAG, o->tags);
	put_bytes(w, TAG_XATTR, o->xattrs);
	put_flag(w, TAG_REFERS, o->refers);
	put_bytes(w, TAG_UPLOAD_KEY, o->upload_key);
	put_u64(w, TAG_HOLES, o->holes);
}

int64_t object_encode(const struct object *o, void *buf, size_t cap)
{
	struct wr w = wr_of(buf, cap);

	if (o->extent_count > ROW_EXTENTS_INLINE_MAX || o->meta.len > ROW_META_LEN_MAX ||
	    o->xattrs.len > ROW_XATTRS_LEN_MAX || o->tags.len > ROW_TAGS_LEN_MAX ||
	    o->symlink.len > ROW_SYMLINK_LEN_MAX)
		return -GRANARY_ETOOBIG;
	value_begin(&w);
	object_put_attributes(&w, o);
	for (uint32_t i = 0; i < o->extent_count; i++)
		extent_put(&w, &o->extents[i]);
	if (o->meta.len > 0)
		tlv_put(&w, TAG_META, o->meta);
	object_put_links(&w, o);
	object_put_file(&w, o);
	if (!tlv_copy_others(&w, o->raw, o->drops_sums ? object_tags | sum_tags : object_tags, 1, 0))
		return -GRANARY_ECORRUPT;
	return wr_ok(&w) ? (int64_t)wr_len(&w) : -GRANARY_ETOOBIG;
}

int pairs_check(struct slice pairs, size_t max, uint32_t *count)
{
	struct cur c = cur_of(pairs.p, pairs.len);
	uint32_t n = 0;

	if (pairs.len > max)
		return -GRANARY_ETOOBIG;
	for (; cur_left(&c) > 0; n++) {
		if (cur_bytes16(&c).len == 0) /* a name has at least one byte; the value may be empty */
			return -GRANARY_EINVAL;
		cur_bytes16(&c);
	}
	if (count != NULL)
		*count = n;
	return cur_done(&c) ? 0 : -GRANARY_EINVAL;
}

int meta_check(struct slice meta) { return pairs_check(meta, ROW_META_LEN_MAX, NULL); }

bool pairs_find(struct slice pairs, struct slice name, struct slice *value)
{
	struct cur c = cur_of(pairs.p, pairs.len);

	while (cur_left(&c) > 0 && cur_ok(&c)) {
		struct slice one = cur_bytes16(&c);

		*value = cur_bytes16(&c);
		if (cur_ok(&c) && slice_eq(one, name))
			return true;
	}
	return false;
}

/* ---- keys, FORMAT 6 ---- */

static struct wr key_begin(uint8_t *buf, char kind)
{
	struct wr w = wr_of(buf, ROW_KEY_MAX);

	wr_u8(&w, (uint8_t)kind);
	return w;
}

static struct slice key_end(const struct wr *w)
{
	assert(wr_ok(w)); /* names were checked against KEY_LEN_MAX where they came in */
	return slice_of(w->start, wr_len(w));
}

static void wr_be32(struct wr *w, uint32_t v)
{
	uint8_t *p = wr_room(w, 4);

	if (p)
		be32_put(p, v);
}

static struct slice key_u64(uint8_t *buf, char kind, uint64_t a)
{
	struct wr w = key_begin(buf, kind);

	wr_be64(&w, a);
	return key_end(&w);
}

static struct slice key_u64_u64(uint8_t *buf, char kind, uint64_t a, uint64_t b)
{
	struct wr w = key_begin(buf, kind);

	wr_be64(&w, a);
	wr_be64(&w, b);
	return key_end(&w);
}

static struct slice key_bytes(uint8_t *buf, char kind, struct slice s)
{
	struct wr w = key_begin(buf, kind);

	wr_slice(&w, s);
	return key_end(&w);
}

struct slice row_bucket(uint8_t *buf, struct slice name) { return key_bytes(buf, 'b', name); }

struct slice row_entry(uint8_t *buf, uint64_t dir, struct slice name, bool is_dir)
{
	struct wr w = key_begin(buf, 'd');

	wr_be64(&w, dir);
	wr_slice(&w, name);
	if (is_dir)
		wr_u8(&w, '/');
	return key_end(&w);
}

struct slice row_entry_prefix(uint8_t *buf, uint64_t dir) { return key_u64(buf, 'd', dir); }
struct slice row_inode(uint8_t *buf, uint64_t id) { return key_u64(buf, 'i', id); }

struct slice row_link(uint8_t *buf, uint64_t id, uint64_t dir, struct slice name)
{
	struct wr w = key_begin(buf, 'o');

	wr_be64(&w, id);
	wr_be64(&w, dir);
	wr_slice(&w, name);
	return key_end(&w);
}

struct slice row_link_prefix(uint8_t *buf, uint64_t id) { return key_u64(buf, 'o', id); }

struct slice row_orphan(uint8_t *buf, uint64_t id, uint64_t session) { return key_u64_u64(buf, 'j', id, session); }
struct slice row_orphan_prefix(uint8_t *buf, uint64_t id) { return key_u64(buf, 'j', id); }

struct slice row_extent(uint8_t *buf, uint64_t id, uint32_t generation, uint64_t logical)
{
	struct wr w = key_begin(buf, 'x');

	wr_be64(&w, id);
	wr_be32(&w, generation);
	wr_be64(&w, logical);
	return key_end(&w);
}

struct slice row_extent_prefix(uint8_t *buf, uint64_t id, uint32_t generation)
{
	struct wr w = key_begin(buf, 'x');

	wr_be64(&w, id);
	wr_be32(&w, generation);
	return key_end(&w);
}

struct slice row_pack(uint8_t *buf, uint64_t pack) { return key_u64(buf, 'p', pack); }
struct slice row_copy(uint8_t *buf, uint64_t store, uint64_t pack) { return key_u64_u64(buf, 'c', store, pack); }

struct slice row_reference_prefix(uint8_t *buf, uint64_t pack, uint64_t record)
{
	struct wr w = key_begin(buf, 'y');

	assert(record % RECORD_UNIT == 0 && record / RECORD_UNIT <= UINT32_MAX);
	wr_be64(&w, pack);
	wr_be32(&w, (uint32_t)(record / RECORD_UNIT));
	return key_end(&w);
}

struct slice row_reference(uint8_t *buf, uint64_t pack, uint64_t record, uint64_t id, uint64_t logical)
{
	size_t prefix_len = row_reference_prefix(buf, pack, record).len;
	struct wr w = wr_of(buf, ROW_KEY_MAX);

	wr_room(&w, prefix_len);
	wr_be64(&w, id);
	wr_be64(&w, logical);
	return key_end(&w);
}

bool row_reference_parse(struct slice key, uint64_t *id, uint64_t *logical)
{
	if (key.len != 1 + 8 + 4 + 8 + 8 || key.p[0] != 'y')
		return false;
	*id = be64_get(key.p + 13);
	*logical = be64_get(key.p + 21);
	return true;
}

struct slice row_upload_prefix(uint8_t *buf, uint64_t bucket) { return key_u64(buf, 'u', bucket); }

struct slice row_upload(uint8_t *buf, uint64_t bucket, struct slice key, uint64_t upload)
{
	struct wr w = key_begin(buf, 'u');

	wr_be64(&w, bucket);
	wr_slice(&w, key);
	wr_u8(&w, 0);
	wr_be64(&w, upload);
	wr_be32(&w, 0);
	return key_end(&w);
}

bool row_upload_parse(struct slice row, struct slice *key, uint64_t *upload)
{
	enum { HEAD = 1 + 8, TAIL = 1 + 8 + 4 };

	if (row.len <= HEAD + TAIL || row.p[0] != 'u')
		return false;
	*key = slice_of(row.p + HEAD, row.len - HEAD - TAIL);
	*upload = be64_get(row.p + row.len - 12);
	return true;
}

struct slice row_session(uint8_t *buf, uint64_t session) { return key_u64(buf, 'h', session); }
struct slice row_retry(uint8_t *buf, uint64_t session, uint64_t sequence)
{
	return key_u64_u64(buf, 'l', session, sequence);
}
struct slice row_key(uint8_t *buf, struct slice access_key) { return key_bytes(buf, 'k', access_key); }
struct slice row_quota(uint8_t *buf, uint64_t bucket) { return key_u64(buf, 'q', bucket); }

struct slice row_deletion(uint8_t *buf, uint64_t written_ns, uint8_t kind, uint64_t id)
{
	struct wr w = key_begin(buf, 'g');

	wr_be64(&w, written_ns);
	wr_u8(&w, kind);
	wr_be64(&w, id);
	return key_end(&w);
}

struct slice row_drive(uint8_t *buf, uint64_t store) { return key_u64(buf, 'f', store); }
struct slice row_task(uint8_t *buf, uint64_t task) { return key_u64(buf, 't', task); }
struct slice row_cold(uint8_t *buf, uint64_t store) { return key_u64(buf, 'z', store); }
struct slice row_linked_prefix(uint8_t *buf, uint64_t pack) { return key_u64(buf, 'm', pack); }

struct slice row_linked(uint8_t *buf, uint64_t pack, uint64_t record)
{
	size_t len = row_linked_prefix(buf, pack).len;

	be64_put(buf + len, record / RECORD_UNIT);
	return slice_of(buf, len + 8);
}

struct slice row_store(uint8_t *buf, const char *what) { return key_bytes(buf, 'M', slice_str(what)); }

bool row_entry_parse(struct slice key, uint64_t *dir, struct slice *name, bool *is_dir)
{
	if (key.len < 9 || key.p[0] != 'd')
		return false;
	*dir = be64_get(key.p + 1);
	*name = slice_of(key.p + 9, key.len - 9);
	*is_dir = name->len > 0 && name->p[name->len - 1] == '/';
	if (*is_dir)
		name->len--;
	return true;
}

/* ---- any value, FORMAT 5.1 ---- */

/* 1 found, 0 missing, -1 damaged. */
static int value_find(struct slice value, uint16_t wanted, struct slice *out)
{
	struct cur c = cur_of(value.p, value.len);
	uint16_t tag;

	if (value.len == 0)
		return 0;
	if (cur_u8(&c) != VALUE_FORMAT)
		return -1;
	while (tlv_next(&c, &tag, out))
		if (tag == wanted)
			return 1;
	return cur_done(&c) ? 0 : -1;
}

bool value_u64(struct slice value, uint16_t tag, uint64_t otherwise, uint64_t *out)
{
	struct slice v;
	int found = value_find(value, tag, &v);

	*out = otherwise;
	if (found <= 0)
		return found == 0;
	if (v.len == 0 || v.len > 8)
		return false;
	*out = tlv_u64(v);
	return true;
}

bool value_bytes(struct slice value, uint16_t tag, struct slice *out)
{
	if (value_find(value, tag, out) == 1)
		return true;
	*out = (struct slice){ NULL, 0 };
	return false;
}

/* How many bytes v takes in an element that had `old_len`: small integers (states) keep their width. */
static size_t width_for(size_t old_len, uint64_t v)
{
	return old_len > 0 && old_len < 8 && (v >> (8 * old_len)) == 0 ? old_len : 8;
}

static void put_width(struct wr *w, uint16_t tag, uint64_t v, size_t width)
{
	tlv_put(w, tag, slice_of(&v, width)); /* little-endian: the low bytes come first */
}

int64_t value_set_u64(struct slice value, uint16_t tag, uint64_t v, void *buf, size_t cap)
{
	struct cur c = cur_of(value.p, value.len);
	struct wr w = wr_of(buf, cap);
	bool is_set = false;
	uint16_t t;
	struct slice old;

	if (value.len > 0 && cur_u8(&c) != VALUE_FORMAT)
		return -GRANARY_ECORRUPT;
	value_begin(&w);
	while (tlv_next(&c, &t, &old)) {
		if (t == tag && !is_set)
			put_width(&w, t, v, width_for(old.len, v));
		else
			tlv_put(&w, t, old);
		is_set |= t == tag;
	}
	if (!cur_done(&c))
		return -GRANARY_ECORRUPT;
	if (!is_set)
		tlv_put_u64(&w, tag, v);
	return wr_ok(&w) ? (int64_t)wr_len(&w) : -GRANARY_ETOOBIG;
}

/* ---- packs, FORMAT 6.8 ---- */

static bool pack_row_take(struct pack_row *p, uint16_t tag, struct slice v)
{
	switch (tag) {
	case PTAG_STATE:
		p->state = v.len == 1 ? *v.p : 0;
		return p->state >= PACK_OPEN && p->state <= PACK_BROKEN;
	case PTAG_ORDER: return take_u64(v, &p->order);
	case PTAG_END: return take_u64(v, &p->committed_end);
	case PTAG_LIVE: return take_u64(v, &p->live_bytes);
	case PTAG_TOTAL: return take_u64(v, &p->total_bytes);
	case PTAG_GROUP: return take_u64(v, &p->group);
	case PTAG_PINS: return take_u64(v, &p->pins);
	case PTAG_SIZE: return take_u64(v, &p->file_size);
	case PTAG_RECORDS: return take_u64(v, &p->records);
	case PTAG_CREATED: return take_u64(v, &p->created);
	case PTAG_LIVE_RECORDS: return take_u64(v, &p->live_records);
	default: return true;
	}
}

int pack_row_decode(struct slice value, struct pack_row *out)
{
	struct cur c = cur_of(value.p, value.len);
	uint16_t tag;
	struct slice v;

	memset(out, 0, sizeof(*out));
	if (cur_u8(&c) != VALUE_FORMAT)
		return -GRANARY_ECORRUPT;
	while (tlv_next(&c, &tag, &v))
		if (!pack_row_take(out, tag, v))
			return -GRANARY_ECORRUPT;
	return cur_done(&c) ? 0 : -GRANARY_ECORRUPT;
}

int64_t pack_row_encode(const struct pack_row *p, struct slice old, void *buf, size_t cap)
{
	struct wr w = wr_of(buf, cap);

	assert(p->state >= PACK_OPEN && p->state <= PACK_BROKEN);
	value_begin(&w);
	tlv_put(&w, PTAG_STATE, slice_of(&p->state, 1));
	tlv_put_u64(&w, PTAG_ORDER, p->order);
	tlv_put_u64(&w, PTAG_END, p->committed_end);
	tlv_put_u64(&w, PTAG_LIVE, p->live_bytes);
	tlv_put_u64(&w, PTAG_TOTAL, p->total_bytes);
	tlv_put_u64(&w, PTAG_GROUP, p->group);
	tlv_put_u64(&w, PTAG_PINS, p->pins);
	tlv_put_u64(&w, PTAG_SIZE, p->file_size);
	tlv_put_u64(&w, PTAG_RECORDS, p->records);
	tlv_put_u64(&w, PTAG_CREATED, p->created);
	tlv_put_u64(&w, PTAG_LIVE_RECORDS, p->live_records);
	if (!tlv_copy_others(&w, old, 0, PTAG_STATE, PTAG_LIVE_RECORDS))
		return -GRANARY_ECORRUPT;
	return wr_ok(&w) ? (int64_t)wr_len(&w) : -GRANARY_ETOOBIG;
}
