/* SPDX-License-Identifier: Apache-2.0 */
/* offline.c -- see offline.h. */
#include "req/offline.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/id.h"
#include "common/rand.h"
#include "io/fs.h"
#include "jobs/restore.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/loc.h"
#include "meta/ns.h"
#include "req/offline_priv.h"
#include "req/store_priv.h"
#include "tier/packs.h"

/* ---- the data directory ---- */

static int any_file(void *arg, const char *name)
{
	(void)arg;
	return strcmp(name, "lost+found") != 0;
}

static int refuse_meta(struct work *w)
{
	const char *root = fs_root(w->fs);
	int has = fs_list(w->fs, "meta", any_file, NULL);

	if (has == -GRANARY_ENOTFOUND) return 0;
	if (has == 1)
		snprintf(w->why, w->cap,
			"%s/meta holds metadata; if it is damaged or old put it aside first (mv %s/meta "
			"%s/meta.old), or choose another directory",
			root, root, root);
	if (has != 0) return has < 0 ? has : -GRANARY_EEXIST;
	has = fs_rmdir(w->fs, "meta");
	if (has < 0)
		snprintf(w->why, w->cap,
			"%s/meta is empty but cannot be replaced (%s); if it is a mount point unmount it, and "
			"move the metadata there afterwards",
			root, error_text(has));
	return has;
}

static int take_lock(struct work *w)
{
	int err = fs_lock(w->fs, "lock", &w->lock);

	if (err == -GRANARY_ELOCKED)
		snprintf(w->why, w->cap, "%s is in use by a granaryd; stop it first", fs_root(w->fs));
	else if (err < 0)
		snprintf(w->why, w->cap, "cannot lock %s/lock: %s; the directory must be writable by this user",
			fs_root(w->fs), error_text(err));
	return err;
}

/* A superblock that is there must be of the same store: packs of another one would be taken for ours. */
static int read_super(struct work *w)
{
	static const char *const parts[] = { STORE_SUPER };
	int has = fs_exists(w->fs, parts[0]);

	memset(&w->super, 0, sizeof(w->super));
	if (has == 1) has = super_read(w->fs, &w->super, w->why, w->cap);
	w->has_super = w->has_id = has == 1;
	return has < 0 ? has : 0;
}

static int check_store(struct work *w, const uint8_t store_id[16])
{
	if (!w->has_id) memcpy(w->super.store_id, store_id, sizeof(w->super.store_id));
	w->has_id = true;
	if (memcmp(w->super.store_id, store_id, sizeof(w->super.store_id)) == 0) return 0;
	snprintf(w->why, w->cap,
		"%s, or a hot directory, is of another store than the backup is of; choose another directory",
		fs_root(w->fs));
	return -GRANARY_EBADFORMAT;
}

/* ---- incarnation, key, superblock, name ---- */

static int find_incarnation(struct work *w)
{
	uint32_t rows = 0, names = 0;
	int err = incarnation_of_rows(w->kv, &rows);

	if (err == 0) err = places_incarnation(w, &names);
	if (err < 0) {
		snprintf(w->why, w->cap, "cannot look for the highest incarnation in %s: %s", fs_root(w->fs),
			error_text(err));
		return err;
	}
	if (rows > w->super.incarnation) w->super.incarnation = rows;
	if (names > w->super.incarnation) w->super.incarnation = names;
	if (w->super.incarnation >= ID_INCARNATION_MAX) {
		snprintf(w->why, w->cap, "%s was started %u times: there are no ids left", fs_root(w->fs),
			w->super.incarnation);
		return -GRANARY_ETOOBIG;
	}
	w->super.incarnation++;
	w->o->incarnation = w->super.incarnation;
	return rows_identify(w->kv, &w->super, w->why, w->cap);
}

/* The key that is there stays, when it is the backup's or the backup has none. */
static int put_key(struct work *w)
{
	uint8_t theirs[64], ours[64];
	size_t len = 0, have = 0;
	int err = fs_get_file(w->from, STORE_KEY, theirs, sizeof(theirs), &len);
	int has = fs_get_file(w->fs, STORE_KEY, ours, sizeof(ours), &have);

	if (err == 0 && has == 0 && (len != have || memcmp(theirs, ours, len) != 0)) {
		snprintf(w->why, w->cap, "%s/" STORE_KEY " is another one than the backup's; put it aside first",
			fs_root(w->fs));
		err = -GRANARY_EEXIST;
	} else if (err == 0 && has == -GRANARY_ENOTFOUND) {
		err = fs_put_file(w->fs, STORE_KEY, theirs, len);
	} else if (err == -GRANARY_ENOTFOUND && has == 0) {
		err = 0;
	}
	if (err < 0 && w->why[0] == '\0')
		snprintf(w->why, w->cap, "cannot bring back " STORE_KEY " (%s): access keys cannot be read without it",
			error_text(err));
	explicit_bzero(theirs, sizeof(theirs));
	explicit_bzero(ours, sizeof(ours));
	return err;
}

