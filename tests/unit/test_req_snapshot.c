/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a snapshot is one instant of the namespace, its bytes stay readable until it is removed,
 * and what may not be asked is refused. Method: a store on real threads, peers without sockets;
 * snapshots are read back through their pages and ranges of packs alone. */
#include "harness_snapshot.h"

#include "jobs/jobs.h"
#include "jobs/snapshot.h"
#include "pack/writer.h"
#include "tier/packs.h"

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

static void restart(void)
{
	peer_release(&peer);
	world_restart(&world);
	peer_init(&peer, &world, "root", 0);
}

/* Bytes that follow from the key and a round. */
static void put_file(const char *key, uint32_t size, uint64_t round)
{
	uint8_t *data = malloc(size + 8);

	fill(data, size, hash_content(key, strlen(key)).lo + round);
	assert_int_equal(put_key(&peer, "data", key, data, size).err, 0);
	free(data);
}

static void check_file(const struct snap_files *all, const char *key, uint32_t size, uint64_t round)
{
	const struct snap_file *f = snap_find(all, key);
	uint8_t *want = malloc(size + 8);

	if (f == NULL) fail_msg("'%s' is not in the snapshot", key);
	assert_int_equal(f->size, size);
	fill(want, size, hash_content(key, strlen(key)).lo + round);
	if (size > 0) assert_memory_equal(f->data, want, size);
	free(want);
}

static void put_some(uint32_t count, uint64_t round)
{
	for (uint32_t i = 0; i < count; i++) {
		char key[64];

		snprintf(key, sizeof(key), "train/%u/f%03u", i % 7, i);
		put_file(key, i * 37 % 5000, round);
	}
}

static void check_some(const struct snap_files *all, uint32_t count, uint64_t round)
{
	assert_int_equal(all->count, count);
	for (uint32_t i = 0; i < count; i++) {
		char key[64];

		snprintf(key, sizeof(key), "train/%u/f%03u", i % 7, i);
		check_file(all, key, i * 37 % 5000, round);
	}
}

/* Seals what is open and waits for it, then compacts until nothing moves. */
static void compact(void)
{
	char text[512];

	writers_rotate(world.store->writers, true);
	usleep(200000);
	for (int i = 0; i < 4; i++)
		assert_int_equal(jobs_compact_now(world.store->jobs, text, sizeof(text)), 0);
}

static void test_a_snapshot_has_every_file_below_its_prefix(void **state)
{
	struct snap_files all;
	struct snap_entry e;

	(void)state;
	put_some(200, 0);
	put_file("other/x", 10, 0);
	put_file("train/big", 3000000, 0);
	e = snap_create(&peer, "data", "v1", "train/", "note=first");
	if (e.err < 0) fail_msg("%s", e.text);
	assert_int_equal(e.state, SNAPSHOT_READY);
	assert_int_equal(e.samples, 201);
	snap_read_all(&peer, "data", "v1", &all);
	assert_int_equal(all.m.samples, 201);
	assert_int_equal(all.m.directories, 8);
	assert_int_equal(all.m.largest, 3000000);
	assert_int_equal(all.m.smallest, 0);
	check_file(&all, "train/big", 3000000, 0);
	check_file(&all, "train/0/f000", 0, 0);
	check_file(&all, "train/6/f006", 6 * 37, 0);
	assert_null(snap_find(&all, "other/x"));
	snap_files_free(&all);
	e = snap_create(&peer, "data", "v1", "train/", "");
	assert_int_equal(e.err, -GRANARY_EEXIST);
}

static void test_pinned_packs_survive_delete_compaction_and_restart(void **state)
{
	struct packs_stats before, after;
	struct snap_files all;
	struct snap_entry e;

	(void)state;
	put_some(150, 0);
	e = snap_create(&peer, "data", "v1", "", "");
	assert_int_equal(e.err, 0);
	for (uint32_t i = 0; i < 150; i++) {
		char key[64];

		snprintf(key, sizeof(key), "train/%u/f%03u", i % 7, i);
		if (i % 2 == 0)
			assert_int_equal(delete_key(&peer, "data", key), 0);
		else
			put_file(key, i * 37 % 5000, 1);
	}
	compact();
	snap_read_all(&peer, "data", "v1", &all);
	check_some(&all, 150, 0);
	snap_files_free(&all);
	restart();
	compact();
	snap_read_all(&peer, "data", "v1", &all);
	check_some(&all, 150, 0);
	snap_files_free(&all);
	packs_get_stats(world.store->packs, &before);
	assert_int_equal(snap_remove(&peer, "data", "v1", 0, NULL), 0);
	compact();
	packs_get_stats(world.store->packs, &after);
	assert_true(after.dying > before.dying ||
		    after.packs < before.packs); /* its space comes back */
	assert_int_equal(read_err(&peer, "data", "train/1/f001"), 0);
}

