/* SPDX-License-Identifier: Apache-2.0 */
/* namespace.c -- mkdir, rmdir, rename (PROTOCOL 5.6): one name, one commit, one status. */
#include <string.h>

#include "common/error.h"
#include "req/mutation.h"

struct name_req {
	struct mutation m;
	struct auth auth, auth_to; /* rename: the source's and the target's */
	struct ns_ref ref, to;
	uint32_t mode;
	uint8_t flags;
};

static struct name_req *name_of(const struct req *r)
{
	return r->body;
}

static const struct mutation_ops mkdir_ops, rmdir_ops, rename_ops;

/* Bucket and 5.1; then the caller parses on. */
static enum step_result name_begin(
	struct req *r, struct cur *c, const struct mutation_ops *ops, uint8_t actions)
{
	struct slice bucket = cur_bytes16(c);
	struct name_req *n;
	int err;

	if (mutation_begin(r, c, ops, sizeof(*n)) < 0)
		return req_fail(r, -GRANARY_EPROTO, "%s does not parse", r->kind->name);
	n = name_of(r);
	err = auth_begin(r, &n->auth, actions, bucket);
	if (err == 0) err = auth_begin(r, &n->auth_to, GRANT_WRITE, bucket);
	if (err < 0)
		return req_fail(
			r, err, "cannot %s in this bucket: %s", r->kind->name, error_text(err));
	n->m.relaxed = n->auth.bucket.relaxed != 0;
	return STEP_NEXT;
}

static enum step_result name_parsed(struct req *r, const struct cur *c, int err)
{
	if (err == -GRANARY_EPROTO || !cur_done(c))
		return req_fail(r, -GRANARY_EPROTO, "%s does not parse", r->kind->name);
	if (err < 0)
		return req_fail(r, err, "invalid key or name: 1 to %d bytes of UTF-8 without NUL",
			KEY_LEN_MAX);
	return STEP_NEXT;
}

/* The error of a plan, told with the name it is about. */
static int name_failed(struct req *r, struct auth *a, const struct ns_ref *ref, int err)
{
	char name[160];

	if (err < 0 && err != -GRANARY_EBUSY && err != -GRANARY_ECHANGED)
		req_set_error(r, err, "%s '%s': %s", r->kind->name,
			ref_text(a, ref, name, sizeof(name)), error_text(err));
	return err;
}

/* ---- mkdir ---- */

static enum step_result mkdir_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct name_req *n;
	int err;

	if (name_begin(r, &c, &mkdir_ops, GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	n = name_of(r);
	err = ref_parse(&c, &n->auth, &n->ref);
	n->mode = cur_u32(&c);
	n->flags = cur_flags(&c, MKDIR_PARENTS | MKDIR_DATASET);
	if (n->ref.by == NS_BY_ID) err = -GRANARY_EPROTO;
	return name_parsed(r, &c, err);
}

static int mkdir_plan(struct req *r, struct ns_plan *plan)
{
	struct name_req *n = name_of(r);
	int err = auth_ref(&n->auth, &n->ref, true);

	if (err == 0)
		err = ns_plan_mkdir(plan, &n->ref, n->mode, (n->flags & MKDIR_PARENTS) != 0,
			(n->flags & MKDIR_DATASET) != 0, &n->m.first_id);
	return name_failed(r, &n->auth, &n->ref, err);
}

static void mkdir_answer(struct req *r, struct wr *w)
{
	wr_u64(w, name_of(r)->m.first_id);
}
static size_t mkdir_meta_cap(const struct req *r)
{
	(void)r;
	return 8;
}

static const struct mutation_ops mkdir_ops = {
	.plan = mkdir_plan, .answer = mkdir_answer, .meta_cap = mkdir_meta_cap
};
static const struct req_step mkdir_steps[] = { { "parse", mkdir_begin }, MUTATION_STEPS };
const struct req_kind mkdir_kind = {
	.op = OP_MKDIR,
	.name = "mkdir",
	.action = GRANT_WRITE,
	.mutation = true,
	.steps = mkdir_steps,
	.step_count = 4,
	.cleanup = mutation_cleanup,
};

/* ---- rmdir ---- */

static enum step_result rmdir_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);

	if (name_begin(r, &c, &rmdir_ops, GRANT_DELETE) == STEP_DONE) return STEP_DONE;
	return name_parsed(r, &c, ref_parse(&c, &name_of(r)->auth, &name_of(r)->ref));
}

static int rmdir_plan(struct req *r, struct ns_plan *plan)
{
	struct name_req *n = name_of(r);
	struct ns_ref ref = n->ref;
	char name[KEY_LEN_MAX];
	int err = auth_ref_found(&n->auth, &ref, name);

	if (err == 0) err = ns_plan_rmdir(plan, &ref);
	return name_failed(r, &n->auth, &n->ref, err);
}

static const struct mutation_ops rmdir_ops = { .plan = rmdir_plan };
static const struct req_step rmdir_steps[] = { { "parse", rmdir_begin }, MUTATION_STEPS };
const struct req_kind rmdir_kind = {
	.op = OP_RMDIR,
	.name = "rmdir",
	.action = GRANT_DELETE,
	.mutation = true,
	.steps = rmdir_steps,
	.step_count = 4,
	.cleanup = mutation_cleanup,
};

/* ---- rename: the bytes get another name, so whoever may read there could read them: needs READ
 * where they are now ---- */

static enum step_result rename_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct name_req *n;
	int err, err_to;

	if (name_begin(r, &c, &rename_ops, GRANT_READ | GRANT_DELETE) == STEP_DONE)
		return STEP_DONE;
	n = name_of(r);
	err = ref_parse(&c, &n->auth, &n->ref);
	err_to = err == -GRANARY_EPROTO ? 0 : ref_parse(&c, &n->auth_to, &n->to);
	n->flags = cur_flags(&c, RENAME_NO_REPLACE);
	if (err == 0) err = err_to;
	if (n->to.by == NS_BY_ID) err = -GRANARY_EPROTO;
	return name_parsed(r, &c, err);
}

static int rename_plan(struct req *r, struct ns_plan *plan)
{
	struct name_req *n = name_of(r);
	struct ns_ref from = n->ref;
	char name[KEY_LEN_MAX];
	int err = auth_ref_found(&n->auth, &from, name);

	if (err < 0) return name_failed(r, &n->auth, &n->ref, err);
	err = auth_ref(&n->auth_to, &n->to, true);
	if (err < 0) return name_failed(r, &n->auth_to, &n->to, err);
	return name_failed(r, &n->auth, &n->ref,
		ns_plan_rename(plan, &from, &n->to, (n->flags & RENAME_NO_REPLACE) != 0));
}

static const struct mutation_ops rename_ops = { .plan = rename_plan };
static const struct req_step rename_steps[] = { { "parse", rename_begin }, MUTATION_STEPS };
const struct req_kind rename_kind = {
	.op = OP_RENAME,
	.name = "rename",
	.action = GRANT_WRITE,
	.mutation = true,
	.steps = rename_steps,
	.step_count = 4,
	.cleanup = mutation_cleanup,
};
