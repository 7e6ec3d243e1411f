/* SPDX-License-Identifier: Apache-2.0 */
/* epoch.c -- Epoch: one rank's part of one epoch, batch after batch. */
#include "native.h"

typedef struct {
	PyObject_HEAD struct owner_epoch *owner; /* NULL: closed */
	PyObject *client;
	bool busy, ended;
} EpochObject;

PyTypeObject *epoch_type;

/* ---- opening ---- */

struct open_job {
	struct job job;
	struct granary_epoch_options options;
	char *snapshot, *name;
	struct granary_token token;
	struct granary_epoch *epoch;
};

static void open_run(struct job *job)
{
	struct open_job *o = (struct open_job *)job;

	job_error(job, granary_epoch_open(job->client->client, &o->options, &o->epoch));
}

static void open_drop(struct job *job)
{
	struct open_job *o = (struct open_job *)job;

	granary_epoch_close(&o->epoch);
	free(o->snapshot);
	free(o->name);
	free(o);
}

static bool open_texts(struct open_job *o, const char *snapshot, const char *job, const char *token,
	struct owner_client *client)
{
	struct granary_epoch_options *e = &o->options;

	o->snapshot = strdup(snapshot);
	o->name = job != NULL ? strdup(job) : NULL;
	if (o->snapshot == NULL || (job != NULL && o->name == NULL)) {
		PyErr_NoMemory();
		return false;
	}
	e->snapshot = o->snapshot;
	e->job = o->name;
	if (token == NULL) return true;
	int err = granary_token_parse(token, &o->token);
	if (err < 0) return raise_error(err, granary_last_error(NULL), NULL, client) != NULL;
	e->token = &o->token;
	return true;
}

static struct open_job *open_job_of(struct owner_client *client, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "client", "snapshot", "seed", "epoch", "mode", "rank", "world", "batch",
		"last", "on_error", "max_errors", "stall_timeout_ms", "read_ahead", "weight", "memory", "job",
		"token", "first", "step", "files", "shared", NULL };
	struct open_job *o = job_new(sizeof(*o), client, open_run, open_drop);
	const char *snapshot, *job = NULL, *token = NULL;
	unsigned long long seed = 0, epoch = 0, memory = 0, files = 0;
	PyObject *ignored;
	int shared = 0;

	if (o == NULL) return NULL;
	struct granary_epoch_options *e = &o->options;
	*e = (struct granary_epoch_options)GRANARY_INIT(granary_epoch_options);
	e->world = e->batch = 1;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Os|$KKIIIIIIIIIIKzzIIKp:Epoch", names, &ignored,
		    &snapshot, &seed, &epoch, &e->mode, &e->rank, &e->world, &e->batch, &e->last, &e->on_error,
		    &e->max_errors, &e->stall_timeout_ms, &e->read_ahead, &e->weight, &memory, &job, &token,
		    &e->first, &e->step, &files, &shared) ||
		!open_texts(o, snapshot, job, token, client)) {
		job_drop(&o->job);
		return NULL;
	}
	e->seed = seed;
	e->epoch = epoch;
	e->memory = memory;
	e->files = files;
	e->batches = shared ? &pool_memory : NULL;
	return o;
}

static PyObject *epoch_object(PyTypeObject *type, PyObject *client, struct open_job *o)
{
	struct owner_epoch *owner = calloc(1, sizeof(*owner));
	EpochObject *self = owner != NULL ? (EpochObject *)object_alloc(type) : NULL;

	if (self == NULL) {
		free(owner);
		return PyErr_Occurred() ? NULL : PyErr_NoMemory();
	}
	owner->epoch = o->epoch;
	owner->client = owner_client_ref(o->job.client);
	atomic_init(&owner->refs, 1);
	o->epoch = NULL;
	self->owner = owner;
	self->client = Py_NewRef(client);
	return (PyObject *)self;
}

static PyObject *epoch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	PyObject *client = PyTuple_Size(args) > 0 ? PyTuple_GetItem(args, 0) : NULL, *self = NULL;
	struct owner_client *owner = client_of(client);

	if (owner == NULL) return NULL;
	struct open_job *o = open_job_of(owner, args, kwargs);
	if (o == NULL || job_run(&o->job, o->snapshot) < 0) return NULL;
	if (o->job.result < 0)
		raise_job(&o->job, o->snapshot, owner);
	else
		self = epoch_object(type, client, o);
	job_drop(&o->job);
	return self;
}

static void epoch_end(EpochObject *e)
{
	struct owner_epoch *owner = e->owner;

	e->owner = NULL;
	if (owner == NULL) return;
	Py_BEGIN_ALLOW_THREADS owner_epoch_unref(owner);
	Py_END_ALLOW_THREADS
}

static void epoch_dealloc(PyObject *self)
{

	epoch_end((EpochObject *)self);
	Py_XDECREF(((EpochObject *)self)->client);
	object_free(self);
}

/* ---- batches ---- */

struct epoch_lease {
	struct lease lease;
	struct owner_epoch *owner;
	const struct granary_epoch_batch *batch;
};

static void epoch_lease_drop(struct lease *lease)
{
	struct epoch_lease *l = (struct epoch_lease *)lease;

	granary_epoch_release(l->owner->epoch, &l->batch);
	Py_BEGIN_ALLOW_THREADS owner_epoch_unref(l->owner);
	Py_END_ALLOW_THREADS free(l);
}

/* The library's arrays are leased memory that nobody else looks at while the lease lasts. */
static void *writable(const void *p)
{
	union {
		const void *c;
		void *p;
	} u = { p };

	return u.p;
}

