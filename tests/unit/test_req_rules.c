/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what may run, in which order, who may do what, and that a retry changes nothing. Method: a
 * store on real threads, peers without sockets. */
#include "harness_store.h"

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

/* ---- sequences ---- */

static struct msg put_msg(
	uint64_t sequence, uint64_t after, uint64_t seen, const char *key, const char *text)
{
	struct msg m = msg_new("data");

	msg_sequence(&m, sequence, after, seen);
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	msg_put_rest(&m, PUT_ANY, 0, 0, text, strlen(text));
	return m;
}

static struct put_result put_as(uint16_t flags, uint64_t sequence, uint64_t after, uint64_t seen,
	const char *key, const char *text)
{
	struct msg m = put_msg(sequence, after, seen, key, text);
	struct call *c = msg_call(&peer, OP_PUT, flags, &m, text, strlen(text));
	struct put_result r = put_result_of(c, 0);

	call_free(c);
	return r;
}

static uint64_t fresh(uint64_t n)
{
	return atomic_fetch_add(&next_sequence, n);
}

static void test_a_resent_put_gets_its_first_answer(void **state)
{
	uint64_t s = fresh(1);
	struct put_result first = put_as(0, s, 0, 0, "k", "one"), again;

	(void)state;
	assert_int_equal(first.err, 0);
	again = put_as(FRAME_RESENT, s, 0, 0, "k", "one");
	assert_int_equal(again.err, 0);
	assert_int_equal(again.version, first.version);
	assert_int_equal(again.replaced, 0);
}

static void test_a_resent_put_is_remembered_over_a_restart(void **state)
{
	uint64_t s = fresh(2), session = session_id(peer.peer.session);
	struct put_result first = put_as(0, s, 0, 0, "k", "one"), again;

	(void)state;
	peer_release(&peer);
	world_restart(&world);
	peer_init(&peer, &world, "root", 1);
	session_detach(world.store->sessions, &peer.peer.session);
	peer_attach(&peer, session);
	again = put_as(FRAME_RESENT, s, 0, 0, "k", "one");
	assert_int_equal(again.err, 0);
	assert_int_equal(again.version, first.version);
	assert_int_equal(again.id, first.id);
	assert_int_equal(again.dir, first.dir);
	again = put_as(FRAME_RESENT, s + 1, 0, 0, "k2", "never sent before");
	assert_int_equal(again.err, 0);
	assert_int_not_equal(again.version, first.version);
}

/* The server is another one, the session the same. */
static void restart_in(uint64_t session)
{
	peer_release(&peer);
	world_restart(&world);
	peer_init(&peer, &world, "root", 1);
	session_detach(world.store->sessions, &peer.peer.session);
	peer_attach(&peer, session);
}

/* A batch of n keys "d<i % dirs>/<i>", from the first-th on. */
static struct call *batch_call(
	uint8_t op, uint16_t flags, uint64_t sequence, uint32_t first, uint32_t n, uint32_t dirs)
{
	struct msg m = msg_new("data");
	uint8_t *data = calloc(1, 2 * (size_t)n);
	uint32_t at = 0;
	struct call *c;

	msg_sequence(&m, sequence, 0, 0);
	wr_u32(&m.w, n);
	for (uint32_t i = first; i < first + n; i++) {
		uint32_t size = op == OP_PUT ? 1 + i % 2 : 0;
		char key[32];

		snprintf(key, sizeof(key), "d%u/%u", i % dirs, i);
		msg_key(&m, key);
		if (op == OP_PUT) {
			msg_put_rest(&m, i % 7 == 3 ? PUT_IF_ABSENT : PUT_ANY, 0, 0, data + at, size);
		} else {
			wr_u8(&m.w, 0);
			wr_u64(&m.w, 0);
		}
		at += size;
	}
	c = msg_call(&peer, op, flags, &m, data, at);
	assert_int_equal(call_status(c), 0);
	free(data);
	return c;
}

static void assert_same_answer(struct call *first, struct call *again)
{
	assert_int_equal(call_status(again), 0);
	assert_int_equal(first->first->meta_len, again->first->meta_len);
	assert_memory_equal(first->first->meta, again->first->meta, first->first->meta_len);
	call_free(first);
	call_free(again);
}

