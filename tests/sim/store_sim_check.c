/* SPDX-License-Identifier: Apache-2.0 */
/* store_sim_check.c -- what must hold in a simulated store: what is listed and read against the model of each lane,
 * counters against rows, packs against their checksums. See store_sim.h. */
#include "sim/store_sim_priv.h"

#include <inttypes.h>

#include "jobs/jobs.h"
#include "meta/kv.h"
#include "tier/packs.h"

enum { LIST_PAGE = 7 };

void run_check(bool ok, const char *what, const char *file, int line)
{
	const char *name = strrchr(file, '/');

	if (!ok) fail_msg("%s: line %d of %s", what, line, name != NULL ? name + 1 : file);
}

/* ---- reading back ---- */

static int read_now(struct sim_world *w, const char *key, uint8_t flags, struct read_result *r)
{
	struct msg m = read_msg("data", flags, 1);
	struct call *c;
	int err;

	memset(r, 0, sizeof(*r));
	wr_u8(&m.w, 0);
	msg_key(&m, key);
	c = run_call(w, &w->clients[0].peer, OP_READ, &m);
	err = call_status(c);
	if (err == 0) {
		read_results(c, r, 1);
		err = r->err;
	}
	call_free(c);
	return err;
}

void run_check_bytes(
	struct sim_world *w, const struct tree_key *k, uint64_t version, uint8_t flags)
{
	uint8_t *want = malloc(k->size + 8);
	struct read_result r;
	int err = read_now(w, k->key, flags, &r);

	if (err < 0 && !run_is_off(w) && !(run_had_faults(w) && !w->is_verifying))
		fail_msg("'%s' cannot be read: %s %s", k->key, error_text(err), r.text);
	if (err == 0) {
		fill(want, k->size, k->seed);
		if (r.size != k->size || r.len != k->size || memcmp(r.data, want, k->size) != 0)
			fail_msg("'%s' has other bytes: %" PRIu64 " of them, expected %u", k->key,
				r.size, k->size);
		if (version != 0 && r.version != version)
			fail_msg("'%s' is read with another version than it is listed", k->key);
		w->run->reads++;
	}
	free(want);
	read_free(&r, 1);
}

/* The bytes of its extended attribute; 0: it has none. They are the ones that their number says. */
static uint32_t xattr_len(struct sim_world *w, const char *key)
{
	struct msg m = msg_new("data");
	struct slice value = { NULL, 0 };
	struct call *c;

	msg_key(&m, key);
	wr_u8(&m.w, ATTR_XATTRS);
	wr_bytes16(&m.w, slice_str(MODEL_XATTR));
	c = run_call(w, &w->clients[0].peer, OP_ATTR, &m);
	if (call_status(c) == 0) {
		struct cur a = cur_of(c->first->meta, c->first->meta_len);
		uint8_t *want;

		CHECK(slice_eq(cur_bytes16(&a), slice_str(MODEL_XATTR)));
		value = cur_bytes16(&a);
		want = malloc(value.len + 8);
		fill(want, value.len, value.len);
		CHECK(cur_done(&a) && memcmp(value.p, want, value.len) == 0);
		free(want);
	} else if (call_status(c) != -GRANARY_ENOATTR) {
		fail_msg("attribute of '%s': %s", key, error_text(call_status(c)));
	}
	call_free(c);
	return (uint32_t)value.len;
}

static bool upload_is_there(struct sim_world *w, uint64_t id)
{
	struct msg m = msg_new("data");
	struct call *c;
	int err;

	wr_u64(&m.w, id);
	wr_u32(&m.w, 0);
	wr_u32(&m.w, 10);
	c = run_call(w, &w->clients[0].peer, OP_PART_LIST, &m);
	err = call_status(c);
	if (err < 0 && err != -GRANARY_ESTALE) fail_msg("parts of an upload: %s", error_text(err));
	call_free(c);
	return err == 0;
}

/* ---- reading all back ---- */

