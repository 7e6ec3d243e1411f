/* SPDX-License-Identifier: Apache-2.0 */
/* range.c -- RANGE: ranges of packs cut into requests, their answers laid out and verified.
 *
 * (1) bytes of a range come in order; `got` of a want is what was laid out, unit_at and unit_got where that ends.
 * (2) a unit is good when all its bytes came and their checksum is its own; otherwise it is bad, never undecided, once
 *     its want is done.
 * (3) an attempt asks only for wants that are not done, each from its beginning. */
#include "range.h"

#include <stdlib.h>

enum {
	PART_BYTES = 8 * 1024 * 1024,
	PART_WANTS = 1024,
	VERIFY_RUN = 64 * 1024, /* a long unit is verified piece by piece, while it is in cache */
};

/* ---- plans ---- */

static bool array_room(void **array, uint32_t count, uint32_t *cap, size_t size)
{
	if (count < *cap)
		return true;
	uint32_t more = *cap ? *cap * 2 : 64;
	void *grown = realloc(*array, more * size);
	if (!grown)
		return false;
	*array = grown;
	*cap = more;
	return true;
}

int range_add_unit(struct range_plan *p, const struct snap_extent *e, uint8_t *dst, uint32_t tag)
{
	void *array = p->units;

	if (e->length == 0)
		return 0;
	if (e->length > RANGE_LENGTH_MAX)
		return -GRANARY_ECORRUPT; /* no record is so long */
	if (!array_room(&array, p->units_count, &p->units_cap, sizeof(*p->units)))
		return -GRANARY_ENOMEM;
	p->units = array;
	p->units[p->units_count++] = (struct range_unit){ .dst = dst, .pack = e->pack, .offset = e->offset,
		.len = e->length, .crc = e->crc, .tag = tag, .unsummed = e->unsummed };
	return 0;
}

int range_row(const struct granary_snapshot *s, const struct snap_page *page, uint64_t slot, uint32_t field,
	struct snap_row *row)
{
	if (field < 64 && (s->left_out >> field & 1)) {
		*row = (struct snap_row){ .size = 0 };
		return 0;
	}
	return snap_page_row(page, slot * s->manifest.fields + field, row);
}

int range_sample_size(struct granary_snapshot *s, struct page_cursor *c, uint64_t id, uint64_t *size, uint64_t *sizes)
{
	struct snap_row row;
	int err = page_cursor_to(s, c, id);

	*size = 0;
	for (uint32_t f = 0; err == 0 && f < s->manifest.fields; f++) {
		err = range_row(s, c->page, id - c->first, f, &row);
		if (err == 0 && sizes)
			sizes[f] = row.size;
		*size += err == 0 ? row.size : 0;
	}
	return err;
}

int range_sample_checksum(struct granary_snapshot *s, uint64_t id, uint64_t position, uint64_t *sum)
{
	struct page_cursor c = { .page = NULL };
	struct snap_extent extent;
	struct snap_row row;
	int err = page_cursor_to(s, &c, id);

	*sum = provenance_begin(position);
	for (uint32_t f = 0; err == 0 && f < s->manifest.fields; f++) {
		err = snap_page_row(c.page, (id - c.first) * s->manifest.fields + f, &row);
		*sum = provenance_file(*sum, err == 0 ? row.size : 0);
		for (uint32_t i = 0; err == 0 && i < row.extent_count; i++) {
			err = snap_page_extent(c.page, &row, i, &extent);
			*sum = provenance_extent(*sum, err == 0 ? extent.crc : 0);
		}
	}
	page_cursor_end(s, &c);
	return err;
}

int range_add_sample(struct range_plan *p, struct granary_snapshot *s, struct page_cursor *c, uint64_t id, uint8_t *dst)
{
	struct snap_extent extent;
	struct snap_row row;
	int err = page_cursor_to(s, c, id);

	for (uint32_t f = 0; err == 0 && f < s->manifest.fields; f++) {
		err = range_row(s, c->page, id - c->first, f, &row);
		for (uint32_t i = 0; err == 0 && i < row.extent_count; i++) {
			err = snap_page_extent(c->page, &row, i, &extent);
			if (err == 0 && extent.pack == 0)
				memset(dst, 0, extent.length);
			else if (err == 0)
				err = range_add_unit(p, &extent, dst, 0);
			dst += extent.length;
		}
	}
	return err;
}

