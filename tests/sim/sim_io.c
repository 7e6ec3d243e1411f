/* SPDX-License-Identifier: Apache-2.0 */
/* sim_io.c -- the simulated engine: file ops take seeded time and complete in seeded order; time moves only when
 * nothing else can. What becomes of an op is decided when it starts; what it does to the file happens when it ends. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "sim/sim_world.h"

#define TURN_NS UINT64_C(1000)

static struct sim *sim_of(struct io *io) { return io->options.sim; }

static int errno_of(int err)
{
	switch (err) {
	case -GRANARY_ENOSPACE: return -ENOSPC;
	case -GRANARY_EIO: return -EIO;
	default: return -error_errno(err);
	}
}

static uint64_t latency(struct sim *sim, uint32_t kind)
{
	if (kind == IO_OP_FLUSH)
		return 50000 + rng_below(&sim->rng, 2000000) + sim->options.flush_delay_ns;
	return 20000 + rng_below(&sim->rng, rng_below(&sim->rng, 16) == 0 ? 5000000 : 300000);
}

static struct sim_event *event_add(struct sim *sim, struct io *io, struct io_op *op)
{
	if (sim->events_count == sim->events_cap) {
		sim->events_cap = sim->events_cap ? sim->events_cap * 2 : 64;
		sim->events = realloc(sim->events, sim->events_cap * sizeof(*sim->events));
		if (!sim->events)
			abort();
	}
	struct sim_event *e = &sim->events[sim->events_count++];
	*e = (struct sim_event){ .at_ns = sim->now_ns + latency(sim, op->kind), .seq = ++sim->event_seq,
		.epoch = sim->epoch, .io = io, .op = op, .node = sim_file_of(op->file)->node };
	return e;
}

static struct sim_event event_take(struct sim *sim, size_t i)
{
	struct sim_event e = sim->events[i];
	sim->events[i] = sim->events[--sim->events_count];
	return e;
}

/* ---- starting ---- */

static size_t short_len(const struct io_op *op, size_t len)
{
	size_t unit = op->file->direct ? SIM_SECTOR : 1;
	return len <= unit ? len : len / 2 / unit * unit > 0 ? len / 2 / unit * unit : unit;
}

static void start_write(struct sim *sim, struct io_op *op, struct sim_event *e, int fate, bool cut)
{
	struct sim_file *f = sim_file_of(op->file);
	size_t len = io_step_len(op);
	uint64_t at = op->offset + op->done_len;
	if (fate == 0 && !f->writable)
		fate = -GRANARY_EINVAL;
	if (fate >= 0 && !sim_space_for(sim, f->node, at + len))
		fate = -GRANARY_ENOSPACE;
	e->res = (int64_t)len;
	if (fate == SIM_FAIL_AGAIN)
		e->res = -EAGAIN;
	else if (fate == SIM_FAIL_SHORT)
		e->res = (int64_t)(len = short_len(op, len));
	else if (fate < 0)
		e->res = errno_of(fate);
	/* A write that fails, or that the power cut hits, may have done some of its work. */
	bool torn = fate == -GRANARY_EIO && !cut && !sim_file_dead(f);
	if (torn)
		len = (size_t)rng_below(&sim->rng, len / SIM_SECTOR + 1) * SIM_SECTOR;
	if (len > 0 && (e->res >= 0 || torn || (cut && f->epoch == sim->epoch)))
		e->record = sim_record_write(f->node, io_step_buf(op), at, len);
}

static void sim_start(struct io *io, struct io_op *op)
{
	struct sim *sim = sim_of(io);
	bool cut;
	if (op->kind != IO_OP_READ && op->kind != IO_OP_WRITE && op->kind != IO_OP_FLUSH) {
		if (op->kind == IO_OP_RECV_ANY)
			io_recv_done(io, op, -EOPNOTSUPP, NULL);
		else if (op->kind == IO_OP_ACCEPT)
			io_accept_step(io, op, -EOPNOTSUPP);
		else
			io_step(io, op, -EOPNOTSUPP);
		return;
	}
	enum sim_class klass = op->kind == IO_OP_READ ? SIM_READS : op->kind == IO_OP_WRITE ? SIM_WRITES : SIM_FLUSHES;
	int fate = sim_begin(sim, klass, &cut);
	if (fate == 0 && sim_file_dead(sim_file_of(op->file)))
		fate = -GRANARY_EIO;
	struct sim_event *e = event_add(sim, io, op);
	e->covers = e->node->done_seq;
	if (op->kind == IO_OP_WRITE) {
		start_write(sim, op, e, fate, cut);
		return;
	}
	size_t len = io_step_len(op);
	e->res = (int64_t)len;
	if (fate == SIM_FAIL_AGAIN)
		e->res = -EAGAIN;
	else if (fate == SIM_FAIL_SHORT && op->kind == IO_OP_READ)
		e->res = (int64_t)short_len(op, len);
	else if (fate < 0)
		e->res = errno_of(fate);
}

