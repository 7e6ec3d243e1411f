/* SPDX-License-Identifier: Apache-2.0 */
/* put_parse.c -- a batch put as it comes over the wire (PROTOCOL 5.3), and its bytes against their
 * checksums. */
#include "req/put.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"

static int entry_parse(struct put *p, struct put_entry *e, struct cur *c)
{
	int err = ref_parse(c, &p->auth, &e->ref);

	if (err == -GRANARY_EPROTO || e->ref.by == NS_BY_ID) return -GRANARY_EPROTO;
	e->err = err;
	e->condition = cur_u8(c);
	e->if_version = cur_u64(c);
	e->flags = cur_flags(c, PUT_UPLOAD | PUT_HAS_MODE | PUT_HAS_MTIME | PUT_HAS_ID);
	e->upload_number = cur_u64(c);
	e->size = cur_u64(c);
	e->mtime_ns = cur_u64(c);
	e->mode = cur_u32(c);
	e->uid = cur_u32(c);
	e->gid = cur_u32(c);
	e->meta = cur_bytes16(c);
	if ((e->flags & PUT_HAS_ID) != 0) e->id = cur_u64(c);
	if (!cur_ok(c) || e->condition > PUT_IF_VERSION) return -GRANARY_EPROTO;
	if ((e->flags & PUT_HAS_ID) != 0 && (e->flags & PUT_UPLOAD) != 0) return -GRANARY_EPROTO;
	if ((e->flags & PUT_UPLOAD) != 0) return 0;
	if (e->size > WIRE_ENTRY_DATA_MAX) return -GRANARY_ETOOBIG;
	e->crcs = cur_bytes(c, 4 * (size_t)crc_block_count(e->size)).p;
	return cur_ok(c) ? 0 : -GRANARY_EPROTO;
}

static void entry_defaults(struct put_entry *e, uint64_t now_ns)
{
	if ((e->flags & PUT_HAS_MTIME) == 0) e->mtime_ns = now_ns;
	if ((e->flags & PUT_HAS_MODE) == 0) e->mode = 0644;
	e->mode = (e->mode & 07777u) | S_IFREG;
	if (e->err == 0 && meta_check(e->meta) < 0) e->err = -GRANARY_EINVAL;
}

static int entries_parse(struct req *r, struct put *p, struct cur *c)
{
	uint64_t at = 0, now_ns = clock_wall_ns();

	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];
		int err = entry_parse(p, e, c);

		if (err < 0) return err;
		e->put = p;
		entry_defaults(e, now_ns);
		if ((e->flags & PUT_UPLOAD) != 0) continue;
		if (e->size > r->frame.data_len - at) return -GRANARY_EPROTO;
		e->data = r->data + at;
		at += e->size;
	}
	return cur_done(c) && at == r->frame.data_len ? 0 : -GRANARY_EPROTO;
}

int put_parse(struct req *r, struct put *p, struct cur *c)
{
	int err;

	p->r = r;
	p->count = cur_u32(c);
	if (!cur_ok(c) || p->count == 0 || p->count > WIRE_BATCH_MAX) {
		req_set_error(r, -GRANARY_EPROTO, "PUT: 1 to %d entries a request", WIRE_BATCH_MAX);
		return r->err;
	}
	p->entries = req_alloc(p->count * sizeof(*p->entries));
	memset(p->entries, 0, p->count * sizeof(*p->entries));
	for (uint32_t i = 0; i < p->count; i++) p->entries[i].append = &p->entries[i].own;
	err = entries_parse(r, p, c);
	if (err == -GRANARY_ETOOBIG)
		req_set_error(r, err,
			"PUT: an entry carries at most %d bytes; send larger ones by EXTENT first",
			WIRE_ENTRY_DATA_MAX);
	else if (err < 0)
		req_set_error(r, err,
			"PUT does not parse, or its data is not as long as its entries say");
	return err;
}

void put_verify(struct put *p)
{
	uint32_t crcs[EXTENT_CRCS_MAX];

	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];

		if (e->err < 0 || (e->flags & PUT_UPLOAD) != 0) continue;
		crc32c_blocks(crcs, e->data, e->size);
		if (e->size > 0 && memcmp(crcs, e->crcs, 4 * (size_t)crc_block_count(e->size)) != 0)
			e->err = -GRANARY_ECORRUPT;
		else
			e->hash = hash_content(e->data, e->size);
	}
	p->checked = true;
}
