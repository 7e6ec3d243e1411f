/* SPDX-License-Identifier: Apache-2.0 */
/* store_sim.c -- see store_sim.h. Everything is one thread: turns of the reactor, the workers and
 * the committer are taken in seeded order, so a seed decides all of a run but secrets. */
#include "sim/store_sim_priv.h"

#include <inttypes.h>
#include <signal.h>

#include "effort.h"
#include "io/reactor.h"
#include "jobs/jobs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "pack/writer.h"
#include "sim/sim_clock.h"
#include "sim/sim_log.h"

enum { TURNS_MAX = 200000, DAYS_30_S = 30 * 24 * 3600 };
static const uint64_t SECOND = UINT64_C(1000000000);
static const int64_t YEAR_NS = INT64_C(365) * 24 * 3600 * INT64_C(1000000000);

static struct store_run current; /* seed 0: none */

/* ---- what to print when something is wrong ---- */

void store_run_print(const struct store_run *r)
{
	fprintf(stderr,
		"  workload seed %" PRIu64 " ops %u cut %" PRIu64 " again %" PRIu64
		" fail_at %" PRIu64 " error %d classes %u persist %d jumps %d\n",
		r->seed, r->ops, r->cut, r->cut_again, r->fail_at, r->fail_error, r->fail_classes,
		r->fail_persist, r->clock_jumps);
}

/* ---- up, down, turns ---- */

static void on_fatal(void *arg, const char *what)
{
	struct sim_world *w = arg;

	(void)what;
	w->is_dead = true;
}

bool run_is_off(const struct sim_world *w)
{
	return w->is_dead || sim_power_was_cut(w->sim);
}

static int world_up(struct sim_world *w)
{
	struct store_options o;
	char why[256] = "";
	int err;

	w->is_dead = false;
	assert_int_equal(fs_new_sim(w->sim, "/data", &w->w.fs), 0);
	o = world_options(w->w.fs);
	o.simulated = true;
	o.io = (struct io_options){ .engine = IO_ENGINE_SIM, .sim = w->sim, .depth = 64 };
	o.cache_budget = o.transient_budget = 8 * MIB;
	o.loc_budget = 4 * MIB;
	o.staging_budget = 16 * MIB;
	o.pack_size = 512 * 1024; /* less than the product takes: many packs out of little data */
	o.fatal = on_fatal;
	o.fatal_arg = w;
	err = store_open(&o, &w->w.store, why, sizeof(why));
	if (err < 0) {
		fs_free(&w->w.fs);
		if (!run_is_off(w)) fail_msg("store_open: %s", why);
	}
	return err;
}

static uint32_t turn(struct sim_world *w)
{
	struct store *s = w->w.store;
	uint32_t ran = 0;

	if (rng_below(&w->rng, 2) == 0) ran += workers_turn(s->workers);
	if (rng_below(&w->rng, 4) == 0) /* so that several share a group */
		ran += kv_turn(s->kv);
	ran += reactor_turn(s->reactors[0], false);
	if (ran == 0) ran += workers_turn(s->workers);
	if (ran == 0) ran += kv_turn(s->kv);
	if (ran == 0) ran += reactor_turn(s->reactors[0], true);
	return ran;
}

void run_pump(struct sim_world *w, const bool *done)
{
	for (uint32_t i = 0; !*done; i++) {
		if (i >= TURNS_MAX) fail_msg("a request hangs");
		turn(w);
	}
	turn(w);
}

static void world_down(struct sim_world *w)
{
	if (w->w.store != NULL) store_close(&w->w.store);
	fs_free(&w->w.fs);
}

static void clients_up(struct sim_world *w)
{
	for (uint32_t i = 0; i < LANES; i++) {
		struct client *c = &w->clients[i];

		peer_init(&c->peer, &w->w, "root", 0);
		if (c->lane.session != 0) {
			session_detach(w->w.store->sessions, &c->peer.peer.session);
			peer_attach(&c->peer, c->lane.session);
		}
		c->lane.session = session_id(c->peer.peer.session);
	}
}

static void clients_down(struct sim_world *w)
{
	for (uint32_t i = 0; i < LANES; i++) peer_release(&w->clients[i].peer);
}

bool run_had_faults(const struct sim_world *w)
{
	return (w->run->fail_at > 0 && sim_fail_count(w->sim) > 0) || w->is_full;
}

struct call *run_call(struct sim_world *w, struct peer *p, uint8_t op, struct msg *m)
{
	struct call *c = call_start(p, op, 0, &m->w, NULL, 0);

