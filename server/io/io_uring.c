/* SPDX-License-Identifier: Apache-2.0 */
/* io_uring.c -- the product engine: one ring, made and used by one thread.
 * Invariants: (1) an op in the ring owns one slot; user_data is slot and generation, so a stale completion is
 * counted and dropped; (2) a slot is freed by its last completion (F_MORE clear), never before; (3) an op in state
 * ENGINE is in exactly one of {a slot, backlog, starved}; (4) `bufs_free` counts the provided buffers that neither
 * an owner nor a completion we have seen holds.
 *
 * recv_any: a single-shot recv with buffer select. When the buffers are out (-ENOBUFS) the op polls until there is
 * data, then joins `starved`, and is started again as buffers come back: an idle connection cannot use up a turn.
 * Without buffer rings (kernel < 5.19) every recv_any polls first and receives into one of our buffers by itself. */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "io/io_engine.h"
#include "io/mem.h"

enum { SQ_ENTRIES = 1024, CQ_ENTRIES = 8192, BUF_GROUP = 1, SLOTS_FIRST = 1024, AREA_MAX = 1 << 30 };
#define UD_WAKE UINT64_MAX
#define UD_CANCEL (UINT64_MAX - 1)
#define SLOT_NONE UINT32_MAX
#define DRAIN_MAX_NS UINT64_C(5000000000)

struct uring_slot {
	struct io_op *op;
	uint32_t generation, next_free;
	bool polls;       /* the entry is a poll before the op itself */
	bool cancel_owed; /* no room for the cancel entry yet */
};

struct uring_area { uintptr_t base; size_t len; uint32_t index; };

struct uring {
	struct io_uring ring;
	struct uring_slot *slots;
	uint32_t slots_cap, slots_used, slot_free;
	bool cancels_owed, wake_armed, accept_single, fixed_ready, fixed_failed, closing;
	int wake_fd;
	uint64_t wake_value, stale;
	struct io_list backlog, starved;
	/* receive buffers */
	uint8_t *bufs;
	struct io_uring_buf_ring *buf_ring; /* NULL: poll and receive by ourselves */
	uint32_t *own_free;                 /* then: stack of free buffers */
	uint8_t *buf_out;                   /* 1: the owner has it */
	uint32_t bufs_count, bufs_free, ring_entries;
	/* registered memory, sorted by base */
	struct uring_area areas[IO_AREAS_MAX];
	uint32_t areas_count;
};

static struct uring *uring_of(struct io *io) { return io->engine_state; }

/* ---- slots ---- */

static bool slots_grow(struct uring *u)
{
	uint32_t cap = u->slots_cap ? u->slots_cap * 2 : SLOTS_FIRST;
	struct uring_slot *slots = realloc(u->slots, cap * sizeof(*slots));
	if (!slots)
		return false;
	for (uint32_t i = u->slots_cap; i < cap; i++)
		slots[i] = (struct uring_slot){ .generation = 1, .next_free = i + 1 < cap ? i + 1 : SLOT_NONE };
	u->slot_free = u->slots_cap;
	u->slots = slots;
	u->slots_cap = cap;
	return true;
}

static bool slot_take(struct uring *u, struct io_op *op, bool polls)
{
	if (u->slot_free == SLOT_NONE && !slots_grow(u))
		return false;
	uint32_t i = u->slot_free;
	struct uring_slot *s = &u->slots[i];
	u->slot_free = s->next_free;
	s->op = op;
	s->polls = polls;
	s->cancel_owed = false;
	u->slots_used++;
	op->slot = (uint64_t)s->generation << 32 | i;
	return true;
}

static void slot_give(struct uring *u, struct uring_slot *s)
{
	s->op->slot = 0;
	s->op = NULL;
	if (++s->generation == UINT32_MAX)
		s->generation = 1;
	s->next_free = u->slot_free;
	u->slot_free = (uint32_t)(s - u->slots);
	u->slots_used--;
}

