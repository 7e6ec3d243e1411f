/* SPDX-License-Identifier: Apache-2.0 */
/* live_io.c -- files that are open: making, opening, reading, writing, and what ends that.
 *
 * (1) open asks the server once: what it shows from then on is what was closed anywhere before. The bytes of a small
 *     file come in the same answer, and nobody waits for it in a thread. What the kernel holds of an older version it
 *     drops. The server is told of many closes at a time, within a tenth of a second; of one that had locks at once.
 * (2) a file is opened by the name under which it was looked up: where another one stands there by now, the kernel is
 *     told to look again (ESTALE).
 * (3) a file made here is shown by its number at once, and made by its first flush (live_file.c); one made with O_EXCL
 *     under a name that locks have is made before open returns, so that another mount sees it. */
#include "fuse/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuse/log.h"

#define FALLOC_KEEP  0x01 /* <linux/falloc.h> */
#define FALLOC_PUNCH 0x02
#define FALLOC_ZERO  0x10
#define COPY_MAX     (UINT64_C(1) << 30)

static struct live_handle *handle_of(const uint64_t fh) { return (struct live_handle *)(uintptr_t)fh; }

/* ---- handles ---- */

static struct live_handle *handle_new(struct live *l, struct live_node *n, uint32_t flags)
{
	struct live_handle *h = calloc(1, sizeof(*h));

	if (!h) return NULL;
	h->refs = 1;
	h->flags = flags;
	h->file = file_open(l, n);
	if (!h->file) {
		free(h);
		return NULL;
	}
	pthread_mutex_lock(&h->file->lock);
	h->errors_seen = h->file->error_count;
	pthread_mutex_unlock(&h->file->lock);
	return h;
}

static void handle_free(struct live_handle *h)
{
	granary_file_close(&h->opened);
	free(h->bytes);
	free(h);
}

void handle_put(struct live_handle *h)
{
	if (atomic_fetch_sub(&h->refs, 1) > 1) return;
	struct live *l = h->file->live;
	bool later = h->opened && !h->file->locked;
	file_send(h->file);
	file_close(h->file);
	if (!later) {
		handle_free(h);
		return;
	}
	free(h->bytes);
	h->bytes = NULL;
	pthread_mutex_lock(&l->lock);
	h->next_closed = l->closed;
	l->closed = h;
	pthread_mutex_unlock(&l->lock);
}

void live_close_now(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	struct live_handle *h = l->closed;
	l->closed = NULL;
	pthread_mutex_unlock(&l->lock);
	while (h) {
		struct live_handle *next = h->next_closed;
		handle_free(h);
		h = next;
	}
}

static void open_undo(struct job *j)
{
	handle_put(j->undo_arg);
	if (j->undo_node) node_forget(j->live, j->undo_node, 1);
}

/* ---- making ---- */

static bool id_take(struct live *l, uint64_t *id)
{
	pthread_mutex_lock(&l->lock);
	bool is_there = l->id_next < l->id_end;
	if (is_there) *id = l->id_next++;
	bool last = l->id_next == l->id_end;
	if (last) pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
	return is_there;
}

static bool is_lock_name(const char *name)
{
	static const char *const ends[] = { "lock", "LOCK", "lck", "pid" };
	size_t len = strlen(name);

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (len >= strlen(ends[i]) && strcmp(name + len - strlen(ends[i]), ends[i]) == 0) return true;
	return false;
}