	free(m->buf);
	run_pump(w, &c->done);
	return c;
}

/* ---- the workload ---- */

static void client_begin(struct sim_world *w, struct client *c)
{
	struct op *op = &c->lane.op;

	(void)w;
	lane_next(&c->lane);
	c->busy = true;
	c->answered = false;
	c->putting = op->upload == 0;
	c->call_count = 0;
	if (c->putting) c->calls[c->call_count++] = op_start(&c->peer, op, 0);
	for (uint32_t i = 0; i < op->pieces; i++)
		c->calls[c->call_count++] = op_start_piece(&c->peer, op, i);
}

static bool calls_done(const struct client *c)
{
	for (uint32_t i = 0; i < c->call_count; i++)
		if (!c->calls[i]->done) return false;
	return true;
}

static void calls_free(struct client *c)
{
	for (uint32_t i = 0; i < c->call_count; i++) call_free(c->calls[i]);
	c->call_count = 0;
}

static bool is_traced(void)
{
	const char *text =
		getenv("GRANARY_SIM_TRACE"); /* every answer, and what the bucket counts then */

	return text != NULL && text[0] != '\0';
}

static void trace(struct sim_world *w, const struct client *c)
{
	struct ns_bucket b;
	uint64_t bytes = 0, objects = 0, keys = 0;

	for (uint32_t i = 0; i < LANES; i++) keys += w->clients[i].lane.tree.count;
	op_print(&c->lane, &c->lane.op);
	if (ns_bucket_find(w->w.store->ns, slice_str("data"), &b) == 0)
		(void)ns_bucket_usage(w->w.store->ns, b.id, &bytes, &objects);
	fprintf(stderr,
		"  write %" PRIu64 ": %" PRIu64 " objects of %" PRIu64
		" bytes; the model has %" PRIu64 " without this and those in flight\n",
		sim_write_count(w->sim), objects, bytes, keys);
}

/* The answer of c's mutation stands in its op. */
static void client_answered(struct sim_world *w, struct client *c)
{
	struct op *op = &c->lane.op;
	/* Others may remove the shared directory, empty, and make it again while an upload to it goes on. */
	bool is_stale = op->upload != 0 && op->got == 0 && op->e[0].got == -GRANARY_ESTALE &&
			key_begins(op->e[0].key, "shared/");
	bool may_fail = run_had_faults(w) || w->was_full || is_stale;

	if (is_traced()) trace(w, c);
	if (run_is_off(w) && !op_is_as_expected(op)) {
		c->unknown = true;
		return;
	}
	if (!op_is_as_expected(op)) {
		if (!may_fail) {
			op_print(&c->lane, op);
			fail_msg("an answer that the model does not expect");
		}
		w->run->refused++;
		if (op->got < 0)
			op->after = c->lane.tree;
		else
			op_reduce(&c->lane, op);
		c->lane.tree = op->after;
		return;
	}
	c->lane.tree = op->after;
	c->answered = true;
	w->run->answered++;
}

/* Nobody hears what a process says after its metadata could not be synced: it is gone. */
static void client_step(struct sim_world *w, struct client *c)
{
	struct op *op = &c->lane.op;
	int err = 0;

	if (!c->busy || !calls_done(c)) return;
	if (c->putting && !w->is_dead) op_take(op, c->calls[0]);
	for (uint32_t i = 0; !c->putting && i < c->call_count; i++)
		err = err < 0 ? err : call_status(c->calls[i]);
	calls_free(c);
	if (!c->putting && !run_is_off(w) && err == 0) {
		c->putting = true;
		c->calls[c->call_count++] = op_start(&c->peer, op, 0);
		return;
	}
	c->busy = false;
	if (!c->putting) { /* the object was never named */
		CHECK(run_is_off(w) || run_had_faults(w) || w->was_full);
		op->wire = 0;
		op->after = c->lane.tree;
	} else if (w->is_dead) {
		c->unknown = true;
	} else if (op->got ==
		   -GRANARY_EBUSY) { /* nothing was changed: once more, as the library does */
		c->busy = true;
		c->calls[c->call_count++] = op_start(&c->peer, op, FRAME_RESENT);
	} else {
		client_answered(w, c);
	}
}

static bool any_busy(const struct sim_world *w)
{
	for (uint32_t i = 0; i < LANES; i++)
		if (w->clients[i].busy) return true;
	return false;
}

