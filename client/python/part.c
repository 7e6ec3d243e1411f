/* SPDX-License-Identifier: Apache-2.0 */
/* part.c -- Part: which samples of a snapshot lie below a directory, numbered anew from 0 in the order of the snapshot.
 * It is the recipe that SNAPSHOT/PREFIX names (docs/ORDER.md 8.5), opened once; then nothing here waits. */
#include "native.h"

typedef struct {
	PyObject_HEAD struct owner_client *client;
	struct granary_recipe *recipe; /* the interpreter is held where it is used */
	uint64_t samples;
} PartObject;

static PyTypeObject *part_type;

struct part_job {
	struct job job;
	char *name, *bucket;
	struct granary_recipe *recipe;
};

static void part_run(struct job *job)
{
	struct part_job *p = (struct part_job *)job;

	job_error(job, granary_recipe_open(job->client->client, p->name, &p->recipe,
			       GRANARY_CALL(.bucket = p->bucket[0] != '\0' ? p->bucket : NULL)));
}

static void part_drop(struct job *job)
{
	struct part_job *p = (struct part_job *)job;

	granary_recipe_close(&p->recipe);
	free(p->name);
	free(p->bucket);
	free(p);
}

static PyObject *part_object(PyTypeObject *type, struct part_job *p)
{
	struct granary_recipe_source source = GRANARY_INIT(granary_recipe_source);
	PartObject *self = (PartObject *)object_alloc(type);

	if (self == NULL) return NULL;
	if (granary_recipe_source(p->recipe, 0, &source) == 0) self->samples = source.samples;
	self->client = owner_client_ref(p->job.client);
	self->recipe = p->recipe;
	p->recipe = NULL;
	return (PyObject *)self;
}

static PyObject *part_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	PyObject *client, *self = NULL;
	const char *name, *bucket;

	(void)kwargs;
	if (!PyArg_ParseTuple(args, "Oss:Part", &client, &name, &bucket)) return NULL;
	struct owner_client *owner = client_of(client);
	struct part_job *p = owner != NULL ? job_new(sizeof(*p), owner, part_run, part_drop) : NULL;
	if (p == NULL) return NULL;
	p->name = strdup(name);
	p->bucket = strdup(bucket);
	if (p->name == NULL || p->bucket == NULL) {
		job_drop(&p->job);
		return PyErr_NoMemory();
	}
	if (job_run(&p->job, name) < 0) return NULL;
	if (p->job.result < 0)
		raise_job(&p->job, name, owner);
	else
		self = part_object(type, p);
	job_drop(&p->job);
	return self;
}

static void part_dealloc(PyObject *self)
{
	PartObject *p = (PartObject *)self;
	struct granary_recipe *recipe = p->recipe;
	struct owner_client *client = p->client;

	Py_BEGIN_ALLOW_THREADS granary_recipe_close(&recipe);
	owner_client_unref(client);
	Py_END_ALLOW_THREADS object_free(self);
}

/* Dense ids of the snapshot of `count` samples of the part from `first` on. */
static bool part_fill(const PartObject *p, uint64_t first, uint32_t count, uint64_t *ids, uint32_t *sources)
{
	struct granary_recipe_positions at = GRANARY_INIT(granary_recipe_positions);

	at.first = first;
	at.step = 1;
	at.count = count;
	at.mode = GRANARY_MODE_NONE;
	at.ids = ids;
	at.sources = sources;
	int err = granary_recipe_at(p->recipe, &at);
	return err == 0 || raise_error(err, granary_last_error(p->client->client), NULL, p->client) != NULL;
}

/* Those with these numbers, one after the other; negative ones count from the end. */
static bool part_pick(const PartObject *p, PyObject *numbers, Py_ssize_t count, uint64_t *ids)
{
	uint32_t source;

	for (Py_ssize_t i = 0; i < count; i++) {
		PyObject *item = PySequence_GetItem(numbers, i);
		Py_ssize_t number = item != NULL ? PyNumber_AsSsize_t(item, PyExc_IndexError) : -1;
		Py_XDECREF(item);
		if (PyErr_Occurred()) return false;
		if (number < -(Py_ssize_t)p->samples || number >= (Py_ssize_t)p->samples) {
			PyErr_Format(PyExc_IndexError, "sample %zd: there are %llu, numbered from 0", number,
				(unsigned long long)p->samples);
			return false;
		}
		if (!part_fill(p, (uint64_t)(number < 0 ? number + (Py_ssize_t)p->samples : number), 1, &ids[i],
			    &source))
			return false;
	}
	return true;
}

static bool part_all(const PartObject *p, uint64_t *ids)
{
	enum { STEP = 4096 };
	uint32_t sources[STEP];

	for (uint64_t at = 0; at < p->samples; at += STEP) {
		uint64_t left = p->samples - at;
		if (!part_fill(p, at, left < STEP ? (uint32_t)left : STEP, ids + at, sources)) return false;
	}
	return true;
}

static PyObject *part_ids(PyObject *self, PyObject *numbers)
{
	const PartObject *p = (const PartObject *)self;
	Py_ssize_t count = numbers == Py_None ? (Py_ssize_t)p->samples : PySequence_Size(numbers);
	PyObject *bytes = count >= 0 ? PyByteArray_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(uint64_t)) : NULL;

	if (bytes == NULL) return NULL;
	uint64_t *ids = (uint64_t *)(void *)PyByteArray_AsString(bytes);
	bool good = numbers == Py_None ? part_all(p, ids) : part_pick(p, numbers, count, ids);
	PyObject *array = good ? array_new(bytes, ids, count, sizeof(*ids), 'q') : NULL;
	Py_DECREF(bytes);
	return array;
}

static Py_ssize_t part_length(PyObject *self)
{
	return (Py_ssize_t)((PartObject *)self)->samples;
}

static PyMethodDef part_methods[] = { { "ids", part_ids, METH_O,
					      "ids(numbers) -> Array of int64: dense ids of the snapshot; None: all" },
	{ NULL, NULL, 0, NULL } };
static PyType_Slot part_slots[] = { { Py_tp_new, part_new }, { Py_tp_dealloc, part_dealloc },
	{ Py_tp_methods, part_methods }, { Py_sq_length, part_length },
	{ Py_tp_doc, "The samples of a snapshot below a directory; granary.MapDataset makes them." }, { 0, NULL } };
static PyType_Spec part_spec = { "granary._native.Part", sizeof(PartObject), 0, Py_TPFLAGS_DEFAULT, part_slots };

bool part_init(PyObject *module)
{
	return type_add(module, "Part", &part_spec, &part_type);
}
