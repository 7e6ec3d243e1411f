/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.c -- Snapshot: opening, reading by dense id, names and labels; making and removing snapshots.
 *
 * (1) keys and labels are tables by dense id, made by one walk over all names when first asked for: 8 bytes a file and
 *     the keys themselves, and 4 bytes a sample. They never change afterwards. */
#include "native.h"

#include <stdlib.h>

typedef struct {
	PyObject_HEAD struct owner_snapshot *owner; /* NULL: closed */
	PyObject *client;
	uint64_t samples;
	uint32_t fields;
	char *below; /* NULL, or the directory that labels count from, ended by a slash; files elsewhere have none */
	struct names *keys, *labels; /* NULL: not made yet */
} SnapshotObject;

PyTypeObject *snapshot_type;

/* ---- tables of names ---- */

struct names {
	uint32_t *label_of; /* labels: of each sample; UINT32_MAX: none */
	char **classes;     /* labels: by label */
	uint32_t classes_count, classes_cap;
	uint64_t *at; /* keys: of each file, in texts; UINT64_MAX: none */
	char *texts;
	size_t texts_len, texts_cap;
};

static void names_free(struct names *n)
{
	if (n == NULL) return;
	for (uint32_t i = 0; i < n->classes_count; i++) free(n->classes[i]);
	free(n->classes);
	free(n->label_of);
	free(n->at);
	free(n->texts);
	free(n);
}

struct names_job {
	struct job job;
	struct owner_snapshot *owner;
	struct names *names;
	uint64_t samples;
	uint32_t fields;
	bool labels;
	char *prefix, *below;
};

static int key_note(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct names_job *j = arg;
	struct names *n = j->names;
	size_t len = strlen(key) + 1;

	if (id >= j->samples || field >= j->fields || n->at[id * j->fields + field] != UINT64_MAX) return 0;
	if (n->texts_len + len > n->texts_cap) {
		size_t cap = n->texts_cap * 2 + len + 65536;
		char *more = realloc(n->texts, cap);
		if (more == NULL) return -GRANARY_ENOMEM;
		n->texts = more;
		n->texts_cap = cap;
	}
	memcpy(n->texts + n->texts_len, key, len);
	n->at[id * j->fields + field] = n->texts_len;
	n->texts_len += len;
	return 0;
}

/* The first directory of a key below the prefix, as torchvision's ImageFolder has classes. */
static size_t class_of(const char *key, const char *prefix, const char **begin)
{
	size_t len = strlen(prefix);
	const char *slash;

	if (strncmp(key, prefix, len) != 0) len = 0;
	while (len > 0 && key[len] != '/' && key[len - 1] != '/') len--;
	*begin = key + len + (key[len] == '/');
	slash = strchr(*begin, '/');
	return slash != NULL ? (size_t)(slash - *begin) : 0;
}

static int class_add(struct names *n, const char *begin, size_t len)
{
	if (n->classes_count == n->classes_cap) {
		uint32_t cap = n->classes_cap * 2 + 64;
		char **more = realloc(n->classes, cap * sizeof(*more));
		if (more == NULL) return -GRANARY_ENOMEM;
		n->classes = more;
		n->classes_cap = cap;
	}
	char *name = strndup(begin, len);
	if (name == NULL) return -GRANARY_ENOMEM;
	n->classes[n->classes_count++] = name;
	return 0;
}

/* Keys come in order, so those of a class follow each other. */
static int label_note(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct names_job *j = arg;
	struct names *n = j->names;
	const char *begin, *last = n->classes_count > 0 ? n->classes[n->classes_count - 1] : NULL;

	if (j->below != NULL && strncmp(key, j->below, strlen(j->below)) != 0) return 1; /* past it */
	size_t len = class_of(key, j->below != NULL ? j->below : j->prefix, &begin);

	if (field != 0 || len == 0 || id >= j->samples) return 0;
	if (last == NULL || strlen(last) != len || memcmp(last, begin, len) != 0) {
		int err = class_add(n, begin, len);
		if (err < 0) return err;
	}
	n->label_of[id] = n->classes_count - 1;
	return 0;
}