/* New objects, replaced ones, entries refused (every seventh the second time), deleted ones and ones that never were;
 * what is there afterwards differs from what the answers told. */
static void test_batches_are_answered_as_before_after_a_restart(void **state)
{
	uint64_t s = fresh(5), session = session_id(peer.peer.session);
	struct call *calls[5];

	(void)state;
	for (int i = 0; i < 2; i++) calls[i] = batch_call(OP_PUT, 0, s + (uint64_t)i, 0, 150, 3);
	calls[2] = batch_call(OP_PUT, 0, s + 2, 1000, 2000, 1); /* one directory, nothing replaced: short lists */
	calls[3] = batch_call(OP_DELETE, 0, s + 3, 100, 100, 3);
	calls[4] = batch_call(OP_DELETE, 0, s + 4, 0, 1, 1);
	assert_true(put_result_of(calls[1], 4).replaced == put_result_of(calls[0], 4).version);
	assert_int_equal(put_result_of(calls[1], 3).err, -GRANARY_EPRECONDITION);
	assert_int_equal(delete_key(&peer, "data", "d0/1001"), 0);
	restart_in(session);
	for (int i = 0; i < 2; i++)
		assert_same_answer(calls[i], batch_call(OP_PUT, FRAME_RESENT, s + (uint64_t)i, 0, 150, 3));
	assert_same_answer(calls[2], batch_call(OP_PUT, FRAME_RESENT, s + 2, 1000, 2000, 1));
	assert_same_answer(calls[3], batch_call(OP_DELETE, FRAME_RESENT, s + 3, 100, 100, 3));
	assert_same_answer(calls[4], batch_call(OP_DELETE, FRAME_RESENT, s + 4, 0, 1, 1));
}

/* FORMAT 6.14: the row stays below its bound; what has no room is answered as 0, never as something else. */
static void test_a_row_of_a_large_batch_tells_what_fits(void **state)
{
	uint64_t s = fresh(3), session = session_id(peer.peer.session);
	struct call *made = batch_call(OP_PUT, 0, s, 0, 2000, 1), *over, *gone, *again;

	(void)state;
	over = batch_call(OP_PUT, 0, s + 1, 0, 2000, 1);
	gone = batch_call(OP_DELETE, 0, s + 2, 1000, 1001, 1);
	restart_in(session);
	assert_same_answer(made, batch_call(OP_PUT, FRAME_RESENT, s, 0, 2000, 1));
	again = batch_call(OP_PUT, FRAME_RESENT, s + 1, 0, 2000, 1);
	for (uint32_t i = 0; i < 2000; i++) {
		struct put_result was = put_result_of(over, i), now = put_result_of(again, i);

		assert_int_equal(was.err, now.err);
		assert_int_equal(was.version, now.version);
		assert_int_equal(was.id, now.id);
		assert_int_equal(was.dir, now.dir);
		assert_int_equal(now.replaced, 0);
	}
	call_free(over);
	call_free(again);
	again = batch_call(OP_DELETE, FRAME_RESENT, s + 2, 1000, 1001, 1);
	assert_int_equal(gone->first->meta_len, again->first->meta_len);
	for (uint32_t i = 0; i < 1001; i++) {
		struct cur was = cur_of(gone->first->meta + 4 + 18 * i, 18);
		struct cur now = cur_of(again->first->meta + 4 + 18 * i, 18);
		uint64_t version;

		assert_int_equal(cur_u16(&was), cur_u16(&now));
		version = cur_u64(&now);
		assert_true(version == cur_u64(&was) || version == 0);
	}
	call_free(gone);
	call_free(again);
}