/* What the system's bucket holds. */
static uint64_t system_objects(void)
{
	struct ns_bucket b;
	uint64_t bytes, objects;

	if (ns_bucket_find(world.store->ns, slice_str(NS_SYSTEM_BUCKET), &b) < 0) return 0;
	assert_int_equal(ns_bucket_usage(world.store->ns, b.id, &bytes, &objects), 0);
	return objects;
}

static void test_removing_deletes_the_pages_that_nobody_else_uses(void **state)
{
	struct snap_files all;
	uint64_t one, two;

	(void)state;
	put_some(20, 0);
	assert_int_equal(snap_create(&peer, "data", "v1", "", "").err, 0);
	one = system_objects();
	assert_int_equal(one, 3); /* a page, its names, a manifest */
	assert_int_equal(snap_create(&peer, "data", "v2", "", "").err, 0);
	two = system_objects();
	assert_int_equal(two, one + 1); /* versions share pages that did not change */
	assert_int_equal(snap_remove(&peer, "data", "v1", 0, NULL), 0);
	assert_int_equal(system_objects(), one);
	snap_read_all(&peer, "data", "v2", &all);
	check_some(&all, 20, 0);
	snap_files_free(&all);
	assert_int_equal(snap_remove(&peer, "data", "v2", 0, NULL), 0);
	assert_int_equal(system_objects(), 0);
	assert_int_equal(snap_remove(&peer, "data", "v2", 0, NULL), -GRANARY_ENOTFOUND);
}

static void test_ranges_give_the_right_bytes_in_every_shape(void **state)
{
	struct snap_files all;
	struct snap_range list[64];
	struct snap_page page;
	struct snap_row row;
	uint8_t *bytes, *data = malloc(4000000 + 8);
	size_t len;
	struct rng rng;

	(void)state;
	put_file("f", 4000000, 0);
	fill(data, 4000000, hash_content("f", 1).lo);
	rng_seed(&rng, 3);
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	for (int sealed = 0; sealed < 3; sealed++) { /* open, sealed, from the cache */
		snap_read_all(&peer, "data", "v", &all);
		assert_int_equal(
			snap_page(&peer, "data", "v", all.m.pages[0].hash, &bytes, &len), 0);
		assert_int_equal(snap_page_parse(bytes, len, &page), 0);
		assert_int_equal(snap_page_row(&page, 0, &row), 0);
		assert_int_equal(row.size, 4000000);
		for (uint8_t flags = 0; flags < 4; flags++) {
			memset(list, 0, sizeof(list));
			for (int i = 0; i < 64; i++) {
				uint32_t at = (uint32_t)rng_below(&rng, 3900000),
					 n = 1 + (uint32_t)rng_below(&rng, i < 50 ? 9000 : 90000);

				list[i] = (struct snap_range){ .pack = row.first.pack,
					.offset = row.first.offset + at,
					.length = n };
			}
			assert_int_equal(
				ranges_get(&peer, "data", "v", all.hash, flags, list, 64), 0);
			for (int i = 0; i < 64; i++) {
				assert_int_equal(list[i].err, 0);
				assert_memory_equal(list[i].data,
					data + (list[i].offset - row.first.offset), list[i].length);
				free(list[i].data);
			}
		}
		free(bytes);
		snap_files_free(&all);
		writers_rotate(world.store->writers, true);
		usleep(200000);
	}
	free(data);
}

static void put_upload(const char *key, const uint8_t *data, uint64_t size)
{
	struct msg m;
	struct call *c;

	for (uint64_t at = 0; at < size; at += 4 * MIB) {
		uint32_t len = size - at < 4 * MIB ? (uint32_t)(size - at) : 4 * MIB, crcs[64];

		m = msg_new("data");
		msg_key(&m, key);
		wr_u64(&m.w, 7);
		wr_u64(&m.w, at);
		crc32c_blocks(crcs, data + at, len);
		wr_bytes(&m.w, crcs, 4 * (size_t)crc_block_count(len));
		c = msg_call(&peer, OP_EXTENT, 0, &m, data + at, len);
		assert_int_equal(call_status(c), 0);
		call_free(c);
	}
	m = msg_new("data");
	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	msg_put_rest(&m, PUT_ANY, 0, 7, NULL, size);
	c = msg_call(&peer, OP_PUT, 0, &m, NULL, 0);
	assert_int_equal(put_result_of(c, 0).err, 0);
	call_free(c);
}

static void test_objects_of_many_extents_are_read_whole(void **state)
{
	const uint64_t size = 7 * 4 * MIB + 12345; /* more extents than stand in a row */
	uint8_t *data = malloc(size + 8);
	struct snap_files all;

	(void)state;
	fill(data, size, 5);
	put_file("a", 70000, 0);
	put_upload("large", data, size);
	put_file("z", 10, 0);
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	assert_int_equal(delete_key(&peer, "data", "large"), 0);
	compact();
	snap_read_all(&peer, "data", "v", &all);
	assert_int_equal(all.count, 3);
	assert_int_equal(snap_find(&all, "large")->size, size);
	assert_memory_equal(snap_find(&all, "large")->data, data, size);
	check_file(&all, "a", 70000, 0);
	snap_files_free(&all);
	free(data);
}

