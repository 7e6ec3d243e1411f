/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a session that watches a bucket is told of what others changed there, once, as far as it may read there, and
 * when it missed something it is told so. Method: requests against a store on real threads. */
#include "unit/harness_open.h"

#include "common/clock.h"
#include "req/watch.h"

static struct world world;
static struct peer a, b, reader;

struct change {
	uint8_t kind;
	uint64_t dir, id;
	char name[64];
};
struct page {
	int err;
	uint64_t cursor;
	uint8_t flags;
	uint32_t count;
	struct change changes[64];
};

static struct call *watch_start(struct peer *p, uint64_t cursor)
{
	struct msg m = msg_new("data");
	struct call *c;

	wr_u64(&m.w, cursor);
	c = call_start(p, OP_WATCH, 0, &m.w, NULL, 0);
	free(m.buf);
	return c;
}

static struct page watch_end(struct call *c)
{
	struct page p = { .err = 0 };
	struct cur m;

	call_wait(c);
	p.err = call_status(c);
	m = cur_of(c->first->meta, c->first->meta_len);
	if (p.err == 0) {
		p.cursor = cur_u64(&m);
		p.flags = cur_u8(&m);
		p.count = cur_u32(&m);
		for (uint32_t i = 0; i < p.count; i++) {
			struct change *x = &p.changes[i % 64];
			struct slice name;

			x->kind = cur_u8(&m);
			x->dir = cur_u64(&m);
			x->id = cur_u64(&m);
			name = cur_bytes16(&m);
			snprintf(x->name, sizeof(x->name), "%.*s", (int)name.len, (const char *)name.p);
		}
		assert_true(cur_done(&m));
	}
	call_free(c);
	return p;
}

static struct page watch(struct peer *p, uint64_t cursor) { return watch_end(watch_start(p, cursor)); }

static bool has(const struct page *p, uint8_t kind, const char *name, uint64_t id)
{
	for (uint32_t i = 0; i < p->count; i++)
		if (p->changes[i].kind == kind && strcmp(p->changes[i].name, name) == 0 &&
			(id == 0 || p->changes[i].id == id))
			return true;
	return false;
}

static void test_what_others_do_is_told(void **state)
{
	struct page p = watch(&a, 0);
	struct put_result x;
	struct call *c;

	(void)state;
	assert_true(p.err == 0 && p.count == 0 && p.flags == 0);
	c = watch_start(&a, p.cursor);
	assert_int_equal(put_key(&a, "data", "own", "x", 1).err, 0); /* its own is not */
	usleep(100000);
	assert_false(c->done);
	x = put_key(&b, "data", "dir/x", "x", 1);
	p = watch_end(c);
	assert_true(p.err == 0 && has(&p, WATCH_ENTRY, "x", x.id) && has(&p, WATCH_ENTRY, "dir", x.dir));
	assert_false(has(&p, WATCH_ENTRY, "own", 0));
	assert_int_equal(delete_key(&b, "data", "dir/x"), 0);
	p = watch(&a, p.cursor); /* what was there before it was asked */
	assert_true(p.err == 0 && has(&p, WATCH_GONE, "dir", 0)); /* that says it all of what was below */
	c = watch_start(&a, p.cursor);
	assert_int_equal(simple_call(&b, OP_BUCKET_CREATE, "other"), 0);
	assert_int_equal(put_key(&b, "other", "elsewhere", "x", 1).err, 0);
	assert_int_equal(put_key(&b, "data", "here", "x", 1).err, 0);
	do { /* what is of another bucket may end a wait, but is not told */
		p = watch_end(c);
		assert_false(has(&p, WATCH_ENTRY, "elsewhere", 0));
		c = watch_start(&a, p.cursor);
	} while (!has(&p, WATCH_ENTRY, "here", 0));
	assert_int_equal(put_key(&b, "data", "here", "y", 1).err, 0); /* ends it */
	(void)watch_end(c);
}

static void test_grants(void **state)
{
	struct page p = watch(&reader, 0);

	(void)state;
	assert_int_equal(p.err, 0);
	assert_int_equal(put_key(&b, "data", "secret", "x", 1).err, 0);
	assert_int_equal(put_key(&b, "data", "in/x", "x", 1).err, 0);
	p = watch(&reader, p.cursor);
	assert_true(has(&p, WATCH_ENTRY, "x", 0) && !has(&p, WATCH_ENTRY, "secret", 0));
}

static void test_what_was_missed_is_told(void **state)
{
	struct page p = watch(&a, 0);
	uint64_t first = p.cursor;

	(void)state;
	p = watch(&a, p.cursor + 1000);
	assert_true(p.err == 0 && p.flags == WATCH_ALL && p.cursor == first);
	for (uint32_t i = 0; i <= WATCH_EVENTS_MAX / 1000; i++) { /* more than is kept */
		struct msg m = msg_new("data");
		static char bytes[1000];
		struct call *c;

		msg_sequence(&m, next_sequence++, 0, 0);
		wr_u32(&m.w, 1000);
		for (uint32_t k = 0; k < 1000; k++) {
			char key[32];
			snprintf(key, sizeof(key), "many/%u", k);
			msg_key(&m, key);
			msg_put_rest(&m, PUT_ANY, 0, 0, &bytes[k], 1);
		}
		c = msg_call(&b, OP_PUT, 0, &m, bytes, 1000);
		assert_int_equal(call_status(c), 0);
		call_free(c);
	}
	p = watch(&a, first);
	assert_true(p.err == 0 && p.flags == WATCH_ALL && p.count == 0 && p.cursor > first);
	/* Nobody watches for long: nothing is noted, and that is told. */
	watches_tick(world.store->watches, clock_mono_ns() + WATCH_IDLE_NS + UINT64_C(1000000000));
	assert_false(watches_are_wanted(world.store->watches));
	assert_int_equal(put_key(&b, "data", "unseen", "x", 1).err, 0);
	p = watch(&a, p.cursor);
	assert_true(p.err == 0 && p.flags == WATCH_ALL);
	first = p.cursor;
	peer_release(&a);
	peer_release(&b);
	peer_release(&reader);
	world_restart(&world);
	peer_init(&a, &world, "root", 0);
	peer_init(&b, &world, "root", 1);
	peer_init(&reader, &world, "reader", 0);
	p = watch(&a, first);
	assert_true(p.err == 0 && p.flags == WATCH_ALL);
}

static int set_up(void **state)
{
	(void)state;
	world_new(&world);
	key_make(&world, "root", ALL_ACTIONS, "", "");
	key_make(&world, "reader", GRANT_READ, "data", "in/");
	peer_init(&a, &world, "root", 0);
	peer_init(&b, &world, "root", 1);
	peer_init(&reader, &world, "reader", 0);
	assert_int_equal(simple_call(&a, OP_BUCKET_CREATE, "data"), 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	peer_release(&a);
	peer_release(&b);
	peer_release(&reader);
	world_free(&world);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_others_do_is_told),
		cmocka_unit_test(test_grants),
		cmocka_unit_test(test_what_was_missed_is_told),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("requests: watches", tests, set_up, tear_down);
}
