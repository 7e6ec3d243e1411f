/* SPDX-License-Identifier: Apache-2.0 */
/* glob.h -- patterns over keys, byte by byte, the same in every locale; docs/ORDER.md 8.3.
 * `*` any bytes, `/` too; `?` one byte; `[a-z_]`, `[!a-z]` one byte of a set, or none of it; `\` takes the next byte as
 * it is. A `[` without its `]` stands for itself. No recursion, no allocation: at most pattern * key steps. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

bool glob_match(const char *pattern, const char *key);
/* How many bytes at the beginning of the pattern stand for themselves: keys that match begin with them. */
size_t glob_literal(const char *pattern);