void run_jobs(struct sim_world *w)
{
	struct jobs_stats before, after;
	int err;

	jobs_get_stats(w->w.store->jobs, &before);
	err = jobs_pass(w->w.store->jobs);
	jobs_get_stats(w->w.store->jobs, &after);
	w->run->sealed += after.sealed - before.sealed;
	w->run->compacted += after.compacted - before.compacted;
	w->run->removed += after.removed_packs - before.removed_packs;
	/* Busy: a record's object is being renamed just now; the next pass takes it. */
	if (err < 0 && !run_is_off(w) && !run_had_faults(w) && !w->was_full &&
		!(err == -GRANARY_EBUSY && any_busy(w)))
		fail_msg("a job pass fails: %s", error_text(err));
}

/* Some name of a lane that changes nothing just now has the bytes that the model says; with a fault
 * it may be refused. */
static void read_some(struct sim_world *w)
{
	struct client *c = &w->clients[rng_below(&w->rng, LANES)];
	const struct tree_key *k;

	if (c->busy || c->unknown || c->lane.tree.count == 0) return;
	k = &c->lane.tree.keys[rng_below(&w->rng, c->lane.tree.count)];
	if (k->seed != 0 && !k->special)
		run_check_bytes(w, k, k->version, rng_below(&w->rng, 3) == 0 ? READ_VERIFY : 0);
}

static uint64_t space_used(struct sim_world *w)
{
	uint64_t total = 0, available = 0;

	assert_int_equal(fs_space(w->w.fs, &total, &available), 0);
	return total - available;
}

/* The disk is full for the second quarter of the mutations. */
static void fill_disk(struct sim_world *w, uint32_t left)
{
	uint32_t all = LANES * w->run->ops;

	if (!w->run->fills) return;
	if (left == all * 3 / 4 && !w->is_full) {
		w->is_full = w->was_full = true;
		sim_set_space(w->sim, space_used(w) + rng_below(&w->rng, 64 * 1024));
	} else if (left <= all / 2 && w->is_full) {
		w->is_full = false;
		sim_set_space(w->sim, 0);
		w->refused_full = w->run->refused;
	}
}

/* Things that happen now and then beside the requests. */
static void happen(struct sim_world *w)
{
	struct client *c = &w->clients[rng_below(&w->rng, LANES)];

	if (rng_below(&w->rng, 6) == 0) read_some(w);
	if (rng_below(&w->rng, 10) == 0 && !c->busy && !c->unknown && !run_is_off(w)) run_open_or_close(w, c);
	switch (rng_below(&w->rng, 60)) {
	case 0:
	case 1: run_jobs(w); break;
	case 2: writers_rotate(w->w.store->writers, true); break;
	case 3: sim_advance(w->sim, rng_below(&w->rng, 30 * SECOND)); break;
	case 4:
		if (w->run->clock_jumps)
			sim_clock_jump(w->sim, rng_below(&w->rng, 2) == 0 ? YEAR_NS : -YEAR_NS);
		break;
	default: break;
	}
}

/* Lets what is under way end, whatever becomes of it. */
static void settle(struct sim_world *w)
{
	for (uint32_t i = 0; any_busy(w); i++) {
		if (i >= TURNS_MAX) fail_msg("a request hangs");
		turn(w);
		for (uint32_t k = 0; k < LANES; k++) client_step(w, &w->clients[k]);
	}
}

/* Room again, and what was in flight then is answered: everything works by itself. */
static void after_full(struct sim_world *w)
{
	w->was_full = false;
	for (uint32_t i = 0; i < LANES; i++) {
		client_begin(w, &w->clients[i]);
		settle(w);
	}
}

static void workload(struct sim_world *w)
{
	uint32_t left = LANES * w->run->ops;

	for (uint32_t i = 0; i < LANES; i++) w->clients[i].left = w->run->ops;
	while (left > 0 && !run_is_off(w)) {
		struct client *c = &w->clients[rng_below(&w->rng, LANES)];

		if (!c->busy && c->left > 0) {
			fill_disk(w, left);
			client_begin(w, c);
			c->left--;
			left--;
		}
		for (uint64_t n = rng_below(&w->rng, 12); n > 0; n--) turn(w);
		for (uint32_t k = 0; k < LANES; k++) client_step(w, &w->clients[k]);
		happen(w);
	}
	settle(w);
	if (!run_is_off(w)) run_jobs(w);
	if (w->was_full && !run_is_off(w)) after_full(w);
}

/* ---- the same sequence again ---- */

