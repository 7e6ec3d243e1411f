/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_frame.c -- a stream of bytes as a connection would get it. The first byte chooses how the rest is
 * cut: frames must come out the same as from one piece, and no header may ask for more than the caps.
 * HELLO metas go to their parser. The top bit of the first byte has the checksums repaired first: no
 * fuzzer guesses those. */
#include "net/framer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "net/handshake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct framer_caps caps = { WIRE_PREAUTH_META_MAX, 64 * 1024 };

struct summary {
	uint32_t frames, digest;
	int err;
};

static void frame_note(struct summary *s, const struct framer *fr)
{
	struct hello hello;
	const char *why;

	s->frames++;
	s->digest = crc32c(s->digest, fr->meta, fr->frame.meta_len);
	s->digest = crc32c(s->digest, fr->data, fr->frame.data_len);
	s->digest = s->digest * 31 + (uint32_t)(framer_check(fr) != 0);
	if (hello_parse(slice_of(fr->meta, fr->frame.meta_len), &hello, &why) == 0)
		assert(hello.key_id.len <= HELLO_KEY_ID_MAX && hello.nonce != NULL);
}

static struct summary stream_run(const uint8_t *p, size_t len, size_t step)
{
	struct summary s = { 0 };
	struct framer fr;

	framer_reset(&fr);
	for (size_t at = 0; at < len; at += step) {
		struct slice in = slice_of(p + at, step < len - at ? step : len - at);
		for (;;) {
			if (!fr.has_body) {
				int res = framer_header(&fr, &in, &caps);
				if (res < 0) {
					s.err = res;
					return s;
				}
				if (res == 0) break;
				assert(fr.frame.meta_len <= caps.meta_max &&
					fr.frame.data_len <= caps.data_max);
				framer_body(&fr, malloc((size_t)fr.frame.meta_len + 1),
					malloc((size_t)fr.frame.data_len + 1));
			}
			if (!framer_fill(&fr, &in)) break;
			frame_note(&s, &fr);
			free(fr.meta);
			free(fr.data);
			framer_reset(&fr);
		}
	}
	if (fr.has_body) {
		free(fr.meta);
		free(fr.data);
	}
	return s;
}

static void checksums_repair(uint8_t *p, size_t len)
{
	size_t at = 0;

	while (len - at >= WIRE_HEADER_SIZE) {
		uint8_t *head = p + at;
		uint32_t meta_len, data_len, crc = 0;
		memcpy(&meta_len, head + 8, 4);
		memcpy(&data_len, head + 12, 4);
		size_t left = len - at - WIRE_HEADER_SIZE;
		if (meta_len > 0 && meta_len <= left)
			crc = crc32c(0, head + WIRE_HEADER_SIZE, meta_len);
		memcpy(head + 24, &crc, 4);
		crc = crc32c(0, head, 28);
		memcpy(head + 28, &crc, 4);
		if (meta_len > left || data_len > left - meta_len) return;
		at += (size_t)WIRE_HEADER_SIZE + meta_len + data_len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2) return 0;
	size_t len = size - 1;
	uint8_t *stream = malloc(len);
	if (!stream) return 0;
	memcpy(stream, data + 1, len);
	if (data[0] & 0x80) checksums_repair(stream, len);
	struct summary whole = stream_run(stream, len, len);
	struct summary cut = stream_run(stream, len, 1 + (size_t)data[0] % 61);
	assert(whole.frames == cut.frames && whole.digest == cut.digest && whole.err == cut.err);
	free(stream);
	return 0;
}
