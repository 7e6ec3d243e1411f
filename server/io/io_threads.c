/* SPDX-License-Identifier: Apache-2.0 */
/* io_threads.c -- the engine for machines that forbid io_uring: epoll for sockets in the owner's thread, helper
 * threads with pread, pwrite and fdatasync for files.
 * Invariants: (1) sockets belong to the owner's thread; at most one op waits to receive (or accept) and one to send
 * on a descriptor; (2) `todo` and `finished` are under `lock`; a helper touches an op only between the two; (3) the
 * owner sleeps only in epoll; helpers and io_wake() disturb it by the eventfd. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "io/io_engine.h"
#include "io/mem.h"

enum { EVENTS_MAX = 256, SOCKS_FIRST = 1024 };

struct sock { /* by descriptor */
	struct io_op *in, *out;
	bool known; /* epoll had it when we last looked; closing takes it out behind our back */
};

struct threads {
	int epoll_fd, wake_fd;
	struct sock *socks;
	size_t socks_cap;
	struct io_list starved; /* recv_any with data but no buffer */
	uint8_t *bufs;
	uint32_t *bufs_stack;
	uint8_t *buf_out;
	uint32_t bufs_count, bufs_free;
	bool no_pwait2;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct io_list todo, finished;
	uint32_t idle_count, busy_count, helpers_count;
	bool stop;
	pthread_t helpers[];
};

static struct threads *threads_of(struct io *io) { return io->engine_state; }

/* ---- helpers: files ---- */

static int64_t file_step(struct io_op *op)
{
	off_t at = (off_t)(op->offset + op->done_len);
	int64_t n;
	if (op->kind == IO_OP_READ)
		n = pread(op->fd, io_step_buf(op), io_step_len(op), at);
	else if (op->kind == IO_OP_WRITE)
		n = pwrite(op->fd, io_step_buf(op), io_step_len(op), at);
	else
		n = fdatasync(op->fd);
	return n < 0 ? -errno : n;
}

