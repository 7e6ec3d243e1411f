/* SPDX-License-Identifier: Apache-2.0 */
/* shared.c -- Shared: memory in a memfd in which batches travel from one process to another, one at a time.
 *
 * (1) both sides map it once and keep the mapping: a batch costs the sender one copy (none: pool.c), the receiver
 *     nothing.
 * (2) it holds one batch from write() until its receiver is done with it and sets `given_back`; then the sender may
 *     write another one. Only the process that received the Batch sets it: not a child that inherited it.
 * (3) what is in it is checked before it is believed: another process wrote it. */
#include "shared.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Counted, because a Batch may outlive the object. */
struct mapping {
	struct shared_head *head; /* NULL: nothing is mapped yet */
	size_t size;
	uint32_t refs;
};

typedef struct {
	PyObject_HEAD struct mapping *mapping;
	int fd; /* of the sender; -1 */
	pid_t pid;
} SharedObject;

PyTypeObject *shared_type;

/* ---- mappings: the interpreter is held ---- */

static void mapping_unref(struct mapping *m)
{
	if (m == NULL || --m->refs > 0) return;
	if (m->head != NULL) munmap(m->head, m->size);
	free(m);
}

static struct mapping *mapping_new(int fd, size_t size, int flags)
{
	struct mapping *m = malloc(sizeof(*m));

	if (m == NULL) return (struct mapping *)(void *)PyErr_NoMemory();
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (p == MAP_FAILED) {
		PyErr_SetFromErrno(PyExc_OSError);
		free(m);
		return NULL;
	}
	*m = (struct mapping){ p, size, 1 };
	return m;
}

/* Shared() makes memory; Shared(fd) maps that of another process, the descriptor stays the caller's; Shared(fd, True)
 * does for several readers: what is written into a batch of it stays here, also that it is given back. */
static PyObject *shared_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	struct stat st;
	int fd = -1, alone = 0;

	if (kwargs != NULL && PyDict_Size(kwargs) > 0) return PyErr_Format(PyExc_TypeError, "Shared(fd)");
	if (!PyArg_ParseTuple(args, "|ip:Shared", &fd, &alone)) return NULL;
	SharedObject *self = (SharedObject *)object_alloc(type);
	if (self == NULL) return NULL;
	self->fd = -1;
	self->pid = getpid();
	if (PyTuple_Size(args) == 0) {
		self->fd = memfd_create("granary-batch", MFD_CLOEXEC);
		if (self->fd < 0) PyErr_SetFromErrno(PyExc_OSError);
	} else if (fstat(fd, &st) < 0) {
		PyErr_SetFromErrno(PyExc_OSError);
	} else if ((size_t)st.st_size < sizeof(struct shared_head)) {
		PyErr_SetString(PyExc_ValueError, "this is no memory of a batch");
	} else {
		self->mapping = mapping_new(fd, (size_t)st.st_size, alone ? MAP_PRIVATE : MAP_SHARED | MAP_POPULATE);
	}
	if (!PyErr_Occurred()) return (PyObject *)self;
	Py_DECREF((PyObject *)self);
	return NULL;
}

static void shared_dealloc(PyObject *self)
{
	SharedObject *s = (SharedObject *)self;

	if (s->fd >= 0 && s->pid == getpid() && s->mapping != NULL) /* a child has a copy of this object */
		__atomic_store_n(&s->mapping->head->retired, 1, __ATOMIC_RELEASE);
	mapping_unref(s->mapping);
	if (s->fd >= 0) close(s->fd);
	object_free(self);
}

/* ---- the sender ---- */

static bool shared_grow(SharedObject *s, uint64_t size)
{
	if (s->mapping != NULL && s->mapping->size >= size) return true;
	uint64_t whole = shared_room(size);
	if (ftruncate(s->fd, (off_t)whole) < 0) return PyErr_SetFromErrno(PyExc_OSError) != NULL;
	struct mapping *m = mapping_new(s->fd, (size_t)whole, MAP_SHARED | MAP_POPULATE);
	if (m == NULL) return false;
	mapping_unref(s->mapping);
	s->mapping = m;
	return true;
}

static uint64_t arrays_at(const BatchObject *b)
{
	return (SHARED_DATA_AT + (uint64_t)batch_bytes(b) + 63) & ~(uint64_t)63;
}

uint64_t shared_size(const BatchObject *b)
{
	return arrays_at(b) + shared_arrays(b->count, b->fields);
}

void shared_fill(struct shared_head *h, const BatchObject *b, bool bytes)
{
	uint64_t files = (uint64_t)b->count * b->fields;
	uint64_t *offsets = (uint64_t *)(void *)((uint8_t *)h + arrays_at(b)), *ids = offsets + files + 1;

	h->magic = SHARED_MAGIC;
	h->size = shared_size(b);
	h->arrays_at = arrays_at(b);
	h->position = b->position;
	h->number = b->number;
	h->count = b->count;
	h->fields = b->fields;
	h->token_len = b->token.len;
	memcpy(h->token, b->token.bytes, sizeof(h->token));
	memcpy(offsets, b->offsets, (files + 1) * 8);
	memcpy(ids, b->ids, (size_t)b->count * 8);
	memcpy(ids + b->count, b->flags, (size_t)b->count * 4);
	if (bytes) memcpy((uint8_t *)h + SHARED_DATA_AT, b->data, (size_t)batch_bytes(b));
}

