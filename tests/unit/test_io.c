/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every engine keeps the contract in io.h. Method: the same tests over uring, over uring with everything newer
 * kernels added switched off, and over threads. */
#include "io/io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "io/fs.h"
#include "io/mem.h"
#include "io/sock.h"

#define SECOND UINT64_C(1000000000)

enum { BLOCK = 4096, MESSAGES = 2000, MESSAGE_LEN = 100, BIG = 8 << 20, MEM = 16 << 20 };

static enum io_engine_kind kind;
static char dir[64];
static struct fs *fs;
static uint8_t *mem;

/* An op with its count, and what to do again. */
struct test_op { struct io_op op; uint32_t done_count, again; struct io *io; struct fs_file *file; int fd; };

static struct test_op *test_op_of(struct io_op *op) { return (struct test_op *)(void *)op; }
static void on_done(struct io_op *op) { test_op_of(op)->done_count++; }
static struct test_op make_op(void) { return (struct test_op){ .op.done = on_done, .fd = -1 }; }

static struct io *open_io(struct io_options o)
{
	struct io *io;
	o.engine = kind;
	int err = io_new(&o, &io);
	if (err == -GRANARY_EUNSUPPORTED)
		skip();
	assert_int_equal(err, 0);
	return io;
}

/* Turns until op completed `count` times. */
static int64_t await_count(struct io *io, struct test_op *t, uint32_t count)
{
	uint64_t end = io_now_ns(io) + 60 * SECOND;
	while (t->done_count < count) {
		assert_true(io_now_ns(io) < end);
		io_submit_and_wait(io, end);
		io_run(io, 256);
	}
	assert_int_equal(t->done_count, count);
	return t->op.res;
}

static int64_t await(struct io *io, struct test_op *t) { return await_count(io, t, 1); }

static struct fs_file *create(const char *name, unsigned flags)
{
	struct fs_file *f;
	fs_unlink(fs, name);
	assert_int_equal(fs_open(fs, name, FS_CREATE_NEW | flags, &f), 0);
	return f;
}

static void make_pair(int fds[2])
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sa);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fds[0], (struct sockaddr *)&sa, sizeof(sa)), 0);
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fds[1] >= 0);
	close(listener);
}

/* ---- files ---- */

static void test_write_flush_read_and_short_read_at_the_end(void **state)
{
	(void)state;
	for (int direct = 0; direct < 2; direct++) {
		struct io *io = open_io((struct io_options){ 0 });
		struct test_op w = make_op(), s = make_op(), r = make_op(), past = make_op();
		struct fs_file *f = create("f", direct ? FS_DIRECT : 0);
		assert_true(io_register_memory(io, mem, MEM) <= 0);
		memset(mem, 'w', 3 * BLOCK);
		io_write(io, &w.op, f, mem, 3 * BLOCK, 0);
		assert_int_equal(w.done_count, 0); /* never from inside start */
		assert_int_equal(await(io, &w), 3 * BLOCK);
		io_fdatasync(io, &s.op, f);
		assert_int_equal(await(io, &s), 0);
		memset(mem, 0, 4 * BLOCK);
		io_read(io, &r.op, f, mem, 4 * BLOCK, BLOCK);
		assert_int_equal(await(io, &r), 2 * BLOCK);
		assert_true(mem[0] == 'w' && mem[2 * BLOCK - 1] == 'w' && mem[2 * BLOCK] == 0);
		io_read(io, &past.op, f, mem, BLOCK, 16 * BLOCK);
		assert_int_equal(await(io, &past), 0);
		fs_close(&f);
		io_free(&io);
	}
}

static void test_direct_read_of_a_file_with_an_odd_end(void **state)
{
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct fs_file *f = create("odd", 0);
	struct test_op r = make_op();
	memset(mem, 'o', BLOCK * 2);
	assert_int_equal(fs_write(f, mem, BLOCK + 100, 0), 0);
	assert_int_equal(fs_sync(f), 0);
	fs_close(&f);
	assert_int_equal(fs_open(fs, "odd", FS_READ | FS_DIRECT, &f), 0);
	io_read(io, &r.op, f, mem, 4 * BLOCK, 0);
	assert_int_equal(await(io, &r), BLOCK + 100);
	fs_close(&f);
	io_free(&io);
}

