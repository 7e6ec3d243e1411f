/* SPDX-License-Identifier: Apache-2.0 */
/* file.c -- files that are open at the server, and telling it again what is open: PROTOCOL 5.20, granary/open.h.
 *
 * A file: granary_file_open_start() makes it, its operation owns it
 *   -> OPEN    file_opened(), the client's thread: the answer came; in io.files.open; the caller's
 *   -> CLOSED  granary_file_close(): in client->released, then in io.files.closed
 *   -> (freed) CLOSE is answered; or the client was closed
 *
 * Invariants: (1) after a connection was made where there was none, or to another start of the server, what is open is
 * announced before any other request is sent; what was answered before it was durable is sent again after that, and
 * files that were not there until then are announced once more behind it, as the last; (2) only then does the server
 * hear that this was all; (3) a file's status changes once, from 0 to why it is lost; (4) links belong to the client's
 * thread, while the client lives and in the process that opened it. */
#include "file_priv.h"

#include <stdlib.h>

enum { CLOSE_MAX = WIRE_BATCH_MAX, ANNOUNCE_MAX = 1024, LOCKS_MAX = WIRE_BATCH_MAX };

static struct granary_file *file_of(struct list *at) { return container_of(at, struct granary_file, link); }

static const char *last_component(const struct granary_ref *ref)
{
	const char *slash = ref->name && ref->kind == GRANARY_REF_KEY ? strrchr(ref->name, '/') : NULL;

	return slash ? slash + 1 : ref->name ? ref->name : "";
}

struct granary_file *file_new(struct granary_client *c, const struct granary_ref *ref, uint32_t access)
{
	const char *name = last_component(ref);
	struct granary_file *f = calloc(1, sizeof(*f) + strlen(name) + 1);

	if (!f)
		return NULL;
	list_init(&f->link);
	list_init(&f->release_link);
	list_init(&f->locks);
	f->refs = 1;
	f->client = c;
	client_ref(c);
	f->generation = atomic_load(&c->generation);
	f->handle = atomic_fetch_add(&c->files_count, 1) + 1;
	f->access = (uint8_t)access;
	memcpy(f->name, name, strlen(name) + 1);
	return f;
}

void file_ref(struct granary_file *f) { atomic_fetch_add(&f->refs, 1); }

void file_unref(struct granary_file *f)
{
	struct granary_client *c = f->client;

	if (atomic_fetch_sub(&f->refs, 1) > 1)
		return;
	lock_list_clear(&f->locks, 0);
	free(f);
	client_unref(c);
}

bool file_is_forked(const struct granary_file *f)
{
	return atomic_load(&f->client->generation) != f->generation || atomic_load(&f->client->forked);
}

/* ---- opening ---- */

static const struct rpc_kind open_rpc = {
	.wire_op = OP_OPEN, .in_order = true, .body_size = simple_body_size, .encode = simple_encode,
	.answer = simple_answer,
};

void file_take(struct granary_file *f, uint64_t object_id, uint64_t dir_id)
{
	f->object_id = object_id;
	f->dir_id = dir_id;
	f->is_opened = true;
	f->is_told = true;
	f->out = NULL;
	list_push(&f->client->io.files.open, &f->link);
	f->client->io.files.is_used = true;
}

void file_give_up(struct granary_file *f, bool is_sure)
{
	if (is_sure)
		file_unref(f);
	else
		granary_file_close(&f);
}

static int file_opened(struct simple_op *s, struct slice meta, struct slice data)
{
	struct granary_file *f = s->out;
	struct granary_opened *out = f->out;
	struct cur c = cur_of(meta.p, meta.len);

	(void)data;
	uint64_t state = cur_u64(&c);
	int err = stat_take(&c, &out->stat, &out->inode);
	if (!cur_done(&c) || err < 0)
		return -GRANARY_EPROTO;
	file_take(f, out->stat.object_id, out->stat.dir_id);
	files_state_is(f->client, state);
	out->file = f;
	return 0;
}

/* Where no answer came the server may have it open all the same. */
static void open_drop(struct simple_op *s)
{
	struct granary_file *f = s->out;
	int err = (int)s->op.result;

	if (!f->is_opened)
		file_give_up(f, !s->op.sent || (err != -GRANARY_ECANCELED && error_class(err) != ERROR_UNSURE));
}

