/* SPDX-License-Identifier: Apache-2.0 */
/* snap_names.c -- names pages, FORMAT 8.4: header, list of packs, entries that share the start of the key before them,
 * table of restart points. */
#include "common/snap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/snap_build.h"

enum { COUNT_ENTRIES, COUNT_PACKS, COUNT_RESTARTS, COUNT_BYTES }; /* of the header */
enum { RESTART_EVERY = 16, PACK_ID_SIZE = 8, RESTART_SIZE = 4, ENTRY_MIN = 6, VARINT_MAX = 5 };

struct snap_names_builder {
	uint32_t count, last_len;
	struct snap_packs packs;
	struct snap_buf entries, restarts;
	uint8_t last[SNAP_KEY_MAX];
};

/* ---- building ---- */

struct snap_names_builder *snap_names_builder_new(void)
{
	return calloc(1, sizeof(struct snap_names_builder));
}

static void builder_release(struct snap_names_builder *b)
{
	snap_packs_free(&b->packs);
	snap_buf_free(&b->entries);
	snap_buf_free(&b->restarts);
}

/* Empty, its buffers kept. */
static void builder_clear(struct snap_names_builder *b)
{
	snap_packs_free(&b->packs);
	b->entries.len = b->restarts.len = 0;
	b->count = b->last_len = 0;
}

void snap_names_builder_free(struct snap_names_builder **bp)
{
	struct snap_names_builder *b = *bp;

	*bp = NULL;
	if (b == NULL)
		return;
	builder_release(b);
	free(b);
}

static int key_cmp(struct slice a, struct slice b)
{
	int order = a.len && b.len ? memcmp(a.p, b.p, a.len < b.len ? a.len : b.len) : 0;

	return order ? order : (a.len > b.len) - (a.len < b.len);
}

static uint32_t key_shared(struct slice a, struct slice b)
{
	size_t most = a.len < b.len ? a.len : b.len, n = 0;
	uint64_t x, y;

	for (; n + sizeof(x) <= most; n += sizeof(x)) {
		memcpy(&x, a.p + n, sizeof(x));
		memcpy(&y, b.p + n, sizeof(y));
		if (x != y)
			return (uint32_t)n + (uint32_t)__builtin_ctzll(x ^ y) / 8;
	}
	while (n < most && a.p[n] == b.p[n])
		n++;
	return (uint32_t)n;
}

static void varint_put(struct wr *w, uint32_t v)
{
	for (; v >= 0x80; v >>= 7)
		wr_u8(w, (uint8_t)(v | 0x80));
	wr_u8(w, (uint8_t)v);
}

static int entry_put(struct snap_names_builder *b, const struct snap_name *n, uint32_t shared, uint32_t pack)
{
	size_t room = 5 * VARINT_MAX + n->key.len - shared;
	uint8_t *p = snap_buf_room(&b->entries, room);
	struct wr w;

	if (p == NULL)
		return -GRANARY_ENOMEM;
	w = wr_of(p, room);
	varint_put(&w, shared);
	varint_put(&w, (uint32_t)n->key.len - shared);
	varint_put(&w, pack);
	varint_put(&w, n->slot);
	varint_put(&w, n->field);
	wr_bytes(&w, n->key.p + shared, n->key.len - shared);
	b->entries.len -= room - wr_len(&w);
	return 0;
}

static int restart_put(struct snap_names_builder *b)
{
	uint8_t *p = snap_buf_room(&b->restarts, RESTART_SIZE);
	uint32_t at = (uint32_t)b->entries.len;

	if (p == NULL)
		return -GRANARY_ENOMEM;
	memcpy(p, &at, sizeof(at));
	return 0;
}

int snap_names_add(struct snap_names_builder *b, const struct snap_name *n)
{
	struct slice last = slice_of(b->last, b->last_len);
	uint32_t shared = key_shared(n->key, last), pack;
	bool restart = b->count % RESTART_EVERY == 0;
	int err;

	if (n->key.len == 0 || n->key.len > SNAP_KEY_MAX || n->field >= SNAP_FIELDS_MAX || shared == n->key.len ||
	    (shared < last.len && n->key.p[shared] < last.p[shared]))
		return -GRANARY_EINVAL;
	if (snap_names_builder_size(b) + SNAP_KEY_MAX + 5 * VARINT_MAX + PACK_ID_SIZE + RESTART_SIZE >= SNAP_FILE_MAX)
		return -GRANARY_ETOOBIG;
	err = snap_packs_index(&b->packs, n->pack, &pack);
	if (err == 0 && restart)
		err = restart_put(b);
	if (err < 0)
		return err;
	err = entry_put(b, n, restart ? 0 : shared, pack);
	if (err < 0) {
		b->restarts.len -= restart ? RESTART_SIZE : 0;
		return err;
	}
	memcpy(b->last + shared, n->key.p + shared, n->key.len - shared);
	b->last_len = (uint32_t)n->key.len;
	b->count++;
	return 0;
}

