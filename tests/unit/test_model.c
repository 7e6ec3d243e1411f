/* SPDX-License-Identifier: Apache-2.0 */
/* test_model.c -- Goal: what the store answers is what a small model says, for every operation of
 * the protocol, from several sessions at once, while packs of few megabytes are sealed, compacted
 * and removed behind them all the time; a mutation sent twice, at once or after a restart, is done
 * once and answered alike. Method: a store on real threads, RocksDB and the kernel's files in a
 * temporary directory; peers without a socket. Each session owns its names, so its model is exact
 * (store_model.h). GRANARY_SEED repeats the operations of a run (threads interleave as they like),
 * GRANARY_MODEL_S is its length in seconds. */
#include "unit/harness_store.h"

#include <inttypes.h>
#include <time.h>

#include "common/clock.h"
#include "effort.h"
#include "jobs/jobs.h"
#include "sim/store_model.h"
#include "tier/packs.h"

enum { SESSIONS = 6, SECONDS_DEFAULT = 18, SECONDS_LONG = 600, PHASE_S = 6, BATCH = 8 };

/* RocksDB is not built for ThreadSanitizer, which cannot see its atomics: only our own code is judged. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:librocksdb\nrace:librocksdb\n";
}

struct client {
	struct lane lane;
	struct peer peer;
	pthread_t thread;
	uint64_t until_ns, ops, reads, lists, resent, retried, others;
	bool has_bucket, answered;
	char key_id[64];
};

static struct world world;
static struct client clients[SESSIONS];
static uint64_t seed;

/* A difference ends the test at once, also in a thread. */
__attribute__((format(printf, 1, 2), noreturn)) static void differ(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "GRANARY_SEED=%" PRIu64 ": ", seed);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	abort();
}

/* ---- up and down ---- */

static bool key_exists(const char *id)
{
	const struct ns_access_key *key = ns_key_ref(world.store->ns, slice_str(id));

	if (key == NULL) return false;
	ns_key_unref(world.store->ns, key);
	return true;
}

static void up(bool jobs)
{
	struct store_options o;
	char why[256] = "";

	assert_int_equal(fs_new_kernel(world.dir, &world.fs), 0);
	o = world_options(world.fs);
	o.pack_size = 2 * MIB; /* less than the product takes: many packs out of little data */
	o.jobs = jobs;
	o.job_interval_ns = 20 * 1000 * 1000;
	o.compact_dead_pct = 10;
	if (store_open(&o, &world.store, why, sizeof(why)) < 0) fail_msg("store_open: %s", why);
	if (!key_exists("root"))
		key_make(&world, "root", ALL_ACTIONS, "", "");
	for (uint32_t i = 0; i < SESSIONS; i++) {
		struct client *c = &clients[i];

		peer_init(&c->peer, &world, "root", i);
		if (c->lane.session != 0) {
			session_detach(world.store->sessions, &c->peer.peer.session);
			peer_attach(&c->peer, c->lane.session);
		}
		c->lane.session = session_id(c->peer.peer.session);
	}
}

static void down(void)
{
	for (uint32_t i = 0; i < SESSIONS; i++) peer_release(&clients[i].peer);
	world_stop(&world);
}

/* ---- mutations ---- */

static void take(struct client *c, uint16_t flags)
{
	struct op *op = &c->lane.op;

	for (int tries = 0; tries < 1000; tries++) {
		struct call *call = op_start(&c->peer, op, flags);

		call_wait(call);
		op_take(op, call);
		call_free(call);
		if (op->got != -GRANARY_EBUSY) return;
		flags = FRAME_RESENT; /* nothing was changed: once more, as the library does */
		c->retried++;
		if (tries > 8) usleep(10000); /* compaction holds what it moves until its commit is synced */
	}
}

static void check_op(struct client *c)
{
	if (op_is_as_expected(&c->lane.op)) return;
	op_print(&c->lane, &c->lane.op);
	differ("an answer that the model does not expect");
}

