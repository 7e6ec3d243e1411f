/* SPDX-License-Identifier: Apache-2.0 */
/* harness_store.h -- a store on real threads in a temporary directory, and a peer without a socket
 * that collects answers. A test file includes this once. */
#pragma once

#include <assert.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/rand.h"
#include "io/fs.h"
#include "meta/ns.h"
#include "req/req.h"
#include "req/store.h"

#define MIB         (UINT64_C(1) << 20)
#define ALL_ACTIONS (GRANT_READ | GRANT_LIST | GRANT_WRITE | GRANT_DELETE | GRANT_ADMIN)

struct world {
	char dir[64];
	struct fs *fs;
	struct store *store;
};

static struct store_options world_options(struct fs *fs)
{
	struct store_options o;

	store_options_default(&o);
	o.fs = fs;
	o.reactors = 2;
	o.worker_threads = 2;
	o.cache_budget = 64 * MIB;
	o.transient_budget = 32 * MIB;
	o.loc_budget = 16 * MIB;
	o.kv_block_cache = 8 * MIB;
	o.kv_write_buffer = 4 * MIB;
	o.staging_budget = 32 * MIB;
	o.pack_size = 64 * MIB;
	o.ballast = MIB;
	o.disk_reserve = 16 * MIB;
	o.jobs = false;
	o.merge_quiet_ns = 0;
	return o;
}

static inline void world_start(struct world *w)
{
	char why[256] = "";
	struct store_options o;

	assert_int_equal(fs_new_kernel(w->dir, &w->fs), 0);
	o = world_options(w->fs);
	if (store_open(&o, &w->store, why, sizeof(why)) < 0) fail_msg("store_open: %s", why);
}

static inline void world_stop(struct world *w)
{
	store_close(&w->store);
	fs_free(&w->fs);
}

static inline void world_restart(struct world *w)
{
	world_stop(w);
	world_start(w);
}

static inline void world_new(struct world *w)
{
	snprintf(w->dir, sizeof(w->dir), "/tmp/granary-req-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	world_start(w);
}

static inline void remove_tree(const char *dir)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	assert_int_equal(system(command), 0);
}

static inline void world_free(struct world *w)
{
	world_stop(w);
	remove_tree(w->dir);
}

/* ---- a peer ---- */

struct got { /* one frame */
	struct got *next;
	uint16_t flags, status;
	uint32_t meta_len, data_len;
	uint8_t *meta, *data;
};

struct peer {
	struct req_peer peer;
	struct world *world;
	const struct ns_access_key *key;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool hold; /* answers are kept, as by a slow client */
	struct answer *held;
	uint64_t held_data, held_pieces_max;
};

struct call {
	struct req req;
	struct task start;
	struct peer *p;
	uint8_t *meta, *data;
	struct got *first, **last;
	bool done;
};

static inline void peer_answer(struct req_peer *rp, struct answer *a)
{
	struct peer *p = container_of(rp, struct peer, peer);
	struct got *g = calloc(1, sizeof(*g));
	struct call *c = (struct call *)(uintptr_t)a->request;
	uint32_t at = 0;

	g->flags = a->flags;
	g->status = a->status;
	g->meta_len = a->meta_len;
	g->data_len = a->data_len;
	g->meta = malloc(a->meta_len + 1);
	g->data = malloc(a->data_len + 1);
	if (a->meta_len > 0) memcpy(g->meta, a->meta, a->meta_len);
	for (uint32_t i = 0; i < a->iov_count; i++) {
		memcpy(g->data + at, a->iov[i].iov_base, a->iov[i].iov_len);
		at += (uint32_t)a->iov[i].iov_len;
	}
	assert(at == a->data_len && a->data_len <= rp->data_cap);
	pthread_mutex_lock(&p->lock);
	*c->last = g;
	c->last = &g->next;
	if (p->hold) {
		a->next = p->held;
		p->held = a;
		p->held_data += a->data_len;
	}
	bool hold = p->hold;
	pthread_mutex_unlock(&p->lock);
	if (!hold) a->released(a);
}

static inline void peer_finished(struct req_peer *rp, struct req *r)
{
	struct peer *p = container_of(rp, struct peer, peer);
	struct call *c = container_of(r, struct call, req);

	pthread_mutex_lock(&p->lock);
	c->done = true;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
}

static inline uint64_t peer_queued(const struct req_peer *rp)
{
	(void)rp;
	return 0;
}

static const struct req_peer_ops peer_ops = { peer_answer, peer_finished, peer_queued };

static inline void peer_attach(struct peer *p, uint64_t session)
{
	assert_int_equal(
		session_attach(p->world->store->sessions, p->key, session, true, &p->peer.session),
		0);
}

