/* SPDX-License-Identifier: Apache-2.0 */
/* reader.c -- misses become runs (one disk read each), runs become answers.
 *
 * run:  BUILT    reads taken from the queue: one pack, neighbours, all kept or all transient, a
 * reference on the pack
 *       OPENING  the pack's file is opened on a worker
 *       WAITING  no memory: at the head of `waiting` until cache_wait() says so
 *       READING  one io_read of the aligned superset; out of a cold copy: one copy_read_start of just what is wanted
 *       then each read is answered from io_run() or mail, never from inside read_start()
 * Invariants: (1) at most `depth` runs exist; (2) reads leave the queue in order, so nothing
 * starves; (3) the pack is referenced from BUILT to the end of READING; afterwards the bytes belong
 * to the cache's memory; (4) a unit enters the cache only if all of it was read; (5) an answer
 * of up to COPY_MAX bytes that the cache does not keep is a copy: whoever gathers small ones, while
 * others of the same request wait for memory, must not be who holds that memory. */
#include "pack/reader.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/list.h"
#include "io/fs.h"
#include "io/io.h"
#include "io/reactor.h"
#include "tier/copy.h"
#include "tier/heat.h"
#include "tier/packs.h"

enum { COPY_MAX = 16 * 1024, GAP_MAX = 16 * 1024, DEPTH_DEFAULT = 128, SLACK = 2 * 4096, UNITS_MAX = 2048 };

struct run {
	struct run *next;
	struct reader *reader;
	struct pack *pack;
	struct pack_read *first;   /* linked by next, ascending */
	uint32_t units;
	bool keep;
	int err;
	uint64_t lo, hi;           /* what is wanted of the file */
	uint64_t at;               /* what is read: lo rounded down */
	uint32_t len;
	struct cache_buf buf;
	struct io_op op;
	struct copy_read cold;
	struct task task;
};

struct reader {
	struct heat *heat;
	struct reader_options o;
	struct cache_local *local;
	struct io *io;
	struct run *runs, *free;
	struct run *waiting, **waiting_last;
	struct pack_read *queue, **queue_last;
	uint32_t busy_count;
	bool waits_for_memory;
	struct reader_stats stats;
	struct pack_read **sorted;  /* scratch of read_start */
	uint32_t sorted_cap;
};

/* ---- what a read wants of the file ---- */

static uint64_t read_lo(const struct pack_read *r, bool keep)
{
	return keep ? r->unit_offset : r->unit_offset + r->want_offset;
}

static uint64_t read_hi(const struct pack_read *r, bool keep)
{
	return keep ? r->unit_offset + r->unit_len : r->unit_offset + r->want_offset + r->want_len;
}

/* Most large objects are read from end to end, and once: whoever holds them all fills memory that is never looked at
 * again. What ends a unit that a read before this one began is no second time. */
static uint32_t misses_to_keep(const struct pack_read *r)
{
	bool is_rest = r->want_offset > 0 && r->want_offset + r->want_len == r->unit_len;

	return !r->large ? 1 : is_rest ? 0 : 2;
}

/* The decision is made once a read and kept in `run` until the read gets its run. */
static bool read_keep(const struct pack_read *r) { return r->run != NULL; }

static void read_decide(struct reader *reader, struct pack_read *r)
{
	bool keep = !r->bypass && cache_admit(reader->local, r->pack, r->unit_offset, r->unit_len, misses_to_keep(r));

	r->run = keep ? reader : NULL;
}

/* ---- answers ---- */

static void run_free(struct run *run)
{
	struct reader *reader = run->reader;

	if (run->pack != NULL)
		packs_unref(reader->o.packs, run->pack);
	run->pack = NULL;
	run->first = NULL;
	run->next = reader->free;
	reader->free = run;
	reader->busy_count--;
}

static void read_fill(struct run *run, struct pack_read *r, uint64_t have_hi)
{
	if (read_hi(r, run->keep) > have_hi) {
		r->err = -GRANARY_ECORRUPT; /* the file is shorter than its rows say */
		return;
	}
	r->err = 0;
	r->data = run->buf.p + (r->unit_offset + r->want_offset - run->at);
	r->buf = (struct cache_buf){ .segment = NULL };
	r->own = run->keep || r->want_len > COPY_MAX ? NULL : malloc(r->want_len + 1u);
	if (r->own != NULL) {
		r->data = memcpy(r->own, r->data, r->want_len);
		return;
	}
	r->buf = run->buf;
	cache_ref(&r->buf);
}

/* One of the objects that it is made of is another one now: which, and only that fails. A unit that is kept may have
 * several, of which perhaps none was asked for. */
