/* SPDX-License-Identifier: Apache-2.0 */
/* rx.c -- receives answers.
 *
 * HEADER -> META    32 bytes are in rx->buf
 * META   -> DATA    the meta is whole and understood: rx->blocks says where each run of data goes
 * DATA   -> HEADER  all of it is in its place and verified
 *
 * One system call takes the rest of a frame's data, straight to its places, and the next header and meta into rx->buf
 * (`ahead` guesses their size from the frame before). A block is verified as soon as it is whole, while it is
 * in cache. */
#include "client_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "net.h"

enum {
	RX_BUF_SIZE = 64 * 1024,
	RX_IOV_MAX = 160,
	RX_CALL_MAX = 1024 * 1024,     /* bytes of one call: what was received first is still in cache when verified */
	RX_TURN_MAX = 8 * 1024 * 1024, /* bytes before others get a turn */
	RX_SCRATCH_MIN = 256 * 1024,
	RX_ANSWER_MAX = 64 * 1024 * 1024,
	REQUEST_SLOT_MASK = 0xffff,
};

int rx_init(struct rx *rx)
{
	rx_reset(rx);
	if (rx->buf)
		return 0;
	rx->buf = malloc(RX_BUF_SIZE);
	if (!rx->buf)
		return -GRANARY_ENOMEM;
	rx->cap = RX_BUF_SIZE;
	return 0;
}

void rx_reset(struct rx *rx)
{
	rx->state = RX_HEADER;
	rx->start = rx->end = 0;
	rx->ahead = RX_BUF_SIZE;
	rx->rpc = NULL;
	rx->blocks_count = rx->block_at = rx->block_done = rx->pieces_count = 0;
	rx->discard = 0;
	rx->scratch_used = 0;
}

void rx_release(struct rx *rx)
{
	free(rx->buf);
	free(rx->blocks);
	free(rx->pieces);
	free(rx->scratch);
	memset(rx, 0, sizeof(*rx));
}

/* ---- laying out a frame's data ---- */

/* Room for one more of an array; false without memory. */
static bool array_room(void **array, uint32_t count, uint32_t *cap, size_t size)
{
	if (count < *cap)
		return true;
	uint32_t more = *cap ? *cap * 2 : 128;
	void *grown = realloc(*array, more * size);
	if (!grown)
		return false;
	*array = grown;
	*cap = more;
	return true;
}

struct rx_piece *rx_add_piece(struct rx *rx)
{
	void *array = rx->pieces;

	if (!array_room(&array, rx->pieces_count, &rx->pieces_cap, sizeof(*rx->pieces)))
		return NULL;
	rx->pieces = array;
	rx->pieces[rx->pieces_count] = (struct rx_piece){ .slot = 0 };
	return &rx->pieces[rx->pieces_count++];
}

bool rx_add_block(struct rx *rx, struct rx_block block)
{
	void *array = rx->blocks;

	if (!array_room(&array, rx->blocks_count, &rx->blocks_cap, sizeof(*rx->blocks)))
		return false;
	rx->blocks = array;
	rx->blocks[rx->blocks_count++] = block;
	return true;
}

bool rx_scratch_room(struct rx *rx, size_t size)
{
	if (size <= rx->scratch_cap)
		return true;
	size = size < RX_SCRATCH_MIN ? RX_SCRATCH_MIN : size;
	uint8_t *grown = malloc(size);
	if (!grown)
		return false;
	free(rx->scratch);
	rx->scratch = grown;
	rx->scratch_cap = size;
	return true;
}

uint8_t *rx_scratch_take(struct rx *rx, size_t size)
{
	if (size > rx->scratch_cap - rx->scratch_used)
		return NULL;
	rx->scratch_used += size;
	return rx->scratch + rx->scratch_used - size;
}

/* The meta is gone from rx->buf when the data is whole. */
static bool meta_keep(struct rpc *r, struct slice meta)
{
	uint8_t *copy = malloc(meta.len > 0 ? meta.len : 1);

	if (!copy)
		return false;
	memcpy(copy, meta.p, meta.len);
	free(r->meta);
	r->meta = copy;
	r->meta_len = meta.len;
	return true;
}

