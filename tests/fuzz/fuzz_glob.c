/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_glob.c -- patterns and keys of any bytes, the two divided by a newline: the answer is that of the definition, by
 * recursion, and what is literal at the beginning is at the beginning of each key that matches. */
#include "common/glob.h"

#include <assert.h>
#include <string.h>

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LEN_MAX = 24 };

/* Without sets. */
static bool slow_match(const char *p, const char *key)
{
	size_t len = p[0] == '\\' && p[1] != '\0' ? 2 : 1;

	if (*p == '\0')
		return *key == '\0';
	while (p[0] == '*' && p[1] == '*') /* the same as one, which takes less time */
		p++;
	if (*p == '*')
		return slow_match(p + 1, key) || (*key != '\0' && slow_match(p, key + 1));
	if (*key == '\0')
		return false;
	return (*p == '?' || p[len - 1] == *key) && slow_match(p + len, key + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *line = size > 0 ? memchr(data, '\n', size) : NULL;
	char pattern[LEN_MAX + 1] = "", key[LEN_MAX + 1] = "";
	size_t pattern_len = line != NULL ? (size_t)(line - data) : size;
	size_t key_len = line != NULL ? size - pattern_len - 1 : 0;
	bool matches, sets;

	if (pattern_len > LEN_MAX || key_len > LEN_MAX)
		return 0;
	if (pattern_len > 0)
		memcpy(pattern, data, pattern_len);
	if (key_len > 0)
		memcpy(key, line + 1, key_len);
	matches = glob_match(pattern, key);
	sets = strpbrk(pattern, "[") != NULL;
	if (matches)
		assert(strncmp(pattern, key, glob_literal(pattern)) == 0);
	if (!sets)
		assert(matches == slow_match(pattern, key));
	return 0;
}
