/* SPDX-License-Identifier: Apache-2.0 */
/* store_sim_opens.c -- each client of a run has something of its own open now and then: it has its bytes until it is
 * closed, also when the client deletes, replaces or renames it meanwhile, and after a restart when it is announced. */
#include "sim/store_sim_priv.h"

#include "meta/opens.h"
#include "req/orphans.h"

enum { SETTLE_TURNS = 400 };

static uint64_t next_open = 1;

static const char *leaf_of(const struct tree_key *k)
{
	const char *slash = strrchr(k->key, '/');

	return slash != NULL ? slash + 1 : k->key;
}

static void open_one(struct sim_world *w, struct client *c)
{
	struct tree_key *k;
	struct msg m;
	struct call *call;
	struct cur a;

	if (c->lane.tree.count == 0) return;
	k = &c->lane.tree.keys[rng_below(&w->rng, c->lane.tree.count)];
	if (k->seed == 0 || k->special) return;
	m = msg_new("data");
	c->held = (struct held){ .handle = next_open++, .k = *k };
	wr_u64(&m.w, c->held.handle);
	wr_u8(&m.w, OPEN_FOR_READ);
	msg_key(&m, k->key);
	call = run_call(w, &c->peer, OP_OPEN, &m);
	if (run_is_off(w)) {
		call_free(call);
		return;
	}
	c->held.is_open = call_status(call) == 0;
	if (!c->held.is_open && !run_had_faults(w) && !w->was_full && call_status(call) != -GRANARY_EBUSY)
		fail_msg("'%s' cannot be opened: %s", k->key, call_text(call));
	a = cur_of(call->first->meta, call->first->meta_len);
	if (c->held.is_open) {
		(void)cur_bytes(&a, 8 + 2 + 1 + 1);
		c->held.k.id = cur_u64(&a);
		(void)cur_u64(&a);
		CHECK(cur_u64(&a) == k->size);
		(void)cur_u64(&a);
		c->held.k.dir = cur_u64(&a);
	}
	call_free(call);
}

static void close_one(struct sim_world *w, struct client *c)
{
	struct msg m = { .buf = malloc(64) };

	m.w = wr_of(m.buf, 64);
	wr_u32(&m.w, 1);
	wr_u64(&m.w, c->held.handle);
	c->held.is_open = false;
	call_free(run_call(w, &c->peer, OP_CLOSE, &m));
}

void run_open_or_close(struct sim_world *w, struct client *c)
{
	if (!c->held.is_open)
		open_one(w, c);
	else if (rng_below(&w->rng, 3) == 0)
		close_one(w, c);
	else
		run_check_open(w, c);
}

void run_check_open(struct sim_world *w, struct client *c)
{
	const struct tree_key *k = &c->held.k;
	struct msg m = read_msg("", 0, 1);
	struct read_result r = { .err = 0 };
	uint8_t *want = malloc(k->size + 8);
	struct call *call;

	wr_u8(&m.w, 0);
	msg_id(&m, k->id, k->dir, leaf_of(k));
	call = run_call(w, &c->peer, OP_READ, &m);
	if (call_status(call) == 0) read_results(call, &r, 1);
	if ((call_status(call) < 0 || r.err < 0) && !run_is_off(w) && !run_had_faults(w))
		fail_msg("'%s', open, cannot be read: %s", k->key, error_text(r.err));
	if (call_status(call) == 0 && r.err == 0) {
		fill(want, k->size, k->seed);
		CHECK(r.len == k->size && memcmp(r.data, want, k->size) == 0);
	}
	free(want);
	read_free(&r, 1);
	call_free(call);
}

/* The clock stands: it would go on to the end of the grace. */
static void turn_still(struct sim_world *w)
{
	workers_turn(w->w.store->workers);
	kv_turn(w->w.store->kv);
	reactor_turn(w->w.store->reactors[0], false);
}

void run_announce(struct sim_world *w)
{
	for (uint32_t i = 0; i < LANES; i++) {
		struct client *c = &w->clients[i];
		struct msg m = { .buf = malloc(256) };
		struct call *call;
		struct cur a;

		m.w = wr_of(m.buf, 256);
		wr_u8(&m.w, ANNOUNCE_LAST);
		wr_u32(&m.w, c->held.is_open);
		if (c->held.is_open) {
			wr_u64(&m.w, c->held.handle);
			wr_u8(&m.w, OPEN_FOR_READ);
			msg_id(&m, c->held.k.id, c->held.k.dir, leaf_of(&c->held.k));
		}
		wr_u32(&m.w, 0);
		call = call_start(&c->peer, OP_ANNOUNCE, 0, &m.w, NULL, 0);
		free(m.buf);
		for (int n = 0; !call->done; n++) {
			CHECK(n < SETTLE_TURNS);
			turn_still(w);
		}
		assert_int_equal(call_status(call), 0);
		a = cur_of(call->first->meta, call->first->meta_len);
		(void)cur_u64(&a);
		CHECK(cur_u32(&a) == c->held.is_open);
		if (c->held.is_open) {
			int err = -(int)cur_u16(&a);

			if (err < 0) fail_msg("'%s', open, is lost: %s", c->held.k.key, error_text(err));
		}
		call_free(call);
	}
	run_settle_opens(w);
	CHECK(!opens_is_grace(w->w.store->opens));
	for (uint32_t i = 0; i < LANES; i++)
		if (w->clients[i].held.is_open) run_check_open(w, &w->clients[i]);
}

void run_close_all(struct sim_world *w)
{
	for (uint32_t i = 0; i < LANES; i++)
		if (w->clients[i].held.is_open) close_one(w, &w->clients[i]);
	run_settle_opens(w);
}

void run_settle_opens(struct sim_world *w)
{
	orphans_are_dead(w->w.store);
	for (int i = 0; i < SETTLE_TURNS; i++) turn_still(w);
}
