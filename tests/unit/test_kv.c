/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: kv.h's promises, one by one, on both engines: each precondition holding and failing with `seen` of 0, right
 * and stale; conflicts inside one group; counters against puts and deletes; ranges after the transaction's own ops;
 * views. */
#include "meta/kv.h"

#include "unit/test_kv_util.h"

static struct slice K(const char *s) { return slice_str(s); }

static int set_up_rocks(void **state)
{
	store_init(*state = calloc(1, sizeof(struct store)), kv_open_rocks, false);
	return 0;
}

static int set_up_mem(void **state)
{
	store_init(*state = calloc(1, sizeof(struct store)), kv_open_mem, true);
	return 0;
}

static int tear_down(void **state)
{
	store_release(*state);
	free(*state);
	return 0;
}

static void test_rows_are_put_read_and_deleted(void **state)
{
	struct store *s = *state;
	struct slice keys[3] = { K("a"), K("b"), K("c") };
	struct kv_value v[3];
	int err[3];

	assert_int_equal(put_row(s->kv, K("a"), 1, 2, 3), 0);
	assert_int_equal(put_row(s->kv, K("c"), 4, 5, 6), 0);
	kv_multi_get(s->kv, keys, 3, v, err);
	assert_int_equal(err[0], 0);
	assert_int_equal(err[1], -GRANARY_ENOTFOUND);
	assert_int_equal(err[2], 0);
	for (int i = 0; i < 3; i++)
		kv_value_release(&v[i]);
	assert_int_equal(delete_row(s->kv, K("a")), 0);
	assert_int_equal(delete_row(s->kv, K("never there")), 0);
	assert_true(row_tag(s->kv, K("a"), TAG_ID) == UINT64_MAX);
	store_reopen(s);
	assert_true(row_tag(s->kv, K("a"), TAG_ID) == UINT64_MAX);
	assert_int_equal(row_tag(s->kv, K("c"), TAG_VERSION), 5);
}

static void test_last_op_on_a_key_wins(void **state)
{
	struct store *s = *state;
	uint8_t b1[256], b2[256];
	struct kv_txn *t = kv_txn_new(s->kv);

	kv_put(t, K("a"), value_of(b1, 1, 1, 0));
	kv_delete(t, K("a"));
	kv_put(t, K("a"), value_of(b2, 2, 2, 0));
	kv_put(t, K("b"), value_of(b1, 1, 1, 0));
	kv_delete(t, K("b"));
	assert_int_equal(kv_txn_ops(t), 5);
	assert_int_equal(run_txn(s->kv, t), 0);
	assert_int_equal(row_tag(s->kv, K("a"), TAG_ID), 2);
	assert_true(row_tag(s->kv, K("b"), TAG_ID) == UINT64_MAX);
}

enum pre { PRE_ABSENT, PRE_VERSION, PRE_ID, PRE_ID_OR_ABSENT };

static int run_pre(struct kv *kv, enum pre kind, uint64_t seen, struct slice key, uint64_t n)
{
	struct kv_txn *t = kv_txn_new(kv);

	switch (kind) {
	case PRE_ABSENT: kv_pre_absent(t, seen, key); break;
	case PRE_VERSION: kv_pre_version(t, seen, key, n); break;
	case PRE_ID: kv_pre_id(t, seen, key, n, false); break;
	case PRE_ID_OR_ABSENT: kv_pre_id(t, seen, key, n, true); break;
	}
	return run_txn(kv, t);
}