static int by_text(const void *a, const void *b, void *arg)
{
	char *const *classes = arg;

	return strcmp(classes[*(const uint32_t *)a], classes[*(const uint32_t *)b]);
}

/* "a-b/" comes before "a/" among keys, but "a" before "a-b" among names: labels count sorted names. */
static int labels_sort(struct names *n, uint64_t samples)
{
	uint32_t *order = malloc((n->classes_count + 1) * sizeof(*order)),
		 *place = malloc((n->classes_count + 1) * sizeof(*place));
	char **sorted = malloc((n->classes_count + 1) * sizeof(*sorted));
	bool good = order != NULL && place != NULL && sorted != NULL;

	for (uint32_t i = 0; good && i < n->classes_count; i++) order[i] = i;
	if (good && n->classes_count > 0) qsort_r(order, n->classes_count, sizeof(*order), by_text, n->classes);
	for (uint32_t i = 0; good && i < n->classes_count; i++) {
		place[order[i]] = i;
		sorted[i] = n->classes[order[i]];
	}
	for (uint64_t id = 0; good && id < samples; id++)
		if (n->label_of[id] != UINT32_MAX) n->label_of[id] = place[n->label_of[id]];
	if (good) memcpy(n->classes, sorted, n->classes_count * sizeof(*sorted));
	free(order);
	free(place);
	free(sorted);
	return good ? 0 : -GRANARY_ENOMEM;
}

static void names_run(struct job *job)
{
	struct names_job *j = (struct names_job *)job;
	struct names *n = j->names;

	if (j->labels) {
		n->label_of = malloc((j->samples + 1) * sizeof(*n->label_of));
		if (n->label_of != NULL) memset(n->label_of, 0xff, (j->samples + 1) * sizeof(*n->label_of));
	} else {
		n->at = malloc((j->samples * j->fields + 1) * sizeof(*n->at));
		if (n->at != NULL) memset(n->at, 0xff, (j->samples * j->fields + 1) * sizeof(*n->at));
	}
	if ((j->labels ? (void *)n->label_of : (void *)n->at) == NULL) {
		job->result = -GRANARY_ENOMEM;
		return;
	}
	job_error(job, granary_snapshot_names(j->owner->snapshot, j->labels ? j->below : NULL,
			       j->labels ? label_note : key_note, j));
	if (job->result > 0) job->result = 0;
	if (job->result == 0 && j->labels) job->result = labels_sort(n, j->samples);
}

static void names_drop(struct job *job)
{
	struct names_job *j = (struct names_job *)job;

	names_free(j->names);
	owner_snapshot_unref(j->owner);
	free(j->prefix);
	free(j->below);
	free(j);
}

static struct names *names_make(SnapshotObject *s, bool labels)
{
	struct names_job *j;
	struct granary_snapshot_detail d = GRANARY_INIT(granary_snapshot_detail);
	struct names *names = NULL;

	if (s->owner == NULL) return (struct names *)raise_closed("snapshot");
	j = job_new(sizeof(*j), s->owner->client, names_run, names_drop);
	if (j == NULL) return NULL;
	granary_snapshot_describe(s->owner->snapshot, &d);
	j->owner = owner_snapshot_ref(s->owner);
	j->names = calloc(1, sizeof(*j->names));
	j->prefix = strdup(d.prefix);
	j->below = s->below != NULL ? strdup(s->below) : NULL;
	j->samples = s->samples;
	j->fields = s->fields;
	j->labels = labels;
	if (j->names == NULL || j->prefix == NULL || (s->below != NULL && j->below == NULL)) {
		job_drop(&j->job);
		return (struct names *)PyErr_NoMemory();
	}
	if (job_run(&j->job, labels ? "the labels of a snapshot" : "the names of a snapshot") < 0) return NULL;
	if (j->job.result < 0) {
		raise_job(&j->job, d.name, j->job.client);
	} else {
		names = j->names;
		j->names = NULL;
	}
	job_drop(&j->job);
	return names;
}

