/* SPDX-License-Identifier: Apache-2.0 */
/* backup_fetch.c -- a backup out of a cold store into a folder, where a restore reads it as any other; see
 * backup_away.h. No server runs, and nothing is written into the store.
 * Invariants: (1) the newest series is the one whose newest manifest has the highest incarnation and position, whatever
 * clocks said; (2) a file that cannot be had whole is left out: the restore finds the checkpoint damaged and takes an
 * older one; a store that cannot be reached is an error. */
#include "jobs/backup_away.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/clock.h"
#include "jobs/backup_names.h"
#include "jobs/backup_priv.h"

#define SECOND_NS UINT64_C(1000000000)
enum { PIECE_SIZE = 1024 * 1024, CALL_S = 60, NAMES_MAX = 1 << 20 };

struct fetch {
	struct cold *cold;
	struct fs *fs;
	const char *into;
	uint8_t *piece;
	char (*names)[COLD_NAME_MAX + 1]; /* all below backup/ */
	uint64_t *lens;
	uint32_t count, cap;
	char series[AWAY_SERIES_LEN + 1];
	uint32_t incarnation;
	uint64_t position, done, total;
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
	void *arg;
};

static uint64_t deadline(void)
{
	return clock_mono_ns() + CALL_S * SECOND_NS;
}

/* ---- where ---- */

bool fetch_is_url(const char *from)
{
	char mark[4200];
	struct fs *fs = NULL;
	bool is_cold;

	if (strncmp(from, "s3+http://", 10) == 0 || strncmp(from, "s3+https://", 11) == 0) return true;
	snprintf(mark, sizeof(mark), "%s", from);
	is_cold = fs_new_kernel(mark, &fs) == 0 && fs_exists(fs, "granary.cold") == 1;
	if (fs != NULL) fs_free(&fs);
	return is_cold;
}

/* One field of what follows the question mark. */
static int field_take(struct store_settings *s, char *field, char *why, size_t cap)
{
	char *value = strchr(field, '=');

	if (value != NULL) *value++ = '\0';
	if (value != NULL && *value != '\0') return store_setting_add(s, field, value, why, cap);
	snprintf(why, cap, "'%.40s' in the address is no FIELD=VALUE", field);
	return -GRANARY_ECONFIG;
}

static int url_take(const char *from, struct store_settings *s, char *why, size_t cap)
{
	char text[STORE_SETTINGS_MAX], endpoint[STORE_SETTINGS_MAX], *fields, *bucket, *prefix, *host;
	int err = strlen(from) < sizeof(text) ? 0 : -GRANARY_ECONFIG;

	if (err == 0) snprintf(text, sizeof(text), "%s", from + 3);
	fields = err == 0 ? strchr(text, '?') : NULL;
	if (fields != NULL) *fields++ = '\0';
	host = err == 0 ? strstr(text, "://") + 3 : NULL;
	bucket = host != NULL ? strchr(host, '/') : NULL;
	if (bucket == NULL || bucket[1] == '\0') {
		snprintf(why, cap, "'%.200s' is no s3+https://HOST[:PORT]/BUCKET[/PREFIX]", from);
		return -GRANARY_ECONFIG;
	}
	*bucket++ = '\0';
	snprintf(endpoint, sizeof(endpoint), "%s", text);
	prefix = strchr(bucket, '/');
	if (prefix != NULL) *prefix++ = '\0';
	for (size_t n = prefix != NULL ? strlen(prefix) : 0; n > 0 && prefix[n - 1] == '/'; n--) prefix[n - 1] = '\0';
	err = store_setting_add(s, "type", "s3", why, cap);
	if (err == 0) err = store_setting_add(s, "endpoint", endpoint, why, cap);
	if (err == 0) err = store_setting_add(s, "bucket", bucket, why, cap);
	if (err == 0 && prefix != NULL && *prefix != '\0') err = store_setting_add(s, "prefix", prefix, why, cap);
	for (char *field; err == 0 && (field = strsep(&fields, "&")) != NULL;) err = field_take(s, field, why, cap);
	return err;
}

static int open_cold(const char *from, struct cold **out, char *why, size_t cap)
{
	struct store_settings s = { .name = "backup" };
	static const struct cold_env env;
	char type[16];
	int err;

	if (strncmp(from, "s3+", 3) == 0) {
		err = url_take(from, &s, why, cap);
	} else {
		err = store_setting_add(&s, "type", "directory", why, cap);
		if (err == 0) err = store_setting_add(&s, "path", from, why, cap);
	}
	if (err == 0) err = store_settings_check(&s, why, cap);
	if (err < 0 || !store_setting(&s, "type", type, sizeof(type))) return err;
	return cold_type_find(type)->open(&s, &env, out, why, cap);
}

