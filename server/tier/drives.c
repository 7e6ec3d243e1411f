/* SPDX-License-Identifier: Apache-2.0 */
/* drives.c -- the table of hot directories: rows, room, choice. How a drive fares is drive_probe.c's.
 * Invariants: drives.h's, and: (1) a row is committed before its state is told in RAM; (2) the superblock of a new
 * drive is synced before its row: one without a row is taken in again by its number; (3) lock order: drives->lock, a
 * drive's lock, its dir_lock. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "tier/drives_priv.h"

enum { VALUE_MAX = DRIVE_PATH_MAX + 128 };

int drive_open_path(struct drives *drives, const char *path, struct fs **out)
{
	return drives->o.open_fs != NULL ? drives->o.open_fs(drives->o.open_arg, path, out) : fs_new_kernel(path, out);
}

/* ---- the table ---- */

uint32_t drives_count(struct drives *drives)
{
	return atomic_load(&drives->count);
}

struct drive *drives_at(struct drives *drives, uint32_t index)
{
	return index < drives_count(drives) ? drives->all[index] : NULL;
}

struct drive *drives_find(struct drives *drives, uint64_t id)
{
	for (uint32_t i = 0; i < drives_count(drives); i++)
		if (drives->all[i]->id == id) return drives->all[i];
	return NULL;
}

struct drive *drives_by_path(struct drives *drives, const char *path)
{
	for (uint32_t i = 0; i < drives_count(drives); i++) {
		struct drive *drive = drives->all[i];
		bool same;

		pthread_mutex_lock(&drive->lock);
		same = strcmp(drive->path, path) == 0;
		pthread_mutex_unlock(&drive->lock);
		if (same) return drive;
	}
	return NULL;
}

static void path_set(char out[DRIVE_PATH_MAX], const char *path)
{
	size_t len = strnlen(path, DRIVE_PATH_MAX - 1);

	while (len > 1 && path[len - 1] == '/') len--;
	memcpy(out, path, len);
	out[len] = '\0';
}

static struct drive *drive_new(struct drives *drives, uint64_t id, const char *path)
{
	struct drive *drive = drives->count < DRIVES_MAX ? calloc(1, sizeof(*drive)) : NULL;

	if (drive == NULL) return NULL;
	drive->drives = drives;
	drive->id = id;
	atomic_init(&drive->state, DRIVE_ACTIVE);
	atomic_init(&drive->health, DRIVE_OFFLINE);
	pthread_mutex_init(&drive->lock, NULL);
	pthread_rwlock_init(&drive->dir_lock, NULL);
	path_set(drive->path, path);
	drives->all[drives->count] = drive;
	atomic_fetch_add(&drives->count, 1);
	return drive;
}

uint64_t drive_id(const struct drive *drive)
{
	return drive->id;
}
const char *drive_path(const struct drive *drive)
{
	return drive->path;
}
enum drive_state drive_state(const struct drive *drive)
{
	return (enum drive_state)atomic_load(&drive->state);
}
enum drive_health drive_health(const struct drive *drive)
{
	return (enum drive_health)atomic_load(&drive->health);
}

bool drive_may_place(const struct drive *drive)
{
	return drive->listed && drive_state(drive) == DRIVE_ACTIVE && drive_health(drive) == DRIVE_ONLINE;
}

bool drive_may_write(const struct drive *drive)
{
	return drive_health(drive) == DRIVE_ONLINE;
}
bool drive_may_read(const struct drive *drive)
{
	return drive_health(drive) != DRIVE_OFFLINE;
}
uint32_t drive_generation(const struct drive *drive)
{
	return atomic_load(&drive->generation);
}

struct fs *drive_take(struct drive *drive)
{
	pthread_rwlock_rdlock(&drive->dir_lock);
	if (drive->fs != NULL) return drive->fs;
	pthread_rwlock_unlock(&drive->dir_lock);
	return NULL;
}

void drive_give(struct drive *drive)
{
	pthread_rwlock_unlock(&drive->dir_lock);
}
bool *drive_dir_made(struct drive *drive, uint8_t low)
{
	return &drive->dir_made[low];
}

