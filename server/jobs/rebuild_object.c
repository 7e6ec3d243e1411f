/* SPDX-License-Identifier: Apache-2.0 */
/* rebuild_object.c -- one object out of its records: which byte of it comes from which.
 * Method: from the front to the back; of the records that cover a place the latest has it (a heap). So it takes
 * n log n, whatever was written over what. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/tlv.h"
#include "jobs/rebuild_priv.h"

/* ---- its records ---- */

static struct slice keep(struct object_records *o, struct slice s)
{
	uint8_t *at = o->bytes + o->len;

	if (s.len > 0) memcpy(at, s.p, s.len);
	o->len += s.len;
	return slice_of(at, s.len);
}

/* Room for so many bytes more; what borrows from the old memory moves along. */
static int bytes_grow(struct object_records *o, size_t more)
{
	const uint8_t *old = o->bytes;
	size_t cap = 2 * (o->bytes_cap + more) + 4096;
	uint8_t *bytes;

	if (o->len + more <= o->bytes_cap) return 0;
	bytes = malloc(cap);
	if (bytes == NULL) return -GRANARY_ENOMEM;
	if (o->len > 0) memcpy(bytes, old, o->len);
	for (uint32_t i = 0; i < o->count; i++) {
		struct slice *parts[] = { &o->at[i].name, &o->at[i].key, &o->at[i].attrs, &o->at[i].crcs };

		for (int k = 0; k < 4; k++) parts[k]->p = bytes + (parts[k]->p - old);
	}
	free(o->bytes);
	o->bytes = bytes;
	o->bytes_cap = cap;
	return 0;
}

int records_add(struct object_records *o, const struct kept *k)
{
	struct kept *to;
	int err = bytes_grow(o, k->name.len + k->key.len + k->attrs.len + k->crcs.len);

	if (err < 0) return err;
	if (o->count == o->cap) {
		uint32_t cap = o->cap ? 2 * o->cap : 16;
		struct kept *at = realloc(o->at, cap * sizeof(*at));
		if (at == NULL) return -GRANARY_ENOMEM;
		o->at = at;
		o->cap = cap;
	}
	to = &o->at[o->count++];
	*to = *k;
	to->name = keep(o, k->name);
	to->key = keep(o, k->key);
	to->attrs = keep(o, k->attrs);
	to->crcs = keep(o, k->crcs);
	return 0;
}

void records_clear(struct object_records *o)
{
	o->count = 0;
	o->len = 0;
}

void records_free(struct object_records *o)
{
	free(o->at);
	free(o->bytes);
	memset(o, 0, sizeof(*o));
}

const struct kept *records_newest(const struct object_records *o)
{
	const struct kept *newest = &o->at[0];

	for (uint32_t i = 1; i < o->count; i++)
		if (kept_is_later(&o->at[i], newest)) newest = &o->at[i];
	return newest;
}

struct extent kept_extent(const struct kept *k)
{
	return (struct extent){ .pack = k->pack,
		.record = k->offset,
		.skip = k->header_len,
		.length = k->data_len,
		.logical = k->logical,
		.crc_count = (uint32_t)(k->crcs.len / 4),
		.crcs = k->crcs.p };
}

/* ---- what covers what ---- */

struct sweep {
	const struct object_records *o;
	const struct kept **heap; /* those that begin at or before `at`; the latest first */
	uint32_t heap_count, next;
	uint64_t at;
	struct made_object *out;
	uint32_t cap;
	const struct kept *last; /* whose the last extent is */
	uint64_t last_from;
};

static void heap_swap(struct sweep *s, uint32_t a, uint32_t b)
{
	const struct kept *t = s->heap[a];

	s->heap[a] = s->heap[b];
	s->heap[b] = t;
}

