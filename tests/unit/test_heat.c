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
	struct pack_heat of;
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
	heat_of(heat, 9, &of);
	assert_int_equal(2, of.reads); /* what went is not counted on */
	heat_close(&heat);
}

static void test_reads_of_the_copy_itself_are_counted_apart(void **state)
{
	struct world *w = *state;
	struct pack_heat of;
	struct heat *heat;

	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	heat_note(heat, 3, 10, 1000);
	heat_note_get(heat, 3, 4096);
	heat_note_get(heat, 3, 512);
	heat_note_get(NULL, 3, 512);
	heat_close(&heat);
	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	heat_of(heat, 3, &of);
	assert_int_equal(10, of.reads);
	assert_int_equal(2, of.gets);
	assert_int_equal(4608, of.got_bytes);
	heat_close(&heat);
}

static void test_a_pack_that_takes_over_is_as_hot(void **state)
{
	struct world *w = *state;
	struct pack_heat from, to;
	struct heat *heat;

	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	heat_follow(heat, 1, 2); /* nothing is known of it */
	heat_of(heat, 2, &to);
	assert_int_equal(0, to.last_read_ns);
	heat_note(heat, 1, 10, 1000);
	assert_int_equal(0, heat_save(heat, true));
	heat_follow(heat, 1, 2);
	heat_of(heat, 1, &from);
	heat_of(heat, 2, &to);
	assert_true(to.last_read_ns == from.last_read_ns && to.rate > 0);
	assert_int_equal(0, to.reads);
	heat_close(&heat);
	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	heat_of(heat, 2, &to);
	assert_true(to.last_read_ns > 0);
	heat_close(&heat);
}

static void test_jobs_are_told_apart(void **state)
{
	struct heat_job *jobs = calloc(HEAT_JOBS, sizeof(*jobs));
	struct world *w = *state;
	struct heat *heat;

	assert_non_null(jobs);
	assert_int_equal(0, heat_open(w->store.kv, w->clock, &heat));
	heat_note_job(heat, 0, true, 5); /* nobody's */
	assert_int_equal(0, heat_jobs(heat, jobs, HEAT_JOBS));
	heat_name_job(heat, 77, "train", 5); /* read nothing yet */
	assert_int_equal(0, heat_jobs(heat, jobs, HEAT_JOBS));
	heat_note_job(heat, 77, true, 100);
	heat_note_job(heat, 77, false, 300);
	heat_note_job(heat, 78, true, 1);
	assert_int_equal(2, heat_jobs(heat, jobs, HEAT_JOBS));
	assert_int_equal(1, heat_jobs(heat, jobs, 1));
	assert_string_equal("train", jobs[0].name);
	assert_int_equal(100, jobs[0].hot_bytes);
	assert_int_equal(300, jobs[0].cold_bytes);
	assert_int_equal(1, jobs[0].hot_reads);
	for (uint64_t job = 1; job < 4 * HEAT_JOBS; job++) heat_note_job(heat, job, true, 1); /* too many */
	assert_true(heat_jobs(heat, jobs, HEAT_JOBS) <= HEAT_JOBS);
	heat_close(&heat);
	free(jobs);
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
			test_reads_of_the_copy_itself_are_counted_apart, world_set_up_mem, world_tear_down),
		cmocka_unit_test_setup_teardown(
			test_a_pack_that_takes_over_is_as_hot, world_set_up_mem, world_tear_down),
		cmocka_unit_test_setup_teardown(test_jobs_are_told_apart, world_set_up_mem, world_tear_down),
		cmocka_unit_test_setup_teardown(
			test_more_packs_than_there_is_room_for, world_set_up_rocks, world_tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
