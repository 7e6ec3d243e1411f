/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c -- memory of this process in which batches travel to others, each in a memfd of its own. A stream of a worker
 * process has its batches put here by the library, so that to send one is to write its head; any other batch is copied.
 *
 *   IDLE -> TAKEN  pool_take()  an epoch fills it
 *        -> AWAY   pool_send()  a batch was copied into it; IDLE again when its receiver gives it back
 *   TAKEN -> AWAY or IDLE       pool_give(): the batch is gone here; was it sent?
 *
 * (1) all of it is under `lock`, but for bytes of memory that is not IDLE; (2) memory holds one batch at a time, of
 * the library or of a receiver; (3) TAKEN memory is sent once: whoever gets the batch a second time gets a copy;
 * (4) a child after fork() begins without any: what is there is its parent's. */
#include "shared.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	POOL_LEAST = 32 * 1024, /* smaller batches are copied: a descriptor costs more */
	POOL_TAKEN_MAX = 256,   /* descriptors that streams may have */
	POOL_IDLE_MAX = 64,
};

enum pooled_state { IDLE, TAKEN, AWAY };
struct pooled {
	struct pooled *next;
	struct shared_head *head;
	uint64_t size, number; /* the number is its name, in all processes */
	int fd;
	enum pooled_state state;
	bool sent;
};

static struct {
	pthread_mutex_t lock;
	struct pooled *all;
	uint32_t taken;
	uint64_t next_number;
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- memory; the lock is held ---- */

static void pooled_free(struct pooled *m)
{
	if (m->head != NULL) {
		__atomic_store_n(&m->head->retired, 1, __ATOMIC_RELEASE);
		munmap(m->head, m->size);
	}
	if (m->fd >= 0) close(m->fd);
	free(m);
}

/* As many bytes; what was in it is of no use any more. */
static bool pooled_grow(struct pooled *m, uint64_t size)
{
	if (m->size >= size) return true;
	uint64_t whole = shared_room(size);
	if (ftruncate(m->fd, (off_t)whole) < 0) return false;
	void *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, m->fd, 0);
	if (p == MAP_FAILED) return false;
	if (m->head != NULL) munmap(m->head, m->size);
	m->head = p;
	m->size = whole;
	return true;
}

static struct pooled *pooled_new(void)
{
	struct pooled *m = calloc(1, sizeof(*m));

	if (m == NULL) return NULL;
	m->fd = memfd_create("granary-batch", MFD_CLOEXEC);
	if (m->fd < 0) {
		free(m);
		return NULL;
	}
	if (pool.next_number == 0 && getrandom(&pool.next_number, 7, 0) != 7)
		pool.next_number = (uint64_t)getpid() << 32;
	m->number = ++pool.next_number;
	m->next = pool.all;
	pool.all = m;
	return m;
}

/* What receivers gave back is idle; too much of that goes. */
static void pool_sweep(void)
{
	uint32_t idle = 0;

	for (struct pooled **at = &pool.all, *m; (m = *at) != NULL;) {
		if (m->state == AWAY && __atomic_load_n(&m->head->given_back, __ATOMIC_ACQUIRE)) m->state = IDLE;
		if (m->state == IDLE && ++idle > POOL_IDLE_MAX) {
			*at = m->next;
			pooled_free(m);
			continue;
		}
		at = &m->next;
	}
}

/* The smallest that is large enough, else the largest, else a new one. NULL: there is no memory. */
static struct pooled *pool_find(uint64_t size)
{
	struct pooled *best = NULL;

	pool_sweep();
	for (struct pooled *m = pool.all; m != NULL; m = m->next) {
		if (m->state != IDLE) continue;
		if (best == NULL || (m->size >= size ? best->size < size || m->size < best->size
						     : best->size < size && m->size > best->size))
			best = m;
	}
	if (best == NULL) best = pooled_new();
	if (best == NULL || !pooled_grow(best, size)) return NULL;
	best->sent = false;
	return best;
}

