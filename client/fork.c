/* SPDX-License-Identifier: Apache-2.0 */
/* fork.c -- a client on both sides of fork().
 *
 * fork() copies the client but not its thread. So that the copy is whole, all clients are locked across it. In
 * the child the handler only marks: operations under way are done with -GRANARY_EFORKED, the client is
 * `forked`. Its first use (client_enter) closes the child's copies of the descriptors, without a word to the
 * server, whose connections are the parent's, and begins with new ones. What the parent's thread owned may
 * have been in mid-change: it is left, not freed. */
#include "client_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list clients = { &clients, &clients };
static pthread_once_t handlers_once = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
	pthread_mutex_lock(&clients_lock);
	list_for(at, &clients) {
		pthread_mutex_lock(&container_of(at, struct granary_client, clients)->lock);
		pthread_mutex_lock(&container_of(at, struct granary_client, clients)->local.lock);
	}
}

static void after_in_parent(void)
{
	list_for(at, &clients) {
		pthread_mutex_unlock(&container_of(at, struct granary_client, clients)->local.lock);
		pthread_mutex_unlock(&container_of(at, struct granary_client, clients)->lock);
	}
	pthread_mutex_unlock(&clients_lock);
}

static void op_orphan(struct granary_client *c, struct granary_op *op)
{
	list_remove(&op->all);
	list_remove(&op->cancel_link);
	list_init(&op->link); /* its neighbours belonged to the parent's thread */
	op->orphaned = true;
	op->result = -GRANARY_EFORKED;
	atomic_store(&op->waiters, 0);
	snprintf(op->error, sizeof(op->error), "the operation belongs to the process that forked");
	if (!op->quiet)
		list_push(&c->done, &op->link);
	atomic_store_explicit(&op->state, OP_DONE, memory_order_release);
}

static void client_mark(struct granary_client *c)
{
	pthread_mutex_init(&c->lock, NULL);
	c->forked = true;
	c->generation++;
	c->thread_runs = false;
	local_forked(c);
	atomic_store(&c->sleeping, false);
	atomic_store(&c->loop, LOOP_THREAD);
	list_init(&c->submitted);
	list_init(&c->cancels);
	while (!list_empty(&c->ops))
		op_orphan(c, container_of(c->ops.next, struct granary_op, all));
}

static void after_in_child(void)
{
	list_for(at, &clients)
		client_mark(container_of(at, struct granary_client, clients));
	pthread_mutex_init(&clients_lock, NULL);
}

static void handlers_install(void)
{
	pthread_atfork(before_fork, after_in_parent, after_in_child);
}

void fork_watch(struct granary_client *c)
{
	pthread_once(&handlers_once, handlers_install);
	pthread_mutex_lock(&clients_lock);
	list_push(&clients, &c->clients);
	pthread_mutex_unlock(&clients_lock);
}

void fork_unwatch(struct granary_client *c)
{
	pthread_mutex_lock(&clients_lock);
	list_remove(&c->clients);
	pthread_mutex_unlock(&clients_lock);
}

/* A new eventfd under the old number: callers may have put it into their loops. */
static int eventfd_renew(int fd)
{
	int fresh = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fresh < 0 || dup3(fresh, fd, O_CLOEXEC) < 0) {
		int err = error_from_errno(errno);
		if (fresh >= 0)
			close(fresh);
		return err;
	}
	close(fresh);
	return 0;
}

static int client_restart(struct granary_client *c)
{
	uint64_t one = 1;
	int err = eventfd_renew(c->event_fd);

	if (err == 0)
		err = eventfd_renew(c->wake_fd);
	if (err < 0)
		return err;
	io_forget(c);
	err = io_init(c);
	if (err < 0)
		return err;
	memset(&c->info, 0, sizeof(c->info));
	c->stopping = false;
	c->forked = false;
	if (c->watched && !list_empty(&c->done) && write(c->event_fd, &one, sizeof(one)) < 0)
		return error_from_errno(errno);
	return 0;
}

int client_enter(struct granary_client *c)
{
	int err = 0;

	error_enter();
	if (!c || c->magic != CLIENT_MAGIC)
		return error_fail(c, -GRANARY_EINVAL, "not a client");
	if (!atomic_load_explicit(&c->forked, memory_order_acquire))
		return 0;
	pthread_mutex_lock(&c->lock);
	if (c->forked)
		err = client_restart(c);
	pthread_mutex_unlock(&c->lock);
	return err < 0 ? error_fail(c, err, "cannot start afresh after fork: %s", error_text(err)) : 0;
}
