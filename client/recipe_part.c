/* SPDX-License-Identifier: Apache-2.0 */
/* recipe_part.c -- the samples of a snapshot below one directory, in an order of their own: SNAPSHOT/PREFIX names the
 * recipe whose one source is that part, once an epoch. Its text follows from the name, so no server keeps it; everybody
 * who opens it has the same one, and the same hash (docs/ORDER.md 8.5). */
#include "recipe_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Without the slashes at its end. */
static size_t dir_len(const char *prefix)
{
	size_t len = strlen(prefix);

	while (len > 0 && prefix[len - 1] == '/')
		len--;
	return len;
}

/* A byte of a glob that is to match itself, in a JSON text. */
static void glob_put(struct wr *w, char byte)
{
	char text[8];

	if (strchr("*?[]\\", byte))
		wr_slice(w, slice_str("\\\\"));
	if (byte == '"' || byte == '\\')
		wr_u8(w, '\\');
	if ((unsigned char)byte < 0x20)
		snprintf(text, sizeof(text), "\\u%04x", (unsigned char)byte);
	else
		snprintf(text, sizeof(text), "%c", byte);
	wr_slice(w, slice_str(text));
}

char *part_recipe_text(const char *bucket, const char *name)
{
	const char *prefix = strchr(name, '/') + 1;
	size_t len = dir_len(prefix), cap = 100 + strlen(bucket) + strlen(name) + 8 * len;
	char *text = malloc(cap);
	struct wr w = wr_of(text, text ? cap : 0);

	if (!text)
		return NULL;
	wr_slice(&w, slice_str("{\"sources\":[{\"snapshot\":\""));
	wr_slice(&w, slice_str(bucket));
	wr_u8(&w, '@');
	wr_slice(&w, slice_of(name, (size_t)(prefix - 1 - name)));
	wr_slice(&w, slice_str("\",\"repeat\":1,\"include\":[\""));
	for (size_t i = 0; i < len; i++)
		glob_put(&w, prefix[i]);
	wr_slice(&w, slice_str("/*\"]}]}"));
	wr_u8(&w, 0);
	return text;
}

bool part_is_whole(const struct granary_snapshot *s, const char *prefix)
{
	size_t len = dir_len(prefix);

	return strncmp(s->prefix, prefix, len) == 0 &&
		(len == 0 || s->prefix[len] == '/' || s->prefix[len] == '\0');
}

void part_name_escape(char out[PART_TEXT_MAX + 1], const char *name)
{
	size_t n = 0;

	for (const unsigned char *p = (const unsigned char *)name; *p && n + 3 <= PART_TEXT_MAX; p++) {
		if (*p > ' ' && *p < 127 && *p != '%')
			out[n++] = (char)*p;
		else
			n += (size_t)snprintf(out + n, 4, "%%%02x", *p);
	}
	out[n] = '\0';
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void part_name_unescape(char *name)
{
	char *to = name;

	for (const char *p = name; *p; p++) {
		int high = *p == '%' ? hex_digit(p[1]) : -1, low = high >= 0 ? hex_digit(p[2]) : -1;
		if (low >= 0)
			p += 2;
		*to++ = low >= 0 ? (char)(high * 16 + low) : *p;
	}
	*to = '\0';
}