static void test_a_refused_put_is_refused_again_and_not_tried(void **state)
{
	struct msg m;
	struct call *c;
	uint64_t s;

	(void)state;
	assert_int_equal(put_key(&peer, "data", "k", "x", 1).err, 0);
	s = fresh(1);
	for (int i = 0; i < 2; i++) {
		m = msg_new("data");
		msg_sequence(&m, s, 0, 0);
		wr_u32(&m.w, 1);
		msg_key(&m, "k");
		msg_put_rest(&m, PUT_IF_ABSENT, 0, 0, "y", 1);
		c = msg_call(&peer, OP_PUT, i == 0 ? 0 : FRAME_RESENT, &m, "y", 1);
		assert_int_equal(put_result_of(c, 0).err, -GRANARY_EPRECONDITION);
		call_free(c);
		assert_int_equal(delete_key(&peer, "data", "k"), i == 0 ? 0 : -GRANARY_ENOTFOUND);
	}
}

static void test_sequences_that_do_not_fit_are_refused(void **state)
{
	uint64_t s = fresh(10) + 5;

	(void)state;
	assert_int_equal(put_as(0, 0, 0, 0, "k", "x").err, -GRANARY_EPROTO);
	assert_int_equal(put_as(0, s, s, 0, "k", "x").err, -GRANARY_EPROTO);
	assert_int_equal(put_as(0, s, 0, s, "k", "x").err, -GRANARY_EPROTO);
	assert_int_equal(put_as(0, s, 0, 0, "k", "x").err, 0);
	assert_int_equal(put_as(0, s, 0, 0, "k", "x").err,
		-GRANARY_EPROTO); /* twice, not marked as resent */
	assert_int_equal(put_as(0, s + 1, 0, s, "k", "x").err, 0);
	assert_int_equal(put_as(FRAME_RESENT, s, 0, 0, "k", "x").err, -GRANARY_EPROTO); /* seen */
}

static void test_a_put_waits_for_the_one_it_follows(void **state)
{
	uint64_t s = fresh(3);
	struct msg later = put_msg(s + 1, s, 0, "k", "later"),
		   first = put_msg(s, 0, 0, "k", "first");
	struct peer other;
	struct call *c, *d;
	struct read_result r;

	(void)state;
	peer_init(&other, &world, "root", 1); /* another connection of the session */
	session_detach(world.store->sessions, &other.peer.session);
	peer_attach(&other, session_id(peer.peer.session));
	c = call_start(&other, OP_PUT, 0, &later.w, "later", 5);
	usleep(50000);
	pthread_mutex_lock(&other.lock);
	assert_false(c->done);
	pthread_mutex_unlock(&other.lock);
	d = msg_call(&peer, OP_PUT, 0, &first, "first", 5);
	call_wait(c);
	assert_true(put_result_of(d, 0).version > 0);
	assert_int_equal(put_result_of(c, 0).replaced, put_result_of(d, 0).version);
	call_free(c);
	call_free(d);
	free(later.buf);
	r = read_key(&peer, "data", "k", 0);
	assert_memory_equal(r.data, "later", 5);
	read_free(&r, 1);
	peer_release(&other);
}

static void test_a_session_belongs_to_its_key(void **state)
{
	const struct ns_access_key *other;
	struct session *s = NULL;

	(void)state;
	key_make(&world, "other", ALL_ACTIONS, "", "");
	other = ns_key_ref(world.store->ns, slice_str("other"));
	assert_int_equal(session_attach(world.store->sessions, other, session_id(peer.peer.session),
				 true, &s),
		-GRANARY_EACCESS);
	assert_null(s);
	ns_key_unref(world.store->ns, other);
}

/* ---- grants ---- */

static int stat_ref(struct peer *p, void (*ref)(struct msg *m, const struct put_result *to),
	const struct put_result *to)
{
	struct msg m = read_msg(ref == NULL ? "data" : "", 0, 1);
	struct call *c;
	struct cur a;
	int err;

	if (ref == NULL)
		msg_key(&m, "private/x");
	else
		ref(&m, to);
	c = msg_call(p, OP_STAT, 0, &m, NULL, 0);
	err = call_status(c);
	a = cur_of(c->first->meta, c->first->meta_len);
	if (err == 0) {
		assert_int_equal(cur_u32(&a), 1);
		err = -(int)cur_u16(&a);
	}
	call_free(c);
	return err;
}

