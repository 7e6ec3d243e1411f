/* SPDX-License-Identifier: Apache-2.0 */
/* attr.c -- changing attributes (PROTOCOL 5.12), reading extended attributes, tags and the targets of symbolic links
 * (4.11). */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/error.h"
#include "meta/ns_file.h"
#include "req/attr_own.h"
#include "req/name_req.h"

struct attr_req {
	struct name_req n;
	struct ns_setattr set;
	struct slice name, value; /* of an extended attribute; value: all tags */
};

static struct attr_req *attr_of(const struct req *r)
{
	return r->body;
}

static const struct mutation_ops setattr_ops, xattr_ops, tags_ops;

/* Judges where the object is now; the plan follows. */
static int attr_auth(struct req *r, struct ns_ref *ref, char name[KEY_LEN_MAX])
{
	struct name_req *n = name_of(r);

	*ref = n->ref;
	return auth_ref_found(&n->auth, ref, name);
}

/* ---- setattr ---- */

static enum step_result setattr_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct ns_setattr *set;
	uint64_t now = clock_wall_ns();
	int err;

	if (name_begin(r, &c, &setattr_ops, sizeof(struct attr_req), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	set = &attr_of(r)->set;
	err = ref_parse(&c, &name_of(r)->auth, &name_of(r)->ref);
	set->set = cur_flags(&c, SETATTR_ALL);
	set->mode = cur_u32(&c);
	set->uid = cur_u32(&c);
	set->gid = cur_u32(&c);
	set->atime_ns = cur_u64(&c);
	set->mtime_ns = cur_u64(&c);
	if ((set->set & SETATTR_ATIME_NOW) != 0) {
		set->atime_ns = now;
		set->set |= SETATTR_ATIME;
	}
	if ((set->set & SETATTR_MTIME_NOW) != 0) {
		set->mtime_ns = now;
		set->set |= SETATTR_MTIME;
	}
	return name_parsed(r, &c, err);
}

static int setattr_plan(struct req *r, struct ns_plan *plan)
{
	struct attr_req *a = attr_of(r);
	char name[KEY_LEN_MAX];
	struct ns_ref ref;
	int err = attr_auth(r, &ref, name);

	if (err == 0) err = ns_plan_setattr(plan, &ref, &a->set);
	return name_failed(r, &a->n.auth, &a->n.ref, err);
}

static const struct mutation_ops setattr_ops = { .plan = setattr_plan };
static const struct req_step setattr_steps[] = { { "parse", setattr_begin }, MUTATION_STEPS };
const struct req_kind setattr_kind = NAME_KIND("setattr", OP_SETATTR, GRANT_WRITE, setattr_steps);

/* ---- extended attributes ---- */

static enum step_result xattr_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct attr_req *a;
	int err;

	if (name_begin(r, &c, &xattr_ops, sizeof(*a), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	a = attr_of(r);
	err = ref_parse(&c, &a->n.auth, &a->n.ref);
	a->n.flags = cur_u8(&c);
	a->name = cur_bytes16(&c);
	a->value = cur_bytes16(&c);
	if (a->n.flags > XATTR_REMOVE) err = -GRANARY_EPROTO;
	return name_parsed(r, &c, err);
}

static int xattr_plan(struct req *r, struct ns_plan *plan)
{
	struct attr_req *a = attr_of(r);
	char name[KEY_LEN_MAX];
	struct ns_ref ref;
	int err = attr_auth(r, &ref, name);

	if (err == 0 && own_is(a->name)) /* done when it is done twice, too */
		err = own_set(r->store, &ref, a->name, a->value, a->n.flags);
	else if (err == 0)
		err = ns_plan_xattr(plan, &ref, (enum ns_xattr_mode)a->n.flags, a->name, a->value);
	return name_failed(r, &a->n.auth, &a->n.ref, err);
}

static const struct mutation_ops xattr_ops = { .plan = xattr_plan };
static const struct req_step xattr_steps[] = { { "parse", xattr_begin }, MUTATION_STEPS };
const struct req_kind xattr_kind = NAME_KIND("xattr", OP_XATTR, GRANT_WRITE, xattr_steps);

/* ---- tags ---- */

static enum step_result tags_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct attr_req *a;
	int err;

	if (name_begin(r, &c, &tags_ops, sizeof(*a), GRANT_WRITE) == STEP_DONE) return STEP_DONE;
	a = attr_of(r);
	err = ref_parse(&c, &a->n.auth, &a->n.ref);
	a->value = cur_bytes16(&c);
	return name_parsed(r, &c, err);
}

static int tags_plan(struct req *r, struct ns_plan *plan)
{
	struct attr_req *a = attr_of(r);
	char name[KEY_LEN_MAX];
	struct ns_ref ref;
	int err = attr_auth(r, &ref, name);

	if (err == 0) err = ns_plan_tags(plan, &ref, a->value);
	return name_failed(r, &a->n.auth, &a->n.ref, err);
}

static const struct mutation_ops tags_ops = { .plan = tags_plan };
static const struct req_step tags_steps[] = { { "parse", tags_begin }, MUTATION_STEPS };
const struct req_kind tags_kind = NAME_KIND("tags", OP_TAGS, GRANT_WRITE, tags_steps);

/* ---- reading them ---- */

struct look_req {
	struct auth auth;
	struct ns_ref ref;
	uint8_t what;
	int err;
	struct slice name;
	uint8_t *out; /* malloc'd: what the answer's meta is */
	size_t len;
};

static struct look_req *look_of(const struct req *r)
{
	return r->body;
}

/* Names, and with values but for ATTR_NAMES, in blocks of pairs; the name asked for alone. */
static int look_pairs(struct look_req *l, struct slice pairs)
{
	struct cur c = cur_of(pairs.p, pairs.len);
	struct slice value;
	struct wr w;

	if (l->name.len > 0 && !pairs_find(pairs, l->name, &value)) return -GRANARY_ENOATTR;
	l->out = req_alloc(pairs.len + 1);
	w = wr_of(l->out, pairs.len + 1);
	while (cur_left(&c) > 0) {
		struct slice one = cur_bytes16(&c);

		value = cur_bytes16(&c);
		if (l->name.len > 0 && !slice_eq(l->name, one)) continue;
		wr_bytes16(&w, one);
		if (l->what != ATTR_XATTR_NAMES) wr_bytes16(&w, value);
	}
	l->len = wr_len(&w);
	return 0;
}

static int look_own(struct store *store, struct look_req *l, const struct ns_ref *ref, const struct object *o)
{
	char value[OWN_VALUE_MAX];
	int64_t len = own_get(store, ref, o, l->name, value);
	struct wr w;

	if (len < 0) return (int)len;
	l->out = req_alloc(4 + l->name.len + (size_t)len);
	w = wr_of(l->out, 4 + l->name.len + (size_t)len);
	wr_bytes16(&w, l->name);
	wr_bytes16(&w, slice_of(value, (size_t)len));
	l->len = wr_len(&w);
	return 0;
}

static int look_object(struct look_req *l, const struct object *o)
{
	if (l->what == ATTR_TAGS) return look_pairs(l, o->tags);
	if (l->what != ATTR_TARGET) return look_pairs(l, o->xattrs);
	if (!S_ISLNK(o->mode)) return -GRANARY_EINVAL;
	l->out = req_alloc(o->symlink.len + 1);
	memcpy(l->out, o->symlink.p, o->symlink.len);
	l->len = o->symlink.len;
	return 0;
}

static void look_work(struct req *r)
{
	struct look_req *l = look_of(r);
	struct ns_ref ref = l->ref;
	char name[KEY_LEN_MAX];
	struct kv_value value = { 0 };
	struct object o;

	l->err = auth_ref_found(&l->auth, &ref, name);
	if (l->err == 0) l->err = ns_file_find(r->store->ns, &ref, &o, &value);
	if (l->err < 0) return;
	l->err = l->what == ATTR_XATTRS && own_is(l->name) ? look_own(r->store, l, &ref, &o) : look_object(l, &o);
	kv_value_release(&value);
}

static enum step_result look_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	struct look_req *l = req_alloc(sizeof(*l));
	int err;

	memset(l, 0, sizeof(*l));
	r->body = l;
	err = auth_begin(r, &l->auth, GRANT_READ, bucket);
	if (err < 0) return req_fail(r, err, "cannot read from this bucket: %s", error_text(err));
	err = ref_parse(&c, &l->auth, &l->ref);
	l->what = cur_u8(&c);
	l->name = cur_bytes16(&c);
	if (err == -GRANARY_EPROTO || !cur_done(&c) || l->what < ATTR_XATTRS || l->what > ATTR_TARGET)
		return req_fail(r, -GRANARY_EPROTO, "%s does not parse", r->kind->name);
	if (err < 0) return req_fail(r, err, "invalid key or name");
	r->step++;
	return req_work(r, look_work);
}

static enum step_result look_answer(struct req *r)
{
	struct look_req *l = look_of(r);
	char name[160];

	if (l->err < 0)
		return req_fail(r, l->err, "attributes of '%s': %s", ref_text(&l->auth, &l->ref, name, sizeof(name)),
			l->err == -GRANARY_EINVAL ? "it is no symbolic link" : error_text(l->err));
	answer_send(r, answer_adopt(r, l->out, l->len), true);
	l->out = NULL;
	return STEP_DONE;
}

static void look_cleanup(struct req *r)
{
	struct look_req *l = look_of(r);

	if (l != NULL) free(l->out);
	free(l);
	r->body = NULL;
}

static const struct req_step look_steps[] = { { "parse", look_parse }, { "answer", look_answer } };
const struct req_kind attr_kind = {
	.op = OP_ATTR,
	.name = "attr",
	.action = GRANT_READ,
	.steps = look_steps,
	.step_count = 2,
	.cleanup = look_cleanup,
};
