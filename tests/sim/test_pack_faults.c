/* SPDX-License-Identifier: Apache-2.0 */
/* test_pack_faults.c -- the pack writer and recovery on the simulated disk.
 * Goal: an append that was acknowledged is readable, none is acknowledged twice, whatever fails and
 * whenever the power goes (contracts A, F, G, H). Method: the n-th write or flush fails, or the
 * power is cut in it, for n = 1, 2, 3, ... until a run meets no fault. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/list.h"
#include "common/log.h"
#include "common/rand.h"
#include "io/fs.h"
#include "io/io.h"
#include "io/reactor.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "pack/check.h"
#include "pack/writer.h"
#include "sim/sim.h"
#include "tier/packs.h"

enum { PUTS = 40, POOL_SIZE = 256 * 1024, TURNS_MAX = 200000, MIB = 1024 * 1024 };

struct put {
	struct pack_append a;
	struct world *w;
	struct task early;   /* the commit of a transaction made before the flush */
	struct kv_txn *txn;
	uint32_t done;       /* times it was told, by either */
	bool committed;
	uint8_t crcs[4 * EXTENT_CRCS_MAX];
};

struct world {
	struct sim *sim;
	struct fs *fs;
	struct kv *kv;
	struct ids *ids;
	struct packs *packs;
	struct reactor *reactor;
	struct workers *workers;
	struct writers *writers;
	uint32_t incarnation;
	uint64_t failed; /* appends, over all runs with one fault */
	uint64_t early, taken_back; /* transactions made before the flush, over all runs */
	bool is_dead; /* the metadata could not be synced: the product stops here */
	struct put puts[PUTS];
};

static uint8_t pool[POOL_SIZE];

static void on_fatal(void *arg, const char *what)
{
	struct world *w = arg;

	(void)what;
	w->is_dead = true;
}

static int world_up(struct world *w)
{
	struct kv_options ko = { .group_max = 64, .fatal = on_fatal, .fatal_arg = w };
	struct io_options io = { .engine = IO_ENGINE_SIM, .sim = w->sim, .depth = 64 };
	struct packs_options po = { .pack_size = 16 * MIB, .reserve = 4 * MIB };
	struct writers_options wo;
	int err = fs_new_sim(w->sim, "/data", &w->fs);

	assert_int_equal(err, 0);
	w->is_dead = false;
	err = fs_mkdir(w->fs, "meta");
	if (err == 0 || err == -GRANARY_EEXIST)
		err = fs_sync_dir(w->fs, "");
	if (err == 0)
		err = kv_open_mem(w->fs, "meta", &ko, &w->kv);
	w->ids = ids_new(++w->incarnation);
	po.fs = w->fs;
	po.kv = w->kv;
	po.ids = w->ids;
	if (err == 0)
		err = packs_open(&po, &w->packs);
	if (err < 0)
		return err;
	assert_int_equal(reactor_new(0, &io, &w->reactor), 0);
	assert_int_equal(workers_new(0, &w->workers), 0);
	wo = (struct writers_options){ .packs = w->packs, .reactors = &w->reactor, .reactor_count = 1,
		.kv = w->kv, .workers = w->workers, .buffer_budget = 16 * MIB };
	assert_int_equal(writers_new(&wo, &w->writers), 0);
	return 0;
}

static void turn(struct world *w)
{
	(void)reactor_turn(w->reactor, false);
	(void)workers_turn(w->workers);
	(void)kv_turn(w->kv);
}

static void world_idle(struct world *w)
{
	for (uint32_t i = 0; !writers_idle(w->writers); i++) {
		assert_true(i < TURNS_MAX);
		turn(w);
	}
	for (uint32_t i = 0; i < 4; i++)
		turn(w); /* mail of the last ones */
}

static void world_down(struct world *w)
{
	if (w->writers != NULL) {
		writers_stop(w->writers);
		world_idle(w);
		writers_free(&w->writers);
	}
	workers_free(&w->workers);
	reactor_free(&w->reactor);
	packs_close(&w->packs);
	ids_free(&w->ids);
	if (w->kv != NULL)
		kv_close(&w->kv);
	fs_free(&w->fs);
}

