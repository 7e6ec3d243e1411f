/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: bytes that are put come back, by every way of addressing, in batches, ranges, uploads; bad
 * ones are refused.
 * Method: a store on real threads, a peer without a socket. */
#include "harness_store.h"

#include "meta/kv.h"
#include "req/store.h"

static struct world world;
static struct peer peer;

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

static const uint32_t sizes[] = { 0, 1, 100, 4096, 16384, 16385, 65536, 65537, 114688, 262144,
	300000, 1048577, 4194304 };
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

static void size_key(char key[64], uint32_t i)
{
	snprintf(key, 64, "dir/sub%u/object-%u", i % 3, i);
}

static void put_sizes(void)
{
	uint8_t *data = malloc(4194304);
	char key[64];

	for (uint32_t i = 0; i < SIZES; i++) {
		size_key(key, i);
		fill(data, sizes[i], i);
		assert_int_equal(put_key(&peer, "data", key, data, sizes[i]).err, 0);
	}
	free(data);
}

static void check_bytes(const struct read_result *r, uint32_t size, uint64_t seed)
{
	uint8_t *data = malloc(size + 1u);
	struct hash128 h;

	fill(data, size, seed);
	h = hash_content(data, size);
	assert_int_equal(r->err, 0);
	assert_int_equal(r->size, size);
	assert_int_equal(r->len, size);
	assert_int_equal(r->logical, 0);
	if (size > 0) assert_memory_equal(r->data, data, size);
	assert_true(r->has_hash && r->hash.lo == h.lo && r->hash.hi == h.hi);
	free(data);
}

static void read_sizes(uint8_t flags)
{
	struct msg m = read_msg("data", flags, SIZES);
	struct read_result r[SIZES];
	struct call *c;
	char key[64];

	for (uint32_t i = 0; i < SIZES; i++) {
		size_key(key, i);
		wr_u8(&m.w, 0);
		msg_key(&m, key);
	}
	c = msg_call(&peer, OP_READ, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	read_results(c, r, SIZES);
	for (uint32_t i = 0; i < SIZES; i++) {
		check_bytes(&r[i], sizes[i], i);
		if (flags & READ_IN_ORDER) assert_int_equal(r[i].order, i);
	}
	read_free(r, SIZES);
	call_free(c);
}

static void test_objects_of_every_size_come_back(void **state)
{
	(void)state;
	put_sizes();
	read_sizes(0); /* from the disk */
	read_sizes(0); /* from the cache */
	read_sizes(READ_IN_ORDER);
	peer_release(&peer);
	world_restart(&world);
	peer_init(&peer, &world, "root", 1);
	read_sizes(READ_IN_ORDER); /* from the disk, tables empty */
	read_sizes(READ_VERIFY);
	read_sizes(READ_VERIFY | READ_IN_ORDER);
}

static void test_name_and_id_find_what_the_key_finds(void **state)
{
	struct put_result p = put_key(&peer, "data", "a/b/c", "hello", 5);
	struct msg m = read_msg("", 0, 4);
	struct read_result r[4];
	struct call *c;

	(void)state;
	assert_int_equal(p.err, 0);
	assert_int_not_equal(p.dir, 0);
	wr_u8(&m.w, 0);
	msg_name(&m, p.dir, "c");
	wr_u8(&m.w, 0);
	msg_id(&m, p.id, p.dir, "c");
	wr_u8(&m.w, READ_ENTRY_VERSION);
	msg_id(&m, p.id, p.dir, "c");
	wr_u64(&m.w, p.version);
	wr_u8(&m.w, READ_ENTRY_VERSION);
	msg_name(&m, p.dir, "c");
	wr_u64(&m.w, p.version + 1);
	c = msg_call(&peer, OP_READ, 0, &m, NULL, 0);
	read_results(c, r, 4);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(r[i].err, 0);
		assert_int_equal(r[i].id, p.id);
		assert_int_equal(r[i].version, p.version);
		assert_int_equal(r[i].dir, p.dir);
		assert_memory_equal(r[i].data, "hello", 5);
	}
	assert_int_equal(r[3].err, -GRANARY_ECHANGED);
	read_free(r, 4);
	call_free(c);
}