static int fresh_make(struct job *j, uint64_t id, struct live_handle **out, struct live_node **node)
{
	struct live *l = j->live;
	struct fuse_create_in in;
	uint64_t now = live_now_ns();
	uint32_t uid, gid;
	bool inherits;

	memcpy(&in, j->arg, sizeof(in));
	live_owner(j, &uid, &gid, &inherits);
	struct granary_stat st = { .kind = GRANARY_FILE, .object_id = id, .mtime_ns = now,
		.dir_id = node_object(l, j->node), .mode = in.mode & 07777, .uid = uid, .gid = gid };
	struct granary_inode inode = { .ctime_ns = now, .nlink = 1 };
	struct live_node *n = *node = node_learn(l, st.dir_id, j->name, &st, &inode, 1, 0);
	struct live_handle *h = *out = n ? handle_new(l, n, in.flags) : NULL;
	if (!h) {
		if (n) node_forget(l, n->number, 1);
		node_put(l, n);
		return -ENOMEM;
	}
	node_dir_changed(l, st.dir_id, true);
	struct live_file *f = h->file;
	pthread_mutex_lock(&f->lock);
	f->fresh = f->exact = true;
	pthread_mutex_lock(&l->lock);
	f->next_fresh = l->fresh;
	f->at_fresh = &l->fresh;
	if (f->next_fresh) f->next_fresh->at_fresh = &f->next_fresh;
	l->fresh = f;
	pthread_mutex_unlock(&l->lock);
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static int create_answer(struct job *j, struct live_handle *h, struct live_node *n)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { .open = { .fh = (uintptr_t)h, .open_flags = FOPEN_KEEP_CACHE } };

	node_entry(j->live, n, &out.entry);
	out.entry.attr_valid = 0; /* a question for them is one that has to be asked */
	j->undo = open_undo;
	j->undo_arg = h;
	j->undo_node = n->number;
	node_put(j->live, n);
	return job_out(j, &out, sizeof(out));
}

bool live_create_now(struct job *j)
{
	struct fuse_create_in in;
	struct live_handle *h;
	struct live_node *n;
	uint64_t id;

	memcpy(&in, j->arg, sizeof(in));
	if (in.flags & O_EXCL && is_lock_name(j->name)) return false;
	if (!id_take(j->live, &id)) return false;
	j->error = fresh_make(j, id, &h, &n);
	if (j->error == 0) j->error = create_answer(j, h, n);
	return true;
}

int live_create(struct job *j)
{
	struct live *l = j->live;
	struct fuse_create_in in;
	struct live_handle *h;
	struct live_node *n;
	uint64_t id = 0;

	memcpy(&in, j->arg, sizeof(in));
	if (!id_take(l, &id)) {
		struct granary_call call = live_call(j, false);
		int err = live_errno(granary_ids(l->client, 1, &id, &call));
		if (err < 0) return err;
	}
	int err = fresh_make(j, id, &h, &n);
	if (err < 0) return err;
	if (in.flags & O_EXCL && is_lock_name(j->name)) {
		err = file_flush(j, h->file);
		if (err == 0) err = handle_error(h);
	}
	if (err == 0) return create_answer(j, h, n);
	node_lost_name(l, n);
	handle_put(h);
	node_forget(l, n->number, 1);
	node_put(l, n);
	return err;
}

/* ---- opening ---- */

/* Bytes that are worth asking for with the opening: of a small file that the kernel does not hold. 0: none. */
static size_t held_size(struct live *l, const struct live_node *n, uint32_t flags)
{
	bool reads = (flags & O_ACCMODE) != O_WRONLY && !(flags & O_TRUNC);

	pthread_mutex_lock(&l->lock);
	bool wanted = reads && (n->cached_version == 0 || n->cached_version != n->stat.version) &&
		      n->stat.size <= LIVE_INLINE_MAX;
	size_t size = wanted ? n->stat.size : 0;
	pthread_mutex_unlock(&l->lock);
	return size;
}

