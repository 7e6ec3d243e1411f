/* SPDX-License-Identifier: Apache-2.0 */
/* client_data.c -- bytes of objects: batch reads, puts, uploads. */
#include "client_calls.h"

#include <stdlib.h>

const char *key_of(PyObject *text)
{
	Py_ssize_t len;
	const char *key;

	if (!PyUnicode_Check(text)) {
		PyErr_Format(PyExc_TypeError, "a key is a str, not %R", (PyObject *)Py_TYPE(text));
		return NULL;
	}
	key = PyUnicode_AsUTF8AndSize(text, &len);
	if (key != NULL && (size_t)len != strlen(key)) {
		PyErr_SetString(PyExc_ValueError, "a key has no NUL byte");
		return NULL;
	}
	return key;
}

PyObject *key_text(const char *key)
{
	return PyUnicode_DecodeUTF8(key, (Py_ssize_t)strlen(key), "surrogateescape");
}

/* ---- reading ---- */

struct reading {
	struct lease lease;
	struct granary_entry *entries;
	size_t count;
	struct granary_op *op;
	Py_buffer out;  /* obj NULL: leased */
	uint8_t *block; /* gathered from leased memory */
	uint64_t *offsets, *sizes, *ids;
	uint32_t *flags;
	PyObject *list; /* holds the keys */
};

static void reading_drop(struct lease *lease)
{
	struct reading *r = (struct reading *)lease;

	granary_op_free(&r->op);
	if (r->out.obj != NULL) PyBuffer_Release(&r->out);
	Py_XDECREF(r->list);
	free(r->block);
	free(r->offsets);
	free(r->entries);
	free(r);
}

static bool entry_of(struct granary_entry *e, PyObject *item)
{
	PyObject *key = item;
	unsigned long long offset = 0, length = GRANARY_TO_END;

	if (PyTuple_Check(item) && !PyArg_ParseTuple(item, "OKK", &key, &offset, &length)) return false;
	const char *text = key_of(key);
	if (text == NULL) return false;
	e->ref = granary_ref_key(text);
	e->flags = PyTuple_Check(item) ? GRANARY_ENTRY_RANGE : 0;
	e->offset = offset;
	e->length = length;
	return true;
}

static struct reading *reading_new(PyObject *list, PyObject *out)
{
	struct reading *r = calloc(1, sizeof(*r));
	Py_ssize_t count = PyList_Size(list);

	if (r == NULL || count < 0) {
		free(r);
		return count < 0 ? NULL : (struct reading *)PyErr_NoMemory();
	}
	r->lease.drop = reading_drop;
	r->list = Py_NewRef(list);
	r->count = (size_t)count;
	r->entries = calloc(r->count + 1, sizeof(*r->entries));
	r->offsets = calloc(r->count + 1, 3 * sizeof(uint64_t) + sizeof(uint32_t));
	bool good = r->entries != NULL && r->offsets != NULL;
	if (!good) PyErr_NoMemory();
	for (Py_ssize_t i = 0; good && i < count; i++) good = entry_of(&r->entries[i], PyList_GetItem(list, i));
	if (good && out != Py_None) good = PyObject_GetBuffer(out, &r->out, PyBUF_WRITABLE) == 0;
	if (!good) {
		reading_drop(&r->lease);
		return NULL;
	}
	r->sizes = r->offsets + r->count + 1;
	r->ids = r->sizes + r->count + 1;
	r->flags = (uint32_t *)(r->ids + r->count + 1);
	return r;
}

static bool reading_run(struct reading *r, struct owner_client *owner, bool any_order, uint32_t timeout_ms)
{
	struct granary_batch b = GRANARY_INIT(granary_batch);
	char what[300];

	b.entries = r->entries;
	b.count = r->count;
	b.flags = any_order ? 0 : GRANARY_BATCH_IN_ORDER;
	b.align = 1;
	b.slab = r->out.obj != NULL ? r->out.buf : NULL;
	b.slab_size = r->out.obj != NULL ? (size_t)r->out.len : 0;
	int err = granary_read_batch_start(owner->client, &b, GRANARY_CALL(.timeout_ms = timeout_ms), &r->op);
	if (err < 0) {
		r->op = NULL;
		raise_error(err, granary_last_error(owner->client),
			r->count > 0 ? r->entries[0].ref.name : NULL, owner);
		return false;
	}
	snprintf(what, sizeof(what), "%zu objects, the first '%.200s'", r->count,
		r->count > 0 ? r->entries[0].ref.name : "");
	int64_t result = op_wait(r->op, owner, what);
	if (result < 0) raise_op(result, r->op, r->count > 0 ? r->entries[0].ref.name : NULL, owner);
	return result >= 0;
}

