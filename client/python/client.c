/* SPDX-License-Identifier: Apache-2.0 */
/* client.c -- Client: opening, closing, counters. Its calls are in client_data.c and client_names.c. */
#include "native.h"

#include "client_calls.h"

PyTypeObject *client_type;

struct owner_client *client_of(PyObject *client)
{
	if (client == NULL || !PyObject_TypeCheck(client, client_type)) {
		PyErr_SetString(PyExc_TypeError, "this takes a granary.Client: granary.connect(url) makes one");
		return NULL;
	}
	ClientObject *c = (ClientObject *)client;
	if (c->closed) {
		raise_closed("client");
		return NULL;
	}
	return c->owner;
}

uint32_t timeout_of(double seconds)
{
	return seconds < 0       ? 0
	       : seconds >= 4e6  ? GRANARY_FOREVER
	       : seconds < 0.001 ? 1
				 : (uint32_t)(seconds * 1000);
}

/* "host:port,host:port/bucket" of what the client was told; the library checks it. */
static char *endpoint_of(const char *url, struct granary_client *client)
{
	const char *at = url != NULL ? url : getenv("GRANARY_URL");
	char text[600];

	snprintf(text, sizeof(text), "%s", at != NULL ? at : "granary://(of the credentials file)");
	char *path = strncmp(text, "granary://", 10) == 0 ? strchr(text + 10, '/') : NULL;
	if (path != NULL) *path = '\0';
	size_t len = strlen(text);
	if (granary_bucket(client)[0] != '\0')
		snprintf(text + len, sizeof(text) - len, "/%s", granary_bucket(client));
	return strdup(text);
}

static PyObject *client_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "url", "credentials", "access_key", "secret", "name", "memory", "timeout",
		"connect_timeout", "connections", NULL };
	struct granary_options o = GRANARY_INIT(granary_options);
	unsigned long long memory = 0;
	double timeout = -1, connect_timeout = -1;
	struct granary_client *client;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|zzzzzKddI:Client", names, &o.url, &o.credentials,
		    &o.access_key, &o.secret, &o.name, &memory, &timeout, &connect_timeout, &o.connections))
		return NULL;
	o.memory_max = memory;
	o.timeout_ms = timeout_of(timeout);
	o.connect_timeout_ms = timeout_of(connect_timeout);
	int err = granary_open(&o, &client);
	if (err < 0) return raise_error(err, granary_last_error(NULL), NULL, NULL);
	struct owner_client *owner = calloc(1, sizeof(*owner));
	char *endpoint = endpoint_of(o.url, client);
	ClientObject *self = (ClientObject *)object_alloc(type);
	if (owner == NULL || endpoint == NULL || self == NULL) {
		granary_close(&client);
		free(owner);
		free(endpoint);
		Py_XDECREF((PyObject *)self);
		return PyErr_NoMemory();
	}
	owner->client = client;
	owner->endpoint = endpoint;
	atomic_init(&owner->refs, 1);
	self->owner = owner;
	return (PyObject *)self;
}

static void client_end(ClientObject *c)
{
	struct owner_client *owner = c->owner;

	if (c->closed || owner == NULL) return;
	c->closed = true;
	c->owner = NULL;
	Py_BEGIN_ALLOW_THREADS owner_client_unref(owner);
	Py_END_ALLOW_THREADS
}

static void client_dealloc(PyObject *self)
{

	client_end((ClientObject *)self);
	object_free(self);
}

static PyObject *client_close(PyObject *self, PyObject *none)
{
	(void)none;
	client_end((ClientObject *)self);
	Py_RETURN_NONE;
}

static PyObject *client_info(PyObject *self, PyObject *none)
{
	struct granary_info i = GRANARY_INIT(granary_info);
	struct owner_client *owner = client_of(self);

	(void)none;
	if (owner == NULL) return NULL;
	granary_client_info(owner->client, &i);
#define N(field) #field, (unsigned long long)i.field
	return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "endpoint",
		owner->endpoint, "bucket", granary_bucket(owner->client), "host", i.host, "server_version",
		i.server_version, "engine", i.engine, N(session_id), N(boot_id), N(store_time_ns), N(requests),
		N(retries), N(reconnects), N(bytes_received), N(bytes_sent), N(crc_errors), N(memory_used),
		N(memory_max), N(local_reads), N(local_bytes));
#undef N
}

static PyObject *client_ping(PyObject *self, PyObject *none)
{
	struct owner_client *owner = client_of(self);
	struct granary_op *op;

	(void)none;
	if (owner == NULL) return NULL;
	int err = granary_ping_start(owner->client, NULL, &op);
	return op_end(owner, err, op, "the server") ? Py_NewRef(Py_None) : NULL;
}

struct status_job {
	struct job job;
	char *text;
};

static void status_run(struct job *job)
{
	struct status_job *s = (struct status_job *)job;

	job_error(job, granary_status(job->client->client, &s->text, NULL));
}

static void status_drop(struct job *job)
{
	struct status_job *s = (struct status_job *)job;

	granary_free(s->text);
	free(s);
}

static PyObject *client_status(PyObject *self, PyObject *none)
{
	struct owner_client *owner = client_of(self);
	struct status_job *s = owner != NULL ? job_new(sizeof(*s), owner, status_run, status_drop) : NULL;
	PyObject *text = NULL;

	(void)none;
	if (s == NULL || job_run(&s->job, "the state of the server") < 0) return NULL;
	if (s->job.result < 0)
		raise_job(&s->job, NULL, owner);
	else
		text = key_text(s->text);
	job_drop(&s->job);
	return text;
}

static PyObject *get_closed(PyObject *self, void *none)
{
	(void)none;
	return PyBool_FromLong(((ClientObject *)self)->closed);
}

bool op_end(struct owner_client *owner, int err, struct granary_op *op, const char *key)
{
	if (err < 0) {
		raise_error(err, granary_last_error(owner->client), key, owner);
		return false;
	}
	owner_client_ref(owner);
	int64_t result = op_wait(op, owner, key);
	if (result < 0) raise_op(result, op, key, owner);
	granary_op_free(&op);
	owner_client_unref(owner);
	return result >= 0;
}

static PyMethodDef client_methods[] = { { "close", client_close, METH_NOARGS,
						"close(): ends the client; calls after it raise ValueError. "
						"Batches taken from it stay as they are." },
	{ "info", client_info, METH_NOARGS,
		"info() -> dict: the server, and counters since the client was made." },
	{ "ping", client_ping, METH_NOARGS, "ping(): connects, logs in, goes one round trip." },
	{ "_status", client_status, METH_NOARGS, "_status() -> text: lines `name value`." },
	CLIENT_DATA_METHODS, CLIENT_NAMES_METHODS, { NULL, NULL, 0, NULL } };
static PyGetSetDef client_getset[] = { { "closed", get_closed, NULL, "Whether close() was called.", NULL },
	{ NULL, NULL, NULL, NULL, NULL } };
static PyType_Slot client_slots[] = { { Py_tp_new, client_new }, { Py_tp_dealloc, client_dealloc },
	{ Py_tp_methods, client_methods }, { Py_tp_getset, client_getset }, { 0, NULL } };
static PyType_Spec client_spec = { "granary._native.Client", sizeof(ClientObject), 0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, client_slots };

bool client_init(PyObject *module)
{
	return type_add(module, "Client", &client_spec, &client_type);
}