/* Opens it at the server, by its name or its id; the bytes of a small one are asked for in the same breath. */
static int open_ask(struct job *j, struct live_node *n, struct live_handle *h, bool by_name, struct granary_opened *out)
{
	struct live *l = j->live;
	struct granary_call call = live_call(j, false);
	struct granary_batch batch = GRANARY_INIT(granary_batch);
	struct granary_op *op = NULL;
	char name[LIVE_NAME_MAX + 1];
	struct granary_ref ref = node_ref(l, n, name);
	size_t size = held_size(l, n, h->flags);
	bool writes = (h->flags & O_ACCMODE) != O_RDONLY;

	if (by_name) ref = granary_ref_name(ref.dir_id, name);
	h->bytes = size > 0 ? malloc(size) : NULL;
	struct granary_entry e = { .ref = ref, .buf = h->bytes, .buf_size = size };
	batch.entries = &e;
	batch.count = 1;
	if (h->bytes && granary_read_batch_start(l->client, &batch, &call, &op) < 0) op = NULL;
	int err = granary_file_open(l->client, ref, (h->flags & O_ACCMODE) == O_WRONLY ? GRANARY_OPEN_WRITE
		: writes ? GRANARY_OPEN_READ | GRANARY_OPEN_WRITE : GRANARY_OPEN_READ, out, &call);
	bool good = op && granary_wait(op, GRANARY_FOREVER) == 1 && err == 0 && e.status == 0 &&
		    e.version == out->stat.version && e.data_len == size;
	granary_op_free(&op);
	if (!good) {
		free(h->bytes);
		h->bytes = NULL;
	}
	h->bytes_len = size;
	return err;
}

/* What the server shows of it from now on. */
static void open_learn(struct live *l, struct live_node *n, struct live_handle *h, const struct granary_opened *o,
	uint64_t asked, uint32_t *open_flags)
{
	struct live_file *f = h->file;

	pthread_mutex_lock(&l->lock);
	bool changed = n->stat.version != o->stat.version;
	if (n->cached_version == o->stat.version) *open_flags |= FOPEN_KEEP_CACHE;
	n->cached_version = o->stat.version;
	n->stat = o->stat;
	n->inode = o->inode;
	node_trust(l, n, asked, false);
	pthread_mutex_unlock(&l->lock);
	pthread_mutex_lock(&f->lock);
	if (!f->dirty) {
		f->exact = !f->touched || f->version == o->stat.version;
		f->size = o->stat.size;
		f->mtime_ns = o->stat.mtime_ns;
		f->ctime_ns = o->inode.ctime_ns;
		f->version = o->stat.version;
	}
	pthread_mutex_unlock(&f->lock);
	h->bytes_version = o->stat.version;
	h->opened = o->file;
	if (changed) live_notify_attributes(l, n->number);
}

/* Its bytes changed since: size and mtime came with them, the rest is asked for when it is wanted. Lock held. */
static void open_take_version(struct live *l, struct live_node *n, const struct granary_entry *e)
{
	n->stat.size = e->size;
	n->stat.mtime_ns = e->mtime_ns;
	n->stat.version = e->version;
	if (n->inode.ctime_ns < e->mtime_ns) n->inode.ctime_ns = e->mtime_ns;
	n->attr_epoch = 0;
	l->changes++;
}

/* Where another one stands under its name by now. */
static void open_was_moved(struct live *l, struct live_node *n)
{
	pthread_mutex_lock(&l->lock);
	n->was_moved = true; /* asked again it is opened by its id */
	pthread_mutex_unlock(&l->lock);
}

/* ---- without waiting: to read ---- */

struct opening {
	struct job *job;
	struct live_node *node;
	struct live_handle *handle;
	struct granary_entry entry;
	struct granary_file *file;
	bool by_name;
	char name[LIVE_NAME_MAX + 1];
};

static void opening_free(struct opening *o)
{
	struct live *l = o->job->live;

	if (o->handle) handle_put(o->handle);
	node_put(l, o->node);
	free(o);
}

