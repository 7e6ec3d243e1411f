/* SPDX-License-Identifier: Apache-2.0 */
/* test_link_power.c -- a directory of others is linked, loaded and let go of, on the simulated disk.
 * Goal: whenever the power goes, and whatever I/O fails, a name that is there reads as the source's bytes, as they were
 * when it was linked, or is an error where they were changed since; what was interrupted is the same when it is done
 * again; at the end no file is left that no row names (contracts B, G, J).
 * Method: the power is cut in the n-th write, or the n-th I/O fails, for n = 1, 2, 3, ... of a history that links,
 * loads, lets go, changes files at the source, takes them up again and loads what is there; then seeds that cut
 * three times. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/rand.h"
#include "effort.h"
#include "io/fs.h"
#include "jobs/link.h"
#include "jobs/move.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/loc.h"
#include "meta/ns.h"
#include "meta/rows.h"
#include "pack/gather.h"
#include "pack/linked.h"
#include "sim/sim.h"
#include "tier/copy.h"
#include "tier/drives.h"
#include "tier/packs.h"
#include "tier/stores.h"

enum {
	FILES = 24, MIB = 1024 * 1024, SIZE_MAX_OF = 70000, PASSES_MAX = 24, PACKS_MAX = 64, CHANGED = 3,
	SEEDS = 500, SEEDS_LONG = 10000,
};

struct file { /* of the source, as it was written last, and before that */
	char name[32];
	uint64_t seed, before;
	uint32_t size, size_before;
};

struct world {
	struct sim *sim;
	struct fs *fs, *source;
	struct kv *kv;
	struct loc *loc;
	struct ids *ids;
	struct store_clock *clock;
	struct ns *ns;
	struct stores *stores;
	struct linked *linked;
	struct packs *packs;
	struct moves *moves;
	struct links *links;
	uint32_t incarnation;
	bool is_dead; /* the metadata could not be synced */
	struct file files[FILES];
};

static uint8_t bytes_want[SIZE_MAX_OF], bytes_before[SIZE_MAX_OF], bytes_have[SIZE_MAX_OF];

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
	struct store_settings s = { .name = "old", .text = "type=directory\npath=/source\nuse=source\n" };
	struct stores_options o = { .fs = w->fs, .kv = w->kv, .settings = &s, .settings_count = 1,
		.env = { open_sim, w }, .inline_jobs = true };
	char why[512];
	int err = stores_open(&o, &w->stores, why, sizeof(why));

	return err == 0 ? stores_begin(w->stores, w->ids, why, sizeof(why)) : err;
}

static int packs_up(struct world *w)
{
	struct packs_options po = { .pack_size = MIB, .reserve = MIB, .fs = w->fs, .kv = w->kv, .ids = w->ids,
		.clock = w->clock, .stores = w->stores };

	w->linked = linked_new(w->kv, w->stores);
	assert_non_null(w->linked);
	return packs_open(&po, &w->packs);
}

static int jobs_up(struct world *w)
{
	struct moves_options mo = { .timeout_ns = UINT64_C(5000000000), .retry_ns = 1, .kv = w->kv, .ids = w->ids,
		.ns = w->ns, .linked = w->linked, .packs = w->packs, .stores = w->stores, .clock = w->clock };
	struct links_options lo = { .kv = w->kv, .ids = w->ids, .ns = w->ns, .packs = w->packs, .stores = w->stores,
		.clock = w->clock, .retry_ns = 1 };
	int err = moves_open(&mo, &w->moves);

	return err == 0 ? links_open(&lo, &w->links) : err;
}

static int world_up(struct world *w)
{
	struct kv_options ko = { .group_max = 64, .fatal = on_fatal, .fatal_arg = w };
	struct ns_options no;
	int err = fs_new_sim(w->sim, "/data", &w->fs);

	assert_int_equal(err, 0);
	w->is_dead = false;
	w->loc = loc_new(MIB);
	ko.observer = (struct kv_observer){ ns_observe_begin, ns_observe_end, w->loc };
	err = fs_mkdir(w->fs, "meta");
	if (err == 0 || err == -GRANARY_EEXIST) err = fs_sync_dir(w->fs, "");
	if (err == 0) err = kv_open_mem(w->fs, "meta", &ko, &w->kv);
	w->ids = ids_new(++w->incarnation);
	if (err == 0) err = store_clock_open(w->kv, &w->clock);
	no = (struct ns_options){ .kv = w->kv, .ids = w->ids, .loc = w->loc, .clock = w->clock };
	if (err == 0) err = ns_open(&no, &w->ns);
	if (err == 0) err = stores_up(w);
	if (err == 0) err = packs_up(w);
	return err == 0 ? jobs_up(w) : err;
}