static PyObject *epoch_take(struct owner_epoch *owner)
{
	struct epoch_lease *l = calloc(1, sizeof(*l));
	const struct granary_epoch_batch *b = NULL;
	struct batch_parts p = { .lease = &l->lease };

	if (l == NULL) return PyErr_NoMemory();
	int more = granary_epoch_next(owner->epoch, &b);
	if (more <= 0) {
		free(l);
		if (more == 0) Py_RETURN_NONE;
		return raise_error(more, granary_last_error(owner->client->client), NULL, owner->client);
	}
	l->lease.drop = epoch_lease_drop;
	l->owner = owner_epoch_ref(owner);
	l->batch = b;
	if (granary_epoch_token(owner->epoch, &p.token) < 0) p.token.len = 0;
	p.data = writable(b->data);
	p.size = b->data_size;
	p.count = b->count;
	p.fields = b->fields;
	p.offsets = b->offsets;
	p.sizes = b->sizes;
	p.ids = writable(b->ids);
	p.flags = writable(b->flags);
	p.position = b->position;
	p.number = b->number;
	return batch_new(&p);
}

/* Until a batch is there, the epoch has ended or failed: then granary_epoch_next() does not block. */
static bool epoch_wait(struct owner_epoch *owner)
{
	struct granary_epoch_info info = GRANARY_INIT(granary_epoch_info);
	struct granary_op *op;
	char what[400];
	int err = granary_epoch_ready_start(owner->epoch, NULL, &op);

	if (err < 0)
		return raise_error(err, granary_last_error(owner->client->client), NULL, owner->client) != NULL;
	if (!granary_op_done(op)) granary_epoch_info(owner->epoch, &info);
	snprintf(what, sizeof(what), "batch %llu of %s@%s", (unsigned long long)info.delivered,
		info.bucket ? info.bucket : "", info.snapshot ? info.snapshot : "");
	int64_t result = op_wait(op, owner->client, what);
	granary_op_free(&op);
	return result != INTERRUPTED;
}

static PyObject *epoch_next(PyObject *self, PyObject *none)
{
	EpochObject *e = (EpochObject *)self;
	PyObject *batch = NULL;

	(void)none;
	if (e->owner == NULL || client_of(e->client) == NULL)
		return e->owner == NULL ? raise_closed("stream") : NULL;
	if (e->busy) {
		PyErr_SetString(PyExc_RuntimeError,
			"another thread takes a batch from this stream: one thread at a time");
		return NULL;
	}
	struct owner_epoch *owner = owner_epoch_ref(e->owner); /* another thread may close it meanwhile */
	e->busy = true;
	if (epoch_wait(owner)) batch = epoch_take(owner);
	e->busy = false;
	owner_epoch_unref(owner);
	return batch;
}

static PyObject *epoch_close(PyObject *self, PyObject *none)
{
	(void)none;
	epoch_end((EpochObject *)self);
	Py_RETURN_NONE;
}

static PyObject *epoch_token(PyObject *self, PyObject *none)
{
	EpochObject *e = (EpochObject *)self;
	char text[GRANARY_TOKEN_TEXT_LEN + 1];
	struct granary_token token;

	(void)none;
	if (e->owner == NULL) return raise_closed("stream");
	int err = granary_epoch_token(e->owner->epoch, &token);
	if (err == 0) err = granary_token_text(&token, text);
	if (err < 0) return raise_error(err, NULL, NULL, e->owner->client);
	return PyUnicode_FromString(text);
}

static PyObject *epoch_info(PyObject *self, PyObject *none)
{
	static const char *const modes[] = { "auto", "exact", "blocks", "none" };
	EpochObject *e = (EpochObject *)self;
	struct granary_epoch_info i = GRANARY_INIT(granary_epoch_info);

	(void)none;
	if (e->owner == NULL) return raise_closed("stream");
	granary_epoch_info(e->owner->epoch, &i);
#define N(field) #field, (unsigned long long)i.field
	return Py_BuildValue("{s:s,s:s,s:s,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}",
		"bucket", i.bucket, "snapshot", i.snapshot, "mode", modes[i.mode & 3], N(samples), N(batches),
		N(delivered), N(position), N(samples_read), N(bytes_read), N(waited_ns), N(skipped), N(seed),
		N(epoch), N(memory), N(memory_used), N(rank), N(world), N(batch), N(bytes_fetched));
#undef N
}

static PyMethodDef epoch_methods[] = {
	{ "next", epoch_next, METH_NOARGS,
		"next() -> Batch, or None at the end. Blocks; one thread at a time." },
	{ "close", epoch_close, METH_NOARGS, "close(): no more batches; those taken stay as they are." },
	{ "token", epoch_token, METH_NOARGS,
		"token() -> text: where to go on after the batches handed out so far." },
	{ "info", epoch_info, METH_NOARGS, "info() -> dict of what the epoch is and how far it got." },
	{ NULL, NULL, 0, NULL }
};
static PyType_Slot epoch_slots[] = { { Py_tp_new, epoch_new }, { Py_tp_dealloc, epoch_dealloc },
	{ Py_tp_methods, epoch_methods },
	{ Py_tp_doc, "One rank's part of one epoch; granary.IterableDataset makes them." }, { 0, NULL } };
static PyType_Spec epoch_spec = { "granary._native.Epoch", sizeof(EpochObject), 0, Py_TPFLAGS_DEFAULT,
	epoch_slots };

bool epoch_init(PyObject *module)
{
	return type_add(module, "Epoch", &epoch_spec, &epoch_type);
}