/* Data of an answer that is not READ's: appended to one buffer; checksums where the meta is exactly those. */
static int plan_gather(struct rpc *r, struct slice meta, struct rx *rx)
{
	uint32_t count = crc_block_count(rx->f.data_len);
	bool check = !r->kind->own_meta && meta.len == (size_t)count * 4;
	struct cur crcs = cur_of(meta.p, meta.len);
	uint8_t *grown;

	if (r->answer_len + rx->f.data_len > RX_ANSWER_MAX)
		return -GRANARY_ETOOBIG;
	if (r->kind->own_meta && !meta_keep(r, meta))
		return -GRANARY_ENOMEM;
	grown = realloc(r->answer, r->answer_len + rx->f.data_len);
	if (!grown)
		return -GRANARY_ENOMEM;
	r->answer = grown;
	for (uint32_t i = 0, left = rx->f.data_len; i < count; i++) {
		uint32_t len = left < CRC_BLOCK_SIZE ? left : CRC_BLOCK_SIZE;
		struct rx_block b = { .dst = r->answer + r->answer_len, .len = len, .check = check,
			.piece = UINT32_MAX };
		b.crc = check ? cur_u32(&crcs) : 0;
		if (!rx_add_block(rx, b))
			return -GRANARY_ENOMEM;
		r->answer_len += len;
		left -= len;
	}
	return 0;
}

void rx_abandon(struct rx *rx, const struct rpc *r)
{
	uint64_t left = 0;

	if (rx->rpc != r || !r)
		return;
	rx->rpc = NULL;
	for (uint32_t i = rx->block_at; i < rx->blocks_count; i++)
		left += rx->blocks[i].len;
	rx->discard += left - rx->block_done;
	rx->blocks_count = rx->block_at = rx->block_done = rx->pieces_count = 0;
}

/* ---- data arrives ---- */

void rx_block_verify(struct granary_client *c, struct rx *rx, const struct rx_block *b)
{
	uint32_t crc = b->check || b->run ? crc32c(b->run ? *b->run : 0, b->dst, b->len) : 0;
	bool good = !b->check || crc == b->crc;

	if (b->run)
		*b->run = crc;
	if (good && b->cut_to)
		memcpy(b->cut_to, b->dst + b->cut_from, b->cut_len);
	if (good)
		return;
	atomic_fetch_add_explicit(&c->counters.crc_errors, 1, memory_order_relaxed);
	rx->damaged = true;
	if (b->piece < rx->pieces_count)
		rx->pieces[b->piece].bad = true;
}

/* n bytes are in their places (or have been thrown away); returns those that are not of this frame's data. */
static size_t data_advance(struct conn *k, struct rx *rx, size_t n)
{
	while (n > 0 && rx->block_at < rx->blocks_count) {
		const struct rx_block *b = &rx->blocks[rx->block_at];
		size_t part = b->len - rx->block_done < n ? b->len - rx->block_done : n;
		rx->block_done += (uint32_t)part;
		n -= part;
		if (rx->block_done < b->len)
			return 0;
		rx_block_verify(k->client, rx, b);
		rx->block_at++;
		rx->block_done = 0;
	}
	size_t gone = rx->discard < n ? (size_t)rx->discard : n;
	rx->discard -= gone;
	return n - gone;
}

static bool data_complete(const struct rx *rx)
{
	return rx->block_at == rx->blocks_count && rx->discard == 0;
}

/* What was received behind a meta belongs to its data. */
static void data_from_buf(struct conn *k, struct rx *rx)
{
	while (rx->start < rx->end && rx->block_at < rx->blocks_count) {
		const struct rx_block *b = &rx->blocks[rx->block_at];
		size_t have = rx->end - rx->start, want = b->len - rx->block_done;
		size_t part = have < want ? have : want;
		memcpy(b->dst + rx->block_done, rx->buf + rx->start, part);
		rx->start += part;
		data_advance(k, rx, part);
	}
	size_t gone = rx->end - rx->start < rx->discard ? rx->end - rx->start : (size_t)rx->discard;
	rx->start += gone;
	rx->discard -= gone;
}

/* ---- frames ---- */

static int rx_lost(struct conn *k, int err, const char *why)
{
	if (k->why[0] == '\0')
		snprintf(k->why, sizeof(k->why), "%s", why);
	return err;
}

