/* SPDX-License-Identifier: Apache-2.0 */
/* jobs.c -- the background thread and what one pass of it does.
 *
 * Invariants: (1) one pass at a time; (2) a pass changes nothing that a crash in its middle could lose: each step is
 * committed by itself and found again by the next pass; (3) nothing is removed on an incomplete scan; (4) a
 * dying pack is
 * removed only `removal_delay_ns` of store time after it was retired (a second when writes wait for its space: readers
 * that still hold it keep its bytes, and who comes too late looks up again), and after a second look found no row. */
#include "jobs/jobs_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "meta/ids.h"
#include "pack/cache.h"
#include "pack/writer.h"

enum { PASS_PACKS = 512, CLOCK_SAVE_S = 60, BACKOFF_S = 60, BACKOFF_BUSY_S = 10, JOBS_NICE = 10, BACKOFF_FULL_S = 1,
       DELETIONS_MAX = 1000 };
#define REMOVAL_DELAY_FULL_NS UINT64_C(1000000000)

static bool backoff_holds(struct jobs *j, uint64_t pack_id)
{
	uint64_t now = clock_mono_ns();
	for (uint32_t i = 0; i < j->backoff_count; i++) {
		if (j->backoff[i].pack_id != pack_id) continue;
		if (now < j->backoff[i].not_before_ns) return true;
		j->backoff[i] = j->backoff[--j->backoff_count];
		return false;
	}
	return false;
}

static void backoff_add(struct jobs *j, uint64_t pack_id, int err)
{
	uint64_t pause_s = BACKOFF_S;
	if (err == -GRANARY_ENOSPACE) pause_s = BACKOFF_FULL_S; /* space comes back while we wait */
	if (err == -GRANARY_EBUSY) pause_s = BACKOFF_BUSY_S;    /* somebody writes to what lies in it */
	uint32_t at = j->backoff_count < JOBS_RETRY_MAX ? j->backoff_count++
							: (uint32_t)(pack_id % JOBS_RETRY_MAX);
	j->backoff[at] =
		(struct job_backoff){ pack_id, clock_mono_ns() + pause_s * UINT64_C(1000000000) };
}

/* An open pack that nobody appends to any more: of an earlier incarnation. */
static int seal_left_open(struct jobs *j, const struct pack_info *info)
{
	int err = pack_seal(j->o.packs, info->id, NULL);
	if (err == 0) {
		atomic_fetch_add(&j->sealed, 1);
		return 0;
	}
	log_warn("cannot seal pack %016llx: %s; left open, next try in %u s",
		(unsigned long long)info->id, error_text(err),
		err == -GRANARY_ENOSPACE ? BACKOFF_FULL_S : BACKOFF_S);
	backoff_add(j, info->id, err);
	return err;
}

static bool worth_compacting(
	struct jobs *j, const struct pack_info *info, const struct pack_row *row)
{
	if (row->pins > 0) return false;
	/* One that is linked loses its source with its address: only one that nothing needs goes. */
	if (info->is_linked) return row->live_bytes == 0 && row->live_records == 0;
	if (info->state == PACK_BROKEN) return true;
	if (row->total_bytes == 0) return info->state == PACK_SEALED;
	uint64_t dead = row->total_bytes > row->live_bytes ? row->total_bytes - row->live_bytes : 0;
	return dead * 100 > row->total_bytes * j->o.compact_dead_pct;
}

/* Its name is removed before its rows: a crash between the two leaves rows without a file. */
static bool file_is_gone(struct jobs *j, struct pack *pack)
{
	return packs_open_file(j->o.packs, pack) == -GRANARY_ENOTFOUND;
}

/* The row of a broken pack never says that it is dying: what is left of an interrupted removal is retired again. */
static bool retire_remains(struct jobs *j, const struct pack_info *info, const struct pack_row *row)
{
	struct pack *pack;
	bool is_gone;
	if (info->state != PACK_BROKEN || row->live_records > 0 || row->live_bytes > 0)
		return false;
	pack = packs_ref(j->o.packs, info->id);
	if (!pack) return false;
	is_gone = packs_pending_count(pack) == 0 && file_is_gone(j, pack) &&
		  packs_retire(j->o.packs, pack) == 0;
	packs_unref(j->o.packs, pack);
	return is_gone;
}

static int consider_pack(struct jobs *j, const struct pack_info *info)
{
	struct pack_row row;
	int err = packs_row(j->o.packs, info->id, &row);
	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	if (!worth_compacting(j, info, &row) || retire_remains(j, info, &row)) return 0;
	err = compact_pack(j, info->id);
	if (err > 0) atomic_fetch_add(&j->compacted, 1);
	if (err < 0 && err != -GRANARY_ESHUTDOWN) {
		atomic_fetch_add(&j->aborted, 1);
		log_warn("cannot compact pack %016llx: %s; the pack stays as it is; dead=%llu "
			 "total=%llu",
			(unsigned long long)info->id, error_text(err),
			(unsigned long long)(row.total_bytes - row.live_bytes),
			(unsigned long long)row.total_bytes);
		backoff_add(j, info->id, err);
	}
	return err < 0 ? err : 0;
}

