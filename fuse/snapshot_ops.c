/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_ops.c -- what a mounted snapshot answers. It never changes, so the kernel may keep names, attributes and
 * bytes for ever, opens nothing by request, and everything that would change it is refused. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fuse/control.h"
#include "fuse/live.h"
#include "fuse/snapshot.h"
#include "fuse/watch.h"

#define FOR_EVER (UINT64_C(1) << 40) /* seconds that the kernel may keep a name or attributes */
enum { TRIES_MAX = 16, BLOCK = 512, DOTS = 2 /* positions of . and .. */ };

struct waiting {
	struct fetch_job job;
	struct mount *mount;
	struct request *request; /* NULL: answered, because it was interrupted */
	mount_answer_fn *answer;
	struct waiting *next, **at;
	uint32_t tries;
};

/* ---- attributes ---- */

static void attr_fill(const struct mount *m, const struct node *n, struct fuse_attr *a)
{
	const struct options *o = m->options;

	*a = (struct fuse_attr){ .ino = n->number,
		.size = n->size,
		.blocks = (n->size + BLOCK - 1) / BLOCK,
		.atime = m->time_ns / 1000000000,
		.mtime = m->time_ns / 1000000000,
		.ctime = m->time_ns / 1000000000,
		.atimensec = (uint32_t)(m->time_ns % 1000000000),
		.mtimensec = (uint32_t)(m->time_ns % 1000000000),
		.ctimensec = (uint32_t)(m->time_ns % 1000000000),
		.nlink = 1,
		.uid = options_uid(o),
		.gid = options_gid(o),
		.blksize = KERNEL_PAGE };
	a->mode = (n->is_dir ? S_IFDIR | 0555 : S_IFREG | 0444) & ~o->umask;
}

static struct fuse_entry_out entry_of(const struct mount *m, const struct node *n)
{
	struct fuse_entry_out e = { .nodeid = n->number, .entry_valid = FOR_EVER, .attr_valid = FOR_EVER };

	attr_fill(m, n, &e.attr);
	return e;
}

static int answer(struct request *r, const void *bytes, size_t len)
{
	if (len > r->out_cap) return -EIO;
	memcpy(r->out, bytes, len);
	r->out_len = len;
	return 0;
}

static int do_lookup(struct mount *m, struct request *r)
{
	struct node n;
	int err = tree_lookup(&m->tree, r->node, r->name, r->name_len, &n);

	if (err == -ENOENT) { /* it will never be there: an entry without a node says so for ever */
		struct fuse_entry_out none = { .entry_valid = FOR_EVER };
		r->log.absent = true;
		return answer(r, &none, sizeof(none));
	}
	if (err < 0) return err;
	struct fuse_entry_out e = entry_of(m, &n);
	return answer(r, &e, sizeof(e));
}

static int do_getattr(struct mount *m, struct request *r)
{
	struct fuse_attr_out out = { .attr_valid = FOR_EVER };
	struct node n;
	int err = tree_get(&m->tree, r->node, &n);

	if (err < 0) return err;
	attr_fill(m, &n, &out.attr);
	return answer(r, &out, sizeof(out));
}

static int do_statfs(struct mount *m, struct request *r)
{
	struct fuse_statfs_out out = { .st = { .blocks = m->tree.bytes / KERNEL_PAGE + 1,
					       .files = m->tree.names,
					       .bsize = KERNEL_PAGE,
					       .frsize = KERNEL_PAGE,
					       .namelen = TREE_NAME_MAX } };

	return answer(r, &out, sizeof(out));
}

/* ---- directories ---- */

struct dir_out {
	struct mount *mount;
	struct request *request;
	size_t room;
	bool plus;
};

static bool dirent_put(
	struct dir_out *d, const char *name, size_t len, const struct node *n, uint64_t next, bool dots)
{
	struct request *r = d->request;
	size_t head = d->plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
	size_t size = FUSE_DIRENT_ALIGN(head + len);
	struct fuse_dirent e = { .ino = n->number,
		.off = next,
		.namelen = (uint32_t)len,
		.type = n->is_dir ? S_IFDIR >> 12 : S_IFREG >> 12 };

	if (r->out_len + size > d->room) return false;
	uint8_t *at = r->out + r->out_len;
	memset(at, 0, size);
	if (d->plus) {
		struct fuse_entry_out entry = entry_of(d->mount, n);
		if (dots) entry.nodeid = 0; /* the kernel takes no entry for these */
		memcpy(at, &entry, sizeof(entry));
		at += sizeof(entry);
	}
	memcpy(at, &e, FUSE_NAME_OFFSET);
	memcpy(at + FUSE_NAME_OFFSET, name, len);
	r->out_len += size;
	return true;
}

static bool dir_entry(void *arg, const char *name, size_t len, const struct node *node, uint64_t next)
{
	return dirent_put(arg, name, len, node, next + DOTS, false);
}

