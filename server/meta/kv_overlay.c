/* SPDX-License-Identifier: Apache-2.0 */
/* kv_overlay.c -- rows that the group in progress has put, deleted or counted, by key and by 9-byte prefix, and, where
 * somebody asks for it, in order of keys.
 * Invariants: (1) table and prefix_heads are as if the entries had been inserted in index order, so the newest entries
 * can be taken away again in reverse order (overlay_pop) without tombstones; (2) the tree is ordered by key, and no
 * entry has a larger hash than the one above it: hashes are as good as random, so it is some 2 ln n deep. */
#include "meta/kv_group.h"

#include "common/error.h"

#include <assert.h>
#include <stdlib.h>

enum { OVERLAY_TABLE_MIN = 1024, OVERLAY_TABLE_KEEP = 1 << 16 };

int overlay_init(struct overlay *o)
{
	memset(o, 0, sizeof(*o));
	return overlay_reserve(o, 1);
}

void overlay_release(struct overlay *o)
{
	free(o->entries);
	free(o->table);
	free(o->prefix_heads);
	memset(o, 0, sizeof(*o));
}

static void table_insert(struct overlay *o, uint32_t index)
{
	struct overlay_entry *e = &o->entries[index];
	uint32_t slot = (uint32_t)e->hash & o->mask;

	while (o->table[slot] != 0)
		slot = (slot + 1) & o->mask;
	o->table[slot] = index + 1;
	e->slot = slot;
}

static void prefix_link(struct overlay *o, uint32_t index)
{
	struct overlay_entry *e = &o->entries[index];
	uint32_t *head = &o->prefix_heads[(uint32_t)e->prefix_hash & o->mask];

	e->prefix_next = *head;
	*head = index + 1;
}

static int table_grow(struct overlay *o, uint32_t size)
{
	uint32_t *table = calloc(size, sizeof(*table));
	uint32_t *heads = calloc(size, sizeof(*heads));

	if (table == NULL || heads == NULL) {
		free(table);
		free(heads);
		return -GRANARY_ENOMEM;
	}
	free(o->table);
	free(o->prefix_heads);
	o->table = table;
	o->prefix_heads = heads;
	o->mask = size - 1;
	o->linked = 0;
	for (uint32_t i = 0; i < o->count; i++)
		table_insert(o, i);
	return 0;
}

int overlay_reserve(struct overlay *o, uint32_t n)
{
	uint64_t need = (uint64_t)o->count + n;
	uint64_t size = o->table ? o->mask + UINT64_C(1) : OVERLAY_TABLE_MIN;

	if (need > UINT32_MAX / 4)
		return -GRANARY_ENOMEM;
	if (need > o->cap) {
		uint64_t cap = need > 2 * (uint64_t)o->cap ? need : 2 * (uint64_t)o->cap;
		struct overlay_entry *entries = realloc(o->entries, cap * sizeof(*entries));
		if (entries == NULL)
			return -GRANARY_ENOMEM;
		o->entries = entries;
		o->cap = (uint32_t)cap;
	}
	while (size < 2 * need)
		size *= 2;
	return o->table == NULL || size > o->mask + UINT64_C(1) ? table_grow(o, (uint32_t)size) : 0;
}

struct overlay_entry *overlay_find(const struct overlay *o, uint64_t hash, struct slice key)
{
	uint32_t slot = (uint32_t)hash & o->mask;

	for (; o->table[slot] != 0; slot = (slot + 1) & o->mask) {
		struct overlay_entry *e = &o->entries[o->table[slot] - 1];
		if (e->hash == hash && slice_eq(e->key, key))
			return e;
	}
	return NULL;
}

struct overlay_entry *overlay_touch(struct overlay *o, uint64_t hash, uint64_t prefix_hash, struct slice key,
	bool *is_new)
{
	struct overlay_entry *e = overlay_find(o, hash, key);

	*is_new = e == NULL;
	if (e != NULL)
		return e;
	assert(o->count < o->cap); /* overlay_reserve */
	e = &o->entries[o->count];
	*e = (struct overlay_entry){ .hash = hash, .prefix_hash = prefix_hash, .key = key };
	table_insert(o, o->count);
	o->count++;
	return e;
}

