/* SPDX-License-Identifier: Apache-2.0 */
/* client_names.c -- names of objects: listing, attributes, deleting, renaming, directories, buckets. */
#include "client_calls.h"

/* ---- listing ---- */

static PyObject *hash_text(const uint8_t hash[16], bool has)
{
	char text[33];

	if (!has) return Py_NewRef(Py_None);
	for (int i = 0; i < 16; i++) snprintf(text + 2 * i, 3, "%02x", hash[15 - i]);
	return PyUnicode_FromString(text);
}

static PyObject *list_row(const struct granary_list_entry *e)
{
	return Py_BuildValue("NIKKKKN", key_text(e->key), e->kind, (unsigned long long)e->size,
		(unsigned long long)e->mtime_ns, (unsigned long long)e->version,
		(unsigned long long)e->object_id, hash_text(e->hash, e->has_hash != 0));
}

static PyObject *list_rows(const struct granary_list_page *page)
{
	PyObject *rows = PyList_New(page->count);

	for (uint32_t i = 0; rows != NULL && i < page->count; i++) {
		PyObject *row = list_row(&page->entries[i]);
		if (row == NULL || PyList_SetItem(rows, i, row) < 0) {
			Py_DECREF(rows);
			return NULL;
		}
	}
	return rows;
}

PyObject *client_list_page(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	struct granary_list_query q = GRANARY_INIT(granary_list_query);
	struct granary_list_page *page = NULL;
	struct granary_op *op = NULL;

	if (owner == NULL ||
		!PyArg_ParseTuple(args, "zzzI:_list_page", &q.prefix, &q.delimiter, &q.start_after, &q.max))
		return NULL;
	int err = granary_list_start(owner->client, &q, &page, NULL, &op);
	if (!op_end(owner, err, op, q.prefix != NULL ? q.prefix : "")) {
		granary_free(page);
		return NULL;
	}
	PyObject *rows = list_rows(page);
	PyObject *answer = rows != NULL ? Py_BuildValue("NN", rows, PyBool_FromLong(page->more != 0)) : NULL;
	granary_free(page);
	return answer;
}

/* ---- many keys ---- */

/* The keys of a list of str as refs; NULL with an exception set. */
static struct granary_ref *refs_of(PyObject *list)
{
	Py_ssize_t count = PyList_Size(list);
	struct granary_ref *refs = calloc((size_t)count + 1, sizeof(*refs));

	if (refs == NULL) PyErr_NoMemory();
	for (Py_ssize_t i = 0; refs != NULL && i < count; i++) {
		const char *key = key_of(PyList_GetItem(list, i));
		if (key == NULL) {
			free(refs);
			return NULL;
		}
		refs[i] = granary_ref_key(key);
	}
	return refs;
}

static PyObject *meta_of(const struct granary_stat *s)
{
	PyObject *meta = PyDict_New();

	for (uint64_t i = 0; meta != NULL && s->meta != NULL && i < s->meta_count; i++) {
		PyObject *value = key_text(s->meta[i].value);
		if (value == NULL || PyDict_SetItemString(meta, s->meta[i].name, value) < 0) Py_CLEAR(meta);
		Py_XDECREF(value);
	}
	return meta;
}

static PyObject *stat_rows(const struct granary_stat *stats, Py_ssize_t count)
{
	PyObject *rows = PyList_New(count);

	for (Py_ssize_t i = 0; rows != NULL && i < count; i++) {
		const struct granary_stat *s = &stats[i];
		PyObject *row = Py_BuildValue("iIKKKKNN", s->status, s->kind, (unsigned long long)s->size,
			(unsigned long long)s->mtime_ns, (unsigned long long)s->version,
			(unsigned long long)s->object_id, hash_text(s->hash, s->has_hash != 0), meta_of(s));
		if (row == NULL || PyList_SetItem(rows, i, row) < 0) {
			Py_DECREF(rows);
			return NULL;
		}
	}
	return rows;
}

PyObject *client_stat_many(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	struct granary_op *op = NULL;
	PyObject *list, *rows = NULL;
	int meta;

	if (owner == NULL || !PyArg_ParseTuple(args, "O!p:_stat_many", &PyList_Type, &list, &meta)) return NULL;
	Py_ssize_t count = PyList_Size(list);
	struct granary_ref *refs = refs_of(list);
	if (refs == NULL) return NULL;
	struct granary_stat *stats = calloc((size_t)count + 1, sizeof(*stats));
	if (stats == NULL) {
		free(refs);
		return PyErr_NoMemory();
	}
	int err = granary_stat_start(
		owner->client, refs, (size_t)count, meta ? GRANARY_STAT_META : 0, stats, NULL, &op);
	if (op_end(owner, err, op, count > 0 ? refs[0].name : NULL)) rows = stat_rows(stats, count);
	for (Py_ssize_t i = 0; i < count; i++) granary_free(stats[i].meta);
	free(stats);
	free(refs);
	return rows;
}

