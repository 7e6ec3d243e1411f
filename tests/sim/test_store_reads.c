/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a read whose pack is compacted away while it waits, also several times, gets its bytes; one that never catches
 * up ends with an error. Method: a store on a simulated disk, one thread; between two turns of the read's workers every
 * pack is declared broken and compacted. */
#include "sim/sim_store.h"

#include "jobs/jobs.h"
#include "pack/writer.h"
#include "tier/packs.h"

enum { LEN = 100000, LEN_SEVERAL = 3000000, TIMES_MAX = 3 };

static int set_up(void **state)
{
	(void)state;
	sim_store_new();
	bucket_make(1);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	sim_store_free();
	return 0;
}

static void put(const char *key, const char *data, size_t len)
{
	struct msg m = msg_new("data");
	struct call *c;

	msg_sequence(&m, 2, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	msg_put_rest(&m, PUT_ANY, 0, 0, data, len);
	c = call_now(OP_PUT, 0, &m, data);
	assert_int_equal(put_result_of(c, 0).err, 0);
	call_free(c);
}

/* Nothing in memory, no file open, packs sealed by the first pass. */
static void restart(void)
{
	peer_release(&peer);
	down();
	up();
	peer_init(&peer, &world, "root", 0);
	assert_int_equal(jobs_pass(world.store->jobs), 0);
}

static void compact_all(void)
{
	struct packs *packs = world.store->packs;
	struct jobs_stats before, after;
	struct pack_info infos[64];
	uint32_t n = packs_list(packs, 0, infos, 64);

	for (uint32_t i = 0; i < n; i++) {
		struct pack *pack = infos[i].state == PACK_SEALED ? packs_ref(packs, infos[i].id) : NULL;

		if (pack == NULL) continue;
		assert_int_equal(packs_set_broken(packs, pack), 0);
		packs_unref(packs, pack);
	}
	jobs_get_stats(world.store->jobs, &before);
	assert_int_equal(jobs_pass(world.store->jobs), 0);
	assert_int_equal(jobs_pass(world.store->jobs), 0); /* seals what it wrote, if it did not */
	jobs_get_stats(world.store->jobs, &after);
	assert_true(after.compacted > before.compacted);
}

/* Reads "k"; after each of the first `times` turns of workers that had something to do (each looks "k" up), its pack
 * goes. */
static struct read_result read_racing(uint32_t times, uint8_t flags)
{
	struct msg m = read_msg("data", flags, 1);
	struct store *s = world.store;
	struct read_result r;
	struct call *c;

	wr_u8(&m.w, 0);
	msg_key(&m, "k");
	c = call_start(&peer, OP_READ, 0, &m.w, NULL, 0);
	free(m.buf);
	for (uint32_t i = 0; !c->done; i++) {
		assert_true(i < TURNS_MAX);
		if (workers_turn(s->workers) > 0 && !c->done && times > 0) {
			compact_all();
			times--;
		}
		kv_turn(s->kv);
		if (reactor_turn(s->reactors[0], false) == 0) reactor_turn(s->reactors[0], true);
	}
	assert_int_equal(times, 0);
	assert_int_equal(call_status(c), 0);
	read_results(c, &r, 1);
	call_free(c);
	return r;
}

static void race(size_t len, uint8_t flags)
{
	char *data = malloc(len + 1);
	struct read_result r;

	memset(data, 'x', len);
	data[len] = '\0';
	for (size_t i = 0; i < len; i += 101) data[i] = (char)('a' + i % 23);
	for (uint32_t times = 0; times <= TIMES_MAX; times++) {
		put("k", data, len);
		restart();
		r = read_racing(times, flags);
		assert_int_equal(r.err, 0);
		assert_int_equal(r.len, len);
		assert_memory_equal(r.data, data, len);
		read_free(&r, 1);
		sim_store_free(); /* the next one begins alike: nothing known in memory, no file open */
		sim_store_new();
		bucket_make(1);
	}
	free(data);
}

static void test_a_read_finds_what_was_moved_meanwhile(void **state)
{
	(void)state;
	race(LEN, 0);
}

static void test_a_verifying_read_finds_what_was_moved_meanwhile(void **state)
{
	(void)state;
	race(LEN, READ_VERIFY);
}

static void test_an_object_of_several_pieces_is_found_too(void **state)
{
	(void)state;
	race(LEN_SEVERAL, 0);
}

static void test_looking_again_has_an_end(void **state)
{
	char data[LEN + 1];
	struct read_result r;

	(void)state;
	memset(data, 'x', LEN);
	data[LEN] = '\0';
	put("k", data, LEN);
	restart();
	r = read_racing(TIMES_MAX + 1, 0);
	assert_int_equal(r.err, -GRANARY_ESTALE);
	read_free(&r, 1);
	r = read_racing(0, 0);
	assert_int_equal(r.err, 0);
	assert_memory_equal(r.data, data, LEN);
	read_free(&r, 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_a_read_finds_what_was_moved_meanwhile),
		T(test_a_verifying_read_finds_what_was_moved_meanwhile),
		T(test_an_object_of_several_pieces_is_found_too),
		T(test_looking_again_has_an_end),
	};

	log_set_level(LOG_ERROR + 1); /* packs are broken on purpose */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
