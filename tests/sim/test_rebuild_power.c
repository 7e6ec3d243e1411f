/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: metadata that is lost comes back out of packs: every object whose put was answered, with its newest bytes; with
 * a backup deletes too, as far as its log goes; whatever the power took before, and however often it goes during the
 * rebuild; and no id is used twice.
 * Method: a store with two hot directories on a simulated disk, random puts, writes in place, deletes, sealing and
 * compaction; a power cut at any write, or a stop; the metadata is deleted (in some runs all of the data directory but
 * its packs), rebuilt, itself cut at any write, opened, read against the model, compacted and read again.
 * GRANARY_SIM_SEED=n repeats a run. */
#include "unit/harness_store.h"

#include <inttypes.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/id.h"
#include "io/reactor.h"
#include "jobs/backup.h"
#include "jobs/jobs.h"
#include "meta/kv.h"
#include "pack/writer.h"
#include "req/offline.h"
#include "sim/sim.h"
#include "sim/sim_clock.h"
#include "sim/sim_log.h"
#include "sim/store_sim.h"
#include "tier/drives.h"

enum {
	FILES = 24,
	WRITTEN = 3, /* the first so many are written in place, and never deleted */
	OPS = 60,
	SIZE_MAX_FILE = 96 * 1024,
	PAST_MAX = 32,
	UNANSWERED_MAX = 8,
	OFF_TURNS = 5000,
	TURNS_MAX = 200000,
	RUNS = 300,
	RUNS_LONG = 10000,
};

struct bytes {
	uint64_t seed; /* 0: written in place since: only the bytes tell */
	uint32_t size;
	uint8_t data[SIZE_MAX_FILE];
};

struct file {
	char key[32];
	bool exists, is_deleted, is_logged; /* is_logged: the backup's log has the delete */
	bool has_open;                      /* an unanswered put or write: `open` is what it would have made */
	struct bytes now, open;
	uint64_t past_seed[PAST_MAX]; /* what it held before: a deleted one may come back with these */
	uint32_t past_size[PAST_MAX], past_count;
};

static const struct drive_place places[] = { { .path = "/data" }, { .path = "/b" } };
static struct sim *sim;
static struct world world;
static struct peer peer;
static struct fs *backup_fs;
static struct rng rng;
static struct file files[FILES];
static struct call *unanswered[UNANSWERED_MAX];
static uint32_t unanswered_count;
static bool is_dead, has_backup, is_damaged;
static uint32_t turns;
static uint64_t run_now, last_id, cuts, cuts_again, rebuilt, back, torn, damaged;

/* ---- the store ---- */

static void on_fatal(void *arg, const char *what)
{
	(void)arg, (void)what;
	is_dead = true;
}

static int open_sim(void *arg, const char *path, struct fs **out)
{
	(void)arg;
	return fs_new_sim(sim, path, out);
}

static bool is_off(void)
{
	return is_dead || sim_power_was_cut(sim);
}

static bool turn(const struct call *c)
{
	struct store *s = world.store;

	if (workers_turn(s->workers) + kv_turn(s->kv) + reactor_turn(s->reactors[0], false) == 0)
		reactor_turn(s->reactors[0], true);
	if (is_off()) return ++turns < OFF_TURNS;
	assert_true(++turns < TURNS_MAX);
	return !c->done;
}

static int up(void)
{
	struct store_options o;
	char why[600] = "";
	int err;

	is_dead = false;
	assert_int_equal(fs_new_sim(sim, "/data", &world.fs), 0);
	o = world_options(world.fs);
	o.simulated = true;
	o.io = (struct io_options){ .engine = IO_ENGINE_SIM, .sim = sim, .depth = 64 };
	o.cache_budget = o.transient_budget = 8 * MIB;
	o.loc_budget = 4 * MIB;
	o.staging_budget = 16 * MIB;
	o.pack_size = 256 * 1024;
	o.hot = places;
	o.hot_count = 2;
	o.open_fs = open_sim;
	o.backup_fs = has_backup ? backup_fs : NULL;
	o.backup_every_ns = UINT64_C(20000000000);
	o.fatal = on_fatal;
	err = store_open(&o, &world.store, why, sizeof(why));
	if (err < 0 && !is_off()) fail_msg("store_open: %s", why);
	return err;
}

static void down(void)
{
	if (world.store != NULL) store_close(&world.store);
	while (unanswered_count > 0) call_free(unanswered[--unanswered_count]);
	fs_free(&world.fs);
}

/* ---- one change ---- */