static void test_a_missing_entry_is_marked_and_the_rest_served(void **state)
{
	struct msg m = read_msg("data", READ_IN_ORDER, 6);
	struct read_result r[6];
	struct call *c;

	(void)state;
	assert_int_equal(put_key(&peer, "data", "here", "x", 1).err, 0);
	wr_u8(&m.w, 0);
	msg_key(&m, "missing");
	wr_u8(&m.w, 0);
	msg_key(&m, "here");
	wr_u8(&m.w, 0);
	msg_key(&m, "");
	wr_u8(&m.w, 0);
	msg_key(&m, "bad\xff");
	wr_u8(&m.w, 0);
	msg_id(&m, UINT64_C(0xfffffffffff), 0, "");
	wr_u8(&m.w, 0);
	msg_key(&m, "here/below");
	c = msg_call(&peer, OP_READ, 0, &m, NULL, 0);
	read_results(c, r, 6);
	assert_int_equal(r[0].err, -GRANARY_ENOTFOUND);
	assert_int_equal(r[1].err, 0);
	assert_int_equal(r[1].len, 1);
	assert_int_equal(r[2].err, -GRANARY_ENAME);
	assert_int_equal(r[3].err, -GRANARY_ENAME);
	assert_int_equal(r[4].err, -GRANARY_ESTALE);
	assert_int_equal(r[5].err, -GRANARY_ENOTFOUND);
	read_free(r, 6);
	call_free(c);
}

struct range {
	uint64_t offset, length;
	int err;
	uint64_t first, len;
};

static void check_range(const char *key, uint64_t size, uint64_t seed, const struct range *x)
{
	struct msg m = read_msg("data", 0, 1);
	struct read_result r;
	struct call *c;
	uint8_t *data = malloc(size);

	fill(data, size, seed);
	wr_u8(&m.w, READ_ENTRY_RANGE);
	msg_key(&m, key);
	wr_u64(&m.w, x->offset);
	wr_u64(&m.w, x->length);
	c = msg_call(&peer, OP_READ, 0, &m, NULL, 0);
	read_results(c, &r, 1);
	assert_int_equal(r.err, x->err);
	assert_int_equal(r.len, x->len);
	if (x->len > 0) {
		assert_int_equal(r.logical, x->first);
		assert_memory_equal(r.data, data + x->first, x->len);
	}
	read_free(&r, 1);
	call_free(c);
	free(data);
}

static void test_ranges_come_widened_to_blocks(void **state)
{
	static const struct range small[] = {
		{ 0, WIRE_WHOLE, 0, 0, 300000 },
		{ 0, 1, 0, 0, 65536 },
		{ 65535, 2, 0, 0, 131072 },
		{ 65536, 1, 0, 65536, 65536 },
		{ 299999, 1, 0, 262144, 300000 - 262144 },
		{ 300000, 1, 0, 0, 0 },
		{ 300001, 0, -GRANARY_ERANGE, 0, 0 },
		{ 10, 0, 0, 0, 0 },
		{ 10, WIRE_WHOLE - 1, 0, 0, 300000 },
		{ UINT64_MAX, UINT64_MAX, -GRANARY_ERANGE, 0, 0 },
	};
	static const struct range large[] = {
		{ 1048575, 2, 0, 983040, 131072 },
		{ 1048576, 1048576, 0, 1048576, 1048576 },
		{ 1000000, 2000000, 0, 983040, 3014656 - 983040 },
		{ 4194303, 1, 0, 4128768, 65536 },
	};

	(void)state;
	put_sizes();
	for (size_t i = 0; i < sizeof(small) / sizeof(small[0]); i++)
		check_range("dir/sub1/object-10", 300000, 10, &small[i]);
	for (size_t i = 0; i < sizeof(large) / sizeof(large[0]); i++)
		check_range("dir/sub0/object-12", 4194304, 12, &large[i]);
}

/* ---- batches ---- */