static int read_ref(struct peer *p, void (*ref)(struct msg *m, const struct put_result *to),
	const struct put_result *to)
{
	struct msg m = read_msg("", 0, 1);
	struct read_result r;
	struct call *c;

	wr_u8(&m.w, 0);
	ref(&m, to);
	c = msg_call(p, OP_READ, 0, &m, NULL, 0);
	read_results(c, &r, 1);
	read_free(&r, 1);
	call_free(c);
	return r.err;
}

static void by_name(struct msg *m, const struct put_result *to)
{
	msg_name(m, to->dir, "x");
}
static void by_id(struct msg *m, const struct put_result *to)
{
	msg_id(m, to->id, to->dir, "x");
}
static void by_bare_id(struct msg *m, const struct put_result *to)
{
	msg_id(m, to->id, 0, "");
}
static uint64_t allowed_dir;
static void by_id_elsewhere(struct msg *m, const struct put_result *to)
{
	msg_id(m, to->id, allowed_dir, "x");
}

static void test_a_key_reads_only_what_it_was_granted(void **state)
{
	struct put_result secret = put_key(&peer, "data", "private/x", "s", 1);
	struct put_result open = put_key(&peer, "data", "public/x", "p", 1);
	struct peer guest;

	(void)state;
	key_make(&world, "guest", GRANT_READ | GRANT_LIST, "data", "public/");
	peer_init(&guest, &world, "guest", 1);
	allowed_dir = open.dir;
	for (int pass = 0; pass < 2; pass++) { /* tables cold, then warm */
		assert_int_equal(read_err(&guest, "data", "private/x"), -GRANARY_EACCESS);
		assert_int_equal(read_ref(&guest, by_name, &secret), -GRANARY_EACCESS);
		assert_int_equal(read_ref(&guest, by_id, &secret), -GRANARY_EACCESS);
		/* an id whose place the client does not tell, or tells wrongly, is not found at all
		 * */
		assert_int_equal(read_ref(&guest, by_bare_id, &secret), -GRANARY_ESTALE);
		assert_int_equal(read_ref(&guest, by_id_elsewhere, &secret), -GRANARY_ESTALE);
		assert_int_equal(stat_ref(&guest, NULL, NULL), -GRANARY_EACCESS);
		assert_int_equal(stat_ref(&guest, by_name, &secret), -GRANARY_EACCESS);
		assert_int_equal(stat_ref(&guest, by_id, &secret), -GRANARY_EACCESS);
		assert_int_equal(read_ref(&guest, by_name, &open), 0);
		assert_int_equal(read_ref(&guest, by_id, &open), 0);
		assert_int_equal(stat_ref(&guest, by_id, &open), 0);
		assert_int_equal(read_ref(&peer, by_id, &secret), 0); /* fills the tables */
		assert_int_equal(stat_ref(&peer, by_name, &secret), 0);
	}
	assert_int_equal(put_key(&guest, "data", "public/y", "no", 2).err, -GRANARY_EACCESS);
	assert_int_equal(delete_key(&guest, "data", "public/x"), -GRANARY_EACCESS);
	assert_int_equal(read_err(&guest, "other-bucket", "public/x"), -GRANARY_EACCESS);
	assert_int_equal(simple_call(&guest, OP_BUCKET_CREATE, "theirs"), -GRANARY_EACCESS);
	peer_release(&guest);
}

static void test_a_removed_key_stops_working(void **state)
{
	struct peer guest;

	(void)state;
	key_make(&world, "guest", GRANT_READ, "", "");
	peer_init(&guest, &world, "guest", 0);
	assert_int_equal(read_err(&guest, "data", "none"), -GRANARY_ENOTFOUND);
	assert_int_equal(ns_key_remove(world.store->ns, slice_str("guest")), 0);
	assert_int_equal(read_err(&guest, "data", "none"), -GRANARY_EAUTH);
	peer_release(&guest);
}

/* ---- listing ---- */