static void test_unaligned_direct_ops_are_refused(void **state)
{
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct fs_file *f = create("f", FS_DIRECT);
	struct test_op a = make_op(), b = make_op(), c = make_op();
	if (fs_file_fd(f) < 0 || !(fcntl(fs_file_fd(f), F_GETFL) & O_DIRECT)) {
		fs_close(&f);
		io_free(&io);
		skip(); /* this file system has no direct I/O */
	}
	io_read(io, &a.op, f, mem, 100, 0);
	io_read(io, &b.op, f, mem, BLOCK, 1);
	io_write(io, &c.op, f, mem + 1, BLOCK, 0);
	assert_int_equal(await(io, &a), -GRANARY_EINVAL);
	assert_int_equal(await(io, &b), -GRANARY_EINVAL);
	assert_int_equal(await(io, &c), -GRANARY_EINVAL);
	fs_close(&f);
	io_free(&io);
}

static void test_write_to_a_read_only_file_fails(void **state)
{
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct fs_file *f = create("f", 0);
	struct test_op w = make_op();
	struct io_stats stats;
	fs_close(&f);
	assert_int_equal(fs_open(fs, "f", FS_READ, &f), 0);
	io_write(io, &w.op, f, mem, BLOCK, 0);
	assert_true(await(io, &w) < 0);
	io_get_stats(io, &stats);
	assert_int_equal(stats.errors, 1);
	fs_close(&f);
	io_free(&io);
}

static void read_again(struct io_op *op)
{
	struct test_op *t = test_op_of(op);
	t->done_count++;
	if (t->again-- > 0)
		io_read(t->io, op, t->file, mem + BLOCK * (t->done_count % 4), BLOCK, 0);
}

static void test_op_is_started_again_from_its_own_done(void **state)
{
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct fs_file *f = create("f", 0);
	struct test_op r = { .op.done = read_again, .again = 10, .io = io, .file = f };
	assert_int_equal(fs_write(f, mem, BLOCK, 0), 0);
	io_read(io, &r.op, f, mem, BLOCK, 0);
	assert_int_equal(await_count(io, &r, 11), BLOCK);
	fs_close(&f);
	io_free(&io);
}

/* Ops beyond the depth wait inside and all complete; those that wait can be cancelled at once. */
static void test_more_ops_than_depth_all_complete(void **state)
{
	enum { COUNT = 500 };
	static struct test_op ops[COUNT];
	uint32_t ok = 0, canceled = 0;
	(void)state;
	struct io *io = open_io((struct io_options){ .depth = 4, .threads = 3 });
	struct fs_file *f = create("f", 0);
	assert_int_equal(fs_write(f, mem, BLOCK, 0), 0);
	for (uint32_t i = 0; i < COUNT; i++) {
		ops[i] = make_op();
		io_read(io, &ops[i].op, f, mem + (size_t)BLOCK * i, BLOCK, 0);
	}
	for (uint32_t i = COUNT / 2; i < COUNT; i += 2)
		io_cancel(io, &ops[i].op);
	for (uint32_t i = 0; i < COUNT; i++) {
		int64_t res = await(io, &ops[i]);
		ok += res == BLOCK;
		canceled += res == -GRANARY_ECANCELED;
	}
	assert_int_equal(ok + canceled, COUNT);
	assert_int_equal(canceled, COUNT / 4);
	fs_close(&f);
	io_free(&io);
}

static void test_flush_delay_is_added(void **state)
{
	(void)state;
	struct io *io = open_io((struct io_options){ .flush_delay_ns = 20000000 });
	struct fs_file *f = create("f", 0);
	struct test_op s = make_op();
	uint64_t start = io_now_ns(io);
	io_fdatasync(io, &s.op, f);
	assert_int_equal(await(io, &s), 0);
	assert_true(io_now_ns(io) - start >= 20000000);
	fs_close(&f);
	io_free(&io);
}

/* ---- timers ---- */

static uint32_t timer_order[100], timer_order_count;
static void on_timer(struct io_op *op)
{
	test_op_of(op)->done_count++;
	timer_order[timer_order_count++] = test_op_of(op)->again;
}

