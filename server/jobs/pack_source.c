/* SPDX-License-Identifier: Apache-2.0 */
/* pack_source.c -- see pack_source.h. */
#include "jobs/pack_source.h"

#include <stdlib.h>

#include "common/error.h"
#include "io/fs.h"
#include "io/mem.h"
#include "meta/rows.h"
#include "pack/by_record.h"
#include "pack/format.h"
#include "tier/copy.h"
#include "tier/packs.h"

enum { WINDOW = 1024 * 1024 };

struct pack_source {
	struct packs *packs;
	struct kv *kv;
	struct pack *pack;
	uint8_t *window; /* WINDOW */
	uint8_t *record; /* EXTENT_LEN_MAX; NULL until it is needed */
	uint64_t at;     /* of the pack's file */
	size_t len;
};

struct pack_source *pack_source_new(struct packs *packs, struct kv *kv)
{
	struct pack_source *s = calloc(1, sizeof(*s));

	if (s == NULL) return NULL;
	s->packs = packs;
	s->kv = kv;
	s->window = mem_map(WINDOW);
	if (s->window == NULL) pack_source_free(&s);
	return s;
}

void pack_source_free(struct pack_source **sp)
{
	struct pack_source *s = *sp;

	*sp = NULL;
	if (s == NULL) return;
	if (s->pack != NULL) packs_unref(s->packs, s->pack);
	if (s->window != NULL) mem_unmap(s->window, WINDOW);
	free(s->record);
	free(s);
}

static int pack_open(struct pack_source *s, uint64_t pack)
{
	int err;

	if (s->pack != NULL && pack_id_of(s->pack) == pack) return 0;
	if (s->pack != NULL) packs_unref(s->packs, s->pack);
	s->len = 0;
	s->pack = packs_ref(s->packs, pack);
	if (s->pack == NULL) return -GRANARY_ESTALE;
	err = packs_open_file(s->packs, s->pack);
	if (err == 0) return 0;
	packs_unref(s->packs, s->pack);
	s->pack = NULL;
	return err == -GRANARY_ENOTFOUND ? -GRANARY_EOFFLINE : err;
}

/* A bad place behind what is wanted must not keep it away: then only that is read. */
static int window_read(struct pack_source *s, uint64_t offset, size_t want)
{
	uint64_t end = (offset + want + PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1);
	int64_t n;

	s->at = offset & ~(uint64_t)(PACK_BLOCK - 1);
	s->len = 0;
	if (copy_file_is_linked(pack_file(s->pack))) {
		s->at = offset;
		n = fs_read(pack_file(s->pack), s->window, want < WINDOW ? want : WINDOW, s->at);
		if (n > 0) s->len = (size_t)n;
		return n < 0 ? (int)n : n == 0 ? -GRANARY_ECORRUPT : 0;
	}
	n = fs_read(pack_file(s->pack), s->window, WINDOW, s->at);
	if (n < 0 && end - s->at < WINDOW) n = fs_read(pack_file(s->pack), s->window, (size_t)(end - s->at), s->at);
	if (n < 0) return (int)n;
	s->len = (size_t)n;
	return offset < s->at + s->len ? 0 : -GRANARY_ECORRUPT;
}

int64_t pack_source_read(struct pack_source *s, uint64_t pack, uint64_t offset, size_t len, const uint8_t **p)
{
	int err = pack_open(s, pack);
	uint64_t have;

	if (err == 0 && (offset < s->at || offset >= s->at + s->len)) err = window_read(s, offset, len);
	if (err < 0) return err;
	*p = s->window + (offset - s->at);
	have = s->at + s->len - offset;
	return have < len ? (int64_t)have : (int64_t)len;
}

int64_t pack_source_read_unsummed(struct pack_source *s, uint64_t pack, uint64_t offset, size_t len,
	const uint8_t **p)
{
	struct by_record r;
	uint32_t at;
	int err;

	if (!by_record_is_due(s->packs, pack)) return pack_source_read(s, pack, offset, len, p);
	if (s->record == NULL) s->record = malloc(EXTENT_LEN_MAX);
	if (s->record == NULL) return -GRANARY_ENOMEM;
	r = (struct by_record){ .data = s->record };
	err = by_record_find(s->packs, s->kv, pack, offset, (uint32_t)len, &r, &at);
	if (err < 0) return err == -GRANARY_ENOTFOUND ? -GRANARY_EOFFLINE : err;
	*p = s->record + at;
	return (int64_t)len;
}
