/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c_x86_512.h -- the body of the 512-bit engine, included twice by crc32c_x86.c (hence no
 * `#pragma once`) with
 *   CRC_512_FUNCTION       the function to define
 *   CRC_512_SUFFIX(name)   names of its helpers
 *   CRC_512_TARGET         the instruction sets it may use */

CRC_512_TARGET static inline __m512i CRC_512_SUFFIX(load_512)(const uint8_t *p)
{
	return _mm512_loadu_si512((const void *)p);
}

CRC_512_TARGET static inline __m512i CRC_512_SUFFIX(fold_add_512)(
	__m512i x, __m512i k, __m512i next)
{
	__m512i low = CRC_512_SUFFIX(clmul_low)(x, k);
	__m512i high = CRC_512_SUFFIX(clmul_high)(x, k);

	return _mm512_ternarylogic_epi64(low, high, next, 0x96); /* the sum of three */
}

CRC_512_TARGET static inline __m512i CRC_512_SUFFIX(fold_const_512)(struct fold f)
{
	return _mm512_broadcast_i64x2(_mm_set_epi64x((long long)f.high, (long long)f.low));
}

/* Four lanes to the state: lane i is folded over the lanes after it, the last stays as it is. */
CRC_512_TARGET static inline uint32_t CRC_512_SUFFIX(reduce_512)(__m512i x)
{
	__m128i lane = _mm512_extracti32x4_epi32(x, 3);

	lane = fold_add_128(_mm512_extracti32x4_epi32(x, 2), fold_const_128(fold_128), lane);
	lane = fold_add_128(_mm512_extracti32x4_epi32(x, 1), fold_const_128(fold_256), lane);
	lane = fold_add_128(_mm512_extracti32x4_epi32(x, 0), fold_const_128(fold_384), lane);
	return reduce_128(lane, 0);
}

CRC_512_TARGET uint32_t CRC_512_FUNCTION(uint32_t state, const uint8_t *p, size_t len)
{
	if (len < 256)
		return crc_sse42_run(state, p, len);

	__m512i first = _mm512_castsi128_si512(_mm_cvtsi32_si128((int)state));
	__m512i x0 =
		_mm512_xor_si512(CRC_512_SUFFIX(load_512)(p), _mm512_maskz_mov_epi32(1, first));
	__m512i x1 = CRC_512_SUFFIX(load_512)(p + 64);
	__m512i x2 = CRC_512_SUFFIX(load_512)(p + 128);
	__m512i x3 = CRC_512_SUFFIX(load_512)(p + 192);
	__m512i k = CRC_512_SUFFIX(fold_const_512)(fold_2048);

	for (p += 256, len -= 256; len >= 256; p += 256, len -= 256) {
		x0 = CRC_512_SUFFIX(fold_add_512)(x0, k, CRC_512_SUFFIX(load_512)(p));
		x1 = CRC_512_SUFFIX(fold_add_512)(x1, k, CRC_512_SUFFIX(load_512)(p + 64));
		x2 = CRC_512_SUFFIX(fold_add_512)(x2, k, CRC_512_SUFFIX(load_512)(p + 128));
		x3 = CRC_512_SUFFIX(fold_add_512)(x3, k, CRC_512_SUFFIX(load_512)(p + 192));
	}
	k = CRC_512_SUFFIX(fold_const_512)(fold_512);
	x1 = CRC_512_SUFFIX(fold_add_512)(x0, k, x1);
	x2 = CRC_512_SUFFIX(fold_add_512)(x1, k, x2);
	x3 = CRC_512_SUFFIX(fold_add_512)(x2, k, x3);
	for (; len >= 64; p += 64, len -= 64)
		x3 = CRC_512_SUFFIX(fold_add_512)(x3, k, CRC_512_SUFFIX(load_512)(p));
	state = CRC_512_SUFFIX(reduce_512)(x3);
	/* GCC leaves this out of a function whose target is an attribute. With upper halves in use the next SSE
	 * instruction of anybody costs 100 ns, and so does the next of these. */
	_mm256_zeroupper();
	return tail_run(state, p, len);
}