static struct uring_slot *slot_of(struct uring *u, uint64_t user_data)
{
	uint32_t i = (uint32_t)user_data;
	if (i >= u->slots_cap || !u->slots[i].op || u->slots[i].generation != (uint32_t)(user_data >> 32))
		return NULL;
	return &u->slots[i];
}

/* ---- submission ---- */

static struct io_uring_sqe *sqe_get(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	if (!sqe) {
		io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
}

/* An entry and a slot for op, or NULL after putting op off to the next wait. */
static struct io_uring_sqe *sqe_for(struct uring *u, struct io_op *op, bool polls)
{
	struct io_uring_sqe *sqe = sqe_get(u);
	if (sqe && slot_take(u, op, polls))
		return sqe;
	if (sqe) {
		io_uring_prep_nop(sqe);
		io_uring_sqe_set_data64(sqe, UD_CANCEL);
	}
	op->slot = 0;
	io_list_push(&u->backlog, op);
	return NULL;
}

static void op_poll(struct uring *u, struct io_op *op)
{
	struct io_uring_sqe *sqe = sqe_for(u, op, true);
	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, op->fd, op->kind == IO_OP_SEND ? POLLOUT : POLLIN);
	io_uring_sqe_set_data64(sqe, op->slot);
}

/* Index of the registered area that holds all of [buf, buf+len), or -1. */
static int area_find(const struct uring *u, const void *buf, size_t len)
{
	uintptr_t p = (uintptr_t)buf;
	uint32_t lo = 0, hi = u->areas_count;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		if (u->areas[mid].base <= p)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == 0)
		return -1;
	const struct uring_area *a = &u->areas[lo - 1];
	return p - a->base <= a->len && len <= a->len - (p - a->base) ? (int)a->index : -1;
}

static void prep_file(struct uring *u, struct io_uring_sqe *sqe, struct io_op *op)
{
	void *buf = io_step_buf(op);
	unsigned len = (unsigned)io_step_len(op);
	uint64_t at = op->offset + op->done_len;
	int area = area_find(u, buf, len);
	if (op->kind == IO_OP_READ && area >= 0)
		io_uring_prep_read_fixed(sqe, op->fd, buf, len, at, area);
	else if (op->kind == IO_OP_READ)
		io_uring_prep_read(sqe, op->fd, buf, len, at);
	else if (area >= 0)
		io_uring_prep_write_fixed(sqe, op->fd, buf, len, at, area);
	else
		io_uring_prep_write(sqe, op->fd, buf, len, at);
}

static void prep_recv_any(struct io_uring_sqe *sqe, struct io_op *op)
{
	io_uring_prep_recv(sqe, op->fd, NULL, IO_RECV_BUF_SIZE, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = BUF_GROUP;
}

static void uring_start(struct io *io, struct io_op *op)
{
	struct uring *u = uring_of(io);
	if (op->kind == IO_OP_RECV_ANY && !u->buf_ring) {
		op_poll(u, op);
		return;
	}
	struct io_uring_sqe *sqe = sqe_for(u, op, false);
	if (!sqe)
		return;
	switch (op->kind) {
	case IO_OP_READ: case IO_OP_WRITE:
		prep_file(u, sqe, op);
		break;
	case IO_OP_FLUSH:
		io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
		break;
	case IO_OP_ACCEPT:
		if (u->accept_single)
			io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC);
		else
			io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case IO_OP_RECV_ANY:
		prep_recv_any(sqe, op);
		break;
	case IO_OP_RECV:
		io_uring_prep_recv(sqe, op->fd, io_step_buf(op), io_step_len(op), MSG_WAITALL);
		break;
	case IO_OP_SEND:
		io_fill_msg(op);
		io_uring_prep_sendmsg(sqe, op->fd, &op->msg, MSG_WAITALL | MSG_NOSIGNAL);
		break;
	default:
		assert(false && "kind of op");
	}
	io_uring_sqe_set_data64(sqe, op->slot);
}

static void cancel_submit(struct uring *u, struct uring_slot *s)
{
	struct io_uring_sqe *sqe = sqe_get(u);
	s->cancel_owed = sqe == NULL;
	if (!sqe) {
		u->cancels_owed = true;
		return;
	}
	io_uring_prep_cancel64(sqe, s->op->slot, 0);
	io_uring_sqe_set_data64(sqe, UD_CANCEL);
}

