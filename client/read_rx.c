/* SPDX-License-Identifier: Apache-2.0 */
/* read_rx.c -- the answer to READ (PROTOCOL 4.2): a frame's meta becomes a plan of where its data goes; when
 * the data is there and verified, entries are done, or asked for again. */
#include "read_priv.h"

#include <stdlib.h>

bool read_piece_decode(struct cur *c, struct read_piece *p)
{
	p->index = cur_u32(c);
	p->status = cur_u16(c);
	p->flags = cur_u8(c);
	cur_u8(c);
	p->object_id = cur_u64(c);
	p->version = cur_u64(c);
	p->size = cur_u64(c);
	p->mtime_ns = cur_u64(c);
	p->dir_id = cur_u64(c);
	p->offset = cur_u64(c);
	p->len = cur_u32(c);
	uint16_t crcs_count = cur_u16(c);
	struct slice crcs = cur_bytes(c, (size_t)crcs_count * 4);
	p->crcs = crcs.len > 0 ? cur_of(crcs.p, crcs.len) : cur_of("", 0);
	p->hash = p->flags & PIECE_HASH ? cur_bytes(c, 16) : slice_of(NULL, 0);
	p->cut_from = p->flags & PIECE_CUT ? cur_u32(c) : 0;
	p->cut_len = p->flags & PIECE_CUT ? cur_u32(c) : p->len;
	p->text = p->flags & PIECE_TEXT ? cur_bytes16(c) : slice_of(NULL, 0);
	p->pack = p->flags & PIECE_ADDRESS ? cur_u64(c) : 0;
	p->address = p->flags & PIECE_ADDRESS ? cur_u64(c) : 0;
	if (!cur_ok(c) || p->offset + p->len < p->offset || p->cut_from > p->len ||
		p->cut_len > p->len - p->cut_from)
		return false;
	if (p->status != 0)
		return p->len == 0 && (p->flags & PIECE_LAST) && p->status <= INT16_MAX;
	return crcs_count == crc_block_count(p->len) && p->offset + p->cut_len <= p->size + CRC_BLOCK_SIZE;
}

static void entry_describe(struct granary_entry *e, const struct read_piece *p)
{
	e->object_id = p->object_id;
	e->version = p->version;
	e->size = p->size;
	e->mtime_ns = p->mtime_ns;
	e->dir_id = p->dir_id;
	if (p->hash.len == sizeof(e->hash)) {
		memcpy(e->hash, p->hash.p, sizeof(e->hash));
		e->flags |= GRANARY_ENTRY_HASH;
	}
}

/* Where in the object the caller's bytes begin; their number goes to the slot. */
static uint64_t entry_window(const struct granary_entry *e, struct read_slot *s, uint64_t size)
{
	uint64_t from = e->flags & GRANARY_ENTRY_RANGE ? e->offset : 0;
	uint64_t most = e->flags & GRANARY_ENTRY_RANGE ? e->length : GRANARY_TO_END;
	uint64_t left = size > from ? size - from : 0;

	s->want = most < left ? most : left;
	return from;
}

/* One block, `at` bytes into the piece: in place where the caller wants all of it, else through scratch memory, cut.
 * Returns bytes wanted. */
static int64_t block_plan(struct rx *rx, const struct read_slot *s, uint64_t from, const struct read_piece *p,
	uint32_t at, struct rx_block b)
{
	uint32_t first = at > p->cut_from ? at : p->cut_from; /* of the object's bytes */
	uint32_t last = at + b.len < p->cut_from + p->cut_len ? at + b.len : p->cut_from + p->cut_len;
	uint64_t begin = p->offset + (first - p->cut_from), end = last > first ? begin + (last - first) : begin;
	uint64_t lo = begin > from ? begin : from;
	uint64_t hi = end < from + s->want ? end : from + s->want;
	uint64_t wanted = hi > lo ? hi - lo : 0;

	if (wanted > 0 && lo - from != s->got)
		return -GRANARY_EPROTO; /* a gap, or twice the same */
	if (wanted == b.len && s->fail == 0) {
		b.dst = s->dst + (lo - from);
	} else {
		if (rx->scratch_used == 0 && !rx_scratch_room(rx, rx->f.data_len))
			return -GRANARY_ENOMEM;
		b.dst = rx_scratch_take(rx, b.len);
		b.cut_from = wanted > 0 ? (uint32_t)(first - at + (lo - begin)) : 0;
		b.cut_len = (uint32_t)wanted;
		b.cut_to = wanted > 0 && s->fail == 0 ? s->dst + (lo - from) : NULL;
	}
	return rx_add_block(rx, b) ? (int64_t)wanted : -GRANARY_ENOMEM;
}

