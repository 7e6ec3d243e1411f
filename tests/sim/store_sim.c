/* SPDX-License-Identifier: Apache-2.0 */
/* store_sim.c -- see store_sim.h. Everything is one thread: turns of the reactor, the workers and
 * the committer are taken in seeded order, so a seed decides all of a run but secrets. */
#include "sim/store_sim.h"

#include <inttypes.h>
#include <signal.h>

#include "io/reactor.h"
#include "jobs/jobs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "pack/writer.h"
#include "sim/sim_clock.h"
#include "sim/sim_log.h"
#include "sim/store_model.h"
#include "tier/packs.h"

enum { TURNS_MAX = 200000, LIST_PAGE = 7, DAYS_30_S = 30 * 24 * 3600 };
static const uint64_t SECOND = UINT64_C(1000000000);
static const int64_t YEAR_NS = INT64_C(365) * 24 * 3600 * INT64_C(1000000000);

struct client {
	struct lane lane;
	struct peer peer;
	struct call *calls[OP_PIECES_MAX];
	uint32_t call_count, left;
	bool busy, putting; /* an op is under way; its own request, after its pieces */
	bool unknown;       /* it will never be answered */
	bool was_before;    /* the state found after the restart is the one before lane.op */
	bool answered; /* lane.op was answered and is settled: a repetition gets the same answer */
};

struct sim_world {
	struct store_run *run;
	struct sim *sim;
	struct world w; /* dir unused */
	struct rng rng;
	bool is_dead, is_verifying;
	bool is_full, was_full; /* the disk is; requests that it met may still be answered */
	uint64_t refused_full;
	struct client clients[LANES];
};

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

#define CHECK(what) check_that((what), #what, __LINE__)

static void check_that(bool ok, const char *what, int line)
{
	if (!ok) fail_msg("%s: line %d of store_sim.c", what, line);
}

/* ---- up, down, turns ---- */

static void on_fatal(void *arg, const char *what)
{
	struct sim_world *w = arg;

	(void)what;
	w->is_dead = true;
}

static bool is_off(const struct sim_world *w)
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
		if (!is_off(w)) fail_msg("store_open: %s", why);
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

static void pump(struct sim_world *w, const bool *done)
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

static bool had_faults(const struct sim_world *w)
{
	return (w->run->fail_at > 0 && sim_fail_count(w->sim) > 0) || w->is_full;
}

/* ---- reading back ---- */

static struct call *call_now(struct sim_world *w, struct peer *p, uint8_t op, struct msg *m)
{
	struct call *c = call_start(p, op, 0, &m->w, NULL, 0);

	free(m->buf);
	pump(w, &c->done);
	return c;
}

static int read_now(struct sim_world *w, const char *key, uint8_t flags, struct read_result *r)
{
	struct msg m = read_msg("data", flags, 1);
	struct call *c;
	int err;

	memset(r, 0, sizeof(*r));
	wr_u8(&m.w, 0);
	msg_key(&m, key);
	c = call_now(w, &w->clients[0].peer, OP_READ, &m);
	err = call_status(c);
	if (err == 0) {
		read_results(c, r, 1);
		err = r->err;
	}
	call_free(c);
	return err;
}

/* The object of this key has the bytes of k, or, while I/O fails, cannot be read. */
static void check_bytes(
	struct sim_world *w, const struct tree_key *k, uint64_t version, uint8_t flags)
{
	uint8_t *want = malloc(k->size + 8);
	struct read_result r;
	int err = read_now(w, k->key, flags, &r);

	if (err < 0 && !is_off(w) && !(had_faults(w) && !w->is_verifying))
		fail_msg("'%s' cannot be read: %s %s", k->key, error_text(err), r.text);
	if (err == 0) {
		fill(want, k->size, k->seed);
		if (r.size != k->size || r.len != k->size || memcmp(r.data, want, k->size) != 0)
			fail_msg("'%s' has other bytes: %" PRIu64 " of them, expected %u", k->key,
				r.size, k->size);
		if (version != 0 && r.version != version)
			fail_msg("'%s' is read with another version than it is listed", k->key);
		w->run->reads++;
	}
	free(want);
	read_free(&r, 1);
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
	bool may_fail = had_faults(w) || w->was_full || is_stale;

