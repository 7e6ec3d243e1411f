/* SPDX-License-Identifier: Apache-2.0 */
/* quantity.h -- sizes, durations, shares and times of day as people write them in settings and rules. A text is taken
 * whole or not at all; what does not fit 64 bits is not taken. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

bool quantity_count(const char *text, uint64_t *out);    /* 12 */
bool quantity_size(const char *text, uint64_t *out);     /* 4096, 16B, 64KiB, 1MiB, 4GiB, 2TiB: bytes */
bool quantity_duration(const char *text, uint64_t *out); /* 500ms, 5s, 10m, 2h, 14d, 3w: nanoseconds */
bool quantity_percent(const char *text, uint64_t *out);  /* 85% */
bool quantity_price(const char *text, uint64_t *out);    /* 0.023: millionths */
bool quantity_clock(const char *text, uint32_t *out);    /* 23:59: minutes of the day */
