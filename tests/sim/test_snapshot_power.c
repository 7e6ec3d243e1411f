/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a power cut while a snapshot is made or removed leaves all of it or nothing: no row, no
 * pin, no page. Method: a store on a simulated disk, the power goes at write 1, 2, 3, ... of
 * creating and of removing; after the restart and a job pass rows, pins in rows and in RAM, pages
 * and bytes are compared. */
#include "unit/harness_snapshot.h"

#include "io/reactor.h"
#include "jobs/jobs.h"
#include "meta/snapshot.h"
#include "pack/writer.h"
#include "sim/sim.h"
#include "sim/sim_clock.h"
#include "sim/sim_log.h"
#include "tier/packs.h"

enum { FILES = 30, TURNS_MAX = 200000, OFF_TURNS = 5000, CUTS_MAX = 400 };

static struct sim *sim;
static struct world world;
static struct peer peer;
static bool is_dead;
static uint32_t off_turns;

static void on_fatal(void *arg, const char *what)
{
	(void)arg;
	(void)what;
	is_dead = true;
}

static bool turn(const struct call *c)
{
	struct store *s = world.store;
	uint32_t ran =
		workers_turn(s->workers) + kv_turn(s->kv) + reactor_turn(s->reactors[0], false);

	if (ran == 0) reactor_turn(s->reactors[0], true);
	if (is_dead || sim_power_was_cut(sim)) return ++off_turns < OFF_TURNS;
	assert_true(++off_turns < TURNS_MAX);
	return !c->done;
}

static int up(void)
{
	struct store_options o;
	char why[256] = "";
	int err;

	is_dead = false;
	off_turns = 0;
	assert_int_equal(fs_new_sim(sim, "/data", &world.fs), 0);
	o = world_options(world.fs);
	o.simulated = true;
	o.io = (struct io_options){ .engine = IO_ENGINE_SIM, .sim = sim, .depth = 64 };
	o.cache_budget = o.transient_budget = 8 * MIB;
	o.loc_budget = 4 * MIB;
	o.staging_budget = 16 * MIB;
	o.pack_size = 512 * 1024;
	o.fatal = on_fatal;
	err = store_open(&o, &world.store, why, sizeof(why));
	if (err < 0) fail_msg("store_open: %s", why);
	return err;
}

static void down(void)
{
	peer_release(&peer);
	store_close(&world.store);
	fs_free(&world.fs);
}

static void put_files(void)
{
	uint8_t data[20000];

	for (uint32_t i = 0; i < FILES; i++) {
		char key[64];

		snprintf(key, sizeof(key), "d%u/f%02u", i % 3, i);
		fill(data, sizeof(data), i);
		assert_int_equal(put_key(&peer, "data", key, data, 1 + i * 601).err, 0);
		off_turns = 0;
	}
}

static void check_files(const char *name)
{
	struct snap_files all;
	uint8_t data[20000];

	snap_read_all(&peer, "data", name, &all);
	assert_int_equal(all.count, FILES);
	for (uint32_t i = 0; i < FILES; i++) {
		const struct snap_file *f;
		char key[64];

		snprintf(key, sizeof(key), "d%u/f%02u", i % 3, i);
		f = snap_find(&all, key);
		assert_non_null(f);
		fill(data, sizeof(data), i);
		assert_int_equal(f->size, 1 + i * 601);
		assert_memory_equal(f->data, data, f->size);
	}
	snap_files_free(&all);
}

struct pin_sum {
	uint64_t pins, rows;
	uint64_t objects;
};

static int count_row(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	struct pin_sum *s = arg;

	(void)bucket;
	(void)name;
	assert_int_equal(row->state, SNAPSHOT_READY);
	s->rows++;
	s->pins += row->pins.len / 8;
	return 0;
}

/* Pins are those that rows of snapshots say, in rows of packs and in RAM. */
static struct pin_sum check_pins(void)
{
	struct pin_sum s = { 0 };
	struct pack_info infos[256];
	struct ns_bucket b;
	uint64_t in_rows = 0, in_ram = 0, bytes;
	uint32_t n = packs_list(world.store->packs, 0, infos, 256);

	assert_int_equal(snapshot_each(world.store->kv, 0, slice_of(NULL, 0), count_row, &s), 0);
	for (uint32_t i = 0; i < n; i++) {
		struct pack *pack = packs_ref_any(world.store->packs, infos[i].id);
		struct pack_row row;

		assert_int_equal(packs_row(world.store->packs, infos[i].id, &row), 0);
		in_rows += row.pins;
		in_ram += pack_pins(pack);
		packs_unref(world.store->packs, pack);
	}
	assert_int_equal(in_rows, s.pins);
	assert_int_equal(in_ram, s.pins);
	if (ns_bucket_find(world.store->ns, slice_str(NS_SYSTEM_BUCKET), &b) == 0)
		assert_int_equal(ns_bucket_usage(world.store->ns, b.id, &bytes, &s.objects), 0);
	return s;
}

static struct pin_sum restart_and_check(void)
{
	char text[512];
	struct pin_sum s;

	down();
	if (sim_power_was_cut(sim)) sim_power_on(sim);
	sim_set_power_cut(sim, 0);
	up();
	peer_init(&peer, &world, "root", 0);
	assert_int_equal(jobs_compact_now(world.store->jobs, text, sizeof(text)), 0);
	s = check_pins();
	if (s.rows == 0) assert_int_equal(s.objects, 0); /* no page is left behind */
	return s;
}

