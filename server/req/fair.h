/* SPDX-License-Identifier: Apache-2.0 */
/* fair.h -- jobs that stream at the same time share the server by weight: of what is read and sent for them each gets
 * its part, as long as it asks for more than it gets. What a job does not ask for the others have.
 *
 * With one job nothing is held back, and requests are only counted. With several, a request makes FAIR_QUANTUM bytes of
 * answers for each permission; those who wait get them in the order of what their job had, divided by its weight. A job
 * that had more than its part waits while others with open requests had less, but only as long as the reactor has
 * something else to do: a client that takes its answers slowly holds nobody back. And permissions are given only while
 * few bytes are being read: what queues at the disk is no longer ours to order. What jobs had is counted over all
 * reactors. Requests without a job are one job of weight 1. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"
#include "io/reactor.h"

struct fair;
struct fair_local; /* one a reactor */

enum { FAIR_QUANTUM = 256 * 1024, FAIR_JOBS_MAX = 64, FAIR_WEIGHT_MAX = 1000 };

struct fair *fair_new(void);
void fair_free(struct fair **fair);
struct fair_local *fair_local_new(struct fair *fair, struct reactor *reactor);
void fair_local_free(struct fair_local **local);

struct fair_req { /* a request; zero at first */
	void (*go)(struct fair_req *r); /* in: from the loop, with the permission that it waited for */
	struct list node;
	uint32_t job;            /* which of the table */
	bool entered, waits;
	uint64_t left;           /* bytes of its permission */
};
/* Its first and last step. A job that the table has no room for is one with those without. */
void fair_enter(struct fair_local *local, struct fair_req *r, uint64_t job, uint32_t weight);
void fair_leave(struct fair_local *local, struct fair_req *r);
/* May it make more? false: it waits, go() will come. */
bool fair_may(struct fair_local *local, struct fair_req *r);
/* Bytes that it may make now, about. */
static inline uint64_t fair_most(const struct fair_req *r) { return r->left > 0 ? r->left : UINT64_MAX; }
/* It made so many bytes of answers. */
void fair_made(struct fair_local *local, struct fair_req *r, uint64_t bytes);
/* So many bytes are being read for somebody; came: they are there, or failed. */
void fair_reading(struct fair_local *local, uint64_t bytes);
void fair_came(struct fair_local *local, uint64_t bytes);
/* An answer has left: the reactor was busy. */
void fair_sent(struct fair_local *local);
