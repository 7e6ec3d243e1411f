/* SPDX-License-Identifier: Apache-2.0 */
/* test_tier_power.c -- packs go to a cold directory and come back, on the simulated disk.
 * Goal: whenever the power goes, and whatever I/O fails, every byte of every pack reads back, from whichever copy; an
 * interrupted task ends after the next start; at the end there is no file and no object that no row names
 * (contracts G, I, J). Method: the power is cut in the n-th write, or the n-th I/O fails, for n = 1, 2, 3, ...
 * of a history that demotes, promotes, drops, copies and evicts, until a run meets neither; then seeds that cut
 * at random twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/log.h"
#include "common/rand.h"
#include "effort.h"
#include "io/fs.h"
#include "jobs/move.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "pack/check.h"
#include "pack/format.h"
#include "pack/writer.h"
#include "sim/sim.h"
#include "tier/copy.h"
#include "tier/drives.h"
#include "tier/packs.h"
#include "tier/stores.h"

enum {
	PACKS = 2, MIB = 1024 * 1024, PASSES_MAX = 12, ROOM = 512 * 1024, RECORDS = 30, STEPS = 8,
	SEEDS = 500, SEEDS_LONG = 10000,
};

struct world {
	struct sim *sim;
	struct fs *fs;
	struct kv *kv;
	struct ids *ids;
	struct store_clock *clock;
	struct drives *drives;
	struct stores *stores;
	struct packs *packs;
	struct moves *moves;
	uint32_t incarnation;
	bool is_dead; /* the metadata could not be synced */
	uint64_t made[PACKS + 1];
	uint32_t crcs[PACKS + 1], sizes[PACKS + 1]; /* of the sealed files */
	uint32_t count;
};

static uint8_t *room;

static void on_fatal(void *arg, const char *what)
{
	(void)what;
	((struct world *)arg)->is_dead = true;
}

static int open_sim(void *arg, const char *path, struct fs **out)
{
	return fs_new_sim(((struct world *)arg)->sim, path, out);
}

static int stores_up(struct world *w)
{
	struct store_settings s = { .name = "archive", .text = "type=directory\npath=/cold\n" };
	struct stores_options o = { .fs = w->fs, .kv = w->kv, .settings = &s, .settings_count = 1,
		.env = { open_sim, w }, .inline_jobs = true };
	char why[512];
	int err = stores_open(&o, &w->stores, why, sizeof(why));

	return err == 0 ? stores_begin(w->stores, w->ids, why, sizeof(why)) : err;
}

static int world_up(struct world *w)
{
	struct kv_options ko = { .group_max = 64, .fatal = on_fatal, .fatal_arg = w };
	struct packs_options po = { .pack_size = 16 * MIB, .reserve = MIB };
	struct moves_options mo = { .timeout_ns = UINT64_C(5000000000), .retry_ns = 1 };
	int err = fs_new_sim(w->sim, "/data", &w->fs);

	assert_int_equal(err, 0);
	w->is_dead = false;
	err = fs_mkdir(w->fs, "meta");
	if (err == 0 || err == -GRANARY_EEXIST) err = fs_sync_dir(w->fs, "");
	if (err == 0) err = kv_open_mem(w->fs, "meta", &ko, &w->kv);
	po.fs = w->fs;
	po.kv = mo.kv = w->kv;
	w->ids = po.ids = mo.ids = ids_new(++w->incarnation);
	if (err == 0) err = store_clock_open(w->kv, &w->clock);
	if (err == 0) err = stores_up(w);
	po.clock = mo.clock = w->clock;
	po.stores = mo.stores = w->stores;
	if (err == 0) err = packs_open(&po, &w->packs);
	mo.packs = w->packs;
	return err == 0 ? moves_open(&mo, &w->moves) : err;
}

