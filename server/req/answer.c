/* SPDX-License-Identifier: Apache-2.0 */
/* answer.c -- answers of one frame: made, handed to the front end, freed by it through
 * released(). */
#include "req/kind.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"

struct answer_box {
	struct answer a;
	struct iovec one;
	uint8_t *own; /* malloc'd meta or data */
};

void *req_alloc(size_t size)
{
	void *p = malloc(size);

	if (p == NULL) {
		log_error("out of memory; bytes=%zu", size);
		abort();
	}
	return p;
}

static void answer_free(struct answer *a)
{
	struct answer_box *box = container_of(a, struct answer_box, a);

	free(box->own);
	free(box);
}

static struct answer_box *box_new(const struct req *r, size_t meta_cap)
{
	struct answer_box *box = req_alloc(sizeof(*box) + meta_cap);

	memset(box, 0, sizeof(*box));
	box->a.request = r->frame.request;
	box->a.op = r->frame.op;
	box->a.released = answer_free;
	box->a.memory = sizeof(*box) + meta_cap;
	return box;
}

struct answer *answer_new(const struct req *r, size_t meta_cap)
{
	struct answer_box *box = box_new(r, meta_cap);

	box->a.meta = (uint8_t *)(box + 1);
	return &box->a;
}

struct answer *answer_adopt(const struct req *r, uint8_t *meta, size_t meta_len)
{
	struct answer_box *box = box_new(r, 0);

	assert(meta_len <= UINT32_MAX);
	box->own = meta;
	box->a.meta = meta;
	box->a.meta_len = (uint32_t)meta_len;
	box->a.memory += meta_len;
	return &box->a;
}

void answer_send(struct req *r, struct answer *a, bool last)
{
	assert(!r->answered);
	if (last) {
		a->flags |= FRAME_LAST;
		r->answered = true;
	}
	stat_add(&r->local->stats->bytes_out[r->kind->op], (uint64_t)a->meta_len + a->data_len);
	if (r->peer->gone)
		a->released(a);
	else
		r->peer->ops->answer(r->peer, a);
}

void answer_empty(struct req *r)
{
	answer_send(r, answer_new(r, 0), true);
}

void answer_text(struct req *r, const char *text, size_t len)
{
	struct answer_box *box = box_new(r, 0);

	assert(len <= UINT32_MAX);
	box->own = req_alloc(len + 1);
	memcpy(box->own, text, len);
	box->one = (struct iovec){ box->own, len };
	box->a.data_len = (uint32_t)len;
	box->a.memory += len;
	if (len > 0) {
		box->a.iov = &box->one;
		box->a.iov_count = 1;
	}
	answer_send(r, &box->a, true);
}

void answer_data(struct req *r, const struct wr *meta, uint8_t *data, size_t len)
{
	struct answer_box *box = box_new(r, wr_len(meta));

	assert(wr_ok(meta) && len <= UINT32_MAX);
	box->own = data;
	box->a.meta = (uint8_t *)(box + 1);
	box->a.meta_len = (uint32_t)wr_len(meta);
	memcpy(box->a.meta, meta->start, wr_len(meta));
	box->one = (struct iovec){ data, len };
	box->a.data_len = (uint32_t)len;
	box->a.memory += len;
	if (len > 0) {
		box->a.iov = &box->one;
		box->a.iov_count = 1;
	}
	answer_send(r, &box->a, true);
}

void answer_error(struct req *r, int err, const char *text)
{
	size_t len = strlen(text);
	struct answer *a = answer_new(r, 2 + len);
	struct wr w = wr_of(a->meta, 2 + len);

	wr_bytes16(&w, slice_of(text, len));
	a->meta_len = (uint32_t)wr_len(&w);
	a->status = (uint16_t)-err;
	answer_send(r, a, true);
}
