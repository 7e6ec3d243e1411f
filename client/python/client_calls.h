/* SPDX-License-Identifier: Apache-2.0 */
/* client_calls.h -- the methods of Client, by file. */
#pragma once

#include "native.h"

/* Waits for an operation that was started (err: what its start returned), and frees it; false with an exception set. */
bool op_end(struct owner_client *owner, int err, struct granary_op *op, const char *key);
/* Text of a str, as the key of an object; NULL with an exception set. Valid as long as `text`. */
const char *key_of(PyObject *text);
/* Text to Python: keys may hold bytes that are no UTF-8. */
PyObject *key_text(const char *key);

/* client_data.c */
PyObject *client_read(PyObject *self, PyObject *args);
PyObject *client_put_many(PyObject *self, PyObject *args);
PyObject *client_upload(PyObject *self, PyObject *args);
/* client_names.c */
PyObject *client_list_page(PyObject *self, PyObject *args);
PyObject *client_stat_many(PyObject *self, PyObject *args);
PyObject *client_delete_many(PyObject *self, PyObject *args);
PyObject *client_rename(PyObject *self, PyObject *args);
PyObject *client_mkdir(PyObject *self, PyObject *args);
PyObject *client_rmdir(PyObject *self, PyObject *args);
PyObject *client_bucket(PyObject *self, PyObject *args);

/* snapshot_admin.c */
PyObject *client_snapshot_create(PyObject *self, PyObject *args);
PyObject *client_snapshot_page(PyObject *self, PyObject *args);
PyObject *client_snapshot_remove(PyObject *self, PyObject *args);

#define CLIENT_DATA_METHODS \
	{ "_read", client_read, METH_VARARGS, \
		"_read(entries, out, any_order, timeout) -> (Batch, [(index, code)], text)" }, \
	{ "_put_many", client_put_many, METH_VARARGS, \
		"_put_many([(key, data, flags, meta)], timeout) -> [(status, version)]" }, \
	{ "_upload", client_upload, METH_VARARGS, "_upload(key, timeout) -> Upload" }
#define CLIENT_NAMES_METHODS \
	{ "_list_page", client_list_page, METH_VARARGS, "_list_page(prefix, delimiter, after, max) -> (rows, more)" }, \
	{ "_stat_many", client_stat_many, METH_VARARGS, "_stat_many(keys, meta) -> rows" }, \
	{ "_delete_many", client_delete_many, METH_VARARGS, "_delete_many(keys) -> statuses" }, \
	{ "_rename", client_rename, METH_VARARGS, "_rename(old, new, no_replace)" }, \
	{ "_mkdir", client_mkdir, METH_VARARGS, "_mkdir(key, mode, parents)" }, \
	{ "_rmdir", client_rmdir, METH_VARARGS, "_rmdir(key)" }, \
	{ "_bucket", client_bucket, METH_VARARGS, "_bucket(name, make): makes or removes a bucket" }, \
	{ "_snapshot_create", client_snapshot_create, METH_VARARGS, "_snapshot_create(bucket, name, ...) -> dict" }, \
	{ "_snapshot_page", client_snapshot_page, METH_VARARGS, "_snapshot_page(bucket, after) -> (dicts, more)" }, \
	{ "_snapshot_remove", client_snapshot_remove, METH_VARARGS, "_snapshot_remove(bucket, name, force)" }