static void op_abort(struct io *io, struct io_op *op)
{
	if (op->kind == IO_OP_RECV_ANY)
		io_recv_done(io, op, -ECANCELED, NULL);
	else if (op->kind == IO_OP_ACCEPT)
		io_accept_step(io, op, -ECANCELED);
	else
		io_step(io, op, -ECANCELED);
}

static void uring_cancel(struct io *io, struct io_op *op)
{
	struct uring *u = uring_of(io);
	if (op->slot != 0) {
		cancel_submit(u, slot_of(u, op->slot));
		return;
	}
	bool found = io_list_remove(&u->backlog, op) || io_list_remove(&u->starved, op);
	assert(found);
	(void)found;
	op_abort(io, op);
}

/* ---- receive buffers ---- */

static void buf_ring_add(struct uring *u, uint32_t i)
{
	io_uring_buf_ring_add(u->buf_ring, u->bufs + (size_t)i * IO_RECV_BUF_SIZE, IO_RECV_BUF_SIZE, (uint16_t)i,
		io_uring_buf_ring_mask(u->ring_entries), 0);
	io_uring_buf_ring_advance(u->buf_ring, 1);
}

static void buf_free(struct uring *u, uint32_t i)
{
	if (u->buf_ring)
		buf_ring_add(u, i);
	else
		u->own_free[u->bufs_free] = i;
	u->bufs_free++;
}

static void uring_recv_give(struct io *io, void *buf)
{
	struct uring *u = uring_of(io);
	size_t at = (size_t)((uint8_t *)buf - u->bufs);
	uint32_t i = (uint32_t)(at / IO_RECV_BUF_SIZE);
	assert(at % IO_RECV_BUF_SIZE == 0 && i < u->bufs_count && u->buf_out[i]);
	u->buf_out[i] = 0;
	buf_free(u, i);
}

static void *buf_to_owner(struct uring *u, uint32_t i)
{
	assert(i < u->bufs_count && !u->buf_out[i]);
	u->buf_out[i] = 1;
	return u->bufs + (size_t)i * IO_RECV_BUF_SIZE;
}

static void bufs_ring_open(struct uring *u)
{
	uint32_t n = 1;
	while (n < u->bufs_count)
		n *= 2;
	size_t size = n * sizeof(struct io_uring_buf);
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	if (p == MAP_FAILED)
		return;
	struct io_uring_buf_reg reg = { .ring_addr = (uintptr_t)p, .ring_entries = n, .bgid = BUF_GROUP };
	if (io_uring_register_buf_ring(&u->ring, &reg, 0) < 0) {
		munmap(p, size);
		return;
	}
	u->buf_ring = p;
	u->ring_entries = n;
	io_uring_buf_ring_init(u->buf_ring);
}

static int bufs_open(struct uring *u, uint32_t count, bool plain)
{
	u->bufs_count = count;
	u->bufs = mem_map((size_t)count * IO_RECV_BUF_SIZE);
	u->own_free = calloc(count, sizeof(*u->own_free));
	u->buf_out = calloc(count, 1);
	if (!u->bufs || !u->own_free || !u->buf_out)
		return -GRANARY_ENOMEM;
	if (!plain)
		bufs_ring_open(u);
	for (uint32_t i = count; i-- > 0;)
		buf_free(u, i);
	return 0;
}

/* ---- completions ---- */

static void recv_starved(struct uring *u, struct io_op *op)
{
	op->slot = 0;
	io_list_push(&u->starved, op);
}

