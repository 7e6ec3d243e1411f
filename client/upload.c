/* SPDX-License-Identifier: Apache-2.0 */
/* upload.c -- writes an object whose bytes come piece by piece (PROTOCOL 5.4). A ring of buffers: one is being filled,
 * those before it are on their way. What fits into one buffer goes as an ordinary PUT. */
#include "many.h"

#include <stdlib.h>

enum { UPLOAD_BUFFERS = 4 };

struct upload_buffer {
	uint8_t *p;
	size_t len;
	struct simple_op *op; /* on its way */
};

struct granary_upload {
	struct granary_client *client;
	struct granary_put put; /* texts are our own */
	struct granary_call call;
	char *name, *bucket, *pairs_text;
	struct granary_pair *pairs;
	struct upload_pin pin;
	uint64_t number, offset; /* bytes handed to pieces */
	struct upload_buffer buffers[UPLOAD_BUFFERS];
	uint32_t at;             /* the one being filled */
	struct lease lease;      /* their bytes, in the client's budget */
	uint32_t generation;     /* the client's, when it began */
	int err;
};

static const struct rpc_kind piece_rpc = {
	.wire_op = OP_EXTENT, .body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer,
};
static const struct rpc_kind commit_rpc = {
	.wire_op = OP_PUT, .mutation = true, .body_size = simple_body_size, .encode = simple_encode,
		.answer = simple_answer,
};
static const struct rpc_kind abort_rpc = {
	.wire_op = OP_ABORT, .body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer,
};

/* ---- beginning ---- */

static bool pairs_copy(struct granary_upload *up, const struct granary_put *put)
{
	size_t len = 0;

	for (uint32_t i = 0; i < put->meta_count; i++)
		len += strlen(put->meta[i].name) + strlen(put->meta[i].value) + 2;
	up->pairs = calloc(put->meta_count + 1, sizeof(*up->pairs));
	up->pairs_text = malloc(len + 1);
	if (!up->pairs || !up->pairs_text)
		return false;
	char *text = up->pairs_text;
	for (uint32_t i = 0; i < 2 * put->meta_count; i++) {
		const char *from = i % 2 ? put->meta[i / 2].value : put->meta[i / 2].name;
		size_t n = strlen(from) + 1;
		memcpy(text, from, n);
		*(i % 2 ? &up->pairs[i / 2].value : &up->pairs[i / 2].name) = text;
		text += n;
	}
	up->put.meta = up->pairs;
	return true;
}

static bool texts_copy(struct granary_upload *up, const struct granary_put *put, const struct granary_call *call)
{
	up->name = strdup(put->ref.name);
	up->put.ref.name = up->name;
	if (call && call->bucket) {
		up->bucket = strdup(call->bucket);
		if (!up->bucket)
			return false;
	}
	up->call.bucket = up->bucket;
	return up->name && pairs_copy(up, put);
}

int granary_upload_new(struct granary_client *client, const struct granary_put *put, const struct granary_call *call,
	struct granary_upload **out)
{
	struct granary_put checked;
	int err = client_enter(client);

	*out = NULL;
	if (err < 0)
		return err;
	checked = *put;
	checked.data = NULL;
	checked.size = 0;
	err = put_check(client, &checked);
	if (err < 0)
		return err;
	struct granary_upload *up = calloc(1, sizeof(*up));
	if (!up)
		return error_fail(client, -GRANARY_ENOMEM, "out of memory");
	client_ref(client);
	up->client = client;
	up->generation = client->generation;
	up->put = checked;
	up->call.size = sizeof(up->call);
	up->call.timeout_ms = call ? call->timeout_ms : 0;
	up->number = 1 + atomic_fetch_add(&client->uploads_count, 1);
	lease_init(&up->lease);
	if (!texts_copy(up, put, call)) {
		granary_upload_free(&up);
		return error_fail(client, -GRANARY_ENOMEM, "out of memory");
	}
	*out = up;
	return 0;
}

/* ---- pieces ---- */

/* 0, or why nothing more can be added. */
static int upload_enter(struct granary_upload *up)
{
	if (up->err == 0 && up->generation != up->client->generation)
		up->err = error_fail(up->client, -GRANARY_EFORKED, "the upload belongs to the process that forked");
	return up->err;
}

static int buffer_wait(struct granary_upload *up, struct upload_buffer *b)
{
	if (!b->op)
		return up->err;
	int64_t result = granary_wait(&b->op->op, GRANARY_FOREVER);
	op_free_quiet(&b->op->op);
	b->op = NULL;
	if (result < 0 && up->err == 0)
		up->err = (int)result;
	return up->err;
}

/* The buffer to fill: its memory, once what it held has arrived. */
static int buffer_ready(struct granary_upload *up, struct upload_buffer *b)
{
	int err = buffer_wait(up, b);

	if (err < 0 || b->p)
		return err;
	if (lease_reserve(up->client, &up->lease, WIRE_ENTRY_DATA_MAX) < 0 && up->at > 0) {
		/* No more memory: with one piece less in flight. */
		up->at = 0;
		return buffer_wait(up, &up->buffers[0]);
	}
	b->p = malloc(WIRE_ENTRY_DATA_MAX);
	return b->p ? 0 : (up->err = error_fail(up->client, -GRANARY_ENOMEM, "out of memory"));
}

