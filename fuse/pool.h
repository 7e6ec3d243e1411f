/* SPDX-License-Identifier: Apache-2.0 */
/* pool.h -- threads for what may block: requests that ask the server, writes that go to it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct pool;
struct pool_task {
	struct pool_task *next;
	void (*run)(struct pool_task *task); /* may free it */
};

/* Starts threads as tasks need them, up to so many. NULL: no memory. */
struct pool *pool_new(uint32_t threads_max);
/* Runs the task in some thread, in the order of the calls. Never blocks. */
void pool_add(struct pool *p, struct pool_task *task);
/* Waits until all that was added is done; then the threads end. NULL is allowed. */
void pool_free(struct pool *p);
