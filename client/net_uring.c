/* SPDX-License-Identifier: Apache-2.0 */
/* net_uring.c -- the io_uring engine: readiness by polls in a ring, bytes by the same calls as with epoll.
 *
 * A poll in the ring is of one shot and begins by looking at the descriptor, so polls that are armed again before every
 * sleep are level-triggered, as the table asks: the client may leave bytes in a socket and take them in a later turn.
 * (A poll of many shots tells only of what arrives after it was told.) All that is to be armed travels with the system
 * call that sleeps: a turn costs one, as with epoll, and a change of what is waited for costs none.
 *
 * Invariants: (1) `watches[i].tag` is the user_data of its poll in the ring, 0 when there is none; tags are never used
 * twice, so what a poll that was taken back still says is recognised and dropped; (2) outside of uring_sleep() nothing
 * waits in the submission queue: a descriptor's number may be closed and given again between two sleeps. */
#include "net.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/error.h"
#include "granary/granary.h"

enum { WATCHES_MAX = GRANARY_CONNECTIONS_MAX + 1, ENTRIES = 256, WATCH_BITS = 8 };
_Static_assert(ENTRIES >= 2 * WATCHES_MAX, "a turn may take back and arm every poll");
_Static_assert(1 << WATCH_BITS > WATCHES_MAX, "a tag holds the number of a watch");

struct watch {
	void *owner; /* NULL: free */
	int fd;
	uint32_t want, armed; /* POLLIN, POLLOUT; `armed` is what the poll in the ring waits for */
	uint64_t tag;
};

struct net {
	struct io_uring ring;
	struct watch watches[WATCHES_MAX];
	uint64_t tags;
};

/* Some sandboxes let a ring be made and not be used. */
static int ring_try(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;

	if (!(ring->features & IORING_FEAT_EXT_ARG)) /* Linux 5.11: a timeout needs no entry of its own */
		return -EOPNOTSUPP;
	io_uring_prep_nop(sqe);
	int n = io_uring_submit_and_wait(ring, 1);
	if (n < 0)
		return n;
	n = io_uring_peek_cqe(ring, &cqe);
	if (n == 0)
		io_uring_cqe_seen(ring, cqe);
	return n;
}

static struct net *uring_open(void)
{
	struct net *net = calloc(1, sizeof(*net));

	if (!net)
		return NULL;
	/* No interrupts for a thread that is about to look anyway: Linux 5.19. */
	int err = io_uring_queue_init(ENTRIES, &net->ring, IORING_SETUP_COOP_TASKRUN);
	if (err == -EINVAL)
		err = io_uring_queue_init(ENTRIES, &net->ring, 0);
	if (err == 0) {
		err = ring_try(&net->ring);
		if (err < 0)
			io_uring_queue_exit(&net->ring);
	}
	if (err == 0)
		return net;
	free(net);
	errno = -err;
	return NULL;
}

static void uring_close(struct net *net)
{
	io_uring_queue_exit(&net->ring);
	free(net);
}

static void watch_disarm(struct net *net, struct watch *w)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&net->ring);

	io_uring_prep_poll_remove(sqe, w->tag);
	io_uring_sqe_set_data64(sqe, 0);
	w->tag = 0;
}

static void watch_arm(struct net *net, struct watch *w)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&net->ring);

	w->tag = ++net->tags << WATCH_BITS | (uint64_t)(w - net->watches);
	w->armed = w->want;
	io_uring_prep_poll_add(sqe, w->fd, w->want);
	io_uring_sqe_set_data64(sqe, w->tag);
}

static struct watch *watch_find(struct net *net, bool used, int fd)
{
	for (struct watch *w = net->watches; w < net->watches + WATCHES_MAX; w++)
		if (used ? w->owner && w->fd == fd : !w->owner)
			return w;
	return NULL;
}

static int uring_watch(struct net *net, int fd, void *owner, bool write, bool again)
{
	struct watch *w = watch_find(net, again, fd);

	if (!w)
		return again ? -GRANARY_ENOTFOUND : -GRANARY_ENOMEM;
	if (!again)
		*w = (struct watch){ .owner = owner, .fd = fd };
	w->want = POLLIN | (write ? POLLOUT : 0u);
	return 0;
}

/* The poll holds the file: without taking it back, close() would not end the connection. */
static void uring_unwatch(struct net *net, int fd)
{
	struct watch *w = watch_find(net, true, fd);

	if (!w)
		return;
	w->owner = NULL;
	if (w->tag == 0)
		return;
	watch_disarm(net, w);
	io_uring_submit(&net->ring);
}

/* A poll that waits for more than is wanted stays: what it says does no harm. */
static void watches_arm(struct net *net)
{
	for (struct watch *w = net->watches; w < net->watches + WATCHES_MAX; w++) {
		if (!w->owner)
			continue;
		if (w->tag != 0 && (w->want & ~w->armed) != 0)
			watch_disarm(net, w);
		if (w->tag == 0)
			watch_arm(net, w);
	}
}

static void ring_sleep(struct net *net, int timeout_ms)
{
	struct __kernel_timespec ts = { timeout_ms / 1000, timeout_ms % 1000 * 1000000LL };
	struct io_uring_cqe *cqe;

	if (timeout_ms == 0)
		io_uring_submit_and_get_events(&net->ring);
	else if (timeout_ms < 0)
		io_uring_submit_and_wait(&net->ring, 1);
	else
		io_uring_submit_and_wait_timeout(&net->ring, &cqe, 1, &ts, NULL);
}

static int uring_sleep(struct net *net, struct net_event *events, int max, int timeout_ms)
{
	struct io_uring_cqe *cqe;
	int n = 0;

	watches_arm(net);
	ring_sleep(net, timeout_ms);
	while (n < max && io_uring_peek_cqe(&net->ring, &cqe) == 0) {
		uint64_t tag = io_uring_cqe_get_data64(cqe);
		struct watch *w = &net->watches[tag & ((1 << WATCH_BITS) - 1)];
		uint32_t e = cqe->res < 0 ? POLLERR : (uint32_t)cqe->res;

		io_uring_cqe_seen(&net->ring, cqe);
		if (tag == 0 || w->tag != tag)
			continue; /* taken back */
		w->tag = 0;
		events[n++] = (struct net_event){
			.owner = w->owner,
			.readable = e & (POLLIN | POLLERR | POLLHUP),
			.writable = e & (POLLOUT | POLLERR | POLLHUP),
		};
	}
	return n;
}

const struct net_engine net_uring = {
	.name = "uring",
	.open = uring_open,
	.close = uring_close,
	.forget = uring_close, /* unmaps and closes: nothing is said to the ring, which is the parent's too */
	.watch = uring_watch,
	.unwatch = uring_unwatch,
	.wait = uring_sleep,
	.readv = net_readv,
	.writev = net_writev,
};