void drive_put_fs(struct drive *drive, struct fs *fs, struct fs_file *lock)
{
	if (drive->id == DRIVE_DATA) return; /* the store's own, for as long as it is open */
	pthread_rwlock_wrlock(&drive->dir_lock);
	fs_close(&drive->file_lock);
	fs_free(&drive->fs);
	drive->fs = fs;
	drive->file_lock = lock;
	memset(drive->dir_made, 0, sizeof(drive->dir_made));
	atomic_fetch_add(&drive->generation, 1);
	pthread_rwlock_unlock(&drive->dir_lock);
}

/* ---- rows ---- */

static int row_put(struct drive *drive, const char *path, uint64_t size, enum drive_state state, uint64_t packs)
{
	uint8_t key[ROW_KEY_MAX], value[VALUE_MAX], byte = (uint8_t)state;
	struct kv_txn *txn = kv_txn_new(drive->drives->o.kv);
	struct wr w = wr_of(value, sizeof(value));
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	value_begin(&w);
	tlv_put(&w, FTAG_PATH, slice_str(path));
	tlv_put_u64(&w, FTAG_SIZE, size);
	tlv_put(&w, FTAG_STATE, slice_of(&byte, 1));
	tlv_put_u64(&w, FTAG_PACKS, packs);
	assert(wr_ok(&w));
	kv_put(txn, row_drive(key, drive->id), slice_of(value, wr_len(&w)));
	err = kv_submit_wait(drive->drives->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

static int row_load(struct drives *drives, struct slice key, struct slice value)
{
	char text[DRIVE_PATH_MAX];
	struct slice path;
	struct drive *drive;
	uint64_t id, size, state, packs;

	if (key.len != 9 || !value_bytes(value, FTAG_PATH, &path) || path.len >= sizeof(text) ||
		!value_u64(value, FTAG_SIZE, 0, &size) || !value_u64(value, FTAG_STATE, DRIVE_ACTIVE, &state) ||
		!value_u64(value, FTAG_PACKS, 0, &packs) || state < DRIVE_ACTIVE || state > DRIVE_DRAINED)
		return -GRANARY_ECORRUPT;
	id = be64_get(key.p + 1);
	memcpy(text, path.p, path.len);
	text[path.len] = '\0';
	drive = id == DRIVE_DATA ? drives->all[0] : drive_new(drives, id, text);
	if (drive == NULL) return -GRANARY_ENOMEM;
	atomic_store(&drive->size, size);
	atomic_store(&drive->state, (uint8_t)state);
	drive->listed = true; /* of the data directory the settings decide */
	drive->drain_packs = packs;
	return 0;
}

static int rows_load(struct drives *drives)
{
	struct kv_iter *it = kv_iter_new(drives->o.kv, NULL);
	int err = it != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0) kv_iter_seek(it, slice_str("f"));
	for (; err == 0 && kv_iter_valid(it) && kv_iter_key(it).p[0] == 'f'; kv_iter_next(it))
		err = row_load(drives, kv_iter_key(it), kv_iter_value(it));
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

int drive_set_state(struct drive *drive, enum drive_state state, uint64_t packs)
{
	int err = row_put(drive, drive->path, atomic_load(&drive->size), state, packs);

	if (err < 0) return err;
	pthread_mutex_lock(&drive->lock);
	drive->drain_packs = packs;
	pthread_mutex_unlock(&drive->lock);
	atomic_store(&drive->state, (uint8_t)state);
	return 0;
}

/* ---- what the settings name ---- */

static int place_fail(char *why, size_t cap, const char *path, const char *text, int err)
{
	snprintf(why, cap, "cannot use the hot directory '%s': %s", path, text);
	return err;
}

/* A directory that no row knows: of this store, and then its row was lost; of another one; or new. */
static int place_judge(
	struct drives *drives, const struct drive_place *place, struct drive_super *super, char *why, size_t cap)
{
	struct fs *fs = NULL;
	int err = drive_open_path(drives, place->path, &fs), has;

	if (err < 0)
		return place_fail(why, cap, place->path,
			err == -GRANARY_ENOTFOUND ? "it does not exist; make it (mkdir), or leave it out"
						  : error_text(err),
			err);
	has = drive_super_read(fs, super);
	if (has == 1 && memcmp(super->store_id, drives->o.store_id, sizeof(super->store_id)) != 0)
		err = place_fail(why, cap, place->path, "it belongs to another store; choose another directory",
			-GRANARY_EBADFORMAT);
	else if (has < 0)
		err = place_fail(why, cap, place->path, error_text(has), has);
	else if (has == 0 && (fs_exists(fs, "packs") != 0 || fs_exists(fs, "granary.super") != 0))
		err = place_fail(why, cap, place->path,
			"it holds packs but no " DRIVE_SUPER "; restore that file, or choose another directory",
			-GRANARY_EBADFORMAT);
	fs_free(&fs);
	return err < 0 ? err : has;
}

static int place_list(struct drives *drives, const struct drive_place *place, char *why, size_t cap)
{
	struct drive_super super = { .drive = 0 };
	struct drive *drive;
	char path[DRIVE_PATH_MAX];
	int has;

	path_set(path, place->path);
	drive = drives_by_path(drives, path);
	if (drive == NULL) {
		has = place_judge(drives, place, &super, why, cap);
		if (has < 0) return has;
		drive = has == 1 ? drives_find(drives, super.drive) : NULL;
		if (has == 0)
			drives->fresh[drives->fresh_count++] = place;
		else if (drive != NULL)
			path_set(drive->path, path); /* mounted elsewhere now */
		else
			drive = drive_new(drives, super.drive, path);
		if (has == 1 && drive == NULL) return -GRANARY_ENOMEM;
	}
	if (drive != NULL) {
		drive->listed = drive->named = true;
		atomic_store(&drive->size, place->size);
	}
	return 0;
}

static int places_list(struct drives *drives, char *why, size_t cap)
{
	int err = 0;

	/* An order about the data directory itself, which its row is, stands above the settings. */
	drives->all[0]->listed |= drives->o.place_count == 0;
	for (uint32_t i = 0; err == 0 && i < drives->o.place_count; i++)
		err = place_list(drives, &drives->o.places[i], why, cap);
	return err;
}

/* ---- opening ---- */

int drives_open(const struct drives_options *options, struct drives **out, char *why, size_t cap)
{
	struct drives *drives = calloc(1, sizeof(*drives));
	struct drive *data;
	int err = -GRANARY_ENOMEM;

	*out = NULL;
	if (drives == NULL) return err;
	drives->o = *options;
	pthread_mutex_init(&drives->lock, NULL);
	snprintf(why, cap, "cannot read the rows of hot directories");
	data = drive_new(drives, DRIVE_DATA, fs_root(options->fs));
	if (data != NULL) {
		data->fs = options->fs;
		atomic_store(&data->health, DRIVE_ONLINE);
		err = rows_load(drives);
	}
	if (err == 0) err = places_list(drives, why, cap);
	for (uint32_t i = 1; err == 0 && i < drives_count(drives); i++) (void)drive_probe(drives->all[i], false);
	if (err < 0) drives_close(&drives);
	*out = drives;
	return err;
}

void drives_close(struct drives **dp)
{
	struct drives *drives = *dp;

	*dp = NULL;
	if (drives == NULL) return;
	for (uint32_t i = 0; i < drives_count(drives); i++) {
		struct drive *drive = drives->all[i];

		drive_put_fs(drive, NULL, NULL);
		pthread_mutex_destroy(&drive->lock);
		pthread_rwlock_destroy(&drive->dir_lock);
		free(drive);
	}
	pthread_mutex_destroy(&drives->lock);
	free(drives);
}

uint32_t drives_highest_incarnation(const struct drives *drives)
{
	return drives->highest;
}

static int drive_make(struct drives *drives, struct ids *ids, const char *path, uint64_t size, struct drive **out)
{
	struct drive_super super = { .drive = ids_object(ids), .incarnation = drives->incarnation };
	struct fs *fs = NULL;
	struct drive *drive = NULL;
	int err = drive_open_path(drives, path, &fs);

	memcpy(super.store_id, drives->o.store_id, sizeof(super.store_id));
	if (err == 0) err = drive_super_write(fs, &super);
	fs_free(&fs);
	if (err == 0) {
		drive = drive_new(drives, super.drive, path);
		err = drive != NULL ? row_put(drive, drive->path, size, DRIVE_ACTIVE, 0) : -GRANARY_ENOMEM;
	}
	if (err == 0) {
		drive->listed = true;
		atomic_store(&drive->size, size);
		(void)drive_probe(drive, true);
		log_info("a hot directory is a drive of the store now; path='%s' drive=%016" PRIx64, path, super.drive);
	}
	*out = drive;
	return err;
}

/* Drained, and the settings do not name it: by the next start nobody knows it any more. */
static int row_forget(struct drive *drive)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(drive->drives->o.kv);
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	kv_delete(txn, row_drive(key, drive->id));
	err = kv_submit_wait(drive->drives->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

/* Rows say what was found and what the settings say; a row of the data directory only where one is needed. */
static int row_refresh(struct drive *drive)
{
	if (drive->id == DRIVE_DATA) return 0;
	if (drive_state(drive) == DRIVE_DRAINED && !drive->named) return row_forget(drive);
	return row_put(drive, drive->path, atomic_load(&drive->size), drive_state(drive), drive->drain_packs);
}

int drives_begin(struct drives *drives, struct ids *ids, char *why, size_t cap)
{
	struct drive *made;
	int err = 0;

	drives->incarnation = ids_incarnation(ids);
	for (uint32_t i = 0; err == 0 && i < drives_count(drives); i++) {
		(void)drive_probe(drives->all[i], true);
		err = row_refresh(drives->all[i]);
	}
	for (uint32_t i = 0; err == 0 && i < drives->fresh_count; i++) {
		const struct drive_place *place = drives->fresh[i];

		if (drives_by_path(drives, place->path) != NULL) continue; /* named twice */
		err = drive_make(drives, ids, place->path, place->size, &made);
		if (err < 0) place_fail(why, cap, place->path, error_text(err), err);
	}
	drives->fresh_count = 0;
	return err;
}

int drives_add(struct drives *drives, const char *path_given, uint64_t size, struct ids *ids, struct drive **out,
	char *why, size_t cap)
{
	struct drive_place place = { .size = size };
	struct drive_super super;
	struct drive *drive;
	int err;

	path_set(place.path, path_given);
	*out = NULL;
	if (place.path[0] != '/' || strlen(path_given) >= DRIVE_PATH_MAX)
		return place_fail(why, cap, path_given, "an absolute path is needed", -GRANARY_EINVAL);
	pthread_mutex_lock(&drives->lock);
	drive = drives_by_path(drives, place.path);
	if (drive != NULL) {
		if (size > 0) atomic_store(&drive->size, size);
		err = drive_set_state(drive, DRIVE_ACTIVE, 0);
		drive->listed |= err == 0;
		if (err == 0) (void)drive_probe(drive, true);
		if (err < 0) place_fail(why, cap, place.path, error_text(err), err);
	} else {
		err = drives_count(drives) < DRIVES_MAX
			      ? place_judge(drives, &place, &super, why, cap)
			      : place_fail(why, cap, place.path, "there are 64 drives already", -GRANARY_ETOOBIG);
		if (err == 1)
			err = place_fail(why, cap, place.path,
				"its " DRIVE_SUPER " is that of a drive of this store that "
				"is mounted elsewhere; restart the server with it in `hot`",
				-GRANARY_EEXIST);
		else if (err == 0) {
			err = drive_make(drives, ids, place.path, size, &drive);
			if (err < 0) place_fail(why, cap, place.path, error_text(err), err);
		}
	}
	pthread_mutex_unlock(&drives->lock);
	*out = drive;
	return err;
}

/* ---- room ---- */

static uint64_t room_of(struct drive *drive, bool for_job)
{
	uint64_t reserve = drive->drives->o.reserve, kept = for_job ? reserve / 4 : reserve;
	uint64_t available = atomic_load_explicit(&drive->available, memory_order_relaxed);
	uint64_t size = atomic_load_explicit(&drive->size, memory_order_relaxed), room, left;
	int64_t used = atomic_load_explicit(&drive->used, memory_order_relaxed);

	room = available > kept ? available - kept : 0;
	if (size == 0) return room;
	size += for_job ? reserve - kept : 0;
	left = used < 0 ? size : size > (uint64_t)used ? size - (uint64_t)used : 0;
	return left < room ? left : room;
}

int drive_room(struct drive *drive, bool for_job, uint64_t bytes)
{
	return room_of(drive, for_job) >= bytes ? 0 : -GRANARY_ENOSPACE;
}

struct drive *drives_choose(struct drives *drives, bool for_job, uint64_t bytes, const struct drive *but, int *err)
{
	struct drive *best = NULL;
	uint64_t best_share = 0;

	*err = -GRANARY_EOFFLINE;
	for (uint32_t i = 0; i < drives_count(drives); i++) {
		struct drive *drive = drives->all[i];
		int32_t writing = atomic_load(&drive->writing);
		uint64_t room;

		if (drive == but || !drive_may_place(drive)) continue;
		*err = -GRANARY_ENOSPACE;
		room = room_of(drive, for_job);
		if (room < bytes) continue;
		room /= writing > 0 ? (uint64_t)writing + 1 : 1;
		if (best == NULL || room > best_share) {
			best = drive;
			best_share = room;
		}
	}
	/* Metadata needs room of its own, wherever the packs lie. */
	if (best != NULL && !for_job && best->id != DRIVE_DATA &&
		atomic_load(&drives->all[0]->available) < drives->o.reserve)
		best = NULL;
	*err = best != NULL ? 0 : *err;
	return best;
}

int drives_refresh_space(struct drives *drives)
{
	int first = 0;

	for (uint32_t i = 0; i < drives_count(drives); i++) {
		struct drive *drive = drives->all[i];
		struct fs *fs = drive_take(drive);
		uint64_t total, available;
		int err;

		if (fs == NULL) continue;
		err = fs_space(fs, &total, &available);
		drive_give(drive);
		if (err == 0) {
			atomic_store(&drive->total, total);
			atomic_store(&drive->available, available);
		} else if (drive->id == DRIVE_DATA) {
			first = err;
		}
	}
	return first;
}

void drive_charge(struct drive *drive, int64_t bytes)
{
	atomic_fetch_add(&drive->used, bytes);
}
void drive_writing(struct drive *drive, int delta)
{
	atomic_fetch_add(&drive->writing, delta);
}

void drive_get_info(struct drive *drive, struct drive_info *out)
{
	int64_t used = atomic_load(&drive->used);
	int32_t writing = atomic_load(&drive->writing);

	*out = (struct drive_info){ .id = drive->id,
		.size = atomic_load(&drive->size),
		.used = used > 0 ? (uint64_t)used : 0,
		.total = atomic_load(&drive->total),
		.available = atomic_load(&drive->available),
		.state = drive_state(drive),
		.health = drive_health(drive),
		.listed = drive->listed,
		.writing = writing > 0 ? (uint32_t)writing : 0 };
	pthread_mutex_lock(&drive->lock);
	memcpy(out->path, drive->path, sizeof(out->path));
	memcpy(out->why, drive->why, sizeof(out->why));
	out->drain_packs = drive->drain_packs;
	pthread_mutex_unlock(&drive->lock);
}

void drives_use(struct drives *drives, uint64_t *total, uint64_t *used)
{
	struct drive_info info;

	*total = *used = 0;
	for (uint32_t i = 0; i < drives_count(drives); i++) {
		drive_get_info(drives_at(drives, i), &info);
		if (!info.listed || info.state != DRIVE_ACTIVE) continue; /* it takes nothing new */
		uint64_t all = info.size ? info.size : info.total;
		uint64_t taken = info.size ? info.used : info.total > info.available ? info.total - info.available : 0;
		*total += all;
		*used += taken < all ? taken : all;
	}
}
