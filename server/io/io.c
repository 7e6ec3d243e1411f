/* SPDX-License-Identifier: Apache-2.0 */
/* io.c -- what all engines share: start functions, depth cap, resuming, timers, ready list, sleeping flag.
 * Invariants: (1) an op is in at most one of {queued, engine, heap, ready}; (2) files_active counts file ops in
 * state ENGINE and is <= depth; (3) only io_run() calls done(); (4) all fields but `wake` belong to one thread. */
#include "io/io.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "io/fs_ops.h"
#include "io/io_engine.h"

enum { DEFAULT_DEPTH = 256, DEFAULT_THREADS = 8, DEFAULT_RECV_BUFS = 1024, RECV_BUFS_MAX = 32768 };
#define ACCEPT_PAUSE_NS UINT64_C(100000000) /* after EMFILE and its kin */

/* Connections the engine accepted and the owner has not been told of yet. */
struct io_accept_queue {
	struct io_accept_queue *next;
	struct io_op *op;
	bool listed; /* op is in the ready list */
	bool last;   /* no more will come: last_res ends it */
	int64_t last_res;
	uint32_t head, count;
	int fds[IO_ACCEPT_QUEUE_MAX];
};

static const struct io_engine *sim_engine;

void io_sim_engine_register(const struct io_engine *engine) { sim_engine = engine; }

const char *io_engine_name(enum io_engine_kind kind)
{
	switch (kind) {
	case IO_ENGINE_AUTO: return "auto";
	case IO_ENGINE_URING: return "uring";
	case IO_ENGINE_THREADS: return "threads";
	case IO_ENGINE_SIM: return "sim";
	}
	return "unknown";
}

/* ---- lists and the heap of timers ---- */

bool io_list_remove(struct io_list *l, struct io_op *op)
{
	for (struct io_op **at = &l->head; *at; at = &(*at)->next) {
		if (*at != op)
			continue;
		*at = op->next;
		if (l->tail == &op->next)
			l->tail = at;
		return true;
	}
	return false;
}

static void op_set_state(struct io_op *op, enum io_op_state state)
{
	op->state = (op->state & ~(uint32_t)IO_STATE_MASK) | (uint32_t)state;
}

static uint32_t op_state(const struct io_op *op) { return op->state & IO_STATE_MASK; }

static void heap_put(struct io *io, uint32_t at, struct io_op *op)
{
	io->heap[at] = op;
	op->slot = at;
}

