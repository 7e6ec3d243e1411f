/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c -- Batch: samples in one block of memory, with where each begins, its id and its flags.
 *
 * (1) offsets has count * fields + 1 places; file f of sample i is the bytes offsets[i * fields + f] up to the next
 *     one. Where the library has laid samples elsewhere (one was replaced), the bytes are copied into this order.
 * (2) bytes, ids and flags belong to the lease, which is dropped with the Batch. */
#include "native.h"

PyTypeObject *batch_type;
static PyObject *batch_class; /* what is made: a class of Python derived from Batch */

/* ---- making ---- */

static void lease_drop(struct lease *lease)
{
	if (lease != NULL) lease->drop(lease);
}

struct gathered {
	struct lease lease;
	struct lease *of; /* ids and flags are still its */
	uint8_t bytes[];
};

static void gathered_drop(struct lease *lease)
{
	struct gathered *g = (struct gathered *)lease;

	lease_drop(g->of);
	free(g);
}

/* Lays files that are out of order one after the other. */
static bool batch_gather(BatchObject *b, const struct batch_parts *p)
{
	size_t files = (size_t)p->count * p->fields;
	uint64_t total = 0;

	for (size_t i = 0; i < files; i++) total += p->sizes[i];
	struct gathered *g = malloc(sizeof(*g) + total + 1);
	if (g == NULL) return false;
	g->lease.drop = gathered_drop;
	g->of = b->lease;
	total = 0;
	for (size_t i = 0; i < files; i++) {
		memcpy(g->bytes + total, p->data + p->offsets[i], p->sizes[i]);
		b->offsets[i] = (int64_t)total;
		total += p->sizes[i];
	}
	b->offsets[files] = (int64_t)total;
	b->lease = &g->lease;
	b->data = g->bytes;
	return true;
}

static bool batch_lay(BatchObject *b, const struct batch_parts *p)
{
	size_t files = (size_t)p->count * p->fields;
	bool in_order = true;
	uint64_t at = files > 0 ? p->offsets[0] : 0;

	b->offsets = malloc((files + 1) * sizeof(*b->offsets) + p->count + 1);
	if (b->offsets == NULL) return false;
	b->valid = (uint8_t *)(b->offsets + files + 1);
	for (uint32_t i = 0; i < p->count; i++)
		b->valid[i] = (p->flags[i] & (GRANARY_SAMPLE_PADDED | BATCH_MISSING)) == 0;
	for (size_t i = 0; i < files; i++) {
		b->offsets[i] = (int64_t)p->offsets[i];
		in_order = in_order && p->offsets[i] == at;
		at = p->sizes != NULL ? p->offsets[i] + p->sizes[i]
		     : i + 1 < files  ? p->offsets[i + 1]
				      : p->size;
	}
	b->offsets[files] = (int64_t)at;
	return in_order || batch_gather(b, p);
}

PyObject *batch_make(PyTypeObject *type, const struct batch_parts *p)
{
	BatchObject *b = (BatchObject *)object_alloc(type);

	if (b == NULL) {
		lease_drop(p->lease);
		return NULL;
	}
	b->lease = p->lease;
	b->data = p->data;
	b->ids = p->ids;
	b->flags = p->flags;
	b->count = p->count;
	b->fields = p->fields;
	b->position = p->position;
	b->number = p->number;
	b->token = p->token;
	if (!batch_lay(b, p)) {
		Py_DECREF((PyObject *)b);
		return PyErr_NoMemory();
	}
	return (PyObject *)b;
}

PyObject *batch_new(const struct batch_parts *parts)
{
	return batch_make(batch_class != NULL ? (PyTypeObject *)batch_class : batch_type, parts);
}

static void batch_dealloc(PyObject *self)
{
	BatchObject *b = (BatchObject *)self;

	lease_drop(b->lease);
	free(b->offsets);
	object_free(self);
}

/* ---- from buffers of somebody else ---- */

struct borrowed {
	struct lease lease;
	Py_buffer data, offsets, ids, flags;
};

