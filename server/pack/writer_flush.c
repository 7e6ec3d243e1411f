/* SPDX-License-Identifier: Apache-2.0 */
/* writer_flush.c -- a group of records on its way to the disk: one write a chunk, all at once, then
 * an fdatasync that may cover several groups, then every append of them is done.
 * Invariants: (1) flushes of a writer are settled in order, so all below a durable byte is durable;
 * (2) writes overlap one another and a sync, but one sync of a writer is under way at a time, begun
 * after the last write of each flush that it covers: an error is never reported to the wrong sync;
 * (3) memory is given back only when no op uses it; (4) a failed write or sync is never tried again
 * on that file (contract F): the pack is broken, what was not acknowledged goes to a new pack or
 * fails; (5) what flies is of one pack. */
#include "pack/writer_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "meta/kv.h"
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

/* Submits what was made early, in one go; returns the appends without a transaction. */
static struct pack_append *flush_commit(struct writers *writers, struct pack_append *a)
{
	struct pack_append *rest = NULL, **last = &rest, *next;
	struct kv_bundle bundle = { NULL, NULL };
	int64_t count = 0;

	for (; a != NULL; a = next) {
		next = a->next;
		if (a->txn != NULL) {
			kv_bundle_add(&bundle, a->txn, a->notify, a->committed);
			count++;
			continue;
		}
		*last = a;
		last = &a->next;
	}
	*last = NULL;
	if (count > 0)
		kv_bundle_submit(writers->o.kv, &bundle); /* its appends are the callers' after this line */
	writers_busy(writers, -count);
	return rest;
}