static void test_a_batch_of_thousands_is_put_in_one_commit_and_read_in_one_request(void **state)
{
	enum { COUNT = 4096, SIZE = 1000 };
	uint8_t *data = malloc((size_t)COUNT * SIZE);
	struct read_result *r = calloc(COUNT, sizeof(*r));
	struct msg m = msg_new("data");
	struct call *c;
	char key[64];

	(void)state;
	fill(data, (size_t)COUNT * SIZE, 77);
	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, COUNT);
	for (uint32_t i = 0; i < COUNT; i++) {
		snprintf(key, sizeof(key), "many/%u/%u", i % 7, i);
		msg_key(&m, key);
		msg_put_rest(&m, PUT_IF_ABSENT, 0, 0, data + i * SIZE, SIZE);
	}
	c = msg_call(&peer, OP_PUT, 0, &m, data, (size_t)COUNT * SIZE);
	assert_int_equal(call_status(c), 0);
	for (uint32_t i = 0; i < COUNT; i += 501) assert_int_equal(put_result_of(c, i).err, 0);
	call_free(c);
	for (uint32_t pass = 0; pass < 3; pass++) {
		m = read_msg("data", pass == 1 ? READ_IN_ORDER : 0, COUNT);
		for (uint32_t i = 0; i < COUNT; i++) {
			snprintf(key, sizeof(key), "many/%u/%u", i % 7, i);
			wr_u8(&m.w, 0);
			msg_key(&m, key);
		}
		c = msg_call(&peer, OP_READ, 0, &m, NULL, 0);
		read_results(c, r, COUNT);
		for (uint32_t i = 0; i < COUNT; i++) {
			assert_int_equal(r[i].err, 0);
			assert_memory_equal(r[i].data, data + i * SIZE, SIZE);
			if (pass == 1) assert_int_equal(r[i].order, i);
		}
		read_free(r, COUNT);
		call_free(c);
	}
	free(r);
	free(data);
}

static void test_entries_of_a_put_succeed_or_fail_one_by_one(void **state)
{
	struct put_result first = put_key(&peer, "data", "k", "old", 3);
	struct msg m = msg_new("data");
	struct read_result r;
	struct call *c;
	size_t crc_at;

	(void)state;
	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 6);
	msg_key(&m, "k");
	msg_put_rest(&m, PUT_IF_ABSENT, 0, 0, "aaa", 3);
	msg_key(&m, "k");
	msg_put_rest(&m, PUT_IF_VERSION, first.version, 0, "bbb", 3);
	msg_key(&m, "k2");
	msg_put_rest(&m, PUT_IF_VERSION, 1, 0, "ccc", 3);
	msg_key(&m, "");
	msg_put_rest(&m, PUT_ANY, 0, 0, "ddd", 3);
	msg_key(&m, "wrong-sum");
	msg_put_rest(&m, PUT_ANY, 0, 0, "eee", 3);
	crc_at = wr_len(&m.w) - 4;
	m.buf[crc_at] ^= 1;
	msg_name(&m, 12345, "no-such-directory");
	msg_put_rest(&m, PUT_ANY, 0, 0, "fff", 3);
	c = msg_call(&peer, OP_PUT, 0, &m, "aaabbbcccdddeeefff", 18);
	assert_int_equal(call_status(c), 0);
	assert_int_equal(put_result_of(c, 0).err, -GRANARY_EPRECONDITION);
	assert_int_equal(put_result_of(c, 1).err, 0);
	assert_int_equal(put_result_of(c, 1).replaced, first.version);
	assert_int_equal(put_result_of(c, 2).err, -GRANARY_EPRECONDITION);
	assert_int_equal(put_result_of(c, 3).err, -GRANARY_ENAME);
	assert_int_equal(put_result_of(c, 4).err, -GRANARY_ECORRUPT);
	assert_int_equal(put_result_of(c, 5).err, -GRANARY_ENOTFOUND);
	call_free(c);
	r = read_key(&peer, "data", "k", 0);
	assert_int_equal(r.err, 0);
	assert_memory_equal(r.data, "bbb", 3);
	read_free(&r, 1);
	assert_int_equal(read_err(&peer, "data", "wrong-sum"), -GRANARY_ENOTFOUND);
}

