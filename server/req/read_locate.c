/* SPDX-License-Identifier: Apache-2.0 */
/* read_locate.c -- where the bytes of a batch read lie, for a process of this host that has descriptors of the packs
 * (PROTOCOL 4.16): PARSE -> FIND, as a batch read's, -> ANSWER: the same pieces, with an address instead of bytes.
 *
 * What the peer gets is what READ would send at this moment; a pack never changes, so what it then finds there is that,
 * also when the pack is compacted away meanwhile. An entry that READ must serve, because it fails, has holes, many
 * pieces, or lies in a pack that may still grow, has one piece that says UNSUPPORTED. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "req/read.h"
#include "tier/packs.h"

enum { LOCATE_PIECES_MAX = 16 }; /* of an entry: 4 MiB */

struct locating {
	struct read *b;
	uint64_t sealed; /* a pack that is known to be */
	uint8_t *meta;
	size_t len, cap;
	uint32_t pieces;
};

static bool pack_is_sealed(struct locating *l, uint64_t id)
{
	struct packs *packs = l->b->local->store->packs;
	struct pack *pack = id != l->sealed ? packs_ref(packs, id) : NULL;

	if (pack == NULL) return id == l->sealed;
	if (pack_fixed_size(pack) > 0) l->sealed = id;
	packs_unref(packs, pack);
	return id == l->sealed;
}

static void piece_put(struct locating *l, const struct read_piece *p)
{
	size_t len = read_piece_meta_len(p);

	if (l->len + len > l->cap) {
		uint8_t *less = l->meta;

		l->cap = 2 * (l->len + len);
		l->meta = req_alloc(l->cap);
		memcpy(l->meta, less, l->len);
		free(less);
	}
	read_piece_put(l->meta + l->len, l->b, p);
	l->len += len;
	l->pieces++;
}

/* All pieces of an entry; false: READ has to. */
static bool entry_locate(struct locating *l, struct read_entry *e)
{
	uint32_t n = 0;

	if (e->err < 0) return false;
	while (!e->made_first || e->at < e->end) {
		struct read_piece p;

		memset(&p, 0, sizeof(p));
		if (n++ == LOCATE_PIECES_MAX || !read_piece_make(e, &p)) return false;
		if (p.err < 0 || (p.zeros && p.len > 0) || p.unsummed) return false;
		if (p.len > 0 && !pack_is_sealed(l, p.read.pack)) return false;
		p.located = p.len > 0;
		piece_put(l, &p);
	}
	return true;
}

static void entry_put(struct locating *l, struct read_entry *e)
{
	size_t len = l->len;
	uint32_t pieces = l->pieces;
	struct read_piece none;

	if (entry_locate(l, e)) return;
	l->len = len;
	l->pieces = pieces;
	memset(&none, 0, sizeof(none));
	none.entry = e;
	none.err = -GRANARY_EUNSUPPORTED;
	none.last = true;
	piece_put(l, &none);
}

static enum step_result locate_answer(struct req *r)
{
	struct read *b = r->body;
	size_t usual = PIECE_FIXED_SIZE + 4 + 16 + PIECE_ADDRESS_SIZE; /* of an entry of one block */
	struct locating l = { .b = b, .len = 4, .cap = 4 + b->count * usual };
	struct wr w;

	if (b->looking || b->scheduled || r->waking) {
		r->pending = 1;
		return STEP_WAIT;
	}
	l.meta = req_alloc(l.cap);
	for (uint32_t i = 0; i < b->count; i++) {
		struct read_entry *e = &b->entries[i];

		if (e->state == READ_LOOKING) read_entry_found(e, e->err);
		entry_put(&l, e);
	}
	w = wr_of(l.meta, 4);
	wr_u32(&w, l.pieces);
	answer_send(r, answer_adopt(r, l.meta, l.len), true);
	return STEP_DONE;
}

static const struct req_step locate_steps[] = { { "parse", read_parse }, { "find", read_find },
	{ "answer", locate_answer } };
const struct req_kind locate_kind = {
	.op = OP_LOCATE,
	.name = "locate",
	.action = GRANT_READ,
	.steps = locate_steps,
	.step_count = 3,
	.cleanup = read_cleanup,
};