static bool send_pieces(struct client *c)
{
	struct call *calls[OP_PIECES_MAX];
	struct op *op = &c->lane.op;

	for (uint32_t i = 0; i < op->pieces; i++) calls[i] = op_start_piece(&c->peer, op, i);
	for (uint32_t i = 0; i < op->pieces; i++) {
		int err;

		call_wait(calls[i]);
		err = call_status(calls[i]);
		call_free(calls[i]);
		if (err == -GRANARY_ESTALE && key_begins(op->e[0].key, "shared/"))
			return false; /* others removed the shared directory and made it again */
		if (err < 0)
			differ("a piece of '%s' is refused: %s", op->e[0].key, error_text(err));
	}
	return true;
}

static void abort_upload(struct client *c)
{
	struct msg m = msg_new("data");
	struct call *call;

	wr_u64(&m.w, c->lane.op.upload);
	call = msg_call(&c->peer, OP_ABORT, 0, &m, NULL, 0);
	if (call_status(call) < 0)
		differ("an upload cannot be aborted: %s", error_text(call_status(call)));
	call_free(call);
}

/* The same sequence again: the same answer, and nothing more is done (which the later reads show). */
static void resend(struct client *c)
{
	struct op was = c->lane.op, *op = &c->lane.op;

	if (op->wire == 0 || !c->answered || op->sequence <= c->lane.seen) return;
	take(c, FRAME_RESENT);
	c->resent++;
	if (op->upload != 0 && op->got == 0 && op->e[0].got == -GRANARY_ESTALE &&
		op->e[0].expect < 0)
		return; /* it was refused before the restart, and its bytes went with the session's memory */
	check_op(c);
	for (uint32_t i = 0; op->wire == OP_PUT && i < op->count; i++)
		if (op->e[i].got == 0 && op->e[i].got_version != was.e[i].got_version)
			differ("'%s' got another version when its put was repeated", op->e[i].key);
	if (op->wire == OP_MKDIR && op->got_id != was.got_id)
		differ("'%s' got another id when its mkdir was repeated", op->e[0].key);
	*op = was;
}

static void mutate(struct client *c)
{
	struct op *op = &c->lane.op;

	lane_next(&c->lane);
	c->answered = false;
	c->ops++;
	if (op->upload != 0 && (!send_pieces(c) || lane_random(&c->lane, 10) == 0)) {
		abort_upload(c);
		op->wire = 0;
		return;
	}
	take(c, 0);
	if (op->upload != 0 && op->got == 0 && op->e[0].got == -GRANARY_ESTALE &&
		key_begins(op->e[0].key, "shared/")) {
		abort_upload(c);
		op->wire = 0;
		return;
	}
	check_op(c);
	c->lane.tree = op->after;
	c->answered = true;
	if (lane_random(&c->lane, 8) == 0) resend(c);
}

/* ---- reads ---- */

struct want {
	const struct tree_key *k; /* NULL: not there */
	bool range, other_version;
	uint64_t offset, length;
};

static const char *leaf_of(const char *key)
{
	const char *slash = strrchr(key, '/');

	return slash != NULL ? slash + 1 : key;
}

static void random_ref(struct client *c, struct msg *m, const struct tree_key *k)
{
	uint64_t pick = lane_random(&c->lane, 3);

	if (pick == 1 && k->dir != 0)
		msg_name(m, k->dir, leaf_of(k->key));
	else if (pick == 2 && k->id != 0)
		msg_id(m, k->id, k->dir, k->dir != 0 ? leaf_of(k->key) : "");
	else
		msg_key(m, k->key);
}

