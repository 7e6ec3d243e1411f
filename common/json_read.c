/* SPDX-License-Identifier: Apache-2.0 */
/* json_read.c -- RFC 8259 as far as it is needed: objects, arrays, strings, whole numbers.
 * Invariants: (1) p <= end, and nothing is read at end; (2) a string takes at most as many bytes as its quoted form. */
#include "common/json_read.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/name.h"

void json_reader_init(struct json_reader *j, const char *text, size_t len, char *why, size_t why_cap)
{
	*j = (struct json_reader){ .p = text, .start = text, .end = len ? text + len : text, .why = why,
		.why_cap = why_cap };
}

bool json_fail(struct json_reader *j, const char *format, ...)
{
	unsigned line = 1;
	va_list args;
	int n;

	if (j->bad)
		return false;
	j->bad = true;
	for (const char *p = j->start; p < j->p; p++)
		line += *p == '\n';
	if (j->why_cap == 0)
		return false;
	n = snprintf(j->why, j->why_cap, "line %u: %s%s", line, j->path, j->path[0] ? ": " : "");
	va_start(args, format);
	if (n > 0 && (size_t)n < j->why_cap)
		vsnprintf(j->why + n, j->why_cap - (size_t)n, format, args);
	va_end(args);
	return false;
}

/* The next character that is no white space; 0 at the end. */
static char peek(struct json_reader *j)
{
	while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r'))
		j->p++;
	return j->bad || j->p == j->end ? '\0' : *j->p;
}

static bool take(struct json_reader *j, char c)
{
	if (j->bad || peek(j) != c || j->p == j->end)
		return false;
	j->p++;
	return true;
}

bool json_end(struct json_reader *j)
{
	peek(j);
	if (j->p != j->end)
		json_fail(j, "something follows the end of the recipe");
	return !j->bad;
}

bool json_enter(struct json_reader *j, char open)
{
	return take(j, open) || json_fail(j, "expected '%c'", open);
}

bool json_next(struct json_reader *j, char close, uint32_t *index)
{
	if (j->bad || take(j, close))
		return false;
	if (*index > 0 && !take(j, ','))
		return json_fail(j, "expected ',' or '%c'", close);
	if (*index > 0 && peek(j) == close)
		return json_fail(j, "a ',' before '%c'", close);
	(*index)++;
	return true;
}

/* ---- path ---- */

size_t json_push(struct json_reader *j, uint32_t index)
{
	size_t len = strlen(j->path);

	if (!j->bad)
		snprintf(j->path + len, sizeof(j->path) - len, "[%u]", index);
	return len;
}

void json_pop(struct json_reader *j, size_t path_len)
{
	j->path[path_len] = '\0';
}

int json_field(struct json_reader *j, const char *const *names, uint32_t *seen)
{
	size_t len = strlen(j->path);
	const char *name;
	char shown[48];
	size_t name_len = 0;

	if (peek(j) != '"') {
		json_fail(j, "expected the name of a field, in quotes");
		return -1;
	}
	for (name = ++j->p; j->p < j->end && *j->p != '"'; j->p++)
		name_len++;
	for (int i = 0; names[i] != NULL && j->p < j->end; i++) {
		if (strlen(names[i]) != name_len || memcmp(names[i], name, name_len) != 0)
			continue;
		snprintf(j->path + len, sizeof(j->path) - len, "%s%s", len ? "." : "", names[i]);
		if (*seen & 1u << i)
			json_fail(j, "given twice");
		*seen |= 1u << i;
		j->p++;
		return take(j, ':') || json_fail(j, "expected ':'") ? i : -1;
	}
	json_fail(j, "unknown field '%s'", name_escape(shown, sizeof(shown), slice_of(name, name_len)));
	return -1;
}

/* ---- values ---- */

