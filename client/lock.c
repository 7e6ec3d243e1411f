/* SPDX-License-Identifier: Apache-2.0 */
/* lock.c -- locks of open files: PROTOCOL 5.20, granary/open.h.
 *
 * Invariants: (1) what the server granted stands in the file's list, for it to be told again (file.c); (2) requests
 * about the locks of one file travel on one connection, in order; (3) who gives up waiting tells the server, which also
 * takes back what it granted meanwhile; (4) at most WAITS_MAX requests wait at the server, so that others find room on
 * the connections. */
#include "file_priv.h"

#include <stdlib.h>

enum { WAITS_MAX = 64 };

struct ask { /* belongs to its operation; of a cancellation, to that */
	struct granary_file *file;
	struct lock lock;
	uint64_t number;
	uint8_t action;
	bool is_counted, is_settled; /* in files.waits; answered */
	struct granary_lock *out;
};

void lock_encode(struct wr *w, const struct lock *lock)
{
	wr_u8(w, lock->kind);
	wr_u8(w, lock->type);
	wr_u64(w, lock->owner);
	wr_u64(w, lock->start);
	wr_u64(w, lock->end);
	wr_u32(w, lock->pid);
}

static void ask_encode(struct wr *w, const struct ask *a, uint8_t action)
{
	wr_u8(w, action);
	wr_u64(w, a->file->handle);
	wr_u64(w, a->number);
	lock_encode(w, &a->lock);
}

/* ---- giving up ---- */

struct cancel_rpc {
	struct rpc rpc;
	struct ask ask;
};

static size_t ask_size(struct rpc *r)
{
	(void)r;
	return 1 + 8 + 8 + LOCK_WIRE_SIZE;
}

static int cancel_encode(struct rpc *r, struct wr *w)
{
	ask_encode(w, &container_of(r, struct cancel_rpc, rpc)->ask, LOCK_CANCEL);
	return 0;
}

static int cancel_answer(struct rpc *r, struct slice meta, struct slice data)
{
	(void)r;
	(void)meta;
	(void)data;
	return 0;
}

/* The file was closed, and its locks went with it. */
static bool cancel_failed(struct rpc *r, int err)
{
	(void)err;
	rpc_end(r);
	return true;
}

static void cancel_free(struct rpc *r)
{
	struct ask *a = &container_of(r, struct cancel_rpc, rpc)->ask;

	if (a->file)
		file_unref(a->file);
	a->file = NULL;
}

static const struct rpc_kind cancel_rpc = {
	.wire_op = OP_LOCK, .plain = true, .is_patient = true, .body_size = ask_size, .encode = cancel_encode,
	.answer = cancel_answer, .failed = cancel_failed, .free = cancel_free,
};

static void cancel_start(struct granary_client *c, const struct ask *a)
{
	struct cancel_rpc *r = rpc_new(sizeof(*r), &cancel_rpc, &c->io.files.op);

	if (!r)
		return;
	r->ask = *a;
	atomic_fetch_add(&a->file->refs, 1);
	r->rpc.pin = &a->file->pin;
	rpc_queue(&r->rpc);
}

/* ---- asking ---- */

static struct ask *ask_of(struct rpc *r) { return container_of(r->op, struct simple_op, op)->out; }

static int lock_rpc_encode(struct rpc *r, struct wr *w)
{
	struct ask *a = ask_of(r);
	int err = atomic_load(&a->file->status);

	if (err < 0)
		return err;
	if (a->action == LOCK_WAIT && !a->is_counted) {
		a->is_counted = true;
		a->file->client->io.files.waits++;
	}
	ask_encode(w, a, a->action);
	return 0;
}

static int test_decode(struct granary_lock *out, struct slice meta)
{
	struct cur c = cur_of(meta.p, meta.len);

	out->type = cur_u8(&c);
	out->is_ours = cur_u8(&c);
	out->owner = cur_u64(&c);
	out->start = cur_u64(&c);
	out->end = cur_u64(&c);
	out->pid = cur_u32(&c);
	return cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

static int lock_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct ask *a = ask_of(r);

	(void)data;
	a->is_settled = true;
	if (a->action <= LOCK_WAIT)
		files_granted(a->file, meta);
	return a->action == LOCK_TEST ? test_decode(a->out, meta) : lock_list_set(&a->file->locks, &a->lock);
}

static bool lock_failed(struct rpc *r, int err)
{
	(void)err;
	ask_of(r)->is_settled = true;
	return false;
}

