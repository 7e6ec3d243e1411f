/* SPDX-License-Identifier: Apache-2.0 */
/* array.c -- memory of a batch as Python sees it: Array (numbers; buffer protocol, DLPack), memoryviews of bytes. */
#include "native.h"

typedef struct {
	PyObject_HEAD PyObject *owner;
	char *data;
	Py_ssize_t count, stride;
	char kind;
} ArrayObject;

PyTypeObject *array_type, *view_type;

static Py_ssize_t kind_size(char kind)
{
	return kind == 'B' ? 1 : kind == 'I' ? 4 : 8;
}

static PyObject *object_new(
	PyTypeObject *type, PyObject *owner, void *data, Py_ssize_t count, Py_ssize_t stride, char kind)
{
	ArrayObject *a = (ArrayObject *)object_alloc(type);

	if (a == NULL) return NULL;
	a->owner = Py_NewRef(owner);
	a->data = data;
	a->count = count;
	a->stride = stride;
	a->kind = kind;
	return (PyObject *)a;
}

PyObject *array_new(PyObject *owner, void *data, Py_ssize_t count, Py_ssize_t stride, char kind)
{
	return object_new(array_type, owner, data, count, stride, kind);
}

PyObject *view_new(PyObject *owner, void *data, Py_ssize_t size)
{
	PyObject *exporter = object_new(view_type, owner, data, size, 1, 'B');
	PyObject *view = exporter != NULL ? PyMemoryView_FromObject(exporter) : NULL;

	Py_XDECREF(exporter);
	return view;
}

static void array_dealloc(PyObject *self)
{

	Py_XDECREF(((ArrayObject *)self)->owner);
	object_free(self);
}

static int array_getbuffer(PyObject *self, Py_buffer *b, int flags)
{
	static char format_u8[] = "B", format_i64[] = "q", format_u32[] = "I";
	ArrayObject *a = (ArrayObject *)self;
	Py_ssize_t size = kind_size(a->kind);

	if (a->stride != size && (flags & PyBUF_STRIDES) != PyBUF_STRIDES) {
		PyErr_SetString(PyExc_BufferError, "these numbers do not lie side by side");
		return -1;
	}
	*b = (Py_buffer){ .buf = a->data,
		.obj = Py_NewRef(self),
		.len = a->count * size,
		.itemsize = size,
		.ndim = 1,
		.format = a->kind == 'B'   ? format_u8
			  : a->kind == 'q' ? format_i64
					   : format_u32,
		.shape = &a->count,
		.strides = &a->stride };
	if ((flags & PyBUF_FORMAT) != PyBUF_FORMAT) b->format = NULL;
	if ((flags & PyBUF_ND) != PyBUF_ND) b->shape = NULL;
	if ((flags & PyBUF_STRIDES) != PyBUF_STRIDES) b->strides = NULL;
	return 0;
}

static Py_ssize_t array_length(PyObject *self)
{
	return ((ArrayObject *)self)->count;
}

static PyObject *array_item(PyObject *self, Py_ssize_t i)
{
	ArrayObject *a = (ArrayObject *)self;
	const char *at = a->data + i * a->stride;
	int64_t q;
	uint32_t u;

	if (i < 0 || i >= a->count) {
		PyErr_Format(PyExc_IndexError, "index %zd is out of range: there are %zd", i, a->count);
		return NULL;
	}
	if (a->kind == 'B') return PyLong_FromLong(*(const uint8_t *)at);
	if (a->kind == 'I') {
		memcpy(&u, at, sizeof(u));
		return PyLong_FromUnsignedLong(u);
	}
	memcpy(&q, at, sizeof(q));
	return PyLong_FromLongLong(q);
}

static PyObject *array_subscript(PyObject *self, PyObject *key)
{
	ArrayObject *a = (ArrayObject *)self;

	if (PyIndex_Check(key)) {
		Py_ssize_t i = PyNumber_AsSsize_t(key, PyExc_IndexError);
		if (i == -1 && PyErr_Occurred()) return NULL;
		return array_item(self, i < 0 ? i + a->count : i);
	}
	Py_ssize_t start, stop, step;
	if (!PySlice_Check(key)) {
		PyErr_SetString(PyExc_TypeError, "an index is a number or a slice");
		return NULL;
	}
	if (PySlice_Unpack(key, &start, &stop, &step) < 0) return NULL;
	Py_ssize_t count = PySlice_AdjustIndices(a->count, &start, &stop, step);
	return array_new(a->owner, a->data + start * a->stride, count, step * a->stride, a->kind);
}

static PyObject *array_tolist(PyObject *self, PyObject *none)
{
	(void)none;
	return PySequence_List(self);
}

static PyObject *array_repr(PyObject *self)
{
	ArrayObject *a = (ArrayObject *)self;

	return PyUnicode_FromFormat("granary.Array(%s[%zd])",
		a->kind == 'B'   ? "uint8"
		: a->kind == 'q' ? "int64"
				 : "uint32",
		a->count);
}

/* ---- DLPack: the struct of the standard, version 0 ---- */

