/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: ns.h's promises one by one, on both engines; refusals first. */
#include "unit/test_ns_util.h"

static struct slice S(const char *s) { return slice_str(s); }

/* ---- buckets ---- */

static void test_buckets_are_made_found_listed_removed_and_loaded(void **state)
{
	struct world *w = *state;
	struct ns_bucket b, all[8];
	assert_int_equal(ns_bucket_create(w->ns, S("alpha"), S("k")), 0);
	assert_int_equal(ns_bucket_create(w->ns, S("alpha"), S("k")), -GRANARY_EEXIST);
	assert_int_equal(ns_bucket_create(w->ns, S("No"), S("k")), -GRANARY_ENAME);
	assert_int_equal(ns_bucket_create(w->ns, S(".granary"), S("k")), -GRANARY_ENAME);
	assert_int_equal(ns_bucket_list(w->ns, S(""), all, 8), 2);
	assert_string_equal(all[0].name, "alpha");
	assert_int_equal(ns_bucket_list(w->ns, S("alpha"), all, 8), 1);
	assert_string_equal(all[0].name, "data");
	assert_int_equal(ns_bucket_find(w->ns, S("alpha"), &b), 0);
	uint64_t id = b.id;
	world_close(w);
	world_open(w);
	assert_int_equal(ns_bucket_find(w->ns, S("alpha"), &b), 0);
	assert_int_equal(b.id, id);
	assert_int_equal(ns_bucket_by_id(w->ns, id, &b), 0);
	assert_string_equal(b.name, "alpha");
	assert_int_equal(ns_bucket_remove(w->ns, S("nothere")), -GRANARY_ENOBUCKET);
	assert_int_equal(ns_bucket_remove(w->ns, S("alpha")), 0);
	assert_int_equal(ns_bucket_by_id(w->ns, id, &b), -GRANARY_ENOBUCKET);
	assert_int_equal(put_key(w, "a/x"), 0);
	assert_int_equal(ns_bucket_remove(w->ns, S("data")), -GRANARY_ENOTEMPTY);
	assert_int_equal(delete_key(w, "a/x"), 0);
	assert_int_equal(ns_bucket_remove(w->ns, S("data")), 0);
	assert_int_equal(put_key(w, "a/x"), -GRANARY_ENOBUCKET);
	check_rows(w);
}

/* ---- keys ---- */

static void test_refuses_bad_keys_everywhere(void **state)
{
	struct world *w = *state;
	static char long_key[KEY_LEN_MAX + 1];
	memset(long_key, 'k', sizeof(long_key));
	struct slice bad[] = { S(""), slice_of(long_key, KEY_LEN_MAX + 1), slice_of("a\0b", 3), S("a\xff"),
			       S("\xc0\x80"), S("\xed\xa0\x80") };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct ns_ref ref = by_key_slice(w, bad[i]), good = by_key(w, "good");
		struct ns_ref name = { .by = NS_BY_NAME, .dir = w->bucket.root, .name = bad[i] };
		uint64_t dir, group;
		assert_int_equal(mutate(w, &(struct mutation){ .kind = M_PUT, .ref = ref }), -GRANARY_ENAME);
		assert_int_equal(mutate(w, &(struct mutation){ .kind = M_DELETE, .ref = ref }), -GRANARY_ENAME);
		assert_int_equal(mutate(w, &(struct mutation){ .kind = M_MKDIR, .ref = ref }), -GRANARY_ENAME);
		assert_int_equal(mutate(w, &(struct mutation){ .kind = M_RMDIR, .ref = ref }), -GRANARY_ENAME);
		assert_int_equal(mutate(w, &(struct mutation){ .kind = M_RENAME, .ref = good, .to = ref }),
				 -GRANARY_ENAME);
		assert_int_equal(mutate(w, &(struct mutation){ .kind = M_RENAME, .ref = ref, .to = good }),
				 -GRANARY_ENAME);
		assert_int_equal(look_up(w, ref, NULL), -GRANARY_ENAME);
		assert_int_equal(ns_parent(w->ns, &ref, &dir, &group), -GRANARY_ENAME);
		if (i > 0)
			assert_int_equal(look_up(w, name, NULL), -GRANARY_ENAME);
	}
	struct ns_ref slash = by_name(w->bucket.root, "a/b");
	assert_int_equal(look_up(w, slash, NULL), -GRANARY_ENAME);
	long_key[KEY_LEN_MAX] = '\0';
	assert_int_equal(put_key(w, long_key), 0);
	assert_int_equal(look_up_key(w, long_key), 0);
	for (size_t i = 1; i < KEY_LEN_MAX; i += 2)
		long_key[i] = '/';
	assert_int_equal(put_key(w, long_key), 0);
	assert_int_equal(look_up_key(w, long_key), 0);
	assert_int_equal(delete_key(w, long_key), 0); /* 512 implicit directories go with it */
	assert_int_equal(check_rows(w).dirs, 0);
}

