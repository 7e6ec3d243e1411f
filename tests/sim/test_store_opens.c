/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: wherever the power is cut, an object that was open is there whole for who announces it, whether or not its name
 * went before the cut; who does not announce it loses it, and nothing of it is left; a lock goes to nobody else before
 * the grace has ended. Method: a store on a simulated disk and clock, two sessions, a power cut at every write in turn;
 * all that is left in the end is counted. */
#include "sim/sim_store.h"
#include "unit/harness_open.h"

#include "meta/ns_orphan.h"
#include "req/locks.h"
#include "req/orphans.h"

enum { SIZE = 70000 };

static struct peer other;
static uint8_t old_bytes[SIZE], new_bytes[SIZE];

static bool turn_world(const struct call *c)
{
	struct store *s = world.store;

	(void)c;
	if (workers_turn(s->workers) + kv_turn(s->kv) + reactor_turn(s->reactors[0], false) == 0)
		reactor_turn(s->reactors[0], true);
	return true;
}

/* What is ready runs; the clock stands. */
static void turns(void)
{
	struct store *s = world.store;

	for (int i = 0; i < 1000; i++)
		if (workers_turn(s->workers) + kv_turn(s->kv) + reactor_turn(s->reactors[0], false) == 0) break;
}

static int set_up(void **state)
{
	(void)state;
	sim_store_new();
	peer_init(&other, &world, "root", 0);
	bucket_make(next_sequence++);
	fill(old_bytes, SIZE, 1);
	fill(new_bytes, SIZE, 2);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	peer_release(&other);
	sim_store_free();
	return 0;
}

static void crash(void)
{
	uint64_t id = session_id(peer.peer.session), id_other = session_id(other.peer.session);

	sim_power_cut(sim);
	peer_release(&peer);
	peer_release(&other);
	down();
	sim_power_on(sim);
	up();
	peer_init(&peer, &world, "root", 0);
	peer_reattach(&peer, id);
	peer_init(&other, &world, "root", 0);
	peer_reattach(&other, id_other);
}

static int read_id(struct peer *p, uint64_t id, const uint8_t *want)
{
	struct msg m = read_msg("", 0, 1);
	struct read_result r;
	struct call *c;
	int err;

	wr_u8(&m.w, 0);
	msg_id(&m, id, 0, "");
	c = msg_call(p, OP_READ, 0, &m, NULL, 0);
	read_results(c, &r, 1);
	err = r.err;
	if (err == 0) {
		assert_int_equal(r.len, SIZE);
		assert_memory_equal(r.data, want, SIZE);
	}
	read_free(&r, 1);
	call_free(c);
	return err;
}

/* ---- what is left ---- */

static int count_one(void *arg, uint64_t id)
{
	(void)id;
	(*(uint32_t *)arg)++;
	return 0;
}

static uint32_t orphans(void)
{
	uint32_t n = 0;

	assert_int_equal(ns_orphans(world.store->ns, count_one, &n), 0);
	return n;
}

static void assert_usage(uint64_t want)
{
	uint64_t bytes, objects;
	struct ns_bucket bucket;

	assert_int_equal(ns_bucket_find(world.store->ns, slice_str("data"), &bucket), 0);
	assert_int_equal(ns_bucket_usage(world.store->ns, bucket.id, &bytes, &objects), 0);
	assert_true(objects == want && bytes == want * SIZE);
}

static void assert_nothing_lives(void)
{
	struct kv_iter *it = kv_iter_new(world.store->kv, NULL);

	for (kv_iter_seek(it, slice_str("p")); kv_iter_valid(it) && kv_iter_key(it).p[0] == 'p'; kv_iter_next(it)) {
		struct pack_row row;

		assert_int_equal(pack_row_decode(kv_iter_value(it), &row), 0);
		assert_int_equal(row.live_bytes, 0);
	}
	kv_iter_free(&it);
}

/* ---- the cuts ---- */

struct done { /* what was answered before the cut */
	struct opened_result x, y;
	bool has_x, has_y, deleted, replaced;
};

static bool is_cut(void) { return sim_power_was_cut(sim); }

static void work(struct done *d)
{
	memset(d, 0, sizeof(*d));
	if (put_key(&peer, "data", "dir/x", old_bytes, SIZE).err < 0 || is_cut()) return;
	if (put_key(&peer, "data", "dir/y", old_bytes, SIZE).err < 0 || is_cut()) return;
	d->x = open_key(&peer, "dir/x", OPEN_FOR_READ);
	d->has_x = d->x.err == 0;
	d->y = open_key(&other, "dir/y", OPEN_FOR_READ);
	d->has_y = d->y.err == 0;
	if (is_cut()) return;
	d->deleted = delete_key(&other, "data", "dir/x") == 0;
	if (is_cut()) return;
	d->replaced = put_key(&peer, "data", "dir/y", new_bytes, SIZE).err == 0;
}

