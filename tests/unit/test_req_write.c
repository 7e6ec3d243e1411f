/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what is written, punched, cut and copied in place is read back byte for byte, by whatever range, durable or
 * not yet, also after compaction and restarts. Method: random requests against arrays of bytes; the seed is printed,
 * GRANARY_SEED repeats a run, GRANARY_OPS makes it longer. */
#include "common/clock.h"
#include "unit/harness_store.h"

#include <inttypes.h>

#include "common/crc32c.h"
#include "effort.h"
#include "jobs/jobs.h"
#include "pack/writer.h"

enum { FILE_MAX = 3 << 20, FILES = 2, BATCH_MAX = 12, OPS_DEFAULT = 240, OPS_LONG = 2000, DATA_MAX = 2 << 20 };

struct model_file {
	const char *key, *leaf;
	uint64_t size, id, version, dir;
	bool is_written;
	uint8_t bytes[FILE_MAX];
};

static struct world world;
static struct peer peer;
static struct rng rng;
static struct model_file files[FILES] = { { .key = "a", .leaf = "a" }, { .key = "dir/b", .leaf = "b" } };
static uint8_t data[DATA_MAX];
static uint32_t unstable_count;
struct slow {
	struct task task;
	struct peer *p;
};

static void random_range(const struct model_file *f, uint64_t *offset, uint64_t *length)
{
	uint64_t most = rng_below(&rng, 8) == 0 ? 700000 : rng_below(&rng, 2) == 0 ? 70000 : 5000;

	*offset = f->size > 0 && rng_below(&rng, 4) > 0 ? rng_below(&rng, f->size) : rng_below(&rng, FILE_MAX - 1);
	*length = 1 + rng_below(&rng, most);
	if (rng_below(&rng, 3) == 0) *offset = *offset / 4096 * 4096;
	if (*length > FILE_MAX - *offset) *length = FILE_MAX - *offset;
}

static void model_grow(struct model_file *f, uint64_t size)
{
	if (size > f->size) f->size = size;
}

/* Adds one change to the message and does it to the model; returns bytes of data it took. */
static uint64_t change_add(struct msg *m, struct model_file *f, uint64_t used)
{
	uint32_t crcs[64];
	uint64_t offset, length, kind = rng_below(&rng, 10);

	random_range(f, &offset, &length);
	kind = kind == 0 ? CHANGE_TRUNCATE : kind == 1 ? CHANGE_ZEROS : kind == 2 ? CHANGE_PUNCH : CHANGE_DATA;
	if (kind == CHANGE_DATA && length > DATA_MAX - used) kind = CHANGE_PUNCH;
	wr_u8(&m->w, (uint8_t)kind);
	wr_u64(&m->w, offset);
	wr_u64(&m->w, kind == CHANGE_TRUNCATE ? 0 : length);
	switch (kind) {
	case CHANGE_TRUNCATE:
		if (offset < f->size) memset(f->bytes + offset, 0, f->size - offset);
		f->size = offset;
		return 0;
	case CHANGE_ZEROS:
		model_grow(f, offset + length);
		memset(f->bytes + offset, 0, length);
		return 0;
	case CHANGE_PUNCH:
		for (uint64_t i = offset; i < offset + length && i < f->size; i++) f->bytes[i] = 0;
		return 0;
	default:
		fill(data + used, length, rng_next(&rng));
		crc32c_blocks(crcs, data + used, length);
		wr_bytes(&m->w, crcs, 4 * (size_t)crc_block_count(length));
		model_grow(f, offset + length);
		memcpy(f->bytes + offset, data + used, length);
		return length;
	}
}

static uint16_t some_flags(void) { return rng_below(&rng, 3) > 0 ? FRAME_UNSTABLE : 0; }

/* Without what an answer before its time adds. */
static struct cur answer_of(const struct call *c)
{
	const struct got *g = c->first;
	bool is_unstable = (g->flags & FRAME_UNSTABLE) != 0;

	unstable_count += is_unstable;
	return cur_of(g->meta, g->meta_len - (is_unstable ? UNSTABLE_TAIL_SIZE : 0));
}