static void test_requests_cut_at_every_byte_are_refused(void **state)
{
	uint32_t refused = 0;

	(void)state;
	for (size_t cut = 0;; cut++) {
		struct msg m = read_msg("data", 0, 3), p = msg_new("data");
		struct call *c;

		wr_u8(&m.w, READ_ENTRY_RANGE | READ_ENTRY_VERSION);
		msg_key(&m, "some/key");
		wr_u64(&m.w, 0);
		wr_u64(&m.w, 5);
		wr_u64(&m.w, 9);
		wr_u8(&m.w, 0);
		msg_name(&m, 5, "n");
		wr_u8(&m.w, 0);
		msg_id(&m, 5, 6, "n");
		msg_sequence(&p, next_sequence++, 0, 0);
		wr_u32(&p.w, 1);
		msg_key(&p, "cut");
		msg_put_rest(&p, PUT_ANY, 0, 0, "abc", 3);
		bool is_whole = cut >= wr_len(&m.w) && cut >= wr_len(&p.w);
		if (cut < wr_len(&m.w)) m.w.p = m.w.start + cut;
		if (cut < wr_len(&p.w)) p.w.p = p.w.start + cut;
		c = msg_call(&peer, OP_READ, 0, &m, NULL, 0);
		refused += call_status(c) < 0;
		call_free(c);
		c = msg_call(&peer, OP_PUT, 0, &p, "abc", 3);
		refused += call_status(c) < 0;
		call_free(c);
		if (is_whole) break;
	}
	assert_true(refused > 100);
	assert_int_equal(read_err(&peer, "data", "cut"), 0); /* the uncut one */
}

static void test_counts_and_lengths_out_of_range_are_refused(void **state)
{
	static const uint32_t counts[] = { 0, 4097, UINT32_MAX };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		static const uint8_t ops[] = { OP_READ, OP_STAT };

		for (size_t k = 0; k < 2; k++) {
			struct msg m = read_msg("data", 0, counts[i]);
			struct call *c = msg_call(&peer, ops[k], 0, &m, NULL, 0);

			assert_int_equal(call_status(c), -GRANARY_EPROTO);
			call_free(c);
		}
	}
	struct msg m = msg_new("data");
	uint8_t byte = 0;
	struct call *c;

	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, "k");
	msg_put_rest(&m, PUT_ANY, 0, 0, &byte, 1);
	m.w.p[-4 - 2 - 12 - 8 - 8 + 3] = 0xff; /* the size: 4 GiB */
	c = msg_call(&peer, OP_PUT, 0, &m, &byte, 1);
	assert_int_equal(call_status(c), -GRANARY_ETOOBIG);
	call_free(c);
	struct msg none = read_msg("data", 0, 1);

	c = msg_call(&peer, 99, 0, &none, NULL, 0);
	assert_int_equal(call_status(c), -GRANARY_EUNSUPPORTED);
	call_free(c);
}

/* ---- uploads ---- */

static int extent(uint64_t upload, uint64_t logical, const uint8_t *data, uint32_t len)
{
	struct msg m = msg_new("data");
	uint32_t crcs[64];
	struct call *c;
	int err;

	msg_key(&m, "large/file");
	wr_u64(&m.w, upload);
	wr_u64(&m.w, logical);
	crc32c_blocks(crcs, data, len);
	wr_bytes(&m.w, crcs, 4 * (size_t)crc_block_count(len));
	c = msg_call(&peer, OP_EXTENT, 0, &m, data, len);
	err = call_status(c);
	call_free(c);
	return err;
}

static struct put_result put_upload(uint64_t upload, uint64_t size)
{
	struct msg m = msg_new("data");
	struct put_result r;
	struct call *c;

	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, "large/file");
	msg_put_rest(&m, PUT_ANY, 0, upload, NULL, size);
	c = msg_call(&peer, OP_PUT, 0, &m, NULL, 0);
	r = put_result_of(c, 0);
	call_free(c);
	return r;
}

