/* SPDX-License-Identifier: Apache-2.0 */
/* range.c -- byte ranges of packs that a snapshot pins (PROTOCOL 4.8): PARSE -> OPEN -> RUN (until
 * the last piece is in a frame).
 *
 * A range is cut where the units of the cache end (read_cut). One that is part of a span which the
 * consumers of an epoch take together comes out of that span's share, whole.
 *
 * Invariants: (1) pieces of an entry leave in order; with RANGE_IN_ORDER entries in order too; (2)
 * bytes of pieces made and not released count in peer->ahead_bytes, as those of batch reads do, and
 * the same limits hold; (3) the body outlives the request: every frame holds a reference; (4) a
 * range is read only from a pack that the snapshot pins; (5) of a range whose checksum who asks does not know the bytes
 * are verified here, by their record or by the tag of the source that they come from at that moment, and leave with a
 * checksum (RANGE_SUM). */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "jobs/snapshot.h"
#include "meta/snapshot.h"
#include "pack/by_record.h"
#include "pack/format.h"
#include "pack/linked.h"
#include "pack/share.h"
#include "req/fair.h"
#include "req/range_record.h"
#include "req/read.h"
#include "tier/heat.h"
#include "tier/packs.h"

enum { PIECE_META = 4 + 2 + 1 + 1 + 4 + 4 + 4, TEXT_MAX = 512 };

struct entry_record;
struct range;
struct range_entry;

struct piece {
	union {
		struct pack_read read;
		struct share_take take; /* shared */
		struct entry_record *record; /* recorded */
	};
	struct range_entry *entry;
	struct piece *next; /* in its queue, then in its frame */
	uint32_t at, len;   /* in the entry */
	int16_t err;
	bool last, ready, held, inside, shared;
	bool recorded;
	struct piece *waits; /* recorded: the next one that waits for the record */
};
struct queue {
	struct piece *head, **tail;
};
struct range_entry {
	struct range *range;
	uint64_t pack;
	uint32_t offset, length, at; /* at: next byte to make a piece of */
	int16_t err;
	bool ended; /* its last piece is made */
	bool told;  /* that it failed, which was its last piece */
	bool used;  /* `first` is */
	uint32_t span_offset, span_length, wanted; /* length 0: it is nobody else's */
	bool unsummed;           /* who asks has no checksum of it */
	uint32_t sum;            /* unsummed: of what was sent */
	struct entry_record *record; /* unsummed: what its pieces are of, until the last one is made */
	struct queue queue;
	struct piece first;
};
/* Verified bytes of an entry: its pieces are made of it. */
struct entry_record {
	struct range_record r;
	struct range *body;
	struct piece *waits;     /* for it; NULL once it is here */
	uint32_t refs;           /* of the entry, of the worker, of each piece that is held */
	bool is_here;
};
struct range_stream {
	uint64_t tag;               /* who shares spans names the same one */
	uint64_t job;               /* 0: none */
	uint32_t weight;
};
struct range {
	struct req *r;
	struct store *store;
	struct store_local *local;
	struct req_peer *peer;
	struct snapshot_open *open;
	struct slice name;
	struct hash128 manifest;
	uint32_t refs;              /* the request and every frame */
	uint32_t count, next, left; /* entries; next to start; whose last piece is not in a frame */
	uint32_t inflight;
	bool in_order, past_cache, scheduled;
	bool waits;                 /* `wait` holds a reference, until its task ran */
	int err;
	struct range_stream stream;
	struct fair_req fair;
	uint64_t made;              /* bytes of this chunk */
	struct task run;
	struct share_wait wait;
	struct piece *stuck;        /* made, waiting for room among the shares */
	struct queue queue; /* in order: all pieces */
	struct piece *gathered, **gathered_tail;
	uint32_t gathered_count, gathered_bytes;
	struct auth auth;
	struct range_entry entries[];
};
struct range_frame {
	struct answer a;
	struct range *body;
	struct piece *pieces;
	uint32_t count;
	uint64_t ahead;
	struct iovec iov[];
};