static int unit_order(const void *a, const void *b)
{
	const struct range_unit *x = a, *y = b;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void units_sort(struct range_plan *p)
{
	for (uint32_t i = 1; i < p->units_count; i++)
		if (unit_order(&p->units[i - 1], &p->units[i]) > 0) {
			qsort(p->units, p->units_count, sizeof(*p->units), unit_order);
			return;
		}
}

static bool want_takes(const struct range_want *w, const struct range_unit *u)
{
	uint64_t end = (uint64_t)w->offset + w->length;
	/* What is taken of a span is counted: only what is wanted. */
	uint32_t gap = u->span_length > 0 ? 0 : RANGE_GAP_MAX;

	/* Each has its own record, which the server reads whole. */
	return !w->unsummed && !u->unsummed && w->pack == u->pack && u->offset >= end && u->offset - end <= gap &&
		w->span_offset == u->span_offset && w->span_length == u->span_length &&
		(uint64_t)u->offset + u->len - w->offset <= RANGE_MERGE_MAX;
}

int range_merge(struct range_plan *p)
{
	units_sort(p);
	p->wants_count = 0;
	p->bytes = 0;
	p->has_unsummed = false;
	for (uint32_t i = 0; i < p->units_count; i++) {
		const struct range_unit *u = &p->units[i];
		struct range_want *w = p->wants_count > 0 ? &p->wants[p->wants_count - 1] : NULL;
		void *array = p->wants;
		if (w && want_takes(w, u)) {
			p->bytes += u->offset + u->len - w->offset - w->length;
			w->length = u->offset + u->len - w->offset;
			w->count++;
			continue;
		}
		if (!array_room(&array, p->wants_count, &p->wants_cap, sizeof(*p->wants)))
			return -GRANARY_ENOMEM;
		p->wants = array;
		p->wants[p->wants_count++] = (struct range_want){ .pack = u->pack, .offset = u->offset,
			.length = u->len, .span_offset = u->span_offset, .span_length = u->span_length,
			.wanted = u->wanted, .first = i, .count = 1, .unsummed = u->unsummed };
		p->has_unsummed |= u->unsummed;
		p->bytes += u->len;
	}
	return 0;
}

void range_plan_clear(struct range_plan *p)
{
	p->units_count = p->wants_count = 0;
	p->bytes = 0;
}

void range_plan_release(struct range_plan *p)
{
	free(p->units);
	free(p->wants);
	*p = (struct range_plan){ .stream = p->stream };
}

/* ---- requests ---- */

struct range_op {
	struct granary_op op;
	struct range_plan *plan;
	struct hash128 hash;
	uint32_t next, left; /* the first want not asked for yet; how many they are */
	uint32_t parts_open;
	char snapshot[SNAPSHOT_NAME_MAX + 1];
};

struct range_rpc {
	struct rpc rpc;
	uint32_t count;
	uint32_t index[]; /* wants */
};

static struct range_op *range_op_of(struct granary_op *op) { return container_of(op, struct range_op, op); }
static struct range_rpc *range_rpc_of(struct rpc *r) { return container_of(r, struct range_rpc, rpc); }

static size_t range_body_size(struct rpc *r)
{
	const struct range_op *ro = range_op_of(r->op);
	size_t entry = 16 + (ro->plan->stream ? 12u : 0u) + (ro->plan->has_unsummed ? 1u : 0u);
	size_t stream = ro->plan->stream ? 20 : 0;

	return text_size(ro->snapshot) + 16 + 1 + stream + 4 + range_rpc_of(r)->count * entry;
}

static void want_reset(struct range_plan *p, struct range_want *w)
{
	w->got = w->unit_at = w->unit_got = 0;
	w->again = false;
	for (uint32_t i = 0; i < w->count; i++) {
		p->units[w->first + i].run = 0;
		p->units[w->first + i].bad = false;
	}
}

static int range_encode(struct rpc *r, struct wr *w)
{
	struct range_op *ro = range_op_of(r->op);
	struct range_rpc *rr = range_rpc_of(r);
	const struct range_stream *stream = ro->plan->stream;
	uint32_t left = 0;

	for (uint32_t i = 0; i < rr->count; i++)
		if (!ro->plan->wants[rr->index[i]].done)
			rr->index[left++] = rr->index[i];
	rr->count = left;
	if (left == 0) {
		ro->parts_open--;
		return RPC_AGAIN;
	}
	text_encode(w, ro->snapshot);
	wr_u64(w, ro->hash.lo);
	wr_u64(w, ro->hash.hi);
	bool past_cache = ro->plan->past_cache || ro->plan->is_suspect;
	wr_u8(w, (uint8_t)((past_cache ? RANGE_PAST_CACHE : 0) | (stream ? RANGE_STREAM : 0) |
		(ro->plan->has_unsummed ? RANGE_UNSUMMED : 0)));
	if (stream) {
		wr_u64(w, stream->tag);
		wr_u64(w, stream->job);
		wr_u32(w, stream->weight);
	}
	wr_u32(w, left);
	for (uint32_t i = 0; i < left; i++) {
		struct range_want *want = &ro->plan->wants[rr->index[i]];
		want_reset(ro->plan, want);
		wr_u64(w, want->pack);
		wr_u32(w, want->offset);
		wr_u32(w, want->length);
		if (stream) {
			wr_u32(w, want->span_offset);
			wr_u32(w, want->span_length);
			wr_u32(w, want->wanted);
		}
		if (ro->plan->has_unsummed)
			wr_u8(w, want->unsummed);
	}
	return 0;
}

/* ---- answers ---- */

enum { PIECE_OF_WANT, PIECE_OF_UNIT }; /* rx_piece.wanted: what its slot numbers */

static bool piece_add(struct rx *rx, uint32_t what, uint32_t slot, bool last, int16_t status)
{
	struct rx_piece *piece = rx_add_piece(rx);

	if (piece)
		*piece = (struct rx_piece){ .slot = slot, .wanted = what, .status = status, .last = last };
	return piece != NULL;
}

/* The next `len` bytes of a want that are no unit's. */
static int gap_plan(struct rx *rx, struct range_want *w, uint32_t len)
{
	struct rx_block b = { .len = len, .piece = UINT32_MAX };

	if (w->base) {
		b.dst = w->base + w->got;
	} else {
		if (rx->scratch_used == 0 && !rx_scratch_room(rx, rx->f.data_len))
			return -GRANARY_ENOMEM;
		b.dst = rx_scratch_take(rx, len);
	}
	w->got += len;
	return rx_add_block(rx, b) ? 0 : -GRANARY_ENOMEM;
}

/* The next `len` bytes of a want's present unit. */
static int unit_plan(struct range_plan *p, struct rx *rx, struct range_want *w, uint32_t len)
{
	uint32_t at = w->first + w->unit_at;
	struct range_unit *u = &p->units[at];
	bool whole = w->unit_got == 0 && len == u->len && len <= VERIFY_RUN;

	w->got += len;
	while (len > 0) {
		uint32_t part = len < VERIFY_RUN ? len : VERIFY_RUN;
		bool ends = w->unit_got + part == u->len;
		struct rx_block b = { .dst = u->dst + w->unit_got, .len = part, .crc = u->crc,
			.check = ends,
			.run = whole ? NULL : &u->run, .piece = rx->pieces_count };
		if (ends && !piece_add(rx, PIECE_OF_UNIT, at, true, 0))
			return -GRANARY_ENOMEM;
		if (!rx_add_block(rx, b))
			return -GRANARY_ENOMEM;
		w->unit_got += part;
		len -= part;
	}
	if (w->unit_got == u->len) {
		w->unit_at++;
		w->unit_got = 0;
	}
	return 0;
}

/* Lays out the next `len` bytes of a want. */
static int want_plan(struct range_plan *p, struct rx *rx, struct range_want *w, uint32_t len)
{
	int err = 0;

	while (err == 0 && len > 0) {
		const struct range_unit *u = w->unit_at < w->count ? &p->units[w->first + w->unit_at] : NULL;
		uint32_t next = u ? u->offset - w->offset : w->length; /* where the unit begins */
		uint32_t part = u && w->got >= next ? u->len - w->unit_got : next - w->got;
		if (part > len)
			part = len;
		len -= part;
		err = u && w->got >= next ? unit_plan(p, rx, w, part) : gap_plan(rx, w, part);
	}
	return err;
}

static int piece_plan(struct range_op *ro, const struct range_rpc *rr, struct rx *rx, struct cur *c, uint64_t *sum)
{
	uint32_t index = cur_u32(c);
	uint16_t status = cur_u16(c);
	uint8_t flags = cur_u8(c);
	cur_u8(c);
	uint32_t at = cur_u32(c), len = cur_u32(c), crc = flags & RANGE_SUM ? cur_u32(c) : 0;
	struct slice text = flags & RANGE_TEXT ? cur_bytes16(c) : slice_of(NULL, 0);

	*sum += len;
	if (!cur_ok(c) || index >= rr->count || *sum > rx->f.data_len || status > INT16_MAX)
		return -GRANARY_EPROTO;
	struct range_want *w = &ro->plan->wants[rr->index[index]];
	if (w->done || (status == 0 && (at != w->got || len > w->length - w->got)) || (status != 0 && len > 0))
		return -GRANARY_EPROTO;
	if (w->unsummed && status == 0 && flags & RANGE_LAST) {
		if (!(flags & RANGE_SUM))
			return -GRANARY_EPROTO;
		ro->plan->units[w->first].crc = crc;
	}
	if (text.len > 0)
		op_note(&ro->op, text);
	int err = status == 0 ? want_plan(ro->plan, rx, w, len) : 0;
	if (err < 0)
		return err;
	return piece_add(rx, PIECE_OF_WANT, rr->index[index], flags & RANGE_LAST, (int16_t)-(int)status) ? 0 :
		-GRANARY_ENOMEM;
}

static int range_rx_plan(struct rpc *r, struct slice meta, struct rx *rx)
{
	struct cur c = cur_of(meta.p, meta.len);
	uint32_t pieces = cur_u16(&c);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < pieces; i++) {
		int err = piece_plan(range_op_of(r->op), range_rpc_of(r), rx, &c, &sum);
		if (err < 0)
			return err;
	}
	return cur_done(&c) && sum == rx->f.data_len ? 0 : -GRANARY_EPROTO;
}

