/* SPDX-License-Identifier: Apache-2.0 */
/* nearest.h -- "did you mean": words that people mistyped. */
#pragma once

#include <stddef.h>

/* The name closest to `word` by edits, or NULL when none is close. */
const char *nearest_word(const char *word, const char *const *names, size_t count);
