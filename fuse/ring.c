/* SPDX-License-Identifier: Apache-2.0 */
/* ring.c -- FUSE over io_uring (Linux 6.14 and up): a queue and a thread a CPU, answers and the wait for the next
 * request in one system call.
 *
 * (1) an entry is the kernel's (waiting for a request) or ours (a request in it, not answered yet), and goes back and
 *     forth; all of a queue's are submitted by its thread alone.
 * (2) a request that is answered in another thread is put on the queue's `late` list, and the eventfd wakes its thread.
 * (3) once INIT granted rings the kernel gives no request before every possible CPU has a queue with an entry: so what
 *     could fail is tried before (rings_possible()).
 * (4) INIT, FORGET and INTERRUPT come over the device all the same. */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fuse/live.h"
#include "fuse/log.h"

enum { SQE_BYTES = 128 /* IORING_SETUP_SQE128 */ };

struct queue;
struct ring_entry {
	struct request request; /* first: an answer finds its entry by it */
	struct queue *queue;
	struct ring_entry *next_late;
	struct kernel_uring_header *header;
	uint8_t *payload;
	struct iovec parts[2];
	uint64_t commit_id;
};
struct queue {
	struct rings *rings;
	struct io_uring ring;
	pthread_t thread;
	uint16_t id;
	int wake;       /* eventfd */
	uint64_t woken; /* what was read of it */
	pthread_mutex_t lock;
	struct ring_entry *late; /* lock */
	atomic_bool stop;
	uint32_t with_kernel;
	void *memory;
	uint32_t depth;
	size_t entry_size; /* header and payload */
	struct ring_entry entries[MOUNT_DEPTH_MAX];
};
struct rings {
	struct mount *mount;
	uint32_t count;
	sem_t started;
	int error; /* of a queue that could not start; set before its post */
	struct queue queues[];
};

static int ring_open(struct io_uring *ring)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
						   IORING_SETUP_DEFER_TASKRUN };

	return io_uring_queue_init_params(2 * MOUNT_DEPTH_MAX, ring, &params);
}

bool rings_possible(const char **why)
{
	struct io_uring ring;
	char enabled = 'N';
	FILE *f = fopen("/sys/module/fuse/parameters/enable_uring", "re");

	*why = "this kernel has no FUSE over io_uring (Linux 6.14 and up have it)";
	if (!f) return false;
	int got = fscanf(f, "%c", &enabled);
	fclose(f);
	*why = "it is switched off; as root: echo 1 > /sys/module/fuse/parameters/enable_uring";
	if (got != 1 || (enabled != 'Y' && enabled != '1')) return false;
	*why = "this process may not use io_uring (kernel.io_uring_disabled, or a container's rules)";
	if (ring_open(&ring) < 0) return false;
	io_uring_queue_exit(&ring);
	return true;
}

/* ---- to the kernel ---- */

/* There are more than can be under way: one an entry, and that which watches the eventfd. */
static struct io_uring_sqe *sqe_get(struct queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	assert(sqe);
	memset(sqe, 0, SQE_BYTES);
	return sqe;
}

static void command(struct ring_entry *e, uint32_t op)
{
	struct io_uring_sqe *sqe = sqe_get(e->queue);
	struct kernel_uring_cmd cmd = { .commit_id = e->commit_id, .qid = e->queue->id };

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE; /* the one that queue_open() registered */
	sqe->cmd_op = op;
	if (op == KERNEL_URING_REGISTER) {
		sqe->addr = (uint64_t)(uintptr_t)e->parts;
		sqe->len = 2;
	}
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	sqe->user_data = (uint64_t)(uintptr_t)e;
	e->queue->with_kernel++;
}

static void watch_wakes(struct queue *q)
{
	struct io_uring_sqe *sqe = sqe_get(q);

	io_uring_prep_read(sqe, q->wake, &q->woken, sizeof(q->woken), 0);
	sqe->user_data = 0;
}

static void commit(struct ring_entry *e)
{
	struct request *r = &e->request;
	size_t size = r->error < 0 || r->silent ? 0 : r->lent ? r->lent_len : r->out_len;
	struct fuse_out_header out = {
		.len = (uint32_t)(sizeof(out) + size), .error = r->error, .unique = r->unique
	};

	if (size > 0 && r->lent) memcpy(e->payload, r->lent, size);
	mount_answered(e->queue->rings->mount, r);
	memcpy(e->header->in_out, &out, sizeof(out));
	e->header->payload_size = (uint32_t)size;
	command(e, KERNEL_URING_COMMIT_AND_FETCH);
}

/* ---- from the kernel ---- */

static void answer_late(struct request *r)
{
	struct ring_entry *e = (struct ring_entry *)r;
	struct queue *q = e->queue;
	uint64_t one = 1;

	pthread_mutex_lock(&q->lock);
	e->next_late = q->late;
	q->late = e;
	pthread_mutex_unlock(&q->lock);
	if (write(q->wake, &one, sizeof(one)) < 0) log_say("eventfd: %s", strerror(errno)); /* it never fills up */
}

/* What a handler reads of the payload lies where its answer goes: names, which it has used before it answers. */
static void entry_request(struct ring_entry *e)
{
	struct mount *m = e->queue->rings->mount;
	struct fuse_in_header in;
	const char *what;

	memcpy(&in, e->header->in_out, sizeof(in));
	e->commit_id = e->header->commit_id;
	uint32_t rest = e->header->payload_size < m->read_max ? e->header->payload_size : m->read_max;
	int err = request_decode(&in, e->header->op_in, KERNEL_URING_HEADER_IO, e->payload, rest, &e->request, &what);
	e->request.out = e->payload;
	e->request.out_cap = m->read_max;
	e->request.error = err;
	if (err < 0)
		log_say("the kernel sent %s (%s): refused", what, request_name(in.opcode));
	else if (!mount_handle(m, &e->request, answer_late))
		return;
	commit(e);
}