static void test_point_preconditions_hold_and_fail(void **state)
{
	struct store *s = *state;
	const int busy = -GRANARY_EBUSY;

	assert_int_equal(put_row(s->kv, K("row"), 7, 70, 0), 0);
	assert_int_equal(run_pre(s->kv, PRE_ABSENT, 0, K("none"), 0), 0);
	assert_int_equal(run_pre(s->kv, PRE_ABSENT, 0, K("row"), 0), busy);
	assert_int_equal(run_pre(s->kv, PRE_VERSION, 0, K("row"), 70), 0);
	assert_int_equal(run_pre(s->kv, PRE_VERSION, 0, K("row"), 71), busy);
	assert_int_equal(run_pre(s->kv, PRE_VERSION, 0, K("none"), 0), busy);
	assert_int_equal(run_pre(s->kv, PRE_ID, 0, K("row"), 7), 0);
	assert_int_equal(run_pre(s->kv, PRE_ID, 0, K("row"), 8), busy);
	assert_int_equal(run_pre(s->kv, PRE_ID, 0, K("none"), 7), busy);
	assert_int_equal(run_pre(s->kv, PRE_ID_OR_ABSENT, 0, K("none"), 7), 0);
	assert_int_equal(run_pre(s->kv, PRE_ID_OR_ABSENT, 0, K("row"), 8), busy);
}

static void test_right_seen_needs_no_read_and_stale_seen_reads(void **state)
{
	struct store *s = *state;
	struct kv_stats before, after;
	uint64_t seen;

	assert_int_equal(put_row(s->kv, K("row"), 7, 70, 0), 0);
	seen = kv_seq(s->kv);
	assert_true(seen > 0);
	kv_get_stats(s->kv, &before);
	assert_int_equal(run_pre(s->kv, PRE_VERSION, seen, K("row"), 70), 0);
	assert_int_equal(run_pre(s->kv, PRE_ABSENT, seen, K("none"), 0), 0);
	kv_get_stats(s->kv, &after);
	assert_int_equal(after.pre_reads, before.pre_reads);

	/* stale: the rows change after `seen` */
	assert_int_equal(put_row(s->kv, K("row"), 8, 71, 0), 0);
	assert_int_equal(put_row(s->kv, K("none"), 9, 1, 0), 0);
	assert_int_equal(run_pre(s->kv, PRE_VERSION, seen, K("row"), 70), -GRANARY_EBUSY);
	assert_int_equal(run_pre(s->kv, PRE_ABSENT, seen, K("none"), 0), -GRANARY_EBUSY);
	assert_int_equal(run_pre(s->kv, PRE_ID, seen, K("row"), 7), -GRANARY_EBUSY);
	assert_int_equal(run_pre(s->kv, PRE_VERSION, seen, K("row"), 71), 0); /* touched, and true all the same */
	assert_int_equal(delete_row(s->kv, K("none")), 0);
	assert_int_equal(run_pre(s->kv, PRE_ABSENT, seen, K("none"), 0), 0);
}

static void test_transactions_of_one_group_are_judged_in_order(void **state)
{
	struct store *s = *state;
	uint8_t b[256];
	struct kv_txn *t[5];
	int r[5];
	uint64_t seen = kv_seq(s->kv);

	for (int i = 0; i < 5; i++)
		t[i] = kv_txn_new(s->kv);
	for (int i = 0; i < 3; i++) { /* three racing creates: the first wins, also over a fast `seen` */
		kv_pre_absent(t[i], i == 2 ? seen : 0, K("x"));
		kv_put(t[i], K("x"), value_of(b, (uint64_t)i + 1, 1, 0));
	}
	kv_pre_id(t[3], 0, K("x"), 1, false);
	kv_delete(t[3], K("x"));
	kv_pre_absent(t[4], seen, K("x"));
	kv_put(t[4], K("x"), value_of(b, 5, 1, 0));
	run_group(s, t, r, 5);
	assert_int_equal(r[0], 0);
	assert_int_equal(r[1], -GRANARY_EBUSY);
	assert_int_equal(r[2], -GRANARY_EBUSY);
	assert_int_equal(r[3], 0);
	assert_int_equal(r[4], 0);
	assert_int_equal(row_tag(s->kv, K("x"), TAG_ID), 5);
}

