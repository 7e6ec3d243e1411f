/* SPDX-License-Identifier: Apache-2.0 */
/* token.c -- encodes and decodes tokens; docs/ORDER.md 6 has the layout.
 * Invariants: (1) bytes are checked before any is believed; (2) a decoded token passes the same field checks as one to
 * be encoded, so encode(decode(x)) is x. */
#include "common/token.h"

#include <stdarg.h>
#include <stdio.h>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/error.h"

typedef unsigned long long ull;

enum { CRC_SIZE = 4, SIZE_MIN = 8, SHIFT_NONE = 255, FLAG_RECIPE = 1 };

__attribute__((format(printf, 4, 5))) static int refuse(char *why, size_t cap, int err, const char *format, ...)
{
	va_list args;

	if (cap > 0) {
		va_start(args, format);
		vsnprintf(why, cap, format, args);
		va_end(args);
	}
	return err;
}

static int fields_check(const struct token *t, char *why, size_t cap)
{
	bool blocks = t->mode == ORDER_BLOCKS;

	if (order_mode_name(t->mode) == NULL)
		return refuse(why, cap, -GRANARY_EINVAL, "token: mode %u is none of exact, blocks, none", t->mode);
	if ((t->block & (t->block - 1)) != 0 || t->block > ORDER_BLOCK_MAX || (blocks && t->block == 0))
		return refuse(why, cap, -GRANARY_EINVAL, "token: a block of %llu samples", (ull)t->block);
	if (t->lanes > ORDER_LANES_MAX || (blocks && t->lanes == 0))
		return refuse(why, cap, -GRANARY_EINVAL, "token: %u lanes", t->lanes);
	if (t->window > (UINT64_C(1) << 62) / (t->block ? t->block : 1) || (blocks && t->window == 0))
		return refuse(why, cap, -GRANARY_EINVAL, "token: a window of %llu blocks", (ull)t->window);
	if (t->position > ORDER_SAMPLES_MAX)
		return refuse(why, cap, -GRANARY_EINVAL, "token: position %llu is above 2^48", (ull)t->position);
	return 0;
}

int token_encode(const struct token *t, uint8_t out[TOKEN_SIZE], char *why, size_t cap)
{
	struct wr w = wr_of(out, TOKEN_SIZE);
	int err = fields_check(t, why, cap);

	if (err < 0)
		return err;
	wr_u8(&w, TOKEN_VERSION);
	wr_u8(&w, t->mode);
	wr_u8(&w, t->block ? (uint8_t)__builtin_ctzll(t->block) : SHIFT_NONE);
	wr_u8(&w, t->of_recipe ? FLAG_RECIPE : 0);
	wr_u32(&w, t->lanes);
	wr_u64(&w, t->source.lo);
	wr_u64(&w, t->source.hi);
	wr_u64(&w, t->window);
	wr_u64(&w, t->seed);
	wr_u64(&w, t->epoch);
	wr_u64(&w, t->position);
	wr_u32(&w, crc32c(0, out, TOKEN_SIZE - CRC_SIZE));
	return 0;
}

/* Whole, undamaged and of our version? */
static int envelope_check(const uint8_t *p, size_t len, char *why, size_t cap)
{
	uint32_t crc;

	if (len < SIZE_MIN || len > TOKEN_SIZE_MAX)
		return refuse(why, cap, -GRANARY_ECORRUPT, "token: %zu bytes, it has %d: truncated or not a token",
			len, TOKEN_SIZE);
	memcpy(&crc, p + len - CRC_SIZE, CRC_SIZE);
	if (crc32c(0, p, len - CRC_SIZE) != crc) {
		if (p[0] == TOKEN_VERSION && len != TOKEN_SIZE)
			return refuse(why, cap, -GRANARY_ECORRUPT, "token: %zu of %d bytes: truncated", len,
				TOKEN_SIZE);
		return refuse(why, cap, -GRANARY_ECORRUPT, "token: damaged, its checksum does not match");
	}
	if (p[0] != TOKEN_VERSION)
		return refuse(why, cap, -GRANARY_EVERSION,
			"token: version %u; this library knows version %d: upgrade it", p[0], TOKEN_VERSION);
	if (len != TOKEN_SIZE)
		return refuse(why, cap, -GRANARY_ECORRUPT, "token: %zu bytes, version 1 has %d", len, TOKEN_SIZE);
	return 0;
}