static void test_timers_run_in_order_and_can_be_cancelled(void **state)
{
	static struct test_op ops[100];
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	uint64_t start = io_now_ns(io);
	timer_order_count = 0;
	for (uint32_t i = 0; i < 100; i++) {
		uint32_t place = i * 37 % 100;
		ops[i] = (struct test_op){ .op.done = on_timer, .again = place };
		io_timer(io, &ops[i].op, start + 1000000 + place * 100000);
	}
	for (uint32_t i = 0; i < 100; i += 10) {
		io_cancel(io, &ops[i].op);
		io_cancel(io, &ops[i].op); /* twice is once */
	}
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(await(io, &ops[i]), i % 10 == 0 ? -GRANARY_ECANCELED : 0);
	assert_true(io_now_ns(io) >= start + 1000000 + 99 * 100000);
	for (uint32_t i = 11; i < 100; i++) /* the ten cancelled ones came first */
		assert_true(timer_order[i - 1] < timer_order[i]);
	io_free(&io);
}

static void test_wait_ends_at_the_deadline_and_at_a_wake(void **state)
{
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	uint64_t start = io_now_ns(io);
	uint32_t waits = 0;
	do /* a wait may end early for no reason (a signal, an event that was no news), but not again and again */
		io_submit_and_wait(io, start + 5000000);
	while (io_now_ns(io) < start + 5000000 && ++waits < 100);
	assert_in_range(waits, 0, 99);
	io_wake(io); /* before the wait: it must not sleep */
	io_submit_and_wait(io, UINT64_MAX);
	io_submit_and_wait(io, 0);
	assert_int_equal(io_run(io, 10), 0);
	io_free(&io);
}

/* ---- sockets ---- */

struct server { struct test_op op; int fds[64]; uint32_t count; };
static struct server server;

static void on_accept(struct io_op *op)
{
	server.op.done_count++;
	if (op->res >= 0)
		server.fds[server.count++] = (int)op->res;
}

