/* SPDX-License-Identifier: Apache-2.0 */
/* test_drives.c -- several hot directories on the simulated disk.
 * Goal: packs are placed on drives and moved between them so that every byte of a sealed pack can be read at any
 * time, whatever fails and whenever the power goes; a drain that was interrupted ends; nothing is left over (contracts
 * F, G, I, J). Method: the power is cut in the n-th write, or the n-th I/O fails, for n = 1, 2, 3, ... until a run
 * meets neither. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "sim/sim.h"
#include "tier/drives.h"
#include "tier/packs.h"

enum { PACKS = 4, SIZE = 64 * 1024, MIB = 1024 * 1024, PASSES_MAX = 8 };

struct world {
	struct sim *sim;
	struct fs *fs;
	struct kv *kv;
	struct ids *ids;
	struct drives *drives;
	struct packs *packs;
	uint32_t incarnation;
	bool is_dead;       /* the metadata could not be synced */
	uint64_t packs_made[PACKS];
	uint32_t made;
	uint64_t cuts;
};

static const struct drive_place places[] = { { .path = "/a" }, { .path = "/b" } };
static const uint8_t store_id[16] = { 1, 2, 3 };
static uint8_t *block;

static void on_fatal(void *arg, const char *what)
{
	(void)what;
	((struct world *)arg)->is_dead = true;
}

static int open_sim(void *arg, const char *path, struct fs **out)
{
	return fs_new_sim(((struct world *)arg)->sim, path, out);
}

static int world_up(struct world *w)
{
	struct kv_options ko = { .group_max = 64, .fatal = on_fatal, .fatal_arg = w };
	struct drives_options o = { .places = places, .place_count = 2, .reserve = MIB, .open_fs = open_sim,
		.open_arg = w };
	struct packs_options po = { .pack_size = 16 * MIB, .reserve = MIB };
	char why[512] = "";
	int err = fs_new_sim(w->sim, "/data", &w->fs);

	assert_int_equal(err, 0);
	w->is_dead = false;
	memcpy(o.store_id, store_id, sizeof(store_id));
	err = fs_mkdir(w->fs, "meta");
	if (err == 0 || err == -GRANARY_EEXIST)
		err = fs_sync_dir(w->fs, "");
	if (err == 0)
		err = kv_open_mem(w->fs, "meta", &ko, &w->kv);
	o.fs = po.fs = w->fs;
	o.kv = po.kv = w->kv;
	w->ids = po.ids = ids_new(++w->incarnation);
	if (err == 0)
		err = drives_open(&o, &w->drives, why, sizeof(why));
	if (err == 0)
		err = drives_begin(w->drives, w->ids, why, sizeof(why));
	po.drives = w->drives;
	return err == 0 ? packs_open(&po, &w->packs) : err;
}

static void world_down(struct world *w)
{
	packs_close(&w->packs);
	drives_close(&w->drives);
	ids_free(&w->ids);
	if (w->kv != NULL)
		kv_close(&w->kv);
	fs_free(&w->fs);
}

/* Bytes that only this pack has. */
static void pack_bytes(uint64_t id, uint64_t at, uint8_t *out, size_t len)
{
	for (size_t i = 0; i < len; i++)
		out[i] = (uint8_t)(id * 31 + (at + i) / 512 * 7 + i);
}

static int make_pack(struct world *w)
{
	struct pack *pack;
	int err = packs_create(w->packs, 7, &pack);

	if (err < 0)
		return err;
	pack_bytes(pack_id_of(pack), 4096, block, SIZE - 4096);
	err = fs_write(pack_file(pack), block, SIZE - 4096, 4096);
	if (err == 0)
		err = fs_truncate(pack_file(pack), SIZE);
	if (err == 0)
		err = fs_sync(pack_file(pack));
	if (err == 0)
		err = packs_set_sealed(w->packs, pack, SIZE);
	if (err == 0)
		w->packs_made[w->made++] = pack_id_of(pack);
	packs_unref(w->packs, pack);
	return err;
}

static void check_pack(struct world *w, uint64_t id)
{
	struct pack *pack = packs_ref(w->packs, id);
	static uint8_t want[SIZE];

	assert_non_null(pack);
	assert_int_equal(packs_open_file(w->packs, pack), 0);
	assert_int_equal(fs_read(pack_file(pack), block, SIZE, 0), SIZE);
	pack_bytes(id, 4096, want, SIZE - 4096);
	assert_memory_equal(block + 4096, want, SIZE - 4096);
	packs_unref(w->packs, pack);
}

static void check_all(struct world *w)
{
	for (uint32_t i = 0; i < w->made; i++)
		check_pack(w, w->packs_made[i]);
}