static PyObject *shared_write(PyObject *self, PyObject *arg)
{
	SharedObject *s = (SharedObject *)self;
	BatchObject *b = (BatchObject *)arg;

	if (s->fd < 0 || !PyObject_TypeCheck(arg, batch_type))
		return PyErr_Format(PyExc_TypeError, "write(batch), of memory that was made here");
	if (!shared_grow(s, shared_size(b))) return NULL;
	struct shared_head *to = s->mapping->head;
	__atomic_store_n(&to->given_back, 0, __ATOMIC_RELAXED);
	Py_BEGIN_ALLOW_THREADS shared_fill(to, b, true);
	Py_END_ALLOW_THREADS return PyLong_FromUnsignedLongLong(s->mapping->size);
}

static PyObject *shared_fileno(PyObject *self, PyObject *none)
{
	(void)none;
	return PyLong_FromLong(((SharedObject *)self)->fd);
}

static PyObject *get_word(PyObject *self, void *which)
{
	struct mapping *m = ((SharedObject *)self)->mapping;
	const char *name = which;

	if (m == NULL) Py_RETURN_FALSE;
	const uint32_t *word = name[0] == 'g' ? &m->head->given_back : &m->head->retired;
	return PyBool_FromLong(__atomic_load_n(word, __ATOMIC_ACQUIRE) != 0);
}

static PyObject *get_size(PyObject *self, void *none)
{
	struct mapping *m = ((SharedObject *)self)->mapping;

	(void)none;
	return PyLong_FromSize_t(m != NULL ? m->size : 0);
}

/* ---- the receiver ---- */

struct received {
	struct lease lease;
	struct mapping *mapping;
	pid_t pid;
};

static void received_drop(struct lease *lease)
{
	struct received *r = (struct received *)lease;

	if (r->pid == getpid()) __atomic_store_n(&r->mapping->head->given_back, 1, __ATOMIC_RELEASE);
	mapping_unref(r->mapping);
	free(r);
}

static bool head_valid(const struct shared_head *h, size_t size)
{
	uint64_t files = (uint64_t)h->count * h->fields;

	if (h->magic != SHARED_MAGIC || h->size > size || h->arrays_at % 8 != 0 || h->arrays_at < SHARED_DATA_AT ||
		h->arrays_at > h->size || h->token_len > GRANARY_TOKEN_MAX || h->fields == 0 || files > size / 8 ||
		shared_arrays(h->count, h->fields) > h->size - h->arrays_at)
		return false;
	const int64_t *offsets = (const int64_t *)(const void *)((const uint8_t *)h + h->arrays_at);
	for (uint64_t i = 0; i < files; i++)
		if (offsets[i] < 0 || offsets[i + 1] < offsets[i]) return false;
	return offsets[files] >= 0 && (uint64_t)offsets[files] <= h->arrays_at - SHARED_DATA_AT;
}

static PyObject *shared_read(PyObject *self, PyObject *cls)
{
	struct mapping *m = ((SharedObject *)self)->mapping;
	struct received *r;

	if (!PyType_Check(cls) || !PyType_IsSubtype((PyTypeObject *)cls, batch_type))
		return PyErr_Format(PyExc_TypeError, "read(class of batches)");
	if (m == NULL || !head_valid(m->head, m->size)) {
		PyErr_SetString(PyExc_ValueError, "this is no memory of a batch");
		return NULL;
	}
	if ((r = malloc(sizeof(*r))) == NULL) return PyErr_NoMemory();
	*r = (struct received){ { received_drop }, m, getpid() };
	m->refs++;
	struct shared_head *h = m->head;
	uint64_t files = (uint64_t)h->count * h->fields;
	uint64_t *offsets = (uint64_t *)(void *)((uint8_t *)h + h->arrays_at), *ids = offsets + files + 1;
	struct batch_parts p = { .lease = &r->lease,
		.data = (uint8_t *)h + SHARED_DATA_AT,
		.size = offsets[files],
		.count = h->count,
		.fields = h->fields,
		.offsets = offsets,
		.ids = ids,
		.flags = (uint32_t *)(ids + h->count),
		.position = h->position,
		.number = h->number,
		.token = { .len = h->token_len } };
	memcpy(p.token.bytes, h->token, sizeof(h->token));
	return batch_make((PyTypeObject *)cls, &p);
}

static PyMethodDef shared_methods[] = { { "write", shared_write, METH_O,
						"write(batch) -> bytes of the memory, which may have grown" },
	{ "read", shared_read, METH_O, "read(class) -> Batch over what was written; given back when it is gone" },
	{ "fileno", shared_fileno, METH_NOARGS, "fileno() -> descriptor, -1 of another process's memory" },
	{ NULL, NULL, 0, NULL } };
static char is_given_back[] = "given_back", is_retired[] = "retired";
static PyGetSetDef shared_getset[] = {
	{ "given_back", get_word, NULL, "Whether the receiver of what was written is done with it.", is_given_back },
	{ "retired", get_word, NULL, "Whether the sender will write no more.", is_retired },
	{ "size", get_size, NULL, "Bytes that are mapped.", NULL }, { NULL, NULL, NULL, NULL, NULL }
};
static PyType_Slot shared_slots[] = { { Py_tp_new, shared_new }, { Py_tp_dealloc, shared_dealloc },
	{ Py_tp_methods, shared_methods }, { Py_tp_getset, shared_getset },
	{ Py_tp_doc, "Memory in which batches travel between processes; granary/shared.py uses it." }, { 0, NULL } };
static PyType_Spec shared_spec = { "granary._native.Shared", sizeof(SharedObject), 0, Py_TPFLAGS_DEFAULT,
	shared_slots };

bool shared_init(PyObject *module)
{
	return type_add(module, "Shared", &shared_spec, &shared_type);
}
