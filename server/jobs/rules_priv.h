/* SPDX-License-Identifier: Apache-2.0 */
/* rules_priv.h -- private to rules_*.c. */
#pragma once

#include "jobs/rules.h"

struct rules {
	struct rule *at;
	uint32_t count;
	uint32_t *sorted;  /* by bucket, prefix, place in the file */
	uint16_t *lengths; /* of prefixes: each once, ascending */
	uint32_t length_count;
	char *notes[RULES_NOTES_MAX + 1];
	uint32_t note_count, notes_left_out;
};

int rules_index(struct rules *rules);                            /* rules_match.c */
int rules_judge(struct rules *rules, char *why, size_t why_cap); /* rules_judge.c: what cannot be; notes */