static void test_failed_transaction_leaves_no_trace(void **state)
{
	struct store *s = *state;
	uint8_t b[256];
	struct kv_txn *t[3];
	int r[3];

	assert_int_equal(put_row(s->kv, K("n"), 1, 1, 10), 0);
	for (int i = 0; i < 3; i++)
		t[i] = kv_txn_new(s->kv);
	kv_put(t[0], K("y"), value_of(b, 1, 1, 0));
	kv_add(t[0], K("n"), 64, 5);
	kv_add(t[0], K("new"), 64, 5);
	kv_pre_absent(t[0], 0, K("n")); /* fails, after its ops were named */
	kv_pre_absent(t[1], 0, K("y"));
	kv_pre_counter(t[1], K("n"), 64, 0, 10);
	kv_pre_absent(t[1], 0, K("new"));
	kv_put(t[2], K("z"), value_of(b, 1, 1, 0));
	kv_pre_range(t[2], K("z"), true); /* fails on its own put */
	run_group(s, t, r, 3);
	assert_int_equal(r[0], -GRANARY_EBUSY);
	assert_int_equal(r[1], 0);
	assert_int_equal(r[2], -GRANARY_EBUSY);
	assert_true(row_tag(s->kv, K("y"), TAG_ID) == UINT64_MAX);
	assert_true(row_tag(s->kv, K("z"), TAG_ID) == UINT64_MAX);
	assert_true(row_tag(s->kv, K("new"), 64) == UINT64_MAX);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 10);
}

static void test_counters_add_up_across_and_inside_groups(void **state)
{
	struct store *s = *state;
	struct kv_stats stats;

	for (int g = 0; g < 3; g++) {
		struct kv_txn *t[10];
		int r[10];
		for (int i = 0; i < 10; i++) {
			t[i] = kv_txn_new(s->kv);
			kv_add(t[i], K("n"), 64, 3);
			kv_add(t[i], K("n"), 65, i == 9 ? -1 : 1);
			kv_max(t[i], K("n"), 66, (uint64_t)(g * 10 + 20 - i));
		}
		run_group(s, t, r, 10);
	}
	assert_int_equal(row_tag(s->kv, K("n"), 64), 90);
	assert_int_equal(row_tag(s->kv, K("n"), 65), 24);
	assert_int_equal(row_tag(s->kv, K("n"), 66), 40);
	kv_get_stats(s->kv, &stats);
	assert_int_equal(stats.clamped, 0);
	store_reopen(s);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 90);
}

static void test_counters_follow_puts_and_deletes_of_their_row(void **state)
{
	struct store *s = *state;
	uint8_t b[256];
	struct kv_txn *t[6];
	int r[6];

	assert_int_equal(put_row(s->kv, K("n"), 1, 1, 100), 0);
	for (int i = 0; i < 6; i++)
		t[i] = kv_txn_new(s->kv);
	kv_add(t[0], K("n"), 64, 1);                        /* 101 */
	kv_put(t[1], K("n"), value_of(b, 2, 2, 500));       /* replaced */
	kv_add(t[2], K("n"), 64, 1);                        /* 501 */
	kv_add(t[3], K("m"), 64, 7);
	kv_delete(t[4], K("m"));
	kv_add(t[4], K("m"), 64, 2);                        /* made again: 2 */
	kv_add(t[5], K("n"), 65, 4);                        /* a tag that was missing */
	run_group(s, t, r, 6);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 501);
	assert_int_equal(row_tag(s->kv, K("n"), 65), 4);
	assert_int_equal(row_tag(s->kv, K("n"), TAG_ID), 2);
	assert_int_equal(row_tag(s->kv, K("m"), 64), 2);
	/* in later groups: the cached row must not outlive a put or a delete */
	assert_int_equal(put_row(s->kv, K("n"), 3, 3, 1000), 0);
	t[0] = kv_txn_new(s->kv);
	kv_add(t[0], K("n"), 64, 1);
	assert_int_equal(run_txn(s->kv, t[0]), 0);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 1001);
	assert_int_equal(delete_row(s->kv, K("n")), 0);
	t[0] = kv_txn_new(s->kv);
	kv_add(t[0], K("n"), 64, 1);
	assert_int_equal(run_txn(s->kv, t[0]), 0);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 1);
}