static void test_odd_keys_are_stored_like_any_other(void **state)
{
	struct world *w = *state;
	const char *keys[] = { "/", "//", "a", "a/", "a//", "a//b", "a/./b", "a/../b", ".", "..", "./", "/x", "a/ ",
		"\x7f",
			       "\xc3\xa9/\xf0\x9f\x8c\xbe", "a!", "a0" };
	size_t n = sizeof(keys) / sizeof(keys[0]);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(put_size(w, keys[i], (uint32_t)i + 1), 0);
	for (size_t i = 0; i < n; i++) {
		struct found f;
		assert_int_equal(look_up(w, by_key(w, keys[i]), &f), 0);
		assert_int_equal(f.size, i + 1);
	}
	assert_int_equal(check_rows(w).files, n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(delete_key(w, keys[i]), 0);
	struct tally t = check_rows(w);
	assert_int_equal(t.files, 0);
	assert_int_equal(t.dirs, 0);
}

/* ---- put and delete ---- */

static void test_conditional_puts(void **state)
{
	struct world *w = *state;
	struct mutation m = { .kind = M_PUT, .ref = by_key(w, "a/x"), .condition = NS_IF_VERSION, .if_version = 1 };
	assert_int_equal(mutate(w, &m), -GRANARY_EPRECONDITION);
	m = (struct mutation){ .kind = M_PUT, .ref = by_key(w, "a/x"), .condition = NS_IF_ABSENT, .size = 3 };
	assert_int_equal(mutate(w, &m), 0);
	assert_int_equal(m.replaced, 0);
	uint64_t version = m.version;
	assert_int_equal(mutate(w, &m), -GRANARY_EPRECONDITION);
	m = (struct mutation){ .kind = M_PUT, .ref = by_key(w, "a/x"), .condition = NS_IF_VERSION,
			       .if_version = version + 1 };
	assert_int_equal(mutate(w, &m), -GRANARY_EPRECONDITION);
	m.if_version = version;
	m.size = 4;
	assert_int_equal(mutate(w, &m), 0);
	assert_int_equal(m.replaced, version);
	struct mutation d = { .kind = M_DELETE, .ref = by_key(w, "a/x"), .condition = NS_IF_VERSION,
		.if_version = version };
	assert_int_equal(mutate(w, &d), -GRANARY_EPRECONDITION);
	d.if_version = m.version;
	assert_int_equal(mutate(w, &d), 0);
	assert_int_equal(d.deleted.version, m.version);
	assert_int_equal(d.deleted.size, 4);
	assert_int_equal(mutate(w, &d), -GRANARY_ENOTFOUND);
	check_rows(w);
}

static void test_implicit_directories_vanish_with_their_last_child(void **state)
{
	struct world *w = *state;
	assert_int_equal(put_key(w, "a/b/c/x"), 0);
	assert_int_equal(put_key(w, "a/b/y"), 0);
	assert_int_equal(check_rows(w).dirs, 3);
	assert_int_equal(delete_key(w, "a/b/c/x"), 0);
	assert_int_equal(check_rows(w).dirs, 2);
	assert_int_equal(mkdir_key(w, "a/b"), 0); /* explicit now */
	assert_int_equal(delete_key(w, "a/b/y"), 0);
	assert_int_equal(check_rows(w).dirs, 2);
	assert_int_equal(look_up_key(w, "a/b/"), 0);
	assert_int_equal(delete_key(w, "a/b/"), 0);
	struct tally t = check_rows(w);
	assert_true(t.dirs == 0 && t.files == 0);
}

static void test_put_by_name_checks_directories_and_by_key_does_not(void **state)
{
	struct world *w = *state;
	assert_int_equal(put_key(w, "d/x"), 0);
	assert_int_equal(put_key(w, "d"), 0); /* beside the directory */
	struct mutation m = { .kind = M_PUT, .ref = by_name(w->bucket.root, "d") };
	assert_int_equal(mutate(w, &m), -GRANARY_EISDIR);
	m.ref = by_name(dir_id(w, "d/"), "y");
	assert_int_equal(mutate(w, &m), 0);
	assert_int_equal(look_up_key(w, "d/y"), 0);
	m.ref = by_name(12345678, "y");
	assert_int_equal(mutate(w, &m), -GRANARY_ENOTFOUND);
	m.ref = by_name(w->bucket.root, ""); /* its key would have no byte */
	assert_int_equal(mutate(w, &m), -GRANARY_ENAME);
	struct mutation d = { .kind = M_DELETE, .ref = by_name(w->bucket.root, "d") };
	assert_int_equal(mutate(w, &d), 0);
	assert_int_equal(mutate(w, &d), -GRANARY_EISDIR);
	check_rows(w);
}

static uint64_t dir_time(struct world *w, const char *key)
{
	struct ns_ref ref = by_key(w, key);
	struct kv_value value;
	struct object o;
	assert_int_equal(ns_file_find(w->ns, &ref, &o, &value), 0);
	kv_value_release(&value);
	assert_true(o.is_dir);
	return o.mtime_ns;
}

/* A child that comes between reading the row and writing it. */
static void test_who_rewrites_a_directory_does_not_take_its_time_back(void **state)
{
	struct world *w = *state;
	struct ns_setattr mode = { .set = NS_SET_MODE, .mode = 0700 }, time = { .set = NS_SET_MTIME, .mtime_ns = 5 };
	struct ns_ref dir = by_key(w, "d/"), to = by_key(w, "e/");
	assert_int_equal(put_key(w, "d/x"), 0);
	for (int how = 0; how < 3; how++) {
		struct ns_plan *plan = ns_plan_new(w->ns);
		uint64_t before = dir_time(w, "d/"), then;
		char key[16];
		int err = how == 0 ? ns_plan_setattr(plan, &dir, &mode)
			  : how == 1 ? ns_plan_setattr(plan, &dir, &time)
				     : ns_plan_rename(plan, &dir, &to, false);
		assert_int_equal(err, 0);
		assert_int_equal(ns_plan_finish(plan), 0);
		snprintf(key, sizeof(key), "d/y%d", how);
		assert_int_equal(put_key(w, key), 0);
		then = dir_time(w, "d/");
		assert_true(then > before);
		err = kv_submit_wait(w->store.kv, ns_plan_txn(plan));
		ns_plan_committed(plan, err);
		assert_int_equal(err, 0);
		ns_plan_free(&plan);
		assert_int_equal(dir_time(w, how == 2 ? "e/" : "d/"), how == 1 ? 5 : then);
	}
}

static void test_put_with_another_parent_than_appended_for_is_refused(void **state)
{
	struct world *w = *state;
	struct ns_ref ref = by_key(w, "a/x");
	uint64_t dir, other, group;
	assert_int_equal(ns_parent(w->ns, &ref, &dir, &group), 0);
	assert_int_equal(ns_parent(w->ns, &ref, &other, &group), 0);
	assert_int_equal(dir, other); /* all who make a/ agree */
	assert_int_equal(group, w->bucket.id);
	assert_int_equal(ns_parent_cached(w->ns, &ref, &other, &group), -GRANARY_EAGAIN);
	assert_int_equal(put_key(w, "a/y"), 0);
	assert_int_equal(dir_id(w, "a/"), dir);
	assert_int_equal(delete_key(w, "a/y"), 0);
	assert_int_equal(put_key(w, "a/y"), 0);
	assert_true(dir_id(w, "a/") != dir); /* a directory made again is another */
	struct ns_plan *plan = ns_plan_new(w->ns);
	struct ns_put put = { .ref = ref, .parent = dir, .id = 1, .version = 1 };
	assert_int_equal(ns_plan_put(plan, &put), -GRANARY_ECHANGED);
	ns_plan_free(&plan);
}

static void test_entries_of_one_plan_see_each_other(void **state)
{
	struct world *w = *state;
	struct ns_plan *plan = ns_plan_new(w->ns);
	struct mutation first = { .kind = M_PUT, .ref = by_key(w, "n/e/w"), .size = 5 };
	struct mutation second = { .kind = M_PUT, .ref = by_key(w, "n/e/w"), .size = 6, .condition = NS_IF_ABSENT };
	struct mutation third = { .kind = M_PUT, .ref = by_key(w, "n/e/w"), .size = 7 };
	struct mutation gone = { .kind = M_PUT, .ref = by_key(w, "n/gone"), .size = 8 };
	struct mutation del = { .kind = M_DELETE, .ref = by_key(w, "n/gone") };
	struct mutation lone = { .kind = M_PUT, .ref = by_key(w, "lone/x"), .size = 8 };
	struct mutation lone_del = { .kind = M_DELETE, .ref = by_key(w, "lone/x") };
	assert_int_equal(mutation_plan(w, plan, &first), 0);
	assert_int_equal(mutation_plan(w, plan, &second), -GRANARY_EPRECONDITION);
	assert_int_equal(mutation_plan(w, plan, &third), 0);
	assert_int_equal(third.replaced, first.version);
	assert_int_equal(mutation_plan(w, plan, &gone), 0);
	assert_int_equal(mutation_plan(w, plan, &del), 0);
	assert_int_equal(mutation_plan(w, plan, &del), -GRANARY_ENOTFOUND);
	assert_int_equal(mutation_plan(w, plan, &lone), 0);
	assert_int_equal(mutation_plan(w, plan, &lone_del), 0);
	assert_int_equal(ns_plan_finish(plan), 0);
	int err = kv_submit_wait(w->store.kv, ns_plan_txn(plan));
	ns_plan_committed(plan, err);
	ns_plan_free(&plan);
	assert_int_equal(err, 0);
	struct found f;
	assert_int_equal(look_up(w, by_key(w, "n/e/w"), &f), 0);
	assert_int_equal(f.size, 7);
	assert_int_equal(look_up_key(w, "n/gone"), -GRANARY_ENOTFOUND);
	struct tally t = check_rows(w);
	assert_true(t.files == 1 && t.dirs == 2 && t.bytes == 7);
}

/* Two plans that rest on the same state: the second is refused, and right when planned again. */
static int plan_both(struct world *w, struct mutation *a, struct mutation *b, int *b_result)
{
	struct ns_plan *pa = ns_plan_new(w->ns), *pb = ns_plan_new(w->ns);
	int err = mutation_plan(w, pa, a);
	*b_result = mutation_plan(w, pb, b);
	if (err == 0)
		err = ns_plan_finish(pa);
	if (*b_result == 0)
		*b_result = ns_plan_finish(pb);
	if (err == 0) {
		err = kv_submit_wait(w->store.kv, ns_plan_txn(pa));
		ns_plan_committed(pa, err);
	}
	if (*b_result == 0) {
		*b_result = kv_submit_wait(w->store.kv, ns_plan_txn(pb));
		ns_plan_committed(pb, *b_result);
	}
	ns_plan_free(&pa);
	ns_plan_free(&pb);
	return err;
}

static void test_of_two_plans_that_cannot_both_hold_one_is_refused(void **state)
{
	struct world *w = *state;
	int b;
	struct mutation put_x = { .kind = M_PUT, .ref = by_key(w, "p/x"), .size = 1 };
	struct mutation put_y = { .kind = M_PUT, .ref = by_key(w, "p/y"), .size = 1 };
	assert_int_equal(plan_both(w, &put_x, &put_y, &b), 0); /* both make p/ with the same id: one is busy */
	assert_true(b == 0 || b == -GRANARY_EBUSY);
	assert_int_equal(mutate(w, &put_y), 0);
	struct mutation del_x = { .kind = M_DELETE, .ref = by_key(w, "p/x") };
	struct mutation del_y = { .kind = M_DELETE, .ref = by_key(w, "p/y") };
	assert_int_equal(plan_both(w, &del_x, &del_y, &b), 0); /* the last two children */
	assert_int_equal(b, -GRANARY_EBUSY);
	assert_int_equal(mutate(w, &del_y), 0);
	assert_int_equal(check_rows(w).dirs, 0);

	assert_int_equal(mkdir_key(w, "a"), 0);
	assert_int_equal(mkdir_key(w, "b"), 0);
	struct mutation a_to_b = { .kind = M_RENAME, .ref = by_key(w, "a"), .to = by_key(w, "b/a") };
	struct mutation b_to_a = { .kind = M_RENAME, .ref = by_key(w, "b"), .to = by_key(w, "a/b") };
	assert_int_equal(plan_both(w, &a_to_b, &b_to_a, &b), 0); /* would be a loop */
	assert_int_equal(b, -GRANARY_EBUSY);
	struct mutation rm = { .kind = M_RMDIR, .ref = by_key(w, "b/a") };
	struct mutation in = { .kind = M_PUT, .ref = by_key(w, "b/a/new"), .size = 1 };
	assert_int_equal(plan_both(w, &rm, &in, &b), 0);
	assert_int_equal(b, -GRANARY_EBUSY);
	assert_int_equal(mutate(w, &in), 0);
	struct mutation over = { .kind = M_PUT, .ref = by_key(w, "b/a/new"), .size = 2 };
	struct mutation move = { .kind = M_RENAME, .ref = by_key(w, "b/a/new"), .to = by_key(w, "b/a/moved") };
	assert_int_equal(plan_both(w, &over, &move, &b), 0);
	assert_int_equal(b, -GRANARY_EBUSY);
	struct mutation move2 = { .kind = M_RENAME, .ref = by_key(w, "b/a/new"), .to = by_key(w, "b/a/moved2") };
	assert_int_equal(plan_both(w, &move, &move2, &b), 0); /* the version does not change: kept apart by the plan */
	assert_int_equal(b, -GRANARY_EBUSY);
	check_rows(w);
}

/* Found by racing threads: the id that makers of p/ share is p/'s own by then, and p/ is called q/. */
static void test_directory_renamed_before_its_maker_is_told_is_not_made_twice(void **state)
{
	struct world *w = *state;
	struct ns_plan *maker = ns_plan_new(w->ns);
	struct mutation put = { .kind = M_PUT, .ref = by_key(w, "p/x"), .size = 1 };
	assert_int_equal(mutation_plan(w, maker, &put), 0);
	assert_int_equal(ns_plan_finish(maker), 0);
	assert_int_equal(kv_submit_wait(w->store.kv, ns_plan_txn(maker)), 0);
	assert_int_equal(rename_key(w, "p", "q"), 0);
	assert_int_equal(put_key(w, "p/y"), -GRANARY_EBUSY);
	assert_int_equal(mkdir_key(w, "p"), -GRANARY_EBUSY);
	check_rows(w);
	ns_plan_committed(maker, 0);
	ns_plan_free(&maker);
	assert_int_equal(put_key(w, "p/y"), 0);
	assert_int_equal(look_up_key(w, "q/x"), 0);
	assert_int_equal(check_rows(w).dirs, 2);
}

static void test_many_extents_spill_and_go_with_the_object(void **state)
{
	struct world *w = *state;
	enum { N = 11, LEN = 100 };
	struct extent extents[N];
	for (uint32_t i = 0; i < N; i++)
		extents[i] = (struct extent){ .pack = 5 + i % 2, .record = 8u * i, .skip = 64, .length = LEN,
					      .logical = i * LEN, .crc_count = 1, .crcs = world_crcs };
	struct ns_put put = { .ref = by_key(w, "big"), .id = ids_object(w->ids), .version = ids_version(w->ids),
			      .size = N * LEN, .extents = extents, .extent_count = N };
	struct ns_plan *plan = ns_plan_new(w->ns);
	assert_int_equal(ns_plan_put(plan, &put), 0);
	assert_int_equal(ns_plan_finish(plan), 0);
	assert_int_equal(kv_submit_wait(w->store.kv, ns_plan_txn(plan)), 0);
	ns_plan_committed(plan, 0);
	ns_plan_free(&plan);
	assert_int_equal(check_rows(w).extents, N);

	struct ns_place place;
	struct object o;
	struct kv_value value;
	struct obj_loc loc;
	assert_int_equal(ns_lookup(w->ns, &put.ref, &place, &o, &value), 0);
	assert_int_equal(o.extent_count, ROW_EXTENTS_INLINE_MAX);
	assert_int_equal(o.extents_outside, N - ROW_EXTENTS_INLINE_MAX);
	assert_int_equal(ns_find_cached(w->ns, &put.ref, &loc), -GRANARY_EAGAIN); /* not a thing the tables hold */

	/* who points at the record of extent 9, and move it */
	struct ns_record r = { .pack = 6, .record = 72, .object_id = put.id, .dir = w->bucket.root, .name = S("big"),
			       .version = put.version, .logical = 900 };
	assert_true(record_owner(w, &r, NULL));
	r.record = 80;
	assert_false(record_owner(w, &r, NULL));
	for (int which = 0; which < 2; which++) {
		uint32_t i = which == 0 ? 9 : 1;
		struct ns_move move = { .dir = w->bucket.root, .name = S("big"), .id = put.id,
					.from = extents[i], .to = extents[i] };
		move.to.pack = 99;
		plan = ns_plan_new(w->ns);
		assert_int_equal(ns_plan_move_extent(plan, &move), 0);
		assert_int_equal(ns_plan_finish(plan), 0);
		assert_int_equal(kv_submit_wait(w->store.kv, ns_plan_txn(plan)), 0);
		ns_plan_committed(plan, 0);
		ns_plan_free(&plan);
		plan = ns_plan_new(w->ns);
		assert_int_equal(ns_plan_move_extent(plan, &move), -GRANARY_ENOTFOUND);
		ns_plan_free(&plan);
		r = (struct ns_record){ .pack = extents[i].pack, .record = extents[i].record, .object_id = put.id,
					.dir = w->bucket.root, .name = S("big"), .logical = extents[i].logical };
		assert_false(record_owner(w, &r, NULL));
		r.pack = 99;
		assert_true(record_owner(w, &r, NULL));
	}
	kv_value_release(&value);
	check_rows(w);
	assert_int_equal(delete_key(w, "big"), 0);
	uint8_t buf[ROW_KEY_MAX];
	struct kv_iter *it = kv_iter_new(w->store.kv, NULL);
	kv_iter_seek(it, row_extent_prefix(buf, put.id, 0));
	assert_false(kv_iter_valid(it) && kv_iter_key(it).p[0] == 'x');
	kv_iter_free(&it);
	check_rows(w);
}

static int count_extent(void *arg, const struct extent *e)
{
	uint64_t *seen = arg;
	*seen |= UINT64_C(1) << (e->logical / 100);
	return 0;
}

static void test_extents_of_a_range(void **state)
{
	struct world *w = *state;
	struct extent extents[20];
	for (uint32_t i = 0; i < 20; i++)
		extents[i] = (struct extent){ .pack = 5, .record = 8u * i, .length = 100, .logical = i * 100,
			.crc_count = 1,
					      .crcs = world_crcs };
	struct ns_put put = { .ref = by_key(w, "big"), .id = ids_object(w->ids), .version = ids_version(w->ids),
			      .size = 2000, .extents = extents, .extent_count = 20 };
	struct ns_plan *plan = ns_plan_new(w->ns);
	assert_int_equal(ns_plan_put(plan, &put), 0);
	assert_int_equal(ns_plan_finish(plan), 0);
	assert_int_equal(kv_submit_wait(w->store.kv, ns_plan_txn(plan)), 0);
	ns_plan_committed(plan, 0);
	ns_plan_free(&plan);
	struct ns_place place;
	struct object o;
	struct kv_value value;
	uint64_t seen = 0;
	assert_int_equal(ns_lookup(w->ns, &put.ref, &place, &o, &value), 0);
	assert_int_equal(ns_extents(w->ns, &o, 650, 200, count_extent, &seen), 0);
	assert_int_equal(seen, 7u << 6);
	seen = 0;
	assert_int_equal(ns_extents(w->ns, &o, 0, UINT64_MAX, count_extent, &seen), 0);
	assert_int_equal(seen, 0xffff0);
	kv_value_release(&value);
}

/* ---- directories ---- */

static void test_mkdir_and_rmdir(void **state)
{
	struct world *w = *state;
	struct mutation m = { .kind = M_MKDIR, .ref = by_key(w, "a/b") };
	assert_int_equal(mutate(w, &m), -GRANARY_ENOTFOUND); /* no parent, not asked to make it */
	assert_int_equal(mkdir_key(w, "a/b/"), 0);
	assert_int_equal(mkdir_key(w, "a/b"), -GRANARY_EEXIST);
	assert_int_equal(mkdir_key(w, "a"), 0); /* was implicit */
	assert_int_equal(mkdir_key(w, "a"), -GRANARY_EEXIST);
	m = (struct mutation){ .kind = M_MKDIR, .ref = by_name(dir_id(w, "a/"), "n") };
	assert_int_equal(mutate(w, &m), 0);
	assert_int_equal(m.id, dir_id(w, "a/n/"));
	assert_int_equal(put_key(w, "f"), 0);
	assert_int_equal(mkdir_key(w, "f"), -GRANARY_EEXIST);
	assert_int_equal(rmdir_key(w, "f"), -GRANARY_ENOTDIR);
	assert_int_equal(rmdir_key(w, "none"), -GRANARY_ENOTFOUND);
	assert_int_equal(rmdir_key(w, "none/none"), -GRANARY_ENOTFOUND);
	assert_int_equal(rmdir_key(w, "a"), -GRANARY_ENOTEMPTY);
	assert_int_equal(put_key(w, "imp/x"), 0);
	assert_int_equal(rmdir_key(w, "imp/"), -GRANARY_ENOTEMPTY);
	struct mutation r = { .kind = M_RMDIR, .ref = by_name(dir_id(w, "a/"), "n") };
	assert_int_equal(mutate(w, &r), 0);
	assert_int_equal(rmdir_key(w, "a/b"), 0);
	assert_int_equal(rmdir_key(w, "a/"), 0);
	assert_int_equal(rmdir_key(w, "a/"), -GRANARY_ENOTFOUND);
	assert_int_equal(check_rows(w).dirs, 1);
	struct found f;
	assert_int_equal(look_up(w, by_name(w->bucket.root, "imp"), &f), 0);
	assert_true(f.is_dir && f.id == dir_id(w, "imp/"));
}

static void test_datasets_are_groups_and_stay_when_empty(void **state)
{
	struct world *w = *state;
	struct mutation m = { .kind = M_MKDIR, .ref = by_key(w, "sets/one"), .parents = true, .dataset = true };
	uint64_t dir, group, set;
	assert_int_equal(mutate(w, &m), 0);
	set = m.id;
	assert_int_equal(mutate(w, &m), -GRANARY_EEXIST);
	assert_int_equal(m.id, set);
	struct ns_ref ref = by_key(w, "sets/one/train/cat/1.jpg"), outside = by_key(w, "sets/x");
	assert_int_equal(ns_parent(w->ns, &ref, &dir, &group), 0);
	assert_int_equal(group, set);
	assert_int_equal(ns_parent(w->ns, &outside, &dir, &group), 0);
	assert_int_equal(group, w->bucket.id);
	assert_int_equal(put_key(w, "sets/one/train/cat/1.jpg"), 0);
	assert_int_equal(ns_parent(w->ns, &ref, &dir, &group), 0);
	assert_int_equal(ns_parent_cached(w->ns, &ref, &dir, &group), 0);
	assert_int_equal(group, set);
	struct ns_ref name = by_name(dir, "2.jpg");
	assert_int_equal(ns_parent_cached(w->ns, &name, &dir, &group), 0);
	assert_int_equal(group, set);
	/* a directory that exists becomes one */
	m = (struct mutation){ .kind = M_MKDIR, .ref = by_key(w, "sets/one/train"), .dataset = true };
	assert_int_equal(mutate(w, &m), 0);
	assert_int_equal(ns_parent_cached(w->ns, &ref, &dir, &group), -GRANARY_EAGAIN);
	assert_int_equal(ns_parent(w->ns, &name, &dir, &group), 0);
	assert_int_equal(group, m.id);
	assert_int_equal(delete_key(w, "sets/one/train/cat/1.jpg"), 0);
	assert_int_equal(delete_key(w, "sets/one/train/"), 0);
	check_rows(w);
	assert_int_equal(dir_id(w, "sets/one/train/"), m.id);
	assert_int_equal(rmdir_key(w, "sets/one/train"), 0);
	check_rows(w);
}

static void test_dir_paths_follow_renames(void **state)
{
	struct world *w = *state;
	char path[KEY_LEN_MAX + 1];
	uint64_t bucket, dir;
	size_t len;
	assert_int_equal(put_key(w, "a/b/c/x"), 0);
	dir = dir_id(w, "a/b/c/");
	assert_int_equal(ns_dir_path(w->ns, dir, &bucket, path, sizeof(path), &len), 0);
	assert_string_equal(path, "a/b/c/");
	assert_int_equal(bucket, w->bucket.id);
	assert_int_equal(ns_dir_path_cached(w->ns, dir, &bucket, path, sizeof(path), &len), 0);
	assert_int_equal(rename_key(w, "a/b", "z"), 0);
	assert_int_equal(ns_dir_path_cached(w->ns, dir, &bucket, path, sizeof(path), &len), -GRANARY_EAGAIN);
	assert_int_equal(ns_dir_path(w->ns, dir, &bucket, path, sizeof(path), &len), 0);
	assert_string_equal(path, "z/c/");
	assert_int_equal(ns_dir_path(w->ns, w->bucket.root, &bucket, path, sizeof(path), &len), 0);
	assert_string_equal(path, "");
	assert_int_equal(ns_dir_path(w->ns, 987654321, &bucket, path, sizeof(path), &len), -GRANARY_ESTALE);
	assert_int_equal(check_rows(w).dirs, 2); /* a/ was implicit and is gone */
}

/* ---- look-ups ---- */

static void test_objects_are_found_by_key_name_and_id_and_cached(void **state)
{
	struct world *w = *state;
	struct mutation m = { .kind = M_PUT, .ref = by_key(w, "d/x"), .size = 9 };
	struct obj_loc loc;
	struct found f;
	assert_int_equal(mutate(w, &m), 0);
	uint64_t dir = dir_id(w, "d/");
	struct ns_ref key = by_key(w, "d/x"), name = by_name(dir, "x"), id = by_id(m.id), hint = by_id(m.id);
	hint.dir = dir;
	hint.name = S("x");
	assert_int_equal(look_up(w, id, NULL), -GRANARY_ESTALE); /* the id alone: no `o` row of a new object */
	assert_int_equal(look_up(w, hint, &f), 0);
	assert_true(f.id == m.id && f.dir == dir && f.bucket == w->bucket.id);
	assert_string_equal(f.name, "x");
	struct ns_ref *refs[] = { &key, &name, &id };
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ns_find_cached(w->ns, refs[i], &loc), 0);
		assert_true(loc.id == m.id && loc.version == m.version && loc.size == 9 && loc.pack == WORLD_PACK);
		assert_true(loc.record == 4096 && loc.skip == 100 && loc.crc_count == 1 && loc.crcs[0] == 0x04030201);
	}
	assert_int_equal(put_key(w, "d/x"), 0); /* another object: nothing old may answer */
	for (int i = 0; i < 3; i++)
		assert_int_equal(ns_find_cached(w->ns, refs[i], &loc), -GRANARY_EAGAIN);
	assert_int_equal(look_up(w, hint, NULL), -GRANARY_ESTALE);
	assert_int_equal(look_up(w, name, &f), 0);
	assert_true(f.id != m.id);
	assert_int_equal(look_up(w, by_id(dir), &f), 0);
	assert_true(f.is_dir && f.dir == w->bucket.root);
	assert_string_equal(f.name, "d");
	assert_int_equal(look_up(w, by_id(w->bucket.root), &f), 0);
	assert_true(f.is_dir && f.dir == 0);
	assert_int_equal(look_up_key(w, "d"), -GRANARY_ENOTFOUND);
	assert_int_equal(look_up_key(w, "d/"), -GRANARY_ENOTFOUND); /* implicit */
	assert_int_equal(look_up_key(w, "d/x/y"), -GRANARY_ENOTFOUND);
}

