/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated disk keeps its promises: what it may lose, what it must keep, and that it is the same every time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "io/fs.h"
#include "io/io.h"
#include "io/reactor.h"
#include "sim/sim.h"

enum { SEEDS = 200, BIG = 64 * 1024 };

struct world { struct sim *sim; struct fs *fs; struct io *io; };

static struct world open_world(struct sim_options o)
{
	struct world w = { sim_new(o), NULL, NULL };
	struct io_options io = { .engine = IO_ENGINE_SIM, .sim = w.sim };
	assert_non_null(w.sim);
	assert_int_equal(fs_new_sim(w.sim, "/data", &w.fs), 0);
	assert_int_equal(io_new(&io, &w.io), 0);
	return w;
}

static void close_world(struct world *w)
{
	io_free(&w->io);
	fs_free(&w->fs);
	sim_free(&w->sim);
}

static void power_cycle(struct world *w)
{
	sim_power_cut(w->sim);
	sim_power_on(w->sim);
}

static uint32_t completions;
static void on_done(struct io_op *op) { completions++; (void)op; }

/* Runs until op completed; its result. */
static int64_t finish(struct io *io, struct io_op *op)
{
	uint32_t before = completions;
	for (int i = 0; completions == before; i++) {
		assert_true(i < 100000);
		io_submit_and_wait(io, UINT64_MAX);
		io_run(io, 1);
	}
	return op->res;
}

static struct io_op new_op(void) { return (struct io_op){ .done = on_done }; }

static struct fs_file *create(struct fs *fs, const char *path)
{
	struct fs_file *f;
	assert_int_equal(fs_open(fs, path, FS_CREATE_NEW, &f), 0);
	return f;
}

static void test_created_name_may_vanish_without_a_directory_sync(void **state)
{
	uint32_t vanished = 0, kept = 0;
	(void)state;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct world w = open_world((struct sim_options){ .seed = seed });
		struct fs_file *f = create(w.fs, "a");
		assert_int_equal(fs_write(f, "x", 1, 0), 0);
		assert_int_equal(fs_sync(f), 0);
		fs_close(&f);
		power_cycle(&w);
		if (fs_exists(w.fs, "a") == 1)
			kept++;
		else
			vanished++;
		close_world(&w);
	}
	assert_true(vanished > 0 && kept > 0);
}

static void test_synced_file_in_a_synced_directory_always_survives(void **state)
{
	char back[BIG], data[BIG];
	(void)state;
	memset(data, 'd', sizeof(data));
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct world w = open_world((struct sim_options){ .seed = seed });
		assert_int_equal(fs_mkdir(w.fs, "dir"), 0);
		assert_int_equal(fs_sync_dir(w.fs, ""), 0);
		struct fs_file *f = create(w.fs, "dir/a");
		assert_int_equal(fs_write(f, data, sizeof(data), 0), 0);
		assert_int_equal(fs_datasync(f), 0);
		assert_int_equal(fs_sync_dir(w.fs, "dir"), 0);
		fs_close(&f);
		power_cycle(&w);
		assert_int_equal(fs_open(w.fs, "dir/a", FS_READ, &f), 0);
		assert_int_equal(fs_read(f, back, sizeof(back), 0), BIG);
		assert_memory_equal(back, data, sizeof(data));
		fs_close(&f);
		close_world(&w);
	}
}