static struct file *pick(uint32_t from)
{
	return &files[from + rng_below(&rng, FILES - from)];
}

/* Its answer: 0, or nothing is known (the power went). */
static int answer(struct call *c, uint64_t *id)
{
	int err;

	turns = 0;
	call_wait(c);
	if (is_off() || !c->done || c->first == NULL) { /* it may still be on its way: freed after the store */
		assert_int_equal(unanswered_count < UNANSWERED_MAX, true);
		unanswered[unanswered_count++] = c;
		return -GRANARY_EIO;
	}
	err = call_status(c);
	if (err == 0 && id != NULL) *id = put_result_of(c, 0).id;
	if (err < 0) fail_msg("refused: %s", error_text(err));
	call_free(c);
	return 0;
}

static void past_add(struct file *f)
{
	assert_true(f->past_count < PAST_MAX);
	f->past_seed[f->past_count] = f->now.seed;
	f->past_size[f->past_count++] = f->now.size;
}

static void settle(struct file *f, int err)
{
	f->has_open = err < 0;
	if (err < 0) return;
	f->now = f->open;
	f->exists = true;
	f->is_deleted = f->is_logged = false;
}

static void op_put(void)
{
	struct file *f = pick(0);
	struct msg m = msg_new("data");
	uint32_t size = (uint32_t)rng_below(&rng, rng_below(&rng, 8) == 0 ? SIZE_MAX_FILE - 8 : 3000);
	struct call *c;

	if (rng_below(&rng, 12) == 0) size = 0;
	if (f->past_count == PAST_MAX) return;
	f->open.seed = 1 + rng_next(&rng) % UINT32_MAX;
	f->open.size = size;
	fill(f->open.data, size, f->open.seed);
	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, f->key);
	msg_put_rest(&m, PUT_ANY, 0, 0, f->open.data, size);
	c = call_start(&peer, OP_PUT, 0, &m.w, f->open.data, size);
	free(m.buf);
	if (f->exists) past_add(f);
	settle(f, answer(c, &last_id));
}

static void op_write(void)
{
	struct file *f = &files[rng_below(&rng, WRITTEN)];
	struct msg m = msg_new("data");
	uint32_t crcs[64], offset, len;

	if (!f->exists || f->now.size > SIZE_MAX_FILE - 9000) {
		free(m.buf);
		return;
	}
	offset = (uint32_t)rng_below(&rng, f->now.size + 1);
	len = 1 + (uint32_t)rng_below(&rng, 8000);
	f->open = f->now;
	f->open.seed = 0;
	fill(f->open.data + offset, len, rng_next(&rng));
	if (offset + len > f->open.size) f->open.size = offset + len;
	msg_sequence(&m, next_sequence++, 0, 0);
	msg_key(&m, f->key);
	wr_u64(&m.w, 0);
	wr_u64(&m.w, 0);
	wr_u32(&m.w, 1);
	wr_u8(&m.w, CHANGE_DATA);
	wr_u64(&m.w, offset);
	wr_u64(&m.w, len);
	crc32c_blocks(crcs, f->open.data + offset, len);
	wr_bytes(&m.w, crcs, 4 * (size_t)crc_block_count(len));
	struct call *c = call_start(&peer, OP_WRITE, 0, &m.w, f->open.data + offset, len);
	free(m.buf);
	settle(f, answer(c, NULL));
}

static void op_delete(void)
{
	struct file *f = pick(WRITTEN);
	struct msg m = msg_new("data");
	struct call *c;

	if (!f->exists || f->past_count == PAST_MAX) {
		free(m.buf);
		return;
	}
	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, f->key);
	wr_u8(&m.w, 0);
	wr_u64(&m.w, 0);
	c = call_start(&peer, OP_DELETE, 0, &m.w, NULL, 0);
	free(m.buf);
	past_add(f);
	f->is_deleted = true; /* answered or not: it may be gone, it may be there */
	f->is_logged = false;
	f->exists = false;
	(void)answer(c, NULL);
}

static void op_backup(void)
{
	if (world.store->backup == NULL) return;
	if (rng_below(&rng, 6) == 0) backup_ask(world.store->backup);
	if (backup_turn(world.store->backup) < 0 || is_off()) return;
	for (uint32_t i = 0; i < FILES; i++) files[i].is_logged = files[i].is_deleted;
}

static void op_other(void)
{
	switch (rng_below(&rng, 4)) {
	case 0: writers_rotate(world.store->writers, true); break;
	case 1:
		if (jobs_pass(world.store->jobs) < 0 && !is_off()) fail_msg("a job pass fails");
		break;
	case 2: sim_advance(sim, rng_below(&rng, 30) * UINT64_C(1000000000)); break;
	default: op_backup(); break;
	}
}

