/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every change that a mount makes may be answered before it is durable: writes in place, other sizes, copied
 * ranges, attributes, names, beside jobs that merge; after a power cut anywhere all that was answered is there once it
 * was sent again, under the ids and versions that were told; what others changed meanwhile is not overwritten.
 * Method: a store on a simulated disk and clock, one thread; random changes of a few files against arrays; the seed is
 * printed, GRANARY_SEED repeats it, GRANARY_OPS says how many cuts. */
#include "sim/sim_store.h"

#include <inttypes.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/rand.h"
#include "effort.h"
#include "jobs/jobs.h"
#include "meta/kv.h"
#include "meta/ns_file.h"
#include "req/unstable.h"

enum { FILES = 3, SIZE_MAX_MODEL = 20000, STEPS = 30, CUTS_DEFAULT = 150, CUTS_LONG = 3000 };

struct model { /* of the names f0, f1, f2 and d0, d1, d2 */
	bool is_there[FILES], has_dir[FILES];
	uint32_t len[FILES], mode[FILES];
	uint8_t bytes[FILES][SIZE_MAX_MODEL];
};

struct step {
	uint8_t op, flags;   /* flags: of a rename */
	uint32_t a, b, kind; /* files; of a change */
	uint64_t offset, to, length, seed;
	uint64_t sequence;
	int err;             /* as it was answered */
	bool is_answered, is_unstable;
	uint64_t verifier, id, version;
	uint8_t meta[64];    /* of the answer, without its tail */
	uint32_t meta_len;
};

static struct peer other;
static struct rng rng;
static struct model model;
static uint64_t seed_of_run; /* of the real clock, before the simulated one */
static uint8_t data[SIZE_MAX_MODEL];

static int set_up(void **state)
{
	(void)state;
	sim_store_new();
	peer_init(&other, &world, "root", 0);
	assert_int_equal(simple_call(&peer, OP_BUCKET_CREATE, "data"), 0);
	memset(&model, 0, sizeof(model));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	peer_release(&other);
	sim_store_free();
	return 0;
}

static bool turn_world(const struct call *c)
{
	struct store *s = world.store;

	(void)c;
	if (workers_turn(s->workers) + kv_turn(s->kv) + reactor_turn(s->reactors[0], false) == 0)
		reactor_turn(s->reactors[0], true);
	return true;
}

static const char *name_of(char *buf, char kind, uint32_t i)
{
	snprintf(buf, 8, "%c%u", kind, i);
	return buf;
}

/* ---- requests ---- */

static size_t step_change(struct msg *m, const struct step *s)
{
	uint32_t crc = 0;
	bool is_data = s->kind == CHANGE_DATA;

	wr_u64(&m->w, 0);
	wr_u64(&m->w, 0);
	wr_u32(&m->w, 1);
	wr_u8(&m->w, (uint8_t)s->kind);
	wr_u64(&m->w, s->offset);
	wr_u64(&m->w, s->kind == CHANGE_TRUNCATE ? 0 : s->length);
	if (!is_data) return 0;
	fill(data, s->length, s->seed);
	crc32c_blocks(&crc, data, s->length);
	wr_u32(&m->w, crc);
	return s->length;
}

static size_t step_put(struct msg *m, const struct step *s)
{
	fill(data, s->length, s->seed);
	msg_put_rest(m, PUT_ANY, 0, 0, (const char *)data, s->length);
	return s->length;
}

static void step_copy_range(struct msg *m, const struct step *s)
{
	char name[8];

	wr_u64(&m->w, 0);
	wr_u64(&m->w, s->offset);
	wr_bytes16(&m->w, slice_str(""));
	msg_key(m, name_of(name, 'f', s->b));
	wr_u64(&m->w, s->to);
	wr_u64(&m->w, s->length);
	wr_u64(&m->w, 0);
}

