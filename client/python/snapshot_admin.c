/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_admin.c -- making, listing and removing snapshots. */
#include "client_calls.h"

struct admin_job {
	struct job job;
	char *bucket, *name, *texts[6];
	struct granary_snapshot_spec spec;
	struct granary_snapshot_info *info;
	struct granary_snapshot_page *page;
	uint32_t flags, timeout_ms;
};
enum { TEXT_PREFIX, TEXT_GROUP, TEXT_SPLIT, TEXT_INCLUDE, TEXT_EXCLUDE, TEXT_NOTE };

static void admin_drop(struct job *job)
{
	struct admin_job *a = (struct admin_job *)job;

	granary_free(a->info);
	granary_free(a->page);
	for (int i = 0; i < 6; i++) free(a->texts[i]);
	free(a->bucket);
	free(a->name);
	free(a);
}

static const char *bucket_of(const struct admin_job *a)
{
	return a->bucket[0] != '\0' ? a->bucket : NULL;
}

static void create_run(struct job *job)
{
	struct admin_job *a = (struct admin_job *)job;

	job_error(job, granary_snapshot_create(job->client->client, a->name, &a->spec, &a->info,
			       GRANARY_CALL(.bucket = bucket_of(a), .timeout_ms = a->timeout_ms)));
}

static void list_run(struct job *job)
{
	struct admin_job *a = (struct admin_job *)job;

	job_error(job, granary_snapshot_list(job->client->client, a->name[0] != '\0' ? a->name : NULL, &a->page,
			       GRANARY_CALL(.bucket = bucket_of(a))));
}

static void remove_run(struct job *job)
{
	struct admin_job *a = (struct admin_job *)job;

	job_error(job, granary_snapshot_remove(
			       job->client->client, a->name, a->flags, GRANARY_CALL(.bucket = bucket_of(a))));
}

static struct admin_job *admin_new(
	struct owner_client *owner, const char *bucket, const char *name, void (*run)(struct job *))
{
	struct admin_job *a = owner != NULL ? job_new(sizeof(*a), owner, run, admin_drop) : NULL;

	if (a == NULL) return NULL;
	a->bucket = strdup(bucket);
	a->name = strdup(name);
	if (a->bucket != NULL && a->name != NULL) return a;
	job_drop(&a->job);
	return (struct admin_job *)PyErr_NoMemory();
}

/* Runs it; false with an exception set, the job gone. */
static bool admin_end(struct admin_job *a, const char *what)
{
	if (job_run(&a->job, what) < 0) return false;
	if (a->job.result >= 0) return true;
	raise_job(&a->job, a->name, a->job.client);
	job_drop(&a->job);
	return false;
}

static PyObject *info_row(const struct granary_snapshot_info *i)
{
	return Py_BuildValue("{s:s,s:s,s:s,s:s,s:K,s:K,s:K,s:K,s:K,s:I}", "name", i->name, "prefix", i->prefix,
		"note", i->note, "warnings", i->warnings, "created_ns", (unsigned long long)i->created_ns,
		"expires_ns", (unsigned long long)i->expires_ns, "samples", (unsigned long long)i->samples,
		"bytes", (unsigned long long)i->bytes, "bytes_alone", (unsigned long long)i->bytes_alone,
		"state", i->state);
}

PyObject *client_snapshot_create(PyObject *self, PyObject *args)
{
	const char *bucket, *name, *t[6];
	unsigned long long expire_s, block, window;
	unsigned lanes, keep_last;
	double timeout;

	if (!PyArg_ParseTuple(args, "sszzzzzzKKKIId:_snapshot_create", &bucket, &name, &t[TEXT_PREFIX],
		    &t[TEXT_GROUP], &t[TEXT_SPLIT], &t[TEXT_INCLUDE], &t[TEXT_EXCLUDE], &t[TEXT_NOTE],
		    &expire_s, &block, &window, &lanes, &keep_last, &timeout))
		return NULL;
	struct admin_job *a = admin_new(client_of(self), bucket, name, create_run);
	if (a == NULL) return NULL;
	a->spec = (struct granary_snapshot_spec)GRANARY_INIT(granary_snapshot_spec);
	for (int i = 0; i < 6; i++)
		if (t[i] != NULL && (a->texts[i] = strdup(t[i])) == NULL) {
			job_drop(&a->job);
			return PyErr_NoMemory();
		}
	a->spec.prefix = a->texts[TEXT_PREFIX];
	a->spec.group = a->texts[TEXT_GROUP];
	a->spec.split = a->texts[TEXT_SPLIT];
	a->spec.include = a->texts[TEXT_INCLUDE];
	a->spec.exclude = a->texts[TEXT_EXCLUDE];
	a->spec.note = a->texts[TEXT_NOTE];
	a->spec.expire_s = expire_s;
	a->spec.block = block;
	a->spec.window = window;
	a->spec.lanes = lanes;
	a->spec.keep_last = keep_last;
	a->timeout_ms = timeout_of(timeout);
	if (!admin_end(a, "a new snapshot")) return NULL;
	PyObject *row = info_row(a->info);
	job_drop(&a->job);
	return row;
}

PyObject *client_snapshot_page(PyObject *self, PyObject *args)
{
	const char *bucket, *after;

	if (!PyArg_ParseTuple(args, "ss:_snapshot_page", &bucket, &after)) return NULL;
	struct admin_job *a = admin_new(client_of(self), bucket, after, list_run);
	if (a == NULL || !admin_end(a, "the list of snapshots")) return NULL;
	PyObject *rows = PyList_New(a->page->count);
	for (uint32_t i = 0; rows != NULL && i < a->page->count; i++) {
		PyObject *row = info_row(&a->page->entries[i]);
		if (row == NULL || PyList_SetItem(rows, i, row) < 0) Py_CLEAR(rows);
	}
	PyObject *answer = rows != NULL ? Py_BuildValue("NN", rows, PyBool_FromLong(a->page->more != 0)) : NULL;
	job_drop(&a->job);
	return answer;
}

PyObject *client_snapshot_remove(PyObject *self, PyObject *args)
{
	const char *bucket, *name;
	int force;

	if (!PyArg_ParseTuple(args, "ssp:_snapshot_remove", &bucket, &name, &force)) return NULL;
	struct admin_job *a = admin_new(client_of(self), bucket, name, remove_run);
	if (a == NULL) return NULL;
	a->flags = force ? GRANARY_SNAPSHOT_FORCE : 0;
	if (!admin_end(a, "the end of a snapshot")) return NULL;
	job_drop(&a->job);
	Py_RETURN_NONE;
}