/* ---- renames ---- */

static void test_rename_of_a_file_keeps_id_and_version(void **state)
{
	struct world *w = *state;
	struct mutation m = { .kind = M_PUT, .ref = by_key(w, "a/x"), .size = 9 };
	struct found f;
	assert_int_equal(mutate(w, &m), 0);
	uint64_t a = dir_id(w, "a/");
	assert_int_equal(rename_key(w, "a/x", "b/c/y"), 0);
	assert_int_equal(look_up_key(w, "a/x"), -GRANARY_ENOTFOUND);
	assert_int_equal(look_up(w, by_key(w, "b/c/y"), &f), 0);
	assert_true(f.id == m.id && f.version == m.version);
	struct ns_ref hint = by_id(m.id);
	hint.dir = a;
	hint.name = S("x");
	assert_int_equal(look_up(w, hint, &f), 0); /* the old place leads on through `o` */
	assert_string_equal(f.name, "y");
	struct ns_record r = { .pack = WORLD_PACK, .record = 4096, .object_id = m.id, .dir = a, .name = S("x") };
	struct record_owner owner;
	assert_true(record_owner(w, &r, &owner));
	assert_string_equal(owner.name, "y");
	assert_int_equal(rename_key(w, "b/c/y", "b/c/z"), 0);
	check_rows(w);
	assert_int_equal(put_size(w, "b/c/t", 77), 0);
	assert_int_equal(rename_new(w, "b/c/z", "b/c/t"), -GRANARY_EEXIST);
	assert_int_equal(rename_key(w, "b/c/z", "b/c/t"), 0); /* over a file */
	assert_int_equal(look_up(w, by_key(w, "b/c/t"), &f), 0);
	assert_int_equal(f.id, m.id);
	assert_int_equal(check_rows(w).files, 1);
	assert_int_equal(rename_key(w, "b/c/t", "b/c/t"), 0);
	assert_int_equal(rename_new(w, "b/c/t", "b/c/t"), -GRANARY_EEXIST);
	assert_int_equal(mkdir_key(w, "dir"), 0);
	assert_int_equal(rename_key(w, "b/c/t", "dir"), -GRANARY_EISDIR);
	assert_int_equal(rename_key(w, "b/c/t", "new/"), -GRANARY_ENOTDIR);
	assert_int_equal(rename_key(w, "nope", "b/x"), -GRANARY_ENOTFOUND);
	struct mutation by = { .kind = M_RENAME, .ref = by_id(m.id), .to = by_name(w->bucket.root, "top") };
	assert_int_equal(mutate(w, &by), 0);
	assert_int_equal(look_up_key(w, "top"), 0);
	assert_int_equal(delete_key(w, "top"), 0);
	struct tally t = check_rows(w);
	assert_true(t.dirs == 1 && t.files == 1 && t.links == 0);
}

