/* SPDX-License-Identifier: Apache-2.0 */
/* harness_open.h -- opens and locks of a harness peer. */
#pragma once

#include "unit/harness_store.h"

#include "common/lock_list.h"
#include "meta/opens.h"

struct opened_result {
	int err;
	uint64_t state, handle, id, version, size, dir;
	uint32_t nlink;
	const char *leaf; /* its name in dir, as it was opened */
};

static _Atomic uint64_t next_handle = 1;

static inline struct opened_result opened_of(struct call *c, uint64_t handle)
{
	struct cur m = cur_of(c->first->meta, c->first->meta_len);
	struct opened_result r = { .err = call_status(c), .handle = handle, .leaf = "" };

	if (r.err == 0) {
		r.state = cur_u64(&m);
		assert_int_equal(cur_u16(&m), 0);
		assert_int_equal(cur_u8(&m), STAT_FILE);
		cur_u8(&m);
		r.id = cur_u64(&m);
		r.version = cur_u64(&m);
		r.size = cur_u64(&m);
		cur_u64(&m);
		r.dir = cur_u64(&m);
		cur_bytes(&m, 3 * 4 + 16 + 3 * 8);
		r.nlink = cur_u32(&m);
		assert_true(cur_done(&m) && r.state != 0);
	}
	call_free(c);
	return r;
}

static inline struct opened_result open_key(struct peer *p, const char *key, uint8_t access)
{
	struct msg m = msg_new("data");
	const char *slash = strrchr(key, '/');
	uint64_t handle = next_handle++;
	struct opened_result r;

	wr_u64(&m.w, handle);
	wr_u8(&m.w, access);
	msg_key(&m, key);
	r = opened_of(msg_call(p, OP_OPEN, 0, &m, NULL, 0), handle);
	r.leaf = slash != NULL ? slash + 1 : key;
	return r;
}

static inline struct opened_result open_id(struct peer *p, uint64_t id, uint8_t access)
{
	struct msg m = msg_new("");
	uint64_t handle = next_handle++;

	wr_u64(&m.w, handle);
	wr_u8(&m.w, access);
	msg_id(&m, id, 0, "");
	return opened_of(msg_call(p, OP_OPEN, 0, &m, NULL, 0), handle);
}

static inline void close_handle(struct peer *p, uint64_t handle)
{
	struct msg m = { .buf = malloc(64) };
	struct call *c;

	m.w = wr_of(m.buf, 64);
	wr_u32(&m.w, 1);
	wr_u64(&m.w, handle);
	c = msg_call(p, OP_CLOSE, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	call_free(c);
}

static inline void lock_write(struct wr *w, const struct lock *lock)
{
	wr_u8(w, lock->kind);
	wr_u8(w, lock->type);
	wr_u64(w, lock->owner);
	wr_u64(w, lock->start);
	wr_u64(w, lock->end);
	wr_u32(w, lock->pid);
}

/* What the open answers, announced again, or the lock on it. */
static inline int announce(struct peer *p, const struct opened_result *o, uint8_t access, const struct lock *lock,
	uint8_t flags)
{
	struct msg m = { .buf = malloc(256) };
	int err = 0, err_lock = 0;
	struct call *c;
	struct cur got;

	m.w = wr_of(m.buf, 256);
	wr_u8(&m.w, flags);
	wr_u32(&m.w, o != NULL ? 1 : 0);
	if (o != NULL) {
		wr_u64(&m.w, o->handle);
		wr_u8(&m.w, access);
		msg_id(&m, o->id, o->dir, o->leaf);
	}
	wr_u32(&m.w, lock != NULL ? 1 : 0);
	if (lock != NULL) {
		wr_u64(&m.w, o->handle);
		lock_write(&m.w, lock);
	}
	c = msg_call(p, OP_ANNOUNCE, 0, &m, NULL, 0);
	assert_int_equal(call_status(c), 0);
	got = cur_of(c->first->meta, c->first->meta_len);
	cur_u64(&got);
	assert_int_equal(cur_u32(&got), o != NULL ? 1 : 0);
	if (o != NULL) err = -(int)cur_u16(&got);
	assert_int_equal(cur_u32(&got), lock != NULL ? 1 : 0);
	if (lock != NULL) err_lock = -(int)cur_u16(&got);
	assert_true(cur_done(&got));
	call_free(c);
	return err < 0 ? err : err_lock;
}

static inline void peer_reattach(struct peer *p, uint64_t session)
{
	session_detach(p->world->store->sessions, &p->peer.session);
	peer_attach(p, session);
}
