/* SPDX-License-Identifier: Apache-2.0 */
/* live_file.c -- what is written to a file on its way to the server.
 *
 * (1) what is written goes into the file's filling batch, in the order of the calls: bytes that follow the last ones
 *     grow that piece, others are a piece of their own. A batch is one change of the server's: all or nothing.
 * (2) batches wait in order; one runs beside others only if they touch no byte in common and nothing cuts or punches.
 *     So the server is shown every byte in the order of the calls; holes may be there for a while.
 * (3) the first batch of a fresh file makes it: nothing runs beside it.
 * (4) a batch keeps its bytes until the server answered: a call is repeated by the library until its deadline.
 *     Small ones are answered before they are durable, and the library keeps them; large ones when they are.
 * (5) what fails is told once to every handle that was open, by its next flush or fsync; later batches still go. */
#include "fuse/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fuse/log.h"

enum {
	BATCH_BYTES = 4 * 1024 * 1024, /* one extent of the server's */
	BATCH_FIRST = 16 * 1024,
	PIECES_MAX = 1024,
	RUNNING_MAX = 8,
	UNSTABLE_MAX = 256 * 1024, /* above, a batch is answered when it is durable */
	WAIT_MS = 100,
};

struct piece {
	uint32_t kind;
	uint64_t offset, length, at; /* at: of its bytes in the batch */
};
struct live_batch {
	struct pool_task task;
	struct live_batch *next;
	struct live_file *file;
	struct piece *pieces;
	uint32_t count, room;
	uint8_t *bytes;
	size_t used, size;
	uint64_t low, high; /* what it touches */
	uint64_t since_ns;
	uint64_t file_size, mtime_ns; /* of the file after it */
	bool is_barrier;    /* it cuts or punches */
	bool is_alone;      /* nothing else was on its way when it began */
	bool makes;         /* the file is fresh */
};

static void room_give(struct live *l, uint64_t bytes);

/* ---- refs ---- */

static void cond_init(pthread_cond_t *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
}

static struct live_file *file_new(struct live *l, struct live_node *n)
{
	struct live_file *f = calloc(1, sizeof(*f));

	if (!f) return NULL;
	f->live = l;
	f->node = n;
	f->opened_ns = live_clock_ns();
	f->size = n->stat.size;
	f->mtime_ns = n->stat.mtime_ns;
	f->ctime_ns = n->inode.ctime_ns;
	f->version = n->stat.version;
	f->waiting_last = &f->waiting;
	pthread_mutex_init(&f->lock, NULL);
	cond_init(&f->changed);
	n->file = f;
	n->uses++;
	return f;
}

struct live_file *file_open(struct live *l, struct live_node *n)
{
	pthread_mutex_lock(&l->lock);
	struct live_file *f = n->file ? n->file : file_new(l, n);
	if (f) f->refs++;
	pthread_mutex_unlock(&l->lock);
	return f;
}

static void batch_free(struct live_batch *b)
{
	if (!b) return;
	free(b->pieces);
	free(b->bytes);
	free(b);
}

/* The mount's lock held. */
static void lists_leave(struct live_file *f)
{
	if (f->at_dirty) {
		*f->at_dirty = f->next_dirty;
		if (f->next_dirty) f->next_dirty->at_dirty = f->at_dirty;
		f->at_dirty = NULL;
	}
	if (f->at_fresh) {
		*f->at_fresh = f->next_fresh;
		if (f->next_fresh) f->next_fresh->at_fresh = f->at_fresh;
		f->at_fresh = NULL;
	}
}

void file_close(struct live_file *f)
{
	struct live *l = f->live;

	pthread_mutex_lock(&l->lock);
	bool last = --f->refs == 0;
	if (last) {
		f->node->file = NULL;
		lists_leave(f);
	}
	pthread_mutex_unlock(&l->lock);
	if (!last) return;
	node_put(l, f->node);
	granary_file_close(&f->kept);
	if (f->filling) room_give(l, f->filling->size);
	batch_free(f->filling);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

/* ---- memory ---- */

static void room_give(struct live *l, uint64_t bytes)
{
	pthread_mutex_lock(&l->lock);
	l->unwritten -= bytes;
	pthread_cond_broadcast(&l->room);
	pthread_mutex_unlock(&l->lock);
}

static void wait_a_while(pthread_cond_t *cond, pthread_mutex_t *lock)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WAIT_MS * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(cond, lock, &until);
}

