/* SPDX-License-Identifier: Apache-2.0 */
/* rebuild.h -- puts objects where the records of packs say: on metadata out of a backup those that are newer than it,
 * on empty metadata all. Nothing serves meanwhile; packs are only read.
 *
 * A record says directory id, name and key as of its write, object id, version, offset in the object (FORMAT 3.2). It
 * does not say what came after: deletes, renames, links, attributes that were set later, copies by reference.
 *
 * Invariants: (1) of two objects with one name the one with the higher version wins; one that has gaps takes no name
 * that another one has; (2) of two records with the same bytes of an object the later version wins, then the later
 * pack: compaction copies; (3) an object of the metadata keeps its name and attributes: a record that is newer than
 * its row is a change of its bytes, an older one only takes the place of one whose pack is gone; (4) an object whose
 * records name another place than the one it gets has an `o` row: compaction finds it; (5) no id or version of a later
 * incarnation than ours is taken from a record; (6) of a pack without a footer only records whose data has its checksum
 * count, and it ends with the last of them; (7) memory: one object's records, and a batch of objects. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct fs;
struct ids;
struct kv;
struct loc;
struct store_clock;

#define REBUILD_SCRATCH "meta.records" /* beside the metadata: what was read of the packs; removed at the end */

struct rebuild_place {
	struct fs *fs;  /* a hot directory */
	uint64_t store; /* its number: 1 is the data directory */
};

struct rebuild {
	struct fs *fs;  /* where the scratch is made */
	struct kv *kv;  /* the metadata; told to loc by ns_observe_* */
	struct loc *loc;
	struct ids *ids;
	struct store_clock *clock;
	bool simulated;    /* kv_mem for the scratch */
	bool has_metadata; /* the rows are those of a backup */
	const struct rebuild_place *places;
	uint32_t place_count;
	/* Now and then; done and total in bytes. May be NULL. */
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
	/* A line about something that is lost, damaged or put elsewhere: what kind, and its name. May be NULL. */
	void (*lost)(void *arg, const char *what, const char *name);
	void *arg;

	/* out */
	uint64_t packs_read, packs_torn; /* torn: without a footer */
	uint64_t records, damaged;       /* damaged: places in packs */
	uint64_t placed;                 /* objects that got a row */
	uint64_t superseded;             /* objects whose name has a newer one */
	uint64_t incomplete;             /* of the placed: with gaps */
	uint64_t unplaced;               /* of the placed: in lost+found, nobody knows the path of their directory */
	uint64_t changed, moved;         /* objects of the metadata with newer bytes; with records found elsewhere */
	char why[256];                   /* when it fails */
};
/* Everything is committed then. Interrupted it is begun anew on metadata as it was before. */
int rebuild_packs(struct rebuild *r);
