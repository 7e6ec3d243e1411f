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
	uint32_t pack, offset, length, crc;
}; /* pack: index into build.packs, or HOLE */
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
				`lists`; value 1 sequence */
	struct spool *lists; /* of samples that are not one extent: for each field its count and its
				extents */
	struct spool *names; /* keys in order: bytes shared with the one before, others, bytes */
	uint8_t last_key[KEY_LEN_MAX];
	uint32_t last_key_len;
	uint64_t scanned;
	/* directories: lengths of the paths of those that were counted, from the top */
	uint8_t dir_key[KEY_LEN_MAX];
	uint32_t dir_len, dir_depth, dir_lens[KEY_LEN_MAX + 1];
	uint64_t dir_run, dir_run_max;
	struct snap_manifest manifest;
	uint32_t page_cap, names_cap;
	struct group *group;
};
#define ROW_LISTED (UINT64_C(1) << 63)

/* snapshot_scan.c */
bool build_is_marker(struct slice key, const struct object *o);
int build_scan(struct build *b);
/* Appends the extents of o to the sample at hand as one field. */
int build_take_extents(
	struct build *b, struct slice key, const struct object *o, struct build_field *out);
/* The sample at hand: K fields in b->fields, and their keys, ascending. */
int build_sample(struct build *b, const struct slice *keys);
void build_count_directory(struct build *b, struct slice key);

/* snapshot_group.c */
int build_group_begin(struct build *b); /* finds out the fields: a scan of its own */
int build_group_file(struct build *b, struct slice key, const struct object *o); /* in key order */
int build_group_end(struct build *b);
void build_group_free(struct build *b);