static void test_accept_gives_every_connection_and_one_last(void **state)
{
	char text[128];
	int listener, clients[50];
	struct sockaddr_in sa;
	socklen_t len = sizeof(sa);
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	assert_int_equal(sock_listen("tcp:127.0.0.1:0", &listener, text, sizeof(text)), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
	server = (struct server){ .op = make_op() };
	server.op.op.done = on_accept;
	io_accept(io, &server.op.op, listener);
	for (int i = 0; i < 50; i++) {
		clients[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(clients[i], (struct sockaddr *)&sa, sizeof(sa)), 0);
		if (i % 7 == 0) {
			io_submit_and_wait(io, io_now_ns(io) + 1000000);
			io_run(io, 3);
		}
	}
	await_count(io, &server.op, 50);
	assert_int_equal(server.count, 50);
	io_cancel(io, &server.op.op);
	assert_int_equal(await_count(io, &server.op, 51), -GRANARY_ECANCELED);
	for (int i = 0; i < 50; i++) {
		close(clients[i]);
		close(server.fds[i]);
	}
	sock_close(listener);
	io_free(&io);
}

static uint64_t received, expected_next;
static void on_bytes(struct io_op *op)
{
	struct test_op *t = test_op_of(op);
	t->done_count++;
	if (op->res <= 0)
		return;
	const uint8_t *p = op->recv_buf;
	for (int64_t i = 0; i < op->res; i++)
		assert_int_equal(p[i], (uint8_t)(expected_next++ % 251));
	received += (uint64_t)op->res;
	io_recv_give(t->io, op->recv_buf);
	io_recv_any(t->io, op, t->fd);
}

static void on_sent(struct io_op *op)
{
	struct test_op *t = test_op_of(op);
	static struct iovec iov;
	static uint8_t message[MESSAGE_LEN];
	t->done_count++;
	if (t->again-- == 0)
		return;
	for (uint32_t i = 0; i < MESSAGE_LEN; i++)
		message[i] = (uint8_t)((t->done_count * MESSAGE_LEN + i) % 251);
	iov = (struct iovec){ message, MESSAGE_LEN };
	io_send(t->io, op, t->fd, &iov, 1);
}

static void test_small_messages_arrive_in_order_then_the_close(void **state)
{
	int fds[2];
	uint8_t first[MESSAGE_LEN];
	struct iovec iov = { first, MESSAGE_LEN };
	(void)state;
	struct io *io = open_io((struct io_options){ .recv_bufs = 4 });
	make_pair(fds);
	received = expected_next = 0;
	struct test_op r = { .op.done = on_bytes, .io = io, .fd = fds[0] };
	struct test_op s = { .op.done = on_sent, .io = io, .fd = fds[1], .again = MESSAGES - 1 };
	for (uint32_t i = 0; i < MESSAGE_LEN; i++)
		first[i] = (uint8_t)(i % 251);
	io_recv_any(io, &r.op, fds[0]);
	io_send(io, &s.op, fds[1], &iov, 1);
	await_count(io, &s, MESSAGES);
	sock_shutdown(fds[1]);
	while (r.op.res != 0 || received < (uint64_t)MESSAGES * MESSAGE_LEN) {
		io_submit_and_wait(io, io_now_ns(io) + SECOND);
		assert_true(io_run(io, 256) > 0);
	}
	assert_null(r.op.recv_buf);
	assert_int_equal(received, MESSAGES * MESSAGE_LEN);
	close(fds[0]);
	close(fds[1]);
	io_free(&io);
}

/* More pieces than one sendmsg takes, and far more bytes than a socket holds; on non-blocking descriptors too. */
static void test_big_messages_go_through_whole(void **state)
{
	enum { PIECES = 2048 };
	static struct iovec iov[PIECES];
	(void)state;
	for (int nonblock = 0; nonblock < 2; nonblock++) {
		int fds[2];
		struct io *io = open_io((struct io_options){ 0 });
		struct test_op s = make_op(), r = make_op();
		make_pair(fds);
		for (int i = 0; i < 2 && nonblock; i++)
			assert_int_equal(fcntl(fds[i], F_SETFL, O_NONBLOCK), 0);
		uint8_t *to = mem + BIG;
		for (uint32_t i = 0; i < BIG; i++)
			mem[i] = (uint8_t)(i % 249);
		memset(to, 0, BIG);
		for (uint32_t i = 0; i < PIECES; i++)
			iov[i] = (struct iovec){ mem + (size_t)i * (BIG / PIECES), BIG / PIECES };
		io_recv(io, &r.op, fds[0], to, BIG);
		io_send(io, &s.op, fds[1], iov, PIECES);
		assert_int_equal(await(io, &s), BIG);
		assert_int_equal(await(io, &r), BIG);
		assert_memory_equal(mem, to, BIG);
		close(fds[0]);
		close(fds[1]);
		io_free(&io);
	}
}

/* io.h (6): what came before the cancel is there and counted, and the next recv goes on behind it. */
static void test_a_cancelled_recv_tells_what_came(void **state)
{
	int fds[2];
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct test_op r = make_op(), s = make_op();
	struct iovec iov = { mem, 1000 };
	uint8_t *to = mem + BIG;
	make_pair(fds);
	for (uint32_t i = 0; i < 3000; i++)
		mem[i] = (uint8_t)(i % 249);
	memset(to, 0, 3000);
	io_recv(io, &r.op, fds[0], to, 3000);
	io_send(io, &s.op, fds[1], &iov, 1);
	assert_int_equal(await(io, &s), 1000);
	for (int i = 0; i < 20; i++) { /* until it has them */
		io_submit_and_wait(io, io_now_ns(io) + SECOND / 200);
		io_run(io, 256);
	}
	io_cancel(io, &r.op);
	assert_int_equal(await(io, &r), -GRANARY_ECANCELED);
	assert_int_equal(r.op.done_len, 1000);
	r = s = make_op();
	iov = (struct iovec){ mem + 1000, 2000 };
	io_recv(io, &r.op, fds[0], to + 1000, 2000);
	io_send(io, &s.op, fds[1], &iov, 1);
	assert_int_equal(await(io, &r), 2000);
	assert_memory_equal(mem, to, 3000);
	close(fds[0]);
	close(fds[1]);
	io_free(&io);
}

static void test_peer_close_in_the_middle_of_a_recv(void **state)
{
	int fds[2];
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct test_op r = make_op(), s = make_op();
	make_pair(fds);
	io_recv(io, &r.op, fds[0], mem, 1000);
	assert_int_equal(send(fds[1], "12345", 5, 0), 5);
	close(fds[1]);
	assert_int_equal(await(io, &r), 5);
	/* A send to a closed peer fails, without a signal, once the reset is back. */
	for (uint32_t i = 1; s.op.res >= 0; i++) {
		struct iovec iov = { mem, 1000 };
		assert_true(i < 1000);
		io_send(io, &s.op, fds[0], &iov, 1);
		await_count(io, &s, i);
	}
	close(fds[0]);
	io_free(&io);
}

static void keep_bytes(struct io_op *op) { test_op_of(op)->done_count++; }

/* Method: eight connections with data, two buffers, and fifty idle connections ahead of them. */
static void test_receivers_wait_when_buffers_are_out(void **state)
{
	enum { IDLE = 50, BUSY = 8 };
	static struct test_op ops[IDLE + BUSY];
	int fds[IDLE + BUSY][2];
	(void)state;
	struct io *io = open_io((struct io_options){ .recv_bufs = 2 });
	for (int i = 0; i < IDLE + BUSY; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds[i]), 0);
		ops[i] = (struct test_op){ .op.done = keep_bytes };
		io_recv_any(io, &ops[i].op, fds[i][0]);
		if (i >= IDLE)
			assert_int_equal(send(fds[i][1], "data", 4, 0), 4);
	}
	uint32_t served = 0;
	bool seen[BUSY] = { false };
	while (served < BUSY) {
		uint32_t held = 0;
		for (int turn = 0; turn < 5; turn++) {
			io_submit_and_wait(io, io_now_ns(io) + 2000000);
			io_run(io, 256);
		}
		for (int i = 0; i < BUSY; i++)
			held += ops[IDLE + i].done_count > 0 && !seen[i];
		assert_true(held > 0 && held <= 2);
		for (int i = 0; i < BUSY; i++) {
			struct test_op *t = &ops[IDLE + i];
			if (seen[i] || t->done_count == 0)
				continue;
			assert_int_equal(t->op.res, 4);
			assert_memory_equal(t->op.recv_buf, "data", 4);
			io_recv_give(io, t->op.recv_buf);
			seen[i] = true;
			served++;
		}
	}
	for (int i = 0; i < IDLE; i++) {
		assert_int_equal(ops[i].done_count, 0);
		io_cancel(io, &ops[i].op);
		assert_int_equal(await(io, &ops[i]), -GRANARY_ECANCELED);
	}
	for (int i = 0; i < IDLE + BUSY; i++) {
		close(fds[i][0]);
		close(fds[i][1]);
	}
	io_free(&io);
}

