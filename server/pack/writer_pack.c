/* SPDX-License-Identifier: Apache-2.0 */
/* writer_pack.c -- the open pack of a writer: made, grown and ended on workers, so that no reactor
 * ever blocks. */
#include "pack/writer_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "common/error.h"
#include "common/log.h"
#include "pack/format.h"
#include "tier/packs.h"

/* ---- the footer to be, within INDEX_SHARE of the staging budget ---- */

void wpack_index_add(struct wpack *wp, const struct footer_entry *e)
{
	struct writers *writers = wp->core->writers;
	struct pack_index *x = &wp->index;

	if (x->is_lost)
		return;
	if (x->count == x->cap) {
		uint32_t more = x->cap == 0 ? INDEX_ENTRIES_MIN : x->cap;
		uint64_t size = (uint64_t)more * PACK_FOOTER_ENTRY_SIZE;
		uint8_t *grown = NULL;

		if (atomic_fetch_add(&writers->index_bytes, size) + size <= writers->index_budget)
			grown = realloc(x->entries, ((size_t)x->cap + more) * PACK_FOOTER_ENTRY_SIZE);
		if (grown == NULL) {
			atomic_fetch_sub(&writers->index_bytes, size);
			wpack_index_release(wp);
			x->is_lost = true;
			return;
		}
		x->entries = grown;
		x->cap += more;
	}
	footer_entry_encode(e, x->entries + (size_t)x->count * PACK_FOOTER_ENTRY_SIZE);
	x->count++;
	x->object_bytes += e->data_len;
}

void wpack_index_release(struct wpack *wp)
{
	atomic_fetch_sub(&wp->core->writers->index_bytes, (uint64_t)wp->index.cap * PACK_FOOTER_ENTRY_SIZE);
	free(wp->index.entries);
	wp->index = (struct pack_index){ 0 };
}

/* ---- making: worker, then the core ---- */

static void on_created(struct task *task)
{
	struct writer *w = container_of(task, struct writer, create_task);
	struct writers *writers = w->core->writers;
	struct wpack *wp = NULL;

	w->creating = false;
	w->create_err = w->create_result;
	if (w->create_err == 0)
		wp = calloc(1, sizeof(*wp));
	if (wp != NULL) {
		*wp = (struct wpack){ .writer = w, .core = w->core, .pack = w->created,
			.file = pack_file(w->created), .end = PACK_DATA_START, .durable = PACK_DATA_START,
			.allocated = packs_allocated(w->created) };
		assert(w->next == NULL && wp->file != NULL);
		w->next = wp;
	} else {
		if (w->created != NULL)
			packs_unref(writers->o.packs, w->created);
		if (w->create_err == 0)
			w->create_err = -GRANARY_ENOMEM;
		atomic_fetch_sub(&writers->open_count, 1);
		w->ahead_failed = true;
	}
	w->created = NULL;
	writer_ready(w);
	writers_busy(writers, -1);
}

static void create_work(struct task *task)
{
	struct writer *w = container_of(task, struct writer, create_task);

	w->create_result = packs_create(w->core->writers->o.packs, w->group, &w->created);
	task->fn = on_created;
	reactor_post(w->core->reactor, task);
}

void wpack_create(struct writer *w)
{
	struct writers *writers = w->core->writers;

	assert(!w->creating && w->next == NULL);
	w->creating = true;
	w->create_err = 0;
	w->created = NULL;
	atomic_fetch_add(&writers->open_count, 1);
	writers_busy(writers, 1);
	w->create_task.fn = create_work;
	workers_post(writers->o.workers, &w->create_task);
}

/* ---- growing ---- */

static void on_allocated(struct task *task)
{
	struct wpack *wp = container_of(task, struct wpack, task);
	struct writers *writers = wp->core->writers;

	wp->allocating = false;
	wp->allocate_err = wp->allocate_result;
	if (wp->allocate_err == 0)
		wp->allocated = wp->allocate_to;
	else if (!wp->allocate_waited) {
		wp->ahead_failed = true; /* nobody needed it yet; who does asks again */
		wp->allocate_err = 0;
	}
	if (!wp->retired)
		writer_ready(wp->writer);
	else
		wpack_unused(wp);
	writers_busy(writers, -1);
}

static void allocate_work(struct task *task)
{
	struct wpack *wp = container_of(task, struct wpack, task);

	wp->allocate_result = packs_allocate(wp->core->writers->o.packs, wp->pack, wp->allocate_to);
	task->fn = on_allocated;
	reactor_post(wp->core->reactor, task);
}

void wpack_allocate(struct wpack *wp, uint64_t end, bool waited)
{
	struct writers *writers = wp->core->writers;

	wp->allocate_waited |= waited;
	if (wp->allocating)
		return;
	wp->allocating = true;
	wp->allocate_waited = waited;
	wp->allocate_err = 0;
	wp->allocate_to = (end + 2 * ALLOCATE_AHEAD - 1) / (2 * ALLOCATE_AHEAD) * (2 * ALLOCATE_AHEAD);
	writers_busy(writers, 1);
	wp->task.fn = allocate_work;
	workers_post(writers->o.workers, &wp->task);
}

/* ---- ending ---- */

static void end_work(struct task *task)
{
	struct wpack *wp = container_of(task, struct wpack, task);
	struct writers *writers = wp->core->writers;
	uint64_t id = pack_id_of(wp->pack);
	int err = 0;

	packs_set_end(wp->pack, wp->durable);
	if (wp->broken)
		packs_set_broken(writers->o.packs, wp->pack);
	else
		err = pack_seal(writers->o.packs, id, wp->index.is_lost ? NULL : &wp->index);
	if (err < 0)
		log_warn("cannot seal a pack: %s; tried again by the next job pass; pack=%016" PRIx64, error_text(err),
			id);
	packs_unref(writers->o.packs, wp->pack);
	wpack_index_release(wp);
	free(wp);
	writers_busy(writers, -1);
}

void wpack_unused(struct wpack *wp)
{
	struct writers *writers = wp->core->writers;

	if (!wp->retired || wp->flushes > 0 || wp->allocating)
		return;
	atomic_fetch_sub(&writers->open_count, 1);
	writers_busy(writers, 1);
	wp->task.fn = end_work;
	workers_post(writers->o.workers, &wp->task);
}

void wpack_retire(struct wpack *wp)
{
	assert(!wp->retired);
	wp->retired = true;
	wpack_unused(wp);
}

void wpack_release(struct wpack **wpp)
{
	struct wpack *wp = *wpp;

	*wpp = NULL;
	if (wp == NULL)
		return;
	assert(wp->flushes == 0 && !wp->allocating);
	packs_unref(wp->core->writers->o.packs, wp->pack);
	wpack_index_release(wp);
	free(wp);
}