/* Method: overwrite 'o' by 'n' without a flush, cut, and look at each 512-byte sector. */
static void test_unflushed_write_is_torn_at_sectors_and_keeps_what_lies_outside(void **state)
{
	static char data[BIG];
	uint32_t torn = 0, all = 0, none = 0, junk = 0;
	(void)state;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct world w = open_world((struct sim_options){ .seed = seed });
		struct fs_file *f = create(w.fs, "a");
		memset(data, 'o', sizeof(data));
		assert_int_equal(fs_write(f, data, sizeof(data), 0), 0);
		assert_int_equal(fs_sync(f), 0);
		assert_int_equal(fs_sync_dir(w.fs, ""), 0);
		memset(data, 'n', sizeof(data));
		assert_int_equal(fs_write(f, data, 16384, 16384), 0);
		fs_close(&f);
		power_cycle(&w);
		assert_int_equal(fs_open(w.fs, "a", FS_READ, &f), 0);
		assert_int_equal(fs_read(f, data, sizeof(data), 0), BIG);
		uint32_t fresh = 0, old = 0;
		for (uint32_t s = 0; s < BIG / 512; s++) {
			char c = data[s * 512];
			bool uniform = memcmp(data + s * 512, data + s * 512 + 1, 511) == 0;
			bool inside = s >= 32 && s < 64;
			assert_true(inside || (uniform && c == 'o'));
			fresh += inside && uniform && c == 'n';
			old += inside && uniform && c == 'o';
		}
		torn += fresh > 0 && old > 0;
		all += fresh == 32;
		none += old == 32;
		junk += fresh + old < 32;
		fs_close(&f);
		close_world(&w);
	}
	assert_true(torn > 0 && all > 0 && none > 0 && junk > 0);
}

static void test_failed_flush_loses_the_bytes_and_the_next_one_returns_ok(void **state)
{
	char back[512], data[512];
	(void)state;
	memset(data, 'd', sizeof(data));
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct world w = open_world((struct sim_options){ .seed = seed, .keep_blocks = true });
		struct fs_file *f = create(w.fs, "a");
		struct io_op op = new_op();
		assert_int_equal(fs_allocate(f, 0, 512), 0);
		assert_int_equal(fs_sync(f), 0);
		assert_int_equal(fs_sync_dir(w.fs, ""), 0);
		io_write(w.io, &op, f, data, sizeof(data), 0);
		assert_int_equal(finish(w.io, &op), 512);
		sim_set_fail(w.sim, 1, -GRANARY_EIO, SIM_FLUSHES, false);
		io_fdatasync(w.io, &op, f);
		assert_int_equal(finish(w.io, &op), -GRANARY_EIO);
		io_fdatasync(w.io, &op, f);
		assert_int_equal(finish(w.io, &op), 0);
		fs_close(&f);
		power_cycle(&w);
		assert_int_equal(fs_open(w.fs, "a", FS_READ, &f), 0);
		assert_int_equal(fs_read(f, back, sizeof(back), 0), 512);
		assert_int_equal(back[0], 0);
		fs_close(&f);
		close_world(&w);
	}
}

/* A flush covers only writes that completed before it began. */
static void test_flush_does_not_cover_a_write_still_in_flight(void **state)
{
	static char data[BIG], back[BIG];
	uint32_t lost = 0;
	(void)state;
	memset(data, 'd', sizeof(data));
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct world w = open_world((struct sim_options){ .seed = seed });
		struct fs_file *f = create(w.fs, "a");
		struct io_op write = new_op(), flush = new_op();
		assert_int_equal(fs_allocate(f, 0, BIG), 0);
		assert_int_equal(fs_sync(f), 0);
		assert_int_equal(fs_sync_dir(w.fs, ""), 0);
		io_write(w.io, &write, f, data, BIG, 0);
		io_fdatasync(w.io, &flush, f);
		uint32_t target = completions + 2;
		while (completions < target) {
			io_submit_and_wait(w.io, UINT64_MAX);
			io_run(w.io, 256);
		}
		assert_int_equal(write.res, BIG);
		assert_int_equal(flush.res, 0);
		fs_close(&f);
		power_cycle(&w);
		assert_int_equal(fs_open(w.fs, "a", FS_READ, &f), 0);
		assert_int_equal(fs_read(f, back, BIG, 0), BIG);
		lost += memcmp(back, data, BIG) != 0;
		fs_close(&f);
		close_world(&w);
	}
	assert_true(lost > 0);
}

static void test_put_file_is_old_or_new_at_every_power_cut(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		for (uint64_t cut = 1;; cut++) {
			char text[16] = "";
			size_t len;
			struct world w = open_world((struct sim_options){ .seed = seed * 1000 + cut });
			assert_int_equal(fs_put_file(w.fs, "c", "old", 3), 0);
			sim_set_power_cut(w.sim, sim_write_count(w.sim) + cut);
			int err = fs_put_file(w.fs, "c", "newer", 5);
			bool was_cut = sim_power_was_cut(w.sim);
			assert_int_equal(err, was_cut ? -GRANARY_EIO : 0);
			if (was_cut)
				sim_power_on(w.sim);
			assert_int_equal(fs_get_file(w.fs, "c", text, sizeof(text), &len), 0);
			bool is_new = len == 5 && memcmp(text, "newer", 5) == 0;
			assert_true(is_new || (was_cut && len == 3 && memcmp(text, "old", 3) == 0));
			close_world(&w);
			if (!was_cut)
				break;
			assert_true(cut < 100);
		}
	}
}

