/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: an object that a session has open keeps its bytes, its attributes and its place in the quota when its last name
 * goes, whatever takes it, until the last open goes: closed, ended with its session, or not announced after a restart.
 * Method: requests against a store on real threads; what is left is counted in the rows and in the packs. */
#include "unit/harness_open.h"
#include "unit/harness_store.h"

#include "common/clock.h"
#include "jobs/jobs.h"
#include "meta/ns_orphan.h"
#include "pack/writer.h"

enum { SIZE = 300000 };

static struct world world;
static struct peer a, b;
static uint8_t bytes[SIZE], other[SIZE];

static struct read_result read_id(struct peer *p, uint64_t id)
{
	struct msg m = read_msg("", 0, 1);
	struct read_result r;
	struct call *c;

	wr_u8(&m.w, 0);
	msg_id(&m, id, 0, "");
	c = msg_call(p, OP_READ, 0, &m, NULL, 0);
	read_results(c, &r, 1);
	call_free(c);
	return r;
}

static void assert_bytes(struct peer *p, uint64_t id, const uint8_t *want, size_t len)
{
	struct read_result r = read_id(p, id);

	assert_int_equal(r.err, 0);
	assert_int_equal(r.len, len);
	assert_memory_equal(r.data, want, len);
	free(r.data);
}

static int read_id_err(struct peer *p, uint64_t id)
{
	struct read_result r = read_id(p, id);

	free(r.data);
	return r.err;
}

/* Opens it in the READ that brings its bytes. */
static struct msg open_reading_msg(const char *key, uint64_t handle)
{
	struct msg m = read_msg("data", 0, 1);

	wr_u8(&m.w, READ_ENTRY_OPEN);
	msg_key(&m, key);
	wr_u64(&m.w, handle);
	return m;
}

static struct read_result open_reading(struct peer *p, const char *key, uint64_t handle)
{
	struct msg m = open_reading_msg(key, handle);
	struct call *c = msg_call(p, OP_READ, 0, &m, NULL, 0);
	struct read_result r;

	read_results(c, &r, 1);
	call_free(c);
	return r;
}

static int open_reading_err(struct peer *p, const char *key, uint64_t handle)
{
	struct read_result r = open_reading(p, key, handle);

	read_free(&r, 1);
	return r.err;
}

static int write_id(struct peer *p, uint64_t id, uint64_t offset, const uint8_t *data, uint64_t len)
{
	struct msg m = msg_new("");
	uint32_t crcs[64];
	struct call *c;
	int err;

	crc32c_blocks(crcs, data, len);
	msg_sequence(&m, next_sequence++, 0, 0);
	msg_id(&m, id, 0, "");
	wr_u64(&m.w, 0);
	wr_u64(&m.w, 0);
	wr_u32(&m.w, 1);
	wr_u8(&m.w, CHANGE_DATA);
	wr_u64(&m.w, offset);
	wr_u64(&m.w, len);
	wr_bytes(&m.w, crcs, 4 * (size_t)crc_block_count(len));
	c = msg_call(p, OP_WRITE, 0, &m, data, len);
	err = call_status(c);
	call_free(c);
	return err;
}

static int two_names(struct peer *p, uint8_t op, const char *from, const char *to)
{
	struct msg m = msg_new("data");
	struct call *c;
	int err;

	msg_sequence(&m, next_sequence++, 0, 0);
	msg_key(&m, from);
	msg_key(&m, to);
	if (op == OP_RENAME) wr_u8(&m.w, 0);
	c = msg_call(p, op, 0, &m, NULL, 0);
	err = call_status(c);
	call_free(c);
	return err;
}

/* ---- what is left ---- */

static int count_one(void *arg, uint64_t id)
{
	(void)id;
	(*(uint32_t *)arg)++;
	return 0;
}

static uint32_t orphans(void)
{
	uint32_t n = 0;

	assert_int_equal(ns_orphans(world.store->ns, count_one, &n), 0);
	return n;
}

