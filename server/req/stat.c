/* SPDX-License-Identifier: Apache-2.0 */
/* stat.c -- batch stat: PARSE -> FIND (tables in RAM) -> (a worker for what they do not know) ->
 * ANSWER. */
#include "req/stat.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/error.h"

enum { STAT_CHUNK = 64 };

struct stat_req {
	struct auth auth;
	uint32_t count, missing;
	bool want_meta, want_full;
	struct stat_entry entries[];
};

static struct stat_req *stat_of(const struct req *r)
{
	return r->body;
}

static enum step_result stat_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	uint8_t flags = cur_flags(&c, STAT_WANT_META | STAT_WANT_FULL);
	uint32_t count = cur_u32(&c);
	struct stat_req *s;
	int err;

	if (!cur_ok(&c) || count == 0 || count > WIRE_BATCH_MAX)
		return req_fail(r, -GRANARY_EPROTO,
			"STAT does not parse, or has not 1 to %d entries", WIRE_BATCH_MAX);
	s = req_alloc(sizeof(*s) + count * sizeof(struct stat_entry));
	r->body = s;
	s->count = s->missing = 0;
	s->want_meta = (flags & STAT_WANT_META) != 0;
	s->want_full = (flags & STAT_WANT_FULL) != 0;
	err = auth_begin(r, &s->auth, GRANT_READ, bucket);
	if (err < 0) return req_fail(r, err, "cannot read from this bucket: %s", error_text(err));
	for (; s->count < count; s->count++) {
		struct stat_entry *e = &s->entries[s->count];

		err = ref_parse(&c, &s->auth, &e->ref);
		if (err == -GRANARY_EPROTO)
			return req_fail(r, err, "STAT: ref %u does not parse", s->count);
		e->err = (int16_t)err;
		e->meta = NULL;
		e->meta_len = 0;
		e->is_dir = e->is_missing = 0;
	}
	return cur_done(&c) ? STEP_NEXT
			    : req_fail(r, -GRANARY_EPROTO, "STAT: bytes follow the last ref");
}

/* 0; EAGAIN: a worker has to; or the entry's error. */
static int entry_find(struct stat_req *s, struct stat_entry *e, const struct ns_probe *probe)
{
	int err = ns_probe_end(s->auth.store->ns, probe, &e->loc);

	if (err == 0 && e->ref.by == NS_BY_ID)
		err = auth_entry(&s->auth, e->loc.dir_id, slice_of(NULL, 0), false);
	if (err == 0 && ((s->want_meta && e->loc.has_meta) || s->want_full)) err = -GRANARY_EAGAIN;
	return err;
}

static void find_chunk(struct stat_req *s, struct stat_entry *entries, uint32_t count)
{
	struct ns *ns = s->auth.store->ns;
	struct ns_probe probes[STAT_CHUNK], *before = NULL;

	for (uint32_t i = 0; i < count; i++) {
		struct stat_entry *e = &entries[i];

		if (e->err == 0) e->err = (int16_t)auth_ref(&s->auth, &e->ref, false);
		probes[i].loc = (struct loc_probe){ .id = 0 };
		if (e->err < 0) continue;
		ns_probe_begin(ns, &e->ref, before, &probes[i]);
		before = &probes[i];
	}
	ns_probes_fetch(probes, count);
	for (uint32_t i = 0; i < count; i++)
		if (entries[i].err == 0) ns_probe_next(ns, &probes[i]);
	ns_probes_fetch(probes, count);
	for (uint32_t i = 0; i < count; i++) {
		struct stat_entry *e = &entries[i];

		if (e->err == 0) e->err = (int16_t)entry_find(s, e, &probes[i]);
		e->is_missing = e->err == -GRANARY_EAGAIN;
		s->missing += e->is_missing;
	}
}

/* ---- worker ---- */

void stat_entry_take(struct stat_entry *e, const struct ns_place *place, const struct object *o, bool with_meta)
{
	struct obj_loc *l = &e->loc;

	memset(l, 0, sizeof(*l));
	l->id = o->id;
	l->version = o->version;
	l->size = o->size;
	l->mtime_ns = o->mtime_ns;
	l->dir_id = place->dir;
	l->mode = o->mode;
	l->uid = o->uid;
	l->gid = o->gid;
	l->has_hash = o->has_hash;
	l->hash = o->hash;
	e->is_dir = o->is_dir;
	e->ctime_ns = o->ctime_ns;
	e->atime_ns = o->atime_ns != 0 ? o->atime_ns : o->mtime_ns;
	e->rdev = o->rdev;
	e->nlink = o->nlink;
	e->holes = o->has_hash ? 0 : o->holes;
	if (!with_meta || o->meta.len == 0) return;
	e->meta = req_alloc(o->meta.len);
	memcpy(e->meta, o->meta.p, o->meta.len);
	e->meta_len = (uint16_t)o->meta.len;
}

