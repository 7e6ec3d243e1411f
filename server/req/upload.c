/* SPDX-License-Identifier: Apache-2.0 */
/* upload.c -- EXTENT and ABORT: bytes of large objects, in order, each answered after its flush
 * (PROTOCOL 5.4).
 *
 * Invariants: (1) extents of an upload follow each other without a gap: an offset is claimed when
 * its request starts, in the order of arrival; (2) the content hash is fed at that moment; (3)
 * after a failed extent the upload only fails. */
#include "req/upload.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/tlv.h"
#include "meta/ids.h"
#include "tier/packs.h"

struct extent_req {
	struct auth auth;
	struct ns_ref ref;
	uint64_t number, logical, dir, group;
	const uint8_t *crcs;
	uint32_t crc_count;
	int err;
	struct upload *upload;
	struct upload_extent *extent;
	size_t attrs_len, key_len;
	uint8_t attrs[64];
	uint8_t key[REF_RECORD_KEY_MAX];
};

/* ---- uploads ---- */

static void upload_free(struct upload **up)
{
	struct upload *u = *up;

	*up = NULL;
	if (u == NULL) return;
	assert(u->busy == 0);
	for (uint32_t i = 0; i < u->extent_count; i++) {
		if (u->extents[i]->done && u->extents[i]->append.err == 0)
			pack_append_settled(&u->extents[i]->append);
		free(u->extents[i]);
	}
	free(u->extents);
	hash_stream_free(&u->hash);
	free(u);
}

static struct upload *upload_find(struct session *s, uint64_t number)
{
	list_for (n, session_uploads(s)) {
		struct upload *u = container_of(n, struct upload, node);

		if (u->number == number) return u;
	}
	return NULL;
}

int upload_take(struct session *s, uint64_t number, uint64_t size, uint64_t dir, struct slice name,
	struct upload **out)
{
	struct upload *u;
	int err = 0;

	session_lock(s);
	u = upload_find(s, number);
	if (u == NULL || u->taken || u->dir != dir ||
		!slice_eq(name, slice_of(u->name, u->name_len)))
		err = -GRANARY_ESTALE;
	else if (u->err < 0)
		err = u->err;
	else if (u->next_offset != size || u->done_count != u->extent_count)
		err = -GRANARY_EINVAL;
	if (err == 0) {
		u->taken = true;
		u->busy++;
		*out = u;
	}
	session_unlock(s);
	return err;
}

static void upload_leave(struct session *s, struct upload *u)
{
	bool is_last;

	session_lock(s);
	assert(u->busy > 0);
	is_last = --u->busy == 0 && u->gone;
	session_unlock(s);
	if (is_last) upload_free(&u);
}

void upload_give_back(struct session *s, struct upload **up)
{
	struct upload *u = *up;

	*up = NULL;
	session_lock(s);
	u->taken = false;
	session_unlock(s);
	upload_leave(s, u);
}

/* Out of the session: freed here, or by its last user. */
static void upload_remove(struct session *s, struct upload *u)
{
	session_lock(s);
	u->busy++;
	if (!u->gone) list_remove(&u->node);
	u->gone = true;
	session_unlock(s);
	upload_leave(s, u);
}

void upload_done(struct session *s, struct upload **up)
{
	struct upload *u = *up;

	*up = NULL;
	upload_remove(s, u);
	upload_leave(s, u);
}

bool uploads_busy(struct list *uploads)
{
	list_for (n, uploads)
		if (container_of(n, struct upload, node)->busy > 0) return true;
	return false;
}

void uploads_drop(struct list *uploads)
{
	struct list *n;

	while ((n = list_pop(uploads)) != NULL) {
		struct upload *u = container_of(n, struct upload, node);

		upload_free(&u);
	}
}

static struct upload *upload_new(struct req *r, uint64_t number)
{
	struct upload *u = req_alloc(sizeof(*u));

