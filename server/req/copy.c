/* SPDX-License-Identifier: Apache-2.0 */
/* copy.c -- copies by reference, objects out of parts (PROTOCOL 5.14, 5.15): one commit, no bytes. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "meta/ns_file.h"
#include "req/name_req.h"

/* What COPY and UPLOAD_COMPLETE answer, also from the retry row. */
struct placed {
	uint64_t id, version, dir, replaced, size;
};

static void placed_write(struct wr *w, const struct placed *p)
{
	wr_u64(w, p->id);
	wr_u64(w, p->version);
	wr_u64(w, p->dir);
	wr_u64(w, p->replaced);
	wr_u64(w, p->size);
}

static bool placed_list(const struct placed *p, enum retry_field field, uint64_t *out)
{
	switch (field) {
	case RETRY_DIR: *out = p->dir; return true;
	case RETRY_REPLACED: *out = p->replaced; return true;
	case RETRY_SIZE: *out = p->size; return true;
	default: return false;
	}
}

static void placed_replay(struct placed *p, const struct mutation *m, const struct retry_row *row)
{
	p->id = m->first_id;
	p->version = m->first_version;
	(void)retry_row_get(row, RETRY_DIR, 0, &p->dir);
	(void)retry_row_get(row, RETRY_REPLACED, 0, &p->replaced);
	(void)retry_row_get(row, RETRY_SIZE, 0, &p->size);
}

static size_t placed_meta_cap(const struct req *r)
{
	(void)r;
	return 5 * 8;
}

/* ---- copy ---- */

struct copy_req {
	struct name_req n;
	struct ns_copy copy;
	struct placed placed;
};

static struct copy_req *copy_of(const struct req *r)
{
	return r->body;
}

static const struct mutation_ops copy_ops, create_ops, complete_ops, abort_ops;

static enum step_result copy_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket;
	struct copy_req *x;
	int err, err_to;

	if (name_begin(r, &c, &copy_ops, sizeof(*x), GRANT_READ) == STEP_DONE) return STEP_DONE;
	x = copy_of(r);
	err = ref_parse(&c, &x->n.auth, &x->n.ref);
	x->copy.from_version = cur_u64(&c);
	bucket = cur_bytes16(&c);
	if (cur_ok(&c) && bucket.len > 0) {
		err_to = auth_begin(r, &x->n.auth_to, GRANT_WRITE, bucket);
		if (err_to < 0) return req_fail(r, err_to, "cannot write to the other bucket: %s", error_text(err_to));
		x->n.m.relaxed = x->n.auth_to.bucket.relaxed != 0;
	}
	err_to = err == -GRANARY_EPROTO ? 0 : ref_parse(&c, &x->n.auth_to, &x->n.to);
	x->copy.condition = (enum ns_condition)cur_u8(&c);
	x->copy.if_version = cur_u64(&c);
	if (err == 0) err = err_to;
	if (x->n.to.by == NS_BY_ID || x->copy.condition > NS_IF_VERSION) err = -GRANARY_EPROTO;
	return name_parsed(r, &c, err);
}

static int copy_plan(struct req *r, struct ns_plan *plan)
{
	struct copy_req *x = copy_of(r);
	char name[KEY_LEN_MAX];
	int err;

	x->copy.from = x->n.ref;
	x->copy.to = x->n.to;
	err = auth_ref_found(&x->n.auth, &x->copy.from, name);
	if (err < 0) return name_failed(r, &x->n.auth, &x->n.ref, err);
	err = auth_ref(&x->n.auth_to, &x->n.to, true);
	if (err == 0) err = ns_plan_copy(plan, &x->copy);
	x->n.m.first_id = x->copy.id;
	x->n.m.first_version = x->copy.version;
	x->placed = (struct placed){ x->copy.id, x->copy.version, x->copy.dir, x->copy.replaced, 0 };
	if (err == -GRANARY_ECHANGED) { /* for good: nothing is to be planned again */
		req_set_error(r, err, "copy: the source has another version");
		return -GRANARY_EPRECONDITION;
	}
	return name_failed(r, &x->n.auth_to, &x->n.to, err);
}

static void copy_answer(struct req *r, struct wr *w)
{
	placed_write(w, &copy_of(r)->placed);
}
static bool copy_list(const struct req *r, enum retry_field field, uint64_t *out)
{
	return placed_list(&copy_of(r)->placed, field, out);
}
static void copy_replay(struct req *r, const struct retry_row *row)
{
	placed_replay(&copy_of(r)->placed, &copy_of(r)->n.m, row);
}

