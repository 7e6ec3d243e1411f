/* SPDX-License-Identifier: Apache-2.0 */
/* offline_places.c -- the hot directories of a store that does not run.
 * Invariant: a directory is known by its superblock; one of another store is refused where it was asked for, and passed
 * over where a row names its path. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "req/offline_priv.h"
#include "tier/drives.h"
#include "tier/packs.h"

static int place_fs(struct work *w, const char *path, struct fs **out)
{
	return w->o->open_fs != NULL ? w->o->open_fs(w->o->open_arg, path, out) : fs_new_kernel(path, out);
}

static bool has_place(const struct work *w, uint64_t store)
{
	for (uint32_t i = 0; i < w->place_count; i++)
		if (w->places[i].store == store) return true;
	return false;
}

/* Takes fs over when it is one more. `why` is set to what is wrong with it. */
static int place_add(struct work *w, const char *path, struct fs *fs, const char **what)
{
	uint8_t store_id[16];
	uint32_t incarnation = 0;
	uint64_t id = 0;
	int has = drive_identify(fs, store_id, &id, &incarnation);

	*what = has < 0 ? error_text(has) : "it holds no granary.drive; is the disk mounted there?";
	if (has != 1) return has < 0 ? has : -GRANARY_ENOTFOUND;
	*what = "it belongs to another store";
	if (w->has_id && memcmp(store_id, w->super.store_id, sizeof(store_id)) != 0) return -GRANARY_EBADFORMAT;
	*what = "more hot directories than there can be";
	if (w->place_count == PLACES_MAX) return -GRANARY_ETOOBIG;
	*what = "another directory is the same drive";
	if (has_place(w, id)) return -GRANARY_EEXIST;
	if (!w->has_id) memcpy(w->super.store_id, store_id, sizeof(store_id));
	w->has_id = true;
	if (incarnation > w->incarnation) w->incarnation = incarnation;
	w->places[w->place_count++] = (struct rebuild_place){ .fs = fs, .store = id };
	log_info("looks for packs in a hot directory; path='%s' drive=%016" PRIx64, path, id);
	return 0;
}

int places_open(struct work *w)
{
	w->places[0] = (struct rebuild_place){ .fs = w->fs, .store = DRIVE_DATA };
	w->place_count = 1;
	for (uint32_t i = 0; i < w->o->hot_count; i++) {
		const char *what = "";
		struct fs *fs = NULL;
		int err = place_fs(w, w->o->hot[i], &fs);

		if (err < 0)
			what = err == -GRANARY_ENOTFOUND ? "it does not exist; mount it, or leave it out"
							 : error_text(err);
		else
			err = place_add(w, w->o->hot[i], fs, &what);
		if (err == 0) continue;
		snprintf(w->why, w->cap, "cannot use the hot directory '%s': %s", w->o->hot[i], what);
		fs_free(&fs);
		return err;
	}
	return 0;
}

static void place_of_row(struct work *w, uint64_t store, struct slice path)
{
	char text[DRIVE_PATH_MAX], told[2 * DRIVE_PATH_MAX];
	const char *what = "";
	struct fs *fs = NULL;
	int err;

	if (store == DRIVE_DATA || has_place(w, store) || path.len >= sizeof(text)) return;
	memcpy(text, path.p, path.len);
	text[path.len] = '\0';
	err = place_fs(w, text, &fs);
	what = err < 0 ? error_text(err) : "another drive is mounted there";
	if (err == 0) err = place_add(w, text, fs, &what);
	if (err == 0 && w->places[w->place_count - 1].store == store) return;
	if (err == 0) return; /* a drive of ours that a row names elsewhere */
	fs_free(&fs);
	snprintf(told, sizeof(told), "%s: %s", text, what);
	tell_lost(w, "drive", told);
}

int places_open_rows(struct work *w)
{
	struct kv_iter *it = kv_iter_new(w->kv, NULL);
	struct slice path;
	int err;

	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, slice_str("f")); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (key.p[0] != 'f') break;
		if (key.len == 9 && value_bytes(kv_iter_value(it), FTAG_PATH, &path))
			place_of_row(w, be64_get(key.p + 1), path);
	}
	err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

void places_close(struct work *w)
{
	for (uint32_t i = 1; i < w->place_count; i++) fs_free(&w->places[i].fs);
	w->place_count = 0;
}

int places_incarnation(struct work *w, uint32_t *out)
{
	int err = 0;

	*out = w->incarnation;
	for (uint32_t i = 0; err == 0 && i < w->place_count; i++) {
		uint32_t names = 0;
		err = packs_incarnation_in(w->places[i].fs, &names);
		if (names > *out) *out = names;
	}
	return err;
}

static int take_back_one(void *arg, const char *name)
{
	struct fs *fs = ((struct work *)arg)->looked;
	char from[PACKS_NAME_MAX + 32], to[PACKS_NAME_MAX + 16], dir[16];
	uint64_t id = 0;
	int err;

	if (!packs_name_parse(name, &id)) return 0;
	snprintf(dir, sizeof(dir), "packs/%02x", (unsigned)(id & 0xff));
	snprintf(from, sizeof(from), OFFLINE_UNKNOWN "/%s", name);
	snprintf(to, sizeof(to), "%s/%s", dir, name);
	err = fs_mkdir(fs, "packs");
	if (err == 0 || err == -GRANARY_EEXIST) err = fs_mkdir(fs, dir);
	if (err == 0 || err == -GRANARY_EEXIST) err = fs_sync_dir(fs, "packs");
	if (err == 0) err = fs_rename(fs, from, to);
	return err == 0 ? fs_sync_dir(fs, dir) : err;
}

int places_take_back(struct work *w)
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < w->place_count; i++) {
		w->looked = w->places[i].fs;
		err = fs_list(w->looked, OFFLINE_UNKNOWN, take_back_one, w);
		if (err == -GRANARY_ENOTFOUND) err = 0;
	}
	if (err < 0)
		snprintf(w->why, w->cap, "cannot take the packs in " OFFLINE_UNKNOWN " back: %s", error_text(err));
	return err;
}