/* The table, made when it is not there; another thread may have been quicker. */
static const struct names *names_get(SnapshotObject *s, bool labels)
{
	struct names **place = labels ? &s->labels : &s->keys;
	struct names *made;

	if (*place != NULL) return *place;
	made = names_make(s, labels);
	if (*place != NULL)
		names_free(made);
	else
		*place = made;
	return PyErr_Occurred() ? NULL : *place;
}

/* ---- opening ---- */

struct open_job {
	struct job job;
	char *name, *bucket, *below;
	struct granary_snapshot *snapshot;
};

static void open_run(struct job *job)
{
	struct open_job *o = (struct open_job *)job;

	job_error(job, granary_snapshot_open(job->client->client, o->name, &o->snapshot,
			       GRANARY_CALL(.bucket = o->bucket[0] != '\0' ? o->bucket : NULL)));
}

static void open_drop(struct job *job)
{
	struct open_job *o = (struct open_job *)job;

	granary_snapshot_close(&o->snapshot);
	free(o->name);
	free(o->bucket);
	free(o->below);
	free(o);
}

static PyObject *snapshot_object(PyTypeObject *type, PyObject *client, struct open_job *o)
{
	struct granary_snapshot_detail d = GRANARY_INIT(granary_snapshot_detail);
	struct owner_snapshot *owner = calloc(1, sizeof(*owner));
	SnapshotObject *self = owner != NULL ? (SnapshotObject *)object_alloc(type) : NULL;

	if (self == NULL) {
		free(owner);
		return PyErr_Occurred() ? NULL : PyErr_NoMemory();
	}
	granary_snapshot_describe(o->snapshot, &d);
	owner->snapshot = o->snapshot;
	owner->client = owner_client_ref(o->job.client);
	atomic_init(&owner->refs, 1);
	o->snapshot = NULL;
	self->owner = owner;
	self->client = Py_NewRef(client);
	self->samples = d.samples;
	self->fields = d.fields;
	self->below = o->below;
	o->below = NULL;
	return (PyObject *)self;
}

static PyObject *snapshot_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	PyObject *client, *self = NULL;
	const char *name, *bucket = "", *below = NULL;

	(void)kwargs;
	if (!PyArg_ParseTuple(args, "Os|sz:Snapshot", &client, &name, &bucket, &below)) return NULL;
	struct owner_client *owner = client_of(client);
	struct open_job *o = owner != NULL ? job_new(sizeof(*o), owner, open_run, open_drop) : NULL;
	if (o == NULL) return NULL;
	o->name = strdup(name);
	o->bucket = strdup(bucket);
	o->below = below != NULL ? strdup(below) : NULL;
	if (o->name == NULL || o->bucket == NULL || (below != NULL && o->below == NULL)) {
		job_drop(&o->job);
		return PyErr_NoMemory();
	}
	if (job_run(&o->job, name) < 0) return NULL;
	if (o->job.result < 0)
		raise_job(&o->job, name, o->job.client);
	else
		self = snapshot_object(type, client, o);
	job_drop(&o->job);
	return self;
}

static void snapshot_end(SnapshotObject *s)
{
	struct owner_snapshot *owner = s->owner;

	s->owner = NULL;
	if (owner == NULL) return;
	Py_BEGIN_ALLOW_THREADS owner_snapshot_unref(owner);
	Py_END_ALLOW_THREADS
}

static void snapshot_dealloc(PyObject *self)
{
	SnapshotObject *s = (SnapshotObject *)self;

	snapshot_end(s);
	names_free(s->keys);
	names_free(s->labels);
	free(s->below);
	Py_XDECREF(s->client);
	object_free(self);
}

static PyObject *snapshot_close(PyObject *self, PyObject *none)
{
	(void)none;
	snapshot_end((SnapshotObject *)self);
	Py_RETURN_NONE;
}