static void heap_up(struct io *io, uint32_t at)
{
	struct io_op *op = io->heap[at];
	while (at > 0 && io->heap[(at - 1) / 2]->deadline_ns > op->deadline_ns) {
		heap_put(io, at, io->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	heap_put(io, at, op);
}

static void heap_down(struct io *io, uint32_t at)
{
	struct io_op *op = io->heap[at];
	for (;;) {
		uint32_t kid = at * 2 + 1;
		if (kid >= io->heap_len)
			break;
		if (kid + 1 < io->heap_len && io->heap[kid + 1]->deadline_ns < io->heap[kid]->deadline_ns)
			kid++;
		if (io->heap[kid]->deadline_ns >= op->deadline_ns)
			break;
		heap_put(io, at, io->heap[kid]);
		at = kid;
	}
	heap_put(io, at, op);
}

static bool heap_add(struct io *io, struct io_op *op, uint64_t deadline_ns)
{
	if (io->heap_len == io->heap_cap) {
		uint32_t cap = io->heap_cap ? io->heap_cap * 2 : 256;
		struct io_op **heap = realloc(io->heap, cap * sizeof(*heap));
		if (!heap)
			return false;
		io->heap = heap;
		io->heap_cap = cap;
	}
	op->deadline_ns = deadline_ns;
	op_set_state(op, IO_HEAP);
	io->heap[io->heap_len] = op;
	heap_up(io, io->heap_len++);
	return true;
}

static void heap_remove(struct io *io, struct io_op *op)
{
	uint32_t at = (uint32_t)op->slot;
	assert(at < io->heap_len && io->heap[at] == op);
	struct io_op *last = io->heap[--io->heap_len];
	if (last == op)
		return;
	heap_put(io, at, last);
	heap_up(io, at);
	heap_down(io, (uint32_t)last->slot);
}

/* ---- completing ---- */

static bool op_is_file(const struct io_op *op)
{
	return op->kind == IO_OP_READ || op->kind == IO_OP_WRITE || op->kind == IO_OP_FLUSH;
}

static void io_start_in_engine(struct io *io, struct io_op *op)
{
	op_set_state(op, IO_ENGINE);
	if (op_is_file(op))
		io->files_active++;
	io->engine->start(io, op);
}

/* File ops leave the engine: let waiting ones in. */
static void io_pump(struct io *io)
{
	while (io->queued.head && io->files_active < io->options.depth)
		io_start_in_engine(io, io_list_pop(&io->queued));
}

static void leave_engine(struct io *io, struct io_op *op)
{
	if (op_state(op) != IO_ENGINE || !op_is_file(op))
		return;
	assert(io->files_active > 0);
	io->files_active--;
}

static void accept_ready(struct io *io, struct io_accept_queue *q)
{
	if (q->listed)
		return;
	q->listed = true;
	io_list_push(&io->ready, q->op);
}

static void io_finish(struct io *io, struct io_op *op, int64_t res)
{
	if (res < 0 && res != -GRANARY_ECANCELED)
		io->stats.errors++;
	if (op->kind == IO_OP_ACCEPT) {
		struct io_accept_queue *q = op->engine;
		q->last = true;
		q->last_res = res;
		op_set_state(op, IO_READY);
		accept_ready(io, q);
		return;
	}
	bool file = op_is_file(op);
	leave_engine(io, op);
	op->res = res;
	op_set_state(op, IO_READY);
	io_list_push(&io->ready, op);
	if (file)
		io_pump(io);
}

static void count_done(struct io *io, const struct io_op *op)
{
	struct io_stats *s = &io->stats;
	switch (op->kind) {
	case IO_OP_READ: s->reads++; s->read_bytes += op->done_len; break;
	case IO_OP_WRITE: s->writes++; s->write_bytes += op->done_len; break;
	case IO_OP_FLUSH: s->flushes++; break;
	case IO_OP_RECV: s->recvs++; break;
	case IO_OP_SEND: s->sends++; s->send_bytes += op->done_len; break;
	default: break;
	}
}

static bool io_resume(struct io *io, struct io_op *op)
{
	if (io_canceled(op)) {
		io_finish(io, op, -GRANARY_ECANCELED);
		return false;
	}
	if (++op->resumed > IO_RESUME_MAX) {
		io_finish(io, op, -GRANARY_EIO);
		return false;
	}
	io->stats.resumes++;
	return true;
}

static bool io_succeed(struct io *io, struct io_op *op)
{
	count_done(io, op);
	if (op->kind == IO_OP_FLUSH && io->options.flush_delay_ns > 0 && !io_canceled(op)) {
		leave_engine(io, op);
		if (heap_add(io, op, io->engine->now(io) + io->options.flush_delay_ns)) {
			io_pump(io);
			return false;
		}
		io->files_active++; /* no memory for the delay: io_finish() takes it off again */
	}
	io_finish(io, op, op->kind == IO_OP_FLUSH ? 0 : (int64_t)op->done_len);
	return false;
}

static void iov_advance(struct io_op *op, size_t n)
{
	while (n > 0) {
		struct iovec *v = &op->iov[op->iov_at];
		size_t take = n < v->iov_len ? n : v->iov_len;
		v->iov_base = (char *)v->iov_base + take;
		v->iov_len -= take;
		n -= take;
		if (v->iov_len == 0)
			op->iov_at++;
	}
}

void io_fill_msg(struct io_op *op)
{
	while (op->iov_at < op->iov_count && op->iov[op->iov_at].iov_len == 0)
		op->iov_at++;
	uint32_t left = op->iov_count - op->iov_at;
	memset(&op->msg, 0, sizeof(op->msg));
	op->msg.msg_iov = op->iov + op->iov_at;
	op->msg.msg_iovlen = left < IO_IOV_STEP_MAX ? left : IO_IOV_STEP_MAX;
	if (op->done_len == 0) {
		op->msg.msg_control = op->control;
		op->msg.msg_controllen = op->control_len;
	}
}

bool io_step(struct io *io, struct io_op *op, int64_t res)
{
	if (res == -EINTR || res == -EAGAIN)
		return io_resume(io, op);
	if (res < 0) {
		/* A direct write that stopped at an odd byte cannot go on: that is a failing device, not bad use. */
		int err = res == -EINVAL && op->done_len > 0 ? EIO : (int)-res;
		io_finish(io, op, err == ECANCELED ? -GRANARY_ECANCELED : error_from_errno(err));
		return false;
	}
	if (op->kind == IO_OP_FLUSH)
		return io_succeed(io, op);
	assert((size_t)res <= op->len - op->done_len);
	if (res == 0) {
		if (op->kind == IO_OP_READ || op->kind == IO_OP_RECV)
			return io_succeed(io, op);
		return io_resume(io, op); /* a write of nothing: not progress */
	}
	op->done_len += (size_t)res;
	if (op->kind == IO_OP_SEND)
		iov_advance(op, (size_t)res);
	if (op->done_len == op->len)
		return io_succeed(io, op);
	/* A direct read ends inside a block only at the end of the file. */
	if (op->kind == IO_OP_READ && op->file->direct && op->done_len % op->file->align != 0)
		return io_succeed(io, op);
	if (op->kind == IO_OP_SEND || op->kind == IO_OP_RECV)
		op->resumed = 0; /* sockets move what fits; only steps without progress count */
	return io_resume(io, op);
}

void io_recv_done(struct io *io, struct io_op *op, int64_t res, void *buf)
{
	op->recv_buf = buf;
	io->stats.recvs++;
	if (res < 0)
		res = res == -ECANCELED ? -GRANARY_ECANCELED : error_from_errno((int)-res);
	io_finish(io, op, res);
}

static void accept_push(struct io *io, struct io_op *op, int fd)
{
	struct io_accept_queue *q = op->engine;
	if (io_canceled(op) || q->count == IO_ACCEPT_QUEUE_MAX) {
		close(fd);
		return;
	}
	q->fds[(q->head + q->count++) % IO_ACCEPT_QUEUE_MAX] = fd;
	accept_ready(io, q);
}

bool io_accept_step(struct io *io, struct io_op *op, int64_t res)
{
	if (res >= 0) {
		accept_push(io, op, (int)res);
		return true;
	}
	if (io_canceled(op)) {
		io_finish(io, op, -GRANARY_ECANCELED);
		return false;
	}
	switch (res) {
	case -EINTR: case -EAGAIN: case -ECONNABORTED: case -EPROTO:
	case -ENETDOWN: case -EHOSTUNREACH: case -ENETUNREACH:
		return true;
	case -EMFILE: case -ENFILE: case -ENOBUFS: case -ENOMEM: {
		static atomic_flag told = ATOMIC_FLAG_INIT;
		io->stats.errors++;
		if (!atomic_flag_test_and_set(&told))
			log_warn("cannot accept connections for now: %s", strerror((int)-res));
		if (heap_add(io, op, io->engine->now(io) + ACCEPT_PAUSE_NS))
			return false;
		break;
	}
	default: break;
	}
	io_finish(io, op, res == -ECANCELED ? -GRANARY_ECANCELED : error_from_errno((int)-res));
	return false;
}

/* ---- starting ---- */

static void op_init(struct io *io, struct io_op *op, enum io_op_kind kind, int fd)
{
	op->res = 0;
	op->recv_buf = NULL;
	op->next = NULL;
	op->io = io;
	op->kind = kind;
	op->state = IO_IDLE;
	op->fd = fd;
	op->buf_index = op->resumed = 0;
	op->file = NULL;
	op->offset = op->deadline_ns = 0;
	op->len = op->done_len = 0;
	op->iov = NULL;
	op->iov_count = op->iov_at = 0;
	op->control = NULL;
	op->control_len = 0;
	op->engine = NULL;
	op->slot = 0;
}

static void start_file(struct io *io, struct io_op *op, void *buf, size_t len, uint64_t offset)
{
	op->one.iov_base = buf;
	op->len = len;
	op->offset = offset;
	if (op->file->direct && ((offset | len | (uintptr_t)buf) & (op->file->align - 1)) != 0) {
		io_finish(io, op, -GRANARY_EINVAL);
		return;
	}
	if (len == 0 && op->kind != IO_OP_FLUSH) {
		io_finish(io, op, 0);
		return;
	}
	if (io->files_active < io->options.depth) {
		io_start_in_engine(io, op);
		return;
	}
	op_set_state(op, IO_QUEUED);
	io_list_push(&io->queued, op);
}

void io_read(struct io *io, struct io_op *op, struct fs_file *file, void *buf, size_t len, uint64_t offset)
{
	op_init(io, op, IO_OP_READ, file->fd);
	op->file = file;
	start_file(io, op, buf, len, offset);
}

void io_write(struct io *io, struct io_op *op, struct fs_file *file, const void *buf, size_t len, uint64_t offset)
{
	op_init(io, op, IO_OP_WRITE, file->fd);
	op->file = file;
	start_file(io, op, (void *)(uintptr_t)buf, len, offset); /* only read from */
}

void io_fdatasync(struct io *io, struct io_op *op, struct fs_file *file)
{
	op_init(io, op, IO_OP_FLUSH, file->fd);
	op->file = file;
	start_file(io, op, NULL, 0, 0);
}

void io_accept(struct io *io, struct io_op *op, int listen_fd)
{
	op_init(io, op, IO_OP_ACCEPT, listen_fd);
	struct io_accept_queue *q = calloc(1, sizeof(*q));
	if (!q) {
		op->kind = IO_OP_NONE; /* a plain completion */
		io_finish(io, op, -GRANARY_ENOMEM);
		return;
	}
	q->op = op;
	q->next = io->accepts;
	io->accepts = q;
	op->engine = q;
	io_start_in_engine(io, op);
}

void io_recv_any(struct io *io, struct io_op *op, int fd)
{
	op_init(io, op, IO_OP_RECV_ANY, fd);
	io_start_in_engine(io, op);
}

void io_recv_give(struct io *io, void *recv_buf) { io->engine->recv_give(io, recv_buf); }

void io_recv(struct io *io, struct io_op *op, int fd, void *buf, size_t len)
{
	op_init(io, op, IO_OP_RECV, fd);
	op->one.iov_base = buf;
	op->len = len;
	if (len == 0)
		io_finish(io, op, 0);
	else
		io_start_in_engine(io, op);
}

void io_send(struct io *io, struct io_op *op, int fd, struct iovec *iov, uint32_t iov_count)
{
	io_send_passing(io, op, fd, iov, iov_count, NULL, 0);
}

void io_send_passing(struct io *io, struct io_op *op, int fd, struct iovec *iov, uint32_t iov_count, void *control,
	size_t control_len)
{
	op_init(io, op, IO_OP_SEND, fd);
	op->control = control;
	op->control_len = control_len;
	op->iov = iov;
	op->iov_count = iov_count;
	for (uint32_t i = 0; i < iov_count; i++)
		op->len += iov[i].iov_len;
	if (op->len == 0)
		io_finish(io, op, 0);
	else
		io_start_in_engine(io, op);
}

void io_timer(struct io *io, struct io_op *op, uint64_t deadline_ns)
{
	op_init(io, op, IO_OP_TIMER, -1);
	if (!heap_add(io, op, deadline_ns))
		io_finish(io, op, -GRANARY_ENOMEM);
}

void io_cancel(struct io *io, struct io_op *op)
{
	if (io_canceled(op) || op_state(op) == IO_IDLE || op_state(op) == IO_READY)
		return;
	op->state |= IO_CANCELED;
	if (op->kind == IO_OP_ACCEPT) {
		struct io_accept_queue *q = op->engine;
		for (; q->count > 0; q->count--, q->head++)
			close(q->fds[q->head % IO_ACCEPT_QUEUE_MAX]);
	}
	if (op_state(op) == IO_QUEUED) {
		bool found = io_list_remove(&io->queued, op);
		assert(found);
		(void)found;
		io_finish(io, op, -GRANARY_ECANCELED);
	} else if (op_state(op) == IO_HEAP) {
		heap_remove(io, op);
		io_finish(io, op, -GRANARY_ECANCELED);
	} else {
		io->engine->cancel(io, op);
	}
}

/* ---- the loop's calls ---- */

static void io_expire(struct io *io)
{
	if (io->heap_len == 0)
		return;
	uint64_t now = io->engine->now(io);
	while (io->heap_len > 0 && io->heap[0]->deadline_ns <= now) {
		struct io_op *op = io->heap[0];
		heap_remove(io, op);
		if (op->kind == IO_OP_ACCEPT)
			io_start_in_engine(io, op);
		else
			io_finish(io, op, 0);
	}
}

void io_submit_and_wait(struct io *io, uint64_t deadline_ns)
{
	if (io->heap_len > 0 && io->heap[0]->deadline_ns < deadline_ns)
		deadline_ns = io->heap[0]->deadline_ns;
	uint32_t awake = IO_AWAKE;
	if (io->ready.head || (deadline_ns > 0 && !atomic_compare_exchange_strong(&io->wake, &awake, IO_SLEEPING)))
		deadline_ns = 0;
	io->engine->wait(io, deadline_ns);
	atomic_exchange(&io->wake, IO_AWAKE); /* before the caller looks for mail: see io_engine.h */
	io_expire(io);
}

static void accept_queue_free(struct io *io, struct io_accept_queue *q)
{
	for (; q->count > 0; q->count--, q->head++)
		close(q->fds[q->head % IO_ACCEPT_QUEUE_MAX]);
	for (struct io_accept_queue **at = &io->accepts; *at; at = &(*at)->next) {
		if (*at == q) {
			*at = q->next;
			break;
		}
	}
	free(q);
}

/* Takes one connection, or the end, of an accept from the ready list; false: there is nothing to tell. */
static bool accept_take(struct io *io, struct io_op *op)
{
	struct io_accept_queue *q = op->engine;
	q->listed = false;
	if (q->count > 0) {
		op->res = q->fds[q->head++ % IO_ACCEPT_QUEUE_MAX];
		q->count--;
		if (q->count > 0 || q->last)
			accept_ready(io, q);
		return true;
	}
	if (!q->last)
		return false;
	op->res = q->last_res;
	op->state = IO_IDLE;
	op->engine = NULL;
	accept_queue_free(io, q);
	return true;
}

uint32_t io_run(struct io *io, uint32_t most)
{
	uint32_t ran = 0;
	while (ran < most) {
		struct io_op *op = io_list_pop(&io->ready);
		if (!op)
			break;
		if (op->kind == IO_OP_ACCEPT) {
			if (!accept_take(io, op))
				continue;
		} else {
			op->state = IO_IDLE;
		}
		ran++;
		op->done(op);
	}
	return ran;
}

void io_wake(struct io *io)
{
	if (atomic_exchange(&io->wake, IO_NOTIFIED) == IO_SLEEPING)
		io->engine->wake(io);
}

uint64_t io_now_ns(struct io *io) { return io->engine->now(io); }
enum io_engine_kind io_engine_of(const struct io *io) { return io->engine->kind; }
void io_get_stats(const struct io *io, struct io_stats *out) { *out = io->stats; }

int io_register_memory(struct io *io, void *base, size_t len)
{
	return io->engine->register_memory ? io->engine->register_memory(io, base, len) : 0;
}

/* ---- making ---- */

static enum io_engine_kind kind_from_env(void)
{
	const char *s = getenv("GRANARY_IO_ENGINE");
	if (!s || !*s || strcmp(s, "auto") == 0)
		return IO_ENGINE_AUTO;
	if (strcmp(s, "uring") == 0)
		return IO_ENGINE_URING;
	if (strcmp(s, "threads") == 0)
		return IO_ENGINE_THREADS;
	static atomic_flag told = ATOMIC_FLAG_INIT;
	if (!atomic_flag_test_and_set(&told))
		log_warn("cannot use GRANARY_IO_ENGINE '%s': neither uring nor threads; choosing by myself", s);
	return IO_ENGINE_AUTO;
}

static int open_engine(struct io *io, const struct io_engine *engine)
{
	if (!engine)
		return -GRANARY_EUNSUPPORTED;
	io->engine = engine;
	return engine->open(io);
}

static int open_kind(struct io *io, enum io_engine_kind kind)
{
	static atomic_flag told = ATOMIC_FLAG_INIT;
	if (kind == IO_ENGINE_AUTO)
		kind = kind_from_env();
	if (kind == IO_ENGINE_SIM)
		return open_engine(io, sim_engine);
	if (kind == IO_ENGINE_THREADS)
		return open_engine(io, &io_engine_threads);
	int err = open_engine(io, &io_engine_uring);
	if (err != -GRANARY_EUNSUPPORTED || kind == IO_ENGINE_URING)
		return err;
	if (!atomic_flag_test_and_set(&told))
		log_warn("io_uring is not available here; using the threads engine, which costs more CPU");
	return open_engine(io, &io_engine_threads);
}

int io_new(const struct io_options *options, struct io **out)
{
	*out = NULL;
	struct io *io = calloc(1, sizeof(*io));
	if (!io)
		return -GRANARY_ENOMEM;
	io->options = *options;
	struct io_options *o = &io->options;
	o->depth = o->depth ? o->depth : DEFAULT_DEPTH;
	o->threads = o->threads ? o->threads : DEFAULT_THREADS;
	o->recv_bufs = o->recv_bufs ? o->recv_bufs : DEFAULT_RECV_BUFS;
	if (o->recv_bufs > RECV_BUFS_MAX)
		o->recv_bufs = RECV_BUFS_MAX;
	io_list_init(&io->ready);
	io_list_init(&io->queued);
	int err = open_kind(io, o->engine);
	if (err < 0) {
		free(io);
		return err;
	}
	*out = io;
	return 0;
}

void io_drain(struct io *io)
{
	if (!io->drained)
		io->engine->drain(io);
	io->drained = true;
}

void io_free(struct io **iop)
{
	struct io *io = *iop;
	*iop = NULL;
	if (!io)
		return;
	io_drain(io);
	io->engine->close(io);
	while (io->accepts)
		accept_queue_free(io, io->accepts);
	free(io->heap);
	free(io);
}
