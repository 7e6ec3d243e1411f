/* SPDX-License-Identifier: Apache-2.0 */
/* writer.c -- takes appends, finds the writer of their group, lays records out in its open pack.
 * Invariants: writer.h's, and: (1) a writer's work is done once a turn of the loop (core_turn), so
 * what arrives in one turn shares a flush; (2) a writer with queued appends is on `ready`, or waits
 * for exactly one of: a new pack, space, staging memory, each of which calls writer_ready(); (3)
 * nothing here blocks. */
#include "pack/writer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/error.h"
#include "common/hash.h"
#include "meta/kv.h"
#include "pack/format.h"
#include "pack/writer_priv.h"
#include "tier/packs.h"

enum place { PLACE_DONE, PLACE_WAIT, PLACE_AGAIN };

void writers_busy(struct writers *writers, int64_t delta)
{
	uint64_t before = atomic_fetch_add(&writers->busy, (uint64_t)delta);

	assert((int64_t)before + delta >= 0);
	(void)before;
}

/* ---- writers of a core ---- */

static struct writer **bucket_of(struct writer_core *core, uint64_t group)
{
	return &core->buckets[(hash_u64(group) >> 32) & (WRITER_BUCKETS - 1)];
}

static struct writer *core_writer(struct writer_core *core, uint64_t group)
{
	struct writer **bucket = bucket_of(core, group);
	struct writer *w = *bucket;

	while (w != NULL && w->group != group)
		w = w->chain;
	if (w == NULL) {
		w = calloc(1, sizeof(*w));
		if (w == NULL)
			return NULL;
		w->core = core;
		w->group = group;
		w->chain = *bucket;
		*bucket = w;
		list_init(&w->use);
		list_init(&w->ready);
	}
	list_remove(&w->use);
	list_push(&core->writers_list, &w->use);
	return w;
}

static bool writer_is_idle(const struct writer *w)
{
	return w->queue == NULL && w->flushes == NULL && !w->creating && !w->gathering;
}

static void writer_free(struct writer *w)
{
	struct writer **at = bucket_of(w->core, w->group);

	assert(writer_is_idle(w) && w->current == NULL && w->next == NULL);
	while (*at != w)
		at = &(*at)->chain;
	*at = w->chain;
	list_remove(&w->use);
	list_remove(&w->ready);
	free(w);
}

static void core_schedule(struct writer_core *core)
{
	if (core->turn_posted)
		return;
	core->turn_posted = true;
	writers_busy(core->writers, 1);
	reactor_defer(core->reactor, &core->turn_task);
}

void writer_ready(struct writer *w)
{
	list_remove(&w->ready);
	list_push(&w->core->ready, &w->ready);
	core_schedule(w->core);
}

static void queue_push(struct writer *w, struct pack_append *a)
{
	a->next = NULL;
	if (w->queue_last != NULL)
		w->queue_last->next = a;
	else
		w->queue = a;
	w->queue_last = a;
}

void writer_queue_first(struct writer *w, struct pack_append *first, struct pack_append *last)
{
	last->next = w->queue;
	w->queue = first;
	if (w->queue_last == NULL)
		w->queue_last = last;
}

static struct pack_append *queue_pop(struct writer *w)
{
	struct pack_append *a = w->queue;

	w->queue = a->next;
	if (w->queue == NULL)
		w->queue_last = NULL;
	a->next = NULL;
	return a;
}

static void queue_fail(struct writer *w, int err)
{
	while (w->queue != NULL)
		append_finish(w->core->writers, queue_pop(w), err);
}

/* ---- layout ---- */

static void flush_copy(struct flush *f, uint32_t at, const uint8_t *src, size_t len)
{
	while (len > 0) {
		size_t room = CHUNK_SIZE - at % CHUNK_SIZE, n = len < room ? len : room;

		memcpy(flush_at(f, at), src, n);
		at += (uint32_t)n;
		src += n;
		len -= n;
	}
}

