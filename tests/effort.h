/* SPDX-License-Identifier: Apache-2.0 */
/* effort.h -- how much of a test of many rounds runs: its usual number, an eighth of it under a sanitizer (which makes
 * it several times slower), the lengthy number with tools/test --long; a variable of the environment overrides all. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* The number that the variable name holds, or otherwise where it is not set. */
static inline uint64_t effort_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL && text[0] != '\0' ? strtoull(text, NULL, 10) : otherwise;
}

static inline bool effort_is_sanitized(void)
{
	const char *sanitize = getenv("GRANARY_SANITIZE");

	return sanitize != NULL && sanitize[0] != '\0';
}

/* Rounds of a test; override: the variable that sets them by hand. */
static inline uint64_t effort(const char *override, uint64_t usual, uint64_t lengthy)
{
	uint64_t few = effort_is_sanitized() ? (usual + 7) / 8 : usual;

	return effort_number(override, effort_number("GRANARY_TEST_LONG", 0) != 0 ? lengthy : few);
}
