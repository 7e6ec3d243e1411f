/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c_engines.h -- the ways to compute CRC-32C, for crc32c.c, which picks one, and for the
 * tests, which compare all.
 *
 * The arithmetic, once. Everything is reflected: bit i of a 32-bit value is the coefficient of
 * x^(31-i), bit i of a 64-bit value that of x^(63-i), and the low half of a longer value holds the
 * higher powers. P is the Castagnoli polynomial; the state after a message M is M * x^32 mod P, the
 * initial state having been added to M's first 4 bytes.
 * (1) A carry-less product of two reflected 64-bit values A, B is A * B * x, reflected in 128 bits.
 * (2) One of two 32-bit values A, B, read as 64 bits and fed to the crc32 instruction from state 0,
 *     is A * B * x^33 mod P: so a state moves n bytes further through x^(8n - 33).
 * (3) Folding a 128-bit chunk (low half H, high half L) over D bits is H * x^(D+64) + L * x^D. By
 *     (1) H is multiplied by x^(D+63) mod P and L by x^(D-1) mod P, both in the upper 32 bits of a
 *     64-bit constant. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct crc_impl {
	const char *name;
	bool for_tests; /* never chosen: runs another engine's code without its instructions */
	bool (*usable)(void);
	/* Raw state in and out, not inverted. crc_init() has run. */
	uint32_t (*run)(uint32_t state, const uint8_t *p, size_t len);
};

extern const struct crc_impl crc_impls[]; /* fastest first */
extern const size_t crc_impls_count;

void crc_init(void); /* fills the tables and constants; any thread, any number of times */

/* crc32c_table.c */
void crc_table_init(void);
uint32_t crc_table_run(uint32_t state, const uint8_t *p, size_t len);
uint32_t crc_xnmodp(uint32_t n); /* x^n mod P, reflected in 32 bits */

/* crc32c_x86.c; elsewhere never usable */
void crc_x86_init(void);
bool crc_sse42_usable(void);
bool crc_avx512_usable(void);
bool crc_avx512_lanes_usable(void);
uint32_t crc_sse42_run(uint32_t state, const uint8_t *p, size_t len);
uint32_t crc_avx512_run(uint32_t state, const uint8_t *p, size_t len);
uint32_t crc_avx512_lanes_run(uint32_t state, const uint8_t *p, size_t len);