struct found {
	struct tree_key keys[LANES * TREE_MAX];
	uint32_t count;
};

static bool list_page(struct sim_world *w, struct found *f)
{
	struct peer *p = &w->clients[0].peer;
	struct msg m = msg_new("data");
	struct call *c;
	struct cur a;
	bool more;
	uint32_t n;

	wr_bytes16(&m.w, slice_str(""));
	wr_bytes16(&m.w, slice_str(""));
	wr_bytes16(&m.w, slice_str(f->count > 0 ? f->keys[f->count - 1].key : ""));
	wr_u32(&m.w, LIST_PAGE);
	c = run_call(w, p, OP_LIST, &m);
	if (call_status(c) < 0) fail_msg("cannot list: %s", error_text(call_status(c)));
	a = cur_of(c->first->meta, c->first->meta_len);
	more = cur_u8(&a) != 0;
	n = cur_u32(&a);
	for (uint32_t i = 0; i < n; i++) {
		struct tree_key *k = &f->keys[f->count];
		struct slice key;

		CHECK(f->count < LANES * TREE_MAX && cur_u8(&a) == LIST_OBJECT);
		key = cur_bytes16(&a);
		CHECK(cur_ok(&a) && key.len > 0 && key.len < sizeof(k->key));
		memcpy(k->key, key.p, key.len);
		k->id = cur_u64(&a);
		k->version = cur_u64(&a);
		k->size = (uint32_t)cur_u64(&a);
		(void)cur_u64(&a);
		k->dir = cur_u64(&a);
		k->mode = cur_u32(&a);
		(void)cur_bytes(&a, 1 + 16);
		CHECK(f->count == 0 || strcmp(f->keys[f->count - 1].key, k->key) < 0);
		f->count++;
	}
	CHECK(cur_done(&a));
	call_free(c);
	return more;
}

/* k is what the store listed; t says what it should be. */
static bool is_same(const struct tree_key *k, const struct tree_key *t)
{
	return t != NULL &&
	       (t->seed == 0 ||
		       (k->size == t->size && k->mode == t->mode &&
			       (t->version == 0 || t->version == k->version)));
}

static bool is_of(const char *key, uint32_t lane)
{
	char a[16], b[16];

	snprintf(a, sizeof(a), "l%u/", lane);
	snprintf(b, sizeof(b), "shared/%u-", lane);
	return key_begins(key, a) || key_begins(key, b);
}

static bool tree_is_listed(const struct found *f, uint32_t lane, struct tree *t)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < f->count; i++) {
		if (!is_of(f->keys[i].key, lane)) continue;
		if (!is_same(&f->keys[i], tree_find(t, f->keys[i].key))) return false;
		n++;
	}
	return n == t->count;
}

static void tree_print(const char *what, const struct tree *t)
{
	fprintf(stderr, "  %s:\n", what);
	for (uint32_t i = 0; i < t->count; i++)
		fprintf(stderr, "    %s size %u version %" PRIx64 "\n", t->keys[i].key,
			t->keys[i].size, t->keys[i].version);
}

/* With a fault some entries of an unanswered batch may have failed before it was committed. */
static bool tree_is_listed_in_part(const struct found *f, struct client *c)
{
	struct tree *before = &c->lane.tree, *after = &c->lane.op.after, mixed = { .count = 0 };

	if (c->lane.op.wire != OP_PUT || c->lane.op.count < 2) return false;
	for (uint32_t i = 0; i < f->count; i++) {
		const struct tree_key *k = &f->keys[i];
		struct tree_key *b, *a;

		if (!is_of(k->key, c->lane.index)) continue;
		b = tree_find(before, k->key);
		a = tree_find(after, k->key);
		if (!is_same(k, b) && !is_same(k, a)) return false;
		tree_set(&mixed, is_same(k, b) ? b : a);
	}
	for (uint32_t i = 0; i < before->count; i++)
		if (tree_find(&mixed, before->keys[i].key) == NULL) return false;
	*after = mixed;
	return true;
}

