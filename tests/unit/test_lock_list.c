/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a list of locks says of every byte who has which lock on it. Method: random locks of a few owners on a few
 * bytes, against an array with an entry a byte; the seed is printed. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/lock_list.h"
#include "common/rand.h"

enum { BYTES = 24, OWNERS = 4, OPS = 20000 };

static uint8_t model[OWNERS][BYTES]; /* type; the last byte stands for all behind it */

static struct lock lock_of(uint64_t owner, uint64_t start, uint64_t end, uint8_t type)
{
	return (struct lock){ .session = owner / 2, .owner = owner % 2, .start = start,
		.end = end == BYTES - 1 ? UINT64_MAX : end, .kind = LOCK_RANGE, .type = type };
}

static void assert_is_model(const struct list *locks)
{
	uint8_t found[OWNERS][BYTES] = { 0 };

	list_for (at, locks) {
		const struct lock *l = &container_of(at, struct lock_item, link)->lock;
		uint64_t owner = l->session * 2 + l->owner;

		assert_true(lock_is_sound(l) && l->type != LOCK_NONE && l->start < BYTES);
		for (uint64_t b = l->start; b < BYTES && b <= l->end; b++) {
			assert_int_equal(found[owner][b], 0); /* invariant (1): no overlap */
			found[owner][b] = l->type;
		}
		list_for (n, locks) { /* and what touches differs */
			const struct lock *m = &container_of(n, struct lock_item, link)->lock;
			if (n != at && lock_is_same_owner(l, m) && l->end != UINT64_MAX && m->start == l->end + 1)
				assert_true(m->type != l->type);
		}
	}
	assert_memory_equal(found, model, sizeof(found));
}

static bool model_conflict(const struct lock *want, uint64_t owner)
{
	for (uint64_t o = 0; o < OWNERS; o++)
		for (uint64_t b = want->start; o != owner && b < BYTES && b <= want->end; b++)
			if (model[o][b] == LOCK_EXCLUSIVE || (model[o][b] != 0 && want->type == LOCK_EXCLUSIVE))
				return true;
	return false;
}

static bool model_has(const struct lock *want, uint64_t owner)
{
	for (uint64_t b = want->start; b < BYTES && b <= want->end; b++)
		if (model[owner][b] < want->type) return false;
	return true;
}

static void test_random_locks(void **state)
{
	const char *seed_text = getenv("GRANARY_SEED");
	uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : clock_mono_ns();
	struct list locks;
	struct rng rng;
	uint32_t refused = 0;

	(void)state;
	print_message("seed %" PRIu64 "\n", seed);
	rng_seed(&rng, seed);
	list_init(&locks);
	for (uint32_t i = 0; i < OPS; i++) {
		uint64_t owner = rng_below(&rng, OWNERS), start = rng_below(&rng, BYTES);
		uint64_t end = start + rng_below(&rng, rng_below(&rng, 2) == 0 ? BYTES - start : 3);
		struct lock want;

		if (end >= BYTES) end = BYTES - 1;
		want = lock_of(owner, start, end, (uint8_t)rng_below(&rng, 3));
		if (want.type != LOCK_NONE) {
			assert_int_equal(lock_list_has(&locks, &want), model_has(&want, owner));
			assert_int_equal(lock_list_conflict(&locks, &want) != NULL, model_conflict(&want, owner));
			if (lock_list_conflict(&locks, &want) != NULL) {
				refused++;
				continue;
			}
		}
		assert_int_equal(lock_list_set(&locks, &want), 0);
		for (uint64_t b = start; b <= end; b++) model[owner][b] = want.type;
		assert_is_model(&locks);
	}
	assert_true(refused > 0);
	for (uint64_t s = 0; s < OWNERS / 2; s++) lock_list_clear(&locks, s);
	assert_true(list_empty(&locks));
}

static void test_kinds_do_not_see_each_other(void **state)
{
	struct lock range = lock_of(0, 0, BYTES - 1, LOCK_EXCLUSIVE), whole = range;
	struct list locks;

	(void)state;
	list_init(&locks);
	whole.kind = LOCK_WHOLE;
	whole.session = 7;
	assert_int_equal(lock_list_set(&locks, &range), 0);
	assert_null(lock_list_conflict(&locks, &whole));
	assert_int_equal(lock_list_set(&locks, &whole), 0);
	range.session = 8;
	assert_non_null(lock_list_conflict(&locks, &range));
	whole.start = 1;
	assert_false(lock_is_sound(&whole));
	range.type = 3;
	assert_false(lock_is_sound(&range));
	lock_list_clear(&locks, 0);
	lock_list_clear(&locks, 7);
	assert_true(list_empty(&locks));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_locks),
		cmocka_unit_test(test_kinds_do_not_see_each_other),
	};

	return cmocka_run_group_tests_name("locks of a file", tests, NULL, NULL);
}