static void world_down(struct world *w)
{
	(void)moves_close(&w->moves);
	packs_close(&w->packs);
	stores_close(&w->stores);
	if (w->clock != NULL) store_clock_free(&w->clock);
	ids_free(&w->ids);
	if (w->kv != NULL) kv_close(&w->kv);
	fs_free(&w->fs);
}

/* ---- packs of real records ---- */

static void fill(struct rng *rng, uint32_t kind, uint8_t *out, size_t len)
{
	static const char text[] = "{\"label\": \"cat\", \"box\": [ 01]}";

	for (size_t i = 0; i < len; i++)
		out[i] = kind % 11 == 0 ? (uint8_t)rng_next(rng) : (uint8_t)(text[i % 31] + (char)rng_below(rng, 2));
}

static uint64_t record_put(struct rng *rng, uint32_t i, uint8_t *at)
{
	static uint8_t data[96 * 1024];
	uint32_t len = i % 30 == 29 ? 90 * 1024 : 200 + (uint32_t)rng_below(rng, 1500), crcs[2];
	struct record r = { .kind = RECORD_DATA, .flags = RECORD_WHOLE, .data_len = len, .stored_len = len,
		.object_id = i + 1,
		.version = i + 1, .dir_id = 1, .name = slice_str("name"), .crcs = (const uint8_t *)crcs };

	fill(rng, i, data, len);
	r.crc_count = crc_block_count(len);
	crc32c_blocks(crcs, data, len);
	r.header_len = record_header_len(0, 4, 0, len);
	assert_int_equal(record_encode(&r, at, ROOM), 0);
	memcpy(at + r.header_len, data, len);
	return record_total_len(r.header_len, len);
}

/* Full of records, but open. */
static struct pack *fill_pack(struct world *w)
{
	struct rng rng;
	struct pack *pack;
	uint64_t at = PACK_DATA_START, end;

	rng_seed(&rng, 40 + w->count);
	memset(room, 0, ROOM);
	assert_int_equal(packs_create(w->packs, 7, &pack), 0);
	for (uint32_t i = 0; i < RECORDS; i++) at += record_put(&rng, i, room + at);
	end = (at + PACK_BLOCK - 1) & ~(uint64_t)(PACK_BLOCK - 1);
	assert_true(end < ROOM);
	assert_int_equal(fs_write(pack_file(pack), room + PACK_DATA_START, end - PACK_DATA_START, PACK_DATA_START),
		0);
	packs_set_end(pack, at);
	w->made[w->count] = pack_id_of(pack);
	return pack;
}

static void seal_pack(struct world *w, struct pack *pack)
{
	assert_int_equal(pack_seal(w->packs, pack_id_of(pack), NULL), 0);
	w->sizes[w->count] = (uint32_t)pack_fixed_size(pack);
	assert_true(w->sizes[w->count] > 0 && w->sizes[w->count] <= ROOM);
	assert_int_equal(fs_read(pack_file(pack), room, w->sizes[w->count], 0), w->sizes[w->count]);
	w->crcs[w->count] = crc32c(0, room, w->sizes[w->count]);
	w->count++;
	packs_unref(w->packs, pack);
}

static void make_pack(struct world *w) { seal_pack(w, fill_pack(w)); }

/* All of it, by whatever copy is read, and by the cold one. */
static void check_all(struct world *w)
{
	for (uint32_t i = 0; i < w->count; i++) {
		struct pack *pack = packs_ref(w->packs, w->made[i]);
		struct fs_file *cold;
		int err;

		assert_non_null(pack);
		err = packs_open_file(w->packs, pack);
		assert_int_equal(err, 0);
		assert_int_equal(fs_read(pack_file(pack), room, w->sizes[i], 0), w->sizes[i]);
		assert_int_equal(crc32c(0, room, w->sizes[i]), w->crcs[i]);
		if (pack_cold(pack) != NULL) {
			assert_int_equal(copy_open_file(pack_cold(pack), &cold), 0);
			assert_int_equal(fs_read(cold, room, w->sizes[i], 0), w->sizes[i]);
			assert_int_equal(crc32c(0, room, w->sizes[i]), w->crcs[i]);
			/* A part out of the middle decodes alone. */
			assert_int_equal(fs_read(cold, room, 5000, w->sizes[i] / 2 + 13), 5000);
			fs_close(&cold);
		}
		packs_unref(w->packs, pack);
	}
}

