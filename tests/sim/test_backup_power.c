/* SPDX-License-Identifier: Apache-2.0 */
/* test_backup_power.c -- backup and restore on the simulated disk.
 * Goal: whatever is lost in a power cut, a restore gives the rows of one moment, none older than the last log that was
 * reported written; a restore that is cut itself is made again; the store goes on backing up after the cut.
 * Method: the power goes at write 1, 2, 3, ... of a workload of transactions, log writes and checkpoints, then at any
 * write of the restore. The rows are a counter and its copies: every state is told by one number. Metadata and backup
 * lie on one disk, so the cut takes from both. GRANARY_SIM_SEED=n repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/rand.h"
#include "effort.h"
#include "io/fs.h"
#include "jobs/backup.h"
#include "jobs/restore.h"
#include "meta/kv.h"
#include "sim/sim.h"
#include "sim/sim_clock.h"
#include "sim/sim_log.h"

enum { RUNS = 500, RUNS_LONG = 10000, STEPS = 30, ROWS = 5 };

struct world {
	struct sim *sim;
	struct fs *data, *to;
	struct kv *kv;
	struct backup *b;
	struct rng rng;
	uint32_t committed; /* answered */
	uint32_t tried;     /* the next one at most */
	uint32_t logged;    /* committed when a turn last returned 0 */
	bool is_dead;
};

static const uint8_t store_id[16] = { 7 };
static uint64_t run_now, runs_cut;
static bool is_running;

static void on_fatal(void *arg, const char *what)
{
	(void)what;
	((struct world *)arg)->is_dead = true;
}

static int up(struct world *w)
{
	struct backup_options o = { .fs = w->data, .to = w->to, .every_ns = UINT64_MAX, .keep = 2 };
	struct kv_options k = { .fatal = on_fatal, .fatal_arg = w };
	int err = backup_new(&o, &w->b);

	assert_int_equal(err, 0);
	k.tap = backup_tap(w->b);
	err = kv_open_mem(w->data, "meta", &k, &w->kv);
	if (err < 0) return err;
	backup_attach(w->b, w->kv, store_id);
	return backup_run(w->b, 1, NULL);
}

static void down(struct world *w)
{
	if (w->kv != NULL) backup_stop(w->b);
	kv_close(&w->kv);
	backup_free(&w->b);
}

static int count_to(struct world *w, uint32_t n)
{
	struct kv_txn *t = kv_txn_new(w->kv);
	char key[16];
	int err;

	for (int i = 0; i < ROWS; i++) {
		snprintf(key, sizeof(key), "row%d", i);
		kv_put(t, slice_str(key), slice_of(&n, sizeof(n)));
	}
	snprintf(key, sizeof(key), "n%u", n % 7);
	if (n % 2 == 0)
		kv_delete(t, slice_str(key));
	else
		kv_put(t, slice_str(key), slice_of(&n, sizeof(n)));
	err = kv_submit_wait(w->kv, t);
	kv_txn_free(&t);
	return err;
}

/* What the rows count to; all of them agree. */
static uint32_t count_of(struct kv *kv)
{
	uint32_t first = 0;

	for (int i = 0; i < ROWS; i++) {
		struct kv_value v;
		uint32_t n = 0;
		char key[16];
		snprintf(key, sizeof(key), "row%d", i);
		if (kv_get(kv, slice_str(key), &v) == 0) {
			assert_int_equal(v.v.len, sizeof(n));
			memcpy(&n, v.v.p, sizeof(n));
			kv_value_release(&v);
		}
		if (i == 0) first = n;
		assert_int_equal(n, first);
	}
	return first;
}

static bool is_off(const struct world *w)
{
	return w->is_dead || sim_power_was_cut(w->sim);
}

static void work(struct world *w)
{
	for (int i = 0; i < STEPS && !is_off(w); i++) {
		w->tried = w->committed + 1;
		if (count_to(w, w->tried) == 0) w->committed = w->tried;
		if (rng_below(&w->rng, 3) == 0) continue;
		if (rng_below(&w->rng, 4) == 0) backup_ask(w->b);
		if (backup_turn(w->b) == 0 && !is_off(w)) w->logged = w->committed;
	}
}