static struct simple_op *open_new(struct granary_client *c, const struct granary_ref *ref, uint32_t access,
	struct granary_opened *out, const struct granary_call *call, struct wr *w, int *err)
{
	memset(out, 0, sizeof(*out));
	*err = refs_enter(c, ref, NULL);
	if (*err == 0 && (access == 0 || access > OPEN_FOR_ALL))
		*err = error_fail(c, -GRANARY_EINVAL, "a file is opened to be read, to be written, or both");
	if (*err < 0)
		return NULL;
	struct simple_op *s = simple_new(c, &open_rpc, call, 8 + 1 + ref_size(ref), w, err);
	if (!s)
		return NULL;
	struct granary_file *f = file_new(c, ref, access);
	if (!f) {
		op_free_quiet(&s->op);
		*err = error_fail(c, -GRANARY_ENOMEM, "out of memory");
		return NULL;
	}
	f->out = out;
	s->out = f;
	s->drop = open_drop;
	s->decode = file_opened;
	wr_u64(w, f->handle);
	wr_u8(w, f->access);
	ref_encode(w, ref);
	return s;
}

int granary_file_open_start(struct granary_client *client, struct granary_ref ref, uint32_t access,
	struct granary_opened *out, const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = open_new(client, &ref, access, out, call, &w, &err);

	if (op)
		*op = NULL;
	return s ? simple_start(s, &w, op) : err;
}

int granary_file_open(struct granary_client *client, struct granary_ref ref, uint32_t access,
	struct granary_opened *out, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = open_new(client, &ref, access, out, call, &w, &err);

	return s ? (int)simple_run(s, &w) : err;
}

struct granary_ref granary_file_ref(const struct granary_file *file)
{
	return granary_ref_id(file->object_id, file->dir_id, file->name);
}

int granary_file_check(const struct granary_file *file)
{
	return file_is_forked(file) ? -GRANARY_EFORKED : atomic_load_explicit(&file->status, memory_order_acquire);
}

/* ---- closing ---- */

void granary_file_close(struct granary_file **file)
{
	struct granary_file *f = file ? *file : NULL;
	enum wake wake = WAKE_NOT;
	bool is_left;

	if (!f)
		return;
	*file = NULL;
	struct granary_client *c = f->client;
	if (file_is_forked(f)) {
		file_unref(f); /* its neighbours belonged to the parent's thread */
		return;
	}
	pthread_mutex_lock(&c->lock);
	is_left = c->files_left;
	if (!is_left) {
		list_push(&c->released, &f->release_link);
		wake = client_wake(c);
	}
	pthread_mutex_unlock(&c->lock);
	client_wake_now(c, wake);
	if (is_left)
		file_unref(f);
}

void files_take(struct granary_client *c, struct list *released)
{
	for (struct list *at; (at = list_pop(released)) != NULL;) {
		struct granary_file *f = container_of(at, struct granary_file, release_link);

		list_remove(&f->link);
		list_push(&c->io.files.closed, &f->link);
	}
}

struct close_rpc {
	struct rpc rpc;
	uint32_t count;
	struct list files; /* that it closes */
};

static struct close_rpc *close_of(struct rpc *r) { return container_of(r, struct close_rpc, rpc); }

static size_t close_body_size(struct rpc *r) { return 4 + 8 * (size_t)close_of(r)->count; }

static int close_encode(struct rpc *r, struct wr *w)
{
	wr_u32(w, close_of(r)->count);
	list_for(at, &close_of(r)->files)
		wr_u64(w, file_of(at)->handle);
	return 0;
}

static int close_answer(struct rpc *r, struct slice meta, struct slice data)
{
	r->op->client->io.files.is_closing = false;
	(void)meta;
	(void)data;
	return 0;
}

/* Closed or not, nobody knows them any more. */
static void close_free(struct rpc *r)
{
	for (struct list *at; (at = list_pop(&close_of(r)->files)) != NULL;)
		file_unref(file_of(at));
	close_of(r)->count = 0;
}

static bool close_failed(struct rpc *r, int err)
{
	(void)err;
	r->op->client->io.files.is_closing = false;
	rpc_end(r);
	return true;
}

static const struct rpc_kind close_rpc = {
	.wire_op = OP_CLOSE, .plain = true, .is_patient = true, .body_size = close_body_size, .encode = close_encode,
	.answer = close_answer, .failed = close_failed, .free = close_free,
};

static void close_start(struct granary_client *c)
{
	struct files *f = &c->io.files;
	struct close_rpc *r = rpc_new(sizeof(*r), &close_rpc, &f->op);

	if (!r)
		return;
	list_init(&r->files);
	for (; r->count < CLOSE_MAX && !list_empty(&f->closed); r->count++)
		list_push(&r->files, list_pop(&f->closed));
	f->is_closing = true;
	rpc_queue(&r->rpc);
}

/* ---- announcing ---- */

struct announce_rpc {
	struct rpc rpc;
	struct granary_file *files[ANNOUNCE_MAX];
	uint32_t count, lock_count;
	uint8_t flags;
};