static void random_want(struct client *c, struct msg *m, struct want *x, char *key)
{
	struct lane *l = &c->lane;
	uint8_t flags;

	memset(x, 0, sizeof(*x));
	likely_file(l, key);
	x->k = tree_find(&l->tree, key);
	x->range = lane_random(l, 3) == 0;
	x->other_version = x->k != NULL && lane_random(l, 10) == 0;
	flags = (uint8_t)((x->range ? READ_ENTRY_RANGE : 0) |
			  (x->other_version ? READ_ENTRY_VERSION : 0));
	wr_u8(&m->w, flags);
	if (x->k == NULL)
		msg_key(m, key);
	else
		random_ref(c, m, x->k);
	if (x->range) {
		uint64_t size = x->k != NULL ? x->k->size : 1000;

		x->offset = lane_random(l, size + 2);
		x->length = lane_random(l, 4) == 0 ? WIRE_WHOLE : lane_random(l, size + 10);
		wr_u64(&m->w, x->offset);
		wr_u64(&m->w, x->length);
	}
	if (x->other_version) wr_u64(&m->w, x->k->version + 1);
}

static void check_want(const struct want *x, const char *key, const struct read_result *r)
{
	uint64_t from = x->range ? x->offset : 0, to;
	uint8_t *bytes;
	int err = x->k == NULL        ? -GRANARY_ENOTFOUND
		  : x->k->special     ? -GRANARY_ENOTFILE
		  : x->other_version  ? -GRANARY_ECHANGED
		  : from > x->k->size ? -GRANARY_ERANGE
				      : 0;

	if (r->err != err)
		differ("reading '%s' gives %s %s, expected %s", key, error_text(r->err), r->text,
			error_text(err));
	if (err < 0) return;
	to = x->range && x->length < x->k->size - from ? from + x->length : x->k->size;
	if (r->size != x->k->size || r->version != x->k->version || r->id != x->k->id)
		differ("'%s' is another object than it should be: size %" PRIu64 ", expected %u",
			key, r->size, x->k->size);
	if (to > from &&
		(r->logical > from || r->logical + r->len < to || r->logical + r->len > r->size))
		differ("'%s': asked for %" PRIu64 "..%" PRIu64 ", got %zu bytes at %" PRIu64, key,
			from, to, r->len, r->logical);
	bytes = malloc(x->k->size + 8);
	fill(bytes, x->k->size, x->k->seed);
	if (r->len > 0 && memcmp(bytes + r->logical, r->data, r->len) != 0)
		differ("'%s' has other bytes", key);
	free(bytes);
}

static void read_batch(struct client *c)
{
	uint32_t n = 1 + (uint32_t)lane_random(&c->lane, BATCH);
	uint8_t flags = (uint8_t)lane_random(&c->lane, 4);
	struct msg m = read_msg("data", flags, n);
	struct want wants[BATCH];
	char keys[BATCH][MODEL_KEY_MAX];
	struct read_result r[BATCH];
	struct call *call;

	for (uint32_t i = 0; i < n; i++) random_want(c, &m, &wants[i], keys[i]);
	call = msg_call(&c->peer, OP_READ, 0, &m, NULL, 0);
	if (call_status(call) < 0) differ("a read is refused: %s", call_text(call));
	read_results(call, r, n);
	for (uint32_t i = 0; i < n; i++) check_want(&wants[i], keys[i], &r[i]);
	read_free(r, n);
	call_free(call);
	c->reads += n;
}

static void stat_one(struct client *c)
{
	char key[MODEL_KEY_MAX];
	struct tree_key *k;
	struct msg m = read_msg("data", 0, 1);
	struct call *call;
	struct cur a;
	int err;

	likely_file(&c->lane, key);
	k = tree_find(&c->lane.tree, key);
	if (k != NULL)
		random_ref(c, &m, k);
	else
		msg_key(&m, key);
	call = msg_call(&c->peer, OP_STAT, 0, &m, NULL, 0);
	if (call_status(call) < 0) differ("a stat is refused: %s", call_text(call));
	a = cur_of(call->first->meta, call->first->meta_len);
	(void)cur_u32(&a);
	err = -(int)cur_u16(&a);
	if (err != (k != NULL ? 0 : -GRANARY_ENOTFOUND))
		differ("stat of '%s' gives %s", key, error_text(err));
	if (k != NULL) {
		uint8_t kind = cur_u8(&a);
		uint64_t id, version, size;

		(void)cur_u8(&a);
		id = cur_u64(&a);
		version = cur_u64(&a);
		size = cur_u64(&a);
		if (kind != (k->special ? STAT_SYMLINK : STAT_FILE) || id != k->id ||
			version != k->version || size != k->size)
			differ("stat of '%s' gives another object", key);
	}
	call_free(call);
}

