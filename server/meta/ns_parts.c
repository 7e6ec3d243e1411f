/* SPDX-License-Identifier: Apache-2.0 */
/* ns_parts.c -- objects that come in parts: an upload is a directory that no name leads to, its parts are files in it.
 *
 * Invariants: (1) the upload's `i` row is there as long as parts may be put: a put below it states so, and who ends it
 * deletes the row and states that no part is left, so of a put and an end at once one comes first and the other is
 * refused; (2) its `i` row names the key that it is for: grants are judged on that; no table of paths ever holds it. */
#include <stdio.h>
#include <sys/stat.h>

#include "meta/ns_extents.h"

enum { PART_NUMBER_MAX = 99999, PART_NAME_LEN = 5 };

/* The upload's inode; the row borrows from *value. */
static int upload_get(struct ns *ns, struct ns_plan *plan, uint64_t id, struct object *o, struct kv_value *value)
{
	uint8_t buf[ROW_KEY_MAX];
	int err = row_get_object(ns, plan, row_inode(buf, id), o, value);
	if (err == 0 && o->upload_key.len == 0) {
		row_release(value);
		err = -GRANARY_ENOTFOUND;
	}
	return err == -GRANARY_ENOTFOUND ? -GRANARY_ESTALE : err;
}

int ns_upload_key(struct ns *ns, uint64_t upload, uint64_t *bucket, struct slice *key, char buf[KEY_LEN_MAX])
{
	struct object o;
	struct kv_value value;
	int err = upload_get(ns, NULL, upload, &o, &value);
	if (err < 0)
		return err;
	memcpy(buf, o.upload_key.p, o.upload_key.len);
	*key = slice_of(buf, o.upload_key.len);
	*bucket = o.bucket;
	row_release(&value);
	return 0;
}

int ns_plan_upload_start(struct ns_plan *plan, struct ns_upload_start *u)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice value;
	uint64_t seen = kv_seq(plan->ns->kv);
	if (u->key.len == 0 || u->key.len > KEY_LEN_MAX || u->key.p[u->key.len - 1] == '/')
		return -GRANARY_EINVAL;
	int err = meta_check(u->meta);
	if (err < 0)
		return err;
	u->id = ids_object(plan->ns->ids);
	struct object o = {
		.id = u->id, .version = ids_version(plan->ns->ids), .mtime_ns = plan->now_ns, .ctime_ns = plan->now_ns,
		.mode = S_IFDIR | 0700, .uid = u->uid, .gid = u->gid, .bucket = u->bucket, .nlink = 1, .is_dir = true,
		.upload_key = u->key, .meta = u->meta, .rdev = (u->mode & 07777) | S_IFREG, /* of the object to be */
	};
	o.written_ns = plan->ns->clock == NULL ? 0 : store_clock_now(plan->ns->clock);
	err = plan_encode(plan, &o, &value);
	if (err < 0)
		return err;
	plan_state_absent(plan, seen, row_inode(buf, u->id));
	plan_put_row(plan, row_inode(buf, u->id), value);
	o = (struct object){ .id = u->id, .written_ns = o.written_ns, .nlink = 1 };
	err = plan_encode(plan, &o, &value);
	if (err == 0)
		plan_put_row(plan, row_upload(buf, u->bucket, u->key, u->id), value);
	return err < 0 ? err : plan->error;
}

/* ---- ending ---- */

struct ending {
	struct ns_plan *plan;
	uint64_t seen, upload, bucket;
};

static int drop_part(void *arg, struct slice key, struct slice value)
{
	struct ending *e = arg;
	struct object o;
	struct kv_value part;
	struct slice name;
	uint64_t dir;
	bool is_dir;
	(void)value;
	if (!row_entry_parse(key, &dir, &name, &is_dir) || is_dir)
		return -GRANARY_ECORRUPT;
	int err = entry_get(e->plan->ns, e->plan, dir, name, &o, &part);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
	err = plan_drop_object(e->plan, e->seen, e->bucket, dir, name, &o);
	row_release(&part);
	return err;
}

/* All that is left of the upload goes: invariant (1). */
static int upload_end(struct ns_plan *plan, uint64_t seen, const struct object *u)
{
	uint8_t buf[ROW_KEY_MAX];
	struct ending e = { plan, seen, u->id, u->bucket };
	struct slice prefix = row_entry_prefix(buf, u->id);
	int err = plan_scan(plan, prefix, drop_part, &e);
	if (err < 0)
		return err;
	plan_state_version(plan, seen, row_inode(buf, u->id), u->version);
	plan_delete_row(plan, row_inode(buf, u->id));
	plan_delete_row(plan, row_upload(buf, u->bucket, u->upload_key, u->id));
	kv_pre_range(plan->txn, row_entry_prefix(buf, u->id), true);
	return plan->error;
}

int ns_plan_upload_abort(struct ns_plan *plan, uint64_t upload)
{
	struct object u;
	struct kv_value value;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = upload_get(plan->ns, plan, upload, &u, &value);
	if (err < 0)
		return err;
	err = upload_end(plan, seen, &u);
	row_release(&value);
	return err;
}

/* ---- finishing ---- */