static void queue_init(struct queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void queue_push(struct queue *q, struct piece *p)
{
	p->next = NULL;
	*q->tail = p;
	q->tail = &p->next;
}

static struct piece *queue_pop(struct queue *q)
{
	struct piece *p = q->head;

	q->head = p->next;
	if (q->head == NULL) q->tail = &q->head;
	return p;
}

static void record_unref(struct entry_record *r)
{
	if (--r->refs > 0) return;
	free(r->r.data);
	free(r);
}

static void body_unref(struct range *b)
{
	if (--b->refs > 0) return;
	for (uint32_t i = 0; i < b->count; i++)
		if (b->entries[i].record != NULL) record_unref(b->entries[i].record);
	snapshot_unref(b->store->snapshots, &b->open);
	free(b);
}

static const uint8_t *piece_data(const struct piece *p)
{
	if (p->recorded) return p->record->r.data + p->at;
	return p->shared ? p->take.data : p->read.data;
}

static void piece_release(struct range *b, struct piece *p)
{
	if (p->held && p->recorded)
		record_unref(p->record);
	else if (p->held && p->shared)
		share_release(&p->take);
	else if (p->held)
		read_release(b->local->reader, &p->read);
	if (!p->inside) free(p);
}

/* ---- frames ---- */

static void frame_released(struct answer *a)
{
	struct range_frame *f = container_of(a, struct range_frame, a);
	struct req_peer *peer = f->body->peer;

	for (struct piece *p = f->pieces, *next; p != NULL; p = next) {
		next = p->next;
		piece_release(f->body, p);
	}
	assert(peer->ahead_bytes >= f->ahead && peer->ahead_entries >= f->count);
	peer->ahead_bytes -= f->ahead;
	peer->ahead_entries -= f->count;
	fair_sent(f->body->local->fair);
	if (!list_empty(&peer->waiting)) req_drained(peer);
	body_unref(f->body);
	free(f);
}

static const char *piece_text(const struct piece *p, char buf[TEXT_MAX])
{
	const struct range_entry *e = p->entry;

	if (p->err == -GRANARY_ESOURCE && linked_why(e->pack, e->offset, e->length, buf, TEXT_MAX)) return buf;
	snprintf(buf, TEXT_MAX, "%s; pack=%016" PRIx64 " offset=%u length=%u",
		p->err == -GRANARY_EACCESS ? "the snapshot does not pin this pack"
					   : error_text(p->err),
		e->pack, e->offset, e->length);
	return buf;
}

static void piece_put(struct wr *w, const struct range *b, const struct piece *p)
{
	bool has_sum = p->entry->unsummed && p->last && p->err == 0;
	char text[TEXT_MAX];

	wr_u32(w, (uint32_t)(p->entry - b->entries));
	wr_u16(w, (uint16_t)-p->err);
	wr_u8(w, (uint8_t)((p->last ? RANGE_LAST : 0) | (p->err < 0 ? RANGE_TEXT : 0) | (has_sum ? RANGE_SUM : 0)));
	wr_u8(w, 0);
	wr_u32(w, p->at);
	wr_u32(w, p->len);
	if (has_sum) wr_u32(w, p->entry->sum);
	if (p->err < 0) wr_bytes16(w, slice_str(piece_text(p, text)));
}

static void frame_send(struct range *b, bool last)
{
	size_t cap = 2 + b->gathered_count * (size_t)PIECE_META;
	struct range_frame *f;
	struct wr w;

	for (const struct piece *p = b->gathered; p != NULL; p = p->next)
		cap += p->err < 0 ? 2 + TEXT_MAX : 0;
	f = req_alloc(sizeof(*f) + b->gathered_count * sizeof(struct iovec) + cap);
	memset(f, 0, sizeof(*f));
	f->body = b;
	b->refs++;
	f->pieces = b->gathered;
	f->count = b->gathered_count;
	f->a.request = b->r->frame.request;
	f->a.op = OP_RANGE;
	f->a.released = frame_released;
	f->a.iov = f->iov;
	f->a.meta = (uint8_t *)&f->iov[f->count];
	w = wr_of(f->a.meta, cap);
	wr_u16(&w, (uint16_t)f->count);
	for (const struct piece *p = f->pieces; p != NULL; p = p->next) {
		piece_put(&w, b, p);
		if (p->len == 0) continue;
		f->iov[f->a.iov_count++] =
			(struct iovec){ (void *)(uintptr_t)piece_data(p), p->len };
		f->a.data_len += p->len;
	}
	assert(wr_ok(&w));
	f->a.meta_len = (uint32_t)wr_len(&w);
	f->ahead = f->a.data_len;
	f->a.memory = sizeof(*f) + f->count * sizeof(struct iovec) + cap + f->a.data_len;
	b->gathered = NULL;
	b->gathered_tail = &b->gathered;
	b->gathered_count = b->gathered_bytes = 0;
	answer_send(b->r, &f->a, last);
}

static void piece_send(struct range *b, struct piece *p)
{
	uint32_t cap =
		b->peer->data_cap < WIRE_COALESCE_MAX ? b->peer->data_cap : WIRE_COALESCE_MAX;

	if (b->gathered_count > 0 &&
		(b->gathered_count == READ_FRAME_PIECES || b->gathered_bytes + p->len > cap))
		frame_send(b, false);
	if (p->last) b->left--;
	p->next = NULL;
	*b->gathered_tail = p;
	b->gathered_tail = &p->next;
	b->gathered_count++;
	b->gathered_bytes += p->len;
}

/* p is next in order. What follows a failed piece of the same entry is dropped. */
static void piece_next(struct range *b, struct piece *p)
{
	struct range_entry *e = p->entry;

	if (e->err < 0 && p->err != e->err) p->err = e->err;
	if (p->err < 0) {
		b->peer->ahead_bytes -= p->len;
		p->len = 0;
		e->err = p->err;
		e->ended = true;
		if (e->told) {
			b->peer->ahead_entries--;
			piece_release(b, p);
			return;
		}
		p->last = e->told = true;
	}
	if (e->unsummed && p->len > 0) e->sum = crc32c(e->sum, piece_data(p), p->len);
	piece_send(b, p);
}

static void piece_ready(struct range *b, struct piece *p)
{
	struct queue *q = b->in_order ? &b->queue : &p->entry->queue;

	p->ready = true;
	while (q->head != NULL && q->head->ready) piece_next(b, queue_pop(q));
}

static void resume(struct range *b)
{
	if (b->r->pending == 0) /* it runs already, or the turn that waits comes */
		return;
	b->r->pending = 1;
	req_resume(b->r);
}

/* ---- parse, open ---- */

static void entry_parse(struct range *b, struct range_entry *e, struct cur *c)
{
	e->range = b;
	e->pack = cur_u64(c);
	e->offset = cur_u32(c);
	e->length = cur_u32(c);
	e->at = 0;
	e->err = 0;
	e->ended = e->used = e->told = false;
	e->span_offset = e->span_length = e->wanted = e->sum = 0;
	e->unsummed = false;
	e->record = NULL;
	queue_init(&e->queue);
	if (e->length == 0 || e->length > EXTENT_LEN_MAX) c->bad = true;
}

static void span_parse(struct range_entry *e, struct cur *c)
{
	e->span_offset = cur_u32(c);
	e->span_length = cur_u32(c);
	e->wanted = cur_u32(c);
	if (e->span_length == 0) return;
	if (e->span_length > SHARE_SPAN_MAX || e->wanted > e->span_length || e->wanted < e->length ||
		e->offset < e->span_offset ||
		(uint64_t)e->offset + e->length > (uint64_t)e->span_offset + e->span_length)
		c->bad = true;
}

static void stream_parse(struct range_stream *s, struct cur *c)
{
	s->tag = cur_u64(c);
	s->job = cur_u64(c);
	s->weight = cur_u32(c);
}

static struct range *body_new(struct req *r, uint32_t count)
{
	struct range *b = req_alloc(sizeof(*b) + count * sizeof(struct range_entry));

	memset(b, 0, offsetof(struct range, auth));
	b->r = r;
	b->store = r->store;
	b->local = r->local;
	b->peer = r->peer;
	b->refs = 1;
	b->count = b->left = count;
	b->gathered_tail = &b->gathered;
	queue_init(&b->queue);
	return b;
}

static enum step_result range_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c), name = cur_bytes16(&c);
	struct hash128 manifest = { .lo = cur_u64(&c) };
	struct range_stream stream = { .tag = 0 };
	struct range *b;
	uint32_t count;
	uint8_t flags;
	int err;

	manifest.hi = cur_u64(&c);
	flags = cur_flags(&c, RANGE_IN_ORDER | RANGE_PAST_CACHE | RANGE_STREAM | RANGE_UNSUMMED);
	if (flags & RANGE_STREAM) stream_parse(&stream, &c);
	count = cur_u32(&c);
	if (!cur_ok(&c) || bucket.len == 0 || count == 0 || count > WIRE_BATCH_MAX ||
		r->frame.data_len != 0)
		return req_fail(r, -GRANARY_EPROTO,
			"RANGE does not parse, or has not 1 to %d entries", WIRE_BATCH_MAX);
	r->body = b = body_new(r, count);
	b->name = name;
	b->manifest = manifest;
	b->in_order = (flags & RANGE_IN_ORDER) != 0;
	b->past_cache = (flags & RANGE_PAST_CACHE) != 0;
	b->stream = stream;
	for (uint32_t i = 0; i < count; i++) {
		entry_parse(b, &b->entries[i], &c);
		if (flags & RANGE_STREAM) span_parse(&b->entries[i], &c);
		if (flags & RANGE_UNSUMMED) b->entries[i].unsummed = cur_flags(&c, 1) != 0;
	}
	if (!cur_done(&c))
		return req_fail(r, -GRANARY_EPROTO,
			"RANGE: an entry does not parse, is not 1 byte to 4 MiB long, or not inside its span");
	err = auth_begin(r, &b->auth, GRANT_READ, bucket);
	if (err == 0) err = snapshot_name_check(name);
	if (err < 0) return req_fail(r, err, "cannot read from this snapshot: %s", error_text(err));
	return STEP_NEXT;
}

