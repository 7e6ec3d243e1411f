/* SPDX-License-Identifier: Apache-2.0 */
/* live_lock.c -- flock and fcntl locks: they are the server's, so that all mounts see them.
 *
 * (1) a lock is asked for through what the handle has open at the server; a file made here goes there first.
 * (2) who waits for a lock waits as long as it takes, in a thread of a pool of its own, until any signal comes: what is
 *     granted then is given back.
 * (3) a handle whose locks are lost (the server did not hear of us for a lease) is told by EIO for whatever is done
 *     with it from then on. What is written to a file after it was locked names the lock, so that the server refuses it
 *     whenever it comes: what was written before goes there before another lock is asked for, or one is given up. */
#include "fuse/live.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "fuse/log.h"

enum { WAIT_MS = 100 };

static uint32_t type_of(uint32_t type)
{
	return type == F_RDLCK ? GRANARY_LOCK_SHARED : type == F_WRLCK ? GRANARY_LOCK_EXCLUSIVE : GRANARY_LOCK_NONE;
}

static int lock_errno(int err)
{
	return err == -GRANARY_ELOCKED ? -EAGAIN : err == -GRANARY_ECANCELED ? -EINTR : live_errno(err);
}

/* What the handle has open at the server: 0 and *out. */
static int opened_of(struct job *j, struct live_handle *h, struct granary_file **out)
{
	struct live *l = j->live;
	int err = 0;

	*out = h->opened;
	if (*out) return 0;
	err = file_flush(j, h->file);
	if (err == 0) err = live_keep(j, h->file);
	pthread_mutex_lock(&l->lock);
	*out = h->file->kept;
	pthread_mutex_unlock(&l->lock);
	return err < 0 ? err : *out ? 0 : -ENOLCK;
}

static struct granary_lock lock_of(const struct fuse_lk_in *in)
{
	return (struct granary_lock){ .owner = in->owner,
		.start = in->lk_flags & FUSE_LK_FLOCK ? 0 : in->lk.start,
		.end = in->lk_flags & FUSE_LK_FLOCK || in->lk.end >= INT64_MAX ? UINT64_MAX : in->lk.end,
		.kind = in->lk_flags & FUSE_LK_FLOCK ? GRANARY_LOCK_WHOLE : GRANARY_LOCK_RANGE,
		.type = type_of(in->lk.type),
		.pid = in->lk.pid };
}

int live_getlk(struct job *j)
{
	struct fuse_lk_in in;
	struct fuse_lk_out out = { .lk = { .type = F_UNLCK } };
	struct granary_file *file;

	memcpy(&in, j->arg, sizeof(in));
	int err = opened_of(j, (struct live_handle *)(uintptr_t)in.fh, &file);
	if (err < 0) return err;
	struct granary_lock lock = lock_of(&in);
	struct granary_call call = live_call(j, false);
	err = granary_file_lock_test(file, &lock, &call);
	if (err < 0) return lock_errno(err);
	if (lock.type != GRANARY_LOCK_NONE) {
		out.lk.type = lock.type == GRANARY_LOCK_SHARED ? F_RDLCK : F_WRLCK;
		out.lk.start = lock.start;
		out.lk.end = lock.end > INT64_MAX ? INT64_MAX : lock.end;
		out.lk.pid = lock.is_ours ? lock.pid : 0; /* of another machine it means nothing here */
	}
	return job_out(j, &out, sizeof(out));
}

/* Nobody waits any more: what was granted is given back. */
static void give_back(struct job *j, struct granary_file *file, struct granary_lock lock)
{
	struct granary_call call = live_call(j, false);

	lock.type = GRANARY_LOCK_NONE;
	call.timeout_ms = j->live->options->deadline_ms; /* the job waited for longer, maybe */
	if (granary_file_lock(file, &lock, 0, &call) < 0)
		log_say("a lock that nobody waited for any more stays until its file is closed: %s",
			granary_last_error(j->live->client));
}

