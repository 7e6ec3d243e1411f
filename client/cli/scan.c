/* SPDX-License-Identifier: Apache-2.0 */
/* scan.c -- walks local directories with as few system calls as there can be: open, getdents and close a directory,
 * and none for a file (what it is comes with its name; its size and time when it is opened to be read).
 *
 * Order: directory by directory, files before the directories below, each by name; names are compared by the part up
 * to the first dot and only then by the rest, so that 0001.jpg and 0001.json are neighbours. Shuffled: groups of equal
 * stems change places, their members stay together. */
#include "scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/name.h"
#include "common/rand.h"

enum { DENTS_SIZE = 64 * 1024, WARNINGS_MAX = 10 };

struct listing { /* of one directory */
	struct entry {
		const char *name;
		uint16_t name_len, stem_len;
		bool is_link;
	} * files, *dirs;
	size_t files_count, dirs_count, files_cap, dirs_cap;
	bool empty;
};

int scan_open(struct scan *s, struct scan_root *roots, size_t count)
{
	memset(s, 0, sizeof(*s));
	s->roots = roots;
	s->roots_count = count;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->grew, NULL);
	for (size_t i = 0; i < count; i++) roots[i].fd = -1;
	for (size_t i = 0; i < count; i++) {
		roots[i].fd = open(roots[i].path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (roots[i].fd < 0) {
			int code = fail_errno(
				errno, "cannot open directory '%s'", shown(roots[i].path));
			scan_close(s);
			return code;
		}
	}
	return CLI_OK;
}

void scan_close(struct scan *s)
{
	scan_wait(s);
	for (size_t i = 0; i < s->roots_count; i++)
		if (s->roots[i].fd >= 0) close(s->roots[i].fd);
	while (s->dirs != NULL) {
		struct scan_dir *next = s->dirs->next;
		free(s->dirs);
		s->dirs = next;
	}
	free(s->files);
	s->files = NULL;
	arena_free(&s->texts);
}

/* ---- one directory ------------------------------------------------------------------------- */

static void listing_add(struct entry **list, size_t *count, size_t *cap, struct entry e)
{
	if (*count == *cap) {
		*cap = *cap == 0 ? 64 : *cap * 2;
		*list = must_alloc(realloc(*list, *cap * sizeof(**list)));
	}
	(*list)[(*count)++] = e;
}

