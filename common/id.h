/* SPDX-License-Identifier: Apache-2.0 */
/* id.h -- ids: (24-bit incarnation, 40-bit counter), FORMAT 1.2. 0 is never an id. */
#pragma once

#include <stdint.h>

enum { ID_COUNTER_BITS = 40 };
#define ID_COUNTER_MAX ((UINT64_C(1) << ID_COUNTER_BITS) - 1)
#define ID_INCARNATION_MAX ((UINT32_C(1) << 24) - 1)

static inline uint64_t id_make(uint32_t incarnation, uint64_t counter)
{
	return ((uint64_t)incarnation << ID_COUNTER_BITS) | (counter & ID_COUNTER_MAX);
}
static inline uint32_t id_incarnation(uint64_t id) { return (uint32_t)(id >> ID_COUNTER_BITS); }
static inline uint64_t id_counter(uint64_t id) { return id & ID_COUNTER_MAX; }

/* For qsort(3) and bsearch(3) of ids and other numbers. */
static inline int u64_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}