static void flush_gap(struct flush *f, uint32_t gap)
{
	uint8_t *p;

	if (gap == 0)
		return;
	/* A gap ends at a 4 KiB line and is shorter than one: it lies in one chunk. */
	p = flush_at(f, f->len);
	if (gap >= PACK_RECORD_HEADER_SIZE)
		filler_encode(p, gap);
	else
		memset(p, 0, gap);
	f->len += gap;
	f->wpack->padding += gap;
}

static void record_index(struct flush *f, const struct pack_append *a, const uint8_t *head, uint32_t header_len)
{
	struct footer_entry e = { .object_id = a->object_id, .version = a->version, .dir_id = a->dir_id,
		.offset = f->base + f->len, .data_len = a->data_len, .header_len = header_len,
		.header_crc = record_header_crc(head) };

	wpack_index_add(f->wpack, &e);
}

static void flush_record(struct flush *f, const struct pack_append *a, uint32_t header_len, uint64_t total)
{
	static const uint8_t zeros[8];
	struct record r = { .kind = RECORD_DATA, .flags = a->whole ? RECORD_WHOLE : 0, .data_len = a->data_len,
		.stored_len = a->data_len, .generation = a->generation, .object_id = a->object_id,
		.version = a->version, .dir_id = a->dir_id, .logical = a->logical, .key = a->key, .name = a->name,
		.attrs = a->attrs, .crcs = a->crcs };
	bool fits = f->len % CHUNK_SIZE + header_len <= CHUNK_SIZE;
	uint8_t *head = fits ? flush_at(f, f->len) : f->writer->core->scratch;
	int err = record_encode(&r, head, header_len);

	assert(err == 0); /* append_is_sound() */
	(void)err;
	if (!fits)
		flush_copy(f, f->len, head, header_len);
	record_index(f, a, head, header_len);
	flush_copy(f, f->len + header_len, a->data, a->data_len);
	flush_copy(f, f->len + header_len + a->data_len, zeros, (size_t)(total - header_len - a->data_len));
	f->len += (uint32_t)total;
}

/* FORMAT 3.4: where a record of `total` bytes goes when `at` is free. */
static uint32_t gap_before(const struct wpack *wp, uint64_t at, uint64_t total)
{
	uint32_t in_line = (uint32_t)(at % PACK_BLOCK);
	uint32_t gap = PACK_BLOCK - in_line;

	if (total > PACK_BLOCK || in_line + total <= PACK_BLOCK)
		return 0;
	return (wp->padding + gap) * 10 <= at - PACK_DATA_START ? gap : 0;
}

static bool flush_fits(const struct flush *f, uint32_t gap, uint64_t total)
{
	return f->len + gap + total <= (uint64_t)FLUSH_CHUNKS_MAX * CHUNK_SIZE;
}

/* Staging memory for the bytes up to f->len + more. */
static bool flush_grow(struct flush *f, uint64_t more)
{
	uint32_t want = (uint32_t)((f->len + more + CHUNK_SIZE - 1) / CHUNK_SIZE);

	if (want <= f->chunk_count)
		return true;
	if (!staging_take(f->writer->core, f->chunks + f->chunk_count, want - f->chunk_count))
		return false;
	f->chunk_count = want;
	return true;
}

static void append_placed(struct flush *f, struct pack_append *a, uint32_t header_len, uint64_t total)
{
	a->pack = f->wpack->pack;
	a->at = f->base + f->len - total;
	a->end = f->base + f->len;
	a->total_len = total;
	a->extent = (struct extent){ .pack = pack_id_of(a->pack), .record = a->at, .skip = header_len,
		.length = a->data_len, .logical = a->logical, .crc_count = crc_block_count(a->data_len),
		.crcs = a->crcs };
	packs_pending(a->pack, 1);
	a->next = NULL;
	if (f->last != NULL)
		f->last->next = a;
	else
		f->first = a;
	f->last = a;
	if (f->count++ == 0)
		f->opened_ns = io_now_ns(reactor_io(f->writer->core->reactor));
	if (a->flushed == NULL)
		return;
	f->lazy_count++;
	packs_lazy(a->pack, 1);
	a->err = 0;
	reactor_post(a->notify, &a->done);
}

