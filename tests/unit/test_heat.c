/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: reads of packs are counted from many threads, saved as rows, found again after a restart, and
 * forgotten in time; no row is written by a read. */
#include "tier/heat.h"

#include "unit/test_ns_util.h"

#include <pthread.h>

enum { THREADS = 4, ROUNDS = 20000, SOME_PACKS = 37 };

static void *reader(void *arg)
{
	for (uint64_t i = 0; i < ROUNDS; i++) heat_note(arg, 1 + i % SOME_PACKS, 1, 100);
	return NULL;
}

struct sum {
	uint64_t rows, reads, bytes;
};

static int sum_up(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes)
{
	struct sum *s = arg;

	assert_true(hour > 0 && pack > 0);
	s->rows++;
	s->reads += reads;
	s->bytes += bytes;
	return 0;
}

static void test_counted_saved_found_again(void **state)
{
	struct world *w = *state;
	struct heat *heat;
	struct pack_heat of;
	struct kv_stats before, after;
	pthread_t threads[THREADS];
	struct sum sum = { 0 };

	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	kv_get_stats(w->store.kv, &before);
	for (int i = 0; i < THREADS; i++) assert_int_equal(0, pthread_create(&threads[i], NULL, reader, heat));
	for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
	kv_get_stats(w->store.kv, &after);
	assert_int_equal(before.puts, after.puts);
	heat_of(heat, 1, &of);
	assert_true(of.reads >= THREADS * (ROUNDS / SOME_PACKS) && of.last_read_ns > 0 && of.rate > 0);
	assert_int_equal(0, heat_each(heat, sum_up, &sum));
	assert_int_equal(THREADS * ROUNDS, sum.reads);
	assert_int_equal(THREADS * ROUNDS * 100, sum.bytes);
	assert_true(sum.rows >= SOME_PACKS && sum.rows <= 2 * SOME_PACKS); /* an hour may have ended */
	heat_note(heat, 5, 3, 7);
	heat_close(&heat);

	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	sum = (struct sum){ 0 };
	assert_int_equal(0, heat_each(heat, sum_up, &sum));
	assert_int_equal(THREADS * ROUNDS + 3, sum.reads);
	heat_of(heat, 5, &of);
	assert_true(of.last_read_ns > 0 && of.last_read_ns <= store_clock_now(w->clock));
	heat_of(heat, 4711, &of);
	assert_true(of.last_read_ns == 0 && of.reads == 0);
	assert_int_equal(0, heat_forgotten(heat));
	heat_close(&heat);
}

static void test_old_rows_go(void **state)
{
	struct world *w = *state;
	struct heat *heat;
	struct sum sum = { 0 };
	struct kv_txn *txn = kv_txn_new(w->store.kv);
	uint8_t key[17] = { 'a' };

	be64_put(key + 1, 1);
	be64_put(key + 9, 9);
	kv_add(txn, slice_of(key, sizeof(key)), 64, 5);
	assert_int_equal(0, kv_submit_wait(w->store.kv, txn));
	kv_txn_free(&txn);
	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	heat_note(heat, 9, 2, 2);
	assert_int_equal(0, heat_each(heat, sum_up, &sum));
	assert_int_equal(2, sum.reads);
	heat_close(&heat);
}

static void test_more_packs_than_there_is_room_for(void **state)
{
	struct world *w = *state;
	struct heat *heat;

	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	for (uint64_t i = 1; i <= 2 * HEAT_PACKS; i++) heat_note(heat, i, 1, 1);
	assert_true(heat_forgotten(heat) >= HEAT_PACKS);
	heat_note(heat, 0, 1, 1);
	heat_note(NULL, 1, 1, 1);
	heat_close(&heat);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_counted_saved_found_again, world_set_up_mem, world_tear_down),
		cmocka_unit_test_setup_teardown(test_old_rows_go, world_set_up_mem, world_tear_down),
		cmocka_unit_test_setup_teardown(
			test_more_packs_than_there_is_room_for, world_set_up_rocks, world_tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