/* Their end comes on a worker. */
static void wait_for_orphans(uint32_t n)
{
	for (int i = 0; i < 5000 && orphans() != n; i++) usleep(1000);
	assert_int_equal(orphans(), n);
}

static void assert_usage(uint64_t want_bytes, uint64_t want_objects)
{
	uint64_t used_bytes, used_objects;
	struct ns_bucket bucket;

	assert_int_equal(ns_bucket_find(world.store->ns, slice_str("data"), &bucket), 0);
	assert_int_equal(ns_bucket_usage(world.store->ns, bucket.id, &used_bytes, &used_objects), 0);
	assert_int_equal(used_bytes, want_bytes);
	assert_int_equal(used_objects, want_objects);
}

static uint64_t live_bytes(void)
{
	struct kv_iter *it = kv_iter_new(world.store->kv, NULL);
	uint64_t sum = 0;

	for (kv_iter_seek(it, slice_str("p")); kv_iter_valid(it) && kv_iter_key(it).p[0] == 'p'; kv_iter_next(it)) {
		struct pack_row row;

		assert_int_equal(pack_row_decode(kv_iter_value(it), &row), 0);
		if (row.state != PACK_DYING) sum += row.live_bytes;
	}
	kv_iter_free(&it);
	return sum;
}

static void assert_nothing_is_left(void)
{
	wait_for_orphans(0);
	assert_usage(0, 0);
	assert_int_equal(live_bytes(), 0);
}

/* ---- tests ---- */

/* Whatever takes the last name. */
static void test_an_open_object_outlives_its_names(void **state)
{
	(void)state;
	for (int how = 0; how < 4; how++) {
		struct opened_result o;

		assert_int_equal(put_key(&a, "data", "dir/x", bytes, SIZE).err, 0);
		if (how == 3) assert_int_equal(two_names(&a, OP_LINK, "dir/x", "dir/link"), 0);
		o = open_key(&a, "dir/x", OPEN_FOR_READ);
		assert_int_equal(o.err, 0);
		assert_true(o.size == SIZE && o.nlink == (how == 3 ? 2 : 1));
		if (how == 1) assert_int_equal(put_key(&a, "data", "dir/x", other, SIZE).err, 0);
		if (how == 2) {
			assert_int_equal(put_key(&a, "data", "y", other, SIZE).err, 0);
			assert_int_equal(two_names(&a, OP_RENAME, "y", "dir/x"), 0);
		}
		if (how == 3) {
			assert_int_equal(delete_key(&a, "data", "dir/link"), 0);
			assert_int_equal(orphans(), 0);
		}
		if (how == 0 || how == 3) assert_int_equal(delete_key(&a, "data", "dir/x"), 0);
		assert_int_equal(orphans(), 1);
		assert_bytes(&a, o.id, bytes, SIZE);
		assert_usage(how == 0 || how == 3 ? SIZE : 2 * SIZE, how == 0 || how == 3 ? 1 : 2);
		assert_int_equal(read_err(&a, "data", "dir/x"), how == 0 || how == 3 ? -GRANARY_ENOTFOUND : 0);
		close_handle(&a, o.handle);
		if (how == 1 || how == 2) assert_int_equal(delete_key(&a, "data", "dir/x"), 0);
		assert_nothing_is_left();
		assert_int_equal(read_id_err(&a, o.id), -GRANARY_ESTALE);
	}
}

