/* SPDX-License-Identifier: Apache-2.0 */
/* drives_priv.h -- shared by drives*.c only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/list.h"
#include "io/reactor.h"
#include "tier/drives.h"

struct fs_file;

#define DRIVE_SUPER "granary.drive"
#define DRIVE_LOCK  "lock"
#define DRIVE_PROBE "probe"

struct drive {
	struct drives *drives;
	uint64_t id;
	bool listed; /* packs may be placed here as far as the settings go */
	bool named;  /* in the settings */
	_Atomic uint8_t state, health;
	_Atomic uint64_t size, total, available;
	_Atomic int64_t used;
	_Atomic int32_t writing;
	_Atomic uint32_t generation;
	_Atomic bool suspected;
	struct task probe_task;
	pthread_rwlock_t dir_lock; /* held for reading while `fs` is used; after `lock` */
	struct fs *fs;             /* NULL: OFFLINE */
	struct fs_file *file_lock;
	bool dir_made[256];
	pthread_mutex_t lock; /* one probe at a time; path, why */
	uint64_t drain_packs;
	char path[DRIVE_PATH_MAX], why[DRIVE_WHY_MAX];
};

struct drives {
	struct drives_options o;
	uint32_t incarnation; /* 0 before drives_begin() */
	uint32_t highest;
	pthread_mutex_t lock; /* of adding */
	_Atomic uint32_t count;
	struct drive *all[DRIVES_MAX];
	const struct drive_place *fresh[DRIVES_MAX]; /* until drives_begin(): directories to be made drives */
	uint32_t fresh_count;
};

struct drive_super {
	uint8_t store_id[16];
	uint64_t drive;
	uint32_t incarnation;
};

/* drive_super.c */
/* 1: read; 0: there is none; or an error. Past the page cache: what a dead disk once said does not count. */
int drive_super_read(struct fs *fs, struct drive_super *out);
int drive_super_parse(const void *text, size_t len, struct drive_super *out);
int drive_super_write(struct fs *fs, const struct drive_super *s);

/* drives.c */
int drive_open_path(struct drives *drives, const char *path, struct fs **out);
/* Under drive->lock. fs, lock: taken over; those from before are closed. */
void drive_put_fs(struct drive *drive, struct fs *fs, struct fs_file *lock);