/* ---- packs whose objects rules want apart ---- */

int jobs_sort(struct jobs *j, uint64_t pack_id, uint64_t *ids, uint32_t count)
{
	bool is_new = true;

	pthread_mutex_lock(&j->lock);
	for (uint32_t i = 0; i < j->sorts_count; i++) is_new &= j->sorts[i].pack_id != pack_id;
	is_new &= j->sorts_count < JOBS_SORTS_MAX;
	if (is_new) j->sorts[j->sorts_count++] = (struct job_sort){ pack_id, ids, count };
	pthread_mutex_unlock(&j->lock);
	if (is_new) return 0;
	free(ids);
	return -GRANARY_EBUSY;
}

/* Pinned since, or gone: the next plan says what is wanted then. */
static int sort_packs(struct jobs *j)
{
	int first = 0;

	while (!jobs_stopping(j)) {
		struct job_sort sort = { 0 };
		int err = 0;

		pthread_mutex_lock(&j->lock);
		if (j->sorts_count > 0) sort = j->sorts[0];
		pthread_mutex_unlock(&j->lock);
		if (sort.pack_id == 0) break;
		if (!backoff_holds(j, sort.pack_id)) err = compact_apart(j, &sort);
		if (err > 0) atomic_fetch_add(&j->sorted, 1);
		if (err < 0 && err != -GRANARY_ESHUTDOWN) {
			atomic_fetch_add(&j->aborted, 1);
			log_warn("objects of pack %016llx that rules want apart stay together: %s",
				(unsigned long long)sort.pack_id, error_text(err));
			backoff_add(j, sort.pack_id, err);
			if (first == 0) first = err;
		}
		pthread_mutex_lock(&j->lock); /* out of the list only now: meanwhile nobody orders it again */
		free(j->sorts[0].ids);
		j->sorts[0] = j->sorts[--j->sorts_count];
		pthread_mutex_unlock(&j->lock);
	}
	return first;
}

static int second_look_and_remove(struct jobs *j, uint64_t pack_id, uint64_t end)
{
	struct pack *pack = packs_ref_any(j->o.packs, pack_id);
	if (!pack) return -GRANARY_ENOTFOUND;
	int err = file_is_gone(j, pack) ? 0 : pack_has_owner(j, pack, end);
	if (err == 1) {
		log_error("dying pack %016llx is still pointed at; it is kept",
			(unsigned long long)pack_id);
		err = -GRANARY_ECORRUPT;
		backoff_add(j, pack_id, err);
	}
	if (err == 0) {
		cache_drop_pack(j->o.cache, pack_id);
		err = packs_remove(j->o.packs, pack); /* BUSY: a hold; the next pass tries it again */
	}
	packs_unref(j->o.packs, pack);
	return err;
}

/* A dying pack: its `g` row says since when. No row: it was retired in this pass or by an older server; one is
 * written. */
static int remove_dying(struct jobs *j, const struct pack_info *info)
{
	struct pack_row row;
	int err = packs_row(j->o.packs, info->id, &row);
	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	uint8_t buf[ROW_KEY_MAX];
	struct kv_iter *it = kv_iter_new(j->o.kv, NULL);
	uint64_t since = 0;
	for (kv_iter_seek(it, slice_str("g")); kv_iter_valid(it) && since == 0; kv_iter_next(it)) {
		struct slice k = kv_iter_key(it);
		if (k.len != 18 || k.p[0] != 'g') break;
		if (k.p[9] == 1 && be64_get(k.p + 10) == info->id) since = be64_get(k.p + 1);
	}
	err = kv_iter_error(it);
	kv_iter_free(&it);
	if (err < 0) return err;
	uint64_t now = store_clock_now(j->o.clock);
	struct kv_txn *txn = kv_txn_new(j->o.kv);
	if (since == 0) {
		uint8_t value[8];
		struct wr w = wr_of(value, sizeof value);
		value_begin(&w);
		kv_put(txn, row_deletion(buf, now, 1, info->id), slice_of(value, wr_len(&w)));
		err = kv_submit_wait(j->o.kv, txn);
		kv_txn_free(&txn);
		return err;
	}
	uint64_t delay = j->o.removal_delay_ns;
	if (delay > REMOVAL_DELAY_FULL_NS && packs_room(j->o.packs, PACKS_STEP) < 0)
		delay = REMOVAL_DELAY_FULL_NS;
	if (now < since || now - since < delay) {
		kv_txn_free(&txn);
		return 0;
	}
	err = second_look_and_remove(j, info->id, row.committed_end);
	if (err == -GRANARY_EBUSY) {
		kv_txn_free(&txn);
		return 0;
	}
	if (err == 0) {
		atomic_fetch_add(&j->removed, 1);
		kv_delete(txn, row_deletion(buf, since, 1, info->id));
		err = kv_submit_wait(j->o.kv, txn);
	}
	kv_txn_free(&txn);
	return err;
}