static struct announce_rpc *announce_of(struct rpc *r) { return container_of(r, struct announce_rpc, rpc); }

static size_t announce_body_size(struct rpc *r)
{
	const struct announce_rpc *a = announce_of(r);
	size_t size = 1 + 4 + 4 + a->lock_count * (size_t)(8 + LOCK_WIRE_SIZE);

	for (uint32_t i = 0; i < a->count; i++) {
		struct granary_ref ref = granary_file_ref(a->files[i]);
		size += 8 + 1 + ref_size(&ref);
	}
	return size;
}

static int announce_encode(struct rpc *r, struct wr *w)
{
	const struct announce_rpc *a = announce_of(r);

	wr_u8(w, a->flags);
	wr_u32(w, a->count);
	for (uint32_t i = 0; i < a->count; i++) {
		struct granary_ref ref = granary_file_ref(a->files[i]);

		wr_u64(w, a->files[i]->handle);
		wr_u8(w, a->files[i]->access);
		ref_encode(w, &ref);
	}
	wr_u32(w, a->lock_count);
	for (uint32_t i = 0; i < a->count; i++) {
		list_for(at, &a->files[i]->locks) {
			wr_u64(w, a->files[i]->handle);
			lock_encode(w, &container_of(at, struct lock_item, link)->lock);
		}
	}
	return 0;
}

void file_is_lost(struct granary_file *f, int err)
{
	int none = 0;

	atomic_compare_exchange_strong(&f->status, &none, err); /* invariant (3) */
}

/* The next part, or the next stage. */
static void announced(struct granary_client *c, uint8_t flags)
{
	struct files *f = &c->io.files;

	f->is_asked = false;
	if (flags & ANNOUNCE_LAST)
		f->stage = FILES_TOLD;
	else if (f->stage == FILES_DUE && f->is_through)
		f->stage = FILES_WAITING;
}

static uint32_t locks_count(const struct granary_file *f)
{
	uint32_t n = 0;

	list_for(at, &f->locks)
		n++;
	return n;
}

/* An answer of the connection before came in between: then all of it once more. */
static bool locks_are_others(const struct announce_rpc *a)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < a->count; i++)
		n += locks_count(a->files[i]);
	return n != a->lock_count;
}

static int announce_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct granary_client *c = r->op->client;
	struct announce_rpc *a = announce_of(r);
	bool is_last = a->flags & ANNOUNCE_LAST || c->io.files.stage == FILES_LATE;
	struct cur in = cur_of(meta.p, meta.len);

	(void)data;
	uint64_t state = cur_u64(&in);
	if (cur_u32(&in) != a->count || cur_left(&in) != 2 * (size_t)a->count + 4 + 2 * (size_t)a->lock_count)
		return -GRANARY_EPROTO;
	if (locks_are_others(a)) {
		for (uint32_t i = 0; i < a->count; i++)
			a->files[i]->is_told = false;
		c->io.files.is_asked = false;
		return 0;
	}
	c->io.files.state = state;
	for (uint32_t i = 0; i < a->count; i++) {
		int err = -(int)cur_u16(&in);

		a->files[i]->is_late = err == -GRANARY_ESTALE && !is_last;
		if (a->files[i]->fence != 0)
			a->files[i]->fence = state;
		if (err < 0 && !a->files[i]->is_late)
			file_is_lost(a->files[i], err);
	}
	cur_u32(&in);
	for (uint32_t i = 0; i < a->count; i++) {
		list_for(at, &a->files[i]->locks) {
			int err = -(int)cur_u16(&in);
			if (err < 0 && !a->files[i]->is_late)
				file_is_lost(a->files[i], err);
		}
	}
	announced(c, a->flags);
	return 0;
}

/* A server that does not know what this is. */
static bool announce_failed(struct rpc *r, int err)
{
	struct files *f = &r->op->client->io.files;

	list_for(at, &f->open)
		file_is_lost(file_of(at), err);
	f->stage = FILES_TOLD;
	f->is_asked = false;
	rpc_end(r);
	return true;
}

static const struct rpc_kind announce_rpc = {
	.wire_op = OP_ANNOUNCE, .plain = true, .is_patient = true, .is_first = true, .body_size = announce_body_size,
	.encode = announce_encode, .answer = announce_answer, .failed = announce_failed,
};