int token_decode(struct token *t, const void *buf, size_t len, char *why, size_t cap)
{
	struct cur c = cur_of(buf, len);
	uint8_t shift, flags;
	int err = envelope_check(buf, len, why, cap);

	*t = (struct token){ 0 };
	if (err < 0)
		return err;
	cur_u8(&c); /* version */
	t->mode = cur_u8(&c);
	shift = cur_u8(&c);
	flags = cur_u8(&c);
	t->lanes = cur_u32(&c);
	t->source.lo = cur_u64(&c);
	t->source.hi = cur_u64(&c);
	t->window = cur_u64(&c);
	t->seed = cur_u64(&c);
	t->epoch = cur_u64(&c);
	t->position = cur_u64(&c);
	t->of_recipe = flags & FLAG_RECIPE;
	if ((shift > 32 && shift != SHIFT_NONE) || (flags & ~FLAG_RECIPE) != 0)
		return refuse(why, cap, -GRANARY_EINVAL, "token: block size 2^%u, flags 0x%x: not known", shift, flags);
	t->block = shift == SHIFT_NONE ? 0 : UINT64_C(1) << shift;
	return fields_check(t, why, cap);
}

/* ---- text ---- */

static const char digits[64] = { "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" };

int token_to_text(const struct token *t, char out[TOKEN_TEXT_LEN + 1], char *why, size_t cap)
{
	uint8_t raw[TOKEN_SIZE];
	int err = token_encode(t, raw, why, cap);

	out[0] = '\0';
	if (err < 0)
		return err;
	for (size_t i = 0; i < TOKEN_SIZE; i += 3) {
		uint32_t v = (uint32_t)raw[i] << 16 | (uint32_t)raw[i + 1] << 8 | raw[i + 2];
		for (unsigned j = 0; j < 4; j++)
			*out++ = digits[v >> (18 - 6 * j) & 63];
	}
	*out = '\0';
	return 0;
}

static int digit_value(char c)
{
	const char *at = c == '\0' ? NULL : memchr(digits, c, sizeof(digits));

	return at == NULL ? -1 : (int)(at - digits);
}

/* Any number of characters up to TOKEN_SIZE_MAX bytes' worth, so that other versions can be told. */
int token_from_text(struct token *t, const char *text, size_t len, char *why, size_t cap)
{
	uint8_t raw[TOKEN_SIZE_MAX + 1];
	size_t size = 0;
	uint32_t bits = 0;
	unsigned held = 0;

	*t = (struct token){ 0 };
	if (len > (TOKEN_SIZE_MAX * 8 + 5) / 6)
		return refuse(why, cap, -GRANARY_ECORRUPT, "token: %zu characters, it has %d", len, TOKEN_TEXT_LEN);
	for (size_t i = 0; i < len; i++) {
		int v = digit_value(text[i]);
		if (v < 0)
			return refuse(why, cap, -GRANARY_ECORRUPT,
				"token: character %zu is not a letter, digit, - or _", i + 1);
		bits = (bits << 6 | (uint32_t)v) & 0xffff;
		held += 6;
		if (held >= 8)
			raw[size++] = (uint8_t)(bits >> (held -= 8));
	}
	if (held == 6 || (bits & ((1u << held) - 1)) != 0)
		return refuse(why, cap, -GRANARY_ECORRUPT,
			"token: %zu characters, it has %d: truncated or damaged", len, TOKEN_TEXT_LEN);
	return token_decode(t, raw, size, why, cap);
}

/* ---- use ---- */

int token_check(const struct token *t, struct hash128 source, bool of_recipe, uint64_t samples, char *why, size_t cap)
{
	const char *what = of_recipe ? "recipe" : "snapshot";

	if (t->of_recipe != of_recipe)
		return refuse(why, cap, -GRANARY_EINVAL, "token: made for a %s, used with a %s",
			t->of_recipe ? "recipe" : "snapshot", what);
	if (t->source.lo != source.lo || t->source.hi != source.hi)
		return refuse(why, cap, -GRANARY_EINVAL,
			"token: of another %s: it names %016llx%016llx, this is %016llx%016llx", what,
			(ull)t->source.hi, (ull)t->source.lo, (ull)source.hi, (ull)source.lo);
	if (t->position > samples)
		return refuse(why, cap, -GRANARY_EINVAL, "token: position %llu; the %s has %llu samples",
			(ull)t->position, what, (ull)samples);
	return 0;
}

struct order_spec token_order(const struct token *t, uint64_t samples)
{
	return (struct order_spec){ .mode = t->mode, .samples = samples, .block = t->block, .window = t->window,
		.lanes = t->lanes, .seed = t->seed, .epoch = t->epoch };
}
