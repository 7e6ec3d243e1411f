/* SPDX-License-Identifier: Apache-2.0 */
/* offline_priv.h -- shared by offline*.c only. */
#pragma once

#include "jobs/rebuild.h"
#include "req/offline.h"
#include "req/store_priv.h"

#define OFFLINE_MADE    "meta.restore"
#define OFFLINE_UNKNOWN "packs.unknown"
enum { PLACES_MAX = OFFLINE_HOT_MAX + 1 };

struct work {
	struct offline *o;
	char *why;
	size_t cap;
	struct fs *fs, *from;
	struct fs_file *lock;
	struct super super;
	bool has_super, has_id; /* has_id: the store's id is known */
	struct kv *kv;          /* of OFFLINE_MADE */
	struct rebuild_place places[PLACES_MAX]; /* the first is the data directory */
	uint32_t place_count;
	uint32_t incarnation; /* the highest that superblocks of hot directories say */
	struct fs *looked;    /* whose packs are being looked at */
};

static inline void tell_lost(struct work *w, const char *what, const char *name)
{
	if (w->o->lost != NULL) w->o->lost(w->o->arg, what, name);
}

/* offline_packs.c: which packs the rows name and no hot directory has, and whose objects lie there; packs that no row
 * names go to OFFLINE_UNKNOWN, where they are. */
int offline_check_packs(struct work *w);

/* offline_places.c: the hot directories. */
int places_open(struct work *w);      /* the data directory, and those that are given */
int places_open_rows(struct work *w); /* those that rows of w->kv name; one that is not there is told */
void places_close(struct work *w);
int places_incarnation(struct work *w, uint32_t *out); /* of pack names and superblocks there */
/* Packs that a restore set aside go back to where they were. */
int places_take_back(struct work *w);