/* Whether the lane's state is certain now. */
static bool resend(struct sim_world *w, struct client *c)
{
	struct op *op = &c->lane.op, was = *op;
	struct call *call;

	if (op->wire == 0 || (!c->unknown && !c->answered)) return true;
	for (int tries = 0; tries < 8; tries++) { /* busy: nothing was changed, once more */
		call = op_start(&c->peer, op, FRAME_RESENT);
		run_pump(w, &call->done);
		op_take(op, call);
		call_free(call);
		if (op->got != -GRANARY_EBUSY) break;
	}
	if (op->upload != 0 && op->got == 0 && op->e[0].got == -GRANARY_ESTALE) {
		/* its bytes went with the session's memory: it did not happen */
		CHECK(op->e[0].expect < 0 || (c->unknown && c->was_before));
		return true;
	}
	if (c->unknown && (w->run->fail_at > 0 || w->run->fills) && op->wire == OP_PUT &&
		op->got == 0)
		return false; /* entries may have failed for good before the commit: lane_settle() judges */
	if (is_traced()) trace(w, c);
	if (!op_is_as_expected(op)) {
		op_print(&c->lane, op);
		fail_msg("a repeated mutation is answered otherwise");
	}
	for (uint32_t i = 0; c->answered && op->wire == OP_PUT && i < op->count; i++)
		CHECK(op->e[i].got != 0 || op->e[i].got_version == was.e[i].got_version);
	if (c->answered && op->wire == OP_MKDIR && op->got == 0) CHECK(op->got_id == was.got_id);
	if (c->unknown) c->lane.tree = op->after;
	return true;
}

static void resend_all(struct sim_world *w)
{
	for (uint32_t i = 0; i < LANES; i++)
		if (resend(w, &w->clients[i])) w->clients[i].unknown = false;
}

/* ---- a run ---- */

static void part_put(struct sim_world *w, struct client *c, struct lane_upload *u, uint32_t part, const uint8_t *data)
{
	struct msg m = msg_new("data");
	struct call *call;

	msg_sequence(&m, ++c->lane.sequence, 0, 0);
	wr_u32(&m.w, 1);
	msg_name(&m, u->id, part == 0 ? "00001" : "00002");
	msg_put_rest(&m, PUT_ANY, 0, 0, data, u->sizes[part]);
	call = call_start(&c->peer, OP_PUT, 0, &m.w, data, u->sizes[part]);
	free(m.buf);
	run_pump(w, &call->done);
	assert_int_equal(put_result_of(call, 0).err, 0);
	call_free(call);
}

/* An upload with two parts, for the lane to end one day. */
static void upload_begin(struct sim_world *w, struct client *c)
{
	struct lane_upload *u = &c->lane.parted[c->lane.parted_count++];
	uint8_t *data = malloc(2 * PART_SIZE_MAX + 8);
	struct msg m = msg_new("data");
	struct call *call;
	struct cur a;

	msg_sequence(&m, ++c->lane.sequence, 0, 0);
	msg_key(&m, "in-parts");
	wr_u32(&m.w, 0644);
	wr_u64(&m.w, 0);
	wr_u16(&m.w, 0);
	call = run_call(w, &c->peer, OP_UPLOAD_CREATE, &m);
	assert_int_equal(call_status(call), 0);
	a = cur_of(call->first->meta, call->first->meta_len);
	u->id = cur_u64(&a);
	call_free(call);
	u->seed = rng_next(&c->lane.rng) | 1;
	for (uint32_t i = 0; i < 2; i++) u->sizes[i] = (uint32_t)rng_below(&c->lane.rng, PART_SIZE_MAX);
	fill(data, u->sizes[0] + u->sizes[1], u->seed);
	part_put(w, c, u, 0, data);
	part_put(w, c, u, 1, data + u->sizes[0]);
	free(data);
}

static void first_start(struct sim_world *w)
{
	struct ns_access_key *key = calloc(1, sizeof(*key));
	struct peer *p = &w->clients[0].peer;
	struct msg m = msg_new("data");
	struct call *c;

	assert_int_equal(world_up(w), 0);
	snprintf(key->id, sizeof(key->id), "root");
	key->grant_count = 1;
	key->grants[0].actions = ALL_ACTIONS;
	key->expires_ns = store_clock_now(w->w.store->clock) + DAYS_30_S * SECOND;
	assert_int_equal(ns_key_create(w->w.store->ns, key), 0);
	free(key);
	clients_up(w);
	msg_sequence(&m, ++w->clients[0].lane.sequence, 0, 0);
	c = run_call(w, p, OP_BUCKET_CREATE, &m);
	assert_int_equal(call_status(c), 0);
	call_free(c);
	for (uint32_t i = 0; i < LANES; i++)
		while (w->clients[i].lane.parted_count < LANE_UPLOADS) upload_begin(w, &w->clients[i]);
}

