/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: any thread may use one client at any time: starts, waits, polls, cancels, frees. For ThreadSanitizer too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "granary/granary.h"
#include "test_client_peer.h"

enum { THREADS = 4, ROUNDS = 60, BATCH = 64 };

static struct peer *peer;
static struct granary_client *client;
static char keys[BATCH][32];

static void check_entries(const struct granary_entry *e, size_t count)
{
	uint8_t expected[3000 + 8];

	for (size_t i = 0; i < count; i++) {
		assert_int_equal(0, e[i].status);
		peer_fill(e[i].ref.name, expected, 3000);
		assert_memory_equal(expected, e[i].data, 3000);
	}
}

static void *thread_main(void *arg)
{
	struct rng rng;

	rng_seed(&rng, (uintptr_t)arg);
	for (int round = 0; round < ROUNDS; round++) {
		struct granary_entry e[2][BATCH] = { { { .flags = 0 } } };
		struct granary_batch b = GRANARY_INIT(granary_batch);
		struct granary_op *ops[2];
		b.count = BATCH;
		for (int o = 0; o < 2; o++) {
			for (int i = 0; i < BATCH; i++)
				e[o][i].ref = granary_ref_key(keys[rng_below(&rng, BATCH)]);
			b.entries = e[o];
			assert_int_equal(0, granary_read_batch_start(client, &b, NULL, &ops[o]));
		}
		if (rng_below(&rng, 4) == 0)
			granary_op_cancel(ops[1]);
		assert_int_equal(BATCH, granary_wait(ops[0], GRANARY_FOREVER));
		check_entries(e[0], BATCH);
		granary_poll(client, 1);
		granary_op_free(&ops[0]);
		granary_op_free(&ops[1]); /* maybe under way */
	}
	return NULL;
}

static void run(uint32_t connections)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	pthread_t threads[THREADS];

	peer = peer_start();
	o.url = peer->url;
	o.access_key = PEER_KEY;
	o.secret = PEER_SECRET;
	o.connections = connections;
	assert_int_equal(0, granary_open(&o, &client));
	for (int i = 0; i < BATCH; i++) {
		snprintf(keys[i], sizeof(keys[i]), "obj%d", i);
		peer_add(peer, keys[i], 3000);
	}
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, thread_main, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	granary_close(&client);
	peer_stop(peer);
}

static void test_threads_share_a_connection(void **state)
{
	(void)state;
	run(1);
}

static void test_threads_share_connections(void **state)
{
	(void)state;
	run(3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads_share_a_connection),
		cmocka_unit_test(test_threads_share_connections),
	};

	if (peer_engine_missing())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
