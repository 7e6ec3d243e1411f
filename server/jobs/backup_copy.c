/* SPDX-License-Identifier: Apache-2.0 */
/* backup_copy.c -- the files of a checkpoint on their way into the backup, and what goes when newer ones are there.
 * Pieces of 1 MiB are read past the page cache, one at a time, while the kernel writes out those before; what is
 * written leaves its cache at once: that is the service's. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/log.h"
#include "jobs/backup_priv.h"

enum { PIECE_SIZE = 1024 * 1024, PIECE_ALIGN = 64 * 1024 };

/* ---- copying ---- */

/* Somebody may have tidied up in the backup. */
static bool is_there(struct backup *b, const struct backup_file *f)
{
	char path[BACKUP_PATH_MAX];
	struct fs_file *file = NULL;
	bool is_whole;

	snprintf(path, sizeof(path), BACKUP_FILES "/%s", f->stored);
	is_whole = fs_open(b->to, path, FS_READ, &file) == 0 && fs_size(file) == (int64_t)f->size;
	fs_close(&file);
	return is_whole;
}

/* A table never changes, and neither does its identity: what the last checkpoint has of it is it. */
static const struct backup_file *find_kept(struct backup *b, const struct backup_file *f)
{
	size_t len = strlen(f->name);

	if (f->identity == 0 || len < 4 || strcmp(f->name + len - 4, ".sst") != 0) return NULL;
	for (uint32_t i = 0; i < b->last.count; i++) {
		const struct backup_file *k = &b->last.files[i];
		if (k->identity == f->identity && k->size == f->size && strcmp(k->name, f->name) == 0)
			return is_there(b, k) ? k : NULL;
	}
	return NULL;
}

static void count_bytes(struct backup *b, uint64_t *which, uint64_t bytes)
{
	pthread_mutex_lock(&b->lock);
	*which += bytes;
	b->done_bytes += bytes;
	pthread_mutex_unlock(&b->lock);
}

/* One piece; *done is moved. */
static int copy_piece(struct backup *b, struct fs_file *from, struct fs_file *to, struct backup_file *f, uint64_t *done)
{
	size_t want = f->size - *done < PIECE_SIZE ? (size_t)(f->size - *done) : (size_t)PIECE_SIZE;
	int64_t got;
	int err = backup_log_tick(b);

	if (err < 0) log_warn("the log of the backup has a gap: %s", error_text(err)); /* the checkpoint goes on */
	if (atomic_load(&b->stopping)) return -GRANARY_ESHUTDOWN;
	got = fs_read(from, b->piece, PIECE_SIZE, *done);
	if (got < 0) return (int)got;
	if ((size_t)got < want) return -GRANARY_EIO; /* it became shorter */
	f->crc = crc32c(f->crc, b->piece, want);
	err = fs_write(to, b->piece, want, *done);
	if (err < 0) return err;
	fs_write_out(to, *done, want);
	*done += want;
	count_bytes(b, &b->copied_bytes, want);
	return 0;
}

static int copy_bytes(struct backup *b, struct fs_file *from, struct fs_file *to, struct backup_file *f)
{
	uint64_t done = 0;
	int err = f->size > 0 ? fs_allocate(to, 0, f->size) : 0;

	f->crc = 0;
	while (err == 0 && done < f->size) err = copy_piece(b, from, to, f, &done);
	if (err == 0) err = fs_sync(to);
	if (err == 0) fs_forget(to);
	return err;
}

static int copy_file(struct backup *b, struct fs_file *from, struct backup_file *f, uint64_t number)
{
	char path[BACKUP_PATH_MAX];
	struct fs_file *to = NULL;
	int err;

	if ((size_t)snprintf(f->stored, sizeof(f->stored), "%016" PRIx64 "-%s", number, f->name) >= sizeof(f->stored))
		return -GRANARY_ENAME;
	snprintf(path, sizeof(path), BACKUP_FILES "/%s", f->stored);
	err = fs_open(b->to, path, FS_CREATE_NEW, &to);
	if (err == 0) err = copy_bytes(b, from, to, f);
	fs_close(&to);
	return err;
}

static int take_file(struct backup *b, struct backup_manifest *m, const char *name)
{
	char path[BACKUP_PATH_MAX];
	struct backup_file f = { .size = 0 };
	const struct backup_file *kept;
	struct fs_file *from = NULL;
	int64_t size;
	int err;

	if ((size_t)snprintf(f.name, sizeof(f.name), "%s", name) >= sizeof(f.name)) return -GRANARY_ENAME;
	snprintf(path, sizeof(path), BACKUP_MADE "/%s", name);
	err = fs_open(b->o.fs, path, FS_READ | FS_DIRECT, &from);
	if (err < 0) return err;
	size = fs_size(from);
	f.size = size < 0 ? 0 : (uint64_t)size;
	f.identity = fs_identity(from);
	kept = find_kept(b, &f);
	if (kept != NULL) {
		f = *kept;
		count_bytes(b, &b->linked_bytes, f.size);
	} else {
		err = size < 0 ? (int)size : copy_file(b, from, &f, m->number);
	}
	fs_close(&from);
	return err == 0 ? backup_manifest_add(m, &f) : err;
}

struct taking {
	struct backup *b;
	struct backup_manifest *m;
	uint64_t bytes;
	bool only_sum;
};

static int take_one(void *arg, const char *name)
{
	struct taking *t = arg;
	char path[BACKUP_PATH_MAX];
	struct fs_file *f = NULL;
	int64_t size;
	int err;

	if (!t->only_sum) return take_file(t->b, t->m, name);
	snprintf(path, sizeof(path), BACKUP_MADE "/%s", name);
	err = fs_open(t->b->o.fs, path, FS_READ, &f);
	size = err == 0 ? fs_size(f) : err;
	fs_close(&f);
	if (size > 0) t->bytes += (uint64_t)size;
	return size < 0 ? (int)size : 0;
}