/* "a b/ c": keys and prefixes of all pages of `max`, by spaces. */
static void list_into(struct peer *p, const char *prefix, const char *delimiter, uint32_t max,
	char *out, size_t cap)
{
	char after[256] = "";
	bool more = true;
	size_t len = 0;

	out[0] = '\0';
	while (more) {
		struct msg m = msg_new("data");
		struct call *c;
		struct cur a;
		uint32_t n;

		wr_bytes16(&m.w, slice_str(prefix));
		wr_bytes16(&m.w, slice_str(delimiter));
		wr_bytes16(&m.w, slice_str(after));
		wr_u32(&m.w, max);
		c = msg_call(p, OP_LIST, 0, &m, NULL, 0);
		if (call_status(c) < 0) {
			snprintf(out, cap, "error %d", -call_status(c));
			call_free(c);
			return;
		}
		a = cur_of(c->first->meta, c->first->meta_len);
		more = cur_u8(&a) != 0;
		n = cur_u32(&a);
		assert_true(n <= max && (n > 0 || !more));
		for (uint32_t i = 0; i < n; i++) {
			bool is_object = cur_u8(&a) == LIST_OBJECT;
			struct slice key = cur_bytes16(&a);

			if (is_object) cur_take(&a, 5 * 8 + 4 + 1 + 16);
			len += (size_t)snprintf(out + len, cap - len, "%s%.*s", len > 0 ? " " : "",
				(int)key.len, (const char *)key.p);
			snprintf(after, sizeof(after), "%.*s", (int)key.len, (const char *)key.p);
		}
		assert_true(cur_done(&a));
		call_free(c);
	}
}

static void test_list_gives_each_key_once_on_pages_of_every_size(void **state)
{
	static const char *const keys[] = { "a", "a/1", "a/2", "b/x/1", "b/x/2", "b/y", "c",
		"\xc3\xa9" };
	char got[512];

	(void)state;
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		assert_int_equal(put_key(&peer, "data", keys[i], "v", 1).err, 0);
	for (uint32_t max = 1; max < 10; max++) {
		list_into(&peer, "", "", max, got, sizeof(got));
		assert_string_equal(got, "a a/1 a/2 b/x/1 b/x/2 b/y c \xc3\xa9");
		list_into(&peer, "", "/", max, got, sizeof(got));
		assert_string_equal(got, "a a/ b/ c \xc3\xa9");
		list_into(&peer, "b/", "/", max, got, sizeof(got));
		assert_string_equal(got, "b/x/ b/y");
		list_into(&peer, "b/x", "", max, got, sizeof(got));
		assert_string_equal(got, "b/x/1 b/x/2");
	}
	list_into(&peer, "nothing", "", 5, got, sizeof(got));
	assert_string_equal(got, "");
}

static void test_list_shows_what_lies_under_deeper_grants_only(void **state)
{
	static const char *const keys[] = { "a/1", "b/x/1", "b/x/2", "b/y/1", "b/z", "c/d/e/f",
		"c/d/g", "z" };
	struct ns_access_key *key = calloc(1, sizeof(*key));
	static const char *const prefixes[] = { "c/d/e/", "b/x/", "b/z", "b/x/1" };
	struct peer guest;
	char got[512];

	(void)state;
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		assert_int_equal(put_key(&peer, "data", keys[i], "v", 1).err, 0);
	snprintf(key->id, sizeof(key->id), "guest");
	for (key->grant_count = 0; key->grant_count < 4; key->grant_count++) {
		struct ns_grant *g = &key->grants[key->grant_count];

		g->actions = GRANT_LIST;
		snprintf(g->bucket, sizeof(g->bucket), "data");
		g->prefix_len = (uint16_t)strlen(prefixes[key->grant_count]);
		memcpy(g->prefix, prefixes[key->grant_count], g->prefix_len);
	}
	assert_int_equal(ns_key_create(world.store->ns, key), 0);
	free(key);
	peer_init(&guest, &world, "guest", 0);
	for (uint32_t max = 1; max < 6; max++) {
		list_into(&guest, "", "", max, got, sizeof(got));
		assert_string_equal(got, "b/x/1 b/x/2 b/z c/d/e/f");
		list_into(&guest, "b/", "/", max, got, sizeof(got));
		assert_string_equal(got, "b/x/ b/z");
		list_into(&guest, "", "/", max, got, sizeof(got));
		assert_string_equal(got, "b/ c/");
		list_into(&guest, "b/x/", "/", max, got, sizeof(got));
		assert_string_equal(got, "b/x/1 b/x/2");
		list_into(&guest, "c/", "", max, got, sizeof(got));
		assert_string_equal(got, "c/d/e/f");
	}
	list_into(&guest, "a/", "", 3, got, sizeof(got));
	assert_string_equal(got, "error 6");
	peer_release(&guest);
}