/* Takes room for so many bytes, if it is there. One batch is always let in. */
static bool room_take(struct live *l, uint64_t bytes)
{
	pthread_mutex_lock(&l->lock);
	bool is_there = l->unwritten == 0 || l->unwritten + bytes <= l->unwritten_max;
	if (is_there) l->unwritten += bytes;
	pthread_mutex_unlock(&l->lock);
	return is_there;
}

/* ---- to the server: no lock held ---- */

static void change_of(const struct live_batch *b, const struct piece *p, struct granary_change *out)
{
	*out = (struct granary_change){ .kind = p->kind, .offset = p->offset, .length = p->length };
	if (p->kind == GRANARY_CHANGE_DATA) out->data = b->bytes + p->at;
}

/* if_version: of which we know that it is ours; 0: any. Another: somebody else wrote, and what the kernel holds of the
 * file is not all of it any more. */
static int changes_send(struct live_batch *b, struct granary_ref ref, uint64_t if_version, struct granary_written *out,
	const struct granary_call *call)
{
	struct granary_change *changes = calloc(b->count, sizeof(*changes));
	struct granary_write options = GRANARY_INIT(granary_write);

	if (!changes) return -GRANARY_ENOMEM;
	options.mtime_ns = b->mtime_ns;
	options.if_version = if_version;
	for (uint32_t i = 0; i < b->count; i++) change_of(b, &b->pieces[i], &changes[i]);
	int err = granary_change(b->file->live->client, ref, changes, b->count, &options, out, call);
	if (err == -GRANARY_EPRECONDITION) {
		pthread_mutex_lock(&b->file->lock);
		b->file->exact = false;
		pthread_mutex_unlock(&b->file->lock);
		options.if_version = 0;
		err = granary_change(b->file->live->client, ref, changes, b->count, &options, out, call);
	}
	free(changes);
	return err;
}

/* The whole content, where it is small and has no holes: else NULL. */
static uint8_t *content_of(const struct live_batch *b, uint64_t size)
{
	uint8_t *bytes = size > 0 && size <= b->used ? calloc(1, size) : NULL;

	for (uint32_t i = 0; bytes && i < b->count; i++) {
		const struct piece *p = &b->pieces[i];
		uint64_t from = p->offset < size ? p->offset : size;
		uint64_t end = p->length > size - from ? size : from + p->length;
		if (p->kind == GRANARY_CHANGE_TRUNCATE)
			memset(bytes + from, 0, size - from);
		else if (p->kind == GRANARY_CHANGE_DATA)
			memcpy(bytes + from, b->bytes + p->at, end - from);
		else
			memset(bytes + from, 0, end - from);
	}
	return bytes;
}

static bool content_is_batch(const struct live_batch *b, uint64_t size)
{
	return b->count == 1 && b->pieces[0].kind == GRANARY_CHANGE_DATA && b->pieces[0].offset == 0 &&
	       b->pieces[0].length == size;
}

/* The one attribute that a put does not give. */
static int atime_set(struct live *l, struct granary_ref ref, uint64_t atime_ns, const struct granary_call *call)
{
	struct granary_setattr set = GRANARY_INIT(granary_setattr);

	if (atime_ns == 0) return 0;
	set.set = GRANARY_SET_ATIME;
	set.atime_ns = atime_ns;
	return granary_setattr(l->client, ref, &set, call);
}