/* Also of one that is given up: then its operation is still there. */
static void lock_free(struct rpc *r)
{
	struct ask *a = r->op ? ask_of(r) : NULL;

	if (!a)
		return;
	if (a->is_counted)
		a->file->client->io.files.waits--;
	a->is_counted = false;
	if (a->action == LOCK_WAIT && !a->is_settled && r->op->sent)
		cancel_start(a->file->client, a);
	a->is_settled = true;
}

static const struct rpc_kind lock_rpc = {
	.wire_op = OP_LOCK, .plain = true, .body_size = ask_size, .encode = lock_rpc_encode, .answer = lock_answer,
	.failed = lock_failed, .free = lock_free,
};

bool lock_holds(const struct granary_client *c, const struct rpc *r)
{
	const struct ask *a;

	if (r->kind != &lock_rpc)
		return false;
	a = container_of(r->op, struct simple_op, op)->out;
	return a->action == LOCK_WAIT && !a->is_counted && c->io.files.waits >= WAITS_MAX;
}

static void ask_drop(struct simple_op *s)
{
	struct ask *a = s->out;

	file_unref(a->file);
	free(a);
}

static int ask_check(struct granary_file *f, const struct lock *lock, uint32_t flags)
{
	int err = granary_file_check(f);

	if (err < 0)
		return error_fail(f->client, err, "the file is lost: %s", error_text(err));
	if (!lock_is_sound(lock) || (flags & ~(uint32_t)GRANARY_LOCK_WAIT))
		return error_fail(f->client, -GRANARY_EINVAL, "no such lock: its kind, type, range or flags");
	return 0;
}

static struct simple_op *ask_new(struct granary_file *f, const struct granary_lock *l, uint8_t action, uint32_t flags,
	const struct granary_call *call, struct wr *w, int *err)
{
	struct lock lock = { .owner = l->owner, .start = l->start, .end = l->end, .pid = l->pid,
		.kind = (uint8_t)l->kind, .type = (uint8_t)l->type };

	*err = client_enter(f->client);
	if (*err == 0)
		*err = l->kind > UINT8_MAX || l->type > UINT8_MAX ? -GRANARY_EINVAL : ask_check(f, &lock, flags);
	struct simple_op *s = *err < 0 ? NULL : simple_new(f->client, &lock_rpc, call, 0, w, err);
	if (!s)
		return NULL;
	struct ask *a = calloc(1, sizeof(*a));
	if (!a) {
		op_free_quiet(&s->op);
		*err = error_fail(f->client, -GRANARY_ENOMEM, "out of memory");
		return NULL;
	}
	atomic_fetch_add(&f->refs, 1);
	*a = (struct ask){ .file = f, .lock = lock, .action = action };
	a->number = atomic_fetch_add(&f->client->files_count, 1) + 1;
	s->pin = &f->pin;
	s->out = a;
	s->drop = ask_drop;
	return s;
}

static uint8_t action_of(const struct granary_lock *lock, uint32_t flags)
{
	return lock->type == GRANARY_LOCK_NONE ? LOCK_UNSET : flags & GRANARY_LOCK_WAIT ? LOCK_WAIT : LOCK_SET;
}

int granary_file_lock_start(struct granary_file *file, const struct granary_lock *lock, uint32_t flags,
	const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = ask_new(file, lock, action_of(lock, flags), flags, call, &w, &err);

	if (op)
		*op = NULL;
	return s ? simple_start(s, &w, op) : err;
}

int granary_file_lock(struct granary_file *file, const struct granary_lock *lock, uint32_t flags,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = ask_new(file, lock, action_of(lock, flags), flags, call, &w, &err);

	return s ? (int)simple_run(s, &w) : err;
}

static struct simple_op *test_new(struct granary_file *file, struct granary_lock *lock, const struct granary_call *call,
	struct wr *w, int *err)
{
	if (lock->type == GRANARY_LOCK_NONE) {
		*err = error_fail(file->client, -GRANARY_EINVAL, "a test is of a shared or an exclusive lock");
		return NULL;
	}
	struct simple_op *s = ask_new(file, lock, LOCK_TEST, 0, call, w, err);
	if (s)
		((struct ask *)s->out)->out = lock;
	return s;
}

int granary_file_lock_test_start(struct granary_file *file, struct granary_lock *lock, const struct granary_call *call,
	struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = test_new(file, lock, call, &w, &err);

	if (op)
		*op = NULL;
	return s ? simple_start(s, &w, op) : err;
}

int granary_file_lock_test(struct granary_file *file, struct granary_lock *lock, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = test_new(file, lock, call, &w, &err);

	return s ? (int)simple_run(s, &w) : err;
}