/* ---- the history ---- */

static int step(struct world *w, uint8_t kind)
{
	struct place *place = stores_by_name(w->stores, "archive");
	struct move_order order = { .kind = kind, .level = 3, .origin = "test" };
	uint64_t task;
	int err, left;

	if (kind == MOVE_COPY || kind == MOVE_DEMOTE) order.store = place_id(place);
	err = moves_start(w->moves, &order, w->made, w->count, &task);
	if (err == 0) err = moves_turn(w->moves);
	left = packs_remove_left(w->packs, 0);
	return err < 0 ? err : left;
}

static const uint8_t history[STEPS] = { MOVE_DEMOTE, MOVE_PROMOTE, MOVE_DROP, MOVE_COPY, MOVE_EVICT,
	MOVE_FETCH, MOVE_PROMOTE, MOVE_EVICT };

static int run(struct world *w)
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < STEPS; i++) err = step(w, history[i]);
	return err;
}

static void world_new(struct world *w, uint64_t seed)
{
	*w = (struct world){ .sim = sim_new((struct sim_options){ .seed = seed, .keep_blocks = true }) };
	assert_non_null(w->sim);
	assert_int_equal(world_up(w), 0);
	while (w->count < PACKS) make_pack(w);
}

static void world_end(struct world *w)
{
	world_down(w);
	sim_free(&w->sim);
}

/* ---- what there is on disk ---- */

static int count_file(void *arg, const char *dir, const char *name, uint64_t id)
{
	(void)dir, (void)name, (void)id;
	++*(uint32_t *)arg;
	return 0;
}

static int count_object(void *arg, const char *name, uint64_t len)
{
	(void)name, (void)len;
	++*(uint32_t *)arg;
	return 0;
}

static void check_places(struct world *w, uint32_t hot, uint32_t cold)
{
	struct place *place = stores_by_name(w->stores, "archive");
	uint32_t files = 0, objects = 0;

	assert_int_equal(packs_each_file(w->fs, count_file, &files), 0);
	assert_int_equal(place_list(place, "packs/", clock_mono_ns() + 5000000000u, count_object, &objects), 0);
	assert_int_equal(files, hot);
	assert_int_equal(objects, cold);
}

static void store_back(struct world *w)
{
	assert_int_equal(place_probe(stores_by_name(w->stores, "archive"), clock_mono_ns() + 5000000000u), 0);
}

/* Without faults: what was begun ends, then all of it once more, and nothing is left over. */
static void finish(struct world *w)
{
	struct move_progress p[MOVES_MAX];
	uint32_t n;
	int err = -1;

	store_back(w);
	for (uint32_t i = 0; i < PASSES_MAX && err != 0; i++) err = moves_turn(w->moves);
	n = moves_list(w->moves, p, MOVES_MAX);
	for (uint32_t i = 0; i < n; i++) assert_true(p[i].state >= MOVE_DONE);
	check_all(w);
	assert_int_equal(step(w, MOVE_PROMOTE), 0);
	assert_int_equal(step(w, MOVE_DROP), 0);
	check_all(w);
	assert_int_equal(run(w), 0);
	check_all(w);
	world_down(w);
	assert_int_equal(world_up(w), 0); /* what attempts left behind belongs to an earlier incarnation now */
	store_back(w);
	assert_int_equal(moves_turn(w->moves), 0);
	assert_true(packs_sweep_orphans(w->packs, 100, false) >= 0);
	assert_int_equal(moves_turn(w->moves), 0);
	/* A task whose row could not be deleted was done once more. */
	assert_int_equal(step(w, MOVE_EVICT), 0);
	check_places(w, 0, PACKS);
	check_all(w);
}