PyObject *client_delete_many(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	PyObject *list, *codes = NULL;
	struct granary_op *op = NULL;

	if (owner == NULL || !PyArg_ParseTuple(args, "O!:_delete_many", &PyList_Type, &list)) return NULL;
	Py_ssize_t count = PyList_Size(list);
	struct granary_ref *refs = refs_of(list);
	struct granary_delete *deletes = refs != NULL ? calloc((size_t)count + 1, sizeof(*deletes)) : NULL;
	if (deletes == NULL) {
		free(refs);
		return PyErr_Occurred() ? NULL : PyErr_NoMemory();
	}
	for (Py_ssize_t i = 0; i < count; i++) deletes[i].ref = refs[i];
	int err = granary_delete_start(owner->client, deletes, (size_t)count, NULL, &op);
	if (op_end(owner, err, op, count > 0 ? refs[0].name : NULL)) codes = PyList_New(count);
	for (Py_ssize_t i = 0; codes != NULL && i < count; i++) {
		PyObject *code = PyLong_FromLong(deletes[i].status);
		if (code == NULL || PyList_SetItem(codes, i, code) < 0) Py_CLEAR(codes);
	}
	free(deletes);
	free(refs);
	return codes;
}

/* ---- one name ---- */

PyObject *client_rename(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	const char *from, *to;
	struct granary_op *op = NULL;
	int no_replace;

	if (owner == NULL || !PyArg_ParseTuple(args, "ssp:_rename", &from, &to, &no_replace)) return NULL;
	int err = granary_rename_start(owner->client, granary_ref_key(from), granary_ref_key(to),
		no_replace ? GRANARY_RENAME_NO_REPLACE : 0, NULL, &op);
	return op_end(owner, err, op, from) ? Py_NewRef(Py_None) : NULL;
}

PyObject *client_mkdir(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	struct granary_op *op = NULL;
	unsigned mode;
	const char *key;
	int parents;

	if (owner == NULL || !PyArg_ParseTuple(args, "sIp:_mkdir", &key, &mode, &parents)) return NULL;
	int err = granary_mkdir_start(owner->client, granary_ref_key(key), mode,
		parents ? GRANARY_MKDIR_PARENTS : 0, NULL, NULL, &op);
	return op_end(owner, err, op, key) ? Py_NewRef(Py_None) : NULL;
}

PyObject *client_rmdir(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	struct granary_op *op = NULL;
	const char *key;

	if (owner == NULL || !PyArg_ParseTuple(args, "s:_rmdir", &key)) return NULL;
	int err = granary_rmdir_start(owner->client, granary_ref_key(key), NULL, &op);
	return op_end(owner, err, op, key) ? Py_NewRef(Py_None) : NULL;
}

/* ---- buckets ---- */

struct bucket_job {
	struct job job;
	char name[GRANARY_BUCKET_LEN_MAX + 2];
	bool make;
};

static void bucket_run(struct job *job)
{
	struct bucket_job *b = (struct bucket_job *)job;
	struct granary_client *c = job->client->client;

	job_error(job,
		b->make ? granary_bucket_create(c, b->name, NULL) : granary_bucket_remove(c, b->name, NULL));
}

static void bucket_drop(struct job *job)
{
	free(job);
}

PyObject *client_bucket(PyObject *self, PyObject *args)
{
	struct owner_client *owner = client_of(self);
	const char *name;
	int make;

	if (owner == NULL || !PyArg_ParseTuple(args, "sp:_bucket", &name, &make)) return NULL;
	struct bucket_job *b = job_new(sizeof(*b), owner, bucket_run, bucket_drop);
	if (b == NULL) return NULL;
	snprintf(b->name, sizeof(b->name), "%s", name);
	b->make = make != 0;
	if (job_run(&b->job, name) < 0) return NULL;
	int64_t result = b->job.result;
	if (result < 0) raise_job(&b->job, name, b->job.client);
	job_drop(&b->job);
	return result < 0 ? NULL : Py_NewRef(Py_None);
}
