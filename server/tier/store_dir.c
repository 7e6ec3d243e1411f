/* SPDX-License-Identifier: Apache-2.0 */
/* store_dir.c -- a cold store that is a directory: a slow disk, NFS.
 * Invariants: store.h's, and: (1) an object is written under the name NAME.part, synced, renamed, its
 * directory synced: it is seen whole or not at all; (2) no directory is made but below the path of the
 * settings, and that one never: an empty mount point is for the caller to notice (stores.h); (3) the path is
 * opened anew after it could not be used, and when the mark is read: another file system may be there by now;
 * (4) reads are not retried: the kernel did what can be done; (5) files that were read stay open for OPEN_NS: what
 * was removed there is noticed that much later, and a read costs one call. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "tier/store.h"

enum { PIECE = 1024 * 1024, ALIGN = 4096, PATH_LEN_MAX = 1024, OPEN_MAX = 32 };
#define OPEN_NS UINT64_C(1000000000)

struct dir {
	struct cold cold;
	struct cold_env env;
	char path[PATH_LEN_MAX];
	pthread_mutex_t lock;
	struct dir_fs *now; /* under lock; NULL: to be opened */
};

/* A file that is read: closed when the table and all readers let go of it. */
struct dir_file {
	char name[COLD_NAME_MAX + 1];
	struct fs_file *file;
	uint64_t opened_ns;
	uint32_t refs; /* under dir->lock */
};

/* One opened directory: closed when the last one that uses it is through. refs and files: under dir->lock. */
struct dir_fs {
	struct fs *fs;
	uint32_t refs;
	struct dir_file *files[OPEN_MAX];
};

struct dir_put {
	struct cold_put put;
	struct dir *dir;
	struct dir_fs *in;
	struct fs_file *file;
	uint8_t *piece;
	size_t filled;
	uint64_t at;
	char name[COLD_NAME_MAX + 1];
};

/* ---- the directory ---- */

static int dir_take(struct dir *d, struct dir_fs **out)
{
	struct dir_fs *in;
	int err = 0;

	pthread_mutex_lock(&d->lock);
	in = d->now;
	if (in == NULL) {
		in = calloc(1, sizeof(*in));
		err = in == NULL            ? -GRANARY_ENOMEM
		      : d->env.open_fs != NULL ? d->env.open_fs(d->env.open_arg, d->path, &in->fs)
					       : fs_new_kernel(d->path, &in->fs);
		if (err < 0) {
			free(in);
			in = NULL;
			if (err != -GRANARY_ENOMEM && err != -GRANARY_EACCESS) err = -GRANARY_EOFFLINE;
		} else {
			in->refs = 1; /* d->now's */
			d->now = in;
		}
	}
	if (in != NULL) in->refs++;
	pthread_mutex_unlock(&d->lock);
	*out = in;
	return err;
}

/* Under dir->lock: so many references fewer. */
static void unref(struct dir_fs *in, uint32_t count)
{
	in->refs -= count;
	if (in->refs > 0) return;
	for (uint32_t i = 0; i < OPEN_MAX; i++) {
		if (in->files[i] == NULL) continue;
		fs_close(&in->files[i]->file); /* who reads holds the directory too */
		free(in->files[i]);
	}
	fs_free(&in->fs);
	free(in);
}

/* err: how it went. What may mean that the place itself is gone lets it be opened anew next time. */
static int dir_give(struct dir *d, struct dir_fs *in, int err)
{
	bool gone = err == -GRANARY_EIO || err == -GRANARY_ENOTFOUND || err == -GRANARY_ESTALE ||
		err == -GRANARY_EOFFLINE;

	pthread_mutex_lock(&d->lock);
	gone = gone && d->now == in;
	if (gone) d->now = NULL;
	unref(in, gone ? 2 : 1);
	pthread_mutex_unlock(&d->lock);
	return err == -GRANARY_ESTALE ? -GRANARY_EOFFLINE : err;
}

/* The next call opens the path anew. */
static void dir_renew(struct dir *d)
{
	pthread_mutex_lock(&d->lock);
	if (d->now != NULL) unref(d->now, 1);
	d->now = NULL;
	pthread_mutex_unlock(&d->lock);
}

/* ---- files that stay open ---- */