static int opening_answer(struct opening *o)
{
	struct live *l = o->job->live;
	struct live_node *n = o->node;
	struct live_handle *h = o->handle;
	struct live_file *f = h->file;
	const struct granary_entry *e = &o->entry;
	struct fuse_open_out out = { .fh = (uintptr_t)h };

	pthread_mutex_lock(&l->lock);
	bool changed = n->stat.version != e->version;
	if (n->cached_version == e->version) out.open_flags |= FOPEN_KEEP_CACHE;
	n->cached_version = e->version;
	if (changed) open_take_version(l, n, e);
	uint64_t ctime_ns = n->inode.ctime_ns;
	pthread_mutex_unlock(&l->lock);
	pthread_mutex_lock(&f->lock);
	if (!f->dirty) {
		f->exact = !f->touched || f->version == e->version;
		f->size = e->size;
		f->mtime_ns = e->mtime_ns;
		f->ctime_ns = ctime_ns;
		f->version = e->version;
	}
	pthread_mutex_unlock(&f->lock);
	h->bytes_len = e->data_len;
	h->bytes_version = e->version;
	h->opened = o->file;
	if (changed) live_notify_attributes(l, n->number);
	o->job->undo = open_undo;
	o->job->undo_arg = h;
	o->handle = NULL;
	return job_out(o->job, &out, sizeof(out));
}

/* In a thread of the library. What goes wrong is gone through once more where it may take longer. */
static void opening_done(struct granary_op *op, int64_t result, void *arg)
{
	struct opening *o = arg;
	struct job *j = o->job;
	const struct granary_entry *e = &o->entry;
	int err = result < 0 ? (int)result : e->status;
	bool other = err == 0 && e->object_id != node_object(j->live, o->node->number);

	granary_op_free(&op);
	if (o->by_name && (err == -GRANARY_ENOTFOUND || err == -GRANARY_EISDIR || other)) {
		granary_file_close(&o->file);
		open_was_moved(j->live, o->node);
		err = -ESTALE; /* invariant (2) */
	} else if (err == 0) {
		err = opening_answer(o);
	} else {
		opening_free(o);
		job_to_thread(j);
		return;
	}
	opening_free(o);
	job_end(j, err);
}

/* What is asked for: all of a small file, else no byte. */
static bool opening_ask(struct opening *o)
{
	static uint8_t nowhere;
	struct live *l = o->job->live;
	struct live_node *n = o->node;
	struct granary_entry *e = &o->entry;
	size_t size = held_size(l, n, o->handle->flags);
	struct granary_call call = live_call(o->job, false);
	struct granary_op *op;

	pthread_mutex_lock(&l->lock);
	o->by_name = n->name && !n->was_moved && n->number != FUSE_ROOT_ID;
	pthread_mutex_unlock(&l->lock);
	e->ref = node_ref(l, n, o->name);
	if (o->by_name) e->ref = granary_ref_name(e->ref.dir_id, o->name);
	o->handle->bytes = size > 0 ? malloc(size) : NULL;
	e->flags = o->handle->bytes ? 0 : GRANARY_ENTRY_RANGE;
	e->buf = o->handle->bytes ? o->handle->bytes : &nowhere;
	e->buf_size = o->handle->bytes ? size : 0;
	call.flags = GRANARY_AT_ONCE;
	call.done = opening_done;
	call.arg = o;
	return granary_file_open_read_start(l->client, e, &o->file, &call, &op) == 0;
}

bool live_open_start(struct job *j)
{
	struct live *l = j->live;
	struct fuse_open_in in;
	struct opening *o = NULL;

	memcpy(&in, j->arg, sizeof(in));
	if ((in.flags & (O_ACCMODE | O_TRUNC)) != O_RDONLY) return false;
	struct live_node *n = node_get(l, j->node);
	pthread_mutex_lock(&l->lock);
	bool good = n && !n->unlinked && n->stat.kind == GRANARY_FILE && n->stat.version != 0;
	pthread_mutex_unlock(&l->lock);
	if (good) o = calloc(1, sizeof(*o));
	if (!o) {
		node_put(l, n);
		return false;
	}
	o->job = j;
	o->node = n;
	o->handle = handle_new(l, n, in.flags);
	if (o->handle && file_is_clean(o->handle->file) && opening_ask(o)) return true;
	opening_free(o);
	return false;
}

/* ---- where it may block ---- */

