/* SPDX-License-Identifier: Apache-2.0 */
/* drive_probe.c -- is a drive there, does it read, does it write?
 * Invariants: (1) health changes here alone, under the drive's lock, and is logged once; (2) the directory is always
 * looked for by its path, anew: a descriptor of a file system that was taken away still answers; (3) its superblock is
 * read past the page cache; (4) what cannot be read is OFFLINE and let go of; what reads and does not write is
 * READONLY; a full one is neither. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "tier/drives_priv.h"

struct verdict {
	enum drive_health health;
	char why[DRIVE_WHY_MAX];
};

__attribute__((format(printf, 3, 4))) static void judge(
	struct verdict *v, enum drive_health health, const char *fmt, ...)
{
	va_list args;

	v->health = health;
	va_start(args, fmt);
	vsnprintf(v->why, sizeof(v->why), fmt, args);
	va_end(args);
}

/* 0: it is this drive. */
static int judge_super(struct drive *drive, struct fs *fs, struct drive_super *super, struct verdict *v)
{
	struct drives *drives = drive->drives;
	int has = drive_super_read(fs, super);

	if (has == 0)
		judge(v, DRIVE_OFFLINE, "it holds no " DRIVE_SUPER "; is the disk mounted there?");
	else if (has < 0)
		judge(v, DRIVE_OFFLINE, "its " DRIVE_SUPER " cannot be read: %s", error_text(has));
	else if (super->drive != drive->id || memcmp(super->store_id, drives->o.store_id, sizeof(super->store_id)) != 0)
		judge(v, DRIVE_OFFLINE, "another drive is mounted there; mount this one, or name where it is in `hot`");
	else if (drives->incarnation != 0 && super->incarnation > drives->incarnation)
		judge(v, DRIVE_OFFLINE, "it was in use by a later start of this store; restart the server");
	else
		return 0;
	return -GRANARY_EOFFLINE;
}

/* Writes what has to be written anyway at a start, else a file of its own. */
static void judge_write(struct drive *drive, struct fs *fs, struct drive_super *super, struct verdict *v)
{
	struct drives *drives = drive->drives;
	int err;

	if (drive->id != DRIVE_DATA && super->incarnation < drives->incarnation) {
		super->incarnation = drives->incarnation;
		err = drive_super_write(fs, super);
	} else {
		err = fs_put_file(fs, DRIVE_PROBE, "granary\n", 8);
	}
	if (err < 0 && err != -GRANARY_ENOSPACE)
		judge(v, DRIVE_READONLY, "it cannot be written: %s; what lies there can be read", error_text(err));
}

static void judge_lock(struct fs *fs, struct fs_file **lock, struct verdict *v)
{
	int err = fs_lock(fs, DRIVE_LOCK, lock);

	if (err == -GRANARY_ELOCKED)
		judge(v, DRIVE_OFFLINE, "another granaryd uses it");
	else if (err < 0 && err != -GRANARY_ENOSPACE)
		judge(v, DRIVE_READONLY, "it cannot be locked: %s; what lies there can be read", error_text(err));
}

/* Under its lock. What was not ONLINE is opened anew before it is. */
static void look(struct drive *drive, bool write, struct verdict *v)
{
	enum drive_health before = drive_health(drive);
	bool anew = before != DRIVE_ONLINE;
	struct drive_super super = { .drive = 0 };
	struct fs_file *lock = NULL;
	struct fs *fs = NULL;
	int err = drive_open_path(drive->drives, drive->path, &fs);

	if (err < 0) {
		judge(v, DRIVE_OFFLINE, "it cannot be opened: %s", error_text(err));
		return;
	}
	err = judge_super(drive, fs, &super, v);
	if (err == 0 && anew) {
		fs_close(&drive->file_lock); /* our own, of the directory as it was */
		judge_lock(fs, &lock, v);
	}
	if (err == 0 && v->health == DRIVE_ONLINE && (write || anew)) judge_write(drive, fs, &super, v);
	if (err == 0 && super.incarnation > drive->drives->highest) drive->drives->highest = super.incarnation;
	if (v->health != DRIVE_OFFLINE && (before == DRIVE_OFFLINE || v->health < before)) {
		drive_put_fs(drive, fs, lock);
		return;
	}
	if (v->health != DRIVE_OFFLINE && lock != NULL) {
		drive->file_lock = lock;
		lock = NULL;
	}
	fs_close(&lock);
	fs_free(&fs);
}

static void look_data(struct drive *drive, bool write, struct verdict *v)
{
	/* With no other drive its failures are those of the store, and there is nowhere else to go. */
	if (drives_count(drive->drives) > 1 && drive->listed && (write || drive_health(drive) != DRIVE_ONLINE))
		judge_write(drive, drive->fs, NULL, v);
}

static const char *const health_names[] = { "online", "read-only", "offline" };

/* Under its lock. */
static bool drive_settle(struct drive *drive, const struct verdict *v)
{
	enum drive_health before = drive_health(drive);

	memcpy(drive->why, v->why, sizeof(drive->why));
	if (v->health == before) return false;
	atomic_store(&drive->health, (uint8_t)v->health);
	if (v->health == DRIVE_OFFLINE) drive_put_fs(drive, NULL, NULL);
	if (v->health == DRIVE_ONLINE)
		log_info("a hot directory is online; path='%s' drive=%016" PRIx64 " was=%s", drive->path, drive->id,
			health_names[before]);
	else if (drive_state(drive) != DRIVE_DRAINED)
		log_error("hot directory '%s' is %s: %s; drive=%016" PRIx64, drive->path, health_names[v->health],
			v->why, drive->id);
	return true;
}

bool drive_probe(struct drive *drive, bool write)
{
	struct verdict v = { .health = DRIVE_ONLINE };
	bool changed;

	pthread_mutex_lock(&drive->lock);
	if (drive_state(drive) == DRIVE_DRAINED && drive->id != DRIVE_DATA)
		judge(&v, DRIVE_OFFLINE, "it is drained: it can be taken away");
	else if (drive->id == DRIVE_DATA)
		look_data(drive, write, &v);
	else
		look(drive, write, &v);
	changed = drive_settle(drive, &v);
	pthread_mutex_unlock(&drive->lock);
	return changed;
}

static void on_suspected(struct task *task)
{
	struct drive *drive = container_of(task, struct drive, probe_task);

	atomic_store(&drive->suspected, false);
	(void)drive_probe(drive, true);
}

struct task *drive_suspect(struct drive *drive)
{
	if (atomic_exchange(&drive->suspected, true)) return NULL;
	drive->probe_task.fn = on_suspected;
	return &drive->probe_task;
}