static void test_a_put_that_raises_a_tag_loses_no_max(void **state)
{
	struct store *s = *state;
	uint8_t b[256];
	struct kv_txn *t[7];
	int r[7];

	assert_int_equal(put_row(s->kv, K("n"), 1, 1, 100), 0);
	for (int i = 0; i < 7; i++)
		t[i] = kv_txn_new(s->kv);
	kv_max(t[0], K("n"), 64, 300);
	kv_put_raising(t[1], K("n"), value_of(b, 2, 2, 100), 64);  /* read before the max: 300 */
	kv_put_raising(t[2], K("n"), value_of(b, 3, 3, 400), 64);  /* 400 */
	kv_put_raising(t[3], K("m"), value_of(b, 4, 4, 7), 64);    /* there was none */
	kv_put(t[4], K("q"), value_of(b, 5, 5, 50));
	kv_put_raising(t[5], K("q"), value_of(b, 6, 6, 40), 64);   /* behind a put of the group: 50 */
	kv_delete(t[6], K("m"));
	kv_put_raising(t[6], K("m"), value_of(b, 7, 7, 3), 64);    /* behind a delete: 3 */
	run_group(s, t, r, 7);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 400);
	assert_int_equal(row_tag(s->kv, K("n"), TAG_ID), 3);
	assert_int_equal(row_tag(s->kv, K("m"), 64), 3);
	assert_int_equal(row_tag(s->kv, K("q"), 64), 50);
	assert_int_equal(row_tag(s->kv, K("q"), TAG_ID), 6);
	store_reopen(s); /* nothing of it is in memory */
	t[0] = kv_txn_new(s->kv);
	kv_put_raising(t[0], K("n"), value_of(b, 8, 8, 100), 64);
	assert_int_equal(run_txn(s->kv, t[0]), 0);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 400);
	assert_int_equal(row_tag(s->kv, K("n"), TAG_ID), 8);
	t[0] = kv_txn_new(s->kv); /* and counters go on from there */
	kv_add(t[0], K("n"), 64, 1);
	assert_int_equal(run_txn(s->kv, t[0]), 0);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 401);
}

static void test_what_is_known_is_counted_and_survives_a_put(void **state)
{
	struct store *s = *state;
	uint8_t b[256];
	struct kv_txn *t[6];
	int r[6];

	assert_int_equal(put_row(s->kv, K("n"), 1, 1, 10), 0);
	for (int i = 0; i < 6; i++)
		t[i] = kv_txn_new(s->kv);
	kv_add_known(t[0], K("n"), 64, 2);
	kv_put_keeping(t[1], K("n"), value_of(b, 2, 2, 10), 64, 0); /* read before the add: 12 */
	kv_add_known(t[2], K("n"), 64, -1);
	kv_add_known(t[2], K("n"), 65, 1);                          /* not known, and stays so */
	kv_put_keeping(t[3], K("m"), value_of(b, 4, 4, 7), 64, 0);  /* there was none */
	kv_add_known(t[3], K("m"), 64, 1);
	kv_max(t[4], K("m"), 65, 5);
	kv_put_keeping(t[5], K("m"), value_of(b, 6, 6, 7), 64, 65); /* one is kept, the other raised */
	run_group(s, t, r, 6);
	for (int i = 0; i < 6; i++)
		assert_int_equal(r[i], 0);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 11);
	assert_int_equal(row_tag(s->kv, K("n"), 65), 0);
	assert_int_equal(row_tag(s->kv, K("n"), TAG_ID), 2);
	assert_int_equal(row_tag(s->kv, K("m"), 64), 8);
	assert_int_equal(row_tag(s->kv, K("m"), 65), 5);
	store_reopen(s);
	t[0] = kv_txn_new(s->kv);
	kv_put_keeping(t[0], K("n"), value_of(b, 8, 8, 99), 64, 0);
	assert_int_equal(run_txn(s->kv, t[0]), 0);
	assert_int_equal(row_tag(s->kv, K("n"), 64), 11);
}