static void on_put(struct task *t)
{
	struct pack_append *a = container_of(t, struct pack_append, done);

	container_of(a, struct put, a)->done++;
}

/* Every third append has its transaction made while it is on its way to the disk. */
static struct kv_txn *on_placed(struct pack_append *a)
{
	struct put *p = container_of(a, struct put, a);
	const struct pack_append *one = a;

	assert_null(p->txn);
	p->txn = kv_txn_new(p->w->kv);
	assert_non_null(p->txn);
	writers_account(p->txn, &one, 1);
	p->w->early++;
	return p->txn;
}

static void on_unplaced(struct pack_append *a)
{
	struct put *p = container_of(a, struct put, a);

	assert_non_null(p->txn);
	kv_txn_free(&p->txn);
	p->w->taken_back++;
}

static void on_early(struct task *t)
{
	struct put *p = container_of(t, struct put, early);

	assert_int_equal(p->a.err, 0);
	p->done++;
	p->committed = kv_txn_result(p->txn) == 0;
	kv_txn_free(&p->txn);
	pack_append_settled(&p->a);
}

static uint32_t len_of(uint32_t i) { return i % 7 == 0 ? 150000 : 300 + i * 97; }

static void put_start(struct world *w, uint32_t i)
{
	struct put *p = &w->puts[i];
	uint32_t len = len_of(i);

	*p = (struct put){ .a = { .done.fn = on_put, .notify = w->reactor, .group = 3 + i % 2, .object_id = i + 1,
		.version = i + 1, .dir_id = 9, .whole = true, .name = slice_str("name"), .data = pool + i * 100,
		.data_len = len }, .w = w, .early.fn = on_early };
	if (i % 3 == 1) {
		p->a.placed = on_placed;
		p->a.unplaced = on_unplaced;
		p->a.committed = &p->early;
	}
	for (uint32_t k = 0; k < crc_block_count(len); k++) {
		uint32_t at = k * CRC_BLOCK_SIZE, n = len - at < CRC_BLOCK_SIZE ? len - at : CRC_BLOCK_SIZE;
		uint32_t crc = crc32c(0, p->a.data + at, n);

		memcpy(p->crcs + 4 * (size_t)k, &crc, 4);
	}
	p->a.crcs = p->crcs;
	pack_append(w->writers, &p->a);
}

/* Acknowledges as the product does: by a transaction, and only then. */
static void put_commit(struct world *w, struct put *p)
{
	const struct pack_append *a = &p->a;
	struct kv_txn *txn;

	if (p->done == 0 || p->a.err != 0 || p->committed || p->a.pack == NULL)
		return;
	txn = kv_txn_new(w->kv);
	writers_account(txn, &a, 1);
	p->committed = !w->is_dead && kv_submit_wait(w->kv, txn) == 0;
	kv_txn_free(&txn);
	pack_append_settled(&p->a);
}

/* Appends in small bursts, so that several flushes of both groups and a few commits interleave. */
static void workload(struct world *w)
{
	for (uint32_t i = 0; i < PUTS; i++) {
		put_start(w, i);
		if (i % 5 == 4)
			for (uint32_t k = 0; k < 30; k++)
				turn(w);
		for (uint32_t k = 0; k <= i; k++)
			put_commit(w, &w->puts[k]);
	}
	world_idle(w);
	for (uint32_t k = 0; k < PUTS; k++) {
		put_commit(w, &w->puts[k]);
		assert_int_equal(w->puts[k].done, 1);
	}
}

