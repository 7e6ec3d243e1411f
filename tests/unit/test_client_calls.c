/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every call does what granary.h says, against a peer that behaves. */
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "granary/granary.h"
#include "test_client_peer.h"

static struct peer *peer;
static struct granary_client *client;

static struct granary_client *open_client(uint32_t connections, uint64_t memory_max)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_client *c;

	o.url = peer->url;
	o.access_key = PEER_KEY;
	o.secret = PEER_SECRET;
	o.timeout_ms = 10000;
	o.connections = connections;
	o.memory_max = memory_max;
	assert_int_equal(0, granary_open(&o, &c));
	return c;
}

static int setup(void **state)
{
	(void)state;
	peer = peer_start();
	client = open_client(1, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	granary_close(&client);
	peer_stop(peer);
	return 0;
}

static void assert_content(const char *key, const void *data, size_t from, size_t len)
{
	uint8_t *expected = malloc(from + len + 8);

	peer_fill(key, expected, from + len);
	assert_memory_equal(expected + from, data, len);
	free(expected);
}

static char keys[1000][32];

static void add_many(size_t count, size_t size)
{
	for (size_t i = 0; i < count; i++) {
		snprintf(keys[i], sizeof(keys[i]), "obj%05zu", i);
		peer_add(peer, keys[i], size);
	}
}

/* ---- reading ---- */

static void test_get_whole_objects_of_all_sizes(void **state)
{
	static const size_t sizes[] = { 0, 1, 4096, 16384, 16385, 65536, 65537, 114688, 1 << 20, 9000001 };
	void *data;
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		snprintf(keys[0], sizeof(keys[0]), "s%zu", sizes[i]);
		peer_add(peer, keys[0], sizes[i]);
		assert_int_equal(0, granary_get(client, keys[0], &data, &len, NULL));
		assert_int_equal(sizes[i], len);
		assert_content(keys[0], data, 0, len);
		granary_free(data);
	}
	assert_int_equal(-GRANARY_ENOTFOUND, granary_get(client, "none", &data, &len, NULL));
	assert_null(data);
	assert_non_null(strstr(granary_last_error(client), "none"));
}

static void test_read_cuts_ranges(void **state)
{
	static const struct { uint64_t offset, len, expected; } ranges[] = {
		{ 0, 10, 10 }, { 5, 0, 0 }, { 65530, 20, 20 }, { 65536, 65536, 65536 }, { 1, 200000, 200000 },
		{ 299990, 100, 10 }, { 300000, 10, 0 }, { 131072, 1, 1 }, { 65535, 131074, 131074 },
	};
	static uint8_t buf[400000];

	(void)state;
	peer_add(peer, "big", 300000);
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		memset(buf, 0xee, sizeof(buf));
		assert_int_equal(ranges[i].expected, granary_read(client, "big", ranges[i].offset, buf,
			ranges[i].len, NULL));
		assert_content("big", buf, ranges[i].offset, ranges[i].expected);
		assert_int_equal(0xee, buf[ranges[i].expected]); /* not a byte more */
	}
	assert_int_equal(-GRANARY_ERANGE, granary_read(client, "big", 300001, buf, 1, NULL));
}

static void test_batch_leased_marks_what_is_missing(void **state)
{
	struct granary_entry e[300] = { { .flags = 0 } };
	struct granary_batch b = GRANARY_INIT(granary_batch);
	struct granary_op *op;

	(void)state;
	add_many(300, 4096);
	for (size_t i = 0; i < 300; i++)
		e[i].ref = granary_ref_key(i % 10 == 3 ? "missing" : keys[i]);
	b.entries = e;
	b.count = 300;
	assert_int_equal(270, granary_read_batch(client, &b, NULL, &op));
	for (size_t i = 0; i < 300; i++) {
		if (i % 10 == 3) {
			assert_int_equal(-GRANARY_ENOTFOUND, e[i].status);
			assert_null(e[i].data);
			continue;
		}
		assert_int_equal(0, e[i].status);
		assert_int_equal(4096, e[i].data_len);
		assert_int_equal(4096, e[i].size);
		assert_int_equal(0, (uintptr_t)e[i].data % 64);
		assert_content(keys[i], e[i].data, 0, 4096);
	}
	granary_op_free(&op);
	assert_null(op);
	assert_int_equal(-GRANARY_EINVAL, granary_read_batch(client, &b, NULL, NULL)); /* who would hold the lease? */
}

