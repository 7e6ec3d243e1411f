/* SPDX-License-Identifier: Apache-2.0 */
/* ns.c -- opening and closing the namespace, what the committer tells it, and rows as a plan sees them. */
#include "meta/ns.h"

#include <assert.h>
#include <stdlib.h>

#include "meta/ns_priv.h"

int ns_open(const struct ns_options *options, struct ns **out)
{
	*out = NULL;
	struct ns *ns = calloc(1, sizeof(*ns));
	if (ns == NULL)
		return -GRANARY_ENOMEM;
	ns->magic = NS_MAGIC;
	ns->kv = options->kv;
	ns->ids = options->ids;
	ns->loc = options->loc;
	ns->clock = options->clock;
	ns->opens = options->opens;
	pthread_rwlock_init(&ns->bucket_lock, NULL);
	ns->making = making_new();
	ns->rewriting = rewriting_new();
	int err = ns->making == NULL || ns->rewriting == NULL ? -GRANARY_ENOMEM : buckets_load(ns);
	if (err < 0) {
		ns_close(&ns);
		return err;
	}
	*out = ns;
	return 0;
}

void ns_close(struct ns **nsp)
{
	struct ns *ns = *nsp;
	*nsp = NULL;
	if (ns == NULL)
		return;
	assert(ns->magic == NS_MAGIC);
	ns->magic = 0;
	keys_free(ns);
	buckets_free(ns);
	making_free(&ns->making);
	rewriting_free(&ns->rewriting);
	pthread_rwlock_destroy(&ns->bucket_lock);
	free(ns);
}

/* A touch of directory 0 says: this transaction renames or removes a directory, or changes a placement group. */
void ns_observe_begin(void *loc, uint64_t dir_id, struct slice name, uint64_t object_id)
{
	if (dir_id == 0)
		loc_path_busy(loc);
	else
		loc_busy(loc, dir_id, name, object_id);
}

void ns_observe_end(void *loc, uint64_t dir_id, struct slice name, uint64_t object_id)
{
	if (dir_id == 0)
		loc_path_ready(loc);
	else
		loc_ready(loc, dir_id, name, object_id);
}

int row_get(struct ns *ns, struct ns_plan *plan, struct slice key, struct kv_value *out)
{
	const struct plan_row *row = plan == NULL ? NULL : plan_row_find(plan, key);
	*out = (struct kv_value){ .pin = NULL };
	if (row == NULL || row->change == ROW_SAME)
		return plan != NULL && plan->may_not_block ? kv_get_cached(ns->kv, key, out)
							   : kv_get(ns->kv, key, out);
	if (row->change == ROW_DELETED)
		return -GRANARY_ENOTFOUND;
	out->v = row->value;
	return 0;
}

int row_get_object(struct ns *ns, struct ns_plan *plan, struct slice key, struct object *out, struct kv_value *value)
{
	int err = row_get(ns, plan, key, value);
	if (err < 0)
		return err;
	err = object_decode(value->v, out);
	if (err < 0)
		row_release(value);
	return err;
}

int rows_scan(struct ns *ns, struct slice prefix, int (*each)(void *arg, struct slice key, struct slice value),
	      void *arg)
{
	struct kv_iter *it = kv_iter_new_under(ns->kv, prefix);
	if (it == NULL)
		return -GRANARY_ENOMEM;
	int err = 0;
	kv_iter_seek(it, prefix);
	while (err == 0 && kv_iter_valid(it) && slice_begins(kv_iter_key(it), prefix)) {
		err = each(arg, kv_iter_key(it), kv_iter_value(it));
		kv_iter_next(it);
	}
	if (err == 0)
		err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}
