/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: work in the background slows down while reads suffer by it and only then. Method: a made-up machine, whose
 * reads take longer the more the work runs, on a clock of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/rand.h"
#include "tier/governor.h"

#define MS UINT64_C(1000000)

struct machine {
	struct governor *g;
	struct rng rng;
	uint64_t now, read_every_ns, read_ns; /* read_ns: without work */
	double slows;         /* how many times longer a read is that meets work */
	uint64_t worked, paused;
};

/* Time goes on, with or without work; reads come and are noted. */
static void pass(struct machine *m, uint64_t ns, bool works)
{
	for (uint64_t t = 0; t < ns; t += m->read_every_ns) {
		uint64_t took = m->read_ns + rng_below(&m->rng, m->read_ns / 4);

		if (m->read_every_ns > ns) break;
		took = works ? (uint64_t)((double)took * m->slows) : took;
		governor_note(m->g, (uint32_t)rng_below(&m->rng, 2), took);
	}
	m->now += ns;
	if (works)
		m->worked += ns;
	else
		m->paused += ns;
}

static void work(struct machine *m, uint64_t ns)
{
	uint64_t until = m->now + ns, pause;

	while (m->now < until) {
		pass(m, 5 * MS, true);
		while ((pause = governor_pause(m->g, m->now)) > 0) pass(m, pause, false);
	}
}

static void machine_begin(struct machine *m, uint64_t read_every_ns, double slows)
{
	*m = (struct machine){ .g = governor_new(), .now = 1000 * MS, .read_every_ns = read_every_ns, .read_ns = MS,
		.slows = slows };
	assert_non_null(m->g);
	rng_seed(&m->rng, 7);
}

static double share_of(struct machine *m, uint64_t ns)
{
	m->worked = m->paused = 0;
	work(m, ns);
	return (double)m->worked / (double)(m->worked + m->paused);
}

static void test_nobody_reads_nothing_pauses(void **state)
{
	struct machine m;

	(void)state;
	machine_begin(&m, 60000 * MS, 10);
	assert_true(share_of(&m, 5000 * MS) > 0.999);
	governor_free(&m.g);
}

static void test_reads_that_do_not_suffer_slow_nothing(void **state)
{
	struct governor_info info;
	struct machine m;

	(void)state;
	machine_begin(&m, MS, 1.05);
	assert_true(share_of(&m, 20000 * MS) > 0.9); /* but for the looks at how they fare without */
	governor_get_info(m.g, &info);
	assert_int_equal(info.share_percent, 100);
	assert_true(info.calm_p99_ns >= MS && info.busy_p99_ns < 2 * MS);
	governor_free(&m.g);
}

static void test_work_shrinks_while_reads_suffer_and_comes_back(void **state)
{
	struct governor_info info;
	struct machine m;

	(void)state;
	machine_begin(&m, MS, 6);
	(void)share_of(&m, 5000 * MS);
	assert_true(share_of(&m, 20000 * MS) < 0.25);
	governor_get_info(m.g, &info);
	assert_true(info.share_percent < 50);
	assert_true(m.worked > 0); /* it goes on, however bad */
	m.slows = 1;
	(void)share_of(&m, 20000 * MS);
	assert_true(share_of(&m, 10000 * MS) > 0.9);
	m.slows = 6;
	(void)share_of(&m, 5000 * MS);
	m.read_every_ns = 60000 * MS; /* they went home */
	(void)share_of(&m, 2000 * MS);
	assert_true(share_of(&m, 5000 * MS) > 0.999);
	governor_free(&m.g);
}

/* The machine became slower for everybody: that is not the work's fault. */
static void test_a_slower_machine_is_not_taken_for_harm(void **state)
{
	struct machine m;

	(void)state;
	machine_begin(&m, MS, 1);
	(void)share_of(&m, 10000 * MS);
	m.read_ns *= 8;
	(void)share_of(&m, 60000 * MS);
	assert_true(share_of(&m, 10000 * MS) > 0.8);
	governor_free(&m.g);
}

static void test_a_rest_says_how_reads_fare_without(void **state)
{
	struct governor_info info;
	struct machine m;

	(void)state;
	machine_begin(&m, MS, 6);
	(void)governor_pause(m.g, m.now);
	pass(&m, 3000 * MS, false);
	work(&m, 300 * MS);
	governor_get_info(m.g, &info);
	assert_true(info.calm_p99_ns >= MS && info.calm_p99_ns < 2 * MS);
	governor_free(&m.g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_reads_nothing_pauses),
		cmocka_unit_test(test_reads_that_do_not_suffer_slow_nothing),
		cmocka_unit_test(test_work_shrinks_while_reads_suffer_and_comes_back),
		cmocka_unit_test(test_a_slower_machine_is_not_taken_for_harm),
		cmocka_unit_test(test_a_rest_says_how_reads_fare_without),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