static int give_name(struct work *w)
{
	int err = super_write(w->fs, &w->super, w->why, w->cap);

	if (err == 0) err = fs_sync_dir(w->fs, OFFLINE_MADE);
	if (err == 0) err = fs_rename(w->fs, OFFLINE_MADE, "meta");
	if (err == 0) err = fs_sync_dir(w->fs, "");
	if (err < 0 && w->why[0] == '\0')
		snprintf(
			w->why, w->cap, "cannot give the metadata its name in %s: %s", fs_root(w->fs), error_text(err));
	return err;
}

/* ---- restore ---- */

static int bring_metadata(struct work *w)
{
	struct restore r = { .from = w->from,
		.to = w->fs,
		.dir = OFFLINE_MADE,
		.simulated = w->o->simulated,
		.checkpoint = w->o->checkpoint,
		.progress = w->o->progress,
		.progress_arg = w->o->arg };
	int err = restore_metadata(&r, &w->kv);

	w->o->number = r.number;
	w->o->made_s = r.made_s;
	w->o->bytes = r.bytes;
	w->o->skipped = r.skipped;
	w->o->log_records = r.log_records;
	w->o->position = r.position;
	w->o->has_gap = r.has_gap;
	snprintf(w->o->gap, sizeof(w->o->gap), "%s", r.has_gap ? r.why : "");
	if (err < 0) {
		snprintf(w->why, w->cap, "%s", r.why);
		return err;
	}
	if (!w->has_super) w->super.created_s = r.made_s;
	if (r.incarnation > w->super.incarnation) w->super.incarnation = r.incarnation;
	err = check_store(w, r.store_id);
	return err == 0 ? places_open_rows(w) : err;
}

/* What both begin with. */
static int begin(struct work *w)
{
	int err = take_lock(w);

	if (err == 0) err = read_super(w);
	if (err == 0) err = refuse_meta(w);
	if (err == 0) err = places_open(w);
	if (err == 0) err = fs_remove_folder(w->fs, REBUILD_SCRATCH);
	return err;
}

static int restore_steps(struct work *w)
{
	int err = begin(w);

	if (err == 0) err = bring_metadata(w);
	if (err == 0) err = find_incarnation(w);
	if (err == 0) err = offline_check_packs(w);
	if (err == 0) err = put_key(w);
	kv_close(&w->kv); /* written out before it has its name */
	if (err == 0) err = give_name(w);
	if (err < 0) (void)fs_remove_folder(w->fs, OFFLINE_MADE);
	return err;
}

/* ---- rebuild ---- */

static int open_made(struct work *w, struct loc *loc, bool must_exist)
{
	struct kv_options o = { .block_cache_size = 64 << 20,
		.write_buffer_size = 64 << 20,
		.observer = { ns_observe_begin, ns_observe_end, loc },
		.must_exist = must_exist,
		.fatal = restore_write_failed };
	int err = w->o->simulated ? kv_open_mem(w->fs, OFFLINE_MADE, &o, &w->kv)
				  : kv_open_rocks(w->fs, OFFLINE_MADE, &o, &w->kv);

	if (err < 0)
		snprintf(w->why, w->cap, "cannot open the metadata that is being made, %s/" OFFLINE_MADE ": %s",
			fs_root(w->fs), error_text(err));
	return err;
}

/* Out of the backup, or empty. */
static int rebuild_begin(struct work *w, struct loc *loc)
{
	int err = w->from != NULL ? bring_metadata(w) : fs_remove_folder(w->fs, OFFLINE_MADE);

	if (w->from != NULL) {
		kv_close(&w->kv); /* again, with its tables told */
		return err < 0 ? err : open_made(w, loc, true);
	}
	if (err == 0) err = fs_mkdir(w->fs, OFFLINE_MADE);
	if (err == 0 && !w->has_id) rand_bytes(w->super.store_id, sizeof(w->super.store_id));
	if (!w->has_super) w->super.created_s = clock_wall_ns() / UINT64_C(1000000000);
	return err < 0 ? err : open_made(w, loc, false);
}