/* What follows 5.1; returns how many bytes of data. */
static size_t step_body(struct msg *m, const struct step *s)
{
	char name[8];

	if (s->op == OP_PUT || s->op == OP_DELETE) wr_u32(&m->w, 1);
	msg_key(m, name_of(name, s->op == OP_MKDIR || s->op == OP_RMDIR ? 'd' : 'f', s->a));
	switch (s->op) {
	case OP_PUT: return step_put(m, s);
	case OP_WRITE: return step_change(m, s);
	case OP_COPY_RANGE: step_copy_range(m, s); break;
	case OP_DELETE: wr_u8(&m->w, 0), wr_u64(&m->w, 0); break;
	case OP_MKDIR: wr_u32(&m->w, 0755), wr_u8(&m->w, 0); break;
	case OP_RENAME: msg_key(m, name_of(name, 'f', s->b)), wr_u8(&m->w, s->flags); break;
	case OP_LINK: msg_key(m, name_of(name, 'f', s->b)); break;
	case OP_MAKE:
		wr_u32(&m->w, 0100600), wr_u64(&m->w, 0), wr_u64(&m->w, 0);
		wr_bytes16(&m->w, slice_str(""));
		break;
	case OP_XATTR:
		wr_u8(&m->w, 0);
		wr_bytes16(&m->w, slice_str("user.x")), wr_bytes16(&m->w, slice_str("v"));
		break;
	case OP_SETATTR:
		wr_u8(&m->w, SETATTR_MODE), wr_u32(&m->w, (uint32_t)s->to), wr_u64(&m->w, 0), wr_u64(&m->w, 0);
		wr_u64(&m->w, 0);
		break;
	default: break; /* RMDIR */
	}
	return 0;
}

static void step_take(struct step *s, const struct call *c)
{
	const struct got *g = c->first;
	struct cur tail;

	s->err = call_status(c);
	s->is_answered = true;
	s->is_unstable = (g->flags & FRAME_UNSTABLE) != 0;
	s->meta_len = (uint32_t)g->meta_len - (s->is_unstable ? UNSTABLE_TAIL_SIZE : 0);
	if (s->err < 0) return;
	assert_true(s->meta_len <= sizeof(s->meta));
	memcpy(s->meta, g->meta, s->meta_len);
	if (s->op == OP_PUT || s->op == OP_DELETE) { /* the one entry's */
		struct cur entry = cur_of(s->meta + 4, 2);

		s->err = -(int)cur_u16(&entry);
	}
	if (!s->is_unstable) return;
	tail = cur_of(g->meta + s->meta_len, UNSTABLE_TAIL_SIZE);
	s->verifier = cur_u64(&tail);
	s->id = cur_u64(&tail);
	s->version = cur_u64(&tail);
}

/* flags: FRAME_RESENT, FRAME_REPLAY besides. */
static void step_send(struct peer *p, struct step *s, uint16_t flags)
{
	struct msg m = msg_new("data");
	struct call *c;
	size_t len;

	msg_sequence(&m, s->sequence, 0, 0);
	if ((flags & FRAME_REPLAY) != 0) {
		wr_u64(&m.w, s->id);
		wr_u64(&m.w, s->version);
	}
	len = step_body(&m, s);
	c = call(p, s->op, FRAME_UNSTABLE | flags, &m.w, data, len);
	free(m.buf);
	step_take(s, c);
	call_free(c);
}

static uint64_t sync_all(struct peer *p, uint8_t flags)
{
	uint8_t buf[1];
	struct wr w = wr_of(buf, sizeof(buf));
	uint64_t verifier;
	struct call *c;
	struct cur m;

	wr_u8(&w, flags);
	c = call(p, OP_SYNC, 0, &w, NULL, 0);
	assert_int_equal(call_status(c), 0);
	m = cur_of(c->first->meta, c->first->meta_len);
	verifier = cur_u64(&m);
	call_free(c);
	return verifier;
}

/* ---- the model ---- */

