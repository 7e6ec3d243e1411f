/* SPDX-License-Identifier: Apache-2.0 */
/* read_send.c -- pieces that are ready become frames: small ones share frames of up to
 * WIRE_COALESCE_MAX bytes of data, larger ones leave alone (PROTOCOL 4.2). Meta is written in its
 * final form, once; a frame is one allocation. */
#include "req/read.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

struct read_frame {
	struct answer a;
	struct read *body;
	struct read_piece *pieces; /* by next */
	uint32_t count;
	uint64_t ahead;
	struct iovec iov[]; /* then the meta */
};

void read_queue_init(struct read_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

void read_queue_push(struct read_queue *q, struct read_piece *p)
{
	p->next = NULL;
	*q->tail = p;
	q->tail = &p->next;
}

static struct read_piece *queue_pop(struct read_queue *q)
{
	struct read_piece *p = q->head;

	q->head = p->next;
	if (q->head == NULL) q->tail = &q->head;
	return p;
}

void read_body_unref(struct read **bp)
{
	struct read *b = *bp;

	*bp = NULL;
	if (--b->refs > 0) return;
	for (uint32_t i = 0; i < b->count; i++) {
		free(b->entries[i].extents);
		free(b->entries[i].text);
	}
	free(b);
}

static void piece_release(struct read *b, struct read_piece *p)
{
	if (p->held) read_release(b->local->reader, &p->read);
	if (p->own != NULL) free(p->own);
	free(p->made);
	if (!p->inside) free(p);
}

/* On the reactor, from the front end. Requests that wait for room go on in a later turn. */
static void frame_released(struct answer *a)
{
	struct read_frame *f = container_of(a, struct read_frame, a);
	struct req_peer *peer = f->body->peer;
	struct read_piece *p = f->pieces;

	while (p != NULL) {
		struct read_piece *next = p->next;

		piece_release(f->body, p);
		p = next;
	}
	assert(peer->ahead_bytes >= f->ahead && peer->ahead_entries >= f->count);
	peer->ahead_bytes -= f->ahead;
	peer->ahead_entries -= f->count;
	if (!list_empty(&peer->waiting)) req_drained(peer);
	read_body_unref(&f->body);
	free(f);
}

/* ---- meta ---- */

static bool piece_has_hash(const struct read_piece *p)
{
	return p->first && p->err == 0 && p->entry->loc.has_hash;
}

static bool piece_is_cut(const struct read_piece *p)
{
	return p->cut_len > 0 && p->err == 0;
}

size_t read_piece_meta_len(const struct read_piece *p)
{
	size_t n = PIECE_FIXED_SIZE + 4 * (size_t)p->crc_count;

	if (piece_has_hash(p)) n += 16;
	if (piece_is_cut(p)) n += 8;
	if (p->err < 0 && p->entry->text != NULL) n += 2 + strlen(p->entry->text);
	if (p->located) n += PIECE_ADDRESS_SIZE;
	return n;
}

static uint8_t *put8(uint8_t *to, uint64_t v)
{
	memcpy(to, &v, 8);
	return to + 8;
}
static uint8_t *put4(uint8_t *to, uint32_t v)
{
	memcpy(to, &v, 4);
	return to + 4;
}
static uint8_t *put2(uint8_t *to, uint16_t v)
{
	memcpy(to, &v, 2);
	return to + 2;
}

static uint8_t *put_crcs(uint8_t *to, const struct read_piece *p)
{
	uint32_t zeros[CACHE_UNIT_MAX / CRC_BLOCK_SIZE];
	size_t len = 4 * (size_t)p->crc_count;

	if (p->zeros) {
		crc32c_blocks(zeros, read_zeros, p->len);
		memcpy(to, zeros, len);
	} else if (p->crc_count == 1) {
		memcpy(to, p->crcs, 4);
	} else if (len > 0) {
		memcpy(to, p->crcs, len);
	}
	return to + len;
}

uint8_t *read_piece_put(uint8_t *to, const struct read *b, const struct read_piece *p)
{
	const struct read_entry *e = p->entry;
	const struct obj_loc *l = &e->loc;
	bool has_text = p->err < 0 && e->text != NULL, has_hash = piece_has_hash(p);

	to = put4(to, (uint32_t)(e - b->entries));
	to = put2(to, (uint16_t)-p->err);
	*to++ = (uint8_t)((p->last ? PIECE_LAST : 0) | (has_hash ? PIECE_HASH : 0) |
			  (has_text ? PIECE_TEXT : 0) | (piece_is_cut(p) ? PIECE_CUT : 0) |
			  (p->located ? PIECE_ADDRESS : 0));
	*to++ = 0;
	to = put8(to, l->id);
	to = put8(to, l->version);
	to = put8(to, l->size);
	to = put8(to, l->mtime_ns);
	to = put8(to, l->dir_id);
	to = put8(to, p->logical);
	to = put4(to, p->len);
	to = put2(to, p->crc_count);
	to = put_crcs(to, p);
	if (has_hash) {
		to = put8(to, l->hash.lo);
		to = put8(to, l->hash.hi);
	}
	if (piece_is_cut(p)) {
		to = put4(to, p->cut_from);
		to = put4(to, p->cut_len);
	}
	if (has_text) {
		size_t len = strlen(e->text);

		to = put2(to, (uint16_t)len);
		memcpy(to, e->text, len);
		to += len;
	}
	if (p->located) {
		to = put8(to, p->read.pack);
		to = put8(to, p->read.unit_offset + p->read.want_offset);
	}
	return to;
}

/* ---- frames ---- */

static const uint8_t *piece_data(const struct read_piece *p)
{
	if (p->zeros) return read_zeros;
	return p->own != NULL ? p->own : p->read.data;
}

static void frame_fill(struct read_frame *f, const struct read *b)
{
	uint8_t *to = put2(f->a.meta, (uint16_t)f->count);

	for (const struct read_piece *p = f->pieces; p != NULL; p = p->next) {
		to = read_piece_put(to, b, p);
		if (p->len == 0) continue;
		f->iov[f->a.iov_count++] =
			(struct iovec){ (void *)(uintptr_t)piece_data(p), p->len };
		f->a.data_len += p->len;
	}
	assert(to == f->a.meta + f->a.meta_len);
}

/* One that is done with the extents it knows looks for the next. */
static void piece_is_framed(struct read *b, struct read_entry *e)
{
	if (--e->unframed > 0 || e->at >= e->end || e->at < e->extents_end) return;
	b->next = 0;
	read_schedule(b);
}

static void frame_send(struct read *b, struct read_piece *pieces, uint32_t count, bool last)
{
	size_t meta_len = 2;
	struct read_frame *f;

	for (const struct read_piece *p = pieces; p != NULL; p = p->next)
		meta_len += read_piece_meta_len(p);
	f = req_alloc(sizeof(*f) + count * sizeof(struct iovec) + meta_len);
	memset(f, 0, sizeof(*f));
	f->body = b;
	b->refs++;
	f->pieces = pieces;
	f->count = count;
	f->a.request = b->r->frame.request;
	f->a.op = OP_READ;
	f->a.released = frame_released;
	f->a.iov = f->iov;
	f->a.meta = (uint8_t *)&f->iov[count];
	f->a.meta_len = (uint32_t)meta_len;
	frame_fill(f, b);
	for (const struct read_piece *p = pieces; p != NULL; p = p->next) piece_is_framed(b, p->entry);
	f->ahead = f->a.data_len;
	f->a.memory = sizeof(*f) + count * sizeof(struct iovec) + meta_len + f->a.data_len;
	answer_send(b->r, &f->a, last);
}

void read_flush(struct read *b)
{
	struct read_piece *pieces = b->small;
	uint32_t count = b->small_count;

	if (count == 0) return;
	b->small = NULL;
	b->small_tail = &b->small;
	b->small_count = b->small_bytes = 0;
	frame_send(b, pieces, count, b->left == 0);
}

static void piece_gather(struct read *b, struct read_piece *p)
{
	uint32_t cap =
		b->peer->data_cap < WIRE_COALESCE_MAX ? b->peer->data_cap : WIRE_COALESCE_MAX;

	if (b->small_count == READ_FRAME_PIECES || b->small_bytes + p->len > cap) {
		b->left++; /* p is not in it */
		read_flush(b);
		b->left--;
	}
	p->next = NULL;
	*b->small_tail = p;
	b->small_tail = &p->next;
	b->small_count++;
	b->small_bytes += p->len;
}

/* p is next in order. */
static void piece_send(struct read *b, struct read_piece *p)
{
	if (p->err < 0) { /* one empty piece, the entry's last: PROTOCOL 4.2 */
		p->last = true;
		if (p->crc_count > 0 || p->len > 0) {
			b->peer->ahead_bytes -= p->len;
			p->len = p->crc_count = 0;
		}
	}
	if (p->last) {
		assert(b->left > 0);
		b->left--;
	}
	if (p->len <= WIRE_SMALL_MAX && !p->entry->several) {
		piece_gather(b, p);
		return;
	}
	b->left++;
	read_flush(b);
	b->left--;
	p->next = NULL;
	frame_send(b, p, 1, b->left == 0);
}

/* What follows a failed piece of the same entry is dropped. */
static void piece_drop(struct read *b, struct read_piece *p)
{
	b->peer->ahead_bytes -= p->len;
	b->peer->ahead_entries--;
	p->entry->unframed--;
	piece_release(b, p);
}

static void piece_next(struct read *b, struct read_piece *p)
{
	struct read_entry *e = p->entry;

	if (e->err < 0 && e->several && !p->first) {
		piece_drop(b, p);
		return;
	}
	if (p->err < 0) {
		read_piece_explain(b, p);
		e->err = p->err;
		e->at = e->end; /* no more pieces */
	}
	piece_send(b, p);
}

/* What came is what a source, or a record, said it is: from here on it has checksums. */
static void piece_sum(struct read_piece *p)
{
	p->made = req_alloc(4 * (size_t)p->crc_count + 4);
	crc32c_blocks((uint32_t *)(void *)p->made, piece_data(p), p->len);
	p->crcs = p->made;
	p->unsummed = false;
}

void read_piece_ready(struct read *b, struct read_piece *p)
{
	struct read_entry *e = p->entry;
	struct read_queue *q = b->in_order ? &b->queue : &e->queue;

	if (p->unsummed && p->err == 0 && p->len > 0) piece_sum(p);

	p->ready = true;
	if (!b->in_order && !e->several) {
		piece_next(b, p);
		return;
	}
	while (q->head != NULL && q->head->ready) piece_next(b, queue_pop(q));
}