/* Again and again until it is not cut. Returns what the rows count to; -1: there is no checkpoint. */
static int64_t restore_again(struct world *w, uint64_t cut)
{
	for (;;) {
		struct restore r = { .from = w->to, .to = w->data, .dir = "made", .simulated = true };
		struct kv *kv = NULL;
		int64_t n = -1;
		int err;

		if (cut > 0) sim_set_power_cut(w->sim, sim_write_count(w->sim) + cut);
		err = restore_metadata(&r, &kv);
		if (err == 0) n = count_of(kv);
		kv_close(&kv);
		if (sim_power_was_cut(w->sim)) {
			sim_power_on(w->sim);
			cut = 0;
			continue;
		}
		sim_set_power_cut(w->sim, 0);
		if (err < 0 && err != -GRANARY_ENOTFOUND) fail_msg("restore: %s", r.why);
		assert_int_equal(fs_remove_folder(w->data, "made"), 0);
		return n;
	}
}

static void check_restored(struct world *w, uint64_t cut)
{
	int64_t n = restore_again(w, cut);

	if (n < 0)
		assert_int_equal(w->logged, 0);
	else
		assert_in_range(n, w->logged, w->tried);
}

/* After the cut the store is opened as it is, and backs up as before. */
static void go_on(struct world *w)
{
	down(w);
	w->is_dead = false;
	sim_set_power_cut(w->sim, 0);
	assert_int_equal(up(w), 0);
	w->committed = count_of(w->kv);
	assert_in_range(w->committed, 0, w->tried);
	work(w);
	backup_ask(w->b);
	assert_int_equal(backup_turn(w->b), 0);
	w->logged = w->tried = w->committed;
	check_restored(w, 0);
}

static void one(uint64_t n)
{
	struct world w = { .sim = sim_new((struct sim_options){
				   .seed = 1 + n, .power_cut_at_write = n < 300 ? n + 1 : 1 + n % 290 }) };

	rng_seed(&w.rng, n < 300 ? 1 : n);
	sim_clock_use(w.sim);
	assert_int_equal(fs_new_sim(w.sim, "/data", &w.data), 0);
	assert_int_equal(fs_new_sim(w.sim, "/backup", &w.to), 0);
	if (fs_put_file(w.data, "master.key", "k", 1) == 0 && up(&w) == 0) work(&w);
	runs_cut += sim_power_was_cut(w.sim);
	if (is_off(&w)) {
		down(&w);
		sim_power_on(w.sim);
	}
	sim_set_power_cut(w.sim, 0);
	check_restored(&w, n % 2 == 1 ? 1 + n % 17 : 0);
	if (fs_exists(w.data, "master.key") == 1 || fs_put_file(w.data, "master.key", "k", 1) == 0) go_on(&w);
	down(&w);
	fs_free(&w.data);
	fs_free(&w.to);
	sim_clock_use(NULL);
	sim_free(&w.sim);
}

static void test_a_restore_gives_a_moment_not_older_than_the_log_at_any_power_cut(void **state)
{
	const char *only = getenv("GRANARY_SIM_SEED");
	uint64_t runs = effort("GRANARY_SIM_SEEDS", RUNS, RUNS_LONG);

	(void)state;
	sim_log_keep();
	is_running = true;
	for (run_now = only ? strtoull(only, NULL, 10) : 0; only != NULL || run_now < runs; run_now++) {
		one(run_now);
		if (only != NULL) break;
	}
	is_running = false;
	printf("  %llu runs cut\n", (unsigned long long)runs_cut);
	if (only == NULL) assert_true(runs_cut > runs / 4);
}

static int tell_run(void **state)
{
	(void)state;
	if (is_running) {
		sim_log_print();
		fprintf(stderr, "repeat with GRANARY_SIM_SEED=%llu\n", (unsigned long long)run_now);
	}
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(
			test_a_restore_gives_a_moment_not_older_than_the_log_at_any_power_cut, tell_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
