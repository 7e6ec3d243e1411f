/* SPDX-License-Identifier: Apache-2.0 */
/* live_dir.c -- listings of directories.
 *
 * (1) a handle holds one page of the server's at a time, and where each page began: a position is the page's number and
 *     the entry's in it. So a name that is there throughout comes once, whatever is made and removed meanwhile.
 * (2) position 0 begins anew, with what is there then. */
#include "fuse/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DOTS = 2, PAGE_BITS = 10, PAGE_ENTRIES = GRANARY_LIST_MAX };

struct live_dir {
	_Atomic uint32_t refs;
	uint64_t id;
	pthread_mutex_t lock; /* all below */
	struct granary_dir_page *page;
	uint64_t page_number, page_asked;
	char **starts; /* of pages 0..count-1: the name to go on after; NULL: the first */
	uint64_t count;
};

static struct live_dir *dir_of(uint64_t fh) { return (struct live_dir *)(uintptr_t)fh; }

static void pages_drop(struct live_dir *d)
{
	granary_free(d->page);
	d->page = NULL;
	for (uint64_t i = 0; i < d->count; i++) free(d->starts[i]);
	free(d->starts);
	d->starts = NULL;
	d->count = 0;
}

void dir_pin(struct live_dir *d) { atomic_fetch_add(&d->refs, 1); }