static bool changes_bytes(const struct step *s)
{
	uint64_t end = s->offset + s->length;
	uint8_t *at = model.bytes[s->a];
	uint32_t *len = &model.len[s->a];

	if (s->kind == CHANGE_TRUNCATE) {
		if (s->offset < *len) memset(at + s->offset, 0, *len - s->offset);
		*len = (uint32_t)s->offset;
		return true;
	}
	if (s->kind == CHANGE_DATA)
		fill(at + s->offset, s->length, s->seed);
	else if (s->kind == CHANGE_ZEROS)
		memset(at + s->offset, 0, s->length);
	else
		memset(at + s->offset, 0, s->offset < *len ? (end < *len ? s->length : *len - s->offset) : 0);
	if (s->kind != CHANGE_PUNCH && end > *len) *len = (uint32_t)end;
	return true;
}

static int model_copy_range(const struct step *s)
{
	static uint8_t bytes[SIZE_MAX_MODEL];
	uint64_t n = s->length;

	if (s->offset > model.len[s->a]) return -GRANARY_ERANGE;
	if (!model.is_there[s->b]) return -GRANARY_ENOTFOUND;
	if (n > model.len[s->a] - s->offset) n = model.len[s->a] - s->offset;
	memcpy(bytes, model.bytes[s->a] + s->offset, n);
	memcpy(model.bytes[s->b] + s->to, bytes, n);
	if (n > 0 && s->to + n > model.len[s->b]) model.len[s->b] = (uint32_t)(s->to + n);
	return 0;
}

static void model_set(uint32_t i, uint32_t from)
{
	model.is_there[i] = true;
	model.len[i] = model.len[from];
	model.mode[i] = model.mode[from];
	memcpy(model.bytes[i], model.bytes[from], SIZE_MAX_MODEL);
}

static int model_swap(uint32_t a, uint32_t b)
{
	static uint8_t kept[SIZE_MAX_MODEL];
	uint32_t len = model.len[a];
	uint32_t mode = model.mode[a];

	if (!model.is_there[b]) return -GRANARY_ENOTFOUND;
	memcpy(kept, model.bytes[a], sizeof(kept));
	model_set(a, b);
	model.len[b] = len;
	model.mode[b] = mode;
	memcpy(model.bytes[b], kept, sizeof(kept));
	return 0;
}

/* What the step does, and is answered. */
static int model_step(const struct step *s)
{
	bool *has = &model.is_there[s->a], *dir = &model.has_dir[s->a];

	switch (s->op) {
	case OP_PUT:
		*has = true;
		model.len[s->a] = (uint32_t)s->length;
		model.mode[s->a] = 0100644;
		memset(model.bytes[s->a], 0, SIZE_MAX_MODEL);
		fill(model.bytes[s->a], s->length, s->seed);
		return 0;
	case OP_MAKE:
		if (*has) return -GRANARY_EEXIST;
		*has = true;
		model.len[s->a] = 0;
		model.mode[s->a] = 0100600;
		memset(model.bytes[s->a], 0, SIZE_MAX_MODEL);
		return 0;
	case OP_MKDIR:
		if (*dir) return -GRANARY_EEXIST;
		return *dir = true, 0;
	case OP_RMDIR:
		if (!*dir) return -GRANARY_ENOTFOUND;
		return *dir = false, 0;
	default: break;
	}
	if (!*has) return -GRANARY_ENOTFOUND;
	switch (s->op) {
	case OP_WRITE: return changes_bytes(s) ? 0 : -1;
	case OP_COPY_RANGE: return model_copy_range(s);
	case OP_DELETE: return *has = false, 0;
	case OP_RENAME:
		if (s->flags == RENAME_SWAP) return model_swap(s->a, s->b);
		model_set(s->b, s->a);
		return *has = false, 0;
	case OP_SETATTR: return model.mode[s->a] = 0100000 | (uint32_t)s->to, 0;
	default: return 0; /* XATTR */
	}
}