static bool run_again(struct run *run)
{
	struct reader *reader = run->reader;
	struct pack_read *next, *r = run->first;

	if (run->op.res != -GRANARY_ESOURCE || run->err < 0 || (run->units == 1 && !run->keep))
		return false;
	for (uint32_t i = 0; run->keep && i < run->units && run->buf.segment != NULL; i++)
		cache_insert_none(&run->buf, 1);
	if (run->buf.segment != NULL)
		cache_release(reader->o.cache, &run->buf);
	run_free(run);
	for (; r != NULL; r = next) {
		next = r->next;
		r->next = NULL;
		r->alone = true;
		r->run = NULL; /* not kept */
		*reader->queue_last = r;
		reader->queue_last = &r->next;
	}
	return true;
}

static void run_answer(struct run *run)
{
	struct reader *reader = run->reader;
	struct pack_read *next, *r = run->first;
	uint64_t have_hi = run->at;
	bool is_cold = run->pack != NULL && copy_of_file(pack_file(run->pack)) != NULL;
	int err = run->err;

	if (run_again(run))
		return;
	if (err == 0 && run->op.res < 0) {
		struct task *look = !is_cold ? pack_suspect(run->pack) : NULL;

		err = (int)run->op.res;
		if (look != NULL)
			workers_post(reader->o.workers, look);
	}
	if (err == 0)
		have_hi += (uint64_t)run->op.res;
	for (struct pack_read *i = r; i != NULL; i = i->next) {
		bool whole = err == 0 && i->unit_offset + i->unit_len <= have_hi;

		i->is_cold = is_cold;
		if (err == 0)
			read_fill(run, i, have_hi);
		else
			i->err = err;
		if (run->keep && whole)
			cache_insert(reader->o.cache, &run->buf, i->pack, i->unit_offset,
				run->buf.p + (i->unit_offset - run->at), i->unit_len);
		else if (run->keep && run->buf.segment != NULL)
			cache_insert_none(&run->buf, 1);
	}
	if (run->buf.segment != NULL)
		cache_release(reader->o.cache, &run->buf);
	run_free(run);
	for (; r != NULL; r = next) {
		next = r->next;
		r->done(r); /* may start other reads, may free r */
	}
}

static void reader_pump(struct reader *reader);

static void on_read(struct io_op *op)
{
	struct run *run = container_of(op, struct run, op);
	struct reader *reader = run->reader;

	run_answer(run);
	reader_pump(reader);
}

static void on_failed(struct task *task)
{
	struct run *run = container_of(task, struct run, task);
	struct reader *reader = run->reader;

	run_answer(run);
	reader_pump(reader);
}

static void run_fail(struct run *run, int err)
{
	run->err = err;
	run->task.fn = on_failed;
	reactor_post(run->reader->o.reactor, &run->task);
}

/* ---- reading
 * ------------------------------------------------------------------------------------------------
 * */

static void on_memory(void *arg);

/* Its name is gone: removed since it was referenced, or lost. */
static int why_no_file(const struct run *run)
{
	struct packs *packs = run->reader->o.packs;
	struct pack *again = packs_ref(packs, pack_id_of(run->pack));
	bool is_other = again != run->pack;

	if (again != NULL)
		packs_unref(packs, again);
	return is_other ? -GRANARY_ESTALE : -GRANARY_EOFFLINE;
}


/* On any thread. What a store says about itself is one thing to who reads: it is not there now. */
static void on_cold(struct copy_read *read)
{
	struct run *run = container_of(read, struct run, cold);
	int64_t res = read->res;

	if (res >= 0)
		res += (int64_t)(read->at - run->at);
	if (res == -GRANARY_ENOTFOUND)
		res = why_no_file(run);
	else if (res < 0 && res != -GRANARY_ECORRUPT && res != -GRANARY_ESOURCE && res != -GRANARY_ENOMEM &&
		res != -GRANARY_ETIMEDOUT)
		res = -GRANARY_EOFFLINE;
	run->op.res = res;
	run->task.fn = on_failed;
	reactor_post(run->reader->o.reactor, &run->task);
}

static void run_begin(struct run *run, struct fs_file *file)
{
	struct copy *cold = copy_of_file(file);

	if (cold == NULL) {
		run->op.done = on_read;
		io_read(run->reader->io, &run->op, file, run->buf.p, run->len, run->at);
		return;
	}
	run->cold = (struct copy_read){ .buf = run->buf.p, .len = run->len, .at = run->at,
		.fresh = run->first->bypass, .done = on_cold };
	if (copy_is_linked(cold)) /* what lies around it is other objects */
		run->cold = (struct copy_read){ .buf = run->buf.p + (run->lo - run->at),
			.len = (size_t)(run->hi - run->lo),
			.at = run->lo, .done = on_cold };
	copy_read_start(cold, &run->cold);
}

