/* SPDX-License-Identifier: Apache-2.0 */
/* read_place.c -- where an entry's bytes go: a block of its own, the batch's slab, the entry's buffer, leased
 * memory. */
#include "read_priv.h"

#include <stdlib.h>

static void place_own_block(struct read_slot *s)
{
	free(s->dst);
	s->dst = s->want < SIZE_MAX ? malloc((size_t)s->want + 1) : NULL;
	s->cap = s->dst ? s->want : 0;
	if (s->dst)
		s->dst[s->want] = 0; /* so that a text can be used as one */
	else
		s->fail = -GRANARY_ENOMEM;
}

static void place_in_slab(struct read_op *ro, struct read_slot *s)
{
	size_t at = (ro->slab_used + ro->align - 1) / ro->align * ro->align;

	if (at > ro->slab_size || s->want > ro->slab_size - at) {
		s->fail = -GRANARY_ETOOBIG;
		return;
	}
	s->dst = ro->slab + at;
	s->cap = s->want;
	ro->slab_used = at + s->want;
}

static void place_in_buffer(const struct granary_entry *e, struct read_slot *s)
{
	s->dst = e->buf;
	s->cap = e->buf_size;
	if (s->want > e->buf_size)
		s->fail = -GRANARY_ETOOBIG;
}

static void place_in_lease(struct read_op *ro, struct read_slot *s)
{
	s->dst = lease_take(ro->op.client, &ro->op.lease, s->want, ro->align, ro->expect);
	s->cap = s->dst ? s->want : 0;
	ro->expect -= s->want < ro->expect ? s->want : ro->expect;
	if (!s->dst)
		s->fail = -GRANARY_ENOMEM;
}

void read_place(struct read_op *ro, uint32_t at)
{
	struct read_slot *s = &ro->slots[at];
	const struct granary_entry *e = &ro->entries[at];

	if (s->placed && s->want <= s->cap)
		return;
	s->placed = true;
	s->fail = 0;
	if (e->flags & GRANARY_ENTRY_MALLOC)
		place_own_block(s);
	else if (ro->slab)
		place_in_slab(ro, s);
	else if (e->buf)
		place_in_buffer(e, s);
	else
		place_in_lease(ro, s);
}