/* ---- placing ---- */

/* false: not now. */
static bool writer_rotate(struct writer *w)
{
	struct wpack *wp = w->current;

	if (wp == NULL)
		return true;
	if (w->open != NULL && w->open->first == NULL) {
		/* It was opened for a record that then waited for memory. */
		assert(w->flushes_last == w->open && w->open->len == 0);
		return false;
	}
	flush_close(w);
	w->current = NULL;
	w->ahead_failed = false;
	wpack_retire(wp);
	return true;
}

static void writer_drop_next(struct writer *w)
{
	struct wpack *next = w->next;

	w->next = NULL;
	wpack_retire(next);
}

/* Past open_max the writer of this core that was used longest ago and has nothing to do gives its
 * pack up. */
static void core_make_room(struct writer_core *core)
{
	if (atomic_load(&core->writers->open_count) < core->writers->o.open_max)
		return;
	list_for(at, &core->writers_list) {
		struct writer *w = container_of(at, struct writer, use);

		if (w->current == NULL || !writer_is_idle(w))
			continue;
		(void)writer_rotate(w);
		writer_ready(w);
		return;
	}
}

/* A pack to append to: PLACE_DONE when there is one. */
static enum place writer_need_pack(struct writer *w)
{
	int err = w->create_err;

	if (w->current != NULL && !pack_may_append(w->current->pack))
		(void)writer_rotate(w);
	if (w->current != NULL)
		return PLACE_DONE;
	if (w->next != NULL && !pack_may_append(w->next->pack))
		writer_drop_next(w);
	if (w->next != NULL) {
		w->current = w->next;
		w->next = NULL;
		w->create_waited = false;
		return PLACE_DONE;
	}
	if (w->creating)
		return PLACE_WAIT;
	if (err < 0 && w->create_waited) {
		w->create_err = 0;
		w->create_waited = false;
		queue_fail(w, err);
		return PLACE_AGAIN;
	}
	w->create_waited = true;
	core_make_room(w->core);
	wpack_create(w);
	return PLACE_WAIT;
}

/* Space for the bytes up to `end` of the current pack, and for what will come. */
static enum place writer_need_space(struct writer *w, uint64_t end)
{
	struct wpack *wp = w->current;
	int err = wp->allocate_err;

	if (end <= wp->allocated && end + ALLOCATE_AHEAD > wp->allocated && !wp->ahead_failed &&
	    wp->allocated < packs_size(w->core->writers->o.packs))
		wpack_allocate(wp, wp->allocated + 1, false);
	if (end <= wp->allocated)
		return PLACE_DONE;
	if (!wp->allocating && err < 0) {
		wp->allocate_err = 0;
		wp->allocate_waited = false;
		/* Its drive is full, or fails: what is there already stays, and another drive goes on. A new pack
		 * begins with space for any record. */
		if (packs_room(w->core->writers->o.packs, PACKS_STEP) == 0 && writer_rotate(w))
			return PLACE_AGAIN;
		queue_fail(w, err);
		return PLACE_AGAIN;
	}
	wpack_allocate(wp, end, true);
	return PLACE_WAIT;
}

static void writer_look_ahead(struct writer *w)
{
	uint64_t size = packs_size(w->core->writers->o.packs);
	struct wpack *wp = w->current;
	uint64_t end = w->open ? w->open->base + w->open->len : wp->end;

	if (end > size - size / 4 && w->next == NULL && !w->creating && !w->ahead_failed)
		wpack_create(w);
}

/* The flush that takes a record of `total` bytes; *gap goes before it. NULL: no memory. */
static struct flush *writer_need_flush(struct writer *w, uint64_t total, uint32_t *gap)
{
	struct flush *f = w->open;