/* ---- what is there ---- */

static int name_note(void *arg, const char *name, uint64_t len)
{
	struct fetch *f = arg;

	if (f->count == NAMES_MAX) return -GRANARY_ETOOBIG;
	if (f->count == f->cap) {
		uint32_t cap = f->cap ? 2 * f->cap : 256;
		char(*names)[COLD_NAME_MAX + 1] = realloc(f->names, cap * sizeof(*names));
		if (names != NULL) f->names = names;
		uint64_t *lens = realloc(f->lens, cap * sizeof(*lens));
		if (lens != NULL) f->lens = lens;
		if (names == NULL || lens == NULL) return -GRANARY_ENOMEM;
		f->cap = cap;
	}
	snprintf(f->names[f->count], sizeof(f->names[0]), "%s", name);
	f->lens[f->count++] = len;
	return 0;
}

/* The part behind backup/SERIES/; NULL: it is no such name. */
static const char *rest_of(const char *name, char series[AWAY_SERIES_LEN + 1])
{
	const char *at = name + strlen(AWAY_PREFIX);

	if (strncmp(name, AWAY_PREFIX, strlen(AWAY_PREFIX)) != 0) return NULL;
	if (strspn(at, "0123456789abcdef") != AWAY_SERIES_LEN || at[AWAY_SERIES_LEN] != '/') return NULL;
	snprintf(series, AWAY_SERIES_LEN + 1, "%.*s", AWAY_SERIES_LEN, at);
	return at + AWAY_SERIES_LEN + 1;
}

static bool is_numbered(const char *name, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(name, prefix, len) == 0 && strlen(name + len) == 16 &&
	       strspn(name + len, "0123456789abcdef") == 16;
}

/* An object whole; NULL with *err. */
static uint8_t *object_read(struct fetch *f, uint32_t i, int *err)
{
	uint8_t *buf = f->lens[i] <= BACKUP_MANIFEST_MAX ? malloc((size_t)f->lens[i] + 1) : NULL;
	int64_t got = buf != NULL ? f->cold->ops->get(f->cold, f->names[i], buf, (size_t)f->lens[i], 0, deadline())
				  : -GRANARY_ENOMEM;

	*err = got < 0 ? (int)got : (uint64_t)got < f->lens[i] ? -GRANARY_ECORRUPT : 0;
	if (*err == 0) return buf;
	free(buf);
	return NULL;
}

static bool is_damage(int err)
{
	return err == -GRANARY_ECORRUPT || err == -GRANARY_EBADFORMAT || err == -GRANARY_ENOTFOUND ||
	       err == -GRANARY_EVERSION;
}

/* Which series is newest. Manifests that cannot be read do not count. */
static int series_choose(struct fetch *f)
{
	char series[AWAY_SERIES_LEN + 1];

	for (uint32_t i = 0; i < f->count; i++) {
		const char *rest = rest_of(f->names[i], series);
		struct backup_manifest m;
		int err;
		if (rest == NULL || !is_numbered(rest, BACKUP_MANIFESTS)) continue;
		uint8_t *text = object_read(f, i, &err);
		if (err == 0) err = backup_manifest_decode(slice_of(text, (size_t)f->lens[i]), &m);
		free(text);
		if (err < 0 && !is_damage(err)) return err;
		if (err < 0) continue;
		if (f->series[0] == '\0' || m.incarnation > f->incarnation ||
			(m.incarnation == f->incarnation && m.position > f->position)) {
			memcpy(f->series, series, sizeof(series));
			f->incarnation = m.incarnation;
			f->position = m.position;
		}
		backup_manifest_release(&m);
	}
	return f->series[0] != '\0' ? 0 : -GRANARY_ENOTFOUND;
}

/* ---- bringing it ---- */

static int object_copy(struct fetch *f, uint32_t i, struct fs_file *to)
{
	uint64_t at = 0;
	int err = 0;

	while (err == 0 && at < f->lens[i]) {
		size_t want = f->lens[i] - at < PIECE_SIZE ? (size_t)(f->lens[i] - at) : (size_t)PIECE_SIZE;
		int64_t got = f->cold->ops->get(f->cold, f->names[i], f->piece, want, at, deadline());
		if (got < (int64_t)want) return got < 0 ? (int)got : -GRANARY_ECORRUPT;
		err = fs_write(to, f->piece, want, at);
		at += want;
		f->done += want;
		if (f->progress != NULL) f->progress(f->arg, "backup", f->done, f->total);
	}
	return err;
}

