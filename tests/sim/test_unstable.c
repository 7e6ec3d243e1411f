/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what is answered before it is durable is visible to its own session alone, durable within a second, and after
 * a crash either there or sent again under its own ids; nothing else is lost with it. Method: a store on a simulated
 * disk and clock, one thread; power cuts at a chosen moment. */
#include "sim/sim_store.h"

#include "meta/ids.h"
#include "meta/kv.h"
#include "pack/writer.h"
#include "req/unstable.h"

static struct peer other;

static int set_up(void **state)
{
	(void)state;
	sim_store_new();
	peer_init(&other, &world, "root", 0);
	bucket_make(1);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	peer_release(&other);
	sim_store_free();
	return 0;
}

static bool turn_world(const struct call *c)
{
	struct store *s = world.store;

	(void)c;
	if (workers_turn(s->workers) + kv_turn(s->kv) + reactor_turn(s->reactors[0], false) == 0)
		reactor_turn(s->reactors[0], true);
	return true;
}

struct answer_tail {
	bool is_unstable;
	uint64_t verifier, id, version;
};

static struct answer_tail tail_of(const struct call *c)
{
	const struct got *g = c->first;
	struct answer_tail t = { .is_unstable = (g->flags & FRAME_UNSTABLE) != 0 };
	struct cur m;

	if (!t.is_unstable) return t;
	assert_true(g->meta_len >= UNSTABLE_TAIL_SIZE);
	m = cur_of(g->meta + g->meta_len - UNSTABLE_TAIL_SIZE, UNSTABLE_TAIL_SIZE);
	t.verifier = cur_u64(&m);
	t.id = cur_u64(&m);
	t.version = cur_u64(&m);
	return t;
}

static struct call *put_start(struct peer *p, uint64_t sequence, uint64_t seen, const char *key, const char *text,
	const struct answer_tail *again)
{
	struct msg m = msg_new("data");
	uint16_t flags = FRAME_UNSTABLE | (again != NULL ? FRAME_REPLAY | FRAME_RESENT : 0);
	struct call *c;

	msg_sequence(&m, sequence, 0, seen);
	if (again != NULL) {
		wr_u64(&m.w, again->id);
		wr_u64(&m.w, again->version);
	}
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	msg_put_rest(&m, PUT_ANY, 0, 0, text, strlen(text));
	c = call_start(p, OP_PUT, flags, &m.w, text, strlen(text));
	free(m.buf);
	return c;
}

static struct put_result put(struct peer *p, uint64_t sequence, const char *key, const char *text,
	const struct answer_tail *again, struct answer_tail *tail)
{
	struct call *c = put_start(p, sequence, 0, key, text, again);
	struct put_result r;

	call_wait(c);
	r = put_result_of(c, 0);
	*tail = tail_of(c);
	call_free(c);
	return r;
}

static uint64_t sync_all(struct peer *p, uint8_t flags)
{
	uint8_t buf[1];
	struct wr w = wr_of(buf, sizeof(buf));
	struct cur m;
	uint64_t verifier;
	struct call *c;

	wr_u8(&w, flags);
	c = call(p, OP_SYNC, 0, &w, NULL, 0);
	assert_int_equal(call_status(c), 0);
	m = cur_of(c->first->meta, c->first->meta_len);
	verifier = cur_u64(&m);
	assert_true(cur_done(&m));
	call_free(c);
	return verifier;
}

