/* SPDX-License-Identifier: Apache-2.0 */
/* io.h -- the op contract: the only place that talks to the kernel about files and sockets.
 *
 * Three engines behind one table: `uring` (product), `threads` (where io_uring is forbidden), `sim` (tests).
 * One `struct io` belongs to one reactor thread. Blocking file-system calls for workers are in fs.h.
 *
 * Contract of an op:
 *  (1) exactly one completion per start (io_accept: one per connection until it is cancelled, then one last);
 *  (2) never from inside start: a completion runs only from io_run(), as op->done(op);
 *  (3) op, buffers and file stay valid until then; the op may be started again from inside its done();
 *  (4) short transfers, EINTR and EAGAIN are resumed inside io/ (bounded by IO_RESUME_MAX, then -GRANARY_EIO):
 *      res is the full length, or 0..len for a read at the end of a file / recv, or -GRANARY_E...;
 *  (5) a failed or short completion never leaves bytes being written into the buffer afterwards;
 *  (6) io_cancel() makes an op complete soon with -GRANARY_ECANCELED unless it completed already, or the disk has it
 *      and it completes in full; of a cancelled io_recv() `done_len` bytes came before (kernels
 *      before 6.1 may lose them: 0 does not mean that none came);
 *  (7) at most one op that receives (or accepts) and one that sends at a time on a descriptor;
 *  (8) what is in flight at io_free() is ended and waited for, and gets no done(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

struct io;
struct io_op;
struct fs_file;

enum { IO_RESUME_MAX = 64, IO_RECV_BUF_SIZE = 16 * 1024 };

struct io_op {
	void (*done)(struct io_op *op); /* set by the owner before each start */
	int64_t res;                    /* out: bytes or 0, or -GRANARY_E... */
	void *recv_buf;                 /* out, io_recv_any: the bytes; give back with io_recv_give() */
	/* below: io/'s own */
	struct io_op *next;
	struct io *io;
	uint32_t kind, state;
	int fd;
	uint32_t buf_index, resumed;
	struct fs_file *file;
	uint64_t offset, deadline_ns;
	size_t len, done_len; /* done_len: read by the owner of a cancelled recv, see (6) */
	struct iovec *iov;
	uint32_t iov_count, iov_at;
	struct msghdr msg;
	void *control; /* goes out with the first byte */
	size_t control_len;
	struct iovec one;
	void *engine;
	uint64_t slot; /* ring: slot + generation of user_data */
};

enum io_engine_kind { IO_ENGINE_AUTO, IO_ENGINE_URING, IO_ENGINE_THREADS, IO_ENGINE_SIM };

struct sim; /* tests/sim: disk, clock, faults; opaque here */

struct io_options {
	enum io_engine_kind engine; /* AUTO: uring if a ring can be made, else threads, with one log line */
	uint32_t depth;             /* file ops in flight at most; more wait inside io/ (256) */
	uint32_t threads;           /* `threads` engine: helper threads for file ops (8) */
	uint32_t recv_bufs;         /* provided receive buffers of IO_RECV_BUF_SIZE (1,024) */
	uint64_t flush_delay_ns;    /* added to every fdatasync (bench and tests), 0 */
	struct sim *sim;            /* engine SIM only */
};

/* Called on the thread that will use it (the ring is SINGLE_ISSUER). *out is NULL on failure. */
int io_new(const struct io_options *options, struct io **out);
void io_free(struct io **io);
enum io_engine_kind io_engine_of(const struct io *io);
const char *io_engine_name(enum io_engine_kind kind);

/* Registers memory for fixed-buffer reads and writes (no-op where the engine has none). Later ops whose buffer lies
 * inside use it by themselves. At most 1,024 areas of 1 GiB. Failure is logged once and costs only speed. The pages
 * are pinned: never mem_discard() what is registered, reads would go to the old pages. */
int io_register_memory(struct io *io, void *base, size_t len);

/* Files (opened by fs.h). Offsets and buffers of O_DIRECT files must be aligned to fs_file_align(). */
void io_read(struct io *io, struct io_op *op, struct fs_file *file, void *buf, size_t len, uint64_t offset);
void io_write(struct io *io, struct io_op *op, struct fs_file *file, const void *buf, size_t len, uint64_t offset);
void io_fdatasync(struct io *io, struct io_op *op, struct fs_file *file);

/* Sockets: a descriptor owned by the caller, non-blocking not required. Listeners are made by sock.h. */
/* res: the connection's fd; multishot, see (1). Running out of descriptors pauses it; another error of the listener
 * is, like a cancel, the last completion (res < 0). The `threads` engine makes the listener non-blocking. */
void io_accept(struct io *io, struct io_op *op, int listen_fd);
/* Receives whatever is there into a buffer of io/'s: idle connections hold no memory. res 0: the peer closed.
 * When all provided buffers are in use the op simply waits for one. */
void io_recv_any(struct io *io, struct io_op *op, int fd);
void io_recv_give(struct io *io, void *recv_buf);
/* Receives exactly len bytes into buf; res < len only when the peer closed. */
void io_recv(struct io *io, struct io_op *op, int fd, void *buf, size_t len);
/* Sends all of iov (iov and what it points at stay until done); io may change iov while it resumes. */
void io_send(struct io *io, struct io_op *op, int fd, struct iovec *iov, uint32_t iov_count);
/* The same on a Unix socket, with descriptors: a control message of that length, which stays until done. */
void io_send_passing(struct io *io, struct io_op *op, int fd, struct iovec *iov, uint32_t iov_count, void *control,
	size_t control_len);

void io_timer(struct io *io, struct io_op *op, uint64_t deadline_ns); /* io_now_ns() base; res 0 */
void io_cancel(struct io *io, struct io_op *op);
uint64_t io_now_ns(struct io *io); /* CLOCK_MONOTONIC, or simulated */

/* The loop's three calls. submit_and_wait waits until something completed, io_wake() was called, or the deadline
 * (UINT64_MAX: none), seldom for nothing; 0 waits not at all. run calls done() of at most `most` completed ops; returns
 * how many ran. */
void io_submit_and_wait(struct io *io, uint64_t deadline_ns);
uint32_t io_run(struct io *io, uint32_t most);
void io_wake(struct io *io); /* any thread */

struct io_stats {
	uint64_t reads, read_bytes, writes, write_bytes, flushes, recvs, sends, send_bytes, resumes, errors;
};
void io_get_stats(const struct io *io, struct io_stats *out);