static void file_give(struct dir *d, struct dir_file *f)
{
	uint32_t left;

	if (f == NULL) return;
	pthread_mutex_lock(&d->lock);
	left = --f->refs;
	pthread_mutex_unlock(&d->lock);
	if (left > 0) return;
	fs_close(&f->file);
	free(f);
}

/* Its place in the table, or the one that is to be left for it. Under dir->lock. */
static struct dir_file **file_slot(struct dir_fs *in, const char *name)
{
	struct dir_file **oldest = &in->files[0];

	for (uint32_t i = 0; i < OPEN_MAX; i++) {
		struct dir_file *f = in->files[i];

		if (f != NULL && strcmp(f->name, name) == 0) return &in->files[i];
		if (*oldest != NULL && (f == NULL || f->opened_ns < (*oldest)->opened_ns)) oldest = &in->files[i];
	}
	return oldest;
}

static struct dir_file *file_known(struct dir *d, struct dir_fs *in, const char *name)
{
	struct dir_file *f;

	pthread_mutex_lock(&d->lock);
	f = *file_slot(in, name);
	if (f != NULL && (strcmp(f->name, name) != 0 || clock_mono_ns() - f->opened_ns >= OPEN_NS)) f = NULL;
	if (f != NULL) f->refs++;
	pthread_mutex_unlock(&d->lock);
	return f;
}

/* What the table has under this name, or in its place, goes; f (or nothing) is there instead. */
static void file_set(struct dir *d, struct dir_fs *in, const char *name, struct dir_file *f)
{
	struct dir_file **slot, *old;

	pthread_mutex_lock(&d->lock);
	slot = file_slot(in, name);
	old = *slot;
	if (f == NULL && old != NULL && strcmp(old->name, name) != 0)
		old = NULL;
	else
		*slot = f;
	pthread_mutex_unlock(&d->lock);
	file_give(d, old);
}

static int file_take(struct dir *d, struct dir_fs *in, const char *name, struct dir_file **out)
{
	struct dir_file *f = file_known(d, in, name);
	int err;

	*out = f;
	if (f != NULL) return 0;
	f = calloc(1, sizeof(*f));
	if (f == NULL) return -GRANARY_ENOMEM;
	err = fs_open(in->fs, name, FS_READ | FS_DIRECT, &f->file);
	if (err < 0) {
		free(f);
		return err;
	}
	snprintf(f->name, sizeof(f->name), "%s", name);
	f->opened_ns = clock_mono_ns();
	f->refs = 2; /* the table's and the caller's */
	file_set(d, in, name, f);
	*out = f;
	return 0;
}

static int late(uint64_t deadline_ns)
{
	return clock_mono_ns() >= deadline_ns ? -GRANARY_ETIMEDOUT : 0;
}

static bool name_ok(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len <= COLD_NAME_MAX && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-/") == len;
}