/* One put: the name must not be there yet. */
static int batch_make(struct live_batch *b, uint64_t mtime_ns, struct granary_written *out,
	const struct granary_call *call)
{
	struct live_file *f = b->file;
	struct live *l = f->live;
	char name[LIVE_NAME_MAX + 1];
	struct granary_ref ref = node_ref(l, f->node, name);
	uint8_t *whole = NULL;
	uint64_t atime, size = b->file_size;

	pthread_mutex_lock(&l->lock);
	struct granary_put put = { .ref = granary_ref_name(ref.dir_id, name),
		.flags = GRANARY_PUT_IF_ABSENT | GRANARY_PUT_MODE | GRANARY_PUT_MTIME | GRANARY_PUT_ID,
		.mode = f->node->stat.mode,
		.uid = f->node->stat.uid,
		.gid = f->node->stat.gid,
		.mtime_ns = mtime_ns,
		.object_id = ref.object_id };
	atime = f->node->inode.atime_ns;
	pthread_mutex_unlock(&l->lock);
	bool direct = content_is_batch(b, size);
	if (!direct) whole = content_of(b, size);
	if (direct || whole) {
		put.data = direct ? b->bytes : whole;
		put.size = size;
	}
	int64_t done = granary_put_batch(l->client, &put, 1, call);
	free(whole);
	int err = done < 0 ? (int)done : put.status;
	if (err == -GRANARY_EPRECONDITION) err = -GRANARY_EEXIST;
	*out = (struct granary_written){ put.object_id, put.version, put.size };
	if (err == 0 && atime != 0) err = atime_set(l, ref, atime, call);
	b->mtime_ns = mtime_ns; /* it may have been set since the bytes were written */
	if (err == 0 && !direct && !whole && b->count > 0) err = changes_send(b, ref, put.version, out, call);
	return err;
}

static void batches_start(struct live_file *f);
static void file_dirty_end(struct live_file *f);

static void batch_run(struct pool_task *task)
{
	struct live_batch *b = (struct live_batch *)task, **at;
	struct live_file *f = b->file;
	struct live *l = f->live;
	struct granary_written out = { .version = 0 };
	struct granary_call call = { .size = sizeof(call),
		.bucket = l->bucket,
		.timeout_ms = l->options->hard ? GRANARY_FOREVER : l->options->deadline_ms,
		.flags = b->used <= UNSTABLE_MAX ? GRANARY_UNSTABLE : 0 };
	char name[LIVE_NAME_MAX + 1];
	struct granary_ref ref = node_ref(l, f->node, name);
	int err = 0;

	pthread_mutex_lock(&f->lock);
	uint64_t mtime = f->mtime_ns, version = f->exact && b->is_alone ? f->version : 0;
	bool lost = f->lost;
	pthread_mutex_unlock(&f->lock);
	struct live_handle *locker = live_locker_get(f, &call.file);
	if (lost)
		err = -GRANARY_EIO;
	else if (b->makes)
		err = batch_make(b, mtime, &out, &call);
	else if (b->count > 0)
		err = changes_send(b, ref, version, &out, &call);
	if (err == -GRANARY_ESTALE && locker && live_lock_is_lost(locker)) err = -GRANARY_EIO;
	if (locker) handle_put(locker);
	pthread_mutex_lock(&f->lock);
	for (at = &f->running; *at != b;) at = &(*at)->next;
	*at = b->next;
	f->running_count--;
	if (err == 0 && out.version > f->version) f->version = out.version;
	if (!b->is_alone) f->exact = false;
	if (err == 0 && b->makes) f->fresh = false;
	if (err < 0 && b->makes) f->lost = true;
	if (err < 0 && !f->node->unlinked) {
		log_say("cannot write '%.255s': %s", name, granary_last_error(l->client));
		f->error = live_errno(err);
		f->error_count++;
		f->exact = false;
	}
	batches_start(f);
	if (!f->running && !f->waiting && !f->filling) file_dirty_end(f);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	room_give(l, b->size);
	batch_free(b);
	file_close(f);
}

/* Nothing is on its way any more: what the server has is what we show. Locked. */
static void file_dirty_end(struct live_file *f)
{
	struct live *l = f->live;

	if (!f->dirty || f->fresh) return;
	f->dirty = false;
	f->sparse = false;
	pthread_mutex_lock(&l->lock);
	f->node->cached_version = f->exact ? f->version : 0;
	f->node->stat.size = f->size;
	f->node->stat.mtime_ns = f->mtime_ns;
	f->node->stat.version = f->version;
	f->node->attr_epoch = 0; /* the server's own times are asked for */
	l->changes++;
	if (f->at_fresh) {
		*f->at_fresh = f->next_fresh;
		if (f->next_fresh) f->next_fresh->at_fresh = f->at_fresh;
		f->at_fresh = NULL;
	}
	pthread_mutex_unlock(&l->lock);
}

static bool may_run(const struct live_file *f, const struct live_batch *b)
{
	if (f->running_count >= RUNNING_MAX) return false;
	for (const struct live_batch *r = f->running; r; r = r->next)
		if (r->makes || r->is_barrier || b->is_barrier || (r->low < b->high && b->low < r->high)) return false;
	return true;
}