/* What a listing shows next after `after`: an object's key, or a common prefix. False: nothing. */
static bool model_next(const struct tree *t, const char *prefix, bool slash, const char *after,
	char *out, bool *is_prefix)
{
	for (uint32_t i = 0; i < t->count; i++) {
		const char *key = t->keys[i].key, *end;

		if (!key_begins(key, prefix)) continue;
		end = slash ? strchr(key + strlen(prefix), '/') : NULL;
		*is_prefix = end != NULL;
		snprintf(out, MODEL_KEY_MAX, "%.*s",
			end != NULL ? (int)(end - key) + 1 : MODEL_KEY_MAX, key);
		if (strcmp(out, after) > 0) return true;
	}
	return false;
}

static bool list_page(struct client *c, const char *prefix, bool slash, char *after)
{
	struct msg m = msg_new("data");
	struct call *call;
	struct cur a;
	bool more;
	uint32_t n;

	wr_bytes16(&m.w, slice_str(prefix));
	wr_bytes16(&m.w, slice_str(slash ? "/" : ""));
	wr_bytes16(&m.w, slice_str(after));
	wr_u32(&m.w, 1 + (uint32_t)lane_random(&c->lane, 5));
	call = msg_call(&c->peer, OP_LIST, 0, &m, NULL, 0);
	if (call_status(call) < 0) differ("a listing is refused: %s", call_text(call));
	a = cur_of(call->first->meta, call->first->meta_len);
	more = cur_u8(&a) != 0;
	n = cur_u32(&a);
	while (n-- > 0) {
		char want[MODEL_KEY_MAX], got[MODEL_KEY_MAX] = "";
		bool is_prefix = cur_u8(&a) == LIST_PREFIX, want_prefix = false;
		struct slice key = cur_bytes16(&a);
		const struct tree_key *k;

		if (key.len < sizeof(got)) memcpy(got, key.p, key.len);
		if (!model_next(&c->lane.tree, prefix, slash, after, want, &want_prefix))
			differ("'%s' is listed under '%s' after '%s', expected nothing", got,
				prefix, after);
		if (strcmp(want, got) != 0 || is_prefix != want_prefix)
			differ("'%s' is listed under '%s' after '%s', expected '%s'", got, prefix,
				after, want);
		key_set(after, got);
		if (is_prefix) continue;
		k = tree_find(&c->lane.tree, got);
		if ((k->seed != 0 && cur_u64(&a) != k->id) ||
			(k->seed != 0 && cur_u64(&a) != k->version))
			differ("'%s' is listed as another object", got);
		(void)cur_bytes(
			&a, k->seed != 0 ? 8 + 8 + 8 + 4 + 1 + 16 : 8 + 8 + 8 + 8 + 8 + 4 + 1 + 16);
	}
	if (!cur_done(&a)) differ("a listing does not parse");
	call_free(call);
	return more;
}