static void test_an_upload_of_many_extents_is_one_object(void **state)
{
	const uint64_t size = 7 * 4 * MIB + 12345; /* more than stand in the row */
	uint8_t *data = malloc(size);
	struct read_result r;

	(void)state;
	fill(data, size, 5);
	for (uint64_t at = 0; at < size; at += 4 * MIB)
		assert_int_equal(extent(9, at, data + at,
					 size - at < 4 * MIB ? (uint32_t)(size - at) : 4 * MIB),
			0);
	assert_int_equal(read_err(&peer, "data", "large/file"), -GRANARY_ENOTFOUND);
	assert_int_equal(put_upload(9, size - 1).err, -GRANARY_EINVAL);
	assert_int_equal(put_upload(9, size).err, 0);
	assert_int_equal(put_upload(9, size).err, -GRANARY_ESTALE);
	for (int pass = 0; pass < 3; pass++) {
		r = read_key(&peer, "data", "large/file", pass == 2 ? READ_VERIFY : 0);
		check_bytes(&r, (uint32_t)size, 5);
		read_free(&r, 1);
	}
	check_range("large/file", size, 5,
		&(struct range){ 4 * MIB - 1, 2, 0, 4 * MIB - 65536, 131072 });
	check_range("large/file", size, 5,
		&(struct range){ size - 1, 1, 0, size - size % 65536, size % 65536 });
	free(data);
}

