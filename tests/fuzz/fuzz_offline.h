/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_offline.h -- a data directory and a backup directory in memory (the simulated disk), for targets that bring a
 * store back from hostile files. A target includes this once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "meta/kv.h"
#include "meta/loc.h"
#include "meta/ns.h"
#include "meta/ids.h"
#include "req/offline.h"
#include "sim/sim.h"
#include "sim/sim_clock.h"
#include "sim/sim_log.h"

static struct sim *sim;
static struct fs *data_fs, *backup_fs;
static const char super[] = "format=1\nstore=000102030405060708090a0b0c0d0e0f\nincarnation=9\ncreated=1\n";
static const uint8_t store_id[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

static inline void require(bool ok)
{
	if (!ok) abort();
}

static inline void world_new(void)
{
	sim = sim_new((struct sim_options){ .seed = 1 });
	require(sim != NULL);
	sim_log_keep();
	sim_clock_use(sim);
	require(fs_new_sim(sim, "/data", &data_fs) == 0 && fs_new_sim(sim, "/backup", &backup_fs) == 0);
	require(fs_put_file(data_fs, "granary.super", super, sizeof(super) - 1) == 0);
	require(fs_put_file(data_fs, "master.key", "0123456789abcdef0123456789abcdef", 32) == 0);
}

static inline void world_free(void)
{
	fs_free(&data_fs);
	fs_free(&backup_fs);
	sim_clock_use(NULL);
	sim_free(&sim);
}

static inline int fuzz_each_object(void *arg, struct slice key, const struct object *o)
{
	uint64_t *bytes = arg;

	require(key_check(key) == 0);
	if (o == NULL) return 0;
	for (uint32_t i = 1; i < o->extent_count; i++)
		require(o->extents[i - 1].logical + o->extents[i - 1].length <= o->extents[i].logical);
	*bytes += o->size;
	return 0;
}

/* What was made is metadata: its buckets can be listed, whatever is in them; or that is refused. is_ours: the product
 * itself made every row. */
static inline void check_made(bool is_ours)
{
	struct kv_options ko = { .must_exist = true };
	struct ns_options no = { .loc = loc_new(1 << 20), .ids = ids_new(0xfffff) };
	struct ns_bucket buckets[16];
	struct ns *ns = NULL;
	uint64_t bytes = 0;
	uint32_t count;

	require(no.loc != NULL && no.ids != NULL && kv_open_mem(data_fs, "meta", &ko, &no.kv) == 0);
	count = ns_open(&no, &ns) == 0 ? ns_bucket_list(ns, slice_of(NULL, 0), buckets, 16) : 0;
	require(ns != NULL || !is_ours);
	for (uint32_t i = 0; i < count; i++) {
		struct ns_list l = { .bucket = buckets[i].id, .max = NS_LIST_MAX };
		bool more;
		int err = ns_list(ns, &l, fuzz_each_object, &bytes, &more);
		require(err == 0 || !is_ours);
	}
	if (ns != NULL) ns_close(&ns);
	kv_close(&no.kv);
	ids_free(&no.ids);
	loc_free(&no.loc);
}