static void fair_go(struct fair_req *f)
{
	resume(container_of(f, struct range, fair));
}

static void open_work(struct req *r)
{
	struct range *b = r->body;

	b->err = snapshot_ref(r->store->snapshots, b->auth.bucket.id, b->name, &b->open);
}

static enum step_result range_open(struct req *r)
{
	struct range *b = r->body;

	b->err = snapshot_ref_cached(r->store->snapshots, b->auth.bucket.id, b->name, &b->open);
	if (b->err != -GRANARY_EAGAIN) return STEP_NEXT;
	r->step++;
	return req_work(r, open_work);
}

static enum step_result range_check(struct req *r)
{
	struct range *b = r->body;
	const struct snapshot_open *o = b->open;
	char text[160];

	name_escape(text, sizeof(text), b->name);
	if (b->err < 0) return req_fail(r, b->err, "snapshot '%s': %s", text, error_text(b->err));
	if (!auth_key(&b->auth, slice_of(o->prefix, o->prefix_len)))
		return req_fail(
			r, -GRANARY_EACCESS, "the key may not read all of snapshot '%s'", text);
	if (o->manifest.lo != b->manifest.lo || o->manifest.hi != b->manifest.hi)
		return req_fail(r, -GRANARY_ECHANGED,
			"snapshot '%s' is another one than when it was opened", text);
	stat_add(&r->local->stats->entries[OP_RANGE], b->count);
	b->fair.go = fair_go;
	fair_enter(b->local->fair, &b->fair, b->stream.job, b->stream.weight);
	return STEP_NEXT;
}