static void want_fail(struct range_plan *p, struct range_want *w, int16_t status)
{
	w->done = true;
	w->status = status;
	for (uint32_t i = 0; i < w->count; i++)
		p->units[w->first + i].bad = true;
}

static int range_frame(struct rpc *r, struct rx *rx)
{
	struct range_op *ro = range_op_of(r->op);
	bool repeat = r->attempts < ro->op.client->config.retries_max;

	for (uint32_t i = 0; i < rx->pieces_count; i++) {
		const struct rx_piece *piece = &rx->pieces[i];
		if (piece->wanted == PIECE_OF_UNIT) {
			ro->plan->units[piece->slot].bad = piece->bad;
			continue;
		}
		struct range_want *w = &ro->plan->wants[piece->slot];
		if (!piece->last)
			continue;
		if (piece->status != 0 && error_class(piece->status) == ERROR_RETRY && repeat)
			w->again = true;
		else if (piece->status != 0)
			want_fail(ro->plan, w, piece->status);
		else if (w->got != w->length)
			return -GRANARY_EPROTO;
		else
			w->done = true;
	}
	return 0;
}

static int range_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct range_op *ro = range_op_of(r->op);
	const struct range_rpc *rr = range_rpc_of(r);
	bool again = false;

	(void)meta;
	(void)data;
	for (uint32_t i = 0; i < rr->count; i++) {
		const struct range_want *w = &ro->plan->wants[rr->index[i]];
		if (!w->done && !w->again)
			return -GRANARY_EPROTO;
		again = again || !w->done;
	}
	if (again)
		return RPC_AGAIN;
	ro->parts_open--;
	return 0;
}

