/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/super_text.h"

#include <string.h>

struct slice super_line(struct slice text, const char *key)
{
	size_t key_len = strlen(key);

	while (text.len > 0) {
		const uint8_t *end = memchr(text.p, '\n', text.len);
		size_t len = end != NULL ? (size_t)(end - text.p) : text.len;

		if (len > key_len && memcmp(text.p, key, key_len) == 0 && text.p[key_len] == '=')
			return slice_of(text.p + key_len + 1, len - key_len - 1);
		len += end != NULL;
		text = slice_of(text.p + len, text.len - len);
	}
	return slice_of(NULL, 0);
}

bool super_number(struct slice s, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (s.len == 0 || s.len > 19) return false;
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] < '0' || s.p[i] > '9') return false;
		v = 10 * v + (uint64_t)(s.p[i] - '0');
	}
	*out = v;
	return v <= max;
}

static int hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9') return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool super_hex(struct slice s, uint8_t *out, size_t len)
{
	if (s.len != 2 * len) return false;
	for (size_t i = 0; i < len; i++) {
		int hi = hex_digit(s.p[2 * i]), lo = hex_digit(s.p[2 * i + 1]);

		if (hi < 0 || lo < 0) return false;
		out[i] = (uint8_t)(hi << 4 | lo);
	}
	return true;
}