/* Locked. */
static void batches_start(struct live_file *f)
{
	struct live *l = f->live;

	while (f->waiting && may_run(f, f->waiting)) {
		struct live_batch *b = f->waiting;
		f->waiting = b->next;
		if (!f->waiting) f->waiting_last = &f->waiting;
		b->makes = f->fresh;
		b->is_alone = !f->running && !f->waiting;
		for (struct live_batch *r = f->running; r; r = r->next) r->is_alone = false;
		b->next = f->running;
		f->running = b;
		f->running_count++;
		pthread_mutex_lock(&l->lock);
		f->refs++;
		pthread_mutex_unlock(&l->lock);
		b->task.run = batch_run;
		pool_add(l->writers, &b->task);
	}
}

/* Locked. What is being filled goes on its way. */
static void batch_seal(struct live_file *f)
{
	struct live *l = f->live;
	struct live_batch *b = f->filling;

	if (!b) return;
	f->filling = NULL;
	b->next = NULL;
	*f->waiting_last = b;
	f->waiting_last = &b->next;
	pthread_mutex_lock(&l->lock);
	if (f->at_dirty) {
		*f->at_dirty = f->next_dirty;
		if (f->next_dirty) f->next_dirty->at_dirty = f->at_dirty;
		f->at_dirty = NULL;
	}
	pthread_mutex_unlock(&l->lock);
	batches_start(f);
}

/* ---- filling ---- */

/* Locked. */
static struct live_batch *batch_get(struct live_file *f)
{
	struct live *l = f->live;

	if (f->filling) return f->filling;
	struct live_batch *b = calloc(1, sizeof(*b));
	if (!b) return NULL;
	b->file = f;
	b->low = UINT64_MAX;
	b->since_ns = live_clock_ns();
	f->filling = b;
	pthread_mutex_lock(&l->lock);
	f->next_dirty = l->dirty;
	f->at_dirty = &l->dirty;
	if (f->next_dirty) f->next_dirty->at_dirty = &f->next_dirty;
	l->dirty = f;
	pthread_mutex_unlock(&l->lock);
	return b;
}

/* -EAGAIN: there is no room now. */
static int bytes_grow(struct live_batch *b, size_t want)
{
	struct live *l = b->file->live;
	size_t size = b->size > 0 ? b->size : BATCH_FIRST;

	while (size < b->used + want) size *= 4;
	if (size > BATCH_BYTES) size = BATCH_BYTES;
	if (size <= b->size) return 0;
	if (!room_take(l, size - b->size)) return -EAGAIN;
	uint8_t *bytes = realloc(b->bytes, size);
	if (!bytes) {
		room_give(l, size - b->size);
		return -ENOMEM;
	}
	b->bytes = bytes;
	b->size = size;
	return 0;
}

static struct piece *piece_add(struct live_batch *b, uint32_t kind, uint64_t offset, uint64_t length)
{
	if (b->count == b->room) {
		uint32_t room = b->room > 0 ? 4 * b->room : 4;
		struct piece *pieces = realloc(b->pieces, room * sizeof(*pieces));
		if (!pieces) return NULL;
		b->pieces = pieces;
		b->room = room;
	}
	struct piece *p = &b->pieces[b->count++];
	*p = (struct piece){ kind, offset, length, b->used };
	return p;
}

static void batch_touches(struct live_batch *b, uint64_t offset, uint64_t end)
{
	b->low = offset < b->low ? offset : b->low;
	b->high = end > b->high ? end : b->high;
}

static void file_touched(struct live_file *f, struct live_batch *b)
{
	f->mtime_ns = f->ctime_ns = live_now_ns();
	f->dirty = f->touched = true;
	b->file_size = f->size;
	b->mtime_ns = f->mtime_ns;
}