/* Copies leased entries to one block, in their order. */
static bool reading_gather(struct reading *r)
{
	uint64_t total = 0;

	for (size_t i = 0; i < r->count; i++) total += r->entries[i].status == 0 ? r->entries[i].data_len : 0;
	r->block = malloc(total + 1);
	if (r->block == NULL) return false;
	total = 0;
	Py_BEGIN_ALLOW_THREADS for (size_t i = 0; i < r->count; i++)
	{
		struct granary_entry *e = &r->entries[i];
		if (e->status != 0 || e->data_len == 0) continue;
		memcpy(r->block + total, e->data, e->data_len);
		e->data = r->block + total;
		total += e->data_len;
	}
	granary_op_free(&r->op);
	Py_END_ALLOW_THREADS return true;
}

static int by_address(const void *a, const void *b, void *arg)
{
	const struct granary_entry *entries = arg, *x = &entries[*(const uint64_t *)a],
				   *y = &entries[*(const uint64_t *)b];

	return x->data < y->data ? -1 : x->data > y->data ? 1 : x < y ? -1 : x > y;
}

static PyObject *reading_batch(struct reading *r, bool any_order)
{
	uint8_t *base = r->out.obj != NULL ? r->out.buf : r->block;
	struct batch_parts p = { .lease = &r->lease,
		.data = base,
		.count = (uint32_t)r->count,
		.fields = 1,
		.offsets = r->offsets,
		.sizes = r->sizes,
		.ids = r->ids,
		.flags = r->flags };
	uint64_t at = 0;

	for (size_t i = 0; i < r->count; i++) r->ids[i] = i;
	if (any_order && r->out.obj != NULL) qsort_r(r->ids, r->count, sizeof(*r->ids), by_address, r->entries);
	for (size_t i = 0; i < r->count; i++) {
		const struct granary_entry *e = &r->entries[r->ids[i]];
		bool here = e->status == 0;
		r->offsets[i] = here && e->data_len > 0 ? (uint64_t)((const uint8_t *)e->data - base) : at;
		r->sizes[i] = here ? e->data_len : 0;
		r->flags[i] = here ? 0 : BATCH_MISSING;
		at = r->offsets[i] + r->sizes[i];
		p.size = at > p.size ? at : p.size;
	}
	return batch_new(&p);
}

static PyObject *reading_errors(const struct reading *r)
{
	PyObject *list = PyList_New(0);

	for (size_t i = 0; list != NULL && i < r->count; i++) {
		if (r->entries[i].status == 0) continue;
		PyObject *pair = Py_BuildValue("ni", (Py_ssize_t)i, r->entries[i].status);
		if (pair == NULL || PyList_Append(list, pair) < 0) Py_CLEAR(list);
		Py_XDECREF(pair);
	}
	return list;
}

PyObject *client_read(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	PyObject *list, *out;
	int any_order;
	double timeout;

	if (owner == NULL ||
		!PyArg_ParseTuple(args, "O!Opd:_read", &PyList_Type, &list, &out, &any_order, &timeout))
		return NULL;
	struct reading *r = reading_new(list, out);
	if (r == NULL) return NULL;
	owner_client_ref(owner);
	bool good = reading_run(r, owner, any_order, timeout_of(timeout));
	if (good && out == Py_None && !reading_gather(r)) {
		PyErr_NoMemory();
		good = false;
	}
	if (!good) {
		reading_drop(&r->lease);
		owner_client_unref(owner);
		return NULL;
	}
	PyObject *errors = reading_errors(r), *text = key_text(r->op != NULL ? granary_op_error(r->op) : "");
	granary_op_free(&r->op);
	owner_client_unref(owner);
	PyObject *batch = errors != NULL && text != NULL ? reading_batch(r, any_order) : NULL;
	if (batch == NULL) {
		Py_XDECREF(errors);
		Py_XDECREF(text);
		return NULL;
	}
	return Py_BuildValue("NNN", batch, errors, text);
}

