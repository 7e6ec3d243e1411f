/* SPDX-License-Identifier: Apache-2.0 */
/* native.h -- the extension granary._native: what its files share. Everything goes through granary.h.
 *
 * (1) the interpreter is never held while a call waits for the network: waits go in slices of WAIT_SLICE_MS, between
 *     which signals are looked at, so that KeyboardInterrupt comes at once.
 * (2) a client or an epoch lives until the last object that uses it is gone: close() only forbids new calls.
 *     Their counters are atomic, because a call that was given up ends in a thread without the interpreter.
 * (3) every view (memoryview, Array, DLPack capsule) holds the Batch that its bytes belong to.
 * (4) a class of exceptions is chosen in Python (granary/errors.py); here there are only codes and texts. */
#pragma once

#define PY_SSIZE_T_CLEAN
#if !defined(GRANARY_PYTHON_FULL_API)
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "granary/granary.h"

enum { WAIT_SLICE_MS = 50, NOTICE_AFTER_MS = 2000 };

/* ---- counted owners of library objects (owner.c) ---- */

struct owner_client {
	struct granary_client *client;
	char *endpoint; /* for people: hosts and bucket */
	atomic_int refs;
};
struct owner_epoch {
	struct granary_epoch *epoch;
	struct owner_client *client;
	atomic_int refs;
};
struct owner_snapshot {
	struct granary_snapshot *snapshot;
	struct owner_client *client;
	atomic_int refs;
};
struct owner_client *owner_client_ref(struct owner_client *c);
void owner_client_unref(struct owner_client *c); /* with or without the interpreter; NULL is allowed */
struct owner_epoch *owner_epoch_ref(struct owner_epoch *e);
void owner_epoch_unref(struct owner_epoch *e);
struct owner_snapshot *owner_snapshot_ref(struct owner_snapshot *s);
void owner_snapshot_unref(struct owner_snapshot *s);

/* ---- waiting (wait.c) ---- */

/* A call of the library that has no start form: runs in a thread of its own. */
struct job {
	void (*run)(struct job *job); /* without the interpreter */
	void (*drop)(
		struct job *job); /* frees what the job holds, results that nobody took too; then free(job) */
	struct owner_client *client; /* held until dropped */
	int64_t result;
	uint64_t request; /* that failed */
	char error[1024];
	/* -- wait.c -- */
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool done, given_up;
};
void *job_new(size_t size, struct owner_client *client, void (*run)(struct job *), void (*drop)(struct job *));
/* Runs it; 0 when it ended (job->result says how, the caller drops it); -1 with an exception set: interrupted, or no
 * thread; the job is then no longer the caller's. `what` names what is waited for. */
int job_run(struct job *job, const char *what);
void job_drop(struct job *job);
void job_error(struct job *job, int64_t result); /* in run(): keeps the result and the library's text */

/* Waits for an operation: its result, or INTERRUPTED with an exception set (the operation is canceled, not freed). */
#define INTERRUPTED INT64_MIN
uint64_t op_waited(void); /* granary_op_request() of what this thread waited for last */
int64_t op_wait(struct granary_op *op, struct owner_client *client, const char *what);

/* ---- errors (module.c) ---- */

/* Sets the exception of a code; always returns NULL. key may be NULL. */
PyObject *raise_error(int64_t code, const char *text, const char *key, struct owner_client *client);
PyObject *raise_job(const struct job *job, const char *key, struct owner_client *client);
PyObject *raise_op(int64_t code, const struct granary_op *op, const char *key, struct owner_client *client);
PyObject *raise_closed(const char *what);
/* Calls granary._runtime.notice(text). False with an exception set. */
bool notice(const char *text);

/* ---- types ---- */

extern PyTypeObject *array_type, *view_type, *batch_type, *client_type, *snapshot_type, *epoch_type,
	*upload_type, *shared_type;
bool array_init(PyObject *module);
bool batch_init(PyObject *module);
bool client_init(PyObject *module);
bool snapshot_init(PyObject *module);
bool part_init(PyObject *module);
bool epoch_init(PyObject *module);
bool upload_init(PyObject *module);
bool shared_init(PyObject *module);
bool pool_init(PyObject *module);
extern const struct granary_batch_memory pool_memory; /* pool.c: batches that other processes will get */
/* An object of a type, zeroed; and the end of its dealloc. */
static inline void *object_alloc(PyTypeObject *type)
{
	return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}
static inline void object_free(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}
bool type_add(PyObject *module, const char *name, PyType_Spec *spec, PyTypeObject **out);

/* One-dimensional memory of somebody else. kind: 'B' uint8, 'q' int64, 'I' uint32. stride in bytes. */
PyObject *array_new(PyObject *owner, void *data, Py_ssize_t count, Py_ssize_t stride, char kind);
/* A memoryview of bytes; `owner` stays as long as it. */
PyObject *view_new(PyObject *owner, void *data, Py_ssize_t size);
/* A DLPack capsule of the same. */
PyObject *dlpack_new(PyObject *owner, void *data, Py_ssize_t count, Py_ssize_t stride, char kind);

/* Where a batch's bytes come from, and how they are given back. */
struct lease {
	void (*drop)(struct lease *lease); /* without the interpreter is fine; frees the lease itself */
};
struct batch_parts {
	struct lease *lease; /* taken over, also on error */
	uint8_t *data;
	uint64_t size;
	uint32_t count, fields;
	const uint64_t *offsets, *sizes; /* count * fields each; sizes NULL: each ends where the next begins */
	uint64_t *ids;                   /* count; stays with the lease */
	uint32_t *flags;                 /* the same */
	uint64_t position, number;
	struct granary_token token;
};
enum { BATCH_MISSING = 1 << 16 }; /* a flag of ours beside enum granary_sample_flag: no such object */
PyObject *batch_new(const struct batch_parts *parts);
PyObject *batch_make(PyTypeObject *type, const struct batch_parts *parts); /* of a class derived from Batch */

typedef struct { /* batch.c; shared.c sends and receives it */
	PyObject_HEAD struct lease *lease;
	uint8_t *data;
	int64_t *offsets; /* ours; behind them `valid`, a byte a sample */
	uint8_t *valid;
	uint64_t *ids;
	uint32_t *flags;
	uint32_t count, fields;
	uint64_t position, number;
	struct granary_token token;
} BatchObject;
static inline Py_ssize_t batch_bytes(const BatchObject *b)
{
	return b->offsets[(size_t)b->count * b->fields];
}

typedef struct {
	PyObject_HEAD struct owner_client *owner;
	bool closed;
} ClientObject;
/* The client of a call, or NULL with an exception set when it is closed or no Client. */
struct owner_client *client_of(PyObject *client);
uint32_t timeout_of(double seconds); /* < 0: 0, the client's own */