static void op_write(struct model_file *f)
{
	uint32_t count = 1 + (uint32_t)rng_below(&rng, rng_below(&rng, 2) == 0 ? BATCH_MAX : 1);
	struct msg m = msg_new("data");
	uint64_t used = 0;
	struct call *c;
	struct cur a;

	msg_sequence(&m, next_sequence++, 0, 0);
	if (rng_below(&rng, 2) == 0)
		msg_key(&m, f->key);
	else
		msg_id(&m, f->id, f->dir, f->leaf);
	wr_u64(&m.w, rng_below(&rng, 2) == 0 ? f->version : 0);
	wr_u64(&m.w, 0);
	wr_u32(&m.w, count);
	for (uint32_t i = 0; i < count; i++) used += change_add(&m, f, used);
	c = msg_call(&peer, OP_WRITE, some_flags(), &m, data, used);
	assert_int_equal(call_status(c), 0);
	a = answer_of(c);
	assert_int_equal(cur_u64(&a), f->id);
	f->version = cur_u64(&a);
	f->is_written = true;
	assert_int_equal(cur_u64(&a), f->size);
	assert_true(cur_done(&a));
	call_free(c);
}

static void op_copy_range(struct model_file *from, struct model_file *to)
{
	static uint8_t bytes[FILE_MAX];
	uint64_t offset, to_offset, length, ignored, copied;
	struct msg m = msg_new("data");
	struct call *c;
	struct cur a;

	random_range(from, &offset, &length);
	random_range(to, &to_offset, &ignored);
	if (offset > from->size) offset = from->size;
	if (length > FILE_MAX - to_offset) length = FILE_MAX - to_offset;
	msg_sequence(&m, next_sequence++, 0, 0);
	msg_key(&m, from->key);
	wr_u64(&m.w, from->version);
	wr_u64(&m.w, offset);
	wr_bytes16(&m.w, slice_str(""));
	msg_key(&m, to->key);
	wr_u64(&m.w, to_offset);
	wr_u64(&m.w, length);
	wr_u64(&m.w, 0);
	c = msg_call(&peer, OP_COPY_RANGE, some_flags(), &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	copied = length < from->size - offset ? length : from->size - offset;
	memcpy(bytes, from->bytes + offset, copied);
	memcpy(to->bytes + to_offset, bytes, copied);
	if (copied > 0) model_grow(to, to_offset + copied);
	a = answer_of(c);
	assert_int_equal(cur_u64(&a), to->id);
	to->version = cur_u64(&a);
	to->is_written = true;
	assert_int_equal(cur_u64(&a), to->size);
	assert_int_equal(cur_u64(&a), copied);
	assert_true(cur_done(&a));
	call_free(c);
}

static void sync_all(void)
{
	uint8_t buf[1] = { 0 };
	struct wr w = wr_of(buf, sizeof(buf));
	struct call *c;

	wr_u8(&w, 0);
	c = call(&peer, OP_SYNC, 0, &w, NULL, 0);
	assert_int_equal(call_status(c), 0);
	call_free(c);
}

/* ---- looking ---- */

/* A range comes widened: what was asked for lies in it. */
static void read_compare(struct model_file *f, bool whole, uint8_t flags)
{
	struct msg m = read_msg("data", flags, 1);
	struct read_result r;
	uint64_t offset = 0, length = f->size, ignored;
	struct call *c;

	if (!whole) {
		random_range(f, &offset, &length);
		if (offset > f->size) offset = f->size;
		if (length > f->size - offset) length = f->size - offset;
	}
	wr_u8(&m.w, whole ? 0 : READ_ENTRY_RANGE);
	msg_key(&m, f->key);
	if (!whole) {
		wr_u64(&m.w, offset);
		wr_u64(&m.w, length);
	}
	c = msg_call(&peer, OP_READ, 0, &m, NULL, 0);
	read_results(c, &r, 1);
	assert_int_equal(r.err, 0);
	assert_true(r.size == f->size && r.version == f->version && r.has_hash == !f->is_written);
	if (length > 0) {
		ignored = offset - r.logical;
		assert_true(r.logical <= offset && r.len >= ignored + length);
		assert_memory_equal(r.data + ignored, f->bytes + offset, length);
	}
	read_free(&r, 1);
	call_free(c);
}

/* What is not in the map is zeros. */
static void map_compare(const struct model_file *f)
{
	struct msg m = msg_new("data");
	uint64_t at = 0;
	struct call *c;
	struct cur a;
	uint32_t count;

	msg_key(&m, f->key);
	wr_u64(&m.w, f->version);
	wr_u64(&m.w, 0);
	wr_u32(&m.w, WIRE_MAP_MAX);
	c = msg_call(&peer, OP_MAP, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	assert_int_equal(cur_u64(&a), f->id);
	assert_int_equal(cur_u64(&a), f->version);
	assert_int_equal(cur_u64(&a), f->size);
	assert_int_equal(cur_u8(&a), 0);
	count = cur_u32(&a);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t offset = cur_u64(&a), length = cur_u64(&a);

		assert_true(offset >= at && length > 0 && offset + length <= f->size);
		for (; at < offset; at++) assert_int_equal(f->bytes[at], 0);
		at = offset + length;
	}
	assert_true(cur_done(&a));
	for (; at < f->size; at++) assert_int_equal(f->bytes[at], 0);
	call_free(c);
}

static void compact(void)
{
	for (int i = 0; i < 3; i++) {
		writers_rotate(world.store->writers, true);
		usleep(20000);
		assert_int_equal(jobs_pass(world.store->jobs), 0);
	}
}

static void check_all(void)
{
	for (int i = 0; i < FILES; i++) {
		read_compare(&files[i], true, 0);
		read_compare(&files[i], true, READ_VERIFY);
		map_compare(&files[i]);
	}
}

static void test_random(void **state)
{
	struct jobs_stats stats;
	uint64_t seed = effort_number("GRANARY_SEED", clock_mono_ns());
	uint32_t ops = (uint32_t)effort("GRANARY_OPS", OPS_DEFAULT, OPS_LONG);

	(void)state;
	print_message("seed %" PRIu64 "\n", seed);
	rng_seed(&rng, seed);
	for (int i = 0; i < FILES; i++) {
		struct put_result r = put_key(&peer, "data", files[i].key, "", 0);

		assert_int_equal(r.err, 0);
		files[i].id = r.id;
		files[i].version = r.version;
		files[i].dir = r.dir;
	}
	for (uint32_t i = 1; i <= ops; i++) {
		struct model_file *f = &files[rng_below(&rng, FILES)];

		if (rng_below(&rng, 5) == 0)
			op_copy_range(&files[rng_below(&rng, FILES)], f);
		else
			op_write(f);
		for (int k = 0; k < 2; k++)
			if (rng_below(&rng, 2) == 0) read_compare(&files[rng_below(&rng, FILES)], false, 0);
		if (rng_below(&rng, 20) == 0) map_compare(&files[rng_below(&rng, FILES)]);
		if (i % 40 == 0) {
			check_all();
			compact();
			check_all();
		}
		if (i % 150 == 0) {
			sync_all();
			peer_release(&peer);
			world_restart(&world);
			peer_init(&peer, &world, "root", 0);
			check_all();
		}
	}
	check_all();
	assert_true(unstable_count > 0);
	jobs_get_stats(world.store->jobs, &stats);
	assert_int_equal(stats.aborted, 0);
	assert_true(stats.merged_extents > 0 || ops < OPS_DEFAULT); /* of fewer there may be too little to merge */
}

/* ---- at once ---- */

enum { LANE_WRITES = 64, LANE_BLOCK = 4096 };

/* All are in flight: each is done, none is lost. */
static void many_at_once(uint16_t flags)
{
	struct call *calls[LANE_WRITES];
	struct model_file *f = &files[0];

	assert_int_equal(put_key(&peer, "data", f->key, "", 0).err, 0);
	for (uint32_t i = 0; i < LANE_WRITES; i++) {
		struct msg m = msg_new("data");
		uint32_t crc;

		fill(data + (size_t)i * LANE_BLOCK, LANE_BLOCK, i);
		crc32c_blocks(&crc, data + (size_t)i * LANE_BLOCK, LANE_BLOCK);
		msg_sequence(&m, next_sequence++, 0, 0);
		msg_key(&m, f->key);
		wr_u64(&m.w, 0);
		wr_u64(&m.w, 0);
		wr_u32(&m.w, 1);
		wr_u8(&m.w, CHANGE_DATA);
		wr_u64(&m.w, (uint64_t)i * LANE_BLOCK);
		wr_u64(&m.w, LANE_BLOCK);
		wr_u32(&m.w, crc);
		calls[i] = call_start(&peer, OP_WRITE, flags, &m.w, data + (size_t)i * LANE_BLOCK, LANE_BLOCK);
		free(m.buf);
	}
	for (uint32_t i = 0; i < LANE_WRITES; i++) {
		call_wait(calls[i]);
		assert_int_equal(call_status(calls[i]), 0);
		call_free(calls[i]);
	}
	struct read_result r = read_key(&peer, "data", f->key, 0);

	assert_true(r.err == 0 && r.len == LANE_WRITES * LANE_BLOCK);
	assert_memory_equal(r.data, data, r.len);
	free(r.data);
}

static void test_many_writes_of_one_object_at_once(void **state)
{
	(void)state;
	many_at_once(0);
	many_at_once(FRAME_UNSTABLE);
}

/* ---- more extents than a read takes at a time, and what jobs do to them meanwhile ---- */

enum { PIECES = 4500, PIECE = 300, STRIDE = 500, PIECES_A_CALL = 1500 };

/* Every other stretch is written: each is an extent, with a hole behind it; then the holes of the first half. */
static void pieces_write(struct model_file *f, uint32_t from, uint32_t count, uint64_t shift, uint32_t length)
{
	for (uint32_t done = 0; done < count; done += PIECES_A_CALL) {
		struct msg m = msg_new("data");
		struct call *c;

		msg_sequence(&m, next_sequence++, 0, 0);
		msg_key(&m, f->key);
		wr_u64(&m.w, 0);
		wr_u64(&m.w, 0);
		wr_u32(&m.w, PIECES_A_CALL);
		for (uint32_t i = 0; i < PIECES_A_CALL; i++) {
			uint64_t at = (uint64_t)(from + done + i) * STRIDE + shift;
			uint32_t crc;

			fill(data + (size_t)i * length, length, at);
			crc32c_blocks(&crc, data + (size_t)i * length, length);
			wr_u8(&m.w, CHANGE_DATA);
			wr_u64(&m.w, at);
			wr_u64(&m.w, length);
			wr_u32(&m.w, crc);
			memcpy(f->bytes + at, data + (size_t)i * length, length);
			if (at + length > f->size) f->size = at + length;
		}
		c = msg_call(&peer, OP_WRITE, 0, &m, data, (size_t)PIECES_A_CALL * length);
		assert_int_equal(call_status(c), 0);
		f->version = (uint64_t)-1;
		call_free(c);
	}
}

static void whole_compare(const struct model_file *f, struct call *c)
{
	struct read_result r;

	read_results(c, &r, 1);
	assert_int_equal(r.err, 0);
	assert_int_equal(r.len, f->size);
	assert_memory_equal(r.data, f->bytes, f->size);
	read_free(&r, 1);
	call_free(c);
}

static struct call *whole_start(struct peer *p, const struct model_file *f, uint8_t flags)
{
	struct msg m = read_msg("data", flags, 1);
	struct call *c;

	wr_u8(&m.w, 0);
	msg_key(&m, f->key);
	c = call_start(p, OP_READ, 0, &m.w, NULL, 0);
	free(m.buf);
	return c;
}

static void whole_read(const struct model_file *f, uint8_t flags)
{
	struct call *c = whole_start(&peer, f, flags);

	call_wait(c);
	whole_compare(f, c);
}

static void held_release(struct peer *p)
{
	struct answer *a;

	pthread_mutex_lock(&p->lock);
	p->hold = false;
	a = p->held;
	p->held = NULL;
	pthread_mutex_unlock(&p->lock);
	for (struct answer *next; a != NULL; a = next) {
		next = a->next;
		a->released(a);
	}
}

static void release_task(struct task *task)
{
	held_release(container_of(task, struct slow, task)->p);
	free(container_of(task, struct slow, task));
}

/* The slow peer has some of the pieces when all of them are merged and their packs are compacted. */
static void test_a_file_of_many_extents_is_read_while_they_are_merged(void **state)
{
	static struct model_file file = { .key = "many" };
	struct slow *slow = calloc(1, sizeof(*slow));
	struct jobs_stats before, after;
	struct peer other;
	struct call *c;

	(void)state;
	assert_int_equal(put_key(&peer, "data", file.key, "", 0).err, 0);
	pieces_write(&file, 0, PIECES, 0, PIECE);
	whole_read(&file, 0);
	whole_read(&file, READ_IN_ORDER);
	pieces_write(&file, 0, PIECES / 3, PIECE, STRIDE - PIECE);
	peer_init(&other, &world, "root", 0);
	other.hold = true;
	c = whole_start(&other, &file, 0);
	for (int i = 0; i < 200 && !c->first; i++) usleep(1000); /* it is under way, or will find all of it merged */
	jobs_get_stats(world.store->jobs, &before);
	compact();
	jobs_get_stats(world.store->jobs, &after);
	assert_true(after.merged_extents > before.merged_extents && after.compacted > before.compacted);
	slow->p = &other;
	slow->task.fn = release_task;
	reactor_post(other.peer.local->reactor, &slow->task);
	call_wait(c);
	whole_compare(&file, c);
	whole_read(&file, 0);
	peer_release(&other);
}

static int write_err(const char *key, uint8_t kind, uint64_t offset, uint64_t length)
{
	struct msg m = msg_new("data");
	struct call *c;
	int err;

	msg_sequence(&m, next_sequence++, 0, 0);
	msg_key(&m, key);
	wr_u64(&m.w, 0);
	wr_u64(&m.w, 0);
	wr_u32(&m.w, 1);
	wr_u8(&m.w, kind);
	wr_u64(&m.w, offset);
	wr_u64(&m.w, length);
	c = msg_call(&peer, OP_WRITE, 0, &m, NULL, 0);
	err = call_status(c);
	call_free(c);
	return err;
}

static void test_what_is_refused(void **state)
{
	(void)state;
	assert_int_equal(write_err("none", CHANGE_PUNCH, 0, 1), -GRANARY_ENOTFOUND);
	assert_int_equal(put_key(&peer, "data", "x", "12345", 5).err, 0);
	assert_int_equal(write_err("x", 0, 0, 1), -GRANARY_EPROTO);
	assert_int_equal(write_err("x", 5, 0, 1), -GRANARY_EPROTO);
	assert_int_equal(write_err("x", CHANGE_DATA, 0, 1), -GRANARY_EPROTO); /* no data */
	assert_int_equal(write_err("x", CHANGE_PUNCH, 0, 0), -GRANARY_EINVAL);
	assert_int_equal(write_err("x", CHANGE_TRUNCATE, 0, 1), -GRANARY_EINVAL);
	assert_int_equal(write_err("x", CHANGE_ZEROS, UINT64_MAX, 2), -GRANARY_ETOOBIG);
	struct read_result r = read_key(&peer, "data", "x", 0);

	assert_true(r.err == 0 && r.len == 5 && memcmp(r.data, "12345", 5) == 0 && r.has_hash);
	free(r.data);
}

static int set_up(void **state)
{
	(void)state;
	world_new(&world);
	key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&peer, &world, "root", 0);
	assert_int_equal(simple_call(&peer, OP_BUCKET_CREATE, "data"), 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	peer_release(&peer);
	world_free(&world);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_many_writes_of_one_object_at_once),
		cmocka_unit_test(test_a_file_of_many_extents_is_read_while_they_are_merged),
		cmocka_unit_test(test_what_is_refused),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("requests: writes in place", tests, set_up, tear_down);
}