static int entry_look(struct stat_req *s, struct stat_entry *e)
{
	struct ns *ns = s->auth.store->ns;
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;
	int err = auth_ref(&s->auth, &e->ref, true);

	if (err == 0) err = ns_lookup(ns, &e->ref, &place, &o, &value);
	if (err < 0) return err;
	if (e->ref.by == NS_BY_ID) err = auth_place(&s->auth, &place);
	if (err == 0) stat_entry_take(e, &place, &o, s->want_meta);
	kv_value_release(&value);
	return err;
}

static void stat_work(struct req *r)
{
	struct stat_req *s = stat_of(r);

	for (uint32_t i = 0; i < s->count; i++)
		if (s->entries[i].is_missing)
			s->entries[i].err = (int16_t)entry_look(s, &s->entries[i]);
}

static enum step_result stat_find(struct req *r)
{
	struct stat_req *s = stat_of(r);

	for (uint32_t i = 0; i < s->count; i += STAT_CHUNK)
		find_chunk(s, &s->entries[i], s->count - i < STAT_CHUNK ? s->count - i : STAT_CHUNK);
	if (s->missing == 0) return STEP_NEXT;
	r->step++;
	return req_work(r, stat_work);
}

/* ---- answer ---- */

uint8_t stat_kind_of(bool is_dir, uint32_t mode)
{
	if (is_dir) return STAT_DIR;
	switch (mode & S_IFMT) {
	case S_IFLNK: return STAT_SYMLINK;
	case S_IFIFO: return STAT_FIFO;
	case S_IFSOCK: return STAT_SOCKET;
	case S_IFCHR: return STAT_CHAR;
	case S_IFBLK: return STAT_BLOCK;
	default: return STAT_FILE;
	}
}

void stat_entry_write(struct wr *w, const struct stat_entry *e, bool full)
{
	const struct obj_loc *l = &e->loc;

	wr_u16(w, (uint16_t)-e->err);
	if (e->err < 0) return;
	wr_u8(w, stat_kind_of(e->is_dir, l->mode));
	uint64_t holes = full ? e->holes : 0;
	wr_u8(w, (uint8_t)((l->has_hash ? STAT_HAS_HASH : 0) | (e->meta_len > 0 ? STAT_HAS_META : 0) |
			   (holes > 0 ? STAT_HAS_HOLES : 0)));
	wr_u64(w, l->id);
	wr_u64(w, l->version);
	wr_u64(w, l->size);
	wr_u64(w, l->mtime_ns);
	wr_u64(w, l->dir_id);
	wr_u32(w, l->mode);
	wr_u32(w, l->uid);
	wr_u32(w, l->gid);
	wr_u64(w, l->has_hash ? l->hash.lo : holes);
	wr_u64(w, l->has_hash ? l->hash.hi : 0);
	if (full) {
		wr_u64(w, e->ctime_ns);
		wr_u64(w, e->atime_ns);
		wr_u64(w, e->rdev);
		wr_u32(w, e->nlink);
	}
	if (e->meta_len > 0) wr_bytes16(w, slice_of(e->meta, e->meta_len));
}

static enum step_result stat_answer(struct req *r)
{
	struct stat_req *s = stat_of(r);
	size_t cap = 4;
	struct answer *a;
	struct wr w;

	for (uint32_t i = 0; i < s->count; i++)
		cap += STAT_FIXED_SIZE + STAT_FULL_SIZE +
		       (s->entries[i].meta_len > 0 ? 2u + s->entries[i].meta_len : 0u);
	a = answer_new(r, cap);
	w = wr_of(a->meta, cap);
	wr_u32(&w, s->count);
	for (uint32_t i = 0; i < s->count; i++) stat_entry_write(&w, &s->entries[i], s->want_full);
	a->meta_len = (uint32_t)wr_len(&w);
	stat_add(&r->local->stats->entries[OP_STAT], s->count);
	answer_send(r, a, true);
	return STEP_DONE;
}

static void stat_cleanup(struct req *r)
{
	struct stat_req *s = stat_of(r);

	for (uint32_t i = 0; s != NULL && i < s->count; i++) free(s->entries[i].meta);
	free(s);
	r->body = NULL;
}

static const struct req_step stat_steps[] = { { "parse", stat_parse }, { "find", stat_find },
	{ "answer", stat_answer } };
const struct req_kind stat_kind = {
	.op = OP_STAT,
	.sees_own = true,
	.name = "stat",
	.action = GRANT_READ,
	.steps = stat_steps,
	.step_count = 3,
	.cleanup = stat_cleanup,
};
