/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c_table.c -- CRC-32C on any processor: eight table look-ups for eight bytes. */
#include "common/crc32c_engines.h"

#include <string.h>

static const uint32_t crc_poly = 0x82f63b78; /* 0x1EDC6F41 reflected */
static uint32_t crc_table[8][256];           /* [k][b]: byte b followed by k zero bytes */

/* A state moved one bit further: times x, mod P. */
static uint32_t crc_times_x(uint32_t v)
{
	return (v >> 1) ^ (v & 1 ? crc_poly : 0);
}

uint32_t crc_xnmodp(uint32_t n)
{
	uint32_t v = 0x80000000; /* 1 */

	while (n-- > 0)
		v = crc_times_x(v);
	return v;
}

void crc_table_init(void)
{
	for (uint32_t b = 0; b < 256; b++) {
		uint32_t v = b;
		for (int bit = 0; bit < 8; bit++)
			v = crc_times_x(v);
		crc_table[0][b] = v;
	}
	for (int k = 1; k < 8; k++)
		for (int b = 0; b < 256; b++) {
			uint32_t v = crc_table[k - 1][b];
			crc_table[k][b] = (v >> 8) ^ crc_table[0][v & 0xff];
		}
}

uint32_t crc_table_run(uint32_t state, const uint8_t *p, size_t len)
{
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t w;

		memcpy(&w, p, sizeof(w));
		w ^= state;
		state = crc_table[7][w & 0xff] ^ crc_table[6][w >> 8 & 0xff] ^
			crc_table[5][w >> 16 & 0xff] ^ crc_table[4][w >> 24 & 0xff] ^
			crc_table[3][w >> 32 & 0xff] ^ crc_table[2][w >> 40 & 0xff] ^
			crc_table[1][w >> 48 & 0xff] ^ crc_table[0][w >> 56];
	}
	for (; len > 0; p++, len--)
		state = (state >> 8) ^ crc_table[0][(state ^ *p) & 0xff];
	return state;
}
