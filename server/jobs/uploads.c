/* SPDX-License-Identifier: Apache-2.0 */
/* uploads.c -- ends uploads in parts that nobody finished (FORMAT 6.10).
 * Invariants: (1) age is store time since the upload began; (2) an end is the same transaction as that of a client, one
 * an upload: parts, row and quota go together, and one that is finished at the same time is not touched. */
#include "jobs/jobs_priv.h"

#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns_file.h"

enum { UPLOADS_A_PASS = 64, COMMIT_TRIES = 8 };

struct expired {
	uint64_t before_ns, ids[UPLOADS_A_PASS];
	uint32_t count;
};

static int each_upload(void *arg, struct slice key, uint64_t id, uint64_t created_ns)
{
	struct expired *e = arg;

	(void)key;
	if (created_ns >= e->before_ns) return 0;
	if (e->count == UPLOADS_A_PASS) return 1;
	e->ids[e->count++] = id;
	return 0;
}

static int upload_end(struct jobs *j, uint64_t id)
{
	int err = -GRANARY_EBUSY;

	for (int tries = 0; err == -GRANARY_EBUSY && tries < COMMIT_TRIES; tries++) {
		struct ns_plan *plan = ns_plan_new(j->o.ns);
		if (!plan) return -GRANARY_ENOMEM;
		err = ns_plan_upload_abort(plan, id);
		if (err == 0) err = ns_plan_finish(plan);
		if (err == 0) {
			err = kv_submit_wait(j->o.kv, ns_plan_txn(plan));
			ns_plan_committed(plan, err);
		}
		ns_plan_free(&plan);
	}
	return err == -GRANARY_ESTALE || err == -GRANARY_ENOTFOUND ? 0 : err; /* finished, or ended by its client */
}

static int bucket_sweep(struct jobs *j, const struct ns_bucket *bucket, struct expired *e)
{
	int err;

	e->count = 0;
	err = ns_uploads(j->o.ns, bucket->id, slice_of("", 0), slice_of("", 0), 0, each_upload, e);
	if (err > 0) err = 0;
	for (uint32_t i = 0; err == 0 && i < e->count && !jobs_stopping(j); i++) {
		err = upload_end(j, e->ids[i]);
		if (err == 0) log_info("ended an upload that nobody finished; bucket=%s upload=%llu", bucket->name,
			(unsigned long long)e->ids[i]);
	}
	return err;
}

int uploads_sweep(struct jobs *j)
{
	uint64_t now = store_clock_now(j->o.clock);
	struct expired e = { .before_ns = now - j->o.upload_expire_ns };
	struct ns_bucket bucket;
	char after[BUCKET_LEN_MAX + 1] = "";
	int first = 0;

	if (j->o.upload_expire_ns == 0 || now < j->o.upload_expire_ns) return 0;
	while (!jobs_stopping(j) && ns_bucket_list(j->o.ns, slice_str(after), &bucket, 1) == 1) {
		int err = bucket_sweep(j, &bucket, &e);
		if (first == 0) first = err;
		memcpy(after, bucket.name, sizeof(after));
	}
	return first;
}
