/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: an upload in parts that nobody finished is ended once it is as old as the setting says; others are left
 * alone. */
#include "harness_store.h"

#include "jobs/jobs_priv.h"
#include "meta/kv.h"
#include "meta/ns_file.h"

static struct world world;

static uint64_t upload_start(const char *key)
{
	struct ns_plan *plan = ns_plan_new(world.store->ns);
	struct ns_bucket bucket;
	struct ns_upload_start u = { .key = slice_str(key), .mode = 0644 };
	int err;

	assert_int_equal(ns_bucket_find(world.store->ns, slice_str("photos"), &bucket), 0);
	u.bucket = bucket.id;
	assert_int_equal(ns_plan_upload_start(plan, &u), 0);
	assert_int_equal(ns_plan_finish(plan), 0);
	err = kv_submit_wait(world.store->kv, ns_plan_txn(plan));
	ns_plan_committed(plan, err);
	assert_int_equal(err, 0);
	ns_plan_free(&plan);
	return u.id;
}

static bool is_there(uint64_t upload)
{
	char buf[KEY_LEN_MAX];
	struct slice key;
	uint64_t bucket;

	return ns_upload_key(world.store->ns, upload, &bucket, &key, buf) == 0;
}

static void test_abandoned_uploads_are_ended(void **state)
{
	struct jobs *jobs;
	uint64_t first, second, third;

	(void)state;
	world_new(&world);
	jobs = world.store->jobs;
	assert_int_equal(ns_bucket_create(world.store->ns, slice_str("photos"), slice_of("", 0)), 0);
	first = upload_start("a/large");
	second = upload_start("a/other");
	assert_int_equal(jobs->o.upload_expire_ns, UINT64_C(7) * 24 * 3600 * 1000000000);
	assert_int_equal(jobs_pass(jobs), 0);
	assert_true(is_there(first) && is_there(second));
	jobs->o.upload_expire_ns = 0; /* never */
	assert_int_equal(jobs_pass(jobs), 0);
	assert_true(is_there(first));
	jobs->o.upload_expire_ns = 1;
	assert_int_equal(jobs_pass(jobs), 0);
	assert_false(is_there(first) || is_there(second));
	jobs->o.upload_expire_ns = UINT64_C(3600000000000);
	third = upload_start("a/third");
	assert_int_equal(jobs_pass(jobs), 0);
	assert_true(is_there(third));
	world_free(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_abandoned_uploads_are_ended) };

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
