/* SPDX-License-Identifier: Apache-2.0 */
#include "common/nearest.h"

#include <stdint.h>
#include <string.h>

enum { NEAREST_LEN_MAX = 40, NEAREST_EDITS_MAX = 3 };

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned m = a < b ? a : b;
	return m < c ? m : c;
}

static unsigned edit_distance(const char *a, const char *b)
{
	unsigned row[NEAREST_LEN_MAX + 1];
	size_t a_len = strlen(a), b_len = strlen(b);

	if (a_len > NEAREST_LEN_MAX || b_len > NEAREST_LEN_MAX) return UINT32_MAX;
	for (unsigned j = 0; j <= b_len; j++) row[j] = j;
	for (unsigned i = 1; i <= a_len; i++) {
		unsigned diagonal = row[0];
		row[0] = i;
		for (unsigned j = 1; j <= b_len; j++) {
			unsigned above = row[j];
			row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
			diagonal = above;
		}
	}
	return row[b_len];
}

const char *nearest_word(const char *word, const char *const *names, size_t count)
{
	const char *best = NULL;
	unsigned best_edits = NEAREST_EDITS_MAX + 1;

	for (size_t i = 0; i < count; i++) {
		unsigned edits = edit_distance(word, names[i]);
		if (edits < best_edits && edits * 2 <= strlen(names[i])) {
			best_edits = edits;
			best = names[i];
		}
	}
	return best;
}