static void begin(uint64_t seed)
{
	sim_log_clear();
	sim = sim_new((struct sim_options){ .seed = seed });
	sim_clock_use(sim);
	up();
	key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&peer, &world, "root", 0);
	assert_int_equal(simple_call(&peer, OP_BUCKET_CREATE, "data"), 0);
	put_files();
}

static void end(void)
{
	down();
	sim_clock_use(NULL);
	sim_free(&sim);
}

/* Answered or not; -GRANARY_ESHUTDOWN: not. */
static int create_cut(void)
{
	struct call *c = snap_create_start(&peer, "data", "v", "", "");
	int err = -GRANARY_ESHUTDOWN;

	call_wait(c);
	if (c->done) err = snap_created(c).err;
	return err;
}

static void test_a_power_cut_while_creating_leaves_all_or_nothing(void **state)
{
	uint32_t cuts = 0, whole = 0;

	(void)state;
	for (uint64_t n = 1;; n++) {
		struct pin_sum s;
		bool was_cut;
		int err;

		begin(n);
		sim_set_power_cut(sim, sim_write_count(sim) + n);
		err = create_cut();
		was_cut = sim_power_was_cut(sim);
		s = restart_and_check();
		if (err == 0 && !is_dead) assert_int_equal(s.rows, 1);
		if (s.rows == 1) check_files("v");
		cuts += was_cut;
		whole += was_cut && s.rows == 1;
		off_turns = 0;
		if (s.rows == 0) assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
		check_files("v");
		end();
		if (!was_cut || n == CUTS_MAX) break;
	}
	printf("  %u cuts, %u after the commit\n", cuts, whole);
	assert_true(cuts >= 3);
}

static void test_a_power_cut_while_removing_leaves_all_or_nothing(void **state)
{
	uint32_t cuts = 0, whole = 0;

	(void)state;
	for (uint64_t n = 1;; n++) {
		struct pin_sum s;
		bool was_cut;

		begin(1000 + n);
		assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
		off_turns = 0;
		sim_set_power_cut(sim, sim_write_count(sim) + n);
		{
			struct msg m = msg_new("data");
			struct call *c;

			wr_bytes16(&m.w, slice_str("v"));
			wr_u8(&m.w, 0);
			c = call_start(&peer, OP_SNAPSHOT_REMOVE, 0, &m.w, NULL, 0);
			free(m.buf);
			call_wait(c);
			if (c->done) call_free(c);
		}
		was_cut = sim_power_was_cut(sim);
		s = restart_and_check();
		if (s.rows == 1) check_files("v");
		cuts += was_cut;
		whole += was_cut && s.rows == 1;
		end();
		if (!was_cut || n == CUTS_MAX) break;
	}
	printf("  %u cuts, %u before the commit\n", cuts, whole);
	assert_true(cuts >= 2);
}

/* Dense numbers and bytes of all samples: what must not change. */
static uint64_t order_sum(const char *name)
{
	struct snap_files all;
	uint64_t sum = 0;

	snap_read_all(&peer, "data", name, &all);
	for (uint32_t i = 0; i < all.count; i++)
		sum += hash_content(all.list[i].key, strlen(all.list[i].key)).lo * (2 * all.list[i].id + 1);
	snap_files_free(&all);
	return sum;
}

static void test_a_power_cut_while_repacking_leaves_old_or_new(void **state)
{
	uint32_t cuts = 0, fresh = 0;

	(void)state;
	for (uint64_t n = 1;; n++) {
		struct snap_entry made, now;
		struct pin_sum s;
		uint64_t order;
		uint8_t *bytes;
		size_t len;
		bool was_cut;
		struct call *c;

		begin(2000 + n);
		made = snap_create(&peer, "data", "v", "", "");
		assert_int_equal(made.err, 0);
		off_turns = 0;
		order = order_sum("v");
		off_turns = 0;
		sim_set_power_cut(sim, sim_write_count(sim) + n);
		c = snap_repack_start(&peer, "data", "v", 0);
		call_wait(c);
		was_cut = sim_power_was_cut(sim);
		if (c->done) snap_repacked(c);
		s = restart_and_check();
		assert_int_equal(s.rows, 1);
		check_files("v");
		off_turns = 0;
		assert_true(order_sum("v") == order);
		off_turns = 0;
		now = snap_show(&peer, "data", "v", &bytes, &len);
		free(bytes);
		cuts += was_cut;
		fresh += was_cut && (now.manifest.lo != made.manifest.lo);
		off_turns = 0;
		assert_int_equal(snap_repack(&peer, "data", "v", 0).err, 0);
		check_files("v");
		off_turns = 0;
		assert_true(order_sum("v") == order);
		end();
		if (!was_cut || n == CUTS_MAX) break;
	}
	printf("  %u cuts, %u after the commit\n", cuts, fresh);
	assert_true(cuts >= 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_power_cut_while_creating_leaves_all_or_nothing),
		cmocka_unit_test(test_a_power_cut_while_removing_leaves_all_or_nothing),
		cmocka_unit_test(test_a_power_cut_while_repacking_leaves_old_or_new),
	};

	harness_turn = turn;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
