/* SPDX-License-Identifier: Apache-2.0 */
/* ns_dataset.c -- datasets: directories that are placement groups of their own (FORMAT 5.2, tag 22). ns_plan_mkdir
 * marks one. */
#include "meta/ns_holder.h"

struct datasets {
	struct ns *ns;
	uint64_t bucket;
	int (*each)(void *arg, uint64_t bucket, struct slice path, uint64_t id);
	void *arg;
};

static int dataset_row(void *arg, struct slice key, struct slice value)
{
	const struct datasets *d = arg;
	char path[KEY_LEN_MAX + 1];
	uint64_t bucket = 0, id;
	struct object o;
	size_t len;
	int err = key.len == 9 ? object_decode(value, &o) : -GRANARY_ECORRUPT;
	if (err < 0 || !o.is_dir || !o.is_dataset || (d->bucket != 0 && o.bucket != d->bucket))
		return err;
	id = be64_get(key.p + 1);
	err = ns_dir_path(d->ns, id, &bucket, path, sizeof(path), &len);
	if (err == -GRANARY_ENOTFOUND || err == -GRANARY_ETOOBIG)
		return 0; /* removed meanwhile; or a path that no key has */
	return err < 0 ? err : d->each(d->arg, bucket, slice_of(path, len), id);
}

int ns_dataset_each(struct ns *ns, uint64_t bucket,
		    int (*each)(void *arg, uint64_t bucket, struct slice path, uint64_t id), void *arg)
{
	struct datasets d = { ns, bucket, each, arg };
	return rows_scan(ns, slice_str("i"), dataset_row, &d);
}

/* The mark goes from both rows; the entry that makes it explicit stays. */
static int dataset_unmark(struct ns_plan *plan, uint64_t seen, const struct spot *s, uint64_t id, struct slice row)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice key = row_entry(buf, s->dir.d.id, s->name, true), encoded;
	struct kv_value value;
	struct object o;
	int err = object_decode(row, &o);
	if (err < 0 || !o.is_dataset)
		return err < 0 ? err : -GRANARY_ENOTFOUND;
	plan_state_id(plan, seen, key, id);
	o.is_dataset = false;
	err = plan_encode(plan, &o, &encoded);
	if (err < 0)
		return err;
	plan_put_row(plan, key, encoded);
	plan->has_moved_dirs = plan->bumps_paths = true; /* its group is another now */
	err = row_get_object(plan->ns, plan, row_inode(buf, id), &o, &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_EBUSY : err;
	key = row_inode(buf, id);
	plan_state_version(plan, seen, key, o.version);
	o.version = ids_version(plan->ns->ids);
	o.is_dataset = false;
	o.ctime_ns = plan->now_ns;
	err = plan_encode(plan, &o, &encoded);
	if (err == 0)
		plan_put_dir(plan, key, encoded, false);
	row_release(&value);
	return err < 0 ? err : plan->error;
}

int ns_plan_dataset_end(struct ns_plan *plan, const struct ns_ref *ref)
{
	uint8_t buf[ROW_KEY_MAX];
	uint64_t seen = kv_seq(plan->ns->kv), id;
	struct kv_value value;
	struct spot s;
	int err = ref->by == NS_BY_ID ? -GRANARY_EINVAL : spot_find(plan->ns, plan, ref, true, &s);
	if (err < 0)
		return err;
	if (s.missing.len > 0)
		return -GRANARY_ENOTFOUND;
	err = row_get(plan->ns, plan, row_entry(buf, s.dir.d.id, s.name, true), &value);
	if (err < 0)
		return err;
	err = value_u64(value.v, TAG_ID, 0, &id) ? dataset_unmark(plan, seen, &s, id, value.v) : -GRANARY_ECORRUPT;
	row_release(&value);
	return err;
}