static void test_batch_into_one_slab_in_order(void **state)
{
	struct granary_entry e[500] = { { .flags = 0 } };
	uint8_t *slab = malloc(500 * 5000);

	(void)state;
	add_many(500, 4999);
	for (size_t i = 0; i < 500; i++)
		e[i].ref = granary_ref_key(i == 7 ? "missing" : keys[i]);
	assert_int_equal(499, granary_read_batch_into(client, e, 500, slab, 500 * 5000, 0, NULL));
	for (size_t i = 0, at = 0; i < 500; i++) {
		if (i == 7)
			continue;
		assert_ptr_equal(slab + at, e[i].data);
		assert_content(keys[i], e[i].data, 0, 4999);
		at += 4999;
	}
	assert_int_equal(2, granary_read_batch_into(client, e, 4, slab, 10000, 8, NULL)); /* 3 do not fit */
	assert_int_equal(-GRANARY_ETOOBIG, e[2].status);
	assert_int_equal(4999, e[2].size);
	free(slab);
}

static void test_batch_into_own_buffers_and_blocks(void **state)
{
	struct granary_entry e[3] = { { .flags = 0 } };
	struct granary_batch b = GRANARY_INIT(granary_batch);
	static uint8_t buf[4096], small[100];

	(void)state;
	add_many(3, 4096);
	for (size_t i = 0; i < 3; i++)
		e[i].ref = granary_ref_key(keys[i]);
	e[0].buf = buf;
	e[0].buf_size = sizeof(buf);
	e[1].buf = small;
	e[1].buf_size = sizeof(small);
	e[2].flags = GRANARY_ENTRY_MALLOC;
	b.entries = e;
	b.count = 3;
	assert_int_equal(2, granary_read_batch(client, &b, NULL, NULL));
	assert_ptr_equal(buf, e[0].data);
	assert_content(keys[0], buf, 0, 4096);
	assert_int_equal(-GRANARY_ETOOBIG, e[1].status);
	assert_content(keys[2], e[2].data, 0, 4096);
	granary_free((void *)(uintptr_t)e[2].data);
}

static void test_batch_of_more_than_one_request_on_many_connections(void **state)
{
	enum { COUNT = 20000 };
	struct granary_entry *e = calloc(COUNT, sizeof(*e));
	struct granary_batch b = GRANARY_INIT(granary_batch);
	struct granary_client *c = open_client(3, 0);
	struct granary_op *op;

	(void)state;
	add_many(100, 100);
	for (size_t i = 0; i < COUNT; i++)
		e[i].ref = granary_ref_key(keys[i % 100]);
	b.entries = e;
	b.count = COUNT;
	for (int round = 0; round < 3; round++) {
		assert_int_equal(COUNT, granary_read_batch(c, &b, NULL, &op));
		for (size_t i = 0; i < COUNT; i += 77)
			assert_content(keys[i % 100], e[i].data, 0, 100);
		granary_op_free(&op);
	}
	assert_int_equal(3, peer->logins); /* of one session */
	assert_int_equal(1, peer->next_session);
	granary_close(&c);
	free(e);
}

static void test_version_asked_for(void **state)
{
	struct granary_entry e = { .ref = granary_ref_key("v"), .flags = GRANARY_ENTRY_VERSION | GRANARY_ENTRY_MALLOC,
		.version = 12345 };
	struct granary_batch b = GRANARY_INIT(granary_batch);

	(void)state;
	peer_add(peer, "v", 10);
	b.entries = &e;
	b.count = 1;
	assert_int_equal(0, granary_read_batch(client, &b, NULL, NULL));
	assert_int_equal(-GRANARY_ECHANGED, e.status);
}

static int sink(void *arg, const void *data, size_t len)
{
	struct slice *got = arg;

	assert_content("stream", data, got->len, len);
	got->len += len;
	return 0;
}

static int sink_that_stops(void *arg, const void *data, size_t len)
{
	(void)arg;
	(void)data;
	(void)len;
	return -GRANARY_ENOSPACE;
}

static void test_stream_of_a_large_object(void **state)
{
	struct slice got = { NULL, 0 };

	(void)state;
	peer_add(peer, "stream", 21000000);
	assert_int_equal(21000000, granary_read_stream(client, granary_ref_key("stream"), 0, GRANARY_TO_END, sink,
		&got, NULL));
	assert_int_equal(21000000, got.len);
	got.len = 5000000;
	assert_int_equal(100, granary_read_stream(client, granary_ref_key("stream"), 5000000, 100, sink, &got, NULL));
	assert_int_equal(-GRANARY_ENOSPACE,
		granary_read_stream(client, granary_ref_key("stream"), 0, GRANARY_TO_END, sink_that_stops, NULL, NULL));
}

