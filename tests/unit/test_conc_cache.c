/* SPDX-License-Identifier: Apache-2.0 */
/* test_conc_cache.c -- several threads fill, find, release and drop at once; bytes are always those
 * of their unit. Meant for ThreadSanitizer as well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/rand.h"
#include "pack/cache.h"

enum { MIB = 1024 * 1024, THREADS = 4, LOOKS = 60000, HELD = 16 };

struct racer {
	pthread_t thread;
	struct cache *cache;
	uint32_t number;
	uint64_t hits;
	const char *wrong;
};

static uint64_t mark_of(uint64_t pack, uint64_t offset) { return (pack * 1000003 + offset) * 0x9e3779b97f4a7c15u; }

static uint32_t len_of(uint64_t offset) { return 512 * (uint32_t)(1 + offset % 97); }

static void fill(uint8_t *p, uint32_t len, uint64_t mark)
{
	memcpy(p, &mark, 8);
	memcpy(p + len - 8, &mark, 8);
}

static bool is_marked(const uint8_t *p, uint32_t len, uint64_t mark)
{
	return memcmp(p, &mark, 8) == 0 && memcmp(p + len - 8, &mark, 8) == 0;
}

static void look(struct racer *r, struct cache_local *local, uint64_t pack, uint64_t offset, struct cache_buf *out)
{
	struct cache_want want = { .len = len_of(offset), .align = 512, .units = 1 };

	if (cache_find(r->cache, pack, offset, out)) {
		r->hits++;
		if (out->len != len_of(offset))
			r->wrong = "length";
	} else {
		want.keep = cache_admit(local, pack, offset, want.len, 1);
		if (!cache_reserve(local, &want, out)) {
			want.keep = false;
			if (!cache_reserve(local, &want, out)) {
				out->segment = NULL;
				return; /* others hold it all */
			}
		}
		fill(out->p, want.len, mark_of(pack, offset));
		if (want.keep)
			cache_insert(r->cache, out, pack, offset, out->p, want.len);
	}
	if (!is_marked(out->p, out->len, mark_of(pack, offset)))
		r->wrong = "bytes after the look-up";
}

struct held { struct cache_buf buf; uint64_t mark; };

static void *race(void *arg)
{
	struct racer *r = arg;
	struct cache_local *local = cache_local_new(r->cache, NULL, NULL);
	struct held held[HELD] = { 0 };
	struct rng rng;

	rng_seed(&rng, r->number);
	for (uint32_t i = 0; i < LOOKS && r->wrong == NULL; i++) {
		struct held *h = &held[i % HELD];
		/* A working set that moves on, so that segments are replaced under the others'
		 * hands. */
		uint64_t pack = 1 + i / 6000 + rng_below(&rng, 3), offset = 4096 + rng_below(&rng, 300) * 8;

		if (h->buf.segment != NULL) {
			if (!is_marked(h->buf.p, h->buf.len, h->mark))
				r->wrong = "bytes while held";
			cache_release(r->cache, &h->buf);
		}
		look(r, local, pack, offset, &h->buf);
		h->mark = mark_of(pack, offset);
		if (i % 9000 == 8999)
			cache_drop_pack(r->cache, i / 6000);
	}
	for (uint32_t i = 0; i < HELD; i++)
		if (held[i].buf.segment != NULL)
			cache_release(r->cache, &held[i].buf);
	cache_local_free(&local);
	return NULL;
}

static void test_bytes_found_are_the_units_own(void **state)
{
	struct racer racers[THREADS];
	struct cache *cache = cache_new(24 * MIB, 24 * MIB);
	struct cache_stats st;
	uint64_t hits = 0;

	(void)state;
	assert_non_null(cache);
	for (uint32_t i = 0; i < THREADS; i++) {
		racers[i] = (struct racer){ .cache = cache, .number = i };
		assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++) {
		pthread_join(racers[i].thread, NULL);
		if (racers[i].wrong != NULL)
			fail_msg("wrong %s", racers[i].wrong);
		hits += racers[i].hits;
	}
	cache_get_stats(cache, &st);
	assert_int_equal(st.hits, hits);
	assert_true(st.replaced > 10);
	assert_true(st.payload_bytes <= st.budget);
	printf("  %llu hits, %llu misses, %llu segments replaced\n", (unsigned long long)st.hits,
		(unsigned long long)st.misses, (unsigned long long)st.replaced);
	cache_free(&cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_bytes_found_are_the_units_own) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
