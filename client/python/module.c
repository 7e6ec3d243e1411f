/* SPDX-License-Identifier: Apache-2.0 */
/* module.c -- the module granary._native: its types, errors, constants. */
#include "native.h"

static PyObject *runtime; /* the module granary._runtime: make_error(), notice() */

static PyObject *runtime_get(void)
{
	if (runtime == NULL) runtime = PyImport_ImportModule("granary._runtime");
	return runtime;
}

bool notice(const char *text)
{
	PyObject *rt = runtime_get();
	PyObject *done = rt != NULL ? PyObject_CallMethod(rt, "notice", "s", text) : NULL;

	Py_XDECREF(done);
	return done != NULL;
}

static PyObject *raise_request(int64_t code, const char *text, const char *key, struct owner_client *client,
	uint64_t request)
{
	struct granary_info info = GRANARY_INIT(granary_info);
	PyObject *rt = runtime_get(), *error;

	if (PyErr_Occurred() || rt == NULL) return NULL;
	if (client == NULL || granary_client_info(client->client, &info) < 0)
		info.session_id = 0;
	if (text == NULL || text[0] == '\0') text = granary_strerror((int)code);
	PyObject *message = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
	PyObject *name =
		key != NULL ? PyUnicode_DecodeUTF8(key, (Py_ssize_t)strlen(key), "surrogateescape") : NULL;
	if (message == NULL || (key != NULL && name == NULL)) {
		Py_XDECREF(message);
		return NULL;
	}
	error = PyObject_CallMethod(rt, "make_error", "isOOsKK", (int)code, granary_error_name((int)code),
		message, name != NULL ? name : Py_None, client != NULL ? client->endpoint : "",
		(unsigned long long)info.session_id, (unsigned long long)request);
	Py_DECREF(message);
	Py_XDECREF(name);
	if (error != NULL) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
	Py_XDECREF(error);
	return NULL;
}

PyObject *raise_error(int64_t code, const char *text, const char *key, struct owner_client *client)
{
	return raise_request(code, text, key, client, client != NULL ? granary_last_request(client->client) : 0);
}

PyObject *raise_job(const struct job *job, const char *key, struct owner_client *client)
{
	return raise_request(job->result, job->error, key, client, job->request);
}

PyObject *raise_op(int64_t code, const struct granary_op *op, const char *key, struct owner_client *client)
{
	return code == INTERRUPTED ? NULL
				   : raise_request(code, granary_op_error(op), key, client, granary_op_request(op));
}

PyObject *raise_closed(const char *what)
{
	PyErr_Format(PyExc_ValueError, "this %s is closed: make a new one", what);
	return NULL;
}

bool type_add(PyObject *module, const char *name, PyType_Spec *spec, PyTypeObject **out)
{
	PyObject *type = PyType_FromSpec(spec);

	*out = (PyTypeObject *)type;
	return type != NULL && PyModule_AddObjectRef(module, name, type) == 0;
}

static PyObject *module_token_check(PyObject *self, PyObject *arg)
{
	struct granary_token token;
	const char *text = PyUnicode_AsUTF8AndSize(arg, NULL);

	(void)self;
	if (text == NULL) return NULL;
	int err = granary_token_parse(text, &token);
	if (err < 0)
		return raise_error(
			err == -GRANARY_EVERSION ? err : -GRANARY_EINVAL, granary_last_error(NULL), NULL, NULL);
	Py_RETURN_NONE;
}

static PyObject *url_text(const char *text)
{
	return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "surrogateescape");
}

static PyObject *module_parse_url(PyObject *self, PyObject *arg)
{
	static struct granary_url url; /* large; the interpreter is held */
	const char *text = PyUnicode_AsUTF8AndSize(arg, NULL);
	char why[256];

	(void)self;
	if (text == NULL) return NULL;
	int err = granary_url_parse(text, &url, why, sizeof(why));
	if (err < 0) return raise_error(err, why, NULL, NULL);
	return Py_BuildValue("NNN", url_text(url.bucket), url_text(url.snapshot), url_text(url.path));
}

static PyObject *module_error_name(PyObject *self, PyObject *arg)
{
	long code = PyLong_AsLong(arg);

	(void)self;
	return code == -1 && PyErr_Occurred() ? NULL : PyUnicode_FromString(granary_error_name((int)code));
}

static PyObject *module_error_text(PyObject *self, PyObject *arg)
{
	long code = PyLong_AsLong(arg);

	(void)self;
	return code == -1 && PyErr_Occurred() ? NULL : PyUnicode_FromString(granary_strerror((int)code));
}

static PyObject *module_last_request(PyObject *self, PyObject *none)
{
	(void)self, (void)none;
	return PyLong_FromUnsignedLongLong(op_waited());
}

static PyMethodDef module_methods[] = { { "last_request", module_last_request, METH_NOARGS,
						"last_request() -> number of the request of this thread's last call." },
	 { "error_name", module_error_name, METH_O,
						"error_name(code) -> 'NOTFOUND'" },
	{ "error_text", module_error_text, METH_O, "error_text(code) -> 'no such object'" },
	{ "check_token", module_token_check, METH_O, "check_token(text): raises when the text is no token." },
	{ "parse_url", module_parse_url, METH_O,
		"parse_url(text) -> (bucket, snapshot, path), each '' when not there." },
	{ NULL, NULL, 0, NULL } };

static struct PyModuleDef module_def = { PyModuleDef_HEAD_INIT, "granary._native",
	"The C part of the package granary, over libgranary.", -1, module_methods, NULL, NULL, NULL, NULL };

PyMODINIT_FUNC PyInit__native(void);
PyMODINIT_FUNC PyInit__native(void)
{
	PyObject *module = PyModule_Create(&module_def);

	if (module == NULL) return NULL;
	if (array_init(module) && batch_init(module) && client_init(module) && snapshot_init(module) &&
		part_init(module) && epoch_init(module) && upload_init(module) && shared_init(module) &&
		pool_init(module) &&
		PyModule_AddIntConstant(module, "PADDED", GRANARY_SAMPLE_PADDED) == 0 &&
		PyModule_AddIntConstant(module, "SKIPPED", GRANARY_SAMPLE_SKIPPED) == 0 &&
		PyModule_AddIntConstant(module, "MISSING", BATCH_MISSING) == 0 &&
		PyModule_AddStringConstant(module, "version", granary_version_string()) == 0)
		return module;
	Py_DECREF(module);
	return NULL;
}