static PyObject *snapshot_describe(PyObject *self, PyObject *none)
{
	SnapshotObject *s = (SnapshotObject *)self;
	static const char *const modes[] = { "auto", "exact", "blocks", "none" };
	struct granary_snapshot_detail d = GRANARY_INIT(granary_snapshot_detail);
	char id[33];

	(void)none;
	if (s->owner == NULL) return raise_closed("snapshot");
	granary_snapshot_describe(s->owner->snapshot, &d);
	for (int i = 0; i < 16; i++) snprintf(id + 2 * i, 3, "%02x", d.id[15 - i]);
#define N(field) #field, (unsigned long long)d.field
	return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s,s:s,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "name",
		d.name, "bucket", d.bucket, "prefix", d.prefix, "options", d.options, "mode", modes[d.mode & 3],
		"id", id, N(samples), N(bytes), N(directories), N(incomplete), N(created_ns), N(smallest),
		N(largest), N(block), N(window), N(lanes), N(fields));
#undef N
}

/* ---- reading ---- */

struct read_job {
	struct job job;
	struct owner_snapshot *owner;
	uint64_t *ids, *offsets;
	uint32_t *flags;
	size_t count;
	uint32_t timeout_ms;
	void *data;
};

static void read_run(struct job *job)
{
	struct read_job *r = (struct read_job *)job;

	job_error(job, granary_snapshot_read_batch(r->owner->snapshot, r->ids, r->count, &r->data, r->offsets,
			       GRANARY_CALL(.timeout_ms = r->timeout_ms)));
}

static void read_drop(struct job *job)
{
	struct read_job *r = (struct read_job *)job;

	owner_snapshot_unref(r->owner);
	granary_free(r->data);
	free(r->ids);
	free(r);
}

/* Samples that were read: they keep what the job made. */
struct read_lease {
	struct lease lease;
	void *data, *arrays;
};

static void read_lease_drop(struct lease *lease)
{
	struct read_lease *l = (struct read_lease *)lease;

	granary_free(l->data);
	free(l->arrays);
	free(l);
}

static PyObject *read_batch(struct read_job *r, uint32_t fields)
{
	struct read_lease *l = calloc(1, sizeof(*l));
	struct batch_parts p = { .lease = &l->lease,
		.data = r->data,
		.count = (uint32_t)r->count,
		.fields = fields,
		.offsets = r->offsets,
		.ids = r->ids,
		.flags = r->flags,
		.size = r->offsets[r->count * fields] };

	if (l == NULL) return PyErr_NoMemory();
	l->lease.drop = read_lease_drop;
	l->data = r->data;
	l->arrays = r->ids;
	r->data = r->ids = NULL;
	return batch_new(&p);
}

static struct read_job *read_job_of(SnapshotObject *s, PyObject *list, double timeout)
{
	Py_ssize_t count = PyList_Size(list);
	struct read_job *r = job_new(sizeof(*r), s->owner->client, read_run, read_drop);

	if (r == NULL) return NULL;
	r->owner = owner_snapshot_ref(s->owner);
	r->timeout_ms = timeout_of(timeout);
	r->count = (size_t)count;
	r->ids = calloc(r->count * (s->fields + 2) + 2, sizeof(uint64_t));
	r->offsets = r->ids + r->count;
	r->flags = (uint32_t *)(r->offsets + r->count * s->fields + 1);
	if (r->ids == NULL) PyErr_NoMemory();
	for (Py_ssize_t i = 0; r->ids != NULL && i < count && !PyErr_Occurred(); i++) {
		Py_ssize_t id = PyNumber_AsSsize_t(PyList_GetItem(list, i), PyExc_IndexError);
		if (id < 0 && !PyErr_Occurred()) id += (Py_ssize_t)s->samples;
		r->ids[i] = (uint64_t)id;
		if (!PyErr_Occurred() && (id < 0 || (uint64_t)id >= s->samples))
			PyErr_Format(PyExc_IndexError, "sample %S: the snapshot has %llu, numbered from 0",
				PyList_GetItem(list, i), (unsigned long long)s->samples);
	}
	if (!PyErr_Occurred()) return r;
	job_drop(&r->job);
	return NULL;
}

static PyObject *snapshot_read(PyObject *self, PyObject *args)
{
	SnapshotObject *s = (SnapshotObject *)self;
	PyObject *list, *batch = NULL;
	double timeout = -1;

	if (!PyArg_ParseTuple(args, "O!|d:_read", &PyList_Type, &list, &timeout)) return NULL;
	if (s->owner == NULL || client_of(s->client) == NULL)
		return s->owner == NULL ? raise_closed("snapshot") : NULL;
	struct read_job *r = read_job_of(s, list, timeout);
	if (r == NULL || job_run(&r->job, "samples of a snapshot") < 0) return NULL;
	if (r->job.result < 0)
		raise_job(&r->job, NULL, r->job.client);
	else
		batch = read_batch(r, s->fields);
	job_drop(&r->job);
	return batch;
}

