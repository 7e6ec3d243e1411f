/* SPDX-License-Identifier: Apache-2.0 */
/* hash.h -- XXH3 as we use it: 128-bit content hashes, and keyed 128-bit hashes for tables that hold clients' names. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct hash128 { uint64_t lo, hi; };

struct hash128 hash_content(const void *buf, size_t len);
/* Keyed by `seed` (random at start): a client cannot aim for collisions. a and b are mixed in before buf. */
struct hash128 hash_keyed(uint64_t seed, uint64_t a, const void *buf, size_t len);

struct hash_stream; /* content hash of data that arrives in pieces */
struct hash_stream *hash_stream_new(void);
void hash_stream_add(struct hash_stream *h, const void *buf, size_t len);
struct hash128 hash_stream_get(const struct hash_stream *h);
void hash_stream_free(struct hash_stream **h);

static inline uint64_t hash_u64(uint64_t x) /* splitmix64 finaliser */
{
	x ^= x >> 30; x *= 0xbf58476d1ce4e5b9ull; x ^= x >> 27; x *= 0x94d049bb133111ebull; return x ^ (x >> 31);
}
