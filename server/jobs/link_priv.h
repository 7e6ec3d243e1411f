/* SPDX-License-Identifier: Apache-2.0 */
/* link_priv.h -- shared by link*.c only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "jobs/link.h"
#include "meta/ns.h"
#include "pack/linked.h"

struct link_task {
	struct link_task *next;
	struct link_progress p;
	char *report; /* LINK_REPORT_MAX */
	size_t report_len;
	uint32_t pauses;
	uint64_t not_before_ns;
	bool cancel;
};

struct links {
	struct links_options o;
	pthread_t thread;
	bool has_thread, stop;
	pthread_mutex_t lock; /* tasks */
	pthread_cond_t wake;
	struct link_task *first, **last;
	uint32_t count;
	_Atomic bool stopping;
};

/* link_walk.c: the whole task, from its beginning. Its counts are taken anew. */
int link_walk(struct links *l, struct link_task *t);
bool link_is_over(struct links *l, const struct link_task *t); /* stop, or cancel */

/* link_pack.c: objects become records of virtual packs, and then names. */
struct link_packer;
struct link_packing {
	struct links *l;
	struct place *place;
	uint64_t bucket, group;
	const char *bucket_name;
	/* an object was named, or was not: 0, or why */
	void (*named)(void *arg, const char *key, uint64_t size, bool is_new, int err);
	void *arg;
};
struct link_packer *link_packer_new(const struct link_packing *o);
void link_packer_free(struct link_packer **p);
/* key: the object's here; if_version: of what it takes the place of, 0: nothing must be there. */
int link_packer_add(struct link_packer *p, const char *key, const char *source_key, const struct source_object *o,
	uint64_t if_version);
int link_packer_finish(struct link_packer *p);
uint64_t link_packer_packs(const struct link_packer *p);