static int frame_finished(struct conn *k, struct slice meta)
{
	struct rx *rx = &k->rx;
	struct rpc *r = rx->rpc;
	bool damaged = rx->damaged && r && !r->kind->frame;
	const struct frame f = rx->f;

	rx->state = RX_HEADER;
	if (damaged)
		return rx_lost(k, -GRANARY_ECLOSED, "an answer was damaged on its way");
	if (r && r->op && r->meta && f.status == 0)
		meta = slice_of(r->meta, r->meta_len);
	if (r)
		rpc_answered(r, &f, meta);
	rx->rpc = NULL;
	rx->blocks_count = rx->block_at = rx->block_done = rx->pieces_count = 0;
	return 0;
}

static struct rpc *frame_rpc(const struct conn *k, const struct frame *f)
{
	uint64_t slot = (f->request & REQUEST_SLOT_MASK) - 1;
	struct rpc *r = slot < CONN_FLIGHT_MAX ? k->slots[slot] : NULL;

	return r && r->request == f->request ? r : NULL;
}

static int goodbye(struct conn *k, const struct frame *f, struct slice meta)
{
	char said[ERROR_TEXT_SIZE / 2];

	text_copy(said, sizeof(said), error_meta(meta));
	snprintf(k->why, sizeof(k->why), "the server closed the connection: %s",
		said[0] ? said : error_text(-(int)f->status));
	return -GRANARY_ECLOSED;
}

/* Where a frame's data goes; the meta is in rx->buf and whole. */
static int frame_plan(struct conn *k, struct slice meta)
{
	struct rx *rx = &k->rx;
	struct rpc *r = rx->rpc;
	int err = 0;

	rx->scratch_used = 0;
	rx->damaged = false;
	rx->discard = 0;
	if (r->op && rx->f.status == 0) {
		if (r->kind->plan)
			err = r->kind->plan(r, meta, rx);
		else if (rx->f.data_len > 0)
			err = plan_gather(r, meta, rx);
	} else {
		rx->discard = rx->f.data_len;
	}
	if (rx->discard > 0 && !rx_scratch_room(rx, RX_SCRATCH_MIN))
		err = -GRANARY_ENOMEM;
	if (err == -GRANARY_EPROTO)
		return rx_lost(k, err, "the server's answer makes no sense");
	return err;
}

static int meta_arrived(struct conn *k)
{
	struct rx *rx = &k->rx;
	struct slice meta = slice_of(rx->buf + rx->start + WIRE_HEADER_SIZE, rx->f.meta_len);

	if (meta.len > 0 && crc32c(0, meta.p, meta.len) != rx->f.meta_crc)
		return rx_lost(k, -GRANARY_ECLOSED, "a message was damaged on its way");
	rx->start += WIRE_HEADER_SIZE + meta.len;
	rx->ahead = rx->f.data_len > 0 ? WIRE_HEADER_SIZE + meta.len : RX_BUF_SIZE;
	if (k->state != CONN_READY) {
		rx->state = RX_HEADER;
		return handshake_frame(k, &rx->f, meta);
	}
	if (rx->f.op == OP_GOODBYE)
		return goodbye(k, &rx->f, meta);
	rx->rpc = frame_rpc(k, &rx->f);
	if (!rx->rpc || (rx->rpc->op && rx->rpc->wire_op != rx->f.op))
		return rx_lost(k, -GRANARY_EPROTO, "the server answered what was not asked");
	int err = frame_plan(k, meta);
	if (err < 0)
		return err;
	rx->state = RX_DATA;
	data_from_buf(k, rx);
	return data_complete(rx) ? frame_finished(k, meta) : 0;
}

static int header_arrived(struct conn *k)
{
	struct rx *rx = &k->rx;
	int err = frame_decode(rx->buf + rx->start, &rx->f);
	bool early = k->state != CONN_READY;

	if (err < 0)
		return rx_lost(k, err, err == -GRANARY_EVERSION ? "the server speaks another version of the protocol" :
			"what came is not a message of the protocol");
	if (rx->f.meta_len > (early ? WIRE_PREAUTH_META_MAX : WIRE_META_MAX) ||
		rx->f.data_len > (early ? 0 : RX_DATA_MAX))
		return rx_lost(k, -GRANARY_EPROTO, "the server sent a message above the caps");
	rx->state = RX_META;
	return 0;
}

/* Room for `need` bytes from rx->start on. */
static int buf_room(struct rx *rx, size_t need)
{
	if (rx->start > 0 && (rx->start == rx->end || rx->cap - rx->start < need)) {
		memmove(rx->buf, rx->buf + rx->start, rx->end - rx->start);
		rx->end -= rx->start;
		rx->start = 0;
	}
	if (need <= rx->cap)
		return 0;
	uint8_t *grown = realloc(rx->buf, need);
	if (!grown)
		return -GRANARY_ENOMEM;
	rx->buf = grown;
	rx->cap = need;
	return 0;
}

