/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c_combine.c -- the checksum of a concatenation from those of its parts.
 *
 * crc(AB) = crc(A) * x^(8 * len(B)) + crc(B) over GF(2) modulo the polynomial; the inversions of the start and the end
 * cancel. The power is a product of one tabled factor for each non-zero hexadecimal digit of the length. A product is
 * 32 shifts, or one carry-less multiplication where the processor has it. */
#include "common/snap.h"

#include <pthread.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { DIGITS = 16, RADIX = 16 };
#define POLYNOMIAL UINT32_C(0x82f63b78) /* Castagnoli, reflected: bit 31 is x^0 */
#define ONE UINT32_C(0x80000000)
#define X8 UINT32_C(0x00800000)

static uint32_t powers[DIGITS][RADIX]; /* x^(8 * digit * 16^place) */
static pthread_once_t powers_once = PTHREAD_ONCE_INIT;

static uint32_t gf_mul(uint32_t a, uint32_t b)
{
	uint32_t product = 0;

	for (int i = 0; i < 32; i++) {
		product ^= b & (0u - (a >> 31));
		a <<= 1;
		b = (b >> 1) ^ (POLYNOMIAL & (0u - (b & 1)));
	}
	return product;
}

static uint32_t (*multiply)(uint32_t a, uint32_t b) = gf_mul;

#if defined(__x86_64__)
/* Bit-reversed, the 63-bit product stands one place too low: its upper half (low powers) is reduced already, the lower
 * one stands for x^32 times itself, which is what the crc32 instruction reduces. */
__attribute__((target("pclmul,sse4.2"))) static uint32_t gf_mul_x86(uint32_t a, uint32_t b)
{
	__m128i wide = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a), _mm_cvtsi64_si128((long long)b), 0);
	uint64_t product = (uint64_t)_mm_cvtsi128_si64(wide) << 1;

	return _mm_crc32_u32(0, (uint32_t)product) ^ (uint32_t)(product >> 32);
}
#endif

static void powers_make(void)
{
	uint32_t base = X8;

#if defined(__x86_64__)
	if (__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.2"))
		multiply = gf_mul_x86;
#endif
	for (int place = 0; place < DIGITS; place++) {
		powers[place][0] = ONE;
		for (int digit = 1; digit < RADIX; digit++)
			powers[place][digit] = gf_mul(powers[place][digit - 1], base);
		base = gf_mul(powers[place][RADIX - 1], base);
	}
}

uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b)
{
	pthread_once(&powers_once, powers_make);
	for (int place = 0; len_b != 0; place++, len_b >>= 4) {
		if (len_b & (RADIX - 1))
			crc_a = multiply(powers[place][len_b & (RADIX - 1)], crc_a);
	}
	return crc_a ^ crc_b;
}