static const struct rpc_kind range_rpc_kind = {
	.wire_op = OP_RANGE,
	.body_size = range_body_size,
	.encode = range_encode,
	.plan = range_rx_plan,
	.frame = range_frame,
	.answer = range_answer,
};

/* ---- the operation ---- */

static int part_start(struct range_op *ro)
{
	const struct range_plan *p = ro->plan;
	uint64_t bytes = 0;
	uint32_t count = 0;

	for (uint32_t i = ro->next; i < p->wants_count && count < PART_WANTS && bytes < PART_BYTES; i++) {
		bytes += p->wants[i].done ? 0 : p->wants[i].length;
		count += !p->wants[i].done;
	}
	struct range_rpc *rr = rpc_new(sizeof(*rr) + count * sizeof(rr->index[0]), &range_rpc_kind, &ro->op);
	if (!rr)
		return -GRANARY_ENOMEM;
	rr->count = count;
	for (uint32_t i = 0; i < count; i++, ro->next++) {
		while (p->wants[ro->next].done)
			ro->next++;
		rr->index[i] = ro->next;
	}
	ro->left -= count;
	ro->parts_open++;
	rpc_queue(&rr->rpc);
	return 0;
}

static int range_more(struct granary_op *op)
{
	struct range_op *ro = range_op_of(op);
	int err = 0;

	while (err == 0 && ro->left > 0 &&
		ro->parts_open < PARTS_WINDOW * op->client->config.connections)
		err = part_start(ro);
	return err;
}

