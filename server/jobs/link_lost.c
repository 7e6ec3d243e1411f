/* SPDX-License-Identifier: Apache-2.0 */
/* link_lost.c -- see link_lost.h. Rows of the pack and its footer are both in the order of records. */
#include "jobs/link_lost.h"

#include <stdlib.h>

#include "common/error.h"
#include "meta/ns.h"
#include "pack/check.h"
#include "pack/linked.h"
#include "tier/copy.h"
#include "tier/packs.h"

struct looking {
	const struct link_lost *o;
	struct pack *pack;
	uint64_t *have; /* records of the footer */
	uint32_t at, count, cap, lost;
};

static int each_of_footer(void *arg, const struct footer_entry *e)
{
	struct looking *l = arg;

	if (l->count == l->cap) return -GRANARY_ECORRUPT;
	l->have[l->count++] = e->offset;
	return 0;
}

static int is_somebodys(void *arg, const struct ns_owner *owner)
{
	(void)arg, (void)owner;
	return 1;
}

static int each_row(void *arg, const struct linked_entry *e)
{
	struct looking *l = arg;
	struct ns_record who = { .pack = pack_id_of(l->pack), .record = e->record, .object_id = e->object_id,
		.dir = e->dir_id, .version = e->version, .logical = e->logical, .length = e->data_len,
		.name = e->name };
	int res;

	while (l->at < l->count && l->have[l->at] < e->record) l->at++;
	if (l->at < l->count && l->have[l->at] == e->record) return 0;
	res = ns_record_owners(l->o->ns, &who, is_somebodys, NULL);
	if (res <= 0) return res;
	l->lost++;
	linked_tell(copy_info(pack_cold(l->pack))->place, pack_id_of(l->pack), e);
	return 0;
}

static int look(struct looking *l)
{
	struct pack_trailer trailer;
	struct pack_row row;
	uint64_t id = pack_id_of(l->pack);
	int err = packs_row(l->o->packs, id, &row);

	if (err == 0) err = packs_open_file(l->o->packs, l->pack);
	if (err == 0 && copy_of_file(pack_file(l->pack)) != NULL) err = -GRANARY_EOFFLINE;
	if (err == 0) err = pack_footer_read(pack_file(l->pack), id, &trailer, NULL, NULL);
	if (err < 0 || trailer.entries >= row.records) return err;
	l->cap = trailer.entries;
	l->have = malloc(((size_t)l->cap + 1) * sizeof(*l->have));
	if (l->have == NULL) return -GRANARY_ENOMEM;
	err = pack_footer_read(pack_file(l->pack), id, &trailer, each_of_footer, l);
	if (err == 0) err = linked_each(l->o->kv, id, 0, each_row, l);
	free(l->have);
	return err == 0 && l->lost > 0 ? -GRANARY_ESOURCE : err;
}

int link_lost(const struct link_lost *o, uint64_t pack_id)
{
	struct looking l = { .o = o, .pack = packs_ref(o->packs, pack_id) };
	int err = 0;

	if (l.pack == NULL) return -GRANARY_EBUSY;
	if (copy_is_linked(pack_cold(l.pack)) && pack_is_hot(l.pack)) err = look(&l);
	packs_unref(o->packs, l.pack);
	return err;
}