static void borrowed_drop(struct lease *lease)
{
	struct borrowed *l = (struct borrowed *)lease;
	Py_buffer *all[] = { &l->data, &l->offsets, &l->ids, &l->flags };

	for (size_t i = 0; i < 4; i++)
		if (all[i]->obj != NULL) PyBuffer_Release(all[i]);
	free(l);
}

static bool borrowed_valid(const struct borrowed *l, uint32_t fields)
{
	const int64_t *offsets = l->offsets.buf;
	Py_ssize_t count = l->ids.len / 8;

	if (fields == 0 || l->ids.len % 8 != 0 || l->flags.len != count * 4 ||
		l->offsets.len != (count * (Py_ssize_t)fields + 1) * 8 || count > UINT32_MAX || offsets[0] < 0)
		return false;
	for (Py_ssize_t i = 0; i < count * (Py_ssize_t)fields; i++)
		if (offsets[i + 1] < offsets[i]) return false;
	return offsets[count * (Py_ssize_t)fields] <= l->data.len;
}

static PyObject *batch_from(PyObject *cls, PyObject *args)
{
	PyObject *data, *offsets, *ids, *flags, *token;
	struct batch_parts p = { .fields = 1 };
	unsigned long long position, number;

	if (!PyArg_ParseTuple(args, "OOOOIKKO:from_buffers", &data, &offsets, &ids, &flags, &p.fields,
		    &position, &number, &token))
		return NULL;
	struct borrowed *l = calloc(1, sizeof(*l));
	if (l == NULL) return PyErr_NoMemory();
	l->lease.drop = borrowed_drop;
	if (PyObject_GetBuffer(data, &l->data, PyBUF_SIMPLE) < 0 ||
		PyObject_GetBuffer(offsets, &l->offsets, PyBUF_SIMPLE) < 0 ||
		PyObject_GetBuffer(ids, &l->ids, PyBUF_SIMPLE) < 0 ||
		PyObject_GetBuffer(flags, &l->flags, PyBUF_SIMPLE) < 0) {
		borrowed_drop(&l->lease);
		return NULL;
	}
	Py_ssize_t token_len = PyBytes_Size(token);
	if (!borrowed_valid(l, p.fields) || token_len < 0 || token_len > GRANARY_TOKEN_MAX) {
		borrowed_drop(&l->lease);
		if (!PyErr_Occurred())
			PyErr_SetString(
				PyExc_ValueError, "offsets, ids and flags do not fit each other and the data");
		return NULL;
	}
	memcpy(p.token.bytes, PyBytes_AsString(token), (size_t)token_len);
	p.token.len = (uint32_t)token_len;
	p.lease = &l->lease;
	p.data = l->data.buf;
	p.count = (uint32_t)(l->ids.len / 8);
	p.offsets = l->offsets.buf;
	p.size = p.offsets[(size_t)p.count * p.fields];
	p.ids = l->ids.buf;
	p.flags = l->flags.buf;
	p.position = position;
	p.number = number;
	return batch_make((PyTypeObject *)cls, &p);
}

/* ---- looking ---- */

static Py_ssize_t batch_length(PyObject *self)
{
	return ((BatchObject *)self)->count;
}

static PyObject *batch_file(PyObject *self, Py_ssize_t i, Py_ssize_t field, Py_ssize_t fields)
{
	BatchObject *b = (BatchObject *)self;

	if (i < 0 || i >= (Py_ssize_t)b->count) {
		PyErr_Format(PyExc_IndexError,
			"sample %zd of a batch of %zd: an index is below the length of the batch", i,
			(Py_ssize_t)b->count);
		return NULL;
	}
	if (b->flags[i] & BATCH_MISSING) Py_RETURN_NONE;
	const int64_t *at = b->offsets + i * (Py_ssize_t)b->fields + field;
	return view_new(self, b->data + at[0], at[fields] - at[0]);
}

static PyObject *batch_item(PyObject *self, Py_ssize_t i)
{
	return batch_file(self, i, 0, ((BatchObject *)self)->fields);
}