static int wait_for(struct job *j, struct granary_file *file, const struct granary_lock *lock)
{
	struct granary_call call = live_call(j, false);
	struct granary_op *op;
	int64_t got;

	call.timeout_ms = GRANARY_FOREVER;
	int err = granary_file_lock_start(file, lock, GRANARY_LOCK_WAIT, &call, &op);
	if (err < 0) return lock_errno(err);
	while ((got = granary_wait(op, WAIT_MS)) == -GRANARY_EAGAIN && !granary_op_done(op))
		if (atomic_load(&j->state) == JOB_ANSWERED || j->live->stop) granary_op_cancel(op);
	granary_op_free(&op);
	if (got == 0 && atomic_load(&j->state) == JOB_ANSWERED) give_back(j, file, *lock);
	return lock_errno((int)got);
}

static void locker_set(struct live_handle *h)
{
	struct live *l = h->file->live;
	struct live_handle *before;

	pthread_mutex_lock(&l->lock);
	before = h->file->locker;
	if (before != h) {
		atomic_fetch_add(&h->refs, 1);
		h->file->locker = h;
	}
	pthread_mutex_unlock(&l->lock);
	if (before && before != h) handle_put(before);
}

void live_locker_drop(struct live_handle *h)
{
	struct live *l = h->file->live;

	pthread_mutex_lock(&l->lock);
	bool is_it = h->file->locker == h;
	if (is_it) h->file->locker = NULL;
	pthread_mutex_unlock(&l->lock);
	if (is_it) handle_put(h);
}

struct live_handle *live_locker_get(struct live_file *f, struct granary_file **opened)
{
	pthread_mutex_lock(&f->live->lock);
	struct live_handle *h = f->locker;
	if (h) atomic_fetch_add(&h->refs, 1);
	*opened = h ? h->opened ? h->opened : f->kept : NULL;
	pthread_mutex_unlock(&f->live->lock);
	return h;
}

int live_setlk(struct job *j)
{
	struct fuse_lk_in in;
	struct granary_file *file;

	memcpy(&in, j->arg, sizeof(in));
	struct live_handle *h = (struct live_handle *)(uintptr_t)in.fh;
	struct granary_lock lock = lock_of(&in);
	if (lock.type == GRANARY_LOCK_NONE && !h->file->locked) return 0;
	int err = file_is_clean(h->file) ? 0 : file_flush(j, h->file);
	if (err == 0) err = opened_of(j, h, &file);
	if (err < 0) return err;
	h->file->locked = true; /* before: it may be granted and the answer lost */
	if (lock.type != GRANARY_LOCK_NONE) locker_set(h);
	if (j->opcode == FUSE_SETLKW && lock.type != GRANARY_LOCK_NONE) return wait_for(j, file, &lock);
	struct granary_call call = live_call(j, false);
	return lock_errno(granary_file_lock(file, &lock, 0, &call));
}

int live_unlock_all(struct job *j, struct live_handle *h, uint64_t owner, bool whole)
{
	struct granary_lock lock = { .owner = owner,
		.end = UINT64_MAX,
		.kind = whole ? GRANARY_LOCK_WHOLE : GRANARY_LOCK_RANGE,
		.type = GRANARY_LOCK_NONE };
	struct granary_call call = live_call(j, false);
	struct granary_file *file;

	if (!h->file->locked) return 0;
	int err = opened_of(j, h, &file);
	return err < 0 ? err : lock_errno(granary_file_lock(file, &lock, 0, &call));
}

bool live_lock_is_lost(const struct live_handle *h)
{
	struct granary_file *file = h->opened;

	if (!h->file->locked) return false;
	if (!file) { /* made here */
		pthread_mutex_lock(&h->file->live->lock);
		file = h->file->kept;
		pthread_mutex_unlock(&h->file->live->lock);
	}
	return file && granary_file_check(file) < 0;
}
