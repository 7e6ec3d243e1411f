/* SPDX-License-Identifier: Apache-2.0 */
/* link_sums.c -- a virtual pack has a hot file now: the checksums of its records go into the rows that point at them,
 * so that it is read like any other. Invariants: (1) an address does not change, only what is known of it; (2) a row
 * that was not reached keeps saying that it knows none, and is read by the record: this may be interrupted and done
 * again. */
#include "jobs/link_sums.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "meta/rows.h"
#include "pack/check.h"
#include "tier/packs.h"

enum { MOVES_A_TXN = 256, TRIES = 8 };

struct sum {
	struct ns_move m;
	uint8_t name[KEY_LEN_MAX];
	uint8_t sums[4 * (EXTENT_CRCS_MAX + 1)];
};

struct summing {
	struct kv *kv;
	struct ns *ns;
	const struct record *r; /* at hand */
	int (*pace)(void *arg, uint64_t bytes);
	void *pace_arg;
	struct sum *sums; /* MOVES_A_TXN */
	uint32_t count;
	uint64_t pack;
};

static int commit_once(struct summing *s)
{
	struct ns_plan *plan = ns_plan_new(s->ns);
	int err = plan != NULL ? 0 : -GRANARY_ENOMEM;

	for (uint32_t i = 0; err == 0 && i < s->count; i++) {
		err = ns_plan_move_extent(plan, &s->sums[i].m);
		if (err == -GRANARY_ENOTFOUND) err = 0; /* it points elsewhere by now */
	}
	if (err == 0) err = ns_plan_finish(plan);
	if (err == 0) {
		err = kv_submit_wait(s->kv, ns_plan_txn(plan));
		ns_plan_committed(plan, err);
	}
	if (plan != NULL) ns_plan_free(&plan);
	return err;
}

static int commit(struct summing *s)
{
	int err = s->count > 0 ? -GRANARY_EBUSY : 0;

	for (int tries = 0; err == -GRANARY_EBUSY && tries < TRIES; tries++) err = commit_once(s);
	s->count = 0;
	return err;
}

static int each_owner(void *arg, const struct ns_owner *owner)
{
	struct summing *s = arg;
	const struct extent *e = owner->extent;
	uint32_t first = e->cut_before / CRC_BLOCK_SIZE;
	struct sum *sum = &s->sums[s->count];

	if (extent_is_summed(e)) return 0;
	if (first + e->crc_count > s->r->crc_count || extent_stored(e) != s->r->data_len ||
		extent_header(e) != s->r->header_len || owner->place.name.len > sizeof(sum->name))
		return -GRANARY_ECORRUPT;
	if (owner->place.name.len > 0) memcpy(sum->name, owner->place.name.p, owner->place.name.len);
	memcpy(sum->sums, s->r->crcs + 4 * (size_t)first, 4 * (size_t)e->crc_count);
	sum->m = (struct ns_move){ .dir = owner->place.dir, .name = slice_of(sum->name, owner->place.name.len),
		.id = owner->object->id, .from = *e, .to = *e, .is_reference = owner->is_reference };
	sum->m.from.crcs = NULL;
	sum->m.to.crcs = sum->sums;
	sum->m.to.flags &= ~(uint32_t)EXTENT_UNSUMMED;
	s->count++;
	return s->count == MOVES_A_TXN ? commit(s) : 0;
}

static int each_record(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct summing *s = arg;
	struct ns_record who = { .pack = s->pack, .record = offset, .object_id = r->object_id, .dir = r->dir_id,
		.version = r->version, .logical = r->logical, .generation = r->generation, .length = r->data_len,
		.name = r->name };
	int err = s->pace != NULL ? s->pace(s->pace_arg, 0) : 0;

	(void)data;
	s->r = r;
	return err < 0 ? err : ns_record_owners(s->ns, &who, each_owner, s);
}

int link_sums(const struct link_sums *o, uint64_t pack_id)
{
	struct summing s = { .kv = o->kv, .ns = o->ns, .pack = pack_id, .pace = o->pace, .pace_arg = o->arg,
		.sums = malloc(MOVES_A_TXN * sizeof(*s.sums)) };
	struct pack *pack = packs_ref(o->packs, pack_id);
	struct pack_walk walk = { .pack_id = pack_id, .each = each_record, .arg = &s };
	struct pack_row row;
	int err = s.sums == NULL ? -GRANARY_ENOMEM : pack == NULL ? -GRANARY_EBUSY : packs_row(o->packs, pack_id, &row);

	if (err == 0) err = packs_open_file(o->packs, pack);
	walk.end = err == 0 ? row.committed_end : 0;
	if (err == 0) err = pack_walk(pack_file(pack), &walk);
	if (err == 0) err = commit(&s);
	if (pack != NULL) packs_unref(o->packs, pack);
	free(s.sums);
	return err;
}