static void test_cancel_ends_what_waits_for_a_peer(void **state)
{
	int fds[2];
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct test_op r = make_op(), any = make_op(), s = make_op();
	struct iovec iov = { mem, BIG };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	io_recv(io, &r.op, fds[0], mem, 100);
	io_recv_any(io, &any.op, fds[1]);
	io_cancel(io, &any.op); /* before it was submitted */
	io_submit_and_wait(io, io_now_ns(io) + 1000000);
	io_run(io, 10);
	io_cancel(io, &r.op); /* after */
	assert_int_equal(await(io, &r), -GRANARY_ECANCELED);
	assert_int_equal(await(io, &any), -GRANARY_ECANCELED);
	io_cancel(io, &r.op); /* completed: nothing happens */
	io_send(io, &s.op, fds[0], &iov, 1); /* nobody reads: stuck half way */
	io_submit_and_wait(io, io_now_ns(io) + 5000000);
	assert_int_equal(io_run(io, 10), 0);
	io_cancel(io, &s.op);
	assert_int_equal(await(io, &s), -GRANARY_ECANCELED);
	close(fds[0]);
	close(fds[1]);
	io_free(&io);
}

/* A descriptor number that is closed and comes back must not confuse the engine. */
static void test_descriptor_numbers_may_be_reused(void **state)
{
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	for (int round = 0; round < 20; round++) {
		int fds[2];
		struct test_op r = make_op();
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		io_recv(io, &r.op, fds[0], mem, 4);
		io_submit_and_wait(io, 0);
		assert_int_equal(send(fds[1], "abcd", 4, 0), 4);
		assert_int_equal(await(io, &r), 4);
		close(fds[0]);
		close(fds[1]);
	}
	io_free(&io);
}