static void eventfd_add(int fd)
{
	uint64_t one = 1;
	ssize_t n;
	do
		n = write(fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

static void *helper_main(void *arg)
{
	struct threads *t = arg;
	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		struct io_op *op = io_list_pop(&t->todo);
		if (!op) {
			t->idle_count++;
			pthread_cond_wait(&t->work, &t->lock);
			t->idle_count--;
			continue;
		}
		t->busy_count++;
		pthread_mutex_unlock(&t->lock);
		op->res = file_step(op);
		pthread_mutex_lock(&t->lock);
		t->busy_count--;
		bool first = t->finished.head == NULL;
		io_list_push(&t->finished, op);
		if (first)
			eventfd_add(t->wake_fd);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void file_start(struct threads *t, struct io_op *op)
{
	pthread_mutex_lock(&t->lock);
	io_list_push(&t->todo, op);
	bool wake = t->idle_count > 0;
	pthread_mutex_unlock(&t->lock);
	if (wake)
		pthread_cond_signal(&t->work);
}

static void files_collect(struct io *io, struct threads *t)
{
	pthread_mutex_lock(&t->lock);
	struct io_op *op = t->finished.head, *next;
	io_list_init(&t->finished);
	pthread_mutex_unlock(&t->lock);
	for (; op; op = next) {
		next = op->next;
		if (io_step(io, op, op->res))
			file_start(t, op);
	}
}

/* ---- sockets ---- */

static bool socks_reach(struct threads *t, int fd)
{
	size_t cap = t->socks_cap ? t->socks_cap : SOCKS_FIRST;
	if ((size_t)fd < t->socks_cap)
		return true;
	while (cap <= (size_t)fd)
		cap *= 2;
	struct sock *socks = realloc(t->socks, cap * sizeof(*socks));
	if (!socks)
		return false;
	memset(socks + t->socks_cap, 0, (cap - t->socks_cap) * sizeof(*socks));
	t->socks = socks;
	t->socks_cap = cap;
	return true;
}

/* Tells epoll what the descriptor's waiting ops want, once. */
static int sock_watch(struct threads *t, int fd)
{
	struct sock *s = &t->socks[fd];
	struct epoll_event ev = { .data.fd = fd };
	ev.events = EPOLLONESHOT | (s->in ? (uint32_t)EPOLLIN : 0) | (s->out ? (uint32_t)EPOLLOUT : 0);
	int res = epoll_ctl(t->epoll_fd, s->known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev);
	if (res != 0 && errno == (s->known ? ENOENT : EEXIST))
		res = epoll_ctl(t->epoll_fd, s->known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &ev);
	s->known = res == 0;
	return res == 0 ? 0 : -errno;
}

static void sock_fail(struct io *io, struct io_op *op, int64_t res)
{
	if (op->kind == IO_OP_RECV_ANY)
		io_recv_done(io, op, res, NULL);
	else if (op->kind == IO_OP_ACCEPT)
		io_accept_step(io, op, res);
	else
		io_step(io, op, res);
}

static void sock_await(struct io *io, struct threads *t, struct io_op *op)
{
	if (!socks_reach(t, op->fd)) {
		sock_fail(io, op, -ENOBUFS);
		return;
	}
	struct io_op **side = op->kind == IO_OP_SEND ? &t->socks[op->fd].out : &t->socks[op->fd].in;
	assert(*side == NULL); /* one op a direction */
	*side = op;
	int err = sock_watch(t, op->fd);
	if (err < 0) {
		*side = NULL;
		sock_fail(io, op, err);
	}
}

/* True: done or put off among the starved; false: wait for data. */
static bool recv_any_try(struct io *io, struct threads *t, struct io_op *op)
{
	if (t->bufs_free == 0) {
		char peek;
		ssize_t n = recv(op->fd, &peek, 1, MSG_DONTWAIT | MSG_PEEK);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return false;
		if (n > 0)
			io_list_push(&t->starved, op);
		else
			io_recv_done(io, op, n < 0 ? -errno : 0, NULL);
		return true;
	}
	uint32_t i = t->bufs_stack[t->bufs_free - 1];
	uint8_t *buf = t->bufs + (size_t)i * IO_RECV_BUF_SIZE;
	ssize_t n = recv(op->fd, buf, IO_RECV_BUF_SIZE, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n > 0) {
		t->bufs_free--;
		t->buf_out[i] = 1;
	}
	io_recv_done(io, op, n < 0 ? -errno : n, n > 0 ? buf : NULL);
	return true;
}

static int64_t stream_try(struct io_op *op)
{
	ssize_t n;
	if (op->kind == IO_OP_RECV) {
		n = recv(op->fd, io_step_buf(op), io_step_len(op), MSG_DONTWAIT);
	} else {
		io_fill_msg(op);
		n = sendmsg(op->fd, &op->msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	return n < 0 ? -errno : n;
}

/* Accepts all there is; true: wait for more. */
static bool accept_try(struct io *io, struct io_op *op)
{
	for (unsigned i = 0; i < IO_ACCEPT_QUEUE_MAX / 4; i++) {
		int fd = accept4(op->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0 && errno == EAGAIN)
			return true;
		if (!io_accept_step(io, op, fd < 0 ? -errno : fd))
			return false;
	}
	return true; /* level-triggered: the rest comes with the next turn */
}

static void sock_try(struct io *io, struct threads *t, struct io_op *op)
{
	if (op->kind == IO_OP_ACCEPT) {
		if (accept_try(io, op))
			sock_await(io, t, op);
		return;
	}
	if (op->kind == IO_OP_RECV_ANY) {
		if (!recv_any_try(io, t, op))
			sock_await(io, t, op);
		return;
	}
	for (;;) {
		int64_t n = stream_try(op);
		if (n == -EAGAIN) {
			sock_await(io, t, op);
			return;
		}
		if (!io_step(io, op, n))
			return;
	}
}

static void sock_event(struct io *io, struct threads *t, int fd)
{
	struct io_op *in = t->socks[fd].in, *out = t->socks[fd].out;
	t->socks[fd].in = t->socks[fd].out = NULL; /* those that must go on waiting come back */
	if (in)
		sock_try(io, t, in);
	if (out)
		sock_try(io, t, out);
}

static void threads_start(struct io *io, struct io_op *op)
{
	struct threads *t = threads_of(io);
	if (op->kind == IO_OP_READ || op->kind == IO_OP_WRITE || op->kind == IO_OP_FLUSH) {
		file_start(t, op);
		return;
	}
	if (op->kind == IO_OP_ACCEPT) {
		int flags = fcntl(op->fd, F_GETFL);
		if (flags >= 0 && !(flags & O_NONBLOCK))
			fcntl(op->fd, F_SETFL, flags | O_NONBLOCK); /* the connection may be gone after epoll saw it */
	}
	sock_try(io, t, op);
}

static void threads_cancel(struct io *io, struct io_op *op)
{
	struct threads *t = threads_of(io);
	if (op->kind == IO_OP_READ || op->kind == IO_OP_WRITE || op->kind == IO_OP_FLUSH) {
		pthread_mutex_lock(&t->lock);
		bool found = io_list_remove(&t->todo, op);
		pthread_mutex_unlock(&t->lock);
		if (found)
			io_step(io, op, -ECANCELED);
		return; /* else a helper has it and it completes by itself */
	}
	if (!io_list_remove(&t->starved, op)) {
		struct sock *s = &t->socks[op->fd];
		assert(s->in == op || s->out == op);
		if (s->in == op)
			s->in = NULL;
		else
			s->out = NULL;
		sock_watch(t, op->fd);
	}
	sock_fail(io, op, -ECANCELED);
}

static void threads_recv_give(struct io *io, void *buf)
{
	struct threads *t = threads_of(io);
	size_t at = (size_t)((uint8_t *)buf - t->bufs);
	uint32_t i = (uint32_t)(at / IO_RECV_BUF_SIZE);
	assert(at % IO_RECV_BUF_SIZE == 0 && i < t->bufs_count && t->buf_out[i]);
	t->buf_out[i] = 0;
	t->bufs_stack[t->bufs_free++] = i;
}

/* ---- waiting ---- */

static uint64_t threads_now(struct io *io)
{
	(void)io;
	return clock_mono_ns();
}

static int epoll_until(struct threads *t, struct epoll_event *events, uint64_t deadline_ns)
{
	uint64_t left = 0;
	if (deadline_ns > 0 && deadline_ns != UINT64_MAX) {
		uint64_t now = clock_mono_ns();
		left = deadline_ns > now ? deadline_ns - now : 0;
	}
	if (!t->no_pwait2) {
		struct timespec ts = { (time_t)(left / UINT64_C(1000000000)), (long)(left % UINT64_C(1000000000)) };
		int n = epoll_pwait2(t->epoll_fd, events, EVENTS_MAX, deadline_ns == UINT64_MAX ? NULL : &ts, NULL);
		if (n >= 0 || (errno != ENOSYS && errno != EPERM))
			return n;
		t->no_pwait2 = true;
	}
	uint64_t ms = (left + 999999) / 1000000;
	int timeout = deadline_ns == UINT64_MAX ? -1 : ms > 3600000 ? 3600000 : (int)ms;
	return epoll_wait(t->epoll_fd, events, EVENTS_MAX, timeout);
}

static void wake_clear(struct threads *t)
{
	uint64_t value;
	ssize_t n = read(t->wake_fd, &value, sizeof(value)); /* non-blocking; nothing there is fine */
	(void)n;
}

static void threads_wait(struct io *io, uint64_t deadline_ns)
{
	struct threads *t = threads_of(io);
	struct epoll_event events[EVENTS_MAX];
	for (uint32_t n = t->bufs_free; n > 0 && t->starved.head; n--)
		sock_try(io, t, io_list_pop(&t->starved));
	if (io->ready.head)
		deadline_ns = 0;
	int n = epoll_until(t, events, deadline_ns);
	for (int i = 0; i < n; i++) {
		if (events[i].data.fd == t->wake_fd)
			wake_clear(t);
		else
			sock_event(io, t, events[i].data.fd);
	}
	files_collect(io, t);
}

static void threads_wake(struct io *io) { eventfd_add(threads_of(io)->wake_fd); }

/* ---- making ---- */

static void helpers_stop(struct threads *t)
{
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_broadcast(&t->work);
	pthread_mutex_unlock(&t->lock);
	for (uint32_t i = 0; i < t->helpers_count; i++)
		pthread_join(t->helpers[i], NULL);
	t->helpers_count = 0;
}

static void threads_drain(struct io *io) { helpers_stop(threads_of(io)); }

static void threads_close(struct io *io)
{
	struct threads *t = threads_of(io);
	helpers_stop(t);
	if (t->epoll_fd >= 0)
		close(t->epoll_fd);
	if (t->wake_fd >= 0)
		close(t->wake_fd);
	mem_unmap(t->bufs, (size_t)t->bufs_count * IO_RECV_BUF_SIZE);
	free(t->bufs_stack);
	free(t->buf_out);
	free(t->socks);
	pthread_cond_destroy(&t->work);
	pthread_mutex_destroy(&t->lock);
	free(t);
	io->engine_state = NULL;
}

static int bufs_open(struct threads *t, uint32_t count)
{
	t->bufs_count = count;
	t->bufs = mem_map((size_t)count * IO_RECV_BUF_SIZE);
	t->bufs_stack = calloc(count, sizeof(*t->bufs_stack));
	t->buf_out = calloc(count, 1);
	if (!t->bufs || !t->bufs_stack || !t->buf_out)
		return -GRANARY_ENOMEM;
	while (t->bufs_free < count) {
		t->bufs_stack[t->bufs_free] = count - 1 - t->bufs_free;
		t->bufs_free++;
	}
	return 0;
}

static int fds_open(struct threads *t)
{
	struct epoll_event ev = { .events = EPOLLIN };
	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ev.data.fd = t->wake_fd;
	if (t->epoll_fd < 0 || t->wake_fd < 0 || epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->wake_fd, &ev) != 0)
		return error_from_errno(errno);
	return 0;
}

static int helpers_start(struct threads *t, uint32_t count)
{
	char name[16];
	while (t->helpers_count < count) {
		uint32_t i = t->helpers_count;
		if (pthread_create(&t->helpers[i], NULL, helper_main, t) != 0)
			return -GRANARY_ENOMEM;
		snprintf(name, sizeof(name), "granary-f%u", i % 1000);
		pthread_setname_np(t->helpers[i], name);
		t->helpers_count++;
	}
	return 0;
}

static int threads_open(struct io *io)
{
	struct threads *t = calloc(1, sizeof(*t) + io->options.threads * sizeof(t->helpers[0]));
	if (!t)
		return -GRANARY_ENOMEM;
	io->engine_state = t;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->work, NULL);
	io_list_init(&t->todo);
	io_list_init(&t->finished);
	io_list_init(&t->starved);
	int err = fds_open(t);
	if (err == 0)
		err = bufs_open(t, io->options.recv_bufs);
	if (err == 0)
		err = helpers_start(t, io->options.threads);
	if (err < 0)
		threads_close(io);
	return err;
}

const struct io_engine io_engine_threads = {
	.kind = IO_ENGINE_THREADS,
	.open = threads_open,
	.close = threads_close,
	.drain = threads_drain,
	.start = threads_start,
	.cancel = threads_cancel,
	.wait = threads_wait,
	.wake = threads_wake,
	.recv_give = threads_recv_give,
	.now = threads_now,
};