/* ---- writing ---- */

struct putting {
	struct granary_put *puts;
	Py_buffer *data;
	struct granary_pair **meta;
	Py_ssize_t count;
};

static void putting_free(struct putting *p)
{
	for (Py_ssize_t i = 0; i < p->count && p->data != NULL; i++) {
		if (p->data[i].obj != NULL) PyBuffer_Release(&p->data[i]);
		free(p->meta[i]);
	}
	free(p->puts);
	free(p->data);
	free(p->meta);
}

/* meta is a dict of str to str; its texts are borrowed. */
static bool put_meta(struct granary_put *put, PyObject *meta, struct granary_pair **pairs)
{
	PyObject *name, *value;
	Py_ssize_t at = 0;

	if (meta == Py_None) return true;
	*pairs = calloc((size_t)PyDict_Size(meta) + 1, sizeof(**pairs));
	if (*pairs == NULL) return PyErr_NoMemory() != NULL;
	while (PyDict_Next(meta, &at, &name, &value)) {
		struct granary_pair *pair = &(*pairs)[put->meta_count++];
		pair->name = key_of(name);
		pair->value = pair->name != NULL ? key_of(value) : NULL;
		if (pair->value == NULL) return false;
	}
	put->meta = *pairs;
	return true;
}

static bool put_of(struct putting *p, Py_ssize_t i, PyObject *item)
{
	struct granary_put *put = &p->puts[i];
	PyObject *key, *data, *meta;

	if (!PyArg_ParseTuple(item, "OOIO", &key, &data, &put->flags, &meta)) return false;
	const char *text = key_of(key);
	if (text == NULL || PyObject_GetBuffer(data, &p->data[i], PyBUF_SIMPLE) < 0) return false;
	put->ref = granary_ref_key(text);
	put->data = p->data[i].len > 0 ? p->data[i].buf : NULL;
	put->size = (uint64_t)p->data[i].len;
	return put_meta(put, meta, &p->meta[i]);
}

static PyObject *put_answers(const struct putting *p)
{
	PyObject *list = PyList_New(p->count);

	for (Py_ssize_t i = 0; list != NULL && i < p->count; i++) {
		PyObject *pair = Py_BuildValue("iK", p->puts[i].status, (unsigned long long)p->puts[i].version);
		if (pair == NULL || PyList_SetItem(list, i, pair) < 0) {
			Py_DECREF(list);
			return NULL;
		}
	}
	return list;
}

PyObject *client_put_many(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	struct putting p = { .count = 0 };
	PyObject *list, *answers = NULL;
	struct granary_op *op = NULL;
	double timeout;

	if (owner == NULL || !PyArg_ParseTuple(args, "O!d:_put_many", &PyList_Type, &list, &timeout))
		return NULL;
	p.count = PyList_Size(list);
	p.puts = calloc((size_t)p.count + 1, sizeof(*p.puts));
	p.data = calloc((size_t)p.count + 1, sizeof(*p.data));
	p.meta = calloc((size_t)p.count + 1, sizeof(struct granary_pair *));
	bool good = p.puts != NULL && p.data != NULL && p.meta != NULL;
	if (!good) {
		p.count = 0;
		PyErr_NoMemory();
	}
	for (Py_ssize_t i = 0; good && i < p.count; i++) good = put_of(&p, i, PyList_GetItem(list, i));
	if (good) {
		int err = granary_put_batch_start(owner->client, p.puts, (size_t)p.count,
			GRANARY_CALL(.timeout_ms = timeout_of(timeout)), &op);
		good = op_end(owner, err, op, p.count > 0 ? p.puts[0].ref.name : NULL);
	}
	if (good) answers = put_answers(&p);
	putting_free(&p);
	return answers;
}

/* ---- uploads ---- */

typedef struct {
	PyObject_HEAD struct owner_client *owner;
	struct granary_upload *up;
	char *key;
	bool busy;
} UploadObject;
PyTypeObject *upload_type;

struct upload_job {
	struct job job;
	struct granary_upload *up; /* taken over when the call is given up */
	char *data;                /* NULL: commit */
	size_t len;
	bool owned;
};