static void test_an_orphan_is_written_and_moved_by_compaction(void **state)
{
	struct opened_result o;

	(void)state;
	assert_int_equal(put_key(&a, "data", "x", bytes, SIZE).err, 0);
	assert_int_equal(put_key(&a, "data", "dead", other, SIZE).err, 0);
	o = open_key(&a, "x", OPEN_FOR_READ | OPEN_FOR_WRITE);
	assert_int_equal(o.err, 0);
	assert_int_equal(delete_key(&a, "data", "x"), 0);
	assert_int_equal(delete_key(&a, "data", "dead"), 0);
	memcpy(other, bytes, SIZE);
	fill(other + 1000, 8000, 77);
	assert_int_equal(write_id(&a, o.id, 1000, other + 1000, 8000), 0);
	assert_bytes(&a, o.id, other, SIZE);
	for (int i = 0; i < 3; i++) {
		writers_rotate(world.store->writers, true);
		usleep(20000);
		assert_int_equal(jobs_pass(world.store->jobs), 0);
	}
	assert_bytes(&a, o.id, other, SIZE);
	assert_usage(SIZE, 1);
	close_handle(&a, o.handle);
	assert_nothing_is_left();
}

static void test_the_last_session_ends_it(void **state)
{
	struct opened_result first, second, third;

	(void)state;
	assert_int_equal(put_key(&a, "data", "x", bytes, SIZE).err, 0);
	first = open_key(&a, "x", OPEN_FOR_READ);
	second = open_key(&b, "x", OPEN_FOR_READ);
	assert_true(first.err == 0 && second.err == 0 && first.id == second.id);
	assert_int_equal(delete_key(&a, "data", "x"), 0);
	third = open_id(&a, first.id, OPEN_FOR_READ); /* once more, by a session that has it */
	assert_true(third.err == 0 && third.nlink == 0);
	assert_int_equal(open_id(&a, first.id, OPEN_FOR_WRITE).err, -GRANARY_ESTALE);
	close_handle(&a, first.handle);
	close_handle(&a, third.handle);
	close_handle(&a, third.handle); /* a second time: nothing */
	assert_int_equal(read_id_err(&a, first.id), -GRANARY_ESTALE);
	assert_int_equal(open_id(&a, first.id, OPEN_FOR_READ).err, -GRANARY_ESTALE);
	assert_bytes(&b, first.id, bytes, SIZE);
	close_handle(&b, second.handle);
	assert_nothing_is_left();
}

static void test_what_is_refused(void **state)
{
	struct opened_result o;
	struct peer reader;

	(void)state;
	assert_int_equal(open_key(&a, "none", OPEN_FOR_READ).err, -GRANARY_ENOTFOUND);
	assert_int_equal(put_key(&a, "data", "in/x", bytes, SIZE).err, 0);
	assert_int_equal(put_key(&a, "data", "out", bytes, SIZE).err, 0);
	assert_int_equal(open_key(&a, "in/x", 0).err, -GRANARY_EPROTO);
	assert_int_equal(open_key(&a, "in/x", 4).err, -GRANARY_EPROTO);
	peer_init(&reader, &world, "reader", 1);
	assert_int_equal(open_key(&reader, "out", OPEN_FOR_READ).err, -GRANARY_EACCESS);
	assert_int_equal(open_key(&reader, "in/x", OPEN_FOR_WRITE).err, -GRANARY_EACCESS);
	o = open_key(&reader, "in/x", OPEN_FOR_READ);
	assert_int_equal(o.err, 0);
	assert_int_equal(delete_key(&a, "data", "in/x"), 0);
	assert_bytes(&reader, o.id, bytes, SIZE);
	assert_true(write_id(&reader, o.id, 0, bytes, 10) < 0);
	assert_int_equal(two_names(&a, OP_LINK, "out", "out2"), 0);
	assert_int_equal(delete_key(&a, "data", "out2"), 0);
	assert_int_equal(delete_key(&a, "data", "out"), 0);
	/* Its session ends with its lease. */
	peer_release(&reader);
	sessions_tick(world.store->sessions, clock_mono_ns() + (WIRE_LEASE_S + 1) * UINT64_C(1000000000));
	assert_nothing_is_left();
}