uint64_t json_u64(struct json_reader *j, uint64_t least, uint64_t most)
{
	char first = peek(j);
	uint64_t v = 0;
	bool large = false;

	if (j->bad)
		return 0;
	if (first == '-' || first == '+') {
		json_fail(j, "negative or signed; it must be %llu to %llu", (unsigned long long)least,
			(unsigned long long)most);
		return 0;
	}
	if (first < '0' || first > '9') {
		json_fail(j, "expected a whole number");
		return 0;
	}
	for (; j->p < j->end && *j->p >= '0' && *j->p <= '9'; j->p++) {
		uint64_t digit = (uint64_t)(*j->p - '0');
		large = large || v > (UINT64_MAX - digit) / 10;
		v = v * 10 + digit;
	}
	if (first == '0' && j->p[-1] != '0')
		json_fail(j, "a number with a leading 0");
	else if (j->p < j->end && (*j->p == '.' || *j->p == 'e' || *j->p == 'E'))
		json_fail(j, "a fraction; it must be a whole number");
	else if (large || v < least || v > most)
		json_fail(j, "out of range; it must be %llu to %llu", (unsigned long long)least,
			(unsigned long long)most);
	return j->bad ? 0 : v;
}

static bool hex4(struct json_reader *j, uint32_t *out)
{
	*out = 0;
	for (int i = 0; i < 4; i++, j->p++) {
		char c = j->p < j->end ? *j->p : '\0';
		if (c >= '0' && c <= '9')
			*out = *out << 4 | (uint32_t)(c - '0');
		else if (((c | 32) >= 'a' && (c | 32) <= 'f'))
			*out = *out << 4 | (uint32_t)((c | 32) - 'a' + 10);
		else
			return json_fail(j, "\\u needs four hexadecimal digits");
	}
	return true;
}

static char *utf8_put(char *out, uint32_t v)
{
	if (v < 0x80) {
		*out++ = (char)v;
	} else if (v < 0x800) {
		*out++ = (char)(0xc0 | v >> 6);
		*out++ = (char)(0x80 | (v & 63));
	} else if (v < 0x10000) {
		*out++ = (char)(0xe0 | v >> 12);
		*out++ = (char)(0x80 | (v >> 6 & 63));
		*out++ = (char)(0x80 | (v & 63));
	} else {
		*out++ = (char)(0xf0 | v >> 18);
		*out++ = (char)(0x80 | (v >> 12 & 63));
		*out++ = (char)(0x80 | (v >> 6 & 63));
		*out++ = (char)(0x80 | (v & 63));
	}
	return out;
}

static char *unicode_escape(struct json_reader *j, char *out)
{
	uint32_t v, low;

	if (!hex4(j, &v))
		return out;
	if (v >= 0xd800 && v < 0xdc00) {
		if (j->end - j->p < 2 || j->p[0] != '\\' || j->p[1] != 'u') {
			json_fail(j, "half of a surrogate pair");
			return out;
		}
		j->p += 2;
		if (!hex4(j, &low))
			return out;
		if (low < 0xdc00 || low > 0xdfff)
			json_fail(j, "half of a surrogate pair");
		v = 0x10000 + ((v & 0x3ff) << 10) + (low & 0x3ff);
	} else if (v == 0 || (v >= 0xdc00 && v < 0xe000)) {
		json_fail(j, "\\u%04x is not allowed", v);
	}
	return j->bad ? out : utf8_put(out, v);
}

static char *escape(struct json_reader *j, char *out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	char c = j->p < j->end ? *j->p : '\0';
	const char *at = c ? strchr(from, c) : NULL;

	if (c == 'u') {
		j->p++;
		return unicode_escape(j, out);
	}
	if (at == NULL) {
		json_fail(j, "an escape that JSON does not have");
		return out;
	}
	j->p++;
	*out++ = to[at - from];
	return out;
}

const char *json_string(struct json_reader *j, char **out, size_t max)
{
	char *start = *out, *at = start;

	if (!take(j, '"')) {
		json_fail(j, "expected a string in quotes");
		return NULL;
	}
	while (!j->bad && j->p < j->end && *j->p != '"') {
		if ((unsigned char)*j->p < 0x20)
			json_fail(j, "a control character in a string");
		else if (*j->p == '\\')
			j->p++, at = escape(j, at);
		else
			*at++ = *j->p++;
	}
	if (!j->bad && j->p == j->end)
		json_fail(j, "a string without its end");
	if (j->bad)
		return NULL;
	j->p++;
	*at++ = '\0';
	if (at - start == 1 || (size_t)(at - start - 1) > max)
		json_fail(j, "%zu bytes; it must be 1 to %zu", (size_t)(at - start - 1), max);
	else if (!utf8_valid(slice_of(start, (size_t)(at - start - 1))))
		json_fail(j, "not UTF-8");
	*out = at;
	return j->bad ? NULL : start;
}