static void test_rename_of_a_directory_is_one_row_and_makes_no_loop(void **state)
{
	struct world *w = *state;
	assert_int_equal(put_key(w, "a/b/c/x"), 0);
	assert_int_equal(put_key(w, "f"), 0);
	uint64_t b = dir_id(w, "a/b/");
	assert_int_equal(look_up_key(w, "a/b/c/x"), 0);
	assert_int_equal(rename_key(w, "a/b", "a/b/c/d"), -GRANARY_ELOOP);
	assert_int_equal(rename_key(w, "a", "a/b"), -GRANARY_ELOOP);
	assert_int_equal(rename_key(w, "a/b", "a/b/new/sub"), -GRANARY_ELOOP);
	assert_int_equal(rename_key(w, "a/b/", "f"), -GRANARY_ENOTDIR);
	assert_int_equal(rename_key(w, "a/b/", "p/q/r"), 0);
	assert_int_equal(dir_id(w, "p/q/r/"), b);
	struct obj_loc loc;
	struct ns_ref old = by_key(w, "a/b/c/x"), now = by_key(w, "p/q/r/c/x");
	assert_int_equal(ns_find_cached(w->ns, &old, &loc), -GRANARY_EAGAIN);
	assert_int_equal(look_up(w, old, NULL), -GRANARY_ENOTFOUND);
	assert_int_equal(look_up(w, now, NULL), 0);
	assert_int_equal(check_rows(w).dirs, 4);
	assert_int_equal(mkdir_key(w, "empty"), 0);
	assert_int_equal(put_key(w, "full/x"), 0);
	assert_int_equal(rename_key(w, "p/q/r", "full"), -GRANARY_ENOTEMPTY);
	assert_int_equal(rename_new(w, "p/q/r", "empty"), -GRANARY_EEXIST);
	assert_int_equal(rename_key(w, "p/q/r", "empty"), 0);
	assert_int_equal(look_up_key(w, "empty/c/x"), 0);
	assert_int_equal(look_up_key(w, "empty/"), -GRANARY_ENOTFOUND); /* its own entry came from nowhere */
	struct mutation named = { .kind = M_RENAME, .ref = by_name(w->bucket.root, "empty"), .to = by_name(b, "in") };
	assert_int_equal(mutate(w, &named), -GRANARY_ELOOP);
	struct mutation other = { .kind = M_RENAME, .ref = by_key(w, "f"),
				  .to = { .by = NS_BY_NAME, .dir = 4242424242, .name = S("x") } };
	assert_int_equal(mutate(w, &other), -GRANARY_ENOTFOUND);
	check_rows(w);
}