void dir_put(struct live_dir *d)
{
	if (atomic_fetch_sub(&d->refs, 1) > 1) return;
	pages_drop(d);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static void dir_undo(struct job *j) { dir_put(j->undo_arg); }

int live_opendir(struct job *j)
{
	struct live_dir *d = calloc(1, sizeof(*d));
	struct fuse_open_out out = { .fh = (uintptr_t)d };

	if (!d) return -ENOMEM;
	d->refs = 1;
	d->id = node_object(j->live, j->node);
	pthread_mutex_init(&d->lock, NULL);
	j->undo = dir_undo;
	j->undo_arg = d;
	return job_out(j, &out, sizeof(out));
}

int live_releasedir(struct job *j)
{
	struct fuse_release_in in;

	memcpy(&in, j->arg, sizeof(in));
	dir_put(dir_of(in.fh));
	return 0;
}

static int start_add(struct live_dir *d, const char *name)
{
	char **starts = realloc(d->starts, (d->count + 1) * sizeof(*starts));
	char *copy = name ? strdup(name) : NULL;

	if (starts) d->starts = starts;
	if (!starts || (name && !copy)) {
		free(copy);
		return -ENOMEM;
	}
	d->starts[d->count++] = copy;
	return 0;
}

/* Page `number` is in d->page; -ENOENT: there is none. Locked. */
static int page_get(struct job *j, struct live_dir *d, uint64_t number)
{
	int err = d->count == 0 ? start_add(d, NULL) : 0;

	if (err < 0 || (d->page && d->page_number == number)) return err;
	if (number >= d->count) return -ENOENT;
	struct granary_dir_page *page;
	struct granary_call call = live_call(j, false);
	uint64_t asked = live_asks(j->live);
	err = granary_readdir(j->live->client, d->id, d->starts[number], PAGE_ENTRIES, &page, &call);
	if (err == -GRANARY_ESTALE) return -ENOENT; /* removed while it was open: nothing is in it */
	if (err < 0) return live_errno(err);
	granary_free(d->page);
	d->page = page;
	d->page_number = number;
	d->page_asked = asked;
	return page->more && number + 1 == d->count ? start_add(d, page->next) : 0;
}

/* ---- entries ---- */

struct listing {
	struct job *job;
	size_t room;
	bool plus;
	uint64_t asked; /* live_asks() of the page */
};

static bool entry_put(struct listing *s, const char *name, const struct granary_dir_entry *e, uint64_t ino,
	uint32_t type, uint64_t next)
{
	struct job *j = s->job;
	size_t head = s->plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET, len = strlen(name);
	size_t size = FUSE_DIRENT_ALIGN(head + len);
	struct fuse_dirent dirent = { .ino = ino, .off = next, .namelen = (uint32_t)len, .type = type };

	if (j->lent_len + size > s->room) return false;
	uint8_t *at = j->lent + j->lent_len;
	memset(at, 0, size);
	if (s->plus) {
		struct fuse_entry_out out = { .nodeid = 0 };
		struct live_node *n = e ? node_learn(j->live, e->stat.dir_id, name, &e->stat, &e->inode, 1, s->asked)
				: NULL;
		if (n) node_entry(j->live, n, &out);
		node_put(j->live, n);
		memcpy(at, &out, sizeof(out));
		at += sizeof(out);
	}
	memcpy(at, &dirent, FUSE_NAME_OFFSET);
	memcpy(at + FUSE_NAME_OFFSET, name, len);
	j->lent_len += size;
	return true;
}

/* Nobody got the answer: what it would have looked up. */
static void listing_undo(struct job *j)
{
	(void)j; /* its buffer is gone: the nodes stay until they are looked up and forgotten, or the mount ends */
}

static uint32_t type_of(uint32_t kind)
{
	switch (kind) {
	case GRANARY_DIR: return S_IFDIR >> 12;
	case GRANARY_SYMLINK: return S_IFLNK >> 12;
	case GRANARY_FIFO: return S_IFIFO >> 12;
	case GRANARY_SOCKET: return S_IFSOCK >> 12;
	case GRANARY_CHAR: return S_IFCHR >> 12;
	case GRANARY_BLOCK: return S_IFBLK >> 12;
	default: return S_IFREG >> 12;
	}
}

static bool is_shown(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len <= LIVE_NAME_MAX && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int entries_list(struct listing *s, struct live_dir *d, uint64_t offset)
{
	struct job *j = s->job;
	uint64_t at = offset - DOTS, number = at >> PAGE_BITS, i = at & ((1 << PAGE_BITS) - 1);
	int err = 0;

	for (;; number++, i = 0) {
		err = page_get(j, d, number);
		if (err < 0) break;
		s->asked = d->page_asked;
		for (; i < d->page->count; i++) {
			const struct granary_dir_entry *e = &d->page->entries[i];
			uint64_t next = i + 1 < d->page->count ? (number << PAGE_BITS) + i + 1
							       : (number + 1) << PAGE_BITS;
			if (is_shown(e->name) && !entry_put(s, e->name, e, e->stat.object_id, type_of(e->stat.kind),
							 next + DOTS))
				return 0;
		}
		if (!d->page->more) return 0;
	}
	return err == -ENOENT || j->lent_len > 0 ? 0 : err;
}

static uint64_t parent_of(struct live *l, uint64_t number)
{
	struct live_node *n = node_get(l, number);
	uint64_t parent = n && n->parent ? n->parent : l->root;

	node_put(l, n);
	return parent;
}

int live_readdir(struct job *j)
{
	struct fuse_read_in in;
	struct listing s = { .job = j, .plus = j->opcode == FUSE_READDIRPLUS };
	bool room = true;
	int err = 0;

	memcpy(&in, j->arg, sizeof(in));
	struct live_dir *d = dir_of(in.fh);
	s.room = in.size < LIVE_BUFFER ? in.size : LIVE_BUFFER;
	j->lent = live_buffer_get(j->live);
	if (!j->lent) return -ENOMEM;
	j->undo = listing_undo;
	pthread_mutex_lock(&d->lock);
	if (in.offset == 0) {
		pages_drop(d); /* invariant (2) */
		err = live_settle_dir(j, d->id);
	}
	if (in.offset < 1) room = entry_put(&s, ".", NULL, d->id, S_IFDIR >> 12, 1);
	if (room && in.offset < DOTS)
		room = entry_put(&s, "..", NULL, parent_of(j->live, j->node), S_IFDIR >> 12, DOTS);
	if (err == 0 && room) err = entries_list(&s, d, in.offset > DOTS ? in.offset : DOTS);
	pthread_mutex_unlock(&d->lock);
	return err;
}