	if (is_traced()) trace(w, c);
	if (is_off(w) && !op_is_as_expected(op)) {
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
	if (!c->putting && !is_off(w) && err == 0) {
		c->putting = true;
		c->calls[c->call_count++] = op_start(&c->peer, op, 0);
		return;
	}
	c->busy = false;
	if (!c->putting) { /* the object was never named */
		CHECK(is_off(w) || had_faults(w) || w->was_full);
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

static void jobs_now(struct sim_world *w)
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
	if (err < 0 && !is_off(w) && !had_faults(w) && !w->was_full &&
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
	if (k->seed != 0)
		check_bytes(w, k, k->version, rng_below(&w->rng, 3) == 0 ? READ_VERIFY : 0);
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
	if (rng_below(&w->rng, 6) == 0) read_some(w);
	switch (rng_below(&w->rng, 60)) {
	case 0:
	case 1: jobs_now(w); break;
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
	while (left > 0 && !is_off(w)) {
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
	if (!is_off(w)) jobs_now(w);
	if (w->was_full && !is_off(w)) after_full(w);
}

/* ---- reading all back ---- */

struct found {
	struct tree_key keys[LANES * TREE_MAX];
	uint32_t count;
};

static bool list_page(struct sim_world *w, struct found *f)
{
	struct peer *p = &w->clients[0].peer;
	struct msg m = msg_new("data");
	struct call *c;
	struct cur a;
	bool more;
	uint32_t n;

	wr_bytes16(&m.w, slice_str(""));
	wr_bytes16(&m.w, slice_str(""));
	wr_bytes16(&m.w, slice_str(f->count > 0 ? f->keys[f->count - 1].key : ""));
	wr_u32(&m.w, LIST_PAGE);
	c = call_now(w, p, OP_LIST, &m);
	if (call_status(c) < 0) fail_msg("cannot list: %s", error_text(call_status(c)));
	a = cur_of(c->first->meta, c->first->meta_len);
	more = cur_u8(&a) != 0;
	n = cur_u32(&a);
	for (uint32_t i = 0; i < n; i++) {
		struct tree_key *k = &f->keys[f->count];
		struct slice key;

		CHECK(f->count < LANES * TREE_MAX && cur_u8(&a) == LIST_OBJECT);
		key = cur_bytes16(&a);
		CHECK(cur_ok(&a) && key.len > 0 && key.len < sizeof(k->key));
		memcpy(k->key, key.p, key.len);
		k->id = cur_u64(&a);
		k->version = cur_u64(&a);
		k->size = (uint32_t)cur_u64(&a);
		(void)cur_u64(&a);
		k->dir = cur_u64(&a);
		(void)cur_bytes(&a, 4 + 1 + 16);
		CHECK(f->count == 0 || strcmp(f->keys[f->count - 1].key, k->key) < 0);
		f->count++;
	}
	CHECK(cur_done(&a));
	call_free(c);
	return more;
}

/* k is what the store listed; t says what it should be. */
static bool is_same(const struct tree_key *k, const struct tree_key *t)
{
	return t != NULL &&
	       (t->seed == 0 ||
		       (k->size == t->size && (t->version == 0 || t->version == k->version)));
}

static bool is_of(const char *key, uint32_t lane)
{
	char a[16], b[16];

	snprintf(a, sizeof(a), "l%u/", lane);
	snprintf(b, sizeof(b), "shared/%u-", lane);
	return key_begins(key, a) || key_begins(key, b);
}

static bool tree_is_listed(const struct found *f, uint32_t lane, struct tree *t)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < f->count; i++) {
		if (!is_of(f->keys[i].key, lane)) continue;
		if (!is_same(&f->keys[i], tree_find(t, f->keys[i].key))) return false;
		n++;
	}
	return n == t->count;
}

static void tree_print(const char *what, const struct tree *t)
{
	fprintf(stderr, "  %s:\n", what);
	for (uint32_t i = 0; i < t->count; i++)
		fprintf(stderr, "    %s size %u version %" PRIx64 "\n", t->keys[i].key,
			t->keys[i].size, t->keys[i].version);
}

/* With a fault some entries of an unanswered batch may have failed before it was committed. */
static bool tree_is_listed_in_part(const struct found *f, struct client *c)
{
	struct tree *before = &c->lane.tree, *after = &c->lane.op.after, mixed = { .count = 0 };

	if (c->lane.op.wire != OP_PUT || c->lane.op.count < 2) return false;
	for (uint32_t i = 0; i < f->count; i++) {
		const struct tree_key *k = &f->keys[i];
		struct tree_key *b, *a;

		if (!is_of(k->key, c->lane.index)) continue;
		b = tree_find(before, k->key);
		a = tree_find(after, k->key);
		if (!is_same(k, b) && !is_same(k, a)) return false;
		tree_set(&mixed, is_same(k, b) ? b : a);
	}
	for (uint32_t i = 0; i < before->count; i++)
		if (tree_find(&mixed, before->keys[i].key) == NULL) return false;
	*after = mixed;
	return true;
}

static void lane_print(const struct found *f, struct client *c)
{
	struct tree listed = { .count = 0 };

	for (uint32_t i = 0; i < f->count; i++)
		if (is_of(f->keys[i].key, c->lane.index)) tree_set(&listed, &f->keys[i]);
	op_print(&c->lane, &c->lane.op);
	tree_print("listed", &listed);
	tree_print("before", &c->lane.tree);
	tree_print("after", &c->lane.op.after);
}

/* Which state is there? Then that is the lane's state, with the versions that the store gave. */
static void lane_settle(struct sim_world *w, const struct found *f, struct client *c)
{
	bool before = tree_is_listed(f, c->lane.index, &c->lane.tree);
	bool after = c->unknown && tree_is_listed(f, c->lane.index, &c->lane.op.after);

	if (!before && !after && c->unknown && (w->run->fail_at > 0 || w->run->fills))
		after = tree_is_listed_in_part(f, c);
	if (!before && !after) {
		lane_print(f, c);
		fail_msg("what is there is neither the state before nor the one after");
	}
	c->was_before = before;
	if (!before) c->lane.tree = c->lane.op.after;
	for (uint32_t i = 0; i < f->count; i++) {
		struct tree_key *k = tree_find(&c->lane.tree, f->keys[i].key);

		if (k != NULL) {
			k->version = f->keys[i].version;
			k->id = f->keys[i].id;
		}
	}
}

/* ---- counters and packs ---- */

static void check_usage(struct sim_world *w, const struct found *f)
{
	struct ns_bucket b;
	uint64_t bytes = 0, objects = 0, want = 0;

	assert_int_equal(ns_bucket_find(w->w.store->ns, slice_str("data"), &b), 0);
	assert_int_equal(ns_bucket_usage(w->w.store->ns, b.id, &bytes, &objects), 0);
	for (uint32_t i = 0; i < f->count; i++) want += f->keys[i].size;
	if (bytes != want || objects != f->count)
		fail_msg("the bucket counts %" PRIu64 " bytes in %" PRIu64
			 " objects; there are %" PRIu64 " in %u",
			bytes, objects, want, f->count);
}

struct live {
	uint64_t pack, bytes, records;
};
struct live_table {
	struct live at[1024];
	uint32_t count;
};

static void live_add(struct live_table *t, const struct extent *e)
{
	uint32_t i = 0;

	while (i < t->count && t->at[i].pack != e->pack) i++;
	if (i == t->count) {
		CHECK(t->count < 1024);
		t->at[t->count++] = (struct live){ .pack = e->pack };
	}
	t->at[i].bytes += extent_weight(e);
	t->at[i].records++;
}

static void live_of_rows(struct kv *kv, struct live_table *t)
{
	struct kv_iter *it = kv_iter_new(kv, NULL);

	for (kv_iter_seek(it, slice_str("d")); kv_iter_valid(it); kv_iter_next(it)) {
		struct object o;

		if (kv_iter_key(it).p[0] != 'd') break;
		assert_int_equal(object_decode(kv_iter_value(it), &o), 0);
		for (uint32_t i = 0; i < o.extent_count; i++) live_add(t, &o.extents[i]);
	}
	for (kv_iter_seek(it, slice_str("x")); kv_iter_valid(it); kv_iter_next(it)) {
		struct extent e;

		if (kv_iter_key(it).p[0] != 'x') break;
		assert_int_equal(extent_row_decode(kv_iter_value(it), &e), 0);
		live_add(t, &e);
	}
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
}

static void check_live(struct sim_world *w)
{
	struct live_table *t = calloc(1, sizeof(*t));
	struct pack_info info;
	uint64_t after = 0;
	uint32_t seen = 0;

	live_of_rows(w->w.store->kv, t);
	while (packs_list(w->w.store->packs, after, &info, 1) == 1) {
		struct live want = { .pack = info.id };
		struct pack_row row;

		after = info.id;
		assert_int_equal(packs_row(w->w.store->packs, info.id, &row), 0);
		for (uint32_t i = 0; i < t->count; i++)
			if (t->at[i].pack == info.id) {
				want = t->at[i];
				seen++;
			}
		if (row.live_bytes != want.bytes || row.live_records != want.records)
			fail_msg("pack %016" PRIx64 " counts %" PRIu64 " live bytes in %" PRIu64
				 " records; rows name %" PRIu64 " in %" PRIu64,
				info.id, row.live_bytes, row.live_records, want.bytes,
				want.records);
	}
	CHECK(seen == t->count); /* no row names a pack that is gone */
	free(t);
}

static void check_packs(struct sim_world *w)
{
	char *text = calloc(1, 65536);

	assert_int_equal(jobs_check_start(w->w.store->jobs), 0);
	jobs_now(w);
	assert_int_equal(jobs_check_status(w->w.store->jobs, text, 65536), 0);
	if (strstr(text, "problems 0\n") == NULL) fail_msg("%s", text);
	free(text);
}

/* No delayed deletion (`g`) of a pack outlives it. */
static void check_deletions(struct sim_world *w)
{
	struct kv_iter *it = kv_iter_new(w->w.store->kv, NULL);
	struct pack_row row;

	for (kv_iter_seek(it, slice_str("g")); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);

		if (key.p[0] != 'g') break;
		CHECK(key.len == 18);
		if (key.p[9] == 1)
			assert_int_equal(
				packs_row(w->w.store->packs, be64_get(key.p + 10), &row), 0);
	}
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
}

static void check_key(struct sim_world *w)
{
	const struct ns_access_key *key = ns_key_ref(w->w.store->ns, slice_str("root"));

	CHECK(key != NULL && ns_key_valid(w->w.store->ns, key));
	ns_key_unref(w->w.store->ns, key);
}

static void verify(struct sim_world *w, uint8_t flags)
{
	struct found *f = calloc(1, sizeof(*f));

	w->is_verifying = true;
	while (list_page(w, f)) continue;
	for (uint32_t i = 0; i < LANES; i++) lane_settle(w, f, &w->clients[i]);
	for (uint32_t i = 0; i < f->count; i++) {
		struct tree_key *k = NULL;

		for (uint32_t l = 0; k == NULL && l < LANES; l++)
			k = tree_find(&w->clients[l].lane.tree, f->keys[i].key);
		CHECK(k != NULL);
		if (k->seed != 0) check_bytes(w, k, f->keys[i].version, flags);
	}
	check_usage(w, f);
	check_live(w);
	check_key(w);
	w->is_verifying = false;
	free(f);
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
		pump(w, &call->done);
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
	c = call_now(w, p, OP_BUCKET_CREATE, &m);
	assert_int_equal(call_status(c), 0);
	call_free(c);
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
			jobs_now(w); /* sealing and compaction are cut as well */
		if (err == 0 && !is_off(w)) break;
		CHECK(i == 0 && sim_power_was_cut(w->sim));
		world_down(w);
	}
	sim_set_power_cut(w->sim, 0);
}

static void after_restart(struct sim_world *w)
{
	clients_up(w);
	verify(w, 0);
	resend_all(w);
	verify(w, 0);
	check_packs(w);
	for (int i = 0; i < 3; i++) { /* compacts, retires, removes */
		sim_advance(w->sim, 70 * SECOND);
		jobs_now(w);
	}
	verify(w, READ_VERIFY);
	check_packs(w);
	check_deletions(w);
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
		verify(w, 0);
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

static uint64_t number_of(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL && text[0] != '\0' ? strtoull(text, NULL, 10) : otherwise;
}

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
	const char *sanitize = getenv("GRANARY_SANITIZE"); /* makes it several times slower */
	uint64_t few = sanitize != NULL && sanitize[0] != '\0' ? usual / 5 : usual;
	uint64_t count = number_of(
		"GRANARY_SIM_SEEDS", number_of("GRANARY_TEST_LONG", 0) != 0 ? lengthy : few);
	uint64_t only = number_of("GRANARY_SIM_SEED", UINT64_MAX);

	sim_log_keep();
	signal(SIGABRT, on_abort);
	signal(SIGSEGV, on_abort);
	for (uint64_t n = only == UINT64_MAX ? 0 : only; only == UINT64_MAX ? n < count : n == only;
		n++) {
		seed_now = n;
		one(arg, n);
	}
}