static void test_exchange_puts_each_where_the_other_was(void **state)
{
	struct world *w = *state;
	struct mutation m = { .kind = M_PUT, .ref = by_key(w, "a/x"), .size = 9 };
	struct found f;
	assert_int_equal(mutate(w, &m), 0);
	uint64_t x = m.id, version = m.version;
	m.ref = by_key(w, "b/c/y");
	assert_int_equal(mutate(w, &m), 0);
	assert_int_equal(exchange_keys(w, "a/x", "b/c/y"), 0);
	assert_int_equal(look_up(w, by_key(w, "b/c/y"), &f), 0);
	assert_true(f.id == x && f.version == version);
	assert_int_equal(look_up(w, by_key(w, "a/x"), &f), 0);
	assert_int_equal(f.id, m.id);
	assert_int_equal(look_up(w, by_id(x), &f), 0); /* through `o` */
	assert_string_equal(f.name, "y");
	uint64_t c = dir_id(w, "b/c/");
	assert_int_equal(exchange_keys(w, "b/c", "a/x"), 0); /* a directory and a file */
	assert_int_equal(dir_id(w, "a/x/"), c);
	assert_int_equal(look_up(w, by_key(w, "b/c"), &f), 0);
	assert_int_equal(f.id, m.id);
	assert_int_equal(look_up_key(w, "a/x/y"), 0);
	uint64_t a = dir_id(w, "a/"), b = dir_id(w, "b/");
	assert_int_equal(exchange_keys(w, "a", "b/"), 0); /* two directories, neither made by mkdir */
	assert_true(dir_id(w, "a/") == b && dir_id(w, "b/") == a);
	assert_int_equal(look_up_key(w, "b/x/y"), 0);
	assert_int_equal(look_up_key(w, "a/c"), 0);
	struct mutation by = { .kind = M_RENAME, .exchange = true, .ref = by_id(x), .to = by_name(b, "c") };
	assert_int_equal(mutate(w, &by), 0);
	assert_int_equal(look_up(w, by_name(b, "c"), &f), 0);
	assert_int_equal(f.id, x);
	check_rows(w);
	assert_int_equal(delete_key(w, "b/x/y"), 0); /* its last child: both directories above go */
	assert_int_equal(delete_key(w, "a/c"), 0);
	struct tally t = check_rows(w);
	assert_true(t.dirs == 0 && t.files == 0 && t.links == 0);
}

