/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.h -- recipes: mixtures of snapshots under a name of their own, made, found, removed (PROTOCOL 5.11).
 *
 * Invariants: (1) a name belongs to a snapshot or to a recipe, never to both; (2) a recipe's text is
 * canonical and names each source's hash, so it never changes its meaning; (3) a row `n` for each
 * source keeps its snapshot from being removed, committed with the recipe. Worker, all of it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/hash.h"

struct recipe_row;
struct snapshots;

/* May who asks read a snapshot of this prefix? */
struct recipe_asker {
	bool (*may)(void *arg, struct slice bucket_name, struct slice prefix);
	void *arg;
};
struct recipe_making {
	uint64_t bucket;
	struct slice name, text, note;
	struct recipe_asker asker;
	/* out */
	uint64_t created_ns, samples;
	uint32_t sources;
	struct hash128 hash;
};
/* 0; EXIST; INVAL: the text, or it is not canonical; NOTFOUND, CHANGED, ACCESS: a source; NOBUCKET: of
 * one; with a text that names it. */
int recipes_make(struct snapshots *s, struct recipe_making *m, char *text, size_t cap);
/* BUSY, with the job in `text`, while one holds a lease, unless forced. NOTFOUND. */
int recipes_remove(struct snapshots *s, uint64_t bucket, struct slice name, bool force, char *text,
	size_t cap);
/* 0: may read all its sources; ACCESS. A source that is gone does not count. */
int recipes_judge(struct snapshots *s, const struct recipe_row *r, const struct recipe_asker *asker);
/* The same of one by name; NOTFOUND: there is no such recipe. */
int recipes_judge_name(struct snapshots *s, uint64_t bucket, struct slice name,
	const struct recipe_asker *asker);
int recipes_list(struct snapshots *s, uint64_t bucket, struct slice after,
	int (*each)(void *arg, struct slice name, const struct recipe_row *r), void *arg);
/* 0; BUSY with the recipe that the snapshot is a source of in `text`. */
int recipes_hold(struct snapshots *s, uint64_t bucket, struct slice snapshot,
	struct hash128 manifest, char *text, size_t cap);