static void bucket_begin(void)
{
	struct msg m = msg_new("data");
	struct call *c;

	msg_sequence(&m, next_sequence++, 0, 0);
	c = call_start(&peer, OP_BUCKET_CREATE, 0, &m.w, NULL, 0);
	free(m.buf);
	(void)answer(c, NULL);
}

static void work(uint32_t ops)
{
	for (uint32_t i = 0; i < ops && !is_off(); i++) {
		switch (rng_below(&rng, 10)) {
		case 0: op_delete(); break;
		case 1:
		case 2: op_write(); break;
		case 3:
		case 4: op_other(); break;
		default: op_put(); break;
		}
	}
}

/* ---- the loss, and the rebuild ---- */

static void lose(struct fs *fs, bool all)
{
	assert_int_equal(fs_remove_folder(fs, "meta"), 0);
	(void)fs_remove_folder(fs, "meta.checkpoint");
	if (all) {
		(void)fs_unlink(fs, "granary.super");
		(void)fs_unlink(fs, "master.key");
	}
	assert_int_equal(fs_sync_dir(fs, ""), 0);
}

/* A flush that the power tore may leave a damaged place with whole records behind it: these are taken, and the pack is
 * never compacted (contract I). */
static void told(void *arg, const char *what, const char *name)
{
	(void)arg;
	is_damaged |= strcmp(what, "damage") == 0;
	if (strcmp(what, "damage") != 0 && strcmp(what, "unknown-pack") != 0) fail_msg("lost: %s %s", what, name);
}

/* Again until it is not cut; then once more, which is refused. */
static void rebuild_all(struct fs *fs, uint64_t cut)
{
	char why[1024];

	for (int tries = 0;; tries++) {
		struct offline o = { .fs = fs,
			.from = has_backup ? backup_fs : NULL,
			.hot = { "/b" },
			.hot_count = 1,
			.open_fs = open_sim,
			.simulated = true,
			.lost = told };
		int err;

		if (tries == 0 && cut > 0) sim_set_power_cut(sim, sim_write_count(sim) + cut);
		err = offline_rebuild(&o, why, sizeof(why));
		if (sim_power_was_cut(sim)) {
			assert_true(tries == 0);
			sim_power_on(sim);
			sim_set_power_cut(sim, 0);
			cuts_again++;
			if (fs_exists(fs, "meta") == 1) return; /* it was at its very end */
			continue;
		}
		sim_set_power_cut(sim, 0);
		if (err < 0) fail_msg("rebuild: %s", why);
		torn += o.packs_torn;
		assert_int_equal(o.packs_missing, 0);
		assert_int_equal(o.unplaced, 0);
		assert_int_equal(o.incomplete, 0);
		assert_int_equal(offline_rebuild(&o, why, sizeof(why)), -GRANARY_EEXIST);
		return;
	}
}

/* ---- what must be there ---- */

static bool holds(const struct read_result *r, const struct bytes *b)
{
	return r->len == b->size && memcmp(r->data, b->data, b->size) == 0;
}

static bool held_before(const struct file *f, const struct read_result *r)
{
	static struct bytes b;

	for (uint32_t i = 0; i < f->past_count; i++) {
		b.size = f->past_size[i];
		fill(b.data, b.size, f->past_seed[i]);
		if (holds(r, &b)) return true;
	}
	return false;
}

static void check_file(struct file *f)
{
	struct read_result r;

	turns = 0;
	r = read_key(&peer, "data", f->key, READ_VERIFY);
	if (r.err < 0 && r.err != -GRANARY_ENOTFOUND) fail_msg("%s: %s", f->key, error_text(r.err));
	if (r.err < 0) {
		if (f->exists) fail_msg("%s is lost", f->key);
	} else if (f->has_open && holds(&r, &f->open)) {
		f->exists = true; /* it was not answered, and it is there */
	} else if (f->exists) {
		if (!holds(&r, &f->now)) fail_msg("%s has other bytes than the last that were answered", f->key);
	} else if (!f->is_deleted || !held_before(f, &r)) {
		fail_msg("%s: nobody wrote that", f->key);
	} else {
		back++;
		if (has_backup && f->is_logged) fail_msg("%s is there again: the backup knew better", f->key);
	}
	free(r.data);
}

struct listing {
	uint32_t count;
};