static void test_exchange_refuses_what_a_rename_would(void **state)
{
	struct world *w = *state;
	assert_int_equal(put_key(w, "a/b/c/x"), 0);
	assert_int_equal(put_key(w, "f"), 0);
	assert_int_equal(exchange_keys(w, "a", "a/b"), -GRANARY_ELOOP); /* both ways */
	assert_int_equal(exchange_keys(w, "a/b", "a"), -GRANARY_ELOOP);
	assert_int_equal(exchange_keys(w, "a/b/c/x", "a/b"), -GRANARY_ELOOP);
	assert_int_equal(exchange_keys(w, "a", "a/b/c/x"), -GRANARY_ELOOP);
	assert_int_equal(exchange_keys(w, "f", "none"), -GRANARY_ENOTFOUND);
	assert_int_equal(exchange_keys(w, "none/x", "f"), -GRANARY_ENOTFOUND);
	assert_int_equal(exchange_keys(w, "f", "none/x"), -GRANARY_ENOTFOUND);
	assert_int_equal(exchange_keys(w, "f/", "a"), -GRANARY_ENOTFOUND);
	assert_int_equal(exchange_keys(w, "f", "f"), 0);
	assert_int_equal(put_key(w, "both"), 0);
	assert_int_equal(put_key(w, "both/x"), 0);
	assert_int_equal(exchange_keys(w, "both", "f"), -GRANARY_EEXIST);
	assert_int_equal(exchange_keys(w, "a", "both/"), -GRANARY_EEXIST);
	struct mutation root = { .kind = M_RENAME, .exchange = true, .ref = by_id(w->bucket.root),
				 .to = by_key(w, "f") };
	assert_int_equal(mutate(w, &root), -GRANARY_EINVAL);
	struct mutation link = { .kind = M_LINK, .ref = by_key(w, "f"), .to = by_key(w, "g") };
	assert_int_equal(mutate(w, &link), 0);
	assert_int_equal(exchange_keys(w, "f", "g"), 0); /* two names of one file */
	assert_int_equal(exchange_keys(w, "f", "a/b/c/x"), 0);
	assert_int_equal(check_rows(w).dirs, 4);
}