static int do_readdir(struct mount *m, struct request *r)
{
	const struct fuse_read_in *in = r->arg;
	struct dir_out d = { m, r, in->size < r->out_cap ? in->size : r->out_cap, r->opcode == FUSE_READDIRPLUS };
	struct node self = { .number = r->node, .is_dir = true };
	bool room = true;

	if (!tree_is_dir(r->node)) return -ENOTDIR;
	if (in->offset < 1) room = dirent_put(&d, ".", 1, &self, 1, true);
	if (room && in->offset < DOTS) room = dirent_put(&d, "..", 2, &self, DOTS, true);
	if (!room) return 0;
	int err = tree_list(&m->tree, r->node, in->offset > DOTS ? in->offset - DOTS : 0, d.plus, dir_entry, &d);
	return r->out_len > 0 ? 0 : err;
}

/* ---- reading ---- */

/* What is wanted of the cache from `at` on; `more` of the file is left behind it. 1: the byte is not here. */
static int read_part(struct mount *m, struct request *r, uint64_t at, size_t want, size_t *took, bool *more)
{
	struct cache_view view;
	uint64_t id, row;
	uint32_t field;
	bool small = want <= CACHE_COPY_MAX;

	if (!tree_row(&m->tree, r->node, &id, &field)) return -EISDIR;
	row = id * m->tree.fields + field;
	*took = small ? cache_copy(m->cache, row, at, r->out + r->out_len, want, &view) : 0;
	if (small ? *took == 0 : !cache_find(m->cache, row, at, &view)) return 1;
	if (view.first) fetch_seen(m->fetch, id, field, &view);
	*more = view.offset + view.size < view.file_size;
	if (small) return 0;
	uint64_t left = view.offset + view.size - at;
	*took = left < want ? (size_t)left : want;
	if (r->out_len == 0 && (*took == want || !*more)) { /* all of it in one place: it is not copied */
		r->lent = view.data + (at - view.offset);
		r->lent_len = *took;
		r->lender = view.block;
		return 0;
	}
	memcpy(r->out + r->out_len, view.data + (at - view.offset), *took);
	cache_put(m->cache, view.block);
	return 0;
}

/* The answer from what is in the cache. 1: the byte at *missing is not. */
static int read_from_cache(struct mount *m, struct request *r, uint64_t *missing)
{
	const struct fuse_read_in *in = r->arg;
	size_t want = in->size < r->out_cap ? in->size : r->out_cap, took = 0;
	bool more = true;
	struct node n;

	r->out_len = 0;
	while (more && r->out_len < want && !r->lender) {
		uint64_t at = in->offset + r->out_len;
		int err = read_part(m, r, at, want - r->out_len, &took, &more);
		if (err < 0) return err;
		if (err == 1) {
			err = tree_get(&m->tree, r->node, &n);
			*missing = at;
			return err < 0 ? err : at < n.size;
		}
		if (!r->lender) r->out_len += took;
	}
	return 0;
}

/* ---- reads that failed ---- */

#define FAILED_NS UINT64_C(1000000000)

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* A read ahead that failed is followed by one of the page itself: without this, who reads would wait for the deadline
 * twice. */
static void failure_keep(struct mount *m, uint64_t node, int error)
{
	pthread_mutex_lock(&m->lock);
	m->failures[node % MOUNT_FAILURES] = (struct mount_failure){ node, now_ns() + FAILED_NS, error };
	pthread_mutex_unlock(&m->lock);
}

/* What a READ of a node came to less than a second ago; 0: nothing bad. */
static int failure_of(struct mount *m, uint64_t node)
{
	pthread_mutex_lock(&m->lock);
	struct mount_failure f = m->failures[node % MOUNT_FAILURES];
	pthread_mutex_unlock(&m->lock);
	return f.node == node && f.error < 0 && now_ns() < f.until_ns ? f.error : 0;
}

/* ---- reads that wait ---- */

static void waiting_remove(struct waiting *w)
{
	*w->at = w->next;
	if (w->next) w->next->at = w->at;
}

static void waiting_start(struct waiting *w, uint64_t offset);

static void read_fetched(struct fetch_job *job, int error)
{
	struct waiting *w = (struct waiting *)job;
	struct mount *m = w->mount;
	uint64_t missing = 0;

	pthread_mutex_lock(&m->lock);
	waiting_remove(w);
	struct request *r = w->request;
	pthread_mutex_unlock(&m->lock);
	if (r) {
		int err = error < 0 ? error : read_from_cache(m, r, &missing);
		if (err == 1 && w->tries++ < TRIES_MAX) {
			waiting_start(w, missing);
			return;
		}
		r->error = err > 0 ? -EIO : err; /* the cache is too small to hold what one READ wants */
		if (r->error < 0) failure_keep(m, r->node, r->error);
		w->answer(r);
	}
	free(w);
}

static void waiting_start(struct waiting *w, uint64_t offset)
{
	struct mount *m = w->mount;

	w->job.offset = offset;
	pthread_mutex_lock(&m->lock);
	w->next = m->waiting;
	w->at = &m->waiting;
	if (w->next) w->next->at = &w->next;
	m->waiting = w;
	pthread_mutex_unlock(&m->lock);
	fetch_start(m->fetch, &w->job);
}