/* Names of one file would share bytes: links are made, and taken away again, in a test of their own. */
static struct step step_random(uint64_t sequence)
{
	static const uint8_t ops[] = { OP_WRITE, OP_WRITE, OP_WRITE, OP_WRITE, OP_WRITE, OP_WRITE, OP_WRITE, OP_WRITE,
		OP_WRITE, OP_WRITE, OP_PUT, OP_COPY_RANGE, OP_COPY_RANGE,
		OP_DELETE, OP_RENAME, OP_SETATTR, OP_XATTR, OP_MKDIR, OP_RMDIR, OP_MAKE };
	struct step s = { .op = ops[rng_below(&rng, sizeof(ops))], .a = (uint32_t)rng_below(&rng, FILES),
		.b = (uint32_t)rng_below(&rng, FILES), .kind = 1 + (uint32_t)rng_below(&rng, 4),
		.offset = rng_below(&rng, SIZE_MAX_MODEL / 2), .to = rng_below(&rng, SIZE_MAX_MODEL / 2),
		.length = 1 + rng_below(&rng, SIZE_MAX_MODEL / 2 - 1), .seed = rng_next(&rng), .sequence = sequence };

	if (s.op == OP_WRITE && rng_below(&rng, 4) > 0) { /* mostly many small ones of one file */
		s.a = 0;
		s.kind = CHANGE_DATA;
		s.length = 1 + rng_below(&rng, 300);
	}
	if (s.op == OP_SETATTR) s.to &= 0777;
	if (s.op == OP_RENAME && s.a == s.b) s.b = (s.b + 1) % FILES;
	if (s.op == OP_RENAME && rng_below(&rng, 2) == 0) s.flags = RENAME_SWAP;
	return s;
}

/* ---- looking: another session, so all is durable then ---- */

static void expect_file(uint32_t i)
{
	struct read_result r;
	char name[8];

	r = read_key(&other, "data", name_of(name, 'f', i), 0);
	if (!model.is_there[i]) {
		assert_int_equal(r.err, -GRANARY_ENOTFOUND);
		free(r.data);
		return;
	}
	assert_int_equal(r.err, 0);
	assert_int_equal(r.size, model.len[i]);
	assert_int_equal(r.len, model.len[i]);
	if (r.len > 0) assert_memory_equal(r.data, model.bytes[i], r.len);
	free(r.data);
}

