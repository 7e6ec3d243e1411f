/* SPDX-License-Identifier: Apache-2.0 */
/* reactor.h -- one thread, one io, one loop; tasks as mail between threads; a pool of workers for what blocks.
 * The loop: submit, reap, take mail, run. Nothing is called back from inside a start function.
 * Under `sim` there is one reactor and no thread: reactor_turn() is called by the test, workers' tasks run in it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct io;
struct io_options;
struct reactor;
struct workers;

/* A message: fn(task) runs once on the target. Embedded in its owner, who finds itself by container_of.
 * Belongs to the target from the post on; may be posted again from inside fn. */
struct task {
	void (*fn)(struct task *task);
	struct task *next;
};

int reactor_new(uint32_t index, const struct io_options *options, struct reactor **out);
int reactor_start(struct reactor *r);  /* makes the thread; returns when its io is ready (or failed) */
/* Asks the loop to end and joins. Mail posted before it still runs; ops in flight end without done(). The io stays
 * readable until reactor_free(), but starts nothing any more. */
void reactor_stop(struct reactor *r);
void reactor_free(struct reactor **r);
struct io *reactor_io(struct reactor *r);
uint32_t reactor_index(const struct reactor *r);
struct reactor *reactor_self(void);    /* of this thread, or NULL */
/* Any thread. Order is kept between one poster and one target. Cheap: wakes the target only if it sleeps. */
void reactor_post(struct reactor *to, struct task *task);
void reactor_post_list(struct reactor *to, struct task *first, struct task *last); /* linked by next */
/* Own thread only: run fn after the completions of this turn, before sleeping. */
void reactor_defer(struct reactor *self, struct task *task);
/* One turn of the loop: used by the thread itself, and by tests under sim. Returns how much ran. */
uint32_t reactor_turn(struct reactor *r, bool may_wait);
uint64_t reactor_cpu_ns(struct reactor *r); /* CPU time of its thread so far */

/* Workers: tasks that may block (RocksDB reads, opening files). FIFO. */
int workers_new(uint32_t threads, struct workers **out);      /* threads 0: sim, tasks run in workers_turn() */
void workers_free(struct workers **w);                        /* runs what is queued, then joins */
void workers_post(struct workers *w, struct task *task);
uint32_t workers_turn(struct workers *w);                     /* sim only */