static void world_down(struct world *w)
{
	(void)links_close(&w->links);
	(void)moves_close(&w->moves);
	packs_close(&w->packs);
	linked_free(&w->linked);
	stores_close(&w->stores);
	if (w->ns != NULL) ns_close(&w->ns);
	if (w->clock != NULL) store_clock_free(&w->clock);
	ids_free(&w->ids);
	if (w->kv != NULL) kv_close(&w->kv);
	loc_free(&w->loc);
	fs_free(&w->fs);
}

/* ---- the source ---- */

static void bytes_make(uint64_t seed, uint8_t *out, uint32_t size)
{
	struct rng rng;

	rng_seed(&rng, seed);
	for (uint32_t i = 0; i < size; i++) out[i] = (uint8_t)rng_next(&rng);
}

static void file_write(struct world *w, struct file *f, uint64_t seed, uint32_t size)
{
	f->before = f->seed;
	f->size_before = f->size;
	f->seed = seed;
	f->size = size;
	bytes_make(seed, bytes_want, size);
	assert_int_equal(fs_put_file(w->source, f->name, bytes_want, size), 0);
}

static void source_make(struct world *w, uint64_t seed)
{
	static const uint32_t sizes[] = { 0, 1, 900, 4096, 30000, 65536, 65537, SIZE_MAX_OF };

	assert_int_equal(fs_new_sim(w->sim, "/source", &w->source), 0);
	assert_int_equal(fs_mkdir(w->source, "d"), 0);
	assert_int_equal(fs_sync_dir(w->source, ""), 0);
	for (uint32_t i = 0; i < FILES; i++) {
		snprintf(w->files[i].name, sizeof(w->files[i].name), i % 3 == 0 ? "d/%02u" : "%02u", i);
		file_write(w, &w->files[i], seed * 1000 + i, sizes[i % 8]);
		w->files[i].before = w->files[i].seed;
		w->files[i].size_before = w->files[i].size;
	}
}

static void source_change(struct world *w, uint64_t seed)
{
	for (uint32_t i = 0; i < CHANGED; i++) {
		struct file *f = &w->files[(seed + 5 * i) % FILES];

		/* An empty one has no record that says whose it is: what it becomes is a conflict. */
		if (f->size > 0) file_write(w, f, seed * 77 + i + 1, f->size);
	}
}

/* ---- what is here ---- */

static int extents_read(struct world *w, const struct object *o)
{
	return o->size == 0 ? 0 : pack_gather(w->packs, o->extents, o->extent_count, 0, bytes_have);
}

/* A name that is there has the bytes that the source has or had, or its read is an error, and that only of what was
 * changed. must: it is there, with what the source has now. */
static void check_file(struct world *w, const struct file *f, bool must)
{
	struct ns_bucket b;
	struct kv_value value;
	struct ns_place place;
	struct object o;
	char key[64];
	int err = ns_bucket_find(w->ns, slice_str("vision"), &b);
	bool is_now, is_before;

	assert_int_equal(err, 0);
	snprintf(key, sizeof(key), "set/%s", f->name);
	err = ns_lookup(w->ns, &(struct ns_ref){ .by = NS_BY_KEY, .bucket = b.id, .name = slice_str(key) }, &place, &o,
		&value);
	assert_true(err == 0 || (err == -GRANARY_ENOTFOUND && !must));
	if (err < 0) return;
	assert_true(o.extents_outside == 0 && o.size <= SIZE_MAX_OF);
	err = extents_read(w, &o);
	bytes_make(f->seed, bytes_want, f->size);
	bytes_make(f->before, bytes_before, f->size_before);
	is_now = o.size == f->size && memcmp(bytes_have, bytes_want, f->size) == 0;
	is_before = o.size == f->size_before && memcmp(bytes_have, bytes_before, f->size_before) == 0;
	if (err == 0 && !is_now && (!is_before || must)) fail_msg("'%s' has other bytes; must=%d", f->name, must);
	if (err < 0 && (must || f->seed == f->before))
		fail_msg("'%s' cannot be read: %s; must=%d", f->name, error_text(err), must);
	kv_value_release(&value);
}