static void lane_print(const struct found *f, struct client *c)
{
	struct tree listed = { .count = 0 };

	for (uint32_t i = 0; i < f->count; i++)
		if (is_of(f->keys[i].key, c->lane.index)) tree_set(&listed, &f->keys[i]);
	op_print(&c->lane, &c->lane.op);
	tree_print("listed", &listed);
	tree_print("before", &c->lane.tree);
	tree_print("after", &c->lane.op.after);
}

/* Which state is there? Then that is the lane's state, with the versions that the store gave. */
static void lane_settle(struct sim_world *w, const struct found *f, struct client *c)
{
	bool before = tree_is_listed(f, c->lane.index, &c->lane.tree);
	bool after = c->unknown && tree_is_listed(f, c->lane.index, &c->lane.op.after);

	if (before && after && c->lane.op.wire == OP_XATTR && c->lane.op.expect == 0) /* no list tells */
		before = xattr_len(w, c->lane.op.e[0].key) == tree_find(&c->lane.tree, c->lane.op.e[0].key)->xattr;
	if (before && after && c->lane.op.wire == OP_UPLOAD_ABORT)
		before = upload_is_there(w, c->lane.op.parted);
	if (!before && !after && c->unknown && (w->run->fail_at > 0 || w->run->fills))
		after = tree_is_listed_in_part(f, c);
	if (!before && !after) {
		lane_print(f, c);
		fail_msg("what is there is neither the state before nor the one after");
	}
	c->was_before = before;
	if (!before) c->lane.tree = c->lane.op.after;
	for (uint32_t i = 0; i < f->count; i++) {
		struct tree_key *k = tree_find(&c->lane.tree, f->keys[i].key);

		if (k != NULL) {
			k->version = f->keys[i].version;
			k->id = f->keys[i].id;
		}
	}
}

/* ---- counters and packs ---- */

static void check_usage(struct sim_world *w, const struct found *f)
{
	struct ns_bucket b;
	uint64_t bytes = 0, objects = 0, want = 0;
	uint32_t count = 0;

	assert_int_equal(ns_bucket_find(w->w.store->ns, slice_str("data"), &b), 0);
	assert_int_equal(ns_bucket_usage(w->w.store->ns, b.id, &bytes, &objects), 0);
	for (uint32_t i = 0; i < f->count; i++) {
		uint32_t first = 0; /* a file with several names counts once */

		while (f->keys[first].id != f->keys[i].id) first++;
		if (first < i) continue;
		want += f->keys[i].size;
		count++;
	}
	for (uint32_t i = 0; i < LANES; i++) { /* open, and without a name */
		const struct held *h = &w->clients[i].held;
		uint32_t at = 0;

		while (h->is_open && at < f->count && f->keys[at].id != h->k.id) at++;
		if (!h->is_open || at < f->count) continue;
		want += h->k.size;
		count++;
	}
	for (uint32_t i = 0; i < LANES; i++) {
		const struct lane *l = &w->clients[i].lane;

		for (uint32_t u = l->tree.uploads_ended; u < l->parted_count; u++, count += 2)
			want += l->parted[u].sizes[0] + l->parted[u].sizes[1];
	}
	if (bytes != want || objects != count)
		fail_msg("the bucket counts %" PRIu64 " bytes in %" PRIu64
			 " objects; there are %" PRIu64 " in %u",
			bytes, objects, want, count);
}

struct live {
	uint64_t pack, bytes, records;
};
struct live_table {
	struct live at[1024];
	uint32_t count;
};

static void live_add(struct live_table *t, const struct extent *e)
{
	uint32_t i = 0;

	while (i < t->count && t->at[i].pack != e->pack) i++;
	if (i == t->count) {
		CHECK(t->count < 1024);
		t->at[t->count++] = (struct live){ .pack = e->pack };
	}
	t->at[i].bytes += extent_weight(e);
	t->at[i].records++;
}

