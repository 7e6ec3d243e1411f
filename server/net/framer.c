/* SPDX-License-Identifier: Apache-2.0 */
/* framer.c -- frames out of bytes, PROTOCOL 1.1 and 1.2.
 * Invariants: (1) lengths are judged against the caps before anyone allocates; (2) got <= meta_len + data_len; (3) no
 * byte beyond the frame is consumed. */
#include "net/framer.h"

#include <assert.h>
#include <string.h>

static void skip(struct slice *in, size_t n)
{
	if (n == 0) /* also of no bytes at all: p may be NULL */
		return;
	in->p += n;
	in->len -= n;
}

static int header_judge(const struct frame *f, const struct framer_caps *caps)
{
	if (f->meta_len > caps->meta_max || f->data_len > caps->data_max) return -GRANARY_ETOOBIG;
	if (f->request == 0 && f->op != OP_GOODBYE) return -GRANARY_EPROTO;
	if (f->flags & FRAME_RESPONSE && f->op != OP_GOODBYE) return -GRANARY_EPROTO;
	return 1;
}

int framer_header(struct framer *fr, struct slice *in, const struct framer_caps *caps)
{
	const uint8_t *head = in->p;
	int err;

	if (fr->known) return 1;
	if (fr->head_len > 0 || in->len < WIRE_HEADER_SIZE) {
		size_t n = WIRE_HEADER_SIZE - (size_t)fr->head_len;
		if (n > in->len) n = in->len;
		if (n > 0) memcpy(fr->head + fr->head_len, in->p, n);
		fr->head_len = (uint8_t)(fr->head_len + n);
		skip(in, n);
		if (fr->head_len >= 2 && (fr->head[0] != 'G' || fr->head[1] != 'N'))
			return -GRANARY_EPROTO; /* another protocol: do not wait for more of it */
		if (fr->head_len < WIRE_HEADER_SIZE) return 0;
		head = fr->head;
	} else {
		skip(in, WIRE_HEADER_SIZE);
	}
	err = frame_decode(head, &fr->frame);
	if (err < 0) return err;
	err = header_judge(&fr->frame, caps);
	fr->known = err == 1;
	return err;
}

void framer_body(struct framer *fr, uint8_t *meta, uint8_t *data)
{
	assert(fr->known && !fr->has_body);
	fr->meta = meta;
	fr->data = data;
	fr->got = 0;
	fr->has_body = true;
}

uint64_t framer_missing(const struct framer *fr)
{
	return (uint64_t)fr->frame.meta_len + fr->frame.data_len - fr->got;
}

size_t framer_room(const struct framer *fr, uint8_t **at)
{
	assert(fr->has_body);
	if (fr->got < fr->frame.meta_len) {
		*at = fr->meta + fr->got;
		return (size_t)(fr->frame.meta_len - fr->got);
	}
	uint64_t data_got = fr->got - fr->frame.meta_len;
	*at = data_got < fr->frame.data_len ? fr->data + data_got : NULL;
	return (size_t)(fr->frame.data_len - data_got);
}

void framer_received(struct framer *fr, size_t len)
{
	assert(len <= framer_missing(fr));
	fr->got += len;
}

bool framer_fill(struct framer *fr, struct slice *in)
{
	uint8_t *at;
	size_t room;

	while ((room = framer_room(fr, &at)) > 0 && in->len > 0) {
		size_t n = room < in->len ? room : in->len;
		memcpy(at, in->p, n);
		skip(in, n);
		fr->got += n;
	}
	return room == 0;
}

int framer_check(const struct framer *fr)
{
	const struct frame *f = &fr->frame;
	uint32_t crc = f->meta_len ? crc32c(0, fr->meta, f->meta_len) : 0;

	assert(fr->has_body && framer_missing(fr) == 0);
	if (crc != f->meta_crc) return -GRANARY_EPROTO;
	if (f->op == OP_GOODBYE) return 0;
	if (f->status != 0 || (f->flags & ~(FRAME_RESENT | FRAME_UNSTABLE | FRAME_REPLAY | FRAME_FENCED)) != 0)
		return -GRANARY_EPROTO;
	return 0;
}
