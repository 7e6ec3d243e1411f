/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a client may be used on both sides of a fork, and a child that does not use it disturbs nothing. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "granary/granary.h"
#include "test_client_peer.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif
#ifndef UNDER_ASAN
#define UNDER_ASAN 0
#endif

static struct peer *peer;
static struct granary_client *client;

static int setup(void **state)
{
	struct granary_options o = GRANARY_INIT(granary_options);

	(void)state;
	peer = peer_start();
	o.url = peer->url;
	o.access_key = PEER_KEY;
	o.secret = PEER_SECRET;
	o.timeout_ms = 10000;
	return granary_open(&o, &client);
}

static int teardown(void **state)
{
	(void)state;
	granary_close(&client);
	peer_stop(peer);
	return 0;
}

/* Runs `child` in a forked process; it returns 0 when all is well, else the line that is not. */
static void in_child(int (*child)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(child());
	assert_true(pid > 0);
	assert_int_equal(pid, waitpid(pid, &status, 0));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("the child failed: status %x, line %d", (unsigned)status, WEXITSTATUS(status));
}

#define CHECK(x) do { if (!(x)) return __LINE__ & 255 ? __LINE__ & 255 : 1; } while (0)

static bool reads_a(void)
{
	uint8_t expected[5000 + 8];
	void *data;
	size_t len;

	peer_fill("a", expected, 5000);
	bool good = granary_get(client, "a", &data, &len, NULL) == 0 && len == 5000 && memcmp(data, expected,
		5000) == 0;
	granary_free(data);
	return good;
}

static int child_reads(void)
{
	CHECK(reads_a());
	granary_close(&client);
	return 0;
}

static void test_both_sides_read(void **state)
{
	(void)state;
	peer_add(peer, "a", 5000);
	assert_true(reads_a());
	in_child(child_reads);
	assert_true(reads_a());
	assert_int_equal(2, peer->logins);
	assert_int_equal(2, peer->next_session); /* one each */
}

static int child_does_nothing(void)
{
	return 0;
}

static int child_closes(void)
{
	granary_close(&client);
	return 0;
}

static void test_child_that_does_not_use_it(void **state)
{
	(void)state;
	peer_add(peer, "a", 5000);
	assert_true(reads_a());
	in_child(child_does_nothing);
	in_child(child_closes);
	assert_true(reads_a());
	assert_int_equal(1, peer->logins);
}

static struct granary_op *op;
static struct granary_upload *up;
static int fd_before;

static int child_meets_operations_of_the_parent(void)
{
	struct pollfd fd = { .fd = fd_before, .events = POLLIN };

	CHECK(granary_fd(client) == fd_before);
	CHECK(poll(&fd, 1, 0) == 1);
	CHECK(granary_op_result(op) == -GRANARY_EFORKED);
	CHECK(granary_wait(op, GRANARY_FOREVER) == -GRANARY_EFORKED);
	granary_op_free(&op);
	CHECK(poll(&fd, 1, 0) == 0);
	CHECK(granary_upload_write(up, "x", 1) == -GRANARY_EFORKED);
	granary_upload_free(&up);
	CHECK(granary_ping(client, GRANARY_CALL(.timeout_ms = 100)) == -GRANARY_ETIMEDOUT);
	granary_close(&client);
	return 0;
}

static void test_operations_under_way_belong_to_the_parent(void **state)
{
	struct granary_put put = { .ref = granary_ref_key("u") };

	(void)state;
	fd_before = granary_fd(client);
	assert_int_equal(0, granary_upload_new(client, &put, NULL, &up));
	assert_int_equal(0, granary_upload_write(up, "abc", 3));
	assert_int_equal(0, granary_ping(client, NULL));
	PEER_SET(peer, silent, true);
	assert_int_equal(0, granary_ping_start(client, GRANARY_CALL(.timeout_ms = 1000), &op));
	in_child(child_meets_operations_of_the_parent);
	assert_int_equal(-GRANARY_EAGAIN, granary_wait(op, 0));
	assert_int_equal(-GRANARY_ETIMEDOUT, granary_wait(op, GRANARY_FOREVER)); /* its own deadline, here */
	granary_op_free(&op);
	PEER_SET(peer, silent, false);
	assert_int_equal(0, granary_upload_commit(up, NULL));
	granary_upload_free(&up);
}

static int child_forks_again(void)
{
	int status;

	CHECK(reads_a());
	pid_t pid = fork();
	if (pid == 0)
		_exit(child_reads());
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(reads_a());
	granary_close(&client);
	return 0;
}

static void test_grandchildren(void **state)
{
	(void)state;
	peer_add(peer, "a", 5000);
	in_child(child_forks_again); /* before the first use */
	assert_true(reads_a());
	in_child(child_forks_again);
	assert_true(reads_a());
}

static void *reader(void *arg)
{
	bool *good = arg;

	for (int i = 0; i < 300 && *good; i++)
		*good = reads_a();
	return NULL;
}

static void test_fork_while_threads_read(void **state)
{
	pthread_t threads[3];
	bool good[3] = { true, true, true };

	(void)state;
	if (UNDER_ASAN)
		skip(); /* its allocator's locks are copied as they are when another thread holds them */
	peer_add(peer, "a", 5000);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, reader, &good[i]);
	for (int i = 0; i < 20; i++)
		in_child(child_reads);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		assert_true(good[i]);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_both_sides_read),
		TEST(test_child_that_does_not_use_it),
		TEST(test_operations_under_way_belong_to_the_parent),
		TEST(test_grandchildren),
		TEST(test_fork_while_threads_read),
	};

	if (peer_engine_missing())
		return 77;
	if (UNDER_TSAN) { /* it allows no threads after a fork */
		puts("skipped under ThreadSanitizer");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