static void test_ranges_that_may_not_be_read_are_refused(void **state)
{
	struct snap_files all;
	struct snap_range list[4] = { 0 };
	struct hash128 other;
	struct peer deep;
	uint64_t pack;

	(void)state;
	put_file("a/f", 1000, 0);
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	writers_rotate(world.store->writers, true);
	usleep(200000);
	put_file("b/g", 1000, 0); /* in another pack */
	assert_int_equal(snap_create(&peer, "data", "w", "b/", "").err, 0);
	snap_read_all(&peer, "data", "v", &all);
	pack = all.m.pages[0].pack;
	other = all.hash;
	other.lo++;
	list[0] = (struct snap_range){ .pack = pack, .offset = 4096, .length = 64 };
	list[1] = (struct snap_range){ .pack = pack, .offset = 60000000, .length = 64 };
	list[2] = (struct snap_range){ .pack = pack + 1000, .offset = 4096, .length = 64 };
	list[3] = (struct snap_range){ .pack = pack, .offset = 0, .length = 64 };
	assert_int_equal(ranges_get(&peer, "data", "v", other, 0, list, 1), -GRANARY_ECHANGED);
	assert_int_equal(
		ranges_get(&peer, "data", "gone", all.hash, 0, list, 1), -GRANARY_ENOTFOUND);
	assert_int_equal(ranges_get(&peer, "data", "v", all.hash, 0, list, 4), 0);
	assert_int_equal(list[0].err, 0);
	assert_int_equal(list[1].err, -GRANARY_ERANGE);
	assert_int_equal(list[2].err, -GRANARY_EACCESS);
	assert_int_equal(list[3].err, -GRANARY_ERANGE);
	for (int i = 0; i < 4; i++) {
		free(list[i].data);
		list[i] = (struct snap_range){ .pack = pack, .offset = 4096, .length = 0 };
	}
	assert_int_equal(ranges_get(&peer, "data", "v", all.hash, 0, list, 1), -GRANARY_EPROTO);
	list[0].length = 5 << 20;
	assert_int_equal(ranges_get(&peer, "data", "v", all.hash, 0, list, 1), -GRANARY_EPROTO);
	list[0].length = 64;
	key_make(&world, "deep", GRANT_READ, "data", "b/");
	peer_init(&deep, &world, "deep", 0);
	assert_int_equal(ranges_get(&deep, "data", "v", all.hash, 0, list, 1), -GRANARY_EACCESS);
	assert_int_equal(snap_create(&deep, "data", "x", "b/", "").err, -GRANARY_EACCESS);
	peer_release(&deep);
	snap_files_free(&all);
}

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

static void test_a_slow_peer_holds_back_ranges(void **state)
{
	enum { COUNT = 16 };
	struct snap_files all;
	struct snap_range list[COUNT] = { 0 };
	struct msg m;
	struct call *c;
	bool done = false;

	(void)state;
	put_file("f", 4000000, 0);
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	snap_read_all(&peer, "data", "v", &all);
	for (int i = 0; i < COUNT; i++)
		list[i] = (struct snap_range){
			.pack = all.m.pages[0].pack, .offset = 4096, .length = 3900000
		};
	m = range_msg("data", "v", all.hash, 0, list, COUNT);
	peer.hold = true;
	c = call_start(&peer, OP_RANGE, 0, &m.w, NULL, 0);
	for (uint32_t i = 0; i < 10000 && !done; i++) {
		struct task *t = calloc(1, sizeof(*t));

		usleep(2000);
		pthread_mutex_lock(&peer.lock);
		assert_true(peer.held_data <= 9 * MIB);
		done = c->done;
		peer.hold = !done;
		pthread_mutex_unlock(&peer.lock);
		t->fn = release_held;
		reactor_post(peer.peer.local->reactor, t);
	}
	assert_true(done);
	ranges_take(c, list, COUNT, false);
	for (int i = 0; i < COUNT; i++) free(list[i].data);
	call_free(c);
	c = call(&peer, OP_RANGE, 0, &m.w, NULL,
		0); /* behind the last release: nothing is left over */
	assert_int_equal(call_status(c), 0);
	call_free(c);
	restart(); /* the reactor's memory is ours now */
	free(m.buf);
	snap_files_free(&all);
}