	memset(u, 0, sizeof(*u));
	list_init(&u->node);
	u->number = number;
	u->id = ids_object(r->store->ids);
	u->version = ids_version(r->store->ids);
	u->hash = hash_stream_new();
	assert(u->hash != NULL);
	return u;
}

static struct upload_extent *upload_add(
	struct upload *u, const struct extent_req *x, uint32_t data_len)
{
	struct upload_extent *e = req_alloc(sizeof(*e) + 4 * (size_t)x->crc_count);

	memset(e, 0, sizeof(*e));
	e->crc_count = x->crc_count;
	memcpy(e->crcs, x->crcs, 4 * (size_t)x->crc_count);
	e->append.logical = x->logical;
	e->append.data_len = data_len;
	if (u->extent_count == u->extent_cap) {
		u->extent_cap = u->extent_cap == 0 ? 16 : 2 * u->extent_cap;
		u->extents = realloc(u->extents, u->extent_cap * sizeof(struct upload_extent *));
		assert(u->extents != NULL);
	}
	u->extents[u->extent_count++] = e;
	return e;
}

/* ---- EXTENT ---- */

static enum step_result extent_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct extent_req *x = req_alloc(sizeof(*x));
	struct slice bucket = cur_bytes16(&c);
	int err;

	memset(x, 0, sizeof(*x));
	r->body = x;
	err = auth_begin(r, &x->auth, GRANT_WRITE, bucket);
	if (err < 0) return req_fail(r, err, "cannot write to this bucket: %s", error_text(err));
	err = ref_parse(&c, &x->auth, &x->ref);
	x->number = cur_u64(&c);
	x->logical = cur_u64(&c);
	x->crc_count = crc_block_count(r->frame.data_len);
	x->crcs = cur_bytes(&c, 4 * (size_t)x->crc_count).p;
	if (err == -GRANARY_EPROTO || !cur_done(&c) || x->ref.by == NS_BY_ID || x->number == 0)
		return req_fail(r, -GRANARY_EPROTO, "EXTENT does not parse");
	if (err < 0) return req_fail(r, err, "invalid key or name");
	if (r->frame.data_len == 0 || r->frame.data_len > WIRE_ENTRY_DATA_MAX)
		return req_fail(r, -GRANARY_ETOOBIG, "an extent carries 1 to %d bytes",
			WIRE_ENTRY_DATA_MAX);
	if (r->peer->session == NULL)
		return req_fail(r, -GRANARY_EUNSUPPORTED, "uploads need a session");
	err = auth_ref(&x->auth, &x->ref, false);
	if (err < 0 && err != -GRANARY_EAGAIN)
		return req_fail(r, err, "the key does not allow writing this name");
	return STEP_NEXT;
}

static bool crcs_match(const struct req *r, const struct extent_req *x)
{
	uint32_t crcs[EXTENT_CRCS_MAX];

	crc32c_blocks(crcs, r->data, r->frame.data_len);
	return memcmp(crcs, x->crcs, 4 * (size_t)x->crc_count) == 0;
}

static uint32_t upload_count(struct session *s)
{
	uint32_t n = 0;

	list_for (node, session_uploads(s)) n++;
	return n;
}

/* An extent that came before: 1 when it is flushed, BUSY while it is not. */
static int extent_again(const struct upload *u, uint64_t logical, uint32_t len)
{
	for (uint32_t i = 0; i < u->extent_count; i++) {
		const struct upload_extent *e = u->extents[i];

		if (e->append.logical == logical && e->append.data_len == len)
			return e->done ? 1 : -GRANARY_EBUSY;
	}
	return -GRANARY_EINVAL;
}

