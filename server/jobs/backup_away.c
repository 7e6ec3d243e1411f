/* SPDX-License-Identifier: Apache-2.0 */
/* backup_away.c -- see backup_away.h. */
#include "jobs/backup_away.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/rand.h"
#include "jobs/backup_names.h"
#include "jobs/backup_priv.h"
#include "tier/stores.h"

#define SECOND_NS UINT64_C(1000000000)
enum { PIECE_SIZE = 1024 * 1024, CALL_S = 60, LOOK_S = 1, RETRY_MAX_S = 64, STOP_S = 5, AWAY_NICE = 10 };

/* One store that the backup goes to. */
struct target {
	struct place *place;
	uint64_t number; /* of the newest checkpoint there, of this run */
	uint64_t done_ns, retry_ns, made, failures, bytes;
	uint32_t in_row;
	char why[BACKUP_WHY_MAX]; /* "": the last try went well */
};
struct away {
	struct away_options o;
	struct target targets[STORES_MAX];
	uint32_t count;
	struct fs *fs;
	char series[AWAY_SERIES_LEN + 1];
	uint8_t piece[PIECE_SIZE];
	pthread_t thread;
	pthread_mutex_t lock; /* of the numbers and texts of targets */
	_Atomic bool stopping;
};

static uint64_t deadline(void)
{
	return clock_mono_ns() + CALL_S * SECOND_NS;
}

static bool is_on(const struct store_settings *s)
{
	char text[8];

	return store_setting(s, "backup", text, sizeof(text)) && strcmp(text, "on") == 0;
}

bool away_is_wanted(const struct store_settings *settings, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (is_on(&settings[i])) return true;
	return false;
}

/* ---- what is there ---- */

struct object {
	char name[COLD_NAME_MAX + 1];
	uint64_t len;
};
struct objects {
	struct object *at;
	uint32_t count, cap;
};

static int object_note(void *arg, const char *name, uint64_t len)
{
	struct objects *o = arg;

	if (o->count == o->cap) {
		uint32_t cap = o->cap ? 2 * o->cap : 256;
		struct object *at = realloc(o->at, cap * sizeof(*at));
		if (at == NULL) return -GRANARY_ENOMEM;
		o->at = at;
		o->cap = cap;
	}
	snprintf(o->at[o->count].name, sizeof(o->at[0].name), "%s", name);
	o->at[o->count++].len = len;
	return 0;
}

static int object_compare(const void *a, const void *b)
{
	return strcmp(((const struct object *)a)->name, ((const struct object *)b)->name);
}

static int objects_read(struct away *a, struct target *t, struct objects *out)
{
	char prefix[COLD_NAME_MAX + 1];
	int err = away_name(prefix, a->series, "", "");

	if (err == 0) err = place_list(t->place, prefix, deadline(), object_note, out);
	if (err == 0 && out->count > 1) qsort(out->at, out->count, sizeof(out->at[0]), object_compare);
	return err;
}

static const struct object *object_find(const struct objects *o, const char *name)
{
	struct object key;

	snprintf(key.name, sizeof(key.name), "%s", name);
	return o->count > 0 ? bsearch(&key, o->at, o->count, sizeof(o->at[0]), object_compare) : NULL;
}

/* ---- putting ---- */

static int bytes_put(
	struct away *a, struct target *t, struct fs_file *f, struct cold_put *put, uint64_t len, uint32_t *crc)
{
	int err = 0;

	for (uint64_t at = 0; err == 0 && at < len;) {
		size_t want = len - at < PIECE_SIZE ? (size_t)(len - at) : (size_t)PIECE_SIZE;
		int64_t got = atomic_load(&a->stopping) ? -GRANARY_ESHUTDOWN : fs_read(f, a->piece, want, at);
		if (got < (int64_t)want) return got < 0 ? (int)got : -GRANARY_ECORRUPT;
		*crc = crc32c(*crc, a->piece, want);
		err = place_put_write(t->place, put, a->piece, want, deadline());
		at += want;
	}
	return err;
}

/* A file of the backup directory; crc NULL: not known. */
static int file_put(struct away *a, struct target *t, const char *path, const char *name, const uint32_t *crc)
{
	struct fs_file *f = NULL;
	struct cold_put *put = NULL;
	uint32_t sum = 0;
	int err = fs_open(a->fs, path, FS_READ, &f);
	int64_t len = err == 0 ? fs_size(f) : err;

	err = len < 0 ? (int)len : place_put_begin(t->place, name, (uint64_t)len, deadline(), &put);
	if (err == 0) err = bytes_put(a, t, f, put, (uint64_t)len, &sum);
	if (err == 0 && crc != NULL && sum != *crc) err = -GRANARY_ECORRUPT;
	if (err == 0)
		err = place_put_finish(t->place, &put, deadline());
	else if (put != NULL)
		place_put_abort(&put);
	fs_close(&f);
	pthread_mutex_lock(&a->lock);
	if (err == 0) t->bytes += (uint64_t)len;
	pthread_mutex_unlock(&a->lock);
	return err;
}