static void test_rename_stays_whole_and_in_order(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct world w = open_world((struct sim_options){ .seed = seed });
		struct fs_file *f = create(w.fs, "a");
		fs_close(&f);
		assert_int_equal(fs_mkdir(w.fs, "d"), 0);
		assert_int_equal(fs_rename(w.fs, "a", "d/b"), 0);
		if (seed % 2)
			assert_int_equal(fs_sync_dir(w.fs, "d"), 0);
		power_cycle(&w);
		int a = fs_exists(w.fs, "a"), b = fs_exists(w.fs, "d/b");
		assert_true(a + b <= 1);
		if (seed % 2)
			assert_int_equal(a, 0);
		close_world(&w);
	}
}

/* The n-th I/O fails, for every n and every kind of failure: calls fail or succeed, and the loop comes to its end. */
static void test_nth_failure_sweep_ends(void **state)
{
	static const int kinds[] = { -GRANARY_EIO, -GRANARY_ENOSPACE, SIM_FAIL_AGAIN, SIM_FAIL_SHORT };
	static _Alignas(512) char data[BIG], back[BIG];
	(void)state;
	memset(data, 'd', sizeof(data));
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]) * 2; k++) {
		for (uint64_t n = 1;; n++) {
			bool persist = k % 2 == 1;
			struct world w = open_world((struct sim_options){ .seed = n, .fail_at_io = n,
				.fail_error = kinds[k / 2], .fail_persist = persist });
			struct io_op op = new_op();
			struct fs_file *f = NULL;
			int64_t res = fs_open(w.fs, "a", FS_CREATE_NEW | FS_DIRECT, &f);
			for (uint64_t at = 0; res >= 0 && at < 8; at++) {
				io_write(w.io, &op, f, data, 4096, at * 4096);
				res = finish(w.io, &op);
			}
			if (res >= 0) {
				io_fdatasync(w.io, &op, f);
				res = finish(w.io, &op);
			}
			if (res >= 0) {
				io_read(w.io, &op, f, back, BIG, 0);
				res = finish(w.io, &op);
			}
			uint64_t fails = sim_fail_count(w.sim);
			bool retried = kinds[k / 2] > 0 && (!persist || kinds[k / 2] == SIM_FAIL_SHORT);
			if (fails == 0 || retried) {
				assert_int_equal(res, 8 * 4096);
				assert_memory_equal(back, data, 8 * 4096);
			} else {
				assert_true(res < 0);
			}
			fs_close(&f);
			close_world(&w);
			if (fails == 0)
				break;
			assert_true(n < 1000);
		}
	}
}

static void test_same_seed_gives_the_same_world(void **state)
{
	uint64_t at[2] = { 0, 0 };
	static char data[BIG];
	(void)state;
	for (int round = 0; round < 2; round++) {
		struct world w = open_world((struct sim_options){ .seed = 77 });
		struct io_op ops[16];
		struct fs_file *f = create(w.fs, "a");
		uint32_t target = completions + 16;
		for (uint32_t i = 0; i < 16; i++) {
			ops[i] = new_op();
			io_write(w.io, &ops[i], f, data, 4096, i * 4096);
		}
		while (completions < target) {
			io_submit_and_wait(w.io, UINT64_MAX);
			io_run(w.io, 256);
		}
		at[round] = sim_now_ns(w.sim);
		fs_close(&f);
		close_world(&w);
	}
	assert_true(at[0] == at[1]);
}