static void list_some(struct client *c)
{
	char prefix[MODEL_KEY_MAX], after[MODEL_KEY_MAX] = "", rest[MODEL_KEY_MAX];
	bool slash = lane_random(&c->lane, 2) == 0, is_prefix;
	uint32_t k = c->lane.index;

	switch (lane_random(&c->lane, 4)) {
	case 0: snprintf(prefix, sizeof(prefix), "l%u/", k); break;
	case 1: snprintf(prefix, sizeof(prefix), "l%u/d", k); break;
	case 2: snprintf(prefix, sizeof(prefix), "l%u/e/", k); break;
	default: snprintf(prefix, sizeof(prefix), "shared/%u-", k); break;
	}
	while (list_page(c, prefix, slash, after))
		;
	if (model_next(&c->lane.tree, prefix, slash, after, rest, &is_prefix))
		differ("the listing of '%s' ends after '%s', '%s' is missing", prefix, after, rest);
	c->lists++;
}

/* ---- buckets, keys, tasks, status ---- */

static struct msg other_msg(struct client *c, const char *bucket)
{
	struct msg m = msg_new(bucket);

	msg_sequence(&m, ++c->lane.sequence, 0, c->lane.seen);
	return m;
}

static void toggle_bucket(struct client *c)
{
	char name[16];
	struct msg m;
	struct call *call;

	snprintf(name, sizeof(name), "lane-%u", c->lane.index);
	for (int again = 0; again < 2; again++) { /* the second time it is there already, or gone */
		int want = again == 0 ? 0 : c->has_bucket ? -GRANARY_ENOBUCKET : -GRANARY_EEXIST;

		m = other_msg(c, name);
		call = msg_call(&c->peer, c->has_bucket ? OP_BUCKET_REMOVE : OP_BUCKET_CREATE, 0,
			&m, NULL, 0);
		if (call_status(call) != want)
			differ("bucket '%s': %s, expected %s", name, error_text(call_status(call)),
				error_text(want));
		call_free(call);
	}
	c->has_bucket = !c->has_bucket;
}

static void toggle_key(struct client *c)
{
	struct msg m = other_msg(c, "");
	struct call *call;
	struct cur a;
	struct slice id;

	if (c->key_id[0] != '\0') {
		wr_bytes16(&m.w, slice_str(c->key_id));
		call = msg_call(&c->peer, OP_KEY_REMOVE, 0, &m, NULL, 0);
		if (call_status(call) < 0)
			differ("key %s cannot be removed: %s", c->key_id, call_text(call));
		if (key_exists(c->key_id))
			differ("key %s is still there", c->key_id);
		c->key_id[0] = '\0';
		call_free(call);
		return;
	}
	wr_u64(&m.w, 3600);
	wr_bytes16(&m.w, slice_str("a note"));
	wr_u16(&m.w, 1);
	wr_u8(&m.w, GRANT_READ);
	wr_bytes16(&m.w, slice_str("data"));
	wr_bytes16(&m.w, slice_str("l"));
	call = msg_call(&c->peer, OP_KEY_CREATE, 0, &m, NULL, 0);
	if (call_status(call) < 0) differ("a key cannot be made: %s", call_text(call));
	a = cur_of(call->first->meta, call->first->meta_len);
	id = cur_bytes16(&a);
	snprintf(c->key_id, sizeof(c->key_id), "%.*s", (int)id.len, (const char *)id.p);
	call_free(call);
}

static void simple_read(struct client *c, uint8_t op, const char *verb)
{
	struct msg m = { .buf = malloc(256) };
	struct call *call;

	m.w = wr_of(m.buf, 256);
	if (op == OP_TASK) wr_bytes16(&m.w, slice_str(verb));
	if (op != OP_STATUS) wr_bytes16(&m.w, slice_str(""));
	if (op == OP_BUCKET_LIST || op == OP_KEY_LIST) wr_u32(&m.w, 100);
	call = msg_call(&c->peer, op, 0, &m, NULL, 0);
	if (call_status(call) < 0 && call_status(call) != -GRANARY_EBUSY)
		differ("op %u %s: %s", op, verb, call_text(call));
	call_free(call);
}