/* Announced: still there. Not announced, though its session says that this was all: gone. */
static void test_opens_are_announced_after_a_restart(void **state)
{
	struct opened_result kept, lost, named;
	uint64_t session_a = session_id(a.peer.session), session_b = session_id(b.peer.session);

	(void)state;
	assert_int_equal(put_key(&a, "data", "kept", bytes, SIZE).err, 0);
	assert_int_equal(put_key(&a, "data", "lost", bytes, SIZE).err, 0);
	assert_int_equal(put_key(&a, "data", "named", bytes, SIZE).err, 0);
	kept = open_key(&a, "kept", OPEN_FOR_READ);
	lost = open_key(&a, "lost", OPEN_FOR_READ);
	named = open_key(&b, "named", OPEN_FOR_READ);
	assert_true(kept.err == 0 && lost.err == 0 && named.err == 0);
	assert_int_equal(delete_key(&a, "data", "kept"), 0);
	assert_int_equal(delete_key(&a, "data", "lost"), 0);
	peer_release(&a);
	peer_release(&b);
	world_restart(&world);
	assert_true(opens_is_grace(world.store->opens));
	peer_init(&a, &world, "root", 0);
	/* Nobody has announced anything: what is removed now may be open. */
	assert_int_equal(delete_key(&a, "data", "named"), 0);
	assert_int_equal(orphans(), 3);
	peer_release(&a);
	peer_init(&a, &world, "root", 0);
	peer_reattach(&a, session_a);
	assert_int_equal(read_id_err(&a, kept.id), -GRANARY_ESTALE);
	assert_int_equal(announce(&a, &kept, OPEN_FOR_READ | OPEN_FOR_WRITE, NULL, 0), -GRANARY_EACCESS);
	assert_int_equal(announce(&a, &kept, OPEN_FOR_READ, NULL, ANNOUNCE_LAST), 0);
	assert_true(opens_is_grace(world.store->opens)); /* b is missing */
	peer_init(&b, &world, "root", 1);
	peer_reattach(&b, session_b);
	assert_int_equal(announce(&b, &kept, OPEN_FOR_READ, NULL, 0), -GRANARY_ESTALE); /* it is a's */
	assert_int_equal(announce(&b, &named, OPEN_FOR_READ, NULL, ANNOUNCE_LAST), 0);
	assert_false(opens_is_grace(world.store->opens));
	wait_for_orphans(2);
	assert_bytes(&a, kept.id, bytes, SIZE);
	assert_bytes(&b, named.id, bytes, SIZE);
	assert_int_equal(announce(&a, &lost, OPEN_FOR_READ, NULL, ANNOUNCE_LAST), -GRANARY_ESTALE);
	close_handle(&a, kept.handle);
	close_handle(&b, named.handle);
	assert_nothing_is_left();
}

/* A READ opens as OPEN does: the first one of a session in a worker, others from the tables. */
static void test_a_read_opens(void **state)
{
	uint64_t handles[3];
	struct read_result r[3];
	struct peer late, reader;

	(void)state;
	peer_init(&late, &world, "root", 1);
	peer_init(&reader, &world, "reader", 1);
	assert_int_equal(put_key(&a, "data", "out", bytes, 5000).err, 0);
	assert_int_equal(open_reading_err(&reader, "out", next_handle++), -GRANARY_EACCESS);
	assert_int_equal(delete_key(&a, "data", "out"), 0);
	peer_release(&reader);
	for (int i = 0; i < 3; i++) {
		char key[] = "r0";
		key[1] = (char)('0' + i);
		handles[i] = next_handle++;
		assert_int_equal(put_key(&a, "data", key, bytes, 5000).err, 0);
		assert_int_equal(open_reading_err(&late, "none", next_handle++), -GRANARY_ENOTFOUND);
		r[i] = open_reading(&late, key, handles[i]);
		assert_int_equal(r[i].err, 0);
		assert_int_equal(r[i].len, 5000);
		assert_memory_equal(r[i].data, bytes, 5000);
		free(r[i].data);
		r[i] = open_reading(&late, key, handles[i]); /* asked once more: the same open */
		assert_int_equal(r[i].err, 0);
		free(r[i].data);
		assert_int_equal(delete_key(&a, "data", key), 0);
		assert_bytes(&late, r[i].id, bytes, 5000);
		assert_int_equal(read_id_err(&a, r[i].id), -GRANARY_ESTALE);
		assert_int_equal(open_reading_err(&late, key, next_handle++), -GRANARY_ENOTFOUND);
	}
	assert_int_equal(orphans(), 3);
	for (int i = 0; i < 3; i++) close_handle(&late, handles[i]);
	wait_for_orphans(0);
	peer_release(&late);
	sessions_tick(world.store->sessions, clock_mono_ns() + (WIRE_LEASE_S + 1) * UINT64_C(1000000000));
	assert_nothing_is_left();
}