static PyObject *batch_slice(PyObject *self, PyObject *slice)
{
	Py_ssize_t start, stop, step;

	if (PySlice_Unpack(slice, &start, &stop, &step) < 0) return NULL;
	Py_ssize_t count = PySlice_AdjustIndices(batch_length(self), &start, &stop, step);
	PyObject *list = PyList_New(count);
	for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
		PyObject *item = batch_item(self, start + i * step);
		if (item == NULL || PyList_SetItem(list, i, item) < 0) Py_CLEAR(list);
	}
	return list;
}

/* A number: a sample; a slice: a list of them; a name: that field of all samples, which field() knows. */
static PyObject *batch_subscript(PyObject *self, PyObject *key)
{
	if (PyUnicode_Check(key)) return PyObject_CallMethod(self, "field", "O", key);
	if (PySlice_Check(key)) return batch_slice(self, key);
	if (!PyIndex_Check(key)) {
		PyErr_Format(PyExc_TypeError,
			"a batch is indexed by numbers, slices and names of fields, not by %R",
			(PyObject *)Py_TYPE(key));
		return NULL;
	}
	Py_ssize_t i = PyNumber_AsSsize_t(key, PyExc_IndexError);
	if (i == -1 && PyErr_Occurred()) return NULL;
	return batch_item(self, i < 0 ? i + batch_length(self) : i);
}

static PyObject *batch_field(PyObject *self, PyObject *args)
{
	Py_ssize_t i, field;

	if (!PyArg_ParseTuple(args, "nn:_file", &i, &field)) return NULL;
	if (field < 0 || field >= (Py_ssize_t)((BatchObject *)self)->fields) {
		PyErr_Format(
			PyExc_IndexError, "field %zd: a sample has %u", field, ((BatchObject *)self)->fields);
		return NULL;
	}
	return batch_file(self, i < 0 ? i + batch_length(self) : i, field, 1);
}

static int batch_getbuffer(PyObject *self, Py_buffer *buffer, int flags)
{
	BatchObject *b = (BatchObject *)self;

	return PyBuffer_FillInfo(buffer, self, b->data, batch_bytes(b), 0, flags);
}

static PyObject *get_data(PyObject *self, void *none)
{
	BatchObject *b = (BatchObject *)self;

	(void)none;
	return array_new(self, b->data, batch_bytes(b), 1, 'B');
}

static PyObject *get_offsets(PyObject *self, void *none)
{
	BatchObject *b = (BatchObject *)self;

	(void)none;
	return array_new(self, b->offsets, (Py_ssize_t)b->count + 1, (Py_ssize_t)b->fields * 8, 'q');
}

static PyObject *get_field_offsets(PyObject *self, void *none)
{
	BatchObject *b = (BatchObject *)self;

	(void)none;
	return array_new(self, b->offsets, (Py_ssize_t)b->count * b->fields + 1, 8, 'q');
}

static PyObject *get_ids(PyObject *self, void *none)
{
	(void)none;
	return array_new(self, ((BatchObject *)self)->ids, batch_length(self), 8, 'q');
}

static PyObject *get_flags(PyObject *self, void *none)
{
	(void)none;
	return array_new(self, ((BatchObject *)self)->flags, batch_length(self), 4, 'I');
}

static PyObject *get_valid(PyObject *self, void *none)
{
	(void)none;
	return array_new(self, ((BatchObject *)self)->valid, batch_length(self), 1, 'B');
}

static PyObject *get_nbytes(PyObject *self, void *none)
{
	(void)none;
	return PyLong_FromSsize_t(batch_bytes((BatchObject *)self));
}

static PyObject *get_number(PyObject *self, void *which)
{
	BatchObject *b = (BatchObject *)self;
	const char *name = which;

	return PyLong_FromUnsignedLongLong(name[0] == 'p'   ? b->position
					   : name[0] == 'n' ? b->number
							    : b->fields);
}

static PyObject *get_token(PyObject *self, void *none)
{
	BatchObject *b = (BatchObject *)self;
	char text[GRANARY_TOKEN_TEXT_LEN + 1];

	(void)none;
	if (b->token.len == 0 || granary_token_text(&b->token, text) < 0) Py_RETURN_NONE;
	return PyUnicode_FromString(text);
}