/* Under the session's lock. 0: claimed; 1: it is there already. */
static int extent_claim(struct req *r, struct extent_req *x)
{
	struct session *s = r->peer->session;
	struct upload *u = upload_find(s, x->number);
	struct slice leaf = x->ref.name, dir;

	if (x->ref.by == NS_BY_KEY) key_split(x->ref.name, &dir, &leaf);
	if (u == NULL) {
		if (x->logical != 0) return -GRANARY_ESTALE;
		if (upload_count(s) >= SESSION_UPLOADS_MAX) return -GRANARY_EBUSY;
		u = upload_new(r, x->number);
		u->name_len = (uint16_t)leaf.len;
		memcpy(u->name, leaf.p, leaf.len);
		list_push(session_uploads(s), &u->node);
	}
	if (u->taken || !slice_eq(leaf, slice_of(u->name, u->name_len))) return -GRANARY_EINVAL;
	if (u->err < 0) return u->err;
	if (x->logical != u->next_offset) return extent_again(u, x->logical, r->frame.data_len);
	x->upload = u;
	x->extent = upload_add(u, x, r->frame.data_len);
	u->next_offset += r->frame.data_len;
	u->busy++;
	return 0;
}

static enum step_result extent_refused(struct req *r, int err)
{
	const struct extent_req *x = r->body;

	switch (err) {
	case -GRANARY_EINVAL:
		return req_fail(r, err,
			"upload %" PRIu64 ": offset %" PRIu64
			" does not follow the extent before, or the name is another",
			x->number, x->logical);
	case -GRANARY_ESTALE:
		return req_fail(r, err, "upload %" PRIu64 " is not known; send it from its beginning", x->number);
	case -GRANARY_EBUSY:
		return req_fail(r, err,
			"upload %" PRIu64 ": too many uploads of the session, or these bytes are being stored",
			x->number);
	default:
		return req_fail(r, err, "upload %" PRIu64 ": bytes before offset %" PRIu64 " cannot be stored: %s",
			x->number, x->logical, error_text(err));
	}
}

static enum step_result extent_claim_step(struct req *r)
{
	struct extent_req *x = r->body;
	int err = packs_room(r->store->packs, r->frame.data_len);

	if (err < 0)
		return req_fail(r, err,
			"no space left in the store for %u bytes; free some or add a drive",
			r->frame.data_len);
	if (!crcs_match(r, x))
		return req_fail(r, -GRANARY_ECORRUPT,
			"bytes arrived with a wrong checksum, at offset %" PRIu64
			" of upload %" PRIu64 "; send them again",
			x->logical, x->number);
	session_lock(r->peer->session);
	err = extent_claim(r, x);
	if (err == 0) /* in order of arrival: still under the lock */
		hash_stream_add(x->upload->hash, r->data, r->frame.data_len);
	session_unlock(r->peer->session);
	if (err == 1) {
		answer_empty(r);
		return STEP_DONE;
	}
	return err < 0 ? extent_refused(r, err) : STEP_NEXT;
}

static int extent_parent_get(struct extent_req *x, bool may_block)
{
	struct ns *ns = x->auth.store->ns;
	int err = auth_ref(&x->auth, &x->ref, may_block);

	if (err == 0) err = ns_parent_cached(ns, &x->ref, &x->dir, &x->group);
	if (err == -GRANARY_EAGAIN && may_block) err = ns_parent(ns, &x->ref, &x->dir, &x->group);
	return err;
}

static void extent_parent_work(struct req *r)
{
	struct extent_req *x = r->body;

	x->err = extent_parent_get(x, true);
}

static enum step_result extent_parent(struct req *r)
{
	struct extent_req *x = r->body;

	r->step++;
	x->err = extent_parent_get(x, false);
	if (x->err == -GRANARY_EAGAIN) return req_work(r, extent_parent_work);
	r->step--;
	return STEP_NEXT;
}

static void extent_texts(struct req *r, struct extent_req *x)
{
	struct wr w = wr_of(x->attrs, sizeof(x->attrs));
	struct wr k = wr_of(x->key, sizeof(x->key));

	uint64_t bucket;

	(void)ref_record_key(&x->auth, &x->ref, &k, &bucket);
	if (bucket != 0) tlv_put_u64(&w, TAG_BUCKET, bucket);
	tlv_put_u64(&w, TAG_SIZE, x->logical + r->frame.data_len); /* so far */
	tlv_put_u64(&w, TAG_MTIME, clock_wall_ns());
	assert(wr_ok(&w) && wr_ok(&k));
	x->attrs_len = wr_len(&w);
	x->key_len = wr_len(&k);
}