static void restart(struct world *w, bool was_cut)
{
	world_down(w);
	sim_set_power_cut(w->sim, 0);
	if (was_cut) sim_power_on(w->sim);
	assert_int_equal(world_up(w), 0);
	store_back(w);
}

static void test_copies_come_and_go(void **state)
{
	struct packs_stats stats;
	struct moves_stats moves;
	struct world w;

	(void)state;
	world_new(&w, 1);
	check_places(&w, PACKS, 0);
	assert_int_equal(step(&w, MOVE_DEMOTE), 0);
	check_places(&w, 0, PACKS);
	check_all(&w);
	packs_get_stats(w.packs, &stats);
	assert_int_equal(stats.cold_only, PACKS);
	assert_int_equal(step(&w, MOVE_PROMOTE), 0);
	check_places(&w, PACKS, PACKS);
	assert_int_equal(step(&w, MOVE_EVICT), 0);
	check_places(&w, 0, PACKS);
	assert_int_equal(step(&w, MOVE_PROMOTE), 0);
	assert_int_equal(step(&w, MOVE_DROP), 0);
	assert_int_equal(moves_turn(w.moves), 0);
	check_places(&w, PACKS, 0);
	check_all(&w);
	/* The last copy never goes. */
	assert_int_not_equal(step(&w, MOVE_EVICT), 0);
	check_places(&w, PACKS, 0);
	assert_int_equal(step(&w, MOVE_DEMOTE), 0);
	assert_int_not_equal(step(&w, MOVE_DROP), 0);
	check_all(&w);
	packs_get_stats(w.packs, &stats);
	assert_int_equal(stats.cold_only, PACKS);
	assert_int_equal(stats.cold_copies, PACKS);
	moves_get_stats(w.moves, &moves);
	assert_int_equal(moves.packs[MOVE_DEMOTE], 2 * PACKS);
	world_end(&w);
}

static void test_moves_survive_a_power_cut_anywhere(void **state)
{
	bool was_cut = true;
	uint64_t n, by = effort_is_sanitized() ? 7 : 1;

	(void)state;
	for (n = 1; was_cut; n += by) {
		struct world w;

		world_new(&w, n);
		sim_set_power_cut(w.sim, sim_write_count(w.sim) + n);
		(void)run(&w);
		was_cut = sim_power_was_cut(w.sim);
		restart(&w, was_cut);
		check_all(&w);
		if (n % 4 == 0) finish(&w); /* the rest ends in the same few states */
		world_end(&w);
	}
	assert_true(n > 40);
}

static void test_moves_survive_the_failure_of_any_io(void **state)
{
	uint64_t n, failed = 1, by = effort_is_sanitized() ? 7 : 1;

	(void)state;
	for (n = 1; failed > 0; n += by) {
		struct world w;

		world_new(&w, n);
		sim_set_fail(w.sim, n, n % 3 == 0 ? -GRANARY_ENOSPACE : -GRANARY_EIO, 0, n % 5 == 0);
		(void)run(&w);
		failed = sim_fail_count(w.sim);
		sim_set_fail(w.sim, 0, 0, 0, false);
		if (w.is_dead || n % 5 == 0) restart(&w, false); /* the product stops there */
		store_back(&w);
		(void)packs_probe(w.packs);
		check_all(&w);
		if (n % 4 == 0) finish(&w);
		world_end(&w);
	}
	assert_true(n > 40);
}

/* seeds that cut anywhere, and again while what was interrupted goes on. */
static void test_seeds(void **state)
{
	uint64_t seeds = effort("GRANARY_TIER_SEEDS", SEEDS, SEEDS_LONG);

	(void)state;
	for (uint64_t seed = 1; seed <= seeds; seed++) {
		struct world w;

		world_new(&w, seed * 7919);
		for (int i = 0; i < 2; i++) {
			bool was_cut;

			sim_set_power_cut(w.sim, sim_write_count(w.sim) + 1 + sim_random(w.sim, i == 0 ? 160 : 60));
			(void)moves_turn(w.moves);
			(void)run(&w);
			was_cut = sim_power_was_cut(w.sim);
			restart(&w, was_cut);
			check_all(&w);
		}
		if (seed % 16 == 0) finish(&w);
		world_end(&w);
	}
}

