/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c_x86.c -- CRC-32C with x86 instructions. Numbers in brackets are those of crc32c_engines.h.
 *
 * sse42: the crc32 instruction takes 8 bytes a cycle but answers after 3, and the carry-less
 * multiplier is another unit that folds 8 bytes a cycle. So a stretch is cut into four streams that
 * run at once: three through crc32, one through four 128-bit accumulators (72 + 64 bytes a round);
 * their results are moved to the end of the stretch and added.
 * avx512: four 512-bit accumulators, four 128-bit lanes each, folded over 256 bytes by (3). */
#include "common/crc32c_engines.h"

#ifdef __x86_64__

#include <immintrin.h>
#include <string.h>

enum { SCALAR_STEP = 24, VECTOR_STEP = 64, ROUND_BYTES = 3 * SCALAR_STEP + VECTOR_STEP };

/* Stretches, longest first: two of the first fill 64 KiB, one of the second fills 4 KiB. */
static struct stretch {
	uint32_t rounds;
	uint64_t shift[3]; /* (2): from the end of scalar stream i to the end of the stretch */
} stretches[] = { { 240, { 0 } }, { 30, { 0 } }, { 4, { 0 } } };

struct fold { /* (3): the constants for low and for high halves */
	uint64_t low, high;
};

static struct fold fold_128, fold_256, fold_384, fold_512, fold_2048;

static struct fold fold_over(uint32_t bits)
{
	return (struct fold){
		.low = (uint64_t)crc_xnmodp(bits + 63) << 32,
		.high = (uint64_t)crc_xnmodp(bits - 1) << 32,
	};
}

void crc_x86_init(void)
{
	for (size_t i = 0; i < sizeof(stretches) / sizeof(stretches[0]); i++) {
		struct stretch *s = &stretches[i];
		uint32_t after = s->rounds * VECTOR_STEP; /* bytes */

		for (int stream = 2; stream >= 0; stream--, after += s->rounds * SCALAR_STEP)
			s->shift[stream] = crc_xnmodp(after * 8 - 33);
	}
	fold_128 = fold_over(128);
	fold_256 = fold_over(256);
	fold_384 = fold_over(384);
	fold_512 = fold_over(512);
	fold_2048 = fold_over(2048);
}

bool crc_sse42_usable(void)
{
	return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

bool crc_avx512_lanes_usable(void)
{
	return crc_sse42_usable() && __builtin_cpu_supports("avx512f") &&
	       __builtin_cpu_supports("avx512dq");
}

bool crc_avx512_usable(void)
{
	return crc_avx512_lanes_usable() && __builtin_cpu_supports("vpclmulqdq");
}

#define SSE42 __attribute__((target("sse4.2,pclmul")))

static inline uint64_t word_at(const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, sizeof(w));
	return w;
}

SSE42 static inline uint64_t crc_word(uint64_t state, const uint8_t *p)
{
	return _mm_crc32_u64(state, word_at(p));
}

/* The last bytes, one stream. */
SSE42 static uint32_t tail_run(uint32_t state, const uint8_t *p, size_t len)
{
	uint64_t s = state;

	for (; len >= 8; p += 8, len -= 8)
		s = crc_word(s, p);
	state = (uint32_t)s;
	if (len & 4) {
		uint32_t w;
		memcpy(&w, p, sizeof(w));
		state = _mm_crc32_u32(state, w);
		p += 4;
	}
	if (len & 2) {
		uint16_t w;
		memcpy(&w, p, sizeof(w));
		state = _mm_crc32_u16(state, w);
		p += 2;
	}
	return len & 1 ? _mm_crc32_u8(state, *p) : state;
}

SSE42 static inline __m128i load_128(const uint8_t *p)
{
	return _mm_loadu_si128((const __m128i *)(const void *)p);
}

SSE42 static inline __m128i fold_const_128(struct fold f)
{
	return _mm_set_epi64x((long long)f.high, (long long)f.low);
}

