/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.c -- brings bytes of a snapshot's files into the cache, and reads ahead. */
#include "fuse/fetch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fuse/log.h"

enum {
	RUN_BYTES = 1024 * 1024, /* about so much in one run */
	MISSES_SOON = 16,
	END_S = 3, /* to wait for requests under way, when it is unmounted */
	MISSES = 4096, /* slots that count misses of runs; others' misses in one slot do little harm */
	PIECES_AHEAD = 4, /* parts of CACHE_PIECE: as many as one piece from the server has */
};
#define RUN_MARK (UINT64_C(1) << 63)

struct miss { /* the last one in this slot */
	uint64_t run, number; /* run: plus 1; number: misses before it */
};
struct fetch {
	struct tree *tree;
	struct cache *cache;
	uint32_t timeout_ms, threads_count;
	uint64_t run;         /* samples of one run, a power of two */
	bool fits;            /* the cache can hold all */
	pthread_mutex_t lock; /* all below */
	pthread_cond_t work;
	struct fetch_job *first, **last; /* wanted now */
	struct fetch_job *ahead_first, **ahead_last;
	uint32_t ahead_count;
	bool stop;
	uint64_t misses_count;
	struct miss misses[MISSES];
	pthread_t threads[];
};

static uint64_t run_samples(const struct tree *t)
{
	uint64_t mean = t->samples > 0 ? t->bytes / t->samples + 1 : 1, run = 1;

	while (run * 2 * mean <= RUN_BYTES && run * 2 * t->fields <= CACHE_RUN_FILES_MAX) run *= 2;
	return run;
}

/* ---- one job ---- */

/* Bytes of a run; UINT64_MAX when it is not worth fetching as one. */
static uint64_t run_bytes(struct fetch *f, uint64_t first, uint64_t count)
{
	struct granary_snapshot_row row;
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < count * f->tree->fields; i++) {
		if (granary_snapshot_row(f->tree->snapshot, first + i / f->tree->fields,
			    (uint32_t)(i % f->tree->fields), &row) < 0)
			return UINT64_MAX;
		bytes += row.size;
	}
	return bytes <= CACHE_RUN_BYTES_MAX ? bytes : UINT64_MAX;
}

static int run_fetch(struct fetch *f, uint64_t run)
{
	uint64_t first = run * f->run, count = f->tree->samples - first < f->run ? f->tree->samples - first : f->run;
	uint64_t *ids = calloc(count, sizeof(*ids)), *offsets = calloc(count * f->tree->fields + 1, sizeof(*offsets));
	void *data = NULL;
	int err = ids && offsets ? 0 : -GRANARY_ENOMEM;

	for (uint64_t i = 0; err == 0 && i < count; i++) ids[i] = first + i;
	if (err == 0)
		err = granary_snapshot_read_batch(
			f->tree->snapshot, ids, count, &data, offsets, GRANARY_CALL(.timeout_ms = f->timeout_ms));
	if (err == 0)
		cache_add_run(f->cache, first * f->tree->fields, (uint32_t)(count * f->tree->fields), data, offsets);
	granary_free(data);
	free(ids);
	free(offsets);
	return errno_of(err);
}

static int piece_fetch(struct fetch *f, uint64_t id, uint32_t field, uint64_t offset)
{
	struct granary_snapshot_piece piece;
	struct granary_snapshot_row row;
	int err = granary_snapshot_row(f->tree->snapshot, id, field, &row);

	if (err == 0)
		err = granary_snapshot_read_piece(
			f->tree->snapshot, id, field, offset, &piece, GRANARY_CALL(.timeout_ms = f->timeout_ms));
	if (err == 0) {
		cache_add_piece(f->cache, id * f->tree->fields + field, piece.data, piece.offset, piece.size, row.size);
		granary_free(piece.data);
	}
	return errno_of(err);
}

/* Was a file of this run missed before, another time, and not long ago? */
static bool missed_before(struct fetch *f, uint64_t run)
{
	pthread_mutex_lock(&f->lock);
	struct miss *slot = &f->misses[run % MISSES];
	bool before = slot->run == run + 1 && (f->fits || f->misses_count - slot->number <= MISSES_SOON);
	*slot = (struct miss){ run + 1, f->misses_count++ };
	pthread_mutex_unlock(&f->lock);
	return before;
}

static int job_run(struct fetch *f, const struct fetch_job *job)
{
	uint64_t row = job->id * f->tree->fields + job->field, run = job->id / f->run;
	bool whole = f->run > 1 && job->offset == 0 && (!job->done || missed_before(f, run));
	uint64_t what = whole ? RUN_MARK | run : row ^ job->offset << 40;
	int err = 0;

	while (!cache_begin(f->cache, what))
		if (cache_has(f->cache, row, job->offset)) return 0; /* another thread brought it */
	if (!cache_has(f->cache, row, job->offset)) {
		uint64_t left = f->tree->samples - run * f->run;
		whole = whole && run_bytes(f, run * f->run, left < f->run ? left : f->run) != UINT64_MAX;
		err = whole ? run_fetch(f, run) : piece_fetch(f, job->id, job->field, job->offset);
	}
	cache_end(f->cache, what);
	return err;
}