/* ---- asynchronous ---- */

static int calls;

static void count_call(struct granary_op *op, int64_t result, void *arg)
{
	assert_int_equal(*(int *)arg, result);
	calls++;
	granary_op_free(&op);
}

static void test_eventfd_is_readable_while_something_is_done(void **state)
{
	struct pollfd fd = { .fd = granary_fd(client), .events = POLLIN };
	struct granary_op *op[10];
	int expected = 0;

	(void)state;
	calls = 0;
	assert_int_equal(0, poll(&fd, 1, 0));
	for (int i = 0; i < 10; i++)
		assert_int_equal(0, granary_ping_start(client, GRANARY_CALL(.done = count_call, .arg = &expected),
			&op[i]));
	while (calls < 10) {
		assert_int_equal(1, poll(&fd, 1, 5000));
		assert_true(granary_poll(client, 3) > 0);
	}
	assert_int_equal(0, poll(&fd, 1, 0));
	assert_int_equal(0, granary_poll(client, 0));
	assert_int_equal(0, granary_ping(client, NULL)); /* blocking calls leave it alone */
	assert_int_equal(0, poll(&fd, 1, 0));
}

/* Nobody signals an eventfd that nobody has; who asks for it later misses nothing. */
static void test_eventfd_asked_for_when_something_is_done_already(void **state)
{
	struct granary_client *fresh = open_client(1, 0);
	struct granary_op *op;
	int expected = 0;

	(void)state;
	calls = 0;
	assert_int_equal(0, granary_ping_start(fresh, GRANARY_CALL(.done = count_call, .arg = &expected), &op));
	while (!granary_op_done(op))
		sched_yield();
	struct pollfd fd = { .fd = granary_fd(fresh), .events = POLLIN };
	assert_int_equal(1, poll(&fd, 1, 0));
	assert_int_equal(fd.fd, granary_fd(fresh));
	assert_int_equal(1, granary_poll(fresh, 0));
	assert_int_equal(1, calls);
	assert_int_equal(0, poll(&fd, 1, 0));
	granary_close(&fresh);
}

static void test_wait_runs_the_callback_once(void **state)
{
	struct granary_op *op;
	int expected = 0;

	(void)state;
	calls = 0;
	assert_int_equal(0, granary_ping_start(client, GRANARY_CALL(.done = count_call, .arg = &expected), &op));
	assert_int_equal(0, granary_wait(op, GRANARY_FOREVER)); /* the callback freed it */
	assert_int_equal(1, calls);
	assert_int_equal(0, granary_poll(client, 0));
}

static void test_cancel_and_free_under_way(void **state)
{
	struct granary_entry e = { .ref = granary_ref_key("x") };
	struct granary_batch b = GRANARY_INIT(granary_batch);
	struct granary_op *op;

	(void)state;
	PEER_SET(peer, silent, true);
	b.entries = &e;
	b.count = 1;
	assert_int_equal(0, granary_read_batch_start(client, &b, NULL, &op));
	assert_int_equal(-GRANARY_EAGAIN, granary_wait(op, 50));
	assert_int_equal(0, granary_op_done(op));
	granary_op_cancel(op);
	assert_int_equal(-GRANARY_ECANCELED, granary_wait(op, GRANARY_FOREVER));
	assert_int_equal(-GRANARY_ECANCELED, e.status);
	granary_op_free(&op);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(0, granary_read_batch_start(client, &b, NULL, &op));
		granary_op_free(&op);
	}
}

static void test_close_under_way_leaves_operations_valid(void **state)
{
	struct granary_client *c = open_client(1, 0);
	struct granary_entry e = { .ref = granary_ref_key("x") };
	struct granary_batch b = GRANARY_INIT(granary_batch);
	struct granary_op *leased, *op;

	(void)state;
	peer_add(peer, "x", 5000);
	b.entries = &e;
	b.count = 1;
	assert_int_equal(1, granary_read_batch(c, &b, NULL, &leased));
	PEER_SET(peer, silent, true);
	assert_int_equal(0, granary_ping_start(c, NULL, &op));
	granary_close(&c);
	assert_null(c);
	assert_int_equal(-GRANARY_ECANCELED, granary_op_result(op));
	granary_op_free(&op);
	assert_content("x", e.data, 0, 5000); /* the view outlives its client */
	granary_op_free(&leased);
}