/* ---- names ---- */

static int name_call(uint8_t op, const char *key, uint32_t mode, int flags, uint64_t *id)
{
	struct msg m = msg_new("data");
	struct call *c;
	struct cur a;
	int err;

	msg_sequence(&m, fresh(1), 0, 0);
	msg_key(&m, key);
	if (op == OP_MKDIR) {
		wr_u32(&m.w, mode);
		wr_u8(&m.w, (uint8_t)flags);
	}
	c = msg_call(&peer, op, 0, &m, NULL, 0);
	err = call_status(c);
	a = cur_of(c->first->meta, c->first->meta_len);
	if (err == 0 && id != NULL) *id = cur_u64(&a);
	if (err < 0) assert_true(strstr(call_text(c), key) != NULL);
	call_free(c);
	return err;
}

static int rename_call(struct peer *p, const char *from, const char *to, uint8_t flags)
{
	struct msg m = msg_new("data");
	struct call *c;
	int err;

	msg_sequence(&m, fresh(1), 0, 0);
	msg_key(&m, from);
	msg_key(&m, to);
	wr_u8(&m.w, flags);
	c = msg_call(p, OP_RENAME, 0, &m, NULL, 0);
	err = call_status(c);
	call_free(c);
	return err;
}

static void test_directories_are_made_moved_and_removed(void **state)
{
	uint64_t id = 0;
	struct read_result r;

	(void)state;
	assert_int_equal(name_call(OP_MKDIR, "top/sub", 0755, 0, NULL), -GRANARY_ENOTFOUND);
	assert_int_equal(name_call(OP_MKDIR, "top/sub", 0755, MKDIR_PARENTS, &id), 0);
	assert_int_not_equal(id, 0);
	assert_int_equal(name_call(OP_MKDIR, "top/sub", 0755, 0, NULL), -GRANARY_EEXIST);
	assert_int_equal(put_key(&peer, "data", "top/sub/file", "v", 1).err, 0);
	assert_int_equal(name_call(OP_RMDIR, "top/sub/", 0, 0, NULL), -GRANARY_ENOTEMPTY);
	assert_int_equal(rename_call(&peer, "top/sub/", "top/sub/below/", 0), -GRANARY_ELOOP);
	assert_int_equal(rename_call(&peer, "top/sub/", "moved/", 0), 0);
	r = read_key(&peer, "data", "moved/file", 0);
	assert_int_equal(r.err, 0);
	read_free(&r, 1);
	assert_int_equal(read_err(&peer, "data", "top/sub/file"), -GRANARY_ENOTFOUND);
	assert_int_equal(rename_call(&peer, "moved/file", "moved/other", 0), 0);
	assert_int_equal(delete_key(&peer, "data", "moved/other"), 0);
	assert_int_equal(delete_key(&peer, "data", "moved/other"), -GRANARY_ENOTFOUND);
	assert_int_equal(name_call(OP_RMDIR, "moved/", 0, 0, NULL), 0);
	assert_int_equal(read_err(&peer, "data", "moved/"), -GRANARY_ENOTFOUND);
}

/* A key with one grant on "from/" and another on "to/". */
static void key_of_two(const char *id, uint8_t from, uint8_t to)
{
	struct ns_access_key *key = calloc(1, sizeof(*key));

	snprintf(key->id, sizeof(key->id), "%s", id);
	key->grant_count = 2;
	key->grants[0] = (struct ns_grant){ .actions = from, .bucket = "data", .prefix = "from/", .prefix_len = 5 };
	key->grants[1] = (struct ns_grant){ .actions = to, .bucket = "data", .prefix = "to/", .prefix_len = 3 };
	assert_int_equal(ns_key_create(world.store->ns, key), 0);
	free(key);
}

