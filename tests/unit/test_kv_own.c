/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: an iterator below a prefix shows its reader what that reader has pending, over what is durable, in order, both
 * ways, also while what is pending is written; another's is waited for, and never shown before. Method: random rows of
 * two sessions against arrays; the seed is printed, GRANARY_SEED repeats a run. */
#include "common/clock.h"
#include "common/list.h"
#include "common/rand.h"
#include "unit/test_kv_util.h"

#include <inttypes.h>

enum { ROWS = 96, STEPS = 6000, ME = 7, OTHER = 8 };

struct row { bool is_there; uint64_t version; };

static struct row rows[ROWS];
static struct rng rng;

struct shot { /* an unstable transaction */
	struct kv_hold hold;
	struct task done, settled;
	_Atomic bool is_done;
	struct kv_txn *txn;
};

static void on_done(struct task *task) { container_of(task, struct shot, done)->is_done = true; }

static void on_settled(struct task *task)
{
	struct shot *shot = container_of(task, struct shot, settled);

	assert_int_equal(kv_txn_result(shot->txn), 0);
	kv_txn_free(&shot->txn);
	free(shot);
}

static struct slice key_of(uint8_t *buf, uint64_t number)
{
	buf[0] = 'x';
	be64_put(buf + 1, 5);
	be64_put(buf + 9, number << 5); /* room for keys that are not there */
	return slice_of(buf, 17);
}

static struct slice prefix_of(uint8_t *buf) { return slice_of(key_of(buf, 0).p, 9); }

static uint32_t number_of(struct slice key) { return (uint32_t)(be64_get(key.p + 9) >> 5); }

/* A few rows of one transaction, pending or durable; the model follows. */
static void change(struct store *s, uint64_t owner)
{
	struct shot *shot = calloc(1, sizeof(*shot));
	uint8_t key[32], value[256];
	uint32_t n = 1 + (uint32_t)rng_below(&rng, 4);

	shot->txn = kv_txn_new(s->kv);
	shot->done.fn = on_done;
	shot->settled.fn = on_settled;
	while (n-- > 0) {
		uint32_t i = (uint32_t)rng_below(&rng, ROWS);

		rows[i] = (struct row){ rng_below(&rng, 3) > 0, rng_next(&rng) >> 1 };
		if (rows[i].is_there)
			kv_put(shot->txn, key_of(key, i), value_of(value, 1, rows[i].version, 0));
		else
			kv_delete(shot->txn, key_of(key, i));
	}
	if (owner == 0) {
		assert_int_equal(run_txn(s->kv, shot->txn), 0);
		free(shot);
		return;
	}
	kv_txn_set_unstable(shot->txn, owner, &shot->hold, 0, &shot->settled);
	while (!kv_submit_now(s->kv, shot->txn, NULL)) /* it meets another's, or the committer is at work */
		kv_sync_wait(s->kv);
	assert_true(kv_txn_is_pending(shot->txn));
}

static void expect_at(struct kv_iter *it, int64_t i)
{
	uint64_t version;

	assert_int_equal(kv_iter_error(it), 0);
	if (i < 0 || i >= ROWS) {
		assert_false(kv_iter_valid(it));
		return;
	}
	assert_true(kv_iter_valid(it));
	assert_int_equal(number_of(kv_iter_key(it)), i);
	assert_true(value_u64(kv_iter_value(it), TAG_VERSION, 0, &version));
	assert_int_equal(version, rows[i].version);
}

static int64_t row_from(int64_t i)
{
	while (i < ROWS && !rows[i].is_there) i++;
	return i;
}

static int64_t row_up_to(int64_t i)
{
	while (i >= 0 && !rows[i].is_there) i--;
	return i;
}

static void look(struct store *s)
{
	uint8_t buf[32], prefix[32];
	bool writes = rng_below(&rng, 4) == 0, is_cached = rng_below(&rng, 4) == 0;
	struct kv_iter *it = is_cached ? kv_iter_new_cached(s->kv, prefix_of(prefix))
				       : kv_iter_new_under(s->kv, prefix_of(prefix));
	int64_t at = (int64_t)rng_below(&rng, ROWS), steps = (int64_t)rng_below(&rng, 12);

	assert_non_null(it);
	if (rng_below(&rng, 2) == 0) {
		kv_iter_seek(it, key_of(buf, (uint64_t)at));
		at = row_from(at);
	} else {
		kv_iter_seek_back(it, key_of(buf, (uint64_t)at));
		at = row_up_to(at);
	}
	if (is_cached && kv_iter_error(it) == -GRANARY_EAGAIN) { /* another's, or a block that is not in memory */
		kv_iter_free(&it);
		return;
	}
	expect_at(it, at);
	while (at >= 0 && at < ROWS && steps-- > 0) {
		if (writes && rng_below(&rng, 4) == 0) kv_sync_wait(s->kv); /* and it goes on */
		kv_iter_next(it);
		if (is_cached && kv_iter_error(it) == -GRANARY_EAGAIN) break;
		at = row_from(at + 1);
		expect_at(it, at);
	}
	kv_iter_free(&it);
}