static void test_leases_stay_within_memory_max(void **state)
{
	struct granary_client *c = open_client(1, 8 << 20);
	struct granary_entry e[2] = { { .ref = granary_ref_key("big") }, { .ref = granary_ref_key("big") } };
	struct granary_batch b = GRANARY_INIT(granary_batch);
	struct granary_op *first, *second;

	(void)state;
	peer_add(peer, "big", 6 << 20);
	b.entries = e;
	b.count = 1;
	b.bytes_hint = 6 << 20;
	assert_int_equal(1, granary_read_batch(c, &b, NULL, &first));
	b.entries = e + 1;
	assert_int_equal(-GRANARY_EBUSY, granary_read_batch_start(c, &b, NULL, &second));
	assert_null(second);
	assert_int_equal(-GRANARY_EBUSY, granary_read_batch(c, &b, GRANARY_CALL(.timeout_ms = 50), &second));
	granary_op_free(&second);
	granary_op_free(&first);
	assert_int_equal(1, granary_read_batch(c, &b, NULL, &second));
	granary_op_free(&second);
	b.entries = e;
	b.count = 2;
	b.bytes_hint = 0; /* guessed too low: what does not fit is marked */
	assert_int_equal(1, granary_read_batch(c, &b, NULL, &first));
	assert_true(e[0].status == -GRANARY_ENOMEM || e[1].status == -GRANARY_ENOMEM);
	granary_op_free(&first);
	granary_close(&c);
}

/* ---- writing, looking, deleting ---- */

static void test_put_then_get(void **state)
{
	void *data;
	size_t len;

	(void)state;
	assert_int_equal(0, granary_put(client, "a", "hello", 5, NULL));
	assert_int_equal(0, granary_put(client, "empty", NULL, 0, NULL));
	assert_int_equal(2, peer->last_sequence);
	assert_int_equal(0, granary_get(client, "a", &data, &len, NULL));
	assert_memory_equal("hello", data, 5);
	granary_free(data);
	struct granary_put p = { .ref = granary_ref_key("a"), .data = "x", .size = 1, .flags = GRANARY_PUT_IF_ABSENT };
	assert_int_equal(0, granary_put_batch(client, &p, 1, NULL));
	assert_int_equal(-GRANARY_EPRECONDITION, p.status);
	p.flags = 0;
	assert_int_equal(1, granary_put_batch(client, &p, 1, NULL));
	assert_true(p.version > p.replaced_version && p.replaced_version > 0);
}

static void test_put_batch_mixes_small_and_large(void **state)
{
	enum { COUNT = 40 };
	struct granary_put puts[COUNT] = { { .flags = 0 } };
	size_t len;
	void *data;

	(void)state;
	for (size_t i = 0; i < COUNT; i++) {
		size_t size = i % 13 == 5 ? 9 * 1024 * 1024 + i : i % 13 == 6 ? 4 * 1024 * 1024 : 1000 * i;
		uint8_t *bytes = malloc(size + 8);
		snprintf(keys[i], sizeof(keys[i]), "put%02zu", i);
		peer_fill(keys[i], bytes, size);
		puts[i] = (struct granary_put){ .ref = granary_ref_key(keys[i]), .data = bytes, .size = size };
	}
	assert_int_equal(COUNT, granary_put_batch(client, puts, COUNT, NULL));
	for (size_t i = 0; i < COUNT; i++) {
		assert_int_equal(0, granary_get(client, keys[i], &data, &len, NULL));
		assert_int_equal(puts[i].size, len);
		assert_memory_equal(puts[i].data, data, len);
		granary_free(data);
		free((void *)(uintptr_t)puts[i].data);
	}
}

static int64_t source(void *arg, void *buf, size_t len)
{
	uint64_t *left = arg;
	size_t n = *left < len ? (size_t)*left : len;

	memset(buf, 'a', n);
	*left -= n;
	return (int64_t)n;
}

static void test_put_stream_of_any_size(void **state)
{
	static const uint64_t sizes[] = { 0, 1, 4 << 20, (4 << 20) + 1, 23000000 };
	struct granary_put p = { .ref = granary_ref_key("stream") };
	void *data;
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t left = sizes[i];
		assert_int_equal(sizes[i], granary_put_stream(client, &p, source, &left, NULL));
		assert_int_equal(0, p.status);
		assert_int_equal(0, granary_get(client, "stream", &data, &len, NULL));
		assert_int_equal(sizes[i], len);
		for (size_t at = 0; at < len; at += 4095)
			assert_int_equal('a', ((const char *)data)[at]);
		granary_free(data);
	}
}

