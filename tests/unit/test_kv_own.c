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
	struct kv_txn *txn;
};

static void on_done(struct task *task) { (void)task; }

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
	};

	return cmocka_run_group_tests_name("pending rows in order", tests, NULL, NULL);
}
