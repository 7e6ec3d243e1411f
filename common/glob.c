/* SPDX-License-Identifier: Apache-2.0 */
/* glob.c -- see glob.h. */
#include "common/glob.h"

#include <string.h>

size_t glob_literal(const char *pattern)
{
	return strcspn(pattern, "*?[\\");
}

/* The end of a set that begins at p ('['), behind its ']'; NULL: it has none. */
static const char *set_end(const char *p)
{
	p++;
	if (*p == '!' || *p == '^')
		p++;
	if (*p == ']') /* the first one is a member */
		p++;
	while (*p != '\0' && *p != ']')
		p += p[0] == '\\' && p[1] != '\0' ? 2 : 1;
	return *p == ']' ? p + 1 : NULL;
}

static unsigned char set_byte(const char **p)
{
	if (**p == '\\' && (*p)[1] != '\0')
		(*p)++;
	return (unsigned char)*(*p)++;
}

static bool set_has(const char *p, const char *end, unsigned char c)
{
	bool negated = p[1] == '!' || p[1] == '^', has = false;

	p += negated ? 2 : 1;
	end--;
	while (p < end) {
		unsigned char low = set_byte(&p), high = low;
		if (p + 1 < end && *p == '-') {
			p++;
			high = set_byte(&p);
		}
		has = has || (c >= low && c <= high);
	}
	return has != negated;
}

/* Does one byte match what stands at *p, which is no star? Then *p goes on behind it. */
static bool one_match(const char **p, unsigned char c)
{
	const char *end = **p == '[' ? set_end(*p) : NULL;

	if (c == '\0' || **p == '\0')
		return false;
	if (**p == '?') {
		(*p)++;
		return true;
	}
	if (end != NULL) {
		bool has = set_has(*p, end, c);
		*p = has ? end : *p;
		return has;
	}
	if (**p == '\\' && (*p)[1] != '\0') {
		bool same = (unsigned char)(*p)[1] == c;
		*p += same ? 2 : 0;
		return same;
	}
	if ((unsigned char)**p != c)
		return false;
	(*p)++;
	return true;
}

bool glob_match(const char *pattern, const char *key)
{
	const char *star = NULL, *again = NULL; /* behind the last star; where it has taken to */

	for (;;) {
		if (*pattern == '*') {
			star = ++pattern;
			again = key;
			if (*star == '\0')
				return true;
			continue;
		}
		if (*pattern == '\0' && *key == '\0')
			return true;
		if (one_match(&pattern, (unsigned char)*key)) {
			key++;
			continue;
		}
		if (star == NULL || *again == '\0')
			return false;
		key = ++again;
		pattern = star;
	}
}