static void other(struct client *c)
{
	static const char *const verbs[] = { "rotate", "compact", "check", "check-status" };

	c->others++;
	switch (lane_random(&c->lane, 10)) {
	case 0: toggle_bucket(c); break;
	case 1: toggle_key(c); break;
	case 2: simple_read(c, OP_STATUS, ""); break;
	case 3: simple_read(c, OP_BUCKET_LIST, ""); break;
	case 4: simple_read(c, OP_KEY_LIST, ""); break;
	default: simple_read(c, OP_TASK, verbs[lane_random(&c->lane, 4)]); break;
	}
}

/* ---- a run ---- */

static void *client_main(void *arg)
{
	struct client *c = arg;

	while (clock_mono_ns() < c->until_ns) {
		uint64_t pick = lane_random(&c->lane, 100);

		if (pick < 45)
			mutate(c);
		else if (pick < 75)
			read_batch(c);
		else if (pick < 85)
			stat_one(c);
		else if (pick < 97)
			list_some(c);
		else
			other(c);
	}
	return NULL;
}

struct live {
	uint64_t bytes, records;
};

static void live_of_rows(uint64_t pack, struct live *sum)
{
	struct kv_iter *it = kv_iter_new(world.store->kv, NULL);
	struct extent x;
	struct object o;

	for (kv_iter_seek(it, slice_str("d")); kv_iter_valid(it) && kv_iter_key(it).p[0] <= 'i';
		kv_iter_next(it)) {
		if (kv_iter_key(it).p[0] != 'd' && kv_iter_key(it).p[0] != 'i') continue;
		assert_int_equal(object_decode(kv_iter_value(it), &o), 0);
		for (uint32_t i = 0; i < o.extent_count; i++) {
			sum->bytes += o.extents[i].pack == pack ? extent_weight(&o.extents[i]) : 0;
			sum->records += o.extents[i].pack == pack;
		}
	}
	for (kv_iter_seek(it, slice_str("x")); kv_iter_valid(it) && kv_iter_key(it).p[0] == 'x';
		kv_iter_next(it)) {
		assert_int_equal(extent_row_decode(kv_iter_value(it), &x), 0);
		sum->bytes += x.pack == pack ? extent_weight(&x) : 0;
		sum->records += x.pack == pack;
	}
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
}

/* No pass runs: what a pack counts as live is what the rows name in it. */
static void check_live(void)
{
	struct pack_info info;
	uint64_t after = 0;

	while (packs_list(world.store->packs, after, &info, 1) == 1) {
		struct live want = { 0, 0 };
		struct pack_row row;

		after = info.id;
		assert_int_equal(packs_row(world.store->packs, info.id, &row), 0);
		live_of_rows(info.id, &want);
		if (row.live_bytes != want.bytes || row.live_records != want.records)
			differ("pack %016" PRIx64 " counts %" PRIu64 " live bytes in %" PRIu64
			       " records; rows name %" PRIu64 " in %" PRIu64,
				info.id, row.live_bytes, row.live_records, want.bytes,
				want.records);
	}
}

/* All sessions at rest: every name and byte, the counters, and the packs. */
static void check_all(void)
{
	struct ns_bucket b;
	uint64_t bytes = 0, objects = 0, want_bytes = 0, want_objects = 0;
	char text[8192];

	for (uint32_t i = 0; i < SESSIONS; i++) {
		struct tree *t = &clients[i].lane.tree;

		for (uint32_t k = 0; k < t->count; k++) {
			uint32_t first = 0; /* a file with several names counts once */

			while (t->keys[k].seed != 0 && !is_one_file(&t->keys[first], &t->keys[k])) first++;
			if (t->keys[k].seed == 0 || first == k) {
				want_bytes += t->keys[k].size;
				want_objects++;
			}
			if (t->keys[k].seed == 0) continue;
			struct want x = { .k = &t->keys[k] };
			struct read_result r = read_key(
				&clients[i].peer, "data", t->keys[k].key, k % 2 ? READ_VERIFY : 0);

			check_want(&x, t->keys[k].key, &r);
			read_free(&r, 1);
		}
		for (int n = 0; n < 8; n++) list_some(&clients[i]);
	}
	assert_int_equal(ns_bucket_find(world.store->ns, slice_str("data"), &b), 0);
	assert_int_equal(ns_bucket_usage(world.store->ns, b.id, &bytes, &objects), 0);
	if (bytes != want_bytes || objects != want_objects)
		differ("the bucket counts %" PRIu64 " bytes in %" PRIu64
		       " objects; there are %" PRIu64 " in %" PRIu64,
			bytes, objects, want_bytes, want_objects);
	while (jobs_check_start(world.store->jobs) == -GRANARY_EBUSY) usleep(10000);
	do {
		usleep(10000);
		assert_int_equal(jobs_check_status(world.store->jobs, text, sizeof(text)), 0);
	} while (strstr(text, "state done") == NULL);
	if (strstr(text, "problems 0\n") == NULL) differ("check: %s", text);
}

