/* SPDX-License-Identifier: Apache-2.0 */
/* ns_attr.c -- attributes of what exists, and names that have nothing but attributes: symbolic links, special files.
 * Invariant: the version of a file says which bytes it has, so nothing here changes it. */
#include <sys/stat.h>

#include "meta/ns_file.h"
#include "meta/ns_holder.h"

int ns_file_find(struct ns *ns, const struct ns_ref *ref, struct object *out, struct kv_value *value)
{
	struct holder h;
	int err = -GRANARY_EBUSY;
	for (int tries = 0; err == -GRANARY_EBUSY && tries < WALK_TRIES; tries++)
		err = holder_find(ns, NULL, ref, &h);
	if (err < 0)
		return err;
	*out = h.o;
	*value = h.value;
	return 0;
}

int ns_plan_setattr(struct ns_plan *plan, const struct ns_ref *ref, const struct ns_setattr *a)
{
	struct holder h;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = holder_find(plan->ns, plan, ref, &h);
	if (err < 0)
		return err;
	if (a->set & NS_SET_MODE)
		h.o.mode = (h.o.mode & S_IFMT) | (a->mode & 07777);
	if (a->set & NS_SET_UID)
		h.o.uid = a->uid;
	if (a->set & NS_SET_GID)
		h.o.gid = a->gid;
	if (a->set & NS_SET_ATIME)
		h.o.atime_ns = a->atime_ns;
	if (a->set & NS_SET_MTIME)
		h.o.mtime_ns = a->mtime_ns;
	h.sets_mtime = (a->set & NS_SET_MTIME) != 0;
	h.o.ctime_ns = plan->now_ns;
	err = holder_put(plan, seen, &h);
	holder_release(&h);
	return err;
}

/* ---- extended attributes and tags ---- */

/* The pairs without `name`, then name and value where value.p is set. */
static struct slice pairs_with(struct ns_plan *plan, struct slice pairs, struct slice name, const struct slice *value)
{
	size_t cap = pairs.len + 4 + name.len + (value != NULL ? value->len : 0);
	uint8_t *p = plan_alloc(plan, cap);
	if (p == NULL)
		return slice_of(NULL, 0);
	struct wr w = wr_of(p, cap);
	struct cur c = cur_of(pairs.p, pairs.len);
	while (cur_left(&c) > 0 && cur_ok(&c)) {
		struct slice one = cur_bytes16(&c), other = cur_bytes16(&c);
		if (slice_eq(one, name))
			continue;
		wr_bytes16(&w, one);
		wr_bytes16(&w, other);
	}
	if (value != NULL) {
		wr_bytes16(&w, name);
		wr_bytes16(&w, *value);
	}
	return slice_of(p, wr_len(&w));
}

int ns_plan_xattr(struct ns_plan *plan, const struct ns_ref *ref, enum ns_xattr_mode mode, struct slice name,
		  struct slice value)
{
	struct holder h;
	struct slice old;
	uint64_t seen = kv_seq(plan->ns->kv);
	if (name.len == 0 || name.len > ROW_XATTR_NAME_MAX || memchr(name.p, 0, name.len) != NULL)
		return -GRANARY_ENAME;
	if (value.len > UINT16_MAX)
		return -GRANARY_ETOOBIG;
	int err = holder_find(plan->ns, plan, ref, &h);
	if (err < 0)
		return err;
	bool is_there = pairs_find(h.o.xattrs, name, &old);
	if (is_there && mode == NS_XATTR_CREATE)
		err = -GRANARY_EEXIST;
	else if (!is_there && (mode == NS_XATTR_REPLACE || mode == NS_XATTR_REMOVE))
		err = -GRANARY_ENOATTR;
	if (err == 0) {
		h.o.xattrs = pairs_with(plan, h.o.xattrs, name, mode == NS_XATTR_REMOVE ? NULL : &value);
		h.o.ctime_ns = plan->now_ns;
		err = h.o.xattrs.len > ROW_XATTRS_LEN_MAX ? -GRANARY_ETOOBIG : holder_put(plan, seen, &h);
	}
	holder_release(&h);
	return err;
}

