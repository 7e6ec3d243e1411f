/* SPDX-License-Identifier: Apache-2.0 */
/* namespace.c -- mkdir, rmdir, rename (PROTOCOL 5.6): one name, one commit, one status. */
#include "req/name_req.h"

static const struct mutation_ops mkdir_ops, rmdir_ops, rename_ops;

/* ---- mkdir ---- */

static enum step_result mkdir_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct name_req *n;
	int err;

	if (name_begin(r, &c, &mkdir_ops, sizeof(*n), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
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

	if (name_begin(r, &c, &rmdir_ops, sizeof(struct name_req), GRANT_DELETE) == STEP_DONE) return STEP_DONE;
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
 * where they are now; an exchange is a rename both ways ---- */

static int exchange_auth(struct req *r, struct slice bucket)
{
	struct name_req *n = name_of(r);
	int err = auth_begin(r, &n->auth, GRANT_READ | GRANT_WRITE | GRANT_DELETE, bucket);

	if (err == 0) err = auth_begin(r, &n->auth_to, GRANT_READ | GRANT_WRITE | GRANT_DELETE, bucket);
	return err;
}

static enum step_result rename_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len), from_bucket = c;
	struct name_req *n;
	int err, err_to;

	if (name_begin(r, &c, &rename_ops, sizeof(*n), GRANT_READ | GRANT_DELETE) == STEP_DONE)
		return STEP_DONE;
	n = name_of(r);
	err = ref_parse(&c, &n->auth, &n->ref);
	err_to = err == -GRANARY_EPROTO ? 0 : ref_parse(&c, &n->auth_to, &n->to);
	n->flags = cur_flags(&c, RENAME_NO_REPLACE | RENAME_SWAP);
	if (err == 0) err = err_to;
	if (n->to.by == NS_BY_ID || n->flags == (RENAME_NO_REPLACE | RENAME_SWAP)) err = -GRANARY_EPROTO;
	if (err == 0 && n->flags == RENAME_SWAP) err = exchange_auth(r, cur_bytes16(&from_bucket));
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
	if (n->flags == RENAME_SWAP)
		err = ns_plan_exchange(plan, &from, &n->to);
	else
		err = ns_plan_rename(plan, &from, &n->to, n->flags == RENAME_NO_REPLACE);
	return name_failed(r, &n->auth, &n->ref, err);
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
