/* SPDX-License-Identifier: Apache-2.0 */
/* link_pack.c -- objects of a source are laid out in virtual packs and named. Invariants: (1) rows of a pack, then the
 * table of packs, then rows that point into it; (2) a pack counts as written to (packs_pending) until the objects that
 * begin in it are named: nobody takes it for one that nothing needs; (3) what was named is so by one transaction of up
 * to NAMES_A_TXN objects, each only if what is there is what the walk saw. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/tlv.h"
#include "jobs/link_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "pack/format.h"
#include "tier/packs.h"
#include "tier/stores.h"

enum { NAMES_A_TXN = 256, PLAN_TRIES = 8, MODE = 0100644, ATTRS_MAX = 64 };

struct made { /* an object all of whose records have their place */
	char *key;
	uint64_t id, version, size, mtime_ns, if_version;
	uint32_t first, count; /* of extents */
};

struct link_packer {
	struct link_packing o;
	struct packs_linked pack; /* id 0: none is begun */
	struct linked_entry *entries;
	struct made *made;
	struct extent *extents;
	void **blocks; /* what entries and keys point at */
	uint64_t *held;
	uint32_t entry_count, entry_cap, made_count, made_cap, extent_count, extent_cap, block_count, block_cap,
		held_count,
		held_cap;
	uint64_t packs;
};

static const uint32_t no_sums[EXTENT_CRCS_MAX + 1]; /* nobody knows them yet */

static int room(void *array, uint32_t count, uint32_t *cap, size_t size)
{
	void *wide, *old;
	uint32_t more = *cap > 0 ? 2 * *cap : 64;

	if (count < *cap) return 0;
	memcpy(&old, array, sizeof(old));
	wide = realloc(old, more * size);
	if (wide == NULL) return -GRANARY_ENOMEM;
	memcpy(array, &wide, sizeof(wide));
	*cap = more;
	return 0;
}

static void *keep(struct link_packer *p, const void *bytes, size_t len)
{
	char *block;

	if (room(&p->blocks, p->block_count, &p->block_cap, sizeof(*p->blocks)) < 0) return NULL;
	block = malloc(len + 1);
	if (block == NULL) return NULL;
	memcpy(block, bytes, len);
	block[len] = '\0';
	p->blocks[p->block_count++] = block;
	return block;
}

/* Their objects are named, or never will be. */
static void release_held(struct link_packer *p)
{
	for (uint32_t i = 0; i < p->held_count; i++) {
		struct pack *pack = packs_ref_any(p->o.l->o.packs, p->held[i]);

		if (pack == NULL) continue;
		packs_pending(pack, -1);
		packs_unref(p->o.l->o.packs, pack);
	}
	p->held_count = 0;
}

/* ---- naming ---- */

static int plan_one(struct link_packer *p, struct ns_plan *plan, const struct made *m)
{
	struct ns_put put = { .ref = { .by = NS_BY_KEY, .bucket = p->o.bucket, .name = slice_str(m->key) },
		.condition = m->if_version != 0 ? NS_IF_VERSION : NS_IF_ABSENT,
		.if_version = m->if_version,
		.id = m->id,
		.version = m->version,
		.size = m->size,
		.mtime_ns = m->mtime_ns,
		.mode = MODE,
		.is_linked = true,
		.extents = p->extents + m->first,
		.extent_count = m->count };

	return ns_plan_put(plan, &put);
}

/* One object that cannot be named is no reason not to name the others. */
static bool is_its_own(int err)
{
	return err == -GRANARY_EPRECONDITION || err == -GRANARY_ENAME || err == -GRANARY_EISDIR ||
	       err == -GRANARY_ENOTDIR || err == -GRANARY_EINVAL || err == -GRANARY_EEXIST;
}