/* Runs of appends that notify the same reactor go in one mail. */
static void flush_notify(struct writers *writers, struct pack_append *a)
{
	int64_t count = 0;

	a = flush_commit(writers, a);
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

/* Tells those that nobody waited for; returns the others. */
static struct pack_append *flush_tell_lazy(struct writers *writers, struct pack_append *a)
{
	struct pack_append *rest = NULL, **last = &rest, *next;
	int64_t count = 0;

	for (; a != NULL; a = next) {
		next = a->next;
		if (a->flushed != NULL) {
			count++;
			a->flushed(a, 0); /* a is the caller's after this line */
			continue;
		}
		a->err = 0;
		*last = a;
		last = &a->next;
	}
	*last = NULL;
	writers_busy(writers, -count);
	return rest;
}

/* Settles the head of the line. */
static void flush_succeeded(struct flush *f)
{
	struct writer *w = f->writer;
	struct pack_append *first = f->first;

	f->wpack->durable = f->base + f->len;
	w->flying--;
	flush_free(f);
	flush_notify(w->core->writers, flush_tell_lazy(w->core->writers, first));
}

static void append_lost(struct writers *writers, struct pack_append *a)
{
	if (a->pack != NULL)
		pack_append_settled(a);
	a->flushed(a, -GRANARY_EIO);
	writers_busy(writers, -1);
}

/* Takes the appends out of f for another pack; those that had their tries fail. */
static void flush_requeue(struct flush *f, struct pack_append **first, struct pack_append **last)
{
	struct pack_append *next;

	for (struct pack_append *a = f->first; a != NULL; a = next) {
		next = a->next;
		a->next = NULL;
		if (a->flushed != NULL) {
			append_lost(f->writer->core->writers, a);
			continue;
		}
		packs_pending(a->pack, -1);
		a->pack = NULL;
		if (a->txn != NULL)
			a->unplaced(a);
		a->txn = NULL;
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

/* Nothing of the broken pack is in the kernel's hands any more: everything of it goes elsewhere. */
static void wpack_failed(struct writer *w, struct wpack *wp)
{
	struct pack_append *first = NULL, *last = NULL;

	w->flying = 0;
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
}

static void flush_failed(struct flush *f, int err)
{
	struct writer *w = f->writer;
	struct wpack *wp = f->wpack;

	log_error("cannot flush to a pack: %s; pack=%016" PRIx64 " offset=%" PRIu64 " bytes=%u", error_text(err),
		pack_id_of(wp->pack), f->base, f->len);
	wp->broken = true;
	if (w->open != NULL && w->open->wpack == wp)
		flush_close(w);
	if (w->current == wp)
		w->current = NULL;
	wp->retired = true;
}

static void on_synced(struct io_op *op);

/* One op of the writer came back: syncs what is written, or ends the broken pack. */
static void writer_flew(struct writer *w, struct wpack *wp)
{
	struct flush *last = NULL;

	if (wp->broken) {
		if (w->ops_pending == 0)
			wpack_failed(w, wp);
	} else if (!w->syncing) {
		for (struct flush *f = w->flushes; f != NULL && f->is_written; f = f->next) {
			f->is_syncing = true;
			last = f;
		}
		if (last != NULL) {
			w->syncing = true;
			w->ops_pending++;
			last->ops[0].op.done = on_synced;
			io_fdatasync(reactor_io(w->core->reactor), &last->ops[0].op, wp->file);
		}
	}
	writer_ready(w);
}

static void on_synced(struct io_op *op)
{
	struct flush *f = container_of(op, struct flush_op, op)->flush;
	struct writer *w = f->writer;
	struct wpack *wp = f->wpack;
	/* On a drive that went meanwhile, nobody knows where it went. */
	int err = op->res < 0 ? (int)op->res : pack_may_write(wp->pack) ? 0 : -GRANARY_EOFFLINE;
	bool is_sound = err == 0 && !wp->broken;

	w->syncing = false;
	w->ops_pending--;
	if (err < 0)
		flush_failed(f, err);
	wp->flushes += is_sound; /* holds wp while its flushes leave */
	while (is_sound && w->flushes != NULL && w->flushes->is_syncing)
		flush_succeeded(w->flushes);
	writer_flew(w, wp);
	wp->flushes -= is_sound;
	if (is_sound)
		wpack_unused(wp);
}

static void on_written(struct io_op *op)
{
	struct flush *f = container_of(op, struct flush_op, op)->flush;
	struct writer *w = f->writer;

	w->ops_pending--;
	if (op->res < 0)
		flush_failed(f, (int)op->res);
	f->is_written = --f->ops_pending == 0;
	if (f->is_written || f->wpack->broken)
		writer_flew(w, f->wpack);
}

static void on_gathered(struct io_op *op)
{
	struct writer *w = container_of(op, struct writer, gather_op);

	w->gathering = false;
	writer_ready(w);
	writers_busy(w->core->writers, -1);
}

/* A flush costs as much for one record as for thirty. Where many appends come at once, each answered one is followed
 * by the next of its client within microseconds: so a small flush waits, GATHER_NS at most, until half of those that
 * were outstanding lately are in it; the other half is being committed meanwhile. One client alone never waits. */
static bool flush_wants_more(struct writer *w, const struct flush *f)
{
	struct io *io = reactor_io(w->core->reactor);
	int64_t outstanding = packs_pending_count(f->wpack->pack) - packs_lazy_count(f->wpack->pack);
	uint64_t until_ns = f->opened_ns + GATHER_NS;

	if (outstanding > w->peak)
		w->peak = (uint32_t)outstanding;
	if (f != w->open || w->queue != NULL || f->count >= w->peak / 2 || f->len >= FLIGHT_MIN ||
	    io_now_ns(io) >= until_ns) {
		w->peak -= (w->peak + 15) / 16;
		return false;
	}
	if (!w->gathering) {
		w->gathering = true;
		writers_busy(w->core->writers, 1);
		w->gather_op.done = on_gathered;
		io_timer(io, &w->gather_op, until_ns);
	}
	return true;
}

/* Nobody waits for it: it gathers until it is worth a write, or somebody asks. */
static bool flush_is_lazy(const struct writer *w, const struct flush *f)
{
	return f == w->open && f->lazy_count == f->count && f->len < FLIGHT_MIN && !w->is_hurried;
}

/* A flush is launched when nothing flies; beside another one of its pack once it is worth a write of its own: small
 * ones gather what comes meanwhile. */
static bool flush_may_launch(struct writer *w, const struct flush *f)
{
	if (flush_is_lazy(w, f))
		return false;
	if (w->flying == 0)
		return w->is_hurried || !flush_wants_more(w, f);
	return w->flying < FLIGHTS_MAX && f->wpack == w->flushes->wpack && !f->wpack->broken && f->len >= FLIGHT_MIN;
}

static void flush_tell(struct flush *f)
{
	if (f->is_told)
		return;
	f->is_told = true;
	for (struct pack_append *a = f->first; a != NULL; a = a->next)
		if (a->placed != NULL)
			a->txn = a->placed(a);
}

/* The kernel has the writes by now: what the appends do meanwhile costs no time. Of a flush that was faster than this
 * task, or failed, nobody is told. */
void core_tell(struct task *task)
{
	struct writer_core *core = container_of(task, struct writer_core, tell_task);

	core->tell_posted = false;
	list_for(at, &core->writers_list) {
		const struct writer *w = container_of(at, struct writer, use);
		struct flush *f = w->flushes;

		for (uint32_t i = 0; i < w->flying && !f->wpack->broken; i++, f = f->next)
			flush_tell(f);
	}
	writers_busy(core->writers, -1);
}

static void core_tell_later(struct writer_core *core)
{
	if (core->tell_posted || core->writers->o.kv == NULL)
		return;
	core->tell_posted = true;
	writers_busy(core->writers, 1);
	reactor_defer(core->reactor, &core->tell_task);
}

static void flush_launch(struct flush *f)
{
	struct writer *w = f->writer;
	struct io *io = reactor_io(w->core->reactor);

	if (f == w->open)
		flush_close(w);
	assert(f->len > 0 && f->first != NULL && f->base + f->len <= f->wpack->allocated);
	w->flying++;
	f->ops_pending = (f->len + CHUNK_SIZE - 1) / CHUNK_SIZE;
	w->ops_pending += f->ops_pending;
	for (uint32_t i = 0, n = f->ops_pending; i < n; i++) {
		uint32_t at = i * CHUNK_SIZE;
		uint32_t len = f->len - at < CHUNK_SIZE ? f->len - at : CHUNK_SIZE;

		memset(&f->ops[i].op, 0, sizeof(f->ops[i].op));
		f->ops[i].flush = f;
		f->ops[i].op.done = on_written;
		io_write(io, &f->ops[i].op, f->wpack->file, flush_at(f, at), len, f->base + at);
	}
	core_tell_later(w->core);
}

void writer_launch(struct writer *w)
{
	struct flush *f = w->flushes;

	for (uint32_t i = 0; f != NULL && i < w->flying; i++)
		f = f->next;
	while (f != NULL && f->first != NULL && flush_may_launch(w, f)) {
		struct flush *next = f->next;

		flush_launch(f);
		f = next;
	}
	if (f == NULL || f->first == NULL)
		w->is_hurried = false;
}