static void check_all(struct world *w, bool must)
{
	for (uint32_t i = 0; i < FILES; i++) check_file(w, &w->files[i], must);
}

/* ---- the history ---- */

static int link_turn(struct world *w)
{
	struct link_order o = { .kind = LINK_LINK, .store = place_id(stores_by_name(w->stores, "old")),
		.target = "vision/set/" };
	uint64_t task;
	int err = links_start(w->links, &o, &task);

	return err == 0 ? links_turn(w->links) : err;
}

static int move_turn(struct world *w, uint8_t kind)
{
	struct move_order order = { .kind = kind, .origin = "test" };
	struct pack_info infos[PACKS_MAX];
	uint64_t packs[PACKS_MAX], task;
	uint32_t n = packs_list(w->packs, 0, infos, PACKS_MAX), count = 0;
	int err, left;

	assert_true(n < PACKS_MAX);
	for (uint32_t i = 0; i < n; i++)
		if (infos[i].state == PACK_SEALED) packs[count++] = infos[i].id;
	err = count > 0 ? moves_start(w->moves, &order, packs, count, &task) : 0;
	if (err == 0) err = moves_turn(w->moves);
	left = packs_remove_left(w->packs, 0);
	if (err == -GRANARY_ESOURCE) err = 0; /* what was changed is told, and the rest is done */
	return err < 0 ? err : left;
}

static int run(struct world *w, uint64_t seed)
{
	int err = link_turn(w);

	if (err == 0) err = move_turn(w, MOVE_PROMOTE);
	if (err == 0) err = move_turn(w, MOVE_EVICT);
	if (err == 0 && seed % 2 == 0) err = move_turn(w, MOVE_FETCH);
	return err;
}

/* What was changed meanwhile: loaded beside it, then taken up. */
static int run_changed(struct world *w)
{
	int err = move_turn(w, MOVE_PROMOTE);

	if (err == 0) err = link_turn(w);
	if (err == 0) err = move_turn(w, MOVE_PROMOTE);
	return err == 0 ? move_turn(w, MOVE_EVICT) : err;
}

static void world_new(struct world *w, uint64_t seed)
{
	*w = (struct world){ .sim = sim_new((struct sim_options){ .seed = seed, .keep_blocks = true }) };
	assert_non_null(w->sim);
	source_make(w, seed);
	assert_int_equal(world_up(w), 0);
	assert_int_equal(ns_bucket_create(w->ns, slice_str("vision"), slice_str("owner")), 0);
}

static void world_end(struct world *w)
{
	world_down(w);
	fs_free(&w->source);
	sim_free(&w->sim);
}

static void restart(struct world *w, bool was_cut)
{
	world_down(w);
	sim_set_power_cut(w->sim, 0);
	if (was_cut) sim_power_on(w->sim);
	assert_int_equal(world_up(w), 0);
	assert_int_equal(place_probe(stores_by_name(w->stores, "old"), clock_mono_ns() + 5000000000u), 0);
}

static int count_file(void *arg, const char *dir, const char *name, uint64_t id)
{
	(void)dir, (void)name, (void)id;
	++*(uint32_t *)arg;
	return 0;
}