/* false: no memory now. */
static bool run_read(struct run *run)
{
	struct reader *reader = run->reader;
	struct fs_file *file = pack_file(run->pack);
	uint32_t align = fs_file_align(file);
	struct cache_want want = { .align = align < 4096 ? align : 4096, .units = run->units, .keep = run->keep };

	assert(align <= 4096);
	run->at = run->lo & ~(uint64_t)(align - 1);
	run->len = (uint32_t)(((run->hi + align - 1) & ~(uint64_t)(align - 1)) - run->at);
	want.len = run->len;
	if (run->keep && !cache_reserve(reader->local, &want, &run->buf)) {
		run->keep = false;
		want.keep = false;
	}
	if (!run->keep && !cache_reserve(reader->local, &want, &run->buf))
		return false;
	reader->stats.reads++;
	reader->stats.merged += run->units - 1;
	reader->stats.bytes_read += run->len;
	heat_note_get(reader->heat, run->first->pack, run->len);
	run_begin(run, file);
	return true;
}

static void run_wait(struct run *run)
{
	struct reader *reader = run->reader;

	run->next = NULL;
	*reader->waiting_last = run;
	reader->waiting_last = &run->next;
	if (!reader->waits_for_memory) {
		reader->waits_for_memory = true;
		cache_wait(reader->local, on_memory, reader);
	}
}

static void run_start(struct run *run)
{
	if (run->reader->waiting != NULL || !run_read(run))
		run_wait(run);
}

static void on_memory(void *arg)
{
	struct reader *reader = arg;
	struct run *run;

	reader->waits_for_memory = false;
	while ((run = reader->waiting) != NULL) {
		if (!run_read(run)) {
			reader->waits_for_memory = true;
			cache_wait(reader->local, on_memory, reader);
			return;
		}
		reader->waiting = run->next;
		if (reader->waiting == NULL)
			reader->waiting_last = &reader->waiting;
	}
	reader_pump(reader);
}

static void on_opened(struct task *task)
{
	struct run *run = container_of(task, struct run, task);
	struct reader *reader = run->reader;

	if (run->err == 0) {
		run_start(run);
		return;
	}
	if (run->err == -GRANARY_ENOTFOUND)
		run->err = why_no_file(run);
	run_answer(run);
	reader_pump(reader);
}

static void open_work(struct task *task)
{
	struct run *run = container_of(task, struct run, task);

	run->err = packs_open_file(run->reader->o.packs, run->pack);
	task->fn = on_opened;
	reactor_post(run->reader->o.reactor, task);
}

/* ---- runs out of the queue ---- */

static bool run_takes(const struct run *run, const struct pack_read *r)
{
	uint64_t lo, hi;

	if (r->pack != run->first->pack || read_keep(r) != run->keep || run->units >= UNITS_MAX || r->alone ||
	    run->first->alone)
		return false;
	lo = read_lo(r, run->keep);
	hi = read_hi(r, run->keep) > run->hi ? read_hi(r, run->keep) : run->hi;
	return lo >= run->lo && lo <= run->hi + GAP_MAX && hi - run->lo <= CACHE_READ_MAX - SLACK;
}

static struct pack_read *queue_pop(struct reader *reader)
{
	struct pack_read *r = reader->queue;

	reader->queue = r->next;
	if (reader->queue == NULL)
		reader->queue_last = &reader->queue;
	r->next = NULL;
	return r;
}

/* The head of the queue and the neighbours that follow it. */
static void run_build(struct run *run, struct reader *reader)
{
	struct pack_read **last;

	memset(run, 0, sizeof(*run));
	run->reader = reader;
	run->first = queue_pop(reader);
	run->keep = read_keep(run->first);
	run->lo = read_lo(run->first, run->keep);
	run->hi = read_hi(run->first, run->keep);
	run->units = 1;
	last = &run->first->next;
	while (reader->queue != NULL && run_takes(run, reader->queue)) {
		struct pack_read *r = queue_pop(reader);

		if (read_hi(r, run->keep) > run->hi)
			run->hi = read_hi(r, run->keep);
		run->units++;
		*last = r;
		last = &r->next;
	}
}

static void run_go(struct run *run)
{
	struct reader *reader = run->reader;

	run->pack = packs_ref(reader->o.packs, run->first->pack);
	if (run->pack == NULL) {
		run_fail(run, -GRANARY_ESTALE);
	} else if (pack_is_ready(run->pack)) {
		run_start(run);
	} else {
		run->task.fn = open_work;
		workers_post(reader->o.workers, &run->task);
	}
}

static void reader_pump(struct reader *reader)
{
	while (reader->queue != NULL && reader->free != NULL && reader->waiting == NULL) {
		struct run *run = reader->free;

		reader->free = run->next;
		reader->busy_count++;
		run_build(run, reader);
		run_go(run);
	}
}

/* ---- the interface ---- */