/* 0 and the object's id, as its session sees it. */
static int stat_key(struct peer *p, const char *key, uint64_t *id)
{
	struct msg m = msg_new("data");
	struct call *c;
	struct cur a;
	int err;

	wr_u8(&m.w, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	c = msg_call(p, OP_STAT, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	assert_int_equal(cur_u32(&a), 1);
	err = -(int)cur_u16(&a);
	cur_u16(&a);
	*id = err == 0 ? cur_u64(&a) : 0;
	call_free(c);
	return err;
}

static uint64_t pending(void)
{
	struct kv_stats s;

	kv_get_stats(world.store->kv, &s);
	return s.pending;
}

/* The process and what was not flushed are gone; the session goes on. */
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
	session_detach(world.store->sessions, &peer.peer.session);
	peer_attach(&peer, id);
	peer_init(&other, &world, "root", 0);
	session_detach(world.store->sessions, &other.peer.session);
	peer_attach(&other, id_other);
}

static void expect_bytes(struct peer *p, const char *key, const char *text)
{
	struct read_result r = read_key(p, "data", key, 0);

	assert_int_equal(r.err, 0);
	assert_int_equal(r.len, strlen(text));
	assert_memory_equal(r.data, text, r.len);
	free(r.data);
}

static void test_it_is_answered_without_a_write_and_seen_by_its_session(void **state)
{
	struct answer_tail tail;
	struct put_result r;
	uint64_t writes, id;

	(void)state;
	r = put(&peer, 2, "first", "reserves ids, makes a pack", NULL, &tail);
	assert_int_equal(r.err, 0);
	assert_true(tail.is_unstable);
	sync_all(&peer, 0);
	writes = sim_write_count(sim);
	r = put(&peer, 3, "a", "bytes", NULL, &tail);
	assert_int_equal(r.err, 0);
	assert_true(tail.is_unstable);
	assert_int_equal(r.id, tail.id);
	assert_int_equal(sim_write_count(sim), writes);
	assert_int_equal(pending(), 1);
	assert_int_equal(stat_key(&peer, "a", &id), 0);
	assert_int_equal(id, r.id);
	assert_int_equal(pending(), 1);
	assert_int_equal(sync_all(&peer, 0), tail.verifier);
	assert_int_equal(pending(), 0);
	expect_bytes(&other, "a", "bytes");
}

static void test_another_reader_waits_for_a_flush_and_sees_what_is_durable(void **state)
{
	struct answer_tail tail;
	uint64_t id;

	(void)state;
	assert_int_equal(put(&peer, 2, "a", "old", NULL, &tail).err, 0);
	expect_bytes(&other, "a", "old");
	assert_int_equal(pending(), 0);
	assert_int_equal(put(&peer, 3, "a", "new", NULL, &tail).err, 0);
	assert_int_equal(pending(), 1);
	expect_bytes(&other, "a", "new");
	assert_int_equal(pending(), 0);
	assert_int_equal(put(&peer, 4, "b", "x", NULL, &tail).err, 0);
	assert_int_equal(stat_key(&other, "b", &id), 0);
	assert_int_equal(pending(), 0);
	assert_int_equal(put(&peer, 5, "c", "y", NULL, &tail).err, 0);
	expect_bytes(&peer, "c", "y"); /* its bytes are read from the disk: they are flushed first */
	assert_int_equal(pending(), 0);
	crash();
	replays_done(world.store->replays, session_id(peer.peer.session));
	expect_bytes(&other, "a", "new");
	expect_bytes(&other, "b", "x");
}

static void test_it_is_durable_within_a_second(void **state)
{
	struct answer_tail tail;

	(void)state;
	assert_int_equal(put(&peer, 2, "a", "bytes", NULL, &tail).err, 0);
	assert_true(tail.is_unstable);
	sim_advance(sim, UINT64_C(1000000000));
	for (int i = 0; i < 1000 && pending() > 0; i++) turn_world(NULL);
	assert_int_equal(pending(), 0);
	crash();
	expect_bytes(&other, "a", "bytes");
}

static void test_what_a_crash_took_is_sent_again_under_its_ids(void **state)
{
	struct answer_tail tail, again;
	struct put_result r, second;
	uint64_t id;

	(void)state;
	assert_int_equal(put(&peer, 2, "kept", "durable", NULL, &tail).err, 0);
	sync_all(&peer, 0);
	r = put(&peer, 3, "a", "bytes", NULL, &tail);
	assert_true(tail.is_unstable);
	crash();
	expect_bytes(&other, "kept", "durable");
	assert_int_equal(stat_key(&other, "a", &id), -GRANARY_ENOTFOUND);
	second = put(&peer, 3, "a", "bytes", &tail, &again);
	assert_int_equal(second.err, 0);
	assert_int_equal(second.id, r.id);
	assert_int_equal(second.version, r.version);
	assert_true(!again.is_unstable || again.verifier != tail.verifier);
	sync_all(&peer, SYNC_REPLAYED);
	expect_bytes(&other, "a", "bytes");
	second = put(&peer, 3, "a", "bytes", &tail, &again); /* once more: the first answer */
	assert_int_equal(second.id, r.id);
	assert_int_equal(second.version, r.version);
}

static void test_others_wait_until_it_is_sent_again_and_ten_seconds_at_most(void **state)
{
	struct answer_tail tail, none;
	struct call *c;

	(void)state;
	assert_int_equal(put(&peer, 2, "a", "first", NULL, &tail).err, 0);
	crash();
	c = put_start(&other, 1, 0, "a", "second", NULL);
	for (int i = 0; i < 50; i++) workers_turn(world.store->workers), kv_turn(world.store->kv),
		reactor_turn(world.store->reactors[0], false);
	assert_false(c->done);
	assert_int_equal(put(&peer, 2, "a", "first", &tail, &none).err, 0);
	assert_false(c->done);
	sync_all(&peer, SYNC_REPLAYED);
	call_wait(c);
	assert_int_equal(put_result_of(c, 0).err, 0);
	call_free(c);
	expect_bytes(&other, "a", "second");

	assert_int_equal(put(&peer, 3, "b", "first", NULL, &tail).err, 0);
	crash();
	c = put_start(&other, 2, 0, "b", "second", NULL);
	call_wait(c); /* nobody comes: the clock goes on */
	assert_int_equal(put_result_of(c, 0).err, 0);
	call_free(c);
	/* Too late: what is there is newer. */
	assert_int_equal(put(&peer, 3, "b", "first", &tail, &none).err, -GRANARY_EPRECONDITION);
	expect_bytes(&other, "b", "second");
}

static void test_ids_that_were_not_reserved_are_refused(void **state)
{
	struct answer_tail tail, none;

	(void)state;
	assert_int_equal(put(&peer, 2, "a", "x", NULL, &tail).err, 0);
	tail.id += SESSION_IDS_COUNT;
	assert_int_equal(put(&peer, 3, "b", "x", &tail, &none).err, -GRANARY_ESTALE);
	assert_int_equal(put(&other, 1, "b", "x", &tail, &none).err, -GRANARY_ESTALE); /* another's */
	tail.id = tail.version = 0;
	assert_int_equal(put(&peer, 4, "b", "x", &tail, &none).err, -GRANARY_ESTALE);
}

/* The flush of its record fails: all that is pending is lost, the server goes on, and the client sends it again. */
static void test_what_cannot_be_flushed_is_lost_as_a_whole_and_told(void **state)
{
	struct answer_tail first, tail, again;
	struct put_result r;
	uint64_t id, verifier;

	(void)state;
	assert_int_equal(put(&peer, 2, "kept", "durable", NULL, &first).err, 0);
	sync_all(&peer, 0);
	r = put(&peer, 3, "a", "one", NULL, &tail);
	assert_true(tail.is_unstable);
	sim_set_fail(sim, 1, -GRANARY_EIO, SIM_WRITES, false);
	verifier = sync_all(&peer, 0);
	assert_true(verifier != tail.verifier);
	assert_int_equal(stat_key(&peer, "a", &id), -GRANARY_ENOTFOUND);
	assert_int_equal(put(&peer, 3, "a", "one", &tail, &again).err, 0);
	assert_int_equal(sync_all(&peer, SYNC_REPLAYED), verifier);
	assert_int_equal(stat_key(&other, "a", &id), 0);
	assert_int_equal(id, r.id);
	expect_bytes(&other, "a", "one");
	expect_bytes(&other, "kept", "durable");
}

/* Every write of a run is cut once: what was synced is there, the rest is there or can be sent again. */
static void test_power_cuts_anywhere(void **state)
{
	static const char *const keys[] = { "d/a", "d/b", "c", "d/a", "e" };
	enum { COUNT = sizeof(keys) / sizeof(keys[0]) };

	(void)state;
	for (uint64_t cut = 1;; cut++) {
		struct answer_tail tails[COUNT], none;
		struct put_result results[COUNT];
		uint32_t done = 0;
		uint64_t base = 100 * cut;
		bool was_cut;

		sim_set_power_cut(sim, sim_write_count(sim) + cut);
		for (uint32_t i = 0; i < COUNT; i++) {
			char text[32];
			snprintf(text, sizeof(text), "%llu of %u", (unsigned long long)cut, i);
			results[i] = put(&peer, base + i, keys[i], text, NULL, &tails[i]);
			if (results[i].err < 0 || sim_power_was_cut(sim)) break;
			done++;
			if (i == 2) {
				uint64_t verifier = sync_all(&peer, 0);
				if (sim_power_was_cut(sim) || verifier != tails[i].verifier) break;
			}
		}
		if (!sim_power_was_cut(sim)) sync_all(&peer, 0);
		was_cut = sim_power_was_cut(sim);
		if (!was_cut) {
			sim_set_power_cut(sim, 0);
			break;
		}
		crash();
		for (uint32_t i = 0; i < done; i++) {
			char text[32];
			struct put_result r;
			if (!tails[i].is_unstable) continue;
			snprintf(text, sizeof(text), "%llu of %u", (unsigned long long)cut, i);
			r = put(&peer, base + i, keys[i], text, &tails[i], &none);
			assert_int_equal(r.err, 0);
			assert_int_equal(r.id, results[i].id);
			assert_int_equal(r.version, results[i].version);
		}
		sync_all(&peer, SYNC_REPLAYED);
		for (uint32_t i = 0; i < done; i++) {
			char text[32];
			uint32_t last = i == 0 && done > 3 ? 3 : i;
			snprintf(text, sizeof(text), "%llu of %u", (unsigned long long)cut, last);
			if (i + 1 < done || done == COUNT) /* the one after it may have been done, unanswered */
				expect_bytes(&other, keys[i], text);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_it_is_answered_without_a_write_and_seen_by_its_session, set_up,
			tear_down),
		cmocka_unit_test_setup_teardown(test_another_reader_waits_for_a_flush_and_sees_what_is_durable, set_up,
			tear_down),
		cmocka_unit_test_setup_teardown(test_it_is_durable_within_a_second, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_what_a_crash_took_is_sent_again_under_its_ids, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_others_wait_until_it_is_sent_again_and_ten_seconds_at_most, set_up,
			tear_down),
		cmocka_unit_test_setup_teardown(test_ids_that_were_not_reserved_are_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_what_cannot_be_flushed_is_lost_as_a_whole_and_told, set_up,
			tear_down),
		cmocka_unit_test_setup_teardown(test_power_cuts_anywhere, set_up, tear_down),
	};

	harness_turn = turn_world;
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