/* Goal: of an open and a removal at the same time, either the open fails or its bytes stay. */
static void test_opens_against_removals(void **state)
{
	(void)state;
	for (int i = 0; i < 400; i++) {
		bool reads = i % 2 == 1;
		struct msg d = msg_new("data"), o = msg_new("data");
		struct call *removal, *open;
		struct opened_result r = { .err = 0 };
		uint64_t handle = next_handle++;

		assert_int_equal(put_key(&a, "data", "x", bytes, 5000).err, 0);
		msg_sequence(&d, next_sequence++, 0, 0);
		wr_u32(&d.w, 1);
		msg_key(&d, "x");
		wr_u8(&d.w, 0);
		wr_u64(&d.w, 0);
		if (reads) { /* from the tables */
			free(o.buf);
			o = open_reading_msg("x", handle);
			free(read_key(&b, "data", "x", 0).data);
		} else {
			wr_u64(&o.w, handle);
			wr_u8(&o.w, OPEN_FOR_READ);
			msg_key(&o, "x");
		}
		removal = call_start(&a, OP_DELETE, 0, &d.w, NULL, 0);
		if (i % 3 == 0) usleep((useconds_t)(i % 7) * 30);
		open = call_start(&b, reads ? OP_READ : OP_OPEN, 0, &o.w, NULL, 0);
		call_wait(removal);
		call_wait(open);
		assert_int_equal(call_status(removal), 0);
		call_free(removal);
		if (reads) {
			struct read_result got;
			read_results(open, &got, 1);
			r.err = got.err;
			r.id = got.id;
			free(got.data);
			call_free(open);
		} else {
			r = opened_of(open, handle);
		}
		/* BUSY: the removal's commit took long. The library asks again. */
		assert_true(r.err == 0 || r.err == -GRANARY_ENOTFOUND || r.err == -GRANARY_EBUSY);
		if (r.err == 0) {
			assert_bytes(&b, r.id, bytes, 5000);
			close_handle(&b, handle);
		}
		free(d.buf);
		free(o.buf);
	}
	assert_nothing_is_left();
}

static int set_up(void **state)
{
	(void)state;
	world_new(&world);
	key_make(&world, "root", ALL_ACTIONS, "", "");
	key_make(&world, "reader", GRANT_READ, "data", "in/");
	peer_init(&a, &world, "root", 0);
	peer_init(&b, &world, "root", 1);
	assert_int_equal(simple_call(&a, OP_BUCKET_CREATE, "data"), 0);
	fill(bytes, SIZE, 1);
	fill(other, SIZE, 2);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	peer_release(&a);
	peer_release(&b);
	world_free(&world);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_open_object_outlives_its_names),
		cmocka_unit_test(test_an_orphan_is_written_and_moved_by_compaction),
		cmocka_unit_test(test_the_last_session_ends_it),
		cmocka_unit_test(test_what_is_refused),
		cmocka_unit_test(test_opens_are_announced_after_a_restart),
		cmocka_unit_test(test_a_read_opens),
		cmocka_unit_test(test_opens_against_removals),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("requests: opens", tests, set_up, tear_down);
}