size_t snap_names_builder_size(const struct snap_names_builder *b)
{
	return sizeof(struct snap_header) + b->packs.ids.len + b->entries.len + b->restarts.len;
}

int snap_names_finish(struct snap_names_builder *b, uint8_t **bytes, size_t *len, struct hash128 *hash)
{
	struct snap_header h = { 0 };
	size_t size = snap_names_builder_size(b);
	uint8_t *out = malloc(size), *p;

	if (out == NULL)
		return -GRANARY_ENOMEM;
	h.counts[COUNT_ENTRIES] = le32_of(b->count);
	h.counts[COUNT_PACKS] = le32_of(b->packs.count);
	h.counts[COUNT_RESTARTS] = le32_of((uint32_t)(b->restarts.len / RESTART_SIZE));
	h.counts[COUNT_BYTES] = le32_of((uint32_t)b->entries.len);
	memcpy(out, &h, sizeof(h));
	p = snap_buf_copy(out + sizeof(h), &b->packs.ids);
	p = snap_buf_copy(p, &b->entries);
	p = snap_buf_copy(p, &b->restarts);
	assert(p == out + size);
	snap_header_seal(out, size, SNAP_MAGIC_NAMES);
	*hash = hash_content(out, size);
	*bytes = out;
	*len = size;
	builder_clear(b);
	return 0;
}

/* ---- reading ---- */

int snap_names_parse(const uint8_t *bytes, size_t len, struct snap_names *out)
{
	struct snap_header h;
	struct snap_names n = { .bytes = bytes, .len = len };
	uint32_t bytes_len;
	int err = snap_header_open(bytes, len, SNAP_MAGIC_NAMES, &h);

	if (err < 0)
		return err;
	n.count = le32_get(h.counts[COUNT_ENTRIES]);
	n.pack_count = le32_get(h.counts[COUNT_PACKS]);
	n.restarts = le32_get(h.counts[COUNT_RESTARTS]);
	bytes_len = le32_get(h.counts[COUNT_BYTES]);
	if (n.pack_count > SNAP_PACKS_MAX || n.count > bytes_len / ENTRY_MIN || le64_get(h.pack) != 0 ||
	    n.restarts != n.count / RESTART_EVERY + (n.count % RESTART_EVERY != 0))
		return -GRANARY_ECORRUPT;
	if (sizeof(h) + (uint64_t)n.pack_count * PACK_ID_SIZE + bytes_len + (uint64_t)n.restarts * RESTART_SIZE != len)
		return -GRANARY_ECORRUPT;
	n.packs = bytes + sizeof(h);
	n.entries = n.packs + (size_t)n.pack_count * PACK_ID_SIZE;
	n.restart_table = n.entries + bytes_len;
	*out = n;
	return 0;
}

struct entry { uint32_t shared, pack, slot, field; struct slice rest; size_t end; };

/* At most 5 bytes, shortest form. */
static uint32_t varint_get(struct cur *c)
{
	uint64_t v = 0;

	if (c->p < c->end && *c->p < 0x80 && !c->bad)
		return *c->p++; /* nearly all are */
	for (unsigned i = 0; i < VARINT_MAX; i++) {
		uint8_t byte = cur_u8(c);
		v |= (uint64_t)(byte & 0x7f) << (7 * i);
		if (byte < 0x80) {
			c->bad |= v > UINT32_MAX || (byte == 0 && i > 0);
			return c->bad ? 0 : (uint32_t)v;
		}
	}
	c->bad = true;
	return 0;
}

static size_t entries_len(const struct snap_names *p)
{
	return (size_t)(p->restart_table - p->entries);
}

static uint32_t restart_at(const struct snap_names *p, uint32_t i)
{
	uint32_t at;

	memcpy(&at, p->restart_table + (size_t)i * RESTART_SIZE, sizeof(at));
	return at;
}