static int open_validate(struct job *j, struct live_node *n, struct live_handle *h, uint32_t *open_flags)
{
	struct live *l = j->live;
	struct granary_opened o = { .file = NULL };

	pthread_mutex_lock(&l->lock);
	bool by_name = n->name && !n->was_moved && n->number != FUSE_ROOT_ID;
	uint64_t asked = l->changes;
	pthread_mutex_unlock(&l->lock);
	int err = open_ask(j, n, h, by_name, &o);
	bool other = err == 0 && o.stat.object_id != node_object(l, n->number);
	if (by_name && (err == -GRANARY_ENOTFOUND || err == -GRANARY_EISDIR || other)) {
		granary_file_close(&o.file);
		open_was_moved(l, n);
		return -ESTALE; /* invariant (2) */
	}
	if (err < 0) return live_errno(err);
	open_learn(l, n, h, &o, asked, open_flags);
	return 0;
}

/* A file made here is not known to be open at the server; before its last name goes it has to be. */
int live_keep(struct job *j, struct live_file *f)
{
	struct live *l = j->live;
	struct granary_opened o = { .file = NULL };
	struct granary_call call = live_call(j, false);
	char name[LIVE_NAME_MAX + 1];

	pthread_mutex_lock(&l->lock);
	bool kept = f->kept;
	pthread_mutex_unlock(&l->lock);
	if (kept) return 0;
	int err = granary_file_open(
		l->client, node_ref(l, f->node, name), GRANARY_OPEN_READ | GRANARY_OPEN_WRITE, &o, &call);
	if (err < 0) return live_errno(err);
	pthread_mutex_lock(&l->lock);
	if (!f->kept) {
		f->kept = o.file;
		o.file = NULL;
	}
	pthread_mutex_unlock(&l->lock);
	granary_file_close(&o.file);
	return 0;
}

static int suid_drop(struct job *j, struct live_node *n, struct live_file *f)
{
	struct granary_setattr set = GRANARY_INIT(granary_setattr);

	pthread_mutex_lock(&j->live->lock);
	uint32_t mode = n->stat.mode & 07777, now = mode & ~(uint32_t)S_ISUID;
	pthread_mutex_unlock(&j->live->lock);
	if (mode & S_IXGRP) now &= ~(uint32_t)S_ISGID;
	if (now == mode) return 0;
	set.set = GRANARY_SET_MODE;
	set.mode = now;
	return live_set(j, n, f, &set);
}

int live_open_file(struct job *j)
{
	struct live *l = j->live;
	struct fuse_open_in in;
	struct live_node *n = node_get(l, j->node);

	memcpy(&in, j->arg, sizeof(in));
	if (!n) return -ESTALE;
	struct live_handle *h = handle_new(l, n, in.flags);
	struct fuse_open_out out = { .fh = (uintptr_t)h };
	int err = h ? 0 : -ENOMEM;
	if (err == 0 && !n->unlinked && file_is_clean(h->file)) err = open_validate(j, n, h, &out.open_flags);
	if (err == 0 && in.flags & O_TRUNC) {
		if (in.open_flags & FUSE_OPEN_KILL_SUIDGID) err = suid_drop(j, n, h->file);
		if (err == 0) err = file_change(h->file, GRANARY_CHANGE_TRUNCATE, 0, 0);
	}
	if (err == 0) {
		j->undo = open_undo;
		j->undo_arg = h;
		err = job_out(j, &out, sizeof(out));
	} else if (h) {
		handle_put(h);
	}
	node_put(l, n);
	return err;
}

/* ---- reading ---- */

/* Out of what came with open, while nobody wrote here since: how many bytes at *at. false: it has to be asked for. */
static bool held_find(struct live_handle *h, const struct fuse_read_in *in, const uint8_t **at, size_t *len)
{
	struct live_file *f = h->file;

	if (!h->bytes || f->locked) return false; /* locked: they may be of before */
	pthread_mutex_lock(&f->lock);
	bool good = !f->touched && !f->fresh && f->version == h->bytes_version;
	pthread_mutex_unlock(&f->lock);
	if (!good) return false;
	uint64_t from = in->offset < h->bytes_len ? in->offset : h->bytes_len;
	*at = h->bytes + from;
	*len = h->bytes_len - from < in->size ? h->bytes_len - from : in->size;
	return true;
}