static int compare_bytes(const char *a, size_t a_len, const char *b, size_t b_len)
{
	int order = memcmp(a, b, a_len < b_len ? a_len : b_len);

	return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

static int compare_entries(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;
	int order = compare_bytes(a->name, a->stem_len, b->name, b->stem_len);

	if (order != 0) return order;
	return compare_bytes(a->name + a->stem_len, (size_t)(a->name_len - a->stem_len),
		b->name + b->stem_len, (size_t)(b->name_len - b->stem_len));
}

/* What is behind a name: a directory entry's type, or a look at it where the type is not told or is a link. */
static void scan_entry(
	struct scan *s, struct listing *l, int fd, const char *name, unsigned char type)
{
	size_t len = strlen(name);
	struct entry e = { NULL, (uint16_t)len, (uint16_t)strcspn(name, "."), type == DT_LNK };
	struct stat st;

	if (type == DT_UNKNOWN && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		type = S_ISREG(st.st_mode)   ? DT_REG
		       : S_ISDIR(st.st_mode) ? DT_DIR
		       : S_ISLNK(st.st_mode) ? DT_LNK
					     : DT_SOCK;
		e.is_link = type == DT_LNK;
	}
	if (type == DT_LNK) {
		if (fstatat(fd, name, &st, 0) < 0) {
			s->broken_links++;
			return;
		}
		type = S_ISREG(st.st_mode) ? DT_REG : DT_LNK;
		s->dir_links += S_ISDIR(st.st_mode);
		s->special += !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
		if (type == DT_LNK) return;
	}
	if (type != DT_REG && type != DT_DIR) {
		s->special++;
		return;
	}
	e.name = arena_text(&s->texts, name, len);
	if (type == DT_REG)
		listing_add(&l->files, &l->files_count, &l->files_cap, e);
	else
		listing_add(&l->dirs, &l->dirs_count, &l->dirs_cap, e);
}

static int scan_read(struct scan *s, struct listing *l, const struct scan_dir *dir, char *buf)
{
	int fd = openat(dir->root->fd, dir->path_len == 0 ? "." : dir->path,
		O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t got = 0;

	if (fd < 0) return -1;
	l->empty = true;
	while ((got = getdents64(fd, buf, DENTS_SIZE)) > 0) {
		for (ssize_t at = 0; at < got;) {
			struct dirent64 *d = (void *)(buf + at);
			at += d->d_reclen;
			if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0) continue;
			l->empty = false;
			scan_entry(s, l, fd, d->d_name, d->d_type);
		}
	}
	close(fd);
	return got < 0 ? -1 : 0;
}

/* ---- the walk ------------------------------------------------------------------------------ */

static struct scan_dir *dir_new(struct scan *s, const struct scan_root *root,
	const struct scan_dir *parent, const struct entry *e)
{
	struct scan_dir *d = must_alloc(calloc(1, sizeof(*d)));
	char path[GRANARY_KEY_LEN_MAX + 2] = "";
	int len = 0;

	if (parent != NULL) len = snprintf(path, sizeof(path), "%s%s/", parent->path, e->name);
	d->root = root;
	if (len >= (int)sizeof(path)) {
		free(d);
		return NULL;
	}
	d->path_len = (uint32_t)len;
	d->path = arena_text(&s->texts, path, (size_t)len);
	pthread_mutex_lock(&s->lock);
	d->next = s->dirs;
	s->dirs = d;
	pthread_mutex_unlock(&s->lock);
	return d;
}

static void bad_name(struct scan *s, const struct scan_dir *dir, const char *name, const char *why)
{
	if (s->bad_names++ < WARNINGS_MAX)
		fail(CLI_PARTIAL, "skipping '%s/%s%s': %s", shown(dir->root->path),
			shown(dir->path), shown(name), why);
}

/* Hands the files of one directory to those who wait for them. */
static void scan_publish(struct scan *s, const struct scan_dir *dir, const struct listing *l)
{
	pthread_mutex_lock(&s->lock);
	while (s->count + l->files_count > s->cap) {
		s->cap = s->cap == 0 ? 4096 : s->cap * 2;
		s->files = must_alloc(realloc(s->files, s->cap * sizeof(*s->files)));
	}
	for (size_t i = 0; i < l->files_count; i++) {
		const struct entry *e = &l->files[i];
		if (!utf8_valid(slice_of(e->name, e->name_len))) {
			bad_name(s, dir, e->name, "the name is not UTF-8");
			continue;
		}
		s->files[s->count++] =
			(struct scan_file){ dir, e->name, e->name_len, e->stem_len, e->is_link };
	}
	pthread_cond_broadcast(&s->grew);
	pthread_mutex_unlock(&s->lock);
}

static void scan_directory(struct scan *s, struct scan_dir *dir, char *buf)
{
	struct listing l = { .files = NULL };

	if (scan_read(s, &l, dir, buf) < 0) {
		fail_errno(errno, "cannot read directory '%s/%s'", shown(dir->root->path),
			shown(dir->path));
		s->unreadable++;
	}
	dir->empty = l.empty;
	if (l.files_count > 1) qsort(l.files, l.files_count, sizeof(*l.files), compare_entries);
	if (l.dirs_count > 1) qsort(l.dirs, l.dirs_count, sizeof(*l.dirs), compare_entries);
	if (l.files_count > 0) scan_publish(s, dir, &l);
	free(l.files);
	for (size_t i = 0; i < l.dirs_count; i++) {
		struct scan_dir *sub = NULL;
		if (utf8_valid(slice_of(l.dirs[i].name, l.dirs[i].name_len)))
			sub = dir_new(s, dir->root, dir, &l.dirs[i]);
		if (sub != NULL)
			scan_directory(s, sub, buf);
		else
			bad_name(s, dir, l.dirs[i].name, "the path is too long, or not UTF-8");
	}
	free(l.dirs);
}

static bool same_group(const struct scan_file *a, const struct scan_file *b)
{
	return a->dir == b->dir && a->stem_len == b->stem_len &&
	       memcmp(a->name, b->name, a->stem_len) == 0;
}

/* Groups change places (Fisher-Yates); inside they stay in order. */
static void scan_shuffle(struct scan *s)
{
	struct scan_file *files = must_alloc(malloc((s->count + 1) * sizeof(*files)));
	struct {
		size_t at, len;
	} *groups = must_alloc(malloc((s->count + 1) * sizeof(*groups))), swap;
	size_t count = 0, out = 0;
	struct rng rng;

	for (size_t i = 0; i < s->count; i++) {
		if (i == 0 || !same_group(&s->files[i], &s->files[i - 1])) {
			groups[count].at = i;
			groups[count++].len = 0;
		}
		groups[count - 1].len++;
	}
	rng_seed(&rng, s->seed);
	for (size_t i = count; i > 1; i--) {
		size_t j = (size_t)rng_below(&rng, i);
		swap = groups[i - 1];
		groups[i - 1] = groups[j];
		groups[j] = swap;
	}
	for (size_t i = 0; i < count; i++) {
		memcpy(&files[out], &s->files[groups[i].at], groups[i].len * sizeof(*files));
		out += groups[i].len;
	}
	free(groups);
	free(s->files);
	s->files = files;
	s->cap = s->count + 1;
}

static void *scan_main(void *arg)
{
	struct scan *s = arg;
	char *buf = must_alloc(malloc(DENTS_SIZE));

	for (size_t i = 0; i < s->roots_count; i++)
		scan_directory(s, dir_new(s, &s->roots[i], NULL, NULL), buf);
	free(buf);
	pthread_mutex_lock(&s->lock);
	if (s->shuffled) scan_shuffle(s);
	s->done = true;
	pthread_cond_broadcast(&s->grew);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

void scan_start(struct scan *s)
{
	s->started = pthread_create(&s->thread, NULL, scan_main, s) == 0;
	if (!s->started) scan_main(s);
}

void scan_wait(struct scan *s)
{
	if (s->started) pthread_join(s->thread, NULL);
	s->started = false;
}

uint64_t scan_total(struct scan *s)
{
	uint64_t total;

	pthread_mutex_lock(&s->lock);
	total = s->done ? s->count : 0;
	pthread_mutex_unlock(&s->lock);
	return total;
}

size_t scan_take(struct scan *s, struct scan_file *out, size_t want, size_t max, uint64_t *ticket)
{
	size_t n;

	pthread_mutex_lock(&s->lock);
	while (!s->done && (s->shuffled || s->count - s->taken <= want))
		pthread_cond_wait(&s->grew, &s->lock);
	n = s->count - s->taken;
	if (n > want) {
		n = want;
		while (n < max && s->taken + n < s->count &&
			same_group(&s->files[s->taken + n], &s->files[s->taken + n - 1]))
			n++;
	}
	if (n > 0) {
		memcpy(out, &s->files[s->taken], n * sizeof(*out));
		s->taken += n;
		*ticket = s->tickets++;
	}
	pthread_mutex_unlock(&s->lock);
	return n;
}