struct dl_tensor {
	void *data;
	int32_t device_type, device_id;
	int32_t ndim;
	uint8_t code, bits;
	uint16_t lanes;
	int64_t *shape, *strides;
	uint64_t byte_offset;
};
struct dl_managed {
	struct dl_tensor tensor;
	void *manager;
	void (*deleter)(struct dl_managed *self);
	int64_t shape, stride;
};
enum { DL_CPU = 1, DL_INT = 0, DL_UINT = 1 };

static void dl_delete(struct dl_managed *m)
{
	if (Py_IsInitialized()) {
		PyGILState_STATE state = PyGILState_Ensure();
		Py_DECREF((PyObject *)m->manager);
		PyGILState_Release(state);
	}
	free(m);
}

/* A capsule that nobody took; who takes one renames it. */
static void dl_capsule_drop(PyObject *capsule)
{
	if (PyCapsule_IsValid(capsule, "dltensor")) dl_delete(PyCapsule_GetPointer(capsule, "dltensor"));
}

PyObject *dlpack_new(PyObject *owner, void *data, Py_ssize_t count, Py_ssize_t stride, char kind)
{
	struct dl_managed *m = calloc(1, sizeof(*m));

	if (m == NULL) return PyErr_NoMemory();
	m->shape = count;
	m->stride = stride / kind_size(kind);
	m->tensor = (struct dl_tensor){ .data = data,
		.device_type = DL_CPU,
		.ndim = 1,
		.code = kind == 'q' ? DL_INT : DL_UINT,
		.bits = (uint8_t)(kind_size(kind) * 8),
		.lanes = 1,
		.shape = &m->shape,
		.strides = &m->stride };
	m->manager = Py_NewRef(owner);
	m->deleter = dl_delete;
	PyObject *capsule = PyCapsule_New(m, "dltensor", dl_capsule_drop);
	if (capsule == NULL) dl_delete(m);
	return capsule;
}

/* The arguments (stream, max_version, dl_device, copy) ask for nothing on a CPU. */
static PyObject *array_dlpack(PyObject *self, PyObject *args, PyObject *kwargs)
{
	ArrayObject *a = (ArrayObject *)self;

	(void)args, (void)kwargs;
	return dlpack_new(self, a->data, a->count, a->stride, a->kind);
}

static PyObject *array_dlpack_device(PyObject *self, PyObject *none)
{
	(void)self, (void)none;
	return Py_BuildValue("ii", DL_CPU, 0);
}

/* Numbers in a buffer of somebody else, which stays exported as long as the Array. */
static PyObject *array_over(PyObject *cls, PyObject *args)
{
	PyObject *source, *view, *array;
	const char *kind;
	Py_buffer b;

	(void)cls;
	if (!PyArg_ParseTuple(args, "Os:over", &source, &kind)) return NULL;
	view = PyMemoryView_FromObject(source);
	if (view == NULL || PyObject_GetBuffer(view, &b, PyBUF_SIMPLE) < 0) {
		Py_XDECREF(view);
		return NULL;
	}
	array = array_new(view, b.buf, b.len / kind_size(kind[0]), kind_size(kind[0]), kind[0]);
	PyBuffer_Release(&b);
	Py_DECREF(view);
	return array;
}

static PyMethodDef array_methods[] = { { "tolist", array_tolist, METH_NOARGS, "tolist() -> list of int" },
	{ "over", array_over, METH_VARARGS | METH_STATIC,
		"over(buffer, kind) -> Array of 'B', 'q' or 'I' over that buffer" },
	{ "__dlpack__", (PyCFunction)(void (*)(void))array_dlpack, METH_VARARGS | METH_KEYWORDS,
		"A DLPack capsule of this memory; nothing is copied." },
	{ "__dlpack_device__", array_dlpack_device, METH_NOARGS, "(1, 0): the CPU." },
	{ NULL, NULL, 0, NULL } };

static PyType_Slot array_slots[] = { { Py_tp_dealloc, array_dealloc }, { Py_tp_repr, array_repr },
	{ Py_tp_methods, array_methods }, { Py_bf_getbuffer, array_getbuffer }, { Py_sq_length, array_length },
	{ Py_sq_item, array_item }, { Py_mp_length, array_length }, { Py_mp_subscript, array_subscript },
	{ Py_tp_doc, "One-dimensional numbers of a batch, not copied: numpy.asarray(a), torch.from_dlpack(a), "
		     "memoryview(a)." },
	{ 0, NULL } };
static PyType_Spec array_spec = { "granary._native.Array", sizeof(ArrayObject), 0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, array_slots };

static PyType_Slot view_slots[] = { { Py_tp_dealloc, array_dealloc }, { Py_bf_getbuffer, array_getbuffer },
	{ Py_sq_length, array_length }, { 0, NULL } };
static PyType_Spec view_spec = { "granary._native.Bytes", sizeof(ArrayObject), 0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, view_slots };

bool array_init(PyObject *module)
{
	return type_add(module, "Array", &array_spec, &array_type) &&
	       type_add(module, "Bytes", &view_spec, &view_type);
}
