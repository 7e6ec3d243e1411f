/* SPDX-License-Identifier: Apache-2.0 */
/* ns_adopt.c -- directories under ids that they had before. */
#include <sys/stat.h>

#include "meta/ns_holder.h"

int ns_plan_adopt_dir(struct ns_plan *plan, uint64_t bucket, struct slice path, uint64_t id, bool dataset)
{
	uint8_t buf[ROW_KEY_MAX];
	const struct dir_attributes a = { .mode = S_IFDIR | 0755, .is_dataset = dataset };
	struct ns_ref ref = { .by = NS_BY_KEY, .bucket = bucket, .name = path };
	uint64_t seen = kv_seq(plan->ns->kv);
	struct kv_value value;
	struct spot s;
	int err = path.len > 0 ? spot_make(plan->ns, plan, &ref, true, &s) : -GRANARY_EINVAL;
	if (err == 0)
		err = plan_state_unmade(plan, seen, id);
	if (err < 0)
		return err == -GRANARY_EBUSY ? -GRANARY_EEXIST : err;
	if (s.missing.len == 0) {
		err = row_get(plan->ns, plan, row_entry(buf, s.dir.d.id, s.name, true), &value);
		row_release(&value);
		if (err != -GRANARY_ENOTFOUND)
			return err == 0 ? -GRANARY_EEXIST : err;
	}
	err = plan_make_dirs(plan, seen, &s);
	if (err == 0)
		err = plan_dir_gains(plan, seen, &s.dir);
	if (err < 0)
		return err;
	plan_state_absent(plan, seen, row_entry(buf, s.dir.d.id, s.name, true));
	return plan_new_dir(plan, s.dir.d.bucket, s.dir.d.id, s.name, id, &a);
}

void ns_plan_set_unlimited(struct ns_plan *plan)
{
	plan->is_unlimited = true;
}
