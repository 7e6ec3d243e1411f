/* SPDX-License-Identifier: Apache-2.0 */
/* framer.h -- cuts a stream of bytes into frames (PROTOCOL 1). No I/O, no allocation: the caller says where a body goes
 * once the header is known and judged, and either copies received bytes in or receives straight into place.
 *
 *   HEADER -> BODY    framer_header() gave 1 and framer_body() was called
 *   BODY   -> HEADER  framer_reset(), after the body is complete */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/wire.h"

struct framer_caps {
	uint32_t meta_max, data_max;
};

struct framer {
	uint8_t head[WIRE_HEADER_SIZE]; /* of a header that came in parts */
	uint8_t head_len;
	bool known;    /* `frame` is a judged header */
	bool has_body; /* framer_body() was called */
	struct frame frame;
	uint8_t *meta, *data;
	uint64_t got; /* bytes of meta and data so far */
};

static inline void framer_reset(struct framer *fr)
{
	*fr = (struct framer){ 0 };
}
/* A frame has begun and is not complete. */
static inline bool framer_in_frame(const struct framer *fr)
{
	return fr->head_len > 0 || fr->known;
}
/* Consumes header bytes from *in. 1: fr->frame is known (at once when it is already); 0: more bytes are needed; or
 * -GRANARY_EPROTO (magic, checksum, request id 0), -GRANARY_EVERSION, -GRANARY_ETOOBIG (above caps). */
int framer_header(struct framer *fr, struct slice *in, const struct framer_caps *caps);
/* Where the body goes: meta_len and data_len bytes. */
void framer_body(struct framer *fr, uint8_t *meta, uint8_t *data);
/* Copies from *in; true when the body is complete. */
bool framer_fill(struct framer *fr, struct slice *in);
/* The next place to receive into: *at and how many bytes fit there; 0 when the body is complete. */
size_t framer_room(const struct framer *fr, uint8_t **at);
void framer_received(struct framer *fr, size_t len);
/* Bytes of the body still missing. */
uint64_t framer_missing(const struct framer *fr);
/* Of a complete frame: 0 or -GRANARY_EPROTO (checksum of the meta; status or flags of a request). */
int framer_check(const struct framer *fr);