static void test_groups_are_samples_of_several_files(void **state)
{
	struct snap_files all;
	struct snap_entry e;

	(void)state;
	for (uint32_t i = 0; i < 30; i++) {
		char key[64];

		snprintf(key, sizeof(key), "t/s%02u.jpg", i);
		put_file(key, 100 + i, 0);
		snprintf(key, sizeof(key), "t/s%02u.json", i);
		if (i != 7) put_file(key, 50 + i, 0);
		snprintf(key, sizeof(key), "t/s%02u.seg.png", i);
		put_file(key, 10 + i, 0);
	}
	put_file("t/README", 10, 0);
	put_file("t/s03.extra", 10, 0);
	e = snap_create(&peer, "data", "g", "t/", "group=basename");
	if (e.err < 0) fail_msg("%s", e.text);
	assert_int_equal(e.samples, 29);
	assert_non_null(strstr(e.warnings, "'t/s07'"));
	snap_read_all(&peer, "data", "g", &all);
	assert_int_equal(all.m.fields, 3);
	assert_int_equal(all.m.incomplete, 2);
	assert_int_equal(all.count, 87);
	check_file(&all, "t/s00.jpg", 100, 0);
	check_file(&all, "t/s03.json", 53, 0);
	check_file(&all, "t/s29.seg.png", 39, 0);
	assert_null(snap_find(&all, "t/s07.jpg"));
	assert_null(snap_find(&all, "t/s03.extra"));
	assert_int_equal(snap_find(&all, "t/s03.json")->field, 1);
	snap_files_free(&all);
}

static void test_globs_choose_and_bad_options_are_refused(void **state)
{
	static const char *const bad[] = { "block=3", "lanes=0", "expire=5y", "nonsense",
		"color=red", "include=", "group=all" };
	struct snap_entry e;

	(void)state;
	put_some(40, 0);
	put_file("train/0/x.txt", 10, 0);
	e = snap_create(&peer, "data", "a", "train/", "include=0/*\nexclude=*.txt\n");
	assert_int_equal(e.err, 0);
	assert_int_equal(e.samples, 6);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		e = snap_create(&peer, "data", "b", "", bad[i]);
		assert_true(e.err == -GRANARY_EINVAL || e.err == -GRANARY_EUNSUPPORTED);
	}
	assert_int_equal(
		snap_create(&peer, "data", "b", "", "split=words").err, -GRANARY_EINVAL);
	assert_int_equal(snap_create(&peer, "data", "b", "nothing/", "").err, -GRANARY_ENOTFOUND);
	assert_int_equal(snap_create(&peer, "data", "a b", "", "").err, -GRANARY_ENAME);
	assert_int_equal(snap_create(&peer, "data", "..", "", "").err, -GRANARY_ENAME);
	assert_int_equal(snap_create(&peer, "data", "b", "", "keep-last=1").err,
		0); /* a's prefix is another */
	assert_int_equal(snap_create(&peer, "data", "c", "", "keep-last=1").err, 0);
	assert_int_equal(snap_remove(&peer, "data", "b", 0, NULL), -GRANARY_ENOTFOUND);
	assert_int_equal(snap_remove(&peer, "data", "a", 0, NULL), 0);
}

static void test_a_bucket_with_snapshots_stays(void **state)
{
	(void)state;
	put_file("f", 100, 0);
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	assert_int_equal(delete_key(&peer, "data", "f"), 0);
	assert_int_equal(simple_call(&peer, OP_BUCKET_REMOVE, "data"), -GRANARY_ENOTEMPTY);
	assert_int_equal(snap_remove(&peer, "data", "v", 0, NULL), 0);
	assert_int_equal(simple_call(&peer, OP_BUCKET_REMOVE, "data"), 0);
}

