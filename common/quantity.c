/* SPDX-License-Identifier: Apache-2.0 */
#include "common/quantity.h"

#include <string.h>

struct unit {
	const char *name;
	uint64_t factor;
};

#define SECOND UINT64_C(1000000000)

static const struct unit counts[] = { { "", 1 }, { 0 } };
static const struct unit percents[] = { { "%", 1 }, { 0 } };
static const struct unit sizes[] = { { "", 1 }, { "B", 1 }, { "KiB", UINT64_C(1) << 10 },
	{ "MiB", UINT64_C(1) << 20 }, { "GiB", UINT64_C(1) << 30 }, { "TiB", UINT64_C(1) << 40 }, { 0 } };
static const struct unit durations[] = { { "ms", SECOND / 1000 }, { "s", SECOND }, { "m", 60 * SECOND },
	{ "h", 3600 * SECOND }, { "d", 86400 * SECOND }, { "w", 7 * 86400 * SECOND }, { 0 } };

/* Digits, then one of the units. */
static bool parse(const char *text, const struct unit *units, uint64_t *out)
{
	uint64_t n = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return false;
	if (p == text) return false;
	for (; units->name; units++)
		if (strcmp(p, units->name) == 0) return !__builtin_mul_overflow(n, units->factor, out);
	return false;
}

bool quantity_count(const char *text, uint64_t *out)
{
	return parse(text, counts, out);
}
bool quantity_size(const char *text, uint64_t *out)
{
	return parse(text, sizes, out);
}
bool quantity_duration(const char *text, uint64_t *out)
{
	return parse(text, durations, out);
}
bool quantity_percent(const char *text, uint64_t *out)
{
	return parse(text, percents, out);
}

bool quantity_price(const char *text, uint64_t *out)
{
	uint64_t n = 0;
	int after = -1; /* digits after the point; -1: there is none yet */

	if (!*text || *text == '.') return false;
	for (; *text; text++) {
		if (*text == '.' && after < 0) {
			after = 0;
			continue;
		}
		if (*text < '0' || *text > '9' || after == 6) return false;
		if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
			return false;
		after += after >= 0;
	}
	for (int i = after < 0 ? 0 : after; i < 6; i++)
		if (__builtin_mul_overflow(n, 10u, &n)) return false;
	*out = n;
	return after != 0;
}

bool quantity_clock(const char *text, uint32_t *out)
{
	uint32_t digits[4];

	if (strlen(text) != 5 || text[2] != ':') return false;
	for (unsigned i = 0; i < 4; i++) {
		char c = text[i < 2 ? i : i + 1];
		if (c < '0' || c > '9') return false;
		digits[i] = (uint32_t)(c - '0');
	}
	uint32_t hours = digits[0] * 10 + digits[1], minutes = digits[2] * 10 + digits[3];
	if (hours > 23 || minutes > 59) return false;
	*out = hours * 60 + minutes;
	return true;
}