static int object_fetch(struct fetch *f, uint32_t i, const char *folder, const char *name)
{
	char path[BACKUP_PATH_MAX + 2 * COLD_NAME_MAX];
	struct fs_file *to = NULL;
	int err;

	snprintf(path, sizeof(path), "%s/%s%s", f->into, folder, name);
	err = fs_open(f->fs, path, FS_CREATE_NEW, &to);
	if (err == -GRANARY_EEXIST) return 0; /* two checkpoints name it */
	if (err == 0) err = object_copy(f, i, to);
	fs_close(&to);
	return is_damage(err) ? 0 : err;
}

static int file_fetch(struct fetch *f, const struct backup_file *file)
{
	char name[COLD_NAME_MAX + 1];
	int err = away_name(name, f->series, BACKUP_FILES "/", file->stored);

	for (uint32_t i = 0; err == 0 && i < f->count; i++)
		if (strcmp(f->names[i], name) == 0) return object_fetch(f, i, BACKUP_FILES "/", file->stored);
	return err;
}

static int manifest_fetch(struct fetch *f, uint32_t i)
{
	struct backup_manifest m;
	int err;
	uint8_t *text = object_read(f, i, &err);

	if (err == 0) err = backup_manifest_decode(slice_of(text, (size_t)f->lens[i]), &m);
	free(text);
	if (err < 0) return is_damage(err) ? 0 : err;
	for (uint32_t k = 0; err == 0 && k < m.count; k++) err = file_fetch(f, &m.files[k]);
	backup_manifest_release(&m);
	return err;
}

/* What is no file of the metadata keeps its name; those come by way of the manifests, which know theirs. */
static int series_fetch(struct fetch *f)
{
	char series[AWAY_SERIES_LEN + 1];
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < f->count; i++) {
		const char *rest = rest_of(f->names[i], series);
		if (rest == NULL || strcmp(series, f->series) != 0) continue;
		if (strcmp(rest, BACKUP_TITLE) == 0 || strcmp(rest, BACKUP_KEY) == 0 ||
			is_numbered(rest, BACKUP_LOGS) || is_numbered(rest, BACKUP_MANIFESTS))
			err = object_fetch(f, i, "", rest);
		if (err == 0 && is_numbered(rest, BACKUP_MANIFESTS)) err = manifest_fetch(f, i);
	}
	return err;
}

int fetch_remove(struct fs *fs, const char *into)
{
	char files[BACKUP_PATH_MAX];
	int err;

	snprintf(files, sizeof(files), "%s/" BACKUP_FILES, into);
	err = fs_remove_folder(fs, files);
	return err == 0 || err == -GRANARY_ENOTFOUND ? fs_remove_folder(fs, into) : err;
}

static int folders_make(struct fetch *f)
{
	char files[BACKUP_PATH_MAX];
	int err = fetch_remove(f->fs, f->into);

	snprintf(files, sizeof(files), "%s/" BACKUP_FILES, f->into);
	if (err == 0) err = fs_mkdir(f->fs, f->into);
	return err == 0 ? fs_mkdir(f->fs, files) : err;
}

int fetch_backup(const char *from, struct fs *fs, const char *into,
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total), void *arg, char *why,
	size_t why_cap)
{
	struct fetch f = { .fs = fs, .into = into, .progress = progress, .arg = arg, .piece = malloc(PIECE_SIZE) };
	int err = f.piece != NULL ? open_cold(from, &f.cold, why, why_cap) : -GRANARY_ENOMEM;

	if (err == 0) {
		err = f.cold->ops->list(f.cold, AWAY_PREFIX, deadline(), name_note, &f);
		if (err == 0) err = series_choose(&f);
		for (uint32_t i = 0; i < f.count; i++) f.total += f.lens[i];
		if (err == 0) err = folders_make(&f);
		if (err == 0) err = series_fetch(&f);
		if (err == -GRANARY_ENOTFOUND)
			snprintf(why, why_cap,
				"%s holds no backup; one gets there from a server whose setting of that store says "
				"backup: on",
				f.cold->where);
		else if (err < 0)
			snprintf(why, why_cap, "cannot fetch the backup from %s: %s", f.cold->where, error_text(err));
		f.cold->ops->close(f.cold);
	}
	free(f.piece);
	free(f.names);
	free(f.lens);
	return err;
}