/* ---- names ---- */

static PyObject *text_of(const char *text)
{
	return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "surrogateescape");
}

/* Number `i` of any sequence of dense ids. */
static bool id_at(const SnapshotObject *s, PyObject *ids, Py_ssize_t i, uint64_t *id)
{
	PyObject *item = PySequence_GetItem(ids, i);
	Py_ssize_t value = item != NULL ? PyNumber_AsSsize_t(item, PyExc_IndexError) : -1;

	Py_XDECREF(item);
	if (!PyErr_Occurred() && (value < 0 || (uint64_t)value >= s->samples))
		PyErr_Format(PyExc_IndexError, "sample %zd: the snapshot has %llu, numbered from 0", value,
			(unsigned long long)s->samples);
	*id = (uint64_t)value;
	return !PyErr_Occurred();
}

/* The dense ids of any sequence of numbers, each turned into an object by `make`. */
static PyObject *map_ids(SnapshotObject *s, PyObject *ids, const struct names *n,
	PyObject *(*make)(const SnapshotObject *, const struct names *, uint64_t))
{
	Py_ssize_t count = PySequence_Size(ids);
	PyObject *list = count >= 0 ? PyList_New(count) : NULL;
	uint64_t id;

	for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
		PyObject *value = id_at(s, ids, i, &id) ? make(s, n, id) : NULL;
		if (value == NULL || PyList_SetItem(list, i, value) < 0) Py_CLEAR(list);
	}
	return list;
}

static PyObject *file_key(const SnapshotObject *s, const struct names *n, uint64_t id, uint32_t field)
{
	uint64_t at = n->at[id * s->fields + field];

	return at == UINT64_MAX ? Py_NewRef(Py_None) : text_of(n->texts + at);
}

static PyObject *key_make(const SnapshotObject *s, const struct names *n, uint64_t id)
{
	return file_key(s, n, id, 0);
}

static PyObject *keys_make(const SnapshotObject *s, const struct names *n, uint64_t id)
{
	PyObject *list = PyList_New(s->fields);

	for (uint32_t f = 0; list != NULL && f < s->fields; f++) {
		PyObject *key = file_key(s, n, id, f);
		if (key == NULL || PyList_SetItem(list, f, key) < 0) Py_CLEAR(list);
	}
	return list;
}

/* One label after the other, as int64: an object each would be a lot for a snapshot of many samples. */
static bool labels_fill(const SnapshotObject *s, const struct names *n, PyObject *ids, int64_t *to, Py_ssize_t count)
{
	for (Py_ssize_t i = 0; i < count; i++) {
		uint64_t id = (uint64_t)i;
		if (ids != Py_None && !id_at(s, ids, i, &id)) return false;
		to[i] = n->label_of[id] == UINT32_MAX ? -1 : (int64_t)n->label_of[id];
	}
	return true;
}

static PyObject *snapshot_labels(PyObject *self, PyObject *ids)
{
	SnapshotObject *s = (SnapshotObject *)self;
	const struct names *n = names_get(s, true);
	Py_ssize_t count = n == NULL ? -1 : ids == Py_None ? (Py_ssize_t)s->samples : PySequence_Size(ids);
	PyObject *bytes = count >= 0 ? PyByteArray_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(int64_t)) : NULL;

	if (bytes == NULL) return NULL;
	PyObject *array = array_new(bytes, PyByteArray_AsString(bytes), count, sizeof(int64_t), 'q');
	if (array != NULL && !labels_fill(s, n, ids, (int64_t *)(void *)PyByteArray_AsString(bytes), count))
		Py_CLEAR(array);
	Py_DECREF(bytes);
	return array;
}