/* Locked; there is room for the bytes. */
static int bytes_put(struct live_file *f, uint64_t offset, const uint8_t *data, size_t len)
{
	struct live_batch *b = f->filling;
	struct piece *last = b->count > 0 ? &b->pieces[b->count - 1] : NULL;

	if (last && last->kind == GRANARY_CHANGE_DATA && offset >= last->offset &&
		offset + len <= last->offset + last->length) {
		memcpy(b->bytes + last->at + (offset - last->offset), data, len);
	} else {
		if (last && last->kind == GRANARY_CHANGE_DATA && last->offset + last->length == offset)
			last->length += len;
		else if (!piece_add(b, GRANARY_CHANGE_DATA, offset, len))
			return -ENOMEM;
		memcpy(b->bytes + b->used, data, len);
		b->used += len;
	}
	batch_touches(b, offset, offset + len);
	if (offset > f->size) f->sparse = true;
	if (offset + len > f->size) f->size = offset + len;
	file_touched(f, b);
	if (b->used == BATCH_BYTES || b->count == PIECES_MAX) batch_seal(f);
	return 0;
}

int file_write(struct live_file *f, uint64_t offset, const uint8_t *data, size_t len, bool wait_lock)
{
	int err = 0;

	if (!wait_lock && pthread_mutex_trylock(&f->lock) != 0) return -EAGAIN;
	if (wait_lock) pthread_mutex_lock(&f->lock);
	struct live_batch *b = batch_get(f);
	if (b && BATCH_BYTES - b->used < len) {
		batch_seal(f);
		b = batch_get(f);
	}
	err = b ? bytes_grow(b, len) : -ENOMEM;
	if (err == 0) err = bytes_put(f, offset, data, len);
	if (err == -EAGAIN) batch_seal(f); /* room comes when it is written */
	pthread_mutex_unlock(&f->lock);
	return err;
}

void live_room_wait(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	wait_a_while(&l->room, &l->lock);
	pthread_mutex_unlock(&l->lock);
}

int file_change(struct live_file *f, uint32_t kind, uint64_t offset, uint64_t length)
{
	int err = 0;

	pthread_mutex_lock(&f->lock);
	struct live_batch *b = batch_get(f);
	if (!b || !piece_add(b, kind, offset, length)) err = -ENOMEM;
	if (err == 0) {
		batch_touches(b, offset, UINT64_MAX);
		b->is_barrier = true;
		f->sparse = true;
		if (kind == GRANARY_CHANGE_TRUNCATE) f->size = offset;
		if (kind == GRANARY_CHANGE_ZEROS && offset + length > f->size) f->size = offset + length;
		file_touched(f, b);
		if (b->count == PIECES_MAX) batch_seal(f);
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

/* ---- until it is there ---- */

bool file_is_clean(struct live_file *f)
{
	pthread_mutex_lock(&f->lock);
	bool clean = !f->fresh && !f->filling && !f->waiting && !f->running;
	pthread_mutex_unlock(&f->lock);
	return clean;
}

/* Locked. */
static int file_send_locked(struct live_file *f)
{
	if (f->fresh && !f->lost && !f->filling && !f->waiting && !f->running) {
		struct live_batch *b = batch_get(f); /* an empty one makes it */
		if (!b) return -ENOMEM;
		b->file_size = f->size;
		b->mtime_ns = f->mtime_ns;
		f->dirty = true;
	}
	batch_seal(f);
	return 0;
}

void file_send(struct live_file *f)
{
	pthread_mutex_lock(&f->lock);
	(void)file_send_locked(f);
	pthread_mutex_unlock(&f->lock);
}

int file_flush(struct job *j, struct live_file *f)
{
	pthread_mutex_lock(&f->lock);
	int err = file_send_locked(f);
	while (err == 0 && (f->waiting || f->running)) {
		wait_a_while(&f->changed, &f->lock);
		if (f->waiting || f->running) err = job_over(j);
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

void file_age(struct live_file *f)
{
	enum { AGE_NS = 500 * 1000 * 1000 };

	pthread_mutex_lock(&f->lock);
	uint64_t since = f->filling ? f->filling->since_ns : f->fresh ? f->opened_ns : UINT64_MAX;
	if (since != UINT64_MAX && (f->live->stop || live_clock_ns() - since > AGE_NS) && !f->node->unlinked)
		(void)file_send_locked(f);
	pthread_mutex_unlock(&f->lock);
}

int handle_error(struct live_handle *h)
{
	struct live_file *f = h->file;
	int err = 0;

	pthread_mutex_lock(&f->lock);
	if (f->error_count != h->errors_seen) err = f->error;
	h->errors_seen = f->error_count;
	pthread_mutex_unlock(&f->lock);
	return err;
}