static inline void peer_init(struct peer *p, struct world *w, const char *key_id, uint32_t reactor)
{
	memset(p, 0, sizeof(*p));
	p->world = w;
	p->key = ns_key_ref(w->store->ns, slice_str(key_id));
	assert_non_null(p->key);
	p->peer.ops = &peer_ops;
	p->peer.local = &w->store->locals[reactor % w->store->reactor_count];
	p->peer.key = p->key;
	p->peer.data_cap = 16 * 1024 * 1024;
	list_init(&p->peer.waiting);
	list_init(&p->peer.parked);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	peer_attach(p, 0);
}

static inline void peer_release(struct peer *p)
{
	session_detach(p->world->store->sessions, &p->peer.session);
	ns_key_unref(p->world->store->ns, p->key);
}

/* A key that may do `actions` under prefix of bucket (empty: all). */
static inline void key_make(
	struct world *w, const char *id, uint8_t actions, const char *bucket, const char *prefix)
{
	struct ns_access_key *key = calloc(1, sizeof(*key));

	snprintf(key->id, sizeof(key->id), "%s", id);
	key->grant_count = 1;
	key->grants[0].actions = actions;
	snprintf(key->grants[0].bucket, sizeof(key->grants[0].bucket), "%s", bucket);
	key->grants[0].prefix_len = (uint16_t)strlen(prefix);
	memcpy(key->grants[0].prefix, prefix, strlen(prefix));
	assert_int_equal(ns_key_create(w->store->ns, key), 0);
	free(key);
}

/* ---- calls ---- */

static inline void call_start_task(struct task *task)
{
	req_start(&container_of(task, struct call, start)->req);
}

/* Copies meta and data. */
static inline struct call *call_start(struct peer *p, uint8_t op, uint16_t flags,
	const struct wr *meta, const void *data, size_t data_len)
{
	struct call *c = calloc(1, sizeof(*c));

	assert(wr_ok(meta));
	c->p = p;
	c->last = &c->first;
	c->meta = malloc(wr_len(meta) + 1);
	memcpy(c->meta, meta->start, wr_len(meta));
	c->data = aligned_alloc(64, (data_len + 64) & ~(size_t)63);
	if (data_len > 0) memcpy(c->data, data, data_len);
	c->req.peer = &p->peer;
	c->req.meta = c->meta;
	c->req.data = c->data;
	c->req.frame = (struct frame){ .op = op,
		.flags = flags,
		.meta_len = (uint32_t)wr_len(meta),
		.data_len = (uint32_t)data_len,
		.request = (uint64_t)(uintptr_t)c };
	c->start.fn = call_start_task;
	reactor_post(p->peer.local->reactor, &c->start);
	return c;
}

/* Under sim nothing runs by itself: turns the world once; false: it will never be answered. */
static bool (*harness_turn)(const struct call *c);

static inline void call_wait(struct call *c)
{
	while (harness_turn != NULL && !c->done && harness_turn(c)) continue;
	if (harness_turn != NULL) return;
	pthread_mutex_lock(&c->p->lock);
	while (!c->done) pthread_cond_wait(&c->p->cond, &c->p->lock);
	pthread_mutex_unlock(&c->p->lock);
}

static inline struct call *call(struct peer *p, uint8_t op, uint16_t flags, const struct wr *meta,
	const void *data, size_t data_len)
{
	struct call *c = call_start(p, op, flags, meta, data, data_len);
	struct got *g;

	call_wait(c);
	assert_non_null(c->first);
	for (g = c->first; g->next != NULL; g = g->next) assert_false(g->flags & FRAME_LAST);
	assert_true(g->flags & FRAME_LAST);
	return c;
}

static inline void call_free(struct call *c)
{
	while (c->first != NULL) {
		struct got *g = c->first;

		c->first = g->next;
		free(g->meta);
		free(g->data);
		free(g);
	}
	free(c->meta);
	free(c->data);
	free(c);
}

static inline int call_status(const struct call *c)
{
	return -(int)c->first->status;
}

/* The text of an error answer. */
static inline const char *call_text(struct call *c)
{
	struct cur m = cur_of(c->first->meta, c->first->meta_len);
	struct slice t = cur_bytes16(&m);
	static _Thread_local char text[512];

	assert_true(cur_done(&m) && t.len < sizeof(text));
	if (t.len > 0) memcpy(text, t.p, t.len);
	text[t.len] = '\0';
	return text;
}

/* ---- meta of requests ---- */

struct msg {
	struct wr w;
	uint8_t *buf;
};

