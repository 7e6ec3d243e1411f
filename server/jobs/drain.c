/* SPDX-License-Identifier: Apache-2.0 */
/* drain.c -- empties the drives that are DRAINING, and removes what packs were copied of.
 * Invariants: (1) one pack at a time, each a move of its own (packs_move): a crash or a stop between two leaves nothing
 * to undo, and the next pass goes on by the state in the drive's row; (2) open packs are ended by their writers, sealed
 * and broken ones handled by visit_pack(): here only sealed ones move; (3) a drive is DRAINED once the table has no
 * pack on it, none is being made there, and no file waits to be deleted; (4) a pass moves for DRAIN_SLICE_NS at most:
 * other work goes on. */
#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "jobs/jobs_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "pack/writer.h"
#include "tier/drives.h"

enum { LIST_MAX = 256, DELETIONS_A_PASS = 1000 };
#define DRAIN_SLICE_NS UINT64_C(2000000000)

static int is_stopping(void *arg, uint64_t bytes)
{
	(void)bytes;
	return jobs_stopping(arg) ? -GRANARY_ESHUTDOWN : 0;
}

static uint64_t drain_rate(void *arg)
{
	struct jobs *j = arg;

	return atomic_load(&j->drain_rate);
}

void jobs_set_drain_rate(struct jobs *j, uint64_t bytes_per_second)
{
	atomic_store(&j->drain_rate, bytes_per_second);
}

static struct drain_progress *progress_of(struct jobs *j, uint64_t drive)
{
	struct drain_progress *p = NULL;

	for (uint32_t i = 0; i < DRIVES_MAX && p == NULL; i++)
		if (j->drains[i].drive == drive || j->drains[i].drive == 0) p = &j->drains[i];
	if (p != NULL && p->drive == 0) *p = (struct drain_progress){ .drive = drive, .began_ns = clock_mono_ns() };
	return p;
}

void jobs_drain_progress(struct jobs *j, uint64_t drive, struct drain_progress *out)
{
	*out = (struct drain_progress){ .drive = drive };
	pthread_mutex_lock(&j->lock);
	for (uint32_t i = 0; i < DRIVES_MAX; i++)
		if (j->drains[i].drive == drive) *out = j->drains[i];
	pthread_mutex_unlock(&j->lock);
}

void jobs_drain_begin(struct jobs *j, uint64_t drive)
{
	pthread_mutex_lock(&j->lock);
	struct drain_progress *p = progress_of(j, drive);
	if (p != NULL) *p = (struct drain_progress){ .drive = drive, .began_ns = clock_mono_ns() };
	pthread_mutex_unlock(&j->lock);
}

static void note(struct jobs *j, uint64_t drive, uint64_t bytes, int err)
{
	pthread_mutex_lock(&j->lock);
	struct drain_progress *p = progress_of(j, drive);
	if (p != NULL) {
		p->bytes += bytes;
		p->packs += bytes > 0;
		p->err = err;
	}
	pthread_mutex_unlock(&j->lock);
}

/* 1: there is more to move; 0: not now; or an error. */
static int move_some(struct jobs *j, struct drive *drive, uint64_t until_ns)
{
	struct packs_move order = { .pace = is_stopping, .rate = drain_rate, .arg = j };
	struct pack_info infos[LIST_MAX];
	uint64_t after = 0, bytes;
	uint32_t n;

	do {
		n = packs_list(j->o.packs, after, infos, LIST_MAX);
		for (uint32_t i = 0; i < n; i++) {
			if (infos[i].drive != drive_id(drive) || infos[i].state != PACK_SEALED) continue;
			if (drive_state(drive) != DRIVE_DRAINING) return 0; /* cancelled */
			if (clock_mono_ns() > until_ns) return 1;
			int err = packs_move(j->o.packs, infos[i].id, &order, &bytes);
			note(j, drive_id(drive), bytes, err);
			if (err < 0 && err != -GRANARY_EBUSY) return err;
		}
		if (n > 0) after = infos[n - 1].id;
	} while (n == LIST_MAX);
	return 0;
}