/* ---- run ---- */

static void run_task(struct task *task)
{
	struct range *b = container_of(task, struct range, run);

	b->scheduled = false;
	resume(b);
}

/* There may be room for what is stuck; the request may be over: it went on by itself meanwhile. */
static void wait_task(struct task *task)
{
	struct range *b = container_of(task, struct range, wait.task);

	b->waits = false;
	if (b->r != NULL) resume(b);
	body_unref(b);
}

static void schedule(struct range *b)
{
	if (b->scheduled) return;
	b->scheduled = true;
	b->run.fn = run_task;
	reactor_defer(b->local->reactor, &b->run);
}

static void piece_came(struct piece *p, int err)
{
	struct range *b = p->entry->range;

	b->inflight--;
	fair_came(b->local->fair, p->len);
	p->held = err == 0;
	/* A file that is shorter than the range: nobody said that there is more. */
	p->err = (int16_t)(err == -GRANARY_ECORRUPT && !p->recorded ? -GRANARY_ERANGE : err);
	piece_ready(b, p);
	schedule(b);
}

static void piece_read_done(struct pack_read *read)
{
	struct piece *p = container_of(read, struct piece, read);
	struct range *b = p->entry->range;

	if (b->r != NULL) b->r->is_cold |= read->is_cold;
	piece_came(p, read->err);
}

