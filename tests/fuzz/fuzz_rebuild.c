/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_rebuild.c -- metadata out of packs whose records say anything. The input is a list of records in a small code
 * (their checksums are made right), then raw bytes; they lie in two packs, the first sealed or not. The rebuild ends,
 * and what it made can be listed: every row is its own. */
#include "fuzz_offline.h"

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/tlv.h"
#include "meta/rows.h"
#include "pack/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PACK_MAX = 256 * 1024, RECORDS_MAX = 60, NAME_CAP = 40 };

static uint8_t *pack, *entries;
static uint32_t pack_len, entry_count;

static uint64_t id_of(uint8_t b) /* few, so that they meet; one of a later start */
{
	return b == 255 ? UINT64_C(0x7fffff) << 40 : b == 0 ? 0 : ((uint64_t)(1 + b / 64) << 40) | (b % 16);
}

/* Names out of few letters; the key follows from bucket, path and name, or not. */
static struct slice text_take(struct cur *c, char *buf, size_t cap)
{
	static const char letters[] = "ab/c.\xc3\xa4x";
	uint8_t n = cur_u8(c) % (uint8_t)cap;

	for (uint8_t i = 0; i < n; i++) {
		uint8_t b = cur_u8(c);
		buf[i] = b & 0x80 ? (char)(b & 0x7f) : letters[b % 9];
	}
	return slice_of(buf, n);
}

static size_t attrs_make(struct cur *c, uint8_t *out, size_t cap)
{
	struct wr w = wr_of(out, cap);
	uint8_t which = cur_u8(c);

	if (which & 1) tlv_put_u64(&w, TAG_BUCKET, id_of(cur_u8(c)));
	if (which & 2) tlv_put_u64(&w, TAG_SIZE, cur_u8(c));
	if (which & 4) tlv_put_u32(&w, TAG_MODE, cur_u32(c));
	if (which & 8) tlv_put_u64(&w, TAG_MTIME, cur_u64(c));
	if (which & 16) tlv_put(&w, TAG_META, cur_bytes(c, cur_u8(c) % 40));
	if (which & 32) wr_slice(&w, cur_bytes(c, cur_u8(c) % 20)); /* anything */
	return wr_ok(&w) ? wr_len(&w) : 0;
}