static uint32_t brought_count(struct world *w)
{
	struct pack_info infos[PACKS + 2];
	uint32_t n = packs_list(w->packs, 0, infos, PACKS + 2), brought = 0;

	for (uint32_t i = 0; i < n; i++) brought += infos[i].brought;
	return brought;
}

/* What was fetched may go again, over a restart too, until it is asked for by name. */
static void test_what_was_fetched_is_known_by_its_row(void **state)
{
	struct world w;

	(void)state;
	world_new(&w, 5);
	assert_int_equal(step(&w, MOVE_DEMOTE), 0);
	assert_int_equal(step(&w, MOVE_FETCH), 0);
	check_places(&w, PACKS, PACKS);
	assert_int_equal(brought_count(&w), PACKS);
	restart(&w, false);
	assert_int_equal(brought_count(&w), PACKS);
	assert_int_equal(step(&w, MOVE_PROMOTE), 0);
	assert_int_equal(brought_count(&w), 0);
	restart(&w, false);
	assert_int_equal(brought_count(&w), 0);
	assert_int_equal(step(&w, MOVE_EVICT), 0);
	assert_int_equal(step(&w, MOVE_FETCH), 0);
	assert_int_equal(step(&w, MOVE_DROP), 0);
	restart(&w, false);
	assert_int_equal(brought_count(&w), 0);
	check_all(&w);
	world_end(&w);
}

static uint64_t rows_written(struct world *w)
{
	struct kv_stats s;

	kv_get_stats(w->kv, &s);
	return s.puts + s.deletes;
}

static int rows_of_copies(struct world *w)
{
	struct kv_iter *it = kv_iter_new(w->kv, NULL);
	int n = 0;

	assert_non_null(it);
	for (kv_iter_seek(it, slice_str("c")); kv_iter_valid(it) && kv_iter_key(it).p[0] == 'c'; kv_iter_next(it)) n++;
	kv_iter_free(&it);
	return n;
}

static void check_cold_only(struct world *w, uint64_t want)
{
	struct packs_stats stats;

	packs_get_stats(w->packs, &stats);
	assert_int_equal(stats.cold_only, want);
	assert_int_equal(stats.cold_copies, PACKS);
	check_all(w);
}

/* And the task's two. That row undoes the hot copy's, over restarts, until it comes up again; the file that a crash
 * left there is swept. */
static void test_a_demotion_writes_one_row_a_pack(void **state)
{
	struct world w;
	struct move_order order = { .kind = MOVE_DEMOTE, .level = 3, .origin = "test" };
	uint64_t task, rows;

	(void)state;
	world_new(&w, 11);
	order.store = place_id(stores_by_name(w.stores, "archive"));
	assert_int_equal(step(&w, MOVE_COPY), 0); /* the store's mark is written once */
	assert_int_equal(step(&w, MOVE_DROP), 0);
	assert_int_equal(moves_turn(w.moves), 0);
	rows = rows_written(&w);
	assert_int_equal(moves_start(w.moves, &order, w.made, w.count, &task), 0);
	assert_int_equal(moves_turn(w.moves), 0);
	assert_int_equal(rows_written(&w) - rows, PACKS + 2);
	assert_int_equal(rows_of_copies(&w), 2 * PACKS);
	check_places(&w, PACKS, PACKS); /* nobody removed the files yet */
	restart(&w, false);
	check_cold_only(&w, PACKS);
	assert_int_equal(packs_sweep_orphans(w.packs, 100, false), PACKS);
	check_places(&w, 0, PACKS);
	assert_int_equal(step(&w, MOVE_PROMOTE), 0);
	check_cold_only(&w, 0);
	restart(&w, false);
	check_cold_only(&w, 0);
	assert_int_equal(packs_sweep_orphans(w.packs, 100, false), 0);
	check_places(&w, PACKS, PACKS);
	assert_int_equal(step(&w, MOVE_DROP), 0);
	assert_int_equal(rows_of_copies(&w), PACKS);
	world_end(&w);
}

