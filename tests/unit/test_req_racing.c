/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: requests of many connections on few names: each read gives one version whole, nothing
 * hangs, nothing fails but as the protocol says; compaction and restarts in between lose nothing.
 * */
#include "harness_store.h"

#include "jobs/jobs.h"
#include "pack/writer.h"
#include "req/store.h"

enum { RACERS = 8, ROUNDS = 150, KEYS = 12, SIZE_MAX_BYTES = 200000 };

static struct world world;

static void key_of(char key[64], uint64_t n)
{
	snprintf(key, 64, "d%u/k%u", (unsigned)(n % 3), (unsigned)(n % KEYS));
}

/* The first 8 bytes say what all others are. */
static void stamp(uint8_t *data, size_t size, uint64_t seed)
{
	fill(data, size, seed);
	memcpy(data, &seed, 8);
}

static void check_stamp(const struct read_result *r)
{
	uint8_t *data = malloc(r->len);
	uint64_t seed;

	assert(r->len >= 8 && r->len == r->size);
	memcpy(&seed, r->data, 8);
	stamp(data, r->len, seed);
	assert(memcmp(data, r->data, r->len) == 0);
	free(data);
}

static void racer_read(struct peer *p, struct rng *rng)
{
	struct msg m = read_msg("data", rng_below(rng, 2) ? READ_IN_ORDER : 0, KEYS);
	struct read_result r[KEYS];
	struct call *c;
	char key[64];

	for (uint64_t i = 0; i < KEYS; i++) {
		key_of(key, i);
		wr_u8(&m.w, 0);
		msg_key(&m, key);
	}
	c = msg_call(p, OP_READ, 0, &m, NULL, 0);
	read_results(c, r, KEYS);
	for (uint64_t i = 0; i < KEYS; i++) {
		if (r[i].err == 0)
			check_stamp(&r[i]);
		else
			assert(r[i].err == -GRANARY_ENOTFOUND || r[i].err == -GRANARY_EBUSY);
	}
	read_free(r, KEYS);
	call_free(c);
}

static void racer_put(struct peer *p, struct rng *rng)
{
	size_t size = 8 + rng_below(rng, rng_below(rng, 10) == 0 ? SIZE_MAX_BYTES : 5000);
	uint8_t *data = malloc(size + 8);
	char key[64];
	int err;

	stamp(data, size, rng_next(rng));
	key_of(key, rng_next(rng));
	err = put_key(p, "data", key, data, size).err;
	assert(err == 0 || err == -GRANARY_EBUSY);
	free(data);
}

static void *racer(void *arg)
{
	uint32_t index = (uint32_t)(uintptr_t)arg;
	struct peer p;
	struct rng rng;
	char key[64];

	rng_seed(&rng, index + 1);
	peer_init(&p, &world, "root", index);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint64_t what = rng_below(&rng, 10);

		if (what < 4) {
			racer_read(&p, &rng);
		} else if (what < 8) {
			racer_put(&p, &rng);
		} else {
			key_of(key, rng_next(&rng));
			int err = delete_key(&p, "data", key);
			assert(err == 0 || err == -GRANARY_ENOTFOUND || err == -GRANARY_EBUSY);
		}
	}
	peer_release(&p);
	return NULL;
}

static void race(void)
{
	pthread_t threads[RACERS];

	for (uintptr_t i = 0; i < RACERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, racer, (void *)i), 0);
	for (uint32_t i = 0; i < 5; i++) {
		writers_rotate(world.store->writers, true);
		assert_int_equal(jobs_pass(world.store->jobs), 0);
		usleep(20000);
	}
	for (uint32_t i = 0; i < RACERS; i++) pthread_join(threads[i], NULL);
}

static void test_racing_requests_see_whole_versions(void **state)
{
	struct peer p;

	(void)state;
	world_new(&world);
	key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&p, &world, "root", 0);
	assert_int_equal(simple_call(&p, OP_BUCKET_CREATE, "data"), 0);
	peer_release(&p);
	for (int round = 0; round < 2; round++) {
		race();
		world_restart(&world);
		race();
	}
	struct rng rng;

	rng_seed(&rng, 1);
	peer_init(&p, &world, "root", 0);
	racer_read(&p, &rng);
	peer_release(&p);
	world_free(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(
		test_racing_requests_see_whole_versions) };

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