/* ---- completing ---- */

static int64_t finish_write(struct sim_event *e)
{
	struct sim_record *r = e->record;
	if (r) {
		/* Contract (3): the owner must not touch the buffer before the completion. */
		assert(memcmp(r->data, io_step_buf(e->op), r->len) == 0);
		sim_record_done(e->node, r);
	}
	return e->res;
}

static int64_t finish(struct sim *sim, struct sim_event *e)
{
	if (sim->power_off || e->epoch != sim->epoch)
		return -EIO;
	switch (e->op->kind) {
	case IO_OP_WRITE:
		return finish_write(e);
	case IO_OP_READ:
		if (e->res < 0)
			return e->res;
		return (int64_t)sim_node_read(sim, e->node, io_step_buf(e->op), (size_t)e->res,
			e->op->offset + e->op->done_len);
	default:
		if (e->res == 0)
			sim_node_flush(e->node, e->covers);
		else if (e->res != -EAGAIN)
			sim_node_flush_failed(sim, e->node, e->covers);
		return e->res;
	}
}

static size_t event_next(const struct sim *sim)
{
	size_t best = 0;
	for (size_t i = 1; i < sim->events_count; i++) {
		const struct sim_event *a = &sim->events[i], *b = &sim->events[best];
		if (a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->seq < b->seq))
			best = i;
	}
	return best;
}

static void fire_due(struct sim *sim)
{
	while (sim->events_count > 0) {
		size_t i = event_next(sim);
		if (sim->events[i].at_ns > sim->now_ns)
			return;
		struct sim_event e = event_take(sim, i);
		int64_t res = finish(sim, &e);
		if (io_step(e.io, e.op, res))
			sim_start(e.io, e.op);
	}
}

static void sim_wait(struct io *io, uint64_t deadline_ns)
{
	struct sim *sim = sim_of(io);
	sim->now_ns += TURN_NS; /* a loop that never sleeps still sees time pass */
	fire_due(sim);
	if (io->ready.head || deadline_ns <= sim->now_ns)
		return;
	uint64_t next = sim->events_count > 0 ? sim->events[event_next(sim)].at_ns : UINT64_MAX;
	if (deadline_ns < next)
		next = deadline_ns;
	if (next == UINT64_MAX)
		return; /* nothing will ever happen: the test decides what that means */
	if (next > sim->now_ns)
		sim->now_ns = next;
	fire_due(sim);
}

static void sim_cancel(struct io *io, struct io_op *op)
{
	struct sim *sim = sim_of(io);
	if (op->kind != IO_OP_READ || rng_below(&sim->rng, 2) == 0)
		return; /* the disk has it: it completes by itself */
	for (size_t i = 0; i < sim->events_count; i++) {
		if (sim->events[i].op != op)
			continue;
		event_take(sim, i);
		io_step(io, op, -ECANCELED);
		return;
	}
}

/* The process is gone, the disk is not: what was in flight happened or did not. */
static void sim_drain(struct io *io)
{
	struct sim *sim = sim_of(io);
	for (size_t i = 0; i < sim->events_count;) {
		if (sim->events[i].io != io) {
			i++;
			continue;
		}
		struct sim_event e = event_take(sim, i);
		if (e.record && e.epoch == sim->epoch && !sim->power_off && rng_below(&sim->rng, 2) == 0)
			sim_record_done(e.node, e.record);
	}
}

static int sim_open(struct io *io) { return io->options.sim ? 0 : -GRANARY_EINVAL; }
static void sim_close(struct io *io) { (void)io; }
static void sim_wake(struct io *io) { (void)io; }
static uint64_t sim_io_now(struct io *io) { return sim_now_ns(sim_of(io)); }

static void sim_recv_give(struct io *io, void *buf)
{
	(void)io;
	(void)buf;
	assert(false && "no receive buffers under sim");
}

const struct io_engine sim_io_engine = {
	.kind = IO_ENGINE_SIM,
	.open = sim_open,
	.close = sim_close,
	.drain = sim_drain,
	.start = sim_start,
	.cancel = sim_cancel,
	.wait = sim_wait,
	.wake = sim_wake,
	.recv_give = sim_recv_give,
	.now = sim_io_now,
};
