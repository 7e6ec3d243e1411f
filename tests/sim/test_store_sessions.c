/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what sessions leave in the metadata goes after a day of store time, not before, never by the wall clock, and
 * nothing that still counts goes with it. Method: a store on a simulated disk and clock, one thread; job passes by
 * hand, rows counted. */
#include "sim/sim_store.h"

#include "common/tlv.h"
#include "jobs/jobs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"

enum { MANY = 9500 };
#define HOUR_NS UINT64_C(3600000000000)
#define YEAR_NS ((int64_t)(365 * 24 * HOUR_NS))

static int set_up(void **state)
{
	(void)state;
	sim_store_new();
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	sim_store_free();
	return 0;
}

static struct put_result put(uint16_t flags, uint64_t sequence, uint64_t seen, const char *key)
{
	struct msg m = msg_new("data");
	struct put_result r;
	struct call *c;

	msg_sequence(&m, sequence, 0, seen);
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	msg_put_rest(&m, PUT_ANY, 0, 0, "x", 1);
	c = call_now(OP_PUT, flags, &m, "x");
	r = put_result_of(c, 0);
	call_free(c);
	return r;
}

static uint32_t rows(char kind)
{
	struct kv_iter *it = kv_iter_new(world.store->kv, NULL);
	uint32_t n = 0;

	for (kv_iter_seek(it, slice_of(&kind, 1)); kv_iter_valid(it); kv_iter_next(it)) {
		if (kv_iter_key(it).p[0] != (uint8_t)kind) break;
		n++;
	}
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
	return n;
}

static void jobs_after(uint64_t ns, uint32_t passes)
{
	sim_advance(sim, ns);
	for (uint32_t i = 0; i < passes; i++)
		assert_int_equal(jobs_pass(world.store->jobs), 0);
}

/* The peer's session vanishes with its connection; another begins. Returns the one that vanished. */
static uint64_t vanish(void)
{
	uint64_t id = session_id(peer.peer.session);

	session_detach(world.store->sessions, &peer.peer.session);
	peer_attach(&peer, 0);
	return id;
}

static int attach(uint64_t id)
{
	struct session *s = NULL;
	int err = session_attach(world.store->sessions, peer.key, id, true, &s);

	if (s != NULL) session_detach(world.store->sessions, &s);
	return err;
}

/* Another peer of the same key, in the same session. */
static void peer_of(uint64_t session)
{
	peer_init(&peer, &world, "root", 0);
	session_detach(world.store->sessions, &peer.peer.session);
	peer_attach(&peer, session);
}

static void test_a_vanished_session_is_removed_after_a_day(void **state)
{
	uint64_t id;

	(void)state;
	bucket_make(1);
	for (uint64_t i = 2; i < 12; i++) assert_int_equal(put(0, i, 0, "k").err, 0);
	id = vanish();
	assert_int_equal(rows('l'), 10); /* making a bucket is remembered in memory only */
	assert_int_equal(rows('h'), 1);
	jobs_after(23 * HOUR_NS, 3);
	assert_int_equal(rows('l'), 10);
	assert_int_equal(rows('h'), 1);
	assert_int_equal(attach(id), 0);
	jobs_after(2 * HOUR_NS, 1); /* found in memory yet: its own rows stay */
	assert_int_equal(rows('l'), 0);
	jobs_after(2 * HOUR_NS, 3);
	assert_int_equal(rows('h'), 0);
	assert_int_equal(attach(id), -GRANARY_ESTALE);
	assert_int_equal(attach(session_id(peer.peer.session)), 0);
}

static void test_who_comes_back_is_told_also_after_a_restart(void **state)
{
	uint64_t id, younger;

	(void)state;
	bucket_make(1);
	assert_int_equal(put(0, 2, 0, "k").err, 0);
	id = vanish();
	younger = session_id(peer.peer.session); /* changed nothing: no rows */
	jobs_after(25 * HOUR_NS, 3);
	assert_int_equal(rows('h'), 0);
	peer_release(&peer);
	down();
	up();
	peer_of(younger);
	assert_int_equal(attach(id), -GRANARY_ESTALE);
	assert_int_equal(put(FRAME_RESENT, 1, 0, "k").err, 0);
	assert_int_equal(rows('h'), 1);
}