static uint32_t links_of(struct world *w, const char *key)
{
	struct ns_ref ref = by_key(w, key);
	struct kv_value value;
	struct object o;
	assert_int_equal(ns_file_find(w->ns, &ref, &o, &value), 0);
	uint32_t links = o.nlink;
	kv_value_release(&value);
	return links;
}

/* As a version before wrote it. */
static void forget_links(struct world *w, const char *dir)
{
	uint8_t key_buf[ROW_KEY_MAX], buf[1024];
	struct slice key = row_inode(key_buf, dir_id(w, dir));
	struct kv_txn *t = kv_txn_new(w->store.kv);
	struct kv_value value;
	struct object o;
	assert_int_equal(kv_get(w->store.kv, key, &value), 0);
	assert_int_equal(object_decode(value.v, &o), 0);
	o.nlink = 1;
	int64_t len = object_encode(&o, buf, sizeof(buf));
	assert_true(len > 0);
	kv_put(t, key, slice_of(buf, (size_t)len));
	kv_value_release(&value);
	assert_int_equal(run_txn(w->store.kv, t), 0);
}

static void test_links_of_a_directory_are_counted_or_known_not_to_be(void **state)
{
	struct world *w = *state;
	assert_int_equal(mkdir_key(w, "old"), 0);
	assert_int_equal(mkdir_key(w, "old/in"), 0);
	assert_int_equal(put_key(w, "old/implicit/x"), 0);
	assert_int_equal(links_of(w, "old/"), 4);
	forget_links(w, "old/");
	assert_int_equal(links_of(w, "old/"), 1);
	assert_int_equal(mkdir_key(w, "old/more"), 0);
	assert_int_equal(rename_key(w, "old/more", "more"), 0);
	assert_int_equal(rmdir_key(w, "old/in"), 0);
	assert_int_equal(delete_key(w, "old/implicit/x"), 0);
	struct mutation mode = { .kind = M_SETATTR, .ref = by_key(w, "old/"), .set = { .set = NS_SET_MODE } };
	assert_int_equal(mutate(w, &mode), 0);
	assert_int_equal(links_of(w, "old/"), 1);
	assert_int_equal(rename_key(w, "old", "more/old"), 0);
	assert_true(links_of(w, "more/") == 3 && links_of(w, "more/old/") == 1);
	assert_int_equal(rmdir_key(w, "more/old"), 0);
	check_rows(w);
}

static void test_rename_over_buckets_is_refused(void **state)
{
	struct world *w = *state;
	struct ns_bucket b;
	assert_int_equal(ns_bucket_create(w->ns, S("other"), S("k")), 0);
	assert_int_equal(ns_bucket_find(w->ns, S("other"), &b), 0);
	assert_int_equal(put_key(w, "x"), 0);
	struct mutation m = { .kind = M_RENAME, .ref = by_key(w, "x"),
			      .to = { .by = NS_BY_KEY, .bucket = b.id, .name = S("x") } };
	assert_int_equal(mutate(w, &m), -GRANARY_EINVAL);
	check_rows(w);
}

/* ---- quota ---- */

static void test_usage_counts_and_survives_a_restart(void **state)
{
	struct world *w = *state;
	uint64_t bytes, objects;
	assert_int_equal(put_size(w, "a", 100), 0);
	assert_int_equal(put_size(w, "b/c", 50), 0);
	assert_int_equal(put_size(w, "a", 70), 0);
	world_close(w);
	world_open(w);
	assert_int_equal(ns_bucket_usage(w->ns, w->bucket.id, &bytes, &objects), 0);
	assert_true(bytes == 120 && objects == 2);
	assert_int_equal(ns_bucket_usage(w->ns, 999, &bytes, &objects), 0);
	assert_true(bytes == 0 && objects == 0);
	check_rows(w);
}

/* ---- listing ---- */

static int append_key(void *arg, struct slice key, const struct object *o)
{
	char *text = arg;
	size_t at = strlen(text);
	snprintf(text + at, 4096 - at, "%s%.*s%s", at > 0 ? "|" : "", (int)key.len, (const char *)key.p, o ? "" : "*");
	return 0;
}

static const char *list_text(struct world *w, const char *prefix, const char *delimiter, const char *after,
			     uint32_t max,
			     bool *more)
{
	static char text[4096];
	struct ns_list l = { .bucket = w->bucket.id, .prefix = S(prefix), .delimiter = S(delimiter),
			     .start_after = S(after), .max = max };
	text[0] = '\0';
	assert_int_equal(ns_list(w->ns, &l, append_key, text, more), 0);
	return text;
}

static void test_list_order_prefix_delimiter_and_pages(void **state)
{
	struct world *w = *state;
	bool more;
	const char *keys[] = { "a", "a!", "a/b", "a/b/c", "a0", "d/", "d/e/f", "z" };
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		assert_int_equal(put_key(w, keys[i]), 0);
	assert_string_equal(list_text(w, "", "", "", 100, &more), "a|a!|a/b|a/b/c|a0|d/|d/e/f|z");
	assert_false(more);
	assert_string_equal(list_text(w, "", "", "", 3, &more), "a|a!|a/b");
	assert_true(more);
	assert_string_equal(list_text(w, "", "", "a/b", 3, &more), "a/b/c|a0|d/");
	assert_true(more);
	assert_string_equal(list_text(w, "", "", "d/", 3, &more), "d/e/f|z");
	assert_false(more);
	assert_string_equal(list_text(w, "", "/", "", 100, &more), "a|a!|a/*|a0|d/*|z");
	assert_string_equal(list_text(w, "", "/", "a/", 100, &more), "a0|d/*|z");
	assert_string_equal(list_text(w, "a/", "/", "", 100, &more), "a/b|a/b/*");
	assert_string_equal(list_text(w, "a/b", "", "", 100, &more), "a/b|a/b/c");
	assert_string_equal(list_text(w, "d/", "/", "", 100, &more), "d/|d/e/*");
	assert_string_equal(list_text(w, "nope/", "/", "", 100, &more), "");
	assert_string_equal(list_text(w, "a", "", "b", 100, &more), "");
	assert_string_equal(list_text(w, "", "/b", "", 100, &more), "a|a!|a/b*|a0|d/|d/e/f|z");
	struct ns_list bad = { .bucket = w->bucket.id, .max = 0 };
	assert_int_equal(ns_list(w->ns, &bad, append_key, NULL, &more), -GRANARY_EINVAL);
	bad.max = NS_LIST_MAX + 1;
	assert_int_equal(ns_list(w->ns, &bad, append_key, NULL, &more), -GRANARY_EINVAL);
	bad = (struct ns_list){ .bucket = 999, .max = 1 };
	assert_int_equal(ns_list(w->ns, &bad, append_key, NULL, &more), -GRANARY_ENOBUCKET);
	bad = (struct ns_list){ .bucket = w->bucket.id, .max = 1, .prefix = S("\xff") };
	assert_int_equal(ns_list(w->ns, &bad, append_key, NULL, &more), -GRANARY_ENAME);
}