static int name_once(struct link_packer *p, const struct made *made, uint32_t count, int *errs)
{
	struct ns_plan *plan = ns_plan_new(p->o.l->o.ns);
	int err = plan != NULL ? 0 : -GRANARY_ENOMEM;

	for (uint32_t i = 0; err == 0 && i < count; i++) {
		errs[i] = plan_one(p, plan, &made[i]);
		if (errs[i] < 0 && !is_its_own(errs[i])) err = errs[i];
	}
	if (err == 0) err = ns_plan_finish(plan);
	if (err == 0) {
		err = kv_submit_wait(p->o.l->o.kv, ns_plan_txn(plan));
		ns_plan_committed(plan, err);
	}
	if (plan != NULL) ns_plan_free(&plan);
	return err == -GRANARY_ECHANGED ? -GRANARY_EBUSY : err;
}

static int name_some(struct link_packer *p, const struct made *made, uint32_t count)
{
	int errs[NAMES_A_TXN], err = -GRANARY_EBUSY;

	for (int tries = 0; err == -GRANARY_EBUSY && tries < PLAN_TRIES; tries++) err = name_once(p, made, count, errs);
	for (uint32_t i = 0; err == 0 && i < count; i++)
		p->o.named(p->o.arg, made[i].key, made[i].size, made[i].if_version == 0, errs[i]);
	return err;
}

static int name_all(struct link_packer *p)
{
	int err = 0;

	for (uint32_t from = 0, n; err == 0 && from < p->made_count; from += n) {
		n = p->made_count - from < NAMES_A_TXN ? p->made_count - from : NAMES_A_TXN;
		err = name_some(p, p->made + from, n);
	}
	p->made_count = 0;
	return err;
}

/* ---- packs ---- */

static int pack_end(struct link_packer *p)
{
	struct packs_linked *l = &p->pack;
	struct kv_txn *txn;
	int err;

	if (l->id == 0) return 0;
	txn = kv_txn_new(p->o.l->o.kv);
	err = txn != NULL ? room(&p->held, p->held_count, &p->held_cap, sizeof(*p->held)) : -GRANARY_ENOMEM;
	l->records = p->entry_count;
	l->file_size = ((l->end + PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1)) + footer_size(p->entry_count);
	if (err == 0) err = linked_put(txn, l->id, p->entries, p->entry_count);
	if (err == 0) err = packs_add_linked(p->o.l->o.packs, txn, l);
	if (err == 0) {
		p->held[p->held_count++] = l->id;
		p->packs++;
	}
	kv_txn_free(&txn);
	l->id = 0;
	p->entry_count = 0;
	return err;
}

static void pack_begin(struct link_packer *p)
{
	struct links *l = p->o.l;

	p->pack = (struct packs_linked){ .store = place_id(p->o.place), .id = ids_pack(l->o.ids), .group = p->o.group,
		.end = PACK_DATA_START, .created_ns = store_clock_now(l->o.clock) };
}

/* Ends the pack at hand; unless an object goes on in the next one, all that was kept for it goes. */
static int flush(struct link_packer *p)
{
	int err = pack_end(p);

	return err < 0 ? err : name_all(p);
}

static void forget(struct link_packer *p)
{
	release_held(p);
	for (uint32_t i = 0; i < p->block_count; i++) free(p->blocks[i]);
	p->block_count = p->extent_count = 0;
}

/* ---- objects ---- */

static size_t attrs_make(const struct link_packer *p, const struct made *m, bool is_whole, uint8_t out[ATTRS_MAX])
{
	struct wr w = wr_of(out, ATTRS_MAX);

	tlv_put_u64(&w, TAG_BUCKET, p->o.bucket);
	tlv_put_u64(&w, TAG_SIZE, m->size);
	tlv_put_u64(&w, TAG_MTIME, m->mtime_ns);
	if (is_whole) tlv_put_u32(&w, TAG_MODE, MODE);
	assert(wr_ok(&w));
	return wr_len(&w);
}

