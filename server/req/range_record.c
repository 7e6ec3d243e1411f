/* SPDX-License-Identifier: Apache-2.0 */
/* range_record.c -- see range_record.h. */
#include "req/range_record.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "meta/rows.h"
#include "pack/by_record.h"
#include "req/kind.h"

static void record_done(struct task *task)
{
	struct range_record *r = container_of(task, struct range_record, task);

	r->done(r);
}

static void record_work(struct task *task)
{
	struct range_record *r = container_of(task, struct range_record, task);
	struct store *store = r->local->store;
	struct by_record rec = { .data = malloc(EXTENT_LEN_MAX) };
	uint32_t at = 0;

	r->err = rec.data != NULL ? by_record_find(store->packs, store->kv, r->pack, r->offset, r->len, &rec, &at)
				  : -GRANARY_ENOMEM;
	if (r->err == 0) r->data = malloc(r->len); /* what waits to be sent is no more than was asked for */
	if (r->err == 0 && r->data == NULL) r->err = -GRANARY_ENOMEM;
	if (r->err == 0) memcpy(r->data, rec.data + at, r->len);
	if (r->err == 0 && rec.is_other) (void)store_repair(store, r->pack, true, "read");
	free(rec.data);
	r->task.fn = record_done;
	reactor_post(r->local->reactor, &r->task);
}

void range_record_start(struct range_record *r)
{
	r->data = NULL;
	r->task.fn = record_work;
	workers_post(r->local->store->workers, &r->task);
}
