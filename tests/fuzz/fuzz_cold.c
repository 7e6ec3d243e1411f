/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_cold.c -- compressed cold copies and their index over any bytes. The first byte chooses: a whole copy,
 * or an index followed by the stored bytes of its frames. What is parsed keeps its addresses inside of the
 * copy, and decodes to as many bytes as it says, or is refused; the index of a copy parses to the same. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "tier/frames.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 1024 * 1024, OUT_MAX = 2 * 1024 * 1024 };

static void require(bool ok)
{
	if (!ok) abort();
}

static void decode(const struct frames *f, const uint8_t *copy, size_t size)
{
	uint64_t raw_len = frames_info(f)->raw_len, from;
	size_t len = raw_len < OUT_MAX ? (size_t)raw_len : OUT_MAX, comp_len;
	uint8_t *out;

	require(frames_range(f, raw_len, 1, &from, &comp_len) == -GRANARY_ERANGE);
	if (len == 0 || frames_range(f, 0, len, &from, &comp_len) != 0) return;
	require(from >= FRAMES_HEAD_SIZE && from + comp_len <= frames_file_len(f));
	if (from + comp_len > size) return;
	out = malloc(len);
	require(out != NULL);
	(void)frames_decode(f, copy + from, comp_len, 0, len, out);
	require(frames_decode(f, copy + from, comp_len - 1, 0, len, out) < 0);
	if (len > 3 && frames_range(f, len / 2, 1, &from, &comp_len) == 0 && from + comp_len <= size)
		(void)frames_decode(f, copy + from, comp_len, len / 2, 1, out);
	free(out);
}

static void copy_try(const uint8_t *data, size_t size)
{
	struct frames *f, *again;
	uint64_t need;
	uint8_t *index;
	size_t len;

	if (frames_parse(data, size, size, &need, &f) != 0) return;
	if (frames_head_len(f) <= size && frames_take_head(f, data, frames_head_len(f)) == 0) {
		require(frames_index_encode(f, &index, &len) == 0);
		require(frames_index_parse(index, len, &again) == 0);
		require(frames_count(again) == frames_count(f) && frames_file_len(again) == frames_file_len(f));
		frames_unref(&again);
		free(index);
		decode(f, data, size);
	}
	frames_unref(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frames *f;

	if (size < 2 || size > INPUT_MAX) return 0;
	if (data[0] % 2 == 0) {
		copy_try(data + 1, size - 1);
	} else if (frames_index_parse(data + 1, size - 1, &f) == 0) {
		decode(f, data + 1, size - 1);
		frames_unref(&f);
	}
	return 0;
}