static PyObject *snapshot_keys(PyObject *self, PyObject *ids)
{
	const struct names *n = names_get((SnapshotObject *)self, false);

	return n != NULL ? map_ids((SnapshotObject *)self, ids, n, key_make) : NULL;
}

static PyObject *snapshot_file_keys(PyObject *self, PyObject *ids)
{
	const struct names *n = names_get((SnapshotObject *)self, false);

	return n != NULL ? map_ids((SnapshotObject *)self, ids, n, keys_make) : NULL;
}

static PyObject *snapshot_classes(PyObject *self, PyObject *none)
{
	const struct names *n = names_get((SnapshotObject *)self, true);
	PyObject *list = n != NULL ? PyList_New(n->classes_count) : NULL;

	(void)none;
	for (uint32_t i = 0; list != NULL && i < n->classes_count; i++) {
		PyObject *name = text_of(n->classes[i]);
		if (name == NULL || PyList_SetItem(list, i, name) < 0) Py_CLEAR(list);
	}
	return list;
}

/* ---- finding ---- */

struct find_job {
	struct job job;
	struct owner_snapshot *owner;
	char *key;
	uint64_t id;
	uint32_t field;
};

static void find_run(struct job *job)
{
	struct find_job *f = (struct find_job *)job;

	job_error(job, granary_snapshot_find(f->owner->snapshot, f->key, &f->id, &f->field));
}

static void find_drop(struct job *job)
{
	struct find_job *f = (struct find_job *)job;

	owner_snapshot_unref(f->owner);
	free(f->key);
	free(f);
}

static PyObject *snapshot_find(PyObject *self, PyObject *args)
{
	SnapshotObject *s = (SnapshotObject *)self;
	PyObject *found = NULL;
	const char *key;

	if (!PyArg_ParseTuple(args, "s:find", &key)) return NULL;
	if (s->owner == NULL) return raise_closed("snapshot");
	struct find_job *f = job_new(sizeof(*f), s->owner->client, find_run, find_drop);
	if (f == NULL) return NULL;
	f->owner = owner_snapshot_ref(s->owner);
	f->key = strdup(key);
	if (f->key == NULL) {
		job_drop(&f->job);
		return PyErr_NoMemory();
	}
	if (job_run(&f->job, key) < 0) return NULL;
	if (f->job.result < 0)
		raise_job(&f->job, key, f->job.client);
	else
		found = Py_BuildValue("KI", (unsigned long long)f->id, f->field);
	job_drop(&f->job);
	return found;
}

static Py_ssize_t snapshot_length(PyObject *self)
{
	return (Py_ssize_t)((SnapshotObject *)self)->samples;
}

static PyMethodDef snapshot_methods[] = { { "close", snapshot_close, METH_NOARGS,
						  "close(): batches read from it stay as they are." },
	{ "describe", snapshot_describe, METH_NOARGS, "describe() -> dict of what its manifest says." },
	{ "_read", snapshot_read, METH_VARARGS, "_read(ids, timeout) -> Batch" },
	{ "_labels", snapshot_labels, METH_O, "_labels(ids) -> Array of int64, -1 without a class; None: all of them" },
	{ "_keys", snapshot_keys, METH_O, "_keys(ids) -> list of str, the first file of each sample" },
	{ "_file_keys", snapshot_file_keys, METH_O,
		"_file_keys(ids) -> list of lists of str, a file each, None where unknown" },
	{ "_classes", snapshot_classes, METH_NOARGS, "_classes() -> sorted list of str" },
	{ "find", snapshot_find, METH_VARARGS,
		"find(key) -> (dense id, field); KeyError when it is not in the snapshot." },
	{ NULL, NULL, 0, NULL } };
static PyType_Slot snapshot_slots[] = { { Py_tp_new, snapshot_new }, { Py_tp_dealloc, snapshot_dealloc },
	{ Py_tp_methods, snapshot_methods }, { Py_sq_length, snapshot_length }, { 0, NULL } };
static PyType_Spec snapshot_spec = { "granary._native.Snapshot", sizeof(SnapshotObject), 0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, snapshot_slots };

bool snapshot_init(PyObject *module)
{
	return type_add(module, "Snapshot", &snapshot_spec, &snapshot_type);
}
