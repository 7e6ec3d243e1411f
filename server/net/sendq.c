/* SPDX-License-Identifier: Apache-2.0 */
/* sendq.c -- see sendq.h.
 * Invariants: (1) bytes = sizes of all answers - sent; (2) sending <= bytes, and 0 when no send is in
 * flight; (3) a header is encoded in the send that carries the answer's first byte, and never cut. */
#include "net/sendq.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "req/req.h"

struct filler {
	struct sendbuf *sb;
	uint32_t iovs, headers;
};

static uint64_t answer_size(const struct answer *a)
{
	return (uint64_t)WIRE_HEADER_SIZE + a->meta_len + a->data_len;
}

static bool answer_is_large(const struct answer *a)
{
	return a->data_len > SEND_LARGE_MIN && a->data_len / WIRE_SMALL_MAX > a->iov_count;
}

static void header_encode(const struct answer *a, uint8_t out[WIRE_HEADER_SIZE])
{
	struct frame f = {
		.op = a->op,
		.flags = (uint16_t)(a->flags | FRAME_RESPONSE),
		.status = a->status,
		.meta_len = a->meta_len,
		.data_len = a->data_len,
		.request = a->request,
		.meta_crc = a->meta_len ? crc32c(0, a->meta, a->meta_len) : 0,
	};
	frame_encode(&f, out);
}

void sendq_init(struct sendq *q)
{
	*q = (struct sendq){ 0 };
	q->tail = &q->head;
}

void sendq_push(struct sendq *q, struct answer *a)
{
	a->next = NULL;
	*q->tail = a;
	q->tail = &a->next;
	q->bytes += answer_size(a);
}

/* Adds the part of [base, base+len) that lies in [*from, *from + *left); both move. */
static void put_part(struct filler *fl, uint8_t *base, size_t len, uint64_t *from, uint64_t *left)
{
	if (*from >= len) {
		*from -= len;
		return;
	}
	size_t n = len - (size_t)*from;
	if (n > *left) n = (size_t)*left;
	if (n == 0 || fl->iovs == SEND_IOV_MAX) return;
	fl->sb->iov[fl->iovs++] = (struct iovec){ base + *from, n };
	*from = 0;
	*left -= n;
}

/* Adds up to `len` bytes of a from `from` on; returns how many found room. */
static uint64_t put_answer(struct filler *fl, const struct answer *a, uint64_t from, uint64_t len)
{
	uint64_t left = len;

	if (from == 0) {
		uint8_t *head = fl->sb->headers[fl->headers++];
		header_encode(a, head);
		put_part(fl, head, WIRE_HEADER_SIZE, &from, &left);
	} else {
		from -= WIRE_HEADER_SIZE;
	}
	put_part(fl, a->meta, a->meta_len, &from, &left);
	for (uint32_t i = 0; i < a->iov_count && left > 0 && fl->iovs < SEND_IOV_MAX; i++)
		put_part(fl, a->iov[i].iov_base, a->iov[i].iov_len, &from, &left);
	return len - left;
}

/* Descriptors of an answer whose first byte goes out now. */
static void control_fill(struct sendbuf *sb, const struct answer *a)
{
	size_t len = a->fd_count * sizeof(int);
	struct cmsghdr *h = (struct cmsghdr *)(void *)sb->control;

	assert(a->fd_count <= DESCRIPTORS_MAX);
	memset(sb->control, 0, sizeof(sb->control));
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(h), a->fds, len);
	sb->control_len = CMSG_SPACE(len);
}

uint32_t sendq_build(struct sendq *q, struct sendbuf *sb)
{
	struct filler fl = { .sb = sb };
	uint64_t from = q->sent;

	assert(q->sending == 0);
	sb->control_len = 0;
	for (const struct answer *a = q->head; a; a = a->next) {
		uint64_t rest = answer_size(a) - from, want = rest;
		bool large = answer_is_large(a);

		if (q->sending > 0 && (large || a->fd_count > 0 || q->sending + rest > SEND_TOGETHER_MAX)) break;
		if (fl.iovs + 3 > SEND_IOV_MAX || fl.headers == SEND_HEADERS_MAX) break;
		if (large && rest > SEND_CHUNK_MAX)
			want = SEND_CHUNK_SIZE;
		else if (rest > SEND_TOGETHER_MAX)
			want = WIRE_COALESCE_MAX;
		if (a->fd_count > 0 && from == 0) control_fill(sb, a);
		uint64_t put = put_answer(&fl, a, from, want);
		q->sending += put;
		if (put < rest || large || a->fd_count > 0) break;
		from = 0;
	}
	return fl.iovs;
}

struct answer *sendq_sent(struct sendq *q)
{
	struct answer *out = NULL, **out_tail = &out;
	uint64_t n = q->sent + q->sending;

	q->bytes -= q->sending;
	q->sending = 0;
	while (q->head && n >= answer_size(q->head)) {
		struct answer *a = q->head;
		n -= answer_size(a);
		q->head = a->next;
		a->next = NULL;
		*out_tail = a;
		out_tail = &a->next;
	}
	if (!q->head) q->tail = &q->head;
	q->sent = n;
	return out;
}

struct answer *sendq_drop(struct sendq *q)
{
	uint64_t end = q->sent + q->sending;
	struct answer **at = &q->head;

	if (q->sending == 0) {
		end = 0;
		q->sent = 0;
	}
	q->bytes = q->sending;
	while (*at && end > 0) {
		uint64_t size = answer_size(*at);
		q->bytes += size > end ? size - end : 0;
		end -= size < end ? size : end;
		at = &(*at)->next;
	}
	struct answer *out = *at;
	*at = NULL;
	q->tail = at;
	return out;
}