static void test_list_deeper_than_its_iterators(void **state)
{
	struct world *w = *state;
	char key[400] = "";
	bool more;
	for (int i = 0; i < 70; i++) { /* a file beside the directory on each level, before and behind it */
		char file[420];
		snprintf(file, sizeof(file), "%sa", key);
		assert_int_equal(put_key(w, file), 0);
		snprintf(file, sizeof(file), "%sz", key);
		assert_int_equal(put_key(w, file), 0);
		snprintf(key + strlen(key), sizeof(key) - strlen(key), "m/");
	}
	struct ns_list l = { .bucket = w->bucket.id, .max = 1000 };
	static char text[65536];
	text[0] = '\0';
	assert_int_equal(ns_list(w->ns, &l, append_key, text, &more), 0);
	uint32_t bars = 0;
	for (const char *p = list_text(w, "", "", "", 20, &more); *p; p++)
		bars += *p == '|';
	assert_int_equal(bars, 19);
	/* page by page gives each key once */
	char after[KEY_LEN_MAX + 1] = "";
	uint32_t pages = 0;
	for (more = true; more; pages++) {
		char page[sizeof(after)];
		const char *text_of_page = list_text(w, "", "", after, 1, &more);
		memcpy(page, text_of_page, strlen(text_of_page) + 1);
		assert_true(strcmp(page, after) > 0);
		snprintf(after, sizeof(after), "%s", page);
	}
	assert_int_equal(pages, 140);
}

/* ---- access keys ---- */

static void test_access_keys(void **state)
{
	struct world *w = *state;
	uint8_t master[32] = { 1, 2, 3 };
	struct ns_access_key key = { .id = "AKID", .grant_count = 2, .note = "train" };
	key.grants[0] = (struct ns_grant){ .actions = NS_ACT_READ | NS_ACT_LIST, .bucket = "data", .prefix_len = 2 };
	memcpy(key.grants[0].prefix, "a/", 2);
	key.grants[1] = (struct ns_grant){ .actions = NS_ACT_ADMIN };
	memset(key.secret, 0x5a, sizeof(key.secret));
	assert_int_equal(ns_keys_open(w->ns, master), 0);
	assert_null(ns_key_ref(w->ns, S("AKID")));
	assert_int_equal(ns_key_create(w->ns, &key), 0);
	assert_int_equal(ns_key_create(w->ns, &key), -GRANARY_EEXIST);
	struct ns_access_key bad = key;
	bad.id[0] = '\0';
	assert_int_equal(ns_key_create(w->ns, &bad), -GRANARY_EINVAL);
	snprintf(bad.id, sizeof(bad.id), "a b");
	assert_int_equal(ns_key_create(w->ns, &bad), -GRANARY_EINVAL);
	bad = key;
	bad.grant_count = NS_GRANTS_MAX + 1;
	assert_int_equal(ns_key_create(w->ns, &bad), -GRANARY_EINVAL);

	world_close(w);
	world_open(w);
	uint8_t wrong[32] = { 9 };
	assert_int_equal(ns_keys_open(w->ns, wrong), -GRANARY_EAUTH);
	world_close(w);
	world_open(w);
	assert_int_equal(ns_keys_open(w->ns, master), 0);
	const struct ns_access_key *k = ns_key_ref(w->ns, S("AKID"));
	assert_non_null(k);
	assert_memory_equal(k->secret, key.secret, sizeof(key.secret));
	assert_string_equal(k->note, "train");
	assert_true(ns_key_allows(k, NS_ACT_READ, S("data"), S("a/b")));
	assert_true(ns_key_allows(k, NS_ACT_READ | NS_ACT_LIST, S("data"), S("a/")));
	assert_false(ns_key_allows(k, NS_ACT_READ, S("data"), S("a")));
	assert_false(ns_key_allows(k, NS_ACT_READ, S("other"), S("a/b")));
	assert_false(ns_key_allows(k, NS_ACT_WRITE, S("data"), S("a/b")));
	assert_false(ns_key_allows(k, NS_ACT_READ | NS_ACT_WRITE, S("data"), S("a/b")));
	assert_true(ns_key_allows(k, NS_ACT_ADMIN, S("any"), S("")));
	struct ns_access_key *listed = calloc(2, sizeof(*listed));
	assert_int_equal(ns_key_list(w->ns, S(""), listed, 2), 1);
	assert_string_equal(listed[0].id, "AKID");
	assert_true(listed[0].secret[0] == 0 && listed[0].secret[31] == 0);
	assert_int_equal(ns_key_list(w->ns, S("AKID"), listed, 2), 0);
	free(listed);
	/* the row does not hold the secret in the clear */
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value v;
	assert_int_equal(kv_get(w->store.kv, row_key(buf, S("AKID")), &v), 0);
	assert_null(memmem(v.v.p, v.v.len, key.secret, 8));
	kv_value_release(&v);
	assert_true(ns_key_valid(w->ns, k));
	assert_int_equal(ns_key_remove(w->ns, S("AKID")), 0);
	assert_int_equal(ns_key_remove(w->ns, S("AKID")), -GRANARY_ENOTFOUND);
	assert_false(ns_key_valid(w->ns, k)); /* the reference outlives the key */
	assert_null(ns_key_ref(w->ns, S("AKID")));
	ns_key_unref(w->ns, k);
	key.expires_ns = 1;
	assert_int_equal(ns_key_create(w->ns, &key), 0);
	if (store_clock_now(w->clock) >= 1)
		assert_null(ns_key_ref(w->ns, S("AKID")));
}

int main(void)
{
#define T(fn) \
	cmocka_unit_test_setup_teardown(fn, world_set_up_mem, world_tear_down), \
	cmocka_unit_test_setup_teardown(fn, world_set_up_rocks, world_tear_down)
	const struct CMUnitTest tests[] = {
		T(test_buckets_are_made_found_listed_removed_and_loaded),
		T(test_refuses_bad_keys_everywhere),
		T(test_odd_keys_are_stored_like_any_other),
		T(test_conditional_puts),
		T(test_implicit_directories_vanish_with_their_last_child),
		T(test_put_by_name_checks_directories_and_by_key_does_not),
		T(test_who_rewrites_a_directory_does_not_take_its_time_back),
		T(test_put_with_another_parent_than_appended_for_is_refused),
		T(test_entries_of_one_plan_see_each_other),
		T(test_of_two_plans_that_cannot_both_hold_one_is_refused),
		T(test_directory_renamed_before_its_maker_is_told_is_not_made_twice),
		T(test_many_extents_spill_and_go_with_the_object),
		T(test_extents_of_a_range),
		T(test_mkdir_and_rmdir),
		T(test_datasets_are_groups_and_stay_when_empty),
		T(test_dir_paths_follow_renames),
		T(test_objects_are_found_by_key_name_and_id_and_cached),
		T(test_rename_of_a_file_keeps_id_and_version),
		T(test_rename_of_a_directory_is_one_row_and_makes_no_loop),
		T(test_exchange_puts_each_where_the_other_was),
		T(test_exchange_refuses_what_a_rename_would),
		T(test_links_of_a_directory_are_counted_or_known_not_to_be),
		T(test_rename_over_buckets_is_refused),
		T(test_usage_counts_and_survives_a_restart),
		T(test_list_order_prefix_delimiter_and_pages),
		T(test_list_deeper_than_its_iterators),
		T(test_access_keys),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