static void test_an_exchange_needs_the_grants_of_a_rename_both_ways(void **state)
{
	enum { ONE_WAY = GRANT_READ | GRANT_DELETE, BOTH = ONE_WAY | GRANT_WRITE };
	struct peer mover, swapper;
	struct read_result r;

	(void)state;
	assert_int_equal(put_key(&peer, "data", "from/x", "1", 1).err, 0);
	assert_int_equal(put_key(&peer, "data", "to/y", "2", 1).err, 0);
	key_of_two("mover", ONE_WAY, GRANT_WRITE);
	key_of_two("swapper", BOTH, BOTH);
	peer_init(&mover, &world, "mover", 1);
	peer_init(&swapper, &world, "swapper", 1);
	assert_int_equal(rename_call(&mover, "from/x", "to/y", RENAME_SWAP), -GRANARY_EACCESS);
	assert_int_equal(rename_call(&swapper, "from/x", "to/y", RENAME_SWAP | RENAME_NO_REPLACE), -GRANARY_EPROTO);
	assert_int_equal(rename_call(&swapper, "from/x", "to/y", 4), -GRANARY_EPROTO);
	assert_int_equal(rename_call(&swapper, "from/x", "to/y", RENAME_SWAP), 0);
	r = read_key(&peer, "data", "from/x", 0);
	assert_int_equal(r.err, 0);
	assert_memory_equal(r.data, "2", 1);
	read_free(&r, 1);
	assert_int_equal(rename_call(&mover, "from/x", "to/y", 0), 0);
	peer_release(&mover);
	peer_release(&swapper);
}

/* ---- buckets, keys, tasks ---- */