static void test_counter_never_goes_below_zero_and_keeps_its_width(void **state)
{
	struct store *s = *state;
	struct kv_txn *t = kv_txn_new(s->kv);
	struct kv_stats stats;
	struct kv_value v;
	struct slice state_tag;
	uint8_t b[64];
	struct wr w = wr_of(b, sizeof(b));

	value_begin(&w);
	tlv_put(&w, PTAG_STATE, slice_of("\1", 1));
	kv_put(t, K("p"), slice_of(b, wr_len(&w)));
	kv_add(t, K("p"), PTAG_LIVE, 5);
	assert_int_equal(run_txn(s->kv, t), 0);
	t = kv_txn_new(s->kv);
	kv_add(t, K("p"), PTAG_LIVE, -9);
	kv_max(t, K("p"), PTAG_STATE, PACK_SEALED);
	assert_int_equal(run_txn(s->kv, t), 0);
	kv_get_stats(s->kv, &stats);
	assert_int_equal(stats.clamped, 1);
	assert_int_equal(row_tag(s->kv, K("p"), PTAG_LIVE), 0);
	assert_int_equal(kv_get(s->kv, K("p"), &v), 0);
	assert_true(value_bytes(v.v, PTAG_STATE, &state_tag));
	assert_int_equal(state_tag.len, 1);
	assert_int_equal(state_tag.p[0], PACK_SEALED);
	kv_value_release(&v);
	t = kv_txn_new(s->kv);
	kv_max(t, K("p"), PTAG_STATE, 300); /* does not fit: 8 bytes from here on */
	assert_int_equal(run_txn(s->kv, t), 0);
	assert_int_equal(row_tag(s->kv, K("p"), PTAG_STATE), 300);
	assert_int_equal(row_tag(s->kv, K("p"), PTAG_LIVE), 0);
}

static void test_damaged_row_fails_the_counter_and_not_the_group(void **state)
{
	struct store *s = *state;
	struct kv_txn *t[2] = { kv_txn_new(s->kv), NULL };
	int r[2];

	kv_put(t[0], K("bad"), K("not a value"));
	assert_int_equal(run_txn(s->kv, t[0]), 0);
	t[0] = kv_txn_new(s->kv);
	t[1] = kv_txn_new(s->kv);
	kv_add(t[0], K("bad"), 64, 1);
	kv_add(t[1], K("good"), 64, 1);
	run_group(s, t, r, 2);
	assert_int_equal(r[0], -GRANARY_ECORRUPT);
	assert_int_equal(r[1], 0);
	assert_int_equal(row_tag(s->kv, K("good"), 64), 1);
}

static void test_quota_counts_what_the_group_added(void **state)
{
	struct store *s = *state;
	struct kv_txn *t[3];
	int r[3];

	for (int i = 0; i < 3; i++) {
		t[i] = kv_txn_new(s->kv);
		kv_pre_counter(t[i], K("q"), QTAG_BYTES, 40, 100);
		kv_add(t[i], K("q"), QTAG_BYTES, 40);
	}
	run_group(s, t, r, 3);
	assert_int_equal(r[0], 0);
	assert_int_equal(r[1], 0);
	assert_int_equal(r[2], -GRANARY_EQUOTA);
	t[0] = kv_txn_new(s->kv);
	kv_pre_counter(t[0], K("q"), QTAG_BYTES, UINT64_MAX, UINT64_MAX);
	assert_int_equal(run_txn(s->kv, t[0]), -GRANARY_EQUOTA); /* no wrap-around */
	t[0] = kv_txn_new(s->kv);
	kv_pre_counter(t[0], K("q"), QTAG_BYTES, 20, 100);
	assert_int_equal(run_txn(s->kv, t[0]), 0);
}

static int run_range(struct kv *kv, uint64_t seen, uint64_t dir, bool empty, const char *deleted, const char *put)
{
	uint8_t key[ROW_KEY_MAX], b[256];
	struct kv_txn *t = kv_txn_new(kv);

	kv_pre_range_seen(t, seen, row_entry_prefix(key, dir), empty);
	if (deleted != NULL)
		kv_delete(t, row_entry(key, dir, K(deleted), false));
	if (put != NULL)
		kv_put(t, row_entry(key, dir, K(put), false), value_of(b, 1, 1, 0));
	return run_txn(kv, t);
}