static struct pooled *pooled_of(const void *data)
{
	for (struct pooled *m = pool.all; m != NULL; m = m->next)
		if ((const uint8_t *)m->head + SHARED_DATA_AT == data) return m;
	return NULL;
}

/* ---- for the library ---- */

static void *pool_take(void *arg, size_t size)
{
	struct pooled *m = NULL;

	(void)arg;
	if (size < POOL_LEAST) return NULL;
	pthread_mutex_lock(&pool.lock);
	if (pool.taken < POOL_TAKEN_MAX) m = pool_find(SHARED_DATA_AT + size);
	if (m != NULL) {
		m->state = TAKEN;
		pool.taken++;
	}
	pthread_mutex_unlock(&pool.lock);
	return m != NULL ? (uint8_t *)m->head + SHARED_DATA_AT : NULL;
}

static void pool_give(void *arg, void *memory, size_t size)
{
	(void)arg, (void)size;
	pthread_mutex_lock(&pool.lock);
	struct pooled *m = pooled_of(memory);
	if (m != NULL) {
		m->state = m->sent ? AWAY : IDLE;
		pool.taken--;
	}
	pthread_mutex_unlock(&pool.lock);
}

const struct granary_batch_memory pool_memory = { .take = pool_take, .give = pool_give };

/* ---- for Python ---- */

/* Where the batch is to be written, and whether its bytes are there already. */
static struct pooled *pool_place(const BatchObject *b, bool *there)
{
	uint64_t size = shared_size(b);

	pthread_mutex_lock(&pool.lock);
	struct pooled *m = pooled_of(b->data);
	*there = m != NULL && m->state == TAKEN && !m->sent && m->size >= size;
	if (!*there && (m = pool_find(size)) != NULL) m->state = AWAY;
	if (m != NULL) {
		m->sent = true;
		__atomic_store_n(&m->head->given_back, 0, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&pool.lock);
	return m;
}

static PyObject *pool_send(PyObject *self, PyObject *arg)
{
	const BatchObject *b = (const BatchObject *)arg;
	bool there;

	(void)self;
	if (!PyObject_TypeCheck(arg, batch_type)) return PyErr_Format(PyExc_TypeError, "send(batch)");
	struct pooled *m = pool_place(b, &there);
	if (m == NULL) return PyErr_SetFromErrno(PyExc_OSError);
	Py_BEGIN_ALLOW_THREADS shared_fill(m->head, b, !there);
	Py_END_ALLOW_THREADS return Py_BuildValue(
		"iKK", m->fd, (unsigned long long)m->number, (unsigned long long)m->size);
}

static PyObject *pool_count(PyObject *self, PyObject *none)
{
	uint32_t count = 0;

	(void)self, (void)none;
	pthread_mutex_lock(&pool.lock);
	for (const struct pooled *m = pool.all; m != NULL; m = m->next) count++;
	pthread_mutex_unlock(&pool.lock);
	return PyLong_FromUnsignedLong(count);
}

static PyObject *pool_forget(PyObject *self, PyObject *none)
{
	(void)self, (void)none;
	pthread_mutex_init(&pool.lock, NULL); /* a thread of the parent may have held it */
	pool.all = NULL;
	pool.taken = 0;
	pool.next_number = 0;
	Py_RETURN_NONE;
}

static PyMethodDef pool_methods[] = {
	{ "send", pool_send, METH_O,
		"send(batch) -> (descriptor, number, bytes) of memory that holds it until its receiver is done." },
	{ "send_count", pool_count, METH_NOARGS, "send_count() -> how many memories for batches there are." },
	{ "send_forget", pool_forget, METH_NOARGS,
		"send_forget(): in a child after fork(), what the parent has is the parent's." },
};

bool pool_init(PyObject *module)
{
	for (size_t i = 0; i < sizeof(pool_methods) / sizeof(pool_methods[0]); i++) {
		PyObject *f = PyCFunction_New(&pool_methods[i], NULL);
		bool good = f != NULL && PyModule_AddObjectRef(module, pool_methods[i].ml_name, f) == 0;

		Py_XDECREF(f);
		if (!good) return false;
	}
	return true;
}