/* One record, behind what the pack has. */
static int record_add(struct link_packer *p, const struct made *m, const struct linked_entry *like, uint64_t at)
{
	struct linked_entry e = *like;
	uint8_t attrs[ATTRS_MAX];
	uint64_t total;
	int err;

	e.logical = e.source_at = at;
	e.data_len = m->size - at < EXTENT_LEN_MAX ? (uint32_t)(m->size - at) : EXTENT_LEN_MAX;
	e.is_whole = e.data_len == m->size;
	e.attrs.len = attrs_make(p, m, e.is_whole, attrs);
	e.attrs.p = keep(p, attrs, e.attrs.len);
	e.header_len = record_header_len(e.key.len, e.name.len, e.attrs.len, e.data_len);
	total = record_total_len(e.header_len, e.data_len);
	if (e.attrs.p == NULL) return -GRANARY_ENOMEM;
	if (p->pack.id != 0 && (p->pack.end + total + footer_size(p->entry_count + 1) > packs_size(p->o.l->o.packs) ||
				       p->entry_count == LINKED_PACK_RECORDS_MAX)) {
		err = flush(p);
		if (err < 0) return err;
	}
	if (p->pack.id == 0) pack_begin(p);
	err = room(&p->entries, p->entry_count, &p->entry_cap, sizeof(*p->entries));
	if (err == 0) err = room(&p->extents, p->extent_count, &p->extent_cap, sizeof(*p->extents));
	if (err < 0) return err;
	e.record = p->pack.end;
	p->entries[p->entry_count++] = e;
	p->extents[p->extent_count++] = (struct extent){ .pack = p->pack.id, .record = e.record, .skip = e.header_len,
		.length = e.data_len, .logical = at, .flags = EXTENT_UNSUMMED, .crc_count = crc_block_count(e.data_len),
		.crcs = (const uint8_t *)no_sums };
	p->pack.end += total;
	p->pack.total += total;
	return 0;
}

int link_packer_add(struct link_packer *p, const char *key, const char *source_key, const struct source_object *o,
	uint64_t if_version)
{
	struct made m = { .size = o->len, .if_version = if_version, .id = ids_object(p->o.l->o.ids),
		.version = ids_version(p->o.l->o.ids),
		.mtime_ns = o->mtime_s > 0 ? (uint64_t)o->mtime_s * 1000000000u : clock_wall_ns() };
	struct linked_entry like = { .object_id = m.id, .version = m.version, .dir_id = 0 };
	char full[BUCKET_LEN_MAX + 1 + KEY_LEN_MAX + 1];
	struct slice dir;
	int err;

	/* Nothing of an object that is not complete is kept here: what went before goes first. */
	if (p->made_count >= LINKED_PACK_RECORDS_MAX || p->extent_count >= 2 * LINKED_PACK_RECORDS_MAX) {
		err = flush(p);
		if (err < 0) return err;
	}
	if (p->pack.id == 0 && p->made_count == 0) forget(p);
	snprintf(full, sizeof(full), "%s/%s", p->o.bucket_name, key);
	m.key = keep(p, key, strlen(key));
	like.key = slice_of(keep(p, full, strlen(full)), strlen(full));
	like.source = slice_of(keep(p, source_key, strlen(source_key)), strlen(source_key));
	like.tag = slice_of(keep(p, o->tag, strlen(o->tag)), strlen(o->tag));
	if (m.key == NULL || like.key.p == NULL || like.source.p == NULL || like.tag.p == NULL) return -GRANARY_ENOMEM;
	key_split(slice_str(m.key), &dir, &like.name);
	err = room(&p->made, p->made_count, &p->made_cap, sizeof(*p->made));
	m.first = p->extent_count;
	for (uint64_t at = 0; err == 0 && at < m.size; at += EXTENT_LEN_MAX) err = record_add(p, &m, &like, at);
	m.count = p->extent_count - m.first;
	if (err < 0) return err;
	/* Names that were made room for may have gone meanwhile: there is room all the more. */
	p->made[p->made_count++] = m;
	return 0;
}

int link_packer_finish(struct link_packer *p)
{
	int err = flush(p);

	forget(p);
	return err;
}

uint64_t link_packer_packs(const struct link_packer *p)
{
	return p->packs;
}

struct link_packer *link_packer_new(const struct link_packing *o)
{
	struct link_packer *p = calloc(1, sizeof(*p));

	if (p != NULL) p->o = *o;
	return p;
}

void link_packer_free(struct link_packer **pp)
{
	struct link_packer *p = *pp;

	*pp = NULL;
	if (p == NULL) return;
	forget(p);
	free(p->entries);
	free(p->made);
	free(p->extents);
	free(p->blocks);
	free(p->held);
	free(p);
}