/* An answer may have been the last thing before the cut, or the cut have come before it: both are right. */
static void verify(const struct done *d, bool other_announces)
{
	uint32_t names = 0;
	int err;

	if (d->has_x) {
		assert_int_equal(announce(&peer, &d->x, OPEN_FOR_READ, NULL, ANNOUNCE_LAST), 0);
		assert_int_equal(read_id(&peer, d->x.id, old_bytes), 0);
	} else {
		announce(&peer, NULL, 0, NULL, ANNOUNCE_LAST);
	}
	if (d->has_y && other_announces) {
		assert_int_equal(announce(&other, &d->y, OPEN_FOR_READ, NULL, ANNOUNCE_LAST), 0);
		assert_int_equal(read_id(&other, d->y.id, old_bytes), 0);
	} else {
		announce(&other, NULL, 0, NULL, ANNOUNCE_LAST);
	}
	turns();
	assert_false(opens_is_grace(world.store->opens));
	if (d->deleted) assert_int_equal(read_err(&peer, "data", "dir/x"), -GRANARY_ENOTFOUND);
	if (d->replaced && !other_announces) assert_int_equal(read_id(&other, d->y.id, old_bytes), -GRANARY_ESTALE);
	close_handle(&peer, d->x.handle);
	close_handle(&other, d->y.handle);
	turns();
	assert_int_equal(orphans(), 0);
	for (int i = 0; i < 2; i++) names += read_err(&peer, "data", i == 0 ? "dir/x" : "dir/y") == 0;
	assert_usage(names);
	for (int i = 0; i < 2; i++) {
		err = delete_key(&peer, "data", i == 0 ? "dir/x" : "dir/y");
		assert_true(err == 0 || err == -GRANARY_ENOTFOUND);
	}
	assert_usage(0);
	assert_nothing_lives();
}

static void test_power_cuts_anywhere(void **state)
{
	uint32_t orphaned = 0;

	(void)state;
	for (uint64_t cut = 1;; cut++) {
		struct done d;

		sim_set_power_cut(sim, sim_write_count(sim) + cut);
		work(&d);
		if (!is_cut()) {
			sim_set_power_cut(sim, 0);
			assert_true(d.has_x && d.has_y && d.deleted && d.replaced);
			crash(); /* with all of it done */
			orphaned += orphans() == 2;
			verify(&d, true);
			break;
		}
		crash();
		orphaned += orphans() > 0;
		verify(&d, cut % 2 == 0);
	}
	assert_true(orphaned > 1);
}

/* Nobody comes: the clock goes on, and what was open goes; until then all that is removed stays. */
static void test_the_grace_ends_after_ten_seconds(void **state)
{
	struct opened_result x, y;

	(void)state;
	assert_int_equal(put_key(&peer, "data", "x", old_bytes, SIZE).err, 0);
	assert_int_equal(put_key(&peer, "data", "y", old_bytes, SIZE).err, 0);
	x = open_key(&peer, "x", OPEN_FOR_READ);
	y = open_key(&other, "y", OPEN_FOR_READ);
	assert_int_equal(delete_key(&peer, "data", "x"), 0);
	crash();
	assert_int_equal(delete_key(&peer, "data", "y"), 0);
	assert_int_equal(orphans(), 2);
	assert_int_equal(announce(&other, &y, OPEN_FOR_READ, NULL, ANNOUNCE_LAST), 0);
	turns();
	assert_true(opens_is_grace(world.store->opens));
	sim_advance(sim, GRACE_NS + 1);
	for (int i = 0; i < 1000 && opens_is_grace(world.store->opens); i++) turn_world(NULL);
	turns();
	assert_int_equal(orphans(), 1);
	assert_int_equal(read_id(&other, y.id, old_bytes), 0);
	assert_int_equal(announce(&peer, &x, OPEN_FOR_READ, NULL, ANNOUNCE_LAST), -GRANARY_ESTALE); /* too late */
	/* And once more with nobody at all. */
	crash();
	sim_advance(sim, GRACE_NS + 1);
	for (int i = 0; i < 1000 && opens_is_grace(world.store->opens); i++) turn_world(NULL);
	turns();
	assert_int_equal(orphans(), 0);
	assert_usage(0);
	assert_nothing_lives();
}

static void test_a_lock_is_kept_over_a_crash(void **state)
{
	struct lock lock = { .owner = 1, .end = UINT64_MAX, .kind = LOCK_WHOLE, .type = LOCK_EXCLUSIVE };
	struct opened_result x, y;
	struct locks_stats stats;

	(void)state;
	assert_int_equal(put_key(&peer, "data", "x", old_bytes, SIZE).err, 0);
	x = open_key(&peer, "x", OPEN_FOR_READ);
	y = open_key(&other, "x", OPEN_FOR_READ);
	crash();
	/* The locks of before are those that are announced: the first one wins. */
	assert_int_equal(announce(&other, &y, OPEN_FOR_READ, &lock, 0), 0);
	assert_int_equal(announce(&peer, &x, OPEN_FOR_READ, &lock, ANNOUNCE_LAST), -GRANARY_ESTALE);
	assert_int_equal(announce(&other, &y, OPEN_FOR_READ, &lock, ANNOUNCE_LAST), 0);
	locks_get_stats(world.store->locks, &stats);
	assert_int_equal(stats.held, 1);
	crash();
	sim_advance(sim, GRACE_NS + 1);
	for (int i = 0; i < 1000 && opens_is_grace(world.store->opens); i++) turn_world(NULL);
	assert_int_equal(announce(&other, &y, OPEN_FOR_READ, &lock, ANNOUNCE_LAST), -GRANARY_ESTALE); /* too late */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_cuts_anywhere, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_the_grace_ends_after_ten_seconds, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_lock_is_kept_over_a_crash, set_up, tear_down),
	};

	harness_turn = turn_world;
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
