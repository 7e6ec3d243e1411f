/* SPDX-License-Identifier: Apache-2.0 */
/* read_local.c -- batch reads by descriptor: the server is asked where the bytes are (LOCATE, one small request a
 * batch), which makes every read as fresh as one that it answers itself; then they are read and verified here, by the
 * plan that bytes from a socket follow. What cannot be read so comes with a READ.
 *
 * Invariants: (1) an entry is done only when all its pieces are good; (2) in order means: behind the first entry that
 * needs a READ, all do; (3) LOCATE is asked only where it pays: while most entries are then read by descriptor, and now
 * and then to find out. */
#include "read_priv.h"

enum { TRY_EVERY = 16, HITS_ENOUGH = 128, IOV_COUNT = 8 };

bool read_locates(struct granary_client *c)
{
	struct local *l = &c->local;

	if (!atomic_load_explicit(&l->is_open, memory_order_relaxed))
		return false;
	if (l->hits < HITS_ENOUGH && !l->has_news && l->tries++ % TRY_EVERY != 0)
		return false;
	l->has_news = false;
	return true;
}

struct locating {
	struct read_op *ro;
	const struct read_rpc *rr;
	struct local_file *file;
	uint64_t pack;           /* of `file`, which may be NULL: none is held */
	uint32_t index, done;    /* the entry at hand; those that were read */
	bool is_bad;             /* a checksum was wrong */
	bool is_out;             /* the entry at hand is left for READ */
	bool none_more;          /* so are all others */
};

static struct local_file *file_of(struct locating *l, uint64_t pack, uint64_t len)
{
	struct granary_client *c = l->ro->op.client;

	if (l->file && pack == l->pack)
		return l->file;
	local_put(c, l->file);
	l->file = local_get(c, pack, len);
	l->pack = pack;
	return l->file;
}

/* The bytes of a piece whose blocks are laid out. */
static bool piece_read(struct locating *l, const struct rx *rx, const struct read_piece *p)
{
	struct granary_client *c = l->ro->op.client;
	struct local_file *f = file_of(l, p->pack, p->len);
	struct iovec iov[IOV_COUNT];
	uint64_t at = p->address;

	for (uint32_t i = 0; f && i < rx->blocks_count;) {
		uint64_t len = 0;
		int n = 0;
		for (; n < IOV_COUNT && i < rx->blocks_count; n++, i++) {
			iov[n] = (struct iovec){ rx->blocks[i].dst, rx->blocks[i].len };
			len += rx->blocks[i].len;
		}
		if (!local_read(c, f, iov, n, at))
			return false;
		at += len;
	}
	return f != NULL;
}

static void piece_verify(struct locating *l, struct rx *rx, const struct read_piece *p)
{
	struct granary_client *c = l->ro->op.client;

	rx->damaged = false;
	for (uint32_t i = 0; i < rx->blocks_count; i++)
		rx_block_verify(c, rx, &rx->blocks[i]);
	if (rx->damaged)
		local_bad(l->file, p->address, p->len);
	else
		atomic_fetch_add_explicit(&c->counters.local_bytes, p->len, memory_order_relaxed);
	l->is_bad |= rx->damaged;
	l->is_out |= rx->damaged;
}

static int entry_end(struct locating *l)
{
	uint32_t at = l->rr->index[l->index];
	struct read_slot *s = &l->ro->slots[at];

	if (l->is_out) {
		s->got = 0;
		l->none_more = l->ro->flags & GRANARY_BATCH_IN_ORDER;
		return 0;
	}
	if (s->got != s->want)
		return -GRANARY_EPROTO;
	read_entry_done(l->ro, at, s->fail);
	l->done++;
	atomic_fetch_add_explicit(&l->ro->op.client->counters.local_reads, 1, memory_order_relaxed);
	return 0;
}

static int piece_take(struct locating *l, struct read_piece *p)
{
	struct rx *rx = &l->ro->op.client->io.local_rx;
	int err = 0;

	if (p->index >= l->rr->count || (p->len > 0 && p->status == 0 && p->pack == 0))
		return -GRANARY_EPROTO;
	if (p->index != l->index)
		l->is_out = l->none_more;
	l->index = p->index;
	if (p->status != 0) /* READ knows better, and has words for it */
		l->is_out = true;
	if (!l->is_out) {
		rx->blocks_count = rx->pieces_count = 0;
		rx->scratch_used = 0;
		rx->f.data_len = p->len;
		err = read_piece_plan(l->ro, l->rr, rx, p);
		if (err == 0 && p->len > 0) {
			if (piece_read(l, rx, p))
				piece_verify(l, rx, p);
			else
				l->is_out = true;
		}
	}
	return err == 0 && p->flags & PIECE_LAST ? entry_end(l) : err;
}

static int all_take(struct locating *l, struct slice meta)
{
	struct cur c = cur_of(meta.p, meta.len);
	uint32_t pieces = cur_u32(&c);
	struct read_piece p;
	int err = 0;

	for (uint32_t i = 0; i < pieces && err == 0; i++)
		err = read_piece_decode(&c, &p) ? piece_take(l, &p) : -GRANARY_EPROTO;
	return err < 0 ? err : cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

/* A server that cannot say: READ can, or has words for it. */
bool locate_failed(struct rpc *r, int err)
{
	struct read_op *ro = read_op_of(r->op);

	(void)err;
	ro->op.client->local.hits = 0;
	if (read_rest(ro, read_rpc_of(r), false) < 0)
		return false;
	rpc_end(r);
	return true;
}

int locate_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct read_op *ro = read_op_of(r->op);
	struct local *local = &ro->op.client->local;
	struct locating l = { .ro = ro, .rr = read_rpc_of(r), .index = UINT32_MAX };
	int err = all_take(&l, meta);

	(void)data;
	local_put(ro->op.client, l.file);
	local->hits = (local->hits + 256 * l.done / l.rr->count) / 2;
	if (err < 0)
		return err;
	if (l.done < l.rr->count)
		return read_rest(ro, l.rr, l.is_bad);
	ro->parts_open--;
	return 0;
}