bool live_read_now(struct job *j)
{
	struct fuse_read_in in;
	const uint8_t *at;
	size_t len;

	memcpy(&in, j->arg, sizeof(in));
	if (!held_find(handle_of(in.fh), &in, &at, &len) || len > j->request->out_cap) return false;
	j->shown = at;
	j->out_len = len;
	return true;
}

int live_read(struct job *j)
{
	struct live *l = j->live;
	struct fuse_read_in in;
	struct granary_batch batch = GRANARY_INIT(granary_batch);
	char name[LIVE_NAME_MAX + 1];

	memcpy(&in, j->arg, sizeof(in));
	struct live_handle *h = handle_of(in.fh);
	struct live_file *f = h->file;
	if (live_lock_is_lost(h)) return -EIO;
	int err = file_is_clean(f) ? 0 : file_flush(j, f);
	if (err < 0) return err;
	j->lent = live_buffer_get(l);
	if (!j->lent) return -ENOMEM;
	struct granary_call call = live_call(j, false);
	struct granary_entry e = { .ref = node_ref(l, f->node, name),
		.flags = GRANARY_ENTRY_RANGE,
		.offset = in.offset,
		.length = in.size < LIVE_BUFFER ? in.size : LIVE_BUFFER,
		.buf = j->lent,
		.buf_size = LIVE_BUFFER };
	batch.entries = &e;
	batch.count = 1;
	int64_t got = granary_read_batch(l->client, &batch, &call, NULL);
	err = got < 0 ? (int)got : e.status;
	if (live_lock_is_lost(h)) return -EIO; /* meanwhile */
	j->lent_len = err == 0 ? e.data_len : 0;
	return err == -GRANARY_ERANGE ? 0 : live_errno(err);
}

/* ---- writing ---- */

static int write_answer(struct job *j, uint32_t size)
{
	struct fuse_write_out out = { .size = size };

	return job_out(j, &out, sizeof(out));
}

bool live_write_now(struct job *j)
{
	struct fuse_write_in in;

	memcpy(&in, j->arg, sizeof(in));
	if (live_lock_is_lost(handle_of(in.fh))) return false;
	if (in.write_flags & FUSE_WRITE_KILL_SUIDGID || in.size > j->rest_len || in.size > MOUNT_READ_MAX) return false;
	if (in.size > 0 && file_write(handle_of(in.fh)->file, in.offset, j->rest, in.size, false) < 0) return false;
	j->error = write_answer(j, in.size);
	return true;
}

/* The bytes are the transport's: they are only looked at while the request is kept from being answered. */
int live_write(struct job *j)
{
	struct fuse_write_in in;
	int err = 0;

	memcpy(&in, j->arg, sizeof(in));
	if (live_lock_is_lost(handle_of(in.fh))) return -EIO;
	struct live_file *f = handle_of(in.fh)->file;
	if (in.size > j->rest_len || in.size > MOUNT_READ_MAX) return -EINVAL;
	if (in.write_flags & FUSE_WRITE_KILL_SUIDGID) err = suid_drop(j, f->node, f);
	while (err == 0 && in.size > 0) {
		int runs = JOB_RUNS;
		if (!atomic_compare_exchange_strong(&j->state, &runs, JOB_COPIES)) return -EINTR;
		err = file_write(f, in.offset, j->rest, in.size, true);
		atomic_store(&j->state, JOB_RUNS);
		if (err != -EAGAIN) break;
		err = job_over(j);
		if (err == 0) live_room_wait(j->live);
	}
	return err < 0 ? err : write_answer(j, in.size);
}

/* ---- the end of it ---- */

