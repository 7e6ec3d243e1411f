/* SPDX-License-Identifier: Apache-2.0 */
/* offline.c -- see offline.h. */
#include "req/offline.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/id.h"
#include "io/fs.h"
#include "jobs/restore.h"
#include "meta/kv.h"
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
	w->has_super = has == 1;
	return has < 0 ? has : 0;
}

static int check_store(struct work *w, const uint8_t store_id[16])
{
	if (!w->has_super) {
		memcpy(w->super.store_id, store_id, sizeof(w->super.store_id));
		return 0;
	}
	if (memcmp(w->super.store_id, store_id, sizeof(w->super.store_id)) == 0) return 0;
	snprintf(w->why, w->cap,
		"%s is the data directory of another store than the backup is of; choose another directory",
		fs_root(w->fs));
	return -GRANARY_EBADFORMAT;
}

/* ---- incarnation, key, superblock, name ---- */

static int find_incarnation(struct work *w)
{
	uint32_t rows = 0, names = 0;
	int err = incarnation_of_rows(w->kv, &rows);

	if (err == 0) err = packs_incarnation_in(w->fs, &names);
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
		.progress_arg = w->o->progress_arg };
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
	return check_store(w, r.store_id);
}

static int restore_steps(struct work *w)
{
	int err = take_lock(w);

	if (err == 0) err = read_super(w);
	if (err == 0) err = refuse_meta(w);
	if (err == 0) err = bring_metadata(w);
	if (err == 0) err = find_incarnation(w);
	if (err == 0) err = offline_check_packs(w);
	if (err == 0) err = put_key(w);
	kv_close(&w->kv); /* written out before it has its name */
	if (err == 0) err = give_name(w);
	if (err < 0) (void)fs_remove_folder(w->fs, OFFLINE_MADE);
	return err;
}

static int open_dir(const char *path, struct fs *given, struct fs **out, struct work *w)
{
	int err = path ? fs_new_kernel(path, out) : 0;

	if (path == NULL) *out = given;
	if (err < 0)
		snprintf(w->why, w->cap, "cannot open %s: %s%s", path, error_text(err),
			err == -GRANARY_ENOTFOUND ? "; make it (mkdir) if it is the one to restore to" : "");
	return err;
}

int offline_restore(struct offline *o, char *why, size_t cap)
{
	struct work w = { .o = o, .why = why, .cap = cap };
	int err;

	why[0] = '\0';
	err = open_dir(o->data, o->fs, &w.fs, &w);
	if (err == 0) err = open_dir(o->backup, o->from, &w.from, &w);
	if (err == 0) err = restore_steps(&w);
	if (err < 0 && why[0] == '\0') snprintf(why, cap, "cannot restore %s: %s", fs_root(w.fs), error_text(err));
	fs_close(&w.lock);
	if (o->data != NULL && w.fs != NULL) fs_free(&w.fs);
	if (o->backup != NULL && w.from != NULL) fs_free(&w.from);
	return err;
}
