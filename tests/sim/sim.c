/* SPDX-License-Identifier: Apache-2.0 */
/* sim.c -- the world: options, clocks, counters, and the decision what becomes of each I/O. */
#include "sim/sim.h"

#include <assert.h>
#include <stdlib.h>

#include "common/error.h"
#include "sim/sim_world.h"

#define START_NS UINT64_C(1000000000000)
#define START_WALL_NS INT64_C(1767225600000000000) /* 2026-01-01 */

void *sim_alloc(size_t len)
{
	void *p = calloc(1, len ? len : 1);
	if (!p)
		abort();
	return p;
}

struct sim *sim_new(struct sim_options options)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	if (!sim)
		return NULL;
	sim->options = options;
	sim->now_ns = START_NS;
	sim->wall_offset_ns = START_WALL_NS;
	rng_seed(&sim->rng, options.seed);
	list_init(&sim->name_ops);
	sim->top = sim_node_new(sim, true);
	io_sim_engine_register(&sim_io_engine);
	return sim;
}

void sim_free(struct sim **simp)
{
	struct sim *sim = *simp;
	*simp = NULL;
	if (!sim)
		return;
	assert(sim->events_count == 0); /* every io of this world was freed */
	sim_disk_free(sim);
	free(sim->events);
	free(sim);
}

void sim_power_cut(struct sim *sim) { sim->power_off = sim->was_cut = true; }
bool sim_power_was_cut(const struct sim *sim) { return sim->was_cut; }

void sim_power_on(struct sim *sim)
{
	sim->epoch++;
	sim_disk_survive(sim);
	sim->power_off = sim->was_cut = false;
}

void sim_set_power_cut(struct sim *sim, uint64_t at_write) { sim->options.power_cut_at_write = at_write; }
void sim_set_bit_flip(struct sim *sim, uint32_t every) { sim->options.bit_flip_every = every; }
void sim_set_space(struct sim *sim, uint64_t total) { sim->options.space_total = total; }

void sim_set_fail(struct sim *sim, uint64_t at_io, int error, unsigned classes, bool persist)
{
	sim->options.fail_at_io = at_io;
	sim->options.fail_error = error;
	sim->options.fail_classes = classes;
	sim->options.fail_persist = persist;
	sim->fail_seen = 0;
}

uint64_t sim_io_count(const struct sim *sim) { return sim->io_count; }
uint64_t sim_write_count(const struct sim *sim) { return sim->write_count; }
uint64_t sim_fail_count(const struct sim *sim) { return sim->fails; }
uint64_t sim_now_ns(const struct sim *sim) { return sim->now_ns; }
uint64_t sim_wall_ns(const struct sim *sim) { return sim->now_ns + (uint64_t)sim->wall_offset_ns; }
void sim_advance(struct sim *sim, uint64_t ns) { sim->now_ns += ns; }
void sim_clock_jump(struct sim *sim, int64_t ns) { sim->wall_offset_ns += ns; }
uint64_t sim_random(struct sim *sim, uint64_t below) { return rng_below(&sim->rng, below); }

static int begin_fail(struct sim *sim, enum sim_class klass)
{
	const struct sim_options *o = &sim->options;
	if (o->fail_at_io == 0 || (o->fail_classes != 0 && (o->fail_classes & (unsigned)klass) == 0))
		return 0;
	sim->fail_seen++;
	if (sim->fail_seen < o->fail_at_io || (sim->fail_seen > o->fail_at_io && !o->fail_persist))
		return 0;
	sim->fails++;
	return o->fail_error ? o->fail_error : -GRANARY_EIO;
}

int sim_begin(struct sim *sim, enum sim_class klass, bool *cut)
{
	*cut = false;
	sim->io_count++;
	if (sim->power_off)
		return -GRANARY_EIO;
	if (klass != SIM_READS && ++sim->write_count == sim->options.power_cut_at_write) {
		*cut = true;
		sim_power_cut(sim);
		return -GRANARY_EIO;
	}
	return begin_fail(sim, klass);
}

bool sim_file_dead(const struct sim_file *f) { return f->sim->power_off || f->epoch != f->sim->epoch; }
