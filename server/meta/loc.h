/* SPDX-License-Identifier: Apache-2.0 */
/* loc.h -- tables in RAM that answer before the key-value store does: (directory id, name) -> object id, object id ->
 * location and attributes, directory path -> directory id. Bounded; sharded; any thread; never blocks on I/O.
 *
 * Invariants: (1) filled from synced rows only, and from the `d` row of the place that is named: whoever changes that
 * row touches that place; (2) a writer marks entries busy before its commit and drops them before its answer
 * (loc_busy / loc_ready, called by the committer through kv_observer); (3) a fill is kept only if no busy mark or
 * drop hit its place's counter since loc_stamp(): so no reader sees an older value after a newer one; (4) path and
 * directory entries carry the value of a counter that directory renames and removals bump (loc_path_busy /
 * loc_path_ready). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/hash.h"

enum { LOC_CRCS_MAX = 4 }; /* objects of one extent of up to 256 KiB; larger ones are read from their rows */

struct obj_loc {
	uint64_t id, version, size, mtime_ns, dir_id; /* dir_id: the directory it was found in */
	struct hash128 hash;
	uint64_t pack;
	uint64_t record;  /* bytes */
	uint32_t skip;    /* record start to data */
	uint32_t mode, uid, gid;
	uint32_t crcs[LOC_CRCS_MAX];
	uint8_t crc_count, has_hash, has_meta; /* has_meta: user metadata exists (stat must read the row) */
};

struct loc;
struct loc_stats { uint64_t name_hits, name_misses, id_hits, id_misses, path_hits, path_misses, bytes, entries; };

struct loc *loc_new(uint64_t budget_bytes); /* all of the memory, taken lazily */
void loc_free(struct loc **loc);
bool loc_find_name(struct loc *loc, uint64_t dir_id, struct slice name, struct obj_loc *out);
bool loc_find_id(struct loc *loc, uint64_t object_id, struct obj_loc *out);
/* The same in three steps: do one for all of a batch, then prefetch the lines of all in a loop of its own (so few
 * instructions between them let the processor translate several addresses at once), then the next. What is found was
 * there at some time between the first step and the last. */
struct loc_probe {
	struct hash128 hash;
	uint64_t id;
	void *set;
	const void *lines[3]; /* that the next step reads */
};
void loc_probe_name(struct loc *loc, uint64_t dir_id, struct slice name, struct loc_probe *probe);
void loc_probe_id(struct loc *loc, uint64_t object_id, struct loc_probe *probe);
void loc_probe_next(struct loc *loc, struct loc_probe *probe);
bool loc_probe_end(struct loc *loc, const struct loc_probe *probe, struct obj_loc *out);

uint64_t loc_stamp(struct loc *loc, uint64_t dir_id, struct slice name); /* before the row is read */
void loc_fill(struct loc *loc, uint64_t stamp, uint64_t dir_id, struct slice name, const struct obj_loc *o);
void loc_busy(struct loc *loc, uint64_t dir_id, struct slice name, uint64_t object_id);
void loc_ready(struct loc *loc, uint64_t dir_id, struct slice name, uint64_t object_id);

/* ---- directories: (bucket, path) -> directory, directory id -> (bucket, path) ---- */
struct loc_dir {
	uint64_t id, bucket, parent; /* parent 0: a bucket's root */
	uint64_t group;              /* nearest dataset directory upwards, itself included, or the bucket's id */
};
/* `dir_part` as key_split gives it ("a/b/"; "" is the root). */
bool loc_path_find(struct loc *loc, uint64_t bucket_id, struct slice dir_part, uint64_t *dir_id);
bool loc_path_find_dir(struct loc *loc, uint64_t bucket_id, struct slice dir_part, struct loc_dir *out);
/* Before the rows are read. Equal stamps before and after: no directory was renamed or removed in between. */
uint64_t loc_path_stamp(struct loc *loc);
/* Keeps both ways. Dropped silently when the stamp is another by now, or a rename or removal is being committed. */
void loc_path_fill(struct loc *loc, uint64_t stamp, struct slice dir_part, const struct loc_dir *dir);
/* The other way, for grants (path: cap >= KEY_LEN_MAX + 1, NUL-terminated; NULL when not wanted). */
bool loc_dir_find(struct loc *loc, uint64_t dir_id, uint64_t *bucket_id, char *path, size_t cap, size_t *len);
bool loc_dir_find_dir(struct loc *loc, uint64_t dir_id, struct loc_dir *out, char *path, size_t cap, size_t *len);
void loc_path_busy(struct loc *loc);  /* a transaction that renames or removes a directory is about to be written */
void loc_path_ready(struct loc *loc); /* it was written, or failed */
void loc_get_stats(struct loc *loc, struct loc_stats *out);