/* There is data for a recv_any, and no buffer ring: take it now. */
static void recv_by_hand(struct io *io, struct uring *u, struct io_op *op)
{
	if (u->bufs_free == 0) {
		recv_starved(u, op);
		return;
	}
	uint32_t i = u->own_free[u->bufs_free - 1];
	ssize_t n = recv(op->fd, u->bufs + (size_t)i * IO_RECV_BUF_SIZE, IO_RECV_BUF_SIZE, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		op_poll(u, op);
		return;
	}
	if (n <= 0) {
		io_recv_done(io, op, n < 0 ? -errno : 0, NULL);
		return;
	}
	u->bufs_free--;
	io_recv_done(io, op, n, buf_to_owner(u, i));
}

/* The op's descriptor is ready: go on where the poll began. */
static void op_polled(struct io *io, struct uring *u, struct io_op *op, int res)
{
	if (io_canceled(op) || res == -ECANCELED) {
		op_abort(io, op);
		return;
	}
	if (res < 0) { /* cannot even poll: let the op itself say why */
		if (op->kind == IO_OP_RECV_ANY)
			io_recv_done(io, op, res, NULL);
		else if (io_step(io, op, res))
			uring_start(io, op);
	} else if (op->kind != IO_OP_RECV_ANY) {
		uring_start(io, op);
	} else if (!u->buf_ring) {
		recv_by_hand(io, u, op);
	} else if (u->bufs_free > 0) {
		uring_start(io, op);
	} else {
		recv_starved(u, op);
	}
}

static void recv_any_done(struct io *io, struct uring *u, struct io_op *op, int res, uint32_t flags)
{
	void *buf = NULL;
	if (flags & IORING_CQE_F_BUFFER) {
		uint32_t i = flags >> IORING_CQE_BUFFER_SHIFT;
		u->bufs_free--;
		if (res > 0)
			buf = buf_to_owner(u, i);
		else
			buf_free(u, i);
	}
	if ((res == -ENOBUFS || res == -EAGAIN || res == -EINTR) && !io_canceled(op)) {
		op_poll(u, op);
		return;
	}
	io_recv_done(io, op, res == -ENOBUFS || res == -EAGAIN || res == -EINTR ? -ECANCELED : res, buf);
}

static void accept_done(struct io *io, struct uring *u, struct io_op *op, int res, bool more)
{
	if (res == -EINVAL && !u->accept_single) { /* a kernel before 5.19, or not a listener: the next try tells */
		u->accept_single = true;
		uring_start(io, op);
		return;
	}
	bool again = io_accept_step(io, op, res);
	if (more || !again)
		return;
	if (io_canceled(op))
		op_abort(io, op);
	else if (res == -EAGAIN)
		op_poll(u, op);
	else
		uring_start(io, op);
}

static void op_completed(struct io *io, struct uring *u, struct io_op *op, int res)
{
	if (res == -EAGAIN && (op->kind == IO_OP_RECV || op->kind == IO_OP_SEND) && !io_canceled(op))
		op_poll(u, op); /* the owner's descriptor is non-blocking */
	else if (io_step(io, op, res))
		uring_start(io, op);
}

static void complete(struct io *io, struct uring *u, const struct io_uring_cqe *cqe)
{
	if (cqe->user_data == UD_CANCEL)
		return;
	if (cqe->user_data == UD_WAKE) {
		u->wake_armed = false;
		return;
	}
	struct uring_slot *s = slot_of(u, cqe->user_data);
	if (!s) {
		u->stale++;
		return;
	}
	struct io_op *op = s->op;
	bool more = (cqe->flags & IORING_CQE_F_MORE) != 0, polls = s->polls;
	if (!more)
		slot_give(u, s);
	if (u->closing)
		return;
	if (polls)
		op_polled(io, u, op, cqe->res);
	else if (op->kind == IO_OP_ACCEPT)
		accept_done(io, u, op, cqe->res, more);
	else if (op->kind == IO_OP_RECV_ANY)
		recv_any_done(io, u, op, cqe->res, cqe->flags);
	else
		op_completed(io, u, op, cqe->res);
}

static void reap(struct io *io, struct uring *u)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;
	io_uring_for_each_cqe(&u->ring, head, cqe) {
		complete(io, u, cqe);
		n++;
	}
	io_uring_cq_advance(&u->ring, n);
}

/* ---- waiting ---- */

