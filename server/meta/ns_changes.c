/* SPDX-License-Identifier: Apache-2.0 */
/* ns_changes.c -- what a plan changed, for those who want to be told: read off the rows that it put and deleted. */
#include "meta/ns_priv.h"

static int entry_change(const struct plan_row *row, int (*each)(void *arg, const struct ns_changed *c), void *arg)
{
	struct ns_changed c = { .kind = row->change == ROW_PUT ? NS_CHANGED_ENTRY : NS_CHANGED_GONE };
	bool is_dir;
	if (!row_entry_parse(row->key, &c.dir, &c.name, &is_dir))
		return 0;
	if (row->change == ROW_PUT && !value_u64(row->value, TAG_ID, 0, &c.id))
		return 0;
	return each(arg, &c);
}

static int inode_change(const struct plan_row *row, int (*each)(void *arg, const struct ns_changed *c), void *arg)
{
	struct ns_changed c = { .kind = NS_CHANGED_INODE, .id = be64_get(row->key.p + 1) };
	if (row->change != ROW_PUT || !value_u64(row->value, TAG_BUCKET, 0, &c.bucket))
		return 0; /* one that goes is told by its entry */
	return each(arg, &c);
}

int ns_plan_changes(const struct ns_plan *plan, int (*each)(void *arg, const struct ns_changed *c), void *arg)
{
	int err = 0;
	for (uint32_t i = 0; err == 0 && i < plan->row_slots; i++) {
		for (const struct plan_row *row = plan->rows[i]; err == 0 && row != NULL; row = row->next) {
			if (row->change == ROW_SAME)
				continue;
			if (row->key.p[0] == 'd')
				err = entry_change(row, each, arg);
			else if (row->key.p[0] == 'i')
				err = inode_change(row, each, arg);
		}
	}
	return err;
}