/* false: it waits for its bytes. */
static bool do_read(struct mount *m, struct request *r, mount_answer_fn *answer_fn)
{
	uint64_t missing;
	int err = read_from_cache(m, r, &missing);

	if (err != 1) {
		r->error = err;
		return true;
	}
	r->error = failure_of(m, r->node);
	if (r->error < 0) return true;
	struct waiting *w = calloc(1, sizeof(*w));
	if (!w) {
		r->error = -ENOMEM;
		return true;
	}
	watch_waits(r);
	w->mount = m;
	w->request = r;
	w->answer = answer_fn;
	w->job.done = read_fetched;
	tree_row(&m->tree, r->node, &w->job.id, &w->job.field);
	waiting_start(w, missing);
	return false;
}

/* The process that waits got a signal: its READ ends now, what was asked of the server comes into the cache. */
static void do_interrupt(struct mount *m, const struct request *r)
{
	const struct fuse_interrupt_in *in = r->arg;
	struct request *found = NULL;
	mount_answer_fn *answer_fn = NULL;

	pthread_mutex_lock(&m->lock);
	for (struct waiting *w = m->waiting; w && !found; w = w->next)
		if (w->request && w->request->unique == in->unique) {
			found = w->request;
			answer_fn = w->answer;
			w->request = NULL;
		}
	pthread_mutex_unlock(&m->lock);
	if (!found) return;
	found->error = -EINTR;
	answer_fn(found);
}

/* ---- all of them ---- */

static int do_init(struct mount *m, struct request *r)
{
	struct fuse_init_in in = { .major = 0 };
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION };
	uint64_t can, want = FUSE_ASYNC_READ | FUSE_DO_READDIRPLUS | FUSE_PARALLEL_DIROPS |
			     FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT | FUSE_MAX_PAGES | FUSE_INIT_EXT |
			     FUSE_EXPLICIT_INVAL_DATA | FUSE_ABORT_ERROR | (m->use_rings ? KERNEL_OVER_IO_URING : 0) |
			     (m->direct ? KERNEL_DIRECT_MMAP : 0);

	memcpy(&in, r->rest, r->rest_len < sizeof(in) ? r->rest_len : sizeof(in));
	if (in.major != FUSE_KERNEL_VERSION || in.minor < 36) return -EPROTO; /* Linux 5.17 */
	can = in.flags | (uint64_t)in.flags2 << 32;
	want &= can;
	m->use_rings = (want & KERNEL_OVER_IO_URING) != 0;
	m->direct = (want & KERNEL_DIRECT_MMAP) != 0;
	out.flags = (uint32_t)want;
	out.flags2 = (uint32_t)(want >> 32);
	out.max_readahead = m->read_max;
	out.max_background = 64;
	out.congestion_threshold = 48;
	out.max_write = KERNEL_PAGE;
	out.time_gran = 1;
	out.max_pages = (uint16_t)(m->read_max / KERNEL_PAGE);
	return answer(r, &out, sizeof(out));
}

/* Without an answer to OPEN the kernel asks no more, and keeps what was read; with one, it does as that says. */
static int do_open(const struct mount *m, struct request *r)
{
	struct fuse_open_out out = { .open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH };

	return m->direct ? answer(r, &out, sizeof(out)) : -ENOSYS;
}

static int handle_now(struct mount *m, struct request *r)
{
	switch (r->opcode) {
	case FUSE_INIT: return do_init(m, r);
	case FUSE_LOOKUP: return do_lookup(m, r);
	case FUSE_GETATTR: return do_getattr(m, r);
	case FUSE_READDIR:
	case FUSE_READDIRPLUS: return do_readdir(m, r);
	case FUSE_STATFS: return do_statfs(m, r);
	case FUSE_OPEN: return do_open(m, r);
	case FUSE_GETXATTR: return snapshot_getxattr(m, r);
	case FUSE_LISTXATTR: return snapshot_listxattr(m, r);
	case FUSE_INTERRUPT: do_interrupt(m, r); return 0;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_DESTROY:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR: return 0;
	case FUSE_SETATTR:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
	case FUSE_WRITE:
	case FUSE_CREATE:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_FALLOCATE:
	case FUSE_COPY_FILE_RANGE:
	case FUSE_TMPFILE: return -EROFS;
	default:
		/* OPENDIR, FLUSH, ACCESS, LSEEK and what is not known: the kernel does it by itself, and
		 * asks no more. */
		return -ENOSYS;
	}
}

bool mount_handle(struct mount *m, struct request *r, mount_answer_fn *answer_fn)
{
	watch_begin(m->watch, r);
	if (control_handle(m->control, r)) return true;
	if (m->live) return live_handle_request(m->live, r, answer_fn);
	if (r->opcode == FUSE_READ) return do_read(m, r, answer_fn);
	r->error = handle_now(m, r);
	return true;
}

void mount_answered(struct mount *m, struct request *r)
{
	watch_end(m->watch, r);
	if (m->live && r->lender)
		live_buffer_put(m->live, r->lender);
	else if (r->lender)
		cache_put(m->cache, r->lender);
	r->lender = NULL;
}
