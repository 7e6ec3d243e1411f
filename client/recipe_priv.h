/* SPDX-License-Identifier: Apache-2.0 */
/* recipe_priv.h -- a recipe open for reading, shared by recipe_ops.c (requests), recipe.c (the handle), subset.c
 * (parts of snapshots) and the epochs that stream it.
 *
 * (1) a subset's dense ids are those of its snapshot that are in it, in their order, numbered anew from 0.
 * (2) a subset takes snapshot samples / 8 bytes and 1/32 of that more, however many patterns and keys there are. */
#pragma once

#include "common/mix.h"
#include "common/recipe.h"
#include "snapshot_priv.h"

/* ---- subset.c ---- */

struct subset {
	uint64_t samples;   /* in it */
	uint64_t words;
	uint64_t *bits;     /* of the snapshot's dense ids; NULL: all of them */
	uint64_t *before;   /* bits set before each SUBSET_GROUP words */
};
/* What `from` takes of the snapshot. 0, or an error whose text is the thread's last. */
int subset_make(struct granary_snapshot *s, const struct recipe_source *from, struct subset *out);
void subset_release(struct subset *s);
uint64_t subset_id(const struct subset *s, uint64_t index); /* index below samples -> dense id of the snapshot */

/* ---- recipe_part.c: SNAPSHOT/PREFIX, the samples below a directory, is a recipe that nobody stores ---- */

enum { PART_NAME_MAX = SNAPSHOT_NAME_MAX + 1 + GRANARY_KEY_LEN_MAX, PART_TEXT_MAX = 3 * PART_NAME_MAX };
/* Its text (docs/ORDER.md 8.5), by free(). NULL: no memory. */
char *part_recipe_text(const char *bucket, const char *name);
/* Is all of the snapshot below the directory? Then it is no part. */
bool part_is_whole(const struct granary_snapshot *s, const char *prefix);
/* The name as one word, as logs have it: bytes that are not visible ASCII, and %, as %XX; and back, in its place. */
void part_name_escape(char out[PART_TEXT_MAX + 1], const char *name);
void part_name_unescape(char *name);

/* ---- recipe.c ---- */

struct recipe_part {
	struct granary_snapshot *snapshot;
	struct subset subset;
};
struct granary_recipe {
	struct granary_client *client;
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	char name[PART_NAME_MAX + 1];
	char *text;                 /* canonical */
	struct hash128 hash;
	struct recipe recipe;
	struct recipe_part *parts;  /* one a source */
	uint64_t *part_samples;     /* the same numbers in a row, for mixtures */
	uint64_t samples;           /* of an epoch */
	uint64_t bytes;             /* of an epoch, about: means of the snapshots */
	uint64_t created_ns;
	uint32_t fields;
	uint8_t mode;               /* what `auto` means */
	struct mix asked;           /* granary_recipe_at(): the order that was asked for last */
};
/* As granary_recipe_open(). looked: there is no snapshot of that name either, which the error then says. */
int recipe_open(struct granary_client *client, const char *name, struct granary_recipe **out,
	const struct granary_call *call, bool looked);
/* The mixture of an epoch. 0; -GRANARY_EINVAL with what is wrong in `why`; -GRANARY_ENOMEM. */
int recipe_mix_init(const struct granary_recipe *r, const struct order_spec *order, struct mix *out, char *why,
	size_t cap);

/* ---- recipe_ops.c: one block of malloc(), info and its texts ---- */

int recipe_request_create(struct granary_client *c, const char *name, const char *note, const char *text, size_t len,
	struct granary_recipe_info **info, const struct granary_call *call);