static int sync_all(struct job *j)
{
	struct granary_call call = live_call(j, false);

	int err = granary_sync(j->live->client, &call);
	if (err < 0) log_say("what was written may be lost: %s", granary_last_error(j->live->client));
	return live_errno(err);
}

static struct live_handle *flush_handle(const struct job *j, uint64_t *owner)
{
	struct fuse_flush_in in;

	memcpy(&in, j->arg, sizeof(in));
	*owner = in.lock_owner;
	return handle_of(in.fh);
}

bool live_flush_now(struct job *j)
{
	uint64_t owner;
	struct live_handle *h = flush_handle(j, &owner);

	if (h->file->locked) return false;
	if (!file_is_clean(h->file) || (j->live->options->close_durable && h->file->touched)) return false;
	j->error = (h->flags & O_ACCMODE) == O_RDONLY ? 0 : handle_error(h);
	return true;
}

int live_flush(struct job *j)
{
	uint64_t owner;
	struct live_handle *h = flush_handle(j, &owner);
	int err = (h->flags & O_ACCMODE) == O_RDONLY ? 0 : file_flush(j, h->file);

	if (err == 0) err = handle_error(h);
	(void)live_unlock_all(j, h, owner, false); /* after: what was written under a lock is there when it goes */
	return err == 0 && j->live->options->close_durable ? sync_all(j) : err;
}

bool live_release_now(struct job *j)
{
	struct fuse_release_in in;

	memcpy(&in, j->arg, sizeof(in));
	if (in.release_flags & FUSE_RELEASE_FLOCK_UNLOCK && handle_of(in.fh)->file->locked) return false;
	live_locker_drop(handle_of(in.fh));
	handle_put(handle_of(in.fh));
	return true;
}

int live_release(struct job *j)
{
	struct fuse_release_in in;

	memcpy(&in, j->arg, sizeof(in));
	(void)file_flush(j, handle_of(in.fh)->file);
	(void)live_unlock_all(j, handle_of(in.fh), in.lock_owner, true);
	live_locker_drop(handle_of(in.fh));
	handle_put(handle_of(in.fh));
	return 0;
}

int live_fsync(struct job *j)
{
	struct fuse_fsync_in in;

	memcpy(&in, j->arg, sizeof(in));
	struct live_handle *h = handle_of(in.fh);
	int err = live_lock_is_lost(h) ? -EIO : file_flush(j, h->file);
	if (err == 0) err = handle_error(h);
	return err == 0 ? sync_all(j) : err;
}

int live_fsyncdir(struct job *j)
{
	int err = live_settle_dir(j, 0);

	return err == 0 ? sync_all(j) : err;
}

/* ---- holes, ranges ---- */

int live_fallocate(struct job *j)
{
	struct fuse_fallocate_in in;

	memcpy(&in, j->arg, sizeof(in));
	struct live_file *f = handle_of(in.fh)->file;
	bool keep = in.mode & FALLOC_KEEP;
	if (live_lock_is_lost(handle_of(in.fh))) return -EIO;
	if (in.mode & ~(uint32_t)(FALLOC_KEEP | FALLOC_PUNCH | FALLOC_ZERO)) return -EOPNOTSUPP;
	if (in.offset > INT64_MAX || in.length > INT64_MAX - in.offset) return -EFBIG;
	pthread_mutex_lock(&f->lock);
	uint64_t size = f->size, end = in.offset + in.length;
	pthread_mutex_unlock(&f->lock);
	if (in.mode & FALLOC_PUNCH) {
		if (!keep) return -EOPNOTSUPP;
		return in.offset < size ? file_change(f, GRANARY_CHANGE_PUNCH, in.offset, in.length) : 0;
	}
	if (in.mode & FALLOC_ZERO) {
		if (!keep) return file_change(f, GRANARY_CHANGE_ZEROS, in.offset, in.length);
		return in.offset < size ? file_change(f, GRANARY_CHANGE_PUNCH, in.offset, in.length) : 0;
	}
	return keep || end <= size ? 0 : file_change(f, GRANARY_CHANGE_TRUNCATE, end, 0);
}