static void test_stat_and_its_metadata(void **state)
{
	struct granary_ref refs[2] = { granary_ref_key("a"), granary_ref_key("missing") };
	struct granary_stat st[2];

	(void)state;
	peer_add(peer, "a", 77);
	assert_int_equal(0, granary_stat(client, refs[0], &st[0], NULL));
	assert_int_equal(77, st[0].size);
	assert_null(st[0].meta);
	assert_int_equal(-GRANARY_ENOTFOUND, granary_stat(client, refs[1], &st[1], NULL));
	assert_int_equal(1, granary_stat_batch(client, refs, 2, GRANARY_STAT_META, st, NULL));
	assert_int_equal(1, st[0].meta_count);
	assert_string_equal("name", st[0].meta[0].name);
	assert_string_equal("text", st[0].meta[0].value);
	granary_free(st[0].meta);
	assert_int_equal(-GRANARY_ENOTFOUND, st[1].status);
}

static void test_listing_across_pages(void **state)
{
	struct granary_list_query q = GRANARY_INIT(granary_list_query);
	const struct granary_list_entry *e;
	struct granary_list_page *page;
	struct granary_iter *it;
	size_t n = 0;

	(void)state;
	add_many(100, 10);
	q.max = 7;
	assert_int_equal(0, granary_list(client, &q, &page, NULL));
	assert_int_equal(7, page->count);
	assert_int_equal(1, page->more);
	granary_free(page);
	assert_int_equal(0, granary_iter_open(client, &q, NULL, &it));
	for (; granary_iter_next(it, &e) == 1; n++)
		assert_string_equal(keys[n], e->key);
	assert_int_equal(100, n);
	assert_int_equal(0, granary_iter_next(it, &e));
	granary_iter_close(&it);
	q.max = 1001;
	assert_int_equal(-GRANARY_EINVAL, granary_list(client, &q, &page, NULL));
	q.max = 0;
	assert_int_equal(0, granary_iter_open(client, &q, NULL, &it)); /* closed while a page is on its way */
	granary_iter_close(&it);
}

static void test_delete(void **state)
{
	(void)state;
	peer_add(peer, "a", 1);
	assert_int_equal(0, granary_delete(client, "a", NULL));
	assert_int_equal(-GRANARY_ENOTFOUND, granary_delete(client, "a", NULL));
}

static void test_status_text_and_counters(void **state)
{
	struct granary_info info = GRANARY_INIT(granary_info);
	char *text;

	(void)state;
	assert_int_equal(0, granary_status(client, &text, NULL));
	assert_string_equal("requests 1\n", text);
	granary_free(text);
	assert_int_equal(0, granary_client_info(client, &info));
	assert_string_equal("test peer", info.server_version);
	assert_int_equal(1, info.requests);
	assert_int_equal(1, info.session_id);
	assert_int_equal(-GRANARY_EUNSUPPORTED, granary_rmdir(client, granary_ref_key("d"), NULL));
}