/* Its mode; 0: there is none. */
static uint32_t mode_of(struct peer *p, char kind, uint32_t i)
{
	struct msg m = msg_new("data");
	uint32_t mode;
	char name[8];
	struct call *c;
	struct cur a;

	snprintf(name, sizeof(name), "%c%u%s", kind, i % FILES, kind == 'd' ? "/" : "");
	wr_u8(&m.w, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, name);
	c = msg_call(p, OP_STAT, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	assert_int_equal(cur_u32(&a), 1);
	if (cur_u16(&a) != 0) {
		call_free(c);
		return 0;
	}
	cur_u16(&a);
	for (int k = 0; k < 5; k++) cur_u64(&a);
	mode = cur_u32(&a);
	assert_true(cur_ok(&a));
	call_free(c);
	return mode;
}

static void expect_all(void)
{
	for (uint32_t i = 0; i < FILES; i++) {
		expect_file(i);
		assert_int_equal(mode_of(&other, 'd', i) != 0, model.has_dir[i]);
		assert_int_equal(mode_of(&other, 'f', i) & 0777, model.is_there[i] ? model.mode[i] & 0777 : 0);
	}
}

static uint64_t pending(void)
{
	struct kv_stats s;

	kv_get_stats(world.store->kv, &s);
	return s.pending;
}

static void crash(void)
{
	uint64_t id = session_id(peer.peer.session), id_other = session_id(other.peer.session);

	sim_power_cut(sim);
	peer_release(&peer);
	peer_release(&other);
	down();
	sim_power_on(sim);
	up();
	peer_init(&peer, &world, "root", 0);
	session_detach(world.store->sessions, &peer.peer.session);
	peer_attach(&peer, id);
	peer_init(&other, &world, "root", 0);
	session_detach(world.store->sessions, &other.peer.session);
	peer_attach(&other, id_other);
}

/* ---- tests ---- */

static struct step write_step(uint64_t sequence, uint32_t kind, uint64_t offset, uint64_t length)
{
	return (struct step){ .op = OP_WRITE, .kind = kind, .offset = offset, .length = length, .seed = sequence,
		.sequence = sequence };
}

static void put_durable(uint64_t sequence)
{
	struct step s = { .op = OP_PUT, .length = 9000, .seed = 1, .sequence = sequence };

	step_send(&peer, &s, 0);
	assert_int_equal(s.err, 0);
	model_step(&s);
	sync_all(&peer, 0);
}

/* Also the rows that it reads are pending: nothing is flushed for it. */
static void test_writes_of_one_object_rest_on_each_other(void **state)
{
	enum { COUNT = 40 };
	uint64_t writes;

	(void)state;
	put_durable(1002);
	writes = sim_write_count(sim);
	for (uint64_t i = 0; i < COUNT; i++) {
		uint32_t kind = i % 5 == 4 ? CHANGE_PUNCH : CHANGE_DATA;
		struct step s = write_step(1003 + i, kind, i * 397 % 8000, 100 + 50 * i);

		step_send(&peer, &s, 0);
		assert_int_equal(s.err, 0);
		assert_true(s.is_unstable);
		model_step(&s);
	}
	assert_int_equal(sim_write_count(sim), writes);
	assert_int_equal(pending(), COUNT);
	expect_file(0);
	assert_int_equal(pending(), 0);
}

static void test_a_write_is_done_again_under_its_version(void **state)
{
	struct step s, first;

	(void)state;
	put_durable(1002);
	s = write_step(1003, CHANGE_DATA, 5000, 9000);
	step_send(&peer, &s, 0);
	assert_true(s.err == 0 && s.is_unstable);
	crash();
	expect_file(0); /* as before */
	first = s;
	step_send(&peer, &s, FRAME_RESENT | FRAME_REPLAY);
	assert_int_equal(s.err, 0);
	assert_int_equal(s.meta_len, first.meta_len);
	assert_memory_equal(s.meta, first.meta, s.meta_len);
	sync_all(&peer, SYNC_REPLAYED);
	model_step(&first);
	expect_file(0);
	s = first;
	step_send(&peer, &s, FRAME_RESENT | FRAME_REPLAY); /* once more: from its row */
	assert_memory_equal(s.meta, first.meta, s.meta_len);
	expect_file(0);
}

/* Another one wrote after the ten seconds: its bytes stay. */
static void test_what_others_changed_meanwhile_stays(void **state)
{
	static const uint8_t kinds[] = { CHANGE_DATA, CHANGE_PUNCH, CHANGE_TRUNCATE };

	(void)state;
	put_durable(1002);
	for (uint32_t i = 0; i < sizeof(kinds) + 1; i++) {
		bool is_copy = i == sizeof(kinds);
		struct step s = write_step(1010 + i, is_copy ? 0 : kinds[i], 100, 50), theirs;

		if (is_copy) {
			s.op = OP_COPY_RANGE;
			s.to = 5000;
		}
		step_send(&peer, &s, 0);
		assert_true(s.err == 0 && s.is_unstable);
		crash();
		theirs = write_step(1010 + i, CHANGE_DATA, 70 * i, 99);
		step_send(&other, &theirs, 0); /* waits for the ten seconds */
		assert_int_equal(theirs.err, 0);
		model_step(&theirs);
		step_send(&peer, &s, FRAME_RESENT | FRAME_REPLAY);
		assert_int_equal(s.err, -GRANARY_EPRECONDITION);
		expect_file(0);
	}
}

/* Of one name, link and unlink leave the file as it was. */
static void test_links_are_done_again(void **state)
{
	struct step link = { .op = OP_LINK, .b = 1, .sequence = 1003 };
	struct step gone = { .op = OP_DELETE, .a = 0, .sequence = 1004 };

	(void)state;
	put_durable(1002);
	step_send(&peer, &link, 0);
	step_send(&peer, &gone, 0);
	assert_true(link.err == 0 && link.is_unstable && gone.err == 0 && gone.is_unstable);
	crash();
	expect_file(0);
	step_send(&peer, &link, FRAME_RESENT | FRAME_REPLAY);
	step_send(&peer, &gone, FRAME_RESENT | FRAME_REPLAY);
	assert_true(link.err == 0 && gone.err == 0);
	sync_all(&peer, SYNC_REPLAYED);
	model_set(1, 0);
	model.is_there[0] = false;
	expect_all();
}

/* What was answered, in order; then the last one as what it is: a request without an answer. */
static void send_again(const struct step *steps, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct step again = steps[i];

		if (!again.is_answered || !again.is_unstable) continue;
		step_send(&peer, &again, FRAME_RESENT | FRAME_REPLAY);
		assert_int_equal(again.err, steps[i].err);
		assert_int_equal(again.meta_len, steps[i].meta_len);
		assert_memory_equal(again.meta, steps[i].meta, again.meta_len);
	}
	sync_all(&peer, SYNC_REPLAYED);
	if (count > 0 && !steps[count - 1].is_answered) {
		struct step last = steps[count - 1];

		step_send(&peer, &last, FRAME_RESENT);
		assert_int_equal(last.err, model_step(&last));
	}
}