SSE42 static inline __m128i fold_add_128(__m128i x, __m128i k, __m128i next)
{
	__m128i low = _mm_clmulepi64_si128(x, k, 0x00);
	__m128i high = _mm_clmulepi64_si128(x, k, 0x11);

	return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* (2), before the crc32 instruction reduces it. */
SSE42 static inline uint64_t shift_product(uint64_t state, uint64_t power)
{
	__m128i a = _mm_cvtsi64_si128((long long)state);
	__m128i b = _mm_cvtsi64_si128((long long)power);

	return (uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(a, b, 0x00));
}

/* The state after the 128 bits of x and what `sum` (products of (2)) stands for. */
SSE42 static inline uint32_t reduce_128(__m128i x, uint64_t sum)
{
	uint64_t low = (uint64_t)_mm_cvtsi128_si64(x);
	uint64_t high = (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(x, x));

	return (uint32_t)_mm_crc32_u64(_mm_crc32_u64(0, low), high ^ sum);
}

SSE42 static uint32_t stretch_run(const struct stretch *s, uint32_t state, const uint8_t *p)
{
	const uint8_t *p1 = p + (size_t)s->rounds * SCALAR_STEP;
	const uint8_t *p2 = p1 + (size_t)s->rounds * SCALAR_STEP;
	const uint8_t *v = p2 + (size_t)s->rounds * SCALAR_STEP;
	__m128i x0 = load_128(v), x1 = load_128(v + 16), x2 = load_128(v + 32),
		x3 = load_128(v + 48);
	__m128i k = fold_const_128(fold_512);
	uint64_t s0 = state, s1 = 0, s2 = 0;

	for (uint32_t left = s->rounds - 1; left > 0; left--) {
		v += VECTOR_STEP;
		x0 = fold_add_128(x0, k, load_128(v));
		s0 = crc_word(s0, p);
		s1 = crc_word(s1, p1);
		s2 = crc_word(s2, p2);
		x1 = fold_add_128(x1, k, load_128(v + 16));
		s0 = crc_word(s0, p + 8);
		s1 = crc_word(s1, p1 + 8);
		s2 = crc_word(s2, p2 + 8);
		x2 = fold_add_128(x2, k, load_128(v + 32));
		s0 = crc_word(s0, p + 16);
		s1 = crc_word(s1, p1 + 16);
		s2 = crc_word(s2, p2 + 16);
		x3 = fold_add_128(x3, k, load_128(v + 48));
		p += SCALAR_STEP;
		p1 += SCALAR_STEP;
		p2 += SCALAR_STEP;
	}
	for (int i = 0; i < SCALAR_STEP; i += 8) {
		s0 = crc_word(s0, p + i);
		s1 = crc_word(s1, p1 + i);
		s2 = crc_word(s2, p2 + i);
	}
	k = fold_const_128(fold_128);
	x1 = fold_add_128(x0, k, x1);
	x2 = fold_add_128(x1, k, x2);
	x3 = fold_add_128(x2, k, x3);
	return reduce_128(x3, shift_product(s0, s->shift[0]) ^ shift_product(s1, s->shift[1]) ^
		shift_product(s2, s->shift[2]));
}

SSE42 uint32_t crc_sse42_run(uint32_t state, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < sizeof(stretches) / sizeof(stretches[0]); i++) {
		const struct stretch *s = &stretches[i];
		size_t bytes = (size_t)s->rounds * ROUND_BYTES;

		for (; len >= bytes; p += bytes, len -= bytes)
			state = stretch_run(s, state, p);
	}
	return tail_run(state, p, len);
}

/* ---- 512 bits: one body, twice: four lanes by one instruction, or lane by lane without it ---- */

#define VPCLMUL __attribute__((target("avx512f,avx512dq,vpclmulqdq,sse4.2,pclmul")))
#define LANES __attribute__((target("avx512f,avx512dq,sse4.2,pclmul")))

#define LANE_PRODUCT(a, b, i, halves) \
	_mm_clmulepi64_si128( \
		_mm512_extracti32x4_epi32(a, i), _mm512_extracti32x4_epi32(b, i), halves)

#define DEFINE_LANES_CLMUL(name, halves) \
	LANES static inline __m512i name(__m512i a, __m512i b) \
	{ \
		__m512i r = _mm512_castsi128_si512(LANE_PRODUCT(a, b, 0, halves)); \
		r = _mm512_inserti32x4(r, LANE_PRODUCT(a, b, 1, halves), 1); \
		r = _mm512_inserti32x4(r, LANE_PRODUCT(a, b, 2, halves), 2); \
		return _mm512_inserti32x4(r, LANE_PRODUCT(a, b, 3, halves), 3); \
	}
DEFINE_LANES_CLMUL(clmul_low_lanes, 0x00)
DEFINE_LANES_CLMUL(clmul_high_lanes, 0x11)

VPCLMUL static inline __m512i clmul_low_vpclmul(__m512i a, __m512i b)
{
	return _mm512_clmulepi64_epi128(a, b, 0x00);
}

VPCLMUL static inline __m512i clmul_high_vpclmul(__m512i a, __m512i b)
{
	return _mm512_clmulepi64_epi128(a, b, 0x11);
}

#define CRC_512_FUNCTION crc_avx512_run
#define CRC_512_SUFFIX(name) name##_vpclmul
#define CRC_512_TARGET VPCLMUL
#include "common/crc32c_x86_512.h"
#undef CRC_512_FUNCTION
#undef CRC_512_SUFFIX
#undef CRC_512_TARGET

#define CRC_512_FUNCTION crc_avx512_lanes_run
#define CRC_512_SUFFIX(name) name##_lanes
#define CRC_512_TARGET LANES
#include "common/crc32c_x86_512.h"

#else

void crc_x86_init(void)
{
}

bool crc_sse42_usable(void)
{
	return false;
}

bool crc_avx512_usable(void)
{
	return false;
}

bool crc_avx512_lanes_usable(void)
{
	return false;
}

uint32_t crc_sse42_run(uint32_t state, const uint8_t *p, size_t len)
{
	return crc_table_run(state, p, len);
}

uint32_t crc_avx512_run(uint32_t state, const uint8_t *p, size_t len)
{
	return crc_table_run(state, p, len);
}

uint32_t crc_avx512_lanes_run(uint32_t state, const uint8_t *p, size_t len)
{
	return crc_table_run(state, p, len);
}

#endif