static void test_ranges_are_judged_after_own_ops(void **state)
{
	struct store *s = *state;
	uint8_t key[ROW_KEY_MAX];
	const int busy = -GRANARY_EBUSY;

	assert_int_equal(run_range(s->kv, 0, 5, true, NULL, NULL), 0);
	assert_int_equal(run_range(s->kv, 0, 5, false, NULL, NULL), busy);
	assert_int_equal(run_range(s->kv, 0, 5, false, NULL, "a"), 0);     /* its own put makes it not empty */
	assert_int_equal(put_row(s->kv, row_entry(key, 6, K("z"), false), 1, 1, 0), 0); /* a neighbour counts not */
	assert_int_equal(put_row(s->kv, row_entry(key, 4, K("z"), false), 1, 1, 0), 0);
	assert_int_equal(run_range(s->kv, 0, 5, true, NULL, NULL), busy);
	assert_int_equal(run_range(s->kv, 0, 5, false, "a", NULL), busy);  /* its own delete empties it */
	assert_int_equal(run_range(s->kv, 0, 5, true, "a", "b"), busy);    /* deletes the last, puts another */
	assert_int_equal(run_range(s->kv, 0, 5, true, "a", NULL), 0);
	assert_int_equal(run_range(s->kv, 0, 5, true, NULL, NULL), 0);
	assert_int_equal(run_range(s->kv, 0, 6, false, NULL, NULL), 0);
}

static void test_range_seen_is_stale_when_the_directory_changed(void **state)
{
	struct store *s = *state;
	uint8_t key[ROW_KEY_MAX];
	struct kv_stats before, after;
	uint64_t seen;

	assert_int_equal(put_row(s->kv, row_entry(key, 5, K("a"), false), 1, 1, 0), 0);
	seen = kv_seq(s->kv);
	kv_get_stats(s->kv, &before);
	assert_int_equal(run_range(s->kv, seen, 5, false, NULL, NULL), 0);
	kv_get_stats(s->kv, &after);
	assert_int_equal(after.pre_reads, before.pre_reads);
	assert_int_equal(put_row(s->kv, row_entry(key, 5, K("b"), false), 1, 1, 0), 0);
	assert_int_equal(run_range(s->kv, seen, 5, true, "a", NULL), -GRANARY_EBUSY);
}

static void test_emptying_a_directory_ends_at_its_last_row(void **state)
{
	struct store *s = *state;
	enum { N = 500 };
	struct kv_txn *t[N];
	int r[N];
	uint8_t key[ROW_KEY_MAX], b[256];
	char name[16];

	for (int round = 0; round < 2; round++) { /* in order of names, then against it */
		for (int i = 0; i < N; i++) {
			t[i] = kv_txn_new(s->kv);
			snprintf(name, sizeof(name), "%05d", i);
			kv_put(t[i], row_entry(key, 9, K(name), false), value_of(b, 1, 1, 0));
		}
		run_group(s, t, r, N);
		for (int i = 0; i < N; i++) {
			t[i] = kv_txn_new(s->kv);
			snprintf(name, sizeof(name), "%05d", round == 0 ? i : N - 1 - i);
			kv_delete(t[i], row_entry(key, 9, K(name), false));
			kv_pre_range(t[i], row_entry_prefix(key, 9), i == N - 1);
		}
		run_group(s, t, r, N);
		for (int i = 0; i < N; i++)
			assert_int_equal(r[i], 0);
	}
}

static void test_short_prefixes_are_ranges_too(void **state)
{
	struct store *s = *state;
	struct kv_txn *t[2] = { kv_txn_new(s->kv), kv_txn_new(s->kv) };
	uint8_t b[256];
	int r[2];

	kv_put(t[0], K("s/one"), value_of(b, 1, 1, 0));
	kv_pre_range(t[1], K("s/"), false);
	run_group(s, t, r, 2);
	assert_int_equal(r[0], 0);
	assert_int_equal(r[1], 0);
	t[0] = kv_txn_new(s->kv);
	kv_add(t[0], K("t/counter"), 64, 1); /* a row made by counting is a row */
	kv_pre_range(t[0], K("t/"), true);
	assert_int_equal(run_txn(s->kv, t[0]), -GRANARY_EBUSY);
}