int tags_check(struct slice tags)
{
	struct cur c = cur_of(tags.p, tags.len), before;
	uint32_t count;
	int err = pairs_check(tags, ROW_TAGS_LEN_MAX, &count);
	if (err < 0 || count > ROW_TAGS_MAX)
		return err < 0 ? err : -GRANARY_ETOOBIG;
	while (cur_left(&c) > 0) {
		struct slice name, value, again;
		before = cur_of(tags.p, (size_t)(c.p - tags.p));
		name = cur_bytes16(&c);
		value = cur_bytes16(&c);
		if (name.len > ROW_TAG_NAME_MAX || value.len > ROW_TAG_VALUE_MAX)
			return -GRANARY_ETOOBIG;
		if (pairs_find(slice_of(before.p, cur_left(&before)), name, &again))
			return -GRANARY_EINVAL; /* a name twice */
	}
	return 0;
}

int ns_plan_tags(struct ns_plan *plan, const struct ns_ref *ref, struct slice tags)
{
	struct holder h;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = tags_check(tags);
	if (err == 0)
		err = holder_find(plan->ns, plan, ref, &h);
	if (err < 0)
		return err;
	h.o.tags = tags;
	h.o.ctime_ns = plan->now_ns;
	err = holder_put(plan, seen, &h);
	holder_release(&h);
	return err;
}

/* ---- names that have nothing but attributes ---- */

static int make_check(const struct ns_make *m)
{
	bool is_device = S_ISCHR(m->mode) || S_ISBLK(m->mode);
	if (m->ref.by == NS_BY_ID || (m->rdev != 0 && !is_device))
		return -GRANARY_EINVAL;
	if (S_ISLNK(m->mode)) {
		if (m->target.len == 0 || memchr(m->target.p, 0, m->target.len) != NULL)
			return -GRANARY_EINVAL;
		return m->target.len > ROW_SYMLINK_LEN_MAX ? -GRANARY_ETOOBIG : 0;
	}
	if (m->target.len > 0)
		return -GRANARY_EINVAL;
	return is_device || S_ISREG(m->mode) || S_ISFIFO(m->mode) || S_ISSOCK(m->mode) ? 0 : -GRANARY_EINVAL;
}

int plan_state_no_name(struct ns_plan *plan, uint64_t seen, const struct spot *s)
{
	uint8_t buf[ROW_KEY_MAX];
	for (int is_dir = 0; is_dir < 2; is_dir++) {
		struct kv_value value;
		struct slice key = row_entry(buf, s->dir.d.id, s->name, is_dir != 0);
		int err = row_get(plan->ns, plan, key, &value);
		row_release(&value);
		if (err != -GRANARY_ENOTFOUND)
			return err < 0 ? err : -GRANARY_EEXIST;
		plan_state_absent(plan, seen, key);
	}
	return 0;
}

static int make_row(struct ns_plan *plan, uint64_t seen, const struct ns_make *m, struct spot *s)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice value;
	struct object o = {
		.id = m->id, .version = m->version, .size = m->target.len, .mtime_ns = plan->now_ns,
		.ctime_ns = plan->now_ns, .mode = m->mode, .uid = m->uid, .gid = m->gid, .nlink = 1, .rdev = m->rdev,
		.symlink = m->target,
	};
	o.written_ns = plan->ns->clock == NULL ? 0 : store_clock_now(plan->ns->clock);
	int err = plan_make_dirs(plan, seen, s);
	if (err == 0)
		err = plan_dir_gains(plan, seen, &s->dir);
	if (err == 0)
		err = plan_state_no_name(plan, seen, s);
	if (err == 0)
		err = plan_encode(plan, &o, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, row_entry(buf, s->dir.d.id, s->name, false), value);
	plan_account_bucket(plan, s->dir.d.bucket, (int64_t)o.size, 1);
	return plan->error;
}

int ns_plan_make(struct ns_plan *plan, struct ns_make *m)
{
	struct spot s;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = make_check(m);
	if (err < 0)
		return err;
	err = spot_make(plan->ns, plan, &m->ref, false, &s);
	if (err == 0 && s.name.len == 0)
		err = -GRANARY_EINVAL;
	if (err < 0)
		return err;
	m->id = ids_object(plan->ns->ids);
	m->version = ids_version(plan->ns->ids);
	err = make_row(plan, seen, m, &s);
	m->dir = s.dir.d.id;
	return err;
}
