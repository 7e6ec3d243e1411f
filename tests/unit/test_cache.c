/* SPDX-License-Identifier: Apache-2.0 */
/* test_cache.c -- the RAM cache: what it holds, what it gives back, and its policy on simulated
 * accesses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/rand.h"
#include "io/reactor.h"
#include "pack/cache_priv.h"

enum { MIB = 1024 * 1024 };

struct sim {
	struct cache *cache;
	struct cache_local *local;
	uint32_t unit_len;
	bool fill;           /* write a pattern into the bytes and compare on hits */
};

static void sim_new(struct sim *s, uint64_t budget, uint32_t unit_len)
{
	*s = (struct sim){ .cache = cache_new(budget, 8 * MIB), .unit_len = unit_len };
	assert_non_null(s->cache);
	s->local = cache_local_new(s->cache, NULL, NULL);
	assert_non_null(s->local);
}

static void sim_free(struct sim *s)
{
	cache_local_free(&s->local);
	cache_free(&s->cache);
}

static uint64_t pattern_of(uint64_t unit) { return unit * 0x9e3779b97f4a7c15u + 1; }

/* One look-up as the reader does it; true: a hit. */
static bool sim_access(struct sim *s, uint64_t unit)
{
	uint64_t pack = 1 + unit / 1000, offset = 4096 + (unit % 1000) * 1048576, pattern = pattern_of(unit);
	struct cache_want want = { .align = 512, .units = 1 };
	struct cache_buf b;

	if (cache_find(s->cache, pack, offset, &b)) {
		assert_int_equal(b.len, s->unit_len);
		if (s->fill)
			assert_memory_equal(b.p, &pattern, sizeof(pattern));
		cache_release(s->cache, &b);
		return true;
	}
	want.keep = cache_admit(s->local, pack, offset, s->unit_len, 1);
	want.len = (s->unit_len + 511) / 512 * 512;
	if (!cache_reserve(s->local, &want, &b)) {
		want.keep = false;
		assert_true(cache_reserve(s->local, &want, &b));
	}
	if (s->fill)
		memcpy(b.p, &pattern, sizeof(pattern));
	if (want.keep)
		cache_insert(s->cache, &b, pack, offset, b.p, s->unit_len);
	cache_release(s->cache, &b);
	return false;
}

/* Units first..first + n - 1, each once, in an order of its own. Returns hits. */
static uint64_t sim_epoch(struct sim *s, uint64_t first, uint64_t n, uint64_t seed)
{
	uint64_t *order = malloc(n * sizeof(*order)), hits = 0;
	struct rng r;

	assert_non_null(order);
	rng_seed(&r, seed);
	for (uint64_t i = 0; i < n; i++)
		order[i] = first + i;
	for (uint64_t i = n - 1; i > 0; i--) {
		uint64_t k = rng_below(&r, i + 1), t = order[i];

		order[i] = order[k];
		order[k] = t;
	}
	for (uint64_t i = 0; i < n; i++)
		hits += sim_access(s, order[i]);
	free(order);
	return hits;
}

static uint64_t payload(struct sim *s)
{
	struct cache_stats st;

	cache_get_stats(s->cache, &st);
	return st.payload_bytes;
}

static uint64_t replaced(struct sim *s)
{
	struct cache_stats st;

	cache_get_stats(s->cache, &st);
	return st.replaced;
}

/* Epoch after epoch over D = `times` C: from the second on the hits are at least what is held over
 * D. */
static void check_epochs(uint32_t unit_len, double times, uint32_t epochs)
{
	struct sim s;
	uint64_t n;

	sim_new(&s, 64 * MIB, unit_len);
	n = (uint64_t)(times * 64 * MIB / unit_len);
	(void)sim_epoch(&s, 0, n, 1);
	for (uint32_t e = 2; e <= epochs; e++) {
		double held = (double)payload(&s) / unit_len / (double)n;
		double rate = (double)sim_epoch(&s, 0, n, e) / (double)n;

		/* A unit held is hit once an epoch: equality, but for nothing. */
		assert_true(rate >= held);
		assert_true(held >= 0.80 / times);
		if (e == epochs)
			printf("  unit %7u, D = %5.2f C: hit rate %.4f, held / D %.4f\n", unit_len, times, rate, held);
	}
	assert_int_equal(replaced(&s), 0);
	sim_free(&s);
}

static void test_shuffled_epochs_larger_than_the_cache_hit_what_is_held(void **state)
{
	static const double times[] = { 1.1, 1.5, 2, 3, 7, 20 };

	(void)state;
	for (uint32_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		check_epochs(4096 + 200, times[i], 12);
		check_epochs(112 * 1024, times[i], 25);
		check_epochs(CACHE_UNIT_MAX, times[i], 25);
	}
	check_epochs(112 * 1024, 100, 8);
	check_epochs(CACHE_UNIT_MAX, 100, 8);
}