static int list_each(void *arg, struct slice key, const struct object *o)
{
	struct listing *l = arg;
	bool is_known = false;

	assert_int_not_equal(o, NULL);
	for (uint32_t i = 0; i < FILES; i++) is_known |= slice_eq(key, slice_str(files[i].key));
	if (!is_known) fail_msg("'%.*s' is there, and was never put", (int)key.len, (const char *)key.p);
	l->count++;
	return 0;
}

static void check_all(void)
{
	struct ns_bucket b;
	struct ns_list l = { .max = NS_LIST_MAX };
	struct listing listed = { 0 };
	bool more;

	if (ns_bucket_find(world.store->ns, slice_str("data"), &b) < 0) {
		for (uint32_t i = 0; i < FILES; i++) assert_false(files[i].exists);
		return;
	}
	for (uint32_t i = 0; i < FILES; i++) check_file(&files[i]);
	l.bucket = b.id;
	assert_int_equal(ns_list(world.store->ns, &l, list_each, &listed, &more), 0);
	assert_false(more);
}

static void pass(void)
{
	int err = jobs_pass(world.store->jobs);

	if (err < 0 && !(is_damaged && err == -GRANARY_ECORRUPT)) fail_msg("a job pass fails: %s", error_text(err));
}

static void check_packs(void)
{
	char *text = calloc(1, 65536);

	assert_int_equal(jobs_check_start(world.store->jobs), 0);
	pass();
	assert_int_equal(jobs_check_status(world.store->jobs, text, 65536), 0);
	if (!is_damaged && strstr(text, "problems 0\n") == NULL) fail_msg("%s", text);
	free(text);
}

/* It works: new objects get ids of their own, what is dead goes, and what lives stays. */
static void go_on(void)
{
	static uint8_t data[100];
	struct put_result r;
	struct ns_bucket b;

	if (ns_bucket_find(world.store->ns, slice_str("data"), &b) < 0) bucket_begin();
	check_all();
	turns = 0;
	r = put_key(&peer, "data", files[FILES - 1].key, data, sizeof(data));
	assert_int_equal(r.err, 0);
	assert_true(id_incarnation(r.id) > id_incarnation(last_id));
	files[FILES - 1].exists = true;
	files[FILES - 1].has_open = false;
	files[FILES - 1].now.size = sizeof(data);
	memset(files[FILES - 1].now.data, 0, sizeof(data));
	for (int i = 0; i < 4; i++) {
		pass();
		sim_advance(sim, UINT64_C(20000000000));
	}
	check_all();
	check_packs();
}

/* ---- one run ---- */

static void files_init(void)
{
	memset(files, 0, sizeof(files));
	for (uint32_t i = 0; i < FILES; i++)
		snprintf(files[i].key, sizeof(files[i].key), i % 5 == 0 ? "f%u" : i % 2 ? "d%u/f%u" : "d%u/e/f%u",
			i % 5 == 0 ? i : i % 3, i);
}

static void one(void *arg, uint64_t n)
{
	struct fs *fs;

	(void)arg;
	run_now = n;
	has_backup = n % 2 == 1;
	is_damaged = false;
	rng_seed(&rng, 1000 + n);
	files_init();
	last_id = 0;
	sim = sim_new((struct sim_options){ .seed = 1 + n });
	sim_clock_use(sim);
	assert_int_equal(fs_new_sim(sim, "/backup", &backup_fs), 0);
	assert_int_equal(fs_new_sim(sim, "/b", &fs), 0);
	fs_free(&fs);
	assert_int_equal(up(), 0);
	key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&peer, &world, "root", 0);
	bucket_begin();
	op_backup();
	if (n % 4 != 3) sim_set_power_cut(sim, sim_write_count(sim) + 1 + rng_below(&rng, 400));
	work(OPS);
	cuts += sim_power_was_cut(sim);
	peer_release(&peer);
	down();
	if (sim_power_was_cut(sim)) sim_power_on(sim);
	sim_set_power_cut(sim, 0);

	assert_int_equal(fs_new_sim(sim, "/data", &fs), 0);
	lose(fs, n % 3 == 0);
	rebuild_all(fs, n % 2 == 0 || n % 5 == 0 ? 1 + rng_below(&rng, 60) : 0);
	fs_free(&fs);
	rebuilt++;
	damaged += is_damaged;
	assert_int_equal(up(), 0);
	if (!has_backup) key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&peer, &world, "root", 0);
	go_on();
	peer_release(&peer);
	down();
	fs_free(&backup_fs);
	sim_clock_use(NULL);
	sim_free(&sim);
}