static void test_a_view_does_not_move(void **state)
{
	struct store *s = *state;
	struct kv_snapshot *snap;
	struct kv_iter *a, *b, *now;
	char name[16];
	int n = 0;

	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "k%04d", i);
		assert_int_equal(put_row(s->kv, K(name), 1, 1, 0), 0);
	}
	snap = kv_snapshot_new(s->kv);
	a = kv_iter_new(s->kv, snap);
	for (int i = 0; i < 300; i += 2) {
		snprintf(name, sizeof(name), "k%04d", i);
		assert_int_equal(delete_row(s->kv, K(name)), 0);
	}
	assert_int_equal(put_row(s->kv, K("k0001"), 2, 2, 0), 0);
	b = kv_iter_new(s->kv, snap);
	now = kv_iter_new(s->kv, NULL);
	kv_iter_seek(a, K("k"));
	kv_iter_seek(b, K("k"));
	for (; kv_iter_valid(a); kv_iter_next(a), kv_iter_next(b), n++) {
		uint64_t id;
		snprintf(name, sizeof(name), "k%04d", n);
		assert_true(slice_eq(kv_iter_key(a), K(name)) && slice_eq(kv_iter_key(b), K(name)));
		assert_true(value_u64(kv_iter_value(b), TAG_ID, 0, &id));
		assert_int_equal(id, 1);
	}
	assert_int_equal(n, 300);
	assert_false(kv_iter_valid(b));
	assert_int_equal(kv_iter_error(a), 0);
	n = 0;
	for (kv_iter_seek(now, K("k0100")); kv_iter_valid(now); kv_iter_next(now))
		n++;
	assert_int_equal(n, 100);
	kv_iter_free(&a);
	kv_iter_free(&b);
	kv_iter_free(&now);
	kv_snapshot_free(s->kv, &snap);
}

/* A scan copies many rows at a time: it sees what any iterator sees, wherever it begins, and again after a seek. */
static void test_a_scan_sees_what_an_iterator_sees(void **state)
{
	struct store *s = *state;
	struct kv_snapshot *snap;
	struct kv_iter *scan, *plain;
	char name[16];

	for (int i = 0; i < 700; i++) {
		snprintf(name, sizeof(name), "q%04d", i);
		assert_int_equal(put_row(s->kv, K(name), (uint64_t)i + 1, 1, 0), 0);
	}
	snap = kv_snapshot_new(s->kv);
	scan = kv_iter_new_scan(s->kv, snap);
	plain = kv_iter_new(s->kv, snap);
	assert_int_equal(delete_row(s->kv, K("q0300")), 0);
	for (int from = 0; from < 710; from += 37) {
		int n = 0;

		snprintf(name, sizeof(name), "q%04d", from);
		kv_iter_seek(scan, K(name));
		kv_iter_seek(plain, K(name));
		for (; kv_iter_valid(plain) && n < 200; n++, kv_iter_next(plain), kv_iter_next(scan)) {
			assert_true(kv_iter_valid(scan));
			assert_true(slice_eq(kv_iter_key(scan), kv_iter_key(plain)));
			assert_true(slice_eq(kv_iter_value(scan), kv_iter_value(plain)));
		}
		assert_int_equal(n, from >= 700 ? 0 : 700 - from < 200 ? 700 - from : 200);
		assert_int_equal(kv_iter_valid(scan), n == 200 && from + n < 700);
		assert_int_equal(kv_iter_error(scan), 0);
	}
	kv_iter_free(&scan);
	kv_iter_free(&plain);
	kv_snapshot_free(s->kv, &snap);
}

struct seen_events { char text[256]; };

static void event(struct seen_events *e, char kind, uint64_t dir, struct slice name, uint64_t id)
{
	size_t at = strlen(e->text);

	snprintf(e->text + at, sizeof(e->text) - at, "%c%d%.*s%d ", kind, (int)dir, (int)name.len,
		(const char *)name.p, (int)id);
}
static void event_begin(void *arg, uint64_t dir, struct slice name, uint64_t id) { event(arg, 'b', dir, name, id); }
static void event_end(void *arg, uint64_t dir, struct slice name, uint64_t id) { event(arg, 'e', dir, name, id); }