/* Without faults: what was begun ends; linked once more everything is as at the source, loaded and not. */
static void finish(struct world *w)
{
	struct pack_info infos[PACKS_MAX];
	uint32_t files = 0, hot = 0, n;

	for (uint32_t i = 0; i < PASSES_MAX; i++) {
		(void)links_turn(w->links);
		(void)moves_turn(w->moves);
	}
	assert_int_equal(link_turn(w), 0);
	check_all(w, true);
	assert_int_equal(move_turn(w, MOVE_PROMOTE), 0);
	check_all(w, true);
	restart(w, false);
	assert_true(packs_sweep_orphans(w->packs, 100, false) >= 0);
	assert_int_equal(moves_turn(w->moves), 0);
	check_all(w, true);
	n = packs_list(w->packs, 0, infos, PACKS_MAX);
	for (uint32_t i = 0; i < n; i++) hot += infos[i].drive != 0;
	assert_int_equal(packs_each_file(w->fs, count_file, &files), 0);
	assert_int_equal(files, hot);
}

static void test_links_load_and_let_go(void **state)
{
	struct world w;

	(void)state;
	world_new(&w, 2);
	assert_int_equal(link_turn(&w), 0);
	check_all(&w, true);
	assert_int_equal(run(&w, 2), 0);
	check_all(&w, true);
	source_change(&w, 2);
	check_all(&w, false);
	assert_int_equal(move_turn(&w, MOVE_PROMOTE), 0);
	check_all(&w, false);
	assert_int_equal(run_changed(&w), 0);
	check_all(&w, true);
	finish(&w);
	world_end(&w);
}

static void one_cut(uint64_t seed, uint64_t n, bool is_changed, bool *was_cut)
{
	struct world w;

	world_new(&w, seed);
	if (is_changed) {
		assert_int_equal(run(&w, seed), 0);
		source_change(&w, seed);
	}
	sim_set_power_cut(w.sim, sim_write_count(w.sim) + n);
	(void)(is_changed ? run_changed(&w) : run(&w, seed));
	*was_cut = sim_power_was_cut(w.sim);
	restart(&w, *was_cut);
	check_all(&w, false);
	if (n % 4 == 0) finish(&w);
	world_end(&w);
}

static void test_links_survive_a_power_cut_anywhere(void **state)
{
	uint64_t by = effort_is_sanitized() ? 7 : 1;

	(void)state;
	for (int changed = 0; changed < 2; changed++) {
		bool was_cut = true;
		uint64_t n;

		for (n = 1; was_cut; n += by) one_cut(n, n, changed != 0, &was_cut);
		assert_true(n > 20);
	}
}

static void test_links_survive_the_failure_of_any_io(void **state)
{
	uint64_t n, failed = 1, by = effort_is_sanitized() ? 7 : 1;

	(void)state;
	for (n = 1; failed > 0; n += by) {
		struct world w;

		world_new(&w, n);
		sim_set_fail(w.sim, n, n % 3 == 0 ? -GRANARY_ENOSPACE : -GRANARY_EIO, 0, n % 5 == 0);
		(void)run(&w, n);
		failed = sim_fail_count(w.sim);
		sim_set_fail(w.sim, 0, 0, 0, false);
		restart(&w, false);
		check_all(&w, false);
		if (n % 4 == 0) finish(&w);
		world_end(&w);
	}
	assert_true(n > 40);
}

/* Seeds that cut anywhere, and again while what was interrupted goes on. */
static void test_seeds(void **state)
{
	uint64_t seeds = effort("GRANARY_LINK_SEEDS", SEEDS, SEEDS_LONG), cuts = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= seeds; seed++) {
		struct world w;

		world_new(&w, seed * 7919);
		for (int i = 0; i < 3; i++) {
			bool was_cut;

			if (i == 1) source_change(&w, seed);
			sim_set_power_cut(w.sim, sim_write_count(w.sim) + 1 + sim_random(w.sim, i == 0 ? 80 : 40));
			(void)links_turn(w.links);
			(void)moves_turn(w.moves);
			(void)(i == 0 ? run(&w, seed) : run_changed(&w));
			was_cut = sim_power_was_cut(w.sim);
			cuts += was_cut;
			restart(&w, was_cut);
			check_all(&w, false);
		}
		if (seed % 8 == 0) finish(&w);
		world_end(&w);
	}
	printf("  %llu power cuts\n", (unsigned long long)cuts);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_links_load_and_let_go),
		cmocka_unit_test(test_links_survive_a_power_cut_anywhere),
		cmocka_unit_test(test_links_survive_the_failure_of_any_io),
		cmocka_unit_test(test_seeds),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
