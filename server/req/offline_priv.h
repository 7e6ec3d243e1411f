/* SPDX-License-Identifier: Apache-2.0 */
/* offline_priv.h -- shared by offline*.c only. */
#pragma once

#include "req/offline.h"
#include "req/store_priv.h"

#define OFFLINE_MADE    "meta.restore"
#define OFFLINE_UNKNOWN "packs.unknown"

struct work {
	struct offline *o;
	char *why;
	size_t cap;
	struct fs *fs, *from;
	struct fs_file *lock;
	struct super super;
	bool has_super;
	struct kv *kv; /* of OFFLINE_MADE */
};

/* offline_packs.c: which packs the rows name and the directory lacks, and whose objects lie there; packs that no row
 * names go to OFFLINE_UNKNOWN. */
int offline_check_packs(struct work *w);