static void test_an_epoch_that_fits_is_all_hits(void **state)
{
	struct sim s;
	uint64_t n = 40 * MIB / (112 * 1024);

	(void)state;
	sim_new(&s, 64 * MIB, 112 * 1024);
	assert_int_equal(sim_epoch(&s, 0, n, 1), 0);
	assert_int_equal(sim_epoch(&s, 0, n, 2), n);
	sim_free(&s);
}

/* The data set changes: the new one fits. */
static void test_a_new_hot_set_replaces_a_stale_one(void **state)
{
	struct sim s;
	uint64_t n = 48 * MIB / (112 * 1024), hits = 0;
	uint32_t passes = 0;

	(void)state;
	sim_new(&s, 64 * MIB, 112 * 1024);
	for (uint32_t e = 0; e < 5; e++)
		(void)sim_epoch(&s, 0, 4 * n, e);
	while (hits < n && passes < 12)
		hits = sim_epoch(&s, 1000000, n, 100 + passes++);
	printf("  a new set of 0.75 C is all hits after %u passes\n", passes);
	assert_int_equal(hits, n);
	sim_free(&s);
}

/* The data set changes to another one larger than the cache: after a while its epochs hit what is
 * held of it. */
static void test_a_new_large_set_replaces_a_stale_one(void **state)
{
	struct sim s;
	uint64_t n = 640 * (uint64_t)MIB / (112 * 1024), hits = 0;
	uint32_t passes = 0;

	(void)state;
	sim_new(&s, 64 * MIB, 112 * 1024);
	for (uint32_t e = 0; e < 3; e++)
		(void)sim_epoch(&s, 0, n, e);
	while ((double)hits < 0.08 * (double)n && passes < 20)
		hits = sim_epoch(&s, 1000000, n, 100 + passes++);
	printf("  a new set of 10 C hits %.3f after %u passes\n", (double)hits / (double)n, passes);
	assert_true((double)hits >= 0.08 * (double)n);
	sim_free(&s);
}

/* Half of the look-ups go to a tenth of the data that came late: it gets in although the rest is
 * still in use. */
static void test_a_hot_part_enters_a_cache_in_use(void **state)
{
	struct sim s;
	uint64_t n = 256 * (uint64_t)MIB / (32 * 1024), hot = n / 20, hits = 0, looks = 0;
	struct rng r;

	(void)state;
	sim_new(&s, 64 * MIB, 32 * 1024);
	(void)sim_epoch(&s, 0, n, 1);
	rng_seed(&r, 5);
	for (uint64_t i = 0; i < 40 * n; i++) {
		bool is_hot = rng_below(&r, 2) == 0;
		bool is_hit = sim_access(&s, is_hot ? 1000000 + rng_below(&r, hot) : rng_below(&r, n));

		if (i > 30 * n && is_hot) {
			hits += is_hit;
			looks++;
		}
	}
	printf("  hot part: hit rate %.3f, %llu segments replaced\n", (double)hits / (double)looks,
		(unsigned long long)replaced(&s));
	assert_true((double)hits > 0.9 * (double)looks);
	sim_free(&s);
}

static void test_bytes_stay_what_they_were(void **state)
{
	struct sim s;
	struct rng r;

	(void)state;
	sim_new(&s, 16 * MIB, 20000);
	s.fill = true;
	rng_seed(&r, 9);
	/* Working sets that move on, so that segments are replaced all the time. */
	for (uint64_t i = 0; i < 400000; i++)
		(void)sim_access(&s, (i / 20000) * 200 + rng_below(&r, 700));
	assert_true(replaced(&s) > 5);
	sim_free(&s);
}

static void test_a_dropped_pack_is_gone(void **state)
{
	struct sim s;
	struct cache_buf b;

	(void)state;
	sim_new(&s, 64 * MIB, 4096);
	(void)sim_epoch(&s, 0, 5000, 1);
	assert_true(cache_find(s.cache, 2, 4096, &b));
	cache_release(s.cache, &b);
	cache_drop_pack(s.cache, 2);
	assert_false(cache_find(s.cache, 2, 4096, &b));
	assert_int_equal(payload(&s), 4000u * 4096);
	for (uint64_t i = 0; i < 5000; i++)
		if (i / 1000 != 1)
			assert_true(sim_access(&s, i));
	sim_free(&s);
}

static void test_referenced_bytes_outlive_their_eviction(void **state)
{
	struct sim s;
	struct cache_buf held;
	uint64_t pattern = pattern_of(0);

	(void)state;
	sim_new(&s, 16 * MIB, 100000);
	s.fill = true;
	(void)sim_epoch(&s, 0, 100, 1);
	assert_true(cache_find(s.cache, 1, 4096, &held));
	for (uint32_t e = 0; e < 30; e++)
		(void)sim_epoch(&s, 5000 + e / 10 * 1000, 100, e);
	assert_memory_equal(held.p, &pattern, sizeof(pattern));
	cache_release(s.cache, &held);
	sim_free(&s);
}