	if (f != NULL && !flush_fits(f, *gap, total)) {
		flush_close(w);
		f = NULL;
	}
	if (f == NULL) {
		*gap = 0;
		f = flush_open(w, w->current);
	}
	return f;
}

static enum place writer_place(struct writer *w, struct pack_append *a)
{
	uint32_t header_len = record_header_len(a->key.len, a->name.len, a->attrs.len, a->data_len), gap;
	uint64_t total = record_total_len(header_len, a->data_len), at, end;
	enum place p = writer_need_pack(w);
	struct flush *f;

	if (p != PLACE_DONE)
		return p;
	at = w->open ? w->open->base + w->open->len : w->current->end;
	gap = gap_before(w->current, at, total);
	if (at + gap + total > packs_size(w->core->writers->o.packs) && at > PACK_DATA_START) {
		return writer_rotate(w) ? PLACE_AGAIN : PLACE_WAIT;
	}
	/* To the end of the line: the flush is padded. A fresh flush may begin up to a line later.
	 * */
	end = (at + gap + total + 2 * PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1);
	p = writer_need_space(w, end);
	if (p != PLACE_DONE)
		return p;
	f = writer_need_flush(w, total, &gap);
	if (f == NULL) {
		append_finish(w->core->writers, queue_pop(w), -GRANARY_ENOMEM);
		return PLACE_AGAIN;
	}
	w->wants_memory = !flush_grow(f, gap + total);
	if (w->wants_memory) {
		writers_flush(w->core->writers); /* it may be what nobody waits for that has it */
		return PLACE_WAIT;
	}
	queue_pop(w);
	flush_gap(f, gap);
	flush_record(f, a, header_len, total);
	append_placed(f, a, header_len, total);
	writer_look_ahead(w);
	return PLACE_DONE;
}

static void writer_turn(struct writer *w)
{
	while (w->queue != NULL && writer_place(w, w->queue) != PLACE_WAIT)
		;
	writer_launch(w);
	if (writer_is_idle(w) && w->current == NULL && w->next == NULL)
		writer_free(w);
}

/* ---- the core's turn, mail ---- */

static void core_register(struct writer_core *core)
{
	struct pool *pool = &core->writers->pool;

	if (core->registered)
		return;
	core->registered = true;
	(void)io_register_memory(reactor_io(core->reactor), pool->memory, (size_t)pool->count * CHUNK_SIZE);
}

/* Whoever the pool waits for must still want memory: its appends may have failed meanwhile. */
static void core_unclaim(struct writer_core *core)
{
	if (!core->claims)
		return;
	list_for(at, &core->writers_list) {
		const struct writer *w = container_of(at, struct writer, use);

		if (w->wants_memory && w->queue != NULL)
			return;
	}
	pool_unclaim(core);
}

static void core_turn(struct task *task)
{
	struct writer_core *core = container_of(task, struct writer_core, turn_task);
	struct list todo, *at;

	core->turn_posted = false;
	core_register(core);
	list_init(&todo);
	list_splice(&todo, &core->ready);
	while ((at = list_pop(&todo)) != NULL)
		writer_turn(container_of(at, struct writer, ready));
	core_unclaim(core);
	writers_busy(core->writers, -1);
}

/* Staging memory came back: everyone who has something queued tries again. */
static void core_wake(struct task *task)
{
	struct writer_core *core = container_of(task, struct writer_core, wake_task);

	list_for(at, &core->writers_list) {
		struct writer *w = container_of(at, struct writer, use);

		if (w->queue != NULL)
			writer_ready(w);
	}
	writers_busy(core->writers, -1);
}

static bool append_is_sound(const struct pack_append *a)
{
	return a->data_len <= EXTENT_LEN_MAX && a->key.len <= UINT16_MAX && a->name.len <= UINT16_MAX &&
	       a->attrs.len <= UINT16_MAX;
}