/* ---- threads ---- */

static struct fetch_job *job_take(struct fetch *f)
{
	struct fetch_job *job = f->first;

	if (job) {
		f->first = job->next;
		if (!f->first) f->last = &f->first;
		return job;
	}
	job = f->ahead_first;
	if (job) {
		f->ahead_first = job->next;
		if (!f->ahead_first) f->ahead_last = &f->ahead_first;
		f->ahead_count--;
	}
	return job;
}

static void *fetch_run(void *arg)
{
	struct fetch *f = arg;

	pthread_mutex_lock(&f->lock);
	while (!f->stop) {
		struct fetch_job *job = job_take(f);
		if (!job) {
			pthread_cond_wait(&f->work, &f->lock);
			continue;
		}
		pthread_mutex_unlock(&f->lock);
		int err = job_run(f, job);
		if (job->done)
			job->done(job, err);
		else
			free(job);
		pthread_mutex_lock(&f->lock);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

struct fetch *fetch_new(struct tree *tree, struct cache *cache, uint32_t threads, uint32_t timeout_ms)
{
	struct fetch *f = calloc(1, sizeof(*f) + threads * sizeof(f->threads[0]));

	if (!f) return NULL;
	f->tree = tree;
	f->cache = cache;
	f->timeout_ms = timeout_ms;
	f->run = run_samples(tree);
	struct cache_numbers numbers;
	cache_numbers(cache, &numbers);
	f->fits = tree->bytes < numbers.budget / 4 * 3;
	f->last = &f->first;
	f->ahead_last = &f->ahead_first;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->work, NULL);
	while (f->threads_count < threads && pthread_create(&f->threads[f->threads_count], NULL, fetch_run, f) == 0)
		f->threads_count++;
	if (f->threads_count == 0) {
		fetch_free(f);
		return NULL;
	}
	return f;
}

void fetch_free(struct fetch *f)
{
	struct timespec until;

	if (!f) return;
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_broadcast(&f->work);
	pthread_mutex_unlock(&f->lock);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += END_S;
	for (uint32_t i = 0; i < f->threads_count; i++)
		if (pthread_timedjoin_np(f->threads[i], NULL, &until) != 0) {
			log_say("the server does not answer: ended without it");
			_exit(0); /* it is unmounted, and of a snapshot nothing is lost */
		}
	for (struct fetch_job *job = job_take(f); job; job = job_take(f)) {
		if (job->done)
			job->done(job, -ESHUTDOWN);
		else
			free(job);
	}
	pthread_cond_destroy(&f->work);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

void fetch_start(struct fetch *f, struct fetch_job *job)
{
	job->next = NULL;
	pthread_mutex_lock(&f->lock);
	*f->last = job;
	f->last = &job->next;
	pthread_cond_signal(&f->work);
	pthread_mutex_unlock(&f->lock);
}

/* ---- reading ahead ---- */

static void ahead_start(struct fetch *f, uint64_t id, uint32_t field, uint64_t offset)
{
	struct fetch_job *job = calloc(1, sizeof(*job));

	if (!job) return;
	*job = (struct fetch_job){ .id = id, .field = field, .offset = offset };
	pthread_mutex_lock(&f->lock);
	bool room = f->ahead_count < FETCH_AHEAD_MAX && !f->stop;
	if (room) {
		*f->ahead_last = job;
		f->ahead_last = &job->next;
		f->ahead_count++;
		pthread_cond_signal(&f->work);
	}
	pthread_mutex_unlock(&f->lock);
	if (!room) free(job);
}

void fetch_seen(struct fetch *f, uint64_t id, uint32_t field, const struct cache_view *view)
{
	uint64_t next = view->offset + view->size, run = id / f->run;

	if (view->size < view->file_size) { /* a piece: what comes after it, when what came before it was read */
		if (view->offset > 0 && !cache_has(f->cache, id * f->tree->fields + field, view->offset - 1)) return;
		for (int i = 0; i < PIECES_AHEAD && next < view->file_size; i++, next += CACHE_PIECE)
			if (!cache_has(f->cache, id * f->tree->fields + field, next)) ahead_start(f, id, field, next);
		return;
	}
	if (f->run > 1 && run > 0 && (run + 1) * f->run < f->tree->samples &&
		cache_has(f->cache, (run * f->run - 1) * f->tree->fields, 0))
		ahead_start(f, (run + 1) * f->run, 0, 0);
}