static void late_answers(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	struct ring_entry *e = q->late;
	q->late = NULL;
	pthread_mutex_unlock(&q->lock);
	while (e) {
		struct ring_entry *next = e->next_late;
		commit(e);
		e = next;
	}
	watch_wakes(q);
}

static void completion(struct queue *q, const struct io_uring_cqe *cqe)
{
	struct ring_entry *e = (struct ring_entry *)(uintptr_t)cqe->user_data;

	if (!e) {
		late_answers(q);
		return;
	}
	q->with_kernel--;
	if (cqe->res == 0)
		entry_request(e);
	else if (cqe->res == -EINTR || cqe->res == -EAGAIN)
		command(e, KERNEL_URING_REGISTER);
	else if (cqe->res != -ENOTCONN && cqe->res != -ECANCELED) /* those: unmounted */
		log_say("queue %u: %s", q->id, strerror(-cqe->res));
}

/* Until all entries came back because of the unmount, or it is told to stop. */
static void queue_loop(struct queue *q)
{
	struct io_uring_cqe *cqe;
	unsigned head, count;

	while (!atomic_load_explicit(&q->stop, memory_order_relaxed)) {
		int err = io_uring_submit_and_wait(&q->ring, 1);
		if (err < 0 && err != -EINTR && err != -EAGAIN) {
			log_say("queue %u: %s", q->id, strerror(-err));
			return;
		}
		count = 0;
		io_uring_for_each_cqe(&q->ring, head, cqe)
		{
			completion(q, cqe);
			count++;
		}
		io_uring_cq_advance(&q->ring, count);
	}
}

static int queue_open(struct queue *q)
{
	cpu_set_t cpu;

	CPU_ZERO(&cpu);
	CPU_SET(q->id, &cpu); /* the kernel queues a request where it was made; a CPU that is offline has none */
	(void)pthread_setaffinity_np(pthread_self(), sizeof(cpu), &cpu);
	int err = ring_open(&q->ring);
	if (err < 0) return err;
	err = io_uring_register_files(&q->ring, &q->rings->mount->device, 1);
	if (err < 0) {
		io_uring_queue_exit(&q->ring);
		return err;
	}
	(void)io_uring_register_ring_fd(&q->ring); /* it spares a look-up each time */
	q->memory = mmap(NULL, q->depth * q->entry_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (q->memory == MAP_FAILED) {
		q->memory = NULL;
		io_uring_queue_exit(&q->ring);
		return -ENOMEM;
	}
	madvise(q->memory, q->depth * q->entry_size, MADV_HUGEPAGE);
	for (uint32_t i = 0; i < q->depth; i++) {
		struct ring_entry *e = &q->entries[i];
		e->queue = q;
		e->header = (struct kernel_uring_header *)((uint8_t *)q->memory + i * q->entry_size);
		e->payload = (uint8_t *)e->header + KERNEL_PAGE;
		e->parts[0] = (struct iovec){ e->header, sizeof(*e->header) };
		e->parts[1] = (struct iovec){ e->payload, q->entry_size - KERNEL_PAGE };
		command(e, KERNEL_URING_REGISTER);
	}
	watch_wakes(q);
	err = io_uring_submit(&q->ring);
	return err < 0 ? err : 0;
}

static void *queue_run(void *arg)
{
	struct queue *q = arg;
	int err = queue_open(q);

	if (err < 0) __atomic_store_n(&q->rings->error, err, __ATOMIC_RELAXED);
	sem_post(&q->rings->started);
	if (err < 0) return NULL;
	queue_loop(q);
	io_uring_queue_exit(&q->ring);
	return NULL;
}

/* ---- start and end ---- */

struct rings *rings_start(struct mount *m, const char **why)
{
	long count = sysconf(_SC_NPROCESSORS_CONF);
	struct rings *r =
		count > 0 && count < UINT16_MAX ? calloc(1, sizeof(*r) + (size_t)count * sizeof(r->queues[0])) : NULL;

	*why = "no memory";
	if (!r) return NULL;
	r->mount = m;
	sem_init(&r->started, 0, 0);
	for (uint32_t i = 0; i < count; i++) {
		struct queue *q = &r->queues[i];
		q->rings = r;
		q->depth = m->depth;
		q->entry_size = KERNEL_PAGE + m->read_max;
		q->id = (uint16_t)i;
		q->wake = eventfd(0, EFD_CLOEXEC);
		pthread_mutex_init(&q->lock, NULL);
		if (q->wake < 0 || pthread_create(&q->thread, NULL, queue_run, q) != 0) {
			r->error = -EAGAIN;
			break;
		}
		r->count++;
	}
	for (uint32_t i = 0; i < r->count; i++) sem_wait(&r->started);
	if (r->error == 0) return r;
	*why = strerror(-r->error);
	rings_stop(r);
	rings_free(r);
	return NULL;
}

void rings_stop(struct rings *r)
{
	uint64_t one = 1;

	for (uint32_t i = 0; r && i < r->count; i++) {
		struct queue *q = &r->queues[i];
		atomic_store(&q->stop, true);
		if (write(q->wake, &one, sizeof(one)) < 0) log_say("eventfd: %s", strerror(errno));
		pthread_join(q->thread, NULL);
	}
}

void rings_free(struct rings *r)
{
	for (uint32_t i = 0; r && i < r->count; i++) {
		struct queue *q = &r->queues[i];
		close(q->wake);
		if (q->memory) munmap(q->memory, q->depth * q->entry_size);
		pthread_mutex_destroy(&q->lock);
	}
	if (r) sem_destroy(&r->started);
	free(r);
}