static void test_buckets_come_and_go(void **state)
{
	struct msg m;
	struct call *c;
	struct cur a;

	(void)state;
	assert_int_equal(simple_call(&peer, OP_BUCKET_CREATE, "data"), -GRANARY_EEXIST);
	assert_int_equal(simple_call(&peer, OP_BUCKET_CREATE, "No"), -GRANARY_ENAME);
	assert_int_equal(simple_call(&peer, OP_BUCKET_CREATE, "second"), 0);
	assert_int_equal(put_key(&peer, "second", "k", "12345", 5).err, 0);
	assert_int_equal(simple_call(&peer, OP_BUCKET_REMOVE, "second"), -GRANARY_ENOTEMPTY);
	m = msg_new("");
	wr_u32(&m.w, 10);
	c = msg_call(&peer, OP_BUCKET_LIST, 0, &m, NULL, 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	assert_int_equal(cur_u8(&a), 0);
	assert_int_equal(cur_u32(&a), 2);
	assert_true(slice_eq(cur_bytes16(&a), slice_str("data")));
	cur_take(&a, 7 * 8 + 1);
	assert_true(slice_eq(cur_bytes16(&a), slice_str("second")));
	cur_take(&a, 3 * 8);
	assert_int_equal(cur_u64(&a), 5);
	assert_int_equal(cur_u64(&a), 1);
	call_free(c);
	assert_int_equal(delete_key(&peer, "second", "k"), 0);
	assert_int_equal(simple_call(&peer, OP_BUCKET_REMOVE, "second"), 0);
	assert_int_equal(put_key(&peer, "second", "k", "1", 1).err, -GRANARY_ENOBUCKET);
}

static struct call *key_create(struct peer *p, uint16_t flags, uint64_t sequence, uint8_t actions,
	const char *bucket, const char *prefix)
{
	struct msg m = msg_new("");

	msg_sequence(&m, sequence, 0, 0);
	wr_u64(&m.w, 3600);
	wr_bytes16(&m.w, slice_str("a note"));
	wr_u16(&m.w, 1);
	wr_u8(&m.w, actions);
	wr_bytes16(&m.w, slice_str(bucket));
	wr_bytes16(&m.w, slice_str(prefix));
	return msg_call(p, OP_KEY_CREATE, flags, &m, NULL, 0);
}

static void test_keys_grant_no_more_than_they_have(void **state)
{
	uint64_t s = fresh(1);
	struct call *c = key_create(&peer, 0, s, GRANT_READ, "data", "x/"), *again;
	struct cur a = cur_of(c->first->meta, c->first->meta_len);
	char id[64];
	struct slice text = cur_bytes16(&a);
	struct peer admin;
	struct msg m;

	(void)state;
	assert_int_equal(call_status(c), 0);
	assert_int_equal(text.len, 20);
	memcpy(id, text.p, 20);
	id[20] = '\0';
	assert_memory_equal(id, "GK", 2);
	assert_int_equal(cur_bytes16(&a).len, 64);
	assert_true(cur_done(&a));
	again = key_create(&peer, FRAME_RESENT, s, GRANT_READ, "data", "x/"); /* no second key */
	assert_int_equal(again->first->meta_len, c->first->meta_len);
	assert_memory_equal(again->first->meta, c->first->meta, c->first->meta_len);
	call_free(again);
	call_free(c);

	key_make(&world, "admin", GRANT_ADMIN | GRANT_LIST, "", "");
	peer_init(&admin, &world, "admin", 1);
	c = key_create(&admin, 0, fresh(1), GRANT_READ, "data", "");
	assert_int_equal(call_status(c), -GRANARY_EACCESS);
	call_free(c);
	c = key_create(&admin, 0, fresh(1), GRANT_LIST, "", "");
	assert_int_equal(call_status(c), 0);
	call_free(c);
	peer_release(&admin);

	m = msg_new("");
	msg_sequence(&m, fresh(1), 0, 0);
	wr_bytes16(&m.w, slice_str(id));
	c = msg_call(&peer, OP_KEY_REMOVE, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	call_free(c);
	m = msg_new("");
	wr_u32(&m.w, 100);
	c = msg_call(&peer, OP_KEY_LIST, 0, &m, NULL, 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	assert_int_equal(cur_u8(&a), 0);
	assert_int_equal(cur_u32(&a), 3); /* root, admin, the one it made */
	call_free(c);
}

static void test_status_and_tasks_answer_lines(void **state)
{
	struct msg m = msg_new("");
	struct call *c;

	(void)state;
	assert_int_equal(put_key(&peer, "data", "k", "1", 1).err, 0);
	m.w.p = m.w.start;
	c = msg_call(&peer, OP_STATUS, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	c->first->data[c->first->data_len] = '\0';
	assert_non_null(strstr((char *)c->first->data, "\nrequests_put 1\n"));
	assert_non_null(strstr((char *)c->first->data, "\nmemory_rss_bytes "));
	assert_null(strstr((char *)c->first->data, "\nmemory_rss_bytes 0\n"));
	call_free(c);
	m = msg_new("compact");
	wr_u16(&m.w, 0);
	c = msg_call(&peer, OP_TASK, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	call_free(c);
	m = msg_new("dance");
	wr_u16(&m.w, 0);
	c = msg_call(&peer, OP_TASK, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), -GRANARY_EUNSUPPORTED);
	assert_non_null(strstr(call_text(c), "'dance'"));
	call_free(c);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_a_resent_put_gets_its_first_answer),
		T(test_a_resent_put_is_remembered_over_a_restart),
		T(test_batches_are_answered_as_before_after_a_restart),
		T(test_a_row_of_a_large_batch_tells_what_fits),
		T(test_a_refused_put_is_refused_again_and_not_tried),
		T(test_sequences_that_do_not_fit_are_refused),
		T(test_a_put_waits_for_the_one_it_follows),
		T(test_a_session_belongs_to_its_key),
		T(test_a_key_reads_only_what_it_was_granted),
		T(test_a_removed_key_stops_working),
		T(test_list_gives_each_key_once_on_pages_of_every_size),
		T(test_list_shows_what_lies_under_deeper_grants_only),
		T(test_directories_are_made_moved_and_removed),
		T(test_an_exchange_needs_the_grants_of_a_rename_both_ways),
		T(test_buckets_come_and_go),
		T(test_keys_grant_no_more_than_they_have),
		T(test_status_and_tasks_answer_lines),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