static void core_take(struct writer_core *core, struct pack_append *first)
{
	struct writer *w = NULL;
	struct pack_append *next;

	for (struct pack_append *a = first; a != NULL; a = next) {
		next = a->next;
		if (!append_is_sound(a)) {
			append_finish(core->writers, a, -GRANARY_ETOOBIG);
			continue;
		}
		if (w == NULL || w->group != a->group) {
			w = core_writer(core, a->group);
			if (w == NULL) {
				append_finish(core->writers, a, -GRANARY_ENOMEM);
				continue;
			}
			w->last_ns = io_now_ns(reactor_io(core->reactor));
			writer_ready(w);
		}
		queue_push(w, a);
	}
}

static struct writer_core *core_of(struct writers *writers, const struct pack_append *a)
{
	if (a->flushed != NULL)
		return &writers->cores[reactor_index(reactor_self())];
	return &writers->cores[hash_u64(a->group) % writers->o.reactor_count];
}

static void on_mail(struct task *task)
{
	struct pack_append *a = container_of(task, struct pack_append, mail);

	core_take(core_of(a->owner, a), a);
}

void pack_append(struct writers *writers, struct pack_append *first)
{
	while (first != NULL) {
		struct writer_core *core = core_of(writers, first);
		struct pack_append *last = first, *rest;
		int64_t count = 1;

		for (rest = first->next; rest != NULL && core_of(writers, rest) == core; rest = rest->next) {
			last->buffer = 0;
			last->txn = NULL;
			last = rest;
			count++;
		}
		last->buffer = 0;
		last->txn = NULL;
		last->next = NULL;
		writers_busy(writers, count);
		if (atomic_load(&writers->stopping)) {
			for (struct pack_append *a = first, *next; a != NULL; a = next) {
				next = a->next;
				append_finish(writers, a, -GRANARY_ESHUTDOWN);
			}
		} else if (core->reactor == reactor_self()) {
			core_take(core, first);
		} else {
			first->owner = writers;
			first->mail.fn = on_mail;
			reactor_post(core->reactor, &first->mail);
		}
		first = rest;
	}
}

void pack_append_settled(struct pack_append *a)
{
	assert(a->err == 0 && a->pack != NULL);
	packs_pending(a->pack, -1);
	if (a->flushed != NULL)
		packs_lazy(a->pack, -1);
	a->pack = NULL;
}

void writers_account(struct kv_txn *txn, const struct pack_append *const *appends, uint32_t n)
{
	uint8_t key[ROW_KEY_MAX];

	for (uint32_t i = 0, to; i < n; i = to) {
		uint64_t pack = appends[i]->extent.pack, total = 0, end = 0;

		for (to = i; to < n && appends[to]->extent.pack == pack; to++) {
			total += appends[to]->total_len;
			end = appends[to]->end > end ? appends[to]->end : end;
		}
		struct slice row = row_pack(key, pack);

		kv_max(txn, row, PTAG_END, end);
		kv_add(txn, row, PTAG_TOTAL, (int64_t)total);
		kv_add(txn, row, PTAG_RECORDS, (int64_t)(to - i));
	}
}

/* ---- what nobody waits for ---- */

static void on_hurry(struct task *task)
{
	struct writer_core *core = container_of(task, struct writer_core, hurry_task);

	atomic_store(&core->hurry_posted, false);
	list_for(at, &core->writers_list) {
		struct writer *w = container_of(at, struct writer, use);

		w->is_hurried = w->flushes != NULL;
		if (w->is_hurried)
			writer_ready(w);
	}
	writers_busy(core->writers, -1);
}

void writers_flush(struct writers *writers)
{
	for (uint32_t i = 0; i < writers->o.reactor_count; i++) {
		struct writer_core *core = &writers->cores[i];

		if (atomic_exchange(&core->hurry_posted, true))
			continue;
		writers_busy(writers, 1);
		core->hurry_task.fn = on_hurry;
		reactor_post(core->reactor, &core->hurry_task);
	}
}

