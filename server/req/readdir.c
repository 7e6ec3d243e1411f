/* SPDX-License-Identifier: Apache-2.0 */
/* readdir.c -- a page of one directory with all attributes, by the directory's id, and ids for objects to come
 * (PROTOCOL 4.15, 5.19): what a mount asks for. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/error.h"
#include "req/kind.h"
#include "req/session.h"
#include "req/unstable.h"

/* ---- a directory ---- */

enum { HEAD_SIZE = 1 + 4, ENTRY_FIXED_SIZE = 2 + 1 + 1 + 5 * 8 + 3 * 4 + 16 + STAT_FULL_SIZE };

struct readdir_req {
	struct auth auth;
	uint64_t dir;
	struct slice after;
	uint32_t max, entries;
	bool more;
	int err;
	uint8_t *out; /* malloc'd: the answer's meta */
	size_t len, cap, last; /* last: where the entry written last begins */
};

static struct readdir_req *readdir_of(const struct req *r)
{
	return r->body;
}

static struct wr room_for(struct readdir_req *d, size_t n)
{
	if (d->len + n > d->cap) {
		d->cap = 2 * (d->len + n) + 16 * 1024;
		d->out = realloc(d->out, d->cap);
		assert(d->out != NULL);
	}
	return wr_of(d->out + d->len, d->cap - d->len);
}

static int entry_write(void *arg, struct slice name, bool is_dir, const struct object *o)
{
	struct readdir_req *d = arg;
	struct wr w = room_for(d, ENTRY_FIXED_SIZE + name.len);

	d->last = d->len;
	wr_bytes16(&w, name);
	wr_u8(&w, stat_kind_of(is_dir, o->mode));
	wr_u8(&w, o->has_hash ? STAT_HAS_HASH : o->holes > 0 ? STAT_HAS_HOLES : 0);
	wr_u64(&w, o->id);
	wr_u64(&w, o->version);
	wr_u64(&w, o->size);
	wr_u64(&w, o->mtime_ns);
	wr_u64(&w, o->parent);
	wr_u32(&w, o->mode);
	wr_u32(&w, o->uid);
	wr_u32(&w, o->gid);
	wr_u64(&w, o->has_hash ? o->hash.lo : o->holes);
	wr_u64(&w, o->has_hash ? o->hash.hi : 0);
	wr_u64(&w, o->ctime_ns);
	wr_u64(&w, o->atime_ns != 0 ? o->atime_ns : o->mtime_ns);
	wr_u64(&w, o->rdev);
	wr_u32(&w, o->nlink);
	d->len += wr_len(&w);
	d->entries++;
	return 0;
}

static void entry_take_back(void *arg)
{
	struct readdir_req *d = arg;

	d->len = d->last;
	d->entries--;
}

static void readdir_work(struct req *r)
{
	struct readdir_req *d = readdir_of(r);
	struct ns_dir_page page = {
		.after = d->after, .max = d->max, .each = entry_write, .take_back = entry_take_back, .arg = d
	};

	room_for(d, HEAD_SIZE);
	d->len = HEAD_SIZE;
	d->err = auth_entry(&d->auth, d->dir, slice_of(NULL, 0), true);
	if (d->err == 0) d->err = ns_readdir(d->auth.store->ns, d->dir, &page, &d->more);
}

static enum step_result readdir_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	struct readdir_req *d = req_alloc(sizeof(*d));
	int err;

	memset(d, 0, sizeof(*d));
	r->body = d;
	d->dir = cur_u64(&c);
	d->after = cur_bytes16(&c);
	d->max = cur_u32(&c);
	if (!cur_done(&c) || d->max == 0 || d->max > WIRE_LIST_MAX || d->after.len > KEY_LEN_MAX)
		return req_fail(r, -GRANARY_EPROTO, "READDIR does not parse, or asks not for 1 to %d entries",
			WIRE_LIST_MAX);
	err = auth_begin(r, &d->auth, GRANT_LIST, bucket);
	if (err < 0) return req_fail(r, err, "cannot list here: %s", error_text(err));
	r->step++;
	return req_work(r, readdir_work);
}

static enum step_result readdir_answer(struct req *r)
{
	struct readdir_req *d = readdir_of(r);
	struct wr head;

	if (d->err < 0) return req_fail(r, d->err, "cannot list this directory: %s", error_text(d->err));
	head = wr_of(d->out, HEAD_SIZE);
	wr_u8(&head, d->more);
	wr_u32(&head, d->entries);
	stat_add(&r->local->stats->entries[OP_READDIR], d->entries);
	answer_send(r, answer_adopt(r, d->out, d->len), true);
	d->out = NULL;
	return STEP_DONE;
}

static void readdir_cleanup(struct req *r)
{
	struct readdir_req *d = readdir_of(r);

	if (d != NULL) free(d->out);
	free(d);
	r->body = NULL;
}

static const struct req_step readdir_steps[] = { { "parse", readdir_parse }, { "answer", readdir_answer } };
const struct req_kind readdir_kind = {
	.op = OP_READDIR,
	.name = "readdir",
	.action = GRANT_LIST,
	.steps = readdir_steps,
	.step_count = 2,
	.cleanup = readdir_cleanup,
};

/* ---- ids: noted in the session's row, synced, before they are told ---- */

struct ids_req {
	uint32_t count;
	int err;
	uint64_t first;
};

static void ids_work(struct req *r)
{
	struct ids_req *x = r->body;

	x->err = session_give_ids(r->store, r->peer->session, x->count, &x->first);
}

static enum step_result ids_answer(struct req *r)
{
	const struct ids_req *x = r->body;
	struct answer *a;
	struct wr w;

	if (x->err < 0) return req_fail(r, x->err, "no ids can be given to the session now: %s", error_text(x->err));
	a = answer_new(r, 8);
	w = wr_of(a->meta, 8);
	wr_u64(&w, x->first);
	a->meta_len = (uint32_t)wr_len(&w);
	answer_send(r, a, true);
	return STEP_DONE;
}

static enum step_result ids_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct ids_req *x = req_alloc(sizeof(*x));

	*x = (struct ids_req){ .count = cur_u32(&c) };
	r->body = x;
	if (!cur_done(&c) || x->count == 0 || x->count > WIRE_IDS_MAX)
		return req_fail(r, -GRANARY_EPROTO, "IDS does not parse, or asks not for 1 to %d", WIRE_IDS_MAX);
	if (r->peer->session == NULL) return req_fail(r, -GRANARY_EUNSUPPORTED, "IDS needs a session");
	if (!auth_any(r->peer->key, GRANT_WRITE)) return req_fail(r, -GRANARY_EACCESS, "IDS needs WRITE somewhere");
	r->step++;
	return req_work(r, ids_work);
}

static void ids_cleanup(struct req *r)
{
	free(r->body);
	r->body = NULL;
}

static const struct req_step ids_steps[] = { { "parse", ids_parse }, { "answer", ids_answer } };
const struct req_kind ids_kind = {
	.op = OP_IDS,
	.name = "ids",
	.steps = ids_steps,
	.step_count = 2,
	.cleanup = ids_cleanup,
};
