/* SPDX-License-Identifier: Apache-2.0 */
/* rand.h -- rand_bytes: getrandom, for secrets, nonces, session ids; rng: seeded xoshiro256**, for jitter and tests. */
#pragma once

#include <stddef.h>
#include <stdint.h>

void rand_bytes(void *buf, size_t len); /* never fails: stops the process if the kernel cannot */

struct rng { uint64_t s[4]; };
void rng_seed(struct rng *r, uint64_t seed);
uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n); /* 0..n-1, n > 0 */
