/* SPDX-License-Identifier: Apache-2.0 */
/* harness_snapshot.h -- requests of snapshots and what they answer, for tests with harness_store.h.
 */
#pragma once

#include "harness_store.h"

#include "common/snap.h"

struct snap_entry {
	int err;
	uint8_t state;
	uint64_t created, expires, samples, bytes, alone, size;
	struct hash128 manifest;
	char name[130], text[512], warnings[4096];
};

static inline void snap_entry_take(struct snap_entry *e, struct cur *m)
{
	struct slice name = cur_bytes16(m);

	if (name.len > 0 && name.len < sizeof(e->name)) memcpy(e->name, name.p, name.len);
	e->state = cur_u8(m);
	e->created = cur_u64(m);
	e->expires = cur_u64(m);
	e->samples = cur_u64(m);
	e->bytes = cur_u64(m);
	e->alone = cur_u64(m);
	e->manifest.lo = cur_u64(m);
	e->manifest.hi = cur_u64(m);
	cur_bytes16(m);
	cur_bytes16(m);
	cur_u64(m);
	cur_u64(m);
	assert_true(cur_ok(m));
}

static inline struct call *snap_create_start(struct peer *p, const char *bucket, const char *name,
	const char *prefix, const char *options)
{
	struct msg m = msg_new(bucket);
	struct call *c;

	wr_bytes16(&m.w, slice_str(name));
	wr_bytes16(&m.w, slice_str(prefix));
	wr_bytes16(&m.w, slice_str(options));
	c = call_start(p, OP_SNAPSHOT_CREATE, 0, &m.w, NULL, 0);
	free(m.buf);
	return c;
}

static inline struct snap_entry snap_created(struct call *c)
{
	struct snap_entry e = { .err = call_status(c) };
	struct cur m = cur_of(c->first->meta, c->first->meta_len);

	if (e.err == 0) {
		struct slice w;

		snap_entry_take(&e, &m);
		w = cur_bytes16(&m);
		if (w.len > 0 && w.len < sizeof(e.warnings)) memcpy(e.warnings, w.p, w.len);
		assert_true(cur_done(&m));
	} else {
		snprintf(e.text, sizeof(e.text), "%s", call_text(c));
	}
	call_free(c);
	return e;
}

static inline struct snap_entry snap_create(struct peer *p, const char *bucket, const char *name,
	const char *prefix, const char *options)
{
	struct call *c = snap_create_start(p, bucket, name, prefix, options);

	call_wait(c);
	return snap_created(c);
}

static inline int snap_remove(
	struct peer *p, const char *bucket, const char *name, uint8_t flags, char text[512])
{
	struct msg m = msg_new(bucket);
	struct call *c;
	int err;

	wr_bytes16(&m.w, slice_str(name));
	wr_u8(&m.w, flags);
	c = msg_call(p, OP_SNAPSHOT_REMOVE, 0, &m, NULL, 0);
	err = call_status(c);
	if (err < 0 && text != NULL) snprintf(text, 512, "%s", call_text(c));
	call_free(c);
	return err;
}

static inline struct call *snap_repack_start(struct peer *p, const char *bucket, const char *name, uint8_t flags)
{
	struct msg m = msg_new(bucket);
	struct call *c;

	wr_bytes16(&m.w, slice_str(name));
	wr_u8(&m.w, flags);
	c = call_start(p, OP_SNAPSHOT_REPACK, 0, &m.w, NULL, 0);
	free(m.buf);
	return c;
}

static inline struct snap_entry snap_repacked(struct call *c)
{
	struct snap_entry e = { .err = call_status(c) };
	struct cur m = cur_of(c->first->meta, c->first->meta_len);

	if (e.err == 0) {
		snap_entry_take(&e, &m);
		assert_true(cur_done(&m));
	} else {
		snprintf(e.text, sizeof(e.text), "%s", call_text(c));
	}
	call_free(c);
	return e;
}

static inline struct snap_entry snap_repack(struct peer *p, const char *bucket, const char *name, uint8_t flags)
{
	struct call *c = snap_repack_start(p, bucket, name, flags);

	call_wait(c);
	return snap_repacked(c);
}

/* The whole manifest, malloc'd. */
static inline struct snap_entry snap_show(
	struct peer *p, const char *bucket, const char *name, uint8_t **bytes, size_t *len)
{
	struct msg m = msg_new(bucket);
	struct snap_entry e = { 0 };
	struct call *c;
	struct cur a;