/* Those that are not told yet, as many as go into one. */
static void announce_more(struct granary_client *c)
{
	struct files *f = &c->io.files;
	struct announce_rpc *a = rpc_new(sizeof(*a), &announce_rpc, &f->op);

	if (!a)
		return;
	f->is_through = true;
	list_for(at, &f->open) {
		struct granary_file *file = file_of(at);

		if (file->is_told || atomic_load(&file->status) < 0)
			continue;
		uint32_t locks = locks_count(file);
		if (locks > LOCKS_MAX) {
			file_is_lost(file, -GRANARY_ETOOBIG);
			continue;
		}
		if (a->count == ANNOUNCE_MAX || a->lock_count + locks > LOCKS_MAX) {
			f->is_through = false;
			break;
		}
		file->is_told = true;
		a->lock_count += locks;
		a->files[a->count++] = file;
	}
	if (f->is_through && (f->stage == FILES_LATE || !c->io.unstable.is_replaying))
		a->flags = ANNOUNCE_LAST;
	f->is_asked = true;
	rpc_queue(&a->rpc);
}

static void announce_drop(struct granary_client *c)
{
	struct files *f = &c->io.files;

	list_for_safe(at, next, &f->op.rpcs) {
		struct rpc *r = container_of(at, struct rpc, op_link);
		if (r->kind == &announce_rpc)
			rpc_drop(r);
	}
	f->is_asked = false;
}

void files_lost(struct granary_client *c)
{
	struct files *f = &c->io.files;

	if (!f->is_used)
		return;
	announce_drop(c);
	list_for(at, &f->open)
		file_of(at)->is_told = file_of(at)->is_late = false;
	f->stage = FILES_DUE;
}

void files_hello(struct granary_client *c, uint64_t boot_id)
{
	bool others = false;

	for (uint32_t i = 0; i < c->config.connections; i++)
		others = others || c->io.conns[i].state == CONN_READY;
	if (!others || c->io.files.boot_id != boot_id)
		files_lost(c);
	if (c->io.files.boot_id != boot_id)
		c->io.files.lease = LEASE_UNKNOWN;
	c->io.files.boot_id = boot_id;
}

/* ---- what the client's thread does ---- */

void files_turn(struct granary_client *c)
{
	struct files *f = &c->io.files;

	files_live(c);
	if (f->stage == FILES_WAITING && !c->io.unstable.is_replaying) {
		list_for(at, &f->open)
			if (file_of(at)->is_late)
				file_of(at)->is_told = false;
		f->stage = FILES_LATE;
	}
	if ((f->stage == FILES_DUE || f->stage == FILES_LATE) && !f->is_asked)
		announce_more(c);
	if (f->stage == FILES_TOLD && !f->is_closing && !list_empty(&f->closed))
		close_start(c);
}

bool files_hold(const struct granary_client *c, const struct rpc *r)
{
	enum files_stage stage = c->io.files.stage;

	if (stage != FILES_TOLD && !r->kind->is_first && !(stage == FILES_WAITING && r->kind->is_patient))
		return true;
	if (r->op->file && r->op->file->fence != 0 && c->io.files.lease == LEASE_UNKNOWN)
		return true;
	return lock_holds(c, r);
}

bool files_are_used(const struct granary_client *c) { return c->io.files.is_used; }

void files_init(struct granary_client *c)
{
	struct files *f = &c->io.files;

	memset(f, 0, sizeof(*f));
	list_init(&f->open);
	list_init(&f->closed);
	list_init(&f->op.rpcs);
	f->op.client = c;
	f->op.ended = true; /* it never is: nobody owns it */
	f->op.deadline_ns = NEVER_NS;
}

/* The client's thread has ended. Files that are open belong to their callers from here on. */
void files_release(struct granary_client *c)
{
	struct files *f = &c->io.files;
	struct list released;

	while (!list_empty(&f->op.rpcs))
		rpc_drop(container_of(f->op.rpcs.next, struct rpc, op_link));
	list_init(&released);
	pthread_mutex_lock(&c->lock);
	c->files_left = true;
	list_splice(&released, &c->released);
	pthread_mutex_unlock(&c->lock);
	files_take(c, &released);
	for (struct list *at; (at = list_pop(&f->closed)) != NULL;)
		file_unref(file_of(at));
	while (list_pop(&f->open) != NULL)
		continue;
}

/* ---- at the end ---- */

static const struct rpc_kind close_all_rpc = {
	.wire_op = OP_CLOSE, .plain = true, .body_size = simple_body_size, .encode = simple_encode,
	.answer = simple_answer,
};

void files_leave(struct granary_client *c)
{
	enum { LEAVE_MS = 2000 };
	struct wr w;
	int err;

	if (atomic_load(&c->files_count) == 0)
		return;
	struct simple_op *s = simple_new(c, &close_all_rpc, GRANARY_CALL(.timeout_ms = LEAVE_MS), 4, &w, &err);
	if (!s)
		return;
	wr_u32(&w, 0); /* all */
	(void)simple_run(s, &w); /* else they end with the session */
}
