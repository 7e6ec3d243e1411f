/* SPDX-License-Identifier: Apache-2.0 */
/* rand.c -- the kernel's random bytes; xoshiro256** (Blackman and Vigna), seeded by splitmix64. */
#include "common/rand.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "common/hash.h"

__extension__ typedef unsigned __int128 u128; /* a product of two words; no struct */

void rand_bytes(void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = getrandom(p, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) { /* without secrets nothing may go on */
			perror("getrandom");
			abort();
		}
		p += n;
		len -= (size_t)n;
	}
}

static uint64_t rotl(uint64_t x, unsigned k)
{
	return (x << k) | (x >> (64 - k));
}

void rng_seed(struct rng *r, uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		seed += 0x9e3779b97f4a7c15u;
		r->s[i] = hash_u64(seed);
	}
}

uint64_t rng_next(struct rng *r)
{
	uint64_t *s = r->s;
	uint64_t result = rotl(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return result;
}

/* Lemire's multiply; draws again only in the part of the range that would favour small results. */
uint64_t rng_below(struct rng *r, uint64_t n)
{
	assert(n > 0);
	u128 m = (u128)rng_next(r) * n;
	if ((uint64_t)m < n) {
		uint64_t unfair = (0 - n) % n;
		while ((uint64_t)m < unfair)
			m = (u128)rng_next(r) * n;
	}
	return (uint64_t)(m >> 64);
}
