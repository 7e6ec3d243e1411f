/* SPDX-License-Identifier: Apache-2.0 */
/* name.c -- UTF-8 and the rules for keys, components and bucket names (docs/FORMAT.md 1.5). */
#include "common/name.h"

#include "common/error.h"

/* Bytes of the UTF-8 sequence at p, 0 when there is no valid one (RFC 3629, section 4). */
static size_t utf8_sequence(const uint8_t *p, size_t left)
{
	uint8_t c = p[0];
	/* Bounds of the second byte: no overlong form, no surrogate, not past U+10FFFF. */
	uint8_t lo = 0x80, hi = 0xbf;
	size_t n;

	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	n = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	if (c == 0xe0)
		lo = 0xa0;
	else if (c == 0xed)
		hi = 0x9f;
	else if (c == 0xf0)
		lo = 0x90;
	else if (c == 0xf4)
		hi = 0x8f;
	if (left < n || p[1] < lo || p[1] > hi)
		return 0;
	for (size_t i = 2; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

/* Keys are mostly ASCII: eight bytes at a time while no top bit is set. */
bool utf8_valid(struct slice s)
{
	size_t i = 0;

	while (i < s.len) {
		uint64_t word;
		if (s.len - i >= sizeof(word)) {
			memcpy(&word, s.p + i, sizeof(word));
			if (!(word & 0x8080808080808080u)) {
				i += sizeof(word);
				continue;
			}
		}
		size_t n = utf8_sequence(s.p + i, s.len - i);
		if (n == 0)
			return false;
		i += n;
	}
	return true;
}

static bool has_byte(struct slice s, int byte)
{
	return s.len > 0 && memchr(s.p, byte, s.len);
}

int key_check(struct slice key)
{
	if (key.len < 1 || key.len > KEY_LEN_MAX)
		return -GRANARY_ENAME;
	return has_byte(key, 0) || !utf8_valid(key) ? -GRANARY_ENAME : 0;
}

int component_check(struct slice name)
{
	if (name.len > KEY_LEN_MAX)
		return -GRANARY_ENAME;
	return has_byte(name, 0) || has_byte(name, '/') || !utf8_valid(name) ? -GRANARY_ENAME : 0;
}

static bool is_digit(uint8_t c)
{
	return c >= '0' && c <= '9';
}

static bool is_alnum_lower(uint8_t c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z');
}

/* Four runs of digits with dots between; the caller has refused "..", a first and a last dot. */
static bool looks_like_ipv4(struct slice name)
{
	unsigned dots = 0;

	for (size_t i = 0; i < name.len; i++) {
		if (name.p[i] == '.')
			dots++;
		else if (!is_digit(name.p[i]))
			return false;
	}
	return dots == 3;
}

int bucket_name_check(struct slice name)
{
	if (name.len < BUCKET_LEN_MIN || name.len > BUCKET_LEN_MAX)
		return -GRANARY_ENAME;
	if (!is_alnum_lower(name.p[0]) || !is_alnum_lower(name.p[name.len - 1]))
		return -GRANARY_ENAME;
	for (size_t i = 1; i + 1 < name.len; i++) {
		uint8_t c = name.p[i];
		if (!is_alnum_lower(c) && c != '-' && c != '.')
			return -GRANARY_ENAME;
		if (c == '.' && name.p[i + 1] == '.')
			return -GRANARY_ENAME;
	}
	return looks_like_ipv4(name) ? -GRANARY_ENAME : 0;
}

void key_split(struct slice key, struct slice *dir, struct slice *leaf)
{
	size_t at = key.len; /* just past the last '/' */

	while (at > 0 && key.p[at - 1] != '/')
		at--;
	*dir = (struct slice){ key.p, at };
	*leaf = (struct slice){ at > 0 ? key.p + at : key.p, key.len - at }; /* p may be NULL when len is 0 */
}

bool path_next(struct slice *rest, struct slice *name)
{
	if (rest->len == 0)
		return false;
	const uint8_t *slash = memchr(rest->p, '/', rest->len);
	size_t n = slash ? (size_t)(slash - rest->p) : rest->len;
	size_t skip = slash ? n + 1 : n;
	*name = (struct slice){ rest->p, n };
	*rest = (struct slice){ rest->p + skip, rest->len - skip };
	return true;
}

/* What one character at p becomes in out (at most 4 bytes); *used is how much of p it was. */
static size_t escape_one(char out[4], const uint8_t *p, size_t left, size_t *used)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = utf8_sequence(p, left);
	bool control = n == 1 ? p[0] < 0x20 || p[0] == 0x7f : n == 2 && p[0] == 0xc2 && p[1] < 0xa0;
	bool quote = p[0] == '"' || p[0] == '\'' || p[0] == '\\';

	*used = 1;
	if (n == 0 || control || quote) {
		out[0] = '\\';
		out[1] = 'x';
		out[2] = hex[p[0] >> 4];
		out[3] = hex[p[0] & 15];
		return 4;
	}
	memcpy(out, p, n);
	*used = n;
	return n;
}

char *name_escape(char *dst, size_t cap, struct slice s)
{
	static const char dots[] = "...";
	size_t at = 0, cut = 0, used; /* cut: the last end that leaves room for the dots */

	if (cap == 0)
		return dst;
	for (size_t i = 0; i < s.len; i += used) {
		char one[4];
		size_t n = escape_one(one, s.p + i, s.len - i, &used);
		if (at + n + 1 > cap) {
			size_t room = cap - 1 - cut < 3 ? cap - 1 - cut : 3;
			memcpy(dst + cut, dots, room);
			dst[cut + room] = '\0';
			return dst;
		}
		memcpy(dst + at, one, n);
		at += n;
		if (at + 4 <= cap)
			cut = at;
	}
	dst[at] = '\0';
	return dst;
}