static void put_verify(struct world *w, const struct put *p)
{
	static uint8_t back[EXTENT_LEN_MAX];
	struct pack *pack = packs_ref(w->packs, p->a.extent.pack);
	uint32_t len;

	assert_non_null(pack);
	if (pack_file(pack) == NULL)
		assert_int_equal(packs_open_file(w->packs, pack), 0);
	assert_int_equal(pack_record_verify(pack_file(pack), p->a.extent.pack, p->a.extent.record, p->a.object_id,
		back, &len, NULL), 0);
	assert_int_equal(len, p->a.data_len);
	assert_memory_equal(back, p->a.data, len);
	packs_unref(w->packs, pack);
}

/* ---- the n-th write or flush fails ---- */

static bool fault_run(struct world *w, uint64_t n, int error, bool persist, unsigned classes)
{
	uint32_t failed = 0;
	bool was_hit;

	*w = (struct world){ .failed = w->failed, .early = w->early, .taken_back = w->taken_back };
	w->sim = sim_new((struct sim_options){ .seed = n });
	assert_int_equal(world_up(w), 0);
	sim_set_fail(w->sim, n, error, classes, persist);
	workload(w);
	was_hit = sim_fail_count(w->sim) > 0;
	sim_set_fail(w->sim, 0, 0, 0, false);
	for (uint32_t i = 0; i < PUTS; i++) {
		failed += w->puts[i].a.err != 0;
		if (w->puts[i].a.err == 0)
			put_verify(w, &w->puts[i]);
	}
	w->failed += persist ? 0 : failed;
	/* The fault is over: appends work again by themselves. */
	if (!w->is_dead) {
		put_start(w, 0);
		world_idle(w);
		assert_int_equal(w->puts[0].done, 1);
		assert_int_equal(w->puts[0].a.err, 0);
		put_verify(w, &w->puts[0]);
		pack_append_settled(&w->puts[0].a);
	}
	world_down(w);
	sim_free(&w->sim);
	return was_hit;
}

static void test_what_was_flushed_is_readable_whichever_write_fails(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	uint64_t runs = 0, single;

	(void)state;
	for (uint64_t n = 1; fault_run(w, n, -GRANARY_EIO, false, SIM_WRITES | SIM_FLUSHES); n++)
		runs++;
	for (uint64_t n = 1; fault_run(w, n, SIM_FAIL_SHORT, false, SIM_WRITES); n++)
		runs++;
	for (uint64_t n = 1; fault_run(w, n, -GRANARY_ENOSPACE, false, SIM_WRITES); n++)
		runs++;
	single = runs;
	for (uint64_t n = 1; n < 60; n++)
		runs += fault_run(w, n, -GRANARY_EIO, true, SIM_FLUSHES);
	printf("  %llu runs with a fault; of %llu appends in runs with one, %llu failed; of %llu early transactions "
	       "%llu were taken back\n", (unsigned long long)runs, (unsigned long long)single * PUTS,
		(unsigned long long)w->failed, (unsigned long long)w->early, (unsigned long long)w->taken_back);
	/* One failed write costs a pack, not the appends: they go to another. */
	assert_true(w->failed * 20 < single * PUTS);
	assert_true(runs > 100);
	assert_true(w->early > w->taken_back && w->taken_back > 0);
	free(w);
}

/* ---- a full disk ---- */

static void test_a_full_disk_refuses_and_recovers_by_itself(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	uint32_t refused = 0;

	(void)state;
	w->sim = sim_new((struct sim_options){ .seed = 7 });
	assert_int_equal(world_up(w), 0);
	sim_set_space(w->sim, 8 * MIB); /* less than a step and the reserve */
	for (uint32_t i = 0; i < 10; i++)
		put_start(w, i);
	world_idle(w);
	for (uint32_t i = 0; i < 10; i++) {
		assert_int_equal(w->puts[i].done, 1);
		refused += w->puts[i].a.err == -GRANARY_ENOSPACE;
	}
	assert_int_equal(refused, 10);
	sim_set_space(w->sim, 1024 * (uint64_t)MIB);
	workload(w);
	for (uint32_t i = 0; i < PUTS; i++) {
		assert_int_equal(w->puts[i].a.err, 0);
		put_verify(w, &w->puts[i]);
	}
	world_down(w);
	sim_free(&w->sim);
	free(w);
}