/* As jobs/drain.c, without its clock. */
static int remove_moved(struct world *w)
{
	struct kv_iter *it = kv_iter_new(w->kv, NULL);
	struct kv_txn *txn = kv_txn_new(w->kv);
	int err = 0, n = 0;

	for (kv_iter_seek(it, slice_str("g")); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);

		if (key.len != 18 || key.p[0] != 'g' || key.p[9] != DELETION_MOVED)
			continue;
		err = packs_remove_moved(w->packs, be64_get(key.p + 10), kv_iter_value(it));
		if (err == 0) {
			kv_delete(txn, key);
			n++;
		}
	}
	if (err == 0)
		err = kv_iter_error(it);
	kv_iter_free(&it);
	if (err == 0 && n > 0)
		err = kv_submit_wait(w->kv, txn);
	kv_txn_free(&txn);
	return err;
}

static uint64_t rate_asked;

/* Asked for every piece that is copied: it may change while a drain goes on. */
static uint64_t rate_now(void *arg)
{
	(void)arg;
	rate_asked++;
	return UINT64_C(1) << 40;
}

static int drain(struct world *w, const char *path)
{
	struct drive *drive = drives_by_path(w->drives, path);
	struct packs_move order = { .rate = rate_now };
	int err = drive_state(drive) == DRIVE_ACTIVE ? drive_set_state(drive, DRIVE_DRAINING, PACKS) : 0;
	uint64_t bytes;

	for (uint32_t i = 0; err == 0 && i < w->made; i++) {
		struct pack *pack = packs_ref(w->packs, w->packs_made[i]);
		bool is_there = pack_drive(pack) == drive;

		packs_unref(w->packs, pack);
		if (is_there)
			err = packs_move(w->packs, w->packs_made[i], &order, &bytes);
	}
	return err == 0 ? remove_moved(w) : err;
}

static uint64_t on_drive(struct world *w, const char *path)
{
	struct packs_of_drive on;

	packs_count_drive(w->packs, drives_by_path(w->drives, path), &on);
	return on.packs;
}

static int count_name(void *arg, const char *name)
{
	(void)name;
	++*(uint32_t *)arg;
	return 0;
}

static uint32_t files_on(struct world *w, const char *path)
{
	struct fs *fs = NULL;
	uint32_t n = 0;
	char dir[16];

	assert_int_equal(fs_new_sim(w->sim, path, &fs), 0);
	for (unsigned i = 0; i < 256; i++) {
		snprintf(dir, sizeof(dir), "packs/%02x", i);
		(void)fs_list(fs, dir, count_name, &n);
	}
	fs_free(&fs);
	return n;
}

/* Without faults: goes on with what was interrupted until it is done. */
static void finish(struct world *w)
{
	int err = -1;

	for (uint32_t i = 0; i < PASSES_MAX && err != 0; i++) {
		(void)packs_probe(w->packs);
		err = drain(w, "/a");
	}
	assert_int_equal(err, 0);
	check_all(w);
	assert_int_equal(on_drive(w, "/a"), 0);
	world_down(w);
	assert_int_equal(world_up(w), 0); /* files of attempts that failed belong to an earlier incarnation now */
	assert_true(packs_sweep_orphans(w->packs, 100, false) >= 0);
	assert_int_equal(files_on(w, "/a"), 0);
	check_all(w);
}

static void world_new(struct world *w, uint64_t seed)
{
	*w = (struct world){ .sim = sim_new((struct sim_options){ .seed = seed, .keep_blocks = true }) };
	assert_non_null(w->sim);
	assert_int_equal(world_up(w), 0);
	while (w->made < PACKS)
		assert_int_equal(make_pack(w), 0);
	/* Each took its share: what is written counts. */
	assert_true(on_drive(w, "/a") > 0);
	assert_int_equal(on_drive(w, "/a") + on_drive(w, "/b"), PACKS);
	assert_int_equal(on_drive(w, "/data"), 0);
}

static void world_end(struct world *w)
{
	world_down(w);
	sim_free(&w->sim);
}

static void test_a_drain_survives_a_power_cut_anywhere(void **state)
{
	bool was_cut = true;
	uint64_t n;

	(void)state;
	for (n = 1; was_cut; n++) {
		struct world w;

		world_new(&w, n);
		sim_set_power_cut(w.sim, sim_write_count(w.sim) + n);
		(void)drain(&w, "/a");
		was_cut = sim_power_was_cut(w.sim);
		world_down(&w);
		sim_set_power_cut(w.sim, 0);
		if (was_cut)
			sim_power_on(w.sim);
		assert_int_equal(world_up(&w), 0);
		check_all(&w);
		finish(&w);
		world_end(&w);
	}
	assert_true(n > 10);
}