static void record_add(struct cur *c)
{
	char name[NAME_CAP], path[NAME_CAP], key[2 * NAME_CAP + 16];
	uint8_t attrs[256], body[256];
	uint32_t crc;
	uint8_t flags = cur_u8(c);
	struct record r = { .kind = RECORD_DATA, .flags = flags & 1 };
	uint64_t total;

	r.object_id = id_of(cur_u8(c));
	r.version = id_of(cur_u8(c));
	r.dir_id = id_of(cur_u8(c) % 8 + (flags & 2 ? 64 : 0));
	r.logical = flags & 4 ? cur_u64(c) : (uint64_t)cur_u8(c) * 16;
	r.generation = flags & 8;
	r.name = text_take(c, name, sizeof(name));
	if (flags & 16) {
		struct slice p = text_take(c, path, sizeof(path));
		int n = snprintf(key, sizeof(key), "%s/%.*s%.*s", flags & 32 ? "bucket" : "other", (int)p.len,
			(const char *)p.p, (int)r.name.len, (const char *)r.name.p);
		r.key = slice_of(key, (size_t)n < sizeof(key) ? (size_t)n : 0);
	}
	r.attrs = slice_of(attrs, attrs_make(c, attrs, sizeof(attrs)));
	r.data_len = r.stored_len = cur_u8(c) % 200;
	memset(body, flags, sizeof(body));
	crc = crc32c(0, body, r.data_len) ^ (flags & 64 ? 1u : 0u);
	r.crcs = (const uint8_t *)&crc;
	r.crc_count = r.data_len > 0;
	r.header_len = record_header_len(r.key.len, r.name.len, r.attrs.len, r.stored_len);
	total = record_total_len(r.header_len, r.stored_len);
	if ((flags & 128) != 0) pack_len = (pack_len + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK;
	if (!cur_ok(c) || pack_len + total > PACK_MAX || record_encode(&r, pack + pack_len, (size_t)total) < 0) return;
	memcpy(pack + pack_len + r.header_len, body, r.stored_len);
	footer_entry_encode(&(struct footer_entry){ .object_id = r.object_id,
				    .version = r.version,
				    .dir_id = r.dir_id,
				    .offset = pack_len,
				    .data_len = r.data_len,
				    .header_len = r.header_len,
				    .header_crc = record_header_crc(pack + pack_len) },
		entries + (size_t)PACK_FOOTER_ENTRY_SIZE * entry_count++);
	pack_len += (uint32_t)total;
}

static void pack_seal_here(uint64_t id)
{
	uint32_t at = (pack_len + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK, len = entry_count * PACK_FOOTER_ENTRY_SIZE;
	uint64_t size = footer_size(entry_count);
	struct pack_trailer t = { .pack_id = id,
		.footer_offset = at,
		.data_end = pack_len,
		.attempt = 7,
		.entries = entry_count,
		.entries_crc = crc32c(0, entries, len) };

	if (at + size > PACK_MAX + PACK_BLOCK * 2) return;
	memcpy(pack + at, entries, len);
	pack_trailer_encode(&t, pack + at + size - PACK_TRAILER_SIZE);
	pack_len = at + (uint32_t)size;
}

static void pack_write(uint64_t id)
{
	char path[80];
	struct fs_file *file;
	int err;

	pack_header_encode(
		&(struct pack_header){ .pack_id = id, .group = (UINT64_C(1) << 40) | 3, .attempt = 7 }, pack);
	pack_len = (pack_len + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK;
	(void)fs_mkdir(data_fs, "packs");
	snprintf(path, sizeof(path), "packs/%02x", (unsigned)(id & 0xff));
	(void)fs_mkdir(data_fs, path);
	snprintf(path, sizeof(path), "packs/%02x/%016llx-0000000000000007.pack", (unsigned)(id & 0xff),
		(unsigned long long)id);
	err = fs_open(data_fs, path, FS_CREATE_NEW, &file);
	require(err == 0 && fs_write(file, pack, pack_len, 0) == 0 && fs_sync(file) == 0);
	fs_close(&file);
}

static void pack_begin(void)
{
	memset(pack, 0, PACK_MAX + 4 * PACK_BLOCK);
	pack_len = PACK_DATA_START;
	entry_count = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cur c = cur_of(data, size);
	uint8_t how = cur_u8(&c);
	struct offline o = { .simulated = true };
	char why[1024];
	int err;

	if (size > 8192) return 0;
	pack = malloc(PACK_MAX + 4 * PACK_BLOCK);
	entries = malloc((size_t)PACK_FOOTER_ENTRY_SIZE * RECORDS_MAX);
	require(pack != NULL && entries != NULL);
	world_new();
	pack_begin();
	for (uint32_t i = 0; i < RECORDS_MAX / 2 && cur_left(&c) > 4; i++) record_add(&c);
	if (how & 1) pack_seal_here((UINT64_C(1) << 40) | 1);
	pack_write((UINT64_C(1) << 40) | 1);
	pack_begin();
	for (uint32_t i = 0; i < RECORDS_MAX / 2 && cur_left(&c) > 4; i++) record_add(&c);
	if (how & 2 && cur_ok(&c) && cur_left(&c) < PACK_BLOCK) memcpy(pack + pack_len, c.p, cur_left(&c));
	if (how & 2) pack_len += PACK_BLOCK;
	pack_write((UINT64_C(2) << 40) | 2);
	o.fs = data_fs;
	err = offline_rebuild(&o, why, sizeof(why));
	if (err == 0) check_made(true);
	require(err == 0 || fs_exists(data_fs, "meta") == 0);
	require(err == 0 || why[0] != '\0');
	world_free();
	free(pack);
	free(entries);
	return 0;
}