static void extent_append_done(struct task *task)
{
	req_resume(container_of(task, struct upload_extent, append.done)->r);
}

/* False: the parent is another than that of the extents before. */
static bool upload_join(struct session *s, struct extent_req *x)
{
	struct upload *u = x->upload;
	bool is_same;

	session_lock(s);
	if (u->dir == 0) {
		u->dir = x->dir;
		u->group = x->group;
	}
	is_same = u->dir == x->dir;
	session_unlock(s);
	return is_same;
}

static enum step_result extent_append(struct req *r)
{
	struct extent_req *x = r->body;
	struct pack_append *a = &x->extent->append;

	if (x->err == 0 && !upload_join(r->peer->session, x)) x->err = -GRANARY_ESTALE;
	if (x->err < 0) {
		a->err = x->err;
		return STEP_NEXT;
	}
	extent_texts(r, x);
	x->extent->r = r;
	a->done.fn = extent_append_done;
	a->notify = r->local->reactor;
	a->group = x->upload->group;
	a->object_id = x->upload->id;
	a->version = x->upload->version;
	a->dir_id = x->upload->dir;
	a->key = slice_of(x->key, x->key_len);
	a->name = slice_of(x->upload->name, x->upload->name_len);
	a->attrs = slice_of(x->attrs, x->attrs_len);
	a->crcs = x->extent->crcs;
	a->data = r->data;
	r->step++;
	r->pending++;
	pack_append(r->store->writers, a);
	return STEP_WAIT;
}

static enum step_result extent_finish(struct req *r)
{
	struct extent_req *x = r->body;
	struct session *s = r->peer->session;
	struct pack_append *a = &x->extent->append;
	int err = a->err;

	session_lock(s);
	a->key = a->name = a->attrs = slice_of(NULL, 0); /* the request's memory goes */
	a->data = NULL;
	x->extent->done = true;
	x->upload->done_count++;
	if (err < 0 && x->upload->err == 0) x->upload->err = err;
	session_unlock(s);
	upload_leave(s, x->upload);
	if (err < 0)
		return req_fail(r, err,
			"upload %" PRIu64 ": bytes at offset %" PRIu64 " cannot be stored: %s",
			x->number, x->logical, error_text(err));
	stat_add(&r->local->stats->entries[OP_EXTENT], 1);
	answer_empty(r);
	return STEP_DONE;
}

static void body_free(struct req *r)
{
	free(r->body);
	r->body = NULL;
}

static const struct req_step extent_steps[] = {
	{ "parse", extent_parse },
	{ "claim", extent_claim_step },
	{ "parent", extent_parent },
	{ "append", extent_append },
	{ "finish", extent_finish },
};
const struct req_kind extent_kind = {
	.op = OP_EXTENT,
	.name = "extent",
	.action = GRANT_WRITE,
	.steps = extent_steps,
	.step_count = 5,
	.cleanup = body_free,
};

/* ---- ABORT ---- */

static enum step_result abort_run(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct session *s = r->peer->session;
	struct upload *u = NULL;
	uint64_t number;

	cur_bytes16(&c);
	number = cur_u64(&c);
	if (!cur_done(&c)) return req_fail(r, -GRANARY_EPROTO, "ABORT does not parse");
	if (s != NULL) {
		session_lock(s);
		u = upload_find(s, number);
		if (u != NULL && u->taken) u = NULL; /* a PUT is naming it just now */
		if (u != NULL) u->busy++;
		session_unlock(s);
	}
	if (u != NULL) {
		upload_remove(s, u);
		upload_leave(s, u);
	}
	answer_empty(r);
	return STEP_DONE;
}

static const struct req_step abort_steps[] = { { "abort", abort_run } };
const struct req_kind abort_kind = {
	.op = OP_ABORT,
	.name = "abort",
	.action = GRANT_WRITE,
	.steps = abort_steps,
	.step_count = 1,
};
