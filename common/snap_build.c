/* SPDX-License-Identifier: Apache-2.0 */
/* snap_build.c -- header, growing bytes and pack list of the files of a snapshot. */
#include "common/snap_build.h"

#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/snap.h"

enum { HEADER_CRC_AT = 60 };

void snap_header_seal(uint8_t *bytes, size_t len, const char magic[8])
{
	struct snap_header h;

	memcpy(&h, bytes, sizeof(h));
	memcpy(h.magic, magic, sizeof(h.magic));
	h.version = le32_of(SNAP_VERSION);
	h.body_crc = le32_of(crc32c(0, bytes + sizeof(h), len - sizeof(h)));
	h.crc = le32_of(crc32c(0, &h, HEADER_CRC_AT));
	memcpy(bytes, &h, sizeof(h));
}

int snap_header_read(const uint8_t *bytes, size_t len, const char magic[8], struct snap_header *out)
{
	static const uint8_t zeros[sizeof(out->reserved)];
	uint32_t known = memcmp(magic, SNAP_MAGIC_MANIFEST, sizeof(out->magic)) == 0 ? SNAP_FEATURE_IDENTITY : 0;

	if (len < sizeof(*out) || len >= SNAP_FILE_MAX)
		return -GRANARY_ECORRUPT;
	memcpy(out, bytes, sizeof(*out));
	if (memcmp(out->magic, magic, sizeof(out->magic)) != 0)
		return -GRANARY_ECORRUPT;
	if (le32_get(out->version) != SNAP_VERSION)
		return -GRANARY_EVERSION;
	if (crc32c(0, out, HEADER_CRC_AT) != le32_get(out->crc))
		return -GRANARY_ECORRUPT;
	if (le32_get(out->features_incompat) & ~known)
		return -GRANARY_EVERSION;
	return memcmp(out->reserved, zeros, sizeof(zeros)) == 0 ? 0 : -GRANARY_ECORRUPT;
}

int snap_header_open(const uint8_t *bytes, size_t len, const char magic[8], struct snap_header *out)
{
	int err = snap_header_read(bytes, len, magic, out);

	if (err < 0)
		return err;
	return crc32c(0, bytes + sizeof(*out), len - sizeof(*out)) == le32_get(out->body_crc) ? 0 : -GRANARY_ECORRUPT;
}

/* ---- bytes that grow ---- */

void snap_buf_free(struct snap_buf *b)
{
	free(b->p);
	*b = (struct snap_buf){ 0 };
}

uint8_t *snap_buf_room(struct snap_buf *b, size_t n)
{
	uint8_t *p;

	if (n > b->cap - b->len) {
		size_t cap = b->cap ? b->cap : 1024;

		while (cap - b->len < n) {
			if (cap > SIZE_MAX / 2)
				return NULL;
			cap *= 2;
		}
		p = realloc(b->p, cap);
		if (p == NULL)
			return NULL;
		b->p = p;
		b->cap = cap;
	}
	p = b->p + b->len;
	b->len += n;
	return p;
}

uint8_t *snap_buf_copy(uint8_t *to, const struct snap_buf *b)
{
	if (b->len > 0)
		memcpy(to, b->p, b->len);
	return to + b->len;
}

/* ---- list of packs ---- */

void snap_packs_free(struct snap_packs *p)
{
	snap_buf_free(&p->ids);
	free(p->slots);
	*p = (struct snap_packs){ 0 };
}

static uint64_t pack_at(const struct snap_packs *p, uint32_t index)
{
	uint64_t pack;

	memcpy(&pack, p->ids.p + (size_t)index * sizeof(pack), sizeof(pack));
	return pack;
}

/* The slot of a pack: where it is, or the free one where it belongs. */
static uint32_t *pack_slot(const struct snap_packs *p, uint64_t pack)
{
	uint32_t mask = p->slot_count - 1;
	uint32_t at = (uint32_t)hash_u64(pack) & mask;

	while (p->slots[at] != 0 && pack_at(p, p->slots[at] - 1) != pack)
		at = (at + 1) & mask;
	return &p->slots[at];
}

static int packs_grow(struct snap_packs *p)
{
	uint32_t count = p->slot_count ? p->slot_count * 2 : 16;
	uint32_t *slots = calloc(count, sizeof(*slots));

	if (slots == NULL)
		return -GRANARY_ENOMEM;
	free(p->slots);
	p->slots = slots;
	p->slot_count = count;
	for (uint32_t i = 0; i < p->count; i++)
		*pack_slot(p, pack_at(p, i)) = i + 1;
	return 0;
}

static int pack_join(struct snap_packs *p, uint64_t pack, uint32_t *slot)
{
	uint8_t *id;

	if (p->count == SNAP_PACKS_MAX)
		return -GRANARY_ETOOBIG;
	id = snap_buf_room(&p->ids, sizeof(pack));
	if (id == NULL)
		return -GRANARY_ENOMEM;
	memcpy(id, &pack, sizeof(pack));
	*slot = ++p->count;
	return 0;
}

int snap_packs_index(struct snap_packs *p, uint64_t pack, uint32_t *index)
{
	uint32_t *slot;
	int err;

	if (p->count > 0 && pack == p->last) {
		*index = p->last_index;
		return 0;
	}
	if (p->count >= p->slot_count / 2 && (err = packs_grow(p)) < 0)
		return err;
	slot = pack_slot(p, pack);
	if (*slot == 0 && (err = pack_join(p, pack, slot)) < 0)
		return err;
	p->last = pack;
	p->last_index = *index = *slot - 1;
	return 0;
}
