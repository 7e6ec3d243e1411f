/* SPDX-License-Identifier: Apache-2.0 */
/* archive_names.c -- see archive_names.h. */
#include "archive_names.h"

#include <string.h>

#include "common/name.h"

static bool is_here(const char *part, size_t len)
{
	return len == 0 || (len == 1 && part[0] == '.');
}

static bool is_up(const char *part, size_t len)
{
	return len == 2 && part[0] == '.' && part[1] == '.';
}

const char *member_name(char *out, const char *path, const char **why)
{
	size_t len = 0;

	*why = path[0] == '/' ? "it is an absolute path" : NULL;
	while (*why == NULL && *path != '\0') {
		size_t part = strcspn(path, "/");
		if (is_up(path, part))
			*why = "it has a component '..'";
		else if (!is_here(path, part)) {
			if (len + (len > 0) + part > GRANARY_KEY_LEN_MAX) {
				*why = "it is longer than a key may be";
				break;
			}
			if (len > 0) out[len++] = '/';
			memcpy(out + len, path, part);
			len += part;
		}
		path += part + (path[part] == '/');
	}
	out[len] = '\0';
	if (*why == NULL && !utf8_valid(slice_of(out, len))) *why = "it is not UTF-8";
	return *why == NULL ? out : NULL;
}

bool member_link_stays(const char *name, const char *target)
{
	bool is_below = false; /* a name was met */
	int depth = 0;

	if (target[0] == '/') return false;
	for (const char *p = name; *p != '\0'; p++) depth += *p == '/';
	while (*target != '\0') {
		size_t part = strcspn(target, "/");
		if (is_up(target, part) && (is_below || --depth < 0)) return false;
		is_below |= !is_up(target, part) && !is_here(target, part);
		target += part + (target[part] == '/');
	}
	return true;
}
