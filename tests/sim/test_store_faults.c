/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_faults.c -- contracts A, F and H for the whole store: I/O number 1, 2, 3, ... of a workload of several
 * clients fails, once or from then on. Nothing is acknowledged that is not there, nothing hangs, what was acknowledged
 * is readable while the fault lasts and after a power cut that follows; a metadata sync that fails ends the process.
 *
 * Run n takes one of the kinds below and the next place of it; a kind starts again with another workload when its
 * places are used up. GRANARY_SIM_SEED=n repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>

#include "common/error.h"
#include "common/rand.h"
#include "sim/store_sim.h"

enum { RUNS = 1000, RUNS_LONG = 20000, OPS_A_LANE = 8 };

static const struct kind {
	const char *name;
	int error;
	unsigned classes;
	bool persist;
	uint64_t
		places; /* about as many as there are of these I/Os in a workload; 0: the disk fills */
} kinds[] = {
	{ "EIO once", -GRANARY_EIO, 0, false, 250 },
	{ "EIO of a flush once", -GRANARY_EIO, SIM_FLUSHES, false, 80 },
	{ "EIO of a write once", -GRANARY_EIO, SIM_WRITES, false, 120 },
	{ "EIO of a read once", -GRANARY_EIO, SIM_READS, false, 60 },
	{ "EIO of a change of names once", -GRANARY_EIO, SIM_NAMES, false, 30 },
	{ "ENOSPC once", -GRANARY_ENOSPACE, SIM_WRITES | SIM_NAMES, false, 140 },
	{ "short once", SIM_FAIL_SHORT, SIM_READS | SIM_WRITES, false, 180 },
	{ "EAGAIN once", SIM_FAIL_AGAIN, 0, false, 250 },
	{ "EIO from then on", -GRANARY_EIO, 0, true, 250 },
	{ "EIO of flushes from then on", -GRANARY_EIO, SIM_FLUSHES, true, 80 },
	{ "EIO of reads from then on", -GRANARY_EIO, SIM_READS, true, 60 },
	{ "ENOSPC from then on", -GRANARY_ENOSPACE, SIM_WRITES | SIM_NAMES, true, 140 },
	{ "a full disk", 0, 0, false, 0 },
	{ "short from then on", SIM_FAIL_SHORT, SIM_READS | SIM_WRITES, true, 180 },
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

struct sum {
	uint64_t runs, hit, dead, answered, refused, unanswered;
};

static void one(void *arg, uint64_t n)
{
	struct sum *sums = arg, *s = &sums[n % KINDS];
	const struct kind *k = &kinds[n % KINDS];
	uint64_t turn = n / KINDS;
	struct rng rng;
	struct store_run r = { .ops = OPS_A_LANE,
		.fail_error = k->error,
		.fail_classes = k->classes,
		.fail_persist = k->persist };

	rng_seed(&rng, n);
	r.seed = 1 + turn / 40;
	r.fills = k->places == 0;
	if (r.fills)
		r.seed = 1 + turn;
	else
		r.fail_at = 1 + (turn * 37 + turn / k->places) %
					k->places; /* each place once before one comes again */
	r.cut_again = turn % 5 == 4 ? 1 + rng_below(&rng, 60) : 0;
	store_run(&r);
	s->runs++;
	s->hit += r.hit;
	s->dead += r.dead;
	s->answered += r.answered;
	s->refused += r.refused;
	s->unanswered += r.unanswered;
}

static void test_nothing_is_acknowledged_falsely_whichever_io_fails(void **state)
{
	struct sum sums[KINDS] = { { .runs = 0 } };

	(void)state;
	store_seeds(RUNS, RUNS_LONG, one, sums);
	for (uint32_t i = 0; i < KINDS; i++)
		printf("  %-30s %" PRIu64 " runs, %" PRIu64 " hit, %" PRIu64
		       " ended by it; %" PRIu64 " answered, %" PRIu64 " refused, %" PRIu64
		       " unanswered\n",
			kinds[i].name, sums[i].runs, sums[i].hit, sums[i].dead, sums[i].answered,
			sums[i].refused, sums[i].unanswered);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(
			test_nothing_is_acknowledged_falsely_whichever_io_fails, store_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