static void piece_take_done(struct share_take *take)
{
	struct piece *p = container_of(take, struct piece, take);
	struct range *b = p->entry->range;

	if (b->r != NULL) b->r->is_cold = true; /* for whom it waited is not known */
	piece_came(p, take->err);
}

static void record_came(struct range_record *r)
{
	struct entry_record *record = container_of(r, struct entry_record, r);
	struct range *b = record->body;
	struct piece *p = record->waits;

	record->waits = NULL;
	record->is_here = true;
	for (struct piece *next; p != NULL; p = next) {
		next = p->waits;
		if (r->err == 0) record->refs++;
		piece_came(p, r->err);
	}
	record_unref(record);
	body_unref(b);
}

/* What is verified is read for the entry's first piece; true: the piece has it already. */
static bool record_take(struct range *b, struct piece *p)
{
	struct range_entry *e = p->entry;
	struct entry_record *record = e->record;

	if (record == NULL) {
		record = e->record = req_alloc(sizeof(*record));
		*record = (struct entry_record){ .body = b, .refs = 2 };
		record->r = (struct range_record){ .local = b->local, .pack = e->pack, .offset = e->offset,
			.len = e->length, .done = record_came };
		b->refs++;
		range_record_start(&record->r);
	}
	p->record = record;
	if (record->is_here) {
		p->err = (int16_t)record->r.err;
		p->held = record->r.err == 0;
		record->refs += p->held;
	} else {
		struct piece **at = &record->waits;

		while (*at != NULL) at = &(*at)->waits;
		*at = p;
	}
	if (p->last) {
		e->record = NULL;
		record_unref(record);
	}
	return p->held || p->err < 0;
}

/* Byte x on, as much as is wanted and in one unit. */
static void piece_place(struct range_entry *e, struct piece *p, uint64_t fixed)
{
	p->read = (struct pack_read){ .pack = e->pack, .done = piece_read_done };
	p->len = read_cut(&p->read, fixed, (uint64_t)e->offset + e->at, e->length - e->at);
}

/* All of the entry, out of its span. */
static void piece_share(const struct range *b, struct range_entry *e, struct piece *p, uint64_t fixed)
{
	p->shared = true;
	p->len = e->length;
	p->take = (struct share_take){ .fixed = fixed, .at = e->offset - e->span_offset, .len = e->length,
		.done = piece_take_done };
	p->take.span = (struct share_span){ .tag = b->stream.tag, .pack = e->pack, .offset = e->span_offset,
		.length = e->span_length, .wanted = e->wanted };
}

