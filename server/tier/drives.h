/* SPDX-License-Identifier: Apache-2.0 */
/* drives.h -- the hot directories of a store, one a drive: which there are, whether each can be read and written, how
 * much room it has, and on which one the next pack lies. Any thread unless said otherwise.
 *
 * state  (row `f`, what the admin wants):  ACTIVE <-> DRAINING -> DRAINED -> ACTIVE
 * health (what the drive does, in RAM):    ONLINE <-> READONLY <-> OFFLINE, judged by drive_probe() alone
 *
 * Invariants: (1) a drive is known by the number in its superblock, never by its path: an empty mount point is not
 * taken for it, and no superblock is written into a directory that a row names; (2) drive 1 is the data directory: it
 * needs no row, and its health is judged like that of any other; (3) a pack is placed on a drive only while it is
 * ACTIVE, listed and ONLINE, with its headroom (contract H) left; (4) a drive that went OFFLINE is opened anew, by its
 * path, before it is ONLINE again: old descriptors may belong to what is not there any more; (5) the incarnation is in
 * its superblock before anything is named on it; one that comes back with a later incarnation than this one stays
 * OFFLINE until a restart; (6) entries of the table are never removed while the store is open. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct drive;
struct drives;
struct fs;
struct ids;
struct kv;
struct task;

enum { DRIVES_MAX = 64, DRIVE_PATH_MAX = 1024, DRIVE_WHY_MAX = 256, DRIVE_DATA = 1 };
enum drive_state { DRIVE_ACTIVE = 1, DRIVE_DRAINING, DRIVE_DRAINED };
enum drive_health { DRIVE_ONLINE, DRIVE_READONLY, DRIVE_OFFLINE };

struct drive_place {
	char path[DRIVE_PATH_MAX]; /* absolute */
	uint64_t size;             /* bytes that packs may take there; 0: all but the reserve */
};

struct drives_options {
	struct fs *fs; /* the data directory; not owned */
	struct kv *kv;
	uint8_t store_id[16];
	const struct drive_place *places; /* setting `hot`; none: the data directory */
	uint32_t place_count;
	uint64_t reserve;                                             /* headroom of each drive */
	int (*open_fs)(void *arg, const char *path, struct fs **out); /* NULL: the kernel's */
	void *open_arg;
};
/* Reads rows and superblocks. why (cap >= 512): the path, the cause, the fix. Drives that cannot be opened are OFFLINE;
 * an error: a directory of `places` that no row knows and that cannot be used, or that belongs to another store. */
int drives_open(const struct drives_options *options, struct drives **out, char *why, size_t why_cap);
void drives_close(struct drives **drives);
uint32_t drives_highest_incarnation(const struct drives *drives); /* in superblocks that can be read */
/* After the incarnation is in the data directory's superblock: stamps the drives, and takes new ones in. */
int drives_begin(struct drives *drives, struct ids *ids, char *why, size_t why_cap);

/* What the superblock of a further directory says, without a store: 1; 0: it has none; or an error. */
int drive_identify(struct fs *fs, uint8_t store_id[16], uint64_t *id, uint32_t *incarnation);

uint32_t drives_count(struct drives *drives);
struct drive *drives_at(struct drives *drives, uint32_t index); /* 0: the data directory */
struct drive *drives_find(struct drives *drives, uint64_t id);  /* or NULL */
struct drive *drives_by_path(struct drives *drives, const char *path);

uint64_t drive_id(const struct drive *drive);
const char *drive_path(const struct drive *drive);
enum drive_state drive_state(const struct drive *drive);
enum drive_health drive_health(const struct drive *drive);
bool drive_may_place(const struct drive *drive); /* but for its room */
bool drive_may_write(const struct drive *drive); /* ONLINE: seal, remove, copy to */
bool drive_may_read(const struct drive *drive);  /* ONLINE or READONLY */
/* Its directory, to be given back; NULL: OFFLINE. Blocks while it is being opened anew: worker or job. */
struct fs *drive_take(struct drive *drive);
void drive_give(struct drive *drive);
uint32_t drive_generation(const struct drive *drive);   /* grows whenever the directory was opened anew */
bool *drive_dir_made(struct drive *drive, uint8_t low); /* packs/XX; guarded by the caller, forgotten when it left */

/* Where the next pack lies: of the drives that may have it, the one with the most room for each pack that is being
 * written there. NULL: none has room for `bytes` (ENOSPACE), or none is ONLINE (OFFLINE). but: not this one. */
struct drive *drives_choose(struct drives *drives, bool for_job, uint64_t bytes, const struct drive *but, int *err);
int drive_room(struct drive *drive, bool for_job, uint64_t bytes); /* 0 or ENOSPACE, by figures of the last refresh */
int drives_refresh_space(struct drives *drives);                   /* worker or job; an error of drive 1 alone */
void drive_charge(struct drive *drive, int64_t bytes);             /* what packs take of its size */
void drive_writing(struct drive *drive, int delta);                /* packs that are being written there */

/* Looks whether the drive is there, reads and writes; logs what changed. Worker or job. write: also when nothing is
 * suspected. true: its health changed. */
bool drive_probe(struct drive *drive, bool write);
/* An I/O failed: a task that probes it, to be posted to a worker by the caller; NULL: one is on its way. */
struct task *drive_suspect(struct drive *drive);

/* A further directory, made a drive; or one that was drained, or is being drained, used again (size kept if 0).
 * Commits. Worker. */
int drives_add(struct drives *drives, const char *path, uint64_t size, struct ids *ids, struct drive **out, char *why,
	size_t why_cap);
/* Commits; worker or job. begin: packs lie there when a drain begins. */
int drive_set_state(struct drive *drive, enum drive_state state, uint64_t packs);

struct drive_info {
	uint64_t id, size, used, total, available, drain_packs;
	enum drive_state state;
	enum drive_health health;
	bool listed;
	uint32_t writing;
	char path[DRIVE_PATH_MAX], why[DRIVE_WHY_MAX]; /* why it is not ONLINE */
};
void drive_get_info(struct drive *drive, struct drive_info *out);
/* What packs may take of all drives that take new ones, and what they and others took. */
void drives_use(struct drives *drives, uint64_t *total, uint64_t *used);
