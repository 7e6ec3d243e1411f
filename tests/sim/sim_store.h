/* SPDX-License-Identifier: Apache-2.0 */
/* sim_store.h -- one store on a simulated disk and clock and one peer, driven by hand on one thread. A test file
 * includes this once. */
#pragma once

#include "unit/harness_store.h"

#include "io/reactor.h"
#include "meta/kv.h"
#include "sim/sim_clock.h"

enum { TURNS_MAX = 200000 };

static struct sim *sim;
static struct world world;
static struct peer peer;

/* The metadata could not be synced: the process would be gone. */
static void sim_store_fatal(void *arg, const char *what)
{
	(void)arg;
	if (!sim_power_was_cut(sim)) fail_msg("fatal: %s", what);
}

static inline void up(void)
{
	struct store_options o;
	char why[256] = "";

	assert_int_equal(fs_new_sim(sim, "/data", &world.fs), 0);
	o = world_options(world.fs);
	o.simulated = true;
	o.fatal = sim_store_fatal;
	o.io = (struct io_options){ .engine = IO_ENGINE_SIM, .sim = sim, .depth = 64 };
	if (store_open(&o, &world.store, why, sizeof(why)) < 0) fail_msg("store_open: %s", why);
}

static inline void down(void)
{
	store_close(&world.store);
	fs_free(&world.fs);
}

static inline void sim_store_new(void)
{
	sim = sim_new((struct sim_options){ .seed = 1 });
	sim_clock_use(sim);
	up();
	key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&peer, &world, "root", 0);
}

static inline void sim_store_free(void)
{
	peer_release(&peer);
	down();
	sim_clock_use(NULL);
	sim_free(&sim);
}

static inline struct call *call_now(uint8_t op, uint16_t flags, struct msg *m, const char *data)
{
	struct call *c = call_start(&peer, op, flags, &m->w, data, strlen(data));
	struct store *s = world.store;

	free(m->buf);
	for (uint32_t i = 0; !c->done; i++) {
		assert_true(i < TURNS_MAX);
		if (workers_turn(s->workers) + kv_turn(s->kv) + reactor_turn(s->reactors[0], false) == 0)
			reactor_turn(s->reactors[0], true);
	}
	return c;
}

static inline void bucket_make(uint64_t sequence)
{
	struct msg m = msg_new("data");
	struct call *c;

	msg_sequence(&m, sequence, 0, 0);
	c = call_now(OP_BUCKET_CREATE, 0, &m, "");
	assert_int_equal(call_status(c), 0);
	call_free(c);
}