static inline struct msg msg_new(const char *bucket)
{
	size_t cap = 4 * 1024 * 1024;
	struct msg m = { .buf = malloc(cap) };

	m.w = wr_of(m.buf, cap);
	wr_bytes16(&m.w, slice_str(bucket));
	return m;
}

static inline void msg_sequence(struct msg *m, uint64_t sequence, uint64_t after, uint64_t seen)
{
	wr_u64(&m->w, sequence);
	wr_u64(&m->w, after);
	wr_u64(&m->w, seen);
}

static inline void msg_key(struct msg *m, const char *key)
{
	wr_u8(&m->w, REF_KEY);
	wr_bytes16(&m->w, slice_str(key));
}

static inline void msg_name(struct msg *m, uint64_t dir, const char *name)
{
	wr_u8(&m->w, REF_NAME);
	wr_u64(&m->w, dir);
	wr_bytes16(&m->w, slice_str(name));
}

static inline void msg_id(struct msg *m, uint64_t id, uint64_t dir, const char *name)
{
	wr_u8(&m->w, REF_ID);
	wr_u64(&m->w, id);
	wr_u64(&m->w, dir);
	wr_bytes16(&m->w, slice_str(name));
}

/* What follows the ref of a put: no metadata, checksums of data. */
static inline void msg_put_rest(struct msg *m, uint8_t condition, uint64_t version, uint64_t upload,
	const void *data, uint64_t size)
{
	uint32_t crcs[64];

	wr_u8(&m->w, condition);
	wr_u64(&m->w, version);
	wr_u8(&m->w, upload != 0 ? PUT_UPLOAD : 0);
	wr_u64(&m->w, upload);
	wr_u64(&m->w, size);
	wr_u64(&m->w, 0);
	wr_u32(&m->w, 0);
	wr_u32(&m->w, 0);
	wr_u32(&m->w, 0);
	wr_u16(&m->w, 0);
	if (upload != 0) return;
	crc32c_blocks(crcs, data, size);
	wr_bytes(&m->w, crcs, 4 * (size_t)crc_block_count(size));
}

static inline struct call *msg_call(
	struct peer *p, uint8_t op, uint16_t flags, struct msg *m, const void *data, size_t len)
{
	struct call *c = call(p, op, flags, &m->w, data, len);

	free(m->buf);
	m->buf = NULL;
	return c;
}

/* ---- the usual, in one call ---- */

struct put_result {
	int err;
	uint64_t id, version, dir, replaced;
};

static inline struct put_result put_result_of(struct call *c, uint32_t index)
{
	struct cur m = cur_of(c->first->meta, c->first->meta_len);
	struct put_result r = { .err = call_status(c) };
	uint32_t n;

	if (r.err < 0) return r;
	n = cur_u32(&m);
	assert_true(index < n);
	for (uint32_t i = 0; i <= index; i++) {
		r.err = -(int)cur_u16(&m);
		r.id = cur_u64(&m);
		r.version = cur_u64(&m);
		r.dir = cur_u64(&m);
		r.replaced = cur_u64(&m);
	}
	assert_true(cur_ok(&m));
	return r;
}

static _Atomic uint64_t next_sequence = 1; /* of all sessions: they only have to grow */

static inline struct put_result put_key(
	struct peer *p, const char *bucket, const char *key, const void *data, size_t size)
{
	struct msg m = msg_new(bucket);
	struct put_result r;
	struct call *c;

	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	msg_put_rest(&m, PUT_ANY, 0, 0, data, size);
	c = msg_call(p, OP_PUT, 0, &m, data, size);
	r = put_result_of(c, 0);
	call_free(c);
	return r;
}

static inline int simple_call(struct peer *p, uint8_t op, const char *bucket)
{
	struct msg m = msg_new(bucket);
	struct call *c;
	int err;

	msg_sequence(&m, next_sequence++, 0, 0);
	c = msg_call(p, op, 0, &m, NULL, 0);
	err = call_status(c);
	call_free(c);
	return err;
}