static void wake_arm(struct uring *u)
{
	struct io_uring_sqe *sqe = u->wake_armed ? NULL : sqe_get(u);
	if (!sqe)
		return;
	io_uring_prep_read(sqe, u->wake_fd, &u->wake_value, sizeof(u->wake_value), 0);
	io_uring_sqe_set_data64(sqe, UD_WAKE);
	u->wake_armed = true;
}

/* Starts what had no room before, and receivers for which there is a buffer again. */
static void start_put_off(struct io *io, struct uring *u)
{
	struct io_list again = u->backlog;
	if (again.head) {
		io_list_init(&u->backlog);
		*again.tail = NULL;
		for (struct io_op *op = again.head, *next; op; op = next) {
			next = op->next;
			uring_start(io, op);
		}
	}
	for (uint32_t n = u->bufs_free; n > 0 && u->starved.head; n--) {
		struct io_op *op = io_list_pop(&u->starved);
		if (u->buf_ring)
			uring_start(io, op);
		else
			recv_by_hand(io, u, op);
	}
	if (!u->cancels_owed)
		return;
	u->cancels_owed = false;
	for (uint32_t i = 0; i < u->slots_cap; i++)
		if (u->slots[i].op && u->slots[i].cancel_owed)
			cancel_submit(u, &u->slots[i]);
}

static uint64_t uring_now(struct io *io)
{
	struct timespec ts;
	(void)io;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

static void wait_until(struct io *io, struct uring *u, uint64_t deadline_ns)
{
	struct io_uring_cqe *cqe;
	struct __kernel_timespec ts, *tsp = NULL;
	if (deadline_ns != UINT64_MAX) {
		uint64_t now = uring_now(io), left = deadline_ns > now ? deadline_ns - now : 0;
		ts.tv_sec = (long long)(left / UINT64_C(1000000000));
		ts.tv_nsec = (long long)(left % UINT64_C(1000000000));
		tsp = &ts;
	}
	if (tsp)
		io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, tsp, NULL);
	else
		io_uring_submit_and_wait(&u->ring, 1);
}

static void uring_wait(struct io *io, uint64_t deadline_ns)
{
	struct uring *u = uring_of(io);
	start_put_off(io, u);
	wake_arm(u);
	/* Sleeping without the wake entry, or with something put off or ready, would be for ever. */
	if (!u->wake_armed || u->backlog.head || u->cancels_owed || io->ready.head)
		deadline_ns = 0;
	/* Errors of entering (EINTR, ETIME, EBUSY, EAGAIN) leave the entries where they are for the next turn. */
	if (deadline_ns == 0)
		io_uring_submit_and_get_events(&u->ring);
	else
		wait_until(io, u, deadline_ns);
	reap(io, u);
}

