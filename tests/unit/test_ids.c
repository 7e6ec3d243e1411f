/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: ids are unique in a run and carry its incarnation; store time goes on over stops, never back, and a clock that
 * jumps moves it by a day at most. */
#include "meta/ids.h"

#include "common/clock.h"
#include "common/id.h"
#include "unit/test_kv_util.h"

#define SECOND_NS UINT64_C(1000000000)
#define DAY_NS (24 * 3600 * SECOND_NS)

static void test_counters_are_separate_and_carry_the_incarnation(void **state)
{
	struct ids *ids = ids_new(7);
	uint64_t v;

	(void)state;
	assert_int_equal(ids_incarnation(ids), 7);
	assert_true(ids_object(ids) == id_make(7, 1));
	assert_true(ids_object(ids) == id_make(7, 2));
	assert_true(ids_pack(ids) == id_make(7, 1));
	assert_true(ids_version(ids) == id_make(7, 1));
	v = ids_version_range(ids, 100);
	assert_true(v == id_make(7, 2));
	assert_true(ids_version(ids) == id_make(7, 102));
	ids_free(&ids);
	assert_null(ids);
}

enum { THREADS = 4, TAKES = 20000 };

static void *taker(void *arg)
{
	uint64_t sum = 0;

	for (int i = 0; i < TAKES; i++)
		sum += id_counter(ids_object(arg));
	return (void *)(uintptr_t)sum;
}

static void test_threads_never_share_an_id(void **state)
{
	struct ids *ids = ids_new(1);
	pthread_t threads[THREADS];
	uint64_t sum = 0, n = (uint64_t)THREADS * TAKES;

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, taker, ids), 0);
	for (int i = 0; i < THREADS; i++) {
		void *part;
		pthread_join(threads[i], &part);
		sum += (uintptr_t)part;
	}
	assert_true(sum == n * (n + 1) / 2);
	ids_free(&ids);
}

/* Row M clock as an earlier run would have left it. */
static void clock_put(struct kv *kv, uint64_t store, uint64_t wall, uint64_t boot)
{
	uint8_t key[ROW_KEY_MAX], value[128];
	struct wr w = wr_of(value, sizeof(value));
	struct kv_txn *t = kv_txn_new(kv);

	value_begin(&w);
	tlv_put_u64(&w, 64, store);
	tlv_put_u64(&w, 65, wall);
	tlv_put_u64(&w, 66, boot);
	kv_put(t, row_store(key, "clock"), slice_of(value, wr_len(&w)));
	assert_int_equal(run_txn(kv, t), 0);
}

/* How far store time stands past 100 days after such a start. */
static uint64_t clock_gain(struct kv *kv, uint64_t wall, uint64_t boot)
{
	struct store_clock *c;
	uint64_t now;

	clock_put(kv, 100 * DAY_NS, wall, boot);
	assert_int_equal(store_clock_open(kv, &c), 0);
	now = store_clock_now(c);
	assert_true(now >= 100 * DAY_NS);
	store_clock_free(&c);
	return now - 100 * DAY_NS;
}

static void test_store_time_counts_stops_and_no_jumps(void **state)
{
	struct store s;
	struct kv *kv;
	uint64_t wall = clock_wall_ns(), boot = clock_boot_ns(), far = boot + 1000 * DAY_NS, gain;

	(void)state;
	store_init(&s, kv_open_mem, true);
	kv = s.kv;
	/* the same boot: boottime knows, whatever the wall clock did */
	gain = clock_gain(kv, wall - 365 * DAY_NS, boot - 60 * SECOND_NS);
	assert_true(gain >= 60 * SECOND_NS && gain < 120 * SECOND_NS);
	gain = clock_gain(kv, wall + 365 * DAY_NS, boot - 60 * SECOND_NS);
	assert_true(gain >= 60 * SECOND_NS && gain < 120 * SECOND_NS);
	/* another boot: the wall clock says, a day at most, never back */
	gain = clock_gain(kv, wall - 7200 * SECOND_NS, far);
	assert_true(gain >= 7200 * SECOND_NS && gain < boot + 7260 * SECOND_NS);
	gain = clock_gain(kv, wall - 365 * DAY_NS, far);
	assert_true(gain >= DAY_NS && gain < DAY_NS + 60 * SECOND_NS);
	gain = clock_gain(kv, wall + 365 * DAY_NS, far);
	assert_true(gain <= (boot < DAY_NS ? boot : DAY_NS) + 60 * SECOND_NS);
	store_release(&s);
}

static void test_what_a_long_stop_holds_back_counts_when_accepted(void **state)
{
	struct store s;
	struct store_clock *c;
	uint64_t wall = clock_wall_ns(), far = clock_boot_ns() + 1000 * DAY_NS, accepted, before;

	(void)state;
	store_init(&s, kv_open_mem, true);
	clock_put(s.kv, 100 * DAY_NS, wall - 5 * DAY_NS, far);
	assert_int_equal(store_clock_open(s.kv, &c), 0);
	assert_true(store_clock_held(c) >= 4 * DAY_NS && store_clock_held(c) < 4 * DAY_NS + 60 * SECOND_NS);
	store_clock_free(&c);
	store_reopen(&s); /* it is still known */
	assert_int_equal(store_clock_open(s.kv, &c), 0);
	assert_true(store_clock_held(c) >= 4 * DAY_NS);
	before = store_clock_now(c);
	assert_true(before < 101 * DAY_NS + 60 * SECOND_NS);
	assert_int_equal(store_clock_accept(c, s.kv, &accepted), 0);
	assert_true(accepted >= 4 * DAY_NS && store_clock_held(c) == 0);
	assert_true(store_clock_now(c) >= before + accepted);
	assert_int_equal(store_clock_accept(c, s.kv, &accepted), 0); /* once */
	assert_int_equal(accepted, 0);
	store_clock_free(&c);
	store_reopen(&s);
	assert_int_equal(store_clock_open(s.kv, &c), 0);
	assert_true(store_clock_now(c) >= before + 4 * DAY_NS && store_clock_held(c) == 0);
	store_clock_free(&c);
	store_release(&s);
}

static void test_store_time_begins_and_goes_on(void **state)
{
	struct store s;
	struct store_clock *c;
	uint64_t first, later;

	(void)state;
	store_init(&s, kv_open_mem, true);
	assert_int_equal(store_clock_open(s.kv, &c), 0);
	first = store_clock_now(c);
	assert_true(first > DAY_NS); /* "a day ago" is a number */
	assert_int_equal(store_clock_save(c, s.kv), 0);
	store_clock_free(&c);
	store_reopen(&s);
	assert_int_equal(store_clock_open(s.kv, &c), 0);
	later = store_clock_now(c);
	assert_true(later >= first && later < first + 60 * SECOND_NS);
	store_clock_free(&c);
	store_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counters_are_separate_and_carry_the_incarnation),
		cmocka_unit_test(test_threads_never_share_an_id),
		cmocka_unit_test(test_store_time_counts_stops_and_no_jumps),
		cmocka_unit_test(test_what_a_long_stop_holds_back_counts_when_accepted),
		cmocka_unit_test(test_store_time_begins_and_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