static void test_what_was_answered_comes_back_out_of_packs(void **state)
{
	(void)state;
	store_seeds(RUNS, RUNS_LONG, one, NULL);
	printf("  %" PRIu64 " rebuilt; %" PRIu64 " cut before, %" PRIu64 " in it; %" PRIu64
	       " packs without an end, %" PRIu64 " deleted objects back, %" PRIu64
	       " with damage\n",
		rebuilt, cuts, cuts_again, torn, back, damaged);
}

static struct call *order(uint8_t op, struct msg *m, const void *data, size_t len)
{
	struct call *c;

	turns = 0;
	c = msg_call(&peer, op, 0, m, data, len);
	assert_int_equal(call_status(c), 0);
	return c;
}

static uint64_t upload_begin(const char *key)
{
	struct msg m = msg_new("data");
	struct call *c;
	struct cur a;
	uint64_t id;

	msg_sequence(&m, next_sequence++, 0, 0);
	msg_key(&m, key);
	wr_u32(&m.w, 0644);
	wr_u64(&m.w, 0);
	wr_u16(&m.w, 0);
	c = order(OP_UPLOAD_CREATE, &m, NULL, 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	id = cur_u64(&a);
	call_free(c);
	return id;
}

static void part_put(uint64_t upload, const char *name, const char *text)
{
	struct msg m = msg_new("data");
	struct call *c;

	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 1);
	msg_name(&m, upload, name);
	msg_put_rest(&m, PUT_ANY, 0, 0, text, strlen(text));
	c = order(OP_PUT, &m, text, strlen(text));
	assert_int_equal(put_result_of(c, 0).err, 0);
	call_free(c);
}

static void expect_text(const char *key, const char *text)
{
	struct read_result r;

	turns = 0;
	r = read_key(&peer, "data", key, READ_VERIFY);
	if (text == NULL)
		assert_int_equal(r.err, -GRANARY_ENOTFOUND);
	else if (r.err < 0 || r.len != strlen(text) || memcmp(r.data, text, r.len) != 0)
		fail_msg("%s: %s", key, error_text(r.err));
	free(r.data);
}

static void world_begin(void)
{
	struct fs *fs;

	has_backup = false;
	sim = sim_new((struct sim_options){ .seed = 1 });
	sim_clock_use(sim);
	assert_int_equal(fs_new_sim(sim, "/b", &fs), 0);
	fs_free(&fs);
	assert_int_equal(up(), 0);
	key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&peer, &world, "root", 0);
	turns = 0;
	bucket_begin();
}

/* No record says that they were put together: the parts lie where the object would. */
static void test_parts_of_an_upload_lie_below_the_name_of_its_object(void **state)
{
	struct msg m = msg_new("data");
	struct fs *fs;
	uint64_t id;

	(void)state;
	world_begin();
	id = upload_begin("dir/whole");
	part_put(id, "00001", "one");
	part_put(id, "00002", "two");
	msg_sequence(&m, next_sequence++, 0, 0);
	msg_key(&m, "dir/whole");
	wr_u64(&m.w, id);
	wr_u8(&m.w, PUT_ANY);
	wr_u64(&m.w, 0);
	wr_u32(&m.w, 2);
	for (uint32_t i = 1; i <= 2; i++) {
		wr_u32(&m.w, i);
		wr_u64(&m.w, 0);
	}
	call_free(order(OP_UPLOAD_COMPLETE, &m, NULL, 0));
	part_put(upload_begin("other"), "00001", "never put together");
	expect_text("dir/whole", "onetwo");
	peer_release(&peer);
	down();
	assert_int_equal(fs_new_sim(sim, "/data", &fs), 0);
	lose(fs, false);
	rebuild_all(fs, 0);
	fs_free(&fs);
	assert_int_equal(up(), 0);
	key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&peer, &world, "root", 0);
	expect_text("dir/whole", NULL);
	expect_text("dir/whole/00001", "one");
	expect_text("dir/whole/00002", "two");
	expect_text("other/00001", "never put together");
	pass();
	check_packs();
	peer_release(&peer);
	down();
	sim_clock_use(NULL);
	sim_free(&sim);
}

static int tell_run(void **state)
{
	(void)state;
	if (sim != NULL) sim_log_print();
	if (sim != NULL) fprintf(stderr, "repeat with GRANARY_SIM_SEED=%" PRIu64 "\n", run_now);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_what_was_answered_comes_back_out_of_packs, tell_run),
		cmocka_unit_test(test_parts_of_an_upload_lie_below_the_name_of_its_object),
	};

	harness_turn = turn;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