/* ---- power cuts ---- */

static void on_problem(void *arg, const struct pack_problem *p)
{
	(void)arg;
	fail_msg("damage at %llu: %s", (unsigned long long)p->offset, p->what);
}

static void check_sealed(struct world *w, uint64_t id)
{
	struct pack_walk walk = { .pack_id = id, .verify_data = true, .problem = on_problem };
	struct pack *pack = packs_ref(w->packs, id);

	assert_non_null(pack);
	if (pack_file(pack) == NULL)
		assert_int_equal(packs_open_file(w->packs, pack), 0);
	assert_int_equal(pack_check_sealed(pack_file(pack), &walk), 0);
	packs_unref(w->packs, pack);
}

/* Seals what an earlier start left open; true if the power stayed. */
static bool recover(struct world *w)
{
	struct pack_info info[32];
	uint32_t n = packs_list(w->packs, 0, info, 32);

	for (uint32_t i = 0; i < n; i++)
		if (info[i].state == PACK_OPEN && !info[i].mine) {
			int err = pack_seal(w->packs, info[i].id, NULL);

			if (sim_power_was_cut(w->sim) || w->is_dead)
				return false;
			assert_int_equal(err, 0);
		}
	return true;
}

static bool cut_run(struct world *w, uint64_t cut, uint64_t cut_again)
{
	struct pack_info info[32];
	bool was_cut, up;

	memset(w, 0, sizeof(*w));
	w->sim = sim_new((struct sim_options){ .seed = cut });
	assert_int_equal(world_up(w), 0);
	sim_set_power_cut(w->sim, sim_write_count(w->sim) + cut);
	workload(w);
	if (!w->is_dead && !sim_power_was_cut(w->sim)) {
		writers_rotate(w->writers, true); /* cuts in sealing too */
		world_idle(w);
	}
	was_cut = sim_power_was_cut(w->sim);
	world_down(w);
	sim_power_cut(w->sim);
	sim_power_on(w->sim);
	if (cut_again > 0)
		sim_set_power_cut(w->sim, sim_write_count(w->sim) + cut_again);
	up = world_up(w) == 0;
	if (up && !recover(w))
		up = false;
	if (sim_power_was_cut(w->sim) || !up) { /* recovery itself was interrupted */
		assert_true(sim_power_was_cut(w->sim));
		world_down(w);
		sim_power_on(w->sim);
		sim_set_power_cut(w->sim, 0);
		assert_int_equal(world_up(w), 0);
		assert_true(recover(w));
	}
	sim_set_power_cut(w->sim, 0);
	for (uint32_t i = 0; i < PUTS; i++)
		if (w->puts[i].committed)
			put_verify(w, &w->puts[i]);
	for (uint32_t i = 0, n = packs_list(w->packs, 0, info, 32); i < n; i++)
		if (info[i].state == PACK_SEALED)
			check_sealed(w, info[i].id);
	assert_true(packs_sweep_orphans(w->packs, 100, false) >= 0);
	assert_int_equal(packs_sweep_orphans(w->packs, 100, false), 0);
	world_down(w);
	sim_free(&w->sim);
	return was_cut;
}

static void test_what_was_committed_survives_a_power_cut_at_any_write(void **state)
{
	struct world *w = malloc(sizeof(*w));
	uint64_t cut;

	(void)state;
	for (cut = 1; cut_run(w, cut, 1 + cut % 9); cut++)
		;
	printf("  %llu cuts, each with another in recovery\n", (unsigned long long)(cut - 1));
	assert_true(cut > 50);
	free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_flushed_is_readable_whichever_write_fails),
		cmocka_unit_test(test_a_full_disk_refuses_and_recovers_by_itself),
		cmocka_unit_test(test_what_was_committed_survives_a_power_cut_at_any_write),
	};
	struct rng r;

	rng_seed(&r, 1);
	for (uint32_t i = 0; i < POOL_SIZE; i++)
		pool[i] = (uint8_t)rng_next(&r);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