/* Files on this drive that wait to be deleted; or an error. */
static int waiting_count(struct jobs *j, uint64_t drive)
{
	struct kv_iter *it = kv_iter_new(j->o.kv, NULL);
	int count = 0, err = it != NULL ? 0 : -GRANARY_ENOMEM;
	uint64_t store;

	if (err == 0) kv_iter_seek(it, slice_str("g"));
	for (; err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (key.len != 18 || key.p[0] != 'g') break;
		if (key.p[9] == DELETION_MOVED && value_u64(kv_iter_value(it), GTAG_STORE, 0, &store) && store == drive)
			count++;
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err < 0 ? err : count;
}

static int drive_finish(struct jobs *j, struct drive *drive)
{
	struct packs_of_drive left;
	struct drive_info info;
	int err = 0;

	drive_get_info(drive, &info);
	packs_count_drive(j->o.packs, drive, &left);
	if (info.writing > 0 || left.packs > 0) return 0;
	/* From one that cannot be written nothing can be deleted: it goes with what is on it. */
	if (drive_may_write(drive)) err = waiting_count(j, drive_id(drive));
	if (err == 0 && drive_may_write(drive)) err = (int)packs_left_on(j->o.packs, drive);
	if (err != 0) return err < 0 ? err : 0;
	err = drive_set_state(drive, DRIVE_DRAINED, 0);
	if (err < 0) return err;
	(void)drive_probe(drive, false); /* lets go of it */
	log_info("a drive is drained; it can be taken away; path='%s' drive=%016" PRIx64, drive_path(drive),
		drive_id(drive));
	return 0;
}

static int drain_drive(struct jobs *j, struct drive *drive, bool *more)
{
	int res = move_some(j, drive, clock_mono_ns() + DRAIN_SLICE_NS);

	if (res > 0) *more = true;
	if (res < 0 && res != -GRANARY_ESHUTDOWN)
		log_warn("cannot drain '%s' now: %s; tried again by the next pass", drive_path(drive), error_text(res));
	return res == 0 && drive_state(drive) == DRIVE_DRAINING ? drive_finish(j, drive) : res < 0 ? res : 0;
}

/* Delayed deletion: of what a pack was copied of (FORMAT 6.17, kind 3). */
static int remove_moved(struct jobs *j)
{
	struct kv_iter *it = kv_iter_new(j->o.kv, NULL);
	struct kv_txn *txn = kv_txn_new(j->o.kv);
	uint64_t now = store_clock_now(j->o.clock), delay = j->o.removal_delay_ns;
	int err = it && txn ? 0 : -GRANARY_ENOMEM, first = 0;
	uint32_t n = 0;

	if (err == 0) kv_iter_seek(it, slice_str("g"));
	for (; err == 0 && kv_iter_valid(it) && n < DELETIONS_A_PASS; kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (key.len != 18 || key.p[0] != 'g') break;
		if (key.p[9] != DELETION_MOVED || now < be64_get(key.p + 1) + delay) continue;
		int res = packs_remove_moved(j->o.packs, be64_get(key.p + 10), kv_iter_value(it));
		if (res < 0 && res != -GRANARY_EOFFLINE && first == 0) first = res;
		if (res < 0) continue;
		kv_delete(txn, key);
		n++;
	}
	if (err == 0) err = kv_iter_error(it);
	if (it) kv_iter_free(&it);
	if (err == 0 && n > 0) err = kv_submit_wait(j->o.kv, txn);
	kv_txn_free(&txn);
	return err < 0 ? err : first;
}

int drain_pass(struct jobs *j, bool *more)
{
	struct drives *drives = packs_drives(j->o.packs);
	int first = remove_moved(j), left = packs_remove_left(j->o.packs, j->o.removal_delay_ns);

	if (first == 0) first = left;

	for (uint32_t i = 0; i < drives_count(drives) && !jobs_stopping(j); i++) {
		struct drive *drive = drives_at(drives, i);
		if (drive_state(drive) != DRIVE_DRAINING || !drive_may_read(drive)) continue;
		writers_rotate(j->o.writers, false);
		int err = drain_drive(j, drive, more);
		if (first == 0 && err != -GRANARY_ENOSPACE && err != -GRANARY_EOFFLINE) first = err;
	}
	return first == -GRANARY_ESHUTDOWN ? 0 : first;
}