void overlay_pop(struct overlay *o, uint32_t count)
{
	assert(o->sorted <= count || count == 0);
	if (count == 0)
		o->root = o->sorted = 0;
	while (o->count > count) {
		struct overlay_entry *e = &o->entries[o->count - 1];
		if (o->linked == o->count) {
			o->prefix_heads[(uint32_t)e->prefix_hash & o->mask] = e->prefix_next;
			o->linked--;
		}
		o->table[e->slot] = 0;
		o->count--;
	}
}

void overlay_reset(struct overlay *o)
{
	overlay_pop(o, 0);
	if (o->mask + UINT64_C(1) > OVERLAY_TABLE_KEEP) /* after an unusually large group */
		overlay_release(o);
}

static bool entry_begins(const struct overlay_entry *e, struct slice prefix)
{
	return e->key.len >= prefix.len && memcmp(e->key.p, prefix.p, prefix.len) == 0;
}

static bool overlay_finds(struct overlay *o, uint64_t prefix_hash, struct slice prefix, bool also_deleted)
{
	if (prefix.len < KV_PREFIX_LEN) {
		for (uint32_t i = 0; i < o->count; i++)
			if ((also_deleted || o->entries[i].kind != OVERLAY_DELETE) &&
			    entry_begins(&o->entries[i], prefix))
				return true;
		return false;
	}
	while (o->linked < o->count)
		prefix_link(o, o->linked++);
	for (uint32_t i = o->prefix_heads[(uint32_t)prefix_hash & o->mask]; i != 0; i = o->entries[i - 1].prefix_next)
		if ((also_deleted || o->entries[i - 1].kind != OVERLAY_DELETE) &&
		    entry_begins(&o->entries[i - 1], prefix))
			return true;
	return false;
}

bool overlay_has_prefix(struct overlay *o, uint64_t prefix_hash, struct slice prefix)
{
	return overlay_finds(o, prefix_hash, prefix, false);
}

bool overlay_touches_prefix(struct overlay *o, uint64_t prefix_hash, struct slice prefix)
{
	return overlay_finds(o, prefix_hash, prefix, true);
}

/* ---- in order of keys ---- */

static int key_cmp(struct slice a, struct slice b)
{
	int c = memcmp(a.p, b.p, a.len < b.len ? a.len : b.len);

	return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

static void sort_in(struct overlay *o, uint32_t number)
{
	struct overlay_entry *e = &o->entries[number - 1], *x;
	uint32_t *at = &o->root, *below = &e->below, *above = &e->above, rest;

	while (*at != 0 && (x = &o->entries[*at - 1])->hash >= e->hash)
		at = key_cmp(e->key, x->key) < 0 ? &x->below : &x->above;
	rest = *at;
	*at = number;
	while (rest != 0) { /* what stood here is shared out between its two sides */
		x = &o->entries[rest - 1];
		if (key_cmp(x->key, e->key) < 0) {
			*below = rest;
			below = &x->above;
			rest = x->above;
		} else {
			*above = rest;
			above = &x->below;
			rest = x->below;
		}
	}
	*below = *above = 0;
}

struct overlay_entry *overlay_seek(struct overlay *o, struct slice key, enum overlay_way way)
{
	struct overlay_entry *best = NULL;

	while (o->sorted < o->count)
		sort_in(o, ++o->sorted);
	for (uint32_t at = o->root; at != 0;) {
		struct overlay_entry *e = &o->entries[at - 1];
		int c = key_cmp(e->key, key);
		bool fits = way == OVERLAY_FROM ? c >= 0 : way == OVERLAY_AFTER ? c > 0 : c <= 0;

		if (fits)
			best = e;
		at = fits == (way != OVERLAY_UP_TO) ? e->below : e->above;
	}
	return best;
}
