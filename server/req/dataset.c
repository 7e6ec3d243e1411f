/* SPDX-License-Identifier: Apache-2.0 */
/* dataset.c -- see dataset.h. */
#include "req/dataset.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "req/store.h"

enum { TRIES = 8, LINE_MAX_LEN = BUCKET_LEN_MAX + 4 * KEY_LEN_MAX + 64 };

struct lines {
	struct store *store;
	char *buf;
	size_t cap, len;
};

static int line_add(void *arg, uint64_t bucket, struct slice path, uint64_t id)
{
	struct lines *l = arg;
	char text[4 * KEY_LEN_MAX + 1], line[LINE_MAX_LEN];
	struct ns_bucket b;
	int n;

	if (ns_bucket_by_id(l->store->ns, bucket, &b) < 0) return 0;
	n = snprintf(line, sizeof(line), "bucket=%s\tpath=%s\tid=%016" PRIx64 "\n", b.name,
		name_escape(text, sizeof(text), path), id);
	if (n < 0 || (size_t)n + l->len + sizeof("more=1\n") > l->cap) {
		snprintf(l->buf + l->len, l->cap - l->len, "more=1\n");
		return 1;
	}
	memcpy(l->buf + l->len, line, (size_t)n + 1);
	l->len += (size_t)n;
	return 0;
}

int dataset_list(struct store *store, const char *bucket, char *buf, size_t cap)
{
	struct lines l = { store, buf, cap, 0 };
	struct ns_bucket b = { .id = 0 };
	int err = bucket[0] != '\0' ? ns_bucket_find(store->ns, slice_str(bucket), &b) : 0;

	buf[0] = '\0';
	if (err < 0) {
		snprintf(buf, cap, "no such bucket: '%s'", bucket);
		return err;
	}
	err = ns_dataset_each(store->ns, b.id, line_add, &l);
	return err < 0 ? err : 0;
}

static int end_once(struct store *store, const struct ns_ref *ref)
{
	struct ns_plan *plan = ns_plan_new(store->ns);
	int err = plan != NULL ? ns_plan_dataset_end(plan, ref) : -GRANARY_ENOMEM;

	if (err == 0) err = ns_plan_finish(plan);
	if (err == 0) {
		err = kv_submit_wait(store->kv, ns_plan_txn(plan));
		ns_plan_committed(plan, err);
	}
	if (plan != NULL) ns_plan_free(&plan);
	return err;
}

int dataset_end(struct store *store, const char *place, char *buf, size_t cap)
{
	const char *slash = strchr(place, '/');
	struct ns_ref ref = { .by = NS_BY_KEY, .name = slice_str(slash != NULL ? slash + 1 : "") };
	struct ns_bucket b;
	int err = -GRANARY_ENAME;

	if (slash != NULL && slash[1] != '\0')
		err = ns_bucket_find(store->ns, slice_of(place, (size_t)(slash - place)), &b);
	if (err == 0) {
		ref.bucket = b.id;
		err = -GRANARY_EBUSY;
	}
	for (int tries = 0; err == -GRANARY_EBUSY && tries < TRIES; tries++) err = end_once(store, &ref);
	if (err == -GRANARY_ENOTFOUND)
		snprintf(buf, cap, "'%s' is no dataset; `granary dataset ls` lists them", place);
	else if (err == -GRANARY_ENAME)
		snprintf(buf, cap, "'%s' is no directory of a bucket", place);
	else if (err == 0)
		snprintf(buf, cap, "ended %s\n", place);
	return err;
}