static void test_space_bit_flips_locks_and_clocks(void **state)
{
	char data[1024] = { 0 }, back[1024];
	uint64_t total, available;
	(void)state;
	struct world w = open_world((struct sim_options){ .seed = 5, .space_total = 1024 });
	struct fs_file *f = create(w.fs, "a"), *lock, *again;
	assert_int_equal(fs_write(f, data, 1024, 0), 0);
	assert_int_equal(fs_write(f, data, 1, 1024), -GRANARY_ENOSPACE);
	assert_int_equal(fs_space(w.fs, &total, &available), 0);
	assert_true(total == 1024 && available == 0);
	sim_set_space(w.sim, 0);
	sim_set_bit_flip(w.sim, 2);
	assert_int_equal(fs_read(f, back, 1024, 0), 1024);
	assert_memory_equal(back, data, 1024);
	assert_int_equal(fs_read(f, back, 1024, 0), 1024);
	assert_memory_not_equal(back, data, 1024);
	fs_close(&f);
	assert_int_equal(fs_lock(w.fs, "lock", &lock), 0);
	assert_int_equal(fs_lock(w.fs, "lock", &again), -GRANARY_ELOCKED);
	fs_close(&lock);
	assert_int_equal(fs_lock(w.fs, "lock", &lock), 0);
	fs_close(&lock);
	uint64_t mono = sim_now_ns(w.sim), wall = sim_wall_ns(w.sim);
	sim_clock_jump(w.sim, -1000);
	assert_true(sim_now_ns(w.sim) == mono && sim_wall_ns(w.sim) == wall - 1000);
	close_world(&w);
}

static void test_sockets_are_refused_and_timers_move_the_clock(void **state)
{
	(void)state;
	struct world w = open_world((struct sim_options){ .seed = 1 });
	struct io_op op = new_op();
	char buf[8];
	io_recv(w.io, &op, 0, buf, sizeof(buf));
	assert_int_equal(finish(w.io, &op), -GRANARY_EUNSUPPORTED);
	uint64_t then = io_now_ns(w.io) + UINT64_C(3600000000000);
	io_timer(w.io, &op, then);
	assert_int_equal(finish(w.io, &op), 0);
	assert_true(io_now_ns(w.io) >= then);
	close_world(&w);
}

struct count_task { struct task task; uint32_t ran; };
static void count_fn(struct task *t) { ((struct count_task *)(void *)t)->ran++; }

static void test_reactor_and_workers_turn_without_threads(void **state)
{
	(void)state;
	struct sim *sim = sim_new((struct sim_options){ .seed = 1 });
	struct io_options o = { .engine = IO_ENGINE_SIM, .sim = sim };
	struct reactor *r;
	struct workers *w;
	struct count_task a = { { count_fn, NULL }, 0 }, b = a, c = a;
	assert_int_equal(reactor_new(0, &o, &r), 0);
	assert_int_equal(workers_new(0, &w), 0);
	reactor_post(r, &a.task);
	reactor_defer(r, &b.task);
	workers_post(w, &c.task);
	assert_int_equal(reactor_turn(r, true), 2);
	assert_int_equal(workers_turn(w), 1);
	assert_true(a.ran == 1 && b.ran == 1 && c.ran == 1);
	assert_int_equal(reactor_turn(r, true), 0); /* nothing will ever happen: returns */
	workers_free(&w);
	reactor_free(&r);
	sim_free(&sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_created_name_may_vanish_without_a_directory_sync),
		cmocka_unit_test(test_synced_file_in_a_synced_directory_always_survives),
		cmocka_unit_test(test_unflushed_write_is_torn_at_sectors_and_keeps_what_lies_outside),
		cmocka_unit_test(test_failed_flush_loses_the_bytes_and_the_next_one_returns_ok),
		cmocka_unit_test(test_flush_does_not_cover_a_write_still_in_flight),
		cmocka_unit_test(test_put_file_is_old_or_new_at_every_power_cut),
		cmocka_unit_test(test_rename_stays_whole_and_in_order),
		cmocka_unit_test(test_nth_failure_sweep_ends),
		cmocka_unit_test(test_same_seed_gives_the_same_world),
		cmocka_unit_test(test_space_bit_flips_locks_and_clocks),
		cmocka_unit_test(test_sockets_are_refused_and_timers_move_the_clock),
		cmocka_unit_test(test_reactor_and_workers_turn_without_threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