_Static_assert((int)READ_CUT <= (int)CACHE_UNIT_MAX && READ_CUT % 2 == 0, "a unit, at odd offsets");

uint32_t read_cut(struct pack_read *read, uint64_t fixed, uint64_t x, uint32_t left)
{
	uint64_t unit = (x - 1) / READ_CUT * READ_CUT + 1;
	uint32_t room = (uint32_t)(unit + READ_CUT - x);

	read->want_len = left < room ? left : room;
	read->bypass = fixed == 0;
	read->unit_offset = read->bypass ? x : unit;
	read->want_offset = (uint32_t)(x - read->unit_offset);
	read->unit_len = read->bypass ? read->want_len : fixed - unit < READ_CUT ? (uint32_t)(fixed - unit) : READ_CUT;
	return read->want_len;
}

bool read_cached(struct reader *reader, struct pack_read *read)
{
	if (read->bypass || !cache_find(reader->o.cache, read->pack, read->unit_offset, &read->buf))
		return false;
	read->err = 0;
	read->own = NULL;
	read->data = read->buf.p + read->want_offset;
	heat_note(reader->heat, read->pack, 1, read->want_len);
	return true;
}

void read_prefetch(struct reader *reader, const struct pack_read *read)
{
	cache_prefetch(reader->o.cache, read->pack, read->unit_offset);
}

static int read_compare(const void *a, const void *b)
{
	const struct pack_read *x = *(struct pack_read *const *)a, *y = *(struct pack_read *const *)b;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	if (x->unit_offset != y->unit_offset)
		return x->unit_offset < y->unit_offset ? -1 : 1;
	return x->want_offset < y->want_offset ? -1 : x->want_offset > y->want_offset;
}

/* The caller's array is left as it is; without memory for a copy the reads go out unsorted. */
static struct pack_read **sort_reads(struct reader *reader, struct pack_read **reads, uint32_t n)
{
	if (n > reader->sorted_cap) {
		struct pack_read **wide = realloc(reader->sorted, n * sizeof(*wide));

		if (wide == NULL)
			return reads;
		reader->sorted = wide;
		reader->sorted_cap = n;
	}
	memcpy(reader->sorted, reads, n * sizeof(*reads));
	if (n > 1)
		qsort(reader->sorted, n, sizeof(*reads), read_compare);
	return reader->sorted;
}

void read_start(struct reader *reader, struct pack_read **reads, uint32_t n)
{
	struct pack_read **sorted = sort_reads(reader, reads, n);

	for (uint32_t i = 0; i < n; i++) {
		struct pack_read *r = sorted[i];

		assert(r->unit_len <= CACHE_UNIT_MAX && r->want_len <= r->unit_len &&
		       r->want_offset <= r->unit_len - r->want_len);
		read_decide(reader, r);
		reader->stats.bytes_wanted += r->want_len;
		heat_note(reader->heat, r->pack, 1, r->want_len);
		r->data = NULL;
		r->alone = false;
		r->buf.segment = NULL;
		r->next = NULL;
		*reader->queue_last = r;
		reader->queue_last = &r->next;
	}
	reader_pump(reader);
}

void read_release(struct reader *reader, struct pack_read *read)
{
	if (read->buf.segment != NULL)
		cache_release(reader->o.cache, &read->buf);
	free(read->own);
	read->own = NULL;
	read->data = NULL;
}

struct cache *reader_cache(const struct reader *reader) { return reader->o.cache; }

void reader_get_stats(const struct reader *reader, struct reader_stats *out) { *out = reader->stats; }

struct reader *reader_new(const struct reader_options *options)
{
	struct reader *reader = calloc(1, sizeof(*reader));
	uint32_t depth = options->depth ? options->depth : DEPTH_DEFAULT;

	if (reader == NULL)
		return NULL;
	reader->o = *options;
	reader->heat = packs_heat(options->packs);
	reader->io = reactor_io(options->reactor);
	reader->queue_last = &reader->queue;
	reader->waiting_last = &reader->waiting;
	reader->runs = calloc(depth, sizeof(*reader->runs));
	reader->local = cache_local_new(options->cache, reader->io, options->reactor);
	if (reader->runs == NULL || reader->local == NULL) {
		reader_free(&reader);
		return NULL;
	}
	for (uint32_t i = depth; i > 0; i--) {
		reader->runs[i - 1].next = reader->free;
		reader->free = &reader->runs[i - 1];
	}
	return reader;
}

void reader_free(struct reader **rp)
{
	struct reader *reader = *rp;

	*rp = NULL;
	if (reader == NULL)
		return;
	assert(reader->busy_count == 0 && reader->queue == NULL);
	cache_local_free(&reader->local);
	free(reader->runs);
	free(reader->sorted);
	free(reader);
}