	*bytes = NULL;
	*len = 0;
	wr_bytes16(&m.w, slice_str(name));
	wr_u64(&m.w, 0);
	wr_u32(&m.w, 8 << 20);
	c = msg_call(p, OP_SNAPSHOT_SHOW, 0, &m, NULL, 0);
	e.err = call_status(c);
	if (e.err == 0) {
		a = cur_of(c->first->meta, c->first->meta_len);
		snap_entry_take(&e, &a);
		e.size = cur_u64(&a);
		assert_true(cur_done(&a));
		assert_int_equal(e.size, c->first->data_len);
		*len = c->first->data_len;
		*bytes = malloc(*len + 1);
		memcpy(*bytes, c->first->data, *len);
	}
	call_free(c);
	return e;
}

static inline int snap_page(struct peer *p, const char *bucket, const char *name,
	struct hash128 hash, uint8_t **bytes, size_t *len)
{
	struct msg m = msg_new(bucket);
	struct call *c;
	int err;

	wr_bytes16(&m.w, slice_str(name));
	wr_u64(&m.w, hash.lo);
	wr_u64(&m.w, hash.hi);
	wr_u64(&m.w, 0);
	wr_u32(&m.w, 8 << 20);
	c = msg_call(p, OP_SNAPSHOT_PAGE, 0, &m, NULL, 0);
	err = call_status(c);
	*bytes = NULL;
	if (err == 0) {
		struct hash128 got;
		struct cur a = cur_of(c->first->meta, c->first->meta_len);

		*len = c->first->data_len;
		assert_int_equal(cur_u64(&a), *len);
		*bytes = malloc(*len + 1);
		memcpy(*bytes, c->first->data, *len);
		got = hash_content(*bytes, *len);
		assert_true(got.lo == hash.lo && got.hi == hash.hi);
	}
	call_free(c);
	return err;
}

struct snap_range {
	uint64_t pack;
	uint32_t offset, length;
	int err;
	bool ended;
	uint8_t *data;
	uint32_t got;
	char text[160];
};

static inline struct msg range_msg(const char *bucket, const char *name, struct hash128 manifest,
	uint8_t flags, const struct snap_range *list, uint32_t count)
{
	struct msg m = msg_new(bucket);

	wr_bytes16(&m.w, slice_str(name));
	wr_u64(&m.w, manifest.lo);
	wr_u64(&m.w, manifest.hi);
	wr_u8(&m.w, flags);
	wr_u32(&m.w, count);
	for (uint32_t i = 0; i < count; i++) {
		wr_u64(&m.w, list[i].pack);
		wr_u32(&m.w, list[i].offset);
		wr_u32(&m.w, list[i].length);
	}
	return m;
}

static inline void ranges_take(
	struct call *c, struct snap_range *list, uint32_t count, bool in_order)
{
	uint32_t last = 0;

	for (struct got *g = c->first; g != NULL; g = g->next) {
		struct cur m = cur_of(g->meta, g->meta_len), data = cur_of(g->data, g->data_len);
		uint32_t pieces = cur_u16(&m);

		assert_int_equal(g->status, 0);
		while (pieces-- > 0) {
			uint32_t index = cur_u32(&m), at, len;
			struct snap_range *r;
			struct slice bytes;
			uint8_t flags;

			assert_true(index < count);
			assert_true(!in_order || index >= last);
			last = index;
			r = &list[index];
			assert_false(r->ended);
			r->err = -(int)cur_u16(&m);
			flags = cur_u8(&m);
			cur_u8(&m);
			at = cur_u32(&m);
			len = cur_u32(&m);
			if (flags & RANGE_TEXT) {
				struct slice t = cur_bytes16(&m);

				snprintf(r->text, sizeof(r->text), "%.*s", (int)t.len,
					(const char *)t.p);
			}
			bytes = cur_bytes(&data, len);
			assert_true(cur_ok(&m) && cur_ok(&data));
			if (r->err == 0) assert_int_equal(at, r->got);
			assert_true(r->got + len <= r->length);
			if (r->data == NULL) r->data = malloc(r->length + 1);
			if (len > 0) memcpy(r->data + r->got, bytes.p, len);
			r->got += len;
			r->ended = (flags & RANGE_LAST) != 0;
			if (r->ended && r->err == 0) assert_int_equal(r->got, r->length);
		}
		assert_true(cur_done(&m) && cur_done(&data));
	}
	for (uint32_t i = 0; i < count; i++) assert_true(list[i].ended);
}

static inline int ranges_get(struct peer *p, const char *bucket, const char *name,
	struct hash128 manifest, uint8_t flags, struct snap_range *list, uint32_t count)
{
	struct msg m = range_msg(bucket, name, manifest, flags, list, count);
	struct call *c = msg_call(p, OP_RANGE, 0, &m, NULL, 0);
	int err = call_status(c);

	if (err == 0) ranges_take(c, list, count, (flags & RANGE_IN_ORDER) != 0);
	call_free(c);
	return err;
}

/* A snapshot read back whole: every name with the bytes of its rows, checked against their
 * checksums. */