static void rebuild_report(struct work *w, const struct rebuild *r)
{
	struct offline *o = w->o;

	o->packs_read = r->packs_read;
	o->packs_torn = r->packs_torn;
	o->records = r->records;
	o->damaged = r->damaged;
	o->placed = r->placed;
	o->superseded = r->superseded;
	o->incomplete = r->incomplete;
	o->unplaced = r->unplaced;
	o->changed = r->changed;
	o->moved = r->moved;
}

static int rebuild_names(struct work *w, struct loc *loc)
{
	struct rebuild r = { .fs = w->fs,
		.kv = w->kv,
		.loc = loc,
		.simulated = w->o->simulated,
		.has_metadata = w->from != NULL,
		.places = w->places,
		.place_count = w->place_count,
		.progress = w->o->progress,
		.lost = w->o->lost,
		.arg = w->o->arg };
	int err = store_clock_open(w->kv, &r.clock);

	r.ids = ids_new(w->super.incarnation);
	if (err == 0) err = r.ids != NULL ? rebuild_packs(&r) : -GRANARY_ENOMEM;
	if (err == 0) err = store_clock_save(r.clock, w->kv);
	if (err < 0 && r.why[0] != '\0') snprintf(w->why, w->cap, "%s", r.why);
	rebuild_report(w, &r);
	if (r.ids != NULL) ids_free(&r.ids);
	if (r.clock != NULL) store_clock_free(&r.clock);
	return err;
}

/* With a backup it is the backup's; else that of the directory, or, where that is lost too, a new one: nothing is
 * sealed with it then. */
static int rebuild_key(struct work *w)
{
	uint8_t key[32];
	int err;

	if (w->from != NULL) return put_key(w);
	err = master_key_read(w->fs, true, key, w->why, w->cap);
	explicit_bzero(key, sizeof(key));
	return err;
}

static int rebuild_steps(struct work *w, struct loc *loc)
{
	int err = loc != NULL ? begin(w) : -GRANARY_ENOMEM;

	if (err == 0) err = rebuild_begin(w, loc);
	if (err == 0) err = places_take_back(w);
	if (err == 0) err = find_incarnation(w);
	if (err == 0) err = rebuild_names(w, loc);
	if (err == 0) err = offline_check_packs(w);
	if (err == 0) err = rebuild_key(w);
	kv_close(&w->kv);
	if (err == 0) err = give_name(w);
	if (err < 0) (void)fs_remove_folder(w->fs, OFFLINE_MADE);
	return err;
}

/* ---- both ---- */

static int open_dir(const char *path, struct fs *given, struct fs **out, struct work *w)
{
	int err = path ? fs_new_kernel(path, out) : 0;

	if (path == NULL) *out = given;
	if (err < 0)
		snprintf(w->why, w->cap, "cannot open %s: %s%s", path, error_text(err),
			err == -GRANARY_ENOTFOUND ? "; make it (mkdir) if it is the one to bring back" : "");
	return err;
}

static int run(struct offline *o, bool is_rebuild, char *why, size_t cap)
{
	struct work w = { .o = o, .why = why, .cap = cap };
	struct loc *loc = is_rebuild ? loc_new(UINT64_C(32) << 20) : NULL;
	int err;

	why[0] = '\0';
	err = open_dir(o->data, o->fs, &w.fs, &w);
	if (err == 0) err = open_dir(o->backup, o->from, &w.from, &w);
	if (err == 0) err = is_rebuild ? rebuild_steps(&w, loc) : restore_steps(&w);
	if (err < 0 && why[0] == '\0')
		snprintf(why, cap, "cannot %s %s: %s", is_rebuild ? "rebuild" : "restore", fs_root(w.fs),
			error_text(err));
	places_close(&w);
	fs_close(&w.lock);
	if (loc != NULL) loc_free(&loc);
	if (o->data != NULL && w.fs != NULL) fs_free(&w.fs);
	if (o->backup != NULL && w.from != NULL) fs_free(&w.from);
	return err;
}

int offline_restore(struct offline *o, char *why, size_t cap)
{
	return run(o, false, why, cap);
}

int offline_rebuild(struct offline *o, char *why, size_t cap)
{
	return run(o, true, why, cap);
}