static void upload_run(struct job *job)
{
	struct upload_job *u = (struct upload_job *)job;

	job_error(job, u->data != NULL ? granary_upload_write(u->up, u->data, u->len)
				       : granary_upload_commit(u->up, NULL));
}

static void upload_drop(struct job *job)
{
	struct upload_job *u = (struct upload_job *)job;

	if (u->owned) granary_upload_free(&u->up);
	free(u->data);
	free(u);
}

/* One step of an upload; after an interrupt the upload is gone. */
static PyObject *upload_step(UploadObject *self, const Py_buffer *data)
{
	struct upload_job *u;

	if (self->up == NULL || self->busy) return raise_closed("upload");
	u = job_new(sizeof(*u), self->owner, upload_run, upload_drop);
	if (u == NULL) return NULL;
	u->data = data != NULL ? malloc((size_t)data->len + 1) : NULL;
	u->len = data != NULL ? (size_t)data->len : 0;
	if (data != NULL && u->data == NULL) {
		job_drop(&u->job);
		return PyErr_NoMemory();
	}
	if (data != NULL) memcpy(u->data, data->buf, u->len);
	u->up = self->up;
	u->owned = true;
	self->up = NULL;
	if (job_run(&u->job, self->key) < 0) return NULL;
	self->up = u->up;
	u->owned = false;
	int64_t result = u->job.result;
	if (result < 0) raise_job(&u->job, self->key, self->owner);
	job_drop(&u->job);
	return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *upload_write(PyObject *self, PyObject *arg)
{
	Py_buffer data;

	if (PyObject_GetBuffer(arg, &data, PyBUF_SIMPLE) < 0) return NULL;
	PyObject *done = upload_step((UploadObject *)self, &data);
	PyBuffer_Release(&data);
	return done;
}

static PyObject *upload_abort(PyObject *self, PyObject *none)
{
	(void)none;
	granary_upload_free(&((UploadObject *)self)->up);
	Py_RETURN_NONE;
}

static PyObject *upload_commit(PyObject *self, PyObject *none)
{
	PyObject *done = upload_step((UploadObject *)self, NULL);

	(void)none;
	if (done != NULL) granary_upload_free(&((UploadObject *)self)->up);
	return done;
}

static void upload_dealloc(PyObject *self)
{
	UploadObject *u = (UploadObject *)self;

	granary_upload_free(&u->up);
	owner_client_unref(u->owner);
	free(u->key);
	object_free(self);
}

PyObject *client_upload(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	struct granary_put put = { .size = 0 };
	PyObject *key;
	double timeout;

	if (owner == NULL || !PyArg_ParseTuple(args, "OId:_upload", &key, &put.flags, &timeout)) return NULL;
	const char *text = key_of(key);
	if (text == NULL) return NULL;
	UploadObject *u = (UploadObject *)object_alloc(upload_type);
	if (u == NULL) return NULL;
	put.ref = granary_ref_key(text);
	u->owner = owner_client_ref(owner);
	u->key = strdup(text);
	int err = granary_upload_new(
		owner->client, &put, GRANARY_CALL(.timeout_ms = timeout_of(timeout)), &u->up);
	if (err == 0) return (PyObject *)u;
	raise_error(err, granary_last_error(owner->client), text, owner);
	Py_DECREF((PyObject *)u);
	return NULL;
}

static PyMethodDef upload_methods[] = { { "write", upload_write, METH_O, "write(data): appends bytes." },
	{ "commit", upload_commit, METH_NOARGS, "commit(): puts the object under its name, in one step." },
	{ "abort", upload_abort, METH_NOARGS, "abort(): leaves nothing behind." }, { NULL, NULL, 0, NULL } };
static PyType_Slot upload_slots[] = { { Py_tp_dealloc, upload_dealloc }, { Py_tp_methods, upload_methods },
	{ Py_tp_doc, "An object being written whose size need not be known." }, { 0, NULL } };
static PyType_Spec upload_spec = { "granary._native.Upload", sizeof(UploadObject), 0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, upload_slots };

bool upload_init(PyObject *module)
{
	return type_add(module, "Upload", &upload_spec, &upload_type);
}