static int part_add(struct ns_plan *plan, uint64_t seen, uint64_t upload, const struct ns_part *part,
		    struct object *sum, struct extent_list *list)
{
	char name[16];
	struct object o;
	struct kv_value value;
	struct slice key;
	if (part->number < 1 || part->number > PART_NUMBER_MAX)
		return -GRANARY_EINVAL;
	snprintf(name, sizeof(name), "%05u", (unsigned)part->number);
	key = slice_of(name, PART_NAME_LEN);
	int err = entry_get(plan->ns, plan, upload, key, &o, &value);
	if (err < 0)
		return err;
	if (part->version != 0 && part->version != o.version)
		err = -GRANARY_ECHANGED;
	else if (!object_has_bytes(&o))
		err = -GRANARY_ENOTFILE;
	plan_state_entry(plan, seen, upload, key, &o);
	if (err == 0)
		err = extents_gather(plan, seen, upload, key, &o, sum->size, list);
	sum->size += o.size;
	sum->holes += o.holes;
	if (sum->size > INT64_MAX)
		err = -GRANARY_ETOOBIG;
	row_release(&value);
	return err;
}

static int finish_parts(struct ns_plan *plan, uint64_t seen, struct ns_upload_finish *f, const struct object *u)
{
	struct extent_list list = { .count = 0 };
	struct placement p = { .ref = f->ref, .condition = f->condition, .if_version = f->if_version,
			       .bucket = u->bucket };
	struct object o = {
		.id = ids_object(plan->ns->ids), .version = ids_version(plan->ns->ids), .mtime_ns = plan->now_ns,
		.ctime_ns = plan->now_ns, .mode = (uint32_t)u->rdev, .uid = u->uid, .gid = u->gid, .meta = u->meta,
		.nlink = 1, .has_links = true,
	};
	int err = f->count == 0 ? -GRANARY_EINVAL : 0;
	for (uint32_t i = 0; err == 0 && i < f->count; i++) {
		if (i > 0 && f->parts[i].number <= f->parts[i - 1].number)
			return -GRANARY_EINVAL;
		err = part_add(plan, seen, u->id, &f->parts[i], &o, &list);
	}
	if (err < 0)
		return err;
	o.written_ns = plan->ns->clock == NULL ? 0 : store_clock_now(plan->ns->clock);
	o.refers = list.count > 0;
	f->id = o.id;
	f->version = o.version;
	f->size = o.size;
	err = upload_end(plan, seen, u); /* their quota first, then the object's */
	if (err == 0)
		err = plan_place(plan, seen, &p, &o, &list);
	f->dir = p.dir;
	f->replaced = p.replaced;
	return err;
}

int ns_plan_upload_finish(struct ns_plan *plan, struct ns_upload_finish *f)
{
	struct object u;
	struct kv_value value;
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = upload_get(plan->ns, plan, f->upload, &u, &value);
	if (err < 0)
		return err;
	err = finish_parts(plan, seen, f, &u);
	row_release(&value);
	return err;
}

/* ---- looking ---- */

static uint32_t part_number(struct slice name)
{
	uint32_t n = 0;
	for (size_t i = 0; i < name.len; i++) {
		if (name.len != PART_NAME_LEN || name.p[i] < '0' || name.p[i] > '9')
			return 0;
		n = 10 * n + (uint32_t)(name.p[i] - '0');
	}
	return n;
}

struct part_look {
	int (*each)(void *arg, uint32_t number, const struct object *o);
	void *arg;
	uint32_t after;
};

static int look_part(void *arg, struct slice key, struct slice value)
{
	struct part_look *l = arg;
	struct object o;
	struct slice name;
	uint64_t dir;
	bool is_dir;
	uint32_t number = row_entry_parse(key, &dir, &name, &is_dir) && !is_dir ? part_number(name) : 0;
	if (number <= l->after)
		return 0; /* one that is no part is never assembled, and goes with the upload */
	int err = object_decode(value, &o);
	return err < 0 ? err : l->each(l->arg, number, &o);
}

int ns_upload_parts(struct ns *ns, uint64_t upload, uint32_t after,
		    int (*each)(void *arg, uint32_t number, const struct object *o), void *arg)
{
	uint8_t buf[ROW_KEY_MAX];
	struct object u;
	struct kv_value value;
	struct part_look l = { each, arg, after };
	int err = upload_get(ns, NULL, upload, &u, &value);
	if (err < 0)
		return err;
	row_release(&value);
	return rows_scan(ns, row_entry_prefix(buf, upload), look_part, &l);
}

int ns_uploads(struct ns *ns, uint64_t bucket, struct slice prefix, struct slice after, uint64_t after_id,
	       int (*each)(void *arg, struct slice key, uint64_t id, uint64_t created_ns), void *arg)
{
	uint8_t buf[ROW_KEY_MAX], from_buf[ROW_KEY_MAX];
	struct slice rows = row_upload_prefix(buf, bucket);
	bool goes_on = after.len > 0 && slice_cmp(after, prefix) >= 0;
	struct slice from = row_upload(from_buf, bucket, goes_on ? after : prefix, goes_on ? after_id : 0);
	struct kv_iter *it = kv_iter_new(ns->kv, NULL);
	int err = it == NULL ? -GRANARY_ENOMEM : 0;
	if (err < 0)
		return err;
	if (!goes_on)
		from.len -= 13; /* the prefix alone: keys that go on behind it */
	for (kv_iter_seek(it, from); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice row = kv_iter_key(it), key;
		uint64_t id, created;
		if (!slice_begins(row, rows) || !row_upload_parse(row, &key, &id))
			break;
		if (!slice_begins(key, prefix)) {
			if (slice_cmp(key, prefix) > 0)
				break;
			continue;
		}
		if (slice_eq(key, after) && id <= after_id)
			continue;
		if (!value_u64(kv_iter_value(it), TAG_WRITTEN, 0, &created))
			err = -GRANARY_ECORRUPT;
		else
			err = each(arg, key, id, created);
	}
	if (err == 0)
		err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}