static void test_arguments_that_are_refused(void **state)
{
	struct granary_ref none = { .kind = GRANARY_REF_KEY }, odd = { .kind = 9, .name = "x" };
	struct granary_batch b = GRANARY_INIT(granary_batch);
	struct granary_entry e = { .ref = { .kind = 0 } };
	struct granary_stat st;
	char *text = malloc(70001);
	struct granary_op *op;

	(void)state;
	memset(text, 'x', 70000);
	text[70000] = '\0';
	assert_int_equal(-GRANARY_EINVAL, granary_stat(client, none, &st, NULL));
	assert_int_equal(-GRANARY_EINVAL, granary_stat(client, odd, &st, NULL));
	assert_int_equal(-GRANARY_ENAME, granary_stat(client, granary_ref_key(text), &st, NULL));
	assert_int_equal(-GRANARY_ENAME, granary_ping(client, GRANARY_CALL(.bucket = text)));
	assert_int_equal(-GRANARY_EINVAL, granary_ping(NULL, NULL));
	b.entries = &e;
	b.count = 1;
	assert_int_equal(-GRANARY_EINVAL, granary_read_batch(client, &b, NULL, &op));
	e.ref = granary_ref_key("x");
	b.align = 3;
	assert_int_equal(-GRANARY_EINVAL, granary_read_batch(client, &b, NULL, &op));
	b.align = 0;
	b.size = 0;
	assert_int_equal(-GRANARY_EINVAL, granary_read_batch(client, &b, NULL, &op));
	b.size = sizeof(b);
	b.count = 0;
	assert_int_equal(0, granary_read_batch(client, &b, NULL, &op)); /* nothing asked, nothing served */
	granary_op_free(&op);
	free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* ---- engines ---- */

static void test_engine_in_use_is_named(void **state)
{
	static const char *const names[] = { [GRANARY_ENGINE_EPOLL] = "epoll", [GRANARY_ENGINE_URING] = "uring" };
	const char *env = getenv("GRANARY_CLIENT_ENGINE");
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_info info = GRANARY_INIT(granary_info);

	(void)state;
	assert_int_equal(0, granary_client_info(client, &info));
	assert_string_equal(env && *env ? env : "epoll", info.engine);
	o.url = peer->url;
	o.access_key = PEER_KEY;
	o.secret = PEER_SECRET;
	for (o.engine = GRANARY_ENGINE_EPOLL; o.engine <= GRANARY_ENGINE_URING; o.engine++) {
		struct granary_client *c;
		int err = granary_open(&o, &c);
		if (err == -GRANARY_EUNSUPPORTED)
			continue;
		assert_int_equal(0, err);
		assert_int_equal(0, granary_client_info(c, &info));
		assert_string_equal(names[o.engine], info.engine); /* the environment decides for AUTO only */
		granary_close(&c);
	}
	assert_int_equal(-GRANARY_EINVAL, granary_open(&o, &(struct granary_client *){ NULL }));
}

/* In a child: from now on the system call `number` fails with `posix`. */
static bool forbid(unsigned number, unsigned posix)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | posix),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(rules) / sizeof(rules[0]), rules };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int child_without_uring(unsigned number, unsigned posix)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_client *c;

	o.url = peer->url;
	o.access_key = PEER_KEY;
	o.secret = PEER_SECRET;
	o.engine = GRANARY_ENGINE_URING;
	if (!forbid(number, posix))
		return 77;
	if (granary_open(&o, &c) != -GRANARY_EUNSUPPORTED || !strstr(granary_last_error(NULL), "io_uring"))
		return 1;
	unsetenv("GRANARY_CLIENT_ENGINE");
	o.engine = GRANARY_ENGINE_AUTO;
	if (granary_open(&o, &c) != 0 || granary_ping(c, NULL) != 0)
		return 2;
	granary_close(&c);
	return 0;
}

static void test_engine_that_the_kernel_forbids(void **state)
{
	static const struct { unsigned number, posix; } calls_forbidden[] = {
		{ SYS_io_uring_setup, ENOSYS }, { SYS_io_uring_setup, EPERM }, { SYS_io_uring_enter, EPERM },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(calls_forbidden) / sizeof(calls_forbidden[0]); i++) {
		int status;
		pid_t pid = fork();
		if (pid == 0)
			_exit(child_without_uring(calls_forbidden[i].number, calls_forbidden[i].posix));
		assert_int_equal(pid, waitpid(pid, &status, 0));
		assert_true(WIFEXITED(status));
		if (WEXITSTATUS(status) == 77)
			skip(); /* no filters here */
		assert_int_equal(0, WEXITSTATUS(status));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_get_whole_objects_of_all_sizes),
		TEST(test_read_cuts_ranges),
		TEST(test_batch_leased_marks_what_is_missing),
		TEST(test_batch_into_one_slab_in_order),
		TEST(test_batch_into_own_buffers_and_blocks),
		TEST(test_batch_of_more_than_one_request_on_many_connections),
		TEST(test_version_asked_for),
		TEST(test_stream_of_a_large_object),
		TEST(test_eventfd_is_readable_while_something_is_done),
		TEST(test_eventfd_asked_for_when_something_is_done_already),
		TEST(test_wait_runs_the_callback_once),
		TEST(test_cancel_and_free_under_way),
		TEST(test_close_under_way_leaves_operations_valid),
		TEST(test_leases_stay_within_memory_max),
		TEST(test_put_then_get),
		TEST(test_put_batch_mixes_small_and_large),
		TEST(test_put_stream_of_any_size),
		TEST(test_stat_and_its_metadata),
		TEST(test_listing_across_pages),
		TEST(test_delete),
		TEST(test_status_text_and_counters),
		TEST(test_arguments_that_are_refused),
		TEST(test_engine_in_use_is_named),
		TEST(test_engine_that_the_kernel_forbids),
	};

	if (peer_engine_missing())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