/* Power is back; the recovery may be cut too. */
static void restart(struct sim_world *w)
{
	bool again = w->run->cut_again > 0;

	for (int i = 0;; i++) {
		int err;

		sim_power_cut(w->sim);
		sim_power_on(w->sim);
		sim_clock_reboot();
		sim_set_fail(w->sim, 0, 0, 0, false);
		sim_set_power_cut(
			w->sim, again && i == 0 ? sim_write_count(w->sim) + w->run->cut_again : 0);
		if (w->run->clock_jumps) sim_clock_jump(w->sim, i % 2 == 0 ? YEAR_NS : -YEAR_NS);
		err = world_up(w);
		if (err == 0 && again && i == 0)
			run_jobs(w); /* sealing and compaction are cut as well */
		if (err == 0 && !run_is_off(w)) break;
		CHECK(i == 0 && sim_power_was_cut(w->sim));
		world_down(w);
	}
	sim_set_power_cut(w->sim, 0);
}

static void after_restart(struct sim_world *w)
{
	clients_up(w);
	run_announce(w);
	run_verify(w, 0);
	resend_all(w);
	run_settle_opens(w);
	run_verify(w, 0);
	run_check_packs(w);
	for (int i = 0; i < 3; i++) { /* compacts, retires, removes */
		sim_advance(w->sim, 70 * SECOND);
		run_jobs(w);
	}
	for (uint32_t i = 0; i < LANES; i++)
		if (w->clients[i].held.is_open) run_check_open(w, &w->clients[i]);
	run_close_all(w);
	run_verify(w, READ_VERIFY);
	run_check_packs(w);
	run_check_deletions(w);
	clients_down(w);
	world_down(w);
}

void store_run(struct store_run *run)
{
	struct sim_world *w = calloc(1, sizeof(*w));

	current = *run;
	sim_log_clear();
	w->run = run;
	w->sim = sim_new((struct sim_options){ .seed = run->seed });
	sim_clock_use(w->sim);
	rng_seed(&w->rng, run->seed + 7777);
	for (uint32_t i = 0; i < LANES; i++) lane_init(&w->clients[i].lane, i, run->seed);
	first_start(w);
	uint64_t writes = sim_write_count(w->sim);
	if (run->cut > 0) sim_set_power_cut(w->sim, writes + run->cut);
	if (run->fail_at > 0)
		sim_set_fail(w->sim, run->fail_at, run->fail_error, run->fail_classes,
			run->fail_persist);
	workload(w);
	run->writes = sim_write_count(w->sim) - writes;
	run->dead = w->is_dead;
	run->hit = sim_power_was_cut(w->sim) || sim_fail_count(w->sim) > 0 || w->refused_full > 0;
	for (uint32_t i = 0; i < LANES; i++) run->unanswered += w->clients[i].unknown;
	if ((run->fail_at > 0 || run->fills) &&
		!w->is_dead) { /* what failed left nothing wrong behind; then the fault is over */
		sim_set_fail(w->sim, 0, 0, 0, false);
		run_settle_opens(w);
		run_verify(w, 0);
	}
	clients_down(w);
	world_down(w);
	restart(w);
	after_restart(w);
	sim_clock_use(NULL);
	sim_free(&w->sim);
	free(w);
	current.seed = 0;
}

/* ---- seeds ---- */

static uint64_t seed_now;

static void print_where(void)
{
	fprintf(stderr, "failed: GRANARY_SIM_SEED=%" PRIu64 " repeats it\n", seed_now);
	if (current.seed != 0) store_run_print(&current);
	sim_log_print();
}

int store_teardown(void **state)
{
	(void)state;
	if (current.seed != 0) print_where();
	return 0;
}

static void on_abort(int signal_number)
{
	print_where();
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

void store_seeds(uint64_t usual, uint64_t lengthy, void (*one)(void *arg, uint64_t n), void *arg)
{
	uint64_t count = effort("GRANARY_SIM_SEEDS", usual, lengthy);
	uint64_t only = effort_number("GRANARY_SIM_SEED", UINT64_MAX);

	sim_log_keep();
	signal(SIGABRT, on_abort);
	signal(SIGSEGV, on_abort);
	for (uint64_t n = only == UINT64_MAX ? 0 : only; only == UINT64_MAX ? n < count : n == only;
		n++) {
		seed_now = n;
		one(arg, n);
	}
}