static int64_t range_finish(struct granary_op *op, int err)
{
	const struct range_plan *p = range_op_of(op)->plan;
	int64_t bad = 0;

	for (uint32_t i = 0; err == 0 && i < p->units_count; i++)
		bad += p->units[i].bad;
	return err < 0 ? err : bad;
}

static void range_free(struct granary_op *op)
{
	op_release(op);
}

static const struct op_kind range_kind = { .more = range_more, .finish = range_finish, .free = range_free };

int range_start(struct range_plan *p, struct granary_snapshot *s, uint32_t timeout_ms, pthread_cond_t *watch,
	struct granary_op **op)
{
	struct granary_call call = { .size = sizeof(call), .bucket = s->bucket, .timeout_ms = timeout_ms };
	int err;
	struct range_op *ro = op_new(sizeof(*ro), s->client, &range_kind, &call, &err);

	*op = NULL;
	if (!ro)
		return err;
	memcpy(ro->snapshot, s->name, strlen(s->name) + 1);
	ro->plan = p;
	ro->hash = s->hash;
	ro->op.quiet = true;
	ro->op.watch = watch;
	p->is_suspect = false;
	ro->left = range_kept(p, s->client);
	if (ro->left > 0 && !p->past_cache)
		ro->left = range_local(p, s->client, true);
	if (ro->left > 0)
		return op_start(&ro->op, op);
	op_free_quiet(&ro->op);
	return 0;
}

int range_run(struct range_plan *p, struct granary_snapshot *s, uint32_t timeout_ms)
{
	struct granary_op *op;
	int err = range_merge(p);

	if (err == 0)
		err = range_start(p, s, timeout_ms, NULL, &op);
	if (err < 0 || !op)
		return err;
	int64_t bad = granary_wait(op, GRANARY_FOREVER);
	granary_op_free(&op);
	if (bad >= 0)
		range_keep(p, s);
	return bad < 0 ? (int)bad : bad > 0 ? -GRANARY_ECORRUPT : 0;
}