/* Unless it is there in that length: what has this name never changes. */
static int file_ensure(struct away *a, struct target *t, const struct objects *there, const char *folder,
	const char *name, uint64_t len, const uint32_t *crc)
{
	char path[BACKUP_PATH_MAX], object[COLD_NAME_MAX + 1];
	const struct object *have;
	int err = away_name(object, a->series, folder, name);

	if (err < 0) return err;
	have = object_find(there, object);
	if (have != NULL && have->len == len) return 0;
	snprintf(path, sizeof(path), "%s%s", folder, name);
	return file_put(a, t, path, object, crc);
}

static int small_ensure(struct away *a, struct target *t, const struct objects *there, const char *name)
{
	struct fs_file *f = NULL;
	int err = fs_open(a->fs, name, FS_READ, &f);
	int64_t len = err == 0 ? fs_size(f) : err;

	fs_close(&f);
	if (len == -GRANARY_ENOTFOUND && strcmp(name, BACKUP_KEY) == 0) return 0;
	return len < 0 ? (int)len : file_ensure(a, t, there, "", name, (uint64_t)len, NULL);
}

/* Logs that ended: from that of the oldest kept checkpoint on, up to the one before the newest. */
static int logs_put(struct away *a, struct target *t, const struct objects *there, uint64_t first, uint64_t below)
{
	struct backup_numbers logs;
	char name[BACKUP_PATH_MAX];
	int err = backup_numbers_read(a->fs, BACKUP_LOGS, &logs);

	for (uint32_t i = 0; err == 0 && i < logs.count; i++) {
		struct fs_file *f = NULL;
		if (logs.at[i] < first || logs.at[i] >= below) continue;
		backup_path(name, BACKUP_LOGS, logs.at[i]);
		err = fs_open(a->fs, name, FS_READ, &f);
		int64_t len = err == 0 ? fs_size(f) : err;
		fs_close(&f);
		err = len < 0 ? (int)len : file_ensure(a, t, there, "", name, (uint64_t)len, NULL);
	}
	backup_numbers_release(&logs);
	return err;
}

/* ---- what goes ---- */

struct keeping {
	struct objects names; /* that a manifest names */
	struct backup_numbers numbers; /* of manifests in the store, ascending */
};

static int keep_named(struct keeping *k, const char *series, const struct backup_manifest *m)
{
	char name[COLD_NAME_MAX + 1];
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < m->count; i++) {
		err = away_name(name, series, BACKUP_FILES "/", m->files[i].stored);
		if (err == 0) err = object_note(&k->names, name, 0);
	}
	return err;
}

static int keep_remote(struct away *a, struct target *t, struct keeping *k, const struct object *o)
{
	struct backup_manifest m = { .count = 0 };
	uint8_t *text = o->len <= BACKUP_MANIFEST_MAX ? malloc((size_t)o->len + 1) : NULL;
	int64_t len = text ? place_get(t->place, o->name, text, (size_t)o->len, 0, deadline()) : -GRANARY_ENOMEM;
	int err = len < 0 ? (int)len : backup_manifest_decode(slice_of(text, (size_t)len), &m);

	if (err == 0) err = keep_named(k, a->series, &m);
	backup_manifest_release(&m);
	free(text);
	return err;
}

static int keep_local(struct away *a, struct keeping *k)
{
	struct backup_numbers n;
	int err = backup_numbers_read(a->fs, BACKUP_MANIFESTS, &n);

	for (uint32_t i = 0; err == 0 && i < n.count; i++) {
		struct backup_manifest m;
		err = backup_manifest_read(a->fs, n.at[i], &m);
		if (err == 0) err = keep_named(k, a->series, &m);
		backup_manifest_release(&m);
		if (err == -GRANARY_ENOTFOUND) err = 0; /* the backup let go of it just now */
	}
	backup_numbers_release(&n);
	return err;
}

/* Number of a name backup/SERIES/PREFIX<16 hex>; 0: it is none. */
static uint64_t number_of(const char *name, const char *prefix)
{
	const char *at = name + strlen(AWAY_PREFIX) + AWAY_SERIES_LEN + 1;
	size_t len = strlen(prefix);

	if (strlen(name) < (size_t)(at - name) + len + 16 || strncmp(at, prefix, len) != 0) return 0;
	return strspn(at + len, "0123456789abcdef") == 16 && at[len + 16] == '\0' ? strtoull(at + len, NULL, 16) : 0;
}