static const struct mutation_ops copy_ops = { .plan = copy_plan,
	.answer = copy_answer,
	.meta_cap = placed_meta_cap,
	.list = copy_list,
	.replay = copy_replay };
static const struct req_step copy_steps[] = { { "parse", copy_begin }, MUTATION_STEPS };
const struct req_kind copy_kind = NAME_KIND("copy", OP_COPY, GRANT_WRITE, copy_steps);

/* ---- the beginning of an upload ---- */

struct upload_req {
	struct name_req n;
	struct ns_upload_start start;
	struct ns_upload_finish finish;
	struct ns_part *parts;
	struct placed placed;
	char key[2 * KEY_LEN_MAX + 1];
};

static struct upload_req *upload_of(const struct req *r)
{
	return r->body;
}

static enum step_result create_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct upload_req *u;
	int err;

	if (name_begin(r, &c, &create_ops, sizeof(*u), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	u = upload_of(r);
	err = ref_parse(&c, &u->n.auth, &u->n.ref);
	u->start.mode = cur_u32(&c);
	u->start.uid = cur_u32(&c);
	u->start.gid = cur_u32(&c);
	u->start.meta = cur_bytes16(&c);
	if (u->n.ref.by == NS_BY_ID) err = -GRANARY_EPROTO;
	return name_parsed(r, &c, err);
}

/* The key string of a ref by name: that of its directory now, and the name. */
static int key_of(struct req *r, struct upload_req *u)
{
	size_t len = 0;
	int err;

	if (u->n.ref.by == NS_BY_KEY) {
		u->start.key = u->n.ref.name;
		u->start.bucket = u->n.ref.bucket;
		return 0;
	}
	err = ns_dir_path(r->store->ns, u->n.ref.dir, &u->start.bucket, u->key, KEY_LEN_MAX + 1, &len);
	if (err < 0) return err;
	memcpy(u->key + len, u->n.ref.name.p, u->n.ref.name.len);
	u->start.key = slice_of(u->key, len + u->n.ref.name.len);
	return 0;
}

static int create_plan(struct req *r, struct ns_plan *plan)
{
	struct upload_req *u = upload_of(r);
	int err = auth_ref(&u->n.auth, &u->n.ref, true);

	u->start.ref = u->n.ref;
	if (err == 0) err = key_of(r, u);
	if (err == 0) err = ns_plan_upload_start(plan, &u->start);
	u->n.m.first_id = u->start.id;
	return name_failed(r, &u->n.auth, &u->n.ref, err);
}

static size_t create_meta_cap(const struct req *r)
{
	(void)r;
	return 8;
}
static void create_answer(struct req *r, struct wr *w)
{
	wr_u64(w, upload_of(r)->n.m.first_id);
}

static const struct mutation_ops create_ops = {
	.plan = create_plan, .answer = create_answer, .meta_cap = create_meta_cap
};
static const struct req_step create_steps[] = { { "parse", create_begin }, MUTATION_STEPS };
const struct req_kind upload_create_kind = NAME_KIND("upload-create", OP_UPLOAD_CREATE, GRANT_WRITE, create_steps);

/* ---- its end ---- */

/* Whoever ends an upload may write the key that it is for. */
static int upload_auth(struct upload_req *u)
{
	return auth_entry(&u->n.auth, u->finish.upload, slice_str(""), true);
}

static enum step_result complete_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct upload_req *u;
	int err;

	if (name_begin(r, &c, &complete_ops, sizeof(*u), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	u = upload_of(r);
	err = ref_parse(&c, &u->n.auth, &u->n.ref);
	u->finish.upload = cur_u64(&c);
	u->finish.condition = (enum ns_condition)cur_u8(&c);
	u->finish.if_version = cur_u64(&c);
	u->finish.count = cur_u32(&c);
	if (!cur_ok(&c) || u->n.ref.by == NS_BY_ID || u->finish.condition > NS_IF_VERSION ||
		u->finish.count == 0 || u->finish.count > UPLOAD_PARTS_MAX)
		return req_fail(r, -GRANARY_EPROTO, "upload-complete does not parse, or has not 1 to %d parts",
			UPLOAD_PARTS_MAX);
	u->parts = req_alloc(u->finish.count * sizeof(*u->parts));
	for (uint32_t i = 0; i < u->finish.count; i++) {
		u->parts[i].number = cur_u32(&c);
		u->parts[i].version = cur_u64(&c);
	}
	u->finish.parts = u->parts;
	return name_parsed(r, &c, err);
}

static int complete_plan(struct req *r, struct ns_plan *plan)
{
	struct upload_req *u = upload_of(r);
	int err = auth_ref(&u->n.auth, &u->n.ref, true);

	if (err == 0) err = upload_auth(u);
	u->finish.ref = u->n.ref;
	if (err == 0) err = ns_plan_upload_finish(plan, &u->finish);
	u->n.m.first_id = u->finish.id;
	u->n.m.first_version = u->finish.version;
	u->placed = (struct placed){
		u->finish.id, u->finish.version, u->finish.dir, u->finish.replaced, u->finish.size
	};
	if (err == -GRANARY_ECHANGED) {
		req_set_error(r, err, "upload-complete: a part has another version");
		return -GRANARY_EPRECONDITION;
	}
	return name_failed(r, &u->n.auth, &u->n.ref, err);
}

static void complete_answer(struct req *r, struct wr *w)
{
	placed_write(w, &upload_of(r)->placed);
}
static bool complete_list(const struct req *r, enum retry_field field, uint64_t *out)
{
	return placed_list(&upload_of(r)->placed, field, out);
}
static void complete_replay(struct req *r, const struct retry_row *row)
{
	placed_replay(&upload_of(r)->placed, &upload_of(r)->n.m, row);
}
static void complete_cleanup(struct req *r)
{
	if (r->body != NULL) free(upload_of(r)->parts);
	mutation_cleanup(r);
}

static const struct mutation_ops complete_ops = { .plan = complete_plan,
	.answer = complete_answer,
	.meta_cap = placed_meta_cap,
	.list = complete_list,
	.replay = complete_replay };
static const struct req_step complete_steps[] = { { "parse", complete_begin }, MUTATION_STEPS };
const struct req_kind upload_complete_kind = {
	.op = OP_UPLOAD_COMPLETE,
	.name = "upload-complete",
	.action = GRANT_WRITE,
	.mutation = true,
	.steps = complete_steps,
	.step_count = 4,
	.cleanup = complete_cleanup,
};

static enum step_result abort_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);

	if (name_begin(r, &c, &abort_ops, sizeof(struct upload_req), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	upload_of(r)->finish.upload = cur_u64(&c);
	return name_parsed(r, &c, 0);
}

static int abort_plan(struct req *r, struct ns_plan *plan)
{
	struct upload_req *u = upload_of(r);
	int err = upload_auth(u);

	if (err == 0) err = ns_plan_upload_abort(plan, u->finish.upload);
	if (err < 0 && err != -GRANARY_EBUSY)
		req_set_error(r, err, "upload %llu: %s", (unsigned long long)u->finish.upload, error_text(err));
	return err;
}

static const struct mutation_ops abort_ops = { .plan = abort_plan };
static const struct req_step abort_steps[] = { { "parse", abort_begin }, MUTATION_STEPS };
const struct req_kind upload_abort_kind = NAME_KIND("upload-abort", OP_UPLOAD_ABORT, GRANT_WRITE, abort_steps);

/* ---- listing them ---- */

struct looking {
	struct auth auth;
	uint64_t upload, after_id;
	uint32_t after, max, count;
	bool more;
	int err;
	struct slice prefix, after_key;
	uint8_t *out; /* the answer's meta */
	size_t len, cap;
};
enum { LOOK_HEAD = 1 + 4 };

static struct looking *looking_of(const struct req *r)
{
	return r->body;
}

static struct wr look_room(struct looking *l, size_t n)
{
	if (l->len + n > l->cap) {
		uint8_t *wide = req_alloc(2 * (l->len + n) + 4096);

		if (l->len > 0) memcpy(wide, l->out, l->len);
		free(l->out);
		l->out = wide;
		l->cap = 2 * (l->len + n) + 4096;
	}
	return wr_of(l->out + l->len, l->cap - l->len);
}

static int look_full(struct looking *l)
{
	if (l->count < l->max) return 0;
	l->more = true;
	return 1;
}

static int part_take(void *arg, uint32_t number, const struct object *o)
{
	struct looking *l = arg;
	struct wr w;

	if (look_full(l)) return 1;
	w = look_room(l, 64);
	wr_u32(&w, number);
	wr_u64(&w, o->version);
	wr_u64(&w, o->size);
	wr_u64(&w, o->mtime_ns);
	wr_u8(&w, o->has_hash);
	wr_u64(&w, o->has_hash ? o->hash.lo : 0);
	wr_u64(&w, o->has_hash ? o->hash.hi : 0);
	l->len += wr_len(&w);
	l->count++;
	return 0;
}

static void part_list_work(struct req *r)
{
	struct looking *l = looking_of(r);

	l->err = auth_entry(&l->auth, l->upload, slice_str(""), true);
	if (l->err == 0) l->err = ns_upload_parts(r->store->ns, l->upload, l->after, part_take, l);
}

static int upload_take(void *arg, struct slice key, uint64_t id, uint64_t created_ns)
{
	struct looking *l = arg;
	struct wr w;

	if (!auth_key(&l->auth, key)) return 0;
	if (look_full(l)) return 1;
	w = look_room(l, key.len + 32);
	wr_bytes16(&w, key);
	wr_u64(&w, id);
	wr_u64(&w, created_ns);
	l->len += wr_len(&w);
	l->count++;
	return 0;
}

static void upload_list_work(struct req *r)
{
	struct looking *l = looking_of(r);

	l->err = ns_uploads(
		r->store->ns, l->auth.bucket.id, l->prefix, l->after_key, l->after_id, upload_take, l);
}

static enum step_result looking_begin(struct req *r, struct cur *c, uint8_t action)
{
	struct looking *l = req_alloc(sizeof(*l));
	struct slice bucket = cur_bytes16(c);
	int err;

	memset(l, 0, sizeof(*l));
	r->body = l;
	err = auth_begin(r, &l->auth, action, bucket);
	if (err < 0) return req_fail(r, err, "cannot look into this bucket: %s", error_text(err));
	return STEP_NEXT;
}

static enum step_result looking_parsed(struct req *r, const struct cur *c, void (*work)(struct req *r))
{
	struct looking *l = looking_of(r);

	if (!cur_done(c) || l->max == 0 || l->max > WIRE_LIST_MAX || l->prefix.len > KEY_LEN_MAX ||
		l->after_key.len > KEY_LEN_MAX)
		return req_fail(r, -GRANARY_EPROTO, "%s does not parse, or asks not for 1 to %d entries",
			r->kind->name, WIRE_LIST_MAX);
	look_room(l, LOOK_HEAD);
	l->len = LOOK_HEAD;
	r->step++;
	return req_work(r, work);
}

static enum step_result part_list_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);

	if (looking_begin(r, &c, GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	looking_of(r)->upload = cur_u64(&c);
	looking_of(r)->after = cur_u32(&c);
	looking_of(r)->max = cur_u32(&c);
	return looking_parsed(r, &c, part_list_work);
}

static enum step_result upload_list_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct looking *l;

	if (looking_begin(r, &c, GRANT_LIST) == STEP_DONE) return STEP_DONE;
	l = looking_of(r);
	if (!l->auth.has_bucket) return req_fail(r, -GRANARY_EPROTO, "upload-list needs a bucket");
	l->prefix = cur_bytes16(&c);
	l->after_key = cur_bytes16(&c);
	l->after_id = cur_u64(&c);
	l->max = cur_u32(&c);
	return looking_parsed(r, &c, upload_list_work);
}

static enum step_result looking_answer(struct req *r)
{
	struct looking *l = looking_of(r);
	struct wr head = wr_of(l->out, LOOK_HEAD);

	if (l->err < 0) return req_fail(r, l->err, "%s: %s", r->kind->name, error_text(l->err));
	wr_u8(&head, l->more);
	wr_u32(&head, l->count);
	answer_send(r, answer_adopt(r, l->out, l->len), true);
	l->out = NULL;
	return STEP_DONE;
}

static void looking_cleanup(struct req *r)
{
	struct looking *l = looking_of(r);

	if (l != NULL) free(l->out);
	free(l);
	r->body = NULL;
}

static const struct req_step part_list_steps[] = { { "parse", part_list_parse }, { "answer", looking_answer } };
const struct req_kind part_list_kind = {
	.op = OP_PART_LIST,
	.name = "part-list",
	.action = GRANT_WRITE,
	.steps = part_list_steps,
	.step_count = 2,
	.cleanup = looking_cleanup,
};
static const struct req_step upload_list_steps[] = { { "parse", upload_list_parse }, { "answer", looking_answer } };
const struct req_kind upload_list_kind = {
	.op = OP_UPLOAD_LIST,
	.name = "upload-list",
	.action = GRANT_LIST,
	.steps = upload_list_steps,
	.step_count = 2,
	.cleanup = looking_cleanup,
};