static void heap_push(struct sweep *s, const struct kept *k)
{
	uint32_t i = s->heap_count++;

	for (s->heap[i] = k; i > 0 && kept_is_later(s->heap[i], s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap_swap(s, i, (i - 1) / 2);
}

static void heap_pop(struct sweep *s)
{
	s->heap[0] = s->heap[--s->heap_count];
	for (uint32_t i = 0, child; (child = 2 * i + 1) < s->heap_count; i = child) {
		if (child + 1 < s->heap_count && kept_is_later(s->heap[child + 1], s->heap[child])) child++;
		if (!kept_is_later(s->heap[child], s->heap[i])) break;
		heap_swap(s, i, child);
	}
}

/* Bytes [from, to) of the object are k's. */
static int cover(struct sweep *s, const struct kept *k, uint64_t from, uint64_t to)
{
	struct extent all = kept_extent(k), *extents;
	struct ns_put *put = &s->out->put;

	if (s->last == k) { /* a record that begins there is older: nothing was cut */
		put->extent_count--;
		from = s->last_from;
	}
	if (put->extent_count == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 4;
		extents = realloc(s->out->extents, s->cap * sizeof(*extents));
		if (extents == NULL) return -GRANARY_ENOMEM;
		s->out->extents = extents;
	}
	s->out->extents[put->extent_count++] =
		from == k->logical && to == kept_end(k)
			? all
			: extent_part(&all, (uint32_t)(from - k->logical), (uint32_t)(to - from));
	s->last = k;
	s->last_from = from;
	return 0;
}

static int sweep_step(struct sweep *s)
{
	const struct object_records *o = s->o;
	uint64_t to;
	int err;

	if (s->heap_count == 0) {
		if (o->at[s->next].logical > s->at) s->out->is_complete = false;
		s->at = o->at[s->next].logical;
		s->last = NULL;
	}
	while (s->next < o->count && o->at[s->next].logical <= s->at) heap_push(s, &o->at[s->next++]);
	while (s->heap_count > 0 && kept_end(s->heap[0]) <= s->at) heap_pop(s);
	if (s->heap_count == 0) return 0;
	to = kept_end(s->heap[0]);
	if (s->next < o->count && o->at[s->next].logical < to) to = o->at[s->next].logical;
	err = cover(s, s->heap[0], s->at, to);
	s->at = to;
	return err;
}

/* ---- attributes ---- */

static void attrs_take(const struct kept *k, struct ns_put *put)
{
	struct cur c = cur_of(k->attrs.p, k->attrs.len);
	struct slice v;
	uint16_t tag;

	while (tlv_next(&c, &tag, &v)) {
		switch (tag) {
		case TAG_MTIME: put->mtime_ns = tlv_u64(v); break;
		case TAG_MODE: put->mode = (uint32_t)tlv_u64(v); break;
		case TAG_UID: put->uid = (uint32_t)tlv_u64(v); break;
		case TAG_GID: put->gid = (uint32_t)tlv_u64(v); break;
		case TAG_META:
			if (meta_check(v) == 0) put->meta = v;
			break;
		case TAG_SIZE:
			if (k->is_whole && tlv_u64(v) > put->size) put->size = tlv_u64(v);
			break;
		default: break;
		}
	}
}

/* Those of the first write, and the time of the last one. */
static void object_attrs(const struct object_records *o, const struct kept *newest, struct ns_put *put)
{
	const struct kept *first = &o->at[0];
	uint64_t mtime_ns;

	for (uint32_t i = 1; i < o->count; i++)
		if (o->at[i].version < first->version) first = &o->at[i];
	put->mode = 0100644;
	attrs_take(newest, put);
	mtime_ns = put->mtime_ns;
	if (first->version != newest->version) attrs_take(first, put);
	put->mtime_ns = mtime_ns;
	if ((put->mode & 0170000) != 0100000) put->mode = 0100644;
	for (uint32_t i = 0; i < o->count; i++)
		if (kept_end(&o->at[i]) > put->size) put->size = kept_end(&o->at[i]);
}

int object_make(const struct object_records *o, struct made_object *out)
{
	const struct kept *newest = records_newest(o);
	struct sweep s = { .o = o, .out = out, .heap = malloc(o->count * sizeof(*s.heap)) };
	int err = s.heap != NULL ? 0 : -GRANARY_ENOMEM;

	memset(out, 0, sizeof(*out));
	out->is_complete = true;
	if (err == 0 && o->count == 1 && newest->data_len == 0 && newest->logical == 0) err = cover(&s, newest, 0, 0);
	while (err == 0 && (s.next < o->count || s.heap_count > 0)) err = sweep_step(&s);
	free(s.heap);
	object_attrs(o, newest, &out->put);
	if (out->put.size > s.at && s.at > 0) out->is_complete = false;
	out->put.id = newest->object;
	out->put.version = newest->version;
	out->put.extents = out->extents;
	out->put.has_hash = newest->is_whole && !newest->is_damaged && out->put.extent_count == 1 &&
			    newest->data_len == out->put.size;
	out->put.hash = newest->hash;
	return err;
}
