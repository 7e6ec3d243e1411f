/* SPDX-License-Identifier: Apache-2.0 */
/* hash.c -- XXH3, compiled in: no run-time dependency. */
#include "common/hash.h"

#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct hash_stream {
	XXH3_state_t state;
};

static struct hash128 hash128_of(XXH128_hash_t h)
{
	return (struct hash128){ .lo = h.low64, .hi = h.high64 };
}

struct hash128 hash_content(const void *buf, size_t len)
{
	return hash128_of(XXH3_128bits(buf, len));
}

/* a goes into the seed (a bijection for each seed: different a, different seed) and once more into
 * the result, so that no relation between two a's survives for the shortest inputs, where XXH3 is
 * little more than a multiply. */
struct hash128 hash_keyed(uint64_t seed, uint64_t a, const void *buf, size_t len)
{
	uint64_t key = hash_u64(seed ^ hash_u64(a + 0x9e3779b97f4a7c15u));
	struct hash128 h = hash128_of(XXH3_128bits_withSeed(buf, len, key));

	h.lo ^= hash_u64(key + seed);
	h.hi += key;
	return h;
}

struct hash_stream *hash_stream_new(void)
{
	struct hash_stream *h = aligned_alloc(_Alignof(struct hash_stream), sizeof(*h));

	if (h)
		XXH3_128bits_reset(&h->state);
	return h;
}

void hash_stream_add(struct hash_stream *h, const void *buf, size_t len)
{
	if (len > 0)
		XXH3_128bits_update(&h->state, buf, len);
}

struct hash128 hash_stream_get(const struct hash_stream *h)
{
	return hash128_of(XXH3_128bits_digest(&h->state));
}

void hash_stream_free(struct hash_stream **h)
{
	free(*h);
	*h = NULL;
}