static void test_transient_memory_runs_out_and_comes_back(void **state)
{
	struct cache *cache = cache_new(16 * MIB, 8 * MIB);
	struct cache_local *local = cache_local_new(cache, NULL, NULL);
	struct cache_want want = { .len = 512 * 1024, .align = 4096 };
	struct cache_buf bufs[64];
	uint32_t n = 0;

	(void)state;
	while (n < 64 && cache_reserve(local, &want, &bufs[n]))
		n++;
	assert_int_equal(n, 16);
	for (uint32_t i = 0; i < n; i++)
		cache_release(cache, &bufs[i]);
	for (uint32_t i = 0; i < 16; i++)
		assert_true(cache_reserve(local, &want, &bufs[i]));
	for (uint32_t i = 0; i < 16; i++)
		cache_release(cache, &bufs[i]);
	cache_local_free(&local);
	cache_free(&cache);
}

/* Bytes of the memory that have pages. */
static uint64_t resident(const struct cache *cache)
{
	size_t pages = cache->memory_len / 4096;
	unsigned char *in = malloc(pages);
	uint64_t count = 0;

	assert_non_null(in);
	assert_int_equal(mincore(cache->memory, cache->memory_len, in), 0);
	for (size_t i = 0; i < pages; i++)
		count += in[i] & 1;
	free(in);
	return count * 4096;
}

/* Goal: pages are there before their segment is taken, no more of them than segments were taken; bytes in them stay. */
static void test_memory_is_made_ready_ahead_of_use(void **state)
{
	struct cache *cache = cache_new(64 * MIB, 8 * MIB);
	struct cache_local *local = cache_local_new(cache, NULL, NULL);
	struct cache_want want = { .len = 512 * 1024, .align = 4096, .units = 1, .keep = true };
	struct workers *workers;
	struct cache_buf b;

	(void)state;
	assert_int_equal(workers_new(0, &workers), 0);
	cache_ahead(cache, workers);
	assert_int_equal(workers_turn(workers), 0);
	assert_int_equal(resident(cache), 0);
	for (uint32_t taken = 0; taken < 40; taken++) {
		assert_true(cache_reserve(local, &want, &b));
		memset(b.p, (int)taken + 1, want.len);
		(void)workers_turn(workers);
		assert_int_equal(b.p[0], taken + 1);
		assert_int_equal(b.p[want.len - 1], taken + 1);
		cache_insert(cache, &b, 1, taken * MIB, b.p, want.len);
		cache_release(cache, &b);
		assert_in_range(resident(cache), cache->filled_end + CACHE_SEGMENT_SIZE,
			2 * cache->filled_end);
	}
	assert_true(ahead_ready(cache, cache->filled_end + CACHE_SEGMENT_SIZE));
	for (uint32_t taken = 0; taken < 40; taken++) {
		assert_true(cache_find(cache, 1, taken * MIB, &b));
		assert_int_equal(b.p[want.len / 2], taken + 1);
		cache_release(cache, &b);
	}
	cache_local_free(&local);
	workers_free(&workers);
	cache_free(&cache);
}

/* Samples of 4 KiB in a cache larger than any processor cache, prefetched a batch of 256 ahead as a
 * batch read does. */
static void test_hot_rate_is_printed(void **state)
{
	enum { N = 100000, BATCH = 256, ROUNDS = 4000 };
	struct cache_buf bufs[BATCH];
	uint64_t units[BATCH], began, ns;
	struct sim s;
	struct rng r;

	(void)state;
	sim_new(&s, 512 * MIB, 4096);
	(void)sim_epoch(&s, 0, N, 1);
	rng_seed(&r, 3);
	began = clock_thread_cpu_ns();
	for (uint32_t i = 0; i < ROUNDS; i++) {
		for (uint32_t k = 0; k < BATCH; k++) {
			units[k] = rng_below(&r, N);
			cache_prefetch(s.cache, 1 + units[k] / 1000, 4096 + (units[k] % 1000) * 1048576);
		}
		for (uint32_t k = 0; k < BATCH; k++)
			if (!cache_find(s.cache, 1 + units[k] / 1000, 4096 + (units[k] % 1000) * 1048576, &bufs[k]))
				fail_msg("a unit is missing");
		for (uint32_t k = 0; k < BATCH; k++)
			cache_release(s.cache, &bufs[k]);
	}
	ns = clock_thread_cpu_ns() - began;
	printf("  hot 4 KiB: prefetch + find + release %.1f ns a sample\n", (double)ns / (ROUNDS * BATCH));
	sim_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_epoch_that_fits_is_all_hits),
		cmocka_unit_test(test_shuffled_epochs_larger_than_the_cache_hit_what_is_held),
		cmocka_unit_test(test_a_new_hot_set_replaces_a_stale_one),
		cmocka_unit_test(test_a_new_large_set_replaces_a_stale_one),
		cmocka_unit_test(test_a_hot_part_enters_a_cache_in_use),
		cmocka_unit_test(test_bytes_stay_what_they_were),
		cmocka_unit_test(test_a_dropped_pack_is_gone),
		cmocka_unit_test(test_referenced_bytes_outlive_their_eviction),
		cmocka_unit_test(test_transient_memory_runs_out_and_comes_back),
		cmocka_unit_test(test_memory_is_made_ready_ahead_of_use),
		cmocka_unit_test(test_hot_rate_is_printed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