static void test_observer_is_told_of_what_is_written_only(void **state)
{
	struct store *s = *state;
	struct seen_events events = { "" };
	struct kv_txn *t;
	uint8_t b[256];

	s->options.observer = (struct kv_observer){ event_begin, event_end, &events };
	store_reopen(s);
	t = kv_txn_new(s->kv);
	kv_put(t, K("a"), value_of(b, 1, 1, 0));
	kv_txn_touch(t, 1, K("x"), 2);
	kv_txn_touch(t, 3, K(""), 4);
	assert_int_equal(run_txn(s->kv, t), 0);
	t = kv_txn_new(s->kv);
	kv_pre_absent(t, 0, K("a"));
	kv_txn_touch(t, 9, K("never"), 9);
	assert_int_equal(run_txn(s->kv, t), -GRANARY_EBUSY);
	assert_string_equal(events.text, "b1x2 b34 e1x2 e34 ");
}

static void test_large_transaction_applies_whole(void **state)
{
	struct store *s = *state;
	struct kv_txn *t = kv_txn_new(s->kv);
	uint8_t b[256];
	char name[16];

	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "big%05d", i);
		kv_pre_absent(t, 0, K(name));
		kv_put(t, K(name), value_of(b, (uint64_t)i, 1, 0));
		kv_add(t, K("count"), 64, 1);
	}
	kv_pre_range(t, K("big"), false);
	assert_int_equal(run_txn(s->kv, t), 0);
	assert_int_equal(row_tag(s->kv, K("big04999"), TAG_ID), 4999);
	assert_int_equal(row_tag(s->kv, K("count"), 64), 5000);
}

static void test_seq_grows_with_groups_and_close_commits_the_queue(void **state)
{
	struct store *s = *state;
	uint64_t before = kv_seq(s->kv);
	struct kv_txn *t = kv_txn_new(s->kv);
	struct pending p = { .task = { .fn = pending_done } };
	uint8_t b[256];

	assert_int_equal(put_row(s->kv, K("a"), 1, 1, 0), 0);
	assert_true(kv_seq(s->kv) > before);
	kv_put(t, K("late"), value_of(b, 1, 1, 0));
	kv_submit(s->kv, t, NULL, &p.task);
	store_reopen(s);
	assert_true(atomic_load(&p.is_done));
	assert_int_equal(kv_txn_result(t), 0);
	kv_txn_free(&t);
	assert_int_equal(row_tag(s->kv, K("late"), TAG_ID), 1);
}

#define BOTH(test) \
	{ #test "/rocks", test, set_up_rocks, tear_down, NULL }, { #test "/mem", test, set_up_mem, tear_down, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_rows_are_put_read_and_deleted),
		BOTH(test_last_op_on_a_key_wins),
		BOTH(test_point_preconditions_hold_and_fail),
		BOTH(test_right_seen_needs_no_read_and_stale_seen_reads),
		BOTH(test_transactions_of_one_group_are_judged_in_order),
		BOTH(test_failed_transaction_leaves_no_trace),
		BOTH(test_counters_add_up_across_and_inside_groups),
		BOTH(test_counters_follow_puts_and_deletes_of_their_row),
		BOTH(test_a_put_that_raises_a_tag_loses_no_max),
		BOTH(test_what_is_known_is_counted_and_survives_a_put),
		BOTH(test_counter_never_goes_below_zero_and_keeps_its_width),
		BOTH(test_damaged_row_fails_the_counter_and_not_the_group),
		BOTH(test_quota_counts_what_the_group_added),
		BOTH(test_ranges_are_judged_after_own_ops),
		BOTH(test_range_seen_is_stale_when_the_directory_changed),
		BOTH(test_emptying_a_directory_ends_at_its_last_row),
		BOTH(test_short_prefixes_are_ranges_too),
		BOTH(test_a_view_does_not_move),
		BOTH(test_a_scan_sees_what_an_iterator_sees),
		BOTH(test_observer_is_told_of_what_is_written_only),
		BOTH(test_large_transaction_applies_whole),
		BOTH(test_seq_grows_with_groups_and_close_commits_the_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