static void row_says_sealed(struct world *w, uint64_t pack)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(w->kv);

	kv_max(txn, row_pack(key, pack), PTAG_STATE, PACK_SEALED);
	assert_int_equal(kv_submit_wait(w->kv, txn), 0);
	kv_txn_free(&txn);
}

/* Sealing commits the row first: who reads that before the pack in memory is sealed waits for it. */
static void test_a_pack_that_is_just_being_sealed_is_waited_for(void **state)
{
	struct world w;
	struct move_progress p;
	struct pack *pack;
	uint64_t task;
	struct move_order order = { .kind = MOVE_COPY, .level = 3, .origin = "test" };

	(void)state;
	world_new(&w, 5);
	order.store = place_id(stores_by_name(w.stores, "archive"));
	pack = fill_pack(&w);
	row_says_sealed(&w, pack_id_of(pack));
	assert_int_equal(moves_start(w.moves, &order, &w.made[w.count], 1, &task), 0);
	(void)moves_turn(w.moves);
	assert_int_equal(moves_get(w.moves, task, &p), 0);
	assert_int_equal(p.packs_failed, 0);
	assert_int_equal(p.state, MOVE_PAUSED);
	assert_int_equal(p.err, -GRANARY_EBUSY);
	packs_unref(w.packs, pack);
	check_all(&w);
	world_end(&w);
}

/* Another directory at the path, or none: nothing is written, nothing removed, hot bytes go on. */
static void test_a_store_that_is_not_there_stops_moves(void **state)
{
	struct world w;
	struct fs *fs;
	struct move_progress p[2];
	uint64_t task;
	struct move_order order = { .kind = MOVE_PROMOTE, .origin = "test" };

	(void)state;
	world_new(&w, 3);
	assert_int_equal(step(&w, MOVE_DEMOTE), 0);
	assert_int_equal(fs_new_sim(w.sim, "/cold", &fs), 0);
	assert_int_equal(fs_rename(fs, "granary.cold", "away"), 0);
	assert_int_equal(place_probe(stores_by_name(w.stores, "archive"), clock_mono_ns() + 1000000000u),
		-GRANARY_EOFFLINE);
	assert_int_equal(moves_start(w.moves, &order, w.made, w.count, &task), 0);
	assert_int_equal(moves_turn(w.moves), -GRANARY_EOFFLINE);
	assert_int_equal(moves_get(w.moves, task, &p[0]), 0);
	assert_int_equal(p[0].state, MOVE_PAUSED);
	assert_int_equal(fs_rename(fs, "away", "granary.cold"), 0);
	store_back(&w);
	assert_int_equal(moves_turn(w.moves), 0);
	assert_int_equal(moves_get(w.moves, task, &p[0]), 0);
	assert_int_equal(p[0].state, MOVE_DONE);
	check_all(&w);
	fs_free(&fs);
	world_end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copies_come_and_go),
		cmocka_unit_test(test_moves_survive_a_power_cut_anywhere),
		cmocka_unit_test(test_moves_survive_the_failure_of_any_io),
		cmocka_unit_test(test_seeds),
		cmocka_unit_test(test_what_was_fetched_is_known_by_its_row),
		cmocka_unit_test(test_a_demotion_writes_one_row_a_pack),
		cmocka_unit_test(test_a_pack_that_is_just_being_sealed_is_waited_for),
		cmocka_unit_test(test_a_store_that_is_not_there_stops_moves),
	};

	log_set_level(LOG_ERROR);
	room = aligned_alloc(4096, ROOM);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