/* The first byte from `from` on that has data, or has none; -ENXIO behind the last. */
static int64_t seek(struct job *j, struct live_file *f, uint64_t from, bool data)
{
	enum { AT_ONCE = 256 };
	struct granary_call call = live_call(j, false);
	struct granary_stretch found[AT_ONCE];
	struct granary_written now;
	char name[LIVE_NAME_MAX + 1];
	int more = 1;

	for (uint64_t at = from; more;) {
		int64_t n = granary_map(j->live->client, node_ref(j->live, f->node, name), 0, at, found, AT_ONCE,
			&more, &now, &call);
		if (n < 0) return live_errno((int)n);
		if (from >= now.object_size) return -ENXIO;
		for (int64_t i = 0; i < n; i++) {
			if (data) return (int64_t)(found[i].offset > from ? found[i].offset : from);
			if (found[i].offset > at) return (int64_t)at;
			at = found[i].offset + found[i].length;
		}
		if (!more && data) return -ENXIO;
		if (!more || n == 0) return (int64_t)(at < now.object_size ? at : now.object_size);
	}
	return -EIO;
}

int live_lseek(struct job *j)
{
	struct fuse_lseek_in in;
	struct fuse_lseek_out out;

	memcpy(&in, j->arg, sizeof(in));
	struct live_file *f = handle_of(in.fh)->file;
	if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE) return -EINVAL;
	int err = file_flush(j, f);
	if (err < 0) return err;
	int64_t at = seek(j, f, in.offset, in.whence == SEEK_DATA);
	if (at < 0) return (int)at;
	out.offset = (uint64_t)at;
	return job_out(j, &out, sizeof(out));
}

/* By reference: no byte is moved. */
int live_copy_file_range(struct job *j)
{
	struct live *l = j->live;
	struct fuse_copy_file_range_in in;
	struct granary_written now;
	uint64_t copied = 0;
	char from_name[LIVE_NAME_MAX + 1], to_name[LIVE_NAME_MAX + 1];

	memcpy(&in, j->arg, sizeof(in));
	struct live_handle *from = handle_of(in.fh_in), *to = handle_of(in.fh_out);
	int err = file_flush(j, from->file);
	if (err == 0) err = file_flush(j, to->file);
	if (err == 0) err = handle_error(to);
	if (err == 0 && (live_lock_is_lost(from) || live_lock_is_lost(to))) err = -EIO;
	if (err < 0) return err;
	if (in.off_in >= from->file->size || in.len == 0) return write_answer(j, 0);
	struct granary_call call = live_call(j, true);
	struct live_handle *locker = live_locker_get(to->file, &call.file);
	err = granary_copy_range(l->client, node_ref(l, from->file->node, from_name), in.off_in,
		node_ref(l, to->file->node, to_name), in.off_out, in.len < COPY_MAX ? in.len : COPY_MAX, NULL, &copied,
		&now, &call);
	if (locker) handle_put(locker);
	if (err == -GRANARY_ERANGE) return write_answer(j, 0);
	if (err < 0) return live_lock_is_lost(to) ? -EIO : live_errno(err);
	struct live_file *f = to->file;
	uint64_t time = live_now_ns();
	pthread_mutex_lock(&f->lock);
	f->size = now.object_size > f->size ? now.object_size : f->size;
	f->version = now.version;
	f->mtime_ns = f->ctime_ns = time;
	f->touched = true;
	f->exact = false;
	pthread_mutex_lock(&l->lock);
	f->node->stat.size = f->size;
	f->node->stat.mtime_ns = time;
	f->node->stat.version = now.version;
	f->node->cached_version = 0;
	f->node->attr_epoch = 0;
	l->changes++;
	pthread_mutex_unlock(&l->lock);
	pthread_mutex_unlock(&f->lock);
	return write_answer(j, (uint32_t)copied);
}