/* ---- rotation, start, stop ---- */

struct rotation {
	struct task task;
	struct writer_core *core;
	bool all;
};

static void rotate_one(struct writer *w, bool all)
{
	uint64_t idle_ns = w->core->writers->o.idle_seal_ns;
	uint64_t now = io_now_ns(reactor_io(w->core->reactor));

	if (w->current != NULL && !pack_may_append(w->current->pack))
		all = true;
	if (!all && (idle_ns == 0 || !writer_is_idle(w) || now - w->last_ns < idle_ns))
		return;
	(void)writer_rotate(w);
	if (w->next != NULL && w->queue == NULL)
		writer_drop_next(w);
	writer_ready(w);
}

static void on_rotate(struct task *task)
{
	struct rotation *r = container_of(task, struct rotation, task);
	struct writers *writers = r->core->writers;

	list_for_safe(at, tmp, &r->core->writers_list)
		rotate_one(container_of(at, struct writer, use), r->all);
	free(r);
	writers_busy(writers, -1);
}

void writers_rotate(struct writers *writers, bool all)
{
	for (uint32_t i = 0; i < writers->o.reactor_count; i++) {
		struct rotation *r = malloc(sizeof(*r));

		if (r == NULL)
			return; /* the next pass asks again */
		*r = (struct rotation){ .task.fn = on_rotate, .core = &writers->cores[i], .all = all };
		writers_busy(writers, 1);
		reactor_post(writers->cores[i].reactor, &r->task);
	}
}

int writers_new(const struct writers_options *options, struct writers **out)
{
	struct writers *writers = calloc(1, sizeof(*writers) + options->reactor_count * sizeof(writers->cores[0]));
	uint64_t budget;
	int err;

	*out = NULL;
	if (writers == NULL)
		return -GRANARY_ENOMEM;
	writers->o = *options;
	if (writers->o.open_max == 0)
		writers->o.open_max = 64;
	budget = options->buffer_budget ? options->buffer_budget : UINT64_C(64) << 20;
	writers->index_budget = budget / INDEX_SHARE;
	err = staging_init(&writers->pool, budget - writers->index_budget);
	for (uint32_t i = 0; i < options->reactor_count; i++) {
		struct writer_core *core = &writers->cores[i];

		core->writers = writers;
		core->reactor = options->reactors[i];
		core->turn_task.fn = core_turn;
		core->wake_task.fn = core_wake;
		core->tell_task.fn = core_tell;
		list_init(&core->writers_list);
		list_init(&core->ready);
		core->scratch = malloc(SCRATCH_SIZE);
		if (core->scratch == NULL)
			err = -GRANARY_ENOMEM;
	}
	if (err < 0)
		writers_free(&writers);
	*out = writers;
	return err;
}

static void core_release(struct writer_core *core)
{
	struct list *at;

	while ((at = core->writers_list.next) != &core->writers_list) {
		struct writer *w = container_of(at, struct writer, use);

		wpack_release(&w->current);
		wpack_release(&w->next);
		writer_free(w);
	}
	for (struct flush *f = core->spare, *next; f != NULL; f = next) {
		next = f->next;
		free(f);
	}
	free(core->scratch);
}

void writers_stop(struct writers *writers)
{
	if (!atomic_exchange(&writers->stopping, true))
		writers_flush(writers);
}
bool writers_idle(const struct writers *writers) { return atomic_load(&writers->busy) == 0; }

void writers_free(struct writers **wp)
{
	struct writers *writers = *wp;
	struct timespec pause = { .tv_nsec = 200 * 1000 };

	*wp = NULL;
	if (writers == NULL)
		return;
	writers_stop(writers);
	while (!writers_idle(writers))
		nanosleep(&pause, NULL);
	for (uint32_t i = 0; i < writers->o.reactor_count; i++)
		core_release(&writers->cores[i]);
	staging_release(&writers->pool);
	free(writers);
}