static int piece_make(struct range *b, struct range_entry *e, struct piece *p)
{
	struct pack *pack;
	uint64_t fixed, x = (uint64_t)e->offset + e->at;
	uint32_t left = e->length - e->at;

	if (!snapshot_pins(b->open, e->pack)) return -GRANARY_EACCESS;
	if (e->offset < PACK_DATA_START) return -GRANARY_ERANGE;
	pack = packs_ref(b->store->packs, e->pack);
	if (pack == NULL) return -GRANARY_ESTALE;
	fixed = b->past_cache ? 0 : pack_fixed_size(pack);
	if (e->at == 0) heat_note_job(b->store->heat, b->stream.job, pack_is_hot(pack), e->length);
	packs_unref(b->store->packs, pack);
	p->at = e->at;
	if (e->record != NULL || (e->unsummed && e->at == 0 && by_record_is_due(b->store->packs, e->pack))) {
		p->recorded = true;
		p->len = left < READ_CUT ? left : READ_CUT;
		return 0;
	}
	if (e->span_length > 0 && !e->unsummed && e->span_offset >= PACK_DATA_START && !b->past_cache &&
		(fixed == 0 || (uint64_t)e->span_offset + e->span_length <= fixed))
		piece_share(b, e, p, fixed);
	else
		piece_place(e, p, fixed);
	return fixed > 0 && x + p->len > fixed ? -GRANARY_ERANGE : 0;
}

static bool has_room(const struct range *b, uint32_t making)
{
	const struct req_peer *peer = b->peer;

	if (peer->ahead_entries == 0 && making == 0) return true;
	return peer->ahead_bytes < READ_AHEAD_BYTES && peer->ahead_entries < READ_AHEAD_ENTRIES;
}

static struct piece *next_piece(struct range *b)
{
	struct range_entry *e;
	struct piece *p;

	while (b->next < b->count && b->entries[b->next].ended) b->next++;
	if (b->next == b->count) return NULL;
	e = &b->entries[b->next];
	p = e->used ? req_alloc(sizeof(*p)) : &e->first;
	memset(p, 0, sizeof(*p));
	p->inside = !e->used;
	e->used = true;
	p->entry = e;
	p->err = (int16_t)piece_make(b, e, p);
	if (p->err < 0) p->len = 0;
	e->at += p->len;
	p->last = p->err < 0 || e->at == e->length;
	e->ended = p->last;
	b->made += p->len;
	b->peer->ahead_bytes += p->len;
	b->peer->ahead_entries++;
	queue_push(b->in_order ? &b->queue : &e->queue, p);
	return p;
}

static void inflight_add(struct range *b, const struct piece *p)
{
	b->inflight++;
	fair_reading(b->local->fair, p->len);
}

/* False: it must wait for room. Without any to be had it is read alone, as it is: past the cache. */
static bool piece_take(struct range *b, struct piece *p)
{
	struct pack_read *read = &p->read;
	struct range_entry *e = p->entry;

	if (!b->waits) b->wait.task.fn = wait_task;
	switch (share_take(b->local->shares, &p->take, b->waits ? NULL : &b->wait)) {
	case SHARE_TAKEN:
		p->held = true;
		piece_ready(b, p);
		return true;
	case SHARE_COMING: inflight_add(b, p); return true;
	case SHARE_FULL:
		b->refs += !b->waits;
		b->waits = true;
		return false;
	case SHARE_ALONE: break;
	}
	p->shared = false;
	*read = (struct pack_read){ .pack = e->pack, .unit_offset = e->offset, .unit_len = e->length,
		.want_len = e->length, .bypass = true, .done = piece_read_done };
	inflight_add(b, p);
	read_start(b->local->reader, &read, 1);
	return true;
}