/* Takes all whole frames out of rx->buf. */
static int rx_parse(struct conn *k)
{
	struct rx *rx = &k->rx;
	int err = 0;

	while (err == 0 && !k->broken && rx->state != RX_DATA) {
		size_t have = rx->end - rx->start;
		if (rx->state == RX_HEADER && have < WIRE_HEADER_SIZE)
			break;
		if (rx->state == RX_HEADER)
			err = header_arrived(k);
		else if (have < WIRE_HEADER_SIZE + (size_t)rx->f.meta_len)
			break;
		else
			err = meta_arrived(k);
	}
	return err;
}

/* ---- the system call ---- */

struct scatter {
	struct iovec iov[RX_IOV_MAX + 1];
	int count;
	size_t len;
};

static bool scatter_add(struct scatter *s, uint8_t *p, size_t len)
{
	struct iovec *last = s->count > 0 ? &s->iov[s->count - 1] : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += len;
	else if (s->count == RX_IOV_MAX)
		return false;
	else
		s->iov[s->count++] = (struct iovec){ p, len };
	s->len += len;
	return true;
}

/* The data still missing, up to RX_CALL_MAX; true when that is all of it. */
static bool scatter_data(struct scatter *s, struct rx *rx)
{
	size_t done = rx->block_done;

	for (uint32_t i = rx->block_at; i < rx->blocks_count; i++, done = 0) {
		const struct rx_block *b = &rx->blocks[i];
		if (s->len >= RX_CALL_MAX || !scatter_add(s, b->dst + done, b->len - done))
			return false;
	}
	if (rx->discard == 0)
		return true;
	size_t part = rx->discard < rx->scratch_cap ? (size_t)rx->discard : rx->scratch_cap;
	return scatter_add(s, rx->scratch, part) && part == rx->discard;
}

static int scatter_fill(struct scatter *s, struct rx *rx)
{
	size_t need = WIRE_HEADER_SIZE + (rx->state == RX_META ? rx->f.meta_len : 0u);
	size_t have = rx->end - rx->start;
	int err;

	s->count = 0;
	s->len = 0;
	if (rx->state == RX_DATA && !scatter_data(s, rx))
		return 0;
	if (rx->state == RX_DATA)
		need = WIRE_HEADER_SIZE;
	err = buf_room(rx, need > rx->ahead ? need : rx->ahead);
	if (err < 0)
		return err;
	size_t want = need > rx->ahead ? need - have : rx->ahead > have ? rx->ahead - have : need - have;
	if (want > rx->cap - rx->end)
		want = rx->cap - rx->end;
	s->iov[s->count++] = (struct iovec){ rx->buf + rx->end, want };
	s->len += want;
	return 0;
}

/* n bytes came for what scatter_fill() asked for. */
static int rx_take(struct conn *k, size_t n)
{
	struct rx *rx = &k->rx;

	if (rx->state == RX_DATA) {
		n = data_advance(k, rx, n);
		if (!data_complete(rx))
			return 0;
		int err = frame_finished(k, slice_of("", 0));
		if (err < 0)
			return err;
	}
	rx->end += n;
	return rx_parse(k);
}

int rx_read(struct conn *k)
{
	struct granary_client *c = k->client;
	struct passed *passed = c->config.hosts[k->host_at].is_unix ? &k->passed : NULL;
	struct scatter s;
	int err = 0;

	for (size_t total = 0; err == 0 && total < RX_TURN_MAX && !k->broken && k->fd >= 0;) {
		err = scatter_fill(&s, &k->rx);
		if (err < 0)
			return err;
		ssize_t n = c->io.engine->readv(c->io.net, k->fd, s.iov, s.count, passed);
		if (n == 0)
			return rx_lost(k, -GRANARY_ECLOSED, "the server closed the connection");
		if (n < 0)
			return n == -GRANARY_EAGAIN ? 0 : rx_lost(k, (int)n, "the connection broke");
		atomic_fetch_add_explicit(&c->counters.bytes_received, (uint64_t)n, memory_order_relaxed);
		k->last_rx_ns = c->io.now_ns;
		total += (size_t)n;
		err = rx_take(k, (size_t)n);
		if ((size_t)n < s.len)
			break;
	}
	return err;
}