static void uring_wake(struct io *io)
{
	uint64_t one = 1;
	ssize_t n;
	do
		n = write(uring_of(io)->wake_fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

/* ---- registered memory ---- */

static void fixed_fail(struct uring *u, int err)
{
	if (!u->fixed_failed)
		log_warn("cannot register memory with io_uring, reads cost a little more: %s; raise RLIMIT_MEMLOCK",
			strerror(-err));
	u->fixed_failed = true;
}

static int area_add(struct uring *u, uint8_t *base, size_t len)
{
	struct iovec v = { base, len };
	__u64 tag = 0;
	uint32_t index = u->areas_count, at = index;
	if (index == IO_AREAS_MAX)
		return -ENOSPC;
	int res = io_uring_register_buffers_update_tag(&u->ring, index, &v, &tag, 1);
	if (res < 0)
		return res;
	for (; at > 0 && u->areas[at - 1].base > (uintptr_t)base; at--)
		u->areas[at] = u->areas[at - 1];
	u->areas[at] = (struct uring_area){ (uintptr_t)base, len, index };
	u->areas_count++;
	return 0;
}

static int uring_register(struct io *io, void *base, size_t len)
{
	struct uring *u = uring_of(io);
	if (!u->fixed_ready && !u->fixed_failed) {
		int res = io_uring_register_buffers_sparse(&u->ring, IO_AREAS_MAX);
		u->fixed_ready = res >= 0;
		if (res < 0)
			fixed_fail(u, res);
	}
	if (!u->fixed_ready)
		return -GRANARY_EUNSUPPORTED;
	for (uint8_t *p = base; len > 0;) { /* the kernel takes at most 1 GiB a piece */
		size_t n = len < AREA_MAX ? len : AREA_MAX;
		int res = area_add(u, p, n);
		if (res < 0) {
			fixed_fail(u, res);
			return error_from_errno(-res);
		}
		p += n;
		len -= n;
	}
	return 0;
}

/* ---- making ---- */

static int ring_open(struct io_uring *ring, bool plain)
{
	static const unsigned flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_COOP_TASKRUN, 0,
	};
	int res = -EINVAL;
	for (unsigned i = plain ? 2 : 0; i < 3 && res == -EINVAL; i++) {
		struct io_uring_params p = { .flags = flags[i] | IORING_SETUP_CQSIZE, .cq_entries = CQ_ENTRIES };
		res = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
		/* Timed waits by argument (5.11) and completions that are never dropped (5.5) are what we build on. */
		if (res == 0 && (~p.features & (IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP)) != 0) {
			io_uring_queue_exit(ring);
			return -ENOSYS;
		}
	}
	return res;
}

static void uring_close(struct io *io)
{
	struct uring *u = uring_of(io);
	if (!u)
		return;
	io_uring_queue_exit(&u->ring);
	if (u->buf_ring)
		munmap(u->buf_ring, u->ring_entries * sizeof(struct io_uring_buf));
	if (u->wake_fd >= 0)
		close(u->wake_fd);
	mem_unmap(u->bufs, (size_t)u->bufs_count * IO_RECV_BUF_SIZE);
	free(u->own_free);
	free(u->buf_out);
	free(u->slots);
	free(u);
	io->engine_state = NULL;
}

static int uring_open(struct io *io)
{
	const char *env = getenv("GRANARY_IO_URING_PLAIN"); /* tests: behave as on an old kernel */
	bool plain = env && *env == '1';
	struct uring *u = calloc(1, sizeof(*u));
	if (!u)
		return -GRANARY_ENOMEM;
	int res = ring_open(&u->ring, plain);
	if (res < 0) {
		free(u);
		bool short_of = res == -ENOMEM || res == -EMFILE || res == -ENFILE;
		return short_of ? error_from_errno(-res) : -GRANARY_EUNSUPPORTED;
	}
	io->engine_state = u;
	u->slot_free = SLOT_NONE;
	u->accept_single = u->fixed_failed = plain;
	io_list_init(&u->backlog);
	io_list_init(&u->starved);
	u->wake_fd = eventfd(0, EFD_CLOEXEC);
	int err = u->wake_fd < 0 ? error_from_errno(errno) : bufs_open(u, io->options.recv_bufs, plain);
	if (err < 0)
		uring_close(io);
	return err;
}

/* Kernel workers may still write into callers' buffers after the ring is closed: so end all ops first. */
static void uring_drain(struct io *io)
{
	struct uring *u = uring_of(io);
	uint64_t end = uring_now(io) + DRAIN_MAX_NS;
	u->closing = true;
	for (uint32_t i = 0; i < u->slots_cap; i++)
		if (u->slots[i].op)
			cancel_submit(u, &u->slots[i]);
	while (u->slots_used > 0 && uring_now(io) < end) {
		wait_until(io, u, uring_now(io) + 100000000);
		reap(io, u);
	}
	if (u->slots_used > 0)
		log_warn("cannot end %u operations before closing the ring", u->slots_used);
}

const struct io_engine io_engine_uring = {
	.kind = IO_ENGINE_URING,
	.open = uring_open,
	.close = uring_close,
	.drain = uring_drain,
	.start = uring_start,
	.cancel = uring_cancel,
	.wait = uring_wait,
	.wake = uring_wake,
	.recv_give = uring_recv_give,
	.register_memory = uring_register,
	.now = uring_now,
};