static int data_plan(struct rx *rx, struct read_slot *s, uint64_t from, struct read_piece *p, uint32_t piece)
{
	for (uint32_t done = 0; done < p->len;) {
		uint32_t left = p->len - done;
		struct rx_block b = { .len = left < CRC_BLOCK_SIZE ? left : CRC_BLOCK_SIZE, .check = true,
			.piece = piece };
		b.crc = cur_u32(&p->crcs);
		int64_t wanted = block_plan(rx, s, from, p, done, b);
		if (wanted < 0)
			return (int)wanted;
		s->got += (uint64_t)wanted;
		done += b.len;
	}
	return 0;
}

int read_piece_plan(struct read_op *ro, const struct read_rpc *rr, struct rx *rx, struct read_piece *p)
{
	if (p->index >= rr->count)
		return -GRANARY_EPROTO;
	uint32_t at = rr->index[p->index];
	struct granary_entry *e = &ro->entries[at];
	struct read_slot *s = &ro->slots[at];
	struct rx_piece *piece = rx_add_piece(rx);

	if (!piece)
		return -GRANARY_ENOMEM;
	if (s->done)
		return -GRANARY_EPROTO;
	piece->slot = at;
	piece->last = p->flags & PIECE_LAST;
	piece->status = (int16_t)-(int)p->status;
	if (p->status != 0) {
		if (p->text.len > 0)
			op_note(&ro->op, p->text);
		e->size = p->size;
		return 0;
	}
	if (s->got > 0 && (e->size != p->size || e->version != p->version))
		return -GRANARY_EPROTO;
	entry_describe(e, p);
	uint64_t from = entry_window(e, s, p->size);
	read_place(ro, at);
	return data_plan(rx, s, from, p, rx->pieces_count - 1);
}

int read_plan(struct rpc *r, struct slice meta, struct rx *rx)
{
	struct read_op *ro = read_op_of(r->op);
	struct cur c = cur_of(meta.p, meta.len);
	uint32_t pieces = cur_u16(&c);
	uint64_t len = 0;
	struct read_piece p;

	for (uint32_t i = 0; i < pieces; i++) {
		if (!read_piece_decode(&c, &p))
			return -GRANARY_EPROTO;
		len += p.len;
		int err = len <= rx->f.data_len ? read_piece_plan(ro, read_rpc_of(r), rx, &p) : -GRANARY_EPROTO;
		if (err < 0)
			return err;
	}
	return cur_done(&c) && len == rx->f.data_len ? 0 : -GRANARY_EPROTO;
}

/* May a request of this operation be sent once more? */
static bool may_repeat(const struct rpc *r)
{
	return r->attempts < r->op->client->config.retries_max;
}

static int piece_finish(struct read_op *ro, struct rpc *r, const struct rx_piece *piece)
{
	struct read_slot *s = &ro->slots[piece->slot];

	s->bad = s->bad || piece->bad;
	if (!piece->last)
		return 0;
	if (piece->status != 0 && error_class(piece->status) == ERROR_RETRY && may_repeat(r))
		s->again = true;
	else if (piece->status != 0)
		read_entry_done(ro, piece->slot, piece->status);
	else if (s->got != s->want)
		return -GRANARY_EPROTO;
	else if (s->fail != 0)
		read_entry_done(ro, piece->slot, s->fail);
	else if (!s->bad)
		read_entry_done(ro, piece->slot, 0);
	else if (read_rpc_of(r)->verify)
		read_entry_done(ro, piece->slot, -GRANARY_ECORRUPT);
	return 0;
}

int read_frame(struct rpc *r, struct rx *rx)
{
	struct read_op *ro = read_op_of(r->op);
	int err = 0;

	for (uint32_t i = 0; i < rx->pieces_count && err == 0; i++)
		err = piece_finish(ro, r, &rx->pieces[i]);
	return err;
}

/* The last frame: entries left undone are asked for again, if there is a reason. */
int read_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct read_op *ro = read_op_of(r->op);
	struct read_rpc *rr = read_rpc_of(r);
	bool bad = false, again = false;

	(void)meta;
	(void)data;
	for (uint32_t i = 0; i < rr->count; i++) {
		const struct read_slot *s = &ro->slots[rr->index[i]];
		if (s->done)
			continue;
		if (!s->bad && !s->again)
			return -GRANARY_EPROTO; /* an entry was not answered */
		bad = bad || s->bad;
		again = again || s->again;
	}
	if (bad)
		rr->verify = true;
	if (!bad && !again) {
		ro->parts_open--;
		return 0;
	}
	return again ? RPC_AGAIN : RPC_REPEAT;
}
