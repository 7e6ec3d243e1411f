/* SPDX-License-Identifier: Apache-2.0 */
/* text_sort.h -- texts with two numbers each, given back in the order of their bytes; equal ones in the order of their
 * arrival. What passes the memory given goes to a spool (spool.h). Blocking; one thread. */
#pragma once

#include "common/bytes.h"
#include "jobs/spool.h"

enum { TEXT_SORT_LEN_MAX = 4096 };

struct text_sorter;
struct text_sorter *text_sorter_new(const struct spool_options *o); /* NULL: no memory */
void text_sorter_free(struct text_sorter **s);
int text_sorter_add(struct text_sorter *s, struct slice text, const uint64_t value[2]);
int text_sorter_finish(struct text_sorter *s); /* no more: from here on text_sorter_next() */
/* 1, 0 at the end, or an error; *text is valid until the next call. */
int text_sorter_next(struct text_sorter *s, struct slice *text, uint64_t value[2]);