static inline int delete_key(struct peer *p, const char *bucket, const char *key)
{
	struct msg m = msg_new(bucket);
	struct call *c;
	struct cur a;
	int err;

	msg_sequence(&m, next_sequence++, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	wr_u8(&m.w, 0);
	wr_u64(&m.w, 0);
	c = msg_call(p, OP_DELETE, 0, &m, NULL, 0);
	a = cur_of(c->first->meta, c->first->meta_len);
	err = call_status(c);
	if (err == 0 && cur_u32(&a) == 1) err = -(int)cur_u16(&a);
	call_free(c);
	return err;
}

/* ---- answers of READ ---- */

struct read_result {
	int err;
	bool seen, ended;
	uint64_t id, version, size, dir, logical; /* logical: of the first byte of data */
	uint32_t order;                           /* when its first piece came */
	uint8_t *data;
	size_t len;
	bool has_hash;
	struct hash128 hash;
	char text[512];
};

static inline void read_piece(
	struct read_result *r, uint32_t count, struct cur *m, struct cur *data, uint32_t *order)
{
	uint32_t index = cur_u32(m), crcs[64];
	int err = -(int)cur_u16(m);
	uint8_t flags = cur_u8(m);
	uint64_t logical;
	struct slice bytes, sums;

	assert_int_equal(cur_u8(m), 0);
	assert_true(index < count);
	r += index;
	assert_false(r->ended);
	r->err = err;
	r->id = cur_u64(m);
	r->version = cur_u64(m);
	r->size = cur_u64(m);
	cur_u64(m);
	r->dir = cur_u64(m);
	logical = cur_u64(m);
	bytes = cur_bytes(data, cur_u32(m));
	sums = cur_bytes(m, 4 * (size_t)cur_u16(m));
	assert_true(cur_ok(m) && cur_ok(data));
	assert_int_equal(sums.len / 4, crc_block_count(bytes.len));
	if (bytes.len > 0) {
		crc32c_blocks(crcs, bytes.p, bytes.len);
		assert_memory_equal(crcs, sums.p, sums.len);
	}
	if (flags & PIECE_HASH) {
		r->has_hash = true;
		r->hash.lo = cur_u64(m);
		r->hash.hi = cur_u64(m);
	}
	if (flags & PIECE_CUT) { /* the object's bytes are a part of these */
		uint32_t from = cur_u32(m), len = cur_u32(m);

		assert_true(len > 0 && from <= bytes.len && len <= bytes.len - from);
		bytes = slice_of(bytes.p + from, len);
	}
	if (flags & PIECE_TEXT) {
		struct slice t = cur_bytes16(m);

		snprintf(r->text, sizeof(r->text), "%.*s", (int)t.len, (const char *)t.p);
	}
	if (!r->seen) {
		r->seen = true;
		r->logical = logical;
		r->order = (*order)++;
	} else if (err == 0) {
		assert_int_equal(logical, r->logical + r->len);
	}
	r->data = realloc(r->data, r->len + bytes.len + 1);
	if (bytes.len > 0) memcpy(r->data + r->len, bytes.p, bytes.len);
	r->len += bytes.len;
	r->ended = (flags & PIECE_LAST) != 0;
}

/* Every entry was answered, to its end. out: count zeroed results. */
static inline void read_results(struct call *c, struct read_result *out, uint32_t count)
{
	uint32_t order = 0;

	memset(out, 0, count * sizeof(*out));
	for (struct got *g = c->first; g != NULL; g = g->next) {
		struct cur m = cur_of(g->meta, g->meta_len), data = cur_of(g->data, g->data_len);
		uint32_t pieces = cur_u16(&m);

		assert_int_equal(g->status, 0);
		while (pieces-- > 0) read_piece(out, count, &m, &data, &order);
		assert_true(cur_done(&m) && cur_done(&data));
	}
	for (uint32_t i = 0; i < count; i++) assert_true(out[i].ended);
}

static inline void read_free(struct read_result *r, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) free(r[i].data);
}

static inline struct msg read_msg(const char *bucket, uint8_t flags, uint32_t count)
{
	struct msg m = msg_new(bucket);

	wr_u8(&m.w, flags);
	wr_u32(&m.w, count);
	return m;
}

static inline struct read_result read_key(
	struct peer *p, const char *bucket, const char *key, uint8_t flags)
{
	struct msg m = read_msg(bucket, flags, 1);
	struct read_result r;
	struct call *c;

	wr_u8(&m.w, 0);
	msg_key(&m, key);
	c = msg_call(p, OP_READ, 0, &m, NULL, 0);
	if (call_status(c) < 0)
		r = (struct read_result){ .err = call_status(c) };
	else
		read_results(c, &r, 1);
	call_free(c);
	return r;
}

static inline int read_err(struct peer *p, const char *bucket, const char *key)
{
	struct read_result r = read_key(p, bucket, key, 0);

	free(r.data);
	return r.err;
}

/* Bytes that differ from object to object and from place to place. */
static inline void fill(uint8_t *buf, size_t len, uint64_t seed)
{
	struct rng rng;

	rng_seed(&rng, seed);
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = rng_next(&rng);

		memcpy(buf + i, &v, len - i < 8 ? len - i : 8);
	}
}
