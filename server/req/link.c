/* SPDX-License-Identifier: Apache-2.0 */
/* link.c -- symbolic links, special files, hard links (PROTOCOL 5.13). */
#include <sys/stat.h>

#include "common/error.h"
#include "meta/ns_file.h"
#include "req/name_req.h"

/* ---- make: a name that has no bytes ---- */

struct make_req {
	struct name_req n;
	struct ns_make make;
};

static struct make_req *make_of(const struct req *r)
{
	return r->body;
}

static const struct mutation_ops make_ops, link_ops;

static enum step_result make_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct make_req *m;
	int err;

	if (name_begin(r, &c, &make_ops, sizeof(*m), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	m = make_of(r);
	err = ref_parse(&c, &m->n.auth, &m->n.ref);
	m->make.mode = cur_u32(&c) & (S_IFMT | 07777);
	m->make.uid = cur_u32(&c);
	m->make.gid = cur_u32(&c);
	m->make.rdev = cur_u64(&c);
	m->make.target = cur_bytes16(&c);
	if (m->n.ref.by == NS_BY_ID) err = -GRANARY_EPROTO;
	return name_parsed(r, &c, err);
}

static int make_plan(struct req *r, struct ns_plan *plan)
{
	struct make_req *m = make_of(r);
	int err = auth_ref(&m->n.auth, &m->n.ref, true);

	m->make.ref = m->n.ref;
	if (err == 0) err = ns_plan_make(plan, &m->make);
	m->n.m.first_id = m->make.id;
	m->n.m.first_version = m->make.version;
	return name_failed(r, &m->n.auth, &m->n.ref, err);
}

static size_t make_meta_cap(const struct req *r)
{
	(void)r;
	return 3 * 8;
}

static void make_answer(struct req *r, struct wr *w)
{
	const struct make_req *m = make_of(r);

	wr_u64(w, m->n.m.first_id);
	wr_u64(w, m->n.m.first_version);
	wr_u64(w, m->make.dir);
}

static bool make_list(const struct req *r, enum retry_field field, uint64_t *out)
{
	if (field != RETRY_DIR) return false;
	out[0] = make_of(r)->make.dir;
	return true;
}

static void make_replay(struct req *r, const struct retry_row *row)
{
	(void)retry_row_get(row, RETRY_DIR, 0, &make_of(r)->make.dir);
}

static const struct mutation_ops make_ops = { .plan = make_plan,
	.answer = make_answer,
	.meta_cap = make_meta_cap,
	.list = make_list,
	.replay = make_replay };
static const struct req_step make_steps[] = { { "parse", make_begin }, MUTATION_STEPS };
const struct req_kind make_kind = NAME_KIND("mknod", OP_MAKE, GRANT_WRITE, make_steps);

/* ---- link: who has the new name may read and write the file through it, so he needs both where it is now ---- */

static enum step_result link_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct name_req *n;
	int err, err_to;

	if (name_begin(r, &c, &link_ops, sizeof(*n), GRANT_READ | GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	n = name_of(r);
	err = ref_parse(&c, &n->auth, &n->ref);
	err_to = err == -GRANARY_EPROTO ? 0 : ref_parse(&c, &n->auth_to, &n->to);
	if (err == 0) err = err_to;
	if (n->to.by == NS_BY_ID) err = -GRANARY_EPROTO;
	return name_parsed(r, &c, err);
}

static int link_plan(struct req *r, struct ns_plan *plan)
{
	struct name_req *n = name_of(r);
	struct ns_ref from = n->ref;
	char name[KEY_LEN_MAX];
	int err = auth_ref_found(&n->auth, &from, name);

	if (err < 0) return name_failed(r, &n->auth, &n->ref, err);
	err = auth_ref(&n->auth_to, &n->to, true);
	if (err == 0) err = ns_plan_link(plan, &from, &n->to, &n->m.first_id);
	return name_failed(r, &n->auth_to, &n->to, err);
}

static size_t link_meta_cap(const struct req *r)
{
	(void)r;
	return 8;
}

static void link_answer(struct req *r, struct wr *w)
{
	wr_u64(w, name_of(r)->m.first_id);
}

static const struct mutation_ops link_ops = {
	.plan = link_plan, .answer = link_answer, .meta_cap = link_meta_cap
};
static const struct req_step link_steps[] = { { "parse", link_begin }, MUTATION_STEPS };
const struct req_kind link_kind = NAME_KIND("link", OP_LINK, GRANT_WRITE, link_steps);