static void test_a_living_session_keeps_its_row(void **state)
{
	uint64_t id = session_id(peer.peer.session);
	struct put_result young, again;

	(void)state;
	bucket_make(1);
	assert_int_equal(put(0, 2, 0, "k").err, 0);
	jobs_after(20 * HOUR_NS, 1);
	young = put(0, 3, 0, "k");
	assert_int_equal(young.err, 0);
	jobs_after(5 * HOUR_NS, 3);
	assert_int_equal(rows('l'), 1); /* the older one is gone */
	assert_int_equal(rows('h'), 1);
	(void)vanish();
	jobs_after(2 * HOUR_NS, 3); /* gone from memory; its lease, never renewed, ended long ago */
	assert_int_equal(rows('h'), 1);
	peer_release(&peer);
	peer_of(id);
	again = put(FRAME_RESENT, 3, 0, "k");
	assert_int_equal(again.err, 0);
	assert_int_equal(again.version, young.version);
	jobs_after(100 * HOUR_NS, 3); /* attached, nothing to remember */
	assert_int_equal(rows('l'), 0);
	assert_int_equal(rows('h'), 1);
	assert_int_equal(put(0, 4, 3, "k").err, 0);
}

static void test_the_wall_clock_removes_nothing(void **state)
{
	uint64_t id;
	struct put_result first, again;

	(void)state;
	bucket_make(1);
	first = put(0, 2, 0, "k");
	assert_int_equal(put(0, 3, 0, "k").err, 0);
	id = vanish();
	for (int i = 0; i < 4; i++) {
		sim_clock_jump(sim, i % 2 == 0 ? YEAR_NS : -2 * YEAR_NS);
		jobs_after(2 * HOUR_NS, 3);
		assert_int_equal(rows('l'), 2);
		assert_int_equal(rows('h'), 1);
	}
	peer_release(&peer);
	down();
	sim_power_cut(sim); /* the wall clock has to say how long it was off: a year, counted as a day at most */
	sim_power_on(sim);
	sim_clock_reboot();
	sim_clock_jump(sim, 2 * YEAR_NS);
	up();
	jobs_after(HOUR_NS / 2, 3);
	assert_int_equal(rows('l'), 2);
	peer_of(id);
	again = put(FRAME_RESENT, 2, 0, "k");
	assert_int_equal(again.version, first.version);
}

static void rows_put(uint64_t session, uint32_t n)
{
	struct kv_txn *txn = kv_txn_new(world.store->kv);
	uint8_t key[ROW_KEY_MAX], value[64];
	struct wr w = wr_of(value, sizeof(value));

	value_begin(&w);
	tlv_put_u64(&w, LTAG_WRITTEN, store_clock_now(world.store->clock));
	for (uint32_t i = 0; i < n; i++)
		kv_put(txn, row_retry(key, session, i + 1), slice_of(value, wr_len(&w)));
	assert_int_equal(kv_submit_wait(world.store->kv, txn), 0);
	kv_txn_free(&txn);
}

/* Transactions of at most 1,000 rows, at most eight in a pass; a full disk stops it until the next pass. */
static void test_many_rows_go_in_steps_and_an_error_is_only_a_delay(void **state)
{
	(void)state;
	rows_put(1, MANY);
	sim_advance(sim, 25 * HOUR_NS);
	sim_set_fail(sim, 2, -GRANARY_ENOSPACE, SIM_WRITES, false); /* the first saves the clock */
	(void)jobs_pass(world.store->jobs);
	assert_int_equal(rows('l'), MANY);
	sim_set_fail(sim, 0, 0, 0, false);
	jobs_after(0, 1);
	assert_true(rows('l') < MANY && rows('l') >= MANY - 8000);
	jobs_after(0, 3);
	assert_int_equal(rows('l'), 0);
	rows_put(1, 1);
	jobs_after(24 * HOUR_NS + HOUR_NS, 1);
	assert_int_equal(rows('l'), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_a_vanished_session_is_removed_after_a_day),
		T(test_who_comes_back_is_told_also_after_a_restart),
		T(test_a_living_session_keeps_its_row),
		T(test_the_wall_clock_removes_nothing),
		T(test_many_rows_go_in_steps_and_an_error_is_only_a_delay),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