static void test_extents_out_of_order_or_damaged_are_refused(void **state)
{
	uint8_t data[1000];
	struct msg m;
	struct call *c;

	(void)state;
	fill(data, sizeof(data), 1);
	assert_int_equal(extent(1, 5, data, 1000), -GRANARY_ESTALE);
	assert_int_equal(extent(1, 0, data, 1000), 0);
	assert_int_equal(extent(1, 0, data, 1000), 0); /* again, after a lost answer */
	assert_int_equal(extent(1, 2000, data, 1000), -GRANARY_EINVAL);
	m = msg_new("data");
	msg_key(&m, "large/file");
	wr_u64(&m.w, 1);
	wr_u64(&m.w, 1000);
	wr_u32(&m.w, 0xbad);
	c = msg_call(&peer, OP_EXTENT, 0, &m, data, 1000);
	assert_int_equal(call_status(c), -GRANARY_ECORRUPT);
	call_free(c);
	assert_int_equal(extent(1, 1000, data, 1000), 0);
	m = msg_new("data");
	wr_u64(&m.w, 1);
	c = msg_call(&peer, OP_ABORT, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	call_free(c);
	assert_int_equal(put_upload(1, 2000).err, -GRANARY_ESTALE);
}

/* ---- back-pressure, damage ---- */

static void release_held(struct task *task)
{
	struct answer *a, *next;

	pthread_mutex_lock(&peer.lock);
	a = peer.held;
	peer.held = NULL;
	peer.held_data = 0;
	pthread_mutex_unlock(&peer.lock);
	for (; a != NULL; a = next) {
		next = a->next;
		a->released(a);
	}
	free(task);
}

static void test_a_slow_peer_holds_no_more_than_its_share(void **state)
{
	enum { COUNT = 300, SIZE = 114688 };
	uint8_t *data = malloc(SIZE);
	struct msg m = read_msg("data", 0, COUNT);
	struct read_result *r = calloc(COUNT, sizeof(*r));
	struct call *c;

	(void)state;
	fill(data, SIZE, 3);
	assert_int_equal(put_key(&peer, "data", "one", data, SIZE).err, 0);
	for (uint32_t i = 0; i < COUNT; i++) {
		wr_u8(&m.w, 0);
		msg_key(&m, "one");
	}
	peer.hold = true;
	c = call_start(&peer, OP_READ, 0, &m.w, NULL, 0);
	for (uint32_t i = 0; i < 10000; i++) {
		struct task *t = calloc(1, sizeof(*t));
		bool done;

		usleep(2000);
		pthread_mutex_lock(&peer.lock);
		assert_true(peer.held_data <= 8 * MIB + SIZE);
		done = c->done;
		peer.hold = !done;
		pthread_mutex_unlock(&peer.lock);
		t->fn = release_held;
		reactor_post(peer.peer.local->reactor, t);
		if (done) break;
	}
	assert_true(c->done);
	read_results(c, r, COUNT);
	for (uint32_t i = 0; i < COUNT; i++) assert_memory_equal(r[i].data, data, SIZE);
	read_free(r, COUNT);
	call_free(c);
	c = call(&peer, OP_READ, 0, &m.w, NULL,
		0); /* behind the last release: nothing is left over */
	assert_int_equal(call_status(c), 0);
	peer_release(&peer);
	world_restart(&world); /* the reactor's memory is ours now */
	assert_int_equal(peer.peer.ahead_bytes, 0);
	assert_int_equal(peer.peer.ahead_entries, 0);
	peer_init(&peer, &world, "root", 0);
	call_free(c);
	free(m.buf);
	free(r);
	free(data);
}

/* ---- what the send queue wakes ---- */

static enum step_result waiter_run(struct req *r)
{
	r->pending = 1;
	return STEP_WAIT;
}

static const struct req_step waiter_steps[] = { { "wait", waiter_run } };
static const struct req_kind waiter_kind = { .name = "waiter", .steps = waiter_steps, .step_count = 1 };
static struct req waiter;
static struct task wakings, behind[2];
static _Atomic int behind_ran;

static void behind_run(struct task *task)
{
	(void)task;
	atomic_fetch_add(&behind_ran, 1);
}

/* Twice in one turn, as when frames are released one after the other and the request runs in between: a reactor's list
 * of what is to run would lose what stands behind a task that is put into it again. */
static void wake_twice(struct task *task)
{
	(void)task;
	for (uint32_t i = 0; i < 2; i++) {
		list_push(&peer.peer.waiting, &waiter.wait_node);
		req_drained(&peer.peer);
		behind[i].fn = behind_run;
		reactor_defer(peer.peer.local->reactor, &behind[i]);
	}
}

static void test_a_request_that_is_woken_twice_holds_nobody_up(void **state)
{
	(void)state;
	waiter = (struct req){ .magic = REQ_MAGIC, .kind = &waiter_kind, .peer = &peer.peer, .pending = 1,
		.store = world.store, .local = peer.peer.local };
	list_init(&waiter.wait_node);
	atomic_store(&behind_ran, 0);
	wakings.fn = wake_twice;
	reactor_post(peer.peer.local->reactor, &wakings);
	for (int i = 0; i < 5000 && atomic_load(&behind_ran) < 2; i++) usleep(1000);
	assert_int_equal(atomic_load(&behind_ran), 2);
	assert_int_equal(put_key(&peer, "data", "one", "fine", 4).err, 0);
}

static void test_damage_on_disk_is_named_never_handed_out(void **state)
{
	uint8_t data[5000];
	struct read_result r;
	char command[256];

	(void)state;
	memset(data, 'Q', sizeof(data));
	assert_int_equal(put_key(&peer, "data", "dir/damaged", data, sizeof(data)).err, 0);
	assert_int_equal(put_key(&peer, "data", "dir/sound", "fine", 4).err, 0);
	peer_release(&peer);
	world_stop(&world);
	snprintf(command, sizeof(command),
		"for f in %s/packs/*/*.pack; do sed -i 's/QQQQQQQQ/QQQQqQQQ/' $f; done", world.dir);
	assert_int_equal(system(command), 0);
	world_start(&world);
	peer_init(&peer, &world, "root", 0);
	r = read_key(&peer, "data", "dir/damaged", READ_VERIFY);
	assert_int_equal(r.err, -GRANARY_ECORRUPT);
	assert_int_equal(r.len, 0);
	assert_non_null(strstr(r.text, "data/dir/damaged"));
	assert_non_null(strstr(r.text, "pack="));
	assert_non_null(strstr(r.text, "offset="));
	read_free(&r, 1);
	r = read_key(&peer, "data", "dir/sound", READ_VERIFY);
	assert_int_equal(r.err, 0);
	read_free(&r, 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_objects_of_every_size_come_back),
		T(test_name_and_id_find_what_the_key_finds),
		T(test_a_missing_entry_is_marked_and_the_rest_served),
		T(test_ranges_come_widened_to_blocks),
		T(test_a_batch_of_thousands_is_put_in_one_commit_and_read_in_one_request),
		T(test_entries_of_a_put_succeed_or_fail_one_by_one),
		T(test_requests_cut_at_every_byte_are_refused),
		T(test_counts_and_lengths_out_of_range_are_refused),
		T(test_an_upload_of_many_extents_is_one_object),
		T(test_extents_out_of_order_or_damaged_are_refused),
		T(test_a_slow_peer_holds_no_more_than_its_share),
		T(test_a_request_that_is_woken_twice_holds_nobody_up),
		T(test_damage_on_disk_is_named_never_handed_out),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