/* Freed with ops in flight: nothing is written into their buffers afterwards, nothing leaks. */
static void test_free_with_ops_in_flight(void **state)
{
	int fds[2], listener;
	char text[128];
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct test_op r = make_op(), any = make_op(), a = make_op(), t = make_op(), w = make_op();
	struct fs_file *f = create("f", 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(sock_listen("tcp:127.0.0.1:0", &listener, text, sizeof(text)), 0);
	io_recv(io, &r.op, fds[0], mem, 100);
	io_recv_any(io, &any.op, fds[1]);
	io_accept(io, &a.op, listener);
	io_timer(io, &t.op, io_now_ns(io) + SECOND * 1000);
	io_write(io, &w.op, f, mem, 1 << 20, 0);
	io_submit_and_wait(io, 0);
	io_free(&io);
	assert_null(io);
	memset(mem, 0, 100);
	assert_int_equal(send(fds[1], "late", 4, 0), 4);
	assert_int_equal(mem[0], 0);
	fs_close(&f);
	close(fds[0]);
	close(fds[1]);
	sock_close(listener);
}

static void test_stats_count(void **state)
{
	(void)state;
	struct io *io = open_io((struct io_options){ 0 });
	struct fs_file *f = create("f", 0);
	struct test_op op = make_op();
	struct io_stats s;
	io_write(io, &op.op, f, mem, BLOCK, 0);
	await_count(io, &op, 1);
	io_read(io, &op.op, f, mem, BLOCK, 0);
	await_count(io, &op, 2);
	io_fdatasync(io, &op.op, f);
	await_count(io, &op, 3);
	io_get_stats(io, &s);
	assert_true(s.reads == 1 && s.read_bytes == BLOCK && s.writes == 1 && s.write_bytes == BLOCK && s.flushes == 1);
	assert_true(s.errors == 0);
	assert_int_equal(io_engine_of(io), kind);
	fs_close(&f);
	io_free(&io);
}

static int run(const char *title, enum io_engine_kind engine, const char *plain)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write_flush_read_and_short_read_at_the_end),
		cmocka_unit_test(test_direct_read_of_a_file_with_an_odd_end),
		cmocka_unit_test(test_unaligned_direct_ops_are_refused),
		cmocka_unit_test(test_write_to_a_read_only_file_fails),
		cmocka_unit_test(test_op_is_started_again_from_its_own_done),
		cmocka_unit_test(test_more_ops_than_depth_all_complete),
		cmocka_unit_test(test_flush_delay_is_added),
		cmocka_unit_test(test_timers_run_in_order_and_can_be_cancelled),
		cmocka_unit_test(test_wait_ends_at_the_deadline_and_at_a_wake),
		cmocka_unit_test(test_accept_gives_every_connection_and_one_last),
		cmocka_unit_test(test_small_messages_arrive_in_order_then_the_close),
		cmocka_unit_test(test_big_messages_go_through_whole),
		cmocka_unit_test(test_a_cancelled_recv_tells_what_came),
		cmocka_unit_test(test_peer_close_in_the_middle_of_a_recv),
		cmocka_unit_test(test_receivers_wait_when_buffers_are_out),
		cmocka_unit_test(test_cancel_ends_what_waits_for_a_peer),
		cmocka_unit_test(test_descriptor_numbers_may_be_reused),
		cmocka_unit_test(test_free_with_ops_in_flight),
		cmocka_unit_test(test_stats_count),
	};
	kind = engine;
	setenv("GRANARY_IO_URING_PLAIN", plain, 1);
	return cmocka_run_group_tests_name(title, tests, NULL, NULL);
}

int main(void)
{
	const char *tmp = getenv("TMPDIR");
	snprintf(dir, sizeof(dir), "%s/test_io.XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	if (!mkdtemp(dir) || fs_new_kernel(dir, &fs) != 0 || !(mem = mem_map(MEM)))
		return 1;
	int failed = run("uring", IO_ENGINE_URING, "0");
	failed += run("uring, plain", IO_ENGINE_URING, "1");
	failed += run("threads", IO_ENGINE_THREADS, "0");
	fs_unlink(fs, "f");
	fs_unlink(fs, "odd");
	fs_free(&fs);
	rmdir(dir);
	mem_unmap(mem, MEM);
	return failed;
}