/* The entry at `at`, which follows a key of last_len bytes. */
static int entry_get(const struct snap_names *p, size_t at, uint32_t last_len, struct entry *e)
{
	struct cur c;
	uint32_t len;

	if (at >= entries_len(p))
		return -GRANARY_ECORRUPT;
	c = cur_of(p->entries + at, entries_len(p) - at);
	e->shared = varint_get(&c);
	len = varint_get(&c);
	e->pack = varint_get(&c);
	e->slot = varint_get(&c);
	e->field = varint_get(&c);
	e->rest = cur_bytes(&c, len);
	if (!cur_ok(&c) || e->shared > last_len || len == 0 || len > SNAP_KEY_MAX - e->shared ||
	    e->pack >= p->pack_count || e->field >= SNAP_FIELDS_MAX)
		return -GRANARY_ECORRUPT;
	e->end = (size_t)(c.p - p->entries);
	return 0;
}

/* The entry that comes next: at a restart point exactly where the table says, and above the key before it. */
static int entry_next(const struct snap_names_iter *it, struct entry *e)
{
	const struct snap_names *p = it->page;
	bool restart = it->index % RESTART_EVERY == 0;
	int err = entry_get(p, it->at, it->key_len, e);

	if (err < 0)
		return err;
	if (it->index == 0 && it->at != 0)
		return -GRANARY_ECORRUPT;
	if (restart && (e->shared != 0 || restart_at(p, it->index / RESTART_EVERY) != it->at))
		return -GRANARY_ECORRUPT;
	if (it->index > 0 && key_cmp(e->rest, slice_of(it->key + e->shared, it->key_len - e->shared)) <= 0)
		return -GRANARY_ECORRUPT;
	return it->index + 1 == p->count && e->end != entries_len(p) ? -GRANARY_ECORRUPT : 0;
}

static void entry_take(struct snap_names_iter *it, const struct entry *e)
{
	memcpy(it->key + e->shared, e->rest.p, e->rest.len);
	it->key_len = e->shared + (uint32_t)e->rest.len;
	it->at = e->end;
	it->index++;
}

/* Order of the key that e would give and `key`. */
static int entry_cmp(const struct snap_names_iter *it, const struct entry *e, struct slice key)
{
	struct slice head = slice_of(it->key, e->shared);
	size_t n = key.len < e->shared ? key.len : e->shared;
	int order = n ? memcmp(head.p, key.p, n) : 0;

	if (order != 0)
		return order;
	return key.len < e->shared ? 1 : key_cmp(e->rest, slice_of(key.p ? key.p + n : NULL, key.len - n));
}

/* The last restart point whose key is below `key`, or the first one. */
static uint32_t restart_find(struct snap_names_iter *it, struct slice key)
{
	uint32_t low = 0, high = it->page->restarts;
	struct entry e;

	while (high - low > 1) {
		uint32_t mid = low + (high - low) / 2;

		it->err = entry_get(it->page, restart_at(it->page, mid), 0, &e);
		if (it->err < 0)
			return 0;
		if (key_cmp(e.rest, key) < 0)
			low = mid;
		else
			high = mid;
	}
	return low;
}

void snap_names_seek(const struct snap_names *p, struct slice key, struct snap_names_iter *it)
{
	struct entry e;
	uint32_t restart;

	it->page = p;
	it->at = 0;
	it->index = it->key_len = 0;
	it->err = 0;
	if (p->count == 0)
		return;
	restart = restart_find(it, key);
	it->at = restart_at(p, restart);
	it->index = restart * RESTART_EVERY;
	while (it->err == 0 && it->index < p->count) {
		it->err = entry_next(it, &e);
		if (it->err < 0 || entry_cmp(it, &e, key) >= 0)
			return;
		entry_take(it, &e);
	}
}

void snap_names_at(const struct snap_names *p, uint32_t index, struct snap_names_iter *it)
{
	struct entry e;

	it->page = p;
	it->at = 0;
	it->index = it->key_len = 0;
	it->err = 0;
	if (index > p->count)
		index = p->count;
	if (p->count == 0)
		return;
	uint32_t restart = (index < p->count ? index : p->count - 1) / RESTART_EVERY;
	it->at = restart_at(p, restart);
	it->index = restart * RESTART_EVERY;
	while (it->err == 0 && it->index < index) {
		it->err = entry_next(it, &e);
		if (it->err == 0)
			entry_take(it, &e);
	}
}

bool snap_names_next(struct snap_names_iter *it, struct snap_name *out)
{
	struct entry e;

	if (it->err < 0 || it->index >= it->page->count)
		return false;
	it->err = entry_next(it, &e);
	if (it->err < 0)
		return false;
	entry_take(it, &e);
	out->key = slice_of(it->key, it->key_len);
	memcpy(&out->pack, it->page->packs + (size_t)e.pack * PACK_ID_SIZE, sizeof(out->pack));
	out->slot = e.slot;
	out->field = e.field;
	return true;
}
