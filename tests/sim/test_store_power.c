/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_power.c -- contract G for the whole store: the power goes at write 1, 2, 3, ... of a workload of several
 * clients, of sealing and compaction, and then again in the recovery. See store_sim.h for what must hold.
 *
 * Run n cuts workload 1 at write n + 1 until it ends uncut; the runs after that take other workloads and cut them
 * anywhere. GRANARY_SIM_SEED=n repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>

#include "common/rand.h"
#include "sim/store_sim.h"

enum { RUNS = 1000, RUNS_LONG = 20000, OPS_A_LANE = 10 };

struct sum {
	uint64_t runs, cuts, dead, whole, answered, unanswered, sealed, compacted, removed, writes;
};

static void one(void *arg, uint64_t n)
{
	struct sum *s = arg;
	struct store_run r = { .ops = OPS_A_LANE, .clock_jumps = n % 3 == 0 };
	struct rng rng;

	rng_seed(&rng, n);
	if (n < 300) {
		r.seed = 1;
		r.cut = n + 1;
		r.clock_jumps = false;
	} else {
		r.seed = 2 + n;
		r.cut = 1 + rng_below(&rng, 280);
	}
	if (n % 2 == 1) r.cut_again = 1 + rng_below(&rng, 60);
	store_run(&r);
	s->runs++;
	s->cuts += r.hit;
	s->dead += r.dead;
	s->whole += !r.hit;
	s->answered += r.answered;
	s->unanswered += r.unanswered;
	s->sealed += r.sealed;
	s->compacted += r.compacted;
	s->removed += r.removed;
	if (!r.hit) s->writes = r.writes;
}

static void test_what_was_acknowledged_survives_a_power_cut_at_any_write(void **state)
{
	struct sum s = { .runs = 0 };

	(void)state;
	store_seeds(RUNS, RUNS_LONG, one, &s);
	printf("  %" PRIu64 " runs, %" PRIu64 " cut, %" PRIu64 " not (%" PRIu64 " writes); %" PRIu64
	       " answered, %" PRIu64 " unanswered; packs: %" PRIu64 " sealed, %" PRIu64
	       " compacted, %" PRIu64 " removed\n",
		s.runs, s.cuts, s.whole, s.writes, s.answered, s.unanswered, s.sealed, s.compacted,
		s.removed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(
			test_what_was_acknowledged_survives_a_power_cut_at_any_write,
			store_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