/* Every folder above name; the path of each is synced into the one above it. */
static int folders_make(struct fs *fs, const char *name)
{
	char path[COLD_NAME_MAX + 1], above[COLD_NAME_MAX + 1] = "";

	for (const char *slash = strchr(name, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		int err;

		snprintf(path, sizeof(path), "%.*s", (int)(slash - name), name);
		err = fs_mkdir(fs, path);
		if (err < 0 && err != -GRANARY_EEXIST) return err;
		err = fs_sync_dir(fs, above);
		if (err < 0) return err;
		memcpy(above, path, sizeof(above));
	}
	return 0;
}

/* ---- putting ---- */

static void put_free(struct dir_put *p, int err)
{
	fs_close(&p->file);
	(void)dir_give(p->dir, p->in, err);
	free(p->piece);
	free(p);
}

static void part_name(const struct dir_put *p, char out[COLD_NAME_MAX + 8])
{
	snprintf(out, COLD_NAME_MAX + 8, "%s.part", p->name);
}

static int dir_put_begin(
	struct cold *cold, const char *name, uint64_t len_max, uint64_t deadline_ns, struct cold_put **out)
{
	struct dir *d = (struct dir *)cold;
	struct dir_put *p = name_ok(name) ? calloc(1, sizeof(*p)) : NULL;
	char part[COLD_NAME_MAX + 8];
	uint64_t total, available;
	int err;

	*out = NULL;
	if (p == NULL) return name_ok(name) ? -GRANARY_ENOMEM : -GRANARY_EINVAL;
	p->put.ops = cold->ops;
	p->dir = d;
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->piece = aligned_alloc(ALIGN, PIECE);
	err = p->piece != NULL ? late(deadline_ns) : -GRANARY_ENOMEM;
	if (err == 0) err = dir_take(d, &p->in);
	if (err < 0) {
		free(p->piece);
		free(p);
		return err;
	}
	err = fs_space(p->in->fs, &total, &available);
	if (err == 0 && available < len_max) err = -GRANARY_ENOSPACE;
	if (err == 0) err = folders_make(p->in->fs, name);
	part_name(p, part);
	if (err == 0) {
		(void)fs_unlink(p->in->fs, part);
		err = fs_open(p->in->fs, part, FS_CREATE_NEW | FS_DIRECT, &p->file);
	}
	if (err < 0) {
		put_free(p, err);
		return err;
	}
	*out = &p->put;
	return 0;
}

/* Whole pieces; the last one is padded, and cut when the file is finished. */
static int piece_write(struct dir_put *p)
{
	size_t len = (p->filled + ALIGN - 1) & ~(size_t)(ALIGN - 1);
	int err;

	memset(p->piece + p->filled, 0, len - p->filled);
	err = fs_write(p->file, p->piece, len, p->at);
	p->at += p->filled;
	p->filled = 0;
	return err;
}

static int dir_put_write(struct cold_put *put, const void *buf, size_t len, uint64_t deadline_ns)
{
	struct dir_put *p = (struct dir_put *)put;
	const uint8_t *from = buf;
	int err = late(deadline_ns);

	while (err == 0 && len > 0) {
		size_t n = PIECE - p->filled < len ? PIECE - p->filled : len;

		memcpy(p->piece + p->filled, from, n);
		p->filled += n;
		from += n;
		len -= n;
		if (p->filled == PIECE) err = piece_write(p);
	}
	return err;
}

static void dir_put_abort(struct cold_put **put)
{
	struct dir_put *p = (struct dir_put *)*put;
	char part[COLD_NAME_MAX + 8];

	*put = NULL;
	if (p == NULL) return;
	part_name(p, part);
	fs_close(&p->file);
	(void)fs_unlink(p->in->fs, part);
	put_free(p, 0);
}

static int dir_put_finish(struct cold_put **put, uint64_t deadline_ns)
{
	struct dir_put *p = (struct dir_put *)*put;
	char part[COLD_NAME_MAX + 8], above[COLD_NAME_MAX + 1];
	uint64_t size = p->at + p->filled;
	const char *slash = strrchr(p->name, '/');
	int err = late(deadline_ns);

	part_name(p, part);
	snprintf(above, sizeof(above), "%.*s", slash != NULL ? (int)(slash - p->name) : 0, p->name);
	if (err == 0 && p->filled > 0) err = piece_write(p);
	if (err == 0) err = fs_truncate(p->file, size);
	if (err == 0) err = fs_sync(p->file);
	if (err == 0) err = fs_exists(p->in->fs, p->name);
	if (err == 1) err = -GRANARY_EEXIST;
	if (err == 0) err = fs_rename(p->in->fs, part, p->name);
	if (err == 0) err = fs_sync_dir(p->in->fs, above);
	if (err < 0) {
		dir_put_abort(put);
		return err;
	}
	*put = NULL;
	put_free(p, 0);
	return 0;
}

/* ---- reading ---- */

static int64_t file_read(struct fs_file *f, void *buf, size_t len, uint64_t offset)
{
	uint64_t align = fs_file_align(f), from = offset & ~(align - 1);
	size_t room = (size_t)(((offset + len + align - 1) & ~(align - 1)) - from);
	uint8_t *wide;
	int64_t n;

	if (len == 0) return 0;
	wide = aligned_alloc(ALIGN, (room + ALIGN - 1) & ~(size_t)(ALIGN - 1));
	if (wide == NULL) return -GRANARY_ENOMEM;
	n = fs_read(f, wide, room, from);
	if (n >= 0) {
		uint64_t have = (uint64_t)n > offset - from ? (uint64_t)n - (offset - from) : 0;

		n = (int64_t)(have < len ? have : len);
		memcpy(buf, wide + (offset - from), (size_t)n);
	}
	free(wide);
	return n;
}

static int64_t dir_get(struct cold *cold, const char *name, void *buf, size_t len, uint64_t offset,
	uint64_t deadline_ns)
{
	struct dir *d = (struct dir *)cold;
	struct dir_file *f;
	struct dir_fs *in;
	int64_t n = name_ok(name) ? late(deadline_ns) : -GRANARY_EINVAL;

	if (strchr(name, '/') == NULL) dir_renew(d); /* the mark: of what is at the path now */
	if (n == 0) n = dir_take(d, &in);
	if (n < 0) return n;
	n = file_take(d, in, name, &f);
	if (n == 0) {
		n = file_read(f->file, buf, len, offset);
		if (n < 0) file_set(d, in, name, NULL);
		file_give(d, f);
	}
	(void)dir_give(d, in, n < 0 ? (int)n : 0);
	return n;
}

static int dir_stat(struct cold *cold, const char *name, uint64_t deadline_ns, uint64_t *len)
{
	struct dir *d = (struct dir *)cold;
	struct fs_file *f = NULL;
	struct dir_fs *in;
	int64_t n = name_ok(name) ? late(deadline_ns) : -GRANARY_EINVAL;

	if (n == 0) n = dir_take(d, &in);
	if (n < 0) return (int)n;
	n = fs_open(in->fs, name, FS_READ, &f);
	if (n == 0) n = fs_size(f);
	fs_close(&f);
	*len = n > 0 ? (uint64_t)n : 0;
	return dir_give(d, in, n < 0 ? (int)n : 0);
}

static int dir_remove(struct cold *cold, const char *name, uint64_t deadline_ns)
{
	struct dir *d = (struct dir *)cold;
	const char *slash = strrchr(name, '/');
	char above[COLD_NAME_MAX + 1];
	struct dir_fs *in;
	int err = name_ok(name) ? late(deadline_ns) : -GRANARY_EINVAL;

	if (err == 0) err = dir_take(d, &in);
	if (err < 0) return err;
	snprintf(above, sizeof(above), "%.*s", slash != NULL ? (int)(slash - name) : 0, name);
	file_set(d, in, name, NULL);
	err = fs_unlink(in->fs, name);
	if (err == 0) err = fs_sync_dir(in->fs, above);
	return dir_give(d, in, err == -GRANARY_ENOTFOUND ? 0 : err);
}

/* ---- listing ---- */

struct listing {
	struct fs *fs;
	const char *prefix, *folder;
	uint64_t deadline_ns;
	int (*each)(void *arg, const char *name, uint64_t len);
	void *arg;
	uint32_t depth;
};

static int list_folder(struct listing *l, const char *folder);

static int list_entry(void *arg, const char *entry)
{
	struct listing *l = arg;
	char name[COLD_NAME_MAX + 1];
	const char *folder = l->folder;
	struct fs_file *f = NULL;
	size_t len, prefix = strlen(l->prefix);
	int64_t size;
	int err = late(l->deadline_ns);

	len = (size_t)snprintf(name, sizeof(name), "%s%s%s", folder, *folder != '\0' ? "/" : "", entry);
	if (err < 0 || len >= sizeof(name) || !name_ok(name)) return err;
	if (strncmp(name, l->prefix, len < prefix ? len : prefix) != 0) return 0;
	err = fs_open(l->fs, name, FS_READ, &f);
	size = err == 0 ? fs_size(f) : err;
	fs_close(&f);
	if (err == 0 && size >= 0) return len >= prefix ? l->each(l->arg, name, (uint64_t)size) : 0;
	if (err == -GRANARY_ENOTFOUND) return 0; /* removed meanwhile */
	if (err != -GRANARY_EISDIR || l->depth >= 8) return err < 0 && err != -GRANARY_EISDIR ? err : 0;
	l->depth++;
	err = list_folder(l, name);
	l->depth--;
	l->folder = folder;
	return err;
}

static int list_folder(struct listing *l, const char *folder)
{
	int err;

	l->folder = folder;
	err = fs_list(l->fs, folder, list_entry, l);
	return err == -GRANARY_ENOTFOUND && *folder != '\0' ? 0 : err;
}

static int dir_list(struct cold *cold, const char *prefix, uint64_t deadline_ns,
	int (*each)(void *arg, const char *name, uint64_t len), void *arg)
{
	struct dir *d = (struct dir *)cold;
	struct listing l = { .prefix = prefix, .deadline_ns = deadline_ns, .each = each, .arg = arg };
	struct dir_fs *in;
	int err = late(deadline_ns);

	if (err == 0) err = dir_take(d, &in);
	if (err < 0) return err;
	l.fs = in->fs;
	err = list_folder(&l, "");
	(void)dir_give(d, in, err < 0 ? err : 0);
	return err;
}

/* ---- somebody else's files ---- */

struct source_walk {
	struct dir *dir;
	struct fs *fs;
	const char *prefix;
	uint64_t timeout_ns;
	int (*each)(void *arg, const struct source_object *o);
	void *arg;
	uint32_t depth;
	char path[SOURCE_KEY_MAX + 1];
};

/* The names of one folder, those of folders with a slash behind: their order is the keys'. */
struct source_names {
	char **names;
	uint32_t count, cap;
	struct source_walk *walk;
	size_t len; /* of the folder's path, its slash included */
};

static int source_name(void *arg, const char *entry)
{
	struct source_names *n = arg;
	struct source_walk *w = n->walk;
	size_t len = strlen(entry);
	struct fs_file *f = NULL;
	char **wide;
	int err;

	if (n->len + len + 1 > SOURCE_KEY_MAX) {
		log_warn("a path of a source is longer than %d bytes, it is left out; store='%s' folder='%.200s'",
			SOURCE_KEY_MAX, w->dir->path, w->path);
		return 0;
	}
	memcpy(w->path + n->len, entry, len + 1);
	err = fs_open(w->fs, w->path, FS_READ, &f);
	fs_close(&f);
	if (err == -GRANARY_ENOTFOUND || err == -GRANARY_EINVAL)
		return 0; /* gone meanwhile; a link or a special file */
	if (err < 0 && err != -GRANARY_EISDIR) return err;
	if (n->count == n->cap) {
		uint32_t cap = n->cap > 0 ? 2 * n->cap : 64;

		wide = realloc(n->names, cap * sizeof(*wide));
		if (wide == NULL) return -GRANARY_ENOMEM;
		n->names = wide;
		n->cap = cap;
	}
	n->names[n->count] = malloc(len + 2);
	if (n->names[n->count] == NULL) return -GRANARY_ENOMEM;
	snprintf(n->names[n->count++], len + 2, "%s%s", entry, err < 0 ? "/" : "");
	return 0;
}

static int names_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool tag_of(struct fs_file *f, uint64_t len, char out[SOURCE_TAG_MAX])
{
	uint64_t identity = fs_identity(f);

	snprintf(out, SOURCE_TAG_MAX, "%016llx-%llx", (unsigned long long)identity, (unsigned long long)len);
	return identity != 0;
}

static int source_file(struct source_walk *w)
{
	struct source_object o = { .key = w->path };
	char tag[SOURCE_TAG_MAX];
	struct fs_file *f = NULL;
	int64_t size;
	int err = fs_open(w->fs, w->path, FS_READ, &f);

	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	size = fs_size(f);
	if (size >= 0 && !tag_of(f, (uint64_t)size, tag)) size = -GRANARY_EUNSUPPORTED;
	fs_close(&f);
	if (size < 0) return (int)size;
	o.len = (uint64_t)size;
	o.tag = tag;
	return w->each(w->arg, &o);
}

static int source_folder(struct source_walk *w)
{
	struct source_names n = { .walk = w, .len = strlen(w->path) };
	size_t prefix = strlen(w->prefix);
	char folder[SOURCE_KEY_MAX + 1];
	int err;

	snprintf(folder, sizeof(folder), "%.*s", n.len > 0 ? (int)n.len - 1 : 0, w->path);
	err = w->depth < 64 ? fs_list(w->fs, folder, source_name, &n) : -GRANARY_ETOOBIG;
	if (err == -GRANARY_ENOTFOUND && n.len > 0) err = 0;
	if (n.count > 0) qsort(n.names, n.count, sizeof(n.names[0]), names_compare);
	for (uint32_t i = 0; err == 0 && i < n.count; i++) {
		size_t len = n.len + strlen(n.names[i]);

		snprintf(w->path + n.len, sizeof(w->path) - n.len, "%s", n.names[i]);
		if (strncmp(w->path, w->prefix, len < prefix ? len : prefix) != 0) continue;
		w->depth++;
		if (w->path[len - 1] == '/')
			err = source_folder(w);
		else if (len >= prefix)
			err = source_file(w);
		w->depth--;
	}
	for (uint32_t i = 0; i < n.count; i++) free(n.names[i]);
	free(n.names);
	w->path[n.len] = '\0';
	return err;
}

static int dir_source_list(struct cold *cold, const char *prefix, uint64_t timeout_ns,
	int (*each)(void *arg, const struct source_object *o), void *arg)
{
	struct dir *d = (struct dir *)cold;
	struct source_walk w = { .dir = d, .prefix = prefix, .timeout_ns = timeout_ns, .each = each, .arg = arg };
	struct dir_fs *in;
	int err;

	dir_renew(d);
	err = dir_take(d, &in);
	if (err < 0) return err;
	w.fs = in->fs;
	err = source_folder(&w);
	(void)dir_give(d, in, err < 0 ? err : 0);
	return err;
}

/* The tag is asked for before and after: a file that somebody writes to meanwhile is none of ours. */
static int dir_source_get(struct cold *cold, const char *key, const char *tag, void *buf, size_t len, uint64_t offset,
	uint64_t deadline_ns)
{
	struct dir *d = (struct dir *)cold;
	char have[SOURCE_TAG_MAX];
	struct fs_file *f = NULL;
	struct dir_fs *in;
	int64_t n = late(deadline_ns), size = 0;

	if (n == 0) n = dir_take(d, &in);
	if (n < 0) return (int)n;
	n = fs_open(in->fs, key, FS_READ, &f);
	for (int look = 0; n >= 0 && look < 2; look++) {
		size = fs_size(f);
		if (size < 0)
			n = size;
		else if (!tag_of(f, (uint64_t)size, have) || strcmp(have, tag) != 0)
			n = -GRANARY_ESOURCE;
		else if (look == 0)
			n = file_read(f, buf, len, offset);
	}
	fs_close(&f);
	if (n >= 0 && (size_t)n < len) n = -GRANARY_ESOURCE;
	if (n == -GRANARY_ENOTFOUND || n == -GRANARY_EISDIR || n == -GRANARY_ENOTDIR) n = -GRANARY_ESOURCE;
	(void)dir_give(d, in, n == -GRANARY_ESOURCE ? -GRANARY_ENOTFOUND : n < 0 ? (int)n : 0);
	return n < 0 ? (int)n : 0;
}

static int dir_space(struct cold *cold, uint64_t *total, uint64_t *available)
{
	struct dir *d = (struct dir *)cold;
	struct dir_fs *in;
	int err = dir_take(d, &in);

	if (err < 0) return err;
	return dir_give(d, in, fs_space(in->fs, total, available));
}

/* ---- opening ---- */

static void dir_close(struct cold *cold)
{
	struct dir *d = (struct dir *)cold;

	if (d->now != NULL) unref(d->now, 1);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static const struct cold_ops dir_ops = {
	.close = dir_close,
	.put_begin = dir_put_begin,
	.put_write = dir_put_write,
	.put_finish = dir_put_finish,
	.put_abort = dir_put_abort,
	.get = dir_get,
	.stat = dir_stat,
	.remove = dir_remove,
	.list = dir_list,
	.space = dir_space,
	.source_list = dir_source_list,
	.source_get = dir_source_get,
};

static int dir_open(
	const struct store_settings *s, const struct cold_env *env, struct cold **out, char *why, size_t why_cap)
{
	struct dir *d = calloc(1, sizeof(*d));
	bool given;

	*out = NULL;
	if (d == NULL) return -GRANARY_ENOMEM;
	given = store_setting(s, "path", d->path, sizeof(d->path));
	if (!given || d->path[0] != '/' || strlen(d->path) >= sizeof(d->path) - 1) {
		snprintf(why, why_cap, "path: '%.64s' is no path of a directory: absolute, up to %d bytes", d->path,
			PATH_LEN_MAX - 2);
		free(d);
		return -GRANARY_ECONFIG;
	}
	d->cold.ops = &dir_ops;
	if (env != NULL) d->env = *env;
	snprintf(d->cold.where, sizeof(d->cold.where), "%.500s", d->path);
	pthread_mutex_init(&d->lock, NULL);
	*out = &d->cold;
	return 0;
}

static const char *const dir_fields[] = { "path", NULL };
const struct cold_type cold_directory = { .type = "directory", .fields = dir_fields, .open = dir_open };