static int piece_send(struct granary_upload *up)
{
	struct upload_buffer *b = &up->buffers[up->at];
	struct wr w;
	int err;
	struct simple_op *s = simple_new(up->client, &piece_rpc, &up->call, extent_size(&up->put.ref), &w, &err);

	if (!s)
		return up->err = err;
	extent_encode(&w, &up->put.ref, up->number, up->offset, b->p, b->len);
	s->body_len = wr_len(&w);
	s->data = (struct iovec){ b->p, b->len };
	s->pin = &up->pin;
	s->op.quiet = true;
	err = op_submit(&s->op);
	if (err < 0) {
		op_free_quiet(&s->op);
		return up->err = err;
	}
	b->op = s;
	up->offset += b->len;
	b->len = 0;
	up->at = (up->at + 1) % UPLOAD_BUFFERS;
	return 0;
}

int granary_upload_write(struct granary_upload *up, const void *data, size_t len)
{
	const uint8_t *from = data;
	int err = upload_enter(up);

	while (err == 0 && len > 0) {
		err = buffer_ready(up, &up->buffers[up->at]);
		if (err < 0)
			break;
		struct upload_buffer *b = &up->buffers[up->at];
		if (b->len == WIRE_ENTRY_DATA_MAX) { /* only now: the last one may go as an ordinary PUT */
			err = piece_send(up);
			continue;
		}
		size_t part = WIRE_ENTRY_DATA_MAX - b->len < len ? WIRE_ENTRY_DATA_MAX - b->len : len;
		memcpy(b->p + b->len, from, part);
		b->len += part;
		from += part;
		len -= part;
	}
	return err;
}

/* ---- the end ---- */

static int commit_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);

	(void)data;
	if (cur_u32(&c) != 1)
		return -GRANARY_EPROTO;
	put_entry_decode(&c, s->out);
	return cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

static int commit_send(struct granary_upload *up)
{
	struct upload_buffer *b = &up->buffers[up->at];
	bool whole = up->offset == 0; /* all of it is in the buffer */
	struct wr w;
	int err;

	up->put.data = whole ? b->p : NULL;
	up->put.size = whole ? b->len : up->offset;
	size_t size = 4 + put_entry_size(&up->put, whole ? b->len : 0);
	struct simple_op *s = simple_new(up->client, &commit_rpc, &up->call, size, &w, &err);
	if (!s)
		return err;
	wr_u32(&w, 1);
	put_entry_encode(&w, &up->put, whole ? 0 : up->number, up->put.size);
	if (whole)
		s->data = (struct iovec){ b->p, b->len };
	s->decode = commit_decode;
	s->out = &up->put;
	int64_t result = simple_run(s, &w);
	if (result == 0 && up->put.status < 0)
		error_fail(up->client, up->put.status, "'%.300s': %s", up->name, error_text(up->put.status));
	return result < 0 ? (int)result : up->put.status;
}

static int pieces_wait(struct granary_upload *up)
{
	for (uint32_t i = 0; i < UPLOAD_BUFFERS; i++)
		buffer_wait(up, &up->buffers[i]);
	return up->err;
}

int granary_upload_commit(struct granary_upload *up, struct granary_put *put)
{
	int err = upload_enter(up);

	if (err == 0 && up->offset > 0 && up->buffers[up->at].len > 0)
		err = piece_send(up);
	if (pieces_wait(up) < 0)
		err = up->err;
	if (err == 0)
		err = commit_send(up);
	if (put) {
		put->status = err;
		put->object_id = up->put.object_id;
		put->version = up->put.version;
		put->dir_id = up->put.dir_id;
		put->replaced_version = up->put.replaced_version;
	}
	up->offset = err == 0 ? 0 : up->offset; /* nothing to abort */
	up->err = err < 0 ? err : -GRANARY_EINVAL;
	return err;
}

/* The server drops what it holds; if that fails it does so with the session. */
static void upload_abort(struct granary_upload *up)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(up->client, &abort_rpc, &up->call, 8, &w, &err);

	if (!s)
		return;
	s->op.timeout_ms = s->op.timeout_ms < 1000 ? s->op.timeout_ms : 1000;
	wr_u64(&w, up->number);
	if (simple_run(s, &w) < 0)
		return;
}

void granary_upload_free(struct granary_upload **up)
{
	struct granary_upload *u = up ? *up : NULL;

	if (!u)
		return;
	*up = NULL;
	upload_enter(u);
	pieces_wait(u);
	if (u->offset > 0 && u->err != -GRANARY_EFORKED && u->err != -GRANARY_ECANCELED)
		upload_abort(u);
	for (uint32_t i = 0; i < UPLOAD_BUFFERS; i++)
		free(u->buffers[i].p);
	lease_release(u->client, &u->lease);
	free(u->name);
	free(u->bucket);
	free(u->pairs);
	free(u->pairs_text);
	client_unref(u->client);
	free(u);
}

int64_t granary_put_stream(struct granary_client *client, struct granary_put *put, granary_source_fn *source, void *arg,
	const struct granary_call *call)
{
	enum { STEP = 1024 * 1024 };
	struct granary_upload *up;
	int64_t n = 1, total = 0;
	int err = granary_upload_new(client, put, call, &up);

	if (err < 0)
		return err;
	uint8_t *buf = malloc(STEP);
	if (!buf)
		err = error_fail(client, -GRANARY_ENOMEM, "out of memory");
	while (err == 0 && n > 0) {
		n = source(arg, buf, STEP);
		err = n < 0 ? (int)n : granary_upload_write(up, buf, (size_t)n);
		total += n > 0 ? n : 0;
	}
	if (err == 0)
		err = granary_upload_commit(up, put);
	free(buf);
	granary_upload_free(&up);
	return err < 0 ? err : total;
}