static PyObject *get_token_bytes(PyObject *self, void *none)
{
	BatchObject *b = (BatchObject *)self;

	(void)none;
	return PyBytes_FromStringAndSize((const char *)b->token.bytes, b->token.len);
}

static PyObject *batch_dlpack(PyObject *self, PyObject *args, PyObject *kwargs)
{
	BatchObject *b = (BatchObject *)self;

	(void)args, (void)kwargs;
	return dlpack_new(self, b->data, batch_bytes(b), 1, 'B');
}

static PyObject *batch_dlpack_device(PyObject *self, PyObject *none)
{
	(void)self, (void)none;
	return Py_BuildValue("ii", 1, 0);
}

static char is_position[] = "position", is_number[] = "number", is_fields[] = "fields";
static PyGetSetDef batch_getset[] = {
	{ "data", get_data, NULL, "uint8[nbytes]: all samples, one after the other; not copied.", NULL },
	{ "offsets", get_offsets, NULL, "int64[n+1], bytes: sample i is data[offsets[i]:offsets[i+1]].", NULL },
	{ "field_offsets", get_field_offsets, NULL,
		"int64[n*fields+1], bytes: where each file of each sample begins.", NULL },
	{ "ids", get_ids, NULL, "int64[n]: the dense id of each sample in its snapshot.", NULL },
	{ "flags", get_flags, NULL, "uint32[n]: granary.PADDED, SKIPPED or MISSING, or-ed.", NULL },
	{ "valid", get_valid, NULL,
		"uint8[n]: 0 where a sample only fills up the last batch or is missing, else 1.", NULL },
	{ "nbytes", get_nbytes, NULL, "Bytes of all samples together.", NULL },
	{ "position", get_number, NULL, "Where its global batch begins in the epoch, samples.", is_position },
	{ "number", get_number, NULL, "Which batch of this rank it is, from 0 where the stream began.",
		is_number },
	{ "fields_count", get_number, NULL, "Files of a sample.", is_fields },
	{ "token", get_token, NULL, "Text: where to go on after this batch; None for batches of no epoch.",
		NULL },
	{ "_token_bytes", get_token_bytes, NULL, NULL, NULL }, { NULL, NULL, NULL, NULL, NULL }
};

static PyMethodDef batch_methods[] = {
	{ "_file", batch_field, METH_VARARGS, "_file(sample, field) -> memoryview" },
	{ "_from_buffers", batch_from, METH_VARARGS | METH_CLASS,
		"_from_buffers(data, offsets, ids, flags, fields, position, number, token) -> Batch over "
		"these" },
	{ "__dlpack__", (PyCFunction)(void (*)(void))batch_dlpack, METH_VARARGS | METH_KEYWORDS,
		"That of data." },
	{ "__dlpack_device__", batch_dlpack_device, METH_NOARGS, "(1, 0): the CPU." }, { NULL, NULL, 0, NULL }
};

static PyType_Slot batch_slots[] = { { Py_tp_dealloc, batch_dealloc }, { Py_tp_methods, batch_methods },
	{ Py_tp_getset, batch_getset }, { Py_bf_getbuffer, batch_getbuffer }, { Py_sq_length, batch_length },
	{ Py_sq_item, batch_item }, { Py_mp_length, batch_length }, { Py_mp_subscript, batch_subscript },
	{ 0, NULL } };
static PyType_Spec batch_spec = { "granary._native.Batch", sizeof(BatchObject), 0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, batch_slots };

static PyObject *set_batch_class(PyObject *self, PyObject *cls)
{
	(void)self;
	Py_XDECREF(batch_class);
	batch_class = Py_NewRef(cls);
	Py_RETURN_NONE;
}

static PyMethodDef set_class_method = { "set_batch_class", set_batch_class, METH_O,
	"The class that batches are made of." };

bool batch_init(PyObject *module)
{
	PyObject *set = PyCFunction_New(&set_class_method, NULL);
	bool good = set != NULL && PyModule_AddObjectRef(module, "set_batch_class", set) == 0;

	Py_XDECREF(set);
	return good && type_add(module, "Batch", &batch_spec, &batch_type);
}