static int sweep_object(
	struct away *a, struct target *t, const struct keeping *k, const struct object *o, uint64_t oldest)
{
	char files[COLD_NAME_MAX + 1];
	uint64_t manifest = number_of(o->name, BACKUP_MANIFESTS), log = number_of(o->name, BACKUP_LOGS);
	bool goes = (manifest != 0 && manifest < oldest) || (log != 0 && log < oldest);
	int err = away_name(files, a->series, BACKUP_FILES "/", "");

	if (err < 0) return err;
	if (strncmp(o->name, files, strlen(files)) == 0) goes = object_find(&k->names, o->name) == NULL;
	return goes ? place_remove(t->place, o->name, deadline()) : 0;
}

/* `there` was listed before this checkpoint's objects were put: these are not looked at. */
static int sweep(struct away *a, struct target *t, const struct objects *there, uint64_t newest)
{
	struct keeping k = { .names = { .count = 0 } };
	uint64_t kept[1024] = { newest }, oldest;
	uint32_t count = 1;
	int err = keep_local(a, &k);

	/* Names ascend: from the end on, the newest ones. */
	for (uint32_t i = there->count; err == 0 && i-- > 0 && count < a->o.keep;) {
		uint64_t number = number_of(there->at[i].name, BACKUP_MANIFESTS);
		if (number == 0 || number == newest) continue;
		kept[count++] = number;
		err = keep_remote(a, t, &k, &there->at[i]);
	}
	oldest = kept[count - 1];
	if (err == 0 && k.names.count > 1) qsort(k.names.at, k.names.count, sizeof(k.names.at[0]), object_compare);
	for (uint32_t pass = 0; err == 0 && pass < 2; pass++) /* a manifest goes before what it names */
		for (uint32_t i = 0; err == 0 && i < there->count; i++)
			if ((number_of(there->at[i].name, BACKUP_MANIFESTS) != 0) == (pass == 0))
				err = sweep_object(a, t, &k, &there->at[i], oldest);
	free(k.names.at);
	return err;
}

/* ---- one checkpoint into one store ---- */

static int files_put(struct away *a, struct target *t, const struct objects *there, const struct backup_manifest *m)
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < m->count; i++)
		err = file_ensure(
			a, t, there, BACKUP_FILES "/", m->files[i].stored, m->files[i].size, &m->files[i].crc);
	return err;
}

static int checkpoint_steps(struct away *a, struct target *t, const struct backup_numbers *n,
	const struct backup_manifest *m, struct objects *there, const char **what)
{
	char name[BACKUP_PATH_MAX];
	int err;

	*what = "look what is there";
	err = objects_read(a, t, there);
	if (err < 0) return err;
	*what = "put title and key";
	err = small_ensure(a, t, there, BACKUP_TITLE);
	if (err == 0) err = small_ensure(a, t, there, BACKUP_KEY);
	if (err < 0) return err;
	*what = "put files of the metadata";
	err = files_put(a, t, there, m);
	if (err < 0) return err;
	*what = "put the log";
	err = logs_put(a, t, there, n->at[0], m->number);
	if (err < 0) return err;
	*what = "put the manifest";
	backup_path(name, BACKUP_MANIFESTS, m->number);
	err = small_ensure(a, t, there, name);
	if (err < 0) return err;
	*what = "remove what is not kept any more";
	return sweep(a, t, there, m->number);
}

static int checkpoint_put(struct away *a, struct target *t, const struct backup_numbers *n, const char **what)
{
	struct objects there = { .count = 0 };
	struct backup_manifest m;
	int err = backup_manifest_read(a->fs, n->at[n->count - 1], &m);

	if (err == 0) err = checkpoint_steps(a, t, n, &m, &there, what);
	backup_manifest_release(&m);
	free(there.at);
	return err;
}

static void told(struct away *a, struct target *t, uint64_t number, int err, const char *what)
{
	char why[BACKUP_WHY_MAX] = "";
	bool is_news;

	if (err == -GRANARY_ESHUTDOWN) return;
	if (err < 0) snprintf(why, sizeof(why), "cannot %s: %s", what, error_text(err));
	pthread_mutex_lock(&a->lock);
	is_news = strcmp(why, t->why) != 0;
	snprintf(t->why, sizeof(t->why), "%s", why);
	t->failures += err < 0;
	t->in_row = err < 0 ? t->in_row + 1 : 0;
	t->retry_ns = clock_mono_ns() + (SECOND_NS << (t->in_row < 6 ? t->in_row : 6));
	if (err == 0) {
		t->number = number;
		t->made++;
		t->done_ns = clock_mono_ns();
	}
	pthread_mutex_unlock(&a->lock);
	if (is_news && err < 0)
		log_error("the backup does not get to the store '%s': %s; it is tried again until it works",
			place_name(t->place), why);
	if (is_news && err == 0) log_info("the backup gets to the store '%s' again", place_name(t->place));
}

/* ---- the thread ---- */