static void record_piece(struct range *b, struct piece *p)
{
	if (record_take(b, p))
		piece_ready(b, p);
	else
		inflight_add(b, p);
}

/* The next piece that is to be looked for in the cache; those of shares begin as they are met. */
static struct piece *next_plain(struct range *b, uint32_t n, uint32_t *taken)
{
	while (b->stuck != NULL || (has_room(b, n) && b->made < fair_most(&b->fair))) {
		struct piece *p = b->stuck != NULL ? b->stuck : next_piece(b);

		b->stuck = NULL;
		if (p != NULL && p->recorded) {
			record_piece(b, p);
			(*taken)++;
			continue;
		}
		if (p == NULL || !p->shared || p->err < 0) return p;
		if (!piece_take(b, p)) {
			b->stuck = p;
			return NULL;
		}
		(*taken)++;
	}
	return NULL;
}

/* Pieces of one chunk: prefetched together, the misses go to the reader in one call, which sorts
 * and merges them. */
static uint32_t run_chunk(struct range *b)
{
	struct piece *pieces[READ_CHUNK];
	struct pack_read *misses[READ_CHUNK];
	uint32_t n = 0, missed = 0, taken = 0;

	b->made = 0;
	if (b->stuck == NULL && (b->next == b->count || !has_room(b, 0) || !fair_may(b->local->fair, &b->fair)))
		return 0;
	while (n < READ_CHUNK) {
		struct piece *p = next_plain(b, n, &taken);

		if (p == NULL) break;
		if (p->err == 0 && !p->read.bypass) read_prefetch(b->local->reader, &p->read);
		pieces[n++] = p;
	}
	for (uint32_t i = 0; i < n; i++) {
		struct piece *p = pieces[i];

		if (p->err == 0 && !read_cached(b->local->reader, &p->read)) {
			misses[missed++] = &p->read;
			inflight_add(b, p);
			continue;
		}
		p->held = p->err == 0;
		piece_ready(b, p);
	}
	fair_made(b->local->fair, &b->fair, b->made);
	if (missed > 0) read_start(b->local->reader, misses, missed);
	return n + taken;
}

/* Few bytes wait for more of them while reads are under way. Returns whether a frame left. */
static bool flush_ripe(struct range *b)
{
	if (b->gathered_count == 0) return false;
	if (b->gathered_bytes < READ_FRAME_EARLY && b->inflight > 0 && b->left > 0 && b->stuck == NULL)
		return false;
	frame_send(b, b->left == 0);
	return true;
}

static enum step_result range_run(struct req *r)
{
	struct range *b = r->body;

	if (!list_empty(&r->wait_node)) list_remove(&r->wait_node);
	do /* frames may be released at once: then there is room again */
		while (run_chunk(b) > 0) continue;
	while (flush_ripe(b));
	if (b->left == 0 && b->inflight == 0 && !b->scheduled && !r->waking) return STEP_DONE;
	if (b->stuck != NULL) {
		assert(b->waits);
	} else if (b->left > 0 && b->next < b->count && !has_room(b, 0)) {
		if (list_empty(&r->wait_node)) list_push(&r->peer->waiting, &r->wait_node);
	} else {
		assert(b->inflight > 0 || b->scheduled || r->waking || b->fair.waits);
	}
	r->pending = 1;
	return STEP_WAIT;
}

static void range_cleanup(struct req *r)
{
	struct range *b = r->body;

	r->body = NULL;
	if (b == NULL) return;
	fair_leave(b->local->fair, &b->fair);
	b->r = NULL;
	body_unref(b);
}

static const struct req_step range_steps[] = { { "parse", range_parse }, { "open", range_open },
	{ "check", range_check }, { "run", range_run } };
const struct req_kind range_kind = {
	.op = OP_RANGE,
	.name = "range",
	.action = GRANT_READ,
	.is_judged = true,
	.steps = range_steps,
	.step_count = 4,
	.cleanup = range_cleanup,
};