/* Random changes until the power is cut, or all are done. */
static uint32_t run_steps(struct step *steps, uint64_t base)
{
	uint32_t count = 0;

	while (count < STEPS) {
		struct step *s = &steps[count++];

		*s = step_random(base + count);
		step_send(&peer, s, 0);
		s->is_answered = !sim_power_was_cut(sim);
		if (!s->is_answered) break;
		assert_int_equal(s->err, model_step(s));
		if (rng_below(&rng, 8) == 0) (void)jobs_pass(world.store->jobs); /* merges; the power may fail in it */
		if (sim_power_was_cut(sim)) break;
		if (rng_below(&rng, 6) > 0) continue;
		sync_all(&peer, 0);
		if (sim_power_was_cut(sim)) break;
		for (uint32_t i = 0; i < count && rng_below(&rng, 2) == 0; i++) steps[i].is_unstable = false;
	}
	return count;
}

static void test_power_cuts_anywhere(void **state)
{
	uint64_t seed = effort_number("GRANARY_SEED", seed_of_run);
	struct jobs_stats stats;
	uint64_t merged = 0;
	uint64_t cuts = effort("GRANARY_OPS", CUTS_DEFAULT, CUTS_LONG);

	(void)state;
	print_message("seed %" PRIu64 "\n", seed);
	rng_seed(&rng, seed);
	for (uint64_t cut = 1; cut <= cuts; cut++) {
		struct step steps[STEPS];
		uint32_t count;

		sim_set_power_cut(sim, sim_write_count(sim) + 1 + rng_below(&rng, 60));
		count = run_steps(steps, 1000 + 100 * cut);
		if (!sim_power_was_cut(sim)) {
			sim_set_power_cut(sim, 0);
			if (rng_below(&rng, 2) == 0) sync_all(&peer, 0);
		}
		jobs_get_stats(world.store->jobs, &stats);
		merged += stats.merged_extents;
		crash();
		send_again(steps, count);
		expect_all();
		if (cut % 10 == 0) (void)jobs_pass(world.store->jobs);
		expect_all();
	}
	assert_true(merged > 0 || cuts < CUTS_DEFAULT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_writes_of_one_object_rest_on_each_other, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_write_is_done_again_under_its_version, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_what_others_changed_meanwhile_stays, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_links_are_done_again, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_power_cuts_anywhere, set_up, tear_down),
	};

	seed_of_run = clock_wall_ns();
	harness_turn = turn_world;
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("changes before they are durable", tests, NULL, NULL);
}
