/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_build.h -- shared by the files that make one snapshot: scan (snapshot_scan.c,
 * snapshot_group.c), then pages (snapshot_build.c). */
#pragma once

#include "common/snap.h"
#include "jobs/snapshot_priv.h"
#include "jobs/spool.h"
#include "meta/ns.h"

#define HOLE UINT32_MAX

struct row_extent {
	uint32_t pack, offset, length, crc, unsummed;
}; /* pack: index into build.packs, or HOLE; unsummed: nobody knows the crc */
struct build_pack {
	uint64_t id, order;
};
struct build_field {
	uint32_t first, count;
}; /* of build.extents */

struct build {
	struct snapshots *s;
	struct snapshot_making *m;
	const struct build_options *o;
	struct kv_snapshot *view;
	struct aside *aside; /* sorts, spills and puts while the scan goes on */
	/* packs met, and a table of their ids */
	struct build_pack *packs;
	uint32_t pack_count, pack_cap, *slots, slot_count, last_pack;
	/* the sample at hand */
	struct row_extent *extents;
	uint32_t extent_count, extent_cap;
	struct build_field fields[SNAP_FIELDS_MAX];
	/* what the scan found */
	struct sorter *rows; /* by (order, pack, offset): value 0 length and crc, or where in
				`lists`; value 1 sequence and the directory's hash */
	struct spool *lists; /* of samples that are not one extent: for each field its count and its
				extents */
	struct spool *names; /* keys in order: bytes shared with the one before, others, bytes */
	uint8_t last_key[KEY_LEN_MAX];
	uint32_t last_key_len;
	uint64_t scanned;
	/* directories: lengths of the paths of those that were counted, from the top */
	uint8_t dir_key[SNAP_KEY_MAX];
	uint32_t dir_len, dir_depth, dir_lens[SNAP_KEY_MAX + 1];
	uint32_t dir_hash; /* of the directory of the sample at hand: DIR_BITS */
	uint64_t dir_runs; /* stretches of samples, as they lie, that share one */
	struct snap_manifest manifest;
	uint32_t page_cap, names_cap;
	struct group *group;
	struct splitting *split; /* NULL: a sample is a file, or several */
};
#define ROW_LISTED (UINT64_C(1) << 63)
enum { DIR_BITS = 20 }; /* below the sequence in a row's value 1 */

/* snapshot_scan.c */
bool build_is_marker(struct slice key, const struct object *o);
int build_scan(struct build *b);
/* Appends the extents of o to the sample at hand as one field. */
int build_take_extents(
	struct build *b, struct slice key, const struct object *o, struct build_field *out);
int build_extent_add(struct build *b, const struct row_extent *e); /* to the sample at hand */
/* Where a sample that begins with these stands among all. */
int build_place(struct build *b, const struct row_extent *list, uint32_t count, struct sort_row *row);
/* The sample at hand: K fields in b->fields, and their keys, ascending. */
int build_sample(struct build *b, const struct slice *keys);
void build_count_directory(struct build *b, struct slice key);
void build_note_directory(struct build *b, struct slice dir); /* that the next samples are of */

/* snapshot_group.c */
int build_group_begin(struct build *b); /* finds out the fields: a scan of its own */
int build_group_file(struct build *b, struct slice key, const struct object *o); /* in key order */
int build_group_end(struct build *b);
void build_group_free(struct build *b);
/* Members of archives: build_group_start(); all of them are counted, in their order; build_group_choose(); then all are
 * given once more: build_group_next(), their extents to the sample at hand, build_group_member(). */
int build_group_start(struct build *b);
int build_group_choose(struct build *b);
int build_group_next(struct build *b, struct slice key); /* the group before ends, if key is not of it */
/* 1: there was one of that name, which it takes the place of. */
int build_group_member(struct build *b, struct slice key, const struct build_field *field);

/* snapshot_split.c: samples that are parts of files. The scan gives it the files; then it reads their bytes, in the
 * order of the packs, and makes the samples. A row's record in `lists` is followed by the names of its fields. */
int build_split_new(struct build *b, const struct spool_options *table);
void build_split_free(struct build *b);
int build_split_file(struct build *b, struct slice key, const struct object *o);
int build_split_read(struct build *b);
int build_split_names(struct build *b, const struct slice *keys); /* of the sample at hand, to `lists` */
/* The names at `at` of `lists` are those of sample `slot` of a pack's page. */
int build_split_slot(struct build *b, uint64_t at, uint64_t pack, uint32_t slot);
int build_split_sort(struct build *b);                             /* all slots are told */
int build_split_name(struct build *b, struct snap_name *out);     /* in order of the keys; 1, 0 at the end */
/* The name as if the file were a directory of its parts: names pages end where it does. Valid until the next call. */
struct slice build_split_path(struct build *b, struct slice name);
