/* SPDX-License-Identifier: Apache-2.0 */
/* put_entry.c -- one entry of PUT and one piece of an upload as they are on the wire: PROTOCOL 5.3, 5.4. */
#include "many.h"

int put_check(struct granary_client *c, const struct granary_put *p)
{
	int err = p->ref.kind == GRANARY_REF_ID ? -GRANARY_EINVAL : ref_check(&p->ref);
	size_t meta_len = 0;
	bool has_id = p->flags & GRANARY_PUT_ID;

	if (err < 0)
		return error_fail(c, err, "a put names its object by key, or by directory and name");
	if (p->size > 0 && !p->data)
		return error_fail(c, -GRANARY_EINVAL, "'%.300s': no data given", p->ref.name);
	if (has_id && (p->object_id == 0 || p->size > WIRE_ENTRY_DATA_MAX))
		return error_fail(c, -GRANARY_EINVAL, "'%.300s': with an id, at most %d bytes", p->ref.name,
			WIRE_ENTRY_DATA_MAX);
	for (uint32_t i = 0; i < p->meta_count; i++)
		meta_len += text_size(p->meta[i].name) + text_size(p->meta[i].value);
	if (meta_len > GRANARY_META_LEN_MAX)
		return error_fail(c, -GRANARY_ETOOBIG, "'%.300s': user metadata is above %d bytes", p->ref.name,
			GRANARY_META_LEN_MAX);
	return 0;
}

/* size: of what goes along in the message. */
size_t put_entry_size(const struct granary_put *p, uint64_t size)
{
	enum { FIXED = 1 + 8 + 1 + 8 + 8 + 8 + 3 * 4 + 2 + 8 };

	return ref_size(&p->ref) + FIXED + GRANARY_META_LEN_MAX + 4 * (size_t)crc_block_count(size);
}

static void pairs_encode(struct wr *w, const struct granary_put *p)
{
	size_t len = 0;

	for (uint32_t i = 0; i < p->meta_count; i++)
		len += text_size(p->meta[i].name) + text_size(p->meta[i].value);
	wr_u16(w, (uint16_t)len);
	for (uint32_t i = 0; i < p->meta_count; i++) {
		text_encode(w, p->meta[i].name);
		text_encode(w, p->meta[i].value);
	}
}

static void crcs_encode(struct wr *w, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t at = 0; at < len; at += CRC_BLOCK_SIZE)
		wr_u32(w, crc32c(0, p + at, len - at < CRC_BLOCK_SIZE ? len - at : CRC_BLOCK_SIZE));
}

void put_entry_encode(struct wr *w, const struct granary_put *p, uint64_t upload, uint64_t size)
{
	bool absent = p->flags & GRANARY_PUT_IF_ABSENT, version = p->flags & GRANARY_PUT_IF_VERSION;
	bool mode = p->flags & GRANARY_PUT_MODE, mtime = p->flags & GRANARY_PUT_MTIME;
	bool id = p->flags & GRANARY_PUT_ID;

	ref_encode(w, &p->ref);
	wr_u8(w, absent ? PUT_IF_ABSENT : version ? PUT_IF_VERSION : PUT_ANY);
	wr_u64(w, version ? p->if_version : 0);
	wr_u8(w, (uint8_t)((upload ? PUT_UPLOAD : 0) | (mode ? PUT_HAS_MODE : 0) | (mtime ? PUT_HAS_MTIME : 0) |
		(id ? PUT_HAS_ID : 0)));
	wr_u64(w, upload);
	wr_u64(w, size);
	wr_u64(w, mtime ? p->mtime_ns : 0);
	wr_u32(w, mode ? p->mode : 0);
	wr_u32(w, mode ? p->uid : 0);
	wr_u32(w, mode ? p->gid : 0);
	pairs_encode(w, p);
	if (id)
		wr_u64(w, p->object_id);
	if (!upload)
		crcs_encode(w, p->data, (size_t)size);
}

int put_entry_decode(struct cur *c, struct granary_put *p)
{
	p->status = -(int32_t)cur_u16(c);
	uint64_t id = cur_u64(c);
	if (!(p->flags & GRANARY_PUT_ID))
		p->object_id = id;
	p->version = cur_u64(c);
	p->dir_id = cur_u64(c);
	p->replaced_version = cur_u64(c);
	return p->status;
}

size_t extent_size(const struct granary_ref *ref)
{
	return ref_size(ref) + 8 + 8 + 4 * (size_t)crc_block_count(WIRE_ENTRY_DATA_MAX);
}

void extent_encode(struct wr *w, const struct granary_ref *ref, uint64_t upload, uint64_t offset, const void *data,
	size_t len)
{
	ref_encode(w, ref);
	wr_u64(w, upload);
	wr_u64(w, offset);
	crcs_encode(w, data, len);
}
