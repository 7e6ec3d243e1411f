/* SPDX-License-Identifier: Apache-2.0 */
/* writer_flush.c -- a group of records on its way to the disk: one write a chunk, all at once, then
 * one fdatasync, then every append of it is done.
 * Invariants: (1) one flush of a writer flies at a time, in order, so all below a durable byte is
 * durable; (2) memory is given back only when no op uses it; (3) a failed write or sync is never
 * tried again on that file (contract F): the pack is broken, what was not acknowledged goes to a
 * new pack or fails. */
#include "pack/writer_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "pack/format.h"
#include "tier/packs.h"

uint8_t *flush_at(struct flush *f, uint32_t offset)
{
	assert(offset / CHUNK_SIZE < f->chunk_count);
	return f->writer->core->writers->pool.memory + (size_t)f->chunks[offset / CHUNK_SIZE] * CHUNK_SIZE +
	       offset % CHUNK_SIZE;
}

static uint64_t line_up(uint64_t at) { return (at + PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1); }

struct flush *flush_open(struct writer *w, struct wpack *wp)
{
	struct flush *f = w->core->spare;

	assert(w->open == NULL && wp->end % PACK_BLOCK == 0 && !wp->retired);
	if (f != NULL)
		w->core->spare = f->next;
	else
		f = malloc(sizeof(*f));
	if (f == NULL)
		return NULL;
	memset(f, 0, offsetof(struct flush, ops));
	f->writer = w;
	f->wpack = wp;
	f->base = wp->end;
	wp->flushes++;
	if (w->flushes_last != NULL)
		w->flushes_last->next = f;
	else
		w->flushes = f;
	w->flushes_last = f;
	w->open = f;
	return f;
}

void flush_close(struct writer *w)
{
	struct flush *f = w->open;
	uint32_t padded;

	if (f == NULL)
		return;
	w->open = NULL;
	padded = (uint32_t)line_up(f->len);
	if (padded > f->len)
		memset(flush_at(f, f->len), 0, padded - f->len);
	f->wpack->padding += padded - f->len;
	f->len = padded;
	f->wpack->end = f->base + padded;
}

void append_finish(struct writers *writers, struct pack_append *a, int err)
{
	struct reactor *notify = a->notify;

	a->err = err;
	reactor_post(notify, &a->done); /* a is the caller's after this line */
	writers_busy(writers, -1);
}

static void flush_free(struct flush *f)
{
	struct writer *w = f->writer;

	assert(w->flushes == f && w->open != f);
	w->flushes = f->next;
	if (w->flushes == NULL)
		w->flushes_last = NULL;
	if (f->chunk_count > 0)
		staging_give(w->core->writers, f->chunks, f->chunk_count);
	f->wpack->flushes--;
	wpack_unused(f->wpack);
	f->next = w->core->spare;
	w->core->spare = f;
}

/* Runs of appends that notify the same reactor go in one mail. */
static void flush_notify(struct writers *writers, struct pack_append *a)
{
	int64_t count = 0;

	while (a != NULL) {
		struct pack_append *last = a, *next = a->next;
		struct reactor *to = a->notify;

		count++;
		while (next != NULL && next->notify == to) {
			last->done.next = &next->done;
			last = next;
			next = next->next;
			count++;
		}
		reactor_post_list(to, &a->done, &last->done);
		a = next;
	}
	writers_busy(writers, -count);
}

static void flush_succeeded(struct flush *f)
{
	struct writer *w = f->writer;
	struct pack_append *first = f->first;

	f->wpack->durable = f->base + f->len;
	for (struct pack_append *a = first; a != NULL; a = a->next)
		a->err = 0;
	w->flying = false;
	flush_free(f);
	flush_notify(w->core->writers, first);
	writer_ready(w);
}

/* Takes the appends out of f for another pack; those that had their tries fail. */
static void flush_requeue(struct flush *f, struct pack_append **first, struct pack_append **last)
{
	struct pack_append *next;

	for (struct pack_append *a = f->first; a != NULL; a = next) {
		next = a->next;
		a->next = NULL;
		packs_pending(a->pack, -1);
		a->pack = NULL;
		if (++a->buffer > NEW_PACKS_MAX) {
			append_finish(f->writer->core->writers, a, -GRANARY_EIO);
			continue;
		}
		if (*last != NULL)
			(*last)->next = a;
		else
			*first = a;
		*last = a;
	}
	f->first = f->last = NULL;
}

static void flush_failed(struct flush *f)
{
	struct writer *w = f->writer;
	struct wpack *wp = f->wpack;
	struct pack_append *first = NULL, *last = NULL;

	log_error("cannot flush to a pack: %s; pack=%016" PRIx64 " offset=%" PRIu64 " bytes=%u", error_text(f->err),
		pack_id_of(wp->pack), f->base, f->len);
	w->flying = false;
	wp->broken = true;
	if (w->open != NULL && w->open->wpack == wp)
		flush_close(w);
	if (w->current == wp)
		w->current = NULL;
	wp->retired = true;
	/* Flushes are in order, so those of this pack are at the head. */
	while (w->flushes != NULL && w->flushes->wpack == wp) {
		bool is_last = wp->flushes == 1;

		flush_requeue(w->flushes, &first, &last);
		flush_free(w->flushes);
		if (is_last)
			break; /* wp is handed over */
	}
	if (first != NULL)
		writer_queue_first(w, first, last);
	writer_ready(w);
}

static void on_synced(struct io_op *op)
{
	struct flush *f = container_of(op, struct flush_op, op)->flush;

	f->err = op->res < 0 ? (int)op->res : 0;
	if (f->err == 0)
		flush_succeeded(f);
	else
		flush_failed(f);
}

static void on_written(struct io_op *op)
{
	struct flush *f = container_of(op, struct flush_op, op)->flush;

	if (op->res < 0 && f->err == 0)
		f->err = (int)op->res;
	if (--f->ops_pending > 0)
		return;
	if (f->err < 0) {
		flush_failed(f);
		return;
	}
	f->ops[0].op.done = on_synced;
	io_fdatasync(reactor_io(f->writer->core->reactor), &f->ops[0].op, f->wpack->file);
}

void flush_launch(struct writer *w)
{
	struct flush *f = w->flushes;
	struct io *io = reactor_io(w->core->reactor);

	if (f == NULL || w->flying)
		return;
	if (f == w->open)
		flush_close(w);
	assert(f->len > 0 && f->first != NULL && f->base + f->len <= f->wpack->allocated);
	w->flying = true;
	f->ops_pending = (f->len + CHUNK_SIZE - 1) / CHUNK_SIZE;
	for (uint32_t i = 0, n = f->ops_pending; i < n; i++) {
		uint32_t at = i * CHUNK_SIZE;
		uint32_t len = f->len - at < CHUNK_SIZE ? f->len - at : CHUNK_SIZE;

		memset(&f->ops[i].op, 0, sizeof(f->ops[i].op));
		f->ops[i].flush = f;
		f->ops[i].op.done = on_written;
		io_write(io, &f->ops[i].op, f->wpack->file, flush_at(f, at), len, f->base + at);
	}
}