static void live_of_rows(struct kv *kv, struct live_table *t)
{
	struct kv_iter *it = kv_iter_new(kv, NULL);

	for (kv_iter_seek(it, slice_str("d")); kv_iter_valid(it); kv_iter_next(it)) {
		struct object o;

		if (kv_iter_key(it).p[0] != 'd' && kv_iter_key(it).p[0] != 'i') continue;
		if (kv_iter_key(it).p[0] > 'i') break;
		assert_int_equal(object_decode(kv_iter_value(it), &o), 0);
		for (uint32_t i = 0; i < o.extent_count; i++) live_add(t, &o.extents[i]);
	}
	for (kv_iter_seek(it, slice_str("x")); kv_iter_valid(it); kv_iter_next(it)) {
		struct extent e;

		if (kv_iter_key(it).p[0] != 'x') break;
		assert_int_equal(extent_row_decode(kv_iter_value(it), &e), 0);
		live_add(t, &e);
	}
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
}

static void check_live(struct sim_world *w)
{
	struct live_table *t = calloc(1, sizeof(*t));
	struct pack_info info;
	uint64_t after = 0;
	uint32_t seen = 0;

	live_of_rows(w->w.store->kv, t);
	while (packs_list(w->w.store->packs, after, &info, 1) == 1) {
		struct live want = { .pack = info.id };
		struct pack_row row;

		after = info.id;
		assert_int_equal(packs_row(w->w.store->packs, info.id, &row), 0);
		for (uint32_t i = 0; i < t->count; i++)
			if (t->at[i].pack == info.id) {
				want = t->at[i];
				seen++;
			}
		if (row.live_bytes != want.bytes || row.live_records != want.records)
			fail_msg("pack %016" PRIx64 " counts %" PRIu64 " live bytes in %" PRIu64
				 " records; rows name %" PRIu64 " in %" PRIu64,
				info.id, row.live_bytes, row.live_records, want.bytes,
				want.records);
	}
	CHECK(seen == t->count); /* no row names a pack that is gone */
	free(t);
}

void run_check_packs(struct sim_world *w)
{
	char *text = calloc(1, 65536);

	assert_int_equal(jobs_check_start(w->w.store->jobs), 0);
	run_jobs(w);
	assert_int_equal(jobs_check_status(w->w.store->jobs, text, 65536), 0);
	if (strstr(text, "problems 0\n") == NULL) fail_msg("%s", text);
	free(text);
}

void run_check_deletions(struct sim_world *w)
{
	struct kv_iter *it = kv_iter_new(w->w.store->kv, NULL);
	struct pack_row row;

	for (kv_iter_seek(it, slice_str("g")); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);

		if (key.p[0] != 'g') break;
		CHECK(key.len == 18);
		if (key.p[9] == 1)
			assert_int_equal(
				packs_row(w->w.store->packs, be64_get(key.p + 10), &row), 0);
	}
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
}

static void check_key(struct sim_world *w)
{
	const struct ns_access_key *key = ns_key_ref(w->w.store->ns, slice_str("root"));

	CHECK(key != NULL && ns_key_valid(w->w.store->ns, key));
	ns_key_unref(w->w.store->ns, key);
}

void run_verify(struct sim_world *w, uint8_t flags)
{
	struct found *f = calloc(1, sizeof(*f));

	w->is_verifying = true;
	while (list_page(w, f)) continue;
	for (uint32_t i = 0; i < LANES; i++) lane_settle(w, f, &w->clients[i]);
	for (uint32_t i = 0; i < f->count; i++) {
		struct tree_key *k = NULL;

		for (uint32_t l = 0; k == NULL && l < LANES; l++)
			k = tree_find(&w->clients[l].lane.tree, f->keys[i].key);
		CHECK(k != NULL);
		if (k->seed != 0 && !k->special) run_check_bytes(w, k, f->keys[i].version, flags);
		if (k->xattr > 0) CHECK(xattr_len(w, k->key) == k->xattr);
	}
	check_usage(w, f);
	check_live(w);
	check_key(w);
	w->is_verifying = false;
	free(f);
}