struct snap_file {
	char *key;
	uint8_t *data;
	uint64_t size, id; /* id: the sample's dense number */
	uint32_t field;
};
struct snap_files {
	struct snap_file *list;
	uint32_t count;
	struct snap_manifest m;
	uint8_t *manifest;
	struct hash128 hash;
};

static inline void snap_row_bytes(struct peer *p, const char *bucket, const char *name,
	struct hash128 hash, const struct snap_page *page, uint64_t row_at, struct snap_file *f)
{
	struct snap_row row;

	assert_int_equal(snap_page_row(page, row_at, &row), 0);
	f->size = row.size;
	f->data = malloc(row.size + 1);
	for (uint64_t i = 0, at = 0; i < row.extent_count; i++) {
		struct snap_extent e;
		struct snap_range r = { 0 };

		assert_int_equal(snap_page_extent(page, &row, (uint32_t)i, &e), 0);
		if (e.length == 0) continue;
		r = (struct snap_range){ .pack = e.pack, .offset = e.offset, .length = e.length };
		assert_int_equal(ranges_get(p, bucket, name, hash, 0, &r, 1), 0);
		if (r.err < 0) fail_msg("range: %s", r.text);
		assert_int_equal(crc32c(0, r.data, r.length), e.crc);
		memcpy(f->data + at, r.data, r.length);
		at += r.length;
		free(r.data);
	}
}

static inline void snap_read_names(struct peer *p, const char *bucket, const char *name,
	struct snap_files *out, struct snap_page *pages, const uint8_t *bytes, size_t len)
{
	struct snap_names np;
	struct snap_names_iter it;
	struct snap_name n;

	assert_int_equal(snap_names_parse(bytes, len, &np), 0);
	snap_names_seek(&np, slice_of(NULL, 0), &it);
	while (snap_names_next(&it, &n)) {
		struct snap_file *f;
		uint32_t at = 0;

		out->list = realloc(out->list, (out->count + 1) * sizeof(*out->list));
		f = &out->list[out->count++];
		f->key = malloc(n.key.len + 1);
		memcpy(f->key, n.key.p, n.key.len);
		f->key[n.key.len] = '\0';
		f->field = n.field;
		while (at < out->m.page_count && pages[at].pack != n.pack) at++;
		assert_true(at < out->m.page_count);
		assert_true(n.slot < pages[at].samples);
		f->id = n.slot;
		for (uint32_t i = 0; i < at; i++) f->id += pages[i].samples;
		snap_row_bytes(p, bucket, name, out->hash, &pages[at],
			(uint64_t)n.slot * out->m.fields + n.field, f);
	}
	assert_int_equal(it.err, 0);
}

static inline void snap_read_all(
	struct peer *p, const char *bucket, const char *name, struct snap_files *out)
{
	size_t len;
	struct snap_entry e = snap_show(p, bucket, name, &out->manifest, &len);
	struct snap_page *pages;
	uint8_t **page_bytes;

	assert_int_equal(e.err, 0);
	out->hash = hash_content(out->manifest, len);
	assert_true(out->hash.lo == e.manifest.lo && out->hash.hi == e.manifest.hi);
	assert_int_equal(snap_manifest_decode(out->manifest, len, &out->m), 0);
	out->list = NULL;
	out->count = 0;
	pages = calloc(out->m.page_count + 1, sizeof(*pages));
	page_bytes = calloc(out->m.page_count + 1, sizeof(*page_bytes));
	for (uint32_t i = 0; i < out->m.page_count; i++) {
		assert_int_equal(
			snap_page(p, bucket, name, out->m.pages[i].hash, &page_bytes[i], &len), 0);
		assert_int_equal(snap_page_parse(page_bytes[i], len, &pages[i]), 0);
	}
	for (uint32_t i = 0; i < out->m.names_count; i++) {
		uint8_t *bytes;

		assert_int_equal(snap_page(p, bucket, name, out->m.names[i].hash, &bytes, &len), 0);
		snap_read_names(p, bucket, name, out, pages, bytes, len);
		free(bytes);
	}
	for (uint32_t i = 0; i < out->m.page_count; i++) free(page_bytes[i]);
	free(page_bytes);
	free(pages);
}

static inline void snap_files_free(struct snap_files *f)
{
	for (uint32_t i = 0; i < f->count; i++) {
		free(f->list[i].key);
		free(f->list[i].data);
	}
	free(f->list);
	snap_manifest_release(&f->m);
	free(f->manifest);
}

static inline const struct snap_file *snap_find(const struct snap_files *f, const char *key)
{
	for (uint32_t i = 0; i < f->count; i++)
		if (strcmp(f->list[i].key, key) == 0) return &f->list[i];
	return NULL;
}