/* The series of the directory: drawn once. */
static int series_read(struct away *a)
{
	char text[AWAY_SERIES_LEN + 2] = "";
	uint64_t drawn;
	size_t len = 0;
	int err = fs_get_file(a->fs, AWAY_SERIES, text, sizeof(text) - 1, &len);

	if (err == -GRANARY_ENOTFOUND) {
		rand_bytes(&drawn, sizeof(drawn));
		len = (size_t)snprintf(text, sizeof(text), "%016" PRIx64, drawn);
		err = fs_put_file(a->fs, AWAY_SERIES, text, len);
	}
	if (err == 0 && (len != AWAY_SERIES_LEN || strspn(text, "0123456789abcdef") != len)) err = -GRANARY_EBADFORMAT;
	if (err == 0) memcpy(a->series, text, AWAY_SERIES_LEN + 1);
	return err;
}

/* Looks for a new checkpoint, and brings it to each store that has it not. */
static int look(struct away *a)
{
	struct backup_numbers n = { .count = 0 };
	uint8_t id[16];
	int err = fs_new_kernel(a->o.dir, &a->fs);

	if (err < 0) return err;
	err = backup_title_read(a->fs, id) == 1 ? backup_numbers_read(a->fs, BACKUP_MANIFESTS, &n) : 0;
	if (err == 0 && n.count > 0) err = series_read(a);
	for (uint32_t i = 0; err == 0 && n.count > 0 && i < a->count; i++) {
		struct target *t = &a->targets[i];
		const char *what = "read the backup";
		if (t->number == n.at[n.count - 1] || clock_mono_ns() < t->retry_ns) continue;
		int res = checkpoint_put(a, t, &n, &what);
		told(a, t, n.at[n.count - 1], res, what);
	}
	backup_numbers_release(&n);
	fs_free(&a->fs);
	return err;
}

static void *away_main(void *arg)
{
	static const struct timespec pause = { .tv_nsec = 100000000 };
	struct away *a = arg;

	setpriority(PRIO_PROCESS, 0, AWAY_NICE); /* of this thread alone, on Linux */
	while (!atomic_load(&a->stopping)) {
		(void)look(a); /* of the directory the backup itself tells */
		for (int i = 0; i < 10 * LOOK_S && !atomic_load(&a->stopping); i++) nanosleep(&pause, NULL);
	}
	return NULL;
}

int away_open(const struct away_options *options, struct away **out)
{
	struct away *a = calloc(1, sizeof(*a));

	*out = NULL;
	if (a == NULL) return -GRANARY_ENOMEM;
	a->o = *options;
	pthread_mutex_init(&a->lock, NULL);
	for (uint32_t i = 0; i < stores_count(a->o.stores); i++) {
		struct place *p = stores_at(a->o.stores, i);
		if (is_on(place_settings(p))) a->targets[a->count++].place = p;
	}
	if (a->count == 0 || pthread_create(&a->thread, NULL, away_main, a) != 0) {
		int err = a->count == 0 ? 0 : -GRANARY_ENOMEM;
		pthread_mutex_destroy(&a->lock);
		free(a);
		return err;
	}
	pthread_setname_np(a->thread, "granary-away");
	*out = a;
	return 0;
}

bool away_close(struct away **ap)
{
	struct away *a = *ap;
	struct timespec until;

	*ap = NULL;
	if (a == NULL) return true;
	atomic_store(&a->stopping, true);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STOP_S;
	if (pthread_timedjoin_np(a->thread, NULL, &until) != 0) {
		log_warn("the backup hangs in a cold store: the stop goes on without it");
		return false;
	}
	pthread_mutex_destroy(&a->lock);
	free(a);
	return true;
}

size_t away_status(struct away *a, char *buf, size_t cap)
{
	size_t len = 0;

	pthread_mutex_lock(&a->lock);
	for (uint32_t i = 0; i < a->count && len < cap; i++) {
		const struct target *t = &a->targets[i];
		const char *name = place_name(t->place);
		int n = snprintf(buf + len, cap - len,
			"backup_to_%s_failing %d\nbackup_to_%s_number %" PRIu64 "\nbackup_to_%s_age_s %" PRIu64
			"\nbackup_to_%s_bytes %" PRIu64 "\nbackup_to_%s_failures %" PRIu64 "\n%s%s%s%s%s",
			name, t->why[0] != '\0', name, t->number, name,
			t->done_ns ? (clock_mono_ns() - t->done_ns) / SECOND_NS : 0, name, t->bytes, name, t->failures,
			t->why[0] ? "backup_to_" : "", t->why[0] ? name : "", t->why[0] ? "_error " : "", t->why,
			t->why[0] ? "\n" : "");
		if (n < 0 || (size_t)n >= cap - len) break;
		len += (size_t)n;
	}
	pthread_mutex_unlock(&a->lock);
	return len;
}