static void test_a_drain_survives_the_failure_of_any_io(void **state)
{
	uint64_t n, failed = 1;

	(void)state;
	for (n = 1; failed > 0; n++) {
		struct world w;

		world_new(&w, n);
		sim_set_fail(w.sim, n, -GRANARY_EIO, 0, false);
		(void)drain(&w, "/a");
		failed = sim_fail_count(w.sim);
		sim_set_fail(w.sim, 0, 0, 0, false);
		if (w.is_dead) { /* the product stops here */
			world_down(&w);
			assert_int_equal(world_up(&w), 0);
		}
		(void)packs_probe(w.packs);
		check_all(&w);
		finish(&w);
		world_end(&w);
	}
	assert_true(n > 10);
}

static void test_a_new_pack_goes_where_its_drive_does_not_fail(void **state)
{
	uint64_t n, failed = 1;

	(void)state;
	for (n = 1; failed > 0; n++) {
		struct world w;
		struct pack *pack = NULL;
		int err;

		world_new(&w, n);
		sim_set_fail(w.sim, n, -GRANARY_EIO, SIM_WRITES | SIM_FLUSHES, false);
		err = packs_create(w.packs, 9, &pack);
		failed = sim_fail_count(w.sim);
		sim_set_fail(w.sim, 0, 0, 0, false);
		if (!w.is_dead)
			assert_int_equal(err, 0); /* one fault never fails it: there is another drive */
		if (pack != NULL)
			packs_unref(w.packs, pack);
		world_end(&w);
	}
	assert_true(n > 2);
}

static void test_a_pack_that_moves_is_read_by_who_holds_it(void **state)
{
	struct packs_move order = { .rate = rate_now };
	struct world w;
	struct pack *pack;
	uint64_t bytes, id;
	uint32_t i = 0;

	(void)state;
	world_new(&w, 1);
	while (pack = packs_ref(w.packs, w.packs_made[i]), pack_drive(pack) != drives_by_path(w.drives, "/a")) {
		packs_unref(w.packs, pack);
		i++;
	}
	id = pack_id_of(pack);
	assert_int_equal(packs_open_file(w.packs, pack), 0);
	packs_pin(w.packs, id, 1);
	assert_int_equal(packs_move(w.packs, id, &order, &bytes), -GRANARY_EBUSY); /* its drive is in use */
	assert_int_equal(drive_set_state(pack_drive(pack), DRIVE_DRAINING, 1), 0);
	rate_asked = 0;
	assert_int_equal(packs_move(w.packs, id, &order, &bytes), 0);
	assert_int_equal(bytes, SIZE);
	assert_int_equal(rate_asked, 1); /* one piece */
	assert_int_equal(remove_moved(&w), 0);
	assert_int_equal(fs_read(pack_file(pack), block, SIZE, 0), SIZE); /* as it was, though its name is gone */
	packs_unref(w.packs, pack);
	pack = packs_ref(w.packs, id);
	assert_ptr_equal(pack_drive(pack), drives_by_path(w.drives, "/b"));
	assert_int_equal(pack_pins(pack), 1);
	packs_unref(w.packs, pack);
	packs_pin(w.packs, id, -1);
	check_all(&w);
	world_end(&w);
}

static void test_a_directory_of_another_store_is_refused(void **state)
{
	struct drives_options o = { .places = places, .place_count = 2, .open_fs = open_sim };
	struct drives *drives;
	struct world w;
	char why[512];

	(void)state;
	world_new(&w, 1);
	o.open_arg = &w;
	o.fs = w.fs;
	o.store_id[0] = 9;
	world_down(&w);
	assert_int_equal(fs_new_sim(w.sim, "/other", &w.fs), 0);
	(void)fs_mkdir(w.fs, "meta");
	assert_int_equal(kv_open_mem(w.fs, "meta", &(struct kv_options){ .group_max = 64 }, &w.kv), 0);
	o.fs = w.fs;
	o.kv = w.kv;
	assert_int_equal(drives_open(&o, &drives, why, sizeof(why)), -GRANARY_EBADFORMAT);
	assert_non_null(strstr(why, "another store"));
	world_end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_drain_survives_a_power_cut_anywhere),
		cmocka_unit_test(test_a_drain_survives_the_failure_of_any_io),
		cmocka_unit_test(test_a_new_pack_goes_where_its_drive_does_not_fail),
		cmocka_unit_test(test_a_pack_that_moves_is_read_by_who_holds_it),
		cmocka_unit_test(test_a_directory_of_another_store_is_refused),
	};

	log_set_level(LOG_ERROR);
	block = aligned_alloc(4096, SIZE);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