static int folder_make(struct fs *fs)
{
	int err = fs_mkdir(fs, BACKUP_FILES);

	if (err < 0) return err == -GRANARY_EEXIST ? 0 : err;
	return fs_sync_dir(fs, "");
}

int backup_copy_files(struct backup *b, struct backup_manifest *m)
{
	struct taking t = { .b = b, .m = m, .only_sum = true };
	int err = folder_make(b->to);

	if (b->piece == NULL) b->piece = aligned_alloc(PIECE_ALIGN, PIECE_SIZE);
	if (b->piece == NULL) return -GRANARY_ENOMEM;
	if (err == 0) err = fs_list(b->o.fs, BACKUP_MADE, take_one, &t);
	pthread_mutex_lock(&b->lock);
	b->total_bytes = t.bytes;
	b->done_bytes = 0;
	pthread_mutex_unlock(&b->lock);
	t.only_sum = false;
	if (err == 0) err = fs_list(b->o.fs, BACKUP_MADE, take_one, &t);
	if (err == 0) err = fs_sync_dir(b->to, BACKUP_FILES);
	return err;
}

/* Without the master key the access keys in the metadata are sealed for ever. */
static int key_put(struct backup *b)
{
	uint8_t ours[64], theirs[64];
	size_t len = 0, there = 0;
	int err = fs_get_file(b->o.fs, BACKUP_KEY, ours, sizeof(ours), &len);

	if (err == 0 && (fs_get_file(b->to, BACKUP_KEY, theirs, sizeof(theirs), &there) < 0 || there != len ||
				memcmp(ours, theirs, len) != 0))
		err = fs_put_file(b->to, BACKUP_KEY, ours, len);
	explicit_bzero(ours, sizeof(ours));
	explicit_bzero(theirs, sizeof(theirs));
	return err;
}

int backup_manifest_put(struct backup *b, const struct backup_manifest *m)
{
	char path[BACKUP_PATH_MAX];
	size_t len;
	char *text = backup_manifest_encode(m, &len);
	int err = text ? key_put(b) : -GRANARY_ENOMEM;

	backup_path(path, BACKUP_MANIFESTS, m->number);
	if (err == 0) err = fs_put_file(b->to, path, text, len);
	free(text);
	return err;
}

/* ---- what is kept ---- */

struct keeping {
	struct fs *fs;
	char **names; /* stored names of kept manifests, sorted */
	uint32_t count, cap;
};

static int name_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int keep_files(struct keeping *k, uint64_t number)
{
	struct backup_manifest m;
	int err = backup_manifest_read(k->fs, number, &m);

	for (uint32_t i = 0; err == 0 && i < m.count; i++) {
		if (k->count == k->cap) {
			uint32_t cap = k->cap ? 2 * k->cap : 256;
			char **names = realloc(k->names, cap * sizeof(*names));
			if (names == NULL) err = -GRANARY_ENOMEM;
			if (names == NULL) break;
			k->names = names;
			k->cap = cap;
		}
		k->names[k->count] = strdup(m.files[i].stored);
		err = k->names[k->count] != NULL ? 0 : -GRANARY_ENOMEM;
		k->count += err == 0;
	}
	backup_manifest_release(&m);
	return err;
}

static int sweep_file(void *arg, const char *name)
{
	const struct keeping *k = arg;
	char path[BACKUP_PATH_MAX + BACKUP_NAME_MAX];
	int err;

	if (bsearch(&name, k->names, k->count, sizeof(*k->names), name_compare) != NULL) return 0;
	snprintf(path, sizeof(path), BACKUP_FILES "/%s", name);
	err = fs_unlink(k->fs, path);
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

static int sweep_numbers(struct fs *fs, const char *prefix, uint64_t below)
{
	char path[BACKUP_PATH_MAX];
	struct backup_numbers n;
	int err = backup_numbers_read(fs, prefix, &n);

	for (uint32_t i = 0; err == 0 && i < n.count && n.at[i] < below; i++) {
		backup_path(path, prefix, n.at[i]);
		err = fs_unlink(fs, path);
	}
	backup_numbers_release(&n);
	return err;
}

static int sweep(struct backup *b, struct keeping *k, const struct backup_numbers *n)
{
	uint32_t first = n->count > b->o.keep ? n->count - b->o.keep : 0;
	int err = 0;

	for (uint32_t i = first; err == 0 && i < n->count; i++) err = keep_files(k, n->at[i]);
	if (err < 0) return err;
	if (k->count > 1) qsort(k->names, k->count, sizeof(*k->names), name_compare);
	err = sweep_numbers(b->to, BACKUP_MANIFESTS, n->at[first]);
	if (err == 0) err = fs_sync_dir(b->to, ""); /* a manifest goes before what it names */
	if (err == 0) err = sweep_numbers(b->to, BACKUP_LOGS, n->at[first]);
	return err == 0 ? fs_list(b->to, BACKUP_FILES, sweep_file, k) : err;
}

int backup_sweep(struct backup *b)
{
	struct keeping k = { .fs = b->to };
	struct backup_numbers n;
	int err = backup_numbers_read(b->to, BACKUP_MANIFESTS, &n);

	if (err == 0 && n.count > 0) err = sweep(b, &k, &n);
	for (uint32_t i = 0; i < k.count; i++) free(k.names[i]);
	free(k.names);
	backup_numbers_release(&n);
	return err;
}
