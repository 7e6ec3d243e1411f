/* SPDX-License-Identifier: Apache-2.0 */
/* device.c -- the classic transport: requests are read from /dev/fuse and answers written to it, one descriptor and one
 * request at a time a thread.
 *
 * (1) a request's buffer is its thread's, until the request is kept by a handler: then it goes with the request, and
 *     the thread takes another one. Who answers gives the buffer back.
 * (2) an answer is one write, to the descriptor that the request was read from: the kernel looks for it nowhere
 *     else. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fuse/live.h"
#include "fuse/log.h"

enum { MESSAGE_MAX = MOUNT_READ_MAX + KERNEL_PAGE /* a WRITE */, SLOTS_MAX = 128, SLOTS_KEPT = 16 };

struct slot {
	struct request request; /* first: an answer finds its slot by it */
	struct device *device;
	struct slot *next;
	int fd; /* the request came from it */
	_Alignas(8) uint8_t in[MESSAGE_MAX]; /* the structs in it are read in place */
	uint8_t out[MOUNT_READ_MAX]; /* touched as far as answers need it */
};
struct device {
	struct mount *mount;
	pthread_mutex_t lock; /* all below */
	pthread_cond_t given_back;
	struct slot *free;
	uint32_t slots, free_count;
	int error; /* the first thread's that failed */
};
struct server {
	struct device *device;
	int fd;
	pthread_t thread;
	bool started;
};

/* ---- buffers ---- */

static struct slot *slot_take(struct device *d)
{
	struct slot *s = NULL;

	pthread_mutex_lock(&d->lock);
	while (!s) {
		if (d->free) {
			s = d->free;
			d->free = s->next;
			d->free_count--;
		} else if (d->slots < SLOTS_MAX && (s = malloc(sizeof(*s))) != NULL) {
			s->device = d;
			d->slots++;
		} else if (d->slots == 0) {
			break;
		} else {
			pthread_cond_wait(&d->given_back, &d->lock);
		}
	}
	pthread_mutex_unlock(&d->lock);
	return s;
}

static void slot_give(struct slot *s)
{
	struct device *d = s->device;

	pthread_mutex_lock(&d->lock);
	if (d->free_count < SLOTS_KEPT) {
		s->next = d->free;
		d->free = s;
		d->free_count++;
		s = NULL;
	} else {
		d->slots--; /* what it touched is not kept for a crowd that is gone */
	}
	pthread_cond_signal(&d->given_back);
	pthread_mutex_unlock(&d->lock);
	free(s);
}

/* ---- requests ---- */

static void write_answer(struct slot *s)
{
	struct request *r = &s->request;
	struct fuse_out_header header = { .len = sizeof(header), .error = r->error, .unique = r->unique };
	struct iovec parts[2] = { { &header, sizeof(header) }, { r->out, r->out_len } };

	if (!r->silent) {
		if (r->lent) {
			memcpy(&parts[1].iov_base, &r->lent, sizeof(r->lent)); /* writev() takes no const */
			parts[1].iov_len = r->lent_len;
		}
		if (r->error < 0) parts[1].iov_len = 0;
		header.len += (uint32_t)parts[1].iov_len;
		/* ENOENT: the request was interrupted, nobody waits for it any more. ENODEV: unmounted. */
		if (writev(s->fd, parts, parts[1].iov_len > 0 ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV)
			log_say("cannot answer the kernel's %s: %s", request_name(r->opcode),
				strerror(errno));
	}
	mount_answered(s->device->mount, r);
}

static void answer_later(struct request *r)
{
	struct slot *s = (struct slot *)r;

	write_answer(s);
	slot_give(s);
}

/* 1: go on; 0: unmounted; -errno. */
static int serve_one(struct device *d, int fd, struct slot **slot)
{
	struct slot *s = *slot ? *slot : slot_take(d);
	const char *what;

	*slot = s;
	if (!s) return -ENOMEM;
	s->fd = fd;
	ssize_t n = read(fd, s->in, sizeof(s->in));
	if (n < 0) return errno == ENODEV ? 0 : errno == EINTR || errno == EAGAIN || errno == ENOENT ? 1 : -errno;
	int err = request_decode_run(s->in, (size_t)n, &s->request, &what);
	s->request.out = s->out;
	s->request.out_cap = sizeof(s->out);
	s->request.error = err;
	if (err < 0)
		log_say("the kernel sent %s (%s): refused", what,
			request_name(s->request.opcode));
	else if (!mount_handle(d->mount, &s->request, answer_later)) {
		*slot = NULL; /* the request's now */
		return 1;
	}
	write_answer(s);
	return 1;
}

static void *serve(void *arg)
{
	struct server *v = arg;
	struct slot *slot = NULL;
	int more = 1;

	while (more == 1) more = serve_one(v->device, v->fd, &slot);
	if (slot) slot_give(slot);
	if (more < 0) {
		pthread_mutex_lock(&v->device->lock);
		v->device->error = v->device->error ? v->device->error : more;
		pthread_mutex_unlock(&v->device->lock);
	}
	return NULL;
}

/* ---- start and end ---- */

/* A descriptor of its own for a thread: the kernel then gives it requests without a common lock. */
static int device_clone(int device)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	uint32_t source = (uint32_t)device;

	if (fd >= 0 && ioctl(fd, FUSE_DEV_IOC_CLONE, &source) < 0) {
		close(fd);
		fd = -1;
	}
	return fd < 0 ? device : fd;
}

static int serve_init(struct device *d)
{
	struct slot *slot = NULL;
	int more = 1;

	do {
		more = serve_one(d, d->mount->device, &slot);
	} while (more == 1 && slot && slot->request.opcode != FUSE_INIT);
	int err = more < 0 ? more : more == 0 ? -ENODEV : slot ? slot->request.error : -EPROTO;
	if (slot) slot_give(slot);
	return err;
}

static void servers_run(struct device *d, uint32_t threads)
{
	struct server *servers = calloc(threads, sizeof(*servers));

	for (uint32_t i = 0; servers && i < threads; i++) {
		servers[i].device = d;
		servers[i].fd = i == 0 ? d->mount->device : device_clone(d->mount->device);
		servers[i].started = pthread_create(&servers[i].thread, NULL, serve, &servers[i]) == 0;
	}
	if (!servers || !servers[0].started) d->error = -ENOMEM;
	for (uint32_t i = 0; servers && i < threads; i++)
		if (servers[i].started) pthread_join(servers[i].thread, NULL);
	rings_stop(d->mount->rings);
	live_stop(d->mount->live);
	fetch_free(d->mount->fetch); /* what waits is answered, while its descriptor is still open */
	d->mount->fetch = NULL;
	for (uint32_t i = 0; servers && i < threads; i++)
		if (servers[i].fd != d->mount->device) close(servers[i].fd);
	free(servers);
}

int device_run(struct mount *m, uint32_t threads, void (*ready)(void *arg), void *arg)
{
	struct device d = { .mount = m };

	pthread_mutex_init(&d.lock, NULL);
	pthread_cond_init(&d.given_back, NULL);
	int err = serve_init(&d);
	if (err == 0) {
		ready(arg);
		servers_run(&d, m->use_rings ? 1 : threads);
		err = d.error;
	}
	while (d.free) {
		struct slot *s = d.free;
		d.free = s->next;
		free(s);
	}
	pthread_cond_destroy(&d.given_back);
	pthread_mutex_destroy(&d.lock);
	return err;
}