static void test_the_systems_bucket_is_closed(void **state)
{
	struct msg m;
	struct call *c;
	struct cur a;

	(void)state;
	put_file("f", 100, 0);
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	assert_int_equal(put_key(&peer, NS_SYSTEM_BUCKET, "x", "y", 1).err, -GRANARY_EACCESS);
	assert_int_equal(read_err(&peer, NS_SYSTEM_BUCKET, "x"), -GRANARY_EACCESS);
	m = msg_new("");
	wr_u32(&m.w, 100);
	c = msg_call(&peer, OP_BUCKET_LIST, 0, &m, NULL, 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	cur_u8(&a);
	assert_int_equal(cur_u32(&a), 1);
	call_free(c);
}

/* Names of a page of the list, separated by spaces. */
static void list_names(struct peer *p, const char *after, uint32_t max, char names[512], bool *more)
{
	struct msg m = msg_new("data");
	struct call *c;
	struct cur a;
	uint32_t n;

	wr_bytes16(&m.w, slice_str(after));
	wr_u32(&m.w, max);
	c = msg_call(p, OP_SNAPSHOT_LIST, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	*more = cur_u8(&a) != 0;
	n = cur_u32(&a);
	names[0] = '\0';
	while (n-- > 0) {
		struct snap_entry e = { 0 };

		snap_entry_take(&e, &a);
		snprintf(names + strlen(names), 512 - strlen(names), "%s ", e.name);
	}
	assert_true(cur_done(&a));
	call_free(c);
}

static void test_snapshots_are_listed_and_noted(void **state)
{
	struct msg m;
	struct call *c;
	struct snap_entry e;
	struct peer deep;
	char names[512];
	uint8_t *bytes;
	size_t len;
	bool more;

	(void)state;
	put_some(14, 0);
	assert_int_equal(snap_create(&peer, "data", "b", "", "").err, 0);
	assert_int_equal(snap_create(&peer, "data", "a", "train/3/", "").err, 0);
	assert_int_equal(snap_create(&peer, "data", ".auto", "train/", "").err, 0);
	list_names(&peer, "", 2, names, &more);
	assert_string_equal(names, ".auto a ");
	assert_true(more);
	list_names(&peer, "a", 2, names, &more);
	assert_string_equal(names, "b ");
	assert_false(more);
	key_make(&world, "deep", GRANT_READ, "data", "train/3/");
	peer_init(&deep, &world, "deep", 0);
	list_names(&deep, "", 10, names, &more);
	assert_string_equal(names, "a ");
	assert_int_equal(snap_show(&deep, "data", "b", &bytes, &len).err, -GRANARY_EACCESS);
	peer_release(&deep);
	m = msg_new("data");
	wr_bytes16(&m.w, slice_str("a"));
	wr_bytes16(&m.w, slice_str("a good one"));
	wr_u64(&m.w, UINT64_MAX);
	c = msg_call(&peer, OP_SNAPSHOT_NOTE, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	call_free(c);
	e = snap_show(&peer, "data", "a", &bytes, &len);
	assert_int_equal(e.expires, UINT64_MAX);
	assert_int_equal(e.samples, 2);
	free(bytes);
	assert_int_equal(snap_show(&peer, "data", "none", &bytes, &len).err, -GRANARY_ENOTFOUND);
	assert_int_equal(snap_page(&peer, "data", "a", (struct hash128){ 1, 2 }, &bytes, &len),
		-GRANARY_ENOTFOUND);
}

static void test_bytes_that_a_snapshot_alone_holds_are_told(void **state)
{
	struct snap_entry e;
	uint8_t *bytes;
	size_t len;

	(void)state;
	for (int i = 0; i < 4; i++) {
		char key[16];

		snprintf(key, sizeof(key), "f%d", i);
		put_file(key, 100000, 0);
	}
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	e = snap_show(&peer, "data", "v", &bytes, &len);
	assert_int_equal(e.alone, 0);
	free(bytes);
	for (int i = 0; i < 3; i++) {
		char key[16];

		snprintf(key, sizeof(key), "f%d", i);
		assert_int_equal(delete_key(&peer, "data", key), 0);
	}
	e = snap_show(&peer, "data", "v", &bytes, &len);
	assert_true(e.alone >= 300000 && e.alone < 310000);
	free(bytes);
}

static void test_at_most_two_are_made_at_once(void **state)
{
	struct call *calls[8];
	uint32_t made = 0, busy = 0;

	(void)state;
	put_some(50, 0);
	for (int i = 0; i < 8; i++) {
		char name[16];

		snprintf(name, sizeof(name), "v%d", i);
		calls[i] = snap_create_start(&peer, "data", name, "", "");
	}
	for (int i = 0; i < 8; i++) {
		struct snap_entry e;

		call_wait(calls[i]);
		e = snap_created(calls[i]);
		made += e.err == 0;
		busy += e.err == -GRANARY_EBUSY;
	}
	assert_int_equal(made + busy, 8);
	assert_true(made >= 1); /* the place of one that was answered just before may be taken a moment longer */
}

static void test_a_stop_ends_what_is_being_made(void **state)
{
	struct call *c;

	(void)state;
	put_some(100, 0);
	c = snap_create_start(&peer, "data", "v", "", "");
	snapshots_abort(world.store->snapshots);
	call_wait(c);
	assert_true(call_status(c) == 0 || call_status(c) == -GRANARY_ESHUTDOWN ||
		    call_status(c) == -GRANARY_EBUSY);
	call_free(c);
	restart();
	assert_true(system_objects() == 0 || system_objects() >= 3);
}

/* ---- repacking ---- */

static void check_same(const struct snap_files *a, const struct snap_files *b)
{
	assert_int_equal(a->count, b->count);
	for (uint32_t i = 0; i < a->count; i++) {
		assert_string_equal(a->list[i].key, b->list[i].key);
		assert_int_equal(a->list[i].id, b->list[i].id);
		assert_int_equal(a->list[i].size, b->list[i].size);
		if (a->list[i].size > 0) assert_memory_equal(a->list[i].data, b->list[i].data, a->list[i].size);
	}
}

static void check_identity(const struct snap_files *f, struct hash128 want)
{
	assert_true(f->m.has_identity && f->m.identity.lo == want.lo && f->m.identity.hi == want.hi);
}

/* Every other file is deleted first, so that the copies of the rest are what a compaction moves. */
static void test_a_repacked_snapshot_has_packs_of_its_own_and_the_same_order(void **state)
{
	struct snap_files before, after;
	struct snap_entry made, now;
	struct pack_row row;

	(void)state;
	put_some(150, 0);
	put_file("train/big", 3000000, 0);
	made = snap_create(&peer, "data", "v1", "train/", "");
	assert_int_equal(made.err, 0);
	snap_read_all(&peer, "data", "v1", &before);
	for (uint32_t i = 0; i < 150; i += 2) {
		char key[64];

		snprintf(key, sizeof(key), "train/%u/f%03u", i % 7, i);
		assert_int_equal(delete_key(&peer, "data", key), 0);
	}
	for (int round = 0; round < 3; round++) {
		now = snap_repack(&peer, "data", "v1", 0);
		if (now.err < 0) fail_msg("%s", now.text);
		assert_true(now.alone >= made.bytes); /* all that it holds is its own */
		if (round == 1) compact();
		if (round == 2) restart();
		snap_read_all(&peer, "data", "v1", &after);
		check_same(&before, &after);
		check_identity(&after, before.hash);
		for (uint32_t i = 0; i < after.m.page_count; i++) {
			if (after.m.pages[i].pack == 0) continue;
			assert_int_equal(packs_row(world.store->packs, after.m.pages[i].pack, &row), 0);
			assert_int_equal(row.pins, 1);
			for (uint32_t k = 0; k < before.m.page_count; k++)
				assert_true(before.m.pages[k].pack != after.m.pages[i].pack);
		}
		snap_files_free(&after);
	}
	assert_int_equal(read_err(&peer, "data", "train/1/f001"), 0);
	compact();
	snap_read_all(&peer, "data", "v1", &after);
	assert_int_equal(system_objects(), after.m.page_count + after.m.names_count + 1); /* what was before is swept */
	snap_files_free(&after);
	assert_int_equal(snap_remove(&peer, "data", "v1", 0, NULL), 0);
	assert_int_equal(system_objects(), 0);
	snap_files_free(&before);
}

static void test_ranges_of_what_was_repacked_are_refused_as_changed(void **state)
{
	struct snap_files all;
	struct snap_range r;
	struct snap_page page;
	struct snap_row row;
	uint8_t *bytes;
	size_t len;

	(void)state;
	put_file("a", 5000, 0);
	assert_int_equal(snap_create(&peer, "data", "v1", "", "").err, 0);
	snap_read_all(&peer, "data", "v1", &all);
	assert_int_equal(snap_page(&peer, "data", "v1", all.m.pages[0].hash, &bytes, &len), 0);
	assert_int_equal(snap_page_parse(bytes, len, &page), 0);
	assert_int_equal(snap_page_row(&page, 0, &row), 0);
	r = (struct snap_range){ .pack = row.first.pack, .offset = row.first.offset, .length = row.first.length };
	assert_int_equal(ranges_get(&peer, "data", "v1", all.hash, 0, &r, 1), 0);
	free(r.data);
	assert_int_equal(snap_repack(&peer, "data", "v1", 0).err, 0);
	r.data = NULL;
	assert_int_equal(ranges_get(&peer, "data", "v1", all.hash, 0, &r, 1), -GRANARY_ECHANGED);
	free(bytes);
	snap_files_free(&all);
}

static void test_what_cannot_be_repacked_is_left_as_it_is(void **state)
{
	struct snap_entry e;

	(void)state;
	put_some(20, 0);
	assert_int_equal(snap_repack(&peer, "data", "none", 0).err, -GRANARY_ENOTFOUND);
	assert_int_equal(snap_repack(&peer, "data", "a b", 0).err, -GRANARY_ENAME);
	assert_int_equal(snap_create(&peer, "data", "v1", "", "").err, 0);
	snapshots_abort(world.store->snapshots); /* while it is under way */
	e = snap_repack(&peer, "data", "v1", 0);
	assert_true(e.err == -GRANARY_ESHUTDOWN || e.err == -GRANARY_EBUSY);
	restart();
	e = snap_repack(&peer, "data", "v1", 0);
	assert_int_equal(e.err, 0);
}

/* ---- leases ---- */

static int report(const char *job, uint8_t flags)
{
	struct msg m = msg_new("data");
	struct call *c;
	int err;

	wr_bytes16(&m.w, slice_str("v"));
	wr_bytes16(&m.w, slice_str(job));
	wr_bytes16(&m.w, slice_str("host1"));
	wr_u32(&m.w, 0);
	wr_u32(&m.w, 1);
	wr_u32(&m.w, 1);
	for (int i = 0; i < 6; i++) wr_u64(&m.w, 7);
	wr_u8(&m.w, flags);
	c = msg_call(&peer, OP_STREAM_REPORT, 0, &m, NULL, 0);
	err = call_status(c);
	call_free(c);
	return err;
}

static void test_a_lease_keeps_a_snapshot_also_over_a_restart(void **state)
{
	struct msg m;
	struct call *c;
	char text[512];

	(void)state;
	put_file("f", 100, 0);
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	assert_int_equal(report("train-7", 0), 0);
	assert_int_equal(snap_repack(&peer, "data", "v", 0).err, -GRANARY_EBUSY);
	assert_int_equal(snap_repack(&peer, "data", "v", SNAPSHOT_FORCE).err, 0);
	assert_int_equal(report("bad job", 0), -GRANARY_EINVAL);
	assert_int_equal(snap_remove(&peer, "data", "v", 0, text), -GRANARY_EBUSY);
	assert_non_null(strstr(text, "train-7"));
	m = msg_new("");
	c = msg_call(&peer, OP_STREAM_LIST, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	c->first->data[c->first->data_len] = '\0';
	assert_non_null(
		strstr((char *)c->first->data, "job=train-7 snapshot=data@v host=host1 rank=0"));
	call_free(c);
	restart();
	assert_int_equal(snap_remove(&peer, "data", "v", 0, text), -GRANARY_EBUSY);
	assert_int_equal(report("train-7", 0), 0);
	assert_int_equal(report("train-7", 1), 0);
	restart();
	assert_int_equal(snap_remove(&peer, "data", "v", 0, text), 0);
	assert_int_equal(report("train-7", 0), -GRANARY_ENOTFOUND);
	assert_int_equal(snap_create(&peer, "data", "v", "", "").err, 0);
	assert_int_equal(report("train-7", 0), 0);
	assert_int_equal(snap_remove(&peer, "data", "v", SNAPSHOT_FORCE, text), 0);
}

static void test_an_expired_snapshot_goes_with_the_next_pass(void **state)
{
	char text[512];

	(void)state;
	put_file("f", 100, 0);
	assert_int_equal(snap_create(&peer, "data", "short", "", "expire=1s").err, 0);
	assert_int_equal(snap_create(&peer, "data", "long", "", "expire=1d").err, 0);
	usleep(1100000);
	assert_int_equal(jobs_compact_now(world.store->jobs, text, sizeof(text)), 0);
	assert_int_equal(snap_remove(&peer, "data", "short", 0, NULL), -GRANARY_ENOTFOUND);
	assert_int_equal(snap_remove(&peer, "data", "long", 0, NULL), 0);
}

/* ---- one instant ---- */

enum { WRITERS = 4, SLOTS = 10, FILES = 3, SNAPSHOTS = 6 };

struct writer_thread {
	pthread_t thread;
	uint32_t index;
	_Atomic bool *stop;
	uint64_t ops;
};

/* Operation r of a writer, one request: its slot's three files are put with round r, or deleted, or
 * the directory with all its slots changes its name, from `a` to `b` and back. */
static bool op_renames(uint64_t r)
{
	return r % 7 == 6;
}
static bool op_deletes(uint64_t r)
{
	return r % 4 == 3 && !op_renames(r);
}
static bool side_before(uint64_t r)
{
	return r / 7 % 2 == 1;
}

static void slot_key(char key[64], uint32_t writer, bool side, uint64_t slot, uint32_t file)
{
	snprintf(key, 64, "w%u/%c/d%u/s%u.%u", writer, side ? 'b' : 'a', (unsigned)slot % 3, (unsigned)slot, file);
}

static uint32_t round_size(uint64_t r, uint32_t file)
{
	return (uint32_t)(8 + (r * 131 + file * 977) % 3000);
}

static void round_fill(uint8_t *data, uint64_t r, uint32_t file)
{
	fill(data, round_size(r, file), r * 8 + file);
	memcpy(data, &r, 8);
}

static int writer_renames(struct peer *p, uint32_t writer, uint64_t r)
{
	struct msg m = msg_new("data");
	struct call *c;
	char from[64], to[64];
	int err;

	snprintf(from, sizeof(from), "w%u/%c", writer, side_before(r) ? 'b' : 'a');
	snprintf(to, sizeof(to), "w%u/%c", writer, side_before(r) ? 'a' : 'b');
	msg_sequence(&m, next_sequence++, 0, 0);
	msg_key(&m, from);
	msg_key(&m, to);
	wr_u8(&m.w, 0);
	c = msg_call(p, OP_RENAME, 0, &m, NULL, 0);
	err = call_status(c);
	call_free(c);
	return err;
}

static int writer_op(struct peer *p, uint32_t writer, uint64_t r)
{
	static _Thread_local uint8_t data[FILES][4096], all[FILES * 4096];
	struct msg m = msg_new("data");
	size_t len = 0;
	struct call *c;
	char key[64];
	int err;

	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, FILES);
	for (uint32_t f = 0; f < FILES; f++) {
		slot_key(key, writer, side_before(r), r % SLOTS, f);
		msg_key(&m, key);
		if (op_deletes(r)) {
			wr_u8(&m.w, 0);
			wr_u64(&m.w, 0);
			continue;
		}
		round_fill(data[f], r, f);
		msg_put_rest(&m, PUT_ANY, 0, 0, data[f], round_size(r, f));
		memcpy(all + len, data[f], round_size(r, f));
		len += round_size(r, f);
	}
	c = msg_call(p, op_deletes(r) ? OP_DELETE : OP_PUT, 0, &m, all, len);
	err = call_status(c);
	call_free(c);
	return err;
}

static void *writer_main(void *arg)
{
	struct writer_thread *w = arg;
	struct peer p;

	peer_init(&p, &world, "root", w->index);
	while (!atomic_load(w->stop)) {
		uint64_t r = w->ops + 1;

		assert_int_equal(op_renames(r) ? writer_renames(&p, w->index, r) : writer_op(&p, w->index, r), 0);
		w->ops++;
	}
	peer_release(&p);
	return NULL;
}

static void *compactor_main(void *arg)
{
	_Atomic bool *stop = arg;
	char text[512];

	while (!atomic_load(stop)) {
		writers_rotate(world.store->writers, true);
		usleep(20000);
		jobs_compact_now(world.store->jobs, text, sizeof(text));
	}
	return NULL;
}

/* The rounds of a writer's slots after its first `ops` operations; 0: not there. */
static void state_after(uint64_t ops, uint64_t slots[SLOTS])
{
	memset(slots, 0, SLOTS * sizeof(*slots));
	for (uint64_t r = 1; r <= ops; r++)
		if (!op_renames(r)) slots[r % SLOTS] = op_deletes(r) ? 0 : r;
}

static void check_writer(const struct snap_files *all, uint32_t writer)
{
	uint64_t have[SLOTS] = { 0 }, want[SLOTS], highest = 0;
	uint8_t data[4096];
	bool seen[2] = { false, false };

	for (uint32_t slot = 0; slot < SLOTS; slot++)
		for (uint32_t f = 0; f < FILES; f++) {
			const struct snap_file *file;
			uint64_t r = 0;
			char key[64];

			slot_key(key, writer, true, slot, f);
			file = snap_find(all, key);
			seen[1] |= file != NULL;
			if (file == NULL) {
				slot_key(key, writer, false, slot, f);
				file = snap_find(all, key);
				seen[0] |= file != NULL;
			}
			if (file != NULL) memcpy(&r, file->data, 8);
			if (f > 0 && r != have[slot]) fail_msg("'%s' is of another instant", key);
			have[slot] = r;
			if (file == NULL) continue;
			round_fill(data, r, f);
			assert_int_equal(file->size, round_size(r, f));
			assert_memory_equal(file->data, data, file->size);
			highest = r > highest ? r : highest;
		}
	for (uint64_t ops = highest; ops < highest + SLOTS; ops++) {
		state_after(ops, want);
		/* After `ops` operations the directory has the name that the next one finds. */
		if (memcmp(want, have, sizeof(have)) == 0 && !seen[!side_before(ops + 1)]) return;
	}
	fail_msg("writer %u: no moment had these files", writer);
}

static void test_a_snapshot_made_while_others_write_is_one_instant(void **state)
{
	struct writer_thread writers[WRITERS];
	_Atomic bool stop = false;
	pthread_t compactor;

	(void)state;
	for (uint32_t i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer_thread){ .index = i, .stop = &stop };
		assert_int_equal(
			pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]), 0);
	}
	assert_int_equal(pthread_create(&compactor, NULL, compactor_main, &stop), 0);
	for (int i = 0; i < SNAPSHOTS; i++) {
		char name[16];
		struct snap_entry e;

		snprintf(name, sizeof(name), "v%d", i);
		do { /* until there is a first file */
			usleep(150000);
			e = snap_create(&peer, "data", name, "", "");
		} while (e.err == -GRANARY_ENOTFOUND);
		if (e.err < 0) fail_msg("%s", e.text);
	}
	usleep(300000);
	atomic_store(&stop, true);
	for (uint32_t i = 0; i < WRITERS; i++) pthread_join(writers[i].thread, NULL);
	pthread_join(compactor, NULL);
	compact();
	for (int pass = 0; pass < 2; pass++) {
		for (int i = 0; i < SNAPSHOTS; i++) {
			struct snap_files all;
			char name[16];

			snprintf(name, sizeof(name), "v%d", i);
			snap_read_all(&peer, "data", name, &all);
			for (uint32_t k = 0; k < WRITERS; k++) check_writer(&all, k);
			snap_files_free(&all);
		}
		restart();
		compact();
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_a_snapshot_has_every_file_below_its_prefix),
		T(test_pinned_packs_survive_delete_compaction_and_restart),
		T(test_removing_deletes_the_pages_that_nobody_else_uses),
		T(test_ranges_give_the_right_bytes_in_every_shape),
		T(test_objects_of_many_extents_are_read_whole),
		T(test_ranges_that_may_not_be_read_are_refused),
		T(test_a_slow_peer_holds_back_ranges),
		T(test_groups_are_samples_of_several_files),
		T(test_globs_choose_and_bad_options_are_refused),
		T(test_a_bucket_with_snapshots_stays),
		T(test_the_systems_bucket_is_closed),
		T(test_snapshots_are_listed_and_noted),
		T(test_bytes_that_a_snapshot_alone_holds_are_told),
		T(test_at_most_two_are_made_at_once),
		T(test_a_stop_ends_what_is_being_made),
		T(test_a_repacked_snapshot_has_packs_of_its_own_and_the_same_order),
		T(test_ranges_of_what_was_repacked_are_refused_as_changed),
		T(test_what_cannot_be_repacked_is_left_as_it_is),
		T(test_a_lease_keeps_a_snapshot_also_over_a_restart),
		T(test_a_snapshot_made_while_others_write_is_one_instant),
		T(test_an_expired_snapshot_goes_with_the_next_pass),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
