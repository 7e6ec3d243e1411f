/* SPDX-License-Identifier: Apache-2.0 */
/* io_engine.h -- private to io/ (and tests/sim): what an engine is, and what io.c does for all of them.
 *
 * An engine moves bytes one step at a time and speaks negative errno. io.c owns everything that must behave alike:
 * the depth cap, resuming, timers, the ready list, stats, the sleeping flag. An op's way:
 *   IDLE   -> QUEUED  a file op while `depth` are in the engine; left by io_pump()
 *   IDLE, QUEUED -> ENGINE  engine->start(); left when the engine reports by io_step() and that returns false
 *   ENGINE -> HEAP    timers, flushes with an added delay, accepts that wait for descriptors; left by io_expire()
 *   any    -> READY   in the ready list; left by io_run(), which calls done() with the op IDLE again */
#pragma once

#include <stdatomic.h>

#include "io/io.h"

enum io_op_kind {
	IO_OP_NONE, IO_OP_READ, IO_OP_WRITE, IO_OP_FLUSH,
	IO_OP_ACCEPT, IO_OP_RECV_ANY, IO_OP_RECV, IO_OP_SEND, IO_OP_TIMER,
};

enum io_op_state { IO_IDLE, IO_QUEUED, IO_ENGINE, IO_HEAP, IO_READY, IO_STATE_MASK = 0xff, IO_CANCELED = 0x100 };

enum { IO_ACCEPT_QUEUE_MAX = 4096, IO_STEP_MAX = 1 << 30, IO_IOV_STEP_MAX = 1024, IO_AREAS_MAX = 1024 };

struct io_engine {
	enum io_engine_kind kind;
	int (*open)(struct io *io); /* fills io->engine_state; 0 or -GRANARY_E... */
	void (*close)(struct io *io);
	/* Stops everything in flight and waits for it, on the io's own thread; nothing completes afterwards. */
	void (*drain)(struct io *io);
	/* One step of op: from done_len (and iov_at) on. Reports by io_step() later or, for sockets, at once. */
	void (*start)(struct io *io, struct io_op *op);
	void (*cancel)(struct io *io, struct io_op *op); /* state is ENGINE */
	/* Submits what was started, sleeps until a completion, wake() or the deadline (0: not at all), collects. */
	void (*wait)(struct io *io, uint64_t deadline_ns);
	void (*wake)(struct io *io); /* any thread; called only while the owner sleeps or is about to */
	void (*recv_give)(struct io *io, void *buf);
	int (*register_memory)(struct io *io, void *base, size_t len); /* may be NULL */
	uint64_t (*now)(struct io *io);
};

struct io_list { struct io_op *head, **tail; };

static inline void io_list_init(struct io_list *l) { l->head = NULL; l->tail = &l->head; }
static inline void io_list_push(struct io_list *l, struct io_op *op)
{
	op->next = NULL;
	*l->tail = op;
	l->tail = &op->next;
}
static inline struct io_op *io_list_pop(struct io_list *l)
{
	struct io_op *op = l->head;
	if (op) {
		l->head = op->next;
		if (!l->head)
			l->tail = &l->head;
	}
	return op;
}
bool io_list_remove(struct io_list *l, struct io_op *op); /* false: it was not there */

/* The sleeping flag. io_wake() exchanges in NOTIFIED and disturbs the engine only if it found SLEEPING; the owner
 * goes AWAKE -> SLEEPING only if nobody notified it, and back to AWAKE before it looks for mail. Whatever was
 * published before io_wake() is therefore seen by the look that follows the wait, or the wait does not sleep. */
enum io_wake_state { IO_AWAKE, IO_SLEEPING, IO_NOTIFIED };

struct io_accept_queue;

struct io {
	const struct io_engine *engine;
	void *engine_state;
	struct io_options options; /* defaults filled in */
	struct io_list ready, queued;
	uint32_t files_active;
	uint32_t heap_len, heap_cap;
	struct io_op **heap;
	struct io_accept_queue *accepts;
	struct io_stats stats;
	bool drained;
	_Atomic uint32_t wake;
};

extern const struct io_engine io_engine_uring, io_engine_threads;
void io_sim_engine_register(const struct io_engine *engine); /* by tests/sim, before io_new(SIM) */

/* The engine's report of one step: bytes moved or -errno. True: the op is not done, start it again. */
bool io_step(struct io *io, struct io_op *op, int64_t res);
/* recv_any: bytes are in buf (engine's, given back by the owner); res 0 or -errno with buf NULL. */
void io_recv_done(struct io *io, struct io_op *op, int64_t res, void *buf);
/* accept: a connection, or -errno; true: start again (an error may instead delay the restart by a timer). */
bool io_accept_step(struct io *io, struct io_op *op, int64_t res);
void io_fill_msg(struct io_op *op); /* send: msg over what is left of iov, at most IO_IOV_STEP_MAX pieces */
static inline bool io_canceled(const struct io_op *op) { return (op->state & IO_CANCELED) != 0; }
static inline void *io_step_buf(const struct io_op *op) { return (char *)op->one.iov_base + op->done_len; }
static inline size_t io_step_len(const struct io_op *op)
{
	size_t n = op->len - op->done_len;
	return n < IO_STEP_MAX ? n : IO_STEP_MAX;
}
/* Cancels what is in flight and waits for it; own thread. Ops get no done() any more. io_free() calls it too. */
void io_drain(struct io *io);