/* A removal ends with its `g` row. When it was interrupted before that, the pack is not in the table any more and
 * nobody would come back to the row. */
static int sweep_deletions(struct jobs *j)
{
	struct kv_iter *it = kv_iter_new(j->o.kv, NULL);
	struct kv_txn *txn = kv_txn_new(j->o.kv);
	uint32_t n = 0;
	int err = it && txn ? 0 : -GRANARY_ENOMEM;
	if (err == 0) kv_iter_seek(it, slice_str("g"));
	for (; err == 0 && kv_iter_valid(it) && n < DELETIONS_MAX; kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (key.len != 18 || key.p[0] != 'g') break;
		if (key.p[9] != 1) continue;
		int is_gone = packs_is_gone(j->o.packs, be64_get(key.p + 10));
		if (is_gone < 0) err = is_gone;
		if (is_gone != 1) continue;
		kv_delete(txn, key); /* ids of packs are never used again: nothing to guard against */
		n++;
	}
	if (err == 0) err = kv_iter_error(it);
	if (it) kv_iter_free(&it);
	if (err == 0 && n > 0) err = kv_submit_wait(j->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

static int visit_pack(struct jobs *j, const struct pack_info *info)
{
	if (backoff_holds(j, info->id)) return 0;
	switch (info->state) {
	case PACK_OPEN: return info->mine || !info->may_write ? 0 : seal_left_open(j, info);
	case PACK_SEALED:
	case PACK_BROKEN: return info->may_read ? consider_pack(j, info) : 0;
	case PACK_DYING: return info->may_write ? remove_dying(j, info) : 0;
	default: return 0;
	}
}

static int visit_all(struct jobs *j)
{
	struct pack_info *infos = malloc(PASS_PACKS * sizeof *infos);
	uint64_t after = 0;
	int first = 0;
	if (!infos) return -GRANARY_ENOMEM;
	for (;;) {
		uint32_t n = packs_list(j->o.packs, after, infos, PASS_PACKS);
		for (uint32_t i = 0; i < n && !jobs_stopping(j); i++) {
			int err = visit_pack(j, &infos[i]);
			if (err < 0 && first == 0) first = err;
		}
		if (n < PASS_PACKS || jobs_stopping(j)) break;
		after = infos[n - 1].id;
	}
	free(infos);
	return first;
}

int jobs_pass(struct jobs *j)
{
	uint64_t now = clock_mono_ns();
	bool merges_more;
	int first = 0, err;
	if (now - j->clock_saved_ns > CLOCK_SAVE_S * UINT64_C(1000000000)) {
		first = store_clock_save(j->o.clock, j->o.kv);
		j->clock_saved_ns = now;
	}
	if (packs_probe(j->o.packs)) writers_rotate(j->o.writers, false);
	err = packs_refresh_space(j->o.packs);
	if (first == 0) first = err;
	if (!j->orphans_swept) {
		err = packs_sweep_orphans(j->o.packs, 10000, false);
		j->orphans_swept = err >= 0;
		if (first == 0 && err < 0) first = err;
	}
	err = sort_packs(j);
	if (first == 0) first = err;
	err = visit_all(j);
	if (first == 0) first = err;
	err = sweep_deletions(j);
	if (first == 0) first = err;
	err = uploads_sweep(j);
	if (first == 0) first = err;
	err = merge_pass(j, &merges_more);
	if (first == 0) first = err;
	j->has_more = false;
	err = drain_pass(j, &j->has_more);
	if (first == 0) first = err;
	j->has_more |= merges_more;
	if (j->o.extra && !jobs_stopping(j)) j->o.extra(j->o.extra_arg);
	pthread_mutex_lock(&j->check.lock);
	bool check = j->check.requested && !jobs_stopping(j);
	pthread_mutex_unlock(&j->check.lock);
	if (check) check_run(j);
	return first;
}

static void wait_for_work(struct jobs *j)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	uint64_t ns = (uint64_t)until.tv_nsec + j->o.interval_ns;
	until.tv_sec += (time_t)(ns / 1000000000u);
	until.tv_nsec = (long)(ns % 1000000000u);
	while (!j->stop && !j->has_more && j->passes_asked == j->passes_done)
		if (pthread_cond_timedwait(&j->wake, &j->lock, &until) != 0) break;
}

static void *jobs_main(void *arg)
{
	struct jobs *j = arg;
	setpriority(PRIO_PROCESS, 0, JOBS_NICE); /* of this thread alone, on Linux */
	pthread_mutex_lock(&j->lock);
	while (!j->stop) {
		uint64_t asked = j->passes_asked;
		pthread_mutex_unlock(&j->lock);
		int err = jobs_pass(j);
		pthread_mutex_lock(&j->lock);
		j->last_result = err;
		j->passes_done = asked;
		pthread_cond_broadcast(&j->passed);
		wait_for_work(j);
	}
	j->passes_done = j->passes_asked;
	j->last_result = -GRANARY_ESHUTDOWN;
	pthread_cond_broadcast(&j->passed);
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

int jobs_open(const struct jobs_options *options, struct jobs **out)
{
	struct jobs *j = calloc(1, sizeof *j);
	*out = NULL;
	if (!j) return -GRANARY_ENOMEM;
	j->o = *options;
	atomic_init(&j->drain_rate, options->drain_rate);
	j->clock_saved_ns = clock_mono_ns();
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&j->lock, NULL);
	pthread_mutex_init(&j->check.lock, NULL);
	pthread_cond_init(&j->wake, &attr);
	pthread_cond_init(&j->passed, &attr);
	pthread_condattr_destroy(&attr);
	if (j->o.thread) {
		if (pthread_create(&j->thread, NULL, jobs_main, j) != 0) {
			free(j);
			return -GRANARY_ENOMEM;
		}
		pthread_setname_np(j->thread, "granary-jobs");
		j->has_thread = true;
	}
	*out = j;
	return 0;
}

void jobs_close(struct jobs **jobs)
{
	struct jobs *j = *jobs;
	*jobs = NULL;
	if (!j) return;
	atomic_store(&j->stopping, true);
	pthread_mutex_lock(&j->lock);
	j->stop = true;
	pthread_cond_broadcast(&j->wake);
	pthread_mutex_unlock(&j->lock);
	if (j->has_thread) pthread_join(j->thread, NULL);
	while (j->sorts_count > 0) free(j->sorts[--j->sorts_count].ids);
	pthread_cond_destroy(&j->wake);
	pthread_cond_destroy(&j->passed);
	pthread_mutex_destroy(&j->lock);
	pthread_mutex_destroy(&j->check.lock);
	free(j);
}

/* Waits for a pass that began after this call. */
static int pass_now(struct jobs *j)
{
	if (!j->has_thread) return jobs_pass(j);
	pthread_mutex_lock(&j->lock);
	uint64_t mine = ++j->passes_asked;
	pthread_cond_broadcast(&j->wake);
	while (j->passes_done < mine) pthread_cond_wait(&j->passed, &j->lock);
	int err = j->last_result;
	pthread_mutex_unlock(&j->lock);
	return err;
}

void jobs_wake(struct jobs *j)
{
	pthread_mutex_lock(&j->lock);
	j->passes_asked++;
	pthread_cond_broadcast(&j->wake);
	pthread_mutex_unlock(&j->lock);
}

int jobs_compact_now(struct jobs *j, char *buf, size_t cap)
{
	struct jobs_stats before, after;
	jobs_get_stats(j, &before);
	int err = pass_now(j);
	jobs_get_stats(j, &after);
	snprintf(buf, cap,
		"sealed %llu\ncompacted %llu\nmoved_records %llu\nmoved_bytes %llu\nremoved_packs "
		"%llu\n",
		(unsigned long long)(after.sealed - before.sealed),
		(unsigned long long)(after.compacted - before.compacted),
		(unsigned long long)(after.moved_records - before.moved_records),
		(unsigned long long)(after.moved_bytes - before.moved_bytes),
		(unsigned long long)(after.removed_packs - before.removed_packs));
	return err;
}

void jobs_get_stats(struct jobs *j, struct jobs_stats *out)
{
	memset(out, 0, sizeof *out);
	pthread_mutex_lock(&j->lock);
	out->passes = j->passes_done;
	pthread_mutex_unlock(&j->lock);
	out->sealed = atomic_load(&j->sealed);
	out->compacted = atomic_load(&j->compacted);
	out->sorted = atomic_load(&j->sorted);
	out->moved_records = atomic_load(&j->moved_records);
	out->moved_bytes = atomic_load(&j->moved_bytes);
	out->removed_packs = atomic_load(&j->removed);
	out->aborted = atomic_load(&j->aborted);
	out->scrubbed_bytes = atomic_load(&j->scrubbed_bytes);
	out->merged_extents = atomic_load(&j->merged_extents);
	out->merged_bytes = atomic_load(&j->merged_bytes);
	pthread_mutex_lock(&j->check.lock);
	out->problems = j->check.problems;
	out->check_running = j->check.running || j->check.requested;
	pthread_mutex_unlock(&j->check.lock);
}