static void phase(uint64_t seconds, struct jobs_stats *sum)
{
	struct jobs_stats jobs;

	for (uint32_t i = 0; i < SESSIONS; i++) {
		clients[i].until_ns = clock_mono_ns() + seconds * UINT64_C(1000000000);
		assert_int_equal(
			pthread_create(&clients[i].thread, NULL, client_main, &clients[i]), 0);
	}
	for (uint32_t i = 0; i < SESSIONS; i++) pthread_join(clients[i].thread, NULL);
	check_all();
	jobs_get_stats(world.store->jobs, &jobs);
	sum->sealed += jobs.sealed;
	sum->compacted += jobs.compacted;
	sum->removed_packs += jobs.removed_packs;
	sum->moved_records += jobs.moved_records;
	down();
	up(false);
	check_live();
	down();
	up(true);
	for (uint32_t i = 0; i < SESSIONS; i++) resend(&clients[i]); /* remembered by its row now */
	check_all();
}

static void test_random_operations_answer_as_a_model_does(void **state)
{
	uint64_t seconds = effort("GRANARY_MODEL_S", SECONDS_DEFAULT, SECONDS_LONG), ops = 0, reads = 0, lists = 0,
		 resent = 0, retried = 0;
	struct jobs_stats jobs = { .sealed = 0 };

	(void)state;
	seed = effort_number("GRANARY_SEED", (uint64_t)time(NULL));
	snprintf(world.dir, sizeof(world.dir), "/tmp/granary-model-XXXXXX");
	assert_non_null(mkdtemp(world.dir));
	for (uint32_t i = 0; i < SESSIONS; i++) lane_init(&clients[i].lane, i, seed);
	up(true);
	next_sequence = 1;
	assert_int_equal(simple_call(&clients[0].peer, OP_BUCKET_CREATE, "data"), 0);
	clients[0].lane.sequence = 1;
	for (uint64_t left = seconds; left > 0; left -= left < PHASE_S ? left : PHASE_S)
		phase(left < PHASE_S ? left : PHASE_S, &jobs);
	for (uint32_t i = 0; i < SESSIONS; i++) {
		ops += clients[i].ops;
		reads += clients[i].reads;
		lists += clients[i].lists;
		resent += clients[i].resent;
		retried += clients[i].retried;
	}
	printf("  seed %" PRIu64 ": %" PRIu64 " mutations (%" PRIu64 " sent twice, %" PRIu64
	       " retried), %" PRIu64 " objects read, %" PRIu64 " listings; packs: %" PRIu64
	       " sealed, %" PRIu64 " compacted (%" PRIu64 " records), %" PRIu64 " removed\n",
		seed, ops, resent, retried, reads, lists, jobs.sealed, jobs.compacted,
		jobs.moved_records, jobs.removed_packs);
	down();
	remove_tree(world.dir);
	assert_true(ops > 0 && jobs.compacted > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_operations_answer_as_a_model_does),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