static void test_own_rows_are_seen_in_order(void **state)
{
	struct store *s = *state;
	const char *seed_text = getenv("GRANARY_SEED");
	uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : clock_mono_ns();

	print_message("seed %" PRIu64 "\n", seed);
	rng_seed(&rng, seed);
	memset(rows, 0, sizeof(rows));
	kv_read_as(ME);
	for (int i = 0; i < STEPS; i++) {
		uint64_t what = rng_below(&rng, 40);

		if (what == 0)
			kv_sync_wait(s->kv);
		else if (what == 1)
			change(s, 0);
		else if (what == 2)
			change(s, OTHER);
		else if (what < 20)
			change(s, ME);
		else
			look(s);
	}
	kv_sync_wait(s->kv);
	kv_read_as(0);
	look(s);
}

static struct shot *shot_new(struct store *s)
{
	struct shot *shot = calloc(1, sizeof(*shot));

	shot->txn = kv_txn_new(s->kv);
	shot->done.fn = on_done;
	shot->settled.fn = on_settled;
	return shot;
}

static void shot_submit(struct store *s, struct shot *shot, uint64_t owner)
{
	kv_txn_set_unstable(shot->txn, owner, &shot->hold, 0, &shot->settled);
	kv_submit(s->kv, shot->txn, NULL, &shot->done);
	while (!shot->is_done) /* an engine without a thread commits here */
		if (s->is_mem) kv_turn(s->kv);
	assert_true(kv_txn_is_pending(shot->txn));
}

static void count(struct store *s, uint64_t owner, struct slice key, int64_t delta)
{
	struct shot *shot = shot_new(s);

	kv_add_known(shot->txn, key, 64, delta);
	shot_submit(s, shot, owner);
}

static uint64_t counted(struct store *s, uint64_t reader, struct slice key)
{
	uint64_t before = kv_read_as(reader), n = row_tag(s->kv, key, 64);

	kv_read_as(before);
	return n;
}

static void test_what_is_counted_is_seen_at_once_by_its_session(void **state)
{
	struct store *s = *state;
	struct slice n = slice_str("i-------n"), m = slice_str("i-------m");
	struct kv_stats stats;
	struct shot *shot;
	uint8_t value[256];

	assert_int_equal(put_row(s->kv, n, 1, 1, 10), 0);
	assert_int_equal(put_row(s->kv, m, 1, 1, 1), 0);
	count(s, ME, n, 1);
	count(s, ME, n, 2);
	assert_int_equal(counted(s, ME, n), 13);
	kv_get_stats(s->kv, &stats);
	assert_int_equal(stats.pending, 2); /* and nothing was written for that */
	shot = shot_new(s); /* a row that it puts over it, and one that it makes and counts in */
	kv_put_keeping(shot->txn, n, value_of(value, 2, 2, 13), 64, 0);
	kv_put(shot->txn, m, value_of(value, 3, 3, 5));
	kv_add_known(shot->txn, m, 64, 1);
	shot_submit(s, shot, ME);
	count(s, ME, n, -1);
	assert_true(counted(s, ME, n) == 12 && counted(s, ME, m) == 6);
	assert_int_equal(counted(s, OTHER, n), 12); /* written for it */
	kv_get_stats(s->kv, &stats);
	assert_int_equal(stats.pending, 0);
	assert_true(counted(s, 0, m) == 6 && row_tag(s->kv, n, TAG_ID) == 2);
	count(s, OTHER, n, 1);
	count(s, ME, n, 1); /* after a flush */
	assert_int_equal(counted(s, ME, n), 14);
	assert_int_equal(counted(s, OTHER, n), 14);
	shot = shot_new(s); /* over what another one counted: after a flush, too */
	kv_put_keeping(shot->txn, n, value_of(value, 4, 4, 14), 64, 0);
	shot_submit(s, shot, OTHER);
	kv_get_stats(s->kv, &stats);
	assert_int_equal(stats.pending, 1);
	count(s, OTHER, n, 1);
	count(s, ME, n, 1);
	assert_true(counted(s, ME, n) == 16 && counted(s, OTHER, n) == 16);
	kv_sync_wait(s->kv);
	store_reopen(s);
	assert_int_equal(counted(s, ME, n), 16);
}

static int set_up(void **state, kv_open_fn open, bool is_mem)
{
	struct store *s = calloc(1, sizeof(*s));

	store_init(s, open, is_mem);
	s->options.pending_max = 1 << 20;
	store_reopen(s);
	*state = s;
	return 0;
}

static int set_up_rocks(void **state) { return set_up(state, kv_open_rocks, false); }
static int set_up_mem(void **state) { return set_up(state, kv_open_mem, true); }

static int tear_down(void **state)
{
	store_release(*state);
	free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_own_rows_are_seen_in_order, set_up_rocks, tear_down),
		cmocka_unit_test_setup_teardown(test_own_rows_are_seen_in_order, set_up_mem, tear_down),
		cmocka_unit_test_setup_teardown(test_what_is_counted_is_seen_at_once_by_its_session, set_up_rocks,
						tear_down),
		cmocka_unit_test_setup_teardown(test_what_is_counted_is_seen_at_once_by_its_session, set_up_mem,
						tear_down),
	};

	return cmocka_run_group_tests_name("pending rows in order", tests, NULL, NULL);
}
